"""Shared by the tests of whole runs: a small tree, the settings of a short run, what it must leave."""
import dataclasses
import json
from pathlib import Path

from data import DataConfig
from support.checkpoints import read_checkpoint
from systems.config import PeVLConfig
from train import TrainConfig

# A clip of 4 pose and 2 video frames of 40 px: a step takes a few hundredths of a second.
SMALL = dict(backbone="tiny", image_size=40, pose_frames=4, video_frames=2, tau_fw=0.1,
             adapter_ratio=0.25)
TIMES = ("data_s", "step_s", "clips_per_s", "peak_mib", "seconds")


def configs(root, out, **changes):
    """The three configs of a run of 2 epochs x 4 steps of 4 clips."""
    flags = dict(data="diving48", root=str(root), workers=0, out=str(out), epochs=2, batch=4,
                 lr=1e-3, warmup=0.5,
                 eval_split="test", log_every=3, **SMALL) | changes
    return [cls(**{f.name: flags[f.name] for f in dataclasses.fields(cls) if f.name in flags})
            for cls in (TrainConfig, DataConfig, PeVLConfig)]


def words(root, out, **changes):
    """The same as a command line."""
    flags = {k: v for c in configs(root, out, **changes) for k, v in dataclasses.asdict(c).items()}
    text = lambda v: ",".join(v) if isinstance(v, tuple) else v
    given = [f"--{k.replace('_', '-')}={text(v)}" for k, v in flags.items()
             if not isinstance(v, bool)]
    return given + [f"--{'' if v else 'no-'}{k.replace('_', '-')}" for k, v in flags.items()
                    if isinstance(v, bool)]


def outcome(folder):
    """What must not depend on interruptions: weights, optimizer, position, rows without times."""
    saved = read_checkpoint(Path(folder) / "last.pt")
    rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    still = lambda row: {k: v for k, v in row.items() if k not in TIMES}
    at = {k: v for k, v in saved["at"].items() if k not in ("sums", "interval")}
    return saved["model"], saved["optimizer"], at, [still(row) for row in rows]
