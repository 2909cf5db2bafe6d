"""Published weights: formats read back, hostile and damaged files refused, downloads resumed.

All weights are those of one small CLIP (small_clip.py), written in each published naming; the
server that is downloaded from runs in a thread of the test.
"""
import contextlib
import doctest
import hashlib
import pickle
import re
import sys
import traceback
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bombs import Bomb
from clip_model import BACKBONES, CLIP, load_clip
from published import clip_weights
from published import download as downloads
from published.clip_weights import fetch, openai_names, read_weights
from small_clip import SMALL, holds_weights, hugging_face, small_weights
from web_server import server


def test_examples_in_the_docstrings():
    """What the docstrings show comes out as told."""
    failed, tried = doctest.testmod(clip_weights)
    assert failed == 0
    assert tried >= 2


# ---- Loading: each published naming, written here ------------------------------------------------

def as_it_is(state):
    return state


def wrapped(state):
    return {"model": state}


def data_parallel(state):
    return {f"module.{key}": value for key, value in state.items()}


def open_clip(state):
    """open_clip's training checkpoint: DataParallel's prefix, a module for the text tower."""
    renamed = {}
    for key, value in state.items():
        of_text = not key.startswith("visual.") and key != "logit_scale"
        renamed[f"module.text.{key}" if of_text else f"module.{key}"] = value
    return {"epoch": 3, "name": "ViT-S", "state_dict": renamed}


def open_clip_flat(state):
    return {"state_dict": state}


WRITERS = {
    "plain.pt": as_it_is,
    "wrapped.pth": wrapped,
    "data_parallel.pt": data_parallel,
    "legacy.bin": as_it_is,
    "open_clip.pt": open_clip,
    "open_clip_flat.pt": open_clip_flat,
    "pytorch_model.bin": hugging_face,
}


@pytest.fixture(scope="module")
def weights():
    return small_weights()


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_formats(name, dtype, weights, tmp_path):
    """Every naming, in both precisions, by a Path and by a string; the sizes are read from it."""
    path = tmp_path / name
    state = {key: value.to(dtype) for key, value in weights.items()}
    is_zip = name != "legacy.bin"
    torch.save(WRITERS[name](state), path, _use_new_zipfile_serialization=is_zip)
    clip = load_clip(path)
    assert holds_weights(clip, weights)
    assert clip.config == SMALL
    assert holds_weights(load_clip(str(path)), weights)


@pytest.fixture(scope="module")
def archive(weights, tmp_path_factory):
    """A TorchScript archive in half precision, with size buffers and masks as OpenAI's."""
    clip = CLIP(SMALL)
    clip.load_state_dict(weights)
    clip.half()
    for name, value in (("input_resolution", 12), ("context_length", 10), ("vocab_size", 521)):
        clip.register_buffer(name, torch.tensor(value))
    clip.transformer.resblocks[0].attn_mask = torch.zeros(10, 10)
    for block in clip.visual.transformer.resblocks:
        block.mlp.gelu = nn.GELU()                # ours, with its own slope, has no script

    path = tmp_path_factory.mktemp("archive") / "ViT.pt"
    images = torch.zeros(1, 3, 12, 12).half()
    with pytest.warns():
        torch.jit.trace_module(clip, {"encode_image": images}).save(str(path))
    return path


def test_torchscript_archive(archive, weights):
    """OpenAI's format: refused by torch.load(weights_only=True), read without running code."""
    with pytest.raises(RuntimeError), pytest.warns():
        torch.load(archive, weights_only=True)
    assert holds_weights(load_clip(archive), weights)


def test_safetensors_without_its_package(tmp_path, monkeypatch):
    """An error with the command that installs it."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ValueError, match="pip install safetensors"):
        load_clip(path)


def test_safetensors(weights, tmp_path):
    """Hugging Face's format and naming, in half precision."""
    torch_files = pytest.importorskip("safetensors.torch", reason="optional: safetensors")
    path = tmp_path / "model.safetensors"
    halves = {name: x.half() for name, x in weights.items()}
    torch_files.save_file(hugging_face(halves), path)
    assert holds_weights(load_clip(path), weights)


# ---- Files that are no weights -------------------------------------------------------------------

