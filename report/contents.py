"""What the page is made of: plain records, filled by report/evidence.py and toy/lab.py.

record     | what it holds                                        | tests/test_page.py
Measured   | one run and the answers of an evaluation             | test_headline_*
LookedAt   | one clip, what was answered and looked at            | test_films_*, test_heat_map_*
Matrix     | frames x words of a clip and a text, Fig. 3b         | test_heat_map_*
Comparison | a second run on the same clips                       | test_two_runs_side_by_side
Paired     | the difference of two runs, and who won which clips  | test_paired_counts_*
Contents   | all of a page                                        | test_page_is_well_formed
LabRow     | a row of a table that the lab trained                | tests/test_lab.py

Accuracies are shares of 1. K labels, T pose frames, Tv video frames, W words, n clips.
"""
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from report.metrics import compare, interval, mcnemar


@dataclass
class Measured:
    """One run and what an evaluation of it found."""
    name: str                                     # of the run, for people
    about: dict                                   # facts: data, split, views, model, checkpoint ...
    labels: list                                  # K texts
    result: dict                                  # of eval.evaluate
    config: dict = field(default_factory=dict)    # settings, as in config.json
    versions: dict = field(default_factory=dict)  # packages and commit, of training
    history: list = field(default_factory=list)   # rows of metrics.jsonl
    sha256: str = ""                              # of the checkpoint's file

    @property
    def predictions(self):
        """A dict per clip: id, label, predicted, probability, alone, broken."""
        return self.result["predictions"]

    @property
    def confusion(self):
        """(K, K) int64, row = true label."""
        return np.asarray(self.result["confusion"])

    @property
    def unread(self):
        """(K,) int64: clips of each label that could not be read."""
        return np.asarray(self.result["unread"])

    @property
    def true(self):
        """(n,) true labels."""
        return np.array([p["label"] for p in self.predictions])

    def correct(self, metric="top1"):
        """(n,) bool: which clips count as right for `top1`, `top5`, or one similarity, `top1/vs`.
        The mean over classes counts the clips of `top1`."""
        right = []
        for p in self.predictions:
            if metric == "top5":
                right.append(p["label"] in p["top5"])
            elif "/" in metric:
                right.append(p["alone"][metric.split("/")[1]] == p["label"])
            else:
                right.append(p["predicted"] == p["label"])
        return np.array(right, bool)

    def bounds(self, metric):
        """95 % bootstrap interval of a metric over the clips: (low, high)."""
        # Top-5 and a similarity alone are shares of all clips, as top-1 is.
        kind = "mean" if metric == "mean" else "top1"
        found = interval(self.true, self.correct(metric), kind)
        return found.low, found.high


@dataclass
class Matrix:
    """Frames x words of one clip and one text, Fig. 3b."""
    text: str                                     # the label
    words: list                                   # W texts
    values: np.ndarray                            # (T, W) cosines
    similarity: float                             # S_FW of Eq. (4), made of them


@dataclass
class LookedAt:
    """One clip: what was answered, and what the model looked at."""
    id: str
    label: str                                    # the true one
    answer: str
    probability: float
    alone: dict                                   # similarity -> the label that it would answer
    strip: dict                                   # as report.draw.draw_strip wants it
    matrices: list = field(default_factory=list)  # Matrix of the answer, and of the true label
    saliency: dict = field(default_factory=dict)  # ViLP: label -> (Tv,) share of each frame
    rivals: list = field(default_factory=list)    # (name, strip) of a second model
    rival_answer: str = ""


@dataclass
class Paired:
    """Two runs on the same clips: the difference of a metric, first minus second, shares of 1."""
    difference: float
    low: float                                    # its 95 % interval
    high: float
    both: int                                     # clips that both answered rightly
    only_a: int                                   # clips that the first alone answered rightly
    only_b: int
    neither: int

    @property
    def p_value(self):
        """Of McNemar's exact test: are the two equally good in top-1?"""
        return mcnemar(self.only_a, self.only_b)


def paired(labels, correct_a, correct_b, metric="top1"):
    """The difference of two runs as a page shows it -> Paired.

    labels (n,) int, correct_a and correct_b (n,) bool of the same clips. metric: top1 or mean.
    """
    a = np.asarray(correct_a, bool)
    b = np.asarray(correct_b, bool)
    difference, low, high = compare(labels, a, b, metric)
    return Paired(difference, low, high, both=int((a & b).sum()), only_a=int((a & ~b).sum()),
                  only_b=int((~a & b).sum()), neither=int((~a & ~b).sum()))


@dataclass
class Comparison:
    """A second run on the same clips; differences are the first run minus the second."""
    rival: Measured
    top1: Paired
    mean: Paired


@dataclass
class Contents:
    """All that is on a page."""
    measured: Measured
    printed: Any = None                           # tables.printed.Printed, or None
    differing: list = field(default_factory=list)  # what is set otherwise than in the paper
    mistakes: list = field(default_factory=list)  # LookedAt, the most confident ones first
    rights: list = field(default_factory=list)    # LookedAt of right answers
    costs: list = field(default_factory=list)     # rows: part, trainable M, total M, G operations
    comparison: Comparison | None = None
    persons: dict = field(default_factory=dict)   # clip's id -> PersonFacts; {} without poses


@dataclass
class LabRow:
    """A row of a table that the lab trained."""
    name: str
    what: str
    paper: float | None                           # percent, as printed
    tops: list                                    # percent of each seed, here
    pages: list = field(default_factory=list)     # path of each seed's own page, from the table's

    @property
    def mean(self):
        return np.mean(self.tops)

    @property
    def spread(self):
        """Standard deviation over seeds (of a sample: n - 1); one seed has none."""
        if len(self.tops) < 2:
            return None
        return np.std(self.tops, ddof=1)

    @property
    def error(self):
        """Standard error of the mean: how far it may be from the mean of all seeds there are."""
        if self.spread is None:
            return None
        return self.spread / np.sqrt(len(self.tops))

    @property
    def said(self):
        if self.spread is None:
            return f"{self.mean:.1f}"
        return f"{self.mean:.1f} ± {self.spread:.1f}"
