"""Files on disk: written whole or not at all, and fetched from the net with their hash checked.

here     | what it promises                                          | tests/test_support.py
atomic   | a file appears under its name only when it is complete    | test_atomic_*
"""
import os
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path):
    """Give a path to write to, which gets its final name `path` when the block ends well.

        with atomic("out/result.json") as part:
            part.write_text(text)

    A crash, a full disk or an exception inside the block leaves what was there before. Folders on
    the way are made. The name of the part is fixed, so that what a killed run left behind is
    overwritten by the next one and nothing piles up.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part.{path.name}")
    try:
        yield part

        # The bytes must be on the disk before the name is: a power cut must not leave an empty file
        # where a good one was.
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
