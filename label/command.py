"""`eval.py --video`: what is printed of one video or of many, and the files that are left.

here         | what it does                                       | tests/test_label.py
label_videos | all of the command: a file, several, or a folder | test_a_folder_*
tell_answer  | one answer as lines of text                        | test_one_video_*
follow       | a long video: labels over time                     | test_long_video_*
write_table  | a CSV and a JSONL with a row for each video        | test_a_folder_*

The order is that of belief: which run answers, then whether there is a person at all, then what
makes the answer doubtful, and only then the labels.
"""
import csv
import io
import json
import math
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import numpy as np

from label.clips import duration, instants_of, windows
from pose import find_videos
from report.draw import draw_strip
from report.results import strip_of
from report.timeline import clock, draw_timeline
from support.files import atomic
from support.progress import Progress
from support.video import BROKEN

COLUMNS = ("video", "start", "end", "label", "probability", "second", "second_probability",
           "person", "doubts", "error")


def label_videos(cfg, labeller):
    """Label the files of `cfg.video`; returns a list of rows, one for each answer, as dicts.

    cfg: EvalConfig. A file that cannot be labelled is named and stops nothing, unless it is the
    only one, or none can be: then it is a ValueError or an OSError.
    """
    files = list(find_videos(cfg.video).values())
    if not files:
        raise ValueError(f"no video in {' '.join(map(str, cfg.video))}. Expected files of video, "
                         "such as .mp4. Check the folder.")
    if cfg.pose and len(files) > 1:
        raise ValueError(f"--pose {cfg.pose} beside {len(files)} videos. Expected one video with "
                         "it. Lay FILE.npz beside each FILE.mp4 instead.")

    print(labeller.origin)
    tell_labels(labeller)
    if not labeller.low:
        flag = ""
        if cfg.ckpt or cfg.row:
            flag = f" --ckpt {cfg.ckpt}" if cfg.ckpt else f" --row {cfg.row}"
        print("note: this run does not tell how similar its validation clips were to their labels, "
              f"so that a video unlike them is not noticed; `python eval.py{flag} --eval-split "
              "val` measures it")
    for doubt in labeller.text_doubts:
        print(f"warning: {doubt}")
    folder = Path(cfg.out or "out/videos")

    # One file at a time, so that what was answered is on the screen, and its picture on disk, when
    # a later one ends the run; a broken file among many is a row of the table like any other.
    rows = []
    progress = Progress("label", total=len(files), unit="videos", alone=False)
    for number, video in enumerate(files, 1):
        try:
            rows += label_one(cfg, labeller, video, folder)
        except BROKEN as error:
            if len(files) == 1:
                if isinstance(error, (OSError, ValueError)):
                    raise
                raise ValueError(f"{video}: {error}. Expected a whole video. Fetch it "
                                 "again.") from error
            print(f"broken: {video}: {error}")
            rows.append({"video": str(video), "error": str(error)})
        if len(files) > 1:
            progress.show(number)

    # A single file has told all of it above; a table is for many.
    if len(files) > 1:
        write_table(rows, folder)
        broken = [row["video"] for row in rows if row.get("error")]
        if len(broken) == len(files):             # then the fault is seldom the files'
            raise ValueError(f"none of {len(files)} videos could be labelled; of the first: "
                             f"{rows[0]['error']} Expected one at least. What each one lacks is in "
                             f"{folder / 'labels.csv'}.")
        print(f"{len(files) - len(broken)} videos labelled, {len(broken)} broken"
              + "".join(f"\n  {name}" for name in broken))
        print(f"wrote {folder / 'labels.csv'} and labels.jsonl")
    return rows


def tell_labels(labeller):
    """Say how many labels were never trained, and the first of them; nothing where all were."""
    new = labeller.never_trained
    if new:
        more = "; ..." if len(new) > 5 else ""
        print(f"{len(labeller.labels)} labels, {len(new)} of them never trained: "
              f"{'; '.join(new[:5])}{more}")


def label_one(cfg, labeller, video, folder):
    """One file: an answer, or labels over time with --every; its rows. Raises one of BROKEN."""
    if cfg.every:
        return follow(cfg, labeller, video, folder)

    # A video that is labelled whole is one span from 0 to infinity, which needs no reading of its
    # length: the sampler takes what there is.
    span = (cfg.start, cfg.end)
    dataset, facts, poses = labeller.open(video, [span], cfg.pose, cfg.views, cfg.extractor)
    answer = labeller.answer_clip(dataset, 0, cfg.average)
    labeller.complete(answer, facts, poses)
    print()
    for line in tell_answer(answer, cfg.topk):
        print(line)

    # The strip shows what the answer is made from: a wrong skeleton is seen there at once.
    said = f"{video.name}: {answer.label} ({100 * answer.probability:.0f} %)"
    strip = strip_of(labeller.model, dataset[0], dataset.joints, said, None, labeller.device)
    print(f"wrote {draw_strip([strip], folder / f'{video.stem}-strip.png')}")
    return [row_of(answer)]


def tell_person(answer):
    """Lines on where the joints are from, how much of a person they show, and what is doubtful."""
    lines = []
    if answer.person is not None:
        lines.append(f"{answer.poses}: {answer.person}")
    lines += [f"warning: {doubt}" for doubt in answer.doubts]
    return lines


