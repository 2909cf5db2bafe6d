"""Attacks on the whole program: broken, foreign and hostile input, wrong commands, kills at any moment.

    python -m pytest -m slow tests/attack.py -s                        all of it
    PEVL_ATTACK=0.05 PEVL_ATTACK_SEED=7 python -m pytest -m slow tests/attack.py -s -k videos

PEVL_ATTACK is a factor on the COUNTS, PEVL_ATTACK_SEED (0) the seed of what is drawn, PEVL_ATTACK_ONLY the number
of the one case that is run again, with the same draws. Each case runs in a forked child with a limit on time and memory, in a folder that is full of traps. A case fails
the attack where it ends in a traceback or a signal, takes over 20 s or 2 GB, runs a line of foreign code, or
where its error does not name the file or lacks one of its three parts. docs/robustness.md has the last results.

here               | what is attacked                                          | by what
test_kills         | train.py: a run goes on bit for bit, and exits as it says | SIGKILL, SIGTERM, SIGINT at any moment
test_videos        | decode, Clips, data.py check, eval.py --video, pose.Video | damaged, foreign, huge and endless files
test_annotations   | the readers of nine data sets                             | damaged bytes, other encodings, other shapes
test_weights       | checkpoints, pose files, HRNet's, CLIP's weights, pickles | damage, missing parts, bombs, foreign code
test_commands      | train, eval, data, pose, tables.costs, toy.lab            | values that make no sense
"""
import collections
import contextlib
import copy
import io
import json
import math
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import traceback
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

import data
import eval as ev
import pose
import train
import trees
from clip_model import load_clip
from published import annotations, hrnet
from runs import outcome, words
from support.checkpoints import read_checkpoint
from support.video import BROKEN, decode
from systems.config import PeVLConfig
from tables import costs
from test_train import same
from toy import lab
from toy.tree import make_toy

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
FACTOR = float(os.environ.get("PEVL_ATTACK", "1"))
SEED = int(os.environ.get("PEVL_ATTACK_SEED", "0"))
ONLY = os.environ.get("PEVL_ATTACK_ONLY")
COUNTS = {"kills": 20, "videos": 500, "annotations": 1000, "weights": 200, "commands": 300}
SECONDS = 20                                      # that a case may take
MEMORY = 2 * 2 ** 30                              # bytes that it may use beside what it began with


def count(part):
    return max(1, round(COUNTS[part] * FACTOR))


# ---- One case in a child of its own --------------------------------------------------------------

class Result:
    """What became of a case: `kind` is "fine", "refused" or what went wrong; `text` says more."""

    def __init__(self, kind, text):
        self.kind = kind
        self.text = text


def resident():
    """Bytes of memory that this process uses."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def limit_memory():
    """Far more than MEMORY, so that the machine stays alive; what was used is measured at the end."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 2 * MEMORY, resource.RLIM_INFINITY))
    Path("/proc/self/clear_refs").write_text("5")             # the highest use begins anew


def highest():
    """The most bytes of memory that this process used since `limit_memory`."""
    said = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    return int(said) * 1024


def three_parts(text):
    """What was wrong, `Expected ...`, and a sentence about what to do next."""
    before, expected, after = text.partition("Expected")
    return bool(before.strip(" .") and expected) and any(
        mark + " " in after.strip() for mark in (".", "?", ";", ":"))


def judge_error(text, names):
    """-> Result of a refusal: does its text name one of `names`, and has it three parts?"""
    if names and not any(name in text for name in names):
        return Result("no file named", text)
    if not three_parts(text):
        return Result("not three parts", text)
    return Result("refused", text)


def call(job, names, says_all):
    """Call `job()` in the child -> Result. names: of which a refusal must name one. says_all: whether its text
    must have three parts (decode's is put into such a text by whoever calls it)."""
    try:
        job()
        return Result("fine", "")
    except (ValueError, OSError, *BROKEN) as error:
        return judge_error(str(error), names) if says_all else Result("refused", str(error))


def command(main, argv, names):
    """Call `main(argv)` as the command line does -> Result."""
    said = io.StringIO()
    out = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(out):
        try:
            code = main(argv)
        except SystemExit as stop:
            code = stop.code
    text = said.getvalue().strip()
    if "Traceback" in text + out.getvalue():
        return Result("traceback", text)
    if code in (0, None, 1, 130):
        return Result("fine", out.getvalue()[-300:])
    lines = [line for line in text.splitlines() if line.startswith("error")]
    if code != 2 or not lines or not lines[-1].startswith("error: "):
        return Result(f"exit code {code} without `error: `", text)
    return judge_error("\n".join(text.splitlines()[text.splitlines().index(lines[-1]):]), names)


