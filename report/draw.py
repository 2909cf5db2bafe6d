"""The pictures: confusion matrices, curves of a run, bars of the toy lab, strips of attention.

Arrays and texts in, a PNG out, written whole or not at all; no model is known here.

    picture                                        here             tests/test_eval.py
    a confusion matrix                             draw_confusion   test_confusion_is_drawn
    losses and accuracies of a run, by epoch       draw_curves      test_curves_and_bars_are_drawn
    a table of the toy lab beside the paper's      draw_bars        test_curves_and_bars_are_drawn
    attention before and after P2V, as in Fig. 1c  draw_strip       test_strips_are_drawn
"""
from __future__ import annotations

import itertools
import math
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pose import draw_skeleton
from support.files import atomic

# ---- Colours, text, axes -------------------------------------------------------------------------
INK, GREY, RULE = (32, 36, 44), (104, 110, 122), (222, 225, 230)
SERIES = ((0, 101, 178), (213, 94, 0), (0, 146, 108), (153, 79, 161), (214, 150, 0), (70, 170, 220),
          (90, 90, 90))
# Anchors of colour scales, even steps in lightness: counts (white to blue), heat (black to white).
BLUES = ((250, 252, 255), (214, 228, 242), (158, 198, 224), (90, 155, 204), (37, 107, 174),
         (8, 56, 116))
HEAT = ((0, 0, 4), (40, 17, 89), (99, 26, 128), (158, 47, 127), (214, 69, 108), (246, 115, 92),
        (254, 175, 119), (252, 253, 191))


def colour(values, scale=HEAT) -> np.ndarray:
    """values in [0, 1], any shape -> uint8 (..., 3), linear between the anchors of `scale`."""
    x, places = np.nan_to_num(np.asarray(values, np.float64)), np.linspace(0, 1, len(scale))
    return np.stack([np.interp(x, places, c) for c in zip(*scale)], -1).round().astype(np.uint8)


@lru_cache(None)
def font(size: int):
    return ImageFont.load_default(size=size)


def text_width(text: str, size: int) -> int:
    return math.ceil(font(size).getlength(text))


def shorten(text: str, size: int, width: int) -> str:
    """`text`, its middle left out if it is wider than `width`: labels often differ at the end."""
    kept, short = len(text), text
    while kept > 2 and text_width(short, size) > width:
        kept -= 1
        short = f"{text[:kept - kept // 2].rstrip()} .. {text[len(text) - kept // 2:].lstrip()}"
    return short


def save_png(image: Image.Image, path) -> Path:
    with atomic(path) as part:
        image.save(part, "PNG")
    return Path(path)


