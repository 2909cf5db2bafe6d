"""PeVL (CVPR 2024) and its relatives: the papers' own ideas, in the papers' order, on top of CLIP.

The file reads beside the PeVL paper. `PeVL.forward` is its Fig. 2; ViLP (ICVGIP 2023), AIM and zero-shot CLIP follow, then
the registry `ROWS` with every row of Tables 4 to 9.

paper           | equation   | here                                              | tests
Sec. 3.1        | -          | Adapter, AdaptedBlock, VideoTower, PoseTower, TextTower | test_adapted_towers_start_as_clip
Sec. 3.2.1      | Eq. (1)    | patch_weight, P2V                                 | test_p2v_matches_loops
Sec. 3.2.2      | Eq. (2)    | V2P                                               | test_v2p_matches_loops
Sec. 3.2.3      | Eq. (3)    | nt_xent                                           | test_nt_xent_matches_loops
Sec. 3.3.1      | Eq. (4)    | frame_word_similarity, PeVL.similarities          | test_frame_word_matches_loops
Sec. 3.3.2      | Eq. (5)    | text_discrepancy, semantic_weights                | test_semantic_weights_match_loops
Sec. 3.3.2      | Eq. (6)    | semantic_guided_loss                              | test_semantic_loss_matches_loops
Sec. 3.4        | Eq. (7)    | PeVL.losses, predict                              | test_predict_averages_views

Axes: B clips, T pose frames, Tv video frames, Nv = 1 + N tokens of a frame (class token first, then N patches), J joints,
W text tokens, K classes, U distinct labels of a batch, d transformer width, e joint embedding size, h heads.
Names: the paper's F is `pose_frames`, S (sentence) is `sentences`, S (similarity) is `sim`, M is `patch_weight`; P2V is
also called P2V-R, pose-guided or pose-adapted refinement there; UCMR is the pair P2V and V2P with Eq. (3).
Departures carry their number in the README's ledger: D1 to D17, written beside the lines they concern.
"""
import copy
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from clip_model import BACKBONES, CLIP, CLIP_MEAN, CLIP_STD, check_shape, tokenize, unknown_name
from pose import gaussian_heatmaps

SIMILARITIES = ("vs", "ps", "fw")  # video-sentence, pose-sentence, frame-word: the terms of Eq. (4)


