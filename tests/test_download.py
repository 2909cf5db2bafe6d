"""published/download.py: large files fetched once, resumed where they were cut, checked by hash.

The server that is downloaded from runs in a thread of the test (web_server.py).
"""
import hashlib
import threading

import pytest

from published import download as downloads
from published.download import download
from web_server import server

ADVICE = "Ask a neighbour."
DATA = bytes(range(256)) * 5000
FILE = "net.pth"
HASH = hashlib.sha256(DATA).hexdigest()
NOBODY = "http://127.0.0.1:1"                     # where no server listens


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder for downloads, empty; a second try follows without a pause."""
    monkeypatch.setenv("PEVL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    return tmp_path / "cache"


def fetch(base, sha256=HASH):
    """The path of FILE, from the server at the address `base`."""
    return download(f"{base}/weights/{FILE}", sha256, ADVICE)


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def test_download_once(cache, capsys):
    """The second time the file is taken from the cache; on the screen there is the progress."""
    with server(DATA) as (base, asked):
        path = fetch(base)
        assert path == cache / FILE
        assert path.read_bytes() == DATA
        assert fetch(base) == path
        assert asked == [""]
    shown = capsys.readouterr().err
    assert shown.startswith("net.pth 1/1 MB, ") and "MB/s, 0:00 left" in shown
    assert names_in(cache) == {FILE, f"{FILE}.lock"}


def test_a_changed_file_in_the_cache_is_an_error(cache):
    """One byte differs: what the hash is, and what to do; nothing is downloaded by itself."""
    cache.mkdir()
    (cache / FILE).write_bytes(DATA[:-1] + b"x")
    with pytest.raises(ValueError, match="net.pth has SHA-256 .* Expected .*delete it"):
        fetch(NOBODY)


def test_download_goes_on_after_cuts(cache):
    """Each try asks for what is missing."""
    with server(DATA, cuts=(300_000, 500_000)) as (base, asked):
        assert fetch(base).read_bytes() == DATA
    assert asked == ["", "bytes=300000-", "bytes=800000-"]


def test_download_restarts_where_ranges_are_unknown(cache):
    """A server that sends everything again: nothing is appended to what was there."""
    with server(DATA, cuts=(300_000,), ranges=False) as (base, asked):
        assert fetch(base).read_bytes() == DATA
    assert len(asked) == 2


def test_download_of_a_stopped_run_goes_on_later(cache):
    """Every try is cut: an error, no file of the final name; the next run asks for the rest."""
    with server(DATA, cuts=(100_000,) * downloads.RETRIES) as (base, asked):
        said = "cut after 500000 of 1280000 bytes. Expected .*Ask a neighbour"
        with pytest.raises(ValueError, match=said):
            fetch(base)
        assert not (cache / FILE).exists()
        assert (cache / f"{FILE}.part").stat().st_size == 500_000

        assert fetch(base).read_bytes() == DATA
        assert asked[-1] == "bytes=500000-"


OTHER = {"one byte": DATA[:-1] + b"x", "web page": b"<html>sign in</html>", "longer": DATA + b"x"}


@pytest.mark.parametrize("name", OTHER)
def test_download_of_other_bytes(cache, name):
    """What has another hash is deleted."""
    with server(OTHER[name]) as (base, _):
        said = "SHA-256 .* and is deleted. Expected SHA-256"
        with pytest.raises(ValueError, match=said):
            fetch(base)
    assert names_in(cache) == {f"{FILE}.lock"}


def test_download_with_a_damaged_part(cache):
    """What an earlier try left is wrong: it is thrown away, and all is fetched."""
    cache.mkdir()
    (cache / f"{FILE}.part").write_bytes(bytes(1000))
    with server(DATA) as (base, asked):
        assert fetch(base).read_bytes() == DATA
        assert asked == ["bytes=1000-", ""]


def test_download_with_a_part_that_is_too_long(cache):
    """What an older file left is thrown away: the server has nothing behind it."""
    cache.mkdir()
    (cache / f"{FILE}.part").write_bytes(DATA + b"old")
    with server(DATA) as (base, asked):
        assert fetch(base).read_bytes() == DATA
        assert len(asked) == 2


@pytest.mark.parametrize("status", [404, 503])
def test_download_refused(cache, status):
    """The server's error with the whole address. What is not there is not asked for again."""
    with server(DATA, status=status) as (base, asked):
        said = f"cannot download {base}/weights/net.pth: HTTP Error {status}"
        with pytest.raises(ValueError, match=said):
            fetch(base)
    assert len(asked) == {404: 1, 503: downloads.RETRIES}[status]
    assert names_in(cache) == {f"{FILE}.lock"}, "an empty part is left"


def test_download_of_unknown_length(cache, capsys):
    """A server need not say how much will come; the hash tells whether all has."""
    with server(DATA, length=False) as (base, _):
        assert fetch(base).read_bytes() == DATA


def test_download_by_the_first_digits(cache):
    """Of some files only the beginning of the hash is published."""
    with server(DATA) as (base, _):
        assert fetch(base, HASH[:8]).read_bytes() == DATA
        assert fetch(base, HASH[:8]).read_bytes() == DATA
        with pytest.raises(ValueError, match="Expected 00000000.*delete it"):
            fetch(base, "00000000")


def test_download_without_a_server(cache):
    """Nobody answers: the error ends with what to do."""
    with pytest.raises(ValueError, match=f"cannot download {NOBODY}/.*Ask a neighbour"):
        fetch(NOBODY)
    assert not (cache / FILE).exists()


def test_processes_wait_for_the_first(cache):
    """Four at a time, threads here: one of them downloads, the others find the file."""
    with server(DATA) as (base, asked):
        threads = [threading.Thread(target=fetch, args=(base,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert asked == [""]
    assert (cache / FILE).read_bytes() == DATA


def test_cache_folder(tmp_path, monkeypatch):
    """PEVL_CACHE, else pevl in XDG_CACHE_HOME, else in .cache of the home folder."""
    monkeypatch.delenv("PEVL_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with server(DATA) as (base, _):
        assert fetch(base) == tmp_path / "home/.cache/pevl" / FILE
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert fetch(base) == tmp_path / "xdg/pevl" / FILE
        monkeypatch.setenv("PEVL_CACHE", str(tmp_path / "own"))
        assert fetch(base) == tmp_path / "own" / FILE
