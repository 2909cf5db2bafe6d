"""Train PeVL, ViLP, AIM, a row of the tables, or the tiny CLIP: one loop, on a CPU, a GPU or many.

    python train.py                                  toy benchmark, made first; minutes on two cores
    python train.py --row table5/no-p2v              a row of the paper's tables (--list-rows)
    python train.py --data diving48 --root DIR --backbone ViT-B/16      one GPU, settings of Sec. 4.1
    torchrun --nproc_per_node 8 train.py --data diving48 --root DIR --backbone ViT-B/16
                                                     the same global batches, split over 8 GPUs
    python train.py --model clip --data toy-stills --export assets/tiny-clip.pt
                                                     pretrains the tiny backbone on captioned stills
The same command again continues a run that was stopped, at the very step, whatever stopped it.

paper    | what                            | here                        | tests/test_train.py
Sec. 4.1 | AdamW, warm-up, cosine to zero  | lr_factor, optimizer_groups | test_schedule, test_groups
Sec. 3.4 | the loss over the whole batch   | forward_backward            | test_accumulation
-        | a batch over several processes  | gather, average_gradients   | test_two_processes
-        | stop anywhere, continue exactly | save_checkpoint, resume     | test_resume, test_kills

Resume is exact by construction: all that is random in a step is a function of (seed, epoch, batch,
rank, part of the batch), and in a sample of (seed, epoch, sample). So no generator has a state for a
checkpoint to hold, and loader workers have none either. Exact means bit for bit on the same machine,
device and numbers of threads and processes. B is the global batch; features are dicts of tensors
with a leading B.
"""
import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader

from clip_model import BACKBONES, CLIP, Attention, load_clip, tokenize, unknown_name
from data import Clips, DataConfig, ToyStills, build_configs
from eval import (EvalConfig, autocast, draw_curves, evaluate, report, write_atomically,
                  write_results)
from pevl import ROWS, PeVLConfig, build_model

# ---- Settings ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainConfig:
    """How it is trained: Sec. 4.1 of the paper, unless PRESETS or the command line say otherwise."""
    out: Annotated[str, "run folder, empty: out/<data>-<model>[-row]; a run there is continued"] = ""
    row: Annotated[str, "row of the paper's tables, e.g. table5/no-p2v (--list-rows)"] = ""
    seed: Annotated[int, "of everything random"] = 0
    epochs: Annotated[int, "passes over the training clips (Sec. 4.1: 50)"] = 50
    batch: Annotated[int, "clips of a step over all processes, contrasted with each other (ours: "
                          "the paper has none; larger is better if memory allows)"] = 32
    accumulate: Annotated[int, "parts in which a process runs its share of the batch, to save "
                               "memory; the loss stays that of the whole batch"] = 1
    lr: Annotated[float, "base learning rate of AdamW (Sec. 4.1: 8e-6)"] = 8e-6
    new_lr: Annotated[float, "factor on lr for new modules that start from nothing; try 10 to 100 "
                             "if the loss stands still (ledger: base rate)"] = 1.0
    trunk_lr: Annotated[float, "factor on lr for CLIP's weights with --tune all (ViLP: 0.1)"] = 0.1
    weight_decay: Annotated[float, "on matrices; biases, norms, embeddings: 0 (Sec. 4.1: 0.05)"] = 0.05
    warmup: Annotated[float, "epochs of linear warm-up before the cosine (Sec. 4.1: 3)"] = 3.0
    clip_grad: Annotated[float, "largest gradient norm, 0: any (it is logged either way)"] = 0.0
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], "of matrix products; losses stay "
                         "float32. auto: bf16 on a GPU that has it, else fp32"] = "auto"
    device: Annotated[str, "auto, cpu, cuda or cuda:N"] = "auto"
    compile: Annotated[bool, "torch.compile: a slow start, then faster steps on a GPU"] = False
    eval_split: Annotated[str, "split that is measured after epochs"] = "val"
    eval_every: Annotated[int, "epochs between measurements"] = 1
    log_every: Annotated[int, "steps between progress lines and rows of metrics.jsonl"] = 10
    save_minutes: Annotated[float, "time between checkpoints within an epoch"] = 10.0
    skip_nonfinite: Annotated[int, "steps to leave out, if not finite, before giving up"] = 0
    resume: Annotated[bool, "insist that there is a run to continue"] = False
    force: Annotated[bool, "continue although settings changed; noted in log.txt"] = False
    fresh: Annotated[bool, "start again, replacing the run in --out"] = False
    tensorboard: Annotated[bool, "also write TensorBoard events (pip install tensorboard)"] = False
    export: Annotated[str, "write CLIP's weights to this file, fp16, after each epoch"] = ""


