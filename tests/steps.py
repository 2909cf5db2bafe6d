"""Shared by the tests of single steps: a small model, a batch of random clips, and what to compare.

Nothing is read from files: a step of this model takes a few hundredths of a second.
"""
import dataclasses

import torch

from clip_model import BACKBONES, CLIP
from runs import SMALL
from systems.config import PeVLConfig
from systems.registry import build_model

TEXTS = ["1 somersaults", "2 somersaults", "3 somersaults", "4 somersaults", "5 somersaults",
         "6 somersaults"]


def small_model(sizes, **changes):
    """A model of 6 labels on a random CLIP of these sizes, its zero-start parts moved off zero.

    changes: of PeVLConfig.
    """
    settings = SMALL | {"clip": "random", "drop_path": 0.0} | changes
    torch.manual_seed(0)
    model = build_model(PeVLConfig(**settings), CLIP(sizes), TEXTS, 17)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn_like(p))
    return model


def tiny_model(**changes):
    """A small_model on the tiny CLIP, for frames of 40 px."""
    sizes = dataclasses.replace(BACKBONES["tiny"], image_size=40)
    return small_model(sizes, **changes)


def clips(B):
    """A batch of B random clips, as the loader gives them; always the same."""
    generator = torch.Generator().manual_seed(1)

    def rand(*shape):
        return torch.rand(*shape, generator=generator)

    return {
        "frames": (255 * rand(B, 2, 3, 40, 40)).byte(),
        "keypoints": 2 * rand(B, 4, 17, 2) - 1,
        "scores": rand(B, 4, 17).round(decimals=1),            # a few are 0: not found
        "label": torch.arange(B) % 4,
        "index": torch.arange(B),
        "broken": torch.zeros(B, dtype=torch.bool),
    }


def cut(batch, count):
    """A batch -> `count` equal parts of it, in order."""
    parts = [{} for _ in range(count)]
    for name, x in batch.items():
        for part, piece in zip(parts, x.chunk(count)):
            part[name] = piece
    return parts


def gradients(model):
    """Name -> gradient, of all parameters that have one."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def close(got, want, tolerance=1e-5):
    """Two dicts of tensors are equal up to rounding, beside each tensor's largest value or 1."""
    assert got.keys() == want.keys(), f"other names: {sorted(got.keys() ^ want.keys())}"
    for name in want:
        largest = max(float(want[name].abs().max()), 1.0)
        apart = float((got[name] - want[name]).abs().max())
        assert apart <= tolerance * largest, f"{name} differs by {apart:.2g} beside {largest:.2g}"
