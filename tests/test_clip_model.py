"""clip_model.py: CLIP's towers against slow loops, its tokenizer, and how weights come in.

The loops (slow_attention, slow_block) are written out, one query and one key at a time. Weights are
those of a small random CLIP (small_clip.py); formats of files and downloads are in
test_clip_weights.py.
"""
import doctest
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import clip_model
from clip_model import (
    BACKBONES,
    CLIP,
    END,
    START,
    Attention,
    QuickGELU,
    ResidualAttentionBlock,
    fit_positions,
    load_clip,
    tokenize,
)
from small_clip import SMALL, holds_weights, hugging_face, small_clip, small_weights
from strategies import randn, seeds, sizes
from support.checks import unknown_name
from toy.captions import TOY_WORDS

PROMPTS = "a video of action, gymnastic diving. This is a video about"


def test_unknown_name_gives_the_nearest():
    """A misspelt backbone is offered the right one; what is like nothing gets the whole list."""
    assert "Did you mean 'ViT-B/16'?" in str(unknown_name("backbone", "vit-b16", BACKBONES))
    assert "Did you mean" not in str(unknown_name("backbone", "xyz", BACKBONES))
    with pytest.raises(ValueError, match="unknown backbone 'ViT-B16'. Expected one of ViT-B/32"):
        load_clip("ViT-B16")
    with pytest.raises(ValueError, match="Did you mean 'tiny'"):
        load_clip("anything.pt", backbone="tyny")
    with pytest.raises(ValueError, match="unknown backbone 'nonexist'"):
        load_clip("nonexist", backbone="tiny")


def test_examples_in_the_docstrings():
    """The attention of two tokens, the pieces of a word, and tokens of a text come out as told."""
    failed, tried = doctest.testmod(clip_model)
    assert failed == 0
    assert tried >= 10


# ---- Towers ------------------------------------------------------------------------------------


def block_shapes(prefix, d):
    """Names and shapes of one block as OpenAI publishes them."""
    shapes = {
        "ln_1.weight": (d,),
        "ln_1.bias": (d,),
        "attn.in_proj_weight": (3 * d, d),
        "attn.in_proj_bias": (3 * d,),
        "attn.out_proj.weight": (d, d),
        "attn.out_proj.bias": (d,),
        "ln_2.weight": (d,),
        "ln_2.bias": (d,),
        "mlp.c_fc.weight": (4 * d, d),
        "mlp.c_fc.bias": (4 * d,),
        "mlp.c_proj.weight": (d, 4 * d),
        "mlp.c_proj.bias": (d,),
    }
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


