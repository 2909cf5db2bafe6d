"""Where a run starts from, if not from CLIP alone: `python train.py --init FILE`.

The weights of another run, on whatever labels it was trained, or a checkpoint of BIKE, from which
ViLP's authors start. Every tensor is accounted for: what has another name or shape is an error that
names it, and nothing is copied before all fit.

here           | what it does                                   | tests/test_transfer.py
start_from     | file -> weights of the model, a line for the   | test_init_*
               | log                                            |
start_from_run | a run of ours                                  | test_init_from_another_label_set
start_of_vilp  | BIKE's CLIP becomes both towers, its           | test_bike_starts_both_towers_...
               | transformer ours                               |

Labels are texts to most systems, and texts have no parameters of their own: the towers that read
them come along, and the new texts are read by them. A linear head has a row for each label; where
the labels differ it starts anew.
"""
from pathlib import Path

import torch

from published.bike import is_bike, read_bike
from support.checkpoints import read_checkpoint
from systems.base import copy_all

# Attributes under which systems keep a linear head.
HEADS = ("head", "projection")

# Our name of a piece of the temporal transformer's layers (PyTorch's) -> BIKE's (CLIP's).
BIKE_PIECES = {
    "norm1": "ln_1",
    "self_attn": "attn",
    "norm2": "ln_2",
    "linear1": "mlp.c_fc",
    "linear2": "mlp.c_proj",
}


