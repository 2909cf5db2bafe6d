"""Open a trained model, measure it on a data set, or ask it about one video.

    python eval.py                                    newest run under out/, centre crop
    python eval.py --ckpt out/run --views 3           the paper's three crops (Sec. 4.1)
    python eval.py --row table5/no-p2v                newest run with the switches of that row
    torchrun --nproc_per_node 8 eval.py --ckpt ...    the same figures, clips shared out
    python eval.py --report                           and a page of it all, report.html
    python eval.py --compare table7/v+t               two runs on the same clips, on one page
    python eval.py --video my.mp4                     one video in, its label out; or a folder
    python eval.py --video my.mp4 --every 2           a long video: labels over time
    python eval.py --video my.mp4 --texts "a; b; c"   with any words as labels
    python eval.py --model clip --data diving48 --root DIR --backbone ViT-B/16     zero-shot CLIP
    python eval.py --model aim --aim-weights FILE --data diving48 --root DIR --backbone ViT-B/16

This file is the floor that train.py stands on, and knows nothing of it: how a checkpoint becomes a
model again, on which device and in which precision, and what is counted.

paper         | what                            | here                    | tests/test_eval.py
Sec. 3.4, (7) | mean over views, then softmax   | answers, evaluate       | test_views_are_averaged
Tables 1 to 3 | top-1, top-5, mean over classes | metrics_from, count     | test_metrics_match_*
-             | a checkpoint becomes a model    | rebuild, check_data     | test_errors_of_*
-             | a trained model to call         | load, label/            | tests/test_label.py
-             | two runs on the same clips      | evaluate_rival          | tests/test_evidence.py

Shapes: B clips, R views, K classes, T pose frames, Tv video frames, J joints, S side of a crop.
Accuracies are shares of 1 in code and files, percent in print and pictures.
"""
if __name__ == "__main__":                        # before PyTorch, which takes seconds to import
    import support.interrupt

import dataclasses
import itertools
import json
import math
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Subset

from clip_model import BACKBONES, CLIP, load_clip
from data import Clips, DataConfig
from label.command import label_videos
from label.export import export_onnx
from label.labeller import Labeller
from pose import EXTRACTORS
from published.clip_weights import read_weights
from report.evidence import Evaluated, write_report
from report.log import rows_of
from report.record import facts_of, record
from report.results import write_results
from report.text import summary, with_progress
from support.checks import unknown_name
from support.checkpoints import fingerprint, read_checkpoint
from support.commands import run_command
from support.processes import choose_device, is_grouped, join_world, reseed
from support.settings import Range, build_configs, check_fields
from support.signals import held_signals, quiet_worker
from systems.config import SWITCHES, PeVLConfig
from systems.registry import build_model
from systems.views import average_views, clip_features, clip_logits, mean_features
from tables.printed import system_of
from tables.rows import ROWS, find_row, preset_of


# ---- Devices and precision -----------------------------------------------------------------------

def choose_precision(precision, device):
    """`auto`, `fp32`, `bf16` or `fp16` -> the one that is used on `device`.

    bf16 by itself only where the GPU has it: older ones emulate it. Half precision on anything but
    a GPU is a ValueError: a CPU that emulates it takes hundreds of times as long for a step.
    """
    on_gpu = device.type == "cuda"
    if precision == "auto":
        native = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp32"
    if precision != "fp32" and not on_gpu:
        raise ValueError(f"--precision {precision} on {device.type}, which emulates it. "
                         "Expected fp32 there. Give --precision fp32.")
    return precision


def autocast(device, precision):
    """Context of a forward pass: matrix products in `bf16` or `fp16`, or everything in `fp32`."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(torch.device(device).type, dtype=dtype, enabled=precision != "fp32")


# ---- Opening: settings, weights, data ------------------------------------------------------------

def as_json(*configs):
    """The fields of dataclasses as config.json and checkpoints hold them: tuples become lists."""
    values = {}
    for config in configs:
        for name, value in dataclasses.asdict(config).items():
            values[name] = list(value) if isinstance(value, tuple) else value
    return values


def settings_of(kind, saved):
    """The fields of the dataclass `kind` in a checkpoint's settings, lists as tuples again."""
    known = {field.name for field in dataclasses.fields(kind)}
    values = {}
    for name, value in saved["config"].items():
        if name in known:
            values[name] = tuple(value) if isinstance(value, list) else value
    return values


def data_of(saved):
    """The DataConfig with which a checkpoint was trained."""
    return DataConfig(**settings_of(DataConfig, saved))


def load_trunk(model_cfg):
    """The CLIP that a model adapts, float32, on the CPU.

    `--clip random`: one with random weights, at the backbone's own image size.
    """
    if model_cfg.clip == "random":
        return CLIP(BACKBONES[model_cfg.backbone])
    return load_clip(model_cfg.clip or model_cfg.backbone, model_cfg.image_size,
                     backbone=model_cfg.backbone)


