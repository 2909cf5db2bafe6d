"""How layers start, where PyTorch's own start would get in the way.

A branch that ends in zeros changes nothing at first. A projection that starts as the mean of two
features leaves them in CLIP's space, and sine waves of their time make the moments of a clip differ
from the first step. So training starts at what CLIP makes of videos and texts, not at noise.

paper      | here             | tests/test_systems.py, or as named
Sec. 3.1   | zero_linear      | test_towers.py: test_adapter_bottleneck
Sec. 3.1   | sinusoids        | test_frames_start_with_sinusoids_of_their_time
Sec. 3.2   | start_from_block | test_refinement_asks_from_the_first_step_as_the_last_block_does
Table 4    | start_as_mean    | test_projection_starts_as_the_mean_of_video_and_pose

Axes: T pose frames, d width, e size of an embedding. D1, D28 and D29: the ledger, docs/ledger.md.
"""
import math

import torch
from torch import nn


def zero_linear(n_in, n_out):
    """Linear layer that starts at zero: the branch that it ends starts as "no change".

    Adapters, P2V and V2P end in one.
    """
    layer = nn.Linear(n_in, n_out)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


@torch.no_grad()
def start_as_mean(layer, parts):
    """Set a Linear of `parts` concatenated features to their mean: [I; I] / 2 of video and pose.

    layer: nn.Linear(parts * e, e). A random start would turn features away from the texts that
    CLIP has aligned them with (D29).

    >>> layer = nn.Linear(4, 2)
    >>> start_as_mean(layer, parts=2)
    >>> layer(torch.tensor([1.0, 2.0, 3.0, 6.0])).tolist()
    [2.0, 4.0]
    """
    identity = torch.eye(layer.out_features, device=layer.weight.device)    # (e, e)
    layer.weight.copy_(identity.repeat(1, parts) / parts)                   # (e, parts e)
    nn.init.zeros_(layer.bias)


@torch.no_grad()
def start_from_block(refinement, block):
    """Set queries, keys, values and layer norms of P2V or V2P to copies of a block's of CLIP (D28).

    refinement: P2V or V2P of pevl.py. block: a ResidualAttentionBlock of the same width, which is
    left as it is; the copies are trained. Why: fresh queries and keys give scores of deviation 0.3.
    Ten body patches that all score 0.3, with M from 0.1 to 1, get shares from 0.09 to 0.11, so that
    Eq. (1) would say next to nothing when training starts.
    """
    layers = (refinement.query, refinement.key, refinement.value)
    weights = block.attn.in_proj_weight.chunk(3)                            # each (d, d)
    biases = block.attn.in_proj_bias.chunk(3)                               # each (d,)
    for layer, weight, bias in zip(layers, weights, biases):
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)

    for norm in refinement.children():
        if isinstance(norm, nn.LayerNorm):
            norm.weight.copy_(block.ln_1.weight)
            norm.bias.copy_(block.ln_1.bias)


def sinusoids(T, d):
    """Embeddings of T moments, (T, 1, d): sine and cosine of d / 2 frequencies; length 0.7.

    The slowest makes 16 / d cycles in a clip, the fastest 8. d is even. Ours: from zero, as in AIM,
    frozen attention takes long to tell one frame from the next (D1).
    """
    moment = torch.arange(T)[:, None] / T                                   # (T, 1) in [0, 1)
    wave = torch.arange(1, d // 2 + 1)                                      # (d / 2,)
    cycles = moment * wave * 16 / d                                         # (T, d / 2)
    angle = 2 * math.pi * cycles
    both = torch.cat([angle.sin(), angle.cos()], dim=1)                     # (T, d)
    return both[:, None] * d ** -0.5                                        # (T, 1, d)
