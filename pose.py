"""Pose clips: where they come from, what their files hold, and the heatmaps and pictures made of them.

Both papers read 2D joints beside the video. This file makes them from videos (HRNet in raw PyTorch, or an off-the-shelf
extractor behind the same wrapper) and converts the public pose files. It knows no other file of this repository.

    paper section            | what                        | here                                   | tests/test_pose.py
    PeVL Sec. 4, data        | joints of every frame       | extract, EXTRACTORS, HRNet             | test_hrnet_*, test_extract_*
    PeVL Sec. 4, data        | ready pose files            | import_pyskl, import_k400, import_smarthome | test_import_*
    ViLP Sec. 3, PeVL Tab. 9 | heatmap of a frame          | gaussian_heatmaps                      | test_heatmaps_*

Letters: T frames of a clip, J joints, (H, W) the frame in pixels; in HRNet N crops, (h, w) a heatmap. A joint is (x, y) in
pixels, x to the right, y down, and (0, 0) is the centre of the top left pixel. A score of 0 means: this joint is not there.
"""
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import ImageDraw

# ------------------------------------------------------------------------------------------- joint sets


@dataclass(frozen=True)
class JointSet:
    """The joints of a skeleton in file order, and what follows from their meaning."""
    names: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]       # joints that change places when the picture is mirrored
    bones: tuple[tuple[int, int], ...]            # lines of the drawn skeleton
    to_coco17: tuple[int, ...]                    # source joint of each COCO-17 joint

    @property
    def flip_index(self):
        """Permutation (J,): joint j of a mirrored clip is joint flip_index[j] of the clip."""
        order = list(range(len(self.names)))
        for a, b in self.flip_pairs:
            order[a], order[b] = b, a
        return order


def _sides(*parts):
    return tuple(f"{side}_{part}" for part in parts for side in ("left", "right"))


JOINT_SETS = {
    # the order of the COCO keypoint challenge, of HRNet and of every pyskl file
    "coco17": JointSet(
        ("nose",) + _sides("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle"),
        tuple((j, j + 1) for j in range(1, 17, 2)),
        ((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
         (0, 1), (0, 2), (1, 3), (2, 4)),
        tuple(range(17))),
    # Toyota-Smarthome's LCR-Net++ files: from the feet up, right before left; the head stands for the whole face
    "smarthome13": JointSet(
        tuple(f"{side}_{part}" for part in ("ankle", "knee", "hip", "wrist", "elbow", "shoulder")
              for side in ("right", "left")) + ("head",),
        tuple((j, j + 1) for j in range(0, 12, 2)),
        ((0, 2), (2, 4), (1, 3), (3, 5), (4, 5), (4, 10), (5, 11), (10, 11), (6, 8), (8, 10), (7, 9), (9, 11), (12, 10),
         (12, 11)),
        (12, 12, 12, 12, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)),
}


def joint_set(names):
    """The JointSet whose joints are called `names`, in that order."""
    for known in JOINT_SETS.values():
        if tuple(names) == known.names:
            return known
    raise ValueError(f"unknown joints {tuple(names)}. Expected the {len(names)} names of one of "
                     + ", ".join(f"{key} ({len(s.names)} joints)" for key, s in JOINT_SETS.items())
                     + ". For another skeleton add a JointSet to pose.JOINT_SETS.")


def to_coco17(keypoints, scores, joints):
    """Any known joint set -> COCO-17: keypoints (..., J, 2) -> (..., 17, 2), scores (..., J) -> (..., 17)."""
    source = list(joint_set(joints).to_coco17)
    return keypoints[..., source, :], scores[..., source]


# ------------------------------------------------------------------------------------------- pose files


@dataclass
class PoseClip:
    """One person through one clip, as it lies in `<clip id>.npz`.

    keypoints (T, J, 2) float32 pixels of the frame; scores (T, J) float32 >= 0, 0 = missing; size (H, W) of the frame;
    times (T,) float64 seconds, ascending, on the video's own clock; joints J names; extractor: who found them.
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
        self.joints, self.extractor = tuple(str(name) for name in self.joints), str(self.extractor)

    def check(self, where):
        """Raise a ValueError that names `where` unless the arrays keep the promises above."""
        T, J = self.scores.shape if self.scores.ndim == 2 else (-1, -1)
        rules = [
            (self.keypoints.shape == (T, J, 2) and T > 0, "keypoints (T, J, 2) and scores (T, J) with T > 0",
             f"{self.keypoints.shape} and {self.scores.shape}"),
            (self.times.shape == (T,), f"times ({T},)", f"{self.times.shape}"),
            (len(self.joints) == J, f"{J} joint names", f"{len(self.joints)}"),
            (len(self.size) == 2 and min(self.size, default=0) > 0, "size (H, W), both positive", f"{self.size}"),
            (np.isfinite(self.keypoints).all() and np.isfinite(self.scores).all(), "finite numbers", "NaN or infinity"),
            ((self.scores >= 0).all(), "scores >= 0", f"{self.scores.min(initial=0)}"),
            (np.isfinite(self.times).all() and (np.diff(self.times) >= 0).all(), "ascending, finite times", "others")]
        for holds, expected, found in rules:
            if not holds:
                raise ValueError(f"bad pose clip {where}: found {found}. Expected {expected}. Make the file again with "
                                 "`python pose.py extract` or `python pose.py import` and --overwrite.")
        return self


def read_pose(path):
    """`<clip id>.npz` -> PoseClip, checked. Nothing but plain arrays is ever unpacked."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no pose file {path}. Expected one .npz per clip. Make it from the video with `python "
                                f"pose.py extract VIDEO --out {path.parent}` or convert a public pose file with `python "
                                f"pose.py import FORMAT FILE --out {path.parent}`.")
    try:
        with np.load(path, allow_pickle=False) as file:
            clip = PoseClip(**{name: file[name] for name in ("keypoints", "scores", "size", "times", "joints")},
                            extractor=file["extractor"] if "extractor" in file else "")
    except Exception as error:                    # a cut zip, a missing array, an array of Python objects ...
        raise ValueError(f"cannot read pose file {path}: {error}. Expected an .npz with keypoints, scores, size, times "
                         "and joints. Delete it and make it again with `python pose.py extract`.") from error
    return clip.check(str(path))


