"""What models cost: operations of a clip and parameters, by part, beside Tables 1, 7 and 9.

    python -m tables.costs                            PeVL with ViT-B/16, part by part
    python -m tables.costs --table 7                  the rows of a table beside the paper's figures
    python -m tables.costs --row table9/heatmap       one row, part by part
    python -m tables.costs --model aim --backbone ViT-L/14

No files are needed, neither weights nor videos: the model runs on torch's "meta" device, where
tensors have shapes and no values, under torch's own counter of floating-point operations.

paper          | what                   | here                    | tests/test_costs.py
Tables 7 and 9 | GFLOPs, read as G MACs | count_costs, cost_table | test_costs_of_the_paper
Tables 1, 7, 9 | M tunable parameters   | count_costs, TABLE1_M   | test_costs_of_other_settings

D20, D23 and D26 of the ledger (docs/ledger.md): where the paper's figures and a straight count
differ, and how a text is counted.
"""
if __name__ == "__main__":                        # before PyTorch, which takes seconds to import
    import support.interrupt

import dataclasses
import itertools
import sys
from dataclasses import dataclass
from typing import Annotated

import torch
from torch.utils.flop_counter import FlopCounterMode

from clip_model import BACKBONES, CLIP
from data import DATASETS
from published.annotations import diving_text
from report.text import align
from support.checks import unknown_name
from support.commands import run_command
from support.settings import build_configs, check_fields
from systems.config import PeVLConfig
from systems.registry import build_model
from tables.rows import PRESETS, ROWS, TABLES, find_row, keep_to_row

# Columns of the printed table -> the parts of a model that are added up in them.
COLUMNS = {
    "video": ("video tower", "CLIP image tower", "temporal transformer"),
    "pose": ("pose tower", "pose image"),
    "text": ("text tower",),
    "UCMR": ("P2V", "V2P"),
}

# Tunable parameters that Table 1 prints, in M.
TABLE1_M = {
    ("pevl", "ViT-B/16"): 42,
    ("pevl", "ViT-L/14"): 109,
    ("aim", "ViT-B/16"): 11,
    ("aim", "ViT-L/14"): 38,
}


# ---- Counting ------------------------------------------------------------------------------------

def dives():
    """48 prompts in the manner of Diving48's, so that counting needs no files: 22 tokens at most.

    They have three parts. Diving48's have four ("no twist" included) and 25 tokens at most.
    """
    takeoffs = ("Back", "Forward", "Inward", "Reverse")
    somersaults = ("15som", "25som", "35som")
    ends = ("FREE", "PIKE", "TUCK", "05Twis")
    prompt = DATASETS["diving48"].prompt
    texts = []
    for words in itertools.product(takeoffs, somersaults, ends):
        texts.append(prompt.format(diving_text(list(words))))
    return texts


def watch(owner, method, name, ledger, memo):
    """From now on, owner.method adds its G multiply-accumulates to ledger[name].

    On the meta device a result is a shape and nothing else. So a part that has run before with the
    same build and the same shapes, in another row of the table, is not run again: `memo` holds its
    result and its count.
    """
    run = getattr(owner, method)
    build = (name, repr(owner), tuple(p.shape for p in owner.parameters()))

    def measured(*args, **kwargs):
        args = [x.to("meta") if isinstance(x, torch.Tensor) else x for x in args]
        shapes = tuple(x.shape for x in args if isinstance(x, torch.Tensor))
        switches = tuple(x for x in args if isinstance(x, (bool, int)))
        key = (build, shapes, switches, str(kwargs))
        if key not in memo:
            with FlopCounterMode(display=False) as counter:
                result = run(*args, **kwargs)
            memo[key] = result, counter.get_total_flops()

        result, operations = memo[key]
        # A multiply-accumulate is two of the counter's floating-point operations.
        ledger[name] = ledger.get(name, 0) + operations / 2e9
        return result

    setattr(owner, method, measured)


