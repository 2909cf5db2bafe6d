"""Pose clips: where they come from, what their files hold, and the pictures made of them.

Both papers read 2D joints beside the video. This file makes them from videos, by HRNet or by an
off-the-shelf program behind the same wrapper, and converts public pose files; all end in the same
small format. HRNet's network lies in published/hrnet.py, the public formats in
published/pose_files.py, the choice of the one person in support/tracks.py.

paper section            | what                   | here                    | test_pose.py
                         | the format, its joints | PoseClip, JOINT_SETS    | test_pose_files_*
ViLP Sec. 3, PeVL Tab. 9 | heatmap of a frame     | gaussian_heatmaps       | test_heatmaps_*
PeVL Sec. 4.1            | joints of every frame  | extract, EXTRACTORS     | test_extract.py
                         | ready pose files       | import_clip, IMPORTERS  | test_import_*.py

Letters: T frames of a clip, J joints, N crops of one person each, (H, W) the size of a frame. A
joint is (x, y) in pixels of the frame, (0, 0) the centre of the top left pixel; score 0: it is not
there. A box is x0, y0, x1, y1, in the same pixels.

    python pose.py extract VIDEO_OR_DIR --out DIR/poses
    python pose.py import pyskl diving48_hrnet.pkl --out DIR/poses
"""
if __name__ == "__main__":                        # before PyTorch, which takes seconds to import
    import support.interrupt

import argparse
import csv
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageDraw

from published.hrnet import WEIGHTS, fold_norms, load_hrnet, predict
from published.pose_files import (IMPORTERS, MOST_FRAMES, BrokenClip, ImportOptions, VideoFacts,
                                  clip_id)
from published.pose_programs import MEDIAPIPE, mediapipe_pose, rtmlib_pose
from support.arrays import BadArrays, read_npz
from support.checks import unknown_name
from support.commands import run_command
from support.files import atomic, cache_folder
from support.packages import cached, has_package, optional_package
from support.person import person_facts, summarise
from support.processes import choose_device
from support.progress import Progress
from support.settings import Parser
from support.tracks import joint_boxes, link_people, one_person
from support.video import BROKEN, open_video, quarter_turns

# ---- Joint sets --------------------------------------------------------------------------------


@dataclass(frozen=True)
class JointSet:
    """What the joints of a skeleton are called, and how they belong together."""

    names: tuple[str, ...]                        # in the order of the files
    flip_pairs: tuple[tuple[int, int], ...]       # change places when the picture is mirrored
    bones: tuple[tuple[int, int], ...]            # lines of the drawn skeleton

    @property
    def flip_index(self):
        """List of J: joint j of a mirrored clip is joint flip_index[j] of the clip."""
        order = list(range(len(self.names)))
        for a, b in self.flip_pairs:
            order[a] = b
            order[b] = a
        return order


JOINT_SETS = {
    # Of the COCO challenge, of HRNet and of every pyskl file: left before right.
    "coco17": JointSet(
        names=(
            "nose", "left_eye", "right_eye", "left_ear", "right_ear",
            "left_shoulder", "right_shoulder", "left_elbow", "right_elbow",
            "left_wrist", "right_wrist", "left_hip", "right_hip",
            "left_knee", "right_knee", "left_ankle", "right_ankle",
        ),
        flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
        bones=(
            (15, 13), (13, 11), (16, 14), (14, 12),           # legs
            (11, 12), (5, 11), (6, 12), (5, 6),               # trunk
            (5, 7), (6, 8), (7, 9), (8, 10),                  # arms
            (0, 1), (0, 2), (1, 3), (2, 4),                   # head
        ),
    ),
    # Of Toyota-Smarthome: right before left; the head is one joint.
    "smarthome13": JointSet(
        names=(
            "right_ankle", "left_ankle", "right_knee", "left_knee",
            "right_hip", "left_hip", "right_wrist", "left_wrist",
            "right_elbow", "left_elbow", "right_shoulder", "left_shoulder", "head",
        ),
        flip_pairs=((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)),
        bones=(
            (0, 2), (2, 4), (1, 3), (3, 5),                   # legs
            (4, 5), (4, 10), (5, 11), (10, 11),               # trunk
            (6, 8), (8, 10), (7, 9), (9, 11),                 # arms
            (12, 10), (12, 11),                               # head
        ),
    ),
}


