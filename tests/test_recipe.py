"""Which recipe moves a model of real width: 16 clips, ViT-B/16's shapes at a third of its depth, by --recipe aim and paper."""
import dataclasses
import json

import pytest

import train
from clip_model import BACKBONES

STEPS = 30


@pytest.fixture
def shallow(monkeypatch):
    """ViT-B/16 in everything but depth and frame size: d = 768, 4 blocks, 2 x 2 patches; minutes on a CPU."""
    sizes = dataclasses.replace(BACKBONES["ViT-B/16"], vision_layers=4, text_layers=1, image_size=32)
    monkeypatch.setitem(BACKBONES, "ViT-B/16", sizes)
    monkeypatch.setattr(train, "write_results", lambda *_, **__: None)
    monkeypatch.setattr(train, "draw_curves", lambda *_, **__: None)
    monkeypatch.setattr(train, "save_checkpoint", lambda *_: None)           # 120 MB after each step


def settings(tree, out, recipe):
    """16 clips are one batch, so that an epoch is a step; measured on what was trained on."""
    words = ["--data", "diving48", "--root", str(tree), "--backbone", "ViT-B/16", "--clip", "random", "--image-size", "32",
             "--pose-frames", "4", "--video-frames", "1", "--crop-area", "1", "--no-flip", "--workers", "0",
             "--recipe", recipe, "--batch", "16", "--epochs", str(STEPS),
             "--eval-split", "train", "--eval-every", str(STEPS), "--log-every", "1", "--out", str(out)]
    return train.settings(words)[0]


class Watched(train.Job):
    """The usual job, which remembers its model and where that started."""

    def build(self, *args):
        self.model = super().build(*args)
        self.before = {name: p.clone() for name, p in self.model.trainable_state().items()}
        return self.model


def trained(tree, out, recipe):
    """What a recipe does in 30 steps: dict of the figures that the test is about."""
    cfgs = settings(tree, out, recipe)
    job = Watched()
    train.train(*cfgs, job)
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
            "top1": next(row for row in rows if row["kind"] == "epoch" and "top1" in row)["top1"]}


@pytest.mark.slow
def test_which_recipe_overfits_sixteen_clips(tree, tmp_path, shallow, capsys):
    """In 30 steps AIM's recipe learns 16 clips by heart; the paper's leaves the loss about where it was."""
    found = {recipe: trained(tree, tmp_path / recipe, recipe) for recipe in ("aim", "paper")}
    with capsys.disabled():
        for recipe, figures in found.items():
            print(f"\n--recipe {recipe}, {STEPS} steps:", ", ".join(f"{name} {x:.3g}" for name, x in figures.items()))
    aim, paper = found["aim"], found["paper"]

    assert aim["top1"] == 1 and aim["L_t last"] < 0.1 * aim["L_t first"]
    assert paper["L_t last"] > 0.9 * paper["L_t first"]
    assert paper["L_t first"] == aim["L_t first"]                # one start
    for figures in (aim, paper):                                 # what the table of a run's start says
        assert 0.3 * figures["sum of rates"] < figures["furthest"] < 1.2 * figures["sum of rates"]
    assert aim["sum of rates"] == pytest.approx(3e-4 / 8e-6 * paper["sum of rates"], rel=0.05)
    assert paper["adapters moved"] < 0.02 < 0.1 < aim["adapters moved"]
