"""support/person.py, quiet.py, packages.py: how much of a person there is, and what stays off the screen."""
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.packages import has_package, optional_package
from support.person import ENOUGH, JOINTS_OF_A_PERSON, SEEN, PersonFacts, person_facts, summarise, together
from support.quiet import no_chatter


def clip(seen_frames, T=10, J=8, at=(0.0, 0.0)):
    """A square of joints at `at` in the first `seen_frames` frames, nobody in the others."""
    keypoints = np.zeros((T, J, 2)) + at + np.linspace(0, 10, J)[:, None]
    scores = np.zeros((T, J))
    scores[:seen_frames] = 0.8
    return keypoints, scores


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10**6))
def test_facts_match_a_slow_count(T, J, seed):
    rng = np.random.default_rng(seed)
    keypoints, scores = rng.uniform(0, 20, (T, J, 2)), rng.uniform(0, 1, (T, J)) * (rng.random((T, J)) > 0.4)
    got = person_facts(keypoints, scores)
    there = [t for t in range(T) if sum(scores[t] > SEEN) >= max(JOINTS_OF_A_PERSON * J, 1)]
    assert got.frames == T and got.present == pytest.approx(len(there) / T)
    if not there:
        assert (got.score, got.lost, got.changes) == (0, 1, 0)
        return
    assert got.score == pytest.approx(np.mean([scores[t, j] for t in there for j in range(J)]))
    assert got.lost == pytest.approx(np.mean([not scores[t, j] > SEEN for t in there for j in range(J)]))
    changes = 0
    for a, b in zip(there, there[1:]):
        boxes = []
        for t in (a, b):
            points = keypoints[t][scores[t] > SEEN]
            boxes.append((points.min(0), points.max(0)) if len(points) > 1 else (np.zeros(2), np.zeros(2)))
        (low_a, high_a), (low_b, high_b) = boxes
        changes += not all(high_a[i] >= low_b[i] and high_b[i] >= low_a[i] for i in range(2))
    assert got.changes == changes


def test_facts_of_nobody():
    got = person_facts(*clip(0))
    assert got.present == 0 and "no person found in 100 % of the frames" in got.warning
    assert str(got) == "no person found in any of 10 frames"


def test_half_of_the_frames_is_enough():
    """Ours: from half on a clip is believed, below it is told with the figure."""
    assert ENOUGH == 0.5 and person_facts(*clip(5)).warning == ""
    assert "no person found in 60 % of the frames" in person_facts(*clip(4)).warning


def test_another_person_is_a_change():
    keypoints, scores = clip(10)
    assert person_facts(keypoints, scores).changes == 0
    keypoints[4:] += 200                                   # elsewhere from frame 4 on
    assert person_facts(keypoints, scores).changes == 1
    assert "1 sudden changes" in str(person_facts(keypoints, scores))


def test_summary_names_faint_clips():
    facts = {"good": person_facts(*clip(10)), "faint": person_facts(*clip(2))}
    lines = summarise(facts)
    assert "a person in 60 % of 20 frames" in lines[0] and "mean score of 0.80" in lines[0]
    assert "1 of 2 clips show no person in more than 50 % of their frames: faint" in lines[1]
    assert len(summarise({"good": facts["good"]})) == 1 and summarise({}) == []


def test_clips_together_count_each_frame_once():
    """The facts of two clips are those of one clip made of both, but for the seam."""
    parts = [clip(8, T=20), clip(6, T=6, J=8)]
    parts[1][1][:, :3] = 0                                  # three joints lost, another score
    joined = person_facts(np.concatenate([k for k, _ in parts]), np.concatenate([s for _, s in parts]))
    got = together({str(i): person_facts(*part) for i, part in enumerate(parts)})
    for name in ("frames", "present", "changes", "score", "lost"):
        assert getattr(got, name) == pytest.approx(getattr(joined, name)), name
    nobody = PersonFacts(frames=7, present=0.0, changes=0, score=0.0, lost=1.0)
    assert together({"a": nobody}) == nobody and together({}).frames == 0


def test_chatter_is_kept_off_the_screen(capfd):
    """What C++ writes to file descriptor 2 is gone; what comes afterwards is not, even after an error."""
    with pytest.raises(KeyError), no_chatter():
        os.write(2, b"from C++")
        raise KeyError
    os.write(2, b"afterwards")
    assert capfd.readouterr().err == "afterwards"


def test_missing_package_names_its_command():
    with pytest.raises(ValueError, match=r"cannot import not_there.*pip install 'not-there==1'"):
        optional_package("not_there", "not-there==1")
    assert has_package("json") and not has_package("not_there")
