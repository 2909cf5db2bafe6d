"""What tests/attack.py does to files: damage to bytes, to values and to texts, and hostile files.

All of it is drawn from a `random.Random`, so that a seed and a number give the same file again.
Each function that draws a kind of damage returns its name too, for the report.

here                                    | of what
damaged, strange_thing                  | any file
large_claims, without_codec             | videos
attack_annotation                       | annotations: JSON, csv and lines of text
changed_value, pickles, pose_bytes      | checkpoints, pickles, pose files
"""
import copy
import io
import json
import math
import os
import pickle
import struct
import zipfile

import numpy as np
import torch

import trees

# ---- Any file ------------------------------------------------------------------------------------

# The beginnings of files of other kinds.
OTHER = [
    b"<!DOCTYPE html><html>404</html>",
    b"version https://git-lfs.github.com/spec/v1\n",
    b"PK\x03\x04" + bytes(60),
    b"PK\x05\x06" + bytes(18),
    b"\x1f\x8b\x08" + bytes(40),
    bytes(5000),
    b"\xff\xfe" + "text".encode("utf-16-le"),
    "Ärger\n".encode("latin-1"),
    b"ffconcat version 1.0\nfile 'small.mp4'\n",
    b"\x80\x04N.",
    b"\x93NUMPY" + bytes(90),
    b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
    b"RIFF\xff\xff\xff\xffAVI LIST",
    b"\x89PNG\r\n\x1a\n" + bytes(50),
    b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
    b"\xff\xd8\xff\xe0" + bytes(100),
]

# Four bytes that are an absurd size, whichever end comes first.
ABSURD = [b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4), b"\0\0\x40\0", b"\0\x40\0\0"]


def flip_bits(rng, content, times):
    for _ in range(times):
        if content:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def damaged(rng, content):
    """-> name of the damage, the bytes with it."""
    content = bytearray(content)
    size = max(len(content), 1)
    how = rng.choice(["cut", "flip", "flips", "zeros", "insert", "swap", "repeat", "empty",
                      "other", "tail", "sizes"])
    if how == "cut":
        content = content[:rng.randrange(size)]
    elif how == "flip":
        flip_bits(rng, content, 1)
    elif how == "flips":
        flip_bits(rng, content, rng.randrange(2, 60))
    elif how == "zeros":
        at = rng.randrange(size)
        zeros = bytes(rng.randrange(1, 400))
        content[at:at + rng.randrange(1, 400)] = zeros
    elif how == "insert":
        at = rng.randrange(size)
        content[at:at] = rng.randbytes(rng.randrange(1, 200))
    elif how == "swap":
        first, second, third = sorted(rng.randrange(size) for _ in range(3))
        swapped = content[second:third] + content[first:second]
        content = content[:first] + swapped + content[third:]
    elif how == "repeat":
        content = content * rng.randrange(2, 5)
    elif how == "empty":
        content = bytearray()
    elif how == "other":
        content = bytearray(rng.choice(OTHER))
    elif how == "tail":
        content += rng.randbytes(rng.randrange(1, 3000))
    elif how == "sizes" and len(content) > 8:
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(content) - 4)
            content[at:at + 4] = rng.choice(ABSURD)
    return how, bytes(content)


def strange_thing(rng, path):
    """Put something at `path` that is no regular file, or nothing -> its name."""
    how = rng.choice(["fifo", "folder", "nothing", "loop", "zero", "dangling"])
    if how == "fifo":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how == "loop":
        path.symlink_to(path)
    elif how == "zero":
        path.symlink_to("/dev/zero")
    elif how == "dangling":
        path.symlink_to(path.with_name("gone"))
    return how


# ---- Videos --------------------------------------------------------------------------------------

# How containers name what their packets are coded with.
CODECS = (b"avc1", b"hvc1", b"hev1", b"mp4v", b"MJPG", b"FMP4", b"FFV1", b"WMV2", b"V_VP9",
          b"V_MPEG4/ISO/AVC", b"V_FFV1")


def large_claims(content):
    """A copy in which each place that says 64 x 48 says 16384 x 16384 instead.

    avi, mp4 and mjpeg have such places; a kind that writes them otherwise stays as it is.
    """
    for pattern, first, second in (("<II", 64, 48), (">HH", 48, 64), (">HH", 64, 48)):
        small = struct.pack(pattern, first, second)
        large = struct.pack(pattern, 16384, 16384)
        content = content.replace(small, large)
    return content


def without_codec(content):
    """A copy whose container names a codec that no one knows, and lacks its settings."""
    for codec in CODECS:
        content = content.replace(codec, b"zzzz"[:len(codec)])
    return content.replace(b"esds", b"free").replace(b"avcC", b"free")


