"""classroom/: the student's copy holds no answer and fails as it should; grading survives students.

A copy for students is made once, with the functions of all marks blanked. Its specifications are
run as a student would run them: they must end in NotImplementedError, and hold once the files of
this repository are in their place. Then what is handed in: which of it comes along, and what
manners cost. Facts, marks and points are those of classroom/assignments.py.
"""
import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch

from classroom import grade as grading
from classroom import __main__ as commands
from classroom import make, report
from classroom.__main__ import main
from classroom.assignments import ASSIGNMENTS, MARKS, blanks_of, chosen
from classroom.blank import answers, blank, bodies, functions_in
from classroom.grade import Fact, Result, grade

ROOT = Path(__file__).resolve().parent.parent


# One assignment, of reading alone, blanks nothing.
WITH_MARKS = [name for name, entry in ASSIGNMENTS.items() if entry.marks]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The student's copy in which every mark is blank."""
    return make.make_copy(tmp_path_factory.mktemp("class") / "copy", list(MARKS))


def start_specifications(folder, marks):
    """Begin pytest in a copy, on one core -> its process."""
    report = f"--junitxml={folder.with_suffix('.xml')}"
    command = [sys.executable, "-m", "pytest", "-q", report, "--tb=line", "-p", "no:cacheprovider",
               "-m", " or ".join(marks)]
    return subprocess.Popen(command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"},
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def outcome_of(process, folder):
    """Wait for it -> test_<mark>_facts::test -> "" where it passed, else the error's first line."""
    process.wait()
    outcome = {}
    for case in ElementTree.parse(folder.with_suffix(".xml")).iter("testcase"):
        file = case.get("classname").split(".")[-1]
        failed = [*case.iter("failure"), *case.iter("error")]
        message = failed[0].get("message") if failed else ""
        outcome[f"{file}::{case.get('name')}"] = message
    return outcome


def run_specifications(folder, marks):
    return outcome_of(start_specifications(folder, marks), folder)


def restore(folder, marks):
    """Put the files of this repository in the place of a copy's blanked ones."""
    for file in blanks_of(marks):
        shutil.copy(ROOT / file, folder / file)


@pytest.fixture(scope="module")
def outcomes(copy):
    """What comes of the specifications: in the copy, and in one with the reference restored."""
    restored = copy.with_name("restored")
    shutil.copytree(copy, restored)
    restore(restored, MARKS)
    in_copy = start_specifications(copy, MARKS)                # side by side: they take their time
    in_restored = start_specifications(restored, MARKS)
    return SimpleNamespace(copy=outcome_of(in_copy, copy),
                           restored=outcome_of(in_restored, restored))


# ---- What can be handed out ----------------------------------------------------------------------

@pytest.mark.parametrize("mark", MARKS)
def test_marks_name_what_exists(mark):
    """Functions that are there, facts with a sentence each, points for each."""
    for file, names in MARKS[mark].functions.items():
        functions = functions_in(ast.parse((ROOT / file).read_text("utf-8")))
        missing = set(names) - set(functions)
        assert not missing, f"{file} has no {missing}"
    facts = make.facts_of(mark)
    assert len(facts) >= 7
    assert all(facts.values()), "a fact without a sentence"
    assert make.worth(mark) * len(facts) == pytest.approx(MARKS[mark].points)


def test_assignments_are_complete():
    """Six, of known marks, each with hours, a reason and a figure to reach."""
    assert len(ASSIGNMENTS) == 6
    figures = make.measured(ROOT)
    assert "top-1" in figures["pevl"]
    assert "top-1" in figures["zero_shot"]
    for name, entry in ASSIGNMENTS.items():
        assert set(entry.marks) <= set(MARKS), f"{name} has an unknown mark"
        assert entry.hours and entry.about, f"{name} does not say how long, or why"
        assert figures["pevl"] in entry.then.format(**figures), f"{name} has no figure to reach"


def test_names_that_are_not_there():
    """Marks in the order of the paper; a mistyped name gets the nearest."""
    assert chosen(["eq5", "p2v"]) == (["eq1", "eq5"], ["p2v"])
    with pytest.raises(ValueError, match="'eq9'.*Did you mean 'eq"):
        chosen(["eq9"])


# ---- Blanking ------------------------------------------------------------------------------------

SOURCE = '''def double(x, *, by=2):
    """Twice x.

    >>> double(2)
    4
    """
    # the way
    result = x * by + 0 * len(str(x))
    return result


class Thing:
    def method(self):
        # how
        return [value for value in range(1000)]

    def other(self):
        return 1
'''


def test_blanked_functions_keep_signature_and_docstring():
    """Nothing else goes, and of the bodies nothing stays, comments neither."""
    blanked = blank(SOURCE, {"double": "Eq. (0)", "Thing.method": "Eq. (1)"})
    for kept in ("def double(x, *, by=2):", ">>> double(2)", "return 1"):
        assert kept in blanked, f"{kept!r} has to stay"
    for taken in ("the way", "how", "result"):
        assert taken not in blanked, f"{taken!r} is a part of an answer"

    space = {}
    exec(blanked, space)
    with pytest.raises(NotImplementedError, match=r"Eq. \(0\)"):
        space["double"](1)
    with pytest.raises(NotImplementedError, match=r"Eq. \(1\)"):
        space["Thing"]().method()
    assert space["Thing"]().other() == 1, "a method that nobody asked for was blanked"


def test_a_function_that_is_not_there_cannot_be_blanked():
    """A mistyped name is an error, not a copy with the answer left in it."""
    with pytest.raises(ValueError, match="no function gone"):
        blank(SOURCE, {"gone": ""})


def test_an_answer_is_found(tmp_path):
    """Wherever it stands and however it is laid out; what is no answer is not taken for one."""
    wanted = bodies(SOURCE, ["double"])
    assert wanted == ["result = x * by + 0 * len(str(x))"]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.html").write_text("<b>result = x * by +\n   0 * len( str(x) )</b>")
    (tmp_path / "b.py").write_text("def f(x, by):\n"
                                   "    if by:\n"
                                   "        result = (x*by + 0*len(str(x)))\n")
    (tmp_path / "c.py").write_text("result = x * by\n")
    assert [file for file, _ in answers(tmp_path, wanted)] == ["b.py", "docs/a.html"]


@pytest.mark.parametrize("file", blanks_of(MARKS))
def test_real_files_keep_all_else(file):
    """Blanked and whole file have the same names and docstrings."""
    source = (ROOT / file).read_text("utf-8")
    names = blanks_of(MARKS)[file]
    before = functions_in(ast.parse(source))
    after = functions_in(ast.parse(blank(source, names, file)))
    assert list(before) == list(after), "a function has gone, or moved"
    for name, node in before.items():
        assert ast.get_docstring(node) == ast.get_docstring(after[name]), name
        assert ast.unparse(node.args) == ast.unparse(after[name].args), name
        is_same = ast.unparse(node) == ast.unparse(after[name])
        if name in names:
            assert not is_same, f"{name} is not blanked"
        else:
            assert is_same, f"{name} is changed, and is of no mark"


# ---- The copy ------------------------------------------------------------------------------------

def test_no_answer_is_in_the_copy(copy):
    """No history, no oracle, no other test, no statement that was taken out."""
    files = {path.relative_to(copy).as_posix() for path in copy.rglob("*")}
    hidden = {name for name in files if name.split("/")[0].startswith(".")}
    assert hidden <= {".gitignore"}, "a history holds every answer"
    for name in files:
        for part in ("oracles", "classroom/", "mutat"):
            assert part not in name, f"{name} is the teacher's"

    handed_out = {"tests/spec", "tests/spec/golden", "tests/spec/spec.py",
                  "tests/spec/expected.py", "tests/spec/test_given.py"}
    for mark in MARKS:
        handed_out.add(f"tests/spec/test_{mark}_facts.py")
        handed_out.add(f"tests/spec/golden/{mark}.pt")
    assert {name for name in files if name.startswith("tests/")} == handed_out

    packages = (copy / "pyproject.toml").read_text("utf-8")
    assert '"toy"' in packages and '"classroom"' not in packages, "pip would look for it in vain"

    taken = []
    for file, names in blanks_of(MARKS).items():
        taken += bodies((ROOT / file).read_text("utf-8"), names, file)
    assert len(taken) > 60, "hardly a statement was taken out"
    assert not answers(copy, taken), "an answer is left in the copy"


def test_copy_fails_with_nothing_but_what_is_to_be_done(outcomes):
    """Every fact of every mark ends in NotImplementedError; what is given holds."""
    given = []
    facts = {mark: set() for mark in MARKS}
    for test, said in outcomes.copy.items():
        file, name = test.split("::")
        if file == "test_given":
            given.append(test)
            assert not said, f"{test} is given, and fails: {said}"
        else:
            facts[file.removeprefix("test_").removesuffix("_facts")].add(name.split("[")[0])
            assert said.startswith("NotImplementedError"), f"{test}: {said or 'it passes'}"
    assert given, "no fact of test_given.py was run"
    for mark in MARKS:
        assert facts[mark] == set(make.facts_of(mark)), f"other facts of {mark} than are graded"


def test_copy_passes_with_the_reference_restored(outcomes):
    """With the files of this repository in place, all facts hold, against the golden answers."""
    assert len(outcomes.restored) > 150, "hardly a fact was run"
    failed = {test: said for test, said in outcomes.restored.items() if said}
    assert failed == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_MARKS)
