"""Annotation files of the benchmarks, as their authors publish them, read without trusting them.

Every reader turns a data set's files into the same two lists: the label texts, and the clips (id,
video, label number, span). A file of somebody else may be cut, edited by hand, saved in another
encoding or be something else altogether. So files are opened in one place, `read_text`, and three
functions stand on it that compare what they read with what the reader expects: `read_json` with a
shape, `read_lines` with a pattern, `read_table` with the names of columns. A reader cannot get at a
file without saying what must be in it, and whatever does not fit is an error that names the file
and the place, what was expected and what to do.

    paper             | what                          | here              | test_annotations.py
    Sec. 4, data sets | files -> label texts, clips   | read_<data set>   | test_reads_*
    Sec. 3.1, prompts | class codes -> words          | diving_text       | test_reads_diving48
    -                 | one clip with two labels      | read_index        | test_two_labels_*
    -                 | files that are something else | read_text, misfit | test_hostile_files.py

This is ground: of this project it imports support/shapes.py alone. `data.DATASETS` says which
reader is whose.
"""
import csv
import io
import json
import math
import os
import re
import reprlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from support.shapes import Maybe, misfit

# ------------------------------------------------------------------------------- what is read


class Clip(NamedTuple):
    """One clip. `start` and `end` cut it out of a longer file; by default it is the whole file."""
    id: str                   # its name in predictions, and that of its pose file
    path: str                 # the video, whether it is there or not
    label: int                # 0 .. K - 1, a place in the label texts
    start: float = 0.0        # first instant or frame that belongs to it
    end: float = math.inf     # first one that does not
    unit: str = "s"           # of start and end: "s" seconds, "f" frames
    pose: str = ""            # name of a pose file that covers the whole video file, not this clip


@dataclass(frozen=True)
class Source:
    """Which annotation files a reader is asked for."""
    name: str                 # of the data set, a key of data.DATASETS
    root: Path                # folder of the data set
    split: str                # the data set's own name of a split, such as "train" or "val"
    variant: str = ""         # version, protocol or number of an official split, as a text
    table: str = ""           # read_custom: the csv file, where it is not <root>/clips.csv


def bad_place(path, place, value, expected):
    """The ValueError for a value that cannot be used; `place` says where in the file it stands.

    Only the beginning of the value is shown: it may be a whole file, or nested a thousand deep.
    """
    shown = value if isinstance(value, str) else reprlib.repr(value)
    return ValueError(f"{path}, {place}: cannot use {shown[:80]!r}. Expected {expected}. "
                      "Correct it or fetch the file again.")


def need(path, name, kind="file"):
    """Give back `path` where a thing of that kind is there; otherwise say how to get it.

    kind: "file" or "folder". Only a regular file is a file: a pipe or a device could keep a reader
    waiting for ever. Raises FileNotFoundError.
    """
    if not path.exists():
        expected = {"toy": "the toy benchmark, which `python train.py` makes in data/toy",
                    "custom": "a table of your own, docs/videos.md"}
        raise FileNotFoundError(
            f"{name}: there is no {path}. Expected {expected.get(name, 'the files as published')}. "
            f"`python data.py layout {name}` prints the tree; --root DIR says where it is.")

    is_right = path.is_file() if kind == "file" else path.is_dir()
    if not is_right:
        raise FileNotFoundError(
            f"{name}: {path} is no {kind}. Expected the {kind} as published. `python data.py "
            f"layout {name}` prints the tree; --root DIR says where it is.")
    return path


# ------------------------------------------------------------------------------- opening a file


