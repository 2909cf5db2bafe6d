"""The assignment seam: the equations' tests call these functions, and these call pevl.py (P-VCS:
systems/vilp.py).

For an assignment replace a body by `raise NotImplementedError("Eq. (2): video-enriched pose")`, hand
out the repository without the original, and grade with `pytest -m eq2`. Shapes and formulas are in
the docstrings of the functions called here. P2V and V2P get the module as a holder of its layers
(ln.., query, key, value, out_proj, heads, background); the arithmetic between them is the task.
"""
import pevl
from systems import vilp


def patch_weight(joint_weights, keypoints, scores, grid):
    """Eq. (1): (B, Tv, J), (B, Tv, J, 2), (B, Tv, J) -> M (B, Tv, grid * grid) in [0, 1]."""
    return pevl.patch_weight(joint_weights, keypoints, scores, grid)


def p2v(module, tokens, weight):
    """Eq. (1): tokens (B, Tv, 1 + N, d), M (B, Tv, N) -> refined tokens (B, Tv, 1 + N, d)."""
    return module(tokens, weight)


def v2p(module, pose_tokens, video_tokens, index):
    """Eq. (2): (B, T, 1 + J, d), (B, Tv, 1 + N, d), index (Tv,) -> (B, T, 1 + J, d)."""
    return module(pose_tokens, video_tokens, index)


def nt_xent(z, z_refined, temperature):
    """Eq. (3): (B, e), (B, e) -> scalar."""
    return pevl.nt_xent(z, z_refined, temperature)


def frame_word_similarity(pose_frames, words, word_mask, tau=0.01):
    """Eq. (4), third term: (B, T, e), (K, W, e), (K, W) -> (B, K)."""
    return pevl.frame_word_similarity(pose_frames, words, word_mask, tau)


def text_discrepancy(sentences):
    """Eq. (5), raw strengths: (K, e) -> (K, K)."""
    return pevl.text_discrepancy(sentences)


def semantic_weights(labels, discrepancy):
    """Eq. (5): (B,), (K, K) -> weights w (B, B)."""
    return pevl.semantic_weights(labels, discrepancy)


def semantic_guided_loss(logits, labels, discrepancy):
    """Eq. (6): (B, B), (B,), (K, K) -> scalar."""
    return pevl.semantic_guided_loss(logits, labels, discrepancy)


def predict(logits, views=1):
    """Eq. (7): (B * views, K) -> probabilities (B, K)."""
    return pevl.predict(logits, views)


def p_vcs(frames, pose, words, sentences, word_mask, tau=0.01):
    """ViLP's P-VCS: (B, T, e), (B, T, e) or None, (K, W, e), (K, e), (K, W) -> (B, K)."""
    return vilp.pose_guided_concept_spotting(frames, pose, words, sentences, word_mask, tau)
