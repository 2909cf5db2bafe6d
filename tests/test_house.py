"""The house: which files there are, how long they are, and that imports run one way.

STEPS is the order of the program from the ground up: whoever reads a file need only have read what
stands on lower steps. A new module fails here until it has a step.
"""
import ast
import doctest
import fnmatch
import functools
import importlib
import re
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent

# From the ground up. A file may import what stands on a lower step, and its neighbours on its own.
STEPS = [
    ["support"],
    ["published"],
    ["toy.divers", "toy.picture", "toy.captions", "toy.tree", "toy.show", "toy.presets"],
    ["clip_model", "pose"],
    ["report.draw", "report.text", "report.log", "report.timeline", "report.metrics",
     "report.record", "report.style", "report.markup", "report.wording", "report.figures",
     "report.confusion", "report.contents", "report.beside", "report.page"],
    ["systems.config"],
    ["systems.base", "systems.heatmaps", "systems.readings", "systems.initialisation"],
    ["pevl", "data"],
    ["systems.vilp", "systems.aim", "systems.zero_shot", "systems.transfer", "systems.views",
     "systems.refusals"],
    ["systems.registry"],
    ["report.results"],
    ["tables.rows", "tables.printed", "tables.costs"],
    ["report.evidence"],
    ["label"],
    ["tables.fit"],
    ["eval"],
    ["train", "hubconf"],
    ["toy.results"],
    ["toy.stills", "toy.lab", "toy.alignment"],
    ["classroom"],
]
# Optional or costly packages, which are imported where they are used.
OPTIONAL = {"fcntl", "resource", "ftfy", "regex", "safetensors", "torch.utils.tensorboard",
            "importlib"}
# An import of a package says nothing of the files in it: these are walked one by one.
PACKAGES = {"assets", "classroom", "label", "published", "report", "support", "systems", "tables",
            "toy"}
SIX = {"pevl", "clip_model", "pose", "data", "eval", "train"}
SCREEN = 100                                      # columns


