"""pevl.py: the paper's equations against slow loops, their invariances, and PeVL put together.

A loop here is the printed formula, entry by entry, so that it can be read beside the paper. Where a
test needs more than one entry of a formula to be right (an order, an extreme, a gradient), it says
so in its name. The same equations one fact at a time, with messages for students, are in
tests/spec/.

    Eq. (1) to Eq. (7)    here, in the paper's order
    Fig. 2 and Sec. 3.4   here, last: what PeVL.forward and PeVL.losses make of the parts
    Sec. 3.1              here, its main facts; the rest in tests/test_towers.py
    what lies beneath     tests/test_systems.py: settings, initialisation, what all systems share
"""
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import pevl
from clip_model import CLIP
from pevl import (P2V, V2P, frame_word_similarity, nt_xent, patch_weight, predict,
                  semantic_guided_loss, semantic_weights, text_discrepancy)
from small_models import (SMALL, batch_of, close, draw_words, examples_hold,  # noqa: F401
                          model_of, number, small_backbone, small_clip, stir)
from strategies import randn, seeds, sizes
from systems import readings

WIDTH = 16                                        # of all tokens here, in two heads of 8
HEADS = [slice(0, 8), slice(8, 16)]


def softmax(values):
    """A list of numbers -> shares of sum 1."""
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def weighted_sum(shares, values):
    """Sum of share * value; the values may be numbers or vectors."""
    return sum(share * value for share, value in zip(shares, values))


def norm(x, ln):
    """A layer norm of WIDTH by its formula's own function."""
    return F.layer_norm(x, (WIDTH,), ln.weight, ln.bias)


def scores_of(q, keys):
    """One query (c,), keys (n, c) -> list of query . key / sqrt(c)."""
    return [float(q @ key) / math.sqrt(len(q)) for key in keys]


@pytest.mark.parametrize("module", [pevl, readings], ids=lambda module: module.__name__)
def test_worked_examples_come_out_as_printed(module):
    """The small numbers in the docstrings of Eqs. (1) to (7), and of their other readings."""
    examples_hold(module)


@pytest.mark.parametrize("name", ["patch_weight", "masked_softmax", "V2P", "nt_xent",
                                  "frame_word_similarity", "mean_similarity", "semantic_weights",
                                  "semantic_guided_loss", "predict"])
def test_every_equation_has_a_worked_example(name):
    """A reader finds small numbers in the docstring of each equation."""
    assert ">>> " in getattr(pevl, name).__doc__, f"{name} has no example"


# ---- Eq. (1): M ----------------------------------------------------------------------------------

def draw_pose(seed, B, T, J):
    """Weights, keypoints and scores of random poses: some joints missing, some outside."""
    g = torch.Generator().manual_seed(seed)
    scores = (torch.rand(B, T, J, generator=g) > 0.3).double()
    weights = torch.rand(B, T, J, generator=g).double() + 0.01
    keypoints = torch.rand(B, T, J, 2, generator=g).double() * 2.6 - 1.3
    return weights, keypoints, scores


def loop_patch_weight(weights, keypoints, scores, grid):
    """M of one frame, joint by joint: lists of J -> list of grid * grid."""
    visible = sum(weight for weight, score in zip(weights, scores) if score > 0)
    M = [0.0] * (grid * grid)
    for weight, (x, y), score in zip(weights, keypoints, scores):
        if score == 0 or abs(x) > 1 or abs(y) > 1:
            continue
        column = min(int((x + 1) / 2 * grid), grid - 1)
        row = min(int((y + 1) / 2 * grid), grid - 1)
        M[row * grid + column] += weight / visible

    largest = max(M)
    if largest == 0:
        return M
    return [total / largest for total in M]


@pytest.mark.eq1
@given(seeds, sizes, sizes, sizes, st.integers(1, 5))
def test_patch_weight_matches_loops(seed, B, T, J, grid):
    """M of Eq. (1) is what a loop over the joints of a frame adds up."""
    weights, keypoints, scores = draw_pose(seed, B, T, J)
    got = patch_weight(weights, keypoints, scores, grid)
    for b in range(B):
        for t in range(T):
            want = loop_patch_weight(weights[b, t].tolist(), keypoints[b, t].tolist(),
                                     scores[b, t].tolist(), grid)
            close(got[b, t], number(want), why=f"M of clip {b}, frame {t}")


# ---- Eq. (1): P2V --------------------------------------------------------------------------------

def p2v_of(**reading):
    """A P2V of random weights, float64; a gate is at 0.7 and not at its start, 0."""
    torch.manual_seed(3)
    module = stir(P2V(WIDTH, 2, **reading).double()).requires_grad_(False)
    if module.gate is not None:
        module.gate.fill_(0.7)
    return module


def frozen_block():
    """A block of CLIP, whose MLP kind="block" uses."""
    torch.manual_seed(5)
    return small_clip().double().visual.transformer.resblocks[-1].requires_grad_(False)


FROZEN = frozen_block()

READINGS = {
    "as we read it": {},
    "to the letter": {"literal_mask": True},
    "log M": {"mask": "log"},
    "block": {"kind": "block"},
    "block, log M": {"kind": "block", "mask": "log"},
}


def loop_shares(q, keys, weights, log):
    """What one query gives each of the patches it may look at: list of shares of sum 1.

    q (c,); keys (n, c); weights: list of n, their M. log: score + log M in place of score * M.
    """
    powers = []
    for score, M in zip(scores_of(q, keys), weights):
        if log:
            powers.append(math.exp(score) * M)
        else:
            powers.append(math.exp(score * M))
    return [power / sum(powers) for power in powers]


