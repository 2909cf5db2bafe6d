"""support/progress.py: what a long job says, how often, and how it is laid on a terminal."""
import io

import pytest

from support import progress
from support.progress import Progress


class Screen(io.StringIO):
    """Standard error that is a terminal, or is not."""

    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


class Clock:
    """Stands for the module `time`: its seconds are set by hand."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def screen(monkeypatch, terminal):
    """Standard error from now on."""
    made = Screen(terminal)
    monkeypatch.setattr("sys.stderr", made)
    return made


def test_progress_says_rate_and_time_left(monkeypatch, clock):
    """40 clips a second leave 16 s for 640 more; the last line says that nothing is left."""
    shown = screen(monkeypatch, terminal=False)
    job = Progress("evaluate", total=960, unit="clips")

    clock.now += 320 / 40
    assert job.line(320) == "evaluate 320/960 clips, 40.0 clips/s, 0:16 left"

    clock.now += 640 / 40
    job.show(960, note="2 broken")
    assert shown.getvalue() == "evaluate 960/960 clips, 40.0 clips/s, 0:00 left, 2 broken\n"


def test_progress_does_not_count_what_was_there(monkeypatch, clock):
    """90 of 100 lay there: ten in five seconds are two a second, not twenty."""
    screen(monkeypatch, terminal=False)
    job = Progress("extract", total=110, unit="clips", before=90)
    assert job.line(90) == "extract 90/110 clips", "a run that has done nothing has no rate"

    clock.now += 5
    assert job.line(100) == "extract 100/110 clips, 2.0 clips/s, 0:05 left"


def test_progress_without_a_total_has_no_end(monkeypatch, clock):
    """A server need not say how long its file is; then there is a rate and no time left."""
    screen(monkeypatch, terminal=False)
    job = Progress("net.pth", total=None, unit="MB")
    clock.now += 2
    assert job.line(3) == "net.pth 3 MB, 1.5 MB/s"


@pytest.mark.parametrize("terminal, least, most", [(True, 100, 300), (False, 5, 7)])
def test_progress_is_not_faster_than_people_read(monkeypatch, clock, terminal, least, most):
    """A minute of 600 clips: a terminal's line changes five times a second at most, that of a log
    comes each ten seconds; both end with the last clip."""
    shown = screen(monkeypatch, terminal)
    job = Progress("check", total=600, unit="clips")
    for done in range(1, 601):
        clock.now += 0.1
        job.show(done)
    said = shown.getvalue()
    lines = said.count("check")
    assert least <= lines <= most, f"{lines} lines in a minute"
    assert "check 600/600 clips" in said, "the end is not told"


def test_progress_rewrites_the_line_of_a_terminal(monkeypatch, clock):
    """Each line begins at the left and clears the rest; only the last one ends the line."""
    shown = screen(monkeypatch, terminal=True)
    job = Progress("check", total=2, unit="clips")
    clock.now += 1
    job.show(1)
    clock.now += 1
    job.show(2)
    assert shown.getvalue() == ("\rcheck 1/2 clips, 1.0 clips/s, 0:01 left\033[K"
                                "\rcheck 2/2 clips, 1.0 clips/s, 0:00 left\033[K\n")


def test_progress_between_other_lines_stays(monkeypatch, clock):
    """alone=False: what is printed in between would be written over."""
    shown = screen(monkeypatch, terminal=True)
    job = Progress("label", total=2, unit="videos", alone=False)
    clock.now += 11
    job.show(1)
    clock.now += 1
    job.show(2)
    assert shown.getvalue().count("\n") == 2 and "\r" not in shown.getvalue()