@pytest.mark.parametrize(
    "name, e, d, layers, patch, positions, text, count, parameters",
    [
        ("ViT-B/32", 512, 768, 12, 32, 50, 512, 302, 151_277_313),
        ("ViT-B/16", 512, 768, 12, 16, 197, 512, 302, 149_620_737),
        ("ViT-L/14", 768, 1024, 24, 14, 257, 768, 446, 427_616_513),
        ("ViT-L/14@336px", 768, 1024, 24, 14, 577, 768, 446, 427_944_193),
    ],
)
def test_published_shapes(name, e, d, layers, patch, positions, text, count, parameters):
    """Built on the meta device: names, shapes and number of parameters as released."""
    expected = {
        "visual.class_embedding": (d,),
        "visual.positional_embedding": (positions, d),
        "visual.proj": (d, e),
        "visual.conv1.weight": (d, 3, patch, patch),
        "visual.ln_pre.weight": (d,),
        "visual.ln_pre.bias": (d,),
        "visual.ln_post.weight": (d,),
        "visual.ln_post.bias": (d,),
        "positional_embedding": (77, text),
        "text_projection": (text, e),
        "logit_scale": (),
        "token_embedding.weight": (49408, text),
        "ln_final.weight": (text,),
        "ln_final.bias": (text,),
    }
    for i in range(layers):
        expected |= block_shapes(f"visual.transformer.resblocks.{i}", d)
    for i in range(12):
        expected |= block_shapes(f"transformer.resblocks.{i}", text)
    with torch.device("meta"):
        clip = CLIP(BACKBONES[name])
    got = {key: tuple(value.shape) for key, value in clip.state_dict().items()}
    assert got == expected
    assert len(got) == count
    assert sum(p.numel() for p in clip.parameters()) == parameters
    heads = (BACKBONES[name].vision_heads, BACKBONES[name].text_heads)
    assert heads == (d // 64, text // 64)


def test_runs_on_the_meta_device():
    """Costs are counted there: no step may need a value."""
    with torch.device("meta"):
        clip = CLIP(SMALL)
    images = torch.empty(2, 3, 12, 12, device="meta")
    assert clip.encode_image(images).shape == (2, 24)
    tokens = torch.zeros(5, 9, dtype=torch.long, device="meta")
    sentences, words, mask = clip.encode_text(tokens)
    assert sentences.shape == (5, 24)
    assert words.shape == (5, 9, 24)
    assert mask.shape == (5, 9)


def test_initial_values():
    """CLIP's start: spread by width and layers; 1 / temperature starts at 1 / 0.07."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = CLIP(replace(SMALL, vision_width=128, vision_heads=2, vision_layers=4))
    block = clip.visual.transformer.resblocks[0]
    for weight, std in (
        (block.attn.in_proj_weight, 128**-0.5),
        (block.attn.out_proj.weight, (8 * 128) ** -0.5),
        (block.mlp.c_fc.weight, 256**-0.5),
        (block.mlp.c_proj.weight, (8 * 128) ** -0.5),
        (clip.token_embedding.weight, 0.02),
        (clip.positional_embedding, 0.01),
        (clip.text_projection, 128**-0.5),
        (clip.visual.proj, 128**-0.5),
    ):
        assert weight.std().item() == pytest.approx(std, rel=0.1)
    assert clip.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    assert not block.attn.out_proj.bias.any()
    assert not block.attn.in_proj_bias.any()


@torch.no_grad()
def slow_attention(attn, x, mask):
    """One sequence x (n, d), a query and a key at a time -> (n, d), weights (h, n, n)."""
    n, d = x.shape
    c = d // attn.heads
    q, k, v = (x @ attn.in_proj_weight.T + attn.in_proj_bias).split(d, dim=1)
    out = torch.zeros_like(x)
    weights = x.new_zeros(attn.heads, n, n)
    for head in range(attn.heads):
        part = slice(head * c, head * c + c)
        for i in range(n):
            seen = [j for j in range(n) if mask is None or mask[i, j]]
            scores = [math.exp(float(q[i, part] @ k[j, part]) / math.sqrt(c)) for j in seen]
            for j, score in zip(seen, scores):
                share = score / sum(scores)
                weights[head, i, j] = share
                out[i, part] += share * v[j, part]
    return out @ attn.out_proj.weight.T + attn.out_proj.bias, weights


def random_attention(seed, width, heads):
    """An Attention of random weights and biases, float64."""
    attn = Attention(width, heads).double()
    state = {}
    for number, (name, x) in enumerate(attn.state_dict().items()):
        state[name] = randn(seed + number, *x.shape) / 4
    attn.load_state_dict(state)
    return attn


def random_mask(seed, *shape):
    """Which token sees which, bool (..., n, n); each sees at least itself."""
    return (randn(seed, *shape) > 0) | torch.eye(shape[-1], dtype=torch.bool)


@given(seed=seeds, b=sizes, n=st.integers(1, 5), heads=st.sampled_from([1, 2, 4]),
       masked=st.booleans())
def test_attention_oracles(seed, b, n, heads, masked):
    """Vectorised attention, PyTorch's own module and a loop give the same."""
    attn = random_attention(seed, width=8, heads=heads)
    x = randn(seed, b, n, 8)
    mask = random_mask(seed + 1, n, n) if masked else None
    out, weights = attn(x, mask, need_weights=True)

    theirs = nn.MultiheadAttention(8, heads, batch_first=True).double()
    theirs.load_state_dict(attn.state_dict())
    hidden = None if mask is None else ~mask      # theirs says what is not seen
    torch.testing.assert_close(out, theirs(x, x, x, attn_mask=hidden)[0])

    for one, own, row in zip(x, out, weights):
        slow, slow_weights = slow_attention(attn, one, mask)
        torch.testing.assert_close(own, slow)
        of_class = slow_weights[:, 0].mean(0)
        torch.testing.assert_close(row.double(), of_class, atol=1e-6, rtol=1e-5)


@given(seed=seeds, B=sizes, T=sizes, n=st.integers(1, 5))
def test_class_weights(seed, B, T, n):
    """Free leading axes; rows sum to one; hidden tokens weigh nothing; same output."""
    attn = random_attention(seed, width=8, heads=2)
    x = randn(seed, B, T, n, 8)
    mask = random_mask(seed + 1, n, n)
    out, weights = attn(x, mask, need_weights=True)
    assert out.shape == x.shape
    assert weights.shape == (B, T, n)
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, T))
    hidden_from_class = ~mask[0]
    assert (weights[..., hidden_from_class] == 0).all()
    assert (weights >= 0).all()
    assert torch.equal(out, attn(x, mask)), "asking for the weights changes the output"
    torch.testing.assert_close(out[0, 0], attn(x[0, 0], mask))


