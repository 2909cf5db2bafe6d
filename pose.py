"""Pose clips: where they come from, what their files hold, and the heatmaps made of them.

Both papers read 2D joints beside the video. This file makes them from videos, by HRNet in raw
PyTorch or an off-the-shelf extractor behind the same wrapper, and converts public pose files.

    paper section            | what                  | here                        | test_pose.py
    PeVL Sec. 4, data        | joints of every frame | extract, EXTRACTORS, HRNet  | test_hrnet_*
    PeVL Sec. 4, data        | ready pose files      | IMPORTERS                   | test_import_*
    ViLP Sec. 3, PeVL Tab. 9 | heatmap of a frame    | gaussian_heatmaps           | test_heatmaps_*

Letters: T frames of a clip, J joints, M persons, (H, W) the frame; in HRNet N crops, (h, w) a crop
or a heatmap. A joint is (x, y) in pixels, (0, 0) the centre of the top left one; score 0: it is not
there. A box is x0, y0, x1, y1. Launch: `python pose.py extract|import ... --out poses/`."""
import argparse
import csv
import difflib
import hashlib
import importlib
import json
import os
import pickle
import re
import sys
import time
import urllib.request
from contextlib import suppress
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

from support.files import atomic

# ---------------------------------------------------------------------------- joint sets
@dataclass(frozen=True)
class JointSet:
    names: tuple[str, ...]                        # in the order of the files
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
    "coco17": JointSet(           # of the COCO challenge, of HRNet and of every pyskl file
        ("nose", *_sides("left", "right", "eye ear shoulder elbow wrist hip knee ankle")),
        tuple((j, j + 1) for j in range(1, 17, 2)),
        ((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8),
         (7, 9), (8, 10), (0, 1), (0, 2), (1, 3), (2, 4)), tuple(range(17))),
    "smarthome13": JointSet(      # Toyota-Smarthome: right before left; the head is the whole face
        (*_sides("right", "left", "ankle knee hip wrist elbow shoulder"), "head"),
        tuple((j, j + 1) for j in range(0, 12, 2)),
        ((0, 2), (2, 4), (1, 3), (3, 5), (4, 5), (4, 10), (5, 11), (10, 11), (6, 8), (8, 10),
         (7, 9), (9, 11), (12, 10), (12, 11)), (12,) * 5 + tuple(range(11, -1, -1))),
}

def joint_set(names):
    """The JointSet whose joints are called `names`, in that order."""
    for known in JOINT_SETS.values():
        if tuple(names) == known.names:
            return known
    raise ValueError(f"unknown joints {tuple(names)}. Expected those of {' or '.join(JOINT_SETS)}. "
                     "For another skeleton add a JointSet to pose.JOINT_SETS.")

def to_coco17(keypoints, scores, joints):
    """Any known joint set -> COCO-17: keypoints (..., J, 2), scores (..., J) with J = 17."""
    source = list(joint_set(joints).to_coco17)
    return keypoints[..., source, :], scores[..., source]

# ---------------------------------------------------------------------------- pose files
REMAKE = "Make it: `python pose.py extract|import ... --overwrite`."
class BrokenClip(ValueError):
    """A fault of one clip: it is listed, and the run goes on."""

@dataclass
class PoseClip:
    """One person through one clip, as it lies in `<clip id>.npz`."""
    keypoints: np.ndarray         # (T, J, 2) float32, pixels of the frame
    scores: np.ndarray            # (T, J) float32, 0 = missing
    size: tuple[int, int]         # (H, W) of the frame
    times: np.ndarray             # (T,) float64, seconds on the video's clock, or all NaN: unknown
    joints: tuple[str, ...]       # J names
    extractor: str = ""           # who found them
    def __post_init__(self):
        self.keypoints, self.scores = np.float32(self.keypoints), np.float32(self.scores)
        self.times = np.atleast_1d(np.float64(self.times))
        self.size = tuple(int(n) for n in np.asarray(self.size).ravel())
        self.joints, self.extractor = tuple(map(str, self.joints)), str(self.extractor)
    def clock(self, instants):
        """Seconds (T,) since the first row; unknown times lie evenly over a video's instants."""
        if not np.isnan(self.times).any():
            return self.times - self.times[0]
        even = np.linspace(0, len(instants) - 1, len(self.times))
        return np.interp(even, np.arange(len(instants)), instants)
    def check(self, where):
        """Raise a ValueError that names `where` unless the arrays keep the promises above."""
        T, J = self.scores.shape if self.scores.ndim == 2 else (0, 0)
        t, xy, score = self.times, self.keypoints, self.scores
        if not (xy.shape == (T, J, 2) and t.shape == (T,) and T > 0 and len(self.joints) == J
                and len(self.size) == 2 and min(self.size) > 0 and np.isfinite(xy).all()
                and np.isfinite(score).all() and (score >= 0).all()
                and (np.isnan(t).all() or np.isfinite(t).all() and (np.diff(t) >= 0).all())):
            raise BrokenClip(
                f"bad pose clip {where}: keypoints {xy.shape} scores {score.shape} times {t.shape} "
                f"size {self.size}, J {len(self.joints)}. Expected finite (T, J, 2), (T, J) >= 0, "
                f"(T,) ascending or all NaN, (H, W), J. {REMAKE}")
        return self

