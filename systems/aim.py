"""AIM (ICLR 2023): PeVL's main rival on Diving48, and the source of its adapters (reference 59).

Video alone: the adapted tower of pevl.py with attention over time, and a linear head. What PeVL
adds to it are pose, text and all of UCMR and SGMC.

here               | what it is                        | tests/test_rivals.py
AIM                | tower, mean class token, head     | test_aim_starts_as_clip, test_aim_reads_...
AIM.load_published | its authors' checkpoints          | test_aim_published_names_round_trip

Axes: B clips, Tv video frames, Nv tokens of a frame, S pixels a side, K classes, d width.
"""
import copy

import torch
import torch.nn.functional as F
from torch import nn

from clip_model import normalise
from pevl import VideoTower
from systems.base import ActionModel, copy_all


class AIM(ActionModel):
    """Video tower with temporal, spatial and MLP adapters, mean of class tokens, linear head.

    Arguments as of ActionModel; labels are rows of the head, so that no text is encoded.
    """

    PARTS = {"video tower": "video", "last norm": "ln_post", "head": "head"}

    # Our name of a module -> theirs.
    PUBLISHED = {
        "temporal_adapter": "T_Adapter",
        "spatial_adapter": "S_Adapter",
        "mlp_adapter": "MLP_Adapter",
        "down": "D_fc1",
        "up": "D_fc2",
    }

    def __init__(self, config, clip, texts, joints=17):
        super().__init__(config, clip, texts, joints)
        self.video = VideoTower(config, clip.config, frames=config.video_frames)

        # The one layer of CLIP that its authors train, at the rate of the adapters; a copy, so that
        # the CLIP that the adapters stand on stays as it was published.
        self.ln_post = copy.deepcopy(clip.visual.ln_post)
        self.ln_post.requires_grad_(True)
        self.head = nn.Linear(clip.config.vision_width, self.classes)

    def forward(self, batch):
        """batch as of ActionModel, its frames alone -> dict: label, video (B, d).

        The class tokens after our ln_post, not through CLIP's proj: there is no text to meet.
        Raises ValueError where a shape differs from what the model was built for.
        """
        self.check_batch(batch, video=True, pose=False)
        frames = normalise(batch["frames"])                                 # (B, Tv, 3, S, S)
        z, _ = self.video(frames, self.clip.visual, asking=1)               # (B, Tv, 1, d)
        class_tokens = self.ln_post(z[:, :, 0])                             # (B, Tv, d)
        return {"label": batch["label"], "video": class_tokens.mean(1)}

    def class_logits(self, features, text=None):
        """{"all": (B, K)}: the head, behind dropout of a half in training."""
        return {"all": self.head(F.dropout(features["video"], 0.5, self.training))}

    @torch.no_grad()
    def attention_maps(self, batch):
        """{"attention": (B, Tv, N)}: the class token's in the last block, without its own share."""
        frames = normalise(batch["frames"])                                 # (B, Tv, 3, S, S)
        _, weights = self.video(frames, self.clip.visual, need_weights=True, asking=1)
        return {"attention": weights[..., 1:]}

    def load_published(self, state):
        """Copy an AIM checkpoint as its authors publish it, frozen part included.

        state: name -> tensor, `backbone.*` and `cls_head.fc_cls.*`, with one temporal adapter a
        block, as on Kinetics and Diving48 (two for Something-Something). Theirs is sequence first,
        ours batch first: the weights agree. ValueError where any name or shape differs.
        """
        target = {}
        for name, p in self.head.named_parameters():
            target[f"cls_head.fc_cls.{name}"] = p
        for name, p in self.clip.visual.named_parameters():
            if name != "proj":                            # theirs has none, ours is not read
                target[f"backbone.{name}"] = p
        for name, p in self.ln_post.named_parameters():   # in place of CLIP's, which is not read
            target[f"backbone.ln_post.{name}"] = p
        for name, p in self.video.blocks.named_parameters():
            words = name.split(".")                       # such as 0, mlp_adapter, up, bias
            theirs = ".".join(self.PUBLISHED.get(word, word) for word in words)
            target[f"backbone.transformer.resblocks.{theirs}"] = p
        temporal = self.video.temporal_embedding          # (Tv, 1, d), theirs (1, Tv, d)
        target["backbone.temporal_embedding"] = temporal.transpose(0, 1)

        copy_all(state, target, "no AIM checkpoint for this backbone, frame count and classes: {}. "
                 "Expected equal names and shapes. Set --backbone, --video-frames and --data.")
