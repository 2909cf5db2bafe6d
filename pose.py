"""Pose clips: where they come from, what their files hold, the heatmaps and pictures made of them.

Both papers read 2D joints beside the video. This file makes them from videos, by HRNet in raw PyTorch
or an off-the-shelf extractor behind the same wrapper, and converts the public pose files.

    paper section            | what                    | here                          | test_pose.py
    PeVL Sec. 4, data        | joints of every frame   | extract, EXTRACTORS, HRNet    | test_hrnet_*
    PeVL Sec. 4, data        | ready pose files        | IMPORTERS                     | test_import_*
    ViLP Sec. 3, PeVL Tab. 9 | heatmap of a frame      | gaussian_heatmaps             | test_heatmaps_*

Letters: T frames of a clip, J joints, M persons, (H, W) the frame; in HRNet N crops, (h, w) a crop or a
heatmap. A joint is (x, y) in pixels, (0, 0) the centre of the top left one; score 0: it is not there. A
box is x0, y0, x1, y1.      `python pose.py extract VIDEO_OR_DIR --out poses/`      joints from videos
                            `python pose.py import pyskl FILE --out poses/`         from public files
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
from pathlib import Path

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
    names: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]       # change places when the picture is mirrored
    bones: tuple[tuple[int, int], ...]            # lines of the drawn skeleton
    to_coco17: tuple[int, ...]                    # source joint of each COCO-17 joint

    @property
    def flip_index(self):
        """Permutation (J,): joint j of a mirrored clip is joint flip_index[j] of the clip."""
        order = dict(self.flip_pairs) | {b: a for a, b in self.flip_pairs}
        return [order.get(j, j) for j in range(len(self.names))]


def _sides(first, second, parts):
    return tuple(f"{side}_{part}" for part in parts.split() for side in (first, second))


JOINT_SETS = {
    # the order of the COCO keypoint challenge, of HRNet and of every pyskl file
    "coco17": JointSet(
        ("nose",) + _sides("left", "right", "eye ear shoulder elbow wrist hip knee ankle"),
        tuple((j, j + 1) for j in range(1, 17, 2)),
        ((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8),
         (7, 9), (8, 10), (0, 1), (0, 2), (1, 3), (2, 4)),
        tuple(range(17))),
    # Toyota-Smarthome's files: from the feet up, right before left; the head is the whole face
    "smarthome13": JointSet(
        _sides("right", "left", "ankle knee hip wrist elbow shoulder") + ("head",),
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
    raise ValueError(f"unknown joints {tuple(names)}. Expected the names of one of {', '.join(JOINT_SETS)}"
                     ", in order. For another skeleton add a JointSet to pose.JOINT_SETS.")


def to_coco17(keypoints, scores, joints):
    """Any known joint set -> COCO-17: keypoints (..., J, 2), scores (..., J) with J = 17."""
    source = list(joint_set(joints).to_coco17)
    return keypoints[..., source, :], scores[..., source]


# ---------------------------------------------------------------------------------- pose files
REMAKE = "Make it again: `python pose.py extract|import ... --overwrite`."


@dataclass
class PoseClip:
    """One person through one clip, as it lies in `<clip id>.npz`."""
    keypoints: np.ndarray         # (T, J, 2) float32, pixels of the frame
    scores: np.ndarray            # (T, J) float32, 0 = missing
    size: tuple[int, int]         # (H, W) of the frame
    times: np.ndarray             # (T,) float64 seconds on the video's own clock, or all NaN: unknown
    joints: tuple[str, ...]       # J names
    extractor: str = ""           # who found them

    def __post_init__(self):
        self.keypoints = np.asarray(self.keypoints, np.float32)
        self.scores = np.asarray(self.scores, np.float32)
        self.times = np.asarray(self.times, np.float64)
        self.size = tuple(int(n) for n in np.asarray(self.size).ravel())
        self.joints, self.extractor = tuple(map(str, self.joints)), str(self.extractor)

    def clock(self, instants):
        """Seconds (T,) since the first row; unknown times lie evenly over the video's instants (n,)."""
        if not np.isnan(self.times).any():
            return self.times - self.times[0]
        even = np.linspace(0, len(instants) - 1, len(self.times))
        return np.interp(even, np.arange(len(instants)), instants)

    def check(self, where):
        """Raise a ValueError that names `where` unless the arrays keep the promises above."""
        (T, J), times = self.scores.shape if self.scores.ndim == 2 else (0, 0), self.times
        finite = np.isfinite(self.keypoints).all() and np.isfinite(self.scores).all()
        if not (T > 0 and self.keypoints.shape == (T, J, 2) and finite and (self.scores >= 0).all()
                and times.shape == (T,) and len(self.joints) == J
                and (np.isnan(times).all() or np.isfinite(times).all() and (np.diff(times) >= 0).all())
                and len(self.size) == 2 and min(self.size) > 0):
            raise ValueError(
                f"bad pose clip {where}: keypoints {self.keypoints.shape}, scores {self.scores.shape}, "
                f"times {times.shape}, {len(self.joints)} joints, size {self.size}. Expected finite (T, J, 2) "
                "and (T, J) >= 0, T ascending times or only NaN, J names, (H, W). " + REMAKE)
        return self


