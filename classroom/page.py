"""The page to read beside the paper: `python -m classroom.page` writes docs/annotated.html.

One file, made from the source itself. It cannot rot: tests/test_annotated.py makes it again and
compares. After a change of pevl.py, clip_model.py or the ledger, run the command.

here       | what it gives                                  | tests/test_annotated.py
picture_of | what the toy clip shows at a function          | test_pictures_of_the_clip
shapes_of  | the tensors of a row: toy clip, ViT-B/16       | test_shapes_are_those_of_the_comments
block      | a function: prose, code, shapes, ledger, tests | test_no_line_of_code_is_lost
page       | the whole file                                 | test_the_page_is_what_the_source_makes
"""
if __name__ == "__main__":                        # before PyTorch, which takes seconds to import
    import support.interrupt

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from classroom import measure
from classroom.annotate import (
    anchor, code, inline, prose, read_ledger, read_map, read_source,
)
from classroom.fig2 import fig_2, shape_said
from report.draw import HEAT, colour
from report.figures import figure, film_row, picture
from report.markup import Html, document, fold, note, scroller, section, table, tag
from report.style import STYLE
from support.files import atomic
from support.settings import Parser

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "annotated.html"

# What the page adds to the reports' style: two columns, code, Fig. 2.
OWN_STYLE = """
header, main, footer, nav { max-width: 92rem; }
.row { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 47rem); gap: 0 1.5rem;
  align-items: start; padding: .35rem 0; }
.row > div { min-width: 0; }
.row p { margin: .15rem 0 .6rem; font-size: .92rem; }
.begins { border-top: 1px solid var(--rule); margin-top: .9rem; padding-top: .7rem; }
.block h3, .block h4 { margin: 0 0 .3rem; }
.block { scroll-margin-top: .5rem; }
.block:target { background: var(--panel); box-shadow: -.5rem 0 0 var(--accent); }
pre { margin: .2rem 0 .7rem; padding: .5rem .7rem; overflow-x: auto; font-size: .75rem;
  line-height: 1.5; font-family: ui-monospace, Menlo, Consolas, monospace;
  background: var(--panel); border-radius: .3rem; }
pre code { font-size: 1em; overflow-wrap: normal; }
pre.code { margin-bottom: .3rem; }
.code b { color: var(--s3); font-weight: 600; } .code i { font-style: normal; }
.code .c { color: var(--quiet); } .code .s { color: var(--right); }
.code a { text-decoration-thickness: 1px; text-underline-offset: 2px; }
.shapes { font-size: .72rem; font-variant-numeric: tabular-nums; margin: 0 0 .4rem .7rem; }
.shapes th, .shapes td { padding: .05rem 1.2rem .05rem 0; white-space: nowrap; }
.shapes thead th, .shapes td + td { color: var(--quiet); font-weight: 400; }
.shapes tbody th { font-family: ui-monospace, Menlo, Consolas, monospace; }
.row .tests { font-size: .8rem; color: var(--quiet); overflow-wrap: anywhere; }
.row details { margin: .2rem 0 .5rem; font-size: .85rem; }
.row details p { font-size: .85rem; }
.intro { max-width: 60rem; } .map pre { max-width: 44rem; }
.row div > pre:not(.code) { font-size: .7rem; }
table code { overflow-wrap: normal; }
svg.fig2 { max-width: none; min-width: 56rem; }
.fig2 rect { fill: var(--panel); stroke: var(--accent); }
.fig2 a:hover rect, .fig2 a:focus rect { stroke-width: 3; }
.fig2 .name { fill: var(--accent); font-weight: 600; font-size: 14px; }
.fig2 .flow { fill: none; stroke: var(--quiet); stroke-width: 1.4; }
.fig2 .dashed { stroke-dasharray: 5 4; } .fig2 marker path { fill: var(--quiet); }
.words { display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 0 .6rem;
  font-size: .72rem; line-height: 1rem; max-width: 40rem; }
.words span { text-align: right; } .words div { height: 1rem; }
.words img { width: 100%; height: .9rem; image-rendering: pixelated; }
@media (max-width: 62rem) {
  .row { grid-template-columns: minmax(0, 1fr); }
  .gap { display: none; }
  pre { font-size: .7rem; padding: .5rem; }
  .shapes th, .shapes td { padding-right: .7rem; }
}
"""


