"""report/evidence.py: what the page shows is what the model computed; the page of a training, of an evaluation, of two."""
import json
import re
import types

import numpy as np
import pytest
import torch

import eval as ev
import train
from clip_model import BACKBONES, CLIP, token_texts, tokenize
from pevl import cosine
from report import evidence
from runs import words
from support.sampling import video_frame_index
from systems.config import PeVLConfig
from systems.registry import build_model

TEXTS = ["Forward, 1.5 somersaults", "Back, pike", "Reverse, 2 twists"]
SMALL = dict(backbone="tiny", clip="random", image_size=80, pose_frames=4, video_frames=2, tau_fw=0.1)


def model_of(name="pevl", **changes):
    torch.manual_seed(0)
    config = PeVLConfig(model=name, **SMALL | changes)
    model = build_model(config, ev.load_trunk(config), TEXTS, joints=17).eval()
    with torch.no_grad():
        for p in model.parameters():                          # zero starts would make every map trivial
            p.add_(0.05 * torch.randn_like(p))
    return model


class OneClip(torch.utils.data.Dataset):
    """A clip of three views, as data.Clips gives it in evaluation."""

    labels, texts, joints = ["forward", "back", "reverse"], TEXTS, None

    def __init__(self):
        from pose import JOINT_SETS
        self.joints = JOINT_SETS["coco17"].names
        g = torch.Generator().manual_seed(1)
        self.item = {"frames": torch.randint(0, 255, (3, 2, 3, 80, 80), generator=g, dtype=torch.uint8),
                     "keypoints": torch.rand(3, 4, 17, 2, generator=g) * 2 - 1, "scores": torch.ones(3, 4, 17),
                     "label": torch.tensor(0), "index": torch.tensor(0), "broken": torch.tensor(False), "error": ""}

    def __getitem__(self, index):
        return self.item

    def __len__(self):
        return 1


PREDICTION = {"index": 0, "id": "a", "label": 0, "predicted": 2, "top5": [2, 0], "broken": False, "probability": 0.6,
              "alone": {"vs": 1, "ps": 0}, "tied": False}
CPU = torch.device("cpu")


def evaluated(model, predictions=(PREDICTION,)):
    return evidence.Evaluated("run", model, OneClip(), {"predictions": list(predictions)}, {})


def text_of(model):
    with torch.no_grad():
        return model.encode_texts() if model.compares_texts else None


def test_tokens_have_texts():
    tokens = tokenize("Back, 2.5 somersaults é", context_length=20)[0]
    said = token_texts(tokens[:int(tokens.argmax()) + 1])
    assert said[0] == "<|startoftext|>" and said[-1] == "<|endoftext|>"
    assert "".join(said[1:-1]).replace("-", "") == "back,2.5somersaultsé"


def test_matrix_is_that_of_the_similarity():
    """Each cosine of a moment and a word, from the features one by one; and the similarity that the model says."""
    model = model_of()
    looked = evidence.look_at(evaluated(model), PREDICTION, text_of(model), CPU)
    assert [matrix.text for matrix in looked.matrices] == ["reverse", "forward"]        # the answer, then the truth
    item = OneClip()[0]
    batch = {name: item[name][1][None] for name in ("frames", "keypoints", "scores")} | {"label": item["label"][None]}
    with torch.no_grad():
        features, text = model(batch), model.encode_texts()
        sims = model.similarities(features, text)["fw"][0]
    for matrix, label in zip(looked.matrices, (2, 0)):
        there = text["word_mask"][label].nonzero()[:, 0].tolist()
        assert len(matrix.words) == len(there) and matrix.values.shape == (4, len(there))
        for t in range(4):
            for w, place in enumerate(there):
                want = cosine(features["pose_frames"][0, t][None], text["words"][label, place][None])
                assert matrix.values[t, w] == pytest.approx(float(want), abs=1e-5)
        assert matrix.similarity == pytest.approx(float(sims[label]), abs=1e-5)
    assert looked.matrices[1].words[:2] == ["forward", ","]


def test_a_clip_is_looked_at():
    """Frames, pose and maps of the middle view; the answers of the similarities by name."""
    model = model_of()
    looked = evidence.look_at(evaluated(model), PREDICTION, text_of(model), CPU)
    assert (looked.label, looked.answer, looked.alone) == ("forward", "reverse", {"vs": "back", "ps": "forward"})
    assert looked.strip["maps"].keys() == {"before", "patch_weight", "after"}
    item, seen = OneClip()[0], video_frame_index(4, 2)
    assert (looked.strip["keypoints"] == item["keypoints"][1, seen].numpy()).all()
    assert (looked.strip["frames"] == item["frames"][1].permute(0, 2, 3, 1).numpy()).all()


@pytest.mark.parametrize("name, changes", [("aim", {}), ("clip", {}), ("vilp", {}), ("pevl", {"pose": False, "p2v": False,
                         "v2p": False, "refinement": False, "fusion": "concat", "sgl": False})])
