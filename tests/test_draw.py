"""report/draw.py: every picture is drawn to scale, whatever it is given; colours, numbers of axes, short labels."""
import math
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pose import JOINT_SETS
from report import draw
from strategies import drawn

COCO = JOINT_SETS["coco17"].names


def test_colour_scales_get_steadily_lighter_or_darker():
    for scale, sign in ((draw.HEAT, 1), (draw.BLUES, -1)):
        rgb = draw.colour(np.linspace(0, 1, 50), scale).astype(float)
        assert (sign * np.diff(rgb @ (0.299, 0.587, 0.114)) > 0).all()
    assert draw.colour([np.nan, -1, 2]).shape == (3, 3)


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4))
def test_ticks_cover_the_range_with_round_steps(low, span):
    marks = draw.ticks(low, low + span)
    assert marks[0] <= low + 1e-6 * span + 1e-9 and marks[-1] >= low + span * (1 - 1e-6) - 1e-9
    assert 2 <= len(marks) <= 8


@pytest.mark.parametrize("K", [1, 2, 16, 120])
def test_confusion_is_drawn(tmp_path, K):
    table = torch.eye(K, dtype=torch.long) * 7
    table[0, K - 1] += 2
    labels = [f"{k}: a rather long label of a dive with somersaults and twists, platform" for k in range(K)]
    draw.draw_confusion(table, labels, tmp_path / "c.png", "top-1 50 %")
    pixels = drawn(tmp_path / "c.png")
    dark, cell = draw.BLUES[-1], min(max(1000 // K, 13), 44)
    assert (pixels == dark).all(-1).sum() > 0.5 * cell * cell            # the diagonal's full cells
    assert (pixels[:, -2:] == 255).all() and (pixels[-8:] == 255).all()  # nothing runs off the edge


def test_curves_and_bars_are_drawn(tmp_path):
    rows = [{"kind": "epoch", "epoch": k, "total": 2 / k, "L_t": 1 / k, "top1": 0.1 * k, "top1/vs": 0.05 * k,
             "grad_norm": math.inf} for k in (1, 2, 3)]
    rows[1]["top1"] = None
    for name, some in (("all", rows), ("one", rows[:1]), ("none", [])):
        draw.draw_curves(some, tmp_path / f"{name}.png")
        drawn(tmp_path / f"{name}.png")
    pixels = drawn(tmp_path / "all.png")
    for tint in draw.SERIES[:2]:                                        # both panels hold both colours
        for half in (pixels[:, :550], pixels[:, 550:]):
            assert (np.abs(half.astype(int) - tint).sum(-1) < 12).any()
    draw.draw_bars([("PeVL", 88.0, 2.0, 91.9), ("without P2V", 80.0, None, None)], tmp_path / "b.png")
    wide = (np.abs(drawn(tmp_path / "b.png").astype(int) - draw.BLUE).sum(-1) < 12).sum(1)
    assert wide.max() == pytest.approx(0.88 * 620, abs=12)               # the longer bar, to scale


def test_strips_are_drawn(tmp_path):
    """A clip with all maps, one without any, one without a pose: a row for what there is; heat lies where the map has it."""
    g = np.random.default_rng(0)
    clip = {"said": "clip 1: a dive", "right": True, "joints": COCO, "frames": np.full((3, 8, 8, 3), 128, np.uint8),
            "keypoints": g.uniform(-1, 1, (3, 17, 2)), "scores": np.ones((3, 17))}
    spot = np.zeros((3, 16))
    spot[:, 5] = 0.3                                                    # row 1, column 1 of a 4 x 4 grid
    maps = {"patch_weight": spot, "before": np.ones((3, 16)), "after": np.zeros((3, 16))}
    bare = {**clip, "maps": {}, "right": None}
    draw.draw_strip([{**clip, "maps": maps}, bare, {**bare, "scores": np.zeros((3, 17))}], tmp_path / "s.png")
    pixels, step = drawn(tmp_path / "s.png"), draw.CELL + 3
    assert pixels.shape[0] == 3 * (44 + 10) + (5 + 2 + 1) * step
    cell = pixels[44 + 2 * step:, draw.MARGIN:][:draw.CELL, :draw.CELL].sum(-1).astype(int)
    quarter = draw.CELL // 4
    blocks = cell[:4 * quarter, :4 * quarter].reshape(4, quarter, 4, quarter).mean((1, 3))
    assert np.unravel_index(blocks.argmax(), (4, 4)) == (1, 1)


def test_long_texts_keep_both_ends():
    short = draw.shorten("Forward, 2.5 somersaults, no twist, pike position, platform", 14, 200)
    assert short.startswith("Forw") and short.endswith("form") and draw.text_width(short, 14) <= 200


def shorten_slowly(text, size, width):
    """One character less at a time, until it fits."""
    kept, short = len(text), text
    while kept > 2 and draw.text_width(short, size) > width:
        kept -= 1
        head = text[:kept - kept // 2].rstrip()
        tail = text[len(text) - kept // 2:].lstrip()
        short = f"{head} .. {tail}"
    return short


LETTERS = "AVTLWfil .,-(\u00e9\u00df\u3042\u0301\t"          # kerned, spaces, accents, one that the font lacks


@settings(max_examples=200)
@given(st.text(LETTERS, max_size=60), st.sampled_from([8, 12, 16]), st.integers(-5, 400))
def test_shorten_keeps_all_that_fits(text, size, width):
    """As much as a search character by character, for letters that are kerned, spaces and accents, too."""
    assert draw.shorten(text, size, width) == shorten_slowly(text, size, width)


def test_shorten_is_quick_for_long_texts():
    """A text of 22,000 characters is measured at most 17 times: its length is halved, not counted down."""
    text = "somersault " * 2000
    with pytest.MonkeyPatch.context() as patch:
        measured = []
        patch.setattr(draw, "text_width", lambda words, size: measured.append(words) or 8 * len(words))
        short = draw.shorten(text, 14, 360)
    assert len(measured) <= 17 and len(short) == 45


def test_a_failed_write_keeps_the_old_picture(tmp_path, monkeypatch):
    image = Image.new("RGB", (4, 4), "white")
    draw.save_png(image, tmp_path / "a" / "x.png")
    old = (tmp_path / "a" / "x.png").read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError):
        draw.save_png(image.resize((9, 9)), tmp_path / "a" / "x.png")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x.png"]
    assert (tmp_path / "a" / "x.png").read_bytes() == old
