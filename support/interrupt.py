"""Ctrl-C while a command is still starting: one line and exit code 130, and no traceback.

A command imports PyTorch before its first line runs, which takes seconds, and people press Ctrl-C
in them. So each command begins, above its other imports, with

    if __name__ == "__main__":
        import support.interrupt

A program that imports the file is not touched. Once the command runs, support/commands.py takes
over.
tests/test_robustness.py: test_ctrl_c_during_the_start
"""
import os
import sys

from support.stopped import CODE, STOPPED


def hook(kind, error, trace):
    """sys.excepthook, with another end for KeyboardInterrupt."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    print(STOPPED, file=sys.stderr, flush=True)
    os._exit(CODE)                                # at once: half of the imports are missing


sys.excepthook = hook
