"""Checkpoints: written whole or not at all, read without executing anything, torn ones named.

here            | what it promises                                       | tests/test_train.py
write_torch     | a failed write alters nothing that was there           | test_full_disk
read_checkpoint | a torn or foreign file is an error with its name       | test_torn_checkpoint
fingerprint     | equal weights have equal hashes, others have not       | test_changed_settings
load_optimizer  | what is not this run's is told before the first step   | test_changed_settings

PARTS says what must be in one; a part that is missing or of another type is named
(tests/test_robustness.py: test_checkpoint_parts_*).

A run folder holds `last.pt` (the newest), `previous.pt` (the one before, should the newest be torn)
and `best.pt` (the best on the held-out split).
"""
import hashlib
import zipfile
from pathlib import Path

import torch

from support.files import atomic, most_unpacked, tensor_bomb, zip_bomb
from support.shapes import misfit

FORMAT = 1                                        # of the dict that train.py saves
NAMES = ("last.pt", "previous.pt", "best.pt")     # in the order in which a run looks for one

# What a checkpoint must hold, as support/shapes.py writes it; train.save_checkpoint fills it.
PARTS = {
    "format": int,
    "model": {str: torch.Tensor},                 # what is trained
    "optimizer": {"state": dict, "param_groups": [dict]},
    "scaler": dict,
    "at": {                                       # train.new_position
        "epoch": int, "batch": int, "step": int, "measured": int, "best": float, "skipped": int,
        "broken": [int], "interval": {str: float}, "sums": {str: float},
    },
    "config": {
        "model": str, "backbone": str, "clip": str, "data": str, "video_frames": int,
        "pose_frames": int, "seed": int,
    },
    "identity": {"CLIP weights": str},
    "clip": str,                                  # hash of the CLIP that was adapted
    "labels": [str],
    "texts": [str],
    "joints": int,
    "versions": {str: str},                       # of packages, and the commit
}
MOST_JOINTS = 1000                                # whole-body sets have 133


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
        with atomic(path, keep) as part:
            torch.save(value, part)
    except (OSError, RuntimeError) as reason:     # torch makes a full disk a RuntimeError
        # The weights that are trained, and AdamW's two moments of each.
        weights = value.get("model", value)
        need = 3 * sum(x.nbytes for x in weights.values()) / 2 ** 20
        raise ValueError(f"cannot write {path} ({reason}). Expected a folder that may be written "
                         f"to and {need:.0f} MiB free; last good checkpoint: "
                         f"{last_good(path.parent)}. Check both, then rerun.") from None


def read_checkpoint(path):
    """What train.py saved at `path`, as a dict on the CPU with all of PARTS.

    torch.save writes a zip archive, and a zip holds a checksum of each part: `testzip` finds a
    flipped bit that would otherwise be a silently wrong weight. `weights_only` builds tensors and
    plain containers and refuses every other class, so that no code of a foreign file ever runs.

    Raises FileNotFoundError, or ValueError for a torn or foreign file, a bomb, and for a part that
    is missing or of another type, which is named.
    """
    if not Path(path).is_file():                  # of a pipe one would wait for the end, for ever
        raise FileNotFoundError(f"no checkpoint at {path}. Expected a file that train.py wrote. "
                                "Train first: python train.py.")

    saved = None
    try:
        with zipfile.ZipFile(path) as archive:
            fault = zip_bomb(archive, most_unpacked(path))
            damaged = None if fault else archive.testzip()
            if damaged:
                fault = f"its part {damaged} is damaged"
        if not fault:
            saved = torch.load(path, map_location="cpu", weights_only=True)
    # Broken bytes fail in every possible way. PyTorch's own words are not shown: for a file that
    # names foreign code they advise to load it without the guard.
    except Exception as error:
        fault = f"its bytes are damaged, or ask for more than tensors: {type(error).__name__}"

    fault = fault or fault_of(saved, path)
    if fault:
        raise ValueError(f"{path} is torn or no checkpoint of train.py ({fault}). Expected format "
                         f"{FORMAT}. Use another of {', '.join(NAMES)} beside it, or train again.")
    return saved


def is_plain(value):
    """Whether a value is what config.json could hold: number, text, None, or a list of such."""
    parts = value if isinstance(value, list) else [value]
    return all(part is None or isinstance(part, (bool, int, float, str)) for part in parts)


def fault_of(saved, path):
    """What is wrong with what was read from a checkpoint, in words; "" where nothing is."""
    problem = misfit(saved, PARTS)
    if problem:
        # Of anything but a plain value the kind is told: some tensors cannot even be printed.
        shown = f"a {type(problem.value).__name__}"
        if problem.value is None or isinstance(problem.value, (bool, int, float, str)):
            shown = repr(problem.value)[:60]
        return f"{problem.place} is {shown}, not {problem.expected}"
    if saved["format"] != FORMAT:
        return f"format {saved['format']}"

    for part in ("config", "identity"):           # they are compared, which tensors cannot be
        strange = [name for name, value in saved[part].items() if not is_plain(value)]
        if strange:
            return f"'{part}', {strange[0]!r} is neither a number nor a text, nor a list of them"
    if not 0 <= saved["joints"] <= MOST_JOINTS or len(saved["labels"]) != len(saved["texts"]):
        return (f"{saved['joints']} joints, {len(saved['labels'])} labels, {len(saved['texts'])} "
                "texts")

    tensors = saved["model"].values()
    for name, tensor in saved["model"].items():
        if tensor.layout is not torch.strided or not tensor.is_floating_point():
            return f"{name} holds no plain numbers"
    return tensor_bomb(tensors, most_unpacked(path))


def load_optimizer(optimizer, scaler, saved, folder):
    """AdamW's moments and fp16's scale from a checkpoint; ValueError where they are not this run's.

    saved: the checkpoint of the run in `folder`. PyTorch checks the number of parameters, and finds
    all else out at the next step.
    """
    # PyTorch takes all of a group from the file. Its factor on the rate and its decay are this
    # command's: they differ from the file's where --force lets them.
    ours = [(group["factor"], group["weight_decay"]) for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(saved["optimizer"])
        for group, (factor, decay) in zip(optimizer.param_groups, ours):
            group["factor"] = factor
            group["weight_decay"] = decay
        if saved["scaler"]:                       # empty where the run was not in fp16
            scaler.load_state_dict(saved["scaler"])
        for group in optimizer.param_groups:
            for p in group["params"]:
                for name, x in optimizer.state[p].items():
                    if name != "step" and x.shape != p.shape:
                        raise ValueError(f"{name} of shape {tuple(x.shape)}")
    except Exception as error:                    # a dict of a stranger is wrong in every way
        raise ValueError(f"the optimizer in the checkpoint of {folder} is not of this run "
                         f"({type(error).__name__}: {error}). Expected what train.py saved. Use "
                         "an older checkpoint, or --fresh.") from None
