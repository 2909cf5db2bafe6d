"""Small videos, and for each data set a small tree of its official files.

The files of a tree are written out here as their authors publish them, down to the odd names and
the carriage returns, so that a reader is tested on what it will meet. The videos in a tree hold
twelve pictures that say their number, so that a test can ask which frame it was given.

    write_video, everything, read    a video to test on; all its frames; a few of them, by `decode`
    make_tree                        fixture: make_tree("gym99") writes a tree, gives its DataConfig
    put, text, pose, poses_for       videos, texts and pose files for a tree
    index                            what a reader makes of a tree
"""
import json
import math
import os
from typing import NamedTuple

import av
import numpy as np
import pytest

from data import Clips, DataConfig, decode
from pose import JOINT_SETS, write_pose
from published.annotations import Clip

COCO = JOINT_SETS["coco17"].names

WHOLE = Clip(id="", path="", label=0)             # a clip that is its whole file

# ------------------------------------------------------------------------------- making videos


def numbered(number, width=64, height=48):
    """A picture that says its number: eight black or white bars on top, a colour below."""
    image = np.full((height, width, 3), 40, np.uint8)
    middle = height // 2
    for bit in range(8):
        left = bit * width // 8
        right = (bit + 1) * width // 8
        image[:middle, left:right] = 230 * ((number >> bit) & 1)
    image[middle:, :, 0] = number * 37 % 256
    return image


def number_in(image):
    """The number that a picture of `numbered` says, 0 to 255, after encoding too."""
    height, width = image.shape[:2]
    number = 0
    for bit in range(8):
        middle_of_bar = int((bit + 0.5) * width / 8)
        is_white = image[height // 4, middle_of_bar].mean() > 128
        number += int(is_white) << bit
    return number


def options_of(codec, b_frames):
    """What FFmpeg is told, so that encoding is quick and the bars stay black and white."""
    if codec == "libx264":
        return {"preset": "veryfast" if b_frames else "ultrafast", "crf": "16"}
    if codec == "libvpx-vp9":
        return {"cpu-used": "8", "deadline": "realtime"}
    if codec == "mpeg4":
        return {"b": "3000000"}
    return {}


def write_sound(out, frames):
    """Add a track of silence, `frames` times 1024 samples, to an open file."""
    sound = out.add_stream("aac", rate=16000)
    for _ in range(frames):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        out.mux(sound.encode(frame))
    out.mux(sound.encode())


def write_video(path, frames=12, codec="mpeg4", fps=25, gop=12, b_frames=0, pts=None, width=64,
                height=48, images=None, rotation=0, audio=False, options=None):
    """Encode numbered pictures, or `images` -> the path.

    gop: pictures from one key frame to the next, at most. pts: presentation times of the pictures
    in 1/fps, for a variable rate. rotation: degrees, written into the file's head as phones do.
    options: more for FFmpeg.
    """
    if images is None:
        images = [numbered(number, width, height) for number in range(frames)]

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        told = {**options_of(codec, b_frames), **(options or {})}
        stream = out.add_stream(codec, rate=fps, options=told)
        stream.width = width
        stream.height = height
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.thread_count = 1     # the same bytes on every machine
        if rotation:
            stream.set_display_rotation(rotation)
        if audio:
            write_sound(out, frames=16)

        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image)
            if pts is not None:
                frame.pts = pts[number]
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def everything(path):
    """All frames of a video in order of display, by the plain way: the oracle for `decode`."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def read(path, pick, clip=WHOLE, size=None, **how):
    """`decode` at the video's own size, or at `size` -> images, instants."""
    def plan(H, W):
        return size or (H, W)

    return decode(path, pick, plan, clip, **how)


def without_codec(path):
    """Rename the codec of an mp4 of MPEG-4 to one that nobody knows."""
    content = path.read_bytes()
    assert b"mp4v" in content, "the file is no mp4 of MPEG-4"
    content = content.replace(b"mp4v", b"zzzz")
    path.write_bytes(content.replace(b"esds", b"free"))       # the second place that names it


# ------------------------------------------------------------------------------- filling a tree


@pytest.fixture(scope="session")
def video_bytes(tmp_path_factory):
    """The bytes of a video of twelve frames, by the ending of its file."""
    folder = tmp_path_factory.mktemp("small")
    return {ending: write_video(folder / f"a{ending}").read_bytes() for ending in (".mp4", ".avi")}


def put(root, video_bytes, *names):
    """Write the small video under each of these names."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(video_bytes[path.suffix])


def text(root, name, content):
    """Write a text, its line ends as they are."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode())


def pose(root, name, frames=12, joints=COCO, size=(48, 64), times=None):
    """Write a pose file of joints at drawn places, all found, at 25 rows a second or `times`."""
    keypoints = np.random.default_rng(0).uniform(5, 40, (frames, len(joints), 2))
    scores = np.ones((frames, len(joints)))
    if times is None:
        times = np.arange(frames) / 25
    write_pose(root / "poses" / f"{name}.npz", keypoints, scores, size, times, joints)


