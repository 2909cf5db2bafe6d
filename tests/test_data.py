"""data.py: from the official files of each data set to tensors, and poses beside videos.

Every data set is read here from its own files (tests/trees.py) to the tensors of a clip. Its other
parts have files of their own:

    test_annotations.py   what the official files say, and files that are something else
    test_check.py         `python data.py check` and `layout`
    test_faults.py        clips that cannot be read
    test_video.py         decoding
    test_views.py         which moments and which part of a clip are looked at
"""
import dataclasses
import json
import math

import numpy as np
import pytest
import torch

import data
import train
from data import Clips
from eval import evaluate
from pose import JOINT_SETS, PoseClip
from published.annotations import SMARTHOME, SMARTHOME_NOT_BY_CAMERA, Clip
from report.text import summary
from runs import leave_out_pictures
from trees import COCO, GYM_IDS, TREES, make_tree, pose, poses_for, text, video_bytes

# ---- Ties of equal texts -------------------------------------------------------------------------


class Undecided(torch.nn.Module):
    """Gives every label the same score, but for rounding that differs from label to label."""
    compares_texts = True

    def encode_texts(self):
        return "encoded"

    def forward(self, batch):
        return batch["label"]

    def class_logits(self, label, text):
        return {"all": torch.tensor([0.0, 1, 1 + 1e-6, 0]).repeat(len(label), 1)}


@pytest.fixture
def gym288_test(make_tree):
    """The test split of Gym288's tree: one clip, of the higher of two labels of equal text."""
    return Clips(make_tree("gym288", read_poses=False), "test", train=False)


def test_gym288_ties_go_to_the_lower_label_and_are_counted(gym288_test):
    """Labels of one text cannot be told apart: rounding must not decide, and the report says so."""
    result = evaluate(Undecided(), gym288_test, 1, "cpu", progress=False)
    assert result["predictions"][0]["predicted"] == 1
    assert result["ties"] == 1
    assert "1 clips were tied" in summary(result, gym288_test.labels)

    assert result["top1"] == 0
    assert result["top5"] == 1
    assert result["mean"] == 0                    # of the one label that has clips


def test_gym288_clips_that_cannot_be_read_tie_nothing(gym288_test):
    """Such a clip is an error, whatever the model says of its black frames."""
    (gym288_test.cfg.folder / f"subactions/{GYM_IDS[2]}.mp4").unlink()
    result = evaluate(Undecided(), gym288_test, 1, "cpu", progress=False)
    assert result["ties"] == 0
    assert result["errors"] == [GYM_IDS[2]]


# ---- Whole data sets -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(TREES))
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_data_set_gives_tensors(make_tree, name, split):
    """Frames, joints, scores and labels as `Clips` promises; three crops a clip in evaluation."""
    cfg = make_tree(name)
    poses_for(cfg, split)
    if split == "train":
        dataset = Clips(cfg, split, train=True)
        views = ()                                # no axis for the one crop
    else:
        dataset = Clips(cfg, split, train=False, views=3)
        views = (3,)

    batch = next(iter(torch.utils.data.DataLoader(dataset, 2)))
    joints = JOINT_SETS[cfg.entry.joints].names
    J = len(joints)
    assert not batch["broken"].any(), batch["error"]
    assert batch["frames"].dtype == torch.uint8
    assert batch["frames"].shape[1:] == (*views, 3, 3, 16, 16)
    assert batch["keypoints"].shape[1:] == (*views, 6, J, 2)
    assert batch["scores"].shape[1:] == (*views, 6, J)
    assert batch["label"].tolist() == [clip.label for clip in dataset.clips[:2]]

    assert dataset.joints == joints
    assert len(dataset.texts) == len(dataset.labels)
    assert dataset.texts[-1] == cfg.entry.prompt.format(dataset.labels[-1])


def fast_for(*names):
    """The data sets as parameters; all but these are marked slow."""
    params = []
    for name in TREES:
        marks = () if name in names else (pytest.mark.slow,)
        params.append(pytest.param(name, marks=marks))
    return params


