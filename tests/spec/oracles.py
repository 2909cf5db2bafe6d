"""Slow loops, written from the equations entry by entry: the teacher's, never handed out.

Each function draws its inputs from a seed and works out, entry by entry wherever that is bearable,
what the function under test has to give. `make_cases` collects them for expected.py; `python -m
classroom make` writes their results into the student's copy instead of this file.
"""
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from spec import f64, rand, randn

CASES = 5           # of each function


def unit(x):
    """A vector at length one."""
    return x / x.norm()


def softmax(values):
    """Plain list -> shares of sum 1."""
    top = max(values)
    powers = [math.exp(v - top) for v in values]
    return [p / sum(powers) for p in powers]


def attend(values, tau):
    """Plain list -> the softmax-weighted sum of its values."""
    shares = softmax([v / tau for v in values])
    return sum(share * v for share, v in zip(shares, values))


def linear(x, state, name):
    """The layer `name` of a state dict, applied to x."""
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def norm(x, state, name):
    """The layer norm `name` of a state dict."""
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def layers(seed, d, linears, norms):
    """Random weights for layers of width d, away from any special value."""
    state = {}
    for place, name in enumerate(linears):
        state[f"{name}.weight"] = 0.4 * randn(seed + 7 * place, d, d)
        state[f"{name}.bias"] = 0.3 * randn(seed + 7 * place + 1, d)
    for place, name in enumerate(norms):
        state[f"{name}.weight"] = 1 + 0.3 * randn(seed + 7 * place + 2, d)
        state[f"{name}.bias"] = 0.3 * randn(seed + 7 * place + 3, d)
    return state


# ---- Eq. (1) -------------------------------------------------------------------------------------

def patch_weight(seed):
    """M, joint by joint."""
    B, T, J, grid = 2, 2, 4, 1 + seed % 4
    weights = rand(seed, B, T, J) + 0.01
    keypoints = 2.6 * rand(seed + 1, B, T, J, 2) - 1.3
    scores = rand(seed + 2, B, T, J)
    scores = torch.where(scores < 0.3, 0.0, scores)       # some are missing, others uncertain
    want = torch.zeros(B, T, grid * grid, dtype=torch.float64)
    for b in range(B):
        for t in range(T):
            for j in range(J):
                x, y = keypoints[b, t, j].tolist()
                if scores[b, t, j] == 0 or abs(x) > 1 or abs(y) > 1:
                    continue
                column = min(int((x + 1) / 2 * grid), grid - 1)
                row = min(int((y + 1) / 2 * grid), grid - 1)
                want[b, t, row * grid + column] += weights[b, t, j]
            if want[b, t].max() > 0:
                want[b, t] /= want[b, t].max().clone()
    return {"joint_weights": weights, "keypoints": keypoints, "scores": scores,
            "grid": torch.tensor(grid), "want": want}


def p2v(seed):
    """Refined tokens and the class token's attention, query by query and head by head."""
    B, T, N, d, heads = 2, 2, 5, 16, 2
    c = d // heads
    state = layers(seed, d, ["query", "key", "value", "out_proj"], ["ln"])
    z = randn(seed + 50, B, T, N + 1, d)
    M = rand(seed + 51, B, T, N)
    M = torch.where(M > 0.45, M, 0.0)
    M[0, 0] = 0                                           # a frame without joints
    x = norm(z, state, "ln")
    q, k, v = (linear(x, state, name) for name in ("query", "key", "value"))
    want = z.clone()
    attention = torch.zeros(B, T, N, dtype=torch.float64)
    for b in range(B):
        for t in range(T):
            body = [n for n in range(N) if M[b, t, n] > 0]
            for i in range(N + 1):
                asks = bool(body) and (i == 0 or i - 1 in body)
                if not asks:
                    continue
                mixed = []
                for h in range(heads):
                    part = slice(h * c, (h + 1) * c)
                    scores = [float(q[b, t, i, part] @ k[b, t, n + 1, part]) / math.sqrt(c)
                              * float(M[b, t, n]) for n in body]
                    shares = softmax(scores)
                    mixed.append(sum(a * v[b, t, n + 1, part] for a, n in zip(shares, body)))
                    if i == 0:
                        for a, n in zip(shares, body):
                            attention[b, t, n] += a / heads
                want[b, t, i] = z[b, t, i] + linear(torch.cat(mixed), state, "out_proj")
    return {"state": state, "tokens": z, "weight": M, "want": want, "attention": attention}