def test_every_assignment_is_as_it_should_be(name, tmp_path):
    """Its own marks fail with NotImplementedError alone, all others pass; restored, all pass."""
    marks, assignments = chosen([name])
    folder = make.make_copy(tmp_path / "copy", marks, assignments)
    files = [f"test_{mark}_facts" for mark in marks]
    for test, said in run_specifications(folder, MARKS).items():
        if test.split("::")[0] in files:
            assert said.startswith("NotImplementedError"), f"{test}: {said or 'it passes'}"
        else:
            assert not said, f"{test} is of another assignment: {said}"

    restore(folder, marks)
    failed = {test: said for test, said in run_specifications(folder, MARKS).items() if said}
    assert failed == {}


def test_golden_answers_are_plain_tensors(copy):
    """They load as weights only, and are small."""
    for path in (copy / "tests/spec/golden").iterdir():
        for cases in torch.load(path, weights_only=True).values():
            assert cases, f"{path.name}: an equation without a case"
            assert "want" in cases[0]
        assert path.stat().st_size < 300_000, f"{path.name} is large"


def test_assignment_page_says_all():
    """Tasks, section, hours, points, questions, commands, figure."""
    marks, assignments = chosen(["contrast"])
    text = make.assignment_text(marks, assignments)
    for part in ("Eq. (5)", "Sec. 3.3.2", "20 points", "hours", "`semantic_weights` in `pevl.py`",
                 "python -m pytest -m eq5", "ANSWERS.md", "python train.py", "top-1",
                 "How to hand in", "same-label pairs"):
        assert part in text, f"ASSIGNMENT.md does not say {part}"


