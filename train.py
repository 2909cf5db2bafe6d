"""Train PeVL, ViLP, AIM, a row of the tables or the tiny CLIP: one loop, on a CPU, a GPU or many.

    python train.py                                 toy benchmark, made first: minutes on two cores
    python train.py --row table5/no-p2v             a row of the paper's tables (--list-rows)
    python train.py --lab table5 --seeds 3          all rows of one, on the toy benchmark
    python train.py --data diving48 --root DIR --backbone ViT-B/16       one GPU, as in Sec. 4.1
    torchrun --nproc_per_node 8 train.py --data diving48 --root DIR --backbone ViT-B/16    8 GPUs
    python train.py --model clip --data toy-stills --export assets/tiny-clip.pt   the tiny backbone
The same command again continues a run that was stopped, at the very step, whatever stopped it.

paper    | what                            | here                        | tests: test_...
Sec. 4.1 | AdamW, warm-up, cosine to zero  | lr_factor, optimizer_groups | schedule, groups
Sec. 3.4 | the loss over the whole batch   | forward_backward            | accumulation
-        | a batch over several processes  | gather, average_gradients   | two_processes
-        | stop anywhere, continue exactly | save_checkpoint, resume     | resume, kills

Resume is exact by construction: what is random in a step is a function of (seed, epoch, batch,
rank, part), in a sample of (seed, epoch, sample), so no generator has a state to store. Exact means
bit for bit on the same machine, with as many threads and processes. B: clips of the global batch;
features: dicts of tensors with a leading B.
"""
import csv
import dataclasses
import hashlib
import importlib.metadata
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader

from assets.draw import draw_bars, draw_curves
from clip_model import BACKBONES, CLIP, Attention, load_clip, tokenize
from data import Clips, DataConfig, ToyStills
from eval import EvalConfig, autocast, evaluate, quiet_worker, report, write_results
from pevl import ROWS, TABLES, PeVLConfig, build_model
from support.checks import unknown_name
from support.files import atomic
from support.settings import build_configs

# ---- Settings ------------------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How it is trained: Sec. 4.1, unless PRESETS or the command line say otherwise."""
    out: Annotated[str, "run folder, empty: out/<data>-<model>[-row]; a run there continues"] = ""
    row: Annotated[str, "row of the paper's tables, as table5/no-p2v (--list-rows)"] = ""
    seed: Annotated[int, "of everything random"] = 0
    epochs: Annotated[int, "passes over the training clips (Sec. 4.1: 50)"] = 50
    batch: Annotated[int, "clips of a step, over all processes; they are contrasted (ours)"] = 32
    accumulate: Annotated[int, "parts of a batch run one by one, to save memory; same result"] = 1
    lr: Annotated[float, "base learning rate of AdamW (Sec. 4.1: 8e-6)"] = 8e-6
    new_lr: Annotated[float, "factor on lr for new modules; try 10 if the loss stands (D16)"] = 1.0
    trunk_lr: Annotated[float, "factor on lr for CLIP's weights with --tune all (ViLP: 0.1)"] = 0.1
    weight_decay: Annotated[float, "of matrices; 0 for all else (Sec. 4.1: 0.05)"] = 0.05
    warmup: Annotated[float, "epochs of linear warm-up before the cosine (Sec. 4.1: 3)"] = 3.0
    clip_grad: Annotated[float, "largest gradient norm, 0: any; it is logged either way"] = 0.0
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], "of matrix products, never of "
                         "losses; auto: bf16 on GPUs that have it"] = "auto"
    device: Annotated[str, "auto, cpu, cuda or cuda:N"] = "auto"
    compile: Annotated[bool, "torch.compile: slow to start, faster steps on a GPU"] = False
    eval_split: Annotated[str, "split that is measured after epochs"] = "val"
    eval_every: Annotated[int, "epochs between measurements"] = 1
    log_every: Annotated[int, "steps between progress lines and rows of metrics.jsonl"] = 10
    save_minutes: Annotated[float, "time between checkpoints within an epoch"] = 10.0
    skip_nonfinite: Annotated[int, "steps to leave out, where not finite, before giving up"] = 0
    resume: Annotated[bool, "insist that there is a run to continue"] = False
    force: Annotated[bool, "continue although settings changed; noted in log.txt"] = False
    fresh: Annotated[bool, "start again, replacing the run in --out"] = False
    tensorboard: Annotated[bool, "write TensorBoard events too (pip install tensorboard)"] = False
    export: Annotated[str, "file for CLIP's weights, fp16, after each epoch"] = ""

