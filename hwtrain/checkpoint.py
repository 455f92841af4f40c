"""A state to a file and back: atomically, so that a killed process leaves the last checkpoint or the one before.

States are dataclasses; the file holds their arrays and numbers by dotted name ("state.theta"). What else a state
carries, such as the layers of the device, comes from a fresh state of the same algorithm and device.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from hwtrain.core import Array
from hwtrain.errors import RecordError

T = TypeVar("T")

NAME = "checkpoint.npz"
PREVIOUS = "checkpoint.previous.npz"


def flatten(name: str, value: Any) -> dict[str, Array]:
    """Arrays and numbers of a state by dotted name."""
    if is_dataclass(value) and not isinstance(value, type):
        parts = ((field.name, getattr(value, field.name)) for field in fields(value))
    elif isinstance(value, tuple):
        parts = ((str(index), item) for index, item in enumerate(value))
    elif isinstance(value, dict):
        parts = ((str(key), item) for key, item in value.items())
    elif isinstance(value, np.ndarray | np.generic | int | float):
        return {name: np.asarray(value)}
    else:
        return {}
    return {key: array for part, item in parts for key, array in flatten(f"{name}.{part}", item).items()}


def unflatten(name: str, like: T, arrays: Mapping[str, Array]) -> T:
    """The inverse of `flatten`, for a value shaped like `like`.

    Raises:
        RecordError: an entry is missing, or has another shape: the checkpoint is of another run.
    """
    result: Any = like
    if is_dataclass(like) and not isinstance(like, type):
        changes = {
            field.name: unflatten(f"{name}.{field.name}", getattr(like, field.name), arrays) for field in fields(like)
        }
        result = replace(like, **changes)
    elif isinstance(like, tuple):
        result = tuple(unflatten(f"{name}.{index}", item, arrays) for index, item in enumerate(like))
    elif isinstance(like, dict):
        result = {key: unflatten(f"{name}.{key}", item, arrays) for key, item in like.items()}
    elif isinstance(like, np.ndarray | np.generic | int | float):
        if name not in arrays:
            raise RecordError(f"the checkpoint has no {name!r}: it is of another algorithm, device or version")
        value = arrays[name]
        if isinstance(like, np.ndarray):
            if like.size and value.shape != like.shape:  # what is empty at first takes the shape it grew to
                raise RecordError(f"the checkpoint's {name!r} has shape {value.shape}, this run needs {like.shape}")
            result = value.astype(like.dtype, copy=False)
        else:
            result = type(like)(value)
    return cast(T, result)


def save(folder: Path, arrays: Mapping[str, Array]) -> None:
    """Write the checkpoint of a run folder; the one before it stays as `checkpoint.previous.npz`.

    Raises:
        RecordError: the folder cannot be written; the last checkpoint is untouched.
    """
    path, temporary = folder / NAME, folder / "checkpoint.part"
    try:
        with open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.replace(path, folder / PREVIOUS)
        os.replace(temporary, path)
    except OSError as error:
        raise RecordError(
            f"cannot write the checkpoint {path}: {error.strerror}. The one before it is untouched."
        ) from error


def exists(folder: Path) -> bool:
    """Does the run folder hold a checkpoint?"""
    return any((folder / name).exists() for name in (NAME, PREVIOUS))


def load(folder: Path) -> dict[str, Array]:
    """Read the newest whole checkpoint of a run folder.

    A process killed between the two renames of `save` leaves only the previous one, which is then the newest.

    Raises:
        RecordError: there is none, or it is damaged; the message names the file and the next move.
    """
    path = folder / NAME if (folder / NAME).exists() else folder / PREVIOUS
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError as error:
        raise RecordError(
            f"{folder} holds no checkpoint ({NAME}), so this run cannot be resumed; start it anew"
        ) from error
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, KeyError) as error:
        spare = folder / PREVIOUS
        hint = (
            f"To go on from the one before it, rename {PREVIOUS} to {NAME}." if spare.exists() and spare != path else ""
        )
        raise RecordError(f"the checkpoint {path} is damaged ({error}). {hint}".strip()) from error
