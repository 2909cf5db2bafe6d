"""`pose.py import smarthome`, `openpose` and `alphapose`: JSON that other programs wrote.

A made-up person's joints lie where their names say, not where they stand in a file, so that a table
that takes one joint for another is noticed. Formats in pickles are in test_import_pickles.py.
"""
import json
import re
from pathlib import Path

import numpy as np
import pytest

import pose
from pose_clips import COCO, files_in, grey_video, run_pose
from published import pose_files

# ---- Toyota-Smarthome ----------------------------------------------------------------------------


def smarthome_person(points):
    """A person as LCR-Net++ writes one: 13 x, then 13 y."""
    points = np.asarray(points)
    return {"pose2d": [*points[:, 0], *points[:, 1]], "pose3d": [0.5] * 39, "cumscore": 3.0}


@pytest.mark.parametrize("ending", ["_pose3d", ""])           # of v1.2 and of v1.1
def test_import_smarthome(tmp_path, ending):
    """13 joints, missing at (-1, -1) and (0, 0); the clip's person, wherever a frame lists them."""
    points = np.arange(26.0).reshape(13, 2) * 4 + 10
    points[2] = -1, -1
    points[3] = 0, 0
    points[5] = 0, 30                             # at the left edge, and there
    points[6] = -5, -3                            # beyond the edges, and there
    person = smarthome_person(points)
    small_points = [(400.0 + j % 2, 300.0 + j % 3) for j in range(13)]
    small = smarthome_person(small_points)

    name = "Cook.Cleandishes_p02_r00_v02_c03"
    content = {"K": 5, "njts": 13, "frames": [[person], [small, person], [], [person, small]]}
    folder = tmp_path / "json"
    folder.mkdir()
    (folder / f"{name}{ending}.json").write_text(json.dumps(content))
    assert run_pose("import", "smarthome", folder, "--out", tmp_path / "poses") == 0

    clip = pose.read_pose(tmp_path / "poses" / f"{name}.npz")
    assert clip.joints == pose.JOINT_SETS["smarthome13"].names
    assert clip.size == (480, 640)
    assert clip.scores.max(1).tolist() == [1, 1, 0, 1]
    assert np.allclose(clip.keypoints[[0, 1, 3]], points)
    assert np.flatnonzero(clip.scores[0] == 0).tolist() == [2, 3]


def test_import_smarthome_lists_broken_files(tmp_path, capsys):
    """A person of one joint: the clip is named, and makes no file."""
    folder = tmp_path / "json"
    folder.mkdir()
    content = {"frames": [[{"pose2d": [1, 2]}]]}
    (folder / "Walk_p03_r01_v05_c02.json").write_text(json.dumps(content))
    assert run_pose("import", "smarthome", folder, "--out", tmp_path / "poses") == 1
    said = capsys.readouterr().out
    assert "0 pose clips written" in said
    assert "Walk_p03_r01_v05_c02: bad entry" in said


# ---- People for OpenPose and AlphaPose -----------------------------------------------------------

# The orders of OpenPose's documentation, by the number of joints.
BODY_25 = [
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow",
    "left_wrist", "mid_hip", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee",
    "left_ankle", "right_eye", "left_eye", "right_ear", "left_ear", "left_toe", "left_small_toe",
    "left_heel", "right_toe", "right_small_toe", "right_heel",
]
COCO_18 = [
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow",
    "left_wrist", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
]
OPENPOSE_ORDERS = {25: BODY_25, 18: COCO_18}


def person(t, joints, x=40):
    """A person who walks, in frame t: x, y and score of one joint after the other.

    A joint's place and score follow from its name: COCO's come one after the other from `x` on.
    """
    numbers = []
    for name in joints:
        place = COCO.index(name) if name in COCO else 99
        numbers += [x + place + t, 50 + 2 * place, 0.5 + place / 100]
    return numbers


def smaller(numbers):
    """The same person in the distance; only good for somebody who is not to be chosen."""
    return [number / 4 for number in numbers]


def assert_person(clip, row, t, x=40):
    """Row `row` of a pose clip is person(t), in COCO's order."""
    want = np.reshape(person(t, COCO, x), (17, 3))
    assert np.allclose(clip.keypoints[row], want[:, :2])
    assert np.allclose(clip.scores[row], want[:, 2])


def assert_said(said, faults):
    """Each of the patterns `faults` is found in what was said."""
    for fault in faults:
        assert re.search(fault, said), fault


# ---- OpenPose ------------------------------------------------------------------------------------


def write_openpose_frame(path, people):
    """One frame's file; people: a list of numbers for each person."""
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = [{"person_id": [-1], "pose_keypoints_2d": numbers} for numbers in people]
    path.write_text(json.dumps({"version": 1.3, "people": listed}))


