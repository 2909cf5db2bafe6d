"""published/annotations.py: every data set's official files in small, and files that are something else."""
import dataclasses
import doctest
import json
import math
import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import data
from data import Clips, DataConfig
from published import annotations
from support import sampling
from trees import GYM_IDS, TREES, index, put, small, text, tree

def test_reads_diving48(tree):
    cfg = tree("diving48")
    rows, clips = index(cfg, "train")
    assert rows == [
        ("-mmq0PT-u8k_00155", "Back, 1.5 somersaults, 0.5 twist, free position", "rgb/-mmq0PT-u8k_00155.mp4"),
        ("a_b0PT-u8k_00156", "Forward, 1.5 somersaults, 1 twist, free position", "rgb/a_b0PT-u8k_00156.mp4"),
        ("x_x0PT-u8k_00157", "Reverse, 1 somersault, 3.5 twists, straight position", "rgb/x_x0PT-u8k_00157.mp4")]
    assert [clip.label for clip in clips] == [0, 2, 4]
    assert [row[0] for row in index(cfg, "val")[0]] == ["a_b0PT-u8k_00156", "x_x0PT-u8k_00157"]
    assert len(index(tree("diving48", version="v1"), "train")[0]) == 1
    labels = cfg.read_index("train")[0]
    assert len(labels) == 48 and labels[1] == "Back, dive, no twist, tuck position"
    assert annotations.diving_text(["Back", "2som", "05Twis", "PIKE", "Platform"]).endswith("pike position, platform")


@pytest.mark.parametrize("name", ["gym99", "gym288"])
def test_reads_gym(tree, name):
    cfg = tree(name)
    rows, clips = index(cfg, "train")
    assert [row[0] for row in rows] == list(GYM_IDS[:2]) and [clip.label for clip in clips] == [0, 1]
    assert rows[0][2] == f"subactions/{GYM_IDS[0]}.mp4" and (clips[0].start, clips[0].end) == (0, math.inf)
    assert rows[1][2] == "videos/A0xAXX_sHUo.mp4"               # event start + first stage .. last stage
    assert (clips[1].start, clips[1].end) == pytest.approx((0.12, 0.32))
    assert len(index(tree(name, version="v1.1"), "train")[0]) == 3
    assert index(cfg, "test")[1][0].id == index(cfg, "val")[1][0].id == GYM_IDS[2]
    if name == "gym99":
        assert rows[1][1] == "(BB) johnson (fw-leg-ch and 0.25 turn to side split or straddle)"


def test_gym_cuts_events_and_survives_missing_segments(tree):
    cfg = tree("gym99")
    os.rename(cfg.folder / f"subactions/{GYM_IDS[2]}.mp4", cfg.folder / f"{GYM_IDS[2][:27]}.mp4")
    (cfg.folder / "events").mkdir()
    os.rename(cfg.folder / f"{GYM_IDS[2][:27]}.mp4", cfg.folder / f"events/{GYM_IDS[2][:27]}.mp4")
    clip = index(cfg, "test")[1][0]                             # "segments": null: whole seconds of the id
    assert clip.path.endswith(f"events/{GYM_IDS[2][:27]}.mp4") and (clip.start, clip.end) == (0, 1)


def test_gym288_keeps_classes_of_equal_text_apart(tree):
    dataset = Clips(tree("gym288", read_poses=False), "test", False)
    assert len(dataset.labels) == 4 and len(set(dataset.texts)) == 2
    assert dataset.clips[0].label == 2 and dataset.texts[2] == dataset.texts[1]
    assert dataset.texts[2] == "(BB) salto backward tucked, a video of gymnastic action"


