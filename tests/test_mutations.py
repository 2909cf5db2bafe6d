"""tests/mutations.json: mistakes that students make, each a replacement of text in one file.

The list fits the code, and (slow) every mistake in it is noticed where it should be, with a message
in words. tests/mutate.py puts them into the code.
"""
import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import mutate

ROOT = Path(__file__).resolve().parent.parent
ENTRIES = mutate.mutations()
# The others change nothing that anybody could notice.
REAL = [entry for entry in ENTRIES if "equivalent" not in entry]


def statements_of(file):
    """The source of each statement at the top level of a file, decorators with it."""
    source = (ROOT / file).read_text("utf-8")
    lines = source.splitlines(keepends=True)
    statements = []
    for node in ast.parse(source).body:
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
        statements.append("".join(lines[first - 1:node.end_lineno]))
    return statements


def test_the_list_fits_the_code():
    """Each mutation is one replacement of text that stands in its file once, and Python still."""
    wrong = []
    sources = {}
    statements = {}
    for file in {entry["file"] for entry in ENTRIES}:
        sources[file] = (ROOT / file).read_text("utf-8")
        statements[file] = statements_of(file)
    for entry in ENTRIES:
        times = sources[entry["file"]].count(entry["old"])
        if times != 1:
            wrong.append(f"{entry['id']}: old stands {times} times in {entry['file']}")
            continue
        # Only the statement around it is read again: a whole file for each would take long.
        around = [text for text in statements[entry["file"]] if entry["old"] in text]
        if not around:
            wrong.append(f"{entry['id']}: old lies in more than one function or class")
            continue
        mutated = around[0].replace(entry["old"], entry["new"])
        if ast.dump(ast.parse(mutated)) == ast.dump(ast.parse(around[0])):
            wrong.append(f"{entry['id']} changes nothing")
    assert not wrong, wrong


def test_the_list_is_long_and_says_what_is_wrong():
    """At least 80, of all marks, named once, each with the mistake in words."""
    ids = [entry["id"] for entry in ENTRIES]
    assert len(REAL) >= 80
    assert len(set(ids)) == len(ids), "two mutations have one name"
    assert {entry["mark"] for entry in ENTRIES} == {*mutate.SPEC, *mutate.USE}
    for entry in ENTRIES:
        assert entry["mistake"], f"{entry['id']} does not say what is wrong"
        if "equivalent" in entry:
            assert entry["equivalent"], f"{entry['id']} does not say why nothing can notice it"


def test_a_mutation_is_killed_with_a_message():
    """One of them, as a student would meet it: the fact, and the rule that it breaks."""
    found = subprocess.run([sys.executable, "tests/mutate.py", "--only", "pr-order"], cwd=ROOT,
                           capture_output=True, text=True).stdout
    assert "eq7            1       1            1          1" in found, found
    assert "then comes the softmax (D19)" in found, found


@pytest.mark.slow
def test_every_mistake_is_noticed(tmp_path):
    """All are killed, 95 % by the tests of their own mark, with a message in words."""
    found = tmp_path / "found.json"
    done = subprocess.run([sys.executable, "tests/mutate.py", "--json", str(found)], cwd=ROOT,
                          capture_output=True, text=True)
    verdicts = json.loads(found.read_text())
    print(done.stdout)
    by = [verdicts[entry["id"]]["by"] for entry in REAL]
    assert set(by) <= {"own mark", "another"}, done.stdout
    assert by.count("own mark") >= 0.95 * len(by), done.stdout
    silent = [name for name, verdict in verdicts.items() if not verdict["fact"]]
    assert len(silent) <= 0.05 * len(by), f"noticed, and not said what: {silent}"
