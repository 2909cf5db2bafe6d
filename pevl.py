"""PeVL (CVPR 2024): the paper's own ideas in the paper's order, on top of CLIP.

Read it beside the paper, from top to bottom; the class PeVL is the paper's Fig. 2, and all that is
above it are the boxes of that figure. CLIP itself is in clip_model.py; the systems that PeVL is
compared with (ViLP, AIM, zero-shot CLIP) stand on this file, in systems/; the settings, and what
all systems share, lie beneath it in systems/config.py and systems/base.py.

The idea. A video says how an action looks, the joints of a body say how it moves, and the text of a
label says what it means. Three encoders, one frozen CLIP with small trained adapters, turn them
into tokens (Sec. 3.1). One block lets video and pose help each other, and one module compares both
with the text:

UCMR  Unsymmetric Cross-Modality Refinement (Sec. 3.2). Pose and video help each other, in unlike
      ways: P2V, pose-adapted vision attention, tells the video where to look (Eq. 1); V2P,
      video-enriched pose, tells each joint what it looks like there (Eq. 2); and a refined clip
      must stay nearest to what it was before (Eq. 3).
SGMC  Semantic-Guided Multi-level Contrastive module (Sec. 3.3). Video and pose are compared with
      sentences, frames of the pose with words (Eq. 4), and a text pushes a wrong clip off as far
      as the two labels differ in content (Eqs. 5 and 6).

paper      | Eq. | here                                   | tests/test_pevl.py
Sec. 3.1   | -   | Adapter, AdaptedBlock, PoseTower       | test_adapted_block_by_formula
Sec. 3.1   | -   | VideoTower, TextTower                  | test_towers_start_as_clip
Sec. 3.2.1 | (1) | patch_weight, masked_softmax, P2V      | test_p2v_matches_loops
Sec. 3.2.2 | (2) | V2P                                    | test_v2p_matches_loops
Sec. 3.2.3 | (3) | nt_xent                                | test_nt_xent_matches_loops
Sec. 3.3.1 | (4) | frame_word_similarity, mean_similarity | test_frame_word_matches_loops
Sec. 3.3.1 | (4) | PeVL.similarities                      | test_losses_are_put_together_as_printed
Sec. 3.3.2 | (5) | text_discrepancy, semantic_weights     | test_weights_match_loops
Sec. 3.3.2 | (6) | one_way_kl, semantic_guided_loss       | test_semantic_loss_matches_loops
Sec. 3.4   | -   | PeVL.forward                           | test_forward_is_fig_2
Sec. 3.4   | -   | PeVL.losses                            | test_losses_are_put_together_as_printed
Sec. 3.4   | (7) | predict                                | test_predict_averages_views

The letters of axes, the same wherever clips are meant:

B   clips of a batch                      | J   joints of a body
T   pose frames of a clip (48)            | W   text tokens of a prompt
Tv  video frames of a clip (16)           | K   classes; U texts of a batch, min(B, K)
N   patches of a frame (196)              | d   width of a transformer (768 for images)
Nv  1 + N: the class token, then patches  | e   size of an embedding (512); h heads, c = d / h

The paper's symbols (a name after a colon is a key of a dict):

paper               | here                 | note
N_v                 | N                    | the paper counts patches; our Nv counts tokens
N_p                 | J                    | body joints
N_t                 | W                    | ours counts all tokens; `word_mask` is True on words
J, the joint set    | keypoints            | (B, T, J, 2), in [-1, 1]; `scores` 0 = not found
H x W, pixels       | image_size           | a frame is square
m, M                | patch_weight, weight | one number in [0, 1] for each patch; 0 = background
I of Eq. (1)        | ~looks               | queries that pass through P2V unchanged (D5)
alpha^P2V           | share                | P2V.forward; rows sum to 1
alpha^V2P           | -                    | in V2P.forward: PyTorch's attention, or group_pixels
Q, K, and V of P2V  | q, k, v              | queries, keys, values; V is also the video, see below
z_v, z_p            | z_v, z_p             | tokens as the encoders give them
z_t                 | sentences, words     | what `encode_texts` gives
z_v^R, z_p^R        | refined_v, refined_p | tokens after P2V and after V2P
z_p^R'              | chosen + update      | the Tv refined frames alone, V2P.forward
sim(a, b)           | cosine               | of all rows of a with all rows of b
V, P                | features: video, pose| clip level, (B, e)
F                   | features: pose_frames| frame level, (B, T, e); our F: torch.nn.functional
S, W of Sec. 3.3.1  | sentences, words     | (K, e) and (K, W, e)
S_VS, S_PS, S_FW    | sims: vs, ps, fw     | similarities, (B, U) or (B, K)
F W^T of Eq. (4)    | A                    | frame_word_similarity
(B - 1) s_i         | semantic_weights     | our factor is the number of clips with another label
p, q                | log_p, q             | one_way_kl
tau of Eq. (3)      | refine_scale         | learnable; kept as log(1 / tau)
tau of Eq. (5)      | logit_scale          | learnable; kept as log(1 / tau)
lambda_R            | lambda_r             | PeVL.losses
P2V-R, V2P-R        | P2V, V2P             | the same blocks; P2V is also pose-guided, pose-adapted

D1 to D32 in comments are rows of the ledger, docs/ledger.md: what the paper leaves open or prints
wrong, what we do, and why. Sentences in this file are ours, not the paper's.
"""
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from clip_model import normalise
from support.checks import check_shape
from systems.base import ActionModel, distinct_labels, inverse_tau
from systems.heatmaps import HeatmapTokens
from systems.readings import group_pixels, log_masked
from systems.initialisation import sinusoids, start_as_mean, start_from_block, zero_linear


# ---- Small tools ---------------------------------------------------------------------------------

