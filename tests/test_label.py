"""label/: a video in, an answer out; folders, windows over time, other words, and the library."""
import csv
import doctest
import json
import math
import types

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import eval as ev
import pose
import train
from label import clips, labeller, poses
from label.command import stretches
from label.labeller import Answer
from pose import write_pose
from report.timeline import clock
from strategies import drawn
from test_eval import COCO, SMALL, write_tree


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("label")
    root = write_tree(folder / "data")
    assert train.main(["--data", "diving48", "--root", str(root), "--backbone", "tiny", "--out", str(folder / "out" / "run"),
                       "--epochs", "1", "--batch", "3", "--lr", "1e-3", *SMALL]) == 0
    return types.SimpleNamespace(root=root, run=folder / "out" / "run", folder=folder)


@pytest.fixture
def model(trained):
    return ev.load(trained.run)


def write_video(path, seconds=1.0, rate=8, nobody=0.0):
    """A moving square and joints on it, in FILE.npz beside FILE.mp4; the last `nobody` of the frames have none."""
    n = round(seconds * rate)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 112, 96, "yuv420p"
        for t in range(n):
            image = np.full((96, 112, 3), 60, np.uint8)
            image[20:60, (5 * t) % 80:(5 * t) % 80 + 30] = 200
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        file.mux(stream.encode())
    points = np.random.default_rng(n).uniform(10, 80, (n, 17, 2))
    scores = np.ones((n, 17))
    scores[round(n * (1 - nobody)):] = 0
    write_pose(path.with_suffix(".npz"), points, scores, (96, 112), np.arange(n) / rate, COCO, "test")
    return path


# ---- The library --------------------------------------------------------------------------------------------

def test_one_video_as_inside_its_data_set(trained, model, tmp_path):
    """load(run)(video) is the answer that the evaluation of the data set gives for the same clip."""
    ev.main(["--ckpt", str(trained.run), "--out", str(tmp_path), "--strips", "0", "--save-probabilities"])
    saved = np.load(tmp_path / "probabilities-test-1view.npz")
    for i, name in enumerate(saved["id"]):
        got = dict(model(trained.root / "rgb" / f"{name}.mp4"))
        assert [got[label] for label in saved["labels"]] == pytest.approx(saved["probabilities"][i].tolist(), abs=1e-6)
    ranked = model(trained.root / "rgb" / "test0.mp4", views=3)
    assert [p for _, p in ranked] == sorted((p for _, p in ranked), reverse=True)
    assert sum(p for _, p in ranked) == pytest.approx(1, abs=1e-5)


def test_features_are_what_is_compared(trained, model):
    """cos(V, S), cos(P, S) of the features are the similarities that the model gives."""
    video = trained.root / "rgb" / "test0.mp4"
    got = model.features(video)
    K, e = len(model.labels), got["video"].shape[0]
    assert got["frames"].shape == (4, e) and got["pose"].shape == (e,) and got["sentences"].shape == (K, e)
    assert got["words"].shape[::2] == (K, e) and got["word_mask"].dtype == bool
    assert all(isinstance(x, np.ndarray) for x in got.values())
    sims = model.similarity(video, model.labels)
    for name, feature in (("vs", got["video"]), ("ps", got["pose"])):
        cosines = [feature @ s / np.linalg.norm(feature) / np.linalg.norm(s) for s in got["sentences"]]
        assert sims[name] == pytest.approx(cosines, abs=1e-5)
    assert sims["all"] == pytest.approx((sims["vs"] + sims["ps"] + sims["fw"]) / 3, abs=1e-5)


def test_similarity_takes_any_texts_and_changes_nothing(trained, model):
    video = trained.root / "rgb" / "test0.mp4"
    before = model(video)
    one, two = model.similarity(video, ["a handstand"])["all"], model.similarity(video, ["x", "a handstand"])["all"]
    assert one.shape == (1,) and one[0] == pytest.approx(two[1], abs=1e-6) and abs(one[0]) <= 1
    assert model(video) == before


