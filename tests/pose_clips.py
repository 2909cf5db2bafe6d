"""Shared by the tests of poses and of videos without a data set: small videos and pose clips, a
person's joints, a narrow HRNet, foreign code in a pickle, and pose.py's command line as a call.
"""
import os
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

import pose
from published import hrnet

COCO = pose.JOINT_SETS["coco17"].names


def grey_video(path, frames, size=(96, 64), rate=20, codec="libx264"):
    """Write a video of grey frames that get lighter -> its path; size is (w, h)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for t in range(frames):
            grey = 40 + 4 * t
            image = Image.new("RGB", size, (grey, grey, grey))
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())            # what the encoder still holds
    return path


def square_video(path, seconds=1.0, rate=8, nobody=0.0, first=0, lossless=False):
    """Write a video of a moving square, and poses of nothing in particular beside it -> its path.

    The poses lie in FILE.npz beside FILE.mp4. nobody: share of the frames, the last ones, that have
    no joints. first: number of the first frame, so that a later part of a video can be written
    alone. lossless: every frame is decoded to the same pixels, whatever part it is in.
    """
    frames = range(first, first + round(seconds * rate))
    codec = "libx264" if lossless else "mpeg4"
    options = {"qp": "0"} if lossless else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width = 112
        stream.height = 96
        stream.pix_fmt = "yuv420p"
        for t in frames:
            left = (5 * t) % 80
            image = np.full((96, 112, 3), 60, np.uint8)
            image[20:60, left:left + 30] = 200
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())

    # Joints of frame t are the same in every video, whatever its first frame.
    every = np.random.default_rng(0).uniform(10, 80, (frames.stop, 17, 2))
    scores = np.ones((len(frames), 17))
    scores[round(len(frames) * (1 - nobody)):] = 0
    times = np.arange(len(frames)) / rate
    pose.write_pose(path.with_suffix(".npz"), every[first:], scores, (96, 112), times, COCO, "test")
    return path


def clip_fields(frames=4, joints=COCO, seed=0):
    """The fields of a good PoseClip, as a dict, so that a test can change one of them."""
    rng = np.random.default_rng(seed)
    return {
        "keypoints": rng.random((frames, len(joints), 2)) * 60,
        "scores": rng.random((frames, len(joints))),
        "size": (64, 96),
        "times": np.arange(frames) / 20,
        "joints": joints,
    }


def person_at(x, y):
    """Joints (17, 2) of a person around the point (x, y), 20 pixels wide and 40 high."""
    angle = np.arange(17)
    return np.stack([x + 10 * np.cos(angle), y + 20 * np.sin(angle)], axis=-1)


def narrow_hrnet():
    """An HRNet of 8 channels, untrained and always the same, in eval mode."""
    torch.manual_seed(0)
    return hrnet.HRNet(width=8).eval()


class RunsACommand:
    """A pickle of this runs a shell command when it is read with pickle.load."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def run_pose(*words):
    """`python pose.py WORDS`, in this process -> exit code."""
    try:
        return pose.main([str(word) for word in words])
    except SystemExit as end:                     # how argparse ends
        return end.code


def files_in(folder):
    """File name -> bytes, of a folder, in the order of the names."""
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
