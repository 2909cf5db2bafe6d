"""tables/printed.py: the papers' figures, typed a second time; which may stand beside a run."""
import pytest

from clip_model import BACKBONES
from data import DATASETS
from systems.config import PeVLConfig
from tables.printed import PRINTED, differing, printed_for, system_of
from tables.rows import ROWS

OF_THE_PAPER = [name for name in ROWS if not name.startswith("readings/")]
OF_OURS = [name for name in ROWS if name.startswith("readings/") and ROWS[name].overrides]

# (data set, system): figures with ViT-B/16, figures with ViT-L/14, as the papers print them.
FIGURES = {
    ("diving48", "pevl"): ({"top1": 91.9, "top5": 99.6}, {"top1": 92.5}),
    ("diving48", "aim"): ({"top1": 88.9}, {"top1": 90.6}),
    ("gym99", "pevl"): ({"top1": 96.5, "mean": 91.6}, {"top1": 97.0, "mean": 91.8}),
    ("gym288", "pevl"): ({"top1": 90.5, "mean": 63.9}, {"top1": 91.8, "mean": 64.0}),
    ("haa500", "pevl"): ({"top1": 84.3}, {"top1": 84.7}),
    ("smarthome", "pevl"): ({"mean": 73.3}, {"mean": 73.8}),
    ("ucf101", "vilp"): ({"top1": 92.81}, None),
    ("hmdb51", "vilp"): ({"top1": 73.02}, None),
}


def config(data="diving48", **changes):
    """Settings as config.json has them: those of a PeVL on ViT-B/16, with these changes."""
    values = {"data": data, "model": "pevl", "backbone": "ViT-B/16"}
    for name in ("sim", "p2v", "pose_frames", "video_frames", "image_size"):
        values[name] = getattr(PeVLConfig, name)
    values.update(changes)
    for name, value in values.items():
        if isinstance(value, tuple):
            values[name] = list(value)            # JSON knows no tuples
    return values


def test_printed_figures_are_the_papers():
    """Every figure, and none beside them, as it was read off the papers a second time."""
    expected = {}
    for (data, model), (base, large) in FIGURES.items():
        expected[data, model, "ViT-B/16"] = base
        if large is not None:
            expected[data, model, "ViT-L/14"] = large
    assert {place: printed.figures for place, printed in PRINTED.items()} == expected


def test_printed_figures_are_of_what_there_is():
    """Data sets and backbones by the names under which a run has them."""
    for data, _, backbone in PRINTED:
        assert data in DATASETS
        assert backbone in BACKBONES


@pytest.mark.parametrize("name", OF_THE_PAPER)
def test_rows_have_the_figure_of_their_table(name):
    """An ablation on Diving48 with ViT-B/16 gets the figure of its row, and elsewhere none."""
    changes = ROWS[name].overrides
    assert printed_for(config(**changes)).figures["top1"] == ROWS[name].top1
    if changes:
        assert printed_for(config("gym99", **changes)) is None
        assert printed_for(config(**changes, backbone="ViT-L/14")) is None


def test_nothing_is_printed_for_what_the_paper_did_not_measure():
    """The toy, and two switches at once that no row has."""
    assert printed_for(config("toy", backbone="tiny")) is None
    assert printed_for(config(p2v=False, sgl=False)) is None


def test_other_settings_are_said():
    """What differs from the paper's setting is listed, with both values."""
    printed = printed_for(config())
    assert differing(printed, config(), views=3) == []
    said = differing(printed, config(video_frames=8), views=1)
    assert said == ["video frames 8 here, 16 in the paper", "views 1 here, 3 in the paper"]
    assert differing(printed, config(shots=16), views=3) == [
        "trained on 16 clips of each label here, on all in the paper"]


@pytest.mark.parametrize("data, changes, said", [
    ("smarthome", {"protocol": "cv2"}, ["protocol cv2 here, cs by default"]),
    ("gym99", {"version": "v1.1"}, ["version v1.1 here, v1.0 by default"]),
    ("gym99", {"version": ""}, []),
    ("haa500", {}, []),
])
def test_other_protocols_and_versions_are_said(data, changes, said):
    """A figure of the paper is of one of them: the first, which is the default."""
    own = config(data, **changes)
    assert differing(printed_for(own), own, views=3) == said


@pytest.mark.parametrize("name", OF_OURS)
def test_our_own_readings_have_no_figure_of_the_paper(name):
    """A switch that the paper does not have must not stand beside a figure that it printed."""
    assert printed_for(config(**ROWS[name].overrides)) is None


@pytest.mark.parametrize("changes, said", [
    ({}, "pevl"),
    ({"p2v": False}, "pevl, table5/no-p2v"),
    ({"p2v": False, "sgl": False}, "pevl, switches of no row"),
    ({"shots": 16}, "pevl, 16 clips of each label"),
])
def test_an_ablation_is_not_called_pevl_alone(changes, said):
    """In a table of results it would be taken for the whole."""
    assert system_of(config(**changes)) == said