def openpose_file(name, t):
    """What OpenPose calls the file of frame t of a video."""
    return f"{name}_{t:012d}_keypoints.json"


def write_openpose_clip(folder, name, frames):
    """All files of a video; frames: the people of each."""
    for t, people in enumerate(frames):
        write_openpose_frame(folder / openpose_file(name, t), people)


def test_openpose_tables_name_the_same_joints():
    """The tables of BODY_25 and COCO-18, read by the documented orders, give COCO's 17."""
    assert pose_files.OPENPOSE_TO_COCO17.keys() == OPENPOSE_ORDERS.keys()
    for count, names in OPENPOSE_ORDERS.items():
        assert len(names) == count
        table = pose_files.OPENPOSE_TO_COCO17[count]
        assert tuple(names[j] for j in table) == COCO


@pytest.mark.parametrize("count", [25, 18])
def test_import_openpose_by_size(tmp_path, count):
    """Two videos in one folder, one in its own; frames of nobody, and of two in either order."""
    order = OPENPOSE_ORDERS[count]
    far = smaller(person(0, order, x=400))
    folder = tmp_path / "json"
    write_openpose_clip(folder, "a_b", [[person(0, order)], [], [far, person(2, order)]])
    write_openpose_clip(folder, "none", [[], []])
    write_openpose_clip(folder / "c", "c", [[person(0, order)], [person(1, order)]])
    command = ("import", "openpose", folder, "--size", "480x640")
    assert run_pose(*command, "--out", tmp_path / "poses") == 0

    assert list(files_in(tmp_path / "poses")) == ["a_b.npz", "c.npz", "none.npz"]
    clip = pose.read_pose(tmp_path / "poses" / "a_b.npz")
    assert clip.size == (480, 640)
    assert clip.extractor == "OpenPose"
    assert clip.joints == COCO
    assert clip.scores.shape == (3, 17)
    assert np.isnan(clip.times).all()
    assert_person(clip, row=0, t=0)
    assert clip.scores[1].max() == 0
    assert_person(clip, row=2, t=2)

    none = pose.read_pose(tmp_path / "poses" / "none.npz")
    assert none.scores.shape == (2, 17)
    assert none.scores.max() == 0


def test_import_openpose_missing_joints_stay_missing(tmp_path):
    """OpenPose writes 0, 0, 0 for a joint that it did not find: score 0, the others above 0."""
    numbers = person(0, BODY_25)
    numbers[:3] = 0, 0, 0                         # the nose
    write_openpose_clip(tmp_path / "json", "a", [[numbers]])
    command = ("import", "openpose", tmp_path / "json", "--size", "9x9")
    run_pose(*command, "--out", tmp_path / "poses")

    clip = pose.read_pose(tmp_path / "poses" / "a.npz")
    assert np.flatnonzero(clip.scores[0] == 0).tolist() == [0]


def test_import_openpose_pictures_are_named_by_their_folder(tmp_path):
    """img_00007_keypoints.json in the folder vault is frame 7 of the clip vault."""
    for t in (7, 8):
        file = tmp_path / "json" / "vault" / f"img_{t:05d}_keypoints.json"
        write_openpose_frame(file, [person(t, COCO_18)])
    command = ("import", "openpose", tmp_path / "json", "--size", "9x9")
    run_pose(*command, "--out", tmp_path / "poses")

    clip = pose.read_pose(tmp_path / "poses" / "vault.npz")
    assert len(clip.scores) == 2
    assert_person(clip, row=0, t=7)
    assert_person(clip, row=1, t=8)


def test_openpose_in_the_current_folder_is_named_after_it(tmp_path, monkeypatch):
    """Pictures of one clip by numbers alone: its name is the folder's, also where that is "."."""
    (tmp_path / "a-dive").mkdir()
    monkeypatch.chdir(tmp_path / "a-dive")
    assert pose_files.openpose_frame(Path("7_keypoints.json")) == ("a-dive", 7)


def test_import_openpose_asks_the_video_for_size_and_number(tmp_path, capsys):
    """--videos gives the frames' size; a video that is not there, or shorter, is a broken clip."""
    videos = tmp_path / "rgb"
    videos.mkdir()
    grey_video(videos / "a.mp4", frames=3, size=(96, 64))
    grey_video(videos / "short.mp4", frames=2, size=(96, 64))
    frames = [[person(t, BODY_25)] for t in range(3)]
    for name in ("a", "short", "lost"):
        write_openpose_clip(tmp_path / "json", name, frames)
    command = ("import", "openpose", tmp_path / "json", "--videos", videos)
    assert run_pose(*command, "--out", tmp_path / "poses") == 0

    clip = pose.read_pose(tmp_path / "poses" / "a.npz")
    assert clip.size == (64, 96)
    instants = np.array([0, 0.1, 0.3])
    assert clip.clock(instants).tolist() == instants.tolist()
    assert_said(capsys.readouterr().out, [
        "1 pose clips written",
        "no video lost",
        "3 files, but the video has 2 frames",
    ])


