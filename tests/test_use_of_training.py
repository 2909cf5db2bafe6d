"""How train.py uses its formulas: what a run does with its schedule, groups, seeds and order.

test_train.py shows that the formulas are right; here one short run is watched from outside.
"""
import json
import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch

import train
from runs import configs


@pytest.fixture(scope="module")
def watched(tree, tmp_path_factory):
    """A run of 2 epochs x 4 steps, and what was seen of it."""
    seen = SimpleNamespace(seeds=[], index=[], in_training=[], in_evaluation=[], rows=[], rates=[])
    out = tmp_path_factory.mktemp("watched")
    real_step = train.forward_backward
    real_evaluate = train.evaluate
    real_take_step = train.take_step
    patch = pytest.MonkeyPatch()

    def step(model, parts, seeds, *rest):
        seen.seeds.append(seeds)
        seen.index.append(torch.cat([part["index"] for part in parts]).tolist())
        seen.in_training.append(model.training)
        return real_step(model, parts, seeds, *rest)

    def evaluate(model, *args, **options):
        hook = model.register_forward_pre_hook(
            lambda module, _: seen.in_evaluation.append(module.training))
        try:
            return real_evaluate(model, *args, **options)
        finally:
            hook.remove()

    def take_step(run, *rest):
        result = real_take_step(run, *rest)
        seen.rates.append(run.optimizer.param_groups[0]["lr"])
        return result

    patch.setattr(train, "forward_backward", step)
    patch.setattr(train, "take_step", take_step)
    patch.setattr(train, "evaluate", evaluate)
    patch.setattr(train, "write_results", lambda *_, **__: None)
    patch.setattr(train, "draw_curves", lambda *_, **__: None)
    cfgs = configs(tree, out, log_every=1, new_lr=7.0, warmup=0.5)
    try:
        train.train(*cfgs)
    finally:
        patch.undo()
    seen.cfg = cfgs[0]
    lines = (out / "metrics.jsonl").read_text().splitlines()
    seen.rows = [row for row in map(json.loads, lines) if row["kind"] == "step"]
    seen.saved = torch.load(out / "last.pt", weights_only=True)
    return seen


def test_the_schedule_runs_over_all_epochs(watched):
    """It does not begin again with an epoch: 2 steps of warm-up, then one cosine over the rest."""
    base = [watched.cfg.lr * train.lr_factor(step, warmup=2, total=8) for step in range(8)]
    logged = [row["lr"] for row in watched.rows]
    assert logged == pytest.approx(base), "the rate that is logged is not the schedule's"

    factor = watched.saved["optimizer"]["param_groups"][0]["factor"]
    want = [factor * rate for rate in base]
    assert watched.rates == pytest.approx(want), "the learning rates of a run are not its " \
        "schedule's: does the step count begin again in each epoch?"


def test_what_starts_from_nothing_learns_at_its_own_rate(watched):
    """--new-lr 7: seven times the base rate, in the optimizer itself, adapters and P2V alike."""
    groups = watched.saved["optimizer"]["param_groups"]
    last = watched.cfg.lr * train.lr_factor(7, warmup=2, total=8)
    rates = {group["name"]: group["lr"] for group in groups}
    for name in ("video tower", "pose tower", "text tower", "P2V", "V2P"):
        assert rates[name] == pytest.approx(7 * last), f"--new-lr has no effect on the {name}"


def test_every_epoch_has_its_own_order(watched):
    """Both epochs see clips of the training set, in other orders."""
    assert watched.index[:4] != watched.index[4:], "the clips come in the same order in every epoch"


def test_no_step_repeats_anothers_random_numbers(watched):
    """Seeds of parts and of losses: other ones in each step of each epoch."""
    for place in range(len(watched.seeds[0])):
        seeds = [step[place] for step in watched.seeds]
        assert len(set(seeds)) == len(seeds) == 8, \
            "two steps draw the same: is the epoch in the seed?"


