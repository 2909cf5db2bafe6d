"""Tables 4 to 9 of the PeVL paper as settings, and the defaults that a data set or a model brings.

A row of an ablation table is a set of changes to `PeVLConfig` and nothing else: the model has a
switch for every part that the paper takes away, and for some sentences that can be read in two ways
(the rows `readings/...`, which are ours). `python train.py --row table5/no-p2v` trains one,
`python train.py --list-rows` prints them all, `python -m toy.lab table5` trains a table's rows.

paper         | here                       | test
Tables 4 to 9 | ROWS, TABLES               | test_rows.py: test_rows_*; test_costs.py: test_costs_*
Sec. 4.1      | PRESETS, `presets`         | test_train.py: test_presets_are_the_papers
Sec. 4.1      | RECIPES                    | test_train.py: test_recipes

The paper's figures of all tables are those of Diving48 with ViT-B/16.
"""
from dataclasses import dataclass, field

from support.checks import unknown_name
from toy.presets import TOY_PRESETS


@dataclass(frozen=True)
class Row:
    """One row of a table: what it is called, what it changes, and what the paper found."""
    what: str                                     # the paper's name of the row
    overrides: dict = field(default_factory=dict)  # PeVLConfig field -> value
    top1: float | None = None                     # accuracy in % on Diving48, as printed, if it is
    gmacs: float | None = None                    # the paper's "GFLOPs", which we read as G MACs
    tunable_m: float | None = None                # M tunable parameters, as printed


# ---- Changes that several rows share -------------------------------------------------------------

# Neither UCMR (P2V, V2P, refinement supervision) nor SGMC (the three similarities and the semantic
# strengths): the clip features of the two encoders are concatenated and projected.
PLAIN = {"fusion": "concat", "sgl": False, "refinement": False, "p2v": False, "v2p": False}

FROZEN = {"video_adapters": False, "pose_adapters": False, "text_adapters": False}
VIDEO_ONLY = {"pose": False}
POSE_ONLY = {"video": False}
NO_TEXT = {"text": False}                         # a linear head and cross-entropy


# ---- The rows ------------------------------------------------------------------------------------

