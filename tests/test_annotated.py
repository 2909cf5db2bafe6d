"""The page to read beside the paper: made again it is the same, and it says what the source says."""
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
from test_page import BROWSERS, read, shown

ROOT = Path(__file__).resolve().parent.parent
COMMITTED = annotated.PAGE.read_text("utf-8")
PICTURE = re.compile(r'src="data:image/png;base64,([^"]*)" alt="([^"]*)" width="(\d+)" height="(\d+)"')
LETTERS = {
    "toy": dict(B=3, T=16, Tv=4, N=64, Nv=65, J=17, W=27, d=96, e=64, h=4, c=24, S=80, nq=1, grid=8),
    "vit": dict(B=3, T=48, Tv=16, N=196, Nv=197, J=17, W=22, d=768, e=512, h=12, c=64, S=224, nq=1, grid=14),
}


@pytest.fixture(scope="module")
def book():
    return annotated.read_book()


@pytest.fixture(scope="module")
def made(book):
    return annotated.page(book)


def squeezed(text):
    return re.sub(r"\s+", "", text)


def without_pictures(text):
    return PICTURE.sub(r'src="" alt="\2" width="\3" height="\4"', text)


def source_lines():
    """Lines of code of what is on the page: no docstrings, no comments of their own, no blanks."""
    for name in ("pevl.py", "clip_model.py"):
        text = (ROOT / name).read_text("utf-8")
        lines = text.splitlines()
        hidden = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
                hidden.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
        first, last = 1, len(lines)
        if name == "clip_model.py":
            first = next(n for n, line in enumerate(lines, 1) if line.startswith("# ---- Transformer"))
            last = next(n for n, line in enumerate(lines, 1) if line.startswith("# ---- Tokenizer")) - 1
        for number in range(first, last + 1):
            line = lines[number - 1]
            if number not in hidden and line.strip() and not line.strip().startswith("#"):
                yield line


# ---- The file ------------------------------------------------------------------------------------

def test_the_page_is_what_the_source_makes(made):
    """Text and structure exactly; pictures by their places, names and sizes, since machines round differently."""
    same = without_pictures(made) == without_pictures(COMMITTED)
    assert same, "docs/annotated.html is not what the source makes: run `python -m classroom.page` and commit it"
    assert len(COMMITTED.encode()) < 1_500_000


def test_pictures_of_the_clip(made):
    """Frames, joints, M, attention before and after, and a row for each word; all of them pictures that open."""
    for text in (made, COMMITTED):
        pictures = PICTURE.findall(text)
        assert text.count("<img") == len(pictures) >= 5 + 10
        for encoded, alt, width, height in pictures:
            image = Image.open(io.BytesIO(base64.b64decode(encoded)))
            image.load()
            assert image.size == (int(width), int(height)) and alt
        films = [p for p in pictures if int(p[3]) > 1]
        assert len(films) == 5
        for encoded, *_ in films:
            image = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("L"), float)
            assert image.std() > 10, "a picture of one colour"


def test_it_is_well_formed_and_links_lead_somewhere(made):
    reader = read(made)
    ids = [a["id"] for _, a in reader.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for name, a in reader.elements:
        if name == "a" and a["href"].startswith("#"):
            assert a["href"][1:] in ids, a
        elif name == "a":
            assert (annotated.PAGE.parent / a["href"]).resolve().is_file(), a
        if name == "th":
            assert a.get("scope") in ("row", "col"), a
        if name == "div" and a.get("class") == "scroll":
            assert a["tabindex"] == "0" and a["role"] == "region" and a["aria-label"]
    levels = [int(name[1]) for name, _ in reader.elements if re.fullmatch(r"h\d", name)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:]))


def test_nothing_is_fetched(made):
    names = {name for name, _ in read(made).elements}
    assert not names & {"script", "link", "iframe", "object", "base"}
    assert not re.search(r"https?:|url\((?!#)|@import|src=\"(?!data:)", made)


def test_the_contents_follow_the_paper(made):
    nav = made.split("<nav", 1)[1].split("</nav>", 1)[0]
    sections = re.findall(r"Sec\. ([\d.]+):", nav)
    assert sections == sorted(sections) == ["3.1", "3.2.1", "3.2.2", "3.2.3", "3.3.1", "3.3.2", "3.4"]


def test_students_do_not_get_it(tmp_path):
    """It holds every answer: the copy that is handed out has docs/, and not this page."""
    make.make_copy(tmp_path / "copy", ["eq1"])
    assert (tmp_path / "copy" / "docs" / "ledger.md").is_file()
    assert not list((tmp_path / "copy").rglob("annotated.html"))


# ---- Source on the page --------------------------------------------------------------------------

def test_no_line_of_code_is_lost(made):
    """All of pevl.py and of CLIP's towers, in order; comments and docstrings are the prose beside it."""
    text = squeezed("".join(read(made).text))
    place = 0
    for line in source_lines():
        found = text.find(squeezed(line), place)
        assert found >= 0, line
        place = found


