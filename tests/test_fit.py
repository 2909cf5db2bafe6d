"""tables/fit.py, and what `--data custom` does on few clips: one command, which says what it chose.

Few clips get a batch that they can fill, and enough epochs; clips without a split of their own are
parted by videos; and a command with several mistakes names them all and leaves nothing behind.
"""
import doctest
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import train
from pose_clips import square_video
from published.annotations import Clip, hold_out
from runs import leave_out_pictures
from tables import fit


# ---- What is chosen ------------------------------------------------------------------------------

@given(st.integers(1, 100_000))
def test_few_clips_give_a_batch_that_can_be_filled_and_enough_steps(clips):
    """A power of two of clips in a batch, 32 where there are as many; 200 steps or 100 epochs."""
    chosen = fit.few(clips)
    batch = chosen["batch"].value if "batch" in chosen else 32
    epochs = chosen["epochs"].value if "epochs" in chosen else 50

    assert 1 <= batch <= clips, "the batch cannot be filled"
    assert batch & (batch - 1) == 0, f"{batch} is no power of two"
    assert (batch == 32) == (clips >= 32), "the batch of the paper is given up without need"
    assert epochs * (clips // batch) >= 200 or epochs == 100, "too few steps"
    assert len(train.GlobalBatches(clips, batch, 0)) >= 1, "an epoch without a step"


def test_few_clips_with_a_batch_of_ones_own():
    """A batch that was asked for stays, and the epochs are counted with it."""
    chosen = fit.few(9, batch=4)
    assert "batch" not in chosen
    assert chosen["epochs"].value == 100, "2 steps an epoch: 200 steps take 100 epochs"
    assert "epochs" not in fit.few(9, batch=1), "9 steps an epoch: the usual 50 are enough"


def test_tiny_backbone_sets_what_follows_from_it():
    """The size that the tiny CLIP reads, a temperature and a rate, where no flag says otherwise."""
    flags = ["--data", "diving48", "--backbone", "tiny"]
    (cfg, data_cfg, model_cfg), values = train.settings(flags)
    assert model_cfg.image_size == data_cfg.image_size == 80
    assert model_cfg.tau_fw == 0.1
    assert cfg.lr == 2e-3
    assert any(reason.startswith("--image-size 80: ") for reason in values.reasons)

    (_, _, own), values = train.settings([*flags, "--image-size", "40"])
    assert own.image_size == 40
    assert not any("--image-size" in reason for reason in values.reasons), "it was not chosen"

    (_, _, vilp), _ = train.settings([*flags, "--model", "vilp"])
    assert vilp.tau_fw == 1.0


@pytest.mark.parametrize("model", ["pevl", "vilp", "aim"])
def test_few_clips_of_ones_own_go_before_a_rivals_preset(root, model):
    """AIM's batch of 64 could not be filled; and what is chosen is not called the paper's."""
    flags = ["--data", "custom", "--root", str(root), "--model", model]
    (cfg, _, _), values = train.settings(flags)
    assert (cfg.batch, cfg.epochs) == (8, 100)
    assert cfg.recipe == "preset"
    for name in ("--batch 8", "--epochs 100", "--warmup 5.0", "--eval-every 5"):
        assert any(reason.startswith(name) for reason in values.reasons), name


@pytest.mark.parametrize("argv", [["--data", "diving48"], []], ids=["diving48", "toy"])
def test_papers_defaults_stay(argv):
    """Nothing is chosen for a benchmark on a real backbone, nor for the toy."""
    _, values = train.settings(argv)
    assert values.reasons == []


def test_examples_of_docstrings():
    """The example in the docstring of `few` comes out as printed."""
    found = doctest.testmod(fit)
    assert found.attempted == 1
    assert found.failed == 0
    assert np.isfinite(fit.few(1)["lr"].value), "one clip alone has a rate too"


# ---- Clips that are held out ---------------------------------------------------------------------

@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=40))
def test_hold_out_parts_videos_and_keeps_every_label(rows):
    """No video is on both sides, no label without a clip to train on. rows: (label, video)."""
    clips = []
    for number, (label, video) in enumerate(rows):
        clips.append(Clip(str(number), f"v{video}", label))
    stay, held = hold_out(clips)

    assert sorted(stay + held) == sorted(clips), "a clip was lost or doubled"
    trained = {clip.path for clip in stay}
    assert not trained & {clip.path for clip in held}, "a video is on both sides"
    assert {clip.label for clip in stay} == {clip.label for clip in clips}, "a label is gone"

    labels = {clip.label for clip in clips}
    videos = {clip.path for clip in clips}
    if len(labels) == 1 and len(videos) >= 3:
        assert held, "three videos of one label, and nothing is held out"


