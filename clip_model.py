"""CLIP from raw PyTorch: tokenizer, image and text transformer, loading of published weights.

PeVL adapts a frozen CLIP (Sec. 3.1). This file is that CLIP and nothing else: state-dict names and
shapes equal those of OpenAI's release, so published weights load unchanged, and each part
(attention, block, embedding, read-out) can be called alone, since pevl.py runs the frozen blocks
itself and puts its adapters between their parts.

section    | what it is                       | function or class                 | test
-----------+----------------------------------+-----------------------------------+---------------------
Sec. 3.1   | vision transformer, class token  | VisionTransformer                 | test_vision_tower
Sec. 3.1   | frozen block: MSA and MLP        | Attention, ResidualAttentionBlock | test_block
Sec. 3.2.1 | class token's attention (joints) | Attention, need_weights=True      | test_class_weights
Sec. 3.3.1 | sentence and words of a text     | CLIP.encode_text, CLIP.read_text  | test_sentence_and_words
Sec. 4     | backbones ViT-B/16 and ViT-L/14  | BACKBONES, load_clip              | test_published_shapes

Tensors: images (B, 3, S, S) float, normalised by CLIP_MEAN and CLIP_STD; tokens (K, W) int64, zeros
after the end token; N patches, Nv = 1 + N tokens with the class token first; d width of a tower;
e joint embedding size; h heads of size c = d / h.

Departures from OpenAI's code: batch first; the image tower's blocks start like the text tower's
(theirs start from PyTorch's defaults; of influence on the tiny backbone alone); token numbers are
taken modulo the vocabulary size (the identity for CLIP's 49,408 entries, feature hashing for the
tiny backbone, see BACKBONES); the special tokens written out in a text are words like any other, so
that a row of tokens has one start and one end.
"""
import collections
import dataclasses
import difflib
import functools
import gzip
import hashlib
import html
import math
import os
import pickle
import sys
import time
import urllib.error
import urllib.request
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)     # of RGB in [0, 1], over CLIP's training images
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
START, END = 49406, 49407                           # <|startoftext|>, <|endoftext|>
ASSETS = Path(__file__).resolve().parent / "assets"


# ---- Checks shared by all files ----------------------------------------------------------------

def check_shape(x, spec, name="tensor", /, **sizes):
    """Check x's shape against e.g. "B T J 2" or "... n d"; give sizes by letter or raise ValueError.

    A letter names a size (equal letters must agree, `sizes` fixes some beforehand), a number is that
    size, a leading `...` stands for any number of axes. Shapes alone are read: it costs nothing.
    """
    axes, shape = spec.split(), tuple(x.shape)
    if axes[0] == "...":
        axes = axes[1:]
        shape = shape[max(0, len(shape) - len(axes)):]
    found, wrong = dict(sizes), []
    if len(shape) != len(axes):
        wrong.append(f"it has {x.dim()} axes")
    for axis, size in zip(axes, shape) if not wrong else ():
        expected = int(axis) if axis.isdigit() else found.setdefault(axis, size)
        if size != expected:
            wrong.append(f"axis {axis} is {size}, not {expected}")
    if wrong:
        raise ValueError(f"{name} of shape {tuple(x.shape)}: {'; '.join(wrong)}. "
                         f"Expected ({', '.join(spec.split())}){f', {sizes}' if sizes else ''}. "
                         f"Check what is passed as {name}.")
    return found


def unknown_name(what, name, choices):
    """ValueError for a name that is none of `choices`; it names the nearest one, if any."""
    plain = {str(c).lower(): str(c) for c in choices}
    near = difflib.get_close_matches(str(name).lower(), plain, n=1)
    hint = f"Did you mean {plain[near[0]]!r}?" if near else "Choose one of these."
    names = ", ".join(map(str, choices))
    return ValueError(f"unknown {what} {name!r}. Expected one of {names}. {hint}")


# ---- Backbones ---------------------------------------------------------------------------------

@dataclass(frozen=True)
class CLIPConfig:
    """Sizes of both towers; `file` and `sha256` name the weights that OpenAI published ("": none)."""
    embed_dim: int                                  # e, joint embedding size
    image_size: int                                 # S, pixels
    patch_size: int                                 # pixels
    vision_width: int                               # d of the image tower
    vision_layers: int
    vision_heads: int
    context_length: int                             # W, tokens of a text at most
    vocab_size: int                                 # token numbers are taken modulo this size
    text_width: int                                 # d of the text tower
    text_heads: int
    text_layers: int
    quick_gelu: bool = True                         # OpenAI's GELU; False: the exact one (LAION)
    file: str = ""
    sha256: str = ""

    @property
    def grid(self):
        """Patches per side; N = grid ** 2."""
        return self.image_size // self.patch_size


