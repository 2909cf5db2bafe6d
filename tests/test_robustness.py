"""What fell once under tests/attack.py, one fact a test: settings, foreign files, ends of commands.

A person's mistake and a stranger's file are told in three parts, in our own words: what is wrong,
what was expected, what to do. Nothing of a file is run, and no file of a few bytes makes us ask for
gigabytes. The parts: settings; how commands end; checkpoints; pose files; HRNet's weights and
pickles; videos; shapes.
"""
import dataclasses
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tracemalloc
import typing
import zipfile
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
import torch

import eval as ev
import pose
import train
import trees
from bombs import Bomb
from data import DataConfig
from eval import EvalConfig
from published import clip_weights, hrnet, pose_files
from report import log
from runs import configs
from support import checkpoints, processes
from support.checkpoints import read_checkpoint
from support.commands import run_command
from support.settings import Range, build_configs, check_fields
from support.shapes import Maybe, misfit
from support.video import decode
from systems.config import PeVLConfig
from systems.refusals import refuse_too_much
from toy import tree as toy_tree
from train import TrainConfig
from waiting import ends

ROOT = Path(__file__).resolve().parent.parent


def write_bomb(path):
    """A zip of half a megabyte that would unpack to a hundred."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr("a/data.pkl", bytes(100_000_000))


# ---- Settings ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Made:
    """Settings of every kind."""
    count: Annotated[int, "how many", Range(1, 5)] = 2
    rate: Annotated[float, "how fast", Range(0, 10, above=True)] = 1.0
    kind: Annotated[Literal[1, 3], "which"] = 1
    names: Annotated[tuple[str, ...], "who"] = ()
    on: Annotated[bool, "whether"] = True

    def __post_init__(self):
        check_fields(self)


@pytest.mark.parametrize("name, value, expected", [
    ("count", 0, "--count 0. Expected a whole number, 1 to 5: how many. Change it."),
    ("count", 6, "1 to 5"),
    ("count", 2.0, "a whole number"),
    ("count", True, "a whole number"),
    ("rate", 0, "a number, above 0, at most 10"),
    ("rate", float("nan"), "a number"),
    ("rate", float("inf"), "a number"),
    ("rate", "1", "a number"),
    ("kind", 2, "unknown --kind '2'. Expected one of 1, 3"),
    ("kind", torch.zeros(2), "Expected one of 1, 3"),
    ("kind", True, "Expected one of 1, 3"),
    ("names", "ab", "names with commas"),
    ("on", 1, "True or False"),
])
def test_fields_out_of_range_are_refused_in_python_too(name, value, expected):
    """The command line is not the only way in."""
    with pytest.raises(ValueError, match=re.escape(expected)):
        Made(**{name: value})


def test_fields_at_the_ends_of_their_range_are_taken():
    """The largest value is one of them, and a whole number is a number."""
    made = Made(count=5, rate=10, kind=3, names=("a",))
    assert (made.count, made.rate, made.kind, made.names) == (5, 10, 3, ("a",))


def test_range_is_printed_by_help(capsys):
    """And the choices of a field that has some."""
    with pytest.raises(SystemExit):
        build_configs(["--help"], (Made,))
    shown = " ".join(capsys.readouterr().out.split())
    assert "how many [1 to 5; default: 2]" in shown
    assert "above 0, at most 10" in shown
    assert "which [1 | 3; default: 1]" in shown


def test_choices_that_are_numbers_are_read_from_words():
    """`--kind 3` is the number 3."""
    made, _ = build_configs(["--kind", "3", "--count", "4"], (Made,))
    assert made == (Made(kind=3, count=4),)


def test_every_number_of_the_program_has_a_range():
    """A new setting without one would be accepted whatever it is."""
    for cls in (TrainConfig, DataConfig, PeVLConfig, EvalConfig):
        for name, hint in typing.get_type_hints(cls, include_extras=True).items():
            kind, *about = typing.get_args(hint)
            if kind in (int, float):
                assert isinstance(about[-1], Range), f"{cls.__name__}.{name} has no Range"


@pytest.mark.parametrize("cls, values", [
    (TrainConfig, {"epochs": 0}),
    (TrainConfig, {"epochs": 2}),                 # fewer than the epochs of warm-up
    (TrainConfig, {"lr": 0}),
    (TrainConfig, {"lr": -1e-3}),
    (TrainConfig, {"new_lr": -4.0}),
    (TrainConfig, {"batch": 0}),
    (TrainConfig, {"clip_grad": -1.0}),
    (TrainConfig, {"weight_decay": -0.1}),
    (TrainConfig, {"seed": -1}),
    (TrainConfig, {"save_minutes": -1.0}),
    (TrainConfig, {"log_every": 0}),
    (TrainConfig, {"eval_every": 0}),
    (TrainConfig, {"eval_split": "tset"}),
    (TrainConfig, {"skip_nonfinite": -1}),
    (PeVLConfig, {"drop_path": 1.0}),
    (PeVLConfig, {"adapter_ratio": 0.0}),
    (PeVLConfig, {"adapter_ratio": 1e-4}),
    (PeVLConfig, {"tau_fw": 0.0}),
    (PeVLConfig, {"lambda_r": -0.1}),
    (PeVLConfig, {"own_loss": -0.5}),
    (PeVLConfig, {"image_size": 220}),            # no whole number of patches
    (PeVLConfig, {"image_size": -224}),
    (PeVLConfig, {"image_size": 100000}),
    (PeVLConfig, {"gate_raw": True}),             # without the gate
    (PeVLConfig, {"sim": ("vs", "vs")}),
    (DataConfig, {"joint_drop": 1.1}),
    (DataConfig, {"joint_noise": -0.1}),
    (DataConfig, {"jitter": 2.0}),
    (DataConfig, {"workers": -1}),
    (DataConfig, {"video_frames": 4096, "pose_frames": 4096}),            # gigabytes a clip
    (DataConfig, {"data": "diving48", "split": 2}),           # a choice of other data sets
    (DataConfig, {"data": "ucf101", "protocol": "cs"}),
    (DataConfig, {"data": "toy", "version": "v1"}),
    (EvalConfig, {"views": 2}),
    (EvalConfig, {"topk": 0}),
    (EvalConfig, {"strips": -1}),
    (EvalConfig, {"pose": "a.npz"}),              # without a video
], ids=str)
def test_senseless_settings_are_refused_in_three_parts(cls, values):
    """Each alone, or beside the defaults."""
    with pytest.raises(ValueError, match=r"(?s).+\. Expected .+[.?:] .+"):
        cls(**values)


@pytest.mark.parametrize("name", ["meta", "mps:0:1", "cuda:x", "", "CPU"])
def test_device_names_are_ours(name):
    """PyTorch knows more devices than can be trained on."""
    with pytest.raises(ValueError, match="cannot be used here. Expected auto, cpu, cuda"):
        processes.choose_device(name)


@pytest.mark.parametrize("settings, message", [
    ({"read_video": False}, "frames are not read.*--no-video"),
    ({"read_poses": False}, "poses are not read.*--no-pose"),
    ({"model": "vilp", "read_video": False, "pose_frames": 2, "row": ""},
     "--model vilp.*would see black.*--no-video"),
    ({"model": "aim", "read_video": False, "pose_frames": 2, "row": ""},
     "--no-read-video beside --model aim.*would see black"),
], ids=["no video", "no poses", "vilp", "aim"])
def test_towers_that_would_see_nothing_are_refused(tmp_path, settings, message):
    """Before anything is read or written: there is not even a data set."""
    with pytest.raises(ValueError, match=message):
        train.train(*configs(tmp_path / "none", tmp_path, **settings))
    assert not list(tmp_path.iterdir()), "nothing is written before it is refused"


def test_a_batch_beyond_the_memory_is_refused_before_it_is_allocated(tmp_path, monkeypatch):
    """Terabytes of frames."""
    big = configs(tmp_path / "none", tmp_path, batch=65536, image_size=2000, pose_frames=40,
                  video_frames=40)
    expected = "GiB for the frames alone. Expected less than this machine's"
    with pytest.raises(ValueError, match=expected):
        train.train(*big)

    # The processes of one machine share its memory; of 800 machines each has its own.
    cfg, data_cfg, _ = big
    monkeypatch.setattr(os, "sysconf", lambda name: 2 ** 20)           # 2^20 pages of 2^20 bytes
    refuse_too_much(cfg, data_cfg, processes=800)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "800")
    with pytest.raises(ValueError, match=expected):
        refuse_too_much(cfg, data_cfg, processes=800)


# ---- How commands end ----------------------------------------------------------------------------


@pytest.mark.parametrize("reason, code, said", [
    (ValueError("wrong. Expected right. Try."), 2, "error: wrong. Expected right. Try."),
    (OSError(28, "No space left"), 2, "error: [Errno 28] No space left. Expected files"),
    (MemoryError(), 2, "error: out of memory. Expected"),
    (torch.OutOfMemoryError("CUDA out of memory"), 2, "error: out of memory. Expected"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 2,
     "error: out of memory. Expected"),
    (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
], ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None)
def test_errors_begin_alike(reason, code, said, capsys):
    """Whatever ends a command: what is said on standard error, and the exit code."""
    def job():
        raise reason

    assert run_command(job) == code
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize("given, code", [(None, 0), (0, 0), (1, 1)])
def test_a_command_that_ends_well_gives_its_own_code(given, code):
    """None is success."""
    def job():
        return given

    assert run_command(job) == code


@pytest.mark.parametrize("argv", [
    ["extract"],
    ["import", "pyskll", "x", "--out", "y"],
    ["extract", "x", "--out", "y", "--batch", "0"],
    ["extrakt"],
], ids=" ".join)
def test_errors_begin_alike_in_pose_py_and_of_argparse(argv, capsys):
    """One line, in two of the three parts at least, and the exit code 2."""
    with pytest.raises(SystemExit) as stop:
        pose.main(argv)
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.startswith("error: ") and "Expected" in said
    assert said.count("\n") == 1, said


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no safe path")
def test_children_of_a_command_do_not_look_into_the_current_folder(tmp_path):
    """As where a loader's workers are spawned: `python -c` in a folder with a json.py."""
    (tmp_path / "json.py").write_text("raise SystemExit(9)")

    def job():
        return subprocess.run([sys.executable, "-c", "import json"], cwd=tmp_path).returncode

    assert job() == 9, "Python no longer looks there by itself: this test shows nothing"
    assert run_command(job) == 0
    assert job() == 9, "the environment is as it was"


