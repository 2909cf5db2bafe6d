"""Files on disk: written whole or not at all, locked while somebody works on them, and no bombs.

here         | what it promises                                     | tests
atomic       | a file has its name only when it is complete         | test_support.py: test_atomic_*
lock         | one process at a time, and the next one learns which | test_support.py: test_lock_*
set_aside    | a run that is begun again is kept                    | test_train.py: test_changed_*
hash_of      | SHA-256 of a file, read block by block               | test_evidence.py
cache_folder | where downloads are kept                             | test_download.py
zip_bomb     | what a zip unpacks to, before it is unpacked         | test_clip_weights.py: test_a_*
tensor_bomb  | tensors claim no more than their file holds          | test_clip_weights.py: test_t*
"""
import hashlib
import os
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path, keep=None):
    """Give a path to write to, which gets its final name `path` when the block ends well.

        with atomic("out/result.json") as part:
            part.write_text(text)

    A crash, a full disk or an exception inside the block leaves what was there before. Folders on
    the way are made. The name of the part is fixed, so that what a killed run left behind is
    overwritten by the next one and nothing piles up. keep: what was at `path` gets this name.
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
        if keep and path.exists():
            os.replace(path, keep)
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


def set_aside(folder, names):
    """Rename a run's folder to `<folder>.before-fresh` (or `-2`, ...), so that nothing is lost.

    names: files of which one at least makes it a run's; a folder without them is left alone.
    """
    if not any((folder / name).exists() for name in names):
        return
    target = folder.with_name(f"{folder.name}.before-fresh")
    number = 2
    while target.exists():
        target = folder.with_name(f"{folder.name}.before-fresh-{number}")
        number += 1
    folder.rename(target)
    print(f"note: --fresh: the run that was in {folder} is kept in {target}")


# ---- Hashes and downloads ------------------------------------------------------------------------

BLOCK = 1 << 20                                   # bytes that are read at a time


def hash_of(path):
    """SHA-256 of a file's bytes, as an object of hashlib, which can take further bytes.

    Read block by block: a file of weights need not fit in memory.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest


def cache_folder():
    """Where downloads are kept: $PEVL_CACHE, else $XDG_CACHE_HOME/pevl, else ~/.cache/pevl."""
    own = os.environ.get("PEVL_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(shared).expanduser() / "pevl"


# ---- Bombs ---------------------------------------------------------------------------------------

# What a file of weights may unpack to. PyTorch stores numbers as they are, so an honest file
# unpacks to its own size and a little: TorchScript's code, which alone is packed, is a few MB. Four
# times leaves room for a checkpoint that somebody packed again; a bomb unpacks to a thousand times
# its size.
UNPACKED_TIMES = 4
UNPACKED_EXTRA = 64 * 2 ** 20                     # bytes


def most_unpacked(path):
    """Bytes that a file of weights of this size may unpack to."""
    return UNPACKED_TIMES * Path(path).stat().st_size + UNPACKED_EXTRA


def zip_bomb(archive, most):
    """What is wrong where a zip would unpack to more than `most` bytes, in words; else "".

    archive: an open ZipFile. The sizes are read in its directory, before anything is unpacked. A
    directory that understates a size does not help the bomb: both Python's reader and PyTorch's
    stop at the size that is written there.
    """
    unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > most:
        return f"it would unpack to {unpacked} bytes, and files like it to at most {most}"
    return ""


def tensor_bomb(tensors, most):
    """What is wrong where tensors claim more than `most` bytes, in words; else "".

    A tensor can show one stored number a billion times (a stride of 0). That costs nothing until
    somebody copies it, so it is refused before.
    """
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if claimed > most:
        return f"its tensors claim {claimed} bytes, and files of its size hold at most {most}"
    return ""
