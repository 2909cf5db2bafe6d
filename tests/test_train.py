"""train.py: schedule and groups against their formulas, exact resume, a batch over processes.

here                        | what is shown
Schedule, groups, settings  | rates of Sec. 4.1, what decays, presets and recipes
One step                    | parts and processes have the loss and gradients of the whole batch
Stopping and continuing     | a run that was stopped or killed ends bit for bit as one that was not
Guards                      | losses that are no numbers, broken clips, settings that do not fit
The command line            | files, lines and exit codes of the real command

Runs are of two epochs with four steps each, on 16 clips (tests/runs.py), and draw no pictures.
"""
import dataclasses
import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import children
import train
from data import DataConfig
from report.log import count_saved, reach_table
from runs import configs, leave_out_pictures, outcome, same, words
from steps import clips, close, cut, gradients, tiny_model
from support import checkpoints, processes
from support.settings import build_configs
from support.signals import Signals
from systems.config import PeVLConfig
from tables.rows import RECIPES, presets
from train import GlobalBatches, TrainConfig, forward_backward, lr_factor, optimizer_groups
from waiting import wait_for

HERE = Path(train.__file__).parent


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    """test_command draws them; here they would take half of the time."""
    leave_out_pictures(monkeypatch)


@pytest.fixture(scope="session")
def undisturbed(tree, tmp_path_factory):
    """The folder of a run that nothing has stopped; read it, or copy it."""
    out = tmp_path_factory.mktemp("undisturbed")
    train.train(*configs(tree, out))
    return out


@pytest.fixture
def finished(undisturbed, tmp_path):
    """A copy of that folder, to spoil or to go on with."""
    return shutil.copytree(undisturbed, tmp_path / "finished")


def log_of(folder):
    return (folder / "log.txt").read_text()


# ---- Schedule, groups, settings ------------------------------------------------------------------

@given(st.integers(0, 30) | st.floats(0, 30), st.integers(1, 200))
def test_schedule(warmup, total):
    """Linear up to 1 and never beyond, then the cosine, which is 0 one step after the last."""
    for step in range(total):
        if step < warmup:
            formula = min((step + 1) / warmup, 1)
        else:
            done = (step - warmup) / max(total - warmup, 1)
            formula = 0.5 * (1 + math.cos(math.pi * done))
        assert lr_factor(step, warmup, total) == pytest.approx(formula, abs=1e-12)
    assert lr_factor(warmup, warmup, warmup + total) == 1
    assert lr_factor(warmup + total, warmup, warmup + total) == pytest.approx(0, abs=1e-12)


# Matrices that hold one vector for each joint, place or class, and do not decay either.
BARE = ("joint", "position", "class_embedding", "positional_embedding", "temporal_embedding",
        "proj", "text_projection")


@pytest.mark.parametrize("changes", [{}, {"model": "vilp"}, {"model": "aim"}, {"tune": "all"}])
def test_groups(changes):
    """Every trained parameter is in one group; only matrices decay; the kind sets the factor."""
    model = tiny_model(**changes)
    cfg = TrainConfig(new_lr=7.0, trunk_lr=0.5, weight_decay=0.1)
    groups = optimizer_groups(model, cfg)
    grouped = [id(p) for group in groups for p in group["params"]]
    trained = [id(p) for p in model.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trained), "a parameter is in no group, or in two"

    name_of = {id(p): name for name, p in model.named_parameters()}
    kind_of = {group["name"]: group["kind"] for group in model.parameter_groups()}
    factor_of = {"new": 7.0, "trunk": 0.5}
    for group in groups:
        assert group["factor"] == factor_of[kind_of[group["name"]]], group["name"]
        for p in group["params"]:
            name = name_of[id(p)]
            is_bare = name.split(".")[-1] in BARE or "token_embedding" in name
            if p.dim() < 2 or is_bare:
                assert group["weight_decay"] == 0, f"{name} decays"
            else:
                assert group["weight_decay"] == 0.1, f"{name} does not decay"


def parse(*argv):
    """A command line -> TrainConfig, DataConfig, PeVLConfig, presets applied."""
    return build_configs(list(argv), (TrainConfig, DataConfig, PeVLConfig), presets)[0]


def rates(cfg):
    """What a recipe sets."""
    return cfg.lr, cfg.new_lr, cfg.batch, cfg.warmup, cfg.weight_decay, cfg.epochs


