"""Pose clips: where they come from, what their files hold, and the heatmaps and pictures made of them.

Both papers read 2D joints beside the video. This file makes them from videos (HRNet in raw PyTorch,
or an off-the-shelf extractor behind the same wrapper) and converts the public pose files. It knows
no other file of this repository.

    paper section            | what                    | here                          | test_pose.py
    PeVL Sec. 4, data        | joints of every frame   | extract, EXTRACTORS, HRNet    | test_hrnet_*
    PeVL Sec. 4, data        | ready pose files        | IMPORTERS                     | test_import_*
    ViLP Sec. 3, PeVL Tab. 9 | heatmap of a frame      | gaussian_heatmaps             | test_heatmaps_*

Letters: T frames of a clip, J joints, M persons, (H, W) the frame in pixels; in HRNet N crops,
(h, w) a crop or a heatmap. A joint is (x, y) in pixels, x to the right, y down, and (0, 0) is the
centre of the top left pixel. A box is x0, y0, x1, y1. A score of 0 means: this joint is not there.

    python pose.py extract VIDEO_OR_DIR --out poses/                       joints from videos
    python pose.py import pyskl diving48_hrnet.pkl --out poses/            joints from a public file
"""
import argparse
import csv
import difflib
import hashlib
import json
import os
import pickle
import re
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Callable, Literal, NamedTuple, get_args, get_origin, get_type_hints

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageDraw
from torch import nn

# ---------------------------------------------------------------------------------- joint sets


@dataclass(frozen=True)
class JointSet:
    """The joints of a skeleton in file order, and what follows from their meaning."""
    names: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]       # change places when the picture is mirrored
    bones: tuple[tuple[int, int], ...]            # lines of the drawn skeleton
    to_coco17: tuple[int, ...]                    # source joint of each COCO-17 joint

    @property
    def flip_index(self):
        """Permutation (J,): joint j of a mirrored clip is joint flip_index[j] of the clip."""
        order = list(range(len(self.names)))
        for a, b in self.flip_pairs:
            order[a], order[b] = b, a
        return order


def _sides(first, second, *parts):
    return tuple(f"{side}_{part}" for part in parts for side in (first, second))


JOINT_SETS = {
    # the order of the COCO keypoint challenge, of HRNet and of every pyskl file
    "coco17": JointSet(
        ("nose",) + _sides("left", "right", "eye", "ear", "shoulder", "elbow", "wrist", "hip",
                           "knee", "ankle"),
        tuple((j, j + 1) for j in range(1, 17, 2)),
        ((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8),
         (7, 9), (8, 10), (0, 1), (0, 2), (1, 3), (2, 4)),
        tuple(range(17))),
    # Toyota-Smarthome's files: from the feet up, right before left; the head is the whole face
    "smarthome13": JointSet(
        _sides("right", "left", "ankle", "knee", "hip", "wrist", "elbow", "shoulder") + ("head",),
        tuple((j, j + 1) for j in range(0, 12, 2)),
        ((0, 2), (2, 4), (1, 3), (3, 5), (4, 5), (4, 10), (5, 11), (10, 11), (6, 8), (8, 10),
         (7, 9), (9, 11), (12, 10), (12, 11)),
        (12, 12, 12, 12, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)),
}


def joint_set(names):
    """The JointSet whose joints are called `names`, in that order."""
    for known in JOINT_SETS.values():
        if tuple(names) == known.names:
            return known
    known = ", ".join(f"{key} ({len(known.names)} joints)" for key, known in JOINT_SETS.items())
    raise ValueError(f"unknown joints {tuple(names)}. Expected the names of one of {known}, in their "
                     "order. For another skeleton add a JointSet to pose.JOINT_SETS.")


def to_coco17(keypoints, scores, joints):
    """Any known joint set -> COCO-17: keypoints (..., J, 2), scores (..., J) with J = 17."""
    source = list(joint_set(joints).to_coco17)
    return keypoints[..., source, :], scores[..., source]


# ---------------------------------------------------------------------------------- pose files


@dataclass
class PoseClip:
    """One person through one clip, as it lies in `<clip id>.npz`.

    keypoints (T, J, 2) float32 pixels of the frame; scores (T, J) float32 >= 0, 0 = missing;
    size (H, W) of the frame; times (T,) float64 seconds, ascending, on the video's own clock, or all
    NaN: unknown, the rows are spread evenly over the clip (public files tell no frame rate);
    joints: J names; extractor: who found them.
    """
    keypoints: np.ndarray
    scores: np.ndarray
    size: tuple[int, int]
    times: np.ndarray
    joints: tuple[str, ...]
    extractor: str = ""

    def __post_init__(self):
        self.keypoints = np.asarray(self.keypoints, np.float32)
        self.scores = np.asarray(self.scores, np.float32)
        self.times = np.asarray(self.times, np.float64)
        self.size = tuple(int(n) for n in np.asarray(self.size).ravel())
        self.joints = tuple(str(name) for name in self.joints)
        self.extractor = str(self.extractor)

    def clock(self, instants):
        """Seconds (T,) of the rows since the first, beside the video's frame instants (n,)."""
        if not np.isnan(self.times).any():
            return self.times - self.times[0]
        even = np.linspace(0, len(instants) - 1, len(self.times))
        return np.interp(even, np.arange(len(instants)), instants)

    def check(self, where):
        """Raise a ValueError that names `where` unless the arrays keep the promises above."""
        T, J = self.scores.shape if self.scores.ndim == 2 else (-1, -1)
        rules = [
            (self.keypoints.shape == (T, J, 2) and T > 0, "keypoints (T, J, 2), scores (T, J), T > 0",
             f"{self.keypoints.shape} and {self.scores.shape}"),
            (self.times.shape == (T,), f"times ({T},)", f"times {self.times.shape}"),
            (len(self.joints) == J, f"{J} joint names", f"{len(self.joints)}"),
            (len(self.size) == 2 and min(self.size) > 0, "size (H, W) > 0", f"{self.size}"),
            (np.isfinite(self.keypoints).all() and np.isfinite(self.scores).all(),
             "finite keypoints and scores", "NaN or infinity"),
            ((self.scores >= 0).all(), "scores >= 0", f"{self.scores.min(initial=0)}"),
            (np.isnan(self.times).all() or (np.isfinite(self.times).all()
                                            and (np.diff(self.times) >= 0).all()),
             "finite, ascending times, or NaN throughout", "other times")]
        for holds, expected, found in rules:
            if not holds:
                raise ValueError(f"bad pose clip {where}: found {found}. Expected {expected}. Make it "
                                 "again: `python pose.py extract|import ... --overwrite`.")
        return self


