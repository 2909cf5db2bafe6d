"""The figures of the page: charts as inline SVG, pictures as data URIs, heat maps as tables.

here         | what it draws                                             | tests/test_page.py
picture      | a picture inside the file                                 | test_nothing_is_fetched
line_chart   | lines with a legend and axes                              | test_page_is_well_formed
interval_bar | an accuracy, its interval, the paper's figure             | test_headline_*
film         | a clip: frames, pose, patch weights, attention (Fig. 1c)  | test_films_*
heat_map     | frames x words of a clip (Fig. 3b)                        | test_heat_map_*

Arrays and texts in, HTML out; no model is known here. Shapes: T pose frames, Tv video frames, N
patches, W words. Colours come from the style's names, so that charts follow light and dark.
"""
import base64
import io

import numpy as np
from PIL import Image

from report.draw import CELL, HEAT, colour, rows_of, strip_cell, ticks
from report.markup import Html, percent, scroller, tag

GAP = 2                                           # pixels between the frames of a film
GREY = (128, 128, 128)                            # of the gaps: neither light nor dark

# Lines differ by their dashes too, for readers who do not tell the colours apart.
DASHES = ("none", "7 3", "2 3", "9 3 2 3", "4 2", "1 2", "12 4")


# ---- Pictures ------------------------------------------------------------------------------------

def picture(image, alt, kind="PNG"):
    """An <img> that holds the picture itself. kind: PNG for flat colours, JPEG for photographs."""
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

def legend(names):
    """The names of a chart's lines, each behind a piece of its line."""
    entries = []
    for number, name in enumerate(names):
        line = tag("line", class_="line", x1=0, x2=24, y1=4, y2=4, stroke=f"var(--s{number % 7})",
                   stroke_dasharray=DASHES[number % 7])
        sample = tag("svg", line, class_="swatch", viewBox="0 0 24 8", aria_hidden="true")
        entries.append(tag("span", sample, name))
    return tag("div", entries, class_="legend")


def line_chart(series, title, x_name, high=0.0, low=0.0):
    """A chart of lines: name -> [(x, y)]; the y axis holds at least low .. high. None without data.

    The last value of each line stands in the text that is read out in place of the picture.
    """
    series = {name: line for name, line in series.items() if line}
    points = [point for line in series.values() for point in line]
    if not points:
        return None
    width, height = 460, 270
    left, right, top, bottom = 46, width - 14, 12, height - 40
    xs = [x for x, _ in points]
    ys = [y for _, y in points]
    x0, x1 = min(xs), max(max(xs), min(xs) + 1)
    y_marks = ticks(min(low, *ys), max(high, *ys))
    y0, y1 = y_marks[0], y_marks[-1]

    def across(x):
        return left + (right - left) * (x - x0) / (x1 - x0)

    def down(y):
        return bottom - (bottom - top) * (y - y0) / (y1 - y0)

    parts = []
    for mark in y_marks:
        y = down(mark)
        parts.append(tag("line", class_="axis", x1=left, x2=right, y1=f"{y:.1f}", y2=f"{y:.1f}"))
        parts.append(tag("text", f"{mark:g}", x=left - 7, y=f"{y + 4:.1f}", text_anchor="end"))
    for mark in ticks(x0, x1):
        if x0 <= mark <= x1 and mark == int(mark):
            parts.append(tag("text", f"{mark:g}", x=f"{across(mark):.1f}", y=bottom + 17,
                             text_anchor="middle"))
    parts.append(tag("text", x_name, x=(left + right) / 2, y=height - 6, text_anchor="middle"))

    for number, line in enumerate(series.values()):
        tint = f"var(--s{number % 7})"
        path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in line)
        parts.append(tag("polyline", class_="line", points=path, stroke=tint,
                         stroke_dasharray=DASHES[number % 7]))
        if len(line) <= 40:                       # more of them would hide the line
            for x, y in line:
                parts.append(tag("circle", cx=f"{across(x):.1f}", cy=f"{down(y):.1f}", r=2.6,
                                 fill=tint))

    ends = ", ".join(f"{name} {line[-1][1]:.4g}" for name, line in series.items())
    drawing = tag("svg", parts, viewBox=f"0 0 {width} {height}", role="img",
                  aria_label=f"{title}, last values: {ends}")
    return tag("figure", tag("figcaption", title), legend(series), drawing)


