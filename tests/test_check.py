"""`python data.py check` and `layout`: whether training would work, before it is tried.

A check must agree with training: it fails where training would stop, and passes where training
would go on. Its exit code is 0 or 1 for that, and 2 where nothing can be read at all.
"""
import runpy
import sys
from pathlib import Path

import pytest

import data
from pose import read_pose, write_pose
from trees import TREES, make_tree, pose, poses_for, put, text, video_bytes

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def run_check(capsys):
    """A function that runs `data.py check` on a folder -> exit code, what was printed."""
    def run(name, root, *flags):
        capsys.readouterr()
        code = data.main(["check", name, "--root", str(root), *flags])
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    return run


# ---- Trees of official files ---------------------------------------------------------------------


@pytest.mark.parametrize("name", list(TREES))
def test_layout_prints_the_folders(name, capsys):
    """Every line of the data set's tree."""
    assert data.main(["layout", name]) == 0
    shown = capsys.readouterr().out
    for line in data.DATASETS[name].layout.splitlines():
        assert line.strip() in shown


@pytest.mark.parametrize("name", list(TREES))
def test_check_passes_when_there_are_poses(make_tree, run_check, name):
    """The official files and videos alone are not enough; with pose files training would work."""
    cfg = make_tree(name)
    code, shown = run_check(name, cfg.folder)
    assert code == 1
    assert "without a pose file" in shown

    poses_for(cfg, "train", "val", "test")
    code, shown = run_check(name, cfg.folder, "--full")
    assert code == 0, shown
    assert "training would work" in shown


def test_check_names_what_is_wrong(make_tree, run_check):
    """How many clips there are and should be; a missing and an empty video, by name."""
    cfg = make_tree("diving48")
    poses_for(cfg, "train")
    (cfg.folder / "rgb/a_b0PT-u8k_00156.mp4").unlink()
    (cfg.folder / "rgb/x_x0PT-u8k_00157.mp4").write_bytes(b"")
    code, shown = run_check("diving48", cfg.folder)
    assert code == 1
    assert "train: 3 clips listed (official: 15027), 2 found, 48 of 48 classes, 17 joints" in shown
    assert "1 missing: " in shown and "a_b0PT-u8k_00156.mp4" in shown
    assert "1 unreadable of 2 tried: x_x0PT" in shown
    assert "45 classes without clips: Back, dive, no twist, tuck position" in shown
    assert "training would fail" in shown
    assert "the counts of V1" in shown


def test_check_of_two_data_sets_is_refused(capsys):
    """The name and --data are one thing: of two names neither may win without a word."""
    assert data.main(["check", "gym99", "--data", "toy"]) == 2
    assert "gym99 beside --data toy" in capsys.readouterr().err


def test_no_clips_are_not_sent_back_to_the_same_command(make_tree, run_check):
    """The list of a data set of one's own that names none: which file lists them, and --root."""
    cfg = make_tree("custom")
    text(cfg.folder, "clips.csv", "path,label,split\n")
    path = cfg.folder / "clips.csv"
    code, shown = run_check("custom", path)
    assert code == 2
    assert "data.py layout custom" in shown and f"--root is {path}" in shown


def test_check_of_another_data_set_names_the_file_it_lacks(make_tree, run_check):
    """Nothing can be read: the exit code is 2."""
    cfg = make_tree("diving48")
    code, shown = run_check("gym99", cfg.folder)
    assert code == 2
    assert "gym99_categories.txt" in shown


# ---- Agreement with training ---------------------------------------------------------------------


@pytest.fixture
def table(tmp_path, video_bytes):
    """A function that writes a table of one's own, and its files.

    Its training clips are that many pieces of each of these files: `sound` is whole, `zbroken` an
    empty file, `missing` not there, `unposed` without a pose file. One sound clip is for testing.
    """
    def make(**counts):
        rows = ["path,label,split,start,end"]
        for name, count in counts.items():
            for number in range(count):
                rows.append(f"v/{name}.mp4,wave,train,{number / 1000:.3f},")
        rows.append("v/sound.mp4,wave,test,,")
        text(tmp_path, "clips.csv", "\n".join(rows))

        put(tmp_path, video_bytes, "v/sound.mp4", "v/unposed.mp4")
        (tmp_path / "v/zbroken.mp4").write_bytes(b"")
        for name in ("sound", "zbroken", "missing"):
            pose(tmp_path, name)
        return tmp_path

    return make


