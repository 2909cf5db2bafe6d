"""Train PeVL, ViLP, AIM, an ablation row, or the tiny CLIP itself: one visible loop (`train`), on a CPU, a GPU or many.

    python train.py                                          toy benchmark, made on the first run; minutes on two cores
    python train.py --data diving48 --root DIR --backbone ViT-B/16                      one GPU, the paper's settings
    torchrun --nproc_per_node 8 train.py --data diving48 --root DIR --backbone ViT-B/16  the same global batch, 8 GPUs
    python train.py --row table5/no-p2v                      a row of the paper's tables (--list-rows names them)
    python train.py --model clip --data toy-stills --export assets/tiny-clip.pt         pretrains the tiny backbone

paper            | what                              | here                        | test (tests/test_train.py)
Sec. 4.1         | AdamW, warm-up, cosine to zero    | lr_factor, optimizer_groups | test_schedule_follows_the_formula
Sec. 3.4         | total = L_t + lambda_R L_R        | forward_backward            | test_accumulation_equals_the_whole_batch
-                | a batch over several processes    | gather, average_gradients   | test_two_processes_equal_one
-                | stop anywhere, go on exactly      | save_checkpoint, resume     | test_resume_is_exact, test_killed_runs_end_alike

Resume is exact by construction: every random number of a step is a pure function of (seed, epoch, batch, rank, part of the
batch) and every one of a sample of (seed, epoch, sample), so no generator has a state that a checkpoint would have to
hold, whatever the number of loader workers. Bit for bit means: same machine, device, thread count and process count.
Axes: B clips of the global batch, K classes; features are dicts of tensors with a leading B.
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
from contextlib import contextmanager, nullcontext
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
from eval import autocast, draw_confusion, draw_curves, evaluate, write_atomically
from pevl import ROWS, PeVLConfig, build_model

# ---- Settings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainConfig:
    """How it is trained. The defaults are Sec. 4.1 of the paper; PRESETS change them per data set and model."""
    out: Annotated[str, "run folder; empty: out/<data>-<model>[-row]. A run found there is continued"] = ""
    row: Annotated[str, "row of the paper's tables to train, e.g. table5/no-p2v (--list-rows)"] = ""
    seed: Annotated[int, "seed of everything random"] = 0
    epochs: Annotated[int, "passes over the training clips (Sec. 4.1: 50)"] = 50
    batch: Annotated[int, "clips of a step, over all processes; the contrast is among them (ours: the paper has none)"] = 32
    accumulate: Annotated[int, "parts a process's share of the batch is run in, to save memory; the loss stays whole"] = 1
    lr: Annotated[float, "base learning rate of AdamW (Sec. 4.1: 8e-6)"] = 8e-6
    new_lr: Annotated[float, "factor on lr for modules that start from nothing; try 10 if the loss stands still (D11)"] = 1.0
    trunk_lr: Annotated[float, "factor on lr for CLIP's own weights under --tune all (ViLP: 0.1)"] = 0.1
    weight_decay: Annotated[float, "on weight matrices; none on biases, norms, embeddings (Sec. 4.1: 0.05)"] = 0.05
    warmup: Annotated[float, "epochs of linear warm-up, then cosine to zero (Sec. 4.1: 3)"] = 3.0
    clip_grad: Annotated[float, "largest gradient norm; 0: not clipped (it is logged either way)"] = 0.0
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], "of matrix products; losses stay float32. auto: bf16 "
                         "on a GPU that has it"] = "auto"
    device: Annotated[str, "auto, cpu, cuda or cuda:N"] = "auto"
    compile: Annotated[bool, "torch.compile the model: minutes at the start, faster steps on a GPU"] = False
    eval_split: Annotated[str, "split that is evaluated after epochs"] = "test"
    eval_every: Annotated[int, "epochs between evaluations"] = 1
    log_every: Annotated[int, "steps between rows of metrics.jsonl and progress lines"] = 10
    save_minutes: Annotated[float, "checkpoint at least this often within an epoch"] = 10.0
    skip_nonfinite: Annotated[int, "steps with a loss or gradient that is not finite to leave out before stopping"] = 0
    resume: Annotated[bool, "insist on a run to continue in --out"] = False
    force: Annotated[bool, "continue although settings changed; noted in the log"] = False
    fresh: Annotated[bool, "start again, replacing the run in --out"] = False
    tensorboard: Annotated[bool, "also write TensorBoard events (pip install tensorboard)"] = False
    export: Annotated[str, "write CLIP's weights here in fp16 after each epoch (--tune all)"] = ""


TINY = dict(backbone="tiny", image_size=80,
            tau_fw=0.1)           # 0.01 is too sharp for 64 numbers per feature: nothing is learned
TOY = dict(**TINY, pose_frames=32,    # all frames of a clip
           video_frames=8,            # what must be seen, the apparatus, does not move
           adapter_ratio=1.0,         # a bottleneck of 96 / 4 is too narrow
           drop_path=0.0,             # five epochs do not overfit
           lr=3e-3, epochs=5, warmup=0.5, batch=32,   # minutes on two cores
           own_loss=0.3,              # else sim_vs and sim_fw idle while sim_ps does the work (D14)
           eval_split="val")          # the test split is looked at once, at the end
STILLS = dict(**TINY, tune="all", clip="random", video_frames=1, pose_frames=1,
              lr=2e-3, trunk_lr=1.0,  # everything starts from nothing
              epochs=16, warmup=0.25, batch=128, clip_grad=1.0, eval_split="val")
PRESETS = {  # --data NAME, then --model NAME: flags whose default changes, each with its reason or source
    "toy": TOY, "toy-stills": STILLS,
    # ViLP's paper: 8 frames, towers at a tenth of the rate, all of CLIP's image towers trained.
    "vilp": dict(video_frames=8, pose_frames=8, lr=5e-5, weight_decay=0.2, epochs=30, warmup=5.0),
    # AIM's paper, Diving48.
    "aim": dict(lr=3e-4, epochs=50, warmup=3.0),
}


def presets(args):
    """Defaults that depend on --data, --model and --row (the command line wins over them)."""
    chosen = dict(PRESETS.get(args.data, {}))
    if args.data not in ("toy", "toy-stills"):     # the toy's own settings are for all models
        chosen |= PRESETS.get(args.model, {})
    if args.row:
        if args.row not in ROWS:
            raise unknown_name("row", args.row, ROWS)
        chosen |= ROWS[args.row].overrides
    return chosen


# May change between the parts of one run without changing its numbers.
FREE = {"out", "root", "poses", "workers", "log_every", "save_minutes", "resume", "force", "fresh", "tensorboard", "export",
        "skip_nonfinite", "allow_broken"}


def flat_settings(*configs):
    """All fields of the configs in one dict of JSON values; fields of equal name hold equal values."""
    merged = {}
    for config in configs:
        merged |= {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}
    return merged


# ---- Schedule, parameter groups, random numbers -----------------------------------------------------------------------

def lr_factor(step, warmup, total):
    """Linear warm-up, then half a cosine to zero: step 0..total-1 -> factor on the learning rate.

        (step + 1) / warmup                                              while step < warmup
        (1 + cos(pi (step - warmup) / (total - warmup))) / 2             after it; 0 at `total`
    """
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1))) / 2


def optimizer_groups(model, cfg):
    """Groups for AdamW: each of the model's groups split into matrices, which decay, and the rest, which does not.

    Matrices are the weights of linear, convolution and attention modules. Biases, norms, embeddings, temperatures and
    CLIP's two bare projections are owned by other modules or have one axis.
    """
    owners = (nn.Linear, nn.Conv2d, Attention)
    matrices = {id(p) for m in model.modules() if isinstance(m, owners) for p in m.parameters(recurse=False) if p.dim() > 1}
    factor = {"adapter": 1.0, "new": cfg.new_lr, "trunk": cfg.trunk_lr}
    groups = []
    for group in model.parameter_groups():
        for decay in (True, False):
            params = [p for p in group["params"] if (id(p) in matrices) == decay]
            if params:
                groups.append({"name": group["name"], "params": params, "factor": factor[group["kind"]],
                               "weight_decay": cfg.weight_decay if decay else 0.0})
    return groups


def reseed(*numbers):
    """Seeds torch from these integers alone (seed, epoch, batch, rank, part): see the module's docstring."""
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]))


