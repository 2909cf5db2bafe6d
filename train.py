"""Train PeVL, ViLP, AIM or a row of the papers' tables: one loop, on a CPU, a GPU or many.

    python train.py                                 toy benchmark, made first: minutes on two cores
    python train.py --row table5/no-p2v             a row of the paper's tables (--list-rows)
    python train.py --data diving48 --root DIR --backbone ViT-B/16       one GPU, as in Sec. 4.1
    python train.py ... --recipe aim                the same at rates that move adapters: try first
    python train.py ... --init RUN                  from another run's weights, or BIKE's for ViLP
    torchrun --nproc_per_node 8 train.py --data diving48 --root DIR --backbone ViT-B/16    8 GPUs
The same command again continues a run that was stopped: after Ctrl-C or SIGTERM at the very step,
after a kill or a power cut at its last checkpoint (--save-minutes).

paper    | what                            | here                        | tests: test_...
Sec. 4.1 | AdamW, warm-up, cosine to zero  | lr_factor, optimizer_groups | schedule, groups
Sec. 3.4 | the loss over the whole batch   | forward_backward            | accumulation
-        | a batch over several processes  | GlobalBatches               | batches_of_ranks
-        | stop anywhere, continue exactly | save_checkpoint, resume     | resume, kills

Resume is exact by construction: what is random in a step is a function of (seed, epoch, batch,
rank, part), in a sample of (seed, epoch, sample), so no generator has a state to store. Exact means
bit for bit on a CPU, with as many threads and processes; on a GPU as far as its kernels repeat.

The loop knows that a data set gives batches and a model gives losses. What else it has to know of a
kind of training is a `Job`; the toy's pretraining of a CLIP (toy/stills.py) is another one.

B: clips of the global batch. Features: dicts of tensors with a leading B.
"""
if __name__ == "__main__":                        # before PyTorch, which takes seconds to import
    import support.interrupt

import json
import math
import os
import shutil
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader

from clip_model import Attention
from data import Clips, DataConfig, fingerprint_clips, shared_clips
from eval import as_json, autocast, choose_precision, evaluate, load_trunk
from report.draw import draw_curves
from report.evidence import Evaluated, write_report
from report.log import (Log, count_saved, memory_estimate, parameter_table, peak_mib, reach_table,
                        versions)
from report.results import write_results
from report.text import summary
from support.batches import GlobalBatches
from support.checkpoints import (FORMAT, NAMES, fingerprint, last_good, load_optimizer,
                                 read_checkpoint, write_torch)
from support.commands import attempt, one_error, run_command
from support.files import atomic, lock, set_aside
from support.processes import (World, average_gradients, gather, join_world, rank0_first,
                               reseed)
from support.settings import Range, build_configs, check_fields
from support.signals import Signals, Stopped, held_signals, quiet_worker
from systems.config import PeVLConfig
from systems.refusals import refuse_blind_towers, refuse_too_much
from systems.registry import build_model
from systems.transfer import start_from
from tables.fit import fitted, reasons
from tables.rows import keep_to_row, list_rows, presets


# ---- Settings ------------------------------------------------------------------------------------

