"""Frames told to words: does the matrix of Eq. (4) find the moments that the words name?

    python -m toy.alignment                           the newest run, on the clips of the test split
    python -m toy.alignment --ckpt out/toy-pevl       a run of your own choice

The paper shows its frames x words matrices as pictures (Fig. 3b). The toy world knows when a diver
takes off, twists and holds the position, so that here they can be counted: of each clip and its own
label, the frame that a word is most similar to lies in the word's moment, or it does not. Chance is
the share of the frames that lie in it. Nothing is trained for this: no loss knows the moments.

part                                     here           tests/test_alignment.py
when the words of a label are true       moments_of     test_moments_*
which words of a text say what           parts_of       test_parts_*
share of words told to the right moment  alignment      test_alignment_*
"""
if __name__ == "__main__":                        # before PyTorch, which takes seconds to import
    import support.interrupt

import argparse
import sys

import numpy as np
import torch
from torch.utils.data import DataLoader

from clip_model import token_texts
from data import Clips, DataConfig
from eval import open_checkpoint, rebuild_from, settings_of
from pevl import cosine
from support.commands import run_command
from support.sampling import nearest, sample_instants
from support.settings import Parser
from systems.views import clip_features
from toy.captions import LABEL
from toy.divers import TWIST_BEGINS, TWIST_LASTS
from toy.tree import read_note, toy_dive, toy_plan, toy_times


def moments_of(dive):
    """Part of a label -> when it is seen, (begin, end) in seconds of the dive's clock.

    The take-off: from the last third of a second on the board to a tenth in the air. Somersaults:
    the whole flight. Twists, where there are any, and the position: as toy/divers.py draws them.
    What is held is true at all times and has no moment of its own.
    """
    moments = {
        "takeoff": (dive.t_off - 1 / 3, dive.t_off + .1),
        "somersaults": (dive.t_off, dive.t_off + dive.t_air),
        "position": dive.hold,
    }
    if dive.twists:
        begin = dive.t_off + TWIST_BEGINS * dive.t_air
        moments["twists"] = (begin, begin + TWIST_LASTS * dive.t_air)
    return moments


def parts_of(words):
    """Part of a label -> the places of its words among those of a prompt.

    words: what the tokens of a prompt stand for, a list of W texts. A label's parts are divided by
    commas, and what follows the last of them is the prompt.

    >>> parts_of(["back", ",", "dive", ",", "no", "twist", ",", "pike", ",", "balls", ",", "a"])
    {'takeoff': [0], 'somersaults': [2], 'twists': [4, 5], 'position': [7], 'thing': [9]}
    """
    places = {name: [] for name in LABEL}
    part = 0
    for place, word in enumerate(words):
        if word == ",":
            part += 1
        elif part < len(LABEL):
            places[LABEL[part]].append(place)
    return places


@torch.no_grad()
def alignment(model, dataset, batch_size=16):
    """Part of a label -> (hits, chance, clips): shares of clips whose best frame is in the moment.

    model: a PeVL with the frame-word similarity. dataset: Clips of the toy benchmark, in evaluation
    mode, one view. The similarity of a part and a frame is the mean over the part's words.
    """
    settings = read_note(dataset.cfg.folder)["settings"]
    plan = {clip.name: clip for clip in toy_plan(settings)}
    middles = np.full(dataset.cfg.pose_frames, 0.5)                     # (T,) as Clips takes them

    text = model.encode_texts()
    found = {name: [] for name in LABEL}                                # (hit, chance) of each clip
    for batch in DataLoader(dataset, batch_size):
        features = clip_features(model, batch, "cpu")
        for row, index in enumerate(batch["index"].tolist()):
            clip = plan[dataset.clips[index].id]
            dive = toy_dive(settings, clip.split, clip.label, clip.number)
            times = toy_times(dive, settings)                           # of all frames
            since = np.arange(len(times)) / settings["fps"]             # as the video has them
            instants = times[nearest(since, sample_instants(since, middles))]       # of T frames
            mask = text["word_mask"][clip.label]                        # (W,)
            words = text["words"][clip.label, mask]                     # (words, e)
            A = cosine(features["pose_frames"][row], words)             # (T, words)
            places = parts_of(token_texts(model.tokens[clip.label, mask]))

            for name, (begin, end) in moments_of(dive).items():
                inside = (begin <= instants) & (instants <= end)        # (T,)
                best = A[:, places[name]].mean(1).argmax().item()
                found[name].append((inside[best], inside.mean()))

    shares = {}
    for name, pairs in found.items():
        if pairs:
            hits, chance = np.mean(pairs, axis=0)
            shares[name] = (float(hits), float(chance), len(pairs))
    return shares


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    parser = Parser(description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", default="", help="a run of PeVL on the toy benchmark (newest)")
    parser.add_argument("--clip", default="", help="the CLIP weights, where they have moved")
    parser.add_argument("--split", default="test", choices=("val", "test"), help="(test)")
    args = parser.parse_args(argv)

    def job():
        path, saved = open_checkpoint(args.ckpt)
        model = rebuild_from(path, saved, args.clip)
        config = model.config
        data = saved["config"]["data"]
        compares = config.text and config.fusion == "similarities"
        told_to_words = compares and "fw" in config.usable_similarities()
        if data != "toy" or config.model != "pevl" or not told_to_words:
            raise ValueError(f"{path}: {config.model} on {data}. Expected PeVL on the toy "
                             "benchmark, with the frame-word similarity. Choose another one.")

        dataset = Clips(DataConfig(**settings_of(DataConfig, saved)), args.split, train=False)

        print(f"{path}: words told to the right frames of the {args.split} clips, %")
        for name, (hits, chance, clips) in alignment(model, dataset).items():
            times = hits / chance
            print(f"{name:12} {100 * hits:5.1f}   chance {100 * chance:4.1f}   {times:.1f} times   "
                  f"{clips} clips")

    return run_command(job)


if __name__ == "__main__":
    sys.exit(main())
