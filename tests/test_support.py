"""support/: checks that speak, files written whole or not at all, dataclasses as a command line."""
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch

from data import DataConfig
from support.checks import check_shape
from support.files import Locked, atomic, lock
from support.settings import build_configs

HERE = Path(__file__).resolve().parent.parent


def test_check_shape_names_the_sizes():
    x = torch.zeros(2, 5, 7, 2)
    assert check_shape(x, "B T J 2", J=7) == {"B": 2, "T": 5, "J": 7}
    assert check_shape(x, "... J 2") == {"J": 7}
    assert check_shape(x, "... B T J 2") == {"B": 2, "T": 5, "J": 7}
    with pytest.raises(
        ValueError,
        match=r"keypoints has the shape \(2, 5, 7, 2\). Expected \(B, T, J, 2\) with {'J': 8}",
    ):
        check_shape(x, "B T J 2", "keypoints", J=8)
    for spec in ("B T J 3", "B T J", "... a b c d e", "B T B 2"):
        with pytest.raises(ValueError, match=re.escape("(2, 5, 7, 2)")):
            check_shape(x, spec)


@dataclass(frozen=True)
class Other:
    rate: Annotated[float, "100 % of it (Sec. 4)"] = 0.5
    names: Annotated[tuple[str, ...], "several"] = ("a", "b")
    model: Annotated[Literal["pevl", "aim"], "which"] = "pevl"
    seed: Annotated[int, "shared"] = 7


def test_bridge_precedence_types_and_shared_fields():
    presets = lambda ask: {"rate": 2.0, "pose_frames": 32, "flip": False} if ask.data == "diving48" else {}
    (cfg, other), ask = build_configs(["--data", "diving48", "--pose-frames", "64", "--names", "x, y", "--seed", "3"],
                                      (DataConfig, Other), presets, extra=lambda p: p.add_argument("--ckpt", default=""))
    assert (cfg.pose_frames, cfg.flip, cfg.seed, other.seed) == (64, False, 3, 3)
    assert (other.rate, other.names, ask.ckpt, ask.rate) == (2.0, ("x", "y"), "", 2.0)
    (cfg, other), _ = build_configs(["--flip", "--data=diving48"], (DataConfig, Other), presets)
    assert cfg.flip and cfg.pose_frames == 32


@pytest.mark.parametrize("words, message", [
    (["--sed", "1"], "Did you mean '--seed'"), (["--model", "pev"], "Did you mean 'pevl'"), (["--seed", "x"], "whole number"),
    (["--data", "diving"], "Did you mean 'diving48'"), (["--video-frames", "7"], "divisor"), (["--rate", "x"], "a number")])
def test_bridge_errors_are_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        build_configs(words, (DataConfig, Other))
    shown = capsys.readouterr().err
    assert stop.value.code == 2 and shown.startswith("error: ") and shown.count("\n") == 1 and message in shown


def test_bridge_help_shows_doc_and_default(capsys):
    with pytest.raises(SystemExit):
        build_configs(["--help"], (DataConfig, Other))
    shown = " ".join(capsys.readouterr().out.split())
    assert "100 % of it (Sec. 4) (default: 0.5)" in shown and "--no-flip" in shown and "pevl | aim" in shown
    for field in DataConfig.__dataclass_fields__:
        assert "--" + field.replace("_", "-") in shown


# ---- Files ---------------------------------------------------------------------------------------

def test_atomic_leaves_what_was_there_when_the_block_fails(tmp_path):
    path = tmp_path / "a" / "note.txt"
    with atomic(path) as part:
        part.write_text("whole")
    with pytest.raises(RuntimeError), atomic(path) as part:
        part.write_text("ha")
        raise RuntimeError("in the middle")
    assert path.read_text() == "whole" and [p.name for p in path.parent.iterdir()] == ["note.txt"]


HOLDER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from support.files import lock
held = lock(sys.argv[2], "process of the test")
print("held", flush=True)
time.sleep(60)
"""


def test_lock_names_who_holds_it_and_dies_with_its_process(tmp_path):
    """A real second process holds it; after a SIGKILL the next one gets it at once."""
    path = tmp_path / "run.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, HERE, path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Locked, match="is in use by process of the test. Expected"):
            lock(path, "us")
    finally:
        holder.kill()
        holder.wait()
    lock(path, "us").close()
    assert path.read_text() == "us\n", "the file says who holds it now"