def read_pose(path):
    """`<clip id>.npz` -> PoseClip, checked. Nothing but plain arrays is ever unpacked."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no pose file {path}. Expected one .npz per clip. Make it from the video with `python "
            f"pose.py extract VIDEO --out {path.parent}`, or convert a public pose file with "
            f"`python pose.py import FORMAT FILE --out {path.parent}`.")
    names = ("keypoints", "scores", "size", "times", "joints")
    try:
        with np.load(path, allow_pickle=False) as file:
            extractor = file["extractor"] if "extractor" in file else ""
            clip = PoseClip(*(file[name] for name in names), extractor)
    except Exception as error:                    # a cut zip, a missing array, Python objects ...
        raise ValueError(f"cannot read pose file {path}: {error}. Expected an .npz of {names}. Make "
                         "it again: `python pose.py extract|import ... --overwrite`.") from error
    return clip.check(path)


def write_pose(path, keypoints, scores, size, times, joints, extractor=""):
    """Write `<clip id>.npz`, whole or not at all; equal input gives equal bytes."""
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"pose file {path} ends in {path.suffix!r}. Expected .npz. Give "
                         "<folder>/<clip id>.npz.")
    clip = PoseClip(keypoints, scores, size, times, joints, extractor).check(path)
    with atomic(path) as part, open(part, "wb") as file:
        np.savez_compressed(
            file, keypoints=clip.keypoints, scores=clip.scores, size=np.array(clip.size, np.int64),
            times=clip.times, joints=np.array(clip.joints), extractor=np.array(clip.extractor))
    return path


@contextmanager
def atomic(path):
    """Give a path to write to; it gets its final name when the block ends well, else it is gone."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part.{path.name}")   # one name, so that a killed run's part is reused
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------- heatmaps, drawing


def gaussian_heatmaps(keypoints, scores, size, sigma):
    """exp(-|pixel - joint|^2 / (2 sigma^2)): ViLP's pose picture, and the target of HRNet.

    keypoints (..., J, 2) pixels of a frame of `size` (H, W), scores (..., J), sigma in pixels (2 in
    HRNet) -> (..., J, H, W) float32: 1 at a joint that lies on a pixel, 0 all over for a joint with
    score 0. ViLP reads the maximum over joints, gaussian_heatmaps(...).amax(-3).
    """
    keypoints = torch.as_tensor(keypoints, dtype=torch.float32)
    seen = torch.as_tensor(scores, device=keypoints.device)[..., None] > 0
    falls = []                                    # separable: columns (..., J, W), rows (..., J, H)
    for axis, length in ((0, size[1]), (1, size[0])):
        away = torch.arange(length, device=keypoints.device) - keypoints[..., axis, None]
        falls.append(torch.where(seen, torch.exp(-away ** 2 / (2 * sigma ** 2)), 0.0))
    return falls[1][..., :, None] * falls[0][..., None, :]


SIDE_COLOURS = {"left": (255, 140, 0), "right": (0, 160, 255)}


def draw_skeleton(image, keypoints, scores, joints, threshold=0.3):
    """Copy of the PIL image with bones and joints: left orange, right blue, between them green.

    keypoints (J, 2) pixels, scores (J,); joints at or below `threshold` are left out.
    """
    image, skeleton = image.convert("RGB").copy(), joint_set(joints)
    draw, seen = ImageDraw.Draw(image), np.asarray(scores) > threshold
    points = [tuple(float(v) for v in point) for point in np.asarray(keypoints)]
    side = [name.split("_")[0] for name in skeleton.names]
    width = max(1, round(min(image.size) / 150))
    for a, b in skeleton.bones:
        if seen[a] and seen[b]:
            colour = SIDE_COLOURS.get(side[a] if side[a] == side[b] else "", (60, 220, 90))
            draw.line([points[a], points[b]], colour, width)
    for j in np.flatnonzero(seen):
        (x, y), r = points[j], 1.2 * width
        draw.ellipse([x - r, y - r, x + r, y + r], SIDE_COLOURS.get(side[j], (60, 220, 90)))
    return image


# ---------------------------------------------------------------------------------- HRNet
# Four branches of 1/4, 1/8, 1/16 and 1/32 resolution run side by side and exchange their maps after
# every module (Sun et al., CVPR 2019). Module names are those of the published checkpoints.


def conv_bn(c_in, c_out, kernel, stride=1, relu=True):
    layers = [nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(c_out)]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))


class Residual(nn.Module):
    """x + convolutions(x): kernels (3, 3) are ResNet's basic block, (1, 3, 1) its bottleneck."""

    def __init__(self, c_in, c_mid, c_out, kernels):
        super().__init__()
        self.depth, widths = len(kernels), [c_in] + [c_mid] * (len(kernels) - 1) + [c_out]
        for i, kernel in enumerate(kernels):
            conv, bn = conv_bn(widths[i], widths[i + 1], kernel, relu=False)
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", bn)
        self.downsample = nn.Identity() if c_in == c_out else conv_bn(c_in, c_out, 1, relu=False)

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = F.relu(y) if i < self.depth else y
        return F.relu(y + self.downsample(x))