def saved_config(path):
    """The settings of the run that a checkpoint belongs to, as far as its config.json is there."""
    about = path.with_name("config.json")
    if not about.is_file():
        return {}
    try:
        config = json.loads(about.read_text("utf-8"))["config"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return {}                                 # somebody has edited it
    return config if isinstance(config, dict) else {}


def find_checkpoint(row="", out="out"):
    """`last.pt`, the final weights, of the newest run in `out`.

    row: of the newest run that has this row's switches, whatever its folder is called; the runs of
    a lab, which lie deeper, count too. Raises FileNotFoundError where there is none.
    """
    wanted = {}
    if row:
        config = as_json(PeVLConfig(**find_row(row).overrides))
        wanted = {name: config[name] for name in ("model", *SWITCHES)}

    runs = Path(out).glob("**/last.pt" if row else "*/last.pt")
    newest_first = sorted(runs, key=lambda path: path.stat().st_mtime, reverse=True)
    for path in newest_first:
        config = saved_config(path)
        alike = all(config.get(name) == value for name, value in wanted.items())
        if alike and config.get("model") != "clip":       # CLIP's own pretraining: no classifier
            return path

    flag = f" --row {row}" if row else ""
    of_row = f" of --row {row}" if row else ""
    raise FileNotFoundError(f"no trained model{of_row} under {out}/. Expected a run's last.pt. Run "
                            f"`python train.py{flag}`, or name one with --ckpt.")


def open_checkpoint(ckpt, row=""):
    """A checkpoint or a run's folder, empty: the newest run -> (path, what is in it)."""
    path = Path(ckpt) if ckpt else find_checkpoint(row)
    if path.is_dir():
        path = path / "last.pt"
    saved = read_checkpoint(path)
    if saved["config"]["model"] == "clip":
        raise ValueError(f"cannot evaluate {path}: CLIP's own pretraining. Expected pevl, vilp or "
                         "aim on clips. Choose another --ckpt.")
    return path, saved


def rebuild(saved, clip_path=""):
    """The trained model of a checkpoint, on the CPU, in evaluation mode.

    saved: from `read_checkpoint`. clip_path: where CLIP's weights lie now, if not where they lay in
    training. The frozen CLIP is not in the checkpoint; its hash is, and must agree.
    """
    values = settings_of(PeVLConfig, saved)
    values["clip"] = clip_path or values["clip"]
    config = PeVLConfig(**values)

    reseed(saved["config"]["seed"])               # --clip random: the one of training
    clip = load_trunk(config)
    if config.tune != "all" and fingerprint(clip.state_dict()) != saved["clip"]:
        raise ValueError(f"the CLIP weights {config.clip or config.backbone} are not those of "
                         "training: their hashes differ. Expected the same file. Give it: --clip.")

    model = build_model(config, clip, saved["texts"], saved["joints"])
    model.load_trainable_state(saved["model"])
    return model.eval()


def rebuild_from(path, saved, clip_path):
    """`rebuild`, whose errors name the checkpoint: its settings can be as wrong as its weights."""
    try:
        return rebuild(saved, clip_path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_data(dataset, saved):
    """The data set must be the checkpoint's: the same labels in the same order, as many joints.

    Raises ValueError with the first label that differs.
    """
    here = list(dataset.labels)
    there = saved["labels"]
    for k, (ours, theirs) in enumerate(itertools.zip_longest(here, there, fillvalue="no label")):
        if ours != theirs:
            raise ValueError(f"the data set has {len(here)} labels, the checkpoint {len(there)}; "
                             f"number {k} is {ours!r} here and {theirs!r} there. Expected those of "
                             "training. Check --data, --root, --version.")
    check_joints(dataset, saved)


def check_joints(dataset, saved):
    """ValueError where the poses have other joints than those of training."""
    if len(dataset.joints) != saved["joints"]:
        raise ValueError(f"poses with {len(dataset.joints)} joints, and the checkpoint was trained "
                         f"with {saved['joints']}. Expected as many. Choose others: --poses.")


def rename_labels(dataset, texts):
    """Replace the labels of a data set by K texts in its order. ValueError where K is another."""
    if len(texts) != len(dataset.labels):
        raise ValueError(f"--texts with {len(texts)} labels for a data set of "
                         f"{len(dataset.labels)}. Expected a text for each, in the data set's "
                         "order. Give as many.")
    dataset.labels = texts
    dataset.texts = [dataset.cfg.text_of(text) for text in texts]


def adopt_labels(model, dataset, saved, texts):
    """Make model and data set agree on labels; returns those that the model was never trained on.

    texts: of --texts, K labels in the data set's order that replace its own; may be empty. A data
    set other than the training's brings its own labels: the zero-shot protocol. On the same data
    set labels must be those of the checkpoint. Raises ValueError where they cannot agree.
    """
    same_data = dataset.cfg.data == saved["config"]["data"]
    if same_data and not texts:
        check_data(dataset, saved)
        return []

    if texts:
        rename_labels(dataset, texts)
    if dataset.cfg.read_poses:
        check_joints(dataset, saved)
    model.set_texts(dataset.texts)
    known = set(saved["labels"])
    return [label for label in dataset.labels if label not in known]


# ---- Metrics -------------------------------------------------------------------------------------

def metrics_from(confusion, unread=None):
    """Accuracies from counts.

    confusion: (K, K) integers, row = true label, column = predicted label. unread: (K,) clips of
    each label that could not be read, which count as wrong. Returns top1; mean, over the labels
    that have clips, since the others say nothing; per_class, K values, None without clips; clips.
    """
    total = confusion.sum(1)                      # (K,)
    if unread is not None:
        total = total + unread
    correct = confusion.diagonal()
    clips = int(total.sum())

    per_class = []
    for right, n in zip(correct.tolist(), total.tolist()):
        per_class.append(right / n if n else None)
    known = [accuracy for accuracy in per_class if accuracy is not None]

    return {"top1": int(correct.sum()) / max(clips, 1),
            "mean": sum(known) / max(len(known), 1),
            "per_class": per_class,
            "clips": clips}


def rank_labels(scores):
    """scores (B, K) -> labels by falling score (B, K); whether the best score is shared, (B,) bool.

    Of equal scores the lower label comes first, so that labels of one text (Gym288 has three such
    pairs) are told apart in the same way everywhere.
    """
    ranked = scores.sort(dim=1, descending=True, stable=True)
    tied = (ranked.values[:, :1] == ranked.values[:, 1:2]).any(1)
    return ranked.indices, tied


def same_text_columns(texts):
    """(K,) int64: for each label the first label that has the same text.

    Their logits are equal by definition, but a matrix product may round two equal columns
    differently: taking the first one's value for both keeps a tie a tie.
    """
    first = {}
    columns = [first.setdefault(text, label) for label, text in enumerate(texts)]
    return torch.tensor(columns)


# ---- Evaluation, Eq. (7) -------------------------------------------------------------------------

@torch.no_grad()
def evaluate(model, dataset, batch_size, device, workers=0, precision="fp32", progress=True,
             probabilities=False, average="similarities", features=False):
    """Accuracy of `model` on `dataset`, a `data.Clips` in evaluation mode.

        p = softmax(mean over views of sim / tau)     Eq. (7); a similarity alone: the same

    With average="probabilities" the mean is taken behind the softmax. The K texts are encoded once.
    Under torch.distributed each rank answers the clips rank, rank + world and so on, none twice and
    none as padding; then every rank has all answers and counts them. A clip that cannot be read is
    wrong in every figure.

    Returns top1, top5, mean, top1/vs and so on; per_class (K); clips; confusion (K, K) int64 [true,
    predicted]; unread (K,); ties; errors, ids of broken clips; predictions, a dict per clip in the
    data set's order; seconds; low/all and so on, see `lowest`, but for averaged probabilities.
    With `probabilities` also probabilities, float32 (clips, K), NaN for broken clips; with
    `features` also features, see `keep_features`, and those of the texts. Raises ValueError where
    logits are not finite.
    """
    rank, world = 0, 1
    if is_grouped():
        rank, world = dist.get_rank(), dist.get_world_size()

    start = time.monotonic()
    mine = range(rank, len(dataset), world)
    loader = DataLoader(Subset(dataset, mine), batch_size, num_workers=workers,
                        worker_init_fn=quiet_worker)
    rows = []
    was_training = model.training
    model.eval()
    try:
        with autocast(device, precision):
            text = None
            columns = slice(None)                 # a linear head knows labels, not texts
            if model.compares_texts:
                text = model.encode_texts()
                columns = same_text_columns(dataset.texts)
            with held_signals():                  # its workers start here
                batches = iter(loader)
            for batch in with_progress(batches, len(mine), show=progress and rank == 0):
                views = batch["frames"].shape[1]
                found = clip_features(model, batch, device)
                logits = clip_logits(model, found, text)
                logits = {name: x[:, columns] for name, x in logits.items()}
                new = answers(logits, views, batch, dataset.clips, average)
                if features:
                    keep_features(new, found, views)
                rows += new
    finally:
        model.train(was_training)

    if world > 1:
        parts = [None] * world
        dist.all_gather_object(parts, rows)
        rows = sorted(itertools.chain(*parts), key=lambda row: row["index"])

    shares = [row.pop("share") for row in rows]
    kept = [row.pop("features", None) for row in rows]
    best = [row.pop("best") for row in rows]
    result = count(rows, len(dataset.labels))
    if average == "similarities":                 # else they are no logits but probabilities
        result.update(lowest(best))
    result["seconds"] = time.monotonic() - start
    if probabilities and shares:
        result["probabilities"] = np.stack(shares)
    if features and kept:
        result["features"] = {name: np.stack([one[name] for one in kept]) for name in kept[0]}
        if text is not None:
            result["features"].update({name: x.float().cpu().numpy() for name, x in text.items()})
    return result


def keep_features(rows, features, views):
    """Give each row its clip's features, the mean over its views, as float32; NaN where broken.

    features: the model's, (B * R, ...) each. What Eq. (3) alone reads is left out.
    """
    for name, x in mean_features(features, views).items():
        mean = x.numpy()                                                    # (B, ...)
        for b, row in enumerate(rows):
            own = np.full_like(mean[b], np.nan) if row["broken"] else mean[b]
            row.setdefault("features", {})[name] = own


def lowest(best):
    """What the weakest of these clips reach: `low/<name>`, the first percentile of the best logit.

    best: name -> logit of the label that won, one dict a clip, empty for broken ones. Measured on
    the validation split it says below which figures a video is unlike what was trained on.
    """
    figures = {}
    for name in next(filter(None, best), ()):
        values = [one[name] for one in best if one]
        figures[f"low/{name}"] = float(np.quantile(values, 0.01))
    return figures


def answers(logits, views, batch, clips, average="similarities"):
    """What is answered for the clips of one batch: a dict of plain values for each.

    logits: name -> (B * R, K), of which `all` predicts. batch: label, index and broken, (B,).
    clips: those of the data set, for their ids.
    """
    means = {name: average_views(x, views, average) for name, x in logits.items()}
    share = means["all"].softmax(-1).numpy()                            # (B, K) probabilities
    order, tied = rank_labels(means["all"])                             # (B, K), (B,)
    alone = {}                                    # the answer of each similarity by itself
    for name, mean in means.items():
        if name != "all":
            alone[name] = rank_labels(mean)[0][:, 0]                    # (B,)
    finite = torch.stack([mean.isfinite().all(1) for mean in means.values()]).all(0)    # (B,)
    readable = ~batch["broken"].bool()

    rows = []
    for b, index in enumerate(batch["index"].tolist()):
        row = {"index": index, "id": clips[index].id, "label": int(batch["label"][b])}
        if readable[b]:
            if not finite[b]:
                raise ValueError(f"the logits of clip {clips[index].id} are not finite. Expected "
                                 "numbers. The weights have diverged: take an earlier checkpoint, "
                                 "or train with a lower learning rate.")
            best = order[b].tolist()
            row.update(predicted=best[0], top5=best[:5], broken=False,
                       probability=float(share[b, best[0]]), share=share[b], tied=bool(tied[b]),
                       best={name: float(mean[b].max()) for name, mean in means.items()},
                       alone={name: int(label[b]) for name, label in alone.items()})
        else:
            row.update(predicted=None, top5=[None], broken=True,
                       probability=0.0, share=np.full_like(share[b], np.nan), tied=False, best={},
                       alone=dict.fromkeys(alone))
        rows.append(row)
    return rows


def count(rows, K):
    """The answers for all clips, and the number of labels -> the result of `evaluate`."""
    confusion = torch.zeros(K, K, dtype=torch.long)
    unread = torch.zeros(K, dtype=torch.long)
    in_top5 = 0
    for row in rows:
        if row["broken"]:
            unread[row["label"]] += 1
        else:
            confusion[row["label"], row["predicted"]] += 1
            in_top5 += row["label"] in row["top5"]

    result = metrics_from(confusion, unread)
    names = rows[0]["alone"] if rows else ()
    for name in names:
        right = sum(row["alone"][name] == row["label"] for row in rows)
        result[f"top1/{name}"] = right / len(rows)
    result["top5"] = in_top5 / max(len(rows), 1)
    result["confusion"] = confusion
    result["unread"] = unread
    result["predictions"] = rows
    result["ties"] = sum(row["tied"] for row in rows)
    result["errors"] = [row["id"] for row in rows if row["broken"]]
    return result


# ---- As a library --------------------------------------------------------------------------------

def load(ckpt="", clip="", device="auto", texts=None):
    """A trained run as a `label.labeller.Labeller`: model("my.mp4") -> [(label, probability), ...].

    ckpt: a checkpoint or a run's folder; empty: the newest run under out/. clip: where CLIP's
    weights lie now, if not where they lay in training. device: auto, cpu, cuda or cuda:N. texts: a
    list of labels to answer with, None: those of training.

    Raises FileNotFoundError or ValueError, as `read_checkpoint`, `rebuild` and `set_labels` do.

        from eval import load
        model = load("out/toy-pevl")
        model("my.mp4")[0]
    """
    path, saved = open_checkpoint(ckpt)
    data_cfg = data_of(saved)
    model = rebuild_from(path, saved, clip).to(choose_device(device))
    return labeller_of(model, path, saved, data_cfg, texts)


def labeller_of(model, path, saved, data_cfg, texts=None):
    """A Labeller of a rebuilt model; arguments as of `load` and `rebuild`."""
    device = model.logit_scale.device
    labeller = Labeller(model, saved["labels"], data_cfg, device, lowest_seen(path, saved),
                        origin_of(path, saved))
    if texts:
        labeller.set_labels(texts)
    return labeller


def origin_of(path, saved):
    """One line that says which run answers: its file, system, data set and date."""
    config = saved["config"]
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
    return (f"{path}: {config['model']} {config['backbone']} trained on {config['data']}, "
            f"{len(saved['labels'])} labels, {when}")


def lowest_seen(path, saved):
    """name -> `low/<name>` of the run's validation clips, {} where the run does not tell.

    The run's metrics.jsonl has them in the row of the epoch that this checkpoint ended; else an
    evaluation of the validation split (`eval.py --eval-split val`) by the trained labels.
    """
    ended = saved["at"]["epoch"]
    config = saved["config"]
    found = []
    if config.get("eval_split", "val") == "val":  # else its rows are of other clips
        found = [row for row in rows_of(path.parent, "epoch") if row["epoch"] == ended]
    for measured in sorted(own_results(path).glob("eval-val-*view.json")):
        with suppress(OSError, ValueError, RecursionError, KeyError, TypeError):   # it was edited
            about = json.loads(measured.read_text("utf-8"))
            of_these = (about["data"], about["labels"]) == (config["data"], saved["labels"])
            if of_these and Path(about["checkpoint"]).name == path.name:
                found.append(about)

    for row in found:
        low = {name.removeprefix("low/"): value for name, value in row.items()
               if name.startswith("low/")}
        if low:
            return low
    return {}


def own_results(path):
    """The folder of results of a checkpoint: beside last.pt, where training leaves those of the
    final weights; else one with the checkpoint's name, so that best.pt does not replace them."""
    return path.parent if path.stem == "last" else path.parent / path.stem


# ---- Command line --------------------------------------------------------------------------------

@dataclass(frozen=True)
class EvalConfig:
    """What to evaluate. Settings of the model and the data come from the checkpoint."""
    ckpt: Annotated[str, "checkpoint or run folder; empty: last.pt of the newest run in out/"] = ""
    row: Annotated[str, "instead: the newest run like this row of a table, as table5/no-p2v"] = ""
    model: Annotated[Literal["", "clip", "aim"], "without a run of ours: zero-shot CLIP, or AIM's "
                     "published weights"] = ""
    backbone: Annotated[str, "with --model: " + ", ".join(BACKBONES)] = "ViT-B/16"
    aim_weights: Annotated[str, "with --model aim: a file that AIM's authors publish"] = ""
    clip: Annotated[str, "where CLIP's weights lie now; empty: where they lay in training"] = ""
    eval_split: Annotated[Literal["train", "val", "test"], "split to evaluate"] = "test"
    views: Annotated[Literal[1, 3], "crops of a clip: the centre, or three (Sec. 4.1)"] = 1
    batch: Annotated[int, "clips at a time: speed and memory, not the answer",
                     Range(1, 65536)] = 16
    average: Annotated[Literal["similarities", "probabilities"], "over the views: Eq. (7), or "
                       "behind the softmax, as AIM does (D19)"] = "similarities"
    texts: Annotated[str, "other labels than the trained ones: 'a; b; c', or a file of lines"] = ""
    video: Annotated[tuple[Path, ...], "label these instead of evaluating a split: files or "
                     "folders of video"] = ()
    pose: Annotated[str, "with --video: its pose clip; empty: FILE.npz beside FILE.mp4, else the "
                    "joints are extracted"] = ""
    extractor: Annotated[str, "with --video: who finds joints, empty: the first that is ready of "
                         + ", ".join(EXTRACTORS)] = ""
    start: Annotated[float, "with --video: first second of what is labelled",
                     Range(0, math.inf)] = 0.0
    end: Annotated[float, "with --video: second at which it ends",
                   Range(0, math.inf)] = math.inf
    every: Annotated[float, "with --video: a label each so many seconds, for long videos",
                     Range(0, 86400)] = 0.0
    window: Annotated[float, "with --every: seconds that a label is of; 0: as many",
                      Range(0, math.inf)] = 0.0
    topk: Annotated[int, "with --video: labels to print", Range(1, 10000)] = 5
    record: Annotated[str, "put the row of this eval-*.json into docs/results.md"] = ""
    who: Annotated[str, "with --record: who ran it"] = ""
    card: Annotated[str, "with --record: what it was trained on, as '8 x A100'"] = ""
    hours: Annotated[float, "with --record: hours of training; 0: those of the run's log",
                     Range(0, math.inf)] = 0.0
    out: Annotated[str, "folder for results; empty: beside the checkpoint, out/videos for "
                   "--video"] = ""
    strips: Annotated[int, "labels that get a picture strip, from the first; 0: none",
                      Range(0, 10000)] = 48
    report: Annotated[bool, "also write report.html, a page to look at"] = False
    compare: Annotated[str, "second run for that page: a run folder or checkpoint, a row as "
                       "table7/v+t (its newest run), or clip, CLIP zero-shot"] = ""
    export: Annotated[Literal["", "onnx"], "write the run's towers as ONNX files instead of "
                      "evaluating"] = ""
    save_probabilities: Annotated[bool, "also write every clip's probabilities as .npz"] = False
    save_features: Annotated[bool, "also write all features of clips and texts as .npz"] = False
    device: Annotated[str, "auto, cpu, cuda or cuda:N"] = "auto"
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], "of matrix products"] = "auto"

    def __post_init__(self):
        check_fields(self)
        if self.start >= self.end:
            raise ValueError(f"--start {self.start} --end {self.end}. Expected seconds, the start "
                             "before the end. Change them.")
        alone = {"pose": self.pose, "start": self.start, "every": self.every,
                 "window": self.window, "extractor": self.extractor, "end": self.end < math.inf}
        wrong = [f"--{name}" for name, given in alone.items() if given and not self.video]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} without --video. Expected a video with them. Add "
                             "--video FILE; the poses of a data set: --poses DIR.")
        if 0 < self.every < 0.01:
            raise ValueError(f"--every {self.every:g}. Expected 0.01 seconds or more. A frame "
                             "takes about 0.03: raise it.")
        unread = {"report": self.report, "save-features": self.save_features,
                  "save-probabilities": self.save_probabilities}
        wrong = [f"--{name}" for name, given in unread.items() if given and self.video]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} beside --video. Expected a split, which is what "
                             "they are of. Leave them out, or --video.")
        if self.window and not self.every:
            raise ValueError(f"--window {self.window:g} without --every. Expected both: how long a "
                             "window is, and how often one begins. Add --every SECONDS.")
        if self.extractor and self.extractor not in EXTRACTORS:
            raise unknown_name("extractor", self.extractor, EXTRACTORS)
        if self.row and self.ckpt:
            raise ValueError(f"--row {self.row} --ckpt {self.ckpt}. Expected --row without --ckpt. "
                             "Leave one of them out.")
        if self.model == "clip" and self.compare == "clip":
            raise ValueError("--model clip --compare clip: one system twice. Expected another one "
                             "to compare with. Leave --compare out.")
        if self.compare and (self.video or self.export):
            raise ValueError(f"--compare {self.compare} beside --video or --export. Expected it "
                             "beside a split, on whose clips two runs are compared. Leave one out.")
        if self.model and (self.row or self.ckpt or self.video):
            raise ValueError(f"--model {self.model} beside --row, --ckpt or --video. Expected "
                             "--model alone: a run of ours has its own. Leave one of them out.")
        if self.aim_weights and self.model != "aim":
            raise ValueError(f"--aim-weights {self.aim_weights}. Expected --model aim. Add it.")
        if self.model == "aim" and self.texts:
            raise ValueError("--model aim --texts: AIM reads no texts. Expected a model that "
                             "compares texts. Leave --texts out.")
        if self.model == "aim" and not self.aim_weights:
            raise ValueError("--model aim without --aim-weights. Expected the file that its "
                             "authors publish; for a run of ours name it with --ckpt. Add it.")


