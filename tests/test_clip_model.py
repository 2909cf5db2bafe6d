"""CLIP: towers against slow oracles, tokenizer, and a model filled with every key accounted for."""

import doctest
import functools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

import clip_model
from clip_model import (
    BACKBONES,
    CLIP,
    END,
    START,
    Attention,
    CLIPConfig,
    QuickGELU,
    ResidualAttentionBlock,
    fit_positions,
    load_clip,
    tokenize,
)
from strategies import randn, seeds, sizes
from support.checks import unknown_name
from toy.captions import TOY_WORDS

SMALL = CLIPConfig(
    embed_dim=24,
    image_size=12,
    patch_size=4,
    vision_width=64,
    vision_layers=2,
    vision_heads=1,
    context_length=10,
    vocab_size=521,
    text_width=128,
    text_heads=2,
    text_layers=3,
)
PROMPTS = "a video of action, gymnastic diving. This is a video about"


def seeded(config=SMALL, dtype=torch.float64):
    """A CLIP of random parameters, biases and norms included, so that no term can hide."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        clip = CLIP(config).to(dtype).eval()
        for parameter in clip.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return clip


def test_unknown_name_gives_the_nearest():
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
    assert failed == 0 and tried >= 10


# ---- Towers ------------------------------------------------------------------------------------


def block_shapes(prefix, d):
    """Names and shapes of one block as OpenAI publishes them."""
    return {
        f"{prefix}.{name}": shape
        for name, shape in {
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
        }.items()
    }


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
    assert {key: tuple(value.shape) for key, value in clip.state_dict().items()} == expected
    assert len(expected) == count
    assert sum(p.numel() for p in clip.parameters()) == parameters
    heads = (BACKBONES[name].vision_heads, BACKBONES[name].text_heads)
    assert heads == (d // 64, text // 64)


def test_runs_on_the_meta_device():
    """Costs are counted there: no step may need a value."""
    with torch.device("meta"):
        clip = CLIP(SMALL)
    assert clip.encode_image(torch.empty(2, 3, 12, 12, device="meta")).shape == (2, 24)
    shapes = [x.shape for x in clip.encode_text(torch.zeros(5, 9, dtype=torch.long, device="meta"))]
    assert shapes == [(5, 24), (5, 9, 24), (5, 9)]


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
    assert not block.attn.out_proj.bias.any() and not block.attn.in_proj_bias.any()


@torch.no_grad()
def slow_attention(attn, x, mask):
    """One sequence x (n, d), a query and a key at a time -> (n, d), weights (h, n, n)."""
    n, d = x.shape
    c = d // attn.heads
    q, k, v = (x @ attn.in_proj_weight.T + attn.in_proj_bias).split(d, 1)
    out, weights = torch.zeros_like(x), x.new_zeros(attn.heads, n, n)
    for head in range(attn.heads):
        part = slice(head * c, head * c + c)
        for i in range(n):
            seen = [j for j in range(n) if mask is None or mask[i, j]]
            scores = [math.exp(float(q[i, part] @ k[j, part]) / math.sqrt(c)) for j in seen]
            for j, score in zip(seen, scores):
                weights[head, i, j] = score / sum(scores)
                out[i, part] += score / sum(scores) * v[j, part]
    return out @ attn.out_proj.weight.T + attn.out_proj.bias, weights


def random_attention(seed, width, heads):
    attn = Attention(width, heads).double()
    attn.load_state_dict(
        {k: randn(seed + i, *v.shape) / 4 for i, (k, v) in enumerate(attn.state_dict().items())}
    )
    return attn


@given(seeds, sizes, st.integers(1, 5), st.sampled_from([1, 2, 4]), st.booleans())
def test_attention_oracles(seed, b, n, heads, masked):
    """Vectorised attention, PyTorch's own module and a loop give the same."""
    attn, x = random_attention(seed, 8, heads), randn(seed, b, n, 8)
    mask = (randn(seed + 1, n, n) > 0) | torch.eye(n, dtype=torch.bool) if masked else None
    theirs = nn.MultiheadAttention(8, heads, batch_first=True).double()
    theirs.load_state_dict(attn.state_dict())
    out, weights = attn(x, mask, need_weights=True)
    torch.testing.assert_close(out, theirs(x, x, x, attn_mask=None if mask is None else ~mask)[0])
    for one, own, row in zip(x, out, weights):
        slow, slow_weights = slow_attention(attn, one, mask)
        torch.testing.assert_close(own, slow)
        torch.testing.assert_close(row.double(), slow_weights[:, 0].mean(0), atol=1e-6, rtol=1e-5)


