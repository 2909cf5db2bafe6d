"""ViLP (ICVGIP 2023, arXiv 2308.03908): pose says which frames count, words vote for them.

The nearest relative of PeVL, whose authors call it the first to join video, pose and text. Joints
are drawn as heatmaps, a second CLIP image tower reads them, and pose enters only through a gate on
whole frames. PeVL reads coordinates, at more moments, and lets pose reach single patches.

here                         | what it is                     | tests/test_rivals.py
gate                         | pose opens or closes a frame   | test_gate_by_formula
votes_of_words               | P-VCS's weight of each frame   | test_evidence.py: test_saliency_*
pose_guided_concept_spotting | P-VCS                          | test_p_vcs_matches_loops
TemporalTransformer          | frames of a clip see others    | test_temporal_transformer_by_formula
ViLP.heatmaps                | joints as grey pictures        | test_heatmaps_and_coordinates_...
ViLP.loss                    | two-way KL of clips and texts  | test_vilp_loss_matches_loops

Axes: B clips, T pose frames, Tv video frames (in the functions below, T is any number of frames
that pose and video share), J joints, W text tokens, K classes, U labels of a batch, S pixels a
side, e embedding. v, p and u are the paper's features of frames, of their pose, and of frames after
the gate. D24, D25 and D32: the ledger, docs/ledger.md.
"""
import copy

import torch
from torch import nn

from clip_model import QuickGELU, normalise
from pevl import two_way_kl, unit
from pose import gaussian_heatmaps
from support.checks import check_shape
from systems.base import ActionModel, distinct_labels, inverse_tau


def gate(frames, pose, raw=False):
    """u_t = v_t * sigmoid(p_t): the pose of a frame opens or closes each entry of its feature.

    frames v (B, T, e), brought to unit length here; pose p (B, T, e) or None, for u = v. raw: see
    below. -> u (B, T, e). Raises ValueError where the shapes of v and p differ.

    As printed, p is of unit length, too. Entries of a unit vector are near 0 and their sigmoids
    near 0.5: u is about v / 2, no longer of unit length, and every similarity is half as large.
    With raw, p is as its tower gives it and u is brought to unit length (D25).

    >>> gate(torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[5.0, 0.0]]]))    # sigmoids 0.73 and 0.5
    tensor([[[0.4386, 0.4000]]])
    """
    v = unit(frames)
    if pose is None:
        return v
    check_shape(pose, "B T e", "pose", B=v.shape[0], T=v.shape[1], e=v.shape[2])
    if raw:
        return unit(v * pose.sigmoid())
    return v * unit(pose).sigmoid()


@torch.autocast("cuda", enabled=False)
@torch.autocast("cpu", enabled=False)
def votes_of_words(frames, pose, words, word_mask, tau=0.01, raw=False):
    """The saliency of P-VCS: gated frames u (B, T, e) and A (B, K, T), the share of each frame.

    Arguments and formula as of pose_guided_concept_spotting; the shares of a clip and a text sum
    to 1 over the frames.
    """
    u = gate(frames, pose, raw)                                             # (B, T, e)

    # Each word shares its vote out over the frames.
    agreement = torch.einsum("kwe,bte->bkwt", unit(words), u)               # (B, K, W, T)
    votes = (agreement / tau).softmax(-1)

    # The mean over the words that are there; the weights of a text sum to 1, and so do A's rows.
    has_words = word_mask.any(-1, keepdim=True)                             # (K, 1)
    voters = (word_mask | ~has_words).to(u.dtype)                           # (K, W)
    share = voters / voters.sum(-1, keepdim=True)
    A = torch.einsum("bkwt,kw->bkt", votes, share)                          # (B, K, T)
    return u, A


@torch.autocast("cuda", enabled=False)
@torch.autocast("cpu", enabled=False)
def pose_guided_concept_spotting(frames, pose, words, sentences, word_mask, tau=0.01, raw=False):
    """P-VCS: pose gates the frames, words vote for them, what is voted for meets the sentence.

        u_t = v_t * sigmoid(p_t)
        A[k, t] = mean over words w of softmax_t(word_kw . u_t / tau)
        video_k = sum_t A[k, t] u_t
        similarity[k] = video_k . sentence_k

    frames v (B, T, e); pose p (B, T, e), or None for concept spotting without pose; words
    (K, W, e); sentences (K, e); word_mask (K, W) bool, True on words; tau > 0; raw: as of gate.
    -> (B, K), a clip has its own video_k for each text. All tokens vote for a text without words.

    v_t, words and sentences are brought to unit length. u_t is shorter (but with raw, or without
    pose), and so is video_k, a mean of several: a similarity is a cosine times the length of
    video_k (D25).
    """
    check_shape(words, "K W e", "words", K=len(sentences), e=frames.shape[-1])
    u, A = votes_of_words(frames, pose, words, word_mask, tau, raw)         # (B, T, e), (B, K, T)

    # video_k = sum_t A[k, t] u_t, then video_k . sentence_k.
    return torch.einsum("bkt,bte,ke->bk", A, u, unit(sentences))


class TemporalTransformer(nn.Module):
    """Frames of a clip see each other: v + layers(v + position), 6 pre-norm layers.

    e: size of a frame's feature. heads: of attention. frames: how many a clip has.
    """

    def __init__(self, e, heads, frames, layers=6):
        super().__init__()
        self.position = nn.Parameter(torch.randn(frames, e) * 0.01)
        # One by one: nn.TransformerEncoder would make them as copies, so that all start alike.
        self.layers = nn.Sequential()
        for _ in range(layers):
            self.layers.append(nn.TransformerEncoderLayer(
                d_model=e, nhead=heads, dim_feedforward=4 * e, dropout=0.0,
                activation=QuickGELU(), layer_norm_eps=1e-12, batch_first=True, norm_first=True))

    def forward(self, frames):
        """frames (B, Tv, e) -> (B, Tv, e)."""
        return frames + self.layers(frames + self.position)