def test_attention_of_a_transposed_view():
    """Time and tokens exchanged without a copy, as attention over time has it: same result."""
    attn = random_attention(0, width=8, heads=2)
    view = randn(1, 2, 5, 3, 8).transpose(1, 2)
    assert not view.is_contiguous()
    got, weights = attn(view, need_weights=True)
    want, same_weights = attn(view.contiguous(), need_weights=True)
    assert torch.equal(got, want)
    assert torch.equal(weights, same_weights)


def test_heads_share_the_width():
    """A width that three heads cannot share is an error."""
    with pytest.raises(ValueError, match="width 10 with 3 heads. Expected a multiple"):
        Attention(10, 3)


def test_class_weights_carry_gradients_and_empty_batches():
    """The weights can be trained through, and a batch without sequences gives one without."""
    attn = random_attention(0, width=8, heads=2)
    x = randn(1, 2, 4, 8).requires_grad_()
    _, weights = attn(x, need_weights=True)
    weights[:, 1].sum().backward()
    assert x.grad.abs().sum() > 0
    assert attn(torch.zeros(0, 3, 4, 8, dtype=torch.float64)).shape == (0, 3, 4, 8)


@torch.no_grad()
def slow_block(block, x, mask=None):
    """One block on one sequence, each part written out."""

    def norm(layer, x):
        mean = x.mean(1, keepdim=True)
        var = x.var(1, unbiased=False, keepdim=True)
        return (x - mean) / torch.sqrt(var + 1e-5) * layer.weight + layer.bias

    attended, _ = slow_attention(block.attn, norm(block.ln_1, x), mask)
    x = x + attended
    hidden = norm(block.ln_2, x) @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias
    hidden = hidden / (1 + torch.exp(-1.702 * hidden))
    return x + hidden @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias


def test_block():
    """With and without a mask as written out; with the exact GELU it gives something else."""
    block = small_clip().transformer.resblocks[1]
    x = randn(0, 2, 6, 128)
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    for mask in (None, causal):
        want = torch.stack([slow_block(block, one, mask) for one in x])
        torch.testing.assert_close(block(x, mask), want)

    exact = ResidualAttentionBlock(128, 2, 3, quick_gelu=False).double()
    exact.load_state_dict(block.state_dict())
    assert isinstance(exact.mlp.gelu, nn.GELU)
    assert not torch.allclose(exact(x), block(x))


def test_quick_gelu_and_its_slope():
    """The formula, and the slope written by hand against finite differences."""
    x = torch.linspace(-6, 6, 40, dtype=torch.float64, requires_grad=True)
    assert torch.allclose(QuickGELU()(x), x * torch.sigmoid(1.702 * x), atol=1e-14)
    assert torch.autograd.gradcheck(QuickGELU(), x)
    assert not QuickGELU()(x.detach()).requires_grad