def unit(x):
    """x (..., e) -> the same at unit length, in float32 at least, also where autocast is on."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


@torch.autocast("cuda", enabled=False)
@torch.autocast("cpu", enabled=False)
def cosine(a, b):
    """sim(a, b) of Eqs. (3) to (5): (B, e), (K, e) -> (B, K) in [-1, 1], every a with every b.

    Autocast is off here: a cosine is multiplied by up to 100 later, and that does not survive
    bfloat16's two or three digits.

    >>> cosine(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]))
    tensor([[ 1.,  0., -1.]])
    """
    return unit(a) @ unit(b).T


# ---- Sec. 3.1: encoders with adapters ------------------------------------------------------------
#
# CLIP was trained on 400 million single pictures; it knows no joints and no motion. Ten thousand
# clips are too few to train it anew, so its blocks stay frozen, and small bottlenecks learn.
# Video and pose run through the same frozen blocks, each with adapters of its own (D2).

class Adapter(nn.Module):
    """up(gelu(down(x))): a bottleneck of d * ratio that starts as "no change" (AIM, reference 59).

    skip: x + change is given back, for an adapter that stands behind a layer; without, the change
    alone, for one whose caller adds it.
    """

    def __init__(self, d, ratio, skip):
        super().__init__()
        self.skip = skip
        self.down = nn.Linear(d, int(d * ratio))
        self.up = zero_linear(int(d * ratio), d)

    def forward(self, x):
        """x (..., d) -> (..., d)."""
        change = self.up(F.gelu(self.down(x)))
        if self.skip:
            return x + change
        return change


class AdaptedBlock(nn.Module):
    """The adapters of one image block. The frozen block is no part of it: it is passed to forward.

        temporal   x = x + DropPath(T_Adapter(MSA(LN1(x over time))))    where the tower has time
        spatial    x = x + S_Adapter(MSA(LN1(x)))
        mlp        x = x + MLP(LN2(x)) + DropPath(0.5 * MLP_Adapter(LN2(x)))

    S_Adapter(y) is y + change and starts as y; the others give a change alone, which starts at 0.
    One frozen MSA (multi-head self-attention) and LN1 serve time and space: what has learned which
    patches belong together is asked which moments do, also without adapters (Tables 4 and 8).

    d: width. ratio: bottleneck over d. temporal: attention over time, too. adapters=False: the
    frozen layers alone, over time too. drop_path: share of clips, 0 to 1, that lose such a change
    in training; without adapters none do, since nothing there can overfit (D27).
    """

    def __init__(self, d, ratio, temporal, adapters, drop_path):
        super().__init__()
        self.temporal = temporal
        self.rate = 0.0
        self.temporal_adapter = nn.Identity()
        self.spatial_adapter = nn.Identity()
        self.mlp_adapter = None
        if adapters:
            self.rate = drop_path
            if temporal:
                self.temporal_adapter = Adapter(d, ratio, skip=False)
            self.spatial_adapter = Adapter(d, ratio, skip=True)
            self.mlp_adapter = Adapter(d, ratio, skip=False)

    def drop_path(self, x):
        """In training 0 for a random share `rate` of the clips, the others scaled up for it."""
        if not self.training:
            return x
        keep = F.dropout(x.new_ones(len(x), 1, 1, 1), self.rate)
        return x * keep

    def mix_time(self, x, block):
        """Attention of each token over its own T frames: (B, T, n, d) -> (B, T, n, d)."""
        over_time = block.ln_1(x).transpose(1, 2)                           # (B, n, T, d)
        mixed = block.attn(over_time).transpose(1, 2)                       # (B, T, n, d)
        return x + self.drop_path(self.temporal_adapter(mixed))

    def forward(self, x, block, need_weights=False, asking=None):
        """x (B, T, n, d), n = Nv or 1 + J -> the same shape; class attention (B, T, n) or None.

        block: the frozen ResidualAttentionBlock. need_weights: give that attention, mean over
        heads, rows of sum 1, float32. asking: as in clip_model.Attention, give (B, T, asking, d).
        """
        if self.temporal:
            x = self.mix_time(x, block)

        weights = None
        attended = block.attn(block.ln_1(x), need_weights=need_weights, asking=asking)
        if need_weights:
            attended, weights = attended
        x = x[:, :, :asking] + self.spatial_adapter(attended)               # (B, T, asking, d)

        hidden = block.ln_2(x)
        x = x + block.mlp(hidden)
        if self.mlp_adapter is not None:
            x = x + self.drop_path(0.5 * self.mlp_adapter(hidden))
        return x, weights


class AdaptedTower(nn.Module):
    """What the video and the pose tower share: one AdaptedBlock for each frozen block of CLIP."""

    def __init__(self, config, clip_config, temporal, adapters):
        super().__init__()
        depth = clip_config.vision_layers
        self.checkpointing = config.grad_checkpointing
        self.blocks = nn.ModuleList()
        for i in range(depth):
            # Stochastic depth grows from 0 in the first block to the setting in the last (AIM).
            rate = config.drop_path * i / max(depth - 1, 1)
            self.blocks.append(AdaptedBlock(clip_config.vision_width, config.adapter_ratio,
                                            temporal, adapters, drop_path=rate))

    def run(self, x, trunk, need_weights=False, start=0, stop=None, asking=None):
        """x (B, T, n, d) -> the same after all blocks, and the last one's class attention or None.

        trunk: CLIP's image tower, whose frozen blocks run with our adapters. start, stop: run only
        blocks start + 1 to stop. asking: a number; the last block makes only the first so many
        tokens, since no others are read.
        """
        weights = None
        walked = list(zip(self.blocks, trunk.transformer.resblocks))
        for adapted, block in walked[start:stop]:
            is_last = adapted is self.blocks[-1]
            wanted = need_weights and is_last
            made = asking if is_last else None
            if self.checkpointing and self.training:
                x, weights = checkpoint(adapted, x, block, wanted, made, use_reentrant=False)
            else:
                x, weights = adapted(x, block, wanted, made)
        return x, weights


class VideoTower(AdaptedTower):
    """Frames -> tokens z_v. PeVL's frames do not see each other: time is the pose's business.

    frames: 0 for PeVL; for AIM its number of frames: then the tower attends over time, too.
    """

    def __init__(self, config, clip_config, adapters=True, frames=0):
        super().__init__(config, clip_config, temporal=frames > 0, adapters=adapters)
        self.temporal_embedding = None
        if frames > 0:
            self.temporal_embedding = nn.Parameter(torch.zeros(frames, 1, clip_config.vision_width))

    def forward(self, frames, trunk, need_weights=False, place=None, asking=None):
        """frames (B, Tv, 3, S, S) from `normalise` -> z_v (B, Tv, Nv, d), class attention or None.

        The attention is that of the last block's class token to all Nv tokens, (B, Tv, Nv). place:
        a number of blocks; the tokens behind them come third. asking: as in `run`; not with place.
        """
        B, Tv = frames.shape[:2]
        when = 0.0
        if self.temporal_embedding is not None:
            when = self.temporal_embedding.repeat(B, 1, 1)                  # (B Tv, 1, d)
        x = trunk.embed(frames.flatten(0, 1), when)                         # (B Tv, Nv, d)
        x = x.unflatten(0, (B, Tv))                                         # (B, Tv, Nv, d)
        if place is None:
            return self.run(x, trunk, need_weights, asking=asking)
        there, weights = self.run(x, trunk, need_weights, stop=place)       # (B, Tv, Nv, d)
        if place == len(self.blocks):
            return there, weights, there
        z_v, weights = self.run(there, trunk, need_weights, start=place)
        return z_v, weights, there

    def rerun(self, z, trunk, place):
        """Refined tokens z (B, Tv, Nv, d) through the blocks behind `place` -> the same shape."""
        return self.run(z, trunk, start=place)[0]


class PoseTower(AdaptedTower):
    """Joints -> tokens z_p, through the same frozen blocks, with attention over time.

    A joint's token is Linear(x, y) + an embedding that says which joint it is. A joint that was not
    found (score 0) has a learned vector in place of Linear(x, y), since (0, 0) is the middle of the
    picture (D1). The class token is CLIP's; all tokens of a frame get the embedding of its time.

    Table 9's rival input is heatmaps: the J joints drawn as J channels of an image, cut into
    patches by systems/heatmaps.py. Then patches stand where joints do (D22).
    """

    def __init__(self, config, clip_config, joints, adapters=True):
        super().__init__(config, clip_config, temporal=True, adapters=adapters)
        d = clip_config.vision_width
        std = d ** -0.5                                   # as CLIP starts its own embeddings
        self.temporal_embedding = nn.Parameter(sinusoids(config.pose_frames, d))
        self.heatmaps = None
        if config.pose_input == "heatmaps":
            self.heatmaps = HeatmapTokens(joints, d)
        else:
            # Place, joint and time each hold a share of a token, the same at every width (D1).
            self.coordinates = nn.Linear(2, d, bias=False)
            nn.init.normal_(self.coordinates.weight, std=4 * std)
            self.joint = nn.Parameter(torch.randn(joints, d) * std)
            self.missing = nn.Parameter(torch.randn(d) * std)

    def embed_joints(self, keypoints, scores):
        """keypoints (B, T, J, 2) in [-1, 1], scores (B, T, J) -> tokens (B, T, J, d)."""
        seen = (scores > 0)[..., None]                                      # (B, T, J, 1)
        # What a detector wrote for a joint that it did not find may be anything, NaN included.
        point = self.coordinates(keypoints.masked_fill(~seen, 0.0))         # (B, T, J, d)
        return torch.where(seen, point, self.missing) + self.joint

    def embed(self, keypoints, scores):
        """The tokens of whichever input the tower was built for, without the class token."""
        if self.heatmaps is not None:
            return self.heatmaps(keypoints, scores)
        return self.embed_joints(keypoints, scores)

    def forward(self, keypoints, scores, trunk):
        """keypoints (B, T, J, 2) in [-1, 1], scores (B, T, J), 0 = not found -> z_p and weights.

        z_p (B, T, 1 + J, d), class token first. weights (B, T, J): the last block's class attention
        to the joints, mean over heads; with the class token's own share the sum is 1. They say
        which joints this tower found telling, and Eq. (1) asks for that.
        """
        tokens = self.embed(keypoints, scores)                              # (B, T, J, d)
        B, T = tokens.shape[:2]
        first = trunk.class_embedding + trunk.positional_embedding[0]       # (d,)
        x = torch.cat([first.expand(B, T, 1, -1), tokens], dim=2)           # (B, T, 1 + J, d)
        x = trunk.ln_pre(x + self.temporal_embedding)
        x, weights = self.run(x, trunk, need_weights=True)
        return x, weights[..., 1:]


class TextTower(nn.Module):
    """CLIP's frozen text blocks, an adapter with skip after each attention and each MLP (D2)."""

    def __init__(self, config, clip_config, adapters=True):
        super().__init__()
        self.after_attention = nn.ModuleList()
        self.after_mlp = nn.ModuleList()
        for adapters_of_a_kind in (self.after_attention, self.after_mlp):
            for _ in range(clip_config.text_layers):
                if adapters:
                    adapter = Adapter(clip_config.text_width, config.text_adapter_ratio, skip=True)
                else:
                    adapter = nn.Identity()
                adapters_of_a_kind.append(adapter)

    def forward(self, tokens, clip):
        """tokens (K, W) int64 -> sentences (K, e), words (K, W, e), word_mask (K, W) bool.

        clip: the CLIP whose frozen text tower is walked; outputs as of its `encode_text`.
        """
        x = clip.embed_text(tokens)                                         # (K, W, text width)
        mask = clip.causal_mask(tokens.shape[1])                            # (W, W)
        blocks = clip.transformer.resblocks
        for block, adapt_1, adapt_2 in zip(blocks, self.after_attention, self.after_mlp):
            x = x + adapt_1(block.attn(block.ln_1(x), mask))
            x = x + adapt_2(block.mlp(block.ln_2(x)))
        return clip.read_text(x, tokens)


