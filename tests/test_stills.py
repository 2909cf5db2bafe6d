"""toy/stills.py: pretraining of the tiny CLIP on captioned stills, its losses against loops."""
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clip_model import BACKBONES, CLIP, load_clip, tokenize
from data import DataConfig
from data import test_view as view_of
from runs import outcome
from strategies import randn
from support.checkpoints import read_checkpoint
from systems.config import PeVLConfig
from toy import stills


def test_stills(tmp_path, monkeypatch):
    """Two epochs of pretraining, and the export, which loads as the CLIP that was trained."""
    class Few(stills.ToyStills):
        """24 stills of each split in place of thousands."""

        def __init__(self, *args):
            super().__init__(*args)
            self.length = 24

    monkeypatch.setattr(stills, "ToyStills", Few)
    run = tmp_path / "run"
    export = tmp_path / "clip.pt"
    assert stills.main(["--epochs", "2", "--batch", "12", "--workers", "0", "--out", str(run),
                        "--export", str(export)]) == 0
    epochs = [row for row in outcome(run).rows if row["kind"] == "epoch"]
    assert len(epochs) == 2
    assert {"top1", "top1/apparatus", "total"} <= epochs[-1].keys()

    assert export.stat().st_size < 4e6, "in half precision"
    loaded = load_clip(str(export), backbone="tiny").state_dict()
    saved = read_checkpoint(run / "last.pt")["model"]
    trained = {name.removeprefix("clip."): x for name, x in saved.items()
               if name.startswith("clip.")}
    assert loaded.keys() == trained.keys(), "all of CLIP was trained, and nothing else is exported"
    for name, x in trained.items():
        assert torch.equal(loaded[name], x.half().float()), name
    assert "part_head.weight" in saved, "the head is trained beside CLIP"


# ---- Losses --------------------------------------------------------------------------------------

def captioned(paraphrase=1.0):
    """A CaptionedCLIP on a random tiny CLIP of 40 px."""
    torch.manual_seed(0)
    clip = CLIP(replace(BACKBONES["tiny"], image_size=40))
    config = PeVLConfig(model="clip", backbone="tiny", clip="random", tune="all", image_size=40,
                        pose_frames=1, video_frames=1)
    model = stills.CaptionedCLIP(config, clip, ["a diver"], 0)
    model.paraphrase = paraphrase
    return model


def kl_of_rows(logits, truth):
    """The mean over the rows of KL(q || p): p softmax of the logits, q the truth, shared out."""
    total = 0.0
    for scores, true in zip(logits.double().tolist(), truth.double().tolist()):
        powers = [math.exp(score) for score in scores]
        for power, yes in zip(powers, true):
            p = power / sum(powers)
            q = yes / sum(true)
            if q > 0:
                total += q * math.log(q / p)
    return total / len(logits)


def loop_kl(logits, truth):
    """The mean of both ways: of pictures over captions, of captions over pictures."""
    return (kl_of_rows(logits, truth) + kl_of_rows(logits.T, truth.T)) / 2


def test_captions_true_of_an_image_are_its_positives():
    """Caption 0 names one attribute, in which image 2 is like image 0: it is true of both."""
    images = randn(0, 3, 16).float()
    sentences = randn(1, 3, 16).float()
    features = {"image": images, "sentence": sentences,
                "attributes": torch.tensor([[0, 1], [1, 1], [0, 2]]),
                "mentions": torch.tensor([[True, False], [True, True], [True, True]])}
    true = torch.tensor([[1, 0, 0],
                         [0, 1, 0],
                         [1, 0, 1]])              # row: image, column: caption
    cosines = F.cosine_similarity(images[:, None], sentences[None], dim=-1)
    got = captioned().losses(features)["total"].detach()
    assert float(got) == pytest.approx(loop_kl(cosines / 0.07, true), rel=1e-4)


def batch_of_three():
    """Three random stills with captions; the facts of stills 0 and 2 are the same."""
    torch.manual_seed(1)
    W = 4                                         # tokens of a text
    texts = tokenize(["a dive", "tuck", "pike", "a jump", "a twist", "a leap"], 32)[:, :W]
    return {
        "frames": torch.randint(0, 256, (3, 1, 3, 40, 40), dtype=torch.uint8),
        "label": torch.arange(3),
        "tokens": texts[:3],
        "parts": torch.rand(3, 16, len(stills.PARTS)) < 0.2,
        "attributes": torch.arange(6).view(3, 2),
        "mentions": torch.ones(3, 2, dtype=torch.bool),
        "wordings": texts.view(3, 2, W),
        "facts": torch.tensor([[1, 1], [0, 1], [1, 1]]),
    }


