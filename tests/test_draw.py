"""report/draw.py: each picture is drawn to scale, whatever it is given; colours, axes, labels.

Pictures are written and read back: a colour that must be there is counted, a length that means
something is measured in pixels.
"""
import math
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pose import JOINT_SETS, SIDE_COLOURS
from report import draw
from strategies import drawn

COCO = JOINT_SETS["coco17"].names


def near(pixels, colour):
    """Which pixels have about this colour, bool (H, W): edges are smoothed."""
    return np.abs(pixels.astype(int) - colour).sum(-1) < 12


# ---- Colours and axes ----------------------------------------------------------------------------

def test_colour_scales_get_steadily_lighter_or_darker():
    """Printed in grey they still tell more from less: HEAT gets lighter, BLUES darker."""
    weights = (0.299, 0.587, 0.114)               # of red, green and blue in lightness
    values = np.linspace(0, 1, 50)
    heat = np.diff(draw.colour(values, draw.HEAT) @ weights)
    blues = np.diff(draw.colour(values, draw.BLUES) @ weights)
    assert (heat > 0).all()
    assert (blues < 0).all()


def test_colours_of_odd_values_are_those_of_the_ends():
    """NaN and values below 0 have the first colour, values above 1 the last."""
    got = draw.colour([np.nan, -1, 2], draw.HEAT)
    assert got.tolist() == [list(draw.HEAT[0]), list(draw.HEAT[0]), list(draw.HEAT[-1])]


@given(low=st.floats(-1e4, 1e4), span=st.floats(1e-3, 1e4))
def test_ticks_cover_the_range_with_round_steps(low, span):
    """Two to eight numbers around the range, 1, 2 or 5 times a power of ten apart."""
    marks = draw.ticks(low, low + span)
    assert 2 <= len(marks) <= 8
    rounding = 1e-6 * span + 1e-9
    assert marks[0] <= low + rounding
    assert marks[-1] >= low + span - rounding

    step = marks[1] - marks[0]
    power = 10.0 ** math.floor(math.log10(step) + 1e-6)
    factor = round(step / power)
    assert factor in (1, 2, 5)
    assert step == pytest.approx(factor * power, rel=1e-5)
    for mark in marks:
        steps = mark / (factor * power)
        assert steps == pytest.approx(round(steps), abs=1e-4), f"{mark} is not a round number"


# ---- Pictures ------------------------------------------------------------------------------------

