"""pose.py's own formats and pictures: joint sets, pose files, heatmaps, skeletons, video frames.

Its commands are shown elsewhere: `extract` and the extractors in test_extract.py, `import` in
test_import_pickles.py and test_import_json.py. What they stand on: the network in test_hrnet.py,
the choice of one person in test_tracks.py.
"""
import time
from types import SimpleNamespace

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import pose
import trees
from pose_clips import COCO, clip_fields, grey_video
from published import hrnet
from strategies import seeds

# ---- Joint sets ----------------------------------------------------------------------------------


def mirrored_name(name):
    """What a joint is called once the picture is mirrored."""
    if name.startswith("left_"):
        return name.replace("left_", "right_")
    return name.replace("right_", "left_")


@pytest.mark.parametrize("name", pose.JOINT_SETS)
def test_joint_sets_are_consistent(name):
    """Mirroring swaps left and right by name, every joint has a bone, the names find the set."""
    known = pose.JOINT_SETS[name]
    joints = range(len(known.names))

    for j in joints:
        other = known.flip_index[j]
        assert known.names[other] == mirrored_name(known.names[j])
        assert known.flip_index[other] == j, "mirrored twice, a joint must be itself again"

    with_a_bone = set()
    for bone in known.bones:
        with_a_bone.update(bone)
    assert with_a_bone == set(joints)

    assert pose.joint_set(list(known.names)) is known


def test_coco17_has_the_official_pairs_and_smarthome_its_order():
    """COCO: after the nose, left before right. Smarthome: right before left, from the feet up."""
    coco = pose.JOINT_SETS["coco17"]
    head_and_arms = ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10))
    legs = ((11, 12), (13, 14), (15, 16))
    assert coco.flip_pairs == head_and_arms + legs
    assert coco.flip_index == hrnet.FLIP_INDEX, "HRNet's flip test must swap the same joints"

    smarthome = pose.JOINT_SETS["smarthome13"].names
    assert smarthome[:4] == ("right_ankle", "left_ankle", "right_knee", "left_knee")
    assert smarthome[-3:] == ("right_shoulder", "left_shoulder", "head")


def test_unknown_joints_are_refused():
    """The error lists the sets that there are, and says how another one is added."""
    with pytest.raises(ValueError, match="unknown joints.*Expected.*coco17.*JOINT_SETS"):
        pose.joint_set(["nose", "tail"])


# ---- Pose files ----------------------------------------------------------------------------------


@given(seed=seeds, frames=st.integers(1, 5), name=st.sampled_from(sorted(pose.JOINT_SETS)))
def test_pose_files_come_back(tmp_path_factory, seed, frames, name):
    """What is written is read again, in the types of PoseClip; a clip id may begin with a dash."""
    joints = pose.JOINT_SETS[name].names
    written = clip_fields(frames, joints, seed)
    path = tmp_path_factory.getbasetemp() / "there" / "-a b.npz"
    assert pose.write_pose(path, **written, extractor="me") == path

    back = pose.read_pose(path)
    assert back.keypoints.dtype == np.float32
    assert np.array_equal(back.keypoints, np.float32(written["keypoints"]))
    assert back.scores.dtype == np.float32
    assert np.array_equal(back.scores, np.float32(written["scores"]))
    assert np.array_equal(back.times, written["times"])
    assert back.size == (64, 96)
    assert back.joints == joints
    assert back.extractor == "me"


def test_pose_files_of_equal_clips_have_equal_bytes(tmp_path, monkeypatch):
    """Also a day later: no time is written, so that two runs can be compared by their files."""
    first = pose.write_pose(tmp_path / "a.npz", **clip_fields()).read_bytes()

    tomorrow = time.time() + 86_400
    monkeypatch.setattr(time, "time", lambda: tomorrow)
    second = pose.write_pose(tmp_path / "a.npz", **clip_fields()).read_bytes()

    assert second == first
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"], "a part was left behind"


BAD_CLIPS = [
    # What is wrong with an otherwise good clip, and what the error says of it.
    ({"keypoints": np.zeros((4, 17, 3))}, r"keypoints \(4, 17, 3\). Expected \(4, 17, 2\)"),
    ({"keypoints": np.full((4, 17, 2), np.inf)}, "keypoints that are not finite"),
    ({"scores": np.zeros((3, 17))}, r"keypoints \(4, 17, 2\). Expected \(3, 17, 2\)"),
    ({"scores": -np.ones((4, 17))}, "scores that are negative or not finite"),
    ({"scores": np.full((4, 17), np.nan)}, "scores that are negative or not finite"),
    ({"size": (0, 5)}, r"size \(0, 5\)"),
    ({"size": (5,)}, r"size \(5,\)"),
    ({"times": [3, 2, 1, 0]}, "times out of order"),
    ({"times": [0, np.nan, 1, 2]}, "times out of order"),
    ({"times": [0, 1]}, r"times \(2,\). Expected \(4,\)"),
    ({"joints": COCO[:-1]}, "16 joint names. Expected 17"),
    ({"keypoints": np.zeros((0, 17, 2)), "scores": np.zeros((0, 17)), "times": []},
     r"scores \(0, 17\). Expected \(T, J\), T > 0"),
]


