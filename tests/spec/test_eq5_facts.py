"""Eq. (5), Sec. 3.3.2: how far texts differ in content, and how hard each is pushed off for it."""
import pytest
import torch

import pevl
from expected import cases
from spec import close, f64, holds, rand, randn, worked_example_holds

pytestmark = pytest.mark.eq5

# Label 0 differs from 1 by 0.2 and from 2 by 0.6; 1 and 2 differ by 0.2.
D = f64([0.0, 0.2, 0.6], [0.2, 0.0, 0.2], [0.6, 0.2, 0.0])


def weigh(*labels, discrepancy=D):
    """The weights (B, B) of a batch with these labels."""
    return pevl.semantic_weights(torch.tensor(labels), discrepancy)


@pytest.mark.parametrize("name", ["text_discrepancy", "semantic_weights"])
def test_worked_example(name):
    """The numbers in the docstring come out as printed."""
    worked_example_holds(getattr(pevl, name), pevl)


# ---- Discrepancy ---------------------------------------------------------------------------------

def test_discrepancy_by_hand():
    """Directions (1, 0) and (0.6, 0.8) have the cosine 0.6: they differ by 0.4."""
    close(pevl.text_discrepancy(f64([1.0, 0.0], [0.6, 0.8])), f64([0.0, 0.4], [0.4, 0.0]),
          "The discrepancy of two texts is 1 - cos, as it is: no square, no root, no angle.")


def test_discrepancy_matches_loops():
    """1 - cos of random sentences, also of those that point away from each other."""
    for case in cases("eq5.discrepancy"):
        close(pevl.text_discrepancy(case["sentences"]), case["want"],
              "text_discrepancy is 1 - cos of each two sentences.")


def test_opposite_texts_differ_by_2():
    """cos = -1 gives 2, the most there is."""
    close(pevl.text_discrepancy(f64([1.0, 0.0], [-1.0, 0.0])), f64([0.0, 2.0], [2.0, 0.0]),
          "Opposite texts have cos = -1 and differ by 2. 0 would be 1 - |cos|: the sign counts.")


def test_a_text_does_not_differ_from_itself():
    """The diagonal is 0, whatever rounding says."""
    for seed in range(5):
        sentences = randn(seed, 5, 64).float()
        diagonal = pevl.text_discrepancy(sentences).diagonal()
        close(diagonal,
              torch.zeros(5),
              "The diagonal must be 0 exactly: no text differs from itself, and "
              "1 - cos leaves 1e-7 there by rounding.",
              tol=0)


def test_discrepancies_are_never_negative():
    """Two texts with one meaning differ by 0, not by -1e-7."""
    for seed in range(20):
        one = randn(seed, 1, 64).float()
        got = pevl.text_discrepancy(torch.cat([one, 3 * one, 0.1 * one, 7 * one]))
        holds(got.min() >= 0, "Rounding makes 1 - cos of equal texts slightly negative, and its "
              "logarithm in Eq. (6) NaN: clamp at 0.")


def test_lengths_of_sentences_do_not_count():
    """It is about directions."""
    sentences = randn(0, 4, 6)
    close(pevl.text_discrepancy(5 * sentences), pevl.text_discrepancy(sentences),
          "Sentences are compared at unit length; is it a dot product?")


# ---- Weights -------------------------------------------------------------------------------------

def test_weights_of_three_labels_by_hand():
    """0.2 and 0.6 share out as 0.25 and 0.75, times two negatives: 0.5 and 1.5."""
    close(weigh(0, 1, 2), f64([1.0, 0.5, 1.5], [1.0, 1.0, 1.0], [1.5, 0.5, 1.0]),
          "Row 0: 0.2 and 0.6, divided by their sum 0.8, times the number of negatives, 2.")


def test_weights_match_loops():
    """The weights of random batches, in which labels repeat, equal what loops give."""
    for case in cases("eq5.weights"):
        got = pevl.semantic_weights(case["labels"], case["discrepancy"])
        close(got,
              case["want"],
              "semantic_weights differs from a loop over anchors. "
              "The facts beside this one say which rule it is.")


