"""The toy benchmark on disk: a tree as Diving48 has it, made by several processes on first use.

Everything follows from the settings: which clips there are, who is in them and how they move. The
same settings give the same bytes on one machine, from any number of processes and after any number
of interruptions. A worker is `python -m toy.tree ROOT FIRST STEP`, which people need not type.

here        | what it is                                | tests/test_toy.py
toy_poses   | what a pose detector would say of a clip  | test_noise_*
toy_footage | all that a clip shows, before it is drawn | test_same_bytes_*
write_clip  | a video and its pose clip                 | test_layout_*, test_same_bytes_*
make_toy    | the whole tree, once                      | test_layout_*, test_made_again_*
only_maker  | the lock that lets a second process wait  | test_two_makers_*, test_a_killed_*
run_workers | the processes that make clips             | test_workers_*, test_a_failing_*

    toy.json                        settings, and whether all clips are there
    Diving48_vocab.json             the classes
    Diving48_V2_{split}.json        names and labels of clips
    rgb/{name}.mp4                  a clip
    poses/{name}.npz                its joints, as pose.py reads them; written after the video
    .toy.lock                       held by the process that makes the clips
"""
if __name__ == "__main__":                        # before all other imports
    import support.interrupt

import hashlib
import io
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from support.files import atomic
from toy.divers import (
    ANKLES,
    CAST,
    CUT,
    DETECTOR,
    HEIGHT,
    KNEES,
    PEOPLE,
    TOY_CLASSES,
    TOY_JOINTS,
    WIDTH,
    Dive,
    generator,
)
from toy.picture import spectator_points, toy_frame

try:
    import fcntl
except ImportError:    # a system without it (Windows): there, two makers are not kept apart
    fcntl = None

# What the bytes of a tree depend on. `make_toy` compares the hash of these, so a new field or
# another value makes every benchmark on every disk anew.
TOY_SETTINGS = {
    "version": 3,           # of the drawing: to be raised when a picture changes
    "seed": 0,
    "train": 1760,          # clips of each split: 110, 15 and 20 of a class
    "val": 240,
    "test": 320,
    "width": WIDTH,         # pixels; recorded here, and set in toy/divers.py
    "height": HEIGHT,
    "frames": 32,           # of a clip
    "fps": 16,
    "cut": .25,             # how far a clip begins before or after its dive's clock, seconds
    "crf": 20,              # quality of the video, x264's scale: 0 is lossless, 51 the worst
    "joint_noise": .012,    # of a detected joint, body heights
    "joint_drop": .04,      # share of joints that are missing, twice that behind the body
    "joint_jump": .02,      # share of joints that are elsewhere
    "frame_drop": .01,      # share of frames without any joint
    # Shares of clips with a fault that lasts, and how many frames it lasts, at least and at most.
    "legs_lost": .35,       # knees and ankles are missing, from some time in the flight on
    "sides_swapped": .25,   # left and right of the whole body change places
    "wrong_person": .25,    # a spectator is taken for the diver, where one is in sight
    "stretch": [5, 10],
}

NOTE = "toy.json"
LOCK = ".toy.lock"
PROJECT = Path(__file__).resolve().parent.parent       # the folder that holds the package `toy`


class Clip(NamedTuple):
    """A clip that is to be made; together with the settings it says everything about it."""
    split: str      # train, val, test
    name: str       # of its files
    label: int      # index into TOY_CLASSES
    number: int     # within the split


# -------------------------------------------------------------------------------------- one clip


def toy_plan(settings):
    """Every Clip of a benchmark; labels come in turn, so that splits are balanced."""
    clips = []
    for split in PEOPLE:
        for number in range(settings[split]):
            clips.append(Clip(
                split=split,
                name=f"toy_{split}_{number:05d}",
                label=number % len(TOY_CLASSES),
                number=number,
            ))
    return clips


def toy_dive(settings, split, label, number):
    """The performance of one clip; diver, scene and camera are identities of this split alone."""
    seed = (settings["seed"], list(PEOPLE).index(split), number)
    first, stop = PEOPLE[split]
    diver, scene, camera = generator(CAST, *seed).integers(first, stop, 3).tolist()
    return Dive(TOY_CLASSES[label], seed, diver=diver, scene=scene, camera=camera)


def toy_times(dive, settings):
    """Instants of a clip's frames on its dive's clock, (n,) seconds.

    Clips are cut as people cut them, not at the same moment of each dive: else the place of a frame
    in its clip would tell how far the turn is, and with it the turn's direction.
    """
    begin = generator(CUT, *dive.seed).uniform(-settings["cut"], settings["cut"])
    return begin + np.arange(settings["frames"]) / settings["fps"]


