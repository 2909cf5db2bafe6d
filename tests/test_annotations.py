"""published/annotations.py: what the official files of each data set say.

Each reader is shown its data set's files in small (tests/trees.py), and must give clips with the
right names, labels, videos and pieces of videos. Then mistakes: an error names the file, the line,
what was expected and what to do. Files that are something else altogether are in
test_hostile_files.py.
"""
import dataclasses
import doctest
import json
import math
import os
import shutil
from pathlib import Path

import pytest

from data import Clips, DataConfig
from published import annotations
from support import sampling
from trees import GYM_IDS, index, make_tree, put, text, video_bytes


def ids_of(cfg, split):
    """Ids of the clips of a split."""
    return [row.id for row in index(cfg, split).rows]


def span_of(clip):
    """Where a clip lies in its file."""
    return clip.start, clip.end


WHOLE_FILE = (0, math.inf)

# ---- Diving48 ------------------------------------------------------------------------------------


def test_reads_diving48(make_tree):
    """Ids, texts and videos; a text is made of the four codes of its class."""
    rows, clips = index(make_tree("diving48"), "train")
    assert rows == [
        ("-mmq0PT-u8k_00155", "Back, 1.5 somersaults, 0.5 twist, free position",
         "rgb/-mmq0PT-u8k_00155.mp4"),
        ("a_b0PT-u8k_00156", "Forward, 1.5 somersaults, 1 twist, free position",
         "rgb/a_b0PT-u8k_00156.mp4"),
        ("x_x0PT-u8k_00157", "Reverse, 1 somersault, 3.5 twists, straight position",
         "rgb/x_x0PT-u8k_00157.mp4")]
    assert [clip.label for clip in clips] == [0, 2, 4]


def test_reads_diving48_test_list_as_val(make_tree):
    """There is no third list: the test list serves for validation too."""
    assert ids_of(make_tree("diving48"), "val") == ["a_b0PT-u8k_00156", "x_x0PT-u8k_00157"]


def test_reads_diving48_v1(make_tree):
    """The first version has lists of other names."""
    assert ids_of(make_tree("diving48", version="v1"), "train") == ["-mmq0PT-u8k_00155"]


def test_reads_diving48_classes_without_clips(make_tree):
    """All 48 texts are given, whether or not a clip has them."""
    labels, _ = make_tree("diving48").read_index("train")
    assert len(labels) == 48
    assert labels[1] == "Back, dive, no twist, tuck position"


def test_reads_diving48_codes_that_are_not_published():
    """Words in place of codes stay what they are, in lower case."""
    codes = ["Back", "2som", "05Twis", "PIKE", "Platform"]
    assert annotations.diving_text(codes).endswith("pike position, platform")


# ---- FineGym -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gym99", "gym288"])
def test_reads_gym(make_tree, name):
    """A clip is a file of its own, or is cut from a video: event start + first to last stage."""
    rows, clips = index(make_tree(name), "train")
    assert [row.id for row in rows] == list(GYM_IDS[:2])
    assert [clip.label for clip in clips] == [0, 1]
    assert rows[0].path == f"subactions/{GYM_IDS[0]}.mp4"
    assert span_of(clips[0]) == WHOLE_FILE
    assert rows[1].path == "videos/A0xAXX_sHUo.mp4"
    assert span_of(clips[1]) == pytest.approx((0.12, 0.32))


@pytest.mark.parametrize("name", ["gym99", "gym288"])
def test_reads_gym_splits_and_versions(make_tree, name):
    """Version 1.1 lists a clip more; the list of validation is the one that is tested on."""
    assert ids_of(make_tree(name, version="v1.1"), "train") == list(GYM_IDS)
    cfg = make_tree(name)
    assert ids_of(cfg, "val") == ids_of(cfg, "test") == [GYM_IDS[2]]


def test_reads_gym_texts(make_tree):
    """The text of a class is all that stands behind its numbers."""
    rows, _ = index(make_tree("gym99"), "train")
    assert rows[1].text == "(BB) johnson (fw-leg-ch and 0.25 turn to side split or straddle)"


