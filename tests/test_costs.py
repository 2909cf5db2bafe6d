"""tables/costs.py: the paper's figures that fix our reading, what is remembered, what is printed.

Costs are counted by running a model without values, so these tests count real models: ViT-B/16 at
the paper's settings. Parts that several tests count alike are counted once, in `memo`; that a part
which is remembered costs what a fresh one does is shown here, too.
"""
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from clip_model import BACKBONES, CLIP, ResidualAttentionBlock
from pevl import P2V, V2P, Adapter
from systems.config import PeVLConfig
from systems.registry import build_model
from tables import costs
from tables.costs import count_costs
from tables.rows import ROWS, TABLES

DOCS = Path(__file__).resolve().parent.parent / "docs"
TABLES_PAGE = (DOCS / "tables.md").read_text("utf-8")
LEDGER = (DOCS / "ledger.md").read_text("utf-8")

# A model that is counted in a third of a second.
SMALL = {"backbone": "tiny", "image_size": 80, "pose_frames": 4, "video_frames": 2}


@pytest.fixture(scope="module")
def memo():
    """Parts that were counted already, by any test that shares them."""
    return {}


@pytest.fixture
def counted_once(memo, monkeypatch):
    """The command counts what no other test has counted, and remembers the rest."""
    shared = memo

    def count(config, joints=17, memo=None):
        return count_costs(config, joints, memo=shared)

    monkeypatch.setattr(costs, "count_costs", count)


# ---- Counting ------------------------------------------------------------------------------------

def test_costs_of_the_paper(memo):
    """The figures that fix our reading of Sec. 3.1, counted by running the model."""
    full = count_costs(PeVLConfig(), memo=memo)
    assert full["pose tower"]["gmacs"] == pytest.approx(108.0, abs=0.1)
    assert full["pose tower"]["tunable_m"] == pytest.approx(10.65, abs=0.06)
    assert full["video tower"]["gmacs"] == pytest.approx(303.3, abs=0.1)
    assert full["video tower"]["tunable_m"] == pytest.approx(7.10, abs=0.01)
    assert full["text tower"]["tunable_m"] == pytest.approx(6.3, abs=0.05)
    assert full["CLIP"]["total_m"] == pytest.approx(149.62, abs=0.01)
    assert full["CLIP"]["tunable_m"] == 0
    assert full["P2V"]["gmacs"] > 1
    assert full["V2P"]["gmacs"] > 1
    assert full["similarity"]["gmacs"] < 1

    # What is switched off has neither cost nor parameters.
    frozen = count_costs(PeVLConfig(**ROWS["table4/baseline"].overrides), memo=memo)
    assert frozen["video tower"]["gmacs"] == pytest.approx(281.0, abs=0.1)
    assert "pose tower" not in frozen
    assert "P2V" not in frozen


def test_costs_of_aim(memo):
    """AIM by the same count (D23): as it runs, and with all tokens of its last block."""
    config = PeVLConfig(model="aim", video_frames=8, pose_frames=8)
    aim = count_costs(config, memo=memo)
    assert aim["video tower"]["gmacs"] == pytest.approx(192.4, abs=0.1)
    assert aim["video tower"]["tunable_m"] == pytest.approx(10.7, abs=0.05)

    with torch.device("meta"):
        model = build_model(config, CLIP(BACKBONES["ViT-B/16"]), ["a label"])
        frames = torch.empty(1, 8, 3, 224, 224)
        with FlopCounterMode(display=False) as counter:
            model.video(frames, model.clip.visual)
    gmacs = counter.get_total_flops() / 2e9               # two operations each
    assert gmacs == pytest.approx(202.1, abs=0.1)


def test_the_flop_counter_sees_attention_on_meta():
    """PyTorch counts its own attention, without values too: two products, two operations each."""
    batch, heads, tokens, c = 2, 3, 5, 4
    q = torch.empty(batch, heads, tokens, c, device="meta")
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
    one_product = batch * heads * tokens * tokens * c     # scores; and shares with values
    assert counter.get_total_flops() == 2 * (2 * one_product)