# ---- Several processes (torchrun) -------------------------------------------------------------------------------------

@dataclass(frozen=True)
class World:
    """This process among `size`; one process alone is rank 0 of 1 and needs no process group."""
    rank: int
    size: int
    device: torch.device


def join_world(cfg):
    """Reads torchrun's environment; starts NCCL on GPUs, gloo on CPUs. A rank that raises ends the others (torchrun)."""
    size, rank, local = (int(os.environ.get(k, d)) for k, d in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0)))
    name = cfg.device if cfg.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(f"cuda:{local}" if name == "cuda" else name)
        if device.type == "cuda":
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as reason:
        raise ValueError(f"device '{cfg.device}' cannot be used here ({reason}). Expected auto, cpu, cuda or cuda:N with a "
                         "GPU that PyTorch sees. Try --device cpu.") from None
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(rank, size, device)


class GatherRows(torch.autograd.Function):
    """Rows of all ranks in rank order, (b, ...) -> (world * b, ...); a rank's own rows pass their gradient back.

    Every rank computes the same loss, so what comes back to its own rows is the whole of dL/drows. Gradients are averaged
    over ranks afterwards (right for the weights inside the loss, which each rank has in full); times `world` here, so that
    the average is the sum over ranks that the towers need.
    """

    @staticmethod
    def forward(ctx, x):
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad):
        world, rank = dist.get_world_size(), dist.get_rank()
        return grad.chunk(world)[rank] * world


def gather(features):
    """Features of this process -> features of the global batch; the same dict where there is one process."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return features
    wide = {name: x.to(torch.uint8) if x.dtype == torch.bool else x for name, x in features.items()}
    return {name: GatherRows.apply(x).to(features[name].dtype) for name, x in wide.items()}


def average_gradients(params, world, bucket=2 ** 25):
    """Mean of the gradients over ranks, in flat buckets of about `bucket` numbers: few, large messages."""
    waiting, count = [], 0
    grads = [p.grad for p in params if p.grad is not None]
    for i, grad in enumerate(grads):
        waiting, count = [*waiting, grad], count + grad.numel()
        if count >= bucket or i == len(grads) - 1:
            flat = torch.cat([g.flatten() for g in waiting])
            dist.all_reduce(flat)
            for g, mean in zip(waiting, (flat / world).split([g.numel() for g in waiting])):
                g.copy_(mean.view_as(g))
            waiting, count = [], 0


# ---- Batches ----------------------------------------------------------------------------------------------------------

class GlobalBatches:
    """Order of an epoch, a function of (seed, epoch): batch b is order[b B : (b + 1) B], and rank r reads the r-th of
    `world` equal parts of it, so any number of processes sees the same batches. The rest that fills no batch is left out
    (another one each epoch). Yields index + epoch * clips, from which the data set seeds its sample. `start`: first batch.
    """

    def __init__(self, clips, batch, seed, rank=0, world=1):
        self.clips, self.batch, self.seed, self.rank, self.world = clips, batch, seed, rank, world
        self.epoch = self.start = 0

    def __len__(self):
        return self.clips // self.batch

    def __iter__(self):
        order = np.random.default_rng(np.random.SeedSequence((self.seed, self.epoch))).permutation(self.clips)
        share = self.batch // self.world
        for b in range(self.start, len(self)):
            first = b * self.batch + self.rank * share
            yield (order[first:first + share] + self.epoch * self.clips).tolist()


def quiet_worker(_):
    """A loader worker leaves Ctrl-C and Slurm's SIGTERM to the main process, which finishes its step and saves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def check_batch(cfg, world, clips):
    """The global batch must split into equal parts for each process and each accumulation."""
    if cfg.batch < 1 or cfg.accumulate < 1 or cfg.batch % (world * cfg.accumulate):
        raise ValueError(f"--batch {cfg.batch} does not split into {world} processes x --accumulate {cfg.accumulate}. "
                         "Expected a multiple of their product. Change --batch or --accumulate.")
    if clips < cfg.batch:
        raise ValueError(f"--batch {cfg.batch} is larger than the training split of {clips} clips. Expected at most one "
                         "epoch in a batch. Lower --batch.")


