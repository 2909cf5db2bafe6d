"""label/: a video in, an answer out. The library, the command `eval.py --video`, windows over time,
other words than the trained ones, and where the joints of a video are from.

All of it is asked of one small run, the fixture `trained` of conftest.py, whose answers are no good
but must be the same by every way there is to ask. One video as a command is shown in test_eval.py.
"""
import csv
import dataclasses
import doctest
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import eval as ev
import pose
from label import clips, labeller, poses
from label.command import row_of, stretches
from label.labeller import Answer
from pose_clips import COCO, square_video
from report.draw import SERIES
from report.timeline import clock, draw_timeline
from strategies import drawn


@pytest.fixture(scope="module")
def model(trained):
    """The run as a Labeller, for tests that change nothing of it."""
    return ev.load(trained.run)


@pytest.fixture
def own_model(trained):
    """A Labeller that a test may give other labels, or other figures."""
    return ev.load(trained.run)


@pytest.fixture(scope="module")
def video(trained):
    """A test clip of the data set, as a file."""
    return trained.root / "rgb" / "test0.mp4"


def evaluate(trained, folder, *flags):
    """`eval.py` on the run, results to `folder`, without pictures of clips -> exit code."""
    return ev.main(["--ckpt", str(trained.run), "--out", str(folder), "--strips", "0", *flags])


def label(trained, videos, folder, *flags):
    """`eval.py --video` on a file or a folder, results to `folder` -> exit code."""
    words = ["--ckpt", str(trained.run), "--video", str(videos), "--out", str(folder)]
    return ev.main([*words, *flags])


