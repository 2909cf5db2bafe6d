"""support/person.py, quiet.py and packages.py: how much of a person a pose clip holds, what is
written past Python is kept off the screen, and a missing package is told with its command.
"""
import os
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import seeds
from support.packages import has_package, optional_package
from support.person import (ENOUGH, JOINTS_OF_A_PERSON, SEEN, PersonFacts, faint, person_facts,
                            summarise, together)
from support.quiet import no_chatter

# ---- Facts of one clip ---------------------------------------------------------------------------


def clip(seen_frames, frames=10, joints=8):
    """Keypoints and scores: joints on a slope in the first `seen_frames` frames, nobody after."""
    slope = np.linspace(0, 10, joints)
    keypoints = np.zeros((frames, joints, 2)) + slope[:, None]
    scores = np.zeros((frames, joints))
    scores[:seen_frames] = 0.8
    return keypoints, scores


def box_of(points):
    """Low and high corner of the joints that are seen; of a single one there is no box: zeros."""
    if len(points) < 2:
        return np.zeros(2), np.zeros(2)
    return points.min(0), points.max(0)


def touch(first, second):
    """Whether two boxes have a point in common."""
    first_low, first_high = first
    second_low, second_high = second
    return (first_high >= second_low).all() and (second_high >= first_low).all()


@given(T=st.integers(1, 6), J=st.integers(1, 6), seed=seeds)
def test_facts_match_a_slow_count(T, J, seed):
    """Frame by frame: is a quarter of the joints there, and does the box touch the one before?"""
    rng = np.random.default_rng(seed)
    keypoints = rng.uniform(0, 20, (T, J, 2))
    found = rng.random((T, J)) > 0.4
    scores = rng.uniform(0, 1, (T, J)) * found
    got = person_facts(keypoints, scores)

    there = []                                    # frames with a person
    for t in range(T):
        seen = sum(score > SEEN for score in scores[t])
        if seen >= 1 and seen >= JOINTS_OF_A_PERSON * J:
            there.append(t)
    assert got.frames == T
    assert got.present == pytest.approx(len(there) / T)
    if not there:
        assert got == PersonFacts(frames=T, present=0.0, changes=0, score=0.0, lost=1.0)
        return

    total = 0.0
    lost = 0
    for t in there:
        for score in scores[t]:
            total += score
            lost += score <= SEEN
    assert got.score == pytest.approx(total / (len(there) * J))
    assert got.lost == pytest.approx(lost / (len(there) * J))

    boxes = [box_of(keypoints[t][scores[t] > SEEN]) for t in there]
    changes = 0
    for before, after in pairwise(boxes):
        if not touch(before, after):
            changes += 1
    assert got.changes == changes


def test_facts_of_nobody():
    """A clip without any person has facts, too, and says so in both of its sentences."""
    got = person_facts(*clip(seen_frames=0))
    assert got.present == 0
    assert "no person found in 100 % of the frames" in got.warning
    assert str(got) == "no person found in any of 10 frames"


def test_half_of_the_frames_is_enough():
    """Ours: from half on a clip is believed, below it is told with the figure."""
    assert ENOUGH == 0.5
    assert person_facts(*clip(seen_frames=5)).warning == ""
    assert "no person found in 60 % of the frames" in person_facts(*clip(seen_frames=4)).warning


def test_another_person_is_a_change():
    """From frame 4 on the joints are elsewhere, in a box that does not touch the one before."""
    keypoints, scores = clip(seen_frames=10)
    assert person_facts(keypoints, scores).changes == 0

    keypoints[4:] += 200
    got = person_facts(keypoints, scores)
    assert got.changes == 1
    assert "1 sudden changes" in str(got)


# ---- Facts of many clips -------------------------------------------------------------------------


def test_summary_names_faint_clips():
    """One line for all clips; a second one only where some show nobody for too long."""
    good = person_facts(*clip(seen_frames=10))
    weak = person_facts(*clip(seen_frames=2))
    facts = {"good": good, "faint": weak}
    assert faint(facts) == ["faint"]

    all_clips, doubtful = summarise(facts)
    assert "a person in 60 % of 20 frames" in all_clips
    assert "mean score of 0.80" in all_clips
    assert "1 of 2 clips show no person in more than 50 % of their frames: faint" in doubtful

    assert len(summarise({"good": good})) == 1
    assert summarise({}) == []


def test_clips_together_count_each_frame_once():
    """The facts of two clips are those of one clip made of both: a long one weighs more."""
    long_keypoints, long_scores = clip(seen_frames=8, frames=20)
    short_keypoints, short_scores = clip(seen_frames=6, frames=6)
    short_scores[:, :3] = 0                       # three joints lost, and another mean score

    got = together({
        "long": person_facts(long_keypoints, long_scores),
        "short": person_facts(short_keypoints, short_scores),
    })
    want = person_facts(
        np.concatenate([long_keypoints, short_keypoints]),
        np.concatenate([long_scores, short_scores]),
    )
    for name in ("frames", "present", "changes", "score", "lost"):
        assert getattr(got, name) == pytest.approx(getattr(want, name)), name


def test_changes_of_clips_are_added():
    """Those within the clips: that one clip ends here and another begins there is none."""
    keypoints, scores = clip(seen_frames=10)
    still = person_facts(keypoints, scores)
    keypoints[4:] += 200
    changed = person_facts(keypoints, scores)
    assert together({"a": changed, "b": still, "c": changed}).changes == 2


def test_clips_of_nobody_together_are_nobody():
    """No frame with a person, so nothing to take a mean of; the same without any clip."""
    nobody = PersonFacts(frames=7, present=0.0, changes=0, score=0.0, lost=1.0)
    assert together({"a": nobody}) == nobody
    assert together({}) == PersonFacts(frames=0, present=0.0, changes=0, score=0.0, lost=1.0)


# ---- Packages ------------------------------------------------------------------------------------


def test_chatter_is_kept_off_the_screen(capfd):
    """What C++ writes to file descriptor 2 is gone; what comes afterwards is not, nor the error."""
    with pytest.raises(KeyError), no_chatter():
        os.write(2, b"from C++")
        raise KeyError
    os.write(2, b"afterwards")
    assert capfd.readouterr().err == "afterwards"


def test_missing_package_names_its_command():
    """The error has the command that installs it; has_package asks without importing."""
    with pytest.raises(ValueError, match=r"cannot import not_there.*pip install 'not-there==1'"):
        optional_package("not_there", "not-there==1")
    assert has_package("json")
    assert not has_package("not_there")
