"""published/annotations.py: annotation files that were cut, edited, or are something else.

Whatever lies in the place of an official file, it is read or refused: by a ValueError or a
FileNotFoundError that has three parts (what is wrong, what was expected, what to do), names the
file, and can be printed. `refuse` looks at all of that.
"""
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import Clips, DataConfig
from trees import GYM_IDS, TINY, TREES, make_tree, text, video_bytes
from waiting import ends

# (data set, file) of every file that a reader opens for training clips.
OPENED = [
    ("diving48", "Diving48_vocab.json"),
    ("diving48", "Diving48_V2_train.json"),
    ("gym99", "gym99_categories.txt"),
    ("gym99", "gym99_train_element_v1.0.txt"),
    ("gym99", "finegym_annotation_info_v1.0.json"),
    ("haa500", "annotations/battle-rope_wave.txt"),
    ("k400", "train.csv"),
    ("ucf101", "ucfTrainTestlist/classInd.txt"),
    ("ucf101", "ucfTrainTestlist/trainlist01.txt"),
    ("hmdb51", "testTrainMulti_7030_splits/sit_test_split1.txt"),
    ("custom", "clips.csv"),
]


def refuse(cfg, file):
    """Read a split that must be refused -> the message, which has its parts and names the file."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        Clips(cfg, "train", train=True)
    check_refusal(caught.value)
    message = str(caught.value)
    assert Path(file).name in message, message
    assert len(message) < 1000 + len(str(cfg.folder)), "a message is to be read"
    return message


def check_refusal(error):
    """A refusal is of one of two kinds and has three parts, whatever was in the file."""
    assert type(error) in (ValueError, FileNotFoundError), repr(error)
    message = str(error)
    message.encode("utf-8")                       # it can be printed
    _, expected, rest = message.partition(". Expected ")
    assert expected, f"no word on what was expected: {message}"
    assert ". " in rest and rest.endswith("."), f"no word on what to do: {message}"


# ---- Bytes and things ----------------------------------------------------------------------------


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


@pytest.mark.parametrize("how", ["UTF-16", "Latin-1", "lone surrogate", "bytes of a picture",
                                 "null bytes", "a web page"])
@pytest.mark.parametrize("name, file", OPENED)
def test_hostile_bytes_are_refused_by_file(make_tree, name, file, how):
    """Other encodings, other kinds of file, and what a server sends in place of one."""
    cfg = make_tree(name)
    path = cfg.folder / file
    path.write_bytes(altered(path.read_bytes(), how))
    refuse(cfg, file)


@pytest.mark.parametrize("what", ["folder", "pipe"])
@pytest.mark.parametrize("name, file", OPENED)
def test_hostile_things_in_place_of_a_file(make_tree, name, file, what):
    """A pipe that is opened would be waited for, perhaps for ever."""
    cfg = make_tree(name)
    (cfg.folder / file).unlink()
    if what == "folder":
        (cfg.folder / file).mkdir()
    else:
        os.mkfifo(cfg.folder / file)

    def read():
        return refuse(cfg, file)

    assert "is no file" in ends(read)


@pytest.mark.parametrize("name, folder", [("diving48", "rgb"),
                                          ("hmdb51", "testTrainMulti_7030_splits")])
def test_hostile_file_in_place_of_a_folder(make_tree, name, folder):
    """The folder of the videos, and that of the lists."""
    cfg = make_tree(name)
    os.rename(cfg.folder / folder, cfg.folder / "elsewhere")
    (cfg.folder / folder).write_bytes(b"")
    assert "is no folder" in refuse(cfg, folder)


def test_hostile_name_of_a_video(make_tree):
    """A file's name in Latin-1 is no text: it can neither be printed nor become a label."""
    cfg = make_tree("haa500")
    for path in (cfg.folder / "annotations").iterdir():
        path.unlink()
    folder = os.fsencode(cfg.folder / "video") + b"/caf\xe9"
    os.mkdir(folder)
    Path(os.fsdecode(folder + b"/caf\xe9_000.mp4")).write_bytes(b"")
    assert "UTF-8" in refuse(cfg, cfg.folder.name)


# ---- JSON ----------------------------------------------------------------------------------------

