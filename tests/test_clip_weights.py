"""Published weights: formats read back, hostile and damaged files refused, downloads resumed."""

import contextlib
import doctest
import hashlib
import http.server
import pickle
import re
import threading
import traceback
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from clip_model import BACKBONES, CLIP, load_clip
from published import clip_weights
from published.clip_weights import fetch, openai_names, read_weights
from test_clip_model import SMALL, equal, hugging_face, small_weights


def test_examples_in_the_docstrings():
    failed, tried = doctest.testmod(clip_weights)
    assert failed == 0 and tried >= 2


# ---- Loading: each published naming, written here ----------------------------------------------


def open_clip(state):
    """open_clip's training checkpoint: DataParallel's prefix, a module for the text tower."""
    return {
        "epoch": 3,
        "name": "ViT-S",
        "state_dict": {
            "module."
            + ("" if key.startswith("visual.") or key == "logit_scale" else "text.")
            + key: value
            for key, value in state.items()
        },
    }


WRITERS = {
    "plain.pt": lambda state: state,
    "wrapped.pth": lambda state: {"model": state},
    "data_parallel.pt": lambda state: {f"module.{key}": value for key, value in state.items()},
    "legacy.bin": lambda state: state,
    "open_clip.pt": open_clip,
    "open_clip_flat.pt": lambda state: {"state_dict": state},
    "pytorch_model.bin": hugging_face,
}


@pytest.fixture(scope="module")
def weights():
    return small_weights()


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_formats(name, dtype, weights, tmp_path):
    torch.save(
        WRITERS[name]({k: v.to(dtype) for k, v in weights.items()}),
        tmp_path / name,
        _use_new_zipfile_serialization=name != "legacy.bin",
    )
    clip = load_clip(tmp_path / name)
    assert equal(clip, weights)
    assert clip.config == SMALL
    assert equal(load_clip(str(tmp_path / name)), weights)


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
        block.mlp.gelu = nn.GELU()                        # ours, with its own slope, has no script
    path = tmp_path_factory.mktemp("archive") / "ViT.pt"
    with pytest.warns():
        torch.jit.trace_module(clip, {"encode_image": torch.zeros(1, 3, 12, 12).half()}).save(
            str(path)
        )
    return path


def test_torchscript_archive(archive, weights):
    """OpenAI's format: refused by torch.load(weights_only=True), read without running code."""
    with pytest.raises(RuntimeError), pytest.warns():
        torch.load(archive, weights_only=True)
    assert equal(load_clip(archive), weights)


def test_safetensors(weights, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "safetensors", None)
        with pytest.raises(ValueError, match="pip install safetensors"):
            load_clip(path)
    torch_files = pytest.importorskip(
        "safetensors.torch", reason="pip install safetensors runs the rest of this test"
    )
    torch_files.save_file(hugging_face({k: v.half() for k, v in weights.items()}), path)
    assert equal(load_clip(path), weights)


