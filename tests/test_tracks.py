"""support/tracks.py: boxes of everyone in every frame become tracks, and one person is chosen.

Boxes are x0, y0, x1, y1, score, in pixels. `one_person`, which chooses among joints, is shown on a
public file in test_import_pickles.py, and boxes around joints where they are followed, in
test_extract.py.
"""
import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from strategies import seeds
from support import tracks


def moving_box(frames, x, y, side, step):
    """A square box for each frame, `step` pixels further to the right each time."""
    boxes = []
    for t in range(frames):
        left = x + step * t
        boxes.append(np.array([left, y, left + side, y + side, 0.9]))
    return boxes


@given(seed=seeds, T=st.integers(2, 12))
def test_link_people_follows_the_largest_in_any_order(seed, T):
    """Two people in changing order; in a gap only the small one is there, and nobody is picked."""
    rng = np.random.default_rng(seed)
    large = moving_box(T, x=10, y=10, side=40, step=4.0)
    small = moving_box(T, x=150, y=10, side=20, step=-4.0)

    frames = []
    want = []
    for t in range(T):
        large_comes_first = rng.random() < 0.5
        is_gap = rng.random() < 0.2 and t > 0
        if is_gap:
            frames.append(np.array([small[t]]))
            want.append(-1)
        elif large_comes_first:
            frames.append(np.array([large[t], small[t]]))
            want.append(0)
        else:
            frames.append(np.array([small[t], large[t]]))
            want.append(1)
    assume(want.count(-1) <= T // 2)              # else the small one is there for longer

    assert tracks.link_people(frames).tolist() == want


def test_link_people_prefers_the_clip_to_a_passer_by():
    """A box five times as large, in one frame of twenty, does not win."""
    athlete = moving_box(20, x=10, y=10, side=40, step=4.0)
    passer = np.array([300, 300, 390, 390, 0.9])

    frames = [np.array([box]) for box in athlete]
    frames[7] = np.array([athlete[7], passer])
    assert tracks.link_people(frames).tolist() == [0] * 20


def test_link_people_picks_nobody_where_nobody_is():
    """Frames without a box, a box of score 0, a clip without frames."""
    no_box = np.zeros((0, 5))
    assert tracks.link_people([no_box, no_box, no_box]).tolist() == [-1, -1, -1]

    box_of_score_0 = np.array([[0, 0, 9, 9, 0.0]])
    assert tracks.link_people([box_of_score_0]).tolist() == [-1]

    assert tracks.link_people([]).tolist() == []


def box(left):
    """A square of 10 pixels, `left` of the edge, surely a person."""
    return [left, 0, left + 10, 10, 0.9]


def test_link_people_joins_the_best_pair_first():
    """Each box overlaps both people of the frame before by a third at least, and one by more."""
    before = np.array([box(0), box(6)])
    before[0, 4] = 1.0                            # who counts for more is followed
    after = np.array([box(5), box(1)])
    assert tracks.link_people([before, after]).tolist() == [0, 1]


def test_link_people_ends_a_track_at_another_place():
    """Overlaps of 7 / 13 and 3 / 17: the first is the same person, the second is not."""
    assert tracks.link_people([np.array([box(0)]), np.array([box(3)])]).tolist() == [0, 0]
    assert tracks.link_people([np.array([box(0)]), np.array([box(7)])]).tolist() == [0, -1]


def test_link_people_waits_for_thirty_frames():
    """Who comes back to the same place in time is the same person, later somebody else."""
    here = np.array([box(0)])
    nobody = np.zeros((0, 5))
    assert tracks.link_people([here, *[nobody] * 29, here])[-1] == 0
    assert tracks.link_people([here, *[nobody] * 30, here])[-1] == -1


def test_overlaps_are_areas():
    """Half of two equal squares is common: 50 of 150 pixels. Boxes that do not meet: 0."""
    boxes = np.array([[0, 0, 10, 10, 1], [20, 20, 30, 30, 1]])
    other = np.array([[5, 0, 15, 10, 1]])
    assert np.allclose(tracks.overlaps(boxes, other), [[50 / 150], [0]])


@given(people=st.integers(1, 3), bad=st.sampled_from([np.nan, np.inf, -np.inf]),
       axis=st.integers(0, 1))
def test_a_joint_without_a_place_is_missing(people, bad, axis):
    """One number that is not finite: the joint has score 0, and the others stay."""
    keypoints = np.full((people, 4, 17, 2), 30.0)
    keypoints += np.arange(17)[:, None] + 100 * np.arange(people)[:, None, None, None]
    scores = np.ones((people, 4, 17))
    keypoints[:, 2, 5, axis] = bad
    found, seen = tracks.one_person(keypoints, scores)
    assert seen[2, 5] == 0, "a joint at no place counts as seen"
    assert not found[2, 5].any()
    assert seen.sum() == 4 * 17 - 1
