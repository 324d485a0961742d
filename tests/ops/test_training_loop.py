"""The loop against closed forms, and a killed run against one that was not."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

from ops.config import TrainConfig
from ops.models.dropout import Dropout, drawing_from
from ops.training import loop

LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
X = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
Y = X @ torch.arange(5.0) + 1


class Objective(nn.Module):
    """A regression with dropout, so that randomness inside a step counts as well."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), Dropout(0.3), nn.Linear(8, 1))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, batch):
        items, seed = batch
        noise = torch.randn(len(items), generator=torch.Generator().manual_seed(seed)) * 0.01
        return ((self.net(X[items])[:, 0] + noise - Y[items]) ** 2).mean(), len(items)


def task(objective=None, data_version="1"):
    return loop.Task(objective or Objective(), lambda items, seed: (list(items), seed), len(X), data_version)


def config(**changes):
    values = {"num_steps": 30, "batch_size": 8, "lr": 0.01, "weight_decay": 0.01, "warmup_ratio": 0.1, "save_every": 7}
    return TrainConfig(**(values | changes))


def losses(curve):
    return [record.loss for record in curve]


def unequal():
    """A task whose parts have unequal numbers of labels."""

    class Unequal(Objective):
        def forward(self, batch):
            items = [i for i in batch[0] if i % 5]
            return ((self.net(X[items])[:, 0] - Y[items]) ** 2).mean(), len(items)

    return task(Unequal())


class KilledError(Exception):
    pass


def killed_at(last):
    def progress(items, **_):
        for item in items:
            if item == last:
                raise KilledError
            yield item

    return progress


@pytest.mark.parametrize(("last", "muon_lr"), [(3, None), (7, None), (16, None), (29, None), (16, 0.02)])
def test_killed_run_ends_as_the_uninterrupted_one(tmp_path, last, muon_lr):
    whole, settings = task(), config(muon_lr=muon_lr)
    expected = loop.train(whole, settings, tmp_path / "whole", "test")
    with pytest.raises(KilledError):
        loop.train(task(), settings, tmp_path / "killed", "test", killed_at(last))
    resumed = task()
    torch.manual_seed(999)  # nothing may hang on the global generator
    curve = loop.train(resumed, settings, tmp_path / "killed", "test")
    assert losses(curve) == losses(expected)
    assert [r.grad_norm for r in curve] == [r.grad_norm for r in expected]
    for ours, theirs in zip(resumed.objective.parameters(), whole.objective.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_resume_starts_where_it_was_saved_and_only_for_the_same_run(tmp_path):
    started = []

    def watched(items, **_):
        started.append(items[0])
        yield from items

    with pytest.raises(KilledError):
        loop.train(task(), config(), tmp_path, "test", killed_at(16))
    loop.train(task(), config(), tmp_path, "test", watched)
    loop.train(task(data_version="2"), config(), tmp_path, "test", watched)
    loop.train(task(), config(lr=0.02), tmp_path, "test", watched)
    assert started == [14, 0, 0]


def test_muon_is_for_weight_matrices_that_are_no_embeddings():
    made = nn.ModuleDict({"embed_tokens": nn.Embedding(9, 4), "net": nn.Linear(4, 2), "patch": nn.Conv2d(3, 4, 2)})
    trained = dict(made.named_parameters())
    adamw, muon = loop.optimizers_of(trained, config(muon_lr=0.02))
    held = [{id(p) for group in one.param_groups for p in group["params"]} for one in (adamw, muon)]
    assert isinstance(muon, torch.optim.Muon)
    assert held[1] == {id(made["net"].weight)}
    assert held[0] == {id(p) for p in trained.values()} - held[1]
    (alone,) = loop.optimizers_of(trained, config())
    assert isinstance(alone, torch.optim.AdamW)
    assert len(alone.param_groups[0]["params"]) == len(trained)


def test_muon_follows_the_schedule_of_the_learning_rate(tmp_path):
    """Naive twin: both optimisers by hand."""
    ours, settings = task(), config(muon_lr=0.02)
    loop.train(ours, settings, tmp_path, "test")
    twin = Objective().train()
    matrices = [p for p in twin.parameters() if p.requires_grad and p.ndim == 2]
    others = [p for p in twin.parameters() if p.requires_grad and p.ndim != 2]
    two = torch.optim.AdamW(others, lr=0.01, weight_decay=0.01), torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01)
    for step in range(30):
        share = loop.learning_rate(step, settings) / 0.01
        seed = loop.step_seed(42, step)
        torch.manual_seed(seed)
        twin((loop.batch_indices(step, 40, 8, 42), seed))[0].backward()
        torch.nn.utils.clip_grad_norm_([*matrices, *others], 1.0)
        for optimizer, lr in zip(two, (0.01, 0.02), strict=True):
            optimizer.param_groups[0]["lr"] = lr * share
            optimizer.step()
            optimizer.zero_grad()
    for one, other in zip(ours.objective.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_loop_equals_the_plain_loop(tmp_path):
    """Naive twin: torch's own AdamW, its scheduler, its clipping."""
    ours, settings = task(), config()
    curve = loop.train(ours, settings, tmp_path, "test")
    twin = Objective().train()
    optimizer = torch.optim.AdamW([p for p in twin.parameters() if p.requires_grad], lr=0.01, weight_decay=0.01)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / 3, 1.0, total_iters=2)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 27)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [3])
    order = np.concatenate([np.random.default_rng((42, epoch)).permutation(40) for epoch in range(6)])
    for step in range(30):
        seed = loop.step_seed(42, step)
        torch.manual_seed(seed)
        loss, _ = twin((order[step * 8 : step * 8 + 8].tolist(), seed))
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in twin.parameters() if p.requires_grad], 1.0)
        assert curve[step].lr == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        assert curve[step].loss == pytest.approx(float(loss), rel=1e-5)
    assert torch.equal(ours.objective.frozen, torch.ones(3))