class Evil:
    """Unpickling this would call `boom` with the path of a file to make."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return boom, (self.path,)


def boom(path):
    open(path, "w").close()


def test_no_pickle_is_executed(weights, tmp_path):
    """Code in a checkpoint stays unrun, in a pickle and in a TorchScript archive."""
    mark, bad = tmp_path / "mark", tmp_path / "bad.pt"
    torch.save({**weights, "extra": Evil(str(mark))}, bad)
    with pytest.raises(
        ValueError, match="cannot read weights from .*bad.pt.*Expected a state dict"
    ):
        load_clip(bad)
    with zipfile.ZipFile(bad, "w") as file:
        file.writestr("x/data.pkl", pickle.dumps(Evil(str(mark)), protocol=2))
        file.writestr("x/constants.pkl", b"")
    with pytest.raises(ValueError, match="cannot read weights from .*boom"):
        load_clip(bad)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(str(mark))))
    assert mark.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n <!DOCTYPE html><title>Sign in</title>",
        b"\x80\x02garbage",
        bytes(1000),
        b"version https://git-lfs.github.com/spec/v1\n",
    ],
    ids=repr,
)
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_files_that_are_no_weights(data, name, tmp_path):
    (tmp_path / name).write_bytes(data)
    what = "it is a web page" if b"html" in data else ""
    with pytest.raises(
        ValueError,
        match=rf"cannot read weights from .*{name} \({len(data)} bytes\): {what}.*"
        "Expected a state dict.*Download it again",
    ):
        load_clip(tmp_path / name)


def test_other_contents(weights, tmp_path):
    for value in ([1, 2], torch.zeros(3), {"a": 1, "b": weights["logit_scale"]}):
        torch.save(value, tmp_path / "x.pt")
        with pytest.raises(ValueError, match="cannot read weights"):
            load_clip(tmp_path / "x.pt")
    with pytest.raises(
        FileNotFoundError, match="no file of weights .*none.pt. Expected.*name one of ViT-B/32"
    ):
        load_clip(tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError, match="no file of weights"):
        load_clip(tmp_path)
    with pytest.raises(FileNotFoundError, match="no file of weights .*none.pt. Expected.*Check"):
        read_weights(tmp_path / "none.pt")


@pytest.mark.parametrize("part", [0.02, 0.5, 0.99])
def test_truncated_files(part, archive, weights, tmp_path):
    torch.save(weights, tmp_path / "plain.pt")
    for path in (archive, tmp_path / "plain.pt"):
        data = path.read_bytes()
        cut = tmp_path / "cut.pt"
        cut.write_bytes(data[: int(part * len(data))])
        with pytest.raises(
            ValueError, match="cannot read weights from .*cut.pt.*Download it again"
        ):
            load_clip(cut)


# ---- Files that ask for more than they hold ----------------------------------------------------


def refusal(path):
    """What a user sees of read_weights(path), causes included, without a limit on width."""
    expected = "cannot read weights from .*Expected a state dict"
    with pytest.raises(ValueError, match=expected) as error:
        read_weights(path)
    return "".join(traceback.format_exception(error.value))


def test_refusals_do_not_advise_to_load_it_anyway(weights, tmp_path):
    """PyTorch's own text recommends weights_only=False; neither message nor traceback shows it."""
    path = tmp_path / "evil.pt"
    for kind in (True, False):
        torch.save({**weights, "extra": Evil("")}, path, _use_new_zipfile_serialization=kind)
        text = refusal(path)
        assert re.search(r"it asks for \S*boom, which no tensor needs; nothing of it was run", text)
        assert "weights_only" not in text and "safe_globals" not in text
    path.write_bytes(pickle.dumps({"a": 1}, protocol=2) + b"tail")
    text = refusal(path)
    assert "weights_only" not in text and "its bytes are damaged or of another kind" in text


