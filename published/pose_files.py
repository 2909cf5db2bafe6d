"""Other people's pose files, read safely: pickles of pyskl, and JSON of three other programs.

The data sets' poses are public in five formats. Each has an importer here, which says
which clips a file holds and gives the raw joints of all persons of a clip; pose.py then chooses
the one person that the models read, and writes the file. This file knows nothing of pose.py.

data                     | format                      | here             | test_import_*.py
FineGym, Diving48, UCF,  | pyskl, one pickle           | import_pyskl     | test_import_pyskl
  HMDB                   |                             |                  |
Kinetics-400             | pyskl, index and kpfiles    | import_k400      | test_import_k400
Toyota-Smarthome         | LCR-Net++, JSON for a clip  | import_smarthome | test_import_smarthome
any; PeVL's references 4 | OpenPose, JSON for a frame  | import_openpose  | test_import_openpose*
  and 15                 | AlphaPose, JSON for a video | import_alphapose | test_import_alphapose*
                         | pickle, its code not run    | load_plain       | test_plain_pickles_*

Letters: M persons, T frames of a clip, J joints, (H, W) the frame. A joint is (x, y) in pixels of
the frame; score 0: it is not there. M is the largest number of persons in any frame, and the m-th
person of one frame need not be the m-th of the next.
"""
import json
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

MOST_FRAMES = 10 ** 7                             # of a video: four days


class BrokenClip(ValueError):
    """A fault of one clip: a run over many clips lists it and goes on."""


# ---- What an importer is given, and what it gives ----------------------------------------------


class Persons(NamedTuple):
    """Everyone in a clip, as the file has them."""

    keypoints: np.ndarray                         # (M, T, J, 2) numbers, pixels
    scores: np.ndarray                            # (M, T, J) numbers or booleans, 0 = missing
    size: tuple                                   # (H, W) of the frame


@dataclass(frozen=True)
class PublicClip:
    """One clip of a public file, not read yet: a data set's joints need not fit in memory."""

    name: str                                     # clip id
    source: Path                                  # file or folder it comes from, for errors
    read: Callable                                # read() -> Persons
    joints: str = "coco17"                        # name of its joint set, see pose.JOINT_SETS
    origin: str = "pyskl"                         # who found the joints


class VideoFacts(NamedTuple):
    """What OpenPose's and AlphaPose's files do not say of their video."""

    size: tuple                                   # (H, W) of the frame
    frames: int | None                            # how many it has, None: unknown


@dataclass(frozen=True)
class ImportOptions:
    """What the command line says beside the path; each importer reads what it needs."""

    keypoints: str = ""                           # k400: the kpfile, or the folder of them
    look_up: Callable | None = None               # openpose, alphapose: clip id -> VideoFacts
    first: int = 0                                # alphapose: number of a clip's first picture


# An importer is a function (path, options) -> number of clips, iterator of PublicClip.
# It raises ValueError or OSError at once where there is nothing of its format. A fault of one clip
# is raised by that clip's read(), as BrokenClip, ValueError, LookupError, TypeError or
# AttributeError: foreign data can be wrong in any of these ways.


def clip_id(name):
    """The name that data.py looks for: no folder, no ending, FineGym's ids spelled in full.

    >>> clip_id("videos/A0xAXXysHUo_002184_002237_0035_0036.mp4")
    'A0xAXXysHUo_E_002184_002237_A_0035_0036'
    """
    name = re.split(r"[/\\]", str(name))[-1]
    name = re.sub(r"\.(mp4|avi|mkv|webm|mov|m4v|mpe?g|wmv|flv)$", "", name, flags=re.IGNORECASE)

    # A video of 11 characters, the event's seconds, the action's seconds: some lists leave out the
    # letters E and A.
    return re.sub(r"^(.{11})_(?:E_)?(\d{6}_\d{6})_(?:A_)?(\d{4}_\d{4})$", r"\1_E_\2_A_\3", name)


def stack_persons(frames, shape):
    """T lists of arrays of `shape`, one for each person -> (M, T, *shape) float32.

    What nobody fills is 0. Raises ValueError where there is no frame at all.
    """
    most = max(len(persons) for persons in frames)
    stacked = np.zeros((most, len(frames), *shape), np.float32)
    for t, persons in enumerate(frames):
        for m, person in enumerate(persons):
            stacked[m, t] = person
    return stacked


