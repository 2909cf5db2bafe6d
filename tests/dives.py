"""A small data set of drawn dives, and a run of two steps on it, for the tests of whole commands.

The tree has Diving48's layout, three labels, six training and five test clips of 8 frames: a square
that moves, with random joints. The fixture `trained` in conftest.py trains on it, once for all
files. The toy of the fixture `tree` has people and 16 labels and costs more.
"""
import json
import types

import av
import numpy as np
import pytest

import train
from pose import JOINT_SETS, write_pose
from runs import leave_out_pictures

COCO = JOINT_SETS["coco17"].names
SMALL = ["--image-size", "80", "--pose-frames", "4", "--video-frames", "2", "--workers", "0"]
VOCABULARY = [["Back", "15som", "15Twis", "FREE"], ["Forward", "15som", "NoTwis", "PIKE"],
              ["Inward", "25som", "NoTwis", "TUCK"]]
FRAMES = 8


def write_clip(root, name, shade):
    """A video of a moving square and its pose clip. shade: grey of the background, 0 to 255."""
    with av.open(str(root / "rgb" / f"{name}.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=FRAMES)
        stream.width = 112
        stream.height = 96
        stream.pix_fmt = "yuv420p"
        for t in range(FRAMES):
            image = np.full((96, 112, 3), shade, np.uint8)
            image[20:60, 5 * t:5 * t + 30] = 255 - shade
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        file.mux(stream.encode())

    points = np.random.default_rng(shade).uniform(10, 80, (FRAMES, 17, 2)).astype(np.float32)
    scores = np.ones((FRAMES, 17), np.float32)
    times = np.arange(FRAMES) / FRAMES
    write_pose(root / "poses" / f"{name}.npz", points, scores, (96, 112), times, COCO)


def write_tree(root, labels=VOCABULARY):
    """The whole data set under `root`, which is returned. The third label has no test clip."""
    (root / "rgb").mkdir(parents=True)
    (root / "poses").mkdir()
    (root / "Diving48_vocab.json").write_text(json.dumps(labels))

    label_of = {"train": [0, 1, 2, 0, 1, 2], "test": [0, 1, 0, 1, 0]}
    for split, wanted in label_of.items():
        entries = []
        for i, label in enumerate(wanted):
            name = f"{split}{i}"
            entries.append({"vid_name": name, "label": label, "start_frame": 0,
                            "end_frame": FRAMES})
            write_clip(root, name, shade=40 * i)
        (root / f"Diving48_V2_{split}.json").write_text(json.dumps(entries))
    return root


def train_on_dives(folder):
    """Write the tree and train on it with the real train.py -> folder, root, out, run: paths."""
    root = write_tree(folder / "data")
    out = folder / "out"
    run = out / "run"
    flags = ["--data", "diving48", "--root", str(root), "--backbone", "tiny", "--out", str(run),
             "--epochs", "1", "--warmup", "0", "--batch", "3", "--lr", "1e-3", *SMALL]
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch)                 # they would take longer than the training
        assert train.main(flags) == 0
    return types.SimpleNamespace(folder=folder, root=root, out=out, run=run)
