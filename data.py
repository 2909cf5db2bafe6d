"""Benchmarks: where the clips are, what they are called, and how a clip becomes tensors.

A registry row per data set reads its official annotation files into one index (clip, video, label,
span). `Clips` decodes only the frames that are needed, ties them to the pose clip by time, and
augments frames and joints with one draw. The toy benchmark writes itself to disk in Diving48's own
layout. This file knows pose files (pose.py) and never a model.

    paper             | what                                 | here             | tests/test_data.py
    Sec. 4, data sets | official files -> clips, labels      | DATASETS, read_* | test_reads_*
    Sec. 4, settings  | T pose frames, Tv of them with video | sample_instants  | test_nested_*
    Sec. 4, settings  | training crop, flip; 3 test crops    | train_view, place| test_joint_*
    -                 | only the frames that are needed      | decode           | test_decode_*
    -                 | broken clips: replaced, named        | Clips            | test_fault_*

Letters: T pose frames, Tv video frames (Tv divides T), J joints, K classes, S side of the square
crop, R test views. Launch: `python data.py layout NAME` prints the folders that a data set needs,
`python data.py check NAME --root DIR [--full]` says what is wrong with a download.
"""
import contextlib
import csv
import gc
import json
import math
import os
import re
import sys
import textwrap
import time
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Callable, Literal, NamedTuple

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from PIL import Image

from pose import JOINT_SETS, joint_set, read_pose
from support.checks import unknown_name
from support.settings import build_configs
from toy.divers import make_toy

# ------------------------------------------------------------------------------- reading an index


class Clip(NamedTuple):
    """One clip. `start` and `end` cut it out of a longer file, in seconds ("s") or frames ("f")."""
    id: str
    path: str
    label: int
    start: float = 0.0
    end: float = math.inf
    unit: str = "s"
    pose: str = ""            # name of a pose file that covers the whole video file, not this clip


@dataclass(frozen=True)
class Benchmark:
    """One row of DATASETS: everything that is particular to a data set."""
    title: str
    read: Callable            # (root, cfg, split) -> label texts, clips
    classes: int              # 0: as many as the files name
    prompt: str               # the paper's text around a label
    metrics: tuple            # what the papers report; the first one chooses the best checkpoint
    splits: dict              # train, val, test -> the data set's own name
    variant: str              # the DataConfig field that chooses among versions, "": there is one
    counts: dict              # variant -> official number of clips of each own split, if published
    layout: str               # files to fetch and where they go, as a tree
    paper: str = ""           # the counts that the paper gives
    joints: str = "coco17"    # the joint set when no pose file is there to tell


def need(path, name):
    """`path` when it is there; otherwise the error that says how to get it."""
    if not path.exists():
        raise FileNotFoundError(
            f"{name}: there is no {path}. Expected the files as published. `python data.py layout "
            f"{name}` prints the tree; --root DIR says where it is.")
    return path


def bad_line(path, number, line, expected, what="line"):
    return ValueError(f"{path}, {what} {number}: cannot use {str(line)[:80]!r}. Expected "
                      f"{expected}. Correct it or fetch the file again.")


def parse(path, name, pattern, expected, good=lambda found, before: True):
    """The matches of all lines that are not empty, in a list; another line is an error."""
    matches = []
    for number, line in enumerate(need(path, name).read_text("utf-8-sig").splitlines(), 1):
        found = re.fullmatch(pattern, line.strip())
        if line.strip() and not (found and good(found, len(matches))):
            raise bad_line(path, number, line, expected)
        matches += [found] if line.strip() else []
    return matches