@contextlib.contextmanager
def memory_limit(bytes):
    """Fail where more than this much is allocated beside what is in use already (on Linux)."""
    usage = Path("/proc/self/statm")
    if not usage.exists():
        yield
        return
    import resource

    used = int(usage.read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def packed(source, target, extra=()):
    """Write the members of one zip file, and of the pairs `extra`, to another, deflated."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        for name, data in extra:
            new.writestr(name, data)


def test_a_bomb_is_refused_before_it_is_unpacked(archive, tmp_path):
    """100 MB of zeros in a file of 100 KB, in torch.save's format and in a TorchScript archive."""
    torch.save({"a": torch.zeros(25_000_000)}, tmp_path / "big.pt")
    packed(tmp_path / "big.pt", tmp_path / "bomb.pt")
    packed(archive, tmp_path / "archive.pt", [("ViT/data/999", bytes(100_000_000))])
    for name in ("bomb.pt", "archive.pt"):
        assert (tmp_path / name).stat().st_size < 2_000_000
        with memory_limit(125_000_000):
            assert "it would unpack to 10" in refusal(tmp_path / name)


def test_a_bomb_whose_directory_lies_stops_at_what_it_says(tmp_path):
    """The directory says 1,000 bytes of a member that unpacks to 100 MB."""
    torch.save({"a": torch.zeros(25_000_000)}, tmp_path / "big.pt")
    packed(tmp_path / "big.pt", tmp_path / "bomb.pt")
    size = (100_000_000).to_bytes(4, "little")
    data = (tmp_path / "bomb.pt").read_bytes()
    assert data.count(size) == 2                          # before the member and in the directory
    (tmp_path / "bomb.pt").write_bytes(data.replace(size, (1000).to_bytes(4, "little")))
    with memory_limit(125_000_000):
        assert "damaged" in refusal(tmp_path / "bomb.pt")


def test_a_checkpoint_that_was_packed_again_is_read(archive, weights, tmp_path):
    packed(archive, tmp_path / "archive.pt")
    torch.save(weights, tmp_path / "plain.pt")
    packed(tmp_path / "plain.pt", tmp_path / "packed.pt")
    for name in ("archive.pt", "packed.pt"):
        assert equal(load_clip(tmp_path / name), weights)


def test_tensors_that_show_one_number_often_are_a_bomb_too(weights, tmp_path):
    """A stride of 0 makes 4 TB out of 4 bytes for whoever copies the tensor."""
    one = {**weights, "positional_embedding": torch.zeros(1, 1).expand(10**6, 10**6)}
    many = {f"{i}": torch.zeros(10**6).expand(100, -1) for i in range(5)}
    for state in (one, many):
        torch.save(state, tmp_path / "bomb.pt")
        assert "its tensors claim" in refusal(tmp_path / "bomb.pt")


def test_numbers_of_an_archive_are_read_once(archive):
    """Thousands of tensors may look into one member; it is unpacked for the first of them."""
    with zipfile.ZipFile(archive) as file:
        reader = clip_weights._Archive(file)
        key = ("storage", torch.float16, "0", "cpu", 1)
        assert reader.persistent_load(key) is reader.persistent_load(key)


# ---- Downloads, from a server of our own -------------------------------------------------------


@contextlib.contextmanager
def server(data, cuts=(), ranges=True, status=200):
    """Serve `data` at every address; answer i ends after cuts[i] bytes -> address, ranges asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range", "")
            asked.append(wanted)
            start = int(wanted[6:-1]) if wanted and ranges else 0
            code = 416 if start >= len(data) else 206 if start else status
            body = data[start:] if code in (200, 206) else b""
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            if code == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            self.wfile.write(body[: cuts[len(asked) - 1]] if len(asked) <= len(cuts) else body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", asked
        httpd.shutdown()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PEVL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(clip_weights, "PAUSE", 0.0)
    return tmp_path / "cache"


DATA = bytes(range(256)) * 5000
FILE = "ViT-S.pt"
HASH = hashlib.sha256(DATA).hexdigest()


def test_download_once(cache, capsys):
    with server(DATA) as (base, asked):
        path = fetch(FILE, HASH, base)
        assert path == cache / "ViT-S.pt" and path.read_bytes() == DATA
        assert fetch(FILE, HASH, base) == path and asked == [""]
    assert re.search(r"ViT-S.pt: 1.3 of 1.3 MB, [\d.]+ MB/s, 0 s left", capsys.readouterr().err)
    assert {p.name for p in cache.iterdir()} == {"ViT-S.pt", "ViT-S.pt.lock"}
    path.write_bytes(DATA[:-1] + b"x")
    with pytest.raises(ValueError, match="ViT-S.pt has SHA-256 .* Expected .*delete it"):
        fetch(FILE, HASH, "http://127.0.0.1:1")


def test_download_goes_on_after_cuts(cache):
    with server(DATA, cuts=(300_000, 500_000)) as (base, asked):
        assert fetch(FILE, HASH, base).read_bytes() == DATA
    assert asked == ["", "bytes=300000-", "bytes=800000-"]


def test_download_restarts_where_ranges_are_unknown(cache):
    with server(DATA, cuts=(300_000,), ranges=False) as (base, asked):
        assert fetch(FILE, HASH, base).read_bytes() == DATA
    assert len(asked) == 2


def test_download_of_a_stopped_run_goes_on_later(cache):
    """Every try is cut: an error, no file of the final name; the next run asks for the rest."""
    with server(DATA, cuts=(100_000,) * clip_weights.RETRIES) as (base, asked):
        with pytest.raises(
            ValueError, match="cut after 500000 of 1280000 bytes. Expected .*Run again"
        ):
            fetch(FILE, HASH, base)
        assert (
            not (cache / "ViT-S.pt").exists()
            and (cache / "ViT-S.pt.part").stat().st_size == 500_000
        )
        assert (
            fetch(FILE, HASH, base).read_bytes() == DATA and asked[-1] == "bytes=500000-"
        )


@pytest.mark.parametrize(
    "served",
    [DATA[:-1] + b"x", b"<html>sign in</html>", DATA + b"more"],
    ids=["one byte", "web page", "longer"],
)
def test_download_of_other_bytes(cache, served):
    with server(served) as (base, _):
        with pytest.raises(
            ValueError, match="SHA-256 .* and is deleted. Expected CLIP's weights, SHA-256"
        ):
            fetch(FILE, HASH, base)
    assert {p.name for p in cache.iterdir()} == {"ViT-S.pt.lock"}


def test_download_with_a_part_that_is_too_long(cache):
    cache.mkdir()
    (cache / "ViT-S.pt.part").write_bytes(DATA + b"old")
    with server(DATA) as (base, asked):
        assert fetch(FILE, HASH, base).read_bytes() == DATA and len(asked) == 2


@pytest.mark.parametrize("status", [404, 503])
def test_download_refused(cache, status):
    with server(DATA, status=status) as (base, _):
        with pytest.raises(
            ValueError,
            match=f"cannot download {base}/{HASH}/ViT-S.pt: HTTP Error {status}",
        ):
            fetch(FILE, HASH, base)
    with pytest.raises(ValueError, match="cannot download http://127.0.0.1:1/.*PEVL_CLIP_URL"):
        fetch(FILE, HASH, "http://127.0.0.1:1")
    assert not (cache / "ViT-S.pt").exists()


def test_processes_wait_for_the_first(cache):
    with server(DATA) as (base, asked):
        threads = [
            threading.Thread(target=fetch, args=(FILE, HASH, base)) for _ in range(4)
        ]
        [t.start() for t in threads], [t.join() for t in threads]
    assert asked == [""] and (cache / "ViT-S.pt").read_bytes() == DATA


def test_load_by_name(cache, archive, weights, monkeypatch):
    """A name of BACKBONES: download, hash, archive, keys; the address from the environment."""
    data = archive.read_bytes()
    config = replace(SMALL, file="ViT-S.pt", sha256=hashlib.sha256(data).hexdigest())
    monkeypatch.setitem(BACKBONES, "ViT-S/4", config)
    with server(data) as (base, asked):
        monkeypatch.setenv("PEVL_CLIP_URL", base + "/")
        assert equal(load_clip("ViT-S/4"), weights) and equal(load_clip("ViT-S/4"), weights)
        assert load_clip("ViT-S/4").config == config and len(asked) == 1


def test_cache_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("PEVL_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, where in (
        (None, "home/.cache/pevl"),
        ("XDG_CACHE_HOME", "xdg/pevl"),
        ("PEVL_CACHE", "own"),
    ):
        if name:
            monkeypatch.setenv(name, str(tmp_path / where.split("/")[0]))
        with server(DATA) as (base, _):
            assert fetch(FILE, HASH, base) == tmp_path / where / "ViT-S.pt"


def test_names_are_left_alone_that_fit_already(weights):
    assert openai_names(weights).keys() == weights.keys()


def test_public_addresses():
    """Names and hashes as published; the default address is OpenAI's."""
    assert clip_weights.CLIP_URL == "https://openaipublic.azureedge.net/clip/models"
    assert {name: (c.file, c.sha256[:8]) for name, c in BACKBONES.items()} == {
        "ViT-B/32": ("ViT-B-32.pt", "40d36571"),
        "ViT-B/16": ("ViT-B-16.pt", "5806e77c"),
        "ViT-L/14": ("ViT-L-14.pt", "b8cca3fd"),
        "ViT-L/14@336px": ("ViT-L-14-336px.pt", "3035c92b"),
        "tiny": ("", ""),
    }