def test_presets_are_the_papers():
    """Sec. 4.1 typed once more; the toy's own; a row's overrides under the command line's word."""
    default = TrainConfig()
    assert default.lr == 8e-6
    assert default.weight_decay == 0.05
    assert default.epochs == 50
    assert default.warmup == 3

    cfg, data, model = parse("--data", "diving48")
    assert (data.pose_frames, data.video_frames, data.image_size) == (48, 16, 224)
    assert model.lambda_r == 0.1
    assert model.own_loss == 0
    assert model.tau_fw == 0.01
    assert cfg == dataclasses.replace(default, recipe="paper")   # said, though nothing changes

    cfg, data, model = parse("--row", "table5/no-p2v", "--lr", "0.5")
    assert model.backbone == "tiny"
    assert not model.p2v
    assert model.v2p
    assert cfg.lr == 0.5
    cfg, data, model = parse("--row", "table7/p")
    assert not data.read_video
    assert data.read_poses


def test_presets_of_vilp_and_aim():
    """Their authors' settings, typed once more, and the toy's own for each."""
    cfg, data, model = parse("--data", "ucf101", "--model", "vilp")
    assert (model.video_frames, cfg.lr, cfg.weight_decay, cfg.epochs) == (8, 5e-5, 0.2, 30)
    assert cfg.trunk_lr == 0.1
    assert data.prompt == "This is a video about {}"

    cfg, data, model = parse("--model", "vilp")
    assert (model.backbone, model.gate_raw, model.tau_fw, cfg.trunk_lr) == ("tiny", True, 1, 1)
    assert (data.video_frames, data.image_size) == (16, 80)

    cfg, data, model = parse("--model", "aim")
    assert data.read_video
    assert not data.read_poses
    assert (data.video_frames, cfg.lr) == (8, 2e-3)

    cfg, data, model = parse("--data", "diving48", "--model", "aim")
    assert rates(cfg) == (3e-4, default_of("new_lr"), 64, 2.5, 0.05, 50)
    assert data.crop_area == 0.08
    assert data.flip
    assert model.drop_path == 0.2


def default_of(name):
    return getattr(TrainConfig(), name)


def test_recipes(capsys):
    """Sec. 4.1 and AIM's typed once more; over any preset, under the command line; PeVL's alone."""
    for data in ("diving48", "toy"):
        cfg, _, _ = parse("--data", data, "--recipe", "paper")
        assert rates(cfg) == (8e-6, 1, 32, 3, 0.05, 50)
        cfg, _, model = parse("--data", data, "--recipe", "aim", "--row", "table5/no-v2p")
        assert rates(cfg) == (3e-4, 1, 64, 2.5, 0.05, 50)
        assert cfg.recipe == "aim"
        assert not model.v2p

    _, _, model = parse("--recipe", "aim")
    assert model.backbone == "tiny", "the rest of a preset stays"
    cfg, _, _ = parse("--data", "gym99", "--recipe", "aim", "--batch", "16", "--new-lr", "3")
    assert rates(cfg) == (3e-4, 3, 16, 2.5, 0.05, 50)

    assert parse("--data", "gym99")[0].recipe == "paper"
    assert parse()[0].recipe == "preset"
    for model in ("vilp", "aim"):
        flags = ["--data", "ucf101", "--model", model]
        assert parse(*flags)[0].recipe == "preset"
        with pytest.raises(SystemExit):
            parse(*flags, "--recipe", "aim")
        assert f"--recipe aim beside --model {model}. Expected PeVL" in capsys.readouterr().err


def test_sums_of_rates():
    """How far a weight can go on Diving48's 15,027 clips: 0.094 by the paper, 1.76 by AIM's."""
    def sums(count, **changes):
        cfg = TrainConfig(**{**RECIPES["paper"], **changes})
        steps = count // cfg.batch                # of an epoch
        return train.sums_of_rates(cfg, cfg.warmup * steps, cfg.epochs * steps)

    assert sums(15_027)["new"] == pytest.approx(0.094, abs=5e-4)
    assert sums(15_027, **RECIPES["aim"])["new"] == pytest.approx(1.76, abs=5e-3)
    both = sums(320, lr=1e-3, new_lr=5.0, trunk_lr=0.5)
    assert both["new"] == pytest.approx(10 * both["trunk"])
    half_of_the_peak = 0.5e-3 / 2
    assert both["trunk"] == pytest.approx(half_of_the_peak * 10 * 50, rel=0.05)


def test_reach_table():
    """Each part's sum beside the deviation of its widest matrix; a note names what falls short."""
    model = tiny_model(tune="all")
    down = model.video.blocks[0].mlp_adapter.down.weight
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.01)
        model.clip.visual.proj.normal_()                         # CLIP's need not move
        down.normal_(std=0.5)
    lines = reach_table(model, {"new": 0.25, "trunk": 0.1}).splitlines()
    row_of = {}
    for line in lines:
        row_of[line.split()[0]] = line.split()
    widest = "video.blocks.0.mlp_adapter.down.weight"
    assert row_of["video"][2:] == ["0.25", f"{down.std():.2g}", widest]
    assert row_of["CLIP"][1] == "0.1"
    assert row_of["CLIP"][3] == "clip.visual.proj"
    assert row_of["temperatures"][1:] == ["0.25", "-"]
    assert len(lines) == 2 + len(model.parameter_groups()), "a head, a row each, a note"
    assert lines[-1].startswith("note: cannot move: video tower. Their rates sum to less")

    assert "note" not in reach_table(model, {"new": 0.6, "trunk": 0.1})
    assert "note" not in reach_table(model, {"new": 0.25, "trunk": 0.1}, drawn=False)


