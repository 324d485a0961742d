"""The truth of the synthetic source against a second route: pictures, depth, projection, contact."""

import numpy as np
import pytest

from ops.config import RawVideosConfig
from ops.geometry import transforms
from ops.rejects import ClipError, Reason
from ops.sources import scene_hands, scene_objects, synthetic
from ops.sources.base import sampled_frames
from ops.sources.scene_motion import plan_scene
from ops.sources.scene_render import HAND_LABELS, pictures
from tests.conftest import TINY

SIZE = (448, 336)


@pytest.fixture(scope="module")
def scenes(hand_models):
    return {seed: plan_scene(hand_models, SIZE, 10.0, 24, seed % 2 == 1, (3, seed)) for seed in range(3)}


@pytest.fixture(scope="module")
def shots(scenes):
    """Every sixth frame of each scene: (scene, frame, picture)."""
    out = []
    for seed, scene in scenes.items():
        out += [(scene, p.index, p) for p in pictures(scene, (3, seed), range(24)) if p.index % 6 == 0]
    return out


@pytest.fixture(scope="module")
def clips(tiny_clips, tiny_shard):
    from dataclasses import replace

    shard = replace(tiny_shard, root=str(tiny_clips / tiny_shard.root))
    folder = tiny_clips / tiny_shard.root
    return [synthetic.read_clip(video, shard, RawVideosConfig()) for video in synthetic.list_videos(folder)]


def to_cam(scene, frame, points_world):
    return transforms.apply(scene.T_cam_world[frame], points_world)


def joints_cam(scene, side, frame):
    hand, R = scene.hands[side], scene.R_world_wrist[side][frame]
    r = transforms.rotmat_to_rotvec(scene.T_cam_world[frame][:3, :3] @ R)[None]
    tau = to_cam(scene, frame, scene.wrist_world[side][frame])[None]
    return hand.model.joints(scene.theta[side][frame : frame + 1], r, tau, hand.beta)[0]


def test_truth_joints_land_in_the_hand(shots):
    """Joints lie inside the skin: where nothing hides them, they project onto pixels of their own hand."""
    inside = total = 0
    for scene, frame, picture in shots:
        for side in scene.hands:
            joints = joints_cam(scene, side, frame)
            px = scene.camera.project(joints)
            # without the wrist: it lies on the open edge of the mesh, where the forearm (no part of the hand) goes on
            for joint, (u, v) in zip(joints[1:], px[1:], strict=True):
                if not (2 <= u < SIZE[0] - 2 and 2 <= v < SIZE[1] - 2):
                    continue
                seen = picture.depth_m[int(v), int(u)]
                if not seen > joint[2] - 0.025:  # something stands in front
                    continue
                total += 1
                patch = picture.labels[int(v) - 1 : int(v) + 2, int(u) - 1 : int(u) + 2]
                inside += bool((patch == HAND_LABELS[side]).any())
    assert total > 100
    assert inside == total, f"{inside} of {total}"


def test_depth_at_hand_pixels_lies_on_the_mesh(shots):
    """Back-projected hand pixels are on the HandModel's own surface: depth, pose, intrinsics and mesh agree."""
    distances = []
    for scene, frame, picture in shots:
        for side, hand in scene.hands.items():
            v, u = np.nonzero(picture.labels == HAND_LABELS[side])
            if len(v) < 50:
                continue
            pick = np.linspace(0, len(v) - 1, 40).astype(int)
            v, u = v[pick], u[pick]
            points = scene.camera.unproject(np.stack([u + 0.5, v + 0.5], 1), picture.depth_m[v, u])
            mesh = to_cam(scene, frame, scene.vertices_world[side][frame])[hand.model.faces]
            distances += [_distance_to_triangles(point, mesh) for point in points]
    assert len(distances) > 200
    assert np.median(distances) < 2e-4
    assert np.percentile(distances, 99) < 1e-3


