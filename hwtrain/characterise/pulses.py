"""What pulses do to a device that is read after them: a law for every parameter, and how the parameters differ.

Each parameter is fitted by itself, as a level that pulses move by the steps of a law (hwtrain/sim/laws.py), with a
noise of every pulse, and that is seen with what the last write and the reading are off. An extended Kalman filter gives
the likelihood of its readings, Fisher scoring the likeliest steps with their errors, and Schwarz's criterion the law.
The noises are common to all parameters of a chip, and so is the shape of exponential steps; how steps and bounds differ
from parameter to parameter follows from the fits and their errors. Readings at a bound, where pulses change nothing
more, say where it is and no more; with exponential steps, pulses stop at bounds that are fitted too.

Levels are in units of half the device's range, from its middle; from 0, if the range holds it, and as they are, if they
are plain numbers already.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d
from scipy.special import ndtr
from scipy.stats import chi2, norm
from scipy.stats import t as student

from hwtrain.characterise import estimates
from hwtrain.characterise.chip import SURE
from hwtrain.characterise.estimates import Interval
from hwtrain.core import Array
from hwtrain.errors import ConfigError
from hwtrain.sim.laws import ConstantStep, ExpStep, Law, LinearStep, PiecewiseStep, PowStep, SoftBounds

SOME = 12  # parameters of a chip that the law is chosen by
NODES = 5  # of a piecewise law
KINDS = {"relative to the step": (1.0, 0.0), "mixed": (1.0, 0.1), "the same everywhere": (0.0, 1.0)}  # a step's, at 0
SHORT = 30  # readings of a train, below which nobody looks for bounds
SOFT = 0.85  # share of a step at 0 that is gone at the ends of what was seen, where bounds are soft
LIVELY = 0.25  # correlation of levels at a bound, from which on pulses still move parameters there
STILL = 0.15  # of the steps on the way: the slower at the end of a train, the nearer a bound
STEEP = 7.0  # logarithm of what one step of the exponential law is over another, at most
RATES = np.outer((-1, 1), np.geomspace(0.5, 12, 8)).ravel()  # of it, to begin with
FAR = 0.1  # of the window: a bound of which trains say nothing is as near to their ends, to the fit
EXACTLY = 0.1  # of a step: no nearer are levels to a bound, to the fit, or those that repeat there would rule it
LINE = 0.3  # gamma of the exponential law below which its steps are as good as on a line
BENT = 4.0  # standard errors by which it must be above
ITERATIONS = 30
UNSEEN = 100.0  # times itself: a noise whose interval ends beyond is asked whether it is seen at all
TINY = 1e-5  # relative difference for a derivative
LOUD = 12.0  # log-likelihood may gain by this much from one reading at most; keeps an outlier from ruling


@dataclass(frozen=True, slots=True, eq=False)
class Trains:
    """Readings of some parameters under trains of pulses.

    Args:
        levels: before and after every block of pulses, (d, j, n + 1); NaN where there is none.
        up: direction of each train, (j,).
        block: pulses from one reading to the next.
        read_noise: standard deviation of a reading.
    """

    levels: Array
    up: NDArray[np.bool_]
    block: int = 1
    read_noise: float = 0.0


@dataclass(frozen=True, slots=True)
class Family:
    """A law whose constants are fitted to every parameter.

    Args:
        law: as the simulator has it, for the meaning of the constants.
        names: of the constants, in the order of the fit.
        logarithmic: those that are positive, and fitted as logarithms.
    """

    law: Law
    names: tuple[str, ...] = ("up", "down")
    logarithmic: tuple[str, ...] = ("up", "down")

    scale = ("up", "down")  # constants that say how far a pulse goes
    shape = ()  # constants that all parameters share

    def constants(self, fit: Array, shape: Array) -> dict[str, Array]:
        """By name, from the numbers that are fitted: (..., d, q) of each parameter and (..., c) of all."""
        parts = {name: fit[..., at] for at, name in enumerate(self.names)}
        return parts | {name: np.exp(np.minimum(parts[name], 30.0)) for name in self.logarithmic}

    def step(self, value: Array, up: Array, constants: Mapping[str, Array]) -> Array:
        """The size of a step."""
        return self.law.step(value, up, constants)


@dataclass(frozen=True, slots=True, eq=False)
class _Nodes:
    """Steps at nodes that every parameter has of its own, from `low` to `high`, (d, 1) each."""

    low: Array
    high: Array

    names = tuple(f"{way} {node}" for way in ("up", "down") for node in range(NODES))
    logarithmic = shape = ()
    scale = names

    def constants(self, fit: Array, shape: Array) -> dict[str, Array]:
        return {name: fit[..., at] for at, name in enumerate(self.names)}

    def step(self, value: Array, up: Array, constants: Mapping[str, Array]) -> Array:
        ups, downs = (np.stack([constants[f"{way} {node}"] for node in range(NODES)], -1) for way in ("up", "down"))
        place = np.clip((value - self.low) / (self.high - self.low), 0, 1) * (NODES - 1)
        left = np.minimum(place.astype(np.intp), NODES - 2)
        sizes = np.broadcast_to(np.where(np.asarray(up)[..., None], ups, downs), (*place.shape, NODES))
        near, far = (np.take_along_axis(sizes, left[..., None] + more, -1)[..., 0] for more in (0, 1))
        size: Array = near + (place - left) * (far - near)
        return size


@dataclass(frozen=True, slots=True, eq=False)
class _Exponential:
    """`ExpStep` with a = 1 and b = 0: every parameter has steps of its own, and all have one shape.

    What is fitted to each are the logarithms of its steps at level 0, and of the shape, for either direction, gamma and
    the logarithm of what a step there is over the step where it has fallen off, which is 1 - A.

    Args:
        low: about where trains down lead every parameter, (d,).
        high: the same of trains up.
    """

    low: Array
    high: Array

    names = ("up", "down", "high", "low")
    logarithmic = scale = ("up", "down")
    shape = ("A_up", "A_down", "gamma_up", "gamma_down")

    def constants(self, fit: Array, shape: Array) -> dict[str, Array]:
        parts = {name: shape[..., at, None] for at, name in enumerate(self.shape)}
        parts |= {name: fit[..., at] for at, name in enumerate(self.names)}
        for at, way in enumerate(self.scale):
            more = np.clip(parts[f"A_{way}"], -STEEP, STEEP)
            parts |= {way: np.exp(np.minimum(fit[..., at], 30.0) - more), f"A_{way}": -np.expm1(more)}
        return parts

    def step(self, value: Array, up: Array, constants: Mapping[str, Array]) -> Array:
        base, fall, rate = (
            np.where(up, constants[f"{name}up"], sign * constants[f"{name}down"])
            for name, sign in (("", 1), ("A_", 1), ("gamma_", -1))
        )
        z = 2 * value / (constants["high"] - constants["low"])
        size: Array = base * np.maximum(0.0, 1 - fall * np.exp(np.minimum(rate * z, 30.0)))
        return size

    def first(self, trains: Trains, start: Array) -> tuple[Array, Array]:
        """A fit (d, 4) and a shape (4,) to begin with: least squares over what pulses do where, from `start` (d, 2)."""
        span = max(trains.levels.shape[-1] // 12, 1)
        values, shape = np.log(start), np.zeros(4)
        for at, sign in ((0, 1), (1, -1)):
            own = trains.levels[:, trains.up == (sign > 0)]
            before, after = own[..., :-span], own[..., span:]
            moved = sign * (after - before) / (span * trains.block) / start[:, at, None, None]
            place = (before + after) / (self.high - self.low)[:, None, None]
            known = np.isfinite(moved)
            if not known.any():
                continue
            found = []
            for rate in RATES:
                parts = np.stack([np.ones(known.sum()), np.exp(np.clip(rate * place[known], -30, 30))], axis=-1)
                (rest, more), *_ = np.linalg.lstsq(parts, moved[known], rcond=None)
                found.append((((parts @ (rest, more) - moved[known]) ** 2).sum(), rest, more, rate))
            _, rest, more, rate = min(found)
            here = max(rest + more, 0.1)
            values[:, at] += math.log(here)
            shape[[at, at + 2]] = math.log(here / max(rest, 0.05 * here)), sign * rate
        return np.column_stack([values, self.high, self.low]), shape


FAMILIES: dict[str, Family] = {
    "constant": Family(ConstantStep()),
    "linear": Family(LinearStep(), ("up", "down", "slope_up", "slope_down")),
    "power": Family(
        PowStep(), ("up", "down", "high", "low", "power_up", "power_down"), ("up", "down", "power_up", "power_down")
    ),
}


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A law fitted to every parameter.

    Args:
        name: of the law.
        family: by whose fit it was found.
        constants: of each parameter by name, (d,).
        errors: standard errors of the same.
        noise: of a pulse, over the step.
        write_noise: what a write is off [level].
        kind: of that noise, see `KINDS`.
        low: lower bound of each parameter, (d,); NaN where it was not reached.
        high: upper bound, (d,).
        criterion: log-likelihood, less Schwarz's penalty.
        step: the noise-free step of every parameter: (levels (d, ...), up?) -> size.
        shape: constants that all parameters share, by name; in the coordinates of the levels.
        is_bent: is it told from a line, if it is exponential?
        rival: the law that is the likeliest but for this, and by how much its criterion is less, from some parameters.
        ahead: other readings of the same parameters, each less what the ones before it predict, and the variance that
            this should have, (d, j, n); NaN where there is none.
    """

    name: str
    family: str
    constants: dict[str, Array]
    errors: dict[str, Array]
    noise: Interval
    write_noise: Interval
    kind: str
    low: Array
    high: Array
    criterion: float
    step: Callable[[Array, Array], Array] = field(repr=False)
    ahead: Callable[[Trains], tuple[Array, Array]] = field(repr=False)
    shape: Mapping[str, Interval] = field(default_factory=dict)
    is_bent: bool = True
    rival: tuple[str, float] | None = None