def test_hold_out_takes_the_third_video_of_a_label():
    """Of three videos the last; of eight the third and the eighth."""
    clips = [Clip(str(number), f"v{number}", 0) for number in range(8)]
    assert [clip.id for clip in hold_out(clips[:3])[1]] == ["2"]
    assert [clip.id for clip in hold_out(clips)[1]] == ["2", "7"]


def test_hold_out_gives_a_label_its_only_video_back():
    """The third video of one label is all that the other has: it stays in training."""
    clips = [Clip("0", "v0", 0), Clip("1", "v1", 0), Clip("2", "v2", 0), Clip("3", "v2", 1)]
    assert hold_out(clips) == (clips, [])


# ---- Commands on clips of one's own --------------------------------------------------------------

@pytest.fixture
def root(tmp_path):
    """Five clips of each of two labels, with their poses, and a table that holds none out."""
    root = tmp_path / "own"
    rows = ["path,label,split"]
    for label in ("wave", "jump"):
        for number in range(5):
            name = f"{label}{number}.mp4"
            square_video(root / name)
            rows.append(f"{name},{label},train")
    (root / "clips.csv").write_text("\n".join(rows) + "\n")
    return root


def flags_for(root, poses, out):
    return ["--data", "custom", "--root", str(root), "--poses", str(poses), "--workers", "0",
            "--out", str(out)]


def test_choices_are_told_and_own_clips_train_in_one_command(root, tmp_path, monkeypatch, capsys):
    """What is chosen for ten clips is printed with its reason and stored with the run."""
    leave_out_pictures(monkeypatch)
    run = tmp_path / "run"
    flags = [*flags_for(root, root, run), "--backbone", "tiny", "--epochs", "1",
             "--pose-frames", "4", "--video-frames", "2"]
    assert train.main(flags) == 0

    said = capsys.readouterr().out
    assert "chosen for what is there: --batch 8: there are 8 training clips" in said
    assert "2 of the training clips are held out for it, 8 are left" in said

    saved = json.loads((run / "config.json").read_text())["config"]
    assert saved["batch"] == 8
    assert saved["image_size"] == 80
    assert saved["lr"] == 2e-3
    assert saved["epochs"] == 1, "a flag of one's own goes first"


def test_nothing_follows_from_clips_that_cannot_be_read(tmp_path, capsys):
    """No reasons from "0 training clips" in front of the error."""
    flags = flags_for(tmp_path / "nowhere", tmp_path, tmp_path / "run")
    assert train.main([*flags, "--backbone", "tiny"]) == 2
    said = capsys.readouterr()
    assert "training clips" not in said.out
    assert "nowhere" in said.err


def test_choices_for_rivals_are_of_what_they_have():
    """AIM compares with no words, ViLP has no adapters; both keep a rate of their own."""
    for model, lacks in (("aim", "--tau-fw"), ("vilp", "--adapter-ratio")):
        flags = ["--data", "diving48", "--backbone", "tiny", "--model", model]
        _, values = train.settings(flags)
        names = [reason.split()[0] for reason in values.reasons]
        assert lacks not in names
        assert "--lr" not in names


def test_all_mistakes_are_told_at_once_and_nothing_is_left(root, tmp_path, capsys):
    """Two mistakes are one error with two numbers, in settings and in flags; no run begins."""
    run = tmp_path / "run"
    flags = [*flags_for(root, root, run), "--batch", "64", "--clip", "nowhere.pt"]
    assert train.main(flags) == 2
    said = capsys.readouterr().err
    assert "2 mistakes:" in said
    assert "1. --batch 64: 8 clips" in said
    assert "2. no file of weights nowhere.pt" in said
    assert not run.exists()

    with pytest.raises(SystemExit):
        train.main(["--crop-area", "2", "--fresh", "--resume"])
    said = capsys.readouterr().err
    assert said.count("error: ") == 2
    assert "--crop-area 2" in said
    assert "--fresh --resume" in said


def test_failed_start_leaves_no_run_folder(root, tmp_path, capsys):
    """All poses are missing: the first batch fails, and no empty run stays behind."""
    run = tmp_path / "run"
    without_poses = tmp_path
    assert train.main([*flags_for(root, without_poses, run), "--backbone", "tiny"]) == 2
    assert "nor can any of 49 replacements be read" in capsys.readouterr().err
    assert not run.exists()
