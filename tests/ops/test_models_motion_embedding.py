"""Starting values of the motion tokens: ordered, of the right length, and nothing else is touched."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from ops.models import motion_embedding, vipa
from ops.models.motion_embedding import START_NATS
from ops.models.tokenizer import NUM_BINS, TokenizerConfig
from tests.ops.small_models import LAYOUT, VIPA, untied


def test_likeness_falls_with_the_distance_of_bins_alone():
    rows = motion_embedding.features(NUM_BINS, 128, 16, 0, seed=3).double().numpy()
    likeness = rows @ rows.T
    np.testing.assert_allclose(np.diag(likeness), 1, atol=1e-6)
    for distance in (1, 8, 100):
        side = np.diag(likeness, distance)
        np.testing.assert_allclose(side, side[0], atol=1e-6)
    means = [likeness[0, distance] for distance in (0, 2, 8, 16, 32, 64, 128, 256)]
    assert all(near > far + 0.001 for near, far in pairwise(means))
    assert likeness[0, 256:].max() < 0.6  # far bins share but the common half


def test_axes_share_the_sinusoids_and_are_told_apart_by_the_common_half():
    x, y = (motion_embedding.features(NUM_BINS, 32, 4, axis, seed=3) for axis in (0, 1))
    shift = x - y
    np.testing.assert_allclose(shift, shift[:1].expand_as(shift), atol=1e-6)
    assert float(shift[0].norm()) == pytest.approx(1, rel=1e-5)


def test_a_state_at_a_bin_says_this_bin_and_its_neighbours():
    model = vipa.build(VIPA, 0)
    motion_embedding.start(model, 1)
    first, last = LAYOUT.motion_range(0)
    head = model.vlm.lm_head.weight[first:last]
    state = model.vlm.model.language_model.norm(head[[300]])
    scores = (head @ state.T)[:, 0].detach()
    assert sorted(scores.topk(3).indices.tolist()) == [299, 300, 301]
    assert scores.argmax() == 300
    assert scores.max() == pytest.approx(2 * START_NATS, rel=1e-3)
    assert scores.max() - scores[[0, 1023]].max() == pytest.approx(START_NATS, rel=0.5)


@pytest.mark.parametrize("config", [VIPA, untied(VIPA), replace(VIPA, tokenizer=TokenizerConfig(0, "per_axis"))])
def test_only_motion_tokens_change_and_equal_seeds_agree(config):
    models = [vipa.build(config, 0) for _ in range(3)]
    motion_embedding.start(models[1], 5)
    motion_embedding.start(models[2], 5)
    first, last = LAYOUT.motion_range(0)[0], models[0].layout.vocab_size
    for (name, old), new, again in zip(
        models[0].named_parameters(), models[1].parameters(), models[2].parameters(), strict=True
    ):
        assert torch.equal(new, again), name
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            assert bool((old[first:last] != new[first:last]).any(dim=1).all())
            old, new = old[:first], new[:first]
        assert torch.equal(old, new), name


def test_untied_inputs_are_as_long_as_text():
    model = vipa.build(untied(VIPA), 0)
    motion_embedding.start(model, 5)
    table = model.vlm.get_input_embeddings().weight.detach()
    first, last = LAYOUT.motion_range(2)
    text = table[: LAYOUT.num_pieces].norm(dim=1).mean()
    np.testing.assert_allclose(table[first:last].norm(dim=1), np.full(NUM_BINS, text), rtol=1e-4)


def test_too_narrow_a_model_is_refused():
    with pytest.raises(ValueError, match="do not fit into a width of 34"):
        motion_embedding.features(NUM_BINS, 34, 16, 0, seed=3)
