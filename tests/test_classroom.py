"""classroom/: the student's copy holds no answer and fails as it should; grading survives its students."""
import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from classroom import grade as grading
from classroom import make, report
from classroom.__main__ import main
from classroom.assignments import ASSIGNMENTS, MARKS, blanks_of, chosen
from classroom.blank import answers, blank, bodies, functions_in
from classroom.grade import Fact, Result, grade

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The student's copy in which every mark is blank."""
    return make.make_copy(tmp_path_factory.mktemp("class") / "copy", list(MARKS))


def run_specifications(folder, *marks):
    """pytest in a copy -> test -> "" where it passed, else the error's first line."""
    found = folder.parent / f"{folder.name}.xml"
    subprocess.run([sys.executable, "-m", "pytest", "-q", f"--junitxml={found}", "--tb=line", "-p",
                    "no:cacheprovider", "-m", " or ".join(marks)], cwd=folder, capture_output=True)
    outcome = {}
    for case in ElementTree.parse(found).iter("testcase"):
        failed = [*case.iter("failure"), *case.iter("error")]
        name = f"{case.get('classname').split('.')[-1]}::{case.get('name')}"
        outcome[name] = failed[0].get("message") if failed else ""
    return outcome


# ---- What can be handed out ----------------------------------------------------------------------

@pytest.mark.parametrize("mark", MARKS)
def test_marks_name_what_exists(mark):
    """Functions that are there, facts with a sentence each, points for each."""
    for file, names in MARKS[mark].functions.items():
        functions = functions_in(ast.parse((ROOT / file).read_text("utf-8")))
        assert set(names) <= set(functions)
    facts = make.facts_of(mark)
    assert len(facts) >= 7 and all(facts.values())
    assert make.worth(mark) * len(facts) == pytest.approx(MARKS[mark].points)


def test_assignments_are_complete():
    """Six, of known marks, each with hours, a reason and a figure to reach."""
    assert len(ASSIGNMENTS) == 6
    figures = make.measured(ROOT)
    assert "top-1" in figures["pevl"] and "top-1" in figures["zero_shot"]
    for name, entry in ASSIGNMENTS.items():
        assert set(entry.marks) <= set(MARKS) and entry.hours and entry.about
        assert figures["pevl"] in entry.then.format(**figures), name


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
    got = blank(SOURCE, {"double": "Eq. (0)", "Thing.method": "Eq. (1)"})
    assert "def double(x, *, by=2):" in got and ">>> double(2)" in got and "return 1" in got
    assert "the way" not in got and "how" not in got and "result" not in got
    space = {}
    exec(got, space)
    with pytest.raises(NotImplementedError, match=r"Eq. \(0\)"):
        space["double"](1)
    with pytest.raises(NotImplementedError, match=r"Eq. \(1\)"):
        space["Thing"]().method()
    with pytest.raises(ValueError, match="no function gone"):
        blank(SOURCE, {"gone": ""})


def test_an_answer_is_found(tmp_path):
    """Wherever it stands and however it is laid out."""
    wanted = bodies(SOURCE, ["double"])
    assert wanted == ["result = x * by + 0 * len(str(x))"]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.html").write_text("<b>result = x * by +\n   0 * len( str(x) )</b>")
    (tmp_path / "b.py").write_text("def f(x, by):\n    if by:\n        result = (x*by + 0*len(str(x)))\n")
    assert [file for file, _ in answers(tmp_path, wanted)] == ["b.py", "docs/a.html"]


@pytest.mark.parametrize("file", blanks_of(MARKS))
def test_real_files_keep_all_else(file):
    """Blanked and whole file have the same names and docstrings."""
    source = (ROOT / file).read_text("utf-8")
    names = blanks_of(MARKS)[file]
    before = functions_in(ast.parse(source))
    after = functions_in(ast.parse(blank(source, names, file)))
    assert list(before) == list(after)
    for name, node in before.items():
        assert ast.get_docstring(node) == ast.get_docstring(after[name])
        assert ast.unparse(node.args) == ast.unparse(after[name].args)
        same = ast.unparse(node) == ast.unparse(after[name])
        assert same == (name not in names), name


