"""data.py: which moments and which part of a clip are looked at, and joints that go along.

Sampling (support/sampling.py) and crops by properties and by hand. The proof that matters is at the
end of the crops: videos of a dot that stands still are read as training and evaluation read them,
and the joint that was put on the dot must lie on it in every crop.
"""
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import data
from data import Clips, DataConfig
from pose import JOINT_SETS, write_pose
from published.annotations import Clip
from support.sampling import between, first_of_each, nearest, sample_instants, video_frame_index
from trees import COCO, make_tree, poses_for, text, video_bytes, write_video

# ---- Sampling ------------------------------------------------------------------------------------


@given(Tv=st.integers(1, 16), times=st.integers(1, 6))
def test_video_frames_are_pose_frames(Tv, times):
    """Tv of the T pose frames, ascending and T / Tv apart."""
    chosen = video_frame_index(Tv * times, Tv)
    assert len(chosen) == Tv
    assert chosen.min() >= 0 and chosen.max() < Tv * times
    assert (np.diff(chosen) == times).all()


@given(n=st.integers(1, 16), times=st.integers(1, 4), gap=st.floats(0.01, 1))
def test_instants_take_every_frame_equally_often(n, times, gap):
    """Where T is a multiple of the frames, the middles of T parts take none more than another."""
    clock = np.arange(n) * gap
    chosen = nearest(clock, sample_instants(clock, np.full(n * times, 0.5)))
    assert np.bincount(chosen, minlength=n).tolist() == [times] * n


@given(T=st.integers(1, 16), half=st.integers(0, 3), gap=st.floats(0.01, 1))
def test_instants_take_the_middle_frame_of_each_part(T, half, gap):
    """Where each part has an odd number of frames, the one in its middle."""
    part = 2 * half + 1
    clock = np.arange(T * part) * gap
    chosen = nearest(clock, sample_instants(clock, np.full(T, 0.5)))
    assert chosen.tolist() == [i * part + half for i in range(T)]


@given(n=st.integers(1, 80), T=st.integers(1, 48), gap=st.floats(0.01, 1), seed=st.integers(0, 9))
def test_instants_that_are_drawn_are_in_order(n, T, gap, seed):
    """One draw in each part: the frames ascend, and all of them are frames of the clip."""
    clock = np.arange(n) * gap
    draws = np.random.default_rng(seed).random(T)
    chosen = nearest(clock, sample_instants(clock, draws))
    assert (np.diff(chosen) >= 0).all()
    assert chosen.min() >= 0 and chosen.max() < n


@given(n=st.integers(1, 80), T=st.integers(1, 48), gap=st.floats(0.01, 1))
def test_nearest_is_as_near_as_any(n, T, gap):
    """No frame of the clip is nearer to a moment than the one that is chosen."""
    clock = np.arange(n) * gap
    moments = sample_instants(clock, np.full(T, 0.25))
    away = np.abs(clock[None] - moments[:, None])             # (T, n)
    chosen = nearest(clock, moments)
    assert np.allclose(away[np.arange(T), chosen], away.min(1))


@given(rate=st.floats(1, 240), n=st.integers(1, 80), data=st.data())
def test_a_rounded_second_is_its_frame(rate, n, data):
    """A span whose ends are those of frames, rounded to a millisecond: from the first, up to but
    without the last.
    """
    clock = np.arange(n) / rate
    first = data.draw(st.integers(0, n - 1))
    last = data.draw(st.integers(first, n - 1))
    found = between(clock, round(clock[first], 3), round(clock[last], 3))
    assert found == slice(first, last), "a rounded second means another frame"


@given(labels=st.lists(st.integers(0, 4), max_size=40), count=st.integers(1, 12))
def test_shots_are_the_first_clips(labels, count):
    """Of each label the first `count` or all that there are, in the order of the list."""
    clips = [Clip(id=str(place), path="", label=label) for place, label in enumerate(labels)]
    few = first_of_each(clips, count)

    expected = []
    for label in set(labels):
        expected += [clip for clip in clips if clip.label == label][:count]
    assert few == sorted(expected, key=lambda clip: int(clip.id)), "other clips, or another order"


# ---- Crops by hand -------------------------------------------------------------------------------


def boxes_of(view):
    return view.boxes.tolist()


