"""What an evaluation leaves in its folder: JSON, confusion matrix, strips of what was looked at.

paper   | here                                               | tests/test_eval.py
Fig. 1c | `strip_of`, `draw_strips`: attention and its change | test_evaluation_leaves_pictures
-       | `write_results`                                     | test_evaluation_*

Shapes: T pose frames, Tv video frames, J joints, N patches of a frame (no class token), K labels.
"""
import csv
import io
import json
from pathlib import Path

import numpy as np
import torch

from report.draw import draw_confusion, draw_strip
from report.metrics import class_rows, intervals_of
from support.files import atomic
from support.sampling import video_frame_index


def middle_view(item):
    """The middle view of an item of a data set in evaluation mode, as a batch of one, on the CPU.

    Such an item has R crops; with three, the second is the centre of the frame.
    """
    middle = len(item["frames"]) // 2
    view = {"label": item["label"][None]}
    for name in ("frames", "keypoints", "scores"):
        view[name] = item[name][middle][None]
    return view


@torch.no_grad()
def strip_of(model, item, joints, said, right, device):
    """An item of a data set as `report.draw.draw_strip` wants it, in its middle view.

    joints: J names. said: the line above the pictures. right: whether the answer was, None where
    nobody knows. Returns a dict: frames uint8 (Tv, S, S, 3); keypoints (Tv, J, 2) in [-1, 1] and
    scores (Tv, J) at the video frames; maps, name -> (Tv, N), empty for models that have none.
    """
    view = middle_view(item)
    maps = {}
    if hasattr(model, "attention_maps") and model.config.video:
        batch = {name: x.to(device) for name, x in view.items()}
        for name, x in model.attention_maps(batch).items():
            maps[name] = x[0].float().cpu().numpy()

    T = view["keypoints"].shape[1]
    Tv = view["frames"].shape[1]
    seen = video_frame_index(T, Tv)
    return {"said": said, "right": right, "joints": joints,
            "frames": view["frames"][0].permute(0, 2, 3, 1).numpy(),
            "keypoints": view["keypoints"][0, seen].numpy(),
            "scores": view["scores"][0, seen].numpy(),
            "maps": maps}


def examples_of(label, predictions):
    """Of a label's clips: the first that was answered rightly, the first that was not."""
    first = {}                                    # right or not -> prediction
    for p in predictions:
        if p["label"] == label and not p["broken"]:
            right = p["predicted"] == label
            first.setdefault(right, p)
    return [(right, first[right]) for right in (True, False) if right in first]


def file_name(label, text):
    """`007-Back_1.5_somersaults.png`: numbered, and safe on every disk."""
    safe = ""
    for letter in text[:60]:
        allowed = letter.isalnum() or letter in ".-"
        safe += letter if allowed else "_"
    return f"{label:03d}-{safe}.png"


def draw_strips(model, dataset, predictions, folder, device, classes):
    """A picture for each of the first `classes` labels that have clips; gives their number.

    predictions: those of `eval.evaluate`.
    """
    was_training = model.training
    model.eval()
    written = 0
    for label, text in enumerate(dataset.labels[:classes]):
        clips = []
        for right, p in examples_of(label, predictions):
            answer = "" if right else f", taken for: {dataset.labels[p['predicted']]}"
            said = f"{p['id']}: {text}{answer} ({100 * p['probability']:.0f} %)"
            item = dataset[p["index"]]
            clips.append(strip_of(model, item, dataset.joints, said, right, device))
        if clips:
            draw_strip(clips, Path(folder) / file_name(label, text))
            written += 1
    model.train(was_training)
    return written


def write_probabilities(result, labels, path):
    """An .npz of ids, true labels, label texts and probabilities, float32 (clips, K)."""
    rows = result["predictions"]
    arrays = {
        "id": [row["id"] for row in rows],
        "label": [row["label"] for row in rows],
        "labels": labels,
        "probabilities": result["probabilities"],
    }
    with atomic(path) as part, open(part, "wb") as file:
        np.savez_compressed(file, **arrays)


def write_features(result, labels, path):
    """An .npz of ids, true labels, label texts, and what the model compares, float32.

    Of PeVL: video and pose (clips, e), pose_frames (clips, T, e), each the mean over the views and
    NaN for broken clips; sentences (K, e), words (K, W, e), word_mask (K, W).
    """
    with atomic(path) as part, open(part, "wb") as file:
        np.savez_compressed(file,
                            id=[row["id"] for row in result["predictions"]],
                            label=[row["label"] for row in result["predictions"]],
                            labels=labels,
                            **result["features"])


def write_classes(result, labels, path):
    """A CSV with a row for each label that has clips, worst first: see metrics.class_rows."""
    rows = class_rows(result["predictions"], labels)
    text = io.StringIO()
    columns = ("label", "clips", "right", "accuracy", "low", "high", "taken_for")
    table = csv.DictWriter(text, columns)
    table.writeheader()
    for row in rows:
        table.writerow(row)
    with atomic(path) as part:
        part.write_text(text.getvalue(), encoding="utf-8")


# What of a result is arrays, and goes into files of its own.
ARRAYS = ("probabilities", "features")


def write_results(result, model, dataset, folder, about, device, strips=48):
    """Write what `eval.evaluate` found into `folder`, and say what was written.

    about: facts that go into the JSON too, with `split` and `views`, which name the files. strips:
    how many labels get a picture.
    """
    name = f"{about['split']}-{about['views']}view"
    labels = list(dataset.labels)

    plain = {}                                    # what JSON can hold
    for key, value in result.items():
        if key not in ARRAYS:
            plain[key] = value.tolist() if isinstance(value, torch.Tensor) else value
    plain["intervals"] = {}                       # 95 % over clips: metric -> [low, high]
    for metric, one in intervals_of(result).items():
        plain["intervals"][metric] = [one.low, one.high]
    write_classes(result, labels, folder / f"classes-{name}.csv")
    with atomic(folder / f"eval-{name}.json") as part:
        part.write_text(json.dumps({**about, "labels": labels, **plain}))

    title = (f"top-1 {100 * result['top1']:.1f} %, mean over classes {100 * result['mean']:.1f} %; "
             f"{result['clips']} clips, {about['split']} split")
    draw_confusion(result["confusion"], labels, folder / f"confusion-{name}.png", title)

    said = f"wrote into {folder}: eval-{name}.json, classes-{name}.csv, confusion-{name}.png"
    if "probabilities" in result:
        write_probabilities(result, labels, folder / f"probabilities-{name}.npz")
        said += f", probabilities-{name}.npz"
    if "features" in result:
        write_features(result, labels, folder / f"features-{name}.npz")
        said += f", features-{name}.npz"
    if strips:
        strips_folder = folder / f"strips-{about['split']}"
        number = draw_strips(model, dataset, result["predictions"], strips_folder, device, strips)
        said += f", {number} pictures in {strips_folder.name}/"
    print(said)
