"""What fell once under tests/attack.py, one fact a test: settings, foreign files, ends of commands."""
import dataclasses
import json
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
import torch

import data
import eval as ev
import pose
import train
import trees
from published import clip_weights, hrnet, pose_files
from runs import configs, outcome, words
from support import checkpoints, processes
from support.checkpoints import read_checkpoint
from support.commands import run_command
from support.settings import Range, build_configs, check_fields
from support.shapes import Maybe, misfit
from support.video import decode
from systems.config import PeVLConfig
from train import TrainConfig

ROOT = Path(__file__).resolve().parent.parent


# ---- Settings ------------------------------------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class Made:
    count: Annotated[int, "how many", Range(1, 5)] = 2
    rate: Annotated[float, "how fast", Range(0, 10, above=True)] = 1.0
    kind: Annotated[Literal[1, 3], "which"] = 1
    names: Annotated[tuple[str, ...], "who"] = ()
    on: Annotated[bool, "whether"] = True

    def __post_init__(self):
        check_fields(self)


@pytest.mark.parametrize("wrong, expected", [
    ({"count": 0}, "--count 0. Expected a whole number, 1 to 5: how many. Change it."), ({"count": 6}, "1 to 5"),
    ({"count": 2.0}, "a whole number"), ({"count": True}, "a whole number"), ({"rate": 0}, "a number, above 0, at most 10"),
    ({"rate": float("nan")}, "a number"), ({"rate": "1"}, "a number"), ({"rate": float("inf")}, "a number"),
    ({"kind": 2}, "unknown --kind '2'. Expected one of 1, 3"), ({"names": "ab"}, "names with commas"), ({"kind": torch.zeros(2)}, "Expected one of 1, 3"), ({"on": 1}, "True or False")])
def test_fields_out_of_range_are_refused_in_python_too(wrong, expected):
    with pytest.raises(ValueError, match=re.escape(expected)):
        Made(**wrong)
    assert Made(count=5, rate=10, kind=3, names=("a",)).count == 5


def test_range_is_printed_by_help_and_read_from_words(capsys):
    with pytest.raises(SystemExit):
        build_configs(["--help"], (Made,))
    shown = " ".join(capsys.readouterr().out.split())
    assert "how many (default: 2): 1 to 5" in shown and "above 0, at most 10" in shown and "which (default: 1): 1 | 3" in shown
    assert build_configs(["--kind", "3", "--count", "4"], (Made,))[0] == (Made(kind=3, count=4),)


def test_every_number_of_the_program_has_a_range():
    """A new setting without one would be accepted whatever it is."""
    for cls in (TrainConfig, data.DataConfig, PeVLConfig, ev.EvalConfig):
        for name, hint in cls.__annotations__.items():
            kind, *about = hint.__origin__, *hint.__metadata__
            if kind in (int, float):
                assert isinstance(about[-1], Range), f"{cls.__name__}.{name}"


SENSELESS = [
    (TrainConfig, {"epochs": 0}), (TrainConfig, {"lr": -1e-3}), (TrainConfig, {"lr": 0}), (TrainConfig, {"batch": 0}),
    (TrainConfig, {"epochs": 2}), (TrainConfig, {"save_minutes": -1.0}), (TrainConfig, {"clip_grad": -1.0}),
    (TrainConfig, {"weight_decay": -0.1}), (TrainConfig, {"new_lr": -4.0}), (TrainConfig, {"seed": -1}), (TrainConfig, {"log_every": 0}),
    (TrainConfig, {"eval_every": 0}), (TrainConfig, {"eval_split": "tset"}), (TrainConfig, {"skip_nonfinite": -1}),
    (PeVLConfig, {"drop_path": 1.0}), (PeVLConfig, {"adapter_ratio": 0.0}), (PeVLConfig, {"adapter_ratio": 1e-4}),
    (PeVLConfig, {"tau_fw": 0.0}), (PeVLConfig, {"lambda_r": -0.1}), (PeVLConfig, {"own_loss": -0.5}), (PeVLConfig, {"image_size": 220}),
    (PeVLConfig, {"image_size": -224}), (PeVLConfig, {"image_size": 100000}), (PeVLConfig, {"gate_raw": True}),
    (PeVLConfig, {"sim": ("vs", "vs")}), (data.DataConfig, {"joint_drop": 1.1}), (data.DataConfig, {"joint_noise": -0.1}),
    (data.DataConfig, {"jitter": 2.0}), (data.DataConfig, {"workers": -1}), (data.DataConfig, {"video_frames": 4096, "pose_frames": 4096}),
    (data.DataConfig, {"data": "diving48", "split": 2}), (data.DataConfig, {"data": "ucf101", "protocol": "cs"}),
    (data.DataConfig, {"data": "toy", "version": "v1"}), (ev.EvalConfig, {"views": 2}), (ev.EvalConfig, {"topk": 0}),
    (ev.EvalConfig, {"strips": -1}), (ev.EvalConfig, {"pose": "a.npz"}),
]


