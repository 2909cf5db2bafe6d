"""Grade a hand-in: each mark in processes of its own, with the teacher's tests and other numbers.

The hand-in is laid over a fresh student's copy, so that a file that is missing is work that was not
done, and none of the student's tests, settings or links come along. The teacher's tests lie beside
it, with answers drawn from another seed. A process that ends early, whatever ended it, costs the
fact at which it ended; the next one goes on behind it.

What this keeps out: mistakes of all kinds, and the usual tricks. It is no prison: a process of the
same user can read what that user can read. Grade in a container where that matters.

here       | what it is                                 | tests/test_classroom.py
grade      | a folder -> a Result for each mark         | test_right_work_gets_all_points
Result     | facts that hold, points                    | test_points_are_shared_out_by_facts
lay_out    | the hand-in over a student's copy          | test_hand_in_brings_no_settings_along
run_mark   | the processes of a mark                    | test_bad_manners_cost_points_only
"""
import json
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from classroom.assignments import MARKS
from classroom.make import (HERE, SPEC, copy_house, copy_specifications, facts_of, make_blanks,
                            write_golden)

RUNNER = Path(__file__).resolve().with_name("runner.py")

# What steers Python or pytest, or is only ballast. Names of files and folders of a hand-in.
LEFT_OUT = {"tests", "conftest.py", "pytest.ini", ".pytest.ini", "tox.ini", "setup.cfg", "setup.py",
            "pyproject.toml", "sitecustomize.py", "usercustomize.py", "data", "out", "build",
            "__pycache__", "venv", "env", "node_modules"}
LARGEST = 50 * 2 ** 20                            # bytes of a file
PAUSE = 15                                        # seconds of silence beyond four times a fact's


@dataclass
class Fact:
    """One test of a mark and what came of it."""

    name: str
    sentence: str               # its docstring
    holds: bool = False
    message: str = ""           # why not, for the student


@dataclass
class Result:
    """A mark of one hand-in."""

    mark: str
    facts: list
    seconds: float = 0.0
    said: list = field(default_factory=list)      # about the mark as a whole

    @property
    def most(self):
        return MARKS[self.mark].points

    @property
    def right(self):
        return sum(fact.holds for fact in self.facts)

    @property
    def points(self):
        """The mark's points are shared out evenly over its facts."""
        return self.most * self.right / len(self.facts)


def lay_out(hand_in, target, marks, root=HERE):
    """A fresh student's copy in `target`, with the files of the hand-in over it."""
    copy_house(root, target)
    make_blanks(root, target, marks)
    for folder, inside, names in os.walk(hand_in, followlinks=False):
        inside[:] = [name for name in inside if name not in LEFT_OUT and not name.startswith(".")]
        for name in names:
            source = Path(folder) / name
            if name in LEFT_OUT or name.startswith(".") or name.endswith(".pth"):
                continue
            # A link would bring a file of this machine along, and be tested as the student's.
            if source.is_symlink() or not source.is_file() or source.stat().st_size > LARGEST:
                continue
            goal = target / source.relative_to(hand_in)
            goal.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, goal)


def lay_out_tests(target, seed, root=HERE):
    """The teacher's tests in a folder of their own, with answers of `seed` in place of oracles."""
    # By way of a folder in between, since the copy makes tests/spec and a student's copy has more.
    with tempfile.TemporaryDirectory() as middle:
        copy_specifications(root, Path(middle))
        shutil.copytree(Path(middle) / SPEC, target)
    write_golden(root, target / "golden", seed)
    lines = ["[pytest]", "markers ="] + [f"    {mark}: {MARKS[mark].title}" for mark in MARKS]
    (target / "pytest.ini").write_text("\n".join(lines) + "\n", "utf-8")


def environment(home):
    """What a process of the student's sees of ours: nothing but where programs are."""
    return {"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8", "HOME": str(home),
            "TMPDIR": str(home), "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def modules_of(mark):
    """The modules that a mark's functions are in."""
    return [file.removesuffix(".py").replace("/", ".") for file in MARKS[mark].functions]


def one_process(order, home, until):
    """Start a runner, collect what it tells, and end it with all that it started.

    until: time.monotonic() at which it is over in any case. Gives the lines, and what ended it: ""
    where it came to its end.
    """
    reading, writing = os.pipe()
    order = {**order, "pipe": writing}
    process = subprocess.Popen([sys.executable, "-I", "-B", str(RUNNER)], stdin=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               pass_fds=[writing], env=environment(home), cwd=home,
                               start_new_session=True)
    # Ours is closed, so that the pipe ends when the last process that holds the other one ends.
    os.close(writing)
    process.stdin.write(json.dumps(order).encode())
    process.stdin.close()

    # Silence for longer than a fact or an import (runner.py) may take: no alarm reaches it.
    patience = 4 * order["seconds"] + PAUSE
    text = b""
    ended = ""
    while True:
        left = until - time.monotonic()
        ready, _, _ = select.select([reading], [], [], max(0.0, min(patience, left)))
        if not ready:
            ended = "the time of the mark was used up" if left < patience else "it hung"
            break
        chunk = os.read(reading, 65536)
        if not chunk:
            break
        text += chunk
    os.close(reading)

    try:
        os.killpg(process.pid, signal.SIGKILL)    # its children, too
    except ProcessLookupError:
        pass
    code = process.wait()
    lines = read_lines(text)
    if any("end" in line for line in lines):
        return lines, ""
    if not ended:
        ended = f"the process ended early (exit code {code}): sys.exit, or out of memory?"
    return lines, ended


def read_lines(text):
    """The lines of JSON in what a process wrote; one that was cut is left out."""
    lines = []
    for line in text.decode("utf-8", errors="replace").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in lines if isinstance(line, dict)]


