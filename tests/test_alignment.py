"""toy/alignment.py: words are told to the moments that the toy world knows."""

import numpy as np
import pytest
import torch

from clip_model import load_clip, token_texts
from data import Clips, DataConfig
from published.annotations import diving_text
from systems.config import PeVLConfig
from systems.registry import build_model
from toy import alignment, tree
from toy.divers import TOY_CLASSES


@pytest.fixture(scope="module")
def test_clips(tmp_path_factory):
    """Sixteen clips of the toy benchmark's test split, a class each."""
    root = tmp_path_factory.mktemp("alignment") / "toy"
    settings = {**tree.TOY_SETTINGS, "train": 0, "val": 0, "test": 16}
    note = {"hash": tree.hash_of(settings), "complete": True, "settings": settings}
    tree.prepare(root, {}, note, tree.toy_plan(settings), print)
    tree.run_worker(root, 0, 1)
    tree.write(root / tree.NOTE, note)
    cfg = DataConfig(data="toy", root=str(root), image_size=80, pose_frames=16, video_frames=2,
                     flip=False)
    return Clips(cfg, "test", train=False, prepare=False)


def test_moments_follow_one_another_as_in_a_dive():
    for label in range(16):
        dive = tree.toy_dive(tree.TOY_SETTINGS, "test", label, label)
        moments = alignment.moments_of(dive)
        assert ("twists" in moments) == ("NoTwis" not in TOY_CLASSES[label])
        assert moments["takeoff"][0] < dive.t_off < moments["takeoff"][1]
        water = dive.t_off + dive.t_air
        for name in ("position", "twists"):
            if name in moments:
                begin, end = moments[name]
                assert dive.t_off < begin < end < water, f"{name} is outside the flight"


def test_parts_are_those_of_the_label():
    config = PeVLConfig(backbone="tiny", image_size=80, pose_frames=4, video_frames=2)
    texts = [f"{diving_text(list(words))}, a video of diving action" for words in TOY_CLASSES]
    model = build_model(config, load_clip("tiny"), texts, 17)
    masks = model.encode_texts()["word_mask"]
    for label, words in enumerate(TOY_CLASSES):
        read = token_texts(model.tokens[label, masks[label]])
        said = alignment.parts_of(read)
        joined = ["".join(read[place] for place in places) for places in said.values()]
        expected = diving_text(list(words)).lower().replace(" ", "").split(",")
        assert [word.replace("-", "") for word in joined] == expected


class Knows:
    """A model whose frames are similar to a word in the word's moment alone, or never."""
    tokens = None

    def __init__(self, dataset, right):
        texts = dataset.texts
        config = PeVLConfig(backbone="tiny", image_size=80, pose_frames=16, video_frames=2)
        self.real = build_model(config, load_clip("tiny"), texts, 17)
        self.tokens = self.real.tokens
        self.right = right

    def encode_texts(self):
        """Words that are unit vectors, one direction for each part of a label."""
        text = self.real.encode_texts()
        K, W = text["word_mask"].shape
        words = torch.zeros(K, W, 6)
        for label in range(K):
            kept = torch.nonzero(text["word_mask"][label])[:, 0]
            read = token_texts(self.tokens[label, text["word_mask"][label]])
            for part, places in enumerate(alignment.parts_of(read).values()):
                words[label, kept[places], part] = 1.0
        return {**text, "words": words}

    def __call__(self, batch):
        frames = torch.full((len(batch["label"]), 16, 6), 1e-3)
        for row, label in enumerate(batch["label"].tolist()):
            dive = tree.toy_dive(tree.TOY_SETTINGS, "test", label, label)
            for name, (begin, end) in alignment.moments_of(dive).items():
                start = tree.toy_times(dive, tree.TOY_SETTINGS)[0]
                seconds = start + (np.arange(16) + .5) / 16 * 2 - 1 / 32
                inside = (begin <= seconds) & (seconds <= end)
                frames[row, inside == self.right, alignment.LABEL.index(name)] = 1.0
        return {"pose_frames": frames}


@pytest.mark.parametrize("right", [True, False])
def test_alignment_counts_frames_in_their_moments(test_clips, right):
    shares = alignment.alignment(Knows(test_clips, right), test_clips)
    assert shares["takeoff"][2] == 16 and shares["twists"][2] == 4 and "thing" not in shares
    for name, (hits, chance, _) in shares.items():
        assert 0.1 < chance < 0.7
        # Frames in two moments at once are less similar to either word, but never to none.
        assert hits == (1.0 if right else 0.0), name


def test_alignment_refuses_other_runs(tmp_path, capsys, monkeypatch):
    """A run without the similarity that it measures: no pose, no text, one projection, other data."""
    assert alignment.main(["--ckpt", str(tmp_path / "nothing")]) == 2
    assert "Expected" in capsys.readouterr().err
    whole = {"data": "toy", "model": "pevl", "text": True, "pose": True, "fusion": "similarities",
             "sim": ["vs", "fw"]}
    for change in ({"data": "diving48"}, {"model": "vilp"}, {"text": False}, {"pose": False},
                   {"fusion": "concat"}, {"sim": ["vs", "ps"]}):
        saved = {"config": whole | change}
        monkeypatch.setattr(alignment, "open_checkpoint", lambda _: (tmp_path / "last.pt", saved))
        assert alignment.main([]) == 2, change
        assert "with the frame-word similarity" in capsys.readouterr().err, change
