"""CLIP from raw PyTorch: tokenizer, image and text transformer, loading of published weights.

PeVL adapts a frozen CLIP (Sec. 3.1); this file is that CLIP. Names and shapes of the state dict are
OpenAI's, so that published weights load unchanged, and each part (attention, block, embedding,
read-out) can be called alone, since pevl.py puts its adapters between them.

section    | what it is                      | function or class            | test
-----------+---------------------------------+------------------------------+---------------------
Sec. 3.1   | vision transformer, class token | VisionTransformer            | test_vision_tower
Sec. 3.1   | frozen block: MSA and MLP       | ResidualAttentionBlock       | test_block
Sec. 3.2.1 | class token's attention         | Attention, need_weights=True | test_class_weights
Sec. 3.3.1 | sentence and words of a text    | CLIP.encode_text             | test_sentence_words
Sec. 4     | backbones ViT-B/16, ViT-L/14    | BACKBONES, load_clip         | test_published_shapes

Tensors: images (B, 3, S, S) float, normalised by CLIP_MEAN and CLIP_STD; tokens (K, W) int64, zeros
after the end token; N patches, Nv = 1 + N tokens with the class token first; d width of a tower;
e joint embedding size; h heads of size c = d / h.

Departures from OpenAI's code: batch first; the image tower's blocks start like the text tower's
(theirs: PyTorch's defaults); token numbers are taken modulo the vocabulary size (the identity for
CLIP's 49,408 entries, feature hashing for the tiny backbone, see BACKBONES); special tokens that a
text spells out are words like any other, so that a row has one start and one end.
"""
import collections
import contextlib
import functools
import gzip
import hashlib
import html
import http.client
import math
import os
import pickle
import sys
import time
import urllib.request
import warnings
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from support.checks import check_shape, unknown_name

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)     # of RGB in [0, 1], over CLIP's training images
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
START, END = 49406, 49407                           # <|startoftext|>, <|endoftext|>
ASSETS = Path(__file__).resolve().parent / "assets"


# ---- Backbones ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class CLIPConfig:
    """Sizes of both towers; `file` and `sha256` name OpenAI's file of weights ("": none)."""
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


