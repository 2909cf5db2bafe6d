"""CLIP: attention, the block around it, and how an image and a text are read."""
import pytest
import torch
from torch import nn

import clip_model
from clip_model import CLIP, CLIPConfig
from expected import cases
from spec import close, fill, gradients_are_right, holds, randn, worked_example_holds

pytestmark = pytest.mark.clip

SMALL = CLIPConfig(embed_dim=6, image_size=8, patch_size=4, vision_width=8, vision_layers=1,
                   vision_heads=2, context_length=8, vocab_size=49408, text_width=4, text_heads=1,
                   text_layers=1)
START, END = 49406, 49407


def attention_of(number):
    """An Attention with drawn weights, and its case."""
    case = cases("clip.attention")[number]
    return fill(clip_model.Attention(8, int(case["heads"])).double(), case["state"]), case


# ---- Attention -----------------------------------------------------------------------------------

def test_worked_example():
    """The numbers in the docstring come out as printed."""
    worked_example_holds(clip_model.Attention, clip_model)


def test_attention_matches_loops():
    """Outputs of random sequences, with one, two and four heads, with and without a mask."""
    for number in range(len(cases("clip.attention"))):
        module, case = attention_of(number)
        close(module(case["x"], case["mask"]), case["want"],
              "Attention differs from a loop over queries and heads: softmax(q k^T / sqrt(c)) v, c "
              "= d / heads. The rows of in_proj are q, then k, then v; a head has c neighbouring "
              "entries of each.")


def test_every_token_sees_all_without_a_mask():
    """No mask is a mask that is true everywhere."""
    module, case = attention_of(0)
    close(module(case["x"]), module(case["x"], torch.ones(4, 4).bool()),
          "Without a mask every token may be looked at.")


def test_true_in_the_mask_may_be_looked_at():
    """With the identity as mask each token gets its own value."""
    module, case = attention_of(0)
    x = case["x"]
    v = x @ module.in_proj_weight[16:].T + module.in_proj_bias[16:]
    close(module(x, torch.eye(4).bool()), module.out_proj(v),
          "mask: true = may be looked at, rows are queries. With the identity a token sees itself "
          "alone. Is the mask the wrong way round?")


def test_class_weights_are_token_0s_shares():
    """need_weights: row 0 of the softmax, the mean over heads."""
    for number in range(len(cases("clip.attention"))):
        module, case = attention_of(number)
        _, got = module(case["x"], case["mask"], need_weights=True)
        close(got, case["class_weights"],
              "class_weights are row 0 of softmax(q k^T / sqrt(c)), the mean over heads (not one "
              "head, not the sum), with the mask.", tol=1e-5)


def test_class_weights_keep_their_gradient():
    """What Eq. (1) makes of them trains the tower (D3)."""
    module, case = attention_of(0)
    _, got = module(case["x"].requires_grad_(), case["mask"], need_weights=True)
    holds(got.requires_grad, "class_weights must keep their gradient: is something detached?")


def test_class_weights_sum_to_1():
    """For every sequence."""
    module, case = attention_of(2)
    _, got = module(case["x"], need_weights=True)
    close(got.sum(-1), torch.ones(2),
          "Shares sum to 1 over the tokens that are looked at.", tol=1e-5)


def test_asking_for_weights_changes_nothing():
    """The output is the same with and without."""
    module, case = attention_of(1)
    close(module(case["x"], need_weights=True)[0], module(case["x"]),
          "need_weights must only add a second result.")


def test_leading_axes_are_free():
    """(B, T, n, d) is B T sequences."""
    module, _ = attention_of(0)
    x = randn(3, 2, 3, 4, 8)
    got = module(x)
    close(got, torch.stack([module(row) for row in x]), "Any leading axes: (B, T, n, d) gives what "
          "each (T, n, d) gives alone.")
    _, weights = module(x, need_weights=True)
    close(weights.shape, torch.tensor([2, 3, 4]), "class_weights are (..., n).")


def test_a_transposed_view_gives_the_same():
    """Attention over time hands a view whose axes are exchanged."""
    module, _ = attention_of(0)
    x = randn(3, 2, 4, 3, 8)
    close(module(x.transpose(1, 2)), module(x.transpose(1, 2).contiguous()),
          "A transposed view must give what its copy gives.")


def test_the_first_tokens_may_ask_alone():
    """asking=2: the answers to the first two tokens, which look at all four as before."""
    module, _ = attention_of(0)
    x = randn(4, 2, 3, 4, 8)
    close(module(x, asking=2), module(x)[..., :2, :],
          "asking=2 gives the first two rows of what all tokens get: keys and values stay those of "
          "all tokens.")

    mask = torch.ones(4, 4, dtype=torch.bool).tril()
    close(module(x, mask, asking=2), module(x, mask)[..., :2, :],
          "Rows of the mask are queries: with asking=2 its first two are left.")

    out, weights = module(x, need_weights=True, asking=1)
    close(out, module(x)[..., :1, :], "asking=1 gives the class token's row.")
    close(weights, module(x, need_weights=True)[1],
          "The class token's weights are the same, whoever else asks.")


def test_attention_gradients():
    """Slopes by autograd equal those of small steps."""
    module, case = attention_of(0)
    gradients_are_right(lambda x: module(x), case["x"].clone(), why="Attention's gradients are not "
                        "those of its values.")


# ---- Block ---------------------------------------------------------------------------------------

