"""PeVL (CVPR 2024) and its relatives: the papers' own ideas, in the papers' order, on top of CLIP.
To be read beside the PeVL paper; `PeVL.forward` is its Fig. 2. ViLP (ICVGIP 2023), AIM and CLIP
itself follow, then ROWS, the registry of every row of Tables 4 to 9.

paper       | equation | here                                     | tests/test_pevl.py
Sec. 3.1    | -        | Adapter, AdaptedBlock, PoseTower         | test_adapted_block_by_formula
Sec. 3.1    | -        | VideoTower, TextTower                    | test_towers_start_as_clip
Sec. 3.2.1  | Eq. (1)  | patch_weight, P2V                        | test_p2v_matches_loops
Sec. 3.2.2  | Eq. (2)  | V2P                                      | test_v2p_matches_loops
Sec. 3.2.3  | Eq. (3)  | nt_xent                                  | test_nt_xent_matches_loops
Sec. 3.3.1  | Eq. (4)  | frame_word_similarity, PeVL.similarities | test_frame_word_matches_loops
Sec. 3.3.2  | Eq. (5)  | text_discrepancy, semantic_weights       | test_weights_match_loops
Sec. 3.3.2  | Eq. (6)  | semantic_guided_loss                     | test_semantic_loss_matches_loops
Sec. 3.4    | Eq. (7)  | PeVL.losses, predict                     | test_predict_averages_views
ViLP, P-VCS | -        | pose_guided_concept_spotting             | test_p_vcs_matches_loops

Axes: B clips, T pose frames, Tv video frames, N patches, Nv = 1 + N tokens of a frame (class token
first), J joints, W text tokens, K classes, U labels in a batch, d width, e embedding, h heads.
Names: the paper's F is `pose_frames`, S is `sentences` or `sim`, M is `patch_weight`; P2V is also
called P2V-R, pose-guided or pose-adapted there; UCMR is P2V, V2P and Eq. (3), SGMC is Eqs. (4) to
(6). D1 to D26: the README's ledger of readings and departures.
"""
import copy
import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from clip_model import (BACKBONES, CLIP, CLIP_MEAN, CLIP_STD, QuickGELU, tokenize)
from pose import gaussian_heatmaps
from support.checks import check_shape, unknown_name

SIMILARITIES = ("vs", "ps", "fw")  # video-sentence, pose-sentence, frame-word: the terms of Eq. (4)
SWITCHES = {  # what ablations turn -> the systems that read it; the others refuse a change
    **dict.fromkeys(("video", "pose", "text"), ("pevl", "vilp")),
    **dict.fromkeys(("video_adapters", "pose_adapters", "text_adapters", "p2v", "v2p", "sgl", "sim",
                     "refinement", "literal_mask", "fusion", "pose_input"), ("pevl",))}

@dataclass(frozen=True)
class PeVLConfig:
    """What is built. The defaults are PeVL with ViT-B/16 (Sec. 4.1); an ablation overrides some."""
    model: Annotated[Literal["pevl", "vilp", "aim", "clip"], "system to build"] = "pevl"
    backbone: Annotated[str, "CLIP backbone: " + ", ".join(BACKBONES)] = "ViT-B/16"
    clip: Annotated[str, "file of CLIP weights; '' fetches the published ones; 'random': none"] = ""
    pose_frames: Annotated[int, "pose frames T of a clip (Sec. 4.1: 48)"] = 48
    video_frames: Annotated[int, "video frames Tv; divides pose_frames (Sec. 4.1: 16)"] = 16
    image_size: Annotated[int, "side of a frame in pixels (Sec. 4.1: 224)"] = 224
    video: Annotated[bool, "use the video tower (Table 7)"] = True
    pose: Annotated[bool, "use the pose tower (Table 7)"] = True
    text: Annotated[bool, "compare with texts; off: linear head, cross-entropy (Table 7)"] = True
    video_adapters: Annotated[bool, "adapters in the video tower (Table 8)"] = True
    pose_adapters: Annotated[bool, "adapters in the pose tower (Table 8)"] = True
    text_adapters: Annotated[bool, "adapters in the text tower (Table 8)"] = True
    adapter_ratio: Annotated[float, "bottleneck of image adapters over the width (AIM)"] = 0.25
    text_adapter_ratio: Annotated[float, "the same of text adapters (Table 7: 6 M; D2)"] = 0.5
    drop_path: Annotated[float, "stochastic depth of adapters, 0 to this over depth (AIM)"] = 0.2
    p2v: Annotated[bool, "pose-adapted vision attention, Eq. (1) (Table 5)"] = True
    v2p: Annotated[bool, "video-enriched pose, Eq. (2) (Table 5)"] = True
    refinement: Annotated[bool, "refinement supervision, Eq. (3) (Table 5)"] = True
    literal_mask: Annotated[bool, "Eq. (1) as printed: background scores are 0 (D4)"] = False
    fusion: Annotated[Literal["similarities", "concat"], "the terms of Eq. (4), or one similarity "
                      "of concatenated clip features (Table 4)"] = "similarities"
    sim: Annotated[tuple[str, ...], "terms of Eq. (4) that are averaged (Table 6)"] = SIMILARITIES
    tau_fw: Annotated[float, "temperature inside sim_fw and P-VCS; tiny: 0.1 and 1 (D10)"] = 0.01
    sgl: Annotated[bool, "strengths of Eq. (5); off: plain contrastive loss (Table 6)"] = True
    lambda_r: Annotated[float, "weight of the refinement loss (Sec. 4.1: 0.1)"] = 0.1
    own_loss: Annotated[float, "weight of Eq. (6) on each similarity alone; ours (D15)"] = 0.0
    pose_input: Annotated[Literal["coordinates", "heatmaps"], "of joints: Table 9"] = "coordinates"
    tune: Annotated[Literal["adapters", "all"], "train what is new, or CLIP as well"] = "adapters"
    gate_raw: Annotated[bool, "ViLP: gate before the pose feature is normalised (D25)"] = False
    grad_checkpointing: Annotated[bool, "recompute blocks in backward: less memory"] = False
    def __post_init__(self):
        if self.backbone not in BACKBONES:
            raise unknown_name("backbone", self.backbone, BACKBONES)
        for name in set(self.sim) - set(SIMILARITIES):
            raise unknown_name("similarity", name, SIMILARITIES)
        T, Tv = self.pose_frames, self.video_frames
        contrast = self.text and self.fusion == "similarities"
        usable = [name for name in self.sim if (self.video if name == "vs" else self.pose)]
        read = [name for name, readers in SWITCHES.items() if self.model in readers]
        unread = [name for name in SWITCHES if name not in read
                  and getattr(self, name) != getattr(PeVLConfig, name)]
        for wrong, found, expected in (
            (min(T, Tv) < 1 or T % Tv, f"pose_frames={T}", f"a multiple of video_frames={Tv} >= 1"),
            (unread, f"model={self.model} beside {', '.join(unread)}, which it does not read",
             "only what it reads: " + (", ".join(read) or "none of these switches")),
            (not (self.video or self.pose), "video and pose are off", "at least one on"),
            (contrast and not usable, f"sim={','.join(self.sim)} and video={self.video}, pose="
             f"{self.pose}", "vs with video, ps or fw with pose"),
            (self.video and self.pose_input == "heatmaps", "pose_input=heatmaps and video",
             "heatmaps with --no-video, as in Table 9"),
            (self.grad_checkpointing and self.model in ("vilp", "clip"), f"grad_checkpointing and "
             f"model={self.model}", "pevl or aim, whose blocks are recomputed")):
            if wrong:
                raise ValueError(f"{found}. Expected {expected}. Change the flag of that name.")