# ---- Eq. (2) -------------------------------------------------------------------------------------

def v2p(seed):
    """Refined pose tokens, query by query and head by head."""
    B, Tv, J, N, d, heads = 2, 2, 3, 4, 16, 2
    T, index, c = 2 * Tv, [1, 3], d // heads
    state = layers(seed, d, ["query", "key", "value", "out_proj"], ["ln_pose", "ln_video"])
    state["background"] = randn(seed + 40, d)
    zp, zv = randn(seed + 50, B, T, J + 1, d), randn(seed + 51, B, Tv, N + 1, d)
    seen = norm(zv, state, "ln_video")
    k, v = linear(seen, state, "key"), linear(seen, state, "value")
    want = zp.clone()
    for b in range(B):
        for i, t in enumerate(index):
            for j in range(J + 1):
                asking = zp[b, t, j]
                if j == 0:
                    asking = asking + state["background"]
                q = linear(norm(asking, state, "ln_pose"), state, "query")
                mixed = []
                for h in range(heads):
                    part = slice(h * c, (h + 1) * c)
                    shares = softmax([float(q[part] @ k[b, i, n, part]) / math.sqrt(c)
                                      for n in range(N + 1)])
                    mixed.append(sum(a * v[b, i, n, part] for n, a in enumerate(shares)))
                want[b, t, j] = zp[b, t, j] + linear(torch.cat(mixed), state, "out_proj")
    return {"state": state, "pose_tokens": zp, "video_tokens": zv, "index": torch.tensor(index),
            "want": want}


# ---- Eq. (3) -------------------------------------------------------------------------------------

def nt_xent(seed):
    """The loss, clip by clip and in both directions."""
    B, tau = 1 + seed % 5, 0.1 + 0.4 * (seed % 3)
    z, r = randn(seed, B, 8), randn(seed + 1, B, 8)
    total = 0.0
    for i in range(B):
        row = [float(unit(z[i]) @ unit(r[j])) / tau for j in range(B)]
        column = [float(unit(z[j]) @ unit(r[i])) / tau for j in range(B)]
        total -= (math.log(softmax(row)[i]) + math.log(softmax(column)[i])) / 2
    return {"z": z, "z_refined": r, "temperature": torch.tensor(tau, dtype=torch.float64),
            "want": torch.tensor(total / B, dtype=torch.float64)}


# ---- Eq. (4) -------------------------------------------------------------------------------------

def frame_word(seed):
    """The similarity of frames and words, clip by clip and text by text."""
    B, T, K, W, tau = 2, 1 + seed % 4, 3, 5, (0.01, 0.1, 0.5)[seed % 3]
    frames, words = randn(seed, B, T, 8), randn(seed + 1, K, W, 8)
    mask = torch.zeros(K, W, dtype=torch.bool)
    for k in range(K):
        mask[k, 1:2 + (seed + k) % (W - 1)] = True
    want = torch.zeros(B, K, dtype=torch.float64)
    for b in range(B):
        for k in range(K):
            real = [w for w in range(W) if mask[k, w]]
            A = [[float(unit(frames[b, t]) @ unit(words[k, w])) for w in real] for t in range(T)]
            per_word = [attend([A[t][w] for t in range(T)], tau) for w in range(len(real))]
            per_frame = [attend(A[t], tau) for t in range(T)]
            want[b, k] = (attend(per_word, tau) + attend(per_frame, tau)) / 2
    return {"pose_frames": frames, "words": words, "word_mask": mask,
            "tau": torch.tensor(tau, dtype=torch.float64), "want": want}


