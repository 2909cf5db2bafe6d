"""The README's promises: its map names what exists, its commands parse, its paper figures are the paper's."""
import ast
import contextlib
import io
import re
from pathlib import Path

import pytest

import bench
import data
import eval as ev
import pevl
import pose
import train
from clip_model import BACKBONES
from support.settings import build_configs

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```", README, re.M | re.S)
COMMANDS = sorted({line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines()
                   if re.match(r"(python|torchrun) ", line)})


def functions_of(name):
    tree = ast.parse((ROOT / "tests" / name).read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def maps():
    """(function names, test name) of every row of the README's map and of pevl.py's own."""
    for line in README.splitlines():
        if found := re.match(r"\| [^|]+\| [^|]*\| (`[^|]+`) \| `(test_\w+)` \|", line):
            yield re.findall(r"`([^`]+)`", found[1]), found[2]
    for line in pevl.__doc__.splitlines():
        if found := re.match(r"[^|]+\|[^|]+\|([^|]+)\|\s*(test_\w+)", line):
            yield [name.strip() for name in found[1].split(",")], found[2]


def test_maps_name_what_exists():
    rows, known = list(maps()), functions_of("test_pevl.py")
    assert len(rows) >= 16
    for names, test in rows:
        assert test in known, test
        for name in names:
            place = pevl
            for part in name.split("."):
                place = getattr(place, part)


def test_ledger_rows_and_marks_agree():
    """Every D-number of the code has a row, and the rows count up."""
    rows = [int(n) for n in re.findall(r"^\| D(\d+) \|", README, re.M)]
    assert rows == list(range(1, len(rows) + 1)) and rows
    for file in ("pevl.py", "clip_model.py", "pose.py", "data.py", "train.py", "eval.py"):
        for mark in re.findall(r"\bD(\d+)\b", (ROOT / file).read_text("utf-8")):
            assert int(mark) in rows, f"{file}: D{mark}"


@pytest.fixture(scope="module")
def helps():
    """Script (and subcommand) -> its --help."""
    def said(main, *words):
        with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit):
            main([*words, "--help"])
        return out.getvalue()

    return {"train.py": said(train.main), "eval.py": said(ev.main), "data.py": said(data.main), "tests/bench.py": said(bench.main),
            "pose.py extract": said(pose.main, "extract"), "pose.py import": said(pose.main, "import")}


def test_commands_use_flags_that_exist(helps):
    assert len(COMMANDS) >= 10
    for command in COMMANDS:
        words = command.split()
        script = next((word for word in words if word.endswith(".py")), None)
        if script is None:
            continue
        key = f"{script} {words[words.index(script) + 1]}" if script == "pose.py" else script
        for flag in re.findall(r"(?<=\s)--[a-z][a-z-]*", " ".join(words[words.index(script):])):
            assert re.search(rf"{flag}\b", helps[key]), f"{command}: {flag}"
        for name in re.findall(r"--data (\S+)", command):
            assert name == "NAME" or name in data.DATASETS, command
        for name in re.findall(r"--backbone (\S+)", command):
            assert name in BACKBONES, command
        for name in re.findall(r"--row (\S+)", command):
            assert name in pevl.ROWS, command


@pytest.mark.parametrize("name", [name for name in data.DATASETS if not name.startswith("toy")])
def test_data_sections_agree_with_the_registry(name, capsys):
    """Tree, counts, metrics, prompt, commands and the paper's counts of each data set, as `data.py` has them."""
    entry = data.DATASETS[name]
    section = README.split(f"\n### {entry.title[0].upper()}{entry.title[1:]}\n")[1].split("\n##")[0]
    data.main(["layout", name, "--root", "DIR"])
    tree = capsys.readouterr().out.split("\n\n", 1)[1]
    blocks = re.findall(r"^```\n(.*?)^```", section, re.M | re.S)
    assert blocks[0] == tree
    assert f"python data.py check {name} --root DIR\n" in blocks[1] and f"train.py --data {name} --root DIR" in blocks[1]
    assert entry.paper in section and "Files: " in section
    counts = [(f"{variant}: " if variant else "") + " / ".join(
        f"{split[part]:,}" if part in split else "-" for part in ("train", "val", "test"))
        for variant, split in entry.counts.items() if split]
    prompt = entry.prompt.replace("{}", "...")
    assert (f"| `{name}` | {entry.classes or 'yours'} | {'; '.join(counts) or '-'} | \"{prompt}\" | "
            f"{', '.join(entry.metrics)} |\n") in README


def test_pictures_are_there():
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).stat().st_size > 1000, path


def test_row_table_is_the_registry():
    """A line for every row, whose flags make its configuration."""
    for name, row in pevl.ROWS.items():
        flags = train.row_flags(row)
        assert f"| `{name}` | {row.what} | {f'`{flags}`' if flags else '-'} | {row.top1} |\n" in README
        (made,), _ = build_configs(flags.split(), (pevl.PeVLConfig,))
        assert made == pevl.PeVLConfig(**row.overrides)


def test_paper_figures_are_the_papers():
    """Typed once more, from Tables 1 to 3 and 7 of the paper."""
    for line in ("| Diving48 | top-1 | 91.9 | 92.5 | not run |", "| Gym99 | top-1 / mean | 96.5 / 91.6 | 97.0 / 91.8 | not run |",
                 "| Gym288 | top-1 / mean | 90.5 / 63.9 | 91.8 / 64.0 | not run |", "| HAA500 | top-1 | 84.3 | 84.7 | not run |",
                 "| Toyota-Smarthome | mean | 73.3 | 73.8 | not run |"):
        assert line in README
    rows = {"v": (275, 7, 62.9), "p": (108, 11, 82.6), "v+p": (393, 22, 86.2), "v+t": (364, 13, 65.1), "p+t": (197, 17, 83.8),
            "v+p+t": (482, 28, 87.3), "pevl": (510, 32, 91.9)}
    for name, figures in rows.items():
        row = pevl.ROWS[f"table7/{name}"]
        assert (row.gmacs, row.tunable_m, row.top1) == figures