def normalise(frames):
    """uint8 or float frames (..., 3, S, S) in 0..255 -> float32, by CLIP's mean and deviation."""
    mean, std = torch.tensor([CLIP_MEAN, CLIP_STD], device=frames.device)[:, :, None, None]
    return (frames.float() / 255 - mean) / std

def zero_linear(n_in, n_out):
    """Linear layer that starts at zero: the branch that it ends starts as "no change"."""
    layer = nn.Linear(n_in, n_out)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer

def unit(x):
    """x (..., e) -> the same at unit length, in float32 at least."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)

# ---- Sec. 3.1: encoders with adapters ------------------------------------------------------------
class Adapter(nn.Module):
    """up(gelu(down(x))), down: d -> r d, up: r d -> d, zero at the start; skip adds x (AIM)."""
    def __init__(self, d, ratio, skip):
        super().__init__()
        self.skip = skip
        self.down = nn.Linear(d, int(d * ratio))
        self.up = zero_linear(int(d * ratio), d)
    def forward(self, x):
        change = self.up(F.gelu(self.down(x)))
        return x + change if self.skip else change

class AdaptedBlock(nn.Module):
    """Adapters of one image block; the frozen block is passed in, video and pose share it (D2).
        temporal   x = x + DropPath(T_Adapter(MSA(LN1(x over time))))    where the tower has time
        spatial    x = x + S_Adapter(MSA(LN1(x)))
        joint      x = x + MLP(LN2(x)) + DropPath(0.5 * MLP_Adapter(LN2(x)))
    One frozen MSA and LN1 serve time and space; without adapters they still do (Tables 4, 8)."""
    def __init__(self, d, ratio, temporal, adapters, drop_path):
        super().__init__()
        self.temporal, self.rate, off = temporal, drop_path, nn.Identity()
        self.temporal_adapter = Adapter(d, ratio, skip=False) if temporal and adapters else off
        self.spatial_adapter = Adapter(d, ratio, skip=True) if adapters else off
        self.mlp_adapter = Adapter(d, ratio, skip=False) if adapters else None
    def drop_path(self, x):
        """In training 0 for a random share `rate` of the clips, and the others scaled up for it."""
        return x * F.dropout(x.new_ones(len(x), 1, 1, 1), self.rate) if self.training else x
    def mix_time(self, x, block):
        """Attention of each token over its own T frames: (B, T, n, d) -> (B, T, n, d)."""
        over_time = block.attn(block.ln_1(x).transpose(1, 2)).transpose(1, 2)   # (B, T, n, d)
        return x + self.drop_path(self.temporal_adapter(over_time))
    def forward(self, x, block, need_weights=False):
        """x (B, T, n, d) -> the same shape, and the class token's attention (B, T, n) or None."""
        x = self.mix_time(x, block) if self.temporal else x
        attended = block.attn(block.ln_1(x), need_weights=need_weights)         # (B, T, n, d)
        attended, weights = attended if need_weights else (attended, None)
        x = x + self.spatial_adapter(attended)
        hidden = block.ln_2(x)
        x = x + block.mlp(hidden)
        if self.mlp_adapter is not None:
            x = x + self.drop_path(0.5 * self.mlp_adapter(hidden))
        return x, weights

class VideoTower(nn.Module):
    """Frames -> tokens z_v, through CLIP's frozen image blocks with adapters of this tower's own.
    PeVL's frames do not see each other; `frames` > 0 is AIM's tower, with attention over time."""
    def __init__(self, config, clip_config, adapters=True, frames=0):
        super().__init__()
        d, depth = clip_config.vision_width, clip_config.vision_layers
        self.checkpointing = config.grad_checkpointing
        self.temporal_embedding = nn.Parameter(torch.zeros(frames, 1, d)) if frames else None
        rates = [config.drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            AdaptedBlock(d, config.adapter_ratio, frames > 0, adapters, rate) for rate in rates)
    def run(self, x, trunk, need_weights=False):
        """x (B, T, n, d) -> the same after all blocks, the last one's class attention or None."""
        for adapted, block in zip(self.blocks, trunk.transformer.resblocks):
            args = adapted, x, block, need_weights and adapted is self.blocks[-1]
            again = self.checkpointing and self.training
            x, weights = checkpoint(*args, use_reentrant=False) if again else adapted(*args[1:])
        return x, weights
    def forward(self, frames, trunk, need_weights=False):
        """(B, Tv, 3, S, S) from `normalise` -> (B, Tv, Nv, d), class attention or None."""
        B, Tv = frames.shape[:2]
        when = 0.0 if self.temporal_embedding is None else self.temporal_embedding.repeat(B, 1, 1)
        x = trunk.embed(frames.flatten(0, 1), when).unflatten(0, (B, Tv))       # (B, Tv, Nv, d)
        return self.run(x, trunk, need_weights)

