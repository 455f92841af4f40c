"""Reads the idx format of MNIST: a magic number, the sizes, then bytes; gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwtrain.errors import DataError

IMAGES, LABELS = 2051, 2049  # magic numbers: unsigned bytes with three axes, with one


def unpack(content: bytes, path: Path, magic: int) -> NDArray[np.uint8]:
    """The array in a gzipped idx file.

    Args:
        content: of the file.
        path: its place, for messages.
        magic: what the file must begin with; its last byte counts the axes.

    Returns:
        (count, height, width) for `IMAGES`, (count,) for `LABELS`.

    Raises:
        DataError: it is damaged, or something else.
    """
    advice = "Replace it by the published file, or delete it to have it downloaded again."
    try:
        data = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is no complete gzip file: {error}. {advice}") from error
    header = 4 + 4 * (magic & 0xFF)
    if (found := int.from_bytes(data[:4], "big")) != magic or len(data) < header:
        raise DataError(f"{path} begins with {found} instead of the magic number {magic}, or ends there. {advice}")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", offset=4, count=magic & 0xFF))
    if math.prod(shape) != len(data) - header:
        raise DataError(
            f"{path} announces {math.prod(shape)} bytes, shape {shape}, and holds {len(data) - header}. {advice}"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
