"""tables/costs.py: the paper's figures that fix our reading, what is remembered, what is printed."""
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from clip_model import ResidualAttentionBlock
from pevl import P2V, V2P, Adapter
from systems.config import PeVLConfig
from tables import costs
from tables.costs import count_costs
from tables.rows import ROWS, TABLES

TABLES_PAGE = (Path(__file__).resolve().parent.parent / "docs" / "tables.md").read_text("utf-8")

def test_costs_of_the_paper():
    """The figures that fix our reading of Sec. 3.1, counted by running the model (108, 202.1, 281, 303 G)."""
    memo = {}
    cost = lambda **changes: count_costs(PeVLConfig(**changes), memo=memo)
    full = cost()
    assert full["pose tower"]["gmacs"] == pytest.approx(108.0, abs=0.1)
    assert full["pose tower"]["tunable_m"] == pytest.approx(10.65, abs=0.06)
    assert full["video tower"]["gmacs"] == pytest.approx(303.3, abs=0.1)
    assert full["video tower"]["tunable_m"] == pytest.approx(7.10, abs=0.01)
    assert full["text tower"]["tunable_m"] == pytest.approx(6.3, abs=0.05)
    assert full["CLIP"]["total_m"] == pytest.approx(149.62, abs=0.01) and full["CLIP"]["tunable_m"] == 0
    assert full["P2V"]["gmacs"] > 1 and full["V2P"]["gmacs"] > 1 and full["similarity"]["gmacs"] < 1
    frozen = cost(**ROWS["table4/baseline"].overrides)
    assert frozen["video tower"]["gmacs"] == pytest.approx(281.0, abs=0.1)
    assert "pose tower" not in frozen and "P2V" not in frozen            # switched off: no cost, no parameters
    aim = cost(model="aim", video_frames=8, pose_frames=8)
    assert aim["video tower"]["gmacs"] == pytest.approx(202.1, abs=0.1)
    assert aim["video tower"]["tunable_m"] == pytest.approx(10.7, abs=0.05)


def test_the_flop_counter_sees_attention_on_meta():
    q = torch.empty(2, 3, 5, 4, device="meta")
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
    assert counter.get_total_flops() == 2 * 2 * (2 * 3) * 5 * 5 * 4       # q k and its product with v


def test_remembered_parts_cost_what_fresh_ones_do():
    memo, small = {}, dict(backbone="tiny", image_size=80, pose_frames=4, video_frames=2)
    for row in ("table7/pevl", "table7/v+t", "table8/none"):
        config = PeVLConfig(**small, **ROWS[row].overrides)
        assert count_costs(config, memo=memo) == count_costs(config)
    for model in ("vilp", "aim", "clip"):
        config = PeVLConfig(**small, model=model)
        cost = count_costs(config)
        assert sum(c["gmacs"] for c in cost.values()) > 0 and sum(c["total_m"] for c in cost.values()) > 0.5


def test_cost_table_is_the_readmes(capsys):
    """The printed Table 7: in docs/tables.md to the last figure; text 47.1 G (D26)."""
    assert costs.main(["--table", "7"]) == 0
    printed = capsys.readouterr().out
    assert printed in TABLES_PAGE and [line.split()[0] for line in printed.splitlines()[1:8]] == list(TABLES["table7"])
    assert "47.1" in printed.splitlines()[4]
    assert costs.main(["--table", "readings"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "\n".join(printed[:-1]) in TABLES_PAGE and len(printed) == 2 + len(TABLES["readings"])


LEDGER = (Path(__file__).resolve().parent.parent / "docs" / "ledger.md").read_text("utf-8")


def test_structures_of_ucmr_cost_what_the_ledger_says():
    """D20, D30: P2V and V2P together, G and M; those without a flag from the parts' own counts."""
    memo = {}

    def ucmr(**changes):
        cost = count_costs(PeVLConfig(**changes), memo=memo)
        return [cost["P2V"][unit] + cost["V2P"][unit] for unit in ("gmacs", "tunable_m")]

    with torch.device("meta"):
        frozen = ResidualAttentionBlock(768, 12, 12)
        tokens, M = torch.empty(1, 16, 197, 768), torch.empty(1, 16, 196)
        every_query, v2p, adapter = P2V(768, 12), V2P(768, 12), Adapter(768, 0.25, skip=True)
    with FlopCounterMode(display=False) as counter:
        every_query(tokens, M)
    v2p_gmacs = count_costs(PeVLConfig(p2v=False), memo=memo)["V2P"]["gmacs"]
    millions = lambda *parts: sum(p.numel() for part in parts for p in part.parameters()) / 1e6
    block = ucmr(p2v_kind="block")
    attention_again = 12 * 16 * 197 * 2 * 197 * 768 / 1e9                    # scores and values
    adapters = 12 * 16 * 197 * 2 * 768 * 192 / 1e9
    assert block == pytest.approx([28, 4], abs=0.8)                           # what the paper prints
    for structure, (gmacs, tunable) in {
            "the class token alone asks": ucmr(),
            "the same, all tokens ask": (v2p_gmacs + counter.get_total_flops() / 2e9,
                                         millions(every_query, v2p)),
            "a whole block of its own": (block[0], block[1] + millions(frozen.mlp, frozen.ln_2)),
            "trained attention and the frozen MLP": block,
            "a frozen copy": (block[0], millions(v2p)),
            "before the last block": ucmr(p2v_after=11),
            "a second, masked attention": (v2p_gmacs + attention_again + adapters,
                                           12 * millions(adapter) + millions(v2p))}.items():
        line = next(line for line in LEDGER.splitlines() if structure in line and line.count("|") == 5)
        assert [cell.strip(" *") for cell in line.split("|")[2:4]] == [f"{gmacs:.1f}", f"{tunable:.2f}"]


def test_costs_of_other_settings(capsys):
    """A row beside its own figures; Table 1's of the large AIM; with other settings none of the paper's; ViLP's 8 frames."""
    def said(*flags):
        assert costs.main([*flags]) == 0
        line, note = capsys.readouterr().out.splitlines()[-2:]
        return line, note

    assert "0.0  309.5    311  -1.5    14.09     11  +3.1" in said("--row", "table9/heatmap")[0]
    assert "-     -    37.91     38  -0.1" in said("--model", "aim", "--backbone", "ViT-L/14")[0]
    table_1 = ("--model", "aim", "--video-frames", "32", "--pose-frames", "32")
    assert "11" in said(*table_1)[0].split(), "Table 1's AIM has 32 frames"
    small = ("--backbone", "tiny", "--image-size", "80")
    assert said(*small, "--row", "table7/pevl")[0].split().count("-") == 4
    assert "80 px, 8 video and 8 pose frames" in said(*small, "--model", "vilp")[1]


@pytest.mark.parametrize("flags, message", [
    (["--table", "3"], "table '3'"), (["--row", "table5/nop2v"], "table5/no-p2v"),
    (["--table", "7", "--row", "table5/no-p2v"], "Expected one of them"),
    (["--table", "7", "--model", "vilp"], "PeVL, whose rows")])
def test_wrong_flags(flags, message, capsys):
    """One line in three parts, exit code 2."""
    try:
        code = costs.main(flags)
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr().err.strip()
    assert code == 2 and said.startswith("error: ") and "Expected" in said and message in said
