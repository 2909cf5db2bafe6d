"""train.py: schedule and groups against their formulas; exact resume; processes and accumulation
against one whole batch; torn checkpoints, full disks, numbers that are none; the command line."""
import csv
import dataclasses
import errno
import json
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import train
from data import DataConfig
from clip_model import BACKBONES, CLIP, load_clip
from report.log import count_saved, reach_table
from runs import SMALL, configs, outcome, words
from support import checkpoints, processes
from support.settings import build_configs
from systems.config import PeVLConfig
from systems.registry import build_model
from tables.rows import RECIPES, presets
from train import GlobalBatches, TrainConfig, forward_backward, lr_factor, optimizer_groups

HERE = Path(train.__file__).parent
PRELOAD = multiprocessing.get_context("forkserver")        # children that do not import torch anew
PRELOAD.set_forkserver_preload(["train"])


def same(a, b):
    """Equal to the bit, through dicts, lists and tensors."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    """test_command draws them; here they would take half of the time."""
    monkeypatch.setattr(train, "write_results", lambda *_, **__: None)
    monkeypatch.setattr(train, "draw_curves", lambda *_, **__: None)
    monkeypatch.setattr(train, "write_report", lambda *_, **__: None)


@pytest.fixture(scope="session")
def undisturbed(tree, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    train.train(*configs(tree, out))
    return out


# ---- Schedule, groups, settings ------------------------------------------------------------------

@given(st.integers(0, 30), st.integers(1, 200))
def test_schedule(warmup, total):
    """Linear up to 1, then the cosine, which is 0 one step after the last."""
    for step in range(total):
        done = (step - warmup) / max(total - warmup, 1)
        formula = (step + 1) / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * done))
        assert lr_factor(step, warmup, total) == pytest.approx(formula, abs=1e-12)
    assert lr_factor(warmup, warmup, warmup + total) == 1
    assert lr_factor(warmup + total, warmup, warmup + total) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("changes", [{}, {"model": "vilp"}, {"model": "aim"}, {"tune": "all"}])
def test_groups(changes):
    """Every trained parameter is in one group; only matrices decay; the kind sets the factor."""
    model = tiny_model(**changes)
    cfg = TrainConfig(new_lr=7.0, trunk_lr=0.5, weight_decay=0.1)
    groups = optimizer_groups(model, cfg)
    ids = [id(p) for g in groups for p in g["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    names = {id(p): name for name, p in model.named_parameters()}
    kinds = {g["name"]: g["kind"] for g in model.parameter_groups()}
    for group in groups:
        assert group["factor"] == {"new": 7, "trunk": 0.5}[kinds[group["name"]]]
        for p in group["params"]:
            name = names[id(p)]
            bare = name.split(".")[-1] in ("joint", "position", "class_embedding",
                                           "positional_embedding",
                                           "temporal_embedding", "proj", "text_projection")
            plain = p.dim() < 2 or bare or "token_embedding" in name
            assert group["weight_decay"] == (0 if plain else 0.1), name


def test_presets_are_the_papers():
    """Sec. 4.1 typed once more; the toy's own; a row's overrides under the command line's word."""
    c = TrainConfig()
    assert (c.lr, c.weight_decay, c.epochs, c.warmup) == (8e-6, 0.05, 50, 3)
    classes = (TrainConfig, DataConfig, PeVLConfig)
    parse = lambda *argv: build_configs(list(argv), classes, presets)[0]
    cfg, data, model = parse("--data", "diving48")
    assert (data.pose_frames, data.video_frames, data.image_size) == (48, 16, 224)
    assert model.lambda_r == 0.1
    assert cfg == dataclasses.replace(c, recipe="paper")         # said, though nothing changes
    assert model.own_loss == 0 and model.tau_fw == 0.01
    cfg, data, model = parse("--row", "table5/no-p2v", "--lr", "0.5")
    assert model.backbone == "tiny" and not model.p2v and model.v2p and cfg.lr == 0.5
    cfg, data, model = parse("--data", "ucf101", "--model", "vilp")
    assert (model.video_frames, cfg.lr, cfg.weight_decay, cfg.epochs) == (8, 5e-5, 0.2, 30)
    assert cfg.trunk_lr == 0.1 and data.prompt == "This is a video about {}"
    cfg, data, model = parse("--row", "table7/p")
    assert not data.read_video and data.read_poses
    cfg, data, model = parse("--model", "vilp")                  # the toy benchmark has its own for each system
    assert (model.backbone, model.gate_raw, model.tau_fw, cfg.trunk_lr) == ("tiny", True, 1, 1)
    assert (data.video_frames, data.image_size) == (16, 80)
    cfg, data, model = parse("--model", "aim")
    assert data.read_video and not data.read_poses and (data.video_frames, cfg.lr) == (8, 2e-3)
    cfg, data, model = parse("--data", "diving48", "--model", "aim")     # its authors' for Diving48
    assert (cfg.lr, cfg.batch, cfg.warmup, cfg.weight_decay, cfg.epochs) == (3e-4, 64, 2.5, 0.05, 50)
    assert data.crop_area == 0.08 and data.flip and model.drop_path == 0.2


