"""Short runs of train.py, for the tests of whole runs: their settings, and what they must leave.

    configs, words           the settings of a short run, as dataclasses and as a command line
    leave_out_pictures       a run without its report, which takes half of so short a run's time
    outcome, same            what two runs are compared by, and the comparison
"""
import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import torch

import train
from children import draw_nothing
from data import DataConfig
from support.checkpoints import read_checkpoint
from systems.config import PeVLConfig
from train import TrainConfig

# A clip of 4 pose and 2 video frames of 40 px: a step takes a few hundredths of a second.
SMALL = {"backbone": "tiny", "image_size": 40, "pose_frames": 4, "video_frames": 2,
         "tau_fw": 0.1, "adapter_ratio": 0.25}

# 2 epochs of 4 steps of 4 clips, on the tree of 16 clips that tests/conftest.py makes.
SHORT = {"data": "diving48", "workers": 0, "epochs": 2, "batch": 4, "lr": 1e-3, "warmup": 0.5,
         "eval_split": "test", "log_every": 3, **SMALL}

# What a row of the log says of the machine, and so differs from run to run.
TIMES = ("data_s", "step_s", "clips_per_s", "peak_mib", "seconds")


def configs(root, out, **changes):
    """The settings of a short run, SHORT unless told -> TrainConfig, DataConfig, PeVLConfig."""
    flags = {**SHORT, "root": str(root), "out": str(out), **changes}
    made = []
    for cls in (TrainConfig, DataConfig, PeVLConfig):
        names = [field.name for field in dataclasses.fields(cls)]
        made.append(cls(**{name: flags[name] for name in names if name in flags}))
    return made


def words(root, out, **changes):
    """The same as a command line: every setting of the three, each once."""
    flags = {}
    for config in configs(root, out, **changes):
        flags.update(dataclasses.asdict(config))
    return [word(name.replace("_", "-"), value) for name, value in flags.items()]


def word(name, value):
    """One setting as a word of the command line."""
    if value is True:
        return f"--{name}"
    if value is False:
        return f"--no-{name}"
    if isinstance(value, tuple):
        value = ",".join(value)
    return f"--{name}={value}"


def leave_out_pictures(monkeypatch):
    """Have train.py draw neither strips nor curves, and write no report."""
    for name in ("write_results", "write_report", "draw_curves"):
        monkeypatch.setattr(train, name, draw_nothing)


def same(a, b):
    """Equal to the bit, through dicts, lists and tensors."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


class Outcome(NamedTuple):
    """What must not depend on interruptions."""
    model: dict                                   # weights
    optimizer: dict
    at: dict                                      # where the run stands
    rows: list                                    # of the log, without TIMES


def outcome(folder):
    """The Outcome of the run in a folder."""
    folder = Path(folder)
    saved = read_checkpoint(folder / "last.pt")

    # Sums since the last line of the log hold seconds, too.
    at = {name: value for name, value in saved["at"].items() if name not in ("sums", "interval")}

    rows = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        rows.append({name: value for name, value in row.items() if name not in TIMES})
    return Outcome(model=saved["model"], optimizer=saved["optimizer"], at=at, rows=rows)