def test_vision_tower():
    """Patches cut by loops and multiplied by the kernel, tokens row by row, blocks written out."""
    clip = small_clip()
    images = randn(5, 2, 3, 12, 12)
    tower = clip.visual
    expected = []
    for image in images:
        tokens = [tower.class_embedding]
        for top in range(0, 12, 4):
            for left in range(0, 12, 4):
                patch = image[:, top:top + 4, left:left + 4]
                tokens.append(torch.einsum("dcyx,cyx->d", tower.conv1.weight, patch))
        x = torch.stack(tokens) + tower.positional_embedding
        x = nn.functional.layer_norm(x, (64,), tower.ln_pre.weight, tower.ln_pre.bias)
        torch.testing.assert_close(tower.embed(image[None])[0], x)
        for block in tower.transformer.resblocks:
            x = slow_block(block, x)
        x = nn.functional.layer_norm(x[0], (64,), tower.ln_post.weight, tower.ln_post.bias)
        expected.append(x @ tower.proj)
    torch.testing.assert_close(clip.encode_image(images), torch.stack(expected))
    torch.testing.assert_close(clip.encode_image(images)[1:], clip.encode_image(images[1:]))
    assert tower.grid == 3

    said = r"images has the shape \(1, 3, 8, 12\). Expected \(B, 3, S, S\) with {'S': 12}"
    with pytest.raises(ValueError, match=said):
        tower.embed(torch.zeros(1, 3, 8, 12))


def test_sentence_words():
    """Words are all tokens, the sentence is the end token's; the slow text tower gives the same."""
    clip = small_clip()
    tokens = tokenize(["jump", "", "a forward dive in pike"], 10)
    with torch.no_grad():
        sentences, words, mask = clip.encode_text(tokens)
    assert sentences.shape == (3, 24)
    assert words.shape == (3, 10, 24)
    assert mask.dtype == torch.bool

    causal = torch.ones(10, 10, dtype=torch.bool).tril()
    for row, sentence, own, real in zip(tokens.tolist(), sentences, words, mask):
        end = row.index(END)
        folded = [token % 521 for token in row]   # into the small vocabulary
        x = clip.token_embedding.weight[folded] + clip.positional_embedding
        for block in clip.transformer.resblocks:
            x = slow_block(block, x, causal)
        x = nn.functional.layer_norm(x, (128,), clip.ln_final.weight, clip.ln_final.bias)
        x = x @ clip.text_projection
        torch.testing.assert_close(own, x)
        assert torch.equal(sentence, own[end])
        assert real.tolist() == [0 < i < end for i in range(10)]
    assert mask.sum(1).tolist() == [1, 0, 5]
    with pytest.raises(ValueError, match="texts of 77 tokens. Expected at most 10"):
        clip.encode_text(tokenize("jump"))


def draw_tokens(seed, n):
    """Two rows of n tokens, none of them padding or a mark."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 49000, (2, n), generator=generator)


@settings(max_examples=15)
@given(seed=seeds, i=st.integers(1, 8))
def test_later_tokens_change_nothing_earlier(seed, i):
    """Causal mask: what follows token i, padding included, does not change those before it."""
    clip = small_clip()
    tokens = draw_tokens(seed, 10)
    other = tokens.clone()
    other[:, i:] = draw_tokens(seed + 1, 10 - i)

    def words_of(rows):
        with torch.no_grad():
            return clip.encode_text(rows)[1]

    words = words_of(tokens)
    torch.testing.assert_close(words[:, :i], words_of(other)[:, :i])
    torch.testing.assert_close(words[:, :i], words_of(tokens[:, :i]))
    torch.testing.assert_close(words[1:], words_of(tokens[1:]))


def test_causal_mask():
    """Each token sees itself and those before it."""
    mask = small_clip().causal_mask(3)
    assert mask.tolist() == [[True, False, False], [True, True, False], [True, True, True]]


# ---- Tokenizer ---------------------------------------------------------------------------------


def spelled(row):
    """One row of tokens -> the words that it spells, single blanks between, up to the end token."""
    vocabulary = clip_model._vocabulary()
    names = list(vocabulary.number)
    byte_of = {letter: byte for byte, letter in vocabulary.letter.items()}
    row = row.tolist()
    if END in row:
        row = row[: row.index(END)]
    letters = "".join(names[token] for token in row if token != START).replace("</w>", " ")
    text = bytes(byte_of.get(letter, ord(" ")) for letter in letters)
    return text.decode("utf-8", "replace").strip()


def test_known_tokens():
    """Numbers of CLIP's published vocabulary."""
    hello = tokenize("hello world")[0].tolist()
    assert hello[:5] == [49406, 3306, 1002, 49407, 0]
    cat = tokenize("a photo of a cat")[0].tolist()
    assert cat[:8] == [49406, 320, 1125, 539, 320, 2368, 49407, 0]
    assert tokenize(["hello world"]).shape == (1, 77)
    assert tokenize([]).shape == (0, 77)

    ranks, numbers, letters, _ = clip_model._vocabulary()
    assert len(ranks) == 48894
    assert len(numbers) == 49408
    assert len(letters) == 256
    assert numbers["<|startoftext|>"] == START == 49406
    assert numbers["<|endoftext|>"] == END == 49407