# What may change from one part of a run to the next, since it changes none of its numbers.
FREE = {"out", "root", "poses", "workers", "log_every", "save_minutes", "resume", "force", "fresh",
        "tensorboard", "export", "skip_nonfinite", "allow_broken"}

# ---- Schedule, parameter groups, random numbers --------------------------------------------------

def lr_factor(step, warmup, total):
    """Factor on the learning rate at step 0 .. total - 1: linear warm-up, half a cosine to zero.

        (step + 1) / warmup                                             while step < warmup
        (1 + cos(pi (step - warmup) / (total - warmup))) / 2            from there; 0 at `total`
    """
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1))) / 2

def optimizer_groups(model, cfg):
    """The model's groups, each split into matrices of linear, convolution and attention modules,
    which decay, and the rest (biases, norms, embeddings, temperatures), which does not."""
    owners = (nn.Linear, nn.Conv2d, nn.MultiheadAttention, Attention)
    matrices = {id(p) for m in model.modules() if isinstance(m, owners)
                for p in m.parameters(recurse=False) if p.dim() > 1}
    factor, groups = {"adapter": 1.0, "new": cfg.new_lr, "trunk": cfg.trunk_lr}, []
    for group in model.parameter_groups():
        for decays in (True, False):
            params = [p for p in group["params"] if (id(p) in matrices) == decays]
            groups.append({"name": group["name"], "params": params, "factor": factor[group["kind"]],
                           "weight_decay": cfg.weight_decay * decays})
    return [group for group in groups if group["params"]]

# ---- Several processes (torchrun) ----------------------------------------------------------------

def rank0_first(world, make):
    """make() on rank 0, then on the others: the first may write files (toy clips, a download)."""
    made = make() if world.rank == 0 else None
    if world.size > 1:
        dist.barrier()
    return made if world.rank == 0 else make()

class GatherRows(torch.autograd.Function):
    """Rows of all ranks in order, (b, ...) -> (world * b, ...); own rows pass the gradient back.

    All ranks have the same loss, each the whole dL/drows of its own. Gradients are averaged later,
    as is right for weights inside the loss; towers need the sum, hence world * grad."""

    @staticmethod
    def forward(ctx, x):
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad):
        return grad.chunk(dist.get_world_size())[dist.get_rank()] * dist.get_world_size()