def toy_poses(dive, centres, points, settings):
    """What a pose detector would say of a clip, with the faults that detectors have.

    centres (n, 3), points (n, 17, 3): of the camera, and the projected joints, of Dive.seen. Noise
    is larger behind the body; some joints are missing (score 0) or elsewhere (a low score); a frame
    may be missing. Three faults last for a stretch of frames: legs are lost, the body's left and
    right change places, or a spectator is taken for the diver.

    Returns keypoints (n, 17, 2), in pixels with (0, 0) in the middle of the first pixel, and scores
    (n, 17), 0 or .05 to 1. Rounded, as machines differ in the last digits.
    """
    rng = generator(DETECTOR, *dive.seed)
    points = wrong_person(dive, centres, points, settings, rng)
    size = points.shape[:2]                                                # (n, 17)
    hidden = points[..., 2] < points[..., 2].mean(1, keepdims=True) - .06

    # The order of the draws is part of the data. Student's t has heavier tails than
    # a normal distribution: most joints are close, a few are far off.
    noise = settings["joint_noise"] * dive.zoom * np.where(hidden, 1.8, 1.0)
    error = noise[..., None] * rng.standard_t(4, (*size, 2))               # (n, 17, 2)
    keypoints = points[..., :2] - .5 + error
    jump = rng.random(size) < settings["joint_jump"]
    scores = rng.beta(14, 2.5, size) - .2 * hidden
    keypoints += jump[..., None] * rng.normal(0, .4 * dive.zoom, (*size, 2))
    unsure = rng.uniform(.1, .5, size)
    scores = np.where(jump, unsure, scores).clip(.05, 1).round(3)

    # Left and right of all joints but the nose: each pair is a left joint and then its right.
    swapped = stretch("sides_swapped", settings, size[0], rng)             # (n,)
    other_side = [0, *(index + (1 if index % 2 else -1) for index in range(1, 17))]
    keypoints[swapped] = keypoints[swapped][:, other_side]
    scores[swapped] = scores[swapped][:, other_side]

    # Single joints, those behind the body twice as often, and whole frames.
    odds = settings["joint_drop"] * np.where(hidden, 2, 1)
    missing = rng.random(size) < odds
    frame_missing = rng.random((size[0], 1)) < settings["frame_drop"]
    missing = missing | frame_missing

    # Legs, which tell a tuck from a pike: a fault that begins within half a flight of the jump.
    first = dive.t_off + rng.uniform(0, .5) * dive.t_air - toy_times(dive, settings)[0]
    lost = stretch("legs_lost", settings, size[0], rng, int(first * settings["fps"]))
    missing[lost, KNEES.start:ANKLES.stop] = True

    keypoints = np.where(missing[..., None], 0, keypoints.round(2))
    return keypoints, np.where(missing, 0, scores)


def stretch(fault, settings, frames, rng, first=None):
    """The frames in which a fault that lasts is there, (n,) bool; none in most clips.

    fault: its name in the settings. first: where it begins; by default somewhere in the clip.
    """
    happens = rng.random() < settings[fault]
    length = rng.integers(settings["stretch"][0], settings["stretch"][1] + 1)
    anywhere = rng.integers(max(frames - length, 1))
    if first is None:
        first = anywhere

    index = np.arange(frames)
    return happens & (first <= index) & (index < first + length)


