"""The pictures: confusion matrices, curves of a run, bars of the toy lab, strips of attention.

Arrays and texts in, a PNG out, written whole or not at all; no model is known here.

    picture                                        here             tests/test_draw.py
    a confusion matrix                             draw_confusion   test_confusion_is_drawn
    losses and accuracies of a run, by epoch       draw_curves      test_curves_are_drawn
    a table of the toy lab beside the paper's      draw_bars        test_bars_are_drawn
    attention before and after P2V, as in Fig. 1c  draw_strip       test_strips_are_drawn

Places and sizes are pixels, x to the right and y downwards; colours are (red, green, blue), 0 to
255. An anchor says which point of a text lies at the given place: l, m, r for its left end, middle
or right end, then m for the middle of its height, b for its bottom. Shapes: Tv video frames, J
joints, N patches of a frame (no class token), K labels.
"""
from __future__ import annotations

import itertools
import math
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pose import draw_skeleton
from support.files import atomic

# ---- Colours -------------------------------------------------------------------------------------

INK = (32, 36, 44)              # text
GREY = (104, 110, 122)          # text that stands back: numbers of axes, names of rows
RULE = (222, 225, 230)          # lines of grids

BLUE = (0, 101, 178)            # bars
ORANGE = (213, 94, 0)           # the paper's figures; clips that were answered wrongly
GREEN = (0, 146, 108)           # clips that were answered rightly

# The lines of a diagram, in this order.
SERIES = (BLUE, ORANGE, GREEN, (153, 79, 161), (214, 150, 0), (70, 170, 220), (90, 90, 90))

# Anchors of the colour scales. Lightness runs one way only, so that a picture printed in grey still
# tells more from less: BLUES, for counts, from white down; HEAT, for attention, from black up.
BLUES = ((250, 252, 255), (214, 228, 242), (158, 198, 224), (90, 155, 204), (37, 107, 174),
         (8, 56, 116))
HEAT = ((0, 0, 4), (40, 17, 89), (99, 26, 128), (158, 47, 127), (214, 69, 108), (246, 115, 92),
        (254, 175, 119), (252, 253, 191))


def colour(values, scale=HEAT) -> np.ndarray:
    """Values in [0, 1], any shape -> colours, uint8 (..., 3).

    Linear between the anchors of `scale`. Values outside take the colour of the nearer end; NaN
    counts as 0.
    """
    values = np.nan_to_num(np.asarray(values, np.float64))
    anchors = np.asarray(scale)                                    # (anchors, 3)
    places = np.linspace(0, 1, len(anchors))

    channels = []
    for channel in range(3):
        channels.append(np.interp(values, places, anchors[:, channel]))
    return np.stack(channels, axis=-1).round().astype(np.uint8)    # (...) -> (..., 3)


# ---- Text ----------------------------------------------------------------------------------------

@lru_cache(None)
def font(size: int):
    """The font that Pillow brings along, `size` pixels high: no font needs to be installed."""
    return ImageFont.load_default(size=size)


def text_width(text: str, size: int) -> int:
    """Width of one line of text in pixels, rounded up."""
    return math.ceil(font(size).getlength(text))


def widest(texts, size: int, least: int) -> int:
    """Width of the widest of these texts, and not less than `least`: room for a column of names."""
    width = least
    for text in texts:
        width = max(width, text_width(text, size))
    return width