def read_texts(texts):
    """`--texts`: a file with a label a line, or the labels themselves with ; between.

    Raises ValueError for what looks like a file and is none, or is no text.
    """
    if ";" in texts:
        lines = texts.split(";")
    elif os.path.isfile(texts):
        try:
            lines = Path(texts).read_text("utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise ValueError(f"cannot read {texts}: it is no UTF-8. Expected a text file with a "
                             "label a line. Save it as UTF-8.") from None
    elif Path(texts).suffix in (".txt", ".csv"):
        raise FileNotFoundError(f"no file {texts}. Expected a label a line in it. Check the path.")
    else:
        lines = [texts]
    return [line.strip() for line in lines if line.strip()]


# Settings of the data that say nothing of another data set.
OF_ONE_DATA_SET = ("data", "root", "poses", "version", "protocol", "split")


def read_command(argv):
    """argv -> EvalConfig, DataConfig, path and content of the checkpoint (None with --model).

    How clips are read is not for the command line to repeat: a checkpoint knows the settings of its
    training, and they become the defaults here. With --data of another data set those that say
    where the training's lies, and which version of it, are left out.
    """
    opened = {"path": None, "saved": None}
    names_data = any(word.split("=")[0] == "--data" for word in argv)

    def presets(args):
        if args.record:
            return {}
        if args.model:
            return {**preset_of(args.data, args.model), "read_poses": False}
        path, saved = open_checkpoint(args.ckpt, args.row)
        opened["path"] = path
        opened["saved"] = saved
        wanted = ["precision", "backbone", *(f.name for f in dataclasses.fields(DataConfig))]
        if names_data and args.data != saved["config"]["data"]:
            wanted = [name for name in wanted if name not in OF_ONE_DATA_SET]
        return {name: saved["config"][name] for name in wanted if name in saved["config"]}

    (cfg, data_cfg), _ = build_configs(argv, (EvalConfig, DataConfig), presets, __doc__)
    saved = opened["saved"]
    if saved and cfg.backbone != saved["config"]["backbone"]:
        trained = saved["config"]
        raise ValueError(f"--backbone {cfg.backbone} beside {opened['path']}, which is "
                         f"{trained['model']} on {trained['data']} and {trained['backbone']}. "
                         "Expected --backbone with --model alone. Leave it out.")
    if saved:
        refuse_other_sizes(data_cfg, saved, opened["path"])
    return cfg, data_cfg, opened["path"], saved


