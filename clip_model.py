"""CLIP from raw PyTorch: image and text transformer, tokenizer, and how published weights get in.

PeVL adapts a frozen CLIP (Sec. 3.1); this file is that CLIP. Names and shapes of the state dict are
OpenAI's, so that published weights load unchanged, and each part (attention, block, embedding,
read-out) can be called alone, since pevl.py puts its adapters between them.

section    | what it is                      | function or class            | test
-----------+---------------------------------+------------------------------+---------------------
Sec. 3.1   | vision transformer, class token | VisionTransformer            | test_vision_tower
Sec. 3.1   | frozen block: MSA and MLP       | ResidualAttentionBlock       | test_block
Sec. 3.2.1 | class token's attention         | Attention, need_weights=True | test_class_weights
Sec. 3.3.1 | sentence and words of a text    | CLIP.encode_text             | test_sentence_words
Sec. 4.1   | backbones ViT-B/16, ViT-L/14    | BACKBONES, load_clip         | test_published_shapes

The idea of CLIP, for those who meet it here: two transformers, one for images and one for texts,
were trained on 400 million pairs from the web so that an image and its caption land at nearly the
same point of one space of e dimensions. Hence a picture can be compared with any sentence, also
with the name of a class that no one ever labelled. PeVL keeps this space and adds poses to it.

Tensors: images (B, 3, S, S) float, normalised by CLIP_MEAN and CLIP_STD; tokens (K, W) int64, zeros
after the end token; N patches, Nv = 1 + N tokens with the class token first; d width of a tower;
e joint embedding size; h heads of size c = d / h; n any number of tokens.

Departures from OpenAI's code: batch first; the image tower's blocks start like the text tower's
(theirs: PyTorch's defaults); token numbers are taken modulo the vocabulary size (the identity for
CLIP's 49,408 entries, feature hashing for the tiny backbone, see BACKBONES); special tokens that a
text spells out are words like any other, so that a row has one start and one end; a text that is
too long is cut with a warning (theirs: an error, unless asked).

What comes from other people's disks and servers (downloading, file formats, foreign names) is read
in published/clip_weights.py.
"""
import collections
import functools
import gzip
import html
import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from published.clip_weights import fetch, openai_names, read_weights
from support.checks import check_shape, unknown_name

# Mean and standard deviation of red, green and blue in [0, 1] over the images that CLIP was trained
# on. A tower that sees images of another scale sees what it has never seen.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

START = 49406                               # <|startoftext|>
END = 49407                                 # <|endoftext|>, the largest number of all tokens

HERE = Path(__file__).resolve().parent
MERGES = HERE / "assets" / "bpe_simple_vocab_16e6.txt.gz"
TINY = HERE / "toy" / "tiny-clip.pt"        # made by toy/stills.py


# ---- Backbones ---------------------------------------------------------------------------------

@dataclass(frozen=True)
class CLIPConfig:
    """Sizes of both towers; `file` and `sha256` name OpenAI's file of weights ("": none)."""

    embed_dim: int                          # e, joint embedding size
    image_size: int                         # S, pixels
    patch_size: int                         # pixels
    vision_width: int                       # d of the image tower
    vision_layers: int
    vision_heads: int
    context_length: int                     # W, tokens of a text at most
    vocab_size: int                         # token numbers are taken modulo this size
    text_width: int                         # d of the text tower
    text_heads: int
    text_layers: int
    quick_gelu: bool = True                 # OpenAI's GELU; False: the exact one (LAION)
    file: str = ""
    sha256: str = ""


