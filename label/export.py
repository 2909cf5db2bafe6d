"""`eval.py --export onnx`: the towers of a trained run as files that other programs run.

Two files, since a text is encoded once and a clip each time: `clip.onnx`, from frames and joints to
what is compared, and `text.onnx`, from tokens to sentences and words. Each takes any number of
clips or texts. Each is checked against the module with onnxruntime, on one and on three of them,
before it gets its name. Optional: pip install onnx onnxruntime onnxscript.

paper     | what                         | here        | tests/test_export.py
Fig. 2    | the towers and UCMR          | ClipTowers  | test_export_gives_what_the_module_gives
Sec. 3.1  | the text tower               | TextTowers  | test_export_gives_what_the_module_gives
-         | files, checked               | export_onnx | test_export_gives_what_the_module_gives

Shapes: B clips, U texts; T pose frames, Tv video frames, J joints, S pixels a side, W tokens.
"""
import math
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from support.files import atomic
from support.packages import optional_package
from systems.views import answering

PACKAGES = "onnx onnxruntime onnxscript"

# Clips, or texts, of the example that is exported, then of those that are only checked. An exporter
# takes an axis of length 1 for one that is always 1, so that it is not shown that one.
SIZES = (2, 1, 3)
CLOSE = 1e-3                                      # largest difference, over the largest value


class ClipTowers(nn.Module):
    """frames (B, Tv, 3, S, S) 0..255, keypoints (B, T, J, 2), scores (B, T, J), all float32 ->
    the features of the model that are compared, in the order of `names`.

    In ONNX a name is given once: ViLP's features of frames are called frames_features there.
    """

    INPUTS = ("frames", "keypoints", "scores")

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.names = []

    def forward(self, frames, keypoints, scores):
        label = torch.zeros(frames.shape[0], dtype=torch.long)
        features = self.model({"frames": frames, "keypoints": keypoints, "scores": scores,
                               "label": label})
        read = answering(features)
        self.names = [f"{name}_features" if name in self.INPUTS else name for name in read]
        return tuple(features[name] for name in read)


class TextTowers(nn.Module):
    """tokens (U, W) int64 of prompts -> sentences (U, e), words (U, W, e)."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        text = self.model.encode_tokens(tokens)
        return text["sentences"], text["words"]


def plain_attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False):
    """scaled_dot_product_attention written out, (..., n, d), (..., m, d) -> (..., n, d).

    The exporter knows the fused one with four axes only, and attention over time has five.
    """
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])    # (..., n, m)
    if is_causal:
        n, m = scores.shape[-2:]
        later = torch.ones(n, m, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        else:
            scores = scores + attn_mask
    return scores.softmax(-1) @ value


@contextmanager
def written_out():
    """While this is open, attention is `plain_attention`."""
    fused = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = plain_attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = fused


def example_clips(model, B):
    """Made-up clips of a model's sizes: frames, keypoints and scores, as ClipTowers reads them.

    Noise is enough: an exporter records what is done with the numbers, not the numbers.
    """
    config = model.config
    rng = torch.Generator().manual_seed(B)
    S = config.image_size
    frames = 255 * torch.rand(B, config.video_frames, 3, S, S, generator=rng)
    keypoints = 2 * torch.rand(B, config.pose_frames, model.joints, 2, generator=rng) - 1
    scores = torch.rand(B, config.pose_frames, model.joints, generator=rng)
    return frames, keypoints, scores


def example_texts(model, U):
    """The tokens of U labels of a model, over again where it has fewer -> a tuple of (U, W) int64.

    As long as texts can be, so that any fits; what lies behind the end of one changes nothing.
    """
    tokens = torch.zeros(U, model.clip.config.context_length, dtype=torch.long)
    own = model.tokens[torch.arange(U) % model.classes]
    tokens[:, :own.shape[1]] = own
    return (tokens,)


def export_onnx(model, folder):
    """Write clip.onnx and, for a model that compares texts, text.onnx -> what was written, lines.

    model: an ActionModel on the CPU, in evaluation mode. Raises ValueError where a package is not
    installed, and where onnxruntime's answer is not the module's.
    """
    for package in PACKAGES.split():
        optional_package(package, PACKAGES)

    towers = ClipTowers(model).eval()
    with torch.no_grad():
        towers(*example_clips(model, 1))          # fills in the names
    examples = [example_clips(model, B) for B in SIZES]
    lines = [write_one(towers, examples, list(ClipTowers.INPUTS), towers.names,
                       folder / "clip.onnx")]
    if model.compares_texts:
        examples = [example_texts(model, U) for U in SIZES]
        lines.append(write_one(TextTowers(model).eval(), examples, ["tokens"],
                               ["sentences", "words"], folder / "text.onnx"))
    return lines


def write_one(module, examples, input_names, output_names, path):
    """One module as an ONNX file, checked -> a line that says so.

    examples: tuples of inputs, one for each of SIZES. The first is exported, all are checked.
    """
    # By the fused attention, before it is replaced: what the file is checked against.
    with torch.no_grad():
        wanted = [module(*inputs) for inputs in examples]

    # The first axis of every input is one and the same unknown number.
    batch = torch.export.Dim("batch")
    free = tuple({0: batch} for _ in input_names)
    with torch.no_grad(), written_out():
        program = torch.onnx.export(module, examples[0], dynamo=True, verbose=False,
                                    dynamic_shapes=free, input_names=input_names,
                                    output_names=list(output_names))

    with atomic(path) as part:
        program.save(str(part))
        worst = 0.0
        for inputs, outputs in zip(examples, wanted):
            worst = max(worst, largest_difference(part, inputs, input_names, outputs))
        if worst > CLOSE:
            raise ValueError(f"{path.name} differs from the module by {worst:.2g} of its largest "
                             f"value. Expected {CLOSE:g} at most. Report it with the versions of "
                             f"torch, {PACKAGES.replace(' ', ', ')}.")
    return (f"{path}: {', '.join(input_names)} -> {', '.join(output_names)}; onnxruntime and the "
            f"module differ by {worst:.1g} of the largest value")


def largest_difference(path, inputs, input_names, wanted):
    """Largest difference between onnxruntime's outputs and `wanted`, over the largest value."""
    runtime = optional_package("onnxruntime", PACKAGES)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    taken = {one.name for one in session.get_inputs()}    # an input that is not read is left out
    feed = {name: x.numpy() for name, x in zip(input_names, inputs) if name in taken}
    worst = 0.0
    for got, want in zip(session.run(None, feed), wanted):
        want = want.numpy()
        worst = max(worst, float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-9)))
    return worst
