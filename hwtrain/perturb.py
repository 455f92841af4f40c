"""Perturbations as formulas: Rademacher, sequential, Walsh and sinusoidal codes.

Each is a pure function of (seed, step, index) in 32-bit integers (the sinusoid's phase apart), so host and
microcontroller agree on every bit, any probe can be made again at any time, and a few bytes describe any number of
them. All but the sequential code have mean zero, and all are mutually orthogonal, exactly or statistically, over a
window of `block` steps.

The size of a perturbation is given either as `amplitude`, the largest move of one parameter in the device's unit, or as
`norm`, the length m of the whole vector of p perturbations, which is how the published code of MGD states it
(McCaughan et al., APL Machine Learning 1, 026118, 2023).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks, draws
from hwtrain.core import Array
from hwtrain.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Code:
    """What the codes share: a size given one of two ways.

    Args:
        amplitude: largest move of one parameter, in the unit of the device's parameters.
        norm: length of the whole perturbation vector, same unit; give one of the two.
    """

    amplitude: float | None = None
    norm: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.amplitude, self.norm) if value is not None]
        if len(given) != 1:
            raise ConfigError(
                "perturbation: give amplitude or norm and leave the other null; "
                f"got amplitude={self.amplitude}, norm={self.norm}"
            )
        name = "norm" if self.amplitude is None else "amplitude"
        checks.number(f"algo.perturbation.{name}", given[0], 0, 1e100, above=True)

    def _size_of_move(self, norm_per_move: float) -> float:
        if self.amplitude is not None:
            return self.amplitude
        assert self.norm is not None
        return self.norm / norm_per_move


@dataclass(frozen=True, slots=True, kw_only=True)
class Rademacher(_Code):
    """Independent random signs: every parameter moves by plus or minus `amplitude` at once.

    Orthogonal only statistically: the cross-talk between parameters falls as the root of the number of probes. Works
    for any number of parameters; the perturbation of SPSA (Spall 1992).
    """

    def __call__(self, seed: NDArray[np.uint32], steps: Array, size: int) -> Array:
        return _rademacher(*_key(seed, steps), size, self.reach(size))

    def mean_square(self, size: int) -> float:
        return self.reach(size) ** 2

    def reach(self, size: int) -> float:
        return self._size_of_move(math.sqrt(size))

    def block(self, size: int) -> int:
        return 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequential(_Code):
    """One parameter at a time, in a fixed random order: finite differences, or coordinate descent.

    Here `norm` equals `amplitude`, since a single parameter is the whole vector.
    """

    def __call__(self, seed: NDArray[np.uint32], steps: Array, size: int) -> Array:
        order = draws.order(draws.derive(seed, "sequential"), 0, size)
        moved = order[..., np.asarray(steps) % size]
        return np.where(np.arange(size) == moved[..., None], self.reach(size), 0.0)

    def mean_square(self, size: int) -> float:
        return self.reach(size) ** 2 / size

    def reach(self, size: int) -> float:
        return self._size_of_move(1.0)

    def block(self, size: int) -> int:
        return size


@dataclass(frozen=True, slots=True, kw_only=True)
class Walsh(_Code):
    """Rows of a Hadamard matrix: exactly orthogonal after one block.

    Parameter i follows row i + 1 of the natural-order matrix of order N, the next power of two above the number of
    parameters: sign (-1)^popcount((i + 1) & step). Row 0, which is constant, is left out, so that the sum over a block
    is zero and no baseline is needed. End tau_theta on a block: an unfinished one is much worse than a random code.

    Args:
        two_sided: flip all signs in every second block. One-sided blocks carry a bias from curvature, proportional to
            the amplitude, that more blocks do not remove; the flipped block cancels it.
    """

    two_sided: bool = False

    def __call__(self, seed: NDArray[np.uint32], steps: Array, size: int) -> Array:
        order = self._order(size)
        steps = np.asarray(steps, dtype=np.int64)
        index = np.arange(1, size + 1, dtype=np.int64)
        negative = np.bitwise_count(index & (steps % order)[:, None]) & 1
        if self.two_sided:
            negative = negative ^ (steps // order % 2).astype(np.uint8)[:, None]
        signs = self.reach(size) * (1.0 - 2.0 * negative)
        return np.broadcast_to(signs, (*np.shape(seed), *signs.shape))

    def mean_square(self, size: int) -> float:
        return self.reach(size) ** 2

    def reach(self, size: int) -> float:
        return self._size_of_move(math.sqrt(size))

    def block(self, size: int) -> int:
        return self._order(size) * (2 if self.two_sided else 1)

    @staticmethod
    def _order(size: int) -> int:
        return 1 << size.bit_length()  # the next power of two that is at least size + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sinusoid(_Code):
    """A tone per parameter: frequency multiplexing, as in Boon et al., Nat. Commun. 2025, doi
    10.1038/s41467-025-65155-7.

    theta_i moves by amplitude * sin(2 pi f_i step + phi_i), with the f_i equally spaced from `start` to `stop` in
    random order and random phases. Two tones part after a window of at least 1 / spacing steps. A cost that curves
    makes sums and differences of tones, which must not fall on a tone in use.

    Args:
        start: lowest frequency, in cycles per step.
        stop: highest frequency, in cycles per step; below one half.
    """

    start: float = 0.02
    stop: float = 0.2

    def __post_init__(self) -> None:
        _Code.__post_init__(self)
        checks.number("perturbation.start", self.start, low=0)
        checks.number("perturbation.stop", self.stop, low=0)
        if not 0 < self.start < self.stop < 0.5:
            raise ConfigError(
                "perturbation: frequencies must satisfy 0 < start < stop < 0.5 cycles per step; "
                f"got {self.start}, {self.stop}"
            )

    def __call__(self, seed: NDArray[np.uint32], steps: Array, size: int) -> Array:
        place = draws.order(draws.derive(seed, "tones"), 0, size)
        frequency = self.start + self._spacing(size) * place
        phase = draws.uniform(draws.derive(seed, "phases"), 0, size)
        turns = frequency[..., None, :] * np.asarray(steps)[:, None] + phase[..., None, :]
        tones: Array = self.reach(size) * np.sin(2 * np.pi * turns)
        return tones

    def mean_square(self, size: int) -> float:
        return self.reach(size) ** 2 / 2

    def reach(self, size: int) -> float:
        return self._size_of_move(math.sqrt(size / 2))

    def block(self, size: int) -> int:
        return math.ceil(1 / self._spacing(size)) if size > 1 else math.ceil(1 / self.start)

    def _spacing(self, size: int) -> float:
        return (self.stop - self.start) / max(size - 1, 1)


@dataclass(frozen=True, slots=True)
class Antithetic:
    """Every pattern twice, once with each sign, in the order + - - +.

    Even powers of the amplitude cancel in the difference, and so does the baseline; the ABBA order also cancels a
    linear drift of the cost over two pairs.

    Args:
        code: the pattern that is doubled.
    """

    code: Any

    def __call__(self, seed: NDArray[np.uint32], steps: Array, size: int) -> Array:
        steps = np.asarray(steps)
        sign = 1.0 - 2.0 * ((steps + 1) // 2 % 2)
        pattern: Array = self.code(seed, steps // 2, size) * sign[:, None]
        return pattern

    def mean_square(self, size: int) -> float:
        return float(self.code.mean_square(size))

    def reach(self, size: int) -> float:
        return float(self.code.reach(size))

    def block(self, size: int) -> int:
        return 2 * int(self.code.block(size))


def _key(seed: NDArray[np.uint32], steps: Array) -> tuple[bytes, tuple[int, ...], bytes]:
    seed = np.asarray(seed, dtype=np.uint32)
    return seed.tobytes(), seed.shape, np.ascontiguousarray(steps, dtype=np.int64).tobytes()


@lru_cache(maxsize=2)  # a step asks for the same signs twice: to measure, then to correlate
def _rademacher(seeds: bytes, shape: tuple[int, ...], steps: bytes, size: int, amplitude: float) -> Array:
    seed = np.frombuffer(seeds, dtype=np.uint32).reshape(shape)
    words = draws.words(seed, np.frombuffer(steps, dtype=np.int64), -(-size // 32))
    bits = np.unpackbits(words.astype("<u4", copy=False).view(np.uint8), axis=-1, count=size, bitorder="little")
    signs = np.multiply(bits, -2.0 * amplitude)
    signs += amplitude
    signs.flags.writeable = False
    return signs