@dataclass(frozen=True)
class TrainConfig:
    """How it is trained: Sec. 4.1, unless a preset (tables/rows.py) or the command line differs."""
    out: Annotated[str, "run folder, empty: out/<data>-<model>[-row]; a run there continues"] = ""
    row: Annotated[str, "row of the paper's tables, as table5/no-p2v (--list-rows)"] = ""
    init: Annotated[str, "start from the weights of this run or checkpoint, other labels are fine; "
                    "or of BIKE's (--model vilp)"] = ""
    seed: Annotated[int, "of everything random", Range(0, 2 ** 32 - 1)] = 0
    epochs: Annotated[int, "passes over the training clips (Sec. 4.1: 50)", Range(1, 10000)] = 50
    batch: Annotated[int, "clips of a step, over all processes; they are contrasted (ours)",
                     Range(1, 65536)] = 32
    accumulate: Annotated[int, "parts of a batch run one by one, to save memory; same loss, other "
                          "draws of dropped paths", Range(1, 65536)] = 1
    recipe: Annotated[Literal["preset", "paper", "aim"], "rates, batch and epochs of PeVL: Sec. "
                      "4.1, or AIM's for the same adapters, to try first (D16); preset: what "
                      "--data brings, the paper's where it brings nothing"] = "preset"
    lr: Annotated[float, "base learning rate of AdamW (Sec. 4.1: 8e-6)",
                  Range(0, 10, above=True)] = 8e-6
    new_lr: Annotated[float, "factor on lr for all but CLIP's weights: adapters, P2V, V2P (D16)",
                      Range(0, 10000)] = 1.0
    trunk_lr: Annotated[float, "factor on lr for CLIP's weights: --tune all, ViLP's towers (0.1)",
                        Range(0, 10000)] = 0.1
    weight_decay: Annotated[float, "of layers' matrices; 0 for all else (Sec. 4.1: 0.05)",
                            Range(0, 10)] = 0.05
    warmup: Annotated[float, "epochs of linear warm-up before the cosine (Sec. 4.1: 3)",
                      Range(0, 10000)] = 3.0
    clip_grad: Annotated[float, "largest gradient norm, 0: any; it is logged either way",
                         Range(0, 1000000)] = 0.0
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], "of matrix products, never of "
                         "losses; auto: bf16 on GPUs that have it"] = "auto"
    device: Annotated[str, "auto, cpu, cuda or cuda:N"] = "auto"
    compile: Annotated[bool, "torch.compile: slow to start, faster steps on a GPU"] = False
    eval_split: Annotated[Literal["train", "val", "test"], "measured after epochs"] = "val"
    eval_every: Annotated[int, "epochs between measurements", Range(1, 10000)] = 1
    log_every: Annotated[int, "steps between progress lines and rows of metrics.jsonl",
                         Range(1, 1000000)] = 10
    save_minutes: Annotated[float, "time between checkpoints within an epoch",
                            Range(0, 100000)] = 10.0
    skip_nonfinite: Annotated[int, "steps to leave out, where not finite, before giving up",
                              Range(0, 1000000)] = 0
    resume: Annotated[bool, "insist that there is a run to continue"] = False
    force: Annotated[bool, "continue although settings changed; noted in log.txt"] = False
    fresh: Annotated[bool, "start again; a run in --out that has a checkpoint is kept as "
                     "<out>.before-fresh"] = False
    tensorboard: Annotated[bool, "write TensorBoard events too (pip install tensorboard)"] = False

    def __post_init__(self):
        check_fields(self)

        # The warm-up may end with the training, and not after it.
        if self.warmup > self.epochs:
            raise ValueError(f"--warmup {self.warmup:g} beside --epochs {self.epochs}. Expected a "
                             "warm-up that ends with the training at the latest. Lower --warmup.")
        if self.fresh and self.resume:
            raise ValueError("--fresh --resume. Expected one of them: the first begins anew, the "
                             "second insists on going on. Leave one out.")


# What may change from one part of a run to the next, since it changes none of its numbers. Where
# clips, poses and the files of --clip and --init lie may change as well: that they are the same
# ones is in the identity, as far as ids, labels, texts and a sample of pose files tell (data.py).
FREE = {"out", "init", "clip", "root", "poses", "workers", "log_every", "save_minutes", "resume",
        "force", "fresh", "tensorboard", "skip_nonfinite", "allow_broken"}
DEFAULTS = {f.name: f.default for kind in (TrainConfig, DataConfig, PeVLConfig)
            for f in fields(kind)}


# ---- Schedule and parameter groups, Sec. 4.1 -----------------------------------------------------

def lr_factor(step, warmup, total):
    """Factor on the learning rate at step 0 .. total - 1: linear warm-up, half a cosine to zero.

        min((step + 1) / warmup, 1)                                     while step < warmup
        (1 + cos(pi (step - warmup) / (total - warmup))) / 2            from there; 0 at `total`

    warmup may be a fraction: half an epoch of five steps.
    """
    # Small steps first: AdamW divides each gradient by a running estimate of its size, and in the
    # first steps that estimate rests on a handful of gradients.
    if step < warmup:
        return min((step + 1) / warmup, 1)

    # Then from 1 down to 0, slowly at both ends: the last epochs settle what the middle ones found.
    done = (step - warmup) / max(total - warmup, 1)
    return (1 + math.cos(math.pi * done)) / 2


def kind_factors(cfg):
    """Kind of a parameter group -> factor on the learning rate (D16). "trunk": CLIP's own weights
    and ViLP's copy of its image tower. "new": all else, P2V's and V2P's copies (D28) too."""
    return {"new": cfg.new_lr, "trunk": cfg.trunk_lr}


def sums_of_rates(cfg, warmup, steps):
    """Kind of a parameter group -> sum of its learning rates over a run of `steps` steps.

    A step of AdamW moves a weight by about its rate, whatever the size of the gradient. So the sum
    is as far as a weight gets when all its steps go the same way.
    """
    total = sum(lr_factor(step, warmup, steps) for step in range(steps))

    # Printed at the start of a run beside the size of the weights: where the first is much smaller
    # than the second, training will change nothing that can be seen.
    return {kind: cfg.lr * factor * total for kind, factor in kind_factors(cfg).items()}


def decaying_matrices(model):
    """The ids of the parameters that weight decay acts on: matrices of linear, convolution and
    attention modules. Biases, norms, embeddings, temperatures and CLIP's two projections, which are
    no modules, are left to grow as they need."""
    ids = set()
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.MultiheadAttention, Attention)):
            for p in module.parameters(recurse=False):
                if p.dim() > 1:
                    ids.add(id(p))
    return ids


def optimizer_groups(model, cfg):
    """The model's parameter groups as AdamW wants them, each split into what decays and the rest.

    A group's `factor` on the learning rate follows from its kind.
    """
    factors = kind_factors(cfg)
    matrices = decaying_matrices(model)

    # Names and order of the groups follow the model's parts, so that a table of them can be read.
    groups = []
    for group in model.parameter_groups():
        for decays in (True, False):
            params = [p for p in group["params"] if (id(p) in matrices) == decays]
            if params:
                groups.append({"name": group["name"], "params": params,
                               "factor": factors[group["kind"]],
                               "weight_decay": cfg.weight_decay if decays else 0.0})
    return groups