@pytest.mark.parametrize("lists", [True, False])
def test_reads_haa500(tree, lists):
    cfg = tree("haa500")
    (cfg.folder / "video/battle-rope_wave/battle-rope_wave_003.mp4").unlink()
    if not lists:
        for path in (cfg.folder / "annotations").iterdir():
            path.unlink()
    rows, clips = index(cfg, "train")
    assert {row[1] for row in rows} == {"battle-rope wave", "ALS Ice Bucket Challenge"}
    assert len(rows) == (32 if lists else 31)                   # number 3 is not on the disk: no shift
    assert [row[0] for row in index(cfg, "val")[0]] == ["ALS_IceBucket_Challenge_016", "battle-rope_wave_016"]
    assert [row[0][-3:] for row in index(cfg, "test")[0]] == ["017", "018", "019"] * 2
    assert rows[0] == ("ALS_IceBucket_Challenge_000", "ALS Ice Bucket Challenge",
                       "video/ALS_IceBucket_Challenge/ALS_IceBucket_Challenge_000.mp4")


def test_reads_smarthome(tree):
    names = lambda split, protocol: [row[:2] for row in index(tree("smarthome", protocol=protocol), split)[0]]
    assert names("train", "cs") == names("train", "") == [
        ("Walk_p03_r01_v05_c02", "walk"), ("Walk_p04_r00_v01_c01", "walk"), ("WatchTV_p03_r00_v01_c01", "watch TV")]
    assert names("test", "cs") == names("val", "cs") == [("Cook.Cleandishes_p02_r00_v02_c03", "clean dishes"),
                                                         ("Drink.Fromcup_p20_r02_v02_c05", "drink from a cup")]
    assert names("train", "cv1") == names("train", "cv2") == [("Walk_p04_r00_v01_c01", "walk")]   # 19 classes
    assert names("val", "cv2") == [("Drink.Fromcup_p20_r02_v02_c05", "drink from a cup")]
    assert names("test", "cv1") == [("Walk_p03_r01_v05_c02", "walk")]
    cfg = tree("smarthome")
    assert len(cfg.read_index("test")[0]) == 31
    cfg = tree("smarthome", protocol="cv1")
    assert len(cfg.read_index("test")[0]) == 19


def test_smarthome_protocols(tmp_path):
    """Which subjects and cameras are where, typed once more."""
    for subject in range(1, 26):
        text(tmp_path, f"mp4/Walk_p{subject:02d}_r00_v00_c0{subject % 7 + 1}.mp4", "")

    def found(protocol, split, what):
        cfg = DataConfig(data="smarthome", root=str(tmp_path), protocol=protocol)
        return sorted({int(clip.id[what]) for clip in cfg.read_index(split)[1]})
    subject, camera = slice(6, 8), slice(-1, None)
    trained = [3, 4, 6, 7, 9, 12, 13, 15, 17, 19, 25]
    assert found("cs", "train", subject) == trained
    assert found("cs", "test", subject) == sorted({*range(1, 26)} - {*trained})
    assert [found("cv1", split, camera) for split in ("train", "val", "test")] == [[1], [5], [2]]
    assert [found("cv2", split, camera) for split in ("train", "val", "test")] == [[1, 3, 4, 6, 7], [5], [2]]


def test_reads_k400(tree, monkeypatch):
    cfg = tree("k400")
    rows, clips = index(cfg, "train")
    assert rows == [("-3B32lodo2M_000059_000069", "abseiling", "train/abseiling/-3B32lodo2M_000059_000069.mp4"),
                    ("_dbcJuKJQNs_000000_000001", "air drumming", "raw/_dbcJuKJQNs.mp4")]
    assert clips[0].end == math.inf and (clips[1].start, clips[1].end) == (0, 1)
    rows, clips = index(cfg, "val")                             # without is_cc; labels are those of training
    assert rows == [("abcJuKJQN_s_000040_000050", "air drumming", "val/abcJuKJQN_s.mp4")] and clips[0].label == 1
    with monkeypatch.context() as here:                         # from within: a path is then spelt without "./"
        here.chdir(cfg.folder)
        whole = index(dataclasses.replace(cfg, root="."), "train")[1][1]
        assert (whole.path, whole.start, whole.end) == ("raw/_dbcJuKJQNs.mp4", 0, 1)
    (cfg.folder / "annotations").mkdir()
    os.rename(cfg.folder / "train.csv", cfg.folder / "annotations/train.csv")
    assert index(cfg, "train")[0] and index(cfg, "val")[1][0].label == 1