def read_json(path, name):
    try:
        return json.loads(need(path, name).read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: no JSON file ({error}). Expected the original. Fetch it again.")


ENDINGS = {".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v"}


def videos(root, name, *folders):
    """{path inside its folder, without ending: path} of all videos; an earlier folder wins."""
    there = [root / folder for folder in folders if (root / folder).is_dir()]
    found = {}
    for folder in reversed(there or [need(root / folders[0], name)]):
        for path, _, files in os.walk(folder, followlinks=True):
            inside = (os.path.relpath(path, folder).replace(os.sep, "/") + "/").removeprefix("./")
            for file in files:
                dot = file.rfind(".")
                if file[dot:].lower() in ENDINGS:
                    found[inside + file[:dot]] = f"{path}/{file}"
    return found


def camel(name):
    """A class name in words: "HandstandPushups" -> "Handstand Pushups", "sit_up" -> "sit up"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.replace("_", " "))


# ------------------------------------------------------------------------------- the data sets


def diving_text(tokens):
    """["Back", "15som", "05Twis", "FREE"] -> "Back, 1.5 somersaults, 0.5 twist, free position"."""
    words = {"NoTwis": "no twist", "FREE": "free position", "PIKE": "pike position",
             "TUCK": "tuck position", "STR": "straight position"}
    text = [tokens[0]]
    for token in tokens[1:]:
        count = re.fullmatch(r"(\d)(\d?)(som|Twis)", token)            # a second digit is a half
        if count:
            number = count[1] + (f".{count[2]}" if count[2] else "")
            kind = "somersault" if count[3] == "som" else "twist"
            text.append(f"{number} {kind}" + "s" * (float(number) > 1))
        else:
            text.append(words.get(token, token.lower()))
    return ", ".join(text)


def read_diving48(root, cfg, split):
    labels = [diving_text(tokens) for tokens in read_json(root / "Diving48_vocab.json", cfg.data)]
    path = root / f"Diving48_{'' if cfg.variant == 'v1' else 'V2_'}{split}.json"
    files, clips, known = videos(root, cfg.data, "rgb", "videos"), [], range(len(labels))
    for number, entry in enumerate(read_json(path, cfg.data), 1):
        # start_frame and end_frame are not used: the files are cut to them already
        name, label = map(entry.get if isinstance(entry, dict) else str, ("vid_name", "label"))
        if not isinstance(name, str) or label not in known:
            raise bad_line(path, number, entry, f"vid_name and a label 0..{known[-1]}", "entry")
        clips.append(Clip(name, files.get(name, f"{root}/rgb/{name}.mp4"), label))
    return labels, clips


def read_gym(root, cfg, split):
    """FineGym. Ids are cut by width, since a YouTube id may hold "_" and begin with "E-"."""
    labels = [found[2].strip() for found in parse(
        root / f"{cfg.data}_categories.txt", cfg.data,
        r"Clabel:\s*(\d+);\s*set:\s*\d+;\s*Glabel:\s*\d+;(.*)",
        "'Clabel: N; set: N; Glabel: N; text' with N from 0 up", lambda f, n: int(f[1]) == n)]
    path = root / f"{cfg.data}_{split}_element{'_' + cfg.variant if split == 'train' else ''}.txt"
    files, clips, events = videos(root, cfg.data, "subactions", "events", "videos"), [], None
    for found in parse(path, cfg.data, r"(\S{11}_E_\d{6}_\d{6}_A_\d{4}_\d{4})\s+(\d+)",
                       f"'<video>_E_000000_000000_A_0000_0000 label', label 0..{len(labels) - 1}",
                       lambda found, _: int(found[2]) < len(labels)):
        name, start, end = found[1], 0.0, math.inf
        source = files.get(name) or files.get(name[:27]) or files.get(name[:11])
        if source and name not in files:          # cut it out of its event, or of the whole video
            info = root / f"finegym_annotation_info_{cfg.variant}.json"
            events = events or read_json(info, cfg.data)
            event, start, end = gym_span(events, name)
            if name[:27] not in files:
                start, end = event + start, event + end
        source = source or f"{root}/subactions/{name}.mp4"
        clips.append(Clip(name, source, int(found[2]), start, end))
    return labels, clips


def gym_span(events, name):
    """-> the event's start, a clip's start and end in it; unlisted: the whole seconds of its id."""
    event = (events.get(name[:11]) or {}).get(name[12:27]) or {}
    stages = ((event.get("segments") or {}).get(name[28:]) or {}).get("timestamps")
    start = int(name[30:34])                      # a vault has several stages
    stages = stages or [[start, max(int(name[35:39]), start + 1)]]
    begin = (event.get("timestamps") or [[int(name[14:20])]])[0][0]
    return float(begin), float(stages[0][0]), float(stages[-1][1])


def read_haa500(root, cfg, split):
    """The split is the number in a clip's name, never its place in a folder."""
    wanted = {"train": range(16), "val": range(16, 17), "test": range(17, 20)}[split]
    files = videos(root, cfg.data, "video", "haa500_v1_1/video")
    lists = sorted((root / "annotations").glob("*.txt"))
    line = r"[^,]+(,[\d.]+){2}(,\d+){2}", "'url,start,end,camera moves,figures'"
    listed = [f"{path.stem}/{path.stem}_{number:03d}" for path in lists
              for number, _ in enumerate(parse(path, cfg.data, *line))]
    if not lists:                                 # without the lists, what is there is the index
        listed = sorted(file for file in files if re.fullmatch(r"([^/]+)/\1_\d{3}", file))
    names = sorted({file.split("/")[0] for file in listed})
    index = {name: i for i, name in enumerate(names)}
    clips = [Clip(file.split("/")[1], files.get(file, f"{root}/video/{file}.mp4"),
                  index[file.split("/")[0]]) for file in listed if int(file[-3:]) in wanted]
    return [camel(name) for name in names], clips


SMARTHOME = {  # class -> text, by hand: the names are run together; +: in the camera protocols
    "Cook.Cleandishes": "clean dishes", "Cook.Cleanup": "clean up the kitchen",
    "Cook.Cut": "cut food", "Cook.Stir": "stir food", "Cook.Usestove": "use the stove",
    "Cutbread": "+cut bread", "Drink.Frombottle": "+drink from a bottle",
    "Drink.Fromcan": "+drink from a can", "Drink.Fromcup": "+drink from a cup",
    "Drink.Fromglass": "+drink from a glass", "Eat.Attable": "+eat at the table",
    "Eat.Snack": "+eat a snack", "Enter": "+enter the room", "Getup": "+get up",
    "Laydown": "lie down", "Leave": "+leave the room", "Makecoffee.Pourgrains":
    "make coffee, pour grains", "Makecoffee.Pourwater": "make coffee, pour water",
    "Maketea.Boilwater": "make tea, boil water", "Maketea.Insertteabag": "make tea, insert tea bag",
    "Pour.Frombottle": "+pour from a bottle", "Pour.Fromcan": "+pour from a can",
    "Pour.Fromkettle": "pour from a kettle", "Readbook": "+read a book", "Sitdown": "+sit down",
    "Takepills": "+take pills", "Uselaptop": "+use a laptop", "Usetablet": "+use a tablet",
    "Usetelephone": "+use a telephone", "Walk": "+walk", "WatchTV": "watch TV"}


def read_smarthome(root, cfg, split):
    """No annotation file: class, subject and camera are in the name."""
    subjects, clips = cfg.variant == "cs", []
    names = [name for name, text in SMARTHOME.items() if subjects or text[0] == "+"]
    cameras = {"train": "1" if cfg.variant == "cv1" else "13467", "val": "5", "test": "2"}[split]
    for file, path in sorted(videos(root, cfg.data, "mp4").items()):
        found = re.fullmatch(r"(?:.*/)?(([A-Za-z.]+)_p(\d+)_r\d+_v\d+_c0(\d))", file)
        if not found or found[2] not in SMARTHOME:
            raise ValueError(f"{path}: this is no clip's name. Expected <class>_p00_r00_v00_c00, a "
                             "class of data.SMARTHOME. Rename it or move it away.")
        trains = int(found[3]) in (3, 4, 6, 7, 9, 12, 13, 15, 17, 19, 25)
        inside = trains == (split == "train") if subjects else found[4] in cameras
        if inside and found[2] in names:
            clips.append(Clip(found[1], path, names.index(found[2])))
    return [SMARTHOME[name].lstrip("+") for name in names], clips


def k400_rows(root, *names):
    """(label, YouTube id, start, end) of the first of these csv files that is there."""
    places = [folder / name for name in names for folder in (root, root / "annotations")]
    path = need(next(filter(Path.exists, places), places[0]), "k400")
    with open(path, newline="", encoding="utf-8") as file:
        table = csv.reader(file)
        header, wanted = next(table, []), ("label", "youtube_id", "time_start", "time_end")
        if not set(wanted) <= set(header):
            raise bad_line(path, 1, ",".join(header), "the header " + ",".join(wanted))
        pick = itemgetter(*map(header.index, wanted))
        for row in table:
            try:
                label, video, start, end = pick(row)
                yield sys.intern(label), video, int(start), int(end)
            except (ValueError, IndexError):
                raise bad_line(path, table.line_num, row, "label,id,start s,end s") from None


def read_k400(root, cfg, split):
    """A trimmed video is found by its name or id; a whole one in raw/ is cut while decoding."""
    tables = ("train.csv",) if split == "train" else ("val.csv", "validate.csv")
    rows = list(k400_rows(root, *tables))
    labels = {row[0] for row in rows}
    if any((root / folder / "train.csv").exists() for folder in ("", "annotations")):
        labels |= {row[0] for row in k400_rows(root, "train.csv")} if split == "val" else set()
    number = {label: i for i, label in enumerate(sorted(labels))}
    files = videos(root, cfg.data, split, f"{split}_256", f"videos_{split}", "videos", "raw")
    files = {name.rpartition("/")[2]: path for name, path in files.items()}
    by_id, raw, clips = {name[:11]: path for name, path in files.items()}, f"{root}/raw/", []
    for label, video, start, end in rows:
        name = "%s_%06d_%06d" % (video, start, end)           # a hot loop: quicker than an f-string
        path = files.get(name) or by_id.get(video) or f"{root}/{split}/{name}.mp4"
        span = (start, end) if path.startswith(raw) else ()
        clips.append(Clip(name, path, number[label], *span))
    return list(number), clips


def read_ucf101(root, cfg, split):
    """The class is the folder of a video: HandstandPushups/v_HandStandPushups_g01_c01.avi."""
    lists, files = root / "ucfTrainTestlist", videos(root, cfg.data, "UCF-101", "videos")
    labels = [found[2] for found in parse(
        lists / "classInd.txt", cfg.data, r"(\d+)\s+(\w+)", "'N ClassName' with N from 1 up",
        lambda found, before: int(found[1]) == before + 1)]
    rows = parse(lists / f"{split}list0{cfg.split}.txt", cfg.data, r"((\w+)/(\S+))\.avi(\s+\d+)?",
                 "'ClassName/video.avi', a class of classInd.txt", lambda row, _: row[2] in labels)
    clips = [Clip(row[3], files.get(row[1], f"{root}/UCF-101/{row[1]}.avi"), labels.index(row[2]))
             for row in rows]
    return [camel(label) for label in labels], clips


def read_hmdb51(root, cfg, split):
    lists, ending = root / "testTrainMulti_7030_splits", f"_test_split{cfg.split}.txt"
    names = sorted(path.name[:-len(ending)] for path in need(lists, cfg.data).glob("*" + ending))
    files, clips, code = videos(root, cfg.data, "hmdb51_org", "videos"), [], "12"[split == "test"]
    for label, action in enumerate(names):
        for found in parse(lists / (action + ending), cfg.data, r"(.+)\.avi\s+([012])",
                           "'video.avi' and 1 (train), 2 (test) or 0 (not in this split)"):
            if found[2] == code:
                file = f"{action}/{found[1]}"
                file = files.get(file, f"{root}/hmdb51_org/{file}.avi")
                clips.append(Clip(found[1], file, label))
    return [camel(name) for name in names], clips


def read_custom(root, cfg, split):
    """Your own videos, in one csv: paths from its folder, times in seconds or frames (48f)."""
    path = Path(cfg.root) if cfg.root.endswith(".csv") else root / "clips.csv"
    clips, span = {part: [] for part in ALL_THREE}, re.compile(r"(\d+\.?\d*|\.\d+)?(f?)")
    with open(need(path, cfg.data), newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        if not {"path", "label", "split"} <= set(table.fieldnames or ()):
            raise bad_line(path, 1, table.fieldnames, "the header path,label,split[,start,end]")
        for row in table:
            edges = [span.fullmatch((row.get(edge) or "").strip()) for edge in ("start", "end")]
            start, end = (float(e[1] or (0, math.inf)[k]) if e else -1 for k, e in enumerate(edges))
            if not (row["path"] and row["label"] and row["split"] in clips and 0 <= start < end):
                raise bad_line(path, table.line_num, list(row.values()), "a path, a label, a split "
                               "(train, val, test), and start < end in seconds or frames (48f)")
            name, unit = os.path.splitext(row["path"])[0], "f" if any(e[2] for e in edges) else "s"
            cut = "" if (start, end) == (0, math.inf) else f"_{row['start']}_{row['end']}"
            video, pose = str(path.parent / row["path"]), os.path.basename(name)
            clips[row["split"]] += [Clip(name + cut, video, row["label"], start, end, unit, pose)]
    labels = sorted({clip.label for part in clips.values() for clip in part})
    if not clips[split] and split != "train":
        split = {"val": "test", "test": "val"}[split]
        print(f"note: {path} has no clips of that split; its {split} split stands in.")
    return labels, [clip._replace(label=labels.index(clip.label)) for clip in clips[split]]


TRAIN_TEST = {"train": "train", "val": "test", "test": "test"}
TRAIN_VAL = {"train": "train", "val": "val", "test": "val"}
ALL_THREE = {"train": "train", "val": "val", "test": "test"}
POSES = "poses/<clip id>.npz           python pose.py extract, or import: see Poses"
GYM_LAYOUT = """\
{0}_categories.txt
{0}_train_element_v1.0.txt (or v1.1)  {0}_val_element.txt (for evaluation)
finegym_annotation_info_v1.0.json   only to cut events or whole videos
subactions/0LtLS9wROrk_E_002407_002435_A_0003_0005.mp4    or
events/0LtLS9wROrk_E_002407_002435.mp4                    or
videos/0LtLS9wROrk.mp4           from YouTube
""" + POSES
DIVING = Benchmark(
    "Diving48, 48 kinds of competitive dives", read_diving48, 48, "{}, a video of diving action",
    ("top1", "top5", "mean"), TRAIN_TEST, "version",
    {"v2": {"train": 15027, "test": 1970}, "v1": {"train": 15943, "test": 2048}}, """\
Diving48_vocab.json
Diving48_V2_train.json  Diving48_V2_test.json    (V1: Diving48_train.json, Diving48_test.json)
rgb/-mmq0PT-u8k_00155.mp4     Diving48_rgb.tar.gz; videos/ is read too
""" + POSES, "The paper's 15.9K / 2K are the counts of V1; what it is compared with used V2.")
GYM99 = Benchmark(
    "FineGym's Gym99, 99 gymnastic elements", read_gym, 99, "{}, a video of gymnastic action",
    ("top1", "mean"), TRAIN_VAL, "version",
    {"v1.0": {"train": 20484, "val": 8521}, "v1.1": {"train": 26320, "val": 8521}},
    GYM_LAYOUT.format("gym99"), "The paper's 20k / 8.5k are version 1.0.")

DATASETS = {
    "toy": Benchmark(
        "the toy benchmark, procedural divers that are made on first use", read_diving48, 16,
        DIVING.prompt, DIVING.metrics, ALL_THREE, "", {}, DIVING.layout),
    "diving48": DIVING,
    "gym99": GYM99,
    "gym288": Benchmark(
        "FineGym's Gym288, 288 elements with a long tail", read_gym, 288, GYM99.prompt,
        GYM99.metrics, TRAIN_VAL, "version", {"v1.0": {"train": 22671, "val": 9646}, "v1.1":
        {"val": 9646}}, GYM_LAYOUT.format("gym288"), "The paper's 23k / 9.6k are version 1.0."),
    "haa500": Benchmark(
        "HAA500, 500 atomic human actions", read_haa500, 500, "{}, a video of action",
        DIVING.metrics, ALL_THREE, "", {"": {"train": 8000, "val": 500, "test": 1500}}, """\
video/abseiling/abseiling_000.mp4     haa500_v1_1.zip
annotations/abseiling.txt             optional: the 500 lists of its repository
""" + POSES, "The paper says 8k / 500 / 1.5k."),
    "smarthome": Benchmark(
        "Toyota-Smarthome (trimmed), 31 activities of daily living", read_smarthome, 31,
        "{}, a video of action", ("mean", "top1"), ALL_THREE, "protocol",
        {"cs": {"train": 10682, "test": 5433}, "cv1": {}, "cv2": {}}, """\
mp4/Cook.Cleandishes_p02_r00_v02_c03.mp4      class, subject, repeat, view, camera
poses/Cook.Cleandishes_p02_r00_v02_c03.npz    python pose.py import smarthome""",
        "The paper says 16.1k clips.", "smarthome13"),
    "k400": Benchmark(
        "Kinetics-400", read_k400, 400, "{}, a video of action", DIVING.metrics, TRAIN_VAL, "",
        {"": {"train": 246534, "val": 19906}}, """\
train.csv  val.csv (or validate.csv)      here or in annotations/
train/<class>/<id>_000059_000069.mp4      and val/, with or without class folders, or
raw/<id>.mp4                              whole videos, cut while decoding
""" + POSES),
    "ucf101": Benchmark(
        "UCF-101", read_ucf101, 101, "{}, a video of action", DIVING.metrics, TRAIN_TEST, "split",
        {"1": {"train": 9537, "test": 3783}, "2": {"train": 9586, "test": 3734},
         "3": {"train": 9624, "test": 3696}}, """\
ucfTrainTestlist/classInd.txt             UCF101TrainTestSplits-RecognitionTask.zip
ucfTrainTestlist/trainlist01.txt  testlist01.txt  ... 03.txt
UCF-101/<Class>/v_<Class>_g01_c01.avi     UCF101.rar
""" + POSES),
    "hmdb51": Benchmark(
        "HMDB-51", read_hmdb51, 51, "{}, a video of action", DIVING.metrics, TRAIN_TEST, "split",
        {number: {"train": 3570, "test": 1530} for number in "123"}, """\
testTrainMulti_7030_splits/<class>_test_split1.txt ... 3.txt      test_train_splits.rar
hmdb51_org/<class>/*.avi                                          hmdb51_org.rar, unpacked
""" + POSES),
    "custom": Benchmark(
        "your own videos", read_custom, 0, "{}, a video of action", DIVING.metrics, ALL_THREE, "",
        {}, """\
clips.csv                     path,label,split[,start,end]   (or --root FILE.csv)
<path>                        as written in the csv, from its folder
poses/<video's name>.npz      python pose.py extract"""),
}


# ------------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class DataConfig:
    """What to read and how to sample it. Defaults are the paper's (Sec. 4) or say "ours"."""
    data: Annotated[Literal[tuple(DATASETS)], "data set"] = "toy"
    root: Annotated[str, "folder of the data set, empty: data/<name>"] = ""
    poses: Annotated[str, "folder of the pose files, <clip id>.npz, empty: <root>/poses"] = ""
    version: Annotated[str, "diving48: v2 | v1; gym99, gym288: v1.0 | v1.1; empty: the first"] = ""
    protocol: Annotated[str, "smarthome: cs (subjects) | cv1 | cv2 (cameras), empty: cs"] = ""
    split: Annotated[int, "ucf101 and hmdb51: number of the official split, 1 to 3"] = 1
    prompt: Annotated[str, "text with {} for the label, empty: the data set's (Sec. 3.1)"] = ""
    pose_frames: Annotated[int, "T, pose frames of a clip (Sec. 4)"] = 48
    video_frames: Annotated[int, "Tv, video frames among them: divides T (Sec. 4)"] = 16
    image_size: Annotated[int, "S, side of the crop in pixels (Sec. 4: 224)"] = 224
    crop_area: Annotated[float, "smallest part of a frame that a training crop keeps (ours: most "
                                "joints stay inside; AIM 0.08)"] = 0.5
    flip: Annotated[bool, "mirror half of the clips in training, unless labels tell sides"] = True
    jitter: Annotated[float, "brightness, contrast, saturation of 1 +- this (ours; try 0.4)"] = 0.0
    joint_noise: Annotated[float, "training noise of joints, as a part of the frame (ours)"] = 0.0
    joint_drop: Annotated[float, "part of the joints that training hides (ours)"] = 0.0
    read_video: Annotated[bool, "decode videos; without, frames are black (pose-only rows)"] = True
    read_poses: Annotated[bool, "read pose files; without, joints are missing (video rows)"] = True
    allow_broken: Annotated[bool, "go on when more than 1 % of the clips cannot be read"] = False
    workers: Annotated[int, "processes that decode beside the training process, 0: none"] = 2
    seed: Annotated[int, "of everything random"] = 0

    def __post_init__(self):
        if self.data not in DATASETS:
            raise unknown_name("data set", self.data, DATASETS)
        if self.entry.variant and self.variant not in self.entry.counts:
            raise unknown_name(f"{self.entry.variant} of {self.data}", self.variant, self.entry.counts)
        if not 0 < self.video_frames <= self.pose_frames or self.pose_frames % self.video_frames:
            raise ValueError(f"{self.video_frames} video frames of {self.pose_frames} pose frames. "
                             "Expected a divisor. Try --pose-frames 48 --video-frames 16.")
        if not 0 < self.crop_area <= 1:
            raise ValueError(f"--crop-area {self.crop_area}. Expected a part in (0, 1]. Try 0.5.")
        if "{}" not in (self.prompt or "{}"):
            raise ValueError(f"--prompt {self.prompt!r}. Expected {{}} for the label. Try '{{}}'.")

    @property
    def entry(self):
        return DATASETS[self.data]

    @property
    def variant(self):
        """The chosen version, protocol or split number: a key of the registry row's counts."""
        chosen = getattr(self, self.entry.variant) if self.entry.variant else ""
        return str(chosen or next(iter(self.entry.counts), ""))

    @property
    def folder(self):
        root = Path(self.root or f"data/{self.data}")
        return root.parent if root.suffix == ".csv" else root

    def own_split(self, split):
        """train, val or test -> what the data set calls the split that plays this part."""
        if split not in ALL_THREE:
            raise unknown_name("split", split, ALL_THREE)
        return (TRAIN_TEST if self.variant == "cs" else self.entry.splits)[split]


# ------------------------------------------------------------------------------- decoding


def _packets(container, stream, clip):
    """The compressed packets that a clip can need, in file order; the times of all their frames
    (ticks, ascending); which of these belong to the clip (a range). Nothing is decoded."""
    tick, packets, jump = float(stream.time_base), [], container.format.name != "avi"
    start, end = (clip.start, clip.end) if clip.unit == "s" else (0, math.inf)
    origin = stream.start_time or 0
    if start and jump:                            # to a key frame; a second early: B-frames
        container.seek(max(int(origin + (start - 1) / tick), origin), stream=stream)
    for packet in container.demux(stream):
        if packet.size:
            packets.append(packet)
            if packet.dts is not None and (packet.dts - origin) * tick > end + 1:
                break
    promised = stream.frames if (clip.start, clip.end) == (0, math.inf) else 1
    if len(packets) < max(0.9 * promised - 1, 1):
        raise ValueError(f"truncated: {len(packets)} of {max(promised, 1)} frames are there")
    ticks = np.array(sorted(next(at for at in (p.pts, p.dts, i) if at is not None)
                            for i, p in enumerate(packets) if not p.is_discard))
    if clip.unit == "s":                          # a rounded second still means its frame
        seconds = (ticks - (origin if start and jump else ticks[0])) * tick
        inside = range(*np.searchsorted(seconds, [start - 1e-3, end - 1e-3]))
    else:
        inside = range(len(ticks))[int(clip.start):None if clip.end == math.inf else int(clip.end)]
    if not inside:
        raise ValueError(f"no frame between {clip.start:g} and {clip.end:g} {clip.unit} in "
                         f"{len(ticks)} frames")
    return packets, ticks, inside


def _by_key_frames(context, packets, wanted):
    """Frames of the wanted times: from each one's key frame on, past frames that none needs."""
    keys = [i for i, packet in enumerate(packets) if packet.is_keyframe] or [0]
    times, runs = [packets[i].pts for i in keys], {}
    for i, packet in enumerate(packets):
        if packet.pts in wanted:
            runs[keys[max(bisect_right(times, packet.pts) - 1, 0)]] = i + 1
    for first, last in runs.items():
        for packet in packets[first:last]:
            context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            yield from ((frame.pts, frame) for frame in context.decode(packet))
        yield from ((frame.pts, frame) for frame in context.decode(None))
        context.flush_buffers()


def _decode_through(context, packets, ticks, exact, wanted):
    """Every frame in order of display, which is right even where the container's times are not; a
    wanted time without a frame of its own gets the next one, or the last."""
    context.skip_frame, pending, count, frame = "DEFAULT", sorted(wanted), 0, None
    for packet in packets + [None]:
        for frame in context.decode(packet):
            when = frame.pts if exact else ticks[min(count, len(ticks) - 1)]
            while pending and pending[0] <= when:
                yield pending.pop(0), frame
            count += 1
        if not pending:
            return
    if count < max(0.9 * len(ticks) - 1, 1):
        raise ValueError(f"truncated: {count} of {len(ticks)} frames can be decoded")
    yield from ((when, frame) for when in pending)


def decode(path, pick, plan, clip=Clip("", "", 0), threads=1):
    """The wanted frames of a clip, a list of uint8 (h, w, 3), and the instants (n,) of all frames.

    pick(instants (n,), seconds from the clip's first frame) -> indices of the wanted frames, in any
    order, repeats allowed; plan(H, W) -> (h, w), the size that a frame is converted to. Packets are
    read without decoding them, so that all times are known; a wanted frame then costs the reference
    frames since its key frame, and one conversion that resizes as well."""
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError("there is no video in it")
        stream, convert, frames = container.streams.video[0], VideoReformatter(), {}
        context = stream.codec_context
        context.thread_type, context.thread_count = "AUTO", threads
        packets, ticks, inside = _packets(container, stream, clip)
        own = ticks[inside.start:inside.stop]
        instants = (own - own[0]) * float(stream.time_base)
        wanted = own[np.asarray(pick(instants))].tolist()
        exact = container.format.name != "avi" and all(packet.pts is not None for packet in packets)

        def upright(frame):
            turns = round(frame.rotation / 90) % 4                     # quarter turns to the left
            h, w = plan(*(frame.height, frame.width)[::-1 if turns % 2 else 1])
            size = (h, w) if turns % 2 else (w, h)
            image = convert.reformat(frame, *size, "rgb24", threads=1).to_ndarray()
            return np.rot90(image, turns)

        if exact:
            for when, frame in _by_key_frames(context, packets, set(wanted)):
                if when in wanted and when not in frames:
                    frames[when] = upright(frame)
        if missing := set(wanted) - set(frames):
            context.flush_buffers()
            for when, frame in _decode_through(context, packets, ticks, exact, missing):
                frames[when] = upright(frame)
        return [frames[when] for when in wanted], instants


# ------------------------------------------------------------------------------- sampling, crops


def nested(T, Tv):
    """Places (Tv,) of the video frames among the T pose frames."""
    return (np.arange(Tv) * T + T // 2) // Tv


def sample_instants(instants, draws):
    """One moment in each of T equal parts of a clip; draws (T,) in [0, 1): where in its part.

    A frame stands for half a frame around its instant, so the first and last count in full."""
    T, length = len(draws), instants[-1] - instants[0]
    gap = length / max(len(instants) - 1, 1)
    return instants[0] - gap / 2 + (np.arange(T) + draws) / T * (length + gap)


def nearest(instants, moments):
    """Index of the instant (ascending) that is nearest to each moment."""
    return np.searchsorted((instants[1:] + instants[:-1]) / 2, moments)


class View(NamedTuple):
    size: tuple                                   # (h, w) to which frames are converted
    boxes: np.ndarray                             # (R, 4): x0, y0, x1, y1 of the crops in it
    flip: bool = False


def test_view(H, W, S, views):
    """Short side S, then the centre, or left, centre, right (top, middle, bottom when portrait)."""
    h, w = (max(S, round(side * S / min(H, W))) for side in (H, W))
    part = np.array([0.5]) if views == 1 else np.linspace(0, 1, views)
    corner = np.floor(part[:, None] * (w - S, h - S) + 0.5)
    return View((h, w), np.hstack([corner, corner + S]))


def train_view(H, W, S, draws, crop_area, flip):
    """A random resized crop: area in [crop_area, 1], ratio in [3/4, 4/3]; draws (5,) for area,
    ratio, x, y and flip."""
    area, ratio = H * W * (crop_area + (1 - crop_area) * draws[0]), (4 / 3) ** (2 * draws[1] - 1)

    def along(side, keep, place):
        """-> the size to convert to, and the two edges in it"""
        if keep < S:                              # enlarged later: cut exactly, at the video's size
            return side, place * (side - keep), place * (side - keep) + keep
        size = round(side * S / keep)             # reduced while converting: cut at whole pixels
        return size, round(place * (size - S)), round(place * (size - S)) + S

    w, x0, x1 = along(W, min(math.sqrt(area * ratio), W), draws[2])
    h, y0, y1 = along(H, min(math.sqrt(area / ratio), H), draws[3])
    return View((h, w), np.array([[x0, y0, x1, y1]], np.float64), bool(flip and draws[4] < 0.5))


def cut(image, box, S):
    """The box of an image (h, w, 3) as (S, S, 3)."""
    x0, y0, x1, y1 = box
    if (x1 - x0, y1 - y0) == (S, S) and x0 % 1 == y0 % 1 == 0:
        return image[int(y0):int(y1), int(x0):int(x1)]
    whole = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(whole.resize((S, S), Image.Resampling.BILINEAR, tuple(box)))


def place(keypoints, scores, size, view, flip_index):
    """Joints (T, J, 2), pixels of a frame of `size` -> (R, T, J, 2), -1 and 1 at a crop's edges.
    Pose files count from the centre of the first pixel, which lies half a pixel inside."""
    low, high = view.boxes[:, None, None, :2], view.boxes[:, None, None, 2:]
    scaled = (keypoints + 0.5) * np.divide(view.size[::-1], size[::-1])
    placed = (scaled - low) / (high - low) * 2 - 1
    if view.flip:
        placed, scores = (placed * (-1, 1))[:, :, flip_index], scores[:, flip_index]
    return placed, np.repeat(scores[None], len(placed), 0)


def tint(images, draws, amount):
    """Brightness, contrast and saturation of uint8 images, as one matrix of colours; draws (3,)."""
    bright, contrast, colour = 1 + amount * (2 * draws - 1)
    mix = colour * np.eye(3) + (1 - colour) * np.array([0.299, 0.587, 0.114])
    matrix = np.hstack([bright * contrast * mix, np.full((3, 1), 127.5 * (1 - contrast))]).ravel()
    return [np.asarray(Image.fromarray(x).convert("RGB", tuple(matrix))) for x in images]


# ------------------------------------------------------------------------------- clips as tensors

BROKEN = (OSError, ValueError, EOFError, av.FFmpegError)       # what a damaged file can raise


class Clips(torch.utils.data.Dataset):
    """A split as tensors. Item `index + epoch * len(self)` is a clip as that epoch sees it, a dict:

    frames uint8 (Tv, 3, S, S) RGB; keypoints float32 (T, J, 2), x and y in [-1, 1] of the crop,
    beyond when outside; scores float32 (T, J), 0 = missing; label, index int64; broken bool; error
    str. With train=False the first three have a leading axis of `views` crops. Everything random is
    drawn from (seed, epoch, index). A broken clip is replaced by one of its class in training; in
    evaluation it is black and without joints, to be counted as wrong."""

    def __init__(self, cfg, split, train, views=1):
        if cfg.data == "toy":
            make_toy(cfg.folder)
        self.cfg, self.train, self.views, self.metrics = cfg, train, views, cfg.entry.metrics
        self.split = cfg.own_split(split)
        if split == "val" and self.split == cfg.own_split("test"):
            print(f"note: {cfg.data} has no third split; {self.split} serves for validation too.")
        gc.disable()                              # it would search a growing index again and again
        try:
            self.labels, self.clips = cfg.entry.read(cfg.folder, cfg, self.split)
        finally:
            gc.enable()
        if not self.clips:
            raise ValueError(f"{cfg.data}: no {self.split} clips in {cfg.folder}. Expected one "
                             f"or more. Run `python data.py check {cfg.data} --root {cfg.folder}`.")
        self.texts = [(cfg.prompt or cfg.entry.prompt).replace("{}", text) for text in self.labels]
        sides = [text for text in self.labels if re.search(r"\b(left|right)\b", text, re.I)]
        self.flip = train and cfg.flip and not sides
        if train and cfg.flip and sides:
            print(f"note: no clip is mirrored, since labels tell left from right ({sides[0]!r}).")
        self.joints = self._first_joints()
        self.flip_index = joint_set(self.joints).flip_index
        self.by_label = {}
        for index, clip in enumerate(self.clips):
            self.by_label.setdefault(clip.label, []).append(index)

    def _first_joints(self):
        """Joint names of the first pose file that can be read: the data set's J."""
        for clip in self.clips[:1000] if self.cfg.read_poses else ():
            with contextlib.suppress(*BROKEN):
                return read_pose(self.pose_path(clip)).joints
        return JOINT_SETS[self.cfg.entry.joints].names

    def pose_path(self, clip):
        """<clip id>.npz; Kinetics' public pose files are called by the video's id alone."""
        path = Path(self.cfg.poses or self.cfg.folder / "poses") / f"{clip.pose or clip.id}.npz"
        if self.cfg.data == "k400" and not path.exists():
            return path.with_name(f"{clip.id[:11]}.npz")
        return path

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, number):
        epoch, index = divmod(int(number), len(self))
        rng, chosen, error = np.random.default_rng([self.cfg.seed, epoch, index]), index, ""
        for _ in range(50):
            try:
                item = self._load(self.clips[chosen], rng)
                break
            except BROKEN as reason:
                error = error or f"{self.clips[index].id}: {reason}"
            if not self.train:                    # black, without joints
                shape = (self.views, self.cfg.pose_frames, len(self.joints))
                item = self._tensors([[]] * self.views, np.zeros(shape + (2,)), np.zeros(shape))
                break
            same = self.by_label[self.clips[index].label]     # or any: a whole class may be lost
            chosen = int(rng.choice(same if rng.random() < 0.9 else len(self)))
        else:
            raise ValueError(f"{error}; nor can any of 50 replacements be read. Expected videos "
                             f"and poses. Run `python data.py check {self.cfg.data} --root DIR`.")
        facts = {"label": self.clips[chosen].label, "index": index, "broken": bool(error)}
        return item | {name: torch.tensor(fact) for name, fact in facts.items()} | {"error": error}

    def _load(self, clip, rng):
        cfg, S, views = self.cfg, self.cfg.image_size, []
        T, J = cfg.pose_frames, len(self.joints)
        draws = rng.random(T) if self.train else np.full(T, 0.5)
        where, colour = rng.random(5), rng.random(3)
        pose = read_pose(self.pose_path(clip)) if cfg.read_poses else None
        images, instants, size = [], None, pose.size if pose else (S, S)
        pick = lambda at: nearest(at, sample_instants(at, draws)[nested(T, cfg.video_frames)])

        def plan(H, W):                           # the first frame decides for all
            if not views:
                views.append(train_view(H, W, S, where, cfg.crop_area, self.flip) if self.train
                             else test_view(H, W, S, self.views))
            return views[0].size

        if cfg.read_video:
            threads = 1 if torch.utils.data.get_worker_info() else 2
            images, instants = decode(clip.path, pick, plan, clip, threads)
        plan(*size)
        keypoints, scores = np.zeros((T, J, 2)), np.zeros((T, J))
        if pose:
            rows, clock = tie(pose, clip, instants, self.joints)
            instants = clock if instants is None else instants
            at = rows[nearest(clock, sample_instants(instants, draws))]
            keypoints, scores = pose.keypoints[at].astype(np.float64), pose.scores[at]
            if self.train:
                keypoints += rng.normal(0, 1, keypoints.shape) * cfg.joint_noise * size[::-1]
                scores = np.where(rng.random(scores.shape) < cfg.joint_drop, 0, scores)
        crops = [[cut(image, box, S) for image in images] for box in views[0].boxes]
        placed = place(keypoints, scores, size, views[0], self.flip_index)
        return self._tensors(crops, *placed, views[0].flip, colour)

    def _tensors(self, crops, keypoints, scores, flip=False, colour=None):
        """R lists of Tv crops (none: black), (R, T, J, 2), (R, T, J) -> the item's tensors."""
        S = self.cfg.image_size
        frames = np.zeros((len(crops), self.cfg.video_frames, 3, S, S), np.uint8)
        for r, images in enumerate(crops):
            if self.train and self.cfg.jitter:
                images = tint(images, colour, self.cfg.jitter)
            for t, image in enumerate(images):
                frames[r, t] = (image[:, ::-1] if flip else image).transpose(2, 0, 1)
        item = {"frames": frames, "keypoints": keypoints.astype(np.float32),
                "scores": scores.astype(np.float32)}
        return {name: torch.from_numpy(x[0] if self.train else x) for name, x in item.items()}


def tie(pose, clip, instants, joints):
    """-> the rows (n,) of a pose file that belong to a clip, and their seconds on its clock.

    instants: those of the frames, None when no video was read. Known times must cover the clip;
    unknown ones are spread evenly, with a row for every frame or every second, third or fourth."""
    if pose.joints != joints:
        raise ValueError(f"joints {pose.joints[:3]}..., the first pose file has {joints[:3]}...")
    clock = pose.clock(np.arange(len(pose.times)) if instants is None else instants)
    rows, known = np.arange(len(clock)), not np.isnan(pose.times).any()
    if clip.pose and (known or clip.unit == "f"):             # the file covers the whole video
        inside = clock if clip.unit == "s" else rows
        rows = rows[(inside >= clip.start) & (inside < clip.end)]
        if not len(rows):
            raise ValueError(f"its pose file ends before {clip.start:g} {clip.unit}")
        clock = clock[rows] - clock[rows[0]]
    if instants is not None and len(rows) != len(instants):
        frames, step = len(instants), round(len(instants) / len(rows))
        even = 1 <= step <= 4 and abs(len(rows) * step - frames) <= max(0.1 * frames, 2 * step)
        gap = instants[-1] / max(frames - 1, 1)
        covers = abs(clock[-1] - instants[-1]) <= 0.1 * instants[-1] + 4 * gap
        if not (covers if known else even):
            raise ValueError(f"wrong pose length: {len(rows)} rows, {clock[-1]:.2f} s, beside "
                             f"{frames} frames, {instants[-1]:.2f} s")
    elif instants is not None:
        clock = instants                          # a row for every frame needs no clock
    return rows, clock


# ------------------------------------------------------------------------------- python data.py


def probe(dataset, clip):
    """What is wrong with a clip, "" if nothing, after its first and last frame and its pose."""
    try:
        instants = decode(clip.path, lambda at: [0, len(at) - 1], lambda H, W: (H, W), clip)[1]
        if os.path.exists(dataset.pose_path(clip)):           # missing ones are counted apart
            tie(read_pose(dataset.pose_path(clip)), clip, instants, dataset.joints)
    except BROKEN as error:
        return f"{clip.id}: {error}"
    return ""


def check_split(cfg, split, full):
    """Print the state of one split; True when training or evaluation on it would work."""
    dataset = Clips(cfg, split, False)
    clips, begun, wrong = dataset.clips, time.time(), []
    missing = [clip for clip in clips if not os.path.exists(clip.path)]
    there = sorted(set(clips) - set(missing))
    sample = there if full else there[::max(1, len(there) // 50)]
    with ThreadPoolExecutor(max(cfg.workers, 1)) as pool:
        for done, error in enumerate(pool.map(partial(probe, dataset), sample), 1):
            wrong += [error] if error else []
            if sys.stderr.isatty() or done % 1000 == 0:
                left = (time.time() - begun) / done * (len(sample) - done)
                print(f"  {done}/{len(sample)}, {left:.0f} s left", end="\r", file=sys.stderr)
    poseless = [clip for clip in clips
                if cfg.read_poses and not os.path.exists(dataset.pose_path(clip))]
    empty = [text for label, text in enumerate(dataset.labels) if label not in dataset.by_label]
    official = cfg.entry.counts.get(cfg.variant, {}).get(dataset.split, "not published")
    print(f"{dataset.split}: {len(clips)} clips listed (official: {official}), {len(there)} found, "
          f"{len(dataset.labels)} classes, {len(dataset.joints)} joints")
    for what, names in {"missing": [clip.path for clip in missing],
                        f"unreadable of {len(sample)} tried": wrong, "classes without clips": empty,
                        "without a pose file": [clip.id for clip in poseless]}.items():
        if names:
            print(f"  {len(names)} {what}: {', '.join(names[:5])}{', ...' * (len(names) > 5)}")
    lost = len({*missing, *poseless}) / len(clips) + len(wrong) / max(len(sample), 1)
    return lost <= 0.01 or cfg.allow_broken and lost < 1


def main(argv=None):
    def extra(parser):
        parser.add_argument("command", choices=["check", "layout"], help="what to do")
        parser.add_argument("name", help="data set: " + ", ".join(DATASETS))
        parser.add_argument("--full", action="store_true", help="check every clip, not 50 a split")
    (cfg,), ask = build_configs(argv, (DataConfig,), lambda ask: {"data": ask.name}, __doc__, extra)
    if ask.command == "layout":
        tree = textwrap.indent(cfg.entry.layout, "  ")
        print(f"{cfg.data}: {cfg.entry.title}\n\n{cfg.folder}/\n{tree}")
        return 0
    try:
        print(f"{cfg.data} {cfg.variant} in {cfg.folder}. {cfg.entry.paper}")
        own = {cfg.own_split(split): split for split in ALL_THREE}        # each of its splits once
        fine = [check_split(cfg, split, ask.full) for split in own.values()]
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("training would work" if all(fine) else "training would fail: more than 1 % of the clips "
          "are lost (--allow-broken goes on without them)")
    return 1 - all(fine)


if __name__ == "__main__":
    sys.exit(main())
