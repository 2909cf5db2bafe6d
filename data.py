"""Benchmarks: where the clips are, what they are called, and how a clip becomes tensors.

A registry row per data set reads its official annotation files into one index (clip, video, label, span). `Clips` decodes
only the frames that are needed, ties them to the pose clip by time, and augments frames and joints with one draw. The
toy benchmark writes itself to disk in Diving48's own layout. This file knows pose files (pose.py) and never a model.

    paper section      | what                                   | here                       | tests/test_data.py
    Sec. 4, data sets  | official files -> clips, labels, texts | DATASETS, read_*           | test_reads_*
    Sec. 4, settings   | T pose frames, Tv video frames nested  | sample_instants, nested    | test_nested_*
    Sec. 4, settings   | crops, flips; three test crops         | train_view, test_views     | test_joint_stays_*
    -                  | only the frames that are needed        | decode                     | test_decode_*
    -                  | broken clips: replaced, counted, named | Clips, Faults              | test_faults_*

Letters: T pose frames, Tv video frames (Tv divides T), J joints, K classes, S side of the square crop, R test views.
Launch: `python data.py layout NAME` prints the folders a data set needs; `python data.py check NAME --root DIR` says what
is wrong with a download.
"""
import argparse
import difflib
import json
import math
import os
import re
import sys
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Callable, Literal, NamedTuple, get_args, get_origin, get_type_hints

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from PIL import Image

from pose import JOINT_SETS, joint_set, read_pose

# ------------------------------------------------------------------------------------------- the index


class Clip(NamedTuple):
    """One clip of an index. `start` and `end` cut it out of a longer file, in seconds ("s") or frames ("f")."""
    id: str
    path: str
    label: int
    start: float = 0.0
    end: float = math.inf
    unit: str = "s"
    pose: str = ""


@dataclass(frozen=True)
class Benchmark:
    """One row of DATASETS: everything that is particular to a data set."""
    title: str
    read: Callable                   # (root, cfg, split) -> (labels, clips without poses)
    classes: int                     # 0: as many as the file holds
    prompt: str                      # the paper's text around a label
    metrics: tuple[str, ...]         # what the papers report, the first one chooses the best checkpoint
    splits: dict                     # train, val, test -> the split's own name; several may share one
    variant: str                     # the DataConfig field that chooses among the published versions, "" = none
    counts: dict                     # variant -> official clips of (train, val, test); None = not published
    layout: str                      # the folders and files, as a tree
    paper: str = ""                  # what the papers say about counts
    joints: str = "coco17"           # when no pose file is there to ask


def unknown(what, name, choices):
    """The error for a name that is not among `choices`, with the nearest one."""
    near = difflib.get_close_matches(str(name), [str(c) for c in choices], 1)
    return ValueError(f"unknown {what} {name!r}. Expected one of {', '.join(map(str, choices))}. "
                      + (f"Did you mean {near[0]!r}?" if near else "See --help."))


def need(path, name):
    """`path` if it is there; otherwise the error that says what should be."""
    if not Path(path).exists():
        raise FileNotFoundError(f"{name}: no {path}. Expected the files as published. `python data.py layout {name}` prints "
                                "the tree; choose its folder with --root DIR.")
    return Path(path)


def bad_line(path, number, line, expected):
    return ValueError(f"{path}, line {number}: cannot read {str(line)[:80]!r}. Expected {expected}. Correct the line or fetch "
                      "the file again.")


def read_json(path, name):
    try:
        return json.loads(need(path, name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}). Expected the file as published. Fetch it again.") from error


VIDEO_ENDINGS = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v")


def videos(root, name, *folders):
    """{path without ending, relative to its folder: path} of all videos in those folders that exist; the first wins."""
    found, seen = {}, [Path(root) / folder for folder in folders if (Path(root) / folder).is_dir()]
    if not seen:
        need(Path(root) / folders[0], name)
    for folder in reversed(seen):
        for path, _, files in os.walk(folder):
            inside = os.path.relpath(path, folder).replace(os.sep, "/") + "/"
            for file in files:
                stem, ending = os.path.splitext(file)
                if ending.lower() in VIDEO_ENDINGS:
                    found[stem if inside == "./" else inside + stem] = f"{path}/{file}"
    return found


