"""CLIP's weights as other people publish them: fetched once, and read without running anything.

A file of weights is usually a pickle, and a pickle is a program: to load it carelessly is to run
what a stranger wrote. Whatever is read here can give tensors with names and nothing else.

here          | what it does                                        | tests/test_clip_weights.py
--------------+-----------------------------------------------------+---------------------------
fetch         | file of the cache, where a published one is named   | test_load_by_name
read_weights  | file on disk -> its tensors by its own names        | test_formats, test_a_bomb_*
openai_names  | names of open_clip or Hugging Face -> OpenAI's      | test_formats

Nothing here knows how a CLIP is built: clip_model.py stands on this file, not the other way round.
Only clip_model.fill_clip compares the names and shapes with those that a CLIP needs.
"""
import os
import pickle
import re
import zipfile
from pathlib import Path

import torch

from published.download import download
from support.files import most_unpacked, tensor_bomb, zip_bomb

# ---- Fetching ----------------------------------------------------------------------------------

CLIP_URL = "https://openaipublic.azureedge.net/clip/models"     # $PEVL_CLIP_URL names a mirror


def fetch(file, sha256, base=None):
    """Path of a published file of weights in the cache: downloaded once, hashed on every call.

    file: its name, such as "ViT-B-16.pt". sha256: the hash of its bytes in hexadecimal, which is
    part of OpenAI's address as well. base: the address above both; else $PEVL_CLIP_URL, else
    OpenAI's. Raises ValueError where the file cannot be had, or holds other bytes.
    """
    base = base or os.environ.get("PEVL_CLIP_URL") or CLIP_URL
    url = f"{base.rstrip('/')}/{sha256}/{file}"
    return download(url, sha256, "Run again to go on, set PEVL_CLIP_URL to a mirror, or give a "
                                 "file's path.")


# ---- Reading -----------------------------------------------------------------------------------

class NotWeights(Exception):
    """Why a file is not read, in words that are fit to be printed."""


def read_weights(path, part=""):
    """Tensors of a file, by the file's own names: {name: tensor}, on the CPU.

    The file may be a TorchScript archive, as OpenAI publishes, what torch.save writes (a state
    dict, alone or under "state_dict" or "model"), or .safetensors. Nothing in it is executed.
    part: of what torch.save wrote, the name of the state dict that is meant, where there are
    several; the others are not read into memory, where the file's format allows that.

    Raises FileNotFoundError, and ValueError where the file is damaged, holds anything but tensors,
    asks for code to be run, or is a bomb (see support/files.py).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of weights {path}. Expected a checkpoint. Check the "
                                "path.")

    try:
        state = _tensors_of(path, part)
        _check_tensors(state, path)
        return state
    except NotWeights as error:
        reason = str(error)
    except Exception as error:              # broken bytes fail in every possible way
        reason = ("its bytes are damaged or of another kind, or this machine's memory is too small "
                  f"({type(error).__name__})")

    # The errors of PyTorch end above, and are not shown as this one's cause: their texts advise to
    # load the file with the guard against foreign code taken off.
    with open(path, "rb") as file:
        start = file.read(64)
    if start.lstrip().startswith(b"<"):
        reason = "it is a web page"
    raise ValueError(
        f"cannot read weights from {path} ({path.stat().st_size} bytes): {reason}. Expected a "
        "state dict or OpenAI's archive. Download it again or save it by torch.save("
        "model.state_dict(), path); .safetensors need `pip install safetensors`.")


def _tensors_of(path, part=""):
    """{name: value} of a file by its format; raises NotWeights or whatever broken bytes cause."""
    if path.suffix == ".safetensors":
        return _read_safetensors(path)

    with open(path, "rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"      # by these bytes torch.load decides, too
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            bomb = zip_bomb(archive, most_unpacked(path))
            if bomb:
                raise NotWeights(bomb)
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return _Archive(archive).load().tensors()

    return _read_pickle(path, part, is_zip)


def _check_tensors(state, path):
    """Refuse what is no dict of tensors, and tensors that claim more than the file holds."""
    strange = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise NotWeights(f"it holds entries that are no tensors: {strange[:5]}")

    bomb = tensor_bomb(state.values(), most_unpacked(path))
    if bomb:
        raise NotWeights(bomb)


def _read_safetensors(path):
    """A .safetensors file: a JSON header and raw numbers, so that there is nothing to run."""
    try:
        import safetensors.torch
    except ImportError:
        raise NotWeights("the package safetensors is not installed") from None
    return safetensors.torch.load_file(path)


def _read_pickle(path, part="", is_zip=False):
    """What torch.save wrote, in its zip format or the older one, by PyTorch's guarded reader."""
    # A mapped file is read where a tensor is looked at; only the zip format can be mapped.
    mapped = is_zip and part != ""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            raise _asks_for(wanted[1]) from None
        raise

    if not isinstance(state, dict):
        raise NotWeights(f"it holds a {type(state).__name__} and no state dict")
    if part:
        if not isinstance(state.get(part), dict):
            raise NotWeights(f"it holds no state dict {part}")
        return state[part]
    for key in ("state_dict", "model"):     # where trainers, open_clip's too, keep it
        if isinstance(state.get(key), dict):
            state = state[key]
    return state


def _asks_for(name):
    """The refusal of a file whose pickle names something that is no part of a tensor."""
    return NotWeights(f"it asks for {name}, which no tensor needs; nothing of it was run")