def wrong_person(dive, centres, points, settings, rng):
    """points (n, 17, 3), but for a stretch of frames those of a spectator, where one is in sight.

    Nothing in the joints' scores tells it: the detector is sure of what it sees.
    """
    wrong = stretch("wrong_person", settings, len(points), rng)
    if not wrong.any():
        return points

    # The spectator that is nearest to the middle of the picture in the middle of the stretch.
    frame = np.flatnonzero(wrong)[wrong.sum() // 2]
    middle = np.array([WIDTH / 2, HEIGHT / 2])
    nearest = None
    for clutter in dive.clutter:
        if clutter.shape == "spectator":
            away = np.abs(dive.behind(clutter, centres[frame]) - middle).max()
            if nearest is None or away < nearest[0]:
                nearest = (away, clutter)
    if nearest is None or nearest[0] > HEIGHT / 2:
        return points

    clutter = nearest[1]
    body = dive.zoom * spectator_points(clutter)                           # (17, 2)
    places = dive.behind(clutter, centres)[:, None] + body                 # (n, 17, 2)
    flat = np.concatenate([places, np.zeros_like(points[..., :1])], -1)
    return np.where(wrong[:, None, None], flat, points)


class Footage(NamedTuple):
    """What one clip shows, frame by frame, before it is drawn; n frames."""
    dive: Dive
    times: np.ndarray        # (n,), seconds of the dive's clock
    centres: np.ndarray      # (n, 3), what the camera aims at
    points: np.ndarray       # (n, 23, 3), the body on the screen, as Dive.seen gives it
    keypoints: np.ndarray    # (n, 17, 2), what a pose detector would say, as toy_poses gives it
    scores: np.ndarray       # (n, 17)


def toy_footage(settings, split, label, number):
    """The Footage of one clip; `toy_frame` draws a frame of it."""
    dive = toy_dive(settings, split, label, number)
    times = toy_times(dive, settings)
    centres, points = dive.seen(times)
    keypoints, scores = toy_poses(dive, centres, points[:, :17], settings)
    return Footage(dive, times, centres, points, keypoints, scores)


def write_clip(root, settings, clip):
    """Write `rgb/<name>.mp4`, then `poses/<name>.npz`, which says that the clip is whole.

    The pose file has the fields of pose.write_pose, whose module would load torch in every worker.
    """
    shown = toy_footage(settings, clip.split, clip.label, clip.number)
    video = io.BytesIO()
    with av.open(video, "w", format="mp4") as out:
        options = {"crf": str(settings["crf"]), "preset": "ultrafast"}
        stream = out.add_stream("libx264", rate=settings["fps"], options=options)
        stream.width = WIDTH
        stream.height = HEIGHT
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1          # with more, bytes may depend on the machine

        for t, centre, body in zip(shown.times.tolist(), shown.centres, shown.points):
            picture = toy_frame(shown.dive, t, centre, body)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        out.mux(stream.encode())                       # what the encoder still holds
    write(root / "rgb" / f"{clip.name}.mp4", video.getvalue())

    pose = io.BytesIO()
    np.savez_compressed(
        pose,
        keypoints=shown.keypoints.astype(np.float32),
        scores=shown.scores.astype(np.float32),
        size=np.array([HEIGHT, WIDTH]),
        times=shown.times - shown.times[0],
        joints=np.array(TOY_JOINTS),
        extractor=np.array("toy"),
    )
    write(root / "poses" / f"{clip.name}.npz", pose.getvalue())


# -------------------------------------------------------------------------------------- the tree


def write(path, data):
    """Write bytes, or a value as JSON; they get the name `path` when they are whole and on disk."""
    if not isinstance(data, bytes):
        data = json.dumps(data, indent=1).encode()
    with atomic(path) as part:
        part.write_bytes(data)


def hash_of(settings):
    """Sixteen hexadecimal digits that differ when the settings do."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_note(root):
    """What toy.json says of the clips in `root`: hash, complete, settings.

    {} where a benchmark may be made: there is no file, but for what a cut run may leave before its
    toy.json. Raises ValueError where there are other files: they are not ours.
    """
    try:
        note = json.loads((root / NOTE).read_text())
        return {key: note[key] for key in ("hash", "complete", "settings")}
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        pass

    for path in root.rglob("*"):
        ours = path.name == LOCK or path.name.startswith(".part.")
        if path.is_file() and not ours:
            raise ValueError(
                f"{root} holds files but no valid toy.json. Expected an empty folder or a toy "
                "benchmark: other data is not touched. Name its data set with --data, or give "
                "another --root.")
    return {}


def make_toy(root, settings=None, workers=None, progress=print):
    """Write the toy benchmark to `root` unless it is there with these settings.

    settings: what differs from TOY_SETTINGS. workers: processes, by default one a core. progress:
    is called with each line that a person should read. Clips of other settings are replaced, but
    for those of another seed, which somebody has asked for; a cut run is taken up, and a second
    process that wants the same folder waits for the first.

    Returns the seconds that it took, 0.0 where nothing was to do. Raises ValueError where the
    folder holds other data or another seed's, ChildProcessError where a worker failed.
    """
    root = Path(root)
    settings = {**TOY_SETTINGS, **(settings or {})}
    note = {"hash": hash_of(settings), "complete": True, "settings": settings}
    begun = time.time()

    # Before the lock: a finished benchmark may lie where nobody may write.
    if read_note(root) == note:
        return 0.0

    with only_maker(root, progress) as lock:
        # After it: another process may have made the clips while this one waited.
        old = read_note(root)
        if old == note:
            return 0.0

        other = old.get("settings", settings).get("seed")
        if other != settings["seed"]:
            raise ValueError(f"{root} holds the toy benchmark of seed {other}. Expected that of "
                             f"seed {settings['seed']}. Read it with --data diving48, whose layout "
                             "it has, or give another --root.")
        plan = toy_plan(settings)
        prepare(root, old, note, plan, progress)
        shares = min(workers or os.cpu_count() or 1, len(plan))
        run_workers(root, shares, len(plan), progress, lock)
        write(root / NOTE, note)
    return time.time() - begun


def prepare(root, old, note, plan, progress):
    """Remove what is of other settings or half written, and write all files but the clips.

    old: what `read_note` found. note: what toy.json is going to say.
    """
    unfinished = {**note, "complete": False}
    stale = [".part.*", "*/.part.toy_*"]
    if old and old["hash"] != note["hash"]:
        progress(f"toy benchmark: its settings changed, the clips of {root} are made again")

        # A kill while clips are being removed must not leave what looks like a finished tree.
        write(root / NOTE, {**old, "complete": False})
        stale += ["poses/toy_*.npz", "rgb/toy_*.mp4"]
    for pattern in stale:
        for path in list(root.glob(pattern)):
            path.unlink(missing_ok=True)

    write(root / NOTE, unfinished)
    write(root / "Diving48_vocab.json", TOY_CLASSES)
    for split in PEOPLE:
        rows = []
        for clip in plan:
            if clip.split == split:
                rows.append({
                    "vid_name": clip.name,
                    "label": clip.label,
                    "start_frame": 0,
                    "end_frame": note["settings"]["frames"],
                })
        write(root / f"Diving48_V2_{split}.json", rows)


@contextmanager
def only_maker(root, progress):
    """Hold the lock of `root` for the block, waiting for the process that has it.

    Two makers would take each other's parts away. The system releases the lock when the last
    process that has the file open ends, however it ends. Workers inherit the file, so that a new
    maker also waits for the last clip of workers whose maker was killed.

    Gives the open file, or None on a system without such locks. Some network file systems have
    none either: that is told, and the clips are made without.
    """
    root.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield None
        return

    with open(root / LOCK, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"toy benchmark: waiting for another process that makes the clips of {root}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            progress(f"toy benchmark: {root} cannot be locked ({error}). One process at a time "
                     "may make it: do not start another.")
        yield lock


# ----------------------------------------------------------------------------------- its workers


def run_workers(root, shares, total, progress, lock=None):
    """Start `shares` worker processes and report clips and time left until all have ended.

    total: number of clips. lock: the open file of `only_maker`, which workers are to inherit.
    Raises ChildProcessError where a worker ended before its time; its message is on stderr.

    Workers are started afresh: nothing of torch is forked, the caller needs no `if __name__`. They
    start in the project's folder, since `-m` puts the folder where a process starts first on its
    path: were that the folder one stands in, a file called json.py there would be run.
    """
    command = [sys.executable, "-m", "toy.tree", str(root.absolute())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONSAFEPATH", None)            # it would hide the project, too
    inherited = ()
    if lock is not None:
        inherited = (lock.fileno(),)

    # Each worker writes a dot into this pipe for each clip.
    source, sink = os.pipe()
    jobs = []
    for first in range(shares):
        jobs.append(subprocess.Popen(
            [*command, str(first), str(shares)],
            cwd=PROJECT,
            env=environment,
            stdout=sink,
            pass_fds=inherited,
            start_new_session=True,                    # Ctrl-C is ours to obey; we end them below
        ))
    os.close(sink)

    begun = time.time()
    told = begun
    done = 0
    try:
        while True:
            dots = os.read(source, 4096)
            if not dots:                               # the last worker has ended
                break
            done += len(dots)
            if time.time() - told > 5 or done == total:
                told = time.time()
                left = (told - begun) / done * (total - done)
                progress(f"toy benchmark: {done}/{total} clips, {left:.0f} s left")
    finally:
        os.close(source)
        for job in jobs:
            job.terminate()                            # has ended, but for an interrupt here
            job.wait()

    if done < total:
        raise ChildProcessError(
            f"making toy clips stopped at clip {done} of {total}. Expected all workers to end "
            "well, their messages are above. Run the command again: finished clips are kept.")


def run_worker(root, first, step):
    """Make clips first, first + step, ... that are not there, and write a dot to stdout for each.

    The settings are those of `root`'s toy.json. Ends quietly when nobody reads the dots: the
    process that started this one has been killed.
    """
    settings = read_note(root)["settings"]
    for clip in toy_plan(settings)[first::step]:
        whole = (root / "poses" / f"{clip.name}.npz").exists()     # the last file of a clip
        if not whole:
            write_clip(root, settings, clip)
        try:
            os.write(1, b".")
        except BrokenPipeError:
            return


if __name__ == "__main__":
    run_worker(Path(sys.argv[1]), first=int(sys.argv[2]), step=int(sys.argv[3]))
