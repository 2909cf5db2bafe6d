"""support/video.py: a few frames of a video, exactly those that decoding everything would give.

The oracle is `trees.everything`, which decodes all frames in order. Each picture says its number
in black and white bars, so that the oracle itself is checked, and a wrong frame is known by its
number.
"""
import av
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import pose
from published.annotations import Clip
from support.sampling import nearest, sample_instants
from support.video import BROKEN, decode
from trees import everything, first_frame, number_in, read, write_sound, write_video

NO_SHRINK = (Phase.explicit, Phase.reuse, Phase.generate)     # an example costs an encoding

# (ending, codec): files with and without times of their own, with and without frames out of order.
CODECS = [("mp4", "libx264"), ("mp4", "mpeg4"), ("webm", "libvpx-vp9"), ("avi", "mpeg4"),
          ("avi", "libx264"), ("mkv", "libx264")]


def take(*wanted):
    """A `pick` for decode: these frames, whatever their instants."""
    def pick(instants):
        return list(wanted)

    return pick


# ---- Equal to decoding everything ----------------------------------------------------------------


def check_against_oracle(path, fps, picks, clip, first):
    """Compare the frames that `decode` gives for `picks` with those of the oracle -> instants.

    picks: numbers, taken modulo the frames of the clip. first: the clip's first frame in its file.
    """
    every = everything(path)
    assert [number_in(image) for image in every] == list(range(len(every))), "the oracle is wrong"
    picks = np.array(picks)

    def pick(instants):
        return picks % len(instants)

    images, instants = read(path, pick, clip)
    for image, k in zip(images, pick(instants)):
        assert (image == every[first + k]).all(), (
            f"frame {first + k} was wanted, {number_in(image)} was given")
    expected = np.arange(len(instants)) / fps
    assert np.abs(instants - expected).max() < 0.002, "instants: a frame each 1/fps from 0 on"
    return instants


def check_file(folder, file, frames, fps, gop, b_frames, picks):
    """The same of a whole file, which is written first. file: an entry of CODECS."""
    ending, codec = file
    path = write_video(folder / f"v.{ending}", frames, codec, fps, gop, b_frames)
    whole = Clip(id="", path="", label=0)
    instants = check_against_oracle(path, fps, picks, whole, first=0)
    assert len(instants) == frames


@settings(max_examples=12, phases=NO_SHRINK)
@given(file=st.sampled_from(CODECS), frames=st.integers(1, 60), fps=st.integers(10, 60),
       gop=st.integers(1, 250), b_frames=st.integers(0, 3),
       picks=st.lists(st.integers(0, 300), min_size=1, max_size=8))
def test_decode_equals_decoding_everything(tmp_path_factory, file, frames, fps, gop, b_frames,
                                           picks):
    """Whatever the container, codec, rate and order, and whichever frames are wanted."""
    check_file(tmp_path_factory.mktemp("v"), file, frames, fps, gop, b_frames, picks)


@pytest.mark.slow
@settings(max_examples=300, phases=NO_SHRINK)
@given(file=st.sampled_from(CODECS), frames=st.integers(1, 200), fps=st.integers(10, 60),
       gop=st.integers(1, 250), b_frames=st.integers(0, 4),
       picks=st.lists(st.integers(0, 300), min_size=1, max_size=16))
def test_decode_equals_decoding_everything_long(tmp_path_factory, file, frames, fps, gop, b_frames,
                                                picks):
    """The same of longer files and many more of them."""
    check_file(tmp_path_factory.mktemp("v"), file, frames, fps, gop, b_frames, picks)


@settings(max_examples=8, phases=NO_SHRINK)
@given(file=st.sampled_from(CODECS), gop=st.integers(1, 40), b_frames=st.integers(0, 2),
       first=st.integers(0, 50), length=st.integers(1, 25), unit=st.sampled_from("sf"))
def test_decode_span_equals_slice(tmp_path_factory, file, gop, b_frames, first, length, unit):
    """A clip inside a longer file, cut by seconds or by frames, is that slice of all frames."""
    ending, codec = file
    path = write_video(tmp_path_factory.mktemp("v") / f"v.{ending}", frames=80, codec=codec,
                       fps=25, gop=gop, b_frames=b_frames)
    start = first
    end = first + length
    if unit == "s":
        start = start / 25
        end = end / 25
    clip = Clip(id="", path="", label=0, start=start, end=end, unit=unit)
    instants = check_against_oracle(path, fps=25, picks=[0, 3, 99, 7], clip=clip, first=first)
    assert len(instants) == length


def test_decode_open_gop(tmp_path):
    """Frames that are built from a key frame behind them are right, each wanted alone."""
    path = write_video(tmp_path / "o.mp4", 60, "libx264", gop=8, b_frames=3,
                       options={"x264-params": "open-gop=1:scenecut=0"})
    for number, expected in enumerate(everything(path)):
        images, _ = read(path, take(number))
        assert (images[0] == expected).all(), f"frame {number}"