class Exchange(nn.Module):
    """Branches of `widths` channels, then each of the first `outputs` becomes a sum over all."""

    def __init__(self, widths, outputs):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*[Residual(c, c, c, (3, 3)) for _ in range(4)]) for c in widths)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._path(widths, i, j) for j in range(len(widths)))
            for i in range(outputs))

    @staticmethod
    def _path(widths, i, j):
        """From branch j to the resolution and width of branch i."""
        if j == i:
            return nn.Identity()
        if j > i:
            return nn.Sequential(*conv_bn(widths[j], widths[i], 1, relu=False),
                                 nn.Upsample(scale_factor=2 ** (j - i), mode="nearest"))
        steps = [conv_bn(widths[j], widths[j], 3, 2) for _ in range(i - j - 1)]
        return nn.Sequential(*steps, conv_bn(widths[j], widths[i], 3, 2, relu=False))

    def forward(self, xs):
        ys = [branch(x) for branch, x in zip(self.branches, xs)]
        return [F.relu(sum(path(y) for path, y in zip(paths, ys))) for paths in self.fuse_layers]


class HRNet(nn.Module):
    """Crops (N, 3, h, w), RGB, normalised, h and w multiples of 32 -> heatmaps (N, J, h/4, w/4)."""

    def __init__(self, width=32, joints=17):
        super().__init__()
        self.input_size = (256, 192)              # h, w that `load_hrnet` found the weights made for
        c = [width, 2 * width, 4 * width, 8 * width]
        self.conv1, self.bn1 = conv_bn(3, 64, 3, 2, relu=False)
        self.conv2, self.bn2 = conv_bn(64, 64, 3, 2, relu=False)
        self.layer1 = nn.Sequential(Residual(64, 64, 256, (1, 3, 1)),
                                    *[Residual(256, 64, 256, (1, 3, 1)) for _ in range(3)])
        self.transition1 = nn.ModuleList(
            [conv_bn(256, c[0], 3), nn.Sequential(conv_bn(256, c[1], 3, 2))])
        self.stage2 = nn.Sequential(Exchange(c[:2], 2))
        self.transition2 = nn.ModuleList(
            [nn.Identity(), nn.Identity(), nn.Sequential(conv_bn(c[1], c[2], 3, 2))])
        self.stage3 = nn.Sequential(*[Exchange(c[:3], 3) for _ in range(4)])
        self.transition3 = nn.ModuleList(
            [nn.Identity(), nn.Identity(), nn.Identity(), nn.Sequential(conv_bn(c[2], c[3], 3, 2))])
        self.stage4 = nn.Sequential(*[Exchange(c, outputs) for outputs in (4, 4, 1)])
        self.final_layer = nn.Conv2d(c[0], joints, 1)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))                                # (N, 64, h/2, w/2)
        x = F.relu(self.bn2(self.conv2(x)))                                # (N, 64, h/4, w/4)
        xs = [self.layer1(x)]                                              # (N, 256, h/4, w/4)
        for i in (1, 2, 3):                                                # one branch more each
            moves = getattr(self, f"transition{i}")
            xs = [move(xs[min(b, len(xs) - 1)]) for b, move in enumerate(moves)]
            xs = getattr(self, f"stage{i + 1}")(xs)
        return self.final_layer(xs[0])                                     # (N, J, h/4, w/4)


# ---------------------------------------------------------------------------------- weights

MMPOSE = "https://download.openmmlab.com/mmpose/v1/body_2d_keypoint/topdown_heatmap/coco/"
WEIGHTS = {   # a file name of mmpose ends in the first 8 hex digits of its SHA-256, and a date
    "w32_256x192": MMPOSE + "td-hm_hrnet-w32_8xb64-210e_coco-256x192-81c58e40_20220909.pth",
    "w32_384x288": MMPOSE + "td-hm_hrnet-w32_8xb64-210e_coco-384x288-ca5956af_20220909.pth",
    "w48_256x192": MMPOSE + "td-hm_hrnet-w48_8xb32-210e_coco-256x192-0e67c616_20220913.pth",
    "w48_384x288": MMPOSE + "td-hm_hrnet-w48_8xb32-210e_coco-384x288-c161b7de_20220915.pth",
}


def download(url):
    """File of the cache folder, fetched once; its SHA-256 must begin as the name in `url` says."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(os.environ.get("PEVL_CACHE") or Path(home) / "pevl") / url.rsplit("/", 1)[1]
    if path.is_file():
        return path
    expected, digest, done = re.search(r"-([0-9a-f]{8})_\d+\.pth$", url)[1], hashlib.sha256(), 0
    by_hand = f"Fetch {url} by hand and give its path in place of the name."
    with atomic(path) as part:
        try:
            with urllib.request.urlopen(url, timeout=60) as source, open(part, "wb") as file:
                total = int(source.headers.get("Content-Length") or 0)
                while block := source.read(1 << 20):
                    file.write(block)
                    digest.update(block)
                    done += len(block)
                    print(f"\r{path.name}  {done >> 20} of {total >> 20} MiB", end="", file=sys.stderr)
        except OSError as error:
            raise ValueError(f"cannot download {url}: {error}. Expected a reachable server. {by_hand}"
                             ) from error
        print(file=sys.stderr)
        if not digest.hexdigest().startswith(expected):
            raise ValueError(f"{url} came with SHA-256 {digest.hexdigest()}, {done} bytes. Expected a "
                             f"SHA-256 that begins with {expected}. Try again. {by_hand}")
    return path


class Inert:
    """Stands for every class that a checkpoint asks for beside its tensors; keeps and does nothing."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


def read_checkpoint(path):
    """A checkpoint's objects. Its tensors are read, no code of it runs (mmpose keeps logs in there)."""
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            asked = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            with torch.serialization.safe_globals([(Inert, name) for name in asked]):
                return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"cannot read {path} as a checkpoint: {error}. Expected HRNet weights as the "
                         "HRNet authors or mmpose publish them. Fetch the file again.") from error