BACKBONES = {
    "ViT-B/32": CLIPConfig(
        512, 224, 32, 768, 12, 12, 77, 49408, 512, 8, 12, file="ViT-B-32.pt",
        sha256="40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"),
    "ViT-B/16": CLIPConfig(
        512, 224, 16, 768, 12, 12, 77, 49408, 512, 8, 12, file="ViT-B-16.pt",
        sha256="5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"),
    "ViT-L/14": CLIPConfig(
        768, 224, 14, 1024, 24, 16, 77, 49408, 768, 12, 12, file="ViT-L-14.pt",
        sha256="b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"),
    "ViT-L/14@336px": CLIPConfig(
        768, 336, 14, 1024, 24, 16, 77, 49408, 768, 12, 12, file="ViT-L-14-336px.pt",
        sha256="3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"),
    # Ours, for the toy benchmark: half a million parameters. A full vocabulary would be 3.2 M more,
    # so token numbers are folded by a prime.
    # 1381: the smallest prime from 600 on that keeps the words of the toy benchmark and of the
    # prompts apart when token numbers are folded (see embed_text).
    "tiny": CLIPConfig(64, 80, 10, 96, 3, 4, 32, 1381, 64, 2, 2),
}


# ---- Transformer -------------------------------------------------------------------------------

class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), the GELU approximation that OpenAI's weights were trained with."""

    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Multi-head self-attention; parameters are named and shaped as those of nn.MultiheadAttention.

    attention(q, k, v) = softmax(q k^T / sqrt(c)) v for each head, then out_proj
    """

    def __init__(self, width, heads):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads. Expected a multiple "
                             "of the heads. Change one of the two in the CLIPConfig.")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))       # rows: q, k, v
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.normal_(self.in_proj_weight, std=width ** -0.5)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x, mask=None, need_weights=False):
        """x (..., n, d), any leading axes -> (..., n, d).

        mask: bool, true = may be looked at, (n, n) or (*leading, n, n), rows are queries; each row
        needs one true. need_weights: also give class_weights (..., n), float32, sum 1: how token 0
        attends to each token, mean over heads. That one row is a softmax written out; the output
        comes from the fused attention either way.
        """
        *lead, n, d = x.shape
        b, h, c = math.prod(lead), self.heads, d // self.heads
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)       # (..., n, 3 d)
        qkv = qkv.reshape(b, n, 3, h, c).permute(2, 0, 3, 1, 4)         # (3, b, h, n, c)
        q, k, v = qkv.unbind(0)                                         # each (b, h, n, c)
        if mask is not None and mask.dim() > 2:
            mask = mask.expand(*lead, n, n).reshape(b, 1, n, n)         # the same for all heads
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)   # (b, h, n, c)
        out = self.out_proj(out.transpose(1, 2).reshape(*lead, n, d))   # (..., n, d)
        if not need_weights:
            return out
        scores = (q[:, :, :1] @ k.transpose(2, 3)).float() * c ** -0.5  # (b, h, 1, n)
        if mask is not None:
            scores = scores.masked_fill(~mask[..., :1, :], -math.inf)
        weights = scores.softmax(-1).mean(1)                            # (b, 1, n)
        return out, weights.reshape(*lead, n)


class ResidualAttentionBlock(nn.Module):
    """Pre-norm block: x = x + attn(ln_1(x)); x = x + mlp(ln_2(x))."""

    def __init__(self, width, heads, layers, quick_gelu=True):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(collections.OrderedDict(
            c_fc=nn.Linear(width, 4 * width), gelu=QuickGELU() if quick_gelu else nn.GELU(),
            c_proj=nn.Linear(4 * width, width)))
        # CLIP's start: each of the 2 additions of a layer shrinks as the layers grow in number.
        nn.init.normal_(self.attn.out_proj.weight, std=(2 * layers * width) ** -0.5)
        nn.init.normal_(self.mlp.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(self.mlp.c_proj.weight, std=(2 * layers * width) ** -0.5)

    def forward(self, x, mask=None):
        """x (..., n, d) -> (..., n, d); mask as in Attention."""
        x = x + self.attn(self.ln_1(x), mask)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of blocks, `resblocks`."""

    def __init__(self, width, layers, heads, quick_gelu=True):
        super().__init__()
        self.resblocks = nn.ModuleList(
            ResidualAttentionBlock(width, heads, layers, quick_gelu) for _ in range(layers))

    def forward(self, x, mask=None):
        for block in self.resblocks:
            x = block(x, mask)
        return x


