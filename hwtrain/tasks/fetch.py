"""Downloads a published file; the only module of the package that knows the network."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hwtrain.errors import DataError

CHUNK = 2**18  # bytes
SLOWEST = 10_000  # bytes per second, on average, below which a download is given up


@dataclass(frozen=True, slots=True)
class Published:
    """A file as its authors published it.

    Args:
        name: of the file.
        sha256: of its content, in hexadecimal.
        urls: where it can be had; tried in this order.
    """

    name: str
    sha256: str
    urls: tuple[str, ...]


def fetch(file: Published, folder: Path, timeout: float = 30.0) -> Path:
    """Download a file unless every source fails; it appears under its name only when complete and verified.

    Args:
        file: what to download.
        folder: where to; made if it does not exist.
        timeout: how long one answer of the server may take [s]; the whole may take as long plus the time in which the
            bytes received so far would come at 10 kB/s.

    Raises:
        DataError: naming every address tried and what went wrong there; nothing is left behind.
    """
    failures = []
    for url in file.urls:
        logging.getLogger(__name__).info("fetching %s", url)
        try:
            return _fetch(url, file, folder, timeout)
        except (OSError, http.client.HTTPException, ValueError) as error:
            failures.append(f"{url}: {error}")
    raise DataError(
        f"{file.name} is not in {folder} and could not be downloaded ({'; '.join(failures)}). "
        "Put it there, or set task.data_dir or the environment variable HWTRAIN_DATA to a folder that has it."
    )


def _fetch(url: str, file: Published, folder: Path, timeout: float) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=file.name + ".", suffix=".part", delete=False) as part:
        try:
            digest = hashlib.sha256()
            for chunk in _body(url, timeout):
                digest.update(chunk)
                part.write(chunk)
            if digest.hexdigest() != file.sha256:
                raise ValueError(f"sent a file of {part.tell()} bytes, sha256 {digest.hexdigest()} not {file.sha256}")
            part.close()
            os.replace(part.name, folder / file.name)
        finally:
            Path(part.name).unlink(missing_ok=True)
    return folder / file.name


def _body(url: str, timeout: float) -> Iterator[bytes]:
    begin, received = time.monotonic(), 0
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        expected = answer.headers.get("Content-Length")
        while chunk := answer.read1(CHUNK):  # what is there, without waiting for a whole chunk
            received += len(chunk)
            yield chunk
            if (elapsed := time.monotonic() - begin) > timeout + received / SLOWEST:
                raise TimeoutError(f"too slow: {received} bytes in {elapsed:.0f} s")
        if expected is not None and received != int(expected):
            raise OSError(f"the connection ended after {received} of {expected} bytes")
