"""Data: which moments are looked at, and a crop that takes frames and joints along together."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import data
from expected import cases
from spec import close, f64, holds, worked_example_holds
from support import sampling

pytestmark = pytest.mark.data


def numbers(x):
    """An array as a tensor, for `close`."""
    return torch.from_numpy(np.array(x, dtype=np.float64))


# ---- Sampling ------------------------------------------------------------------------------------

def test_worked_example():
    """The numbers in the docstring come out as printed."""
    names = {**vars(sampling), "array": np.array}
    worked_example_holds(sampling.video_frame_index, SimpleNamespace(**names))


def test_video_frames_are_the_middles_of_groups():
    """48 pose frames and 16 video frames: 1, 4, 7, ...; 32 and 4: 4, 12, 20, 28."""
    close(numbers(sampling.video_frame_index(48, 16)), numbers(range(1, 48, 3)),
          "A video frame is the middle of its T / Tv pose frames: 1, 4, 7, ... of 48.")
    close(numbers(sampling.video_frame_index(32, 4)), f64(4, 12, 20, 28),
          "A video frame is the middle of its T / Tv pose frames: 4, 12, 20, 28 of 32.")
    close(numbers(sampling.video_frame_index(5, 5)), numbers(range(5)),
          "With T = Tv every pose frame is a video frame.")


def test_two_middles_by_hand():
    """Frames at 0, 1, 2, 3 s stand for -0.5 to 3.5 s: the middles of two halves are 0.5 and 2.5."""
    got = sampling.sample_instants(np.arange(4.0), np.full(2, 0.5))
    close(numbers(got), f64(0.5, 2.5), "A frame stands for half a gap on either side, so that four "
          "frames at 0 to 3 s cover -0.5 to 3.5 s. (0.75, 2.25) counts first and last half.")


def test_instants_match_loops():
    """Moments of random clocks equal what a loop over parts gives, and so do the nearest frames."""
    for case in cases("data.instants"):
        at, draws = case["instants"].numpy(), case["draws"].numpy()
        moments = sampling.sample_instants(at, draws)
        close(numbers(moments), case["want"],
              "sample_instants differs from a loop over T equal parts of the clip and half a gap "
              "at both ends.")
        close(numbers(sampling.nearest(at, case["want"].numpy())), case["frames"],
              "nearest differs from a search through all frames.")


@pytest.mark.parametrize("n, T", [(3, 6), (5, 5), (4, 12), (1, 3)])
def test_each_frame_is_taken_equally_often(n, T):
    """T a multiple of n: every frame as often as the next."""
    at = 0.2 * np.arange(n) + 1.0
    chosen = sampling.nearest(at, sampling.sample_instants(at, np.full(T, 0.5)))
    close(numbers(np.bincount(chosen, minlength=n)), numbers([T // n] * n),
          f"{T} moments of {n} frames: each frame is taken {T // n} times. Do first and last frame "
          "count half?")


@pytest.mark.parametrize("n, T", [(9, 3), (15, 5), (21, 7), (10, 2)])
def test_the_middle_of_each_part_is_taken(n, T):
    """n a multiple of T: the middle frame of every part."""
    at = 0.04 * np.arange(n)
    moments = sampling.sample_instants(at, np.full(T, 0.5))
    want = 0.04 * ((np.arange(T) + 0.5) * (n // T) - 0.5)
    close(numbers(moments), numbers(want), f"{n} frames in {T} parts: the middle of each part.")


def test_a_draw_stays_in_its_part():
    """0 is a part's beginning, just below 1 its end."""
    at = np.arange(6.0)
    low = sampling.sample_instants(at, np.zeros(3))
    high = sampling.sample_instants(at, np.full(3, 1 - 1e-9))
    close(numbers(low), f64(-0.5, 1.5, 3.5), "A draw of 0 is the beginning of its part.")
    close(numbers(high), f64(1.5, 3.5, 5.5), "A draw near 1 is the end of its part.", tol=1e-5)


