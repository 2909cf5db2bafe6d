"""Measure a trained model, look at what it attends to, label one video, and count what models cost.

| paper          | here                                            | test (tests/test_eval.py)       |
|----------------|-------------------------------------------------|---------------------------------|
| Sec. 3.4, (7)  | `evaluate`: mean over views, then softmax       | test_views_are_averaged         |
| Tables 1 to 3  | `metrics_from`: top-1, top-5, mean over classes | test_metrics_match_a_slow_count |
| Fig. 1c        | `draw_strip`: attention before and after P2V    | test_strips_are_drawn           |
| Tables 7 and 9 | `count_costs`, `cost_table`                     | test_costs_of_the_paper         |

    python eval.py                                    newest run under out/, centre crop
    python eval.py --ckpt out/run/best.pt --views 3   the paper's three crops (Sec. 4.1)
    python eval.py --video dive.mp4 --pose dive.npz   one video in, its label out
    python eval.py --costs --table 7                  operations and parameters; needs no weights

Shapes: B clips, R views, K classes, T pose frames, Tv video frames, N patches of a frame (class token
not among them), J joints. Accuracies are shares of 1 in code and files, percent in print and pictures.
"""
from __future__ import annotations

import io
import json
import math
import os
import signal
import sys
import tempfile
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image, ImageDraw, ImageFont
from torch.utils.data import DataLoader, Subset


# ---- Files and progress --------------------------------------------------------------------------

def write_atomically(path, data: bytes) -> Path:
    """Write under a temporary name in the same folder, then rename: nobody ever reads half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)                               # mkstemp makes private files
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


class Progress:
    """`evaluate 320/960 clips, 41.0 clips/s, 0:16 left`: one rewritten line on a terminal, in a log a
    line every ten seconds."""

    def __init__(self, what: str, total: int, show: bool = True):
        self.what, self.total, self.done, self.show = what, total, 0, show
        self.start = self.shown = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def add(self, count: int) -> None:
        self.done += count
        now, last = time.monotonic(), self.done >= self.total
        if not self.show or (not last and now - self.shown < (0.2 if self.terminal else 10)):
            return
        self.shown, rate = now, self.done / max(now - self.start, 1e-6)
        left = int((self.total - self.done) / max(rate, 1e-6))
        line = (f"{self.what} {self.done}/{self.total} clips, {rate:.1f} clips/s, "
                f"{left // 60}:{left % 60:02d} left")
        end = "\n" if last or not self.terminal else ""
        print(f"\r{line:<78}" if self.terminal else line, end=end, file=sys.stderr, flush=True)


def quiet_worker(_) -> None:
    """A loader's worker leaves Ctrl-C and Slurm's SIGTERM to the main process, which ends it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


# ---- Metrics -------------------------------------------------------------------------------------

def metrics_from(confusion: torch.Tensor, unread: torch.Tensor | None = None) -> dict:
    """Accuracies from counts.

    confusion: (K, K) integers, row = true label, column = predicted label. unread: (K,) clips of each
    label that could not be read; they have no predicted label and count as wrong. Returns top1; mean,
    over the labels that have clips, since a label without any says nothing; per_class, K values, None
    without clips; clips.
    """
    total = confusion.sum(1) if unread is None else confusion.sum(1) + unread
    correct, clips = confusion.diagonal(), int(total.sum())
    per_class = [c / n if n else None for c, n in zip(correct.tolist(), total.tolist())]
    known = [accuracy for accuracy in per_class if accuracy is not None]
    return {"top1": int(correct.sum()) / max(clips, 1), "mean": sum(known) / max(len(known), 1),
            "per_class": per_class, "clips": clips}