def test_views_of_a_wide_frame_by_hand():
    """240 x 331 to a short side of 224: 331 * 224 / 240 = 308.9; half of what is over is 42.5.

    Corners are rounded to whole pixels, so that no crop is resampled a second time.
    """
    view = data.test_view(240, 331, 224, views=3)
    assert view.size == (224, 309)
    assert boxes_of(view) == [[0, 0, 224, 224], [43, 0, 267, 224], [85, 0, 309, 224]]


def test_views_of_a_portrait_by_hand():
    """The centre of a frame that is higher than wide, never mirrored."""
    view = data.test_view(331, 240, 224, views=1)
    assert view.size == (309, 224)
    assert boxes_of(view) == [[0, 43, 224, 267]]
    assert not view.flip


# Half of the area, as a square: 173.2 pixels of a frame of 200 x 300. The last draw mirrors.
HALF = np.array([0, 0.5, 0.37, 0.61, 0.499])


def test_views_of_training_that_are_reduced_by_hand():
    """173.2 pixels become 50: the frame 58 x 87; corners at 0.37 * 37 = 13.7, 0.61 * 8 = 4.9."""
    view = data.train_view(200, 300, 50, HALF, crop_area=0.5, flip=True)
    assert view.size == (58, 87)
    assert boxes_of(view) == [[14, 5, 64, 55]]


def test_views_of_training_that_are_enlarged_by_hand():
    """173.2 pixels become 224: the frame keeps its size, and the box is cut exactly."""
    view = data.train_view(200, 300, 224, HALF, crop_area=0.5, flip=True)
    assert view.size == (200, 300)
    assert view.boxes[0] == pytest.approx([46.92, 16.35, 220.12, 189.55], abs=0.01)


def test_views_of_training_are_cut_to_the_frame():
    """60 % of the area in the ratio 3 / 4 would be 219 pixels high: it is cut to the 200."""
    draws = np.array([0.2, 0, 0, 0, 0])
    view = data.train_view(200, 300, 224, draws, crop_area=0.5, flip=False)
    width = (0.6 * 200 * 300 * 3 / 4) ** 0.5
    assert view.boxes[0] == pytest.approx([0, 0, width, 200])


@pytest.mark.parametrize("draw, flip, mirrored", [(0.499, True, True), (0.5, True, False),
                                                  (0.499, False, False)])
def test_views_of_training_are_mirrored_in_half_of_the_draws(draw, flip, mirrored):
    """Below 0.5 of the last draw, and only where mirroring is allowed."""
    draws = np.array([0, 0.5, 0.37, 0.61, draw])
    assert data.train_view(200, 300, 50, draws, crop_area=0.5, flip=flip).flip == mirrored


@given(H=st.integers(20, 400), W=st.integers(20, 400), S=st.integers(8, 224),
       draws=st.lists(st.floats(0, 0.999), min_size=5, max_size=5), crop_area=st.floats(0.05, 1))
def test_views_lie_inside_the_frame(H, W, S, draws, crop_area):
    """Crops of training and of evaluation, and `cut` gives each of them S x S pixels."""
    training = data.train_view(H, W, S, np.array(draws), crop_area, flip=True)
    evaluation = data.test_view(H, W, S, views=3)
    for view in (training, evaluation):
        h, w = view.size
        image = np.zeros((h, w, 3), np.uint8)
        for box in view.boxes:
            x0, y0, x1, y1 = box
            assert 0 <= x0 < x1 <= w + 1e-6
            assert 0 <= y0 < y1 <= h + 1e-6
            assert data.cut(image, box, S).shape == (S, S, 3)


# ---- A joint stays on its pixel ------------------------------------------------------------------


def spot(x, y, width, height):
    """A soft white dot centred on pixel (x, y) of a black picture."""
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    squared = (across - x) ** 2 + (down - y) ** 2
    grey = (255 * np.exp(-squared / 18)).astype(np.uint8)
    return grey[..., None].repeat(3, axis=2)


def centre_of(frame):
    """Centre of brightness of a crop (3, S, S): its x and y in [-1, 1]."""
    grey = frame.float().mean(0).numpy()
    weight = np.where(grey > 40, grey, 0)
    side = weight.shape[0]
    at = (np.arange(side) + 0.5) / side * 2 - 1
    across = (weight.sum(0) * at).sum() / weight.sum()
    down = (weight.sum(1) * at).sum() / weight.sum()
    return np.array([across, down])


LEFT_EYE = COCO.index("left_eye")
RIGHT_EYE = COCO.index("right_eye")
SHAPES = [(160, 96), (96, 160)]                   # width, height


