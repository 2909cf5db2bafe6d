"""`pose.py import pyskl` and `import k400`, and reading a pickle without running its code.

What is imported is made here as pyskl's files are: persons in the detector's order, which changes
between frames, at places from which a test can tell who is who. Formats in JSON are in
test_import_json.py.
"""
import math
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import data
import pose
from pose_clips import COCO, RunsACommand, files_in, person_at, run_pose
from published import pose_files
from strategies import seeds

# ---- pyskl ---------------------------------------------------------------------------------------

# Where a person stands who walks through six frames, and one who is there in three of them.
WALK = [(40, 60), (41, 60), (42, 60), (43, 60), (44, 60), (45, 60)]
FAR = [(120, 60), None, (120, 60), (120, 60), None, None]


def annotation(name, people, frames=6):
    """A clip as pyskl lists it. people: for each person where they are in each frame, or None."""
    keypoint = np.zeros((len(people), frames, 17, 2), np.float16)
    score = np.zeros((len(people), frames, 17), np.float16)
    for m, places in enumerate(people):
        for t, place in enumerate(places):
            if place is not None:
                keypoint[m, t] = person_at(*place)
                score[m, t] = 0.75
    return {
        "frame_dir": name,
        "label": 3,
        "total_frames": frames,
        "img_shape": (120, 160),
        "original_shape": (120, 160),
        "keypoint": keypoint,
        "keypoint_score": score,
    }


def write_pyskl(path, annotations, protocol=4):
    """The pickle of a data set -> its path."""
    content = {"split": {"train": [], "test": []}, "annotations": annotations}
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_import_pyskl(tmp_path, protocol):
    """A clip of one person, in each protocol of pickle: joints, scores, size; times unknown."""
    file = write_pyskl(tmp_path / "d.pkl", [annotation("one", [WALK])], protocol)
    assert run_pose("import", "pyskl", file, "--out", tmp_path / "poses") == 0

    clip = pose.read_pose(tmp_path / "poses" / "one.npz")
    assert clip.joints == COCO
    assert clip.size == (120, 160)
    assert clip.keypoints.shape == (6, 17, 2)
    for t, place in enumerate(WALK):
        assert np.allclose(clip.keypoints[t], person_at(*place), atol=0.05)
    assert (clip.scores == 0.75).all()
    assert np.isnan(clip.times).all()


def test_import_pyskl_takes_one_person_out_of_swapped_rows(tmp_path):
    """Who is in the clip for longest is its person, in whichever row they are in each frame."""
    first = []
    second = []
    for t in range(6):
        if t % 2 == 0:
            first.append(WALK[t])
            second.append(FAR[t])
        else:
            first.append(FAR[t])
            second.append(WALK[t])
    file = write_pyskl(tmp_path / "d.pkl", [annotation("swapped", [first, second])])
    run_pose("import", "pyskl", file, "--out", tmp_path / "poses")

    clip = pose.read_pose(tmp_path / "poses" / "swapped.npz")
    for t, place in enumerate(WALK):
        assert np.allclose(clip.keypoints[t], person_at(*place), atol=0.05)
    assert (clip.scores == 0.75).all()


def test_import_pyskl_keeps_frames_without_a_person(tmp_path):
    """Score 0 in a frame in which the person is absent, and in all frames of an empty clip."""
    absent_in_frame_3 = [*WALK[:3], None, *WALK[4:]]
    nobody = [None] * 6
    file = write_pyskl(tmp_path / "d.pkl", [
        annotation("zero", [absent_in_frame_3, nobody]),
        annotation("none", []),
    ])
    run_pose("import", "pyskl", file, "--out", tmp_path / "poses")

    zero = pose.read_pose(tmp_path / "poses" / "zero.npz")
    assert zero.scores.max(1).tolist() == [0.75, 0.75, 0.75, 0, 0.75, 0.75]
    none = pose.read_pose(tmp_path / "poses" / "none.npz")
    assert none.scores.shape == (6, 17)
    assert none.scores.max() == 0


