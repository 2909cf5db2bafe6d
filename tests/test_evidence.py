"""report/evidence.py: what a page shows is what the model computed.

First single functions, on models of random weights and one made-up clip: the matrix of frames and
words, attention, saliency, which clips are chosen. Then whole commands on two short trainings: the
page of a training, of an evaluation (`--report`), of two runs (`--compare`).
"""
import functools
import json
import types

import pytest
import torch
import torch.nn.functional as F

import eval as ev
import train
from children import draw_nothing
from clip_model import BACKBONES, CLIP, token_texts, tokenize
from pevl import cosine
from pose import JOINT_SETS
from report import evidence
from runs import leave_out_pictures, words
from support.sampling import video_frame_index
from systems.config import PeVLConfig
from systems.registry import build_model
from tables.rows import ROWS

TEXTS = ["Forward, 1.5 somersaults", "Back, pike", "Reverse, 2 twists"]
CPU = torch.device("cpu")


@functools.cache
def model_of(name="pevl", **changes):
    """A model of random weights, nothing at its zero start, which would make every map trivial.

    Built once for all tests with the same arguments; none of them changes it.
    """
    torch.manual_seed(0)
    settings = dict(backbone="tiny", clip="random", image_size=80, pose_frames=4, video_frames=2,
                    tau_fw=0.1)
    config = PeVLConfig(model=name, **settings | changes)
    model = build_model(config, ev.load_trunk(config), TEXTS, joints=17).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


class OneClip(torch.utils.data.Dataset):
    """A clip of three views, as data.Clips gives it in evaluation."""

    labels = ["forward", "back", "reverse"]
    texts = TEXTS
    joints = JOINT_SETS["coco17"].names

    def __init__(self, pose_frames=4):
        generator = torch.Generator().manual_seed(1)
        frames = torch.randint(0, 255, (3, 2, 3, 80, 80), generator=generator, dtype=torch.uint8)
        keypoints = torch.rand(3, 4, 17, 2, generator=generator) * 2 - 1
        self.item = {
            "frames": frames,
            "keypoints": keypoints[:, :pose_frames],
            "scores": torch.ones(3, pose_frames, 17),
            "label": torch.tensor(0),
            "index": torch.tensor(0),
            "broken": torch.tensor(False),
            "error": "",
        }

    def __getitem__(self, index):
        return self.item

    def __len__(self):
        return 1


# The clip is of label 0, and 2 was answered.
PREDICTION = {"index": 0, "id": "a", "label": 0, "predicted": 2, "top5": [2, 0], "broken": False,
              "probability": 0.6, "alone": {"vs": 1, "ps": 0}, "tied": False}


def evaluated(model, predictions=(PREDICTION,), dataset=None):
    """A model with its answers, as eval.py hands it on."""
    return evidence.Evaluated(name="run", model=model, dataset=dataset or OneClip(),
                              result={"predictions": list(predictions)}, about={})


def features_and_text(model, dataset):
    """What the model makes of the clip's middle view, and of the texts."""
    item = dataset[0]
    batch = {"label": item["label"][None]}
    for name in ("frames", "keypoints", "scores"):
        batch[name] = item[name][1][None]
    with torch.no_grad():
        return model(batch), model.encode_texts()


# ---- Frames and words, Fig. 3b -------------------------------------------------------------------

def test_tokens_have_texts():
    """The pieces of a text between its two marks spell it, words that were cut with a hyphen."""
    tokens = tokenize("Back, 2.5 somersaults é", context_length=20)[0]
    end = int(tokens.argmax())                    # the end mark has the largest number
    said = token_texts(tokens[:end + 1])
    assert said[0] == "<|startoftext|>"
    assert said[-1] == "<|endoftext|>"
    assert "".join(said[1:-1]).replace("-", "") == "back,2.5somersaultsé"


def test_matrix_is_that_of_the_similarity():
    """Each cosine of a moment and a word, one by one; and the similarity that the model says."""
    model = model_of()
    one = evaluated(model)
    features, text = features_and_text(model, one.dataset)
    looked = evidence.look_at(one, PREDICTION, text, CPU)
    assert [matrix.text for matrix in looked.matrices] == ["reverse", "forward"], "the answer first"

    similarities = model.similarities(features, text)["fw"][0].detach()
    for matrix, label in zip(looked.matrices, (2, 0)):
        places = text["word_mask"][label].nonzero()[:, 0].tolist()
        assert len(matrix.words) == len(places)
        assert matrix.values.shape == (4, len(places))
        for t in range(4):
            frame = features["pose_frames"][0, t]
            for w, place in enumerate(places):
                word = text["words"][label, place]
                want = float(cosine(frame[None], word[None]))
                assert matrix.values[t, w] == pytest.approx(want, abs=1e-5)
        assert matrix.similarity == pytest.approx(float(similarities[label]), abs=1e-5)
    assert looked.matrices[1].words[:2] == ["forward", ","]