@pytest.mark.parametrize(
    "text, same",
    [
        ("Hello   WORLD\n\t", "hello world"),
        ("caf\u00c3\u00a9", "caf\u00e9"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("\u00a0dive\u3000now", "dive now"),
        ("\u2019s", "'s"),
        ("\ufb01ve", "five"),
    ],
)
def test_texts_are_cleaned(text, same):
    """White space, case, wrongly decoded UTF-8, HTML entities, curly quotes and ligatures."""
    assert torch.equal(tokenize(text), tokenize(same))


@pytest.mark.parametrize("text", ["", "   ", "\n", "\u3000\u00a0"])
def test_empty_text_is_start_and_end(text):
    """Nothing, or only white space: the two marks, then padding."""
    assert tokenize(text, 5).tolist() == [[START, END, 0, 0, 0]]
    assert spelled(tokenize(text)[0]) == ""


def test_special_tokens_in_a_text_are_words():
    """The names of the marks inside a text are spelled out: the only marks stand at the ends."""
    row = tokenize("<|endoftext|> dive <|startoftext|>")[0].tolist()
    last = max(place for place, token in enumerate(row) if token)
    assert row.count(START) == 1
    assert row.count(END) == 1
    assert row.index(START) == 0
    assert row.index(END) == last


def test_long_texts():
    """Cut to 75 tokens between the marks, with a warning; truncate=False: an error from 76 on."""
    long = "dive " * 90
    with pytest.warns(UserWarning, match="'dive dive.* has 90 tokens. Expected at most 75"):
        row = tokenize(["short", long])[1].tolist()
    assert row[0] == START
    assert row[-1] == END
    assert len(set(row[1:-1])) == 1, "75 times the same word"
    with pytest.raises(ValueError, match="dive.* has 90 tokens. Expected at most 75"):
        tokenize(long, truncate=False)
    assert spelled(tokenize("dive " * 75, truncate=False)[0]) == " ".join(["dive"] * 75)


@given(st.text(max_size=40))
@example("\U0001f938\u200d\u2642\ufe0f 1\u00bd twists")
@example("\ud83e lone surrogate")
@example("na\u00efve \u0130stanbul \u1e9e \u4f60\u597d \u0e2a\u0e27\u0e31 e\u0301\u0300")
@example("it's we'll 3.14 !!?? \x00 <|endoftext|> a_b-c")
def test_round_trip(text):
    """Every text comes back, up to cleaning and blanks; every byte has its token."""
    row = tokenize(text, 400, truncate=False)[0]
    sent = clip_model.clean(text).encode("utf-8", "replace").decode()
    assert "".join(spelled(row).split()) == "".join(sent.split())
    end = row.tolist().index(END)
    assert row[0] == START
    assert (row[1:end] < START).all(), "no marks in between"
    assert not row[end + 1:].any(), "padding is 0"
    assert tokenize([text, "x"], 400)[0].equal(row)


WORDS = "forward back reverse inward 2.5 1 somersaults no twist , free position".split()


@given(st.lists(st.sampled_from(WORDS), max_size=12))
def test_spelled_words_give_the_same_tokens(words):
    """What the tokens of a label spell has the same tokens again."""
    row = tokenize(" ".join(words))
    assert torch.equal(tokenize(spelled(row[0])), row)


def test_folding_keeps_the_toys_words_apart():
    """The modulus is the smallest prime from 600 on without a collision."""
    tokens = set()
    for word in [*TOY_WORDS, *PROMPTS.split()]:
        tokens |= set(tokenize(word)[0].tolist())
    tokens.remove(0)                              # padding

    def keeps_apart(modulus):
        return len({token % modulus for token in tokens}) == len(tokens)

    primes = [p for p in range(600, 3000) if all(p % i for i in range(2, 55))]
    smallest = next(prime for prime in primes if keeps_apart(prime))
    assert smallest == BACKBONES["tiny"].vocab_size


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "tiny"])
def test_nothing_is_folded_in_a_published_backbone(name):
    """Its vocabulary is whole: the largest token stays what it is."""
    assert BACKBONES[name].vocab_size > END > START


