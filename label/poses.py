"""The joints of a video that somebody wants labelled: found beside it, or extracted and kept.

here      | what it does                                        | tests/test_label.py
pose_of   | a video file -> its PoseClip, and where it is from  | test_poses_are_found_or_made
kept_name | name of the pose file that was made of a video      | test_poses_are_made_once_*
"""
import hashlib
import sys
from pathlib import Path

from pose import extract, read_pose, ready_extractor, write_pose


def kept_name(video, extractor):
    """File name of the poses that `extractor` made of this very file: another file of the same
    name, or the same file changed, has another one."""
    video = Path(video).resolve()
    about = video.stat()
    key = f"{video} {about.st_size} {about.st_mtime_ns} {extractor}"
    return f"{video.stem}-{hashlib.sha256(key.encode()).hexdigest()[:8]}.npz"


def ready_file(video):
    """The pose file that lies where one is expected, None where there is none."""
    video = Path(video)
    name = video.with_suffix(".npz").name
    for folder in (video.parent, video.parent / "poses", video.resolve().parent.parent / "poses"):
        if (folder / name).exists():
            return folder / name
    return None


def pose_of(video, folder, given="", extractor=""):
    """The PoseClip of a video file, and a few words that say where it is from.

    given: its pose file, where the caller knows it. Else FILE.npz beside FILE.mp4, or in `poses/`
    beside it or beside its folder, as data sets are laid; else what an earlier call left in
    `folder`; else the joints are found now, and kept there. folder: a Path.
    extractor: a name of pose.EXTRACTORS, empty: the first that is ready.

    Raises ValueError where no extractor is there (it names the one command that installs one) and
    for a damaged pose file or video; FileNotFoundError for a `given` file that is not there.
    """
    path = Path(given) if given else ready_file(video)
    if path:
        clip = read_pose(path)
        return clip, f"poses from {path} ({clip.extractor or 'unknown extractor'})"

    extractor = extractor or ready_extractor()
    path = Path(folder) / kept_name(video, extractor)
    if path.exists():
        return read_pose(path), f"poses by {extractor}, made before"

    print(f"finding joints in {video} by {extractor} ...", file=sys.stderr, flush=True)
    clip = extract(video, extractor)
    write_pose(path, **vars(clip))
    return clip, f"poses by {extractor}"