def test_other_words_take_the_prompt(trained):
    """The same label as other words is the trained label: the prompt is put around it."""
    known = ev.load(trained.run)
    label = known.labels[1]
    other = ev.load(trained.run, texts=[label, "walking a dog"])
    video = trained.root / "rgb" / "test0.mp4"
    assert other.similarity(video, [label])["all"] == pytest.approx(known.similarity(video, [label])["all"], abs=1e-6)
    assert other.never_trained == ["walking a dog"] and {l for l, _ in other(video)} == {label, "walking a dog"}
    assert other.model.tokens[0].tolist()[:5] == known.model.tokens[1].tolist()[:5]
    with pytest.raises(ValueError, match="2 texts, 1 of them different"):
        known.set_labels(["a", "a"])


def test_text_far_from_all_labels_is_told(model, monkeypatch):
    """More than twice as far from its nearest label as any label is from its own nearest."""
    labels = model.labels                                  # three, the third 0.4 from its nearest
    apart = torch.tensor([[0.0, 0.1, 0.5, 0.9, 0.79], [0.1, 0.0, 0.4, 0.81, 0.9], [0.5, 0.4, 0.0, 0.9, 0.9],
                          [0.9, 0.81, 0.9, 0.0, 0.0], [0.79, 0.9, 0.9, 0.0, 0.0]])
    monkeypatch.setattr(labeller, "text_discrepancy", lambda sentences: apart[:len(sentences), :len(sentences)])
    assert model.far_texts(labels) == []
    (said,) = model.far_texts([labels[0], "far", "near"])
    assert "'far' is far from all trained labels: 1 - cos is 0.810 to the nearest, and 0.400 at most" in said


def test_hub_loads_the_same(trained):
    """torch.hub.load(..., source="local") finds `load` in hubconf.py."""
    hub = torch.hub.load(str(ev.__file__).rsplit("/", 1)[0], "load", str(trained.run), source="local")
    assert hub.labels == ev.load(trained.run).labels


# ---- No answer is an answer ---------------------------------------------------------------------------------

def test_doubts_come_with_the_figure(model):
    """Lower than the validation clips' lowest is told, equal is not; what the run does not tell is not judged."""
    model.low = {"all": 5.0, "vs": 1.0}
    scale = float(model.model.logit_scale.detach().exp())
    assert model.doubts({"all": 5.0, "vs": 1.0, "ps": -9.0}) == []
    (said,) = model.doubts({"all": 4.0, "vs": 2.0})
    assert f"{4 / scale:.3f}, and {5 / scale:.3f} or more in 99 %" in said


def test_lowest_comes_from_the_validation_split(trained, model):
    """The run's own log tells it, for the very epoch of the checkpoint."""
    rows = [json.loads(line) for line in (trained.run / "metrics.jsonl").read_text().splitlines()]
    (epoch,) = [row for row in rows if row["kind"] == "epoch"]
    assert model.low == {name: epoch[f"low/{name}"] for name in ("all", "vs", "ps", "fw")}


def test_lowest_is_not_that_of_other_clips(trained, tmp_path):
    """A run that was measured on its test split, or another data set's validation split, says nothing of its own."""
    saved = {"at": {"epoch": 1}, "config": {"data": "custom", "eval_split": "test"}}
    row = {"kind": "epoch", "epoch": 1, "low/all": 3.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    path = tmp_path / "last.pt"
    assert ev.lowest_seen(path, saved) == {}
    own = {"checkpoint": str(path), "data": "custom", "low/all": 2.0}
    (tmp_path / "eval-val-1view.json").write_text(json.dumps({**own, "data": "k400"}))
    assert ev.lowest_seen(path, saved) == {}
    (tmp_path / "eval-val-3view.json").write_text(json.dumps(own))
    assert ev.lowest_seen(path, saved) == {"all": 2.0}
    saved["config"]["eval_split"] = "val"
    assert ev.lowest_seen(path, saved) == {"all": 3.0}


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12))
def test_lowest_is_a_percentile_of_readable_clips(values):
    got = ev.lowest([{"all": v} for v in values] + [{}])
    assert got["low/all"] == pytest.approx(np.percentile(values, 1)) and ev.lowest([{}]) == {}