def gather(features):
    """Features of this process's clips -> of the global batch; as they are where it is alone."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return features
    byte = {k: x.to(torch.uint8) if x.dtype == torch.bool else x for k, x in features.items()}
    return {k: GatherRows.apply(x).to(features[k].dtype) for k, x in byte.items()}

def average_gradients(groups):
    """Mean over ranks, one flat message for each parameter group."""
    for group in groups:
        if grads := [p.grad for p in group["params"] if p.grad is not None]:
            flat = torch.cat([g.flatten() for g in grads]) / dist.get_world_size()
            dist.all_reduce(flat)
            for g, mean in zip(grads, flat.split([g.numel() for g in grads])):
                g.copy_(mean.view_as(g))

# ---- Batches -------------------------------------------------------------------------------------

class GlobalBatches:
    """Batch b of an epoch is order[b B : (b + 1) B], the order a function of (seed, epoch); rank r
    reads the r-th of `world` equal parts: any number of processes sees the same batches. A rest of
    clips is left out. Yields index + epoch * clips, which seeds a sample. `start`: first batch."""

    def __init__(self, clips, batch, seed, rank=0, world=1, parts=1):
        if min(batch, parts) < 1 or batch % (world * parts) or batch > clips:
            raise ValueError(f"--batch {batch}: {clips} clips, {world} processes x {parts} parts. "
                             f"Expected a multiple of {world * parts}, {clips} at most. Change it.")
        self.clips, self.batch, self.seed, self.rank, self.world = clips, batch, seed, rank, world
        self.epoch = self.start = 0

    def __len__(self):
        return self.clips // self.batch

    def __iter__(self):
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.clips)
        share = self.batch // self.world
        for b in range(self.start, len(self)):
            first = b * self.batch + self.rank * share
            yield (order[first:first + share] + self.epoch * self.clips).tolist()

def open_split(data_cfg, split, train, views=1):
    """A split as a data set: clips, or the captioned stills of the toy benchmark."""
    if data_cfg.data != "toy-stills":
        return Clips(data_cfg, split, train, views)
    length = BACKBONES["tiny"].context_length
    stills = ToyStills(data_cfg, split, lambda caption: tokenize([caption], length)[0])
    stills.labels, stills.texts, stills.joints = ["a diver"], ["a diver"], ()   # captions say more
    return stills

# ---- One step ------------------------------------------------------------------------------------

def forward_backward(model, parts, seeds, precision="fp32", scale=lambda loss: loss):
    """Loss of the global batch and its gradients -> named terms, gathered features, all finite?

    parts: this process's clips, cut for --accumulate; seeds: a tuple for each part, and one, equal
    on all ranks, for the loss. Several parts: since the contrast needs all clips at once, (1) each
    part's features without graph, (2) the loss on all and its gradient there, (3) each part again,
    same random numbers, to pass that gradient on: the gradients of the whole batch."""
    def run(i):
        reseed(*seeds[i])
        with autocast(parts[i]["label"].device, precision):
            features = model(parts[i])
        features |= {k: parts[i][k] for k in ("index", "broken", "stop") if k in parts[i]}
        half = (torch.float16, torch.bfloat16)
        return {k: x.float() if x.dtype in half else x for k, x in features.items()}

    def loss(features):
        everyone = gather(features)
        reseed(*seeds[-1])
        terms = model.losses(everyone)
        finite = bool(torch.stack([x.detach().double() for x in terms.values()]).isfinite().all())
        if finite:
            scale(terms["total"]).backward()
        return {k: x.detach() for k, x in terms.items()}, everyone, finite

    if len(parts) == 1:
        return loss(run(0))
    with torch.no_grad():
        cached = [run(i) for i in range(len(parts))]
    whole = {k: torch.cat([c[k] for c in cached]) for k in cached[0]}
    whole = {k: x.requires_grad_() if x.is_floating_point() else x for k, x in whole.items()}
    result, first = loss(whole), 0
    for i in range(len(parts)) if result[2] else ():
        rows = slice(first, first := first + len(cached[i]["label"]))
        pairs = [(x, whole[k].grad[rows]) for k, x in run(i).items()
                 if x.requires_grad and whole[k].grad is not None]
        if pairs:
            torch.autograd.backward(*zip(*pairs))
    return result

def take_step(run, batch, stop):
    """One update from this process's share of a batch -> terms and grad_norm as floats, and the
    largest `stop` of the ranks (number of a signal, or 0), so that they stop together."""
    cfg, at, optimizer, scaler = run.cfg, run.at, run.optimizer, run.scaler
    batch = {k: x.to(run.world.device, non_blocking=True) for k, x in batch.items()
             if isinstance(x, torch.Tensor)}
    none = torch.zeros_like(batch["index"])                    # stills have no label, no fault
    batch = {"label": none, "broken": none.bool(), **batch, "stop": none + stop}
    parts = [dict(zip(batch, x)) for x in zip(*(x.chunk(cfg.accumulate) for x in batch.values()))]
    key = (cfg.seed, at["epoch"], at["batch"])
    seeds = [(*key, run.world.rank, i) for i in range(len(parts))] + [key]
    for group in optimizer.param_groups:
        group["lr"] = cfg.lr * group["factor"] * lr_factor(at["step"], run.warmup, run.steps)
    optimizer.zero_grad(set_to_none=True)
    with nullcontext() if run.told else memory_told(run):
        result = forward_backward(run.model, parts, seeds, run.precision, scaler.scale)
    terms, whole, finite = result
    norm = torch.tensor(math.nan, device=run.world.device)
    if finite:
        if run.world.size > 1:
            average_gradients(optimizer.param_groups)
        scaler.unscale_(optimizer)
        params = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(params, cfg.clip_grad or math.inf)
    names, values = [*terms, "grad_norm"], [*terms.values(), norm]
    values += [whole["stop"].max(), whole["broken"].sum()]     # all leave the device together
    *values, stop, broken = torch.stack([x.double() for x in values]).tolist()
    facts = dict(zip(names, values))
    if finite and (math.isfinite(facts["grad_norm"]) or scaler.is_enabled()):
        scaler.step(optimizer)                                 # for fp16, leaves out infinities
        scaler.update()
    else:
        leave_out(run, facts, whole["index"].tolist())
    if broken:
        found = whole["index"][whole["broken"].bool()].tolist()
        at["broken"] = sorted({*at["broken"], *found})
        names, clips = [run.names[i] for i in at["broken"]], len(run.names)
        if len(names) > 0.01 * clips and not run.config["allow_broken"]:   # no fault of a few files
            raise ValueError(f"{len(names)} of {clips} clips are broken: {', '.join(names[:5])}. "
                             "Expected 1 % at most. Look with python data.py check "
                             f"{run.config['data']}, or go on with --allow-broken.")
    return facts, int(stop)

def leave_out(run, facts, indices):
    """A step that is not finite: left out as often as --skip-nonfinite allows, else the end."""
    run.at["skipped"] += 1
    terms = ", ".join(f"{k} {v:.4g}" for k, v in facts.items())
    what = (f"loss or gradient not finite at step {run.at['step'] + 1}: {terms}; clips "
            f"{', '.join(str(run.names[i]) for i in indices)}")
    if run.at["skipped"] > run.cfg.skip_nonfinite:
        raise ValueError(f"{what}. Expected numbers; last good checkpoint: {last_good(run.folder)}."
                         " Lower --lr, set --clip-grad 1, or leave them out: --skip-nonfinite N.")
    run.log.say(f"note: {what}: left out ({run.at['skipped']} of {run.cfg.skip_nonfinite})")

# ---- Checkpoints ---------------------------------------------------------------------------------

FORMAT, NAMES = 1, ("last.pt", "previous.pt", "best.pt")       # the two newest; the best top-1

def last_good(folder):
    return next((str(folder / n) for n in NAMES if (folder / n).exists()), "none yet")

def write_torch(value, path, keep=None):
    """torch.save, all or nothing; what was there becomes `keep`. A failure alters neither."""
    try:
        with atomic(path) as part:
            torch.save(value, part)
            if keep and path.exists():
                os.replace(path, keep)
    except (OSError, RuntimeError) as reason:                  # torch makes a full disk the latter
        need = 3 * sum(x.nbytes for x in value.get("model", value).values()) / 2 ** 20
        raise ValueError(f"cannot write {path} ({reason}). Expected {need:.0f} MiB free; last good "
                         f"checkpoint: {last_good(path.parent)}. Make room, then rerun.") from None

def save_checkpoint(run, name="last.pt"):
    """All that continuing needs; rank 0 writes. Of the frozen CLIP only the hash is kept."""
    if run.world.rank == 0:
        data, identity = run.train_set, run.identity
        write_torch({"format": FORMAT, "model": run.model.trainable_state(), "at": run.at,
                     "optimizer": run.optimizer.state_dict(), "scaler": run.scaler.state_dict(),
                     "config": run.config, "identity": identity, "clip": identity["CLIP weights"],
                     "labels": list(data.labels), "texts": list(data.texts),
                     "joints": len(data.joints), "versions": run.versions},
                    run.folder / name, run.folder / "previous.pt" if name == "last.pt" else None)

def resume(run):
    """Puts the run where its newest whole checkpoint was, if there is one of the same settings."""
    found, saved, at = [p for p in (run.folder / n for n in NAMES) if p.exists()], None, run.at
    for path in found:
        try:
            saved = saved or read_checkpoint(path)
        except ValueError as reason:
            run.log.say(f"note: {reason}")
    if not saved and (found or run.cfg.resume):
        raise ValueError(f"no checkpoint in {run.folder} can be read. Expected one of "
                         f"{', '.join(NAMES)}. Check --out, or use --fresh and not --resume.")
    if saved:
        old, now = saved["identity"], run.identity
        changed = "; ".join(f"{k} from {old.get(k)!r} to {now.get(k)!r}" for k in {**old, **now}
                            if k not in FREE and old.get(k) != now.get(k))
        if changed and not run.cfg.force:
            raise ValueError(f"the run in {run.folder} began otherwise: {changed}. Expected the "
                             "same. Choose another --out, --fresh to begin again, or --force.")
        if changed:
            run.log.say(f"note: continued with other settings (--force): {changed}")
        run.model.load_trainable_state(saved["model"])
        run.optimizer.load_state_dict(saved["optimizer"])
        run.scaler.load_state_dict(saved["scaler"])
        at.update(saved["at"])
        run.log.say(f"continuing {run.folder}: epoch {at['epoch'] + 1}, batch {at['batch']}, step "
                    f"{at['step']} of {run.steps}")
    run.log.rewind(at)

# ---- What a run prints and writes ----------------------------------------------------------------

class Log:
    """Lines to the screen and log.txt, rows to metrics.jsonl and TensorBoard; rank 0 alone."""

    def __init__(self, folder, active):
        self.folder, self.active, self.board, self.unfinished = folder, active, None, False

    def say(self, text, progress=False):
        """A line; on a terminal, one with `progress` is overwritten by the next such line."""
        if self.active:
            with open(self.folder / "log.txt", "a") as file:
                file.write(text + "\n")
            begin = "" if not self.unfinished else "\r" if progress else "\n"
            self.unfinished = progress and sys.stdout.isatty()
            print(begin + text, end="\033[K" if self.unfinished else "\n", flush=True)

    def row(self, **values):
        """One JSON object of the plain values, on disk before any later checkpoint."""
        if not self.active:
            return
        values = {k: v for k, v in values.items()
                  if isinstance(v, (int, float, str)) or k == "broken"}
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(values) + "\n")
            file.flush()
            os.fsync(file.fileno())
        for name in values.keys() - {"kind", "broken"} if self.board else ():
            self.board.add_scalar(f"{values['kind']}/{name}", values[name], values["step"])
            self.board.flush()

    def rows(self, *kinds):
        """The rows of these kinds so far; the half line that a kill can leave is no row."""
        rows, path = [], self.folder / "metrics.jsonl"
        for line in path.read_text().splitlines() if path.exists() else ():
            with suppress(json.JSONDecodeError):
                rows.append(json.loads(line))
        return [row for row in rows if row["kind"] in kinds]

    def rewind(self, at):
        """Forgets rows from beyond the checkpoint: the run will write them again."""
        done = {"step": at["step"], "epoch": at["measured"]}
        kept = [row for row in self.rows("step", "epoch") if row[row["kind"]] <= done[row["kind"]]]
        if self.active:
            with atomic(self.folder / "metrics.jsonl") as part:
                part.write_text("".join(json.dumps(row) + "\n" for row in kept))

def versions():
    """What made a run: packages and, in a git checkout, the commit."""
    here, names = Path(__file__).resolve().parent, "torch numpy pillow av ftfy regex".split()
    git = ["git", "-C", here, "rev-parse", "HEAD"] if (here / ".git").exists() else ["true"]
    commit = subprocess.run(git, text=True, capture_output=True).stdout.strip()
    return {"python": sys.version.split()[0], "commit": commit,
            **{name: importlib.metadata.version(name) for name in names}}

def parameter_table(model):
    """Total, trainable and frozen parameters of each part, in millions: see Tables 1 and 7."""
    rows = []
    for name, part in {**model.parts(), "all": model}.items():
        params = list(part.parameters()) if isinstance(part, nn.Module) else part
        total, tuned = (sum(p.numel() for p in params if p.requires_grad or every) / 1e6
                        for every in (True, False))
        rows.append(f"{name:<16}{total:>9.3f}{tuned:>11.3f}{total - tuned:>9.3f}")
    return "\n".join([f"{'parameters, M':<16}{'total':>9}{'trainable':>11}{'frozen':>9}", *rows])

def peak_mib(device):
    """Most memory so far: of the GPU's tensors, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2 ** 20
    import resource                                            # not on Windows
    unit = 2 ** 20 if sys.platform == "darwin" else 2 ** 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit

@contextmanager
def memory_told(run):
    """Around the first loss: counts what autograd keeps, each storage once, for an estimate."""
    seen, run.told = {}, True

    def keep(x):
        storage = x.untyped_storage()
        seen[storage.data_ptr()] = 0 if isinstance(x, nn.Parameter) else storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        yield
    tuned = sum(p.nbytes for p in run.model.parameters() if p.requires_grad)
    parts = sum(p.nbytes for p in run.model.parameters()), 3 * tuned, sum(seen.values())
    mib = [round(x / 2 ** 20) for x in (*parts, sum(parts))]
    run.log.say("memory of a step, estimated: weights {} + gradients and AdamW {} + activations {} "
                "= {} MiB".format(*mib))

def record(run, terms, data_s, step_s):
    """Adds a step to the sums; every --log-every steps, a row and a progress line of the means."""
    at, cfg = run.at, run.cfg
    at["step"], at["batch"] = at["step"] + 1, at["batch"] + 1
    for sums in (at["interval"], at["sums"]):
        for name, value in {**terms, "data_s": data_s, "step_s": step_s, "n": 1}.items():
            sums[name] = sums.get(name, 0) + (value if math.isfinite(value) else 0)
    if at["step"] % cfg.log_every and at["batch"] < len(run.order):
        return
    n, peak = at["interval"].pop("n"), peak_mib(run.world.device)
    lr = run.optimizer.param_groups[0]["lr"]
    mean, at["interval"] = {name: value / n for name, value in at["interval"].items()}, {}
    seconds = mean["data_s"] + mean["step_s"]
    left, speed = int((run.steps - at["step"]) * seconds), cfg.batch / seconds
    run.log.row(kind="step", epoch=at["epoch"] + 1, step=at["step"], lr=lr, skipped=at["skipped"],
                **mean, clips_per_s=speed, peak_mib=peak)
    run.log.say(f"epoch {at['epoch'] + 1}/{cfg.epochs} step {at['step']}/{run.steps} "
                + " ".join(f"{k} {mean[k]:.3f}" for k in terms) + f" lr {lr:.1e} data "
                f"{mean['data_s']:.3f} s step {mean['step_s']:.3f} s {speed:.0f} clips/s "
                f"{left // 60}:{left % 60:02d} left peak {peak:.0f} MiB", progress=True)