@pytest.mark.parametrize("name", fast_for("diving48"))
def test_two_steps_of_training(make_tree, name, tmp_path, monkeypatch):
    """train.py on every data set, from its official files to test metrics."""
    leave_out_pictures(monkeypatch)
    cfg = make_tree(name)
    poses_for(cfg, "train", "val", "test")
    batch = len(Clips(cfg, "train", train=True)) // 2
    out = tmp_path / "out"
    settings = {"backbone": "tiny", "image-size": 40, "pose-frames": 4, "video-frames": 2,
                "adapter-ratio": 0.25, "workers": 0, "epochs": 1, "warmup": 0, "log-every": 1,
                "batch": batch, "data": name, "root": cfg.folder, "out": out}
    assert train.main([f"--{key}={value}" for key, value in settings.items()]) == 0

    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows][-2:] == ["epoch", "test"]
    steps = [row for row in rows if row["kind"] == "step"]
    assert len(steps) >= 2
    assert all(math.isfinite(row["total"]) for row in steps)


def test_registry_agrees_with_the_published_counts():
    """Typed from the data sets' own pages, once more."""
    counts = {name: entry.counts for name, entry in data.DATASETS.items()}
    assert counts["diving48"] == {"v2": {"train": 15027, "test": 1970},
                                  "v1": {"train": 15943, "test": 2048}}
    assert counts["gym99"]["v1.0"] == {"train": 20484, "val": 8521}
    assert counts["gym99"]["v1.1"]["train"] == 26320
    assert counts["gym288"]["v1.0"] == {"train": 22671, "val": 9646}
    assert counts["haa500"][""] == {"train": 8000, "val": 500, "test": 1500}
    assert counts["smarthome"]["cs"] == {"train": 10682, "test": 5433}
    assert counts["ucf101"]["3"] == {"train": 9624, "test": 3696}
    assert counts["hmdb51"]["1"]["test"] == 1530


def test_registry_agrees_with_the_published_classes():
    """How many there are; 19 of Smarthome's 31 are told apart across cameras."""
    classes = {name: entry.classes for name, entry in data.DATASETS.items()}
    assert classes == {"toy": 16, "diving48": 48, "gym99": 99, "gym288": 288, "haa500": 500,
                       "smarthome": 31, "k400": 400, "ucf101": 101, "hmdb51": 51, "custom": 0}
    assert len(SMARTHOME) == 31
    assert len(set(SMARTHOME) - set(SMARTHOME_NOT_BY_CAMERA)) == 19


def test_registry_measures_what_others_report():
    """Smarthome by the mean over classes, FineGym by both."""
    assert data.DATASETS["smarthome"].metrics[0] == "mean"
    assert data.DATASETS["gym99"].metrics[0] == "top1"
    assert "mean" in data.DATASETS["gym99"].metrics


def test_smarthome_keeps_its_thirteen_joints(make_tree):
    """Its public poses have 13 joints, and nothing makes 17 of them."""
    cfg = make_tree("smarthome")
    poses_for(cfg, "train")
    dataset = Clips(cfg, "train", train=True)
    assert dataset.joints == JOINT_SETS["smarthome13"].names
    assert dataset[0]["scores"].shape == (6, 13)


def test_k400_finds_poses_by_video_id(make_tree):
    """A pose file may be called by the video's id alone, or by id and seconds."""
    cfg = make_tree("k400")
    pose(cfg.folder, "-3B32lodo2M")
    pose(cfg.folder, "_dbcJuKJQNs_000000_000001")
    dataset = Clips(cfg, "train", train=True)
    assert [item["error"] for item in (dataset[0], dataset[1])] == ["", ""]


# ---- What a sample depends on --------------------------------------------------------------------


@pytest.fixture
def three_clips(make_tree):
    """The training split of Diving48's tree, with poses."""
    cfg = make_tree("diving48")
    poses_for(cfg, "train")
    return Clips(cfg, "train", train=True)


def test_samples_are_the_same_when_drawn_again(three_clips):
    """Everything random is drawn from seed, epoch and index, and from nothing before."""
    first = three_clips[1]
    again = Clips(three_clips.cfg, "train", train=True)
    again[0]
    for name in ("frames", "keypoints", "scores"):
        assert torch.equal(first[name], again[1][name]), name


def test_samples_depend_on_the_epoch(three_clips):
    """Item index + epoch * length is the clip of that index, drawn anew."""
    later = three_clips[1 + len(three_clips)]
    assert later["index"] == 1
    assert not torch.equal(later["keypoints"], three_clips[1]["keypoints"])


def test_samples_depend_on_index_and_seed(three_clips):
    """The tree's clips and poses are copies: what differs is what was drawn."""
    first = three_clips[1]
    reseeded = Clips(dataclasses.replace(three_clips.cfg, seed=1), "train", train=True)
    assert not torch.equal(first["keypoints"], three_clips[2]["keypoints"])
    assert not torch.equal(first["keypoints"], reseeded[1]["keypoints"])