@pytest.mark.parametrize("change, fault", BAD_CLIPS)
def test_bad_pose_clips_are_refused(tmp_path, change, fault):
    """The error names the file, the fault and the way out, and nothing is written."""
    fields = clip_fields()
    fields.update(change)
    with pytest.raises(ValueError, match=f"bad pose clip .*x.npz: {fault}.*--overwrite") as caught:
        pose.write_pose(tmp_path / "x.npz", **fields)
    assert "Expected" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_pose_files_end_in_npz(tmp_path):
    """Another ending is refused: training would look for the file in vain."""
    with pytest.raises(ValueError, match="Expected an ending .npz"):
        pose.write_pose(tmp_path / "x.npy", **clip_fields())


def test_unreadable_pose_files_name_the_path_and_the_way_out(tmp_path):
    """A file that is not there, one that was cut, one that lacks a field."""
    way_out = "python pose.py extract|import ... --overwrite".replace("|", r"\|")
    with pytest.raises(FileNotFoundError, match=f"no pose file .*gone.npz.*{way_out}"):
        pose.read_pose(tmp_path / "gone.npz")

    path = pose.write_pose(tmp_path / "cut.npz", **clip_fields())
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=f"bad pose file .*cut.npz.*{way_out}"):
        pose.read_pose(path)

    np.savez(path, keypoints=np.zeros((1, 17, 2)))
    with pytest.raises(ValueError, match=f"bad pose file .*cut.npz.*scores.*{way_out}"):
        pose.read_pose(path)


def test_pose_files_with_python_objects_are_not_unpacked(tmp_path):
    """An array of objects is a pickle, and a pickle can run code."""
    fields = clip_fields()
    fields["joints"] = np.array([object()] * 17)
    np.savez(tmp_path / "a.npz", **fields)
    with pytest.raises(ValueError, match="are Python objects, which are not unpacked"):
        pose.read_pose(tmp_path / "a.npz")


def test_known_times_count_from_the_first_row():
    """A clip that was cut out of a longer video begins at 0; the video's frames are not asked."""
    fields = clip_fields(frames=4)
    fields["times"] = [5.0, 5.5, 6.0, 6.5]
    clip = pose.PoseClip(**fields)
    assert clip.clock(np.arange(9.0)).tolist() == [0, 0.5, 1, 1.5]


def test_unknown_times_are_spread_over_the_clip():
    """As many rows as frames have the frames' instants; four rows of seven are every second one."""
    fields = clip_fields(frames=4)
    fields["times"] = np.full(4, np.nan)
    clip = pose.PoseClip(**fields).check("here")

    assert clip.clock(np.array([0, 1, 2, 6.0])).tolist() == [0, 1, 2, 6]
    assert clip.clock(np.linspace(0, 3, 7)).tolist() == [0, 1, 2, 3]


# ---- Heatmaps and drawing ------------------------------------------------------------------------


@given(
    seed=seeds,
    T=st.integers(1, 3),
    J=st.integers(1, 4),
    H=st.integers(2, 9),
    W=st.integers(2, 9),
    sigma=st.floats(0.5, 4),
)
def test_heatmaps_equal_the_formula(seed, T, J, H, W, sigma):
    """Pixel by pixel: exp(-distance^2 / (2 sigma^2)) from the joint, 0 where it is missing."""
    rng = np.random.default_rng(seed)
    points = rng.random((T, J, 2)) * (W, H)
    scores = rng.integers(0, 2, (T, J))

    maps = pose.gaussian_heatmaps(points, scores, (H, W), sigma).numpy()
    assert maps.shape == (T, J, H, W)
    for t, j, y, x in np.ndindex(maps.shape):
        joint_x, joint_y = points[t, j]
        distance_squared = (x - joint_x) ** 2 + (y - joint_y) ** 2
        want = np.exp(-distance_squared / (2 * sigma ** 2)) * scores[t, j]
        assert abs(maps[t, j, y, x] - want) < 1e-5


def test_heatmaps_peak_at_the_joint_and_are_empty_without_it():
    """The peak is 1 whatever the score; a missing joint may lie at NaN and leaves zeros."""
    points = [[[3, 2], [np.nan, np.nan]]]
    scores = [[0.2, 0]]
    seen, missing = pose.gaussian_heatmaps(points, scores, size=(5, 7), sigma=2)[0]

    assert seen[2, 3] == 1
    assert seen.max() == 1
    assert missing.abs().sum() == 0