def build_on_meta(config, joints, texts=None):
    """The system that `config` names and its CLIP, with shapes and without values.

    texts: K prompts; None: 48 like Diving48's.
    """
    sizes = dataclasses.replace(BACKBONES[config.backbone], image_size=config.image_size)
    with torch.device("meta"):
        clip = CLIP(sizes)

    # Building a model encodes all texts by the frozen CLIP, for the discrepancies of Eq. (5). That
    # is done once per label set and is no cost of a clip: here its shape suffices.
    def sentences_only(tokens):
        return [torch.empty(len(tokens), sizes.embed_dim, device="meta")]

    clip.encode_text = sentences_only
    model = build_model(config, clip, texts or dives(), joints).to("meta").eval()
    del clip.encode_text                          # the class's own method is visible again
    return model, clip


@torch.no_grad()
def count_costs(config, joints=17, memo=None, texts=None):
    """Costs of one clip: part -> {"gmacs": G multiply-accumulates, "tunable_m", "total_m": M
    parameters}. The part "similarity" is what no named part accounts for.

    config: PeVLConfig. memo: a dict that several calls may share, so that equal parts are counted
    once. texts: K prompts; None: 48 like Diving48's. They count once, as if encoded for this clip
    alone, though an evaluation encodes them once for all clips (D26).
    """
    memo = {} if memo is None else memo
    model, clip = build_on_meta(config, joints, texts)
    T, Tv, S = config.pose_frames, config.video_frames, config.image_size
    with torch.device("meta"):
        batch = {"frames": torch.empty(1, Tv, 3, S, S),
                 "keypoints": torch.empty(1, T, joints, 2),
                 "scores": torch.empty(1, T, joints),
                 "label": torch.zeros(1).long()}

    ledger = {}                                   # part -> G multiply-accumulates
    parts = model.parts()
    watch(clip, "encode_text", "text tower", ledger, memo)
    for name, part in {**parts, "CLIP image tower": clip.visual}.items():
        if isinstance(part, torch.nn.Module) and name != "CLIP":
            watch(part, "forward", name, ledger, memo)
    if "P2V" in parts:
        watch(model.video, "rerun", "P2V", ledger, memo)  # blocks that run twice for its sake

    # Twice: in the first pass each part counts for itself. In the second all parts are remembered
    # and cost nothing, so that the outer counter sees the rest alone.
    for _ in range(2):
        ledger.clear()
        with FlopCounterMode(display=False) as rest:
            text = model.encode_texts() if model.compares_texts else None
            model.class_logits(model(batch), text)
    ledger["similarity"] = rest.get_total_flops() / 2e9

    # Parts that compute nothing by themselves, such as the temperatures, still have parameters.
    costs = {}
    for name in dict.fromkeys([*ledger, *parts]):
        part = parts.get(name, [])
        params = list(part.parameters() if isinstance(part, torch.nn.Module) else part)
        costs[name] = {"gmacs": ledger.get(name, 0.0),
                       "tunable_m": sum(p.numel() for p in params if p.requires_grad) / 1e6,
                       "total_m": sum(p.numel() for p in params) / 1e6}
    return costs


# ---- Printing ------------------------------------------------------------------------------------

def printed_figures(config, row):
    """What the paper prints for these settings: (G multiply-accumulates, M tunable), or Nones.

    A figure of the paper stands beside ours only where the settings are the paper's too; the
    parameters of Table 1 at any number of frames, since an embedding of 16 frames is 0.01 M.
    """
    if row is not None:
        papers_config = PeVLConfig(**row.overrides)
        printed = (row.gmacs, row.tunable_m)
    elif (config.model, config.backbone) in TABLE1_M:
        papers_config = PeVLConfig(model=config.model, backbone=config.backbone,
                                   pose_frames=config.pose_frames,
                                   video_frames=config.video_frames)
        printed = (None, TABLE1_M[config.model, config.backbone])
    else:
        return None, None
    return printed if config == papers_config else (None, None)