def joint_set(names):
    """The JointSet whose joints are called `names`, in that order; a ValueError if none is so."""
    for known in JOINT_SETS.values():
        if tuple(names) == known.names:
            return known
    raise ValueError(f"unknown joints {tuple(names)}. Expected those of {' or '.join(JOINT_SETS)}. "
                     "For another skeleton add a JointSet to pose.JOINT_SETS.")


# ---- Pose files --------------------------------------------------------------------------------

# One file for each clip, whoever found the joints: training opens what it needs and nothing else,
# and a run that was cut off goes on where it stopped.

# A million frames of 17 joints are 212 MB, and packed they may be small: joints that stand still
# pack a thousand times. So the limit is one of what is unpacked, whatever the file's own size.
MOST_UNPACKED = 2 ** 28                           # bytes
MOST_NAMES = 1000                                 # joints; whole-body sets have 133

REMAKE = "Make it: `python pose.py extract|import ... --overwrite`."


@dataclass
class PoseClip:
    """One person through one clip, as it lies in `<clip id>.npz`: an array for each field."""

    keypoints: np.ndarray                         # (T, J, 2) float32, pixels of the frame
    scores: np.ndarray                            # (T, J) float32, >= 0, 0 = missing
    size: tuple[int, int]                         # (H, W) of the frame
    times: np.ndarray                             # (T,) float64, seconds on the video's clock,
    #                                               ascending, or all NaN: unknown
    joints: tuple[str, ...]                       # J names
    extractor: str = ""                           # who found them

    def __post_init__(self):
        """Bring what an extractor or a file gives to the types above."""
        self.keypoints = np.float32(self.keypoints)
        self.scores = np.float32(self.scores)
        self.size = tuple(int(n) for n in np.asarray(self.size).ravel())
        self.times = np.atleast_1d(np.float64(self.times))
        self.joints = tuple(str(name) for name in self.joints)
        self.extractor = str(self.extractor)

    def clock(self, instants):
        """Seconds (T,) of each row since the first frame.

        instants: seconds of the video's frames since its first, ascending, a numpy array of any
        length. They are read where the clip's own times are unknown: its T rows are then laid
        evenly over the frames, so that as many rows as frames get just the frames' instants.
        """
        if not np.isnan(self.times).any():
            return self.times - self.times[0]

        frame = np.linspace(0, len(instants) - 1, len(self.times))
        return np.interp(frame, np.arange(len(instants)), instants)

    def check(self, where):
        """The clip itself; raises a BrokenClip that names `where` if a field breaks its word."""
        fault = self._fault()
        if fault:
            raise BrokenClip(f"bad pose clip {where}: {fault}. {REMAKE}")
        return self

    def _fault(self):
        """What is wrong and what was expected, "" if nothing."""
        if self.scores.ndim != 2 or len(self.scores) == 0:
            return f"scores {self.scores.shape}. Expected (T, J), T > 0"
        T, J = self.scores.shape

        if self.keypoints.shape != (T, J, 2):
            return f"keypoints {self.keypoints.shape}. Expected {(T, J, 2)} as the scores say"
        if len(self.joints) != J:
            return f"{len(self.joints)} joint names. Expected {J} as the scores say"
        if not np.isfinite(self.keypoints).all():
            return "keypoints that are not finite. Expected pixels, and score 0 where missing"
        if not np.isfinite(self.scores).all() or (self.scores < 0).any():
            return "scores that are negative or not finite. Expected numbers from 0 up"

        if len(self.size) != 2 or min(self.size) <= 0:
            return f"size {self.size}. Expected (H, W) of the frame"
        if self.times.shape != (T,):
            return f"times {self.times.shape}. Expected {(T,)} as the scores say"
        if np.isnan(self.times).all():
            return ""
        if not np.isfinite(self.times).all() or (np.diff(self.times) < 0).any():
            return "times out of order. Expected ascending seconds, or NaN for all of them"
        return ""