def loop_mlp(x, block):
    """MLP(LN2(x)) of one token, CLIP's QuickGELU written out."""
    hidden = block.mlp.c_fc(norm(x, block.ln_2))
    return block.mlp.c_proj(hidden * torch.sigmoid(1.702 * hidden))


def loop_p2v(module, z, M):
    """Eq. (1) of one frame, query by query: tokens z (1 + N, d), M a list of N.

    -> refined tokens (1 + N, d), and the class token's shares, list of N, mean over heads.
    """
    N = len(M)
    x = norm(z, module.ln)
    q = module.query(x)
    k = module.key(x)
    v = module.value(x)

    # Who is looked at: the body, or to the letter everything. Token n + 1 is patch n.
    body = [n for n in range(N) if M[n] > 0]
    looked_at = body
    if module.literal_mask:
        looked_at = list(range(N))
    seen = [n + 1 for n in looked_at]
    weights = [M[n] for n in looked_at]

    refined = z.clone()
    attention = [0.0] * N
    for i in range(1 + N):
        is_class_token = i == 0
        looks = bool(body) and (is_class_token or i - 1 in body)
        if not looks:
            continue                                      # + I: passes through
        mixed = []
        for head in HEADS:
            shares = loop_shares(q[i, head], k[seen, head], weights, log=module.mask == "log")
            mixed.append(weighted_sum(shares, v[seen, head]))
            if is_class_token:
                for n, share in zip(looked_at, shares):
                    attention[n] += share / len(HEADS)
        refined[i] = z[i] + module.out_proj(torch.cat(mixed))
        if module.gate is not None:
            refined[i] += module.gate * loop_mlp(refined[i], FROZEN)
    return refined, attention


@pytest.mark.eq1
@pytest.mark.parametrize("reading", READINGS)
@given(seed=seeds, B=sizes, T=sizes, N=st.integers(1, 6))
def test_p2v_matches_loops(reading, seed, B, T, N):
    """Eq. (1) in its readings: refined tokens and the class token's attention, query by query."""
    module = p2v_of(**READINGS[reading])
    z = randn(seed, B, T, 1 + N, WIDTH)
    M = torch.rand(B, T, N, generator=torch.Generator().manual_seed(seed)).double()
    M = torch.where(M > 0.5, M, 0.0)

    got, attention = module(z, M, FROZEN, need_weights=True)
    for b in range(B):
        for t in range(T):
            want, shares = loop_p2v(module, z[b, t], M[b, t].tolist())
            close(got[b, t], want, why=f"tokens of clip {b}, frame {t}")
            close(attention[b, t], number(shares), why=f"the class token's shares, frame {t}")
            passes = (want == z[b, t]).all(-1)
            assert torch.equal(got[b, t][passes], z[b, t][passes]), "+ I is not to the bit"


@pytest.mark.eq1
@given(st.floats(0.1, 3.0), st.floats(0.1, 0.4), st.floats(0.5, 1.0))
def test_more_weight_takes_more_by_log_and_less_of_a_negative_score_by_product(size, little, much):
    """D4, for two patches of equal score: log rises with M always, the product with the sign."""
    M = number([[little, much]])
    for score in (-size, size):
        scores = number([[score, score]])
        by_product = pevl.masked_softmax(scores, M)[0]
        by_log = pevl.masked_softmax(scores, M, mask="log")[0]

        close(by_log, M[0] / M.sum(), why="equal scores: by log M the shares are as M")
        gains = bool(by_product[1] > by_product[0])
        assert gains == (score > 0), "by the product M gains where the score is above 0, only there"


@pytest.mark.eq1
@pytest.mark.parametrize("kind", ["attention", "block"])
def test_p2v_starts_as_identity_and_agrees_with_class_only(kind):
    """Before training P2V changes nothing; later, class_only gives the whole's class token."""
    z = randn(0, 3, 2, 5, WIDTH)
    M = number([1.0, 0.0, 0.4, 0.0]).expand(3, 2, 4)
    fresh = P2V(WIDTH, 2, kind=kind).double()
    close(fresh(z, M, FROZEN), z, tol=0, why="out_proj and gate start at zero")

    module = p2v_of(kind=kind)
    whole = module(z, M, FROZEN)
    assert not torch.allclose(whole, z), "the module under test does nothing"
    close(module(z, M, FROZEN, class_only=True), whole[:, :, :1],
          why="class_only must be an exact shortcut")


@pytest.mark.eq1
@pytest.mark.parametrize("kind", ["attention", "block"])
def test_p2v_keeps_clips_apart(kind):
    """Clips in another order give the same clips in that order."""
    module = p2v_of(kind=kind)
    z = randn(0, 3, 2, 5, WIDTH)
    M = randn(1, 3, 2, 4).clamp(0, 1)
    order = [2, 0, 1]
    close(module(z[order], M[order], FROZEN), module(z, M, FROZEN)[order],
          why="a clip's tokens depend on its place in the batch")


@pytest.mark.eq1
@pytest.mark.parametrize("mask", ["product", "log"])
def test_p2v_gradients(mask):
    """Slopes by autograd are those of small steps, for tokens and for M."""
    module = p2v_of(mask=mask)

    # M of three patches, the middle one background. M = 0 is a jump: no slope is asked there.
    def run(z, M):
        zero = M.new_zeros(1)
        M = torch.cat([M[:1], zero, M[1:]])
        return module(z, M[None, None])

    z = randn(0, 1, 1, 4, WIDTH).requires_grad_()
    M = number([0.4, 0.9]).requires_grad_()
    assert torch.autograd.gradcheck(run, (z, M), fast_mode=True)