def test_decode_variable_rate_and_late_start(tmp_path):
    """Instants are the file's own times, counted from its first frame."""
    pts = [5, 6, 9, 10, 20, 21, 30, 50]
    path = write_video(tmp_path / "v.mkv", 8, "libx264", fps=10, b_frames=2, pts=pts)

    def pick(instants):
        return nearest(instants, np.array([0.0, 0.42, 1.45, 1.6, 9.0]))

    images, instants = read(path, pick)
    assert np.allclose(instants, (np.array(pts) - 5) / 10)
    assert [number_in(image) for image in images] == [0, 2, 4, 5, 7]


# ---- Special files -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sounding(tmp_path_factory):
    """A video of twelve frames with a sound track beside it."""
    path = tmp_path_factory.mktemp("sound") / "sound.mp4"
    return write_video(path, 12, "libx264", audio=True)


def test_decode_one_frame(tmp_path):
    """A video of one frame gives it for each of six moments."""
    path = write_video(tmp_path / "one.mp4", frames=1)

    def pick(instants):
        return nearest(instants, sample_instants(instants, np.full(6, 0.5)))

    images, _ = read(path, pick)
    assert [number_in(image) for image in images] == [0] * 6


def test_decode_odd_sides(tmp_path):
    """51 x 37 pixels: sides that no codec likes come out whole."""
    path = write_video(tmp_path / "odd.webm", 5, "libvpx-vp9", width=51, height=37)
    images, _ = read(path, take(4))
    assert images[0].shape == (37, 51, 3)
    assert (images[0] == everything(path)[4]).all()


def test_decode_beside_a_sound_track(sounding):
    """The packets of the sound are no frames, and frames come in the order that was asked."""
    images, _ = read(sounding, take(11, 0, 4))
    assert [number_in(image) for image in images] == [11, 0, 4]


def test_decode_gives_the_size_that_is_planned(sounding):
    """Frames are converted to the (h, w) that `plan` gives."""
    images, _ = read(sounding, take(3), size=(20, 30))
    assert images[0].shape == (20, 30, 3)


def test_decode_with_threads_gives_the_same(sounding):
    """How many threads FFmpeg has does not show in the frames."""
    one, _ = read(sounding, take(3, 9))
    two, _ = read(sounding, take(3, 9), threads=2)
    assert np.array_equal(one, two)


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_decode_turns_frames_upright(tmp_path, degrees):
    """As a phone that was held upright writes them: `plan` too is told the upright size."""
    path = write_video(tmp_path / "r.mp4", 3, "libx264", rotation=degrees)
    upright = np.rot90(everything(path)[1], degrees // 90)
    told = []

    def plan(H, W):
        told.append((H, W))
        return H, W

    images, _ = decode(path, take(1), plan)
    assert told == [upright.shape[:2]]
    away = np.abs(images[0].astype(int) - upright)
    assert away.max() <= 3, "conversion rounds, but this is another picture"


@pytest.mark.parametrize("degrees", [1, -1, 89, 91, -89, 179])
def test_joints_and_pictures_are_turned_alike(tmp_path, degrees):
    """Also where a file's angle is a little off: poses come from pose.Video, pictures from here."""
    path = write_video(tmp_path / "r.mp4", 3, "libx264", rotation=degrees)
    images, _ = decode(path, take(1), lambda H, W: (H, W))
    theirs = list(pose.Video(path))[1]
    assert images[0].shape == theirs.shape, f"{degrees} degrees are other quarter turns there"
    away = np.abs(images[0].astype(int) - theirs)
    assert away.max() <= 3, "conversion rounds, but this is another picture"


# ---- Faults --------------------------------------------------------------------------------------


def test_decode_names_the_fault_of_half_a_file(tmp_path):
    """An AVI without its end says so."""
    path = write_video(tmp_path / "cut.avi", 60, gop=5)
    content = path.read_bytes()
    path.write_bytes(content[:len(content) // 2])
    with pytest.raises(ValueError, match="truncated"):
        read(path, first_frame)


def test_decode_names_the_fault_of_a_span_behind_the_end(tmp_path):
    """The span and how many frames there are."""
    path = write_video(tmp_path / "good.avi", 60, gop=5)
    clip = Clip(id="", path="", label=0, start=9, end=10)
    with pytest.raises(ValueError, match="no frame between 9 and 10 s in 60 frames"):
        read(path, first_frame, clip)


def test_decode_names_the_fault_of_a_song(tmp_path):
    """A file of sound alone has no video in it."""
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as out:
        write_sound(out, frames=1)
    with pytest.raises(ValueError, match="no video"):
        read(path, first_frame)


@pytest.mark.parametrize("there", [True, False])
def test_decode_names_the_fault_of_nothing(tmp_path, there):
    """An empty file and one that is not there are among what a caller of `decode` catches."""
    path = tmp_path / "empty.mp4"
    if there:
        path.write_bytes(b"")
    with pytest.raises(BROKEN, match="empty.mp4"):
        read(path, first_frame)