# ---- Sec. 3.2.1: pose-adapted vision attention (P2V), Eq. (1), Fig. 3a ---------------------------
#
# A diver is a small part of a picture of a hall. The joints say which patches are the body, and the
# pose tower's attention which joints matter now; M holds both, and P2V lets the video look there.

def patch_weight(joint_weights, keypoints, scores, grid):
    """The weighted mask M of Eq. (1): how much of the body's attention lies in each patch (D3).

        w_j = joint_weights_j / sum over visible joints
        m_n = sum of w_j over the visible joints j in patch n
        M_n = m_n / max over the patches of its frame

    joint_weights (B, Tv, J) >= 0: attention of the pose tower's class token.
    keypoints (B, Tv, J, 2): x, y, the frame is [-1, 1]. scores (B, Tv, J): 0 = not found.
    grid: patches along a side.

    Returns (B, Tv, N) in [0, 1], N = grid * grid by rows; 0 = no joint in the patch. The largest of
    a frame is 1 (less where its joints have shares below 1e-12), or 0 where no joint is in it.
    Raises ValueError where the shapes do not fit.

    Three joints on a 2 x 2 grid, one at the top left and two at the top right:

    >>> w = torch.tensor([[[0.1, 0.2, 0.1]]])
    >>> xy = torch.tensor([[[[-0.5, -0.5], [0.5, -0.5], [0.9, -0.1]]]])
    >>> patch_weight(w, xy, scores=torch.ones(1, 1, 3), grid=2)
    tensor([[[0.3333, 1.0000, 0.0000, 0.0000]]])
    """
    sizes = check_shape(joint_weights, "B Tv J", "joint_weights")
    check_shape(keypoints, "B Tv J 2", "keypoints", **sizes)
    check_shape(scores, "B Tv J", "scores", **sizes)
    B, Tv = sizes["B"], sizes["Tv"]

    # The paper's "normalised sum of weights", step one: those of the joints that were found sum to
    # 1. (Step two divides by the maximum and so cancels this; it stays since the paper names it.)
    visible = scores > 0
    shares = joint_weights * visible
    shares = shares / shares.sum(-1, keepdim=True).clamp_min(1e-12)         # (B, Tv, J)

    # Which patch a joint is in: the frame, 2 wide in keypoints, is `grid` patches wide. A joint on
    # the last edge belongs to the last patch. One outside of the frame is put into some patch here
    # and counts nothing below; nor does NaN, which is no place.
    place = ((keypoints + 1) / 2 * grid).floor().clamp(0, grid - 1)
    column, row = place.nan_to_num().long().unbind(-1)                      # (B, Tv, J) each
    patch = row * grid + column                                             # (B, Tv, J)

    inside = visible & (keypoints.abs() <= 1).all(-1)                       # (B, Tv, J)
    total = shares.new_zeros(B, Tv, grid * grid)
    total = total.scatter_add(-1, patch, shares * inside)                   # (B, Tv, N)

    # Step two: M multiplies scores, so it must not get smaller where many joints share the weight.
    # With a maximum of 1 the strongest patch keeps its score as it is.
    return total / total.amax(-1, keepdim=True).clamp_min(1e-12)


