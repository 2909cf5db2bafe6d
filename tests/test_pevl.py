"""The papers' equations against slow loops, their invariances, and the models as wholes.

The equations one fact at a time, with messages for students, are in tests/spec/.
"""
import doctest
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st

import pevl
from clip_model import BACKBONES, CLIP, CLIPConfig, CLIP_MEAN, CLIP_STD
from pevl import (P2V, V2P, Adapter, frame_word_similarity, nt_xent, patch_weight, predict,
                  semantic_guided_loss, semantic_weights, text_discrepancy)
from strategies import published_aim, randn, seeds, sizes
from systems import base, initialisation, readings, vilp
from systems.config import PeVLConfig
from systems.registry import build_model
from systems.vilp import pose_guided_concept_spotting as p_vcs
from tables.rows import ROWS

SMALL = CLIPConfig(embed_dim=16, image_size=20, patch_size=10, vision_width=16, vision_layers=2,
                   vision_heads=2, context_length=32, vocab_size=613, text_width=16, text_heads=2,
                   text_layers=2)
TEXTS = ["Forward, 1.5 somersaults, tuck position", "Back, 2.5 somersaults, pike position",
         "Inward", "Reverse, twist"]


VARIANTS = [{}, {"fusion": "concat"}, {"text": False}, {"pose_input": "heatmaps", "video": False},
            {"grad_checkpointing": True}, {"tune": "all"}, {"own_loss": 0.3}, {"model": "aim"},
            {"mask": "log", "v2p_group": True}, {"p2v_kind": "block"}, {"p2v_after": 1},
            {"p2v_after": 1, "p2v_kind": "block", "grad_checkpointing": True},
            *({"model": "vilp", **more} for more in ({}, {"text": False}, {"gate_raw": True},
                                                     {"video": False}, {"pose": False}))]


@pytest.fixture(autouse=True)
def small_backbone(monkeypatch):
    monkeypatch.setitem(BACKBONES, "tiny", SMALL)


def settings_of(**overrides):
    return PeVLConfig(**{"backbone": "tiny", "image_size": 20, "pose_frames": 4, "video_frames": 2,
                         "tau_fw": 0.1, "drop_path": 0.0, **overrides})


def model_of(seed=0, texts=TEXTS, joints=5, **overrides):
    torch.manual_seed(seed)
    return build_model(settings_of(**overrides), CLIP(SMALL), texts, joints)