# ---- One step ---------------------------------------------------------------------------------------------------------

def forward_backward(model, parts, seeds, precision="fp32", scale=lambda loss: loss):
    """Loss of the global batch and its gradients; parts: list of this process's batches; seeds: one per part, and the loss's.

    One part: features with graph, gathered, loss, backward. Several parts (--accumulate): the contrast needs all clips at
    once but memory holds one part, so (1) features of all parts without graph, (2) loss on them and its gradient with
    respect to them, (3) each part again, same random numbers, backpropagating that gradient. The sum equals the whole batch.
    Returns named terms and the gathered features; gradients are left out if a term is not finite.
    """
    device = next(model.parameters()).device

    def run(i):
        reseed(*seeds[i])
        with autocast(device, precision):
            features = model(parts[i])
        extra = {k: parts[i][k] for k in ("index", "broken", "stop") if k in parts[i]}
        return {k: x.float() if x.dtype in (torch.float16, torch.bfloat16) else x for k, x in (features | extra).items()}

    def loss(features):
        everyone = gather(features)
        reseed(*seeds[-1])                                      # the same on all ranks, and so is the loss
        terms = model.losses(everyone)
        finite = bool(torch.stack([t.detach().float() for t in terms.values()]).isfinite().all())
        if finite:
            scale(terms["total"]).backward()
        return {k: t.detach() for k, t in terms.items()}, everyone, finite

    if len(parts) == 1:
        return loss(run(0))
    with torch.no_grad():
        cached = [run(i) for i in range(len(parts))]
    whole = {k: torch.cat([c[k] for c in cached]) for k in cached[0]}
    whole = {k: x.requires_grad_() if x.is_floating_point() else x for k, x in whole.items()}
    result = loss(whole)
    sizes = [len(c["label"]) for c in cached]
    for i in range(len(parts)) if result[2] else ():
        rows = slice(sum(sizes[:i]), sum(sizes[:i + 1]))
        pairs = [(x, whole[k].grad[rows]) for k, x in run(i).items() if x.requires_grad and whole[k].grad is not None]
        if pairs:
            torch.autograd.backward(*zip(*pairs))
    return result


# ---- Checkpoints ------------------------------------------------------------------------------------------------------