# ------------------------------------------------------------------------------------------- nine data sets

POSITIONS = {"FREE": "free position", "PIKE": "pike position", "TUCK": "tuck position", "STR": "straight position"}


def diving_text(tokens):
    """["Back", "15som", "05Twis", "FREE"] -> "Back, 1.5 somersaults, 0.5 twist, free position"; two digits are a half."""
    words = []
    for token in tokens:
        count = re.fullmatch(r"(\d)(\d?)(som|Twis)", token)
        if count:
            number = count[1] + (f".{count[2]}" if count[2] else "")
            unit = "somersault" if count[3] == "som" else "twist"
            words.append(f"{number} {unit}" + ("s" if float(number) > 1 else ""))
        else:
            words.append({"Dive": "dive", "NoTwis": "no twist", **POSITIONS}.get(token, token))
    return ", ".join(words[:1] + [word.lower() for word in words[1:]])


def read_diving48(root, cfg, split):
    version = {"v2": "V2_", "v1": ""}[cfg.variant]
    labels = [diving_text(tokens) for tokens in read_json(root / "Diving48_vocab.json", cfg.data)]
    path = root / f"Diving48_{version}{split}.json"
    files, clips = videos(root, cfg.data, "rgb", "videos"), []
    for number, entry in enumerate(read_json(path, cfg.data), 1):
        try:                                       # the mp4 files are trimmed already: start_frame and end_frame say so
            name, label = str(entry["vid_name"]), int(entry["label"])
            labels[label]
        except (KeyError, TypeError, ValueError, IndexError):
            raise bad_line(path, number, entry, f'entry {number} with "vid_name" and "label" 0..{len(labels) - 1}') from None
        clips.append(Clip(name, files.get(name, f"{root}/rgb/{name}.mp4"), label))
    return labels, clips


DIVING_LAYOUT = """\
Diving48_vocab.json
Diving48_V2_train.json           (V1: Diving48_train.json)
Diving48_V2_test.json            (V1: Diving48_test.json)
rgb/                             Diving48_rgb.tar.gz, also accepted: videos/
  -mmq0PT-u8k_00155.mp4
poses/                           made by `python pose.py`
  -mmq0PT-u8k_00155.npz"""
TEST_ONLY = {"train": "train", "val": "test", "test": "test"}

DATASETS = {
    "toy": Benchmark(
        "the toy benchmark: procedural divers, made on first use", read_diving48, 16, "{}, a video of diving action",
        ("top1", "top5", "mean"), {"train": "train", "val": "val", "test": "test"}, "", {"": (None, None, None)}, DIVING_LAYOUT),
    "diving48": Benchmark(
        "Diving48: 48 kinds of competitive dives", read_diving48, 48, "{}, a video of diving action",
        ("top1", "top5", "mean"), TEST_ONLY, "version", {"v2": (15027, None, 1970), "v1": (15943, None, 2048)}, DIVING_LAYOUT,
        paper="15.9K / 2K, which are V1's; the results it compares with use V2"),
}


