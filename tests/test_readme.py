"""README.md and docs/: what they say of the program is so.

Maps name functions and tests that exist, commands use flags that exist, links lead somewhere, the
section of each data set agrees with the registry, and the papers' figures are the papers'.
"""
import ast
import contextlib
import importlib
import io
import re
from pathlib import Path
from typing import NamedTuple

import pytest

import bench
import data
import eval as ev
import mutate
import pevl
import pose
import train
from classroom.__main__ import main as classroom_command
from clip_model import BACKBONES
from support.settings import build_configs
from systems.config import PeVLConfig
from tables import costs
from tables.rows import ROWS, row_flags
from toy import alignment, lab, show, stills

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PAGES = {"README.md": README}
for path in sorted((ROOT / "docs").glob("*.md")):
    PAGES[f"docs/{path.name}"] = path.read_text("utf-8")
FENCED = re.compile(r"^```\n(.*?)^```", re.M | re.S)
COMMAND = re.compile(r"(python|torchrun) ")


def commands_of(page):
    """Every command of a page: lines of its blocks, continued ones joined, and in backticks."""
    found = set()
    for block in FENCED.findall(page):
        for line in block.replace("\\\n", " ").splitlines():
            found.add(line.split("#")[0].strip())
    for code in re.findall(r"`([^`\n]+)`", FENCED.sub("", page)):
        found.add(code.strip())
    return sorted(line for line in found if COMMAND.match(line))