def read_pose(path):
    """`<clip id>.npz` -> PoseClip, checked. Only plain arrays are unpacked, never Python objects.

    Raises FileNotFoundError where there is no file, ValueError where it is damaged or breaks
    PoseClip's word (then as BrokenClip).
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no pose file {path}. Expected one per clip. {REMAKE}")

    few = {"joints": MOST_NAMES, "size": MOST_NAMES, "extractor": MOST_NAMES}
    most_of = {one.name: few.get(one.name) for one in fields(PoseClip)}
    try:
        clip = PoseClip(**read_npz(path, MOST_UNPACKED, most_of))
    except BadArrays as error:
        reason = error
    except Exception as error:                    # texts where numbers should be, and the like
        reason = f"its arrays are of another kind ({type(error).__name__})"
    else:
        return clip.check(path)
    raise ValueError(f"bad pose file {path}: {reason}. Expected arrays. {REMAKE}")


def write_pose(path, keypoints, scores, size, times, joints, extractor=""):
    """Write the fields of a PoseClip to `<clip id>.npz`, whole or not at all -> its path.

    Equal input gives equal bytes. Raises ValueError for another ending, BrokenClip for a clip that
    breaks PoseClip's word.
    """
    if Path(path).suffix != ".npz":
        raise ValueError(f"pose file {path}. Expected an ending .npz. Give <folder>/<clip id>.npz.")
    clip = PoseClip(
        keypoints=keypoints,
        scores=scores,
        size=size,
        times=times,
        joints=joints,
        extractor=extractor,
    )
    clip.check(path)

    arrays = {name: np.asarray(value) for name, value in vars(clip).items()}
    with atomic(path) as part, open(part, "wb") as file:
        np.savez_compressed(file, **arrays)
    return Path(path)


# ---- Heatmaps and drawing ----------------------------------------------------------------------

# PeVL reads the joints as coordinates. ViLP shows them to CLIP's image tower as a picture, and so
# does PeVL where its Table 9 compares the two.


def gaussian_heatmaps(keypoints, scores, size, sigma):
    """The picture that ViLP makes of a pose. With sigma 2 it is HRNet's target in training as well,
    but for the rounding of the joint to a pixel and the cut at 3 sigma:

        heatmap[y, x] = exp(-((x - joint_x)^2 + (y - joint_y)^2) / (2 sigma^2))

    keypoints (..., J, 2) pixels of a frame of `size` (H, W), scores (..., J), sigma in pixels ->
    (..., J, H, W) float32: 1 at a joint that lies on a pixel, 0 all over for a joint with score 0.
    ViLP reads the maximum over joints, gaussian_heatmaps(...).amax(-3).

    >>> gaussian_heatmaps([[1, 0]], [0.9], size=(1, 3), sigma=1)
    tensor([[[0.6065, 1.0000, 0.6065]]])
    """
    H, W = size
    keypoints = torch.as_tensor(keypoints, dtype=torch.float32)
    seen = torch.as_tensor(scores, device=keypoints.device)[..., None] > 0  # (..., J, 1)

    # exp(-(a + b)) = exp(-a) exp(-b): a column and a row instead of H x W exponentials.
    across = bell(keypoints[..., 0, None], seen, W, sigma)                 # (..., J, W)
    down = bell(keypoints[..., 1, None], seen, H, sigma)                   # (..., J, H)
    return down[..., :, None] * across[..., None, :]                       # (..., J, H, W)


def bell(centres, seen, length, sigma):
    """exp(-(pixel - centre)^2 / (2 sigma^2)) on one axis of `length` pixels, 0 where not seen.

    centres (..., J, 1), seen (..., J, 1) bool -> (..., J, length).
    """
    away = torch.arange(length, device=centres.device) - centres
    return torch.exp(-away ** 2 / (2 * sigma ** 2)).masked_fill(~seen, 0.0)


SIDE_COLOURS = {"left": (255, 140, 0), "right": (0, 160, 255)}
MIDDLE_COLOUR = (60, 220, 90)


def draw_skeleton(image, keypoints, scores, joints, threshold=0.3):
    """Copy of a PIL image with a skeleton on it: left orange, right blue, the middle green.

    keypoints (J, 2) pixels, scores (J,), joints: J names of a known set. Drawn are joints with a
    score above `threshold`, and the bones between two of them; what joins left and right is middle.
    """
    skeleton = joint_set(joints)
    sides = [name.split("_")[0] for name in skeleton.names]
    points = [tuple(map(float, point)) for point in np.asarray(keypoints)]
    seen = np.asarray(scores) > threshold

    image = image.convert("RGB").copy()
    draw = ImageDraw.Draw(image)
    width = max(1, round(min(image.size) / 150))

    for a, b in skeleton.bones:
        if not seen[a] or not seen[b]:
            continue
        colour = MIDDLE_COLOUR
        if sides[a] == sides[b]:
            colour = SIDE_COLOURS.get(sides[a], MIDDLE_COLOUR)
        draw.line([points[a], points[b]], colour, width)

    radius = 1.2 * width
    for j in np.flatnonzero(seen):
        x, y = points[j]
        corners = [x - radius, y - radius, x + radius, y + radius]
        draw.ellipse(corners, SIDE_COLOURS.get(sides[j], MIDDLE_COLOUR))
    return image


# ---- Videos ------------------------------------------------------------------------------------


class Video:
    """The frames of a file: uint8 RGB arrays (H, W, 3), upright, one at a time, as often as asked.

    All have the size of the first. Going through them sets `size` (H, W), `times`, a list of
    seconds on the video's clock that never falls, and `rate`, frames a second. Raises BrokenClip
    where the file cannot be decoded, or is an .avi that ends before the frames that it promises.
    """

    def __init__(self, path):
        self.path = path
        self.clip = Path(path).stem               # clip id
        self.size = None
        self.times = []
        self.rate = 25

    def __iter__(self):
        self.times = []
        convert = VideoReformatter()
        width = None
        height = None
        try:
            with open_video(self.path) as (container, stream):
                stream.thread_type = "AUTO"
                self.rate = stream.average_rate or 25

                for frame in container.decode(stream):
                    if width is None:
                        width = frame.width
                        height = frame.height
                    self.times.append(self._instant(frame))

                    image = convert.reformat(frame, width, height, "rgb24").to_ndarray()
                    image = np.rot90(image, quarter_turns(frame))
                    image = np.ascontiguousarray(image)
                    self.size = image.shape[:2]
                    yield image

                # An .avi that was cut ends without an error, but its head says how many frames it
                # had. (Other formats count frames that are not shown, or none.)
                promised = stream.frames if container.format.name == "avi" else 0
                if len(self.times) < 0.9 * promised - 1:
                    raise ValueError(f"it ends after {len(self.times)} of {promised} frames")

            if not self.times:
                raise ValueError("it holds no frame")
        except BROKEN as error:
            raise BrokenClip(f"cannot decode {self.path}: {error}. Expected a whole video file. "
                             "Fetch it again.") from error

    def _instant(self, frame):
        """Seconds of the next frame: its own or, if it has none, by the rate; never falling."""
        instant = frame.time
        if instant is None:
            instant = len(self.times) / float(self.rate)
        if self.times:
            instant = max(instant, self.times[-1])
        return instant


def write_overlay(path, video, clip):
    """Write the video with the skeleton drawn on it: h264 in mp4, at most 720 pixels on a side."""
    frames = Video(video)
    stream = None
    with atomic(path) as part, av.open(str(part), "w", format="mp4") as container:
        for frame, keypoints, scores in zip(frames, clip.keypoints, clip.scores):
            image = draw_skeleton(Image.fromarray(frame), keypoints, scores, clip.joints)

            # h264 with 4:2:0 colours wants even sides.
            shrink = min(1, 720 / max(image.size))
            even = [max(2, round(n * shrink / 2) * 2) for n in image.size]
            image = image.resize(even)

            if stream is None:                    # the size is known from the first frame on
                stream = container.add_stream("libx264", rate=frames.rate)
                stream.width, stream.height = image.size
                stream.pix_fmt = "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_image(image)))

        container.mux(stream.encode())            # what the encoder still holds


# ---- Extractors --------------------------------------------------------------------------------

# Whoever finds the joints is a function behind one wrapper, `extract`: it is given the frames and
# gives joints and scores, and knows nothing of files. Another one is an entry more in EXTRACTORS.


class Extractor(NamedTuple):
    """A way to find the joints of the person in a video."""

    # find(frames, **options) -> keypoints (T, J, 2) in pixels, scores (T, J) >= 0. `frames` is a
    # Video, which can be gone through more than once; the options are the command line's, all of
    # them, and each extractor takes what it knows.
    find: Callable
    joints: str                                   # name of its joint set, a key of JOINT_SETS
    is_ready: Callable                            # () -> bool: installed, or its weights fetched


def hrnet(frames, weights="w32_256x192", detector="track", boxes="", flip=True, batch=8, device=""):
    """PeVL's extractor (Sec. 4.1): HRNet reads one person's joints from a box in each frame.

    Where the boxes come from: with `boxes`, from a csv (see read_boxes); with the detector
    "torchvision", from Faster R-CNN; with the detector "track", the default, from HRNet's own
    joints of the frame before (see follow). The first two can give several boxes a frame, and
    link_people chooses the person before HRNet looks; when tracking, it is whoever HRNet sees in
    the whole frame.

    weights: a name of WEIGHTS or a file. flip: the mean with the mirrored crop. batch: crops at a
    time, where the boxes are given beforehand. device: "" is CUDA where there is one.
    """
    device = choose_device(device or "auto")

    # channels_last is the layout in memory that convolutions are fastest with.
    model = fold_norms(cached(load_hrnet, weights))
    model = model.to(device, memory_format=torch.channels_last)
    joints = model.final_layer.out_channels
    if joints != 17:
        raise ValueError(f"{weights} finds {joints} joints. Expected COCO's 17. Name one of "
                         f"{', '.join(WEIGHTS)}.")
    look = partial(predict, model, flip=flip)

    if boxes:
        people = read_boxes(boxes).get(clip_id(frames.clip))
        if people is None:
            raise BrokenClip(f"{boxes} has no clip {frames.clip}. Expected a row per frame. Add "
                             "them.")
    elif detector == "torchvision":
        people = detect_people(frames, device)
    else:
        return follow(frames, look)

    chosen = {}                                   # frame -> (4,) the person's box
    for t, n in enumerate(link_people(people)):
        if n >= 0:
            chosen[t] = people[t][n, :4]
    return look_in_batches(frames, chosen, look, batch)


def look_in_batches(frames, boxes, look, batch):
    """Joints in the frames that have a box, `batch` crops at a time; 0 in the others.

    boxes: {frame: (4,)}. look(frames, boxes) -> (N, 17, 2), (N, 17), as published.hrnet.predict
    -> keypoints (T, 17, 2), scores (T, 17).
    """
    keypoints = []                                # a row for each frame
    scores = []
    waiting = {}                                  # frame's number -> its picture

    def look_at_waiting():
        found = look(list(waiting.values()), [boxes[t] for t in waiting])
        for t, its_keypoints, its_scores in zip(waiting, found[0], found[1]):
            keypoints[t] = its_keypoints
            scores[t] = its_scores
        waiting.clear()

    for t, frame in enumerate(frames):
        keypoints.append(np.zeros((17, 2)))
        scores.append(np.zeros(17))
        if t in boxes:
            waiting[t] = frame
            if len(waiting) >= batch:
                look_at_waiting()
    if waiting:
        look_at_waiting()
    return np.stack(keypoints), np.stack(scores)


class Look(NamedTuple):
    """What HRNet sees of the person in one frame."""

    keypoints: np.ndarray                         # (J, 2)
    scores: np.ndarray                            # (J,), all 0 where nobody is
    box: np.ndarray | None                        # (4,) where to look next, None: nobody


def follow(frames, look):
    """Joints by tracking: each frame is looked at in the box of the joints of the frame before.

    At the start, and when the person is lost, HRNet looks at the whole frame and twice more, each
    time closer. look(frames, boxes) -> (N, J, 2), (N, J), such as published.hrnet.predict
    -> keypoints (T, J, 2), scores (T, J), 0 where nobody is.
    """
    keypoints = []
    scores = []
    box = None
    for frame in frames:
        found = None
        if box is not None:
            found = look_closer(frame, box, look, looks=1)
        if found is None or found.box is None:
            whole = np.array([0, 0, frame.shape[1] - 1, frame.shape[0] - 1])
            found = look_closer(frame, whole, look, looks=3)

        box = found.box
        keypoints.append(found.keypoints)
        scores.append(found.scores)
    return np.stack(keypoints), np.stack(scores)


def look_closer(frame, box, look, looks):
    """Look at one frame, each time in the box of the joints seen before -> Look.

    Nobody is there if fewer than 4 joints are seen, that is, have a score above 0.2.
    """
    for _ in range(looks):
        found = look([frame], [box])
        keypoints = found[0][0]                                            # (J, 2)
        scores = found[1][0]                                               # (J,)
        if (scores > 0.2).sum() < 4:
            return Look(keypoints, 0 * scores, box=None)

        box = joint_boxes(keypoints, scores, threshold=0.2)[:4]
        room = 0.1 * (box[2:] - box[:2]).max()    # a person is larger than the joints
        box = box + [-room, -room, room, room]
    return Look(keypoints, scores, box)


@torch.inference_mode()
def detect_people(frames, device):
    """Faster R-CNN of torchvision: T arrays (n, 5) of the boxes and scores of persons.

    Kept are scores above 0.5. Raises ValueError where torchvision is not installed.
    """
    detection = optional_package("torchvision.models.detection", "torchvision")
    model = cached(detection.fasterrcnn_resnet50_fpn, weights="DEFAULT").eval().to(device)

    boxes = []
    for frame in frames:
        image = torch.from_numpy(frame).to(device).permute(2, 0, 1) / 255  # (3, H, W)
        found = model([image])[0]
        is_person = found["labels"] == 1          # COCO's first category
        keep = is_person & (found["scores"] > 0.5)
        rows = torch.cat([found["boxes"], found["scores"][:, None]], 1)    # (all, 5)
        boxes.append(rows[keep].cpu().numpy())
    return boxes


@lru_cache(maxsize=1)
def read_boxes(path):
    """csv clip,frame,x0,y0,x1,y1[,score] -> {clip id: list of arrays (n, 5)}, one a frame.

    frame counts from 0, a frame may have several rows or none, the score is 1 where it is not
    given. A list ends with the clip's last box. Raises ValueError, with the line, for a bad row,
    and FileNotFoundError without a file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file of boxes {path}. Expected a csv. Check --boxes.")

    clips = {}                                    # clip -> {frame: list of boxes}
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        row = {}
        try:
            for row in rows:
                row["score"] = row.get("score") or 1
                box = [float(row[key]) for key in ("x0", "y0", "x1", "y1", "score")]
                frame = int(row["frame"])
                is_box = np.isfinite(box).all() and box[0] < box[2] and box[1] < box[3]
                if not is_box or not 0 <= frame <= MOST_FRAMES:
                    raise ValueError(f"frame {frame}")
                frames = clips.setdefault(clip_id(row["clip"]), {})
                frames.setdefault(frame, []).append(box)
        except UnicodeDecodeError:
            raise ValueError(f"{path} is no UTF-8. Expected a csv of boxes. Save it as "
                             "UTF-8.") from None
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            # The reader's own number: also of a row that never ends, which is not in `row`.
            line = rows.reader.line_num
            what = error if isinstance(error, csv.Error) else row
            raise ValueError(f"{path}, line {line}: {str(what)[:200]}. Expected numbers in "
                             "clip,frame,x0,y0,x1,y1[,score]. Correct the line.") from error

    lists = {}
    for clip, frames in clips.items():
        count = max(frames) + 1
        lists[clip] = [np.reshape(frames.get(t, []), (-1, 5)) for t in range(count)]
    return lists


