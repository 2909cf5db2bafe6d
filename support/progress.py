"""How far a long job is: one line on standard error, with its rate and the time that is left.

here          | what it prints                                        | tests/test_progress.py
Progress      | `evaluate 320/960 clips, 40.0 clips/s, 0:16 left`     | test_progress_*
"""
import sys
import time

OFTEN = 0.2                                       # seconds between lines that a terminal rewrites
SELDOM = 10.0                                     # and between lines of a log, which all stay


class Progress:
    """Tell how far a job is, not more often than people can read, and once more when all is done.

        progress = Progress("evaluate", total=960, unit="clips")
        for batch in batches:
            ...
            progress.show(done)

    what: the line's first words. total: how many units there are; None where nobody knows. before:
    how many of them were done by an earlier run: they count, but they say nothing about the rate.
    alone: nothing else is printed meanwhile, so that a terminal may write each line over the last.
    """

    def __init__(self, what, total, unit, before=0, alone=True):
        self.what = what
        self.total = total
        self.unit = unit
        self.before = before
        self.rewrites = alone and sys.stderr.isatty()
        self.begun = time.monotonic()
        self.shown = self.begun                   # when the last line was printed

    def show(self, done, note=""):
        """done: units that are done by now, those of an earlier run with them. note: more words."""
        now = time.monotonic()
        pause = OFTEN if self.rewrites else SELDOM
        finished = done == self.total
        if not finished and now - self.shown <= pause:
            return
        self.shown = now

        line = self.line(done)
        if note:
            line += f", {note}"
        if not self.rewrites:
            print(line, file=sys.stderr, flush=True)
            return

        # The line is written over the one before it, and what a longer one left is cleared.
        end = "\033[K\n" if finished else "\033[K"
        print(f"\r{line}", end=end, file=sys.stderr, flush=True)

    def rate(self, count):
        """How many a second that was, if `count` of something have been done since the start."""
        return count / max(time.monotonic() - self.begun, 1e-6)

    def line(self, done):
        """The line for now."""
        of = "" if self.total is None else f"/{self.total:.0f}"
        line = f"{self.what} {done:.0f}{of} {self.unit}"

        # A run that only found what was there already knows nothing of the rest.
        here = done - self.before
        if here == 0:
            return line

        rate = self.rate(here)
        line += f", {rate:.1f} {self.unit}/s"
        if self.total is not None:
            left = int((self.total - done) / rate)
            line += f", {left // 60}:{left % 60:02d} left"
        return line
