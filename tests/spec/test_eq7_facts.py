"""Eq. (7), Sec. 3.4: what a clip is called; the views of a clip are averaged."""
import pytest
import torch

import pevl
from expected import cases
from spec import close, f64, holds, randn, worked_example_holds

pytestmark = pytest.mark.eq7


def test_worked_example():
    """The numbers in the docstring come out as printed."""
    worked_example_holds(pevl.predict, pevl)


def test_one_view_by_hand():
    """Logits 1 and 0: 0.73 and 0.27."""
    close(pevl.predict(f64([1.0, 0.0])), f64([0.7310586, 0.2689414]),
          "P is the softmax of a clip's logits over the labels.", tol=1e-5)


def test_predict_matches_loops():
    """Probabilities of random clips equal what loops give."""
    for case in cases("eq7.predict"):
        close(pevl.predict(case["logits"], int(case["views"])), case["want"],
              "predict differs from a loop over clips and views.")


def test_probabilities_sum_to_1():
    """Over the labels of each clip."""
    close(pevl.predict(randn(0, 6, 4), 2).sum(1),
          torch.ones(3),
          "Rows sum to 1: the softmax runs over the labels. If "
          "columns do, it runs over the batch; 2 is a sum over views.")


def test_views_of_a_clip_stand_in_a_row():
    """Rows 0 and 1 are clip 0, rows 2 and 3 clip 1."""
    logits = f64([9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [0.0, 9.0])
    got = pevl.predict(logits, 2)
    holds(got[0, 0] > 0.99 and got[1, 1] > 0.99,
          "The views of a clip follow each other: "
          "(B * views, K) is (B, views, K), not (views, B, K).")


def test_logits_are_averaged_not_probabilities():
    """Means 4.5 and 0 give 0.989; the mean of the probabilities would be 0.75."""
    got = pevl.predict(f64([9.0, 0.0], [0.0, 0.0]), 2)
    close(got[0, 0],
          0.9890131,
          "Similarities are averaged over views, then comes the softmax "
          "(D19); 0.75 is the mean of the views' probabilities.",
          tol=1e-5)


def test_a_number_added_to_all_logits_changes_nothing():
    """Only differences count, and large logits stay finite."""
    logits = randn(1, 2, 3)
    close(pevl.predict(logits + 1000), pevl.predict(logits), "softmax does not depend on a common "
          "summand; is it exp / sum without care for large numbers?")


def test_one_view_is_the_default():
    """Without an argument each row is a clip."""
    close(pevl.predict(randn(2, 3, 4)).shape[0], 3, "views=1 is the default.")
