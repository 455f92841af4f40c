"""Small data sets in the published formats, the real ones where this machine has them, and a server on this machine."""

import gzip
import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

PUBLIC = os.environ.get("HWTRAIN_DATA")
CIFAR_DECODED = {  # sha256 of the decoded images (N, 32, 32, 3)
    "test.npz": "cfa62543aee094592a7094f09a2709755bfa4bb61b98c52f619097b764c01174",
    "train_0.npz": "27765d7f74ad14a9b0859e2d969d8f2e374c692bf4c7e8569c5ffb78ac5d32cd",
}


@pytest.fixture(autouse=True)
def _own_places(monkeypatch, tmp_path):
    """No test sees the user's data or cache, or sends anything to a proxy."""
    monkeypatch.delenv("HWTRAIN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="session")
def public_data():
    """The folder with the published data sets, as `HWTRAIN_DATA` said when the tests began."""

    def folder(data_set):
        if not PUBLIC:
            pytest.skip(f"needs the published {data_set} data: set HWTRAIN_DATA to a folder that has them")
        if not (Path(PUBLIC) / data_set).is_dir():
            pytest.skip(f"needs the published {data_set} data, and HWTRAIN_DATA has no folder of that name")
        return Path(PUBLIC)

    return folder


@pytest.fixture(scope="session")
def idx_bytes():
    """Makes a gzipped idx file of an array, in the published format."""

    def make(array, magic=None):
        magic = 0x800 + array.ndim if magic is None else magic
        sizes = b"".join(int(size).to_bytes(4, "big") for size in array.shape)
        return gzip.compress(magic.to_bytes(4, "big") + sizes + array.tobytes(), 1, mtime=0)

    return make


@pytest.fixture
def small_mnist(tmp_path, idx_bytes):
    """A folder with 50 training and 20 test images in the four files of MNIST, and the arrays in them."""
    folder = tmp_path / "data"
    (folder / "mnist").mkdir(parents=True)
    random = np.random.default_rng(1)
    arrays = {}
    for part, count in (("train", 50), ("t10k", 20)):
        arrays[f"{part}-images-idx3-ubyte.gz"] = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{part}-labels-idx1-ubyte.gz"] = np.arange(count, dtype=np.uint8) % 10
    for name, array in arrays.items():
        (folder / "mnist" / name).write_bytes(idx_bytes(array))
    return folder, arrays


@pytest.fixture(scope="session")
def cifar_bytes():
    """Makes a batch in the binary version of CIFAR-10 from images (N, 32, 32, 3) and labels (N,)."""

    def make(images, labels):
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        return np.concatenate([labels[:, None], planes], axis=1).astype(np.uint8).tobytes()

    return make


@pytest.fixture(scope="session")
def cifar10_batches(public_data, tmp_path_factory, cifar_bytes):
    """A folder with the whole test set and 10 000 training images, re-ordered, in the binary version; and the images.

    The shards hold colour differences, then differences along both axes, all modulo 256.
    """
    source = public_data("cifar10") / "cifar10"
    folder = tmp_path_factory.mktemp("cifar10")
    originals = {}
    for shard, batch in (("test.npz", "test_batch.bin"), ("train_0.npz", "data_batch_1.bin")):
        if not (source / shard).is_file():
            pytest.skip(f"needs the CIFAR-10 shard {shard} in the cifar10 folder of HWTRAIN_DATA")
        with np.load(source / shard) as arrays:
            d = arrays["residual"].cumsum(-1, dtype=np.uint8).cumsum(-2, dtype=np.uint8)
            labels = arrays["labels"]
        images = np.stack([d[:, 1] + d[:, 0], d[:, 0], d[:, 2] + d[:, 0]], -1)
        assert hashlib.sha256(images.tobytes()).hexdigest() == CIFAR_DECODED[shard]
        (folder / batch).write_bytes(cifar_bytes(images, labels))
        originals[batch] = images, labels
    return folder, originals


class Server:
    """Answers requests for the paths in `answers`: (status, announced length or None, body)."""

    def __init__(self):
        self.answers, self.asked = {}, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append(self.path)
                status, length, body = outer.answers.get(self.path, (404, 0, b""))
                self.send_response(status)
                if length is not None:
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/"

    def serve(self, path, body):
        self.answers["/" + path] = 200, len(body), body
        return self.url + path

    def close(self):
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def dead_url(server):
    """An address at which nobody listens."""
    other = Server()
    other.close()
    return other.url
