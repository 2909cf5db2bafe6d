"""data.py: clips that cannot be read are replaced in training, and count as wrong in evaluation.

Of ten thousand downloaded clips some are always damaged. Whatever is wrong with one, the run goes
on and names it; only what is no fault of a clip (Ctrl-C, no memory) ends the run.
"""
import json
import os

import numpy as np
import pytest
import torch

import data
from data import Clips
from support import video
from trees import make_tree, pose, poses_for, text, video_bytes, without_codec
from waiting import ends

# The clip that is broken in these tests: the second of training, the first of test.
BROKEN = "a_b0PT-u8k_00156"


def video_of(cfg):
    """Path of the broken clip's video."""
    return cfg.folder / f"rgb/{BROKEN}.mp4"


def break_clip(cfg, how):
    """Make the clip unreadable in this way, one of FAULTS."""
    poses = cfg.folder / f"poses/{BROKEN}.npz"
    if how == "missing video":
        video_of(cfg).unlink()
    elif how == "empty video":
        video_of(cfg).write_bytes(b"")
    elif how == "truncated video":
        video_of(cfg).write_bytes(video_of(cfg).read_bytes()[:400])
    elif how == "not a video":
        video_of(cfg).write_bytes(b"<html>403</html>" * 50)
    elif how == "missing pose":
        poses.unlink()
    elif how == "wrong pose length":
        pose(cfg.folder, BROKEN, frames=31)
    elif how == "NaN in a pose":
        arrays = dict(np.load(poses))
        arrays["keypoints"][3, 4] = np.nan
        np.savez(poses, **arrays)
    else:
        raise ValueError(how)


FAULTS = ["missing video", "empty video", "truncated video", "not a video", "missing pose",
          "wrong pose length", "NaN in a pose"]


def give_it_a_class_mate(cfg):
    """Give another training clip the broken clip's label."""
    path = cfg.folder / "Diving48_V2_train.json"
    rows = json.loads(path.read_text())
    rows[2]["label"] = rows[1]["label"]
    text(cfg.folder, path.name, json.dumps(rows))


@pytest.mark.parametrize("how", FAULTS)
def test_fault_is_replaced_in_training(make_tree, how):
    """By another clip of the class; it keeps its index, and the error names it."""
    cfg = make_tree("diving48")
    give_it_a_class_mate(cfg)
    poses_for(cfg, "train")
    break_clip(cfg, how)

    batch = next(iter(torch.utils.data.DataLoader(Clips(cfg, "train", train=True), 3)))
    assert batch["broken"].tolist() == [False, True, False]
    assert batch["error"][1].startswith(f"{BROKEN}: ")
    assert batch["index"].tolist() == [0, 1, 2]
    assert batch["label"].tolist() == [0, 2, 2]
    assert batch["frames"][1].float().std() > 0


@pytest.mark.parametrize("how", FAULTS)
def test_fault_is_black_in_evaluation(make_tree, how):
    """With its own label, so that whatever is predicted of it is counted; in three crops, too."""
    cfg = make_tree("diving48")
    poses_for(cfg, "train")
    break_clip(cfg, how)

    item = Clips(cfg, "test", train=False, views=3)[0]
    assert item["broken"]
    assert item["label"] == 2
    assert item["frames"].shape == (3, 3, 3, 16, 16)
    assert (item["frames"] == 0).all()
    assert (item["scores"] == 0).all()


def test_fault_without_any_replacement_stops(make_tree):
    """Where no clip can be read there is nothing to train on: no pose file is there at all."""
    cfg = make_tree("diving48")
    with pytest.raises(ValueError, match="nor can any of 49 replacements.*data.py check"):
        Clips(cfg, "train", train=True)[0]


def test_fault_of_a_whole_class_takes_another_class(make_tree):
    """The only clip of its class is lost: one of another class stands in, with its own label."""
    cfg = make_tree("diving48")
    poses_for(cfg, "train")
    break_clip(cfg, "missing video")
    item = Clips(cfg, "train", train=True)[1]
    assert item["broken"]
    assert item["label"] in (0, 4)
    assert item["index"] == 1


class AlwaysTheClass:
    """Random numbers that ask for the clip's own class wherever that is a choice."""

    def __init__(self, other):
        self.other = other                        # the clip to choose of all clips

    def random(self):
        return 0.0

    def choice(self, among):
        if isinstance(among, int):
            return self.other
        return among[0]


def test_a_lost_class_does_not_stop_training(make_tree, monkeypatch):
    """After ten tries within the class any clip may stand in, however the draws fall."""
    dataset = Clips(make_tree("diving48"), "train", train=True)
    lost = dataset.clips[0]

    def load(clip, rng):
        if clip == lost:
            raise ValueError("gone")
        return {}

    monkeypatch.setattr(dataset, "_load", load)
    assert dataset.by_label[lost.label] == [0], "the class is lost with its only clip"
    _, chosen, error = dataset._load_or_replace(0, AlwaysTheClass(other=1))
    assert chosen == 1
    assert "gone" in error


# ---- Faults of every kind ------------------------------------------------------------------------


def test_fault_of_an_unknown_codec_is_the_clips(make_tree, capsys):
    """FFmpeg opens such a file and gives no decoder, which is neither OSError nor ValueError."""
    cfg = make_tree("diving48", read_poses=False)
    without_codec(video_of(cfg))
    item = Clips(cfg, "train", train=True)[1]
    assert item["broken"]
    assert item["error"].startswith(f"{BROKEN}: ") and "codec" in item["error"]
    assert Clips(cfg, "test", train=False)[0]["broken"]

    flags = ["--root", str(cfg.folder), "--no-read-poses", "--full"]
    assert data.main(["check", "diving48", *flags]) == 1
    assert f"1 unreadable of 3 tried: {BROKEN}" in capsys.readouterr().out


ERRORS = [AttributeError("strange"), TypeError("strange"), IndexError("strange"),
          ZeroDivisionError("strange"), OverflowError("strange"), AssertionError("strange"),
          UnicodeDecodeError("utf-8", b"x", 0, 1, "strange"), StopIteration("strange"),
          RecursionError("strange")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_fault_of_any_kind_in_decoding_is_the_clips(make_tree, monkeypatch, error):
    """Nobody knows all that a strange file can lead to; its neighbour is read as before."""
    cfg = make_tree("diving48", read_poses=False)
    real = video.decode_container

    def fail(container, *rest):
        if BROKEN in container.name:
            raise error
        return real(container, *rest)

    monkeypatch.setattr(video, "decode_container", fail)
    dataset = Clips(cfg, "train", train=True)
    item = dataset[1]
    assert item["broken"]
    assert item["error"].startswith(f"{BROKEN}: ") and "strange" in item["error"]
    assert not dataset[0]["broken"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, SystemExit])
def test_what_is_no_fault_of_a_clip_ends_the_run(make_tree, monkeypatch, error):
    """No replacement is tried for what another clip would meet as well."""
    cfg = make_tree("diving48", read_poses=False)

    def fail(*_):
        raise error

    monkeypatch.setattr(video, "decode_container", fail)
    with pytest.raises(error):
        Clips(cfg, "train", train=True)[1]


@pytest.mark.parametrize("what", ["pipe", "folder", "device"])
def test_fault_of_what_is_no_regular_file(make_tree, what):
    """It is not opened: a pipe would be waited for, and a device may never end."""
    cfg = make_tree("diving48", read_poses=False)
    path = video_of(cfg)
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")

    def read():
        return Clips(cfg, "test", train=False)[0]

    item = ends(read)
    assert item["broken"]
    assert "no regular file" in item["error"]
