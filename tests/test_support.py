"""support/: checks that speak, files written whole or not at all, dataclasses as a command line."""
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal

import pytest
import torch

from data import DataConfig
from support.checks import check_shape
from support.files import Locked, atomic, lock
from support.settings import build_configs

ROOT = Path(__file__).resolve().parent.parent

# ---- Shapes of tensors ---------------------------------------------------------------------------

X = torch.zeros(2, 5, 7, 2)


@pytest.mark.parametrize("spec, sizes", [
    ("B T J 2", {"B": 2, "T": 5, "J": 7}),
    ("... J 2", {"J": 7}),
    ("... B T J 2", {"B": 2, "T": 5, "J": 7}),    # no axis at all may be free
])
def test_check_shape_gives_the_sizes(spec, sizes):
    """Each letter is a size; the axes of "..." have no letters."""
    assert check_shape(X, spec) == sizes


def test_check_shape_names_the_sizes():
    """Which tensor, what it is, and what was expected, with the sizes that were fixed before."""
    expected = "keypoints has the shape (2, 5, 7, 2). Expected (B, T, J, 2) with {'J': 8}"
    with pytest.raises(ValueError, match=re.escape(expected)):
        check_shape(X, "B T J 2", "keypoints", J=8)
    assert check_shape(X, "B T J 2", "keypoints", J=7)["J"] == 7


@pytest.mark.parametrize("spec", ["B T J 3", "B T J", "... a b c d e", "B T B 2"],
                         ids=["another number", "too few", "too many", "one letter, two sizes"])
def test_check_shape_refuses_what_does_not_fit(spec):
    """And says what the tensor's shape is."""
    with pytest.raises(ValueError, match=re.escape("(2, 5, 7, 2)")):
        check_shape(X, spec)


# ---- Dataclasses as a command line ---------------------------------------------------------------


@dataclass(frozen=True)
class Other:
    """Settings beside those of a DataConfig; `seed` is a field of both."""
    rate: Annotated[float, "100 % of it (Sec. 4)"] = 0.5
    names: Annotated[tuple[str, ...], "several"] = ("a", "b")
    model: Annotated[Literal["pevl", "aim"], "which"] = "pevl"
    seed: Annotated[int, "shared"] = 7


def presets(ask):
    """Diving48 brings three defaults of its own."""
    if ask.data == "diving48":
        return {"rate": 2.0, "pose_frames": 32, "flip": False}
    return {}


def build(words):
    """The two configs and all flags of a command line, by name."""
    def add_checkpoint(parser):
        parser.add_argument("--ckpt", default="")

    configs, ask = build_configs(words, (DataConfig, Other), presets, extra=add_checkpoint)
    return SimpleNamespace(data=configs[0], other=configs[1], ask=ask)


def test_bridge_defaults_are_those_of_the_dataclass():
    """Where neither a flag nor a preset says otherwise; of a shared field, the first one's."""
    built = build([])
    assert built.data == DataConfig()
    assert built.other == Other(seed=DataConfig().seed)
    assert built.ask.ckpt == ""


def test_bridge_presets_win_over_defaults():
    """A preset follows from another flag."""
    built = build(["--data", "diving48"])
    assert (built.data.pose_frames, built.data.flip, built.other.rate) == (32, False, 2.0)
    assert built.ask.rate == 2.0


def test_bridge_flags_win_over_presets():
    """Of a number and of a switch."""
    built = build(["--flip", "--data=diving48", "--pose-frames", "64"])
    assert (built.data.pose_frames, built.data.flip) == (64, True)


def test_bridge_reads_names_with_commas():
    """Blanks after a comma do not count."""
    assert build(["--names", "x, y"]).other.names == ("x", "y")


def test_bridge_gives_a_shared_field_to_both():
    """One flag, two dataclasses."""
    built = build(["--seed", "3"])
    assert (built.data.seed, built.other.seed) == (3, 3)


@pytest.mark.parametrize("words, message", [
    (["--sed", "1"], "Did you mean '--seed'"),
    (["--model", "pev"], "Did you mean 'pevl'"),
    (["--data", "diving"], "Did you mean 'diving48'"),
    (["--seed", "x"], "whole number"),
    (["--rate", "x"], "a number"),
    (["--video-frames", "7"], "divisor"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_bridge_errors_are_one_line(words, message, capsys):
    """Exit code 2, and the nearest name where there is one."""
    with pytest.raises(SystemExit) as stop:
        build_configs(words, (DataConfig, Other))
    shown = capsys.readouterr().err
    assert stop.value.code == 2
    assert shown.startswith("error: ") and message in shown
    assert shown.count("\n") == 1


def test_bridge_help_shows_doc_and_default(capsys):
    """Of every field; a % in a text is no format."""
    with pytest.raises(SystemExit):
        build_configs(["--help"], (DataConfig, Other))
    shown = " ".join(capsys.readouterr().out.split())
    assert "100 % of it (Sec. 4) [default: 0.5]" in shown
    assert "--no-flip" in shown
    assert "pevl | aim" in shown
    for field in DataConfig.__dataclass_fields__:
        assert "--" + field.replace("_", "-") in shown


# ---- Files ---------------------------------------------------------------------------------------


def test_atomic_leaves_what_was_there_when_the_block_fails(tmp_path):
    """And nothing else in the folder."""
    path = tmp_path / "a" / "note.txt"
    with atomic(path) as part:
        part.write_text("whole")

    with pytest.raises(RuntimeError), atomic(path) as part:
        part.write_text("ha")
        raise RuntimeError("in the middle")
    assert path.read_text() == "whole"
    assert [file.name for file in path.parent.iterdir()] == ["note.txt"]


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
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(ROOT), str(path)],
                              stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Locked, match="is in use by process of the test. Expected"):
            lock(path, "us")
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()

    lock(path, "us").close()
    assert path.read_text() == "us\n", "the file says who holds it now"