def masked_softmax(scores, weight, literal_mask=False, mask="product"):
    """alpha^P2V of Eq. (1) for queries that look: softmax over patches of (score * M).

    scores (..., nq, N): query . key. weight M (..., 1, N) in [0, 1], 0 = background. literal_mask:
    as printed, background takes part with score * 0 = 0. mask="log": softmax of (score + log M)
    (systems/readings.py). -> (..., nq, N), rows of sum 1; no meaning where no patch has weight.

    Why not as printed: a score of 0 is not "no attention", since exp(0) = 1. One body patch with
    the score 2 beside three of background, which the mask should have removed, keeps 0.71 of the
    attention; beside 195 it would keep 0.04. So we leave the background out (D4).

    >>> scores, M = torch.tensor([[2.0, 1.0, -1.0, 3.0]]), torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    >>> masked_softmax(scores, M, literal_mask=True)
    tensor([[0.7112, 0.0963, 0.0963, 0.0963]])
    >>> masked_softmax(scores, M)
    tensor([[1., 0., 0., 0.]])

    Between body patches M acts as printed: it scales scores. The scores 2 and 2 become 2 and 1. (So
    scores of -2 and -2 become -2 and -1: there a larger M gets less, which mask="log" mends, D4.)

    >>> masked_softmax(torch.tensor([[2.0, 2.0, 5.0]]), torch.tensor([[1.0, 0.5, 0.0]]))
    tensor([[0.7311, 0.2689, 0.0000]])
    """
    if mask == "log":
        scores = log_masked(scores, weight)
    else:
        scores = scores * weight
    if not literal_mask:
        # The least number, not -inf: a frame without joints has no patch left, and a row of -inf
        # alone gives NaN, with which gradients would be lost even though the row is not used.
        scores = scores.masked_fill(~(weight > 0), torch.finfo(scores.dtype).min)
    return scores.softmax(-1)