def test_solutions_hold_what_a_teacher_needs(tmp_path, monkeypatch):
    """Reference, oracles, a rubric with a price for each fact; nothing is ever written over."""
    seeds = []

    def write_golden(root, folder, seed):
        folder.mkdir()
        seeds.append(seed)

    monkeypatch.setattr(make, "write_golden", write_golden)
    target = make.make_solutions(tmp_path / "s", ["eq5"], seed=3)
    assert seeds == [3], "the private answers are not those of the seed"
    assert (target / "reference/pevl.py").read_text() == (ROOT / "pevl.py").read_text()
    assert (target / "tests/spec/oracles.py").is_file()
    rubric = (target / "rubric.md").read_text()
    for name in make.facts_of("eq5"):
        assert name in rubric, f"no price for {name}"
    assert "1.00 points each" in rubric
    with pytest.raises(ValueError, match="not empty"):
        make.make_solutions(target, ["eq5"], seed=3)


def test_solutions_are_refused_before_the_copy_is_made(tmp_path, monkeypatch, capsys):
    """A full folder, and one inside the student's copy, who would get the answers."""
    made = []
    monkeypatch.setattr(commands, "make_copy", lambda *what: made.append(what))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    for solutions, said in (("full", "is not empty"), ("stu/answers", "in the student's copy"),
                            ("stu", "in the student's copy")):
        assert commands.main(["make", "eq5", "--out", str(tmp_path / "stu"),
                              "--solutions", str(tmp_path / solutions)]) == 2
        assert said in capsys.readouterr().err
    assert not made