# ---- Pickles without their code ----------------------------------------------------------------

# A pickle is a program: it names functions, and reading it calls them. A pickle of arrays in plain
# containers names a handful; each gets a stand-in here, and every other name is refused.


class PlainDtype:
    """Stands for numpy.dtype: numbers and text; a dtype that can hold objects is refused."""

    def __init__(self, spec, *flags):
        self.real = np.dtype(str(spec))
        if self.real.kind not in "biufcSU":
            raise pickle.UnpicklingError(f"it asks for an array of {self.real}")

    def __setstate__(self, state):
        byte_order = state[1]
        self.real = self.real.newbyteorder(byte_order)


class PlainArray(np.ndarray):
    """What plain_reconstruct makes: takes a PlainDtype where a pickle has a dtype."""

    def __setstate__(self, state):
        version, shape, dtype, fortran_order, data = state
        super().__setstate__((version, shape, dtype.real, fortran_order, data))


def plain_reconstruct(kind, shape, code):
    """Stands for numpy's _reconstruct: an empty array, which __setstate__ fills."""
    return PlainArray((0,), np.int8)


def plain_scalar(dtype, data):
    """Stands for numpy's scalar: one number from its bytes."""
    return np.frombuffer(data, dtype.real)[0]


def plain_frombuffer(data, dtype, shape, order):
    """Stands for numpy's _frombuffer (protocol 5): an array that shares the pickle's bytes."""
    return np.frombuffer(data, dtype.real).reshape(shape, order=order)


def plain_bytes():
    """Stands for bytes, which protocol 2 calls for an empty one alone."""
    return b""


def plain_encode(text, code):
    """Stands for _codecs.encode: protocol 2 writes bytes as text of code points 0 to 255."""
    return text.encode("latin1")


PLAIN = {
    "numpy.core.multiarray._reconstruct": plain_reconstruct,
    "numpy.core.multiarray.scalar": plain_scalar,
    "numpy.core.numeric._frombuffer": plain_frombuffer,
    # A pickle hands this name to _reconstruct and never calls it. So it is a text, which cannot be
    # called: ndarray(shape, "O", bytes) would take a stranger's bytes for addresses of objects.
    "numpy.ndarray": "numpy.ndarray",
    "numpy.dtype": PlainDtype,
    "builtins.set": set,
    "builtins.bytes": plain_bytes,
    "_codecs.encode": plain_encode,
    "collections.OrderedDict": dict,
}


class PlainUnpickler(pickle._Unpickler):
    """Unpickler that knows the names of PLAIN and no other.

    Python's own in Python: the one in C keeps what it remembers in a list as long as the largest
    number that a pickle names, so that ten bytes can ask it for gigabytes. This one has a dict.
    """

    def find_class(self, module, name):
        full = f"{module}.{name}"
        full = full.replace("numpy._", "numpy.")              # NumPy 2 calls core _core
        full = full.replace("__builtin__", "builtins")        # Python 2
        if full not in PLAIN:
            raise pickle.UnpicklingError(f"it asks for {full}")
        return PLAIN[full]


def load_plain(path):
    """Unpickle arrays, numbers and text in plain containers, without running code of the file.

    Raises ValueError, with the name that was asked for, where the file holds anything else or is
    damaged; OSError where it cannot be opened.
    """
    if not Path(path).is_file():                  # a pipe would be waited for, perhaps for ever
        raise FileNotFoundError(f"no file {path}. Expected the pickle. Check the path.")
    with open(path, "rb") as file:
        try:
            return PlainUnpickler(file).load()
        except Exception as error:                # a cut or foreign pickle fails in any way
            reason = str(error) or type(error).__name__       # a MemoryError says nothing
            raise ValueError(f"cannot read {path}: {reason}. Expected arrays in plain containers; "
                             "nothing else was run. Get it from its owner.") from error


# ---- pyskl -------------------------------------------------------------------------------------