def batch_of(B=3, T=4, Tv=2, J=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {"frames": torch.randint(0, 256, (B, Tv, 3, 20, 20), generator=g, dtype=torch.uint8),
            "keypoints": torch.rand(B, T, J, 2, generator=g) * 2.4 - 1.2,
            "scores": (torch.rand(B, T, J, generator=g) > 0.2).float(),
            "label": torch.arange(B) % 3}


def stir(model, seed=1, std=0.3):
    """Away from the zero start, so that every branch counts."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad and p.dim():
                p.add_(torch.randn(p.shape, generator=g, dtype=p.dtype) * std)
    return model


def p2v(module, tokens, weight):
    return module(tokens, weight)


def v2p(module, pose_tokens, video_tokens, index):
    return module(pose_tokens, video_tokens, index)


def close(a, b, tol=1e-9):
    torch.testing.assert_close(a, b, rtol=tol, atol=tol)


@pytest.mark.parametrize("module", [pevl, base, initialisation, readings, vilp],
                         ids=lambda module: module.__name__)
def test_worked_examples_come_out_as_printed(module):
    """The small numbers in the docstrings of Eqs. (1) to (7) and of ViLP's gate."""
    found = doctest.testmod(module, extraglobs={"torch": torch, "F": F})
    assert found.failed == 0 and found.attempted >= 1


@pytest.mark.parametrize("name", ["patch_weight", "masked_softmax", "V2P", "nt_xent",
                                  "frame_word_similarity", "mean_similarity", "semantic_weights",
                                  "semantic_guided_loss", "predict"])
def test_every_equation_has_a_worked_example(name):
    assert ">>> " in getattr(pevl, name).__doc__


# ---- Eq. (1) -------------------------------------------------------------------------------------

def draw_pose(seed, B, T, J, missing=0.3):
    g = torch.Generator().manual_seed(seed)
    scores = (torch.rand(B, T, J, generator=g) > missing).double()
    weights = torch.rand(B, T, J, generator=g).double() + 0.01
    return weights, torch.rand(B, T, J, 2, generator=g).double() * 2.6 - 1.3, scores


@pytest.mark.eq1
@given(seeds, sizes, sizes, sizes, st.integers(1, 5))
def test_patch_weight_matches_loops(seed, B, T, J, grid):
    w, xy, scores = draw_pose(seed, B, T, J)
    got = patch_weight(w, xy, scores, grid)
    w, xy, scores = w.tolist(), xy.tolist(), scores.tolist()
    for b in range(B):
        for t in range(T):
            visible = sum(w[b][t][j] for j in range(J) if scores[b][t][j] > 0)
            M = [0.0] * (grid * grid)
            for j in range(J):
                x, y = xy[b][t][j]
                if scores[b][t][j] > 0 and abs(x) <= 1 and abs(y) <= 1:
                    column, row = (min(int((v + 1) / 2 * grid), grid - 1) for v in (x, y))
                    M[row * grid + column] += w[b][t][j] / visible
            top = max(M)
            want = [m / top if top else 0.0 for m in M]
            close(got[b, t], torch.tensor(want, dtype=torch.float64))


def p2v_of(d=16, heads=2, **kw):
    torch.manual_seed(3)
    return stir(P2V(d, heads, **kw).double()).requires_grad_(False)


READINGS = [{}, {"literal_mask": True}, {"mask": "log"}, {"kind": "block"},
            {"kind": "block", "mask": "log"}]


def loop_mlp(x, block):
    """x + 0.7 MLP(LN2(x)) of one token by formula, 0.7 the gate of the test below."""
    hidden = block.mlp.c_fc(F.layer_norm(x, (16,), block.ln_2.weight, block.ln_2.bias))
    return x + 0.7 * block.mlp.c_proj(hidden * torch.sigmoid(1.702 * hidden))


@pytest.mark.eq1
@pytest.mark.parametrize("reading", READINGS, ids=str)
@given(seed=seeds, B=sizes, T=sizes, N=st.integers(1, 6))
def test_p2v_matches_loops(reading, seed, B, T, N):
    """Eq. (1) in its readings; kind="block" ends in CLIP's MLP for the tokens that looked."""
    module, z = p2v_of(**reading), randn(seed, B, T, N + 1, 16)
    frozen = CLIP(SMALL).double().visual.transformer.resblocks[-1].requires_grad_(False)
    M = torch.rand(B, T, N, generator=torch.Generator().manual_seed(seed)).double()
    M = torch.where(M > 0.5, M, 0.0)
    is_block, literal = "kind" in reading, "literal_mask" in reading
    if is_block:
        module.gate.fill_(0.7)
        got = module(z, M, frozen)
    else:
        got = p2v(module, z, M)
    share = module(z, M, frozen, need_weights=True)[1]
    x = F.layer_norm(z, (16,), module.ln.weight, module.ln.bias)
    q, k, v = module.query(x), module.key(x), module.value(x)
    for b in range(B):
        for t in range(T):
            body = [n for n in range(N) if M[b, t, n] > 0]
            keys = list(range(N)) if literal else body
            for i in range(N + 1):
                if not body or (i > 0 and i - 1 not in body):
                    close(got[b, t, i], z[b, t, i], 0)                       # + I: passes through
                    continue
                mixed, shares = [], torch.zeros(N, dtype=torch.float64)
                for h in (slice(0, 8), slice(8, 16)):
                    score = lambda n: float(q[b, t, i, h] @ k[b, t, n + 1, h]) / math.sqrt(8)
                    if reading.get("mask") == "log":
                        e = [math.exp(score(n)) * float(M[b, t, n]) for n in keys]
                    else:
                        e = [math.exp(score(n) * float(M[b, t, n])) for n in keys]
                    mixed.append(sum(a / sum(e) * v[b, t, n + 1, h] for a, n in zip(e, keys)))
                    for a, n in zip(e, keys):
                        shares[n] += a / sum(e) / 2
                want = z[b, t, i] + module.out_proj(torch.cat(mixed))
                close(got[b, t, i], loop_mlp(want, frozen) if is_block else want)
                if i == 0:
                    close(share[b, t], shares)
                    close(share[b, t].sum(), torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.eq1
@given(seeds, st.floats(0.1, 0.4), st.floats(0.5, 1.0))
def test_more_weight_takes_more_by_log_and_less_of_a_negative_score_by_product(seed, little, much):
    """D4, for two patches of equal score: log rises with M always, the product with the sign."""
    for score in (-abs(float(randn(seed, 1))) - 0.1, abs(float(randn(seed, 1))) + 0.1):
        scores, M = torch.full((1, 2), score).double(), torch.tensor([[little, much]]).double()
        by_product = pevl.masked_softmax(scores, M)[0]
        by_log = pevl.masked_softmax(scores, M, mask="log")[0]
        assert by_log[1] > by_log[0] and (by_product[1] > by_product[0]) == (score > 0)
        close(by_log, M[0] / M.sum())


@pytest.mark.eq1
@given(seeds, sizes)
def test_p2v_starts_as_identity_and_agrees_with_class_only(seed, B):
    z, M = randn(seed, B, 2, 5, 16), torch.rand(B, 2, 4).round().double()
    close(p2v(P2V(16, 2).double(), z, M), z, 0)
    block = CLIP(SMALL).double().visual.transformer.resblocks[0].requires_grad_(False)
    close(P2V(16, 2, kind="block").double()(z, M, block), z, 0)
    for module in (p2v_of(), p2v_of(kind="block")):
        close(module(z, M, block, class_only=True), module(z, M, block)[:, :, :1])
        order = torch.randperm(B)
        close(module(z[order], M[order], block), module(z, M, block)[order])


@pytest.mark.eq1
@pytest.mark.parametrize("mask_kind", ["product", "log"])
def test_p2v_gradients(mask_kind):
    module = p2v_of(mask=mask_kind)
    M = torch.tensor([0.4, 0.9]).double().requires_grad_()           # 0 itself is a jump: absent
    mask = lambda m: torch.cat([m[:1], m.new_zeros(1), m[1:]])[None, None]
    z = randn(0, 1, 1, 4, 16).requires_grad_()
    assert torch.autograd.gradcheck(lambda z, m: p2v(module, z, mask(m)), (z, M), fast_mode=True)


@pytest.mark.eq1
@pytest.mark.parametrize("scores, xy", [(0.0, 0.3), (1.0, 0.3), (1.0, 5.0), (1.0, float("nan"))])
def test_extreme_poses_stay_finite(scores, xy):
    M = patch_weight(torch.full((1, 2, 5), 1e-30), torch.full((1, 2, 5, 2), xy),
                     torch.full((1, 2, 5), scores), 2)
    assert M.isfinite().all() and M.min() >= 0 and M.max() <= 1
    M.requires_grad_()
    for reading in ({}, {"mask": "log"}):
        refined = p2v(p2v_of(**reading).float(), torch.randn(1, 2, 5, 16), M)
        M.grad = None
        refined.sum().backward()
        assert refined.isfinite().all() and M.grad.isfinite().all()


# ---- Eq. (2) -------------------------------------------------------------------------------------

def v2p_of(**kw):
    torch.manual_seed(4)
    return stir(V2P(16, 2, **kw).double()).requires_grad_(False)


@pytest.mark.eq2
@given(seeds, sizes, sizes, st.integers(1, 3), sizes)
def test_v2p_matches_loops(seed, B, J, Tv, N):
    T, index = 2 * Tv, [2 * i + 1 for i in range(Tv)]
    module, zp, zv = v2p_of(), randn(seed, B, T, J + 1, 16), randn(seed + 1, B, Tv, N + 1, 16)
    got = v2p(module, zp, zv, torch.tensor(index))
    norm = lambda x, ln: F.layer_norm(x, (16,), ln.weight, ln.bias)
    k, v = (f(norm(zv, module.ln_video)) for f in (module.key, module.value))
    for b in range(B):
        for t in range(T):
            if t not in index:
                close(got[b, t], zp[b, t], 0)
                continue
            i = index.index(t)
            for j in range(J + 1):
                asking = zp[b, t, j] + (module.background if j == 0 else 0)
                q, mixed = module.query(norm(asking, module.ln_pose)), []
                for h in (slice(0, 8), slice(8, 16)):
                    e = [math.exp(float(q[h] @ k[b, i, n, h]) / math.sqrt(8)) for n in range(N + 1)]
                    mixed.append(sum(a / sum(e) * v[b, i, n, h] for n, a in enumerate(e)))
                close(got[b, t, j], zp[b, t, j] + module.out_proj(torch.cat(mixed)))


@pytest.mark.eq2
@given(seeds, sizes, sizes, st.integers(1, 3), sizes)
def test_v2p_grouping_matches_loops(seed, B, J, Tv, N):
    """D31: each pixel shares itself out over the 1 + J tokens, and each takes its pixels' mean."""
    T, index = 2 * Tv, [2 * i + 1 for i in range(Tv)]
    module = v2p_of(group=True)
    zp, zv = randn(seed, B, T, J + 1, 16), randn(seed + 1, B, Tv, N + 1, 16)
    got = v2p(module, zp, zv, torch.tensor(index))
    norm = lambda x, ln: F.layer_norm(x, (16,), ln.weight, ln.bias)
    k, v = (f(norm(zv, module.ln_video)) for f in (module.key, module.value))
    for b in range(B):
        for t in range(T):
            if t not in index:
                close(got[b, t], zp[b, t], 0)
                continue
            i, mixed = index.index(t), [[] for _ in range(J + 1)]
            q = [module.query(norm(zp[b, t, j] + (module.background if j == 0 else 0),
                                   module.ln_pose)) for j in range(J + 1)]
            for h in (slice(0, 8), slice(8, 16)):
                share = [[0.0] * (N + 1) for _ in range(J + 1)]
                for n in range(N + 1):                                       # a pixel is shared out
                    e = [math.exp(float(q[j][h] @ k[b, i, n, h]) / math.sqrt(8))
                         for j in range(J + 1)]
                    for j in range(J + 1):
                        share[j][n] = e[j] / sum(e)
                for j in range(J + 1):                                       # a token takes a mean
                    total = sum(share[j][n] * v[b, i, n, h] for n in range(N + 1))
                    mixed[j].append(total / sum(share[j]))
            for j in range(J + 1):
                close(got[b, t, j], zp[b, t, j] + module.out_proj(torch.cat(mixed[j])))


@pytest.mark.eq2
def test_only_a_grouping_background_takes_from_the_joints():
    """As printed a query does not know of others; grouped, a strong background empties a joint."""
    torch.manual_seed(0)
    k = torch.randn(2, 5, 8)
    q = torch.randn(2, 3, 8)
    other = q.clone()
    other[:, 0] = 9.0 * k[:, 0]                          # the background now wants pixel 0
    v = torch.eye(5)[None].expand(2, -1, -1)             # so that what comes out are the shares
    printed = F.scaled_dot_product_attention
    assert torch.equal(printed(q, k, v)[:, 1:], printed(other, k, v)[:, 1:])
    before = readings.group_pixels(q, k, v)
    after = readings.group_pixels(other, k, v)
    assert (after[:, 1:, 0] < before[:, 1:, 0]).all()
    close(after.sum(-1), torch.ones(2, 3), 1e-5)
    far = torch.full_like(q, -1e4)
    far[:, 0] = 1e4
    assert readings.group_pixels(far, k.abs(), v).isfinite().all()       # joints that get nothing


@pytest.mark.eq2
@pytest.mark.parametrize("group", [False, True])
def test_v2p_starts_as_identity_and_has_gradients(group):
    zp, zv, index = randn(0, 2, 4, 3, 16), randn(1, 2, 2, 5, 16), torch.tensor([1, 3])
    close(v2p(V2P(16, 2, group).double(), zp, zv, index), zp, 0)
    module, inputs = v2p_of(group=group), (zp[:1].requires_grad_(), zv[:1].requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: v2p(module, a, b, index), inputs,
                                    fast_mode=True)


# ---- The start of UCMR ---------------------------------------------------------------------------

@pytest.mark.eq1
@pytest.mark.eq2
def test_refinement_asks_from_the_first_step_as_the_last_block_does():
    """P2V with M = 1 shares out as CLIP's last block does over patches, V2P as over its tokens."""
    torch.manual_seed(0)
    model, z = model_of(), torch.randn(2, 2, 5, 16)
    block = stir(CLIP(SMALL)).visual.transformer.resblocks[-1]
    initialisation.start_from_block(model.p2v, block)
    initialisation.start_from_block(model.v2p, block)
    no_class = torch.ones(5, 5, dtype=torch.bool)
    no_class[:, 0] = False
    want = block.attn(block.ln_1(z), no_class, need_weights=True)[1][..., 1:]
    close(model.p2v(z, torch.ones(2, 2, 4), need_weights=True)[1], want, 1e-5)
    with torch.no_grad():                     # behind the block's own out_proj V2P is its attention
        model.v2p.out_proj.load_state_dict(block.attn.out_proj.state_dict())
    got = model.v2p(z, z, torch.tensor([0, 1]))
    close(got, z + block.attn(block.ln_1(z)), 1e-5)


def deeper(monkeypatch, **overrides):
    """A model of three blocks, whose weights and layer norms all differ."""
    sizes = replace(SMALL, vision_layers=3)
    monkeypatch.setitem(BACKBONES, "tiny", sizes)
    torch.manual_seed(0)
    return build_model(settings_of(**overrides), stir(CLIP(sizes)), TEXTS, 5)


@pytest.mark.parametrize("reads, overrides", [
    (2, {}), (2, {"tune": "all"}), (2, {"p2v_kind": "block"}), (2, {"v2p_group": True}),
    (2, {"p2v_after": 3}), (1, {"p2v_after": 1}), (2, {"p2v_after": 2, "p2v_kind": "block"})])
def test_refinement_starts_from_the_trunk_and_leaves_it(reads, overrides, monkeypatch):
    """Copies, not the same tensors: P2V of the block that it stands before, else the last. Until
    the first step the model is CLIP, to the last bit."""
    model, batch = deeper(monkeypatch, **overrides), batch_of()
    blocks = model.clip.visual.transformer.resblocks
    for part, frozen in ((model.p2v, blocks[reads]), (model.v2p, blocks[2])):
        ours = torch.cat([part.query.weight, part.key.weight, part.value.weight])
        assert torch.equal(ours, frozen.attn.in_proj_weight)
        assert part.query.weight.requires_grad
        assert part.query.weight.data_ptr() != frozen.attn.in_proj_weight.data_ptr()
        for norm in part.children():
            if isinstance(norm, torch.nn.LayerNorm):
                assert torch.equal(norm.weight, frozen.ln_1.weight)
    features = model.eval()(batch)
    assert torch.equal(features["video"], features["video_before"])
    assert torch.equal(features["pose"], features["pose_before"])


@pytest.mark.parametrize("kind", ["attention", "block"])
@pytest.mark.parametrize("place", [1, 2, 3])
def test_p2v_stands_where_it_is_told_to(place, kind, monkeypatch):
    """By hand: blocks up to the place, P2V, the blocks behind it again; V2P reads the first pass."""
    model = stir(deeper(monkeypatch, p2v_after=place, p2v_kind=kind)).eval()
    batch, trunk, index = batch_of(), model.clip.visual, [1, 3]
    batch["scores"][0] = 0                               # a clip without any joint
    blocks = trunk.transformer.resblocks
    z = trunk.embed(pevl.normalise(batch["frames"]).flatten(0, 1)).unflatten(0, (3, 2))
    for n in range(place):
        z, _ = model.video.blocks[n](z, blocks[n])
    z_p, w = model.pose(batch["keypoints"], batch["scores"], trunk)
    M = patch_weight(w[:, index], batch["keypoints"][:, index], batch["scores"][:, index], 2)
    refined = model.p2v(z, M, blocks[min(place, 2)])
    for n in range(place, 3):
        z, _ = model.video.blocks[n](z, blocks[n])
        refined, _ = model.video.blocks[n](refined, blocks[n])
    read = lambda tokens: trunk.read_out(tokens[:, :, 0]).mean(1)
    got = model(batch)
    close(got["video"], read(refined), 1e-5)
    close(got["video_before"], read(z), 1e-5)
    close(got["pose"], trunk.read_out(v2p(model.v2p, z_p, z, torch.tensor(index)).mean(2)).mean(1),
          1e-5)
    close(got["video"][0], got["video_before"][0], 1e-6)         # nothing to look at: as it was
    assert not torch.allclose(got["video"][1:], got["video_before"][1:], atol=1e-2)
    assert model.attention_maps(batch)["after"].shape == M.shape


# ---- Eq. (3) -------------------------------------------------------------------------------------

@pytest.mark.eq3
@given(seeds, st.integers(1, 5), st.floats(0.05, 2.0))
def test_nt_xent_matches_loops(seed, B, tau):
    z, r = randn(seed, B, 8), randn(seed + 1, B, 8)
    cos = lambda a, b: float(a @ b / a.norm() / b.norm())
    total = 0.0
    for i in range(B):
        rows = sum(math.exp(cos(z[i], r[j]) / tau) for j in range(B))
        columns = sum(math.exp(cos(z[j], r[i]) / tau) for j in range(B))
        itself = math.exp(cos(z[i], r[i]) / tau)
        total -= (math.log(itself / rows) + math.log(itself / columns)) / 2
    got = nt_xent(z, r, tau)
    close(got, torch.tensor(total / B, dtype=torch.float64), 1e-7)
    order = torch.randperm(B)
    close(nt_xent(z[order], r[order], tau), got)
    assert got >= 0 and (B > 1 or got == 0)


@pytest.mark.eq3
def test_nt_xent_gradients():
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    z, r = randn(0, 3, 4).requires_grad_(), randn(1, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(nt_xent, (z, r, tau))


# ---- Eq. (4) -------------------------------------------------------------------------------------

def softmax_sum(values, tau):
    top = max(values)
    e = [math.exp((v - top) / tau) for v in values]
    return sum(a * v for a, v in zip(e, values)) / sum(e)


def draw_words(seed, K, W):
    words = randn(seed, K, W, 8)
    mask = torch.zeros(K, W, dtype=torch.bool)
    for i in range(K):
        mask[i, : 1 + (seed + i) % W] = True
    return words, mask


@pytest.mark.eq4
@given(seeds, sizes, sizes, sizes, st.integers(1, 5), st.sampled_from([0.01, 0.1, 1.0]))
def test_frame_word_matches_loops(seed, B, T, K, W, tau):
    frames, (words, mask) = randn(seed, B, T, 8), draw_words(seed + 1, K, W)
    got = frame_word_similarity(frames, words, mask, tau)
    f, w = F.normalize(frames, dim=-1), F.normalize(words, dim=-1)
    for b in range(B):
        for k in range(K):
            A = [[float(f[b, t] @ w[k, n]) for n in range(W) if mask[k, n]] for t in range(T)]
            columns = [[A[t][n] for t in range(T)] for n in range(len(A[0]))]
            s1 = softmax_sum([softmax_sum(column, tau) for column in columns], tau)
            s2 = softmax_sum([softmax_sum(A[t], tau) for t in range(T)], tau)
            close(got[b, k], torch.tensor((s1 + s2) / 2, dtype=torch.float64), 1e-7)


@pytest.mark.eq4
@given(seeds, st.integers(2, 6))
def test_frame_word_invariances(seed, W):
    frames, (words, mask) = randn(seed, 2, 3, 8), draw_words(seed, 2, W)
    got = frame_word_similarity(frames, words, mask)
    garbage = torch.where(mask[..., None], words, randn(seed + 9, 2, W, 8) * 50)
    close(frame_word_similarity(frames, garbage, mask), got)  # masked words change nothing
    order = torch.randperm(W)
    close(frame_word_similarity(frames, words[:, order], mask[:, order]), got)
    close(frame_word_similarity(frames.flip(1), words, mask), got)  # order of frames does not count
    close(frame_word_similarity(frames[1:], words, mask), got[1:])  # alone as in a batch
    assert got.abs().max() <= 1 + 1e-9


@pytest.mark.eq4
def test_frame_word_corner_cases():
    frames, words = randn(0, 1, 3, 8), randn(1, 2, 4, 8)
    mask = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)
    got = frame_word_similarity(frames, words, mask)
    assert got[0, 0] == 0  # a text without words
    A = [float(F.cosine_similarity(frames[0, t], words[1, 1], dim=0)) for t in range(3)]
    close(got[0, 1], torch.tensor(softmax_sum(A, 0.01), dtype=torch.float64), 1e-7)  # one word
    frames.requires_grad_()
    frame_word_similarity(frames, words, mask).sum().backward()
    assert frames.grad.isfinite().all()
    assert torch.autograd.gradcheck(lambda f, w: frame_word_similarity(f, w, ~mask, 0.3),
                                    (frames, words.requires_grad_()))


# ---- Eqs. (5) and (6) ----------------------------------------------------------------------------

def loop_weights(labels, D):
    B, w = len(labels), []
    for i in range(B):
        others = [j for j in range(B) if labels[j] != labels[i]]
        total = sum(float(D[labels[i], labels[j]]) for j in others)
        strength = {j: float(D[labels[i], labels[j]]) / total if total > 0 else 1 / len(others)
                    for j in others}
        w.append([len(others) * strength[j] if j in strength else 1.0 for j in range(B)])
    return w


def loop_loss(logits, labels, D):
    """Eqs. (5), (6) entry by entry, in both directions."""
    B, w, total = len(labels), loop_weights(labels, D), 0.0
    for S in (logits, logits.T):
        for i in range(B):
            Z = sum(w[i][k] * math.exp(float(S[i, k])) for k in range(B))
            positives = [j for j in range(B) if labels[j] == labels[i]]
            for j in positives:
                q, p = 1 / len(positives), w[i][j] * math.exp(float(S[i, j])) / Z
                total += q * math.log(q / p) / B / 2
    return total


batches = st.lists(st.integers(0, 3), min_size=1, max_size=6).map(torch.tensor)


@pytest.mark.eq5
@given(seeds, batches)
def test_weights_match_loops(seed, labels):
    D = text_discrepancy(randn(seed, 4, 8))
    got = semantic_weights(labels, D)
    close(got, torch.tensor(loop_weights(labels.tolist(), D), dtype=torch.float64))
    differ = labels[:, None] != labels[None]
    close((got * differ).sum(1), differ.sum(1).double())  # strengths sum to one, times n_i
    assert (got[~differ] == 1).all()


@pytest.mark.eq5
@given(seeds, batches)
def test_text_discrepancy_is_a_distance_of_directions(seed, labels):
    S = randn(seed, 4, 8)
    D = text_discrepancy(S)
    close(D, D.T)
    close(D, text_discrepancy(S * 7))
    assert (D.diagonal() == 0).all() and D.min() >= 0 and D.max() <= 2
    assert (text_discrepancy(S[:1].expand(3, -1)) < 1e-12).all()                    # equal texts


@pytest.mark.eq6
@given(seeds, batches)
def test_semantic_loss_matches_loops(seed, labels):
    logits, D = randn(seed, len(labels), len(labels)) * 3, text_discrepancy(randn(seed + 1, 4, 8))
    got = semantic_guided_loss(logits, labels, D)
    close(got, torch.tensor(loop_loss(logits, labels.tolist(), D), dtype=torch.float64), 1e-7)
    order = torch.randperm(len(labels))
    close(semantic_guided_loss(logits[order][:, order], labels[order], D), got, 1e-7)
    assert got >= -1e-9


@pytest.mark.eq5
@pytest.mark.eq6
@given(seeds, st.integers(1, 5), st.sampled_from([0.0, 0.7]))
def test_equal_strengths_are_the_plain_contrastive_loss(seed, B, strength):
    logits, labels, target = randn(seed, B, B), torch.arange(B), torch.arange(B)
    plain = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    D = torch.full((B, B), strength, dtype=torch.float64)
    close(semantic_guided_loss(logits, labels, D), plain, 1e-7)


@pytest.mark.eq6
@given(seeds, batches)
def test_same_label_pairs_pull_and_never_push(seed, labels):
    D, same = text_discrepancy(randn(seed, 4, 8)), labels[:, None] == labels[None]
    logits = torch.zeros(len(labels), len(labels), dtype=torch.float64, requires_grad=True)
    semantic_guided_loss(logits, labels, D).backward()
    assert (logits.grad[same] <= 1e-12).all()  # from equal logits all positives rise
    assert (logits.grad[~same] >= -1e-12).all()
    perfect = torch.where(same, 0.0, -200.0).double()
    assert semantic_guided_loss(perfect, labels, D) < 1e-9  # nothing left to gain


@pytest.mark.eq6
@pytest.mark.parametrize("labels", [[0], [1, 1, 1], [0, 1, 2, 2]])
@pytest.mark.parametrize("size", [0.0, 100.0, 1e4])
def test_semantic_loss_is_finite_at_the_extremes(labels, size):
    labels = torch.tensor(labels)
    logits = (torch.randn(len(labels), len(labels)) * size).requires_grad_()
    for D in (torch.zeros(4, 4), 1 - torch.eye(4), text_discrepancy(torch.randn(4, 8))):
        loss = semantic_guided_loss(logits, labels, D)
        loss.backward()
        assert loss.isfinite() and logits.grad.isfinite().all()


@pytest.mark.eq6
def test_semantic_loss_gradients():
    D, labels = text_discrepancy(randn(1, 4, 8)), torch.tensor([0, 1, 1, 3])
    logits = randn(0, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: semantic_guided_loss(s, labels, D), (logits,))


# ---- Eq. (7) -------------------------------------------------------------------------------------

@pytest.mark.eq7
@given(seeds, sizes, sizes, sizes)
def test_predict_averages_views(seed, B, R, K):
    logits = randn(seed, B * R, K)
    got = predict(logits, R)
    for b in range(B):
        mean = [sum(float(logits[b * R + r, k]) for r in range(R)) / R for k in range(K)]
        Z = sum(math.exp(m) for m in mean)
        close(got[b], torch.tensor([math.exp(m) / Z for m in mean], dtype=torch.float64), 1e-7)


# ---- Sec. 3.1 and the model as a whole -----------------------------------------------------------

def test_towers_start_as_clip():
    model, batch = model_of(), batch_of()
    model.eval()
    frames = pevl.normalise(batch["frames"])
    plain = model.clip.encode_image(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
    close(model(batch)["video"], plain.mean(1), 1e-6)
    close(model.clip.visual.read_out(model.video(frames, model.clip.visual)[0][:, :, 0]), plain, 0)
    plain = model.clip.encode_text(model.tokens)
    assert all(map(torch.equal, model.text(model.tokens, model.clip), plain))


@pytest.mark.parametrize("temporal", [False, True])
@pytest.mark.parametrize("adapters", [False, True])
def test_adapted_block_by_formula(temporal, adapters):
    torch.manual_seed(0)
    block, x = CLIP(SMALL).double().visual.transformer.resblocks[0], randn(0, 2, 3, 5, 16)
    ours = stir(pevl.AdaptedBlock(16, 0.25, temporal, adapters, 0.0).double())
    branch = lambda a, x: F.linear(F.gelu(F.linear(x, a.down.weight, a.down.bias)), a.up.weight,
                                   a.up.bias)
    T, S, M = (lambda x: branch(ours.temporal_adapter, x), lambda x: x + branch(
        ours.spatial_adapter, x), lambda x: branch(ours.mlp_adapter, x)) if adapters else (
        lambda x: x, lambda x: x, lambda x: 0.0)
    want = x
    if temporal:
        one = lambda b, n: T(block.attn(block.ln_1(want[b, :, n])))                 # (T, d)
        want = want + torch.stack([torch.stack([one(b, n) for n in range(5)], 1) for b in range(2)])
    want = want + torch.stack([torch.stack([S(block.attn(block.ln_1(want[b, t])))
                                            for t in range(3)]) for b in range(2)])
    want = want + block.mlp(block.ln_2(want)) + 0.5 * M(block.ln_2(want))
    got, weights = ours(x, block, need_weights=True)
    close(got, want)
    close(weights.sum(-1).double(), torch.ones(2, 3, dtype=torch.float64), 1e-6)
    assert ours(x, block)[1] is None


def test_drop_path_drops_whole_clips_and_keeps_the_mean():
    block, x = pevl.AdaptedBlock(8, 0.5, True, True, 0.25), torch.ones(4000, 2, 3, 1)
    torch.manual_seed(0)
    dropped = block.drop_path(x)
    assert {round(float(v), 4) for v in dropped.unique()} == {0.0, 1.3333}
    assert (dropped == dropped[:, :1, :1]).all() and abs(float(dropped.mean()) - 1) < 0.05
    assert torch.equal(block.eval().drop_path(x), x)


def test_a_frozen_branch_has_no_drop_path():
    """Tables 4 and 8: what cannot learn need not be kept from overfitting (D27)."""
    for adapters in (True, False):
        model = model_of(drop_path=0.9, pose_adapters=adapters, video_adapters=adapters)
        stir(model).train()
        batch = {name: x[:1].expand(64, *x.shape[1:]) for name, x in batch_of().items()}
        pose, _ = model.pose(batch["keypoints"], batch["scores"], model.clip.visual)
        video, _ = model.video(pevl.normalise(batch["frames"]), model.clip.visual)
        for tokens in (pose, video):
            alike = torch.allclose(tokens, tokens[:1].expand_as(tokens), atol=1e-4)
            assert alike is not adapters


def test_forward_is_fig_2():
    """Put together by hand: P2V feeds V; V2P reads the video before P2V, and feeds P and F."""
    model, batch = stir(model_of()).eval(), batch_of()
    trunk, index = model.clip.visual, [1, 3]                     # the middle of each half of T = 4
    assert model.video_index.tolist() == index
    z_v, _ = model.video(pevl.normalise(batch["frames"]), trunk)
    z_p, w = model.pose(batch["keypoints"], batch["scores"], trunk)
    M = patch_weight(w[:, index], batch["keypoints"][:, index], batch["scores"][:, index], 2)
    refined_v, refined_p = p2v(model.p2v, z_v, M), v2p(model.v2p, z_p, z_v, torch.tensor(index))
    assert not torch.allclose(refined_v, z_v) and not torch.allclose(refined_p, z_p)
    V, P = (lambda z: trunk.read_out(z[:, :, 0]).mean(1)), (lambda z: trunk.read_out(z.mean(2)))
    want = {"label": batch["label"], "video": V(refined_v), "video_before": V(z_v),
            "pose_frames": P(refined_p), "pose": P(refined_p).mean(1),
            "pose_before": P(z_p).mean(1)}
    got = model(batch)
    assert set(got) == set(want)
    for name, value in want.items():
        close(got[name], value, 1e-5)


def test_what_the_video_sees_trains_the_pose_tower():
    """M is not cut off from the gradient (D3), nor is either side of Eq. (3) (D8)."""
    model, batch = stir(model_of()), batch_of()
    features = model(batch)
    features["video"].sum().backward(retain_graph=True)
    assert all(p.grad.any() for p in model.pose.blocks[0].parameters())
    for name in ("video", "pose"):
        before, after = features[f"{name}_before"], features[name]
        assert all(x.any() for x in torch.autograd.grad(nt_xent(before, after, 0.1), (before, after)))


def test_words_of_the_prompt_are_words():
    """D11: what a prompt adds to a label is masked as little as the label."""
    bare, prompted = (model_of(texts=[text]).encode_texts()["word_mask"].sum()
                      for text in ("somersault", "somersault, a video of action"))
    assert prompted == bare + 5                          # a comma and four words


@pytest.mark.parametrize("sgl", [True, False])
def test_losses_are_put_together_as_printed(sgl):
    model, batch = stir(model_of(own_loss=0.3, sgl=sgl), std=0.1).eval(), batch_of(B=5)
    f, labels, text = model(batch), batch["label"], model.encode_texts()
    cos = lambda a, b: F.cosine_similarity(a[:, None], b[None], dim=-1)
    vs, ps = (cos(f[name], text["sentences"]) for name in ("video", "pose"))
    fw = frame_word_similarity(f["pose_frames"], text["words"], text["word_mask"], 0.1)
    D = text_discrepancy(model.clip.encode_text(model.tokens)[0]) if sgl else torch.ones(4, 4)
    loss = lambda sim: semantic_guided_loss(model.logit_scale.exp() * sim[:, labels], labels, D)
    taus = [1 / model.refine_scale[name].exp() for name in ("video", "pose")]
    L_R = sum(nt_xent(f[f"{n}_before"], f[n], tau) for n, tau in zip(("video", "pose"), taus))
    want = {"L_t": loss((vs + ps + fw) / 3), "L_R": L_R, "L_own": sum(map(loss, (vs, ps, fw))) / 3}
    want["total"] = want["L_t"] + 0.1 * L_R + 0.3 * want["L_own"]
    got = model.losses(f)
    assert set(got) == set(want)
    for name, value in want.items():
        close(got[name], value, 1e-4)
    logits = model.class_logits(f)
    assert list(logits) == ["all", "vs", "ps", "fw"]
    close(logits["all"], model.logit_scale.exp() * (vs + ps + fw) / 3, 1e-4)


def test_temperature_stays_at_most_100_and_keeps_its_gradient():
    scale = torch.nn.Parameter(torch.tensor(4.6052))             # as published: exp is 100.003
    base.inverse_tau(scale).backward()
    assert float(scale.detach().exp()) <= 100.001 and scale.grad > 0


@pytest.mark.parametrize("overrides", VARIANTS, ids=str)
def test_half_precision_features_give_float32_losses(overrides):
    model, batch = stir(model_of(**overrides), std=0.05), batch_of()
    model.eval()
    want = model.losses(model(batch))["total"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = model(batch)
        inside, logits = model.losses(features), model.class_logits(features)["all"]
    if model.config.text and model.config.model != "aim":       # cosines: float32 wherever they are
        assert logits.dtype == torch.float32
    for losses in (inside, model.losses({n: x.float() if x.is_floating_point() else x
                                         for n, x in features.items()})):
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        close(losses["total"], want, 0.05)
    inside["total"].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("modality", [{}, {"video": False}, {"pose": False}])
def test_projection_starts_as_the_mean_of_video_and_pose(modality):
    """[I; I] / 2 where there is a text to meet, I of one alone; a linear head starts at random."""
    model, batch = model_of(fusion="concat", **modality), batch_of()
    features = model.eval()(batch)
    found = [features[name] for name in ("video", "pose") if name in features]
    close(model.concatenated(features), sum(found) / len(found), 1e-6)
    head = model_of(text=False, **modality).projection
    assert head.out_features == len(TEXTS) and len(head.weight.unique()) > 2 * len(TEXTS)


def test_frozen_towers_keep_nothing_for_backward():
    model, batch, kept = model_of(**ROWS["table8/none"].overrides), batch_of(), []
    keep = lambda x: kept.append(x) or x
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model.video(pevl.normalise(batch["frames"]), model.clip.visual)
        model.encode_texts()
    assert not kept


def test_class_only_computes_no_other_query():
    from torch.utils.flop_counter import FlopCounterMode
    macs = {}
    for only in (False, True):
        with FlopCounterMode(display=False) as counter:
            P2V(16, 2)(torch.randn(1, 1, 10, 16), torch.ones(1, 1, 9), class_only=only)
        macs[only] = counter.get_total_flops() // 2
    per_query = 2 * 16 * 16 + 2 * 9 * 16                         # q and out_proj, scores and values
    assert macs[True] == 2 * 9 * 16 * 16 + per_query and macs[False] - macs[True] == 9 * per_query


def test_sizes_at_vit_b_16_are_those_of_table_7():
    """Millions of trained parameters, on the meta device: no memory, no arithmetic."""
    def millions(part):
        return round(sum(p.numel() for p in part.parameters() if p.requires_grad) / 1e6, 2)

    with torch.device("meta"):
        clip = CLIP(BACKBONES["ViT-B/16"])
    model = build_model(PeVLConfig(), clip, TEXTS, 17)
    assert {x.device.type for x in (*model.parameters(), *model.buffers())} == {"meta"}
    parts = {name: millions(part) for name, part in model.parts().items()}
    assert parts == {"CLIP": 0, "video tower": 7.10, "pose tower": 10.70, "text tower": 6.31,
                     "P2V": 2.36, "V2P": 2.37, "temperatures": 0}
    assert millions(model.pose.blocks) == 10.65                  # the rest: joints and their frames
    aim = build_model(PeVLConfig(model="aim", pose_frames=8, video_frames=8), clip, TEXTS * 12)
    assert millions(aim) == 10.70                                  # with ln_post and a head of 48


def test_pose_tokens_by_formula():
    model, batch = stir(model_of()), batch_of(B=2)
    tower, trunk = model.pose.eval(), model.clip.visual
    linear, x = tower.coordinates, torch.zeros(2, 4, 6, 16)
    for b in range(2):
        for t in range(4):
            x[b, t, 0] = trunk.class_embedding + trunk.positional_embedding[0]
            for j in range(5):
                seen = batch["scores"][b, t, j] > 0
                x[b, t, 1 + j] = tower.joint[j] + (linear(batch["keypoints"][b, t, j]) if seen
                                                   else tower.missing)
            x[b, t] += tower.temporal_embedding[t, 0]
    x = trunk.ln_pre(x)
    for ours, frozen in zip(tower.blocks, trunk.transformer.resblocks):
        x, weights = ours(x, frozen, need_weights=True)
    tokens, joint_weights = tower(batch["keypoints"], batch["scores"], trunk)
    close(tokens, x, 1e-5)
    close(joint_weights, weights[:, :, 1:], 1e-5)    # the class token's own share is out


@pytest.mark.parametrize("d", [96, 768])
def test_place_joint_and_time_hold_a_tenth_of_a_pose_token_each(d):
    """At every width, for joints spread like a body in its crop (variance 0.05 of x, 0.15 of y)."""
    sizes = replace(SMALL, vision_width=d, vision_layers=0)
    T, J, starts, share = 32, 17, 20, torch.zeros(3)
    torch.manual_seed(0)
    for _ in range(starts):
        tower = pevl.PoseTower(settings_of(pose_frames=T), sizes, J)
        keypoints = torch.randn(1, T, J, 2) * torch.tensor([0.05, 0.15]).sqrt()
        both = tower.embed(keypoints, torch.ones(1, T, J))[0].detach()
        joint = tower.joint.detach()
        parts = [(both - joint).flatten(0, 1), joint, tower.temporal_embedding[:, 0].detach()]
        variance = torch.stack([x.var(0).sum() for x in parts])
        share += variance / variance.sum() / starts
    assert share.min() > 0.1, f"place, joint, time at d = {d}: {share.tolist()}"
    assert share[0] > 0.5, f"motion lies in the place, which is drowned: {share.tolist()}"
    assert tower.coordinates.bias is None                # equal in all tokens, it would say nothing


def test_pose_tower_starts_without_time_and_adapters_open_it():
    model, batch = model_of(), batch_of()
    moved = {**batch, "keypoints": batch["keypoints"].clone()}
    moved["keypoints"][:, 0] += 0.5
    run = lambda b: model.pose(b["keypoints"], b["scores"], model.clip.visual)[0]
    changed = lambda: (run(batch) - run(moved)).abs().amax((0, 2, 3))
    assert (changed()[1:] == 0).all() and changed()[0] > 0
    stir(model)
    assert (changed()[1:] > 1e-4).all()


def test_frames_start_with_sinusoids_of_their_time():
    """By loops; no two frames alike, of length sqrt(1/2) as if d / 2 waves had deviation d^-0.5."""
    tower = model_of(pose_frames=6).pose
    T, d = tower.temporal_embedding.shape[0], tower.temporal_embedding.shape[2]
    for t in range(T):
        for k in range(d // 2):
            angle = 2 * math.pi * (16 * (k + 1) / d) * t / T
            sine, cosine = tower.temporal_embedding[t, 0, [k, d // 2 + k]].tolist()
            assert sine == pytest.approx(math.sin(angle) / d ** 0.5, abs=1e-5)
            assert cosine == pytest.approx(math.cos(angle) / d ** 0.5, abs=1e-5)
    for T in (32, 48):
        rows = pevl.sinusoids(T, 96)[:, 0]
        assert torch.cdist(rows, rows).fill_diagonal_(1).min() > 0.1
        close(rows.norm(dim=1), torch.full((T,), 0.5 ** 0.5), 1e-5)


def test_missing_joint_is_not_the_point_zero():
    model, batch = model_of(), batch_of()
    there = {**batch, "keypoints": torch.zeros(3, 4, 5, 2), "scores": torch.ones(3, 4, 5)}
    gone = {**there, "scores": torch.zeros_like(batch["scores"])}
    nowhere = {**gone, "keypoints": torch.full_like(batch["keypoints"], 7.0)}
    model.eval()
    pose = lambda b: model(b)["pose"]
    assert not torch.allclose(pose(there), pose(gone))
    close(pose(gone), pose(nowhere), 0)  # its coordinates do not count


@pytest.mark.parametrize("overrides", VARIANTS, ids=str)
def test_alone_as_in_a_batch_and_gradients_reach_everything(overrides):
    model, batch = stir(model_of(**overrides), std=0.1), batch_of()
    model.train()
    losses = model.losses(model(batch))
    losses["total"].backward()
    assert all(loss.isfinite() for loss in losses.values())
    unused = {"clip.visual.proj", "clip.text_projection", "clip.logit_scale"}
    dead = [n for n, p in model.named_parameters()
            if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert set(dead) <= unused, dead
    model.eval()
    logits = lambda b: model.class_logits(model(b))["all"]
    alone = torch.cat([logits({k: v[i: i + 1] for k, v in batch.items()}) for i in range(3)])
    close(logits(batch), alone, 1e-4)


def test_one_clip_and_one_label_and_no_joint_are_legal():
    for change in ({}, {"label": torch.ones(3).long()}, {"scores": torch.zeros(3, 4, 5)}):
        model, batch = model_of(), {**batch_of(), **change}
        for b in (batch, {k: v[:1] for k, v in batch.items()}):
            losses = model.losses(model(b))
            losses["total"].backward()
            assert all(loss.isfinite() for loss in losses.values())
            assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_texts_are_encoded_once_per_label():
    model, seen = model_of(), []
    model.text.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    for B in (2, 6):
        model.losses(model(batch_of(B=B)))
    assert seen == [2, 4]                        # as many as clips, and at most as many as labels


@pytest.mark.parametrize("seed", range(5))
def test_distinct_labels_are_those_of_unique(seed):
    """As `unique` gives them, and label 0 in the places that are left over, to which no clip points."""
    g = torch.Generator().manual_seed(seed)
    K = 1 + 2 * seed
    labels = torch.randint(0, K, (5,), generator=g)
    want, want_column = labels.unique(return_inverse=True)
    distinct, column = base.distinct_labels(labels, K)
    assert torch.equal(distinct[:len(want)], want) and torch.equal(column, want_column)
    assert len(distinct) == min(5, K) and not distinct[len(want):].any()
    assert torch.equal(distinct[column], labels)


def test_trainable_state_round_trip_and_mismatch():
    a, b = stir(model_of()), model_of(seed=5)
    b.clip.load_state_dict(a.clip.state_dict())
    b.load_trainable_state(a.trainable_state())
    close(a.eval()(batch_of())["pose"], b.eval()(batch_of())["pose"], 0)
    assert not any(name.startswith("clip.") for name in a.trainable_state())
    with pytest.raises(ValueError, match="entries differ.*p2v.*Expected.*Use"):
        model_of(p2v=False).load_trainable_state(a.trainable_state())


def test_every_trained_parameter_is_in_one_group():
    for overrides in ({}, {"tune": "all"}, {"model": "vilp"}, {"model": "aim"}, {"text": False}):
        model = model_of(**overrides)
        grouped = [id(p) for g in model.parameter_groups() for p in g["params"]]
        assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_kinds_of_parameters():
    kinds = lambda **more: {g["name"]: g["kind"] for g in model_of(**more).parameter_groups()}
    parts = ("video tower", "pose tower", "text tower", "P2V", "V2P", "temperatures")
    assert kinds() == dict.fromkeys(parts, "new")                # all that PeVL trains is new
    assert kinds(tune="all")["CLIP"] == "trunk"
    assert kinds(model="vilp") == {"CLIP": "trunk", "pose image": "trunk", "temperatures": "new",
                                   "temporal transformer": "new"}
    assert kinds(model="aim") == dict.fromkeys(("video tower", "last norm", "head"), "new")


def test_discrepancy_comes_from_the_frozen_tower():
    model = model_of()
    before = model.discrepancy.clone()
    stir(model.text)
    close(model.discrepancy, before, 0)
    close(before, text_discrepancy(model.clip.encode_text(model.tokens)[0]), 1e-6)


@pytest.mark.parametrize("model, name, shape", [
    ("pevl", "frames", (3, 3, 3, 20, 20)), ("pevl", "keypoints", (3, 4, 7, 2)),
    ("pevl", "scores", (3, 4, 4)), ("pevl", "keypoints", (3, 2, 5, 2)),
    ("vilp", "keypoints", (3, 5, 5, 2)), ("aim", "frames", (3, 2, 1, 20, 20))])
def test_a_batch_of_another_shape_is_refused_by_name(model, name, shape):
    built, batch = model_of(model=model), {**batch_of(), name: torch.zeros(shape)}
    with pytest.raises(ValueError, match=f"{name} has the shape"):
        built(batch)


def test_who_compares_texts_and_who_learns_their_temperature():
    for compares, learns, overrides in (
            (True, True, {}), (False, False, {"text": False}), (True, True, {"model": "vilp"}),
            (False, False, {"model": "aim"}), (True, False, {"model": "clip"})):
        model = model_of(**overrides)
        assert model.compares_texts is compares, overrides
        assert model.logit_scale.requires_grad is learns, overrides


def test_bad_settings_say_what_fits():
    for bad, message in (({"backbone": "ViT-B16"}, "ViT-B/16"), ({"sim": ("vw",)}, "vs, ps, fw"),
                         ({"pose_frames": 7}, "pose_frames=7.*multiple of video_frames=2"),
                         ({"video_frames": 0}, "--video-frames 0. Expected a whole number, 1 to 4,096"), ({"sim": ()}, "ps or fw"),
                         ({"video": False, "pose": False}, "at least one"),
                         ({"video": False, "sim": ("vs",)}, "sim=vs and video=False.*with video"),
                         ({"pose": False, "sim": ("ps", "fw")}, "pose=False.*ps or fw with pose"),
                         ({"pose_input": "heatmaps"}, "--no-video"),
                         ({"model": "aim", "video": False}, "model=aim beside video, .* none of"),
                         ({"model": "vilp", "sim": ("vs",)}, "beside sim, .* video, pose, text"),
                         ({"all_tokens": True}, "model=pevl beside all_tokens"),
                         ({"model": "vilp", "v2p_group": True}, "model=vilp beside v2p_group"),
                         ({"model": "aim", "p2v_after": 1}, "model=aim beside p2v_after"),
                         ({"literal_mask": True, "mask": "log"}, "with mask=product"),
                         ({"p2v_after": 3}, "p2v_after=3.* 1 to 2, the blocks of tiny"),
                         ({"p2v_after": -1}, "--p2v-after -1"),
                         ({"model": "vilp", "grad_checkpointing": True}, "pevl or aim")):
        with pytest.raises(ValueError, match=message):
            settings_of(**bad)


def test_attention_maps_are_shares():
    maps = stir(model_of()).eval().attention_maps(batch_of())
    seen = maps["patch_weight"].amax(-1) > 0
    close(maps["after"].sum(-1), seen.float(), 1e-5)
    assert (maps["before"].sum(-1) <= 1 + 1e-5).all() and maps["before"].min() > 0
    assert (maps["after"][maps["patch_weight"] == 0] == 0).all()


def test_rows_are_the_papers():
    """Tables 4 to 9 typed once more: what is off or other than in PeVL, and the paper's top-1."""
    plain, frozen = "p2v v2p refinement sgl concat", "video_adapters pose_adapters text_adapters"
    table = {
        "table4": {"baseline": (f"pose {plain} {frozen}", 60.2), "pose": (f"{plain} {frozen}", 80.3),
                   "adapters": (plain, 87.3), "ucmr": ("sgl concat", 90.6), "sgmc": ("", 91.9)},
        "table5": {"pevl": ("", 91.9), "no-ucmr": ("p2v v2p refinement", 88.9),
                   "no-p2v": ("p2v", 91.1), "no-v2p": ("v2p", 90.4),
                   "no-refinement": ("refinement", 91.0)},
        "table6": {"ps": ("ps", 91.0), "vs": ("vs", 90.9), "fw": ("fw", 90.9),
                   "ps+vs": ("ps vs", 91.4), "ps+fw": ("ps fw", 91.3), "vs+fw": ("vs fw", 91.4),
                   "all": ("", 91.9), "vanilla": ("sgl", 91.4)},
        "table7": {"v": (f"pose text {plain}", 62.9), "p": (f"video text {plain}", 82.6),
                   "v+p": (f"text {plain}", 86.2), "v+t": (f"pose {plain}", 65.1),
                   "p+t": (f"video {plain}", 83.8), "v+p+t": (plain, 87.3), "pevl": ("", 91.9)},
        "table8": {"none": (frozen, 84.9), "video": ("pose_adapters text_adapters", 85.5),
                   "pose": ("video_adapters text_adapters", 86.4),
                   "text": ("video_adapters pose_adapters", 86.2),
                   "video+pose": ("text_adapters", 87.8), "all": ("", 91.9)},
        "table9": {"heatmap": (f"video text heatmaps {plain}", 80.1),
                   "coordinates": (f"video text {plain}", 82.6)}}
    changed = lambda name, value: (value if name == "sim" else [name] if value is False else
                                   [value] * (value is not True))
    rows = {name: ({word for item in row.overrides.items() for word in changed(*item)}, row.top1)
            for name, row in ROWS.items() if not name.startswith("readings/")}
    assert rows == {f"{t}/{name}": (set(words.split()), top1)
                    for t, found in table.items() for name, (words, top1) in found.items()}


def test_rows_of_readings_are_no_rows_of_the_paper():
    """What our own table changes, and that no figure of the paper stands beside it."""
    ours = {name.removeprefix("readings/"): row for name, row in ROWS.items() if "table" not in name}
    assert {name: row.overrides for name, row in ours.items()} == {
        "pevl": {}, "literal-mask": {"literal_mask": True, "mask": "product"}, "mask-log": {"mask": "log"},
        "p2v-block": {"p2v_kind": "block"}, "v2p-group": {"v2p_group": True}}
    assert {(row.top1, row.gmacs, row.tunable_m) for row in ours.values()} == {(None, None, None)}


@pytest.mark.parametrize("name", ROWS)
def test_row_trains_and_differs_only_where_it_must(name):
    """Two steps, then: a part that is off has no parameters, all others are those of PeVL."""
    torch.manual_seed(0)
    model, batch = model_of(**ROWS[name].overrides), batch_of()
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):
        optimiser.zero_grad()
        model.losses(model(batch))["total"].backward()
        optimiser.step()
    assert model.class_logits(model(batch))["all"].isfinite().all()
    c, top = model.config, lambda m: {n.split(".")[0] for n in m.trainable_state()}
    expected = {"video": c.video and c.video_adapters, "pose": c.pose, "p2v": c.p2v, "v2p": c.v2p,
                "text": c.text and c.text_adapters,
                "refine_scale": c.refinement and (c.p2v or c.v2p),
                "projection": c.fusion == "concat" or not c.text, "logit_scale": c.text}
    assert top(model) == {part for part, on in expected.items() if on}
    full = model_of().trainable_state()
    allowed = ("projection", "pose.heatmaps", "p2v.gate")
    assert all(n in full or n.startswith(allowed) for n in model.trainable_state())


# ---- ViLP and AIM --------------------------------------------------------------------------------

@given(seeds, sizes, sizes, st.integers(1, 3), sizes, st.booleans())
def test_p_vcs_matches_loops(seed, B, T, K, W, with_pose):
    v, p = randn(seed, B, T, 8), randn(seed + 1, B, T, 8)
    (words, mask), s = draw_words(seed + 2, K, W), randn(seed + 3, K, 8)
    got = p_vcs(v, p if with_pose else None, words, s, mask, tau=0.2)
    unit = lambda x: x / x.norm()
    for b in range(B):
        u = [unit(v[b, t]) * (torch.sigmoid(unit(p[b, t])) if with_pose else 1) for t in range(T)]
        for k in range(K):
            video = torch.zeros(8, dtype=torch.float64)
            real = [w for w in range(W) if mask[k, w]]
            for t in range(T):
                share = 0.0
                for w in real:
                    e = [math.exp(float(unit(words[k, w]) @ u[i]) / 0.2) for i in range(T)]
                    share += e[t] / sum(e) / len(real)
                video += share * u[t]
            close(got[b, k], video @ unit(s[k]), 1e-7)


def test_p_vcs_properties():
    v, p, (words, mask) = randn(0, 2, 3, 8), randn(1, 2, 3, 8), draw_words(2, 2, 4)
    s = randn(3, 2, 8)
    got = p_vcs(v, p, words, s, mask)
    order = torch.randperm(4)
    close(p_vcs(v, p, words[:, order], s, mask[:, order]), got)
    close(p_vcs(v, p, torch.where(mask[..., None], words, 9.0), s, mask), got)
    u = F.normalize(v[:, :1], dim=-1) * F.normalize(p[:, :1], dim=-1).sigmoid()
    close(p_vcs(v[:, :1], p[:, :1], words, s, mask), (u @ F.normalize(s, dim=-1).T)[:, 0])
    match = torch.zeros(1, 3, 8, dtype=torch.float64)
    match[0, :, 1], match[0, 2, 0] = 1.0, 5.0  # frame 2 points at the word, and pose opens it
    word, true = torch.eye(8, dtype=torch.float64)[:1], torch.ones(1, 1, dtype=torch.bool)
    one = p_vcs(match, match, word[None], word, true)
    last = p_vcs(match[:, 2:], match[:, 2:], word[None], word, true)
    close(one, last, 1e-6)  # it gets (almost) the whole share
    assert p_vcs(v, p, words, s, mask & False).isfinite().all()


@pytest.mark.parametrize("raw", [False, True])
def test_gate_by_formula(raw):
    v, p, (words, mask) = randn(0, 2, 3, 8), randn(1, 2, 3, 8), draw_words(2, 2, 4)
    unit = lambda x: x / x.norm(dim=-1, keepdim=True)
    u = unit(unit(v) * torch.sigmoid(p)) if raw else unit(v) * torch.sigmoid(unit(p))
    close(vilp.gate(v, p, raw), u)
    s, true = randn(3, 2, 8), (0.01, raw)
    got = vilp.pose_guided_concept_spotting(v[:, :1], p[:, :1], words, s, mask, *true)
    close(got, u[:, 0] @ unit(s).T)                              # one frame gives that frame


def test_vilp_by_parts():
    """Gradients reach both towers and no text; without pose, concept spotting is plain; without
    text a head reads the mean gated frame."""
    model, batch = model_of(model="vilp"), batch_of()
    model.losses(model(batch))["total"].backward()
    assert model.pose.conv1.weight.grad.any() and model.clip.visual.conv1.weight.grad.any()
    assert not any(p.requires_grad for p in model.clip.transformer.parameters())
    model = stir(model_of(model="vilp", pose=False), std=0.05)
    features = model(batch)
    sim = p_vcs(features["frames"], None, **model.encode_texts(), tau=0.1)
    close(model.class_logits(features)["all"], model.logit_scale.exp() * sim, 1e-5)
    model = stir(model_of(model="vilp", text=False), std=0.05)
    features = model(batch)
    u = vilp.gate(features["frames"], features["pose"])
    head = (u[:, 0] + u[:, 1]) / 2 @ model.head.weight.T + model.head.bias
    close(model.class_logits(features)["all"], head, 1e-5)


def test_all_tokens_of_vilp_vote_with_start_end_and_padding():
    """D32: as many as the context has, where else the words alone have a vote."""
    model, batch = stir(model_of(model="vilp", all_tokens=True), std=0.05).eval(), batch_of()
    assert model.tokens.shape[1] == SMALL.context_length > model_of(model="vilp").tokens.shape[1]
    text, features = model.encode_texts(), model(batch)
    everyone = torch.ones(len(TEXTS), SMALL.context_length, dtype=torch.bool)
    sim = p_vcs(features["frames"], features["pose"], text["words"], text["sentences"], everyone, 0.1)
    got = model.class_logits(features)["all"]
    close(got, model.logit_scale.exp() * sim, 1e-5)
    assert not text["word_mask"].all()                   # the texts themselves say what is a word
    model.config = replace(model.config, all_tokens=False)
    assert not torch.allclose(model.class_logits(features)["all"], got, atol=1e-4)


def test_heatmaps_are_of_the_video_frames_and_their_maximum():
    model, batch = model_of(model="vilp"), batch_of(B=1)
    batch["scores"][:] = 0
    batch["scores"][:, :, 0] = 1
    for t, x in enumerate((-0.75, -0.25, 0.25, 0.75)):           # T = 4 pose frames, Tv = 2
        batch["keypoints"][:, t, 0] = torch.tensor([x, 0.0])
    columns = [int(picture[0, 10].argmax()) for picture in model.heatmaps(batch)]
    assert columns == [7, 17]                                    # of x -0.25 and 0.75: frames 1, 3
    single = model.heatmaps(batch)
    batch["scores"][:, :, 1], batch["keypoints"][:, :, 1] = 1, batch["keypoints"][:, :, 0]
    close(model.heatmaps(batch), single, 0)                      # two joints at a point are as one


def test_heatmaps_and_coordinates_agree_on_where_a_joint_is():
    model, batch = model_of(model="vilp"), batch_of()
    batch["scores"][:] = 0
    batch["scores"][:, :, 0], batch["keypoints"][:, :, 0] = 1.0, torch.tensor([0.5, -0.3])
    picture = model.heatmaps(batch)[0, 0]
    row, column = divmod(int(picture.argmax()), 20)
    x, y = ((n + 0.5) / 20 * 2 - 1 for n in (column, row))
    assert abs(x - 0.5) <= 0.1 and abs(y + 0.3) <= 0.1
    grey = picture * CLIP_STD[0] + CLIP_MEAN[0]
    at, sigma = torch.tensor([14.5, 6.5]), 0.4 * model.clip.config.patch_size    # x, y in pixels
    for n, m in ((14, 6), (10, 6), (14, 9), (17, 2)):
        away = ((torch.tensor([n, m]) - at) ** 2).sum()
        assert float(grey[m, n]) == pytest.approx(math.exp(-away / (2 * sigma ** 2)), abs=1e-5)
    tower = model_of(pose_input="heatmaps", video=False).pose    # Table 9: 7 x 7 patches
    with torch.no_grad():
        tower.heatmaps.patches.weight.zero_()[:, 0] = 1.0        # tokens count what joint 0 draws
        tokens = tower.embed(batch["keypoints"], batch["scores"])
        drawn = (tokens - tower.heatmaps.position)[0, 0, :, 0]
    assert divmod(int(drawn.argmax()), 7) == (2, 5)    # x 0.5 is 5.25 patches, y -0.3 2.45


def test_aim_starts_as_clip_reads_the_mean_class_token_and_time_mixes_time_only():
    model, batch = model_of(model="aim"), batch_of()
    frames, trunk = pevl.normalise(batch["frames"]), model.clip.visual
    z, _ = model.video(frames, trunk)
    plain = trunk.transformer(trunk.embed(frames.flatten(0, 1))).unflatten(0, frames.shape[:2])
    close(z, plain, 0)
    classes = F.layer_norm(z[:, :, 0], (16,), trunk.ln_post.weight, trunk.ln_post.bias)
    mean, head = (classes[:, 0] + classes[:, 1]) / 2, model.head
    features = model.eval()(batch)
    close(model.class_logits(features)["all"], mean @ head.weight.T + head.bias, 1e-5)
    model.train()                                                # dropout, in training alone
    assert not torch.equal(*(model.class_logits(features)["all"] for _ in range(2)))
    with torch.no_grad():
        model.video.temporal_embedding[1] += torch.randn(16)
    assert not torch.allclose(model.video(frames, trunk)[0][:, 1], z[:, 1])
    block, x = stir(model).video.blocks[0], torch.randn(1, 3, 5, 16)
    frozen = trunk.transformer.resblocks[0]
    moved = x.clone()
    moved[0, 2, 4] += torch.randn(16)
    change = block.mix_time(moved, frozen) - block.mix_time(x, frozen)
    changed = change.abs().amax(-1)[0] > 1e-6                                   # (frame, patch)
    assert changed[:, 4].all() and not changed[:, :4].any()


def test_aim_published_names_round_trip():
    source, target = stir(model_of(model="aim")), model_of(model="aim", seed=7)
    state = published_aim(source)
    target.load_published(state)
    close(target.eval()(batch_of())["video"], source.eval()(batch_of())["video"], 0)
    state.pop("backbone.ln_post.bias")
    with pytest.raises(ValueError, match="ln_post.bias"):
        target.load_published(state)


def loop_kl(logits, truth):
    """Mean of KL(q || softmax) over rows and columns, q the rows of truth at sum 1."""
    total = 0.0
    for S, Q in ((logits, truth), (logits.T, truth.T)):
        for i in range(len(S)):
            Z = sum(math.exp(float(v)) for v in S[i])
            q = [float(v) / float(Q[i].sum()) for v in Q[i]]
            total += sum(a * math.log(a * Z / math.exp(float(v))) for a, v in zip(q, S[i]) if a)
    return total / len(logits) / 2


def test_temporal_transformer_by_formula():
    mixer, frames = vilp.TemporalTransformer(8, 2, 3).double(), randn(0, 2, 3, 8)
    norm = lambda x, ln: F.layer_norm(x, (8,), ln.weight, ln.bias, eps=1e-12)
    x = frames + mixer.position
    for layer in mixer.layers.layers:
        y = norm(x, layer.norm1)
        x = x + layer.self_attn(y, y, y)[0]
        hidden = layer.linear1(norm(x, layer.norm2))
        x = x + layer.linear2(hidden * torch.sigmoid(1.702 * hidden))
    close(mixer(frames), frames + x)
    assert len(mixer.layers.layers) == 6
    with torch.no_grad():
        close(mixer.eval()(frames), frames + x)


def test_vilp_loss_matches_loops():
    model = stir(model_of(model="vilp"), std=0.05)
    batch = {**batch_of(), "label": torch.tensor([2, 0, 0])}
    features, labels = model(batch), batch["label"]
    logits = model.class_logits(features)["all"][:, labels]                     # all K texts
    truth = torch.exp(10.0 * (labels[:, None] == labels[None]))
    close(float(model.losses(features)["total"].detach()), loop_kl(logits.detach(), truth), 1e-5)
    scale = float(model.logit_scale.detach().exp())
    for tau in (model.config.tau_fw, 0.3):
        model.config = replace(model.config, tau_fw=tau)
        sim = p_vcs(features["frames"], features["pose"], **model.encode_texts(), tau=tau)
        close(model.class_logits(features)["all"], scale * sim, 1e-5)


def test_zero_shot_clip_averages_unit_frames():
    model, batch = model_of(model="clip"), batch_of()
    unit = lambda x: x / x.norm(dim=-1, keepdim=True)
    first, second = (unit(model.clip.encode_image(pevl.normalise(batch["frames"][:, t])))
                     for t in range(2))
    texts = unit(model.clip.encode_text(model.tokens)[0])
    logits = unit((first + second) / 2) @ texts.T / 0.07         # CLIP's start of tau
    close(model.class_logits(model(batch))["all"], logits, 1e-4)


def test_adapter_bottleneck():
    adapter, x = Adapter(8, 0.25, skip=True), torch.randn(3, 8)
    assert torch.equal(adapter(x), x) and not Adapter(8, 0.25, skip=False)(x).any()
    assert sum(p.numel() for p in adapter.parameters()) == 2 * 8 * 2 + 2 + 8
