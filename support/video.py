"""Decoding a few frames of a video: exactly the ones that are wanted, and little else.

A clip of ten seconds has 250 frames and a model looks at 16. FFmpeg can jump to a key frame but not
to a frame, and what files say of their own times is not always true; so this file first reads the
compressed packets, which costs little, then decodes from key frame to wanted frame, and where the
times cannot be trusted, everything in order. Files of other people are also broken in every way:
whatever FFmpeg can make of one is an error of `BROKEN`, and what is no regular file, such as a pipe
that never ends, is not opened.

`open_video`, through which pose.py looks at videos too, also refuses frames of absurd sizes
(tests/test_robustness.py: test_open_video_*).

here       | what it promises                                      | tests/test_video.py
decode     | the frames that decoding everything would give        | test_decode_*
Span       | a clip inside a longer file                           | test_decode_span_equals_slice
BROKEN     | what a strange or damaged file can raise              | test_decode_names_the_fault_*

Letters: H, W height and width of a frame as it is in the file, h, w those that it is converted to;
n the frames of a clip. A tick is the file's unit of time (`stream.time_base` seconds).
"""
import math
import os
import stat
from bisect import bisect_right
from contextlib import contextmanager
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from support.sampling import between

# What a damaged file can raise: such a clip is named and replaced, and the run goes on. Python's
# own MemoryError is not among these, for it says something of the machine; one of FFmpeg's is an
# av.FFmpegError, and comes from a header that asks for absurd sizes.
BROKEN = (OSError, ValueError, EOFError, av.FFmpegError)


class Span(NamedTuple):
    """The part of a file that a clip is; by default all of it."""
    start: float = 0.0        # first instant or frame that belongs to it
    end: float = math.inf     # first one that does not
    unit: str = "s"           # of both: "s" seconds since the file's first frame, "f" frames


class FrameTable(NamedTuple):
    """What a file says of a clip's frames before any of them is decoded."""
    packets: list             # the compressed packets that the clip can need, in file order
    ticks: np.ndarray         # (m,) int64, ascending: the times of all their frames
    inside: range             # which of these frames belong to the clip


def read_packets(container, stream, clip):
    """The packets of a stream that a clip can need, a list in file order. Nothing is decoded."""
    tick = float(stream.time_base)                # seconds
    origin = stream.start_time or 0
    start, end = (clip.start, clip.end) if clip.unit == "s" else (0, math.inf)

    if start and can_jump(container):             # to a key frame; a second early: B-frames
        stamp = int(origin + (start - 1) / tick)
        container.seek(max(stamp, origin), stream=stream)

    packets = []
    for packet in container.demux(stream):
        if not packet.size:                       # the mark for the end of the file holds nothing
            continue
        packets.append(packet)
        is_beyond = packet.dts is not None and (packet.dts - origin) * tick > end + 1
        if is_beyond:
            break

    is_whole = (clip.start, clip.end) == (0, math.inf)
    promised = stream.frames if is_whole else 1   # by the header; 0 where it does not say
    if len(packets) < max(0.9 * promised - 1, 1):
        raise ValueError(f"truncated: {len(packets)} of {max(promised, 1)} frames are there")
    return packets


def can_jump(container):
    """True where the container's times can be trusted; an AVI has none but the frames' numbers."""
    return container.format.name != "avi"


def packet_tick(packet, number):
    """When a packet's frame is shown; else when it is decoded; else its number in the file."""
    if packet.pts is not None:
        return packet.pts
    if packet.dts is not None:
        return packet.dts
    return number