# ---- The copy ------------------------------------------------------------------------------------

def test_no_answer_is_in_the_copy(copy):
    """No history, no oracle, no other test, no statement that was taken out."""
    files = {path.relative_to(copy).as_posix() for path in copy.rglob("*")}
    hidden = {name for name in files if name.split("/")[0].startswith(".")}
    assert hidden <= {".gitignore"}
    assert not any("oracles" in name or "classroom/" in name or "mutat" in name for name in files)
    assert {name for name in files if name.startswith("tests/")} == {
        "tests/spec", "tests/spec/golden", "tests/spec/spec.py", "tests/spec/expected.py",
        "tests/spec/test_given.py", *(f"tests/spec/test_{mark}_facts.py" for mark in MARKS),
        *(f"tests/spec/golden/{mark}.pt" for mark in MARKS)}
    taken = []
    for file, names in blanks_of(MARKS).items():
        taken += bodies((ROOT / file).read_text("utf-8"), names, file)
    assert len(taken) > 60 and not answers(copy, taken)


def test_copy_fails_with_nothing_but_what_is_to_be_done(copy):
    """Every fact of every mark ends in NotImplementedError; what is given holds."""
    outcome = run_specifications(copy, *MARKS)
    given = {name for name in outcome if name.startswith("test_given")}
    assert given and not any(outcome[name] for name in given)
    wrong = {name: said for name, said in outcome.items() - {(n, outcome[n]) for n in given}
             if not said.startswith("NotImplementedError")}
    assert not wrong
    for mark in MARKS:
        names = {name.split("::")[1].split("[")[0] for name in outcome
                 if name.startswith(f"test_{mark}_facts:")}
        assert names == set(make.facts_of(mark))


def test_copy_passes_with_the_reference_restored(copy, tmp_path):
    """With the files of this repository in place, all facts hold, against the golden answers."""
    work = tmp_path / "restored"
    shutil.copytree(copy, work)
    for file in blanks_of(MARKS):
        shutil.copy(ROOT / file, work / file)
    outcome = run_specifications(work, *MARKS)
    assert len(outcome) > 150
    assert {name: said for name, said in outcome.items() if said} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, entry in ASSIGNMENTS.items() if entry.marks])
def test_every_assignment_is_as_it_should_be(name, tmp_path):
    """Its own marks fail with NotImplementedError alone, all others pass; restored, all pass."""
    marks, assignments = chosen([name])
    copy = make.make_copy(tmp_path / "copy", marks, assignments)
    outcome = run_specifications(copy, *MARKS)
    for test, said in outcome.items():
        mine = any(test.startswith(f"test_{mark}_facts:") for mark in marks)
        assert said.startswith("NotImplementedError") if mine else not said, (test, said)
    for file in blanks_of(marks):
        shutil.copy(ROOT / file, copy / file)
    assert not any(run_specifications(copy, *MARKS).values())


def test_golden_answers_are_plain_tensors(copy):
    """They load as weights only, and are small."""
    for path in (copy / "tests/spec/golden").iterdir():
        for cases in torch.load(path, weights_only=True).values():
            assert cases and "want" in cases[0]
        assert path.stat().st_size < 300_000


def test_assignment_page_says_all():
    """Tasks, section, hours, points, questions, commands, figure."""
    marks, assignments = chosen(["contrast"])
    text = make.assignment_text(marks, assignments)
    for part in ("Eq. (5)", "Sec. 3.3.2", "20 points", "hours", "`semantic_weights` in `pevl.py`",
                 "python -m pytest -m eq5", "ANSWERS.md", "python train.py", "top-1",
                 "How to hand in", "same-label pairs"):
        assert part in text, part


def test_solutions_hold_what_a_teacher_needs(tmp_path, monkeypatch):
    """Reference, oracles, rubric with a price for each fact; nothing of a person's is written over."""
    monkeypatch.setattr(make, "write_golden", lambda root, folder, seed: folder.mkdir())
    target = make.make_solutions(tmp_path / "s", ["eq5"], seed=3)
    assert (target / "reference/pevl.py").read_text() == (ROOT / "pevl.py").read_text()
    assert (target / "tests/spec/oracles.py").is_file()
    rubric = (target / "rubric.md").read_text()
    assert all(name in rubric for name in make.facts_of("eq5")) and "1.00 points each" in rubric
    with pytest.raises(ValueError, match="not empty"):
        make.make_solutions(target, ["eq5"], seed=3)