@dataclass
class Book:
    """What the page is made of."""
    names: set                                    # functions that are on it
    ledger: dict
    tests: dict                                   # function -> tests of its file's map
    toy: measure.Measured
    vit: measure.Measured


# ---- What was measured ---------------------------------------------------------------------------

def shapes_of(file, name, row, is_first, is_last, book):
    """The tensors of a row of code, as a table; None where it makes none.

    file, name: of the function. row: of annotate.py. is_first, is_last: of its rows: with the first
    goes what it is called with, with the last what it returns.
    """
    toy = book.toy.shapes.get((file, name), {})
    vit = book.vit.shapes.get((file, name), {})
    rows = {}                                     # the keys are rows: what is said twice, is once
    for (line, tensor), shape in toy.items():
        is_here = row.first <= line <= row.last
        is_argument = line == 0 and is_first
        is_result = line == -1 and is_last
        if not (is_here or is_argument or is_result):
            continue

        # The toy has L_own, which is ours and off in the paper's settings (D15).
        other = "off"
        if (line, tensor) in vit:
            other = shape_said(vit[line, tensor])
        rows[tensor, shape_said(shape), other] = None
    if not rows:
        return None

    head = tag("tr", [tag("th", said, scope="col") for said in ("tensor", "toy clip", "ViT-B/16")])
    body = []
    for tensor, shape, other in rows:
        body.append(tag("tr", tag("th", tensor, scope="row"), tag("td", shape), tag("td", other)))
    inside = tag("table", tag("thead", head), tag("tbody", body), class_="shapes")
    return scroller(f"shapes of {name}, from line {row.first}", inside)


def film_picture(name, said, book):
    """A row of the clip's film as a picture with a caption."""
    strip = book.toy.strip
    image = film_row(name, strip, columns=len(strip["frames"]))
    return figure(picture(image, said), said)


def words_picture(book):
    """A of Eq. (4): a row for each word, a column for each frame."""
    # No number is written: two machines may round it differently, and the page is compared.
    A = np.asarray(book.toy.cosines)                                # (T, words)
    cells = []
    for w, word in enumerate(book.toy.words):
        line = (A[:, w] - A.min()) / max(np.ptp(A), 1e-9)
        image = Image.fromarray(colour(line[None], HEAT))           # (1, T, 3)
        cells.append(tag("span", word))
        cells.append(tag("div", picture(image, f"cosine of “{word}” with each frame")))
    said = (f"A of Eq. (4) for the toy clip and its own label: words downwards, the {len(A)} pose "
            "frames from left to right, brighter is nearer. Training has not begun, so frames and "
            "words have not found each other yet; a run's report shows what it became.")
    return figure(tag("div", cells, class_="words"), said)


def picture_of(name, book):
    """What the toy clip shows at a function, or nothing."""
    # Name of the function -> rows of the film (report/figures.py), each with its caption.
    films = {
        "PoseTower": [("skeleton", "The joints at the video frames, as a detector would give them: "
                       "some are off, some missing.")],
        "patch_weight": [("patch_weight", "M of Eq. (1) on the toy clip: brighter patches hold "
                          "more of the body's attention.")],
        "P2V": [("before", "The class token's attention before P2V."),
                ("after", "And in P2V: it looks at patches with M > 0 alone. Its projections "
                 "start as those of CLIP's last block, so this is before training.")],
    }
    if name == "frame_word_similarity":
        return [words_picture(book)]
    return [film_picture(row, said, book) for row, said in films.get(name, ())]