def test_gym_cuts_events_and_survives_missing_segments(make_tree):
    """The file of an event, whose elements have no times: the whole seconds that the id says."""
    cfg = make_tree("gym99")
    event = GYM_IDS[2][:27]
    (cfg.folder / "events").mkdir()
    os.rename(cfg.folder / f"subactions/{GYM_IDS[2]}.mp4", cfg.folder / f"events/{event}.mp4")
    clip = index(cfg, "test").clips[0]
    assert clip.path.endswith(f"events/{event}.mp4")
    assert span_of(clip) == (0, 1)


def test_gym288_keeps_classes_of_equal_text_apart(make_tree):
    """Two elements of one name are two labels, as the numbers of others count them."""
    dataset = Clips(make_tree("gym288", read_poses=False), "test", train=False)
    assert len(dataset.labels) == 4
    assert len(set(dataset.texts)) == 2
    assert dataset.clips[0].label == 2
    assert dataset.texts[2] == dataset.texts[1]
    assert dataset.texts[2] == "(BB) salto backward tucked, a video of gymnastic action"


# ---- HAA500 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("lists, clips", [(True, 32), (False, 31)], ids=["lists", "videos alone"])
def test_reads_haa500(make_tree, lists, clips):
    """16, 1 and 3 of 20 clips a class; one that is not on the disk shifts no other."""
    cfg = make_tree("haa500")
    (cfg.folder / "video/battle-rope_wave/battle-rope_wave_003.mp4").unlink()
    if not lists:
        for path in (cfg.folder / "annotations").iterdir():
            path.unlink()

    rows, _ = index(cfg, "train")
    assert len(rows) == clips
    assert {row.text for row in rows} == {"battle-rope wave", "ALS Ice Bucket Challenge"}
    assert rows[0] == ("ALS_IceBucket_Challenge_000", "ALS Ice Bucket Challenge",
                       "video/ALS_IceBucket_Challenge/ALS_IceBucket_Challenge_000.mp4")
    assert ids_of(cfg, "val") == ["ALS_IceBucket_Challenge_016", "battle-rope_wave_016"]
    assert [name[-3:] for name in ids_of(cfg, "test")] == ["017", "018", "019"] * 2


# ---- Smarthome -----------------------------------------------------------------------------------

WALK_CAMERA_2 = ("Walk_p03_r01_v05_c02", "walk")
WALK_CAMERA_1 = ("Walk_p04_r00_v01_c01", "walk")
TV = ("WatchTV_p03_r00_v01_c01", "watch TV")
DISHES = ("Cook.Cleandishes_p02_r00_v02_c03", "clean dishes")
CUP = ("Drink.Fromcup_p20_r02_v02_c05", "drink from a cup")


@pytest.mark.parametrize("protocol, split, expected", [
    ("cs", "train", [WALK_CAMERA_2, WALK_CAMERA_1, TV]),
    ("", "train", [WALK_CAMERA_2, WALK_CAMERA_1, TV]),        # by subjects unless told
    ("cs", "val", [DISHES, CUP]),                             # no third split: that of the test
    ("cs", "test", [DISHES, CUP]),
    ("cv1", "train", [WALK_CAMERA_1]),                        # watching TV is not among the 19
    ("cv1", "test", [WALK_CAMERA_2]),
    ("cv2", "train", [WALK_CAMERA_1]),
    ("cv2", "val", [CUP]),
])
def test_reads_smarthome(make_tree, protocol, split, expected):
    """The names of the videos say activity, subject and camera, and so the split."""
    rows, _ = index(make_tree("smarthome", protocol=protocol), split)
    assert [(row.id, row.text) for row in rows] == expected


@pytest.mark.parametrize("protocol, classes", [("cs", 31), ("cv1", 19)])
def test_reads_smarthome_classes(make_tree, protocol, classes):
    """31 across subjects, 19 across cameras."""
    labels, _ = make_tree("smarthome", protocol=protocol).read_index("test")
    assert len(labels) == classes


SUBJECT = slice(6, 8)                             # where a name such as Walk_p03_r00_v00_c04 has it
CAMERA = slice(-1, None)
TRAINED = [3, 4, 6, 7, 9, 12, 13, 15, 17, 19, 25]
TESTED = sorted(set(range(1, 26)) - set(TRAINED))