# ---- Loading: every key is accounted for ---------------------------------------------------------


@pytest.fixture(scope="module")
def weights():
    return small_weights()


def test_every_key_is_accounted_for(weights, tmp_path):
    """Missing, unexpected and mis-shaped keys are listed together."""
    path = tmp_path / "odd.pt"
    state = dict(weights)
    del state["visual.ln_post.bias"]
    del state["transformer.resblocks.1.mlp.c_fc.weight"]
    state["visual.extra"] = torch.zeros(2)
    state["ln_final.weight"] = torch.ones(7)
    torch.save(state, path)
    with pytest.raises(ValueError) as error:
        load_clip(path)
    told = ("odd.pt", "missing visual.ln_post.bias",
            "missing transformer.resblocks.1.mlp.c_fc.weight", "unexpected visual.extra",
            "ln_final.weight is (7,), not (128,)", "Expected")
    for part in told:
        assert part in str(error.value)


def test_keys_of_another_naming_are_accounted_for(weights, tmp_path):
    """Of a third of a matrix that is missing, the whole is told, by OpenAI's name."""
    path = tmp_path / "odd.pt"
    state = hugging_face(weights)
    del state["text_model.encoder.layers.2.self_attn.k_proj.bias"]
    torch.save(state, path)
    said = "missing transformer.resblocks.2.attn.in_proj_bias; unexpected transf"
    with pytest.raises(ValueError, match=said):
        load_clip(path)