def read_table(path):
    """The rows of a CSV as dicts."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# ---- The library ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    """The folder of one evaluation of the test split that saved all it can."""
    folder = tmp_path_factory.mktemp("evaluated")
    assert evaluate(trained, folder, "--save-probabilities", "--save-features") == 0
    return folder


def test_one_video_as_inside_its_data_set(trained, model, evaluated):
    """load(run)(video) is the answer that an evaluation of the data set gives for that clip."""
    saved = np.load(evaluated / "probabilities-test-1view.npz")
    assert len(saved["id"]) == 5
    for name, want in zip(saved["id"], saved["probabilities"]):
        share_of = dict(model(trained.root / "rgb" / f"{name}.mp4"))
        got = [share_of[label] for label in saved["labels"]]
        assert got == pytest.approx(want.tolist(), abs=1e-6)


def test_one_video_in_three_views_is_ranked_too(model, video):
    """All labels, the best first; their probabilities sum to 1."""
    shares = [share for _, share in model(video, views=3)]
    assert len(shares) == len(model.labels)
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1, abs=1e-5)


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_features_are_what_is_compared(model, video):
    """cos(V, S), cos(P, S) of the features are the similarities that the model gives."""
    got = model.features(video)
    for name, feature in got.items():
        assert isinstance(feature, np.ndarray), name
    K = len(model.labels)
    (e,) = got["video"].shape
    assert got["pose"].shape == (e,)
    assert got["frames"].shape == (4, e)
    assert got["sentences"].shape == (K, e)
    assert got["words"].shape == (K, got["word_mask"].shape[1], e)
    assert got["word_mask"].dtype == bool

    similarity = model.similarity(video, model.labels)
    for name, feature in (("vs", got["video"]), ("ps", got["pose"])):
        cosines = [cosine(feature, sentence) for sentence in got["sentences"]]
        assert similarity[name] == pytest.approx(cosines, abs=1e-5)
    mean = (similarity["vs"] + similarity["ps"] + similarity["fw"]) / 3
    assert similarity["all"] == pytest.approx(mean, abs=1e-5)


def test_features_of_a_split_are_saved(trained, model, evaluated):
    """--save-features: what the library gives for each clip and text, and nothing of it as JSON."""
    got = np.load(evaluated / "features-test-1view.npz")
    assert len(got["id"]) == 5
    for i in (0, 4):                              # one would not show that each row is its clip's
        alone = model.features(trained.root / "rgb" / f"{got['id'][i]}.mp4")
        assert got["video"][i] == pytest.approx(alone["video"], abs=1e-5)
        assert got["pose"][i] == pytest.approx(alone["pose"], abs=1e-5)
        assert got["pose_frames"][i] == pytest.approx(alone["frames"], abs=1e-5)
        assert got["sentences"] == pytest.approx(alone["sentences"], abs=1e-5)

    about = json.loads((evaluated / "eval-test-1view.json").read_text())
    assert "features" not in about


def test_similarity_takes_any_texts_and_changes_nothing(model, video):
    """A text's figure does not depend on the texts beside it; the model's own answer stays."""
    before = model(video)
    alone = model.similarity(video, ["a handstand"])["all"]
    beside = model.similarity(video, ["x", "a handstand"])["all"]
    assert alone.shape == (1,)
    assert abs(alone[0]) <= 1
    assert alone[0] == pytest.approx(beside[1], abs=1e-6)
    assert model(video) == before


def test_hub_loads_the_same(trained, model, video):
    """torch.hub.load(..., source="local") finds `load` in hubconf.py."""
    repository = str(ev.__file__).rsplit("/", 1)[0]
    hub = torch.hub.load(repository, "load", str(trained.run), source="local")
    assert hub(video) == model(video)


# ---- Other words ---------------------------------------------------------------------------------


def without_padding(tokens):
    """A row of tokens up to its last one; 0 fills what is behind."""
    return tokens[tokens > 0].tolist()


def test_other_words_take_the_prompt(trained, model, video):
    """The same label as other words is the trained label: the prompt is put around it."""
    known = model.labels[1]
    other = ev.load(trained.run, texts=[known, "walking a dog"])
    assert without_padding(other.model.tokens[0]) == without_padding(model.model.tokens[1])
    assert other.never_trained == ["walking a dog"]
    assert {name for name, _ in other(video)} == {known, "walking a dog"}

    got = other.similarity(video, [known])["all"]
    want = model.similarity(video, [known])["all"]
    assert got == pytest.approx(want, abs=1e-6)


def test_texts_of_a_string_are_its_parts(model, video):
    """Not its letters."""
    apart = model.similarity(video, ["a handstand", "a vault"])
    assert np.allclose(model.similarity(video, "a handstand; a vault")["all"], apart["all"])


def test_a_text_given_twice_is_refused(model, video):
    """Two columns for one label would share its probability between them."""
    before = model.labels
    with pytest.raises(ValueError, match="'a': given twice"):
        model.set_labels(["a", "a"])
    for nothing in ([], "", " ; "):
        with pytest.raises(ValueError, match="no texts"):
            model.set_labels(nothing)
        with pytest.raises(ValueError, match="no texts"):
            model.similarity(video, nothing)
    with pytest.raises(ValueError, match="views=5. Expected 1, .* or 3"):
        model(video, views=5)
    assert model.labels == before


def test_text_far_from_all_labels_is_told(model, monkeypatch):
    """More than twice as far from its nearest label as any label is from its own nearest."""
    labels = model.labels                         # three, the third 0.4 from its nearest
    distances = torch.tensor([
        # label 0, 1, 2, then the texts "far" and "near"
        [0.00, 0.10, 0.50, 0.90, 0.79],
        [0.10, 0.00, 0.40, 0.81, 0.90],
        [0.50, 0.40, 0.00, 0.90, 0.90],
        [0.90, 0.81, 0.90, 0.00, 0.00],
        [0.79, 0.90, 0.90, 0.00, 0.00],
    ])

    def text_discrepancy(sentences):
        return distances[:len(sentences), :len(sentences)]

    monkeypatch.setattr(labeller, "text_discrepancy", text_discrepancy)
    assert model.far_texts(labels) == []
    (said,) = model.far_texts([labels[0], "far", "near"])
    assert ("'far' is far from all trained labels: 1 - cos is 0.810 to the nearest, and 0.400 at "
            "most") in said


# ---- What makes an answer doubtful ---------------------------------------------------------------


def test_doubts_come_with_the_figure(own_model):
    """Lower than the validation clips' lowest is told, equal is not; nor what the run lacks."""
    own_model.low = {"all": 5.0, "vs": 1.0}
    assert own_model.doubts({"all": 5.0, "vs": 1.0, "ps": -9.0}) == []

    scale = float(own_model.model.logit_scale.detach().exp())
    (said,) = own_model.doubts({"all": 4.0, "vs": 2.0})
    assert f"mean similarity is {4 / scale:.3f}, and {5 / scale:.3f} or more in 99 %" in said