def test_remembered_parts_cost_what_fresh_ones_do():
    """Row after row with one memory, or each by itself: the same figures to the last digit."""
    shared = {}
    for row in ("table7/pevl", "table7/v+t", "table8/none"):
        config = PeVLConfig(**SMALL, **ROWS[row].overrides)
        assert count_costs(config, memo=shared) == count_costs(config), row


@pytest.mark.parametrize("model", ["vilp", "aim", "clip"])
def test_parts_of_other_systems_are_all_of_them(model):
    """They are run, too, and no parameter is missing in the sum over the parts."""
    config = PeVLConfig(**SMALL, model=model)
    parts = count_costs(config).values()
    assert sum(part["gmacs"] for part in parts) > 0

    built, _ = costs.build_on_meta(config, joints=17)
    total = sum(p.numel() for p in built.parameters()) / 1e6
    assert sum(part["total_m"] for part in parts) == pytest.approx(total)


def test_costs_are_of_the_texts_that_are_there():
    """A linear head has a row for each label: 16 on the toy benchmark, not Diving48's 48."""
    config = PeVLConfig(model="aim", backbone="tiny", image_size=80, pose_frames=2, video_frames=2)
    of_48 = count_costs(config)["head"]["total_m"]
    of_16 = count_costs(config, texts=["a dive"] * 16)["head"]["total_m"]
    assert of_16 == pytest.approx(of_48 / 3)


# ---- D20 and D30: what P2V and V2P would cost ----------------------------------------------------

def ucmr(memo, **changes):
    """G multiply-accumulates and M tuned parameters of P2V and V2P together."""
    found = count_costs(PeVLConfig(**changes), memo=memo)
    gmacs = found["P2V"]["gmacs"] + found["V2P"]["gmacs"]
    tunable = found["P2V"]["tunable_m"] + found["V2P"]["tunable_m"]
    return gmacs, tunable


def millions(*parts):
    """M parameters of some modules."""
    return sum(p.numel() for part in parts for p in part.parameters()) / 1e6


def ledger_cells(structure):
    """The figures of the ledger's line of that name, in its table of four columns: [G, M]."""
    lines = []
    for line in LEDGER.splitlines():
        if structure in line and line.count("|") == 5:
            lines.append(line)
    assert len(lines) == 1, f"{len(lines)} lines of the ledger's table name {structure!r}"
    return [cell.strip(" *") for cell in lines[0].split("|")[2:4]]


def test_structures_of_ucmr_cost_what_the_ledger_says(memo):
    """D20, D30: what a flag builds is counted, the others are made of the counts of their parts."""
    tokens = 16 * 197                                     # of a clip: frames, and tokens of a frame
    with torch.device("meta"):
        block_of_clip = ResidualAttentionBlock(768, 12, 12)
        v2p = V2P(768, 12)
        p2v = P2V(768, 12)
        adapter = Adapter(768, 0.25, skip=True)
        with FlopCounterMode(display=False) as counter:
            p2v(torch.empty(1, 16, 197, 768), torch.empty(1, 16, 196))
    p2v_gmacs = counter.get_total_flops() / 2e9           # of all queries
    v2p_gmacs = count_costs(PeVLConfig(p2v=False), memo=memo)["V2P"]["gmacs"]

    # With --p2v-kind block the MLP is CLIP's and frozen.
    block_gmacs, block_tunable = ucmr(memo, p2v_kind="block")
    assert block_gmacs == pytest.approx(28, abs=0.8), "what Table 7 prints for UCMR and SGMC"
    assert block_tunable == pytest.approx(4, abs=0.8), "what Table 7 prints for UCMR and SGMC"
    mlp = millions(block_of_clip.mlp, block_of_clip.ln_2)

    # A second attention in each of the 12 blocks, by its scores and its values, and an adapter.
    attention_again = 12 * tokens * 2 * 197 * 768 / 1e9
    adapters = 12 * tokens * 2 * 768 * 192 / 1e9
    second_gmacs = v2p_gmacs + attention_again + adapters
    second_tunable = 12 * millions(adapter) + millions(v2p)

    structures = {
        "the class token alone asks": ucmr(memo),
        "the same, all tokens ask": (v2p_gmacs + p2v_gmacs, millions(p2v, v2p)),
        "a whole block of its own": (block_gmacs, block_tunable + mlp),
        "trained attention and the frozen MLP": (block_gmacs, block_tunable),
        "a frozen copy": (block_gmacs, millions(v2p)),
        "before the last block": ucmr(memo, p2v_after=11),
        "a second, masked attention": (second_gmacs, second_tunable),
    }
    for structure, (gmacs, tunable) in structures.items():
        assert ledger_cells(structure) == [f"{gmacs:.1f}", f"{tunable:.2f}"], structure


