"""Mistakes that students make, put into the code one by one: is each noticed, and by the right tests?

    python tests/mutate.py                     all of tests/mutations.json, in parallel processes
    python tests/mutate.py --mark eq1          those of one mark
    python tests/mutate.py --only p2v-axis     one of them, with the message that it gets

A mutation is killed by its own mark where the tests of that mark fail, and by another where only the
rest of them does. A process imports PyTorch once and forks for each mutation: a child lays a folder of
links beside the repository, with the mutated file in place, and runs the tests in it.
"""
import argparse
import json
import os
import shutil
import sys
import tempfile
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
    for path in ROOT.iterdir():
        if path.name.startswith(".") or path.name in (file.parts[0], "__pycache__", "out"):
            continue
        (folder / path.name).symlink_to(path)
    inside = folder
    for part in file.parts[:-1]:
        inside = inside / part
        inside.mkdir()
        for path in (ROOT / inside.relative_to(folder)).iterdir():
            if path.name not in file.parts and path.name != "__pycache__":
                (inside / path.name).symlink_to(path)
    source = (ROOT / file).read_text("utf-8")
    (folder / file).write_text(source.replace(entry["old"], entry["new"]), "utf-8")


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
        if is_fact or not self.test:
            self.test = report.nodeid
            self.is_fact = is_fact
            crash = getattr(report.longrepr, "reprcrash", None)
            self.message = crash.message if crash else str(report.longrepr)[-300:]

    def pytest_runtest_logreport(self, report):
        self.keep(report)

    def pytest_collectreport(self, report):
        self.keep(report)


def run_tests(folder, what):
    """-> the Failure of these tests in the overlay; its test is "" where all pass."""
    import pytest
    first = Failure()
    pytest.main(["-q", "-p", "no:cacheprovider", "-c", str(folder / "pyproject.toml"),
                 "--rootdir", str(folder), "-o", "addopts=", *what], plugins=[first])
    return first


def enter(folder):
    """Stand in `folder`, in silence: its modules are found, and none of the checkout's own.

    Folders are compared, not beginnings of their names: packages may be installed in a virtual
    environment that lies in the checkout, or beside it under a longer name.
    """
    own = (ROOT, ROOT / "tests", ROOT / "tests" / "spec")
    os.chdir(folder)
    sys.path[:] = [str(folder), *(p for p in sys.path if p and Path(p).resolve() not in own)]
    sys.dont_write_bytecode = True
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)


def child(folder, entry):
    """In the forked process: the verdict on one mutation."""
    enter(folder)
    first = run_tests(folder, tests_of(entry["mark"]))
    by = "own mark" if first.test else "nobody"
    name = entry["file"].removesuffix(".py").replace("/", ".")
    if name in sys.modules and not sys.modules[name].__file__.startswith(str(folder)):
        by = "not loaded"
    return {"by": by, "test": first.test, "message": first.message[:600], "fact": first.is_fact}


def second_child(folder, entry):
    """Where the own mark noticed nothing: does any other test?"""
    enter(folder)
    first = run_tests(folder, all_tests())
    return {"by": "another" if first.test else "nobody", "test": first.test,
            "message": first.message[:600], "fact": first.is_fact}


def fork(work, folder, entry, result):
    """Run `work` in a forked process, which leaves a JSON file."""
    pid = os.fork()
    if pid:
        return pid
    try:
        result.write_text(json.dumps(work(folder, entry)))
    except BaseException as reason:
        result.write_text(json.dumps({"by": "error", "test": "", "message": repr(reason),
                                      "fact": False}))
    os._exit(0)


def run_all(entries, processes):
    """-> id -> verdict, with `processes` mutations at a time."""
    import hypothesis, numpy, PIL.Image, pytest, torch                    # noqa: F401, E401
    torch.set_num_threads(1)
    found = {}
    waiting = [(child, entry) for entry in entries if "equivalent" not in entry]
    running = {}
    with tempfile.TemporaryDirectory(prefix="mutate-") as place:
        while waiting or running:
            while waiting and len(running) < processes:
                work, entry = waiting.pop(0)
                folder = Path(place) / f"{entry['id']}-{work.__name__}"
                folder.mkdir()
                overlay(folder, entry)
                result = Path(place) / f"{entry['id']}.json"
                running[fork(work, folder, entry, result)] = (work, entry, folder, result)
            pid, _ = os.wait()
            work, entry, folder, result = running.pop(pid)
            verdict = json.loads(result.read_text())
            shutil.rmtree(folder)
            if verdict["by"] == "nobody" and work is child:
                waiting.insert(0, (second_child, entry))
                continue
            found[entry["id"]] = verdict
    return found


def score(entries, found):
    """The table: killed, and by the own mark, for each mark; then who survives."""
    lines = [f"{'mark':<6} {'mutations':>9} {'killed':>7} {'by own mark':>12} {'by a fact':>10}"]
    total = [0, 0, 0, 0]
    marks = sorted({entry["mark"] for entry in entries})
    for mark in marks:
        own = [found[e["id"]] for e in entries if e["mark"] == mark and e["id"] in found]
        verdicts = [verdict["by"] for verdict in own]
        counts = (len(verdicts), sum(by in ("own mark", "another") for by in verdicts),
                  verdicts.count("own mark"), sum(verdict["fact"] for verdict in own))
        total = [a + b for a, b in zip(total, counts)]
        lines.append(f"{mark:<6} {counts[0]:>9} {counts[1]:>7} {counts[2]:>12} "
                     f"{counts[3]:>10}")
    lines.append(f"{'all':<6} {total[0]:>9} {total[1]:>7} {total[2]:>12} "
                 f"{total[3]:>10}")
    for entry in entries:
        verdict = found.get(entry["id"])
        if verdict and (verdict["by"] != "own mark" or not verdict["fact"]):
            lines.append(f"{entry['id']} ({entry['mark']}): {verdict['by']} {verdict['test']} "
                         f"{verdict['message'] if verdict['by'] == 'error' else ''}")
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mark", help="those of one mark")
    parser.add_argument("--only", nargs="*", help="ids")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="at a time")
    parser.add_argument("--json", help="write the verdicts to this file")
    args = parser.parse_args(argv)
    entries = [e for e in mutations() if args.mark in (None, e["mark"])]
    if args.only:
        entries = [e for e in entries if e["id"] in args.only]
    found = run_all(entries, args.processes)
    print(score(entries, found))
    if args.only:
        for name, verdict in found.items():
            print(f"{name}: {verdict['test']}\n{verdict['message']}")
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