def test_doubts_of_a_linear_head_are_of_its_logits(own_model, monkeypatch):
    """It has no tau, and what it gives is no similarity."""
    own_model.low = {"all": 5.0}
    monkeypatch.setattr(type(own_model.model), "compares_texts", False)
    (said,) = own_model.doubts({"all": 4.0})
    assert "its best logit is 4.000, and 5.000 or more in 99 % of them" in said


def test_other_labels_raise_no_doubts(own_model, video):
    """The best of other labels is lower or higher by itself: nothing is known of such clips."""
    own_model.low = {"all": 1e6}
    assert any("unlike" in doubt for doubt in own_model.answer(video).doubts)
    own_model.set_labels(own_model.labels[:2])
    assert not any("unlike" in doubt for doubt in own_model.answer(video).doubts)


def test_similarities_alone_are_cosines_whatever_is_averaged(model, video):
    """A mean of probabilities is kept as its logarithm, which is no cosine."""
    of_cosines = model.answer(video, views=3).alone
    of_shares = model.answer(video, views=3, average="probabilities").alone
    found = model.similarity(video, model.labels, views=3)
    for name, (label, cosine) in of_shares.items():
        assert cosine == pytest.approx(float(found[name][model.labels.index(label)]), abs=1e-5)
        if label == of_cosines[name][0]:
            assert cosine == pytest.approx(of_cosines[name][1], abs=1e-5)


def test_lowest_comes_from_the_validation_split(trained, model):
    """The run's own log tells it, for the very epoch of the checkpoint."""
    lines = (trained.run / "metrics.jsonl").read_text().splitlines()
    epochs = [row for row in map(json.loads, lines) if row["kind"] == "epoch"]
    assert len(epochs) == 1
    assert model.low.keys() == {"all", "vs", "ps", "fw"}
    for name, logit in model.low.items():
        assert logit == epochs[0][f"low/{name}"]


def test_lowest_is_not_that_of_other_clips(tmp_path):
    """Rows of the test split do not count, nor a validation split of another data set."""
    path = tmp_path / "last.pt"
    saved = {"at": {"epoch": 1}, "config": {"data": "custom", "eval_split": "test"},
             "labels": ["a", "b"]}
    row = {"kind": "epoch", "epoch": 1, "low/all": 3.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert ev.lowest_seen(path, saved) == {}

    of_its_own = {"checkpoint": str(path), "data": "custom", "labels": ["a", "b"], "low/all": 2.0}
    for other in ({"data": "k400"}, {"labels": ["one", "two"]}, {"checkpoint": "best.pt"}):
        (tmp_path / "eval-val-1view.json").write_text(json.dumps({**of_its_own, **other}))
        assert ev.lowest_seen(path, saved) == {}, f"taken for the run's own: {other}"
    for edited in ("{", "[]", "{}"):
        (tmp_path / "eval-val-1view.json").write_text(edited)
        assert ev.lowest_seen(path, saved) == {}, edited

    (tmp_path / "eval-val-3view.json").write_text(json.dumps(of_its_own))
    assert ev.lowest_seen(path, saved) == {"all": 2.0}

    saved["config"]["eval_split"] = "val"         # now the log's rows are of validation clips
    assert ev.lowest_seen(path, saved) == {"all": 3.0}


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12))
def test_lowest_is_a_percentile_of_readable_clips(values):
    """One in a hundred clips lies below it; a broken clip has no figure and does not count."""
    broken = {}
    best = [{"all": value} for value in values]
    got = ev.lowest([*best, broken])
    assert got["low/all"] == pytest.approx(np.percentile(values, 1))
    assert ev.lowest([broken]) == {}


