"""Something-Something V2: labels as instructions, splits, unknown cameras."""

import json

import numpy as np
import pytest

from ops.config import RawVideosConfig, ShardConfig
from ops.geometry.camera import PinholeCamera
from ops.rejects import ClipError, Reason
from ops.sources import ssv2
from ops.sources.example import make_truth
from tests.ops.toy_hands import write_toy_models


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    models = write_toy_models(tmp_path_factory.mktemp("toy"))
    return make_truth(
        models, PinholeCamera.from_fov_x(60.0, 320, 240), num_frames=12, fps=12.0, seed=1, sides=("right",)
    )


@pytest.fixture
def root(tmp_path, truth):
    ssv2.write_example(tmp_path, truth)
    ssv2.write_example(tmp_path, truth)
    return tmp_path


def read(root, number=0):
    video = ssv2.list_videos(root)[number]
    return ssv2.read_clip(video, ShardConfig("ssv2", "ssv2", str(root)), RawVideosConfig(60.0))


def test_round_trip(root, truth):
    clip = read(root, 1)
    assert (clip.clip_id, clip.split, clip.intrinsics) == ("ssv2/20bn-something-something-v2/2", "train", "assumed")
    assert (clip.num_frames, clip.object_names, clip.has_labels) == (12, ("box",), False)
    assert clip.fps == pytest.approx(12.0, rel=1e-3)  # WebM has milliseconds
    (said,) = clip.instructions
    assert (said.text, said.start_s, said.end_s) == ("pick up the box", 0.0, pytest.approx(1.0, rel=1e-3))
    assert json.loads((root / "labels/train.json").read_text())[0]["template"] == "pick up the [something]"
    for frame in clip.frames([0, 11]):
        assert np.abs(frame.rgb.astype(int) - truth.rgb[frame.index]).mean() < 6


def test_splits(root):
    entries = json.loads((root / "labels/train.json").read_text())
    (root / "labels/validation.json").write_text(json.dumps([entries[0] | {"label": "pushing box", "id": "1"}]))
    (root / "labels/test.json").write_text(json.dumps([{"id": 2}]))
    (root / "labels/train.json").unlink()
    first, second = read(root, 0), read(root, 1)
    assert (first.split, first.instructions[0].text) == ("test", "pushing box")
    assert (second.split, second.instructions, second.object_names) == ("test", (), ())


def test_what_is_missing_is_said(root):
    (reject, _) = ssv2.read_clips(root)
    assert reject.reason == Reason.UNSUPPORTED_CAMERA
    (root / "labels/train.json").write_text(json.dumps([{"id": "9", "label": "x"}]))
    with pytest.raises(ClipError, match="in no label file") as error:
        read(root)
    assert error.value.reason == Reason.MISSING_LABELS
    (root / "labels/train.json").write_text("{}")
    with pytest.raises(ClipError, match="list of"):
        read(root)
    (root / "labels/train.json").write_text("[")
    with pytest.raises(ClipError, match="JSON"):
        read(root)