@pytest.mark.eq1
@pytest.mark.parametrize("reading", ["as we read it", "log M"])
@pytest.mark.parametrize("score, place", [(0.0, 0.3), (1.0, 0.3), (1.0, 5.0), (1.0, math.nan)],
                         ids=["missing", "in one patch", "outside", "not a number"])
def test_extreme_poses_stay_finite(score, place, reading):
    """Attention near 0, nobody there, joints outside: M and its gradient are numbers."""
    weights = torch.full((1, 2, 5), 1e-30)
    keypoints = torch.full((1, 2, 5, 2), place)
    scores = torch.full((1, 2, 5), score)
    M = patch_weight(weights, keypoints, scores, grid=2)
    assert M.isfinite().all(), "M is not a number"
    assert M.min() >= 0 and M.max() <= 1, "M leaves [0, 1]"

    M.requires_grad_()
    refined = p2v_of(**READINGS[reading]).float()(randn(0, 1, 2, 5, WIDTH).float(), M)
    refined.sum().backward()
    assert refined.isfinite().all(), "tokens are not numbers"
    assert M.grad.isfinite().all(), "the gradient of M is not a number"


def test_class_only_computes_no_other_query():
    """Counted: what class_only saves is the queries of all patches, and nothing else is done."""
    N = 9
    macs = {}
    for class_only in (False, True):
        with FlopCounterMode(display=False) as counter:
            P2V(WIDTH, 2)(torch.randn(1, 1, 1 + N, WIDTH), torch.ones(1, 1, N),
                          class_only=class_only)
        macs[class_only] = counter.get_total_flops() // 2

    query_and_out_proj = 2 * WIDTH * WIDTH
    scores_and_values = 2 * N * WIDTH
    one_query = query_and_out_proj + scores_and_values
    keys_and_values = 2 * N * WIDTH * WIDTH
    assert macs[True] == keys_and_values + one_query
    assert macs[False] == keys_and_values + (1 + N) * one_query


# ---- Eq. (2) -------------------------------------------------------------------------------------

def v2p_of(group=False):
    """A V2P of random weights, float64."""
    torch.manual_seed(4)
    return stir(V2P(WIDTH, 2, group).double()).requires_grad_(False)


def asking(module, z_p):
    """The 1 + J queries of one frame: its joints, and the class token + the learned background."""
    background = z_p[0] + module.background
    tokens = torch.cat([background[None], z_p[1:]])
    return module.query(norm(tokens, module.ln_pose))


def loop_v2p(module, z_p, z_v):
    """Eq. (2) of one frame, query by query: z_p (1 + J, d), z_v (Nv, d) -> z_p^R (1 + J, d)."""
    q = asking(module, z_p)
    k = module.key(norm(z_v, module.ln_video))
    v = module.value(norm(z_v, module.ln_video))
    refined = z_p.clone()
    for j in range(len(z_p)):
        mixed = []
        for head in HEADS:
            shares = softmax(scores_of(q[j, head], k[:, head]))
            mixed.append(weighted_sum(shares, v[:, head]))
        refined[j] = z_p[j] + module.out_proj(torch.cat(mixed))
    return refined


def loop_grouping(module, z_p, z_v):
    """D31 of one frame: as loop_v2p, but each pixel is shared out over the queries."""
    q = asking(module, z_p)
    k = module.key(norm(z_v, module.ln_video))
    v = module.value(norm(z_v, module.ln_video))
    refined = z_p.clone()
    parts = []
    for head in HEADS:
        # shares[n][j]: what token j takes of pixel n. A pixel's shares sum to 1.
        shares = [softmax(scores_of(k[n, head], q[:, head])) for n in range(len(z_v))]
        means = []
        for j in range(len(z_p)):
            taken = [shares[n][j] for n in range(len(z_v))]
            means.append(weighted_sum(taken, v[:, head]) / sum(taken))
        parts.append(torch.stack(means))                  # (1 + J, c)
    for j in range(len(z_p)):
        refined[j] = z_p[j] + module.out_proj(torch.cat([part[j] for part in parts]))
    return refined


def matches_loops(module, loop, seed, B, J, Tv, N):
    """V2P of random tokens is what `loop` gives for each video frame; all others stay."""
    T = 2 * Tv
    index = [2 * i + 1 for i in range(Tv)]
    z_p = randn(seed, B, T, J + 1, WIDTH)
    z_v = randn(seed + 1, B, Tv, N + 1, WIDTH)
    got = module(z_p, z_v, torch.tensor(index))
    for b in range(B):
        for t in range(T):
            if t not in index:
                close(got[b, t], z_p[b, t], tol=0, why="a frame without a picture must stay")
                continue
            want = loop(module, z_p[b, t], z_v[b, index.index(t)])
            close(got[b, t], want, why=f"tokens of clip {b}, frame {t}")


@pytest.mark.eq2
@given(seeds, sizes, sizes, st.integers(1, 3), sizes)
def test_v2p_matches_loops(seed, B, J, Tv, N):
    """Eq. (2): each joint of a frame shares itself out over that frame's video tokens."""
    matches_loops(v2p_of(), loop_v2p, seed, B, J, Tv, N)