def has_hrnet_weights():
    """Whether the default weights of HRNet were fetched before."""
    name = WEIGHTS["w32_256x192"].rsplit("/", 1)[1]
    return (cache_folder() / name).is_file()


EXTRACTORS = {
    "hrnet": Extractor(find=hrnet, joints="coco17", is_ready=has_hrnet_weights),
    "mediapipe": Extractor(find=mediapipe_pose, joints="coco17",
                           is_ready=partial(has_package, "mediapipe")),
    "rtmlib": Extractor(find=rtmlib_pose, joints="coco17",
                        is_ready=partial(has_package, "rtmlib")),
}


def ready_extractor():
    """Name of the first extractor that can be used as things are.

    Raises ValueError, with the one command that changes it, where there is none.
    """
    for name, extractor in EXTRACTORS.items():
        if extractor.is_ready():
            return name
    raise ValueError("nothing that finds joints is installed. Expected one of "
                     f"{', '.join(EXTRACTORS)}. Run `pip install '{MEDIAPIPE}'`.")


# ---- From a video or a public file to a pose clip ----------------------------------------------

# Both ways end in a PoseClip. What differs is the clock: a video says when each frame was, a public
# file at most which frame it was, so that PoseClip.clock lays its rows over the video.


def extract(video, extractor="hrnet", **options):
    """A video file -> PoseClip of the person in it, a row for each frame.

    extractor: a name of EXTRACTORS; the options go to it. Raises ValueError for an unknown one and
    for a missing package, FileNotFoundError for a path of weights that is none, BrokenClip for a
    video that cannot be read.
    """
    if extractor not in EXTRACTORS:
        raise unknown_name("extractor", extractor, EXTRACTORS)
    chosen = EXTRACTORS[extractor]

    frames = Video(video)
    keypoints, scores = chosen.find(frames, **options)
    clip = PoseClip(
        keypoints=keypoints,
        scores=scores,
        size=frames.size,
        times=frames.times,
        joints=JOINT_SETS[chosen.joints].names,
        extractor=extractor,
    )
    return clip.check(video)