def tell_answer(answer, topk):
    """An Answer as lines of text: file, person, doubts, the `topk` best labels, each similarity."""
    span = ""
    if answer.start or answer.end < math.inf:     # not the whole file
        until = "its end"
        if answer.end < math.inf:
            until = clock(answer.end)
        span = f", {clock(answer.start)} to {until}"
    lines = [f"{answer.video}{span}", *tell_person(answer)]

    for place, (label, share) in enumerate(answer.ranked[:topk], 1):
        lines.append(f"{place:>3}. {100 * share:5.1f} %  {label}")
    for name, (label, cosine) in answer.alone.items():
        lines.append(f"     {name} alone ({cosine:+.2f}): {label}")
    return lines


def row_of(answer):
    """An Answer as a row of the table: COLUMNS, and for the JSONL all that is there beside."""
    row = {"video": answer.video, "start": answer.start, "end": None}
    if answer.end < math.inf:                     # JSON has no infinity: None is the file's end
        row["end"] = answer.end
    row["label"] = answer.label
    row["probability"] = round(answer.probability, 6)

    # How near the runner-up is says more than the winner's share alone.
    if len(answer.ranked) > 1:
        second, share = answer.ranked[1]
        row["second"] = second
        row["second_probability"] = round(share, 6)
    if answer.person is not None:
        row["person"] = round(answer.person.present, 4)
    row["doubts"] = answer.doubts
    row["alone"] = {name: label for name, (label, _) in answer.alone.items()}
    return row


def follow(cfg, labeller, video, folder):
    """A long video: an answer for each window, printed as the spans in which one label wins.

    Leaves a picture and a CSV of all windows. Returns their rows.
    """
    # Without --window the windows touch and do not overlap. The length of a file is not in its
    # header in every format, so the instants of its frames are read from the packets.
    width = cfg.window or cfg.every
    end = min(cfg.end, duration(instants_of(video)))
    if not cfg.start < end:
        raise ValueError(f"--start {cfg.start} of {video}, which ends at {end:.1f} s. Expected an "
                         "earlier second. Change --start or --end.")
    spans = windows(cfg.start, end, cfg.every, width)
    dataset, facts, poses = labeller.open(video, spans, cfg.pose, cfg.views, cfg.extractor)

    # The joints were found once for the whole file; each window decodes its own frames.
    answers = []
    progress = Progress("label", total=len(spans), unit="windows")
    for index in range(len(spans)):
        answers.append(labeller.answer_clip(dataset, index, cfg.average))
        progress.show(index + 1)

    # What is doubtful about a window is in its row; here it is counted. The person is that of all
    # windows together.
    unlike = sum(bool(answer.doubts) for answer in answers)
    for answer in answers:
        labeller.complete(answer, facts, poses)
    print(f"{video}: {len(spans)} windows of {width:g} s, one each {cfg.every:g} s")
    if facts is not None:
        print(f"{poses}: {facts}")
        if facts.warning:
            print(f"warning: {facts.warning}")
    if unlike:
        print(f"warning: {unlike} of {len(spans)} windows are unlike the validation clips: see "
              "the CSV")

    for begin, stop, share, label in stretches(answers):
        print(f"  {clock(begin)} - {clock(stop)}  {100 * share:5.1f} %  {label}")

    rows = [row_of(answer) for answer in answers]
    picture = draw_timeline(spans, shares_of(answers, labeller.labels), labeller.labels,
                            folder / f"{video.stem}-labels.png",
                            f"{video.name}: {labeller.origin}")
    write_csv(rows, folder / f"{video.stem}-labels.csv")
    print(f"wrote {picture} and {video.stem}-labels.csv")
    return rows


def shares_of(answers, labels):
    """n answers -> (n, K) probabilities, in the order of the labels."""
    # An Answer is ranked, the best first, and each window has an order of its own: a picture with
    # one line for a label needs a fixed column for it.
    shares = np.zeros((len(answers), len(labels)))
    for n, answer in enumerate(answers):
        share_of = dict(answer.ranked)
        for k, label in enumerate(labels):
            shares[n, k] = share_of[label]
    return shares


def stretches(answers):
    """Stretches of time in which one label wins: (start, end, mean probability, label) each.

    answers: those of the windows, by time. Windows may overlap; a stretch ends where the next one
    begins, so that they do not.
    """
    # groupby joins neighbours alone: a label that comes back later begins a stretch of its own.
    found = []
    for label, group in groupby(answers, key=attrgetter("label")):
        run = list(group)
        share = float(np.mean([answer.probability for answer in run]))
        found.append([run[0].start, run[-1].end, share, label])
    for before, after in zip(found, found[1:]):
        before[1] = after[0]
    return [tuple(one) for one in found]


def write_csv(rows, path):
    """Rows as a CSV of COLUMNS; several doubts are one cell."""
    # Written in memory first: a CSV is small, and a file under its name is whole or not there.
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
    table.writeheader()
    for row in rows:
        table.writerow({**row, "doubts": "; ".join(row.get("doubts", ()))})
    with atomic(path) as part:
        part.write_text(text.getvalue(), encoding="utf-8")


def write_table(rows, folder):
    """labels.csv and labels.jsonl in `folder`, a row for each answer and each broken file."""
    write_csv(rows, folder / "labels.csv")
    with atomic(folder / "labels.jsonl") as part:
        part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