def test_weights_of_something_else(tmp_path):
    """Of hundreds of missing keys the first are named and the others counted."""
    path = tmp_path / "odd.pt"
    torch.save({"fc.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(ValueError, match="missing .*and 283 more. Expected"):
        load_clip(path, image_size=32)


@pytest.mark.parametrize("key", ["visual.proj", "visual.conv1.weight", "token_embedding.weight"])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_keys_of_another_rank(key, shape, weights, tmp_path):
    """The sizes are read from these keys; whatever shape they have, the error is about keys."""
    torch.save({**weights, key: torch.zeros(shape)}, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"keys of .*odd.pt do not fit: .* is \(.*\), not \("):
        load_clip(tmp_path / "odd.pt")


SENSELESS = [(64, 3, 0, 0), (200, 3, 4, 4), (64, 3, 50_000, 1), (100_000, 3, 1, 1)]


@pytest.mark.parametrize("shape", SENSELESS)
def test_sizes_that_make_no_sense(shape, weights, tmp_path):
    """No division by zero, and no CLIP of terabytes is made to be compared with."""
    torch.save({**weights, "visual.conv1.weight": torch.zeros(shape)}, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match="Expected"):
        load_clip(tmp_path / "odd.pt")


def test_another_backbone_is_an_error(weights, tmp_path):
    """A file of other sizes than the backbone that is named."""
    torch.save(weights, tmp_path / "small.pt")
    said = r"visual.conv1.weight is \(64, 3, 4, 4\), not \(96, 3, 10, 10\).*Name the"
    with pytest.raises(ValueError, match=said):
        load_clip(tmp_path / "small.pt", backbone="tiny")


def test_exact_gelu(weights, tmp_path):
    """quick_gelu=False, for weights that were trained so: the same keys, another function."""
    torch.save(weights, tmp_path / "laion.pt")
    clip = load_clip(tmp_path / "laion.pt", quick_gelu=False)
    assert holds_weights(clip, weights)
    assert isinstance(clip.transformer.resblocks[0].mlp.gelu, nn.GELU)


def test_tiny(monkeypatch, tmp_path, capsys):
    """Random weights, always the same, while its file is missing; then the file's."""
    path = tmp_path / "tiny-clip.pt"
    monkeypatch.setattr(clip_model, "TINY", path)
    first = load_clip("tiny")
    torch.rand(1)                                 # the caller's random numbers go on
    state = torch.get_rng_state()
    second = load_clip("tiny", image_size=40)
    assert torch.equal(state, torch.get_rng_state()), "loading has drawn from the caller's numbers"
    assert first.config == BACKBONES["tiny"]
    assert torch.equal(first.visual.proj, second.visual.proj)
    assert second.visual.grid == 4
    assert sum(p.numel() for p in first.parameters()) < 700_000
    said = capsys.readouterr().out
    assert "random weights" in said
    assert "interpolated: 80 -> 40 px" in said

    halves = {name: x.half() for name, x in first.state_dict().items()}
    torch.save(halves, path)
    assert holds_weights(load_clip("tiny"), {name: x.float() for name, x in halves.items()})
    assert "random" not in capsys.readouterr().out


def test_tiny_that_ships(capsys):
    """The file in toy/ holds what the registry says, in finite numbers."""
    clip = load_clip("tiny")
    assert clip.config == BACKBONES["tiny"]
    assert not capsys.readouterr().out, "it is there, and of the right size"
    for name, p in clip.named_parameters():
        assert p.isfinite().all(), name


# ---- Positions ---------------------------------------------------------------------------------


def transposed(positions, grid):
    """Rows and columns of the patches exchanged; the class token's position stays first."""
    patches = positions[1:].reshape(grid, grid, 3).transpose(0, 1)
    return torch.cat([positions[:1], patches.reshape(grid * grid, 3)])


@pytest.mark.parametrize("old, new", [(4, 7), (7, 3), (6, 4)])
def test_positions_are_resized_as_pillow_does(old, new):
    """Bicubic, and smoothed where the grid gets smaller."""
    positions = randn(0, 1 + old * old, 3).float()
    got = fit_positions(positions, new)[1:].reshape(new, new, 3)
    for channel in range(3):
        plane = positions[1:, channel].reshape(old, old).numpy()
        want = Image.fromarray(plane, "F").resize((new, new), Image.Resampling.BICUBIC)
        torch.testing.assert_close(got[..., channel], torch.from_numpy(np.array(want)),
                                   atol=1e-5, rtol=1e-5)


def test_each_colour_has_its_own_mean_and_deviation():
    """CLIP's published six numbers, on 0, 0.4 and 1."""
    frame = torch.tensor([0, 102, 255]).reshape(3, 1, 1)
    want = torch.tensor([-0.48145466 / 0.26862954, (0.4 - 0.4578275) / 0.26130258,
                         (1 - 0.40821073) / 0.27577711])
    torch.testing.assert_close(clip_model.normalise(frame.byte())[:, 0, 0], want)
    torch.testing.assert_close(clip_model.normalise(frame.float())[:, 0, 0], want)


@given(seed=seeds, old=st.integers(1, 5), new=st.integers(1, 7))
def test_positions_interpolation(seed, old, new):
    """The same size changes nothing, a constant stays one, transposing commutes."""
    positions = randn(seed, 1 + old * old, 3)
    assert torch.equal(fit_positions(positions, old), positions)

    patch = positions[1:2]
    flat = torch.cat([positions[:1], patch.expand(old * old, 3)])
    out = fit_positions(flat, new)
    assert out.shape == (1 + new * new, 3)
    assert torch.equal(out[0], positions[0])
    torch.testing.assert_close(out[1:], patch.expand(new * new, 3))

    got = fit_positions(transposed(positions, old), new)
    want = transposed(fit_positions(positions, new), new)
    torch.testing.assert_close(got, want)


def test_other_image_size(weights, tmp_path, capsys):
    """Positions are interpolated, with a note; 0 is the size of the file itself."""
    path = tmp_path / "small.pt"
    torch.save(weights, path)
    clip = load_clip(path, image_size=20)
    assert "note: positions of small.pt interpolated: 12 -> 20 px" in capsys.readouterr().out
    assert clip.visual.grid == 5
    assert clip.encode_image(torch.zeros(2, 3, 20, 20)).shape == (2, 24)
    of_class = weights["visual.positional_embedding"][0]
    assert torch.equal(clip.visual.positional_embedding[0], of_class)

    assert holds_weights(load_clip(path, image_size=12), weights)
    assert holds_weights(load_clip(path, image_size=0), weights)
    assert not capsys.readouterr().out
    with pytest.raises(ValueError, match="image_size 21 cuts patches. Expected a multiple of 4"):
        load_clip(path, image_size=21)