@pytest.mark.parametrize("cls, values", SENSELESS, ids=str)
def test_senseless_settings_are_refused_in_three_parts(cls, values):
    with pytest.raises(ValueError, match=r"(?s).+\. Expected .+[.?:] .+"):
        cls(**values)


def test_device_names_are_ours():
    for name in ("meta", "mps:0:1", "cuda:x", "", "CPU"):
        with pytest.raises(ValueError, match="cannot be used here. Expected auto, cpu, cuda"):
            processes.choose_device(name)


def test_towers_that_would_see_nothing_are_refused(tree, tmp_path):
    for flags, word in (({"read_video": False}, "--no-video"), ({"read_poses": False}, "--no-pose")):
        with pytest.raises(ValueError, match=f"Expected {word} too"):
            train.train(*configs(tree, tmp_path, **flags))
    for model in ("vilp", "aim"):
        with pytest.raises(ValueError, match=f"--no-read-video beside --model {model}.*would see black"):
            train.train(*configs(tree, tmp_path, model=model, read_video=False, pose_frames=2, video_frames=2,
                                 row=""))
    assert not list(tmp_path.iterdir()), "nothing is written before it is refused"


def test_a_batch_beyond_the_memory_is_refused_before_it_is_allocated(tree, tmp_path):
    with pytest.raises(ValueError, match="GiB for the frames alone. Expected less than this machine's"):
        train.train(*configs(tree, tmp_path, batch=65536, image_size=2000, pose_frames=40, video_frames=40))


# ---- How commands end ----------------------------------------------------------------------------