def read_pose(path):
    """`<clip id>.npz` -> PoseClip, checked. Nothing but plain arrays is ever unpacked."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no pose file {path}. Expected one per clip. {REMAKE}")
    try:
        with np.load(path, allow_pickle=False) as file:
            clip = PoseClip(**{field.name: file[field.name] for field in fields(PoseClip)})
    except Exception as error:                    # a cut zip, a missing array, Python objects ...
        raise ValueError(f"bad pose file {path}: {error}. Expected arrays. {REMAKE}") from error
    return clip.check(path)

def write_pose(path, keypoints, scores, size, times, joints, extractor=""):
    """Write `<clip id>.npz`, whole or not at all; equal input gives equal bytes."""
    if Path(path).suffix != ".npz":
        raise ValueError(f"pose file {path}. Expected an ending .npz. Give <folder>/<clip id>.npz.")
    clip = PoseClip(keypoints, scores, size, times, joints, extractor).check(path)
    with atomic(path) as part, open(part, "wb") as file:
        np.savez_compressed(file, **{name: np.asarray(value) for name, value in vars(clip).items()})
    return Path(path)

# ---------------------------------------------------------------------------- heatmaps, drawing
def gaussian_heatmaps(keypoints, scores, size, sigma):
    """exp(-|pixel - joint|^2 / (2 sigma^2)): ViLP's pose picture, and HRNet's target (sigma 2).

    keypoints (..., J, 2) pixels of a frame of `size` (H, W), scores (..., J), sigma in pixels ->
    (..., J, H, W) float32: 1 at a joint that lies on a pixel, 0 all over for a joint with score 0.
    ViLP reads the maximum over joints, gaussian_heatmaps(...).amax(-3)."""
    keypoints = torch.as_tensor(keypoints, dtype=torch.float32)
    seen = torch.as_tensor(scores, device=keypoints.device)[..., None] > 0
    falls = []                                    # separable: columns (..., J, W), rows (..., J, H)
    for axis, length in enumerate(size[::-1]):
        away = torch.arange(length, device=keypoints.device) - keypoints[..., axis, None]
        falls.append(torch.where(seen, torch.exp(-away ** 2 / (2 * sigma ** 2)), 0.0))
    return falls[1][..., :, None] * falls[0][..., None, :]

SIDE_COLOURS = {"left": (255, 140, 0), "right": (0, 160, 255)}
def draw_skeleton(image, keypoints, scores, joints, threshold=0.3):
    """Copy of the PIL image with keypoints (J, 2) of scores (J,) above `threshold` and their bones:
    left orange, right blue, between them green."""
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

# ---------------------------------------------------------------------------- HRNet
# Branches of 1/4, 1/8, 1/16 and 1/32 resolution run side by side and exchange their maps after
# every module (Sun et al., CVPR 2019). Names are those of the published checkpoints.
def conv_bn(c_in, c_out, kernel, stride=1, relu=True):
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), *[nn.ReLU()][:relu])

class Residual(nn.Module):
    """x + convolutions(x): kernels (3, 3) are ResNet's basic block, (1, 3, 1) its bottleneck."""
    def __init__(self, c_in, c_mid, c_out, kernels):
        super().__init__()
        self.depth, widths = len(kernels), [c_in] + [c_mid] * (len(kernels) - 1) + [c_out]
        for i, kernel in enumerate(kernels, 1):
            conv, bn, _ = conv_bn(widths[i - 1], widths[i], kernel)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", bn)
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
        self.fuse_layers = nn.ModuleList(nn.ModuleList(
            self._path(widths, i, j) for j in range(len(widths))) for i in range(outputs))
    @staticmethod
    def _path(widths, i, j):
        """From branch j to the resolution and width of branch i."""
        if j >= i:
            up = nn.Upsample(scale_factor=2 ** (j - i), mode="nearest")
            thin = conv_bn(widths[j], widths[i], 1, relu=False)
            return nn.Sequential(*thin, up) if j > i else nn.Identity()
        steps = [conv_bn(widths[j], widths[j], 3, 2) for _ in range(i - j - 1)]
        return nn.Sequential(*steps, conv_bn(widths[j], widths[i], 3, 2, relu=False))
    def forward(self, xs):
        ys = [branch(x) for branch, x in zip(self.branches, xs)]
        return [F.relu(sum(path(y) for path, y in zip(row, ys))) for row in self.fuse_layers]

