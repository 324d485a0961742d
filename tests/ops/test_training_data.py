"""Rows, frames and features belong together; labels stand on answers only; kept features are those computed afresh."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from ops.hand3d import parsing
from ops.models import vipa
from ops.models.processor import IGNORE
from ops.models.tokenizer import TokenizerConfig, load
from ops.rejects import Reason
from ops.training import base_data, data
from ops.training.features import FeatureStore, Window, encoder_version
from tests.ops import small_models
from tests.ops.training_world import CAMERA, NUM_FRAMES, clips_table, make_scene, visual_rows


@pytest.fixture(scope="module")
def tokenizer_folder():
    from ops.bootstrap import weights_dir

    folder = weights_dir(Path()) / "tokenizer"
    if not folder.is_dir():
        pytest.skip("no tokenizer: run `hand3d bootstrap --only weights`")
    return folder


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder):
    return load(tokenizer_folder, small_models.VIPA.tokenizer.num_merges)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    return [make_scene(folder, f"s{i}", seed=i) for i in range(3)]


def model(per_frame: bool):
    return vipa.build(replace(small_models.VIPA, state_per_frame=per_frame), seed=0)


@pytest.mark.parametrize("per_frame", [True, False])
def test_kept_features_are_the_computed_ones(tmp_path, scenes, per_frame):
    made = model(per_frame)
    store = FeatureStore(made, tmp_path, clips_table(scenes))
    windows = [Window(scenes[0].clip.clip_id, (2, 3, 5)), Window(scenes[1].clip.clip_id, (0, 3, 9))]
    assert not store.fill(windows, [s.clip for s in scenes])
    found = store.features(windows)
    for row, (scene, window) in enumerate(zip(scenes, windows, strict=False)):
        images = torch.stack([torch.from_numpy(f.rgb) for f in scene.clip.frames(window.frames)])[None]
        expected = made.encode_frames(images)
        torch.testing.assert_close(found.semantic[row], expected.semantic[0], atol=2e-2, rtol=2e-3)
        torch.testing.assert_close(found.spatial[row], expected.spatial[0], atol=2e-2, rtol=2e-3)


def test_frames_are_encoded_once_and_the_file_grows(tmp_path, scenes, monkeypatch):
    made, clips = model(True), [s.clip for s in scenes]
    encoded = []
    monkeypatch.setattr(
        made, "encode_frames", lambda images, real=made.encode_frames: encoded.append(len(images)) or real(images)
    )
    name = clips[0].clip_id
    FeatureStore(made, tmp_path, clips_table(scenes)).fill([Window(name, (1, 2)), Window(name, (2, 3))], clips)
    assert sum(encoded) == 3
    again = FeatureStore(made, tmp_path, clips_table(scenes))
    before = again.features([Window(name, (2, 3))])
    again.fill([Window(name, (2, 3)), Window(name, (0, 7))], clips)
    assert sum(encoded) == 5
    after = again.features([Window(name, (2, 3))])
    assert torch.equal(before.semantic, after.semantic)
    assert torch.equal(before.spatial, after.spatial)


def test_other_weights_and_other_bytes_have_other_features(tmp_path, scenes):
    made = model(True)
    version = encoder_version(made)
    with torch.no_grad():
        made.vlm.model.language_model.norm.weight += 1  # not an encoder
    assert encoder_version(made) == version
    with torch.no_grad():
        made.spatial_encoder.pose_token += 1
    assert encoder_version(made) != version
    window = Window(scenes[0].clip.clip_id, (1,))
    table = clips_table(scenes)
    store = FeatureStore(made, tmp_path, table)
    store.fill([window], [scenes[0].clip])
    assert window in store
    changed = FeatureStore(made, tmp_path, table.with_columns(sha256=table["sha256"].str.reverse()))
    assert window not in changed


def test_clip_that_cannot_be_read_is_a_reject_and_the_rest_goes_on(tmp_path, scenes):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(scenes[0].clip.video.read_bytes()[:300])
    clips = [replace(scenes[0].clip, video=broken), scenes[1].clip]
    store = FeatureStore(model(True), tmp_path, clips_table(scenes))
    windows = [Window(clip.clip_id, (1,)) for clip in clips]
    rejects = store.fill(windows, clips)
    assert [(r.item, r.reason) for r in rejects] == [(clips[0].clip_id, Reason.CORRUPT_VIDEO)]
    assert [window in store for window in windows] == [False, True]


def test_labels_are_the_answer_and_nothing_else(tmp_path, scenes, tokenizer):
    made = model(True)
    rows = visual_rows(scenes[:1]).head(12)
    examples = data.visual_examples(rows, tokenizer, made.config.tokens_per_frame)
    store = FeatureStore(made, tmp_path, clips_table(scenes))
    store.fill([e.window for e in examples], [s.clip for s in scenes])
    groups = data.training_groups(examples, store, tokenizer.layout.pad)
    order = [place for places in data.grouped(examples) for place in places]
    said, asked, frames = [], [], []
    for group in groups:
        for ids, labels, mask in zip(
            group.tokens.input_ids, group.tokens.labels, group.tokens.attention_mask, strict=True
        ):
            said.append(tokenizer.decode(labels[labels != IGNORE].tolist()))
            asked.append(tokenizer.decode(ids[(labels == IGNORE) & (mask == 1)].tolist()))
            frames.append(int((ids == tokenizer.layout.image).sum()) // made.config.tokens_per_frame)
    assert said == [rows["answer"][place] for place in order]
    assert all(rows["question"][place] in text for place, text in zip(order, asked, strict=True))
    assert frames == [len(rows["frames"][place]) for place in order]


def test_loss_of_groups_is_the_mean_over_all_labels(tmp_path, scenes, tokenizer):
    """Naive twin: one row at a time."""
    made = model(True)
    examples = data.visual_examples(visual_rows(scenes).head(9), tokenizer, made.config.tokens_per_frame)
    store = FeatureStore(made, tmp_path, clips_table(scenes))
    store.fill([e.window for e in examples], [s.clip for s in scenes])
    objective = data.AnswerObjective(made)
    with torch.no_grad():
        loss, count = objective(data.training_groups(examples, store, tokenizer.layout.pad))
        single = [objective(data.training_groups([e], store, tokenizer.layout.pad)) for e in examples]
    assert count == sum(n for _, n in single) == sum(len(e.answer) for e in examples)
    assert float(loss) == pytest.approx(sum(float(part) * n for part, n in single) / count, rel=1e-4)


def test_points_of_the_squashed_frame_are_where_the_balls_are(scenes):
    """Independent route: each ball's centre, known in metres, projected by hand."""
    for scene in scenes:
        frames = base_data.labelled_frames(scene.clip, 56, 32, every_s=0.2)
        assert [f.frame for f in frames] == list(range(NUM_FRAMES))
        for thing in ("red ball", "blue ball"):
            centre = scene.centres[thing][0]
            u = (CAMERA.fx * centre[0] / centre[2] + CAMERA.cx) / CAMERA.width
            v = (CAMERA.fy * centre[1] / centre[2] + CAMERA.cy) / CAMERA.height
            nearer = [
                other for name, c in scene.centres.items() if name != thing for other in [c[0]] if other[2] < centre[2]
            ]
            covered = any(np.hypot(*(CAMERA.project(o) - CAMERA.project(centre))) < 12 for o in nearer)
            if not (0.05 < u < 0.95 and 0.05 < v < 0.95) or covered:
                continue
            point = frames[0].points_cam[int(v * 32), int(u * 32)]
            assert np.abs(point - centre).max() < 0.05
            assert frames[0].places[thing] == pytest.approx((u, v), abs=1e-6)