# ---- Printing ------------------------------------------------------------------------------------

def test_cost_table_is_that_of_the_docs(capsys, counted_once):
    """Table 7 and our readings stand in docs/tables.md to the last figure; text 47.1 G (D26)."""
    assert costs.main(["--table", "7"]) == 0
    printed = capsys.readouterr().out
    assert printed in TABLES_PAGE
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == list(TABLES["table7"])
    assert "47.1" in lines[4], "the text tower of V+T"

    assert costs.main(["--table", "readings"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "\n".join(lines[:-1]) in TABLES_PAGE           # without the note on the settings
    assert [line.split()[0] for line in lines[1:-1]] == list(TABLES["readings"])


@pytest.fixture
def told(capsys, counted_once):
    """told(flags): the last line of the table that `tables.costs` prints, and the note below it."""
    def run(*flags):
        assert costs.main([*flags]) == 0
        line, note = capsys.readouterr().out.splitlines()[-2:]
        return line, note

    return run


def test_costs_of_other_settings(told):
    """A row stands beside its own figures, and AIM at any number of frames beside Table 1's."""
    line, _ = told("--row", "table9/heatmap")
    assert "0.0  309.5    311  -1.5    14.09     11  +3.1" in line

    line, _ = told("--model", "aim", "--backbone", "ViT-L/14")
    assert "-     -    37.91     38  -0.1" in line

    line, _ = told("--model", "aim", "--video-frames", "32", "--pose-frames", "32")
    assert "11" in line.split(), "Table 1's AIM has 32 frames"


def test_other_settings_have_no_figure_of_the_paper(told):
    """A small model stands beside nothing, and the note says its sizes; ViLP has 8 frames."""
    small = ("--backbone", "tiny", "--image-size", "80")
    line, _ = told(*small, "--row", "table7/pevl")
    assert line.split().count("-") == 4, "two figures of the paper and two differences"

    _, note = told(*small, "--model", "vilp")
    assert "80 px, 8 video and 8 pose frames" in note


@pytest.mark.parametrize("flags, message", [
    (["--table", "3"], "table '3'"),
    (["--row", "table5/nop2v"], "table5/no-p2v"),
    (["--table", "7", "--row", "table5/no-p2v"], "Expected one of them"),
    (["--table", "7", "--model", "vilp"], "PeVL, whose rows"),
    (["--row", "table5/no-p2v", "--p2v"], "Expected a row as it is"),
])
def test_wrong_flags(flags, message, capsys):
    """An error that says what was expected, and exit code 2."""
    try:
        code = costs.main(flags)
    except SystemExit as stop:                            # flags that were refused as flags
        code = stop.code
    said = capsys.readouterr().err.strip()
    assert code == 2
    assert said.startswith("error: ")
    assert "Expected" in said
    assert message in said
