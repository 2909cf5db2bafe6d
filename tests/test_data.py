"""data.py: decoding against decode-everything, joints that stay on their pixel, faults, and the command
line. What the official files say is in test_annotations.py."""
import dataclasses
import json
import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import data
import train
from data import Clips, DataConfig
from published.annotations import Clip
from eval import evaluate
from report.text import summary
from pose import JOINT_SETS, read_pose, write_pose
from published.annotations import SMARTHOME, SMARTHOME_NOT_BY_CAMERA
from support import video
from support.sampling import video_frame_index
from trees import (COCO, GYM_IDS, TREES, everything, number_in, pose, poses_for, put, read, small, text, tree,
                   write_video)

ROOT = Path(__file__).resolve().parents[1]

# ------------------------------------------------------------------------------- ties of equal texts


class Undecided(torch.nn.Module):
    """Gives every label the same score, but for rounding that differs from label to label."""
    compares_texts = True

    def encode_texts(self):
        return "encoded"

    def forward(self, batch):
        return batch["label"]

    def class_logits(self, label, text):
        return {"all": torch.tensor([0.0, 1, 1 + 1e-6, 0]).repeat(len(label), 1)}


def test_gym288_ties_go_to_the_lower_label_and_are_counted(tree):
    cfg = tree("gym288", read_poses=False)
    dataset = Clips(cfg, "test", False)                            # one clip, of the higher of two equal labels
    result = evaluate(Undecided(), dataset, 1, "cpu", progress=False)
    assert result["predictions"][0]["predicted"] == 1 and result["ties"] == 1 and result["top1"] == 0
    assert result["top5"] == 1 and result["mean"] == 0             # of the one label that has clips
    lines = summary(result, dataset.labels)
    assert "1 clips were tied" in lines
    os.unlink(dataset.clips[0].path)
    result = evaluate(Undecided(), dataset, 1, "cpu", progress=False)
    assert result["ties"] == 0 and result["errors"] == [GYM_IDS[2]]       # a clip that is not read ties nothing


# ------------------------------------------------------------------------------- whole data sets


@pytest.mark.parametrize("name", list(TREES))
def test_every_data_set_gives_tensors(tree, name):
    cfg = tree(name)
    for split, train, views in (("train", True, 1), ("test", False, 3)):
        poses_for(cfg, split)
        dataset = Clips(cfg, split, train, views)
        J, lead = len(JOINT_SETS[cfg.entry.joints].names), () if train else (3,)
        batch = next(iter(torch.utils.data.DataLoader(dataset, 2)))
        assert batch["frames"].shape[1:] == lead + (3, 3, 16, 16) and batch["frames"].dtype == torch.uint8
        assert batch["keypoints"].shape[1:] == lead + (6, J, 2) and batch["scores"].shape[1:] == lead + (6, J)
        assert not batch["broken"].any(), batch["error"]
        assert batch["label"].tolist() == [clip.label for clip in dataset.clips[:2]]
        assert dataset.joints == JOINT_SETS[cfg.entry.joints].names and len(dataset.texts) == len(dataset.labels)
        assert cfg.entry.prompt.format(dataset.labels[-1]) == dataset.texts[-1]


@pytest.mark.parametrize("name", [name if name == "diving48" else pytest.param(name, marks=pytest.mark.slow)
                                  for name in TREES])
def test_two_steps_of_training(tree, name, tmp_path, monkeypatch):
    """train.py on every data set, from its official files to test metrics."""
    cfg = tree(name)
    for split in ("train", "val", "test"):
        poses_for(cfg, split)
    for picture in ("write_results", "write_report", "draw_curves"):       # half of the time; test_train.py draws them
        monkeypatch.setattr(train, picture, lambda *_: None)
    batch = len(Clips(cfg, "train", True)) // 2
    flags = ("--backbone tiny --image-size 40 --pose-frames 4 --video-frames 2 --adapter-ratio 0.25 --workers 0 "
             f"--epochs 1 --warmup 0 --log-every 1 --batch {batch} --data {name} --root {cfg.folder} --out {tmp_path}/out")
    assert train.main(flags.split()) == 0
    rows = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows][-2:] == ["epoch", "test"]
    assert sum(row["kind"] == "step" for row in rows) >= 2 and all(math.isfinite(row["total"]) for row in rows[:2])


@pytest.mark.parametrize("name", list(TREES))
def test_layout_and_check(tree, name, capsys):
    cfg = tree(name)
    assert data.main(["layout", name]) == 0
    shown = capsys.readouterr().out
    assert all(line.strip() in shown for line in cfg.entry.layout.splitlines())
    assert data.main(["check", name, "--root", str(cfg.folder)]) == 1       # no poses yet
    assert "without a pose file" in capsys.readouterr().out
    for split in ("train", "val", "test"):
        poses_for(cfg, split)
    assert data.main(["check", name, "--root", str(cfg.folder), "--full"]) == 0, capsys.readouterr().out
    assert "training would work" in capsys.readouterr().out