def _distance_to_triangles(point, triangles):
    """Smallest distance of a point to any triangle (by its plane where it projects inside, else by dense samples)."""
    near = triangles[np.linalg.norm(triangles.mean(axis=1) - point, axis=1) < 0.03]
    w = np.stack(np.meshgrid(*[np.linspace(0, 1, 12)] * 2), -1).reshape(-1, 2)
    w = w[w.sum(1) <= 1]
    samples = near[:, :1] + w[None, :, :1] * (near[:, 1:2] - near[:, :1]) + w[None, :, 1:] * (near[:, 2:] - near[:, :1])
    sampled = np.linalg.norm(samples - point, axis=-1).min()
    normal = np.cross(near[:, 1] - near[:, 0], near[:, 2] - near[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    height = ((point - near[:, 0]) * normal).sum(1)
    foot = point - height[:, None] * normal
    inside = np.all(
        [((np.cross(near[:, (k + 1) % 3] - near[:, k], foot - near[:, k])) * normal).sum(1) >= 0 for k in range(3)],
        axis=0,
    )
    return min(sampled, np.abs(height[inside]).min(initial=np.inf))


def test_intrinsics_are_right_to_half_a_pixel(hand_models):
    """Small balls at known places: the centre of the pixels they cover is their projection."""
    scene = plan_scene(hand_models, SIZE, 10.0, 4, False, (5, 0))
    rng = np.random.default_rng(0)
    spots = rng.uniform([-0.25, -0.1, 0.03], [0.25, 0.3, 0.12], (8, 3))
    ball = scene_objects.SceneObject(
        "red ball",
        (scene_objects.Part("sphere", (0.006, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0)),),
        0.012,
        0.006,
        "",
    )
    poses = transforms.make(np.eye(3), spots)[None].repeat(4, 0)
    from dataclasses import replace

    picture = next(iter(pictures(replace(scene, objects=(ball,) * 8, T_world_obj=poses), (5, 0))))
    errors = []
    for i, spot in enumerate(spots):
        v, u = np.nonzero(picture.labels == 1 + i)
        if len(v) < 20 or u.min() == 0 or v.min() == 0 or u.max() == SIZE[0] - 1 or v.max() == SIZE[1] - 1:
            continue
        errors.append(np.array([u.mean() + 0.5, v.mean() + 0.5]) - scene.camera.project(to_cam(scene, 0, spot)))
    assert len(errors) >= 4
    assert np.abs(np.mean(errors, axis=0)).max() < 0.25  # no shift, as a half-pixel slip would be
    assert np.abs(errors).max() < 0.6


def test_boxes_are_tight_around_objects(shots):
    """The box of an unhidden object is the box of its projected solid, to a pixel or two."""
    checked = 0
    for scene, frame, picture in shots:
        for i, thing in enumerate(scene.objects):
            if not thing.name.endswith(("cube", "ball")):
                continue
            T = scene.T_cam_world[frame] @ scene.T_world_obj[frame, i]
            part = thing.parts[0]
            if part.kind == "box":
                corners = np.stack(np.meshgrid(*[[-1, 1]] * 3), -1).reshape(-1, 3) * part.size + part.position
            else:
                directions = np.random.default_rng(0).normal(size=(4000, 3))
                corners = directions / np.linalg.norm(directions, axis=1, keepdims=True) * part.size[0] + part.position
            px = scene.camera.project(transforms.apply(T, corners))
            v, u = np.nonzero(picture.labels == 1 + i)
            truth = [*px.min(axis=0), *px.max(axis=0)]
            covered = len(v) / ((truth[2] - truth[0]) * (truth[3] - truth[1]))
            if covered < 0.6 or min(truth) < 1 or truth[2] > SIZE[0] - 1 or truth[3] > SIZE[1] - 1:
                continue  # hidden by the hand, or cut by the border
            got = [u.min(), v.min(), u.max() + 1, v.max() + 1]
            if np.abs(np.subtract(got, truth)).max() < 1.6:
                checked += 1
            else:
                assert covered < 0.8, f"{thing.name}: {got} instead of {truth}"
    assert checked >= 4


def test_clips_say_everything(clips):
    static, moving, test = clips
    assert [clip.split for clip in clips] == ["train", "train", "test"]
    assert np.ptp(static.T_cam_world, axis=0).max() == 0
    assert np.ptp(moving.T_cam_world[:, :3, 3], axis=0).max() > 0.01
    for clip in clips:
        assert clip.has_labels
        assert clip.has_depth
        assert clip.num_frames == 24
        assert clip.camera.width == 448
        assert set(clip.contact) == set(clip.hands)
        assert len(clip.objects) >= 3
        assert len({thing.name for thing in clip.objects}) == len(clip.objects)
        for instruction in clip.instructions:
            assert 0 <= instruction.start_s < instruction.end_s <= 2.4
            assert any(thing.name in instruction.text for thing in clip.objects)
            assert instruction.side in clip.hands
    assert test.instructions


def test_labels_are_the_hand_models(clips, hand_models):
    """theta, r, tau, beta of a clip give the joints stored beside them; tau is the wrist."""
    for clip in clips:
        with np.load(clip.video.with_suffix(".npz")) as stored:
            for side, track in clip.hands.items():
                joints = hand_models[side].joints(track.theta, track.r, track.tau, track.beta)
                np.testing.assert_allclose(joints, stored[f"joints_cam_{side}"], atol=1e-7)
                np.testing.assert_allclose(joints[:, 0], track.tau, atol=1e-7)
                assert track.tau[:, 2].min() > 0.15


def test_depth_is_stored_at_the_sampled_frames(clips):
    for clip in clips:
        wanted = sampled_frames(clip.times_s, 1.0)
        assert wanted == [0, 10, 20]
        for frame in wanted:
            depth = clip.depth_m(frame)
            assert depth.shape == (336, 448)
            assert depth.dtype == np.float32
            assert np.isfinite(depth).mean() > 0.9
            for track in clip.objects:  # the object's centre lies a little behind its visible face
                if track.visible[frame] and np.nanmin(np.diff(track.boxes_px[frame].reshape(2, 2), axis=0)) > 20:
                    u, v = clip.camera.project(track.position_cam[frame])
                    if 0 <= u < 448 and 0 <= v < 336:
                        assert depth[int(v), int(u)] < track.position_cam[frame, 2] + 0.02
        assert clip.depth_m(1) is None


def test_contact_means_touching(scenes):
    """Contact frames have a hand vertex within 4 mm of the object, checked against points sampled on its surface."""
    touched = 0
    for scene in scenes.values():
        for side, contact in scene.contact.items():
            for frame in np.flatnonzero(contact >= 0)[::5]:
                i = contact[frame]
                local = transforms.apply(
                    transforms.invert(scene.T_world_obj[frame, i]), scene.vertices_world[side][frame].astype(float)
                )
                gap = min(_distance_to_surface(part, local) for part in scene.objects[i].parts if part.solid)
                assert gap < 0.004 + 0.004  # surface samples stand some millimetres apart
                touched += 1
    assert touched >= 5


def _distance_to_surface(part, points):
    rng = np.random.default_rng(0)
    n = 12000
    if part.kind == "sphere":
        d = rng.normal(size=(n, 3))
        surface = d / np.linalg.norm(d, axis=1, keepdims=True) * part.size[0]
    elif part.kind == "box":
        surface = rng.uniform(-1, 1, (n, 3))
        surface[np.arange(n), rng.integers(0, 3, n)] = rng.choice([-1.0, 1.0], n)
        surface *= part.size
    else:
        angle, radius = (
            rng.uniform(0, 2 * np.pi, n),
            part.size[0] * np.where(rng.random(n) < 0.6, 1, np.sqrt(rng.random(n))),
        )
        height = np.where(radius < part.size[0], rng.choice([-1.0, 1.0], n), rng.uniform(-1, 1, n)) * part.size[1]
        surface = np.stack([radius * np.cos(angle), radius * np.sin(angle), height], 1)
    surface = surface + part.position
    from scipy.spatial import cKDTree

    inside = scene_objects._part_distance(part, points).min() < 0
    return 0.0 if inside else cKDTree(surface).query(points)[0].min()


def test_objects_move_only_in_hands(scenes):
    """An object that is not touched stands still, on the table; one that moves is touched."""
    for scene in scenes.values():
        for i in range(len(scene.objects)):
            position = scene.T_world_obj[:, i, :3, 3]
            moves = np.linalg.norm(np.diff(position, axis=0), axis=1) > 2e-4
            held = np.any([contact == i for contact in scene.contact.values()], axis=0)
            assert (held[1:] | held[:-1])[moves].mean() > 0.9 if moves.any() else True
            free = ~(held[1:] | held[:-1])
            assert np.abs(position[1:][free & ~moves][:, 2]).max(initial=0) < 1e-6


@pytest.mark.parametrize("kind", ["box", "cylinder", "sphere"])
def test_distances_agree_with_sampled_surfaces(kind):
    part = scene_objects.Part(kind, (0.03, 0.05, 0.02), (0.01, -0.02, 0.05), (0.0, 0.0, 0.0))
    points = np.random.default_rng(1).uniform(-0.12, 0.12, (60, 3)) + part.position
    for point in points:
        distance = scene_objects._part_distance(part, point[None])[0]
        if distance > 0:
            assert distance == pytest.approx(_distance_to_surface(part, point[None]), abs=2.5e-3)


def test_fingers_close_until_they_touch(hand_models):
    ball = lambda points: np.linalg.norm(points - [-0.10, -0.062, 0.0], axis=-1) - 0.035  # noqa: E731
    hand = scene_hands.Hand(hand_models["right"], np.zeros(10))
    wrist = scene_hands.Wrist(np.eye(3), np.zeros(3))
    curls, gap = scene_hands.close_fingers(hand, wrist, scene_hands.even(0.1, thumb=0.0), 1.0, ball)
    assert -0.0006 < gap < 0.002
    assert 0.1 < curls["middle"] < 0.92


@pytest.mark.parametrize("side", ["left", "right"])
def test_hand_orientation(hand_models, side):
    fingers, palm = np.array([0.2, 1.0, -0.3]), np.array([0.0, 0.0, -1.0])
    R = scene_hands.orientation(side, fingers, palm)
    hand = scene_hands.Hand(hand_models[side], np.zeros(10))
    joints = hand.model.joints(np.zeros((1, 45)), transforms.rotmat_to_rotvec(R)[None], np.zeros((1, 3)), hand.beta)[0]
    assert np.linalg.det(R) == pytest.approx(1)
    along = (joints[12] - joints[0]) / np.linalg.norm(joints[12])
    assert along @ (fingers / np.linalg.norm(fingers)) > 0.98
    thumb = np.sign(joints[4, 0] - joints[12, 0])
    assert thumb == (-1 if side == "right" else 1)  # seen from above with the palm down, the right thumb is on the left


def test_equal_seeds_give_equal_bytes(tmp_path, hand_models):
    from dataclasses import replace

    config = replace(TINY, seconds=0.5)
    for name in ("a", "b"):
        synthetic.render_clip(tmp_path / f"{name}.mp4", config, hand_models, 4)
    synthetic.render_clip(tmp_path / "c.mp4", replace(config, seed=12), hand_models, 4)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert (tmp_path / "a.npz").read_bytes() != (tmp_path / "c.npz").read_bytes()


def test_splits_and_shards():
    from ops.config import SyntheticConfig

    config = SyntheticConfig(num_clips=24)
    splits = [synthetic.split_of(config, n) for n in range(24)]
    assert splits.count("test") == 4
    assert splits[10:12] == splits[22:24] == ["test", "test"]
    paths = [synthetic.clip_path(__import__("pathlib").Path("x"), config, n) for n in range(24)]
    assert len(set(paths)) == 24
    assert len({path.name for path in paths}) == 24  # clip ids are unique over the shards


def test_render_leaves_what_stands(tmp_path, hand_models, capsys):
    from ops.config import SyntheticConfig

    config = SyntheticConfig(num_clips=2, seconds=0.4, seed=3)
    files = synthetic.render(tmp_path, config, hand_models, workers=1)
    assert [path.name for path in files] == ["clip-0000.mp4", "clip-0000.npz", "clip-0001.mp4", "clip-0001.npz"]
    before = [path.stat().st_mtime_ns for path in files]
    files[2].unlink()
    capsys.readouterr()
    assert synthetic.render(tmp_path, config, hand_models, workers=1) == files
    assert [path.stat().st_mtime_ns for path in files][:2] == before[:2]
    assert "1/1 clips" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda labels: labels["tau_X"].__setitem__((3, 1), np.nan), Reason.NAN_LABEL),
        (lambda labels: labels.pop("texts"), Reason.BAD_SIDE_FILE),
        (lambda labels: labels.update(T_cam_world=labels["T_cam_world"][:-1]), Reason.BAD_SIDE_FILE),
    ],
    ids=["nan", "missing array", "too few frames"],
)
def test_damaged_labels_say_where(tmp_path, tiny_clips, tiny_shard, damage, reason):
    source = tiny_clips / tiny_shard.root / "clip-0000.mp4"
    video = tmp_path / "clip.mp4"
    video.write_bytes(source.read_bytes())
    with np.load(source.with_suffix(".npz")) as stored:
        labels = dict(stored)
    side = "right" if "tau_right" in labels else "left"
    labels["tau_X"] = labels[f"tau_{side}"]
    damage(labels)
    labels[f"tau_{side}"] = labels.pop("tau_X")
    np.savez(video.with_suffix(".npz"), **labels)
    with pytest.raises(ClipError) as caught:
        synthetic.read_clip(video, tiny_shard, RawVideosConfig())
    assert caught.value.reason == reason
    if reason == Reason.NAN_LABEL:
        assert (caught.value.frame, caught.value.side) == (3, side)


def test_cut_labels_are_bad_side_files(tmp_path, tiny_clips, tiny_shard):
    source = tiny_clips / tiny_shard.root / "clip-0000.mp4"
    video = tmp_path / "clip.mp4"
    video.write_bytes(source.read_bytes())
    with pytest.raises(ClipError, match="missing_side_file"):
        synthetic.read_clip(video, tiny_shard, RawVideosConfig())
    for data in (b"", b"no zip", source.with_suffix(".npz").read_bytes()[:5000]):
        video.with_suffix(".npz").write_bytes(data)
        with pytest.raises(ClipError, match="bad_side_file"):
            synthetic.read_clip(video, tiny_shard, RawVideosConfig())
