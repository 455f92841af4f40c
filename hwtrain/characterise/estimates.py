"""Numbers with the interval that they come with: what some readings say, and how well they say it.

Intervals are equal-tailed or by the likelihood ratio, and cover the truth as often as their `level` says when readings
scatter normally (tests/characterise/test_recovery.py counts it). A standard deviation that cannot be told from zero has
an interval that begins at 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.fft import dst
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import beta, chi2, norm

from hwtrain.core import Array

_BINS = 200  # of a spectrum
_RANGE = 1e3  # below and above the guess, where a scale is looked for


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the ends of its interval."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Interval:
        """In another unit; `factor` is positive."""
        return Interval(self.value * factor, self.low * factor, self.high * factor)

    def over(self, other: Interval) -> Interval:
        """The ratio of two positive independent numbers: their relative errors add up as squares do."""
        value = self.value / other.value if other.value else math.nan
        if not self.value or not other.value:
            return Interval(value, 0.0, self.high / other.low if other.low else math.inf)
        down = math.hypot(_log(self.value, self.low), _log(other.high, other.value))
        up = math.hypot(_log(self.high, self.value), _log(other.value, other.low))
        return Interval(value, value * math.exp(-down), value * math.exp(up))

    @property
    def is_seen(self) -> bool:
        """Is it told apart from zero?"""
        return self.low > 0 or self.high < 0


def _log(above: float, below: float) -> float:
    return math.log(above / below) if above > 0 and below > 0 else math.inf


def mean(values: Array, level: float) -> Interval:
    """The mean of independent values (n,)."""
    n = values.size
    half = float(norm.ppf((1 + level) / 2) * values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.inf
    middle = float(values.mean())
    return Interval(middle, middle - half, middle + half)


def deviation(squares: float, freedom: int, level: float) -> Interval:
    """The standard deviation behind a sum of squares with so many degrees of freedom."""
    if freedom < 1:
        return Interval(math.nan, 0.0, math.inf)
    low, high = (math.sqrt(squares / float(chi2.ppf((1 + side * level) / 2, freedom))) for side in (1, -1))
    return Interval(math.sqrt(squares / freedom), low, high)


def beyond(spread: Interval, known: float) -> Interval:
    """What is left of a standard deviation once a known and independent part is taken out."""
    value, low, high = (math.sqrt(max(part**2 - known**2, 0.0)) for part in (spread.value, spread.low, spread.high))
    return Interval(value, low, high)


def share(count: int, total: int, level: float) -> Interval:
    """A probability from so many hits among so many (Jeffreys; Brown, Cai, DasGupta 2001)."""
    if not total:
        return Interval(math.nan, 0.0, 1.0)
    low = 0.0 if count == 0 else float(beta.ppf((1 - level) / 2, count + 0.5, total - count + 0.5))
    high = 1.0 if count == total else float(beta.ppf((1 + level) / 2, count + 0.5, total - count + 0.5))
    return Interval(count / total, low, high)


def scale(cost: Callable[[float], float], guess: float, level: float) -> Interval:
    """The positive number with the least `cost`, a negative log-likelihood, and all that are about as likely.

    Args:
        cost: also defined at 0.
        guess: its order of magnitude, within a factor of a thousand.
        level: of the interval, by the likelihood ratio.
    """
    if not guess > 0:
        return Interval(0.0, 0.0, 0.0)
    grid = np.geomspace(guess / _RANGE, guess * _RANGE, 37)
    costs = np.array([cost(float(x)) for x in grid])
    at = int(costs.argmin())
    around = np.log(grid[[max(at - 1, 0), min(at + 1, len(grid) - 1)]])
    found = minimize_scalar(
        lambda u: cost(math.exp(u)), bounds=tuple(around), method="bounded", options={"xatol": 1e-6}
    )
    best, least = math.exp(found.x), float(found.fun)
    nothing = cost(0.0)
    if nothing <= least:
        best, least = 0.0, nothing
    limit = least + chi2.ppf(level, 1) / 2

    def excess(u: float) -> float:
        return cost(math.exp(u)) - limit

    start, end, low = math.log(best) if best else math.log(grid[0]), math.log(grid[-1]), 0.0
    if nothing > limit and excess(math.log(grid[0])) > 0:
        low = math.exp(brentq(excess, math.log(grid[0]), start))
    if excess(start) > 0:  # of nothing but zero
        return Interval(0.0, 0.0, float(grid[0]))
    high = math.exp(brentq(excess, start, end)) if excess(end) > 0 else math.inf
    return Interval(best, low, high)


def spread(parts: Sequence[tuple[Array, Array]], level: float, *, known: float | None = None) -> Interval:
    """How much things differ beyond the errors of measuring them, by restricted maximum likelihood.

    Args:
        parts: values (n,) and their standard errors (n,), one pair for each group with a mean of its own.
        level: of the interval.
        known: the mean of all groups, where it is known; it takes no degree of freedom then.
    """
    values = np.concatenate([value for value, _ in parts]) if parts else np.zeros(0)
    if values.size < 2:
        return Interval(math.nan, 0.0, math.inf)

    def cost(sigma: float) -> float:
        total = 0.0
        for value, error in parts:
            weight = 1 / np.maximum(sigma**2 + error**2, 1e-300)
            middle = (weight * value).sum() / weight.sum() if known is None else known
            total += 0.5 * float((weight * (value - middle) ** 2 - np.log(weight)).sum())
            if known is None:
                total += 0.5 * math.log(weight.sum())
        return total

    guess = math.sqrt(
        sum(float(np.var(v) if known is None else np.mean((v - known) ** 2)) for v, _ in parts) / len(parts)
    )
    return scale(cost, guess, level)


class Walks:
    """Series that are white noise around a level that walks: x_t = level_t + e_t, level_t+1 = level_t + w_t.

    The first differences of such a series have a tridiagonal covariance, which the discrete sine transform makes
    diagonal: the power at frequency k has the mean var(w) + var(e) (2 - 2 cos(pi k / n)), so the likelihood is exact
    and costs no matrix. High frequencies, which differ little, are put together.
    """

    def __init__(self) -> None:
        self._shape, self._power, self._count = np.zeros(0), np.zeros(0), np.zeros(0)

    def add(self, series: Array, freedom: int | None = None) -> Walks:
        """Take series (m, n) into account; `freedom` is how many of them are independent, m unless it is said."""
        many, n = series.shape
        if n < 2:
            return self
        power = (dst(np.diff(series), type=1, norm="ortho") ** 2).sum(axis=0)
        shape = 2 - 2 * np.cos(np.pi * np.arange(1, n) / n)
        edges = np.unique(np.geomspace(1, n, _BINS).astype(int)) - 1
        size = np.diff(np.append(edges[edges < n - 1], n - 1))
        starts = edges[edges < n - 1]
        self._power = np.append(self._power, np.add.reduceat(power, starts))
        self._shape = np.append(self._shape, np.add.reduceat(shape, starts) / size)
        self._count = np.append(self._count, size * float(many if freedom is None else freedom))
        return self

    def cost(self, noise: float, step: float) -> float:
        """Negative log-likelihood of standard deviations of e and of w."""
        power = np.maximum(step**2 + noise**2 * self._shape, 1e-300)
        return 0.5 * float((self._count * np.log(power) + self._power / power).sum())

    def noise(self, step: float) -> float:
        """The likeliest deviation of e, given that of w."""
        guess = math.sqrt(float(self._power.sum() / (self._count * self._shape).sum()))
        if not guess:
            return 0.0
        found = minimize_scalar(
            lambda u: self.cost(math.exp(u), step), bounds=(math.log(guess) - 9, math.log(guess) + 3), method="bounded"
        )
        return math.exp(found.x)

    def steps(self, level: float, noise: float | None = None) -> Interval:
        """The deviation of w, with that of e known or not."""
        if not self._power.sum():
            return Interval(0.0, 0.0, 0.0)
        guess = math.sqrt(float(self._power.sum() / self._count.sum()))
        return scale(lambda step: self.cost(self.noise(step) if noise is None else noise, step), guess, level)

    @property
    def readings(self) -> float:
        """Degrees of freedom."""
        return float(self._count.sum())


def allan(series: Array) -> tuple[Array, Array]:
    """Allan deviation of a series (n,): the lengths averaged over (k,), and the deviation at each (k,).

    It falls as the root of the length where readings are white, and rises where they drift (Allan, Proc. IEEE 54, 221,
    1966). Windows overlap.
    """
    n = series.size
    lengths = np.unique(np.geomspace(1, max(n // 4, 1), 25).astype(int))
    sums = np.concatenate([[0.0], np.cumsum(series - series.mean())])
    found = []
    for length in lengths:
        means = (sums[length:] - sums[:-length]) / length
        found.append(math.sqrt(0.5 * float(np.mean((means[length:] - means[:-length]) ** 2))))
    return lengths.astype(float), np.array(found)