def in_child(case, folder):
    """Run `case()` -> Result in a child whose folder is full of traps -> Result."""
    source, sink = os.pipe()
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(source)
        try:
            os.chdir(folder)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0), os.dup2(null, 1), os.dup2(null, 2)
            limit_memory()
            before = resident()
            try:
                result = case()
            except BaseException:
                result = Result("traceback", traceback.format_exc(chain=False)[:4000])
            used = highest() - before
            if used > MEMORY:
                result = Result("memory", f"{used / 2 ** 20:.0f} MiB; {result.kind}: {result.text}")
            os.write(sink, json.dumps([result.kind, result.text[:5000]]).encode()[:60000])
        finally:
            os._exit(0)

    os.close(sink)
    os.set_blocking(source, False)
    content = b""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        with contextlib.suppress(BlockingIOError):
            content += os.read(source, 65536)
        if done or time.monotonic() - begun > SECONDS:
            break
        time.sleep(0.002)
    if not done:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(source)
        return Result("hang", f"over {SECONDS} s")
    with contextlib.suppress(BlockingIOError):
        content += os.read(source, 65536)
    os.close(source)
    if not content:
        return Result(f"ended by signal {status}", "")
    return Result(*json.loads(content))


class Attack:
    """A part of the attack: runs cases, counts what became of them, and fails at the end."""

    def __init__(self, part, folder):
        self.part = part
        self.folder = Path(folder)
        self.trap = self.folder / "trap"
        self.marker = self.folder / "marker"
        self.tally = collections.Counter()
        self.faults = []
        self.begun = time.monotonic()
        self.trap.mkdir(parents=True)
        for name in ("hashlib", "json", "re", "numpy", "av", "pickle", "sitecustomize", "support", "torch"):
            (self.trap / f"{name}.py").write_text(f"open({str(self.marker)!r}, 'w')\nraise SystemExit(9)\n")

    def run(self, name, case):
        if ONLY and name.split()[0] != ONLY:
            return
        result = in_child(case, self.trap)
        if self.marker.exists():
            self.marker.unlink()
            result = Result("foreign code ran", result.text)
        self.note(name, result)

    def note(self, name, result):
        self.tally[result.kind] += 1
        if result.kind not in ("fine", "refused"):
            self.faults.append(f"{name}: {result.kind}\n    {result.text[:2500]}")

    def end(self):
        spent = time.monotonic() - self.begun
        print(f"\n{self.part}, seed {SEED}: {sum(self.tally.values())} cases in {spent:.0f} s: {dict(self.tally)}")
        for fault in self.faults[:40]:
            print("FAULT", fault)
        assert not self.faults, f"{len(self.faults)} of {sum(self.tally.values())} {self.part} fell"


# ---- Damage to bytes -----------------------------------------------------------------------------

def damaged(rng, content):
    """-> name of the damage, the bytes with it."""
    content = bytearray(content)
    size = max(len(content), 1)
    how = rng.choice(["cut", "flip", "flips", "zeros", "insert", "swap", "repeat", "empty", "other", "tail", "sizes"])
    if how == "cut":
        content = content[:rng.randrange(size)]
    elif how in ("flip", "flips"):
        for _ in range(1 if how == "flip" else rng.randrange(2, 60)):
            if content:
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif how == "zeros":
        at = rng.randrange(size)
        content[at:at + rng.randrange(1, 400)] = bytes(rng.randrange(1, 400))
    elif how == "insert":
        at = rng.randrange(size)
        content[at:at] = rng.randbytes(rng.randrange(1, 200))
    elif how == "swap":
        at = sorted(rng.randrange(size) for _ in range(3))
        content = content[:at[0]] + content[at[1]:at[2]] + content[at[0]:at[1]] + content[at[2]:]
    elif how == "repeat":
        content = content * rng.randrange(2, 5)
    elif how == "empty":
        content = bytearray()
    elif how == "other":
        content = bytearray(rng.choice(OTHER))
    elif how == "tail":
        content += rng.randbytes(rng.randrange(1, 3000))
    elif how == "sizes" and len(content) > 8:     # numbers of four bytes that are absurd
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(content) - 4)
            content[at:at + 4] = rng.choice([b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4), b"\0\0\x40\0", b"\0\x40\0\0"])
    return how, bytes(content)


OTHER = [
    b"<!DOCTYPE html><html>404</html>", b"version https://git-lfs.github.com/spec/v1\n", b"PK\x03\x04" + bytes(60),
    b"PK\x05\x06" + bytes(18), b"\x1f\x8b\x08" + bytes(40), bytes(5000), b"\xff\xfe" + "text".encode("utf-16-le"),
    "Ärger\n".encode("latin-1"), b"ffconcat version 1.0\nfile 'small.mp4'\n", b"\x80\x04N.", b"\x93NUMPY" + bytes(90),
    b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n", b"RIFF\xff\xff\xff\xffAVI LIST",
    b"\x89PNG\r\n\x1a\n" + bytes(50), b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n", b"\xff\xd8\xff\xe0" + bytes(100),
]


