"""toy/stills.py: pretraining of the tiny CLIP on captioned stills."""
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clip_model import BACKBONES, CLIP, load_clip, tokenize
from data import DataConfig
from data import test_view as view_of
from runs import outcome
from support.checkpoints import read_checkpoint
from strategies import randn
from systems.config import PeVLConfig
from toy import stills


def test_stills(tmp_path, monkeypatch):
    """Pretraining of the tiny CLIP on captioned stills, and its export, which loads as a CLIP."""
    class Few(stills.ToyStills):
        def __init__(self, *args):
            super().__init__(*args)
            self.length = 24

    monkeypatch.setattr(stills, "ToyStills", Few)
    export = tmp_path / "clip.pt"
    argv = ["--epochs", "2", "--batch", "12",
            "--workers", "0", "--out",
            str(tmp_path / "run"), "--export", str(export)]
    assert stills.main(argv) == 0
    rows = [row for row in outcome(tmp_path / "run")[3] if row["kind"] == "epoch"]
    assert len(rows) == 2 and {"top1", "top1/apparatus", "total"} <= rows[-1].keys()
    assert export.stat().st_size < 4e6
    loaded = load_clip(str(export), backbone="tiny").state_dict()
    saved = read_checkpoint(tmp_path / "run" / "last.pt")["model"]
    assert "part_head.weight" in saved                       # trained beside CLIP, and not exported
    for name, x in saved.items():
        if name.startswith("clip."):
            assert torch.equal(loaded[name.removeprefix("clip.")], x.half().float()), name


def captioned(paraphrase=1.0):
    """A CaptionedCLIP on a random tiny CLIP of 40 px."""
    torch.manual_seed(0)
    clip = CLIP(replace(BACKBONES["tiny"], image_size=40))
    config = PeVLConfig(model="clip", backbone="tiny", clip="random", tune="all", image_size=40, pose_frames=1, video_frames=1)
    model = stills.CaptionedCLIP(config, clip, ["a diver"], 0)
    model.paraphrase = paraphrase
    return model


def loop_kl(logits, truth):
    """KL(q || p) both ways, row by row, from the formula."""
    total = 0.0
    for scores, true in ((logits, truth), (logits.T, truth.T)):
        rows = 0.0
        for s, t in zip(scores.double(), true.double()):
            q = t / t.sum()
            p = [math.exp(x) / sum(math.exp(y) for y in s.tolist()) for x in s.tolist()]
            rows += sum(float(a) * math.log(float(a) / b) for a, b in zip(q, p) if a > 0)
        total += rows / len(scores)
    return total / 2


def test_captions_true_of_an_image_are_its_positives():
    model = captioned()
    images, attributes = randn(0, 3, 16).float(), torch.tensor([[0, 1], [1, 1], [0, 2]])
    mentions = torch.tensor([[1, 0], [1, 1], [1, 1]], dtype=torch.bool)
    features = {"image": images, "sentence": randn(1, 3, 16).float(), "attributes": attributes,
                "mentions": mentions}
    true = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 0, 1]])    # caption 0 holds of image 2, too
    cos = F.cosine_similarity(images[:, None], features["sentence"][None], dim=-1)
    got = model.losses(features)["total"].detach()
    assert float(got) == pytest.approx(loop_kl(cos / 0.07, true), rel=1e-4)


def test_two_wordings_of_the_same_facts_are_positives():
    model, W = captioned(paraphrase=0.5), 4
    words = tokenize(["a dive", "tuck", "pike", "a jump", "a twist", "a leap"], 32)[:, :W]
    batch = {"frames": torch.randint(0, 256, (3, 1, 3, 40, 40), dtype=torch.uint8),
             "label": torch.arange(3), "tokens": words[:3],
             "parts": torch.rand(3, 16, len(stills.PARTS)) < 0.2, "attributes": torch.arange(6).view(3, 2), "mentions": torch.ones(3, 2).bool(),
             "wordings": words.view(3, 2, W), "facts": torch.tensor([[1, 1], [0, 1], [1, 1]])}
    features = model(batch)
    a, b = (model.clip.encode_text(words[i::2])[0] for i in (0, 1))
    cos = F.cosine_similarity(a[:, None], b[None], dim=-1) / 0.07
    losses = {name: loss.detach() for name, loss in model.losses(features).items()}
    same = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1]])
    assert float(losses["L_text"].detach()) == pytest.approx(loop_kl(cos.detach(), same), rel=1e-4)
    assert torch.allclose(losses["total"],
                          losses["L_t"] + 0.5 * losses["L_text"] + 10 * losses["L_parts"])

    # Yes or no for each patch and part; a yes counts four times.
    p = torch.sigmoid(features["patches"].detach())
    yes = batch["parts"].float()
    rows = -(4 * yes * p.log() + (1 - yes) * (1 - p).log())
    assert torch.allclose(losses["L_parts"], rows.mean(), rtol=1e-4)
    assert "wordings" not in captioned(paraphrase=0.0)(batch)       # off: nothing is encoded for it


def test_patches_are_told_what_they_show():
    """A still's parts, from its points, lie in the patches that the crop shows them in."""
    cfg = DataConfig(data="toy", image_size=80, flip=False)
    dataset = stills.ToyStills(cfg, "val")
    view = view_of(96, 128, 80, 1)                          # the middle 96 of 128, made 80
    points = np.full((23, 2), 200.0)                          # outside the picture, but for
    points[[0, 21]] = (16 + 6, 6)                             # the head: column 0, row 0
    points[[13, 15]] = (16 + 90, 90)                          # a shin: the last column and row
    shows = dataset.parts(points, "clubs", view, (96, 128))   # (64, P), patches of 10 of 80 pixels
    assert shows.shape == (64, len(stills.PARTS))
    found = {(patch, stills.PARTS[part]) for patch, part in torch.nonzero(shows).tolist()}
    # A thigh ends at the knee, and a foot begins at the ankle.
    assert found == {(0, "head"), (63, "thigh"), (63, "shin"), (63, "foot")}
    item = dataset[3]
    assert item["parts"].shape == (64, len(stills.PARTS)) and item["parts"].any()