def test_a_clip_of_the_same_label_has_weight_1():
    """Positives are not pushed, and not weighed."""
    got = weigh(0, 2, 0, 1)
    same = torch.tensor([0, 2, 0, 1])
    same = same[:, None] == same[None]
    close(got[same], torch.ones(6), "Where labels agree w = 1: the clip itself, and others of its "
          "label. 0 would make them absent, and the KL of Eq. (6) infinite (D12).", tol=0)


def test_negatives_of_a_row_sum_to_their_number():
    """The sum of the pushing stays that of the plain loss."""
    got = weigh(0, 1, 2, 2)
    close(got[0, 1:].sum(),
          3.0,
          "The weights of a row's negatives sum to their number n_i (B - 1 "
          "in the paper): strengths of sum 1, times n_i. Was n_i dropped?")


def test_only_other_labels_share_the_strength():
    """A second clip of the own label takes nothing from the negatives."""
    close(weigh(0, 1, 2, 0)[0, 1:3], f64(0.5, 1.5), "n_i counts the clips with another label, and "
          "strengths are normalised over these alone: two here, not B - 1 = 3.")


def test_each_row_is_its_anchors():
    """Row i: how clip i's text differs from the others."""
    got = weigh(0, 1, 2)
    close(got[0, 1] / got[0, 2],
          1 / 3,
          "Row 0 belongs to anchor 0, whose text differs from the others "
          "by 0.2 and 0.6: the weights are in the ratio 1 to 3. Are rows "
          "and columns exchanged, or is it normalised over columns?")
    close(got[1, 0] / got[1, 2],
          1.0,
          "Row 1: label 1 differs from both others by 0.2, so both have the same "
          "weight. Are rows and columns exchanged, or is it normalised over columns?")


def test_labels_choose_the_discrepancies():
    """Clip j's text is that of its label, not the j-th text of the data set."""
    got = weigh(2, 0, 1)
    close(got[0, 1] / got[0, 2], 3.0, "The discrepancy of clips i and j is discrepancy[label_i, "
          "label_j], here 0.6 and 0.2; yours seems to take places in the batch for labels.")
    close(got[2, 0] / got[2, 1], 1.0, "The discrepancy of clips i and j is discrepancy[label_i, "
          "label_j], here 0.2 twice; yours seems to take places in the batch for labels.")


def test_equal_discrepancies_give_the_plain_loss():
    """Where all texts differ alike, every weight is 1."""
    alike = 0.7 * (1 - torch.eye(3).double())
    close(weigh(0, 1, 2, 1, discrepancy=alike), torch.ones(4, 4), "Equal discrepancies give w = 1 "
          "everywhere: the plain contrastive loss.")


def test_no_discrepancy_at_all_gives_the_plain_loss():
    """All zero: shared out alike, no 0 / 0."""
    close(weigh(0, 1, 2, discrepancy=torch.zeros(3, 3).double()),
          torch.ones(3, 3),
          "A row whose discrepancies are all 0: its negatives share the strength "
          "alike, w = 1. 0 / 0 is NaN, and 0 would make every negative absent.")


def test_a_batch_of_one_label_has_weight_1():
    """There are no negatives."""
    close(weigh(1, 1), torch.ones(2, 2), "A batch of one label has no negatives: w = 1, no NaN.")


def test_tiny_discrepancies_count_as_much_as_large_ones():
    """Only ratios matter."""
    close(weigh(0, 1, 2, discrepancy=D * 1e-6),
          weigh(0, 1, 2),
          "Strengths are normalised: a millionth of all discrepancies "
          "gives the same weights. Is something added to the sum?")


def test_clips_have_no_order():
    """Another order of the batch gives the same weights in that order."""
    order = [2, 0, 3, 1]
    labels = [0, 1, 2, 2]
    shuffled = weigh(*[labels[i] for i in order])
    close(shuffled, weigh(*labels)[order][:, order], "The order of the clips must not count.")


def test_weights_are_at_least_0():
    """Whatever the discrepancies."""
    got = weigh(0, 1, 2, 3, discrepancy=rand(0, 4, 4))
    holds(got.min() >= 0 and got.isfinite().all(), "Weights are at least 0 and finite.")
