"""Attacks on the whole program: broken and hostile input, wrong commands, kills at any moment.

    python -m pytest -m slow tests/attack.py -s                        all of it
    PEVL_ATTACK=0.05 PEVL_ATTACK_SEED=7 python -m pytest -m slow tests/attack.py -s -k videos

PEVL_ATTACK is a factor on the COUNTS of tests/attack_child.py, PEVL_ATTACK_SEED (0) the seed of
what is drawn, PEVL_ATTACK_ONLY the number of the one case that is run again, with the same draws.
Each case runs in a forked child with a limit on time and memory, in a folder that is full of traps.
A case fails the attack where it ends in a traceback or a signal, takes over 20 s or 2 GB, runs a
line of foreign code, or where its error lacks one of its three parts or does not name the file that
is at fault. docs/robustness.md has the last results.

here                   | what is attacked                            | by what
test_a_fall_is_noticed | the attack itself                           | cases that must fail it
test_kills             | train.py goes on bit for bit, exits as told | SIGKILL, SIGTERM, SIGINT
test_videos            | decode, Clips, data.py, eval.py, pose.Video | damaged, huge, endless files
test_annotations       | the readers of nine data sets               | damage, encodings, shapes
test_weights           | checkpoints, pose files, weights, pickles   | damage, bombs, foreign code
test_commands          | train, eval, data, pose, costs, toy.lab     | values that make no sense

tests/attack_child.py has the child and its limits, tests/attack_damage.py what is done to files.
"""
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest
import torch

import attack_child
import children
import data
import eval as ev
import pose
import train
import trees
from attack_child import SEED, Attack, Result, call, command, count
from attack_damage import (
    attack_annotation,
    attack_video,
    changed_value,
    damaged,
    deflated,
    pickles,
    pose_bytes,
    saved_bytes,
    strange_thing,
)
from clip_model import load_clip
from published import annotations, hrnet
from runs import outcome, same, words
from support.checkpoints import read_checkpoint
from support.video import decode
from systems.config import PeVLConfig
from tables import costs
from toy import lab
from toy.tree import make_toy

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent


def settings_for(name, root, **how):
    """The settings that small clips of a data set are read with."""
    return data.DataConfig(data=name, root=str(root), pose_frames=6, video_frames=3, image_size=16,
                           workers=0, **how)


@pytest.fixture(scope="module")
def a_run(tmp_path_factory, tree):
    """A small finished run of train.py, for eval.py and for damage to its checkpoint."""
    out = tmp_path_factory.mktemp("run") / "run"
    assert live(words(tree, out, epochs=1), 300, signal.SIGKILL) == 0, "the run that is attacked"
    return out


# ---- The attack itself ---------------------------------------------------------------------------

def test_a_fall_is_noticed(tmp_path, monkeypatch, capsys):
    """Each way to fall is a fault of its kind, at which the attack fails; a refusal is none."""
    monkeypatch.setattr(attack_child, "SECONDS", 5)
    monkeypatch.setattr(attack_child, "MEMORY", 2 ** 26)
    monkeypatch.setattr(attack_child, "ONLY", None)
    attack = Attack("falls", tmp_path / "attack")

    def refuse(text):
        raise ValueError(text)

    def run_foreign_code():
        subprocess.run([sys.executable, "-c", "import hashlib"])
        return Result("fine")

    whole = "clip.mp4 is cut. Expected a video. Copy it again"
    falls = {
        "traceback": lambda: 1 / 0,
        "ended by signal 9": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "hang": lambda: time.sleep(60),
        "memory": lambda: Result("fine", str(np.ones(12 * 2 ** 20).sum())),
        "foreign code ran": run_foreign_code,
        "no file named": lambda: call(lambda: refuse(whole), ["other.mp4"], says_all=True),
        "not three parts": lambda: call(lambda: refuse("no"), [], says_all=True),
        "exit code 2 without `error: `": lambda: command(lambda argv: 2, [], []),
    }
    for kind, case in falls.items():
        attack.run(f"0 {kind}", case)
        assert attack.tally[kind] == 1, f"{kind} was not noticed: {attack.faults[-1:]}"
    attack.run("0 refused", lambda: call(lambda: refuse(whole), ["clip.mp4"], says_all=True))
    assert attack.tally["refused"] == 1, "an error that says all is a refusal, not a fault"
    with pytest.raises(AssertionError, match=f"{len(falls)} of {len(falls) + 1} falls fell"):
        attack.end()
    said = capsys.readouterr().out
    assert said.count("FAULT 0 ") == len(falls), "what fell is not printed"


