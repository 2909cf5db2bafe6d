"""Numbers of other people's files that no formula gives: typed once more."""
import numpy as np
import pytest
import torch

from published import hrnet


def test_people_are_normalised_by_imagenets_mean_red_first():
    """A red picture is bright in the first channel; the numbers are ImageNet's."""
    assert hrnet.MEAN == (0.485, 0.456, 0.406), "ImageNet's mean is red, green, blue"
    assert hrnet.STD == (0.229, 0.224, 0.225), "ImageNet's deviation is red, green, blue"
    red = np.zeros((64, 48, 3), np.uint8)
    red[..., 0] = 255
    crop = hrnet.crop_people([red], torch.tensor([[0.0, 0.0, 47.0, 63.0]]), (64, 48))
    middle = crop[0, :, 32, 24].tolist()
    want = [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    assert middle == pytest.approx(want, abs=1e-4), "a person's crop is not normalised as RGB"