@pytest.mark.parametrize("protocol, split, what, expected", [
    ("cs", "train", SUBJECT, TRAINED),
    ("cs", "test", SUBJECT, TESTED),
    ("cv1", "train", CAMERA, [1]),
    ("cv1", "val", CAMERA, [5]),
    ("cv1", "test", CAMERA, [2]),
    ("cv2", "train", CAMERA, [1, 3, 4, 6, 7]),
    ("cv2", "val", CAMERA, [5]),
    ("cv2", "test", CAMERA, [2]),
])
def test_smarthome_protocols(tmp_path, protocol, split, what, expected):
    """Which subjects and cameras are where, typed once more."""
    for subject in range(1, 26):
        camera = subject % 7 + 1
        text(tmp_path, f"mp4/Walk_p{subject:02d}_r00_v00_c0{camera}.mp4", "")
    cfg = DataConfig(data="smarthome", root=str(tmp_path), protocol=protocol)
    _, clips = cfg.read_index(split)
    assert sorted({int(clip.id[what]) for clip in clips}) == expected


def test_smarthome_clips_that_are_there_twice_are_refused(make_tree):
    """A copy of a video would be trained on, or counted, twice."""
    cfg = make_tree("smarthome")
    video = next((cfg.folder / "mp4").rglob("*.mp4"))
    (cfg.folder / "mp4/copy").mkdir()
    shutil.copy(video, cfg.folder / "mp4/copy")
    with pytest.raises(ValueError, match=f"are both clip {video.stem}. Expected each clip once"):
        cfg.read_index("train")


# ---- Where videos lie ----------------------------------------------------------------------------


# Data set -> the folder of its videos in the tree of the tests, and others that are taken as well.
FOLDERS = [
    ("diving48", "rgb", "videos"), ("haa500", "video", "haa500_v1_1/video"),
    ("gym99", "subactions", "events"), ("gym99", "subactions", "videos"),
    ("ucf101", "UCF-101", "videos"), ("hmdb51", "hmdb51_org", "videos"),
    ("k400", "train", "train_256"), ("k400", "train", "videos_train"), ("k400", "train", "videos"),
]


@pytest.mark.parametrize("name, folder, other", FOLDERS)
def test_videos_may_lie_in_another_folder(make_tree, name, folder, other):
    """Where two folders have a video, that of the first name is taken."""
    cfg = make_tree(name)
    paths = [row.path for row in index(cfg, "train").rows]
    inside = [path for path in paths if path.startswith(f"{folder}/")]
    assert inside, "the tree has no video there"

    (cfg.folder / other).parent.mkdir(exist_ok=True)
    shutil.copytree(cfg.folder / folder, cfg.folder / other, dirs_exist_ok=True)
    assert [row.path for row in index(cfg, "train").rows] == paths, "the second folder won"

    os.rename(cfg.folder / folder, cfg.folder / "elsewhere")
    moved = [path.replace(f"{folder}/", f"{other}/", 1) for path in paths]
    assert [row.path for row in index(cfg, "train").rows] == moved


def test_videos_are_found_through_links(tmp_path, video_bytes):
    """Of a folder inside, whose videos lie on another disk."""
    put(tmp_path, video_bytes, "disk/a.mp4")
    (tmp_path / "set/rgb").mkdir(parents=True)
    (tmp_path / "set/rgb/more").symlink_to(tmp_path / "disk", target_is_directory=True)
    source = annotations.Source(name="diving48", root=tmp_path / "set", split="train", variant="v2")
    assert list(annotations.videos(source, "rgb")) == ["more/a"]


# ---- Kinetics ------------------------------------------------------------------------------------


def test_reads_k400(make_tree):
    """A file that is cut already, and a piece of a whole video."""
    rows, clips = index(make_tree("k400"), "train")
    assert rows == [
        ("-3B32lodo2M_000059_000069", "abseiling",
         "train/abseiling/-3B32lodo2M_000059_000069.mp4"),
        ("_dbcJuKJQNs_000000_000001", "air drumming", "raw/_dbcJuKJQNs.mp4")]
    assert span_of(clips[0]) == WHOLE_FILE
    assert span_of(clips[1]) == (0, 1)


def test_reads_k400_validation_with_the_labels_of_training(make_tree):
    """Its list lacks a column and a class, and its label is numbered as in training."""
    rows, clips = index(make_tree("k400"), "val")
    assert rows == [("abcJuKJQN_s_000040_000050", "air drumming", "val/abcJuKJQN_s.mp4")]
    assert clips[0].label == 1