# Runs a command whose import of PyTorch is where Ctrl-C comes. A shell that starts the tests in the
# background has them ignore SIGINT, and children inherit that.
INTERRUPTED = """
import os, runpy, signal, sys

class Finder:
    def find_spec(name, *_):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder)
folder, script = sys.argv[1:]
sys.path.insert(0, folder)
runpy.run_path(f"{folder}/{script}", run_name="__main__")
"""


@pytest.mark.parametrize("script", ["train.py", "pose.py"])
def test_ctrl_c_during_the_start(script):
    """While PyTorch is imported, which takes seconds: one line and 130."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, str(ROOT), script],
                          capture_output=True, text=True)
    assert done.stderr == "stopped by Ctrl-C\n"
    assert done.returncode == 130


def test_ctrl_c_is_not_the_toys_workers(tmp_path, monkeypatch):
    """They are in a session of their own: Ctrl-C reaches the maker alone, and the maker ends them.

    A worker that does nothing stands in for them.
    """
    real = subprocess.Popen
    sessions = []

    def start(command, *, start_new_session=False, **how):
        sessions.append(start_new_session)
        return real([sys.executable, "-c", ""], **how)

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(ChildProcessError):        # for the clips that were not made
        toy_tree.make_toy(tmp_path / "toy", {"train": 1, "val": 1, "test": 1}, workers=1,
                          progress=print)
    assert sessions == [True]


def test_a_machine_without_git_can_train(monkeypatch):
    """The commit is not known then; the versions of packages are."""
    def gone(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", gone)
    versions = log.versions()
    assert versions["commit"] == ""
    assert versions["torch"] == torch.__version__


def test_a_machine_that_cannot_tell_its_memory_can_train(monkeypatch):
    """Windows has no `resource`; the progress line then says 0 MiB."""
    monkeypatch.setitem(sys.modules, "resource", None)
    assert log.peak_mib(torch.device("cpu")) == 0
    monkeypatch.undo()
    assert log.peak_mib(torch.device("cpu")) > 1


# ---- Checkpoints ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Saved:
    """A run of train.py and what lies in its last.pt."""
    root: Path                                    # the data set
    folder: Path                                  # of the run
    parts: dict

    def with_part(self, name, value, path):
        """Write a checkpoint that differs in one part."""
        torch.save({**self.parts, name: value}, path)


@pytest.fixture(scope="module")
def saved(trained):
    return Saved(root=trained.root, folder=trained.run,
                 parts=read_checkpoint(trained.run / "last.pt"))


def test_checkpoint_parts_are_all_known(saved):
    """PARTS says what train.py writes, no more and no less, and where a run begins."""
    assert saved.parts.keys() == checkpoints.PARTS.keys()
    assert train.new_position().keys() == checkpoints.PARTS["at"].keys()
    assert misfit(train.new_position(), checkpoints.PARTS["at"]) is None


@pytest.mark.parametrize("part", sorted(checkpoints.PARTS.keys() - {"format"}))
@pytest.mark.parametrize("how", ["missing", "null"])
def test_checkpoint_parts_missing_or_null_are_named(saved, part, how, tmp_path):
    """The part, and what to do; a file of a newer format says so before (next test)."""
    changed = {**saved.parts, part: None}
    if how == "missing":
        del changed[part]
    torch.save(changed, tmp_path / "last.pt")
    expected = rf"last.pt is torn or no checkpoint of train.py \('{part}'.* is None, not .*"
    with pytest.raises(ValueError, match=expected + "Expected format"):
        read_checkpoint(tmp_path / "last.pt")


# The settings that no checkpoint may lack.
SETTINGS = {"model": "pevl", "backbone": "tiny", "clip": "", "data": "toy", "video_frames": 2,
            "pose_frames": 4, "seed": 0}


@pytest.mark.parametrize("part, value, said", [
    ("format", 2, "(format 2)"),
    ("format", torch.zeros(2, 2).to_sparse(), "'format' is a Tensor"),
    ("at", {"epoch": 1}, "'at', 'batch' is None"),
    ("config", {"model": "pevl"}, "'config', 'backbone'"),
    ("config", {**SETTINGS, "lr": torch.zeros(3)}, "'config', 'lr' is neither"),
    ("config", {**SETTINGS, "seed": None}, "'config', 'seed' is None, not a whole number"),
    ("versions", {"commit": torch.zeros(2)}, "'versions', 'commit' is a Tensor, not a text"),
    ("labels", ["a"], "1 labels"),
    ("joints", 10 ** 12, "joints"),
    ("joints", True, "'joints' is True"),
    ("joints", torch.zeros(2, 2).to_sparse(), "'joints' is a Tensor, not a whole number"),
    ("model", {"x": 1}, "'model', 'x' is 1, not a Tensor"),
    ("model", {3: torch.zeros(1)}, "names that are texts"),
    ("model", {"x": torch.zeros(1).expand(10 ** 9)}, "its tensors claim"),
    ("model", {"x": torch.zeros(2, 2).to_sparse()}, "no plain numbers"),
    ("optimizer", {"state": {}}, "'param_groups'"),
])
def test_checkpoint_parts_of_another_kind_are_named(saved, part, value, said, tmp_path):
    """The first place that does not fit, and what stands there."""
    saved.with_part(part, value, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=re.escape(said)):
        read_checkpoint(tmp_path / "last.pt")


def test_a_checkpoint_that_is_a_pipe_is_none(tmp_path):
    """It would be waited for."""
    os.mkfifo(tmp_path / "last.pt")

    def read():
        with pytest.raises(FileNotFoundError, match="no checkpoint at") as stop:
            read_checkpoint(tmp_path / "last.pt")
        return stop

    ends(read)


def test_settings_of_a_checkpoint_are_checked_with_its_name(saved, tmp_path, capsys):
    """As those of the command line are, and the file is named."""
    config = {**saved.parts["config"], "drop_path": "much"}
    saved.with_part("config", config, tmp_path / "last.pt")
    assert ev.main(["--ckpt", str(tmp_path / "last.pt"), "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "last.pt: --drop-path 'much'. Expected a number, 0 to 0.99" in said


def test_refusals_of_checkpoints_are_in_our_words(saved, tmp_path):
    """PyTorch's own words advise to switch the protection off; not even a traceback shows them."""
    was_run = tmp_path / "was run"
    saved.with_part("extra", Bomb(was_run), tmp_path / "last.pt")
    with pytest.raises(ValueError, match="ask for more than tensors") as stop:
        read_checkpoint(tmp_path / "last.pt")
    assert "weights_only" not in str(stop.value)
    assert stop.value.__cause__ is None
    assert stop.value.__suppress_context__ or stop.value.__context__ is None
    assert not was_run.exists(), "code of the file was run"