@pytest.mark.eq2
@given(seeds, sizes, sizes, st.integers(1, 3), sizes)
def test_v2p_grouping_matches_loops(seed, B, J, Tv, N):
    """D31: each pixel shares itself out over the 1 + J tokens, and each takes its pixels' mean."""
    matches_loops(v2p_of(group=True), loop_grouping, seed, B, J, Tv, N)


@pytest.mark.eq2
def test_only_a_grouping_background_takes_from_the_joints():
    """As printed a query does not know of others; grouped, a background that wants a pixel wins."""
    k = randn(0, 2, 5, 8)
    q = randn(1, 2, 3, 8)
    wanting = q.clone()
    wanting[:, 0] = 9.0 * k[:, 0]                         # the background now wants pixel 0
    v = torch.eye(5).double().expand(2, -1, -1)           # so that what comes out are the shares

    printed = F.scaled_dot_product_attention
    assert torch.equal(printed(q, k, v)[:, 1:], printed(wanting, k, v)[:, 1:])

    before = readings.group_pixels(q, k, v)
    after = readings.group_pixels(wanting, k, v)
    assert (after[:, 1:, 0] < before[:, 1:, 0]).all(), "the joints keep their shares of pixel 0"
    close(after.sum(-1), torch.ones(2, 3).double(), why="each token takes a mean")


@pytest.mark.eq2
def test_a_joint_that_no_pixel_chose_stays_finite():
    """A background that wins every pixel by far leaves the joints with 0 of nothing, not NaN."""
    k = randn(0, 2, 5, 8).abs().float()
    q = torch.full((2, 3, 8), -1e4)
    q[:, 0] = 1e4
    mixed = readings.group_pixels(q, k, torch.eye(5).expand(2, -1, -1))
    assert mixed.isfinite().all()


def v2p_inputs():
    """z_p of 4 frames and 2 joints, z_v of 2 frames and 4 patches, and where those stand."""
    return randn(0, 2, 4, 3, WIDTH), randn(1, 2, 2, 5, WIDTH), torch.tensor([1, 3])


@pytest.mark.eq2
@pytest.mark.parametrize("group", [False, True])
def test_v2p_starts_as_identity(group):
    """Before training V2P changes nothing."""
    z_p, z_v, index = v2p_inputs()
    fresh = V2P(WIDTH, 2, group).double()
    close(fresh(z_p, z_v, index), z_p, tol=0, why="out_proj starts at zero")


@pytest.mark.eq2
@pytest.mark.parametrize("group", [False, True])
def test_v2p_gradients(group):
    """Slopes by autograd are those of small steps, for the tokens of pose and of video."""
    module = v2p_of(group)
    z_p, z_v, index = v2p_inputs()

    def run(pose_tokens, video_tokens):
        return module(pose_tokens, video_tokens, index)

    inputs = (z_p[:1].requires_grad_(), z_v[:1].requires_grad_())
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


# ---- Eq. (3) -------------------------------------------------------------------------------------

def loop_nt_xent(z, refined, tau):
    """Eq. (3), clip by clip: its own part of the sum of its row, and of that of its column."""
    def power(a, b):
        return math.exp(float(F.cosine_similarity(a, b, dim=0)) / tau)

    B = len(z)
    total = 0.0
    for i in range(B):
        itself = power(z[i], refined[i])
        row = sum(power(z[i], refined[j]) for j in range(B))
        column = sum(power(z[j], refined[i]) for j in range(B))
        total -= (math.log(itself / row) + math.log(itself / column)) / 2
    return total / B


@pytest.mark.eq3
@given(seeds, st.integers(1, 5), st.floats(0.05, 2.0))
def test_nt_xent_matches_loops(seed, B, tau):
    """Eq. (3) by loops; the order of clips does not count; a clip alone has nothing to lose."""
    z = randn(seed, B, 8)
    refined = randn(seed + 1, B, 8)
    got = nt_xent(z, refined, tau)
    close(got, number(loop_nt_xent(z, refined, tau)), tol=1e-7, why="Eq. (3)")
    close(nt_xent(z.flip(0), refined.flip(0), tau), got, why="the order of the clips counts")
    assert got >= 0
    if B == 1:
        assert got == 0


@pytest.mark.eq3
def test_nt_xent_gradients():
    """Slopes are those of small steps, for both sides (D8: neither is cut off) and for tau."""
    z = randn(0, 3, 4).requires_grad_()
    refined = randn(1, 3, 4).requires_grad_()
    tau = number(0.3).requires_grad_()
    assert torch.autograd.gradcheck(nt_xent, (z, refined, tau))


# ---- Eq. (4) -------------------------------------------------------------------------------------

def soft_maximum(values, tau):
    """The sum of values, each by its share in a softmax of values / tau."""
    top = max(values)
    shares = softmax([(value - top) / tau for value in values])
    return weighted_sum(shares, values)


def loop_frame_word(frames, words, tau):
    """Eq. (4) of one clip and one text, entry by entry: frames (T, e), words (W, e)."""
    A = [[float(F.cosine_similarity(frame, word, dim=0)) for word in words] for frame in frames]
    columns = zip(*A)
    per_word = [soft_maximum(column, tau) for column in columns]
    per_frame = [soft_maximum(row, tau) for row in A]
    return (soft_maximum(per_word, tau) + soft_maximum(per_frame, tau)) / 2


