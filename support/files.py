"""Files on disk: written whole or not at all, and locked while somebody works on them.

here     | what it promises                                          | tests/test_support.py
atomic   | a file appears under its name only when it is complete    | test_atomic_*
lock     | one process at a time, and the next one learns which      | test_lock_*
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


class Locked(ValueError):
    """Somebody else holds the lock that was asked for."""


def lock(path, about):
    """Hold `path` as a lock file until the returned file is closed or this process ends.

    The system itself releases the lock when a process dies, however it dies, so that a lock file
    that is left over locks nothing. It belongs to this process alone: children that are forked,
    such as a data loader's workers, do not keep it alive (hence lockf and not flock).

    about: one line that says who holds it, for the error of the next one. Raises Locked, which
    names the holder. Where there are no locks (Windows, some network disks) nothing is locked.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a+")
    try:
        import fcntl                              # not on Windows
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        return file
    except (BlockingIOError, PermissionError):    # which of them, depends on the system
        file.seek(0)
        holder = file.read().strip() or "somebody"
        file.close()
        raise Locked(f"{path.parent} is in use by {holder}. Expected a folder that nobody writes "
                     "to. Wait for it to end, or choose another folder.") from None
    except OSError:                               # a disk without locks
        return file
    file.truncate(0)
    file.write(f"{about}\n")
    file.flush()
    return file