def test_a_checkpoint_that_is_a_bomb_is_refused(tmp_path):
    """By the zip's directory, before it is unpacked."""
    write_bomb(tmp_path / "last.pt")
    with pytest.raises(ValueError, match="it would unpack to 100000000 bytes"):
        read_checkpoint(tmp_path / "last.pt")


def settings_of_run(parts, out):
    """The three configs of the run that a checkpoint is of, in another folder."""
    config = {**parts["config"], "out": str(out)}
    made = []
    for cls in (TrainConfig, DataConfig, PeVLConfig):
        values = {field.name: config[field.name] for field in dataclasses.fields(cls)}
        for name, value in values.items():
            if isinstance(value, list):           # JSON has no tuples
                values[name] = tuple(value)
        made.append(cls(**values))
    return made


def test_an_optimizer_of_another_run_is_refused(saved, tmp_path):
    """PyTorch would find out at the next step, and say only that shapes differ."""
    parts = read_checkpoint(saved.folder / "last.pt")
    moments = next(iter(parts["optimizer"]["state"].values()))
    moments["exp_avg"] = torch.zeros(1, 2, 3)
    torch.save(parts, tmp_path / "last.pt")
    expected = "the optimizer in the checkpoint of .* is not of this run"
    with pytest.raises(ValueError, match=expected):
        train.train(*settings_of_run(parts, tmp_path))