def read_pose(path):
    """`<clip id>.npz` -> PoseClip, checked. Nothing but plain arrays is ever unpacked."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no pose file {path}. Expected one .npz per clip. Make it: `python "
                                f"pose.py extract|import ... --out {path.parent}`.")
    try:
        with np.load(path, allow_pickle=False) as file:
            clip = PoseClip(**{field.name: file[field.name] for field in fields(PoseClip)})
    except Exception as error:                    # a cut zip, a missing array, Python objects ...
        raise ValueError(f"cannot read pose file {path}: {error}. Expected an .npz of write_pose. {REMAKE}"
                         ) from error
    return clip.check(path)


def write_pose(path, keypoints, scores, size, times, joints, extractor=""):
    """Write `<clip id>.npz`, whole or not at all; equal input gives equal bytes."""
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"pose file {path}. Expected the ending .npz. Give <folder>/<clip id>.npz.")
    clip = PoseClip(keypoints, scores, size, times, joints, extractor).check(path)
    with atomic(path) as part, open(part, "wb") as file:
        np.savez_compressed(file, **{name: np.asarray(value) for name, value in vars(clip).items()})
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
    draw, width = ImageDraw.Draw(image), max(1, round(min(image.size) / 150))
    points = [tuple(map(float, point)) for point in np.asarray(keypoints)]
    side, seen = [name.split("_")[0] for name in skeleton.names], np.asarray(scores) > threshold
    for a, b in skeleton.bones:
        if seen[a] and seen[b]:
            colour = SIDE_COLOURS.get(side[a] if side[a] == side[b] else "", (60, 220, 90))
            draw.line([points[a], points[b]], colour, width)
    for j in np.flatnonzero(seen):
        (x, y), r = points[j], 1.2 * width
        draw.ellipse([x - r, y - r, x + r, y + r], SIDE_COLOURS.get(side[j], (60, 220, 90)))
    return image


# ---------------------------------------------------------------------------------- HRNet
# Branches of 1/4, 1/8, 1/16 and 1/32 resolution run side by side and exchange their maps after every
# module (Sun et al., CVPR 2019). Module names are those of the published checkpoints.
def conv_bn(c_in, c_out, kernel, stride=1, relu=True):
    layers = [nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(c_out)]
    return nn.Sequential(*layers, *[nn.ReLU()][:relu])


class Residual(nn.Module):
    """x + convolutions(x): kernels (3, 3) are ResNet's basic block, (1, 3, 1) its bottleneck."""

    def __init__(self, c_in, c_mid, c_out, kernels):
        super().__init__()
        self.depth, widths = len(kernels), [c_in] + [c_mid] * (len(kernels) - 1) + [c_out]
        for i, kernel in enumerate(kernels):
            for name, layer in zip(("conv", "bn"), conv_bn(widths[i], widths[i + 1], kernel)):
                self.add_module(f"{name}{i + 1}", layer)
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
            nn.ModuleList(self._path(widths, i, j) for j in range(len(widths))) for i in range(outputs))

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
        self.input_size = (256, 192)              # h, w of the crops; load_hrnet sets it
        c = [width, 2 * width, 4 * width, 8 * width]
        self.conv1, self.bn1 = conv_bn(3, 64, 3, 2, relu=False)
        self.conv2, self.bn2 = conv_bn(64, 64, 3, 2, relu=False)
        self.layer1 = nn.Sequential(*[Residual(n, 64, 256, (1, 3, 1)) for n in (64, 256, 256, 256)])
        new = lambda c_in, c_out: nn.Sequential(conv_bn(c_in, c_out, 3, 2))
        self.transition1 = nn.ModuleList([conv_bn(256, c[0], 3), new(256, c[1])])
        self.stage2 = nn.Sequential(Exchange(c[:2], 2))
        self.transition2 = nn.ModuleList([nn.Identity()] * 2 + [new(c[1], c[2])])
        self.stage3 = nn.Sequential(*[Exchange(c[:3], 3) for _ in range(4)])
        self.transition3 = nn.ModuleList([nn.Identity()] * 3 + [new(c[2], c[3])])
        self.stage4 = nn.Sequential(*[Exchange(c, outputs) for outputs in (4, 4, 1)])
        self.final_layer = nn.Conv2d(c[0], joints, 1)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))                                # (N, 64, h/2, w/2)
        x = F.relu(self.bn2(self.conv2(x)))                                # (N, 64, h/4, w/4)
        xs = [self.layer1(x)]                                              # (N, 256, h/4, w/4)
        for i in (1, 2, 3):                                                # one branch more each
            moves = getattr(self, f"transition{i}")                        # the new one from the last
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
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = Path(os.environ.get("PEVL_CACHE") or home / "pevl") / url.rsplit("/", 1)[1]
    if path.is_file():
        return path
    begins, digest = re.search(r"-([0-9a-f]{8})_\d+\.pth$", url)[1], hashlib.sha256()
    with atomic(path) as part:
        try:
            with urllib.request.urlopen(url, timeout=60) as source, open(part, "wb") as file:
                total = int(source.headers.get("Content-Length") or 0) >> 20
                while block := source.read(1 << 20):
                    digest.update(block)
                    print(f"\r{path.name} {(file.tell() + file.write(block)) >> 20} of {total} MiB",
                          end="", file=sys.stderr)
            print(file=sys.stderr)
            if not digest.hexdigest().startswith(begins):
                raise OSError(f"its SHA-256 is {digest.hexdigest()}")
        except OSError as error:
            raise ValueError(f"cannot download {url}: {error}. Expected a file whose SHA-256 begins with "
                             f"{begins}. Try again, or fetch it by hand and give its path.") from error
    return path


