"""The tiny CLIP's pretraining: stills of the toy world with captions, and the command that does it.

    python -m toy.stills --export toy/tiny-clip.pt         from nothing; 37 minutes on two cores

PeVL stands on a CLIP that has seen pictures with texts. The published ones are too large for a
laptop's minutes, so the toy benchmark has a tiny one, and this file made it. It shows divers,
boards and pools that no clip of the benchmark shows (identities are disjoint).

part                                   here            tests/test_stills.py
a still, its caption, its attributes   ToyStills       test_stills
CLIP's contrast where captions repeat  CaptionedCLIP   test_captions_true_*
share of attributes that are read      zero_shot       test_zero_shot_*
what the training loop has to know     StillsJob       test_stills

Shapes: B stills, A attributes, W tokens of a text, e joint embedding, S side of a picture.
"""
if __name__ == "__main__":                        # before PyTorch, which takes seconds to import
    import support.interrupt

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from clip_model import BACKBONES, tokenize
from data import DataConfig, cut, place, test_view, tint, train_view
from pevl import normalise, two_way_kl
from support.checkpoints import write_torch
from support.commands import run_command
from support.settings import Range, build_configs, check_fields
from systems.config import PeVLConfig
from systems.zero_shot import ZeroShotCLIP
from toy.captions import (PARTS, TOY_ATTRIBUTES, TOY_HELD_OUT_STILLS, TOY_PHRASES, toy_captions,
                          toy_paraphrase, toy_parts, toy_still, toy_vector)
from toy.presets import TINY
from train import Job, TrainConfig, train


# ---- Stills with captions ------------------------------------------------------------------------

class Still(NamedTuple):
    """What the training loop asks of a sample: a name for messages. The captions are elsewhere."""
    id: str
    label: int = 0


class ToyStills(torch.utils.data.Dataset):
    """Captioned stills, drawn on demand; nothing lies on disk.

    An item: frames uint8 (1, 3, S, S); parts (N, P) bool, what each patch shows; attributes (A,)
    int64, -1 = cannot be told; mentions (A,) bool, what the caption speaks of; tokens (W,), the
    caption; facts (5,) int64, of a label of its own, 0 = not said; wordings (2, W), these facts as
    labels say them, and otherwise; caption str; label 0; index int64; broken False. Item
    n + epoch * len(self) is new in every epoch of training; other splits hold stills that training
    never shows.
    """
    metrics = ("top1",)                           # chooses the best epoch
    labels = texts = ["a diver"]
    joints = ()

    def __init__(self, cfg, split, length=None):
        self.cfg = cfg
        self.split = split
        self.length = length or (20000 if split == "train" else 1000)
        self.attributes = list(TOY_ATTRIBUTES)
        self.clips = [Still(f"still {i}") for i in range(self.length)]

    def prompts(self, name):
        """The wordings of each value of an attribute, in the order of its numbers."""
        return [list(ways) for ways in TOY_PHRASES[name].values()]

    def __len__(self):
        return self.length

    def seed(self, number):
        """The still's number in the world: other splits lie far away from training's."""
        if self.split == "train":
            return number
        second = self.length if self.split == "test" else 0
        return number + TOY_HELD_OUT_STILLS + second

    def __getitem__(self, number):
        number = int(number)
        seed = self.seed(number)
        rng = np.random.default_rng([self.cfg.seed, seed])
        image, attributes, points, thing = toy_still(seed)
        frame, view = self.crop(image, rng)
        caption, mentions = toy_captions(attributes, rng)
        as_label, otherwise, facts = toy_paraphrase(rng)

        length = BACKBONES["tiny"].context_length
        return {
            "frames": torch.from_numpy(frame),
            "parts": self.parts(points, thing, view, image.shape[:2]),
            "attributes": torch.from_numpy(toy_vector(attributes) - 1),
            "mentions": torch.from_numpy(mentions),
            "tokens": tokenize([caption], length)[0],
            "facts": torch.from_numpy(facts),
            "wordings": tokenize([as_label, otherwise], length),
            "caption": caption,
            "label": torch.tensor(0),
            "index": torch.tensor(number % self.length),
            "broken": torch.tensor(False),
        }

    def crop(self, image, rng):
        """A still (h, w, 3) uint8 -> (1, 3, S, S), and the View that it was cut by: the centre or,
        in training, a random part of at least 65 %, away from the edges, with other light."""
        # Cut by the functions that cut clips (data.py), but to smaller, square parts, and tinted.
        S = self.cfg.image_size
        H, W = image.shape[:2]
        view = test_view(H, W, S, 1)
        if self.split == "train":
            area = rng.random()
            place = rng.uniform(0.2, 0.8, 2)
            square, no_flip = 0.5, 1.0
            draws = np.array([area, square, *place, no_flip])
            view = train_view(H, W, S, draws, 0.65, False)
            image = tint([image], rng.random(3), 0.2)[0]
        height, width = view.size
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        square = cut(np.asarray(resized), view.boxes[0], S)             # (S, S, 3)
        return square.transpose(2, 0, 1)[None].copy(), view

    def parts(self, points, thing, view, size):
        """Which patches show which parts of the body: (N, P) bool, N patches by row, P of PARTS.

        points: (23, 2), pixels of a still of `size` (H, W). thing: what is held. view: the crop.
        """
        places, numbers = toy_parts(points, thing)                      # (n, 2), (n,)
        joints = (places - 0.5)[None]                                   # as pose files count pixels
        placed, _ = place(joints, np.ones(joints.shape[:2]), size, view, flip_index=None)

        side = self.cfg.image_size // BACKBONES["tiny"].patch_size
        cell = np.floor((placed[0, 0] + 1) / 2 * side).astype(int)      # (n, 2), column and row
        inside = ((cell >= 0) & (cell < side)).all(1)
        column, row = cell[inside].T
        shows = np.zeros((side * side, len(PARTS)), bool)
        shows[row * side + column, numbers[inside]] = True
        return torch.from_numpy(shows)