# ---- Setting up ----------------------------------------------------------------------------------

def prepare(cfg, data_cfg, model_cfg):
    """Everything of a run, as new or as its folder's checkpoint left it.

    run.at says where it stands, and is stored as it is: epoch and batch to do next, steps done,
    epochs measured, sums since the last row and the epoch's start. run.identity must not change."""
    if (model_cfg.model == "clip") != (data_cfg.data == "toy-stills"):
        raise ValueError(f"--model {model_cfg.model} --data {data_cfg.data}. Expected clip and "
                         "toy-stills together: its pretraining; on clips it is zero-shot. Use "
                         "another --model, or `python eval.py --model clip --data NAME`.")
    world = join_world(cfg)
    precision = choose_precision(cfg, world.device)
    row = f"-{cfg.row.replace('/', '-')}" if cfg.row else ""
    folder = Path(cfg.out or f"out/{data_cfg.data}-{model_cfg.model}{row}")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*NAMES, "metrics.jsonl", "log.txt") if cfg.fresh and world.rank == 0 else ():
        (folder / name).unlink(missing_ok=True)                # the others wait for rank 0 below
    data = rank0_first(world, lambda: open_split(data_cfg, "train", True))
    order = GlobalBatches(len(data), cfg.batch, cfg.seed, world.rank, world.size, cfg.accumulate)
    reseed(cfg.seed)
    clip = rank0_first(world, lambda: load_trunk(model_cfg))
    reseed(cfg.seed)                                           # loading may or may not have drawn
    config = as_json(model_cfg, data_cfg, cfg)
    clips = getattr(data, "clips", ())
    about = json.dumps([list(data.texts), [[c.id, c.label] for c in clips]]).encode()
    identity = {**config, "CLIP weights": fingerprint(clip.state_dict()), "precision": precision,
                "data set": hashlib.sha256(about).hexdigest(), "processes": world.size,
                "device": world.device.type}
    model = build_model(model_cfg, clip, data.texts, len(data.joints)).to(world.device)
    run = SimpleNamespace(
        cfg=cfg, folder=folder, world=world, precision=precision, log=Log(folder, world.rank == 0),
        train_set=data, held_out=open_split(data_cfg, cfg.eval_split, False), order=order,
        steps=cfg.epochs * len(order), warmup=cfg.warmup * len(order), model=model, told=False,
        names=[c.id for c in clips] or range(len(data)), versions=versions(), config=config,
        identity=identity,
        optimizer=torch.optim.AdamW(optimizer_groups(model, cfg), lr=cfg.lr, fused=True),
        scaler=torch.amp.GradScaler(world.device.type, enabled=precision == "fp16"),
        at=dict(epoch=0, batch=0, step=0, measured=0, best=-1, skipped=0, broken=[],
                interval={}, sums={}))
    resume(run)
    for p in model.parameters() if world.size > 1 else ():
        if p.requires_grad:
            dist.broadcast(p.detach(), 0)
    if cfg.compile:
        model.compile()
    introduce(run)
    return run