def test_samples_do_not_depend_on_workers(three_clips):
    """Two worker processes give what this process gives."""
    loaded = list(torch.utils.data.DataLoader(three_clips, None, num_workers=2))
    first = three_clips[1]
    assert torch.equal(loaded[1]["frames"], first["frames"])
    assert torch.equal(loaded[1]["keypoints"], first["keypoints"])


def test_reading_videos_alone(make_tree):
    """Without pose files: frames, and no joint is there."""
    item = Clips(make_tree("diving48", read_poses=False), "train", train=True)[0]
    assert not item["broken"], item["error"]
    assert item["frames"].float().std() > 0
    assert (item["scores"] == 0).all()


def test_reading_poses_alone(make_tree):
    """Without videos: joints, and the frames are black."""
    cfg = make_tree("diving48", read_video=False)
    poses_for(cfg, "train")
    item = Clips(cfg, "train", train=True)[0]
    assert not item["broken"], item["error"]
    assert (item["frames"] == 0).all()
    assert (item["scores"] == 1).all()


# ---- Poses beside videos -------------------------------------------------------------------------

UNKNOWN = np.nan
CLIP = Clip(id="c", path="c.mp4", label=0)        # a clip that is its whole file
INSTANTS = np.arange(50) / 25                     # of the frames of CLIP


def poses_at(times):
    """A PoseClip with a row at each of these times."""
    rows = len(times)
    return PoseClip(keypoints=np.zeros((rows, 17, 2)), scores=np.ones((rows, 17)), size=(48, 64),
                    times=times, joints=COCO)


def span(start, end, unit):
    """A piece of a video whose pose file covers the whole video."""
    return Clip(id="c", path="v.mp4", label=0, start=start, end=end, unit=unit, pose="v")


def test_tie_takes_as_many_rows_as_frames_one_for_one():
    """A row for each frame: then the frames' clock holds, whatever times the rows carry."""
    rows, clock = data.tie(poses_at(np.arange(50) / 30 + 7), CLIP, INSTANTS, COCO)
    assert rows.tolist() == list(range(50))
    assert (clock == INSTANTS).all()


def test_tie_goes_by_times_that_are_known():
    """Rows at another rate are tied by time."""
    rows, clock = data.tie(poses_at(np.arange(20) / 10), CLIP, INSTANTS, COCO)
    assert rows.tolist() == list(range(20))
    assert np.allclose(clock, np.arange(20) / 10)


def test_tie_spreads_rows_whose_times_are_unknown():
    """25 rows of 50 frames: evenly, from the first frame to the last."""
    _, clock = data.tie(poses_at(np.full(25, UNKNOWN)), CLIP, INSTANTS, COCO)
    assert np.allclose(clock, np.linspace(0, INSTANTS[-1], 25))


def test_tie_cuts_a_file_of_the_whole_video_by_seconds():
    """0.4 to 0.8 s of 25 rows a second: rows 10 to 19, and the clock begins anew."""
    rows, clock = data.tie(poses_at(INSTANTS), span(0.4, 0.8, "s"), np.arange(10) / 25, COCO)
    assert rows.tolist() == list(range(10, 20))
    assert clock[0] == 0


def test_tie_cuts_a_file_of_the_whole_video_by_frames():
    """Frames 3 to 6; no video is needed for it."""
    rows, clock = data.tie(poses_at(INSTANTS), span(3, 7, "f"), None, COCO)
    assert rows.tolist() == [3, 4, 5, 6]
    assert clock[0] == 0


def test_tie_lays_unknown_times_over_the_frames_of_the_clip():
    """98 rows of a whole video, a clip of frames 60 to 99: its rows fill its own clock."""
    instants = np.arange(40) / 10
    rows, clock = data.tie(poses_at(np.full(98, UNKNOWN)), span(60, 100, "f"), instants, COCO)
    assert rows.tolist() == list(range(60, 98))
    assert np.allclose(clock, np.linspace(0, 3.9, 38)), "the clock is not the clip's"


@pytest.mark.parametrize("fps", [24, 25, 30])
@pytest.mark.parametrize("start, end", [(0.6000000000000001, 1.0000000000000002), (0.334, 0.667),
                                        (1.2, 1.6), (0, 0.4)])