BACKBONES = {
    "ViT-B/32": CLIPConfig(512, 224, 32, 768, 12, 12, 77, 49408, 512, 8, 12, True, "ViT-B-32.pt",
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"),
    "ViT-B/16": CLIPConfig(512, 224, 16, 768, 12, 12, 77, 49408, 512, 8, 12, True, "ViT-B-16.pt",
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"),
    "ViT-L/14": CLIPConfig(768, 224, 14, 1024, 24, 16, 77, 49408, 768, 12, 12, True, "ViT-L-14.pt",
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"),
    "ViT-L/14@336px": CLIPConfig(768, 336, 14, 1024, 24, 16, 77, 49408, 768, 12, 12, True,
        "ViT-L-14-336px.pt", "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"),
    # Ours, for the toy benchmark. The full vocabulary would add 3 M parameters to 0.6 M. 1381: the
    # smallest prime from 600 on that keeps the words of the toy benchmark and the prompts apart.
    "tiny": CLIPConfig(64, 80, 10, 96, 3, 4, 32, 1381, 64, 2, 2),
}


# ---- Transformer -------------------------------------------------------------------------------
class _QuickGELU(torch.autograd.Function):
    """x sigmoid(1.702 x) = silu(z) / 1.702, z = 1.702 x, of which the slope is silu'(z): half the
    passes over memory that autograd would make, in the widest layer of a block."""
    @staticmethod
    def forward(ctx, x):
        z = 1.702 * x
        ctx.save_for_backward(z)
        return F.silu(z).div_(1.702)

    @staticmethod
    def backward(ctx, grad):
        return torch.ops.aten.silu_backward(grad, ctx.saved_tensors[0])


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), the GELU approximation that OpenAI's weights were trained with."""
    def forward(self, x):
        return _QuickGELU.apply(x)


class Attention(nn.Module):
    """softmax(q k^T / sqrt(c)) v for each head, then out_proj; named as nn.MultiheadAttention."""
    def __init__(self, width, heads):
        super().__init__()
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
        q, k, v = qkv.reshape(b, n, 3, h, c).permute(2, 0, 3, 1, 4)     # each (b, h, n, c)
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
        width, self.image_size = config.vision_width, config.image_size
        self.grid = config.image_size // config.patch_size              # patches per side
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

        extra (B, 1, d) is added with the positions: the place of AIM's temporal embedding.
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
        if W > (most := self.config.context_length):
            raise ValueError(f"texts of {W} tokens. Expected at most {most}, the context of this "
                             f"CLIP. Call tokenize(texts, context_length={most}).")
        x = self.token_embedding(tokens % self.config.vocab_size)       # (K, W, d)
        return x + self.positional_embedding[:W]

    def causal_mask(self, W):
        """(W, W) bool, true = may be looked at: token i sees tokens 0 to i."""
        return torch.ones(W, W, dtype=torch.bool, device=self.logit_scale.device).tril()

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
    import regex                                    # knows letters; imported where texts are
    with gzip.open(ASSETS / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    merges = [tuple(line.split()) for line in lines[1:49408 - 512 - 2 + 1]]     # CLIP uses 48,894
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]           # ! to ~, Latin-1
    others = [b for b in range(256) if b not in printable]
    letters = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    tokens = [*letters.values(), *(letter + "</w>" for letter in letters.values()),
              *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    words = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
    ranks, numbers = ({key: i for i, key in enumerate(keys)} for keys in (merges, tokens))
    return ranks, numbers, letters, words


@functools.lru_cache(maxsize=65536)
def _word_tokens(word):
    """Numbers of a word's tokens: from letters on, join the pair of lowest rank, until none is."""
    ranks, numbers, letters, _ = _vocabulary()
    parts = [letters[b] for b in word.encode("utf-8", "replace")]
    parts[-1] += "</w>"
    while len(parts) > 1:
        pairs = enumerate(zip(parts, parts[1:]))
        rank, i = min((ranks.get(pair, math.inf), i) for i, pair in pairs)
        if rank == math.inf:
            break
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
    return tuple(numbers[part] for part in parts)


def clean(text):
    """Text as CLIP saw it: encodings and HTML entities repaired, single blanks, lower case."""
    import ftfy
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()


def tokenize(texts, context_length=77, truncate=True):
    """Texts -> LongTensor (K, context_length): start token, the words' tokens, end token, zeros.

    texts: a string or a sequence of them; an empty one gives start and end alone. One that is too
    long is cut, keeps its end token and is named in a warning; truncate=False: an error.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    out = torch.zeros(len(texts), context_length, dtype=torch.long)
    for row, text in zip(out, texts):
        numbers = [n for word in _vocabulary()[3].findall(clean(text)) for n in _word_tokens(word)]
        if len(numbers) > context_length - 2:
            what = (f"{text!r:.80} has {len(numbers)} tokens. Expected at most "
                    f"{context_length - 2}, beside start and end.")
            if not truncate:
                raise ValueError(f"{what} Shorten the text or pass truncate=True.")
            warnings.warn(f"{what} Its end is cut off.", stacklevel=2)
            numbers = numbers[:context_length - 2]
        row[:len(numbers) + 2] = torch.tensor([START, *numbers, END])
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
CLIP_URL = "https://openaipublic.azureedge.net/clip/models"     # $PEVL_CLIP_URL names a mirror
RETRIES, PAUSE = 5, 1.0                             # of a download; seconds, times the try's number


def fetch(config, base=None):
    """Path of a backbone's published weights: downloaded once, hashed on every call.

    It lies in $PEVL_CACHE, else $XDG_CACHE_HOME/pevl, else ~/.cache/pevl. Hashing 350 MB takes a
    second; a record of an earlier check could outlive a damaged disk.
    """
    base = (base or os.environ.get("PEVL_CLIP_URL") or CLIP_URL).rstrip("/")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "pevl"
    cache = Path(os.environ.get("PEVL_CACHE") or cache).expanduser()
    cache.mkdir(parents=True, exist_ok=True)
    target, part, lock = (cache / (config.file + end) for end in ("", ".part", ".lock"))
    with open(lock, "a") as lock:
        with contextlib.suppress(ImportError, OSError):     # where locks exist, one process loads
            import fcntl
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _download(f"{base}/{config.sha256}/{config.file}", part, config.sha256)
            os.replace(part, target)
        elif (found := hashlib.sha256(target.read_bytes()).hexdigest()) != config.sha256:
            raise ValueError(f"{target} has SHA-256 {found}. Expected {config.sha256}. It is "
                             "damaged: delete it and run again.")
    return target


def _download(url, part, sha256):
    """url -> file `part`, checked; goes on where an earlier try, or an earlier run, was cut."""
    for attempt in range(RETRIES):
        time.sleep(PAUSE * attempt)
        try:
            if (found := _stream(url, part)) == sha256:
                return
            part.unlink()
            reason = f"what came has SHA-256 {found} and is deleted"
            break
        except (OSError, http.client.HTTPException) as error:       # urllib's errors are OSErrors
            print(f"{url}: {(reason := error)}", file=sys.stderr)
            if getattr(error, "code", 0) == 416:    # the part is no shorter than the file
                part.unlink(missing_ok=True)
    raise ValueError(f"cannot download {url}: {reason}. Expected CLIP's weights, SHA-256 {sha256}. "
                     "Run again to go on, set PEVL_CLIP_URL to a mirror, or give a file's path.")


def _stream(url, part):
    """Append to `part` what it lacks of url -> SHA-256 of the whole, hashed while it streams."""
    with open(part, "ab") as file:
        digest, have = hashlib.sha256(part.read_bytes()), file.tell()
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        with urllib.request.urlopen(request, timeout=30) as reply:
            if not reply.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                file.truncate(0)                    # a server without ranges: from the start
                digest, have = hashlib.sha256(), 0
            first, began, told = have, time.monotonic(), 0
            total = have + int(reply.headers.get("Content-Length") or 0)
            while block := reply.read(1 << 18):
                file.write(block)
                digest.update(block)
                have, spent = have + len(block), time.monotonic() - began
                if have == total or spent - told > 2:
                    told, rate = spent, (have - first) / 1e6 / max(spent, 1e-9)
                    print(f"{part.stem}: {have / 1e6:.1f} of {total / 1e6:.1f} MB, {rate:.1f} "
                          f"MB/s, {(total - have) / 1e6 / rate:.0f} s left", file=sys.stderr)
        file.flush()
        os.fsync(file.fileno())
    if have < total:
        raise ConnectionError(f"cut after {have} of {total} bytes")
    return digest.hexdigest()


class _Module(dict):
    """A module of a TorchScript archive: the attributes stored of it, and no behaviour."""
    __setstate__ = dict.update

    def tensors(self, prefix=""):
        for name, value in self.items():
            yield from (value.tensors(f"{prefix}{name}.") if isinstance(value, _Module) else
                        [(prefix + name, value)] * isinstance(value, torch.Tensor))


class _Archive(pickle.Unpickler):
    """Reads a TorchScript archive, as OpenAI's files are, and runs nothing that is in it.

    torch.load(weights_only=True) refuses such archives; torch.jit.load would compile their code.
    Their data.pkl needs the few names below; one that asks for any other is refused (KeyError).
    """
    KNOWN = {("torch", "FloatStorage"): torch.float32, ("torch", "HalfStorage"): torch.float16,
             ("torch", "LongStorage"): torch.int64, ("torch", "IntStorage"): torch.int32,
             ("collections", "OrderedDict"): dict, ("torch.jit._pickle", "build_intlist"): list,
             ("torch._utils", "_rebuild_tensor_v2"):
             lambda data, offset, size, stride, *_: data.as_strided(size, stride, offset)}

    def __init__(self, archive):
        self.archive, self.root = archive, archive.namelist()[0].partition("/")[0]
        super().__init__(archive.open(f"{self.root}/data.pkl"))

    def find_class(self, module, name):
        return _Module if module.startswith("__torch__") else self.KNOWN[module, name]

    def persistent_load(self, key):                 # ("storage", dtype, number, device, size)
        data = self.archive.read(f"{self.root}/data/{key[2]}")
        return torch.frombuffer(bytearray(data), dtype=key[1])


def read_weights(path):
    """Tensors of a file by the file's names: TorchScript archive, torch.save's, or safetensors."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of weights {path}. Expected a checkpoint of CLIP. Check "
                                f"the path, or name one of {', '.join(BACKBONES)}.")
    try:
        if path.suffix == ".safetensors":
            import safetensors.torch
            return safetensors.torch.load_file(path)
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return dict(_Archive(archive).load().tensors())
        state = torch.load(path, map_location="cpu", weights_only=True)
        for key in ("state_dict", "model"):         # where trainers, open_clip's too, keep it
            state = state[key] if isinstance(state.get(key), dict) else state
        if strange := [key for key in state if not isinstance(state[key], torch.Tensor)]:
            raise TypeError(f"entries that are no tensors: {strange[:5]}")
        return state
    except Exception as error:                      # broken bytes fail in every possible way
        page = path.read_bytes()[:64].lstrip()[:1] == b"<"
        why = "it is a web page" if page else str(error).split("\n")[0][:200] or repr(error)
        raise ValueError(
            f"cannot read weights from {path} ({path.stat().st_size} bytes): {why}. Expected a "
            "state dict or OpenAI's archive. Download it again or save it by torch.save(model."
            "state_dict(), path); .safetensors need `pip install safetensors`.") from error


NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask", "position_ids")
HUGGING_FACE = (                                    # parts of names there -> OpenAI's, in turn
    ("vision_model.", "visual."), ("text_model.", ""), ("embeddings.", ""),
    ("position_embedding.weight", "positional_embedding"), ("patch_embedding.", "conv1."),
    ("encoder.layers.", "transformer.resblocks."), ("pre_layrnorm", "ln_pre"),
    ("post_layernorm", "ln_post"), ("final_layer_norm", "ln_final"), ("self_attn.", "attn."),
    ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"), (".fc1.", ".c_fc."), (".fc2.", ".c_proj."))


def openai_names(state):
    """State dict in OpenAI's, open_clip's or Hugging Face's names -> OpenAI's; other keys stay."""
    state = {key: value for key, value in state.items() if key.split(".")[-1] not in NO_WEIGHTS}
    out, wrapped = {}, all(key.startswith("module.") for key in state)      # by DataParallel
    for key, value in state.items():
        key = key.removeprefix("module." if wrapped else "").removeprefix("text.")  # open_clip's
        for theirs, ours in HUGGING_FACE:
            key = key.replace(theirs, ours)
        if key in ("visual_projection.weight", "text_projection.weight"):
            key = "visual.proj" if key[0] == "v" else "text_projection"
            value = value.T                                         # nn.Linear's (e, d) -> (d, e)
        out[key] = value
    for key in [key for key in out if ".attn.q_proj." in key]:      # 3 of (d, d) -> one (3 d, d)
        parts = [key.replace(".q_proj.", f".{letter}_proj.") for letter in "qkv"]
        if all(part in out for part in parts):
            out[key.replace("q_proj.", "in_proj_")] = torch.cat([out.pop(part) for part in parts])
    return out


def infer_config(state):
    """CLIPConfig of a state dict in OpenAI's naming; heads, which no shape shows, by the width."""
    vision_heads = {c.vision_width: c.vision_heads for c in BACKBONES.values()}
    text_heads = {c.text_width: c.text_heads for c in BACKBONES.values()}
    layers = [len({key.removeprefix(stem).split(".")[0] for key in state if key.startswith(stem)})
              for stem in ("visual.transformer.resblocks.", "transformer.resblocks.")]
    width, _, patch, _ = state["visual.conv1.weight"].shape
    grid = math.isqrt(len(state["visual.positional_embedding"]) - 1)
    vocab, d = state["token_embedding.weight"].shape
    return CLIPConfig(
        state["visual.proj"].shape[1], grid * patch, patch, width, layers[0],
        vision_heads.get(width, max(1, width // 64)), len(state["positional_embedding"]), vocab, d,
        text_heads.get(d, max(1, d // 64)), layers[1])


def fit_positions(positions, grid):
    """positions (1 + g * g, d) -> (1 + grid * grid, d): bicubic in the plane, class token kept."""
    plane = positions[1:].T.unflatten(1, (math.isqrt(len(positions)), -1))[None]    # (1, d, g, g)
    plane = F.interpolate(plane, (grid, grid), mode="bicubic", antialias=True)
    return torch.cat([positions[:1], plane[0].flatten(1).T])


def fill_clip(state, config, source="the state dict"):
    """CLIP with the tensors of a state dict in OpenAI's naming; a key that differs is an error."""
    # Large ones without values to be thrown away; "meta" takes 2 s to import, so not for tiny.
    with torch.random.fork_rng(devices=[]), torch.device("meta" if config.file else "cpu"):
        clip = CLIP(config)
    want, have = ({key: tuple(value.shape) for key, value in keys.items()}
                  for keys in (clip.state_dict(), state))
    wrong = [f"{key} is {have[key]}, not {want[key]}" for key in want
             if have.get(key, want[key]) != want[key]]
    wrong += [f"missing {key}" for key in want if key not in have]
    wrong += [f"unexpected {key}" for key in have if key not in want]
    if wrong:
        wrong[20:] = [f"and {len(wrong) - 20} more"] * (len(wrong) > 20)
        raise ValueError(f"keys of {source} do not fit: {'; '.join(wrong)}. Expected those of "
                         f"{config}. Name the backbone that the weights are of.")
    state = {key: value.float().contiguous() for key, value in state.items()}
    clip.load_state_dict(state, assign=True)
    return clip.eval()


def load_clip(name_or_path, image_size=None, backbone=None, quick_gelu=True):
    """CLIP in float32, eval mode, on the CPU, from a name in BACKBONES or a file of weights.

    image_size: pixels, if not the checkpoint's; positions are interpolated. backbone: what a file
    must hold. quick_gelu=False: for weights trained with the exact GELU, as no file tells (LAION).
    """
    path, known = Path(name_or_path), name_or_path in BACKBONES
    name = name_or_path if known else backbone
    if name and name not in BACKBONES or not (known or path.suffix or path.exists()):
        raise unknown_name("backbone", name or name_or_path, BACKBONES)
    if known:
        path = ASSETS / "tiny-clip.pt" if name == "tiny" else fetch(BACKBONES[name])
    if name_or_path == "tiny" and not path.exists():
        print("note: no assets/tiny-clip.pt, so that the tiny CLIP starts from random weights")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            state = CLIP(BACKBONES["tiny"]).state_dict()
    else:
        state = openai_names(read_weights(path))
    try:
        own = infer_config(state)
    except (KeyError, ValueError, IndexError, TypeError):           # no CLIP: keys are listed below
        own = BACKBONES[name or "ViT-B/16"]
    config = BACKBONES[name] if name else own
    config = replace(config, quick_gelu=quick_gelu, image_size=own.image_size)
    clip = fill_clip(state, config, path)
    if image_size and image_size != own.image_size:
        if image_size % own.patch_size:
            raise ValueError(f"image_size {image_size} cuts patches. Expected a multiple of "
                             f"{own.patch_size} px. Choose one.")
        print(f"note: positions of {path.name} interpolated: {own.image_size} -> {image_size} px")
        state, key = clip.state_dict(), "visual.positional_embedding"
        state[key] = fit_positions(state[key], image_size // own.patch_size)
        clip = fill_clip(state, replace(config, image_size=image_size))
    return clip