@pytest.mark.parametrize("flag", ["--pose-frames=8", "--video-frames=1", "--image-size=40"])
def test_sizes_beside_a_checkpoint_are_its_own(saved, flag, capsys):
    """The model was trained with others, and its accuracy would not be what it is."""
    assert ev.main(["--ckpt", str(saved.folder), flag, "--device", "cpu"]) == 2
    assert "which was trained with" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["null", "[]", '{"config": 3}', "[" * 100000, "\udcff"],
                         ids=["null", "list", "number", "deep", "no UTF-8"])
def test_a_config_json_that_somebody_edited_is_no_traceback(content, tmp_path):
    """It only saves flags: where it cannot be read, flags are needed."""
    (tmp_path / "config.json").write_text(content, "utf-8", "surrogateescape")
    assert ev.saved_config(tmp_path / "last.pt") == {}


def test_clips_that_are_trained_and_tested_on_are_told(tree, tmp_path, capsys):
    """The first of them by name; where there are none, nothing is said."""
    both = tmp_path / "both"
    rows = json.loads((tree / "Diving48_V2_train.json").read_text())
    trees.text(both, "Diving48_vocab.json", (tree / "Diving48_vocab.json").read_text())
    trees.text(both, "Diving48_V2_train.json", json.dumps(rows))
    trees.text(both, "Diving48_V2_test.json", json.dumps(rows[:3]))
    for name in ("rgb", "poses"):
        (both / name).symlink_to(tree / name)

    train.prepare(*configs(both, tmp_path / "run"))
    note = f"note: 3 of 3 test clips are in the training list too: {rows[0]['vid_name']}"
    assert note in capsys.readouterr().out
    train.prepare(*configs(tree, tmp_path / "other"))
    assert "training list too" not in capsys.readouterr().out