TINY = dict(backbone="tiny", image_size=80, tau_fw=0.1)      # DESIGN: 0.01 does not learn at 64 numbers
PRESETS = {   # by --data or --model: defaults that change, with the reason or the source
    "toy": TINY | dict(
        pose_frames=32, video_frames=8,        # all frames of a clip; the apparatus stands still
        adapter_ratio=1.0, drop_path=0.0,      # 96 / 4 is too narrow; five epochs do not overfit
        lr=3e-3, epochs=5, warmup=0.5,         # minutes on two cores
        own_loss=0.3),                         # else sim_vs and sim_fw idle while sim_ps works
    "toy-stills": TINY | dict(
        clip="random", tune="all", trunk_lr=1.0, pose_frames=1, video_frames=1,
        lr=2e-3, epochs=12, warmup=0.25, batch=128, clip_grad=1.0),   # 240,000 stills, from nothing
    "vilp": dict(pose_frames=8, video_frames=8, lr=5e-5, weight_decay=0.2, epochs=30, warmup=5.0),
    "aim": dict(lr=3e-4),                      # both: the settings of their papers
}
# These may change from one part of a run to the next; they do not change its numbers.
FREE = {"out", "root", "poses", "workers", "log_every", "save_minutes", "resume", "force", "fresh",
        "tensorboard", "export", "skip_nonfinite", "allow_broken"}


def presets(args):
    """Defaults that follow from --data, --model and --row; the command line wins over them."""
    chosen = dict(PRESETS.get(args.data) or PRESETS.get(args.model, {}))
    if args.row:
        if args.row not in ROWS:
            raise unknown_name("row", args.row, ROWS)
        chosen |= ROWS[args.row].overrides
    chosen["read_video"] = chosen.get("video", args.video)
    chosen["read_poses"] = chosen.get("pose", args.pose) and args.model in ("pevl", "vilp")
    return chosen


def flat_settings(*configs):
    """All fields of the configs as one dict of JSON values; fields of one name hold one value."""
    fields = {k: v for c in configs for k, v in dataclasses.asdict(c).items()}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


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
    """The model's groups, each split into matrices, which decay, and the rest, which does not.

    A matrix belongs to a linear, convolution or attention module. Biases, norms, embeddings,
    temperatures and CLIP's two bare projections belong to others or have one axis."""
    owners = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d, Attention,
                                                         nn.MultiheadAttention))]
    matrices = {id(p) for m in owners for p in m.parameters(recurse=False) if p.dim() > 1}
    factor, groups = {"adapter": 1.0, "new": cfg.new_lr, "trunk": cfg.trunk_lr}, []
    for group in model.parameter_groups():
        for decay in (True, False):
            params = [p for p in group["params"] if (id(p) in matrices) == decay]
            if params:
                groups.append({"name": group["name"], "params": params, "factor": factor[group["kind"]],
                               "weight_decay": cfg.weight_decay if decay else 0.0})
    return groups


def reseed(*numbers):
    """Seeds torch from these integers alone: (seed,), or (seed, epoch, batch[, rank, part])."""
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]))


# ---- Several processes (torchrun) ----------------------------------------------------------------

@dataclass(frozen=True)
class World:
    """This process among `size`. One alone is rank 0 of 1 and needs no process group."""
    rank: int
    size: int
    device: torch.device


def join_world(cfg):
    """Follows torchrun's environment: NCCL on GPUs, gloo on CPUs. torchrun ends all ranks with one."""
    size, rank, local = (int(os.environ.get(name, default)) for name, default in
                         (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0)))
    name = cfg.device if cfg.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    usable = False
    with suppress(RuntimeError):                               # of torch.device, for an unknown name
        device = torch.device(f"cuda:{local}" if name == "cuda" else name)
        usable = device.type != "cuda" or (device.index or 0) < torch.cuda.device_count()
    if not usable:
        raise ValueError(f"device '{cfg.device}' cannot be used here. Expected auto, cpu, cuda or cuda:N of "
                         f"{torch.cuda.device_count()} GPUs. Try --device cpu.")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(rank, size, device)


def rank0_first(world, make):
    """make() on rank 0, then on the others: the first may write files (toy clips, a download)."""
    made = make() if world.rank == 0 else None
    if world.size > 1:
        dist.barrier()
    return made if world.rank == 0 else make()


class GatherRows(torch.autograd.Function):
    """Rows of all ranks in their order, (b, ...) -> (world * b, ...); own rows pass the gradient back.

    Each rank computes the same loss, so its own rows receive the whole dL/drows. Gradients are
    averaged over ranks later, as is right for weights inside the loss, which every rank has in full;
    the towers need the sum over ranks instead, hence the factor `world`."""

    @staticmethod
    def forward(ctx, x):
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad):
        return grad.chunk(dist.get_world_size())[dist.get_rank()] * dist.get_world_size()