# ---- A job: what differs from one kind of training to the next -----------------------------------

class Job:
    """Action recognition on clips: which data are opened, what is built, how it is measured."""

    def open_split(self, data_cfg, split, train):
        """The data set of a split; `train` with augmentation, otherwise one centre view."""
        data = Clips(data_cfg, split, train)
        if train and len(data.by_label) < 2:
            raise ValueError("one label alone. Expected two or more to tell apart. Add clips.")
        return data

    def build(self, model_cfg, clip, data):
        """The model on this CLIP for the texts and joints of the data set."""
        return build_model(model_cfg, clip, data.texts, len(data.joints))

    def measure(self, run, dataset):
        """Metrics of the model as it stands, name -> value; made by all ranks together."""
        return evaluate(run.model, dataset, run.cfg.batch, run.world.device,
                        workers=run.config["workers"], precision=run.precision)

    def after_epoch(self, run):
        """What else there is to do on rank 0 when an epoch has been measured."""

    def finish(self, run):
        """The test split, when training has ended, with the final weights -> its metrics."""
        test = self.open_split(run.data_cfg, "test", train=False)
        metrics = self.measure(run, test)
        run.log.row(kind="test", epoch=run.at["measured"], step=run.at["step"], **metrics)
        if run.world.rank == 0:
            run.log.say("test split, final weights\n" + summary(metrics, test.labels))
            about = {"checkpoint": f"{run.folder}/last.pt", "data": test.cfg.data,
                     "split": "test", "views": 1}
            write_results(dict(metrics), run.model, test, run.folder, about, run.world.device)
            about.update(model=run.config["model"], backbone=run.config["backbone"])
            one = Evaluated(name=run.folder.name, model=run.model, dataset=test, result=metrics,
                            about=about, checkpoint=run.folder / "last.pt", config=run.config,
                            versions=run.versions)
            write_report(one, run.folder, run.world.device)
        return metrics


def new_position():
    """Where a run stands when it begins: `Run.at`, which checkpoints hold as it is."""
    return {
        "epoch": 0, "batch": 0,                   # to do next
        "step": 0,                                # steps done, over all epochs
        "measured": 0,                            # epochs that were trained and measured
        "best": -1,                               # the held-out metric's best value so far
        "skipped": 0,                             # steps left out by --skip-nonfinite
        "broken": [],                             # indices of clips that could not be read
        "interval": {},                           # sums since the last progress line
        "sums": {},                               # sums since the epoch's start
    }


@dataclass
class Run:
    """Everything of a run that is under way, as `prepare` makes it."""
    cfg: TrainConfig
    data_cfg: DataConfig
    job: Job
    folder: Path
    world: World                                  # rank, size, device
    precision: str                                # fp32, bf16 or fp16
    train_set: torch.utils.data.Dataset
    held_out: torch.utils.data.Dataset            # measured after epochs
    order: GlobalBatches
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler                  # of fp16's losses; does nothing otherwise
    config: dict                                  # all settings, as config.json holds them
    identity: dict                                # what must not change when a run is continued
    versions: dict                                # packages and commit
    start: str = ""                               # where --init started it from, for the log
    log: Log = None
    lock: object = None                           # an open file: nobody else writes to the folder
    memory_told: bool = False                     # the estimate is printed once
    at: dict = field(default_factory=new_position)

    @property
    def steps(self):
        """Steps of the whole run."""
        return self.cfg.epochs * len(self.order)

    @property
    def warmup_steps(self):
        return self.cfg.warmup * len(self.order)

    def names(self, indices):
        """Ids of these training clips."""
        return [self.train_set.clips[i].id for i in indices]


# ---- One step ------------------------------------------------------------------------------------

FACTS = ("index", "broken", "stop")               # of a batch: they travel with the features


def features_of(model, part, seed, precision):
    """The model's features for a part of a batch, in float32, with the batch's FACTS beside them.

    seed: tuple of integers; equal seeds drop equal paths, so that a part can be run again.
    """
    reseed(*seed)
    with autocast(part["label"].device, precision):
        features = model(part)

    # Which clips these are, and whether one could not be read: the step's end needs it of all.
    for name in FACTS:
        if name in part:
            features[name] = part[name]

    # Similarities are multiplied by up to 100 in the losses: half precision ends here.
    for name, x in features.items():
        if x.dtype in (torch.float16, torch.bfloat16):
            features[name] = x.float()
    return features


def loss_backward(model, features, seed, scale):
    """The losses of the global batch, and the gradient of their total.

    features: of this process's clips; those of all processes are gathered first. Returns the named
    losses and the gathered features. Whether the losses are finite is not asked here: to know it
    now, a GPU would have to be waited for. `take_step` asks, before any weight is changed.
    """
    everyone = gather(features)
    reseed(*seed)
    terms = model.losses(everyone)
    scale(terms["total"]).backward()
    return {name: x.detach() for name, x in terms.items()}, everyone