# ---- Grading -------------------------------------------------------------------------------------

def test_hand_in_brings_no_settings_along(tmp_path):
    """Own modules come along, tests, settings, links and hidden files do not; the rest is blank."""
    hand_in = tmp_path / "handin"
    (hand_in / "tests" / "spec").mkdir(parents=True)
    (hand_in / ".git").mkdir()
    own = ["pevl.py", "helper.py"]
    settings = ["conftest.py", "pytest.ini", "sitecustomize.py", "x.pth"]
    for name in (*own, *settings, "tests/spec/test_eq7_facts.py", ".git/config"):
        (hand_in / name).write_text("# mine\n")
    (hand_in / "link.py").symlink_to(ROOT / "pevl.py")
    grading.lay_out(hand_in, tmp_path / "work", ["eq7", "clip"])
    there = {path.name for path in (tmp_path / "work").iterdir()}
    assert {*own, "clip_model.py", "systems"} <= there
    assert not there & {*settings, "link.py", "tests", ".git"}
    assert (tmp_path / "work/pevl.py").read_text() == "# mine\n"
    assert "NotImplementedError" in (tmp_path / "work/clip_model.py").read_text()


def test_grading_draws_other_answers_than_the_copy_has(tmp_path, monkeypatch):
    """Those of its own seed: what lies in the student's copy is no answer here."""
    seeds = []
    monkeypatch.setattr(grading, "write_golden", lambda root, folder, seed: seeds.append(seed))
    grading.lay_out_tests(tmp_path / "tests", seed=5)
    assert seeds == [5]


@pytest.mark.slow
def test_another_seed_gives_other_answers(tmp_path):
    """Of every mark."""
    for seed in (0, 1):
        make.write_golden(ROOT, tmp_path / str(seed), seed)
    for mark in MARKS:
        for name, cases in torch.load(tmp_path / f"0/{mark}.pt", weights_only=True).items():
            others = torch.load(tmp_path / f"1/{mark}.pt", weights_only=True)[name]
            same = [torch.equal(case["want"], other["want"]) for case, other in zip(cases, others)]
            assert not all(same), f"{name}: the answers are those of the copy"


def test_hidden_clips_are_of_their_own_seed(tmp_path, monkeypatch):
    """As many test clips as the benchmark has; of the others one of each class."""
    made = []
    monkeypatch.setattr(commands, "make_toy", lambda *what: made.append(what))
    assert main(["hidden", str(tmp_path / "hidden"), "--seed", "7"]) == 0
    assert made == [(tmp_path / "hidden", {"seed": 7, "train": 16, "val": 16})]


ANSWER = "    return logits.unflatten(0, (-1, views)).mean(1).softmax(-1)\n"


def pevl_with(text):
    """The source of pevl.py with `text` in place of the answer to Eq. (7)."""
    source = (ROOT / "pevl.py").read_text()
    assert source.count(ANSWER) == 1, "the last line of pevl.predict is not ANSWER any more"
    return source.replace(ANSWER, text)


@pytest.mark.slow
def test_right_work_gets_all_points(tmp_path, capsys):
    """By another way of writing than the reference's; all reports say so."""
    hand_in = tmp_path / "handin"
    hand_in.mkdir()
    other = ("    mean = logits.reshape(len(logits) // views, views, -1).sum(1) / views\n"
             "    powers = (mean - mean.max(dim=1, keepdim=True).values).exp()\n"
             "    return powers / powers.sum(dim=1, keepdim=True)\n")
    (hand_in / "pevl.py").write_text(pevl_with(other))
    (hand_in / "assignment.json").write_text('{"marks": ["eq7"]}')
    junit = tmp_path / "report.xml"
    gradescope = tmp_path / "results.json"
    assert main(["grade", str(hand_in), "--junit", str(junit),
                 "--gradescope", str(gradescope)]) == 0
    said = capsys.readouterr().out
    assert "eq7         5.0 / 5    8 / 8" in said, said
    assert json.loads(gradescope.read_text())["score"] == 5
    assert not list(ElementTree.parse(junit).iter("failure"))