def gather(features):
    """Features of this process's clips -> of the global batch; as they are with one process."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return features
    whole = {}
    for name, x in features.items():
        byte = x.to(torch.uint8) if x.dtype == torch.bool else x
        whole[name] = GatherRows.apply(byte).to(x.dtype)
    return whole


def average_gradients(params, bucket=2 ** 25):
    """Mean over ranks, in flat buckets of about `bucket` numbers: few, large messages."""
    grads, waiting = [p.grad for p in params if p.grad is not None], []
    for i, grad in enumerate(grads):
        waiting.append(grad)
        if sum(g.numel() for g in waiting) >= bucket or i == len(grads) - 1:
            flat = torch.cat([g.flatten() for g in waiting]) / dist.get_world_size()
            dist.all_reduce(flat)
            for g, mean in zip(waiting, flat.split([g.numel() for g in waiting])):
                g.copy_(mean.view_as(g))
            waiting = []


# ---- Batches -------------------------------------------------------------------------------------

class GlobalBatches:
    """Batch b of an epoch is order[b B : (b + 1) B], the order a function of (seed, epoch); rank r
    reads the r-th of `world` equal parts, so any number of processes sees the same batches. What
    fills no batch is left out. Yields index + epoch * clips, from which the data set seeds a sample.
    """

    def __init__(self, clips, batch, seed, rank=0, world=1):
        self.clips, self.batch, self.seed, self.rank, self.world = clips, batch, seed, rank, world
        self.epoch = self.start = 0                            # start: first batch to give

    def __len__(self):
        return self.clips // self.batch

    def __iter__(self):
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.clips)
        share = self.batch // self.world
        for b in range(self.start, len(self)):
            first = b * self.batch + self.rank * share
            yield (order[first:first + share] + self.epoch * self.clips).tolist()


def check_batch(cfg, world, clips):
    """The global batch must split evenly, and the training split must fill it."""
    if cfg.batch < 1 or cfg.accumulate < 1 or cfg.batch % (world * cfg.accumulate):
        raise ValueError(f"--batch {cfg.batch} does not split into {world} process(es) x --accumulate "
                         f"{cfg.accumulate}. Expected a multiple of their product. Change one of them.")
    if clips < cfg.batch:
        raise ValueError(f"--batch {cfg.batch}, but the training split has {clips} clips. Expected no more "
                         "than that. Lower --batch.")


def quiet_worker(_):
    """Loader workers leave Ctrl-C and SIGTERM to the main process, which finishes its step first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def open_split(data_cfg, split, train, views=1):
    """A split as a data set: clips, or the captioned stills of the toy benchmark."""
    if data_cfg.data != "toy-stills":
        return Clips(data_cfg, split, train, views)
    length = BACKBONES["tiny"].context_length
    stills = ToyStills(data_cfg, split, lambda caption: tokenize([caption], length)[0])
    stills.labels = stills.texts = ["a diver"]                 # captions take the place of labels
    stills.joints = ()
    return stills


def loader_of(run, workers):
    """Decodes this process's part of each batch; the workers stay from epoch to epoch."""
    more = dict(persistent_workers=True, worker_init_fn=quiet_worker) if workers else {}
    return DataLoader(run.train_set, batch_sampler=run.order, num_workers=workers,
                      pin_memory=run.world.device.type == "cuda", **more)


# ---- One step ------------------------------------------------------------------------------------

