"""Defaults that follow from what is there: your own few clips, and the tiny backbone.

The dataclasses' defaults are the paper's: 15,000 clips, ViT-B/16, 50 epochs at a rate of 8e-6. On
fifteen clips these mean a batch that cannot be filled and fifty steps that move nothing. `fitted`
says what to take instead, and why; the command line still wins over all of it.

paper    | what                                     | here       | tests/test_fit.py
Sec. 4.1 | batch, epochs, rate for few clips (ours) | `few`      | test_few_clips_*
-        | what the tiny CLIP needs                 | `tiny`     | test_tiny_backbone_*
-        | the lines that a run begins with         | `reasons`  | test_choices_are_told_*
"""
import io
from contextlib import redirect_stdout, suppress
from typing import NamedTuple

from clip_model import BACKBONES
from data import DataConfig


class Choice(NamedTuple):
    """A default that was chosen, and a few words on why."""
    value: object
    why: str


# Steps below which a run has hardly begun (ours; the toy benchmark takes 440), epochs beyond which
# few clips are only learned by heart, and the paper's number of epochs.
STEPS = 200
MOST_EPOCHS = 100
EPOCHS = 50
BATCH = 32


def tiny(model):
    """Field -> Choice for `--backbone tiny` on data that has no preset of its own.

    model: pevl, vilp or aim. The values are those of PeVL on the toy benchmark (toy/presets.py),
    which this CLIP was made for; the other two keep rates of their own, and get 8 frames of each,
    to be quick.
    """
    chosen = {
        "image_size": Choice(BACKBONES["tiny"].image_size, "what the tiny CLIP reads"),
        "warmup": Choice(0.5, "as PeVL on the toy benchmark"),
    }
    if model != "aim":                            # which compares with no texts
        chosen["tau_fw"] = Choice(1.0 if model == "vilp" else 0.1,
                                  "at 0.01 it learns nothing (D10)")
    if model != "vilp":                           # which has no adapters
        chosen["adapter_ratio"] = Choice(1.0, "a quarter of its width is too narrow")
        chosen["drop_path"] = Choice(0.0, "four blocks leave none to drop")
    if model == "pevl":
        chosen["lr"] = Choice(2e-3, "as on the toy benchmark")
        chosen["pose_frames"] = Choice(16, "as on the toy benchmark")
        chosen["video_frames"] = Choice(4, "as on the toy benchmark")
        chosen["own_loss"] = Choice(0.5, "else two of the three similarities idle (D15)")
    else:
        chosen["pose_frames"] = Choice(8, "few frames: it is for trying out")
        chosen["video_frames"] = Choice(8, "few frames: it is for trying out")
    return chosen


def few(clips, batch=BATCH, epochs=EPOCHS):
    """Field -> Choice for a training set of `clips` clips.

    batch, epochs: where they are not BATCH and EPOCHS, somebody has asked for them.

    >>> {name: one.value for name, one in few(9).items()}
    {'batch': 8, 'epochs': 100, 'warmup': 5.0, 'eval_every': 5, 'lr': 0.0003}
    """
    chosen = {}
    if batch == BATCH:
        while batch > max(clips, 1):
            batch //= 2
        if batch < BATCH:
            chosen["batch"] = Choice(batch, f"there are {clips} training clips")

    steps = max(clips // batch, 1)                # of an epoch
    if epochs != EPOCHS:                          # asked for: the warm-up still has to end in time
        chosen["warmup"] = Choice(epochs / 20, "a twentieth of the epochs")
    elif epochs * steps < STEPS:
        epochs = min(-(-STEPS // steps), MOST_EPOCHS)
        chosen["epochs"] = Choice(epochs, f"{epochs * steps} steps of {batch} clips")
        chosen["warmup"] = Choice(epochs / 20, "its epochs are short")
        chosen["eval_every"] = Choice(max(epochs // 20, 1), "its epochs are short")
    chosen["lr"] = Choice(3e-4, "8e-6 moves new weights too little (D16); AIM's rate")
    return chosen


def fitted(args):
    """Field -> Choice for the flags `args`: see train.settings. {} for a data set with a preset.

    args: namespace of all flags. Reads the csv of `--data custom`; where that cannot be read
    nothing follows from the number of clips. What is wrong is told when the data set is opened.
    """
    chosen = {}
    if args.data == "custom":
        with suppress(OSError, ValueError):
            cfg = DataConfig(data="custom", root=args.root, shots=args.shots)
            with redirect_stdout(io.StringIO()):  # what it notes is said when the data are opened
                _, clips = cfg.read_index("train")
            chosen.update(few(len(clips), args.batch, args.epochs))
        side = BACKBONES[args.backbone].image_size if args.backbone in BACKBONES else 224
        if side != 224:
            chosen["image_size"] = Choice(side, f"what {args.backbone} reads")

    if args.backbone == "tiny" and args.data != "toy":
        warmup = chosen.get("warmup")
        chosen.update(tiny(args.model))
        if warmup:                                # few clips: many short epochs need more of them
            chosen["warmup"] = warmup
    return chosen


def reasons(chosen, values):
    """Lines that say what was chosen and why; what the command line set otherwise is left out.

    chosen: field -> Choice. values: namespace of all flags, as they were resolved.
    """
    lines = []
    for name, choice in chosen.items():
        if getattr(values, name) == choice.value:
            flag = "--" + name.replace("_", "-")
            lines.append(f"{flag} {choice.value}: {choice.why}")
    return lines
