"""Fitted curves, as the papers print them: data that turn an array into one of the same shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hwtrain import checks
from hwtrain.core import Array
from hwtrain.errors import ConfigError

_NIL = 1e-7  # a logarithm is not asked for less


class Curve(Protocol):
    """A function of an array, element by element."""

    def __call__(self, x: Array) -> Array:
        """The values of the curve, in the shape of x."""


@dataclass(frozen=True, slots=True)
class Polynomial:
    """c0 + c1 x + c2 x^2 + ...

    Args:
        coefficients: the constant first.
    """

    coefficients: Sequence[float]

    def __post_init__(self) -> None:
        _numbers("coefficients", self.coefficients, 1)

    def __call__(self, x: Array) -> Array:
        values: Array = np.polynomial.polynomial.polyval(x, np.asarray(self.coefficients, np.float64))
        return values


@dataclass(frozen=True, slots=True)
class Logarithm:
    """slope * ln(x) + offset, kept between two limits; x counts as 1e-7 at least.

    Args:
        slope: per factor e.
        offset: at x = 1.
        low: lower limit; None is none.
        high: upper limit; None is none.
    """

    slope: float
    offset: float
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        checks.number("curve.slope", self.slope)
        checks.number("curve.offset", self.offset)
        checks.number("curve.low", self.low, none="no limit")
        checks.number("curve.high", self.high, none="no limit")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ConfigError(f"curve: low ({self.low:g}) must not be above high ({self.high:g})")

    def __call__(self, x: Array) -> Array:
        values = self.slope * np.log(np.maximum(x, _NIL)) + self.offset
        limited: Array = np.clip(values, self.low, self.high)
        return limited


@dataclass(frozen=True, slots=True)
class Power:
    """scale / max(x^exponent, least), and `most` at most.

    Args:
        scale: value at x = 1.
        exponent: how fast it falls with x.
        least: lowest divisor.
        most: highest value.
    """

    scale: float
    exponent: float
    least: float
    most: float

    def __post_init__(self) -> None:
        for name in ("scale", "exponent"):
            checks.number(f"curve.{name}", getattr(self, name), low=0)
        for name in ("least", "most"):
            checks.number(f"curve.{name}", getattr(self, name), low=0, above=True)

    def __call__(self, x: Array) -> Array:
        values: Array = np.minimum(self.scale / np.maximum(np.abs(x) ** self.exponent, self.least), self.most)
        return values


@dataclass(frozen=True, slots=True)
class Split:
    """One curve below a place and another one from there on.

    Args:
        at: the place.
        below: the curve for x < at.
        above: the curve for the rest.
    """

    at: float
    below: Curve
    above: Curve

    def __post_init__(self) -> None:
        checks.number("curve.at", self.at)

    def __call__(self, x: Array) -> Array:
        return np.where(x < self.at, self.below(x), self.above(x))


@dataclass(frozen=True, slots=True)
class Interpolated:
    """Straight lines between measured points; level beyond them.

    Args:
        x: places, ascending.
        y: values there, as many.
    """

    x: Sequence[float]
    y: Sequence[float]

    def __post_init__(self) -> None:
        _numbers("x", self.x, 2)
        _numbers("y", self.y, 2)
        if len(self.x) != len(self.y) or any(b <= a for a, b in zip(self.x, self.x[1:], strict=False)):
            raise ConfigError(
                f"curve: x must ascend and have as many entries as y; they have {len(self.x)} and {len(self.y)}"
            )

    def __call__(self, x: Array) -> Array:
        values: Array = np.interp(x, np.asarray(self.x), np.asarray(self.y))
        return values


def _numbers(name: str, values: Sequence[float], least: int) -> None:
    if len(values) < least:
        raise ConfigError(f"curve.{name} must have at least {least} entries, not {len(values)}")
    for value in values:
        checks.number(f"curve.{name}", value)