@given(seeds, sizes, sizes, st.integers(1, 5))
def test_class_weights(seed, B, T, n):
    """Free leading axes; rows sum to one; hidden tokens weigh nothing; same output."""
    attn, x = random_attention(seed, 8, 2), randn(seed, B, T, n, 8)
    mask = (randn(seed + 1, B, T, n, n) > 0) | torch.eye(n, dtype=torch.bool)
    out, weights = attn(x, mask, need_weights=True)
    assert out.shape == x.shape and weights.shape == (B, T, n)
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, T))
    assert (weights[~mask[..., 0, :]] == 0).all() and (weights >= 0).all()
    assert torch.equal(out, attn(x, mask))
    torch.testing.assert_close(out[0, 0], attn(x[0, 0], mask[0, 0]))


def test_attention_of_a_transposed_view():
    """Time and tokens exchanged without a copy, as attention over time has it: same result."""
    attn, x = random_attention(0, 8, 2), randn(1, 2, 5, 3, 8)
    view = x.transpose(1, 2)
    assert not view.is_contiguous()
    got, weights = attn(view, need_weights=True)
    want, same_weights = attn(view.contiguous(), need_weights=True)
    assert torch.equal(got, want) and torch.equal(weights, same_weights)


def test_heads_share_the_width():
    with pytest.raises(ValueError, match="width 10 with 3 heads. Expected a multiple"):
        Attention(10, 3)


def test_class_weights_carry_gradients_and_empty_batches():
    attn = random_attention(0, 8, 2)
    x = randn(1, 2, 4, 8).requires_grad_()
    attn(x, need_weights=True)[1][:, 1].sum().backward()
    assert x.grad.abs().sum() > 0
    assert attn(torch.zeros(0, 3, 4, 8, dtype=torch.float64)).shape == (0, 3, 4, 8)


@torch.no_grad()
def slow_block(block, x, mask=None):
    """One block on one sequence, each part written out."""

    def norm(layer, x):
        mean, var = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
        return (x - mean) / torch.sqrt(var + 1e-5) * layer.weight + layer.bias

    x = x + slow_attention(block.attn, norm(block.ln_1, x), mask)[0]
    hidden = norm(block.ln_2, x) @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias
    hidden = hidden / (1 + torch.exp(-1.702 * hidden))
    return x + hidden @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias


def test_block():
    block = seeded().transformer.resblocks[1]
    x, mask = randn(0, 2, 6, 128), torch.ones(6, 6, dtype=torch.bool).tril()
    for m in (None, mask):
        torch.testing.assert_close(
            block(x, m), torch.stack([slow_block(block, one, m) for one in x])
        )
    exact = ResidualAttentionBlock(128, 2, 3, quick_gelu=False).double()
    exact.load_state_dict(block.state_dict())
    assert not torch.allclose(exact(x), block(x)) and isinstance(exact.mlp.gelu, nn.GELU)


def test_quick_gelu_and_its_slope():
    """The formula, and the slope written by hand against finite differences."""
    x = torch.linspace(-6, 6, 40, dtype=torch.float64, requires_grad=True)
    assert torch.allclose(QuickGELU()(x), x * torch.sigmoid(1.702 * x), atol=1e-14)
    assert torch.autograd.gradcheck(QuickGELU(), x)
    assert not QuickGELU()(x.detach()).requires_grad


def test_vision_tower():
    """Patches cut by loops and multiplied by the kernel, tokens row by row, blocks written out."""
    clip, images = seeded(), randn(5, 2, 3, 12, 12)
    tower, expected = clip.visual, []
    for image in images:
        patches = [
            torch.einsum("dcyx,cyx->d", tower.conv1.weight, image[:, y : y + 4, x : x + 4])
            for y in range(0, 12, 4)
            for x in range(0, 12, 4)
        ]
        x = torch.stack([tower.class_embedding, *patches]) + tower.positional_embedding
        x = nn.functional.layer_norm(x, (64,), tower.ln_pre.weight, tower.ln_pre.bias)
        torch.testing.assert_close(tower.embed(image[None])[0], x)
        for block in tower.transformer.resblocks:
            x = slow_block(block, x)
        x = nn.functional.layer_norm(x[0], (64,), tower.ln_post.weight, tower.ln_post.bias)
        expected.append(x @ tower.proj)
    torch.testing.assert_close(clip.encode_image(images), torch.stack(expected))
    torch.testing.assert_close(clip.encode_image(images)[1:], clip.encode_image(images[1:]))
    assert tower.grid == 3
    with pytest.raises(
        ValueError,
        match=r"images has the shape \(1, 3, 8, 12\). Expected \(B, 3, S, S\) with {'S': 12}",
    ):
        tower.embed(torch.zeros(1, 3, 8, 12))


