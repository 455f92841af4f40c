"""Random numbers as formulas: every draw is a pure function of a seed and a few counters.

There is no generator state anywhere in hwtrain. A draw is named by integers, so host and microcontroller agree on every
bit, a resumed run needs nothing but its counters, and a stack of replicas draws what separate runs would draw.

The mixer is lowbias32 (Wellons, "Prospecting for hash functions", 2018; public domain): five operations, a bijection of
32-bit integers, and small enough for an 8-bit board.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

GOLDEN = np.uint32(0x9E3779B9)  # 2^32 / golden ratio: spreads consecutive counters over the whole range


def mix32(values: ArrayLike) -> NDArray[np.uint32]:
    """Scramble 32-bit integers, a bijection with low bias (lowbias32).

    Args:
        values: integers of any shape, taken modulo 2^32.

    Returns:
        uint32 of the same shape; always an array, also for a scalar.
    """
    x = np.array(values, dtype=np.uint32)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x


@lru_cache(maxsize=64)
def _tag(name: str) -> np.uint32:
    return np.uint32(zlib.crc32(name.encode()))


def derive(seed: ArrayLike, name: str) -> NDArray[np.uint32]:
    """A seed for one purpose, so that no two purposes share their draws.

    Args:
        seed: run or chip seeds, (...,).
        name: the purpose, for example "order of samples".

    Returns:
        uint32 seeds of the same shape.
    """
    return mix32(mix32(seed) ^ _tag(name))


def words(seed: NDArray[np.uint32], counter: ArrayLike, count: int) -> NDArray[np.uint32]:
    """`count` independent 32-bit words for each seed and counter.

    Args:
        seed: (...,) uint32.
        counter: one integer, or (k,) integers; word `i` of counter `c` is mix32(mix32(mix32(seed) ^ c) + i * GOLDEN).
        count: how many words.

    Returns:
        (..., count), or (..., k, count) for k counters.
    """
    counters = np.asarray(counter, dtype=np.int64).astype(np.uint32)
    base = mix32(seed).reshape((*np.shape(seed), *(1,) * counters.ndim))
    stream = mix32(base ^ counters)
    return mix32(stream[..., None] + np.arange(count, dtype=np.uint32) * GOLDEN)


def uniform(seed: NDArray[np.uint32], counter: ArrayLike, count: int) -> NDArray[np.float64]:
    """Uniform numbers strictly between 0 and 1, in steps of 2^-32; shapes as in `words`."""
    result: NDArray[np.float64] = (words(seed, counter, count).astype(np.float64) + 0.5) * 2.0**-32
    return result


def normal(seed: NDArray[np.uint32], counter: ArrayLike, count: int) -> NDArray[np.float64]:
    """Standard normal numbers by inversion (largest magnitude 6.3); shapes as in `words`."""
    result: NDArray[Any] = ndtri(uniform(seed, counter, count))
    return result


@lru_cache(maxsize=8)
def _order(seeds: bytes, shape: tuple[int, ...], epoch: int, size: int) -> NDArray[np.intp]:
    seed = np.frombuffer(seeds, dtype=np.uint32).reshape(shape)
    return np.argsort(words(seed, epoch, size), axis=-1, kind="stable")


def order(seed: NDArray[np.uint32], epoch: int, size: int) -> NDArray[np.intp]:
    """A random permutation of range(`size`), another one for each epoch.

    Args:
        seed: (...,) uint32.

    Returns:
        (..., size); the caller must not write to it.
    """
    seed = np.asarray(seed, dtype=np.uint32)
    return _order(seed.tobytes(), seed.shape, epoch, size)
