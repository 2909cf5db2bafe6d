"""From a model and its answers to the records of the page: what was answered, what was looked at.

paper            | here                                     | tests/test_evidence.py
Fig. 1c          | `look_at`: patch weights, attention      | test_a_clip_is_looked_at
Fig. 3b, Eq. (4) | `matrix_of`: frames x words of a clip    | test_matrix_is_that_of_the_similarity
ViLP, P-VCS      | `look_at`: its saliency of frames        | test_saliency_of_vilp
-                | `persons_in`: people in the pose clips   | test_report_of_an_evaluation
-                | `write_report`: all of it, into the page | test_report_of_an_evaluation

Shapes: T pose frames, Tv video frames, N patches of a frame, W words, K labels, B clips.
"""
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clip_model import token_texts
from data import persons_in
from pevl import cosine, frame_word_similarity
from report.log import parameter_rows, rows_of
from report.page import write_page
from report.contents import Comparison, Contents, LookedAt, Matrix, Measured, paired
from report.results import middle_view, strip_of
from support.files import hash_of
from tables.costs import count_costs
from tables.printed import differing, printed_for

MISTAKES = 6                                      # clips whose pictures are on the page
RIGHTS = 2


@dataclass
class Evaluated:
    """A model with its answers on a data set, as eval.py and train.py have them."""
    name: str                                     # for people: the run's folder, or the system
    model: Any                                    # an ActionModel
    dataset: Any                                  # data.Clips, in evaluation mode
    result: dict                                  # of eval.evaluate
    about: dict                                   # facts: checkpoint, model, data, split, views ...
    checkpoint: Path | None = None                # its file, where there is one
    config: dict | None = None                    # settings, as in config.json
    versions: dict | None = None                  # of training


def sha256_of(path):
    """SHA-256 of a file in hexadecimal, "" where there is none."""
    if path is None or not Path(path).is_file():
        return ""
    return hash_of(path).hexdigest()


def measured(one):
    """The page's record of an `Evaluated`."""
    # Zero-shot CLIP has no checkpoint, hence no log, and its model's settings are all there are.
    history = []
    config = one.config or {}
    if one.checkpoint is not None:
        history = rows_of(Path(one.checkpoint).parent, "step", "epoch")
    if not config:
        config = dataclasses.asdict(one.model.config)
    return Measured(name=one.name, about=one.about, labels=list(one.dataset.labels),
                    result=one.result, config=config, versions=one.versions or {},
                    history=history, sha256=sha256_of(one.checkpoint))


# ---- What was looked at --------------------------------------------------------------------------

def matrix_of(model, features, text, label, name):
    """The frames x words matrix of one clip and one label, and the similarity made of it.

    features: of a PeVL's forward, one clip. text: of encode_texts, all K. name: the label's text.
    """
    mask = text["word_mask"][label]                                         # (W,)
    words = text["words"][label:label + 1]                                  # (1, W, e)
    frames = features["pose_frames"]                                        # (1, T, e)
    A = cosine(frames[0], words[0, mask])                                   # (T, words)
    similarity = frame_word_similarity(frames, words, mask[None], model.config.tau_fw)
    return Matrix(text=name, words=token_texts(model.tokens[label, mask.to(model.tokens.device)]),
                  values=A.float().cpu().numpy(), similarity=float(similarity))


def shows_words(model):
    """Whether a model compares frames with words, as Eq. (4) does: PeVL with that term on."""
    return "fw" in getattr(model, "sim", ()) and getattr(model, "projection", None) is None


@torch.no_grad()
def look_at(one, prediction, text, device):
    """A clip and all that its model looked at -> LookedAt.

    one: Evaluated. prediction: one of its predictions, of a clip that can be read. text: of
    encode_texts, or None for a system that does not compare texts.
    """
    model = one.model
    labels = one.dataset.labels
    true = labels[prediction["label"]]
    answer = labels[prediction["predicted"]]
    # What each similarity would have said alone shows which of them was misled.
    item = one.dataset[prediction["index"]]
    strip = strip_of(model, item, one.dataset.joints, true, true == answer, device)
    alone = {}
    for name, label in prediction["alone"].items():
        alone[name] = labels[label]
    looked = LookedAt(id=prediction["id"], label=true, answer=answer, alone=alone, strip=strip,
                      probability=prediction["probability"])

    # The answer first, then, where it is another one, what it should have been: both matrices side
    # by side show which words drew the clip the wrong way.
    shown = dict.fromkeys([prediction["predicted"], prediction["label"]])
    if text is None or not (shows_words(model) or hasattr(model, "saliency")):
        return looked
    features = model({name: x.to(device) for name, x in middle_view(item).items()})
    for label in shown:
        if shows_words(model):
            looked.matrices.append(matrix_of(model, features, text, label, labels[label]))
        else:
            shares = model.saliency(features, text)[0, label]               # (Tv,)
            looked.saliency[labels[label]] = shares.float().cpu().numpy()
    return looked


