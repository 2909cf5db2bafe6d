"""Hypothesis runs without a deadline and from a fixed seed, so that a failure here is a failure everywhere."""
import os

import torch
from hypothesis import settings

settings.register_profile("ci", deadline=None, max_examples=25, derandomize=True, print_blob=True)
settings.register_profile("thorough", deadline=None, max_examples=300, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
