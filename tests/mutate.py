"""Mistakes that students make, put into the code one by one: is each noticed by the right tests?

    python tests/mutate.py                     all of tests/mutations.json, in parallel processes
    python tests/mutate.py --mark eq1          those of one mark
    python tests/mutate.py --only p2v-axis     one of them, with the message that it gets

A mutation is killed by its own mark where the tests of that mark fail, and by another where only
the rest of them does. A process imports PyTorch once and forks for each mutation: a child lays a
folder of links beside the repository, with the mutated file in place, and runs the tests in it.
"""
import argparse
import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "tests" / "mutations.json"
SPEC = ("eq1", "eq2", "eq3", "eq4", "eq5", "eq6", "eq7", "vilp", "clip", "data")

# Marks beside the equations': how what they test is put to use.
USE = {"model": "tests/test_use_of_model.py", "train": "tests/test_use_of_training.py",
       "files": "tests/test_use_of_files.py"}


def mutations():
    """The list, as dicts: id, file, mark, mistake, old, new; equivalent: why nothing can notice."""
    return json.loads(LIST.read_text("utf-8"))["mutations"]


def tests_of(mark):
    """What pytest is asked to run for a mark."""
    if mark in SPEC:
        return [f"tests/spec/test_{mark}_facts.py", "tests/spec/test_given.py", "-m", mark]
    return [USE[mark]]


def all_tests():
    """Everything that a mutation may be killed by."""
    return ["tests/spec", *USE.values()]


def overlay(folder, entry):
    """Links to the repository in `folder`, but the file of `entry`, which is mutated."""
    file = Path(entry["file"])
    left_out = (file.parts[0], "__pycache__", "out")
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in left_out:
            (folder / path.name).symlink_to(path)

    # The folders that the file lies in are real ones, with links to all else that is in them.
    inside = folder
    for part in file.parts[:-1]:
        inside = inside / part
        inside.mkdir()
        for path in (ROOT / inside.relative_to(folder)).iterdir():
            if path.name not in file.parts and path.name != "__pycache__":
                (inside / path.name).symlink_to(path)

    source = (ROOT / file).read_text("utf-8")
    (folder / file).write_text(source.replace(entry["old"], entry["new"]), "utf-8")


@dataclass
class Verdict:
    """What became of a mutation."""
    by: str                     # "own mark", "another", "nobody", "not loaded" or "error"
    test: str = ""              # that failed
    message: str = ""           # with which it failed
    fact: bool = False          # whether it is a fact, which says what is wrong

    @property
    def is_killed(self):
        return self.by in ("own mark", "another")


# These say that something is wrong; the facts beside them say what.
GENERAL = ("worked_example", "loops", "gradients")


class Failure:
    """A pytest plugin that keeps the failure that says most: a fact's, else the first."""

    def __init__(self):
        self.test = ""
        self.message = ""
        self.is_fact = False

    def keep(self, report):
        if not report.failed or self.is_fact:
            return
        is_fact = not any(word in report.nodeid for word in GENERAL)
        if self.test and not is_fact:
            return
        self.test = report.nodeid
        self.is_fact = is_fact
        crash = getattr(report.longrepr, "reprcrash", None)
        if crash:
            self.message = crash.message
        else:
            self.message = str(report.longrepr)[-300:]

    def verdict(self, by):
        """The Verdict of a mutation that `by` noticed, if anybody did."""
        if not self.test:
            by = "nobody"
        elif self.message.startswith("NameError"):
            by = "error"                          # no mistake of a student, but one of the list
        return Verdict(by, self.test, self.message[:600], self.is_fact)

    def pytest_runtest_logreport(self, report):
        self.keep(report)

    def pytest_collectreport(self, report):
        self.keep(report)


def run_tests(folder, what):
    """-> the Failure of these tests in the overlay; its test is "" where all pass."""
    import pytest
    failure = Failure()
    pytest.main(["-q", "-p", "no:cacheprovider", "-c", str(folder / "pyproject.toml"),
                 "--rootdir", str(folder), "-o", "addopts=", *what], plugins=[failure])
    return failure


def enter(folder):
    """Stand in `folder`, in silence: its modules are found, and none of the checkout's own.

    Folders are compared, not beginnings of their names: packages may be installed in a virtual
    environment that lies in the checkout, or beside it under a longer name.
    """
    own = (ROOT, ROOT / "tests", ROOT / "tests" / "spec")
    kept = [place for place in sys.path if place and Path(place).resolve() not in own]
    os.chdir(folder)
    sys.path[:] = [str(folder), *kept]
    sys.dont_write_bytecode = True
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)


