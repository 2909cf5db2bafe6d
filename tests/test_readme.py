"""README and docs/: maps name what exists, commands parse, links lead somewhere, the papers' figures are theirs."""
import ast
import contextlib
import importlib
import io
import re
from pathlib import Path

import pytest

import bench
import mutate
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
PAGES.update({f"docs/{path.name}": path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md"))})
FENCED = re.compile(r"^```\n(.*?)^```", re.M | re.S)
COMMAND = re.compile(r"(python|torchrun) ")


def commands_of(page):
    """Every command of a page: lines of its blocks, continued ones joined, and what stands in backticks."""
    found = set()
    for block in FENCED.findall(page):
        for line in block.replace("\\\n", " ").splitlines():
            found.add(line.split("#")[0].strip())
    for code in re.findall(r"`([^`\n]+)`", FENCED.sub("", page)):
        found.add(code.strip())
    return sorted(line for line in found if COMMAND.match(line))


def functions_of(name):
    tree = ast.parse((ROOT / "tests" / name).read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def product_files():
    """The program's own .py files, those of the tests left out."""
    files = [*ROOT.glob("*.py")]
    for folder in ("classroom", "label", "published", "report", "support", "systems", "tables", "toy"):
        files += (ROOT / folder).glob("*.py")
    return files


# ---- Maps ----------------------------------------------------------------------------------------

def maps():
    """(function names, test name) of every row of the README's map and of pevl.py's own."""
    for line in README.splitlines():
        if found := re.match(r"\| [^|]+\| [^|]*\| (`[^|]+`) \| `(test_\w+)` \|", line):
            yield re.findall(r"`([^`]+)`", found[1]), found[2]
    for line in pevl.__doc__.splitlines():
        if found := re.match(r"[^|]+\|[^|]+\|([^|]+)\|\s*(test_\w+)", line):
            yield [name.strip() for name in found[1].split(",")], found[2]


def find(name):
    """`P2V` or `PeVL.losses` in pevl.py, `systems.vilp.ViLP` in its own file; AttributeError if it is not there."""
    place = pevl
    parts = name.split(".")
    if (ROOT / parts[0]).is_dir():
        place = importlib.import_module(".".join(parts[:2]))
        parts = parts[2:]
    for part in parts:
        place = getattr(place, part)


def test_maps_name_what_exists():
    rows, known = list(maps()), functions_of("test_pevl.py")
    assert len(rows) >= 16
    for names, test in rows:
        assert test in known, test
        for name in names:
            find(name)


def test_house_is_described():
    """A line of README for each file and folder that is there, and for no other."""
    named = set(re.findall(r"^\| `([a-z_]+(?:\.py|/))` \|", README, re.M))
    there = {path.name for path in ROOT.glob("*.py")}
    for path in ROOT.iterdir():
        if (path / "__init__.py").is_file() or path.name in ("assets", "docs", "tests"):
            there.add(f"{path.name}/")
    assert named == there


def test_ledger_rows_and_marks_agree():
    """Every D-number of the code has a row, the rows count up, and the tests that they name are there."""
    ledger = PAGES["docs/ledger.md"]
    rows = [int(n) for n in re.findall(r"^\| D(\d+) \|", ledger, re.M)]
    assert rows == list(range(1, len(rows) + 1)) and rows
    for file in product_files():
        for mark in re.findall(r"\bD(\d+)\b", file.read_text("utf-8")):
            assert int(mark) in rows, f"{file.name}: D{mark}"
    for name, page in PAGES.items():
        for mark in re.findall(r"\bD(\d+)\b", page):
            assert int(mark) in rows, f"{name}: D{mark}"
    known = set()
    for path in (ROOT / "tests").glob("test_*.py"):
        known |= functions_of(path.name)
    for test in re.findall(r"\btest_\w+", "\n".join(re.findall(r"^\| D\d.*", ledger, re.M))):
        assert test in known, test


# ---- Commands ------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def helps():
    """Script, module or subcommand -> its --help."""
    def said(main, *words):
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
            main([*words, "--help"])
        return out.getvalue()

    texts = {"train.py": said(train.main), "eval.py": said(ev.main), "data.py": said(data.main),
             "tests/bench.py": said(bench.main), "tests/mutate.py": said(mutate.main), "pose.py extract": said(pose.main, "extract"),
             "pose.py import": said(pose.main, "import"), "tables.costs": said(costs.main),
             "toy.stills": said(stills.main), "toy.alignment": said(alignment.main),
             "toy.show": said(show.main)}
    texts["classroom"] = "".join(said(classroom_command, *words) for words in
                                 ([], ["make"], ["grade"], ["hidden"], ["board"]))
    texts["toy.lab"] = said(lab.main) + texts["train.py"]          # what it does not know it hands on
    return texts


def script_of(command):
    """The key of `helps` that a command belongs to, and its words from there; None for pytest and the like."""
    words = command.split()
    if words[:2] == ["python", "-m"]:
        return (None if words[2] == "pytest" else words[2]), words[3:]
    script = next((word for word in words if word.endswith(".py")), None)
    if script is None:
        return None, []
    rest = words[words.index(script) + 1:]
    return (f"{script} {rest[0]}" if script == "pose.py" else script), rest


@pytest.mark.parametrize("page", PAGES)
def test_commands_use_flags_that_exist(helps, page):
    for command in commands_of(PAGES[page]):
        key, words = script_of(command)
        if key is None:
            continue
        for flag in re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", " ".join(words)):
            assert re.search(rf"(?<![\w-]){flag}(?![\w-])", helps[key]), f"{command}: {flag}"
        for name in re.findall(r"--data (\S+)", command):
            assert name == "NAME" or name in data.DATASETS, command
        for name in re.findall(r"--backbone (\S+)", command):
            assert name in BACKBONES, command
        for name in re.findall(r"--row (\S+)", command):
            assert name in ROWS, command


def test_there_are_commands_to_check():
    assert sum(len(commands_of(page)) for page in PAGES.values()) >= 30
    assert len(commands_of(README)) >= 10


@pytest.mark.parametrize("page", PAGES)
def test_flags_in_the_text_exist(helps, page):
    """What stands in backticks and begins with a flag is one of some command's."""
    for code in re.findall(r"`(--[^`\n]+)`", FENCED.sub("", PAGES[page])):
        for flag in re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", code):
            assert any(re.search(rf"(?<![\w-]){flag}(?![\w-])", text) for text in helps.values()), f"{page}: {flag}"


# ---- Data sets -----------------------------------------------------------------------------------

@pytest.mark.parametrize("name", [name for name in data.DATASETS if not name.startswith("toy")])
def test_data_sections_agree_with_the_registry(name, capsys):
    """Tree, counts, metrics, prompt, commands and the paper's counts of each data set, as `data.py` has them."""
    entry, page = data.DATASETS[name], PAGES["docs/data.md"]
    section = page.split(f"\n## {entry.title[0].upper()}{entry.title[1:]}\n")[1].split("\n##")[0]
    blocks = FENCED.findall(section)
    assert blocks == [f"python data.py layout {name}\npython data.py check {name} --root DIR\n"
                      f"python train.py --data {name} --root DIR --backbone ViT-B/16\n"]
    # The section's one block holds commands: its tree is printed and not typed again.
    data.main(["layout", name, "--root", "DIR"])
    title, tree = capsys.readouterr().out.split("\n\n", 1)
    assert title == f"{name}: {entry.title}" and tree.startswith("DIR/\n") and "poses/" in tree
    text = " ".join(section.split())
    assert entry.paper in text and "Files: " in text
    counts = [(f"{variant}: " if variant else "") + " / ".join(
        f"{split[part]:,}" if part in split else "-" for part in ("train", "val", "test"))
        for variant, split in entry.counts.items() if split]
    prompt = entry.prompt.replace("{}", "...")
    assert (f"| `{name}` | {entry.classes or 'yours'} | {'; '.join(counts) or '-'} | \"{prompt}\" | "
            f"{', '.join(entry.metrics)} |\n") in page


# ---- Form ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("page", PAGES)
def test_pictures_and_links_are_there(page):
    """A relative link leads to a file and, where it names one, to a heading of it."""
    folder = (ROOT / page).parent
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", PAGES[page]):
        assert (folder / path).stat().st_size > 1000, path
    for link in re.findall(r"(?<!!)\[[^\]]*\]\(([^)]+)\)", PAGES[page]):
        path, _, heading = link.partition("#")
        target = (folder / path).resolve()
        assert target.is_file(), link
        headings = [re.sub(r"[^\w -]", "", line.lower()).strip().replace(" ", "-")
                    for line in re.findall(r"^#+ (.*)", target.read_text("utf-8"), re.M)]
        assert not heading or heading in headings, link


@pytest.mark.parametrize("page", PAGES)
def test_prose_has_one_width(page):
    for line in FENCED.sub("", PAGES[page]).splitlines():
        assert len(line) <= 100 or line.startswith(("|", "!")), line


def test_readme_can_be_read_in_one_sitting():
    """12 to 15 KB; what is longer lies in docs/, and each page there is linked."""
    assert 12_000 <= len(README.encode()) <= 15_360
    for page in PAGES:
        assert page == "README.md" or f"]({page})" in README, page


# ---- The papers' tables --------------------------------------------------------------------------

def test_row_table_is_the_registry():
    """A line for every row, whose flags make its configuration."""
    for name, row in ROWS.items():
        flags = row_flags(row)
        top1 = "-" if row.top1 is None else row.top1
        line = f"| `{name}` | {row.what} | {f'`{flags}`' if flags else '-'} | {top1} |\n"
        assert line in PAGES["docs/tables.md"]
        (made,), _ = build_configs(flags.split(), (PeVLConfig,))
        assert made == PeVLConfig(**row.overrides)


def test_paper_figures_are_the_papers():
    """Typed once more, from Tables 1 to 3 and 7 of the paper."""
    for line in ("| Diving48 | top-1 | 91.9 | 92.5 | not run |", "| Gym99 | top-1 / mean | 96.5 / 91.6 | 97.0 / 91.8 | not run |",
                 "| Gym288 | top-1 / mean | 90.5 / 63.9 | 91.8 / 64.0 | not run |", "| HAA500 | top-1 | 84.3 | 84.7 | not run |",
                 "| Toyota-Smarthome | mean | 73.3 | 73.8 | not run |",
                 "| UCF-101, ViLP (ViT-B/16, no video pretraining) | top-1 | 92.81 | - | not run |",
                 "| HMDB-51, ViLP (ViT-B/16, no video pretraining) | top-1 | 73.02 | - | not run |",
                 "| UCF-101, ViLP (ViT-B/16, Kinetics first) | top-1 | 96.11 | - | not run |",
                 "| HMDB-51, ViLP (ViT-B/16, Kinetics first) | top-1 | 75.75 | - | not run |"):
        assert line in README
    rows = {"v": (275, 7, 62.9), "p": (108, 11, 82.6), "v+p": (393, 22, 86.2), "v+t": (364, 13, 65.1), "p+t": (197, 17, 83.8),
            "v+p+t": (482, 28, 87.3), "pevl": (510, 32, 91.9)}
    for name, figures in rows.items():
        row = ROWS[f"table7/{name}"]
        assert (row.gmacs, row.tunable_m, row.top1) == figures
