"""Eq. (4), Sec. 3.3.1: clips meet sentences, and moments of the pose meet words."""
import pytest
import torch

import pevl
from expected import cases
from spec import close, f64, gradients_are_right, holds, randn, worked_example_holds

pytestmark = pytest.mark.eq4


def draw(seed=0, B=2, T=3, K=2, W=4):
    """Frames, words and a mask in which text k has words 1 to 1 + k."""
    mask = torch.zeros(K, W, dtype=torch.bool)
    for k in range(K):
        mask[k, 1:2 + k % (W - 1)] = True
    return randn(seed, B, T, 8), randn(seed + 1, K, W, 8), mask


def directions(*rows):
    """A[t][w] as wanted: frames and words (1, n, 8) whose cosines are these numbers.

    Each word has an axis of its own.
    """
    A = f64(*rows)
    T, W = A.shape
    words = torch.eye(8, dtype=torch.float64)[None, :W]
    frames = torch.zeros(1, T, 8, dtype=torch.float64)
    frames[0, :, :W] = A
    frames[0, :, 7] = (1 - (A ** 2).sum(1)).sqrt()                 # brings a frame to length one
    return frames, words, torch.ones(1, W, dtype=torch.bool)


@pytest.mark.parametrize("name", ["attend", "frame_word_similarity", "mean_similarity"])
def test_worked_example(name):
    """The numbers in the docstring come out as printed."""
    worked_example_holds(getattr(pevl, name), pevl)


def test_attend_by_hand():
    """1 and 0 with tau 1: shares 0.73 and 0.27, so 0.73."""
    close(pevl.attend(f64(1.0, 0.0), 1.0, 0), 0.7310586, "attend: softmax(values / tau) * values, "
          "added up.", tol=1e-5)


def test_attend_over_equal_values_gives_the_value():
    """Shares sum to 1."""
    close(pevl.attend(f64(0.4, 0.4, 0.4), 0.1, 0), 0.4,
          "The shares of attend sum to 1, so that equal values give that value.")


def test_attend_leaves_absent_values_out():
    """A masked value has no share."""
    mask = torch.tensor([True, False])
    close(pevl.attend(f64(0.3, 0.9), 0.1, 0, mask=mask), 0.3, "mask False = absent: fill its score "
          "with the least number before the softmax.")


def test_attend_over_nothing_gives_0():
    """All absent: 0 and no NaN, in the gradient neither."""
    values = f64(0.3, 0.9).requires_grad_()
    got = pevl.attend(values, 0.1, 0, mask=torch.tensor([False, False]))
    close(got, 0.0, "attend over nothing is 0: not NaN, not the mean.")
    got.backward()
    holds(values.grad.isfinite().all(),
          "attend over nothing gives NaN gradients: a softmax "
          "of -inf alone. Fill with the least number.")


def test_mean_of_the_similarities():
    """0.4, 0.2 and 0.9 give 0.5; two terms give the mean of two."""
    close(pevl.mean_similarity({"vs": 0.4, "ps": 0.2, "fw": 0.9}), 0.5, "Eq. (4): the mean of the "
          "three similarities, not their sum.")
    close(pevl.mean_similarity({"vs": 0.4, "ps": 0.2}), 0.3,
          "The mean is over the terms that are on.")


def test_frame_word_by_hand():
    """Words met by 0.8 and 0.6 in one of two moments each, and a tau that finds the best: 0.8."""
    frames, words, mask = directions([0.8, 0.1], [0.2, 0.6])
    close(pevl.frame_word_similarity(frames, words, mask, 0.001),
          0.8 * torch.ones(1, 1),
          "At a small tau the best word at its best moment is all that "
          "counts: 0.8. Is there a mean where attention should be?",
          tol=1e-4)


def test_frame_word_at_a_warm_temperature_by_hand():
    """A = ((0.6, 0), (0, 0)), tau 1: s1 and s2 are the same by symmetry, 0.2308."""
    frames, words, mask = directions([0.6, 0.0], [0.0, 0.0])
    close(pevl.frame_word_similarity(frames, words, mask, 1.0), f64([0.2307531]),
          "c = (0.387, 0), s1 = softmax(c / tau) . c = 0.231, s2 the same. Is tau used in both "
          "attentions, the inner and the outer?", tol=1e-4)


