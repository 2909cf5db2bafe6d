"""Benchmarks: where the clips are, what they are called, and how a clip becomes tensors.

`DATASETS` has a row for each data set. `published/annotations.py` turns its official files into
label texts and clips; this file takes it from there. `Clips` decodes only the frames that are
needed, ties them to the pose clip by time, and crops and mirrors frames and joints by one draw, so
that a joint stays on its pixel. This file knows pose files (pose.py) and never a model.

    paper             | what                           | here                  | tests
    Sec. 4, data sets | prompts, splits, metrics       | DATASETS              | test_registry_*
    Sec. 4, settings  | crops of training and test     | train_view, test_view | test_views_*
    Sec. 4, settings  | joints in a crop's coordinates | place                 | test_joint_*
    -                 | poses beside videos, by time   | tie                   | test_tie_*
    -                 | broken clips: replaced, named  | Clips                 | test_fault_*
    -                 | what is wrong with a download  | check                 | test_check_*

tests/test_data.py says in which file each of them is.

Which moments of a clip are looked at is said in `support/sampling.py`; how their frames are got out
of a file, in `support/video.py`.

Letters: T pose frames, Tv video frames (Tv divides T), J joints, K classes, S side of the square
crop, R test views; H, W the height and width of a frame as it lies in the file, h, w those that it
is converted to; n the frames of a clip, r the rows of its pose file.

    python data.py layout NAME                       the folders that a data set needs
    python data.py check NAME --root DIR [--full]    what is wrong with a download
"""
if __name__ == "__main__":                        # before PyTorch, which takes seconds to import
    import support.interrupt

import contextlib
import gc
import hashlib
import json
import math
import os
import re
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Callable, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image

from pose import JOINT_SETS, joint_set, read_pose
from published import layouts
from published.annotations import (Source, read_custom, read_diving48, read_gym, read_haa500,
                                   read_hmdb51, read_index, read_k400, read_smarthome, read_ucf101)
from support.checks import unknown_name
from support.commands import run_command
from support.person import person_facts, summarise
from support.progress import Progress
from support.sampling import between, first_of_each, nearest, sample_instants, video_frame_index
from support.settings import Range, build_configs, check_fields
from support.video import BROKEN, decode
from toy.tree import make_toy

# ------------------------------------------------------------------------------- the data sets


@dataclass(frozen=True)
class Benchmark:
    """One row of DATASETS: everything that is particular to a data set."""
    title: str
    read: Callable            # Source -> label texts, clips; see published/annotations.py
    classes: int              # K; 0: as many as the files name
    prompt: str               # the paper's text around a label (Sec. 3.1)
    metrics: tuple            # the papers' figures; the first of them chooses the best epoch
    splits: dict              # train, val, test -> the data set's own name
    layout: str               # files to fetch and where they go, as a tree
    variant: str = ""         # the DataConfig field that chooses among versions; "": there is one
    counts: dict = field(default_factory=dict)    # variant -> published clips of each own split
    paper: str = ""           # the counts that the paper gives
    joints: str = "coco17"    # the joint set when no pose file is there to tell
    prepare: Callable | None = None               # folder -> None: makes what is not there yet


# Most data sets publish no third split. Then their test (or validation) split plays both parts.
TRAIN_TEST = {"train": "train", "val": "test", "test": "test"}
TRAIN_VAL = {"train": "train", "val": "val", "test": "val"}
ALL_THREE = {"train": "train", "val": "val", "test": "test"}

TOP1_TOP5_MEAN = ("top1", "top5", "mean")         # mean: the mean over classes of their top-1

DIVING_PROMPT = "{}, a video of diving action"
GYM_PROMPT = "{}, a video of gymnastic action"
PROMPT = "{}, a video of action"

