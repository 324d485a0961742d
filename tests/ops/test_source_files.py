"""Label files read without running them, and depth of sensors: against torch, numpy and known geometry."""

import pickle
from collections import OrderedDict

import av
import numpy as np
import pytest
import torch

from ops.geometry import transforms
from ops.geometry.camera import PinholeCamera
from ops.rejects import ClipError, Reason
from ops.sources.depth import ImageDepth, RegisteredDepth, VideoDepth
from ops.sources.safe_load import load_npy_object, load_pickle, load_yaml

# -- pickles


def _labels() -> dict:
    rng = np.random.default_rng(0)
    return {
        "pose": torch.from_numpy(rng.normal(size=(4, 48)).astype(np.float32)),
        "part": torch.arange(24, dtype=torch.float64).reshape(4, 6).T[1:, ::2],  # neither whole nor contiguous
        "shared": torch.arange(3),
        "half": torch.tensor([0.5, 2.0], dtype=torch.bfloat16),
        "none": torch.zeros(0, 3),
        "weight": torch.nn.Parameter(torch.ones(2)),
        "nested": {"frames": [1, 2, {"x": np.arange(3)}], "names": ("a", "b"), "set": {1}},
        "scalar": np.float32(1.5),
        "mixed": np.array([1, "a", None], dtype=object),
        "bytes": b"\xff\x00",
        "ordered": OrderedDict(a=1),
    }


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_with_tensors_comes_back_as_arrays(tmp_path, protocol):
    labels = _labels()
    (tmp_path / "labels.pkl").write_bytes(pickle.dumps(labels, protocol=protocol))
    found = load_pickle(tmp_path / "labels.pkl")
    assert list(found) == list(labels)
    for key in ("pose", "part", "shared", "none", "weight"):
        assert isinstance(found[key], np.ndarray)
        np.testing.assert_array_equal(found[key], labels[key].detach().numpy())
    np.testing.assert_array_equal(found["half"], [0.5, 2.0])
    np.testing.assert_array_equal(found["nested"]["frames"][2]["x"], np.arange(3))
    assert (found["nested"]["names"], found["nested"]["set"]) == (("a", "b"), {1})
    assert (found["scalar"], found["bytes"], found["ordered"]) == (1.5, b"\xff\x00", labels["ordered"])
    assert found["mixed"].tolist() == [1, "a", None]


def test_files_of_torch_save_are_read_too(tmp_path):
    torch.save({"k": [torch.arange(4.0)]}, tmp_path / "labels.pt")
    np.testing.assert_array_equal(load_pickle(tmp_path / "labels.pt")["k"][0], np.arange(4.0))


def test_python_2_strings_are_latin_1(tmp_path):
    # what Python 2 writes for {"poseCoeff": "caf\xe9"}: byte strings
    (tmp_path / "labels.pkl").write_bytes(b"(dp0\nS'poseCoeff'\np1\nS'caf\\xe9'\np2\ns.")
    assert load_pickle(tmp_path / "labels.pkl") == {"poseCoeff": "caf\u00e9"}


