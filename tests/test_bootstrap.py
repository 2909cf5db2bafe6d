"""report/bootstrap.py: intervals against the exact distribution and slow loops; two systems on the same clips."""
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from report.bootstrap import interval, paired

answers = st.lists(st.booleans(), min_size=1, max_size=40)


def binomial_quantile(n, p, level):
    """The smallest k with P(X <= k) >= level, X the number of rights in a resample of n clips."""
    below = 0.0
    for k in range(n + 1):
        below += math.comb(n, k) * p ** k * (1 - p) ** (n - k)
        if below >= level:
            return k
    return n


@pytest.mark.parametrize("right, n", [(80, 100), (3, 12), (292, 320)])
def test_interval_is_that_of_the_exact_distribution(right, n):
    """The number of rights in a resample is binomial, so that its 2.5 % and 97.5 % points are known."""
    low, high = interval([True] * right + [False] * (n - right), resamples=20000)
    assert n * low == pytest.approx(binomial_quantile(n, right / n, 0.025), abs=1)
    assert n * high == pytest.approx(binomial_quantile(n, right / n, 0.975), abs=1)


@settings(max_examples=15)
@given(st.data())
def test_interval_of_the_mean_over_classes_matches_loops(data):
    """Clip by clip and class by class, with the same draws."""
    correct = data.draw(answers)
    labels = data.draw(st.lists(st.integers(0, 3), min_size=len(correct), max_size=len(correct)))
    generator, means = np.random.default_rng(5), []
    for _ in range(50):
        picked = generator.integers(0, len(correct), len(correct))
        shares = []
        for label in range(4):
            own = [correct[i] for i in picked if labels[i] == label]
            if own:
                shares.append(sum(own) / len(own))
        means.append(sum(shares) / len(shares))
    want = np.percentile(means, [2.5, 97.5])
    assert interval(correct, labels, seed=5, resamples=50) == pytest.approx(tuple(want))


@settings(max_examples=15)
@given(st.data())
def test_paired_counts_clips_and_turns_round(data):
    a = data.draw(answers)
    b = data.draw(st.lists(st.booleans(), min_size=len(a), max_size=len(a)))
    pair, turned = paired(a, b, resamples=100), paired(b, a, resamples=100)
    assert pair.difference == pytest.approx(sum(a) / len(a) - sum(b) / len(b))
    assert (pair.both, pair.only_a, pair.only_b, pair.neither) == tuple(
        sum((x, y) == want for x, y in zip(a, b)) for want in ((1, 1), (1, 0), (0, 1), (0, 0)))
    assert (turned.low, turned.high) == pytest.approx((-pair.high, -pair.low))


def test_paired_sees_what_two_intervals_do_not():
    """One system is right wherever the other is, and on five clips more: their intervals overlap, their difference is
    above 0."""
    b = [True] * 50 + [False] * 50
    a = [True] * 58 + [False] * 42
    assert interval(a)[0] < interval(b)[1]
    assert paired(a, b).low > 0


def test_paired_mean_over_classes_weighs_classes_alike():
    """Nine clips of one label and one of another: the one counts as much as the nine."""
    labels = [0] * 9 + [1]
    pair = paired([True] * 9 + [False], [False] * 9 + [True], labels)
    assert pair.difference == 0 and paired([True] * 9 + [False], [False] * 9 + [True]).difference == pytest.approx(0.8)


def test_errors_of_bootstrap():
    with pytest.raises(ValueError, match="at least one clip. Evaluate"):
        interval([])
    with pytest.raises(ValueError, match="3 labels beside 2 answers. Expected as many"):
        interval([True, False], [0, 1, 2])
    with pytest.raises(ValueError, match="2 answers beside 3. Expected two systems on the same clips"):
        paired([True, False], [True, False, True])