def test_training_trains_and_evaluation_does_not(watched):
    """DropPath and dropout are on in all steps, after an evaluation too, and off in evaluations."""
    assert all(watched.in_training) and len(watched.in_training) == 8
    assert watched.in_evaluation and not any(watched.in_evaluation), "evaluated in training mode"


@pytest.fixture
def prepared(tree, tmp_path):
    """A function that prepares a run and gives it with its first batch."""
    runs = []

    def prepare(**changes):
        run = train.prepare(*configs(tree, tmp_path / str(len(runs)), **changes))
        run.model.train()
        runs.append(run)
        loader = torch.utils.data.DataLoader(run.train_set, batch_sampler=run.order)
        return run, next(iter(loader))

    yield prepare
    for run in runs:
        train.close_folder(run)


def norm_at_the_update(run, batch):
    """The norm of all gradients at the moment when the optimizer uses them."""
    seen = []

    def measure(*_, **__):
        grads = [p.grad for group in run.optimizer.param_groups for p in group["params"]
                 if p.grad is not None]
        seen.append(float(torch.stack([g.norm() for g in grads]).norm()))

    run.optimizer.register_step_pre_hook(measure)
    train.take_step(run, batch, 0)
    return seen[0]


def test_clip_grad_is_the_largest_norm(prepared):
    """--clip-grad 1e-3: that is the norm of what the optimizer gets; without, it is larger."""
    assert norm_at_the_update(*prepared(clip_grad=0.0)) > 2e-3
    got = norm_at_the_update(*prepared(clip_grad=1e-3))
    assert got == pytest.approx(1e-3, rel=1e-2), "--clip-grad has no effect"


def test_ranks_drop_other_paths(prepared, monkeypatch):
    """The seed of a part has the rank in it, that of the loss has not."""
    seen = []

    class Enough(Exception):
        """Nothing behind the seeds is needed."""

    def note(model, parts, seeds, *_):
        seen.append(seeds)
        raise Enough

    monkeypatch.setattr(train, "forward_backward", note)
    for rank in (0, 1):
        run, batch = prepared()
        run.world = run.world._replace(rank=rank)
        run.memory_told = True
        with pytest.raises(Enough):
            train.take_step(run, batch, 0)
    (part_0, loss_0), (part_1, loss_1) = seen
    assert part_0 != part_1, "all ranks draw the same DropPath"
    assert loss_0 == loss_1, "the loss must draw alike on all ranks"


def test_unscaled_first_then_cut(prepared):
    """fp16's scaler multiplies gradients; the norm that is asked for is that of the true ones."""
    true_norm = norm_at_the_update(*prepared(clip_grad=0.0))
    run, batch = prepared(clip_grad=100 * true_norm)             # more than there is, if unscaled

    class Scaler:
        """Scales by 1024 as a GPU's would."""

        def scale(self, loss):
            return 1024 * loss

        def unscale_(self, optimizer):
            for group in optimizer.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.grad /= 1024

        def is_enabled(self):
            return False

        def step(self, optimizer):
            optimizer.step()

        def update(self):
            pass

    run.scaler = Scaler()
    assert norm_at_the_update(run, batch) == pytest.approx(true_norm, rel=1e-2)


def slow_to_be_quiet(number):
    """A worker on a loaded machine: it takes a second before it comes to its own first line."""
    time.sleep(1)
    train.quiet_worker(number)


def test_a_signal_does_not_end_a_worker_that_is_starting():
    """SIGTERM to the group in a loader's first second: the batch comes all the same."""
    loader = torch.utils.data.DataLoader(range(4), num_workers=1, worker_init_fn=slow_to_be_quiet)
    with train.held_signals():
        batches = iter(loader)
    time.sleep(0.5)
    os.kill(batches._workers[0].pid, signal.SIGTERM)
    assert next(batches).item() == 0
    batches._shutdown_workers()
