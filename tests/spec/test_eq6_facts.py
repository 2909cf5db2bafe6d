"""Eq. (6), Sec. 3.3.2: KL of right and predicted shares, clips to texts and texts to clips.

The weights of Eq. (5) are given here, right ones: a mistake there costs nothing in this file.
"""
import math

import pytest
import torch

import pevl
from expected import cases
from spec import close, f64, gradients_are_right, holds, randn, worked_example_holds

pytestmark = pytest.mark.eq6


@pytest.fixture
def given_weights(monkeypatch):
    """Let Eq. (5) give these weights, whatever was written for it."""
    def put(weights):
        monkeypatch.setattr(pevl, "semantic_weights", lambda *_, **__: weights)
    return put


def loss_of(logits, labels, given_weights, weights=None):
    """The loss with weights of 1 everywhere, or these."""
    B = len(labels)
    if weights is None:
        weights = torch.ones(B, B, dtype=logits.dtype)
    given_weights(weights)
    D = 1 - torch.eye(4, dtype=logits.dtype)
    return pevl.semantic_guided_loss(logits, torch.tensor(labels), D)


@pytest.mark.parametrize("name", ["one_way_kl", "semantic_guided_loss"])
def test_worked_example(name, given_weights):
    """The numbers in the docstring come out as printed."""
    given_weights(torch.ones(3, 3))                       # as its labels and its D give them
    worked_example_holds(getattr(pevl, name), pevl)


def test_kl_of_a_half_by_hand():
    """p = (1/2, 1/2), q = (0, 1): log 2."""
    close(pevl.one_way_kl(torch.zeros(1, 2).double(), f64([0.0, 1.0])), math.log(2), "KL(q || p) = "
          "sum of q log(q / p): 1 log(1 / 0.5).")


def test_one_way_matches_loops():
    """KL with drawn truth and weights equals what a loop gives."""
    for case in cases("eq6.one_way"):
        got = pevl.one_way_kl(case["logits"], case["truth"], case["weights"])
        close(got, case["want"],
              "one_way_kl differs from a loop over entries. The facts beside this one say which "
              "rule it is.")


def test_texts_to_clips_have_shares_of_their_own():
    """two_way_kl: the second direction has logits and truth turned round, both of them."""
    logits = randn(0, 3, 3)
    truth = f64([1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 1.0])
    want = (pevl.one_way_kl(logits, truth) + pevl.one_way_kl(logits.T, truth.T)) / 2
    close(pevl.two_way_kl(logits, truth), want,
          "two_way_kl: the mean of both directions; the rows of logits.T have the right shares of "
          "truth.T.")


def test_loss_matches_loops(given_weights):
    """The loss of random batches equals what loops give in both directions."""
    for case in cases("eq6.loss"):
        given_weights(case["weights"])
        got = pevl.semantic_guided_loss(case["logits"], case["labels"], case["discrepancy"])
        close(got, case["want"],
              "semantic_guided_loss differs from loops over both directions. The facts beside this "
              "one say which rule it is.")


def test_three_clips_two_labels_by_hand(given_weights):
    """Labels 0, 1, 0 and equal logits: log(3/2), log 3, log(3/2), mean 0.6365."""
    got = loss_of(torch.zeros(3, 3).double(), [0, 1, 0], given_weights)
    close(got, (2 * math.log(1.5) + math.log(3)) / 3,
          "Clips 0 and 2 have two right texts that share the 1: q = (1/2, 0, 1/2). 1.0986 = log 3 "
          "would be cross-entropy with the own text alone.")


def test_it_is_the_mean_over_rows():
    """Four rows with log 4 each: log 4, not log 4 / 4, nor their sum."""
    got = pevl.one_way_kl(torch.zeros(4, 4).double(), torch.eye(4).double())
    close(got, math.log(4),
          "KL is summed over a row and averaged over rows. Divided by 4 once more, it is a mean "
          "over all B x B entries; four times as much is a sum over rows.")


def test_shares_are_taken_along_rows():
    """softmax over the texts of a clip."""
    logits = f64([5.0, 0.0], [5.0, 0.0])
    got = pevl.one_way_kl(logits, f64([1.0, 0.0], [1.0, 0.0]))
    close(got, math.log(1 + math.exp(-5)),
          "p is a softmax over j, along the row; yours runs over the rows.", tol=1e-5)


def test_truth_is_normalised_along_rows():
    """Two right texts share the 1, whatever numbers mark them."""
    logits = randn(0, 2, 3)
    truth = f64([1.0, 0.0, 1.0], [0.0, 1.0, 0.0])
    close(pevl.one_way_kl(logits, 6 * truth), pevl.one_way_kl(logits, truth),
          "q = truth / its row's sum: six times the truth is the same truth.")


def test_it_is_kl_of_truth_from_prediction():
    """sum of q log(q / p), not of p log(p / q), which is infinite where q = 0."""
    logits = f64([0.0, 1.0, 2.0])
    q = f64([0.5, 0.25, 0.25])
    p = logits.softmax(1)
    close(pevl.one_way_kl(logits, q), (q * (q / p).log()).sum(), "KL(q || p), q the truth (D14); "
          "the other way round weighs by p.")