@pytest.mark.eq4
@given(seeds, sizes, sizes, sizes, st.integers(1, 5), st.sampled_from([0.01, 0.1, 1.0]))
def test_frame_word_matches_loops(seed, B, T, K, W, tau):
    """S_FW of Eq. (4) is what loops over frames and words give."""
    frames = randn(seed, B, T, 8)
    words, mask = draw_words(seed + 1, K, W)
    got = frame_word_similarity(frames, words, mask, tau)
    for b in range(B):
        for k in range(K):
            want = loop_frame_word(frames[b], words[k, mask[k]], tau)
            close(got[b, k], number(want), tol=1e-7, why=f"clip {b} and text {k}")


@pytest.mark.eq4
@given(seeds, st.integers(2, 6))
def test_frame_word_invariances(seed, W):
    """What may not count: padding, the order of words and of frames, the other clips."""
    frames = randn(seed, 2, 3, 8)
    words, mask = draw_words(seed, 2, W)
    got = frame_word_similarity(frames, words, mask)

    padding = randn(seed + 9, 2, W, 8) * 50
    padded = torch.where(mask[..., None], words, padding)
    close(frame_word_similarity(frames, padded, mask), got, why="a masked token counts")

    close(frame_word_similarity(frames, words.flip(1), mask.flip(1)), got,
          why="the order of words counts")
    close(frame_word_similarity(frames.flip(1), words, mask), got, why="the order of frames counts")
    close(frame_word_similarity(frames[1:], words, mask), got[1:], why="another clip counts")
    assert got.abs().max() <= 1 + 1e-9, "a similarity beyond 1"


@pytest.mark.eq4
def test_frame_word_corner_cases():
    """A text without words is 0, one of one word the soft maximum over frames; no NaN behind it."""
    frames = randn(0, 1, 3, 8).requires_grad_()
    words = randn(1, 2, 4, 8)
    mask = torch.tensor([[False, False, False, False], [False, True, False, False]])
    got = frame_word_similarity(frames, words, mask)

    assert got[0, 0] == 0, "a text without words"
    A = F.cosine_similarity(frames[0], words[1, 1], dim=-1).tolist()
    close(got[0, 1].detach(), number(soft_maximum(A, tau=0.01)), tol=1e-7, why="one word")

    got.sum().backward()
    assert frames.grad.isfinite().all(), "a text without words spoils the gradient"


@pytest.mark.eq4
def test_frame_word_gradients():
    """Slopes by autograd are those of small steps, for frames and for words."""
    mask = torch.tensor([[True, True, True, True], [True, False, True, True]])

    def run(frames, words):
        return frame_word_similarity(frames, words, mask, tau=0.3)

    inputs = (randn(0, 1, 3, 8).requires_grad_(), randn(1, 2, 4, 8).requires_grad_())
    assert torch.autograd.gradcheck(run, inputs)


# ---- Eqs. (5) and (6) ----------------------------------------------------------------------------

# The labels of a batch of up to six clips, of four classes.
batches = st.lists(st.integers(0, 3), min_size=1, max_size=6).map(torch.tensor)


def loop_weights(labels, D):
    """Eq. (5), anchor by anchor: labels, a list of B; D[i][j] of classes -> B lists of B."""
    weights = []
    for own in labels:
        others = [label for label in labels if label != own]
        total = sum(float(D[own, other]) for other in others)
        row = []
        for label in labels:
            if label == own:
                row.append(1.0)
            elif total > 0:
                row.append(len(others) * float(D[own, label]) / total)
            else:
                row.append(1.0)                           # n_i / n_i: all alike
        weights.append(row)
    return weights


def loop_loss(logits, labels, D):
    """Eqs. (5) and (6), entry by entry, in both directions."""
    B = len(labels)
    w = loop_weights(labels, D)
    total = 0.0
    for S in (logits, logits.T):
        for i in range(B):
            powers = [w[i][j] * math.exp(float(S[i, j])) for j in range(B)]
            positives = [j for j in range(B) if labels[j] == labels[i]]
            for j in positives:
                q = 1 / len(positives)
                p = powers[j] / sum(powers)
                total += q * math.log(q / p)
    return total / B / 2


@pytest.mark.eq5
@given(seeds, batches)
def test_weights_match_loops(seed, labels):
    """Eq. (5) by loops: strengths of sum 1, times the number of clips with another label."""
    D = text_discrepancy(randn(seed, 4, 8))
    got = semantic_weights(labels, D)
    close(got, number(loop_weights(labels.tolist(), D)), why="Eq. (5)")

    differ = labels[:, None] != labels[None, :]
    negatives = differ.sum(1).double()
    close((got * differ).sum(1), negatives, why="the mean weight of negatives is not 1")
    assert (got[~differ] == 1).all(), "a clip of the same label has another weight than 1"


@pytest.mark.eq5
@given(seeds)
def test_text_discrepancy_is_a_distance_of_directions(seed):
    """Symmetric, 0 to 2, 0 to itself and to an equal text, and blind to length."""
    sentences = randn(seed, 4, 8)
    D = text_discrepancy(sentences)
    close(D, D.T, why="not symmetric")
    close(D, text_discrepancy(sentences * 7), why="the length of a sentence counts")
    assert (D.diagonal() == 0).all(), "a text differs from itself"
    assert D.min() >= 0 and D.max() <= 2

    equal = sentences[:1].expand(3, -1)
    assert (text_discrepancy(equal) < 1e-12).all(), "equal texts differ"


@pytest.mark.eq6
@given(seeds, batches)
def test_semantic_loss_matches_loops(seed, labels):
    """Eqs. (5) and (6) by loops; never negative; the order of clips does not count."""
    logits = randn(seed, len(labels), len(labels)) * 3
    D = text_discrepancy(randn(seed + 1, 4, 8))
    got = semantic_guided_loss(logits, labels, D)
    close(got, number(loop_loss(logits, labels.tolist(), D)), tol=1e-7, why="Eq. (6)")
    assert got >= -1e-9, "a KL below 0"

    turned = semantic_guided_loss(logits.flip(0, 1), labels.flip(0), D)
    close(turned, got, tol=1e-7, why="the order of the clips counts")