def forward_backward(model, parts, seeds, precision="fp32", scale=lambda loss: loss):
    """Loss of the global batch and its gradients -> named terms, gathered features, all finite?

    parts: this process's share of the batch, cut into --accumulate batches; seeds: one tuple per part
    and one, equal on all ranks, for the loss. Several parts: the contrast needs all clips at once,
    the memory holds one part. So (1) features of each part without graph, (2) the loss on all of them
    and its gradient with respect to them, (3) each part once more with the same random numbers, to
    pass that gradient on. The gradients are those of the whole batch. Not finite: none are made."""
    device = next(model.parameters()).device

    def run(i):
        reseed(*seeds[i])
        with autocast(device, precision):
            features = model(parts[i])
        features |= {k: parts[i][k] for k in ("index", "broken", "stop") if k in parts[i]}
        half = (torch.float16, torch.bfloat16)
        return {k: x.float() if x.dtype in half else x for k, x in features.items()}

    def loss(features):
        everyone = gather(features)
        reseed(*seeds[-1])
        terms = model.losses(everyone)
        finite = bool(torch.stack([x.detach().float() for x in terms.values()]).isfinite().all())
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
    largest `stop` of any rank (the number of a signal, or 0), so that all ranks stop together."""
    cfg, at, device = run.cfg, run.at, run.world.device
    batch = {k: x.to(device, non_blocking=True) for k, x in batch.items() if isinstance(x, torch.Tensor)}
    none = torch.zeros_like(batch["index"])
    batch = {"label": none, "broken": none.bool(), **batch, "stop": none + stop}   # stills lack these
    parts = [dict(zip(batch, x)) for x in zip(*(x.chunk(cfg.accumulate) for x in batch.values()))]
    key = (cfg.seed, at["epoch"], at["batch"])
    seeds = [(*key, run.world.rank, i) for i in range(len(parts))] + [key]
    for group in run.optimizer.param_groups:
        factor = lr_factor(at["step"], cfg.warmup * len(run.order), run.steps)
        group["lr"] = cfg.lr * group["factor"] * factor
    run.optimizer.zero_grad(set_to_none=True)
    with nullcontext() if "activations" in run.memory else saved_bytes(run.memory):
        terms, everyone, finite = forward_backward(run.model, parts, seeds, run.precision, run.scaler.scale)
    norm = torch.tensor(math.nan, device=device)
    if finite:
        params = [p for group in run.optimizer.param_groups for p in group["params"]]
        if run.world.size > 1:
            average_gradients(params)
        run.scaler.unscale_(run.optimizer)
        norm = nn.utils.clip_grad_norm_(params, cfg.clip_grad or math.inf)
    names = [*terms, "grad_norm", "stop", "broken"]            # one transfer from the device
    facts = dict(zip(names, torch.stack([*(x.double() for x in terms.values()), norm.double(),
                                         everyone["stop"].max(), everyone["broken"].sum()]).tolist()))
    stop, broken = int(facts.pop("stop")), facts.pop("broken")
    if finite and (math.isfinite(facts["grad_norm"]) or run.scaler.is_enabled()):
        run.scaler.step(run.optimizer)                         # fp16: its scaler leaves infinities out
        run.scaler.update()
    else:
        leave_out(run, facts, everyone["index"])
    if broken:
        found = everyone["index"][everyone["broken"].bool()].tolist()
        at["broken"] = sorted({*at["broken"], *found})
        check_broken(run)
    return facts, stop


def leave_out(run, facts, index):
    """A step that is not finite: left out as often as --skip-nonfinite allows, else the end."""
    run.at["skipped"] += 1
    terms = ", ".join(f"{k} {v:.4g}" for k, v in facts.items())
    what = (f"loss or gradient not finite at step {run.at['step'] + 1}: {terms}; clips "
            f"{', '.join(names_of(run, index.tolist()))}")
    if run.at["skipped"] > run.cfg.skip_nonfinite:
        raise ValueError(f"{what}. Expected numbers. Last good checkpoint: {last_good(run.folder)}. Lower --lr, "
                         "or try --clip-grad 1; --skip-nonfinite N leaves N such steps out.")
    run.log.say(f"note: {what}: left out ({run.at['skipped']} of {run.cfg.skip_nonfinite})")


def check_broken(run):
    """More than 1 % of the clips unreadable is a fault of the data set, not of a few files."""
    names, clips = names_of(run, run.at["broken"]), len(run.train_set)
    if len(names) > 0.01 * clips and not run.config["allow_broken"]:
        raise ValueError(f"{len(names)} of {clips} training clips are broken: {', '.join(names[:5])}. Expected at "
                         f"most 1 %. Look with python data.py check {run.config['data']}, or go on with "
                         "--allow-broken.")


def names_of(run, indices):
    clips = getattr(run.train_set, "clips", None)
    return [clips[i].id if clips else f"still {i}" for i in indices]


# ---- Checkpoints ---------------------------------------------------------------------------------

FORMAT = 1
NAMES = ("last.pt", "previous.pt", "best.pt")                  # the two newest, the best top-1


def fingerprint(values):
    """sha256 of a state dict (names, shapes, bytes), or of a JSON value."""
    digest = hashlib.sha256()
    if isinstance(values, dict) and values and all(isinstance(x, torch.Tensor) for x in values.values()):
        for name, x in sorted(values.items()):
            digest.update(f"{name} {tuple(x.shape)} {x.dtype}".encode())
            digest.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    else:
        digest.update(json.dumps(values, sort_keys=True).encode())
    return digest.hexdigest()


def last_good(folder):
    return next((str(Path(folder) / n) for n in NAMES if (Path(folder) / n).exists()), "none yet")


def write_torch(value, path, keep=None):
    """torch.save, all or nothing; the file that was there becomes `keep`. A failure changes neither."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            torch.save(value, file)
            file.flush()
            os.fsync(file.fileno())
        if keep and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as reason:                  # torch turns a full disk into the latter
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        tensors = [x for x in value.get("model", value).values() if isinstance(x, torch.Tensor)]
        need = sum(x.numel() * x.element_size() for x in tensors) * (3 if "optimizer" in value else 1)
        raise ValueError(f"cannot write {path} ({reason}). Expected about {need / 2 ** 20:.0f} MiB free in a folder "
                         f"open for writing. Last good checkpoint: {last_good(path.parent)}. Free the space, "
                         "then run the same command: it continues.") from None


def read_checkpoint(path):
    """What `save_checkpoint` wrote. A torn or foreign file is a ValueError; nothing is executed."""
    try:
        with zipfile.ZipFile(path) as file:                    # torch.save writes a zip with checksums
            reason = file.testzip()
        saved = None if reason else torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"no checkpoint at {path}. Expected a file that train.py wrote. Train first: "
                                "python train.py.") from None
    except Exception as error:                                 # zipfile and torch have many
        saved, reason = None, error
    if not isinstance(saved, dict) or saved.get("format") != FORMAT:
        raise ValueError(f"{path} is torn or no checkpoint of train.py ({reason or 'other content'}). Expected "
                         f"format {FORMAT}, whole. Use another of {', '.join(NAMES)} beside it.")
    return saved


def save_checkpoint(run, name="last.pt"):
    """All that continuing needs; rank 0 writes. Of the frozen CLIP only the hash is kept."""
    if run.world.rank == 0:
        data = run.train_set
        write_torch({"format": FORMAT, "model": run.model.trainable_state(), "at": run.at,
                     "optimizer": run.optimizer.state_dict(), "scaler": run.scaler.state_dict(),
                     "config": run.config, "identity": run.identity, "clip": run.identity["CLIP weights"],
                     "labels": list(data.labels), "texts": list(data.texts), "joints": len(data.joints),
                     "versions": versions()},
                    run.folder / name, run.folder / "previous.pt" if name == "last.pt" else None)