def test_reads_ucf101(tree):
    cfg = tree("ucf101", split=2)
    rows, clips = index(cfg, "train")
    assert rows == [("v_ApplyEyeMakeup_g08_c01", "Apply Eye Makeup", "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi"),
                    ("v_HandStandPushups_g02_c01", "Handstand Pushups",
                     "UCF-101/HandstandPushups/v_HandStandPushups_g02_c01.avi")]
    assert [clip.label for clip in clips] == [0, 1]
    assert index(cfg, "test")[0][0][:2] == ("v_TaiChi_g01_c01", "Tai Chi")


def test_reads_hmdb51(tree):
    cfg = tree("hmdb51", split=3)
    assert [row[:2] for row in index(cfg, "train")[0]] == [
        ("April_09_brush_hair_u_nm_np1_ba_goo_0", "brush hair"), ("a b_sit_0", "sit")]
    rows = index(cfg, "test")[0]
    assert rows[0][0] == "A(b)!#&+;@[x]~_brush_hair_u_nm_np1_ba_med_3" and rows[0][2].startswith("hmdb51_org/brush_hair/")
    assert [os.path.exists(clip.path) for clip in index(cfg, "test")[1]] == [True, True]


def test_reads_custom(tree, capsys):
    cfg = tree("custom")
    rows, clips = index(cfg, "train")
    assert rows == [("v/one", "wave", "v/one.mp4"), ("v/one_0.1_0.3", "jump", "v/one.mp4")]
    assert clips[1][3:] == (0.1, 0.3, "s", "one") and index(cfg, "test")[1][0][3:] == (2, 6, "f", "two")
    named = tree("custom", root=str(cfg.folder / "clips.csv"))
    assert index(named, "test")[0] == index(cfg, "test")[0] and named.folder == cfg.folder
    assert index(cfg, "val")[0] == index(cfg, "test")[0] and "stands in" in capsys.readouterr().out


# ------------------------------------------------------------------------------- annotation errors

BAD = [("diving48", "Diving48_V2_train.json", '[{"vid_name": "x", "label": 48}]', "entry 1.*label 0..47"),
       ("diving48", "Diving48_V2_train.json", '[{"vid_name": "x"', "no JSON file.*Fetch it again"),
       ("diving48", "Diving48_V2_train.json", "[7]", "entry 1"),
       ("gym99", "gym99_categories.txt", "Clabel: 0; set: 1; x\n", "line 1.*Clabel: N; set: N; Glabel: N; text"),
       ("gym99", "gym99_train_element_v1.0.txt", f"{GYM_IDS[0]} 0\n{GYM_IDS[1]} three\n", "line 2.*label 0..2"),
       ("gym99", "gym99_train_element_v1.0.txt", f"{GYM_IDS[0]} 7\n", "line 1.*label 0..2"),
       ("haa500", "annotations/battle-rope_wave.txt", "https://x,1.0,2.0,1,1\nhttps://x,1\n", "line 2.*url,start,end"),
       ("k400", "train.csv", "label,youtube_id,time_start,time_end,split\nabseiling,abc,1,x,train\n", "line 2.*start s"),
       ("k400", "train.csv", "label,id\n", "line 1.*header label,youtube_id"),
       ("ucf101", "ucfTrainTestlist/classInd.txt", "1 TaiChi\n3 YoYo\n", "line 2.*'N ClassName'"),
       ("ucf101", "ucfTrainTestlist/trainlist01.txt", "YoYo/v_YoYo_g01_c01.avi 1\n", "line 1.*classInd.txt"),
       ("hmdb51", "testTrainMulti_7030_splits/sit_test_split1.txt", "a.avi 3\n", "line 1.*1 .train., 2 .test. or 0"),
       ("custom", "clips.csv", "path,label\n", "line 1.*path,label,split"),
       ("custom", "clips.csv", "path,label,split,start,end\na.mp4,b,train,5,3\n", "line 2.*start < end"),
       ("custom", "clips.csv", "path,label,split\na.mp4,b,training\n", "line 2.*split .train, val, test")]


