"""What tests of all kinds share: small sizes, seeded tensors, a foreign checkpoint, pixels.

The settings of Hypothesis itself (no deadline, one seed) are in conftest.py.
"""
import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

sizes = st.integers(1, 4)
seeds = st.integers(0, 2**31 - 1)


def randn(seed, *shape, dtype=torch.float64):
    """Standard normal tensor (shape) that depends on `seed` alone; float64, to compare formulas."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def published_aim(model):
    """The state dict of an AIM, in the names and shapes in which its authors publish theirs."""
    state = {
        "cls_head.fc_cls.weight": model.head.weight,
        "cls_head.fc_cls.bias": model.head.bias,
        "backbone.temporal_embedding": model.video.temporal_embedding.transpose(0, 1),
    }
    for name, value in model.clip.visual.state_dict().items():
        if name != "proj":                        # AIM classifies what comes before it
            state[f"backbone.{name}"] = value
    for name, value in model.ln_post.state_dict().items():
        state[f"backbone.ln_post.{name}"] = value

    for number, block in enumerate(model.video.blocks):
        theirs = f"backbone.transformer.resblocks.{number}"
        state.update(published_adapter(f"{theirs}.T_Adapter", block.temporal_adapter))
        state.update(published_adapter(f"{theirs}.S_Adapter", block.spatial_adapter))
        state.update(published_adapter(f"{theirs}.MLP_Adapter", block.mlp_adapter))
    return {name: value.detach().clone() for name, value in state.items()}


def published_adapter(name, adapter):
    """The parameters of an adapter as AIM calls them."""
    return {
        f"{name}.D_fc1.weight": adapter.down.weight,
        f"{name}.D_fc1.bias": adapter.down.bias,
        f"{name}.D_fc2.weight": adapter.up.weight,
        f"{name}.D_fc2.bias": adapter.up.bias,
    }


def drawn(path, least=3):
    """The pixels of a picture, uint8 (H, W, 3), which has at least `least` colours."""
    image = Image.open(path).convert("RGB")
    colours = image.getcolors(maxcolors=1 << 24)
    assert len(colours) >= least, f"{path} is blank: {len(colours)} colours"
    return np.asarray(image)
