"""How sure a figure is: bootstrap over clips, for one evaluation and for two on the same clips.

A test split is a sample of the clips that there could have been. To see how far another sample
might lead, draw as many clips from it again and again, with replacement, and count anew each time:
the middle 95 % of the results are the interval. Two systems that answered the *same* clips are
compared by drawing clips and taking both answers of each, so that what is hard for both moves both.

It speaks of clips, not of trainings: another seed of training moves a figure, too, and no interval
of one run's answers can know by how much.

here       | what it gives                                          | tests/test_bootstrap.py
interval   | bounds of an accuracy, over clips or mean over classes | test_interval_*
paired     | difference of two systems, its bounds, who won clips   | test_paired_*
"""
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95                                      # share of the resamples within the bounds


@dataclass(frozen=True)
class Paired:
    """Two systems on the same clips; shares of 1, a minus b."""
    difference: float
    low: float
    high: float
    both: int                                     # clips that both answered rightly
    only_a: int                                   # clips that the first alone answered rightly
    only_b: int
    neither: int


def resampled_means(values, labels, seed, resamples):
    """The mean of `values` over `resamples` samples of the clips, (resamples,) float64.

    values: (n,) numbers of the clips. labels: (n,) integers for the mean over classes of their
    means, or None for the plain mean. A class that a sample happens to leave out is left out of
    that sample's mean, as labels without clips are everywhere.
    """
    values = np.asarray(values, np.float64)
    n = len(values)
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    for i in range(resamples):
        picked = generator.integers(0, n, n)      # (n,) places of clips, some twice, some never
        if labels is None:
            means[i] = values[picked].mean()
            continue
        clips = np.bincount(labels[picked])                                 # (K,)
        sums = np.bincount(labels[picked], weights=values[picked])          # (K,)
        there = clips > 0
        means[i] = (sums[there] / clips[there]).mean()
    return means


def bounds(means, level=LEVEL):
    """The middle `level` of the resampled means: (low, high)."""
    outside = 100 * (1 - level) / 2               # percent beyond each end
    low, high = np.percentile(means, [outside, 100 - outside])
    return float(low), float(high)


def check_clips(correct, labels):
    """Arrays of `correct` and `labels`; ValueError where there are no clips, or not as many."""
    correct = np.asarray(correct, np.float64)
    if correct.ndim != 1 or len(correct) == 0:
        raise ValueError(f"answers of shape {correct.shape}. Expected one for each clip, and at "
                         "least one clip. Evaluate a split that has some.")
    if labels is not None:
        labels = np.asarray(labels, np.int64)
        if labels.shape != correct.shape:
            raise ValueError(f"{len(labels)} labels beside {len(correct)} answers. Expected as "
                             "many. Take both from one evaluation.")
    return correct, labels


def interval(correct, labels=None, seed=0, resamples=2000):
    """95 % percentile bootstrap interval of an accuracy: (low, high), shares of 1.

    correct: (n,) bools or 0 and 1, n >= 1. labels: (n,) true labels, for the mean over classes
    instead. seed: equal seeds give equal bounds. Raises ValueError without clips.

    Where all clips are right (or all wrong) every resample says so, and the interval has no width:
    that is a limit of the method and no certainty.

    >>> low, high = interval([True] * 80 + [False] * 20)
    >>> round(low, 2), round(high, 2)
    (0.72, 0.87)
    """
    correct, labels = check_clips(correct, labels)
    return bounds(resampled_means(correct, labels, seed, resamples))


def paired(correct_a, correct_b, labels=None, seed=0, resamples=2000):
    """Two systems' answers to the same clips, in the same order -> Paired, a minus b.

    correct_a, correct_b: (n,) bools. labels: (n,) true labels, for the difference of the means over
    classes. Raises ValueError where there are no clips or not as many.
    """
    a, labels = check_clips(correct_a, labels)
    b, _ = check_clips(correct_b, None)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} answers beside {len(b)}. Expected two systems on the same "
                         "clips. Evaluate both on one split.")

    # A difference of means is the mean of the clips' differences, which are -1, 0 or 1.
    difference = a - b
    if labels is None:
        observed = difference.mean()
    else:
        clips = np.bincount(labels)
        there = clips > 0
        observed = (np.bincount(labels, weights=difference)[there] / clips[there]).mean()

    low, high = bounds(resampled_means(difference, labels, seed, resamples))
    right_a = a > 0
    right_b = b > 0
    return Paired(difference=float(observed), low=low, high=high,
                  both=int((right_a & right_b).sum()),
                  only_a=int((right_a & ~right_b).sum()),
                  only_b=int((~right_a & right_b).sum()),
                  neither=int((~right_a & ~right_b).sum()))
