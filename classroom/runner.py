"""The process in which one mark of one hand-in is tested. Started by grade.py, never imported.

It runs somebody's code that may be wrong in any way: endless, greedy, ended by sys.exit, or
patching what it is tested with. So: limits first; pytest, torch and the comparison are imported
before the first line of the student's; every verdict is taken here, not by pytest's report, and
told at once over a pipe, so that what was told before a crash stands; and after each fact the
comparison has to show that it can still tell wrong from right.

    what comes in     standard input, JSON: see `main`
    what goes out     lines of JSON to the file descriptor that is named there
"""
import importlib
import json
import os
import resource
import signal
import sys
import traceback

import pytest
import torch

# What a hand-in has no business with. An audit hook cannot be taken away again.
FORBIDDEN = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname",
             "socket.sendto", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn",
             "os.fork", "os.forkpty", "os.kill", "os.killpg", "urllib.Request")


class TimeUp(BaseException):
    """A fact took too long. No Exception, so that `except Exception` does not swallow it."""


def limit(memory):
    """At most `memory` MiB beyond what is in use now, small files, no core dumps."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    # Addresses, not pages: PyTorch maps some gigabytes before it uses any, hence "beyond".
    most = used + memory * 2 ** 20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 ** 24, 2 ** 24))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def forbid(event, args):
    """The audit hook: no network, no other processes."""
    if event in FORBIDDEN:
        raise PermissionError(f"{event} is not allowed while grading: no network, no processes")


def ring(number, frame):
    """The alarm of a fact."""
    raise TimeUp("it ran longer than its time: is there an endless loop?")


def place_of(error, folder):
    """`pevl.py:455` of the last line of the student's in a traceback, or nothing."""
    found = ""
    for entry in traceback.extract_tb(error.__traceback__):
        if entry.filename.startswith(folder) and "/tests/" not in entry.filename:
            found = f" ({os.path.relpath(entry.filename, folder)}:{entry.lineno})"
    return found


def message_of(error, folder):
    """What a student reads about an error."""
    if isinstance(error, AssertionError):
        return str(error) or "assertion failed"
    return f"{type(error).__name__}: {error}{place_of(error, folder)}"


class Verdicts:
    """A pytest plugin that calls each test itself and tells what came of it."""

    def __init__(self, tell, folder, seconds, comparison_works, skip):
        self.tell = tell
        self.folder = folder
        self.seconds = seconds
        self.comparison_works = comparison_works
        self.skip = skip

    def pytest_collection_modifyitems(self, items):
        """Leave out what an earlier process has told already."""
        items[:] = [item for item in items if item.nodeid.split("::", 1)[1] not in self.skip]

    def pytest_runtest_logstart(self, nodeid):
        self.tell({"start": nodeid.split("::", 1)[1]})

    def pytest_runtest_makereport(self, item, call):
        """A fixture that fails is a fact that fails."""
        if call.when == "setup" and call.excinfo is not None:
            self.verdict(item, call.excinfo.value)

    def pytest_collectreport(self, report):
        if report.failed:
            self.tell({"collect": str(report.longrepr)[-1500:]})

    def pytest_pyfunc_call(self, pyfuncitem):
        """Call the test; True says to pytest that it was done."""
        arguments = {}
        for name in pyfuncitem._fixtureinfo.argnames:
            arguments[name] = pyfuncitem.funcargs[name]
        error = None
        # It rings again every second, for code that swallows the first ring.
        signal.setitimer(signal.ITIMER_REAL, self.seconds, 1.0)
        try:
            pyfuncitem.obj(**arguments)
        except KeyboardInterrupt:
            raise
        except BaseException as reason:
            error = reason
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

        if error is None and not self.comparison_works():
            error = AssertionError("the tests' own comparison was changed: nothing counts now")
        self.verdict(pyfuncitem, error)
        return True

    def verdict(self, item, error):
        """Tell whether a fact holds, and if not, why."""
        said = "" if error is None else message_of(error, self.folder)
        self.tell({"fact": item.nodeid.split("::", 1)[1], "holds": error is None,
                   "message": said[:3000]})


def comparison_check(spec):
    """A function that says whether `spec` still refuses what is wrong. Bound before the student."""
    close, holds = spec.close, spec.holds

    def works():
        refused = 0
        for check in (lambda: close(1.0, 2.0, why=""), lambda: holds(False, why="")):
            try:
                check()
            except AssertionError:
                refused += 1
        same = spec.close is close and spec.holds is holds
        return refused == 2 and same
    return works


def import_place(error, folder):
    """Where and why a file of the student's cannot be imported."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{os.path.basename(error.filename)}, line {error.lineno}: {error.msg}"
    return message_of(error, folder)


def main():
    """order: folder (student's), tests (teacher's), file, modules, seconds, memory, pipe, skip."""
    order = json.loads(sys.stdin.read())
    pipe = os.fdopen(order["pipe"], "w")
    folder = order["folder"]

    def tell(line):
        pipe.write(json.dumps(line) + "\n")
        pipe.flush()

    # Everything that judges, before anything that is judged.
    sys.path[:0] = [order["tests"]]
    importlib.import_module("expected")
    spec = importlib.import_module("spec")
    torch.set_num_threads(1)
    # What torch loads when gradients are first checked, it loads now: later, memory is limited and
    # other processes are forbidden.
    torch.autograd.gradcheck(torch.sin, torch.ones(1, dtype=torch.float64, requires_grad=True))
    works = comparison_check(spec)

    limit(order["memory"])
    signal.signal(signal.SIGALRM, ring)
    os.chdir(folder)
    sys.addaudithook(forbid)
    sys.path.append(folder)                       # behind: a student's torch.py shadows nothing

    # The files of the mark by themselves, so that one that cannot be read says so once.
    for module in order["modules"]:
        signal.setitimer(signal.ITIMER_REAL, 4 * order["seconds"], 1.0)
        try:
            importlib.import_module(module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            tell({"collect": f"{module} cannot be imported. {import_place(error, folder)}"})
            tell({"end": True})
            os._exit(0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    plugin = Verdicts(tell, folder, order["seconds"], works, set(order["skip"]))
    settings = os.path.join(order["tests"], "pytest.ini")
    file = os.path.join(order["tests"], order["file"])
    code = pytest.main(["-q", "-p", "no:cacheprovider", "--noconftest", "-c", settings,
                        "--rootdir", order["tests"], file], plugins=[plugin])
    tell({"end": True, "code": int(code)})
    os._exit(0)                                   # what waits in atexit has no say any more


if __name__ == "__main__":
    main()
