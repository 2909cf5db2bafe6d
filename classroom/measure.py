"""One toy clip through PeVL, and the shape of every tensor on its way, line by line.

The page beside the paper (classroom/page.py) shows what is measured here. Nothing is read from
data/: the clips are drawn anew, joints with a detector's faults among them, and the model is that
with which training on the toy benchmark starts. For ViT-B/16 the same code runs on torch's "meta"
device, where tensors have shapes and no values: its shapes are computed by the very same lines.

here        | what it gives                                 | tests/test_annotated.py
toy_batch   | clips of the toy benchmark, without its files | test_the_clip_is_the_benchmarks_own
Watch       | shapes of tensors, by function and line       | test_shapes_are_those_of_the_comments
measure_toy | the toy clip: shapes, maps, cosines           | test_the_page_is_what_the_source_makes
measure_vit | the shapes of Sec. 4.1's model                | test_shapes_are_those_of_the_comments

B clips, T pose frames, Tv video frames, J joints, N patches, W words, K labels.
"""
import ast
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import clip_model
import pevl
from clip_model import load_clip, normalise, token_texts
from data import DATASETS, cut, place, test_view
from pevl import cosine, predict, text_discrepancy
from published.annotations import diving_text
from support.processes import reseed
from support.sampling import nearest, sample_instants, video_frame_index
from systems.config import PeVLConfig
from systems.registry import build_model
from tables.costs import build_on_meta
from toy.divers import HEIGHT, TOY_CLASSES, TOY_JOINTS, WIDTH
from toy.picture import toy_frame
from toy.presets import TOY_PRESETS
from toy.tree import TOY_SETTINGS, toy_footage

FILES = {"pevl.py": pevl.__file__, "clip_model.py": clip_model.__file__}

# The clips of the test split that are shown: the first is in the pictures. Their labels differ, as
# Eq. (5) has nothing to weigh where all labels of a batch are one.
NUMBERS = (0, 5, 10)


# ---- The clip ------------------------------------------------------------------------------------

def toy_config():
    """The settings with which `python train.py` builds its model: a PeVLConfig."""
    names = set(PeVLConfig.__dataclass_fields__)
    chosen = {name: value for name, value in TOY_PRESETS["toy"].items() if name in names}
    return PeVLConfig(**chosen)


def toy_texts():
    """The prompts of the toy benchmark's 16 labels."""
    prompt = DATASETS["toy"].prompt
    return [prompt.format(diving_text(list(words))) for words in TOY_CLASSES]


def toy_clip(number, config):
    """Clip `number` of the test split in its middle crop, drawn and not decoded.

    Returns frames (Tv, 3, S, S) uint8, keypoints (T, J, 2) in [-1, 1], scores (T, J), float32, and
    the label.
    """
    label = number % len(TOY_CLASSES)
    clip = toy_footage(TOY_SETTINGS, "test", label, number)

    # The T frames in the middle of T equal parts, as an evaluation takes them.
    instants = sample_instants(clip.times, np.full(config.pose_frames, 0.5))
    rows = nearest(clip.times, instants)

    # The middle crop, as an evaluation with one view takes it.
    S = config.image_size
    view = test_view(HEIGHT, WIDTH, S, views=1)
    h, w = view.size
    frames = []
    for i in rows[video_frame_index(config.pose_frames, config.video_frames)]:
        # A decoder scales the whole frame to the crop's height; so does this, with its own filter.
        drawn = toy_frame(clip.dive, clip.times[i], clip.centres[i], clip.points[i])
        small = torch.from_numpy(drawn.copy()).permute(2, 0, 1)[None].float()
        small = torch.nn.functional.interpolate(small, size=(h, w), mode="bilinear", antialias=True)
        pixels = small[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
        frames.append(cut(pixels, view.boxes[0], S).transpose(2, 0, 1))     # (3, S, S)

    placed, scores = place(clip.keypoints[rows], clip.scores[rows], (HEIGHT, WIDTH), view,
                           flip_index=None)
    return {"frames": torch.from_numpy(np.stack(frames)),
            "keypoints": torch.from_numpy(placed[0]).float(),
            "scores": torch.from_numpy(scores[0]).float(),
            "label": torch.tensor(label)}


def toy_batch(config):
    """The clips of NUMBERS as a batch, as ActionModel says."""
    clips = [toy_clip(number, config) for number in NUMBERS]
    return {name: torch.stack([clip[name] for clip in clips]) for name in clips[0]}


# ---- Shapes, line by line ------------------------------------------------------------------------

def statements_of(tree):
    """First line of the innermost statement -> for each line of a file."""
    starts = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt):
            continue
        # Of the statements around a line, the innermost is the one that begins last.
        for line in range(node.lineno, node.end_lineno + 1):
            starts[line] = max(starts.get(line, 0), node.lineno)
    return starts


def functions_of(tree):
    """First line, decorators included -> the name of a function, `Class.method` of a method."""
    found = {}

    def walk(nodes, before):
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                walk(node.body, f"{node.name}.")
            if isinstance(node, ast.FunctionDef):
                lines = [node.lineno] + [one.lineno for one in node.decorator_list]
                found[min(lines)] = before + node.name

    walk(tree.body, "")
    return found