def fingerprint(values):
    """sha256 of a state dict (names, shapes, bytes) or of any JSON value."""
    digest = hashlib.sha256()
    if isinstance(values, dict) and all(isinstance(v, torch.Tensor) for v in values.values()):
        for name, x in sorted(values.items()):
            digest.update(f"{name} {tuple(x.shape)} {x.dtype}".encode())
            digest.update(x.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    else:
        digest.update(json.dumps(values, sort_keys=True).encode())
    return digest.hexdigest()


def write_torch(value, path, keep=None):
    """torch.save, whole or not at all; the file that was there before becomes `keep`. A full disk leaves both untouched."""
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
    except (OSError, RuntimeError) as reason:              # torch reports a failed write as RuntimeError
        size = sum(x.numel() * x.element_size() for x in tensors_of(value)) / 2 ** 20
        temporary.unlink(missing_ok=True) if os.access(path.parent, os.W_OK) else None
        last = next((p for p in (path, keep) if p and Path(p).exists()), "none")
        raise ValueError(f"cannot write {path} ({reason}). Expected about {size:.0f} MiB free in a folder that can be written. "
                         f"Last good checkpoint: {last}. Free the space, then run the same command: it continues.") from None


def tensors_of(value):
    """All tensors inside nested dicts and lists."""
    if isinstance(value, torch.Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [x for v in inner for x in tensors_of(v)]


def read_checkpoint(path):
    """The dict that `save_checkpoint` wrote; a torn or foreign file is a ValueError. Nothing in it is executed."""
    try:
        with zipfile.ZipFile(path) as file:                # torch.save writes a zip; its CRCs tell a torn file
            torn = file.testzip()
        saved = torch.load(path, map_location="cpu", weights_only=True) if torn is None else None
    except FileNotFoundError:
        raise FileNotFoundError(f"no checkpoint at {path}. Expected a .pt file written by train.py. Train first: python "
                                "train.py.") from None
    except Exception as reason:
        saved, torn = None, reason
    if not isinstance(saved, dict) or saved.get("format") != FORMAT:
        raise ValueError(f"{path} is torn or not a checkpoint of train.py ({torn or 'unknown content'}). Expected format "
                         f"{FORMAT}. Use previous.pt or best.pt beside it.")
    return saved


FORMAT = 1
NAMES = ("last.pt", "previous.pt", "best.pt")              # the two newest, and the best by held-out top-1


def versions():
    """What this run was made with, for config.json and checkpoints."""
    packages = ("torch", "numpy", "pillow", "av", "ftfy", "regex")
    commit = subprocess.run(["git", "-C", Path(__file__).parent, "rev-parse", "HEAD"], capture_output=True, text=True) \
        if (Path(__file__).parent / ".git").exists() else None
    return {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages},
            "commit": commit.stdout.strip() if commit and not commit.returncode else ""}


def newest_checkpoint(folder, say):
    """The newest readable checkpoint of a run folder, or None; a torn one is named and the one before is used."""
    found = [p for p in (Path(folder) / name for name in NAMES) if p.exists()]
    for path in found:
        try:
            return read_checkpoint(path)
        except ValueError as reason:
            say(f"note: {reason}")
    if found:
        raise ValueError(f"no checkpoint in {folder} can be read. Expected one of {', '.join(NAMES)} whole. Restore one from a "
                         "backup, or start again with --fresh.")
    return None


def check_unchanged(saved, now, folder, force, say):
    """Refuses to continue a run under other settings; `saved`, `now`: name -> JSON value."""
    changed = [f"{k} from {saved.get(k)!r} to {now.get(k)!r}" for k in sorted(saved.keys() | now.keys())
               if k not in FREE and saved.get(k) != now.get(k)]
    if changed and not force:
        raise ValueError(f"the run in {folder} was begun with other settings: {'; '.join(changed)}. Expected the same command, "
                         "which continues it. Choose another --out, start again with --fresh, or go on with --force.")
    if changed:
        say(f"note: continuing with changed settings (--force): {'; '.join(changed)}")


# ---- What a run prints and writes -------------------------------------------------------------------------------------

class Log:
    """Lines to the terminal and log.txt, rows to metrics.jsonl (and TensorBoard). Ranks other than 0 are silent."""

    def __init__(self, folder, active):
        self.folder, self.active, self.open_line, self.board = Path(folder), active, False, None
        self.terminal = sys.stdout.isatty()

    def say(self, text, progress=False, screen=True):
        """A line; with `progress`, one that the next progress line overwrites on a terminal."""
        if not self.active:
            return
        with open(self.folder / "log.txt", "a") as file:
            file.write(text + "\n")
        if screen:
            start = "\r" if progress and self.open_line and self.terminal else "\n" if self.open_line else ""
            self.open_line = progress and self.terminal
            print(f"{start}{text:<100}" if progress else start + text, end="" if self.open_line else "\n", flush=True)

    def row(self, **values):
        if not self.active:
            return
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(values) + "\n")
            file.flush()
            os.fsync(file.fileno())
        for name, value in values.items() if self.board else ():
            if isinstance(value, (int, float)):
                self.board.add_scalar(f"{values['kind']}/{name}", value, values["step"])

    def rows(self):
        """Rows of metrics.jsonl; a half line (a kill while it was written) is dropped."""
        rows, path = [], self.folder / "metrics.jsonl"
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return rows

    def rewind(self, at):
        """Forgets the rows after the checkpoint's position: the run is about to write them again."""
        kept = [r for r in self.rows() if (r["kind"] == "step" and r["step"] <= at["step"])
                or (r["kind"] == "epoch" and r["epoch"] <= at["evaluated"])]
        if self.active:
            write_atomically(self.folder / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in kept).encode())


def parameter_table(model):
    """Total, trainable and frozen parameters per part, in millions: compare with Tables 1 and 7."""
    lines = [f"{'parameters, M':<16}{'total':>9}{'trainable':>11}{'frozen':>9}"]
    sums = [0, 0]
    for name, part in model.parts().items():
        params = list(part.parameters()) if isinstance(part, nn.Module) else part
        total, tuned = sum(p.numel() for p in params), sum(p.numel() for p in params if p.requires_grad)
        sums = [sums[0] + total, sums[1] + tuned]
        lines.append(f"{name:<16}{total / 1e6:>9.3f}{tuned / 1e6:>11.3f}{(total - tuned) / 1e6:>9.3f}")
    lines.append(f"{'all':<16}{sums[0] / 1e6:>9.3f}{sums[1] / 1e6:>11.3f}{(sums[0] - sums[1]) / 1e6:>9.3f}")
    return "\n".join(lines)


def discrepancy_line(model):
    """Spread of Eq. (5)'s raw strengths: where it is near 0, a frozen text tower hardly tells two labels apart."""
    raw = getattr(model, "discrepancy", None)
    if raw is None or len(raw) < 2:
        return ""
    apart = raw[~torch.eye(len(raw), dtype=torch.bool, device=raw.device)]
    return (f"text discrepancies 1 - cos (Eq. 5) of {len(raw)} labels: smallest {apart.min():.4f}, mean {apart.mean():.4f}, "
            f"largest {apart.max():.4f}")


@contextmanager
def saved_bytes(counted):
    """Counts the bytes that autograd keeps for backward, each storage once, into counted["activations"]."""
    seen = {}

    def keep(x):
        seen[x.untyped_storage().data_ptr()] = 0 if isinstance(x, nn.Parameter) else x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        yield
    counted["activations"] = sum(seen.values())