def read_text(path, name):
    """The text of an annotation file: the one place where such a file is opened.

    name: the data set, for the error. All published files are UTF-8 (most of them plain ASCII),
    some with a byte-order mark, which is dropped. Raises FileNotFoundError where there is no such
    file, ValueError where it cannot be read or is in another encoding.
    """
    try:
        content = need(path, name).read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}). Expected a file that this "
                         "account may read. Check its permissions and the disk.") from None

    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # An editor's "Unicode" is UTF-16; anything else is most often Latin-1.
        guess = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "Latin-1, or no text"
        raise ValueError(f"{path}: byte {error.start} is not UTF-8 ({guess}?). Expected a text in "
                         "UTF-8. Save it as UTF-8 or fetch the file again.") from None


class Line(NamedTuple):
    """One line of a text file that fits its pattern."""
    number: int               # counted from 1, empty lines included
    text: str                 # without blanks at its ends
    fields: tuple             # the groups of the pattern, None where one took no part


def read_lines(path, name, pattern, expected):
    """The lines of a text file that are not empty, as a list of `Line`.

    pattern: regular expression that the whole line must fit, without blanks at its ends.
    expected: what the pattern means, for the error. Raises ValueError at the first line that does
    not fit.
    """
    lines = []
    for number, text in enumerate(read_text(path, name).splitlines(), 1):
        text = text.strip()
        if not text:
            continue
        found = re.fullmatch(pattern, text, re.ASCII)
        if not found:
            raise bad_place(path, f"line {number}", text, expected)
        lines.append(Line(number, text, found.groups()))
    return lines


def read_table(path, name, columns, optional=()):
    """The rows of a csv file, as (number of the line, list of the cells of these columns).

    columns: names that the header must hold. optional: names that it may hold; a cell that is not
    there is an empty text. Other columns are ignored, and so are empty rows. Raises ValueError for
    a header without a column, a row that is too short, or a text that is no csv.
    """
    rows = csv.reader(io.StringIO(read_text(path, name), newline=""), strict=True)
    wanted = (*columns, *optional)
    expected = "the header " + ",".join(columns)
    if optional:
        expected += "[," + ",".join(optional) + "]"

    try:
        header = next(rows, [])
        for column in wanted:
            if header.count(column) > 1 or column in columns and column not in header:
                raise bad_place(path, "line 1", ",".join(header), expected)
        places = [header.index(column) if column in header else None for column in wanted]
        shortest = max(header.index(column) for column in columns) + 1

        for row in rows:
            if not row:
                continue
            if len(row) < shortest:
                raise bad_place(path, f"line {rows.line_num}", ",".join(row), ",".join(columns))
            cells = []
            for place in places:
                is_there = place is not None and place < len(row)
                cells.append(row[place] if is_there else "")
            yield rows.line_num, cells
    except csv.Error as error:
        # A quotation mark that is never closed, or a cell of over 131,072 characters.
        raise ValueError(f"{path}, line {rows.line_num}: this is no csv ({error}). Expected "
                         f"{expected} and rows of such cells. Correct it or fetch the file "
                         "again.") from None


def read_json(path, name, shape):
    """The value in a JSON file, once it has the shape that the reader counts on.

    shape: see `misfit`. Raises ValueError for a text that is no JSON, is nested too deeply, holds
    half a character (a lone surrogate), or is of another shape.
    """
    text = read_text(path, name)
    try:
        value = json.loads(text)

        # "\ud800" alone is half a character: such a text can neither be printed nor name a file.
        # The search comes first because hardly any file has such an escape, and writing takes time.
        if re.search(r"\\ud[89a-f]", text, re.IGNORECASE):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:             # UnicodeEncodeError is a ValueError
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path}: no JSON file ({reason}). Expected the original. Fetch it "
                         "again.") from None

    problem = misfit(value, shape)
    if problem:
        raise bad_place(path, problem.place, problem.value, problem.expected)
    return value


# ------------------------------------------------------------------------------- what readers share

VIDEO_ENDINGS = {".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v"}