@dataclass(frozen=True)
class PeVLConfig:
    """What is built. The defaults are PeVL with ViT-B/16 as in Sec. 4.1; every ablation is an override of these."""
    model: Annotated[Literal["pevl", "vilp", "aim", "clip"], "system to build"] = "pevl"
    backbone: Annotated[str, "CLIP backbone: " + ", ".join(BACKBONES)] = "ViT-B/16"
    clip: Annotated[str, "path of CLIP weights; empty: the backbone's published file, downloaded once; "
                         "'random': no weights"] = ""
    pose_frames: Annotated[int, "pose frames T of a clip (Sec. 4.1: 48)"] = 48
    video_frames: Annotated[int, "video frames Tv of a clip; divides pose_frames (Sec. 4.1: 16)"] = 16
    image_size: Annotated[int, "side of a frame in pixels (Sec. 4.1: 224)"] = 224
    video: Annotated[bool, "use the video tower (Table 7)"] = True
    pose: Annotated[bool, "use the pose tower (Table 7)"] = True
    text: Annotated[bool, "compare with texts; off: linear head and cross-entropy (Table 7)"] = True
    video_adapters: Annotated[bool, "adapters in the video tower (Table 8)"] = True
    pose_adapters: Annotated[bool, "adapters in the pose tower (Table 8)"] = True
    text_adapters: Annotated[bool, "adapters in the text tower (Table 8)"] = True
    adapter_ratio: Annotated[float, "bottleneck of image adapters over the width (AIM: 0.25)"] = 0.25
    text_adapter_ratio: Annotated[float, "bottleneck of text adapters over the width (Table 7: 6 M)"] = 0.5
    drop_path: Annotated[float, "stochastic depth of adapter branches, last block; linear over depth (AIM: 0.2)"] = 0.2
    p2v: Annotated[bool, "pose-adapted vision attention, Eq. (1) (Table 5)"] = True
    v2p: Annotated[bool, "video-enriched pose, Eq. (2) (Table 5)"] = True
    refinement: Annotated[bool, "refinement supervision, Eq. (3) (Table 5)"] = True
    literal_mask: Annotated[bool, "Eq. (1) as printed: background scores are 0, not left out (D1)"] = False
    fusion: Annotated[Literal["similarities", "concat"], "three similarities of Eq. (4), or one of concatenated "
                      "clip features (Table 4)"] = "similarities"
    sim: Annotated[tuple[str, ...], "similarities of Eq. (4) that are averaged (Table 6)"] = SIMILARITIES
    tau_fw: Annotated[float, "softmax temperature inside the frame-word similarity; a tiny backbone needs 0.1"] = 0.01
    sgl: Annotated[bool, "strengths of Eq. (5); off: plain contrastive loss (Table 6)"] = True
    lambda_r: Annotated[float, "weight of the refinement loss (Sec. 4.1: 0.1)"] = 0.1
    own_loss: Annotated[float, "weight of Eq. (6) on each similarity alone; ours, 0 in the paper (D14)"] = 0.0
    pose_input: Annotated[Literal["coordinates", "heatmaps"], "input of the pose tower (Table 9)"] = "coordinates"
    tune: Annotated[Literal["adapters", "all"], "train adapters and new modules, or CLIP as well"] = "adapters"
    gate_raw: Annotated[bool, "ViLP: gate with the pose feature before it is normalised (D16)"] = False
    grad_checkpointing: Annotated[bool, "recompute blocks in backward: less memory, about a third slower"] = False

    def __post_init__(self):
        if self.backbone not in BACKBONES:
            raise unknown_name("backbone", self.backbone, BACKBONES)
        for name in self.sim:
            if name not in SIMILARITIES:
                raise unknown_name("similarity", name, SIMILARITIES)
        problems = {
            "pose_frames must be a multiple of video_frames, both at least 1":
                self.video_frames < 1 or self.pose_frames < 1 or self.pose_frames % self.video_frames,
            "at least one of video and pose must be on": not (self.video or self.pose),
            "sim must name at least one of vs, ps, fw": not self.sim,
            "heatmap input works with the pose tower alone (--no-video), as in Table 9":
                self.pose_input == "heatmaps" and self.video and self.model == "pevl",
        }
        for expected, wrong in problems.items():
            if wrong:
                raise ValueError(f"these settings do not fit together: pose_frames={self.pose_frames}, video_frames="
                                 f"{self.video_frames}, video={self.video}, pose={self.pose}, sim={','.join(self.sim)}, "
                                 f"pose_input={self.pose_input}. Expected: {expected}. Change the flag named there.")

    @property
    def video_index(self):
        """Positions of the Tv video frames among the T pose frames: the middle one of each of Tv equal parts."""
        return [(i * self.pose_frames + self.pose_frames // 2) // self.video_frames for i in range(self.video_frames)]


def normalise(frames):
    """uint8 or float frames (..., 3, S, S) in 0..255 -> float32 in CLIP's units, zero mean and unit deviation."""
    mean, std = (torch.tensor(v, device=frames.device)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
    return (frames.float() / 255 - mean) / std


def wide(x):
    """Half precision -> float32, the rest as it is: softmaxes and losses are never taken in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


# ---- Sec. 3.1: encoders with adapters -------------------------------------------------------------------------------

class Adapter(nn.Module):
    """Bottleneck Linear d -> r d, GELU, Linear r d -> d; the second starts at zero, so an adapter starts as "no change".

    skip=True gives x + up(gelu(down(x))), skip=False the branch alone (AIM, the paper's ref. 59). x (..., d) -> (..., d).
    """

    def __init__(self, d, ratio, skip):
        super().__init__()
        self.skip = skip
        self.down = nn.Linear(d, int(d * ratio))
        self.up = nn.Linear(int(d * ratio), d)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x):
        change = self.up(F.gelu(self.down(x)))
        return x + change if self.skip else change


class DropPath(nn.Module):
    """Drops a whole branch (B, ...) for a random share `rate` of the clips while training, and rescales the rest."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, x):
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device) >= self.rate
        return x * keep / (1 - self.rate)


class AdaptedBlock(nn.Module):
    """The adapters of one image block; the frozen block itself is passed in, since video and pose share it (Fig. 2).

        temporal   x = x + DropPath(T_Adapter(MSA(LN1(x over time))))            only where the tower has time
        spatial    x = x + S_Adapter(MSA(LN1(x)))
        joint      x = x + MLP(LN2(x)) + DropPath(0.5 * MLP_Adapter(LN2(x)))
    The same frozen MSA and LN1 serve time and space. Without adapters the frozen attention over time stays (Table 4).
    """

    def __init__(self, d, ratio, temporal, adapters, drop_path):
        super().__init__()
        self.temporal = temporal
        self.temporal_adapter = Adapter(d, ratio, skip=False) if temporal and adapters else nn.Identity()
        self.spatial_adapter = Adapter(d, ratio, skip=True) if adapters else nn.Identity()
        self.mlp_adapter = Adapter(d, ratio, skip=False) if adapters else None
        self.drop_path = DropPath(drop_path)

    def mix_time(self, x, block):
        """Attention of each token over the T frames alone: (B, T, n, d) -> (B, T, n, d)."""
        over_time = block.attn(block.ln_1(x).transpose(1, 2))                      # (B, n, T, d)
        return x + self.drop_path(self.temporal_adapter(over_time).transpose(1, 2))

    def forward(self, x, block, need_weights=False):
        """x (B, T, n, d) -> the same shape; with need_weights also the class token's attention (B, T, n)."""
        x = self.mix_time(x, block) if self.temporal else x
        attended = block.attn(block.ln_1(x), need_weights=need_weights)            # (B, T, n, d)
        attended, weights = attended if need_weights else (attended, None)
        x = x + self.spatial_adapter(attended)
        hidden = block.ln_2(x)
        change = block.mlp(hidden)
        if self.mlp_adapter is not None:
            change = change + self.drop_path(0.5 * self.mlp_adapter(hidden))
        x = x + change
        return (x, weights) if need_weights else x


class AdaptedTower(nn.Module):
    """Runs tokens through the frozen image blocks of CLIP, each with this tower's own adapters."""

    def __init__(self, config, clip_config, temporal, adapters):
        super().__init__()
        depth = clip_config.vision_layers
        self.checkpointing = config.grad_checkpointing
        self.blocks = nn.ModuleList(
            AdaptedBlock(clip_config.vision_width, config.adapter_ratio, temporal, adapters,
                         config.drop_path * i / max(depth - 1, 1)) for i in range(depth))

    def run(self, x, trunk, need_weights=False):
        """Tokens (B, T, n, d) -> tokens of the last block; with need_weights also its class attention (B, T, n)."""
        weights = None
        for i, (adapted, block) in enumerate(zip(self.blocks, trunk.transformer.resblocks)):
            if need_weights and i == len(self.blocks) - 1:
                x, weights = adapted(x, block, need_weights=True)
            elif self.checkpointing and self.training:
                x = checkpoint(adapted, x, block, use_reentrant=False)
            else:
                x = adapted(x, block)
        return (x, weights) if need_weights else x


class VideoTower(AdaptedTower):
    """Frames -> tokens z_v. PeVL's has no attention over time; with `frames` set it is AIM's, which does."""

    def __init__(self, config, clip_config, adapters=True, frames=0):
        super().__init__(config, clip_config, temporal=frames > 0, adapters=adapters)
        self.temporal_embedding = nn.Parameter(torch.zeros(frames, 1, clip_config.vision_width)) if frames else None

    def forward(self, frames, trunk, need_weights=False):
        """frames (B, Tv, 3, S, S) from `normalise` -> (B, Tv, Nv, d); with need_weights also (B, Tv, Nv)."""
        B, Tv = frames.shape[:2]
        extra = 0.0 if self.temporal_embedding is None else self.temporal_embedding.repeat(B, 1, 1)
        x = trunk.embed(frames.flatten(0, 1), extra).unflatten(0, (B, Tv))         # (B, Tv, Nv, d)
        return self.run(x, trunk, need_weights)


class PoseTower(AdaptedTower):
    """Joints -> tokens z_p, through the blocks that also see the frames, with temporal attention (Sec. 3.1).

    A joint's token is Linear(x, y) + an embedding of that joint; a missing joint (score 0) has a learned vector in
    place of its coordinates, so it never looks like the point (0, 0) (D9). Class token: CLIP's own. Table 9's rival input
    draws each joint as a 112 x 112 heatmap and cuts the J-channel image into patches.
    """
    HEATMAP = 112  # pixels, Table 9
    PATCH = 16     # 7 x 7 patches of a heatmap: the 311 G of Table 9

    def __init__(self, config, clip_config, joints, adapters=True):
        super().__init__(config, clip_config, temporal=True, adapters=adapters)
        d = clip_config.vision_width
        self.heatmaps = config.pose_input == "heatmaps"
        self.temporal_embedding = nn.Parameter(torch.zeros(config.pose_frames, 1, d))
        if self.heatmaps:
            self.patches = nn.Conv2d(joints, d, self.PATCH, self.PATCH, bias=False)
            self.position = nn.Parameter(torch.randn((self.HEATMAP // self.PATCH) ** 2, d) * d ** -0.5)
        else:
            self.coordinates = nn.Linear(2, d)
            self.joint = nn.Parameter(torch.randn(joints, d) * d ** -0.5)
            self.missing = nn.Parameter(torch.randn(d) * d ** -0.5)

    def embed(self, keypoints, scores):
        """keypoints (B, T, J, 2) in [-1, 1], scores (B, T, J) -> joint tokens (B, T, J, d), or patches of heatmaps."""
        if not self.heatmaps:
            seen = (scores > 0)[..., None]                                         # (B, T, J, 1)
            point = self.coordinates(torch.where(seen, keypoints, 0.0))            # (B, T, J, d)
            return torch.where(seen, point, self.missing) + self.joint
        pixels = (keypoints + 1) / 2 * self.HEATMAP - 0.5
        maps = gaussian_heatmaps(pixels, scores, (self.HEATMAP, self.HEATMAP), sigma=2.0)  # (B, T, J, 112, 112)
        return self.patches(maps.flatten(0, 1)).flatten(2).transpose(1, 2).unflatten(0, scores.shape[:2]) + self.position

    def forward(self, keypoints, scores, trunk):
        """-> tokens (B, T, 1 + J, d) and the class token's attention to the joints in the last block (B, T, J)."""
        tokens = self.embed(keypoints, scores)                                     # (B, T, J, d)
        first = (trunk.class_embedding + trunk.positional_embedding[0]).expand(*tokens.shape[:2], 1, -1)
        x = torch.cat([first, tokens], dim=2) + self.temporal_embedding            # (B, T, 1 + J, d)
        x, weights = self.run(trunk.ln_pre(x), trunk, need_weights=True)
        return x, weights[..., 1:]


class TextTower(nn.Module):
    """CLIP's text blocks with an adapter (skip) after attention and one after the MLP of each (Sec. 3.1)."""

    def __init__(self, config, clip_config, adapters=True):
        super().__init__()
        d, ratio = clip_config.text_width, config.text_adapter_ratio
        make = (lambda: Adapter(d, ratio, skip=True)) if adapters else nn.Identity
        self.after_attention = nn.ModuleList(make() for _ in range(clip_config.text_layers))
        self.after_mlp = nn.ModuleList(make() for _ in range(clip_config.text_layers))

    def forward(self, tokens, clip):
        """tokens (K, W) int64 -> sentences (K, e), words (K, W, e), word_mask (K, W) bool, as `CLIP.encode_text`."""
        x, mask = clip.embed_text(tokens), clip.causal_mask(tokens.shape[1])       # (K, W, width)
        for block, attention, mlp in zip(clip.transformer.resblocks, self.after_attention, self.after_mlp):
            x = x + attention(block.attn(block.ln_1(x), mask))
            x = x + mlp(block.mlp(block.ln_2(x)))
        return clip.read_text(x, tokens)


# ---- Sec. 3.2.1: pose-adapted vision attention, Eq. (1), Fig. 3a ------------------------------------------------------

def patch_weight(joint_weights, keypoints, scores, grid):
    """The weighted mask M of Eq. (1): how much of the body's attention lies in each patch.

    joint_weights (B, Tv, J) >= 0: class token's attention to the joints; keypoints (B, Tv, J, 2) in [-1, 1], those outside
    fall in no patch; scores (B, Tv, J), 0 = missing. Each visible joint's share is added to its patch:
        w_j = joint_weights_j / sum over visible joints,  M_n = sum of w_j over joints j in patch n,  M = M / max_n M_n
    Returns (B, Tv, N) in [0, 1], N = grid * grid, row by row; 0 where no joint is, all 0 for a frame without one (D2).
    """
    check_shape(joint_weights, "B Tv J")
    check_shape(keypoints, "B Tv J 2", B=scores.shape[0], J=scores.shape[2])
    visible = scores > 0
    shares = wide(joint_weights) * visible
    shares = shares / shares.sum(-1, keepdim=True).clamp_min(1e-12)                # (B, Tv, J)
    inside = visible & (keypoints.abs() <= 1).all(-1)
    cell = ((keypoints + 1) / 2 * grid).floor().clamp(0, grid - 1).nan_to_num().long()  # (B, Tv, J, 2) column, row
    patch = cell[..., 1] * grid + cell[..., 0]                                     # (B, Tv, J)
    total = shares.new_zeros(*patch.shape[:2], grid * grid).scatter_add(-1, patch, shares * inside)
    return total / total.amax(-1, keepdim=True).clamp_min(1e-12)                   # (B, Tv, N)


def split_heads(x, heads):
    """(..., n, d) -> (..., h, n, d / h)"""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


class P2V(nn.Module):
    """Pose-adapted vision attention, Eq. (1): tokens in, tokens of the same shape out; fits after any ViT block (D3).

        alpha[q, n] = exp(s[q, n] M[n]) / sum over body patches m of exp(s[q, m] M[m]),   s[q, n] = q . k_n / sqrt(d_h)
    for n with M[n] > 0; patches without a joint are left out (D1). As queries serve the class token and the body patches;
    a background patch, and a frame without joints, passes through unchanged: the paper's + I.
    Output z + out_proj(alpha v), out_proj zero at the start.
    """

    def __init__(self, d, heads, literal_mask=False):
        super().__init__()
        self.heads, self.literal_mask = heads, literal_mask
        self.ln = nn.LayerNorm(d)
        self.query, self.key, self.value, self.out_proj = (nn.Linear(d, d) for _ in range(4))
        nn.init.zeros_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, tokens, weight, class_only=False, need_weights=False):
        """tokens (B, Tv, Nv, d), weight (B, Tv, N) in [0, 1] -> (B, Tv, Nv, d).

        class_only: only the class token, (B, Tv, 1, d), for a caller that reads nothing else; need_weights: also the
        class token's attention to the patches, mean over heads, (B, Tv, N).
        """
        check_shape(tokens, "B Tv Nv d", Nv=weight.shape[-1] + 1)
        normed, body = self.ln(tokens), weight > 0                                 # body (B, Tv, N)
        asking = slice(0, 1) if class_only else slice(None)
        q = split_heads(self.query(normed[:, :, asking]), self.heads)              # (B, Tv, h, q, d_h)
        k, v = (split_heads(f(normed[:, :, 1:]), self.heads) for f in (self.key, self.value))
        scores = wide(q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5 * weight[:, :, None, None]
        allowed = torch.ones_like(body) if self.literal_mask else body
        scores = scores.masked_fill(~allowed[:, :, None, None], torch.finfo(scores.dtype).min)  # D1
        attention = scores.softmax(-1)                                             # (B, Tv, h, q, N)
        update = self.out_proj((attention.to(v.dtype) @ v).transpose(-3, -2).flatten(-2))  # (B, Tv, q, d)
        asks = torch.cat([body.any(-1, keepdim=True), body], dim=-1)[:, :, asking]  # who is refined at all
        refined = torch.where(asks[..., None], tokens[:, :, asking] + update, tokens[:, :, asking])
        return (refined, attention[..., 0, :].mean(2) * body.any(-1, keepdim=True)) if need_weights else refined


# ---- Sec. 3.2.2: video-enriched pose, Eq. (2) -------------------------------------------------------------------------

class V2P(nn.Module):
    """Video-enriched pose, Eq. (2): every pose token of a frame looks at that frame's video tokens.

        alpha[q, n] = exp(q . k_n / sqrt(d_h)) / sum_m exp(q . k_m / sqrt(d_h)),   z_p + out_proj(alpha v)
    Queries: J joints and one background token, the frame's class token + a learned embedding (D4). Keys and values: the
    video tokens before P2V. out_proj is zero at the start.
    """

    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.ln_pose, self.ln_video = nn.LayerNorm(d), nn.LayerNorm(d)
        self.background = nn.Parameter(torch.zeros(d))
        self.query, self.key, self.value, self.out_proj = (nn.Linear(d, d) for _ in range(4))
        nn.init.zeros_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, pose_tokens, video_tokens, index):
        """pose_tokens (B, T, 1 + J, d), video_tokens (B, Tv, Nv, d), index (Tv,) places among T -> (B, T, 1 + J, d)."""
        check_shape(video_tokens, "B Tv Nv d", B=pose_tokens.shape[0], Tv=len(index), d=pose_tokens.shape[-1])
        chosen = pose_tokens[:, index]                                             # (B, Tv, 1 + J, d)
        asking = torch.cat([chosen[:, :, :1] + self.background, chosen[:, :, 1:]], dim=2)
        q = split_heads(self.query(self.ln_pose(asking)), self.heads)              # (B, Tv, h, 1 + J, d_h)
        normed = self.ln_video(video_tokens)
        k, v = (split_heads(f(normed), self.heads) for f in (self.key, self.value))
        update = self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(-3, -2).flatten(-2))
        refined = pose_tokens.clone()
        refined[:, index] = chosen + update                                        # the other T - Tv frames stay
        return refined


# ---- Sec. 3.2.3: refinement supervision, Eq. (3) ----------------------------------------------------------------------

def nt_xent(z, z_refined, temperature):
    """Eq. (3): clip i before refinement should be nearest to clip i after it, among the clips of the batch.

        sim[i, j] = cos(z_i, z_refined_j) / temperature
        L = mean_i of ( -log softmax_j(sim[i, :])[i] - log softmax_j(sim[:, i])[i] ) / 2
    z, z_refined (B, e); temperature > 0, float or scalar tensor. Mean instead of the printed sum, both directions (D5).
    Returns a scalar >= 0; 0 for one clip.
    """
    check_shape(z_refined, "B e", B=z.shape[0], e=z.shape[1])
    sim = F.normalize(wide(z), dim=-1) @ F.normalize(wide(z_refined), dim=-1).T / temperature
    target = torch.arange(len(sim), device=sim.device)
    return (F.cross_entropy(sim, target) + F.cross_entropy(sim.T, target)) / 2


# ---- Sec. 3.3.1: multi-level association, Eq. (4), Fig. 3b ------------------------------------------------------------

def cosine(a, b):
    """(B, e), (K, e) -> cosine similarities (B, K), in float32."""
    return F.normalize(wide(a), dim=-1) @ F.normalize(wide(b), dim=-1).T


def attend(values, tau, dim, mask=None):
    """sum over `dim` of softmax(values / tau) * values: a soft maximum; masked entries are absent, all masked gives 0."""
    if mask is None:
        return ((values / tau).softmax(dim) * values).sum(dim)
    weights = (values / tau).masked_fill(~mask, torch.finfo(values.dtype).min).softmax(dim)
    return torch.where(mask, weights * values, 0.0).sum(dim)


def frame_word_similarity(pose_frames, words, word_mask, tau=0.01):
    """The third term of Eq. (4): sub-action level, each pose frame against each word, attention over the matrix twice.

        A[t, w] = cos(pose_frames_t, word_w)
        c_w = sum_t softmax_t(A[t, w] / tau) A[t, w]      s1 = sum_w softmax_w(c_w / tau) c_w
        r_t = sum_w softmax_w(A[t, w] / tau) A[t, w]      s2 = sum_t softmax_t(r_t / tau) r_t      sim_fw = (s1 + s2) / 2
    pose_frames (B, T, e), words (K, W, e), word_mask (K, W) bool, true on real words -> (B, K) in [-1, 1]. A text without
    words gets 0. The two softmaxes are those of X-CLIP (Ma et al. 2022) without learned matrices (D8).
    """
    B, T, e = pose_frames.shape
    K, W = check_shape(words, "K W e", e=e)["K"], words.shape[1]
    check_shape(word_mask, "K W", K=K, W=W)
    A = torch.einsum("bte,kwe->bktw", F.normalize(wide(pose_frames), dim=-1), F.normalize(wide(words), dim=-1))
    mask = word_mask.to(A.device)
    per_word = attend(A, tau, dim=2)                                               # (B, K, W)
    per_frame = attend(A, tau, dim=3, mask=mask[:, None])                          # (B, K, T)
    return (attend(per_word, tau, 2, mask) + attend(per_frame, tau, 2)) / 2        # (B, K)


# ---- Sec. 3.3.2: semantic content guided loss, Eqs. (5) and (6) -------------------------------------------------------

def text_discrepancy(sentences):
    """1 - cos between label texts, the raw strength of Eq. (5). sentences (K, e) -> (K, K) in [0, 2], diagonal 0."""
    return (1 - cosine(sentences, sentences)).clamp_min(0).fill_diagonal_(0)


def semantic_weights(labels, discrepancy):
    """Weights of Eq. (5): w_ij = 1 where labels agree, n_i * s_ij where they differ.

        s_ij = discrepancy_ij / sum over differing k of discrepancy_ik,    n_i = number of clips with another label
    so sum_j s_ij = 1 and equal strengths give w = 1: the plain contrastive loss; with one positive n_i is the printed
    B - 1 (D6). Where every discrepancy is 0 the strengths are uniform. labels (B,) int64, discrepancy (K, K) -> (B, B).
    """
    differ = labels[:, None] != labels[None, :]                                    # (B, B)
    raw = discrepancy[labels][:, labels] * differ
    raw = torch.where(raw.sum(1, keepdim=True) > 0, raw, differ.to(raw.dtype))
    strength = raw / raw.sum(1, keepdim=True).clamp_min(torch.finfo(raw.dtype).tiny)
    return torch.where(differ, differ.sum(1, keepdim=True) * strength, 1.0)


def weighted_kl(logits, weights, target):
    """mean_i KL(target_i || p_i), p_ij = w_ij exp(logits_ij) / sum_k w_ik exp(logits_ik); a zero weight means absent."""
    log_p = (logits + weights.log()).log_softmax(1)                                # log 0 = -inf: absent
    gap = torch.where(target > 0, target * (target.clamp_min(1e-30).log() - log_p), 0.0)
    return gap.sum(1).mean()


def semantic_guided_loss(logits, labels, discrepancy):
    """Eqs. (5) and (6): contrast clips and texts, pushing texts apart as far as their contents differ.

        p_ij = w_ij exp(logits_ij) / sum_k w_ik exp(logits_ik)      q_ij = [label_i = label_j] / number that agree with i
        L = ( mean_i KL(q_i || p_i) of clips to texts + the same of texts to clips ) / 2
    logits (B, B) = sim / tau, row: clip i, column: the text of clip j; labels (B,) int64 < K; discrepancy (K, K) from
    `text_discrepancy`. KL is taken as KL(q || p): the printed order is infinite for q = 0 (D7). Returns a scalar >= 0.
    """
    check_shape(logits, "B B", B=len(labels))
    logits, weights = wide(logits), semantic_weights(labels, discrepancy)
    agree = (labels[:, None] == labels[None, :]).to(logits.dtype)
    target = agree / agree.sum(1, keepdim=True)
    return (weighted_kl(logits, weights, target) + weighted_kl(logits.T, weights, target)) / 2


# ---- Sec. 3.4: prediction, Eq. (7) ------------------------------------------------------------------------------------

def predict(logits, views=1):
    """Eq. (7): logits (B * views, K) of `class_logits` -> probabilities (B, K); similarities are averaged over views."""
    return wide(logits).unflatten(0, (-1, views)).mean(1).softmax(-1)


# ---- What all four models share ---------------------------------------------------------------------------------------

class ActionModel(nn.Module):
    """A frozen CLIP, K label texts, and the bookkeeping of what is trained.

    model(batch) -> features, a dict of tensors with a leading B; model.losses(features) -> named scalars with "total", for the
    features of one process or of all processes gathered; model.class_logits(features, text) -> name -> (B, K), "all"
    first. batch: frames (B, Tv, 3, S, S) in 0..255, keypoints (B, T, J, 2), scores (B, T, J), label (B,).
    """
    def __init__(self, config, clip, texts):
        super().__init__()
        self.config, self.clip, self.classes = config, clip, len(texts)
        clip.requires_grad_(config.tune == "all")
        tokens = tokenize(texts, clip.config.context_length)
        self.register_buffer("tokens", tokens[:, : max(int(tokens.argmax(1).max()) + 1, 3)], persistent=False)
        self.register_buffer("video_index", torch.tensor(config.video_index), persistent=False)
        # 1 / tau = exp(logit_scale); without text there is no temperature to learn
        self.logit_scale = nn.Parameter(clip.logit_scale.detach().clone(), requires_grad=config.text)

    @property
    def scale(self):
        """1 / tau of Eq. (5), at most 100 as in CLIP."""
        return self.logit_scale.exp().clamp(max=100)

    def parts(self):
        """Name -> module or list of parameters, for the parameter and cost tables; every parameter is in one."""
        return {"CLIP": self.clip, "other": [self.logit_scale]}

    def parameter_groups(self):
        """What is trained: dicts name, params, kind ("trunk": CLIP's own weights; "adapter"; "new": started from nothing)."""
        groups = []
        for name, part in self.parts().items():
            params = [p for p in (part.parameters() if isinstance(part, nn.Module) else part) if p.requires_grad]
            kind = "trunk" if name == "CLIP" else "adapter" if name.endswith("tower") else "new"
            if params:
                groups.append({"name": name, "params": params, "kind": kind})
        return groups

    def trainable_state(self):
        """State dict of what is trained and of nothing else: the frozen CLIP is not stored again."""
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}

    def load_trainable_state(self, state):
        """Inverse of `trainable_state`; every name and shape must match, or the error lists what does not."""
        own = self.trainable_state()
        wrong = sorted(set(own) ^ set(state)) + sorted(
            f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}" for k in set(own) & set(state)
            if own[k].shape != state[k].shape)
        if wrong:
            raise ValueError(f"the checkpoint does not fit this model: {len(wrong)} entries differ, first: {wrong[:5]}. "
                             "Expected the same settings as in training. Evaluate with the checkpoint's own config.json.")
        with torch.no_grad():
            for name, value in state.items():
                own[name].copy_(value)

    def encode_texts(self, labels=None):
        """Texts of `labels` (U,), or of all K classes -> dict sentences (U, e), words (U, W, e), word_mask (U, W)."""
        tokens = self.tokens if labels is None else self.tokens[labels]
        return dict(zip(("sentences", "words", "word_mask"), self.run_text(tokens)))

    def run_text(self, tokens):
        return self.clip.encode_text(tokens)


# ---- PeVL, Fig. 2 -----------------------------------------------------------------------------------------------------

class PeVL(ActionModel):
    """Fig. 2: three adapted encoders on one frozen CLIP, the UCMR block (P2V, V2P, Eq. 3), the SGMC module (Eqs. 4 to 6)."""

    def __init__(self, config, clip, texts, joints=17):
        super().__init__(config, clip, texts)
        c, sizes = config, clip.config
        d, e, heads = sizes.vision_width, sizes.embed_dim, sizes.vision_heads
        both = c.video and c.pose
        self.video = VideoTower(c, sizes, c.video_adapters) if c.video else None
        self.pose = PoseTower(c, sizes, joints, c.pose_adapters) if c.pose else None
        self.text = TextTower(c, sizes, c.text_adapters) if c.text else None
        self.p2v = P2V(d, heads, c.literal_mask) if both and c.p2v else None
        self.v2p = V2P(d, heads) if both and c.v2p else None
        available = {"vs": c.video, "ps": c.pose, "fw": c.pose}
        self.sim = tuple(name for name in c.sim if available[name])
        concat = c.fusion == "concat" or not c.text
        self.projection = nn.Linear(e * (c.video + c.pose), e if c.text else self.classes) if concat else None
        if not (self.sim or concat):
            raise ValueError(f"sim={','.join(c.sim)} needs a tower that is off (video={c.video}, pose={c.pose}). "
                             "Expected vs with video, ps or fw with pose. Choose others with --sim.")
        refined = {"video": self.p2v, "pose": self.v2p}
        self.refined = [name for name, module in refined.items() if module is not None and c.refinement]
        # Own temperatures of Eq. (3), as log(1 / tau), from CLIP's starting value 0.07.
        self.refine_scale = nn.ParameterDict({n: nn.Parameter(torch.tensor(0.07).log().neg()) for n in self.refined})
        if c.text:
            with torch.no_grad():  # from the frozen tower: texts that are being trained collapse (D10)
                discrepancy = text_discrepancy(clip.encode_text(self.tokens)[0])
            self.register_buffer("discrepancy", discrepancy if c.sgl else torch.ones_like(discrepancy), persistent=False)

    def parts(self):
        new = {"video tower": self.video, "pose tower": self.pose, "text tower": self.text, "P2V": self.p2v,
               "V2P": self.v2p, "projection": self.projection}
        scales = [*self.refine_scale.parameters(), self.logit_scale]
        return {"CLIP": self.clip, **{k: m for k, m in new.items() if m is not None}, "temperatures": scales}

    def forward(self, batch):
        """Clips -> features with leading B: label, video (B, e), pose (B, e), pose_frames (B, T, e), *_before (B, e)."""
        features, trunk = {"label": batch["label"]}, self.clip.visual
        if self.video is not None:
            z_v = self.video(normalise(batch["frames"]), trunk)                    # (B, Tv, Nv, d)
            z_v_refined = z_v[:, :, :1]                                            # only the class token is read out
        if self.pose is not None:
            z_p, joint_weights = self.pose(batch["keypoints"], batch["scores"], trunk)  # (B, T, 1 + J, d), (B, T, J)
            z_p_refined = z_p
        if self.p2v is not None:                                                   # Eq. (1)
            z_v_refined = self.p2v(z_v, self.mask(batch, joint_weights), class_only=True)
        if self.v2p is not None:                                                   # Eq. (2), from z_v before P2V (D4)
            z_p_refined = self.v2p(z_p, z_v, self.video_index)
        if self.video is not None:
            features["video"] = self.read_video(z_v_refined)
            if "video" in self.refined:
                features["video_before"] = self.read_video(z_v)
        if self.pose is not None:
            features["pose_frames"], features["pose"] = self.read_pose(z_p_refined)
            if "pose" in self.refined:
                features["pose_before"] = self.read_pose(z_p)[1]
        return features

    def mask(self, batch, joint_weights):
        """M of Eq. (1) at the video frames: (B, Tv, N)."""
        i = self.video_index
        return patch_weight(joint_weights[:, i], batch["keypoints"][:, i], batch["scores"][:, i], self.clip.visual.grid)

    def read_video(self, tokens):
        """Class token of each frame through ln_post and proj, mean over frames: (B, Tv, Nv, d) -> V (B, e)."""
        return self.clip.visual.read_out(tokens[:, :, 0]).mean(1)

    def read_pose(self, tokens):
        """Mean token of each frame through ln_post and proj: (B, T, 1 + J, d) -> pose_frames (B, T, e), P (B, e)."""
        pose_frames = self.clip.visual.read_out(tokens.mean(2))
        return pose_frames, pose_frames.mean(1)

    def run_text(self, tokens):
        return self.text(tokens, self.clip)

    def concatenated(self, features):
        """[V; P] through the one projection of the rows without SGMC: (B, e), or (B, K) without text."""
        return self.projection(torch.cat([features[n] for n in ("video", "pose") if n in features], dim=-1))

    def similarities(self, features, text):
        """Eq. (4): name -> (B, U) in [-1, 1]; `text` from `encode_texts`."""
        if self.projection is not None:
            return {"concat": cosine(self.concatenated(features), text["sentences"])}
        terms = {"vs": lambda: cosine(features["video"], text["sentences"]),
                 "ps": lambda: cosine(features["pose"], text["sentences"]),
                 "fw": lambda: frame_word_similarity(features["pose_frames"], text["words"], text["word_mask"],
                                                     self.config.tau_fw)}
        return {name: terms[name]() for name in self.sim}

    def losses(self, features):
        """Sec. 3.4: named scalars, total = L_t + lambda_R L_R (+ own_loss L_own, D14). Texts once per distinct label."""
        labels, c = features["label"], self.config
        if not c.text:
            losses = {"L_t": F.cross_entropy(self.concatenated(features).float(), labels)}
        else:
            distinct, column = labels.unique(return_inverse=True)
            sims = self.similarities(features, self.encode_texts(distinct))        # name -> (B, U)
            contrast = lambda sim: semantic_guided_loss(self.scale * sim[:, column], labels, self.discrepancy)
            losses = {"L_t": contrast(sum(sims.values()) / len(sims))}
            if c.own_loss and len(sims) > 1:
                losses["L_own"] = sum(contrast(sim) for sim in sims.values()) / len(sims)
        if self.refined:
            losses["L_R"] = sum(nt_xent(features[f"{n}_before"], features[n], self.refine_scale[n].neg().exp())
                                for n in self.refined)
        weights = {"L_t": 1.0, "L_R": c.lambda_r, "L_own": c.own_loss}
        return {"total": sum(weights[name] * loss for name, loss in losses.items()), **losses}

    def class_logits(self, features, text=None):
        """name -> (B, K) logits sim / tau over all K texts: "all" is the prediction, then each similarity alone."""
        if not self.config.text:
            return {"all": self.concatenated(features)}
        sims = self.similarities(features, text or self.encode_texts())
        logits = {"all": self.scale * sum(sims.values()) / len(sims)}
        return {**logits, **{n: self.scale * sim for n, sim in sims.items() if len(sims) > 1}}

    @torch.no_grad()
    def attention_maps(self, batch):
        """For pictures, name -> (B, Tv, N): patch_weight M, and the class token's attention to patches before / after P2V."""
        z_v, before = self.video(normalise(batch["frames"]), self.clip.visual, need_weights=True)
        maps = {"before": before[..., 1:]}
        if self.p2v is not None:
            _, joint_weights = self.pose(batch["keypoints"], batch["scores"], self.clip.visual)
            maps["patch_weight"] = self.mask(batch, joint_weights)
            maps["after"] = self.p2v(z_v, maps["patch_weight"], class_only=True, need_weights=True)[1]
        return maps


# ---- ViLP (ICVGIP 2023) -----------------------------------------------------------------------------------------------

def gate(frames, pose, raw=False):
    """u_t = v_t * sigmoid(p_t) for frames v and pose p (B, T, e), each of unit length; pose None: u = v.

    A unit vector of e numbers has entries near 0, so the gate stays near 0.5 and u near v / 2: mostly a scale, which halves
    every similarity. raw (D16) gates with p as it left the tower and brings u back to unit length.
    """
    v = F.normalize(wide(frames), dim=-1)
    if pose is None:
        return v
    check_shape(pose, "B T e", B=v.shape[0], T=v.shape[1], e=v.shape[2])
    u = v * (wide(pose) if raw else F.normalize(wide(pose), dim=-1)).sigmoid()
    return F.normalize(u, dim=-1) if raw else u


def pose_guided_concept_spotting(frames, pose, words, sentences, word_mask, tau=0.01, gate_raw=False):
    """ViLP's P-VCS: pose gates each frame, words vote for frames, the voted clip feature meets the sentence.

        u_t = v_t * sigmoid(p_t)
        A[k, t] = mean over words w of softmax_t(<word_kw, u_t> / tau)
        video_k = sum_t A[k, t] u_t          similarity[b, k] = <video_k, sentence_k>
    frames v and pose p (B, T, e), pose may be None: plain concept spotting; words (K, W, e), sentences (K, e), word_mask
    (K, W) bool -> (B, K). Words and sentences are brought to unit length, video_k is not. A text without words: all its
    tokens vote.
    """
    check_shape(words, "K W e", K=len(sentences), e=frames.shape[-1])
    u, words, sentences = gate(frames, pose, gate_raw), *(F.normalize(wide(x), dim=-1) for x in (words, sentences))
    votes = (torch.einsum("kwe,bte->bkwt", words, u) / tau).softmax(-1)            # (B, K, W, T)
    mask = word_mask.to(votes.dtype)
    mask = torch.where(mask.sum(-1, keepdim=True) > 0, mask, 1.0)
    share = torch.einsum("bkwt,kw->bkt", votes, mask / mask.sum(-1, keepdim=True))  # A, rows sum to 1
    return torch.einsum("bkt,bte,ke->bk", share, u, sentences)


class TemporalTransformer(nn.Module):
    """ViLP's mixing of frame features: 6 layers of width e, learned positions, residual. (B, T, e) -> (B, T, e)."""

    def __init__(self, e, heads, frames, layers=6):
        super().__init__()
        self.position = nn.Parameter(torch.randn(frames, e) * 0.01)
        layer = nn.TransformerEncoderLayer(e, heads, 4 * e, dropout=0.0, activation=F.gelu, batch_first=True,
                                           norm_first=True, layer_norm_eps=1e-12)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, frames):
        return frames + self.layers(frames + self.position)


class ViLP(ActionModel):
    """ViLP: CLIP on frames, a second CLIP image tower on pose heatmaps, P-VCS. Both image towers are tuned, text is frozen.

    video=False leaves pose and text, pose=False video and text, text=False a linear head on the mean frame.
    """
    SIGMA = 0.015  # of a joint's Gaussian, as a share of the frame's side

    def __init__(self, config, clip, texts, joints=17):
        super().__init__(config, clip, texts)
        e = clip.config.embed_dim
        self.pose = copy.deepcopy(clip.visual).requires_grad_(True) if config.pose else None
        clip.visual.requires_grad_(config.video)
        self.mixer = TemporalTransformer(e, clip.config.text_heads, config.video_frames)
        self.head = None if config.text else nn.Linear(e, self.classes)

    def parts(self):
        new = {"pose image": self.pose, "temporal transformer": self.mixer, "head": self.head}
        return {"CLIP": self.clip, **{k: m for k, m in new.items() if m is not None},
                "temperatures": [self.logit_scale]}

    def parameter_groups(self):
        """As for all models; the copied pose tower is CLIP's too, and trains at the trunk's rate."""
        groups = super().parameter_groups()
        return [{**g, "kind": "trunk" if g["name"] == "pose image" else g["kind"]} for g in groups]

    def heatmaps(self, batch):
        """Joints of the video frames as one picture each, maximum over joints: (B * Tv, 3, S, S) in CLIP's units."""
        keypoints, scores = batch["keypoints"][:, self.video_index], batch["scores"][:, self.video_index]
        S = self.config.image_size
        maps = gaussian_heatmaps((keypoints + 1) / 2 * S - 0.5, scores, (S, S), sigma=max(self.SIGMA * S, 1.0))
        return normalise(maps.amax(2).flatten(0, 1)[:, None].expand(-1, 3, -1, -1) * 255)

    def forward(self, batch):
        B, Tv = batch["label"].shape[0], self.config.video_frames
        read = lambda visual, images: visual(images).unflatten(0, (B, Tv))
        features = {"label": batch["label"]}
        if self.pose is not None:
            features["pose"] = read(self.pose, self.heatmaps(batch))               # p_t (B, Tv, e)
        frames = read(self.clip.visual, normalise(batch["frames"]).flatten(0, 1)) if self.config.video \
            else features.pop("pose")
        features["frames"] = self.mixer(frames)                                    # v_t (B, Tv, e)
        return features

    def similarity(self, features, text):
        return pose_guided_concept_spotting(features["frames"], features.get("pose"), text["words"], text["sentences"],
                                            text["word_mask"], gate_raw=self.config.gate_raw)

    def losses(self, features):
        """KL(q || p) both ways with q = softmax(10 * [labels agree]): other labels keep a little mass, as ViLP has it."""
        labels = features["label"]
        if self.head is not None:
            loss = F.cross_entropy(self.class_logits(features)["all"].float(), labels)
            return {"total": loss, "L_t": loss}
        distinct, column = labels.unique(return_inverse=True)
        logits = self.scale * self.similarity(features, self.encode_texts(distinct))[:, column]   # (B, B)
        target = (10.0 * (labels[:, None] == labels[None, :])).softmax(1)
        ones = torch.ones_like(logits)
        loss = (weighted_kl(logits, ones, target) + weighted_kl(logits.T, ones, target)) / 2
        return {"total": loss, "L_t": loss}

    def class_logits(self, features, text=None):
        if self.head is not None:
            gated = gate(features["frames"], features.get("pose"), self.config.gate_raw)
            return {"all": self.head(gated.mean(1))}
        return {"all": self.scale * self.similarity(features, text or self.encode_texts())}


# ---- AIM (ICLR 2023), the paper's main rival --------------------------------------------------------------------------

class AIM(ActionModel):
    """AIM: video tower with temporal, spatial and MLP adapters, mean of class tokens, dropout 0.5, linear head."""

    def __init__(self, config, clip, texts, joints=17):
        super().__init__(config, clip, texts)
        self.logit_scale.requires_grad_(False)  # no text, no temperature
        self.video = VideoTower(config, clip.config, frames=config.video_frames)
        self.head = nn.Linear(clip.config.vision_width, self.classes)

    def parts(self):
        return {"CLIP": self.clip, "video tower": self.video, "head": self.head, "temperatures": [self.logit_scale]}

    def forward(self, batch):
        trunk = self.clip.visual
        z = self.video(normalise(batch["frames"]), trunk)                          # (B, Tv, Nv, d)
        return {"label": batch["label"], "video": trunk.ln_post(z[:, :, 0]).mean(1)}  # (B, d)

    def losses(self, features):
        logits = self.head(F.dropout(features["video"], 0.5, self.training))
        loss = F.cross_entropy(wide(logits), features["label"])
        return {"total": loss, "L_t": loss}

    def encode_texts(self, labels=None):
        return {}

    def class_logits(self, features, text=None):
        return {"all": self.head(features["video"])}

    def load_published(self, state):
        """Weights of an AIM checkpoint as its authors publish it (`backbone.*`, `cls_head.fc_cls.*`), frozen part included.

        state: its state dict, `module.` already stripped. Sequence-first there and batch-first here differ in activations
        only. Every key is used; a missing, unexpected or mis-shaped one is a ValueError that lists it.
        """
        names = {"temporal_adapter": "T_Adapter", "spatial_adapter": "S_Adapter", "mlp_adapter": "MLP_Adapter"}
        theirs = {}
        for name, value in self.state_dict().items():
            if name.startswith("video.blocks."):
                _, _, i, adapter, layer, kind = name.split(".")
                layer = {"down": "D_fc1", "up": "D_fc2"}[layer]
                theirs[f"backbone.transformer.resblocks.{i}.{names[adapter]}.{layer}.{kind}"] = value
            elif name.startswith("clip.visual.") and name != "clip.visual.proj":
                theirs["backbone." + name.removeprefix("clip.visual.")] = value
        theirs["backbone.temporal_embedding"] = self.video.temporal_embedding.data.transpose(0, 1)  # (1, T, d) there
        theirs |= {f"cls_head.fc_cls.{kind}": getattr(self.head, kind).data for kind in ("weight", "bias")}
        wrong = sorted(set(theirs) ^ set(state)) + sorted(
            k for k in set(theirs) & set(state) if theirs[k].shape != state[k].shape)
        if wrong:
            raise ValueError(f"not a checkpoint of AIM with this backbone, frame count and classes: {len(wrong)} entries are "
                             f"missing, unexpected or mis-shaped, first: {wrong[:5]}. Expected {len(theirs)} entries. "
                             "Set --backbone, --video-frames and --data to those of the checkpoint.")
        with torch.no_grad():
            for name, value in theirs.items():
                value.copy_(state[name])


# ---- CLIP itself: zero-shot, and its own pretraining ------------------------------------------------------------------

class CLIPModel(ActionModel):
    """CLIP without any training: mean of normalised frame features against the texts. With captions in the batch, its
    pretraining on stills (the tiny backbone's): the symmetric contrastive loss where every caption true of an image is a
    positive of it."""

    def forward(self, batch):
        """Adds image (B, e); with captions also sentence (B, e), attributes (B, A) int64, mentions (B, A) bool."""
        frames = batch["frames"]
        image = self.clip.encode_image(normalise(frames).flatten(0, 1)).unflatten(0, frames.shape[:2])
        features = {"label": batch["label"], "image": F.normalize(image.float(), dim=-1).mean(1)}
        if "tokens" in batch:
            features["sentence"] = self.clip.encode_text(batch["tokens"])[0]
            features |= {name: batch[name] for name in ("attributes", "mentions")}
        return features

    @property
    def scale(self):
        return self.clip.logit_scale.exp().clamp(max=100)

    def parts(self):
        return {"CLIP": self.clip, "temperatures": [self.logit_scale.requires_grad_(False)]}

    def losses(self, features):
        """Caption j is true of image i where all attributes that it mentions agree: true[i, j]; KL both ways on that."""
        logits = self.scale * cosine(features["image"], features["sentence"])      # (B, B)
        a, mentions = features["attributes"], features["mentions"]
        true = ((a[:, None] == a[None]) | ~mentions[None]).all(-1).float()         # (B, B)
        ones = torch.ones_like(logits)
        target = lambda t: t / t.sum(1, keepdim=True).clamp_min(1)
        loss = (weighted_kl(logits, ones, target(true)) + weighted_kl(logits.T, ones, target(true.T))) / 2
        return {"total": loss, "L_t": loss}

    def class_logits(self, features, text=None):
        text = text or self.encode_texts()
        return {"all": self.scale * cosine(features["image"], text["sentences"])}


MODELS = {"pevl": PeVL, "vilp": ViLP, "aim": AIM, "clip": CLIPModel}


def build_model(config, clip: CLIP, texts, joints=17):
    """The system that `config` names, on this CLIP, for K prompts `texts` and J joints; in training mode."""
    return MODELS[config.model](config, clip, texts, **({} if config.model == "clip" else {"joints": joints}))


# ---- Tables 4 to 9 ----------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Row:
    """One row of a table: overrides of PeVLConfig, and the paper's figures (top-1 in %, G multiply-accumulates, M)."""
    what: str
    overrides: dict = field(default_factory=dict)
    top1: float | None = None
    gmacs: float | None = None
    tunable_m: float | None = None


PLAIN = dict(fusion="concat", sgl=False, refinement=False, p2v=False, v2p=False)  # before UCMR and SGMC
FROZEN = dict(video_adapters=False, pose_adapters=False, text_adapters=False)
V_ONLY, P_ONLY = dict(pose=False), dict(video=False)

ROWS = {
    "table4/baseline": Row("frozen CLIP, one trainable projection", {**PLAIN, **FROZEN, **V_ONLY}, 60.2),
    "table4/pose": Row("+ frozen pose encoder, concatenated", {**PLAIN, **FROZEN}, 80.3),
    "table4/adapters": Row("+ adapters", PLAIN, 87.3),
    "table4/ucmr": Row("+ UCMR block", dict(fusion="concat", sgl=False), 90.6),
    "table4/sgmc": Row("+ SGMC module = PeVL", {}, 91.9),
    "table5/pevl": Row("PeVL", {}, 91.9),
    "table5/no-ucmr": Row("without the UCMR block", dict(p2v=False, v2p=False, refinement=False), 88.9),
    "table5/no-p2v": Row("without P2V", dict(p2v=False), 91.1),
    "table5/no-v2p": Row("without V2P", dict(v2p=False), 90.4),
    "table5/no-refinement": Row("without refinement supervision", dict(refinement=False), 91.0),
    # The text layer of the paper loses which single and double is which; its values are 91.0, 90.9, 90.9 and 91.4, 91.3, 91.4.
    "table6/ps": Row("pose-sentence alone", dict(sim=("ps",)), 91.0),
    "table6/vs": Row("video-sentence alone", dict(sim=("vs",)), 90.9),
    "table6/fw": Row("frame-word alone", dict(sim=("fw",)), 90.9),
    "table6/ps+vs": Row("pose-sentence and video-sentence", dict(sim=("vs", "ps")), 91.4),
    "table6/ps+fw": Row("pose-sentence and frame-word", dict(sim=("ps", "fw")), 91.3),
    "table6/vs+fw": Row("video-sentence and frame-word", dict(sim=("vs", "fw")), 91.4),
    "table6/all": Row("all three", {}, 91.9),
    "table6/vanilla": Row("all three, plain contrastive loss", dict(sgl=False), 91.4),
    "table7/v": Row("V encoder", {**PLAIN, **V_ONLY, "text": False}, 62.9, 275, 7),
    "table7/p": Row("P encoder", {**PLAIN, **P_ONLY, "text": False}, 82.6, 108, 11),
    "table7/v+p": Row("V+P encoders", {**PLAIN, "text": False}, 86.2, 393, 22),
    "table7/v+t": Row("V+T encoders", {**PLAIN, **V_ONLY}, 65.1, 364, 13),
    "table7/p+t": Row("P+T encoders", {**PLAIN, **P_ONLY}, 83.8, 197, 17),
    "table7/v+p+t": Row("V+P+T encoders", PLAIN, 87.3, 482, 28),
    "table7/pevl": Row("PeVL", {}, 91.9, 510, 32),
    "table8/none": Row("no adapters", FROZEN, 84.9),
    "table8/video": Row("video adapters", {**FROZEN, "video_adapters": True}, 85.5),
    "table8/pose": Row("pose adapters", {**FROZEN, "pose_adapters": True}, 86.4),
    "table8/text": Row("text adapters", {**FROZEN, "text_adapters": True}, 86.2),
    "table8/video+pose": Row("video and pose adapters", dict(text_adapters=False), 87.8),
    "table8/all": Row("all adapters", {}, 91.9),
    "table9/heatmap": Row("pose as heatmaps", {**PLAIN, **P_ONLY, "text": False, "pose_input": "heatmaps"}, 80.1, 311, 11),
    "table9/coordinates": Row("pose as coordinates", {**PLAIN, **P_ONLY, "text": False}, 82.6, 108, 11),
}