def child(folder, entry):
    """In the forked process: the Verdict of a mutation's own mark."""
    enter(folder)
    verdict = run_tests(folder, tests_of(entry["mark"])).verdict("own mark")
    name = entry["file"].removesuffix(".py").replace("/", ".")
    if name in sys.modules and not sys.modules[name].__file__.startswith(str(folder)):
        verdict.by = "not loaded"                 # the tests ran with the checkout's own file
    return verdict


def second_child(folder, entry):
    """Where the own mark noticed nothing: does any other test?"""
    enter(folder)
    return run_tests(folder, all_tests()).verdict("another")


@dataclass
class Running:
    """A mutation whose tests are running in a process of their own."""
    entry: dict
    work: object                # child or second_child
    folder: Path                # the overlay
    result: Path                # where the process leaves its Verdict


def start(work, entry, place):
    """Lay the overlay of a mutation in `place` and fork a process for it -> its id, Running."""
    folder = place / f"{entry['id']}-{work.__name__}"
    folder.mkdir()
    overlay(folder, entry)
    result = place / f"{entry['id']}.json"
    running = Running(entry, work, folder, result)
    pid = os.fork()
    if pid:
        return pid, running

    try:
        verdict = work(folder, entry)
    except BaseException as reason:
        verdict = Verdict("error", message=repr(reason))
    result.write_text(json.dumps(asdict(verdict)))
    os._exit(0)


def run_all(entries, processes):
    """-> id -> Verdict, with `processes` mutations at a time."""
    # What is imported here is there in every fork; each of these takes seconds.
    import hypothesis  # noqa: F401
    import numpy  # noqa: F401
    import PIL.Image  # noqa: F401
    import pytest  # noqa: F401
    import torch
    torch.set_num_threads(1)

    found = {}
    waiting = [(child, entry) for entry in entries if "equivalent" not in entry]
    running = {}
    with tempfile.TemporaryDirectory(prefix="mutate-") as place:
        while waiting or running:
            while waiting and len(running) < processes:
                work, entry = waiting.pop(0)
                pid, one = start(work, entry, Path(place))
                running[pid] = one

            pid, _ = os.wait()
            one = running.pop(pid)
            verdict = Verdict(**json.loads(one.result.read_text()))
            shutil.rmtree(one.folder)
            if verdict.by == "nobody" and one.work is child:
                waiting.insert(0, (second_child, one.entry))
            else:
                found[one.entry["id"]] = verdict
    return found


def counts_of(verdicts):
    """A row of the table: how many, killed, killed by the own mark, killed by a fact."""
    killed = sum(verdict.is_killed for verdict in verdicts)
    by_own_mark = sum(verdict.by == "own mark" for verdict in verdicts)
    by_fact = sum(verdict.fact for verdict in verdicts)
    return f"{len(verdicts):>9} {killed:>7} {by_own_mark:>12} {by_fact:>10}"


def score(entries, found):
    """The table: killed, and by the own mark, for each mark; then who survives."""
    lines = [f"{'mark':<6} {'mutations':>9} {'killed':>7} {'by own mark':>12} {'by a fact':>10}"]
    ran = [entry for entry in entries if entry["id"] in found]
    for mark in sorted({entry["mark"] for entry in entries}):
        own = [found[entry["id"]] for entry in ran if entry["mark"] == mark]
        lines.append(f"{mark:<6} {counts_of(own)}")
    lines.append(f"{'all':<6} {counts_of([found[entry['id']] for entry in ran])}")

    for entry in ran:
        verdict = found[entry["id"]]
        if verdict.by != "own mark" or not verdict.fact:
            message = verdict.message if verdict.by == "error" else ""
            lines.append(f"{entry['id']} ({entry['mark']}): {verdict.by} {verdict.test} {message}")
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mark", help="those of one mark")
    parser.add_argument("--only", nargs="*", help="ids")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="at a time")
    parser.add_argument("--json", help="write the verdicts to this file")
    args = parser.parse_args(argv)
    entries = mutations()
    if args.mark:
        entries = [entry for entry in entries if entry["mark"] == args.mark]
    if args.only:
        entries = [entry for entry in entries if entry["id"] in args.only]
    found = run_all(entries, args.processes)
    print(score(entries, found))
    if args.only:
        for name, verdict in found.items():
            print(f"{name}: {verdict.test}\n{verdict.message}")
    if args.json:
        told = {name: asdict(verdict) for name, verdict in found.items()}
        Path(args.json).write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