def test_sentence_words():
    """Words are all tokens, the sentence is the end token's; the slow text tower gives the same."""
    clip, tokens = seeded(), tokenize(["jump", "", "a forward dive in pike"], 10)
    with torch.no_grad():
        sentences, words, mask = clip.encode_text(tokens)
    assert sentences.shape == (3, 24) and words.shape == (3, 10, 24) and mask.dtype == torch.bool
    for row, sentence, own, real in zip(tokens.tolist(), sentences, words, mask):
        end = row.index(END)
        x = clip.token_embedding.weight[[t % 521 for t in row]] + clip.positional_embedding
        for block in clip.transformer.resblocks:
            x = slow_block(block, x, torch.ones(10, 10, dtype=torch.bool).tril())
        x = (
            nn.functional.layer_norm(x, (128,), clip.ln_final.weight, clip.ln_final.bias)
            @ clip.text_projection
        )
        torch.testing.assert_close(own, x)
        assert torch.equal(sentence, own[end])
        assert real.tolist() == [0 < i < end for i in range(10)]
    assert mask.sum(1).tolist() == [1, 0, 5]
    with pytest.raises(ValueError, match="texts of 77 tokens. Expected at most 10"):
        clip.encode_text(tokenize("jump"))


@given(seeds, st.integers(1, 8))
def test_later_tokens_change_nothing_earlier(seed, i):
    """Causal mask: what follows token i, padding included, does not change those before it."""
    clip = causal_clip()
    tokens = torch.randint(1, 49000, (2, 10), generator=torch.Generator().manual_seed(seed))
    other = tokens.clone()
    other[:, i:] = torch.randint(
        1, 49000, (2, 10 - i), generator=torch.Generator().manual_seed(seed + 1)
    )
    with torch.no_grad():
        a, b = clip.encode_text(tokens)[1], clip.encode_text(other)[1]
        torch.testing.assert_close(a[:, :i], b[:, :i])
        torch.testing.assert_close(a[:, :i], clip.encode_text(tokens[:, :i])[1])
        torch.testing.assert_close(a[1:], clip.encode_text(tokens[1:])[1])
    assert clip.causal_mask(3).tolist() == [[True, False, False], [True, True, False], [True] * 3]


causal_clip = functools.cache(seeded)


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
    assert tokenize("hello world")[0, :5].tolist() == [49406, 3306, 1002, 49407, 0]
    assert tokenize(["hello world"]).shape == (1, 77) and tokenize([]).shape == (0, 77)
    assert tokenize("a photo of a cat")[0, :8].tolist() == [
        49406,
        320,
        1125,
        539,
        320,
        2368,
        49407,
        0,
    ]
    ranks, numbers, letters, _ = clip_model._vocabulary()
    assert len(ranks) == 48894 and len(numbers) == 49408 and len(letters) == 256
    assert numbers["<|startoftext|>"] == START == 49406 and numbers["<|endoftext|>"] == END == 49407


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
    assert tokenize(text, 5).tolist() == [[START, END, 0, 0, 0]]
    assert spelled(tokenize(text)[0]) == ""


def test_special_tokens_in_a_text_are_words():
    row = tokenize("<|endoftext|> dive <|startoftext|>")[0].tolist()
    assert (
        row.count(END) == 1
        and row.count(START) == 1
        and row.index(END) == max(i for i, t in enumerate(row) if t)
    )


def test_long_texts():
    long = "dive " * 90
    with pytest.warns(UserWarning, match="'dive dive.* has 90 tokens. Expected at most 75"):
        row = tokenize(["short", long])[1]
    assert row[0] == START and row[-1] == END and len(set(row[1:-1].tolist())) == 1
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
    assert row[0] == START and not row[end + 1 :].any() and (row[1:end] < START).all()
    assert tokenize([text, "x"], 400)[0].equal(row)


@given(
    st.lists(
        st.sampled_from(
            "forward back reverse inward 2.5 1 somersaults no twist , free position".split()
        ),
        max_size=12,
    )
)
def test_spelled_words_give_the_same_tokens(words):
    row = tokenize(" ".join(words))
    assert torch.equal(tokenize(spelled(row[0])), row)