def test_two_wordings_of_the_same_facts_are_positives():
    """L_text: the wordings of two stills that say the same belong together, both ways."""
    model = captioned(paraphrase=0.5)
    batch = batch_of_three()
    features = model(batch)
    losses = model.losses(features)

    as_label = model.clip.encode_text(batch["wordings"][:, 0])[0]
    otherwise = model.clip.encode_text(batch["wordings"][:, 1])[0]
    cosines = F.cosine_similarity(as_label[:, None], otherwise[None], dim=-1).detach()
    same = torch.tensor([[1, 0, 1],
                         [0, 1, 0],
                         [1, 0, 1]])
    want = loop_kl(cosines / 0.07, same)
    assert float(losses["L_text"].detach()) == pytest.approx(want, rel=1e-4)

    total = losses["L_t"] + 0.5 * losses["L_text"] + 10 * losses["L_parts"]
    assert torch.allclose(losses["total"], total)
    assert "wordings" not in captioned(paraphrase=0.0)(batch), "off: nothing is encoded for it"


def test_patches_are_asked_for_each_part():
    """L_parts: yes or no for each patch and part, the mean; a yes counts four times."""
    model = captioned()
    batch = batch_of_three()
    features = model(batch)
    p = torch.sigmoid(features["patches"])
    yes = batch["parts"].float()
    assert yes.any()
    rows = -(4 * yes * p.log() + (1 - yes) * (1 - p).log())
    got = model.losses(features)["L_parts"]
    assert torch.allclose(got, rows.mean(), rtol=1e-4)


# ---- Which patch shows what ----------------------------------------------------------------------

def test_patches_are_told_what_they_show():
    """A still's parts, from its points, lie in the patches that the crop shows them in."""
    dataset = stills.ToyStills(DataConfig(data="toy", image_size=80, flip=False), "val")
    size = (96, 128)
    view = view_of(*size, S=80, views=1)          # the middle 96 of 128 columns, made 80
    points = np.full((23, 2), 200.0)              # all outside the picture, but for
    points[[0, 21]] = (16 + 6, 6)                 # the head: column 0, row 0
    points[[13, 15]] = (16 + 90, 90)              # a shin: the last column and row
    shows = dataset.parts(points, "clubs", view, size)

    patches = 8 * 8                               # of 10 pixels each
    assert shows.shape == (patches, len(stills.PARTS))
    found = {(patch, stills.PARTS[part]) for patch, part in torch.nonzero(shows).tolist()}
    # A thigh ends at the knee, and a foot begins at the ankle.
    assert found == {(0, "head"), (63, "thigh"), (63, "shin"), (63, "foot")}


def test_a_still_has_the_parts_that_it_was_drawn_with():
    """Of a real still some patches show something."""
    dataset = stills.ToyStills(DataConfig(data="toy", image_size=80, flip=False), "val")
    parts = dataset[3]["parts"]
    assert parts.shape == (64, len(stills.PARTS))
    assert parts.any()
    assert not parts.all()


# ---- What is held out, and how it is measured ----------------------------------------------------

def test_held_out_stills_are_no_stills_of_training():
    """Whatever the epoch: the numbers of the splits have nothing in common."""
    config = DataConfig(data="toy", image_size=80, flip=False)
    train, val, test = (stills.ToyStills(config, split) for split in ("train", "val", "test"))
    last_of_training = train.seed(1000 * len(train))
    assert last_of_training < val.seed(0)
    assert val.seed(len(val) - 1) < test.seed(0)


class Tells(torch.nn.Module):
    """Embeds a text by its first token alone, and still i as the text `said[i]`."""

    def __init__(self, said):
        super().__init__()
        self.said = said
        self.clip = SimpleNamespace(config=BACKBONES["tiny"], encode_text=self.encode_text)

    def encode_text(self, tokens):
        return F.one_hot(tokens[:, 1], 49408).float(), None

    def forward(self, batch):
        texts = [self.said[i] for i in batch["label"]]
        return {"image": self.encode_text(tokenize(texts, self.clip.config.context_length))[0]}


def test_zero_shot_counts_stills_that_are_read_rightly():
    """Of three stills with a thing two look like it; a fourth shows none and does not count."""
    shown = [0, 1, 1, -1]                         # balls, hoops, hoops, nothing
    items = [{"frames": torch.zeros(1), "label": torch.tensor(0), "index": torch.tensor(i),
              "attributes": torch.tensor([value])} for i, value in enumerate(shown)]

    class Few(list):
        attributes = ["thing"]

        def prompts(self, name):
            return [["balls"], ["hoops"]]

    found = stills.zero_shot(Tells(["balls", "hoops", "balls", "balls"]), Few(items), 3, "cpu")
    assert found["top1/thing"] == pytest.approx(2 / 3)
    assert found["top1"] == found["top1/thing"]
