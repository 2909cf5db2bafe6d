"""Which recipe moves a model of real width: 16 clips, ViT-B/16's shapes at a third of its depth, by --recipe aim and paper."""
import dataclasses
import json

import pytest
import torch
from torch.utils.data import default_collate

import train
from clip_model import BACKBONES

STEPS = 24


@pytest.fixture
def shallow(monkeypatch):
    """ViT-B/16 in everything but depth and frame size: d = 768, 4 blocks, 2 x 2 patches; minutes on a CPU."""
    sizes = dataclasses.replace(BACKBONES["ViT-B/16"], vision_layers=4, text_layers=1, image_size=32)
    monkeypatch.setitem(BACKBONES, "ViT-B/16", sizes)
    monkeypatch.setattr(train, "draw_curves", lambda *_, **__: None)
    monkeypatch.setattr(train, "save_checkpoint", lambda *_: None)           # 120 MB after each step


def settings(tree, out, recipe):
    """16 clips are one batch, so that an epoch is a step."""
    words = ["--data", "diving48", "--root", str(tree), "--backbone", "ViT-B/16", "--clip", "random", "--image-size", "32",
             "--pose-frames", "2", "--video-frames", "1", "--crop-area", "1", "--no-flip", "--workers", "0",
             "--recipe", recipe, "--batch", "16", "--epochs", str(STEPS), "--log-every", "1", "--out", str(out)]
    return train.settings(words)[0]


class Fixed:
    """A data set whose clips look the same in every epoch: the crop and the moments of the first."""

    def __init__(self, clips):
        self.inside = clips

    def __getattr__(self, name):
        return getattr(self.inside, name)

    def __len__(self):
        return len(self.inside)

    def __getitem__(self, index):
        return self.inside[index % len(self.inside)]


class ByHeart(train.Job):
    """The usual job on fixed clips, which remembers its model and where that started, and measures nothing."""

    def open_split(self, data_cfg, split, train):
        return Fixed(super().open_split(data_cfg, split, train))

    def build(self, model_cfg, clip, data):
        self.model = super().build(model_cfg, clip, data)
        self.before = {name: p.clone() for name, p in self.model.trainable_state().items()}
        return self.model

    def measure(self, run, dataset):
        return {}

    def finish(self, run):
        """The share of the clips that were trained on that are right."""
        batch = default_collate([run.train_set[i] for i in range(len(run.train_set))])
        with torch.no_grad():
            answers = self.model.eval().class_logits(self.model(batch))["all"].argmax(1)
        return float((answers == batch["label"]).float().mean())


def trained(tree, out, recipe):
    """What a recipe does in 24 steps: dict of the figures that the test is about."""
    cfgs = settings(tree, out, recipe)
    job = ByHeart()
    top1 = train.train(*cfgs, job)
    before, after = job.before, job.model.trainable_state()
    reach = train.sums_of_rates(cfgs[0], cfgs[0].warmup, STEPS)["new"]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "step"]

    # The furthest that any weight went, and how far those of the adapters' first layers went on the
    # whole, in deviations of theirs at the start.
    moved = {name: after[name] - before[name] for name in before}
    down = [name for name in before if name.endswith("down.weight")]
    shares = [float(moved[name].square().mean().sqrt() / before[name].std()) for name in down]
    return {"sum of rates": reach, "furthest": max(float(x.abs().max()) for x in moved.values()),
            "adapters moved": sum(shares) / len(shares), "L_t first": steps[0]["L_t"], "L_t last": steps[-1]["L_t"],
            "top1": top1}


@pytest.mark.slow
def test_which_recipe_overfits_sixteen_clips(tree, tmp_path, shallow, capsys):
    """In 24 steps AIM's recipe learns 16 clips by heart; the paper's leaves the loss about where it was."""
    found = {recipe: trained(tree, tmp_path / recipe, recipe) for recipe in ("aim", "paper")}
    with capsys.disabled():
        for recipe, figures in found.items():
            print(f"\n--recipe {recipe}, {STEPS} steps:", ", ".join(f"{name} {x:.3g}" for name, x in figures.items()))
    aim, paper = found["aim"], found["paper"]

    assert aim["top1"] == 1 and aim["L_t last"] < 0.25 * aim["L_t first"]
    assert paper["top1"] < 0.5 and paper["L_t last"] > 0.9 * paper["L_t first"]
    assert paper["L_t first"] == aim["L_t first"]                # one start
    for figures in (aim, paper):                                 # what the table of a run's start says
        assert 0.3 * figures["sum of rates"] < figures["furthest"] < 1.2 * figures["sum of rates"]
    assert aim["sum of rates"] == pytest.approx(3e-4 / 8e-6 * paper["sum of rates"], rel=0.05)
    assert paper["adapters moved"] < 0.02 < aim["adapters moved"]