def sinusoids(T, d):
    """(T, 1, d), length 0.7: sine and cosine of d / 2 frequencies, 16 / d to 8 cycles a clip."""
    cycles = torch.arange(T)[:, None] / T * torch.arange(1, d // 2 + 1) * 16 / d    # (T, d / 2)
    angle = 2 * math.pi * cycles
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, None] * d ** -0.5

class PoseTower(VideoTower):
    """Joints -> tokens z_p, through the same frozen blocks, with attention over time.
    A joint's token is Linear(x, y) + an embedding of the joint; a missing one (score 0) has a
    learned vector for Linear(x, y) and never looks like the point (0, 0) (D1). Class token: CLIP's.
    Every token of a frame gets its time's embedding, which starts as sinusoids: from zero, frozen
    attention takes long to tell one frame from the next.
    Table 9's rival input: joints as heatmaps, an image of J channels, cut into patches (D22)."""
    HEATMAP, PATCH = 112, 16  # pixels: Table 9; ours, since 7 x 7 patches give Table 9's 311 G
    def __init__(self, config, clip_config, joints, adapters=True):
        super().__init__(config, clip_config, adapters, config.pose_frames)
        d = clip_config.vision_width
        learned = lambda *shape: nn.Parameter(torch.randn(*shape, d) * d ** -0.5)
        self.temporal_embedding = nn.Parameter(sinusoids(config.pose_frames, d))
        self.heatmaps = config.pose_input == "heatmaps"
        if self.heatmaps:
            self.patches = nn.Conv2d(joints, d, self.PATCH, self.PATCH, bias=False)
            self.position = learned((self.HEATMAP // self.PATCH) ** 2)
        else:
            self.coordinates, self.joint, self.missing = nn.Linear(2, d), learned(joints), learned()
    def embed(self, keypoints, scores):
        """keypoints (B, T, J, 2) in [-1, 1], scores (B, T, J) -> (B, T, J, d), or (B, T, 49, d)."""
        if self.heatmaps:
            S = self.HEATMAP
            maps = gaussian_heatmaps((keypoints + 1) / 2 * S - 0.5, scores, (S, S), sigma=2.0)
            patches = self.patches(maps.flatten(0, 1)).flatten(2).transpose(1, 2)    # (B T, 49, d)
            return patches.unflatten(0, scores.shape[:2]) + self.position
        seen = (scores > 0)[..., None]                                          # (B, T, J, 1)
        point = self.coordinates(torch.where(seen, keypoints, 0.0))             # (B, T, J, d)
        return torch.where(seen, point, self.missing) + self.joint
    def forward(self, keypoints, scores, trunk):
        """-> tokens (B, T, 1 + J, d), the last block's class attention to the joints (B, T, J)."""
        tokens = self.embed(keypoints, scores)                                  # (B, T, J, d)
        first = trunk.class_embedding + trunk.positional_embedding[0]           # (d,)
        x = torch.cat([first.expand(*tokens.shape[:2], 1, -1), tokens], dim=2)  # (B, T, 1 + J, d)
        x, weights = self.run(trunk.ln_pre(x + self.temporal_embedding), trunk, need_weights=True)
        return x, weights[..., 1:]

class TextTower(nn.Module):
    """CLIP's text blocks with an adapter (skip) after the attention and the MLP of each (D2)."""
    def __init__(self, config, clip_config, adapters=True):
        super().__init__()
        d, ratio = clip_config.text_width, config.text_adapter_ratio
        make = lambda _: Adapter(d, ratio, skip=True) if adapters else nn.Identity()
        self.after_attention, self.after_mlp = (
            nn.ModuleList(map(make, range(clip_config.text_layers))) for _ in range(2))
    def forward(self, tokens, clip):
        """tokens (K, W) -> sentences (K, e), words (K, W, e), word_mask (K, W), as encode_text."""
        x, mask = clip.embed_text(tokens), clip.causal_mask(tokens.shape[1])    # (K, W, width)
        blocks = clip.transformer.resblocks
        for block, adapt_1, adapt_2 in zip(blocks, self.after_attention, self.after_mlp):
            x = x + adapt_1(block.attn(block.ln_1(x), mask))
            x = x + adapt_2(block.mlp(block.ln_2(x)))
        return clip.read_text(x, tokens)

# ---- Sec. 3.2.1: pose-adapted vision attention, Eq. (1), Fig. 3a ---------------------------------
def patch_weight(joint_weights, keypoints, scores, grid):
    """The weighted mask M of Eq. (1): how much of the body's attention lies in each patch (D3).
        w_j = joint_weights_j / sum over visible joints
        M_n = sum of w_j over the visible joints j in patch n, divided by max_n M_n
    joint_weights (B, Tv, J) >= 0; keypoints (B, Tv, J, 2), the frame is [-1, 1]; scores (B, Tv, J),
    0 = missing -> (B, Tv, N) in [0, 1], N = grid * grid by rows, 0 = no joint in it."""
    check_shape(keypoints, "B Tv J 2", "keypoints", **check_shape(joint_weights, "B Tv J"))
    visible = scores > 0
    shares = joint_weights * visible
    shares = shares / shares.sum(-1, keepdim=True).clamp_min(1e-12)             # (B, Tv, J)
    inside = visible & (keypoints.abs() <= 1).all(-1)
    cell = ((keypoints + 1) / 2 * grid).floor().clamp(0, grid - 1).nan_to_num().long()
    patch = cell[..., 1] * grid + cell[..., 0]                                  # (B, Tv, J)
    total = shares.new_zeros(*patch.shape[:2], grid * grid).scatter_add(-1, patch, shares * inside)
    return total / total.amax(-1, keepdim=True).clamp_min(1e-12)

class Refinement(nn.Module):
    """What P2V and V2P share: queries, keys and values of h heads, and a zero start."""
    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(d, d) for _ in range(3))
        self.out_proj = zero_linear(d, d)
    def project(self, asking, seen):
        """(..., q, d), (..., n, d) -> queries (..., h, q, c), keys and values (..., h, n, c)."""
        split = lambda x: x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)   # c = d / h
        return split(self.query(asking)), split(self.key(seen)), split(self.value(seen))
    def join(self, mixed):
        """Heads (..., h, q, c) side by side through out_proj -> (..., q, d)."""
        return self.out_proj(mixed.transpose(-3, -2).flatten(-2))

