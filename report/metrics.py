"""How sure a figure is: intervals over clips, two systems on the same clips, tables by class.

A test split is a sample. Another sample of as many clips would give another accuracy; the bootstrap
says how far apart such samples lie, by drawing clips with replacement from the ones that are there
(Efron and Tibshirani, 1993). A difference of two systems is judged on the same draws of the same
clips: much of what makes a clip hard is common to both and cancels.

here       | what it is                                       | tests/test_metrics.py
interval   | 95 % interval of top-1 or of the mean            | test_interval_*
compare    | the difference of two systems, with its interval | test_compare_*
mcnemar    | are two systems equally good: a p-value          | test_mcnemar_*
class_rows | each label: clips, right, accuracy, interval     | test_class_rows_*

A draw of n clips falls into cells (label, right or wrong), and how many fall into each is
multinomial: so cells are drawn, not clips, which is the same distribution at a cost that does not
grow with n. Letters: n clips, K labels, D draws. Accuracies are shares of 1.
"""
import math
from typing import NamedTuple

import numpy as np

DRAWS = 10_000
SHARE = 0.95                                      # of the draws that an interval holds


class Interval(NamedTuple):
    """A figure and the range that holds SHARE of the figures of resampled clips."""
    value: float
    low: float
    high: float


def labels_and_hits(predictions):
    """Predictions of `eval.evaluate`, or of its JSON -> labels (n,) int, hits (n,) bool.

    A clip that could not be read was not hit.
    """
    labels = np.array([row["label"] for row in predictions], int)
    hits = np.array([row["predicted"] == row["label"] for row in predictions], bool)
    return labels, hits


def draw_cells(cells, draws, seed):
    """cells (C,) counts of n clips -> (D, C) counts, each row n clips drawn with replacement."""
    n = cells.sum()
    return np.random.default_rng(seed).multinomial(n, cells / n, size=draws)


def top1_of(right, total):
    """right, total (..., K) -> the share of all clips that was hit, (...)."""
    return right.sum(-1) / total.sum(-1)


def mean_of(right, total):
    """right, total (..., K) -> each label's accuracy, averaged over the labels with clips."""
    there = total > 0
    share = right / np.maximum(total, 1)
    return (share * there).sum(-1) / there.sum(-1)


METRICS = {"top1": top1_of, "mean": mean_of}


def cells_of(labels, *hits):
    """Counts of the cells (label, hit of each system): (K, 2, ...) of the labels that occur."""
    _, place = np.unique(labels, return_inverse=True)
    shape = (place.max() + 1, *[2] * len(hits))
    cells = np.zeros(shape, int)
    np.add.at(cells, (place, *[np.asarray(one, int) for one in hits]), 1)
    return cells


def interval(labels, hits, metric="top1", draws=DRAWS, seed=0):
    """The 95 % percentile interval of a metric over clips.

    labels (n,) int, hits (n,) bool, n > 0. metric: a key of METRICS. Returns an Interval. The same
    seed gives the same interval.

    >>> interval([0, 0, 1, 1], [True, True, True, True])
    Interval(value=1.0, low=1.0, high=1.0)
    """
    measure = METRICS[metric]
    cells = cells_of(labels, hits)                                         # (K, 2)
    drawn = draw_cells(cells.ravel(), draws, seed).reshape(-1, *cells.shape)       # (D, K, 2)
    figures = measure(drawn[..., 1], drawn.sum(-1))                        # (D,)
    value = float(measure(cells[:, 1], cells.sum(-1)))
    low, high = edges(figures)
    return Interval(value, low, high)


def edges(figures):
    """The two quantiles between which SHARE of the figures lie."""
    outside = (1 - SHARE) / 2
    low, high = np.quantile(figures, [outside, 1 - outside])
    return float(low), float(high)


def intervals_of(result):
    """The intervals of a result of `eval.evaluate`: metric -> Interval; {} where it has no clip."""
    if not result["predictions"]:
        return {}
    labels, hits = labels_and_hits(result["predictions"])
    return {metric: interval(labels, hits, metric) for metric in METRICS}


def compare(labels, hits_a, hits_b, metric="top1", draws=DRAWS, seed=0):
    """Paired bootstrap of two systems: the Interval of the metric of A minus that of B.

    labels (n,) int, hits_a and hits_b (n,) bool of the same clips in the same order. metric: a key
    of METRICS.
    """
    measure = METRICS[metric]
    cells = cells_of(labels, hits_a, hits_b)                               # (K, 2, 2)
    drawn = draw_cells(cells.ravel(), draws, seed).reshape(-1, *cells.shape)    # (D, K, 2, 2)

    def difference(counts):
        total = counts.sum((-2, -1))                                       # (..., K)
        right_a = counts[..., 1, :].sum(-1)
        right_b = counts[..., :, 1].sum(-1)
        return measure(right_a, total) - measure(right_b, total)

    figures = difference(drawn)                                            # (D,)
    return Interval(float(difference(cells)), *edges(figures))


def mcnemar(only_a, only_b):
    """McNemar's exact test: the two-sided p-value of "both systems have as many clips right".

    only_a, only_b: how many clips one of them alone has right. If the two are equally good, each of
    these n clips falls to either side like a coin: p = min(1, 2 sum_{k <= min} C(n, k) / 2^n).

    >>> mcnemar(0, 3)
    0.25
    """
    n = only_a + only_b
    fewer = min(only_a, only_b)
    ways = sum(math.comb(n, k) for k in range(fewer + 1))
    return min(1.0, 2 * ways / 2 ** n)


def wilson(right, n):
    """95 % interval of a share of few clips, after Wilson (1927): never outside of 0 .. 1.

    The bootstrap of a class with all of five clips right would say 100 to 100.

    >>> [round(x, 3) for x in wilson(5, 5)]
    [0.566, 1.0]
    """
    z = 1.959964                                  # 95 % of a normal distribution lie within +- z
    share = right / n
    squared = z * z
    shrink = 1 + squared / n                      # draws the middle towards one half
    middle = (share + squared / (2 * n)) / shrink
    variance = share * (1 - share) / n
    floor = squared / (4 * n * n)                 # what is left of it where all or none are right
    reach = z / shrink * math.sqrt(variance + floor)

    # At 0 and 1 one edge is the share itself; rounding must not put it on the other side.
    low = min(middle - reach, share)
    high = max(middle + reach, share)
    return max(low, 0.0), min(high, 1.0)


def class_rows(predictions, names):
    """A dict for each label that has clips: label, clips, right, accuracy, low, high, taken_for.

    predictions: of `eval.evaluate`. names: K label texts. low, high: Wilson's interval. taken_for:
    the label that it is most often mistaken for, "" where there is none. Worst first.
    """
    rows = []
    for k, name in enumerate(names):
        own = [row["predicted"] for row in predictions if row["label"] == k]
        if not own:
            continue
        right = own.count(k)
        wrong = [answer for answer in own if answer not in (k, None)]
        taken_for = ""
        if wrong:
            worst = max(sorted(set(wrong)), key=wrong.count)
            taken_for = names[worst]
        low, high = wilson(right, len(own))
        rows.append({"label": name, "clips": len(own), "right": right,
                     "accuracy": right / len(own), "low": low, "high": high,
                     "taken_for": taken_for})
    return sorted(rows, key=lambda row: row["accuracy"])