@pytest.mark.parametrize("reason, code, said", [
    (ValueError("wrong. Expected right. Try."), 2, "error: wrong. Expected right. Try."), (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
    (OSError(28, "No space left"), 2, "error: [Errno 28] No space left. Expected files"), (MemoryError(), 2, "error: out of memory. Expected"),
    (torch.OutOfMemoryError("CUDA out of memory"), 2, "error: out of memory. Expected"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 2, "error: out of memory. Expected")])
def test_errors_begin_alike(reason, code, said, capsys):
    def job():
        raise reason

    assert run_command(job) == code
    assert capsys.readouterr().err.startswith(said)
    assert run_command(lambda: None) == 0 and run_command(lambda: 1) == 1


def test_errors_begin_alike_in_pose_py_and_of_argparse(capsys):
    for argv in (["extract"], ["import", "pyskll", "x", "--out", "y"], ["extract", "x", "--out", "y", "--batch", "0"], ["extrakt"]):
        with pytest.raises(SystemExit) as stop:
            pose.main(argv)
        said = capsys.readouterr().err
        assert stop.value.code == 2 and said.startswith("error: ") and "Expected" in said and said.count("\n") == 1, said


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no safe path")
def test_children_of_a_command_do_not_look_into_the_current_folder(tmp_path):
    """As where a loader's workers are spawned: `python -c` in a folder with a json.py."""
    (tmp_path / "json.py").write_text("raise SystemExit(9)")

    def job():
        return subprocess.run([sys.executable, "-c", "import json"], cwd=tmp_path).returncode

    assert job() == 9 and run_command(job) == 0
    assert job() == 9, "the environment is as it was"


@pytest.mark.parametrize("script", ["train.py", "pose.py"])
def test_ctrl_c_during_the_start(script):
    """While PyTorch is imported, which takes seconds: one line and 130. (A slow torch stands in, so that the moment is sure.)"""
    # A shell that starts the tests in the background has them ignore SIGINT, and children inherit that.
    code = ("import os, runpy, signal, sys, types\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nfinder = types.SimpleNamespace(find_spec=lambda name, *_: name == 'torch' and "
            f"os.kill(os.getpid(), signal.SIGINT) or None)\nsys.meta_path.insert(0, finder)\nsys.path.insert(0, {str(ROOT)!r})\n"
            f"runpy.run_path({str(ROOT / script)!r}, run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "stopped by Ctrl-C\n")


def test_ctrl_c_is_not_the_toys_workers(tmp_path, monkeypatch):
    """They are in a session of their own: Ctrl-C reaches the maker alone, which ends them without a traceback of theirs."""
    from toy import tree as toy_tree
    seen = []
    real = subprocess.Popen

    def start(*args, **how):
        seen.append(how)
        return real(*args, **how)

    monkeypatch.setattr(subprocess, "Popen", start)
    toy_tree.make_toy(tmp_path / "toy", {"train": 1, "val": 1, "test": 1}, workers=1, progress=lambda _: None)
    assert seen[0]["start_new_session"]


def test_a_machine_without_git_can_train(monkeypatch):
    from report import log

    def gone(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", gone)
    assert log.versions()["commit"] == "" and log.versions()["torch"]


# ---- Checkpoints ---------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def saved(tree, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    train.train(*configs(tree, out, epochs=1))
    return out, read_checkpoint(out / "last.pt")


def test_checkpoint_parts_are_all_known(saved):
    assert saved[1].keys() == checkpoints.PARTS.keys()
    assert train.new_position().keys() == checkpoints.PARTS["at"].keys()
    assert misfit(train.new_position(), checkpoints.PARTS["at"]) is None


@pytest.mark.parametrize("part", sorted(checkpoints.PARTS.keys() - {"format"}))
@pytest.mark.parametrize("value", ["missing", None])
def test_checkpoint_parts_missing_or_null_are_named(saved, part, value, tmp_path):
    changed = dict(saved[1])
    changed[part] = None
    if value == "missing":
        del changed[part]
    torch.save(changed, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=f"last.pt is torn or no checkpoint of train.py \\('{part}'.* is None, not .*Expected format"):
        read_checkpoint(tmp_path / "last.pt")


@pytest.mark.parametrize("part, value, said", [
    ("at", {"epoch": 1}, "'at', 'batch' is None"), ("config", {"model": "pevl"}, "'config', 'backbone'"), ("joints", 10 ** 12, "joints"),
    ("joints", True, "'joints' is True"), ("labels", ["a"], "1 labels"), ("model", {"x": 1}, "'model', 'x' is 1, not a Tensor"),
    ("model", {3: torch.zeros(1)}, "names that are texts"), ("model", {"x": torch.zeros(1).expand(10 ** 9)}, "its tensors claim"),
    ("model", {"x": torch.zeros(2, 2).to_sparse()}, "no plain numbers"), ("optimizer", {"state": {}}, "'param_groups'"),
    ("joints", torch.zeros(2, 2).to_sparse(), "'joints' is a Tensor, not a whole number"),
    ("format", torch.zeros(2, 2).to_sparse(), "'format' is a Tensor"), ("format", 2, "(format 2)"),
    ("config", {"model": "pevl", "backbone": "tiny", "clip": "", "data": "toy", "lr": torch.zeros(3)}, "'config', 'lr' is neither")])
def test_checkpoint_parts_of_another_kind_are_named(saved, part, value, said, tmp_path):
    torch.save({**saved[1], part: value}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=re.escape(said)):
        read_checkpoint(tmp_path / "last.pt")


def test_a_checkpoint_that_is_a_pipe_is_none(saved, tmp_path):
    os.mkfifo(tmp_path / "last.pt")
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "last.pt")


def test_settings_of_a_checkpoint_are_checked_with_its_name(saved, tmp_path, capsys):
    config = {**saved[1]["config"], "drop_path": "much"}
    torch.save({**saved[1], "config": config}, tmp_path / "last.pt")
    assert ev.main(["--ckpt", str(tmp_path / "last.pt"), "--device", "cpu"]) == 2
    assert "last.pt: --drop-path 'much'. Expected a number, 0 to 0.99" in capsys.readouterr().err


class Evil:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_refusals_of_checkpoints_are_in_our_words(saved, tmp_path):
    torch.save({**saved[1], "extra": Evil()}, tmp_path / "last.pt")
    with pytest.raises(ValueError) as stop:
        read_checkpoint(tmp_path / "last.pt")
    assert "weights_only" not in str(stop.value) and "ask for more than tensors" in str(stop.value)
    assert stop.value.__cause__ is None and stop.value.__suppress_context__ or stop.value.__context__ is None


def test_a_checkpoint_that_is_a_bomb_is_refused(saved, tmp_path):
    with zipfile.ZipFile(tmp_path / "last.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", bytes(100_000_000))
    with pytest.raises(ValueError, match="it would unpack to 100000000 bytes"):
        read_checkpoint(tmp_path / "last.pt")


def test_an_optimizer_of_another_run_is_refused(saved, tree, tmp_path):
    other = read_checkpoint(saved[0] / "last.pt")
    first = next(iter(other["optimizer"]["state"].values()))
    first["exp_avg"] = torch.zeros(1, 2, 3)
    torch.save(other, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="the optimizer in the checkpoint of .* is not of this run"):
        train.train(*configs(tree, tmp_path, epochs=1))


@pytest.mark.parametrize("flag", ["--pose-frames=8", "--video-frames=1", "--image-size=80"])
def test_sizes_beside_a_checkpoint_are_its_own(saved, flag, capsys):
    assert ev.main(["--ckpt", str(saved[0]), flag, "--device", "cpu"]) == 2
    assert "which was trained with" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["null", "[]", '{"config": 3}', "[" * 100000, "\udcff"])
def test_a_config_json_that_somebody_edited_is_no_traceback(content, tmp_path):
    (tmp_path / "config.json").write_text(content, "utf-8", "surrogateescape")
    assert ev.saved_config(tmp_path / "last.pt") == {}


def test_clips_that_are_trained_and_tested_on_are_told(tree, tmp_path, capsys):
    both = tmp_path / "both"
    trees.text(both, "Diving48_vocab.json", (tree / "Diving48_vocab.json").read_text())
    rows = json.loads((tree / "Diving48_V2_train.json").read_text())
    for split, part in (("train", rows), ("test", rows[:3])):
        trees.text(both, f"Diving48_V2_{split}.json", json.dumps(part))
    for name in ("rgb", "poses"):
        (both / name).symlink_to(tree / name)
    train.prepare(*configs(both, tmp_path / "run"))
    assert f"note: 3 of 3 test clips are in the training list too: {rows[0]['vid_name']}" in capsys.readouterr().out
    train.prepare(*configs(tree, tmp_path / "other"))
    assert "training list too" not in capsys.readouterr().out


# ---- Pose files ----------------------------------------------------------------------------------

def pose_parts():
    return {"keypoints": np.zeros((4, 17, 2), np.float32), "scores": np.ones((4, 17), np.float32), "size": np.array([48, 64]),
            "times": np.arange(4) / 25, "joints": np.array(trees.COCO), "extractor": np.array("me")}


@pytest.mark.parametrize("name", sorted(pose_parts()))
def test_pose_files_without_a_part_name_it(name, tmp_path):
    parts = pose_parts()
    del parts[name]
    np.savez(tmp_path / "a.npz", **parts)
    with pytest.raises(ValueError, match=f"bad pose file .*a.npz: there are no {name} in it. Expected arrays"):
        pose.read_pose(tmp_path / "a.npz")


def test_pose_files_that_are_bombs_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    """By the zip's directory, and by the head of an array that asks for 8.5 GiB in a file of a few KB."""
    np.savez_compressed(tmp_path / "a.npz", **{**pose_parts(), "times": np.zeros(40_000_000)})
    assert (tmp_path / "a.npz").stat().st_size < 1_000_000
    np.savez(tmp_path / "b.npz", **pose_parts())
    whole = (tmp_path / "b.npz").read_bytes()
    old, new = b"(4, 17), }" + b" " * 9, b"(134217728, 17), }"
    monkeypatch.setattr(zipfile.ZipExtFile, "_update_crc", lambda *_: None)
    lying = whole.replace(old[:len(new)], new)
    assert lying != whole and len(lying) == len(whole)
    (tmp_path / "b.npz").write_bytes(lying)

    def never(*_, **__):
        raise AssertionError("an array was made")

    for name, said in (("a", "it would unpack to 320"), ("b", r"its scores \(134217728, 17\) claim more than the file holds")):
        if name == "a":
            monkeypatch.setattr(np.lib.format, "read_array", never)
        else:
            monkeypatch.undo()
            monkeypatch.setattr(zipfile.ZipExtFile, "_update_crc", lambda *_: None)
        with pytest.raises(ValueError, match=said):
            pose.read_pose(tmp_path / f"{name}.npz")


def test_pose_files_of_half_a_million_joints_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", **{**pose_parts(), "joints": np.array(["x"] * 500_000)})
    with pytest.raises(ValueError, match="its joints are 500000, and 1000 at most"):
        pose.read_pose(tmp_path / "a.npz")


def test_refusals_of_pose_files_are_in_our_words(tmp_path):
    for content in (pickle.dumps([1]), b"\x93NUMPY\x01\0", b"", b"PK\x03\x04"):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(ValueError, match="bad pose file .* Expected arrays. Make it") as stop:
            pose.read_pose(tmp_path / "a.npz")
        assert "pickle" not in str(stop.value)


# ---- HRNet's weights, pickles --------------------------------------------------------------------

@pytest.mark.parametrize("value, said", [
    ({"state_dict": [1]}, "holds a list"), ([1], "holds a list"), ({"state_dict": {3: torch.zeros(1)}}, "names that are texts"),
    ({"state_dict": {"a": 1}}, "'a', holds a int"), ({"final_layer.weight": torch.zeros(17, 10 ** 6, 1, 1)}, "its final layer is"),
    ({"final_layer.weight": torch.zeros(17)}, "its final layer is"), ({"a": torch.zeros(1).expand(10 ** 9)}, "its tensors claim")])
def test_hrnet_weights_of_another_kind_are_refused(value, said, tmp_path):
    torch.save(value, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=f"cannot read .*net.pth: .*{said}.*Expected HRNet's weights"):
        hrnet.load_hrnet(tmp_path / "net.pth")


def test_hrnet_bombs_and_refusals(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", bytes(100_000_000))
    with pytest.raises(ValueError, match="it would unpack to 100000000"):
        hrnet.load_hrnet(tmp_path / "net.pth")
    (tmp_path / "net.pth").write_bytes(pickle.dumps(Evil(), 2))
    with pytest.raises(ValueError, match="cannot read") as stop:
        hrnet.load_hrnet(tmp_path / "net.pth")
    assert "weights_only" not in str(stop.value)


def test_a_pickle_of_ten_bytes_cannot_ask_for_gigabytes():
    """The reader in C makes a list as long as the largest number that is remembered, here 2^31."""
    assert not issubclass(pose_files.PlainUnpickler, pickle.Unpickler)
    assert not issubclass(clip_weights._Archive, pickle.Unpickler)


def test_faults_of_public_files_of_any_kind_are_the_clips(tmp_path, capsys):
    folder = tmp_path / "json"
    for name, content in (("a", "[" * 100000), ("b", '{"frames": [[{"pose2d": [1e999]}]]}'), ("c", '{"frames": 3}'), ("d", "null")):
        trees.text(folder, f"{name}.json", content)
    os.mkfifo(folder / "e.json")
    assert pose.main(["import", "smarthome", str(folder), "--out", str(tmp_path / "out")]) == 0
    assert "0 pose clips written" in (said := capsys.readouterr().out) and "5 broken" in said


@pytest.mark.parametrize("row", ["a,1000000000000,0,0,1,1", "a,-1,0,0,1,1", "a,0,nan,0,1,1", "a,0", '"a'])
def test_boxes_that_make_no_sense_are_refused(row, tmp_path):
    (tmp_path / "boxes.csv").write_text(f"clip,frame,x0,y0,x1,y1\n{row}\n" + "x" * 140000)
    with pytest.raises(ValueError, match="boxes.csv, line .*Expected numbers in clip,frame"):
        pose.read_boxes(tmp_path / "boxes.csv")
    with pytest.raises(FileNotFoundError, match="Check --boxes"):
        pose.read_boxes(Path("/dev/zero"))


# ---- Videos --------------------------------------------------------------------------------------

def first(instants):
    return [0]


def native(H, W):
    return H, W


def test_open_video_refuses_frames_of_absurd_size(tmp_path):
    """16384 x 16384 in the head of a file of a few KB."""
    path = trees.write_video(tmp_path / "a.avi", codec="mjpeg", options={"strict": "unofficial"})
    content = path.read_bytes().replace(struct.pack("<II", 64, 48), struct.pack("<II", 16384, 16384))
    path.write_bytes(content.replace(struct.pack(">HH", 48, 64), struct.pack(">HH", 16384, 16384)))
    with pytest.raises(ValueError, match="frames of .* pixels, or of no known size"):
        decode(path, first, native)


def test_open_video_refuses_a_list_of_other_files(tmp_path):
    trees.write_video(tmp_path / "b.mp4")
    (tmp_path / "a.mp4").write_text("ffconcat version 1.0\nfile b.mp4\n")
    with pytest.raises(ValueError, match="no video but a list of other files"):
        decode(tmp_path / "a.mp4", first, native)


def test_open_video_refuses_frames_that_are_a_line(tmp_path):
    trees.write_video(tmp_path / "a.mp4", width=1024, height=16)
    with pytest.raises(ValueError, match="1024 x 16 pixels. Expected sides of 1 : 32"):
        decode(tmp_path / "a.mp4", first, native)


def test_open_video_takes_a_name_with_a_colon(tmp_path, monkeypatch):
    trees.write_video(tmp_path / "b.mp4").rename(tmp_path / "a:b.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(decode("a:b.mp4", first, native)[0]) == 1


@pytest.mark.parametrize("what", ["fifo", "folder", "no codec"])
def test_open_video_faults_are_the_clips_in_pose_py(what, tmp_path, capsys):
    path = tmp_path / "a.mp4"
    if what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        content = trees.write_video(path).read_bytes()
        path.write_bytes(content.replace(b"mp4v", b"zzzz").replace(b"esds", b"free"))
    with pytest.raises(pose.BrokenClip, match="cannot decode .*a.mp4: .*Expected a whole video"):
        list(pose.Video(path))
    if what != "folder":
        assert pose.main(["extract", str(path), "--out", str(tmp_path / "p"), "--extractor", "mediapipe"]) in (0, 2)


# ---- Shapes --------------------------------------------------------------------------------------

def test_shapes_name_the_first_place():
    shape = {"a": [int], "b": Maybe({str: torch.Tensor})}
    assert misfit({"a": [1, 2]}, shape) is None
    assert misfit({"a": [1, True]}, shape).place == "'a', entry 2"
    assert misfit({"a": [], "b": {"x": None}}, shape)[::2] == ("'b', 'x'", "a Tensor")
    assert misfit({1: 2}, {str: int}).expected == "names that are texts"