# ---- Kills ---------------------------------------------------------------------------------------

# How a life that a signal ends may exit: as the program says, or before it can say anything.
CODES = {
    signal.SIGKILL: (-signal.SIGKILL,),
    signal.SIGTERM: (143, -signal.SIGTERM),
    signal.SIGINT: (130,),
}


def live(argv, seconds, number):
    """train.py in a child that gets a signal after `seconds` -> its exit code."""
    child = children.SERVER.Process(target=children.run_command, args=(argv,))
    child.start()
    child.join(seconds)
    if child.is_alive():
        os.kill(child.pid, number)
        child.join(120)
    assert child.exitcode is not None, "it does not end"
    return child.exitcode


def live_in_shell(argv, seconds):
    """train.py as people start it, with Ctrl-C after `seconds` -> exit code, stderr."""
    # One thread, as the other lives have: bits depend on their number.
    child = subprocess.Popen([sys.executable, ROOT / "train.py", *argv], text=True,
                             env={**os.environ, "OMP_NUM_THREADS": "1"},
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        said = child.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGINT)
        said = child.communicate(timeout=120)[1]
    return child.returncode, said


def test_kills(tree, tmp_path):
    """Killed at any moment, the same command goes on, and ends where an undisturbed run does."""
    attack = Attack("kills", tmp_path / "attack")
    rng = random.Random(SEED)
    whole = tmp_path / "whole"
    flags = words(tree, whole, save_minutes=0, log_every=3)
    assert live(flags, 300, signal.SIGKILL) == 0, "the undisturbed run"

    out = tmp_path / "killed"
    argv = words(tree, out, save_minutes=0, log_every=3, workers=1)
    while attack.cases < count("kills"):
        number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        said = ""
        if number == signal.SIGINT:               # it also hits the import of PyTorch
            code, said = live_in_shell(argv, rng.uniform(0.5, 9))
        else:
            code = live(argv, rng.uniform(0.05, 4), number)

        # It may have ended before the signal, or while Python was ending, which gives the handler
        # of Ctrl-C back first: the run is whole, and a new life begins.
        is_over = code in (0, -signal.SIGINT) and (out / "last.pt").exists()
        if is_over and same(outcome(out), outcome(whole)):
            shutil.rmtree(out)
            continue
        if code in CODES[number] and "Traceback" not in said:
            attack.note(number.name, Result("fine"))
        else:
            attack.note(number.name, Result(f"exit code {code}", said))

    assert live(argv, 300, signal.SIGKILL) == 0, "the last life, which nobody disturbs"
    if not same(outcome(out), outcome(whole)):
        attack.note("the end", Result("another outcome"))
    attack.end()


# ---- Videos --------------------------------------------------------------------------------------

KINDS = (("libx264", ".mp4"), ("mpeg4", ".mp4"), ("mpeg4", ".avi"), ("libvpx-vp9", ".webm"),
         ("mjpeg", ".avi"), ("libx264", ".mkv"), ("libx264", ".mov"), ("ffv1", ".mkv"),
         ("flv1", ".flv"), ("mpeg2video", ".mpg"), ("libx265", ".mp4"), ("wmv2", ".wmv"),
         ("libx264", ".ts"))
WAYS_TO_WATCH = (["decode"] * 5 + ["span"] * 2 + ["clips"] * 3 + ["check"] * 2 + ["video"] * 2
                 + ["pose"] * 2)


