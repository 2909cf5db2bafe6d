"""Small videos, and one tree of official files per data set, for the tests of data.py and annotations.py."""
import json
import math
import os
from pathlib import Path

import av
import numpy as np
import pytest

import data
from data import Clips, DataConfig
from published.annotations import Clip
from pose import JOINT_SETS, write_pose

COCO = JOINT_SETS["coco17"].names

# ------------------------------------------------------------------------------- making videos


def numbered(i, width=64, height=48):
    """A picture that says its number: eight black or white bars on top, a colour below."""
    image = np.full((height, width, 3), 40, np.uint8)
    for bit in range(8):
        image[:height // 2, bit * width // 8:(bit + 1) * width // 8] = 230 * ((i >> bit) & 1)
    image[height // 2:, :, 0] = i * 37 % 256
    return image


def number_in(image):
    height, width = image.shape[:2]
    bars = [image[height // 4, int((bit + 0.5) * width / 8)].mean() > 128 for bit in range(8)]
    return sum(bar << bit for bit, bar in enumerate(bars))


def write_video(path, frames=12, codec="mpeg4", fps=25, gop=12, b_frames=0, pts=None, width=64, height=48,
                images=None, rotation=0, audio=False, options=None):
    """Encode numbered pictures (or `images`); pts: presentation times in 1/fps, for variable rates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    defaults = {"libx264": {"preset": "ultrafast" if not b_frames else "veryfast", "crf": "16"},
                "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime"}, "mpeg4": {"b": "3000000"}}
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=fps, options=defaults.get(codec, {}) | (options or {}))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.gop_size, context.max_b_frames, context.thread_count = gop, b_frames, 1
        if rotation:
            stream.set_display_rotation(rotation)
        if audio:
            sound = out.add_stream("aac", rate=16000)
            for _ in range(16):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                frame.sample_rate = 16000
                out.mux(sound.encode(frame))
            out.mux(sound.encode())
        for i in range(frames) if images is None else images:
            frame = av.VideoFrame.from_ndarray(numbered(i, width, height) if images is None else i)
            if pts is not None:
                frame.pts = pts[i]
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def everything(path):
    """The oracle: all frames, in order of display."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def read(path, pick, clip=Clip("", "", 0), size=None, **how):
    return data.decode(path, pick, lambda H, W: size or (H, W), clip, **how)


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """The bytes of a 12-frame video, per ending."""
    folder = tmp_path_factory.mktemp("small")
    return {ending: write_video(folder / f"a{ending}").read_bytes() for ending in (".mp4", ".avi")}


def put(root, small, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(small[Path(name).suffix])


def text(root, name, content):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content.encode())


def pose(root, name, frames=12, joints=COCO, size=(48, 64), times=None):
    J = len(joints)
    keypoints = np.random.default_rng(0).uniform(5, 40, (frames, J, 2))
    write_pose(root / "poses" / f"{name}.npz", keypoints, np.ones((frames, J)), size,
               np.arange(frames) / 25 if times is None else times, joints)


# ------------------------------------------------------------------------------- one tree per data set

FORWARD = ["Forward", "15som", "1Twis", "FREE"]
VOCAB = [["Back", "15som", "05Twis", "FREE"], ["Back", "Dive", "NoTwis", "TUCK"], FORWARD,
         ["Forward", "45som", "NoTwis", "PIKE"], ["Reverse", "1som", "35Twis", "STR"]]


def diving48(root, small):
    rows = [{"vid_name": n, "label": k, "start_frame": 0, "end_frame": 12} for n, k in
            (("-mmq0PT-u8k_00155", 0), ("a_b0PT-u8k_00156", 2), ("x_x0PT-u8k_00157", 4))]
    vocab = VOCAB + [FORWARD] * 43
    text(root, "Diving48_vocab.json", json.dumps(vocab))
    text(root, "Diving48_V2_train.json", json.dumps(rows))
    text(root, "Diving48_V2_test.json", json.dumps(rows[1:]))
    text(root, "Diving48_train.json", json.dumps(rows[:1]))
    put(root, small, *(f"rgb/{row['vid_name']}.mp4" for row in rows))


GYM_IDS = ("0LtLS9wROrk_E_002407_002435_A_0003_0005", "A0xAXX_sHUo_E_000000_000001_A_0000_0001",
           "E-1hTCGUCts_E_000000_000001_A_0000_0000")


def gym99(root, small, name="gym99"):
    words = ["(VT) round-off, flic-flac on, salto-f 0.5 turn off",
             "(BB) johnson (fw-leg-ch and 0.25 turn to side split or straddle)", "(FX) switch leap, 0.5 turn"]
    text(root, f"{name}_categories.txt", "".join(
        f"Clabel: {k:3d}; set: {(1, 31, 21)[k]:2d}; Glabel: {k * 11:3d}; {word}\n" for k, word in enumerate(words)))
    text(root, f"{name}_train_element_v1.0.txt", f"{GYM_IDS[0]} 0\n{GYM_IDS[1]} 1\n")
    text(root, f"{name}_train_element_v1.1.txt", f"{GYM_IDS[0]} 0\n{GYM_IDS[1]} 1\n{GYM_IDS[2]} 1\n")
    text(root, f"{name}_val_element.txt", f"{GYM_IDS[2]} 2\n")
    events = {"A0xAXX_sHUo": {"E_000000_000001": {"event": 1, "timestamps": [[0.04, 1.0]], "segments": {
        "A_0000_0001": {"stages": 3, "timestamps": [[0.08, 0.12], [0.12, 0.2], [0.2, 0.28]]}}}},
        "E-1hTCGUCts": {"E_000000_000001": {"event": 2, "timestamps": [[0.0, 1.0]], "segments": None}}}
    for version in ("v1.0", "v1.1"):
        text(root, f"finegym_annotation_info_{version}.json", json.dumps(events))
    put(root, small, f"subactions/{GYM_IDS[0]}.mp4", "videos/A0xAXX_sHUo.mp4", f"subactions/{GYM_IDS[2]}.mp4")


def gym288(root, small):
    gym99(root, small, "gym288")
    same = "(BB) salto backward tucked"
    lines = [f"Clabel: {k}; set: {s}; Glabel: {k}; {t}\n" for k, (s, t) in enumerate(
        ((33, same + " with 1 twist"), (33, same), (35, same), (35, same + " with 1 twist")))]
    text(root, "gym288_categories.txt", "".join(lines))


def haa500(root, small):
    for name in ("battle-rope_wave", "ALS_IceBucket_Challenge"):
        text(root, f"annotations/{name}.txt", "".join(
            f"https://www.youtube.com/watch?v=IODxDxX7oi4,{i}.37,{i + 2}.08,1,1\n" for i in range(20)))
        put(root, small, *(f"video/{name}/{name}_{i:03d}.mp4" for i in range(20)))


def smarthome(root, small):
    put(root, small, *(f"mp4/{name}.mp4" for name in (
        "Cook.Cleandishes_p02_r00_v02_c03", "Drink.Fromcup_p20_r02_v02_c05", "Walk_p03_r01_v05_c02",
        "Walk_p04_r00_v01_c01", "WatchTV_p03_r00_v01_c01")))


def k400(root, small):
    head = "label,youtube_id,time_start,time_end,split"
    text(root, "train.csv", head + ',is_cc\nabseiling,-3B32lodo2M,59,69,train,0\n"air drumming",_dbcJuKJQNs,0,1,train,0\n')
    text(root, "validate.csv", head + '\n"air drumming",abcJuKJQN_s,40,50,val\n')
    put(root, small, "train/abseiling/-3B32lodo2M_000059_000069.mp4", "raw/_dbcJuKJQNs.mp4", "val/abcJuKJQN_s.mp4")


def ucf101(root, small):
    text(root, "ucfTrainTestlist/classInd.txt", "1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n3 TaiChi\r\n")
    for n in "123":
        text(root, f"ucfTrainTestlist/trainlist0{n}.txt", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n"
             f"HandstandPushups/v_HandStandPushups_g0{n}_c01.avi 2\r\n")
        text(root, f"ucfTrainTestlist/testlist0{n}.txt", "TaiChi/v_TaiChi_g01_c01.avi\n")
        put(root, small, f"UCF-101/HandstandPushups/v_HandStandPushups_g0{n}_c01.avi")
    put(root, small, "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "UCF-101/TaiChi/v_TaiChi_g01_c01.avi")


def hmdb51(root, small):
    odd = "A(b)!#&+;@[x]~_brush_hair_u_nm_np1_ba_med_3"
    for n in "123":
        text(root, f"testTrainMulti_7030_splits/brush_hair_test_split{n}.txt",
             f"April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1 \n{odd}.avi 2 \nunused.avi 0 \n")
        text(root, f"testTrainMulti_7030_splits/sit_test_split{n}.txt", "a b_sit_0.avi 1\nc_sit_0.avi 2\n")
    put(root, small, "hmdb51_org/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi",
        f"hmdb51_org/brush_hair/{odd}.avi", "hmdb51_org/sit/a b_sit_0.avi", "hmdb51_org/sit/c_sit_0.avi")


def custom(root, small):
    text(root, "clips.csv", "path,label,split,start,end\nv/one.mp4,wave,train,,\nv/one.mp4,jump,train,0.1,0.3\n"
                            'v/two.mp4,"jump, twice",test,2f,6f\n')
    put(root, small, "v/one.mp4", "v/two.mp4")


TREES = {tree.__name__: tree for tree in (
    diving48, gym99, gym288, haa500, smarthome, k400, ucf101, hmdb51, custom)}


def poses_for(cfg, split):
    """A pose file for every clip of a split, named as the tools name them."""
    dataset = Clips(cfg, split, False)
    joints = JOINT_SETS[cfg.entry.joints].names
    for clip in dataset.clips:
        whole = clip.pose or (clip.start, clip.end) == (0, math.inf)
        instants = read(clip.path, lambda at: [0], Clip("", "", 0) if whole else clip)[1]
        pose(cfg.folder, clip.pose or clip.id, len(instants), joints)
    return dataset


@pytest.fixture
def tree(tmp_path, small):
    def make(name, **how):
        TREES[name](tmp_path, small)
        return DataConfig(**{"data": name, "root": str(tmp_path), "pose_frames": 6, "video_frames": 3,
                             "image_size": 16, "workers": 0} | how)
    return make


def index(cfg, split):
    labels, clips = cfg.read_index(cfg.own_split(split))
    return [(clip.id, labels[clip.label], os.path.relpath(clip.path, cfg.folder)) for clip in clips], clips