class Refinement(nn.Module):
    """What P2V and V2P share: queries, keys, values of h heads, an output layer that starts at 0.

    d: width of the tokens. heads: h, which divides d. PeVL copies the start of queries, keys,
    values and layer norms from CLIP (start_from_block, D28).
    """

    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(d, d)
        self.key = nn.Linear(d, d)
        self.value = nn.Linear(d, d)
        self.out_proj = zero_linear(d, d)

    def split_heads(self, x):
        """(..., n, d) -> (..., h, n, c), c = d / h."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def project(self, asking, seen):
        """asking (..., nq, d), seen (..., n, d) -> q (..., h, nq, c), k and v (..., h, n, c)."""
        q = self.split_heads(self.query(asking))
        k = self.split_heads(self.key(seen))
        v = self.split_heads(self.value(seen))
        return q, k, v

    def join(self, mixed):
        """Heads (..., h, nq, c) side by side through out_proj -> (..., nq, d)."""
        return self.out_proj(mixed.transpose(-3, -2).flatten(-2))


class P2V(Refinement):
    """Pose-adapted vision attention: the video looks where the pose says that the body is.

        s[q, n] = (query_q . key_n / sqrt(c)) * M_n
        z_q = z_q + out_proj(sum_n softmax_n(s[q, n]) value_n)     n: patches; q: who looks, below

    query, key, value: linear, of ln(z), in h heads of c numbers. Same shape in and out, so that it
    fits after any ViT block; PeVL has it after the last (D6). Three kinds of query:

        body patch, M > 0         looks at the body patches of its frame
        class token               the same; M has no entry for it: it asks here, and is no key
        background patch, M = 0   passes through unchanged, which is our reading of + I (D5)

    In a frame without any joint nobody looks and all pass through.

    literal_mask: background patches are looked at with the score 0, as printed. mask: "product" as
    above, or "log" (D4). kind: "attention" as above; "block" has the frozen MLP of a block of CLIP
    behind it, for the tokens that looked, with a gate that starts at 0 (D30):

        z_q = z_q + gate * MLP(LN2(z_q))
    """

    def __init__(self, d, heads, literal_mask=False, mask="product", kind="attention"):
        super().__init__(d, heads)
        self.literal_mask = literal_mask
        self.mask = mask
        self.ln = nn.LayerNorm(d)
        self.gate = None
        if kind == "block":
            self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, tokens, weight, block=None, class_only=False, need_weights=False):
        """tokens z_v (B, Tv, Nv, d), weight M (B, Tv, N) in [0, 1] -> z_v^R (B, Tv, Nv, d).

        block: the frozen ResidualAttentionBlock whose MLP kind="block" uses; else it is not read.
        class_only: compute the class token alone, (B, Tv, 1, d); exact, and all that PeVL reads
        when P2V is behind the last block. need_weights: give also the class token's attention to
        the patches, mean over heads, (B, Tv, N): sum 1, or all 0 in a frame without joints.
        Raises ValueError where M has not one entry for each patch.
        """
        check_shape(tokens, "B Tv Nv d", "tokens", B=weight.shape[0], Tv=weight.shape[1],
                    Nv=weight.shape[2] + 1)

        # One query for each token, or for the class token alone (nq is Nv or 1); keys and values
        # for the patches.
        normed = self.ln(tokens)                                            # (B, Tv, Nv, d)
        asking = normed[:, :, :1] if class_only else normed                 # (B, Tv, nq, d)
        q, k, v = self.project(asking, normed[:, :, 1:])                    # (B, Tv, h, ., c)

        # Eq. (1). Heads and queries of a frame share its M.
        scores = q @ k.transpose(-1, -2)                                    # (B, Tv, h, nq, N)
        scores = scores * q.shape[-1] ** -0.5
        M = weight[:, :, None, None]                                        # (B, Tv, 1, 1, N)
        share = masked_softmax(scores, M, self.literal_mask, self.mask)     # (B, Tv, h, nq, N)

        # The three kinds of query. The class token looks wherever there is a body to look at.
        is_body = weight > 0                                                # (B, Tv, N)
        has_body = is_body.any(-1, keepdim=True)                            # (B, Tv, 1)
        looks = torch.cat([has_body, is_body], dim=-1)                      # (B, Tv, Nv)
        z = tokens
        if class_only:
            looks = looks[:, :, :1]                                         # (B, Tv, 1)
            z = tokens[:, :, :1]                                            # (B, Tv, 1, d)

        seen = z + self.join(share @ v)                                     # (B, Tv, nq, d)
        if self.gate is not None:
            seen = seen + self.gate * block.mlp(block.ln_2(seen))           # (B, Tv, nq, d)
        refined = torch.where(looks[..., None], seen, z)                    # not looking: + I, D5
        if need_weights:
            of_class_token = share[..., 0, :].mean(2)                       # (B, Tv, N)
            return refined, of_class_token * has_body
        return refined


# ---- Sec. 3.2.2: video-enriched pose (V2P), Eq. (2) ----------------------------------------------
#
# Coordinates do not show whether a body twists or whose hand it is. So each joint of a frame asks
# the picture of that frame; the other way round than P2V, and without a mask.

class V2P(Refinement):
    """Video-enriched pose: the pose tokens of a frame look at the video tokens of that frame.

        z_q = z_q + out_proj(sum_n softmax_n(query_q . key_n / sqrt(c)) value_n)

    query_q: of ln_pose(z_q), the J joints and the class token; the latter asks for the background,
    as itself + a learned vector, which the z_q on the right lacks (D7). key_n, value_n: of ln_video
    of all Nv video tokens before P2V (Eq. (2) has Eq. (1)'s K_v). Other pose frames stay as is.

    Eq. (2) for one query (1.4142, 0), c = 2, and two video tokens with the keys (1, 0) and (0, 1):
    its scores are 1 and 0, so it takes 0.73 of the first value and 0.27 of the second.

    >>> q, k, v = torch.tensor([[2 ** 0.5, 0.0]]), torch.eye(2), torch.tensor([[10.0], [20.0]])
    >>> F.scaled_dot_product_attention(q, k, v)
    tensor([[12.6894]])

    group: queries compete for pixels, the other reading (systems/readings.py, D31).
    """

    def __init__(self, d, heads, group=False):
        super().__init__(d, heads)
        self.group = group
        self.ln_pose = nn.LayerNorm(d)
        self.ln_video = nn.LayerNorm(d)
        self.background = nn.Parameter(torch.zeros(d))

    def forward(self, pose_tokens, video_tokens, index):
        """z_p (B, T, 1 + J, d), z_v (B, Tv, Nv, d), index (Tv,) int64 -> z_p^R (B, T, 1 + J, d).

        index: places of the video frames among the T pose frames. Raises ValueError where the
        sizes of pose, video and index differ.
        """
        B, d = pose_tokens.shape[0], pose_tokens.shape[-1]
        check_shape(video_tokens, "B Tv Nv d", "video_tokens", B=B, Tv=len(index), d=d)

        chosen = pose_tokens[:, index]                                      # (B, Tv, 1 + J, d)
        background = chosen[:, :, :1] + self.background                     # (B, Tv, 1, d)
        asking = torch.cat([background, chosen[:, :, 1:]], dim=2)           # (B, Tv, 1 + J, d)
        q, k, v = self.project(self.ln_pose(asking), self.ln_video(video_tokens))

        if self.group:
            attended = group_pixels(q, k, v)
        else:
            attended = F.scaled_dot_product_attention(q, k, v)              # (B, Tv, h, 1 + J, c)
        update = self.join(attended)                                        # (B, Tv, 1 + J, d)
        return pose_tokens.index_copy(1, index, chosen + update)            # (B, T, 1 + J, d)


# ---- Sec. 3.2.3: refinement supervision, Eq. (3) -------------------------------------------------
#
# A wrong joint leads P2V astray, and a picture may distract V2P. So each clip must find its own
# refinement among those of the whole batch: it may change, but not turn into another clip.

def nt_xent(z, z_refined, temperature):
    """Eq. (3): among the clips of the batch, a clip is nearest to its own refinement.

        s_ij = cos(z_i, z_refined_j) / temperature
        L = mean_i of ( -log softmax_j(s_ij)[i] - log softmax_j(s_ji)[i] ) / 2

    z, z_refined (B, e); temperature > 0, float or scalar tensor -> scalar >= 0, 0 for one clip.
    The mean, where a sum is printed: with a sum lambda_R would depend on the batch size. Both
    directions, since the text speaks of symmetric similarities (D8).

    >>> z = torch.eye(2)
    >>> nt_xent(z, z, temperature=1.0)                    # -log(e / (e + 1))
    tensor(0.3133)
    """
    check_shape(z_refined, "B e", "z_refined", B=z.shape[0], e=z.shape[1])
    sim = cosine(z, z_refined) / temperature                                # (B, B)
    itself = torch.arange(len(sim), device=sim.device)
    return (F.cross_entropy(sim, itself) + F.cross_entropy(sim.T, itself)) / 2


# ---- Sec. 3.3.1: multi-level contrastive association, Eq. (4), Fig. 3b ---------------------------
#
# A dive's label names its parts: "Back, 2.5 somersaults, pike position". Clip and sentence are
# compared as wholes by `cosine` (S_VS, S_PS); here single words find the moments they speak of.

def attend(values, tau, dim, mask=None):
    """Soft maximum: sum over `dim` of softmax(values / tau) * values; towards max as tau goes to 0.

    mask: bool, of a shape that broadcasts to that of values, False = absent. If all are absent: 0.

    >>> values = torch.tensor([1.0, 0.0])
    >>> attend(values, tau=1.0, dim=0), attend(values, tau=0.01, dim=0)
    (tensor(0.7311), tensor(1.))
    """
    if mask is None:
        share = (values / tau).softmax(dim)
        return (share * values).sum(dim)
    least = torch.finfo(values.dtype).min         # not -inf: a softmax of -inf alone is NaN
    share = (values / tau).masked_fill(~mask, least).softmax(dim)
    return (share * values).masked_fill(~mask, 0.0).sum(dim)


def frame_word_similarity(pose_frames, words, word_mask, tau=0.01):
    """S_FW of Eq. (4), sub-action level: attention over the frames x words matrix, twice (D10).

        A[t, w] = cos(pose_frames_t, word_w)
        c_w = sum_t softmax_t(A[t, w] / tau) A[t, w]       s1 = sum_w softmax_w(c_w / tau) c_w
        r_t = sum_w softmax_w(A[t, w] / tau) A[t, w]       s2 = sum_t softmax_t(r_t / tau) r_t
        sim_fw = (s1 + s2) / 2

    In words: c_w is how well word w is met at its best moment, r_t how well moment t is described
    by its best word; s1 and s2 are the best of these, softly.

    pose_frames F (B, T, e), words (K, W, e), word_mask (K, W) bool: True on the words of a text,
    False on start, end and padding (D11). -> (B, K) in [-1, 1]; 0 for a text without words.

    Two moments, two words, each moment is one word: A is the 2 x 2 identity. With tau 1 the inner
    attention makes 0.73 of 1 and 0, the outer 0.73 of two such; with 0.01 both find the 1.

    >>> two, both = torch.eye(2)[None], torch.ones(1, 2, dtype=torch.bool)
    >>> frame_word_similarity(two, two, both, tau=1.0), frame_word_similarity(two, two, both)
    (tensor([[0.7311]]), tensor([[1.]]))
    """
    B, T, e = pose_frames.shape
    K, W = word_mask.shape
    check_shape(words, "K W e", "words", K=K, W=W, e=e)

    A = cosine(pose_frames.flatten(0, 1), words.flatten(0, 1))              # (B T, K W)
    A = A.view(B, T, K, W).transpose(1, 2)                                  # (B, K, T, W)

    per_word = attend(A, tau, dim=2)                                        # c (B, K, W)
    per_frame = attend(A, tau, dim=3, mask=word_mask[:, None])              # r (B, K, T)
    s1 = attend(per_word, tau, dim=2, mask=word_mask)                       # (B, K)
    s2 = attend(per_frame, tau, dim=2)                                      # (B, K)
    return (s1 + s2) / 2


def mean_similarity(sims):
    """Eq. (4): S = (S_VS + S_PS + S_FW) / 3, of the terms that are on. name -> (B, K) -> (B, K).

    A clip meets the sentence by 0.4 in its video, by 0.2 in its pose, the words by 0.9:

    >>> mean_similarity({"vs": 0.4, "ps": 0.2, "fw": 0.9})
    0.5
    """
    return sum(sims.values()) / len(sims)


# ---- Sec. 3.3.2: semantic content guided loss, Eqs. (5) and (6) ----------------------------------
#
# "Forward, tuck" and "Forward, pike" share more than "Forward, tuck" and "Reverse, twist". A plain
# contrastive loss pushes a clip off from both wrong texts alike; here each text pushes as hard as
# its content differs.

def text_discrepancy(sentences):
    """1 - cos of each two texts, the raw strengths of Eq. (5): (K, e) -> (K, K) in [0, 2].

    The diagonal is 0, exactly: a text does not differ from itself, whatever rounding says.

    >>> text_discrepancy(torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
    tensor([[0.0000, 0.4000],
            [0.4000, 0.0000]])
    """
    return (1 - cosine(sentences, sentences)).clamp_min(0).fill_diagonal_(0)


def semantic_weights(labels, discrepancy):
    """Weights w of Eq. (5): 1 where labels agree, n_i * s_ij where they differ (D12).

        s_ij = discrepancy_ij / sum over differing k of discrepancy_ik     n_i = number that differ

    The n_i (the paper has B - 1, the same where all labels of a batch differ) make the mean weight
    of a row's negatives 1, as in the plain loss: text contents move the pushing from one negative
    to another. A row whose discrepancies are equal, or all zero, has w = 1: the plain loss.

    labels (B,) int64 < K; discrepancy (K, K) >= 0 -> w (B, B) >= 0; row i: the anchor.

    Three labels; the first differs from the second by 0.2 and from the third by 0.6. Those push
    with 0.25 and 0.75 of the strength, times two negatives:

    >>> D = torch.tensor([[0.0, 0.2, 0.6], [0.2, 0.0, 0.2], [0.6, 0.2, 0.0]])
    >>> semantic_weights(torch.tensor([0, 1, 2]), D)
    tensor([[1.0000, 0.5000, 1.5000],
            [1.0000, 1.0000, 1.0000],
            [1.5000, 0.5000, 1.0000]])
    """
    differ = labels[:, None] != labels[None, :]                             # (B, B)
    raw = discrepancy[labels][:, labels] * differ                           # (B, B)

    # A row without any discrepancy: its negatives share the strength alike.
    raw = torch.where(raw.sum(1, keepdim=True) > 0, raw, differ.to(raw.dtype))

    negatives = differ.sum(1, keepdim=True)                                 # n (B, 1)
    total = raw.sum(1, keepdim=True)                                        # (B, 1)
    strength = raw / total.clamp_min(torch.finfo(raw.dtype).tiny)           # s (B, B)
    return (negatives * strength).masked_fill(~differ, 1.0)


def one_way_kl(logits, truth, weights=None):
    """Mean over rows of KL(q || p): half of Eq. (6), with p of Eq. (5).

        p_ij = w_ij exp(logits_ij) / sum_k w_ik exp(logits_ik)
        q_ij = truth_ij / sum_k truth_ik

    logits (B, B); truth (B, B) >= 0, no row all zero; weights w (B, B) >= 0, 0 = absent, None: all
    1 -> scalar >= 0. KL(q || p), while KL(p, q) is printed: the other is infinite wherever q = 0,
    which is nearly everywhere (D14).

    Clip 0 is right about the second of two texts, with p = 1/2: KL = log 2.

    >>> one_way_kl(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]))
    tensor(0.6931)
    """
    q = truth / truth.sum(1, keepdim=True)                                  # (B, B), rows sum to 1
    if weights is not None:
        logits = logits + weights.log()           # w exp(l) = exp(l + log w), and no exp overflows
    log_p = logits.log_softmax(1)                                           # (B, B)

    # 0 log 0 is 0: entries with q = 0 are left out, and the clamp keeps their log finite.
    each = q * (q.clamp_min(1e-30).log() - log_p)                           # (B, B)
    return each.masked_fill(q == 0, 0.0).sum(1).mean()


def two_way_kl(logits, truth, weights=None):
    """The mean of one_way_kl from clips to texts and from texts to clips, as in Eq. (6).

    Arguments as of one_way_kl; row i of logits is clip i, column j text j. `weights` are the
    anchor's in both directions, row i those of clip i and of text i, so they are not transposed.
    PeVL's and ViLP's losses both are this, with another truth and other weights.
    """
    clips_to_texts = one_way_kl(logits, truth, weights)
    texts_to_clips = one_way_kl(logits.T, truth.T, weights)
    return (clips_to_texts + texts_to_clips) / 2


def semantic_guided_loss(logits, labels, discrepancy):
    """Eqs. (5), (6): contrast clips and texts; a text is pushed off as far as its content differs.

        p_ij = w_ij exp(logits_ij) / sum_k w_ik exp(logits_ik)     w from semantic_weights
        q_ij = [label_i = label_j] / number of clips with label_i
        L = ( mean_i KL(q_i || p_i) of clips to texts + the same of texts to clips ) / 2

    logits (B, B) = sim / tau, row: clip i, column: text of clip j. labels (B,) int64. discrepancy
    (K, K) from text_discrepancy -> scalar >= 0.

    Same-label pairs pull: for the labels 0, 1, 0 the rows of q are (1/2, 0, 1/2), (0, 1, 0) and
    (1/2, 0, 1/2). Clips 0 and 2 are of one action, and each has two right texts that share the 1;
    cross-entropy would call one of them wrong. With equal logits p = 1/3, so that the KL is
    log(3/2), log 3, log(3/2); with the right logits there is nothing left to gain.

    >>> labels, D = torch.tensor([0, 1, 0]), 1 - torch.eye(2)
    >>> semantic_guided_loss(torch.zeros(3, 3), labels, D)
    tensor(0.6365)
    >>> right = torch.tensor([[9.0, -9.0, 9.0], [-9.0, 9.0, -9.0], [9.0, -9.0, 9.0]])
    >>> semantic_guided_loss(right, labels, D) < 1e-6
    tensor(True)
    """
    check_shape(logits, "B B", "logits", B=len(labels))
    agree = (labels[:, None] == labels[None, :]).to(logits.dtype)           # (B, B)
    return two_way_kl(logits, agree, semantic_weights(labels, discrepancy))


# ---- Sec. 3.4: prediction, Eq. (7) ---------------------------------------------------------------

def predict(logits, views=1):
    """Eq. (7): P(S(x, y) | theta) of all texts y; the label is its argmax.

    logits (B * views, K) = sim / tau, the views of a clip in a row (Sec. 4.1: three crops) ->
    (B, K), rows of sum 1: softmax over the texts of the mean over the views (D19).
    Evaluation takes this mean in systems/views.py, where AIM's stands beside it.

    >>> predict(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), views=2)      # means 1 and 0
    tensor([[0.7311, 0.2689]])
    """
    return logits.unflatten(0, (-1, views)).mean(1).softmax(-1)


# ---- PeVL, Fig. 2 --------------------------------------------------------------------------------

class PeVL(ActionModel):
    """Three adapted encoders on one frozen CLIP, then UCMR (Eqs. 1 to 3), then SGMC (Eqs. 4 to 6).

    Arguments as of ActionModel. Which parts exist is said by `config`; the ablations of Tables 4 to
    9 switch them off. Two of these are not in Fig. 2 and have the `projection`: fusion="concat",
    one feature [V; P] in place of the three similarities, and text=False, which makes it a linear
    head (D22).
    """

    PARTS = {
        "video tower": "video",
        "pose tower": "pose",
        "text tower": "text",
        "P2V": "p2v",
        "V2P": "v2p",
        "projection": "projection",
    }

    def __init__(self, config, clip, texts, joints=17):
        super().__init__(config, clip, texts, joints)
        sizes = clip.config
        self.sim = config.usable_similarities()           # the terms of Eq. (4)

        # Sec. 3.1: the encoders.
        self.video = None
        self.pose = None
        if config.video:
            self.video = VideoTower(config, sizes, adapters=config.video_adapters)
        if config.pose:
            self.pose = PoseTower(config, sizes, joints, adapters=config.pose_adapters)
        if config.text:
            self.text = TextTower(config, sizes, adapters=config.text_adapters)

        # Sec. 3.2: refinement takes two modalities.
        self.p2v = None
        self.v2p = None
        both = config.video and config.pose
        self.place = config.p2v_after or sizes.vision_layers      # blocks in front of P2V
        if both and config.p2v:
            self.p2v = P2V(sizes.vision_width, sizes.vision_heads, config.literal_mask,
                           config.mask, config.p2v_kind)
            start_from_block(self.p2v, self.p2v_block())
        if both and config.v2p:
            self.v2p = V2P(sizes.vision_width, sizes.vision_heads, config.v2p_group)
            start_from_block(self.v2p, clip.visual.transformer.resblocks[-1])

        # Not in Fig. 2, see above: [V; P] -> the size of a sentence, or the classes.
        self.projection = None
        if config.fusion == "concat" or not config.text:
            modalities = config.video + config.pose
            n_out = sizes.embed_dim if config.text else self.classes
            self.projection = nn.Linear(sizes.embed_dim * modalities, n_out)
            if config.text:
                start_as_mean(self.projection, modalities)

        # Sec. 3.2.3: a temperature for video and one for pose, from CLIP's start 0.07 (D8).
        if config.refinement:
            for name, block in {"video": self.p2v, "pose": self.v2p}.items():
                if block is not None:
                    log_scale = torch.tensor(0.07).log().neg()
                    self.refine_scale[name] = nn.Parameter(log_scale)

        # Sec. 3.3.2: how labels differ is asked once of CLIP's own text tower, without adapters. If
        # it were asked of the texts in training, they could drift together, and the loss would fall
        # with nothing learned (D13).
        if config.text:
            with torch.no_grad():
                D = text_discrepancy(clip.encode_text(self.tokens)[0])      # (K, K)
            if not config.sgl:
                D = torch.zeros_like(D)                   # all alike: the plain contrastive loss
            self.register_buffer("discrepancy", D, persistent=False)

    def forward(self, batch):
        """One pass through Fig. 2, from a clip to what is compared with texts.

        batch: of the video tower, frames (B, Tv, 3, S, S) in 0..255; of the pose tower, keypoints
        (B, T, J, 2) in [-1, 1] and scores (B, T, J), 0 = not found; label (B,) int64, handed on.

        Returns a dict; what is switched off is not in it:

            label         (B,)
            video         V (B, e), after P2V
            pose_frames   F (B, T, e), after V2P
            pose          P (B, e), the mean of F over the frames
            video_before  (B, e), V as it would be without P2V, for Eq. (3)
            pose_before   (B, e), P as it would be without V2P, for Eq. (3)

        Raises ValueError where a shape differs from what the model was built for.
        """
        self.check_batch(batch, video=self.config.video, pose=self.config.pose, joints=self.joints)
        trunk = self.clip.visual                          # the frozen blocks of both towers
        features = {"label": batch["label"]}
        z_v = None                                        # as the tower gives it
        there = None                                      # the tokens that P2V reads
        z_p = None

        # Sec. 3.1: unimodal encoders with adapters. (The texts do not depend on the clip: losses.)
        if self.video is not None:
            frames = normalise(batch["frames"])                             # (B, Tv, 3, S, S)
            z_v, _, there = self.video(frames, trunk, place=self.place)     # (B, Tv, Nv, d)
        if self.pose is not None:
            z_p, joint_weights = self.pose(                                 # (B, T, 1 + J, d)
                batch["keypoints"], batch["scores"], trunk)

        # Sec. 3.2.1: pose tells video where to look, and learns from it by M's gradient (D3).
        refined_v = z_v
        if self.p2v is not None:
            M = self.mask(batch, joint_weights)                             # (B, Tv, N)
            refined_v = self.refine_video(there, M)                         # (B, Tv, 1 or Nv, d)

        # Sec. 3.2.2: video tells pose what is there, from z_v: the two blocks stand side by side.
        refined_p = z_p
        if self.v2p is not None:
            refined_p = self.v2p(z_p, z_v, self.video_index)                # (B, T, 1 + J, d)

        # Sec. 3.3.1: representations of the clip (V, P) and of its frames (F).
        if self.video is not None:
            features["video"] = self.read_video(refined_v)                  # (B, e)
        if self.pose is not None:
            features["pose_frames"] = self.read_pose(refined_p)             # (B, T, e)
            features["pose"] = features["pose_frames"].mean(1)              # (B, e)

        # Sec. 3.2.3: the same before refinement, for Eq. (3).
        if "video" in self.refine_scale:
            features["video_before"] = self.read_video(z_v)                 # (B, e)
        if "pose" in self.refine_scale:
            features["pose_before"] = self.read_pose(z_p).mean(1)           # (B, e)
        return features

    def read_video(self, z):
        """z (B, Tv, Nv, d) -> (B, e): CLIP's read-out of class tokens, mean over frames (D9)."""
        return self.clip.visual.read_out(z[:, :, 0]).mean(1)

    def read_pose(self, z):
        """z (B, T, 1 + J, d) -> (B, T, e): the mean token of a frame through CLIP's read-out (D9).

        Not the class token alone: CLIP trained it for pictures, and a pose lies in its joints.
        """
        return self.clip.visual.read_out(z.mean(2))

    def p2v_block(self):
        """The frozen block that P2V starts from: the one that it stands before, else the last."""
        blocks = self.clip.visual.transformer.resblocks
        return blocks[min(self.place, len(blocks) - 1)]

    def refine_video(self, z, M):
        """z (B, Tv, Nv, d) where P2V stands, M (B, Tv, N) -> z_v^R (B, Tv, Nv, d).

        Behind the last block the class tokens alone are read, and with p2v_kind="attention" P2V
        gives no others, (B, Tv, 1, d). Elsewhere the later blocks go over all refined tokens once
        more (D6).
        """
        is_last = self.place == len(self.video.blocks)
        class_only = is_last and self.config.p2v_kind == "attention"
        refined = self.p2v(z, M, self.p2v_block(), class_only=class_only)
        if is_last:
            return refined
        return self.video.rerun(refined, self.clip.visual, place=self.place)

    def mask(self, batch, joint_weights):
        """M of Eq. (1) for the video frames, (B, Tv, N); joint_weights (B, T, J) from PoseTower."""
        at = self.video_index
        return patch_weight(joint_weights[:, at], batch["keypoints"][:, at],
                            batch["scores"][:, at], self.clip.visual.grid)

    def concatenated(self, features):
        """[V; P] through one projection: (B, e), or (B, K) without text (D22)."""
        found = [features[name] for name in ("video", "pose") if name in features]
        return self.projection(torch.cat(found, dim=-1))

    def similarities(self, features, text):
        """The terms of Eq. (4) that are on, name -> (B, U) in [-1, 1].

            S_VS = cos(V, S)      S_PS = cos(P, S)      S_FW = frame_word_similarity(F, W)

        features: of forward. text: of encode_texts, U texts. With fusion="concat" it is one
        similarity, {"concat": cos(projection([V; P]), S)}.
        """
        if self.projection is not None:
            return {"concat": cosine(self.concatenated(features), text["sentences"])}

        sims = {}
        for name in self.sim:
            if name == "vs":
                sims[name] = cosine(features["video"], text["sentences"])
            elif name == "ps":
                sims[name] = cosine(features["pose"], text["sentences"])
            else:
                sims[name] = frame_word_similarity(features["pose_frames"], text["words"],
                                                   text["word_mask"], self.config.tau_fw)
        return sims

    def contrast(self, sim, labels, column):
        """Eq. (6) of one similarity: sim (B, U) of clips with the U texts of a batch -> scalar.

        column (B,): which of the U texts is that of clip j. A text that several clips have was
        encoded once; here it gets a column for each of them, as in the sums of Eq. (5).
        """
        logits = inverse_tau(self.logit_scale) * sim[:, column]             # (B, B)
        return semantic_guided_loss(logits, labels, self.discrepancy)

    def losses(self, features):
        """Sec. 3.4: L_total = L_t + lambda_R L_R, and with own_loss our L_own (D15).

        features: of forward. Returns named scalars: total, and those of L_t, L_own and L_R that are
        on. L_t: Eq. (6), or cross-entropy without text. L_R: Eq. (3) of video + of pose. L_own: the
        mean of Eq. (6) on each similarity alone, without which a small model leans on one of them.
        """
        c = self.config
        labels = features["label"]
        terms = {}
        L_own = 0.0
        L_R = 0.0

        # Sec. 3.3: video and pose meet the texts.
        if not c.text:
            L_t = self.loss(features)
            terms["L_t"] = L_t
        else:
            distinct, column = distinct_labels(labels, self.classes)        # (U,), (B,)
            sims = self.similarities(features, self.encode_texts(distinct))
            L_t = self.contrast(mean_similarity(sims), labels, column)
            terms["L_t"] = L_t
            if c.own_loss != 0 and len(sims) > 1:
                alone = [self.contrast(sim, labels, column) for sim in sims.values()]
                L_own = sum(alone) / len(alone)
                terms["L_own"] = L_own

        # Sec. 3.2.3: each modality stays what it was.
        for name, log_scale in self.refine_scale.items():
            tau = 1 / inverse_tau(log_scale)
            L_R = L_R + nt_xent(features[f"{name}_before"], features[name], tau)
            terms["L_R"] = L_R

        # Sec. 3.4; what is off is 0. (The order of the terms decides on the last bit of the sum.)
        total = L_t + c.own_loss * L_own + c.lambda_r * L_R
        return {"total": total, **terms}

    def class_logits(self, features, text=None):
        """Logits of all K labels, name -> (B, K); their softmax is P(S(x, y)) of Eq. (7).

        text: encode_texts(), where the caller has it already. "all", S of Eq. (4) / tau, predicts;
        after it each similarity alone, so that an evaluation can say what each is worth.
        """
        if not self.compares_texts:
            return {"all": self.concatenated(features)}

        if text is None:
            text = self.encode_texts()
        sims = self.similarities(features, text)
        shown = {"all": mean_similarity(sims)}
        if len(sims) > 1:
            shown.update(sims)
        return {name: inverse_tau(self.logit_scale) * sim for name, sim in shown.items()}

    @torch.no_grad()
    def attention_maps(self, batch):
        """What Fig. 1c draws: name -> (B, Tv, N), for a model with a video tower.

        before: the class token's attention in the last video block; its own share is left out.
        Where P2V is on also patch_weight, which is M, and after: the attention of P2V.
        """
        frames = normalise(batch["frames"])
        trunk = self.clip.visual
        _, attention, there = self.video(frames, trunk, need_weights=True, place=self.place)
        maps = {"before": attention[..., 1:]}
        if self.p2v is not None:
            _, joint_weights = self.pose(batch["keypoints"], batch["scores"], trunk)
            M = self.mask(batch, joint_weights)
            block = self.p2v_block()
            _, after = self.p2v(there, M, block, class_only=True, need_weights=True)
            maps["patch_weight"] = M
            maps["after"] = after
        return maps
