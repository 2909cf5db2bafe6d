"""Signals that are obeyed when the step is done: Ctrl-C, and what Slurm sends before it kills.

here         | what it does                                              | tests/test_train.py
Signals      | notes SIGTERM and SIGINT while a run trains               | test_resume
Stopped      | how a run ends that was asked to: exit code 128 + number  | test_sigterm_of_the_*
quiet_worker | a loader's worker leaves signals to the main process      | test_workers_outlive_*
held_signals | signals wait until starting workers are quiet             | test_use_of_training.py
"""
import signal
from contextlib import contextmanager, suppress

STOPPING = (signal.SIGTERM, signal.SIGINT)        # what Slurm sends, and Ctrl-C


class Stopped(SystemExit):
    """SIGTERM or SIGINT was obeyed, the step finished and saved; exit code 128 + its number."""


class Signals:
    """While this is open, SIGTERM and SIGINT (Ctrl-C) are noted, to be obeyed after the step.

    One that comes while an epoch is measured is obeyed after the next step; where no step is left,
    the run ends as it would have. A second one is obeyed at once: what was trained since the last
    checkpoint is lost. Only a main thread may set handlers; elsewhere nothing changes.
    """

    def __init__(self):
        self.caught = 0                           # number of the signal, 0: none
        self.before = {}

    def note(self, number, _):
        if self.caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.caught:
            raise SystemExit(128 + number)
        self.caught = number

    def __enter__(self):
        with suppress(ValueError):                # no main thread
            for number in STOPPING:
                self.before[number] = signal.signal(number, self.note)
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)


# ---- Workers of a loader -------------------------------------------------------------------------

def quiet_worker(_):
    """What a loader's worker process does first: leave signals to the main process.

    Ctrl-C and Slurm's SIGTERM reach all processes at once. The main process finishes its step, for
    which it needs the workers, and ends them itself; a minute after a SIGTERM a worker ends on its
    own, so that no exit waits for it. What came before this line was held back, see `held_signals`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_in_a_minute(*_):
        signal.alarm(60)

    signal.signal(signal.SIGTERM, end_in_a_minute)
    if hasattr(signal, "pthread_sigmask"):        # not on Windows
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


@contextmanager
def held_signals():
    """Start a loader's workers inside this: a signal waits until they have made themselves quiet.

    Without it, one that comes while a worker is starting ends that worker, since PyTorch's own
    handler is in place first, and the main process with it: "DataLoader worker is killed". A slow
    machine starts workers for a second and longer.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