def test_k400_validation_with_a_label_of_its_own_is_refused(make_tree):
    """Numbers of labels are those of training: a class that it lacks would shift all behind it."""
    cfg = make_tree("k400")
    path = next(cfg.folder.rglob("val*.csv"))
    path.write_text(path.read_text().replace("air drumming", "aardvark riding"))
    with pytest.raises(ValueError, match="column label.*'aardvark riding'.*a label of .*train.csv"):
        index(cfg, "val")


def test_reads_k400_from_within_its_folder(make_tree, monkeypatch):
    """With --root . a path is spelt without "./", and the video is still known as a whole one."""
    cfg = make_tree("k400")
    monkeypatch.chdir(cfg.folder)
    clip = index(dataclasses.replace(cfg, root="."), "train").clips[1]
    assert clip.path == "raw/_dbcJuKJQNs.mp4"
    assert span_of(clip) == (0, 1)


def test_reads_k400_lists_in_a_folder(make_tree):
    """They may also lie in annotations/."""
    cfg = make_tree("k400")
    (cfg.folder / "annotations").mkdir()
    os.rename(cfg.folder / "train.csv", cfg.folder / "annotations/train.csv")
    assert len(index(cfg, "train").rows) == 2
    assert index(cfg, "val").clips[0].label == 1


# ---- UCF101, HMDB51 ------------------------------------------------------------------------------


def test_reads_ucf101(make_tree):
    """Split 2; the class of `HandStandPushups` is spelt in two ways in the original."""
    cfg = make_tree("ucf101", split=2)
    rows, clips = index(cfg, "train")
    assert rows == [
        ("v_ApplyEyeMakeup_g08_c01", "Apply Eye Makeup",
         "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi"),
        ("v_HandStandPushups_g02_c01", "Handstand Pushups",
         "UCF-101/HandstandPushups/v_HandStandPushups_g02_c01.avi")]
    assert [clip.label for clip in clips] == [0, 1]

    tested = index(cfg, "test").rows[0]
    assert (tested.id, tested.text) == ("v_TaiChi_g01_c01", "Tai Chi")


def test_reads_hmdb51(make_tree):
    """1 is training, 2 is test, 0 is neither; names may hold blanks and worse."""
    cfg = make_tree("hmdb51", split=3)
    rows, _ = index(cfg, "train")
    assert [(row.id, row.text) for row in rows] == [
        ("April_09_brush_hair_u_nm_np1_ba_goo_0", "brush hair"), ("a b_sit_0", "sit")]

    rows, clips = index(cfg, "test")
    assert rows[0].id == "A(b)!#&+;@[x]~_brush_hair_u_nm_np1_ba_med_3"
    assert rows[0].path.startswith("hmdb51_org/brush_hair/")
    assert [os.path.exists(clip.path) for clip in clips] == [True, True]


# ---- A table of one's own ------------------------------------------------------------------------


def test_reads_custom(make_tree):
    """A whole file, a piece by seconds, a piece by frames; pieces share the video's poses."""
    cfg = make_tree("custom")
    rows, clips = index(cfg, "train")
    assert rows == [("v/one", "wave", "v/one.mp4"), ("v/one_0.1_0.3", "jump", "v/one.mp4")]
    assert span_of(clips[0]) == WHOLE_FILE
    assert (*span_of(clips[1]), clips[1].unit, clips[1].pose) == (0.1, 0.3, "s", "one")

    clip = index(cfg, "test").clips[0]
    assert (*span_of(clip), clip.unit, clip.pose) == (2, 6, "f", "two")


def test_reads_custom_by_the_name_of_the_table(make_tree):
    """--root may name the csv file itself."""
    cfg = make_tree("custom")
    named = make_tree("custom", root=str(cfg.folder / "clips.csv"))
    assert named.folder == cfg.folder
    assert index(named, "test").rows == index(cfg, "test").rows


def test_reads_custom_without_a_validation_split(make_tree, capsys):
    """The test clips stand in, and that is said."""
    cfg = make_tree("custom")
    assert index(cfg, "val").rows == index(cfg, "test").rows
    assert "stands in" in capsys.readouterr().out