def write_pose(path, keypoints, scores, size, times, joints, extractor=""):
    """Write `<clip id>.npz` under its final name only when it is whole; equal input gives equal bytes."""
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"pose file {path} ends in {path.suffix!r}. Expected .npz. Give <folder>/<clip id>.npz.")
    clip = PoseClip(keypoints, scores, size, times, joints, extractor).check(str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            np.savez_compressed(file, keypoints=clip.keypoints, scores=clip.scores, size=np.asarray(clip.size, np.int64),
                                times=clip.times, joints=np.array(clip.joints), extractor=np.array(clip.extractor))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


# ------------------------------------------------------------------------------------------- heatmaps and drawings


def gaussian_heatmaps(keypoints, scores, size, sigma):
    """exp(-|pixel - joint|^2 / (2 sigma^2)): the input of ViLP's pose tower and the target of HRNet.

    keypoints (..., J, 2) pixels of a frame of `size` (H, W), scores (..., J), sigma in pixels (HRNet 2)
    -> (..., J, H, W) float32: 1 at a joint that lies on a pixel, all 0 for a joint with score 0.
    ViLP's frame heatmap is the maximum over joints: gaussian_heatmaps(...).amax(-3).
    """
    keypoints = torch.as_tensor(keypoints, dtype=torch.float32)
    seen = torch.as_tensor(scores, device=keypoints.device) > 0
    H, W = size
    fall = [torch.exp(-(torch.arange(n, device=keypoints.device) - keypoints[..., axis, None]) ** 2 / (2 * sigma ** 2))
            for axis, n in ((0, W), (1, H))]                           # (..., J, W), (..., J, H): it is separable
    fall[1] = torch.where(seen[..., None], fall[1], 0.0)               # where, so that even a NaN joint gives 0
    return torch.where(seen[..., None, None], fall[1][..., :, None] * fall[0][..., None, :], 0.0)


SIDE_COLOURS = {"left": (255, 140, 0), "right": (0, 160, 255), "": (60, 220, 90)}


def draw_skeleton(image, keypoints, scores, joints, threshold=0.3):
    """Copy of the PIL image with the person's bones and joints: left orange, right blue, between them green.

    keypoints (J, 2) pixels, scores (J,); joints at or below `threshold` are left out.
    """
    image = image.convert("RGB").copy()
    draw, skeleton = ImageDraw.Draw(image), joint_set(joints)
    seen = np.asarray(scores) > threshold
    points = [tuple(float(v) for v in point) for point in np.asarray(keypoints)]
    side = [name.split("_")[0] if "_" in name else "" for name in skeleton.names]
    width = max(1, round(min(image.size) / 180))
    for a, b in skeleton.bones:
        if seen[a] and seen[b]:
            draw.line([points[a], points[b]], SIDE_COLOURS[side[a] if side[a] == side[b] else ""], width)
    for j in np.flatnonzero(seen):
        (x, y), r = points[j], 1.2 * width
        draw.ellipse([x - r, y - r, x + r, y + r], SIDE_COLOURS[side[j]])
    return image