def resume(run):
    """Puts the run where its newest whole checkpoint was, if there is one of the same settings."""
    cfg, found, saved = run.cfg, [p for p in (run.folder / n for n in NAMES) if p.exists()], None
    for path in found:
        try:
            saved = read_checkpoint(path)
            break
        except ValueError as reason:
            run.log.say(f"note: {reason}")
    if not saved and (found or cfg.resume):
        raise ValueError(f"no checkpoint in {run.folder} can be read. Expected one of {', '.join(NAMES)} of the run "
                         "to continue. Check --out, or start again with --fresh and without --resume.")
    if saved:
        old, now = saved["identity"], run.identity
        changed = "; ".join(f"{k} from {old.get(k)!r} to {now.get(k)!r}" for k in sorted(old.keys() | now.keys())
                            if k not in FREE and old.get(k) != now.get(k))
        if changed and not cfg.force:
            raise ValueError(f"the run in {run.folder} was begun with other settings: {changed}. Expected the same "
                             "ones to continue it. Choose another --out, start it again with --fresh, or go on "
                             "with --force.")
        if changed:
            run.log.say(f"note: continued with other settings (--force): {changed}")
        run.model.load_trainable_state(saved["model"])
        run.optimizer.load_state_dict(saved["optimizer"])
        run.scaler.load_state_dict(saved["scaler"])
        run.at.update(saved["at"])
        run.log.say(f"continuing {run.folder}: epoch {run.at['epoch'] + 1}, batch {run.at['batch']}, step "
                    f"{run.at['step']} of {run.steps}")
    run.log.rewind(run.at)


# ---- What a run prints and writes ----------------------------------------------------------------

class Log:
    """Lines to the screen and log.txt, rows to metrics.jsonl and TensorBoard; rank 0 alone."""

    def __init__(self, folder, active):
        self.folder, self.active, self.board, self.unfinished = Path(folder), active, None, False
        self.terminal = sys.stdout.isatty()

    def say(self, text, progress=False, screen=True):
        """A line; on a terminal, one with `progress` is overwritten by the next such line."""
        if not self.active:
            return
        with open(self.folder / "log.txt", "a") as file:
            file.write(text + "\n")
        if screen:
            begin = "" if not self.unfinished else "\r" if progress else "\n"
            self.unfinished = progress and self.terminal
            print(begin + text.ljust(100 * progress), end="" if self.unfinished else "\n", flush=True)

    def row(self, **values):
        """One JSON object; on disk before any later checkpoint."""
        if not self.active:
            return
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(values) + "\n")
            file.flush()
            os.fsync(file.fileno())
        for name, value in values.items() if self.board else ():
            if isinstance(value, (int, float)):
                self.board.add_scalar(f"{values['kind']}/{name}", value, values["step"])

    def rows(self, kind):
        """The rows of a kind so far; the half line that a kill can leave is no row."""
        rows, path = [], self.folder / "metrics.jsonl"
        for line in path.read_text().splitlines() if path.exists() else ():
            with suppress(json.JSONDecodeError):
                rows.append(json.loads(line))
        return [row for row in rows if row["kind"] == kind]

    def rewind(self, at):
        """Forgets rows from beyond the checkpoint: the run will write them again."""
        kept = [row for row in self.rows("step") if row["step"] <= at["step"]]
        kept += [row for row in self.rows("epoch") if row["epoch"] <= at["evaluated"]]
        kept.sort(key=lambda row: (row["step"], row["kind"] == "epoch"))
        if self.active:
            text = "".join(json.dumps(row) + "\n" for row in kept)
            write_atomically(self.folder / "metrics.jsonl", text.encode())


def versions():
    """What made a run: packages and, in a git checkout, the commit."""
    found = {"python": platform.python_version()}
    for name in ("torch", "numpy", "pillow", "av", "ftfy", "regex"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    here = Path(__file__).resolve().parent
    with suppress(OSError, subprocess.CalledProcessError):
        found["commit"] = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], check=True, text=True,
                                         capture_output=True).stdout.strip() if (here / ".git").exists() else ""
    return found


def parameter_table(model):
    """Total, trainable and frozen parameters of each part, in millions: see Tables 1 and 7."""
    rows = []
    for name, part in model.parts().items():
        params = list(part.parameters()) if isinstance(part, nn.Module) else part
        rows.append((name, sum(p.numel() for p in params), sum(p.numel() for p in params if p.requires_grad)))
    rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    return "\n".join([f"{'parameters, M':<16}{'total':>9}{'trainable':>11}{'frozen':>9}"] + [
        f"{name:<16}{n / 1e6:>9.3f}{tuned / 1e6:>11.3f}{(n - tuned) / 1e6:>9.3f}" for name, n, tuned in rows])


@contextmanager
def saved_bytes(memory):
    """Counts what autograd keeps for backward, each storage once, into memory["activations"]."""
    seen = {}

    def keep(x):
        storage = x.untyped_storage()
        seen[storage.data_ptr()] = 0 if isinstance(x, nn.Parameter) else storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        yield
    memory["activations"] = sum(seen.values())