class _Module(dict):
    """A module of a TorchScript archive: the attributes stored of it, and no behaviour."""

    __setstate__ = dict.update              # how a pickle fills an object that it has made

    def tensors(self, prefix=""):
        """{name: tensor} of this module and those inside, with dots as in a state dict."""
        found = {}
        for name, value in self.items():
            if isinstance(value, _Module):
                found.update(value.tensors(f"{prefix}{name}."))
            elif isinstance(value, torch.Tensor):
                found[prefix + name] = value
        return found


def _rebuild_tensor(data, offset, size, stride, *_):
    """The tensor that a pickle describes: a view of the numbers `data`, checked by as_strided."""
    return data.as_strided(size, stride, offset)


class _Archive(pickle._Unpickler):
    """Reads a TorchScript archive, as OpenAI's files are, and runs nothing that is in it.

    Such an archive is a zip file: data.pkl says which module has which attributes, data/0, data/1
    and so on are the numbers, code/ is a program. torch.load(weights_only=True) refuses it, and
    torch.jit.load would compile the program. Here data.pkl is read with the few names below, which
    is all that tensors need. A pickle can act only through names, so any other is refused.
    (Python's own reader in Python: ten bytes can make the one in C ask for gigabytes.)
    """

    KNOWN = {
        ("torch", "FloatStorage"): torch.float32,
        ("torch", "HalfStorage"): torch.float16,
        ("torch", "LongStorage"): torch.int64,
        ("torch", "IntStorage"): torch.int32,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch.jit._pickle", "build_intlist"): list,
        ("collections", "OrderedDict"): dict,
    }

    def __init__(self, archive):
        self.archive = archive
        self.root = archive.namelist()[0].partition("/")[0]     # the folder that holds it all
        self.storages = {}
        super().__init__(archive.open(f"{self.root}/data.pkl"))

    def find_class(self, module, name):
        """What a name in the pickle stands for."""
        if module.startswith("__torch__"):  # a class whose program lies in code/
            return _Module
        if (module, name) not in self.KNOWN:
            raise _asks_for(f"{module}.{name}")
        return self.KNOWN[module, name]

    def persistent_load(self, key):
        """Numbers outside the pickle; key: ("storage", dtype, number, device, size).

        Each is read once, however many tensors look into it.
        """
        _, dtype, number, _, _ = key
        if number not in self.storages:
            data = self.archive.read(f"{self.root}/data/{number}")
            self.storages[number] = torch.frombuffer(bytearray(data), dtype=dtype)
        return self.storages[number]


# ---- Names -------------------------------------------------------------------------------------

# Entries of published files that are no weights: sizes, which the shapes tell, and constants.
NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask", "position_ids")

# Parts of Hugging Face's names -> OpenAI's, replaced in this order. ("pre_layrnorm" is spelt so.)
HUGGING_FACE = (
    ("vision_model.", "visual."),
    ("text_model.", ""),
    ("embeddings.", ""),
    ("position_embedding.weight", "positional_embedding"),
    ("patch_embedding.", "conv1."),
    ("encoder.layers.", "transformer.resblocks."),
    ("pre_layrnorm", "ln_pre"),
    ("post_layernorm", "ln_post"),
    ("final_layer_norm", "ln_final"),
    ("self_attn.", "attn."),
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    (".fc1.", ".c_fc."),
    (".fc2.", ".c_proj."),
)


def openai_names(state):
    """State dict in OpenAI's, open_clip's or Hugging Face's names -> the same in OpenAI's.

    A name that none of them uses stays, so that whoever fills a model can report it. Entries of
    NO_WEIGHTS are left out.

    >>> openai_names({"module.text.ln_final.bias": torch.zeros(1)})
    {'ln_final.bias': tensor([0.])}
    >>> openai_names({"vision_model.encoder.layers.0.mlp.fc1.bias": torch.zeros(1)})
    {'visual.transformer.resblocks.0.mlp.c_fc.bias': tensor([0.])}
    """
    weights = {}
    for name, value in state.items():
        if name.split(".")[-1] not in NO_WEIGHTS:
            weights[name] = value
    parallel = all(name.startswith("module.") for name in weights)      # saved from DataParallel

    out = {}
    for name, value in weights.items():
        if parallel:
            name = name.removeprefix("module.")
        name = name.removeprefix("text.")   # open_clip's module for the text tower
        for theirs, ours in HUGGING_FACE:
            name = name.replace(theirs, ours)

        # The projections to the joint space are nn.Linear there, (e, d); here x @ proj, (d, e).
        if name == "visual_projection.weight":
            name = "visual.proj"
            value = value.T
        elif name == "text_projection.weight":
            name = "text_projection"
            value = value.T
        out[name] = value

    _join_query_key_value(out)
    return out


def _join_query_key_value(state):
    """Replace each q_proj, k_proj and v_proj, (d, d) or (d,), by the one in_proj that CLIP has.

    Stacked in this order, (3 d, d) or (3 d,). Where one of the three is missing, all stay as they
    are, and whoever fills a model reports them.
    """
    for name in list(state):
        if ".attn.q_proj." not in name:
            continue
        names = [name.replace(".q_proj.", f".{letter}_proj.") for letter in "qkv"]
        if all(part in state for part in names):
            parts = [state.pop(part) for part in names]
            state[name.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)