def test_weights_multiply_the_exponentials():
    """w = (1, 3) and equal logits: p = (1/4, 3/4)."""
    got = pevl.one_way_kl(torch.zeros(1, 2).double(), f64([1.0, 0.0]), f64([1.0, 3.0]))
    close(got, math.log(4),
          "p_ij = w_ij exp(logits_ij) / sum: a weight multiplies exp(logits), that is, its "
          "logarithm is added. Does it multiply the logits, or the KL?")


def test_a_weight_of_zero_is_absent():
    """That text is not there: p = 1 for the other."""
    logits = f64([0.0, 50.0]).requires_grad_()
    got = pevl.one_way_kl(logits, f64([1.0, 0.0]), f64([1.0, 0.0]))
    close(got, 0.0, "A text of weight 0 takes no part in the sum, and must not make NaN.")
    got.backward()
    holds(logits.grad.isfinite().all(), "A weight of 0 makes NaN gradients.")


def test_both_directions_count(given_weights):
    """Clips to texts and texts to clips: transposed logits and symmetric weights change nothing."""
    logits = randn(1, 4, 4)
    labels = [0, 1, 2, 1]
    close(loss_of(logits.T, labels, given_weights), loss_of(logits, labels, given_weights),
          "Eq. (6) is the mean of both directions, rows and columns of the logits; yours has one.")


def test_weights_are_the_anchors_in_both_directions():
    """Row i of w is used for clip i and for text i."""
    logits = torch.zeros(2, 2).double()
    weights = f64([1.0, 3.0], [1.0, 1.0])
    got = pevl.two_way_kl(logits, torch.eye(2).double(), weights)
    close(got, (math.log(4) + math.log(2)) / 2,
          "w_ij belongs to anchor i, the clip in one direction and the text in the other: "
          "transpose the logits, not the weights.")
    logits = f64([0.0, 1.0], [-1.0, 0.5])
    got = pevl.two_way_kl(logits, torch.eye(2).double(), weights)
    first = math.log(1 + 3 * math.e) + math.log(1 + math.exp(-1.5))
    second = math.log(1 + 3 * math.exp(-1)) + math.log(1 + math.exp(0.5))
    close(got, (first + second) / 4, "w_ij belongs to anchor i, the clip in one direction and the "
          "text in the other: transpose the logits, not the weights.")


def test_clips_of_one_label_pull_each_other(given_weights):
    """From equal logits, all positives rise and all negatives fall."""
    logits = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    loss_of(logits, [0, 1, 0], given_weights).backward()
    holds(logits.grad[0, 2] < 0, "Clip 0 and text 2 have the same label and must pull each other: "
          "the gradient there must be negative.")
    holds(logits.grad[0, 1] > 0,
          "Clip 0 and text 1 have other labels and must push each other off.")


def test_nothing_is_left_to_gain_at_the_right_logits(given_weights):
    """Right texts equal and far above the others: loss 0."""
    right = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1]]).double()
    close(loss_of(60 * right, [0, 1, 0], given_weights), 0.0, "With all right texts equal and far "
          "above the wrong ones the KL is 0. A rest of log 2 is cross-entropy's.")


def test_single_positives_give_cross_entropy(given_weights):
    """Different labels and equal weights: the plain contrastive loss."""
    logits = randn(2, 4, 4)
    target = torch.arange(4)
    plain = torch.nn.functional.cross_entropy
    close(loss_of(logits, [0, 1, 2, 3], given_weights),
          (plain(logits, target) + plain(logits.T, target)) / 2,
          "With four labels and equal weights the loss is CLIP's: cross-entropy of rows and "
          "columns.")


def test_the_weights_of_eq_5_are_used(given_weights):
    """Other weights, another loss."""
    logits = randn(3, 3, 3)
    weights = f64([1.0, 0.2, 1.8], [1.0, 1.0, 1.0], [1.5, 0.5, 1.0])
    got = loss_of(logits, [0, 1, 2], given_weights, weights)
    holds((got - loss_of(logits, [0, 1, 2], given_weights)).abs() > 1e-6,
          "The loss does not depend on semantic_weights(labels, discrepancy): Eq. (5) is not used.")


@pytest.mark.parametrize("size", [0.0, 100.0, 1e4])
def test_large_logits_stay_finite(size, given_weights):
    """exp must not overflow: stay in log space."""
    logits = (size * torch.randn(3, 3, generator=torch.Generator().manual_seed(0))).requires_grad_()
    loss = loss_of(logits, [0, 1, 1], given_weights)
    loss.backward()
    holds(loss.isfinite() and logits.grad.isfinite().all(), f"Logits of {size:g} give numbers that "
          "are not finite: work with log_softmax, never with exp.")


def test_clips_have_no_order(given_weights):
    """Another order of the batch gives the same loss."""
    logits, labels, order = randn(4, 4, 4), [0, 1, 1, 2], [2, 0, 3, 1]
    shuffled = loss_of(logits[order][:, order], [labels[i] for i in order], given_weights)
    close(shuffled, loss_of(logits, labels, given_weights),
          "The order of the clips must not count.")


def test_gradients(given_weights):
    """Slopes by autograd equal those of small steps."""
    weights = 0.5 + randn(5, 4, 4).abs()
    gradients_are_right(lambda s: loss_of(s, [0, 1, 1, 3], given_weights, weights), randn(0, 4, 4),
                        why="The loss's gradients are not those of its values: is something "
                            "detached?")