def attack_video(rng, seeds, path):
    """Put something at `path`, which has no ending yet -> what it is, its path.

    seeds: {name: bytes} of sound videos.
    """
    name = rng.choice(sorted(seeds))
    path = path.with_suffix(os.path.splitext(name)[1])
    draw = rng.random()
    if draw < 0.08:
        return strange_thing(rng, path), path

    if draw < 0.18:
        what = "16k"
        content = large_claims(seeds[name])
    elif draw < 0.25:
        what = "whole"
        content = seeds[name]
    elif draw < 0.3:
        what = "no codec"
        content = without_codec(seeds[name])
    else:
        what, content = damaged(rng, seeds[name])
        if rng.random() < 0.3:
            again, content = damaged(rng, content)
            what = f"{what}+{again}"
    path.write_bytes(content)
    return f"{what} {name}", path


# ---- Annotations ---------------------------------------------------------------------------------

# What may stand anywhere in a JSON file, and is seldom meant.
NODES = [None, True, False, 0, -1, 1.5, 2 ** 70, -2 ** 63 - 1, math.inf, "", "x" * 5000, "\ud800",
         "a\0b", [], {}, [[]], {"": 0}, [None] * 3, "../../etc/passwd", "Ä", float("nan")]
CELLS = ["", "-1", "nan", "1e999", '"', "x" * 140000, "20f", "1,2", "\0", "9" * 30]
SPACES = ["", "\t\t", "\u2028", " 99999999999 "]
LINES = ["\n", "\r", "#\n", "0\n", "null\n", '"\n', "\ufeff\n", "²\n", "٣ x\n"]
CODINGS = ["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp037"]


def place_within(rng, value, depth, keys):
    """Go down `depth` steps into a nested value, or as far as it goes -> (holder, key).

    keys: how the keys of a dict are listed before one is drawn. (None, None): no step was made.
    """
    holder = None
    key = None
    for _ in range(depth):
        if isinstance(value, dict) and value:
            holder = value
            key = rng.choice(keys(value))
        elif isinstance(value, list) and value:
            holder = value
            key = rng.randrange(len(value))
        else:
            break
        value = holder[key]
    return holder, key


def changed_json(rng, value):
    """A copy of a JSON value with one place changed."""
    value = copy.deepcopy(value)
    holder, key = place_within(rng, value, depth=rng.randrange(0, 5), keys=sorted)
    new = rng.choice(NODES)
    if holder is None:
        return new
    if rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = new
    return value


def changed_text(rng, text):
    """A text with a line or a cell changed."""
    lines = text.splitlines(keepends=True) or [""]
    at = rng.randrange(len(lines))
    how = rng.choice(["double", "drop", "cell", "spaces", "shuffle", "many", "odd line",
                      "capitals"])
    if how == "double":
        lines.insert(at, lines[rng.randrange(len(lines))])
    elif how == "drop":
        del lines[at]
    elif how == "cell":
        cells = lines[at].split(",")
        new = rng.choice(CELLS)
        cells[rng.randrange(len(cells))] = new
        lines[at] = ",".join(cells)
    elif how == "spaces":
        lines[at] = lines[at].replace(" ", rng.choice(SPACES))
    elif how == "shuffle":
        lines[at] = "".join(rng.sample(lines[at], len(lines[at])))
    elif how == "many":
        lines = lines * rng.randrange(2, 30)
    elif how == "odd line":
        lines[at] = rng.choice(LINES)
    else:
        lines[0] = lines[0].upper()
    return "".join(lines)


def attack_annotation(rng, content, is_json):
    """-> what was done to the bytes of an annotation file, the new bytes."""
    draw = rng.random()
    if is_json and draw < 0.5:
        value = changed_json(rng, json.loads(content))
        return "node", json.dumps(value).encode("utf-8", "surrogatepass")
    if not is_json and draw < 0.5:
        text = changed_text(rng, content.decode())
        return "line", text.encode("utf-8", "surrogatepass")
    if draw < 0.6:
        coding = rng.choice(CODINGS)
        return coding, content.decode().encode(coding)
    if draw < 0.65:
        return "deep", b"[" * 200000
    if draw < 0.7:
        return "digits", b"9" * rng.choice([20, 5000, 50000])
    return damaged(rng, content)


# ---- Checkpoints, pickles, pose files ------------------------------------------------------------

class Evil:
    """Unpickled carelessly, it writes the marker."""

    def __init__(self, marker, how):
        self.marker = str(marker)
        self.how = how

    def __reduce__(self):
        if self.how == "system":
            return os.system, (f"touch {self.marker}",)
        if self.how == "open":
            return open, (self.marker, "w")
        return eval, (f"open({self.marker!r}, 'w')",)


