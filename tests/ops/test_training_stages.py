"""Each stage trains exactly the paper's parts, and the stages run from end to end on a handful of painted clips."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ops import config, tables, tracking
from ops.bootstrap import weights_dir
from ops.models import presets, vipa
from ops.models.processor import IGNORE
from ops.models.vipa import VipaVLA
from ops.pipeline import run_stage
from ops.training import base, base_data, loop, stages
from tests.ops import small_models
from tests.ops.training_world import action_rows, clips_table, make_scene, visual_rows

FUSION = {
    "fusion.norm_semantic.weight", "fusion.norm_semantic.bias", "fusion.norm_spatial.weight", "fusion.norm_spatial.bias",
    "fusion.query.weight", "fusion.query.bias", "fusion.key.weight", "fusion.key.bias", "fusion.value.weight",
    "fusion.value.bias", "fusion.attention.in_proj_weight", "fusion.attention.in_proj_bias",
    "fusion.attention.out_proj.weight", "fusion.attention.out_proj.bias", "fusion.out.weight", "fusion.out.bias",
    "fusion.norm_out.weight", "fusion.norm_out.bias", "fusion.alpha",
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return vipa.build(small_models.VIPA, 0)


def test_stage1_trains_the_fusion_and_nothing_else(model):
    assert set(model.trainable_names("stage1")) == FUSION


def test_copying_says_words_again_and_reads_a_third_as_many_pages(model):
    read = []

    class Reading(nn.Module):
        def forward(self, pages):
            return torch.tensor(0.25), len(pages)

    reading = loop.Task(Reading(), lambda items, seed: read.append(list(items)) or "pages", 9, "1")
    task = base.copy_task(model, reading)
    tokens, pages = task.batch(list(range(70)), 3)
    assert read == [list(range(24))]
    periods = [int((labels == IGNORE).sum()) for labels in tokens.labels]
    assert {*periods} == {*base.PERIODS}
    for ids, labels, period in zip(tokens.input_ids, tokens.labels, periods, strict=True):
        assert torch.equal(ids[period:], ids[:-period])
        assert torch.equal(labels[period:], ids[period:])
    assert len(tokens.input_ids[:, :3].unique()) > 70
    with torch.no_grad():
        loss, count = task.objective((tokens, pages))
        logits = model.vlm(input_ids=tokens.input_ids).logits
        each = [
            torch.nn.functional.cross_entropy(scores[period - 1 : -1], ids[period:], reduction="sum")
            for scores, ids, period in zip(logits, tokens.input_ids, periods, strict=True)
        ]
    assert count == sum(base.COPY_LENGTH - period for period in periods)
    assert float(loss) == pytest.approx(float(sum(each)) / count + base.READ_WEIGHT * 0.25, rel=1e-5)


def test_words_written_over_visual_tokens_add_up_and_keep_their_length(model):
    """Naive twin, place by place."""
    visual = torch.randn(4, model.config.text.width, generator=torch.Generator().manual_seed(1))
    written = torch.tensor([[3, -1, -1], [3, 7, -1], [-1, -1, -1], [5, 6, 7]])
    ink = torch.tensor([0.5, 1.0, 1.0, 0.7])
    table = model.vlm.get_input_embeddings().weight
    with torch.no_grad():
        found = base.written_over(model, visual, written, ink[:, None])
        for place, words in enumerate(written.tolist()):
            there = [table[word] / table[word].norm() for word in words if word >= 0]
            if not there:
                assert torch.equal(found[place], visual[place])
                continue
            said = sum(there) / sum(there).norm() * visual[place].norm()
            torch.testing.assert_close(found[place], 0.5 * visual[place] + ink[place] * said)


def test_fusion_starts_at_the_scale_of_what_it_is_added_to():
    made = vipa.build(small_models.VIPA, 0)
    size = made.config.vision.image_size
    pictures = np.random.default_rng(0).integers(0, 256, (3, size, size, 3)).astype(np.uint8)
    base.start_fusion(made, [base_data.LabelledFrame("clip", 0, rgb, {}, None) for rgb in pictures])
    with torch.no_grad():
        features = made.frame_features(torch.from_numpy(pictures)[:, None])
        semantic, spatial = features.semantic[:, 0], features.spatial[:, 0]
        added = made.fusion.eval()(semantic, spatial) - semantic
    # a layer norm's output has length 1 a number: alpha of it is what is added
    assert float(added.square().mean().sqrt() / semantic.square().mean().sqrt()) == pytest.approx(0.5, rel=0.01)


def test_stage2_trains_fusion_language_model_and_its_embeddings(model):
    found = set(model.trainable_names("stage2"))
    assert found > FUSION
    assert "vlm.model.language_model.embed_tokens.weight" in found  # motion tokens are rows of it
    assert all(name in FUSION or name.startswith(("vlm.model.language_model.", "vlm.lm_head.")) for name in found)


def test_stage3_trains_language_model_queries_and_head(model):
    found = set(model.trainable_names("stage3"))
    parts = {name.split(".")[0] for name in found}
    assert parts == {"vlm", "head", "action_queries"}
    assert all(name.startswith("vlm.model.language_model.") for name in found if name.startswith("vlm."))


@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3"])
def test_both_encoders_and_the_projector_stay_frozen(model, stage):
    frozen = ("spatial_encoder.", "vlm.model.vision_tower.", "vlm.model.multi_modal_projector.")
    assert not [name for name in model.trainable_names(stage) if name.startswith(frozen)]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A workspace whose upstream tables are there, of a handful of painted clips."""
    root = tmp_path_factory.mktemp("workspace")
    scenes = [make_scene(root / "raw", f"s{i}", i, "test" if i == 3 else "train") for i in range(4)]
    for name in ("raw_videos", "hand3d_visual", "hand3d_action"):
        (root / "data" / name / "a").mkdir(parents=True)
    rows = visual_rows(scenes)
    tables.write("clips", clips_table(scenes), root / "data/raw_videos/a/clips.parquet")
    tables.write("visual_rows", rows.filter(split="train"), root / "data/hand3d_visual/a/visual_rows.parquet")
    tables.write("visual_rows", rows.filter(split="test"), root / "data/hand3d_visual/a/held_out_rows.parquet")
    tables.write("action_rows", action_rows(scenes), root / "data/hand3d_action/a/action_rows.parquet")
    return root, scenes


