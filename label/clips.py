"""A video file that belongs to no benchmark, as a data set: one clip, or a window that slides.

here       | what it is                                     | tests/test_label.py
VideoClips | spans of one file, sampled as a benchmark's are | test_one_video_*
windows    | where a sliding window stands                   | test_windows_cover_the_video
duration   | seconds of a file                               | test_duration_counts_*

Letters: n frames of the file.
"""
import math
from pathlib import Path

import numpy as np

from data import Clips, is_even
from pose import JOINT_SETS, joint_set
from published.annotations import Clip
from support.video import decode


class VideoClips(Clips):
    """Spans of one video file as the tensors that a model reads; see data.Clips for an item.

    cfg: DataConfig of the model's training, with read_poses as the model needs. video: the file.
    spans: (start, end) in seconds each. pose: PoseClip of the whole file, with times; None where
    the model reads none. labels: K names. texts: their prompts. views: crops of a clip, 1 or 3.
    """

    def __init__(self, cfg, video, spans, pose, labels, texts, views):
        self.cfg = cfg
        self.train = False
        self.views = views
        self.labels = list(labels)
        self.texts = list(texts)
        self._pose = pose
        self.clips = []
        for start, end in spans:
            # A name in `pose` says that the pose clip covers the whole file, and is cut with it.
            self.clips.append(Clip(id=Path(video).stem, path=str(video), label=0, start=start,
                                   end=end, unit="s", pose=Path(video).stem))
        self.joints = JOINT_SETS["coco17"].names if pose is None else pose.joints
        self.flip_index = joint_set(self.joints).flip_index

    def _read_pose(self, clip):
        return self._pose


def first_frame(instants):
    """A `pick` for decode: enough to learn the instants of all frames."""
    return [0]


def as_small(H, W):
    """A `plan` for decode where nobody looks at the picture."""
    return 16, 16


def instants_of(video):
    """(n,) seconds of a file's frames since the first. Raises one of support.video.BROKEN."""
    return decode(video, first_frame, as_small)[1]


def duration(instants):
    """Seconds that a file lasts, its last frame included. instants: (n,)."""
    gap = instants[-1] / max(len(instants) - 1, 1)
    return float(instants[-1] + gap)


def windows(start, end, every, width):
    """Where a window stands that begins each `every` seconds -> list of (start, end), ascending.

    start, end: seconds between which windows lie. One that would reach beyond `end` is cut there,
    and left out where less than half of `width` is left, unless it is the only one.

    >>> windows(0.0, 5.0, every=2.0, width=2.0)
    [(0.0, 2.0), (2.0, 4.0), (4.0, 5.0)]
    >>> windows(0.0, 5.5, every=2.0, width=3.0)
    [(0.0, 3.0), (2.0, 5.0), (4.0, 5.5)]
    """
    spans = []
    for number in range(max(math.ceil((end - start) / every), 1)):
        begin = start + number * every
        stop = min(begin + width, end)
        is_long = stop - begin >= width / 2 - 1e-9
        if is_long or not spans:
            spans.append((float(begin), float(stop)))
    return spans


def with_times(pose, video):
    """The PoseClip with a time for each row, so that it can be cut: public files have none.

    Its rows are then laid evenly over the frames of the video, as PoseClip.clock says. Raises
    ValueError where they are too few or too many for it (data.is_even).
    """
    if np.isnan(pose.times).any():
        instants = instants_of(video)
        if not is_even(len(pose.times), len(instants)):
            raise ValueError(f"{len(pose.times)} rows of poses beside {len(instants)} frames of "
                             f"{video}. Expected a row for every frame, or every second, third "
                             "or fourth. Give its own pose file with --pose.")
        pose.times = pose.clock(instants)
    return pose
