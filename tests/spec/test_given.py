"""What holds before a student has written a line: facts about the code that is given.

They stand apart from test_<mark>_facts.py, whose facts are graded: points are for work.
"""
import numpy as np
import pytest

import clip_model
import pevl
from spec import close, f64, holds, worked_example_holds
from test_data_facts import clips_of, numbers


@pytest.mark.eq2
def test_worked_example():
    """The numbers in the docstring come out as printed."""
    worked_example_holds(pevl.V2P, pevl)


@pytest.mark.clip
def test_pictures_are_normalised_by_clips_own_mean():
    """Red, green, blue: typed once more from OpenAI's release."""
    close(f64(*clip_model.CLIP_MEAN), f64(0.48145466, 0.4578275, 0.40821073), "CLIP_MEAN is in the "
          "order red, green, blue.", tol=0)
    close(f64(*clip_model.CLIP_STD), f64(0.26862954, 0.26130258, 0.27577711), "CLIP_STD is in the "
          "order red, green, blue.", tol=0)
    holds(clip_model.CLIP_MEAN[0] > clip_model.CLIP_MEAN[2], "Red is brighter than blue.")


@pytest.mark.data
def test_training_draws_its_moments():
    """In training the moments differ from draw to draw, in evaluation they are the middles."""
    clips = clips_of()
    generator = np.random.default_rng(0)
    first = clips._draw(generator)
    second = clips._draw(generator)
    holds(len(set(first.moments)) == 6,
          "In training each frame is drawn in its part: no jitter here.")
    holds(set(first.moments).isdisjoint(second.moments),
          "In training each draw has moments of its own: these two are alike.")
    draw = clips_of(train=False)._draw(np.random.default_rng(0))
    close(numbers(draw.moments), numbers([0.5] * 6), "In evaluation the moments are the middles.")


@pytest.mark.data
def test_joint_noise_is_a_part_of_the_frame():
    """Noise of 0.1 in a frame of 100 x 1000 pixels: 100 across, 10 down."""
    still = np.zeros((400, 17, 2))
    moved, _ = clips_of(joint_noise=0.1)._disturb(still, np.ones((400, 17)), (100, 1000),
                                                  np.random.default_rng(0))
    close(numbers(moved.std((0, 1))) / f64(100, 10),
          f64(1, 1),
          "joint_noise is a part of the frame's size: its "
          "width for x, its height for y. Are they exchanged?",
          tol=0.05)