class HRNet(nn.Module):
    """Crops (N, 3, h, w), RGB, normalised, h and w multiples of 32 -> heatmaps (N, J, h/4, w/4)."""
    def __init__(self, width=32, joints=17):
        super().__init__()
        self.input_size = (256, 192)              # h, w of the crops; load_hrnet sets it
        c, same = [width, 2 * width, 4 * width, 8 * width], nn.Identity()
        self.conv1, self.bn1 = conv_bn(3, 64, 3, 2, relu=False)
        self.conv2, self.bn2 = conv_bn(64, 64, 3, 2, relu=False)
        self.layer1 = nn.Sequential(*[Residual(n, 64, 256, (1, 3, 1)) for n in (64, 256, 256, 256)])
        new = [nn.Sequential(conv_bn(n, m, 3, 2)) for n, m in zip((256, c[1], c[2]), c[1:])]
        self.transition1 = nn.ModuleList([conv_bn(256, c[0], 3), new[0]])
        self.stage2 = nn.Sequential(Exchange(c[:2], 2))
        self.transition2 = nn.ModuleList([same, same, new[1]])
        self.stage3 = nn.Sequential(*[Exchange(c[:3], 3) for _ in range(4)])
        self.transition3 = nn.ModuleList([same, same, same, new[2]])
        self.stage4 = nn.Sequential(*[Exchange(c, outputs) for outputs in (4, 4, 1)])
        self.final_layer = nn.Conv2d(c[0], joints, 1)
    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))                                # (N, 64, h/2, w/2)
        x = F.relu(self.bn2(self.conv2(x)))                                # (N, 64, h/4, w/4)
        xs = [self.layer1(x)]                                              # (N, 256, h/4, w/4)
        for i in (1, 2, 3):                       # one branch more each time, made from the last
            moves = getattr(self, f"transition{i}")
            xs = [move(xs[min(b, len(xs) - 1)]) for b, move in enumerate(moves)]
            xs = getattr(self, f"stage{i + 1}")(xs)
        return self.final_layer(xs[0])                                     # (N, J, h/4, w/4)

# ---------------------------------------------------------------------------- weights
MMPOSE = "https://download.openmmlab.com/mmpose/v1/body_2d_keypoint/topdown_heatmap/coco/td-hm_"
WEIGHTS = {   # the 8 hex digits before the date are the first of the file's SHA-256
    "w32_256x192": MMPOSE + "hrnet-w32_8xb64-210e_coco-256x192-81c58e40_20220909.pth",
    "w32_384x288": MMPOSE + "hrnet-w32_8xb64-210e_coco-384x288-ca5956af_20220909.pth",
    "w48_256x192": MMPOSE + "hrnet-w48_8xb32-210e_coco-256x192-0e67c616_20220913.pth",
    "w48_384x288": MMPOSE + "hrnet-w48_8xb32-210e_coco-384x288-c161b7de_20220915.pth",
}