def import_clip(public):
    """A PublicClip of published/pose_files.py -> PoseClip of one person, at unknown times.

    Raises BrokenClip, whatever is wrong with what the file has of this clip.
    """
    try:
        persons = public.read()
        keypoints, scores = one_person(persons.keypoints, persons.scores)
        return PoseClip(
            keypoints=keypoints,
            scores=scores,
            size=persons.size,
            times=np.full(len(scores), np.nan),
            joints=JOINT_SETS[public.joints].names,
            extractor=public.origin,
        )
    except (BrokenClip, MemoryError):             # the first says already what is wrong
        raise
    except Exception as error:                    # foreign values are wrong in every way
        raise BrokenClip(f"bad entry of {public.source}: {error!r}. Expected joints of persons in "
                         "frames. Fetch it again.") from error


# ---- Command line ------------------------------------------------------------------------------


def run_jobs(what, jobs, total, out, overwrite):
    """Make the pose files of `total` clips in the folder `out`; what became of them goes to stdout.

    what: the word before the progress. jobs: pairs (clip id, function without arguments ->
    PoseClip). A file that is there already is kept, unless `overwrite`. A BrokenClip is listed at
    the end and stops nothing; so is the second of two clips of one id.

    Returns the exit code: 1 where all that was asked for is broken.
    """
    progress = Progress(what, total=total, unit="clips")
    done = 0
    skipped = 0
    frames = 0
    facts = {}                                    # clip id -> PersonFacts of what was made
    broken = []                                   # a line for each
    names = set()
    for name, make in jobs:
        path = Path(out) / f"{name}.npz"
        if not name or name in names:
            fault = "there twice" if name else "without a name"
            broken.append(f"\n  {name}: {fault}. Expected a name of its own; the first is used.")
        elif path.exists() and not overwrite:
            skipped += 1
            progress.before = skipped
        else:
            try:
                clip = make()
                write_pose(path, **vars(clip))
                done += 1
                frames += len(clip.times)
                facts[name] = person_facts(clip.keypoints, clip.scores)
            except BrokenClip as error:
                broken.append(f"\n  {name}: {error}")
        names.add(name)
        note = f"{progress.rate(frames):.1f} frames/s, {len(broken)} broken"
        progress.show(done + skipped + len(broken), note)

    print(f"{done} pose clips written to {out}, {skipped} kept, {len(broken)} broken", *broken)
    for line in summarise(facts):
        print(line)
    return int(bool(broken) and done + skipped == 0)