# ---- Attention, Fig. 1c --------------------------------------------------------------------------

def test_a_clip_is_looked_at():
    """Frames, pose and maps of the middle view; the answers of the similarities by name."""
    model = model_of()
    one = evaluated(model)
    _, text = features_and_text(model, one.dataset)
    looked = evidence.look_at(one, PREDICTION, text, CPU)
    assert looked.label == "forward"
    assert looked.answer == "reverse"
    assert looked.alone == {"vs": "back", "ps": "forward"}
    assert looked.strip["maps"].keys() == {"before", "patch_weight", "after"}

    item = one.dataset[0]
    seen = video_frame_index(4, 2)
    assert (looked.strip["keypoints"] == item["keypoints"][1, seen].numpy()).all()
    frames = item["frames"][1].permute(0, 2, 3, 1)
    assert (looked.strip["frames"] == frames.numpy()).all()


@pytest.mark.parametrize("name, changes", [
    ("aim", {}),
    ("clip", {}),
    ("vilp", {"pose_frames": 2}),
    ("pevl", ROWS["table7/v+t"].overrides)], ids=["aim", "clip", "vilp", "table7/v+t"])
def test_rivals_have_attention(name, changes):
    """Systems without P2V show where they look: of a frame a share of 1, less the class token's."""
    model = model_of(name, **changes)
    batch = {"frames": OneClip()[0]["frames"][:1], "keypoints": torch.zeros(1, 4, 17, 2),
             "scores": torch.zeros(1, 4, 17)}
    (attention,) = model.attention_maps(batch).values()
    assert attention.shape == (1, 2, model.clip.visual.grid ** 2)
    shares = attention.sum(-1)
    assert (attention >= 0).all()
    assert (shares <= 1).all()
    assert (shares > 0.1).all()


def test_attention_of_plain_clip_is_its_last_blocks():
    """By hand: a softmax of the class token's scores for each head of the last block; the mean."""
    clip = CLIP(BACKBONES["tiny"]).eval()
    side = clip.visual.image_size
    images = torch.randn(2, 3, side, side)
    last = clip.visual.transformer.resblocks[-1]
    entered = []

    def keep(module, inputs, output):
        entered.append(output)

    hook = last.ln_1.register_forward_hook(keep)
    with torch.no_grad():
        clip.visual(images)
        hook.remove()
        got = clip.visual.class_attention(images)

        x = entered[0]                                                     # (2, 1 + N, d)
        q, k, _ = F.linear(x, last.attn.in_proj_weight, last.attn.in_proj_bias).chunk(3, dim=-1)
        heads = last.attn.heads
        c = q.shape[-1] // heads
        shares = []
        for head in range(heads):
            part = slice(head * c, head * c + c)
            scores = q[:, :1, part] @ k[:, :, part].transpose(1, 2) / c ** 0.5
            shares.append(scores.softmax(-1)[:, 0])                        # (2, 1 + N)
        want = sum(shares)[:, 1:] / heads
    assert torch.allclose(got, want, atol=1e-5)


# ---- Saliency of ViLP ----------------------------------------------------------------------------

def test_saliency_of_vilp():
    """Shares of frames that sum to 1, for the answer and the truth; the logit is made of them."""
    model = model_of("vilp", pose_frames=2)
    one = evaluated(model, dataset=OneClip(pose_frames=2))
    features, text = features_and_text(model, one.dataset)
    looked = evidence.look_at(one, PREDICTION, text, CPU)
    assert list(looked.saliency) == ["reverse", "forward"], "the answer first"
    assert not looked.matrices

    with torch.no_grad():
        A = model.saliency(features, text)                                 # (1, K, Tv)
        logits = model.class_logits(features, text)["all"]
        scale = float(model.logit_scale.exp())
    v = F.normalize(features["frames"], dim=-1)[0]                         # (Tv, e)
    gate = F.normalize(features["pose"], dim=-1)[0].sigmoid()
    gated = v * gate
    for label in range(3):
        assert float(A[0, label].sum()) == pytest.approx(1)
        video = (A[0, label][:, None] * gated).sum(0)
        sentence = F.normalize(text["sentences"][label], dim=-1)
        want = scale * float(video @ sentence)
        assert float(logits[0, label]) == pytest.approx(want, abs=1e-4)
    assert looked.saliency["reverse"] == pytest.approx(A[0, 2].numpy(), abs=1e-6)
    assert looked.saliency["forward"] == pytest.approx(A[0, 0].numpy(), abs=1e-6)