def load_annotations(path, wanted):
    """The list of annotations of a pyskl pickle, one dict a clip, each with the keys `wanted`."""
    annotations = None
    found = load_plain(path)
    if type(found) is dict:
        annotations = found.get("annotations")
    if not are_annotations(annotations, wanted):
        raise ValueError(f"{path} lists no {', '.join(wanted)}. Expected a pyskl pickle. Use "
                         "`import k400` for the index of Kinetics, `import pyskl` for the others.")
    return annotations


def are_annotations(annotations, wanted):
    """Whether this is a list of dicts that all have the keys `wanted`."""
    if type(annotations) is not list:
        return False
    for item in annotations:
        if type(item) is not dict or not set(wanted) <= item.keys():
            return False
    return True


def drain(items):
    """Give the items of a list from its end and forget each, so that its memory can go."""
    while items:
        yield items.pop()


def import_pyskl(path, options):
    """One pickle with every clip: Diving48, FineGym, UCF-101, HMDB-51 and others.

    An annotation has `frame_dir` (the clip), `img_shape` (H, W), `keypoint` (M, T, 17, 2) and
    `keypoint_score` (M, T, 17). Persons are in the detector's order, which changes between frames.
    """
    annotations = load_annotations(path, wanted=("keypoint", "img_shape", "frame_dir"))

    def clips():
        for item in drain(annotations):
            read = partial(read_pyskl, item)
            yield PublicClip(clip_id(item["frame_dir"]), source=path, read=read)

    return len(annotations), clips()


def read_pyskl(item):
    """One annotation -> Persons.

    Without `keypoint_score`, a third channel of the joints is the score; without that too, a joint
    at (0, 0) is missing and every other is seen.
    """
    keypoints = np.asarray(item["keypoint"])
    if "keypoint_score" in item:
        scores = item["keypoint_score"]
    elif keypoints.shape[-1] > 2:
        scores = keypoints[..., 2]
    else:
        scores = keypoints.any(-1)
    return Persons(keypoints[..., :2], scores, item["img_shape"])


def import_k400(path, options):
    """Kinetics-400: an index like pyskl's, and the joints in pickles of their own, the kpfiles.

    options.keypoints: the kpfile, or the folder of those that the index names (`raw_file`). Clips
    are called by frame_dir, the video's 11 characters. FileNotFoundError where there is none.
    """
    files = Path(options.keypoints)
    if not options.keypoints or not files.exists():
        raise FileNotFoundError(f"no file or folder {options.keypoints!r}. Expected the kpfiles of "
                                f"{path}. Give --keypoints.")
    wanted = ("frame_inds", "total_frames", "frame_dir", "img_shape")
    annotations = load_annotations(path, wanted)

    # A kpfile is large: one is kept, and clips of the same file follow each other. The list is
    # drained from its end, so that descending here is ascending there.
    load_kpfile = lru_cache(maxsize=1)(load_plain)
    annotations.sort(key=raw_file, reverse=True)

    def read(item):
        file = files
        if files.is_dir():
            file = files / Path(raw_file(item)).name
        rows = load_kpfile(file)[item["frame_dir"]]["keypoint"]
        return Persons(*spread_rows(item, rows), item["img_shape"])

    def clips():
        for item in drain(annotations):
            yield PublicClip(clip_id(item["frame_dir"]), source=path, read=partial(read, item))

    return len(annotations), clips()


def raw_file(item):
    """The kpfile that an annotation of Kinetics names, "" where it names none."""
    return str(item.get("raw_file") or "")