def peak_mib(device):
    """Largest memory so far in MiB: of the GPU's tensors, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2 ** 20
    import resource                                            # Unix; elsewhere the figure is left out
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2 ** 20 if sys.platform == "darwin" else 1024)


# ---- Setting up a run -------------------------------------------------------------------------------------------------

@dataclass
class Run:
    """What `train` works with. `at` says where it is and goes into checkpoints as it stands: epoch and batch to do next,
    steps done, epochs evaluated, best top-1, sums of the terms since the last row and since the epoch's start."""
    cfg: TrainConfig
    folder: Path
    world: World
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    precision: str
    train_set: torch.utils.data.Dataset
    held_out: torch.utils.data.Dataset
    order: GlobalBatches
    log: Log
    identity: dict                                             # settings, data set, CLIP, processes: what must not change
    config: dict                                               # the settings alone, for eval.py
    at: dict = field(default_factory=lambda: dict(epoch=0, batch=0, step=0, evaluated=0, best=-1.0, skipped=0, seconds=0.0,
                                                  broken=[], interval={}, sums={}))
    kept: dict = field(default_factory=dict)                   # loader and memory figures of this process

    @property
    def steps(self):
        """Steps of the whole run."""
        return self.cfg.epochs * len(self.order)


def run_folder(cfg, data_cfg, model_cfg):
    """--out, or out/<data>-<model>[-row]."""
    row = f"-{cfg.row.replace('/', '-')}" if cfg.row else ""
    return Path(cfg.out or f"out/{data_cfg.data}-{model_cfg.model}{row}")


def load_trunk(model_cfg):
    """The CLIP that is adapted, in its published or pretrained weights; --clip random: none (the tiny backbone's own
    pretraining)."""
    if model_cfg.clip == "random":
        return CLIP(BACKBONES[model_cfg.backbone])
    return load_clip(model_cfg.clip or model_cfg.backbone, model_cfg.image_size)


def open_split(data_cfg, split, train, views=1):
    """A split as a data set: clips, or the captioned stills of the toy benchmark."""
    if data_cfg.data == "toy-stills":
        return ToyStills(data_cfg, split, lambda caption: tokenize([caption], BACKBONES["tiny"].context_length)[0])
    return Clips(data_cfg, split, train, views)


def rank0_first(world, make):
    """make() on rank 0, then on the others: the first may write files (the toy benchmark, a download)."""
    made = make() if world.rank == 0 else None
    if world.size > 1:
        dist.barrier()
    return made if world.rank == 0 else make()


def choose_precision(cfg, device):
    """bf16 where it is native; half precision on a CPU is refused (measured: some hundred times slower)."""
    if cfg.precision == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if cfg.precision != "fp32" and device.type != "cuda":
        raise ValueError(f"--precision {cfg.precision} on {device.type}. Expected fp32 there: half precision is emulated and far "
                         "slower. Leave --precision out.")
    return cfg.precision


def texts_of(dataset):
    return list(getattr(dataset, "texts", ("a diver",)))       # the stills have captions instead, one each


def joints_of(dataset):
    return len(getattr(dataset, "joints", ()))


def describe_data(dataset):
    """Label texts and the list of clips as JSON: its hash tells one data set from another."""
    clips = getattr(dataset, "clips", None)
    return {"texts": texts_of(dataset), "clips": [[c.id, c.label] for c in clips] if clips else len(dataset)}


def prepare(cfg, data_cfg, model_cfg):
    """Data, model, optimizer, log; and, where the run folder holds a checkpoint, the run's state from there."""
    world = join_world(cfg)
    folder = run_folder(cfg, data_cfg, model_cfg)
    precision = choose_precision(cfg, world.device)
    make_folder(folder, cfg.fresh, world)
    log = Log(folder, world.rank == 0)
    train_set, held_out = rank0_first(world, lambda: (open_split(data_cfg, "train", True),
                                                      open_split(data_cfg, cfg.eval_split, False)))
    check_batch(cfg, world.size, len(train_set))
    reseed(cfg.seed)
    clip = rank0_first(world, lambda: load_trunk(model_cfg))
    settings = flat_settings(model_cfg, data_cfg, cfg)
    identity = settings | {"CLIP weights": fingerprint(clip.state_dict()), "data set": fingerprint(describe_data(train_set)),
                           "processes": world.size, "device": world.device.type, "precision": precision}
    reseed(cfg.seed)                                           # whether or not CLIP's start drew numbers
    model = build_model(model_cfg, clip, texts_of(train_set), joints_of(train_set)).to(world.device)
    optimizer = torch.optim.AdamW(optimizer_groups(model, cfg), lr=cfg.lr, fused=True)
    scaler = torch.amp.GradScaler(world.device.type, enabled=precision == "fp16")
    order = GlobalBatches(len(train_set), cfg.batch, cfg.seed, world.rank, world.size)
    run = Run(cfg, folder, world, model, optimizer, scaler, precision, train_set, held_out, order, log, identity, settings)
    resume(run)
    if world.size > 1:
        for p in model.parameters():
            if p.requires_grad:
                dist.broadcast(p.detach(), 0)
    if cfg.compile:
        model.compile()
    introduce(run)
    return run


def make_folder(folder, fresh, world):
    """The run folder, emptied of an earlier run with --fresh."""
    if world.rank == 0:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in (*NAMES, "metrics.jsonl", "log.txt") if fresh else ():
                (folder / name).unlink(missing_ok=True)
        except OSError as reason:
            raise ValueError(f"cannot use the run folder {folder} ({reason}). Expected a folder that can be written. Choose "
                             "another with --out.") from None
    if world.size > 1:
        dist.barrier()