def functions_of(name):
    """The functions of a file of tests/."""
    tree = ast.parse((ROOT / "tests" / name).read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def functions_of_tests():
    """The functions of all test files, but for tests/spec."""
    known = set()
    for path in (ROOT / "tests").glob("test_*.py"):
        known |= functions_of(path.name)
    return known


def product_files():
    """The program's own .py files, those of the tests left out."""
    files = [*ROOT.glob("*.py")]
    for folder in ("classroom", "label", "published", "report", "support", "systems", "tables",
                   "toy"):
        files += (ROOT / folder).glob("*.py")
    return files


# ---- Maps ----------------------------------------------------------------------------------------

class MapRow(NamedTuple):
    """Functions that do something, and the test that shows it."""
    functions: list
    test: str
    file: str                                     # of tests/ that has the test


def maps():
    """Every row of the README's map and of pevl.py's own."""
    rows = []
    for line in README.splitlines():
        found = re.match(r"\| [^|]+\| [^|]*\| (`[^|]+`) \| (?:`(test_\w+\.py)`: )?`(test_\w+)` \|",
                         line)
        if found:
            file = found[2] or "test_pevl.py"     # as the head of the column says
            rows.append(MapRow(re.findall(r"`([^`]+)`", found[1]), found[3], file))
    for line in pevl.__doc__.splitlines():
        found = re.match(r"[^|]+\|[^|]+\|([^|]+)\|\s*(test_\w+)", line)
        if found:
            names = [name.strip() for name in found[1].split(",")]
            rows.append(MapRow(names, found[2], "test_pevl.py"))
    return rows


def find(name):
    """`P2V` or `PeVL.losses` of pevl.py, `systems.vilp.ViLP` of its own file.

    AttributeError where it is not there.
    """
    place = pevl
    parts = name.split(".")
    if (ROOT / parts[0]).is_dir():
        place = importlib.import_module(".".join(parts[:2]))
        parts = parts[2:]
    for part in parts:
        place = getattr(place, part)


def test_maps_name_what_exists():
    """A row's functions are in the program, and its test is in the file that is named."""
    rows = maps()
    assert len(rows) >= 23, "the maps are not found"
    for row in rows:
        assert row.test in functions_of(row.file), f"a map names {row.test} of {row.file}: none"
        for name in row.functions:
            find(name)


def test_house_is_described():
    """A line of README for each file and folder that is there, and for no other."""
    named = set(re.findall(r"^\| `([a-z_]+(?:\.py|/))` \|", README, re.M))
    there = {path.name for path in ROOT.glob("*.py")}
    for path in ROOT.iterdir():
        is_package = (path / "__init__.py").is_file()
        if is_package or path.name in ("assets", "docs", "tests"):
            there.add(f"{path.name}/")
    assert named == there


def test_ledger_rows_and_marks_agree():
    """Every D-number has a row, the rows count up, and the tests that they name are there."""
    ledger = PAGES["docs/ledger.md"]
    rows = [int(n) for n in re.findall(r"^\| D(\d+) \|", ledger, re.M)]
    assert rows, "the ledger has no row"
    assert rows == list(range(1, len(rows) + 1))
    for file in product_files():
        for mark in re.findall(r"\bD(\d+)\b", file.read_text("utf-8")):
            assert int(mark) in rows, f"{file.name}: the ledger has no D{mark}"
    for name, page in PAGES.items():
        for mark in re.findall(r"\bD(\d+)\b", page):
            assert int(mark) in rows, f"{name}: the ledger has no D{mark}"
    known = functions_of_tests()
    for row in re.findall(r"^\| D\d.*", ledger, re.M):
        for test in re.findall(r"\btest_\w+", row):
            assert test in known, f"the ledger names {test}, which is no test: {row[:60]}"


# ---- Commands ------------------------------------------------------------------------------------

def help_of(main, *words):
    """What a command prints for --help."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return out.getvalue()


@pytest.fixture(scope="module")
def helps():
    """Script, module or subcommand -> its --help."""
    texts = {
        "train.py": help_of(train.main),
        "eval.py": help_of(ev.main),
        "data.py": help_of(data.main),
        "pose.py extract": help_of(pose.main, "extract"),
        "pose.py import": help_of(pose.main, "import"),
        "tests/bench.py": help_of(bench.main),
        "tests/mutate.py": help_of(mutate.main),
        "tables.costs": help_of(costs.main),
        "toy.stills": help_of(stills.main),
        "toy.alignment": help_of(alignment.main),
        "toy.show": help_of(show.main),
    }
    texts["classroom"] = help_of(classroom_command)
    for word in ("make", "grade", "hidden", "board"):
        texts["classroom"] += help_of(classroom_command, word)
    texts["toy.lab"] = help_of(lab.main) + texts["train.py"]   # what it does not know it hands on
    return texts


def has_flag(text, flag):
    """Whether a --help names a flag, and not only a longer one."""
    return re.search(rf"(?<![\w-]){flag}(?![\w-])", text) is not None


FLAG = re.compile(r"(?<!\S)--[a-z][a-z0-9-]*")


def script_of(command):
    """A command -> the key of `helps` that it belongs to, None for pytest and such; its flags."""
    words = command.split()
    if words[:2] == ["python", "-m"]:
        key = None if words[2] == "pytest" else words[2]
        return key, words[3:]

    scripts = [word for word in words if word.endswith(".py")]
    if not scripts:
        return None, []
    script = scripts[0]
    rest = words[words.index(script) + 1:]
    if script == "pose.py":                       # its commands have flags of their own
        script = f"pose.py {rest[0]}"
    return script, rest


@pytest.mark.parametrize("page", PAGES)
def test_commands_use_flags_that_exist(helps, page):
    """Each flag is one of the command's, each data set, backbone and row one of the registry's."""
    for command in commands_of(PAGES[page]):
        key, words = script_of(command)
        if key is None:
            continue
        for flag in FLAG.findall(" ".join(words)):
            assert has_flag(helps[key], flag), f"{command}: {key} has no {flag}"
        for name in re.findall(r"--data (\S+)", command):
            assert name == "NAME" or name in data.DATASETS, f"{command}: no data set {name}"
        for name in re.findall(r"--backbone (\S+)", command):
            assert name in BACKBONES, f"{command}: no backbone {name}"
        for name in re.findall(r"--row (\S+)", command):
            assert name in ROWS, f"{command}: no row {name}"


def test_there_are_commands_to_check():
    """The tests around this one find commands: they do not hold because they see nothing."""
    assert sum(len(commands_of(page)) for page in PAGES.values()) >= 30
    assert len(commands_of(README)) >= 10


@pytest.mark.parametrize("page", PAGES)
def test_flags_in_the_text_exist(helps, page):
    """What stands in backticks and begins with a flag is one of some command's."""
    for code in re.findall(r"`(--[^`\n]+)`", FENCED.sub("", PAGES[page])):
        for flag in FLAG.findall(code):
            known = any(has_flag(text, flag) for text in helps.values())
            assert known, f"{page}: no command has {flag}"


# ---- Data sets -----------------------------------------------------------------------------------

REAL = [name for name in data.DATASETS if not name.startswith("toy")]


def section_of(page, title):
    """What stands below a heading, up to the next one."""
    return page.split(f"\n## {title}\n")[1].split("\n##")[0]


def counts_of(entry):
    """The clips of a data set as its row tells them: `train / val / test`, for each variant."""
    told = []
    for variant, split in entry.counts.items():
        if not split:
            continue
        numbers = []
        for part in ("train", "val", "test"):
            numbers.append(f"{split[part]:,}" if part in split else "-")
        before = f"{variant}: " if variant else ""
        told.append(before + " / ".join(numbers))
    return "; ".join(told) or "-"


@pytest.mark.parametrize("name", REAL)
def test_data_sections_agree_with_the_registry(name, capsys):
    """Commands, the paper's counts and the row of each data set are as `data.py` has them."""
    entry = data.DATASETS[name]
    page = PAGES["docs/data.md"]
    section = section_of(page, entry.title[0].upper() + entry.title[1:])
    assert FENCED.findall(section) == [
        f"python data.py layout {name}\npython data.py check {name} --root DIR\n"
        f"python train.py --data {name} --root DIR --backbone ViT-B/16\n"]
    text = " ".join(section.split())
    assert entry.paper in text
    assert "Files: " in text

    prompt = entry.prompt.replace("{}", "...")
    row = (f"| `{name}` | {entry.classes or 'yours'} | {counts_of(entry)} | \"{prompt}\" | "
           f"{', '.join(entry.metrics)} |\n")
    assert row in page, f"docs/data.md lacks this row: {row}"

    # The section's one block holds commands: its tree is printed by the first, not typed again.
    data.main(["layout", name, "--root", "DIR"])
    title, tree = capsys.readouterr().out.split("\n\n", 1)
    assert title == f"{name}: {entry.title}"
    assert tree.startswith("DIR/\n")
    assert "poses/" in tree


# ---- Form ----------------------------------------------------------------------------------------

def headings_of(page):
    """The names by which links reach the headings of a page."""
    found = set()
    for line in re.findall(r"^#+ (.*)", page, re.M):
        found.add(re.sub(r"[^\w -]", "", line.lower()).strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_pictures_and_links_are_there(page):
    """A relative link leads to a file and, where it names one, to a heading of it."""
    folder = (ROOT / page).parent
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", PAGES[page]):
        assert (folder / path).stat().st_size > 1000, f"{path} is no picture"
    for link in re.findall(r"(?<!!)\[[^\]]*\]\(([^)]+)\)", PAGES[page]):
        path, _, heading = link.partition("#")
        target = (folder / path).resolve()
        assert target.is_file(), f"{link} leads nowhere"
        if heading:
            assert heading in headings_of(target.read_text("utf-8")), f"{link} has no such heading"


@pytest.mark.parametrize("page", PAGES)
def test_prose_has_one_width(page):
    """100 columns at most, but for tables, pictures and blocks of code."""
    for line in FENCED.sub("", PAGES[page]).splitlines():
        assert len(line) <= 100 or line.startswith(("|", "!")), line


def test_readme_can_be_read_in_one_sitting():
    """12 to 15 KB; what is longer lies in docs/, and each page there is linked."""
    assert 12_000 <= len(README.encode()) <= 15_360
    for page in PAGES:
        assert page == "README.md" or f"]({page})" in README, f"README.md has no link to {page}"


# ---- The papers' tables --------------------------------------------------------------------------

def test_row_table_is_the_registry():
    """A line for every row, whose flags make its configuration."""
    for name, row in ROWS.items():
        flags = row_flags(row)
        shown = f"`{flags}`" if flags else "-"
        top1 = "-" if row.top1 is None else row.top1
        line = f"| `{name}` | {row.what} | {shown} | {top1} |\n"
        assert line in PAGES["docs/tables.md"], f"docs/tables.md lacks this line: {line}"
        (made,), _ = build_configs(flags.split(), (PeVLConfig,))
        assert made == PeVLConfig(**row.overrides), f"{name}: its flags make another model"


RESULTS = """\
| Diving48 | top-1 | 91.9 | 92.5 | not run |
| Gym99 | top-1 / mean | 96.5 / 91.6 | 97.0 / 91.8 | not run |
| Gym288 | top-1 / mean | 90.5 / 63.9 | 91.8 / 64.0 | not run |
| HAA500 | top-1 | 84.3 | 84.7 | not run |
| Toyota-Smarthome | mean | 73.3 | 73.8 | not run |
| UCF-101, ViLP (ViT-B/16, no video pretraining) | top-1 | 92.81 | - | not run |
| HMDB-51, ViLP (ViT-B/16, no video pretraining) | top-1 | 73.02 | - | not run |
| UCF-101, ViLP (ViT-B/16, Kinetics first) | top-1 | 96.11 | - | not run |
| HMDB-51, ViLP (ViT-B/16, Kinetics first) | top-1 | 75.75 | - | not run |
"""


def test_results_are_the_papers():
    """README's table of results: typed once more, from Tables 1 to 3 of PeVL and ViLP's own."""
    for line in RESULTS.splitlines():
        assert line in README, f"README.md lacks this line: {line}"


@pytest.mark.parametrize("name, gmacs, tunable, top1", [
    ("v", 275, 7, 62.9), ("p", 108, 11, 82.6), ("v+p", 393, 22, 86.2), ("v+t", 364, 13, 65.1),
    ("p+t", 197, 17, 83.8), ("v+p+t", 482, 28, 87.3), ("pevl", 510, 32, 91.9),
])
def test_paper_figures_are_the_papers(name, gmacs, tunable, top1):
    """Table 7, typed once more: GMACs, tunable parameters in millions, top-1."""
    row = ROWS[f"table7/{name}"]
    assert row.gmacs == gmacs
    assert row.tunable_m == tunable
    assert row.top1 == top1