def load_hrnet(name_or_path, input_size=None):
    """HRNet of a name in WEIGHTS, or of a file in the official or mmpose's naming; float32, eval, CPU.

    input_size (h, w): what the crops are; by default as the name says, else 256 x 192.
    """
    path = Path(download(WEIGHTS[name_or_path])) if name_or_path in WEIGHTS else Path(name_or_path)
    if not path.is_file():
        near = difflib.get_close_matches(str(name_or_path), WEIGHTS, 1)
        raise FileNotFoundError(f"no HRNet weights {name_or_path!r}. Expected a file, or one of "
                                f"{', '.join(WEIGHTS)}." + (f" Did you mean {near[0]}?" if near else
                                                            " Check the path."))
    found = read_checkpoint(path)
    found = found.get("state_dict", found) if isinstance(found, dict) else {}
    state = {}
    for key, value in found.items():
        for prefix in ("module.", "backbone.", "keypoint_head.", "head."):
            key = key.removeprefix(prefix)
        if not key.startswith("data_preprocessor."):
            state[key] = value
    if "final_layer.weight" not in state:
        raise ValueError(f"{path} holds no final_layer.weight. Expected pose weights; those of "
                         f"ImageNet have no joints. Take one of {', '.join(WEIGHTS)}.")
    with torch.device("meta"):                    # shapes only: the values come from the file
        model = HRNet(*reversed(state["final_layer.weight"].shape[:2]))
    wanted = model.state_dict()
    counters = {key: torch.zeros((), dtype=torch.long) for key in wanted if key.endswith("_tracked")}
    state = counters | state                      # older files leave these out; inference never reads them
    faults = ([f"missing {key}" for key in wanted if key not in state]
              + [f"unexpected {key}" for key in state if key not in wanted]
              + [f"{key} is {tuple(state[key].shape)}, not {tuple(wanted[key].shape)}" for key in wanted
                 if key in state and state[key].shape != wanted[key].shape])
    if faults:
        raise ValueError(f"{path}: {len(faults)} keys do not fit: {'; '.join(faults[:8])}. Expected "
                         f"HRNet-W{model.final_layer.in_channels}. Take one of {', '.join(WEIGHTS)}.")
    model.load_state_dict(state, assign=True)
    said = re.search(r"(\d{3})x(\d{3})", path.name)
    model.input_size = input_size or (tuple(map(int, said.groups())) if said else (256, 192))
    return model.float().eval()


# ---------------------------------------------------------------------------------- crop, decode

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)   # of ImageNet, RGB


def crop_rule(boxes, size):
    """Boxes (N, 4) -> centres (N, 2) and widths (N,), in pixels, of crops of the shape of `size`.

    The crop holds the box, has the aspect of (h, w), and 1.25 times the room. Crop pixel (u, v)
    shows the frame at centre + ((u, v) - (w, h) / 2) * width / w.
    """
    h, w = size
    side = boxes[:, 2:] - boxes[:, :2]
    return (boxes[:, :2] + boxes[:, 2:]) / 2, 1.25 * torch.maximum(side[:, 0], side[:, 1] * w / h)


def crop_people(frames, boxes, size, device="cpu"):
    """N uint8 frames (H, W, 3) and boxes (N, 4) -> HRNet's input (N, 3, h, w); black beyond the frame."""
    (centres, widths), (h, w) = crop_rule(boxes, size), size
    crops = torch.empty(len(boxes), 3, h, w, device=device)
    for n, frame in enumerate(frames):
        grid = []
        for axis, length in ((0, w), (1, h)):
            at = centres[n, axis] + (torch.arange(length) - length / 2) * (widths[n] / w)
            low = int(at[0].floor().clamp(0, frame.shape[1 - axis] - 1))   # cut out what is read
            high = int((at[-1].ceil() + 1).clamp(low + 1, frame.shape[1 - axis]))
            frame = frame[:, low:high] if axis == 0 else frame[low:high]
            grid.append((2 * (at - low) + 1) / (high - low) - 1)           # grid_sample's [-1, 1]
        grid = torch.stack(torch.meshgrid(*grid, indexing="xy"), -1)[None].to(device)
        image = torch.from_numpy(np.ascontiguousarray(frame)).to(device).permute(2, 0, 1)[None]
        crops[n] = F.grid_sample(image.float(), grid, align_corners=False)[0]
    return (crops / 255 - crops.new_tensor(MEAN)[:, None, None]) / crops.new_tensor(STD)[:, None, None]


def decode_heatmaps(heatmaps, boxes):
    """Heatmaps (N, J, h, w) of the crops of boxes (N, 4) -> keypoints (N, J, 2) in the frame, scores (N, J).

    The highest pixel, moved by a quarter pixel towards its higher neighbour in x and in y unless it
    lies within one pixel of the edge. The score is the height; a map without a positive value gives 0.
    """
    N, J, h, w = heatmaps.shape
    flat = heatmaps.flatten(2)                                             # (N, J, h w)
    scores, top = flat.max(-1)                                             # (N, J)
    x, y = top % w, top // w
    inside = (x > 1) & (x < w - 1) & (y > 1) & (y < h - 1)
    top = torch.where(inside, top, w + 1)                                  # any pixel with neighbours
    slope = torch.stack([flat.gather(2, (top + step)[..., None]) - flat.gather(2, (top - step)[..., None])
                         for step in (1, w)], -1)[:, :, 0]                 # (N, J, 2)
    spot = torch.stack([x, y], -1) + 0.25 * slope.sign() * inside[..., None]
    spot = spot * (scores > 0)[..., None]
    centres, widths = crop_rule(boxes.to(heatmaps.device), (h, w))
    return (centres[:, None] + (spot - spot.new_tensor([w, h]) / 2) * (widths / w)[:, None, None],
            scores.clamp(min=0))


def predict_heatmaps(model, crops, flip=True):
    """Heatmaps (N, J, h, w); with `flip`, the mean with those of the mirrored crops, mirrored back.

    The mirrored maps are moved right by one pixel: crop pixel u shows the frame at u - w/2, so that
    its mirror image lies at w - u, and not at w - 1 - u as in the array.
    """
    heatmaps = model(crops)
    if not flip:
        return heatmaps
    back = model(crops.flip(-1)).flip(-1)[:, JOINT_SETS["coco17"].flip_index]
    back[..., 1:] = back[..., :-1].clone()
    return (heatmaps + back) / 2


@torch.inference_mode()
def predict(model, frames, boxes, flip=True):
    """N frames, boxes (N, 4) -> keypoints (N, J, 2), scores (N, J) as numpy arrays."""
    boxes = torch.as_tensor(np.asarray(boxes), dtype=torch.float32)
    device = model.final_layer.weight.device
    heatmaps = predict_heatmaps(model, crop_people(frames, boxes, model.input_size, device), flip)
    return tuple(x.float().cpu().numpy() for x in decode_heatmaps(heatmaps, boxes))