class ViLP(ActionModel):
    """CLIP on frames, a second CLIP image tower on heatmaps of joints, P-VCS against the texts.

    Both image towers are trained; the text tower is frozen, unless tune="all". video=False: pose
    and text alone. pose=False: video and text alone. text=False: a linear head on the mean frame.
    Arguments as of ActionModel; J may differ between batches, since joints are drawn.
    """

    PARTS = {"pose image": "pose", "temporal transformer": "mixer", "head": "head"}

    # Deviation of a joint's Gaussian, in patches: wide enough to show where in a patch it is. Ours
    # (D24).
    SIGMA = 0.4

    def __init__(self, config, clip, texts, joints=17):
        super().__init__(config, clip, texts, joints)
        e = clip.config.embed_dim
        self.pose = None
        if config.pose:
            self.pose = copy.deepcopy(clip.visual)        # starts as CLIP: a heatmap is a picture
            self.pose.requires_grad_(True)
        clip.visual.requires_grad_(config.video)
        self.mixer = TemporalTransformer(e, clip.config.text_heads, config.video_frames)
        self.head = None
        if not config.text:
            self.head = nn.Linear(e, self.classes)

    def heatmaps(self, batch):
        """Joints of the video frames as grey pictures: (B Tv, 3, S, S), normalised as frames are.

        The maximum over joints, so that two joints at one place are as bright as one. Drawn here,
        after the keypoints were cropped and flipped with their frames (D24).
        """
        S = self.config.image_size
        xy = batch["keypoints"][:, self.video_index]                        # (B, Tv, J, 2)
        scores = batch["scores"][:, self.video_index]                       # (B, Tv, J)
        pixels = (xy + 1) / 2 * S - 0.5                   # the centre of the first pixel is 0
        sigma = self.SIGMA * self.clip.config.patch_size
        maps = gaussian_heatmaps(pixels, scores, (S, S), sigma)             # (B, Tv, J, S, S)
        grey = maps.amax(2).flatten(0, 1)[:, None]                          # (B Tv, 1, S, S)
        return normalise(255 * grey.expand(-1, 3, -1, -1))

    def forward(self, batch):
        """batch as of ActionModel -> dict: label, frames v (B, Tv, e), pose p (B, Tv, e).

        `pose` is there where both towers are on; else `frames` comes from the one that is.
        Raises ValueError where a shape differs from what the model was built for.
        """
        self.check_batch(batch, video=self.config.video, pose=self.config.pose)
        Tv = self.config.video_frames
        features = {"label": batch["label"]}

        p = None
        if self.config.pose:
            p = self.pose(self.heatmaps(batch)).unflatten(0, (-1, Tv))      # (B, Tv, e)
        if not self.config.video:
            features["frames"] = self.mixer(p)
            return features

        frames = normalise(batch["frames"]).flatten(0, 1)                   # (B Tv, 3, S, S)
        v = self.clip.visual(frames).unflatten(0, (-1, Tv))                 # (B, Tv, e)
        features["frames"] = self.mixer(v)
        if p is not None:
            features["pose"] = p
        return features

    def loss(self, features):
        """KL(q || p) both ways, q = softmax over the batch of 10 * [labels agree] -> scalar.

        So a clip of another label keeps a share e^-10 of one that agrees: a little, not nothing.
        """
        if self.head is not None:
            return super().loss(features)
        distinct, column = distinct_labels(features["label"], self.classes) # (U,), (B,)
        text = self.encode_texts(distinct)                # a text of several clips is encoded once
        logits = self.class_logits(features, text)["all"]                   # (B, U)
        agree = column[:, None] == column                                   # (B, B)
        return two_way_kl(logits[:, column], truth=(10.0 * agree).exp())

    def class_logits(self, features, text=None):
        """{"all": (B, K)}: P-VCS / tau with all texts, or the head on the mean gated frame."""
        v = features["frames"]
        p = features.get("pose")
        raw = self.config.gate_raw
        if self.head is not None:
            return {"all": self.head(gate(v, p, raw).mean(1))}

        if text is None:
            text = self.encode_texts()
        text = self.voting(text)
        sim = pose_guided_concept_spotting(v, p, **text, tau=self.config.tau_fw, raw=raw)
        return {"all": inverse_tau(self.logit_scale) * sim}

    def voting(self, text):
        """text of encode_texts, with the tokens that vote in `word_mask`."""
        if not self.config.all_tokens:
            return text
        # Start, end and padding vote, too (D32).
        return {**text, "word_mask": torch.ones_like(text["word_mask"])}

    def saliency(self, features, text):
        """A of P-VCS, (B, K, Tv): what share of its words' votes a text gives each frame.

        features: of forward. text: of encode_texts. Rows sum to 1.
        """
        text = self.voting(text)
        _, A = votes_of_words(features["frames"], features.get("pose"), text["words"],
                              text["word_mask"], self.config.tau_fw, self.config.gate_raw)
        return A

    @torch.no_grad()
    def attention_maps(self, batch):
        """{"attention": (B, Tv, N)}: the frame tower's class token in the last block, its own share
        left out. For a model with video."""
        B, Tv = batch["frames"].shape[:2]
        frames = normalise(batch["frames"]).flatten(0, 1)                   # (B Tv, 3, S, S)
        weights = self.clip.visual.class_attention(frames)                  # (B Tv, N)
        return {"attention": weights.unflatten(0, (B, Tv))}
