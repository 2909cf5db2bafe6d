"""The figures of the page: charts as inline SVG, pictures as data URIs, heat maps as tables.

here         | what it draws                                             | tests/test_page.py
picture      | a picture inside the file                                 | test_nothing_is_fetched
line_chart   | lines with a legend and axes                              | test_page_is_well_formed
interval_bars | accuracies, their intervals, the paper's figures         | test_headline_*
film         | a clip: frames, pose, patch weights, attention (Fig. 1c)  | test_films_*
heat_map     | frames x words of a clip (Fig. 3b)                        | test_heat_map_*

Arrays and texts in, HTML out; no model is known here. Shapes: T pose frames, Tv video frames, N
patches, W words. Colours come from the style's names, so that charts follow light and dark.
"""
import base64
import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from report.draw import CELL, HEAT, Axes, colour, rows_of, shown_as, strip_cell, ticks
from report.markup import Html, scroller, tag
from report.wording import between, percent

GAP = 2                                           # pixels between the frames of a film
GREY = (128, 128, 128)                            # of the gaps: neither light nor dark

# Lines differ by their dashes too, for readers who do not tell the colours apart.
DASHES = ("none", "7 3", "2 3", "9 3 2 3", "4 2", "1 2", "12 4")


# ---- Pictures ------------------------------------------------------------------------------------

def picture(image, alt, kind="PNG"):
    """An <img> that holds the picture itself. kind: PNG for flat colours, JPEG for photographs."""
    # loading="lazy": a browser decodes what is scrolled to, so that many pictures open at once.
    buffer = io.BytesIO()
    if kind == "JPEG":
        image.convert("RGB").save(buffer, "JPEG", quality=84)
    else:
        image.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return tag("img", src=f"data:image/{kind.lower()};base64,{data}", alt=alt,
               width=image.width, height=image.height, loading="lazy")


def figure(content, caption):
    """A figure with its caption below."""
    return tag("figure", content, tag("figcaption", caption))


def bar(share):
    """A small horizontal bar, 0 to 1; what it shows is said in a cell beside it."""
    inside = tag("i", style=f"width:{100 * share:.1f}%")
    return tag("span", inside, class_="bar", aria_hidden="true")


# ---- Charts --------------------------------------------------------------------------------------

WIDTH = 460                                       # of a chart in its own units; the page scales it
LINES = 7                                         # colours of lines that the style has


def tint(number):
    """The colour of line `number`, by its name in the style."""
    return f"var(--s{number % LINES})"


def stroke(x1, y1, x2, y2, **how):
    """A straight line."""
    return tag("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", **how)