@pytest.mark.eq5
@pytest.mark.eq6
@given(seeds, st.integers(1, 5), st.sampled_from([0.0, 0.7]))
def test_equal_strengths_are_the_plain_contrastive_loss(seed, B, strength):
    """Where all texts differ by the same, or by nothing, Eq. (6) is cross-entropy both ways."""
    logits = randn(seed, B, B)
    labels = torch.arange(B)
    D = torch.full((B, B), strength, dtype=torch.float64)
    plain = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    close(semantic_guided_loss(logits, labels, D), plain, tol=1e-7, why="not the plain loss")


@pytest.mark.eq6
@given(seeds, batches)
def test_same_label_pairs_pull_and_never_push(seed, labels):
    """From equal logits all texts of a clip's label rise, all others fall; and there is an end."""
    D = text_discrepancy(randn(seed, 4, 8))
    same = labels[:, None] == labels[None, :]
    logits = torch.zeros(len(labels), len(labels), dtype=torch.float64, requires_grad=True)
    semantic_guided_loss(logits, labels, D).backward()
    assert (logits.grad[same] <= 1e-12).all(), "a text of the same label is pushed off"
    assert (logits.grad[~same] >= -1e-12).all(), "a text of another label is drawn near"

    perfect = torch.where(same, 0.0, -200.0).double()
    assert semantic_guided_loss(perfect, labels, D) < 1e-9, "the right answer still has a loss"


@pytest.mark.eq6
@pytest.mark.parametrize("labels", [[0], [1, 1, 1], [0, 1, 2, 2]])
@pytest.mark.parametrize("size", [0.0, 100.0, 1e4])
def test_semantic_loss_is_finite_at_the_extremes(labels, size):
    """One clip, one label, equal or huge logits; texts that differ by 0, by 1, or as drawn."""
    labels = torch.tensor(labels)
    discrepancies = {
        "all alike": torch.zeros(4, 4),
        "all unlike": 1 - torch.eye(4),
        "drawn": text_discrepancy(randn(1, 4, 8).float()),
    }
    for name, D in discrepancies.items():
        logits = (randn(0, len(labels), len(labels)).float() * size).requires_grad_()
        loss = semantic_guided_loss(logits, labels, D)
        loss.backward()
        assert loss.isfinite(), f"the loss, texts {name}"
        assert logits.grad.isfinite().all(), f"its gradient, texts {name}"


@pytest.mark.eq6
def test_semantic_loss_gradients():
    """Slopes by autograd are those of small steps."""
    D = text_discrepancy(randn(1, 4, 8))
    labels = torch.tensor([0, 1, 1, 3])

    def run(logits):
        return semantic_guided_loss(logits, labels, D)

    assert torch.autograd.gradcheck(run, (randn(0, 4, 4).requires_grad_(),))


# ---- Eq. (7) -------------------------------------------------------------------------------------

@pytest.mark.eq7
@given(seeds, sizes, sizes, sizes)
def test_predict_averages_views(seed, B, views, K):
    """Eq. (7): the softmax of the mean logits of a clip's views (D19)."""
    logits = randn(seed, B * views, K)
    got = predict(logits, views)
    for b in range(B):
        own = logits[b * views:(b + 1) * views]
        means = [sum(own[:, k].tolist()) / views for k in range(K)]
        close(got[b], number(softmax(means)), tol=1e-7, why=f"clip {b}")


# ---- Sec. 3.1: where the towers start ------------------------------------------------------------

def test_towers_start_as_clip():
    """Before training the tokens of frames and texts are CLIP's, to the bit, and V its mean frame.

    CLIP's own read-out makes the class token alone in the last block: the same up to rounding.
    """
    model = model_of().eval()
    batch = batch_of()
    trunk = model.clip.visual

    frames = pevl.normalise(batch["frames"])                                # (B, Tv, 3, S, S)
    tokens = trunk.transformer(trunk.embed(frames.flatten(0, 1)))           # (B Tv, Nv, d)
    z_v, _ = model.video(frames, trunk)                                     # (B, Tv, Nv, d)
    close(z_v.flatten(0, 1), tokens, tol=0, why="the video tower is not CLIP")

    plain = model.clip.encode_image(frames.flatten(0, 1))                   # (B Tv, e)
    plain = plain.unflatten(0, frames.shape[:2])                            # (B, Tv, e)
    close(model(batch)["video"], plain.mean(1), tol=1e-5, why="V is not the mean frame")

    ours = model.text(model.tokens, model.clip)
    for got, want in zip(ours, model.clip.encode_text(model.tokens), strict=True):
        assert torch.equal(got, want), "the text tower is not CLIP"


def loop_adapter(x, adapter):
    """The change of an adapter, by formula."""
    hidden = F.gelu(F.linear(x, adapter.down.weight, adapter.down.bias))
    return F.linear(hidden, adapter.up.weight, adapter.up.bias)