# ------------------------------------------------------------------------------- the trees

FORWARD = ["Forward", "15som", "1Twis", "FREE"]
VOCAB = [
    ["Back", "15som", "05Twis", "FREE"],
    ["Back", "Dive", "NoTwis", "TUCK"],
    FORWARD,
    ["Forward", "45som", "NoTwis", "PIKE"],
    ["Reverse", "1som", "35Twis", "STR"],
]


def diving48(root, video_bytes):
    """Three clips, of labels 0, 2 and 4; two of them are in the test list as well."""
    rows = []
    for name, label in (("-mmq0PT-u8k_00155", 0), ("a_b0PT-u8k_00156", 2),
                        ("x_x0PT-u8k_00157", 4)):
        rows.append({"vid_name": name, "label": label, "start_frame": 0, "end_frame": 12})
        put(root, video_bytes, f"rgb/{name}.mp4")

    text(root, "Diving48_vocab.json", json.dumps(VOCAB + [FORWARD] * 43))
    text(root, "Diving48_V2_train.json", json.dumps(rows))
    text(root, "Diving48_V2_test.json", json.dumps(rows[1:]))
    text(root, "Diving48_train.json", json.dumps(rows[:1]))


# The clips of the gymnastics trees: a video of its own, a piece of a video, and one whose event
# has no times of its elements.
GYM_IDS = ("0LtLS9wROrk_E_002407_002435_A_0003_0005", "A0xAXX_sHUo_E_000000_000001_A_0000_0001",
           "E-1hTCGUCts_E_000000_000001_A_0000_0000")

GYM_STAGES = {"stages": 3, "timestamps": [[0.08, 0.12], [0.12, 0.2], [0.2, 0.28]]}
GYM_EVENTS = {
    "A0xAXX_sHUo": {
        "E_000000_000001": {"event": 1, "timestamps": [[0.04, 1.0]],
                            "segments": {"A_0000_0001": GYM_STAGES}},
    },
    "E-1hTCGUCts": {
        "E_000000_000001": {"event": 2, "timestamps": [[0.0, 1.0]], "segments": None},
    },
}

GYM99_CATEGORIES = """\
Clabel:   0; set:  1; Glabel:   0; (VT) round-off, flic-flac on, salto-f 0.5 turn off
Clabel:   1; set: 31; Glabel:  11; (BB) johnson (fw-leg-ch and 0.25 turn to side split or straddle)
Clabel:   2; set: 21; Glabel:  22; (FX) switch leap, 0.5 turn
"""

# Two texts, each of them twice: the sets differ.
GYM288_CATEGORIES = """\
Clabel: 0; set: 33; Glabel: 0; (BB) salto backward tucked with 1 twist
Clabel: 1; set: 33; Glabel: 1; (BB) salto backward tucked
Clabel: 2; set: 35; Glabel: 2; (BB) salto backward tucked
Clabel: 3; set: 35; Glabel: 3; (BB) salto backward tucked with 1 twist
"""


def gymnastics(root, video_bytes, name, categories):
    """The files that the two sets of labels of FineGym share."""
    text(root, f"{name}_categories.txt", categories)
    first, second, third = GYM_IDS
    text(root, f"{name}_train_element_v1.0.txt", f"{first} 0\n{second} 1\n")
    text(root, f"{name}_train_element_v1.1.txt", f"{first} 0\n{second} 1\n{third} 1\n")
    text(root, f"{name}_val_element.txt", f"{third} 2\n")
    for version in ("v1.0", "v1.1"):
        text(root, f"finegym_annotation_info_{version}.json", json.dumps(GYM_EVENTS))
    put(root, video_bytes, f"subactions/{first}.mp4", "videos/A0xAXX_sHUo.mp4",
        f"subactions/{third}.mp4")


def gym99(root, video_bytes):
    gymnastics(root, video_bytes, "gym99", GYM99_CATEGORIES)


def gym288(root, video_bytes):
    gymnastics(root, video_bytes, "gym288", GYM288_CATEGORIES)


def haa500(root, video_bytes):
    """Two classes of twenty clips: 16 of training, one of validation, three of test."""
    for name in ("battle-rope_wave", "ALS_IceBucket_Challenge"):
        lines = []
        for number in range(20):
            url = "https://www.youtube.com/watch?v=IODxDxX7oi4"
            lines.append(f"{url},{number}.37,{number + 2}.08,1,1\n")
            put(root, video_bytes, f"video/{name}/{name}_{number:03d}.mp4")
        text(root, f"annotations/{name}.txt", "".join(lines))


def smarthome(root, video_bytes):
    """Five videos, whose names say activity, subject and camera: there are no lists."""
    for name in ("Cook.Cleandishes_p02_r00_v02_c03", "Drink.Fromcup_p20_r02_v02_c05",
                 "Walk_p03_r01_v05_c02", "Walk_p04_r00_v01_c01", "WatchTV_p03_r00_v01_c01"):
        put(root, video_bytes, f"mp4/{name}.mp4")