def settings(num_steps: int) -> config.Config:
    train = config.TrainConfig(num_steps, 8, 1e-2, 0.01, 0.1, save_every=2)
    shards = {"a": config.ShardConfig("synthetic", "synthetic", "raw")}
    return config.Config(shards, train, train, train, train, model=config.ModelConfig(preset="small"))


@pytest.fixture
def small_world(workspace, monkeypatch):
    root, scenes = workspace
    if not weights_dir(root).joinpath("tokenizer").is_dir():
        pytest.skip("no tokenizer: run `hand3d bootstrap --only weights`")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    per_frame = replace(small_models.VIPA, state_per_frame=True, max_positions=2048)
    monkeypatch.setitem(presets.PRESETS, "small", lambda: per_frame)
    for module in (base, stages):
        monkeypatch.setattr(module, "read_clips", lambda *_: iter(scene.clip for scene in scenes))
    return root


@pytest.mark.slow
def test_base_and_both_pretraining_stages_from_end_to_end(small_world):
    """Each stage changes its own parameters only, its held-out loss falls, and a killed stage 2 ends as a whole one."""
    root = small_world
    made = [run_stage(root, settings(6), name) for name in ("base_model", "stage1_checkpoint", "stage2_checkpoint")]
    folders = [root / "data" / name for name in ("base_model", "stage1_checkpoint", "stage2_checkpoint")]
    for before, after, stage in zip(folders, folders[1:], ("stage1", "stage2"), strict=False):
        old, new = (load_file(folder / "model.safetensors") for folder in (before, after))
        changed = {name for name in old if not torch.equal(old[name], new[name])}
        allowed = set(VipaVLA.load(before).trainable_names(stage))
        assert changed
        assert changed <= allowed
    assert made[2].metrics["held_out/loss_after"] < made[2].metrics["held_out/loss_before"]
    training = json.loads((folders[2] / "training.json").read_text())
    assert training["steps"] == {"stage2": 6}
    assert set(training["data_versions"]) == {"stage1_checkpoint", "raw_videos", "hand3d_action"}
    assert tracking.run_metrics(root, training["mlflow_run_id"])["stage2/loss"] == pytest.approx(
        training["losses"]["stage2"][-1], abs=1e-5
    )
    _kill_and_resume(root, folders[2])


def _kill_and_resume(root, folder):
    expected, real, calls = load_file(folder / "model.safetensors"), loop.Checkpoint.save, []

    def killing(self, *args):
        real(self, *args)
        calls.append(1)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Checkpoint, "save", killing)
        with pytest.raises(KeyboardInterrupt):
            run_stage(root, settings(6), "stage2_checkpoint")
    assert calls
    assert torch.equal(
        load_file(folder / "model.safetensors")["fusion.alpha"], expected["fusion.alpha"]
    )  # left untouched
    run_stage(root, settings(6), "stage2_checkpoint")
    resumed = load_file(folder / "model.safetensors")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in expected.items())