@pytest.fixture(scope="module")
def dots(tmp_path_factory):
    """(width, height) -> the folder of a video of a dot, with a left eye on it.

    The pose files count the pixels of frames of twice the size. There the centre of pixel x lies at
    2 x + 0.5. All other joints are far outside.
    """
    folders = {}
    for width, height in SHAPES:
        root = tmp_path_factory.mktemp("dots")
        x = width * 0.45
        y = height * 0.55
        text(root, "clips.csv", "path,label,split\nd.mp4,dot,train\nd.mp4,dot,test\n")
        write_video(root / "d.mp4", codec="libx264", width=width, height=height,
                    images=[spot(x, y, width, height)] * 4)

        keypoints = np.full((4, 17, 2), -50.0)
        keypoints[:, LEFT_EYE] = x, y
        write_pose(root / "poses/d.npz", keypoints * 2 + 0.5, np.ones((4, 17)),
                   size=(2 * height, 2 * width), times=np.arange(4) / 25, joints=COCO)
        folders[width, height] = root
    return folders


@settings(max_examples=40)
@given(shape=st.sampled_from(SHAPES), side=st.sampled_from([24, 40, 64]),
       crop_area=st.floats(0.2, 1), flip=st.booleans(), seed=st.integers(0, 10 ** 6))
def test_joint_stays_on_its_pixel_in_training(dots, shape, side, crop_area, flip, seed):
    """Whatever is drawn; in a mirror the left eye has become the right one."""
    cfg = DataConfig(data="custom", root=str(dots[shape]), pose_frames=2, video_frames=1,
                     image_size=side, crop_area=crop_area, flip=flip, jitter=0.2, seed=seed)
    item = Clips(cfg, "train", train=True)[3]     # the only clip, as epoch 3 sees it
    left = item["keypoints"][0, LEFT_EYE].numpy()
    right = item["keypoints"][0, RIGHT_EYE].numpy()

    is_mirrored = abs(right).max() < abs(left).max()          # the other eye is far outside
    assert flip or not is_mirrored
    joint = right if is_mirrored else left
    assume(abs(joint).max() < 0.55)               # the whole dot is inside
    away = np.abs(centre_of(item["frames"][0]) - joint).max()
    assert away < 0.2 * 2 / side, "more than a fifth of a pixel"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [24, 64, 120])
@pytest.mark.parametrize("views", [1, 3])
def test_joint_stays_on_its_pixel_in_test_crops(dots, shape, side, views):
    """In every crop that shows the dot; and further crops lie further along the longer side."""
    cfg = DataConfig(data="custom", root=str(dots[shape]), pose_frames=2, video_frames=1,
                     image_size=side)
    item = Clips(cfg, "test", train=False, views=views)[0]
    assert item["frames"].shape == (views, 1, 3, side, side)

    joints = item["keypoints"][:, 0, LEFT_EYE].numpy()        # (views, 2)
    width, height = shape
    longer = 0 if width > height else 1
    places = joints[:, longer].tolist()
    assert places == sorted(set(places), reverse=True), "the joint moves to the left, or up"

    shown = np.flatnonzero(abs(joints).max(1) < 0.6)
    assert len(shown) >= 1, "no crop shows the dot"
    for r in shown:
        away = np.abs(centre_of(item["frames"][r, 0]) - joints[r]).max()
        assert away < 0.2 * 2 / side, "more than a fifth of a pixel"


# ---- Mirrors -------------------------------------------------------------------------------------


def test_flip_swaps_left_and_right_joints():
    """x changes its sign and the shoulders change places; twice is not at all."""
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(0, 50, (3, 17, 2))
    scores = rng.random((3, 17))
    index = JOINT_SETS["coco17"].flip_index
    left = COCO.index("left_shoulder")
    right = COCO.index("right_shoulder")

    view = data.test_view(48, 64, 16, views=1)
    plain, kept = data.place(keypoints, scores, (48, 64), view, index)
    view = view._replace(flip=True)
    mirrored, swapped = data.place(keypoints, scores, (48, 64), view, index)
    assert np.allclose(mirrored[..., left, 0], -plain[..., right, 0])
    assert np.allclose(mirrored[..., left, 1], plain[..., right, 1])
    assert np.allclose(swapped[..., left], kept[..., right])
    assert np.allclose(mirrored[:, :, index] * (-1, 1), plain)