def test_no_pickle_is_executed(weights, tmp_path):
    """Code in a checkpoint stays unrun, in a pickle and in a TorchScript archive."""
    mark = tmp_path / "mark"
    bad = tmp_path / "bad.pt"
    torch.save({**weights, "extra": Bomb(mark)}, bad)
    said = "cannot read weights from .*bad.pt.*Expected a state dict"
    with pytest.raises(ValueError, match=said):
        load_clip(bad)
    with zipfile.ZipFile(bad, "w") as file:
        file.writestr("x/data.pkl", pickle.dumps(Bomb(mark), protocol=2))
        file.writestr("x/constants.pkl", b"")
    with pytest.raises(ValueError, match="cannot read weights from .*boom"):
        load_clip(bad)
    assert not mark.exists()

    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists(), "the bomb is one: unpickling it does run code"


NO_WEIGHTS = [b"", b"\n <!DOCTYPE html><title>Sign in</title>", b"\x80\x02garbage", bytes(1000),
              b"version https://git-lfs.github.com/spec/v1\n"]


@pytest.mark.parametrize("data", NO_WEIGHTS, ids=repr)
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_files_that_are_no_weights(data, name, tmp_path):
    """Empty files, web pages, garbage and pointers: name, size and what to do; a page is told."""
    (tmp_path / name).write_bytes(data)
    what = "it is a web page" if b"html" in data else ""
    said = (rf"cannot read weights from .*{name} \({len(data)} bytes\): {what}.*"
            "Expected a state dict.*Download it again")
    with pytest.raises(ValueError, match=said):
        load_clip(tmp_path / name)


def test_other_contents(weights, tmp_path):
    """Files of torch.save that hold a list, one tensor, or something beside tensors."""
    path = tmp_path / "x.pt"
    for value in ([1, 2], torch.zeros(3), {"a": 1, "b": weights["logit_scale"]}):
        torch.save(value, path)
        with pytest.raises(ValueError, match="cannot read weights"):
            load_clip(path)