# ---- Rows, blocks, parts -------------------------------------------------------------------------

def ledger_fold(number, book):
    """A row of the ledger, opened on request."""
    printed, ours, why, switch, tests = book.ledger[number]
    cells = {"We do": ours, "Why": why, "Switch": switch, "Tests": tests}
    parts = []
    for term, said in cells.items():
        parts.append(tag("p", tag("b", f"{term}: "), inline(said, book.names)))
    plain = printed.replace("`", "")
    return fold(f"D{number}. The paper prints: {plain}", *parts)


def title_of(name):
    """The heading of a block, a level deeper for a method."""
    level = "h4" if "." in name else "h3"
    return tag(level, tag("code", name))


def tests_of(name, book):
    """The tests that the file's map names for a function."""
    tests = book.tests.get(name, [])
    if not tests:
        return None
    links = []
    for test in tests:
        links += [", ", tag("a", test, href="../tests/test_pevl.py")]
    return tag("p", "Test: ", links[1:], class_="tests")


def block(file, one, book):
    """A function, rows of prose and code beside each other."""
    rows = []
    told = set()
    owner = one.name.partition(".")[0]
    for number, row in enumerate(one.rows):
        is_first = number == 0
        is_last = row is one.rows[-1]

        # On the left: what is said. The function's name and tests stand with its docstring.
        said = [prose(row.said, book.names)]
        if is_first and one.name:
            said = [title_of(one.name), *said, tests_of(one.name, book)]

        # The ledger's rows stand where they are first named.
        for mark in row.marks:
            if mark not in told:
                told.add(mark)
                said.append(ledger_fold(mark, book))

        # On the right: the code, what it made of the clip, and pictures.
        shown = []
        if row.code:
            shown.append(code(row.code, book.names, owner))
            shown.append(shapes_of(file, one.name, row, is_first, is_last, book))
        if is_first:
            shown += picture_of(one.name, book)
        class_ = "row begins" if is_first and one.name else "row"
        rows.append(tag("div", tag("div", said), tag("div", shown), class_=class_))
    where = anchor(one.name) if one.name else None
    return tag("div", rows, class_="block", id=where)


def facts_of(part):
    """Links to the facts of a part's equations, tests that a reader can follow one by one."""
    links = []
    for number in part.equations:
        path = f"tests/spec/test_eq{number}_facts.py"
        if (ROOT / path).is_file():
            links += [", ", tag("a", path, href=f"../{path}")]
    if not links:
        return None
    return note("One fact a test: ", links[1:], ".")


# ---- The page ------------------------------------------------------------------------------------

def measured_said(book):
    """What the shapes are of."""
    rows = []
    for said, one in (("toy clip, measured", book.toy), ("ViT-B/16, computed", book.vit)):
        c = one.config
        rows.append([said, len(measure.NUMBERS), c.pose_frames, c.video_frames, c.image_size,
                     one.classes])
    return [tag("p", "Every shape on this page was measured: three clips of the toy benchmark's "
                "test split went through the model with which training on it starts, and each "
                "tensor was noted at the line that made it, in a function's first call. The first "
                "clip is in the pictures. "
                "For ViT-B/16 the same lines ran with the settings of Sec. 4.1 on tensors that "
                "have shapes and no values."),
            table(["", "clips B", "pose frames T", "video frames Tv", "pixels", "labels K"], rows)]


def ledger_list(book, parts):
    """Where each row of the ledger applies on this page."""
    rows = []
    for number, (printed, *_) in book.ledger.items():
        links = []
        for _, part in parts:
            for one in part.blocks:
                if one.name and number in one.marks:
                    links += [", ", tag("a", tag("code", one.name), href=f"#{anchor(one.name)}")]
        here = "elsewhere"
        if links:
            here = Html("".join(links[1:]))
        number = tag("span", f"D{number}", id=f"D{number}")
        rows.append([number, inline(printed, book.names), here])
    return table(["row", "the paper prints", "on this page"], rows)