def test_draw_skeleton_paints_seen_joints_only():
    """Left is orange, right is blue; no bone leads to a joint without score; the image is kept."""
    left_shoulder, right_shoulder, left_elbow = 5, 6, 7
    points = np.zeros((17, 2))
    points[left_shoulder] = 80, 20
    points[right_shoulder] = 20, 20
    points[left_elbow] = 80, 80
    scores = np.zeros(17)
    scores[left_shoulder] = 1
    scores[right_shoulder] = 1

    black = (0, 0, 0)
    image = Image.new("RGB", (100, 100), black)
    drawn = pose.draw_skeleton(image, points, scores, COCO)

    assert drawn.getpixel((80, 20)) == pose.SIDE_COLOURS["left"]
    assert drawn.getpixel((20, 20)) == pose.SIDE_COLOURS["right"]
    assert drawn.getpixel((50, 20)) == pose.MIDDLE_COLOUR, "no bone from shoulder to shoulder"
    assert drawn.getpixel((80, 50)) == black, "a bone to an elbow that was not seen"
    assert image.getpixel((80, 20)) == black, "the given image was painted on"


def test_draw_skeleton_leaves_out_what_the_detector_doubts():
    """From above 0.3 on a joint is drawn."""
    points = np.full((17, 2), 20.0)
    points[5] = 80, 20
    for score, is_drawn in ((0.3, False), (0.31, True)):
        scores = np.zeros(17)
        scores[5] = score
        drawn = pose.draw_skeleton(Image.new("RGB", (100, 100)), points, scores, COCO)
        assert (drawn.getpixel((80, 20)) != (0, 0, 0)) == is_drawn


# ---- Frames of a video ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, codec, size",
    [
        ("a.mp4", "libx264", (96, 64)),
        ("b.avi", "mpeg4", (98, 66)),
        ("-c.webm", "libvpx-vp9", (64, 64)),
    ],
)
def test_video_gives_every_frame_with_its_time(tmp_path, name, codec, size):
    """Seven frames, each lighter than the one before and 1/20 s later, as often as one asks."""
    path = grey_video(tmp_path / name, frames=7, size=size, rate=20, codec=codec)
    video = pose.Video(path)
    width, height = size

    for _ in range(2):
        images = list(video)
        assert len(images) == 7
        assert images[0].shape == (height, width, 3)
        assert video.size == (height, width)
        assert np.allclose(np.diff(video.times), 1 / 20, atol=2e-3)

        light = [image.mean() for image in images]
        assert light == sorted(light), "frames out of order"
        assert light[-1] - light[0] > 20


def test_video_is_upright(tmp_path):
    """A phone's portrait file: the picture lies on its side, and a matrix in the header says so."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = 96
        stream.height = 64
        stream.pix_fmt = "yuv420p"
        lying = Image.new("RGB", (96, 64))
        lying.paste((255, 255, 255), (0, 0, 48, 64))          # the left half is white
        container.mux(stream.encode(av.VideoFrame.from_image(lying)))
        container.mux(stream.encode())

    # The matrix is nine numbers of four bytes, a b u c d v x y w, 40 bytes into the track's header.
    one = 1 << 16
    quarter_turn_clockwise = [0, one, 0, -one, 0, 0, 64 * one, 0, 1 << 30]
    matrix = b"".join(number.to_bytes(4, "big", signed=True) for number in quarter_turn_clockwise)
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + len(b"tkhd") + 40
    data[start:start + len(matrix)] = matrix
    path.write_bytes(data)

    video = pose.Video(path)
    (image,) = list(video)
    assert video.size == (96, 64)
    assert image.shape[:2] == (96, 64)
    assert image[:40].mean() > 220, "what was left must be on top"
    assert image[56:].mean() < 40


def test_times_of_a_video_never_fall():
    """One before the last frame's becomes that; where there is none the rate says it."""
    video = pose.Video("a.mp4")                   # which is not opened
    video.times = [0.0, 0.5]
    assert video._instant(SimpleNamespace(time=0.25)) == 0.5
    assert video._instant(SimpleNamespace(time=0.75)) == 0.75
    video.times = [0.0, 0.04]
    assert video._instant(SimpleNamespace(time=None)) == pytest.approx(2 / 25)


def test_an_avi_that_was_cut_is_broken(tmp_path):
    """Its head still promises all frames, and decoding half of them ends without an error."""
    path = trees.write_video(tmp_path / "a.avi", frames=60)
    assert len(list(pose.Video(path))) == 60
    whole = path.read_bytes()
    path.write_bytes(whole[:len(whole) // 2])
    with pytest.raises(pose.BrokenClip, match=r"it ends after \d+ of 60 frames"):
        list(pose.Video(path))


def test_a_near_flag_of_a_command_is_named(capsys):
    """pose.py has commands with flags of their own."""
    with pytest.raises(SystemExit):
        pose.main(["extract", "a.mp4", "--out", "d", "--extracter", "hrnet"])
    assert "Did you mean '--extractor'?" in capsys.readouterr().err
