"""CLIP as it is, zero-shot: what the frozen model knows of actions before anything is trained.

here         | what it is                             | tests/test_rivals.py
ZeroShotCLIP | mean frame against the texts of labels | test_zero_shot_clip_averages_unit_frames
"""
import torch

from clip_model import normalise
from pevl import cosine, unit
from systems.base import ActionModel, inverse_tau


class ZeroShotCLIP(ActionModel):
    """Mean of the frames' unit features against the texts; nothing is new, nothing is trained.

    Arguments as of ActionModel. tau is CLIP's own.
    """

    def forward(self, batch):
        """batch as of ActionModel, its frames (B, Tv, 3, S, S) alone -> label, image (B, e)."""
        frames = normalise(batch["frames"])
        B, Tv = frames.shape[:2]
        image = self.clip.encode_image(frames.flatten(0, 1))                # (B Tv, e)
        image = image.unflatten(0, (B, Tv))                                 # (B, Tv, e)
        return {"label": batch["label"], "image": unit(image).mean(1)}

    def logits(self, a, b):
        """a (B, e), b (K, e) -> cosines over CLIP's tau, (B, K)."""
        return inverse_tau(self.clip.logit_scale) * cosine(a, b)

    def class_logits(self, features, text=None):
        """{"all": (B, K)}: images against the sentences of all labels."""
        if text is None:
            text = self.encode_texts()
        return {"all": self.logits(features["image"], text["sentences"])}

    @torch.no_grad()
    def attention_maps(self, batch):
        """{"attention": (B, Tv, N)}: the class token's in the last block, without its own share."""
        B, Tv = batch["frames"].shape[:2]
        frames = normalise(batch["frames"]).flatten(0, 1)                   # (B Tv, 3, S, S)
        weights = self.clip.visual.class_attention(frames)                  # (B Tv, N)
        return {"attention": weights.unflatten(0, (B, Tv))}