class VisionTransformer(nn.Module):
    """CLIP's image tower in three parts that pevl.py calls alone: embed, transformer, read_out."""

    def __init__(self, config):
        super().__init__()
        width, self.image_size, self.grid = config.vision_width, config.image_size, config.grid
        self.conv1 = nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + self.grid ** 2, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, config.vision_layers, config.vision_heads,
                                       config.quick_gelu)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, config.embed_dim))
        for parameter in (self.class_embedding, self.positional_embedding, self.proj):
            nn.init.normal_(parameter, std=width ** -0.5)

    def embed(self, images, extra=0.0):
        """images (B, 3, S, S) float, normalised -> tokens (B, Nv, d): class then patches by row.

        extra (B, 1, d) is added with the positions, before ln_pre: place of AIM's temporal embedding.
        """
        B = check_shape(images, "B 3 S S", "images", S=self.image_size)["B"]
        x = self.conv1(images)                                          # (B, d, grid, grid)
        x = x.flatten(2).transpose(1, 2)                                # (B, d, N) -> (B, N, d)
        first = self.class_embedding.to(x.dtype).expand(B, 1, -1)       # (B, 1, d)
        x = torch.cat([first, x], 1) + self.positional_embedding        # (B, Nv, d)
        return self.ln_pre(x + extra)

    def read_out(self, tokens):
        """tokens (..., d) -> (..., e) in the joint space of image and text, not normalised."""
        return self.ln_post(tokens) @ self.proj

    def forward(self, images):
        """images (B, 3, S, S) -> (B, e), read from the class token."""
        return self.read_out(self.transformer(self.embed(images))[:, 0])


class CLIP(nn.Module):
    """Image and text tower; parameters are named and shaped as in OpenAI's release."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.visual = VisionTransformer(config)
        width = config.text_width
        self.transformer = Transformer(width, config.text_layers, config.text_heads,
                                       config.quick_gelu)
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, width))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, config.embed_dim))
        self.logit_scale = nn.Parameter(torch.empty(()))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width ** -0.5)
        nn.init.constant_(self.logit_scale, math.log(1 / 0.07))         # kept as a logarithm

    def encode_image(self, images):
        """images (B, 3, S, S) float, by CLIP_MEAN and CLIP_STD -> (B, e), not normalised."""
        return self.visual(images)

    def embed_text(self, tokens):
        """tokens (K, W) int64, W <= context_length -> (K, W, d), ready for the text blocks."""
        W = check_shape(tokens, "K W", "tokens")["W"]
        if W > self.config.context_length:
            raise ValueError(
                f"texts of {W} tokens. Expected at most {self.config.context_length}, this CLIP's "
                f"context. Call tokenize(texts, context_length={self.config.context_length}).")
        x = self.token_embedding(tokens % self.config.vocab_size)       # (K, W, d)
        return x + self.positional_embedding[:W]

    def causal_mask(self, W):
        """(W, W) bool, true = may be looked at: token i sees tokens 0 to i."""
        device = self.positional_embedding.device
        return torch.ones(W, W, dtype=torch.bool, device=device).tril()

    def read_text(self, x, tokens):
        """x (K, W, d) as it leaves the blocks, tokens (K, W) -> sentences, words, word_mask.

        sentences (K, e): the end token's; words (K, W, e): every token's; neither normalised.
        word_mask (K, W) bool: true on real word tokens; start, end and padding are out. A one-word
        text has one true, an empty text none: whoever averages over words must stay finite there.
        The padding is of no influence: it follows the end token, and attention looks back alone.
        """
        K, W = check_shape(tokens, "K W", "tokens", K=x.shape[0], W=x.shape[1]).values()
        words = self.ln_final(x) @ self.text_projection                 # (K, W, e)
        end = tokens.argmax(-1)                                         # (K,): END is the largest
        sentences = words[torch.arange(K, device=x.device), end]        # (K, e)
        place = torch.arange(W, device=x.device)                        # (W,)
        return sentences, words, (place > 0) & (place < end[:, None])   # mask (K, W)

    def encode_text(self, tokens):
        """tokens (K, W) -> sentences (K, e), words (K, W, e), word_mask (K, W) bool: read_text."""
        x = self.transformer(self.embed_text(tokens), self.causal_mask(tokens.shape[1]))
        return self.read_text(x, tokens)


# ---- Tokenizer: byte-level BPE over CLIP's published merges ------------------------------------

@functools.lru_cache(maxsize=1)
def _vocabulary():
    """(rank by merge, number by token, letter by byte, pattern of words), read once per process.

    Every byte has a printable letter of its own, so that merges and tokens are plain strings; the
    last letter of a word carries `</w>`. Numbers: 256 letters, 256 marked ones, merges, start, end.
    """
    import regex                                    # here, since only texts need it (for \\p{L})
    with gzip.open(ASSETS / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    merges = [tuple(line.split()) for line in lines[1:49408 - 512 - 2 + 1]]     # CLIP uses 48,894
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]           # ! to ~, Latin-1
    others = [b for b in range(256) if b not in set(printable)]
    letters = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    tokens = [*letters.values(), *(letter + "</w>" for letter in letters.values()),
              *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    words = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
    ranks, numbers = ({key: i for i, key in enumerate(keys)} for keys in (merges, tokens))
    return ranks, numbers, letters, words


@functools.lru_cache(maxsize=65536)
def _word_tokens(word):
    """Numbers of a word's tokens: from letters on, join the pair of lowest rank while there is one."""
    ranks, numbers, letters, _ = _vocabulary()
    parts = [letters[b] for b in word.encode("utf-8", "replace")]
    parts[-1] += "</w>"
    while len(parts) > 1:
        best = min(zip(parts, parts[1:]), key=lambda pair: ranks.get(pair, math.inf))
        if best not in ranks:
            break
        joined, i = [], 0
        while i < len(parts):
            pair = tuple(parts[i:i + 2]) == best
            joined.append(parts[i] + parts[i + 1] if pair else parts[i])
            i += 2 if pair else 1
        parts = joined
    return tuple(numbers[part] for part in parts)