def chosen_clips(predictions):
    """The most confident mistakes, and the most confident right answers of different labels."""
    # Confident mistakes teach most: there the model did not waver, it was sure of something wrong.
    readable = [p for p in predictions if not p["broken"]]
    ranked = sorted(readable, key=lambda p: -p["probability"])
    wrong = [p for p in ranked if p["predicted"] != p["label"]]
    right = []
    for p in ranked:
        known = {other["label"] for other in right}
        if p["predicted"] == p["label"] and p["label"] not in known:
            right.append(p)
    return wrong[:MISTAKES], right[:RIGHTS]


def add_rival(looked, prediction, rival, device):
    """Put a second model's attention and answer on the same clip beside the first one's."""
    # Predictions are in the order of the data set, so that the index finds the same clip.
    theirs = rival.result["predictions"][prediction["index"]]
    if theirs["broken"]:
        return
    looked.rival_answer = rival.dataset.labels[theirs["predicted"]]
    item = rival.dataset[prediction["index"]]
    strip = strip_of(rival.model, item, rival.dataset.joints, "", None, device)
    looked.rivals.append((rival.name, strip))


def clips_of(one, rival, device):
    """LookedAt of the most confident mistakes and of right answers: two lists."""
    # The texts are encoded once for all clips; dropout and dropped paths are off, then as before.
    model = one.model
    was_training = model.training
    model.eval()
    with torch.no_grad():
        text = model.encode_texts() if model.compares_texts else None
    groups = []
    for group in chosen_clips(one.result["predictions"]):
        clips = []
        for prediction in group:
            looked = look_at(one, prediction, text, device)
            if rival is not None:
                add_rival(looked, prediction, rival, device)
            clips.append(looked)
        groups.append(clips)
    model.train(was_training)
    return groups


# ---- All of it -----------------------------------------------------------------------------------

def cost_rows(one, operations):
    """Rows of the page's table of costs: part, trained M, all M, with `operations` also G."""
    rows = []
    if not operations:
        for name, total, tuned in parameter_rows(one.model):
            rows.append([name, f"{tuned:.3f}", f"{total:.3f}"])
        return rows

    # The parts of the model and, last, their sum.
    costs = count_costs(one.model.config, len(one.dataset.joints), texts=one.dataset.texts)
    sums = {"gmacs": 0.0, "tunable_m": 0.0, "total_m": 0.0}
    for name, cost in costs.items():
        for key in sums:
            sums[key] += cost[key]
        rows.append([name, f"{cost['tunable_m']:.3f}", f"{cost['total_m']:.3f}",
                     f"{cost['gmacs']:.3f}"])
    rows.append(["all", f"{sums['tunable_m']:.3f}", f"{sums['total_m']:.3f}",
                 f"{sums['gmacs']:.3f}"])
    return rows


def comparison_of(one, rival):
    """The paired differences of two runs on the same clips. ValueError where they are not."""
    # By id and in order: paired differences of other clips would be numbers without a meaning.
    ours = one.result["predictions"]
    theirs = rival.result["predictions"]
    same = [p["id"] for p in ours] == [p["id"] for p in theirs]
    if not same or list(one.dataset.labels) != list(rival.dataset.labels):
        raise ValueError(f"{one.name} and {rival.name} did not answer the same clips. Expected one "
                         "data set and split. Give both the same --data, --root and --eval-split.")
    a = measured(one)
    b = measured(rival)
    top1 = paired(a.true, a.correct(), b.correct())
    mean = paired(a.true, a.correct(), b.correct(), metric="mean")
    return Comparison(rival=b, top1=top1, mean=mean)


def paper_beside(config, about):
    """The papers' figures for an evaluation, or None, and what is set otherwise here: (Printed,
    texts).

    config: settings of the run, without `data` for zero-shot CLIP, which was trained on none.
    about: of the evaluation, with its `data` and `views`. A figure of a paper is there only where
    data set, system, backbone and switches are the same, and the run was trained on that data set.
    """
    data = about["data"]
    if config.get("data", data) != data:
        return None, []
    here = {**config, "data": data}
    printed = printed_for(here)
    if printed is None:
        return None, []
    return printed, differing(printed, here, about["views"])


def write_report(one, folder, device, rival=None, operations=False):
    """Write `report.html` into `folder`, and say so.

    one: Evaluated. rival: another one on the same clips, for a page of two runs. operations: count
    those of a clip, too, which takes some seconds.
    """
    mine = measured(one)
    printed, apart = paper_beside(mine.config, one.about)
    comparison = None
    if rival is not None:
        comparison = comparison_of(one, rival)

    mistakes, rights = clips_of(one, rival, device)
    # Each pose file is read once more, whole: the frames that were sampled are not all it holds.
    persons = persons_in(one.dataset, one.dataset.clips)
    contents = Contents(measured=mine, printed=printed, differing=apart, mistakes=mistakes,
                        rights=rights, costs=cost_rows(one, operations), comparison=comparison,
                        persons=persons)
    path = write_page(contents, Path(folder) / "report.html")
    print(f"wrote {path}: open it in a browser")
    return path
