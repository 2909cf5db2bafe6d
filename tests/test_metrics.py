"""report/metrics.py against brute force: of a few clips every resample is listed, one by one.

The bootstrap draws 10,000 resamples at random; of four clips there are only 4^4, each as likely, so
that the exact distribution is known. Its quantiles, shares and differences are what the drawn ones
must come near to. McNemar's test and Wilson's interval are checked by what defines them.
"""
import doctest
import itertools
import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from report import metrics


class Answered(NamedTuple):
    """A clip: its label, and whether systems A and B had it right."""
    label: int
    hit_a: bool
    hit_b: bool


CLIPS = st.lists(st.builds(Answered, st.integers(0, 2), st.booleans(), st.booleans()),
                 min_size=1, max_size=4)


# ---- The bootstrap, listed -----------------------------------------------------------------------

def slow_top1(labels, hits):
    """The share of the clips that were hit."""
    return sum(hits) / len(hits)


def slow_mean(labels, hits):
    """The mean over the labels that occur of the share of their own clips."""
    shares = []
    for k in set(labels):
        own = [hit for label, hit in zip(labels, hits) if label == k]
        shares.append(sum(own) / len(own))
    return sum(shares) / len(shares)


SLOW = {"top1": slow_top1, "mean": slow_mean}


def all_resamples(clips):
    """Every way to draw as many clips with replacement: n^n lists."""
    return itertools.product(clips, repeat=len(clips))


def figure_of(clips, metric):
    """The metric of system A."""
    labels = [clip.label for clip in clips]
    return SLOW[metric](labels, [clip.hit_a for clip in clips])


def difference_of(clips, metric):
    """The metric of system A less that of B."""
    labels = [clip.label for clip in clips]
    a = SLOW[metric](labels, [clip.hit_a for clip in clips])
    b = SLOW[metric](labels, [clip.hit_b for clip in clips])
    return a - b


def at_share(figures, share):
    """Of sorted figures the one behind that share of them."""
    place = math.floor(share * len(figures))
    return figures[min(max(place, 0), len(figures) - 1)]


def check_edges(interval, figures):
    """Both edges lie where 2.5 % of all figures lie outside, give or take what drawing leaves open.

    10,000 draws: 5 deviations of a share of 0.025 are 0.008; the slack is a little more.
    """
    slack = 0.012
    figures = sorted(figures)
    for edge, share in ((interval.low, 0.025), (interval.high, 0.975)):
        low = at_share(figures, share - slack)
        high = at_share(figures, share + slack)
        assert low - 1e-9 <= edge <= high + 1e-9, f"the edge {edge} is not in {low} to {high}"


@pytest.mark.parametrize("metric", ["top1", "mean"])
@settings(max_examples=20)
@given(clips=CLIPS)
def test_interval_is_that_of_all_resamples(metric, clips):
    """n^n resamples, each as likely: the interval's edges are quantiles of their figures."""
    labels = [clip.label for clip in clips]
    got = metrics.interval(labels, [clip.hit_a for clip in clips], metric)
    assert got.value == pytest.approx(figure_of(clips, metric))
    check_edges(got, [figure_of(draw, metric) for draw in all_resamples(clips)])


@pytest.mark.parametrize("metric", ["top1", "mean"])
@settings(max_examples=20)
@given(clips=CLIPS)
def test_compare_is_that_of_all_resamples(metric, clips):
    """Two systems on the same draws: their difference, and its edges."""
    labels = [clip.label for clip in clips]
    hits_a = [clip.hit_a for clip in clips]
    hits_b = [clip.hit_b for clip in clips]
    got = metrics.compare(labels, hits_a, hits_b, metric)
    assert got.value == pytest.approx(difference_of(clips, metric))
    check_edges(got, [difference_of(draw, metric) for draw in all_resamples(clips)])


