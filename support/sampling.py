"""Which moments of a clip and which clips are looked at: said once, for all files that must agree.

PeVL reads many cheap pose frames (T = 48) and few costly video frames (Tv = 16) of one clip
(Sec. 4.3). The loader decodes the video frames, the model ties them to pose frames, and a report
draws the two side by side: if these three disagreed, joints would be drawn on other moments than
those whose pixels the model saw.

here              | what it says                                | tests/test_views.py
video_frame_index | pose frames that are also video frames      | test_video_frames_are_pose_frames
between           | the frames of a span of seconds             | test_a_rounded_second_is_its_frame
sample_instants   | a moment in each of T equal parts of a clip | test_instants_*
nearest           | the frame that stands for a moment          | test_nearest_is_as_near_as_any
first_of_each     | a few clips of each label                   | test_shots_are_the_first_clips
"""
from collections import Counter

import numpy as np


def video_frame_index(T, Tv):
    """Places of the video frames among the pose frames, ascending.

    T: number of pose frames. Tv: number of video frames; it divides T (`DataConfig` sees to it).
    The pose frames fall into Tv groups of T / Tv, and a video frame is the middle of its group, the
    later of the two middle ones where T / Tv is even. Where it is odd, first and last video frame
    lie equally far from the ends of the clip.

    Returns an int64 array (Tv,) of values 0 .. T - 1, T / Tv apart.

    >>> video_frame_index(12, 4)
    array([ 1,  4,  7, 10])
    >>> video_frame_index(8, 8)
    array([0, 1, 2, 3, 4, 5, 6, 7])
    """
    groups = np.arange(Tv) * T                    # Tv times where each group begins
    return (groups + T // 2) // Tv


def between(seconds, start, end):
    """The slice of the instants that belong to a span; it may be empty.

    seconds: (n,) ascending. start, end: seconds, of the first instant that belongs to the span and
    of the first that does not. Annotations round: at 30 frames a second the fifth frame is at
    0.1333 s, and a file that says 0.134 means this one. So both are taken a millisecond early.

    >>> between(np.array([0.0, 0.0333, 0.0667, 0.1, 0.1333]), 0.034, 0.134)
    slice(1, 4, None)
    """
    first, last = np.searchsorted(seconds, [start - 1e-3, end - 1e-3])
    return slice(int(first), int(last))


def sample_instants(instants, draws):
    """One moment in each of T equal parts of a clip.

    instants: (n,) seconds, ascending. draws: (T,) in [0, 1), where in its part a moment lies; 0.5
    is the middle, as in evaluation. Returns float64 (T,), seconds.

    A frame stands for half a frame's time on either side of its instant, so that the first and the
    last count in full: the parts divide the clip and half a frame more at both ends.
    """
    T = len(draws)
    length = instants[-1] - instants[0]
    gap = length / max(len(instants) - 1, 1)      # from a frame to the next, on average
    parts = (np.arange(T) + draws) / T            # (T,), in [0, 1)
    begin = instants[0] - gap / 2
    return begin + parts * (length + gap)


def nearest(instants, moments):
    """Index of the instant (n,), ascending, that is nearest to each of the moments (any shape)."""
    halfway = (instants[1:] + instants[:-1]) / 2  # (n - 1,)
    return np.searchsorted(halfway, moments)


def first_of_each(clips, count):
    """The first `count` clips of each label, a list in the order of `clips`.

    clips: anything that has a `label`. The few are the same in every run, whatever its seed, and
    those of a smaller count are among those of a larger.
    """
    seen = Counter()
    few = []
    for clip in clips:
        seen[clip.label] += 1
        if seen[clip.label] <= count:
            few.append(clip)
    return few