def test_folding_keeps_the_toys_words_apart():
    """The modulus is the smallest prime from 600 on without a collision."""
    tokens = {
        t for word in [*TOY_WORDS, *PROMPTS.split()] for t in tokenize(word)[0].tolist() if t
    }

    def apart(modulus):
        return len({t % modulus for t in tokens}) == len(tokens)

    primes = [p for p in range(600, 3000) if all(p % i for i in range(2, 55))]
    assert next(filter(apart, primes)) == BACKBONES["tiny"].vocab_size
    for name, config in BACKBONES.items():
        assert name == "tiny" or all(t % config.vocab_size == t for t in (0, START, END))


# ---- Loading: every key is accounted for; formats and downloads are in test_clip_weights.py ------


def hugging_face(state):
    """OpenAI's naming -> Hugging Face's CLIPModel, stated apart from the loader's table."""
    out = {
        "logit_scale": state["logit_scale"],
        "visual_projection.weight": state["visual.proj"].T,
        "text_projection.weight": state["text_projection"].T,
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "text_model.embeddings.position_ids": torch.arange(10)[None],
        "vision_model.embeddings.position_ids": torch.arange(10)[None],
    }
    for kind in ("weight", "bias"):
        for theirs, ours in (
            ("vision_model.pre_layrnorm", "visual.ln_pre"),
            ("text_model.final_layer_norm", "ln_final"),
            ("vision_model.post_layernorm", "visual.ln_post"),
        ):
            out[f"{theirs}.{kind}"] = state[f"{ours}.{kind}"]
        for tower, stem, layers in (
            ("vision_model", "visual.transformer", 2),
            ("text_model", "transformer", 3),
        ):
            for i in range(layers):
                there, here = f"{tower}.encoder.layers.{i}", f"{stem}.resblocks.{i}"
                for part, name in zip(state[f"{here}.attn.in_proj_{kind}"].chunk(3), "qkv"):
                    out[f"{there}.self_attn.{name}_proj.{kind}"] = part
                for theirs, ours in (
                    ("self_attn.out_proj", "attn.out_proj"),
                    ("layer_norm1", "ln_1"),
                    ("layer_norm2", "ln_2"),
                    ("mlp.fc1", "mlp.c_fc"),
                    ("mlp.fc2", "mlp.c_proj"),
                ):
                    out[f"{there}.{theirs}.{kind}"] = state[f"{here}.{ours}.{kind}"]
    return {key: value.contiguous() for key, value in out.items()}


def small_weights():
    """A small CLIP of which all values fit in 16 bits, so that half precision loses nothing."""
    clip = seeded(dtype=torch.float16).float()
    return clip.state_dict()


@pytest.fixture(scope="module")
def weights():
    return small_weights()


def equal(clip, state):
    """Same keys and values, and float32, eval mode, trainable parameters as promised."""
    own = clip.state_dict()
    assert all(
        p.requires_grad and p.dtype == torch.float32 and p.is_contiguous()
        for p in clip.parameters()
    )
    return (
        not clip.training
        and own.keys() == state.keys()
        and all(torch.equal(own[k], state[k]) for k in own)
    )


def test_every_key_is_accounted_for(weights, tmp_path):
    """Missing, unexpected and mis-shaped keys are listed together, in every naming."""
    state = dict(weights)
    del state["visual.ln_post.bias"], state["transformer.resblocks.1.mlp.c_fc.weight"]
    state |= {"visual.extra": torch.zeros(2), "ln_final.weight": torch.ones(7)}
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(ValueError) as error:
        load_clip(tmp_path / "odd.pt")
    for part in (
        "missing visual.ln_post.bias",
        "missing transformer.resblocks.1.mlp.c_fc.weight",
        "odd.pt",
        "unexpected visual.extra",
        "ln_final.weight is (7,), not (128,)",
        "Expected",
    ):
        assert part in str(error.value)
    state = hugging_face(weights)
    del state["text_model.encoder.layers.2.self_attn.k_proj.bias"]
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(
        ValueError, match="missing transformer.resblocks.2.attn.in_proj_bias; unexpected transf"
    ):
        load_clip(tmp_path / "odd.pt")
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match="missing .*and 283 more. Expected"):
        load_clip(tmp_path / "odd.pt", image_size=32)


@pytest.mark.parametrize("key", ["visual.proj", "visual.conv1.weight", "token_embedding.weight"])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_keys_of_another_rank(key, shape, weights, tmp_path):
    """The sizes are read from these keys; whatever shape they have, the error is about keys."""
    torch.save({**weights, key: torch.zeros(shape)}, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=r"keys of .*odd.pt do not fit: .* is \(.*\), not \("):
        load_clip(tmp_path / "odd.pt")


