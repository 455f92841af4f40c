"""Downloads, from a server on this machine."""

import gzip
import hashlib
import socket

import numpy as np
import pytest

from hwtrain.errors import DataError
from hwtrain.tasks import fetch as module
from hwtrain.tasks import images
from hwtrain.tasks.fetch import Published, fetch
from hwtrain.tasks.images import NAMES, mnist

BODY = np.random.default_rng(3).bytes(700_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


def published(*urls):
    return Published("set.bin", SHA256, urls)


def test_a_file_arrives_whole(server, tmp_path):
    path = fetch(published(server.serve("set.bin", BODY)), tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "set.bin"
    assert path.read_bytes() == BODY
    assert [entry.name for entry in path.parent.iterdir()] == ["set.bin"]


def test_a_file_of_unannounced_length(server, tmp_path):
    server.answers["/set.bin"] = 200, None, BODY
    assert fetch(published(server.url + "set.bin"), tmp_path).read_bytes() == BODY


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((200, len(BODY), BODY[:1000]), "ended after 1000 of 700000 bytes"),
        ((200, None, BODY[:1000]), "sha256"),
        ((200, len(BODY), BODY[:-1] + b"x"), "sha256"),
        ((200, 0, b""), "sha256"),
        ((200, "many", BODY), "many"),
        ((404, 0, b""), "404"),
        ((500, 0, b""), "500"),
    ],
    ids=["truncated", "truncated silently", "altered", "empty", "nonsense", "absent", "broken"],
)
def test_a_bad_answer_leaves_nothing_behind(server, tmp_path, answer, says):
    server.answers["/set.bin"] = answer
    (tmp_path / "other.bin").write_bytes(b"kept")
    with pytest.raises(DataError, match=says) as caught:
        fetch(published(server.url + "set.bin"), tmp_path)
    for part in ("set.bin", str(tmp_path), server.url, "task.data_dir", "HWTRAIN_DATA"):
        assert part in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["other.bin"]


def test_a_bad_answer_does_not_replace_a_file(server, tmp_path):
    (tmp_path / "set.bin").write_bytes(b"mine")
    with pytest.raises(DataError):
        fetch(published(server.serve("set.bin", b"other")), tmp_path)
    assert (tmp_path / "set.bin").read_bytes() == b"mine"


def test_a_mirror_stands_in(server, dead_url, tmp_path):
    urls = (dead_url + "set.bin", server.serve("altered", b"other"), server.serve("good", BODY), server.url + "never")
    assert fetch(published(*urls), tmp_path).read_bytes() == BODY
    assert server.asked == ["/altered", "/good"]


def test_without_a_network_every_address_is_named(dead_url, tmp_path):
    urls = (dead_url + "first", dead_url + "second", "no address")
    with pytest.raises(DataError) as caught:
        fetch(published(*urls), tmp_path)
    for url in urls:
        assert url in str(caught.value)


def test_a_silent_server_is_given_up(tmp_path):
    """A socket that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/set.bin"
        with pytest.raises(DataError, match="timed out"):
            fetch(published(url), tmp_path, timeout=0.05)


def test_a_dripping_server_is_given_up(server, tmp_path, monkeypatch):
    """The clock says that every chunk took an hour."""
    hours = iter(range(0, 10**6, 3600))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(hours))
    with pytest.raises(DataError, match=r"too slow: .* bytes in 3600 s"):
        fetch(published(server.serve("set.bin", BODY)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"task\.data_dir"):
        fetch(published(server.serve("set.bin", BODY)), tmp_path / "file" / "cache")


@pytest.fixture
def offered(server, small_mnist, monkeypatch):
    """The small MNIST as the published one, at the server's address."""
    folder, _ = small_mnist
    files = []
    for name in NAMES:
        content = (folder / "mnist" / name).read_bytes()
        files.append(Published(name, hashlib.sha256(content).hexdigest(), (server.serve(name, content),)))
    monkeypatch.setattr(images, "MNIST", tuple(files))
    return folder


def test_a_task_fetches_into_the_cache_once(server, offered, tmp_path):
    first = mnist()
    assert first.provenance["folder"] == str(tmp_path / "cache" / "hwtrain" / "mnist")
    assert all(file["as_published"] for file in first.provenance["files"])
    assert sorted(server.asked) == sorted("/" + name for name in NAMES)
    assert mnist().seen(50) == first.seen(50) == mnist(data_dir=str(offered)).seen(50)
    assert len(server.asked) == 4, "the second time nothing is asked for"
    (tmp_path / "cache" / "hwtrain" / "mnist" / NAMES[2]).unlink()
    mnist()
    assert server.asked[4:] == ["/" + NAMES[2]], "only what is missing is asked for"


@pytest.mark.usefixtures("offered")
def test_a_damaged_cache_is_reported_not_used(tmp_path):
    mnist()
    path = tmp_path / "cache" / "hwtrain" / "mnist" / NAMES[1]
    path.write_bytes(gzip.compress(b"other"))
    with pytest.raises(DataError, match=rf"{NAMES[1]} is not the published file.* Delete"):
        mnist()


@pytest.mark.usefixtures("offered")
def test_the_cache_without_xdg_is_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in (None, "", "relative/path"):
        monkeypatch.delenv("XDG_CACHE_HOME") if value is None else monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert mnist().provenance["folder"] == str(tmp_path / "home" / ".cache" / "hwtrain" / "mnist")


def test_an_empty_variable_is_none(offered, monkeypatch, tmp_path):
    monkeypatch.setenv("HWTRAIN_DATA", "")
    assert str(tmp_path / "cache") in mnist().provenance["folder"]