def shorten(text: str, size: int, width: int) -> str:
    """`text`, its middle left out if it is wider than `width`: labels often differ at the end.

    As many characters stay as there is room for, but never fewer than two: the result may be wider
    than `width` where that is narrower than two characters and the dots.
    """
    if len(text) <= 2 or text_width(text, size) <= width:
        return text

    def both_ends(kept):
        head = text[:kept - kept // 2].rstrip()
        tail = text[len(text) - kept // 2:].lstrip()
        return f"{head} .. {tail}"

    # A character more never makes a text narrower, so the longest that fits is found by halving.
    # `fits` is a number of characters that fits, or 2; `wide` is one that does not.
    fits = 2
    wide = len(text)
    while wide - fits > 1:
        middle = (fits + wide) // 2
        if text_width(both_ends(middle), size) <= width:
            fits = middle
        else:
            wide = middle
    return both_ends(fits)


# ---- Drawing -------------------------------------------------------------------------------------

def save_png(image: Image.Image, path) -> Path:
    """Write `image`; after a failure `path` still holds what it held before."""
    with atomic(path) as part:
        image.save(part, "PNG")
    return Path(path)


class Pen:
    """Draws in the coordinates of the finished picture on a canvas twice as large.

    Pillow's lines have hard edges; halving the canvas at the end makes them smooth.
    """

    def __init__(self, width: int, height: int):
        self.size = (width, height)
        self.image = Image.new("RGB", (width * 2, height * 2), "white")
        self.draw = ImageDraw.Draw(self.image)

    def text(self, x, y, words, tint=INK, size=12, anchor="lm"):
        """One line of text, `size` pixels high."""
        self.draw.text((x * 2, y * 2), words, tint, font(size * 2), anchor)

    def line(self, points, tint=RULE, width=1.0):
        """A line through [(x, y), ...], `width` pixels wide; nothing for fewer than two points."""
        if len(points) < 2:
            return
        doubled = [(x * 2, y * 2) for x, y in points]
        self.draw.line(doubled, tint, round(width * 2), "curve")

    def box(self, left, top, right, bottom, tint):
        """A filled rectangle."""
        self.draw.rectangle([left * 2, top * 2, right * 2, bottom * 2], tint)

    def diamond(self, x, y, tint, r):
        """A filled square on its corner, `r` pixels from the middle to each corner."""
        corners = ((x, y - r), (x + r, y), (x, y + r), (x - r, y))
        self.draw.polygon([(u * 2, v * 2) for u, v in corners], tint)

    def save(self, path) -> Path:
        """Write the picture at its own size."""
        return save_png(self.image.resize(self.size, Image.Resampling.LANCZOS), path)


# ---- Confusion matrix ----------------------------------------------------------------------------

def name_rows_and_columns(image, names, left, top, cell, size):
    """Write a label before each row and, turned by a quarter, above each column of a matrix.

    left, top: corner of the matrix. cell: side of a cell. size: height of the letters.
    """
    draw = ImageDraw.Draw(image)
    letters = font(size)
    room = left - 24                              # as draw_confusion has left free for names
    for k, name in enumerate(names):
        middle = top + (k + 0.5) * cell
        draw.text((left - 7, middle), name, INK, letters, anchor="rm")

        # Pillow writes from left to right only, so a column's name gets a small picture of its own.
        column = Image.new("RGB", (room, cell), "white")
        lying = ImageDraw.Draw(column)
        lying.text((2, cell / 2), name, INK, letters, anchor="lm")
        upright = column.rotate(90, expand=True)
        image.paste(upright, (left + k * cell, top - room - 5))


def write_counts(draw, table, share, left, top, cell, size):
    """Write the counts that are not zero into their cells; a count wider than its cell is left out.

    table, share: (K, K), counts and what part of its row each is.
    """
    for row, column in np.argwhere(table):
        number = str(table[row, column])
        if text_width(number, size) > cell - 2:
            continue

        tint = INK
        if share[row, column] > 0.45:             # a dark cell
            tint = "white"
        x = left + (column + 0.5) * cell + 0.5
        y = top + (row + 0.5) * cell + 0.5
        draw.text((x, y), number, tint, font(size), anchor="mm")


def draw_confusion(confusion, labels: list[str], path, title: str = "") -> Path:
    """Rows = true, columns = predicted, shade = share of the row, counts where they fit a cell.

    confusion: (K, K) integers. labels: K texts, shortened to 400 pixels. The side of a cell falls
    from 44 to 13 pixels as K grows, and the letters with it.
    """
    table = np.asarray(confusion)
    K = len(labels)
    cell = min(max(1000 // max(K, 1), 13), 44)
    name_size = min(cell - 3, 15)
    number_size = min(int(cell * 0.45), 15)

    names = [shorten(label, name_size, 400) for label in labels]
    room = widest(names, name_size, least=90) + 12
    left = room + 24
    top = room + 24
    if title:
        top = room + 54
    side = cell * K
    right = left + side
    bottom = top + side

    width = max(right, text_width(title, 17)) + 24
    image = Image.new("RGB", (width, bottom + 16), "white")
    draw = ImageDraw.Draw(image)
    draw.text((12, 8), title, INK, font(17))
    draw.text((left - 7, top - 9), "true \\ predicted", GREY, font(12), anchor="rb")

    # One pixel a cell, then enlarged. The power lifts rare confusions out of the white: a share of
    # 1 % is drawn like 4 %.
    share = table / np.maximum(table.sum(1, keepdims=True), 1)     # rows without clips stay 0
    shades = Image.fromarray(colour(share ** 0.7, BLUES))
    shades = shades.resize((side, side), Image.Resampling.NEAREST)
    image.paste(shades, (left, top))

    name_rows_and_columns(image, names, left, top, cell, name_size)
    for k in range(K + 1):                        # the grid
        x = left + k * cell
        y = top + k * cell
        draw.line([(left, y), (right, y)], RULE)
        draw.line([(x, top), (x, bottom)], RULE)

    if number_size >= 8:                          # smaller figures cannot be read
        write_counts(draw, table, share, left, top, cell, number_size)
    return save_png(image, path)


# ---- Curves --------------------------------------------------------------------------------------

def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers that cover low .. high, 1, 2 or 5 times a power of ten apart.

    ticks(0, 0.93) = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = max(high - low, 1e-9) / count          # a step that gives exactly `count`
    digits = math.floor(math.log10(span))
    power = 10.0 ** digits

    # The next round step that is not smaller; the factor forgives rounding in the division above.
    step = 10 * power
    for round_number in (5, 2, 1):
        if round_number * power >= span * 0.999:
            step = round_number * power

    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    last = max(last, first + 1)                   # an axis has two ends
    return [round(i * step, 10) for i in range(first, last + 1)]


class Axes(NamedTuple):
    """Where a panel lies in the picture, and which numbers its edges stand for."""

    left: float                 # pixels
    right: float
    bottom: float
    top: float
    x0: float                   # the number at `left`
    x1: float                   # at `right`
    y0: float                   # at `bottom`
    y1: float                   # at `top`

    def across(self, x: float) -> float:
        """Pixel of the number x."""
        share = (x - self.x0) / (self.x1 - self.x0)
        return self.left + share * (self.right - self.left)

    def down(self, y: float) -> float:
        """Pixel of the number y."""
        share = (y - self.y0) / (self.y1 - self.y0)
        return self.bottom - share * (self.bottom - self.top)


def draw_axes(pen: Pen, box, points, high: float) -> Axes:
    """Lines and numbers of a panel into which all `points` fit, and where numbers lie in it.

    box: left, top, right, bottom. points: [(x, y)], not empty. high: the y axis reaches at least
    this far; it always holds 0.
    """
    left, top, right, bottom = box
    xs = [x for x, _ in points]
    ys = [y for _, y in points]
    first = min(xs)
    last = max(xs)
    x_ticks = ticks(first, last, 6)
    y_ticks = ticks(min(0.0, *ys), max(high, 1e-3, *ys))
    axes = Axes(
        left=left,
        right=right,
        bottom=bottom,
        top=top,
        x0=first,
        x1=max(last, first + 1),                  # after one epoch there is an axis, too
        y0=y_ticks[0],
        y1=y_ticks[-1],
    )

    for number in y_ticks:
        tint = RULE
        if number == axes.y0:                     # the lowest line is the x axis
            tint = GREY
        y = axes.down(number)
        pen.line([(left, y), (right, y)], tint)
        pen.text(left - 8, y, f"{number:g}", GREY, anchor="rm")

    # Epochs are whole numbers, and only those that were run are marked.
    whole = [x for x in x_ticks if x == int(x) and first <= x <= last]
    for number in whole or [first]:
        x = axes.across(number)
        pen.line([(x, bottom), (x, bottom + 4)], GREY)
        pen.text(x, bottom + 14, f"{number:g}", GREY, anchor="mm")
    return axes


def draw_panel(pen: Pen, box, series: dict, title: str, high: float = 0.0) -> None:
    """One diagram: axes, title, a line per series and its name in the legend.

    box: left, top, right, bottom. series: name -> [(epoch, value)], may be empty. high: the y axis
    reaches at least this far.
    """
    left, top, right, bottom = box
    points = []
    for line in series.values():
        points.extend(line)
    axes = draw_axes(pen, box, points or [(0, 0)], high)

    pen.text(left, top - 34, title, size=15)
    pen.text((left + right) / 2, bottom + 32, "epoch", GREY, anchor="mm")

    above = top - 13                              # where the legend is written
    legend = left                                 # where its next entry begins
    tints = itertools.cycle(SERIES)
    for name, line in series.items():
        tint = next(tints)
        spots = [(axes.across(x), axes.down(y)) for x, y in line]
        pen.line(spots, tint, 2)
        if len(spots) <= 60:                      # more of them would hide the line
            for x, y in spots:
                pen.diamond(x, y, tint, 3)

        pen.line([(legend, above), (legend + 16, above)], tint, 3)
        pen.text(legend + 21, above, name)
        legend += 21 + text_width(name, 12) + 16


def is_loss(name: str) -> bool:
    """Whether this value of a run's log is a loss: the total or one of its terms."""
    return name == "total" or name.startswith(("L_", "loss"))


def is_accuracy(name: str) -> bool:
    """Whether this value of a run's log is an accuracy, like `top1` or that of one similarity."""
    return name.split("/")[0] in ("top1", "top5", "mean")


def curves_of(rows: list[dict], wanted, unit: float) -> dict:
    """The values of a run's log whose name is `wanted`, times `unit`: name -> [(epoch, value)].

    A value that is missing, None or not finite has no point: the line goes on to the next one.
    """
    curves = {}
    for row in rows:
        for name, value in row.items():
            if not wanted(name):
                continue
            curve = curves.setdefault(name, [])
            if value is not None and math.isfinite(value):
                curve.append((row["epoch"], unit * value))
    return curves


def draw_curves(rows: list[dict], path) -> Path:
    """Losses and held-out accuracies of a run by epoch, side by side.

    rows: one dict for each epoch, which has `epoch`; any other key may be missing: `total`,
    `loss...`, `L_...` are losses; `top1...`, `top5...`, `mean...` accuracies as shares of 1, drawn
    in percent. What else is in a row is not drawn.
    """
    pen = Pen(1100, 440)
    losses = curves_of(rows, is_loss, unit=1)
    accuracies = curves_of(rows, is_accuracy, unit=100)
    left_half = (60, 70, 510, 380)
    right_half = (620, 70, 1070, 380)
    draw_panel(pen, left_half, losses, "training loss")
    draw_panel(pen, right_half, accuracies, "held-out accuracy, %", high=100)
    return pen.save(path)


# ---- Bars ----------------------------------------------------------------------------------------

class BarChart:
    """A chart of horizontal bars from 0 to 100 %, filled from the top one bar after the other."""

    STEP = 34                                     # from one bar to the next

    def __init__(self, title: str, names: list[str]):
        self.room = min(widest(names, 14, least=60), 330)          # for the names
        self.left = self.room + 30                                 # 0 %
        self.right = self.room + 650                               # 100 %
        top = 64
        bottom = top + self.STEP * len(names)
        self.y = top + self.STEP / 2                               # middle of the next bar
        self.height = bottom + 52
        self.pen = Pen(self.right + 150, self.height)

        self.pen.text(14, 22, title, size=16)
        for percent in range(0, 101, 20):
            x = self.spot(percent)
            self.pen.line([(x, top - 6), (x, bottom + 6)])
            self.pen.text(x, bottom + 16, str(percent), GREY, anchor="mm")

    def spot(self, percent: float) -> float:
        """Pixel of a figure; what lies outside 0 to 100 is drawn at the end."""
        return self.left + 6.2 * min(max(percent, 0), 100)

    def add(self, name: str, mean: float, spread: float | None, paper: float | None):
        """One bar; arguments as in `draw_bars`."""
        y = self.y
        figure = f"{mean:.1f}"
        if spread is not None:
            figure += f" ± {spread:.1f}"
        short = shorten(name, 14, self.room)
        self.pen.text(self.left - 10, y, short, size=14, anchor="rm")
        self.pen.text(self.right + 14, y, figure, size=13)
        self.pen.box(self.left, y - 9, self.spot(mean), y + 9, BLUE)

        if spread:                                # None or 0: no whisker
            low = self.spot(mean - spread)
            high = self.spot(mean + spread)
            self.pen.line([(low, y), (high, y)], INK, 1.5)
            self.pen.line([(low, y - 5), (low, y + 5)], INK, 1.5)
            self.pen.line([(high, y - 5), (high, y + 5)], INK, 1.5)

        if paper is not None:
            x = self.spot(paper)
            self.pen.diamond(x, y, "white", 8)    # a rim that sets it off from the bar
            self.pen.diamond(x, y, ORANGE, 6)
        self.y += self.STEP


def draw_bars(rows: list[tuple], path, title: str = "top-1 accuracy, %") -> Path:
    """Horizontal bars, one a row, each with the paper's figure on it.

    rows: (name, mean, spread, paper), figures in percent. spread: the standard deviation over
    seeds, drawn as a whisker; paper: its figure, drawn as a diamond. Either may be None.
    """
    chart = BarChart(title, [str(row[0]) for row in rows])
    for name, mean, spread, paper in rows:
        chart.add(str(name), mean, spread, paper)

    y = chart.height - 14
    chart.pen.diamond(chart.left + 6, y, ORANGE, 6)
    said = "the paper; whisker: standard deviation over seeds"
    chart.pen.text(chart.left + 18, y, said, GREY)
    return chart.pen.save(path)


# ---- Strips: what the model looked at, as in Fig. 1c ---------------------------------------------

CELL = 124                                        # side of a frame
STEP = CELL + 3                                   # from one frame to the next
MARGIN = 112                                      # room for the names of rows
HEAD = 44                                         # room for a clip's title
FOOT = 10                                         # below a clip's last row

# Rows from the top: what `draw_strip` calls them, and what is written beside them.
STRIP_ROWS = {
    "frames": "frames",
    "skeleton": "pose",
    "patch_weight": "patch weight\nEq. (1)",
    "before": "attention\nbefore P2V",
    "after": "attention\nafter P2V",
    "attention": "attention",   # of a system without P2V
}


def draw_heat(grey, values) -> Image.Image:
    """A picture with a map of its patches over it: the more, the brighter and the less transparent.

    grey: (CELL, CELL, 3), 0 to 255. values: (N,), N a square number, at least 0; scaled to their
    largest, so that each picture uses the whole scale and two of them are not comparable.
    """
    values = np.asarray(values, np.float32)
    values = values / max(values.max(), 1e-12)                     # all zero stays all zero
    side = math.isqrt(len(values))
    patches = Image.fromarray(values.reshape(side, side))          # (N,) -> (rows, columns)
    smooth = patches.resize((CELL, CELL), Image.Resampling.BILINEAR)
    share = np.clip(np.asarray(smooth), 0, 1)                      # (CELL, CELL)

    opaque = 0.15 + 0.75 * share[..., None]
    frame = (1 - opaque) * 0.6 * grey
    heat = opaque * colour(share)
    mixed = frame + heat
    return Image.fromarray(mixed.astype(np.uint8))


def strip_cell(name: str, clip: dict, i: int) -> Image.Image:
    """One picture of a strip: row `name` of STRIP_ROWS, video frame `i`; clip as in draw_strip."""
    frame = Image.fromarray(clip["frames"][i])
    frame = frame.resize((CELL, CELL), Image.Resampling.BICUBIC)
    if name == "frames":
        return frame

    grey = np.asarray(frame.convert("L"))                          # (CELL, CELL)
    grey = grey[..., None] * np.ones(3)                            # -> (CELL, CELL, 3)
    if name == "skeleton":
        dark = (0.45 * grey).astype(np.uint8)
        # [-1, 1] runs from edge to edge; Pillow's 0 is the middle of the first pixel.
        pixels = (clip["keypoints"][i] + 1) / 2 * CELL - 0.5       # (J, 2)
        scores = clip["scores"][i]
        return draw_skeleton(Image.fromarray(dark), pixels, scores, clip["joints"])
    return draw_heat(grey, clip["maps"][name][i])


def rows_of(clip: dict) -> list[str]:
    """Names of the rows that a clip has something for, in the order of STRIP_ROWS."""
    there = {"frames"}
    there.update(clip["maps"])
    if (clip["scores"] > 0).any():
        there.add("skeleton")
    return [name for name in STRIP_ROWS if name in there]


def shown_as(name, clip):
    """The row whose words stand beside row `name`: attention before P2V is plain attention where
    there is no P2V."""
    if name == "before" and "after" not in clip["maps"]:
        return "attention"
    return name


def clip_colour(right: bool | None):
    """Colour of the mark before a clip's title: right, wrong, or nobody knows (None)."""
    if right is None:
        return INK
    if right:
        return GREEN
    return ORANGE


def draw_strip(clips: list[dict], path, columns: int = 8) -> Path:
    """One picture of a few clips: frames, pose, patch weight, attention before and after P2V.

    columns: of how many frames, spread evenly over the clip, the picture shows at most. A clip has

        said       the line above its pictures
        right      whether the answer was; None: nobody knows
        frames     (Tv, S, S, 3) uint8
        keypoints  (Tv, J, 2) in [-1, 1], x and y
        scores     (Tv, J), 0 = not seen
        joints     the J names
        maps       `patch_weight` (M of Eq. (1)), `before`, `after`, of systems other than PeVL
                   `attention`: (Tv, N); any may be missing

    What is not there has no row.
    """
    longest = max(len(clip["frames"]) for clip in clips)
    columns = min(columns, longest)
    width = MARGIN + STEP * columns + 8
    height = 0
    for clip in clips:
        height += HEAD + STEP * len(rows_of(clip)) + FOOT
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)

    y = 0                                         # everything above is drawn
    for clip in clips:
        draw.rectangle([10, y + 12, 15, y + 34], clip_colour(clip["right"]))
        said = shorten(clip["said"], 16, width - 40)
        draw.text((24, y + 23), said, INK, font(16), anchor="lm")
        y += HEAD

        Tv = len(clip["frames"])
        shown = np.linspace(0, Tv - 1, min(columns, Tv))
        shown = shown.round().astype(int)                          # indices of video frames
        for name in rows_of(clip):
            draw.multiline_text(
                (MARGIN - 10, y + CELL / 2),
                STRIP_ROWS[shown_as(name, clip)],
                fill=GREY,
                font=font(13),
                anchor="rm",
                align="right",
            )
            x = MARGIN
            for i in shown:
                image.paste(strip_cell(name, clip, i), (x, y))
                x += STEP
            y += STEP
        y += FOOT
    return save_png(image, path)