DATASETS = {
    "toy": Benchmark(
        title="the toy benchmark, procedural divers that are made on first use",
        read=read_diving48,
        classes=16,
        prompt=DIVING_PROMPT,
        metrics=TOP1_TOP5_MEAN,
        splits=ALL_THREE,
        layout=layouts.TOY,
        prepare=make_toy),
    "diving48": Benchmark(
        title="Diving48, 48 kinds of competitive dives",
        read=read_diving48,
        classes=48,
        prompt=DIVING_PROMPT,
        metrics=TOP1_TOP5_MEAN,
        splits=TRAIN_TEST,
        layout=layouts.DIVING,
        variant="version",                        # D17
        counts={"v2": {"train": 15027, "test": 1970}, "v1": {"train": 15943, "test": 2048}},
        paper="The paper's 15.9K / 2K are the counts of V1; what it is compared with used V2."),
    "gym99": Benchmark(
        title="FineGym's Gym99, 99 gymnastic elements",
        read=read_gym,
        classes=99,
        prompt=GYM_PROMPT,
        metrics=("top1", "mean"),
        splits=TRAIN_VAL,
        layout=layouts.GYM.format("gym99"),
        variant="version",
        counts={"v1.0": {"train": 20484, "val": 8521}, "v1.1": {"train": 26320, "val": 8521}},
        paper="The paper's 20k / 8.5k are version 1.0."),
    "gym288": Benchmark(
        title="FineGym's Gym288, 288 elements with a long tail",
        read=read_gym,
        classes=288,
        prompt=GYM_PROMPT,
        metrics=("top1", "mean"),
        splits=TRAIN_VAL,
        layout=layouts.GYM.format("gym288"),
        variant="version",
        counts={"v1.0": {"train": 22671, "val": 9646}, "v1.1": {"val": 9646}},
        paper="The paper's 23k / 9.6k are version 1.0."),
    "haa500": Benchmark(
        title="HAA500, 500 atomic human actions",
        read=read_haa500,
        classes=500,
        prompt=PROMPT,
        metrics=TOP1_TOP5_MEAN,
        splits=ALL_THREE,
        layout=layouts.HAA500,
        counts={"": {"train": 8000, "val": 500, "test": 1500}},
        paper="The paper says 8k / 500 / 1.5k."),
    "smarthome": Benchmark(
        title="Toyota-Smarthome (trimmed), 31 activities of daily living",
        read=read_smarthome,
        classes=31,
        prompt=PROMPT,
        metrics=("mean", "top1"),
        splits=ALL_THREE,                         # by cameras; own_split says what "cs" has
        layout=layouts.SMARTHOME,
        variant="protocol",
        counts={"cs": {"train": 10682, "test": 5433}, "cv1": {}, "cv2": {}},
        paper="The paper says 16.1k clips.",
        joints="smarthome13"),
    "k400": Benchmark(
        title="Kinetics-400",
        read=read_k400,
        classes=400,
        prompt=PROMPT,
        metrics=TOP1_TOP5_MEAN,
        splits=TRAIN_VAL,
        layout=layouts.K400,
        counts={"": {"train": 246534, "val": 19906}}),
    "ucf101": Benchmark(
        title="UCF-101",
        read=read_ucf101,
        classes=101,
        prompt=PROMPT,
        metrics=TOP1_TOP5_MEAN,
        splits=TRAIN_TEST,
        layout=layouts.UCF101,
        variant="split",
        counts={"1": {"train": 9537, "test": 3783},
                "2": {"train": 9586, "test": 3734},
                "3": {"train": 9624, "test": 3696}}),
    "hmdb51": Benchmark(
        title="HMDB-51",
        read=read_hmdb51,
        classes=51,
        prompt=PROMPT,
        metrics=TOP1_TOP5_MEAN,
        splits=TRAIN_TEST,
        layout=layouts.HMDB51,
        variant="split",
        counts={number: {"train": 3570, "test": 1530} for number in "123"}),
    "custom": Benchmark(
        title="your own videos",
        read=read_custom,
        classes=0,
        prompt=PROMPT,
        metrics=TOP1_TOP5_MEAN,
        splits=ALL_THREE,
        layout=layouts.CUSTOM),
}


# ------------------------------------------------------------------------------- settings

# What the frames of one clip may take; at 16 frames of 224 pixels they take 2.4 MB.
MOST_CLIP_BYTES = 2 ** 29