# ---- Which clips, and which runs -----------------------------------------------------------------

def test_most_confident_mistakes_are_chosen():
    """Six mistakes, the surest first; two right answers of different labels; nothing unreadable."""
    rows = []
    for i in range(20):
        right = i % 2 == 0
        label = i // 8                            # 18 and 16 are of one label, 14 of another
        rows.append({"id": str(i), "index": i, "label": label,
                     "predicted": label if right else (label + 1) % 3, "probability": i / 20,
                     "broken": i == 19})
    wrong, right = evidence.chosen_clips(rows)
    assert [p["index"] for p in wrong] == [17, 15, 13, 11, 9, 7]
    assert [p["index"] for p in right] == [18, 14]


def test_two_runs_must_have_answered_the_same_clips():
    """Differences clip by clip of other clips would be numbers without a meaning."""
    a = evaluated(model=None)
    b = evaluated(model=None, predictions=[{**PREDICTION, "id": "b"}])
    said = "did not answer the same clips. Expected one data set and split"
    with pytest.raises(ValueError, match=said):
        evidence.comparison_of(a, b)


def test_a_paper_s_figure_is_of_a_run_that_was_trained_on_the_data():
    """PeVL of Diving48 on the clips of Gym99 is zero-shot, and Table 2 is not."""
    config = {"data": "gym99", "model": "pevl", "backbone": "ViT-B/16", "pose_frames": 48,
              "video_frames": 16, "image_size": 224}
    printed, apart = evidence.paper_beside(config, {"data": "gym99", "views": 1})
    assert printed.figures["top1"] == 96.5
    assert apart == ["views 1 here, 3 in the paper"]
    assert evidence.paper_beside({**config, "data": "diving48"},
                                 {"data": "gym99", "views": 3}) == (None, [])


# ---- Whole commands ------------------------------------------------------------------------------

FIGURES = ("top1", "top5", "mean", "top1/vs", "top1/ps", "top1/fw")


@pytest.fixture(scope="module")
def two_runs(tree, tmp_path_factory):
    """Two short trainings, `first` and `second` in `folder`; the first leaves its page."""
    folder = tmp_path_factory.mktemp("runs")
    first = folder / "first"
    second = folder / "second"
    assert train.main(words(tree, first, epochs=1, batch=8)) == 0
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch)
        assert train.main(words(tree, second, epochs=1, batch=8, seed=1, p2v=False)) == 0
    return types.SimpleNamespace(folder=folder, first=first, second=second)


def page_of(folder):
    """The page in a folder, as text."""
    return (folder / "report.html").read_text(encoding="utf-8")


def result_in(folder, views=1):
    """What an evaluation of the test split wrote into a folder."""
    return json.loads((folder / f"eval-test-{views}view.json").read_text())