def strange_thing(rng, path):
    """Put something at `path` that is no regular file -> its name."""
    how = rng.choice(["fifo", "folder", "nothing", "loop", "zero", "dangling"])
    if how == "fifo":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how == "loop":
        path.symlink_to(path)
    elif how == "zero":
        path.symlink_to("/dev/zero")
    elif how == "dangling":
        path.symlink_to(path.with_name("gone"))
    return how


# ---- Kills ---------------------------------------------------------------------------------------

PRELOAD = multiprocessing.get_context("forkserver")
CODES = {signal.SIGKILL: (0, -signal.SIGKILL), signal.SIGTERM: (0, 143, -signal.SIGTERM), signal.SIGINT: (0, 130)}


def plain_run(argv):
    """train.py without its pictures, which take half of the time of so small a run."""
    torch.set_num_threads(1)
    train.write_results = train.draw_curves = lambda *_, **__: None
    sys.exit(train.main(argv))


def life(argv, seconds, number):
    """The command in a child that gets a signal after `seconds` -> its exit code."""
    child = PRELOAD.Process(target=plain_run, args=(argv,))
    child.start()
    child.join(seconds)
    if child.is_alive():
        os.kill(child.pid, number)
        child.join(120)
    assert child.exitcode is not None, "it does not end"
    return child.exitcode


def real_life(argv, seconds):
    """The command as people start it, in a process of its own that gets Ctrl-C after `seconds` -> exit code, stderr."""
    child = subprocess.Popen([sys.executable, ROOT / "train.py", *argv], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        said = child.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGINT)
        said = child.communicate(timeout=120)[1]
    return child.returncode, said


def test_kills(tree, tmp_path):
    """Killed at any moment, the same command goes on, and ends where an undisturbed run does."""
    PRELOAD.set_forkserver_preload(["train"])
    attack = Attack("kills", tmp_path / "attack")
    rng = random.Random(SEED)
    whole = tmp_path / "whole"
    assert life(words(tree, whole, save_minutes=0, log_every=3), 300, signal.SIGKILL) == 0

    out = tmp_path / "killed"
    argv = words(tree, out, save_minutes=0, log_every=3, workers=1)
    while sum(attack.tally.values()) < count("kills"):
        number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        said = ""
        if number == signal.SIGINT:               # Ctrl-C also hits the seconds in which PyTorch is imported
            code, said = real_life(argv, rng.uniform(0.5, 9))
        else:
            code = life(argv, rng.uniform(0.05, 4), number)
        if code == 0 and same(outcome(out), outcome(whole)):              # it ended before: a new life
            shutil.rmtree(out)
            continue
        fine = code in CODES[number] and code != 0
        fine = fine and "Traceback" not in said
        attack.note(f"{number.name}", Result("fine" if fine else f"exit code {code}", said))
    assert life(argv, 300, signal.SIGKILL) == 0
    if not same(outcome(out), outcome(whole)):
        attack.note("the end", Result("another outcome", ""))
    attack.end()


# ---- Videos --------------------------------------------------------------------------------------

KINDS = (("libx264", ".mp4"), ("mpeg4", ".mp4"), ("mpeg4", ".avi"), ("libvpx-vp9", ".webm"), ("mjpeg", ".avi"),
         ("libx264", ".mkv"), ("libx264", ".mov"), ("ffv1", ".mkv"), ("flv1", ".flv"), ("mpeg2video", ".mpg"),
         ("libx265", ".mp4"), ("wmv2", ".wmv"), ("libx264", ".ts"))


# How containers name them.
CODECS = (b"avc1", b"hvc1", b"hev1", b"mp4v", b"MJPG", b"FMP4", b"FFV1", b"WMV2", b"V_VP9", b"V_MPEG4/ISO/AVC", b"V_FFV1")


def video_seeds(folder):
    """Small sound videos of many codecs, with and without rotation and sound: {name: bytes}."""
    seeds = {}
    for codec, ending in KINDS:
        for extra in ({}, {"rotation": 90}, {"audio": True}, {"b_frames": 2, "frames": 30}):
            if extra and ending not in (".mp4", ".mov"):
                continue
            name = f"{codec}-{'-'.join(extra) or 'plain'}{ending}"
            with contextlib.suppress(Exception):  # a codec that this FFmpeg cannot write
                options = {"strict": "unofficial"} if codec == "mjpeg" else {}
                seeds[name] = trees.write_video(folder / name, codec=codec, options=options, **extra).read_bytes()
    return seeds