def refuse_other_sizes(data_cfg, saved, path):
    """ValueError for a number of frames or pixels that the model was not built for.

    How clips are read may differ from training (--flip, --root, --views), but a tower has a
    position for each frame and for each patch, and the text of the error would come from its depth.
    """
    for name, here in sizes_of(data_cfg).items():
        there = saved["config"].get(name, here)
        if here != there:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} {here} beside {path}, which was trained with {there}. "
                             "Expected the checkpoint's own. Leave the flag out.")


def sizes_of(config):
    """What a PeVLConfig and a DataConfig must agree on: frames of a clip, pixels of a frame."""
    names = ("pose_frames", "video_frames", "image_size")
    return {name: getattr(config, name) for name in names}


def zero_shot_clip(backbone, clip, sizes, dataset):
    """CLIP itself on a data set's texts. clip: its weights, as of --clip. sizes: a config."""
    config = PeVLConfig(model="clip", backbone=backbone, clip=clip, **sizes_of(sizes))
    return build_model(config, load_trunk(config), dataset.texts, len(dataset.joints))


def model_without_run(cfg, data_cfg, dataset):
    """Zero-shot CLIP, or AIM with the weights that its authors publish."""
    if cfg.model == "clip":
        return zero_shot_clip(cfg.backbone, cfg.clip, data_cfg, dataset)

    # AIM's file holds CLIP's image tower too, so that no other weights are needed.
    config = PeVLConfig(model="aim", backbone=cfg.backbone, clip=cfg.clip, **sizes_of(data_cfg))
    trunk = load_trunk(dataclasses.replace(config, clip="random"))
    model = build_model(config, trunk, dataset.texts, len(dataset.joints))
    model.load_published(read_weights(cfg.aim_weights))
    return model


