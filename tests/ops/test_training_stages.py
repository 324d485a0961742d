"""Each stage trains exactly the paper's parts."""

import pytest

from ops.models import vipa
from tests.ops import small_models

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