def large_claims(content):
    """A copy of each place where an mjpeg or avi says 64 x 48, saying 16384 x 16384 instead."""
    told = (struct.pack("<II", 64, 48), struct.pack(">HH", 48, 64), struct.pack(">HH", 64, 48))
    big = (struct.pack("<II", 16384, 16384), struct.pack(">HH", 16384, 16384), struct.pack(">HH", 16384, 16384))
    for small, large in zip(told, big):
        content = content.replace(small, large)
    return content


def attack_video(rng, seeds, path):
    """Put something at `path` (without ending) -> what it is, its path."""
    name = rng.choice(sorted(seeds))
    path = path.with_suffix(Path(name).suffix)
    draw = rng.random()
    if draw < 0.08:
        return strange_thing(rng, path), path
    if draw < 0.18:
        path.write_bytes(large_claims(seeds[name]))
        return f"16k {name}", path
    if draw < 0.25:
        path.write_bytes(seeds[name])
        return f"whole {name}", path
    if draw < 0.3:
        content = seeds[name]
        for codec in CODECS:
            content = content.replace(codec, b"zzzz"[:len(codec)])
        path.write_bytes(content.replace(b"esds", b"free").replace(b"avcC", b"free"))
        return f"no codec {name}", path
    how, content = damaged(rng, seeds[name])
    if rng.random() < 0.3:
        how2, content = damaged(rng, content)
        how += "+" + how2
    path.write_bytes(content)
    return f"{how} {name}", path


@pytest.fixture(scope="module")
def a_run(tmp_path_factory, tree):
    """A small finished run of train.py, for eval.py and for damage to its checkpoint."""
    out = tmp_path_factory.mktemp("run") / "run"
    assert life(words(tree, out, epochs=1), 300, signal.SIGKILL) == 0
    return out


def test_videos(a_run, tmp_path):
    attack = Attack("videos", tmp_path / "attack")
    rng = random.Random(SEED)
    seeds = video_seeds(tmp_path / "seeds")
    assert len(seeds) > 10, sorted(seeds)

    for number in range(count("videos")):
        folder = attack.folder / str(number)
        folder.mkdir()
        what, path = attack_video(rng, seeds, folder / "clip")
        rows = f"path,label,split\n{path.name},wave,train\n{path.name},wave,test\n"
        (folder / "clips.csv").write_text(rows)
        trees.pose(folder, "clip")
        cfg = data.DataConfig(data="custom", root=str(folder), pose_frames=6, video_frames=3, image_size=16, workers=0)
        way = rng.choice(["decode"] * 5 + ["span"] * 2 + ["clips"] * 3 + ["check"] * 2 + ["video"] * 2 + ["pose"] * 2)
        attack.run(f"{number} {way} {what}", video_case(way, cfg, path, a_run))
        shutil.rmtree(folder)
    attack.end()


def video_case(way, cfg, path, a_run):
    """The case of one way that a video is read by."""
    def all_frames(instants):
        return range(len(instants))

    def native(H, W):
        return min(H, 64), min(W, 64)

    def items():
        for split, is_training, views in (("train", True, 1), ("test", False, 3)):
            dataset = data.Clips(cfg, split, is_training, views)
            error = dataset[0]["error"]
            assert not error or "clip" in error, error

    def frames():
        for _ in pose.Video(path):
            pass

    if way == "decode":
        return lambda: call(lambda: decode(path, all_frames, native), [], says_all=False)
    if way == "span":
        span = annotations.Clip("clip", str(path), 0, start=0.1, end=0.3)
        return lambda: call(lambda: decode(path, all_frames, native, span), [], says_all=False)
    if way == "clips":
        return lambda: call(items, ["clip"], says_all=True)
    if way == "check":
        argv = ["check", "custom", "--root", str(cfg.folder), "--full", "--workers", "1"]
        return lambda: command(data.main, argv, [path.name, "clip"])
    if way == "video":
        argv = ["--ckpt", str(a_run), "--video", str(path), "--pose", str(cfg.folder / "poses" / "clip.npz"),
                "--out", str(cfg.folder / "out"), "--device", "cpu"]
        return lambda: command(ev.main, argv, [path.name, "clip"])
    return lambda: call(frames, [path.name], says_all=True)


# ---- Annotations ---------------------------------------------------------------------------------

NODES = [None, True, False, 0, -1, 1.5, 2 ** 70, -2 ** 63 - 1, math.inf, "", "x" * 5000, "\ud800", "a\0b", [], {}, [[]], {"": 0},
         [None] * 3, "../../etc/passwd", "Ä", float("nan")]