def video_seeds(folder):
    """Small sound videos of many codecs, with and without rotation and sound: {name: bytes}."""
    seeds = {}
    for codec, ending in KINDS:
        extras = [{}]
        if ending in (".mp4", ".mov"):
            extras += [{"rotation": 90}, {"audio": True}, {"b_frames": 2, "frames": 30}]
        options = {}
        if codec == "mjpeg":
            options["strict"] = "unofficial"
        for extra in extras:
            name = f"{codec}-{'-'.join(extra) or 'plain'}{ending}"
            with contextlib.suppress(Exception):  # a codec that this FFmpeg cannot write
                path = trees.write_video(folder / name, codec=codec, options=options, **extra)
                seeds[name] = path.read_bytes()
    return seeds


def test_videos(a_run, tmp_path):
    """Whatever a video is, each way to read it gives frames, or says which clip is at fault."""
    attack = Attack("videos", tmp_path / "attack")
    rng = random.Random(SEED)
    seeds = video_seeds(tmp_path / "seeds")
    assert len(seeds) > 10, f"too few codecs can be written here: {sorted(seeds)}"

    for number in range(count("videos")):
        folder = attack.folder / str(number)
        folder.mkdir()
        what, path = attack_video(rng, seeds, folder / "clip")
        rows = f"path,label,split\n{path.name},wave,train\n{path.name},wave,test\n"
        (folder / "clips.csv").write_text(rows)
        trees.pose(folder, "clip")
        way = rng.choice(WAYS_TO_WATCH)
        case = video_case(way, settings_for("custom", folder), path, a_run)
        attack.run(f"{number} {way} {what}", case)
        shutil.rmtree(folder)
    attack.end()


def video_case(way, cfg, path, a_run):
    """The case of one way that a video is read by."""
    span = annotations.Clip("clip", str(path), 0, start=0.1, end=0.3)

    def all_frames(instants):
        return range(len(instants))

    def native(H, W):
        return min(H, 64), min(W, 64)

    def open_items():
        for split, is_training, views in (("train", True, 1), ("test", False, 3)):
            dataset = data.Clips(cfg, split, is_training, views)
            error = dataset[0]["error"]
            assert not error or "clip" in error, error

    def watch_frames():
        for _ in pose.Video(path):
            pass

    if way == "decode":
        return lambda: call(lambda: decode(path, all_frames, native), [], says_all=False)
    if way == "span":
        return lambda: call(lambda: decode(path, all_frames, native, span), [], says_all=False)
    if way == "clips":
        return lambda: call(open_items, ["clip"], says_all=True)
    if way == "check":
        argv = ["check", "custom", "--root", str(cfg.folder), "--full", "--workers", "1"]
        return lambda: command(data.main, argv, [path.name, "clip"])
    if way == "video":
        joints = cfg.folder / "poses" / "clip.npz"
        argv = ["--ckpt", str(a_run), "--video", str(path), "--pose", str(joints),
                "--out", str(cfg.folder / "out"), "--device", "cpu"]
        return lambda: command(ev.main, argv, [path.name, "clip"])
    return lambda: call(watch_frames, [path.name], says_all=True)


# ---- Annotations ---------------------------------------------------------------------------------

SPLITS = ("train", "val", "test")
ENDINGS = (".json", ".txt", ".csv")
ODD_NAMES = [b"\xff\xfe.mp4", "Walk_p٣_r00_v01_c01.mp4".encode(), b"Walk_p03_r00_v01_c09.mp4",
             b"x.mp4", b".mp4", b"Walk_p99999999999999999999_r0_v0_c01.mp4",
             b"Fly_p03_r00_v01_c01.mp4"]


def master_trees(folder):
    """A sound tree of each data set: name -> its folder."""
    small = {}
    for ending in (".mp4", ".avi"):
        small[ending] = trees.write_video(folder / f"small{ending}").read_bytes()
    masters = {}
    for name, make in trees.TREES.items():
        masters[name] = folder / "masters" / name
        make(masters[name], small)
    return masters