def test_frame_word_matches_loops():
    """The similarity of random clips and texts equals what loops give."""
    for case in cases("eq4.frame_word"):
        got = pevl.frame_word_similarity(case["pose_frames"], case["words"], case["word_mask"],
                                         float(case["tau"]))
        close(got,
              case["want"],
              "frame_word_similarity differs from loops over frames and "
              "words. The facts beside this one say which rule it is.")


def test_both_orders_count():
    """Words first, then frames, and the other way round; their mean."""
    frames, words, mask = directions([0.9, 0.3, 0.0], [0.3, 0.3, 0.3])
    got = pevl.frame_word_similarity(frames, words, mask, 0.3)
    turned = pevl.frame_word_similarity(*directions([0.9, 0.3], [0.3, 0.3], [0.0, 0.3]), 0.3)
    close(got, turned, "s1 attends over frames, then words, s2 over words, then frames; with their "
          "mean, A and its transpose give the same. Yours lacks one of the two orders.")


def test_padding_does_not_count():
    """What stands in masked places changes nothing, whatever it is."""
    frames, words, mask = draw()
    other = torch.where(mask[..., None], words, 9.0 + randn(5, *words.shape))
    close(pevl.frame_word_similarity(frames, other, mask), pevl.frame_word_similarity(
        frames, words, mask), "Start, end and padding are no words: the mask must be in every "
        "attention over words, in r and in s1 (D11).")


def test_more_padding_does_not_count():
    """Longer texts of the same words give the same."""
    frames, words, mask = draw()
    longer = torch.cat([words, words], dim=1)
    close(pevl.frame_word_similarity(frames, longer, torch.cat([mask, mask & False], dim=1)),
          pevl.frame_word_similarity(frames, words, mask), "More padding changes the result: is "
          "there a mean over all W places?")


def test_a_text_without_words_scores_0():
    """The empty text is similar to nothing."""
    frames, words, mask = draw()
    close(pevl.frame_word_similarity(frames, words, mask & False), torch.zeros(2, 2),
          "A text without words has similarity 0: not NaN, not an average of padding (D11).")


def test_words_and_frames_have_no_order():
    """Neither the order of the words nor that of the moments counts."""
    frames, words, mask = draw(K=2)
    got = pevl.frame_word_similarity(frames, words, mask)
    close(pevl.frame_word_similarity(frames.flip(1), words, mask), got, "The order of the frames "
          "must not count.")
    close(pevl.frame_word_similarity(frames, words.flip(1), mask.flip(1)), got, "The order of the "
          "words must not count.")


def test_lengths_do_not_count():
    """A is made of cosines."""
    frames, words, mask = draw()
    close(pevl.frame_word_similarity(7 * frames, 3 * words, mask), pevl.frame_word_similarity(
        frames, words, mask), "A[t, w] is the cosine of frame and word; lengths must not count.")


def test_every_clip_meets_every_text():
    """(B, K): row b is clip b alone, column k text k alone."""
    frames, words, mask = draw(B=3)
    got = pevl.frame_word_similarity(frames, words, mask)
    for b in range(3):
        for k in range(2):
            alone = pevl.frame_word_similarity(frames[b:b + 1], words[k:k + 1], mask[k:k + 1])
            close(got[b:b + 1, k:k + 1],
                  alone,
                  "Entry (b, k) must depend on clip b and text k alone. Are "
                  "frames of several clips, or words of several texts, mixed?")


def test_it_is_a_similarity():
    """An average of cosines is no smaller than -1 and no larger than 1."""
    frames, words, mask = draw(3)
    got = pevl.frame_word_similarity(frames, words, mask, 0.1)
    holds(got.abs().max() <= 1, "The result is an average of cosines and lies in [-1, 1].")


def test_the_default_temperature_is_a_hundredth():
    """Where no tau is given it is 0.01 (D10)."""
    frames, words, mask = draw()
    close(pevl.frame_word_similarity(frames, words, mask),
          pevl.frame_word_similarity(frames, words, mask, 0.01),
          "Without an argument tau is 0.01 (D10).",
          tol=0)


def test_gradients():
    """Slopes by autograd equal those of small steps."""
    frames, words, mask = draw(B=1)
    gradients_are_right(lambda f, w: pevl.frame_word_similarity(f, w, mask, 0.3), frames, words,
                        why="The gradients are not those of the values: is something detached?")