def introduce(run):
    """Prints what will be trained on what; writes config.json; opens TensorBoard."""
    cfg, log, data, config = run.cfg, run.log, run.train_set, run.config
    if run.world.rank == 0:
        about = {"config": config, "identity": run.identity, "versions": run.versions,
                 "command": [Path(sys.argv[0]).name, *sys.argv[1:]]}
        with atomic(run.folder / "config.json") as part:
            part.write_text(json.dumps(about, indent=1))
    if cfg.tensorboard and run.world.rank == 0:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError("--tensorboard: there is no such package. Expected tensorboard. Leave "
                             "the flag out or run pip install tensorboard.") from None
        log.board = SummaryWriter(run.folder, purge_step=run.at["step"])
    log.say("settings: " + " ".join(f"{k}={v}" for k, v in config.items()))
    log.say(f"{run.folder}: {config['model']} {config['backbone']} on {config['data']}; "
            f"{len(data)} clips, {len(data.labels)} labels, {len(run.held_out)} held out; "
            f"{run.world.device}, {run.precision}, {run.world.size} process(es) x "
            f"{cfg.batch // run.world.size} clips; {run.steps} steps\n{parameter_table(run.model)}")
    raw = getattr(run.model, "discrepancy", None) if config["sgl"] else None   # zeros without it
    if raw is not None and len(raw) > 1:                       # near 0: the two texts look alike
        apart = raw[~torch.eye(len(raw), dtype=torch.bool, device=raw.device)]
        log.say(f"text discrepancies of Eq. (5), 1 - cos: smallest {apart.min():.4f}, mean "
                f"{apart.mean():.4f}, largest {apart.max():.4f}")