class P2V(Refinement):
    """Pose-adapted vision attention, tokens in, tokens out: it fits after any ViT block (D6).
        s[q, n] = (query_q . key_n / sqrt(c)) * M_n
        z_q = z_q + out_proj(sum_n softmax_n(s[q, n]) value_n)     q: class token and body patches
    A body patch has M_n > 0; the others are left out of the softmax (D4). As queries they pass
    unchanged, and so does a whole frame without joints: this is + I (D5)."""
    def __init__(self, d, heads, literal_mask=False):
        super().__init__(d, heads)
        self.literal_mask, self.ln = literal_mask, nn.LayerNorm(d)
    def forward(self, tokens, weight, class_only=False, need_weights=False):
        """tokens (B, Tv, Nv, d), weight M (B, Tv, N) in [0, 1], 0 = background -> (B, Tv, Nv, d).
        class_only: the class token alone, (B, Tv, 1, d). need_weights: also its attention to the
        patches, mean over heads, (B, Tv, N), sum 1, or all 0 in a frame without joints."""
        check_shape(tokens, "B Tv Nv d", Nv=weight.shape[-1] + 1)
        asking = slice(0, 1) if class_only else slice(None)
        normed, body = self.ln(tokens), weight > 0                              # body (B, Tv, N)
        q, k, v = self.project(normed[:, :, asking], normed[:, :, 1:])          # (B, Tv, h, ., c)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 * weight[:, :, None, None]
        if not self.literal_mask:
            scores = scores.masked_fill(~body[:, :, None, None], torch.finfo(scores.dtype).min)
        share, any_body = scores.softmax(-1), body.any(-1, keepdim=True)
        asks = torch.cat([any_body, body], dim=-1)[:, :, asking, None]          # (B, Tv, q, 1)
        z = tokens[:, :, asking]                                                # (B, Tv, q, d)
        refined = torch.where(asks, z + self.join(share @ v), z)
        return (refined, share[..., 0, :].mean(2) * any_body) if need_weights else refined

# ---- Sec. 3.2.2: video-enriched pose, Eq. (2) ----------------------------------------------------
class V2P(Refinement):
    """Video-enriched pose: the pose tokens of a frame look at the video tokens of that frame.
        z_q = z_q + out_proj(sum_n softmax_n(query_q . key_n / sqrt(c)) value_n)
    Queries: J joints and one token for the background, the frame's class token + a learned vector.
    Keys and values: all Nv video tokens, before P2V (D7). Frames without video stay as they are."""
    def __init__(self, d, heads):
        super().__init__(d, heads)
        self.ln_pose, self.ln_video = nn.LayerNorm(d), nn.LayerNorm(d)
        self.background = nn.Parameter(torch.zeros(d))
    def forward(self, pose_tokens, video_tokens, index):
        """(B, T, 1 + J, d), (B, Tv, Nv, d), index (Tv,): places among T -> (B, T, 1 + J, d)."""
        check_shape(video_tokens, "B Tv Nv d", B=len(pose_tokens), Tv=len(index))
        chosen = pose_tokens[:, index]                                          # (B, Tv, 1 + J, d)
        asking = torch.cat([chosen[:, :, :1] + self.background, chosen[:, :, 1:]], dim=2)
        q, k, v = self.project(self.ln_pose(asking), self.ln_video(video_tokens))
        update = self.join(F.scaled_dot_product_attention(q, k, v))             # (B, Tv, 1 + J, d)
        return pose_tokens.index_copy(1, index, chosen + update)                # (B, T, 1 + J, d)

# ---- Sec. 3.2.3: refinement supervision, Eq. (3) -------------------------------------------------
@torch.autocast("cuda", enabled=False)  # 100 times a cosine does not survive bfloat16
@torch.autocast("cpu", enabled=False)
def cosine(a, b):
    """sim(a, b) of Eqs. (3) to (5): (B, e), (K, e) -> (B, K) in [-1, 1]."""
    return unit(a) @ unit(b).T

def nt_xent(z, z_refined, temperature):
    """Eq. (3): among the clips of the batch, a clip is nearest to its own refinement.
        s_ij = cos(z_i, z_refined_j) / temperature
        L = mean_i of ( -log softmax_j(s_ij)[i] - log softmax_j(s_ji)[i] ) / 2           (D8)
    z, z_refined (B, e); temperature > 0, float or scalar tensor -> scalar >= 0, 0 for one clip."""
    check_shape(z_refined, "B e", B=z.shape[0], e=z.shape[1])
    sim = cosine(z, z_refined) / temperature                                    # (B, B)
    itself = torch.arange(len(sim), device=sim.device)
    return (F.cross_entropy(sim, itself) + F.cross_entropy(sim.T, itself)) / 2

# ---- Sec. 3.3.1: multi-level association, Eq. (4), Fig. 3b ---------------------------------------
def attend(values, tau, dim, mask=None):
    """Soft maximum, sum over `dim` of softmax(values / tau) values; mask False: absent; none: 0."""
    if mask is None:
        return ((values / tau).softmax(dim) * values).sum(dim)
    share = (values / tau).masked_fill(~mask, torch.finfo(values.dtype).min).softmax(dim)
    return torch.where(mask, share * values, 0.0).sum(dim)