def resume(run):
    """Puts the run where its newest readable checkpoint was, if there is one; checks that settings, data and CLIP agree."""
    saved = newest_checkpoint(run.folder, run.log.say)
    if saved is None:
        if run.cfg.resume:
            raise FileNotFoundError(f"no checkpoint in {run.folder}. Expected {' or '.join(NAMES)} of a run to continue. Leave "
                                    "--resume out to begin one, or name its folder with --out.")
        run.log.rewind(run.at)
        return
    check_unchanged(saved["identity"], run.identity, run.folder, run.cfg.force, run.log.say)
    run.model.load_trainable_state(saved["model"])
    run.optimizer.load_state_dict(saved["optimizer"])
    run.scaler.load_state_dict(saved["scaler"])
    run.at.update(saved["at"])
    run.log.rewind(run.at)
    run.log.say(f"continuing {run.folder} at epoch {run.at['epoch'] + 1}, batch {run.at['batch']}, step {run.at['step']} of "
                f"{run.steps}")


def save_checkpoint(run, name="last.pt"):
    """Everything a resume needs; rank 0 writes. Frozen weights are not stored again: `identity` holds CLIP's hash."""
    if run.world.rank:
        return
    value = {"format": FORMAT, "model": run.model.trainable_state(), "optimizer": run.optimizer.state_dict(),
             "scaler": run.scaler.state_dict(), "at": run.at, "identity": run.identity, "config": run.config,
             "clip": run.identity["CLIP weights"], "labels": list(getattr(run.train_set, "labels", ())), "texts": texts_of(run.train_set),
             "joints": joints_of(run.train_set), "versions": versions()}
    write_torch(value, run.folder / name, run.folder / "previous.pt" if name == "last.pt" else None)


def introduce(run):
    """Prints what will happen, and writes config.json."""
    cfg, log = run.cfg, run.log
    if run.world.rank == 0:
        about = {"config": run.config, "identity": run.identity, "versions": versions(), "command": [Path(sys.argv[0]).name, *sys.argv[1:]]}
        write_atomically(run.folder / "config.json", json.dumps(about, indent=1).encode())
        if cfg.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise ValueError("--tensorboard needs a package that is not installed. Expected tensorboard. Run pip install "
                                 "tensorboard.") from None
            log.board = SummaryWriter(run.folder, purge_step=run.at["step"])
    log.say(f"run {run.folder}: {run.config['model']} on {run.config['data']}, {len(run.train_set)} training clips, "
            f"{len(run.held_out)} held out, {len(texts_of(run.train_set))} texts; {run.world.device}, {run.precision}, "
            f"{run.world.size} process(es) x {cfg.batch // run.world.size} clips, {run.steps} steps")
    log.say("settings: " + ", ".join(f"{k}={v}" for k, v in run.config.items() if v != ""), screen=False)
    log.say(parameter_table(run.model))
    if line := discrepancy_line(run.model):
        log.say(line)


# ---- The loop ---------------------------------------------------------------------------------------------------------

class Stopped(Exception):
    """SIGTERM or SIGINT was obeyed: the step was finished and saved."""

    def __init__(self, number, folder):
        super().__init__(f"stopped by {signal.Signals(number).name}; the same command continues {folder}")
        self.code = 128 + number


@contextmanager
def watch_signals():
    """While inside, SIGTERM and SIGINT set caught[0] for the loop to obey after its step; a second one is obeyed at once."""
    caught = [0]

    def note(number, _):
        if caught[0]:
            raise KeyboardInterrupt
        caught[0] = number

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:                                         # not the main thread: nothing to watch
        before = {}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def loader_of(run, workers):
    """Decodes this process's share of each batch; persistent workers, which never see an epoch: indices carry it."""
    more = dict(persistent_workers=True, worker_init_fn=quiet_worker, prefetch_factor=2) if workers else {}
    return DataLoader(run.train_set, batch_sampler=run.order, num_workers=workers, pin_memory=run.world.device.type == "cuda", **more)


def take_step(run, batch, stop):
    """One update from one batch of this process; returns terms as floats with grad_norm, and whether any rank must stop."""
    cfg, at, device = run.cfg, run.at, run.world.device
    batch = {k: v.to(device, non_blocking=True) for k, v in batch.items() if isinstance(v, torch.Tensor)}
    none = torch.zeros_like(batch["index"])
    batch = {"label": none, "broken": none.bool(), **batch, "stop": none + stop}               # stills have no label
    rows = len(batch["index"]) // cfg.accumulate
    parts = [{k: v[i * rows:(i + 1) * rows] for k, v in batch.items()} for i in range(cfg.accumulate)]
    key = (cfg.seed, at["epoch"], at["batch"])
    seeds = [(*key, run.world.rank, i) for i in range(cfg.accumulate)] + [key]
    for group in run.optimizer.param_groups:
        group["lr"] = cfg.lr * group["factor"] * lr_factor(at["step"], cfg.warmup * len(run.order), run.steps)
    run.optimizer.zero_grad(set_to_none=True)
    with saved_bytes(run.kept) if "activations" not in run.kept else nullcontext():
        terms, everyone, finite = forward_backward(run.model, parts, seeds, run.precision, run.scaler.scale)
    params = [p for group in run.optimizer.param_groups for p in group["params"]]
    if finite and run.world.size > 1:
        average_gradients(params, run.world.size)
    run.scaler.unscale_(run.optimizer) if finite else None
    norm = nn.utils.clip_grad_norm_(params, cfg.clip_grad or math.inf) if finite else torch.tensor(math.nan)
    facts = dict(zip([*terms, "grad_norm", "stop", "broken"], torch.stack(
        [*terms.values(), norm.to(device), everyone["stop"].max(), everyone["broken"].sum()]).tolist()))
    if not math.isfinite(facts["grad_norm"]) and not (finite and run.scaler.is_enabled()):   # the scaler looks after its own
        tolerate(run, facts, everyone["index"])
    elif finite:
        run.scaler.step(run.optimizer)
        run.scaler.update()
    if facts.pop("broken"):
        at["broken"] = sorted({*at["broken"], *everyone["index"][everyone["broken"].bool()].tolist()})
    return facts, bool(facts.pop("stop"))