def test_recipes(capsys):
    """Sec. 4.1 and AIM's typed once more; over any preset, under the command line; PeVL's alone."""
    classes = (TrainConfig, DataConfig, PeVLConfig)
    parse = lambda *argv: build_configs(list(argv), classes, presets)[0]
    settings = lambda cfg: (cfg.lr, cfg.new_lr, cfg.batch, cfg.warmup, cfg.weight_decay, cfg.epochs)
    paper = (8e-6, 1, 32, 3, 0.05, 50)
    aim = (3e-4, 1, 64, 2.5, 0.05, 50)
    for data in ("diving48", "toy"):
        assert settings(parse("--data", data, "--recipe", "paper")[0]) == paper
        cfg, _, model = parse("--data", data, "--recipe", "aim", "--row", "table5/no-v2p")
        assert settings(cfg) == aim and cfg.recipe == "aim" and not model.v2p
    assert parse("--recipe", "aim")[2].backbone == "tiny"        # the rest of a preset stays
    cfg = parse("--data", "gym99", "--recipe", "aim", "--batch", "16", "--new-lr", "3")[0]
    assert settings(cfg) == (3e-4, 3, 16, 2.5, 0.05, 50)
    assert parse("--data", "gym99")[0].recipe == "paper" and parse()[0].recipe == "preset"
    for model in ("vilp", "aim"):
        assert parse("--data", "ucf101", "--model", model)[0].recipe == "preset"
        with pytest.raises(SystemExit):
            parse("--data", "ucf101", "--model", model, "--recipe", "aim")
        assert f"--recipe aim beside --model {model}. Expected PeVL" in capsys.readouterr().err


def test_sums_of_rates():
    """How far a weight can go on Diving48's 15,027 clips: 0.094 by the paper, 1.76 by AIM's."""
    def sums(clips, **changes):
        cfg = TrainConfig(**RECIPES["paper"] | changes)
        steps = clips // cfg.batch
        return train.sums_of_rates(cfg, cfg.warmup * steps, cfg.epochs * steps)

    assert sums(15_027)["new"] == pytest.approx(0.094, abs=5e-4)
    assert sums(15_027, **RECIPES["aim"])["new"] == pytest.approx(1.76, abs=5e-3)
    both = sums(320, lr=1e-3, new_lr=5.0, trunk_lr=0.5)
    assert both["new"] == pytest.approx(10 * both["trunk"])
    assert both["trunk"] == pytest.approx(0.5e-3 * 10 * 50 / 2, rel=0.05)  # half of the peak, or so