ROWS = {
    # Table 4: PeVL built up from frozen CLIP, one part after the other.
    "table4/baseline": Row("frozen CLIP, one projection", {**PLAIN, **FROZEN, **VIDEO_ONLY},
                           top1=60.2),
    "table4/pose": Row("+ frozen pose encoder, concatenated", {**PLAIN, **FROZEN}, top1=80.3),
    "table4/adapters": Row("+ adapters", PLAIN, top1=87.3),
    "table4/ucmr": Row("+ UCMR block", {"fusion": "concat", "sgl": False}, top1=90.6),
    "table4/sgmc": Row("+ SGMC module = PeVL", top1=91.9),

    # Table 5: the parts of UCMR taken away.
    "table5/pevl": Row("PeVL", top1=91.9),
    "table5/no-ucmr": Row("no UCMR block", {"p2v": False, "v2p": False, "refinement": False},
                          top1=88.9),
    "table5/no-p2v": Row("without P2V", {"p2v": False}, top1=91.1),
    "table5/no-v2p": Row("without V2P", {"v2p": False}, top1=90.4),
    "table5/no-refinement": Row("without refinement supervision", {"refinement": False},
                                top1=91.0),

    # Table 6: the terms of Eq. (4); which printed row is which: D21. The plain loss is no row of
    # it: Sec. 4.3.3 gives its figure in the text.
    "table6/ps": Row("pose-sentence alone", {"sim": ("ps",)}, top1=91.0),
    "table6/vs": Row("video-sentence alone", {"sim": ("vs",)}, top1=90.9),
    "table6/fw": Row("frame-word alone", {"sim": ("fw",)}, top1=90.9),
    "table6/ps+vs": Row("pose-sentence and video-sentence", {"sim": ("vs", "ps")}, top1=91.4),
    "table6/ps+fw": Row("pose-sentence and frame-word", {"sim": ("ps", "fw")}, top1=91.3),
    "table6/vs+fw": Row("video-sentence and frame-word", {"sim": ("vs", "fw")}, top1=91.4),
    "table6/all": Row("all three", top1=91.9),
    "table6/vanilla": Row("all three, plain contrastive loss (Sec. 4.3.3)", {"sgl": False},
                          top1=91.4),

    # Table 7: the modalities, with costs. The printed 275 G of the first row: D23; 32 M: D20.
    "table7/v": Row("V encoder", {**PLAIN, **VIDEO_ONLY, **NO_TEXT},
                    top1=62.9, gmacs=275, tunable_m=7),
    "table7/p": Row("P encoder", {**PLAIN, **POSE_ONLY, **NO_TEXT},
                    top1=82.6, gmacs=108, tunable_m=11),
    "table7/v+p": Row("V+P encoders", {**PLAIN, **NO_TEXT}, top1=86.2, gmacs=393, tunable_m=22),
    "table7/v+t": Row("V+T encoders", {**PLAIN, **VIDEO_ONLY}, top1=65.1, gmacs=364, tunable_m=13),
    "table7/p+t": Row("P+T encoders", {**PLAIN, **POSE_ONLY}, top1=83.8, gmacs=197, tunable_m=17),
    "table7/v+p+t": Row("V+P+T encoders", PLAIN, top1=87.3, gmacs=482, tunable_m=28),
    "table7/pevl": Row("PeVL", top1=91.9, gmacs=510, tunable_m=32),

    # Table 8: which towers have adapters.
    "table8/none": Row("no adapters", FROZEN, top1=84.9),
    "table8/video": Row("video adapters", {**FROZEN, "video_adapters": True}, top1=85.5),
    "table8/pose": Row("pose adapters", {**FROZEN, "pose_adapters": True}, top1=86.4),
    "table8/text": Row("text adapters", {**FROZEN, "text_adapters": True}, top1=86.2),
    "table8/video+pose": Row("video and pose adapters", {"text_adapters": False}, top1=87.8),
    "table8/all": Row("all adapters", top1=91.9),

    # Table 9: what the pose encoder reads.
    "table9/heatmap": Row("heatmaps", {**PLAIN, **POSE_ONLY, **NO_TEXT, "pose_input": "heatmaps"},
                          top1=80.1, gmacs=311, tunable_m=11),
    "table9/coordinates": Row("coordinates", {**PLAIN, **POSE_ONLY, **NO_TEXT},
                              top1=82.6, gmacs=108, tunable_m=11),

    # Ours, no row of the paper: PeVL by the other readings of its sentences. D4, D30, D31.
    "readings/pevl": Row("PeVL as we read it"),
    "readings/literal-mask": Row("Eq. (1) with the background",
                                 {"literal_mask": True, "mask": "product"}),
    "readings/mask-log": Row("Eq. (1) with score + log M", {"mask": "log"}),
    "readings/p2v-block": Row("P2V with CLIP's frozen MLP", {"p2v_kind": "block"}),
    "readings/v2p-group": Row("Eq. (2) as a grouping of pixels", {"v2p_group": True}),
}

TABLES = {}                                       # "table4", "readings" -> rows, name -> Row
for _name, _row in ROWS.items():
    _table = _name.split("/")[0]
    TABLES.setdefault(_table, {})[_name] = _row


def row_flags(row):
    """What a row changes, as flags of the command line, such as `--no-p2v --sim vs,ps`."""
    flags = []
    for name, value in row.overrides.items():
        flag = name.replace("_", "-")
        if value is True:
            flags.append(f"--{flag}")
        elif value is False:
            flags.append(f"--no-{flag}")
        elif isinstance(value, tuple):
            flags.append(f"--{flag} {','.join(value)}")
        else:
            flags.append(f"--{flag} {value}")
    return " ".join(flags)


def list_rows():
    """Print every row of the tables: name, the paper's accuracy, what it changes."""
    for name, row in ROWS.items():
        flags = row_flags(row) or "nothing changes"
        printed = "      ours" if row.top1 is None else f"paper {row.top1}"
        print(f"{name:<22} {printed}  {row.what}: {flags}")