def test_every_item_is_seen_once_an_epoch():
    seen = [i for step in range(5) for i in loop.batch_indices(step, 40, 8, seed=3)]
    assert sorted(seen) == list(range(40))
    assert loop.batch_indices(0, 40, 8, seed=3) != loop.batch_indices(0, 40, 8, seed=4)
    assert len(loop.batch_indices(2, 3, 8, seed=3)) == 8  # fewer items than a batch: several epochs in one


def test_not_a_number_is_an_error_naming_step_and_items(tmp_path):
    broken = Objective()
    broken.forward = lambda batch: (sum(p.sum() for p in broken.net.parameters()) * float("nan"), 1)
    with pytest.raises(FloatingPointError, match=r"step 0, items \["):
        loop.train(task(broken), config(), tmp_path, "test")


def test_what_cannot_be_trained_is_refused(tmp_path):
    frozen = Objective()
    frozen.requires_grad_(False)
    with pytest.raises(ValueError, match="set_stage"):
        loop.train(task(frozen), config(), tmp_path, "test")
    with pytest.raises(ValueError, match="batch_size 8 cannot be cut over 3"):
        loop.train(task(), config(cpu_parts=3), tmp_path, "test")
    with pytest.raises(ValueError, match="no training rows"):
        loop.train(loop.Task(Objective(), lambda *_: None, 0, ""), config(), tmp_path, "test")


def test_parts_on_threads_train_as_the_whole_batch(tmp_path, monkeypatch):
    """Without dropout, whose draws differ; labels are spread unevenly over the parts."""
    monkeypatch.setattr(Dropout, "forward", lambda _, x: x)
    whole, cut = unequal(), unequal()
    expected = loop.train(whole, config(), tmp_path / "whole", "test")
    found = loop.train(cut, config(cpu_parts=2), tmp_path / "cut", "test")
    assert losses(found) == pytest.approx(losses(expected), rel=1e-4)
    for ours, theirs in zip(cut.objective.parameters(), whole.objective.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_parts_on_threads_are_repeatable_and_leave_torchs_threads_as_they_were(tmp_path):
    """Whichever thread is faster: dropout draws from its part's own generator. A killed run goes on as it would have."""
    before = torch.get_num_threads()
    settings = config(cpu_parts=4)
    runs = [loop.train(task(), settings, tmp_path / str(k), "test") for k in range(3)]
    with pytest.raises(KilledError):
        loop.train(task(), settings, tmp_path / "killed", "test", killed_at(16))
    runs.append(loop.train(task(), settings, tmp_path / "killed", "test"))
    assert all(losses(run) == losses(runs[0]) for run in runs)
    assert losses(runs[0]) != losses(loop.train(task(), config(), tmp_path / "whole", "test"))  # dropout is at work
    assert torch.get_num_threads() == before


def test_dropout_with_a_generator_is_torchs_own():
    """The same masks as nn.Dropout draws from the global generator, and the same gradient."""
    x = torch.randn(64, 7, requires_grad=True)
    torch.manual_seed(3)
    expected = nn.Dropout(0.3)(x)
    with drawing_from(torch.Generator().manual_seed(3)):
        found = Dropout(0.3)(x)
        assert torch.equal(Dropout(0.3).eval()(x), x)
    assert torch.allclose(found, expected)
    assert (found == 0).any()
    assert torch.equal(*(torch.autograd.grad(y.sum(), x)[0] for y in (found, expected)))


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """Two gloo processes give the losses of one process on the whole batch."""
    script = tmp_path / "two.py"
    script.write_text(
        textwrap.dedent("""
        import json, sys
        from pathlib import Path
        import torch
        from torch import nn
        from ops.config import TrainConfig
        from ops.training import loop
        X = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
        Y = X @ torch.arange(5.0) + 1
        class Objective(nn.Module):
            def __init__(self):
                super().__init__()
                torch.manual_seed(1)
                self.net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
            def forward(self, items):
                keep = [i for i in items if i % 3]  # unequal numbers of labels a process
                return ((self.net(X[keep])[:, 0] - Y[keep]) ** 2).mean(), len(keep)
        config = TrainConfig(20, 8, 0.01, 0.01, 0.1)
        curve = loop.train(loop.Task(Objective(), lambda items, seed: items, 40, "1"), config, Path(sys.argv[1]), "t")
        import os
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if os.environ.get("RANK", "0") == "0":
            Path(sys.argv[1], "losses.json").write_text(json.dumps([world, [r.loss for r in curve]]))
        """)
    )
    env = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    results = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        launch = LAUNCH if number == 2 else []
        subprocess.run([sys.executable, *launch, str(script), str(folder)], check=True, timeout=120, env=env)
        world, found = json.loads((folder / "losses.json").read_text())
        assert world == number
        results.append(found)
    assert results[0] == pytest.approx(results[1], rel=1e-4)