def test_rivals_have_attention(name, changes):
    """AIM, ViLP, plain CLIP and table7/v+t show where they look, a share of 1 at most for each frame."""
    if name == "vilp":
        changes = {"pose_frames": 2}
    model = model_of(name, **changes)
    batch = {"frames": OneClip()[0]["frames"][:1], "keypoints": torch.zeros(1, 4, 17, 2), "scores": torch.zeros(1, 4, 17)}
    (attention,) = model.attention_maps(batch).values()
    assert attention.shape == (1, 2, model.clip.visual.grid ** 2)
    assert (attention >= 0).all() and (attention.sum(-1) <= 1).all() and (attention.sum(-1) > 0.1).all()


def test_attention_of_plain_clip_is_its_last_blocks():
    """By hooks: the tokens that enter the last block's attention, and a softmax by hand."""
    clip = CLIP(BACKBONES["tiny"]).eval()
    images = torch.randn(2, 3, clip.visual.image_size, clip.visual.image_size)
    last, caught = clip.visual.transformer.resblocks[-1], []
    hook = last.ln_1.register_forward_hook(lambda _, __, out: caught.append(out))
    with torch.no_grad():
        clip.visual(images)
        hook.remove()
        got = clip.visual.class_attention(images)
        x, h = caught[0], last.attn.heads
        q, k, _ = torch.nn.functional.linear(x, last.attn.in_proj_weight, last.attn.in_proj_bias).chunk(3, -1)
        c = q.shape[-1] // h
        want = sum((q[:, 0, i * c:(i + 1) * c][:, None] @ k[..., i * c:(i + 1) * c].transpose(1, 2) / c ** 0.5).softmax(-1)
                   for i in range(h))[:, 0, 1:] / h
    assert torch.allclose(got, want, atol=1e-5)


def test_saliency_of_vilp():
    """Shares of frames that sum to 1, for the answer and the true label; the logit is made of them."""
    model = model_of("vilp", pose_frames=2)
    one = evaluated(model)
    item = one.dataset.item
    item["keypoints"], item["scores"] = item["keypoints"][:, :2], item["scores"][:, :2]
    text = text_of(model)
    looked = evidence.look_at(one, PREDICTION, text, CPU)
    assert list(looked.saliency) == ["reverse", "forward"] and not looked.matrices
    batch = {name: item[name][1][None] for name in ("frames", "keypoints", "scores")} | {"label": item["label"][None]}
    with torch.no_grad():
        features = model(batch)
        A = model.saliency(features, text)
        logits = model.class_logits(features, text)["all"]
        v = torch.nn.functional.normalize(features["frames"], dim=-1)
        u = v * torch.nn.functional.normalize(features["pose"], dim=-1).sigmoid()
    for label in range(3):
        assert float(A[0, label].sum()) == pytest.approx(1)
        video = (A[0, label][:, None] * u[0]).sum(0)
        sentence = torch.nn.functional.normalize(text["sentences"][label], dim=-1)
        assert float((video @ sentence * model.logit_scale.exp()).detach()) == pytest.approx(float(logits[0, label]), abs=1e-4)
    assert looked.saliency["forward"] == pytest.approx(A[0, 0].numpy(), abs=1e-6)


def test_most_confident_mistakes_are_chosen():
    rows = [{"id": str(i), "index": i, "label": i % 3, "predicted": (i + (i % 2)) % 3, "probability": i / 20, "broken": i == 19}
            for i in range(20)]
    wrong, right = evidence.chosen_clips(rows)
    assert [p["index"] for p in wrong] == [17, 15, 13, 11, 9, 7]
    assert [p["index"] for p in right] == [18, 16]


def test_two_runs_must_have_answered_the_same_clips():
    a, b = evaluated(model_of()), evaluated(model_of(), [{**PREDICTION, "id": "b"}])
    with pytest.raises(ValueError, match="did not answer the same clips. Expected one data set and split"):
        evidence.comparison_of(a, b)


# ---- Whole commands ------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def two_runs(tree, tmp_path_factory):
    """Two short trainings, which leave their pages."""
    folder = tmp_path_factory.mktemp("runs")
    for name, changes in (("first", {}), ("second", {"seed": 1, "p2v": False})):
        assert train.main(words(tree, folder / name, epochs=1, batch=8, **changes)) == 0
    return types.SimpleNamespace(folder=folder, first=folder / "first", second=folder / "second")