VIDEOS = {".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"}


def find_videos(paths):
    """Video files, and folders of them at any depth, links followed -> {clip id: file}.

    A file is taken whatever its ending. Raises FileNotFoundError for a path that is not there,
    ValueError where two files have the same clip id.
    """
    files = {}
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"no video or folder {path}. Expected one. Check the path.")
        inside = [path]
        if path.is_dir():
            inside = []
            for folder, _, names in os.walk(path, followlinks=True):
                inside += [Path(folder, name) for name in names]
            inside = sorted(file for file in inside if file.suffix.lower() in VIDEOS)

        for file in inside:
            other = files.setdefault(file.stem, file)
            if other != file:
                raise ValueError(f"{file} and {other} would both make {file.stem}.npz. Expected "
                                 "different names. Rename one, or use two --out.")
    return files


def take_shard(files, shard):
    """Every n-th of a list from the i-th, shard being "i/n" with i from 0 to n - 1."""
    said = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not said or int(said[1]) >= int(said[2]):
        raise ValueError(f"bad --shard {shard}. Expected i/n with i from 0 to n - 1. Try 0/8.")
    return files[int(said[1])::int(said[2])]


# Both commands make one file a clip and skip what is there: after a crash the same command goes on.
# `extract`, the slow one, can be shared by several machines: --shard.