def test_import_pyskl_names_files_as_data_sets_do(tmp_path, capsys):
    """FineGym's ids are spelled in full; others stay. What is there is kept the second time."""
    file = write_pyskl(tmp_path / "d.pkl", [
        annotation("-mmq0PT-u8k_00155", [WALK]),
        annotation("A0xAXXysHUo_002184_002237_0035_0036", [WALK]),
        annotation("0LtLS9wROrk_E_002407_002435_A_0003_0005", [WALK]),
    ])
    names = [
        "-mmq0PT-u8k_00155.npz",
        "0LtLS9wROrk_E_002407_002435_A_0003_0005.npz",
        "A0xAXXysHUo_E_002184_002237_A_0035_0036.npz",
    ]
    run_pose("import", "pyskl", file, "--out", tmp_path / "poses")
    assert list(files_in(tmp_path / "poses")) == names
    capsys.readouterr()

    run_pose("import", "pyskl", file, "--out", tmp_path / "poses")
    assert "0 pose clips written" in capsys.readouterr().out
    assert list(files_in(tmp_path / "poses")) == names


def test_a_bad_entry_is_listed_and_the_rest_is_made(tmp_path, capsys):
    """No frame, joints that are none or of another shape, no size: each is named with the file."""
    short = annotation("short", [WALK])
    short["keypoint"] = np.zeros((1, 0, 17, 2), np.float16)
    short["keypoint_score"] = np.zeros((1, 0, 17), np.float16)
    no_joints = annotation("no_joints", [WALK])
    no_joints["keypoint"] = None
    three_numbers = annotation("three_numbers", [WALK])
    three_numbers["keypoint"] = np.ones(3)
    no_size = annotation("no_size", [WALK])
    no_size["img_shape"] = None

    file = write_pyskl(tmp_path / "x.pkl", [
        annotation("a", [WALK]), short, no_joints, three_numbers, no_size, annotation("b", [WALK]),
    ])
    assert run_pose("import", "pyskl", file, "--out", tmp_path / "poses") == 0
    said = capsys.readouterr().out
    assert "4 broken" in said
    assert "short: bad pose clip" in said
    for name in ("no_joints", "three_numbers", "no_size"):
        assert f"{name}: bad " in said
    assert f"bad entry of {file}" in said
    assert list(files_in(tmp_path / "poses")) == ["a.npz", "b.npz"]


def test_import_needs_less_than_twice_the_pickle(tmp_path):
    """The joints of a data set are in memory once, as the file has them, and one clip is at work:
    neither a copy of the file nor what was made of other clips is kept beside them."""
    annotations = []
    rng = np.random.default_rng(0)
    for i in range(40):
        clip = annotation(f"c{i}", [[]], frames=1000)         # a tenth of a megabyte each
        clip["keypoint"][:] = rng.random((17, 2)) * 100
        clip["keypoint_score"][:] = 0.5
        annotations.append(clip)
    file = write_pyskl(tmp_path / "large.pkl", annotations)

    tracemalloc.start()
    try:
        assert run_pose("import", "pyskl", file, "--out", tmp_path / "poses") == 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(files_in(tmp_path / "poses")) == 40
    assert file.stat().st_size > 4e6
    assert peak < 2 * file.stat().st_size


def test_pyskl_files_without_scores():
    """A third number of a joint is its score; else a joint at (0, 0) is missing, and no other."""
    joints = np.zeros((1, 1, 3, 2))
    joints[0, 0, 1] = 0, 7
    joints[0, 0, 2] = 5, 6
    item = {"keypoint": joints, "img_shape": (9, 9)}
    assert pose_files.read_pyskl(item).scores.tolist() == [[[False, True, True]]]

    scored = np.concatenate([joints, np.array([0.1, 0.2, 0.3])[:, None] + joints[..., :1] * 0], -1)
    persons = pose_files.read_pyskl({**item, "keypoint": scored})
    assert persons.keypoints.tolist() == joints.tolist()
    assert np.allclose(persons.scores, [0.1, 0.2, 0.3])


