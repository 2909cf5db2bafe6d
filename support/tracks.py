"""The person of a clip: boxes of everyone in every frame become tracks, and one track is chosen.

A clip's label is about one person, and a pose file holds one. Detectors and pose programs find
everyone, judges and spectators too, and list them in another order in each frame. No paper says how
the one is chosen; what is done here is ours.

here        | what it does                                    | tests/test_tracks.py
joint_boxes | boxes around joints                             | test_extract.py: test_follow_*
overlaps    | how much two boxes are the same                 | test_overlaps_*
link_people | boxes of all frames -> the person's box in each | test_link_people_*
one_person  | joints of everyone -> the person's joints       | test_import_pickles.py

Letters: T frames, J joints, M persons. A box is x0, y0, x1, y1, in pixels; in this file its score
follows as the fifth number.
"""
from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np


def joint_boxes(keypoints, scores, threshold=0.0):
    """keypoints (..., J, 2), scores (..., J) -> (..., 5): the box around the joints, its score.

    The box holds the joints with a score above `threshold`; its score is the mean over all joints.
    Where fewer than two are seen there is no box: five zeros.
    """
    seen = (scores > threshold)[..., None]                                 # (..., J, 1)
    low = np.where(seen, keypoints, np.inf).min(-2)                        # (..., 2)
    high = np.where(seen, keypoints, -np.inf).max(-2)                      # (..., 2)
    score = scores.mean(-1, keepdims=True)                                 # (..., 1)

    boxes = np.concatenate([low, high, score], -1)                         # (..., 5)
    enough = seen.sum(-2) > 1                                              # (..., 1)
    return np.where(enough, boxes, 0)


def overlaps(a, b):
    """Intersection over union (n, m) of boxes a (n, 4 or more) and b (m, 4 or more)."""
    start_a = a[:, :2]                                                     # (n, 2), x and y
    end_a = a[:, 2:4]
    start_b = b[:, :2]                                                     # (m, 2)
    end_b = b[:, 2:4]

    low = np.maximum(start_a[:, None], start_b)                            # (n, m, 2)
    high = np.minimum(end_a[:, None], end_b)
    sides = np.clip(high - low, 0, None)          # 0 where they do not meet

    both = sides.prod(-1)                                                  # (n, m)
    area_a = (end_a - start_a).prod(-1)                                    # (n,)
    area_b = (end_b - start_b).prod(-1)                                    # (m,)
    either = area_a[:, None] + area_b - both                               # (n, m)
    return both / np.maximum(either, 1e-9)        # boxes without area overlap nothing


@dataclass
class Track:
    """One person through a clip, as far as link_people has followed them."""

    box: np.ndarray | None = None                 # (5,): the last box and its score
    t: int = -1                                   # the frame of that box
    weight: float = 0.0                           # sum over frames of score x area
    at: dict = field(default_factory=dict)        # frame -> number of the box in that frame

    def add(self, t, n, box):
        """The n-th box of frame t is this person's."""
        x0, y0, x1, y1, score = box
        self.box = box
        self.t = t
        self.weight += score * (x1 - x0) * (y1 - y0)
        self.at[t] = n


def link_people(boxes, overlap=0.3, patience=30):
    """T arrays (n, 5) of box and score -> (T,): which box of a frame is the clip's person, or -1.

    A box joins the track whose last box, at most `patience` frames old, it overlaps most, if the
    overlap (intersection over union) is at least `overlap`; other boxes with a score above 0 begin
    tracks. The person is the track with the largest sum of score x area over the clip: frames
    without them count as 0, so that nobody wins by passing close to the camera.
    """
    tracks = []
    for t, now in enumerate(boxes):
        live = [track for track in tracks if t - track.t <= patience]
        joined = match(live, now, overlap)

        for n in range(len(now)):
            if n in joined:
                joined[n].add(t, n, now[n])
            elif now[n, 4] > 0:
                newcomer = Track()
                newcomer.add(t, n, now[n])
                tracks.append(newcomer)

    picks = np.full(len(boxes), -1)
    if tracks:
        person = max(tracks, key=attrgetter("weight"))
        for t, n in person.at.items():
            picks[t] = n
    return picks


def match(live, now, overlap):
    """The boxes of one frame that go on with a track: number of the box -> Track.

    live: list of Track. now: (n, 5). The best pair goes first; each box and track is taken once.
    """
    last_boxes = np.array([track.box for track in live]).reshape(-1, 5)
    fit = overlaps(last_boxes, now)                                        # (tracks, n)
    best_first = np.argsort(-fit, axis=None, kind="stable")

    joined = {}
    taken = set()
    for pair in best_first:
        k, n = divmod(int(pair), len(now))        # number of the track, of the box
        if k in taken or n in joined:
            continue
        if now[n, 4] > 0 and fit[k, n] >= overlap:
            taken.add(k)
            joined[n] = live[k]
    return joined


def finite(numbers):
    """As float32, 0 where a number is not finite."""
    return np.nan_to_num(np.float32(numbers), posinf=0, neginf=0)


def one_person(keypoints, scores):
    """Persons without order, (M, T, J, 2) and (M, T, J) -> the clip's person (T, J, 2), (T, J).

    Frames without them are 0, and so are joints of which a number is not finite: they are missing.
    Where a clip holds one person there is nothing to choose, and a jump, as at a cut, does not end
    the track.
    """
    M, T = np.shape(scores)[:2]
    has_place = np.isfinite(keypoints).all(-1)                             # (M, T, J)
    scores = finite(scores) * has_place
    keypoints = finite(keypoints) * has_place[..., None]
    if M < 2:
        return keypoints.sum(0), scores.sum(0)    # the only person, or zeros where M is 0

    boxes = joint_boxes(keypoints, scores).swapaxes(0, 1)                  # (T, M, 5)
    picks = link_people(boxes)                                             # (T,)

    # Where nobody was picked, -1 reads the last person, and the product makes that 0.
    there = (picks >= 0)[:, None]                                          # (T, 1)
    keypoints = keypoints[picks, range(T)] * there[..., None]              # (T, J, 2)
    scores = scores[picks, range(T)] * there                               # (T, J)
    return keypoints, scores