def run_extract(videos, out, overwrite, shard, overlay, extractor, **options):
    """`pose.py extract`: one pose file for each video; the options go to the extractor."""
    files = list(find_videos(videos).values())
    if not files:
        raise ValueError(f"no video in {' '.join(map(str, videos))}. Expected files of video, such "
                         "as .mp4. Check the folder.")
    mine = take_shard(files, shard)

    def make(video):
        clip = extract(video, extractor, **options)
        if overlay:
            write_overlay(Path(overlay) / f"{video.stem}.mp4", video, clip)
        return clip

    jobs = ((video.stem, partial(make, video)) for video in mine)
    return run_jobs("extract", jobs, len(mine), out, overwrite)


def make_look_up(size, videos):
    """The function clip id -> VideoFacts of --size or --videos, None where neither is given.

    size: "HxW". videos: a folder; the video called like the clip is decoded once, because headers
    do not always say the number of frames, and a BrokenClip is raised where there is none.
    """
    if size and videos:
        raise ValueError("--size and --videos. Expected one of them. Leave out --size: the videos "
                         "say it.")
    if size:
        said = re.fullmatch(r"(\d+)x(\d+)", size)
        if not said:
            raise ValueError(f"bad --size {size}. Expected HxW in pixels. Try 480x640.")
        facts = VideoFacts(size=(int(said[1]), int(said[2])), frames=None)

        def same_for_all(name):
            return facts

        return same_for_all
    if not videos:
        return None

    files = {clip_id(name): file for name, file in find_videos([videos]).items()}

    def look_up(name):
        if name not in files:
            raise BrokenClip(f"no video {name} in {videos}. Expected one for each clip. Rename it, "
                             "or give --size.")
        video = Video(files[name])
        for _ in video:                           # going through it finds size and times
            pass
        return VideoFacts(size=video.size, frames=len(video.times))

    return look_up