class Inert:
    """Stands for the classes that a checkpoint names beside its tensors; does nothing."""
    __init__ = __setstate__ = lambda self, *args, **kwargs: None


def read_checkpoint(path):
    """A checkpoint's objects. Its tensors are read, no code of it runs (mmpose keeps logs in there)."""
    load = partial(torch.load, path, map_location="cpu", weights_only=True)
    try:
        try:
            return load()
        except pickle.UnpicklingError:
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            with torch.serialization.safe_globals([(Inert, name) for name in names]):
                return load()
    except Exception as error:
        raise ValueError(f"cannot read checkpoint {path}: {error}. Expected HRNet's weights. Fetch it "
                         "again.") from error


def load_hrnet(name_or_path, input_size=None):
    """HRNet of a name in WEIGHTS, or of a file in the official or mmpose's naming; float32, eval, CPU.

    input_size (h, w): what the crops are; by default as the name says, else 256 x 192.
    """
    known, path = ", ".join(WEIGHTS), Path(name_or_path)
    if name_or_path in WEIGHTS:
        path = download(WEIGHTS[name_or_path])
    elif not path.is_file():
        near = difflib.get_close_matches(str(name_or_path), WEIGHTS, 1) or ["a path"]
        raise FileNotFoundError(f"no HRNet weights {str(name_or_path)!r}. Expected a file, or one of "
                                f"{known}. Did you mean {near[0]}?")
    found, state = read_checkpoint(path), {}
    for key, value in (found.get("state_dict", found) if isinstance(found, dict) else {}).items():
        if not key.startswith("data_preprocessor."):
            state[re.sub(r"^(module\.)?(backbone\.|keypoint_head\.|head\.)?", "", key)] = value
    if "final_layer.weight" not in state:
        raise ValueError(f"{path} has no final_layer.weight (ImageNet's weights find no joints). "
                         f"Expected pose weights. Take one of {known}.")
    model = HRNet(*reversed(state["final_layer.weight"].shape[:2]))
    wanted = model.state_dict()                   # older files have no counters, which nothing reads
    state = {key: torch.tensor(0) for key in wanted if key.endswith("_tracked")} | state
    faults = [f"missing {key}" for key in wanted.keys() - state] + [
        f"unexpected {key}" for key in state.keys() - wanted] + [
        f"{key} is {tuple(state[key].shape)}, not {tuple(wanted[key].shape)}"
        for key in wanted.keys() & state if state[key].shape != wanted[key].shape]
    if faults:
        raise ValueError(f"{path}: {len(faults)} keys do not fit: {'; '.join(sorted(faults)[:8])}. Expected "
                         f"HRNet-W{model.final_layer.in_channels}. Take one of {known}.")
    model.load_state_dict(state)
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
    side = boxes[:, 2:] - boxes[:, :2]
    width = 1.25 * torch.maximum(side[:, 0], side[:, 1] * size[1] / size[0])
    return (boxes[:, :2] + boxes[:, 2:]) / 2, width