def download(url):
    """File of the cache folder, fetched once; its SHA-256 must begin as the name in `url` says."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = Path(os.environ.get("PEVL_CACHE") or home / "pevl") / url.rsplit("/", 1)[1]
    if path.is_file():
        return path
    begins, digest = re.search(r"-([0-9a-f]{8})_\d+\.pth$", url)[1], hashlib.sha256()
    try:
        with atomic(path) as part:
            with urllib.request.urlopen(url, timeout=60) as source, open(part, "wb") as file:
                while block := source.read(1 << 20):
                    file.write(block)
                    digest.update(block)
                    print(f"\r{path.name} {file.tell() >> 20} MiB ", end="", file=sys.stderr)
            if not digest.hexdigest().startswith(begins):
                raise OSError(f"its SHA-256 is {digest.hexdigest()}")
    except OSError as error:
        raise ValueError(f"cannot download {url}: {error}. Expected SHA-256 {begins}... Try again, "
                         "or fetch it by hand and give its path.") from error
    return path

class Inert:
    """Stands for the classes that a checkpoint names beside its tensors; does nothing."""
    __init__ = __setstate__ = lambda self, *args, **kwargs: None

def read_checkpoint(path):
    """Tensors are read, no code is run: mmpose keeps objects of other classes beside them."""
    try:
        names = []
        with suppress(ValueError):                # files from before PyTorch 1.6 have no list
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(Inert, name) for name in names]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"cannot read {path}: {error}. Expected weights. Fetch them.") from error

def load_hrnet(name_or_path, input_size=None):
    """HRNet of a name in WEIGHTS, or of a file in the official or mmpose's naming; float32, eval.
    input_size (h, w) of the crops: by default as the name says, else 256 x 192."""
    known, path = ", ".join(WEIGHTS), Path(name_or_path)
    if name_or_path in WEIGHTS:
        path = download(WEIGHTS[name_or_path])
    elif not path.is_file():
        near = difflib.get_close_matches(str(name_or_path), WEIGHTS, 1) or ["a path"]
        raise FileNotFoundError(f"no HRNet weights {str(name_or_path)!r}. Expected a file, or one "
                                f"of {known}. Did you mean {near[0]}?")
    found, state = read_checkpoint(path), {}
    for key, value in (found.get("state_dict", found) if isinstance(found, dict) else {}).items():
        if not key.startswith("data_preprocessor."):
            state[re.sub(r"^(module\.)?(backbone\.|keypoint_head\.|head\.)?", "", key)] = value
    final = state.get("final_layer.weight", torch.empty(17, 32))      # ImageNet's weights have none
    model = HRNet(*reversed(final.shape[:2]))
    wanted = model.state_dict()                   # older files have no counters; nothing reads them
    state = {key: torch.tensor(0) for key in wanted if key.endswith("_tracked")} | state
    have, need = ({key: tuple(x.shape) for key, x in part.items()} for part in (state, wanted))
    faults = [f"{key}: {have.get(key, 'missing')}, not {need.get(key, 'expected')}"
              for key in sorted(have | need) if have.get(key) != need.get(key)]
    if faults:
        raise ValueError(f"{path}: {len(faults)} keys do not fit: {'; '.join(faults[:8])}. "
                         f"Expected HRNet's weights for poses. Take one of {known}.")
    model.load_state_dict(state)
    said = re.search(r"(\d{3})x(\d{3})", path.name)
    model.input_size = input_size or (tuple(map(int, said.groups())) if said else (256, 192))
    return model.float().eval()

# ---------------------------------------------------------------------------- crop, decode
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)   # of ImageNet, RGB
def crop_rule(boxes, size):
    """Boxes (N, 4) -> centres (N, 2) and widths (N,) in the frame of crops of the shape of `size`.

    The crop holds the box, has the aspect of (h, w), and 1.25 times the room. Crop pixel (u, v)
    shows the frame at centre + ((u, v) - (w, h) / 2) * width / w."""
    side = boxes[:, 2:] - boxes[:, :2]
    width = 1.25 * torch.maximum(side[:, 0], side[:, 1] * size[1] / size[0])
    return (boxes[:, :2] + boxes[:, 2:]) / 2, width

def crop_people(frames, boxes, size, device="cpu"):
    """N uint8 frames (H, W, 3), boxes (N, 4) -> HRNet's input (N, 3, h, w); black beyond."""
    centres, widths = crop_rule(boxes, size)
    crops = torch.empty(len(boxes), 3, *size, device=device)
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
    """Heatmaps (N, J, h, w), boxes (N, 4) -> keypoints (N, J, 2) in the frame, scores (N, J).

    The highest pixel, moved by a quarter pixel towards its higher neighbour in x and in y unless it
    lies within one pixel of the edge. The score is its height, 0 where nothing is positive."""
    (h, w), flat = heatmaps.shape[2:], heatmaps.flatten(2)
    scores, top = flat.max(-1)                                             # (N, J)
    x, y = top % w, top // w
    inside = (x > 1) & (x < w - 1) & (y > 1) & (y < h - 1)
    top = torch.where(inside, top, w + 1)[..., None]                       # any with neighbours
    rise = torch.cat([flat.gather(2, top + n) - flat.gather(2, top - n) for n in (1, w)], -1)
    spot = torch.stack([x, y], -1) + 0.25 * rise.sign() * inside[..., None]            # (N, J, 2)
    spot = spot * (scores > 0)[..., None] - spot.new_tensor([w, h]) / 2
    centres, widths = crop_rule(boxes.to(heatmaps.device), (h, w))
    return centres[:, None] + spot * (widths / w)[:, None, None], scores.clamp(min=0)