# ---------------------------------------------------------------------------------- boxes, tracks


def joint_boxes(keypoints, scores, threshold=0.0):
    """keypoints (..., J, 2), scores (..., J) -> (..., 5): box of the joints above `threshold`, and the
    mean score of all joints; the score is 0 where less than two are seen."""
    seen = scores > threshold
    low = np.where(seen[..., None], keypoints, np.inf).min(-2)
    high = np.where(seen[..., None], keypoints, -np.inf).max(-2)
    there = seen.sum(-1) > 1
    box = np.where(there[..., None], np.concatenate([low, high], -1), 0)
    return np.concatenate([box, np.where(there, scores.mean(-1), 0)[..., None]], -1)


def overlaps(a, b):
    """Intersection over union (n, m) of boxes a (n, 4+) and b (m, 4+)."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:4], b[None, :, 2:4])
    both = np.prod(np.clip(high - low, 0, None), -1)
    area = [np.prod(x[:, 2:4] - x[:, :2], -1) for x in (a, b)]
    return both / np.maximum(area[0][:, None] + area[1] - both, 1e-9)


def link_people(boxes, overlap=0.3, patience=30):
    """T arrays (n, 5) of box and score -> (T,): which box of each frame is the clip's person, -1 none.

    Each frame's boxes join the tracks whose last box, at most `patience` frames old, they overlap
    most; the others begin new tracks. The track with the largest sum of score x area is the person
    (over the whole clip, so that somebody who passes close to the camera does not win).
    """
    tracks = []                                   # [last box, last frame, weight, {frame: index}]
    for t, now in enumerate(boxes):
        free = [n for n in range(len(now)) if now[n, 4] > 0]
        live = [track for track in tracks if t - track[1] <= patience]
        fit = overlaps(np.array([k[0] for k in live]).reshape(-1, 5), now[free].reshape(-1, 5))
        for k, n in zip(*np.unravel_index(np.argsort(-fit, axis=None, kind="stable"), fit.shape)):
            if fit[k, n] >= overlap and free[n] is not None and live[k][1] < t:
                live[k][0], live[k][1], live[k][3][t], free[n] = now[free[n]], t, free[n], None
        for n in free:
            if n is not None:
                tracks.append([now[n], t, 0.0, {t: n}])
        for track in tracks:
            if track[1] == t:
                x0, y0, x1, y1, score = track[0]
                track[2] += score * (x1 - x0) * (y1 - y0)
    best = max(tracks, key=lambda track: track[2], default=[0, 0, 0, {}])[3]
    return np.array([best.get(t, -1) for t in range(len(boxes))], int)


def one_person(keypoints, scores):
    """Persons without order, (M, T, J, 2) and (M, T, J) -> the clip's person (T, J, 2), (T, J)."""
    keypoints = np.nan_to_num(np.asarray(keypoints, np.float32), posinf=0, neginf=0)
    scores = np.nan_to_num(np.asarray(scores, np.float32), posinf=0, neginf=0).clip(min=0)
    if len(keypoints) == 1:
        return keypoints[0], scores[0]
    picks = link_people(joint_boxes(keypoints, scores).swapaxes(0, 1)) if len(keypoints) else []
    one, score = np.zeros_like(keypoints, shape=keypoints.shape[1:]), np.zeros(scores.shape[1:], np.float32)
    for t, m in enumerate(picks):
        if m >= 0:
            one[t], score[t] = keypoints[m, t], scores[m, t]
    return one, score


# ---------------------------------------------------------------------------------- extractors


@dataclass(frozen=True)
class ExtractConfig:
    extractor: Annotated[str, "who finds the joints, a name in EXTRACTORS"] = "hrnet"
    weights: Annotated[str, "hrnet: a name in WEIGHTS (downloaded once), or a file"] = "w32_256x192"
    detector: Annotated[Literal["track", "torchvision"], "hrnet: where the person's box comes from, "
                        "the joints before it or Faster R-CNN (pip install torchvision)"] = "track"
    boxes: Annotated[str, "hrnet: csv of known boxes, clip,frame,x0,y0,x1,y1[,score], frames from 0"] = ""
    flip: Annotated[bool, "hrnet: average with the mirrored crop"] = True
    batch: Annotated[int, "hrnet: crops at a time, where the boxes are known before"] = 16
    device: Annotated[str, "hrnet: cpu, cuda, cuda:1 ..., empty: CUDA where there is one"] = ""


def hrnet(frames, cfg):
    """The paper's extractor: top-down, so it needs boxes. One person is chosen before HRNet runs."""
    device = cfg.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = _cached(load_hrnet, cfg.weights).to(device, memory_format=torch.channels_last)
    look = partial(predict, model, flip=cfg.flip)
    if not cfg.boxes and cfg.detector == "track":
        return follow(frames, look)
    boxes = boxes_of(cfg.boxes, frames.clip) if cfg.boxes else detect_people(frames, device)
    picks, frames, blocks, t = link_people(boxes), iter(frames), [], 0
    while block := list(islice(frames, cfg.batch)):
        keypoints, scores = np.zeros((len(block), 17, 2)), np.zeros((len(block), 17))
        use = [i for i in range(len(block)) if t + i < len(boxes) and picks[t + i] >= 0]
        if use:
            people = [boxes[t + i][picks[t + i], :4] for i in use]
            keypoints[use], scores[use] = look([block[i] for i in use], people)
        blocks.append((keypoints, scores))
        t += len(block)
    return tuple(np.concatenate(part) for part in zip(*blocks))