def run_import(importer, path, out, overwrite, keypoints, size, videos, first):
    """`pose.py import`: the pose files of what another program has written."""
    options = ImportOptions(
        keypoints=keypoints,
        look_up=make_look_up(size, videos),
        first=first,
    )
    total, clips = IMPORTERS[importer](path, options)
    jobs = ((clip.name, partial(import_clip, clip)) for clip in clips)
    return run_jobs("import", jobs, total, out, overwrite)


def whole_number(low):
    """The reader of a flag that takes a whole number from `low` up, for argparse."""
    def read(word):
        if not re.fullmatch(r"\d{1,9}", word, re.ASCII) or int(word) < low:
            raise argparse.ArgumentTypeError(f"{word[:80]!r}. Expected a whole number from {low} "
                                             "up. See --help.")
        return int(word)
    return read


def build_parser():
    """The command line: `extract` and `import`, each with its flags."""
    about = "Pose files of videos or public files."
    parser = Parser("pose.py", allow_abbrev=False, description=about)
    commands = parser.add_subparsers(dest="command", required=True)
    style = argparse.ArgumentDefaultsHelpFormatter

    grab = commands.add_parser("extract", help="find the person in videos", formatter_class=style)
    grab.add_argument("videos", nargs="+", help="video files, or folders of them")
    grab.add_argument("--extractor", default="hrnet", choices=EXTRACTORS,
                      help="who finds the joints")
    grab.add_argument("--overlay", default="",
                      help="folder for the videos with the skeleton drawn on")
    grab.add_argument("--shard", default="0/1",
                      help="i/n: every n-th video from the i-th, i from 0 to n - 1")
    grab.add_argument("--weights", default="w32_256x192",
                      help=f"hrnet: a file, or one of {', '.join(WEIGHTS)}")
    grab.add_argument("--detector", default="track", choices=("track", "torchvision"),
                      help="hrnet: whose boxes, where --boxes does not give them")
    grab.add_argument("--boxes", default="",
                      help="hrnet: csv of clip,frame,x0,y0,x1,y1[,score], frames from 0")
    grab.add_argument("--flip", default=True, action=argparse.BooleanOptionalAction,
                      help="hrnet: mean with the mirrored crop")
    grab.add_argument("--batch", default=8, type=whole_number(1),
                      help="hrnet: crops at a time, with --boxes or --detector torchvision")
    grab.add_argument("--device", default="",
                      help="hrnet, rtmlib: cpu, cuda (hrnet: cuda:1 too); empty: CUDA where there "
                      "is one")

    take = commands.add_parser("import", help="convert a public file", formatter_class=style)
    take.add_argument("importer", choices=IMPORTERS, help="which program wrote it")
    take.add_argument("path", metavar="file",
                      help="pyskl, k400: the pickle; smarthome, alphapose: a json or a folder of "
                           "them; openpose: a folder")
    take.add_argument("--keypoints", default="", help="k400: the kpfile, or the folder of them")
    take.add_argument("--videos", default="",
                      help="openpose, alphapose: folder of the videos, for the frames' size and "
                           "number")
    take.add_argument("--size", default="",
                      help="openpose, alphapose: HxW of the frames, where there are no videos")
    take.add_argument("--first", default=0, type=whole_number(0),
                      help="alphapose: number in the name of a clip's first picture")

    for command in (grab, take):
        command.add_argument("--out", required=True, help="folder of the pose files, <clip id>.npz")
        command.add_argument("--overwrite", action="store_true", help="make again what is there")
    return parser


def main(argv=None):
    """The command line -> exit code; a mistake is one line on stderr and 2."""
    options = vars(build_parser().parse_args(argv))
    jobs = {"extract": run_extract, "import": run_import}
    job = jobs[options.pop("command")]
    return run_command(partial(job, **options))


if __name__ == "__main__":
    sys.exit(main())