def results_folder(cfg, data_cfg, source, saved):
    """Where results go: --out, `own_results` of the checkpoint, or out/<data>-clip for the
    zero-shot CLIP.

    source: the checkpoint, or AIM's file; saved: the checkpoint's content or None. Figures of other
    clips or labels than the run's, or by another mean, get a folder in it: they replace none.
    """
    if cfg.out:
        return Path(cfg.out)
    if cfg.model == "clip":
        return Path(f"out/{data_cfg.data}-clip")
    if not saved:
        return source.parent

    others = []
    trained = data_of(saved)
    if (data_cfg.data, data_cfg.variant) != (trained.data, trained.variant):
        others += [data_cfg.data, data_cfg.variant]
    if cfg.texts:
        others.append("texts")
    if cfg.average != "similarities":
        others.append(cfg.average)
    return own_results(source) / "-".join(filter(None, others))


def evaluated(name, model, dataset, result, about, path=None, saved=None):
    """A model and its answers as report/evidence.py wants them; saved: its checkpoint's content."""
    one = Evaluated(name=name, model=model, dataset=dataset, result=result, about=about)
    if saved:
        one.checkpoint = path
        one.config = saved["config"]
        one.versions = saved["versions"]
    return one


def open_rival(name, path):
    """What --compare names -> its path and content; (None, None) for zero-shot CLIP or no rival.

    name: a row of a table, which means its newest run, a run's folder or a checkpoint, or clip.
    path: the checkpoint that it is compared with, None where there is none. ValueError where they
    are the same, which the newest run of a row easily is: all differences would be 0.
    """
    if name in ("", "clip"):
        return None, None
    tables = {row.split("/")[0] for row in ROWS}
    if name.split("/")[0] in tables and not Path(name).exists():
        find_row(name)                            # a row that is misspelt gets the nearest name
        theirs, saved = open_checkpoint("", row=name)
    else:
        theirs, saved = open_checkpoint(name)
    if path is not None and theirs.resolve() == path.resolve():
        raise ValueError(f"--compare {name} is {theirs}, the run itself. Expected another run. "
                         "Name the first one: --ckpt out/RUN, or --row table7/pevl.")
    return theirs, saved