ALL = (*FAMILIES, "exponential", "piecewise")


def fit(trains: Trains, level: float, families: Sequence[str] = ALL) -> Fit:
    """The likeliest of some families of laws.

    Args:
        trains: of which every parameter has moved.
        level: of the intervals of noises.
        families: by name.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # where a step of the fit leads astray
        return _fit(trains, level, families)


def _fit(trains: Trains, level: float, families: Sequence[str]) -> Fit:
    low, high, kept = _bounds(trains)
    some = slice(None, None, -(-len(low) // SOME))
    few = of(kept, some)
    tried = [_fitted(few, name, low[some], high[some], "mixed", level, of(trains, some)) for name in families]
    first, *others = sorted(tried, key=lambda one: (one.is_bent, one.criterion), reverse=True)
    found = [_fitted(kept, first.name, low, high, kind, level, trains) for kind in KINDS]
    best = _soft(max(found, key=lambda one: one.criterion), *reached(kept))
    return replace(best, rival=(others[0].name, first.criterion - others[0].criterion)) if others else best


def _soft(found: Fit, lowest: Array, highest: Array) -> Fit:
    """Linear steps that would be nothing little beyond the levels that were seen are those of soft bounds."""
    if found.name != "linear":
        return found
    ends, errors = {}, {}
    for name, way, seen in (("high", "up", highest), ("low", "down", lowest)):
        slope, wrong = found.constants[f"slope_{way}"], found.errors[f"slope_{way}"]
        if not SOFT < np.median(slope * seen) < 2 - SOFT:
            return found
        slope = np.where(slope * seen > 0.5, slope, np.nan)
        ends[name], errors[name] = 1 / slope, wrong / slope**2
    steps = {name: found.constants[name] for name in ("up", "down")}
    wrong_steps = {name: found.errors[name] for name in ("up", "down")}
    return replace(
        found,
        name="soft bounds",
        constants=steps | ends,
        errors=wrong_steps | errors,
        low=ends["low"],
        high=ends["high"],
    )


def moving(trains: Trains) -> NDArray[np.bool_]:
    """Which parameters pulses move at all, (d,): beyond what readings scatter from one to the next."""
    levels = trains.levels
    scatter = np.nanstd(np.diff(levels, axis=-1), axis=(-2, -1)) / math.sqrt(2)
    count = levels.shape[-1]
    ways = np.where(trains.up, 1.0, -1.0)
    part = max(count // 4, 1)
    gone = ways * (np.nanmean(levels[..., -part:], axis=-1) - np.nanmean(levels[..., :part], axis=-1))
    error = np.maximum(scatter, trains.read_noise) * math.sqrt(2 / part / len(ways))
    return np.asarray(gone.mean(axis=-1) > np.maximum(5 * error, 1e-12))


def _bounds(trains: Trains) -> tuple[Array, Array, Trains]:
    """Where levels rise and fall no more, (d,) each, NaN where they still do; and the trains up to short of there."""
    levels, d = trains.levels.copy(), len(trains.levels)
    count = levels.shape[-1]
    part = max(count // 10, 2)
    found, steps = np.full((2, d), np.nan), trains.block * _steps(trains)
    if count < SHORT:
        return found[0], found[1], trains
    noise = np.nanstd(np.diff(levels, 2, axis=-1), axis=(-2, -1)) / math.sqrt(6)
    width = int(np.clip(math.ceil(float(np.median(noise[:, None] / steps)) ** 2), 1, part))
    for row, way in ((1, True), (0, False)):
        sign, own = (1 if way else -1), np.flatnonzero(trains.up == way)
        if not own.size:
            continue
        rising = sign * levels[:, own]
        end, before = rising[..., -part:].mean(axis=-1), rising[..., -2 * part : -part].mean(axis=-1)
        late = (end - before).mean(axis=-1) / part
        usual = (end - rising[..., :part].mean(axis=-1)).mean(axis=-1) / (count - part)
        settled = (late < STILL * usual) & (usual * count > 3 * noise)
        if settled.any() and np.median(_memory(rising[settled][..., -part:])) > LIVELY:
            continue  # it is noise that keeps them there, and says how steps hang on the level
        found[row] = np.where(settled, sign * end.mean(axis=-1), np.nan)
        smooth = uniform_filter1d(rising, width, axis=-1, mode="nearest")
        margin = 3 * noise / math.sqrt(width) + 2 * steps[:, 0 if way else 1]
        beyond = smooth > (smooth[..., -1].mean(axis=-1) - margin)[:, None, None]
        first = np.where(beyond.any(axis=-1), beyond.argmax(axis=-1), count)  # noise brings the first forward...
        last = count - (~beyond[..., ::-1]).argmax(axis=-1)  # ...as much as it puts the last off
        late_on = np.arange(count) >= (first + last)[..., None] // 2
        levels[:, own] = np.where(late_on, np.nan, levels[:, own])
    levels[..., 0] = trains.levels[..., 0]
    return found[0], found[1], replace(trains, levels=levels)


def _ends(trains: Trains) -> tuple[Array, Array]:
    """Where trains lead, low and high and never the same, (d,) each."""
    part, found = max(trains.levels.shape[-1] // 10, 2), []
    for way, farthest in zip((False, True), reached(trains), strict=True):
        last = trains.levels[:, trains.up == way][..., -part:]
        count = np.isfinite(last).sum(axis=(-2, -1))
        found.append(np.where(count, np.nansum(last, axis=(-2, -1)) / np.maximum(count, 1), farthest))
    low, high = found
    return low, np.maximum(high, low + 1e-3 * np.nanmax(np.abs(trains.levels)))


def _stopped(value: Array, variance: Array, bound: Array, sign: Array, least: float) -> tuple[Array, Array]:
    """Mean and variance, of `least` and more, of normal numbers that stop at a bound, in the direction `sign`."""
    wide = np.sqrt(np.maximum(variance, least))
    room = sign * (bound - value) / wide
    beyond, density = ndtr(-room), np.exp(-0.5 * room**2) / math.sqrt(2 * math.pi)
    lost = wide * (density - room * beyond)
    square = variance * ((1 + room**2) * beyond - room * density)
    return value - sign * lost, np.maximum(variance * (1 - 2 * beyond) + square - lost**2, least)


def _memory(levels: Array) -> Array:
    """Correlation of levels (d, j, n) with the next, their trends taken out, (d,)."""
    at = np.linspace(-1, 1, levels.shape[-1])
    left = levels - levels.mean(axis=-1, keepdims=True)
    left = left - (left @ at)[..., None] * at / (at @ at)
    both, square = (left[..., 1:] * left[..., :-1]).sum(axis=(-2, -1)), (left**2).sum(axis=(-2, -1))
    rounding = 1e-18 * (levels**2).sum(axis=(-2, -1))
    found: Array = both / np.maximum(square, np.maximum(rounding, 1e-300))
    return found


def _fitted(trains: Trains, name: str, low: Array, high: Array, kind: str, level: float, whole: Trains) -> Fit:
    d, kept = len(trains.levels), np.isfinite(trains.levels[..., 1:])
    lowest, highest = reached(trains)
    bottom, top = np.where(np.isnan(low), lowest, low), np.where(np.isnan(high), highest, high)
    start = _steps(trains)
    family: _Nodes | _Exponential | Family
    weak, shape = np.full((d, 2 * NODES), 1e-12), np.zeros(0)
    if name == "exponential":
        family = _Exponential(*_ends(whole))
        first, shape = family.first(trains, start)
        weak[:, 2:] = (FAR * (family.high - family.low)[:, None]) ** -2.0
        trains = whole  # its bounds are found with it
    elif name == "piecewise":
        family = _Nodes(bottom[:, None], top[:, None])
        first = np.repeat(start, NODES, axis=-1)
    else:
        family = FAMILIES[name]
        room = 0.1 * (top - bottom)
        guesses = {"high": top + room, "low": bottom - room}
        first = np.stack([*np.log(start).T, *(guesses.get(key, np.zeros(d)) for key in family.names[2:])], axis=-1)
        if name == "power":
            first[:, :2] += math.log(2)
    constants, step = family.constants, family.step
    least = (EXACTLY * trains.block * float(np.median(start))) ** 2

    def filtered(values: Array, common: Array, trains: Trains = trains) -> tuple[Array, Array]:
        """Innovations and their variances, (s, d, j, n), for fits (s, d, q), and logarithms of noises with shapes."""
        noises = common[:, :2]
        of = {key: part[..., None] for key, part in constants(values, common[:, 2:]).items()}
        unit = sum(np.abs(of[key]) for key in family.scale) / len(family.scale)
        write = np.exp(2 * noises[:, 1])[:, None, None] + trains.read_noise**2
        pulse = np.exp(2 * noises[:, 0])[:, None, None] * trains.block
        sign, (relative, even) = np.where(trains.up, 1.0, -1.0), KINDS[kind]
        y, up, block = trains.levels, trains.up, trains.block
        value = np.broadcast_to(y[..., 0], (len(values), *y.shape[:2])).copy()
        variance = np.broadcast_to(write, value.shape).copy()
        apart, wide = np.zeros((2, y.shape[-1] - 1, *value.shape))
        small = 1e-6
        seen = np.isfinite(y)
        for at in range(1, y.shape[-1]):
            middle = value if block == 1 else value + sign * (block - 1) / 2 * step(value, up, of)
            size = step(middle, up, of)
            slope = (step(middle + small, up, of) - size) / small
            value = value + sign * block * size
            spread = relative * np.abs(size) + even * unit
            variance = variance * (1 + sign * slope) ** (2 * block) + pulse * spread**2
            if name == "exponential":
                value, variance = _stopped(value, variance, np.where(up, of["high"], of["low"]), sign, least)
            total = variance + write
            known = seen[..., at]
            off = np.where(known, y[..., at] - value, 0.0)
            gain = np.where(known, variance / total, 0.0)
            value, variance = value + gain * off, variance * (1 - gain)
            apart[at - 1], wide[at - 1] = off, np.where(known, total, np.nan)
        return np.moveaxis(apart, 0, -1), np.moveaxis(wide, 0, -1)

    values, common, information, shared, likelihood = _scored(
        trains, first, shape, weak[:, : first.shape[1]], start, filtered
    )
    shape, unsure = common[2:], shared[2:]

    def shaped(values: Array, noises: Array, trains: Trains = trains) -> tuple[Array, Array]:
        return filtered(values, np.concatenate([noises, np.repeat(shape[None], len(noises), axis=0)], axis=1), trains)

    noises, shared = _restricted(values, common[:2], shared[:2], shaped)
    many = int(kept.sum())
    numbers = values.size
    if name == "exponential":  # bounds that are seen are given to the others too, and not counted
        numbers -= int(np.isfinite([low, high]).sum())
    penalty = 0.5 * numbers * math.log(max(many / d, 2)) + 0.5 * len(shape) * math.log(max(many, 2))
    criterion = likelihood - penalty
    errors = np.sqrt(np.maximum(np.diagonal(np.linalg.pinv(information), axis1=-2, axis2=-1), 0.0))
    fitted = constants(values, shape)
    logs = family.logarithmic
    wrong = {key: errors[:, at] * (fitted[key] if key in logs else 1.0) for at, key in enumerate(family.names)}
    if name == "power":
        low, high = fitted["low"], fitted["high"]
    if name == "exponential":  # its bounds are said to be some if most are seen without it
        seen = np.isfinite([low, high]).mean(axis=1) > 0.5
        low, high = (np.where(is_seen, fitted[key], np.nan) for key, is_seen in zip(("low", "high"), seen, strict=True))
        apart, wide = shaped(values[None], noises[None])
        criterion = float(_likelihood(apart, np.where(kept, wide, np.nan)).sum()) - penalty

    def curve(value: Array, up: Array) -> Array:
        return step(value, up, {key: part[:, None] for key, part in fitted.items()})

    def ahead(other: Trains) -> tuple[Array, Array]:
        apart, wide = shaped(values[None], noises[None], other)
        return apart[0], wide[0]

    pulse, write = (
        Interval(math.exp(one), math.exp(one - wide), math.exp(one + wide))
        for one, wide in zip(noises, np.minimum(norm.ppf((1 + level) / 2) * shared, 99.0), strict=True)
    )

    def likely(which: int, noise: float) -> float:
        other = np.where(np.arange(2) == which, noise, noises)
        return float(_likelihood(*shaped(values[None], other[None]))[0].sum())

    def bound(which: int, top: float) -> float:
        most = float(noises[which])
        while top - likely(which, most) < chi2.ppf(level, 1) / 2:
            most += math.log(2)
        return math.exp(most)

    if likelihood - likely(1, -40.0) < SURE:
        write = Interval(0.0, 0.0, bound(1, likelihood))
    here = likely(0, float(noises[0]))
    if pulse.high > UNSEEN * pulse.value and here - likely(0, -40.0) < SURE:
        pulse = Interval(0.0, 0.0, bound(0, here))
    ends = np.outer((0, -1, 1), float(norm.ppf((1 + level) / 2)) * unsure) + shape
    ends[:, :2] = -np.expm1(ends[[0, 2, 1], :2])  # of A
    shapes = {key: Interval(*map(float, own)) for key, own in zip(family.shape, ends.T, strict=True)}
    bent = name != "exponential" or bool((np.abs(shape) > LINE + BENT * unsure)[2:].any())
    return Fit(name, name, fitted, wrong, pulse, write, kind, low, high, criterion, curve, ahead, shapes, bent)


def _likelihood(apart: Array, wide: Array) -> Array:
    """Log-likelihood of every parameter, (s, d)."""
    each = np.minimum(apart**2 / wide, 2 * LOUD) + np.log(wide)
    total: Array = -0.5 * np.nansum(each, axis=(-2, -1))
    return total


def _scored(
    trains: Trains,
    first: Array,
    shape: Array,
    weak: Array,
    start: Array,
    filtered: Callable[[Array, Array], tuple[Array, Array]],
) -> tuple[Array, Array, Array, Array, float]:
    """Fisher scoring, of every parameter by itself (Levenberg's damping), and of the noises and the shape of all.

    Returns:
        The fits (d, q), logarithms of the two noises and the shape (2 + c,), information of the fits (d, q, q),
        standard errors of noises and shape (2 + c,), and the log-likelihood.
    """
    values, (d, q) = first.copy(), first.shape
    jitter = np.nanstd(np.diff(trains.levels, axis=-1)) / math.sqrt(2)
    loud = np.log(np.array([0.5, max(0.5 * jitter, 1e-3 * float(np.median(start)) * trains.block)]))
    common: Array = np.concatenate([loud, shape])
    m, stiff = len(common), 1e-3
    floor = math.log(1e-3 * float(np.median(start)))
    damping = np.full(d, 1e-3)
    apart, wide = filtered(values[None], common[None])
    now = _likelihood(apart, wide)[0]
    for _ in range(ITERATIONS):
        stack, sounds = np.repeat(values[None], q + 1 + m, axis=0), np.repeat(common[None], q + 1 + m, axis=0)
        move = TINY * np.maximum(np.abs(values), 0.01)
        for at in range(q):
            stack[at + 1, :, at] += move[:, at]
        sounds[np.arange(q + 1, q + 1 + m), np.arange(m)] += TINY
        apart, wide = filtered(stack, sounds)
        by = np.concatenate([move.T, np.full((m, d), TINY)])[:, :, None, None]
        quiet = np.isnan(wide[0]) | (apart[0] ** 2 > 2 * LOUD * wide[0])
        total = np.where(quiet, 1.0, wide[0])
        off = np.where(quiet, 0.0, apart[0])
        slope = np.where(quiet, 0.0, (apart[1:] - apart[0]) / by)
        widening = np.where(quiet, 0.0, (wide[1:] - wide[0]) / by) / total
        one = (slope / np.sqrt(total)).reshape(q + m, d, -1)
        two = (widening / math.sqrt(2)).reshape(q + m, d, -1)
        information = np.einsum("adn,bdn->dab", one, one) + np.einsum("adn,bdn->dab", two, two)
        own = information[:, :q, :q]
        own = own + (weak[:, None, :] + 1e-10 * np.diagonal(own, axis1=1, axis2=2)[:, None, :]) * np.eye(q)
        score = (-off * slope / total + 0.5 * (off**2 / total - 1) * widening).sum(axis=(-2, -1)).T
        score = np.where(np.isfinite(score), score, 0.0)
        damped = own + damping[:, None, None] * np.eye(q) * np.diagonal(own, axis1=1, axis2=2)[:, None, :]
        damped = damped + 1e-12 * np.eye(q)
        step = np.clip(np.linalg.solve(damped, score[:, :q, None])[..., 0], -1.0, 1.0)
        cross = information[:, :q, q:]
        profile = (information[:, q:, q:] - cross.transpose(0, 2, 1) @ np.linalg.solve(own, cross)).sum(axis=0)
        certain = np.diagonal(np.linalg.inv(profile + 1e-6 * np.eye(m)))
        shared = np.where(certain > 0, np.sqrt(np.abs(certain)), np.inf)
        both = information[:, q : q + 2, q : q + 2].sum(axis=0) + 1e-6 * np.eye(2)
        sound = np.linalg.solve(both, score[:, q : q + 2].sum(axis=0))
        louder = np.concatenate([np.maximum(common[:2] + np.clip(sound, -0.7, 0.7), floor - 3), common[2:]])
        points = [(values, louder), (values + step, louder)]
        if m > 2:  # the shape moves, and every parameter with it
            gone = np.einsum("dqc,dq->dc", cross[:, :, 2:], np.linalg.solve(own, score[:, :q, None])[..., 0])
            rest = score[:, q + 2 :] - gone
            bend = profile[2:, 2:] * (1 + stiff * np.eye(m - 2)) + 1e-6 * np.eye(m - 2)
            turn = np.clip(np.linalg.solve(bend, rest.sum(axis=0)), -0.5, 0.5)
            follow = np.linalg.solve(damped, (score[:, :q] - cross[:, :, 2:] @ turn)[..., None])[..., 0]
            points.append((values + np.clip(follow, -1.0, 1.0), louder + np.concatenate([[0.0, 0.0], turn])))
        tried = _likelihood(*filtered(*(np.stack(parts) for parts in zip(*points, strict=True))))
        better = tried[1] >= tried[0]
        values = np.where(better[:, None], values + step, values)
        common = louder
        damping = np.clip(np.where(better, damping / 5, damping * 10), 1e-6, 1e6)
        after = np.where(better, tried[1], tried[0])
        if m > 2:
            if turned := tried[2].sum() > after.sum():
                (values, common), after = points[2], tried[2]
            stiff = min(max(stiff / 5 if turned else stiff * 10, 1e-6), 1e6)
        if abs(after.sum() - now.sum()) < 0.005 * d + 0.01:
            now = after
            break
        now = after
    return values, common, own, shared, float(now.sum())


def _restricted(
    values: Array, noises: Array, shared: Array, filtered: Callable[[Array, Array], tuple[Array, Array]]
) -> tuple[Array, Array]:
    """Noises with regard to what the fits have taken from the residuals, and their standard errors, (2,) each.

    The likelihood loses half the logarithm of the information that it has of the fits (restricted maximum likelihood),
    and is brought to its top by Newton's method; a noise of which nothing is seen stays what it is.
    """
    seen = shared < 0.5
    if not seen.any():
        return noises, shared
    q, which = values.shape[1], np.flatnonzero(seen)
    move = TINY * np.maximum(np.abs(values), 0.01)
    stack = np.repeat(values[None], q + 1, axis=0)
    stack[np.arange(1, q + 1), :, np.arange(q)] += move.T

    def likely(at: Array) -> float:
        apart, wide = filtered(stack, np.repeat(at[None], q + 1, axis=0))
        slope = np.where(np.isnan(wide[0]), 0.0, (apart[1:] - apart[0]) / move.T[:, :, None, None])
        one = (slope / np.sqrt(np.where(np.isnan(wide[0]), 1.0, wide[0]))).reshape(q, len(values), -1)
        known = np.einsum("adn,bdn->dab", one, one) + 1e-12 * np.eye(q)
        return float(_likelihood(apart[:1], wide[:1]).sum() - 0.5 * np.linalg.slogdet(known)[1].sum())

    for _ in range(2):
        each = np.eye(2)[which] * shared[which, None]
        middle, ups, downs = likely(noises), *([likely(noises + s * e) for e in each] for s in (1, -1))
        score = (np.array(ups) - downs) / 2 / shared[which]
        bend = np.diag((np.array(ups) + downs - 2 * middle) / shared[which] ** 2)
        if len(which) == 2:
            both = likely(noises + each.sum(axis=0)) - ups[0] - ups[1] + middle
            bend[0, 1] = bend[1, 0] = both / shared.prod()
        if not (np.linalg.eigvalsh(bend) < 0).all():
            break
        noises, shared = noises.copy(), shared.copy()
        noises[which] += np.clip(-np.linalg.solve(bend, score), -0.5, 0.5)
        shared[which] = np.sqrt(np.diagonal(np.linalg.inv(-bend)))
    return noises, shared


def _steps(trains: Trains) -> Array:
    """About how far a pulse goes up and down, (d, 2): the middle of what blocks of readings do."""
    span = max(trains.levels.shape[-1] // 12, 1)
    found = []
    for way in (True, False):
        own = trains.levels[:, trains.up == way]
        if not own.shape[1]:
            found.append(np.full(len(own), np.nan))
            continue
        moved = (own[..., span:] - own[..., :-span]) / (span * trains.block) * (1 if way else -1)
        moved = moved.reshape(len(own), -1)
        moved[np.isnan(moved).all(axis=-1)] = 0.0
        found.append(np.nanquantile(moved, 0.6, axis=-1))
    steps = np.stack(found, axis=-1)
    usual = np.nanmedian(np.where(steps > 0, steps, np.nan))
    result: Array = np.where(steps > 0.05 * usual, steps, 0.05 * usual)
    return result


def average(values: Array, level: float) -> Interval:
    """The mean of a process, from as many parameters (d,) as it has made."""
    many = values.size
    middle = float(values.mean())
    if many < 2:
        return Interval(middle, -math.inf, math.inf)
    half = float(student.ppf((1 + level) / 2, many - 1) * values.std(ddof=1) / math.sqrt(many))
    return Interval(middle, middle - half, middle + half)


def asymmetry(up: Array, down: Array, level: float) -> Interval:
    """How much smaller one direction's steps are: 1 - down/up of the means, or -(1 - up/down) where up is smaller.

    The interval is that of a ratio of means (Fieller's, to first order), so it counts what parameters share once.
    """
    larger, smaller, sign = (up, down, 1.0) if up.mean() >= down.mean() else (down, up, -1.0)
    ratio = float(smaller.mean() / larger.mean())
    off = average(smaller - ratio * larger, level)
    half = (off.high - off.value) / float(larger.mean())
    ends = sorted((sign * (1 - ratio - half), sign * (1 - ratio + half)))
    return Interval(sign * (1 - ratio), ends[0], ends[1])


def symmetry(found: Fit, low: Array, high: Array) -> Array:
    """Where steps up and down balance, (d,), by bisection between `low` and `high`; at an end where they never do."""
    low, high = low[:, None].copy(), high[:, None].copy()
    for _ in range(54):
        middle = (low + high) / 2
        rising = found.step(middle, np.array(True)) > found.step(middle, np.array(False))
        low, high = np.where(rising, middle, low), np.where(rising, high, middle)
    balanced: Array = ((low + high) / 2)[:, 0]
    return balanced


def steps(found: Fit) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Step up and step down of every parameter, (d,), each with its error: at level 0, or of nodes the mean."""
    if found.name not in ("power", "exponential"):
        return scales(found)
    parts = []
    for way in ("up", "down"):
        there = found.step(np.zeros((len(found.low), 1)), np.array(way == "up"))[:, 0]
        parts.append((there, found.errors[way] * there / found.constants[way]))
    return parts[0], parts[1]


def scales(found: Fit) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """What the law multiplies, up and down, of every parameter, (d,), each with its error; of nodes the mean."""
    if found.name != "piecewise":
        return (found.constants["up"], found.errors["up"]), (found.constants["down"], found.errors["down"])
    parts = []
    for way in ("up", "down"):
        sizes, wrong = (
            np.stack([part[f"{way} {node}"] for node in range(NODES)]) for part in (found.constants, found.errors)
        )
        parts.append((sizes.mean(axis=0), np.sqrt((wrong**2).sum(axis=0)) / NODES))
    return parts[0], parts[1]


def reached(trains: Trains) -> tuple[Array, Array]:
    """Lowest and highest level of every parameter, (d,) each."""
    return np.nanmin(trains.levels, axis=(-2, -1)), np.nanmax(trains.levels, axis=(-2, -1))


def of(trains: Trains, which: Array | slice) -> Trains:
    """Those of some parameters."""
    return replace(trains, levels=trains.levels[which])


def cell(found: Fit, seen: tuple[Array, Array], level: float) -> dict[str, Any]:
    """Settings of `Pulsed` that make such parameters, with a nested `law`: what a YAML file needs, spreads included.

    Args:
        found: the fit.
        seen: lowest and highest level of every parameter, (d,) each; the farthest of all are bounds that were not
            reached.
        level: of the intervals by which a spread counts as seen.
    """

    def spread(values: Array, errors: Array, unit: float) -> float:
        wide = estimates.spread([(values / unit, errors / abs(unit))], level) if values.size > 2 else Interval(0, 0, 0)
        return wide.value if wide.is_seen else 0.0

    (ups, up_errors), (downs, down_errors) = scales(found)
    law: dict[str, Any] = {"_target_": f"hwtrain.sim.laws.{_LAWS[found.name]}"}
    up, down = float(ups.mean()), float(downs.mean())
    if min(up, down) <= 0:
        raise ConfigError("no cell is made of these readings: pulses of one direction do not lead there, on average")
    dw_min, bounds = max(up, down), dict[str, float]()
    for name, key, end, fallback in (("w_min", "low", found.low, seen[0]), ("w_max", "high", found.high, seen[1])):
        if found.name == "exponential":  # whose shape refers to them, seen or not
            end = found.constants[key]
        inside = np.isfinite(end)
        values = np.where(inside, end, fallback)
        farthest = values.min() if name == "w_min" else values.max()
        average = np.mean if found.name == "exponential" else np.median
        middle = float(average(values[inside]) if inside.mean() > 0.5 else farthest)
        bounds[name] = middle
        own = found.errors.get(key, np.zeros(values.shape))
        bounds[f"{name}_dtod"] = spread(values[inside], own[inside], middle) if inside.mean() > 0.5 else 0.0
    if found.name == "linear":
        for way, bound in (("up", bounds["w_max"]), ("down", bounds["w_min"])):
            gamma, wrong = found.constants[f"slope_{way}"] * bound, found.errors[f"slope_{way}"] * abs(bound)
            law[f"gamma_{way}"] = float(gamma.mean())
            law[f"gamma_{way}_dtod"] = spread(gamma, wrong, 1.0)
            law["allow_increasing"] = True
    elif found.name == "power":
        both = (found.constants["power_up"] + found.constants["power_down"]) / 2
        more, less = float(found.constants["power_up"].mean()), float(found.constants["power_down"].mean())
        law["pow_gamma"] = max(more, less)
        law["pow_up_down"] = 1 - less / more if more >= less else more / less - 1
        wrong = np.hypot(found.errors["power_up"], found.errors["power_down"]) / 2
        law["pow_gamma_dtod"] = spread(both, wrong, law["pow_gamma"])
    elif found.name == "exponential":
        law |= {name: one.value for name, one in found.shape.items()} | {"a": 1.0, "b": 0.0}
    elif found.name == "piecewise":
        for way, mean in (("up", up), ("down", down)):
            law[f"piecewise_{way}"] = [float(found.constants[f"{way} {node}"].mean()) / mean for node in range(NODES)]
    wrong = np.hypot(up_errors, down_errors) / 2
    settings: dict[str, Any] = {
        "_target_": "hwtrain.sim.pulsed.Pulsed",
        "law": law,
        "dw_min": dw_min,
        "dw_min_dtod": spread((ups + downs) / 2, wrong, dw_min),
        "dw_min_std": found.noise.value,
        "mult_noise": found.kind != "the same everywhere",
        "dw_min_std_add": KINDS["mixed"][1] * dw_min if found.kind == "mixed" else 0.0,
        "up_down": 1 - down / up if up >= down else up / down - 1,
        "up_down_dtod": spread((ups - downs) / 2, wrong, dw_min),
        **bounds,
        "write_noise_std": found.write_noise.value / dw_min,
    }
    return settings


_LAWS = {
    "constant": ConstantStep.__name__,
    "linear": LinearStep.__name__,
    "soft bounds": SoftBounds.__name__,
    "power": PowStep.__name__,
    "exponential": ExpStep.__name__,
    "piecewise": PiecewiseStep.__name__,
}
