"""Which recipe moves a model of real width: 16 clips, learnt with --recipe aim and --recipe paper.

The paper's rate of 8e-6 suits weights that are trained already, and nearly all of PeVL's are new.
How far AdamW can carry a weight in a run is bounded by the sum of the rates, whatever the data are;
so a few clips and a few steps show what thousands would. The model has ViT-B/16's shapes at a third
of its depth, since what decides is the size of a weight at its start, and so the width.
"""
import dataclasses
import json
from dataclasses import dataclass

import pytest
import torch
from torch.utils.data import default_collate

import train
from clip_model import BACKBONES

STEPS = 40


def skip(*_, **__):
    """In place of what this test does without."""


@pytest.fixture
def shallow(monkeypatch):
    """ViT-B/16 in everything but depth and frame size: d = 768, 4 blocks, 2 x 2 patches."""
    sizes = dataclasses.replace(BACKBONES["ViT-B/16"], vision_layers=4, text_layers=1,
                                image_size=32)
    monkeypatch.setitem(BACKBONES, "ViT-B/16", sizes)
    monkeypatch.setattr(train, "draw_curves", skip)
    monkeypatch.setattr(train, "save_checkpoint", skip)           # 120 MB after each step


def settings(tree, out, recipe):
    """The three configs of a run; 16 clips are one batch, so that an epoch is a step."""
    words = ["--data", "diving48", "--root", str(tree), "--out", str(out), "--workers", "0"]
    words += ["--backbone", "ViT-B/16", "--clip", "random"]
    words += ["--image-size", "32", "--pose-frames", "2", "--video-frames", "1"]
    words += ["--crop-area", "1", "--no-flip"]                    # all that can be learnt by heart
    words += ["--recipe", recipe, "--batch", "16", "--epochs", str(STEPS), "--log-every", "1"]
    configs, _ = train.settings(words)
    return configs


class Fixed:
    """Clips that look the same in every epoch: the crop and the moments of the first."""

    def __init__(self, clips):
        self.inside = clips

    def __getattr__(self, name):
        return getattr(self.inside, name)

    def __len__(self):
        return len(self.inside)

    def __getitem__(self, index):
        # Beyond the first epoch an index goes on counting, which draws another crop.
        return self.inside[index % len(self.inside)]


class ByHeart(train.Job):
    """The usual job on fixed clips; it remembers its model and where that started.

    Held-out clips are not measured: at the end it is asked for the clips that it was trained on.
    """

    def open_split(self, data_cfg, split, train):
        return Fixed(super().open_split(data_cfg, split, train))

    def build(self, model_cfg, clip, data):
        self.model = super().build(model_cfg, clip, data)
        self.before = {name: p.clone() for name, p in self.model.trainable_state().items()}
        return self.model

    def measure(self, run, dataset):
        return {}

    def finish(self, run):
        """The share of the clips of training that are right."""
        batch = default_collate([run.train_set[i] for i in range(len(run.train_set))])
        model = self.model.eval()
        with torch.no_grad():
            answers = model.class_logits(model(batch))["all"].argmax(1)
        return float((answers == batch["label"]).float().mean())


@dataclass(frozen=True)
class Figures:
    """What a recipe did in STEPS steps."""
    sum_of_rates: float       # as the table at a run's start prints it
    furthest: float           # the largest change of any weight
    adapters_moved: float     # change of the adapters' first layers, in deviations at their start
    loss_first: float         # L_t of the first step
    loss_last: float
    top1: float               # on the clips of training


def trained(tree, out, recipe):
    """Train by a recipe -> Figures."""
    configs = settings(tree, out, recipe)
    job = ByHeart()
    top1 = train.train(*configs, job)

    cfg = configs[0]
    rates = train.sums_of_rates(cfg, cfg.warmup, STEPS)
    steps = []
    for line in (out / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["kind"] == "step":
            steps.append(row)

    after = job.model.trainable_state()
    furthest = 0.0
    shares = []
    for name, start in job.before.items():
        moved = after[name] - start
        furthest = max(furthest, float(moved.abs().max()))
        if name.endswith("down.weight"):                          # the others start at zero
            shares.append(float(moved.square().mean().sqrt() / start.std()))

    return Figures(sum_of_rates=rates["new"], furthest=furthest,
                   adapters_moved=sum(shares) / len(shares), loss_first=steps[0]["L_t"],
                   loss_last=steps[-1]["L_t"], top1=top1)


@pytest.mark.slow
def test_which_recipe_overfits_sixteen_clips(tree, tmp_path, shallow, capsys):
    """In 40 steps AIM's recipe learns 16 clips by heart; the paper's hardly moves the loss."""
    aim = trained(tree, tmp_path / "aim", "aim")
    paper = trained(tree, tmp_path / "paper", "paper")
    with capsys.disabled():
        print(f"\n{STEPS} steps by --recipe aim: {aim}\n{STEPS} steps by --recipe paper: {paper}")

    assert paper.loss_first == aim.loss_first, "they do not start from one model"
    assert aim.top1 == 1
    assert aim.loss_last < 0.25 * aim.loss_first
    assert paper.top1 < 0.5
    assert paper.loss_last > 0.85 * paper.loss_first

    # Why: the sum of the rates is how far a weight gets, and the paper's is small beside a weight.
    for figures in (aim, paper):
        reach = figures.furthest / figures.sum_of_rates
        assert 0.3 < reach < 1.2, "the sum of the rates does not bound what a weight moves"
    ratio = aim.sum_of_rates / paper.sum_of_rates
    assert ratio == pytest.approx(3e-4 / 8e-6, rel=0.05), "the ratio of the base rates"
    assert paper.adapters_moved < 0.02 < aim.adapters_moved