def test_files_that_are_not_there(tmp_path):
    """No file, and a folder: where a name of a backbone would do, it is offered."""
    said = "no file of weights .*none.pt. Expected.*name one of ViT-B/32"
    with pytest.raises(FileNotFoundError, match=said):
        load_clip(tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError, match="no file of weights"):
        load_clip(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file of weights .*none.pt. Expected.*Check"):
        read_weights(tmp_path / "none.pt")


@pytest.mark.parametrize("part", [0.02, 0.5, 0.99])
def test_truncated_files(part, archive, weights, tmp_path):
    """A download that stopped, at any place, in both formats."""
    plain = tmp_path / "plain.pt"
    torch.save(weights, plain)
    cut = tmp_path / "cut.pt"
    for path in (archive, plain):
        data = path.read_bytes()
        cut.write_bytes(data[:int(part * len(data))])
        said = "cannot read weights from .*cut.pt.*Download it again"
        with pytest.raises(ValueError, match=said):
            load_clip(cut)


# ---- Files that ask for more than they hold ------------------------------------------------------

def refusal(path):
    """What a user sees of read_weights(path), causes included, without a limit on width."""
    expected = "cannot read weights from .*Expected a state dict"
    with pytest.raises(ValueError, match=expected) as error:
        read_weights(path)
    return "".join(traceback.format_exception(error.value))


def test_refusals_do_not_advise_to_load_it_anyway(weights, tmp_path):
    """PyTorch's own text recommends weights_only=False; neither message nor traceback shows it."""
    path = tmp_path / "evil.pt"
    for is_zip in (True, False):
        content = {**weights, "extra": Bomb(tmp_path / "mark")}
        torch.save(content, path, _use_new_zipfile_serialization=is_zip)
        text = refusal(path)
        said = r"it asks for \S*boom, which no tensor needs; nothing of it was run"
        assert re.search(said, text)
        assert "weights_only" not in text
        assert "safe_globals" not in text

    path.write_bytes(pickle.dumps({"a": 1}, protocol=2) + b"tail")
    text = refusal(path)
    assert "weights_only" not in text
    assert "its bytes are damaged or of another kind" in text


@contextlib.contextmanager
def memory_limit(size):
    """Fail where more than this many bytes are allocated beside what is in use (on Linux)."""
    usage = Path("/proc/self/statm")
    if not usage.exists():
        yield
        return
    import resource

    used = int(usage.read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def packed(source, target, extra=()):
    """Write the members of one zip file, and of the pairs `extra`, to another, deflated."""
    method = {"compression": zipfile.ZIP_DEFLATED, "compresslevel": 1}
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **method) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        for name, data in extra:
            new.writestr(name, data)


@pytest.fixture(scope="module")
def bomb(tmp_path_factory):
    """A file of torch.save, less than 2 MB long, that unpacks to 100 MB of zeros."""
    folder = tmp_path_factory.mktemp("bomb")
    torch.save({"a": torch.zeros(25_000_000)}, folder / "big.pt")
    packed(folder / "big.pt", folder / "bomb.pt")
    (folder / "big.pt").unlink()
    return folder / "bomb.pt"


def test_a_bomb_is_refused_before_it_is_unpacked(bomb, archive, tmp_path):
    """100 MB of zeros in a small file, in torch.save's format and in a TorchScript archive."""
    of_script = tmp_path / "archive.pt"
    packed(archive, of_script, extra=[("ViT/data/999", bytes(100_000_000))])
    for path in (bomb, of_script):
        assert path.stat().st_size < 2_000_000
        with memory_limit(125_000_000):
            assert "it would unpack to 10" in refusal(path)


def test_a_bomb_whose_directory_lies_stops_at_what_it_says(bomb, tmp_path):
    """The directory says 1,000 bytes of a member that unpacks to 100 MB."""
    true_size = (100_000_000).to_bytes(4, "little")
    data = bomb.read_bytes()
    assert data.count(true_size) == 2, "before the member and in the directory"
    lies = tmp_path / "lies.pt"
    lies.write_bytes(data.replace(true_size, (1000).to_bytes(4, "little")))
    with memory_limit(125_000_000):
        assert "damaged" in refusal(lies)


def test_a_checkpoint_that_was_packed_again_is_read(archive, weights, tmp_path):
    """Deflated weights are no bomb, in both formats."""
    plain = tmp_path / "plain.pt"
    torch.save(weights, plain)
    for source in (archive, plain):
        again = tmp_path / "again.pt"
        packed(source, again)
        assert holds_weights(load_clip(again), weights)


def test_tensors_that_show_one_number_often_are_a_bomb_too(weights, tmp_path):
    """A stride of 0 makes 4 TB out of 4 bytes for whoever copies the tensor."""
    one = {**weights, "positional_embedding": torch.zeros(1, 1).expand(10**6, 10**6)}
    many = {f"{i}": torch.zeros(10**6).expand(100, -1) for i in range(5)}
    path = tmp_path / "bomb.pt"
    for state in (one, many):
        torch.save(state, path)
        assert "its tensors claim" in refusal(path)


def test_numbers_of_an_archive_are_read_once(archive):
    """Thousands of tensors may look into one member; it is unpacked for the first of them."""
    with zipfile.ZipFile(archive) as file:
        reader = clip_weights._Archive(file)
        key = ("storage", torch.float16, "0", "cpu", 1)
        assert reader.persistent_load(key) is reader.persistent_load(key)


# ---- By name -------------------------------------------------------------------------------------

def test_load_by_name(tmp_path, archive, weights, monkeypatch):
    """A name of BACKBONES: download, hash, archive, keys; the address from the environment."""
    data = archive.read_bytes()
    config = replace(SMALL, file="ViT-S.pt", sha256=hashlib.sha256(data).hexdigest())
    monkeypatch.setenv("PEVL_CACHE", str(tmp_path))
    monkeypatch.setitem(BACKBONES, "ViT-S/4", config)
    with server(data) as (base, asked):
        monkeypatch.setenv("PEVL_CLIP_URL", base + "/")
        for _ in range(2):
            clip = load_clip("ViT-S/4")
            assert holds_weights(clip, weights)
            assert clip.config == config
        assert len(asked) == 1


def test_mirrors_are_told(tmp_path, monkeypatch):
    """Where OpenAI's address cannot be reached, the error names the variable of another one."""
    monkeypatch.setenv("PEVL_CACHE", str(tmp_path))
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    with pytest.raises(ValueError, match="cannot download http://127.0.0.1:1/.*PEVL_CLIP_URL"):
        fetch("ViT-S.pt", "0" * 64, "http://127.0.0.1:1")


# ---- Names and addresses -------------------------------------------------------------------------

def test_names_are_left_alone_that_fit_already(weights):
    """OpenAI's own names are what the others become."""
    assert openai_names(weights).keys() == weights.keys()


def test_public_addresses():
    """Names and hashes as published; the default address is OpenAI's."""
    assert clip_weights.CLIP_URL == "https://openaipublic.azureedge.net/clip/models"
    published = {name: (config.file, config.sha256[:8]) for name, config in BACKBONES.items()}
    assert published == {
        "ViT-B/32": ("ViT-B-32.pt", "40d36571"),
        "ViT-B/16": ("ViT-B-16.pt", "5806e77c"),
        "ViT-L/14": ("ViT-L-14.pt", "b8cca3fd"),
        "ViT-L/14@336px": ("ViT-L-14-336px.pt", "3035c92b"),
        "tiny": ("", ""),
    }