@pytest.mark.parametrize("K", [1, 2, 16, 80])
def test_confusion_is_drawn(tmp_path, K):
    """Something is dark, and no label runs off the edge; cells of 44 to 13 pixels."""
    table = torch.eye(K, dtype=torch.long) * 7
    table[0, K - 1] += 2
    labels = []
    for k in range(K):
        labels.append(f"{k}: a rather long label of a dive with somersaults and twists, platform")
    draw.draw_confusion(table, labels, tmp_path / "c.png", "top-1 50 %")

    pixels = drawn(tmp_path / "c.png")
    cell = min(max(1000 // K, 13), 44)
    dark = (pixels == draw.BLUES[-1]).all(-1)
    assert dark.sum() > 0.5 * cell * cell
    assert (pixels[:, -2:] == 255).all(), "something runs off the right edge"
    assert (pixels[-8:] == 255).all(), "something runs off the bottom"


def test_confusion_has_true_labels_in_rows_and_answers_in_columns(tmp_path):
    """Nine of label 0 are taken for label 2: shade and count stand in row 0, column 2."""
    table = np.array([[0, 0, 9], [0, 0, 0], [0, 0, 0]])
    draw.draw_confusion(table, ["a", "b", "c"], tmp_path / "c.png")
    pixels = drawn(tmp_path / "c.png")
    cell = 44
    left = pixels.shape[1] - 24 - 3 * cell        # the matrix ends so far from the edges
    top = pixels.shape[0] - 16 - 3 * cell
    for row, column in np.ndindex(3, 3):
        y = top + row * cell
        x = left + column * cell
        inside = pixels[y + 2:y + cell - 1, x + 2:x + cell - 1]
        if (row, column) == (0, 2):
            assert (inside == draw.BLUES[-1]).all(-1).mean() > 0.7
            assert (inside == 255).all(-1).any(), "its count is not in the cell"
        else:
            assert (inside == draw.BLUES[0]).all(), f"row {row}, column {column} is not empty"


def test_curves_are_drawn(tmp_path):
    """Losses left, accuracies right, with holes and infinite values; of one epoch and of none."""
    rows = []
    for epoch in (1, 2, 3):
        rows.append({"epoch": epoch, "total": 2 / epoch, "L_t": 1 / epoch, "top1": 0.1 * epoch,
                     "top1/vs": 0.05 * epoch, "grad_norm": math.inf})
    rows[1]["top1"] = None
    rows[2]["L_t"] = math.inf
    for name, some in (("three", rows), ("one", rows[:1]), ("none", [])):
        draw.draw_curves(some, tmp_path / f"{name}.png")
        drawn(tmp_path / f"{name}.png")

    pixels = drawn(tmp_path / "three.png")
    middle = pixels.shape[1] // 2
    for tint in draw.SERIES[:2]:
        assert near(pixels[:, :middle], tint).any(), "two losses are two lines on the left"
        assert near(pixels[:, middle:], tint).any(), "two accuracies are two lines on the right"

    panel = near(pixels[72:380, 60:510], draw.SERIES[0])      # the total, without the legend
    columns = np.flatnonzero(panel.any(0))
    first, last = (np.flatnonzero(panel[:, x]).mean() for x in (columns[0], columns[-1]))
    assert first < last, "a loss that falls is drawn as one that rises"


def test_bars_are_drawn(tmp_path):
    """A bar of 88 % is 88 % of the axis long; spread and the paper's figure may be missing."""
    rows = [("PeVL", 88.0, 2.0, 91.9), ("without P2V", 80.0, None, None)]
    draw.draw_bars(rows, tmp_path / "b.png")
    longest = near(drawn(tmp_path / "b.png"), draw.BLUE).sum(1).max()
    axis = 620                                    # pixels from 0 to 100 %
    assert longest == pytest.approx(0.88 * axis, abs=12), "the whisker and the rim hide a little"


def test_bars_have_whisker_and_diamond_at_their_figures(tmp_path):
    """40 +- 10 %, and 80 in the paper: in percent of the axis, of which 1 % is 6.2 pixels."""
    draw.draw_bars([("PeVL", 40.0, 10.0, 80.0)], tmp_path / "b.png")
    pixels = drawn(tmp_path / "b.png")[66:96]     # the bar alone: no title, no legend
    left = np.flatnonzero(near(pixels, draw.BLUE).any(0))[0]
    axis = pixels[:, left:left + 620]
    diamond = np.flatnonzero(near(axis, draw.ORANGE).any(0)) / 6.2
    whisker = np.flatnonzero(near(axis, draw.INK).any(0)) / 6.2
    assert diamond.mean() == pytest.approx(80, abs=0.5)
    assert whisker.min() == pytest.approx(30, abs=0.5)
    assert whisker.max() == pytest.approx(50, abs=0.5)


def test_strips_show_each_frame_with_its_own_joints(tmp_path):
    """Three frames get lighter, and a shoulder moves from top right to bottom left."""
    keypoints = np.full((3, 17, 2), -9.0)
    keypoints[:, COCO.index("left_shoulder")] = (0.5, -0.5), (0, 0), (-0.5, 0.5)
    scores = np.zeros((3, 17))
    scores[:, COCO.index("left_shoulder")] = 1
    greys = np.array([40, 120, 200], np.uint8)
    frames = np.ones((3, 8, 8, 3), np.uint8) * greys[:, None, None, None]
    clip = {"said": "", "right": None, "joints": COCO, "frames": frames, "keypoints": keypoints,
            "scores": scores, "maps": {}}
    draw.draw_strip([clip], tmp_path / "s.png")
    pixels = drawn(tmp_path / "s.png")

    light = []
    places = []
    for i in range(3):
        x = draw.MARGIN + i * draw.STEP
        cell = slice(x, x + draw.CELL)
        light.append(pixels[draw.HEAD:draw.HEAD + draw.CELL, cell].mean())
        row = pixels[draw.HEAD + draw.STEP:draw.HEAD + draw.STEP + draw.CELL, cell]
        down, across = np.nonzero(near(row, SIDE_COLOURS["left"]))
        places.append((across.mean() / draw.CELL * 2 - 1, down.mean() / draw.CELL * 2 - 1))
    assert light == pytest.approx([40, 120, 200], abs=1)
    assert np.allclose(places, keypoints[:, COCO.index("left_shoulder")], atol=0.03)


def test_strips_are_drawn(tmp_path):
    """A row for what there is of a clip: maps, frames, pose; heat lies where the map has it."""
    rng = np.random.default_rng(0)
    bare = {"said": "clip 1: a dive", "right": None, "joints": COCO,
            "frames": np.full((3, 8, 8, 3), 128, np.uint8),
            "keypoints": rng.uniform(-1, 1, (3, 17, 2)), "scores": np.ones((3, 17)), "maps": {}}
    spot = np.zeros((3, 16))
    spot[:, 5] = 0.3                              # row 1, column 1 of a 4 x 4 grid
    maps = {"patch_weight": spot, "before": np.ones((3, 16)), "after": np.zeros((3, 16))}
    whole = {**bare, "maps": maps, "right": True}
    no_pose = {**bare, "scores": np.zeros((3, 17))}
    draw.draw_strip([whole, bare, no_pose], tmp_path / "s.png")

    pixels = drawn(tmp_path / "s.png")
    rows_of_clips = 5 + 2 + 1
    assert pixels.shape[0] == 3 * (draw.HEAD + draw.FOOT) + rows_of_clips * draw.STEP

    # The first clip's third row is its patch weight; the brightest of 4 x 4 blocks is the spot.
    top = draw.HEAD + 2 * draw.STEP
    cell = pixels[top:top + draw.CELL, draw.MARGIN:draw.MARGIN + draw.CELL]
    light = cell.sum(-1).astype(int)
    quarter = draw.CELL // 4
    blocks = light[:4 * quarter, :4 * quarter].reshape(4, quarter, 4, quarter).mean((1, 3))
    assert np.unravel_index(blocks.argmax(), (4, 4)) == (1, 1)


# ---- Short labels --------------------------------------------------------------------------------

def test_long_texts_keep_both_ends():
    """The middle is left out, since labels often differ at the end."""
    label = "Forward, 2.5 somersaults, no twist, pike position, platform"
    short = draw.shorten(label, size=14, width=200)
    assert short.startswith("Forw")
    assert short.endswith("form")
    assert draw.text_width(short, 14) <= 200


def shorten_slowly(text, size, width):
    """One character less at a time, until it fits."""
    kept = len(text)
    short = text
    while kept > 2 and draw.text_width(short, size) > width:
        kept -= 1
        head = text[:kept - kept // 2].rstrip()
        tail = text[len(text) - kept // 2:].lstrip()
        short = f"{head} .. {tail}"
    return short


# Kerned letters, spaces, accents, and one that the font lacks.
LETTERS = "AVTLWfil .,-(\u00e9\u00df\u3042\u0301\t"


@settings(max_examples=100)
@given(text=st.text(LETTERS, max_size=60), size=st.sampled_from([8, 12, 16]),
       width=st.integers(-5, 400))
def test_shorten_keeps_all_that_fits(text, size, width):
    """As much as a search character by character, for odd letters and widths, too."""
    assert draw.shorten(text, size, width) == shorten_slowly(text, size, width)


def test_shorten_is_quick_for_long_texts(monkeypatch):
    """A text of 22,000 letters is measured at most 17 times: its length is halved each time."""
    measured = []

    def eight_pixels_a_letter(text, size):
        measured.append(text)
        return 8 * len(text)

    monkeypatch.setattr(draw, "text_width", eight_pixels_a_letter)
    short = draw.shorten("somersault " * 2000, size=14, width=360)
    assert len(measured) <= 17
    assert len(short) == 360 / 8


# ---- Writing -------------------------------------------------------------------------------------

def test_a_failed_write_keeps_the_old_picture(tmp_path, monkeypatch):
    """On a full disk the picture that was there stays, and no half file lies beside it."""
    path = tmp_path / "a" / "x.png"
    image = Image.new("RGB", (4, 4), "white")
    draw.save_png(image, path)
    old = path.read_bytes()

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        draw.save_png(image.resize((9, 9)), path)
    assert [file.name for file in path.parent.iterdir()] == ["x.png"]
    assert path.read_bytes() == old