def test_nobody_is_said_before_any_label(trained, tmp_path, capsys):
    """In the order of belief: which run answers, that nobody is there, only then the labels."""
    video = square_video(tmp_path / "empty.mp4", nobody=0.75)
    assert label(trained, video, tmp_path / "out") == 0

    said = capsys.readouterr().out
    assert said.startswith(str(trained.run / "last.pt"))
    assert "trained on diving48" in said.splitlines()[0]
    told = said.index("no person found in 75 % of the frames")
    first_label = said.index("\n  1.")
    assert told < first_label


# ---- Many videos ---------------------------------------------------------------------------------


def test_a_folder_gives_a_table_and_names_broken_files(trained, model, tmp_path, capsys):
    """A row for each file in a CSV and a JSONL, a picture for each that could be read."""
    square_video(tmp_path / "videos" / "a.mp4")
    square_video(tmp_path / "videos" / "b.mp4")
    (tmp_path / "videos" / "c.mp4").write_bytes(b"no video")
    assert label(trained, tmp_path / "videos", tmp_path / "out") == 0

    said = capsys.readouterr()
    assert "2 videos labelled, 1 broken" in said.out
    assert "c.mp4" in said.out
    assert "3/3 videos" in said.err

    rows = read_table(tmp_path / "out" / "labels.csv")
    assert [row["video"][-5:] for row in rows] == ["a.mp4", "b.mp4", "c.mp4"]
    for row in rows[:2]:
        best_label, share = model(row["video"])[0]
        assert row["label"] == best_label
        assert float(row["probability"]) == pytest.approx(share, abs=1e-5)
        assert float(row["person"]) == 1
        assert row["error"] == ""
    assert rows[2]["label"] == ""
    assert "Expected" in rows[2]["error"]

    lines = (tmp_path / "out" / "labels.jsonl").read_text().splitlines()
    assert [json.loads(line)["video"] for line in lines] == [row["video"] for row in rows]
    drawn(tmp_path / "out" / "a-strip.png", least=100)


