"""Hypothesis without a deadline and from a fixed seed: a failure here is a failure everywhere."""
import os

import pytest
import torch
from hypothesis import settings

settings.register_profile("ci", deadline=None, max_examples=25, derandomize=True, print_blob=True)
settings.register_profile("thorough", deadline=None, max_examples=300, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# Models as small as ours have nothing for two threads to do, and a run repeats bit for bit only
# with as many threads as before; so one, here and in every child that trains.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """A Diving48 tree of 16 training and 4 test clips."""
    root = tmp_path_factory.mktemp("data") / "dives"
    from toy.tree import make_toy
    make_toy(root, {"train": 16, "val": 1, "test": 4}, workers=1, progress=lambda *_: None)
    return root


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run of two steps on the small data set of dives.py: its folder, root, out and run."""
    from dives import train_on_dives
    return train_on_dives(tmp_path_factory.mktemp("trained"))