def page_of(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def test_training_leaves_a_page(two_runs):
    """With its test figures, its curves, and the hash of the checkpoint that lies beside it."""
    text = page_of(two_runs.first)
    (row,) = [json.loads(line) for line in (two_runs.first / "metrics.jsonl").open() if '"kind": "test"' in line]
    for name in ("top1", "top5", "mean", "top1/vs", "top1/ps", "top1/fw"):
        assert f"{100 * row[name]:.2f} %" in text, name
    assert evidence.sha256_of(two_runs.first / "last.pt") in text and "<polyline" in text
    assert "attention before P2V" in text and "Frames and words" in text


@pytest.mark.slow
def test_report_of_an_evaluation(two_runs, tmp_path):
    """--report writes the page of that evaluation, operations counted; without it there is none."""
    flags = ["--ckpt", str(two_runs.first), "--strips", "0", "--views", "3"]
    assert ev.main([*flags, "--out", str(tmp_path / "a")]) == 0
    assert not (tmp_path / "a" / "report.html").exists()
    assert ev.main([*flags, "--out", str(tmp_path / "b"), "--report"]) == 0
    text = page_of(tmp_path / "b")
    found = json.loads((tmp_path / "b" / "eval-test-3view.json").read_text())
    for name in ("top1", "top5", "mean", "top1/vs", "top1/ps", "top1/fw"):
        assert f"{100 * found[name]:.2f} %" in text, name
    assert "3 crops a clip" in text and "multiply-accumulates" in text
    assert "People in the pose files" in text and "4 clips</caption>" in text    # of the tree's four test clips
    assert ev.main([*flags, "--out", str(tmp_path / "c"), "--report", "--no-read-poses"]) == 0
    assert "People in the pose files" not in page_of(tmp_path / "c")


@pytest.mark.slow
def test_compare_two_runs(two_runs, tmp_path, capsys):
    """The difference on the page is that of the two evaluations; the rival is a folder, or CLIP."""
    tops = {}
    for name in ("first", "second"):
        row = [line for line in (two_runs.folder / name / "metrics.jsonl").open() if '"kind": "test"' in line][0]
        tops[name] = json.loads(row)["top1"]
    flags = ["--ckpt", str(two_runs.first), "--strips", "0", "--out", str(tmp_path)]
    assert ev.main([*flags, "--compare", str(two_runs.second)]) == 0
    text = page_of(tmp_path)
    assert "Two runs on the same clips" in text and evidence.sha256_of(two_runs.second / "last.pt") in text
    sign = "−" if tops["first"] < tops["second"] else "+"
    assert f"{sign}{abs(100 * (tops['first'] - tops['second'])):.1f} (" in text
    assert re.search(r'<th scope="row">p2v</th><td><code>True</code></td><td><code>False</code>', text)
    assert "attention of second" in text

    # Two of one name, as the lab's seeds are: each is told by its path.
    best = two_runs.first / "best.pt"
    assert ev.main(["--ckpt", str(two_runs.first / "last.pt"), *flags[2:], "--compare", str(best)]) == 0
    text = page_of(tmp_path)
    assert f"attention of {best}" in text and str(two_runs.first / "last.pt") in text

    assert ev.main([*flags, "--compare", "clip"]) == 0
    assert "CLIP tiny, zero-shot" in page_of(tmp_path)
    assert ev.main([*flags, "--compare", str(tmp_path / "nothing")]) == 2
    assert "no checkpoint at" in capsys.readouterr().err


def test_compare_with_a_row(two_runs, tmp_path, capsys, monkeypatch):
    """A row means its newest run; what is wrong with the name is said before anything is evaluated."""
    (tmp_path / "out").symlink_to(two_runs.folder)
    monkeypatch.chdir(tmp_path)
    flags = ["--ckpt", "out/first", "--strips", "0", "--out", str(tmp_path / "res")]
    assert ev.main([*flags, "--compare", "table5/no-p2v"]) == 0
    assert evidence.sha256_of(two_runs.second / "last.pt") in page_of(tmp_path / "res")

    monkeypatch.setattr(ev, "evaluate", None)                  # whatever calls it is a TypeError
    for name, said in [("table5/no-v2p", "no trained model of --row table5/no-v2p"), ("table5/no-p2x", "Did you mean"),
                       ("out/first", "the run itself"), ("out/first/last.pt", "the run itself")]:
        capsys.readouterr()
        assert ev.main([*flags, "--compare", name]) == 2
        assert said in capsys.readouterr().err, name


def test_compare_with_other_labels_and_averages(two_runs, tmp_path, monkeypatch):
    """--texts and --average are said of both runs: else they would not have answered the same question."""
    asked = []
    real = ev.evaluate

    def watched(model, dataset, *args, **options):
        asked.append((list(dataset.labels), list(dataset.texts), options["average"]))
        return real(model, dataset, *args, **options)

    monkeypatch.setattr(ev, "evaluate", watched)
    labels = [f"a dive of kind {k}" for k in range(len(json.loads((two_runs.first / "eval-test-1view.json").read_text())["labels"]))]
    (tmp_path / "texts.txt").write_text("\n".join(labels))
    for rival in (str(two_runs.second), "clip"):
        asked.clear()
        assert ev.main(["--ckpt", str(two_runs.first), "--strips", "0", "--out", str(tmp_path), "--compare", rival,
                        "--texts", str(tmp_path / "texts.txt"), "--average", "probabilities"]) == 0
        assert asked[0] == asked[1] and asked[0][0] == labels and asked[0][2] == "probabilities"