def test_drawn_answers_have_the_grammar_and_nothing_of_the_row(scenes):
    rows = visual_rows(scenes)
    many = pl.concat([rows.with_columns(row_id=pl.col("row_id") + f"-{copy}") for copy in range(-(-400 // len(rows)))])
    pairs = base_data.drawn_answers(many, seed=0)
    assert [one.question for one in pairs] == many["question"].to_list()
    assert [one.subject for one in pairs] == ["camera" if side is None else side for side in many["side"]]
    said = [parsing.parse(one.answer) for one in pairs]
    assert all(answer.distance_m is not None and answer.direction is not None for answer in said)
    drawn = np.array([answer.distance_m for answer in said])
    still = drawn == 0
    assert abs(still.mean() - 0.1) < 0.05
    assert all(said[i].direction == (0, 0, 0) and not said[i].contact for i in np.flatnonzero(still))
    assert abs(drawn[~still].mean() - 0.505) < 0.05  # uniform from 0.01 to 1
    assert abs(np.corrcoef(drawn, many["distance_m"].to_numpy())[0, 1]) < 0.15
    assert pairs == base_data.drawn_answers(many, seed=0)


SAID = parsing.parse("Touching: no. The red ball is right and down, 0.23 m.")
TURNED = parsing.parse("The camera rotates 5 degrees turning left and tilting up; it moves forward, 0.04 m.")
STILL = parsing.parse("It is at the same place, 0.00 m.")


def words_of(page, marks):
    words = {token: said for said, token in marks.items()}
    return [[words[token] for token in place if token >= 0] for place in page.tolist()]


def test_a_page_holds_what_the_answer_says(tokenizer):
    marks = base_data.marks(tokenizer.layout)
    page = words_of(base_data.page({"left": SAID}, marks, 400, np.random.default_rng(3), mixed=True), marks)
    assert all(len(place) == 1 and place[0][0] == "left" for place in page)
    said = [place[0][1] for place in page]
    assert set(said) <= {"no", "right", "down", "one", "two", "three", "four"}
    assert all(said.count(word) == 100 for word in ("no", "right", "down"))
    assert said.count("two") > 60  # of 100; 0.25 and more is "three"
    still = base_data.page({"left": STILL}, marks, 6, np.random.default_rng(0), mixed=False)
    assert still.shape == (6, 3)
    assert (still == -1).all()


@pytest.mark.parametrize("mixed", [True, False])
def test_a_page_tells_of_several_subjects_at_once_or_side_by_side(tokenizer, mixed):
    marks = base_data.marks(tokenizer.layout)
    said = {"right": SAID, "camera": TURNED, "left": STILL}
    page = words_of(base_data.page(said, marks, 36, np.random.default_rng(3), mixed=mixed), marks)
    assert {len(place) for place in page} == {2 if mixed else 1}
    told = [one for place in page for one in place]
    assert {word for subject, word in told if subject == "camera"} <= {"forward", "3", "4", "5"}
    assert ("right", "down") in told
    assert sum(subject == "camera" for subject, _ in told) == (36 if mixed else 18)
    assert not any(subject == "left" for subject, _ in told)


def test_companions_are_the_other_hand_always_and_the_camera_sometimes():
    rng = np.random.default_rng(0)
    found = [base_data.companions("left", rng) for _ in range(200)]
    assert all("right" in one and "left" not in one for one in found)
    assert 0.2 < sum("camera" in one for one in found) / 200 < 0.4
    assert base_data.companions("camera", rng) == ["left", "right"]


def test_naming_says_what_the_page_says_of_the_subject_named(tokenizer):
    drawn = base_data.Drawn("?", "Touching: no. It is right, down and forward, 0.23 m.", "left", parsing.parse("It is right, down and forward, 0.23 m."))  # fmt: skip
    ids, labels = base_data.naming_ids(drawn, tokenizer, 5)
    assert ids[:5] == [tokenizer.layout.image] * 5
    assert tokenizer.decode(ids[5:]) == " left right and down and forward, 0.23 m"
    assert tokenizer.decode([i for i in labels if i != IGNORE]) == " right and down and forward, 0.23 m"


@pytest.mark.parametrize("num_merges", [0, 2000])
def test_everything_a_page_may_say_has_its_own_token(tokenizer_folder, num_merges):
    layout = load(tokenizer_folder, num_merges).layout
    marks = base_data.marks(layout)
    assert len(set(marks.values())) == len(marks) == 3 * (6 + 2 + 9 + 9)
    assert sorted(marks.values()) == list(range(layout.num_pieces - len(marks), layout.num_pieces))
    assert {base_data.length_word(cm / 100) for cm in range(1, 101)} == {*"123456789", *base_data.NUMBERS}


def test_distances_are_said_to_one_significant_figure():
    said = {0.001: "1", 0.04: "4", 0.094: "9", 0.096: "one", 0.149: "one", 0.151: "two", 0.94: "nine", 1.4: "nine"}
    assert {length_m: base_data.length_word(length_m) for length_m in said} == said


def test_conversation_labels_are_its_answers(scenes, tokenizer):
    frame = base_data.labelled_frames(scenes[0].clip, 56, 32, 0.2)[0]
    turns = [*base_data.conversation(frame, np.random.default_rng(0)), ("How far?", "It is up, 0.10 m.")]
    ids, labels = base_data.conversation_ids(turns, tokenizer, 4)
    assert tokenizer.decode([i for i in labels if i != IGNORE]) == "".join(answer for _, answer in turns)
    assert all(label in (IGNORE, i) for i, label in zip(ids, labels, strict=True))
    assert ids.count(tokenizer.layout.image) == 4
    assert TokenizerConfig(num_merges=0) == small_models.VIPA.tokenizer


def test_shifted_rows_are_the_same_motion_elsewhere():
    columns = {
        "row_id": ["a", "b", "c"],
        "task": ["contextual_motion_prediction", "motion_translation", "contextual_motion_prediction"],
        "context_tokens": [[100, 200, 300, 110, 210, 310], [5, 5, 5], [1000, 500, 500]],
        "target_tokens": [[120, 220, 320], [], [1023, 500, 500]],
    }
    tokens = pl.List(pl.UInt16)
    rows = pl.DataFrame(columns, schema_overrides={"context_tokens": tokens, "target_tokens": tokens})
    more = data.shifted(rows, copies=40, max_bins=60, seed=1)
    assert more.head(3).equals(rows)
    copies = more.slice(3)
    assert set(copies["task"]) == {"contextual_motion_prediction"}
    of_a = copies.filter(pl.col("row_id").str.starts_with("a+"))
    assert len(of_a) == 40
    for context, target in of_a.select("context_tokens", "target_tokens").iter_rows():
        moved = np.array([context[:3], context[3:], target]) - np.array(
            [[100, 200, 300], [110, 210, 310], [120, 220, 320]]
        )
        assert (moved == moved[0]).all()
        assert np.abs(moved).max() <= 60
    of_c = copies.filter(pl.col("row_id").str.starts_with("c+"))
    assert 0 < len(of_c) < 40  # those that leave the grid are left out
    assert max(max(target) for target in of_c["target_tokens"]) <= 1023
    assert more.equals(data.shifted(rows, copies=40, max_bins=60, seed=1))