# ---- Grading -------------------------------------------------------------------------------------

def test_hand_in_brings_no_settings_along(tmp_path):
    """Own modules come along; tests, settings, links and hidden files stay; what is missing is blank."""
    hand_in = tmp_path / "handin"
    (hand_in / "tests" / "spec").mkdir(parents=True)
    (hand_in / ".git").mkdir()
    for name in ("pevl.py", "helper.py", "conftest.py", "pytest.ini", "sitecustomize.py", "x.pth",
                 "tests/spec/test_eq7_facts.py", ".git/config"):
        (hand_in / name).write_text("# mine\n")
    (hand_in / "link.py").symlink_to(ROOT / "pevl.py")
    grading.lay_out(hand_in, tmp_path / "work", ["eq7", "clip"])
    there = {path.name for path in (tmp_path / "work").iterdir()}
    assert {"pevl.py", "helper.py", "clip_model.py", "systems"} <= there
    assert not there & {"conftest.py", "pytest.ini", "sitecustomize.py", "x.pth", "link.py", "tests",
                        ".git"}
    assert (tmp_path / "work/pevl.py").read_text() == "# mine\n"
    assert "NotImplementedError" in (tmp_path / "work/clip_model.py").read_text()


@pytest.mark.slow
def test_right_work_gets_all_points(tmp_path, capsys):
    """By another way of writing than the reference's; all reports say so."""
    hand_in = tmp_path / "handin"
    hand_in.mkdir()
    source = (ROOT / "pevl.py").read_text()
    line = "    return logits.unflatten(0, (-1, views)).mean(1).softmax(-1)\n"
    other = ("    mean = logits.reshape(len(logits) // views, views, -1).sum(1) / views\n"
             "    powers = (mean - mean.max(dim=1, keepdim=True).values).exp()\n"
             "    return powers / powers.sum(dim=1, keepdim=True)\n")
    assert line in source
    (hand_in / "pevl.py").write_text(source.replace(line, other))
    (hand_in / "assignment.json").write_text('{"marks": ["eq7"]}')
    files = {name: tmp_path / name for name in ("report.xml", "results.json")}
    assert main(["grade", str(hand_in), "--junit", str(files["report.xml"]),
                 "--gradescope", str(files["results.json"])]) == 0
    said = capsys.readouterr().out
    assert "eq7         5.0 / 5    8 / 8" in said, said
    assert json.loads(files["results.json"].read_text())["score"] == 5
    assert not list(ElementTree.parse(files["report.xml"]).iter("failure"))


