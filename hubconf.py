"""The door for torch.hub: `torch.hub.load(FOLDER, "load", "out/toy-pevl", source="local")`.

It gives what `from eval import load` gives: a trained run that can be called with a video file.
"""
from eval import load  # noqa: F401

dependencies = ["torch", "numpy", "PIL", "av", "ftfy", "regex"]