def peak_mib(device):
    """Most memory so far: of the GPU's tensors, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2 ** 20
    import resource                                            # absent on Windows
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2 ** 20 if sys.platform == "darwin" else 2 ** 10)


def memory_line(run):
    """Estimate from the first step: weights, gradients with AdamW's two moments, activations."""
    params = list(run.model.parameters())
    parts = [4 * sum(p.numel() for p in params), 12 * sum(p.numel() for p in params if p.requires_grad),
             run.memory["activations"]]
    mib = [x / 2 ** 20 for x in (*parts, sum(parts))]
    return ("memory of a step, estimated: weights {:.0f} MiB + gradients and AdamW {:.0f} + kept for backward {:.0f} = "
            "{:.0f} MiB; ".format(*mib) + f"measured peak {peak_mib(run.world.device):.0f} MiB")


def record(run, terms, data_s, step_s):
    """Adds a step to the sums; each --log-every steps, a row and a progress line of their means."""
    at, cfg = run.at, run.cfg
    at["step"], at["batch"] = at["step"] + 1, at["batch"] + 1
    for sums in (at["interval"], at["sums"]):
        for name, value in {**terms, "data_s": data_s, "step_s": step_s, "n": 1}.items():
            sums[name] = sums.get(name, 0) + value
    if at["step"] % cfg.log_every and at["batch"] < len(run.order):
        return
    n, peak = at["interval"].pop("n"), peak_mib(run.world.device)
    mean = {name: value / n for name, value in at["interval"].items()}
    at["interval"], seconds = {}, mean["data_s"] + mean["step_s"]
    lr, left = run.optimizer.param_groups[0]["lr"], int((run.steps - at["step"]) * seconds)
    run.log.row(kind="step", epoch=at["epoch"] + 1, step=at["step"], lr=lr, skipped=at["skipped"], **mean,
                clips_per_s=cfg.batch / seconds, peak_mib=peak)
    run.log.say(f"epoch {at['epoch'] + 1}/{cfg.epochs} step {at['step']}/{run.steps} "
                + " ".join(f"{k} {mean[k]:.3f}" for k in terms) + f" lr {lr:.1e} data {mean['data_s']:.3f} s "
                f"step {mean['step_s']:.3f} s {cfg.batch / seconds:.0f} clips/s {left // 60}:{left % 60:02d} left "
                f"peak {peak:.0f} MiB", progress=True)


# ---- Setting up ----------------------------------------------------------------------------------

@dataclass
class Run:
    """What `train` works with. `at` is where it stands and goes into checkpoints as it is: epoch and
    batch to do next, steps done, epochs measured, sums since the last row and the epoch's start."""
    cfg: TrainConfig
    folder: Path
    world: World
    precision: str
    log: Log
    train_set: torch.utils.data.Dataset
    held_out: torch.utils.data.Dataset
    order: GlobalBatches
    config: dict                                               # all settings, flat, as eval.py wants them
    identity: dict                                             # what must not change: they, data, CLIP
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    memory: dict = field(default_factory=dict)
    at: dict = field(default_factory=lambda: dict(epoch=0, batch=0, step=0, evaluated=0, best=-1.0,
                                                  skipped=0, broken=[], interval={}, sums={}))

    @property
    def steps(self):
        return self.cfg.epochs * len(self.order)


def load_trunk(model_cfg):
    """The CLIP to adapt, with its weights; --clip random: without any, for its own pretraining."""
    if model_cfg.clip == "random":
        return CLIP(BACKBONES[model_cfg.backbone])
    return load_clip(model_cfg.clip or model_cfg.backbone, model_cfg.image_size)


def choose_precision(cfg, device):
    """bf16 by itself only where it is native; on a CPU it is emulated, hundreds of times slower."""
    if cfg.precision == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if cfg.precision != "fp32" and device.type != "cuda":
        raise ValueError(f"--precision {cfg.precision} on {device.type}. Expected fp32 there, since half precision is "
                         "emulated. Leave --precision out.")
    return cfg.precision