JSON_FILES = [(name, file) for name, file in OPENED if file.endswith(".json")]
JSON_BAD = [
    "null", "7", "true", '"text"', "[7]", "[null]", "[[[]]]", "NaN", "", "{",
    '[{"vid_name": 7, "label": 0}]',
    '[{"vid_name": "\\ud800", "label": 0}]',      # half a character
    '{"A0xAXX_sHUo": 3}',
    '{"A0xAXX_sHUo": {"E_000000_000001": []}}',
    "[" + "9" * 5000 + "]",                       # more digits than Python reads
    "[" * 400 + "]" * 400,
    "[" * 900 + "]" * 900,
    "[" * 100_000 + "]" * 100_000,                # deeper than Python can follow
]


def beginning(content):
    """A name for a parameter that is a long text."""
    return content[:30] or "empty"


@pytest.mark.parametrize("content", JSON_BAD, ids=beginning)
@pytest.mark.parametrize("name, file", JSON_FILES)
def test_hostile_json_is_refused_by_file(make_tree, name, file, content):
    """Sound JSON of another shape, and what is no JSON."""
    cfg = make_tree(name)
    text(cfg.folder, file, content)
    refuse(cfg, file)


@pytest.mark.parametrize("label", ["true", "false", "null", '"0"', "1.0", "-1", "48", str(2 ** 63),
                                   "1" + "0" * 400, "[0]", "NaN", "1e400"], ids=beginning)
def test_hostile_labels_of_diving48(make_tree, label):
    """`true` passes for 1 in Python, and 1.0 equals a label: neither is one."""
    cfg = make_tree("diving48")
    text(cfg.folder, "Diving48_V2_train.json", f'[{{"vid_name": "x", "label": {label}}}]')
    assert "entry 1" in refuse(cfg, "Diving48_V2_train.json")


EVENTS = "finegym_annotation_info_v1.0.json"


def events_with(event_times, element_times):
    """FineGym's table of one event with one element; both times are given as texts of JSON."""
    return f"""{{"A0xAXX_sHUo": {{"E_000000_000001": {{
        "timestamps": {event_times},
        "segments": {{"A_0000_0001": {{"timestamps": {element_times}}}}}}}}}}}"""


def write_events(cfg, where, times):
    """That table with these times of the "event" or of the "element"; the other's are sound."""
    if where == "event":
        content = events_with(event_times=times, element_times="[[0, 1]]")
    else:
        content = events_with(event_times="[[0, 9]]", element_times=times)
    text(cfg.folder, EVENTS, content)


@pytest.mark.parametrize("times", ["[[]]", "[[1]]", "[[1, 2, 3]]", '[["a", "b"]]', "[[NaN, 1]]",
                                   "[[true, 1]]", "[[1" + "0" * 400 + ", 1]]", "3", '{"a": 1}'],
                         ids=beginning)
@pytest.mark.parametrize("where", ["event", "element"])
def test_hostile_times_of_gymnastics(make_tree, times, where):
    """What is no pair of numbers is no time, neither of an event nor of an element in it."""
    cfg = make_tree("gym99")
    write_events(cfg, where, times)
    refuse(cfg, EVENTS)


@pytest.mark.parametrize("times", ["[]", "null"])
@pytest.mark.parametrize("where", ["event", "element"])
def test_unknown_times_of_gymnastics_are_no_fault(make_tree, times, where):
    """Where a file gives none, the whole seconds that the clip's id says are taken."""
    cfg = make_tree("gym99")
    write_events(cfg, where, times)
    clip = Clips(cfg, "train", train=True).clips[1]
    assert (clip.start, clip.end) == (0, 1)


# ---- Tables and lists ----------------------------------------------------------------------------

HEAD = "path,label,split,start,end\n"
CUSTOM_BAD = {
    "a cell of 200,000 letters": HEAD + '"' + "x" * 200_000 + '",wave,train,,\n',
    "a quotation mark that is not closed": HEAD + 'a.mp4,"wave,train,,\n',
    "a row of one cell": HEAD + "a.mp4\n",
    "nothing": "",
    "an empty line": "\n",
    "one column twice": "path,path,label,split\na,b,c,train\n",
    "seconds to frames": HEAD + "a.mp4,wave,train,1,20f\n",
    "frames to seconds": HEAD + "a.mp4,wave,train,2f,3\n",
    "half a frame": HEAD + "a.mp4,wave,train,1.5f,3f\n",
    "a start that is no number": HEAD + "a.mp4,wave,train,nan,3\n",
    "a start below 0": HEAD + "a.mp4,wave,train,-1,3\n",
    "an endless end": HEAD + "a.mp4,wave,train,1,inf\n",
    "an end of 400 digits": HEAD + f"a.mp4,wave,train,1,{'9' * 400}\n",
    "a piece of no length": HEAD + "a.mp4,wave,train,3,3\n",
    "two videos with one pose file": HEAD + "v/a.mp4,wave,train,,\nw/a.mp4,wave,test,,\n",
    "two labels": HEAD + "a.mp4,wave,train,,\na.mp4,jump,train,,\n",
    "two labels of a piece": HEAD + "a.mp4,wave,train,1,2\n./a.mp4,jump,test,1.0,2\n",
}