@dataclass(frozen=True)
class DataConfig:
    """What to read and how to sample it. A default that names no section is ours.

    Raises ValueError for a name that is not known and for numbers that do not fit together.
    """
    data: Annotated[Literal[tuple(DATASETS)], "data set"] = "toy"
    root: Annotated[str, "folder of the data set, empty: data/<name>"] = ""
    poses: Annotated[str, "folder of the pose files, <clip id>.npz, empty: <root>/poses"] = ""
    version: Annotated[str, "diving48: v2 | v1; gym99, gym288: v1.0 | v1.1; empty: the first"] = ""
    protocol: Annotated[str, "smarthome: cs (subjects) | cv1 | cv2 (cameras), empty: cs"] = ""
    split: Annotated[int, "ucf101 and hmdb51: number of the official split", Range(1, 3)] = 1
    prompt: Annotated[str, "text with {} for the label, empty: the data set's (Sec. 3.1)"] = ""
    pose_frames: Annotated[int, "T, pose frames of a clip (Sec. 4)", Range(1, 4096)] = 48
    video_frames: Annotated[int, "Tv, video frames among them: divides T (Sec. 4)",
                            Range(1, 4096)] = 16
    image_size: Annotated[int, "S, side of the crop in pixels (Sec. 4: 224)", Range(8, 2048)] = 224
    crop_area: Annotated[float, "smallest part of a frame that a training crop draws, before sides "
                                "are cut to the frame's (ours: most joints stay; AIM 0.08)",
                         Range(0.001, 1)] = 0.5
    flip: Annotated[bool, "mirror half of the clips in training, unless labels tell sides "
                          "(ours)"] = True
    jitter: Annotated[float, "brightness, contrast, saturation of 1 +- this (ours; try 0.4)",
                      Range(0, 1)] = 0.0
    joint_noise: Annotated[float, "training noise of joints, as a part of the frame (ours)",
                           Range(0, 1)] = 0.0
    joint_drop: Annotated[float, "part of the joints that training hides (ours)", Range(0, 1)] = 0.0
    read_video: Annotated[bool, "decode videos; without, frames are black (pose-only rows)"] = True
    read_poses: Annotated[bool, "read pose files; without, joints are missing (video rows)"] = True
    allow_broken: Annotated[bool, "go on when more than 1 % of the clips cannot be read"] = False
    shots: Annotated[int, "first clips of each label to train on, 0: all", Range(0, 10 ** 6)] = 0
    workers: Annotated[int, "processes that decode beside the training process, 0: none",
                       Range(0, 256)] = 2
    seed: Annotated[int, "of everything random", Range(0, 2 ** 32 - 1)] = 0

    def __post_init__(self):
        check_fields(self)
        self._refuse_what_is_anothers()
        if self.entry.variant and self.variant not in self.entry.counts:
            what = f"{self.entry.variant} of {self.data}"
            raise unknown_name(what, self.variant, self.entry.counts)

        if self.pose_frames % self.video_frames:
            raise ValueError(f"{self.video_frames} video frames of {self.pose_frames} pose frames. "
                             "Expected a divisor. Try --pose-frames 48 --video-frames 16.")

        if self.clip_bytes > MOST_CLIP_BYTES:
            raise ValueError(f"{self.video_frames} video frames of {self.image_size} pixels are "
                             f"{self.clip_bytes / 2 ** 30:.1f} GiB a clip. Expected at most "
                             f"{MOST_CLIP_BYTES / 2 ** 30:g}. Lower --video-frames or "
                             "--image-size.")

        if self.prompt and "{}" not in self.prompt:
            raise ValueError(f"--prompt {self.prompt!r}. Expected {{}} for the label. Try '{{}}'.")

    def _refuse_what_is_anothers(self):
        """ValueError for a version, protocol or split where the data set has no such choice."""
        for name in ("version", "protocol", "split"):
            value = getattr(self, name)
            is_given = value != getattr(DataConfig, name)
            if is_given and self.entry.variant != name:
                readers = [key for key, entry in DATASETS.items() if entry.variant == name]
                raise ValueError(f"--{name} {value} beside --data {self.data}, which has no such "
                                 f"choice. Expected it with {', '.join(readers)} alone. Leave it "
                                 "out.")

    @property
    def clip_bytes(self):
        """What the frames of one clip take as bytes, one for each colour of a pixel."""
        return 3 * self.video_frames * self.image_size ** 2

    @property
    def entry(self):
        """The data set's row of DATASETS."""
        return DATASETS[self.data]

    @property
    def variant(self):
        """The chosen version, protocol or split number, a text; "" where there is one."""
        chosen = ""
        if self.entry.variant:
            chosen = getattr(self, self.entry.variant)
        if not chosen:
            chosen = next(iter(self.entry.counts), "")
        return str(chosen)

    @property
    def folder(self):
        """The data set's folder, a Path; that of the csv file when --root names one (custom)."""
        root = Path(self.root or f"data/{self.data}")
        return root.parent if root.suffix == ".csv" else root

    def text_of(self, label):
        """The text that CLIP reads for a label: the prompt around it (Sec. 3.1)."""
        return (self.prompt or self.entry.prompt).replace("{}", label)

    def own_split(self, split):
        """train, val or test -> what the data set calls the split that plays this part."""
        if split not in ALL_THREE:
            raise unknown_name("split", split, ALL_THREE)
        if self.variant == "cs":                  # Smarthome by subjects has no third split
            return TRAIN_TEST[split]
        return self.entry.splits[split]

    def read_index(self, own_split):
        """Read the data set's annotation files -> label texts, clips of one of its own splits.

        Raises FileNotFoundError or ValueError, see published/annotations.py.
        """
        source = Source(name=self.data, root=self.folder, split=own_split, variant=self.variant,
                        table=self.root if self.root.endswith(".csv") else "")
        labels, clips = read_index(self.entry.read, source)
        if self.shots and own_split == self.own_split("train"):
            clips = first_of_each(clips, self.shots)
        return labels, clips


# ------------------------------------------------------------------------------- crops


class View(NamedTuple):
    """How all frames of a clip are shown: converted to a size, then cut, then perhaps mirrored."""
    size: tuple               # (h, w) to which frames are converted
    boxes: np.ndarray         # (R, 4) float64: x0, y0, x1, y1 of the crops in it, in pixels
    flip: bool = False        # whether left and right change places


def test_view(H, W, S, views):
    """The crops of evaluation: the short side becomes S, then R = `views` squares of side S.

    views: 1, the centre; 3 (Sec. 4), left, centre, right; top, middle, bottom of a portrait.
    """
    short = min(H, W)
    # At least S, since rounding must not make the frame smaller than its crops.
    h = max(S, round(H * S / short))
    w = max(S, round(W * S / short))

    # One of the two differences is 0, so that the crops lie along the longer side. Corners are
    # whole pixels: then `cut` resamples nothing a second time.
    part = np.array([0.5]) if views == 1 else np.linspace(0, 1, views)    # (R,) of the free space
    corner = np.floor(part[:, None] * (w - S, h - S) + 0.5)               # (R, 2): x0, y0
    return View(size=(h, w), boxes=np.hstack([corner, corner + S]))