class _Runs:
    """Pickles to a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def _programs(tmp_path):
    import builtins
    import os

    touched = tmp_path / "touched"
    yield _Runs(os.system, f"touch {touched}")
    yield _Runs(builtins.eval, f"open({str(touched)!r}, 'w')")
    yield _Runs(np.load, str(touched))
    yield _Runs(torch.load, str(touched))
    yield _Runs(builtins.getattr, "a", "upper")


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("kind", ["pkl", "npy", "tensor"])
def test_a_file_that_would_run_something_is_refused(tmp_path, number, kind):
    program = list(_programs(tmp_path))[number]
    path = tmp_path / f"labels.{kind}"
    if kind == "npy":
        np.save(path, {"right": program}, allow_pickle=True)
    elif kind == "pkl":
        path.write_bytes(pickle.dumps({"right": program}))
    else:  # hidden in the bytes of a storage
        path.write_bytes(pickle.dumps(_Runs(torch.storage._load_from_bytes, pickle.dumps(program, protocol=2))))
    with pytest.raises(ClipError) as error:
        load_npy_object(path) if kind == "npy" else load_pickle(path)
    assert error.value.reason is Reason.BAD_LABEL
    assert not (tmp_path / "touched").exists()


def test_a_tensor_cannot_look_beyond_its_storage(tmp_path):
    storage = torch.arange(4.0)._typed_storage()
    program = _Runs(torch._utils._rebuild_tensor_v2, storage, 0, (1000,), (1,), False, OrderedDict())
    (tmp_path / "labels.pkl").write_bytes(pickle.dumps(program))
    with pytest.raises(ClipError, match="damaged pickle"):
        load_pickle(tmp_path / "labels.pkl")


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 no zip", pickle.dumps(_labels())[:200]])
def test_a_damaged_pickle_says_so(tmp_path, content):
    (tmp_path / "labels.pkl").write_bytes(content)
    with pytest.raises(ClipError, match=r"labels\.pkl") as error:
        load_pickle(tmp_path / "labels.pkl")
    assert error.value.reason is Reason.BAD_LABEL


def test_a_missing_file_is_told_from_a_bad_one(tmp_path):
    for function in (load_pickle, load_npy_object, load_yaml):
        with pytest.raises(ClipError) as error:
            function(tmp_path / "none")
        assert error.value.reason is Reason.MISSING_LABELS


def test_npy_files_give_their_object_or_array(tmp_path):
    np.save(tmp_path / "a.npy", {"right": {"rot": np.ones((2, 3))}}, allow_pickle=True)
    np.testing.assert_array_equal(load_npy_object(tmp_path / "a.npy")["right"]["rot"], np.ones((2, 3)))
    np.save(tmp_path / "b.npy", np.arange(3.0))
    np.testing.assert_array_equal(load_npy_object(tmp_path / "b.npy"), np.arange(3.0))
    np.save(tmp_path / "c.npy", np.array([{"x": 1}, "text"], dtype=object), allow_pickle=True)
    assert load_npy_object(tmp_path / "c.npy").tolist() == [{"x": 1}, "text"]
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "d.npy").write_bytes(content[: len(content) // 2])
    with pytest.raises(ClipError) as error:
        load_npy_object(tmp_path / "d.npy")
    assert error.value.reason is Reason.BAD_LABEL


def test_yaml_knows_tuples_and_nothing_else_of_python(tmp_path):
    (tmp_path / "a.yml").write_text("size: !!python/tuple [640, 480]\nbetas: [1.0e-3, 2]\n")
    assert load_yaml(tmp_path / "a.yml") == {"size": (640, 480), "betas": [0.001, 2]}
    (tmp_path / "b.yml").write_text("a: !!python/object/apply:os.system [touch x]\n")
    with pytest.raises(ClipError) as error:
        load_yaml(tmp_path / "b.yml")
    assert error.value.reason is Reason.BAD_LABEL


# -- depth


def _write_grey(path, images: np.ndarray, gop: int, codec: str = "ffv1", pix_fmt: str = "gray16le") -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = *images.shape[1:], pix_fmt, gop
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="gray16le")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("gop", [1, 7])
@pytest.mark.parametrize("suffix", ["avi", "mkv"])
def test_depth_videos_give_any_frame_exactly(tmp_path, gop, suffix):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 65536, (20, 12, 16)).astype(np.uint16)
    images[:, 3] = 0
    _write_grey(tmp_path / f"depth.{suffix}", images, gop)
    depth = VideoDepth(tmp_path / f"depth.{suffix}", 4000.0)
    assert list(depth.frames) == list(range(20))
    for frame in [0, 1, 2, 9, 19, 19, 3, 12, 0, *rng.integers(0, 20, 30).tolist()]:
        wanted = np.where(images[frame] > 0, images[frame] / 4000.0, np.nan)
        np.testing.assert_allclose(depth.read(frame), wanted, rtol=1e-6)
    assert depth.read(20) is None
    assert list(VideoDepth(tmp_path / f"depth.{suffix}", 4000.0, 5).frames) == [0, 1, 2, 3, 4]


def test_depth_videos_that_hold_no_depth_are_refused(tmp_path):
    images = np.full((3, 16, 16), 800, np.uint16)
    _write_grey(tmp_path / "colour.avi", images, 1, pix_fmt="yuv420p")
    (tmp_path / "garbage.avi").write_bytes(b"RIFF garbage")
    _write_grey(tmp_path / "cut.avi", np.random.default_rng(0).integers(0, 65536, (9, 64, 64)).astype(np.uint16), 1)
    content = (tmp_path / "cut.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: len(content) // 2])
    for name in ("colour", "garbage"):
        with pytest.raises(ClipError) as error:
            VideoDepth(tmp_path / f"{name}.avi", 1000.0).read(0)
        assert error.value.reason is Reason.BAD_SIDE_FILE
    with pytest.raises(ClipError) as error:
        VideoDepth(tmp_path / "none.avi", 1000.0).read(0)
    assert error.value.reason is Reason.MISSING_SIDE_FILE
    cut = VideoDepth(tmp_path / "cut.avi", 1000.0)
    assert len(cut.frames) < 9  # what is lost is not there; the reader compares with its frame count


def test_depth_of_another_camera_is_registered_by_rays():
    """A slanted wall and a ball before it: every registered pixel lies on the surface that its own ray meets first."""
    depth_camera = PinholeCamera(300.0, 310.0, 161.0, 118.0, 320, 240)
    camera = PinholeCamera(700.0, 705.0, 330.0, 245.0, 640, 480)
    T = transforms.make(transforms.rotvec_to_rotmat(np.array([0.01, -0.03, 0.02])), np.array([0.05, -0.02, 0.01]))
    measured = _trace(depth_camera, np.eye(4))
    measured[100:104] = np.nan
    depth = RegisteredDepth(_One(measured), depth_camera, camera, T)
    found, wanted = depth.read(0), _trace(camera, T)
    assert found.shape == (480, 640)
    assert depth.read(1) is None
    seen = np.isfinite(found)
    assert seen[60:400, 80:560].mean() > 0.9
    off = np.abs(found - wanted)[seen]
    assert np.median(off) < 0.5e-3  # half a depth pixel on the slope
    assert (off < 5e-3).mean() > 0.97  # the rest is at the ball's rim, where one depth pixel covers two surfaces


def test_registration_keeps_the_nearer_and_ignores_what_is_behind():
    camera = PinholeCamera(100.0, 100.0, 5.0, 5.0, 10, 10)
    two = np.full((10, 10), 2.0)
    two[:, 5:] = 1.0
    shift = transforms.make(np.eye(3), np.array([0.04, 0.0, 0.0]))  # 2 px at 2 m, 4 px at 1 m: all moves to the right
    found = RegisteredDepth(_One(two), camera, camera, shift).read(0)
    assert np.isnan(found[:, :2]).all()
    assert (found[:, 2:7] == 2.0).all()
    assert np.isnan(found[:, 7:9]).all()  # uncovered
    assert (found[:, 9] == 1.0).all()
    behind = transforms.make(np.eye(3), np.array([0.0, 0.0, -1.5]))
    found = RegisteredDepth(_One(two), camera, camera, behind).read(0)
    assert np.nanmax(found) == 0.5
    wrong = RegisteredDepth(_One(two[:5]), camera, camera, shift)
    with pytest.raises(ClipError, match="10 x 10"):
        wrong.read(0)


class _One:
    """Depth of one frame."""

    frames = (0,)

    def __init__(self, depth_m):
        self.depth_m = depth_m

    def read(self, frame: int):
        return self.depth_m if frame == 0 else None


def _trace(camera: PinholeCamera, T_camera_world: np.ndarray) -> np.ndarray:
    """z of wall (plane) and ball by meeting each pixel's ray with them, world = depth camera's frame."""
    v, u = np.mgrid[: camera.height, : camera.width] + 0.5
    T_world_camera = transforms.invert(T_camera_world)
    rays = camera.unproject(np.stack([u, v], axis=-1), np.ones(u.shape)) @ T_world_camera[:3, :3].T
    origin = T_world_camera[:3, 3]
    normal, offset = np.array([0.2, 0.1, 1.0]), 1.0
    wall = (offset - origin @ normal) / (rays @ normal)
    centre, radius = np.array([0.02, 0.03, 0.6]), 0.08
    a, b = (rays**2).sum(-1), rays @ (origin - centre)
    root = b**2 - a * (((origin - centre) ** 2).sum() - radius**2)
    ball = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
    return np.minimum(wall, ball)  # rays have z = 1


def test_images_of_depth_say_what_is_wrong(tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), np.full((4, 6), 1500, np.uint16))
    cv2.imwrite(str(tmp_path / "b.png"), np.full((4, 6), 15, np.uint8))
    depth = ImageDepth((tmp_path / "a.png", None, tmp_path / "b.png"), 1000.0)
    assert list(depth.frames) == [0, 2]
    np.testing.assert_allclose(depth.read(0), 1.5, rtol=1e-6)
    assert depth.read(1) is None
    with pytest.raises(ClipError, match="uint8"):
        depth.read(2)