def spread_rows(item, rows):
    """The rows of a Kinetics clip -> keypoints (M, T, 17, 2), scores (M, T, 17), float32.

    rows: (n, 17, 3), x, y and score of one person in one frame. item["frame_inds"]: (n,), the frame
    of each row, ascending, the first frame being 1. Not every frame was looked at: of every frame,
    every second, third or fourth, the coarsest grid that all rows are on is taken for the clip's.
    Frames of that grid without a row hold nobody.
    """
    frame = np.asarray(item["frame_inds"]).astype(int).ravel() - 1         # (n,), from 0
    if (frame < 0).any():
        raise ValueError("frame_inds below 1. Expected frames that count from 1.")
    if not 0 <= int(item["total_frames"]) <= MOST_FRAMES:
        raise ValueError(f"{item['total_frames']} frames. Expected {MOST_FRAMES} at most.")

    # Where people are seldom seen their frames have larger steps in common, but poses so far apart
    # could not be laid beside the video's frames (data.py: is_even).
    step = 1
    first = 0
    if len(frame) > 1:
        gaps = np.gcd.reduce(np.diff(frame)) or 1
        step = max(every for every in (1, 2, 3, 4) if gaps % every == 0)
    if len(frame) > 0:
        first = frame[0] % step
    t = (frame - first) // step                                            # (n,), from 0

    # Rows of one frame follow each other. searchsorted gives the first row of each row's frame, so
    # the difference counts 0, 1, ... in each frame.
    person = np.arange(len(t)) - np.searchsorted(t, t)                     # (n,)

    # The grid goes on to the video's end, also where nobody is there any more.
    rest = int(item["total_frames"]) - first
    in_video = (rest + step - 1) // step          # rest / step, rounded up
    T = max(t.max(initial=0) + 1, in_video)
    M = person.max(initial=-1) + 1

    people = np.zeros((M, T, 17, 3), np.float32)
    people[person, t] = rows
    return people[..., :2], people[..., 2]


# ---- Toyota-Smarthome --------------------------------------------------------------------------


def json_files(path):
    """The *.json of a folder, at any depth, or the one file that is named. Raises an error where
    there is none."""
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path}. Expected a JSON. Check the path.")
    files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path} holds no *.json. Expected one for each clip. Check the path.")
    return files


def import_smarthome(path, options):
    """Toyota-Smarthome v1.1 or v1.2: a JSON, or a folder of them, one for each clip; 13 joints."""
    path = Path(path)
    files = json_files(path)

    def clips():
        for file in files:
            name = file.stem.removesuffix("_pose3d")          # the ending of v1.2
            yield PublicClip(name, source=file, read=partial(read_smarthome, file),
                             joints="smarthome13", origin="LCR-Net++")

    return len(files), clips()


def read_smarthome(file):
    """{"frames": [[{"pose2d": 13 x, then 13 y}, ...persons], ...]} -> Persons.

    Videos are 640 x 480. The files have no scores; a missing joint is written (0, 0) or (-1, -1).
    """
    frames = []
    for frame in read_json(file)["frames"]:
        frames.append([np.reshape(person["pose2d"], (2, 13)).T for person in frame])
    keypoints = stack_persons(frames, shape=(13, 2))                       # (M, T, 13, 2)

    missing = ((keypoints == 0) | (keypoints == -1)).all(-1)
    return Persons(keypoints, ~missing, size=(480, 640))


# ---- OpenPose and AlphaPose --------------------------------------------------------------------

# Number of joints of a person -> which of them are the 17 of COCO (nose; left and right eye, ear,
# shoulder, elbow, wrist, hip, knee, ankle).
OPENPOSE_TO_COCO17 = {
    25: (0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11),      # BODY_25
    18: (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10),       # COCO-18, with a neck
}
ALPHAPOSE_TO_COCO17 = {
    17: tuple(range(17)),                         # COCO
    26: tuple(range(17)),                         # Halpe: COCO's, then head, neck, hip and feet
    136: tuple(range(17)),                        # Halpe with face and hands
}


def to_coco17(numbers, table, where):
    """x, y and score of one joint after the other -> (17, 3), by a table of the number of joints.

    Raises ValueError, naming `where`, for a number of joints that the table does not know.
    """
    joints, rest = divmod(len(numbers), 3)
    if rest > 0 or joints not in table:
        known = " or ".join(str(3 * count) for count in table)
        raise ValueError(f"{where}: a person of {len(numbers)} numbers. Expected {known}: x, y and "
                         "score of each joint.")
    triples = np.reshape(numbers, (-1, 3))
    return triples[list(table[joints])]


def need_look_up(options, path):
    """Raise a ValueError where nobody says how large the frames are."""
    if options.look_up is None:
        raise ValueError(f"{path}: its files do not say how large the frames are. Expected it from "
                         "you. Give --videos DIR, or --size HxW such as 480x640.")


