"""tables/fit.py, and what `--data custom` does on few clips: one command, no mistakes one by one."""
import doctest
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import train
from published.annotations import Clip, hold_out
from tables import fit
from test_label import write_video


@given(st.integers(1, 100_000))
def test_few_clips_give_a_batch_that_can_be_filled_and_enough_steps(clips):
    chosen = fit.few(clips)
    batch = chosen["batch"].value if "batch" in chosen else 32
    epochs = chosen["epochs"].value if "epochs" in chosen else 50
    assert 1 <= batch <= clips and batch & (batch - 1) == 0 and (batch == 32) == (clips >= 32)
    assert epochs * (clips // batch) >= 200 or epochs == 100
    assert train.GlobalBatches(clips, batch, 0)


def test_few_clips_with_a_batch_of_ones_own():
    assert "batch" not in fit.few(9, batch=4) and fit.few(9, batch=4)["epochs"].value == 100


def test_tiny_backbone_sets_what_follows_from_it():
    (cfg, data_cfg, model_cfg), values = train.settings(["--data", "diving48", "--backbone", "tiny"])
    assert (model_cfg.image_size, model_cfg.tau_fw, data_cfg.image_size, cfg.lr) == (80, 0.1, 80, 2e-3)
    assert any(line.startswith("--image-size 80: ") for line in values.reasons)
    (_, _, model_cfg), values = train.settings(["--data", "diving48", "--backbone", "tiny", "--image-size", "40"])
    assert model_cfg.image_size == 40 and not any("--image-size" in line for line in values.reasons)
    (_, _, vilp), _ = train.settings(["--data", "diving48", "--backbone", "tiny", "--model", "vilp"])
    assert vilp.tau_fw == 1.0


def test_papers_defaults_stay():
    """Nothing is chosen for a benchmark on a real backbone, nor for the toy."""
    for argv in (["--data", "diving48"], []):
        (_, _, _), values = train.settings(argv)
        assert values.reasons == []


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=40))
def test_hold_out_parts_videos_and_keeps_every_label(rows):
    clips = [Clip(f"{i}", f"v{video}", label) for i, (label, video) in enumerate(rows)]
    stay, held = hold_out(clips)
    assert sorted(stay + held) == sorted(clips)
    assert not {c.path for c in stay} & {c.path for c in held}
    assert {c.label for c in stay} == {c.label for c in clips}
    if len({c.path for c in clips if c.label == 0}) >= 3 and all(c.label == 0 for c in clips):
        assert held


def test_hold_out_gives_a_label_its_only_video_back():
    """The third video of one label is all that the other has: it stays in training."""
    clips = [Clip("0", "v0", 0), Clip("1", "v1", 0), Clip("2", "v2", 0), Clip("3", "v2", 1)]
    assert hold_out(clips) == (clips, [])
    assert [clip.id for clip in hold_out(clips[:3])[1]] == ["2"]


def own_data(root, per_label=5, labels=("wave", "jump")):
    table = "path,label,split\n"
    for label in labels:
        for i in range(per_label):
            write_video(root / f"{label}{i}.mp4")
            table += f"{label}{i}.mp4,{label},train\n"
    (root / "clips.csv").write_text(table)
    return root


def test_choices_are_told_and_own_clips_train_in_one_command(tmp_path, capsys):
    root = own_data(tmp_path / "own")
    flags = ["--data", "custom", "--root", str(root), "--poses", str(root), "--backbone", "tiny", "--workers", "0",
             "--out", str(tmp_path / "run"), "--epochs", "1", "--pose-frames", "4", "--video-frames", "2"]
    assert train.main(flags) == 0
    said = capsys.readouterr().out
    assert re.search(r"chosen for what is there: --batch 8: there are 8 training clips", said)
    assert "2 of the training clips are held out for it, 8 are left" in said
    saved = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (saved["batch"], saved["image_size"], saved["lr"], saved["epochs"]) == (8, 80, 2e-3, 1)


def test_all_mistakes_are_told_at_once_and_nothing_is_left(tmp_path, capsys):
    root = own_data(tmp_path / "own")
    flags = ["--data", "custom", "--root", str(root), "--poses", str(root), "--batch", "64", "--clip", "nowhere.pt",
             "--workers", "0", "--out", str(tmp_path / "run")]
    assert train.main(flags) == 2
    said = capsys.readouterr().err
    assert "2 mistakes:" in said and "1. --batch 64: 8 clips" in said and "2. no file of weights nowhere.pt" in said
    assert not (tmp_path / "run").exists()
    with pytest.raises(SystemExit):
        train.main(["--crop-area", "2", "--fresh", "--resume"])
    said = capsys.readouterr().err
    assert said.count("error: ") == 2 and "--crop-area 2" in said and "--fresh --resume" in said


def test_failed_start_leaves_no_run_folder(tmp_path, capsys):
    """All poses are missing: the first batch fails, and no empty run stays behind."""
    root = own_data(tmp_path / "own")
    flags = ["--data", "custom", "--root", str(root), "--poses", str(tmp_path), "--backbone", "tiny", "--workers", "0",
             "--out", str(tmp_path / "run")]
    assert train.main(flags) == 2
    assert "nor can any of 49 replacements be read" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_examples_of_docstrings():
    assert doctest.testmod(fit).attempted == 1 and doctest.testmod(fit).failed == 0
    assert np.isfinite(fit.few(1)["lr"].value)