def train_view(H, W, S, draws, crop_area, flip):
    """The crop of training: a random part of the frame, made a square of side S.

    draws: (5,) in [0, 1) for area, ratio, x, y and flip. A share in [crop_area, 1] of the frame's
    area is drawn, and a ratio of width to height in [3/4, 4/3]; then a side that is longer than the
    frame's is cut to it, so that wide frames also give smaller and narrower crops. flip: whether
    half of the draws mirror.
    """
    share = crop_area + (1 - crop_area) * draws[0]
    area = H * W * share
    ratio = (4 / 3) ** (2 * draws[1] - 1)         # uniform in its logarithm: 3/4 as often as 4/3
    w, x0, x1 = train_edges(W, S, keep=min(math.sqrt(area * ratio), W), where=draws[2])
    h, y0, y1 = train_edges(H, S, keep=min(math.sqrt(area / ratio), H), where=draws[3])
    return View(size=(h, w), boxes=np.array([[x0, y0, x1, y1]], np.float64),
                flip=bool(flip and draws[4] < 0.5))


def train_edges(side, S, keep, where):
    """One axis of a training crop -> the size to convert to, and the crop's two edges in it.

    side, keep: pixels of the frame, and how many of them the crop keeps. where: in [0, 1], its
    place in the free space. Cutting at whole pixels of a frame that FFmpeg reduces costs nothing; a
    crop that is to be enlarged is cut exactly, at the video's size, and enlarged by `cut`.
    """
    if keep < S:
        first = where * (side - keep)
        return side, first, first + keep

    size = round(side * S / keep)
    first = round(where * (size - S))
    return size, first, first + S


def cut(image, box, S):
    """The box (4,), x0 y0 x1 y1, of an image (h, w, 3) as (S, S, 3), uint8."""
    x0, y0, x1, y1 = box
    has_side = (x1 - x0, y1 - y0) == (S, S)
    if has_side and x0 % 1 == y0 % 1 == 0:        # whole pixels: nothing to resample
        return image[int(y0):int(y1), int(x0):int(x1)]

    whole = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(whole.resize((S, S), Image.Resampling.BILINEAR, tuple(box)))


def place(keypoints, scores, size, view, flip_index):
    """Joints on the pixels of a frame -> joints in the coordinates of each crop of a view.

    keypoints: (T, J, 2), x and y in pixels of a frame of `size` (H, W). scores: (T, J).
    flip_index: (J,), the joint that each joint becomes in a mirror.
    Returns keypoints (R, T, J, 2), -1 and 1 at the edges of the crop and beyond outside, and scores
    (R, T, J). Pose files count pixels from the centre of the first one, which lies half a pixel
    inside the frame.
    """
    low = view.boxes[:, None, None, :2]                                   # (R, 1, 1, 2)
    high = view.boxes[:, None, None, 2:]

    # The pose file may count the pixels of a larger or smaller copy of the video. Sizes are (H, W)
    # and points (x, y), hence the turned order.
    scaled = (keypoints + 0.5) * np.divide(view.size[::-1], size[::-1])   # (T, J, 2)
    placed = (scaled - low) / (high - low) * 2 - 1                        # (R, T, J, 2)
    if view.flip:
        placed = (placed * (-1, 1))[:, :, flip_index]
        scores = scores[:, flip_index]
    return placed, np.repeat(scores[None], len(placed), 0)


LUMA = np.array([0.299, 0.587, 0.114])            # how bright red, green and blue look (BT.601)


def tint(images, draws, amount):
    """Change brightness, contrast and saturation of all images (h, w, 3), uint8, in the same way.

    draws: (3,) in [0, 1). amount: each of the three becomes a factor in [1 - amount, 1 + amount].
    All three are linear in the colour, so that one matrix (3, 4) does them at once; its last column
    is added. Contrast changes the distance to 127.5, saturation that to grey.
    """
    brightness, contrast, saturation = 1 + amount * (2 * draws - 1)
    mix = saturation * np.eye(3) + (1 - saturation) * LUMA                # (3, 3), each row to grey
    shift = np.full((3, 1), 127.5 * (1 - contrast))
    matrix = tuple(np.hstack([brightness * contrast * mix, shift]).ravel())

    tinted = []
    for image in images:
        tinted.append(np.asarray(Image.fromarray(image).convert("RGB", matrix)))
    return tinted


# ------------------------------------------------------------------------------- poses by time


