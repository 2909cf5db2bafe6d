"""toy/alignment.py: words are told to the moments that the toy world knows.

A real model only approximates that, so the count is checked with one that knows the moments (the
class Knows) and one that is always wrong.
"""
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clip_model import load_clip, token_texts
from data import Clips, DataConfig
from eval import settings_of
from pose import read_pose
from published.annotations import diving_text
from systems.config import PeVLConfig
from systems.registry import build_model
from toy import alignment, tree
from toy.divers import TOY_CLASSES

POSE_FRAMES = 16


@pytest.fixture(scope="module")
def sixteen_clips(tmp_path_factory):
    """Sixteen clips of the toy benchmark's test split, one of each class."""
    root = tmp_path_factory.mktemp("alignment") / "toy"
    settings = {**tree.TOY_SETTINGS, "train": 0, "val": 0, "test": 16}
    note = {"hash": tree.hash_of(settings), "complete": True, "settings": settings}
    tree.prepare(root, {}, note, tree.toy_plan(settings), print)
    tree.run_worker(root, 0, 1)
    tree.write(root / tree.NOTE, note)
    cfg = DataConfig(data="toy", root=str(root), image_size=80, pose_frames=POSE_FRAMES,
                     video_frames=2, flip=False)
    return Clips(cfg, "test", train=False, prepare=False)


@pytest.fixture(scope="module")
def model(sixteen_clips):
    """A PeVL that was never trained, for its tokens and the masks of its words."""
    config = PeVLConfig(backbone="tiny", image_size=80, pose_frames=POSE_FRAMES, video_frames=2)
    return build_model(config, load_clip("tiny"), sixteen_clips.texts, 17)


def dive_of(label):
    """The dive that the test clip of a label shows."""
    return tree.toy_dive(tree.TOY_SETTINGS, "test", label, label)


def test_moments_follow_one_another_as_in_a_dive():
    """The take-off is around leaving the board; position and twists lie within the flight."""
    for label, words in enumerate(TOY_CLASSES):
        dive = dive_of(label)
        moments = alignment.moments_of(dive)
        begin, end = moments["takeoff"]
        assert begin < dive.t_off < end

        assert ("twists" in moments) == ("NoTwis" not in words)
        water = dive.t_off + dive.t_air
        for name in ("position", "twists"):
            if name in moments:
                begin, end = moments[name]
                assert dive.t_off < begin < end < water, f"{name} is outside the flight"


def test_parts_are_those_of_the_label(model):
    """Between its commas a label says one thing after another; the prompt behind is no part."""
    masks = model.encode_texts()["word_mask"]
    for label, words in enumerate(TOY_CLASSES):
        pieces = token_texts(model.tokens[label, masks[label]])
        joined = []
        for places in alignment.parts_of(pieces).values():
            part = "".join(pieces[place] for place in places)
            joined.append(part.replace("-", ""))
        expected = diving_text(list(words)).lower().replace(" ", "").split(",")
        assert joined == expected


class Knows:
    """A model whose frames are similar to a word in the word's moment alone, or never there.

    Words and frames are sums of unit vectors, one direction for each part of a label.
    """

    def __init__(self, model, right):
        self.real = model
        self.tokens = model.tokens
        self.right = right

    def encode_texts(self):
        text = self.real.encode_texts()
        K, W = text["word_mask"].shape
        words = torch.zeros(K, W, len(alignment.LABEL) + 1)
        for label in range(K):
            mask = text["word_mask"][label]
            places_of_words = torch.nonzero(mask)[:, 0]
            parts = alignment.parts_of(token_texts(self.tokens[label, mask]))
            for part, places in enumerate(parts.values()):
                words[label, places_of_words[places], part] = 1.0
        return {**text, "words": words}

    def __call__(self, batch):
        B = len(batch["label"])
        frames = torch.full((B, POSE_FRAMES, len(alignment.LABEL) + 1), 1e-3)
        for row, label in enumerate(batch["label"].tolist()):
            dive = dive_of(label)
            seconds = instants_of(dive)
            for name, (begin, end) in alignment.moments_of(dive).items():
                inside = (begin <= seconds) & (seconds <= end)
                frames[row, inside == self.right, alignment.LABEL.index(name)] = 1.0
        return {"pose_frames": frames}


def instants_of(dive):
    """When the pose frames are, (T,): every second one of 32 frames, sixteen a second.

    The middle of each part of the clip lies halfway between two frames, and the earlier is taken.
    """
    return tree.toy_times(dive, tree.TOY_SETTINGS)[::2]


def test_pose_frames_are_every_second_frame(sixteen_clips):
    """What `instants_of` says is so: the rows of a pose file that a clip is made of."""
    clip = sixteen_clips.clips[0]
    rows = read_pose(sixteen_clips.pose_path(clip))
    assert len(rows.scores) == 32
    assert np.allclose(sixteen_clips[0]["scores"][0], rows.scores[::2])
    assert not np.allclose(rows.scores[::2], rows.scores[1::2]), "any frames would do"


@pytest.mark.parametrize("right", [True, False])
def test_alignment_counts_frames_in_their_moments(sixteen_clips, model, right):
    """One that knows hits always, one that is wrong never; chance is some share of the clip."""
    shares = alignment.alignment(Knows(model, right), sixteen_clips)
    assert set(shares) == {"takeoff", "somersaults", "position", "twists"}
    for name, (hits, chance, clips) in shares.items():
        assert clips == (4 if name == "twists" else 16), name
        inside = []
        for label in range(16):
            dive = dive_of(label)
            if name in alignment.moments_of(dive):
                begin, end = alignment.moments_of(dive)[name]
                seconds = instants_of(dive)
                inside.append(np.mean((begin <= seconds) & (seconds <= end)))
        assert chance == pytest.approx(np.mean(inside)), f"{name}: not of the frames that are shown"
        assert 0.1 < chance < 0.7, name
        # Frames in two moments at once are less similar to either word, but never to none.
        assert hits == (1.0 if right else 0.0), name


def test_alignment_of_no_run_is_an_error(tmp_path, capsys):
    """A checkpoint that is not there: what was expected, and exit code 2."""
    assert alignment.main(["--ckpt", str(tmp_path / "nothing")]) == 2
    assert "no checkpoint at" in capsys.readouterr().err


OTHER_RUNS = {
    "other data": {"data": "diving48"},
    "another system": {"model": "vilp"},
    "no text": {"text": False},
    "no pose": {"pose": False},
    "one projection": {"fusion": "concat"},
    "no frame-word similarity": {"sim": ["vs", "ps"]},
}


@pytest.mark.parametrize("settings", OTHER_RUNS.values(), ids=OTHER_RUNS)
def test_alignment_refuses_other_runs(tmp_path, capsys, monkeypatch, settings):
    """A run that has no frames x words matrix of the toy world: what it is, and exit code 2."""
    saved = {"config": {"data": "toy"} | settings}
    model = SimpleNamespace(config=PeVLConfig(**settings_of(PeVLConfig, saved)))
    monkeypatch.setattr(alignment, "open_checkpoint", lambda _: (tmp_path / "last.pt", saved))
    monkeypatch.setattr(alignment, "rebuild_from", lambda *_: model)
    assert alignment.main([]) == 2
    assert "with the frame-word similarity" in capsys.readouterr().err