def evaluate_rival(cfg, data_cfg, main, path, saved, world, precision):
    """Evaluate what --compare names on the clips of another run -> Evaluated.

    main: the Evaluated that it is compared with. path, saved: of `open_rival`. How clips are seen
    (frames, size, prompt) is the rival's own; which clips, where they lie, how many views and how
    these are averaged is said by the main run. ValueError where the labels of its own data set
    are others; one that was trained on another data set is asked for these labels, zero-shot.
    """
    if saved:
        own = ("pose_frames", "video_frames", "image_size", "prompt", "read_video", "read_poses")
        seen = {key: saved["config"][key] for key in own if key in saved["config"]}
        name = path.parent.name
        if name == main.name:                     # two of the lab's, or best.pt beside last.pt
            main.name = main.about["checkpoint"]
            name = str(path)
    else:
        seen = {"read_video": True, "read_poses": False}
        name = f"CLIP {main.model.config.backbone}, zero-shot"
    dataset = Clips(dataclasses.replace(data_cfg, **seen), cfg.eval_split, train=False,
                    views=cfg.views)

    texts = read_texts(cfg.texts)
    if saved:
        model = rebuild_from(path, saved, cfg.clip)
        adopt_labels(model, dataset, saved, texts)
    else:
        if texts:
            rename_labels(dataset, texts)
        config = main.model.config
        model = zero_shot_clip(config.backbone, config.clip, config, dataset)
    model = model.to(world.device)

    result = evaluate(model, dataset, cfg.batch, world.device, workers=data_cfg.workers,
                      precision=precision, average=cfg.average)
    about = {**main.about, "checkpoint": str(path or "none"), "model": model.config.model,
             "backbone": model.config.backbone}
    return evaluated(name, model, dataset, result, about, path, saved)