def test_custom_cells_are_read_without_blanks_around_them(make_tree):
    """As a spreadsheet leaves them: "jump" and " jump" are one label."""
    cfg = make_tree("custom")
    text(cfg.folder, "clips.csv", "path,label,split\na.mp4, jump,train\n b.mp4,jump , train\n")
    labels, clips = cfg.read_index("train")
    assert labels == ["jump"]
    assert [clip.id for clip in clips] == ["a", "b"]


def test_shots_cut_the_training_split_alone(make_tree):
    """--shots 2: two clips of each label to train on, as long as there are two; all to test on."""
    cfg = make_tree("custom", shots=2)
    lines = ["path,label,split"]
    for split in ("train", "test"):
        for number, label in enumerate(["kick", "jump"] * 3 + ["rare"]):
            lines.append(f"{split}{number}.mp4,{label},{split}")
    text(cfg.folder, "clips.csv", "\n".join(lines))

    trained = [row.text for row in index(cfg, "train").rows]
    assert trained == ["kick", "jump", "kick", "jump", "rare"], "not the first two of each label"
    assert len(index(cfg, "test").rows) == 7, "--shots took clips from the test split"


def test_custom_needs_no_column_for_the_end(make_tree):
    """A piece that begins somewhere and runs to the end of the file."""
    cfg = make_tree("custom")
    text(cfg.folder, "clips.csv", "path,label,split,start\nv/one.mp4,wave,train,0.1\n")
    clip = Clips(cfg, "train", train=True).clips[0]
    assert clip.id == "v/one_0.1_"
    assert span_of(clip) == (0.1, math.inf)


# ---- Mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, file, content, message", [
    ("diving48", "Diving48_V2_train.json", '[{"vid_name": "x", "label": 48}]',
     "entry 1.*label 0..47"),
    ("diving48", "Diving48_V2_train.json", '[{"vid_name": "x"', "no JSON file.*Fetch it again"),
    ("diving48", "Diving48_V2_train.json", "[7]", "entry 1"),
    ("gym99", "gym99_categories.txt", "Clabel: 0; set: 1; x\n",
     "line 1.*Clabel: N; set: N; Glabel: N; text"),
    ("gym99", "gym99_train_element_v1.0.txt", f"{GYM_IDS[0]} 0\n{GYM_IDS[1]} three\n",
     "line 2.*label 0..2"),
    ("gym99", "gym99_train_element_v1.0.txt", f"{GYM_IDS[0]} 7\n", "line 1.*label 0..2"),
    ("haa500", "annotations/battle-rope_wave.txt", "https://x,1.0,2.0,1,1\nhttps://x,1\n",
     "line 2.*url,start,end"),
    ("k400", "train.csv",
     "label,youtube_id,time_start,time_end,split\nabseiling,abc,1,x,train\n", "line 2.*start s"),
    ("k400", "train.csv", "label,id\n", "line 1.*header label,youtube_id"),
    ("ucf101", "ucfTrainTestlist/classInd.txt", "1 TaiChi\n3 YoYo\n", "line 2.*'N ClassName'"),
    ("ucf101", "ucfTrainTestlist/trainlist01.txt", "YoYo/v_YoYo_g01_c01.avi 1\n",
     "line 1.*classInd.txt"),
    ("hmdb51", "testTrainMulti_7030_splits/sit_test_split1.txt", "a.avi 3\n",
     "line 1.*1 .train., 2 .test. or 0"),
    ("custom", "clips.csv", "path,label\n", "line 1.*path,label,split"),
    ("custom", "clips.csv", "path,label,split,start,end\na.mp4,b,train,5,3\n",
     "line 2.*start < end"),
    ("custom", "clips.csv", "path,label,split\na.mp4,b,training\n",
     "line 2.*split .train, val, test"),
])
def test_annotation_errors_name_file_line_and_expectation(make_tree, name, file, content, message):
    """A person must find the place without reading our source."""
    cfg = make_tree(name)
    text(cfg.folder, file, content)
    with pytest.raises(ValueError, match=f"(?s){Path(file).name}.*{message}"):
        Clips(cfg, "train", train=True)