def tie(pose, clip, instants, joints):
    """Find the rows of a pose file that belong to a clip -> rows (r,) int, their seconds (r,).

    pose: a PoseClip. instants: (n,) seconds of the clip's frames, None when no video was read.
    joints: J names, which those of the file must equal. The seconds are on the clip's clock, that
    is, 0 at its first frame. A span in frames counts rows, so that it needs a file with a row for
    every frame of the video.

    The rows must go with the frames. As many rows as frames are taken one for one, whatever times
    they carry. Of other numbers, known times must end with the clip; unknown ones are spread
    evenly, about a row for every frame, or for every second, third or fourth. Raises ValueError.
    """
    if pose.joints != joints:
        raise ValueError(f"joints {pose.joints[:3]}..., the first pose file has {joints[:3]}...")

    has_times = not np.isnan(pose.times).any()
    rows = np.arange(len(pose.times))

    # A file that covers the whole video (`clip.pose` names it) is cut as the video is. Without
    # times and with a span in seconds that cannot be done: then it has to be a file of the clip.
    if clip.pose and (has_times or clip.unit == "f"):
        if clip.unit == "s":
            rows = rows[between(pose.times - pose.times[0], clip.start, clip.end)]
        else:
            rows = rows[(rows >= clip.start) & (rows < clip.end)]
        if not len(rows):
            raise ValueError(f"its pose file ends before {clip.start:g} {clip.unit}")

    # The clock of these rows alone: unknown times are laid over the clip's frames, not the video's.
    frames = np.arange(len(rows)) if instants is None else instants
    clock = replace(pose, times=pose.times[rows]).clock(frames)
    if instants is None:
        return rows, clock
    if len(rows) == len(instants):                # a row for every frame needs no clock of its own
        return rows, instants

    fits = covers(clock, instants) if has_times else is_even(len(rows), len(instants))
    if not fits:
        raise ValueError(f"wrong pose length: {len(rows)} rows, {clock[-1]:.2f} s, beside "
                         f"{len(instants)} frames, {instants[-1]:.2f} s")
    return rows, clock


def covers(clock, instants):
    """True where a pose file ends near the last frame: within a tenth of the clip and 4 frames."""
    gap = instants[-1] / max(len(instants) - 1, 1)
    return abs(clock[-1] - instants[-1]) <= 0.1 * instants[-1] + 4 * gap


def is_even(rows, frames):
    """True where so many rows can be every frame, or every second, third or fourth, of so many."""
    step = round(frames / rows)
    off = abs(rows * step - frames)
    return 1 <= step <= 4 and off <= max(0.1 * frames, 2 * step)


# ------------------------------------------------------------------------------- clips as tensors


class Draws(NamedTuple):
    """What is random in how a clip is seen, each number in [0, 1)."""
    moments: np.ndarray       # (T,): where in its part of the clip a frame is taken
    view: np.ndarray          # (5,): area, ratio, x, y, flip
    colour: np.ndarray        # (3,): brightness, contrast, saturation


class ViewOfFirst:
    """A `plan` for decode: the first frame's size decides on the view, which all others share."""

    def __init__(self, choose):
        self.choose = choose                      # (H, W) -> View
        self.view = None

    def __call__(self, H, W):
        if self.view is None:
            self.view = self.choose(H, W)
        return self.view.size