@pytest.mark.parametrize(
    "shape", [(64, 3, 0, 0), (200, 3, 4, 4), (64, 3, 50_000, 1), (100_000, 3, 1, 1)]
)
def test_sizes_that_make_no_sense(shape, weights, tmp_path):
    """No division by zero, and no CLIP of terabytes is made to be compared with."""
    torch.save({**weights, "visual.conv1.weight": torch.zeros(shape)}, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match="Expected"):
        load_clip(tmp_path / "odd.pt")


def test_another_backbone_is_an_error(weights, tmp_path):
    torch.save(weights, tmp_path / "small.pt")
    with pytest.raises(
        ValueError, match=r"visual.conv1.weight is \(64, 3, 4, 4\), not \(96, 3, 10, 10\).*Name the"
    ):
        load_clip(tmp_path / "small.pt", backbone="tiny")


def test_exact_gelu(weights, tmp_path):
    torch.save(weights, tmp_path / "laion.pt")
    clip = load_clip(tmp_path / "laion.pt", quick_gelu=False)
    assert equal(clip, weights) and isinstance(clip.transformer.resblocks[0].mlp.gelu, nn.GELU)


def test_tiny(monkeypatch, tmp_path, capsys):
    """Random weights, always the same, while its file is missing; then the file's."""
    monkeypatch.setattr(clip_model, "TINY", tmp_path / "tiny-clip.pt")
    first, _, state = load_clip("tiny"), torch.rand(1), torch.get_rng_state()
    second = load_clip("tiny", image_size=40)
    assert torch.equal(state, torch.get_rng_state()) and first.config == BACKBONES["tiny"]
    out = capsys.readouterr().out
    assert "random weights" in out and "interpolated: 80 -> 40 px" in out
    assert torch.equal(first.visual.proj, second.visual.proj) and second.visual.grid == 4
    assert sum(p.numel() for p in first.parameters()) < 700_000
    half = {k: v.half() for k, v in first.state_dict().items()}
    torch.save(half, tmp_path / "tiny-clip.pt")
    assert equal(load_clip("tiny"), {k: v.float() for k, v in half.items()})
    assert "random" not in capsys.readouterr().out


def test_tiny_that_ships(capsys):
    """The file in toy/ holds what the registry says, in finite numbers."""
    clip = load_clip("tiny")
    assert clip.config == BACKBONES["tiny"] and not capsys.readouterr().out
    assert all(p.isfinite().all() for p in clip.parameters())


# ---- Positions ---------------------------------------------------------------------------------


@given(seeds, st.integers(1, 5), st.integers(1, 7))
def test_positions_interpolation(seed, old, new):
    """The same size changes nothing, a constant stays one, transposing commutes."""
    positions = randn(seed, 1 + old * old, 3)
    assert torch.equal(fit_positions(positions, old), positions)
    flat = torch.cat([positions[:1], positions[1:2].expand(old * old, 3)])
    out = fit_positions(flat, new)
    assert out.shape == (1 + new * new, 3) and torch.equal(out[0], positions[0])
    torch.testing.assert_close(out[1:], positions[1:2].expand(new * new, 3))

    def turned(x, g):
        return torch.cat([x[:1], x[1:].reshape(g, g, 3).transpose(0, 1).reshape(g * g, 3)])

    torch.testing.assert_close(
        fit_positions(turned(positions, old), new), turned(fit_positions(positions, new), new)
    )


def test_other_image_size(weights, tmp_path, capsys):
    torch.save(weights, tmp_path / "small.pt")
    clip = load_clip(tmp_path / "small.pt", image_size=20)
    assert "note: positions of small.pt interpolated: 12 -> 20 px" in capsys.readouterr().out
    assert clip.visual.grid == 5 and clip.encode_image(torch.zeros(2, 3, 20, 20)).shape == (2, 24)
    assert torch.equal(
        clip.visual.positional_embedding[0], weights["visual.positional_embedding"][0]
    )
    assert equal(load_clip(tmp_path / "small.pt", image_size=12), weights)
    assert (
        equal(load_clip(tmp_path / "small.pt", image_size=0), weights)
        and not capsys.readouterr().out
    )
    with pytest.raises(ValueError, match="image_size 21 cuts patches. Expected a multiple of 4"):
        load_clip(tmp_path / "small.pt", image_size=21)