def test_check_names_what_is_wrong(tree, capsys):
    cfg = tree("diving48")
    poses_for(cfg, "train")
    (cfg.folder / "rgb/a_b0PT-u8k_00156.mp4").unlink()
    (cfg.folder / "rgb/x_x0PT-u8k_00157.mp4").write_bytes(b"")
    assert data.main(["check", "diving48", "--root", str(cfg.folder)]) == 1
    out = capsys.readouterr().out
    assert "train: 3 clips listed (official: 15027), 2 found, 48 classes, 17 joints" in out
    assert "1 missing: " in out and "a_b0PT-u8k_00156.mp4" in out and "1 unreadable of 2 tried: x_x0PT" in out
    assert "45 classes without clips: Back, dive, no twist, tuck position" in out
    assert "training would fail" in out and "the counts of V1" in out
    assert data.main(["check", "gym99", "--root", str(cfg.folder)]) == 2
    assert "gym99_categories.txt" in capsys.readouterr().err


def rows_of(folder, small, **counts):
    """A csv whose training clips are that many spans of each of these files; one sound test clip."""
    rows = [f"v/{name}.mp4,wave,train,{i / 1000:.3f}," for name, n in counts.items() for i in range(n)]
    text(folder, "clips.csv", "\n".join(["path,label,split,start,end", *rows, "v/sound.mp4,wave,test,,"]))
    put(folder, small, "v/sound.mp4", "v/unposed.mp4")
    (folder / "v/zbroken.mp4").write_bytes(b"")
    for name in ("sound", "zbroken", "missing"):
        pose(folder, name)


@pytest.mark.parametrize("counts, flags, code", [
    ({"sound": 99, "missing": 1}, (), 0),                          # 1 % may be lost, as in training
    ({"sound": 98, "missing": 2}, (), 1), ({"sound": 98, "missing": 2}, ("--allow-broken",), 0),
    ({"sound": 98, "unposed": 2}, (), 1), ({"sound": 98, "unposed": 2}, ("--no-read-poses",), 0),
    ({"sound": 98, "zbroken": 2}, ("--full",), 1), ({"sound": 97, "zbroken": 3}, ("--allow-broken",), 0),
    ({"missing": 3}, ("--allow-broken",), 1)])                     # nothing is left
def test_check_fails_when_training_would(tmp_path, small, counts, flags, code, capsys):
    rows_of(tmp_path, small, **counts)
    assert data.main(["check", "custom", "--root", str(tmp_path), *flags]) == code, capsys.readouterr().out


def test_check_looks_at_every_split_and_with_full_at_every_clip(tmp_path, small, capsys):
    rows_of(tmp_path, small, sound=99, zbroken=1)                  # the last of 100: not in the sample of 50
    check = lambda *flags: (data.main(["check", "custom", "--root", str(tmp_path), *flags]), capsys.readouterr().out)
    assert "unreadable" not in check()[1] and "1 unreadable of 100 tried: v/zbroken" in check("--full")[1]
    rows_of(tmp_path, small, sound=5)
    assert check()[0] == 0
    pose(tmp_path, "sound", 31)
    assert check()[0] == 1 and "v/sound: wrong pose length" in check()[1]
    pose(tmp_path, "sound")
    content = (tmp_path / "clips.csv").read_text()
    text(tmp_path, "clips.csv", content.replace("v/sound.mp4,wave,test", "v/gone.mp4,wave,test"))
    code, out = check()
    assert code == 1 and "train: 5 clips listed (official: not published), 5 found" in out and "1 missing" in out