# ---- Pose files ----------------------------------------------------------------------------------


def pose_parts(**changes):
    """The arrays of a sound pose file, and others in their place."""
    parts = {"keypoints": np.zeros((4, 17, 2), np.float32), "scores": np.ones((4, 17), np.float32),
             "size": np.array([48, 64]), "times": np.arange(4) / 25,
             "joints": np.array(trees.COCO), "extractor": np.array("me")}
    return {**parts, **changes}


@pytest.mark.parametrize("name", sorted(pose_parts()))
def test_pose_files_without_a_part_name_it(name, tmp_path):
    """An .npz of something else is refused by what it lacks."""
    parts = pose_parts()
    del parts[name]
    np.savez(tmp_path / "a.npz", **parts)
    expected = f"bad pose file .*a.npz: there are no {name} in it. Expected arrays"
    with pytest.raises(ValueError, match=expected):
        pose.read_pose(tmp_path / "a.npz")


def test_pose_files_that_are_bombs_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    """By the zip's directory: no array is made."""
    def never(*_, **__):
        raise AssertionError("an array was made")

    assert pose.MOST_UNPACKED <= 2 ** 28, "a quarter of a GiB is a million frames"
    monkeypatch.setattr(pose, "MOST_UNPACKED", 2 ** 20)
    np.savez_compressed(tmp_path / "a.npz", **pose_parts(times=np.zeros(1_000_000)))
    monkeypatch.setattr(np.lib.format, "read_array", never)
    with pytest.raises(ValueError, match="it would unpack to 80"):
        pose.read_pose(tmp_path / "a.npz")


