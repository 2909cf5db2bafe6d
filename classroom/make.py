"""The student's copy of this repository, and the teacher's folder of solutions.

Files of the top level, packages but TEACHERS, and FOLDERS go in, without what NOT_FOR_STUDENTS
names: no history, no test that holds an answer, nothing of classroom/. In the copy all works but
the blanked functions.

here            | what it writes                       | tests/test_classroom.py
make_copy       | the student's folder                 | test_copy_fails_with_nothing_but_...
write_golden    | inputs and right answers, as tensors | test_golden_answers_are_plain_tensors
assignment_text | ASSIGNMENT.md                        | test_assignment_page_says_all
make_solutions  | reference, private answers, rubric   | test_solutions_hold_what_a_teacher_needs
"""
import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from classroom.assignments import ASSIGNMENTS, MARKS, blanks_of
from classroom.blank import answers, blank, bodies
from support.files import atomic

HERE = Path(__file__).resolve().parent.parent
SPEC = Path("tests/spec")

# Of the top level, beside *.py and the packages. `docs` without the annotated source.
PLAIN = ("README.md", "LICENSE", "pyproject.toml", "requirements.txt", ".gitignore")
FOLDERS = ("assets", "docs")
TEACHERS = ("classroom",)                         # packages that students do not get
ORACLES = "oracles.py"
NOT_FOR_STUDENTS = ("__pycache__", "*.pyc", "*.html", ORACLES, "golden")


def refuse_full(folder):
    """ValueError where a folder has something in it: nothing of a person's is written over."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty. Expected a new folder. Choose another, or remove "
                         "this one.")
    return folder


def packages(root):
    """The folders with code that a student gets."""
    found = []
    for path in sorted(root.iterdir()):
        if (path / "__init__.py").is_file() and path.name not in TEACHERS:
            found.append(path.name)
    return found


def copy_tree(source, target):
    """A folder without what is the teacher's, and without what Python left behind."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*NOT_FOR_STUDENTS))


def copy_house(root, target):
    """Everything but tests, with the functions as they are."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(root.glob("*.py")):
        shutil.copy(path, target / path.name)
    for name in PLAIN:
        if (root / name).is_file():
            shutil.copy(root / name, target / name)
    for name in [*packages(root), *FOLDERS]:
        if (root / name).is_dir() and not (target / name).exists():
            copy_tree(root / name, target / name)

    # The list of packages to install must not name what is not there.
    settings = target / "pyproject.toml"
    text = settings.read_text("utf-8")
    for name in TEACHERS:
        text = text.replace(f'"{name}", ', "").replace(f', "{name}"', "")
    settings.write_text(text, "utf-8")


def copy_specifications(root, target):
    """The tests that are handed out, without the oracles."""
    if not (root / SPEC / ORACLES).is_file():
        raise ValueError(f"{root / SPEC / ORACLES} is missing. Expected a clone of the whole "
                         "repository: assignments are made from its tests. Clone it.")
    copy_tree(root / SPEC, target / SPEC)


def write_golden(root, folder, seed):
    """Right answers of all marks, drawn from `seed`, into `folder`: <mark>.pt, tensors alone.

    In a process of its own, since the oracles import their neighbours in tests/spec by name. Raises
    ValueError where it ends with an error.
    """
    command = [sys.executable, str(root / SPEC / ORACLES), str(folder), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    if done.returncode != 0:
        said = done.stderr[-500:]
        raise ValueError(f"the oracles ended with {done.returncode}: {said}. Expected right "
                         "answers. Run `python -m pytest tests/spec`.")


def make_blanks(root, target, marks):
    """Blank the functions of these marks in the copy; gives the statements that were taken out."""
    taken = []
    for file, messages in blanks_of(marks).items():
        source = (root / file).read_text("utf-8")
        taken += bodies(source, messages, file)
        with atomic(target / file) as part:
            part.write_text(blank(source, messages, file), "utf-8")
    return taken


def make_copy(target, marks, assignments=(), root=HERE):
    """Write the student's copy into a new folder.

    marks: whose functions are blanked. assignments: names, for the words of ASSIGNMENT.md. Raises
    ValueError where the folder is not empty or an answer is left in it.
    """
    target = refuse_full(target)
    copy_house(root, target)
    taken = make_blanks(root, target, marks)
    copy_specifications(root, target)
    write_golden(root, target / SPEC / "golden", seed=0)

    # A promise that is kept by looking: a body that was copied elsewhere would be found here.
    left = answers(target, taken)
    if left:
        places = "; ".join(f"{file}: {statement}" for file, statement in left[:5])
        raise ValueError(f"answers are left in {target}: {places}. Expected none. Blank these "
                         "functions, too, or leave the file out (classroom/make.py).")

    (target / "ASSIGNMENT.md").write_text(assignment_text(marks, assignments, root), "utf-8")
    note = {"marks": list(marks), "assignments": list(assignments)}
    (target / "assignment.json").write_text(json.dumps(note) + "\n", "utf-8")
    return target


# ---- Facts: the tests of a mark ------------------------------------------------------------------

def facts_of(mark, root=HERE):
    """The facts of a mark: name of the test -> its sentence, in the order of the file."""
    tree = ast.parse((root / SPEC / f"test_{mark}_facts.py").read_text("utf-8"))
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            found[node.name] = (ast.get_docstring(node) or "").splitlines()[0]
    return found


def worth(mark, root=HERE):
    """Points of one fact: a mark's points are shared out evenly."""
    return MARKS[mark].points / len(facts_of(mark, root))