# ------------------------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class DataConfig:
    """What to read and how to sample it. Defaults are the paper's (Sec. 4) or say "ours"."""
    data: Annotated[Literal[tuple(DATASETS)], "data set"] = "toy"
    root: Annotated[str, "folder of the data set, empty: data/<name>"] = ""
    poses: Annotated[str, "folder of the pose clips, <clip id>.npz, empty: <root>/poses"] = ""
    version: Annotated[str, "annotation version: diving48 v2 | v1, gym99 and gym288 v1.0 | v1.1, empty: the first"] = ""
    protocol: Annotated[str, "smarthome's protocol: cs (subjects) | cv1 | cv2 (cameras), empty: cs"] = ""
    split: Annotated[int, "number of the official split of ucf101 and hmdb51, 1 to 3"] = 1
    prompt: Annotated[str, "text with {} for the label, empty: the data set's own (Sec. 3.1)"] = ""
    pose_frames: Annotated[int, "T, pose frames of a clip (Sec. 4)"] = 48
    video_frames: Annotated[int, "Tv, video frames of a clip, nested in the pose frames: Tv divides T (Sec. 4)"] = 16
    image_size: Annotated[int, "S, side of the crop in pixels (Sec. 4: 224)"] = 224
    crop_area: Annotated[float, "smallest part of a frame's area that a training crop keeps; 1: only the place varies "
                                "(ours: 0.5 keeps most joints inside, AIM 0.08)"] = 0.5
    flip: Annotated[bool, "mirror half of the training clips; off by itself where a label says left or right"] = True
    jitter: Annotated[float, "colour jitter of training frames: brightness, contrast, saturation within 1 +- this (ours)"] = 0.0
    joint_noise: Annotated[float, "training noise on joints, standard deviation as a part of the frame's side (ours)"] = 0.0
    joint_drop: Annotated[float, "part of the joints that training hides (ours)"] = 0.0
    read_video: Annotated[bool, "decode videos; off for models that only see poses: frames are black"] = True
    read_poses: Annotated[bool, "read pose files; off for models that only see frames: all joints are missing"] = True
    allow_broken: Annotated[bool, "go on although more than 1 % of the clips cannot be read"] = False
    workers: Annotated[int, "processes that decode beside the training process, 0: none"] = 2
    seed: Annotated[int, "seed of everything random"] = 0

    def __post_init__(self):
        if self.data not in DATASETS:
            raise unknown("data set", self.data, DATASETS)
        if self.entry.variant and self.variant not in self.entry.counts:
            raise unknown(f"{self.entry.variant} of {self.data}", self.variant, self.entry.counts)
        if not 0 < self.video_frames <= self.pose_frames or self.pose_frames % self.video_frames:
            raise ValueError(f"{self.video_frames} video frames among {self.pose_frames} pose frames. Expected Tv to divide T. "
                             "Try --pose-frames 48 --video-frames 16.")
        if not 0 < self.crop_area <= 1:
            raise ValueError(f"crop_area {self.crop_area}. Expected a part in (0, 1]. Try --crop-area 0.5.")
        if "{}" not in (self.prompt or "{}"):
            raise ValueError(f"prompt {self.prompt!r}. Expected {{}} where the label goes. Try '{{}}, a video of action'.")

    @property
    def entry(self):
        return DATASETS[self.data]

    @property
    def variant(self):
        """The version, protocol or split that was chosen: a key of the registry row's counts."""
        return str(getattr(self, self.entry.variant) or next(iter(self.entry.counts))) if self.entry.variant else ""

    @property
    def folder(self):
        return Path(self.root or f"data/{self.data}")

    @property
    def pose_folder(self):
        return Path(self.poses) if self.poses else self.folder / "poses"


class Parser(argparse.ArgumentParser):
    """argparse that says `error: ...` on one line and names the nearest flag."""

    def error(self, message):
        self.exit(2, f"error: {message}\n")

    def parse_args(self, args=None, namespace=None):
        values, rest = self.parse_known_args(args, namespace)
        if rest:
            flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
            near = difflib.get_close_matches(rest[0].split("=")[0], flags, 1)
            self.error(f"unknown argument {rest[0]!r}. Expected a flag of --help. "
                       + (f"Did you mean {near[0]!r}?" if near else "See --help."))
        return values


def _reader(kind, name):
    """The function that turns a word of the command line into a value of the field's type."""
    def read(word):
        try:
            if get_origin(kind) is tuple:
                return tuple(part.strip() for part in word.split(",") if part.strip())
            if get_origin(kind) is Literal:
                if word not in get_args(kind):
                    raise argparse.ArgumentTypeError(str(unknown(name, word, get_args(kind))))
                return word
            return kind(word)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{word!r} is not a {kind.__name__}. Expected a {kind.__name__}. "
                                             "See --help.") from None
    return read