def test_import_openpose_faults_name_the_file(tmp_path, capsys):
    """A frame too few, one that was cut, one of other joints or no people, scaled coordinates."""
    folder = tmp_path / "json"
    frames = [[person(t, BODY_25)] for t in range(3)]
    for name in ("good", "gap", "cut", "mpi", "list"):
        write_openpose_clip(folder, name, frames)
    write_openpose_clip(folder, "scaled", [[[0.5] * 75]] * 3)

    cut = openpose_file("cut", 1)
    mpi = openpose_file("mpi", 1)
    listed = openpose_file("list", 1)
    (folder / openpose_file("gap", 1)).unlink()
    (folder / cut).write_text('{"people": [')
    (folder / listed).write_text("[]")
    write_openpose_frame(folder / mpi, [[1.0] * 45])          # 15 joints

    command = ("import", "openpose", folder, "--size", "480x640")
    assert run_pose(*command, "--out", tmp_path / "poses") == 0
    assert list(files_in(tmp_path / "poses")) == ["good.npz"]
    assert_said(capsys.readouterr().out, [
        "5 broken",
        r"no file for frame 1\b",
        f"{cut} is no JSON",
        f'{listed} has no "people"',
        f"{mpi}: a person of 45 numbers. Expected 75 or 54",
        "no coordinate above 1.*keypoint_scale",
    ])


def test_import_openpose_refuses_what_it_cannot_know(tmp_path, capsys):
    """The frames' size where nobody says it, two clips of one name, a folder with nothing in it."""
    folder = tmp_path / "json"
    empty = tmp_path / "empty"
    empty.mkdir()
    write_openpose_clip(folder / "x", "a", [[person(0, BODY_25)]])
    mistakes = [
        ([folder], "how large the frames are.*--videos DIR, or --size HxW"),
        ([folder, "--size", "480"], "bad --size 480.*480x640"),
        ([folder, "--size", "4x6", "--videos", tmp_path], "--size and --videos"),
        ([folder, "--videos", tmp_path / "gone"], "no video or folder"),
        ([empty, "--size", "4x6"], "holds no .*_keypoints.json"),
    ]
    for words, fault in mistakes:
        assert run_pose("import", "openpose", *words, "--out", tmp_path / "poses") == 2
        assert_said(capsys.readouterr().err, [fault])

    write_openpose_clip(folder / "y", "a", [[person(0, BODY_25)]])
    words = [folder, "--size", "4x6", "--out", tmp_path / "poses"]
    assert run_pose("import", "openpose", *words) == 2
    assert_said(capsys.readouterr().err, ["both clip a. Expected different names"])


# ---- AlphaPose -----------------------------------------------------------------------------------


def alphapose_list(people, joints=17):
    """AlphaPose's default: a list of persons, COCO's joints first and, of Halpe's, more behind.

    people: name of the picture, x of the person, for each.
    """
    more = [7.0] * 3 * (joints - 17)
    persons = []
    for picture, x in people:
        persons.append({
            "image_id": picture,
            "category_id": 1,
            "keypoints": person(0, COCO, x) + more,
            "score": 3.1,
            "box": [1, 2, 3, 4],
            "idx": 1,
        })
    return persons


def alphapose_frames(people, key, inner):
    """What `--format cmu` and `open` write: frames by name of the picture, joints of COCO-18."""
    frames = {}
    for picture, x in people:
        if picture not in frames:
            frames[picture] = {"version": "AlphaPose v0.3", key: []}
        frames[picture][key].append({inner: person(0, COCO_18, x)})
    return frames