# ---- Kinetics-400 --------------------------------------------------------------------------------


def kinetics_files(folder):
    """An index of three clips and a kpfile of two -> their paths; returns index, folder, file.

    Frames 2 to 14 of 15 were looked at, every second one. Two persons were found in some, and
    nobody in frames 10 and 12. The joints of "fewer_rows_" do not fit its frames, and those of
    "lost_lost_l" are nowhere.
    """
    frames = np.array([2, 4, 4, 6, 6, 8, 14], np.int16)
    places = [(40, 60), (120, 60), (41, 60), (42, 60), (121, 60), (43, 60), (44, 60)]
    rows = np.zeros((7, 17, 3), np.float16)
    for n, place in enumerate(places):
        rows[n, :, :2] = person_at(*place)
        rows[n, :, 2] = 0.5

    kpfile = folder / "kp" / "a.pkl"
    kpfile.parent.mkdir()
    joints = {"keypoint": rows}
    kpfile.write_bytes(pickle.dumps({"jf7RDuUTrsQ": joints, "fewer_rows_": joints}))

    good = {
        "frame_dir": "jf7RDuUTrsQ",
        "label": 325,
        "img_shape": (320, 570),
        "original_shape": (320, 570),
        "total_frames": 15,
        "frame_inds": frames,
        "box_score": np.ones(7, np.float16),
        "valid": {0.5: 5},
        "raw_file": "somewhere/else/a.pkl",
    }
    fewer = dict(good, frame_dir="fewer_rows_", frame_inds=frames[:-1])
    lost = dict(good, frame_dir="lost_lost_l")
    index = write_pyskl(folder / "k400_hrnet.pkl", [good, fewer, lost])
    return index, kpfile


def test_import_k400(tmp_path):
    """A row for every second frame, nobody in two of them, and the person who is there longest."""
    index, kpfile = kinetics_files(tmp_path)
    command = ("import", "k400", index, "--keypoints", kpfile)
    assert run_pose(*command, "--out", tmp_path / "poses") == 0

    clip = pose.read_pose(tmp_path / "poses" / "jf7RDuUTrsQ.npz")
    assert clip.size == (320, 570)
    assert clip.scores.max(1).tolist() == [0.5, 0.5, 0.5, 0.5, 0, 0, 0.5]
    seen_at = {0: (40, 60), 1: (41, 60), 2: (42, 60), 3: (43, 60), 6: (44, 60)}
    for t, place in seen_at.items():
        assert np.allclose(clip.keypoints[t], person_at(*place), atol=0.1)


def test_import_k400_from_a_folder_of_kpfiles(tmp_path):
    """--keypoints may be the folder: the index says in which file a clip's joints are."""
    index, kpfile = kinetics_files(tmp_path)
    command = ("import", "k400", index, "--keypoints")
    run_pose(*command, kpfile, "--out", tmp_path / "of_file")
    run_pose(*command, kpfile.parent, "--out", tmp_path / "of_folder")
    assert list(files_in(tmp_path / "of_folder")) == ["jf7RDuUTrsQ.npz"]
    assert files_in(tmp_path / "of_folder") == files_in(tmp_path / "of_file")


def test_import_k400_faults_are_named(tmp_path, capsys):
    """Clips whose joints do not fit or are not there; no --keypoints; the other command."""
    index, kpfile = kinetics_files(tmp_path)
    out = ("--out", tmp_path / "poses")
    run_pose("import", "k400", index, "--keypoints", kpfile, *out)
    said = capsys.readouterr().out
    assert "lost_lost_l: bad entry" in said
    assert "fewer_rows_: bad entry" in said

    assert run_pose("import", "k400", index, *out) == 2
    assert "Give --keypoints" in capsys.readouterr().err
    assert run_pose("import", "pyskl", index, *out) == 2
    assert "Use `import k400`" in capsys.readouterr().err