# ---- The loop ------------------------------------------------------------------------------------

class Stopped(SystemExit):
    """SIGTERM or SIGINT was obeyed, the step finished and saved; exit code 128 + its number."""

def train(cfg, data_cfg, model_cfg):
    """Trains, or continues, and measures; leaves the run folder and returns the final metrics."""
    run = prepare(cfg, data_cfg, model_cfg)
    at, order, workers, caught, before = run.at, run.order, data_cfg.workers, [], {}
    loader = DataLoader(run.train_set, batch_sampler=order, num_workers=workers,
                        persistent_workers=workers > 0, worker_init_fn=quiet_worker,
                        pin_memory=run.world.device.type == "cuda")

    def note(number, _):                                       # obeyed after the step; twice: now
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    try:
        with suppress(ValueError):                             # only a main thread may do this
            before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
        while at["measured"] < cfg.epochs:
            if at["epoch"] == at["measured"]:                  # else it was stopped while measuring
                order.epoch, order.start = at["epoch"], at["batch"]
                run.model.train()
                saved = start = time.monotonic()
                for batch in loader:
                    fetched = time.monotonic()
                    terms, stop = take_step(run, batch, max(caught, default=0))
                    start, data_s = time.monotonic(), fetched - start
                    record(run, terms, data_s, start - fetched)
                    if stop or start - saved > 60 * cfg.save_minutes:
                        save_checkpoint(run)
                        saved = start
                    if stop:
                        run.log.say(f"{signal.Signals(stop).name}: saved; the same command goes on")
                        raise Stopped(128 + stop)
                at["epoch"], at["batch"] = at["epoch"] + 1, 0
                save_checkpoint(run)                           # before measuring, which may fail
            measure(run)
        return finish(run, data_cfg)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if loader._iterator:                                   # quiet workers ignore SIGTERM
            loader._iterator._shutdown_workers()

