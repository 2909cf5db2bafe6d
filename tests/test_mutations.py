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


def test_the_list_fits_the_code():
    """Each mutation is one replacement of text that stands in its file once, and Python still."""
    wrong = []
    sources = {}
    trees = {}
    for file in {entry["file"] for entry in ENTRIES}:
        sources[file] = (ROOT / file).read_text("utf-8")
        trees[file] = ast.dump(ast.parse(sources[file]))
    for entry in ENTRIES:
        file = entry["file"]
        times = sources[file].count(entry["old"])
        if times != 1:
            wrong.append(f"{entry['id']}: old stands {times} times in {file}")
            continue
        mutated = sources[file].replace(entry["old"], entry["new"])
        if ast.dump(ast.parse(mutated)) == trees[file]:
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
