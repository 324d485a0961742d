"""Chunks, scaling, and the policy made of them."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from ops.models import vipa
from ops.robots.policies import Observation
from ops.training import policy, robot_data
from ops.training.robot_data import PolicySettings, Range
from tests.ops import small_models


def test_chunks_end_with_their_episode():
    """Naive twin: a loop that looks at one step at a time."""
    episode = np.array([0, 0, 0, 0, 0, 3, 3, 4])
    steps, mask = robot_data.chunk_indices(episode, 4)
    for start in range(len(episode)):
        last = max(i for i in range(len(episode)) if episode[i] == episode[start])
        assert steps[start].tolist() == [min(start + k, last) for k in range(4)]
        assert mask[start].tolist() == [start + k <= last for k in range(4)]


def test_unsorted_episodes_are_refused():
    with pytest.raises(ValueError, match="ascending"):
        robot_data.chunk_indices(np.array([1, 0]), 4)


def test_scaling_maps_the_data_to_minus_one_and_one_and_back():
    values = np.random.default_rng(0).normal(2, 3, (50, 7)).astype(np.float32)
    values[:, 3] = 0.25  # never changes
    found = Range.of(values)
    scaled = found.scale(values)
    moving = [0, 1, 2, 4, 5, 6]
    np.testing.assert_allclose(scaled[:, moving].min(axis=0), -1, atol=1e-6)
    np.testing.assert_allclose(scaled[:, moving].max(axis=0), 1, atol=1e-6)
    assert not scaled[:, 3].any()
    np.testing.assert_allclose(found.unscale(scaled), values, atol=1e-5)


def test_small_corrections_are_not_blown_up_to_the_size_of_reaching():
    """A turn of +-0.03 beside a reach of +-0.8: wide ranges stay as they are, the narrow one is widened about its middle."""
    values = np.array([[-0.8, -0.01, 0.4], [0.8, 0.05, 0.4]], np.float32)
    found = Range.of(values, least_half=0.25)
    np.testing.assert_allclose(found.scale(values), [[-1, -0.12, 0], [1, 0.12, 0]], atol=1e-6)
    np.testing.assert_allclose(found.unscale(found.scale(values)), values, atol=1e-6)


def test_statistics_of_broken_data_are_refused():
    with pytest.raises(ValueError, match="1 not finite"):
        Range.of(np.array([[0.0, np.nan]]))


def test_settings_survive_the_disk(tmp_path):
    settings = PolicySettings(Range((0.0, -1.0), (1.0, 2.5)), Range((0.5,), (0.75,)), ("agentview", "wrist"))
    settings.save(tmp_path)
    assert PolicySettings.load(tmp_path) == settings


def test_gripper_is_a_decision_and_actions_stay_in_range():
    found = policy.robot_actions(np.array([[2.0, -3, 0.5, 0, 0, 0, 0.01], [0, 0, 0, 0, 0, 0, -0.2]]))
    assert found[:, -1].tolist() == [1, -1]
    assert found[0, :3].tolist() == [1, -1, 0.5]


@dataclass
class Dataset:
    """Four steps; the image is new at every second one."""

    images: dict
    state: np.ndarray
    action: np.ndarray
    episode_index: np.ndarray
    task_index: np.ndarray
    tasks: tuple

    def conditioning_rows(self):
        return np.array([0, 2])


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A checkpoint as stage 3 leaves it, and what it was made of."""
    from ops.bootstrap import weights_dir

    weights = weights_dir(tmp_path)
    if not (weights / "tokenizer").is_dir():
        pytest.skip("no tokenizer: run `hand3d bootstrap --only weights`")
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (4, 40, 40, 3), dtype=np.uint8)
    data = Dataset({"agentview": pictures}, rng.normal(size=(4, 8)).astype(np.float32), rng.uniform(-1, 1, (4, 7)).astype(np.float32),
                   np.zeros(4, int), np.zeros(4, int), ("pick up the soup",))  # fmt: skip
    model = vipa.build(small_models.VIPA, 0)
    settings = robot_data.settings_of(data)
    folder = tmp_path / "checkpoint"
    model.save(folder)
    settings.save(folder)
    policy.keep_tokenizer(weights, folder)
    return folder, data, model, settings


def test_policy_gives_what_the_training_side_would(trained):
    """Independent route: the batch that training makes of the same step, sampled with the same noise."""
    folder, data, model, settings = trained
    made = policy.VipaPolicy(folder)
    source = robot_data.ChunkSource(model, made.tokenizer, data, settings)
    batch = source.batch([1], 0)
    assert torch.equal(batch.actions[0], torch.from_numpy(source.actions[[2, 3, 3, 3]]))
    assert batch.mask[0].tolist() == [True, True, False, False]
    with torch.no_grad():
        h_cond = model.action_condition(batch.features, batch.tokens.input_ids, batch.tokens.attention_mask)
        expected = model.head.sample(h_cond, batch.state, torch.Generator().manual_seed(5), 4)[0].numpy()
    made.reset(5)
    found = made.act(Observation({"agentview": data.images["agentview"][2]}, data.state[2], "pick up the soup"))
    np.testing.assert_allclose(found, policy.robot_actions(settings.action.unscale(expected)), atol=1e-5)
    made.reset(5)
    again = made.act(Observation({"agentview": data.images["agentview"][2]}, data.state[2], "pick up the soup"))
    np.testing.assert_array_equal(found, again)


def test_kept_features_give_the_same_batch(trained, tmp_path):
    folder, data, model, settings = trained
    tokenizer = policy.VipaPolicy(folder).tokenizer
    plain, kept = (robot_data.ChunkSource(model, tokenizer, data, settings) for _ in range(2))
    kept.fill(tmp_path, "v1")
    assert kept.cached is not None
    torch.testing.assert_close(
        plain.batch([0, 1], 0).features.spatial, kept.batch([0, 1], 0).features.spatial, atol=2e-2, rtol=2e-3
    )


def test_missing_view_is_named(trained):
    folder, data, _, _ = trained
    with pytest.raises(ValueError, match="agentview"):
        policy.VipaPolicy(folder).act(Observation({}, data.state[0], "pick up the soup"))


def test_flow_objective_reaches_language_model_queries_and_head(trained):
    folder, data, model, settings = trained
    source = robot_data.ChunkSource(model, policy.VipaPolicy(folder).tokenizer, data, settings)
    model.set_stage("stage3")
    loss, count = robot_data.FlowObjective(model)(source.batch([0, 1], 0))
    loss.backward()
    assert count == 6
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(model.trainable_names("stage3"))
