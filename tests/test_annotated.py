"""The page to read beside the paper: made again it is the same, and it says what the source says.

docs/annotated.html is made by classroom/page.py. Here its form is checked (what is linked is there,
nothing is fetched), that no line of code and no word of prose is lost, that the shapes on it were
measured and agree with the comments of pevl.py, and that its figure leads to functions.
"""
import ast
import base64
import io
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import data
from classroom import make, measure
from classroom import page as annotated
from classroom.annotate import inline, prose, read_source
from classroom.fig2 import BOXES, PATHS, TALL, TEXT_PATHS
from strategies import drawn
from webpages import BROWSERS, read, shown

ROOT = Path(__file__).resolve().parent.parent
COMMITTED = annotated.PAGE.read_text("utf-8")
PICTURE = re.compile(r'src="data:image/png;base64,(?P<content>[^"]*)" alt="(?P<alt>[^"]*)" '
                     r'width="(?P<width>\d+)" height="(?P<height>\d+)"')

# What the letters of shapes stand for, in the toy and in ViT-B/16, with three texts.
LETTERS = {
    "toy": {"B": 3, "T": 16, "Tv": 4, "N": 64, "Nv": 65, "J": 17, "W": 27, "d": 96, "e": 64,
            "h": 4, "c": 24, "S": 80, "nq": 1, "grid": 8},
    "vit": {"B": 3, "T": 48, "Tv": 16, "N": 196, "Nv": 197, "J": 17, "W": 22, "d": 768, "e": 512,
            "h": 12, "c": 64, "S": 224, "nq": 1, "grid": 14},
}


@pytest.fixture(scope="module")
def book():
    """Source, ledger and measures: what the page is made from."""
    return annotated.read_book()


@pytest.fixture(scope="module")
def made(book):
    """The page, made anew."""
    return annotated.page(book)


@pytest.fixture(scope="module")
def reader(made):
    """The elements and the text of the page."""
    return read(made)


def squeezed(text):
    """A text without its spaces and line breaks, which code and page set differently."""
    return re.sub(r"\s+", "", text)


def without_pictures(text):
    return PICTURE.sub(r'src="" alt="\g<alt>" width="\g<width>" height="\g<height>"', text)


def pixels_of(picture):
    """The grey levels of a match of PICTURE, as floats; an error where it does not open."""
    image = Image.open(io.BytesIO(base64.b64decode(picture["content"])))
    return np.asarray(image.convert("L"), float)


def block_of(made, function):
    """The part of the page that shows a function."""
    return made.split(f'id="fn-{function}"', 1)[1].split('class="block"', 1)[0]