MANNERS = {
    "an endless loop": "    while views == 1:\n        pass\n",
    "sys.exit": "    import sys\n    if views == 1:\n        sys.exit(0)\n",
    "the end of the process": "    import os\n    if views == 1:\n        os._exit(0)\n",
    "a patched comparison": "    import spec\n    spec.close = spec.holds = print\n",
    "a greedy hand": "    if views == 1:\n        logits.new_ones(2 ** 40)\n",
    "the network": ("    import socket\n    if views == 1:\n"
                    "        socket.create_connection((\"::\", 9))\n"),
    "another process": "    import os\n    if views == 1:\n        os.system(\"true\")\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("manners", MANNERS)
def test_bad_manners_cost_points_only(manners, tmp_path):
    """The facts that meet them, those of one view, and no others; a patch costs all behind it."""
    (tmp_path / "pevl.py").write_text(pevl_with(MANNERS[manners] + ANSWER))
    result = grade(tmp_path, ["eq7"], seconds=5)[0]
    failed = [fact for fact in result.facts if not fact.holds]
    assert all(fact.message for fact in failed), "a fact that fails and does not say why"
    if manners == "a patched comparison":
        assert len(failed) == len(result.facts)
    else:
        assert {fact.name for fact in failed} == {
            "test_one_view_by_hand", "test_predict_matches_loops",
            "test_a_number_added_to_all_logits_changes_nothing", "test_one_view_is_the_default"}


@pytest.mark.slow
@pytest.mark.parametrize("source, said", [
    ("import sys\nsys.exit(0)\n", "SystemExit"),
    ("def f(:\n", "line 1"),
    ("import os\nos._exit(0)\n", "ended early"),
    ("import pytest\npytest.exit('enough')\n", "Exit"),
])
def test_a_file_that_cannot_be_read_costs_its_marks(source, said, tmp_path):
    """All facts, with the reason said once."""
    (tmp_path / "pevl.py").write_text(source)
    result = grade(tmp_path, ["eq7"], seconds=5)[0]
    assert result.points == 0
    assert any(said in text for text in result.said), result.said


def test_folder_that_says_nothing(tmp_path, capsys):
    """Neither names nor assignment.json: an error with what to do."""
    assert main(["grade", str(tmp_path)]) == 2
    assert "Name them" in capsys.readouterr().err


# ---- Reports -------------------------------------------------------------------------------------

def results():
    """A mark of which two facts of four hold; the others fail for one reason."""
    why = "rows must sum to 1\x07\n  yours: <2>"
    facts = [
        Fact("test_a", "A holds.", holds=False, message=why),
        Fact("test_b", "B holds.", holds=True),
        Fact("test_c", "C.", holds=True),
        Fact("test_d", "D holds.", holds=False, message=why),
    ]
    return [Result("eq7", facts, seconds=1.5)]


def test_points_are_shared_out_by_facts():
    """Half of the facts is half of the mark's points."""
    assert results()[0].points == MARKS["eq7"].points / 2


def test_reports_say_the_same():
    """Points, facts and messages in all three; what two facts have in common is said once."""
    text = report.table(results())
    assert "2.5 / 5" in text
    assert text.count("rows must sum to 1") == 1
    assert "test_d" in text

    root = ElementTree.fromstring(report.junit(results()))
    failed = [case.get("name") for case in root.iter("testcase") if list(case)]
    assert failed == ["test_a", "test_d"]
    assert root.find("testsuite").get("failures") == "2"
    assert "<2>" in root.find(".//failure").text

    found = json.loads(report.gradescope(results()))
    assert found["score"] == 2.5
    assert [test["score"] for test in found["tests"]] == [0, 1.25, 1.25, 0]
    assert sum(test["max_score"] for test in found["tests"]) == 5


def test_board_is_sorted(tmp_path):
    """Best first."""
    for name, top1 in (("a", 0.5), ("b", 0.75)):
        found = {"top1": top1, "mean": 0.4, "clips": 320}
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    lines = report.board([tmp_path / "a.json", tmp_path / "b.json"]).splitlines()
    assert "| 1 | 75.00 |" in lines[2]
    assert "b.json" in lines[2]
    assert "| 2 | 50.00 |" in lines[3]


def test_board_refuses_figures_of_unlike_kinds(tmp_path):
    """Places of the test split and of the validation split say nothing of each other."""
    for name, split, clips in (("a", "test", 320), ("b", "val", 240)):
        found = {"top1": 0.5, "mean": 0.4, "clips": clips, "split": split, "data": "toy"}
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match="of other data, splits.*toy test None 320; .*toy val"):
        report.board([tmp_path / "a.json", tmp_path / "b.json"])