def crop_people(frames, boxes, size, device="cpu"):
    """N uint8 frames (H, W, 3), boxes (N, 4) -> HRNet's input (N, 3, h, w); black beyond the frame."""
    (centres, widths), crops = crop_rule(boxes, size), torch.empty(len(boxes), 3, *size, device=device)
    for n, frame in enumerate(frames):
        grid = []
        for axis in (0, 1):                                                # columns, then rows
            length, end = size[1 - axis], frame.shape[1 - axis]
            at = centres[n, axis] + (torch.arange(length) - length / 2) * (widths[n] / size[1])
            low = int(at[0].floor().clamp(0, end - 1))                     # cut out what is read
            high = int((at[-1].ceil() + 1).clamp(low + 1, end))
            frame = frame[low:high] if axis else frame[:, low:high]
            grid.append((2 * (at - low) + 1) / (high - low) - 1)           # grid_sample's [-1, 1]
        grid = torch.stack(torch.meshgrid(*grid, indexing="xy"), -1)[None].to(device)
        image = torch.from_numpy(np.ascontiguousarray(frame)).to(device).permute(2, 0, 1)[None]
        crops[n] = F.grid_sample(image.float(), grid, align_corners=False)[0]
    mean, std = (crops.new_tensor(x)[:, None, None] for x in (MEAN, STD))
    return (crops / 255 - mean) / std


def decode_heatmaps(heatmaps, boxes):
    """Heatmaps (N, J, h, w) of crops of boxes (N, 4) -> keypoints (N, J, 2) in the frame, scores (N, J).

    The highest pixel, moved by a quarter pixel towards its higher neighbour in x and in y unless it
    lies within one pixel of the edge. The score is its height; a map that is nowhere positive gives 0.
    """
    h, w = heatmaps.shape[2:]
    flat = heatmaps.flatten(2)                                             # (N, J, h w)
    scores, top = flat.max(-1)                                             # (N, J)
    x, y = top % w, top // w
    inside = (x > 1) & (x < w - 1) & (y > 1) & (y < h - 1)
    top = torch.where(inside, top, w + 1)                                  # any with neighbours
    rise = torch.cat([flat.gather(2, (top + step)[..., None]) - flat.gather(2, (top - step)[..., None])
                      for step in (1, w)], -1)                             # (N, J, 2)
    spot = torch.stack([x, y], -1) + 0.25 * rise.sign() * inside[..., None]
    spot = spot * (scores > 0)[..., None] - spot.new_tensor([w, h]) / 2
    centres, widths = crop_rule(boxes.to(heatmaps.device), (h, w))
    return centres[:, None] + spot * (widths / w)[:, None, None], scores.clamp(min=0)


def predict_heatmaps(model, crops, flip=True):
    """Heatmaps (N, J, h, w); with `flip`, the mean with those of the mirrored crops, mirrored back.

    The mirrored maps move right by one pixel: the middle of a crop is pixel w / 2, so that the mirror
    image of pixel u is w - u, and not w - 1 - u as in the array.
    """
    heatmaps = model(crops)
    if flip:
        back = model(crops.flip(-1)).flip(-1)[:, JOINT_SETS["coco17"].flip_index]
        back[..., 1:] = back[..., :-1].clone()
        heatmaps = (heatmaps + back) / 2
    return heatmaps


@torch.inference_mode()
def predict(model, frames, boxes, flip=True):
    """N frames, boxes (N, 4) -> keypoints (N, J, 2), scores (N, J) as numpy arrays."""
    boxes = torch.as_tensor(np.asarray(boxes), dtype=torch.float32)
    crops = crop_people(frames, boxes, model.input_size, model.final_layer.weight.device)
    return tuple(x.cpu().numpy() for x in decode_heatmaps(predict_heatmaps(model, crops, flip), boxes))


# ---------------------------------------------------------------------------------- boxes, tracks
def joint_boxes(keypoints, scores, threshold=0.0):
    """keypoints (..., J, 2), scores (..., J) -> (..., 5): box of the joints above `threshold`, mean score
    of all joints; score 0 where less than two are seen."""
    seen = (scores > threshold)[..., None]
    low = np.where(seen, keypoints, np.inf).min(-2)
    high = np.where(seen, keypoints, -np.inf).max(-2)
    box = np.concatenate([low, high, scores.mean(-1, keepdims=True)], -1)
    return np.where(seen.sum(-2) > 1, box, 0)


def overlaps(a, b):
    """Intersection over union (n, m) of boxes a (n, 4+) and b (m, 4+)."""
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:4], b[:, 2:4])
    both = np.prod(np.clip(high - low, 0, None), -1)
    area_a, area_b = (np.prod(x[:, 2:4] - x[:, :2], -1) for x in (a, b))
    return both / np.maximum(area_a[:, None] + area_b - both, 1e-9)