def test_tie_cuts_rows_where_frames_are_cut(fps, start, end):
    """A window between two frames keeps as many rows as frames: both begin a millisecond early."""
    seconds = np.arange(10 * fps) / fps
    first, last = np.searchsorted(seconds, [start - 1e-3, end - 1e-3])    # as support/video.py cuts
    instants = seconds[first:last] - seconds[first]
    rows, _ = data.tie(poses_at(seconds), span(start, end, "s"), instants, COCO)
    assert rows.tolist() == list(range(first, last))


@pytest.mark.parametrize("times", [np.arange(20) / 25, np.full(90, UNKNOWN), np.full(35, UNKNOWN)],
                         ids=["ends too early", "more rows than frames", "no whole step"])
def test_tie_refuses_rows_that_do_not_go_with_the_frames(times):
    """Of 50 frames: 20 rows at their rate, and numbers of rows that no even spacing gives."""
    with pytest.raises(ValueError, match="wrong pose length"):
        data.tie(poses_at(times), CLIP, INSTANTS, COCO)


def test_tie_refuses_a_file_that_ends_before_the_clip():
    """Two seconds of rows, and a clip that begins at nine."""
    with pytest.raises(ValueError, match="pose file ends before 9 s"):
        data.tie(poses_at(INSTANTS), span(9, 10, "s"), INSTANTS, COCO)


def test_tie_refuses_other_joints_than_the_first_file_has():
    """A data set has one set of joints."""
    with pytest.raises(ValueError, match="joints"):
        data.tie(poses_at(INSTANTS), CLIP, INSTANTS, JOINT_SETS["smarthome13"].names)


def test_joints_are_read_at_the_moments_of_the_video():
    """Rows ten a second, to 2.2 s, beside frames to 1.96 s: the moments are those of the frames."""
    clips = Clips.__new__(Clips)                  # of which only the joints are read
    clips.joints = COCO
    poses = poses_at(np.arange(23) / 10)
    poses.keypoints[:] = np.arange(23)[:, None, None]
    keypoints, _ = clips._joints_at(poses, CLIP, INSTANTS, np.full(3, 0.5))
    assert keypoints[:, 0, 0].tolist() == [3, 10, 16], "by the clock of the poses: 3, 11, 19"


@pytest.mark.parametrize("end, fits", [(1.62, True), (1.58, False), (2.30, True), (2.34, False)])
def test_tie_takes_rows_that_end_near_the_last_frame(end, fits):
    """A tenth of the 1.96 s and four frames: 0.356 s before or behind it."""
    assert data.covers(np.array([0, end]), INSTANTS) == fits


@pytest.mark.parametrize("rows, fits", [(50, True), (45, True), (44, False), (13, True), (12, True),
                                        (10, False), (5, False)])
def test_tie_takes_every_frame_to_every_fourth(rows, fits):
    """Of 50 frames; a tenth of them may be lost, and every fifth is too few."""
    assert data.is_even(rows, 50) == fits


# ---- The same clips twice ------------------------------------------------------------------------


def test_a_clip_of_two_lists_is_known_by_its_span(make_tree):
    """Whatever it is called; another span of the same video is another clip."""
    cfg = make_tree("custom", read_poses=False)
    text(cfg.folder, "clips.csv", "path,label,split,start,end\n"
         "v/one.mp4,wave,train,0.1,0.3\nv/one.mp4,wave,test,0.10,0.30\nv/one.mp4,wave,test,0.3,\n")
    trained = Clips(cfg, "train", train=True)
    tested = Clips(cfg, "test", train=False)
    assert data.shared_clips(trained, tested) == ["v/one_0.10_0.30"]


def test_other_poses_are_other_data(three_clips):
    """What a run is trained on is known by its joints, too; moved files are the same."""
    before = data.fingerprint_clips(three_clips)
    assert data.fingerprint_clips(three_clips) == before
    pose(three_clips.cfg.folder, three_clips.clips[0].id, frames=11)
    assert data.fingerprint_clips(three_clips) != before


def test_a_test_split_that_serves_for_validation_is_told(make_tree, capsys):
    """Diving48 has no third list: what chooses the epoch is what is measured."""
    cfg = make_tree("diving48", read_poses=False)
    Clips(cfg, "val", train=False)
    assert "diving48 has no third split; test serves for validation too" in capsys.readouterr().out
    Clips(cfg, "test", train=False)
    assert "third split" not in capsys.readouterr().out
