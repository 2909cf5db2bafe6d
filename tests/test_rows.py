"""tables/rows.py: the rows of Tables 4 to 9, typed once more from the paper, and each one built.

A row is a set of switches. That it is the paper's row is shown by a second typing, in words that
say what is missing from PeVL; that the switches do what they say, by building each row, training it
for two steps and looking at which parts it has.
"""
import pytest
import torch

import train
from small_models import batch_of, model_of, small_backbone  # noqa: F401
from systems.config import PeVLConfig
from tables.rows import ROWS

# What the rows of several tables have in common.
PLAIN = "p2v v2p refinement sgl concat"
FROZEN = "video_adapters pose_adapters text_adapters"

# Row -> what is off or other than in PeVL, and the top-1 that the paper prints. For Table 6 the
# words are the similarities that are left.
PAPER = {
    "table4/baseline": (f"pose {PLAIN} {FROZEN}", 60.2),
    "table4/pose": (f"{PLAIN} {FROZEN}", 80.3),
    "table4/adapters": (PLAIN, 87.3),
    "table4/ucmr": ("sgl concat", 90.6),
    "table4/sgmc": ("", 91.9),

    "table5/pevl": ("", 91.9),
    "table5/no-ucmr": ("p2v v2p refinement", 88.9),
    "table5/no-p2v": ("p2v", 91.1),
    "table5/no-v2p": ("v2p", 90.4),
    "table5/no-refinement": ("refinement", 91.0),

    "table6/ps": ("ps", 91.0),
    "table6/vs": ("vs", 90.9),
    "table6/fw": ("fw", 90.9),
    "table6/ps+vs": ("ps vs", 91.4),
    "table6/ps+fw": ("ps fw", 91.3),
    "table6/vs+fw": ("vs fw", 91.4),
    "table6/all": ("", 91.9),
    "table6/vanilla": ("sgl", 91.4),

    "table7/v": (f"pose text {PLAIN}", 62.9),
    "table7/p": (f"video text {PLAIN}", 82.6),
    "table7/v+p": (f"text {PLAIN}", 86.2),
    "table7/v+t": (f"pose {PLAIN}", 65.1),
    "table7/p+t": (f"video {PLAIN}", 83.8),
    "table7/v+p+t": (PLAIN, 87.3),
    "table7/pevl": ("", 91.9),

    "table8/none": (FROZEN, 84.9),
    "table8/video": ("pose_adapters text_adapters", 85.5),
    "table8/pose": ("video_adapters text_adapters", 86.4),
    "table8/text": ("video_adapters pose_adapters", 86.2),
    "table8/video+pose": ("text_adapters", 87.8),
    "table8/all": ("", 91.9),

    "table9/heatmap": (f"video text heatmaps {PLAIN}", 80.1),
    "table9/coordinates": (f"video text {PLAIN}", 82.6),
}


def words_of(row):
    """What a row changes, in the words of PAPER."""
    words = set()
    for name, value in row.overrides.items():
        if value == getattr(PeVLConfig, name):            # as in PeVL
            continue
        if name == "sim":
            words.update(value)
        elif isinstance(value, bool):
            words.add(name)
        else:
            words.add(value)
    return words


def test_rows_are_the_papers():
    """Each row changes what the paper's does and has its top-1; none is missing."""
    rows = {name for name in ROWS if not name.startswith("readings/")}
    assert rows == set(PAPER)
    for name, (words, top1) in PAPER.items():
        assert words_of(ROWS[name]) == set(words.split()), name
        assert ROWS[name].top1 == top1, name


def test_rows_of_readings_are_no_rows_of_the_paper():
    """What our own table changes, and that no figure of the paper stands beside it."""
    ours = {name: row for name, row in ROWS.items() if not name.startswith("table")}
    changes = {name: row.overrides for name, row in ours.items()}
    assert changes == {
        "readings/pevl": {},
        "readings/literal-mask": {"literal_mask": True, "mask": "product"},
        "readings/mask-log": {"mask": "log"},
        "readings/p2v-block": {"p2v_kind": "block"},
        "readings/v2p-group": {"v2p_group": True},
    }
    for name, row in ours.items():
        assert (row.top1, row.gmacs, row.tunable_m) == (None, None, None), name


def train_two_steps(model, batch):
    """Two steps of plain gradient descent."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=1e-3)
    for _ in range(2):
        optimiser.zero_grad()
        model.losses(model(batch))["total"].backward()
        optimiser.step()


def parts_of(config):
    """The parts whose weights are trained by these settings."""
    has = {
        "video": config.video and config.video_adapters,
        "pose": config.pose,                              # without adapters: joints and time
        "text": config.text and config.text_adapters,
        "p2v": config.p2v,
        "v2p": config.v2p,
        "refine_scale": config.refinement and (config.p2v or config.v2p),
        "projection": config.fusion == "concat" or not config.text,
        "logit_scale": config.text,
    }
    return {part for part, is_there in has.items() if is_there}


@pytest.mark.parametrize("name", ROWS)
def test_row_trains_and_differs_only_where_it_must(name):
    """It trains for two steps; a part that is off has no weights, and all others are PeVL's."""
    model = model_of(**ROWS[name].overrides)
    config = model.config
    refined = set()
    if config.refinement and config.p2v:
        refined.add("video")
    if config.refinement and config.v2p:
        refined.add("pose")
    assert set(model.refine_scale) == refined, "Eq. (3) of a modality that nothing refines"
    batch = batch_of()
    train_two_steps(model, batch)
    assert model.class_logits(model(batch))["all"].isfinite().all(), "an answer that is no number"

    trained = set(model.trainable_state())
    assert {weight.split(".")[0] for weight in trained} == parts_of(model.config)

    # What PeVL has no use for: a projection, patches of heatmaps, and the gate of P2V's MLP.
    new = trained - set(model_of().trainable_state())
    for weight in new:
        assert weight.startswith(("projection", "pose.heatmaps", "p2v.gate")), weight


@pytest.mark.parametrize("row, flags, said", [
    ("table5/no-p2v", ["--p2v"], "--row table5/no-p2v is --no-p2v, and p2v is True here"),
    ("table6/vs", ["--sim", "vs,ps"], "--row table6/vs is --sim vs"),
    ("table5/no-p2v", ["--no-p2v", "--tau-fw", "1"], ""),
])
def test_a_row_is_not_undone_by_a_flag(row, flags, said):
    """Its runs would be called by its name, in tables and in folders."""
    refused = ""
    try:
        train.settings(["--row", row, *flags])
    except ValueError as error:
        refused = str(error)
    assert refused.startswith(said) and bool(refused) == bool(said), refused
