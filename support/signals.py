"""Signals that are obeyed when the step is done: Ctrl-C, and what Slurm sends before it kills.

here    | what it does                                             | tests/test_train.py
Signals | notes SIGTERM and SIGINT while a run trains              | test_resume
Stopped | how a run ends that was asked to: exit code 128 + number | test_sigterm_of_the_command
"""
import signal
from contextlib import suppress


class Stopped(SystemExit):
    """SIGTERM or SIGINT was obeyed, the step finished and saved; exit code 128 + its number."""


class Signals:
    """While this is open, SIGTERM and SIGINT (Ctrl-C) are noted, to be obeyed after the step.

    One that comes while an epoch is measured is obeyed after the next step; where no step is left,
    the run ends as it would have. A second one is obeyed at once. Only a main thread
    may set handlers; elsewhere nothing changes.
    """

    def __init__(self):
        self.caught = 0                           # number of the signal, 0: none
        self.before = {}

    def note(self, number, _):
        if self.caught:
            raise KeyboardInterrupt
        self.caught = number

    def __enter__(self):
        with suppress(ValueError):                # no main thread
            for number in (signal.SIGTERM, signal.SIGINT):
                self.before[number] = signal.signal(number, self.note)
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)