def tolerate(run, facts, index):
    """A loss or gradient that is not a number: leave the step out if --skip-nonfinite allows, or stop and tell all."""
    run.at["skipped"] += 1
    names = [clip_name(run.train_set, i) for i in index.tolist()]
    terms = ", ".join(f"{k} {v:.4g}" for k, v in facts.items() if k not in ("stop", "broken"))
    what = f"loss or gradient not finite at step {run.at['step'] + 1} ({terms}), clips {', '.join(names)}"
    if run.at["skipped"] > run.cfg.skip_nonfinite:
        last = run.folder / "last.pt"
        raise ValueError(f"{what}. Expected finite numbers. Last good checkpoint: {last if last.exists() else 'none'}. Lower "
                         "--lr, set --clip-grad 1, or leave such steps out with --skip-nonfinite N.")
    run.log.say(f"note: {what}: step left out ({run.at['skipped']} of {run.cfg.skip_nonfinite})")


def clip_name(dataset, index):
    return dataset.clips[index].id if hasattr(dataset, "clips") else str(index)


def check_broken(run, allowed):
    """More than 1 % of the training clips unreadable is a fault of the data set, not of a few files."""
    names, total = [clip_name(run.train_set, i) for i in run.at["broken"]], len(run.train_set)
    if len(names) > 0.01 * total and not allowed:
        raise ValueError(f"{len(names)} of {total} training clips are broken, among them {', '.join(names[:5])}. Expected at most "
                         f"1 %. Look with python data.py check {run.config['data']}, or go on with --allow-broken.")
    return names


def record(run, terms, data_s, step_s):
    """Adds a step to the sums; every --log-every steps a row and a progress line with the means since the last."""
    at, cfg = run.at, run.cfg
    at["seconds"] += data_s + step_s
    for sums in (at["interval"], at["sums"]):
        for name, value in {**terms, "n": 1, "data_s": data_s, "step_s": step_s}.items():
            sums[name] = sums.get(name, 0.0) + value
    if at["step"] % cfg.log_every and at["batch"] != len(run.order):
        return
    n = at["interval"].pop("n")
    mean = {name: value / n for name, value in at["interval"].items()}
    at["interval"] = {}
    lr, peak = run.optimizer.param_groups[0]["lr"], peak_mib(run.world.device)
    seconds = mean["data_s"] + mean["step_s"]
    run.log.row(kind="step", epoch=at["epoch"] + 1, step=at["step"], lr=lr, skipped=at["skipped"], **mean,
                clips_per_s=cfg.batch / seconds, peak_mib=peak)
    left = int((run.steps - at["step"]) * seconds)
    losses = " ".join(f"{k} {v:.4f}" for k, v in mean.items() if k in terms)
    run.log.say(f"epoch {at['epoch'] + 1}/{cfg.epochs} step {at['step']}/{run.steps} {losses} lr {lr:.2e} data {mean['data_s']:.3f} s "
                f"step {mean['step_s']:.3f} s {cfg.batch / seconds:.1f} clips/s left {left // 60}:{left % 60:02d} peak {peak:.0f} MiB",
                progress=True)


def memory_line(run):
    """Estimate after the first step: weights, gradients and both moments of AdamW, and what autograd kept."""
    params = [p for p in run.model.parameters()]
    weights, tuned = sum(p.numel() for p in params) * 4, sum(p.numel() for p in params if p.requires_grad) * 4
    mib = [x / 2 ** 20 for x in (weights, tuned * 3, run.kept["activations"])]
    return (f"memory of a step, estimated: weights {mib[0]:.0f} MiB, gradients and AdamW {mib[1]:.0f} MiB, activations kept for "
            f"backward {mib[2]:.0f} MiB, together {sum(mib):.0f} MiB; measured peak {peak_mib(run.world.device):.0f} MiB")


def train_epoch(run, loader, caught):
    """The steps of an epoch from where the run stands in it; saves on --save-minutes and on a signal."""
    at, saved = run.at, time.monotonic()
    run.order.epoch, run.order.start = at["epoch"], at["batch"]
    run.model.train()
    start = time.monotonic()
    for batch in loader:
        fetched = time.monotonic()
        terms, stop = take_step(run, batch, caught[0])
        at["step"], at["batch"] = at["step"] + 1, at["batch"] + 1
        record(run, terms, fetched - start, time.monotonic() - fetched)
        if run.kept.setdefault("told", False) is False:
            run.kept["told"] = True
            run.log.say(memory_line(run))
        check_broken(run, run.config.get("allow_broken"))
        if stop or time.monotonic() - saved > 60 * run.cfg.save_minutes:
            save_checkpoint(run)
            saved = time.monotonic()
        if stop:
            raise Stopped(caught[0] or signal.SIGTERM, run.folder)
        start = time.monotonic()
    at["epoch"], at["batch"] = at["epoch"] + 1, 0


def train(cfg, data_cfg, model_cfg):
    """Trains, or continues, and evaluates; returns the last evaluation's metrics (fractions) and leaves the run folder."""
    run = prepare(cfg, data_cfg, model_cfg)
    at, loader = run.at, None
    try:
        with watch_signals() as caught:
            while at["evaluated"] < cfg.epochs:
                if at["epoch"] == at["evaluated"]:
                    loader = loader or loader_of(run, data_cfg.workers)
                    train_epoch(run, loader, caught)
                    save_checkpoint(run)                       # before the evaluation, which may fail
                measure(run)
            return finish(run, data_cfg)
    finally:
        if getattr(loader, "_iterator", None):                 # the workers ignore the SIGTERM that Python sends at its end
            loader._iterator._shutdown_workers()