def export_run(cfg, data_cfg, path, saved):
    """--export: the towers of a run as ONNX files. ValueError for a model without a run."""
    if not saved:
        raise ValueError(f"--export {cfg.export} beside --model {cfg.model}. Expected a run of "
                         "ours. Leave --model out, or name one with --ckpt.")
    model = rebuild_from(path, saved, cfg.clip)   # on the CPU, where the exporter records it
    for line in export_onnx(model, Path(cfg.out or path.parent)):
        print(line)


def tell(one, origin, never_trained):
    """Print what was evaluated and what came out. one: Evaluated. origin: of `origin_of`, or ""."""
    print(", ".join(f"{name} {value}" for name, value in one.about.items()))
    if origin:
        print(f"answered by {origin}")
    if never_trained:
        more = "; ..." if len(never_trained) > 10 else ""
        print(f"{len(one.dataset.labels)} labels, {len(never_trained)} of them never trained: "
              f"{'; '.join(never_trained[:10])}{more}")
    print(summary(one.result, one.dataset.labels))


def note_choice(path, saved, dataset):
    """Say so where these very clips chose the weights: then their figure is too high."""
    own = data_of(saved)
    chosen_on = own.own_split(saved["config"].get("eval_split", "val"))
    clips = (dataset.cfg.data, dataset.cfg.variant, dataset.split)
    if path.name == "best.pt" and clips == (own.data, own.variant, chosen_on):
        print(f"note: {path} is the epoch that was best on this very split ({dataset.split}); "
              "last.pt beside it was not chosen by it")