def build_configs(argv, classes, presets=None, description="", extra=None):
    """The one bridge from dataclasses to the command line -> (instances of `classes`, in order), namespace.

    Every field becomes `--its-name` (booleans also `--no-its-name`) with its doc and default in --help; fields of equal
    name share a flag. `extra(parser)` adds arguments that are no setting. The command line wins over
    `presets(namespace)` -> {field: value}, which wins over the defaults; the namespace holds the result.
    """
    parser = Parser(description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    if extra:
        extra(parser)
    defaults = {}
    for cls in classes:
        group, hints = parser.add_argument_group(cls.__name__), get_type_hints(cls, include_extras=True)
        for field in fields(cls):
            if field.name in defaults:
                continue
            assert field.default is not MISSING, field
            kind, doc = get_args(hints[field.name])[:2]
            defaults[field.name] = field.default
            shown = ",".join(field.default) if isinstance(field.default, tuple) else field.default
            doc = f"{doc} (default: {shown!r})".replace("%", "%%")
            flag = {"dest": field.name, "default": None, "help": doc}
            if get_origin(kind) is Literal:
                flag["help"] += ": " + " | ".join(map(str, get_args(kind)))
            flag |= {"action": argparse.BooleanOptionalAction} if kind is bool else {
                "type": _reader(kind, field.name), "metavar": getattr(kind, "__name__", "NAME").upper()}
            group.add_argument("--" + field.name.replace("_", "-"), **flag)
    values = parser.parse_args(argv)
    given = {name: getattr(values, name) for name in defaults if getattr(values, name) is not None}
    try:
        for name, value in (defaults | given).items():
            setattr(values, name, value)
        preset = {name: value for name, value in (presets(values) if presets else {}).items() if name in defaults}
        for name, value in (defaults | preset | given).items():
            setattr(values, name, value)
        made = tuple(cls(**{field.name: getattr(values, field.name) for field in fields(cls)}) for cls in classes)
    except ValueError as error:
        parser.error(str(error))
    return made, values


# ------------------------------------------------------------------------------------------- decoding


def _packets(container, stream, clip):
    """The clip's compressed packets in file order, and the sorted presentation times (in ticks) of its frames."""
    origin, tick = stream.start_time or 0, stream.time_base
    first, last = -math.inf, math.inf
    if clip.unit == "s" and (clip.start > 0 or clip.end < math.inf):
        first = origin + clip.start / tick
        last = origin + clip.end / tick if clip.end < math.inf else math.inf
        if clip.start > 0:
            container.seek(int(first), stream=stream)
    packets = []
    for packet in container.demux(stream):
        if packet.size:
            packets.append(packet)
            if packet.dts is not None and packet.dts * tick > last * tick + 1:     # a second behind: B-frames are all in
                break
    return packets, first, last


def decode(path, pick, plan, clip=Clip("", "", 0), threads=1):
    """The frames of a clip that are needed, and nothing else.

    pick(instants (n,) seconds from the clip's start) -> indices of the wanted frames, in any order, repeats allowed;
    plan(H, W) -> (h, w), the size to which a frame of the video is converted. -> list of uint8 (h, w, 3), instants (n,).
    Packets are read without decoding; then each wanted frame costs the frames between its key frame and itself.
    """
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError(f"{path} holds no video. Expected a video file. Fetch it again.")
        stream = container.streams.video[0]
        stream.codec_context.thread_type, stream.codec_context.thread_count = "AUTO", threads
        packets, first, last = _packets(container, stream, clip)
        ticks = np.array(sorted(p.pts for p in packets if p.pts is not None and first <= p.pts < last))
        instants = (ticks - ticks[0]) * float(stream.time_base)
        wanted = np.asarray(pick(instants))
        frames, convert = {}, VideoReformatter()
        need_ticks = set(ticks[wanted].tolist())
        for packet in packets + [None]:
            for frame in stream.codec_context.decode(packet):
                if frame.pts in need_ticks:
                    h, w = plan(frame.height, frame.width)
                    frames[frame.pts] = convert.reformat(frame, w, h, "rgb24", threads=1).to_ndarray()
        return [frames[t] for t in ticks[wanted].tolist()], instants


# ------------------------------------------------------------------------------------------- sampling and augmentation


def nested(T, Tv):
    """Positions (Tv,) of the video frames among the pose frames."""
    return (np.arange(Tv) * T + T // 2) // Tv


def sample_instants(instants, draws):
    """One instant in each of T equal parts of the clip; draws (T,) in [0, 1) say where in its part, 0.5 the middle.

    A frame stands for the time half a frame around its instant, so that the parts cover the first and last frame whole.
    """
    gap = (instants[-1] - instants[0]) / max(len(instants) - 1, 1)
    return instants[0] - gap / 2 + (np.arange(len(draws)) + draws) / len(draws) * (instants[-1] - instants[0] + gap)


def nearest(instants, times):
    """Index of the instant (ascending) nearest to each time."""
    right = np.searchsorted(instants, times).clip(1, max(len(instants) - 1, 1))
    left = right - 1
    right = right.clip(max=len(instants) - 1)
    return np.where(np.abs(times - instants[left]) <= np.abs(instants[right] - times), left, right)


class View(NamedTuple):
    """Where crops lie: frames are converted to (h, w) and cut at boxes (R, 4) = x0, y0, x1, y1 of that size."""
    size: tuple[int, int]
    boxes: np.ndarray
    flip: bool = False


def test_views(H, W, S, views):
    """Short side S; the centre, or left/centre/right (top/middle/bottom when portrait)."""
    h, w = max(S, round(H * S / min(H, W))), max(S, round(W * S / min(H, W)))
    part = np.array([0.5] if views == 1 else np.linspace(0, 1, views))[:, None]
    corner = np.floor(part * (w - S, h - S) + 0.5)
    return View((h, w), np.concatenate([corner, corner + S], 1))


def train_view(H, W, S, draws, crop_area, flip):
    """One random resized crop from draws (5,) in [0, 1): area, ratio, x, y, flip."""
    area = H * W * (crop_area + (1 - crop_area) * draws[0])
    ratio = (4 / 3) ** (2 * draws[1] - 1)
    crop_w, crop_h = min(W, math.sqrt(area * ratio)), min(H, math.sqrt(area / ratio))
    h, w = max(S, round(H * S / crop_h)), max(S, round(W * S / crop_w))
    x, y = round(draws[2] * (w - S)), round(draws[3] * (h - S))
    return View((h, w), np.array([[x, y, x + S, y + S]], float), bool(flip and draws[4] < 0.5))


def crop(image, box):
    x0, y0, x1, y1 = (int(v) for v in box)
    return image[y0:y1, x0:x1]


def place(keypoints, size, view, flip_index):
    """Joints in pixels of a frame of `size` -> (R, T, J, 2) in [-1, 1] of each crop, edges at -1 and 1.

    A pose file counts from the centre of the top left pixel, which lies half a pixel inside the frame.
    """
    h, w = view.size
    low, high = view.boxes[:, None, None, :2], view.boxes[:, None, None, 2:]
    scaled = (keypoints + 0.5) / (size[1], size[0]) * (w, h)
    placed = (scaled - low) / (high - low) * 2 - 1
    if view.flip:
        placed = (placed * (-1, 1))[:, :, flip_index]
    return placed.astype(np.float32)


def jitter_matrix(draws, amount):
    """Brightness, contrast about mid-grey and saturation as one 3 x 4 colour matrix; draws (3,) in [0, 1)."""
    bright, contrast, saturate = 1 + amount * (2 * draws - 1)
    grey = np.array([0.299, 0.587, 0.114])
    colours = bright * contrast * (saturate * np.eye(3) + (1 - saturate) * grey)
    return tuple(np.hstack([colours, np.full((3, 1), 127.5 * (1 - contrast))]).ravel())


# ------------------------------------------------------------------------------------------- clips as tensors


class Clips(torch.utils.data.Dataset):
    """A split of a data set. Item `index + epoch * len(self)` is that clip as that epoch sees it, a dict of

    frames uint8 (Tv, 3, S, S) RGB; keypoints float32 (T, J, 2), x and y in [-1, 1] of the crop, outside it when beyond;
    scores float32 (T, J), 0 = missing; label, index int64; broken bool; error str. With train=False frames, keypoints and
    scores have a leading axis of `views` crops. Everything random comes from (seed, epoch, index).
    """

    def __init__(self, cfg, split, train, views=1):
        if split not in cfg.entry.splits:
            raise unknown("split", split, cfg.entry.splits)
        if cfg.data == "toy":
            from toy_section import make_toy
            make_toy(cfg.folder)
        self.cfg, self.entry, self.train, self.views = cfg, cfg.entry, train, views
        self.split, self.metrics = cfg.entry.splits[split], cfg.entry.metrics
        if split == "val" and self.split == cfg.entry.splits["test"]:
            print(f"note: {cfg.data} has no validation split; its {self.split} split stands in.")
        self.labels, clips = cfg.entry.read(cfg.folder, cfg, self.split)
        self.clips = [clip._replace(pose=f"{cfg.pose_folder}/{clip.id}.npz") for clip in clips]
        if not self.clips:
            raise ValueError(f"{cfg.data}, {split}: no clips in {cfg.folder}. Expected at least one. Run `python data.py check "
                             f"{cfg.data} --root {cfg.folder}`.")
        self.texts = [(cfg.prompt or self.entry.prompt).format(label) for label in self.labels]
        self.flip = train and cfg.flip
        if self.flip and (said := [text for text in self.labels if re.search(r"\b(left|right)\b", text, re.I)]):
            self.flip = False
            print(f"note: flips are off, since labels speak of left and right ({said[0]!r}).")
        self.joints = self._find_joints()
        self.flip_index = joint_set(self.joints).flip_index

    def _find_joints(self):
        if self.cfg.read_poses:
            for clip in self.clips:
                try:
                    return read_pose(clip.pose).joints
                except (OSError, ValueError):
                    continue
        return JOINT_SETS[self.entry.joints].names

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, number):
        epoch, index = divmod(int(number), len(self))
        rng = np.random.default_rng([self.cfg.seed, epoch, index])
        frames, keypoints, scores = self._load(self.clips[index], rng)
        return {"frames": frames, "keypoints": keypoints, "scores": scores, "label": torch.tensor(self.clips[index].label),
                "index": torch.tensor(index), "broken": torch.tensor(False), "error": ""}

    def _load(self, clip, rng):
        """One clip -> frames, keypoints, scores, all of the shapes that the class promises."""
        cfg, S = self.cfg, self.cfg.image_size
        T, Tv, J = cfg.pose_frames, cfg.video_frames, len(self.joints)
        draws = rng.random(T) if self.train else np.full(T, 0.5)
        where, tint = rng.random(5), rng.random(3)
        view_of = (lambda H, W: train_view(H, W, S, where, cfg.crop_area, self.flip)) if self.train else (
            lambda H, W: test_views(H, W, S, self.views))
        pose = read_pose(clip.pose) if cfg.read_poses else None
        seen, instants, images = [], pose.times - pose.times[0] if pose else np.zeros(1), []
        if cfg.read_video:
            def plan(H, W):
                seen.append(view_of(H, W))
                return seen[-1].size
            images, instants = decode(clip.path, lambda at: nearest(at, sample_instants(at, draws)[nested(T, Tv)]), plan, clip)
        view = seen[0] if seen else view_of(*(pose.size if pose else (S, S)))
        frames = np.zeros((len(view.boxes), Tv, S, S, 3), np.uint8)
        for i, image in enumerate(images):
            for r, box in enumerate(view.boxes):
                frames[r, i] = crop(image, box)
        if view.flip:
            frames = frames[:, :, :, ::-1]
        keypoints, scores = np.zeros((len(view.boxes), T, J, 2), np.float32), np.zeros((T, J), np.float32)
        if pose:
            at = nearest(pose.times - pose.times[0], sample_instants(instants, draws))
            keypoints = place(pose.keypoints[at], pose.size, view, self.flip_index)
            scores = pose.scores[at][:, self.flip_index] if view.flip else pose.scores[at]
        out = [torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 1, 4, 2, 3))), torch.from_numpy(keypoints),
               torch.from_numpy(np.repeat(scores[None], len(view.boxes), 0))]
        return [x[0] for x in out] if self.train else out