def open_folder(cfg, data_cfg, model_cfg, world):
    """--out, or out/<data>-<model>[-row]; emptied of an earlier run by --fresh."""
    row = f"-{cfg.row.replace('/', '-')}" if cfg.row else ""
    folder = Path(cfg.out or f"out/{data_cfg.data}-{model_cfg.model}{row}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (*NAMES, "metrics.jsonl", "log.txt") if cfg.fresh and world.rank == 0 else ():
            (folder / name).unlink(missing_ok=True)
    except OSError as reason:
        raise ValueError(f"cannot use the run folder {folder} ({reason}). Expected a folder open for writing. "
                         "Choose one with --out.") from None
    return folder


def prepare(cfg, data_cfg, model_cfg):
    """Data, model and optimizer as new, or as the run folder's checkpoint left them."""
    world = join_world(cfg)
    precision = choose_precision(cfg, world.device)
    folder = rank0_first(world, lambda: open_folder(cfg, data_cfg, model_cfg, world))
    log = Log(folder, world.rank == 0)
    train_set = rank0_first(world, lambda: open_split(data_cfg, "train", True))
    held_out = open_split(data_cfg, cfg.eval_split, False)
    check_batch(cfg, world.size, len(train_set))
    reseed(cfg.seed)
    clip = rank0_first(world, lambda: load_trunk(model_cfg))
    config = flat_settings(model_cfg, data_cfg, cfg)
    clips = [[c.id, c.label] for c in getattr(train_set, "clips", ())]
    identity = {**config, "CLIP weights": fingerprint(clip.state_dict()), "precision": precision,
                "data set": fingerprint([list(train_set.texts), clips]), "device": world.device.type,
                "processes": world.size}
    reseed(cfg.seed)                                           # loading may or may not have drawn numbers
    model = build_model(model_cfg, clip, train_set.texts, len(train_set.joints)).to(world.device)
    optimizer = torch.optim.AdamW(optimizer_groups(model, cfg), lr=cfg.lr, fused=True)
    scaler = torch.amp.GradScaler(world.device.type, enabled=precision == "fp16")
    order = GlobalBatches(len(train_set), cfg.batch, cfg.seed, world.rank, world.size)
    run = Run(cfg, folder, world, precision, log, train_set, held_out, order, config, identity, model,
              optimizer, scaler)
    resume(run)
    for p in model.parameters() if world.size > 1 else ():
        if p.requires_grad:
            dist.broadcast(p.detach(), 0)
    if cfg.compile:
        model.compile()
    introduce(run)
    return run


def introduce(run):
    """Prints what will be trained on what, and writes config.json."""
    cfg, log, data, raw = run.cfg, run.log, run.train_set, getattr(run.model, "discrepancy", None)
    about = {"config": run.config, "identity": run.identity, "versions": versions(),
             "command": [Path(sys.argv[0]).name, *sys.argv[1:]]}
    if run.world.rank == 0:
        write_atomically(run.folder / "config.json", json.dumps(about, indent=1).encode())
    if cfg.tensorboard and run.world.rank == 0:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError("--tensorboard: the package is not installed. Expected tensorboard. Run pip install "
                             "tensorboard, or leave the flag out.") from None
        log.board = SummaryWriter(run.folder, purge_step=run.at["step"])
    log.say("settings: " + " ".join(f"{k}={v}" for k, v in run.config.items() if v != ""), screen=False)
    log.say(f"{run.folder}: {run.config['model']} {run.config['backbone']} on {run.config['data']}; {len(data)} clips, "
            f"{len(data.labels)} labels, {len(run.held_out)} held out; {run.world.device}, {run.precision}, "
            f"{run.world.size} process(es) x {cfg.batch // run.world.size} clips; {run.steps} steps")
    log.say(parameter_table(run.model))
    if raw is not None and len(raw) > 1:                       # near 0: the frozen tower cannot tell them apart
        apart = raw[~torch.eye(len(raw), dtype=torch.bool, device=raw.device)]
        log.say(f"text discrepancies of Eq. (5), 1 - cos: smallest {apart.min():.4f}, mean {apart.mean():.4f}, largest "
                f"{apart.max():.4f}")


# ---- The loop ------------------------------------------------------------------------------------

class Stopped(Exception):
    """SIGTERM or SIGINT was obeyed: the step was finished and saved."""

    def __init__(self, number, folder):
        super().__init__(f"stopped by {signal.Signals(number).name}; the same command continues {folder}")
        self.code = 128 + number


@contextmanager
def watch_signals():
    """Inside, SIGTERM and SIGINT only set caught[0], for the loop to obey; the second one interrupts."""
    caught = [0]

    def note(number, _):
        if caught[0]:
            raise KeyboardInterrupt
        caught[0] = number

    before = {}
    with suppress(ValueError):                                 # outside the main thread there is no watching
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(cfg, data_cfg, model_cfg):
    """Trains, or continues, and measures; leaves the run folder and returns the final metrics."""
    run = prepare(cfg, data_cfg, model_cfg)
    at, loader = run.at, loader_of(run, data_cfg.workers)
    try:
        with watch_signals() as caught:
            while at["evaluated"] < cfg.epochs:
                if at["epoch"] == at["evaluated"]:             # else it was stopped while measuring
                    train_epoch(run, loader, caught)
                    save_checkpoint(run)
                measure(run)
        return finish(run, data_cfg)
    finally:
        if loader._iterator:                                   # these workers ignore Python's own SIGTERM
            loader._iterator._shutdown_workers()


def train_epoch(run, loader, caught):
    """The steps of an epoch that are left; saves on --save-minutes and on a signal."""
    at, saved = run.at, time.monotonic()
    run.order.epoch, run.order.start = at["epoch"], at["batch"]
    run.model.train()
    start = time.monotonic()
    for batch in loader:
        fetched = time.monotonic()
        terms, stop = take_step(run, batch, caught[0])
        now = time.monotonic()
        record(run, terms, fetched - start, now - fetched)
        if run.memory and not run.memory.setdefault("told", False):
            run.memory["told"] = True
            run.log.say(memory_line(run))
        if stop or now - saved > 60 * run.cfg.save_minutes:
            save_checkpoint(run)
            saved = time.monotonic()
        if stop:
            raise Stopped(stop, run.folder)
        start = time.monotonic()
    at["epoch"], at["batch"] = at["epoch"] + 1, 0


def measure(run):
    """After an epoch: held-out metrics, its row and line, curves, best.pt."""
    at, cfg = run.at, run.cfg
    at["evaluated"] += 1
    due = at["evaluated"] % cfg.eval_every == 0 or at["evaluated"] == cfg.epochs
    metrics = held_out_metrics(run, run.held_out) if due else {}
    figures = {k: v for k, v in metrics.items() if isinstance(v, (int, float))}
    sums = at["sums"]
    means = {k: v / sums["n"] for k, v in sums.items() if k != "n"}
    broken = names_of(run, at["broken"])
    run.log.row(kind="epoch", epoch=at["evaluated"], step=at["step"], broken=broken, **means, **figures)
    run.log.say(f"epoch {at['evaluated']}/{cfg.epochs}: total {means['total']:.4f}" + percent(figures))
    if run.world.rank == 0:
        draw_curves(run.log.rows("epoch"), run.folder / "curves.png")
    if broken:
        run.log.say(f"note: {len(broken)} broken clips were replaced in this epoch, first {', '.join(broken[:5])} (all: log.txt)")
        run.log.say(f"broken: {' '.join(broken)}", screen=False)
    at["broken"], at["sums"] = [], {}
    if figures.get("top1", -1) > at["best"]:
        at["best"] = figures["top1"]
        save_checkpoint(run, "best.pt")
    if cfg.export and run.world.rank == 0:
        write_torch({k: x.half() for k, x in run.model.clip.state_dict().items()}, cfg.export)


def percent(figures):
    shown = {k: v for k, v in figures.items() if k.split("/")[0] in ("top1", "top5", "mean")}
    return "".join(f", {k} {100 * v:.1f}" for k, v in shown.items()) + " %" * bool(shown)


def held_out_metrics(run, dataset):
    """Metrics of the model as it stands, made by all ranks together."""
    if run.config["data"] == "toy-stills":
        return zero_shot(run.model, dataset, run.cfg.batch, run.world.device)
    return evaluate(run.model, dataset, run.cfg.batch, run.world.device, run.config["workers"], run.precision)


@torch.no_grad()
def zero_shot(model, stills, batch_size, device):
    """Accuracy per attribute of the stills whose value can be told: the nearest of its values' texts,
    each the mean over its wordings."""
    model.eval()
    texts, hits, known = {}, {}, {}
    for name in stills.attributes:
        worded = [model.clip.encode_text(tokenize(ways, model.clip.config.context_length).to(device))[0]
                  for ways in stills.prompts(name)]
        means = torch.stack([nn.functional.normalize(w, dim=-1).mean(0) for w in worded])
        texts[name] = nn.functional.normalize(means, dim=-1)   # (values, e)
    for batch in DataLoader(stills, batch_size):
        image = model({"frames": batch["frames"].to(device), "label": batch["index"]})["image"]
        for column, name in enumerate(stills.attributes):
            truth = batch["attributes"][:, column].to(device)  # -1: cannot be told
            hits[name] = hits.get(name, 0) + int(((image @ texts[name].T).argmax(1) == truth).sum())
            known[name] = known.get(name, 0) + int((truth >= 0).sum())
    each = {f"top1/{name}": hits[name] / max(known[name], 1) for name in hits}
    return {"top1": sum(each.values()) / len(each), **each}


def finish(run, data_cfg):
    """The test split, looked at once, with the final weights: figures, confusion matrix, strips."""
    if run.config["data"] == "toy-stills":
        return run.log.rows("epoch")[-1] if run.world.rank == 0 else {}
    test = open_split(data_cfg, "test", False)
    metrics = held_out_metrics(run, test)
    figures = {k: v for k, v in metrics.items() if isinstance(v, (int, float))}
    run.log.row(kind="test", epoch=run.at["evaluated"], step=run.at["step"], **figures)
    if run.world.rank == 0:
        run.log.say("test split, final weights\n" + report(metrics, test.labels))
        about = {"checkpoint": str(run.folder / "last.pt"), "data": run.config["data"], "split": "test", "views": 1}
        write_results(dict(metrics), run.model, test, EvalConfig(), run.folder, about, run.world.device)
    return metrics


# ---- Command line --------------------------------------------------------------------------------

def list_rows():
    """The registry of pevl.py as a table."""
    lines = [f"{'row':<22}{'paper':>6}  what changes"]
    for name, row in ROWS.items():
        flags = ", ".join(f"{k}={v}" for k, v in row.overrides.items())
        lines.append(f"{name:<22}{row.top1 or '-':>6}  {row.what}" + f" ({flags})" * bool(flags))
    return "\n".join(lines)


def main(argv=None):
    def extra(parser):
        parser.add_argument("--list-rows", action="store_true", help="print the rows of the tables")

    (cfg, data_cfg, model_cfg), args = build_configs(
        argv, (TrainConfig, DataConfig, PeVLConfig), presets, __doc__, extra)
    if args.list_rows:
        print(list_rows())
        return 0
    try:
        train(cfg, data_cfg, model_cfg)
    except (Stopped, KeyboardInterrupt) as stop:
        print(f"\n{stop or 'interrupted'}", file=sys.stderr)
        return getattr(stop, "code", 130)
    except (ValueError, OSError) as reason:
        rank = f" (rank {os.environ['RANK']})" if "RANK" in os.environ else ""
        print(f"\nerror{rank}: {reason}", file=sys.stderr)
        return 2
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
