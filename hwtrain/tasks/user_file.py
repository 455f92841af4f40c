"""A user's own data as a task."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwtrain import draws
from hwtrain.checks import number, text, whole
from hwtrain.core import Array
from hwtrain.errors import ConfigError, DataError
from hwtrain.tasks import folder, table
from hwtrain.tasks.dataset import DataTask, one_hot
from hwtrain.tasks.table import Table

FRACTION = 0.2  # held out where nothing else is said


def user_file(
    path: str,
    batch: int = 1,
    test_path: str | None = None,
    test_fraction: float | None = None,
    target_columns: int = 1,
    split_seed: int = 0,
    name: str = "file",
) -> DataTask:
    """Samples from an .npz file (arrays train_x, train_y, test_x, test_y) or from .csv files.

    Numbers are used as they stand, none is scaled. Integer labels (in CSV: one target column in which every number is
    written as an integer) become one output per class, 1 for the class and 0 for the others; other targets stay what
    they are, so that a single output of 0 or 1 is had by writing 0.0 and 1.0.

    Args:
        path: the file; of an .npz, the test arrays may be missing.
        batch: samples presented at once.
        test_path: a .csv with the test set.
        test_fraction: share of the samples to hold out where there is no test set, at random; None is 0.2. With 0 the
            training set is also the test set, which the record says.
        target_columns: of a .csv, how many of the last columns are targets.
        split_seed: of the choice of what to hold out.
        name: what messages and records call it.

    Raises:
        ConfigError: the settings contradict each other or the file.
        DataError: naming what is wrong in which file.
    """
    text("task.path", path)
    whole("task.target_columns", target_columns)
    whole("task.split_seed", split_seed, 0, 2**32 - 1)
    accounts: list[dict[str, Any]] = []
    place = Path(path).expanduser()
    content = _content(place, accounts)
    test: Table | None = None
    if place.suffix.lower() == ".npz":
        if test_path is not None or target_columns != 1:
            raise ConfigError(
                f"task.test_path and task.target_columns are for .csv files, and task.path is {place.name}. "
                "Remove them, and put a test set into the same file as test_x, test_y."
            )
        train, test = table.from_npz(content, place)
    elif place.suffix.lower() == ".csv":
        train = table.from_csv(content, place, target_columns)
        if test_path is not None:
            text("task.test_path", test_path)
            test_place = Path(test_path).expanduser()
            test = table.from_csv(_content(test_place, accounts), test_place, target_columns)
    else:
        raise ConfigError(f"task.path must end in .npz or .csv, not {path!r}. Convert the file, say with numpy.savez.")
    train, test, how = _with_test(train, test, test_fraction, split_seed)
    train_y, test_y, classes = _outputs(train.y, test.y, place)
    provenance = {
        "source": "the user's file",
        "licence": "not stated",
        "folder": str(place.parent),
        "files": accounts,
        "test": how,
        "classes": classes,
    }
    return DataTask(name, train.x, train_y, test.x, test_y, batch, provenance)


def _content(path: Path, accounts: list[dict[str, Any]]) -> bytes:
    if not path.is_file():
        raise DataError(f"there is no file {path} (from {Path.cwd()}). Set task.path or task.test_path to one.")
    content = folder.read(path)
    accounts.append({"name": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    return content


def _with_test(train: Table, test: Table | None, fraction: float | None, seed: int) -> tuple[Table, Table, str]:
    """Training set, test set, and in words where the test set came from."""
    if test is not None:
        if fraction is not None:
            raise ConfigError(f"task.test_fraction is {fraction}, but there is a test set already. Set it to null.")
        return train, test, "given"
    if fraction is None:
        fraction = FRACTION
    number("task.test_fraction", fraction, 0, 1, below=True, none="0.2 where there is no test set")
    if fraction == 0:
        return train, train, "the training set"
    count = round(fraction * len(train.x))
    if not 0 < count < len(train.x):
        raise ConfigError(
            f"task.test_fraction={fraction} of {len(train.x)} samples holds out {count}; at least one must be "
            "held out and one be left. Change it, or set it to 0 to test on the training set."
        )
    order = draws.order(draws.derive(seed, "samples held out"), 0, len(train.x))
    held, kept = np.sort(order[:count]), np.sort(order[count:])
    how = f"a share of {fraction} held out, split_seed {seed}"
    return Table(train.x[kept], train.y[kept]), Table(train.x[held], train.y[held]), how


def _outputs(train: Array, test: Array, path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64], int | None]:
    """Targets of both sets, and the number of classes where they were labels."""
    if train.ndim != test.ndim:
        raise DataError(
            f"{path}: training targets have the shape {train.shape} ({train.dtype}), test targets {test.shape} "
            f"({test.dtype}): labels in one, plain targets in the other. Write both in the same way."
        )
    if train.ndim == 2:
        return train, test, None
    found = np.unique(np.concatenate([train, test]))
    if not np.array_equal(found, np.arange(len(found))) or len(found) < 2:
        raise DataError(
            f"{path}: the labels are {_some(found)}; they must be 0, 1, 2, ... without gaps, and at least two. "
            "Number the classes from 0, or write targets that are no classes as 3.0 instead of 3."
        )
    return one_hot(train, len(found)), one_hot(test, len(found)), len(found)


def _some(values: Array) -> str:
    shown = [str(value) for value in values[:4]]
    return ", ".join(shown if len(values) <= 4 else [*shown, f"... {values[-1]}"])