def link_people(boxes, overlap=0.3, patience=30):
    """T arrays (n, 5) of box and score -> (T,): which box of each frame is the clip's person, -1 none.

    Each box joins the track whose last box, at most `patience` frames old, it overlaps most; the others
    begin tracks. The person is the track with the largest mean score x area over all frames of the clip,
    absent ones counted as 0, so that nobody wins by passing close to the camera.
    """
    tracks = []                                   # {"box", "t": of that box, "weight", "at": {t: index}}
    for t, now in enumerate(boxes):
        left = [n for n in range(len(now)) if now[n, 4] > 0]
        live = [track for track in tracks if t - track["t"] <= patience]
        fit = overlaps(np.array([track["box"] for track in live]).reshape(-1, 5), now)
        joined = {}
        for k, n in zip(*np.unravel_index(np.argsort(-fit, axis=None, kind="stable"), fit.shape)):
            if fit[k, n] >= overlap and n in left and live[k]["t"] < t:
                left.remove(n)
                live[k]["t"], joined[n] = t, live[k]
        for n in left:
            joined[n] = {"weight": 0.0, "at": {}, "t": t}
            tracks.append(joined[n])
        for n, track in joined.items():
            x0, y0, x1, y1, score = track["box"] = now[n]
            track["weight"] += score * (x1 - x0) * (y1 - y0)
            track["at"][t] = n
    best = max(tracks, key=lambda track: track["weight"], default={"at": {}})["at"]
    return np.array([best.get(t, -1) for t in range(len(boxes))], int)


def one_person(keypoints, scores):
    """Persons without order, (M, T, J, 2) and (M, T, J) -> the clip's person (T, J, 2), (T, J)."""
    keypoints, scores = (np.nan_to_num(np.asarray(x, np.float32), posinf=0, neginf=0)
                         for x in (keypoints, scores))
    if len(keypoints) == 0:
        return np.zeros(keypoints.shape[1:]), np.zeros(scores.shape[1:])
    picks = link_people(joint_boxes(keypoints, scores).swapaxes(0, 1))
    picks = picks if len(keypoints) > 1 else np.zeros_like(picks)          # all of it is that person
    there, T = (picks >= 0)[:, None], range(len(picks))
    return keypoints[picks, T] * there[..., None], scores[picks, T] * there


# ---------------------------------------------------------------------------------- extractors
# An extractor is a function (frames, **options) -> keypoints (T, J, 2) in pixels, scores (T, J).
# `frames` can be gone through more than once and gives uint8 RGB arrays (H, W, 3); options are the
# command line's. To add one, add an entry to EXTRACTORS.
_cached = lru_cache(4)(lambda make, *args, **kwargs: make(*args, **kwargs))


def hrnet(frames, weights="w32_256x192", detector="track", boxes="", flip=True, batch=16, device=""):
    """The paper's extractor: one box per frame, the person's; who that is, is decided before."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = _cached(load_hrnet, weights).to(device, memory_format=torch.channels_last)
    look = partial(predict, model, flip=flip)
    if not boxes and detector == "track":
        return follow(frames, look)
    people = read_boxes(boxes).get(frames.clip) if boxes else detect_people(frames, device)
    if people is None:
        raise BrokenClip(f"{boxes} has no clip {frames.clip}. Expected a row per frame. Add them.")
    chosen = {t: people[t][n, :4] for t, n in enumerate(link_people(people)) if n >= 0}
    found, waiting = {}, {}
    for t, frame in enumerate(frames):
        found[t] = np.zeros((17, 2)), np.zeros(17)
        waiting |= {t: frame} if t in chosen else {}
        if waiting and (len(waiting) == batch or t >= max(chosen)):
            found |= zip(waiting, zip(*look(list(waiting.values()), [chosen[i] for i in waiting])))
            waiting = {}
    return tuple(np.stack(part) for part in zip(*found.values()))


def follow(frames, look):
    """Boxes from HRNet's own joints: those of the frame before, or, at the start and when the person
    is lost, the whole frame, refined twice. A frame where fewer than 4 joints are seen holds nobody."""
    box, found = None, []
    for frame in frames:
        whole = np.array([0, 0, frame.shape[1] - 1, frame.shape[0] - 1])
        for start, looks in ((box, 1), (whole, 3)):
            box = start
            while box is not None and looks:
                (keypoints,), (scores,) = look([frame], [box])
                box, looks = joint_boxes(keypoints, scores, 0.2)[:4], looks - 1
                room = 0.1 * (box[2:] - box[:2]).max()        # a person is larger than the joints
                box = box + [-room, -room, room, room] if (scores > 0.2).sum() > 3 else None
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
        raise ValueError("torchvision is not installed. Expected it for --detector torchvision. Run "
                         "`pip install torchvision`.") from error
    model, boxes = _cached(detection.fasterrcnn_resnet50_fpn, weights="DEFAULT").eval().to(device), []
    for frame in frames:
        found = model([torch.from_numpy(frame).to(device).permute(2, 0, 1) / 255])[0]
        keep = (found["labels"] == 1) & (found["scores"] > 0.5)            # 1 is the person
        boxes.append(torch.cat([found["boxes"], found["scores"][:, None]], 1)[keep].cpu().numpy())
    return boxes


@lru_cache(1)
def read_boxes(path):
    """csv clip,frame,x0,y0,x1,y1[,score] -> {clip: T arrays (n, 5), up to its last box}."""
    clips = {}
    with open(path, newline="") as file:
        for row in (rows := csv.DictReader(file)):
            try:
                box = [float(row[key]) for key in ("x0", "y0", "x1", "y1")] + [float(row.get("score") or 1)]
                clips.setdefault(row["clip"], {}).setdefault(int(row["frame"]), []).append(box)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {rows.line_num}: {dict(row)}. Expected the header clip,frame,"
                                 "x0,y0,x1,y1[,score] and numbers. Correct the line.") from error
    return {clip: [np.reshape(frames.get(t, []), (-1, 5)) for t in range(max(frames) + 1)]
            for clip, frames in clips.items()}


MEDIAPIPE_TO_COCO = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)


def mediapipe_pose(frames, **options):
    """Google's BlazePose: one person, tracked by itself, no weights to fetch; scores are visibilities."""
    try:
        from mediapipe.python.solutions.pose import Pose       # later releases hold no models
    except ImportError as error:
        raise ValueError("mediapipe is not installed. Expected the last release that has its models. Run "
                         "`pip install 'mediapipe==0.10.21'`.") from error
    points = []                                                # (x, y, score), x and y in [0, 1]
    with Pose(model_complexity=1) as model:
        for frame in frames:
            found = model.process(frame).pose_landmarks
            marks = [found.landmark[j] for j in MEDIAPIPE_TO_COCO] if found else []
            points.append([(m.x, m.y, m.visibility) for m in marks] or np.zeros((17, 3)))
    points = np.array(points)
    return points[..., :2] * (frame.shape[1], frame.shape[0]) - 0.5, points[..., 2]