def docstring_lines(tree):
    """The numbers of the lines that docstrings take."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            if ast.get_docstring(node) is not None:
                found.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return found


def number_of(lines, beginning):
    """The number, counted from 1, of the first line that begins so."""
    for number, line in enumerate(lines, 1):
        if line.startswith(beginning):
            return number
    raise AssertionError(f"no line begins with {beginning!r}")


def source_lines(name):
    """Lines of code that the page shows of a file: no docstrings, comments of their own, blanks."""
    text = (ROOT / name).read_text("utf-8")
    lines = text.splitlines()
    hidden = docstring_lines(ast.parse(text))
    first = 1
    stop = len(lines) + 1
    if name == "clip_model.py":                   # its towers alone
        first = number_of(lines, "# ---- Transformer")
        stop = number_of(lines, "# ---- Tokenizer")

    code = []
    for number in range(first, stop):
        line = lines[number - 1]
        if number not in hidden and line.strip() and not line.strip().startswith("#"):
            code.append(line)
    return code


# ---- The file ------------------------------------------------------------------------------------

def test_the_page_is_what_the_source_makes(made):
    """Text and structure exactly; pictures by place, name and size: machines round differently."""
    same = without_pictures(made) == without_pictures(COMMITTED)
    assert same, ("docs/annotated.html is not what the source makes: "
                  "run `python -m classroom.page` and commit it")
    assert len(COMMITTED.encode()) < 1_500_000, "too large to open at once"


def test_pictures_of_the_clip(made):
    """Frames, joints, M, attention before and after, a row for each word: pictures that open."""
    for text in (made, COMMITTED):
        pictures = list(PICTURE.finditer(text))
        assert text.count("<img") == len(pictures), "a picture lies elsewhere, or has no name"
        assert len(pictures) >= 5 + 10, "fewer than five films and ten words"
        films = []
        for picture in pictures:
            pixels = pixels_of(picture)
            height, width = pixels.shape
            assert (str(width), str(height)) == (picture["width"], picture["height"])
            assert picture["alt"], "a picture without a name"
            if height > 1:                        # a word's row is one pixel high
                films.append(pixels)
        assert len(films) == 5
        for pixels in films:
            assert pixels.std() > 10, "a picture of one colour"


def test_it_is_well_formed_and_links_lead_somewhere(reader):
    """Elements end, ids stand once, headings and tables say what they are, links have a goal."""
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids)), "an id stands twice"

    for name, attributes in reader.elements:
        if name == "a":
            goal = attributes["href"]
            if goal.startswith("#"):
                assert goal[1:] in ids, f"{goal} leads nowhere"
            else:
                assert (annotated.PAGE.parent / goal).resolve().is_file(), f"{goal} is no file"
        if name == "th":
            assert attributes.get("scope") in ("row", "col"), attributes
        if name == "div" and attributes.get("class") == "scroll":
            assert attributes["tabindex"] == "0", "the keyboard cannot scroll it"
            assert attributes["role"] == "region" and attributes["aria-label"], "it has no name"

    levels = [int(name[1]) for name, _ in reader.elements if re.fullmatch(r"h\d", name)]
    assert levels[0] == 1 and levels.count(1) == 1, "one heading is the page's"
    for above, below in zip(levels, levels[1:]):
        assert below <= above + 1, "a level of headings is left out"


def test_nothing_is_fetched(made, reader):
    """No script, no style sheet, font or picture from elsewhere: the page is one file."""
    names = {name for name, _ in reader.elements}
    assert not names & {"script", "link", "iframe", "object", "base"}
    assert not re.search(r"https?:|url\((?!#)|@import|src=\"(?!data:)", made)


def test_the_contents_follow_the_paper(made):
    """The contents list the paper's sections, each once and in its order."""
    nav = made.split("<nav", 1)[1].split("</nav>", 1)[0]
    sections = re.findall(r"Sec\. ([\d.]+):", nav)
    assert sections == ["3.1", "3.2.1", "3.2.2", "3.2.3", "3.3.1", "3.3.2", "3.4"]


def test_students_do_not_get_it(tmp_path, monkeypatch):
    """It holds every answer: the copy that is handed out has docs/, and not this page."""
    monkeypatch.setattr(make, "write_golden", lambda root, folder, seed: folder.mkdir())
    make.make_copy(tmp_path / "copy", ["eq1"])
    assert (tmp_path / "copy" / "docs" / "ledger.md").is_file()
    assert not list((tmp_path / "copy").rglob("annotated.html"))


# ---- Source on the page --------------------------------------------------------------------------

def test_no_line_of_code_is_lost(reader):
    """All of pevl.py and of CLIP's towers, in order; comments and docstrings are the prose."""
    text = squeezed("".join(reader.text))
    place = 0
    for line in source_lines("pevl.py") + source_lines("clip_model.py"):
        code = squeezed(line)
        found = text.find(code, place)
        assert found >= 0, f"the page lacks this line, or has it too early: {line}"
        place = found + len(code)