def changed_value(rng, value, marker):
    """A copy of a nested dict (of a checkpoint) with one place changed."""
    value = copy.deepcopy(value)
    holder, key = place_within(rng, value, depth=rng.choice([1, 1, 1, 2, 2, 3]), keys=list)
    if rng.random() < 0.3:
        del holder[key]
        return value
    holder[key] = rng.choice([
        None, True, -1, 10 ** 12, "x", [], {}, math.nan,
        torch.zeros(3),
        torch.zeros(2, 2, dtype=torch.complex64),
        torch.zeros(1).expand(10 ** 9),
        torch.zeros(2, 2).to_sparse(),
        torch.zeros(5, dtype=torch.int64),
        [None], {"a": 1}, {3: 4},
        Evil(marker, rng.choice(["system", "open", "eval"])),
        torch.full((2,), math.nan),
        "\ud800", b"bytes", (1, 2)])
    return value


def pickles(marker):
    """Files that are programs, or that ask a careless reader for gigabytes."""
    found = []
    for how in ("system", "open", "eval"):
        for protocol in (0, 2, 4):
            found.append(pickle.dumps(Evil(marker, how), protocol))
    found.append(pickle.dumps({"annotations": [Evil(marker, "open")]}, 2))
    found.append(b"\x80\x02Nr\xff\xff\xff\x7f.")                      # the memo's 2,147,483,647th
    found.append(b"\x80\x02]" + b"(" * 10 ** 6)                       # a million marks
    found.append(b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f" + b"x.")     # bytes of 2 ** 63 - 1
    found.append(b"\x80\x02" + b"]" * 10 ** 5 + b"a" * (10 ** 5 - 1) + b".")    # lists in lists
    found.append(b"cos\nsystem\n(Vtouch " + str(marker).encode() + b"\ntR.")
    found.append(b"\x80\x02cnumpy\nndarray\n(K\x01tR.")
    return found


def deflated(content_of):
    """The bytes of a zip: {name: bytes}, packed."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in content_of.items():
            file.writestr(name, content)
    return out.getvalue()


def saved_bytes(value, **how):
    """The bytes of the file that torch.save would write."""
    out = io.BytesIO()
    torch.save(value, out, **how)
    return out.getvalue()


def npy(array, claim=None):
    """An array as .npy; claim: the shape that its head says instead."""
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    content = out.getvalue()
    if claim:
        old = str(array.shape).encode()
        new = str(claim).encode()
        longer = b" " * (len(new) - len(old))     # taken from the padding: the head keeps its size
        content = content.replace(old + b", }" + longer, new + b", }")
    return content


def odd_array(rng):
    """An array of a kind that no part of a pose file has."""
    return rng.choice([
        np.array("x"),
        np.array([1 + 2j]),
        np.array(["2020-01-01"], "datetime64[s]"),
        np.array(["x" * 9] * 500_000),
        np.zeros(3, [("a", "f4"), ("b", "i8")]),
        np.zeros((), np.float32)])


def pose_bytes(rng, marker):
    """A hostile .npz -> its name, bytes."""
    arrays = {
        "keypoints": np.zeros((12, 17, 2), np.float32),
        "scores": np.ones((12, 17), np.float32),
        "size": np.array([48, 64]),
        "times": np.arange(12) / 25,
        "joints": np.array(trees.COCO),
        "extractor": np.array("me"),
    }
    parts = {f"{name}.npy": npy(array) for name, array in arrays.items()}
    name = rng.choice(sorted(arrays))
    member = f"{name}.npy"
    how = rng.choice(["bytes", "missing", "bomb", "claim", "objects", "kind", "shape", "values",
                      "lie"])
    if how == "missing":
        del parts[member]
    elif how == "bomb":
        parts[member] = npy(np.zeros(36_000_000, np.float64))
    elif how == "claim":
        parts["scores.npy"] = npy(arrays["scores"], claim=(90_000_000, 17))
    elif how == "objects":
        parts[member] = npy(np.array([Evil(marker, "open")] * 3, dtype=object))
    elif how == "kind":
        parts[member] = npy(odd_array(rng))
    elif how == "shape":
        shape = rng.choice([(0,), (12,), (12, 17), (12, 17, 2, 2), (1,) * 30, (13, 17, 2)])
        parts[member] = npy(np.zeros(shape))
    elif how == "values" and arrays[name].dtype.kind == "f":
        number = rng.choice([math.nan, math.inf, -1, 1e38])
        parts[member] = npy(np.full_like(arrays[name], number))
    elif how == "values":
        parts[member] = npy(np.array([10 ** 18, -5]))

    content = deflated(parts)
    if how == "bytes":
        how, content = damaged(rng, content)
    if how == "lie":                              # the directory understates a member
        size = struct.pack("<I", len(parts["keypoints.npy"]))
        content = content.replace(size, struct.pack("<I", 100))
    return f"{how} {name}", content