def keep_to_row(name, config):
    """ValueError where a flag has undone what a row changes: its runs would be called by its name.

    name: of --row, may be empty. config: the PeVLConfig that the command line has led to.
    """
    if not name:
        return
    row = find_row(name)
    for field_name, value in row.overrides.items():
        here = getattr(config, field_name)
        if here != value:
            raise ValueError(f"--row {name} is {row_flags(row)}, and {field_name} is {here} here. "
                             "Expected a row as it is, or no row. Leave one of the two out.")


def find_row(name):
    """The row of that name; ValueError with the nearest name where there is none."""
    if name not in ROWS:
        raise unknown_name("row", name, ROWS)
    return ROWS[name]


# ---- Presets: defaults that follow from --data and --model ---------------------------------------

# The key is "<data>/<model>", "<data>" or "<model>"; the first that is there counts. Whatever is
# not named keeps the dataclasses' defaults, which are the paper's (Sec. 4.1).
PRESETS = {
    **TOY_PRESETS,
    "vilp": {                                     # ViLP, Sec. 4: its training on UCF-101, HMDB-51
        "pose_frames": 8, "video_frames": 8,
        "lr": 5e-5, "weight_decay": 0.2, "epochs": 30, "warmup": 5.0,
        "prompt": "This is a video about {}",
    },
    "aim": {                                      # its authors' for Diving48, but 32 frames (D18)
        "lr": 3e-4, "batch": 64, "warmup": 2.5,   # (50 epochs and a decay of 0.05 are the defaults)
        "crop_area": 0.08,
    },
}

# --recipe: how PeVL is trained, whatever the data set. 8e-6 is X-CLIP's base rate, for weights that
# CLIP has trained already. Of such PeVL trains only the copies that P2V and V2P start from (D28),
# and its adapters are AIM's (D16).
RECIPES = {
    "paper": {                                    # Sec. 4.1; it names no batch size (ours)
        "lr": 8e-6, "new_lr": 1.0, "batch": 32, "warmup": 3.0,
        "weight_decay": 0.05, "epochs": 50,
    },
    "aim": {                                      # as AIM's authors train the same adapters
        "lr": 3e-4, "new_lr": 1.0, "batch": 64, "warmup": 2.5,
        "weight_decay": 0.05, "epochs": 50,
    },
}


def preset_of(data, model):
    """The changed defaults of a data set and a model: field -> value, possibly none."""
    for key in (f"{data}/{model}", data, model):
        if key in PRESETS:
            return dict(PRESETS[key])
    return {}


def add_recipe(chosen, args):
    """Put the settings of --recipe over those of a preset, in place.

    Where neither a recipe is asked for nor a preset is there, it is the paper's, and says so.
    Raises ValueError for a recipe beside another system than PeVL.
    """
    if args.recipe == "preset":
        if not chosen:
            chosen["recipe"] = "paper"
        return
    if args.model != "pevl":
        raise ValueError(f"--recipe {args.recipe} beside --model {args.model}. Expected PeVL: the "
                         "others have settings of their own. Leave one of the two out.")
    chosen.update(RECIPES[args.recipe])


def presets(args):
    """Defaults that follow from --data, --model, --recipe and --row; the command line wins.

    args: namespace with data, model, recipe, row, video and pose. Returns field -> value for
    `support.settings.build_configs`. A recipe wins over a preset, a row's overrides over both, and
    what a model does not look at is not read from disk.
    """
    chosen = preset_of(args.data, args.model)
    add_recipe(chosen, args)
    if args.row:
        row = find_row(args.row)
        if args.model != "pevl":
            raise ValueError(f"--row {args.row} beside --model {args.model}. Expected PeVL, of "
                             "which the rows are ablations. Leave one of the two out.")
        chosen.update(row.overrides)

    uses_pose = chosen.get("pose", args.pose) and args.model in ("pevl", "vilp")
    chosen["read_video"] = chosen.get("video", args.video)
    chosen["read_poses"] = uses_pose
    return chosen