def test_a_folder_without_one_answer_is_an_error(trained, tmp_path, monkeypatch, capsys):
    """Nothing that finds joints: it is said as an error, not as three broken videos and success."""
    not_ready = pose.Extractor(find=find_corners, joints="coco17", is_ready=lambda: False)
    monkeypatch.setattr(pose, "EXTRACTORS", {"later": not_ready})
    for name in ("a.mp4", "b.mp4"):
        square_video(tmp_path / "videos" / name).with_suffix(".npz").unlink()
    assert label(trained, tmp_path / "videos", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "none of 2 videos could be labelled" in said
    assert "pip install" in said
    assert len(read_table(tmp_path / "out" / "labels.csv")) == 2


def test_a_row_has_the_runner_up_and_the_doubts():
    """What the table says beside the winner; the end of a whole file is nothing that JSON lacks."""
    answer = Answer(video="v.mp4", start=0.0, end=math.inf, ranked=[("x", 0.6), ("y", 0.3)],
                    alone={"vs": ("y", 0.1)}, doubts=["a", "b"])
    row = row_of(answer)
    assert (row["label"], row["probability"]) == ("x", 0.6)
    assert (row["second"], row["second_probability"]) == ("y", 0.3)
    assert row["end"] is None
    assert row["doubts"] == ["a", "b"]
    assert row["alone"] == {"vs": "y"}


def test_one_pose_file_for_several_videos_is_refused(trained, tmp_path, capsys):
    """It is of one of them."""
    for name in ("a.mp4", "b.mp4"):
        square_video(tmp_path / "videos" / name)
    joints = tmp_path / "videos" / "a.npz"
    assert label(trained, tmp_path / "videos", tmp_path / "out", "--pose", str(joints)) == 2
    assert "beside 2 videos. Expected one video" in capsys.readouterr().err


def test_poses_of_another_skeleton_are_refused(model, tmp_path):
    """The weights of the joints are those of training."""
    video = square_video(tmp_path / "a.mp4")
    clip = pose.read_pose(video.with_suffix(".npz"))
    joints = pose.JOINT_SETS["smarthome13"].names
    pose.write_pose(video.with_suffix(".npz"), clip.keypoints[:, :13], clip.scores[:, :13],
                    clip.size, clip.times, joints)
    with pytest.raises(ValueError, match="13 joints in the poses from .* trained with 17"):
        model(video)


@pytest.mark.parametrize(
    "flags, fault",
    [
        (["--every", "2"], "--every without --video"),
        (["--start", "3", "--end", "2"], "before the end"),
        (["--video", "a", "--window", "2"], "--window 2 without --every"),
        (["--video", "a", "--extractor", "mediapip"], "mediapipe"),
        (["--video", "a", "--compare", "clip"], "--compare clip beside --video"),
        (["--export", "onnx", "--compare", "clip"], "--compare clip beside --video or --export"),
    ],
)
def test_mistakes_of_video_flags(trained, capsys, flags, fault):
    """Flags that need --video or cannot go with it, and a misspelt extractor, are told by name."""
    with pytest.raises(SystemExit):
        ev.main(["--ckpt", str(trained.run), *flags])
    assert fault in capsys.readouterr().err


def test_a_video_is_read_to_its_end_unless_told():
    """The default of --end is no second that a longer video could reach."""
    assert math.isinf(ev.EvalConfig().end)


# ---- Parts of a video, and labels over time ------------------------------------------------------


def test_start_and_end_cut_video_and_pose(model, tmp_path):
    """A span of a long video is answered as a file of that span alone."""
    whole = square_video(tmp_path / "whole.mp4", seconds=4, rate=8, lossless=True)
    alone = square_video(tmp_path / "alone.mp4", seconds=1.5, rate=8, first=8, lossless=True)
    got = dict(model(whole, start=1.0, end=2.5))
    assert got == pytest.approx(dict(model(alone)), abs=1e-5)
    assert got != pytest.approx(dict(model(whole)), abs=1e-5), "the span changes nothing here"

    with pytest.raises(ValueError, match="no frame between 9 and 10 s"):
        model(whole, start=9.0, end=10.0)


def test_the_person_is_that_of_the_part_that_is_labelled(model, tmp_path):
    """Nobody in the first second of two: that is said of this second and not of the next."""
    video = square_video(tmp_path / "a.mp4", seconds=2, rate=8)
    clip = pose.read_pose(video.with_suffix(".npz"))
    clip.scores[:8] = 0
    pose.write_pose(video.with_suffix(".npz"), **vars(clip))
    first = model.answer(video, end=1.0)
    second = model.answer(video, start=1.0)
    assert (first.person.frames, second.person.frames) == (8, 8)
    assert not first.person.is_enough
    assert second.person.is_enough


def test_unknown_times_are_laid_over_the_video(model, tmp_path):
    """Public pose files have no times; a span of such a video is cut all the same."""
    video = square_video(tmp_path / "a.mp4", seconds=2)
    want = model(video, start=1.0, end=2.0)

    clip = pose.read_pose(video.with_suffix(".npz"))
    clip.times = np.full(len(clip.times), np.nan)
    pose.write_pose(video.with_suffix(".npz"), **vars(clip))
    assert model(video, start=1.0, end=2.0) == want


@pytest.mark.parametrize("rows, is_even", [(40, True), (20, True), (10, True), (3, False),
                                           (400, False)])
def test_poses_of_another_video_are_not_spread_over_this_one(tmp_path, rows, is_even):
    """Rows without times may be every frame, or every second to fourth, of these 40 frames."""
    video = square_video(tmp_path / "a.mp4", seconds=5, rate=8)
    clip = pose.PoseClip(
        keypoints=np.zeros((rows, 17, 2)),
        scores=np.ones((rows, 17)),
        size=(96, 112),
        times=np.full(rows, np.nan),
        joints=COCO,
    )
    if is_even:
        assert not np.isnan(clips.with_times(clip, video).times).any()
    else:
        fault = f"{rows} rows of poses beside 40 frames.*Expected a row for every frame"
        with pytest.raises(ValueError, match=fault):
            clips.with_times(clip, video)


def test_duration_counts_the_last_frame(tmp_path):
    """Sixteen frames, eight a second, last two seconds, though the last begins at 1.875."""
    video = square_video(tmp_path / "a.mp4", seconds=2, rate=8)
    assert clips.duration(clips.instants_of(video)) == pytest.approx(2.0)


@given(
    start=st.floats(0, 3),
    length=st.floats(0.5, 20),
    every=st.floats(0.3, 4),
    width=st.floats(0.3, 4),
)
def test_windows_cover_the_video(start, length, every, width):
    """They begin `every` seconds apart and stay inside; half of one at the end may be left out."""
    end = start + length
    spans = clips.windows(start, end, every, width)
    assert spans[0][0] == start
    for begin, stop in spans:
        assert begin < stop <= end + 1e-9
        assert stop - begin <= width + 1e-9
    for (begin, _), (next_begin, _) in zip(spans, spans[1:]):
        assert next_begin - begin == pytest.approx(every, abs=1e-6)

    # Windows narrower than their distance leave gaps, and one may lie at the end.
    if width >= every and len(spans) > 1:
        _, last_stop = spans[-1]
        assert last_stop >= end - width / 2 - 1e-6


def test_long_video_draws_labels_over_time(trained, model, tmp_path, capsys):
    """--every 2: three windows of five seconds, each answered as that span alone is."""
    video = square_video(tmp_path / "long.mp4", seconds=5)
    assert label(trained, video, tmp_path / "out", "--every", "2") == 0
    assert "3 windows of 2 s, one each 2 s" in capsys.readouterr().out

    rows = read_table(tmp_path / "out" / "long-labels.csv")
    spans = [(float(row["start"]), float(row["end"])) for row in rows]
    assert spans == [(0.0, 2.0), (2.0, 4.0), (4.0, 5.0)]
    for row, (start, end) in zip(rows, spans):
        answer = model.answer(video, start=start, end=end)
        assert answer.label == row["label"]
        assert answer.probability == pytest.approx(float(row["probability"]), abs=1e-5)
    drawn(tmp_path / "out" / "long-labels.png", least=100)


def test_the_more_probable_label_is_drawn_above(tmp_path):
    """The one that wins has the first colour, as a line on top and as the band."""
    path = draw_timeline([(0, 1), (1, 2)], [[0.9, 0.1], [0.9, 0.1]], ["a", "b"],
                         tmp_path / "t.png", "a title")
    pixels = drawn(path)
    band, above, below = pixels[58:67], pixels[80:190], pixels[190:300]
    assert (band == SERIES[0]).all(-1).any()
    assert (above == SERIES[0]).all(-1).any() and not (below == SERIES[0]).all(-1).any()
    assert (below == SERIES[1]).all(-1).any() and not (above == SERIES[1]).all(-1).any()


def window_answer(start, end, label, share):
    """What a window was answered, with one label alone."""
    return Answer(video="v", start=start, end=end, ranked=[(label, share)], alone={})


def test_stretches_do_not_overlap():
    """Of overlapping windows: x ends where y begins, its share is the mean of its windows."""
    answers = [
        window_answer(0, 2, "x", 0.4),
        window_answer(1, 3, "x", 0.6),
        window_answer(2, 4, "y", 1.0),
    ]
    assert stretches(answers) == [(0, 2, 0.5, "x"), (2, 4, 1.0, "y")]


def test_clock_shows_minutes_and_seconds():
    """Tenths only where there are any."""
    assert clock(65) == "1:05"
    assert clock(65.5) == "1:05.5"
    assert clock(59.96) == "1:00", "a minute has no sixtieth second"


def test_examples_of_docstrings():
    """The two of clips.windows come out as printed."""
    result = doctest.testmod(clips)
    assert result.attempted == 2
    assert result.failed == 0


# ---- The joints of a video -----------------------------------------------------------------------


def test_poses_are_found_or_made(tmp_path):
    """The file that is given, else the one beside the video, else the one in poses/."""
    video = square_video(tmp_path / "videos" / "a.mp4")
    beside = video.with_suffix(".npz")
    kept = tmp_path / "kept"
    _, said = poses.pose_of(video, kept)
    assert f"poses from {beside}" in said

    given = tmp_path / "given.npz"
    given.write_bytes(beside.read_bytes())
    _, said = poses.pose_of(video, kept, given=str(given))
    assert f"poses from {given}" in said

    in_poses = tmp_path.resolve() / "poses" / "a.npz"
    in_poses.parent.mkdir()
    beside.rename(in_poses)
    assert poses.ready_file(video) == in_poses


def find_corners(frames, **options):
    """An extractor that has every joint at (1, 1), and does look at all frames."""
    count = len(list(frames))
    return np.ones((count, 17, 2)), np.ones((count, 17))


def test_poses_are_made_once_and_kept(tmp_path, monkeypatch):
    """The second time they are read, under this very file's name: a changed video has another."""
    ready = pose.Extractor(find=find_corners, joints="coco17", is_ready=lambda: True)
    monkeypatch.setattr(pose, "EXTRACTORS", {"corners": ready})
    video = square_video(tmp_path / "a.mp4")
    video.with_suffix(".npz").unlink()

    clip, said = poses.pose_of(video, tmp_path / "kept")
    assert said == "poses by corners"
    again, said = poses.pose_of(video, tmp_path / "kept")
    assert said == "poses by corners, made before"
    assert np.array_equal(again.keypoints, clip.keypoints)

    name = poses.kept_name(video, "corners")
    assert (tmp_path / "kept" / name).exists()
    video.write_bytes(video.read_bytes() + b"0")
    assert poses.kept_name(video, "corners") != name


def test_poses_are_not_made_without_an_extractor(tmp_path, monkeypatch):
    """None is ready: the error has the command that installs one."""
    not_ready = pose.Extractor(find=find_corners, joints="coco17", is_ready=lambda: False)
    monkeypatch.setattr(pose, "EXTRACTORS", {"later": not_ready})
    video = square_video(tmp_path / "a.mp4")
    video.with_suffix(".npz").unlink()
    with pytest.raises(ValueError, match="nothing that finds joints is installed.*pip install"):
        poses.pose_of(video, tmp_path / "kept")


# ---- Any words for whole data sets ---------------------------------------------------------------


def test_texts_replace_the_labels_of_a_data_set(trained, model, tmp_path, capsys):
    """--texts: as many as the data set has labels; which were never trained is said and written."""
    texts = [model.labels[0], "a jump", "a roll"]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    assert evaluate(trained, tmp_path, "--texts", str(tmp_path / "texts.txt")) == 0
    assert "3 labels, 2 of them never trained: a jump; a roll" in capsys.readouterr().out

    about = json.loads((tmp_path / "eval-test-1view.json").read_text())
    assert about["labels"] == texts
    assert about["never_trained"] == ["a jump", "a roll"]

    assert evaluate(trained, tmp_path, "--texts", "one; two") == 2
    assert "--texts with 2 labels for a data set of 3" in capsys.readouterr().err


def test_another_data_set_brings_its_own_labels(trained, own_model, tmp_path, monkeypatch, capsys):
    """A trained model on another data set: its labels, prompt and folder, not the first one's."""
    folder = tmp_path / "data" / "custom"         # where this data set lies without --root
    table = "path,label,split\n"
    for name, action in (("a", "wave"), ("b", "jump")):
        clip = square_video(folder / f"{name}.mp4")
        joints = folder / "poses" / f"{name}.npz"
        joints.parent.mkdir(exist_ok=True)
        clip.with_suffix(".npz").rename(joints)
        table += f"{name}.mp4,{action},test\n"
    (folder / "clips.csv").write_text(table)

    monkeypatch.chdir(tmp_path)
    assert evaluate(trained, tmp_path / "out", "--data", "custom") == 0
    assert "2 labels, 2 of them never trained: jump; wave" in capsys.readouterr().out
    about = json.loads((tmp_path / "out" / "eval-test-1view.json").read_text())
    assert about["data"] == "custom"
    assert about["clips"] == 2
    assert about["labels"] == ["jump", "wave"]

    # The library gives the same, once it has the other prompt.
    own_model.data_cfg = dataclasses.replace(own_model.data_cfg, data="custom")
    own_model.set_labels(["jump", "wave"])
    for row in about["predictions"]:
        best_label, share = own_model(folder / f"{row['id']}.mp4")[0]
        assert best_label == about["labels"][row["predicted"]]
        assert share == pytest.approx(row["probability"], abs=1e-5)