def test_block_matches_loops():
    """x + attn(ln_1(x)), then x + mlp(ln_2(x))."""
    for case in cases("clip.block"):
        module = fill(clip_model.ResidualAttentionBlock(8, 2, 1).double(), case["state"])
        close(module(case["x"]), case["want"],
              "Pre-norm: x = x + attn(ln_1(x)); x = x + mlp(ln_2(x)). Is the norm behind the sum, "
              "a residual missing, or the second step fed with the x from before the first?")


def test_a_block_may_make_its_first_tokens_alone():
    """asking=1: the class token as the whole block makes it."""
    for case in cases("clip.block"):
        module = fill(clip_model.ResidualAttentionBlock(8, 2, 1).double(), case["state"])
        close(module(case["x"], asking=1), module(case["x"])[..., :1, :],
              "asking=1 gives token 0 of the block's result: the residual is its own, and it looks "
              "at all tokens.")


def silent(case, *names):
    """A block whose layers of these names give zero."""
    module = fill(clip_model.ResidualAttentionBlock(8, 2, 1).double(), case["state"])
    for name in names:
        layer = module.get_submodule(name)
        layer.weight.data.zero_()
        layer.bias.data.zero_()
    return module


def test_block_adds_to_its_tokens():
    """Where attention and MLP give zero, the tokens come back."""
    case = cases("clip.block")[0]
    close(silent(case, "attn.out_proj", "mlp.c_proj")(case["x"]), case["x"],
          "Both steps add to x: a residual is forgotten.", tol=0)
    only_attention = silent(case, "mlp.c_proj")
    want = case["x"] + only_attention.attn(only_attention.ln_1(case["x"]))
    close(only_attention(case["x"]), want, "x + attn(ln_1(x)): is it another norm, or none?")
    only_mlp = silent(case, "attn.out_proj")
    want = case["x"] + only_mlp.mlp(only_mlp.ln_2(case["x"]))
    close(only_mlp(case["x"]), want, "x + mlp(ln_2(x)): is it another norm, or none?")


def test_the_mlp_sees_what_attention_added():
    """The second step starts from the first one's result."""
    case = cases("clip.block")[0]
    after_attention = silent(case, "mlp.c_proj")(case["x"])
    close(silent(case)(case["x"]), silent(case, "attn.out_proj")(after_attention),
          "The MLP reads the x that attention has added to, not the one from before.")


def test_block_hands_the_mask_on():
    """With a causal mask, a later token changes nothing earlier."""
    case = cases("clip.block")[0]
    module = fill(clip_model.ResidualAttentionBlock(8, 2, 1).double(), case["state"])
    mask = torch.ones(3, 3).bool().tril()
    other = case["x"].clone()
    other[2] += randn(8, 8)
    close(module(other, mask)[:2], module(case["x"], mask)[:2],
          "The block forgets the mask: a causal one must keep later tokens from earlier ones.")


# ---- Read-outs -----------------------------------------------------------------------------------

def small_clip():
    """A CLIP of two patches a side, with drawn norms."""
    torch.manual_seed(0)
    clip = CLIP(SMALL).double()
    for norm in (clip.visual.ln_post, clip.ln_final):
        norm.weight.data = 1 + 0.3 * randn(1, len(norm.weight))
        norm.bias.data = 0.3 * randn(2, len(norm.bias))
    return clip


def test_an_image_token_is_normed_then_projected():
    """read_out: ln_post, then proj."""
    visual, tokens = small_clip().visual, randn(3, 2, 8)
    norm = visual.ln_post
    want = nn.functional.layer_norm(tokens, (8,), norm.weight, norm.bias) @ visual.proj
    close(visual.read_out(tokens), want, "An image is read by ln_post, then proj. Is the norm "
          "forgotten?")


def test_a_text_is_read_from_its_end_token():
    """The end token has the largest number; it is not the last that is no zero."""
    clip = small_clip()
    # "!" is token 0, inside a text, too.
    tokens = torch.tensor([[START, 320, 0, 0, END, 0, 0, 0]])
    x = randn(4, 1, 8, 4)
    sentences, words, _ = clip.read_text(x, tokens)
    norm = clip.ln_final
    want = nn.functional.layer_norm(x, (4,), norm.weight, norm.bias) @ clip.text_projection
    close(words, want, "Every token goes through ln_final and text_projection.")
    close(sentences, want[:, 4], "The sentence is read at the end token, the largest number of the "
          "row. Counting tokens that are not 0 goes wrong: '!' is token 0.")


def test_words_are_what_stands_between_start_and_end():
    """Start, end and padding are no words."""
    clip = small_clip()
    tokens = torch.tensor([[START, 320, 0, END, 0, 0, 0, 0], [START, END, 0, 0, 0, 0, 0, 0]])
    mask = clip.read_text(randn(5, 2, 8, 4), tokens)[2]
    want = torch.zeros(2, 8).bool()
    want[0, 1:3] = True
    close(mask.int(), want.int(),
          "word_mask is true between start and end: neither of these two, no padding, but '!' "
          "(token 0) inside a text is a word; a text of none has no true.")


def test_a_token_sees_itself_and_what_came_before():
    """The causal mask."""
    got = small_clip().causal_mask(3)
    close(got.int(), torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1]]),
          "causal_mask: true = may be looked at, token i sees 0 to i. Yours looks the other way, "
          "or at all.")
