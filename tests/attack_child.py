"""One case of tests/attack.py in a child of its own: what it may take, and what becomes of it.

A case is a function that returns a Result. `in_child` forks, limits memory and time, and stands the
child in a folder full of traps: files named as modules are, of which none may be imported. `Attack`
counts the results of a part, and fails at its end. `call` and `command` are what cases are made of:
they tell a proper refusal from any other end.
"""
import collections
import contextlib
import io
import json
import os
import resource
import signal
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch

from support.video import BROKEN

FACTOR = float(os.environ.get("PEVL_ATTACK", "1"))
SEED = int(os.environ.get("PEVL_ATTACK_SEED", "0"))
ONLY = os.environ.get("PEVL_ATTACK_ONLY")
COUNTS = {"kills": 20, "videos": 500, "annotations": 1000, "weights": 200, "commands": 300}
SECONDS = 20                                      # that a case may take
MEMORY = 2 * 2 ** 30                              # bytes that it may use beside what it began with
TRAPS = ("hashlib", "json", "re", "numpy", "av", "pickle", "sitecustomize", "support", "torch")


def count(part):
    """How many cases a part has in this run."""
    return max(1, round(COUNTS[part] * FACTOR))


@dataclass
class Result:
    """What became of a case: `kind` is "fine", "refused" or what went wrong; `text` says more."""
    kind: str
    text: str = ""


# ---- Memory --------------------------------------------------------------------------------------

def pages(field):
    """Bytes of this process, of a field of statm: 0 what is mapped, 1 what is in memory."""
    found = Path("/proc/self/statm").read_text().split()
    return int(found[field]) * resource.getpagesize()


def limit_memory():
    """Far more than MEMORY, so that the machine lives; what was used is measured at the end."""
    resource.setrlimit(resource.RLIMIT_AS, (pages(0) + 2 * MEMORY, resource.RLIM_INFINITY))
    Path("/proc/self/clear_refs").write_text("5")             # the highest use begins anew


def highest():
    """The most bytes of memory that this process used since `limit_memory`."""
    status = Path("/proc/self/status").read_text()
    kibibytes = status.split("VmHWM:")[1].split()[0]
    return int(kibibytes) * 1024


# ---- What an error has to say --------------------------------------------------------------------

def three_parts(text):
    """Whether it has what was wrong, `Expected ...`, and a sentence about what to do next."""
    wrong, expected, after = text.partition("Expected")
    if not wrong.strip(" .") or not expected:
        return False
    return any(f"{mark} " in after.strip() for mark in ".?;:")


def judge_error(text, names):
    """-> Result of a refusal: does its text name one of `names`, and has it three parts?"""
    if names and not any(name in text for name in names):
        return Result("no file named", text)
    if not three_parts(text):
        return Result("not three parts", text)
    return Result("refused", text)


def call(job, names, says_all):
    """Call `job()` in the child -> Result.

    names: of which a refusal must name one. says_all: whether its text must have three parts
    (decode's is put into such a text by whoever calls it).
    """
    try:
        job()
    except (ValueError, OSError, *BROKEN) as error:
        if says_all:
            return judge_error(str(error), names)
        return Result("refused", str(error))
    return Result("fine")


def command(main, argv, names):
    """Call `main(argv)` as the command line does -> Result."""
    errors = io.StringIO()
    out = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(out):
        try:
            code = main(argv)
        except SystemExit as stop:
            code = stop.code

    text = errors.getvalue().strip()
    if "Traceback" in text + out.getvalue():
        return Result("traceback", text)
    if code in (0, None, 1, 130):
        return Result("fine", out.getvalue()[-300:])

    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("error")]
    if code != 2 or not starts or not lines[starts[-1]].startswith("error: "):
        return Result(f"exit code {code} without `error: `", text)
    return judge_error("\n".join(lines[starts[-1]:]), names)


# ---- The child -----------------------------------------------------------------------------------

def judged(case):
    """In the child: `case()` under the limit of memory -> Result."""
    limit_memory()
    before = pages(1)
    try:
        result = case()
    except BaseException:
        result = Result("traceback", traceback.format_exc(chain=False))

    used = highest() - before
    if used > MEMORY:
        return Result("memory", f"{used / 2 ** 20:.0f} MiB; {result.kind}: {result.text}")
    return result


def be_child(case, folder, sink):
    """Judge the case in `folder`, in silence, write its Result to `sink`, and end the process."""
    try:
        os.chdir(folder)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        torch.set_num_threads(1)                  # the parent's threads are not there any more
        result = judged(case)
        # Escaped, a letter has 12 bytes at most: the text fits into a pipe that nobody empties.
        os.write(sink, json.dumps([result.kind, result.text[:4000]]).encode())
    finally:
        os._exit(0)


def in_child(case, folder):
    """Run `case()` -> Result in a child whose folder is full of traps -> Result."""
    source, sink = os.pipe()
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(source)
        be_child(case, folder, sink)

    os.close(sink)
    ended, status = os.waitpid(child, os.WNOHANG)
    while not ended and time.monotonic() - begun < SECONDS:
        time.sleep(0.002)
        ended, status = os.waitpid(child, os.WNOHANG)

    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(source)
        return Result("hang", f"over {SECONDS} s")

    os.set_blocking(source, False)                # a process that the case left may hold the pipe
    content = b""
    with contextlib.suppress(BlockingIOError):
        content = os.read(source, 65536)
    os.close(source)
    if not content:
        return Result(f"ended by signal {status}")
    return Result(*json.loads(content))


class Attack:
    """A part of the attack: runs cases, counts what became of them, and fails at the end."""

    def __init__(self, part, folder):
        self.part = part
        self.folder = Path(folder)
        self.trap = self.folder / "trap"
        self.marker = self.folder / "marker"
        self.tally = collections.Counter()
        self.faults = []
        self.begun = time.monotonic()
        self.trap.mkdir(parents=True)
        for name in TRAPS:
            path = self.trap / f"{name}.py"
            path.write_text(f"open({str(self.marker)!r}, 'w')\nraise SystemExit(9)\n")

    @property
    def cases(self):
        return sum(self.tally.values())

    def run(self, name, case):
        """Run a case whose name begins with its number."""
        if ONLY and name.split()[0] != ONLY:
            return
        self.note(name, in_child(case, self.trap))

    def note(self, name, result):
        """Count a result, which is a fault where foreign code has left the marker."""
        if self.marker.exists():
            self.marker.unlink()
            result = Result("foreign code ran", result.text)
        self.tally[result.kind] += 1
        if result.kind not in ("fine", "refused"):
            self.faults.append(f"{name}: {result.kind}\n    {result.text[:2500]}")

    def end(self):
        """Print the counts and the first faults; an AssertionError if there are any."""
        spent = time.monotonic() - self.begun
        print(f"\n{self.part}, seed {SEED}: {self.cases} cases in {spent:.0f} s: "
              f"{dict(self.tally)}")
        for fault in self.faults[:40]:
            print("FAULT", fault)
        assert not self.faults, f"{len(self.faults)} of {self.cases} {self.part} fell"
