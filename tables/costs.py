"""Operations and parameters."""
from __future__ import annotations

import dataclasses
import itertools
import sys

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from clip_model import BACKBONES, CLIP
from data import DATASETS, diving_text
from pevl import PeVLConfig, build_model
from support.checks import unknown_name
from tables.rows import ROWS, TABLES


# ---- Costs, Tables 7 and 9 -----------------------------------------------------------------------
COLUMNS = {"video": ("video tower", "CLIP image tower", "temporal transformer"),
           "pose": ("pose tower", "pose image"), "text": ("text tower",), "UCMR": ("P2V", "V2P")}
TABLE1_M = {("pevl", "ViT-B/16"): 42, ("pevl", "ViT-L/14"): 109, ("aim", "ViT-B/16"): 11,
            ("aim", "ViT-L/14"): 38}


def dives() -> list[str]:
    """48 prompts of the kind and length that Diving48 has, so that costs need no files."""
    parts = itertools.product(("Back", "Forward", "Inward", "Reverse"), ("15som", "25som", "35som"),
                              ("FREE", "PIKE", "TUCK", "05Twis"))
    return [DATASETS["diving48"].prompt.format(diving_text(list(words))) for words in parts]


class Blank(TorchFunctionMode):
    """Modules made inside leave their weights unset: nobody reads them, setting them is slow."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        setters = ("kaiming_uniform_", "uniform_", "normal_", "zero_", "fill_")
        if getattr(func, "__name__", "") in setters:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def watch(owner, method: str, name: str, ledger: dict, memo: dict) -> None:
    """From now on owner.method adds its G multiply-accumulates to ledger[name].

    On the meta device a result is a shape and nothing else, so a part that has been run on the same
    shapes before (in another row of the table) is not run again: `memo`."""
    run = getattr(owner, method)
    build = (name, repr(owner), tuple(p.shape for p in owner.parameters()))

    def measured(*args, **kwargs):
        args = [x.to("meta") if isinstance(x, torch.Tensor) else x for x in args]
        key = (build, *(x.shape for x in args if isinstance(x, torch.Tensor)), str(kwargs))
        if key not in memo:
            with FlopCounterMode(display=False) as counter:
                memo[key] = run(*args, **kwargs), counter
        ledger[name] = ledger.get(name, 0) + memo[key][1].get_total_flops() / 2e9
        return memo[key][0]

    setattr(owner, method, measured)


@torch.no_grad()
def count_costs(config, joints: int = 17, memo: dict | None = None) -> dict:
    """Part -> gmacs per clip, tunable_m, total_m; the part `similarity` is all that is left over.

    The model itself runs one clip on the meta device (no weights, no memory, no arithmetic) under
    torch's flop counter; a multiply-accumulate is two of its operations. The texts count once, as
    if for this clip, though an evaluation encodes them once for all clips (D26)."""
    memo, ledger, T = {} if memo is None else memo, {}, config.pose_frames
    shape = dataclasses.replace(BACKBONES[config.backbone], image_size=config.image_size)
    with Blank(), torch.device("meta"):
        clip = CLIP(shape)
        batch = {"frames": torch.empty(1, config.video_frames, 3, *[config.image_size] * 2),
                 "keypoints": torch.empty(1, T, joints, 2), "scores": torch.empty(1, T, joints),
                 "label": torch.zeros(1).long()}
    # Building asks the frozen CLIP for its texts (Eq. 5), no cost of a clip: shapes suffice.
    clip.encode_text = lambda tokens: [torch.empty(len(tokens), shape.embed_dim, device="meta")]
    with Blank():
        model = build_model(config, clip, dives(), joints).to("meta").eval()
    del clip.encode_text
    watch(clip, "encode_text", "text tower", ledger, memo)
    parts = model.parts()
    for name, part in {**parts, "CLIP image tower": clip.visual}.items():
        if isinstance(part, torch.nn.Module) and name != "CLIP":
            watch(part, "forward", name, ledger, memo)
    for rest in (FlopCounterMode(display=False), FlopCounterMode(display=False)):
        ledger.clear()                       # first each part counts for itself; then, remembered,
        with rest:                           # parts cost nothing, and this counter gets the rest
            text = model.encode_texts() if compares_texts(model) else None
            model.class_logits(model(batch), text)
    ledger["similarity"] = rest.get_total_flops() / 2e9
    costs = {}
    for name in dict.fromkeys([*ledger, *parts]):
        part = parts.get(name, [])
        params = list(part.parameters() if isinstance(part, torch.nn.Module) else part)
        costs[name] = {"gmacs": ledger.get(name, 0.0),
                       "tunable_m": sum(p.numel() for p in params if p.requires_grad) / 1e6,
                       "total_m": sum(p.numel() for p in params) / 1e6}
    return costs


def cost_table(rows: dict) -> str:
    """rows: name -> (config, Row or None) -> what `--costs` prints; a row alone also by parts."""
    lines = [["", *COLUMNS, "rest", "G MAC", "paper", "diff", "tuned M", "paper", "diff", "all M"]]
    parts, three = [["part", "G MAC", "tuned M", "all M"]], ("gmacs", "tunable_m", "total_m")
    memo, gap = {}, lambda ours, paper: ["-", "-"] if paper is None else [
        str(paper), f"{ours - paper:+.1f}"]
    for name, (config, row) in rows.items():
        costs = count_costs(config, memo=memo)
        G, tuned, everything = (sum(part[what] for part in costs.values()) for what in three)
        columns = [sum(costs[p]["gmacs"] for p in own if p in costs) for own in COLUMNS.values()]
        papers = PeVLConfig(model=config.model, backbone=config.backbone)
        paper = None, TABLE1_M.get((config.model, config.backbone))
        if row:
            papers, paper = PeVLConfig(**row.overrides), (row.gmacs, row.tunable_m)
        paper = paper if config == papers else (None, None)            # by the paper's settings
        lines.append([f"{name} ({row.what})" if row else name,
                      *(f"{x:.1f}" for x in (*columns, G - sum(columns), G)), *gap(G, paper[0]),
                      f"{tuned:.2f}", *gap(tuned, paper[1]), f"{everything:.1f}"])
        parts += [[part, *(f"{c[what]:.3f}" for what in three)] for part, c in costs.items()]
    note = (f"G multiply-accumulates per clip: {config.backbone}, {config.image_size} px, "
            f"{config.video_frames} video and {config.pose_frames} pose frames; text: "
            f"{len(dives())} prompts like Diving48's, cut at the longest, counted once")
    return "\n".join([*(table(parts) + [""] if len(rows) == 1 else []), *table(lines), note])


def table(lines: list[list[str]]) -> list[str]:
    """Rows of cells -> lines of text: first column to the left, the others to the right."""
    wide = [max(map(len, column)) for column in zip(*lines)]
    return ["  ".join([line[0].ljust(wide[0])] + [x.rjust(w) for x, w in zip(line[1:], wide[1:])])
            for line in lines]




def cost_rows(cfg: EvalConfig, model_cfg: PeVLConfig) -> dict:
    """What --costs counts: name -> (config, Row or None)."""
    if not cfg.table:
        name = cfg.row or f"{model_cfg.model} {model_cfg.backbone}"
        return {name: (model_cfg, ROWS.get(cfg.row))}
    if (chosen := f"table{cfg.table}") not in TABLES:
        raise unknown_name("table", cfg.table, [name.removeprefix("table") for name in TABLES])
    return {name: (dataclasses.replace(model_cfg, **row.overrides), row)
            for name, row in TABLES[chosen].items()}