def follow(frames, look):
    """Boxes from HRNet's own joints: those of the frame before, or, at the start and when the person
    is lost, the whole frame, refined twice. A frame where fewer than 4 joints are seen holds nobody."""
    box, found = None, []
    for frame in frames:
        for start in ([box] if box is not None else []) + [None]:
            box = np.array([0, 0, frame.shape[1] - 1, frame.shape[0] - 1]) if start is None else start
            for _ in range(3 if start is None else 1):
                (keypoints,), (scores,) = look([frame], [box])
                box = joint_boxes(keypoints, scores, 0.2)[:4]
                room = 0.1 * (box[2:] - box[:2]).max()        # a person is larger than the joints
                box = box + [-room, -room, room, room] if (scores > 0.2).sum() > 3 else None
                if box is None:
                    break
            if box is not None:
                break
        found.append((keypoints, scores * (box is not None)))
    return tuple(np.stack(part) for part in zip(*found))


@torch.inference_mode()
def detect_people(frames, device):
    """Faster R-CNN of torchvision: T arrays (n, 5) of the persons' boxes and scores, from 0.5 up."""
    try:
        from torchvision.models import detection
    except ImportError as error:
        raise missing_extra("--detector torchvision", "torchvision") from error
    model, boxes = _cached(detection.fasterrcnn_resnet50_fpn, weights="DEFAULT").eval().to(device), []
    for frame in frames:
        found = model([torch.from_numpy(frame).to(device).permute(2, 0, 1) / 255])[0]
        keep = (found["labels"] == 1) & (found["scores"] > 0.5)            # 1 is the person
        boxes.append(torch.cat([found["boxes"], found["scores"][:, None]], 1)[keep].cpu().numpy())
    return boxes


@lru_cache(2)
def read_boxes(path):
    """csv with a header -> {clip: {frame: list of [x0, y0, x1, y1, score]}}."""
    clips = {}
    with open(path, newline="") as file:
        rows = csv.DictReader(file)
        for row in rows:
            try:
                box = [float(row[key]) for key in ("x0", "y0", "x1", "y1")]
                box.append(float(row.get("score") or 1))
                clips.setdefault(row["clip"], {}).setdefault(int(row["frame"]), []).append(box)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {rows.line_num}: {dict(row)}. Expected the header clip,"
                                 "frame,x0,y0,x1,y1[,score] and numbers. Correct the line.") from error
    return clips


def boxes_of(path, clip):
    """T arrays (n, 5) for the frames of one clip, up to its last box."""
    frames = read_boxes(path).get(clip)
    if not frames:
        raise BrokenClip(f"{path} has no box for clip {clip}. Expected a row per frame. Add them.")
    return [np.array(frames.get(t, [])).reshape(-1, 5) for t in range(max(frames) + 1)]


MEDIAPIPE_TO_COCO = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)


def mediapipe_pose(frames, cfg):
    """Google's BlazePose: one person, tracked by itself, no weights to fetch; scores are visibilities."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    try:
        from mediapipe.python.solutions.pose import Pose       # later releases hold no models
    except ImportError as error:
        raise missing_extra("--extractor mediapipe", "mediapipe==0.10.21") from error
    points = []                                                # (x, y, score), x and y in [0, 1]
    with Pose(model_complexity=1) as model:
        for frame in frames:
            found = model.process(frame).pose_landmarks
            marks = [found.landmark[j] for j in MEDIAPIPE_TO_COCO] if found else []
            points.append([(m.x, m.y, m.visibility) for m in marks] or np.zeros((17, 3)))
    points = np.array(points)
    return points[..., :2] * (frame.shape[1], frame.shape[0]) - 0.5, points[..., 2]


class Extractor(NamedTuple):
    find: Callable                # (frames, ExtractConfig) -> keypoints (T, J, 2) pixels, scores (T, J)
    joints: str = "coco17"        # a name in JOINT_SETS


# frames can be gone through more than once, and give uint8 RGB arrays (H, W, 3)
EXTRACTORS = {"hrnet": Extractor(hrnet), "mediapipe": Extractor(mediapipe_pose)}


def missing_extra(what, package):
    return ValueError(f"{what} needs a package that is not installed. Expected {package}. Run `pip "
                      f"install '{package}'`.")


@lru_cache(4)
def _cached(make, *args, **kwargs):
    return make(*args, **kwargs)


# ---------------------------------------------------------------------------------- video -> pose clip


class BrokenClip(ValueError):
    """A fault of one clip: it is listed, and the run goes on."""


class Video:
    """The frames of a file, upright, one at a time, as often as asked for; then `size` and `times`."""

    def __init__(self, path):
        self.path, self.clip, self.size, self.times, self.rate = Path(path), Path(path).stem, None, [], 25

    def __iter__(self):
        self.times, convert = [], VideoReformatter()
        try:
            with av.open(str(self.path.absolute())) as container:
                stream = container.streams.video[0]
                stream.thread_type, self.rate = "AUTO", stream.average_rate or 25
                for frame in container.decode(stream):
                    first = first if self.times else frame
                    image = convert.reformat(frame, first.width, first.height, "rgb24").to_ndarray()
                    image = np.ascontiguousarray(np.rot90(image, frame.rotation // 90))
                    at = len(self.times) / float(self.rate) if frame.time is None else frame.time
                    self.times.append(max(at, self.times[-1] if self.times else at))
                    self.size = image.shape[:2]
                    yield image
        except (av.error.FFmpegError, IndexError, OSError) as error:
            raise BrokenClip(f"cannot decode {self.path}: {error}. Expected a whole video file. Fetch "
                             "it again.") from error
        if not self.times:
            raise BrokenClip(f"{self.path} holds no frame. Expected a video. Fetch it again.")


def extract(video, extractor="hrnet", cfg=None):
    """A video file -> PoseClip of the person in it, by an extractor's name; cfg is an ExtractConfig."""
    if extractor not in EXTRACTORS:
        raise ValueError(f"unknown extractor {extractor!r}. Expected one of {', '.join(EXTRACTORS)}. "
                         "For another one add a function to pose.EXTRACTORS.")
    frames, (find, joints) = Video(video), EXTRACTORS[extractor]
    keypoints, scores = find(frames, cfg or ExtractConfig(extractor))
    return PoseClip(keypoints, scores, frames.size, frames.times, JOINT_SETS[joints].names,
                    extractor).check(video)