# ---- The model: CLIP's contrast, where captions can be true of several pictures ------------------

class CaptionedCLIP(ZeroShotCLIP):
    """CLIP, all of it trained, on pictures and captions, and a head that names what patches show.

    The head is thrown away afterwards. It stands for what 400 million pictures teach the published
    CLIPs: their patches know what they show. From captions alone the tiny one would not learn, in
    hours, where the limbs of a body are, and then not a position either.
    """
    PARTS = {"naming of patches": "part_head"}    # beside CLIP, what is trained
    paraphrase = 1.0                              # weight of L_text
    part_weight = 10.0                            # weight of L_parts

    def __init__(self, *args):
        super().__init__(*args)
        self.part_head = nn.Linear(self.clip.config.vision_width, len(PARTS))
        self.register_buffer("yes", torch.tensor(4.0), persistent=False)

    def forward(self, batch):
        """-> label, image (B, e), sentence (B, e), patches (B, N, P); beside them what the
        losses compare: parts (B, N, P), attributes (B, A), mentions (B, A). Unless `paraphrase` is
        0 also wordings (B, 2, e) and their facts (B, 5)."""
        if "tokens" not in batch:
            return super().forward(batch)

        visual = self.clip.visual
        frames = normalise(batch["frames"][:, 0])                       # (B, 3, S, S)
        tokens = visual.transformer(visual.embed(frames))               # (B, Nv, d)
        features = {"label": batch["label"],
                    "image": visual.read_out(tokens[:, 0]),
                    "patches": self.part_head(visual.ln_post(tokens[:, 1:])),
                    "parts": batch["parts"]}
        features["sentence"] = self.clip.encode_text(batch["tokens"])[0]
        features["attributes"] = batch["attributes"]
        features["mentions"] = batch["mentions"]
        if self.paraphrase:
            texts = batch["wordings"].flatten(0, 1)                     # (2 B, W)
            features["wordings"] = self.clip.encode_text(texts)[0].unflatten(0, (-1, 2))
            features["facts"] = batch["facts"]
        return features

    def losses(self, features):
        """total = L_t + paraphrase * L_text + part_weight * L_parts.

        L_t: the contrast of pictures and captions. Every caption is a positive of a picture that
        is true of it in all that it names: two divers in red are both "dressed in red". L_text: the
        contrast of two wordings of the same facts. Pictures alone cannot keep texts apart (no still
        shows a take-off), but Eq. (5) measures how far texts are from each other. L_parts: whether
        each patch shows each part, yes or no; most show none, so that a yes counts more.
        """
        attributes = features["attributes"]
        agrees = attributes[:, None] == attributes[None]                # (B, B, A)
        unsaid = ~features["mentions"][None]                            # (1, B, A): the caption's
        true = (agrees | unsaid).all(-1).float()                        # (picture, caption)
        L_t = two_way_kl(self.logits(features["image"], features["sentence"]), true)
        losses = {"total": L_t, "L_t": L_t}
        if "parts" in features:
            L_parts = F.binary_cross_entropy_with_logits(
                features["patches"], features["parts"].float(), pos_weight=self.yes)
            losses["L_parts"] = L_parts
            losses["total"] = losses["total"] + self.part_weight * L_parts
        if "wordings" not in features:
            return losses

        facts = features["facts"]
        same = (facts[:, None] == facts[None]).all(-1).float()          # (B, B)
        as_label, otherwise = features["wordings"].unbind(1)            # each (B, e)
        L_text = two_way_kl(self.logits(as_label, otherwise), same)
        losses["L_text"] = L_text
        losses["total"] = losses["total"] + self.paraphrase * L_text
        return losses