def read_json(file):
    """What a JSON file holds; a ValueError that names it where it is damaged, or no file."""
    if not file.is_file():                        # a pipe would be waited for, perhaps for ever
        raise ValueError(f"{file} is no regular file. Expected a JSON file. Copy it to one.")
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:             # no JSON, no text, or too deep
        raise ValueError(f"{file} is no JSON: {error}. Expected what its program wrote. Make or "
                         "fetch it again.") from error


def as_persons(frames, size, where):
    """T lists of (17, 3) arrays -> Persons; a ValueError where coordinates are no pixels."""
    people = stack_persons(frames, shape=(17, 3))                          # (M, T, 17, 3)
    keypoints = people[..., :2]
    scores = people[..., 2]

    seen = keypoints[scores > 0]
    if len(seen) > 0 and seen.max() <= 1:
        raise ValueError(f"{where}: no coordinate above 1. Expected pixels of the video. Run the "
                         "program without scaling (OpenPose: --keypoint_scale 0).")
    return Persons(keypoints, scores, size)


def import_openpose(path, options):
    """OpenPose: a folder, at any depth, of `<video>_000000000012_keypoints.json`, one for a frame.

    Twelve digits are OpenPose's own count of a video's frames. Where it was given a folder of
    pictures, `<picture>_keypoints.json`, the last digits count them, and the folder names the clip.
    The size of the frame comes from options.look_up. Raises ValueError where there is no such file,
    or two folders hold the same clip.
    """
    need_look_up(options, path)
    clips = {}                                    # clip id -> {number of the frame: file}
    folders = {}                                  # clip id -> folder of its files
    for file in sorted(Path(path).rglob("*_keypoints.json")):
        name, number = openpose_frame(file)
        folder = folders.setdefault(name, file.parent)
        if folder != file.parent:
            raise two_of_one_name(name, file.parent, folder)

        files = clips.setdefault(name, {})
        if number in files:
            raise two_of_one_name(f"{name}, frame {number}", file, files[number])
        files[number] = file

    if not clips:
        raise ValueError(f"{path} holds no *_keypoints.json. Expected a folder that OpenPose wrote "
                         "with --write_json. Check the path.")

    def public_clips():
        for name, files in clips.items():
            folder = folders[name]
            read = partial(read_openpose, name, files, folder, options)
            yield PublicClip(name, source=folder, read=read, origin="OpenPose")

    return len(clips), public_clips()


def two_of_one_name(name, first, second):
    """The ValueError for two files or folders that would make one pose file."""
    return ValueError(f"{first} and {second} are both clip {name}. Expected different names. "
                      "Rename one, or import one folder at a time into its own --out.")


def openpose_frame(file):
    """An OpenPose file -> clip id, number of the frame; ValueError where its name has no number."""
    stem = file.name.removesuffix("_keypoints.json")
    of_video = re.fullmatch(r"(.+)_(\d{12})", stem)
    if of_video:
        return clip_id(of_video[1]), int(of_video[2])
    return clip_id(file.absolute().parent.name), last_number(stem, file)


def last_number(text, where):
    """The last digits of a text as a number, such as 12 of "img_00012"."""
    digits = re.findall(r"\d+", text)
    if not digits:
        raise ValueError(f"{where}: no number in {text!r}. Expected the number of its frame in the "
                         "name. Rename it.")
    return int(digits[-1])


def read_openpose(name, files, folder, options):
    """{number: file} of a clip -> Persons.

    OpenPose writes a file for every frame, also where nobody is, so that none may be missing
    between the first and the last, and where the number of frames is known there must be as many.
    """
    numbers = sorted(files)
    count = numbers[-1] - numbers[0] + 1
    if len(numbers) != count:
        gap = next(n for n in range(numbers[0], numbers[-1]) if n not in files)
        raise ValueError(f"{folder}: no file for frame {gap}. Expected one for each frame from "
                         f"{numbers[0]} to {numbers[-1]}. Run OpenPose again.")
    size, in_video = options.look_up(name)
    if in_video is not None and in_video != count:
        raise ValueError(f"{folder}: {count} files, but the video has {in_video} frames. Expected "
                         "as many. With --size, not --videos, they are spread over it evenly.")

    frames = [openpose_persons(files[number]) for number in numbers]
    return as_persons(frames, size, folder)


