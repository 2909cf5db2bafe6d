"""Other readings of Eqs. (1) and (2), which a flag puts in the place of those in pevl.py.

The paper's formulas leave two questions that a reader can answer otherwise than we do by default.
What does a larger M do to a patch whose score is negative? And who competes in Eq. (2): the pixels
for the attention of a joint, or the joints for a pixel?

paper      | Eq. | here         | flag         | tests/test_pevl.py
Sec. 3.2.1 | (1) | log_masked   | --mask log   | test_p2v_matches_loops
Sec. 3.2.2 | (2) | group_pixels | --v2p-group  | test_v2p_grouping_matches_loops

Axes: J joints, N patches, n video tokens of a frame, q queries, h heads, c = d / h. D4 and D31: the
ledger, docs/ledger.md.
"""
import torch


def log_masked(scores, weight):
    """Scores of Eq. (1) to which log M is added: a softmax over them shares out as exp(score) * M.

        softmax_n(s_n + log M_n) = exp(s_n) M_n / sum_m exp(s_m) M_m

    scores (..., q, N); weight M (..., 1, N) in [0, 1] -> (..., q, N). A patch's share rises with
    its M, whatever the sign of its score, and is exactly nothing at M = 0, which the caller leaves
    out (D4). The product s_n * M_n does otherwise: where s is negative a larger M takes attention
    away. Two patches with the score -2, the first with M = 1, the second with M = 0.5:

    >>> scores, M = torch.tensor([[-2.0, -2.0]]), torch.tensor([[1.0, 0.5]])
    >>> (scores * M).softmax(-1)
    tensor([[0.2689, 0.7311]])
    >>> log_masked(scores, M).softmax(-1)
    tensor([[0.6667, 0.3333]])
    """
    # The logarithm of 1 in place of that of 0: its gradient is finite, and the caller drops it.
    return scores + torch.where(weight > 0, weight, 1.0).log()


def group_pixels(q, k, v):
    """Eq. (2) as a grouping: a pixel is shared out over the queries, each takes its pixels' mean.

        a[q, n] = softmax over q of (query_q . key_n / sqrt(c))
        out_q = sum_n a[q, n] value_n / sum_n a[q, n]

    q (..., h, 1 + J, c), the background first; k, v (..., h, n, c) -> (..., h, 1 + J, c). So
    queries compete, and the background token takes what belongs to no joint. In Eq. (2) as printed
    each query has a softmax of its own over the pixels; there a background takes nothing from
    anyone.
    GroupViT (reference 55) assigns pixels so; it makes the choice hard, we leave it soft (D31).

    Two queries along the axes and three pixels: one on each axis, and one between them that the two
    share. The first query takes 0.67 of the first pixel, 0.33 of the second, 0.5 of the third:

    >>> q, k = torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> group_pixels(q, k, v=torch.tensor([[10.0], [20.0], [60.0]]))
    tensor([[28.8683],
            [31.1317]])

    By hand: (0.67 * 10 + 0.33 * 20 + 0.5 * 60) / (0.67 + 0.33 + 0.5) = 28.87. Eq. (2) as printed
    gives 0.40, 0.20 and 0.40 of the three, which do not depend on the other query.
    """
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5                  # (..., h, 1 + J, n)
    share = scores.softmax(-2)                                              # columns of sum 1

    # A query that no pixel chose: softmax is never 0, but may be rounded to it.
    taken = share.sum(-1, keepdim=True).clamp_min(1e-12)                    # (..., h, 1 + J, 1)
    mean = share / taken                                                    # rows of sum 1
    return mean @ v                                                         # (..., h, 1 + J, c)