def videos(source, *folders):
    """All videos of some folders of a data set: {path inside its folder, without ending: path}.

    Where two folders hold the same name, the earlier folder wins. Raises FileNotFoundError where
    none of them is there, ValueError for a file name that is not UTF-8.
    """
    there = [source.root / folder for folder in folders if (source.root / folder).is_dir()]
    if not there:
        there = [need(source.root / folders[0], source.name, "folder")]

    found = {}
    for folder in reversed(there):
        for path, _, files in os.walk(folder, followlinks=True):
            inside = os.path.relpath(path, folder).replace(os.sep, "/") + "/"
            inside = inside.removeprefix("./")    # the folder itself is "."
            for file in files:
                dot = file.rfind(".")
                if file[dot:].lower() in VIDEO_ENDINGS:
                    found[inside + file[:dot]] = f"{path}/{file}"

    # A name in another encoding reaches Python with halves of characters, which nothing can print.
    try:
        "".join(found).encode("utf-8")
    except UnicodeEncodeError as error:
        near = error.object[max(error.start - 40, 0):error.end + 40]
        raise ValueError(f"{source.root}: a video's name is not UTF-8, near {near!a}. Expected "
                         "names in UTF-8. Rename it or move it away.") from None
    return found


def camel(name):
    """A class name in words.

    >>> camel("HandstandPushups"), camel("sit_up")
    ('Handstand Pushups', 'sit up')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.replace("_", " "))


def read_index(reader, source):
    """Call a reader -> label texts (a list of K texts), clips (a list of `Clip`, maybe empty).

    This is the way in for data.py. It also tells of clips that have two labels. Of a published file
    that is said and not refused: its numbers are what others report on, with whatever is in it.
    """
    labels, clips = reader(source)

    label_of = {}
    doubtful = []
    for clip in clips:
        key = (clip.path, clip.start, clip.end)
        if label_of.setdefault(key, clip.label) != clip.label:
            doubtful.append(clip.id)
    if doubtful:
        print(f"note: {len(doubtful)} clips of {source.name}, {source.split}, are listed with two "
              f"labels: {', '.join(doubtful[:5])}.")
    return labels, clips


# ------------------------------------------------------------------------------- Diving48

DIVING_WORDS = {"NoTwis": "no twist", "FREE": "free position", "PIKE": "pike position",
                "TUCK": "tuck position", "STR": "straight position"}


def diving_text(tokens):
    """A dive's code in words; tokens: a list of texts, not empty, as in Diving48_vocab.json.

    >>> diving_text(["Back", "15som", "05Twis", "FREE"])
    'Back, 1.5 somersaults, 0.5 twist, free position'
    """
    text = [tokens[0]]
    for token in tokens[1:]:
        count = re.fullmatch(r"(\d)(\d?)(som|Twis)", token)
        if not count:
            text.append(DIVING_WORDS.get(token, token.lower()))
            continue

        whole, half, turn = count.groups()
        number = f"{whole}.{half}" if half else whole         # "15" means 1.5
        noun = "somersault" if turn == "som" else "twist"
        if float(number) > 1:
            noun += "s"
        text.append(f"{number} {noun}")
    return ", ".join(text)


def read_diving48(source):
    """Diving48, V1 or V2, and the toy benchmark, which is written in the same layout."""
    root = source.root
    vocabulary = root / "Diving48_vocab.json"
    labels = []
    for number, tokens in enumerate(read_json(vocabulary, source.name, [[str]]), 1):
        if not tokens:
            raise bad_place(vocabulary, f"entry {number}", tokens, "the words of a dive")
        labels.append(diving_text(tokens))

    version = "" if source.variant == "v1" else "V2_"
    path = root / f"Diving48_{version}{source.split}.json"
    files = videos(source, "rgb", "videos")
    clips = []
    # The files also hold start_frame and end_frame, which are not used: the videos are cut to them.
    for number, entry in enumerate(
            read_json(path, source.name, [{"vid_name": str, "label": int}]), 1):
        name = entry["vid_name"]
        if not 0 <= entry["label"] < len(labels):
            raise bad_place(path, f"entry {number}", entry,
                            f"vid_name and a label 0..{len(labels) - 1}")
        video = files.get(name, f"{root}/rgb/{name}.mp4")
        clips.append(Clip(id=name, path=video, label=entry["label"]))
    return labels, clips


# ------------------------------------------------------------------------------- FineGym

GYM_CATEGORY = r"Clabel:\s*(\d{1,9});\s*set:\s*\d+;\s*Glabel:\s*\d+;(.*)"
GYM_ELEMENT = r"(\S{11}_E_\d{6}_\d{6}_A_\d{4}_\d{4})\s+(\d{1,9})"

# The parts of finegym_annotation_info that are used: video -> event -> element -> its stages.
STAGES = Maybe([(float, float)])                  # (start, end) in seconds
GYM_EVENT = {"timestamps": STAGES, "segments": Maybe({str: Maybe({"timestamps": STAGES})})}
GYM_INFO = {str: Maybe({str: Maybe(GYM_EVENT)})}


def read_gym(source):
    """FineGym's Gym99 and Gym288: elements of gymnastics inside events inside YouTube videos.

    An element's file is taken where it is there, else it is cut out of its event's file, else out
    of the whole video. Ids are cut by width, since a YouTube id (11 characters) may itself hold
    "_" and begin with "E-": the id of the element is `name`, of its event name[:27], of its video
    name[:11].
    """
    name, root = source.name, source.root
    path = root / f"{name}_categories.txt"
    expected = "'Clabel: N; set: N; Glabel: N; text' with N from 0 up"
    labels = []
    for line in read_lines(path, name, GYM_CATEGORY, expected):
        number, text = line.fields
        if int(number) != len(labels):
            raise bad_place(path, f"line {line.number}", line.text, expected)
        labels.append(text.strip())

    version = f"_{source.variant}" if source.split == "train" else ""     # there is one test list
    path = root / f"{name}_{source.split}_element{version}.txt"
    expected = f"'<video>_E_000000_000000_A_0000_0000 label', label 0..{len(labels) - 1}"
    files = videos(source, "subactions", "events", "videos")
    events = None
    clips = []
    for line in read_lines(path, name, GYM_ELEMENT, expected):
        element, label = line.fields
        if int(label) >= len(labels):
            raise bad_place(path, f"line {line.number}", line.text, expected)

        if element in files:
            clips.append(Clip(id=element, path=files[element], label=int(label)))
            continue
        longer = files.get(element[:27]) or files.get(element[:11])
        if not longer:
            missing = f"{root}/subactions/{element}.mp4"
            clips.append(Clip(id=element, path=missing, label=int(label)))
            continue

        if events is None:                        # a large file, needed by those who cut alone
            info = root / f"finegym_annotation_info_{source.variant}.json"
            events = read_json(info, name, GYM_INFO)
        event_start, start, end = gym_span(events, element)
        if element[:27] not in files:             # out of the whole video: on the video's clock
            start += event_start
            end += event_start
        clips.append(Clip(id=element, path=longer, label=int(label), start=start, end=end))
    return labels, clips


def entry_of(table, key):
    """table[key], and {} where that is not there or null."""
    return table.get(key) or {}


def gym_span(events, name):
    """When an element happens -> the start of its event in the video, its own start and end in it.

    events: finegym_annotation_info. name: the element's id. All in seconds. An element that is not
    listed, or without times, gets the whole seconds that its id says, and at least one second.
    """
    video = entry_of(events, name[:11])
    event = entry_of(video, name[12:27])
    element = entry_of(entry_of(event, "segments"), name[28:])

    stages = element.get("timestamps")            # a vault has several, one after the other
    if not stages:
        start = int(name[30:34])
        end = max(int(name[35:39]), start + 1)
        stages = [[start, end]]

    event_times = event.get("timestamps") or [[int(name[14:20])]]
    return float(event_times[0][0]), float(stages[0][0]), float(stages[-1][1])


# ------------------------------------------------------------------------------- HAA500

HAA_LINE = r"[^,]+(?:,[\d.]+){2}(?:,\d+){2}"
HAA_NUMBERS = {"train": range(16), "val": range(16, 17), "test": range(17, 20)}


def read_haa500(source):
    """HAA500. The split is the number in a clip's name, never its place in a folder.

    The lists of its repository say which clips there are, one line a clip; without them, what is on
    the disk is the index.
    """
    root = source.root
    files = videos(source, "video", "haa500_v1_1/video")

    listed = []                                   # "<class>/<class>_000"
    lists = sorted((root / "annotations").glob("*.txt"))
    for path in lists:
        expected = "'url,start,end,camera moves,figures', at most 20 lines, one a clip"
        lines = read_lines(path, source.name, HAA_LINE, expected)
        if len(lines) > 20:
            raise bad_place(path, f"line {lines[20].number}", lines[20].text, expected)
        for number in range(len(lines)):
            listed.append(f"{path.stem}/{path.stem}_{number:03d}")
    if not lists:
        listed = sorted(file for file in files if re.fullmatch(r"([^/]+)/\1_\d{3}", file))

    names = sorted({file.split("/")[0] for file in listed})
    label_of = {name: label for label, name in enumerate(names)}
    clips = []
    for file in listed:
        name, clip_id = file.split("/")
        if int(clip_id[-3:]) in HAA_NUMBERS[source.split]:
            video = files.get(file, f"{root}/video/{file}.mp4")
            clips.append(Clip(id=clip_id, path=video, label=label_of[name]))
    return [camel(name) for name in names], clips


# ------------------------------------------------------------------------------- Toyota-Smarthome

# Class -> text, by hand: the names are run together, so no rule can part them.
SMARTHOME = {
    "Cook.Cleandishes": "clean dishes",
    "Cook.Cleanup": "clean up the kitchen",
    "Cook.Cut": "cut food",
    "Cook.Stir": "stir food",
    "Cook.Usestove": "use the stove",
    "Cutbread": "cut bread",
    "Drink.Frombottle": "drink from a bottle",
    "Drink.Fromcan": "drink from a can",
    "Drink.Fromcup": "drink from a cup",
    "Drink.Fromglass": "drink from a glass",
    "Eat.Attable": "eat at the table",
    "Eat.Snack": "eat a snack",
    "Enter": "enter the room",
    "Getup": "get up",
    "Laydown": "lie down",
    "Leave": "leave the room",
    "Makecoffee.Pourgrains": "make coffee, pour grains",
    "Makecoffee.Pourwater": "make coffee, pour water",
    "Maketea.Boilwater": "make tea, boil water",
    "Maketea.Insertteabag": "make tea, insert tea bag",
    "Pour.Frombottle": "pour from a bottle",
    "Pour.Fromcan": "pour from a can",
    "Pour.Fromkettle": "pour from a kettle",
    "Readbook": "read a book",
    "Sitdown": "sit down",
    "Takepills": "take pills",
    "Uselaptop": "use a laptop",
    "Usetablet": "use a tablet",
    "Usetelephone": "use a telephone",
    "Walk": "walk",
    "WatchTV": "watch TV",
}
# These twelve are left out of the camera protocols, which have 19 classes.
SMARTHOME_NOT_BY_CAMERA = (
    "Cook.Cleandishes", "Cook.Cleanup", "Cook.Cut", "Cook.Stir", "Cook.Usestove", "Laydown",
    "Makecoffee.Pourgrains", "Makecoffee.Pourwater", "Maketea.Boilwater", "Maketea.Insertteabag",
    "Pour.Fromkettle", "WatchTV")
SMARTHOME_TRAIN_SUBJECTS = (3, 4, 6, 7, 9, 12, 13, 15, 17, 19, 25)
SMARTHOME_CAMERAS = {
    "cv1": {"train": "1", "val": "5", "test": "2"},
    "cv2": {"train": "13467", "val": "5", "test": "2"},
}


def read_smarthome(source):
    """Toyota-Smarthome, trimmed. No annotation file: class, subject and camera are in the name.

    variant: "cs", subjects are parted and every split but train holds the other subjects; "cv1" and
    "cv2", cameras are parted.
    """
    by_subject = source.variant == "cs"
    if by_subject:
        names = list(SMARTHOME)
    else:
        names = [name for name in SMARTHOME if name not in SMARTHOME_NOT_BY_CAMERA]

    clips = []
    path_of = {}
    for file, path in sorted(videos(source, "mp4").items()):
        found = re.fullmatch(r"(?:.*/)?(([A-Za-z.]+)_p(\d{1,9})_r\d+_v\d+_c0(\d))", file, re.ASCII)
        if not found or found[2] not in SMARTHOME:
            raise ValueError(f"{path}: this is no clip's name. Expected <class>_p00_r00_v00_c00, a "
                             "class of annotations.SMARTHOME. Rename it or move it away.")
        clip_id, name, subject, camera = found.groups()
        other = path_of.setdefault(clip_id, path)
        if other != path:
            raise ValueError(f"{path} and {other} are both clip {clip_id}. Expected each clip "
                             "once. Move one of them away.")

        if by_subject:
            in_training = int(subject) in SMARTHOME_TRAIN_SUBJECTS
            belongs = in_training == (source.split == "train")
        else:
            belongs = camera in SMARTHOME_CAMERAS[source.variant][source.split]
        if belongs and name in names:
            clips.append(Clip(id=clip_id, path=path, label=names.index(name)))
    return [SMARTHOME[name] for name in names], clips


# ------------------------------------------------------------------------------- Kinetics-400


def k400_table(source, *names):
    """Path of the first of these csv files that is there, in the data set's folder or annotations/.

    Where none is, the path at which it is looked for first.
    """
    places = []
    for name in names:
        places.append(source.root / name)
        places.append(source.root / "annotations" / name)
    for place in places:
        if place.exists():
            return place
    return places[0]


def k400_rows(path, source):
    """(label, YouTube id, start, end) of every row of one csv file; start and end: int, seconds."""
    columns = ("label", "youtube_id", "time_start", "time_end")
    for number, cells in read_table(path, source.name, columns):
        label, video = cells[:2]
        try:
            start = int(cells[2])
            end = int(cells[3])
        except ValueError:
            start = end = -1
        if not 0 <= start < end < 10 ** 9:        # a billion seconds are thirty years
            raise bad_place(path, f"line {number}", ",".join(cells), "label,id,start s,end s")
        yield sys.intern(label), video, start, end            # 400 labels, not 246,534 of them


def read_k400(source):
    """Kinetics-400. A trimmed video is found by its name or by its YouTube id; a whole one in raw/
    is cut while decoding. Label numbers are those of the training list, for both splits."""
    root, split = source.root, source.split
    train_table = k400_table(source, "train.csv")
    if split == "train":
        table = train_table
    else:
        table = k400_table(source, "val.csv", "validate.csv")
    rows = list(k400_rows(table, source))

    labels = {row[0] for row in rows}
    if split == "val" and train_table.exists():
        trained = {row[0] for row in k400_rows(train_table, source)}
        strange = sorted(labels - trained)
        if strange:
            raise bad_place(table, "column label", strange[0], f"a label of {train_table}")
        labels = trained
    labels = sorted(labels)
    label_of = {label: number for number, label in enumerate(labels)}

    found = videos(source, split, f"{split}_256", f"videos_{split}", "videos", "raw")
    by_name = {}                                  # class folders, where there are any, do not count
    by_video = {}
    for inside, path in found.items():
        name = inside.rpartition("/")[2]
        by_name[name] = path
    for name, path in by_name.items():
        by_video[name[:11]] = path

    raw = f"{root / 'raw'}/"                      # as os.walk spells it, also where root is "."
    clips = []
    for label, video, start, end in rows:
        name = "%s_%06d_%06d" % (video, start, end)           # a hot loop: beats an f-string
        path = by_name.get(name) or by_video.get(video) or f"{root}/{split}/{name}.mp4"
        if path.startswith(raw):
            clips.append(Clip(id=name, path=path, label=label_of[label], start=start, end=end))
        else:
            clips.append(Clip(id=name, path=path, label=label_of[label]))
    return labels, clips


# ------------------------------------------------------------------------------- UCF-101, HMDB-51


def read_ucf101(source):
    """UCF-101; variant: the number of the official split.

    The class is the folder of a video, not its name: HandstandPushups/v_HandStandPushups_g01_c01.
    """
    lists = source.root / "ucfTrainTestlist"
    files = videos(source, "UCF-101", "videos")

    path = lists / "classInd.txt"
    expected = "'N ClassName' with N from 1 up"
    label_of = {}
    for line in read_lines(path, source.name, r"(\d{1,9})\s+(\w+)", expected):
        number, name = line.fields
        if int(number) != len(label_of) + 1:
            raise bad_place(path, f"line {line.number}", line.text, expected)
        label_of[name] = len(label_of)

    path = lists / f"{source.split}list0{source.variant}.txt"
    expected = "'ClassName/video.avi', a class of classInd.txt"
    clips = []
    for line in read_lines(path, source.name, r"((\w+)/(\S+))\.avi(?:\s+\d+)?", expected):
        file, name, clip_id = line.fields
        if name not in label_of:
            raise bad_place(path, f"line {line.number}", line.text, expected)
        video = files.get(file, f"{source.root}/UCF-101/{file}.avi")
        clips.append(Clip(id=clip_id, path=video, label=label_of[name]))
    return [camel(name) for name in label_of], clips


def read_hmdb51(source):
    """HMDB-51; variant: the number of the official split. One list a class says 1 (training), 2
    (test) or 0 (not in this split) of each of its videos."""
    lists = need(source.root / "testTrainMulti_7030_splits", source.name, "folder")
    ending = f"_test_split{source.variant}.txt"
    names = sorted(path.name.removesuffix(ending) for path in lists.glob("*" + ending))
    files = videos(source, "hmdb51_org", "videos")
    wanted = "2" if source.split == "test" else "1"

    expected = "'video.avi' and 1 (train), 2 (test) or 0 (not in this split)"
    clips = []
    for label, name in enumerate(names):
        for line in read_lines(lists / (name + ending), source.name, r"(.+)\.avi\s+([012])",
                               expected):
            clip_id, part = line.fields
            if part == wanted:
                file = f"{name}/{clip_id}"
                video = files.get(file, f"{source.root}/hmdb51_org/{file}.avi")
                clips.append(Clip(id=clip_id, path=video, label=label))
    return [camel(name) for name in names], clips


# ------------------------------------------------------------------------------- your own videos

CUSTOM_COLUMNS = ("path", "label", "split")
CUSTOM_ROW = ("a path, a label, a split (train, val, test), and start < end, both in seconds or "
              "both in whole frames (48f)")


def read_edge(text, default):
    """A start or end as a csv says it -> (number, unit); None where it cannot be read.

    "0.5" is in seconds, "48f" in frames, "" is the default, which fits either unit (unit "").
    """
    text = text.strip()
    if not text:
        return default, ""
    if re.fullmatch(r"\d{1,9}f", text, re.ASCII):
        return float(text[:-1]), "f"
    if re.fullmatch(r"\d{1,9}\.?\d{0,20}|\.\d{1,20}", text, re.ASCII):
        return float(text), "s"
    return None


def read_span(start_text, end_text):
    """The two edges of a clip -> (start, end, unit); None where they make no sense together."""
    first = read_edge(start_text, default=0.0)
    last = read_edge(end_text, default=math.inf)
    if first is None or last is None:
        return None

    (start, start_unit), (end, end_unit) = first, last
    if start_unit and end_unit and start_unit != end_unit:    # "1,20f": one second to frame 20?
        return None
    if not start < end:
        return None
    return start, end, start_unit or end_unit or "s"


def hold_out(clips):
    """Training clips -> those that stay, and about a fifth for validation, as lists.

    Of each label every fifth video from the third on, with all of its clips: two pieces of one
    video are too much alike to judge by. A label keeps at least a clip to train on.
    """
    files = {}                                    # label -> its videos, in the order of the csv
    for clip in clips:
        own = files.setdefault(clip.label, [])
        if clip.path not in own:
            own.append(clip.path)

    held = set()
    for own in files.values():
        held.update(own[2::5])
    trained = {clip.label for clip in clips if clip.path not in held}
    for label, own in files.items():
        if label not in trained:                  # its videos were all taken for other labels
            held.difference_update(own)

    stay = [clip for clip in clips if clip.path not in held]
    return stay, [clip for clip in clips if clip.path in held]


def read_custom(source):
    """Your own videos, in one csv: paths from its folder, times in seconds or in frames (48f).

    Since all splits are in one file, it is also the place to see that a clip has one label, and to
    tell that one is both trained on and tested on.
    """
    path = Path(source.table) if source.table else source.root / "clips.csv"
    clips = {"train": [], "val": [], "test": []}
    seen = {}                                     # a piece of video -> label, split and line
    shared = []
    file_of = {}                                  # name of a pose file -> its video
    rows = read_table(path, source.name, CUSTOM_COLUMNS, optional=("start", "end"))
    for number, words in rows:
        file, label, split, start_text, end_text = [word.strip() for word in words]
        span = read_span(start_text, end_text)
        if not (file and label and split in clips and span):
            raise bad_place(path, f"line {number}",
                            ",".join((file, label, split, start_text, end_text)), CUSTOM_ROW)
        start, end, unit = span

        before = seen.setdefault((os.path.normpath(file), span), (label, split, number))
        if before[0] != label:
            raise bad_place(path, f"line {number}", label,
                            f"one label for a clip, and line {before[2]} says {before[0][:80]!r}")
        if "train" in (before[1], split) and before[1] != split:
            shared.append(f"{file} (lines {before[2]} and {number})")

        name = os.path.splitext(file)[0]
        whole = os.path.normpath(file)
        other = file_of.setdefault(os.path.basename(name), whole)
        if other != whole:
            raise bad_place(path, f"line {number}", file,
                            f"another file name than that of {other[:80]}: they share a pose file")
        clip_id = name
        if (start, end) != (0, math.inf):
            clip_id = f"{name}_{start_text}_{end_text}"
        clips[split].append(Clip(
            id=clip_id, path=str(path.parent / file), label=label, start=start, end=end, unit=unit,
            pose=os.path.basename(name)))

    if shared:
        print(f"note: {path} trains on clips that it also evaluates on, {len(shared)} of them: "
              f"{', '.join(shared[:5])}.")
    labels = sorted({clip.label for part in clips.values() for clip in part})
    label_of = {label: number for number, label in enumerate(labels)}

    # Without a validation split of its own a part of training plays it: the test split is for the
    # end, and choosing by it would make its figure too good.
    if not clips["val"]:
        clips["train"], clips["val"] = hold_out(clips["train"])
        if clips["val"] and source.split == "val":
            print(f"note: {path} names no clips for val: {len(clips['val'])} of the training clips "
                  f"are held out for it, {len(clips['train'])} are left.")

    wanted = source.split
    if not clips[wanted] and wanted != "train":
        wanted = "test" if wanted == "val" else "val"
        if not clips[wanted]:
            wanted = "train"
        print(f"note: {path} has no clips for {source.split}; its {wanted} split stands in.")
    return labels, [clip._replace(label=label_of[clip.label]) for clip in clips[wanted]]