K400_TRAIN = """\
label,youtube_id,time_start,time_end,split,is_cc
abseiling,-3B32lodo2M,59,69,train,0
"air drumming",_dbcJuKJQNs,0,1,train,0
"""
K400_VALIDATE = """\
label,youtube_id,time_start,time_end,split
"air drumming",abcJuKJQN_s,40,50,val
"""


def k400(root, video_bytes):
    """Three clips, one for each of the ways in which people keep the files."""
    text(root, "train.csv", K400_TRAIN)
    text(root, "validate.csv", K400_VALIDATE)
    put(root, video_bytes, "train/abseiling/-3B32lodo2M_000059_000069.mp4",
        "raw/_dbcJuKJQNs.mp4", "val/abcJuKJQN_s.mp4")


def ucf101(root, video_bytes):
    """The lists as they are published: carriage returns, and one spelling in two ways."""
    text(root, "ucfTrainTestlist/classInd.txt",
         "1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n3 TaiChi\r\n")
    for n in "123":
        text(root, f"ucfTrainTestlist/trainlist0{n}.txt",
             "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n"
             f"HandstandPushups/v_HandStandPushups_g0{n}_c01.avi 2\r\n")
        text(root, f"ucfTrainTestlist/testlist0{n}.txt", "TaiChi/v_TaiChi_g01_c01.avi\n")
        put(root, video_bytes, f"UCF-101/HandstandPushups/v_HandStandPushups_g0{n}_c01.avi")
    put(root, video_bytes, "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
        "UCF-101/TaiChi/v_TaiChi_g01_c01.avi")


def hmdb51(root, video_bytes):
    """Two classes with the worst file names of the original."""
    odd = "A(b)!#&+;@[x]~_brush_hair_u_nm_np1_ba_med_3"
    for n in "123":
        text(root, f"testTrainMulti_7030_splits/brush_hair_test_split{n}.txt",
             f"April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1 \n{odd}.avi 2 \nunused.avi 0 \n")
        text(root, f"testTrainMulti_7030_splits/sit_test_split{n}.txt",
             "a b_sit_0.avi 1\nc_sit_0.avi 2\n")
    put(root, video_bytes, "hmdb51_org/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi",
        f"hmdb51_org/brush_hair/{odd}.avi", "hmdb51_org/sit/a b_sit_0.avi",
        "hmdb51_org/sit/c_sit_0.avi")


CUSTOM = """\
path,label,split,start,end
v/one.mp4,wave,train,,
v/one.mp4,jump,train,0.1,0.3
v/two.mp4,"jump, twice",test,2f,6f
"""


def custom(root, video_bytes):
    """A table of one's own: a whole file, a piece by seconds, a piece by frames."""
    text(root, "clips.csv", CUSTOM)
    put(root, video_bytes, "v/one.mp4", "v/two.mp4")


TREES = {
    "diving48": diving48,
    "gym99": gym99,
    "gym288": gym288,
    "haa500": haa500,
    "smarthome": smarthome,
    "k400": k400,
    "ucf101": ucf101,
    "hmdb51": hmdb51,
    "custom": custom,
}

# Settings under which a clip is read in milliseconds.
TINY = {"pose_frames": 6, "video_frames": 3, "image_size": 16, "workers": 0}


@pytest.fixture
def make_tree(tmp_path, video_bytes):
    """A function that writes a data set's tree and gives its DataConfig, TINY unless told."""
    def make(name, **how):
        TREES[name](tmp_path, video_bytes)
        return DataConfig(**{"data": name, "root": str(tmp_path), **TINY, **how})

    return make


# ------------------------------------------------------------------------------- reading a tree


def poses_for(cfg, *splits):
    """Write a pose file for every clip of these splits, named as the tools name them."""
    for split in splits:
        dataset = Clips(cfg, split, train=False)
        joints = JOINT_SETS[cfg.entry.joints].names
        for clip in dataset.clips:
            is_whole = clip.pose or (clip.start, clip.end) == (0, math.inf)
            span = WHOLE if is_whole else clip
            _, instants = read(clip.path, first_frame, span)
            pose(cfg.folder, clip.pose or clip.id, len(instants), joints)


def first_frame(instants):
    """A `pick` for decode: the first frame."""
    return [0]


class Row(NamedTuple):
    """One clip of an index, in words."""
    id: str
    text: str                                     # of its label
    path: str                                     # of its video, from the tree's folder


class Index(NamedTuple):
    """What a reader makes of a split."""
    rows: list                                    # of Row
    clips: list                                   # of Clip, in the same order


def index(cfg, split):
    """Read a split's annotation files -> its Index."""
    labels, clips = cfg.read_index(cfg.own_split(split))
    rows = []
    for clip in clips:
        inside = os.path.relpath(clip.path, cfg.folder)
        rows.append(Row(clip.id, labels[clip.label], inside))
    return Index(rows, clips)
