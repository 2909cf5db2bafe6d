"""Which of a clip's pose frames are also video frames: said once, for every file that must agree.

PeVL reads many cheap pose frames (T = 48) and few costly video frames (Tv = 16) of one clip
(Sec. 4.1). The loader decodes the video frames, the model ties them to pose frames, and a report
draws the two side by side: if these three disagreed, joints would be drawn on other moments than
those whose pixels the model saw.

here              | what it says                                  | tests/test_data.py
video_frame_index | pose frames at which a video frame is decoded | test_video_frames_are_pose_frames
"""
import numpy as np


def video_frame_index(T, Tv):
    """Places of the video frames among the pose frames, ascending.

    T: number of pose frames. Tv: number of video frames; it divides T (`DataConfig` sees to it).
    The pose frames fall into Tv groups of T / Tv, and a video frame is the middle of its group, so
    that first and last video frame lie equally far from the ends of the clip.

    Returns an int64 array (Tv,) of values 0 .. T - 1, T / Tv apart.

    >>> video_frame_index(12, 4)
    array([ 1,  4,  7, 10])
    >>> video_frame_index(8, 8)
    array([0, 1, 2, 3, 4, 5, 6, 7])
    """
    return (np.arange(Tv) * T + T // 2) // Tv