def test_pose_files_that_are_bombs_by_the_head_of_an_array_are_refused(tmp_path, monkeypatch):
    """A file of a few KB with a head that asks for 8.5 GiB; the zip's checksum is no protection."""
    path = tmp_path / "b.npz"
    np.savez(path, **pose_parts())
    honest = b"(4, 17), }" + b" " * 9
    lying = b"(134217728, 17), }"
    content = path.read_bytes()
    assert honest in content
    path.write_bytes(content.replace(honest[:len(lying)], lying))

    monkeypatch.setattr(zipfile.ZipExtFile, "_update_crc", lambda *_: None)
    expected = r"its scores \(134217728, 17\) claim more than the file holds"
    with pytest.raises(ValueError, match=expected):
        pose.read_pose(path)


def test_pose_files_of_half_a_million_joints_are_refused(tmp_path):
    """A model would be built for them."""
    np.savez(tmp_path / "a.npz", **pose_parts(joints=np.array(["x"] * 500_000)))
    with pytest.raises(ValueError, match="its joints are 500000, and 1000 at most"):
        pose.read_pose(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [pickle.dumps([1]), b"\x93NUMPY\x01\0", b"", b"PK\x03\x04"],
                         ids=["pickle", "one array", "nothing", "half a zip"])
def test_refusals_of_pose_files_are_in_our_words(content, tmp_path):
    """NumPy's own words advise to unpack Python objects."""
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match="bad pose file .* Expected arrays. Make it") as stop:
        pose.read_pose(tmp_path / "a.npz")
    assert "pickle" not in str(stop.value)


# ---- HRNet's weights, pickles --------------------------------------------------------------------


@pytest.mark.parametrize("value, said", [
    ([1], "holds a list"),
    ({"state_dict": [1]}, "holds a list"),
    ({"state_dict": {3: torch.zeros(1)}}, "names that are texts"),
    ({"state_dict": {"a": 1}}, "'a', holds a int"),
    ({"final_layer.weight": torch.zeros(17, 1000, 1, 1)}, "its final layer is"),
    ({"final_layer.weight": torch.zeros(17)}, "its final layer is"),
    ({"a": torch.zeros(1).expand(10 ** 9)}, "its tensors claim"),
])
def test_hrnet_weights_of_another_kind_are_refused(value, said, tmp_path):
    """What they hold, and what was expected."""
    torch.save(value, tmp_path / "net.pth")
    expected = f"cannot read .*net.pth: .*{said}.*Expected HRNet's weights"
    with pytest.raises(ValueError, match=expected):
        hrnet.load_hrnet(tmp_path / "net.pth")