@pytest.mark.parametrize("label, flips", [("wave the Left hand", False), ("kick_left", False),
                                          ("leftovers", True)])
def test_labels_with_sides_turn_flips_off(make_tree, capsys, label, flips):
    """Where a label says left or right, as a word, no clip is mirrored, and that is said."""
    cfg = make_tree("custom", flip=True)
    text(cfg.folder, "clips.csv", f"path,label,split\nv/one.mp4,{label},train\n")
    assert Clips(cfg, "train", train=True).flip == flips
    assert ("no clip is mirrored" in capsys.readouterr().out) != flips


# ---- Colours -------------------------------------------------------------------------------------

PIXEL = np.array([150, 90, 40])
GREY = 0.299 * 150 + 0.587 * 90 + 0.114 * 40      # its luma, 102.2


@pytest.mark.parametrize("draws, expected", [
    ((0.5, 0.5, 0.5), PIXEL),
    ((0.75, 0.5, 0.5), PIXEL * 1.2),
    ((0.5, 0.25, 0.5), (PIXEL - 127.5) * 0.8 + 127.5),
    ((0.5, 0.5, 0), GREY + 0.6 * (PIXEL - GREY)),
], ids=["nothing", "brightness", "contrast", "saturation"])
def test_tint_by_hand(draws, expected):
    """Brightness, contrast about 127.5 and saturation, each alone, up to rounding."""
    image = PIXEL.astype(np.uint8).reshape(1, 1, 3)
    tinted = data.tint([image], np.array(draws), amount=0.4)[0]
    assert np.abs(tinted[0, 0] - expected).max() <= 1


@pytest.fixture
def plain_and_tinted(make_tree):
    """Settings of one tree without and with --jitter, and the same crops."""
    plain = make_tree("diving48", read_poses=False, flip=False, crop_area=1.0)
    return plain, dataclasses.replace(plain, jitter=0.4)


def test_jitter_changes_colours_in_training(plain_and_tinted):
    """By more than two grey levels in the mean."""
    plain, tinted = [Clips(cfg, "train", train=True)[1]["frames"].float()
                     for cfg in plain_and_tinted]
    assert (plain - tinted).abs().mean() > 2


def test_jitter_is_one_draw_for_a_training_clip(plain_and_tinted):
    """A bar that is black in all twelve pictures of the video is of one colour in all frames."""
    cfg = dataclasses.replace(plain_and_tinted[1], pose_frames=60, video_frames=60)
    frames = Clips(cfg, "train", train=True)[1]["frames"].float()
    black = frames[:, :, 2, 12]                   # (60, 3), of the bars on top, right of the middle
    spread = black.amax(0) - black.amin(0)
    assert spread.max() <= 6, "frames of one clip are tinted differently"


def test_jitter_leaves_evaluation_alone(plain_and_tinted):
    """The frames of a test clip are those of the video."""
    plain, tinted = [Clips(cfg, "test", train=False)[0] for cfg in plain_and_tinted]
    assert not plain["broken"]
    assert torch.equal(plain["frames"], tinted["frames"])


# ---- Noise of joints -----------------------------------------------------------------------------


@pytest.fixture
def plain_and_noisy(make_tree):
    """Settings of one tree without and with noise and loss of joints."""
    plain = make_tree("diving48")
    poses_for(plain, "train")
    return plain, dataclasses.replace(plain, joint_noise=0.05, joint_drop=0.3)


def test_joint_noise_and_drop(plain_and_noisy):
    """Joints move and are hidden about as much as was asked; frames stay what they are."""
    plain, noisy = [Clips(cfg, "train", train=True)[1] for cfg in plain_and_noisy]
    moved = (plain["keypoints"] - noisy["keypoints"]).std()
    hidden = (noisy["scores"] == 0).float().mean()
    assert 0.05 < moved < 0.4
    assert 0.22 < hidden < 0.38                   # two deviations of 102 draws around 0.3
    assert torch.equal(plain["frames"], noisy["frames"])


def test_joint_noise_leaves_evaluation_alone(plain_and_noisy):
    """The joints of a test clip are those of the pose file."""
    plain, noisy = [Clips(cfg, "test", train=False)[0] for cfg in plain_and_noisy]
    assert not plain["broken"]
    assert torch.equal(plain["keypoints"], noisy["keypoints"])
    assert torch.equal(plain["scores"], noisy["scores"])