def loop_block(ours, block, x):
    """An AdaptedBlock by formula, token after token: x (B, T, n, d) -> (B, T, n, d)."""
    B, T, n, _ = x.shape
    adapters = ours.mlp_adapter is not None

    # Temporal: each token looks at itself in the other frames.
    after_time = x.clone()
    if ours.temporal:
        for b in range(B):
            for i in range(n):
                change = block.attn(block.ln_1(x[b, :, i]))                 # (T, d)
                if adapters:
                    change = loop_adapter(change, ours.temporal_adapter)
                after_time[b, :, i] = x[b, :, i] + change

    # Spatial: each frame by itself. Its adapter has a skip, the other two have none.
    after_space = after_time.clone()
    for b in range(B):
        for t in range(T):
            change = block.attn(block.ln_1(after_time[b, t]))               # (n, d)
            if adapters:
                change = change + loop_adapter(change, ours.spatial_adapter)
            after_space[b, t] = after_time[b, t] + change

    # Joint: the MLP, and half an adapter beside it.
    hidden = block.ln_2(after_space)
    out = after_space + block.mlp(hidden)
    if adapters:
        out = out + 0.5 * loop_adapter(hidden, ours.mlp_adapter)
    return out


@pytest.mark.parametrize("temporal", [False, True])
@pytest.mark.parametrize("adapters", [False, True])
def test_adapted_block_by_formula(temporal, adapters):
    """Sec. 3.1: attention over time, in a frame, then the MLP; with their adapters or without."""
    ours = pevl.AdaptedBlock(WIDTH, 0.25, temporal, adapters, drop_path=0.0)
    stir(ours.double()).requires_grad_(False)
    x = randn(0, 2, 3, 5, WIDTH)
    got, weights = ours(x, FROZEN, need_weights=True)
    close(got, loop_block(ours, FROZEN, x), why="the block is not its formula")
    close(weights.sum(-1).double(), torch.ones(2, 3).double(), tol=1e-6,
          why="the class token's shares do not sum to 1")
    assert ours(x, FROZEN)[1] is None, "attention that nobody asked for"


# ---- Fig. 2: the parts in their places -----------------------------------------------------------

def read_video(trunk, z):
    """V (B, e): CLIP's read-out of the class tokens, mean over frames."""
    return trunk.read_out(z[:, :, 0]).mean(1)


def read_pose_frames(trunk, z):
    """F (B, T, e): the mean token of each frame through CLIP's read-out."""
    return trunk.read_out(z.mean(2))


def mask_of(batch, joint_weights, index):
    """M of the frames `index` on the 2 x 2 patches of a small frame."""
    return patch_weight(joint_weights[:, index], batch["keypoints"][:, index],
                        batch["scores"][:, index], grid=2)


def test_forward_is_fig_2():
    """Put together by hand: P2V feeds V; V2P reads the video before P2V, and feeds P and F."""
    model = stir(model_of()).eval()
    batch = batch_of()
    trunk = model.clip.visual
    index = [1, 3]                                        # the middle of each half of T = 4
    assert model.video_index.tolist() == index

    z_v, _ = model.video(pevl.normalise(batch["frames"]), trunk)
    z_p, joint_weights = model.pose(batch["keypoints"], batch["scores"], trunk)
    M = mask_of(batch, joint_weights, index)
    refined_v = model.p2v(z_v, M)
    refined_p = model.v2p(z_p, z_v, torch.tensor(index))
    assert not torch.allclose(refined_v, z_v), "P2V does nothing here: nothing is shown"
    assert not torch.allclose(refined_p, z_p), "V2P does nothing here: nothing is shown"

    pose_frames = read_pose_frames(trunk, refined_p)
    want = {
        "label": batch["label"],
        "video": read_video(trunk, refined_v),
        "video_before": read_video(trunk, z_v),
        "pose_frames": pose_frames,
        "pose": pose_frames.mean(1),
        "pose_before": read_pose_frames(trunk, z_p).mean(1),
    }
    got = model(batch)
    assert set(got) == set(want)
    for name, value in want.items():
        close(got[name], value, tol=1e-5, why=name)


def test_what_the_video_sees_trains_the_pose_tower():
    """M is not cut off from the gradient (D3): V alone moves the pose tower's adapters."""
    model = stir(model_of())
    model(batch_of())["video"].sum().backward()
    for name, p in model.pose.blocks[0].named_parameters():
        learns = p.grad is not None and p.grad.any()
        assert learns, f"{name} of the pose tower learns nothing from V"


def test_discrepancy_comes_from_the_frozen_tower():
    """D13: how texts differ is asked of CLIP alone, and training does not change it."""
    model = model_of()
    before = model.discrepancy.clone()
    sentences, _, _ = model.clip.encode_text(model.tokens)
    close(before, text_discrepancy(sentences), tol=1e-6, why="not the frozen tower's")
    stir(model.text)
    close(model.discrepancy, before, tol=0, why="the text adapters move it")


@pytest.mark.parametrize("adapters", [True, False])
def test_text_tower_by_formula(adapters):
    """Sec. 3.1: attention and MLP of a frozen block, an adapter behind each, then added."""
    model = stir(model_of(text_adapters=adapters))
    clip = model.clip
    x = clip.embed_text(model.tokens)
    causal = clip.causal_mask(model.tokens.shape[1])
    for i, block in enumerate(clip.transformer.resblocks):
        change = block.attn(block.ln_1(x), causal)
        if adapters:
            change = change + loop_adapter(change, model.text.after_attention[i])
        x = x + change
        change = block.mlp(block.ln_2(x))
        if adapters:
            change = change + loop_adapter(change, model.text.after_mlp[i])
        x = x + change
    want = clip.read_text(x, model.tokens)
    for got, right in zip(model.text(model.tokens, clip), want, strict=True):
        close(got, right, tol=1e-5, why="the text tower is not its formula")