def forward_backward(model, parts, seeds, precision="fp32", scale=lambda loss: loss):
    """Loss of the global batch and its gradients -> named terms, gathered features.

    parts: this process's clips, cut for --accumulate into dicts of tensors. seeds: a tuple for each
    part, and one more, equal on all ranks, for the loss. scale: of the loss before backward (fp16).

    One part is one forward and one backward pass. Several parts save memory, but a contrast needs
    the features of all clips at once, so that losses of parts cannot simply be added. Hence:
      1. the features of each part, without a graph;
      2. the loss on all of them, and its gradient with respect to the features;
      3. each part again, with the same random numbers, to pass its gradient on to the weights.
    The result is the gradient of the whole batch, for one more forward pass. (Dropped paths are
    drawn for each part, so that with stochastic depth the draws are others than those of one part.)
    """
    if len(parts) == 1:
        features = features_of(model, parts[0], seeds[0], precision)
        return loss_backward(model, features, seeds[-1], scale)

    # 1. Features without a graph: a part's activations are freed before the next part runs.
    with torch.no_grad():
        cached = []
        for part, seed in zip(parts, seeds):
            cached.append(features_of(model, part, seed, precision))

    # 2. The loss sees the features as if they were parameters, and leaves its gradient in them.
    whole = {}
    for name in cached[0]:
        x = torch.cat([features[name] for features in cached])
        whole[name] = x.requires_grad_() if x.is_floating_point() else x

    terms, everyone = loss_backward(model, whole, seeds[-1], scale)

    # 3. Each part once more, now with a graph, and its rows of that gradient sent backwards.
    start = 0
    for part, seed in zip(parts, seeds):
        stop = start + len(part["label"])
        outputs = []
        gradients = []
        for name, x in features_of(model, part, seed, precision).items():
            if x.requires_grad and whole[name].grad is not None:
                outputs.append(x)
                gradients.append(whole[name].grad[start:stop])
        if outputs:
            torch.autograd.backward(outputs, gradients)
        start = stop
    return terms, everyone


def cut_batch(batch, parts):
    """A batch, name -> (b, ...), cut along its clips into `parts` dicts."""
    chunks = {name: x.chunk(parts) for name, x in batch.items()}
    return [{name: chunk[i] for name, chunk in chunks.items()} for i in range(parts)]


def take_step(run, batch, stop):
    """One update of the weights from this process's share of a batch.

    stop: the number of a signal that this process was sent, or 0. Returns the losses and grad_norm
    as floats, and the largest `stop` of all ranks, so that all stop after the same step.
    """
    cfg, at, optimizer, scaler = run.cfg, run.at, run.optimizer, run.scaler
    device = run.world.device
    moved = {}
    for name, x in batch.items():
        if isinstance(x, torch.Tensor):
            moved[name] = x.to(device, non_blocking=True)
    moved["stop"] = torch.zeros_like(moved["index"]) + stop
    parts = cut_batch(moved, cfg.accumulate)

    # What is random in this step (dropped paths) depends on these numbers alone. The last tuple, of
    # the loss, is the same on all ranks, the others differ.
    key = (cfg.seed, at["epoch"], at["batch"])
    seeds = [(*key, run.world.rank, i) for i in range(len(parts))] + [key]

    factor = lr_factor(at["step"], run.warmup_steps, run.steps)
    for group in optimizer.param_groups:
        group["lr"] = cfg.lr * group["factor"] * factor

    optimizer.zero_grad(set_to_none=True)
    if not run.memory_told:
        tell_memory(run, parts[0], seeds[0])
    terms, everyone = forward_backward(run.model, parts, seeds, run.precision, scaler.scale)

    # The norm is measured also where nothing is clipped (the limit is infinite then): a norm that
    # grows from epoch to epoch is the first sign of a rate that is too high.
    if run.world.size > 1:
        average_gradients(optimizer.param_groups)
    scaler.unscale_(optimizer)
    params = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(params, cfg.clip_grad or math.inf)

    # The one moment of a step in which a GPU is waited for: all numbers leave it together, after
    # the last gradient and before the first weight is changed.
    numbers = [*terms.values(), norm, everyone["stop"].max(), everyone["broken"].sum()]
    values = torch.stack([x.double() for x in numbers]).tolist()
    facts = dict(zip([*terms, "grad_norm"], values))
    stop = int(values[-2])                        # of all ranks the largest
    broken = int(values[-1])                      # clips of the batch
    finite_losses = all(math.isfinite(facts[name]) for name in terms)

    # An infinite gradient is normal while fp16's scaler looks for its scale: it leaves the step out
    # by itself and halves the scale. At a scale of 1 the fault is not the scale's.
    fits = math.isfinite(facts["grad_norm"]) or scaler.is_enabled() and scaler.get_scale() > 1
    if finite_losses and fits:
        scaler.step(optimizer)
        scaler.update()
    else:
        leave_out(run, facts, everyone["index"].tolist())
        if scaler.is_enabled():
            scaler.update(scaler.get_scale())     # the scale as it was, ready for the next step
    if broken:
        note_broken(run, everyone["index"][everyone["broken"].bool()].tolist())
    return facts, stop