def test_check_counts_clips_without_a_person(tmp_path, small, capsys):
    rows_of(tmp_path, small, sound=2)
    assert data.main(["check", "custom", "--root", str(tmp_path)]) == 0
    assert "training would work" in capsys.readouterr().out
    clip = read_pose(tmp_path / "poses" / "sound.npz")
    clip.scores[: len(clip.scores) * 2 // 3] = 0
    write_pose(tmp_path / "poses" / "sound.npz", **vars(clip))
    assert data.main(["check", "custom", "--root", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "training would work" not in said and "training would run, but 4 of 4 clips that were looked at" in said
    assert "2 of 2 clips show no person in more than 50 % of their frames" in said


def test_registry_agrees_with_the_published_counts():
    """Typed from the data sets' own pages, once more."""
    counts = {name: entry.counts for name, entry in data.DATASETS.items()}
    assert counts["diving48"] == {"v2": {"train": 15027, "test": 1970}, "v1": {"train": 15943, "test": 2048}}
    assert counts["gym99"]["v1.0"] == {"train": 20484, "val": 8521} and counts["gym99"]["v1.1"]["train"] == 26320
    assert counts["gym288"]["v1.0"] == {"train": 22671, "val": 9646}
    assert counts["haa500"][""] == {"train": 8000, "val": 500, "test": 1500}
    assert counts["smarthome"]["cs"] == {"train": 10682, "test": 5433} and len(SMARTHOME) == 31
    assert len(set(SMARTHOME) - set(SMARTHOME_NOT_BY_CAMERA)) == 19
    assert counts["ucf101"]["3"] == {"train": 9624, "test": 3696} and counts["hmdb51"]["1"]["test"] == 1530
    classes = {name: entry.classes for name, entry in data.DATASETS.items()}
    assert classes == {"toy": 16, "diving48": 48, "gym99": 99, "gym288": 288, "haa500": 500,
                       "smarthome": 31, "k400": 400, "ucf101": 101, "hmdb51": 51, "custom": 0}
    metrics = {name: entry.metrics[0] for name, entry in data.DATASETS.items()}
    assert metrics["smarthome"] == "mean" and metrics["gym99"] == "top1"
    assert "mean" in data.DATASETS["gym99"].metrics


# ------------------------------------------------------------------------------- decoding

NO_SHRINK = (Phase.explicit, Phase.reuse, Phase.generate)          # an example costs an encoding
CODECS = [("mp4", "libx264"), ("mp4", "mpeg4"), ("webm", "libvpx-vp9"), ("avi", "mpeg4"), ("avi", "libx264"), ("mkv", "libx264")]


def same_as_oracle(folder, file, frames, fps, gop, b_frames, picks, span=None):
    path = write_video(folder / f"v.{file[0]}", frames, file[1], fps, gop, b_frames)
    every = everything(path)
    assert [number_in(image) for image in every] == list(range(frames))
    clip = Clip("", "", 0) if span is None else Clip("", "", 0, *span)
    first = 0 if span is None else int(span[0]) if span[2] == "f" else round(span[0] * fps)
    picks = np.array(picks)
    got, instants = read(path, lambda at: picks % len(at), clip)
    for image, k in zip(got, picks % len(instants)):
        assert (image == every[first + k]).all()
    assert np.abs(instants - np.arange(len(instants)) / fps).max() < 0.002       # webm counts milliseconds
    return instants


@settings(max_examples=12, phases=NO_SHRINK)
@given(st.sampled_from(CODECS), st.integers(1, 60), st.integers(10, 60), st.integers(1, 250), st.integers(0, 3),
       st.lists(st.integers(0, 300), min_size=1, max_size=8))
def test_decode_equals_decoding_everything(tmp_path_factory, file, frames, fps, gop, b_frames, picks):
    same_as_oracle(tmp_path_factory.mktemp("v"), file, frames, fps, gop, b_frames, picks)


@pytest.mark.slow
@settings(max_examples=300, phases=NO_SHRINK)
@given(st.sampled_from(CODECS), st.integers(1, 200), st.integers(10, 60), st.integers(1, 250), st.integers(0, 4),
       st.lists(st.integers(0, 300), min_size=1, max_size=16))
def test_decode_equals_decoding_everything_long(tmp_path_factory, file, frames, fps, gop, b_frames, picks):
    same_as_oracle(tmp_path_factory.mktemp("v"), file, frames, fps, gop, b_frames, picks)


@settings(max_examples=8, phases=NO_SHRINK)
@given(st.sampled_from(CODECS), st.integers(1, 40), st.integers(0, 2), st.integers(0, 50), st.integers(1, 25),
       st.sampled_from("sf"))
def test_decode_span_equals_slice(tmp_path_factory, file, gop, b_frames, first, length, unit):
    span = (first, first + length, "f") if unit == "f" else (first / 25, (first + length) / 25, "s")
    instants = same_as_oracle(tmp_path_factory.mktemp("v"), file, 80, 25, gop, b_frames, [0, 3, 99, 7], span)
    assert len(instants) == length


def test_decode_open_gop(tmp_path):
    path = write_video(tmp_path / "o.mp4", 60, "libx264", gop=8, b_frames=3,
                       options={"x264-params": "open-gop=1:scenecut=0"})
    every = everything(path)
    for k in range(60):
        assert (read(path, lambda at: [k])[0][0] == every[k]).all()


def test_decode_variable_rate_and_late_start(tmp_path):
    pts = [5, 6, 9, 10, 20, 21, 30, 50]
    path = write_video(tmp_path / "v.mkv", 8, "libx264", fps=10, b_frames=2, pts=pts)
    images, instants = read(path, lambda at: data.nearest(at, np.array([0.0, 0.42, 1.45, 1.6, 9.0])))
    assert np.allclose(instants, (np.array(pts) - 5) / 10)
    assert [number_in(image) for image in images] == [0, 2, 4, 5, 7]


def test_decode_special_files(tmp_path):
    one = write_video(tmp_path / "one.mp4", 1)
    assert len(read(one, lambda at: data.nearest(at, data.sample_instants(at, np.full(6, 0.5))))[0]) == 6
    odd = write_video(tmp_path / "odd.webm", 5, "libvpx-vp9", width=51, height=37)
    assert (read(odd, lambda at: [4])[0][0] == everything(odd)[4]).all()
    sound = write_video(tmp_path / "sound.mp4", 12, "libx264", audio=True)
    assert [number_in(image) for image in read(sound, lambda at: [11, 0, 4])[0]] == [11, 0, 4]
    assert read(sound, lambda at: [3], size=(20, 30))[0][0].shape == (20, 30, 3)
    threads = read(sound, lambda at: [3, 9], threads=2)[0]
    assert all((a == b).all() for a, b in zip(threads, read(sound, lambda at: [3, 9])[0]))


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_decode_turns_frames_upright(tmp_path, degrees):
    path = write_video(tmp_path / "r.mp4", 3, "libx264", rotation=degrees)
    seen = []
    image = data.decode(path, lambda at: [1], lambda H, W: seen.append((H, W)) or (H, W))[0][0]
    upright = np.rot90(everything(path)[1], degrees // 90)
    assert seen == [upright.shape[:2]] and np.abs(image.astype(int) - upright).max() <= 3


def test_decode_names_the_fault(tmp_path):
    good = write_video(tmp_path / "good.avi", 60, gop=5)
    cut = tmp_path / "cut.avi"
    cut.write_bytes(good.read_bytes()[:good.stat().st_size // 2])
    with pytest.raises(ValueError, match="truncated"):
        read(cut, lambda at: [0])
    with pytest.raises(ValueError, match="no frame between 9 and 10 s in 60 frames"):
        read(good, lambda at: [0], Clip("", "", 0, 9, 10))
    with av.open(str(tmp_path / "song.mp4"), "w") as out:
        sound = out.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        out.mux(sound.encode(frame)), out.mux(sound.encode())
    with pytest.raises(ValueError, match="no video"):
        read(tmp_path / "song.mp4", lambda at: [0])
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("empty.mp4", "none.mp4"):
        with pytest.raises(data.BROKEN):
            read(tmp_path / name, lambda at: [0])


# ------------------------------------------------------------------------------- sampling and views


@given(st.integers(1, 16), st.integers(1, 6))
def test_video_frames_are_pose_frames(Tv, times):
    at = video_frame_index(Tv * times, Tv)
    assert len(set(at)) == Tv and at.min() >= 0 and at.max() < Tv * times
    assert (np.diff(at) == times).all()
    assert video_frame_index(48, 16).tolist() == list(range(1, 48, 3)) and video_frame_index(8, 8).tolist() == list(range(8))
    assert video_frame_index(32, 4).tolist() == [4, 12, 20, 28]           # each in the middle of its T / Tv pose frames


@given(st.integers(1, 80), st.integers(1, 48), st.floats(0.01, 1), st.integers(0, 9))
def test_instants_cover_the_clip_evenly(n, T, gap, seed):
    instants = np.arange(n) * gap
    middle = data.nearest(instants, data.sample_instants(instants, np.full(T, 0.5)))
    if T % n == 0:
        assert (np.bincount(middle, minlength=n) == T // n).all()       # every frame as often as the next
    if n % T == 0 and n // T % 2:
        assert middle.tolist() == [i * (n // T) + n // T // 2 for i in range(T)]
    drawn = data.nearest(instants, data.sample_instants(instants, np.random.default_rng(seed).random(T)))
    assert (np.diff(drawn) >= 0).all() and 0 <= drawn.min() and drawn.max() < n
    brute = np.abs(instants[None] - data.sample_instants(instants, np.full(T, 0.25))[:, None])
    assert np.allclose(brute.min(1), brute[np.arange(T), data.nearest(
        instants, data.sample_instants(instants, np.full(T, 0.25)))])


def spot(x, y, width, height):
    """A soft white dot centred on pixel (x, y)."""
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    return (255 * np.exp(-((across - x) ** 2 + (down - y) ** 2) / 18)).astype(np.uint8)[..., None].repeat(3, 2)


def centre_of(image):
    """Centre of brightness in [-1, 1] of the crop."""
    weight = np.where(image.mean(0) > 40, image.mean(0), 0)
    side = weight.shape[0]
    at = (np.arange(side) + 0.5) / side * 2 - 1
    return (weight.sum(0) * at).sum() / weight.sum(), (weight.sum(1) * at).sum() / weight.sum()


@pytest.fixture(scope="module")
def dots(tmp_path_factory):
    """Videos of a dot that stands still, with its joint: (width, height) -> root, the dot's place."""
    made = {}
    for width, height in ((160, 96), (96, 160)):
        root, x, y = tmp_path_factory.mktemp("dots"), width * 0.45, height * 0.55
        text(root, "clips.csv", "path,label,split\nd.mp4,dot,train\nd.mp4,dot,test\n")
        write_video(root / "d.mp4", codec="libx264", width=width, height=height, images=[spot(x, y, width, height)] * 4)
        keypoints = np.full((4, 17, 2), -50.0)
        keypoints[:, 1] = x, y                                   # the left eye
        # the poses were made on frames of twice the size, where the pixel's centre is at 2 x + 0.5
        write_pose(root / "poses/d.npz", keypoints * 2 + 0.5, np.ones((4, 17)), (2 * height, 2 * width),
                   np.arange(4) / 25, COCO)
        made[width, height] = root
    return made


def test_views_by_hand():
    """Sizes and corners worked out by hand: rounded to the nearest whole pixel, so that no crop is resampled twice."""
    wide = data.test_view(240, 331, 224, 3)                        # 331 * 224 / 240 = 308.9; 85 / 2 = 42.5
    assert wide.size == (224, 309) and wide.boxes.tolist() == [[0, 0, 224, 224], [43, 0, 267, 224], [85, 0, 309, 224]]
    tall = data.test_view(331, 240, 224, 1)
    assert tall.size == (309, 224) and tall.boxes.tolist() == [[0, 43, 224, 267]] and not tall.flip
    draws = np.array([0, 0.5, 0.37, 0.61, 0.499])                  # half the area, square: 173.2 pixels
    small = data.train_view(200, 300, 50, draws, 0.5, True)        # 0.37 * 37 = 13.7; 0.61 * 8 = 4.9
    assert small.size == (58, 87) and small.boxes.tolist() == [[14, 5, 64, 55]] and small.flip
    large = data.train_view(200, 300, 224, draws + (0, 0, 0, 0, 0.001), 0.5, True)
    assert large.size == (200, 300) and not large.flip             # half of the draws mirror
    assert large.boxes[0] == pytest.approx([46.92, 16.35, 220.12, 189.55], abs=0.01)
    assert not data.train_view(200, 300, 50, draws, 0.5, False).flip
    narrow = data.train_view(200, 300, 224, np.array([0.2, 0, 0, 0, 0]), 0.5, False).boxes[0]
    assert narrow == pytest.approx([0, 0, (36000 * 3 / 4) ** 0.5, 200])     # area 60 %, ratio 3 / 4, cut at the edge


@settings(max_examples=40)
@given(st.sampled_from([(160, 96), (96, 160)]), st.sampled_from([24, 40, 64]), st.floats(0.2, 1), st.booleans(),
       st.integers(0, 10 ** 6))
def test_joint_stays_on_its_pixel_in_training(dots, shape, side, crop_area, flip, seed):
    cfg = DataConfig(data="custom", root=str(dots[shape]), pose_frames=2, video_frames=1, image_size=side,
                     crop_area=crop_area, flip=flip, jitter=0.2, seed=seed)
    item = Clips(cfg, "train", True)[3]
    eyes = item["keypoints"][0, 1:3].numpy()
    mirrored = abs(eyes[1]).max() < abs(eyes[0]).max()
    joint = eyes[1] if mirrored else eyes[0]                      # mirrored, the left eye is a right eye
    assert flip or not mirrored
    if abs(joint).max() < 0.55:                                   # the whole dot is inside
        assert np.abs(np.array(centre_of(item["frames"][0].numpy())) - joint).max() < 0.2 * 2 / side


@pytest.mark.parametrize("shape", [(160, 96), (96, 160)])
@pytest.mark.parametrize("side", [24, 64, 120])
@pytest.mark.parametrize("views", [1, 3])
def test_joint_stays_on_its_pixel_in_test_crops(dots, shape, side, views):
    cfg = DataConfig(data="custom", root=str(dots[shape]), pose_frames=2, video_frames=1, image_size=side)
    item, far = Clips(cfg, "test", False, views)[0], 0 if shape[0] > shape[1] else 1
    assert item["frames"].shape == (views, 1, 3, side, side)
    places = item["keypoints"][:, 0, 1, far].tolist()
    assert places == sorted(places, reverse=True) and len(set(places)) == views
    for crop, joint in zip(item["frames"][:, 0].numpy(), item["keypoints"][:, 0, 1].numpy()):
        if abs(joint).max() < 0.6:
            assert np.abs(np.array(centre_of(crop)) - joint).max() < 0.2 * 2 / side


@given(st.integers(20, 400), st.integers(20, 400), st.integers(8, 224), st.lists(st.floats(0, 0.999), min_size=5, max_size=5),
       st.floats(0.05, 1))
def test_views_lie_inside_the_frame(H, W, S, draws, crop_area):
    for view in (data.train_view(H, W, S, np.array(draws), crop_area, True), data.test_view(H, W, S, 3)):
        (h, w), boxes = view.size, view.boxes
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= w + 1e-6).all() and (boxes[:, 3] <= h + 1e-6).all()
        image = np.zeros((h, w, 3), np.uint8)
        assert all(data.cut(image, box, S).shape == (S, S, 3) for box in boxes)


def test_flip_swaps_left_and_right_joints():
    keypoints, scores = np.random.default_rng(0).uniform(0, 50, (3, 17, 2)), np.random.default_rng(1).random((3, 17))
    view, index = data.test_view(48, 64, 16, 1), JOINT_SETS["coco17"].flip_index
    plain, kept = data.place(keypoints, scores, (48, 64), view, index)
    mirrored, swapped = data.place(keypoints, scores, (48, 64), view._replace(flip=True), index)
    assert np.allclose(mirrored[..., 5, 0], -plain[..., 6, 0]) and np.allclose(swapped[..., 5], kept[..., 6])
    assert np.allclose(mirrored[:, :, index] * (-1, 1), plain)    # twice is not at all


def test_labels_with_sides_turn_flips_off(tree, capsys):
    cfg = tree("custom", flip=True)
    assert Clips(cfg, "train", True).flip
    text(cfg.folder, "clips.csv", "path,label,split\nv/one.mp4,wave the Left hand,train\n")
    capsys.readouterr()
    assert not Clips(cfg, "train", True).flip
    assert "no clip is mirrored" in capsys.readouterr().out
    text(cfg.folder, "clips.csv", "path,label,split\nv/one.mp4,leftovers,train\n")
    assert Clips(cfg, "train", True).flip and not capsys.readouterr().out


def test_tint_by_hand():
    """Brightness, contrast about 127.5 and saturation, each alone, on a pixel whose luma is 102.2."""
    pixel = np.array([[[150, 90, 40]]], np.uint8)
    luma = 0.299 * 150 + 0.587 * 90 + 0.114 * 40
    for draws, expected in (((0.75, 0.5, 0.5), pixel * 1.2), ((0.5, 0.25, 0.5), (pixel - 127.5) * 0.8 + 127.5),
                            ((0.5, 0.5, 0), luma + 0.6 * (pixel - luma)), ((0.5, 0.5, 0.5), pixel)):
        assert np.abs(data.tint([pixel], np.array(draws), 0.4)[0] - expected).max() <= 1


def test_jitter_is_one_draw_for_a_training_clip(tree):
    cfg = tree("diving48", read_poses=False, flip=False, crop_area=1.0)
    numbers = dataclasses.replace(cfg, jitter=0.4)
    plain, tinted = Clips(cfg, "train", True)[1]["frames"].float(), Clips(numbers, "train", True)[1]["frames"].float()
    assert (plain - tinted).abs().mean() > 2
    frames = [Clips(dataclasses.replace(numbers, pose_frames=60, video_frames=60), "train", True)[1]["frames"]]
    black = frames[0][:, :, 2, 12].float()                         # a bar that is black in all twelve pictures
    assert (black.amax(0) - black.amin(0)).max() <= 6
    test = [Clips(some, "test", False)[0]["frames"] for some in (cfg, numbers)]
    assert torch.equal(*test)


def test_joint_noise_and_drop(tree):
    cfg = tree("diving48", joint_noise=0.0)
    poses_for(cfg, "train")
    how = {"data": "diving48", "root": str(cfg.folder), "pose_frames": 6, "video_frames": 3, "image_size": 16}
    plain = Clips(DataConfig(**how), "train", True)[1]
    noisy = Clips(DataConfig(**how, joint_noise=0.05, joint_drop=0.3), "train", True)[1]
    assert torch.equal(plain["frames"], noisy["frames"])
    moved = (plain["keypoints"] - noisy["keypoints"]).std()
    assert 0.05 < moved < 0.4 and 0.1 < (noisy["scores"] == 0).float().mean() < 0.5
    still = Clips(DataConfig(**how, joint_noise=0.05, joint_drop=0.3), "test", False)[0]
    assert (still["scores"] > 0).all()


def test_samples_depend_on_seed_epoch_and_index_alone(tree):
    cfg = tree("diving48")
    poses_for(cfg, "train")
    dataset, again = Clips(cfg, "train", True), Clips(cfg, "train", True)
    first, other = dataset[1], dataset[1 + len(dataset)]
    assert all(torch.equal(first[k], again[1][k]) for k in ("frames", "keypoints", "scores"))
    assert not torch.equal(first["keypoints"], other["keypoints"]) and other["index"] == 1
    neighbour, reseeded = again[2], Clips(dataclasses.replace(cfg, seed=1), "train", True)[1]     # the same files
    assert not torch.equal(first["keypoints"], neighbour["keypoints"])
    assert not torch.equal(first["keypoints"], reseeded["keypoints"])
    loaded = list(torch.utils.data.DataLoader(dataset, None, num_workers=2))
    assert torch.equal(loaded[1]["frames"], first["frames"]) and torch.equal(loaded[1]["keypoints"], first["keypoints"])


def test_reading_only_one_modality(tree):
    cfg = tree("diving48", read_poses=False)
    item = Clips(cfg, "train", True)[0]
    assert (item["scores"] == 0).all() and item["frames"].float().std() > 0 and not item["broken"]
    poses_for(tree("diving48"), "train")
    item = Clips(tree("diving48", read_video=False), "train", True)[0]
    assert (item["frames"] == 0).all() and (item["scores"] == 1).all() and not item["broken"]


# ------------------------------------------------------------------------------- poses beside videos


def pose_clip(rows, times):
    return data.read_pose(write_pose(Path(pose_clip.folder) / "p.npz", np.zeros((rows, 17, 2)), np.ones((rows, 17)),
                                     (48, 64), times, COCO))


def test_pose_and_video_are_tied_by_time(tmp_path):
    pose_clip.folder, instants = tmp_path, np.arange(50) / 25
    clip = Clip("c", "c.mp4", 0)
    rows, clock = data.tie(pose_clip(50, np.arange(50) / 30 + 7), clip, instants, COCO)
    assert (clock == instants).all() and len(rows) == 50          # a row per frame: its own clock is not needed
    rows, clock = data.tie(pose_clip(20, np.arange(20) / 10), clip, instants, COCO)
    assert np.allclose(clock, np.arange(20) / 10)                 # another rate: by time
    rows, clock = data.tie(pose_clip(25, np.full(25, np.nan)), clip, instants, COCO)
    assert clock[0] == 0 and clock[-1] == pytest.approx(instants[-1])     # unknown times: every second frame
    rows, clock = data.tie(pose_clip(50, np.arange(50) / 25), Clip("c", "v.mp4", 0, 0.4, 0.8, "s", "v"), np.arange(10) / 25, COCO)
    assert rows.tolist() == list(range(10, 20)) and clock[0] == 0        # a file for the whole video
    rows, clock = data.tie(pose_clip(50, np.arange(50) / 25), Clip("c", "v.mp4", 0, 3, 7, "f", "v"), None, COCO)
    assert rows.tolist() == [3, 4, 5, 6] and clock[0] == 0
    for rows, times in ((20, np.arange(20) / 25), (90, np.full(90, np.nan)), (35, np.full(35, np.nan))):
        with pytest.raises(ValueError, match="wrong pose length"):
            data.tie(pose_clip(rows, times), clip, instants, COCO)
    with pytest.raises(ValueError, match="pose file ends before 9 s"):
        data.tie(pose_clip(50, np.arange(50) / 25), Clip("c", "v.mp4", 0, 9, 10, "s", "v"), instants, COCO)
    with pytest.raises(ValueError, match="joints"):
        data.tie(pose_clip(50, np.arange(50) / 25), clip, instants, JOINT_SETS["smarthome13"].names)


def test_smarthome_keeps_its_thirteen_joints(tree):
    cfg = tree("smarthome")
    for split in ("train", "test"):
        poses_for(cfg, split)
    dataset = Clips(cfg, "train", True)
    assert dataset.joints == JOINT_SETS["smarthome13"].names and dataset[0]["scores"].shape == (6, 13)


def test_k400_finds_poses_by_video_id(tree):
    cfg = tree("k400")
    pose(cfg.folder, "-3B32lodo2M"), pose(cfg.folder, "_dbcJuKJQNs_000000_000001")
    dataset = Clips(cfg, "train", True)
    assert [dataset[k]["error"] for k in (0, 1)] == ["", ""]


# ------------------------------------------------------------------------------- faults


def break_clip(cfg, how):
    video, poses = cfg.folder / "rgb/a_b0PT-u8k_00156.mp4", cfg.folder / "poses/a_b0PT-u8k_00156.npz"
    if how == "missing video":
        video.unlink()
    elif how == "empty video":
        video.write_bytes(b"")
    elif how == "truncated video":
        video.write_bytes(video.read_bytes()[:400])
    elif how == "not a video":
        video.write_bytes(b"<html>403</html>" * 50)
    elif how == "missing pose":
        poses.unlink()
    elif how == "wrong pose length":
        pose(cfg.folder, "a_b0PT-u8k_00156", 31)
    elif how == "NaN in a pose":
        arrays = dict(np.load(poses))
        arrays["keypoints"][3, 4] = np.nan
        np.savez(poses, **arrays)


FAULTS = ["missing video", "empty video", "truncated video", "not a video", "missing pose", "wrong pose length",
          "NaN in a pose"]


@pytest.mark.parametrize("how", FAULTS)
def test_fault_is_replaced_in_training_and_wrong_in_evaluation(tree, how):
    cfg = tree("diving48")
    rows = json.loads((cfg.folder / "Diving48_V2_train.json").read_text())
    rows[2]["label"] = rows[1]["label"]                           # another clip of the same class
    text(cfg.folder, "Diving48_V2_train.json", json.dumps(rows))
    poses_for(cfg, "train")
    break_clip(cfg, how)
    train = Clips(cfg, "train", True)
    batch = next(iter(torch.utils.data.DataLoader(train, 3)))
    assert batch["broken"].tolist() == [False, True, False] and batch["label"].tolist() == [0, 2, 2]
    assert batch["index"].tolist() == [0, 1, 2] and batch["error"][1].startswith("a_b0PT-u8k_00156: ")
    assert batch["frames"][1].float().std() > 0
    item = Clips(cfg, "test", False, 3)[0]
    assert item["broken"] and item["label"] == 2 and (item["frames"] == 0).all() and (item["scores"] == 0).all()
    assert item["frames"].shape == (3, 3, 3, 16, 16)


def test_fault_without_any_replacement_stops(tree):
    cfg = tree("diving48")
    with pytest.raises(ValueError, match="nor can any of 49 replacements.*data.py check"):
        Clips(cfg, "train", True)[0]                              # no pose files at all


def test_fault_of_a_whole_class_takes_another_class(tree):
    cfg = tree("diving48")
    poses_for(cfg, "train")
    (cfg.folder / "rgb/a_b0PT-u8k_00156.mp4").unlink()
    item = Clips(cfg, "train", True)[1]
    assert item["broken"] and item["label"] in (0, 4) and item["index"] == 1


def without_codec(path):
    """Rename the codec of an mp4 to one that nobody knows."""
    content = path.read_bytes()
    assert b"mp4v" in content
    path.write_bytes(content.replace(b"mp4v", b"zzzz").replace(b"esds", b"free"))  # it is named twice


def test_fault_of_an_unknown_codec_is_the_clips(tree, capsys):
    """FFmpeg opens such a file and gives no decoder: this was an AttributeError that ended training."""
    cfg = tree("diving48", read_poses=False)
    without_codec(cfg.folder / "rgb/a_b0PT-u8k_00156.mp4")
    item = Clips(cfg, "train", True)[1]
    assert item["broken"] and item["error"].startswith("a_b0PT-u8k_00156: ") and "codec" in item["error"]
    assert Clips(cfg, "test", False)[0]["broken"]
    assert data.main(["check", "diving48", "--root", str(cfg.folder), "--no-read-poses", "--full"]) == 1
    assert "1 unreadable of 3 tried: a_b0PT-u8k_00156" in capsys.readouterr().out


@pytest.mark.parametrize("error", [AttributeError, TypeError, IndexError, ZeroDivisionError, OverflowError, AssertionError,
                                   UnicodeDecodeError, StopIteration, RecursionError])
def test_fault_of_any_kind_in_decoding_is_the_clips(tree, monkeypatch, error):
    cfg = tree("diving48", read_poses=False)
    real = video.decode_container

    def fail(container, *rest):
        if "a_b0PT" in container.name:
            raise error(*(["utf-8", b"x", 0, 1, "no"] if error is UnicodeDecodeError else ["no"]))
        return real(container, *rest)
    monkeypatch.setattr(video, "decode_container", fail)
    item = Clips(cfg, "train", True)[1]
    assert item["broken"] and item["error"].startswith("a_b0PT-u8k_00156: ") and "no" in item["error"]
    assert not Clips(cfg, "train", True)[0]["broken"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, SystemExit])
def test_what_is_no_fault_of_a_clip_ends_the_run(tree, monkeypatch, error):
    cfg = tree("diving48", read_poses=False)

    def fail(*_):
        raise error
    monkeypatch.setattr(video, "decode_container", fail)
    with pytest.raises(error):
        Clips(cfg, "train", True)[1]


@pytest.mark.parametrize("what", ["pipe", "folder", "device"])
def test_fault_of_what_is_no_regular_file(tree, what):
    """A pipe was waited for; a device may never end."""
    cfg = tree("diving48", read_poses=False)
    path = cfg.folder / "rgb/a_b0PT-u8k_00156.mp4"
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    items = []
    thread = threading.Thread(target=lambda: items.append(Clips(cfg, "test", False)[0]), daemon=True)
    thread.start()
    thread.join(20)
    assert items and items[0]["broken"] and "no regular file" in items[0]["error"]


# ------------------------------------------------------------------------------- the command line


@pytest.mark.parametrize("there", [True, False])
def test_check_of_the_toy_makes_nothing(tmp_path, there, capsys):
    root = tmp_path / "toy"
    if there:
        root.mkdir()
    assert data.main(["check", "toy", "--root", str(root)]) == 2
    assert "there is no " in capsys.readouterr().err and not list(tmp_path.rglob("*.*"))
    assert root.exists() == there


def test_command_line_of_data(tmp_path):
    def run(*words):
        return subprocess.run([sys.executable, str(ROOT / "data.py"), *words], capture_output=True, text=True, cwd=tmp_path)
    done = run("check", "hmdb51", "--root", str(tmp_path))
    assert done.returncode == 2 and done.stderr.startswith("error: hmdb51: there is no ") and done.stderr.count("\n") == 1
    done = run("layout", "hmbd51")
    assert done.returncode == 2 and "Did you mean 'hmdb51'" in done.stderr


def test_rows_are_cut_where_frames_are(tmp_path):
    """A window between two frames keeps as many rows as the decoder keeps frames: both begin a millisecond early."""
    pose_clip.folder = tmp_path
    for fps in (25, 30, 24):
        count = 10 * fps
        seconds = np.arange(count) / fps
        for start, end in ((.6000000000000001, 1.0000000000000002), (.334, .667), (1.2, 1.6), (0, .4)):
            first, last = np.searchsorted(seconds, [start - 1e-3, end - 1e-3])     # as support/video.py cuts
            span = Clip("c", "v.mp4", 0, start, end, "s", "v")
            rows, _ = data.tie(pose_clip(count, seconds), span, seconds[first:last] - seconds[first], COCO)
            assert rows.tolist() == list(range(first, last)), f"{fps} fps, {start} to {end} s"


def test_a_lost_class_does_not_stop_training(tree, monkeypatch):
    """After ten tries within the class any clip may stand in: a draw that always stays in the class would end the run."""
    cfg = tree("diving48")
    train = Clips(cfg, "train", True)
    lost = set(train.by_label[train.clips[0].label])
    assert len(lost) < len(train)

    def load(clip, rng):
        if train.clips.index(clip) in lost:
            raise ValueError("gone")
        return {}

    class Same:
        """Random numbers that always ask for the clip's own class, where that is a choice."""
        def random(self):
            return 0.0

        def choice(self, n):
            return n[0] if not isinstance(n, int) else next(i for i in range(n) if i not in lost)

    monkeypatch.setattr(train, "_load", load)
    _, chosen, error = train._load_or_replace(0, Same())
    assert chosen not in lost and "gone" in error