def test_a_missing_joint_may_be_no_number():
    """Its learned vector stands in: NaN reaches neither the token nor a gradient."""
    tower = model_of().pose
    batch = batch_of()
    missing = (batch["scores"] == 0)[..., None]
    assert missing.any(), "nothing is shown where no joint is missing"
    tokens = tower.embed(batch["keypoints"].masked_fill(missing, math.nan), batch["scores"])
    tokens.sum().backward()
    assert tokens.isfinite().all()
    assert tower.coordinates.weight.grad.isfinite().all()


def kept_for_backward(job):
    """How many tensors autograd keeps while `job` runs."""
    kept = []

    def keep(x):
        kept.append(x.shape)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        job()
    return len(kept)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_checkpointing_keeps_little_and_changes_no_gradient(half):
    """--grad-checkpointing: blocks run again in backward, as precise, and drop the same paths."""
    plain = stir(model_of(drop_path=0.5)).train()
    again = model_of(drop_path=0.5, grad_checkpointing=True).train()
    again.load_trainable_state(plain.trainable_state())
    found = []
    for model in (plain, again):
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            features = model(batch_of())
        model.losses(features)["total"].backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, grad in found[0].items():
        close(found[1][name], grad, tol=1e-5, why=f"gradient of {name}")

    frames = pevl.normalise(batch_of()["frames"])
    few = kept_for_backward(lambda: again.video(frames, again.clip.visual))
    many = kept_for_backward(lambda: plain.video(frames, plain.clip.visual))
    assert few < many / 4, f"{few} tensors are kept, {many} without"


@pytest.mark.parametrize("reading, moved", [
    ({"literal_mask": True}, {"video"}),
    ({"mask": "log"}, {"video"}),
    ({"v2p_group": True}, {"pose", "pose_frames"})], ids=str)
def test_a_reading_that_is_asked_for_is_built(reading, moved):
    """With the same weights another reading gives other features, of its own modality alone."""
    model = stir(model_of()).eval()
    other = model_of(**reading).eval()
    other.load_trainable_state(model.trainable_state())
    ours = model(batch_of())
    theirs = other(batch_of())
    differ = {name for name in ours if not torch.allclose(ours[name], theirs[name], atol=1e-5)}
    assert differ == moved


def cosines(a, b):
    """Every row of a (B, e) with every row of b (K, e) -> (B, K)."""
    return F.cosine_similarity(a[:, None], b[None, :], dim=-1)


@pytest.mark.parametrize("sgl", [True, False])
def test_losses_are_put_together_as_printed(sgl):
    """Sec. 3.4: L_t of the mean similarity, L_R of both modalities, L_own; their weighted sum."""
    model = stir(model_of(own_loss=0.3, lambda_r=0.7, tau_fw=0.3, sgl=sgl), std=0.1).eval()
    labels = torch.tensor([3, 1, 3, 0, 1])                # no label is its place in the batch
    features = model({**batch_of(B=5), "label": labels})
    text = model.encode_texts()
    scale = model.logit_scale.exp()

    # Eq. (4), its three terms and their mean.
    vs = cosines(features["video"], text["sentences"])
    ps = cosines(features["pose"], text["sentences"])
    fw = frame_word_similarity(features["pose_frames"], text["words"], text["word_mask"], tau=0.3)
    mean = (vs + ps + fw) / 3

    # Eqs. (5) and (6); without the strengths every two labels differ by the same.
    D = torch.ones(4, 4)
    if sgl:
        D = text_discrepancy(model.clip.encode_text(model.tokens)[0])

    def loss(sim):
        return semantic_guided_loss(scale * sim[:, labels], labels, D)

    # Eq. (3), each modality by its own temperature.
    L_R = 0.0
    for name in ("video", "pose"):
        tau = 1 / model.refine_scale[name].exp()
        L_R = L_R + nt_xent(features[f"{name}_before"], features[name], tau)

    want = {"L_t": loss(mean), "L_R": L_R, "L_own": (loss(vs) + loss(ps) + loss(fw)) / 3}
    want["total"] = want["L_t"] + 0.7 * want["L_R"] + 0.3 * want["L_own"]
    got = model.losses(features)
    assert set(got) == set(want)
    for name, value in want.items():
        close(got[name], value, tol=1e-4, why=name)

    logits = model.class_logits(features)
    assert list(logits) == ["all", "vs", "ps", "fw"]
    for name, sim in (("all", mean), ("vs", vs), ("ps", ps), ("fw", fw)):
        close(logits[name], scale * sim, tol=1e-4, why=f"logits of {name}")


def test_attention_maps_are_shares():
    """Before P2V every patch has a share, the class token the rest; after it, the body alone."""
    model = stir(model_of()).eval()
    batch = batch_of()
    batch["scores"][0] = 0                                # a clip without any joint
    maps = model.attention_maps(batch)
    assert maps["before"].min() > 0
    frames = pevl.normalise(batch["frames"])
    _, shares = model.video(frames, model.clip.visual, need_weights=True)
    close(maps["before"], shares[..., 1:], tol=1e-6, why="not the patches of the last block")

    M = maps["patch_weight"]
    has_body = M.amax(-1) > 0
    assert not has_body.all() and has_body.any(), "nothing is shown without both kinds of frame"
    close(maps["after"].sum(-1), has_body.float(), tol=1e-5,
          why="1 where there is a body, 0 where there is none")
    assert (maps["after"][M == 0] == 0).all(), "background is looked at"