def frame_word_similarity(pose_frames, words, word_mask, tau=0.01):
    """sim_fw of Eq. (4), sub-action level: attention over the frames x words matrix, twice (D10).
        A[t, w] = cos(pose_frames_t, word_w)
        c_w = sum_t softmax_t(A[t, w] / tau) A[t, w]       s1 = sum_w softmax_w(c_w / tau) c_w
        r_t = sum_w softmax_w(A[t, w] / tau) A[t, w]       s2 = sum_t softmax_t(r_t / tau) r_t
        sim_fw = (s1 + s2) / 2
    pose_frames (B, T, e), words (K, W, e), word_mask (K, W) bool, True on the words of a text (D11)
    -> (B, K) in [-1, 1]; 0 for a text without words."""
    (B, T, e), (K, W) = pose_frames.shape, word_mask.shape
    check_shape(words, "K W e", K=K, W=W, e=e)
    A = cosine(pose_frames.flatten(0, 1), words.flatten(0, 1)).view(B, T, K, W).transpose(1, 2)
    per_word = attend(A, tau, dim=2)                                            # c (B, K, W)
    per_frame = attend(A, tau, dim=3, mask=word_mask[:, None])                  # r (B, K, T)
    return (attend(per_word, tau, 2, word_mask) + attend(per_frame, tau, 2)) / 2  # (B, K)

# ---- Sec. 3.3.2: semantic content guided loss, Eqs. (5) and (6) ----------------------------------
def text_discrepancy(sentences):
    """1 - cos of two texts, raw strength of Eq. (5): (K, e) -> (K, K) in [0, 2], diagonal 0."""
    return (1 - cosine(sentences, sentences)).clamp_min(0).fill_diagonal_(0)

def semantic_weights(labels, discrepancy):
    """Weights w of Eq. (5): 1 where labels agree, n_i * s_ij where they differ (D12).
        s_ij = discrepancy_ij / sum over differing k of discrepancy_ik     n_i = number that differ
    A row of equal strengths, or of zeros alone, gives w = 1: the plain contrastive loss.
    labels (B,) int64 < K, discrepancy (K, K) >= 0 -> (B, B) >= 0."""
    differ = labels[:, None] != labels[None, :]                                 # (B, B)
    raw = discrepancy[labels][:, labels] * differ
    raw = torch.where(raw.sum(1, keepdim=True) > 0, raw, differ.to(raw.dtype))
    n, total = (x.sum(1, keepdim=True) for x in (differ, raw))                  # (B, 1)
    return torch.where(differ, n * (raw / total.clamp_min(torch.finfo(raw.dtype).tiny)), 1.0)

def two_way_kl(logits, truth, weights=None):
    """L of semantic_guided_loss with rows and columns of truth (B, B) >= 0, brought to sum 1, as q:
    every contrast of this file. logits (B, B); weights w (B, B) >= 0, row: the anchor, clip or
    text; 0 = absent; None: all 1."""
    def one_way(logits, truth):
        q = truth / truth.sum(1, keepdim=True)
        log_p = (logits if weights is None else logits + weights.log()).log_softmax(1)
        return torch.where(q > 0, q * (q.clamp_min(1e-30).log() - log_p), 0.0).sum(1).mean()
    return (one_way(logits, truth) + one_way(logits.T, truth.T)) / 2

def semantic_guided_loss(logits, labels, discrepancy):
    """Eqs. (5), (6): contrast clips and texts; a text is pushed off as far as its content differs.
        p_ij = w_ij exp(logits_ij) / sum_k w_ik exp(logits_ik)     w from semantic_weights
        q_ij = [label_i = label_j] / number of clips with label_i
        L = ( mean_i KL(q_i || p_i) of clips to texts + the same of texts to clips ) / 2     (D14)
    logits (B, B) = sim / tau, row: clip i, column: text of clip j; labels (B,) int64; discrepancy
    (K, K) from text_discrepancy -> scalar >= 0."""
    check_shape(logits, "B B", B=len(labels))
    agree = (labels[:, None] == labels[None, :]).to(logits.dtype)
    return two_way_kl(logits, agree, semantic_weights(labels, discrepancy))

# ---- Sec. 3.4: prediction, Eq. (7) ---------------------------------------------------------------
def predict(logits, views=1):
    """Eq. (7): softmax over the texts of the mean over views, (B * views, K) -> (B, K) (D19)."""
    return logits.unflatten(0, (-1, views)).mean(1).softmax(-1)

# ---- What all systems share ----------------------------------------------------------------------
def inverse_tau(log_scale):
    """1 / tau = exp(log_scale), at most 100 as in CLIP. Held there in place: a clamp in the graph
    stops the gradient beyond it for good, and CLIP's published scales are beyond it."""
    with torch.no_grad():
        log_scale.clamp_(max=math.log(100))
    return log_scale.exp()

def copy_all(source, target, error):
    """source's tensors into target's by name, in place; ValueError where names or shapes differ."""
    shapes = [{f"{name} {tuple(x.shape)}" for name, x in d.items()} for d in (source, target)]
    if differ := sorted(shapes[0] ^ shapes[1]):
        raise ValueError(error.format(f"{len(differ)} entries differ, first: {differ[:5]}"))
    with torch.no_grad():
        for name, value in source.items():
            target[name].copy_(value)