@pytest.mark.parametrize("name, file, content, message", BAD)
def test_annotation_errors_name_file_line_and_expectation(tree, name, file, content, message):
    cfg = tree(name)
    text(cfg.folder, file, content)
    with pytest.raises(ValueError, match=f"(?s){Path(file).name}.*{message}"):
        Clips(cfg, "train", True)


def test_other_errors_say_what_to_do(tree, tmp_path):
    with pytest.raises(FileNotFoundError, match="Diving48_vocab.json.*data.py layout diving48"):
        Clips(DataConfig(data="diving48", root=str(tmp_path / "no")), "train", True)
    cfg = tree("smarthome")
    (cfg.folder / "mp4/holiday.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match="holiday.mp4.*_p00_r00_v00_c00"):
        Clips(cfg, "train", True)
    text(cfg.folder, "Diving48_V2_train.json", "[]"), text(cfg.folder, "Diving48_vocab.json", "[]")
    (cfg.folder / "rgb").mkdir()
    with pytest.raises(ValueError, match="no train clips.*data.py check"):
        Clips(DataConfig(data="diving48", root=str(cfg.folder)), "train", True)
    for how, message in (({"data": "gym9"}, "Did you mean 'gym99'"), ({"data": "diving48", "version": "v3"}, "v2, v1"),
                         ({"data": "ucf101", "split": 4}, "1 to 3"), ({"video_frames": 5}, "divisor"),
                         ({"crop_area": 0}, "crop-area"), ({"prompt": "x"}, "{}"),
                         ({"data": "smarthome", "protocol": "cv3"}, "cs, cv1, cv2")):
        with pytest.raises(ValueError, match=message):
            DataConfig(**how)
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        Clips(cfg, "dev", True)


# ------------------------------------------------------------------------------- hostile files

# Every file that a reader opens for training clips.
OPENED = [("diving48", "Diving48_vocab.json"), ("diving48", "Diving48_V2_train.json"),
          ("gym99", "gym99_categories.txt"), ("gym99", "gym99_train_element_v1.0.txt"),
          ("gym99", "finegym_annotation_info_v1.0.json"), ("haa500", "annotations/battle-rope_wave.txt"),
          ("k400", "train.csv"), ("ucf101", "ucfTrainTestlist/classInd.txt"),
          ("ucf101", "ucfTrainTestlist/trainlist01.txt"),
          ("hmdb51", "testTrainMulti_7030_splits/sit_test_split1.txt"), ("custom", "clips.csv")]


def refuse(cfg, file):
    """Read a split that must be refused -> the message, which has its three parts and the file's name."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        Clips(cfg, "train", True)
    message = str(caught.value)
    assert type(caught.value) in (ValueError, FileNotFoundError), repr(caught.value)
    assert Path(file).name in message and ". Expected " in message and message.endswith("."), message
    assert message.split(". Expected ")[1].count(". ") >= 1, f"no word on what to do: {message}"
    message.encode("utf-8")                                        # it can be printed
    assert len(message) < 1000 + len(str(cfg.folder)), "a message is to be read"
    return message


def altered(content, how):
    """The bytes of a file as they come after an accident."""
    if how == "UTF-16":
        return content.decode().encode("utf-16")
    if how == "Latin-1":
        return content + "caf\u00e9".encode("latin-1")
    if how == "lone surrogate":
        return content + b"\xed\xa0\x80"
    if how == "bytes of a picture":
        return b"\x89PNG\r\n\x1a\n" + bytes(range(256))
    if how == "null bytes":
        return b"\0" * 4096
    if how == "a web page":
        return b"<!DOCTYPE html>\n<html><body>404, not found</body></html>\n"
    raise ValueError(how)


@pytest.mark.parametrize("how", ["UTF-16", "Latin-1", "lone surrogate", "bytes of a picture", "null bytes", "a web page"])
@pytest.mark.parametrize("name, file", OPENED)
def test_hostile_bytes_are_refused_by_file(tree, name, file, how):
    cfg = tree(name)
    (cfg.folder / file).write_bytes(altered((cfg.folder / file).read_bytes(), how))
    refuse(cfg, file)


@pytest.mark.parametrize("what", ["folder", "pipe"])
@pytest.mark.parametrize("name, file", OPENED)
def test_hostile_things_in_place_of_a_file(tree, name, file, what):
    cfg = tree(name)
    (cfg.folder / file).unlink()
    if what == "folder":
        (cfg.folder / file).mkdir()
    else:
        os.mkfifo(cfg.folder / file)
    message = []
    thread = threading.Thread(target=lambda: message.append(refuse(cfg, file)), daemon=True)
    thread.start()                                                 # a pipe that is opened hangs for ever
    thread.join(20)
    assert message and "is no file" in message[0]


@pytest.mark.parametrize("name, folder", [("diving48", "rgb"), ("hmdb51", "testTrainMulti_7030_splits")])
def test_hostile_file_in_place_of_a_folder(tree, name, folder):
    cfg = tree(name)
    os.rename(cfg.folder / folder, cfg.folder / "elsewhere")
    (cfg.folder / folder).write_bytes(b"")
    assert "is no folder" in refuse(cfg, folder)


JSON_FILES = [(name, file) for name, file in OPENED if file.endswith(".json")]
DEEP = ["[" * depth + "]" * depth for depth in (400, 900, 100_000)]
JSON_BAD = ["null", "7", "true", '"text"', "[7]", "[null]", "[[[]]]", '[{"vid_name": 7, "label": 0}]', "NaN", "", "{",
            '[{"vid_name": "\\ud800", "label": 0}]', "[" + "9" * 5000 + "]", '{"A0xAXX_sHUo": 3}',
            '{"A0xAXX_sHUo": {"E_000000_000001": []}}', *DEEP]


@pytest.mark.parametrize("content", JSON_BAD, ids=lambda content: content[:30] or "empty")
@pytest.mark.parametrize("name, file", JSON_FILES)
def test_hostile_json_is_refused_by_file(tree, name, file, content):
    cfg = tree(name)
    text(cfg.folder, file, content)
    refuse(cfg, file)


@pytest.mark.parametrize("label", ["true", "false", "null", '"0"', "1.0", "-1", "48", str(2 ** 63), str(10 ** 400), "[0]",
                                   "NaN", "1e400"])
def test_hostile_labels_of_diving48(tree, label):
    """`true` passes for 1 in Python, and 1.0 equals a label: neither is one."""
    cfg = tree("diving48")
    text(cfg.folder, "Diving48_V2_train.json", f'[{{"vid_name": "x", "label": {label}}}]')
    assert "entry 1" in refuse(cfg, "Diving48_V2_train.json")


@pytest.mark.parametrize("times", ["[]", "[[]]", "[[1]]", "[[1, 2, 3]]", '[["a", "b"]]', "[[NaN, 1]]", "[[true, 1]]",
                                   f"[[{10 ** 400}, 1]]", "3", '{"a": 1}', "null"])
@pytest.mark.parametrize("where", ["event", "element"])
def test_hostile_times_of_gymnastics(tree, times, where):
    cfg, file = tree("gym99"), "finegym_annotation_info_v1.0.json"
    event, element = ("[[0, 9]]", times) if where == "element" else (times, "[[0, 1]]")
    text(cfg.folder, file, f'{{"A0xAXX_sHUo": {{"E_000000_000001": {{"timestamps": {event}, "segments": '
         f'{{"A_0000_0001": {{"timestamps": {element}}}}}}}}}}}')
    if times in ("[]", "null"):                                    # not known: the whole seconds of the id
        clip = Clips(cfg, "train", True).clips[1]
        assert (clip.start, clip.end) == (0, 1)
    else:
        refuse(cfg, file)


HEAD = "path,label,split,start,end\n"


@pytest.mark.parametrize("content", [
    HEAD + '"' + "x" * 200_000 + '",wave,train,,\n', HEAD + 'a.mp4,"wave,train,,\n', HEAD + "a.mp4\n", "", "\n",
    "path,path,label,split\na,b,c,train\n", HEAD + "a.mp4,wave,train,1,20f\n", HEAD + "a.mp4,wave,train,2f,3\n",
    HEAD + "a.mp4,wave,train,1.5f,3f\n", HEAD + "a.mp4,wave,train,nan,3\n", HEAD + "a.mp4,wave,train,-1,3\n",
    HEAD + "a.mp4,wave,train,1,inf\n", HEAD + f"a.mp4,wave,train,1,{'9' * 400}\n", HEAD + "a.mp4,wave,train,3,3\n",
    HEAD + "v/a.mp4,wave,train,,\nw/a.mp4,wave,test,,\n",           # two videos, one pose file
    HEAD + "a.mp4,wave,train,,\na.mp4,jump,train,,\n", HEAD + "a.mp4,wave,train,1,2\n./a.mp4,jump,test,1.0,2\n"],
    ids=lambda content: content[27:60])
def test_hostile_rows_of_custom(tree, content):
    cfg = tree("custom")
    text(cfg.folder, "clips.csv", content)
    assert "line " in refuse(cfg, "clips.csv")


@pytest.mark.parametrize("row", ["x" * 200_000 + ",abc,1,2", f"wave,abc,{2 ** 64},{2 ** 64 + 1}", f"wave,abc,1,{'9' * 5000}",
                                 "wave,abc,-5,5", "wave,abc,5,5", "wave,abc,1.0,2.0", "wave,abc", '"wave,abc,1,2'])
def test_hostile_rows_of_k400(tree, row):
    cfg = tree("k400")
    text(cfg.folder, "train.csv", f"label,youtube_id,time_start,time_end\n{row}\n")
    assert "line 2" in refuse(cfg, "train.csv")


@pytest.mark.parametrize("name, file, content", [
    ("diving48", "Diving48_vocab.json", '[["Back"], []]'), ("ucf101", "ucfTrainTestlist/classInd.txt", "9" * 5000 + " TaiChi\n"),
    ("gym99", "gym99_categories.txt", f"Clabel: {'9' * 5000}; set: 1; Glabel: 1; x\n"),
    ("gym99", "gym99_train_element_v1.0.txt", f"{GYM_IDS[0]} {'9' * 5000}\n"),
    ("haa500", "annotations/battle-rope_wave.txt", "https://x,1.0,2.0,1,1\n" * 21)])
def test_hostile_numbers_and_counts(tree, name, file, content):
    cfg = tree(name)
    text(cfg.folder, file, content)
    refuse(cfg, file)


def test_hostile_name_of_a_video(tree):
    """A file's name in Latin-1 is no text: it can neither be printed nor become a label."""
    cfg = tree("haa500")
    for path in (cfg.folder / "annotations").iterdir():
        path.unlink()
    folder = os.fsencode(cfg.folder / "video") + b"/caf\xe9"
    os.mkdir(folder)
    Path(os.fsdecode(folder + b"/caf\xe9_000.mp4")).write_bytes(b"")
    assert "UTF-8" in refuse(cfg, cfg.folder.name)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(OPENED), st.data())