def tell_memory(run, part, seed):
    """Say how much memory a step takes. Of the parts of a batch only one is in memory at a time: it
    runs forward once more, and what autograd keeps of it is counted."""
    with count_saved() as kept:
        features_of(run.model, part, seed, run.precision)
    run.log.say(memory_estimate(run.model, sum(kept.values())))
    run.memory_told = True


def leave_out(run, facts, indices):
    """A step that is not finite: left out as often as --skip-nonfinite allows, else the end."""
    run.at["skipped"] += 1
    terms = ", ".join(f"{name} {value:.4g}" for name, value in facts.items())
    clips = ", ".join(run.names(indices))
    what = f"loss or gradient not finite at step {run.at['step'] + 1}: {terms}; clips {clips}"
    if run.at["skipped"] > run.cfg.skip_nonfinite:
        raise ValueError(f"{what}. Expected numbers; last good checkpoint: {last_good(run.folder)}."
                         " Lower --lr, set --clip-grad 1, or leave them out: --skip-nonfinite N.")
    run.log.say(f"note: {what}: left out ({run.at['skipped']} of {run.cfg.skip_nonfinite})")


def note_broken(run, indices):
    """Remember clips that could not be read; more than one in a hundred is no accident: an error,
    unless --allow-broken."""
    run.at["broken"] = sorted({*run.at["broken"], *indices})
    names = run.names(run.at["broken"])
    clips = len(run.train_set)
    if len(names) > 0.01 * clips and not run.config["allow_broken"]:
        raise ValueError(f"{len(names)} of {clips} clips are broken: {', '.join(names[:5])}. "
                         "Expected 1 % at most. Look with python data.py check "
                         f"{run.config['data']} --root {run.data_cfg.folder}, or go on with "
                         "--allow-broken.")


# ---- Checkpoints of a run ------------------------------------------------------------------------

def save_checkpoint(run, name="last.pt"):
    """Save all that continuing needs; rank 0 writes. Of the frozen CLIP only the hash is kept."""
    if run.world.rank != 0:
        return
    data = run.train_set
    content = {
        "format": FORMAT,
        "model": run.model.trainable_state(),
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
        "at": run.at,
        "config": run.config,
        "identity": run.identity,
        "clip": run.identity["CLIP weights"],
        "labels": list(data.labels),
        "texts": list(data.texts),
        "joints": len(data.joints),
        "versions": run.versions,
    }
    keep = run.folder / "previous.pt" if name == "last.pt" else None
    write_torch(content, run.folder / name, keep)


def newest_checkpoint(run):
    """The newest checkpoint of the run's folder that can be read, or None in an empty folder.

    One that is torn is named and the one before it is taken. ValueError where none can be read, or
    where --resume insists on one.
    """
    found = [run.folder / name for name in NAMES if (run.folder / name).exists()]
    for path in found:
        try:
            return read_checkpoint(path)
        except ValueError as reason:
            run.log.say(f"note: {reason}")
    if found or run.cfg.resume:
        raise ValueError(f"no checkpoint in {run.folder} can be read. Expected one of "
                         f"{', '.join(NAMES)}. Check --out, or use --fresh and not --resume.")
    return None


def changed_settings(old, now):
    """What differs between two identities, but for what is FREE: a text, empty where they agree.

    A setting that an older version of this program did not have is taken for its default.
    """
    changes = []
    for name in {**old, **now}:
        before = old.get(name, DEFAULTS.get(name))
        if name not in FREE and before != now.get(name):
            changes.append(f"{name} from {before!r} to {now.get(name)!r}")
    return "; ".join(changes)


def resume(run):
    """Put the run where its newest checkpoint was, if there is one of the same settings."""
    saved = newest_checkpoint(run)
    if saved:
        # Going on with other settings would give a run that no command describes.
        changed = changed_settings(saved["identity"], run.identity)
        if changed and not run.cfg.force:
            raise ValueError(f"the run in {run.folder} began otherwise: {changed}. Expected the "
                             "same. Choose another --out, --fresh to begin again, or --force.")
        # In epochs of another length the rate would not go on from where it was.
        at = saved["at"]
        if at["step"] != at["epoch"] * len(run.order) + at["batch"]:
            raise ValueError(f"{run.folder}: its epochs had another number of steps than the "
                             f"{len(run.order)} of now. Expected the same --batch and clips, also "
                             "with --force. To begin with its weights use --init, another --out.")
        if changed:
            run.log.say(f"note: continued with other settings (--force): {changed}")

        run.model.load_trainable_state(saved["model"])
        load_optimizer(run.optimizer, run.scaler, saved, run.folder)
        run.at.update(at)
        run.log.say(f"continuing {run.folder}: epoch {run.at['epoch'] + 1}, batch "
                    f"{run.at['batch']}, step {run.at['step']} of {run.steps}")
    run.log.rewind(step=run.at["step"], epoch=run.at["measured"])