def predict_heatmaps(model, crops, flip=True):
    """Heatmaps (N, J, h, w); with `flip`, the mean with those of the mirrored crops, mirrored back
    and moved right by one pixel: the middle of a crop is pixel w / 2, so u is mirrored to w - u."""
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
    found = decode_heatmaps(predict_heatmaps(model, crops, flip), boxes)
    return tuple(x.cpu().numpy() for x in found)

# ---------------------------------------------------------------------------- boxes, tracks
def joint_boxes(keypoints, scores, threshold=0.0):
    """keypoints (..., J, 2), scores (..., J) -> (..., 5): box of the joints above `threshold`, mean
    score of all joints; score 0 where less than two are seen."""
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
    """T arrays (n, 5) of box and score -> (T,): which box of a frame is the clip's person, or -1.

    Each box joins the track whose last box, at most `patience` frames old, it overlaps most; others
    begin tracks. The person is the track with the largest mean score x area over the whole clip,
    absent frames counted as 0, so that nobody wins by passing close to the camera."""
    tracks = []                                   # {"box", "t" of that box, "weight", "at": {t: n}}
    for t, now in enumerate(boxes):
        joined, free = {}, [n for n in range(len(now)) if now[n, 4] > 0]
        live = [track for track in tracks if t - track["t"] <= patience]
        fit = overlaps(np.array([track["box"] for track in live]).reshape(-1, 5), now)
        for k, n in zip(*np.unravel_index(np.argsort(-fit, axis=None, kind="stable"), fit.shape)):
            if fit[k, n] >= overlap and n in free and live[k]["t"] < t:
                free.remove(n)
                live[k]["t"], joined[n] = t, live[k]
        tracks += [joined.setdefault(n, {"t": t, "weight": 0.0, "at": {}}) for n in free]
        for n, track in joined.items():
            x0, y0, x1, y1, score = track["box"] = now[n]
            track["weight"] += score * (x1 - x0) * (y1 - y0)
            track["at"][t] = n
    best = max(tracks, key=lambda track: track["weight"], default={"at": {}})["at"]
    return np.array([best.get(t, -1) for t in range(len(boxes))], int)

def one_person(keypoints, scores):
    """Persons without order, (M, T, J, 2) and (M, T, J) -> the clip's person (T, J, 2), (T, J)."""
    (M, T), clean = np.shape(scores)[:2], partial(np.nan_to_num, posinf=0, neginf=0)
    keypoints, scores = clean(np.float32(keypoints)), clean(np.float32(scores))
    if M < 2:                                     # no choice: a cut does not break the track
        return keypoints.sum(0), scores.sum(0)
    picks = link_people(joint_boxes(keypoints, scores).swapaxes(0, 1))
    there = (picks >= 0)[:, None]
    return keypoints[picks, range(T)] * there[..., None], scores[picks, range(T)] * there

# ---------------------------------------------------------------------------- extractors
# An extractor is a function (frames, **options) -> keypoints (T, J, 2) in pixels, scores (T, J) in
# EXTRACTORS, with the name of its joint set. `frames` gives uint8 RGB arrays (H, W, 3), and can be
# gone through more than once; the options are the command line's.
_cached = lru_cache(4)(lambda make, *args, **kwargs: make(*args, **kwargs))

def _extra(module, package):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"cannot import {module}: {error}. Expected the optional package "
                         f"{package}. Run `pip install '{package}'`.") from error

def hrnet(frames, weights="w32_256x192", detector="track", boxes="", flip=True, batch=8, device=""):
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
            joints = look(list(waiting.values()), [chosen[i] for i in waiting])
            found, waiting = found | dict(zip(waiting, zip(*joints))), {}
    return tuple(np.stack(part) for part in zip(*found.values()))