MANNERS = {
    "an endless loop": "    while views == 1:\n        pass\n",
    "sys.exit": "    import sys\n    if views == 1:\n        sys.exit(0)\n",
    "the end of the process": "    import os\n    if views == 1:\n        os._exit(0)\n",
    "a patched comparison": "    import spec\n    spec.close = spec.holds = print\n",
    "a greedy hand": "    if views == 1:\n        logits.new_ones(2 ** 40)\n",
    "the network": "    import socket\n    if views == 1:\n        socket.create_connection((\"::\", 9))\n",
    "another process": "    import os\n    if views == 1:\n        os.system(\"true\")\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("manners", MANNERS)
def test_bad_manners_cost_points_only(manners, tmp_path):
    """The facts that meet them, those of one view, and no others; a patch costs all behind it."""
    source = (ROOT / "pevl.py").read_text()
    line = "    return logits.unflatten(0, (-1, views)).mean(1).softmax(-1)\n"
    (tmp_path / "pevl.py").write_text(source.replace(line, MANNERS[manners] + line))
    result = grade(tmp_path, ["eq7"], seconds=5)[0]
    failed = {fact.name for fact in result.facts if not fact.holds}
    assert all(fact.message for fact in result.facts if not fact.holds)
    if manners == "a patched comparison":
        assert len(failed) == len(result.facts)
    else:
        assert failed == {"test_one_view_by_hand", "test_predict_matches_loops",
                          "test_a_number_added_to_all_logits_changes_nothing",
                          "test_one_view_is_the_default"}


@pytest.mark.slow
@pytest.mark.parametrize("source, said", [
    ("import sys\nsys.exit(0)\n", "SystemExit"), ("def f(:\n", "line 1"),
    ("import os\nos._exit(0)\n", "ended early"), ("import pytest\npytest.exit('enough')\n", "Exit")])
def test_a_file_that_cannot_be_read_costs_its_marks(source, said, tmp_path):
    """All facts, with the reason said once."""
    (tmp_path / "pevl.py").write_text(source)
    result = grade(tmp_path, ["eq7"], seconds=5)[0]
    assert result.points == 0 and any(said in text for text in result.said), result.said


def test_folder_that_says_nothing(tmp_path, capsys):
    """Neither names nor assignment.json: an error with what to do."""
    assert main(["grade", str(tmp_path)]) == 2
    assert "Name them" in capsys.readouterr().err


# ---- Reports -------------------------------------------------------------------------------------

def results():
    facts = [Fact("test_a", "A holds."), Fact("test_b", "B holds.", True), Fact("test_c", "C.", True),
             Fact("test_d", "D holds.")]
    facts[0].message = facts[3].message = "rows must sum to 1\x07\n  yours: <2>"
    return [Result("eq7", facts, seconds=1.5)]


def test_points_are_shared_out_by_facts():
    assert results()[0].points == MARKS["eq7"].points / 2


def test_reports_say_the_same():
    """Points, facts and messages in all three; what is said for two facts is said once in the table."""
    text = report.table(results())
    assert "2.5 / 5" in text and text.count("rows must sum to 1") == 1 and "test_d" in text
    root = ElementTree.fromstring(report.junit(results()))
    assert [case.get("name") for case in root.iter("testcase") if list(case)] == ["test_a", "test_d"]
    assert root.find("testsuite").get("failures") == "2" and "<2>" in root.find(".//failure").text
    found = json.loads(report.gradescope(results()))
    assert found["score"] == 2.5 and [test["score"] for test in found["tests"]] == [0, 1.25, 1.25, 0]
    assert sum(test["max_score"] for test in found["tests"]) == 5


def test_board_is_sorted(tmp_path):
    """Best first; a file that is no evaluation is named."""
    for name, top1 in (("a", 0.5), ("b", 0.75)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"top1": top1, "mean": 0.4, "clips": 320}))
    lines = report.board([tmp_path / "a.json", tmp_path / "b.json"]).splitlines()
    assert "| 1 | 75.00 |" in lines[2] and "b.json" in lines[2] and "| 2 | 50.00 |" in lines[3]
    (tmp_path / "c.json").write_text("[]")
    for foreign in ("[]", '{"top1": null, "mean": 0.4, "clips": 3}', '{"top1": "a", "mean": 0.4, "clips": 3}'):
        (tmp_path / "c.json").write_text(foreign)
        with pytest.raises(ValueError, match="c.json is no evaluation"):
            report.board([tmp_path / "a.json", tmp_path / "c.json"])


def test_senseless_limits_and_seeds_are_refused(tmp_path, capsys):
    """Not points of 0 for a student, and not the clips that every student has for a hidden test."""
    for limit in (["--seconds", "-1"], ["--mark-seconds", "0"], ["--memory", "0"], ["--seconds", "nan"]):
        assert main(["grade", str(tmp_path), "eq7", *limit]) == 2
        assert "Expected numbers above 0" in capsys.readouterr().err
    assert main(["hidden", str(tmp_path / "new"), "--seed", "0"]) == 2
    assert "the clips that every student has" in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_commands(tmp_path, capsys):
    """list names all; make writes a copy of what was asked for."""
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (*MARKS, *ASSIGNMENTS))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    assert main(["make", "eq1", "--out", str(tmp_path / "full")]) == 2
    assert "not empty" in capsys.readouterr().err