def test_nobody_is_said_before_any_label(trained, tmp_path, capsys):
    video = write_video(tmp_path / "empty.mp4", nobody=0.75)
    assert ev.main(["--ckpt", str(trained.run), "--video", str(video), "--out", str(tmp_path / "o")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(str(trained.run / "last.pt")) and "trained on diving48" in lines[0]
    told = next(i for i, line in enumerate(lines) if "no person found in 75 % of the frames" in line)
    first = next(i for i, line in enumerate(lines) if line.startswith("  1."))
    assert told < first


# ---- One command --------------------------------------------------------------------------------------------

def test_a_folder_gives_a_table_and_names_broken_files(trained, tmp_path, capsys):
    for name in ("a", "b"):
        write_video(tmp_path / "v" / f"{name}.mp4")
    (tmp_path / "v" / "c.mp4").write_bytes(b"no video")
    assert ev.main(["--ckpt", str(trained.run), "--video", str(tmp_path / "v"), "--out", str(tmp_path / "o")]) == 0
    said = capsys.readouterr()
    assert "2 videos labelled, 1 broken" in said.out and "c.mp4" in said.out and "3/3 videos, 0:00 left" in said.err
    rows = list(csv.DictReader(open(tmp_path / "o" / "labels.csv")))
    lines = [json.loads(line) for line in (tmp_path / "o" / "labels.jsonl").read_text().splitlines()]
    assert [row["video"][-5:] for row in rows] == ["a.mp4", "b.mp4", "c.mp4"] and len(lines) == 3
    model = ev.load(trained.run)
    for row in rows[:2]:
        assert (row["label"], float(row["probability"])) == pytest.approx(model(row["video"])[0], abs=1e-5)
        assert row["error"] == "" and float(row["person"]) == 1
    assert rows[2]["label"] == "" and "Expected" in rows[2]["error"]
    drawn(tmp_path / "o" / "a-strip.png", 100)


def test_start_and_end_cut_video_and_pose(trained, model, tmp_path):
    """A span of a long video is answered as a file of that span alone."""
    whole = write_video(tmp_path / "whole.mp4", seconds=4)
    clip = pose.read_pose(whole.with_suffix(".npz"))
    dataset, _, _ = model.open(whole, [(1.0, 2.5)])
    item = dataset[0]
    assert not item["error"]
    rows = [8 + round(r) for r in (1, 4, 7, 10)]                # the middles of 4 parts of 12 frames, from frame 8
    got = model.item(dataset, 0)["scores"].shape
    assert got == (1, 1, 4, 17)
    near = [np.abs(clip.keypoints[r - 1:r + 2]).sum() > 0 for r in rows]
    assert all(near)
    assert model(whole, start=1.0, end=2.5) != model(whole)
    with pytest.raises(ValueError, match="no frame between 9 and 10 s"):
        model(whole, start=9.0, end=10.0)


def test_long_video_draws_labels_over_time(trained, tmp_path, capsys):
    video = write_video(tmp_path / "long.mp4", seconds=5)
    assert ev.main(["--ckpt", str(trained.run), "--video", str(video), "--every", "2", "--out", str(tmp_path / "o")]) == 0
    assert "3 windows of 2 s, one each 2 s" in capsys.readouterr().out
    rows = list(csv.DictReader(open(tmp_path / "o" / "long-labels.csv")))
    assert [(row["start"], row["end"]) for row in rows] == [("0.0", "2.0"), ("2.0", "4.0"), ("4.0", "5.0")]
    model = ev.load(trained.run)
    for row in rows:
        answer = model.answer(video, start=float(row["start"]), end=float(row["end"]))
        assert answer.label == row["label"] and answer.probability == pytest.approx(float(row["probability"]), abs=1e-5)
    drawn(tmp_path / "o" / "long-labels.png", 100)


@given(st.floats(0, 3), st.floats(0.5, 20), st.floats(0.3, 4), st.floats(0.3, 4))
def test_windows_cover_the_video(start, length, every, width):
    spans = clips.windows(start, start + length, every, width)
    assert spans[0][0] == start and all(b <= start + length + 1e-9 and a < b for a, b in spans)
    assert all(abs((b[0] - a[0]) - every) < 1e-6 for a, b in zip(spans, spans[1:]))
    assert all(b - a <= width + 1e-9 for a, b in spans)
    if width >= every:                                     # then nothing but half a window at the end is left out
        assert spans[-1][1] >= start + length - width / 2 - 1e-6 or len(spans) == 1


def test_examples_of_docstrings():
    assert doctest.testmod(clips).attempted == 2 and doctest.testmod(clips).failed == 0


def test_poses_of_another_video_are_not_spread_over_this_one(tmp_path):
    """Rows without times are laid over the frames where they may be every frame, or every second to fourth."""
    video = write_video(tmp_path / "a.mp4", seconds=5)                  # 40 frames
    def rows(n):
        return pose.PoseClip(np.zeros((n, 17, 2)), np.ones((n, 17)), (9, 9), np.full(n, np.nan), COCO, "x")
    for n in (40, 20, 10):
        assert not np.isnan(clips.with_times(rows(n), video).times).any()
    for n in (3, 400):
        with pytest.raises(ValueError, match=f"{n} rows of poses beside 40 frames.*Expected as many"):
            clips.with_times(rows(n), video)


def test_duration_counts_the_last_frame(tmp_path):
    video = write_video(tmp_path / "a.mp4", seconds=2)
    assert clips.duration(clips.instants_of(video)) == pytest.approx(2.0)


def test_stretches_do_not_overlap():
    answers = [Answer("v", a, b, [(label, p)], {}) for a, b, label, p in
               [(0, 2, "x", 0.4), (1, 3, "x", 0.6), (2, 4, "y", 1.0)]]
    assert stretches(answers) == [(0, 2, 0.5, "x"), (2, 4, 1.0, "y")]
    assert clock(65) == "1:05" and clock(65.5) == "1:05.5"


def test_poses_are_found_or_made(tmp_path, monkeypatch):
    """Given, beside the video, in poses/; else made once and kept under a name of this very file."""
    video = write_video(tmp_path / "v" / "a.mp4")
    assert str(video.with_suffix(".npz")) in poses.pose_of(video, tmp_path / "kept")[1]
    (tmp_path / "poses").mkdir()
    video.with_suffix(".npz").rename(tmp_path / "poses" / "a.npz")
    assert poses.ready_file(video) == tmp_path.resolve() / "poses" / "a.npz"
    (tmp_path / "poses" / "a.npz").unlink()

    calls = []

    def find(frames, **options):
        calls.append(1)
        n = sum(1 for _ in frames)
        return np.ones((n, 17, 2)), np.ones((n, 17))

    monkeypatch.setattr(pose, "EXTRACTORS", {"later": pose.Extractor(find, "coco17", lambda: False)})
    with pytest.raises(ValueError, match="nothing that finds joints is installed.*pip install"):
        poses.pose_of(video, tmp_path / "kept")
    pose.EXTRACTORS["now"] = pose.Extractor(find, "coco17", lambda: True)
    assert poses.pose_of(video, tmp_path / "kept")[1] == "poses by now"
    assert poses.pose_of(video, tmp_path / "kept")[1] == "poses by now, made before" and len(calls) == 1
    name = poses.kept_name(video, "now")
    video.write_bytes(video.read_bytes() + b"0")
    assert poses.kept_name(video, "now") != name           # another file of this name has other poses


def test_unknown_times_are_laid_over_the_video(trained, model, tmp_path):
    """Public pose files have no times; a span of such a video is cut all the same."""
    video = write_video(tmp_path / "a.mp4", seconds=2)
    known = model(video, start=1.0, end=2.0)
    clip = pose.read_pose(video.with_suffix(".npz"))
    clip.times = np.full(len(clip.times), np.nan)
    write_pose(video.with_suffix(".npz"), **vars(clip))
    assert model(video, start=1.0, end=2.0) == known


# ---- Any words for whole data sets --------------------------------------------------------------------------

def test_texts_replace_the_labels_of_a_data_set(trained, tmp_path, capsys):
    labels = ev.load(trained.run).labels
    (tmp_path / "texts.txt").write_text(f"{labels[0]}\na jump\na roll\n")
    flags = ["--ckpt", str(trained.run), "--out", str(tmp_path), "--strips", "0"]
    assert ev.main([*flags, "--texts", str(tmp_path / "texts.txt")]) == 0
    assert "3 labels, 2 of them never trained: a jump; a roll" in capsys.readouterr().out
    about = json.loads((tmp_path / "eval-test-1view.json").read_text())
    assert about["labels"] == [labels[0], "a jump", "a roll"] and about["never_trained"] == ["a jump", "a roll"]
    assert ev.main([*flags, "--texts", "one; two"]) == 2
    assert "--texts with 2 labels for a data set of 3" in capsys.readouterr().err


def test_another_data_set_brings_its_own_labels(trained, tmp_path, monkeypatch, capsys):
    """A trained model on another benchmark's labels: the first one's folder is not looked into."""
    own = tmp_path / "data" / "custom"                     # where a data set lies that --root does not name
    table = "path,label,split\n"
    for name, label in (("a", "wave"), ("b", "jump")):
        write_video(own / f"{name}.mp4")
        (own / "poses").mkdir(exist_ok=True)
        (own / f"{name}.npz").rename(own / "poses" / f"{name}.npz")
        table += f"{name}.mp4,{label},test\n"
    (own / "clips.csv").write_text(table)
    monkeypatch.chdir(tmp_path)
    assert ev.main(["--ckpt", str(trained.run), "--data", "custom", "--out", str(tmp_path / "o"), "--strips", "0"]) == 0
    assert "2 labels, 2 of them never trained: jump; wave" in capsys.readouterr().out
    about = json.loads((tmp_path / "o" / "eval-test-1view.json").read_text())
    assert about["data"] == "custom" and about["clips"] == 2
    model = ev.load(trained.run, texts=["jump", "wave"])
    model.data_cfg = ev.dataclasses.replace(model.data_cfg, data="custom")          # its prompt
    model.set_labels(["jump", "wave"])
    for row in about["predictions"]:
        label, share = model(own / f"{row['id']}.mp4")[0]
        assert (label, share) == (about["labels"][row["predicted"]], pytest.approx(row["probability"], abs=1e-5))


def test_features_of_a_split_are_saved(trained, tmp_path):
    ev.main(["--ckpt", str(trained.run), "--out", str(tmp_path), "--strips", "0", "--save-features"])
    got = np.load(tmp_path / "features-test-1view.npz")
    model = ev.load(trained.run)
    for i, name in enumerate(got["id"]):
        alone = model.features(trained.root / "rgb" / f"{name}.mp4")
        for theirs, ours in (("video", "video"), ("pose", "pose"), ("pose_frames", "frames")):
            assert got[theirs][i] == pytest.approx(alone[ours], abs=1e-5)
    assert got["sentences"] == pytest.approx(alone["sentences"], abs=1e-5)
    assert "features" not in json.loads((tmp_path / "eval-test-1view.json").read_text())


def test_mistakes_of_video_flags(trained, capsys):
    for flags, said in ((["--every", "2"], "--every without --video"), (["--start", "3", "--end", "2"], "before the end"),
                        (["--video", "a", "--extractor", "mediapip"], "mediapipe"),
                        (["--video", "a", "--compare", "clip"], "--compare clip beside --video"),
                        (["--export", "onnx", "--compare", "clip"], "--compare clip beside --video or --export")):
        with pytest.raises(SystemExit):
            ev.main(["--ckpt", str(trained.run), *flags])
        assert said in capsys.readouterr().err
    assert math.isinf(ev.EvalConfig().end)
