"""What the papers print for a data set, a system and a backbone: typed once, with its source.

A figure of a paper may stand beside one of ours only if the data set, the system, the backbone and
the switches are the same; what else is set otherwise (frames, crops) has to be said beside it.

paper                    | here         | tests/test_printed.py
PeVL, Tables 1, 2, 3     | PRINTED      | test_printed_figures_are_the_papers
PeVL, Tables 4 to 9      | printed_for  | test_rows_have_the_figure_of_their_table
ViLP, abstract           | PRINTED      | test_printed_figures_are_the_papers
"""
from dataclasses import dataclass, field

from data import DATASETS
from systems.config import SWITCHES, PeVLConfig
from tables.rows import ROWS, row_flags


@dataclass(frozen=True)
class Printed:
    """Figures of a paper, and the settings that it names for them."""
    source: str                                   # paper and table
    figures: dict                                 # top1, top5, mean -> percent, as printed
    settings: dict = field(default_factory=dict)  # field of the configs, or `views` -> as printed


# Table 1 and Sec. 4.3: 16 video, 48 pose frames; Sec. 4.1: 224 px, three crops at test.
PEVL = {"video_frames": 16, "pose_frames": 48, "image_size": 224, "views": 3}
AIM = {"video_frames": 32, "views": 3}            # Table 1: "32x3", see D18
VILP = {"video_frames": 8}                        # the paper does not print its test crops

PRINTED = {
    # Table 1. Top-5 is Table 4's of the same model.
    ("diving48", "pevl", "ViT-B/16"): Printed("PeVL, Tables 1 and 4", {"top1": 91.9, "top5": 99.6},
                                              PEVL),
    ("diving48", "pevl", "ViT-L/14"): Printed("PeVL, Table 1", {"top1": 92.5}, PEVL),
    ("diving48", "aim", "ViT-B/16"): Printed("PeVL, Table 1", {"top1": 88.9}, AIM),
    ("diving48", "aim", "ViT-L/14"): Printed("PeVL, Table 1", {"top1": 90.6}, AIM),

    # Table 2.
    ("gym99", "pevl", "ViT-B/16"): Printed("PeVL, Table 2", {"top1": 96.5, "mean": 91.6}, PEVL),
    ("gym99", "pevl", "ViT-L/14"): Printed("PeVL, Table 2", {"top1": 97.0, "mean": 91.8}, PEVL),
    ("gym288", "pevl", "ViT-B/16"): Printed("PeVL, Table 2", {"top1": 90.5, "mean": 63.9}, PEVL),
    ("gym288", "pevl", "ViT-L/14"): Printed("PeVL, Table 2", {"top1": 91.8, "mean": 64.0}, PEVL),

    # Table 3.
    ("haa500", "pevl", "ViT-B/16"): Printed("PeVL, Table 3", {"top1": 84.3}, PEVL),
    ("haa500", "pevl", "ViT-L/14"): Printed("PeVL, Table 3", {"top1": 84.7}, PEVL),
    ("smarthome", "pevl", "ViT-B/16"): Printed("PeVL, Table 3", {"mean": 73.3}, PEVL),
    ("smarthome", "pevl", "ViT-L/14"): Printed("PeVL, Table 3", {"mean": 73.8}, PEVL),

    # ViLP without pretraining on videos; with Kinetics it prints 96.11 and 75.75.
    ("ucf101", "vilp", "ViT-B/16"): Printed("ViLP, no video pretraining", {"top1": 92.81}, VILP),
    ("hmdb51", "vilp", "ViT-B/16"): Printed("ViLP, no video pretraining", {"top1": 73.02}, VILP),
}


def switches_of(config):
    """What ablations turn, as a dict; lists of a config.json are tuples here."""
    found = {}
    for name in SWITCHES:
        value = config.get(name, getattr(PeVLConfig, name))
        found[name] = tuple(value) if isinstance(value, list) else value
    return found


def row_with(switches):
    """Name of the first row of ROWS, ours included, that has these switches, or None."""
    for name, row in ROWS.items():
        if switches_of(row.overrides) == switches:
            return name
    return None


def system_of(config):
    """A run's system in words for a table of results: its model, and what makes it another one.

    config: as of `printed_for`.
    """
    said = config["model"]
    switches = switches_of(config)
    if switches != switches_of({}):               # an ablation, or a reading of ours
        said += f", {row_with(switches) or 'switches of no row'}"
    if config.get("shots"):
        said += f", {config['shots']} clips of each label"
    return said


def printed_for(config):
    """The papers' figures for a run's data set, system, backbone and switches, or None.

    config: fields of the configs by name, as in config.json. The ablations of Tables 4 to 9 are
    printed for Diving48 with ViT-B/16 alone.
    """
    place = (config["data"], config["model"], config["backbone"])
    switches = switches_of(config)
    if switches == switches_of({}):
        return PRINTED.get(place)

    name = row_with(switches)
    if name is None or place != ("diving48", "pevl", "ViT-B/16"):
        return None
    row = ROWS[name]
    if row.top1 is None:                          # a reading of ours, in no table of the paper
        return None
    table = name.split("/")[0].replace("table", "Table ")
    return Printed(f"PeVL, {table}, {row.what} ({row_flags(row)})", {"top1": row.top1}, PEVL)


def differing(printed, config, views):
    """What is set otherwise here than the paper says: texts, none where all agrees."""
    here = {**config, "views": views}
    said = []
    for name, value in printed.settings.items():
        if name in here and here[name] != value:
            words = name.replace("_", " ")
            said.append(f"{words} {here[name]} here, {value} in the paper")

    if config.get("shots"):
        said.append(f"trained on {config['shots']} clips of each label here, on all in the paper")

    # Versions, protocols and splits: the paper does not name all of its own, and the data set's
    # default is taken for it (D17). So no more is said than that it is the default.
    entry = DATASETS[config["data"]]
    if entry.variant:
        usual = next(iter(entry.counts))
        chosen = str(config.get(entry.variant) or usual)
        if chosen != usual:
            said.append(f"{entry.variant} {chosen} here, {usual} by default")
    return said