def follow(frames, look):
    """Boxes from HRNet's own joints: those of the frame before or, at the start and when someone
    is lost, the whole frame, refined twice. Where fewer than 4 joints are seen is nobody."""
    def refine(frame, box, looks):
        for _ in range(looks):
            (keypoints,), (scores,) = look([frame], [box])
            if (scores > 0.2).sum() < 4:
                return keypoints, 0 * scores, None
            box = joint_boxes(keypoints, scores, 0.2)[:4]
            room = 0.1 * (box[2:] - box[:2]).max()            # a person is larger than the joints
            box = box + [-room, -room, room, room]
        return keypoints, scores, box

    box, found = None, []
    for frame in frames:
        one = (None, None, None) if box is None else refine(frame, box, 1)
        if one[2] is None:
            one = refine(frame, np.array([0, 0, frame.shape[1] - 1, frame.shape[0] - 1]), 3)
        box = one[2]
        found.append(one[:2])
    return tuple(np.stack(part) for part in zip(*found))

@torch.inference_mode()
def detect_people(frames, device):
    """Faster R-CNN of torchvision: T arrays (n, 5) of persons' boxes and scores, from 0.5 up."""
    make = _extra("torchvision.models.detection", "torchvision").fasterrcnn_resnet50_fpn
    model, boxes = _cached(make, weights="DEFAULT").eval().to(device), []
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
                row["score"] = row.get("score") or 1
                box = [float(row[key]) for key in ("x0", "y0", "x1", "y1", "score")]
                clips.setdefault(row["clip"], {}).setdefault(int(row["frame"]), []).append(box)
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {rows.line_num}: {dict(row)}. Expected numbers for "
                                 "clip,frame,x0,y0,x1,y1[,score]. Correct the line.") from error
    return {clip: [np.reshape(frames.get(t, []), (-1, 5)) for t in range(max(frames) + 1)]
            for clip, frames in clips.items()}

def mediapipe_pose(frames, **options):
    """Google's BlazePose: one person, tracked by itself, nothing to fetch; score = visibility."""
    coco17, points = (0, 2, 5, 7, 8, *range(11, 17), *range(23, 29)), []   # of its 33 landmarks
    with _extra("mediapipe.python.solutions.pose", "mediapipe==0.10.21").Pose() as model:
        for frame in frames:
            found = model.process(frame).pose_landmarks
            marks = [found.landmark[j] for j in coco17] if found else []
            points.append([(m.x, m.y, m.visibility) for m in marks] or np.zeros((17, 3)))
    points = np.array(points)
    return points[..., :2] * (frame.shape[1], frame.shape[0]) - 0.5, points[..., 2]

EXTRACTORS = {"hrnet": (hrnet, "coco17"), "mediapipe": (mediapipe_pose, "coco17")}

# ---------------------------------------------------------------------------- video -> pose clip
class Video:
    """The frames of a file, upright, one at a time, as often as asked; then `size` and `times`."""
    def __init__(self, path):
        self.path, self.clip, self.size, self.times, self.rate = path, Path(path).stem, None, [], 25
    def __iter__(self):
        self.times, convert = [], VideoReformatter()
        try:
            with av.open(os.path.abspath(self.path)) as container:
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
            raise BrokenClip(f"cannot decode {self.path}: {error}. Expected a whole video file. "
                             "Fetch it again.") from error

def extract(video, extractor="hrnet", **options):
    """A video file -> PoseClip of the person in it; options go to the extractor, see EXTRACTORS."""
    if extractor not in EXTRACTORS:
        raise ValueError(f"no extractor {extractor!r}. Expected {' or '.join(EXTRACTORS)}. Add "
                         "another one to pose.EXTRACTORS.")
    frames, (find, joints) = Video(video), EXTRACTORS[extractor]
    found = find(frames, **options)
    names = JOINT_SETS[joints].names
    return PoseClip(*found, frames.size, frames.times, names, extractor).check(video)

def write_overlay(path, video, clip):
    """The video with the skeleton drawn on it: h264 in mp4, at most 720 pixels on a side."""
    frames, stream = Video(video), None
    with atomic(path) as part, av.open(str(part), "w", format="mp4") as container:
        for frame, keypoints, scores in zip(frames, clip.keypoints, clip.scores):
            image = draw_skeleton(Image.fromarray(frame), keypoints, scores, clip.joints)
            shrink = min(1, 720 / max(image.size))
            image = image.resize([max(2, round(n * shrink / 2) * 2) for n in image.size])
            if stream is None:
                stream = container.add_stream("libx264", rate=frames.rate)
                (stream.width, stream.height), stream.pix_fmt = image.size, "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())

# ---------------------------------------------------------------------------- public pose files
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
    "builtins.bytes": lambda: b"", "_codecs.encode": lambda text, code: text.encode("latin1"),
    "collections.OrderedDict": dict,
}

class PlainUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        name = f"{module}.{name}".replace("numpy._", "numpy.").replace("__builtin__", "builtins")
        if name not in PLAIN:
            raise pickle.UnpicklingError(f"it asks for {name}")
        return PLAIN[name]

def load_plain(path):
    """Unpickle arrays and containers, and nothing else. Large arrays are not copied."""
    with open(path, "rb") as file:
        try:
            return PlainUnpickler(file).load()
        except Exception as error:                # a cut or foreign pickle fails in any way
            raise ValueError(f"cannot read {path}: {error}. Expected arrays in plain containers; "
                             "nothing else was run. Get it from its owner.") from error

def _annotations(path, *wanted):
    """Number of annotations of a pyskl pickle, then the annotations, freed as they are given."""
    found = load_plain(path)
    found = found.get("annotations") if isinstance(found, dict) else None
    if type(found) is not list or not all(type(a) is dict and {*wanted} <= a.keys() for a in found):
        raise ValueError(f"{path} lists no {', '.join(wanted)}. Expected a pyskl pickle. Use "
                         "`import k400` for the index of Kinetics, `import pyskl` for the others.")
    yield len(found)
    while found:
        yield found.pop()

def clip_id(name):
    """The name that data.py looks for: no folder, no ending, FineGym's ids spelled in full."""
    name = re.sub(r"\.(mp4|avi|mkv|webm|mov)$", "", re.split(r"[/\\]", str(name))[-1])
    return re.sub(r"^(.{11})_(?:E_)?(\d{6}_\d{6})_(?:A_)?(\d{4}_\d{4})$", r"\1_E_\2_A_\3", name)

def public_clip(read, entry, path, joints="coco17", origin="pyskl"):
    """read(entry) = (M, T, J, 2), (M, T, J), (H, W) -> PoseClip of one person, at unknown times."""
    try:
        keypoints, scores, size = read(entry)
        keypoints, scores = one_person(keypoints, scores)
        times, names = np.full(len(scores), np.nan), JOINT_SETS[joints].names
        return PoseClip(keypoints, scores, size, times, names, origin)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BrokenClip(f"bad entry of {path}: {error!r}. Expected joints of persons in frames. "
                         "Fetch it again.") from error

# An importer yields the number of clips, then for each its id and a function that makes it.
def import_pyskl(path, keypoints):
    """One pickle with every clip: persons in the detector's order, which changes between frames."""
    annotations = _annotations(path, "keypoint", "img_shape", "frame_dir")

    def read(item):
        xy = np.asarray(item["keypoint"])
        scores = item.get("keypoint_score", xy[..., 2] if xy.shape[-1] > 2 else xy.any(-1))
        return xy[..., :2], scores, item["img_shape"]

    yield next(annotations)
    for item in annotations:
        yield clip_id(item["frame_dir"]), partial(public_clip, read, item, path)