def test_prose_keeps_its_words(made):
    """Every word of pevl.py's docstrings and comments is there."""
    text = squeezed("".join(read(made).text))
    tree = ast.parse((ROOT / "pevl.py").read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                assert squeezed(paragraph.replace("`", "")) in text, paragraph
    for line in (ROOT / "pevl.py").read_text("utf-8").splitlines():
        if line.strip().startswith("# ") and not line.startswith("# ---- "):
            assert squeezed(line.strip()[2:].replace("`", "")) in text, line


def test_prose_is_paragraphs_formulas_and_terms():
    names = {"patch_weight", "P2V"}
    assert inline("see `x` of patch_weight, D3, a < b", names) == (
        'see <code>x</code> of <a href="#fn-patch_weight"><code>patch_weight</code></a>, <a href="#D3">D3</a>, a &lt; b')
    assert prose("one\ntwo\n\n    a = b\n      + c", names) == "<p>one two</p><pre>a = b\n  + c</pre>"
    assert prose("AB  first\n    goes on\nC  next", names) == "<p><b>AB</b> first goes on</p><p><b>C</b> next</p>"
    assert "<th" in prose("a | b | c\n1 | 2 | P2V", names)


def test_rows_begin_at_comments():
    _, parts = read_source('"""Map."""\nimport x\n\n# ---- Eqs. (5) and (6) ---\n#\n# Why.\n\ndef f(a):\n'
                           '    """Doc, D1."""\n    b = a\n    # Because, D2.\n    return b\n')
    f = parts[1].blocks[0]
    assert (parts[1].said, parts[1].equations, f.name, f.marks) == ("Why.", [5, 6], "f", [1, 2])
    assert [(row.said, row.code) for row in f.rows] == [("Doc, D1.", "def f(a):\n    b = a"), ("Because, D2.", "    return b")]


def test_ledger_rows_stand_where_they_apply(made, book):
    """Each number of the source is a link, and its row can be opened at the function that names it."""
    ledger, parts = book[0].ledger, book[2]
    for number in re.findall(r"\bD(\d+)\b", (ROOT / "pevl.py").read_text("utf-8")):
        assert f'href="#D{number}"' in made and int(number) in ledger
    for _, part in parts:
        for block in part.blocks:
            if block.name:
                here = made.split(f'id="fn-{block.name}"', 1)[1].split('class="block"', 1)[0]
                assert [int(n) for n in re.findall(r"<summary>D(\d+)\.", here)] == block.marks, block.name
    reason = re.sub(r"[`]", "", ledger[4][2])
    assert squeezed(reason) in squeezed(shown(read(made)))


def test_the_maps_tests_are_linked(made):
    here = made.split('id="fn-patch_weight"', 1)[1].split('class="block"', 1)[0]
    assert '<a href="../tests/test_pevl.py">test_p2v_matches_loops</a>' in here
    assert 'href="../tests/spec/test_eq1_facts.py"' in made


# ---- What was measured ---------------------------------------------------------------------------

@pytest.mark.parametrize("model", LETTERS)
def test_shapes_are_those_of_the_comments(book, model):
    """Where a line of pevl.py says a shape, the tensor that it makes had it, in the toy and in ViT-B/16."""
    measured = getattr(book[0], model)
    seen = {}
    for (file, _), noted in measured.shapes.items():
        if file == "pevl.py":
            for (line, name), shape in noted.items():
                seen[line, name] = shape
    checked = 0
    for number, line in enumerate((ROOT / "pevl.py").read_text("utf-8").splitlines(), 1):
        found = re.match(r"\s+(\w+) = .*# (?:\w )?\(([^)]*)\)$", line)
        if not found or (number, found[1]) not in seen:
            continue
        axes = [axis.strip() for axis in found[2].split(",") if axis.strip()]
        if not set(re.findall(r"[A-Za-z]+", " ".join(axes))) <= set(LETTERS[model]):
            continue                              # letters of its own, such as K where texts are U
        want = [eval("*".join(axis.split()) if "+" not in axis else axis, {}, dict(LETTERS[model])) for axis in axes]
        assert seen[number, found[1]] == tuple(want), f"line {number}: {line.strip()}"
        checked += 1
    assert checked >= 30


def test_shapes_are_on_the_page(made):
    here = made.split('id="fn-patch_weight"', 1)[1].split('class="block"', 1)[0]
    assert '<tr><th scope="row">total</th><td>(3, 4, 64)</td><td>(3, 16, 196)</td></tr>' in here
    assert '<tr><th scope="row">returns</th><td>(3, 4, 64)</td><td>(3, 16, 196)</td></tr>' in here


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
    """Each box is a function of the page with a shape that was measured; each arrow runs from edge to edge."""
    svg = made.split("<svg", 1)[1].split("</svg>", 1)[0]
    for box in BOXES:
        assert box.target in book[0].names and f'href="#fn-{box.target}"' in svg, box.name
    assert len(re.findall(r"\(\d[\d, ]*\)</text>|a number</text>", svg)) == len(BOXES)

    def on_an_edge(x, y):
        for box in BOXES:
            left, width = box.column
            sides = y in (box.top, box.top + TALL) and left <= x <= left + width
            ends = x in (left, left + width) and box.top <= y <= box.top + TALL
            if sides or ends:
                return True
        return False

    for corners in PATHS:
        assert on_an_edge(*corners[0]) and on_an_edge(*corners[-1]), corners
    for corners in TEXT_PATHS:
        assert on_an_edge(*corners[-1]), corners


@pytest.mark.slow
def test_the_random_state_is_left_alone(book):
    torch.manual_seed(7)
    want = torch.rand(3)
    torch.manual_seed(7)
    measure.measure_toy()
    assert torch.equal(torch.rand(3), want)


def test_a_browser_opens_it(tmp_path):
    browser = next((found for found in map(shutil.which, BROWSERS) if found), None)
    if browser is None:
        pytest.skip("no browser; install one, such as Chromium")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1600"]
    picture = tmp_path / "page.png"
    done = subprocess.run([browser, *flags, f"--screenshot={picture}", "--dump-dom", annotated.PAGE.as_uri()],
                          capture_output=True, text=True, timeout=300)
    assert "fn-semantic_guided_loss" in done.stdout and done.stdout.rstrip().endswith("</html>")
    drawn(picture, least=20)