def write_overlay(path, video, clip):
    """The video again, with the skeleton drawn on it: h264 in mp4, at most 720 pixels on a side."""
    frames = Video(video)
    with atomic(path) as part, av.open(str(part), "w", format="mp4") as container:
        stream = None
        for t, frame in enumerate(frames):
            image = draw_skeleton(Image.fromarray(frame), clip.keypoints[t], clip.scores[t], clip.joints)
            shrink = min(1, 720 / max(image.size))
            image = image.resize([max(2, round(n * shrink / 2) * 2) for n in image.size])
            if stream is None:
                stream = container.add_stream("libx264", rate=frames.rate)
                (stream.width, stream.height), stream.pix_fmt = image.size, "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())


# ---------------------------------------------------------------------------------- public pose files


class PlainDtype:
    """A pickled dtype of plain numbers or text; anything that can hold an object is refused."""

    def __init__(self, spec, *flags):
        self.real = np.dtype(str(spec))
        if self.real.kind not in "biufcSU":
            raise ValueError(f"the pickle asks for an array of {self.real}. Expected numbers. Nothing "
                             "of it was run; get the file from its owner.")

    def __setstate__(self, state):
        self.real = self.real.newbyteorder(state[1])


class PlainArray(np.ndarray):
    __slots__ = ()

    def __setstate__(self, state):
        super().__setstate__((*state[:2], state[2].real, *state[3:]))


PLAIN = {  # all that a pickle of arrays in containers asks for, and what it gets
    "numpy.core.multiarray._reconstruct": lambda kind, shape, code: PlainArray((0,), np.int8),
    "numpy.core.multiarray.scalar": lambda dtype, data: np.frombuffer(data, dtype.real)[0],
    "numpy.core.numeric._frombuffer": lambda data, dtype, shape, order: np.frombuffer(
        data, dtype.real).reshape(shape, order=order),
    "numpy.ndarray": PlainArray, "numpy.dtype": PlainDtype, "builtins.set": set,
    "collections.OrderedDict": dict, "_codecs.encode": lambda text, code: text.encode("latin1"),
}


class PlainUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        module = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        if f"{module}.{name}" not in PLAIN:
            raise ValueError(f"the pickle asks for {module}.{name}. Expected nothing but numpy arrays "
                             "and plain containers. Nothing of it was run; get the file from its owner.")
        return PLAIN[f"{module}.{name}"]


def load_plain(path):
    """Unpickle arrays and containers, and nothing else. Large arrays are not copied."""
    try:
        with open(path, "rb") as file:
            return PlainUnpickler(file).load()
    except OSError:
        raise
    except Exception as error:                    # a cut or foreign pickle fails in any way it likes
        raise ValueError(f"cannot read {path}: {error}") from error


def clip_id(name):
    """The name that data.py looks for: no folder, no ending, FineGym's ids in their long spelling."""
    name = re.sub(r"\.(mp4|avi|mkv|webm|mov)$", "", re.split(r"[/\\]", str(name))[-1])
    return re.sub(r"^(.{11})_(?:E_)?(\d{6}_\d{6})_(?:A_)?(\d{4}_\d{4})$", r"\1_E_\2_A_\3", name)


def public_clip(keypoints, scores, size, joints, origin):
    """(M, T, J, 2), (M, T, J) of a public file -> PoseClip of one person; its frame times are unknown."""
    keypoints, scores = one_person(keypoints, scores)
    return PoseClip(keypoints, scores, size, np.full(len(scores), np.nan), JOINT_SETS[joints].names,
                    origin)


def annotations_of(path, wanted):
    """The list of annotations of a pyskl pickle; its entries can be popped to free their memory."""
    found = load_plain(path)
    found = found.get("annotations") if isinstance(found, dict) else None
    if not isinstance(found, list) or not all(isinstance(a, dict) and wanted <= a.keys() for a in found):
        raise ValueError(f"{path} is no list of annotations with {', '.join(sorted(wanted))}. Expected a "
                         "pyskl pickle; Kinetics' index goes with `import k400`, others with `import "
                         "pyskl`.")
    return found[::-1]


def import_pyskl(path, _):
    """One pickle with every clip: persons in the detector's order, which changes from frame to frame."""
    annotations = annotations_of(path, {"keypoint", "img_shape"})
    yield len(annotations)
    while annotations:
        item = annotations.pop()
        points = np.asarray(item["keypoint"])
        scores = item.get("keypoint_score", points[..., 2] if points.shape[-1] > 2 else points.any(-1))
        yield (clip_id(item.get("filename", item.get("frame_dir"))),
               partial(public_clip, points[..., :2], scores, item["img_shape"], "coco17", "pyskl"))


