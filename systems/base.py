"""What PeVL and its rivals share: a CLIP, the texts of the labels, and what of it is trained.

None of it is an idea of the paper; it is what training, evaluation and the tables of costs ask of
any system, so that their loops need no branch for each of them.

here            | what it is                           | tests/test_systems.py
ActionModel     | base class of all systems            | test_every_trained_parameter_...
inverse_tau     | 1 / tau of a learned temperature     | test_temperature_stays_at_most_100_...
distinct_labels | the texts that a batch needs         | test_texts_are_encoded_once_per_label
copy_all        | tensors by name, all of them or none | test_trainable_state_round_trip_...

Axes: B clips, T pose frames, Tv video frames, J joints, W text tokens, K classes, U texts of a
batch, S pixels a side, e embedding.
"""
import math

import torch
import torch.nn.functional as F
from torch import nn

from clip_model import tokenize
from support.checks import check_shape
from support.sampling import video_frame_index


def inverse_tau(log_scale):
    """1 / tau = exp(log_scale) of a learned temperature, at most 100 as in CLIP.

    log_scale: scalar parameter. It is held at log(100) in place: a clamp in the graph would stop
    the gradient beyond it for good, and CLIP's published scales are beyond it.
    """
    with torch.no_grad():
        log_scale.clamp_(max=math.log(100))
    return log_scale.exp()


def distinct_labels(labels, classes):
    """Which texts a batch needs, so that a text of several clips is encoded once.

    labels (B,) int64, 0 to classes - 1 -> distinct (U,) and column (B,), int64: clip j has the
    label distinct[column[j]]. First come the labels of the batch, ascending. U = min(B, classes) is
    as many as a batch can have; places that are left over hold label 0, and no column leads there.

    Why not as many as there are: `unique` has to see the labels to know how many, and to see them
    is to wait for the GPU. A few texts too many cost less than that.

    >>> distinct_labels(torch.tensor([4, 2, 4]), classes=5)
    (tensor([2, 4, 0]), tensor([1, 0, 1]))
    """
    U = min(len(labels), classes)
    is_here = labels.new_zeros(classes).index_fill(0, labels, 1)            # (K,), 0 or 1
    place = is_here.cumsum(0) - 1                         # of label k, where it is here
    column = place[labels]                                                  # (B,)
    distinct = labels.new_zeros(U).scatter(0, column, labels)               # (U,)
    return distinct, column


def copy_all(source, target, error):
    """Copy source's tensors into target's of the same name, in place.

    source, target: name -> tensor. error: message with a {} for what differs. Raises ValueError,
    before anything is copied, where names or shapes differ.
    """
    have = {f"{name} {tuple(x.shape)}" for name, x in source.items()}
    want = {f"{name} {tuple(x.shape)}" for name, x in target.items()}
    differing = sorted(have ^ want)
    if differing:
        found = f"{len(differing)} entries differ, first: {differing[:5]}"
        raise ValueError(error.replace("{}", found))
    with torch.no_grad():
        for name, value in source.items():
            target[name].copy_(value)