# ---- Setting up ----------------------------------------------------------------------------------

def run_folder(cfg, data_cfg, model_cfg):
    """--out, or a name that tells data, model and row."""
    name = f"{data_cfg.data}-{model_cfg.model}"
    if cfg.row:
        name += "-" + cfg.row.replace("/", "-")
    return Path(cfg.out or f"out/{name}")


def prepare(cfg, data_cfg, model_cfg, job=None):
    """Everything of a run, as new or as its folder's checkpoint left it.

    Nothing in the folder is touched before data, batches and model have proved to fit together.
    """
    job = job or Job()
    if model_cfg.model == "clip" and type(job) is Job:
        raise ValueError("--model clip: zero-shot CLIP has nothing to train. Expected pevl, vilp "
                         "or aim. Measure it with `python eval.py --model clip --data NAME`; the "
                         "tiny CLIP is pretrained by `python -m toy.stills`.")
    world = join_world(cfg.device)
    precision = choose_precision(cfg.precision, world.device)
    refuse_blind_towers(data_cfg, model_cfg)
    refuse_too_much(cfg, data_cfg, world.size)

    def open_clips():
        return rank0_first(world, lambda: job.open_split(data_cfg, "train", train=True))

    def make_batches():
        return GlobalBatches(len(data), cfg.batch, cfg.seed, rank=world.rank, world=world.size,
                             parts=cfg.accumulate)

    def open_clip():
        reseed(cfg.seed)
        return rank0_first(world, lambda: load_trunk(model_cfg))

    # What can be wrong with a command is looked at in whole, so that it is told at once: a wrong
    # folder, a batch that cannot be filled, CLIP's weights that cannot be had.
    mistakes = []
    data = attempt(open_clips, mistakes)
    order = attempt(make_batches, mistakes) if data else None
    clip = attempt(open_clip, mistakes)
    if mistakes:
        raise one_error(mistakes)

    # What is new in the model is drawn from here on: loading CLIP may or may not have drawn.
    reseed(cfg.seed)
    clip_hash = fingerprint(clip.state_dict())
    model = job.build(model_cfg, clip, data)
    config = as_json(model_cfg, data_cfg, cfg)

    # What a run's numbers depend on. A checkpoint holds it, and a run goes on only where it agrees.
    identity = {**config, "CLIP weights": clip_hash, "precision": precision,
                "data set": fingerprint_clips(data), "processes": world.size,
                "device": world.device.type}

    # Before the run's folder is touched: what does not fit is refused here. A run that goes on has
    # these weights overwritten by its checkpoint's, and its identity says that they were the same.
    start = ""
    if cfg.init:
        start = start_from(cfg.init, model, data.labels, clip_hash)
        identity["weights at the start"] = fingerprint(model.trainable_state())
    model.to(world.device)

    held_out = job.open_split(data_cfg, cfg.eval_split, train=False)
    optimizer = torch.optim.AdamW(optimizer_groups(model, cfg), lr=cfg.lr, fused=True)
    scaler = torch.amp.GradScaler(world.device.type, enabled=precision == "fp16")
    run = Run(
        cfg=cfg, data_cfg=data_cfg, job=job, world=world, precision=precision, config=config,
        folder=run_folder(cfg, data_cfg, model_cfg), train_set=data, held_out=held_out,
        order=order, model=model, optimizer=optimizer, scaler=scaler, identity=identity,
        start=start, versions=versions())
    # From here on the folder is this run's: it is given back whatever happens.
    open_folder(run)
    try:
        if cfg.fresh:
            run.log.rewind(step=0, epoch=0)       # rows of a run that never came to save
        else:
            resume(run)

        # All ranks start from rank 0's weights, though equal seeds should have drawn the same.
        if world.size > 1:
            for p in model.parameters():
                if p.requires_grad:
                    dist.broadcast(p.detach(), 0)
        if cfg.compile:
            model.compile()
        introduce(run)
    except BaseException:
        close_folder(run)
        raise
    return run


def open_folder(run):
    """Make the run's folder, take its lock on rank 0, and begin its log."""
    if run.world.rank == 0:
        run.folder.mkdir(parents=True, exist_ok=True)
        about = f"process {os.getpid()} on {socket.gethostname()}"
        run.lock = lock(run.folder / "run.lock", about)

        # Only now, when all has proved to fit, the old run makes way; and the lock moved with it.
        if run.cfg.fresh:
            set_aside(run.folder, NAMES)
            run.folder.mkdir(parents=True, exist_ok=True)
            run.lock.close()
            run.lock = lock(run.folder / "run.lock", about)
    if run.world.size > 1:
        dist.barrier()                            # the others find the folder as rank 0 left it
    run.log = Log(run.folder, active=run.world.rank == 0)


def close_folder(run):
    """Give the lock back, and take the folder away where the run ended before its first step: there
    is nothing in it to continue or to evaluate."""
    if run.lock:
        run.lock.close()
    failed = sys.exc_info()[0] is not None
    if failed and run.world.rank == 0 and run.at["step"] == 0:
        there = {path.name for path in run.folder.iterdir()}
        if there <= {"run.lock", "log.txt", "config.json", "metrics.jsonl"}:
            shutil.rmtree(run.folder)