def list_frames(container, stream, clip):
    """The FrameTable of a clip. Raises ValueError where no frame belongs to it."""
    packets = read_packets(container, stream, clip)
    ticks = []
    for number, packet in enumerate(packets):
        if not packet.is_discard:                 # an edit list may hide frames
            ticks.append(packet_tick(packet, number))
    if not ticks:
        raise ValueError("all of its frames are marked as hidden")
    ticks = np.array(sorted(ticks))

    if clip.unit == "s":
        # Seconds count from the first frame, which is only there when the file was read from its
        # beginning; after a jump the stream's own start stands in for it.
        has_jumped = clip.start and can_jump(container)
        origin = (stream.start_time or 0) if has_jumped else ticks[0]
        seconds = (ticks - origin) * float(stream.time_base)
        belongs = between(seconds, clip.start, clip.end)
    else:
        last = None if clip.end == math.inf else int(clip.end)
        belongs = slice(int(clip.start), last)
    inside = range(len(ticks))[belongs]

    if not inside:
        raise ValueError(f"no frame between {clip.start:g} and {clip.end:g} {clip.unit} in "
                         f"{len(ticks)} frames")
    return FrameTable(packets, ticks, inside)


def decode_by_key_frames(context, packets, wanted):
    """Yield (time, frame) of the wanted times, and of others on the way, with little work.

    A frame is built from the key frame before it. So each wanted frame is decoded from its key
    frame on, and on the way frames that no other frame refers to are skipped.
    """
    keys = [number for number, packet in enumerate(packets) if packet.is_keyframe] or [0]
    key_times = [packets[number].pts for number in keys]

    runs = {}                                     # number of a key frame -> where its run ends
    for number, packet in enumerate(packets):
        if packet.pts in wanted:
            last_key_before = max(bisect_right(key_times, packet.pts) - 1, 0)
            runs[keys[last_key_before]] = number + 1

    for first, last in runs.items():
        for packet in packets[first:last]:
            context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            for frame in context.decode(packet):
                yield frame.pts, frame
        for frame in context.decode(None):        # what the decoder still holds back
            yield frame.pts, frame
        context.flush_buffers()


def decode_through(context, table, has_times, wanted):
    """Yield (wanted time, frame) by decoding every frame in the order in which they are shown.

    That order is right even where the container's times are not. has_times: whether a decoded
    frame's own time can be trusted; if not, its place among the sorted times says when it is shown.
    A wanted time without a frame of its own gets the next one, or the last. Raises ValueError where
    more than a tenth of the frames cannot be decoded.
    """
    context.skip_frame = "DEFAULT"
    ticks = table.ticks
    pending = sorted(wanted)
    count = 0
    frame = None
    for packet in [*table.packets, None]:         # None: what the decoder still holds back
        for frame in context.decode(packet):
            if has_times:
                when = frame.pts
            else:
                when = ticks[min(count, len(ticks) - 1)]
            while pending and pending[0] <= when:
                yield pending.pop(0), frame
            count += 1
        if not pending:
            return

    if count < max(0.9 * len(ticks) - 1, 1):
        raise ValueError(f"truncated: {count} of {len(ticks)} frames can be decoded")
    for when in pending:
        yield when, frame


def quarter_turns(frame):
    """By how many quarter turns to the left a decoded frame is shown upright, 0 to 3.

    A phone's file says it in degrees, which may be a little off.
    """
    return round(frame.rotation / 90) % 4


class Upright:
    """Turns a decoded frame into an image: upright, RGB, of the size that `plan` says."""

    def __init__(self, plan):
        self.plan = plan
        self.converter = VideoReformatter()       # keeps its tables from one frame to the next

    def __call__(self, frame):
        """-> uint8 (h, w, 3)."""
        if max(frame.width, frame.height) > MOST_RATIO * min(frame.width, frame.height):
            raise ValueError(f"frames of {frame.width} x {frame.height} pixels. Expected sides of "
                             f"1 : {MOST_RATIO} at most")

        turns = quarter_turns(frame)
        if turns % 2:
            h, w = self.plan(frame.width, frame.height)
            width, height = h, w
        else:
            h, w = self.plan(frame.height, frame.width)
            width, height = w, h
        image = self.converter.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()
        return np.rot90(image, turns)