# ---- Eqs. (5) and (6) ----------------------------------------------------------------------------

def discrepancy(seed):
    """1 - cos, text by text."""
    sentences = randn(seed, 4, 6)
    want = torch.zeros(4, 4, dtype=torch.float64)
    for i in range(4):
        for j in range(4):
            if i != j:
                want[i, j] = 1 - unit(sentences[i]) @ unit(sentences[j])
    return {"sentences": sentences, "want": want}


def loop_weights(labels, D):
    """w of Eq. (5), anchor by anchor."""
    B = len(labels)
    w = torch.ones(B, B, dtype=torch.float64)
    for i in range(B):
        others = [j for j in range(B) if labels[j] != labels[i]]
        total = sum(float(D[labels[i], labels[j]]) for j in others)
        for j in others:
            w[i, j] = len(others) * float(D[labels[i], labels[j]]) / total
    return w


def draw_labels(seed, B):
    """B labels of 0 to 3, at least two different ones."""
    labels = [int(v) for v in torch.randint(0, 4, (B,),
                                            generator=torch.Generator().manual_seed(seed))]
    labels[0], labels[1] = 3, 1
    return labels


def weights(seed):
    """The weights of a batch in which labels repeat."""
    labels = draw_labels(seed, 3 + seed % 4)
    D = rand(seed, 4, 4) + 0.05
    D = (D + D.T) / 2
    D.fill_diagonal_(0)
    return {"labels": torch.tensor(labels), "discrepancy": D, "want": loop_weights(labels, D)}


def loop_kl(logits, truth, w):
    """Mean over rows of KL(q || p), entry by entry."""
    B = len(logits)
    total = 0.0
    for i in range(B):
        Z = sum(float(w[i, k]) * math.exp(float(logits[i, k])) for k in range(len(logits[i])))
        for j in range(len(logits[i])):
            q = float(truth[i, j]) / float(truth[i].sum())
            if q > 0:
                total += q * math.log(q * Z / (float(w[i, j]) * math.exp(float(logits[i, j]))))
    return torch.tensor(total / B, dtype=torch.float64)


def one_way(seed):
    """Half of Eq. (6), with drawn truth and weights."""
    B = 4
    logits, w = 2 * randn(seed, B, B), rand(seed + 1, B, B) + 0.1
    truth = (rand(seed + 2, B, B) > 0.5).double()
    truth.fill_diagonal_(1)
    return {"logits": logits, "truth": truth, "weights": w, "want": loop_kl(logits, truth, w)}


def semantic_loss(seed):
    """Both directions; the weights of Eq. (5) are among what is given."""
    labels = draw_labels(seed, 3 + seed % 4)
    B = len(labels)
    logits = 2 * randn(seed, B, B)
    D = weights(seed)["discrepancy"]
    w = loop_weights(labels, D)
    agree = torch.zeros(B, B, dtype=torch.float64)
    for i in range(B):
        for j in range(B):
            agree[i, j] = float(labels[i] == labels[j])
    want = (loop_kl(logits, agree, w) + loop_kl(logits.T, agree, w)) / 2
    return {"logits": logits, "labels": torch.tensor(labels), "discrepancy": D, "weights": w,
            "want": want}


# ---- Eq. (7) -------------------------------------------------------------------------------------

def predict(seed):
    """Probabilities, clip by clip."""
    B, R, K = 3, 1 + seed % 3, 4
    logits = 2 * randn(seed, B * R, K)
    rows = []
    for b in range(B):
        mean = [sum(float(logits[b * R + r, k]) for r in range(R)) / R for k in range(K)]
        rows.append(softmax(mean))
    return {"logits": logits, "views": torch.tensor(R), "want": f64(*rows)}


# ---- ViLP ----------------------------------------------------------------------------------------

