"""Joints as pictures: tokens of heatmaps, the rival of coordinates in PeVL's Table 9.

The joints of a frame are drawn as channels of an image, one Gaussian for each, and the image is cut
into patches, as CLIP cuts a picture. The pose tower of pevl.py then reads patches where it else
reads joints (D22 of the ledger, docs/ledger.md).

paper   | here          | tests/test_rivals.py
Table 9 | HeatmapTokens | test_tokens_of_heatmaps_lie_where_their_joint_is

Axes: B clips, T pose frames, J joints, d width.
"""
import torch
from torch import nn

from pose import gaussian_heatmaps


class HeatmapTokens(nn.Module):
    """Joints -> patches of their heatmaps, a linear map of each patch + a learned position.

    joints: J, channels of the image. d: width of a token.
    """

    SIDE = 112      # pixels, Sec. 4.3.5
    PATCH = 16      # pixels; ours: 7 x 7 patches cost 309.5 G, of Table 9's 311
    SIGMA = 2.0     # pixels, deviation of a joint's Gaussian; ours

    def __init__(self, joints, d):
        super().__init__()
        count = (self.SIDE // self.PATCH) ** 2            # 49
        self.patches = nn.Conv2d(joints, d, self.PATCH, self.PATCH, bias=False)
        self.position = nn.Parameter(torch.randn(count, d) * d ** -0.5)

    def forward(self, keypoints, scores):
        """keypoints (B, T, J, 2) in [-1, 1], scores (B, T, J), 0 = not found -> (B, T, 49, d).

        A joint that was not found is drawn nowhere: its channel is black.
        """
        side = self.SIDE
        pixels = (keypoints + 1) / 2 * side - 0.5         # the centre of the first pixel is 0
        maps = gaussian_heatmaps(pixels, scores, (side, side), self.SIGMA)  # (B, T, J, 112, 112)
        patches = self.patches(maps.flatten(0, 1))                          # (B T, d, 7, 7)
        patches = patches.flatten(2).transpose(1, 2)                        # (B T, 49, d)
        return patches.unflatten(0, scores.shape[:2]) + self.position       # (B, T, 49, d)