def read_book():
    """Source, ledger and measures -> Book, pevl.py's docstring, (file, Part) of all parts."""
    said, pevl_parts = read_source((ROOT / "pevl.py").read_text("utf-8"))
    _, clip_parts = read_source((ROOT / "clip_model.py").read_text("utf-8"))

    # Of CLIP the towers alone: the tokenizer and the loading of files are no part of the figure.
    towers = [part for part in clip_parts if part.title.startswith(("Transformer", "Towers"))]
    parts = [("pevl.py", part) for part in pevl_parts]
    parts += [("clip_model.py", part) for part in towers]
    names = set()
    for _, part in parts:
        names.update(one.name for one in part.blocks if one.name)

    # pevl.py's map names a test for each function, all in one file.
    tests = read_map(said)
    ledger = read_ledger((ROOT / "docs" / "ledger.md").read_text("utf-8"))
    book = Book(names, ledger, tests, measure.measure_toy(), measure.measure_vit())
    return book, said, parts


def sections_of(book, said, parts):
    """(id, title, what is in it) of the whole page, in the paper's order."""
    # pevl.py's own docstring says the idea first and then the map of sections and symbols.
    idea, _, rest = said.partition("\n\npaper      |")
    (_, imports), *parts = parts
    sections = [
        ("fig2", "Fig. 2: every box is a function",
         [scroller("Fig. 2", fig_2(book.toy.shapes)), *measured_said(book),
          film_picture("frames", f"The toy clip: “{book.toy.label}”.", book)]),
        ("idea", "The idea", [tag("div", prose(idea, book.names), class_="intro")]),
        ("map", "From the paper to the code",
         [tag("div", prose("paper      |" + rest, book.names), class_="map"),
          block("pevl.py", imports.blocks[0], book)]),
    ]
    for number, (file, part) in enumerate(parts, 1):
        title = part.title
        if file == "clip_model.py":
            title = f"Beneath: CLIP. {title}"
        inside = [tag("div", prose(part.said, book.names), facts_of(part), class_="intro")]
        for one in part.blocks:
            inside.append(block(file, one, book))
        sections.append((f"part-{number}", title, inside))
    sections.append(("ledger", "The ledger: what the paper leaves open",
                     [ledger_list(book, parts)]))
    return sections


def page(found):
    """The whole page as text. found: of read_book."""
    sections = sections_of(*found)
    links = []
    made = []
    for where, title, inside in sections:
        links.append(tag("li", tag("a", title, href=f"#{where}")))
        made.append(section(where, title, *inside))

    header = tag("header", tag("h1", "PeVL, annotated"),
                 tag("p", "The code of ", tag("code", "pevl.py"), " beside its prose, in the order "
                     "of the paper (Zhang, Leong, Li, Lin; CVPR 2024), for reading with the paper "
                     "open. Prose, code, shapes and pictures come from the source and from a run "
                     "of it; ", tag("code", "python -m classroom.page"), " makes this file."))
    nav = tag("nav", tag("ul", links), aria_label="contents, in the paper's order")
    footer = tag("footer", "Sentences are the repository's own, not the paper's. Tests and files "
                 "that links lead to lie beside this file in the repository.")
    return document("PeVL, annotated", header, nav, tag("main", made, id="main"), footer,
                    style=STYLE + OWN_STYLE, skip="Skip to the code")


def main(argv=None):
    """Write the page, and say where it is."""
    parser = Parser(prog="python -m classroom.page",
                    description="Write the page to read beside the paper.")
    parser.add_argument("--out", default=str(PAGE), help="another file than docs/annotated.html")
    args = parser.parse_args(argv)
    with atomic(args.out) as part:
        part.write_text(page(read_book()), "utf-8")
    print(f"wrote {args.out}: open it in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
