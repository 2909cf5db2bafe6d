"""Shared by the test files: hypothesis strategies of small sizes, tensors of a drawn seed, an AIM checkpoint, pixels."""
import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

sizes = st.integers(1, 4)
widths = st.sampled_from([8, 16, 32])
seeds = st.integers(0, 2**31 - 1)


def randn(seed, *shape, dtype=torch.float64):
    """Standard normal tensor (shape) that depends on `seed` alone; float64, since the tests compare formulas."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def published_aim(model):
    """The state dict of an AIM, in the names and shapes in which its authors publish theirs."""
    state = {"cls_head.fc_cls.weight": model.head.weight, "cls_head.fc_cls.bias": model.head.bias,
             "backbone.temporal_embedding": model.video.temporal_embedding.transpose(0, 1)}
    state |= {f"backbone.{n}": v for n, v in model.clip.visual.state_dict().items() if n != "proj"}
    state |= {f"backbone.ln_post.{n}": v for n, v in model.ln_post.state_dict().items()}
    for i, block in enumerate(model.video.blocks):
        for theirs, ours in (("T", block.temporal_adapter), ("S", block.spatial_adapter), ("MLP", block.mlp_adapter)):
            name = f"backbone.transformer.resblocks.{i}.{theirs}_Adapter"
            for fc, layer in (("D_fc1", ours.down), ("D_fc2", ours.up)):
                state |= {f"{name}.{fc}.weight": layer.weight, f"{name}.{fc}.bias": layer.bias}
    return {n: v.detach().clone() for n, v in state.items()}


def drawn(path, least=3):
    """The pixels of a picture, uint8 (H, W, 3), of at least `least` colours."""
    image = Image.open(path).convert("RGB")
    assert len(image.getcolors(1 << 24)) >= least, "blank"
    return np.asarray(image)