def words_at(x, y, said, anchor="start"):
    """A text. anchor: which end of it lies at x."""
    return tag("text", said, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def legend(names):
    """The names of a chart's lines, each behind a piece of its line."""
    entries = []
    for number, name in enumerate(names):
        piece = stroke(0, 4, 24, 4, class_="line", stroke=tint(number),
                       stroke_dasharray=DASHES[number % LINES])
        sample = tag("svg", piece, viewBox="0 0 24 8", aria_hidden="true")
        entries.append(tag("span", sample, name))
    return tag("div", entries, class_="legend")


def chart_axes(points, high, low, height):
    """Where a chart's numbers lie: an `Axes` that holds all points and low .. high."""
    # The y axis ends at round numbers, the x axis at the first and the last point.
    xs = [x for x, _ in points]
    ys = [y for _, y in points]
    marks = ticks(min(low, *ys), max(high, *ys))
    first = min(xs)
    last = max(xs)
    return Axes(left=46, right=WIDTH - 14, bottom=height - 40, top=12,
                x0=first, x1=max(last, first + 1),        # after one epoch there is an axis, too
                y0=marks[0], y1=marks[-1])


def grid_of(axes, x_name, height):
    """The lines and numbers behind a chart."""
    parts = []
    for mark in ticks(axes.y0, axes.y1):
        y = axes.down(mark)
        parts.append(stroke(axes.left, y, axes.right, y, class_="axis"))
        parts.append(words_at(axes.left - 7, y + 4, f"{mark:g}", "end"))
    for mark in ticks(axes.x0, axes.x1):
        if axes.x0 <= mark <= axes.x1 and mark == int(mark):      # steps and epochs are whole
            parts.append(words_at(axes.across(mark), axes.bottom + 17, f"{mark:g}", "middle"))
    middle = (axes.left + axes.right) / 2
    parts.append(words_at(middle, height - 6, x_name, "middle"))
    return parts


def line_of(axes, points, number):
    """One line of a chart, with a dot at each point where there are few."""
    # One decimal of a unit is finer than a pixel, and keeps the file small.
    spots = [(axes.across(x), axes.down(y)) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    parts = [tag("polyline", class_="line", points=path, stroke=tint(number),
                 stroke_dasharray=DASHES[number % LINES])]
    if len(spots) <= 40:                          # more of them would hide the line
        for x, y in spots:
            parts.append(tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=2.6, fill=tint(number)))
    return parts


def line_chart(series, title, x_name, high=0.0, low=0.0):
    """A chart of lines, name -> [(x, y)]; None where there is nothing to draw.

    The y axis holds at least low .. high. The last value of each line is in the text that stands
    for the picture where it is not seen.
    """
    lines = {}
    points = []
    for name, line in series.items():
        if line:
            lines[name] = line
            points += line
    if not points:
        return None

    height = 270
    axes = chart_axes(points, high, low, height)
    parts = grid_of(axes, x_name, height)
    ends = []
    for number, (name, line) in enumerate(lines.items()):
        parts += line_of(axes, line, number)
        ends.append(f"{name} {line[-1][1]:.4g}")

    said = f"{title}, last values: {', '.join(ends)}"
    drawing = tag("svg", parts, viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=said)
    return tag("figure", tag("figcaption", title), legend(lines), drawing)


def curve(rows, key, x, unit=1.0):
    """One value of a run's log as [(x, unit * value)]; rows that lack it are left out."""
    found = []
    for row in rows:
        value = row.get(key)
        if isinstance(value, (int, float)) and math.isfinite(value):
            found.append((row[x], unit * value))
    return found


def curves(rows, wanted, x, unit=1.0):
    """All values of a log whose name is `wanted`: name -> [(x, unit * value)]."""
    found = {}
    for row in rows:
        for name in row:
            if wanted(name) and name not in found:
                found[name] = curve(rows, name, x, unit)
    return found


@dataclass
class Bar:
    """An accuracy in a chart of intervals; shares of 1."""
    name: str
    share: float
    low: float | None = None                      # the interval; None: not drawn
    high: float | None = None
    paper: float | None = None                    # the paper's figure; None: none
    whisker: str = "interval"                     # what low and high are, in words

    @property
    def said(self):
        """The same in words."""
        words = f"{self.name} {percent(self.share)}"
        if self.low is not None:
            words += f", {self.whisker} {between(self.low, self.high)}"
        if self.paper is not None:
            words += f", the paper {percent(self.paper)}"
        return words


def bar_parts(one, axes, y):
    """A bar at height y: its name above, the interval as a whisker, the paper's as a diamond."""
    # The name stands above its bar and not beside it, so that a phone has the width for the bar.
    end = axes.across(one.share)
    parts = [words_at(axes.left + 4, y - 11, one.name),
             stroke(axes.left, y, end, y, stroke="var(--s0)", stroke_width=9)]
    if one.low is not None:
        low = axes.across(one.low)
        high = axes.across(one.high)
        for x1, y1, x2, y2 in ((low, y, high, y), (low, y - 7, low, y + 7),
                               (high, y - 7, high, y + 7)):
            parts.append(stroke(x1, y1, x2, y2, stroke="var(--ink)", stroke_width=1.6))
    if one.paper is not None:
        x = axes.across(one.paper)
        corners = f"{x:.1f},{y - 7} {x + 7:.1f},{y} {x:.1f},{y + 7} {x - 7:.1f},{y}"
        parts.append(tag("polygon", points=corners, fill="var(--s1)", stroke="var(--paper)"))
    return parts


def interval_bars(bars):
    """Accuracies from 0 to 100 %, one below the other. bars: Bar."""
    step = 44                                     # from one bar to the next
    height = step * len(bars) + 26
    axes = Axes(left=8, right=WIDTH - 12, bottom=height - 22, top=0, x0=0, x1=1, y0=0, y1=1)
    parts = []
    for mark in (0, 0.2, 0.4, 0.6, 0.8, 1):
        x = axes.across(mark)
        parts.append(stroke(x, axes.top, x, axes.bottom, class_="axis"))
        parts.append(words_at(x, height - 6, f"{100 * mark:g}", "middle"))
    for number, one in enumerate(bars):
        parts += bar_parts(one, axes, step * number + 28)
    said = "; ".join(one.said for one in bars)
    return tag("svg", parts, viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=said)


# ---- Clips: Fig. 1c ------------------------------------------------------------------------------

# Rows of a film: what the strip calls them, and what is written beside them.
FILM_ROWS = {
    "frames": "frames",
    "skeleton": "pose",
    "patch_weight": "patch weight M, Eq. (1)",
    "before": "attention before P2V",
    "after": "attention after P2V",
    "attention": "attention",
}


def film_row(name, strip, columns):
    """One row of a film as a picture: at most `columns` frames, evenly spread over the clip."""
    Tv = len(strip["frames"])
    shown = np.linspace(0, Tv - 1, min(columns, Tv))
    shown = shown.round().astype(int)             # indices of video frames
    step = CELL + GAP
    row = Image.new("RGB", (step * len(shown) - GAP, CELL), GREY)
    for place, i in enumerate(shown):
        row.paste(strip_cell(name, strip, int(i)), (place * step, 0))
    return row


def film_cells(said, name, strip, columns):
    """A row of a film: its name, and its picture."""
    image = film_row(name, strip, columns)
    return [tag("span", said), picture(image, f"{said}, over time", "JPEG")]


def film(strip, rivals=(), columns=8):
    """A clip as rows of pictures: what there is of frames, pose, weights and attention.

    strip: as `report.draw.draw_strip` wants it. rivals: (name, strip) of other models that saw the
    same clip; of each, the attention that its class token ends with is shown.
    """
    # Each row is one picture: a browser would space eight of them differently in every row.
    cells = []
    for name in rows_of(strip):
        cells += film_cells(FILM_ROWS[shown_as(name, strip)], name, strip, columns)

    for rival, other in rivals:
        last = [name for name in ("after", "attention", "before") if name in other["maps"]]
        if last:
            cells += film_cells(f"attention of {rival}", last[0], other, columns)
    return scroller("frames of the clip and what was looked at", tag("div", cells, class_="film"))


# ---- Frames x words: Fig. 3b ---------------------------------------------------------------------

def shade(values, low, high):
    """Values between low and high as the colours of a heat map, uint8 (..., 3)."""
    return colour((np.asarray(values) - low) / max(high - low, 1e-9), HEAT)


def scale(low, high):
    """What the colours mean."""
    ramp = Image.fromarray(shade(np.linspace(0, 1, 64)[None], 0, 1))
    return tag("div", f"cosine {low:.2f}", picture(ramp, "from dark to bright"), f"{high:.2f}",
               class_="scale")


def heat_row(column, word, low, high):
    """One word of a heat map. column: (T,) cosines of the frames with it."""
    # The picture shows where, the text beside it how much: neither needs the other to be seen.
    T = len(column)
    best = int(column.argmax())
    said = f"{column[best]:.2f} at frame {best + 1}"
    alt = f"cosine of “{word}” with frames 1 to {T}, highest {said}"
    line = Image.fromarray(shade(column[None], low, high))         # (1, T, 3): a pixel a frame
    return tag("tr",
               tag("th", word, scope="row", title=word),
               tag("td", picture(line, alt)),
               tag("td", said, class_="best"))


def heat_map(matrix, words, text, low, high):
    """A row for each word, from left to right the frames: how well the moment meets the word.

    matrix: (T, W) cosines. words: W texts. text: the label they are of. low, high: cosines of the
    darkest and the brightest colour, so that two maps can be compared.
    """
    matrix = np.asarray(matrix)
    T = len(matrix)
    head = tag("tr",
               tag("th", "word", scope="col"),
               tag("th", "frames", scope="col"),
               tag("th", "best met", scope="col", class_="best"))
    rows = []
    for w, word in enumerate(words):
        rows.append(heat_row(matrix[:, w], word, low, high))

    # The numbers of the first, the middle and the last frame, under the picture's own columns.
    numbers = [tag("span", number) for number in (1, (T + 1) // 2, T)]
    axis = tag("td", tag("div", numbers, class_="frames"))
    foot = tag("tr", tag("th", "frame", scope="row"), axis, Html("<td></td>"))
    inside = tag("table", tag("caption", text), tag("thead", head), tag("tbody", rows),
                 tag("tfoot", foot), class_="heat")
    return scroller(f"frames and words of {text}", inside)