# ---- Words ---------------------------------------------------------------------------------------

def measured(root):
    """The figures to reach, as README.md and docs/toy.md have them: nothing is typed twice."""
    found = {"pevl": "see README.md", "zero_shot": "see docs/toy.md"}
    said = re.search(r"^top-1 ([\d.]+ %)", (root / "README.md").read_text("utf-8"), re.M)
    if said:
        found["pevl"] = (f"the reference has {said[1]} top-1 on the test split with seed 0; reach "
                         "it within 3 points")
    toy = root / "docs" / "toy.md"
    if toy.is_file():
        said = re.search(r"`python eval.py --model clip --data toy` \| ([\d.]+)",
                         toy.read_text("utf-8"))
        if said:
            found["zero_shot"] = f"{said[1]} % top-1, chance is 6.3"
    return found


def assignment_text(marks, assignments=(), root=HERE):
    """ASSIGNMENT.md."""
    figures = measured(root)
    lines = []
    if assignments:
        for name in assignments:
            entry = ASSIGNMENTS[name]
            lines += [f"# {entry.title}", "", f"{entry.about} Expected: {entry.hours} "
                      f"{'' if entry.hours == 'a week' else 'hours'}".rstrip() + ".", ""]
    else:
        lines += ["# Assignment", ""]

    for mark in marks:
        entry = MARKS[mark]
        lines += [f"## {mark}: {entry.title}", "",
                  f"{entry.where}. {entry.points} points, {entry.hours} "
                  f"{'' if 'hour' in entry.hours else 'hours'}".rstrip() + f". {entry.task}", "",
                  "Yours to write, each where it stands:", ""]
        for file, names in entry.functions.items():
            for name in names:
                lines.append(f"- `{name}` in `{file}`")
        lines += ["", "The docstrings say shapes, ranges and formulas, and hold worked examples "
                  "that are small enough to redo by hand. Whatever else these files have is yours "
                  "to use. In words (hand in `ANSWERS.md`):", ""]
        for number, question in enumerate(entry.questions, start=1):
            lines.append(f"{number}. {question}")
        lines.append("")

    if marks:
        first = marks[0]
        lines += ["## How to test", "", "```", "pip install -r requirements.txt",
                  f"python -m pytest -m {first}", "```", "",
                  f"Each test of `tests/spec/test_{first}_facts.py` is one fact, named by the "
                  "fact; "
                  "where it does not hold, its message says which rule is broken and where to "
                  "look. At first all of them end in NotImplementedError. Points are shared out "
                  "evenly over the facts of a mark. The other marks' tests pass already and should "
                  "go on "
                  "doing so. The grading draws other numbers than yours.", ""]

    lines += ["## And then", ""]
    if assignments:
        for name in assignments:
            lines.append(ASSIGNMENTS[name].then.format(**figures))
    else:
        lines.append(f"`python train.py`: {figures['pevl']}.")
    lines += ["", "## How to hand in", ""]
    if marks:
        lines += ["The whole folder as it is, without `data/` and `out/`. Tests that you change or "
                  "delete are replaced by the teacher's. No package may be added, nothing may be "
                  "downloaded, and files may not be written: grading runs without a network.", ""]
    else:
        lines += ["The whole folder as it is, without `data/`; of `out/` the checkpoint that is to "
                  "be measured, such as `out/toy-pevl/best.pt`. It is measured with the `eval.py` "
                  "and `pevl.py` of your folder, on clips that nobody has seen.", ""]
    return "\n".join(lines)


def rubric_text(marks, root=HERE):
    """rubric.md: what each fact is worth, and what to look for in the answers in words."""
    lines = ["# Rubric", ""]
    for mark in marks:
        entry = MARKS[mark]
        facts = facts_of(mark, root)
        lines += [f"## {mark}: {entry.title}, {entry.points} points", "",
                  f"{len(facts)} facts, {worth(mark, root):.2f} points each:", ""]
        for name, sentence in facts.items():
            lines.append(f"- `{name}`: {sentence}")
        lines += ["", "Questions, to be read by a person:", ""]
        for question in entry.questions:
            lines.append(f"- {question}")
        lines += ["", f"Where the answers stand: the docstrings of {entry.where} in the reference, "
                  "and docs/ledger.md.", ""]
    return "\n".join(lines)


def make_solutions(target, marks, seed, root=HERE):
    """The teacher's folder: reference files, oracles, private answers of `seed`, rubric.md."""
    target = refuse_full(target)
    for file in blanks_of(marks):
        (target / "reference" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / file, target / "reference" / file)
    (target / SPEC).parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(root / SPEC, target / SPEC, ignore=shutil.ignore_patterns("__pycache__"))
    write_golden(root, target / "golden", seed)
    (target / "rubric.md").write_text(rubric_text(marks, root), "utf-8")
    return target