def import_k400(path, keypoints):
    """Kinetics: an index, and the rows (x, y, score) of all persons in separate pickles.

    frame_inds counts from 1, in steps (every second frame); rows of one frame are its persons. A pose
    file is called after the entry's frame_dir, the video's 11 characters.
    """
    annotations, files = annotations_of(path, {"frame_inds", "total_frames"}), Path(keypoints or ".")
    if not keypoints or not files.exists():
        raise FileNotFoundError(f"no keypoint files at {keypoints!r}. Expected the kpfiles that belong "
                                f"to {path}. Give --keypoints FILE_OR_FOLDER.")
    yield len(annotations)

    def make(item):
        file = files / Path(item.get("raw_file", "")).name if files.is_dir() else files
        rows = _cached(load_plain, str(file)).get(item["frame_dir"])
        if rows is None:
            raise BrokenClip(f"{file} has no {item['frame_dir']}. Expected its keypoints. Fetch it again.")
        rows, at = np.asarray(rows["keypoint"]), np.asarray(item["frame_inds"]).astype(int).ravel() - 1
        step = max(1, int(np.gcd.reduce(np.diff(at)))) if len(at) > 1 else 1
        first = int(at[0]) % step if len(at) else 0
        at = (at - first) // step                                          # rows of the pose clip
        person = np.arange(len(at)) - np.searchsorted(at, at)              # 0, 1, ... in each frame
        T, M = -(-(int(item["total_frames"]) - first) // step), person.max(initial=-1) + 1
        people = np.zeros((M, T, 17, 3), np.float32)
        people[person, at] = rows
        return public_clip(people[..., :2], people[..., 2], item["img_shape"], "coco17", "pyskl")

    while annotations:
        item = annotations.pop()
        yield clip_id(item["frame_dir"]), partial(make, item)


def import_smarthome(path, _):
    """A json, or a folder of them, of Toyota-Smarthome v1.1 or v1.2: 13 x, then 13 y, per person."""
    files = sorted(Path(path).rglob("*.json")) if Path(path).is_dir() else [Path(path)]
    yield len(files)

    def make(file):
        try:
            frames = json.loads(file.read_text())["frames"]
            people = np.zeros((max(map(len, frames)), len(frames), 13, 2), np.float32)
            for t, frame in enumerate(frames):
                for m, person in enumerate(frame):
                    people[m, t] = np.reshape(person["pose2d"], (2, 13)).T
        except (ValueError, KeyError, TypeError) as error:
            raise BrokenClip(f"{file}: {error!r}. Expected frames of persons with pose2d, 26 numbers. "
                             "Fetch it again.") from error
        seen = ~((people == 0) | (people == -1)).all(-1)                   # so a missing joint is written
        return public_clip(people, seen, (480, 640), "smarthome13", "LCR-Net++")

    for file in files:
        yield file.stem.removesuffix("_pose3d"), partial(make, file)


IMPORTERS = {"pyskl": import_pyskl, "k400": import_k400, "smarthome": import_smarthome}

# ---------------------------------------------------------------------------------- command line


def run_jobs(jobs, total, out, overwrite):
    """jobs give (clip id, make), make() -> PoseClip, which goes to `<out>/<clip id>.npz`.

    What is done already is skipped; what is broken is listed at the end. -> number of broken clips.
    """
    begin, shown, done, skipped, frames, broken = time.time(), 0.0, 0, 0, 0, []
    for name, make in jobs:
        path = Path(out) / f"{name}.npz"
        if path.exists() and not overwrite:
            skipped += 1
            continue
        try:
            clip = make()
            write_pose(path, clip.keypoints, clip.scores, clip.size, clip.times, clip.joints,
                       clip.extractor)
            done, frames = done + 1, frames + len(clip.times)
        except BrokenClip as error:
            broken.append(f"{name}: {error}")
        if time.time() - shown > (0.5 if sys.stderr.isatty() else 30) or done + skipped + len(broken) == total:
            shown, spent = time.time(), time.time() - begin
            left = spent / (done + len(broken)) * (total - done - skipped - len(broken))
            print(f"{done + skipped + len(broken)}/{total} clips  {frames / spent:.1f} frames/s  left "
                  f"{left // 60:.0f} min {left % 60:.0f} s  broken {len(broken)}   ", file=sys.stderr,
                  end="\r" if sys.stderr.isatty() else "\n")
    print(f"\n{done} pose clips written to {out}, {skipped} were there, {len(broken)} broken"
          + "".join(f"\n  {line}" for line in broken))
    return len(broken)


VIDEOS = {".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"}


def run_extract(args, cfg):
    videos = []
    for given in map(Path, args.videos):
        if not given.exists():
            raise FileNotFoundError(f"no video or folder {given}. Expected one. Check the path.")
        inside = (p for p in given.rglob("*") if p.suffix.lower() in VIDEOS)
        videos += sorted(inside) if given.is_dir() else [given]
    names = {}
    for video in videos:
        if names.setdefault(video.stem, video) != video:
            raise ValueError(f"{video} and {names[video.stem]} would both make {video.stem}.npz. Expected "
                             "different names. Rename one, or extract the folders to different --out.")
    if not (shard := re.fullmatch(r"(\d+)/(\d+)", args.shard)) or int(shard[1]) >= int(shard[2]):
        raise ValueError(f"bad --shard {args.shard}. Expected i/n with i from 0 to n - 1. Try 0/8.")
    mine = videos[int(shard[1])::int(shard[2])]

    def make(video):
        clip = extract(video, cfg.extractor, cfg)
        if args.overlay:
            write_overlay(Path(args.overlay) / f"{video.stem}.mp4", video, clip)
        return clip

    run_jobs(((video.stem, partial(make, video)) for video in mine), len(mine), args.out, args.overwrite)


def run_import(args):
    jobs = IMPORTERS[args.format](args.file, args.keypoints)
    run_jobs(jobs, next(jobs), args.out, args.overwrite)


def main(argv=None):
    parser = argparse.ArgumentParser("pose.py", description="Pose files from videos or public files.")
    commands = parser.add_subparsers(dest="command", required=True)
    grab = commands.add_parser("extract", help="find the joints of the person in videos")
    grab.add_argument("videos", nargs="+", help="video files, or folders of them")
    grab.add_argument("--overlay", default="", help="folder for the videos with the skeleton drawn on")
    grab.add_argument("--shard", default="0/1", help="i/n: every n-th video, from the i-th (0 to n - 1)")
    for f in fields(ExtractConfig):
        kind, doc = get_args(get_type_hints(ExtractConfig, include_extras=True)[f.name])
        choices = get_args(kind) if get_origin(kind) is Literal else None
        choices = tuple(EXTRACTORS) if f.name == "extractor" else choices
        how = {"action": argparse.BooleanOptionalAction} if kind is bool else {
            "type": str if choices else kind, "choices": choices}
        grab.add_argument(f"--{f.name}", default=f.default, help=f"{doc} (default: {f.default!r})", **how)
    take = commands.add_parser("import", help="convert a public pose file")
    take.add_argument("format", choices=IMPORTERS)
    take.add_argument("file", help="the pickle or index; smarthome: a json or a folder of them")
    take.add_argument("--keypoints", default="", help="k400: the kpfile, or the folder of them")
    for command in (grab, take):
        command.add_argument("--out", required=True, help="folder of the pose files, <clip id>.npz")
        command.add_argument("--overwrite", action="store_true", help="make again what is there")
    args = parser.parse_args(argv)
    try:
        if args.command == "import":
            return run_import(args)
        run_extract(args, ExtractConfig(**{f.name: getattr(args, f.name) for f in fields(ExtractConfig)}))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