def measure(run):
    """After an epoch: held-out metrics, the epoch's row and line, curves, best.pt, --export."""
    at, cfg, sums, figures = run.at, run.cfg, run.at["sums"], {}
    at["measured"] += 1
    if at["measured"] % cfg.eval_every == 0 or at["measured"] == cfg.epochs:
        figures = held_out_metrics(run, run.held_out)
    means = {k: v / sums["n"] for k, v in sums.items() if k != "n"}
    broken = [run.names[i] for i in at["broken"]]
    run.log.row(kind="epoch", epoch=at["measured"], step=at["step"], broken=broken,
                **means, **figures)
    run.log.say(f"epoch {at['measured']}/{cfg.epochs}: total {means['total']:.4f}" + "".join(
        f", {k} {100 * v:.1f} %" for k, v in figures.items() if k[:4] in ("top1", "mean")))
    if broken:
        run.log.say(f"note: {len(broken)} broken clips were replaced: {', '.join(broken)}")
    at["broken"], at["sums"] = [], {}
    if figures.get("top1", -1) > at["best"]:
        at["best"] = figures["top1"]
        save_checkpoint(run, "best.pt")
    if run.world.rank == 0:
        draw_curves(run.log.rows("epoch"), run.folder / "curves.png")
        if cfg.export:
            weights = {k: x.half() for k, x in run.model.clip.state_dict().items()}
            write_torch(weights, Path(cfg.export))

def held_out_metrics(run, dataset):
    """Metrics of the model as it stands, made by all ranks together."""
    score = zero_shot if run.config["data"] == "toy-stills" else evaluate
    return score(run.model, dataset, run.cfg.batch, run.world.device, run.config["workers"],
                 run.precision)

def finish(run, data_cfg):
    """The test split, looked at once, with the final weights: figures, confusion matrix, strips."""
    if run.config["data"] == "toy-stills":
        return (run.log.rows("epoch") or [{}])[-1]
    test = open_split(data_cfg, "test", False)
    metrics = held_out_metrics(run, test)
    run.log.row(kind="test", epoch=run.at["measured"], step=run.at["step"], **metrics)
    if run.world.rank == 0:
        run.log.say("test split, final weights\n" + report(metrics, test.labels))
        about = dict(checkpoint=f"{run.folder}/last.pt", data=test.cfg.data, split="test", views=1)
        write_results(dict(metrics), run.model, test, EvalConfig(), run.folder, about,
                      run.world.device)
    return metrics

# ---- Command line --------------------------------------------------------------------------------

def settings(argv):
    """Command line -> (TrainConfig, DataConfig, PeVLConfig), namespace."""
    def extra(parser):
        parser.add_argument("--list-rows", action="store_true", help="print all rows, train none")
        parser.add_argument("--lab", default="", metavar="TABLE", help="train all rows of a table, "
                            "as table5, one after the other, and compare; --out: out/lab")
        parser.add_argument("--seeds", type=int, default=3, help="of --lab: 0 to N - 1 (3)")
    return build_configs(argv, (TrainConfig, DataConfig, PeVLConfig), presets, __doc__, extra)

def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    configs, args = settings(argv)
    try:
        for name, row in ROWS.items() if args.list_rows else ():
            print(f"{name:<20} paper {row.top1}  {row.what}: {row_flags(row) or 'nothing changes'}")
        if args.lab:
            lab(args, argv)
        elif not args.list_rows:
            train(*configs)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as reason:
        rank = f" (rank {os.environ['RANK']})" if "RANK" in os.environ else ""
        more = ". Expected files and folders open to us, and room. Check them."
        print(f"\nerror{rank}: {reason}{more * bool(getattr(reason, 'errno', 0))}", file=sys.stderr)
        return 2
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
    return 0

if __name__ == "__main__":
    sys.exit(main())