@pytest.mark.parametrize("what", CUSTOM_BAD)
def test_hostile_rows_of_custom(make_tree, what):
    """The line is named."""
    cfg = make_tree("custom")
    text(cfg.folder, "clips.csv", CUSTOM_BAD[what])
    assert "line " in refuse(cfg, "clips.csv")


@pytest.mark.parametrize("row", [
    "x" * 200_000 + ",abc,1,2", f"wave,abc,{2 ** 64},{2 ** 64 + 1}", f"wave,abc,1,{'9' * 5000}",
    "wave,abc,-5,5", "wave,abc,5,5", "wave,abc,1.0,2.0", "wave,abc", '"wave,abc,1,2',
], ids=beginning)
def test_hostile_rows_of_k400(make_tree, row):
    """Texts that are too long, numbers that are too large, no numbers, and rows that end early."""
    cfg = make_tree("k400")
    text(cfg.folder, "train.csv", f"label,youtube_id,time_start,time_end\n{row}\n")
    assert "line 2" in refuse(cfg, "train.csv")


@pytest.mark.parametrize("name, file, content", [
    ("diving48", "Diving48_vocab.json", '[["Back"], []]'),
    ("ucf101", "ucfTrainTestlist/classInd.txt", "9" * 5000 + " TaiChi\n"),
    ("gym99", "gym99_categories.txt", f"Clabel: {'9' * 5000}; set: 1; Glabel: 1; x\n"),
    ("gym99", "gym99_train_element_v1.0.txt", f"{GYM_IDS[0]} {'9' * 5000}\n"),
    ("haa500", "annotations/battle-rope_wave.txt", "https://x,1.0,2.0,1,1\n" * 21),
], ids=["a class without codes", "ucf101", "gym99 classes", "gym99 clips", "21 clips"])
def test_hostile_numbers_and_counts(make_tree, name, file, content):
    """Numbers of 5000 digits, and more or fewer entries than there can be."""
    cfg = make_tree(name)
    text(cfg.folder, file, content)
    refuse(cfg, file)


# ---- Anything ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def all_trees(tmp_path_factory):
    """Data set -> the DataConfig of its tree. Nobody opens the videos, so they are empty."""
    made = {}
    for name in dict(OPENED):
        root = tmp_path_factory.mktemp(name)
        TREES[name](root, {".mp4": b"", ".avi": b""})
        made[name] = DataConfig(data=name, root=str(root), **TINY)
    return made


PIECES = [b"", b"\n", b'"', b",", b"[", b"}", b"null", b"-1", b"\xff", b"\0", b"1e999", b"\\ud83d",
          b"999999999999999999999"]


@settings(max_examples=60)
@given(which=st.sampled_from(OPENED), draw=st.data())
def test_hostile_edits_are_read_or_refused(all_trees, which, draw):
    """Whatever bytes of a file are changed or lost: it is read, or refused in three parts."""
    name, file = which
    cfg = all_trees[name]
    path = cfg.folder / file
    original = path.read_bytes()

    content = bytearray(original)
    for _ in range(draw.draw(st.integers(1, 4), "edits")):
        at = draw.draw(st.integers(0, max(len(content) - 1, 0)), "at")
        piece = draw.draw(st.sampled_from(PIECES), "piece")
        lost = draw.draw(st.integers(0, 9), "bytes lost")
        content[at:at + lost] = piece

    path.write_bytes(content)
    try:
        clips = Clips(cfg, "train", train=True).clips
    except (ValueError, FileNotFoundError) as error:
        check_refusal(error)
        assert path.name in str(error) or str(cfg.folder) in str(error), error
    else:
        for clip in clips:
            assert type(clip.label) is int
            assert 0 <= clip.start < clip.end
    finally:
        path.write_bytes(original)