class Clips(torch.utils.data.Dataset):
    """A split as tensors. Item `index + epoch * len(self)` is a clip as that epoch sees it.

    cfg: a DataConfig. split: "train", "val" or "test". train: random moments, crops and flips; else
    the middle of each part, and `views` crops, 1 or 3. prepare: make what the data set can make by
    itself, that is, the toy benchmark.

    An item is a dict:

        frames     uint8 (Tv, 3, S, S), RGB
        keypoints  float32 (T, J, 2), x and y; -1 and 1 at the edges of the crop, beyond outside
        scores     float32 (T, J), at least 0; 0 = the joint is missing
        label      int64, 0 .. K - 1
        index      int64, place of the clip in `clips`
        broken     bool, whether the clip could not be read
        error      str, why; else empty

    With train=False, the first three have a leading axis of R = `views` crops. Everything random is
    drawn from (seed, epoch, index), so that neither workers nor a resumed run change it. A broken
    clip is replaced in training, first nine times in ten by one of its class; in evaluation it is
    black and without joints, to be counted as wrong.

    Raises FileNotFoundError or ValueError for annotation files that are not what they should be,
    and for a split without clips.
    """

    def __init__(self, cfg, split, train, views=1, prepare=True):
        self.cfg = cfg
        self.train = train
        self.views = views
        self.metrics = cfg.entry.metrics
        self.split = cfg.own_split(split)
        if prepare and cfg.entry.prepare:
            cfg.entry.prepare(cfg.folder)

        if split == "val" and self.split == cfg.own_split("test"):
            print(f"note: {cfg.data} has no third split; {self.split} serves for validation too.")
        self._read_index()
        self.texts = [self.cfg.text_of(label) for label in self.labels]
        self.flip = self._may_mirror()
        self.joints = self._first_joints()
        self.flip_index = joint_set(self.joints).flip_index

        self.by_label = {}                        # label -> indices of its clips
        for index, clip in enumerate(self.clips):
            self.by_label.setdefault(clip.label, []).append(index)

    def _read_index(self):
        """Set `labels`, K texts, and `clips`."""
        # Python's garbage collector would search the growing list of clips again and again.
        gc.disable()
        try:
            self.labels, self.clips = self.cfg.read_index(self.split)
        finally:
            gc.enable()

        if not self.clips:
            cfg = self.cfg
            raise ValueError(f"{cfg.data}: no {self.split} clips in {cfg.folder}. Expected one "
                             f"or more. `python data.py layout {cfg.data}` says which file lists "
                             f"them; --root is {cfg.root or cfg.folder}.")

    def _may_mirror(self):
        """True where half of the clips are mirrored: in training, unless labels tell sides."""
        if not (self.train and self.cfg.flip):
            return False
        # As words of their own, also between underscores: kick_left.
        side = r"(?<![^\W_])(left|right)(?![^\W_])"
        sides = [text for text in self.labels if re.search(side, text, re.I)]
        if sides:
            print(f"note: no clip is mirrored, since labels tell left from right ({sides[0]!r}).")
        return not sides

    def _first_joints(self):
        """Joint names of the first pose file that can be read: the data set's J."""
        if self.cfg.read_poses:
            for clip in self.clips[:1000]:
                with contextlib.suppress(*BROKEN):
                    return read_pose(self.pose_path(clip)).joints
        return JOINT_SETS[self.cfg.entry.joints].names

    def pose_path(self, clip):
        """Where a clip's pose file should be: <clip id>.npz, or the name that the clip gives.

        Kinetics' public pose files are called by the video's id alone, its first 11 letters.
        """
        folder = Path(self.cfg.poses or self.cfg.folder / "poses")
        path = folder / f"{clip.pose or clip.id}.npz"
        if self.cfg.data == "k400" and not path.exists():
            return path.with_name(f"{clip.id[:11]}.npz")
        return path

    def __len__(self):
        """How many clips the split has."""
        return len(self.clips)

    def __getitem__(self, number):
        """Item `number` = index + epoch * len(self), the dict that the class describes.

        Raises ValueError in training where the clip and 49 draws of another cannot be read.
        """
        epoch, index = divmod(int(number), len(self))
        rng = np.random.default_rng([self.cfg.seed, epoch, index])
        item, chosen, error = self._load_or_replace(index, rng)
        item["label"] = torch.tensor(self.clips[chosen].label)
        item["index"] = torch.tensor(index)
        item["broken"] = torch.tensor(bool(error))
        item["error"] = error
        return item

    def _load_or_replace(self, index, rng):
        """-> the tensors of clip `index`, or of what stands in for it; which clip it is; the error.

        Raises ValueError where, in training, the clip and 49 draws of another cannot be read.
        """
        chosen = index
        error = ""
        for attempt in range(50):
            try:
                return self._load(self.clips[chosen], rng), chosen, error
            except BROKEN as reason:
                error = error or f"{self.clips[index].id}: {reason}"
            if not self.train:
                return self._black(), chosen, error

            # Another clip of the class; at times, and always after ten tries, any clip, for a whole
            # class may be lost.
            same_class = self.by_label[self.clips[index].label]
            if attempt < 10 and rng.random() < 0.9:
                chosen = int(rng.choice(same_class))
            else:
                chosen = int(rng.choice(len(self)))
        raise ValueError(f"{error}; nor can any of 49 replacements be read. Expected videos "
                         f"and poses. Run `python data.py check {self.cfg.data} --root DIR`.")

    def _black(self):
        """The tensors of a clip of which nothing is known."""
        shape = (self.views, self.cfg.pose_frames, len(self.joints))
        crops = [[] for _ in range(self.views)]
        return self._tensors(crops, np.zeros((*shape, 2)), np.zeros(shape))

    def _load(self, clip, rng):
        """The tensors of one clip. Raises one of BROKEN."""
        cfg = self.cfg
        S = cfg.image_size
        draws = self._draw(rng)
        pose = self._read_pose(clip) if cfg.read_poses else None
        size = pose.size if pose else (S, S)      # (H, W) of the frame whose pixels joints count

        plan = ViewOfFirst(partial(self._choose_view, draws.view))
        images = []
        instants = None                           # the clock: the video's, where there is one
        if cfg.read_video:
            # Several workers share the cores, so that each decodes with one thread.
            threads = 1 if torch.utils.data.get_worker_info() else 2
            pick = partial(self._pick_frames, draws.moments)
            images, instants = decode(clip.path, pick, plan, clip, threads)
        plan(*size)                               # where no frame was read, the pose file decides

        keypoints = np.zeros((cfg.pose_frames, len(self.joints), 2))
        scores = np.zeros((cfg.pose_frames, len(self.joints)))
        if pose:
            keypoints, scores = self._joints_at(pose, clip, instants, draws.moments)
            if self.train:
                keypoints, scores = self._disturb(keypoints, scores, size, rng)

        view = plan.view
        crops = [[cut(image, box, S) for image in images] for box in view.boxes]
        keypoints, scores = place(keypoints, scores, size, view, self.flip_index)
        return self._tensors(crops, keypoints, scores, flip=view.flip, colour=draws.colour)

    def _read_pose(self, clip):
        """The PoseClip of a clip; one that is not in a file overrides this (label/clips.py)."""
        return read_pose(self.pose_path(clip))

    def _draw(self, rng):
        """The Draws of a clip.

        All are drawn whatever is read, so that a model of poses alone and one of videos alone are
        given the same draws.
        """
        T = self.cfg.pose_frames
        moments = rng.random(T) if self.train else np.full(T, 0.5)
        view = rng.random(5)
        return Draws(moments, view, colour=rng.random(3))

    def _pick_frames(self, moments, instants):
        """A `pick` for decode: the frames nearest to Tv of the T moments."""
        chosen = sample_instants(instants, moments)
        chosen = chosen[video_frame_index(self.cfg.pose_frames, self.cfg.video_frames)]
        return nearest(instants, chosen)

    def _choose_view(self, draws, H, W):
        """The View of a clip whose frames are H x W."""
        S = self.cfg.image_size
        if self.train:
            return train_view(H, W, S, draws, self.cfg.crop_area, self.flip)
        return test_view(H, W, S, self.views)

    def _joints_at(self, pose, clip, instants, moments):
        """Keypoints (T, J, 2) float64, pixels, and scores (T, J) of the rows nearest to T moments.

        Moments lie on the clock of the video where one was read, so that the Tv video frames and
        their pose frames are of the same instants; else on the pose file's own.
        """
        rows, clock = tie(pose, clip, instants, self.joints)
        if instants is None:
            instants = clock
        chosen = rows[nearest(clock, sample_instants(instants, moments))]
        return pose.keypoints[chosen].astype(np.float64), pose.scores[chosen]

    def _disturb(self, keypoints, scores, size, rng):
        """Training: move joints by --joint-noise of the frame's size, hide --joint-drop of them."""
        noise = rng.normal(0, 1, keypoints.shape)
        keypoints = keypoints + noise * self.cfg.joint_noise * size[::-1]
        is_hidden = rng.random(scores.shape) < self.cfg.joint_drop
        return keypoints, np.where(is_hidden, 0, scores)

    def _tensors(self, crops, keypoints, scores, flip=False, colour=None):
        """R lists of Tv crops (an empty list: black), (R, T, J, 2), (R, T, J) -> frames, keypoints
        and scores, as the class says."""
        S = self.cfg.image_size
        frames = np.zeros((len(crops), self.cfg.video_frames, 3, S, S), np.uint8)
        for r, images in enumerate(crops):
            if self.train and self.cfg.jitter:
                images = tint(images, colour, self.cfg.jitter)
            for t, image in enumerate(images):
                if flip:
                    image = image[:, ::-1]
                frames[r, t] = image.transpose(2, 0, 1)       # (S, S, 3) -> (3, S, S)

        item = {"frames": frames, "keypoints": keypoints.astype(np.float32),
                "scores": scores.astype(np.float32)}
        if self.train:                            # one crop, and no axis for it
            item = {name: array[0] for name, array in item.items()}
        return {name: torch.from_numpy(array) for name, array in item.items()}


