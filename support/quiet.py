"""Keep off the screen what a package writes there by itself, past Python's own streams.

here       | what it does                             | tests/test_person.py
no_chatter | standard error leads nowhere for a while | test_chatter_is_kept_off_the_screen
"""
import os
import sys
from contextlib import contextmanager


@contextmanager
def no_chatter():
    """While this is open, what anybody writes to standard error, C++ included, is thrown away.

    Some packages (MediaPipe, TensorFlow Lite) log to file descriptor 2 from C++, where neither
    `warnings` nor `logging` reaches them. An exception that leaves the block is told as ever: the
    screen is there again when it is printed.
    """
    sys.stderr.flush()
    screen = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(screen, 2)
        os.close(nowhere)
        os.close(screen)