class ActionModel(nn.Module):
    """A CLIP, K label texts, and the bookkeeping of what is trained.
    model(batch) -> features, a dict of tensors with a leading B; losses(features) -> named scalars,
    for one process's features or for all gathered; class_logits(features, text) -> name -> (B, K),
    "all" first. batch: frames (B, Tv, 3, S, S) in 0..255, keypoints (B, T, J, 2) in [-1, 1], scores
    (B, T, J), 0 = missing, label (B,) int64."""
    PARTS = {}  # name in the tables of parameters and costs -> attribute; None where it is off
    TRUNK, ADAPTED = ("CLIP", "pose image"), ("video tower", "text tower")  # joints are new to CLIP
    def __init__(self, config, clip, texts, joints=17):
        super().__init__()
        self.config, self.clip, self.classes = config, clip, len(texts)
        clip.requires_grad_(config.tune == "all")
        with torch.device("cpu"):
            tokens = tokenize(texts, clip.config.context_length)
        tokens = tokens[:, :int(tokens.argmax(1).max()) + 1]                    # to the longest
        self.register_buffer("tokens", tokens.to(clip.logit_scale.device), persistent=False)
        T, Tv = config.pose_frames, config.video_frames  # a video frame: the middle of T / Tv
        self.register_buffer("video_index", (torch.arange(Tv) * T + T // 2) // Tv, persistent=False)
        compares = config.text and config.model in ("pevl", "vilp")             # else no tau
        self.logit_scale = nn.Parameter(clip.logit_scale.detach().clone(), requires_grad=compares)
        self.refine_scale, self.text = nn.ParameterDict(), None
    def parts(self):
        """Name -> module; every parameter is in one of them."""
        own = {name: getattr(self, attribute) for name, attribute in self.PARTS.items()}
        own["temperatures"] = nn.ParameterList([*self.refine_scale.values(), self.logit_scale])
        return {"CLIP": self.clip, **{name: part for name, part in own.items() if part is not None}}
    def parameter_groups(self):
        """What is trained: dicts name, params, kind: "trunk" (CLIP's own), "adapter" or "new"."""
        groups = []
        for name, part in self.parts().items():
            params = [p for p in part.parameters() if p.requires_grad]
            kind = "trunk" if name in self.TRUNK else "adapter" if name in self.ADAPTED else "new"
            groups += [{"name": name, "params": params, "kind": kind}] if params else []
        return groups
    def trainable_state(self):
        """State dict of what is trained alone: the frozen CLIP is not stored again."""
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}
    def load_trainable_state(self, state):
        """Inverse of `trainable_state`, strict."""
        copy_all(state, self.trainable_state(), "the checkpoint does not fit this model: {}. "
                 "Expected the settings of its training. Use the checkpoint's own config.json.")
    def encode_texts(self, labels=None):
        """Of `labels` (U,), or of all K: sentences (U, e), words (U, W, e), word_mask (U, W)."""
        tokens = self.tokens if labels is None else self.tokens[labels]
        encoded = self.text(tokens, self.clip) if self.text else self.clip.encode_text(tokens)
        return dict(zip(("sentences", "words", "word_mask"), encoded))
    def loss(self, features):
        """Cross-entropy of a linear head, for systems and rows without text."""
        return F.cross_entropy(self.class_logits(features)["all"].float(), features["label"])
    def losses(self, features):
        loss = self.loss(features)
        return {"total": loss, "L_t": loss}

# ---- PeVL, Fig. 2 --------------------------------------------------------------------------------
class PeVL(ActionModel):
    """Three adapted encoders on one frozen CLIP, then UCMR (Eqs. 1 to 3) and SGMC (Eqs. 4 to 6)."""
    PARTS = {"video tower": "video", "pose tower": "pose", "text tower": "text", "P2V": "p2v",
             "V2P": "v2p", "projection": "projection"}
    def __init__(self, config, clip, texts, joints=17):
        super().__init__(config, clip, texts)
        c, sizes, both = config, clip.config, config.video and config.pose
        d, e, heads = sizes.vision_width, sizes.embed_dim, sizes.vision_heads
        concat = c.fusion == "concat" or not c.text                             # no SGMC or no text
        self.sim = [name for name in c.sim if (c.video if name == "vs" else c.pose)]
        self.video = VideoTower(c, sizes, c.video_adapters) if c.video else None
        self.pose = PoseTower(c, sizes, joints, c.pose_adapters) if c.pose else None
        self.text = TextTower(c, sizes, c.text_adapters) if c.text else None
        self.p2v = P2V(d, heads, c.literal_mask) if both and c.p2v else None
        self.v2p = V2P(d, heads) if both and c.v2p else None
        n_in, n_out = e * (c.video + c.pose), e if c.text else self.classes
        self.projection = nn.Linear(n_in, n_out) if concat else None
        for name, refined in {"video": self.p2v, "pose": self.v2p}.items():
            if refined is not None and c.refinement:  # tau of Eq. (3), own, from CLIP's start 0.07
                self.refine_scale[name] = nn.Parameter(torch.tensor(0.07).log().neg())
        if c.text:
            with torch.no_grad():  # of the frozen tower: texts in training drift together (D13)
                D = text_discrepancy(clip.encode_text(self.tokens)[0])          # (K, K)
            self.register_buffer("discrepancy", D * c.sgl, persistent=False)    # 0: all alike
    def forward(self, batch):
        """-> label, video (B, e), pose_frames (B, T, e), pose (B, e), and of Eq. (3) video_before
        and pose_before (B, e): those whose towers and refinements are on."""
        trunk, z_v, z_p, features = self.clip.visual, None, None, {"label": batch["label"]}
        read_video = lambda z: trunk.read_out(z[:, :, 0]).mean(1)               # class tokens (D9)
        read_pose = lambda z: trunk.read_out(z.mean(2))                         # mean tokens (D9)
        if self.video:
            z_v, _ = self.video(normalise(batch["frames"]), trunk)              # (B, Tv, Nv, d)
        if self.pose:
            z_p, w = self.pose(batch["keypoints"], batch["scores"], trunk)      # (B, T, 1 + J, d)
        refined_v = self.p2v(z_v, self.mask(batch, w), class_only=True) if self.p2v else z_v
        refined_p = self.v2p(z_p, z_v, self.video_index) if self.v2p else z_p
        if self.video:
            features["video"] = read_video(refined_v)                           # V (B, e)
        if self.pose:
            features["pose_frames"] = read_pose(refined_p)                      # (B, T, e)
            features["pose"] = features["pose_frames"].mean(1)                  # P (B, e)
        if "video" in self.refine_scale:
            features["video_before"] = read_video(z_v)
        if "pose" in self.refine_scale:
            features["pose_before"] = read_pose(z_p).mean(1)
        return features
    def mask(self, batch, joint_weights):
        """M of Eq. (1) at the video frames: (B, Tv, N)."""
        pose = joint_weights, batch["keypoints"], batch["scores"]
        return patch_weight(*(x[:, self.video_index] for x in pose), self.clip.visual.grid)
    def concatenated(self, features):
        """[V; P] through one projection: (B, e), or (B, K) without text (D22)."""
        found = [features[name] for name in ("video", "pose") if name in features]
        return self.projection(torch.cat(found, dim=-1))
    def similarities(self, features, text):
        """Eq. (4): name -> (B, U) in [-1, 1]; `text` from encode_texts."""
        if self.projection:
            return {"concat": cosine(self.concatenated(features), text["sentences"])}
        terms = {"vs": lambda: cosine(features["video"], text["sentences"]),
                 "ps": lambda: cosine(features["pose"], text["sentences"]),
                 "fw": lambda: frame_word_similarity(features["pose_frames"], text["words"],
                                                     text["word_mask"], self.config.tau_fw)}
        return {name: terms[name]() for name in self.sim}
    def losses(self, features):
        """Sec. 3.4: named scalars, total = L_t + lambda_R L_R (+ own_loss L_own: D15)."""
        labels, c, losses = features["label"], self.config, {}
        if not c.text:
            losses["L_t"] = self.loss(features)
        else:
            distinct, column = labels.unique(return_inverse=True)               # each text once
            sims = self.similarities(features, self.encode_texts(distinct))     # name -> (B, U)
            contrast = lambda sim: semantic_guided_loss(
                inverse_tau(self.logit_scale) * sim[:, column], labels, self.discrepancy)
            losses["L_t"] = contrast(sum(sims.values()) / len(sims))
            if c.own_loss and len(sims) > 1:
                losses["L_own"] = sum(map(contrast, sims.values())) / len(sims)
        if self.refine_scale:
            losses["L_R"] = sum(nt_xent(features[f"{n}_before"], features[n], 1 / inverse_tau(s))
                                for n, s in self.refine_scale.items())
        weights = {"L_t": 1.0, "L_R": c.lambda_r, "L_own": c.own_loss}
        return {"total": sum(weights[name] * loss for name, loss in losses.items()), **losses}
    def class_logits(self, features, text=None):
        """name -> (B, K), sim / tau with all texts: "all" predicts, then each similarity alone."""
        if not self.config.text:
            return {"all": self.concatenated(features)}
        sims = self.similarities(features, text or self.encode_texts())
        sims = {"all": sum(sims.values()) / len(sims), **(sims if len(sims) > 1 else {})}
        return {name: inverse_tau(self.logit_scale) * sim for name, sim in sims.items()}
    @torch.no_grad()
    def attention_maps(self, batch):
        """For pictures, name -> (B, Tv, N): M; the class token's attention before and after P2V."""
        z_v, before = self.video(normalise(batch["frames"]), self.clip.visual, True)
        maps = {"before": before[..., 1:]}
        if self.p2v:
            _, joint_weights = self.pose(batch["keypoints"], batch["scores"], self.clip.visual)
            maps["patch_weight"] = M = self.mask(batch, joint_weights)
            maps["after"] = self.p2v(z_v, M, class_only=True, need_weights=True)[1]
        return maps

# ---- ViLP (ICVGIP 2023) --------------------------------------------------------------------------
def gate(frames, pose, raw=False):
    """u_t = v_t * sigmoid(p_t): frames v and pose p (B, T, e), of unit length; pose None: u = v.
    Entries of a unit vector are near 0 and their sigmoids near 0.5: u is about v / 2, and every
    similarity half as large. raw: p as its tower gives it, then u of unit length (D25)."""
    v = unit(frames)
    if pose is None:
        return v
    check_shape(pose, "B T e", B=v.shape[0], T=v.shape[1], e=v.shape[2])
    return unit(v * pose.sigmoid()) if raw else v * unit(pose).sigmoid()

@torch.autocast("cuda", enabled=False)
@torch.autocast("cpu", enabled=False)
def pose_guided_concept_spotting(frames, pose, words, sentences, word_mask, tau=0.01, raw=False):
    """ViLP's P-VCS: pose gates the frames, words vote for them, what is voted meets the sentence.
        u_t = v_t * sigmoid(p_t)
        A[k, t] = mean over words w of softmax_t(word_kw . u_t / tau)
        video_k = sum_t A[k, t] u_t                       similarity[k] = video_k . sentence_k
    frames v, pose p (B, T, e), None: plain concept spotting; words (K, W, e), sentences (K, e),
    word_mask (K, W) bool -> (B, K). All but video_k at unit length. No words: all tokens vote.
    raw: as in `gate`."""
    check_shape(words, "K W e", K=len(sentences), e=frames.shape[-1])
    u = gate(frames, pose, raw)                                                 # (B, T, e)
    votes = (torch.einsum("kwe,bte->bkwt", unit(words), u) / tau).softmax(-1)   # (B, K, W, T)
    real = torch.where(word_mask.any(-1, keepdim=True), word_mask, True).to(u.dtype)
    A = torch.einsum("bkwt,kw->bkt", votes, real / real.sum(-1, keepdim=True))  # rows sum to 1
    return torch.einsum("bkt,bte,ke->bk", A, u, unit(sentences))

class TemporalTransformer(nn.Module):
    """ViLP's mixing of frame features (B, T, e): v + layers(v + position), 6 pre-norm layers."""
    def __init__(self, e, heads, frames, layers=6):
        super().__init__()
        self.position = nn.Parameter(torch.randn(frames, e) * 0.01)
        layer = nn.TransformerEncoderLayer(e, heads, 4 * e, 0.0, QuickGELU(), layer_norm_eps=1e-12,
                                           batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
    def forward(self, frames):
        return frames + self.layers(frames + self.position)

class ViLP(ActionModel):
    """CLIP on frames, a second CLIP image tower on pose heatmaps, P-VCS; the text tower is frozen.
    video=False: pose and text. pose=False: video and text. text=False: linear head, mean frame."""
    PARTS = {"pose image": "pose", "temporal transformer": "mixer", "head": "head"}
    SIGMA = 0.4  # of a joint's Gaussian, in patches: wide enough to show where in one it is; ours
    def __init__(self, config, clip, texts, joints=17):
        super().__init__(config, clip, texts)
        e, heads = clip.config.embed_dim, clip.config.text_heads
        self.pose = copy.deepcopy(clip.visual).requires_grad_(True) if config.pose else None
        clip.visual.requires_grad_(config.video)
        self.mixer = TemporalTransformer(e, heads, config.video_frames)
        self.head = None if config.text else nn.Linear(e, self.classes)
    def heatmaps(self, batch):
        """Joints of the video frames in grey, maximum over joints: (B Tv, 3, S, S) (D24)."""
        xy, scores = (batch[name][:, self.video_index] for name in ("keypoints", "scores"))
        S, sigma = self.config.image_size, self.SIGMA * self.clip.config.patch_size
        maps = gaussian_heatmaps((xy + 1) / 2 * S - 0.5, scores, (S, S), sigma)
        return normalise(255 * maps.amax(2).flatten(0, 1)[:, None].expand(-1, 3, -1, -1))
    def forward(self, batch):
        """-> label, frames v (B, Tv, e); where both towers are on also pose p (B, Tv, e), else
        `frames` comes from the one that is on."""
        read = lambda tower, x: tower(x).unflatten(0, (-1, self.config.video_frames))
        p = read(self.pose, self.heatmaps(batch)) if self.config.pose else None
        if not self.config.video:
            return {"label": batch["label"], "frames": self.mixer(p)}
        v = self.mixer(read(self.clip.visual, normalise(batch["frames"]).flatten(0, 1)))
        return {"label": batch["label"], "frames": v, **({} if p is None else {"pose": p})}
    def loss(self, features):
        """KL(q || p) both ways, q = softmax(10 * [labels agree]): other labels keep a little."""
        if self.head:
            return super().loss(features)
        labels, column = features["label"].unique(return_inverse=True)          # each text once
        logits = self.class_logits(features, self.encode_texts(labels))["all"]  # (B, U)
        return two_way_kl(logits[:, column], (10.0 * (column[:, None] == column)).exp())
    def class_logits(self, features, text=None):
        """P-VCS / tau with all texts, or the head on the mean gated frame: "all", (B, K)."""
        v, p, raw = features["frames"], features.get("pose"), self.config.gate_raw
        if self.head:
            return {"all": self.head(gate(v, p, raw).mean(1))}
        sim = pose_guided_concept_spotting(v, p, **(text or self.encode_texts()), raw=raw,
                                           tau=self.config.tau_fw)
        return {"all": inverse_tau(self.logit_scale) * sim}

# ---- AIM (ICLR 2023), the paper's main rival and the source of its adapters ----------------------
class AIM(ActionModel):
    """Video tower with temporal, spatial and MLP adapters, mean of class tokens, linear head."""
    PARTS = {"video tower": "video", "head": "head"}
    PUBLISHED = {"temporal_adapter": "T_Adapter", "spatial_adapter": "S_Adapter",
                 "mlp_adapter": "MLP_Adapter", "down": "D_fc1", "up": "D_fc2"}  # ours: theirs
    def __init__(self, config, clip, texts, joints=17):
        super().__init__(config, clip, texts)
        self.video = VideoTower(config, clip.config, frames=config.video_frames)
        self.head = nn.Linear(clip.config.vision_width, self.classes)
    def forward(self, batch):
        """-> label, video (B, d): the mean over frames of the class tokens after ln_post."""
        z, _ = self.video(normalise(batch["frames"]), self.clip.visual)         # (B, Tv, Nv, d)
        return {"label": batch["label"], "video": self.clip.visual.ln_post(z[:, :, 0]).mean(1)}
    def class_logits(self, features, text=None):
        return {"all": self.head(F.dropout(features["video"], 0.5, self.training))}
    def load_published(self, state):
        """An AIM checkpoint as its authors publish it (`backbone.*`, `cls_head.fc_cls.*`), frozen
        part included, strict; with one temporal adapter a block, as on Kinetics and Diving48 (two
        for Something-Something). Sequence first there, batch first here: the weights agree."""
        target = {f"cls_head.fc_cls.{name}": p for name, p in self.head.named_parameters()}
        for name, p in self.clip.visual.named_parameters():
            target |= {f"backbone.{name}": p} if name != "proj" else {}
        for name, p in self.video.blocks.named_parameters():  # such as 0.mlp_adapter.up.bias
            theirs = ".".join(self.PUBLISHED.get(word, word) for word in name.split("."))
            target[f"backbone.transformer.resblocks.{theirs}"] = p
        target["backbone.temporal_embedding"] = self.video.temporal_embedding.transpose(0, 1)
        copy_all(state, target, "no AIM checkpoint for this backbone, frame count and classes: {}. "
                 "Expected equal names and shapes. Set --backbone, --video-frames and --data.")

# ---- CLIP itself, zero-shot -----------------------------------------------------------------------
class ZeroShotCLIP(ActionModel):
    """Mean of normalised frame features against the texts; nothing is new, nothing is trained."""
    def forward(self, batch):
        """-> label, image (B, e)."""
        frames = normalise(batch["frames"])
        image = self.clip.encode_image(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return {"label": batch["label"], "image": unit(image).mean(1)}
    def logits(self, a, b):
        return inverse_tau(self.clip.logit_scale) * cosine(a, b)
    def class_logits(self, features, text=None):
        return {"all": self.logits(features["image"], (text or self.encode_texts())["sentences"])}

def build_model(config, clip: CLIP, texts, joints=17):
    """The system that `config` names on this CLIP, for K prompts `texts` and J joints."""
    kind = {"pevl": PeVL, "vilp": ViLP, "aim": AIM, "clip": ZeroShotCLIP}[config.model]
    with clip.logit_scale.device:  # what is new is made where CLIP lies, "meta" included
        return kind(config, clip, texts, joints)