def attack_tree(rng, root):
    """Spoil one file of the annotations below `root` -> the file's name, what it is now."""
    files = sorted(path for path in root.rglob("*") if path.suffix in ENDINGS)
    if not files:                                 # Toyota-Smarthome: the names are the annotation
        path = rng.choice(sorted(root.rglob("*.mp4")))
        odd = rng.choice(ODD_NAMES)
        os.rename(path, os.path.join(os.fsencode(path.parent), odd))
        return path.name, repr(odd)

    path = rng.choice(files)
    content = path.read_bytes()
    path.unlink()                                 # a link to the master, never written over
    if rng.random() < 0.05:
        return path.name, strange_thing(rng, path)
    what, changed = attack_annotation(rng, content, path.suffix == ".json")
    path.write_bytes(changed)
    return path.name, what


def test_annotations(tmp_path):
    """Whatever an annotation file holds, it is read, or the error says which file is at fault."""
    attack = Attack("annotations", tmp_path / "attack")
    rng = random.Random(SEED)
    masters = master_trees(tmp_path)

    for number in range(count("annotations")):
        name = rng.choice(sorted(masters))
        root = attack.folder / str(number)
        shutil.copytree(masters[name], root, copy_function=os.link)
        file, what = attack_tree(rng, root)
        attack.run(f"{number} {name} {file} {what}", annotation_case(name, root, rng))
        shutil.rmtree(root)
    attack.end()


def annotation_case(name, root, rng):
    """The case of reading a tree: all its splits, or `data.py check`."""
    other_diving = rng.random() < 0.2
    other_gym = rng.random() < 0.2
    version = ""
    if name == "diving48" and other_diving:
        version = "v1"
    if name == "gym99" and other_gym:
        version = "v1.1"
    cfg = settings_for(name, root, version=version)

    if rng.random() < 0.2:
        argv = ["check", name, "--root", str(root), "--workers", "1"]
        if version:
            argv += ["--version", version]
        return lambda: command(data.main, argv, [str(root)])

    def read():
        for split in SPLITS:
            dataset = data.Clips(cfg, split, train=False)
            assert len(dataset.texts) == len(dataset.labels)
            "".join(dataset.texts).encode()       # a lone surrogate could not be tokenised
            for clip in dataset.clips:
                assert 0 <= clip.label < len(dataset.labels) and clip.start < clip.end, clip

    return lambda: call(read, [str(root)], says_all=True)


# ---- Checkpoints, pose files, weights ------------------------------------------------------------

WAYS_TO_LOAD = (["checkpoint"] * 5 + ["resume"] * 2 + ["pose"] * 5 + ["hrnet"] * 3 + ["clip"] * 2
                + ["pickle"] * 3)
NAMES = {"checkpoint": "last.pt", "resume": "last.pt", "clip": "last.pt", "pose": "clip.npz",
         "hrnet": "net.pth", "pickle": "all.pkl"}


@dataclass
class Sound:
    """A sound file that torch.save wrote."""
    value: dict                                   # that it holds
    content: bytes


def sound_files(a_run):
    """The sound file of each way, of those that torch.save writes."""
    checkpoint = Sound(read_checkpoint(a_run / "last.pt"), (a_run / "last.pt").read_bytes())
    tiny = ROOT / "toy" / "tiny-clip.pt"
    network = {"state_dict": hrnet.HRNet(8, 17).state_dict()}
    return {
        "checkpoint": checkpoint,
        "resume": checkpoint,
        "hrnet": Sound(network, saved_bytes(network)),
        "clip": Sound(torch.load(tiny, weights_only=True), tiny.read_bytes()),
    }


def attack_weights(rng, way, path, sound, marker):
    """Put something at `path` in place of a file of weights or poses -> what it is.

    sound: the Sound file of this way; None for poses and pickles, whose files are made hostile.
    """
    draw = rng.random()
    if draw < 0.04:
        return strange_thing(rng, path)
    if way == "pose":
        what, content = pose_bytes(rng, marker)
        path.write_bytes(content)
        return what
    if way == "pickle" or draw < 0.12:
        path.write_bytes(rng.choice(pickles(marker)))
        return "pickle"
    if draw < 0.2:
        zeros = bytes(80_000_000)
        path.write_bytes(deflated({"a/data.pkl": zeros, "a/data/0": zeros}))
        return "bomb"
    if draw < 0.7:
        is_old = rng.random() < 0.2               # torch.save's format from before 1.6
        changed = changed_value(rng, sound.value, marker)
        with contextlib.suppress(Exception):      # a sparse tensor has no old format
            path.write_bytes(saved_bytes(changed, _use_new_zipfile_serialization=not is_old))
        return "value"
    what, content = damaged(rng, sound.content)
    path.write_bytes(content)
    return what


