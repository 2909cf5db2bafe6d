"""Systems on a CLIP of a few thousand weights, for the tests of pevl.py, systems/ and tables/.

    SMALL, TEXTS               the sizes of that CLIP, and four labels
    settings_of, model_of      a PeVLConfig of small sizes, and the system that it describes
    batch_of, alone            clips for such a system, and one of them as a batch of its own
    stir                       a model away from its start, where many a branch is zero
    draw_words                 random words of texts, and which of them are there
    close, number              a comparison that says what is wrong, and a float as a tensor
    examples_hold              the examples in a module's docstrings come out as printed
    small_backbone             fixture: "tiny" means SMALL; it acts on every file that imports it
"""
import doctest

import pytest
import torch

from clip_model import BACKBONES, CLIP, CLIPConfig
from strategies import randn
from systems.config import PeVLConfig
from systems.registry import build_model

# Frames of 20 px are 2 x 2 patches; two blocks, two heads, 16 numbers a token.
SMALL = CLIPConfig(embed_dim=16, image_size=20, patch_size=10, vision_width=16, vision_layers=2,
                   vision_heads=2, context_length=32, vocab_size=613, text_width=16, text_heads=2,
                   text_layers=2)

TEXTS = ["Forward, 1.5 somersaults, tuck position", "Back, 2.5 somersaults, pike position",
         "Inward", "Reverse, twist"]


@pytest.fixture(autouse=True)
def small_backbone(monkeypatch):
    monkeypatch.setitem(BACKBONES, "tiny", SMALL)


def settings_of(**overrides):
    """A PeVLConfig of 4 pose frames, 2 video frames and SMALL, without DropPath."""
    settings = {"backbone": "tiny", "image_size": 20, "pose_frames": 4, "video_frames": 2,
                "tau_fw": 0.1, "drop_path": 0.0}
    return PeVLConfig(**{**settings, **overrides})


def small_clip():
    """A CLIP of random weights whose layer norms and biases are away from 1 and 0.

    As CLIP starts, all its layer norms are alike: one could stand in the place of another.
    """
    clip = CLIP(SMALL)
    with torch.no_grad():
        for name, p in clip.named_parameters():
            if p.dim() == 1 and "class_embedding" not in name:
                p.add_(torch.randn(p.shape) * 0.3)
    return clip


def model_of(seed=0, texts=TEXTS, joints=5, **overrides):
    """The system that `overrides` of the settings describe, on a CLIP of random weights."""
    torch.manual_seed(seed)
    return build_model(settings_of(**overrides), small_clip(), texts, joints)


def batch_of(B=3, T=4, Tv=2, J=5, seed=0):
    """B clips, a fifth of their joints missing, and some outside of the frame."""
    g = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (B, Tv, 3, 20, 20), generator=g, dtype=torch.uint8)
    keypoints = torch.rand(B, T, J, 2, generator=g) * 2.4 - 1.2
    scores = (torch.rand(B, T, J, generator=g) > 0.2).float()
    label = torch.arange(B) % 3
    return {"frames": frames, "keypoints": keypoints, "scores": scores, "label": label}


def alone(batch, i):
    """Clip i of a batch as a batch of one."""
    return {name: x[i:i + 1] for name, x in batch.items()}


def stir(model, seed=1, std=0.3):
    """Move all that is trained off its start, so that every branch counts -> the same model.

    Scalars, which are temperatures, stay as they are.
    """
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad and p.dim() > 0:
                p.add_(torch.randn(p.shape, generator=g, dtype=p.dtype) * std)
    return model


def draw_words(seed, K, W):
    """Words (K, W, 8) and their mask: each text has at least one word, some fewer than W."""
    words = randn(seed, K, W, 8)
    mask = torch.zeros(K, W, dtype=torch.bool)
    for k in range(K):
        count = 1 + (seed + k) % W
        mask[k, :count] = True
    return words, mask


def examples_hold(module):
    """The examples in the docstrings of `module`, of which there is one at least, come out."""
    found = doctest.testmod(module)
    assert found.attempted >= 1, f"{module.__name__} has no example"
    assert found.failed == 0, "an example does not give what stands below it"


def number(x):
    """A Python float as a tensor of float64."""
    return torch.tensor(x, dtype=torch.float64)


def close(got, want, why, tol=1e-9):
    """`got` is `want` to within `tol`, relative and absolute; else an error that begins with `why`.

    tol=0: to the bit.
    """
    def message(difference):
        return f"{why}\n{difference}"

    torch.testing.assert_close(got, want, rtol=tol, atol=tol, msg=message)