def tensors_in(name, value):
    """(name, tensor) of what a function returns: a tensor, a tuple's tensors or a dict's."""
    if isinstance(value, torch.Tensor):
        return [(name, value)]
    found = []
    if isinstance(value, dict):
        for key, one in value.items():
            found += tensors_in(f"{name}: {key}", one)
    elif isinstance(value, tuple):
        for number, one in enumerate(value, 1):
            found += tensors_in(f"{name}, {number}.", one)
    return found


class Watch:
    """While it is open, the tensors that functions of FILES make are noted: where, name, shape.

        with Watch() as watch:
            model(batch)
        watch.shapes["pevl.py", "patch_weight"][line, "visible"]      # (2, 4, 17)

    The line is that of the statement; 0 for what a function is called with, -1 for what it returns.
    The first call of a function counts: a block that runs twelve times has one set of shapes. Of a
    class of layers with different widths it is the first one's.
    """

    def __init__(self):
        self.shapes = {}
        self.places = {}
        for short, path in FILES.items():
            tree = ast.parse(Path(path).read_text("utf-8"))
            self.places[path] = (short, functions_of(tree), statements_of(tree))

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self.call)
        return self

    def __exit__(self, *_):
        sys.settrace(self.before)

    def call(self, frame, event, arg):
        """A function begins: follow it where it is ours and was not seen before."""
        code = frame.f_code
        if event != "call" or code.co_filename not in self.places:
            return None
        short, functions, starts = self.places[code.co_filename]
        name = functions.get(code.co_firstlineno, "")
        # A comprehension begins on a function's line too, and is none.
        if name.rpartition(".")[2] != code.co_name or (short, name) in self.shapes:
            return None

        noted = self.shapes[short, name] = {}
        # Name -> the tensor itself: as long as it is held here, no other tensor can be it.
        seen = {}
        for local, value in frame.f_locals.items():
            if isinstance(value, torch.Tensor):
                seen[local] = value
                noted[0, local] = tuple(value.shape)
        line = [frame.f_lineno]

        def step(frame, event, arg):
            # What has changed was changed by the statement that ran last.
            at = starts.get(line[0], line[0])
            for local, value in frame.f_locals.items():
                if isinstance(value, torch.Tensor) and seen.get(local) is not value:
                    seen[local] = value
                    noted[at, local] = tuple(value.shape)
            if event == "return":
                for what, tensor in tensors_in("returns", arg):
                    noted[-1, what] = tuple(tensor.shape)
            line[0] = frame.f_lineno
            return step

        return step


def walk_fig_2(model, batch):
    """Everything that Fig. 2 shows, once: features, similarities, losses, Eq. (7)."""
    features = model(batch)
    model.losses(features)
    logits = model.class_logits(features, model.encode_texts())
    predict(logits["all"])

    # Asked once, when the model is built; here again, so that its shapes are seen.
    text_discrepancy(model.clip.encode_text(model.tokens)[0])
    return features


# ---- Toy and ViT-B/16 ----------------------------------------------------------------------------

@dataclass
class Measured:
    """What the page shows of one model."""
    shapes: dict                                  # of Watch
    config: PeVLConfig
    classes: int                                  # K
    label: str = ""                               # of the clip in the pictures
    strip: dict = field(default_factory=dict)     # as report.draw.draw_strip wants it
    words: list = field(default_factory=list)     # of the label's text
    cosines: Any = None                           # A of Eq. (4): (T, words)


def measure_toy():
    """The toy clip through the model with which training starts -> Measured."""
    # New layers are drawn from a seed of their own; the caller's random numbers go on as they were.
    config = toy_config()
    texts = toy_texts()
    state = torch.random.get_rng_state()
    reseed(0)                                     # as train.py does, of seed 0
    model = build_model(config, load_clip("tiny"), texts).eval()
    torch.random.set_rng_state(state)

    batch = toy_batch(config)
    with torch.no_grad():
        with Watch() as watch:
            features = walk_fig_2(model, batch)
            normalise(batch["frames"])
        maps = model.attention_maps(batch)
        text = model.encode_texts()

        label = int(batch["label"][0])
        mask = text["word_mask"][label]                                     # (W,)
        A = cosine(features["pose_frames"][0], text["words"][label, mask])  # (T, words)

    # The first clip alone, as the report's films want it: joints where there is a frame, too.
    at = model.video_index
    strip = {"frames": batch["frames"][0].permute(0, 2, 3, 1).numpy(),
             "keypoints": batch["keypoints"][0, at].numpy(),
             "scores": batch["scores"][0, at].numpy(),
             "joints": TOY_JOINTS,
             "maps": {name: x[0].float().numpy() for name, x in maps.items()}}
    return Measured(shapes=watch.shapes, config=config, classes=len(texts), label=texts[label],
                    strip=strip, words=token_texts(model.tokens[label, mask]), cosines=A.numpy())


def measure_vit():
    """The shapes of Sec. 4.1's model, ViT-B/16 on 48 prompts like Diving48's -> Measured."""
    config = PeVLConfig()
    model, _ = build_on_meta(config, joints=17)
    B, T, Tv, S = len(NUMBERS), config.pose_frames, config.video_frames, config.image_size
    with torch.device("meta"):
        batch = {"frames": torch.empty(B, Tv, 3, S, S), "keypoints": torch.empty(B, T, 17, 2),
                 "scores": torch.empty(B, T, 17), "label": torch.zeros(B).long()}
    with torch.no_grad(), Watch() as watch:
        walk_fig_2(model, batch)
    return Measured(shapes=watch.shapes, config=config, classes=model.classes)