EXTRACTORS = {"hrnet": (hrnet, "coco17"), "mediapipe": (mediapipe_pose, "coco17")}   # function, joints


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
                    self.times.append(max([at, *self.times[-1:]]))
                    self.size = image.shape[:2]
                    yield image
            if not self.times:
                raise IndexError("it holds no frame")
        except (av.error.FFmpegError, IndexError, OSError) as error:
            raise BrokenClip(f"cannot decode {self.path}: {error}. Expected a whole video file. Fetch "
                             "it again.") from error


def extract(video, extractor="hrnet", **options):
    """A video file -> PoseClip of the person in it; options go to the extractor, see EXTRACTORS."""
    if extractor not in EXTRACTORS:
        raise ValueError(f"unknown extractor {extractor!r}. Expected one of {', '.join(EXTRACTORS)}. "
                         "For another one add a function to pose.EXTRACTORS.")
    frames, (find, joints) = Video(video), EXTRACTORS[extractor]
    keypoints, scores = find(frames, **options)
    return PoseClip(keypoints, scores, frames.size, frames.times, JOINT_SETS[joints].names,
                    extractor).check(video)


def write_overlay(path, video, clip):
    """The video again, with the skeleton drawn on it: h264 in mp4, at most 720 pixels on a side."""
    frames, stream = Video(video), None
    with atomic(path) as part, av.open(str(part), "w", format="mp4") as container:
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
    """A pickled dtype of numbers or text; one that can hold objects is refused."""

    def __init__(self, spec, *flags):
        self.real = np.dtype(str(spec))
        if self.real.kind not in "biufcSU":
            raise pickle.UnpicklingError(f"it asks for an array of {self.real}")

    def __setstate__(self, state):
        self.real = self.real.newbyteorder(state[1])


class PlainArray(np.ndarray):
    def __setstate__(self, state):                # version, shape, dtype, order, bytes
        super().__setstate__((*state[:2], state[2].real, *state[3:]))


PLAIN = {  # all that a pickle of arrays in containers asks for, and what it gets
    "numpy.core.multiarray._reconstruct": lambda kind, shape, code: PlainArray((0,), np.int8),
    "numpy.core.multiarray.scalar": lambda dtype, data: np.frombuffer(data, dtype.real)[0],
    "numpy.core.numeric._frombuffer": lambda data, dtype, shape, order: np.frombuffer(
        data, dtype.real).reshape(shape, order=order),
    "numpy.ndarray": PlainArray, "numpy.dtype": PlainDtype, "builtins.set": set,
    "builtins.bytes": lambda: b"",
    "collections.OrderedDict": dict, "_codecs.encode": lambda text, code: text.encode("latin1"),
}


class PlainUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        name = re.sub("^__builtin__", "builtins", re.sub("^numpy._core", "numpy.core", module)) + "." + name
        if name not in PLAIN:
            raise pickle.UnpicklingError(f"it asks for {name}")
        return PLAIN[name]


def load_plain(path):
    """Unpickle arrays and containers, and nothing else. Large arrays are not copied."""
    with open(path, "rb") as file:
        try:
            return PlainUnpickler(file).load()
        except Exception as error:                # a cut or foreign pickle fails in any way it likes
            raise ValueError(f"cannot read pickle {path}: {error}. Expected numpy arrays in plain containers. "
                             "Nothing else of it was run; get the file from its owner.") from error