def test_weights(a_run, tree, tmp_path):
    """Whatever a file of weights or poses holds, it is loaded or refused by name, never run."""
    attack = Attack("weights", tmp_path / "attack")
    rng = random.Random(SEED)
    files = sound_files(a_run)

    for number in range(count("weights")):
        folder = attack.folder / str(number)
        folder.mkdir()
        way = rng.choice(WAYS_TO_LOAD)
        path = folder / NAMES[way]
        what = attack_weights(rng, way, path, files.get(way), attack.marker)
        if way == "resume":
            for name in ("config.json", "metrics.jsonl"):
                shutil.copy(a_run / name, folder / name)
        attack.run(f"{number} {way} {what}", weights_case(way, path, tree))
        shutil.rmtree(folder)
    attack.end()


def weights_case(way, path, tree):
    """The case of one way that a file of weights or poses is loaded by."""
    if way == "checkpoint":
        argv = ["--ckpt", str(path), "--root", str(tree), "--workers", "0", "--strips", "0",
                "--out", str(path.parent / "o")]
        return lambda: command(ev.main, argv, [str(path), "labels", "joints"])
    if way == "resume":
        argv = words(tree, path.parent, epochs=1)
        return lambda: command(until_first_step(train.main), argv, [str(path.parent)])
    if way == "pose":
        return lambda: call(lambda: pose.read_pose(path), [path.name], says_all=True)
    if way == "hrnet":
        return lambda: call(lambda: hrnet.load_hrnet(str(path)), [path.name], says_all=True)
    if way == "clip":
        return lambda: call(lambda: load_clip(str(path), backbone="tiny"), [path.name],
                            says_all=True)
    argv = ["import", "pyskl", str(path), "--out", str(path.parent / "poses")]
    return lambda: command(pose.main, argv, [path.name])


# ---- Commands ------------------------------------------------------------------------------------

class Enough(SystemExit):
    """The first step of a run was reached: what had to be refused was not, or need not be."""


def until_first_step(main):
    """A command that ends, well, where its first step or its evaluation would begin."""
    def enough(*_, **__):
        raise Enough(0)

    def run(argv):
        train.take_step = enough                  # in the child alone, which ends with its case
        train.evaluate = enough
        ev.evaluate = enough
        return main(argv)
    return run


VALUES = ["-1", "0", "1", "2", "3", "7", "nan", "inf", "-inf", "1e309", "1e-320",
          "99999999999999999999", "", " ", "None", "null", "true", "x", "Ä", "1,2", "0x10", "1_0",
          "-0", "1e3", ".5", "--", "a" * 5000, "meta", "cuda:99", "../..", "/dev/null", "vs,vs"]
WAYS_TO_CALL = (["train"] * 5 + ["eval"] * 3 + ["data"] * 2 + ["pose"] * 2 + ["costs", "lab"])
SHELL = (["train.py", "--list-rows"], ["data.py", "layout", "toy"], ["eval.py", "--ckpt", "none"],
         ["pose.py", "--help"])


def draw_flags(rng, classes, most):
    """Some flags of these dataclasses with values from VALUES, negations of switches among them."""
    argv = []
    for _ in range(rng.randrange(1, most + 1)):
        field = rng.choice(fields(rng.choice(classes)))
        flag = "--" + field.name.replace("_", "-")
        if field.name in ("out", "resume", "export", "compile"):
            continue
        if isinstance(field.default, bool):
            argv.append(rng.choice([flag, "--no-" + flag[2:], flag + "=1"]))
        else:
            argv.append(f"{flag}={rng.choice(VALUES)}")
    return argv