def introduce(run):
    """Print what will be trained on what; write config.json; open TensorBoard."""
    cfg, log, data, config = run.cfg, run.log, run.train_set, run.config
    if run.world.rank == 0:
        about = {"config": config, "identity": run.identity, "versions": run.versions,
                 "command": [Path(sys.argv[0]).name, *sys.argv[1:]]}
        with atomic(run.folder / "config.json") as part:
            part.write_text(json.dumps(about, indent=1))
        if cfg.tensorboard:
            log.open_board(run.at["step"])

    log.say("settings: " + " ".join(f"{name}={value}" for name, value in config.items()))
    log.say(f"{run.folder}: {config['model']} {config['backbone']} on {config['data']}; "
            f"{len(data)} clips, {len(data.labels)} labels, {len(run.held_out)} held out; "
            f"{run.world.device}, {run.precision}, {run.world.size} process(es) x "
            f"{cfg.batch // run.world.size} clips; {run.steps} steps")
    log.say(parameter_table(run.model))
    if run.at["step"] == 0:                       # later the weights are not where they started
        if run.start:
            log.say(run.start)
        rates = sums_of_rates(cfg, run.warmup_steps, run.steps)
        log.say(reach_table(run.model, rates, drawn=run.start == ""))

    tell_shared(run)

    # Near 0, two texts look alike to the frozen CLIP, and Eq. (5) cannot tell them apart.
    discrepancy = getattr(run.model, "discrepancy", None)
    if config["sgl"] and discrepancy is not None and len(discrepancy) > 1:
        itself = torch.eye(len(discrepancy), dtype=torch.bool, device=discrepancy.device)
        apart = discrepancy[~itself]
        log.say(f"text discrepancies of Eq. (5), 1 - cos: smallest {apart.min():.4f}, mean "
                f"{apart.mean():.4f}, largest {apart.max():.4f}")


def tell_shared(run):
    """Say where clips that are measured on are trained on too: what is measured then is memory."""
    if not isinstance(run.train_set, Clips):      # the stills are drawn, and never twice
        return
    splits = {run.cfg.eval_split: run.held_out}
    if run.cfg.eval_split != "test":
        with suppress(ValueError, OSError):       # a missing test split is for the end to report
            splits["test"] = run.job.open_split(run.data_cfg, "test", train=False)

    for split, other in splits.items():
        shared = shared_clips(run.train_set, other)
        if shared and split != "train":
            run.log.say(f"note: {len(shared)} of {len(other)} {split} clips are in the training "
                        f"list too: {', '.join(shared[:5])}. Results on them are worthless.")


# ---- The loop ------------------------------------------------------------------------------------

def train(cfg, data_cfg, model_cfg, job=None):
    """Train, or continue, and measure; leaves the run folder and returns the final metrics.

    cfg, data_cfg, model_cfg: the three configs. job: what else is particular, by default `Job`.
    """
    run = prepare(cfg, data_cfg, model_cfg, job)
    at = run.at
    workers = data_cfg.workers

    # Workers stay alive between epochs: starting one takes a second or more.
    # Pinned memory lets a batch travel to the GPU while the GPU still computes.
    loader = DataLoader(run.train_set, batch_sampler=run.order, num_workers=workers,
                        persistent_workers=workers > 0, worker_init_fn=quiet_worker,
                        pin_memory=run.world.device.type == "cuda")
    try:
        with Signals() as signals:
            while at["measured"] < cfg.epochs:
                if at["epoch"] == at["measured"]:         # else it was stopped while measuring
                    train_epoch(run, loader, signals)
                measure(run)
            return run.job.finish(run)
    finally:
        if loader._iterator:                      # else quiet workers would wait for a minute
            loader._iterator._shutdown_workers()
        close_folder(run)


def train_epoch(run, loader, signals):
    """The batches of an epoch that are left to do; a checkpoint now and then, and one at the end.

    Raises Stopped when a signal came: the step was finished and saved.
    """
    at = run.at
    run.order.epoch = at["epoch"]
    run.order.start = at["batch"]
    run.model.train()

    # `start` to `fetched`: waiting for the loader; `fetched` to `done`: computing. Where the first
    # is not near zero, the decoding is too slow for the model: more --workers.
    saved = start = time.monotonic()
    with held_signals():                          # the loader's workers start here
        batches = iter(loader)
    for batch in batches:
        fetched = time.monotonic()
        terms, stop = take_step(run, batch, signals.caught)
        done = time.monotonic()
        record(run, terms, data_s=fetched - start, step_s=done - fetched)

        if stop or done - saved > 60 * run.cfg.save_minutes:
            save_checkpoint(run)
            saved = done
        if stop:
            run.log.say(f"{signal.Signals(stop).name}: saved; the same command goes on")
            raise Stopped(128 + stop)
        start = done

    at["epoch"] += 1
    at["batch"] = 0
    save_checkpoint(run)                          # before measuring, which may fail