def _annotations(path, *wanted):
    """The list of annotations of a pyskl pickle; entries are freed as they are given."""
    found = load_plain(path)
    found = found.get("annotations") if isinstance(found, dict) else None
    if not isinstance(found, list) or not all(isinstance(a, dict) and a.keys() >= {*wanted} for a in found):
        raise ValueError(f"{path} is no list of annotations with {', '.join(wanted)}. Expected a pyskl "
                         "pickle. Take `import k400` for Kinetics' index, `import pyskl` for the others.")
    yield len(found)
    found.reverse()
    while found:
        yield found.pop()


def clip_id(name):
    """The name that data.py looks for: no folder, no ending, FineGym's ids in their long spelling."""
    name = re.sub(r"\.(mp4|avi|mkv|webm|mov)$", "", re.split(r"[/\\]", str(name))[-1])
    return re.sub(r"^(.{11})_(?:E_)?(\d{6}_\d{6})_(?:A_)?(\d{4}_\d{4})$", r"\1_E_\2_A_\3", name)


def public_clip(keypoints, scores, size, joints="coco17", origin="pyskl"):
    """(M, T, J, 2), (M, T, J) of a public file -> PoseClip of one person; its frame times are unknown."""
    keypoints, scores = one_person(keypoints, scores)
    return PoseClip(keypoints, scores, size, np.full(len(scores), np.nan), JOINT_SETS[joints].names, origin)


# An importer yields the number of clips, then for each its id and a function that makes its PoseClip.
def import_pyskl(path, keypoints):
    """One pickle with every clip: persons in the detector's order, which changes from frame to frame."""
    annotations = _annotations(path, "keypoint", "img_shape", "frame_dir")
    yield next(annotations)
    for item in annotations:
        points = np.asarray(item["keypoint"])
        scores = item.get("keypoint_score", points[..., 2] if points.shape[-1] > 2 else points.any(-1))
        yield clip_id(item["frame_dir"]), partial(public_clip, points[..., :2], scores, item["img_shape"])


