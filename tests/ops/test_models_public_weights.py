"""Loading of the public checkpoints, proved on tiny random ones written in their layout and under their key names."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import InternVLForConditionalGeneration

from ops.models import public_weights
from ops.models.cut3r import Cut3r
from ops.models.vipa import VipaVLA, internvl_config
from tests.ops.small_models import CUT3R, LAYOUT, VIPA, images, prompt, untied
from tests.ops.test_models_cut3r import aliases

SPARE = 40  # the published embedding has untrained rows behind its last token


def write(folder: Path, *, tied: bool, names: str = "old") -> tuple[Path, Path, InternVLForConditionalGeneration]:
    """names: "old" = language_model.model..., as files saved before transformers 4.52; "new" = model.language_model..."""
    torch.manual_seed(0)
    config = internvl_config(VIPA if tied else untied(VIPA), LAYOUT)
    config.text_config.vocab_size = LAYOUT.motion_open + SPARE
    vlm = InternVLForConditionalGeneration(config).eval()
    vlm.save_pretrained(folder / "internvl")
    path = folder / "internvl" / "model.safetensors"
    state = {
        name: tensor.clone() for name, tensor in vlm.state_dict().items() if not (tied and name == "lm_head.weight")
    }
    save_file(
        {_old_name(name) if names == "old" else name: t for name, t in state.items()}, path, metadata={"format": "pt"}
    )
    spatial = Cut3r(CUT3R)
    torch.save({"args": None, "model": spatial.state_dict() | aliases(spatial.state_dict())}, folder / "cut3r.pth")
    return folder / "internvl", folder / "cut3r.pth", vlm


def _old_name(name: str) -> str:
    name = name.removeprefix("model.")
    if name.startswith("language_model."):
        return name.replace("language_model.", "language_model.model.", 1)
    return "language_model." + name if name.startswith("lm_head") else name


@pytest.mark.parametrize("names", ["old", "new"])
@pytest.mark.parametrize("tied", [True, False])
def test_public_layouts_load(tmp_path: Path, tied: bool, names: str) -> None:
    internvl, cut3r_path, vlm = write(tmp_path, tied=tied, names=names)
    model = public_weights.load(internvl, cut3r_path, like=replace(VIPA, text=replace(VIPA.text, width=64)))
    assert model.config.text == (VIPA if tied else untied(VIPA)).text, "sizes come from the folder"
    mine, theirs = model.vlm.state_dict(), vlm.state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        rows = LAYOUT.motion_open if name.endswith(("embed_tokens.weight", "lm_head.weight")) else None
        assert torch.equal(mine[name][:rows], tensor[:rows]), name
    spatial = torch.load(cut3r_path, weights_only=True)["model"]
    assert all(torch.equal(tensor, spatial[name]) for name, tensor in model.spatial_encoder.state_dict().items())
    assert (model.vlm.lm_head.weight is model.vlm.get_input_embeddings().weight) is tied
    assert not [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]


def test_new_tokens_begin_at_the_mean_of_the_published(tmp_path: Path) -> None:
    internvl, cut3r_path, vlm = write(tmp_path, tied=False)
    model = public_weights.load(internvl, cut3r_path, like=VIPA)
    table = model.vlm.get_input_embeddings().weight
    mean = vlm.get_input_embeddings().weight[: LAYOUT.motion_open].mean(0)
    assert table.shape[0] == LAYOUT.vocab_size
    assert (table[LAYOUT.motion_open :] - mean).abs().max() < 1e-3
    assert model.vlm.lm_head.weight.shape[0] == LAYOUT.vocab_size
    assert model.fusion.alpha.item() == 0.5


def test_loaded_model_works_and_saves(tmp_path: Path) -> None:
    internvl, cut3r_path, _ = write(tmp_path, tied=True)
    model = public_weights.load(internvl, cut3r_path, like=VIPA, dtype=torch.bfloat16)
    assert model.spatial_encoder.pose_token.dtype == torch.float32
    assert model.vlm.lm_head.weight.dtype == torch.bfloat16
    ids = torch.tensor([prompt("where?", 2)])
    features = model.encode_frames(images(0, 1, 2))
    condition = model.action_condition(features, ids, torch.ones_like(ids))
    assert torch.isfinite(condition.float()).all()
    assert model.head.sample(
        condition, torch.zeros(1, 8, dtype=torch.bfloat16), torch.Generator().manual_seed(0)
    ).shape == (1, 4, 7)
    assert model.generate(features, ids, torch.ones_like(ids), 3).shape[1] <= 3
    model.save(tmp_path / "saved")
    loaded = VipaVLA.load(tmp_path / "saved")
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    internvl, cut3r_path, _ = write(tmp_path, tied=True)
    with pytest.raises(ValueError, match=r"no config\.json.*InternVL3_5-2B-HF"):
        public_weights.load(tmp_path / "nothing", cut3r_path, like=VIPA)
    weights = load_file(internvl / "model.safetensors")
    removed = next(name for name in weights if "linear_2.weight" in name)
    save_file(
        {k: v for k, v in weights.items() if k != removed}, internvl / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(ValueError, match=r"1 weights are missing.*linear_2"):
        public_weights.load(internvl, cut3r_path, like=VIPA)
    config = json.loads((internvl / "config.json").read_text())
    (internvl / "config.json").write_text(json.dumps(config | {"model_type": "internvl_chat"}))
    with pytest.raises(ValueError, match="type 'internvl_chat'"):
        public_weights.load(internvl, cut3r_path, like=VIPA)


@pytest.mark.parametrize(
    ("section", "name", "value"), [("text_config", "rms_norm_eps", 1e-5), ("vision_config", "use_qk_norm", True)]
)
def test_another_arithmetic_is_refused(tmp_path: Path, section: str, name: str, value: object) -> None:
    internvl, cut3r_path, vlm = write(tmp_path, tied=True)
    setattr(getattr(vlm.config, section), name, value)
    InternVLForConditionalGeneration(vlm.config).save_pretrained(internvl)
    with pytest.raises(ValueError, match=f"{section} {name} is {value}"):
        public_weights.load(internvl, cut3r_path, like=VIPA)