def measure(run):
    """Evaluation after an epoch: its row, its line, the curves, and best.pt."""
    at, cfg = run.at, run.cfg
    at["evaluated"] += 1
    metrics = held_out_metrics(run, run.held_out) if at["evaluated"] % cfg.eval_every == 0 or at["evaluated"] == cfg.epochs else {}
    figures = {k: v for k, v in metrics.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    means = {k: v / at["sums"]["n"] for k, v in at["sums"].items() if k != "n"}
    broken = check_broken(run, True)
    run.log.row(kind="epoch", epoch=at["evaluated"], step=at["step"], broken=broken, **{**means, **figures})
    if run.world.rank == 0:
        draw_curves([r for r in run.log.rows() if r["kind"] == "epoch"], run.folder / "curves.png")
    run.log.say(f"epoch {at['evaluated']}/{cfg.epochs}: total {means['total']:.4f}" + "".join(
        f", {k} {100 * v:.1f}" for k, v in figures.items() if k.split("/")[0] in ("top1", "top5", "mean")))
    if broken:
        run.log.say(f"note: {len(broken)} broken training clips were replaced in this epoch: {', '.join(broken[:5])}")
        run.log.say(f"broken: {' '.join(broken)}", screen=False)
    at["broken"], at["sums"] = [], {}
    if figures.get("top1", -1) > at["best"]:
        at["best"] = figures["top1"]
        save_checkpoint(run, "best.pt")
    if cfg.export and run.world.rank == 0:
        write_torch({k: v.half() for k, v in run.model.clip.state_dict().items()}, cfg.export)


def held_out_metrics(run, dataset):
    """Metrics of the model as it stands, on all ranks together."""
    if run.config["data"] == "toy-stills":
        return zero_shot(run.model, dataset, run.cfg.batch, run.world.device)
    return evaluate(run.model, dataset, run.cfg.batch, run.world.device, run.config["workers"], run.precision)


@torch.no_grad()
def zero_shot(model, stills, batch_size, device):
    """Accuracy per attribute: the nearest of its values, each the mean of its wordings' sentences."""
    model.eval()
    context, texts, hits, known = model.clip.config.context_length, {}, {}, {}
    for name in stills.attributes:
        worded = [model.clip.encode_text(tokenize(w, context).to(device))[0] for w in stills.prompts(name)]
        texts[name] = torch.stack([nn.functional.normalize(w, dim=-1).mean(0) for w in worded])         # (values, e)
    for batch in DataLoader(stills, batch_size):
        batch = {k: v.to(device) for k, v in batch.items() if isinstance(v, torch.Tensor)}
        image = model({"label": batch["index"], **batch})["image"]
        for column, name in enumerate(stills.attributes):
            truth = batch["attributes"][:, column]                                                      # -1: cannot be told
            guess = (image @ nn.functional.normalize(texts[name], dim=-1).T).argmax(1)
            hits[name] = hits.get(name, 0) + int((guess == truth).sum())
            known[name] = known.get(name, 0) + int((truth >= 0).sum())
    each = {f"top1/{name}": n / max(known[name], 1) for name, n in hits.items()}
    return {"top1": sum(each.values()) / len(each), **each}


def finish(run, data_cfg):
    """The test split, once, with the final weights: metrics, confusion matrix, pictures."""
    if run.config["data"] == "toy-stills":
        return next((r for r in reversed(run.log.rows()) if r["kind"] == "epoch"), {})
    metrics = held_out_metrics(run, rank0_first(run.world, lambda: open_split(data_cfg, "test", False)))
    figures = {k: v for k, v in metrics.items() if isinstance(v, (int, float))}
    run.log.row(kind="test", epoch=run.at["evaluated"], step=run.at["step"], **figures)
    if run.world.rank == 0:
        draw_confusion(metrics["confusion"], run.train_set.labels, run.folder / "confusion.png", "test clips")
        run.log.say("test: " + ", ".join(f"{k} {100 * v:.1f} %" for k, v in figures.items() if k.split("/")[0] in ("top1", "top5", "mean")))
    return metrics


# ---- Command line -----------------------------------------------------------------------------------------------------

def add_arguments(parser):
    parser.add_argument("--list-rows", action="store_true", help="print the rows of Tables 4 to 9 and end")


def list_rows():
    lines = [f"{'row':<22}{'paper top-1':>12}  what changes"]
    for name, row in ROWS.items():
        change = ", ".join(f"{k}={v}" for k, v in row.overrides.items())
        lines.append(f"{name:<22}{row.top1 if row.top1 is not None else '-':>12}  {row.what}" + (f" ({change})" if change else ""))
    return "\n".join(lines)


def main(argv=None):
    (cfg, data_cfg, model_cfg), args = build_configs(argv, (TrainConfig, DataConfig, PeVLConfig), presets=presets,
                                                     description=__doc__, extra=add_arguments)
    if args.list_rows:
        print(list_rows())
        return 0
    try:
        train(cfg, data_cfg, model_cfg)
    except Stopped as stop:
        print(f"\n{stop}", file=sys.stderr)
        return stop.code
    except (ValueError, FileNotFoundError) as reason:
        rank = f" (rank {os.environ['RANK']})" if "RANK" in os.environ else ""
        print(f"\nerror{rank}: {reason}", file=sys.stderr)
        return 2
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