class Pen:
    """Draws in the coordinates of the finished picture on a canvas twice as large: smooth lines."""

    def __init__(self, width: int, height: int):
        self.size, self.image = (width, height), Image.new("RGB", (width * 2, height * 2), "white")
        self.draw = ImageDraw.Draw(self.image)

    def text(self, x, y, words, tint=INK, size=12, anchor="lm"):
        self.draw.text((x * 2, y * 2), words, tint, font(size * 2), anchor)

    def line(self, points, tint=RULE, width=1.0):
        if len(points) > 1:
            self.draw.line([(x * 2, y * 2) for x, y in points], tint, round(width * 2), "curve")

    def box(self, left, top, right, bottom, tint):
        self.draw.rectangle([left * 2, top * 2, right * 2, bottom * 2], tint)

    def diamond(self, x, y, tint, r):
        corners = ((x, y - r), (x + r, y), (x, y + r), (x - r, y))
        self.draw.polygon([(u * 2, v * 2) for u, v in corners], tint)

    def save(self, path) -> Path:
        return save_png(self.image.resize(self.size, Image.Resampling.LANCZOS), path)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers that cover low .. high, 1, 2 or 5 times a power of ten apart."""
    span = max(high - low, 1e-9) / count
    base = 10.0 ** math.floor(math.log10(span))
    step = next(m * base for m in (1, 2, 5, 10) if m * base >= span * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


# ---- Confusion matrix, curves, bars --------------------------------------------------------------

def draw_confusion(confusion, labels: list[str], path, title: str = "") -> Path:
    """Rows = true, columns = predicted, shade = share of the row, counts where they fit a cell."""
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


def draw_panel(pen: Pen, box, series: dict, title: str, high: float = 0.0) -> None:
    """Axes, ticks, legend, a line per series (name -> [(x, y)]); box: left, top, right, bottom."""
    left, top, right, bottom = box
    points = [point for line in series.values() for point in line] or [(0, 0)]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_ticks, y_ticks = ticks(min(xs), max(xs), 6), ticks(min(0.0, *ys), max(high, 1e-3, *ys))
    x0, x1, y0, y1 = min(xs), max(max(xs), min(xs) + 1), y_ticks[0], y_ticks[-1]
    across = lambda x: left + (x - x0) / (x1 - x0) * (right - left)
    down = lambda y: bottom - (y - y0) / (y1 - y0) * (bottom - top)
    for y in y_ticks:
        pen.line([(left, down(y)), (right, down(y))], GREY if y == y0 else RULE)
        pen.text(left - 8, down(y), f"{y:g}", GREY, anchor="rm")
    for x in [x for x in x_ticks if x == int(x) and x0 <= x <= max(xs)] or [x0]:
        pen.line([(across(x), bottom), (across(x), bottom + 4)], GREY)
        pen.text(across(x), bottom + 14, f"{x:g}", GREY, anchor="mm")
    pen.text(left, top - 34, title, size=15)
    pen.text((left + right) / 2, bottom + 32, "epoch", GREY, anchor="mm")
    legend = left
    for (name, line), tint in zip(series.items(), itertools.cycle(SERIES)):
        spots = [(across(x), down(y)) for x, y in line]
        pen.line(spots, tint, 2)
        for spot in spots if len(spots) <= 60 else []:
            pen.diamond(*spot, tint, 3)
        pen.line([(legend, top - 13), (legend + 16, top - 13)], tint, 3)
        pen.text(legend + 21, top - 13, name)
        legend += 21 + text_width(name, 12) + 16


def draw_curves(rows: list[dict], path) -> Path:
    """One dict per epoch -> two panels: `total`, `loss...`, `L_...` on the left; `top1...`, `top5`,
    `mean` (shares of 1) on the right. Every row has `epoch`; any other key may be missing."""
    def lines(wanted, unit=1):
        names = dict.fromkeys(name for row in rows for name in row if wanted(name))
        return {name: [(row["epoch"], unit * row[name]) for row in rows
                       if row.get(name) is not None and math.isfinite(row[name])] for name in names}

    pen = Pen(1100, 440)
    losses = lines(lambda name: name == "total" or name.startswith(("L_", "loss")))
    accuracies = lines(lambda name: name.split("/")[0] in ("top1", "top5", "mean"), 100)
    draw_panel(pen, (60, 70, 510, 380), losses, "training loss")
    draw_panel(pen, (620, 70, 1070, 380), accuracies, "held-out accuracy, %", high=100)
    return pen.save(path)


def draw_bars(rows: list[tuple], path, title: str = "top-1 accuracy, %") -> Path:
    """rows: (name, mean, spread, paper), all in percent -> horizontal bars; the spread (standard
    deviation) as a whisker, the paper's figure as a diamond; either may be None."""
    room = min(max([text_width(str(row[0]), 14) for row in rows] + [60]), 330)
    left, right, top, step = room + 30, room + 650, 64, 34
    height = top + step * len(rows) + 52
    pen, spot = Pen(right + 150, height), lambda value: left + 6.2 * min(max(value, 0), 100)
    pen.text(14, 22, title, size=16)
    for value in range(0, 101, 20):
        pen.line([(spot(value), top - 6), (spot(value), height - 46)])
        pen.text(spot(value), height - 36, str(value), GREY, anchor="mm")
    for i, (name, mean, spread, paper) in enumerate(rows):
        y, plus = top + step * (i + 0.5), "" if spread is None else f" ± {spread:.1f}"
        pen.text(left - 10, y, shorten(str(name), 14, room), size=14, anchor="rm")
        pen.text(right + 14, y, f"{mean:.1f}{plus}", size=13)
        pen.box(left, y - 9, spot(mean), y + 9, SERIES[0])
        if spread:
            low, high = spot(mean - spread), spot(mean + spread)
            for ends in ([(low, y), (high, y)], *([(u, y - 5), (u, y + 5)] for u in (low, high))):
                pen.line(ends, INK, 1.5)
        if paper is not None:
            pen.diamond(spot(paper), y, "white", 8)
            pen.diamond(spot(paper), y, SERIES[1], 6)
    pen.diamond(left + 6, height - 14, SERIES[1], 6)
    pen.text(left + 18, height - 14, "the paper; whisker: standard deviation over seeds", GREY)
    return pen.save(path)