def sources():
    """Module name -> file, of the program itself."""
    found = {}
    for path in HERE.rglob("*.py"):
        parts = path.relative_to(HERE).parts
        if parts[0] in ("tests", "build") or any(part.startswith(".") for part in parts):
            continue
        if (HERE / parts[0] / "pyvenv.cfg").exists():         # a virtual environment beside us
            continue
        name = ".".join(path.relative_to(HERE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


@functools.lru_cache(maxsize=None)
def tree_of(path):
    """The syntax of a file, read once for all tests."""
    return ast.parse(path.read_text("utf-8"))


def belongs(name, names):
    """Whether a module is one of `names`, or a part of one."""
    return any(name == one or name.startswith(one + ".") for one in names)


def step_of(name):
    for number, names in enumerate(STEPS):
        if belongs(name, names):
            return number
    raise AssertionError(f"{name} stands nowhere in tests/test_house.py: say on which step")


@dataclass
class Import:
    """One module that an import statement names."""
    module: str
    line: int


def imports_in(node):
    """Every import below a node of a syntax tree."""
    found = []
    for inner in ast.walk(node):
        if isinstance(inner, ast.Import):
            for alias in inner.names:
                found.append(Import(alias.name, inner.lineno))
        if isinstance(inner, ast.ImportFrom):
            module = inner.module or ""
            found.append(Import(module, inner.lineno))
            for alias in inner.names:             # `from toy import tree` imports toy.tree
                found.append(Import(f"{module}.{alias.name}", inner.lineno))
    return found


def arrows():
    """Module -> the modules of ours that it imports, packages left out."""
    modules = sources()
    found = {}
    for name, path in modules.items():
        targets = {one.module for one in imports_in(tree_of(path))}
        found[name] = sorted(targets & modules.keys() - PACKAGES)
    return found


def test_imports_run_one_way():
    """An arrow that runs up is a file that cannot be read before what stands above it."""
    wrong = []
    for name, targets in arrows().items():
        if name in PACKAGES:
            continue
        for target in targets:
            if step_of(target) > step_of(name):
                wrong.append(f"{name} imports {target}, which stands above it")
    assert not wrong, wrong


def test_no_circles():
    """Of two files, one can be read first."""
    targets_of = arrows()
    done = set()

    def walk(name, path):
        assert name not in path, " -> ".join([*path, name])
        if name in done:
            return
        for target in targets_of[name]:
            walk(target, [*path, name])
        done.add(name)

    for name in targets_of:
        walk(name, [])


def test_imports_stand_at_the_top():
    """But for optional packages: a reader sees at the top what a file stands on."""
    wrong = []
    for path in sources().values():
        for function in ast.walk(tree_of(path)):
            if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            for one in imports_in(function):
                if not belongs(one.module, OPTIONAL):
                    place = f"{path.name}:{one.line}"
                    wrong.append(f"{place} imports {one.module} inside {function.name}")
    assert not wrong, wrong


def test_only_commands_change_how_python_ends():
    """support/interrupt.py sets sys.excepthook: whoever imports a file of ours keeps his own."""
    wrong = []
    for name, path in sources().items():
        for statement in tree_of(path).body:
            is_of_a_command = isinstance(statement, ast.If) and "__name__" in ast.dump(statement)
            if is_of_a_command:
                continue
            for one in imports_in(statement):
                if belongs(one.module, {"support.interrupt"}):
                    wrong.append(f"{name}, line {one.line}")
    assert not wrong, f"imports support.interrupt, also for those who import it: {wrong}"


def test_top_level_is_six_files():
    """The six names are the reader's, hubconf is torch.hub's; all else lives in folders."""
    there = {path.stem for path in HERE.glob("*.py")}
    assert there == SIX | {"hubconf"}


def test_no_file_makes_a_reader_give_up():
    """About 900 lines with its comments; pevl.py may be longer, whose order is the paper's."""
    for name, path in sources().items():
        most = 1100 if name == "pevl" else 950
        lines = len(path.read_text("utf-8").splitlines())
        assert lines <= most, f"{name} has {lines} lines: it does two jobs"


def test_lines_fit_a_screen():
    """100 columns at most, in every file of the program and of its tests."""
    wide = []
    for path in [*sources().values(), *(HERE / "tests").rglob("*.py")]:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if len(line) > SCREEN:
                wide.append(f"{path.relative_to(HERE)}:{number}")
    assert not wide, wide


def test_tests_that_the_maps_name_are_where_they_say():
    """A table at the head of a file says which test proves what, and in which file of tests.

    The file stands in the test's own row, or at the head of the column. Where neither names one,
    the test may be anywhere.
    """
    tests_of = {}                                 # name of a file -> its tests
    for path in (HERE / "tests").rglob("test_*.py"):
        tests_of[path.name] = re.findall(r"def (test_\w+)", path.read_text("utf-8"))

    for name, path in sources().items():
        told = ast.get_docstring(tree_of(path)) or ""
        at_the_head = []
        for line in told.splitlines():
            cell = line.split("|")[-1]            # the column of tests is the last one
            files = re.findall(r"test_[\w*]+\.py", cell)
            words = re.findall(r"test_\w+(?![\w*]*\.py)(?:\*|\.\.\.)?", cell)
            if "|" in line and files and not words:       # a row that goes on names neither
                at_the_head = files
            if not line.strip():                  # the table ends
                at_the_head = []
            for word in words:
                where = (files or at_the_head) if "|" in line else []
                assert has_test(word, tests_of, where or ["*"]), (
                    f"{name}: its docstring names {word} of {where or 'any file'}; it is not there")


def test_examples_of_docstrings_come_out_as_printed():
    """Small numbers that a reader redoes by hand, in whichever file they stand."""
    for name, path in sources().items():
        if re.search(r"^\s*>>> ", path.read_text("utf-8"), re.M):
            found = doctest.testmod(importlib.import_module(name))
            assert found.attempted > 0, f"{name}: its examples are not found"
            assert found.failed == 0, f"an example of {name} gives something else"


def has_test(word, tests_of, files):
    """Whether a file among `files` has that test; `*` and `...` stand for anything."""
    for file, tests in tests_of.items():
        named = any(fnmatch.fnmatch(file, pattern) for pattern in files)
        if named and fnmatch.filter(tests, word.replace("...", "*")):
            return True
    return False
