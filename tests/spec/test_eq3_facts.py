"""Eq. (3), Sec. 3.2.3: among the clips of a batch, a clip is nearest to its own refinement."""
import pytest
import torch

import pevl
from expected import cases
from spec import close, gradients_are_right, holds, randn, worked_example_holds

pytestmark = pytest.mark.eq3


def test_worked_example():
    """The numbers in the docstring come out as printed."""
    worked_example_holds(pevl.nt_xent, pevl)


def test_two_clips_by_hand():
    """Two clips at right angles, tau 1: -log(e / (e + 1)) = 0.3133 for each; mean, not sum."""
    z = torch.eye(2).double()
    close(pevl.nt_xent(z, z, 1.0), 0.3132617, "Two clips at right angles and tau = 1 give 0.3133, "
          "the mean over clips and directions. 0.6265 is a sum over clips or directions (D8); a "
          "negative number lacks the clip itself in the denominator.", tol=1e-5)


def test_nt_xent_matches_loops():
    """The loss of random clips equals what a loop gives."""
    for case in cases("eq3.nt_xent"):
        got = pevl.nt_xent(case["z"], case["z_refined"], case["temperature"])
        close(got, case["want"],
              "NT-Xent differs from a loop over clips. The facts beside this one say which rule it "
              "is.")


def test_directions_count_and_lengths_do_not():
    """Ten times longer features give the same loss, turned round ones another: cosines."""
    z, r = randn(0, 4, 6), randn(1, 4, 6)
    holds((pevl.nt_xent(-z, r, 0.5) - pevl.nt_xent(z, r, 0.5)).abs() > 1e-6,
          "Features that point the other way must give another loss.")
    close(pevl.nt_xent(10 * z, 3 * r, 0.5), pevl.nt_xent(z, r, 0.5),
          "sim in Eq. (3) is the cosine: lengths must not count. Is it a dot product?")


def test_the_temperature_divides():
    """A smaller temperature sharpens: 0.3133 at 1 becomes 0.1269 at 0.5."""
    z = torch.eye(2).double()
    close(pevl.nt_xent(z, z, 0.5), 0.1269280, "Cosines are divided by tau. Are they multiplied by "
          "it, or is it ignored?", tol=1e-5)


def test_both_directions_count():
    """Before and after may change places."""
    z, r = randn(0, 4, 6), randn(1, 4, 6)
    close(pevl.nt_xent(z, r, 0.5), pevl.nt_xent(r, z, 0.5),
          "The loss is the mean of both directions, rows and columns of the same matrix (D8); "
          "yours has one.")


def test_a_clip_is_compared_with_refined_clips():
    """Where every clip became its neighbour, the loss is high; where it stayed itself, low."""
    z = torch.eye(3).double()
    stayed, swapped = pevl.nt_xent(z, z, 0.2), pevl.nt_xent(z, z[[1, 2, 0]], 0.2)
    holds(stayed < 0.1 and swapped > 4,
          f"Clip i before is to be near clip i after refinement. Yours gives {float(stayed):.3f} "
          f"for clips that stayed and {float(swapped):.3f} for clips that changed places: is one "
          "of the two arguments compared with itself?")


def test_one_clip_alone_costs_nothing():
    """There is no other clip to be told from."""
    close(pevl.nt_xent(randn(0, 1, 6), randn(1, 1, 6), 0.1), 0.0,
          "With one clip the softmax is over one number, so that the loss is 0: the clip itself "
          "belongs in the denominator.")


def test_it_is_never_negative():
    """Not even where the clips agree perfectly."""
    for seed in range(5):
        z = randn(seed, 4, 6)
        holds(pevl.nt_xent(z, z, 0.05) >= 0,
              "-log of a share is at least 0: the positive pair must be in the denominator, too.")


def test_clips_have_no_order():
    """Clips in another order give the same loss."""
    z, r = randn(0, 4, 6), randn(1, 4, 6)
    order = [2, 0, 3, 1]
    close(pevl.nt_xent(z[order], r[order], 0.5), pevl.nt_xent(z, r, 0.5),
          "The order of the clips in a batch must not count.")


def test_both_sides_learn():
    """The gradient reaches the features before and after refinement."""
    z, r = randn(0, 3, 4).requires_grad_(), randn(1, 3, 4).requires_grad_()
    pevl.nt_xent(z, r, 0.5).backward()
    holds(z.grad is not None and z.grad.any(), "No gradient reaches z, the features before "
          "refinement: Eq. (3) stops none.")
    holds(r.grad is not None and r.grad.any(), "No gradient reaches z_refined.")


def test_gradients():
    """Slopes by autograd equal those of small steps, the temperature's too."""
    tau = torch.tensor(0.3, dtype=torch.float64)
    gradients_are_right(pevl.nt_xent, randn(0, 3, 4), randn(1, 3, 4), tau,
                        why="NT-Xent's gradients are not those of its values: is something "
                            "detached, or tau a float?")