def spotting(seed):
    """P-VCS, word by word."""
    B, T, K, W, tau = 2, 3, 2, 4, 0.2
    v, p = randn(seed, B, T, 8), randn(seed + 1, B, T, 8)
    words, sentences = randn(seed + 2, K, W, 8), randn(seed + 3, K, 8)
    mask = torch.zeros(K, W, dtype=torch.bool)
    for k in range(K):
        mask[k, 1:2 + (seed + k) % (W - 1)] = True
    want = torch.zeros(B, K, dtype=torch.float64)
    for b in range(B):
        u = [unit(v[b, t]) * torch.sigmoid(unit(p[b, t])) for t in range(T)]
        for k in range(K):
            real = [w for w in range(W) if mask[k, w]]
            share = [0.0] * T
            for w in real:
                votes = softmax([float(unit(words[k, w]) @ u[t]) / tau for t in range(T)])
                for t in range(T):
                    share[t] += votes[t] / len(real)
            video = sum(share[t] * u[t] for t in range(T))
            want[b, k] = video @ unit(sentences[k])
    return {"frames": v, "pose": p, "words": words, "sentences": sentences, "word_mask": mask,
            "tau": torch.tensor(tau, dtype=torch.float64), "want": want}


# ---- CLIP ----------------------------------------------------------------------------------------

