"""Reads a user's own arrays from .npz and .csv files, and refuses whatever could not be meant."""

from __future__ import annotations

import csv
import io
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwtrain.core import Array
from hwtrain.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Inputs and targets of one kind of samples.

    Args:
        x: inputs, (N, n).
        y: integer labels (N,), or targets (N, m).
    """

    x: NDArray[np.float64]
    y: Array


def from_npz(content: bytes, path: Path) -> tuple[Table, Table | None]:
    """The arrays train_x, train_y and, if there are any, test_x, test_y.

    Inputs are (N, n), or images (N, h, w) and (N, h, w, c), which are flattened. Targets are integers (N,) or (N, 1),
    which are labels, or (N, m), or floating point (N,), which is one target.

    Raises:
        DataError: the file is damaged, an array is missing, of the wrong shape, or not finite.
    """
    try:
        loaded = np.load(io.BytesIO(content), allow_pickle=False)
        arrays = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {}
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}. Write it with numpy.savez, numbers only.") from error
    parts = ("train", "test") if {"test_x", "test_y"} & arrays.keys() else ("train",)
    for name in (f"{part}_{kind}" for part in parts for kind in "xy"):
        if name not in arrays:
            there = ", ".join(arrays) or "none"
            raise DataError(f"{path} has no array {name!r}; there is {there}. Name it so in numpy.savez.")
    tables = [_table(arrays[f"{part}_x"], arrays[f"{part}_y"], part, path) for part in parts]
    return tables[0], tables[1] if len(tables) == 2 else None


def from_csv(content: bytes, path: Path, target_columns: int) -> Table:
    """Rows of numbers between commas; a first row without any number is a header.

    The last columns are the targets. A single one in which every number is written as an integer is a label.

    Raises:
        DataError: naming the line and column of what is not a finite number, or the line that is too long or short.
    """
    try:
        rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), skipinitialspace=True)
        lines = [(rows.line_num, row) for row in rows if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV text: {error}. Save it as UTF-8, with commas between columns.") from error
    header = lines.pop(0)[1] if lines and all(_number(cell) is None for cell in lines[0][1]) else None
    if not lines:
        raise DataError(f"{path} has no row of numbers. Put one sample in each line, with commas between columns.")
    names = header or [str(number) for number in range(1, len(lines[0][1]) + 1)]
    if len(names) <= target_columns:
        raise DataError(
            f"{path} has {len(names)} columns; {target_columns} for targets (task.target_columns) and at least one "
            "for inputs are needed, with commas between them."
        )
    values = np.array([_row(row, line, names, path) for line, row in lines])
    labels = target_columns == 1 and all(re.fullmatch(r"\s*[+-]?\d+\s*", row[-1]) for _, row in lines)
    targets = values[:, -target_columns:]
    return Table(values[:, :-target_columns], targets[:, 0].astype(np.int64) if labels else targets)


def _row(row: list[str], line: int, names: list[str], path: Path) -> list[float]:
    if len(row) != len(names):
        raise DataError(f"{path}, line {line}: {len(row)} columns instead of {len(names)}. Give every line as many.")
    values = [_number(cell) for cell in row]
    for name, cell, value in zip(names, row, values, strict=True):
        if value is None or not np.isfinite(value):
            raise DataError(
                f"{path}, line {line}, column {name}: {cell!r} is not a finite number. "
                "Mend or remove the line; write classes as 0, 1, 2, ..."
            )
    return [value for value in values if value is not None]


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _table(x: Array, y: Array, part: str, path: Path) -> Table:
    for name, array in ((f"{part}_x", x), (f"{part}_y", y)):
        if array.dtype.kind not in "biuf":
            raise DataError(f"{path}: {name} holds {array.dtype}; numbers are needed. Convert it before numpy.savez.")
    if x.ndim not in (2, 3, 4) or y.ndim not in (1, 2) or len(x) != len(y) or not x.size or not y.size:
        raise DataError(
            f"{path}: {part}_x has the shape {x.shape}, {part}_y {y.shape}; inputs are (N, n), (N, h, w) or "
            "(N, h, w, c), targets (N,) or (N, m), with the same N of at least 1. Reshape them before numpy.savez."
        )
    table = Table(x.reshape(len(x), -1).astype(np.float64), _targets(y))
    for name, array in ((f"{part}_x", table.x), (f"{part}_y", table.y)):
        if len(bad := np.argwhere(~np.isfinite(array))):
            row, *column = bad[0].tolist()
            raise DataError(
                f"{path}: {name} holds {array[tuple(bad[0])]} in row {row}, column {(column or [0])[0]}, "
                "counted from 0. Mend or remove the row."
            )
    return table


def _targets(y: Array) -> Array:
    if y.ndim == 2 and y.shape[1] > 1:
        return y.astype(np.float64)
    if y.dtype.kind == "f":
        return y.reshape(-1, 1).astype(np.float64)
    return y.reshape(-1).astype(np.int64)