class ActionModel(nn.Module):
    """A CLIP, the K texts of the labels, and the bookkeeping of what is trained.

    A system gives what the loops of training and evaluation ask for:

        model(batch)                  features: dict of tensors with a leading B, and the label
        losses(features)              named scalars, "total" first; of one process's features or of
                                      all processes' gathered, which is why it is not in forward
        class_logits(features, text)  name -> (B, K): "all" predicts, first; text: encode_texts()

    batch, of which a system reads what it needs:

        frames      (B, Tv, 3, S, S) uint8 or float, 0..255
        keypoints   (B, T, J, 2) float, x and y of the frame in [-1, 1]; outside of it is possible
        scores      (B, T, J) float, 0 = joint not found
        label       (B,) int64, 0 to K - 1

    config: PeVLConfig. clip: a CLIP, which becomes a part and is frozen here, but for tune="all".
    texts: K prompts. joints: J.
    """

    # Name in the tables of parameters and costs -> attribute; it is None where the part is off.
    PARTS = {}

    # Parts whose weights are CLIP's own or a copy of a whole tower: they have --trunk-lr, all else
    # --new-lr (D16). So have three that hold something of CLIP's: P2V and V2P, whose queries, keys
    # and values start as copies, but which end in a layer of zeros (D28); AIM's last norm, which
    # its authors train like adapters; and the temperature of Eq. (5), one number.
    TRUNK = ("CLIP", "pose image")

    def __init__(self, config, clip, texts, joints=17):
        super().__init__()
        self.config = config
        self.clip = clip
        self.classes = len(texts)
        self.joints = joints
        clip.requires_grad_(config.tune == "all")
        device = clip.logit_scale.device

        # (K, W), cut behind the longest text: 77 tokens cost more than three times as much as the
        # 25 of Diving48. On the CPU even where a model has no memory ("meta"): values are read.
        with torch.device("cpu"):
            tokens = self.tokens_of(texts)
        self.register_buffer("tokens", tokens.to(device), persistent=False)

        index = video_frame_index(config.pose_frames, config.video_frames)
        index = torch.from_numpy(index).to(device)                          # (Tv,) int64
        self.register_buffer("video_index", index, persistent=False)

        # tau of Eq. (5) starts at CLIP's. Zero-shot CLIP reads CLIP's own, a linear head none.
        learns_tau = self.compares_texts and config.model != "clip"
        self.logit_scale = nn.Parameter(clip.logit_scale.detach().clone(), requires_grad=learns_tau)
        self.refine_scale = nn.ParameterDict()            # PeVL: the temperatures of Eq. (3)
        self.text = None                                  # PeVL: the adapted text tower

    @property
    def compares_texts(self):
        """Whether labels are texts to this system; if not, they are the rows of a linear head."""
        return self.config.text and self.config.model != "aim"

    def check_batch(self, batch, video, pose, joints=None):
        """ValueError where what a system is about to read has not the shape that it was built for.

        video, pose: whether it reads the frames, and the keypoints with their scores. joints: J,
        for a system that learns something of each joint; None for one that takes any number.
        """
        B = batch["label"].shape[0]               # len() would fix it to a number in an export
        if video:
            check_shape(batch["frames"], "B Tv 3 S S", "frames",
                        B=B, Tv=self.config.video_frames)
        if pose:
            sizes = {"B": B, "T": self.config.pose_frames}
            if joints is not None:
                sizes["J"] = joints
            found = check_shape(batch["keypoints"], "B T J 2", "keypoints", **sizes)
            check_shape(batch["scores"], "B T J", "scores", **found)

    def parts(self):
        """Name -> module, for tables; each parameter is in one of them."""
        parts = {"CLIP": self.clip}
        for name, attribute in self.PARTS.items():
            part = getattr(self, attribute)
            if part is not None:
                parts[name] = part
        scales = [*self.refine_scale.values(), self.logit_scale]
        parts["temperatures"] = nn.ParameterList(scales)
        return parts

    def parameter_groups(self):
        """What is trained: a list of dicts with name, params and kind.

        kind: "trunk" (CLIP's own weights and the copies in TRUNK) or "new" (everything else). The
        groups follow the modules, never the spelling of a parameter's name.
        """
        groups = []
        for name, part in self.parts().items():
            params = [p for p in part.parameters() if p.requires_grad]
            if not params:
                continue
            kind = "new"
            if name in self.TRUNK:
                kind = "trunk"
            groups.append({"name": name, "params": params, "kind": kind})
        return groups

    def trainable_state(self):
        """State dict of what is trained alone: the frozen CLIP is not stored in each checkpoint."""
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}

    def load_trainable_state(self, state):
        """Inverse of `trainable_state`. ValueError where any name or shape differs."""
        copy_all(state, self.trainable_state(), "the checkpoint does not fit this model: {}. "
                 "Expected the settings of its training, and this version of the program. Use the "
                 "checkpoint's own config.json; train anew what an older version trained.")

    def encode_texts(self, labels=None):
        """Texts of `labels` (U,) int64, or of all K, by the tower of this system.

        Returns a dict: sentences (U, e), words (U, W, e), neither of unit length, and word_mask
        (U, W) bool, True on words: not on start, end and padding.
        """
        tokens = self.tokens if labels is None else self.tokens[labels]
        return self.encode_tokens(tokens)

    def tokens_of(self, texts):
        """Prompts -> tokens (U, W) int64, on the CPU, cut behind the longest of them."""
        tokens = tokenize(texts, self.clip.config.context_length)
        longest = int(tokens.argmax(1).max()) + 1         # the end token has the largest number
        if self.config.all_tokens:                        # where ViLP's padding has a vote (D32)
            longest = self.clip.config.context_length
        return tokens[:, :longest]

    def set_texts(self, texts):
        """Take other labels than those of training, K prompts, to be evaluated with.

        Raises ValueError for a linear head, which has rows for its own labels and no others.
        """
        if not self.compares_texts:
            raise ValueError(f"other labels for {self.config.model} with a linear head. Expected "
                             "a model that compares with texts, such as pevl with --text. Choose "
                             "another checkpoint, or the labels of training.")
        self.tokens = self.tokens_of(texts).to(self.tokens.device)
        self.classes = len(texts)

    def encode_tokens(self, tokens):
        """Tokens (U, W) of prompts -> sentences, words and word_mask, as encode_texts says."""
        if self.text is not None:
            sentences, words, word_mask = self.text(tokens, self.clip)
        else:
            sentences, words, word_mask = self.clip.encode_text(tokens)
        return {"sentences": sentences, "words": words, "word_mask": word_mask}

    def loss(self, features):
        """Cross-entropy of a linear head, for systems and rows without text -> scalar."""
        logits = self.class_logits(features)["all"]
        return F.cross_entropy(logits.float(), features["label"])

    def losses(self, features):
        """Named scalars: "total" is what training minimises, the others its terms."""
        loss = self.loss(features)
        return {"total": loss, "L_t": loss}