def rank_labels(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """scores (B, K) -> labels by falling score (B, K); (B,) bool, the best score is shared.

    Of equal scores the lower label comes first, so that labels of one text (Gym288 has three such
    pairs) are told apart in the same way everywhere."""
    ranked = scores.sort(dim=1, descending=True, stable=True)
    return ranked.indices, (ranked.values[:, :1] == ranked.values[:, 1:2]).any(1)


def same_text_columns(texts: list[str]) -> torch.Tensor:
    """(K,) for each label the first label of the same text. Their logits are equal, but a matrix
    product may round two equal columns differently: taking the first one's keeps a tie a tie."""
    first: dict[str, int] = {}
    return torch.tensor([first.setdefault(text, label) for label, text in enumerate(texts)])


# ---- Evaluation, Eq. (7) -------------------------------------------------------------------------

def fold_views(batch: dict, device) -> tuple[dict, int]:
    """Views become clips: frames (B, R, Tv, 3, S, S) -> (B*R, Tv, 3, S, S), joints likewise, labels
    repeated. Returns the batch and R."""
    views = batch["frames"].shape[1]
    folded = {name: batch[name].to(device, non_blocking=True).flatten(0, 1)
              for name in ("frames", "keypoints", "scores")}
    return {**folded, "label": batch["label"].to(device).repeat_interleave(views)}, views


def average_views(logits: dict, views: int) -> dict:
    """name -> (B*R, K) becomes name -> (B, K), the mean over a clip's views, float32 on the CPU."""
    return {name: x.float().unflatten(0, (-1, views)).mean(1).cpu() for name, x in logits.items()}


def autocast(device, precision: str):
    """Context of a forward pass: `fp32`, or matrix products in `bf16` or `fp16`."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(torch.device(device).type, dtype=dtype, enabled=precision != "fp32")


@torch.no_grad()
def evaluate(model, dataset, batch_size, device, workers=0, precision="fp32", progress=True,
             probabilities=False) -> dict:
    """Accuracy of `model` on `dataset`, a `data.Clips` in evaluation mode.

        p = softmax(mean over views of sim / tau)       Eq. (7); one similarity alone is ranked alike

    The K texts are encoded once. Under torch.distributed each rank takes the clips rank, rank + world,
    and so on: none twice, no padding, and the counts of all ranks are added before any division. A
    clip that cannot be read counts as wrong in every figure. Returns on every rank: top1, top5, mean,
    top1/vs and so on, per_class (K), clips, confusion (K, K) long [true, predicted], unread (K,), ties,
    errors (ids of broken clips), predictions (a dict per clip, in the data set's order), seconds; on
    request `probabilities`, float32 (clips, K), NaN for broken clips.
    """
    grouped = dist.is_available() and dist.is_initialized()
    rank, world = (dist.get_rank(), dist.get_world_size()) if grouped else (0, 1)
    start, was_training = time.monotonic(), model.training
    mine = range(rank, len(dataset), world)
    loader = DataLoader(Subset(dataset, mine), batch_size, num_workers=workers,
                        worker_init_fn=quiet_worker)
    meter = Progress("evaluate", len(mine), progress and rank == 0)
    count = new_counts(len(dataset.labels))
    model.eval()
    try:
        with autocast(device, precision):
            text = model.encode_texts()
        columns = None if text is None else same_text_columns(dataset.texts)
        for batch in loader:
            folded, views = fold_views(batch, device)
            with autocast(device, precision):
                logits = average_views(model.class_logits(model(folded), text), views)
            if columns is not None:
                logits = {name: x[:, columns] for name, x in logits.items()}
            add_batch(count, logits, batch, dataset, probabilities)
            meter.add(len(batch["label"]))
    finally:
        model.train(was_training)
    parts = [count]
    if world > 1:
        parts = [None] * world
        dist.all_gather_object(parts, count)
    return {**summary(parts, probabilities), "seconds": time.monotonic() - start}


def new_counts(classes: int) -> dict:
    """Counts and lists only, so that ranks can be added. `confusion` has one more column: not read."""
    return {"confusion": torch.zeros(classes, classes + 1, dtype=torch.long), "hits": {}, "ties": 0,
            "rows": []}


def add_batch(count: dict, logits: dict, batch: dict, dataset, probabilities: bool) -> None:
    """Add a batch's answers to `count`; logits: name -> (B, K), the first name, `all`, predicts."""
    label, read, index = batch["label"], ~batch["broken"].bool(), batch["index"].tolist()
    ids = [dataset.clips[i].id for i in index]
    for name, x in logits.items():
        unsound = read & ~x.isfinite().all(1)
        if unsound.any():
            raise ValueError(
                f"the logits '{name}' of clip {ids[int(unsound.nonzero()[0])]} are not finite. Expected "
                "a number for each label. The weights have diverged: evaluate an earlier checkpoint, or "
                "train with a lower learning rate")
        order, tied = rank_labels(x)
        right = (order == label[:, None]) & read[:, None]                            # (B, K)
        if name != "all":
            count["hits"][f"top1/{name}"] = count["hits"].get(f"top1/{name}", 0) + int(right[:, 0].sum())
            continue
        count["hits"]["top5"] = count["hits"].get("top5", 0) + int(right[:, :5].sum())
        count["ties"] += int((tied & read).sum())
        predicted = torch.where(read, order[:, 0], x.shape[1])
        count["confusion"].index_put_((label, predicted), torch.ones_like(label), accumulate=True)
        share = x.softmax(1)
        for b, i in enumerate(index):
            best = order[b, :5].tolist() if read[b] else []
            row = {"id": ids[b], "label": int(label[b]), "predicted": best[0] if best else None,
                   "probability": float(share[b, best[0]]) if best else 0.0, "top5": best,
                   "broken": not read[b]}
            count["rows"].append((i, row, share[b].numpy().copy() if probabilities else None))


def summary(parts: list[dict], probabilities: bool) -> dict:
    """The counts of all ranks -> the result of `evaluate`."""
    table = sum(part["confusion"] for part in parts)
    rows = sorted((row for part in parts for row in part["rows"]), key=lambda row: row[0])
    hits: dict[str, int] = {"top5": 0}
    for part in parts:
        for name, number in part["hits"].items():
            hits[name] = hits.get(name, 0) + number
    confusion, unread = table[:, :-1].contiguous(), table[:, -1].contiguous()
    measured = metrics_from(confusion, unread)
    result = {"top1": measured["top1"], "mean": measured["mean"],
              **{name: number / max(len(rows), 1) for name, number in hits.items()}, **measured,
              "confusion": confusion, "unread": unread, "ties": sum(part["ties"] for part in parts),
              "errors": [row["id"] for _, row, _ in rows if row["broken"]],
              "predictions": [row for _, row, _ in rows]}
    if probabilities:
        share = np.array([p for _, _, p in rows], np.float32).reshape(len(rows), len(table))
        share[[row["broken"] for _, row, _ in rows]] = np.nan
        result["probabilities"] = share
    return result


# ---- Drawing: colours and text -------------------------------------------------------------------
INK, GREY, RULE = (32, 36, 44), (104, 110, 122), (222, 225, 230)
SERIES = ((0, 101, 178), (213, 94, 0), (0, 146, 108), (153, 79, 161), (214, 150, 0), (70, 170, 220),
          (90, 90, 90))
# Colour scales of even steps in lightness, by anchors: counts (white to blue), heat (black to yellow).
BLUES = ((250, 252, 255), (214, 228, 242), (158, 198, 224), (90, 155, 204), (37, 107, 174), (8, 56, 116))
HEAT = ((0, 0, 4), (40, 17, 89), (99, 26, 128), (158, 47, 127), (214, 69, 108), (246, 115, 92),
        (254, 175, 119), (252, 253, 191))


def colour(values, scale=HEAT) -> np.ndarray:
    """values in [0, 1], any shape -> uint8 (..., 3), linear between the anchors of `scale`."""
    x = np.clip(np.nan_to_num(np.asarray(values, dtype=np.float64)), 0, 1)
    anchors, places = np.array(scale, dtype=np.float64), np.linspace(0, 1, len(scale))
    channels = [np.interp(x, places, anchors[:, c]) for c in range(3)]
    return np.stack(channels, -1).round().astype(np.uint8)


@lru_cache(None)
def font(size: int):
    return ImageFont.load_default(size=size)


def text_width(text: str, size: int) -> int:
    return math.ceil(font(size).getlength(text))


def shorten(text: str, size: int, width: int) -> str:
    """`text`, its middle left out where it is wider than `width`: labels often differ at the end."""
    kept, short = len(text), text
    while kept > 2 and text_width(short, size) > width:
        kept -= 1
        short = f"{text[:kept - kept // 2].rstrip()} .. {text[len(text) - kept // 2:].lstrip()}"
    return short


def save_png(image: Image.Image, path) -> Path:
    data = io.BytesIO()
    image.save(data, "PNG")
    return write_atomically(path, data.getvalue())


# ---- Confusion matrix ----------------------------------------------------------------------------

def draw_confusion(confusion, labels: list[str], path, title: str = "") -> Path:
    """Rows = true, columns = predicted, shade = share of the row, counts where they fit in a cell."""
    table, K = np.asarray(confusion), len(labels)
    cell = min(max(1000 // max(K, 1), 13), 44)
    size, digits = min(cell - 3, 15), min(int(cell * 0.45), 15)
    names = [shorten(label, size, 360) for label in labels]
    room = max([text_width(name, size) for name in names] + [90]) + 12
    left, top, side = room + 24, room + (54 if title else 24), cell * K
    width = max(left + side, text_width(title, 17)) + 24
    image = Image.new("RGB", (width, top + side + 16), "white")
    draw = ImageDraw.Draw(image)
    draw.text((12, 8), title, INK, font(17))
    draw.text((left - 7, top - 9), "true \\ predicted", GREY, font(12), anchor="rb")
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    shades = Image.fromarray(colour(share ** 0.7, BLUES))        # the power lifts rare confusions
    image.paste(shades.resize((side, side), Image.Resampling.NEAREST), (left, top))
    for k, name in enumerate(names):
        draw.text((left - 7, top + (k + 0.5) * cell), name, INK, font(size), anchor="rm")
        column = Image.new("RGB", (room, cell), "white")
        ImageDraw.Draw(column).text((2, cell / 2), name, INK, font(size), anchor="lm")
        image.paste(column.rotate(90, expand=True), (left + k * cell, top - room - 5))
    for k in range(K + 1):
        draw.line([(left, top + k * cell), (left + side, top + k * cell)], RULE)
        draw.line([(left + k * cell, top), (left + k * cell, top + side)], RULE)
    for row, column in zip(*np.nonzero(table)):
        number, tint = str(table[row, column]), "white" if share[row, column] > 0.45 else INK
        if digits >= 8 and text_width(number, digits) <= cell - 2:
            middle = (left + (column + 0.5) * cell + 0.5, top + (row + 0.5) * cell + 0.5)
            draw.text(middle, number, tint, font(digits), anchor="mm")
    return save_png(image, path)


# ---- Curves and bars -----------------------------------------------------------------------------
FINE = 3                                       # drawn this much larger, then scaled down: smooth lines


class Pen:
    """Draws in the coordinates of the finished picture on a canvas FINE times as large."""

    def __init__(self, width: int, height: int):
        self.size = (width, height)
        self.image = Image.new("RGB", (width * FINE, height * FINE), "white")
        self.draw = ImageDraw.Draw(self.image)

    def text(self, x, y, words, tint=INK, size=12, anchor="lm"):
        self.draw.text((x * FINE, y * FINE), words, tint, font(size * FINE), anchor)

    def line(self, points, tint=RULE, width=1.0):
        spots = [(x * FINE, y * FINE) for x, y in points]
        if len(spots) > 1:
            self.draw.line(spots, tint, round(width * FINE), joint="curve")

    def box(self, left, top, right, bottom, tint):
        self.draw.rectangle([v * FINE for v in (left, top, right, bottom)], tint)

    def dot(self, x, y, tint, radius=2.5):
        self.draw.ellipse([v * FINE for v in (x - radius, y - radius, x + radius, y + radius)], tint)

    def diamond(self, x, y, tint, radius=6):
        corners = [(x + dx * radius, y + dy * radius) for dx, dy in ((0, -1), (1, 0), (0, 1), (-1, 0))]
        self.draw.polygon([(u * FINE, v * FINE) for u, v in corners], tint, "white", FINE)

    def save(self, path) -> Path:
        return save_png(self.image.resize(self.size, Image.Resampling.LANCZOS), path)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers that cover low .. high, apart by 1, 2 or 5 times a power of ten."""
    span = max(high - low, 1e-9) / count
    base = 10.0 ** math.floor(math.log10(span))
    step = next(m * base for m in (1, 2, 5, 10) if m * base >= span * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def draw_panel(pen: Pen, box, series: dict, title: str, high: float = 0.0) -> None:
    """Axes, ticks, legend and a line per series (name -> [(x, y)]) in box = left, top, right, bottom."""
    left, top, right, bottom = box
    xs = [x for line in series.values() for x, _ in line] or [0]
    ys = [y for line in series.values() for _, y in line] or [0]
    y_ticks = ticks(min(0.0, min(ys)), max(high, max(ys), 1e-3))
    x_ticks = [x for x in ticks(min(xs), max(xs), 6) if x == int(x) and min(xs) <= x <= max(xs)]
    x0, x1, y0, y1 = min(xs), max(max(xs), min(xs) + 1), y_ticks[0], y_ticks[-1]

    def place(x, y):
        return (left + (x - x0) / (x1 - x0) * (right - left),
                bottom - (y - y0) / (y1 - y0) * (bottom - top))

    for y in y_ticks:
        pen.line([place(x0, y), place(x1, y)], GREY if y == y0 else RULE)
        pen.text(left - 8, place(x0, y)[1], f"{y:g}", GREY, anchor="rm")
    for x in x_ticks or [x0]:
        spot = place(x, y0)
        pen.line([spot, (spot[0], spot[1] + 4)], GREY)
        pen.text(spot[0], spot[1] + 14, f"{x:g}", GREY, anchor="mm")
    pen.text(left, top - 34, title, size=15)
    pen.text((left + right) / 2, bottom + 32, "epoch", GREY, anchor="mm")
    x = left
    for i, (name, points) in enumerate(series.items()):
        tint, spots = SERIES[i % len(SERIES)], [place(*point) for point in points]
        pen.line(spots, tint, 2)
        for spot in spots if len(spots) <= 60 else []:
            pen.dot(*spot, tint)
        pen.line([(x, top - 13), (x + 16, top - 13)], tint, 3)
        pen.text(x + 21, top - 13, name)
        x += 21 + text_width(name, 12) + 16


def draw_curves(rows: list[dict], path) -> Path:
    """One dict per epoch -> two panels: `total`, `loss...`, `L_...` on the left; `top1...`, `top5` and
    `mean` (shares of 1) on the right. Every row has `epoch`; any other key may be missing."""
    def number(value):
        return isinstance(value, (int, float)) and math.isfinite(value)

    def lines(wanted, unit=1):
        names = dict.fromkeys(name for row in rows for name in row if wanted(name))
        return {name: [(row["epoch"], unit * row[name]) for row in rows if number(row.get(name))]
                for name in names}

    losses = lines(lambda name: name in ("total", "loss") or name.startswith(("L_", "loss/")))
    accuracies = lines(lambda name: name.split("/")[0] in ("top1", "top5", "mean"), 100)
    pen = Pen(1100, 440)
    draw_panel(pen, (60, 70, 510, 380), losses, "training loss")
    draw_panel(pen, (620, 70, 1070, 380), accuracies, "held-out accuracy, %", high=100)
    return pen.save(path)


def draw_bars(rows: list[tuple], path, title: str = "top-1 accuracy, %") -> Path:
    """rows: (name, mean, spread, paper), all in percent -> horizontal bars; the spread (standard
    deviation) as a whisker, the paper's figure as a diamond; either may be None."""
    room = min(max([text_width(str(row[0]), 14) for row in rows] + [60]), 330)
    left, right, top, step = room + 30, room + 650, 64, 34
    height = top + step * len(rows) + 52
    pen = Pen(right + 150, height)
    spot = lambda value: left + (right - left) * min(max(value, 0), 100) / 100
    pen.text(14, 22, title, size=16)
    for value in range(0, 101, 20):
        pen.line([(spot(value), top - 6), (spot(value), height - 46)])
        pen.text(spot(value), height - 36, str(value), GREY, anchor="mm")
    for i, (name, mean, spread, paper) in enumerate(rows):
        y = top + step * (i + 0.5)
        pen.text(left - 10, y, shorten(str(name), 14, room), size=14, anchor="rm")
        pen.box(left, y - 9, spot(mean), y + 9, SERIES[0])
        if spread:
            low, high = spot(mean - spread), spot(mean + spread)
            for x, y0, u, y1 in ((low, y, high, y), (low, y - 5, low, y + 5), (high, y - 5, high, y + 5)):
                pen.line([(x, y0), (u, y1)], INK, 1.5)
        if paper is not None:
            pen.diamond(spot(paper), y, SERIES[1])
        pen.text(right + 14, y, f"{mean:.1f}" + (f" ± {spread:.1f}" if spread is not None else ""), size=13)
    pen.diamond(left + 6, height - 14, SERIES[1])
    pen.text(left + 18, height - 14, "the paper's figure; whisker: standard deviation over seeds", GREY)
    return pen.save(path)