def test_hrnet_bombs_are_refused(tmp_path):
    """By the zip's directory."""
    write_bomb(tmp_path / "net.pth")
    with pytest.raises(ValueError, match="it would unpack to 100000000"):
        hrnet.load_hrnet(tmp_path / "net.pth")


def test_refusals_of_hrnet_are_in_our_words(tmp_path):
    """PyTorch's own words advise to switch the protection off."""
    was_run = tmp_path / "was run"
    (tmp_path / "net.pth").write_bytes(pickle.dumps(Bomb(was_run), 2))
    with pytest.raises(ValueError, match="cannot read") as stop:
        hrnet.load_hrnet(tmp_path / "net.pth")
    assert "weights_only" not in str(stop.value)
    assert not was_run.exists(), "code of the file was run"


def memo_bomb(path):
    """A zip as OpenAI's weights are, and inside, a pickle of 8 bytes that remembers one None.

    It remembers it as number 4,194,304, by the operation r (LONG_BINPUT).
    """
    content = b"\x80\x02N" + b"r" + struct.pack("<I", 2 ** 22) + b"."
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", content)
    return zipfile.ZipFile(path)


def read_in_c(archive):
    return pickle.Unpickler(archive.open("a/data.pkl"))


def read_plainly(archive):
    return pose_files.PlainUnpickler(archive.open("a/data.pkl"))


def peak_of_loading(make_reader, archive):
    """The most bytes that Python holds while a reader loads."""
    tracemalloc.start()
    try:
        assert make_reader(archive).load() is None
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("reader", [read_plainly, clip_weights._Archive])
def test_a_pickle_of_ten_bytes_cannot_ask_for_gigabytes(reader, tmp_path):
    """The reader in C makes a list as long as the largest number that is remembered, up to 2^32."""
    with memo_bomb(tmp_path / "a.zip") as archive:
        assert peak_of_loading(read_in_c, archive) > 2 ** 25, "the bomb is none"
        assert peak_of_loading(reader, archive) < 2 ** 20


def test_faults_of_public_files_of_any_kind_are_the_clips(tmp_path, capsys):
    """Five files that are no poses, a pipe among them: each is told, and the import goes on."""
    folder = tmp_path / "json"
    trees.text(folder, "a.json", "[" * 100000)
    trees.text(folder, "b.json", '{"frames": [[{"pose2d": [1e999]}]]}')
    trees.text(folder, "c.json", '{"frames": 3}')
    trees.text(folder, "d.json", "null")
    os.mkfifo(folder / "e.json")
    argv = ["import", "smarthome", str(folder), "--out", str(tmp_path / "out")]

    def run():
        return pose.main(argv)

    assert ends(run) == 1
    said = capsys.readouterr().out
    assert "0 pose clips written" in said and "5 broken" in said


@pytest.mark.parametrize("rows", ["a,101,0,0,1,1", "a,-1,0,0,1,1", "a,0,nan,0,1,1", "a,0",
                                  '"a\n' + "x" * 140000],
                         ids=["too late", "before the first", "no number", "too short", "no end"])
def test_boxes_that_make_no_sense_are_refused(rows, tmp_path, monkeypatch):
    """The line is named; the last of them swallows the rest of the file as one cell."""
    monkeypatch.setattr(pose, "MOST_FRAMES", 100)
    path = tmp_path / "boxes.csv"
    path.write_text(f"clip,frame,x0,y0,x1,y1\n{rows}\n")
    with pytest.raises(ValueError, match="boxes.csv, line [23]: .*Expected numbers in clip,frame"):
        pose.read_boxes(path)


@pytest.mark.parametrize("content, said", [
    (b'blameless,0,0,0,1,1\n"bad\n' + b"x" * 140000, "line [34]: field larger"),
    (b"blameless,0,0,0,1,1\nb\xe4d,0,0,0,1,1\n", "boxes.csv is no UTF-8"),
], ids=["a row that never ends", "another encoding"])
def test_a_good_row_of_boxes_is_not_blamed(content, said, tmp_path):
    """The row before the fault is not shown in its place."""
    path = tmp_path / "boxes.csv"
    path.write_bytes(b"clip,frame,x0,y0,x1,y1\n" + content)
    with pytest.raises(ValueError, match=said) as stop:
        pose.read_boxes(path)
    assert "blameless" not in str(stop.value)