def test_hostile_edits_are_read_or_refused(tree, file, draw):
    """Whatever bytes of a file are changed, doubled or lost: it is read, or refused in three parts."""
    name, file = file
    cfg = tree(name)
    path = cfg.folder / file
    content = bytearray(path.read_bytes())
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, max(len(content) - 1, 0)))
        piece = draw.draw(st.sampled_from([b"", b"\n", b'"', b",", b"[", b"}", b"null", b"-1", b"\xff", b"\0", b"1e999",
                                           b"\\ud83d", b"999999999999999999999"]))
        content[at:at + draw.draw(st.integers(0, 9))] = piece
    path.write_bytes(content)
    try:
        clips = Clips(cfg, "train", True).clips
    except (ValueError, FileNotFoundError) as error:
        assert type(error) in (ValueError, FileNotFoundError) and ". Expected " in str(error), repr(error)
        assert path.name in str(error) or str(cfg.folder) in str(error), error
    else:
        assert all(type(clip.label) is int and 0 <= clip.start < clip.end for clip in clips)
    finally:
        TREES[name](cfg.folder, draw.draw(st.just({".mp4": b"", ".avi": b""})))


# ------------------------------------------------------------------------------- doubtful, and told


def test_two_labels_of_a_published_clip_are_told(tree, capsys):
    cfg = tree("diving48")
    rows = [{"vid_name": "x_x0PT-u8k_00157", "label": label} for label in (4, 4, 1)]
    text(cfg.folder, "Diving48_V2_train.json", json.dumps(rows[:2]))
    Clips(cfg, "train", True)
    assert "two labels" not in capsys.readouterr().out               # the same label twice does no harm
    text(cfg.folder, "Diving48_V2_train.json", json.dumps(rows))
    Clips(cfg, "train", True)
    assert "1 clips of diving48, train, are listed with two labels: x_x0PT-u8k_00157." in capsys.readouterr().out