def record(run, terms, data_s, step_s):
    """Count a step that is done; every --log-every steps, a row and a progress line of the means.

    terms: losses and grad_norm, floats. data_s, step_s: seconds waited for data, and computed.
    """
    at, cfg = run.at, run.cfg
    at["step"] += 1
    at["batch"] += 1

    # Two running sums: one for the next progress line, one for the epoch's mean. Both are stored in
    # checkpoints, so that a run that was cut prints the same means as one that was not. What is not
    # finite counts as 0 in them.
    figures = {**terms, "data_s": data_s, "step_s": step_s, "n": 1}
    for sums in (at["interval"], at["sums"]):
        for name, value in figures.items():
            sums[name] = sums.get(name, 0) + (value if math.isfinite(value) else 0)
    last_of_epoch = at["batch"] == len(run.order)
    if at["step"] % cfg.log_every != 0 and not last_of_epoch:
        return

    n = at["interval"].pop("n")
    mean = {name: value / n for name, value in at["interval"].items()}
    at["interval"] = {}

    peak = peak_mib(run.world.device)
    lr = cfg.lr * lr_factor(at["step"] - 1, run.warmup_steps, run.steps)    # before any factor
    seconds = mean["data_s"] + mean["step_s"]
    speed = cfg.batch / seconds
    left = int((run.steps - at["step"]) * seconds)
    losses = " ".join(f"{name} {mean[name]:.3f}" for name in terms)
    run.log.row(kind="step", epoch=at["epoch"] + 1, step=at["step"], lr=lr, skipped=at["skipped"],
                **mean, clips_per_s=speed, peak_mib=peak)
    run.log.say(f"epoch {at['epoch'] + 1}/{cfg.epochs} step {at['step']}/{run.steps} {losses} "
                f"lr {lr:.1e} data {mean['data_s']:.3f} s step {mean['step_s']:.3f} s "
                f"{speed:.0f} clips/s {left // 60}:{left % 60:02d} left peak {peak:.0f} MiB",
                progress=True)


def measure(run):
    """After an epoch: held-out metrics, the epoch's row and line, curves, best.pt."""
    at, cfg = run.at, run.cfg
    at["measured"] += 1
    figures = {}
    if at["measured"] % cfg.eval_every == 0 or at["measured"] == cfg.epochs:
        figures = run.job.measure(run, run.held_out)

    # The epoch's row: means of its training losses beside what was measured.
    steps = at["sums"]["n"]
    means = {name: value / steps for name, value in at["sums"].items() if name != "n"}
    broken = run.names(at["broken"])
    run.log.row(kind="epoch", epoch=at["measured"], step=at["step"], broken=broken,
                **means, **figures)

    said = f"epoch {at['measured']}/{cfg.epochs}: total {means['total']:.4f}"
    for name, value in figures.items():
        if name.startswith(("top1", "mean")):
            said += f", {name} {100 * value:.1f} %"
    run.log.say(said)
    if broken:
        run.log.say(f"note: {len(broken)} broken clips were replaced: {', '.join(broken)}")
    at["broken"] = []
    at["sums"] = {}

    # The first metric that a benchmark's papers report chooses the best epoch: top-1 for most, the
    # mean over classes for Toyota-Smarthome, whose classes have very different sizes.
    chosen = figures.get(run.train_set.metrics[0], -1)
    if chosen > at["best"]:
        at["best"] = chosen
        save_checkpoint(run, "best.pt")
    if run.world.rank == 0:
        draw_curves(run.log.rows("epoch"), run.folder / "curves.png")
        run.job.after_epoch(run)


# ---- Command line --------------------------------------------------------------------------------

def settings(argv):
    """Command line -> (TrainConfig, DataConfig, PeVLConfig), namespace. Raises ValueError."""
    def extra(parser):
        parser.add_argument("--list-rows", action="store_true", help="print all rows, train none")

    chosen = {}

    def fitting_presets(args):
        chosen.update(fitted(args))
        ready = presets(args)
        fitting = {name: one.value for name, one in chosen.items()}

        # A rival's preset is for a whole data set: of few clips, what fits them goes first.
        if args.data == "custom" and args.model != "pevl":
            for name in ("batch", "epochs", "warmup", "eval_every"):
                if name in fitting:
                    ready[name] = fitting[name]
        # With settings of their own these are no longer the paper's.
        if fitting and args.recipe == "preset":
            ready.pop("recipe", None)
        return {**fitting, **ready}

    classes = (TrainConfig, DataConfig, PeVLConfig)
    configs, values = build_configs(argv, classes, fitting_presets, __doc__, extra)
    keep_to_row(configs[0].row, configs[2])
    values.reasons = reasons(chosen, values)
    return configs, values


def main(argv=None):
    def job():
        configs, args = settings(sys.argv[1:] if argv is None else argv)
        if args.list_rows:
            list_rows()
            return
        if args.reasons:
            print("chosen for what is there: " + "; ".join(args.reasons))
        train(*configs)

    return run_command(job)


if __name__ == "__main__":
    sys.exit(main())