def loop_attention(x, state, heads, mask):
    """One sequence (n, d) -> its output, and token 0's weights, mean over heads."""
    n, d = x.shape
    c = d // heads
    qkv = F.linear(x, state["in_proj_weight"], state["in_proj_bias"])
    q, k, v = qkv[:, :d], qkv[:, d:2 * d], qkv[:, 2 * d:]
    out, first = torch.zeros(n, d, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    for h in range(heads):
        part = slice(h * c, (h + 1) * c)
        for i in range(n):
            seen = [j for j in range(n) if mask[i, j]]
            shares = softmax([float(q[i, part] @ k[j, part]) / math.sqrt(c) for j in seen])
            out[i, part] = sum(a * v[j, part] for a, j in zip(shares, seen))
            if i == 0:
                for a, j in zip(shares, seen):
                    first[j] += a / heads
    return F.linear(out, state["out_proj.weight"], state["out_proj.bias"]), first


def attention_state(seed, d):
    """Random weights of an Attention of width d."""
    return {"in_proj_weight": 0.5 * randn(seed, 3 * d, d), "in_proj_bias": randn(seed + 1, 3 * d),
            "out_proj.weight": 0.5 * randn(seed + 2, d, d), "out_proj.bias": randn(seed + 3, d)}


def attention(seed):
    """Every second case with a mask in which each token sees itself."""
    b, n, d, heads = 2, 4, 8, (1, 2, 4)[seed % 3]
    state = attention_state(seed, d)
    x = randn(seed + 9, b, n, d)
    mask = torch.ones(n, n, dtype=torch.bool)
    if seed % 2:
        mask = rand(seed + 10, n, n) > 0.5
        mask.fill_diagonal_(True)
    found = [loop_attention(row, state, heads, mask) for row in x]
    return {"state": state, "heads": torch.tensor(heads), "x": x, "mask": mask,
            "want": torch.stack([out for out, _ in found]),
            "class_weights": torch.stack([first for _, first in found])}


def block(seed):
    """A whole block: attention, then the MLP, both added, both behind their norms."""
    n, d, heads = 3, 8, 2
    state = {f"attn.{name}": value for name, value in attention_state(seed, d).items()}
    state.update(layers(seed + 20, d, [], ["ln_1", "ln_2"]))
    state["mlp.c_fc.weight"] = randn(seed + 30, 4 * d, d)
    state["mlp.c_fc.bias"] = randn(seed, 4 * d)
    state["mlp.c_proj.weight"] = randn(seed + 31, d, 4 * d)
    state["mlp.c_proj.bias"] = randn(seed, d)
    x = randn(seed + 33, n, d)
    everything = torch.ones(n, n, dtype=torch.bool)
    normed = norm(x, state, "ln_1")
    attended, _ = loop_attention(normed, attention_state(seed, d), heads, everything)
    middle = x + attended
    hidden = linear(norm(middle, state, "ln_2"), state, "mlp.c_fc")
    hidden = hidden * torch.sigmoid(1.702 * hidden)
    want = middle + linear(hidden, state, "mlp.c_proj")
    return {"state": state, "x": x, "want": want}


# ---- Data ----------------------------------------------------------------------------------------

def instants(seed):
    """Moments in equal parts, part by part; seconds that do not begin at 0."""
    n, T = 2 + seed % 5, 1 + seed % 4
    at = torch.cumsum(0.1 + rand(seed, n), 0)
    draws = rand(seed + 1, T)
    length = float(at[-1] - at[0])
    gap = length / (n - 1)
    moments = []
    for part in range(T):
        width = (length + gap) / T
        moments.append(float(at[0]) - gap / 2 + part * width + float(draws[part]) * width)
    frames = []
    for moment in moments:
        away = [abs(float(second) - moment) for second in at]
        frames.append(away.index(min(away)))
    return {"instants": at, "draws": draws, "want": torch.tensor(moments, dtype=torch.float64),
            "frames": torch.tensor(frames)}


def placed(seed):
    """Joints of a frame in the coordinates of two crops, joint by joint."""
    T, J, R = 2, 3, 2
    H, W, h, w, S = 60.0, 90.0, 40.0, 60.0, 20.0          # the file's frame, the converted one
    keypoints = rand(seed, T, J, 2) * torch.tensor([W, H]) - 0.5
    scores = rand(seed + 1, T, J)
    x0 = torch.round(rand(seed + 2, R) * (w - S))
    y0 = torch.round(rand(seed + 3, R) * (h - S))
    boxes = torch.stack([x0, y0, x0 + S, y0 + S], dim=1)
    flip, swap = bool(seed % 2), [1, 0, 2]
    want = torch.zeros(R, T, J, 2, dtype=torch.float64)
    seen = torch.zeros(R, T, J, dtype=torch.float64)
    for r in range(R):
        for t in range(T):
            for j in range(J):
                source = swap[j] if flip else j
                x, y = keypoints[t, source].tolist()
                across = ((x + 0.5) * w / W - float(x0[r])) / S * 2 - 1
                down = ((y + 0.5) * h / H - float(y0[r])) / S * 2 - 1
                want[r, t, j] = f64(-across if flip else across, down)
                seen[r, t, j] = scores[t, source]
    return {"keypoints": keypoints, "scores": scores, "size": torch.tensor([H, W]),
            "view_size": torch.tensor([h, w]), "boxes": boxes, "flip": torch.tensor(flip),
            "flip_index": torch.tensor(swap), "want": want, "seen": seen}


ORACLES = {
    "eq1.patch_weight": patch_weight,
    "eq1.p2v": p2v,
    "eq2.v2p": v2p,
    "eq3.nt_xent": nt_xent,
    "eq4.frame_word": frame_word,
    "eq5.discrepancy": discrepancy,
    "eq5.weights": weights,
    "eq6.one_way": one_way,
    "eq6.loss": semantic_loss,
    "eq7.predict": predict,
    "vilp.spotting": spotting,
    "clip.attention": attention,
    "clip.block": block,
    "data.instants": instants,
    "data.placed": placed,
}


def make_cases(name, seed=0):
    """CASES cases of one oracle, all from `seed`."""
    return [ORACLES[name](1000 * seed + number) for number in range(CASES)]


def golden(seed=0):
    """Mark -> name -> cases: what a student's copy holds in place of this file."""
    found = {}
    for name in ORACLES:
        found.setdefault(name.split(".")[0], {})[name] = make_cases(name, seed)
    return found


def write(folder, seed):
    """<mark>.pt into `folder`, for `python -m classroom make` and `grade`."""
    folder.mkdir(parents=True, exist_ok=True)
    for mark, named in golden(seed).items():
        torch.save(named, folder / f"{mark}.pt")


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]))