def test_reach_is_told_once(tree, finished):
    """At the start of a run, and not when it goes on: then weights are not where they started."""
    assert "note: cannot move: " in log_of(finished)
    train.train(*configs(tree, finished))
    assert "continuing" in log_of(finished)
    assert log_of(finished).count("learning rates") == 1


@given(st.integers(1, 6), st.integers(0, 9), st.integers(1, 4), st.integers(1, 3),
       st.integers(0, 5), st.integers(0, 3))
def test_batches_of_ranks(count, rest, world, share, epoch, start):
    """The ranks' parts make up one process's batches, in order; a start position only skips."""
    batch = world * share
    clips = count * batch + rest % batch

    def batches(rank, world, start=0):
        order = GlobalBatches(clips, batch, seed=3, rank=rank, world=world)
        order.epoch = epoch
        order.start = start
        return list(order)

    whole = batches(0, 1)
    of_ranks = [batches(rank, world) for rank in range(world)]
    for number, batch_of_one in enumerate(whole):
        together = []
        for own in of_ranks:
            together += own[number]
        assert together == batch_of_one, "the ranks do not share out the batch"
    for own in of_ranks:
        assert len(own) == len(whole) == count, "a rank has another number of batches"
    assert batches(0, 1, start) == whole[start:]

    seen = [i for indices in whole for i in indices]
    assert len(set(seen)) == len(seen), "a clip comes twice in an epoch"
    assert all(i // clips == epoch for i in seen), "what a clip draws depends on the epoch"


# ---- One step: parts and processes equal the whole batch -----------------------------------------

MODELS = [{}, {"model": "vilp"}, {"model": "aim"}, {"own_loss": 0.3, "tune": "all"},
          {"text": False, "sgl": False}]


def seeds_of(parts):
    """A seed for each part of a batch, and one for its losses, which AIM's dropout depends on."""
    return [*((i,) for i in range(parts)), (9,)]


@pytest.mark.parametrize("changes", MODELS)
def test_accumulation(changes):
    """Four parts give the loss and the gradients of the whole batch."""
    model = tiny_model(**changes)
    batch = clips(8)
    terms, _ = forward_backward(model, [batch], seeds_of(1))
    whole = gradients(model)
    model.zero_grad(set_to_none=True)
    again, features = forward_backward(model, cut(batch, 4), seeds_of(4))
    assert features["index"].tolist() == list(range(8))
    close(again, terms)
    close(gradients(model), whole)


def test_accumulation_repeats_its_random_numbers():
    """With stochastic depth on: equal to one graph over all parts, each seeded alike."""
    model = tiny_model(drop_path=0.5)
    parts = cut(clips(8), 4)
    forward_backward(model, parts, seeds_of(4))
    cached = gradients(model)

    model.zero_grad(set_to_none=True)
    features = []
    for part, seed in zip(parts, seeds_of(4)):
        processes.reseed(*seed)
        features.append(model(part))
    whole = {}
    for name in features[0]:
        whole[name] = torch.cat([one[name] for one in features])
    model.losses(whole)["total"].backward()
    close(cached, gradients(model))


def gradient_job(rank, world, cases, path):
    """A rank of the test below: its terms, gradients and clips of each case, into a file."""
    processes.join_world("cpu")
    found = []
    for changes, accumulate in cases:
        model = tiny_model(**changes)
        parts = cut(cut(clips(8), world)[rank], accumulate)
        terms, everyone = forward_backward(model, parts, seeds_of(accumulate))
        processes.average_gradients(model.parameter_groups())
        found.append({"terms": terms, "gradients": gradients(model), "index": everyone["index"]})
    torch.save(found, f"{path}/{rank}.pt")
    processes.leave_world()


def test_two_processes(tmp_path):
    """Half the batch on each of two gloo ranks: loss and gradients of the whole, on both."""
    cases = [(changes, 1) for changes in MODELS]
    cases.append(({}, 2))                         # and in two parts on each
    children.start_gloo(2, gradient_job, cases, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for (changes, _), *of_ranks in zip(cases, first, second):
        model = tiny_model(**changes)
        whole, _ = forward_backward(model, [clips(8)], seeds_of(1))
        for found in of_ranks:
            close(found["terms"], whole)
            close(found["gradients"], gradients(model))
            assert found["index"].tolist() == list(range(8))


def test_two_processes_train_alike(tree, tmp_path):
    """The command on two ranks: batches, losses and weights as on one, to rounding; one writes."""
    flags = {"epochs": 1, "drop_path": 0.0}       # dropped paths differ between ranks
    train.train(*configs(tree, tmp_path / "one", **flags))
    children.start_gloo(2, children.run_rank, words(tree, tmp_path / "two", **flags))
    one = outcome(tmp_path / "one")
    two = outcome(tmp_path / "two")
    close(two.model, one.model, 1e-3)             # AdamW makes lr of rounding near 0
    assert two.at["step"] == one.at["step"]
    assert len(two.rows) == len(one.rows)
    for row, other in zip(two.rows, one.rows):
        assert row.get("total") == pytest.approx(other.get("total"), rel=1e-4)


# ---- Stopping and continuing ---------------------------------------------------------------------

def test_resume(tree, undisturbed, tmp_path, monkeypatch):
    """Stopped after steps 2 and 6, other numbers of workers each time: the undisturbed run."""
    real = train.take_step
    steps = []

    def step(run, batch, stop):
        steps.append(run.at["step"])
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        if len(steps) == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return real(run, batch, stop)

    monkeypatch.setattr(train, "take_step", step)
    for workers in (2, 0):
        with pytest.raises(train.Stopped):
            train.train(*configs(tree, tmp_path, workers=workers))
    metrics = train.train(*configs(tree, tmp_path, workers=1, resume=True))
    assert metrics["clips"] == 4
    assert same(outcome(tmp_path), outcome(undisturbed))
    assert steps == list(range(8)), "a step was done twice, or left out"
    assert "continuing" in log_of(tmp_path)

    again = train.train(*configs(tree, tmp_path))
    assert len(steps) == 8, "a run that is complete takes another step"
    assert same(again["confusion"], metrics["confusion"])


def test_half_precision_may_begin_later(undisturbed):
    """--force --precision fp16: a run without a scaler left none, and one starts anew."""
    saved = checkpoints.read_checkpoint(undisturbed / "last.pt")
    assert saved["scaler"] == {}
    optimizer = torch.optim.AdamW([{"params": [], "factor": 1.0}])
    saved["optimizer"] = optimizer.state_dict()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    checkpoints.load_optimizer(optimizer, scaler, saved, undisturbed)
    assert scaler.get_scale() == 8


def test_a_second_signal_is_obeyed_at_once():
    """Each as it is without us: Ctrl-C by its exception, SIGTERM by its exit code."""
    for number, error in ((signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)):
        with Signals() as signals, pytest.raises(error) as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.caught == signal.SIGTERM
            os.kill(os.getpid(), number)
            time.sleep(1)                         # a signal reaches Python between two lines
        if number == signal.SIGTERM:
            assert stop.value.code == 143


def wait_for_checkpoint(folder):
    written = wait_for((folder / "last.pt").exists, seconds=150)
    assert written, "the run writes no checkpoint"


def test_a_kill(tree, undisturbed, tmp_path):
    """SIGKILL once there is a checkpoint: the same command goes on, and ends bit for bit as if
    nothing had been (tests/attack.py kills twenty times, at any moment)."""
    argv = words(tree, tmp_path, save_minutes=0, log_every=3)
    child = children.SERVER.Process(target=children.run_command, args=(argv,))
    child.start()
    wait_for_checkpoint(tmp_path)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert not same(outcome(tmp_path), outcome(undisturbed)), "the kill came too late"

    child = children.SERVER.Process(target=children.run_command, args=(argv,))
    child.start()
    child.join(300)
    assert child.exitcode == 0
    assert same(outcome(tmp_path), outcome(undisturbed))


def run_in_own_group(argv):
    """A run that leads a group of processes, as the one that Slurm would signal."""
    os.setpgid(0, 0)
    children.run_command(argv)


def test_sigterm_of_the_command(tree, tmp_path):
    """A SIGTERM to the command and its workers alike: a saved step, exit code 143."""
    argv = words(tree, tmp_path, workers=2, epochs=200, eval_every=200, save_minutes=0)
    process = children.SERVER.Process(target=run_in_own_group, args=(argv,))
    process.start()
    wait_for_checkpoint(tmp_path)
    os.killpg(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 143
    assert "SIGTERM: saved; the same command goes on" in log_of(tmp_path)
    assert checkpoints.read_checkpoint(tmp_path / "last.pt")["at"]["step"] > 0


def test_workers_outlive_a_sigterm_by_a_minute():
    """Long enough for the main process to save its step; no longer, or an exit could hang."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        train.quiet_worker(0)
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.alarm(0) == 0, "Ctrl-C is the main process's to answer"
        os.kill(os.getpid(), signal.SIGTERM)
        assert 50 < signal.alarm(0) <= 60, "a worker that got SIGTERM ends in a minute"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_torn_checkpoint(tree, undisturbed, finished):
    """A cut or altered last.pt is named and the one before is used; with none whole, an error."""
    last = finished / "last.pt"
    whole = last.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1:]
    for torn in (b"", whole[:middle], flipped):
        last.write_bytes(torn)
        with pytest.raises(ValueError, match="torn or no checkpoint"):
            checkpoints.read_checkpoint(last)

    train.train(*configs(tree, finished))
    assert same(outcome(finished), outcome(undisturbed))
    assert "last.pt is torn" in log_of(finished)

    for name in train.NAMES:
        (finished / name).write_bytes(b"no zip")
    with pytest.raises(ValueError, match="no checkpoint in .* can be read"):
        train.train(*configs(tree, finished))
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        checkpoints.read_checkpoint(finished / "none.pt")


def test_changed_settings(tree, tmp_path):
    """Refused by name; --force notes them; --fresh begins again; what changes no number is free."""
    train.train(*configs(tree, tmp_path, epochs=1))
    with pytest.raises(ValueError, match=r"epochs from 1 to 2; lr from 0.001 to 0.002\. .*--force"):
        train.train(*configs(tree, tmp_path, lr=2e-3))
    with pytest.raises(ValueError, match="data set from"):
        train.train(*configs(tree, tmp_path, epochs=1, prompt="{} seen"))
    train.train(*configs(tree, tmp_path, epochs=1, workers=1, save_minutes=1.0))

    # A run that is older than a setting goes on: it was trained as that setting's default does.
    now = checkpoints.read_checkpoint(tmp_path / "last.pt")["identity"]
    older = {name: value for name, value in now.items() if name != "shots"}
    assert train.changed_settings(older, now) == ""
    assert train.changed_settings(older, {**now, "shots": 3}) == "shots from 0 to 3"

    train.train(*configs(tree, tmp_path, force=True, new_lr=3.0, weight_decay=0.2))
    assert outcome(tmp_path).at["step"] == 8, "the second epoch was not trained"
    assert "other settings (--force): epochs from 1 to 2" in log_of(tmp_path)
    for group in outcome(tmp_path).optimizer["param_groups"]:
        if group["weight_decay"]:
            assert group["weight_decay"] == 0.2, "--force kept the old decay"
        if "temperatures" not in group["name"] and "CLIP" not in group["name"]:
            assert group["factor"] == 3.0, "--force kept the old factor on the rate"

    # Twice the batch would be half the steps: the rate would jump, and the log lose rows.
    with pytest.raises(ValueError, match="another number of steps than the 2 of now"):
        train.train(*configs(tree, tmp_path, force=True, batch=8))

    train.train(*configs(tree, tmp_path, fresh=True, epochs=1))
    assert outcome(tmp_path).at["step"] == 4
    assert "other settings" not in log_of(tmp_path)
    with pytest.raises(ValueError, match="--fresh and not --resume"):
        train.train(*configs(tree, tmp_path / "new", resume=True))


# ---- What a run measures, keeps and logs ---------------------------------------------------------

class Scripted(train.Job):
    """Held-out figures that are known beforehand, one a measurement."""

    def __init__(self, **figures):
        self.figures = figures
        self.times = 0

    def measure(self, run, dataset):
        found = {name: values[self.times] for name, values in self.figures.items()}
        self.times += 1
        return found

    def finish(self, run):
        return {}


def test_best_is_the_epoch_with_the_highest_figure(tree, tmp_path):
    """The first of equals, by top-1, the first figure of this benchmark; last.pt is the last."""
    job = Scripted(top1=[0.25, 0.5, 0.5, 0.1], mean=[0.9, 0.1, 0.1, 0.1])
    train.train(*configs(tree, tmp_path, epochs=4), job)
    assert checkpoints.read_checkpoint(tmp_path / "best.pt")["at"]["measured"] == 2
    assert checkpoints.read_checkpoint(tmp_path / "last.pt")["at"]["epoch"] == 4


def test_best_goes_by_the_first_figure_of_the_benchmark(tree, tmp_path, monkeypatch):
    """Toyota-Smarthome's is the mean over classes."""
    real = train.Job.open_split

    def open_split(self, cfg, split, train):
        found = real(self, cfg, split, train)
        found.metrics = ("mean", "top1")
        return found

    monkeypatch.setattr(Scripted, "open_split", open_split)
    train.train(*configs(tree, tmp_path, epochs=2), Scripted(top1=[0.25, 0.5], mean=[0.9, 0.1]))
    assert checkpoints.read_checkpoint(tmp_path / "best.pt")["at"]["measured"] == 1


def test_measured_every_second_epoch_and_after_the_last(tree, tmp_path):
    """--eval-every 2 of three epochs."""
    train.train(*configs(tree, tmp_path, epochs=3, eval_every=2), Scripted(top1=[0.1, 0.2]))
    rows = [row for row in outcome(tmp_path).rows if row["kind"] == "epoch"]
    assert [row["epoch"] for row in rows if "top1" in row] == [2, 3]


def test_rows_of_the_log_are_means(tree, tmp_path):
    """Of the steps since the row before, and of an epoch's."""
    train.train(*configs(tree, tmp_path / "one", epochs=1, log_every=1), Scripted(top1=[0.1]))
    train.train(*configs(tree, tmp_path / "three", epochs=1, log_every=3), Scripted(top1=[0.1]))
    steps = [row for row in outcome(tmp_path / "one").rows if row["kind"] == "step"]
    (epoch,) = [row for row in outcome(tmp_path / "one").rows if row["kind"] == "epoch"]
    shown = [row for row in outcome(tmp_path / "three").rows if row["kind"] == "step"]
    assert [row["step"] for row in shown] == [3, 4]
    for name in ("total", "L_t", "L_R", "grad_norm"):
        values = [row[name] for row in steps]
        assert epoch[name] == pytest.approx(sum(values) / 4)
        assert shown[0][name] == pytest.approx(sum(values[:3]) / 3)
        assert shown[1][name] == pytest.approx(values[3])


def test_accumulate_runs_all_parts_of_a_batch(tree, tmp_path, monkeypatch):
    """--accumulate 2: each half once, with a seed of its own, and the whole batch's step."""
    real = train.forward_backward
    seen = []

    def note(model, parts, seeds, *rest):
        seen.append(([part["index"].tolist() for part in parts], seeds))
        return real(model, parts, seeds, *rest)

    monkeypatch.setattr(train, "forward_backward", note)
    flags = {"epochs": 1, "drop_path": 0.0, "log_every": 1}
    train.train(*configs(tree, tmp_path / "whole", **flags))
    whole = list(seen)
    seen.clear()
    train.train(*configs(tree, tmp_path / "parts", accumulate=2, **flags))
    for (parts, seeds), ([batch], _) in zip(seen, whole, strict=True):
        assert parts == [batch[:2], batch[2:]]
        assert len(set(seeds)) == 3

    rows = zip(outcome(tmp_path / "parts").rows, outcome(tmp_path / "whole").rows, strict=True)
    for ours, theirs in rows:
        assert ours.get("total") == pytest.approx(theirs.get("total"), rel=1e-4)
        assert ours.get("grad_norm") == pytest.approx(theirs.get("grad_norm"), rel=1e-2)


def test_one_broken_clip_in_a_hundred_is_borne():
    """Two of 200 are told and replaced; with a third the run ends."""
    def run():
        return SimpleNamespace(at={"broken": []}, config={"allow_broken": False, "data": "toy"},
                               data_cfg=DataConfig(root="some/where"),
                               train_set=range(200), names=lambda indices: list(map(str, indices)))

    train.note_broken(run(), [3, 5])
    with pytest.raises(ValueError, match="3 of 200 clips are broken.*check toy --root some/where"):
        train.note_broken(run(), [3, 5, 7])


def test_fresh_forgets_a_run_that_never_saved(tree, tmp_path):
    """There is no checkpoint to keep, but rows of the log, which the new run's would follow."""
    (tmp_path / "metrics.jsonl").write_text('{"kind": "step", "step": 30, "total": 9.0}\n')
    train.train(*configs(tree, tmp_path, fresh=True, epochs=1))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if row["kind"] == "step"]
    assert 30 not in steps, "a row of the run before is left"
    assert steps == sorted(steps)


def test_full_disk(tree, tmp_path, monkeypatch):
    """A write that fails is an error that names the last good checkpoint, which stays whole."""
    real = torch.save
    calls = []

    def save(value, file):
        calls.append(file)
        if len(calls) == 3:
            Path(file).write_bytes(b"half a file")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(value, file)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(ValueError, match=r"No space left.*MiB free; last good .*last.pt\."):
        train.train(*configs(tree, tmp_path))
    assert checkpoints.read_checkpoint(tmp_path / "last.pt")["at"]["step"] == 4
    assert not list(tmp_path.glob(".part*"))


def test_a_file_in_the_way(tree, tmp_path, capsys):
    """A run folder that cannot be made: an error that names it, exit code 2."""
    (tmp_path / "file").write_text("")
    assert train.main(words(tree, tmp_path / "file" / "run")) == 2
    said = capsys.readouterr().err
    assert "file/run" in said
    assert "Expected files and folders" in said
    assert "Traceback" not in said


# ---- Guards --------------------------------------------------------------------------------------

class Breaks:
    """In place of forward_backward: at one step, counted from 1, its loss and gradients are NaN.

    before: the trained weights as they were before each step.
    """

    def __init__(self, step):
        self.real = train.forward_backward
        self.step = step
        self.before = []

    def __call__(self, model, *rest):
        weights = {name: x.clone() for name, x in model.trainable_state().items()}
        self.before.append(weights)
        terms, everyone = self.real(model, *rest)
        if len(self.before) == self.step:
            terms["L_t"] = torch.tensor(math.nan)
            for p in model.parameters():
                if p.grad is not None:
                    p.grad.fill_(math.nan)
        return terms, everyone


def test_nonfinite(tree, tmp_path, monkeypatch):
    """The run stops, and names the terms, the clips and the last checkpoint."""
    monkeypatch.setattr(train, "forward_backward", Breaks(step=6))
    named = r"step 6: total .*L_t nan, L_R .*clips \w+, \w+, \w+, \w+\. .*last\.pt"
    with pytest.raises(ValueError, match=named):
        train.train(*configs(tree, tmp_path))


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaler of fp16"])
def test_nonfinite_steps_can_be_left_out(tree, tmp_path, monkeypatch, scaled):
    """With --skip-nonfinite such a step changes no weight, and the scale of fp16 stays."""
    make = torch.amp.GradScaler
    made = []

    def new_scaler(*_, **__):
        made.append(make("cpu", init_scale=4.0, enabled=scaled))
        return made[-1]

    breaks = Breaks(step=2)
    monkeypatch.setattr(torch.amp, "GradScaler", new_scaler)
    monkeypatch.setattr(train, "forward_backward", breaks)
    train.train(*configs(tree, tmp_path, epochs=1, skip_nonfinite=1))
    first, second, third, fourth = breaks.before
    assert not same(first, second)
    assert same(second, third), "the step that was to be left out changed the weights"
    assert not same(third, fourth)
    assert made[-1].get_scale() == (4.0 if scaled else 1.0), "no step overflowed"
    assert "left out (1 of 1)" in log_of(tmp_path)


def test_gradients_that_no_scale_makes_finite_end_the_run(tree, tmp_path, monkeypatch):
    """fp16's scaler is let search down to a scale of 1; what is infinite there stays infinite."""
    make, real = torch.amp.GradScaler, train.forward_backward

    def infinite(model, *rest):
        result = real(model, *rest)
        for p in model.parameters():
            if p.grad is not None:
                p.grad.fill_(math.inf)
        return result

    monkeypatch.setattr(torch.amp, "GradScaler", lambda *_, **__: make("cpu", init_scale=4.0))
    monkeypatch.setattr(train, "forward_backward", infinite)
    with pytest.raises(ValueError, match="not finite at step 3: .*grad_norm inf"):   # 4, 2, 1
        train.train(*configs(tree, tmp_path, epochs=1))


def test_one_label_alone_is_refused(monkeypatch):
    """All clips would be right, and nothing learned; an evaluation of one label is no mistake."""
    one_label = SimpleNamespace(by_label={0: [0, 1]})
    monkeypatch.setattr(train, "Clips", lambda *_: one_label)
    with pytest.raises(ValueError, match="one label alone"):
        train.Job().open_split(None, "train", train=True)
    assert train.Job().open_split(None, "test", train=False) is one_label


def test_broken_clips(tree, tmp_path):
    """One unreadable clip in sixteen stops; with --allow-broken it is replaced and named."""
    copy = shutil.copytree(tree, tmp_path / "copy")
    listed = json.loads((copy / "Diving48_V2_train.json").read_text())
    name = listed[0]["vid_name"]
    victim = copy / "rgb" / f"{name}.mp4"
    victim.write_bytes(victim.read_bytes()[:200])

    named = f"1 of 16 clips are broken: {name}. .*--allow-broken"
    with pytest.raises(ValueError, match=named):
        train.train(*configs(copy, tmp_path / "a"))

    train.train(*configs(copy, tmp_path / "b", allow_broken=True, epochs=1))
    assert f"1 broken clips were replaced: {name}" in log_of(tmp_path / "b")
    (epoch,) = [row for row in outcome(tmp_path / "b").rows if row["kind"] == "epoch"]
    assert epoch["broken"] == [name]


@pytest.mark.parametrize("changes, message", [
    ({"batch": 5, "accumulate": 2}, "Expected a multiple of 2, 16 at most"),
    ({"batch": 32}, "16 at most"),
    ({"precision": "bf16", "device": "cpu"}, "emulates it. Expected fp32"),
    ({"device": "cuda:77"}, "--device cuda:77 cannot be used"),
    ({"device": "gpu"}, "Expected auto, cpu, cuda"),
    ({"model": "clip"}, "nothing to train"),
])
def test_user_errors(tree, tmp_path, changes, message):
    """Settings that cannot work are refused before the first step, with what is expected."""
    with pytest.raises(ValueError, match=message):
        train.train(*configs(tree, tmp_path, **changes))


# ---- The command line ----------------------------------------------------------------------------

def test_command(tree, tmp_path):
    """Two steps of the real command: its files, its lines, its exit code."""
    argv = words(tree, tmp_path, epochs=1, batch=8, log_every=1)
    ran = subprocess.run([sys.executable, HERE / "train.py", *argv], capture_output=True,
                         text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    for part in ("parameters, M", "text discrepancies of Eq. (5)", "estimated: weights",
                 "epoch 1/1 step 2/2 total", "top1/vs", "test split, final weights"):
        assert part in ran.stdout, f"the command does not say {part}"
    for name in ("last.pt", "best.pt", "curves.png", "metrics.jsonl", "log.txt",
                 "confusion-test-1view.png"):
        assert (tmp_path / name).stat().st_size > 0, f"{name} is empty"

    about = json.loads((tmp_path / "config.json").read_text())
    assert about["config"]["lr"] == 1e-3
    assert about["versions"]["torch"] == torch.__version__
    rows = outcome(tmp_path).rows
    assert {row["kind"] for row in rows} == {"step", "epoch", "test"}
    assert rows[0].keys() >= {"total", "L_t", "L_R", "grad_norm", "lr", "step"}


def test_discrepancies_are_told_where_they_count(tree, tmp_path, capsys):
    """Eq. (5) is printed where the loss uses it (test_command sees it), and not without."""
    train.prepare(*configs(tree, tmp_path, sgl=False))
    said = capsys.readouterr().out
    assert "parameters, M" in said
    assert "text discrepancies" not in said


def test_tensorboard(tree, tmp_path, monkeypatch):
    """With the package, the figures of each row; without it, an error that names it."""
    written = set()

    class Board:
        def __init__(self, *_, **__):
            pass

        def add_scalar(self, name, value, step):
            written.add(name)

        def flush(self):
            pass

    package = "torch.utils.tensorboard"
    monkeypatch.setitem(sys.modules, package, SimpleNamespace(SummaryWriter=Board))
    train.train(*configs(tree, tmp_path, epochs=1, tensorboard=True))
    assert {"step/L_R", "epoch/top1", "test/top1/ps"} <= written

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match="pip install tensorboard"):
        train.train(*configs(tree, tmp_path, epochs=1, tensorboard=True))


def exit_code(argv):
    """What the command ends with: argparse raises SystemExit, the rest is returned."""
    try:
        return train.main(argv)
    except SystemExit as stopped:
        return stopped.code


@pytest.mark.parametrize("argv, message", [
    (["--row", "table5/nop2v"], "Did you mean 'table5/no-p2v'"),
    (["--row", "table5/no-p2v", "--model", "vilp"], "beside --model vilp"),
    (["--epoch", "3"], "--epochs"),
    (["--data", "diving48", "--root", "none", "--backbone", "tiny", "--image-size", "80"], "none"),
], ids=["row", "row and model", "flag", "data set"])
def test_command_errors(tmp_path, monkeypatch, capsys, argv, message):
    """One error and exit code 2: a wrong row, a wrong flag, a missing data set."""
    monkeypatch.chdir(tmp_path)
    assert exit_code(argv) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "error: " in said
    assert "Traceback" not in said


def test_rows_are_listed(capsys):
    """--list-rows prints the rows of the papers' tables, and is no error."""
    assert train.main(["--list-rows"]) == 0
    assert "table6/ps+fw" in capsys.readouterr().out


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: run on one to check autocast")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision(tree, tmp_path, precision):
    """A run in half precision ends, with losses that are numbers."""
    settings = configs(tree, tmp_path, precision=precision, device="cuda", accumulate=2)
    assert train.train(*settings)["clips"] == 4
    assert math.isfinite(outcome(tmp_path).rows[0]["total"])


def test_memory_is_that_of_one_part(tree, tmp_path, monkeypatch):
    """--accumulate saves memory, and the estimate says so: four clips in two parts keep half."""
    kept = []
    monkeypatch.setattr(train, "memory_estimate", lambda _, saved: kept.append(saved) or "told")
    for parts in (1, 2):
        train.train(*configs(tree, tmp_path / str(parts), epochs=1, accumulate=parts))
    whole, half = kept
    assert half < 0.6 * whole, f"{half} bytes of a part, {whole} of the whole batch"


def test_weights_are_no_activations():
    """Weights are not counted among what autograd keeps: a transposed one is a view of its own."""
    layers = [torch.nn.Linear(100, 100, bias=False) for _ in range(3)]
    x = torch.ones(2, 100, requires_grad=True)
    with count_saved() as seen:
        torch.nn.Sequential(*layers)(x).sum()
    inputs = 3 * 2 * 100 * 4                      # three of (2, 100) in float32
    assert sum(seen.values()) == inputs, "a weight was counted"