def import_k400(path, keypoints):
    """Kinetics: an index, and the rows (x, y, score) of all persons in pickles of their own.
    frame_inds counts from 1, in steps. A clip is called frame_dir, the video's 11 characters."""
    annotations = _annotations(path, "frame_inds", "total_frames", "frame_dir", "img_shape")
    load = lru_cache(1)(load_plain)
    if not keypoints or not (files := Path(keypoints)).exists():
        raise FileNotFoundError(f"no file or folder {keypoints!r}. Expected the kpfiles of {path}. "
                                "Give --keypoints.")

    def read(item):
        file = files / Path(item.get("raw_file", "")).name if files.is_dir() else files
        rows = load(file)[item["frame_dir"]]["keypoint"]
        at = np.asarray(item["frame_inds"]).astype(int).ravel() - 1        # frame of each row
        step = max(1, np.gcd.reduce(np.diff(at))) if len(at) > 1 else 1
        first = at[0] % step if len(at) else 0
        at = (at - first) // step                                          # row of the pose clip
        person = np.arange(len(at)) - np.searchsorted(at, at)              # 0, 1, ... in each frame
        T = max(at.max(initial=0) + 1, -(-(int(item["total_frames"]) - first) // step))
        people = np.zeros((person.max(initial=-1) + 1, T, 17, 3), np.float32)
        people[person, at] = rows
        return people[..., :2], people[..., 2], item["img_shape"]

    yield next(annotations)
    for item in sorted(annotations, key=lambda item: item.get("raw_file", "")):   # each file once
        yield clip_id(item["frame_dir"]), partial(public_clip, read, item, path)

def import_smarthome(path, keypoints):
    """A json, or a folder of them, of Toyota-Smarthome v1.1 or v1.2: 13 x, then 13 y, a person."""
    def read(file):
        frames = json.loads(file.read_text())["frames"]
        people = np.zeros((max(map(len, frames)), len(frames), 13, 2), np.float32)
        for t, frame in enumerate(frames):
            for m, person in enumerate(frame):
                people[m, t] = np.reshape(person["pose2d"], (2, 13)).T
        seen = ~((people == 0) | (people == -1)).all(-1)                   # so they write "missing"
        return people, seen, (480, 640)

    files = sorted(Path(path).rglob("*.json")) if Path(path).is_dir() else [Path(path)]
    yield len(files)
    for file in files:
        yield file.stem.removesuffix("_pose3d"), partial(
            public_clip, read, file, file, "smarthome13", "LCR-Net++")

IMPORTERS = {"pyskl": import_pyskl, "k400": import_k400, "smarthome": import_smarthome}

# ---------------------------------------------------------------------------- command line
def run_jobs(jobs, total, out, overwrite):
    """jobs give (clip id, make), make() -> PoseClip, which goes to `<out>/<clip id>.npz`. What is
    there is skipped; what is broken is listed at the end and stops nothing."""
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
        seen, now = done + skipped + len(broken), time.time()
        if now - shown > (0.5 if live else 30) or seen == total:
            shown, spent = now, now - begin + 1e-9
            left = spent / (seen - skipped) * (total - seen) / 60
            print(f"{seen}/{total} clips  {frames / spent:.1f} frames/s  {left:.1f} min left  "
                  f"{len(broken)} broken ", file=sys.stderr, end="\r" if live else "\n")
    print(f"{done} pose clips written to {out}, {skipped} kept, {len(broken)} broken", *broken)

VIDEOS = {".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"}
def run_extract(videos, out, overwrite, shard, overlay, extractor, **options):
    files = {}
    for path in map(Path, videos):
        if not path.exists():
            raise FileNotFoundError(f"no video or folder {path}. Expected one. Check the path.")
        inside = (p for p in sorted(path.rglob("*")) if p.suffix.lower() in VIDEOS)
        for file in inside if path.is_dir() else [path]:
            if files.setdefault(file.stem, file) != file:
                raise ValueError(f"{file} and {files[file.stem]} would both make {file.stem}.npz. "
                                 "Expected different names. Rename one, or use two --out.")
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
    parser = argparse.ArgumentParser("pose.py", description="Pose files of videos or public files.")
    commands, style = parser.add_subparsers(required=True), argparse.ArgumentDefaultsHelpFormatter
    grab = commands.add_parser("extract", help="find the person in videos", formatter_class=style)
    take = commands.add_parser("import", help="convert a public file", formatter_class=style)
    flag = grab.add_argument
    flag("videos", nargs="+", help="video files, or folders of them")
    flag("--extractor", default="hrnet", choices=EXTRACTORS, help="who finds the joints")
    flag("--overlay", default="", help="folder for the videos with the skeleton drawn on")
    flag("--shard", default="0/1", help="i/n: every n-th video from the i-th, i from 0 to n - 1")
    flag("--weights", default="w32_256x192", help=f"hrnet: a file, or one of {', '.join(WEIGHTS)}")
    flag("--detector", default="track", choices=("track", "torchvision"), help="hrnet: whose boxes")
    flag("--boxes", default="", help="hrnet: csv of clip,frame,x0,y0,x1,y1[,score], frames from 0")
    flag("--flip", default=True, action=argparse.BooleanOptionalAction, help="hrnet: flip test")
    flag("--batch", default=8, type=int, help="hrnet: crops at a time, boxes given")
    flag("--device", default="", help="hrnet: cpu, cuda, cuda:1; empty: CUDA where there is one")
    take.add_argument("format", choices=IMPORTERS)
    take.add_argument("file", help="the pickle or index; smarthome: a json or a folder of them")
    take.add_argument("--keypoints", default="", help="k400: the kpfile, or the folder of them")
    for command in (grab, take):
        command.add_argument("--out", required=True, help="folder of the pose files, <clip id>.npz")
        command.add_argument("--overwrite", action="store_true", help="make again what is there")
    args = parser.parse_args(argv)
    try:
        if "videos" in args:
            return run_extract(**vars(args))
        jobs = IMPORTERS[args.format](args.file, args.keypoints)
        run_jobs(jobs, next(jobs), args.out, args.overwrite)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

if __name__ == "__main__":
    main()
