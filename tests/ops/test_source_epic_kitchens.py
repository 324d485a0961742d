"""EPIC-KITCHENS: narrated actions as the official table gives them, no intrinsics without being asked."""

import pytest

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry.camera import PinholeCamera
from ops.rejects import Reason
from ops.sources import epic_kitchens
from ops.sources.example import make_truth
from tests.ops.toy_hands import write_toy_models


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    models = write_toy_models(tmp_path_factory.mktemp("toy"))
    return make_truth(models, PinholeCamera.from_fov_x(70.0, 320, 240), num_frames=30, fps=50.0, seed=1)


@pytest.fixture
def root(tmp_path, truth):
    epic_kitchens.write_example(tmp_path, truth)
    return tmp_path


def read(root, fov=70.0):
    shard = ShardConfig("epic", "epic_kitchens", str(root))
    return [epic_kitchens.read_clip(video, shard, RawVideosConfig(fov)) for video in epic_kitchens.list_videos(root)]


def test_round_trip(root, truth):
    (clip,) = read(root)
    assert (clip.clip_id, clip.subject, clip.split) == ("epic/P01/videos/P01_01", "P01", "train")
    assert (clip.num_frames, clip.intrinsics, clip.has_labels, clip.object_names) == (30, "assumed", False, ("box",))
    assert clip.fps == pytest.approx(50.0)
    assert clip.camera.fx == pytest.approx(truth.camera.fx)
    (said,) = clip.instructions
    assert (said.text, said.start_s, said.end_s) == (
        "pick up the box",
        0.0,
        pytest.approx(0.6, abs=0.005),
    )  # 2 decimals
    assert [path.name for path in epic_kitchens.side_files(clip.video)] == ["EPIC_100_train.csv"]


def test_intrinsics_must_be_assumed_aloud(root):
    (reject,) = epic_kitchens.read_clips(root)
    assert reject.reason == Reason.UNSUPPORTED_CAMERA
    assert "assumed_fov_x_deg" in reject.detail


def test_the_validation_table_is_held_out(root):
    """Rows of the official file (values of its first row)."""
    folder = root / "epic-kitchens-100-annotations"
    (folder / "EPIC_100_validation.csv").write_text(
        ",".join(epic_kitchens.COLUMNS)
        + "\nP01_11_0,P01,P01_01,00:00:00.01,00:00:00.10,00:00:00.32,2,57,take plate with right hand,take,0,plate,2,['plate'],[2]\n"
        + "P01_11_1,P01,P01_01,00:00:00.01,00:00:00.50,00:00:09.00,2,57,put plate,put,1,plate,2,['plate'],[2]\n"
        + "P01_11_2,P01,P01_01,00:00:00.01,00:00:08.00,00:00:09.00,2,57,too late,put,1,plate,2,['plate'],[2]\n"
    )
    (folder / "EPIC_100_train.csv").unlink()
    (clip,) = read(root)
    assert clip.split == "test"
    assert [(s.text, s.side) for s in clip.instructions] == [
        ("take plate with right hand", "right"),
        ("put plate", None),
    ]
    assert (clip.instructions[0].start_s, clip.instructions[0].end_s) == (0.1, 0.32)
    assert clip.instructions[1].end_s == pytest.approx(0.6)


def test_a_video_without_narrations_is_kept(root):
    (root / "epic-kitchens-100-annotations/EPIC_100_train.csv").unlink()
    (clip,) = read(root)
    assert (clip.instructions, clip.split) == ((), "")


@pytest.mark.parametrize(("text", "says"), [("video_id,narration\n", "lacks the columns"), (None, "HH:MM:SS")])
def test_bad_tables(root, text, says):
    table = root / "epic-kitchens-100-annotations/EPIC_100_train.csv"
    table.write_text(text if text is not None else table.read_text().replace("00:00:00.00,00:00:00.00", "soon,soon"))
    (reject,) = list(
        epic_kitchens.read_each(
            epic_kitchens.list_videos,
            epic_kitchens.read_clip,
            ShardConfig("e", "epic_kitchens", str(root)),
            RawVideosConfig(70.0),
        )
    )
    assert reject.reason == Reason.BAD_SIDE_FILE
    assert says in reject.detail


def test_times():
    assert epic_kitchens._seconds("01:02:03.50") == 3723.5