def import_k400(path, keypoints):
    """Kinetics: an index, and the rows (x, y, score) of all persons in pickles of their own. frame_inds
    counts from 1, in steps. A pose file is called after frame_dir, the video's 11 characters."""
    annotations, files = _annotations(path, "frame_inds", "total_frames", "frame_dir"), Path(keypoints)
    if not keypoints or not files.exists():
        raise FileNotFoundError(f"no keypoint files at {keypoints!r}. Expected the kpfiles that belong to "
                                f"{path}. Give --keypoints FILE_OR_FOLDER.")

    def make(item):
        file = files / Path(item.get("raw_file", "")).name if files.is_dir() else files
        rows = _cached(load_plain, file).get(item["frame_dir"])
        if rows is None:
            raise BrokenClip(f"{file} has no {item['frame_dir']}. Expected its keypoints. Fetch it again.")
        at = np.asarray(item["frame_inds"]).astype(int).ravel() - 1        # of row n, from 0
        step = max(1, np.gcd.reduce(np.diff(at))) if len(at) > 1 else 1
        first = at[0] % step if len(at) else 0
        at = (at - first) // step                                          # in the pose clip
        person = np.arange(len(at)) - np.searchsorted(at, at)              # 0, 1, ... in each frame
        T = -(-(int(item["total_frames"]) - first) // step)
        people = np.zeros((person.max(initial=-1) + 1, T, 17, 3), np.float32)
        people[person, at] = rows["keypoint"]
        return public_clip(people[..., :2], people[..., 2], item["img_shape"])

    yield next(annotations)
    for item in annotations:
        yield clip_id(item["frame_dir"]), partial(make, item)


def import_smarthome(path, keypoints):
    """A json, or a folder of them, of Toyota-Smarthome v1.1 or v1.2: 13 x, then 13 y, per person."""
    files = sorted(Path(path).rglob("*.json")) if Path(path).is_dir() else [Path(path)]

    def make(file):
        try:
            frames = json.loads(file.read_text())["frames"]
            people = np.zeros((max(map(len, frames)), len(frames), 13, 2), np.float32)
            for t, m in ((t, m) for t, frame in enumerate(frames) for m in range(len(frame))):
                people[m, t] = np.reshape(frames[t][m]["pose2d"], (2, 13)).T
        except (ValueError, KeyError, TypeError) as error:
            raise BrokenClip(f"{file}: {error!r}. Expected frames of persons with pose2d, 26 numbers. Fetch "
                             "it again.") from error
        seen = ~((people == 0) | (people == -1)).all(-1)                   # so a missing joint is written
        return public_clip(people, seen, (480, 640), "smarthome13", "LCR-Net++")

    yield len(files)
    for file in files:
        yield file.stem.removesuffix("_pose3d"), partial(make, file)


IMPORTERS = {"pyskl": import_pyskl, "k400": import_k400, "smarthome": import_smarthome}


# ---------------------------------------------------------------------------------- command line
def run_jobs(jobs, total, out, overwrite):
    """jobs give (clip id, make), make() -> PoseClip, which goes to `<out>/<clip id>.npz`. What is there
    is skipped; what is broken is listed at the end and stops nothing."""
    begin, shown, done, skipped, frames, broken = time.time(), 0.0, 0, 0, 0, []
    live = sys.stderr.isatty()
    for name, make in jobs:
        path = Path(out) / f"{name}.npz"
        if path.exists() and not overwrite:
            skipped += 1
            continue
        try:
            clip = make()
            write_pose(path, **vars(clip))
            done, frames = done + 1, frames + len(clip.times)
        except BrokenClip as error:
            broken.append(f"\n  {name}: {error}")
        seen, spent = done + skipped + len(broken), time.time() - begin
        if time.time() - shown > (0.5 if live else 30) or seen == total:
            shown, left = time.time(), spent / (seen - skipped) * (total - seen)
            print(f"{seen}/{total} clips  {frames / spent:.1f} frames/s  left {left // 60:.0f} min "
                  f"{left % 60:.0f} s  broken {len(broken)} ", file=sys.stderr, end="\r" if live else "\n")
    print(f"{done} pose clips written to {out}, {skipped} were there, {len(broken)} broken" + "".join(broken))


VIDEOS = {".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"}


def run_extract(videos, out, overwrite, shard, overlay, extractor, **options):
    files = {}
    for path in map(Path, videos):
        if not path.exists():
            raise FileNotFoundError(f"no video or folder {path}. Expected one. Check the path.")
        inside = (p for p in path.rglob("*") if p.suffix.lower() in VIDEOS) if path.is_dir() else [path]
        for video in sorted(inside):
            if files.setdefault(video.stem, video) != video:
                raise ValueError(f"{video} and {files[video.stem]} would both make {video.stem}.npz. Expected "
                                 "different names. Rename one, or give the folders different --out.")
    i, n = map(int, shard.split("/")) if re.fullmatch(r"\d+/\d+", shard) else (0, 0)
    if i >= n:
        raise ValueError(f"bad --shard {shard}. Expected i/n with i from 0 to n - 1. Try 0/8.")
    mine = list(files.values())[i::n]

    def make(video):
        clip = extract(video, extractor, **options)
        if overlay:
            write_overlay(Path(overlay) / f"{video.stem}.mp4", video, clip)
        return clip

    run_jobs(((video.stem, partial(make, video)) for video in mine), len(mine), out, overwrite)


def main(argv=None):
    parser = argparse.ArgumentParser("pose.py", description="Pose files from videos or public files.")
    commands = parser.add_subparsers(dest="command", required=True)
    style = {"formatter_class": argparse.ArgumentDefaultsHelpFormatter}
    flag = commands.add_parser("extract", help="find the joints of the person in videos", **style).add_argument
    flag("videos", nargs="+", help="video files, or folders of them")
    flag("--extractor", default="hrnet", choices=EXTRACTORS, help="who finds the joints")
    flag("--overlay", default="", help="folder for the videos with the skeleton drawn on")
    flag("--shard", default="0/1", help="i/n: every n-th video from the i-th, i from 0 to n - 1")
    flag("--weights", default="w32_256x192", help=f"hrnet: a file, or one of {', '.join(WEIGHTS)}")
    flag("--detector", default="track", choices=("track", "torchvision"),
         help="hrnet: the person's box from the joints before it, or from Faster R-CNN")
    flag("--boxes", default="", help="hrnet: csv clip,frame,x0,y0,x1,y1[,score] of known boxes, frames from 0")
    flag("--flip", default=True, action=argparse.BooleanOptionalAction, help="hrnet: mirror and average")
    flag("--batch", default=16, type=int, help="hrnet: crops at a time where the boxes are known before")
    flag("--device", default="", help="hrnet: cpu, cuda, cuda:1 ...; empty: CUDA where there is one")
    take = commands.add_parser("import", help="convert a public pose file", **style).add_argument
    take("format", choices=IMPORTERS)
    take("file", help="the pickle or index; smarthome: a json or a folder of them")
    take("--keypoints", default="", help="k400: the kpfile, or the folder of them")
    for add in (flag, take):
        add("--out", required=True, help="folder of the pose files, <clip id>.npz")
        add("--overwrite", action="store_true", help="make again what is there")
    args = vars(parser.parse_args(argv))
    try:
        if args.pop("command") == "extract":
            return run_extract(**args)
        jobs = IMPORTERS[args["format"]](args["file"], args["keypoints"])
        run_jobs(jobs, next(jobs), args["out"], args["overwrite"])
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