def test_two_labels_of_your_own_clip_are_refused(tree):
    cfg = tree("custom")
    text(cfg.folder, "clips.csv", HEAD + "v/one.mp4,wave,train,,\nv/one.mp4,jump,train,,\n")
    assert "line 3" in (message := refuse(cfg, "clips.csv")) and "line 2 says 'wave'" in message
    text(cfg.folder, "clips.csv", HEAD + "v/one.mp4,wave,train,0,1\nv/one.mp4,jump,train,1,2\n")
    assert len(Clips(cfg, "train", True)) == 2                     # two pieces of a video are two clips


def test_clips_of_training_in_the_test_list_are_told(tree, capsys):
    cfg = tree("custom")
    text(cfg.folder, "clips.csv", HEAD + "v/one.mp4,wave,train,,\nv/one.mp4,wave,test,,\nv/two.mp4,wave,val,,\n")
    Clips(cfg, "train", True)
    assert "trains on clips that it also evaluates on, 1 of them: v/one.mp4 (lines 2 and 3)" in capsys.readouterr().out
    cfg = tree("diving48", read_poses=False)                       # its test list holds two of training
    data.main(["check", "diving48", "--root", str(cfg.folder), "--no-read-poses"])
    assert "2 that training sees too: a_b0PT-u8k_00156, x_x0PT-u8k_00157" in capsys.readouterr().out


def test_custom_needs_no_column_for_the_end(tree):
    cfg = tree("custom")
    text(cfg.folder, "clips.csv", "path,label,split,start\nv/one.mp4,wave,train,0.1\n")
    clip = Clips(cfg, "train", True).clips[0]
    assert (clip.id, clip.start, clip.end) == ("v/one_0.1_", 0.1, math.inf)


# ------------------------------------------------------------------------------- examples


@pytest.mark.parametrize("module", [annotations, sampling], ids=lambda module: module.__name__)
def test_examples_of_docstrings(module):
    assert doctest.testmod(module).attempted > 1 and doctest.testmod(module).failed == 0