def shared_clips(trained, other):
    """Ids of the clips of a data set that another one is trained on, which makes results worthless.

    trained, other: `Clips`. A clip is a span of a file, whatever it is called.
    """
    known = {(clip.path, clip.start, clip.end) for clip in trained.clips}
    return [clip.id for clip in other.clips if (clip.path, clip.start, clip.end) in known]


def fingerprint_clips(data):
    """SHA-256 of what is trained on: texts, clips and their labels, and a sample of the poses.

    Videos and poses may move from disk to disk between two parts of a run, but other joints are
    other numbers: some sixteen to thirty pose files, evenly spread over the clips, are read too.
    """
    clips = data.clips
    about = [list(data.texts), [[clip.id, clip.label] for clip in clips]]
    digest = hashlib.sha256(json.dumps(about).encode())
    if hasattr(data, "pose_path") and data.cfg.read_poses:
        for clip in clips[::max(len(clips) // 16, 1)]:
            with contextlib.suppress(OSError):    # a missing file is for the loader to report
                digest.update(Path(data.pose_path(clip)).read_bytes())
    return digest.hexdigest()


# ------------------------------------------------------------------------------- python data.py


def first_and_last(instants):
    """A `pick` for decode: enough to see that a file is whole."""
    return [0, len(instants) - 1]


def small(H, W):
    """A `plan` for decode where nobody looks at the picture."""
    return 16, 16


def probe(dataset, clip):
    """What is wrong with a clip, "" if nothing, after its first and last frame and its pose."""
    try:
        instants = None
        if dataset.cfg.read_video:
            _, instants = decode(clip.path, first_and_last, small, clip)
        pose_path = dataset.pose_path(clip)
        if dataset.cfg.read_poses and os.path.exists(pose_path):      # missing: counted apart
            tie(read_pose(pose_path), clip, instants, dataset.joints)
    except BROKEN as error:
        return f"{clip.id}: {error}"
    return ""


def probe_all(dataset, clips):
    """What is wrong with each of these clips that is not sound. Says how far it is on the way."""
    wrong = []
    progress = Progress("check", total=len(clips), unit="clips")
    with ThreadPoolExecutor(max(dataset.cfg.workers, 1)) as pool:
        for done, error in enumerate(pool.map(partial(probe, dataset), clips), 1):
            if error:
                wrong.append(error)
            progress.show(done)
    return wrong


def persons_in(dataset, clips):
    """Clip id -> PersonFacts of each of these clips whose pose file can be read."""
    facts = {}
    if dataset.cfg.read_poses:
        for clip in clips:
            with contextlib.suppress(*BROKEN):    # missing and damaged files are counted apart
                pose = read_pose(dataset.pose_path(clip))
                facts[clip.id] = person_facts(pose.keypoints, pose.scores)
    return facts


def print_some(what, names):
    """Say how many there are of something, and the first five; nothing where there are none."""
    if names:
        more = ", ..." if len(names) > 5 else ""
        print(f"  {len(names)} {what}: {', '.join(names[:5])}{more}")


def check_split(dataset, trained, full):
    """Print the state of one split -> whether training or evaluation on it would work, and the
    PersonFacts of the clips that were looked at.

    dataset: its `Clips`. trained: those of the training split, the same object when it is that.
    full: look at every clip, not at 50 to 99 of them.
    """
    cfg = dataset.cfg
    clips = dataset.clips
    missing = [clip for clip in clips if cfg.read_video and not os.path.exists(clip.path)]
    there = sorted(set(clips) - set(missing))
    step = 1 if full else max(1, len(there) // 50)
    sample = there[::step]
    wrong = probe_all(dataset, sample)
    persons = persons_in(dataset, sample)

    poseless = []
    if cfg.read_poses:
        poseless = [clip for clip in clips if not os.path.exists(dataset.pose_path(clip))]
    empty = [text for label, text in enumerate(dataset.labels) if label not in dataset.by_label]
    official = cfg.entry.counts.get(cfg.variant, {}).get(dataset.split, "not published")
    of_all = f" of {cfg.entry.classes}" if cfg.entry.classes else ""

    print(f"{dataset.split}: {len(clips)} clips listed (official: {official}), {len(there)} found, "
          f"{len(dataset.labels)}{of_all} classes, {len(dataset.joints)} joints")
    print_some("missing", [clip.path for clip in missing])
    print_some(f"unreadable of {len(sample)} tried", wrong)
    print_some("classes without clips", empty)
    print_some("without a pose file", [clip.id for clip in poseless])
    for line in summarise(persons):
        print(f"  {line}")
    if dataset is not trained:
        print_some("that training sees too", shared_clips(trained, dataset))

    # Training stops where more than 1 % of the clips are lost. The unreadable ones are estimated
    # from those that were tried.
    lost = len({*missing, *poseless}) / len(clips) + len(wrong) / max(len(sample), 1)
    is_fine = lost <= 0.01 or cfg.allow_broken and lost < 1
    return is_fine, persons


def check(cfg, full):
    """Print the state of a data set -> whether training and evaluation would work, and the
    PersonFacts of the clips that were looked at, a list."""
    print(f"{cfg.data} {cfg.variant} in {cfg.folder}. {cfg.entry.paper}")
    own_splits = {cfg.own_split(split): split for split in ALL_THREE}     # each of its own once
    trained = None
    all_fine = True
    looked_at = []
    for split in own_splits.values():
        dataset = Clips(cfg, split, train=False, prepare=False)           # looking makes nothing
        if trained is None:                       # ALL_THREE begins with train
            trained = dataset
        is_fine, persons = check_split(dataset, trained, full)
        all_fine = all_fine and is_fine
        looked_at += persons.values()
    return all_fine, looked_at


def tell_check(cfg, full):
    """`check`, and in words what follows from it -> exit code."""
    is_fine, persons = check(cfg, full)
    if not is_fine:
        print("training would fail: more than 1 % of the clips are lost (--allow-broken goes on "
              "without them)")
        return 1

    faint = sum(not facts.is_enough for facts in persons)
    if faint:
        print(f"training would run, but {faint} of {len(persons)} clips that were looked at show "
              "no person for most of their frames: find them again into another folder and look "
              "at them (pose.py extract ... --out NEW --overlay DIR)")
    else:
        print("training would work")
    return 0


def add_arguments(parser):
    """The words of the command line that are no settings."""
    parser.add_argument("command", choices=["check", "layout"], help="what to do")
    parser.add_argument("name", help="data set: " + ", ".join(DATASETS))
    parser.add_argument("--full", action="store_true",
                        help="check every clip, not 50 to 99 a split")


def name_as_data(ask):
    """The name that follows the command is what elsewhere is --data."""
    return {"data": ask.name}


def main(argv=None):
    """Run a command -> exit code: 0, 1 when training would fail, 2 when nothing can be read."""
    configs, ask = build_configs(argv, (DataConfig,), presets=name_as_data, description=__doc__,
                                 extra=add_arguments)
    cfg = configs[0]

    def job():
        if cfg.data != ask.name:
            raise ValueError(f"{ask.command} {ask.name} beside --data {cfg.data}. Expected one "
                             "data set. Leave --data out.")
        if ask.command == "check":
            return tell_check(cfg, ask.full)
        tree = textwrap.indent(cfg.entry.layout, "  ")
        print(f"{cfg.data}: {cfg.entry.title}\n\n{cfg.folder}/\n{tree}")
        return 0

    return run_command(job)


if __name__ == "__main__":
    sys.exit(main())