def pose_flags(rng, clip, gone, out):
    """A command line of pose.py with one senseless value. gone: a path at which nothing is."""
    weights = rng.choice(VALUES[:-1]) or "x"
    batch = rng.choice(VALUES)
    shard = rng.choice(VALUES)
    extractor = rng.choice(VALUES)
    unknown = rng.choice(VALUES)
    foreign = rng.choice(["pyskl", "k400", "smarthome", "openpose", "alphapose"])
    size = rng.choice(["0x0", "x", "48x64", "9" * 400 + "x1"])
    boxes = str(rng.choice([clip, gone, "/dev/zero"]))
    first = rng.choice(VALUES)
    extract = ["extract", str(clip), *out]
    return rng.choice([
        [*extract, "--weights", weights],
        [*extract, "--batch", batch],
        ["extract", str(gone), *out],
        [*extract, "--shard", shard],
        [*extract, "--extractor", extractor],
        ["import", unknown, str(clip), *out],
        ["import", foreign, str(clip), *out],
        ["import", "alphapose", str(clip), *out, "--size", size],
        [*extract, "--boxes", boxes],
        ["import", "alphapose", str(clip), *out, "--first", first]])


def draw_command(rng, way, folder, tree, clip, a_run):
    """-> main function of a command, and arguments of which some make no sense."""
    out = ["--out", str(folder / "run")]
    if way == "train":
        argv = words(tree, folder / "run", epochs=1)
        argv += draw_flags(rng, [train.TrainConfig, data.DataConfig, PeVLConfig], most=3)
        if rng.random() < 0.1:
            argv += rng.choice([["--fresh", "--resume"], ["--row", "table5/nop2v"],
                                ["--list-rowz"], ["--epochs"], ["stray"]])
        return train.main, argv
    if way == "eval":
        argv = ["--ckpt", str(a_run), *out, "--strips", "0"]
        return ev.main, argv + draw_flags(rng, [ev.EvalConfig, data.DataConfig], most=3)
    if way == "data":
        name = rng.choice([*data.DATASETS, "diving", ""])
        argv = [rng.choice(["check", "layout", "chek"]), name, "--root", str(folder)]
        return data.main, argv + draw_flags(rng, [data.DataConfig], most=2)
    if way == "pose":
        return pose.main, pose_flags(rng, clip, folder / "gone", out)
    if way == "costs":
        return costs.main, draw_flags(rng, [costs.CostConfig, PeVLConfig], most=2)
    argv = [rng.choice(["table5", "table10", "5", ""]), "--seeds", rng.choice(VALUES)]
    return lab.main, argv + words(tree, folder / "run", epochs=1)


def command_case(main, argv):
    return lambda: command(until_first_step(main), argv, names=[])


def test_commands(a_run, tree, tmp_path, monkeypatch):
    """Whatever stands on a command line, it begins its work or refuses in three parts; and from a
    shell, in the folder of traps, no file of that folder is imported."""
    attack = Attack("commands", tmp_path / "attack")
    rng = random.Random(SEED)
    (tmp_path / "small").mkdir()
    clip = trees.write_video(tmp_path / "small" / "clip.mp4")
    for number in range(count("commands")):
        way = rng.choice(WAYS_TO_CALL)
        folder = attack.folder / str(number)
        main, argv = draw_command(rng, way, folder, tree, clip, a_run)
        attack.run(f"{number} {way} {argv[-3:]}", command_case(main, argv))

    for script, *flags in SHELL:
        done = subprocess.run([sys.executable, ROOT / script, *flags], cwd=attack.trap,
                              capture_output=True, text=True)
        kind = f"exit code {done.returncode}"
        if done.returncode in (0, 2) and "Traceback" not in done.stderr:
            kind = "fine"
        attack.note(f"shell {script}", Result(kind, done.stderr))

    monkeypatch.chdir(attack.trap)                # the workers that draw the clips start there
    make_toy(tmp_path / "toy", {"train": 2, "val": 1, "test": 1}, workers=1,
             progress=children.draw_nothing)
    attack.note("make_toy", Result("fine"))
    attack.end()