@pytest.mark.parametrize("counts, flags, code", [
    ({"sound": 99, "missing": 1}, [], 0),         # 1 % may be lost, as in training
    ({"sound": 98, "missing": 2}, [], 1),
    ({"sound": 98, "missing": 2}, ["--allow-broken"], 0),
    ({"sound": 98, "unposed": 2}, [], 1),
    ({"sound": 98, "unposed": 2}, ["--no-read-poses"], 0),
    ({"sound": 98, "zbroken": 2}, ["--full"], 1),
    ({"sound": 97, "zbroken": 3}, ["--allow-broken"], 0),
    ({"missing": 3}, ["--allow-broken"], 1),      # nothing is left
])
def test_check_fails_when_training_would(table, run_check, counts, flags, code):
    """Where more than 1 % of the clips are lost, or with --allow-broken all of them."""
    found, shown = run_check("custom", table(**counts), *flags)
    assert found == code, shown


def test_check_looks_at_every_clip_with_full(table, run_check):
    """One broken clip of 100, the last one, is not in the sample of 50."""
    root = table(sound=99, zbroken=1)
    assert "unreadable" not in run_check("custom", root)[1]
    assert "1 unreadable of 100 tried: v/zbroken" in run_check("custom", root, "--full")[1]


def test_check_looks_into_pose_files(table, run_check):
    """31 rows of poses for twelve frames go with nothing, though both files can be read."""
    root = table(sound=5)
    assert run_check("custom", root)[0] == 0
    pose(root, "sound", frames=31)
    code, shown = run_check("custom", root)
    assert code == 1
    assert "v/sound: wrong pose length" in shown


def test_check_looks_at_every_split(table, run_check):
    """The training clips are sound, the test clip is gone: evaluation would fail."""
    root = table(sound=5)
    content = (root / "clips.csv").read_text()
    text(root, "clips.csv", content.replace("v/sound.mp4,wave,test", "v/gone.mp4,wave,test"))
    code, shown = run_check("custom", root)
    assert code == 1
    assert "train: 5 clips listed (official: not published), 5 found" in shown
    assert "1 missing" in shown


def test_check_counts_clips_without_a_person(table, run_check):
    """Poses that show nobody in most frames are no error, and are told all the same."""
    root = table(sound=2)
    path = root / "poses/sound.npz"
    clip = read_pose(path)
    clip.scores[:len(clip.scores) * 2 // 3] = 0
    write_pose(path, **vars(clip))

    code, shown = run_check("custom", root)
    assert code == 0
    assert "training would work" not in shown
    assert "training would run, but 4 of 4 clips that were looked at" in shown
    assert "2 of 2 clips show no person in more than 50 % of their frames" in shown


def test_check_tells_of_clips_that_are_in_two_splits(make_tree, run_check):
    """The test list of Diving48's tree holds two clips of its training list."""
    cfg = make_tree("diving48", read_poses=False)
    shown = run_check("diving48", cfg.folder, "--no-read-poses")[1]
    assert "2 that training sees too: a_b0PT-u8k_00156, x_x0PT-u8k_00157" in shown


# ---- The command ---------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False])
def test_check_of_the_toy_makes_nothing(tmp_path, run_check, there):
    """Training makes the toy benchmark where it is missing; looking must not."""
    root = tmp_path / "toy"
    if there:
        root.mkdir()
    code, shown = run_check("toy", root)
    assert code == 2
    assert "there is no " in shown
    assert list(root.glob("*")) == []
    assert root.exists() == there


@pytest.mark.parametrize("command, said", [
    (["check", "hmdb51", "--root", "nowhere"], "error: hmdb51: there is no nowhere/"),
    (["layout", "hmbd51"], "Did you mean 'hmdb51'"),
], ids=["nothing there", "misspelt"])
def test_command_line_of_data(tmp_path, monkeypatch, capsys, command, said):
    """A mistake, as the shell sees it: one line on standard error and the exit code 2."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["data.py", *command])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / "data.py"), run_name="__main__")
    shown = capsys.readouterr().err
    assert stop.value.code == 2
    assert shown.startswith("error: ") and said in shown
    assert shown.count("\n") == 1