# ViT-B/16 reads: vision transformer, base size, patches of 16 x 16 pixels. The paper's two are
# ViT-B/16 and ViT-L/14 (Sec. 4.1). Each entry: the joint space, the image tower, the text tower.
BACKBONES = {
    "ViT-B/32": CLIPConfig(
        embed_dim=512,
        image_size=224, patch_size=32, vision_width=768, vision_layers=12, vision_heads=12,
        context_length=77, vocab_size=49408, text_width=512, text_heads=8, text_layers=12,
        file="ViT-B-32.pt",
        sha256="40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    ),
    "ViT-B/16": CLIPConfig(
        embed_dim=512,
        image_size=224, patch_size=16, vision_width=768, vision_layers=12, vision_heads=12,
        context_length=77, vocab_size=49408, text_width=512, text_heads=8, text_layers=12,
        file="ViT-B-16.pt",
        sha256="5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    ),
    "ViT-L/14": CLIPConfig(
        embed_dim=768,
        image_size=224, patch_size=14, vision_width=1024, vision_layers=24, vision_heads=16,
        context_length=77, vocab_size=49408, text_width=768, text_heads=12, text_layers=12,
        file="ViT-L-14.pt",
        sha256="b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    ),
    "ViT-L/14@336px": CLIPConfig(
        embed_dim=768,
        image_size=336, patch_size=14, vision_width=1024, vision_layers=24, vision_heads=16,
        context_length=77, vocab_size=49408, text_width=768, text_heads=12, text_layers=12,
        file="ViT-L-14-336px.pt",
        sha256="3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
    ),
    # Ours, for the toy benchmark. The full vocabulary would add 3 M parameters to 0.7 M. 1381: the
    # smallest prime from 600 on that keeps all words of the toy's captions and the prompts apart.
    "tiny": CLIPConfig(
        embed_dim=64,
        image_size=80, patch_size=10, vision_width=96, vision_layers=4, vision_heads=4,
        context_length=32, vocab_size=1381, text_width=64, text_heads=2, text_layers=2,
    ),
}


# ---- Transformer: what both towers are made of --------------------------------------------------

class _QuickGELU(torch.autograd.Function):
    """x sigmoid(1.702 x) with its slope written by hand.

    Why by hand: the MLP is the widest layer of a block, 4 d numbers for each token, and there time
    is spent on moving memory, not on arithmetic. Autograd would record two products and a sigmoid,
    keep their inputs, and pass over them again one by one. With z = 1.702 x,

        x sigmoid(1.702 x) = z sigmoid(z) / 1.702 = silu(z) / 1.702
        d/dx of it         = silu'(z) 1.702 / 1.702 = silu'(z)

    so that one tensor is kept, and one pass, for which PyTorch has a kernel, gives the gradient.
    Where no gradient will be asked for, nothing is kept, and z may be written over.
    """

    @staticmethod
    def forward(ctx, x):
        z = 1.702 * x
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(z)
            out = F.silu(z)
        else:
            out = F.silu(z, inplace=True)
        return out.div_(1.702)              # in place: silu's output is ours alone

    @staticmethod
    def backward(ctx, grad):
        z = ctx.saved_tensors[0]
        return torch.ops.aten.silu_backward(grad, z)            # grad silu'(z)


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), the GELU approximation that OpenAI's weights were trained with.

    x: any shape, float; the output has the same. Most weights of LAION want nn.GELU, the exact one.
    """

    def forward(self, x):
        return _QuickGELU.apply(x)


class Attention(nn.Module):
    """Multi-head self-attention: softmax(q k^T / sqrt(c)) v for each head, then out_proj.

    Each token asks a question (its query q), offers an address (its key k) and holds a message (its
    value v), all three linear in the token. It gets the average of all messages, weighted by how
    well their addresses answer its question. Names and shapes are nn.MultiheadAttention's, because
    OpenAI's weights were saved from one.

    Two tokens of width 4 through one head, with identities for weights, so that q = k = v = x:

        x_0 = (2, 0, 0, 0)    q_0 k_0 / sqrt(4) = 4 / 2 = 2    softmax(2, 0) = (0.88, 0.12)
        x_1 = (0, 2, 0, 0)    q_0 k_1 / sqrt(4) = 0 / 2 = 0
        out_0 = 0.88 v_0 + 0.12 v_1 = (1.76, 0.24, 0, 0)

    >>> attention = Attention(width=4, heads=1)
    >>> identity = torch.eye(4)
    >>> attention.in_proj_weight.data = torch.cat([identity, identity, identity])
    >>> attention.out_proj.weight.data = identity
    >>> x = torch.tensor([[2.0, 0, 0, 0], [0, 2.0, 0, 0]])
    >>> out, class_weights = attention(x, need_weights=True)
    >>> [round(value, 2) for value in out[0].tolist()]
    [1.76, 0.24, 0.0, 0.0]

    The weights (0.88, 0.12) of token 0 are what `need_weights` gives. Token 0 is the class token,
    from which a frame is read in the end; so they say how much of what is read comes from where.
    Over the tokens of a pose, the joint weights of Sec. 3.2.1 are made from them.

    >>> [round(value, 2) for value in class_weights.tolist()]
    [0.88, 0.12]
    """

    def __init__(self, width, heads):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} with {heads} heads. Expected a multiple, since heads "
                             "share the width evenly. Choose another number of heads.")
        self.heads = heads
        # The three projections as one matrix, whose rows give q, then k, then v: one product.
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

        nn.init.normal_(self.in_proj_weight, std=width ** -0.5)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x, mask=None, need_weights=False, asking=None):
        """x (..., n, d) float, any leading axes -> (..., n, d), or (..., asking, d).

        mask: bool, true = may be looked at, (n, n), rows are queries; each row needs one true, else
        it is an average over nothing.

        need_weights: give (out, class_weights) instead, class_weights (..., n) float32: how token 0
        attends to each token, mean over the heads; at least 0, sum 1.

        asking: only the first so many tokens ask; the others are looked at and get no answer.
        """
        *lead, n, d = x.shape
        b = math.prod(lead)                 # sequences, whatever axes they are laid out on
        h = self.heads
        c = d // h

        # A transposed view (pevl.py attends over time that way) would make the projection a product
        # for each sequence instead of one large one, up to four times slower. Else this is nothing.
        x = x.contiguous()
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)       # (..., n, 3 d)
        qkv = qkv.reshape(b, n, 3, h, c).permute(2, 0, 3, 1, 4)         # (3, b, h, n, c)
        q, k, v = qkv                                                   # each (b, h, n, c)
        q = q[:, :, :asking]                                            # (b, h, asking, c)

        if mask is not None:
            mask = mask[:asking]                                        # rows are queries

        # One fused step, in which no (n, n) weights need to be kept; hence it gives none back.
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)   # (b, h, asking, c)
        out = out.transpose(1, 2).reshape(*lead, q.shape[2], d)         # heads side by side
        out = self.out_proj(out)                                        # (..., asking, d)
        if not need_weights:
            return out
        return out, self._class_weights(q, k, mask).reshape(*lead, n)

    def _class_weights(self, q, k, mask):
        """Row 0 of softmax(q k^T / sqrt(c)), mean over heads: q (b, h, asking, c), k -> (b, 1, n).

        One row of n costs little, so it is computed again. The softmax is float32 under autocast,
        too.
        """
        c = q.shape[-1]
        scores = (q[:, :, :1] @ k.transpose(2, 3)).float() * c ** -0.5  # (b, h, 1, n)
        if mask is not None:
            scores = scores.masked_fill(~mask[:1], -math.inf)           # exp(-inf) = 0
        return scores.softmax(-1).mean(1)                               # (b, 1, n)


class ResidualAttentionBlock(nn.Module):
    """One layer of a transformer, pre-norm: x = x + attn(ln_1(x)); x = x + mlp(ln_2(x)).

    Attention moves information between tokens, the MLP works on each token alone. Both add to x
    rather than replace it, so an adapter that adds zero leaves the block as it was (Sec. 3.1).

    width, heads: of a token and of its attention. layers: of the whole tower, for the start alone.
    quick_gelu: QuickGELU between the two layers of the MLP, else nn.GELU.
    """

    def __init__(self, width, heads, layers, quick_gelu=True):
        super().__init__()
        if quick_gelu:
            gelu = QuickGELU()
        else:
            gelu = nn.GELU()

        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(collections.OrderedDict(
            c_fc=nn.Linear(width, 4 * width),
            gelu=gelu,
            c_proj=nn.Linear(4 * width, width),
        ))

        # CLIP's start: each layer adds to x twice, 2 * layers additions in all. What is added is
        # made smaller as they grow in number, so that a deep tower's x starts no larger.
        nn.init.normal_(self.attn.out_proj.weight, std=(2 * layers * width) ** -0.5)
        nn.init.normal_(self.mlp.c_fc.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(self.mlp.c_proj.weight, std=(2 * layers * width) ** -0.5)

    def forward(self, x, mask=None, asking=None):
        """x (..., n, d) -> (..., n, d), or (..., asking, d); mask and asking as in Attention."""
        x = x[..., :asking, :] + self.attn(self.ln_1(x), mask, asking=asking)
        x = x + self.mlp(self.ln_2(x))
        return x


class Transformer(nn.Module):
    """A stack of blocks, `resblocks`; pevl.py takes them one by one, to put adapters between."""

    def __init__(self, width, layers, heads, quick_gelu=True):
        super().__init__()
        self.resblocks = nn.ModuleList()
        for _ in range(layers):
            self.resblocks.append(ResidualAttentionBlock(width, heads, layers, quick_gelu))

    def forward(self, x, mask=None, asking=None):
        """x (..., n, d) -> (..., n, d); mask as in Attention.

        asking: how many tokens, from the first, are read in the end: (..., asking, d). The blocks
        before the last need all of them, as keys and values of later ones; the last block does
        without three quarters of its work where one is read.
        """
        *blocks, last = self.resblocks
        for block in blocks:
            x = block(x, mask)
        return last(x, mask, asking)


# ---- Towers ------------------------------------------------------------------------------------

def normalise(frames):
    """Frames (..., 3, S, S) in 0..255, uint8 or float -> float32, by CLIP's mean and deviation.

    Colour by colour, with plain numbers: a tensor of means would have to be copied to the GPU in
    each step, and the GPU would be waited for.
    """
    colours = []
    for colour, mean, deviation in zip(frames.unbind(-3), CLIP_MEAN, CLIP_STD):
        colours.append((colour.float() / 255 - mean) / deviation)           # (..., S, S)
    return torch.stack(colours, dim=-3)                                     # (..., 3, S, S)


class VisionTransformer(nn.Module):
    """CLIP's image tower in three parts that pevl.py calls alone: embed, transformer, read_out.

    An image becomes a sequence: it is cut into N = grid * grid patches, each turned into a token by
    one linear map. A class token stands in front, equal for all images. It knows nothing of the
    image at first, collects what it attends to, block by block, and is what the image is read from.
    """

    def __init__(self, config):
        super().__init__()
        width = config.vision_width
        self.image_size = config.image_size
        self.grid = config.image_size // config.patch_size              # patches per side

        # A convolution whose step is its size: a linear map of each patch, (3 * patch^2) -> d.
        self.conv1 = nn.Conv2d(3, width, kernel_size=config.patch_size, stride=config.patch_size,
                               bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + self.grid ** 2, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, config.vision_layers, config.vision_heads,
                                       config.quick_gelu)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, config.embed_dim))

        nn.init.normal_(self.class_embedding, std=width ** -0.5)
        nn.init.normal_(self.positional_embedding, std=width ** -0.5)
        nn.init.normal_(self.proj, std=width ** -0.5)

    def embed(self, images, extra=0.0):
        """images (B, 3, S, S) float, normalised -> tokens (B, Nv, d): class, then patches by row.

        extra (B, 1, d) is added with the positions, to all tokens of an image: the place of AIM's
        temporal embedding. Raises ValueError for images of another size than S.
        """
        B = check_shape(images, "B 3 S S", "images", S=self.image_size)["B"]

        patches = self.conv1(images)                                    # (B, d, grid, grid)
        patches = patches.flatten(2).transpose(1, 2)                    # (B, d, N) -> (B, N, d)
        first = self.class_embedding.to(patches.dtype).expand(B, 1, -1)             # (B, 1, d)
        x = torch.cat([first, patches], 1)                              # (B, Nv, d)

        # Attention does not know the order of its tokens: where a patch was must be said in it.
        x = x + self.positional_embedding
        return self.ln_pre(x + extra)

    def read_out(self, tokens):
        """tokens (..., d) -> (..., e) in the joint space of image and text, not normalised."""
        return self.ln_post(tokens) @ self.proj

    def class_attention(self, images):
        """images (B, 3, S, S) -> (B, N) float32: where the last block's class token looks.

        Mean over the heads; its attention to itself is left out, so that a row sums to less than 1.
        """
        *first, last = self.transformer.resblocks
        x = self.embed(images)                                          # (B, Nv, d)
        for block in first:
            x = block(x)
        _, weights = last.attn(last.ln_1(x), need_weights=True)         # (B, Nv)
        return weights[:, 1:]

    def forward(self, images):
        """images (B, 3, S, S) -> (B, e), read from the class token."""
        tokens = self.transformer(self.embed(images), asking=1)         # (B, 1, d)
        return self.read_out(tokens[:, 0])


class CLIP(nn.Module):
    """Image and text tower; parameters are named and shaped as in OpenAI's release.

    config: a CLIPConfig. Parameters start at random, by torch's global generator;
    load_clip puts published ones in their place.
    """

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

        # CLIP compares by exp(logit_scale) * cosine: the factor is 1 / temperature, learned as a
        # logarithm, which keeps it positive. 0.07 is where training started; it ended at 0.01.
        self.logit_scale = nn.Parameter(torch.empty(()))

        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width ** -0.5)
        nn.init.constant_(self.logit_scale, math.log(1 / 0.07))

    def encode_image(self, images):
        """images (B, 3, S, S) float, by CLIP_MEAN and CLIP_STD -> (B, e), not normalised."""
        return self.visual(images)

    def embed_text(self, tokens):
        """tokens (K, W) int64, W <= context_length -> (K, W, d), ready for the text blocks.

        Raises ValueError where W is larger: there are no positions for more tokens.
        """
        W = check_shape(tokens, "K W", "tokens")["W"]
        most = self.config.context_length
        if W > most:
            raise ValueError(f"texts of {W} tokens. Expected at most {most}, the context of this "
                             f"CLIP. Call tokenize(texts, context_length={most}).")

        x = self.token_embedding(tokens % self.config.vocab_size)       # (K, W, d)
        return x + self.positional_embedding[:W]

    def causal_mask(self, W):
        """(W, W) bool, true = may be looked at: token i sees tokens 0 to i.

        CLIP's text tower reads like a language model, from left to right. Hence the end token is
        the first that has seen the whole sentence, and the sentence is read from it.
        """
        return torch.ones(W, W, dtype=torch.bool, device=self.logit_scale.device).tril()

    def read_text(self, x, tokens):
        """x (K, W, d) as it leaves the blocks, tokens (K, W) -> sentences, words, word_mask.

        sentences (K, e): the end token's; words (K, W, e): every token's; neither normalised.
        word_mask (K, W) bool: true on real word tokens; start, end and padding are out. A text of
        one token has one true, an empty text none: a mean over words must stay finite there.
        The padding is of no influence: it follows the end token, and attention looks back alone.

        CLIP's training used the sentences only. PeVL's frame-word similarity (Sec. 3.3.1) needs the
        words in the same space, so they go through the same norm and projection.
        """
        K, W, _ = x.shape
        check_shape(tokens, "K W", "tokens", K=K, W=W)

        words = self.ln_final(x) @ self.text_projection                 # (K, W, e)
        end = tokens.argmax(-1)             # (K,): place of END, which is the largest number
        sentences = words[torch.arange(K, device=x.device), end]        # (K, e)

        place = torch.arange(W, device=x.device)                        # (W,)
        word_mask = (place > 0) & (place < end[:, None])                # (K, W)
        return sentences, words, word_mask

    def encode_text(self, tokens):
        """tokens (K, W) int64 -> sentences (K, e), words (K, W, e), word_mask (K, W): read_text."""
        mask = self.causal_mask(tokens.shape[1])
        x = self.transformer(self.embed_text(tokens), mask)             # (K, W, d)
        return self.read_text(x, tokens)


# ---- Tokenizer: byte-level BPE over CLIP's published merges -------------------------------------
#
# A text becomes numbers in three steps: it is cleaned, cut into words, and each word is split into
# pieces that the vocabulary has (byte pair encoding, BPE). The vocabulary was learned once, by
# joining the most frequent pair of neighbours in a large corpus, again and again; the list of these
# joins in their order, the merges, is the published file. So common words are one token, rare ones
# a few pieces, and since single bytes are tokens, too, nothing is ever unknown.

class Vocabulary(NamedTuple):
    """What the merges file says, in the forms that the tokenizer looks things up in."""

    rank: dict[tuple[str, str], int]        # pair of pieces -> its place in the file, from 0
    number: dict[str, int]                  # token -> its number, from 0 to 49407
    letter: dict[int, str]                  # byte -> the printable letter that stands for it
    word_pattern: Any                       # compiled; finds the words of a cleaned text


@functools.lru_cache(maxsize=1)
def _vocabulary():
    """The Vocabulary, read once per process.

    Every byte has a printable letter of its own, so that merges and tokens are plain strings; the
    last letter of a word carries `</w>`. Numbers: 256 letters, 256 marked ones, merges, start, end.
    """
    import regex                            # knows letters of all scripts; needed for texts alone

    # The file has a line of title and 262,144 merges, of which CLIP uses the first 48,894: as many
    # as make its 49,408 tokens together with the letters and the two special ones.
    with gzip.open(MERGES, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    merges = []
    for line in lines[1:49408 - 512 - 2 + 1]:
        first, second = line.split()
        merges.append((first, second))

    # Printable bytes, "!" to "~" and those of Latin-1, stand for themselves and come first; blanks
    # and control characters follow and borrow the characters from 256 on.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letter = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        if byte not in printable:
            letter[byte] = chr(256 + len(letter) - len(printable))

    tokens = list(letter.values())
    tokens += [one + "</w>" for one in letter.values()]
    tokens += [first + second for first, second in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]

    return Vocabulary(
        rank={pair: place for place, pair in enumerate(merges)},
        number={token: place for place, token in enumerate(tokens)},
        letter=letter,
        # English endings, runs of letters, single numerals, runs of anything else but blanks.
        word_pattern=regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"),
    )


def _pieces(word):
    """A word -> its tokens as strings: from letters on, join the pair of lowest rank, repeatedly.

    "Lowest rank" is the pair that was joined first when the vocabulary was learned. For example

        t w i s t s</w>
        t w i st s</w>       (s, t) has rank 10; (t, s</w>) is a merge as well, of rank 78
        t wi st s</w>        (w, i) has rank 308
        t wi sts</w>         (st, s</w>) has rank 576
        twi sts</w>          (t, wi) has rank 5025
        twists</w>           (twi, sts</w>) has rank 33637

    A somersault ends as two tokens, since no merge joins them:

    >>> _pieces("twists")
    ['twists</w>']
    >>> _pieces("somersault")
    ['somer', 'sault</w>']
    """
    vocabulary = _vocabulary()
    pieces = [vocabulary.letter[byte] for byte in word.encode("utf-8", "replace")]
    pieces[-1] += "</w>"

    while len(pieces) > 1:
        best_rank = math.inf
        for place, pair in enumerate(zip(pieces, pieces[1:])):
            rank = vocabulary.rank.get(pair, math.inf)
            if rank < best_rank:            # of equal pairs the leftmost
                best_rank = rank
                best = place
        if best_rank == math.inf:
            break
        pieces[best:best + 2] = [pieces[best] + pieces[best + 1]]
    return pieces


@functools.lru_cache(maxsize=65536)
def _word_numbers(word):
    """Numbers of a word's tokens. Words come again and again, their merging is done once."""
    number = _vocabulary().number
    return tuple(number[piece] for piece in _pieces(word))


def clean(text):
    """Text as CLIP saw it: encodings and HTML entities repaired, single blanks, lower case.

    Entities are unescaped twice, since captions from the web hold "&amp;amp;".
    """
    import ftfy                             # repairs wrongly decoded UTF-8; needed for texts alone

    text = ftfy.fix_text(text)
    text = html.unescape(html.unescape(text))
    return " ".join(text.split()).lower()


def tokenize(texts, context_length=77, truncate=True):
    """Texts -> tokens (K, context_length) int64: start, the words' tokens, end, zeros.

    texts: a string or a sequence of K of them; an empty one gives start and end alone. One that is
    too long is cut, keeps its end token and is named in a warning; truncate=False: a ValueError.

    >>> tokenize("hello world", context_length=6).tolist()
    [[49406, 3306, 1002, 49407, 0, 0]]
    """
    if isinstance(texts, str):
        texts = [texts]
    else:
        texts = list(texts)
    word_pattern = _vocabulary().word_pattern
    room = context_length - 2               # beside start and end

    tokens = torch.zeros(len(texts), context_length, dtype=torch.long)
    for row, text in zip(tokens, texts):
        numbers = []
        for word in word_pattern.findall(clean(text)):
            numbers.extend(_word_numbers(word))

        if len(numbers) > room:
            what = (f"{text!r:.80} has {len(numbers)} tokens. Expected at most {room}, beside "
                    "start and end.")
            if not truncate:
                raise ValueError(f"{what} Shorten the text or pass truncate=True.")
            warnings.warn(f"{what} Its end is cut off.", stacklevel=2)
            numbers = numbers[:room]
        row[:len(numbers) + 2] = torch.tensor([START, *numbers, END])
    return tokens


def token_texts(tokens):
    """What token numbers stand for, a list of texts: for pictures that name single tokens.

    tokens: integers, a sequence or a tensor (W,). A token that does not end its word has a "-".

    >>> token_texts(tokenize("a somersault", context_length=6)[0, 1:4])
    ['a', 'somer-', 'sault']
    """
    vocabulary = _vocabulary()
    token_of = _token_of()
    byte_of = {letter: byte for byte, letter in vocabulary.letter.items()}
    texts = []
    for number in map(int, tokens):
        token = token_of[number]
        word = token.removesuffix("</w>")
        if number >= START:                 # start and end are names, not letters of bytes
            texts.append(token)
            continue
        text = bytes(byte_of[letter] for letter in word).decode("utf-8", "replace")
        texts.append(text if token != word else text + "-")
    return texts


@functools.lru_cache(maxsize=1)
def _token_of():
    """Number -> token, the vocabulary turned round."""
    return {number: token for token, number in _vocabulary().number.items()}


# ---- Loading -----------------------------------------------------------------------------------

def load_clip(name_or_path, image_size=None, backbone=None, quick_gelu=True):
    """CLIP in float32, eval mode, on the CPU, from a name in BACKBONES or a file of weights.

    image_size: pixels, if not the checkpoint's; positions are interpolated. backbone: what a file
    must hold. quick_gelu=False: for weights trained with the exact GELU, as no file tells (LAION).

    Raises ValueError for an unknown name, a file that cannot be read or whose keys do not fit, and
    an image_size that cuts patches; FileNotFoundError for a path with a suffix where no file is.
    """
    known = name_or_path in BACKBONES
    if known:
        backbone = name_or_path
    if backbone and backbone not in BACKBONES:
        raise unknown_name("backbone", backbone, BACKBONES)

    if name_or_path == "tiny":
        path = TINY
    elif known:
        path = fetch(BACKBONES[backbone].file, BACKBONES[backbone].sha256)
    else:
        path = _existing_file(name_or_path)

    if name_or_path == "tiny" and not path.exists():
        print("note: no toy/tiny-clip.pt, so that the tiny CLIP starts from random weights")
        state = _random_tiny()
    else:
        state = openai_names(read_weights(path))

    try:
        own = infer_config(state)
    except (KeyError, ValueError, IndexError, TypeError):
        own = BACKBONES[backbone or "ViT-B/16"]     # no CLIP: fill_clip lists what differs
    config = BACKBONES[backbone] if backbone else own
    config = replace(config, quick_gelu=quick_gelu, image_size=own.image_size)

    clip = fill_clip(state, config, source=path)
    if image_size and image_size != own.image_size:
        clip = _resized(clip, image_size, source=path)
    return clip


def _existing_file(name_or_path):
    """The path of a file of weights, or an error that knows whether a name or a file was meant."""
    path = Path(name_or_path)
    if not path.suffix and not path.exists():
        raise unknown_name("backbone", name_or_path, BACKBONES)
    if not path.is_file():
        raise FileNotFoundError(f"no file of weights {path}. Expected a checkpoint of CLIP. Check "
                                f"the path, or name one of {', '.join(BACKBONES)}.")
    return path


def _random_tiny():
    """State dict of a tiny CLIP that nobody trained: always the same, the caller's draws kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CLIP(BACKBONES["tiny"]).state_dict()


def infer_config(state):
    """The CLIPConfig that fits a state dict in OpenAI's naming, read from its shapes.

    Heads show in no shape, since they only share out the width; they are those of a backbone of
    this width, else of size 64 as in all of CLIP. Raises KeyError, ValueError, IndexError or
    TypeError where keys are missing or have other axes: then it is no CLIP.
    """
    width, _, patch_size, _ = state["visual.conv1.weight"].shape
    if patch_size == 0:
        raise ValueError("patches without pixels")
    grid = math.isqrt(len(state["visual.positional_embedding"]) - 1)    # 1 + grid^2 positions
    vocab_size, text_width = state["token_embedding.weight"].shape

    vision_heads = max(1, width // 64)
    text_heads = max(1, text_width // 64)
    for backbone in BACKBONES.values():
        if backbone.vision_width == width:
            vision_heads = backbone.vision_heads
        if backbone.text_width == text_width:
            text_heads = backbone.text_heads

    return CLIPConfig(
        embed_dim=state["visual.proj"].shape[1],
        image_size=grid * patch_size,
        patch_size=patch_size,
        vision_width=width,
        vision_layers=_count_blocks(state, "visual.transformer.resblocks."),
        vision_heads=vision_heads,
        context_length=len(state["positional_embedding"]),
        vocab_size=vocab_size,
        text_width=text_width,
        text_heads=text_heads,
        text_layers=_count_blocks(state, "transformer.resblocks."),
    )


def _count_blocks(state, stem):
    """How many different numbers follow `stem` in the keys: "stem3.ln_1.bias" counts for 3."""
    numbers = set()
    for key in state:
        if key.startswith(stem):
            numbers.add(key.removeprefix(stem).split(".")[0])
    return len(numbers)


def fill_clip(state, config, source="the state dict"):
    """CLIP of `config` in eval mode with the tensors of a state dict in OpenAI's naming.

    Every key is accounted for: one that is missing, unexpected or of another shape is a ValueError
    that lists them, the first twenty in full. A checkpoint that almost fits is a wrong result,
    not a small problem.
    source: what the message calls the state dict.
    """
    # Built on the device "meta", a CLIP has shapes and no values, so that none are drawn to be
    # thrown away, and sizes that a broken file claims cost nothing. The first use of that device
    # imports for a second, in which the tiny CLIP is made many times over: it goes without.
    tiny = BACKBONES["tiny"]
    sizes = replace(config, image_size=tiny.image_size, quick_gelu=tiny.quick_gelu)
    device = "cpu" if sizes == tiny else "meta"
    with torch.random.fork_rng(devices=[]), torch.device(device):
        clip = CLIP(config)

    wrong = _differences(have=state, want=clip.state_dict())
    if wrong:
        if len(wrong) > 20:
            wrong[20:] = [f"and {len(wrong) - 20} more"]
        raise ValueError(f"keys of {source} do not fit: {'; '.join(wrong)}. Expected those of "
                         f"{config}. Name the backbone that the weights are of.")

    # OpenAI's weights are float16. assign=True puts these very tensors in the parameters' places.
    values = {}
    for key, value in state.items():
        values[key] = value.float().contiguous()
    clip.load_state_dict(values, assign=True)
    return clip.eval()


def _differences(have, want):
    """What of the state dict `have` is of another shape than in `want`, missing, or too much."""
    wrong = []
    for key in want:
        if key in have and have[key].shape != want[key].shape:
            wrong.append(f"{key} is {tuple(have[key].shape)}, not {tuple(want[key].shape)}")
    wrong += [f"missing {key}" for key in want if key not in have]
    wrong += [f"unexpected {key}" for key in have if key not in want]
    return wrong


def _resized(clip, image_size, source):
    """The same CLIP for images of image_size pixels: more or fewer patches of the same size."""
    patch_size = clip.config.patch_size
    if image_size % patch_size:
        raise ValueError(f"image_size {image_size} cuts patches. Expected a multiple of "
                         f"{patch_size} px. Choose one.")
    print(f"note: positions of {source.name} interpolated: {clip.config.image_size} -> "
          f"{image_size} px")

    state = clip.state_dict()
    key = "visual.positional_embedding"
    state[key] = fit_positions(state[key], image_size // patch_size)
    return fill_clip(state, replace(clip.config, image_size=image_size))


def fit_positions(positions, grid):
    """positions (1 + g * g, d) -> (1 + grid * grid, d): bicubic in the plane, class token kept.

    The positions of the patches are a picture of g x g pixels with d channels; it is scaled as a
    picture is. The class token has no place in that plane.
    """
    g = math.isqrt(len(positions))
    first = positions[:1]                                               # (1, d)
    plane = positions[1:].T.unflatten(1, (g, -1))[None]                 # (1, d, g, g)
    plane = F.interpolate(plane, (grid, grid), mode="bicubic", antialias=True)
    return torch.cat([first, plane[0].flatten(1).T])
