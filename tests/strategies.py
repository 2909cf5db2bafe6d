"""Hypothesis strategies shared by the test files: small sizes, and tensors drawn from a drawn seed."""
import torch
from hypothesis import strategies as st

sizes = st.integers(1, 4)
widths = st.sampled_from([8, 16, 32])
seeds = st.integers(0, 2**31 - 1)


def randn(seed, *shape, dtype=torch.float64):
    """Standard normal tensor (shape) that depends on `seed` alone; float64, since the tests compare formulas."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