def test_reach_table():
    """Each part's sum beside the deviation of its widest matrix; what cannot get that far is named."""
    model = tiny_model(tune="all")
    down = model.video.blocks[0].mlp_adapter.down.weight
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.01)
        model.clip.visual.proj.normal_()                         # CLIP's need not move
        down.normal_(std=0.5)
    lines = reach_table(model, {"new": 0.25, "trunk": 0.1}).splitlines()
    video = next(line for line in lines if line.startswith("video tower")).split()
    assert video[2:] == ["0.25", f"{down.std():.2g}", "video.blocks.0.mlp_adapter.down.weight"]
    clip = next(line for line in lines if line.startswith("CLIP")).split()
    assert clip[1] == "0.1" and clip[3] == "clip.visual.proj"
    assert next(line for line in lines if line.startswith("temperatures")).split()[1:] == ["0.25", "-"]
    assert len(lines) == 2 + len(model.parameter_groups())
    assert lines[-1].startswith("note: cannot move: video tower. Their rates sum to less")
    assert "note" not in reach_table(model, {"new": 0.6, "trunk": 0.1})
    assert "note" not in reach_table(model, {"new": 0.25, "trunk": 0.1}, drawn=False)


def test_reach_is_told_once(tree, tmp_path):
    """At the start of a run, and not when it goes on: then weights are not where they started."""
    train.train(*configs(tree, tmp_path, epochs=1))
    assert "note: cannot move: video tower, pose tower" in (tmp_path / "log.txt").read_text()
    train.train(*configs(tree, tmp_path, force=True))
    assert (tmp_path / "log.txt").read_text().count("learning rates") == 1


@given(st.integers(1, 6), st.integers(0, 9), st.integers(1, 4), st.integers(1, 3),
       st.integers(0, 5), st.integers(0, 3))
def test_batches_of_ranks(count, rest, world, share, epoch, start):
    """The ranks' parts make up one process's batches, in order; a start position only skips."""
    batch = world * share
    clips = count * batch + rest % batch

    def batches(rank, world, start=0):
        order = GlobalBatches(clips, batch, 3, rank, world)
        order.epoch, order.start = epoch, start
        return list(order)

    whole = batches(0, 1)
    parts = [batches(rank, world) for rank in range(world)]
    assert whole == [sum(part, []) for part in zip(*parts)]
    assert batches(0, 1, start) == whole[start:]
    seen = [i for b in whole for i in b]
    assert len(whole) == count and len(set(seen)) == len(seen)
    assert all(i // clips == epoch for i in seen)


# ---- One step: parts and processes equal the whole batch -----------------------------------------

def tiny_model(seed=0, **changes):
    """A model of 6 labels on a random tiny CLIP, its zero-start parts moved off zero."""
    config = PeVLConfig(**SMALL | dict(clip="random", drop_path=0.0) | changes)
    torch.manual_seed(seed)
    clip = CLIP(dataclasses.replace(BACKBONES["tiny"], image_size=40))
    model = build_model(config, clip, [f"{n} somersaults" for n in "1 2 3 4 5 6".split()], 17)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn_like(p))
    for module in model.modules():                             # AIM's 0.5 differs between batches
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def clips(B, seed=1):
    g = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.rand(*shape, generator=g)
    return {"frames": (255 * rand(B, 2, 3, 40, 40)).byte(), "keypoints": 2 * rand(B, 4, 17, 2) - 1,
            "scores": rand(B, 4, 17).round(decimals=1), "label": torch.arange(B) % 4,
            "index": torch.arange(B),
            "broken": torch.zeros(B, dtype=torch.bool)}


def cut(batch, n):
    return [dict(zip(batch, x)) for x in zip(*(x.chunk(n) for x in batch.values()))]


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def close(a, b, tolerance=1e-5):
    assert a.keys() == b.keys()
    for name in a:
        largest = max(float(b[name].abs().max()), 1e-2)
        assert float((a[name] - b[name]).abs().max()) <= tolerance * max(largest, 1), name


MODELS = [{}, {"model": "vilp"}, {"model": "aim"}, {"own_loss": 0.3, "tune": "all"},
          {"text": False, "sgl": False}]