def start_from(path, model, labels, clip_hash):
    """Put the weights of a file into `model` -> a line of text that says what came from where.

    path: a checkpoint or the folder of a run of train.py, or a checkpoint of BIKE. model: an
    ActionModel, as it was built on CLIP. labels: those of the data set. clip_hash: fingerprint of
    the CLIP that the model was built on, before anything of it was trained.

    Raises FileNotFoundError, and ValueError where file and model do not fit together.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "last.pt"
    if path.is_file() and is_bike(path):
        return start_of_vilp(path, model)
    return start_from_run(path, model, labels, clip_hash)


# ---- A run of ours -------------------------------------------------------------------------------

def head_names(model):
    """The names of the parameters of a linear head, which has a row for each label; or none."""
    if model.compares_texts:
        return set()
    ids = set()
    for attribute in HEADS:
        head = getattr(model, attribute, None)
        if head is not None:
            ids |= {id(p) for p in head.parameters()}
    return {name for name, p in model.named_parameters() if id(p) in ids}


def check_origin(path, saved, model, clip_hash):
    """ValueError where a run is of another system, backbone or CLIP: more to the point than a list
    of all names."""
    for flag, here in (("model", model.config.model), ("backbone", model.config.backbone)):
        there = saved["config"][flag]
        if there != here:
            raise ValueError(f"--init {path} is a run of --{flag} {there}, and this one is of "
                             f"{here}. Expected the same. Change --{flag}, or name another run.")

    # Adapters fit the frozen weights that they were trained between, and no others. With --tune all
    # the run's own CLIP comes along, but Eq. (5) asks the original, so that one must be the same.
    if saved["clip"] != clip_hash:
        raise ValueError(f"--init {path} was trained on other CLIP weights: their hashes differ. "
                         "Expected the same file and frame size. Give them by --clip and "
                         "--image-size (--clip random: and --seed).")


def start_from_run(path, model, labels, clip_hash):
    """Arguments as of start_from. All that the run trained comes along, but for a linear head
    where the labels differ.

    What was computed from CLIP when the model was built stays as it was: the discrepancies of
    Eq. (5) are the original CLIP's, also where the run trained all of CLIP.
    """
    saved = read_checkpoint(path)
    check_origin(path, saved, model, clip_hash)

    source = dict(saved["model"])
    target = model.trainable_state()
    anew = set()
    if list(labels) != list(saved["labels"]):
        anew = head_names(model)
    for name in anew:
        source.pop(name, None)
        target.pop(name)

    copy_all(source, target, f"--init {path} does not fit this model: {{}}. Expected equal names "
             "and shapes; only labels may differ. Use the switches, frames and poses of its "
             "config.json.")

    there = saved["config"]
    said = (f"starts from {path}: {there['model']} on {there['data']}, {len(saved['labels'])} "
            f"labels, step {saved['at']['step']}")
    if anew:
        said += f"; the linear head starts anew, with {len(labels)} labels for rows"
    return said


# ---- BIKE ----------------------------------------------------------------------------------------

def bike_name(name):
    """Our name in the temporal transformer -> BIKE's.

    >>> bike_name("5.linear1.bias")
    'transformer.resblocks.5.mlp.c_fc.bias'
    """
    number, piece, *rest = name.split(".")
    return ".".join(["transformer.resblocks", number, BIKE_PIECES[piece], *rest])


def start_of_vilp(path, model):
    """Put a checkpoint of BIKE into a ViLP -> a line of text that says what came from where.

    Its image tower becomes the start of the tower of frames and of that of poses, its transformer
    over frames that of ours, its temperature ours. Its text tower is compared and left: ViLP's is
    CLIP's, frozen; with --tune all it is taken, too.

    Raises ValueError for another system than ViLP, and where any name or shape differs, before
    anything is copied.
    """
    config = model.config
    if config.model != "vilp":
        raise ValueError(f"--init {path} is a checkpoint of BIKE, and this is --model "
                         f"{config.model}. Expected --model vilp, which starts from it. Change it, "
                         "or name a run of train.py.")
    if config.video_frames > model.clip.config.context_length:
        raise ValueError(f"--init {path} has positions for {model.clip.config.context_length} "
                         f"frames, and --video-frames is {config.video_frames}. Expected no more. "
                         "Lower it (ViLP: 8).")
    clip, fusion = read_bike(path)

    # Everything in the file has a place: where the model has none, a tensor that is looked at
    # afterwards or dropped. Names carry which of the two state dicts they are from.
    target = {}
    for name, p in model.clip.named_parameters():
        is_taken = config.tune == "all" or (config.video and name.startswith("visual."))
        target[f"CLIP {name}"] = p if is_taken else torch.empty_like(p)

    context, e = model.clip.config.context_length, model.clip.config.embed_dim
    positions = torch.empty(context, e)
    target["fusion frame_position_embeddings.weight"] = positions
    for name, p in model.mixer.layers.named_parameters():
        target[f"fusion {bike_name(name)}"] = p

    source = {f"CLIP {name}": x for name, x in clip.items()}
    source.update({f"fusion {name}": x for name, x in fusion.items()})
    copy_all(source, target, f"{path} is no checkpoint of BIKE for this backbone: {{}}. Expected "
             "equal names and shapes. Set --backbone (k400-vit-b-16-f8.pt: ViT-B/16) and "
             "--image-size.")

    with torch.no_grad():
        model.mixer.position.copy_(positions[:config.video_frames])
        model.logit_scale.copy_(clip["logit_scale"])
        if model.pose is not None:
            for name, p in model.pose.named_parameters():
                p.copy_(clip[f"visual.{name}"])

    towers = [name for name, is_on in (("frames", config.video), ("poses", config.pose)) if is_on]
    said = f"starts from {path}: BIKE's image tower for {' and '.join(towers)}, and its transformer"
    said += text_tower_note(model, clip)
    if not model.compares_texts:
        said += "; the linear head starts anew"
    return said


def text_tower_note(model, clip):
    """Half a sentence: whether the texts are read by the tower that the file was trained with."""
    if model.config.tune == "all":
        return ", its text tower too"
    largest = 0.0
    for name, p in model.clip.named_parameters():
        if not name.startswith("visual.") and name != "logit_scale":
            difference = (clip[name].float() - p).abs().max().item()
            largest = max(largest, difference)
    if largest == 0:
        return "; its text tower is the CLIP's here"
    return f"; its text tower is left, and differs from the CLIP's here by up to {largest:.2g}"