def test_nearest_by_hand():
    """0.4 is nearer to 0, 0.6 to 1, 9 to the last."""
    got = sampling.nearest(np.array([0.0, 1.0, 3.0]), np.array([0.4, 0.6, 1.9, 2.1, -5.0, 9.0]))
    close(numbers(got), f64(0, 1, 1, 2, 0, 2), "The frame that is nearest in time, neither the one "
          "before nor the one after.")


def clips_of(train=True, **settings):
    """A data.Clips without files: only what its small methods read."""
    clips = data.Clips.__new__(data.Clips)
    clips.train = train
    clips.cfg = SimpleNamespace(**{"pose_frames": 6, "video_frames": 2, "joint_noise": 0.0,
                                   "joint_drop": 0.0, **settings})
    return clips


def test_video_frames_are_taken_at_pose_moments():
    """Of the T moments at which poses are read, Tv are those of the video frames."""
    moments = np.array([0.9, 0.1, 0.8, 0.2, 0.7, 0.3])
    at = np.arange(60.0)
    got = clips_of()._pick_frames(moments, at)
    poses = sampling.nearest(at, sampling.sample_instants(at, moments))
    close(numbers(got), numbers(poses[[1, 4]]), "Video frames are pose frames 1 and 4 of 6, at the "
          "very moments at which the poses are read: sample T moments, then choose Tv of them.")


# ---- Crop and joints -----------------------------------------------------------------------------

def test_placed_joints_match_loops():
    """Joints in two crops, mirrored in every second case, equal what loops give."""
    for case in cases("data.placed"):
        view = data.View(size=tuple(case["view_size"].tolist()), boxes=case["boxes"].numpy(),
                         flip=bool(case["flip"]))
        got, seen = data.place(case["keypoints"].numpy(), case["scores"].numpy(),
                               tuple(case["size"].tolist()), view, case["flip_index"].numpy())
        close(numbers(got), case["want"],
              "place differs from a loop over joints: scale to the size that frames are converted "
              "to, subtract the crop's corner, divide by its side, to [-1, 1]; pose files count "
              "from the centre of the first pixel.")
        close(numbers(seen), case["seen"], "Scores go with their joints, also in a mirror.")


def test_the_centre_of_the_first_pixel_lies_half_a_pixel_inside():
    """Pixel 0 of 4: -0.75, not -1."""
    view = data.View(size=(4, 4), boxes=np.array([[0.0, 0, 4, 4]]))
    got, _ = data.place(np.zeros((1, 1, 2)), np.ones((1, 1)), (4, 4), view, np.array([0]))
    close(numbers(got[0, 0, 0]), f64(-0.75, -0.75),
          "Pose files count pixels from the centre of the first: add half a pixel. -1 is off by "
          "that half.")


def test_a_mirror_exchanges_left_and_right():
    """x changes its sign, and the left wrist becomes the right one."""
    view = data.View(size=(4, 4), boxes=np.array([[0.0, 0, 4, 4]]), flip=True)
    joints = np.array([[[0.0, 0.0], [3.0, 1.0]]])
    got, scores = data.place(joints, np.array([[0.2, 0.9]]), (4, 4), view, np.array([1, 0]))
    close(numbers(got[0, 0]), f64([-0.75, -0.25], [0.75, -0.75]),
          "In a mirror x changes its sign, and the joints of the two sides change places: "
          "flip_index.")
    close(numbers(scores[0, 0]), f64(0.9, 0.2),
          "In a mirror the scores change places with the joints.")


def spot(x, y, width, height):
    """A soft white dot centred on pixel (x, y) of a black picture."""
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    grey = 255 * np.exp(-((across - x) ** 2 + (down - y) ** 2) / 18)
    return grey.astype(np.uint8)[..., None].repeat(3, 2)


def where_it_is(image):
    """The centre of brightness of a crop, x and y in [-1, 1]."""
    weight = np.where(image.mean(2) > 40, image.mean(2), 0)
    side = weight.shape[0]
    at = (np.arange(side) + 0.5) / side * 2 - 1
    return f64((weight.sum(0) * at).sum() / weight.sum(), (weight.sum(1) * at).sum() / weight.sum())