def test_prose_keeps_its_words(reader):
    """Every word of pevl.py's docstrings and comments is there."""
    text = squeezed("".join(reader.text))
    source = (ROOT / "pevl.py").read_text("utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                assert squeezed(paragraph.replace("`", "")) in text, paragraph
    for line in source.splitlines():
        if line.strip().startswith("# ") and not line.startswith("# ---- "):
            assert squeezed(line.strip()[2:].replace("`", "")) in text, line


def test_prose_is_paragraphs_formulas_and_terms():
    """Names and D-numbers are links, what is indented a formula, `AB  ...` a term, `|` a table."""
    names = {"patch_weight", "P2V"}
    assert inline("see `x` of patch_weight, D3, a < b", names) == (
        'see <code>x</code> of <a href="#fn-patch_weight"><code>patch_weight</code></a>, '
        '<a href="#D3">D3</a>, a &lt; b')
    formula = prose("one\ntwo\n\n    a = b\n      + c", names)
    assert formula == "<p>one two</p><pre>a = b\n  + c</pre>"
    terms = prose("AB  first\n    goes on\nC  next", names)
    assert terms == "<p><b>AB</b> first goes on</p><p><b>C</b> next</p>"
    assert "<th" in prose("a | b | c\n1 | 2 | P2V", names)


TWO_ROWS = '''"""Map."""
import x

# ---- Eqs. (5) and (6) ---
#
# Why.

def f(a):
    """Doc, D1."""
    b = a
    # Because, D2.
    return b
'''


def test_rows_begin_at_comments():
    """A docstring and a comment of its own stand beside the code that follows them."""
    _, parts = read_source(TWO_ROWS)
    part = parts[1]
    assert part.said == "Why."
    assert part.equations == [5, 6]

    function = part.blocks[0]
    assert function.name == "f"
    assert function.marks == [1, 2]
    first, second = function.rows
    assert (first.said, first.code) == ("Doc, D1.", "def f(a):\n    b = a")
    assert (second.said, second.code) == ("Because, D2.", "    return b")


def test_ledger_rows_stand_where_they_apply(made, reader, book):
    """Each D-number is a link, and its row can be opened at the function that names it."""
    measured, _, parts = book
    for number in re.findall(r"\bD(\d+)\b", (ROOT / "pevl.py").read_text("utf-8")):
        assert f'href="#D{number}"' in made, f"D{number} is no link"
        assert int(number) in measured.ledger, f"D{number} has no row in docs/ledger.md"
    for _, part in parts:
        for block in part.blocks:
            if block.name:
                here = block_of(made, block.name)
                opened = [int(number) for number in re.findall(r"<summary>D(\d+)\.", here)]
                assert opened == block.marks, block.name
    reason = measured.ledger[4][2].replace("`", "")
    assert squeezed(reason) in squeezed(shown(reader)), "the reason of D4 is not on the page"


def test_the_maps_tests_are_linked(made):
    """A function leads to the test that pevl.py's map names, an equation's part to its facts."""
    here = block_of(made, "patch_weight")
    test = re.search(r'<a href="../tests/(test_\w+\.py)">test_p2v_matches_loops</a>', here)
    assert test, "no link to the test of the map"
    source = (ROOT / "tests" / test[1]).read_text("utf-8")
    assert "def test_p2v_matches_loops" in source, f"{test[1]} does not have that test"
    assert 'href="../tests/spec/test_eq1_facts.py"' in made


# ---- What was measured ---------------------------------------------------------------------------

def measured_in(measured, file):
    """(line, name) -> the shape of the tensor that the line made, of one file."""
    seen = {}
    for (name, _), shapes in measured.shapes.items():
        if name == file:
            seen.update(shapes)
    return seen


def axis_size(axis, sizes):
    """How long an axis is that a comment writes as letters: `Tv`, `h c` (a product), `1 + N`."""
    if "+" not in axis:
        axis = "*".join(axis.split())
    return eval(axis, {}, dict(sizes))


@pytest.mark.parametrize("model", LETTERS)
def test_shapes_are_those_of_the_comments(book, model):
    """Where a line of pevl.py says a shape, its tensor had it, in the toy and in ViT-B/16."""
    seen = measured_in(getattr(book[0], model), "pevl.py")
    sizes = LETTERS[model]
    checked = 0
    for number, line in enumerate((ROOT / "pevl.py").read_text("utf-8").splitlines(), 1):
        found = re.match(r"\s+(?P<name>\w+) = .*# (?:\w )?\((?P<shape>[^)]*)\)$", line)
        if not found or (number, found["name"]) not in seen:
            continue
        letters = set(re.findall(r"[A-Za-z]+", found["shape"]))
        if not letters <= sizes.keys():           # letters of its own, such as K where texts are U
            continue
        axes = [axis.strip() for axis in found["shape"].split(",") if axis.strip()]
        want = tuple(axis_size(axis, sizes) for axis in axes)
        assert seen[number, found["name"]] == want, f"line {number}: {line.strip()}"
        checked += 1
    assert checked >= 30, "hardly a comment was compared"


def test_shapes_are_on_the_page(made):
    """In a function's table: each tensor's shape in the toy and in ViT-B/16."""
    here = block_of(made, "patch_weight")
    shapes = "<td>(3, 4, 64)</td><td>(3, 16, 196)</td></tr>"
    assert f'<tr><th scope="row">total</th>{shapes}' in here
    assert f'<tr><th scope="row">returns</th>{shapes}' in here


def test_the_clip_is_the_benchmarks_own(tree):
    """Label and joints are those of the file; frames too, but for what compression does to them."""
    config = measure.toy_config()
    settings = data.DataConfig(data="diving48", root=str(tree), pose_frames=config.pose_frames,
                               video_frames=config.video_frames, image_size=config.image_size)
    item = data.Clips(settings, "test", train=False)[0]
    clip = measure.toy_clip(0, config)
    assert clip["label"] == item["label"]
    assert torch.allclose(clip["keypoints"], item["keypoints"][0], atol=1e-5)
    assert torch.allclose(clip["scores"], item["scores"][0], atol=1e-6)
    apart = (clip["frames"].float() - item["frames"][0].float()).abs().mean()
    assert apart < 6, f"frames differ by {apart:.1f} of 255"


# ---- The figure ----------------------------------------------------------------------------------

def test_boxes_of_fig_2_lead_to_functions(made, book):
    """Each box is a function of the page with a measured shape; arrows run from edge to edge."""
    svg = made.split("<svg", 1)[1].split("</svg>", 1)[0]
    for box in BOXES:
        assert box.target in book[0].names, f"{box.name}: no function {box.target}"
        assert f'href="#fn-{box.target}"' in svg, f"{box.name} is no link"
    shapes = re.findall(r"\(\d[\d, ]*\)</text>|a number</text>", svg)
    assert len(shapes) == len(BOXES), "a box without a shape"

    for corners in PATHS:
        assert on_an_edge(*corners[0]), f"begins in the void: {corners}"
        assert on_an_edge(*corners[-1]), f"ends in the void: {corners}"
    for corners in TEXT_PATHS:
        assert on_an_edge(*corners[-1]), f"ends in the void: {corners}"


def on_an_edge(x, y):
    """Whether a point of the figure lies on the edge of a box."""
    for box in BOXES:
        left, width = box.column
        right = left + width
        bottom = box.top + TALL
        on_top_or_bottom = y in (box.top, bottom) and left <= x <= right
        on_a_side = x in (left, right) and box.top <= y <= bottom
        if on_top_or_bottom or on_a_side:
            return True
    return False


@pytest.mark.slow
def test_the_random_state_is_left_alone():
    """Measuring draws weights from its own seed, and leaves torch's generator as it was."""
    torch.manual_seed(7)
    want = torch.rand(3)
    torch.manual_seed(7)
    measure.measure_toy()
    assert torch.equal(torch.rand(3), want)


def test_a_browser_opens_it(tmp_path):
    """To its end, and what it draws has many colours."""
    browser = next((found for found in map(shutil.which, BROWSERS) if found), None)
    if browser is None:
        pytest.skip("no browser; install one, such as Chromium")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1600"]
    picture = tmp_path / "page.png"
    command = [browser, *flags, f"--screenshot={picture}", "--dump-dom", annotated.PAGE.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "fn-semantic_guided_loss" in done.stdout, "the page's last functions are not there"
    assert done.stdout.rstrip().endswith("</html>")
    drawn(picture, least=20)