def beside(ours, printed):
    """Two cells: the printed figure, and how far ours is from it."""
    if printed is None:
        return ["-", "-"]
    return [str(printed), f"{ours - printed:+.1f}"]


def cost_table(rows):
    """rows: name -> (PeVLConfig, Row or None) -> the table as text; a single row also by parts."""
    memo = {}
    lines = [["", *COLUMNS, "rest", "G MAC", "paper", "diff", "tuned M", "paper", "diff", "all M"]]
    parts = [["part", "G MAC", "tuned M", "all M"]]
    for name, (config, row) in rows.items():
        costs = count_costs(config, memo=memo)
        gmacs = sum(cost["gmacs"] for cost in costs.values())
        tunable = sum(cost["tunable_m"] for cost in costs.values())
        total = sum(cost["total_m"] for cost in costs.values())

        # What no column names, such as the similarities, is the rest.
        columns = []
        for own in COLUMNS.values():
            columns.append(sum(costs[part]["gmacs"] for part in own if part in costs))
        rest = gmacs - sum(columns)

        printed_gmacs, printed_tunable = printed_figures(config, row)
        title = f"{name} ({row.what})" if row else name
        lines.append([title, *(f"{x:.1f}" for x in columns), f"{rest:.1f}", f"{gmacs:.1f}",
                      *beside(gmacs, printed_gmacs), f"{tunable:.2f}",
                      *beside(tunable, printed_tunable), f"{total:.1f}"])
        for part, cost in costs.items():
            parts.append([part, f"{cost['gmacs']:.3f}", f"{cost['tunable_m']:.3f}",
                          f"{cost['total_m']:.3f}"])

    # A single model is worth a look at its parts; of a table's rows, the columns say enough.
    text = align(lines)
    if len(rows) == 1:
        text = [*align(parts), "", *text]
    note = (f"G multiply-accumulates per clip: {config.backbone}, {config.image_size} px, "
            f"{config.video_frames} video and {config.pose_frames} pose frames; text: "
            f"{len(dives())} prompts like Diving48's, cut at the longest, counted once")
    return "\n".join([*text, note])


# ---- Command line --------------------------------------------------------------------------------

@dataclass(frozen=True)
class CostConfig:
    """Which models are counted. Without both, the one that the model flags describe."""
    table: Annotated[str, "all rows of a table: 4 to 9, or readings"] = ""
    row: Annotated[str, "one row, as table5/no-p2v"] = ""

    def __post_init__(self):
        check_fields(self)


def presets(args):
    """Defaults that follow from the flags: a row's switches, or a model's own frame counts."""
    if args.table and args.row:
        raise ValueError(f"--table {args.table} --row {args.row}. Expected one of them. Leave the "
                         "other out.")
    if (args.table or args.row) and args.model != "pevl":
        raise ValueError(f"--model {args.model} beside --table or --row. Expected PeVL, whose rows "
                         "they are. Leave one of the two out.")
    if args.row:
        return find_row(args.row).overrides
    return PRESETS.get(args.model, {})


def chosen_rows(cfg, model_cfg):
    """What is counted: name -> (PeVLConfig, Row or None)."""
    if not cfg.table:
        name = cfg.row or f"{model_cfg.model} {model_cfg.backbone}"
        return {name: (model_cfg, ROWS.get(cfg.row))}

    names = {name.removeprefix("table"): name for name in TABLES}
    if cfg.table not in names:
        raise unknown_name("table", cfg.table, names)
    table = names[cfg.table]
    rows = {}
    for name, row in TABLES[table].items():
        rows[name] = (dataclasses.replace(model_cfg, **row.overrides), row)
    return rows


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    (cfg, model_cfg), _ = build_configs(argv, (CostConfig, PeVLConfig), presets, __doc__)

    def job():
        keep_to_row(cfg.row, model_cfg)
        print(cost_table(chosen_rows(cfg, model_cfg)))

    return run_command(job)


if __name__ == "__main__":
    sys.exit(main())
