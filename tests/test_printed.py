"""tables/printed.py: the papers' figures, typed a second time; which of them may stand beside a run."""
import pytest

from clip_model import BACKBONES
from data import DATASETS
from systems.config import PeVLConfig
from tables.printed import PRINTED, differing, printed_for
from tables.rows import ROWS


def config(data="diving48", **changes):
    fields = {"model": "pevl", "backbone": "ViT-B/16"} | changes
    values = {name: getattr(PeVLConfig, name) for name in ("sim", "p2v", "pose_frames", "video_frames", "image_size")}
    values["sim"] = list(values["sim"])                       # as JSON has it
    return {"data": data, **values, **fields}


def test_printed_figures_are_the_papers():
    want = {("diving48", "pevl"): ({"top1": 91.9, "top5": 99.6}, {"top1": 92.5}),
            ("diving48", "aim"): ({"top1": 88.9}, {"top1": 90.6}),
            ("gym99", "pevl"): ({"top1": 96.5, "mean": 91.6}, {"top1": 97.0, "mean": 91.8}),
            ("gym288", "pevl"): ({"top1": 90.5, "mean": 63.9}, {"top1": 91.8, "mean": 64.0}),
            ("haa500", "pevl"): ({"top1": 84.3}, {"top1": 84.7}),
            ("smarthome", "pevl"): ({"mean": 73.3}, {"mean": 73.8}),
            ("ucf101", "vilp"): ({"top1": 92.81}, None), ("hmdb51", "vilp"): ({"top1": 73.02}, None)}
    got = {}
    for (data, model, backbone), printed in PRINTED.items():
        assert data in DATASETS and backbone in BACKBONES
        got.setdefault((data, model), {})[backbone] = printed.figures
    assert {place: (found.get("ViT-B/16"), found.get("ViT-L/14")) for place, found in got.items()} == want


@pytest.mark.parametrize("name", [name for name in ROWS if not name.startswith("readings/")])
def test_rows_have_the_figure_of_their_table(name):
    """An ablation on Diving48 with ViT-B/16 gets the figure of its row, and nowhere else one of PeVL's."""
    changes = {key: list(value) if isinstance(value, tuple) else value for key, value in ROWS[name].overrides.items()}
    assert printed_for(config(**changes)).figures["top1"] == ROWS[name].top1
    if changes:
        assert printed_for(config("gym99", **changes)) is None
        assert printed_for(config(**changes, backbone="ViT-L/14")) is None


def test_nothing_is_printed_for_what_the_paper_did_not_measure():
    assert printed_for(config("toy", backbone="tiny")) is None
    assert printed_for(config(p2v=False, sgl=False)) is None


def test_other_settings_are_said():
    printed = printed_for(config())
    assert differing(printed, config(), views=3) == []
    said = differing(printed, config(video_frames=8), views=1)
    assert said == ["video frames 8 here, 16 in the paper", "views 1 here, 3 in the paper"]


@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith("readings/") and ROWS[name].overrides])
def test_our_own_readings_have_no_figure_of_the_paper(name):
    """A switch that the paper does not have must not stand beside a figure that it printed."""
    assert printed_for(config(**ROWS[name].overrides)) is None