def changed_json(rng, value):
    """A copy of a JSON value with one place changed."""
    value = copy.deepcopy(value)
    holder, key, inner = None, None, value
    for _ in range(rng.randrange(0, 5)):
        if isinstance(inner, dict) and inner:
            holder, key = inner, rng.choice(sorted(inner))
        elif isinstance(inner, list) and inner:
            holder, key = inner, rng.randrange(len(inner))
        else:
            break
        inner = holder[key]
    new = rng.choice(NODES)
    if holder is None:
        return new
    if rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = new
    return value


def changed_text(rng, text):
    """A text with a line or a cell changed."""
    lines = text.splitlines(keepends=True) or [""]
    at = rng.randrange(len(lines))
    how = rng.randrange(8)
    if how == 0:
        lines.insert(at, lines[rng.randrange(len(lines))])
    elif how == 1:
        del lines[at]
    elif how == 2:
        cells = lines[at].split(",")
        cells[rng.randrange(len(cells))] = rng.choice(["", "-1", "nan", "1e999", '"', "x" * 140000, "20f", "1,2", "\0", "9" * 30])
        lines[at] = ",".join(cells)
    elif how == 3:
        lines[at] = lines[at].replace(" ", rng.choice(["", "\t\t", "\u2028", " 99999999999 "]))
    elif how == 4:
        lines[at] = "".join(rng.sample(lines[at], len(lines[at])))
    elif how == 5:
        lines = lines * rng.randrange(2, 30)
    elif how == 6:
        lines[at] = rng.choice(["\n", "\r", "#\n", "0\n", "null\n", '"\n', "\ufeff\n", "²\n", "٣ x\n"])
    else:
        lines[0] = lines[0].upper()
    return "".join(lines)


def attack_annotation(rng, content, is_json):
    """-> what was done, bytes."""
    draw = rng.random()
    if is_json and draw < 0.5:
        value = changed_json(rng, json.loads(content))
        return "node", json.dumps(value).encode("utf-8", "surrogatepass")
    if not is_json and draw < 0.5:
        return "line", changed_text(rng, content.decode()).encode("utf-8", "surrogatepass")
    if draw < 0.6:
        coding = rng.choice(["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp037"])
        return coding, content.decode().encode(coding)
    if draw < 0.65:
        return "deep", b"[" * 200000
    if draw < 0.7:
        return "digits", b"9" * rng.choice([20, 5000, 50000])
    return damaged(rng, content)


SPLITS = ("train", "val", "test")


def test_annotations(tmp_path):
    attack = Attack("annotations", tmp_path / "attack")
    rng = random.Random(SEED)
    small = {}
    for ending in (".mp4", ".avi"):
        small[ending] = trees.write_video(tmp_path / f"small{ending}").read_bytes()
    masters = {}
    for name, make in trees.TREES.items():
        masters[name] = tmp_path / "masters" / name
        make(masters[name], small)

    for number in range(count("annotations")):
        name = rng.choice(sorted(masters))
        root = attack.folder / str(number)
        shutil.copytree(masters[name], root, copy_function=os.link)
        files = sorted(path for path in root.rglob("*") if path.suffix in (".json", ".txt", ".csv"))
        if files:
            path = rng.choice(files)
            content = path.read_bytes()
            path.unlink()
            if rng.random() < 0.05:
                what = strange_thing(rng, path)
            else:
                what, changed = attack_annotation(rng, content, path.suffix == ".json")
                path.write_bytes(changed)
        else:                                     # Toyota-Smarthome: the names are the annotation
            path = rng.choice(sorted(root.rglob("*.mp4")))
            odd = rng.choice([b"\xff\xfe.mp4", "Walk_p٣_r00_v01_c01.mp4".encode(), b"Walk_p03_r00_v01_c09.mp4", b"x.mp4", b".mp4",
                              b"Walk_p99999999999999999999_r0_v0_c01.mp4", b"Fly_p03_r00_v01_c01.mp4"])
            what = repr(odd)
            os.rename(path, os.path.join(os.fsencode(path.parent), odd))
        attack.run(f"{number} {name} {path.name} {what}", annotation_case(name, root, rng))
        shutil.rmtree(root)
    attack.end()