@torch.no_grad()
def zero_shot(model, stills, batch_size, device):
    """Share of stills that are nearest to the right text: top1 for each attribute, and their mean.

    A text stands for a value of an attribute: the mean over its wordings, each of unit length, as
    CLIP's authors make classifiers of prompts. Stills that do not show an attribute do not count.
    """
    # All stills first, then text after text: a still is drawn once, whatever it is asked for.
    model.eval()
    images = []
    truths = []
    for batch in DataLoader(stills, batch_size):
        shown = {"frames": batch["frames"].to(device), "label": batch["index"]}
        images.append(model(shown)["image"])
        truths.append(batch["attributes"].to(device))
    image = torch.cat(images)                                           # (n, e)
    truth = torch.cat(truths)                                           # (n, A)

    length = model.clip.config.context_length
    shares = {}
    for name, answer in zip(stills.attributes, truth.T):
        means = []
        for ways in stills.prompts(name):
            worded = model.clip.encode_text(tokenize(ways, length).to(device))[0]
            means.append(F.normalize(worded, dim=-1).mean(0))
        texts = F.normalize(torch.stack(means), dim=-1)                 # (values, e)
        right = (image @ texts.T).argmax(1) == answer
        shares[f"top1/{name}"] = right[answer >= 0].double().mean().item()
    return {"top1": sum(shares.values()) / len(shares), **shares}


# ---- What the training loop has to know ----------------------------------------------------------

class StillsJob(Job):
    """Pretraining of the tiny CLIP. export: file for its weights, fp16, after each epoch."""

    def __init__(self, export="", paraphrase=1.0, parts=10.0):
        self.export = export
        self.paraphrase = paraphrase
        self.parts = parts

    def open_split(self, data_cfg, split, train):
        return ToyStills(data_cfg, split)

    def build(self, model_cfg, clip, data):
        model = CaptionedCLIP(model_cfg, clip, data.texts, len(data.joints))
        model.paraphrase = self.paraphrase
        model.part_weight = self.parts
        return model

    def measure(self, run, dataset):
        return zero_shot(run.model, dataset, run.cfg.batch, run.world.device)

    def after_epoch(self, run):
        if self.export:
            state = run.model.clip.state_dict()
            write_torch({name: x.half() for name, x in state.items()}, Path(self.export))

    def finish(self, run):
        """The last epoch's metrics: the held-out stills have been measured already."""
        rows = run.log.rows("epoch")
        return rows[-1] if rows else {}


# ---- Command line --------------------------------------------------------------------------------

@dataclass(frozen=True)
class StillsConfig:
    """What is particular to the captioned stills."""
    export: Annotated[str, "file for CLIP's weights, fp16, after each epoch"] = ""
    paraphrase: Annotated[float, "weight of the contrast of two wordings of one text",
                          Range(0, 1000)] = 1.0
    parts: Annotated[float, "weight of naming what each patch shows", Range(0, 1000)] = 10.0

    def __post_init__(self):
        check_fields(self)


PRESET = {                                        # the whole CLIP, from nothing
    **TINY,
    "out": "out/toy-stills",
    "model": "clip", "clip": "random", "tune": "all", "trunk_lr": 1.0,
    "pose_frames": 1, "video_frames": 1,
    "batch": 128, "epochs": 14, "warmup": 0.25, "lr": 2e-3, "clip_grad": 1.0,
}


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    classes = (StillsConfig, TrainConfig, DataConfig, PeVLConfig)
    configs, _ = build_configs(argv, classes, lambda args: PRESET, __doc__)
    stills_cfg, train_cfg, data_cfg, model_cfg = configs
    stills = StillsJob(stills_cfg.export, stills_cfg.paraphrase, stills_cfg.parts)

    def job():
        train(train_cfg, data_cfg, model_cfg, stills)

    return run_command(job)


if __name__ == "__main__":
    sys.exit(main())