# ---- Strips: what the model looked at, as in Fig. 1c ---------------------------------------------
CELL, MARGIN, HEAD = 124, 112, 44              # pixels: side of a frame, room for row names, title
STRIP_ROWS = {"frames": "frames", "skeleton": "pose", "patch_weight": "patch weight\nEq. (1)",
              "before": "attention\nbefore P2V", "after": "attention\nafter P2V"}


def strip_cell(name: str, clip: dict, i: int) -> Image.Image:
    """One picture of a strip, row `name`, video frame i. Maps are scaled to their largest value."""
    frame = Image.fromarray(clip["frames"][i]).resize((CELL, CELL), Image.Resampling.BICUBIC)
    if name == "frames":
        return frame
    grey = np.asarray(frame.convert("L"))[..., None] * np.ones(3)
    if name == "skeleton":
        dark, pixels = Image.fromarray((0.45 * grey).astype(np.uint8)), clip["keypoints"][i]
        return draw_skeleton(dark, (pixels + 1) / 2 * CELL - 0.5, clip["scores"][i], clip["joints"])
    values = np.asarray(clip["maps"][name][i], np.float32)
    values = (values / max(values.max(), 1e-12)).reshape(2 * [math.isqrt(len(values))])
    small = Image.fromarray(values)
    share = np.clip(np.asarray(small.resize(frame.size, Image.Resampling.BILINEAR)), 0, 1)
    opaque = 0.15 + 0.75 * share[..., None]
    return Image.fromarray(((1 - opaque) * 0.6 * grey + opaque * colour(share)).astype(np.uint8))


def draw_strip(clips: list[dict], path, columns: int = 8) -> Path:
    """One picture of a few clips: frames, pose, patch weight, attention before and after P2V.

    A clip: said (text), right (bool or None), frames (Tv, S, S, 3) uint8, keypoints (Tv, J, 2) in
    [-1, 1], scores (Tv, J), joints, maps (name -> (Tv, N)). What is not there has no row.
    """
    step, top, columns = CELL + 3, 0, min(columns, max(len(c["frames"]) for c in clips))
    there = [{"frames", *c["maps"], *["skeleton"] * bool((c["scores"] > 0).any())} for c in clips]
    rows = [[name for name in STRIP_ROWS if name in names] for names in there]
    size = MARGIN + step * columns + 8, sum(HEAD + step * len(names) + 10 for names in rows)
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for clip, names in zip(clips, rows):
        tint = INK if clip["right"] is None else SERIES[2] if clip["right"] else SERIES[1]
        draw.rectangle([10, top + 12, 15, top + 34], tint)
        said, Tv = shorten(clip["said"], 16, size[0] - 40), len(clip["frames"])
        draw.text((24, top + 23), said, INK, font(16), anchor="lm")
        for y, name in enumerate(names):
            place = top + HEAD + y * step
            draw.multiline_text((MARGIN - 10, place + CELL / 2), STRIP_ROWS[name], GREY, font(13),
                                anchor="rm", align="right")
            for x, i in enumerate(np.linspace(0, Tv - 1, min(columns, Tv)).round().astype(int)):
                image.paste(strip_cell(name, clip, int(i)), (MARGIN + x * step, place))
        top += HEAD + step * len(names) + 10
    return save_png(image, path)