def run(argv):
    """The command line; the result of `evaluate`, or None where no split was evaluated."""
    cfg, data_cfg, path, saved = read_command(argv)
    if cfg.record:
        print(record(cfg.record, {"who": cfg.who, "card": cfg.card, "hours": cfg.hours}))
        return None
    if cfg.export:
        export_run(cfg, data_cfg, path, saved)
        return None
    world = join_world(cfg.device)
    precision = choose_precision(cfg.precision, world.device)
    if cfg.video:
        model = rebuild_from(path, saved, cfg.clip).to(world.device)
        labeller = labeller_of(model, path, saved, data_cfg, read_texts(cfg.texts))
        labeller.folder = Path(cfg.out or "out/videos") / "poses"
        label_videos(cfg, labeller)
        return None

    # The rival is opened first: a name that is wrong should not show after an hour of evaluation.
    rival_path, rival_saved = open_rival(cfg.compare, path)
    # The toy benchmark is made where it belongs, but not in a folder that is named here.
    dataset = Clips(data_cfg, cfg.eval_split, train=False, views=cfg.views,
                    prepare=not data_cfg.root)
    texts = read_texts(cfg.texts)
    never_trained = []
    if saved:
        model = rebuild_from(path, saved, cfg.clip)
        never_trained = adopt_labels(model, dataset, saved, texts)
        name = path.parent.name
        origin = origin_of(path, saved)
        note_choice(path, saved, dataset)
    else:
        if texts:
            rename_labels(dataset, texts)
        model = model_without_run(cfg, data_cfg, dataset)
        name = f"{cfg.model} {cfg.backbone}"
        origin = ""
        path = Path(cfg.aim_weights or name)
    model = model.to(world.device)

    result = evaluate(model, dataset, cfg.batch, world.device, workers=data_cfg.workers,
                      precision=precision, probabilities=cfg.save_probabilities,
                      average=cfg.average, features=cfg.save_features)
    about = {"checkpoint": str(path), "model": model.config.model,
             "backbone": model.config.backbone, "data": data_cfg.data,
             "split": cfg.eval_split, "views": cfg.views}
    one = evaluated(name, model, dataset, result, about, path, saved)
    rival = None
    if cfg.compare:
        rival = evaluate_rival(cfg, data_cfg, one, rival_path, rival_saved, world, precision)

    # Under torchrun every rank has all answers; one of them tells and writes.
    if world.rank == 0:
        tell(one, origin, never_trained)
        about["average"] = cfg.average            # the rest is for the files, not for the screen
        about["never_trained"] = never_trained
        if saved:
            about["system"] = system_of(saved["config"])
            about.update(facts_of(path, saved, data_cfg.variant))
        folder = results_folder(cfg, data_cfg, path, saved)
        write_results(result, model, dataset, folder, about, world.device, cfg.strips)
        if cfg.report or rival:
            write_report(one, folder, world.device, rival, operations=True)
    return result


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv

    def job():
        run(argv)

    return run_command(job)


if __name__ == "__main__":
    sys.exit(main())