def figures_of_test(run):
    """The row of a run's log with the figures of its test split."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (row,) = [row for row in rows if row["kind"] == "test"]
    return row


def test_training_leaves_a_page(two_runs):
    """With its test figures, its curves, and the hash of the checkpoint that lies beside it."""
    text = page_of(two_runs.first)
    row = figures_of_test(two_runs.first)
    for name in FIGURES:
        assert f"{100 * row[name]:.2f} %" in text, name
    assert evidence.sha256_of(two_runs.first / "last.pt") in text
    assert "<polyline" in text
    assert "attention before P2V" in text
    assert "Frames and words" in text


@pytest.mark.slow
def test_report_of_an_evaluation(two_runs, tmp_path):
    """--report writes the page of that evaluation, operations counted; without it there is none."""
    flags = ["--ckpt", str(two_runs.first), "--strips", "0", "--views", "3"]
    without = tmp_path / "without"
    assert ev.main([*flags, "--out", str(without)]) == 0
    assert not (without / "report.html").exists()

    with_it = tmp_path / "with"
    assert ev.main([*flags, "--out", str(with_it), "--report"]) == 0
    text = page_of(with_it)
    found = result_in(with_it, views=3)
    for name in FIGURES:
        assert f"{100 * found[name]:.2f} %" in text, name
    assert "3 crops a clip" in text
    assert "multiply-accumulates" in text
    assert "People in the pose files" in text
    assert "4 clips</caption>" in text, "the tree has four test clips"

    blind = tmp_path / "blind"
    assert ev.main([*flags, "--out", str(blind), "--report", "--no-read-poses"]) == 0
    assert "People in the pose files" not in page_of(blind)


@pytest.mark.slow
def test_compare_two_runs(two_runs, tmp_path, capsys):
    """The difference on the page is that of the two evaluations; the rival is a folder, or CLIP."""
    flags = ["--strips", "0", "--out", str(tmp_path)]
    first = ["--ckpt", str(two_runs.first), *flags]
    assert ev.main([*first, "--compare", str(two_runs.second)]) == 0
    text = page_of(tmp_path)
    assert "Two runs on the same clips" in text
    assert "attention of second" in text
    assert evidence.sha256_of(two_runs.second / "last.pt") in text
    setting = '<th scope="row">p2v</th><td><code>True</code></td><td><code>False</code>'
    assert setting in text

    difference = figures_of_test(two_runs.first)["top1"] - figures_of_test(two_runs.second)["top1"]
    sign = "−" if difference < 0 else "+"
    assert f"{sign}{abs(100 * difference):.1f} (" in text

    # Two of one name, as the lab's seeds are: each is told by its path.
    best = two_runs.first / "best.pt"
    last = two_runs.first / "last.pt"
    assert ev.main(["--ckpt", str(last), *flags, "--compare", str(best)]) == 0
    text = page_of(tmp_path)
    assert f"attention of {best}" in text
    assert str(last) in text

    assert ev.main([*first, "--compare", "clip"]) == 0
    assert "CLIP tiny, zero-shot" in page_of(tmp_path)
    assert ev.main([*first, "--compare", str(tmp_path / "nothing")]) == 2
    assert "no checkpoint at" in capsys.readouterr().err


def test_compare_with_a_row(two_runs, tmp_path, capsys, monkeypatch):
    """A row means its newest run; a wrong name is an error before anything is evaluated."""
    (tmp_path / "out").symlink_to(two_runs.folder)
    monkeypatch.chdir(tmp_path)
    flags = ["--ckpt", "out/first", "--strips", "0", "--out", str(tmp_path / "res")]
    assert ev.main([*flags, "--compare", "table5/no-p2v"]) == 0
    assert evidence.sha256_of(two_runs.second / "last.pt") in page_of(tmp_path / "res")

    monkeypatch.setattr(ev, "evaluate", None)     # whatever calls it is a TypeError
    errors = {"table5/no-v2p": "no trained model of --row table5/no-v2p",
              "table5/no-p2x": "Did you mean",
              "out/first": "the run itself",
              "out/first/last.pt": "the run itself"}
    for name, said in errors.items():
        capsys.readouterr()
        assert ev.main([*flags, "--compare", name]) == 2
        assert said in capsys.readouterr().err, name


@pytest.mark.parametrize("rival", ["second", "clip"])
def test_compare_with_other_labels_and_averages(two_runs, tmp_path, monkeypatch, rival):
    """--texts and --average hold for both runs: else they would have answered other questions."""
    asked = []
    real = ev.evaluate

    def watched(model, dataset, *args, **options):
        asked.append((list(dataset.labels), list(dataset.texts), options["average"]))
        return real(model, dataset, *args, **options)

    monkeypatch.setattr(ev, "evaluate", watched)
    monkeypatch.setattr(ev, "write_results", draw_nothing)
    monkeypatch.setattr(ev, "write_report", draw_nothing)
    labels = [f"a dive of kind {k}" for k in range(len(result_in(two_runs.first)["labels"]))]
    (tmp_path / "texts.txt").write_text("\n".join(labels))
    name = "clip" if rival == "clip" else str(two_runs.second)
    assert ev.main(["--ckpt", str(two_runs.first), "--out", str(tmp_path), "--compare", name,
                    "--texts", str(tmp_path / "texts.txt"), "--average", "probabilities"]) == 0

    mine, theirs = asked
    assert mine == theirs
    assert mine[0] == labels
    assert mine[2] == "probabilities"