@pytest.mark.parametrize("changes", MODELS)
def test_accumulation(changes):
    """Four parts give the loss and the gradients of the whole batch."""
    model, batch, seeds = tiny_model(**changes), clips(8), [(i,) for i in range(5)]
    terms, _ = forward_backward(model, [batch], seeds[-2:])
    whole = gradients(model)
    model.zero_grad(set_to_none=True)
    again, features = forward_backward(model, cut(batch, 4), seeds)
    assert features["index"].tolist() == list(range(8))
    close(again, terms)
    close(gradients(model), whole)


def test_accumulation_repeats_its_random_numbers():
    """With stochastic depth on: equal to one graph over all parts, each seeded alike."""
    model, parts, seeds = tiny_model(drop_path=0.5), cut(clips(8), 4), [(i,) for i in range(5)]
    forward_backward(model, parts, seeds)
    cached = gradients(model)
    model.zero_grad(set_to_none=True)
    features = []
    for part, seed in zip(parts, seeds):
        processes.reseed(*seed)
        features.append(model(part))
    model.losses({k: torch.cat([f[k] for f in features]) for k in features[0]})["total"].backward()
    close(cached, gradients(model))


def gloo(rank, world, port, job, *args):
    """A child that is rank `rank` of `world` gloo processes."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank),
                      MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))
    job(rank, world, *args)


def start_gloo(world, job, *args):
    port = random.SystemRandom().randrange(20000, 60000)
    ranks = [PRELOAD.Process(target=gloo, args=(r, world, port, job, *args)) for r in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0] * world


def gradient_job(rank, world, cases, path):
    processes.join_world("cpu")
    found = []
    for changes, accumulate in cases:
        model = tiny_model(**changes)
        parts = cut(cut(clips(8), world)[rank], accumulate)
        terms, everyone = forward_backward(model, parts, [(i,) for i in range(len(parts) + 1)])
        processes.average_gradients(model.parameter_groups())
        found.append((terms, gradients(model), everyone["index"]))
    torch.save(found, f"{path}/{rank}.pt")
    processes.leave_world()


def test_two_processes(tmp_path):
    """Half the batch on each of two gloo ranks: loss and gradients of the whole, on both."""
    cases = [*((changes, 1) for changes in MODELS), ({}, 2)]
    start_gloo(2, gradient_job, cases, str(tmp_path))
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for (changes, _), *found in zip(cases, *ranks):
        model = tiny_model(**changes)
        whole, _ = forward_backward(model, [clips(8)], [(0,), (1,)])
        for terms, grads, index in found:
            close(terms, whole)
            close(grads, gradients(model))
            assert index.tolist() == list(range(8))


def run_job(rank, world, argv):
    train.write_results = train.write_report = train.draw_curves = lambda *_, **__: None
    sys.exit(train.main(argv))


def test_two_processes_train_alike(tree, tmp_path):
    """The command on two ranks: batches, losses and weights as on one, to rounding; one writes."""
    flags = dict(epochs=1, drop_path=0.0)                      # dropped paths differ between ranks
    train.train(*configs(tree, tmp_path / "one", **flags))
    start_gloo(2, run_job, words(tree, tmp_path / "two", **flags))
    one, two = outcome(tmp_path / "one"), outcome(tmp_path / "two")
    close(two[0], one[0], 1e-3)                                # AdamW makes lr of rounding near 0
    assert two[2]["step"] == one[2]["step"] and len(two[3]) == len(one[3])
    for row, other in zip(two[3], one[3]):
        assert row.get("total") == pytest.approx(other.get("total"), rel=1e-4)


# ---- Stopping and continuing ---------------------------------------------------------------------

def test_resume(tree, undisturbed, tmp_path, monkeypatch):
    """Stopped after steps 2 and 6, other numbers of workers each time: the undisturbed run."""
    real, steps = train.take_step, []

    def step(run, batch, stop):
        steps.append(run.at["step"])
        if len(steps) in (2, 6):
            os.kill(os.getpid(), signal.SIGTERM if len(steps) == 2 else signal.SIGINT)
        return real(run, batch, stop)

    monkeypatch.setattr(train, "take_step", step)
    for workers in (2, 0):
        with pytest.raises(train.Stopped):
            train.train(*configs(tree, tmp_path, workers=workers))
    metrics = train.train(*configs(tree, tmp_path, workers=1, resume=True))
    assert same(outcome(tmp_path), outcome(undisturbed))
    assert steps == list(range(8)) and metrics["clips"] == 4     # nothing was done twice
    again = train.train(*configs(tree, tmp_path))
    assert same(again["confusion"], metrics["confusion"]) and len(steps) == 8
    assert "continuing" in (tmp_path / "log.txt").read_text()


def test_a_kill(tree, undisturbed, tmp_path):
    """SIGKILL once there is a checkpoint: the same command goes on, and ends bit for bit as if nothing had been
    (tests/attack.py kills twenty times, at any moment)."""
    argv = words(tree, tmp_path, save_minutes=0, log_every=3)
    child = PRELOAD.Process(target=run_job, args=(0, 1, argv))
    child.start()
    deadline = time.monotonic() + 150
    while not (tmp_path / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL and not same(outcome(tmp_path), outcome(undisturbed))

    child = PRELOAD.Process(target=run_job, args=(0, 1, argv))
    child.start()
    child.join(300)
    assert child.exitcode == 0 and same(outcome(tmp_path), outcome(undisturbed))


def session_job(argv):
    os.setpgid(0, 0)                                             # the group that Slurm would signal
    run_job(0, 1, argv)


def test_sigterm_of_the_command(tree, tmp_path):
    """A SIGTERM to the command and its workers alike: a saved step, exit code 143."""
    argv = words(tree, tmp_path, workers=2, epochs=200, eval_every=200, save_minutes=0)
    process = PRELOAD.Process(target=session_job, args=(argv,))
    process.start()
    deadline = time.monotonic() + 150
    while not (tmp_path / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 143
    assert "SIGTERM: saved; the same command goes on" in (tmp_path / "log.txt").read_text()
    assert checkpoints.read_checkpoint(tmp_path / "last.pt")["at"]["step"] > 0


def test_workers_outlive_a_sigterm_by_a_minute():
    """Long enough for the main process to save its step; no longer, or an exit could hang."""
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        train.quiet_worker(0)
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.alarm(0) == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert 50 < signal.alarm(0) <= 60
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_torn_checkpoint(tree, undisturbed, tmp_path):
    """A cut or altered last.pt is named and the one before is used; with none whole, an error."""
    train.train(*configs(tree, tmp_path))
    whole = (tmp_path / "last.pt").read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1:]
    for torn in (b"", whole[:middle], flipped):
        (tmp_path / "last.pt").write_bytes(torn)
        with pytest.raises(ValueError, match="torn or no checkpoint"):
            checkpoints.read_checkpoint(tmp_path / "last.pt")
    train.train(*configs(tree, tmp_path))
    assert same(outcome(tmp_path), outcome(undisturbed))
    assert "last.pt is torn" in (tmp_path / "log.txt").read_text()
    for name in train.NAMES:
        (tmp_path / name).write_bytes(b"no zip")
    with pytest.raises(ValueError, match="no checkpoint in .* can be read"):
        train.train(*configs(tree, tmp_path))
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        checkpoints.read_checkpoint(tmp_path / "none.pt")


def test_changed_settings(tree, tmp_path):
    """Refused by name; --force notes them; --fresh begins again; what changes no number is free."""
    train.train(*configs(tree, tmp_path, epochs=1))
    with pytest.raises(ValueError, match=r"epochs from 1 to 2; lr from 0.001 to 0.002\. .*--force"):
        train.train(*configs(tree, tmp_path, lr=2e-3))
    with pytest.raises(ValueError, match="data set from"):
        train.train(*configs(tree, tmp_path, epochs=1, prompt="{} seen"))
    train.train(*configs(tree, tmp_path, epochs=1, workers=1, save_minutes=1.0))
    train.train(*configs(tree, tmp_path, force=True))
    assert "other settings (--force): epochs from 1 to 2" in (tmp_path / "log.txt").read_text()
    train.train(*configs(tree, tmp_path, fresh=True, epochs=1))
    assert outcome(tmp_path)[2]["step"] == 4
    assert "other settings" not in (tmp_path / "log.txt").read_text()
    with pytest.raises(ValueError, match="--fresh and not --resume"):
        train.train(*configs(tree, tmp_path / "new", resume=True))


def test_full_disk(tree, tmp_path, monkeypatch):
    """A write that fails is an error that names the last good checkpoint, which stays whole."""
    real, calls = torch.save, []

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
    """A run folder that cannot be made: one line, exit code 2."""
    (tmp_path / "file").write_text("")
    assert train.main(words(tree, tmp_path / "file" / "run")) == 2
    assert "file/run" in (said := capsys.readouterr().err) and "Expected files and folders" in said


# ---- Guards --------------------------------------------------------------------------------------

@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaler of fp16"])
def test_nonfinite(tree, tmp_path, monkeypatch, scaled):
    """Stops with terms, clips and the last checkpoint; --skip-nonfinite leaves such steps out."""
    real, seen = train.forward_backward, []

    def broken(model, *rest):
        seen.append({k: x.clone() for k, x in model.trainable_state().items()})
        terms, everyone = real(model, *rest)
        if len(seen) == 6:
            terms["L_t"] = torch.tensor(math.nan)
            for p in model.parameters():
                if p.grad is not None:
                    p.grad.fill_(math.nan)
        return terms, everyone

    make, made = torch.amp.GradScaler, []

    def new_scaler(*_, **__):
        made.append(make("cpu", init_scale=4.0, enabled=scaled))
        return made[-1]

    monkeypatch.setattr(torch.amp, "GradScaler", new_scaler)
    monkeypatch.setattr(train, "forward_backward", broken)
    named = r"step 6: total .*L_t nan, L_R .*clips \w+, \w+, \w+, \w+\. .*last\.pt"
    with pytest.raises(ValueError, match=named):
        train.train(*configs(tree, tmp_path / "a"))
    seen.clear()
    train.train(*configs(tree, tmp_path / "b", skip_nonfinite=1))
    assert same(seen[5], seen[6]) and not same(seen[4], seen[5]) and not same(seen[6], seen[7])
    assert made[-1].get_scale() == (4.0 if scaled else 1.0)      # as it was: no step overflowed
    assert "left out (1 of 1)" in (tmp_path / "b" / "log.txt").read_text()


def test_broken_clips(tree, tmp_path):
    """One unreadable clip in sixteen stops; with --allow-broken it is replaced and named."""
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", tree, copy], check=True)
    victim = sorted((copy / "rgb").glob("*train*.mp4") or (copy / "rgb").glob("*.mp4"))[0]
    listed = {c["vid_name"] for c in json.loads((copy / "Diving48_V2_train.json").read_text())}
    victim = next(p for p in sorted((copy / "rgb").glob("*.mp4")) if p.stem in listed)
    victim.write_bytes(victim.read_bytes()[:200])
    named = f"1 of 16 clips are broken: {victim.stem}. .*--allow-broken"
    with pytest.raises(ValueError, match=named):
        train.train(*configs(copy, tmp_path / "a"))
    train.train(*configs(copy, tmp_path / "b", allow_broken=True, epochs=1))
    said = (tmp_path / "b" / "log.txt").read_text()
    assert f"1 broken clips were replaced: {victim.stem}" in said
    assert outcome(tmp_path / "b")[3][-2]["broken"] == [victim.stem]


@pytest.mark.parametrize("changes, message", [
    ({"batch": 5, "accumulate": 2}, "Expected a multiple of 2, 16 at most"),
    ({"batch": 32}, "16 at most"),
    ({"precision": "bf16", "device": "cpu"}, "emulates it. Expected fp32"),
    ({"device": "cuda:77"}, "--device cuda:77 cannot be used"),
    ({"device": "gpu"}, "Expected auto, cpu, cuda"),
    ({"model": "clip"}, "nothing to train")])
def test_user_errors(tree, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train.train(*configs(tree, tmp_path, **changes))


# ---- The command line, the stills, the GPU -------------------------------------------------------

def test_command(tree, tmp_path):
    """Two steps of the real command: its files, its lines, its exit codes."""
    argv = words(tree, tmp_path, epochs=1, batch=8, log_every=1)
    ran = subprocess.run([sys.executable, HERE / "train.py", *argv], capture_output=True,
                         text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    for part in ("parameters, M", "text discrepancies of Eq. (5)", "estimated: weights",
                 "epoch 1/1 step 2/2 total",
                 "top1/vs", "test split, final weights"):
        assert part in ran.stdout, part
    about = json.loads((tmp_path / "config.json").read_text())
    assert about["config"]["lr"] == 1e-3 and about["versions"]["torch"] == torch.__version__
    for name in ("last.pt", "best.pt", "curves.png", "metrics.jsonl", "log.txt",
                 "confusion-test-1view.png"):
        assert (tmp_path / name).stat().st_size > 0
    assert {row["kind"] for row in outcome(tmp_path)[3]} == {"step", "epoch", "test"}
    assert outcome(tmp_path)[3][0].keys() >= {"total", "L_t", "L_R", "grad_norm", "lr", "step"}


def test_discrepancies_are_told_where_they_count(tree, tmp_path, capsys):
    train.prepare(*configs(tree, tmp_path, sgl=False))
    assert "text discrepancies" not in capsys.readouterr().out


def test_tensorboard(tree, tmp_path, monkeypatch):
    """With the package, the figures of each row; without it, an error that names it."""
    written, name = [], "torch.utils.tensorboard"
    board = SimpleNamespace(add_scalar=lambda *row: written.append(row), flush=lambda: None)
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(SummaryWriter=lambda *_, **__: board))
    train.train(*configs(tree, tmp_path, epochs=1, tensorboard=True))
    assert {"step/L_R", "epoch/top1", "test/top1/ps"} <= {row[0] for row in written}
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match="pip install tensorboard"):
        train.train(*configs(tree, tmp_path, epochs=1, tensorboard=True))


def test_command_errors(tree, tmp_path, capsys):
    """One line and exit code 2: a wrong row, a wrong flag, a missing data set."""
    missing = ["--data", "diving48", "--root", str(tmp_path / "none"), "--backbone", "tiny",
               "--image-size", "80", "--out", str(tmp_path / "o")]
    for argv, message in ((["--row", "table5/nop2v"], "Did you mean 'table5/no-p2v'"),
                          (["--row", "table5/no-p2v", "--model", "vilp"], "beside --model vilp"),
                          (["--epoch", "3"], "--epochs"), (missing, "none")):
        with pytest.raises(SystemExit) if "--data" not in argv else nothing() as stopped:
            code = train.main(argv)
        assert (stopped.value.code if stopped else code) == 2
        said = capsys.readouterr().err
        assert message in said and "error: " in said and "Traceback" not in said
    assert train.main(["--list-rows"]) == 0 and "table6/ps+fw" in capsys.readouterr().out


@contextmanager
def nothing():
    yield None


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: run on one to check autocast")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision(tree, tmp_path, precision):
    metrics = train.train(*configs(tree, tmp_path, precision=precision, device="cuda",
                                   accumulate=2))
    assert metrics["clips"] == 4 and math.isfinite(outcome(tmp_path)[3][0]["total"])


def test_weights_are_no_activations():
    """What autograd keeps beside the weights: a linear layer keeps its weight transposed, which is a view of it."""
    layers = torch.nn.Sequential(*[torch.nn.Linear(100, 100, bias=False) for _ in range(3)])
    x = torch.ones(2, 100, requires_grad=True)
    with count_saved() as seen:
        layers(x).sum()
    assert sum(seen.values()) == 3 * 2 * 100 * 4, "three inputs of (2, 100) in float32, and no weight"
