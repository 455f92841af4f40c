"""Where published data lies on this machine, and whether it is what was published."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwtrain.checks import text
from hwtrain.errors import DataError
from hwtrain.tasks.fetch import Published, fetch

VARIABLE = "HWTRAIN_DATA"


def find(data_set: str, signs: Sequence[str], published: Sequence[Published], data_dir: str | None) -> Path:
    """The folder that holds a data set.

    A folder that the user names, by task.data_dir or else by the environment variable HWTRAIN_DATA, is searched and
    never written to; without one, the files are kept in the user's cache, and those that are missing are downloaded.

    Args:
        data_set: its name, which is also that of its folder.
        signs: names of files or folders, any of which shows that a folder is the right one.
        published: what to download.
        data_dir: the setting task.data_dir.

    Raises:
        DataError: no folder has it, or a file could not be downloaded.
    """
    if data_dir is not None:
        text("task.data_dir", data_dir)
        return _search("task.data_dir", data_dir, data_set, signs, published)
    if named := os.environ.get(VARIABLE):
        return _search(VARIABLE, named, data_set, signs, published)
    folder = cache() / data_set
    for file in published:
        if not (folder / file.name).exists():
            fetch(file, folder)
    return folder


def cache() -> Path:
    """The folder for downloads, as the XDG base directory specification has it."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))  # which says that a relative path is to be ignored
    return (base if base.is_absolute() else Path("~/.cache").expanduser()) / "hwtrain"


def read(path: Path) -> bytes:
    """The content of a file.

    Raises:
        DataError: it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing. Put it there, or set task.data_dir to a folder that has it.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Set task.data_dir to another folder.") from error


def account(content: bytes, path: Path, sha256: str, verify: bool) -> dict[str, Any]:
    """What the record of a run says about one file: name, size, sha256, and whether it is the published file.

    Args:
        content: of the file.
        path: its place, for the message.
        sha256: of the published file.
        verify: is another content refused?
    Raises:
        DataError: it is another content, and `verify` is set.
    """
    found = hashlib.sha256(content).hexdigest()
    if verify and found != sha256:
        raise DataError(
            f"{path} is not the published file: sha256 {sha256} was expected, {found} found. Delete or replace it, "
            "or set task.verify=false to use it as it is, which the record of the run will say."
        )
    return {"name": path.name, "bytes": len(content), "sha256": found, "as_published": found == sha256}


def _search(origin: str, named: str, data_set: str, signs: Sequence[str], published: Sequence[Published]) -> Path:
    folders = [Path(named).expanduser() / data_set, Path(named).expanduser()]
    for folder in folders:
        if any((folder / sign).exists() for sign in signs):
            return folder
    instead = f", or unset {origin} to have them downloaded to {cache() / data_set}" if published else ""
    raise DataError(
        f"{data_set!r} is neither in {folders[0]} nor in {folders[1]}, where {origin} points: "
        f"there is none of {', '.join(signs)}. Put them there{instead}."
    )
