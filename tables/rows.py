"""Tables 4 to 9 as settings, and the defaults that follow from a data set or a model."""
from collections import namedtuple

from support.checks import unknown_name
from toy.presets import TOY_PRESETS

# ---- Tables 4 to 9 -------------------------------------------------------------------------------
# Overrides of PeVLConfig, and the paper's top-1 in %, G multiply-accumulates, M tunable parameters.
Row = namedtuple("Row", "what overrides top1 gmacs tunable_m", defaults=(None, None, None))
PLAIN = dict(fusion="concat", sgl=False, refinement=False, p2v=False, v2p=False)  # no UCMR, SGMC
FROZEN = dict(video_adapters=False, pose_adapters=False, text_adapters=False)
V_ONLY, P_ONLY, NO_TEXT = dict(pose=False), dict(video=False), dict(text=False)
HEATMAPS = dict(pose_input="heatmaps")
ROWS = {
    "table4/baseline": Row("frozen CLIP, one projection", PLAIN | FROZEN | V_ONLY, 60.2),
    "table4/pose": Row("+ frozen pose encoder, concatenated", PLAIN | FROZEN, 80.3),
    "table4/adapters": Row("+ adapters", PLAIN, 87.3),
    "table4/ucmr": Row("+ UCMR block", dict(fusion="concat", sgl=False), 90.6),
    "table4/sgmc": Row("+ SGMC module = PeVL", {}, 91.9),
    "table5/pevl": Row("PeVL", {}, 91.9),
    "table5/no-ucmr": Row("no UCMR block", dict(p2v=False, v2p=False, refinement=False), 88.9),
    "table5/no-p2v": Row("without P2V", dict(p2v=False), 91.1),
    "table5/no-v2p": Row("without V2P", dict(v2p=False), 90.4),
    "table5/no-refinement": Row("without refinement supervision", dict(refinement=False), 91.0),
    "table6/ps": Row("pose-sentence alone", dict(sim=("ps",)), 91.0),  # which is which: D21
    "table6/vs": Row("video-sentence alone", dict(sim=("vs",)), 90.9),
    "table6/fw": Row("frame-word alone", dict(sim=("fw",)), 90.9),
    "table6/ps+vs": Row("pose-sentence and video-sentence", dict(sim=("vs", "ps")), 91.4),
    "table6/ps+fw": Row("pose-sentence and frame-word", dict(sim=("ps", "fw")), 91.3),
    "table6/vs+fw": Row("video-sentence and frame-word", dict(sim=("vs", "fw")), 91.4),
    "table6/all": Row("all three", {}, 91.9),
    "table6/vanilla": Row("all three, plain contrastive loss", dict(sgl=False), 91.4),
    "table7/v": Row("V encoder", PLAIN | V_ONLY | NO_TEXT, 62.9, 275, 7),  # 275: D23
    "table7/p": Row("P encoder", PLAIN | P_ONLY | NO_TEXT, 82.6, 108, 11),
    "table7/v+p": Row("V+P encoders", PLAIN | NO_TEXT, 86.2, 393, 22),
    "table7/v+t": Row("V+T encoders", PLAIN | V_ONLY, 65.1, 364, 13),
    "table7/p+t": Row("P+T encoders", PLAIN | P_ONLY, 83.8, 197, 17),
    "table7/v+p+t": Row("V+P+T encoders", PLAIN, 87.3, 482, 28),
    "table7/pevl": Row("PeVL", {}, 91.9, 510, 32),  # 32: D20
    "table8/none": Row("no adapters", FROZEN, 84.9),
    "table8/video": Row("video adapters", FROZEN | dict(video_adapters=True), 85.5),
    "table8/pose": Row("pose adapters", FROZEN | dict(pose_adapters=True), 86.4),
    "table8/text": Row("text adapters", FROZEN | dict(text_adapters=True), 86.2),
    "table8/video+pose": Row("video and pose adapters", dict(text_adapters=False), 87.8),
    "table8/all": Row("all adapters", {}, 91.9),
    "table9/heatmap": Row("heatmaps", PLAIN | P_ONLY | NO_TEXT | HEATMAPS, 80.1, 311, 11),
    "table9/coordinates": Row("coordinates", PLAIN | P_ONLY | NO_TEXT, 82.6, 108, 11),
}
TABLES = {}  # "table4" -> its rows, name -> Row
for _name, _row in ROWS.items():
    TABLES.setdefault(_name.split("/")[0], {})[_name] = _row


# ---- Presets
PRESETS = {  # by --data/--model, --data or --model: changed defaults, with the reason or the source
    **TOY_PRESETS,
    "vilp": dict(pose_frames=8, video_frames=8, lr=5e-5, weight_decay=0.2, epochs=30, warmup=5.0,
                 prompt="This is a video about {}"),
    "aim": dict(lr=3e-4),                                    # these two as their papers have it
}


def presets(args):
    """Defaults that follow from --data, --model and --row; the command line wins over them."""
    keys = f"{args.data}/{args.model}", args.data, args.model
    chosen = dict(next((PRESETS[key] for key in keys if key in PRESETS), {}))
    if args.row:
        if args.row not in ROWS:
            raise unknown_name("row", args.row, ROWS)
        if args.model != "pevl":
            raise ValueError(f"--row {args.row} beside --model {args.model}. Expected PeVL, of "
                             "which the rows are ablations. Leave one of the two out.")
        chosen |= ROWS[args.row].overrides
    chosen["read_video"] = chosen.get("video", args.video)
    chosen["read_poses"] = chosen.get("pose", args.pose) and args.model in ("pevl", "vilp")
    return chosen



def row_flags(row):
    """What a row of the tables changes, as flags of the command line."""
    flags = {f"--{'no-' if x is False else ''}{name.replace('_', '-')}": x
             for name, x in row.overrides.items()}
    word = lambda x: "" if isinstance(x, bool) else f" {x if isinstance(x, str) else ','.join(x)}"
    return " ".join(flag + word(x) for flag, x in flags.items())

