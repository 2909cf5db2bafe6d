"""Checkpoints: written whole or not at all, read without executing anything, torn ones named.

here            | what it promises                                       | tests/test_train.py
write_torch     | a failed write alters nothing that was there           | test_full_disk
read_checkpoint | a torn or foreign file is an error with its name       | test_torn_checkpoint
fingerprint     | equal weights have equal hashes, others have not       | test_changed_settings

A run folder holds `last.pt` (the newest), `previous.pt` (the one before, should the newest be torn)
and `best.pt` (the best on the held-out split).
"""
import hashlib
import os
import zipfile

import torch

from support.files import atomic

FORMAT = 1                                        # of the dict that train.py saves
NAMES = ("last.pt", "previous.pt", "best.pt")     # in the order in which a run looks for one


def fingerprint(state):
    """SHA-256 of a state dict: names, shapes, dtypes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, x in sorted(state.items()):
        digest.update(f"{name} {tuple(x.shape)} {x.dtype}".encode())
        digest.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def last_good(folder):
    """The checkpoint that a person should go back to, as text, for error messages."""
    for name in NAMES:
        if (folder / name).exists():
            return str(folder / name)
    return "none yet"


def write_torch(value, path, keep=None):
    """torch.save to `path`, all or nothing. What was at `path` becomes `keep`, where it is named.

    Raises ValueError with the space that is needed: a full disk is the usual reason.
    """
    try:
        with atomic(path) as part:
            torch.save(value, part)
            if keep and path.exists():
                os.replace(path, keep)
    except (OSError, RuntimeError) as reason:     # torch makes a full disk a RuntimeError
        # The weights that are trained, and AdamW's two moments of each.
        weights = value.get("model", value)
        need = 3 * sum(x.nbytes for x in weights.values()) / 2 ** 20
        raise ValueError(f"cannot write {path} ({reason}). Expected {need:.0f} MiB free; last good "
                         f"checkpoint: {last_good(path.parent)}. Make room, then rerun.") from None


def read_checkpoint(path):
    """What train.py saved at `path`, as a dict on the CPU.

    torch.save writes a zip archive, and a zip holds a checksum of each part: `testzip` finds a
    flipped bit that would otherwise be a silently wrong weight. `weights_only` builds tensors and
    plain containers and refuses every other class, so that no code of a foreign file ever runs.

    Raises FileNotFoundError, or ValueError for a torn or foreign file.
    """
    saved = None
    reason = None
    try:
        with zipfile.ZipFile(path) as archive:
            reason = archive.testzip()            # the name of the first damaged part, or None
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"no checkpoint at {path}. Expected a file that train.py wrote. "
                                "Train first: python train.py.") from None
    except Exception as error:                    # broken bytes fail in every possible way
        reason = error

    if reason or not isinstance(saved, dict) or saved.get("format") != FORMAT:
        raise ValueError(f"{path} is torn or no checkpoint of train.py ({reason or 'foreign'}). "
                         f"Expected format {FORMAT}. Use another of {', '.join(NAMES)} beside it.")
    return saved