@pytest.mark.parametrize("foreign", [
    "[]", '{"top1": null, "mean": 0.4, "clips": 3}', '{"top1": "a", "mean": 0.4, "clips": 3}'])
def test_board_names_what_is_no_evaluation(foreign, tmp_path):
    """One foreign file among those of the class is an error that names it."""
    (tmp_path / "a.json").write_text('{"top1": 0.5, "mean": 0.4, "clips": 320}')
    (tmp_path / "c.json").write_text(foreign)
    with pytest.raises(ValueError, match="c.json is no evaluation"):
        report.board([tmp_path / "a.json", tmp_path / "c.json"])


def test_board_names_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="b.json is no evaluation"):
        report.board([tmp_path / "b.json"])


def test_what_is_no_hand_in_is_not_worth_0_points(tmp_path, capsys):
    """No folder; a folder without the file; the file a folder deeper, or a link; the open task."""
    hand_in = tmp_path / "ada"
    inside = hand_in / "unpacked"
    inside.mkdir(parents=True)
    assert main(["grade", str(tmp_path / "ada.zip")]) == 2
    assert "ada.zip is no folder. Expected a hand-in, unpacked" in capsys.readouterr().err
    assert main(["grade", str(hand_in), "eq7"]) == 2
    assert f"{hand_in} has no pevl.py" in capsys.readouterr().err

    (inside / "pevl.py").write_text("")
    (hand_in / "pevl.py").symlink_to(inside / "pevl.py")
    assert main(["grade", str(hand_in), "eq7"]) == 2
    assert f"Grade {inside}" in capsys.readouterr().err

    (hand_in / "assignment.json").write_text('{"marks": []}')
    assert main(["grade", str(hand_in)]) == 2
    assert "measured, not graded" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["mak"], ["make"], ["hidden", "DIR"],
                                   ["grade", "DIR", "--seed", "x"]], ids=" ".join)
def test_a_wrong_command_is_one_line(words, capsys):
    """As everywhere: `error: `, what was expected, and exit code 2."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "Expected" in line


def test_senseless_limits_and_seeds_are_refused(tmp_path, capsys):
    """Not points of 0 for a student, and not the clips that every student has for a hidden test."""
    for limit in (["--seconds", "-1"], ["--mark-seconds", "0"], ["--memory", "0"],
                  ["--seconds", "nan"]):
        assert main(["grade", str(tmp_path), "eq7", *limit]) == 2
        assert "Expected numbers above 0" in capsys.readouterr().err
    assert main(["hidden", str(tmp_path / "new"), "--seed", "0"]) == 2
    assert "the clips that every student has" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_commands(tmp_path, monkeypatch, capsys):
    """list names all marks and assignments; make writes a copy of what was asked for, and nothing
    into a folder that is not empty."""
    monkeypatch.setattr(make, "write_golden", lambda root, folder, seed: folder.mkdir())
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    for name in (*MARKS, *ASSIGNMENTS):
        assert name in said, f"list does not name {name}"

    made = tmp_path / "made"
    assert main(["make", "eq7", "--out", str(made)]) == 0
    assert json.loads((made / "assignment.json").read_text())["marks"] == ["eq7"]
    assert "NotImplementedError" in (made / "pevl.py").read_text()

    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("")
    assert main(["make", "eq1", "--out", str(full)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in full.iterdir()] == ["mine"]