def annotation_case(name, root, rng):
    how = {"version": {"diving48": "v1" if rng.random() < 0.2 else "", "gym99": "v1.1" if rng.random() < 0.2 else ""}.get(name, "")}
    cfg = data.DataConfig(data=name, root=str(root), pose_frames=6, video_frames=3, image_size=16, workers=0, **how)
    if rng.random() < 0.2:
        flags = ["--version", cfg.version] if cfg.version else []
        argv = ["check", name, "--root", str(root), "--workers", "1", *flags]
        return lambda: command(data.main, argv, [str(root)])

    def read():
        for split in SPLITS:
            dataset = data.Clips(cfg, split, train=False)
            assert len(dataset.texts) == len(dataset.labels)
            "".join(dataset.texts).encode()
            for clip in dataset.clips:
                assert 0 <= clip.label < len(dataset.labels) and clip.start < clip.end

    return lambda: call(read, [str(root)], says_all=True)


# ---- Checkpoints, pose files, weights ------------------------------------------------------------

class Evil:
    """Unpickled carelessly, it writes the marker."""

    def __init__(self, marker, how):
        self.marker = str(marker)
        self.how = how

    def __reduce__(self):
        if self.how == "system":
            return os.system, (f"touch {self.marker}",)
        if self.how == "open":
            return open, (self.marker, "w")
        return eval, (f"open({self.marker!r}, 'w')",)


def changed_value(rng, value, marker):
    """A copy of a nested value (of a checkpoint) with one place changed."""
    value = copy.deepcopy(value)
    holder, key, inner = None, None, value
    for _ in range(rng.choice([1, 1, 1, 2, 2, 3])):
        if isinstance(inner, dict) and inner:
            holder, key = inner, rng.choice(list(inner))
        elif isinstance(inner, list) and inner:
            holder, key = inner, rng.randrange(len(inner))
        else:
            break
        inner = holder[key]
    if rng.random() < 0.3:
        del holder[key]
        return value
    holder[key] = rng.choice([
        None, True, -1, 10 ** 12, "x", [], {}, math.nan, torch.zeros(3), torch.zeros(2, 2, dtype=torch.complex64),
        torch.zeros(1).expand(10 ** 9), torch.zeros(2, 2).to_sparse(), torch.zeros(5, dtype=torch.int64), [None], {"a": 1}, {3: 4},
        Evil(marker, rng.choice(["system", "open", "eval"])), torch.full((2,), math.nan), "\ud800", b"bytes", (1, 2)])
    return value


def pickles(marker):
    """Files that are programs, or that ask a careless reader for gigabytes."""
    found = [pickle.dumps(Evil(marker, how), protocol) for how in ("system", "open", "eval") for protocol in (0, 2, 4)]
    found += [pickle.dumps({"annotations": [Evil(marker, "open")]}, 2), b"\x80\x02Nr\xff\xff\xff\x7f.", b"\x80\x02]" + b"(" * 10 ** 6,
              b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f" + b"x.", b"\x80\x02" + b"]" * 10 ** 5 + b"a" * (10 ** 5 - 1) + b".",
              b"cos\nsystem\n(Vtouch " + str(marker).encode() + b"\ntR.", b"\x80\x02cnumpy\nndarray\n(K\x01tR."]
    return found