def alphapose(people, form):
    """The same people in one of AlphaPose's formats."""
    if form == "cmu":
        return alphapose_frames(people, key="bodies", inner="joints")
    if form == "open":
        return alphapose_frames(people, key="people", inner="pose_keypoints_2d")
    joints = {"coco": 17, "halpe26": 26, "halpe136": 136}[form]
    return alphapose_list(people, joints)


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("form", ["coco", "halpe26", "halpe136", "cmu", "open"])
def test_import_alphapose(tmp_path, form):
    """Frames without a person are not in the file; the order of the pictures is not that of text.

    The clip has the video's number of frames, or ends with the last that holds somebody. A file of
    AlphaPose's own name is called after its folder, and its sep-json is the same once more.
    """
    people = [("10.jpg", 50), ("0.jpg", 40), ("2.jpg", 42), ("2.jpg", 900)]
    content = alphapose(people, form)
    folder = tmp_path / "json"
    write_json(folder / "clip_a" / "alphapose-results.json", content)
    write_json(folder / "clip_a" / "sep-json" / "0.json", content)
    write_json(folder / "clip_b.json", content)
    grey_video(tmp_path / "clip_b.mp4", frames=12, size=(96, 64))

    command = ("import", "alphapose", folder)
    run_pose(*command, "--size", "480x640", "--out", tmp_path / "by_size")
    run_pose(*command, "--videos", tmp_path, "--out", tmp_path / "by_video")
    assert list(files_in(tmp_path / "by_size")) == ["clip_a.npz", "clip_b.npz"]
    assert list(files_in(tmp_path / "by_video")) == ["clip_b.npz"]

    by_size = pose.read_pose(tmp_path / "by_size" / "clip_a.npz")
    assert by_size.size == (480, 640)
    assert by_size.scores.shape == (11, 17)
    by_video = pose.read_pose(tmp_path / "by_video" / "clip_b.npz")
    assert by_video.size == (64, 96)
    assert by_video.scores.shape == (12, 17)

    for clip in (by_size, by_video):
        assert clip.extractor == "AlphaPose"
        assert clip.joints == COCO
        assert np.flatnonzero(clip.scores.max(1)).tolist() == [0, 2, 10]
        assert_person(clip, row=0, t=0, x=40)
        assert_person(clip, row=2, t=0, x=42)
        assert_person(clip, row=10, t=0, x=50)


def test_import_alphapose_one_file_and_pictures_from_1(tmp_path):
    """The path may be the file itself; with --first 1 picture 1 is the first frame."""
    file = tmp_path / "vault.json"
    write_json(file, alphapose_list([("img_00002.jpg", 42), ("img_00001.jpg", 41)]))
    command = ("import", "alphapose", file, "--size", "9x9", "--first", "1")
    assert run_pose(*command, "--out", tmp_path / "poses") == 0

    clip = pose.read_pose(tmp_path / "poses" / "vault.npz")
    assert clip.keypoints[:, 0, 0].tolist() == [41, 42]


def test_import_alphapose_faults_name_the_file(tmp_path, capsys):
    """No JSON, other joints, a frame behind the end, a picture without number, no people."""
    contents = {
        "good": alphapose_list([("0.jpg", 40)]),
        "mpii": [{"image_id": "0.jpg", "keypoints": [1.0] * 48}],
        "late": alphapose_list([("2.jpg", 40)]),
        "text": alphapose_list([("picture.jpg", 40)]),
        "other": {"frames": 3},
    }
    folder = tmp_path / "json"
    for name, content in contents.items():
        write_json(folder / f"{name}.json", content)
        grey_video(tmp_path / f"{name}.mp4", frames=2)
    (folder / "cut.json").write_text("[{")
    grey_video(tmp_path / "cut.mp4", frames=2)

    command = ("import", "alphapose", folder, "--videos", tmp_path)
    assert run_pose(*command, "--out", tmp_path / "poses") == 0
    assert list(files_in(tmp_path / "poses")) == ["good.npz"]
    assert_said(capsys.readouterr().out, [
        "5 broken",
        "cut.json is no JSON",
        "mpii.json: a person of 48 numbers. Expected 51 or 78",
        "late.json: frame 2, counted from 0, but the video has 2",
        "text.json: no number",
        "bad entry of .*other.json",
    ])


def test_import_alphapose_pictures_before_the_first_are_refused(tmp_path, capsys):
    """With --first 1 there is no picture 0."""
    file = tmp_path / "a.json"
    write_json(file, alphapose_list([("0.jpg", 40)]))
    command = ("import", "alphapose", file, "--size", "9x9", "--first", "1")
    run_pose(*command, "--out", tmp_path / "poses")
    assert "a picture '0.jpg' before the first, 1" in capsys.readouterr().out


def test_frames_that_cannot_be_are_refused(tmp_path, capsys):
    """A picture's name may be a date: a clip of so many frames would fill the memory."""
    file = tmp_path / "a.json"
    write_json(file, alphapose_list([("20230101123045.jpg", 40)]))
    run_pose("import", "alphapose", file, "--size", "9x9", "--out", tmp_path / "poses")
    assert "frame 20230101123045. Expected 10000000 at most" in capsys.readouterr().out


@pytest.mark.parametrize("program", ["smarthome", "openpose", "alphapose"])
def test_paths_without_pose_files_are_refused(tmp_path, capsys, program):
    """An import of nothing is a mistake, not a success with 0 clips."""
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in (empty, tmp_path / "nowhere"):
        words = [path, "--size", "9x9", "--out", tmp_path / "poses"]
        assert run_pose("import", program, *words) == 2
        assert_said(capsys.readouterr().err, [f"{path} holds no|no file or folder {path}"])


def test_a_mark_at_the_beginning_of_a_json_is_no_fault(tmp_path):
    """Some editors write one: U+FEFF."""
    path = tmp_path / "a.json"
    path.write_text("\ufeff[1]", "utf-8")
    assert pose_files.read_json(path) == [1]
