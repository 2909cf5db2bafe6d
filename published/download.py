"""Large published files: fetched once, resumed where a connection was cut, and checked by hash.

here     | what it does                                               | tests/test_download.py
download | file of the cache: downloaded once, resumed, hashed        | test_download_*
"""
import contextlib
import hashlib
import http.client
import os
import sys
import time
import urllib.request

from support.files import cache_folder, hash_of
from support.progress import Progress

RETRIES = 5                                 # tries of a download before it is given up
PAUSE = 1.0                                 # seconds before a try, times the number of the try
FINAL = {401, 403, 404, 410}                # a server that says so says it the next time, too
BLOCK = 1 << 18                             # bytes that are read at a time
MB = 1e6                                    # bytes, as they are shown


def download(url, sha256, advice):
    """Path of the file of `url` in the cache: fetched where it is not there, hashed on every call.

    sha256: the hash of its bytes in hexadecimal, or its first digits, where no more are published.
    advice: the last sentence of the error, what to do next. Raises ValueError where the file cannot
    be had, or holds other bytes.

    Hashing 350 MB takes a second. It is done every time, since a note "this was checked" would
    outlive a disk that has been damaged since.
    """
    name = url.rsplit("/", 1)[1]
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / name
    part = cache / f"{name}.part"

    with one_process_at_a_time(cache / f"{name}.lock"):
        if not target.exists():
            fetch(url, part, sha256, advice)
            os.replace(part, target)        # so a file of the final name is always a whole one
            return target

        found = hash_of(target).hexdigest()
        if not found.startswith(sha256):
            raise ValueError(f"{target} has SHA-256 {found}. Expected {sha256}. It is damaged: "
                             "delete it and run again.")
    return target


@contextlib.contextmanager
def one_process_at_a_time(path):
    """Wait until no other process is inside a block of the same `path`, then enter.

    With torchrun, every process of a machine asks for the same file at once; the first downloads
    it. The system releases the lock when its holder ends, however that ends. Where there are no
    such locks (Windows, some network disks), nobody waits.
    """
    with open(path, "a") as lock:
        with contextlib.suppress(ImportError, OSError):
            import fcntl
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fetch(url, part, sha256, advice):
    """url -> file `part`, checked; goes on where an earlier try, or an earlier run, was cut."""
    for attempt in range(RETRIES):
        time.sleep(PAUSE * attempt)
        began_before = part.exists()
        try:
            found = stream(url, part)
        except (OSError, http.client.HTTPException) as error:   # urllib's own errors are OSErrors
            reason = error
            print(f"{url}: {reason}", file=sys.stderr)
            status = getattr(error, "code", None)
            if status in FINAL:
                break

            # 416, "range not satisfiable": the part is as long as the file, or longer, and yet was
            # never accepted: it holds something else, or a run ended just before.
            if status == 416:
                part.unlink(missing_ok=True)
            continue

        if found.startswith(sha256):
            return
        part.unlink()
        reason = f"what came has SHA-256 {found} and is deleted"
        if not began_before:
            break                           # the same bytes would come again

    raise ValueError(f"cannot download {url}: {reason}. Expected SHA-256 {sha256}. {advice}")


def stream(url, part):
    """Append to `part` what it lacks of url -> SHA-256 of the whole, hashed while it streams."""
    have = 0                                # bytes of an earlier try
    digest = hashlib.sha256()
    headers = {}
    if part.exists():
        have = part.stat().st_size
        digest = hash_of(part)
        headers["Range"] = f"bytes={have}-"

    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as reply, open(part, "ab") as file:
        range_sent = reply.headers.get("Content-Range", "")
        if not range_sent.startswith(f"bytes {have}-"):
            file.truncate(0)                # a server without ranges sends it from the start
            digest = hashlib.sha256()
            have = 0

        total = None                        # a server need not say how much will come
        if "Content-Length" in reply.headers:
            total = have + int(reply.headers["Content-Length"])
        progress = Progress(part.stem, total=total and total / MB, unit="MB", before=have / MB)
        while block := reply.read(BLOCK):
            file.write(block)
            digest.update(block)
            have += len(block)
            progress.show(have / MB)

        # The bytes must be on the disk before `download` gives the file its final name.
        file.flush()
        os.fsync(file.fileno())

    if total is not None and have < total:
        raise ConnectionError(f"cut after {have} of {total} bytes")
    return digest.hexdigest()