def run_mark(mark, folder, tests, home, limits, root=HERE):
    """All facts of a mark, in as many processes as it takes: one that ends early costs a fact."""
    sentences = facts_of(mark, root)
    begun = time.monotonic()
    until = begun + limits["mark"]
    told = {}                                     # test with its parameters -> (holds, message)
    result = Result(mark, [Fact(name, sentence) for name, sentence in sentences.items()])

    while time.monotonic() <= until:
        order = {"folder": str(folder), "tests": str(tests), "file": f"test_{mark}_facts.py",
                 "modules": modules_of(mark), "seconds": limits["fact"],
                 "memory": limits["memory"], "skip": sorted(told)}
        lines, ended = one_process(order, home, until)
        last = ""
        for line in lines:
            if "start" in line:
                last = str(line["start"])
            if "fact" in line and str(line["fact"]) not in told:
                told[str(line["fact"])] = (bool(line["holds"]), str(line["message"]))
            if "collect" in line:
                result.said.append(str(line["collect"]))
        if not ended:
            break
        # It ended at the fact that it had begun last: that one is lost, and left out of the next
        # process. Where it had begun none, another process would end as soon.
        if last and last not in told:
            told[last] = (False, ended)
        else:
            result.said.append(ended)
            break

    reached = {name.split("[")[0] for name in told}
    if time.monotonic() > until and reached < set(sentences):
        result.said.append(f"the {limits['mark']:g} seconds of the mark were used up: what was not "
                           "reached counts as wrong. A larger --mark-seconds reaches it.")

    # A fact holds where it holds for all its parameters.
    for fact in result.facts:
        own = [said for name, said in told.items() if name.split("[")[0] == fact.name]
        failed = [message for holds, message in own if not holds]
        fact.holds = bool(own) and not failed
        if failed:
            fact.message = failed[0]
        elif not own:
            fact.message = result.said[0] if result.said else "it was not reached"
    result.seconds = time.monotonic() - begun
    return result


def grade(hand_in, marks, seed=1, seconds=20, mark_seconds=180, memory=2048, root=HERE):
    """Grade the folder `hand_in` -> a Result for each of `marks`.

    seed: of the private answers. seconds, mark_seconds: time of a fact and of a mark. memory: MiB
    beyond what PyTorch takes itself. Raises ValueError where there is no such folder, or none of
    the files that these marks are about is in it.
    """
    hand_in = Path(hand_in)
    refuse_no_folder(hand_in)
    if not (0 < seconds < math.inf and 0 < mark_seconds < math.inf and memory > 0):
        raise ValueError(f"--seconds {seconds} --mark-seconds {mark_seconds} --memory {memory}. "
                         "Expected numbers above 0. Change them.")
    refuse_nothing_handed_in(hand_in, marks)
    limits = {"fact": seconds, "mark": mark_seconds, "memory": memory}
    results = []
    with tempfile.TemporaryDirectory(prefix="grade-") as place:
        clean = Path(place).resolve() / "clean"
        lay_out(hand_in, clean / "work", marks, root)
        lay_out_tests(clean / "tests", seed, root)
        (clean / "home").mkdir()

        # A mark gets folders of its own: what another mark's process did to its own is gone.
        for mark in marks:
            used = clean.with_name(mark)
            shutil.copytree(clean, used)
            results.append(run_mark(mark, used / "work", used / "tests", used / "home", limits,
                                    root))
            shutil.rmtree(used, ignore_errors=True)
    return results


def refuse_no_folder(hand_in):
    """ValueError where a hand-in is no folder."""
    if not Path(hand_in).is_dir():
        raise ValueError(f"{hand_in} is no folder. Expected a hand-in, unpacked. Name the folder "
                         "that the student gave back.")


def refuse_nothing_handed_in(hand_in, marks):
    """ValueError where a hand-in has no file that these marks are about: it is not worth 0 points,
    it is something else, or lies a folder deeper."""
    files = sorted({file for mark in marks for file in MARKS[mark].functions})

    def has_any(folder):
        return any((folder / file).is_file() and not (folder / file).is_symlink() for file in files)

    if has_any(hand_in):
        return
    deeper = [folder for folder in sorted(hand_in.iterdir()) if folder.is_dir() and has_any(folder)]
    advice = f"Grade {deeper[0]}" if deeper else "Ask for them"
    raise ValueError(f"{hand_in} has no {', '.join(files)} (a link is none). Expected what the "
                     f"student wrote there. {advice}.")


def marks_of(hand_in):
    """The marks that a hand-in says it is about, [] for the open task; None where it says none."""
    try:
        named = json.loads((Path(hand_in) / "assignment.json").read_text("utf-8"))["marks"]
        marks = [mark for mark in MARKS if mark in named]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return marks if marks or named == [] else None