def test_interval_is_the_binomials_for_many_clips():
    """Of 400 clips, 300 right: 75 % +- 1.96 sqrt(0.75 x 0.25 / 400) = 4.2 points, at every call."""
    labels = [0] * 400
    hits = [True] * 300 + [False] * 100
    got = metrics.interval(labels, hits)
    assert got.value == 0.75
    assert got.low == pytest.approx(0.7076, abs=0.004)
    assert got.high == pytest.approx(0.7924, abs=0.004)
    assert got == metrics.interval(labels, hits), "another interval at another call"


def test_compare_pairs_clips():
    """Equal top-1: on other clips the difference is 0 with a width, on the same without any."""
    labels = [0] * 100
    hits = [True] * 50 + [False] * 50
    same = metrics.compare(labels, hits, hits)
    assert tuple(same) == (0, 0, 0)

    other = metrics.compare(labels, hits, hits[::-1])
    assert other.value == 0
    assert other.low < -0.15
    assert other.high > 0.15


# ---- McNemar and Wilson --------------------------------------------------------------------------

@given(st.integers(0, 7), st.integers(0, 7))
def test_mcnemar_by_tossing_every_coin(only_a, only_b):
    """Of all 2^n ways in which n clips could fall, those at least as uneven."""
    n = only_a + only_b
    uneven = abs(only_a - only_b)
    as_uneven = []
    for coins in itertools.product((0, 1), repeat=n):
        difference = abs(2 * sum(coins) - n)
        as_uneven.append(difference >= uneven)
    assert metrics.mcnemar(only_a, only_b) == pytest.approx(np.mean(as_uneven))


@given(st.integers(1, 30).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_solves_its_equation(counts):
    """The edges are the shares p at which |right / n - p| is 1.96 deviations of p; else 0 or 1."""
    right, n = counts
    low, high = metrics.wilson(right, n)
    assert low <= right / n <= high
    for edge, is_bound in ((low, right == 0), (high, right == n)):
        if is_bound:
            assert edge == right / n
        else:
            deviation = math.sqrt(edge * (1 - edge) / n)
            assert abs(right / n - edge) == pytest.approx(1.959964 * deviation, abs=1e-6)


# ---- Tables by class -----------------------------------------------------------------------------

# What clips of four labels were answered with: (label, answer), the answer None for a broken clip.
ANSWERS = st.lists(st.tuples(st.integers(0, 3), st.none() | st.integers(0, 3)), max_size=15)


@given(ANSWERS)
@example([(0, 1), (0, 2), (0, 2), (0, None)])             # unequally many of two mistakes
def test_class_rows_match_a_slow_count(answers):
    """A row for each label that has clips, counted one by one; worst first."""
    names = ["a", "b", "c", "d"]
    predictions = [{"label": label, "predicted": answer} for label, answer in answers]
    rows = metrics.class_rows(predictions, names)
    assert {row["label"] for row in rows} == {names[label] for label, _ in answers}
    assert len(rows) == len({label for label, _ in answers}), "a label has two rows"

    for row in rows:
        k = names.index(row["label"])
        own = [answer for label, answer in answers if label == k]
        assert row["clips"] == len(own)
        assert row["right"] == own.count(k)
        assert row["accuracy"] == pytest.approx(own.count(k) / len(own))
        assert (row["low"], row["high"]) == metrics.wilson(own.count(k), len(own))

        # A clip that could not be read was taken for nothing.
        wrong = [answer for answer in own if answer is not None and answer != k]
        if not wrong:
            assert row["taken_for"] == ""
        else:
            times = wrong.count(names.index(row["taken_for"]))
            assert times == max(wrong.count(answer) for answer in wrong)

    accuracies = [row["accuracy"] for row in rows]
    assert accuracies == sorted(accuracies), "not the worst first"


def test_a_broken_clip_is_no_hit():
    """A clip that could not be read has no answer, and label 0 is not None."""
    predictions = [{"label": 0, "predicted": None}, {"label": 1, "predicted": 1}]
    labels, hits = metrics.labels_and_hits(predictions)
    assert labels.tolist() == [0, 1]
    assert hits.tolist() == [False, True]


def test_examples_of_docstrings():
    """The small numbers in the docstrings come out as printed."""
    found = doctest.testmod(metrics)
    assert found.attempted >= 3
    assert found.failed == 0