def deflated(content_of):
    """The bytes of a zip: {name: bytes}, packed."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in content_of.items():
            file.writestr(name, content)
    return out.getvalue()


def saved_bytes(value, **how):
    out = io.BytesIO()
    torch.save(value, out, **how)
    return out.getvalue()


def npy(array, claim=None):
    """An array as .npy; claim: the shape that its head says instead."""
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    content = out.getvalue()
    if claim:
        old = str(array.shape).encode()
        new = str(claim).encode()
        content = content.replace(old + b", }" + b" " * (len(new) - len(old)), new + b", }")
    return content


def pose_bytes(rng, marker):
    """A hostile .npz -> its name, bytes."""
    fields_of = {"keypoints": np.zeros((12, 17, 2), np.float32), "scores": np.ones((12, 17), np.float32),
                 "size": np.array([48, 64]), "times": np.arange(12) / 25, "joints": np.array(trees.COCO),
                 "extractor": np.array("me")}
    parts = {f"{name}.npy": npy(value) for name, value in fields_of.items()}
    name = rng.choice(sorted(fields_of))
    how = rng.choice(["bytes", "missing", "bomb", "claim", "objects", "kind", "shape", "values", "lie"])
    if how == "missing":
        del parts[f"{name}.npy"]
    elif how == "bomb":
        parts[f"{name}.npy"] = npy(np.zeros(36_000_000, np.float64))
    elif how == "claim":
        parts["scores.npy"] = npy(fields_of["scores"], claim=(90_000_000, 17))
    elif how == "objects":
        parts[f"{name}.npy"] = npy(np.array([Evil(marker, "open")] * 3, dtype=object))
    elif how == "kind":
        odd = rng.choice([np.array("x"), np.array([1 + 2j]), np.array(["2020-01-01"], "datetime64[s]"), np.array(["x" * 9] * 500_000),
                          np.zeros(3, [("a", "f4"), ("b", "i8")]), np.zeros((), np.float32)])
        parts[f"{name}.npy"] = npy(odd)
    elif how == "shape":
        parts[f"{name}.npy"] = npy(np.zeros(rng.choice([(0,), (12,), (12, 17), (12, 17, 2, 2), (1,) * 30, (13, 17, 2)])))
    elif how == "values":
        parts[f"{name}.npy"] = npy(np.full_like(fields_of[name], rng.choice([math.nan, math.inf, -1, 1e38]))
                                   if fields_of[name].dtype.kind == "f" else np.array([10 ** 18, -5]))
    content = deflated(parts)
    if how == "bytes":
        how, content = damaged(rng, content)
    if how == "lie":                              # the directory understates a member
        size = struct.pack("<I", len(parts["keypoints.npy"]))
        content = content.replace(size, struct.pack("<I", 100))
    return f"{how} {name}", content


def test_weights(a_run, tree, tmp_path):
    attack = Attack("weights", tmp_path / "attack")
    rng = random.Random(SEED)
    whole = (a_run / "last.pt").read_bytes()
    saved = read_checkpoint(a_run / "last.pt")
    tiny = (ROOT / "toy" / "tiny-clip.pt").read_bytes()
    tiny_state = torch.load(ROOT / "toy" / "tiny-clip.pt", weights_only=True)
    thin = hrnet.HRNet(8, 17).state_dict()
    ways = ["checkpoint"] * 5 + ["resume"] * 2 + ["pose"] * 5 + ["hrnet"] * 3 + ["clip"] * 2 + ["pickle"] * 3

    for number in range(count("weights")):
        folder = attack.folder / str(number)
        folder.mkdir()
        way = rng.choice(ways)
        path = folder / {"pose": "clip.npz", "pickle": "all.pkl", "hrnet": "net.pth"}.get(way, "last.pt")
        value, content = {"checkpoint": (saved, whole), "resume": (saved, whole), "hrnet": ({"state_dict": thin}, None),
                          "clip": (tiny_state, tiny)}.get(way, (None, None))
        draw = rng.random()
        if draw < 0.04:
            what = strange_thing(rng, path)
        elif way == "pose":
            what, content = pose_bytes(rng, attack.marker)
            path.write_bytes(content)
        elif way == "pickle" or draw < 0.12:
            what = "pickle"
            path.write_bytes(rng.choice(pickles(attack.marker)))
        elif draw < 0.2:
            what = "bomb"
            parts = {f"a/{part}": bytes(80_000_000) for part in ("data.pkl", "data/0")}
            path.write_bytes(deflated(parts))
        elif draw < 0.7:
            what = "value"
            old = rng.random() < 0.2              # torch.save's format from before 1.6
            changed = changed_value(rng, value, attack.marker)
            with contextlib.suppress(Exception):  # a sparse tensor has no old format
                path.write_bytes(saved_bytes(changed, _use_new_zipfile_serialization=not old))
        else:
            content = content or saved_bytes(value)
            what, content = damaged(rng, content)
            path.write_bytes(content)
        if way == "resume":
            for name in ("config.json", "metrics.jsonl"):
                shutil.copy(a_run / name, folder / name)
        attack.run(f"{number} {way} {what}", weights_case(way, path, tree))
        shutil.rmtree(folder)
    attack.end()


def weights_case(way, path, tree):
    if way == "checkpoint":
        argv = ["--ckpt", str(path), "--root", str(tree), "--workers", "0", "--strips", "0", "--out", str(path.parent / "o")]
        return lambda: command(ev.main, argv, [str(path), "labels", "joints"])
    if way == "resume":
        argv = words(tree, path.parent, epochs=1)
        return lambda: command(one_step(train.main), argv, [str(path.parent)])
    if way == "pose":
        return lambda: call(lambda: pose.read_pose(path), [path.name], says_all=True)
    if way == "hrnet":
        return lambda: call(lambda: hrnet.load_hrnet(str(path)), [path.name], says_all=True)
    if way == "clip":
        return lambda: call(lambda: load_clip(str(path), backbone="tiny"), [path.name], says_all=True)
    argv = ["import", "pyskl", str(path), "--out", str(path.parent / "poses")]
    return lambda: command(pose.main, argv, [path.name])


# ---- Commands ------------------------------------------------------------------------------------

class Enough(SystemExit):
    """The first step of a run was reached: what had to be refused was not, or need not be."""


def one_step(main):
    """A command that ends, well, where its first step or its evaluation would begin."""
    def enough(*_, **__):
        raise Enough(0)

    def run(argv):
        train.take_step = enough
        ev.evaluate = enough
        train.evaluate = enough
        return main(argv)
    return run


VALUES = ["-1", "0", "1", "2", "3", "7", "nan", "inf", "-inf", "1e309", "1e-320", "99999999999999999999", "", " ", "None", "null",
          "true", "x", "Ä", "1,2", "0x10", "1_0", "-0", "1e3", ".5", "--", "a" * 5000, "meta", "cuda:99", "../..", "/dev/null", "vs,vs"]


def draw_flags(rng, classes, most):
    """Some flags of these dataclasses with values from VALUES, negations of switches among them."""
    argv = []
    for _ in range(rng.randrange(1, most + 1)):
        cls = rng.choice(classes)
        field = rng.choice(fields(cls))
        flag = "--" + field.name.replace("_", "-")
        if field.name in ("out", "resume", "export", "compile"):
            continue
        if isinstance(field.default, bool):
            argv.append(rng.choice([flag, "--no-" + flag[2:], flag + "=1"]))
        else:
            argv.append(f"{flag}={rng.choice(VALUES)}")
    return argv


def test_commands(a_run, tree, tmp_path, monkeypatch):
    attack = Attack("commands", tmp_path / "attack")
    rng = random.Random(SEED)
    (tmp_path / "small").mkdir()
    clip = trees.write_video(tmp_path / "small" / "clip.mp4")
    training = [train.TrainConfig, data.DataConfig, PeVLConfig]
    for number in range(count("commands")):
        folder = attack.folder / str(number)
        way = rng.choice(["train"] * 5 + ["eval"] * 3 + ["data"] * 2 + ["pose"] * 2 + ["costs", "lab"])
        out = ["--out", str(folder / "run")]
        if way == "train":
            main, argv = train.main, [*words(tree, folder / "run", epochs=1), *draw_flags(rng, training, 3)]
            if rng.random() < 0.1:
                argv += rng.choice([["--fresh", "--resume"], ["--row", "table5/nop2v"], ["--list-rowz"], ["--epochs"], ["stray"]])
        elif way == "eval":
            main = ev.main
            argv = ["--ckpt", str(a_run), *out, "--strips", "0", *draw_flags(rng, [ev.EvalConfig, data.DataConfig], 3)]
        elif way == "data":
            main = data.main
            name = rng.choice([*data.DATASETS, "diving", ""])
            argv = [rng.choice(["check", "layout", "chek"]), name, "--root", str(folder), *draw_flags(rng, [data.DataConfig], 2)]
        elif way == "pose":
            main = pose.main
            argv = rng.choice([
                ["extract", str(clip), *out, "--weights", rng.choice(VALUES[:-1]) or "x"], ["extract", str(clip), *out, "--batch", rng.choice(VALUES)],
                ["extract", str(folder / "gone"), *out], ["extract", str(clip), *out, "--shard", rng.choice(VALUES)],
                ["extract", str(clip), *out, "--extractor", rng.choice(VALUES)], ["import", rng.choice(VALUES), str(clip), *out],
                ["import", rng.choice(["pyskl", "k400", "smarthome", "openpose", "alphapose"]), str(clip), *out],
                ["import", "alphapose", str(clip), *out, "--size", rng.choice(["0x0", "x", "48x64", "9" * 400 + "x1"])],
                ["extract", str(clip), *out, "--boxes", str(rng.choice([clip, folder / "gone", "/dev/zero"]))],
                ["import", "alphapose", str(clip), *out, "--first", rng.choice(VALUES)]])
        elif way == "costs":
            main, argv = costs.main, draw_flags(rng, [costs.CostConfig, PeVLConfig], 2)
        else:
            main = lab.main
            argv = [rng.choice(["table5", "table10", "5", ""]), "--seeds", rng.choice(VALUES), *words(tree, folder / "run", epochs=1)]
        attack.run(f"{number} {way} {argv[-3:]}", command_case(one_step(main), argv))

    # The same from a real shell, in the folder of traps: no file there is imported.
    for script in (["train.py", "--list-rows"], ["data.py", "layout", "toy"], ["eval.py", "--ckpt", "none"], ["pose.py", "--help"]):
        done = subprocess.run([sys.executable, ROOT / script[0], *script[1:]], cwd=attack.trap, capture_output=True, text=True)
        kind = "fine" if done.returncode in (0, 2) and "Traceback" not in done.stderr else f"exit code {done.returncode}"
        attack.note(f"shell {script}", Result("foreign code ran" if attack.marker.exists() else kind, done.stderr))
    monkeypatch.chdir(attack.trap)
    make_toy(tmp_path / "toy", {"train": 2, "val": 1, "test": 1}, workers=1, progress=lambda _: None)
    attack.end()


def command_case(main, argv):
    return lambda: command(main, argv, [])