def test_the_last_frame_that_a_box_may_have_is_taken(tmp_path, monkeypatch):
    """So that what is refused beyond it is refused for that alone."""
    monkeypatch.setattr(pose, "MOST_FRAMES", 100)
    path = tmp_path / "boxes.csv"
    path.write_text("clip,frame,x0,y0,x1,y1\na,100,0,0,1,1\n")
    assert len(pose.read_boxes(path)["a"]) == 101


def test_boxes_that_are_a_device_are_refused():
    """It would be read for ever."""
    def read():
        with pytest.raises(FileNotFoundError, match="Check --boxes") as stop:
            pose.read_boxes(Path("/dev/zero"))
        return stop

    ends(read)


# ---- Videos --------------------------------------------------------------------------------------


def native(H, W):
    """A `plan` for decode: the video's own size."""
    return H, W


def test_open_video_refuses_frames_of_absurd_size(tmp_path):
    """16384 x 16384 in the head of a file of a few KB, in the container and in the pictures."""
    path = trees.write_video(tmp_path / "a.avi", codec="mjpeg", options={"strict": "unofficial"})
    content = path.read_bytes()
    content = content.replace(struct.pack("<II", 64, 48), struct.pack("<II", 16384, 16384))
    content = content.replace(struct.pack(">HH", 48, 64), struct.pack(">HH", 16384, 16384))
    path.write_bytes(content)
    with pytest.raises(ValueError, match="frames of .* pixels, or of no known size"):
        decode(path, trees.first_frame, native)


def test_open_video_refuses_a_list_of_other_files(tmp_path):
    """FFmpeg would open whatever the list names."""
    trees.write_video(tmp_path / "b.mp4")
    (tmp_path / "a.mp4").write_text("ffconcat version 1.0\nfile b.mp4\n")
    with pytest.raises(ValueError, match="no video but a list of other files"):
        decode(tmp_path / "a.mp4", trees.first_frame, native)


def test_open_video_refuses_frames_that_are_a_line(tmp_path):
    """Converted to a short side of 224 it would be 14336 pixels long."""
    trees.write_video(tmp_path / "a.mp4", width=1024, height=16)
    with pytest.raises(ValueError, match="1024 x 16 pixels. Expected sides of 1 : 32"):
        decode(tmp_path / "a.mp4", trees.first_frame, native)


def test_open_video_takes_a_name_with_a_colon(tmp_path, monkeypatch):
    """FFmpeg would take what stands before the colon for a protocol."""
    trees.write_video(tmp_path / "b.mp4").rename(tmp_path / "a:b.mp4")
    monkeypatch.chdir(tmp_path)
    images, _ = decode("a:b.mp4", trees.first_frame, native)
    assert len(images) == 1


@pytest.mark.parametrize("what", ["pipe", "folder", "no codec"])
def test_open_video_faults_are_the_clips_in_pose_py(what, tmp_path):
    """A BrokenClip, which extraction names and passes over."""
    path = tmp_path / "a.mp4"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        trees.write_video(path)
        trees.without_codec(path)

    def read():
        with pytest.raises(pose.BrokenClip, match="cannot decode .*a.mp4: .*Expected a whole vid"):
            list(pose.Video(path))
        return True

    assert ends(read)


# ---- Shapes --------------------------------------------------------------------------------------

SHAPE = {"a": [int], "b": Maybe({str: torch.Tensor})}


def test_shapes_that_fit_have_no_misfit():
    """What may be missing may also be null."""
    assert misfit({"a": [1, 2]}, SHAPE) is None
    assert misfit({"a": [], "b": None}, SHAPE) is None


def test_shapes_name_the_first_place():
    """Where it is, what stands there and what should; True is no whole number."""
    wrong = misfit({"a": [1, True]}, SHAPE)
    assert (wrong.place, wrong.value) == ("'a', entry 2", True)
    wrong = misfit({"a": [], "b": {"x": None}}, SHAPE)
    assert (wrong.place, wrong.expected) == ("'b', 'x'", "a Tensor")
    wrong = misfit({1: 2}, {str: int})
    assert wrong.expected == "names that are texts"