@pytest.mark.parametrize("draws", [(0.2, 0.1, 0.4, 0.6), (0.9, 0.9, 0.5, 0.5),
                                   (0.5, 0.5, 0.3, 0.7)])
@pytest.mark.parametrize("flip", [False, True])
def test_a_joint_stays_on_its_pixel(draws, flip):
    """A dot and a joint at one place: after a training crop they are at one place again."""
    H, W, S = 60, 90, 40
    view = data.train_view(H, W, S, np.array([*draws, 0.1]), 0.5, flip)
    h, w = view.size
    x, y = 48.0, 31.0                                     # of the joint in the file's frame
    image = spot((x + 0.5) * w / W - 0.5, (y + 0.5) * h / H - 0.5, w, h)
    crop = data.cut(image, view.boxes[0], S)
    if view.flip:
        crop = crop[:, ::-1]
    got, _ = data.place(np.array([[[x, y]]]), np.ones((1, 1)), (H, W), view, np.array([0]))
    close(where_it_is(crop), numbers(got[0, 0, 0]), "The crop took the picture elsewhere than the "
          "joint: both must use the same box, the same size and the same mirror.", tol=0.06)


@pytest.mark.parametrize("S", [40, 380])
def test_a_training_crop_keeps_the_share_that_was_drawn(S):
    """Area, ratio and place are the draws'; of crops that are reduced or enlarged."""
    for seed in range(30):
        H, W = 300, 400
        draws = np.random.default_rng(seed).random(5)
        view = data.train_view(H, W, S, draws, 0.5, True)
        x0, y0, x1, y1 = view.boxes[0]
        h, w = view.size
        across, down = (x1 - x0) / w, (y1 - y0) / h       # shares of the frame
        holds(x0 >= 0 and y0 >= 0 and x1 <= w and y1 <= h, "The crop leaves the frame.")

        # Where a side was cut to the frame's, both the area and the ratio are others.
        if across < 0.98 and down < 0.98:
            share = across * down
            drawn = 0.5 + 0.5 * draws[0]
            holds(abs(share - drawn) < 0.03,
                  f"A crop of {share:.2f} of the frame, where the draw says {drawn:.2f}: draws[0] "
                  "spreads over [crop_area, 1].")
            ratio = across * W / (down * H)
            drawn = (4 / 3) ** (2 * draws[1] - 1)
            holds(abs(ratio / drawn - 1) < 0.05,
                  f"A crop with sides in the ratio {ratio:.2f}, where the draw says {drawn:.2f}: "
                  "draws[1] spreads over [3/4, 4/3], evenly in the logarithm.")

        # Where a side keeps nearly all, its place hangs on whole pixels.
        for axis, start, stop, size, draw in (("x", x0, x1, w, draws[2]),
                                              ("y", y0, y1, h, draws[3])):
            free = size - (stop - start)
            if free > 0.1 * size:
                holds(abs(start / free - draw) < 0.15,
                      f"Along {axis} the crop begins at {start / free:.2f} of the free space, "
                      f"where the draw says {draw:.2f}: draws[2] is for x, draws[3] for y.")
        holds(view.flip == (draws[4] < 0.5), "Half of the draws mirror: draws[4] < 0.5.")


def test_test_crops_by_hand():
    """100 x 200 to a short side of 50: three squares at 0, 25 and 50 of the long one."""
    view = data.test_view(100, 200, 50, 3)
    close(f64(*view.size), f64(50, 100), "The short side becomes S, the other follows.")
    close(numbers(view.boxes), f64([0, 0, 50, 50], [25, 0, 75, 50], [50, 0, 100, 50]),
          "Three crops: left, centre, right.")
    view = data.test_view(200, 100, 50, 3)
    close(numbers(view.boxes), f64([0, 0, 50, 50], [0, 25, 50, 75], [0, 50, 50, 100]),
          "Of a portrait: top, middle, bottom.")
    view = data.test_view(100, 200, 50, 1)
    close(numbers(view.boxes), f64([25, 0, 75, 50]), "One view is the centre.")