def decode(path, pick, plan, clip=Span(), threads=1):
    """Decode a few frames of a clip -> the wanted frames, the instants of all its frames.

    pick(instants): from the instants (n,), seconds since the clip's first frame, to the indices of
    the wanted frames, in any order, repeats allowed.
    plan(H, W): from the size of an upright frame to the size (h, w) that it is converted to.
    clip: a Span, or anything that has its three fields.
    threads: that FFmpeg may use.

    Returns a list of uint8 arrays (h, w, 3) in the order of `pick`, and float64 (n,).

    Packets are read without decoding them, so that all times are known at once; a wanted frame then
    costs the frames that it is built from, and one conversion that changes its size as well.

    Raises one of BROKEN for a file that is no video, a damaged one, and whatever else FFmpeg can
    make of it.
    """
    with open_video(path) as (container, stream):
        return decode_container(container, stream, pick, plan, clip, threads)


# The largest frame that is decoded, pixels: 8K as cinemas have it. A decoder holds a dozen frames,
# and a file of a few bytes can claim 16384 x 16384. And the longest: a frame is converted to a
# given short side, so that its long side must be in some proportion to it.
MOST_PIXELS = 8192 * 4320
MOST_RATIO = 32

# A file of one of these kinds only names other files, or addresses, that FFmpeg would then open.
LISTS = {"concat", "hls", "dash", "sdp", "rtsp", "imf", "image2", "webm_dash_manifest"}


@contextmanager
def open_video(path):
    """Open a video file for a block -> its container, its first video stream.

    Whatever the block raises but MemoryError is one of BROKEN afterwards: no list of what a strange
    file leads to is whole. Raises one of BROKEN for what is no regular file, has no video of a
    known codec in it, or too large frames.
    """
    # A pipe or a device would be waited for, perhaps for ever.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{path} is no regular file. Expected a video. Copy it to a file.")

    options = {"protocol_whitelist": "file", "max_pixels": str(MOST_PIXELS)}
    try:
        # The whole path: FFmpeg would read a relative "a:b.mp4" as an address.
        with av.open(os.path.abspath(path), options=options) as container:
            yield container, video_stream(container)
    except (MemoryError, *BROKEN):
        raise
    except Exception as error:
        raise ValueError(f"cannot be decoded ({type(error).__name__}: {error})") from error


def video_stream(container):
    """The first video stream of an open file; ValueError where there is none that can be used."""
    if LISTS & set(container.format.name.split(",")):
        raise ValueError(f"it is no video but a list of other files ({container.format.name})")
    if not container.streams.video:
        raise ValueError("there is no video in it")

    stream = container.streams.video[0]
    context = stream.codec_context
    if context is None:
        raise ValueError("its codec is not known to FFmpeg")
    if not 0 < context.width * context.height <= MOST_PIXELS:
        raise ValueError(f"frames of {context.width} x {context.height} pixels, or of no known "
                         f"size. Expected at most {MOST_PIXELS} pixels")
    context.options = {"max_pixels": str(MOST_PIXELS)}        # a later frame can be larger
    return stream


def decode_container(container, stream, pick, plan, clip, threads):
    """The part of `decode` that has an open file; arguments and result are the same."""
    context = stream.codec_context
    context.thread_type = "AUTO"
    context.thread_count = threads

    table = list_frames(container, stream, clip)
    own = table.ticks[table.inside.start:table.inside.stop]               # (n,)
    instants = (own - own[0]) * float(stream.time_base)                   # (n,)
    wanted = own[np.asarray(pick(instants))].tolist()

    upright = Upright(plan)
    frames = {}                                   # time -> image
    has_times = can_jump(container) and all(packet.pts is not None for packet in table.packets)
    if has_times:
        for when, frame in decode_by_key_frames(context, table.packets, set(wanted)):
            if when in wanted and when not in frames:
                frames[when] = upright(frame)

    missing = set(wanted) - set(frames)
    if missing:
        context.flush_buffers()
        for when, frame in decode_through(context, table, has_times, missing):
            frames[when] = upright(frame)
    return [frames[when] for when in wanted], instants
