"""report/metrics.py against brute force: every resample of a few clips, listed one by one."""
import doctest
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from report import metrics

CLIPS = st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), min_size=1, max_size=4)


def slow_top1(labels, hits):
    return sum(hits) / len(hits)


def slow_mean(labels, hits):
    shares = [np.mean([h for l, h in zip(labels, hits) if l == k]) for k in set(labels)]
    return sum(shares) / len(shares)


SLOW = {"top1": slow_top1, "mean": slow_mean}


def all_resamples(n):
    return itertools.product(range(n), repeat=n)


def bounds(figures, q, slack):
    """The lowest and highest number that may be the quantile q, give or take `slack` of the draws."""
    figures = sorted(figures)
    at = lambda share: figures[min(max(math.floor(share * len(figures)), 0), len(figures) - 1)]
    return at(q - slack), at(q + slack)


@pytest.mark.parametrize("metric", ["top1", "mean"])
@settings(max_examples=20)
@given(clips=CLIPS)
def test_interval_is_that_of_all_resamples(metric, clips):
    """n^n resamples, each as likely: the interval's edges are quantiles of their figures."""
    labels, hits = [c[0] for c in clips], [c[1] for c in clips]
    got = metrics.interval(labels, hits, metric)
    figures = [SLOW[metric]([labels[i] for i in draw], [hits[i] for i in draw]) for draw in all_resamples(len(clips))]
    assert got.value == pytest.approx(SLOW[metric](labels, hits))
    for edge, q in ((got.low, 0.025), (got.high, 0.975)):
        low, high = bounds(figures, q, 0.012)              # 10,000 draws: 5 deviations of a share of 0.025
        assert low - 1e-9 <= edge <= high + 1e-9


@pytest.mark.parametrize("metric", ["top1", "mean"])
@settings(max_examples=20)
@given(clips=CLIPS)
def test_compare_is_that_of_all_resamples(metric, clips):
    labels, a, b = zip(*clips)
    got = metrics.compare(labels, a, b, metric)

    def difference(draw):
        own = [labels[i] for i in draw]
        return SLOW[metric](own, [b[i] for i in draw]) - SLOW[metric](own, [a[i] for i in draw])

    figures = [difference(draw) for draw in all_resamples(len(clips))]
    assert got.difference.value == pytest.approx(difference(range(len(clips))))
    assert got.worse == pytest.approx(np.mean([f <= 1e-12 for f in figures]), abs=0.03)
    for edge, q in ((got.difference.low, 0.025), (got.difference.high, 0.975)):
        low, high = bounds(figures, q, 0.012)
        assert low - 1e-9 <= edge <= high + 1e-9
    assert (got.only_a, got.only_b) == (sum(x and not y for x, y in zip(a, b)), sum(y and not x for x, y in zip(a, b)))


@given(st.integers(0, 7), st.integers(0, 7))
def test_compare_by_tossing_every_coin(only_a, only_b):
    """McNemar: of all 2^n ways in which n clips could fall, those at least as uneven."""
    n = only_a + only_b
    uneven = abs(only_a - only_b)
    ways = [abs(2 * sum(coins) - n) >= uneven for coins in itertools.product((0, 1), repeat=n)]
    assert metrics.mcnemar(only_a, only_b) == pytest.approx(min(1, np.mean(ways)))


def test_interval_is_the_binomials_for_many_clips():
    """Of 400 clips, 300 right: 75 % +- 1.96 sqrt(0.75 x 0.25 / 400) = 4.2 points."""
    got = metrics.interval([0] * 400, [True] * 300 + [False] * 100)
    assert got.value == 0.75 and got.low == pytest.approx(0.7076, abs=0.004) and got.high == pytest.approx(0.7924, abs=0.004)
    assert got == metrics.interval([0] * 400, [True] * 300 + [False] * 100) and str(got).startswith("75.0 % (70.")


def test_compare_pairs_clips():
    """Two systems of equal top-1 on other clips differ by 0 with a width; on the same clips, without any."""
    a = [True] * 50 + [False] * 50
    same, other = metrics.compare([0] * 100, a, a), metrics.compare([0] * 100, a, a[::-1])
    assert same.difference[:] == (0, 0, 0) and same.p_value == 1
    assert other.difference.value == 0 and other.difference.low < -0.15 and other.p_value == 1


@given(st.lists(st.tuples(st.integers(0, 3), st.one_of(st.none(), st.integers(0, 3))), max_size=15))
def test_class_rows_match_a_slow_count(answers):
    predictions = [{"label": true, "predicted": guess} for true, guess in answers]
    rows = {row["label"]: row for row in metrics.class_rows(predictions, ["a", "b", "c", "d"])}
    for k, name in enumerate("abcd"):
        own = [guess for true, guess in answers if true == k]
        if not own:
            assert name not in rows
            continue
        row = rows[name]
        assert (row["clips"], row["right"]) == (len(own), own.count(k)) and row["low"] <= row["accuracy"] <= row["high"]
        wrong = [g for g in own if g is not None and g != k]
        assert (row["taken_for"] == "") == (not wrong)
        assert not wrong or wrong.count("abcd".index(row["taken_for"])) == max(map(wrong.count, wrong))
    values = [row["accuracy"] for row in metrics.class_rows(predictions, ["a", "b", "c", "d"])]
    assert values == sorted(values)


@given(st.integers(0, 30), st.integers(1, 30))
def test_wilson_solves_its_equation(right, n):
    """The edges are the shares p at which |right / n - p| is 1.96 deviations of p."""
    right = min(right, n)
    for p in metrics.wilson(right, n):
        if 1e-9 < p < 1 - 1e-9:
            assert abs(right / n - p) == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / n), abs=1e-6)


def test_a_broken_clip_is_no_hit():
    labels, hits = metrics.labels_and_hits([{"label": 0, "predicted": None}, {"label": 1, "predicted": 1}])
    assert labels.tolist() == [0, 1] and hits.tolist() == [False, True]


def test_examples_of_docstrings():
    assert doctest.testmod(metrics).attempted >= 3 and doctest.testmod(metrics).failed == 0