def test_kinetics_clips_go_on_where_nobody_is_there_any_more():
    """Every second of 20 frames was looked at, and the last person was seen in frame 14."""
    item = {"frame_inds": [2, 4, 14], "total_frames": 20}
    keypoints, scores = pose_files.spread_rows(item, np.ones((3, 17, 3)))
    assert keypoints.shape == (1, 10, 17, 2)
    assert np.flatnonzero(scores[0].max(-1)).tolist() == [0, 1, 6]


@pytest.mark.parametrize("frames, total, step, first", [
    ([1, 1, 9, 17], 300, 4, 0),                   # every eighth in common: every fourth
    ([1, 13, 13, 25], 301, 4, 0),
    ([1, 41], 300, 4, 0),
    ([3, 9, 12], 30, 3, 2),
    ([6, 11, 21], 40, 1, 0),                      # every fifth: no grid but every frame
    ([8, 12, 16], 40, 4, 3),                      # nobody in the first frames of the grid
    ([7, 7], 20, 1, 0),
])
def test_kinetics_clips_are_on_a_grid_that_training_takes(frames, total, step, first):
    """Rows of every frame, or every second, third or fourth; each person in the frame's own row."""
    item = {"frame_inds": frames, "total_frames": total}
    _, scores = pose_files.spread_rows(item, np.ones((len(frames), 17, 3)))
    T = scores.shape[1]
    assert T == math.ceil((total - first) / step)
    assert data.is_even(T, total), f"{T} rows beside {total} frames"
    rows = {(frame - 1 - first) // step for frame in frames}
    assert set(np.flatnonzero(scores.max((0, 2)))) == rows


def test_kinetics_clips_of_absurd_length_are_refused():
    """A number of frames is only a number: no memory is asked for."""
    item = {"frame_inds": [1, 2], "total_frames": 10 ** 12}
    with pytest.raises(ValueError, match="1000000000000 frames"):
        pose_files.spread_rows(item, np.ones((2, 17, 3)))


def test_each_kinetics_clip_is_read_from_its_own_file(tmp_path):
    """The folder holds two kpfiles with the same clips: the index says which one is meant."""
    index, kpfile = kinetics_files(tmp_path)
    joints = pickle.loads(kpfile.read_bytes())
    joints["jf7RDuUTrsQ"] = {"keypoint": joints["jf7RDuUTrsQ"]["keypoint"] * 0}
    for name in ("0.pkl", "b.pkl"):               # before it and after it
        kpfile.with_name(name).write_bytes(pickle.dumps(joints))
    run_pose("import", "k400", index, "--keypoints", kpfile.parent, "--out", tmp_path / "poses")
    assert pose.read_pose(tmp_path / "poses" / "jf7RDuUTrsQ.npz").scores.any()


def test_a_clip_that_is_there_twice_or_has_no_name_is_listed(tmp_path, capsys):
    """One of them is made; nothing is taken for one that an earlier run had left."""
    people = [annotation(name, [WALK]) for name in ("a", "b", "x/a", "folder/")]
    file = write_pyskl(tmp_path / "d.pkl", people)
    assert run_pose("import", "pyskl", file, "--out", tmp_path / "poses") == 0
    said = capsys.readouterr()
    assert "2 pose clips written" in said.out and "0 kept, 2 broken" in said.out
    assert "a: there twice" in said.out
    assert ": without a name" in said.out
    assert "import 4/4 clips" in said.err, "an import says of itself that it extracts"


def test_kinetics_frames_that_count_from_0_are_refused():
    """They count from 1. Frame 0 would otherwise be row -1, the last of the clip."""
    item = {"frame_inds": [0, 1, 2], "total_frames": 3}
    with pytest.raises(ValueError, match="frame_inds below 1"):
        pose_files.spread_rows(item, np.ones((3, 17, 3)))


# ---- Pickles without their code ------------------------------------------------------------------


def call_pickle(module, name, argument):
    """A pickle of protocol 2 that calls module.name(argument) when it is read."""
    return b"\x80\x02c" + f"{module}\n{name}\n(V{argument}\ntR.".encode()


class AddressesOfAStranger:
    """A pickle of this makes an array of objects whose addresses are the pickle's own bytes."""

    def __reduce__(self):
        return np.ndarray, ((1,), "O", bytes(8))


def hostile_pickles(mark):
    """Pickles that must not be read, by name -> (bytes, what the error says that they ask for).

    The first few would leave a file `mark` behind.
    """
    touch = RunsACommand(f"touch {mark}")
    write = f"open('{mark}', 'w')"
    return {
        "command": (pickle.dumps(touch), "posix.system"),
        "in_a_list": (pickle.dumps({"annotations": [touch]}), "posix.system"),
        "in_an_array": (pickle.dumps(np.array([touch], dtype=object)), "array of object"),
        "eval": (call_pickle("builtins", "eval", write), "builtins.eval"),
        "eval_of_python_2": (call_pickle("__builtin__", "eval", write), "builtins.eval"),
        "addresses": (pickle.dumps(AddressesOfAStranger()), "'str' object is not callable"),
        "records": (pickle.dumps(np.zeros(2, "i4,f8")), "array of"),
        "other_class": (pickle.dumps(Path("x")), "pathlib"),
        "numpy_load": (call_pickle("numpy", "load", "x"), "numpy.load"),
        "dotted_name": (call_pickle("numpy.core.multiarray", "sys.modules", "x"), "sys.modules"),
    }


@pytest.mark.parametrize("kind", hostile_pickles("nowhere"))
def test_import_refuses_what_is_not_plain(tmp_path, capsys, kind):
    """The error says what the pickle asks for; nothing was run and nothing written."""
    mark = tmp_path / "ran"
    content, asked_for = hostile_pickles(mark)[kind]
    file = tmp_path / "evil.pkl"
    file.write_bytes(content)

    assert run_pose("import", "pyskl", file, "--out", tmp_path / "poses") == 2
    said = capsys.readouterr().err
    assert asked_for in said
    assert "Expected" in said
    assert "Traceback" not in said
    assert not mark.exists(), "the pickle's code was run"
    assert not (tmp_path / "poses").exists()


KINDS = ["f2", "f4", "f8", "i2", "i8", ">f4", "u1", "?"]


@example(seed=1, protocol=2, kind=">f4")
@given(seed=seeds, protocol=st.sampled_from([2, 3, 4, 5]), kind=st.sampled_from(KINDS))
def test_plain_pickles_come_back(tmp_path_factory, seed, protocol, kind):
    """Arrays of any size, order and number, scalars of numpy, and what Python has of its own."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(0, 4, 3)
    array = (rng.random(shape) * 50).astype(kind)
    arrays = [array, array.T, array[:1], array.sum()]
    plain = (1, 2.5, None, "x", b"y", {3})

    path = tmp_path_factory.getbasetemp() / "plain.pkl"
    path.write_bytes(pickle.dumps({"arrays": arrays, "plain": plain}, protocol))
    back = pose_files.load_plain(path)

    assert back["plain"] == plain
    assert len(back["arrays"]) == len(arrays)
    for got, want in zip(back["arrays"], arrays):
        assert np.array_equal(got, want)
        assert got.dtype.newbyteorder("=") == want.dtype.newbyteorder("=")


def test_cut_pickles_are_refused(tmp_path, capsys):
    """So is a path without a file: one line that names it, and exit code 2."""
    file = write_pyskl(tmp_path / "x.pkl", [annotation("a", [WALK])])
    file.write_bytes(file.read_bytes()[:300])
    assert run_pose("import", "pyskl", file, "--out", tmp_path) == 2
    assert f"cannot read {file}" in capsys.readouterr().err

    gone = tmp_path / "gone.pkl"
    assert run_pose("import", "pyskl", gone, "--out", tmp_path) == 2
    assert f"no file {gone}" in capsys.readouterr().err