def test_a_missing_folder_says_which_files_are_expected(tmp_path):
    """And which command prints them."""
    cfg = DataConfig(data="diving48", root=str(tmp_path / "no"))
    with pytest.raises(FileNotFoundError, match="Diving48_vocab.json.*data.py layout diving48"):
        Clips(cfg, "train", train=True)


def test_a_video_of_another_name_in_smarthome_is_refused(make_tree):
    """A name that says no subject belongs to no split."""
    cfg = make_tree("smarthome")
    (cfg.folder / "mp4/holiday.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match="holiday.mp4.*_p00_r00_v00_c00"):
        Clips(cfg, "train", train=True)


def test_a_split_without_clips_is_refused(tmp_path):
    """Lists that are sound and empty: the error says what to run."""
    text(tmp_path, "Diving48_vocab.json", "[]")
    text(tmp_path, "Diving48_V2_train.json", "[]")
    (tmp_path / "rgb").mkdir()
    with pytest.raises(ValueError, match="no train clips.*data.py layout diving48"):
        Clips(DataConfig(data="diving48", root=str(tmp_path)), "train", train=True)


def test_an_unknown_split_is_refused(make_tree):
    """There are three."""
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        Clips(make_tree("diving48"), "dev", train=True)


@pytest.mark.parametrize("settings, message", [
    ({"data": "gym9"}, "Did you mean 'gym99'"),
    ({"data": "diving48", "version": "v3"}, "v2, v1"),
    ({"data": "ucf101", "split": 4}, "1 to 3"),
    ({"data": "smarthome", "protocol": "cv3"}, "cs, cv1, cv2"),
    ({"video_frames": 5}, "divisor"),
    ({"crop_area": 0}, "crop-area"),
    ({"prompt": "x"}, "{}"),
], ids=str)
def test_other_errors_say_what_to_do(settings, message):
    """A setting that makes no sense is refused with what would."""
    with pytest.raises(ValueError, match=message):
        DataConfig(**settings)


# ---- Doubtful, and told --------------------------------------------------------------------------


@pytest.mark.parametrize("labels, told", [((4, 4), False), ((4, 4, 1), True)])
def test_two_labels_of_a_published_clip_are_told(make_tree, capsys, labels, told):
    """It is not refused, for others report numbers on that list; one label twice does no harm."""
    cfg = make_tree("diving48")
    rows = [{"vid_name": "x_x0PT-u8k_00157", "label": label} for label in labels]
    text(cfg.folder, "Diving48_V2_train.json", json.dumps(rows))
    Clips(cfg, "train", train=True)
    note = "1 clips of diving48, train, are listed with two labels: x_x0PT-u8k_00157."
    assert (note in capsys.readouterr().out) == told


def test_two_labels_of_your_own_clip_are_refused(make_tree):
    """Of one's own table it is a mistake, and both lines are named."""
    cfg = make_tree("custom")
    text(cfg.folder, "clips.csv", "path,label,split\nv/one.mp4,wave,train\nv/one.mp4,jump,train\n")
    with pytest.raises(ValueError, match="clips.csv, line 3.*line 2 says 'wave'"):
        Clips(cfg, "train", train=True)


def test_two_pieces_of_a_video_are_two_clips(make_tree):
    """They may have two labels."""
    cfg = make_tree("custom")
    text(cfg.folder, "clips.csv", "path,label,split,start,end\n"
         "v/one.mp4,wave,train,0,1\nv/one.mp4,jump,train,1,2\n")
    assert [clip.label for clip in Clips(cfg, "train", train=True).clips] == [1, 0]


def test_clips_of_training_in_the_test_list_are_told(make_tree, capsys):
    """In a table of one's own, with the lines where it stands."""
    cfg = make_tree("custom")
    text(cfg.folder, "clips.csv", "path,label,split\n"
         "v/one.mp4,wave,train\nv/one.mp4,wave,test\nv/two.mp4,wave,val\n")
    Clips(cfg, "train", train=True)
    assert ("trains on clips that it also evaluates on, 1 of them: v/one.mp4 (lines 2 and 3)"
            in capsys.readouterr().out)


# ---- Examples ------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [annotations, sampling], ids=lambda module: module.__name__)
def test_examples_of_docstrings(module):
    """They come out as printed, and there are some."""
    result = doctest.testmod(module)
    assert result.attempted > 1
    assert result.failed == 0