def clean(text):
    """Text as CLIP saw it: encodings and HTML entities repaired, single blanks, lower case."""
    import ftfy
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()


def tokenize(texts, context_length=77, truncate=True):
    """Texts -> LongTensor (K, context_length): start token, the words' tokens, end token, zeros.

    texts: a string or a sequence of strings; an empty one gives start and end alone. A text that is
    too long is cut, keeps its end token and is named in a warning; truncate=False: an error.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    if context_length < 2:
        raise ValueError(f"context_length {context_length}. Expected at least 2, for start and "
                         "end. Pass a larger one.")
    out, cut = torch.zeros(len(texts), context_length, dtype=torch.long), []
    for row, text in zip(out, texts):
        if not isinstance(text, str):
            raise ValueError(f"cannot tokenize {text!r:.60}, a {type(text).__name__}. "
                             "Expected a string or a sequence of strings. Pass the label's words.")
        numbers = [n for word in _vocabulary()[3].findall(clean(text)) for n in _word_tokens(word)]
        if len(numbers) > context_length - 2:
            cut.append((text, len(numbers)))
            numbers = numbers[:context_length - 2]
        row[:len(numbers) + 2] = torch.tensor([START, *numbers, END])
    if cut:
        what = (f"{len(cut)} of {len(texts)} texts too long, first {cut[0][0]!r:.80} with "
                f"{cut[0][1]} tokens. Expected at most {context_length - 2} beside start and end.")
        if not truncate:
            raise ValueError(f"{what} Shorten the text or pass truncate=True.")
        warnings.warn(f"{what} Their ends are cut off.", stacklevel=2)
    return out


def decode(tokens):
    """One row of tokens -> its words with single blanks between, up to the first end token."""
    _, numbers, letters, _ = _vocabulary()
    names, byte_of = list(numbers), {letter: b for b, letter in letters.items()}
    tokens = [int(t) for t in tokens]
    tokens = tokens[:tokens.index(END)] if END in tokens else tokens
    text = "".join(names[t] for t in tokens if t != START).replace("</w>", " ")
    return bytes(byte_of.get(letter, 32) for letter in text).decode("utf-8", "replace").strip()


# ---- Loading -----------------------------------------------------------------------------------

def load_clip(name_or_path, image_size=None):
    """CLIP in float32, eval mode, on the CPU, from a name in BACKBONES or a file of weights."""
    if name_or_path == "tiny":
        print("note: assets/tiny-clip.pt is not there: the tiny CLIP starts from random weights")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return CLIP(BACKBONES["tiny"]).eval()
    raise unknown_name("backbone", name_or_path, BACKBONES)