def openpose_persons(file):
    """{"people": [{"pose_keypoints_2d": x, y, score, x, ...}]} -> list of (17, 3) arrays."""
    found = read_json(file)
    if not isinstance(found, dict) or "people" not in found:
        raise ValueError(f'{file} has no "people". Expected what OpenPose wrote. Run it again.')

    persons = []
    for person in found["people"]:
        numbers = person.get("pose_keypoints_2d", [])
        persons.append(to_coco17(numbers, OPENPOSE_TO_COCO17, file))
    return persons


def import_alphapose(path, options):
    """AlphaPose: a JSON for each video, or a folder, at any depth, of them.

    A file that has AlphaPose's own name, `alphapose-results.json`, is called after its folder,
    another after itself. Frames without a person are not in it, so that their number comes from
    options.look_up, or failing that from the last frame that holds somebody. options.first is the
    number in the name of a clip's first picture: AlphaPose counts the frames of a video from 0.
    """
    need_look_up(options, path)
    path = Path(path)
    files = json_files(path)
    clips = {}                                    # clip id -> file
    for file in files:
        if file.parent.name == "sep-json":        # the frames of a file once more, one by one
            continue
        name = clip_id(file.stem)
        if file.name == "alphapose-results.json":
            name = clip_id(file.absolute().parent.name)
        if name in clips:
            raise two_of_one_name(name, file, clips[name])
        clips[name] = file

    if not clips:
        raise ValueError(f"{path} holds no *.json. Expected what AlphaPose wrote. Check the path.")

    def public_clips():
        for name, file in clips.items():
            read = partial(read_alphapose, name, file, options)
            yield PublicClip(name, source=file, read=read, origin="AlphaPose")

    return len(clips), public_clips()


def read_alphapose(name, file, options):
    """One AlphaPose file -> Persons."""
    by_number = {}                                # number of the frame -> list of (17, 3) arrays
    for picture, person in alphapose_persons(read_json(file), file):
        number = last_number(Path(str(picture)).stem, file) - options.first
        if number < 0:
            raise ValueError(f"{file}: a picture {picture!r} before the first, {options.first}. "
                             "Expected later ones. Give --first.")
        by_number.setdefault(number, []).append(person)

    last = max(by_number, default=-1)
    size, in_video = options.look_up(name)
    if in_video is None:
        in_video = last + 1
    if last >= MOST_FRAMES:
        raise ValueError(f"{file}: frame {last}. Expected {MOST_FRAMES} at most. Give --first.")
    if last >= in_video:
        raise ValueError(f"{file}: frame {last}, counted from 0, but the video has {in_video}. "
                         "Expected frames of the video. Give --first if it counts from 1.")

    frames = [by_number.get(t, []) for t in range(in_video)]
    return as_persons(frames, size, file)


def alphapose_persons(found, where):
    """Yield (name of the picture, joints (17, 3)) of each person, in any of AlphaPose's formats.

    The default is a list of {"image_id", "category_id": 1, "keypoints"}, which lists the persons.
    `--format cmu` and `open` give {image_id: {"bodies": [{"joints"}]}} and
    {image_id: {"people": [{"pose_keypoints_2d"}]}}, with the joints of COCO-18.
    """
    if isinstance(found, list):
        for person in found:
            yield person["image_id"], to_coco17(person["keypoints"], ALPHAPOSE_TO_COCO17, where)
        return

    for picture, frame in found.items():
        if "bodies" in frame:
            persons = [person["joints"] for person in frame["bodies"]]
        else:
            persons = [person["pose_keypoints_2d"] for person in frame["people"]]
        for numbers in persons:
            yield picture, to_coco17(numbers, OPENPOSE_TO_COCO17, where)


IMPORTERS = {
    "pyskl": import_pyskl,
    "k400": import_k400,
    "smarthome": import_smarthome,
    "openpose": import_openpose,
    "alphapose": import_alphapose,
}