def interval_bar(rows):
    """Accuracies from 0 to 100 % with their intervals, and the paper's figure on the same line.

    rows: (name, share, low, high, paper), shares of 1; the bounds and the paper's may be None.
    """
    width, step, left = 460, 44, 8
    right = width - 12
    height = step * len(rows) + 26

    def across(share):
        return left + (right - left) * share

    parts = []
    for mark in (0, 0.2, 0.4, 0.6, 0.8, 1):
        x = f"{across(mark):.1f}"
        parts.append(tag("line", class_="axis", x1=x, x2=x, y1=0, y2=height - 22))
        parts.append(tag("text", f"{100 * mark:g}", x=x, y=height - 6, text_anchor="middle"))
    said = []
    for number, (name, share, low, high, paper) in enumerate(rows):
        y = step * number + 28
        parts.append(tag("text", name, x=left + 4, y=y - 11))
        parts.append(tag("line", x1=left, x2=f"{across(share):.1f}", y1=y, y2=y,
                         stroke="var(--s0)", stroke_width=9))
        told = f"{name} {percent(share)}"
        if low is not None:
            for x1, x2, y1, y2 in ((low, high, y, y), (low, low, y - 7, y + 7),
                                   (high, high, y - 7, y + 7)):
                parts.append(tag("line", x1=f"{across(x1):.1f}", x2=f"{across(x2):.1f}", y1=y1,
                                 y2=y2, stroke="var(--ink)", stroke_width=1.6))
            told += f", interval {percent(low)} to {percent(high)}"
        if paper is not None:
            x = across(paper)
            corners = f"{x},{y - 7} {x + 7},{y} {x},{y + 7} {x - 7},{y}"
            parts.append(tag("polygon", points=corners, fill="var(--s1)", stroke="var(--paper)"))
            told += f", the paper {percent(paper)}"
        said.append(told)
    return tag("svg", parts, viewBox=f"0 0 {width} {height}", role="img",
               aria_label="; ".join(said))


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
    """One row of a film as a picture: up to `columns` frames, evenly over the clip, side by side."""
    Tv = len(strip["frames"])
    shown = np.linspace(0, Tv - 1, min(columns, Tv)).round().astype(int)    # video frames
    width = len(shown) * (CELL + GAP) - GAP
    row = Image.new("RGB", (width, CELL), GREY)
    for place, i in enumerate(shown):
        row.paste(strip_cell(name, strip, int(i)), (place * (CELL + GAP), 0))
    return row


def film(strip, rivals=(), columns=8):
    """A clip as rows of pictures: what there is of frames, pose, weights and attention.

    strip: as `report.draw.draw_strip` wants it. rivals: (name, strip) of other models that saw the
    same clip; of each, the attention that its class token ends with is shown.
    """
    cells = []

    def add(said, image):
        cells.append(tag("span", said))
        cells.append(picture(image, f"{said}, over time", "JPEG"))

    for name in rows_of(strip):
        said = FILM_ROWS[name]
        if name == "before" and "after" not in strip["maps"]:
            said = "attention"                    # there is no P2V to be before
        add(said, film_row(name, strip, columns))
    for rival, other in rivals:
        for name in ("after", "attention", "before"):
            if name in other["maps"]:
                add(f"attention of {rival}", film_row(name, other, columns))
                break
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


def heat_map(matrix, words, text, low, high):
    """A row for each word, from left to right the frames: how well the moment meets the word.

    matrix: (T, W) cosines. words: W texts. text: the label they are of. low, high: cosines of the
    darkest and the brightest colour, so that two maps can be compared.
    """
    T = len(matrix)
    rows = []
    for w, word in enumerate(words):
        column = np.asarray(matrix)[:, w]                          # (T,)
        best = int(column.argmax())
        line = Image.fromarray(shade(column[None], low, high))     # (1, T, 3): a pixel a frame
        said = f"{column[best]:.2f} at frame {best + 1}"
        alt = f"cosine of “{word}” with frames 1 to {T}, highest {said}"
        rows.append(tag("tr", tag("th", word, scope="row", title=word),
                        tag("td", picture(line, alt)), tag("td", said, class_="best")))
    head = tag("tr", tag("th", "word", scope="col"), tag("th", "frames", scope="col"),
               tag("th", "best met", scope="col", class_="best"))
    axis = tag("div", tag("span", "1"), tag("span", (T + 1) // 2), tag("span", T), class_="frames")
    foot = tag("tr", tag("th", "frame", scope="row"), tag("td", axis), Html("<td></td>"))
    inside = tag("table", tag("caption", text), tag("thead", head), tag("tbody", rows),
                 tag("tfoot", foot), class_="heat")
    return scroller(f"frames and words of {text}", inside)
