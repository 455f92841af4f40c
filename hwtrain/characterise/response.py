"""How the cost answers to one parameter, and to probes and writes of the same move: resolution, range, linearity."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.polynomial import Polynomial
from scipy.stats import chi2, norm

from hwtrain.characterise.chip import SURE, Chip, Finding, percent, stated
from hwtrain.characterise.estimates import Interval
from hwtrain.core import Array

MOST_BITS = 20


def resolution(chip: Chip, found: Mapping[str, Finding]) -> list[Finding]:
    """Into how many steps the range is divided: does the cost follow the steps, or the parameter itself?

    The number of bits that accounts best for what writes did to the cost wins, where it beats no rounding at all; noise
    is estimated along with it.
    """
    if "scan" not in chip.data:
        return []
    spec, result = chip.ground.device, []
    unit = spec.unit or "parameter unit"
    if np.isfinite(spec.low) and np.isfinite(spec.high):
        span = spec.high - spec.low
        steps = [span / (2**bits - 1) for bits in range(1, MOST_BITS + 1)]
        none = _account(chip, lambda theta: theta)
        each = np.array([_account(chip, partial(_rounded, spec.low, step)) for step in steps])
        best = int(each.argmax())
        if each[best] > none + 2 * SURE:
            near = 1 + np.flatnonzero(each[best] - each <= chi2.ppf(chip.level, 1) / 2)
            bits = Interval(best + 1, int(near[0]), int(near[-1]))
            says = f"A parameter moves in steps of {steps[best]:.3g}{chip.unit}: {best + 1} bits over its range"
            says += "." if len(near) == 1 else f" ({near[0]} to {near[-1]})."
            result.append(Finding("parameter_bits", says, bits, "bits", "stepped", basis=chip.data["at"].size))
        elif (coarse := np.flatnonzero(none - each > SURE)).size:
            says = f"No steps of a parameter are seen; they are finer than {steps[coarse[-1]]:.3g}{chip.unit}."
            result.append(Finding("parameter_bits", says, None, "bits", "smooth", basis=chip.data["at"].size))
    repeats = chip.data["rescanned"]
    floor = found["baseline_noise"].value / math.sqrt(repeats) if "baseline_noise" in found else 0.0
    slope = np.abs(np.polyfit(chip.data["at"][0], chip.data["scan"][0], 1)[0])
    if slope and floor:
        least = 3 * math.sqrt(2) * floor / slope
        says = f"The smallest step of parameter {int(chip.data['scanned'])} that {repeats} readings see is {least:.3g}"
        result.append(Finding("smallest_step", f"{says}{chip.unit}.", Interval(least, least, least), unit))
    return result


def _rounded(low: float, step: float, theta: Array) -> Array:
    result: Array = low + step * np.round((theta - low) / step)
    return result


def _account(chip: Chip, rounded: Callable[[Array], Array]) -> float:
    """Log-likelihood of what writes did to the cost, were parameters rounded like this.

    Scans are smooth in the parameter as it is rounded. Where probes are not rounded, the same moves by probes say what
    writes would have done without.
    """
    data, theta, total = chip.data, chip.theta, 0.0
    for number, (x, y) in enumerate(zip(rounded(data["at"]), data["scan"], strict=True)):
        x, y = x[1:], y[1:]  # the first comes from far away, and may still settle
        degree = min(3 if number else 7, len(np.unique(x)) - 1)
        fitted = Polynomial.fit(x, y, degree)(x) if degree else np.full_like(y, y.mean())
        total += _likelihood(y - fitted, float(np.ptp(data["scan"])))
    if "effect" in data and data["effect"].shape[1] == theta.size:
        effect, ahead = np.zeros((2, theta.size))
        effect[data["moved"]], ahead[data["moved"]] = data["effect"].mean(axis=0), data["ahead"]
        parts = []
        if "moves" in data and not np.isnan(data["pairs"]).any():
            lost = (rounded(theta + data["moves"]) - rounded(theta) - data["moves"]) @ effect
            parts.append((data["pairs"][:, 2] - data["pairs"][:, 1], lost))
        if "put" in data:
            at, step = data["put"], chip.ground.step
            lost = ahead[at] * (rounded(theta[at] + step) - rounded(theta[at]) - step)
            parts.append(((data["answer"] - ahead[at]) * step, lost))
        for difference, lost in parts:
            size = float(np.abs(difference).max())
            total += max(_likelihood(difference - lost, size), _likelihood(difference, size))
    return total


def _likelihood(left: Array, size: float) -> float:
    """Log-likelihood of normal residuals whose deviation is unknown; of numbers of such a size, none is smaller."""
    return -0.5 * left.size * math.log(float(left @ left) + (1e-7 * size) ** 2 + 1e-300)


def response(chip: Chip, found: Mapping[str, Finding]) -> list[Finding]:
    """How the cost, and the outputs, answer to one parameter over the whole range."""
    if "scan" not in chip.data or "baseline_noise" not in found:
        return []
    at, cost, result = chip.data["at"][0], chip.data["scan"][0], []
    error = found["baseline_noise"].value / math.sqrt(chip.data["rescanned"])
    name = int(chip.data["scanned"])
    bent = _bend(at, cost, error, chip.level)
    says = f"Over the range the cost departs from a straight line in parameter {name} by {percent(bent)} of its span."
    result.append(Finding("cost_nonlinearity", says, bent, "of its span", basis=at.size))
    if "swept" in chip.data:
        swept = chip.data["swept"]
        output = int(np.ptp(swept, axis=0).argmax())
        bent = _bend(at, swept[:, output], found["read_noise"].value if "read_noise" in found else 0.0, chip.level)
        says = f"Output {output} departs from a straight line in it by {percent(bent)} of its span."
        result.append(Finding("output_nonlinearity", says, bent, "of its span", basis=at.size))
    low, high = _flat(cost, error), _flat(cost[::-1], error)
    if chip.is_known:
        moved = np.repeat(chip.theta[None], len(at), axis=0)
        moved[:, name] = at
        ideal = chip.ideal(moved)
        low, high = (
            0 if np.ptp(part) < 0.1 * np.ptp(ideal) else flat
            for part, flat in ((ideal[: low + 1], low), (ideal[len(at) - 1 - high :], high))
        )
    used = Interval(float(at[-1] - at[0]), float(at[low]), float(at[len(at) - 1 - high]))
    says = f"A parameter acts over all of {at[0]:.3g} to {at[-1]:.3g}{chip.unit}."
    if low or high:
        says = f"Of {at[0]:.3g} to {at[-1]:.3g}{chip.unit} only {used.low:.3g} to {used.high:.3g} moves the cost."
    result.append(
        Finding("range", says, used, chip.ground.spec.unit or "parameter unit", "cut" if low or high else "whole")
    )
    return result


def _bend(at: Array, values: Array, error: float, level: float) -> Interval:
    """Root mean square departure from a straight line, over the span of the values."""
    left = values - np.polyval(np.polyfit(at, values, 1), at)
    freedom = len(at) - 2
    square = float(left @ left) / freedom - error**2
    wide = norm.ppf((1 + level) / 2) * math.sqrt((4 * max(square, 0.0) * error**2 + 2 * error**4) / freedom)
    span = float(np.ptp(values)) or 1.0
    value, low, high = (math.sqrt(max(part, 0.0)) / span for part in (square, square - wide, square + wide))
    return Interval(value, low, high)


def _flat(cost: Array, error: float) -> int:
    """Points from the first on over which the cost does not change."""
    same = np.abs(cost - cost[0]) <= max(3 * math.sqrt(2) * error, 1e-9 * float(np.ptp(cost)))
    run = int(np.append(same, False).argmin()) - 1
    return run if run >= 3 else 0


def probing(chip: Chip, found: Mapping[str, Finding]) -> list[Finding]:
    """Does a probe change the cost as much as writing the same move?"""
    if "pairs" not in chip.data or np.isnan(chip.data["pairs"]).any() or "probe_noise" not in found:
        return []
    rest, probe, put = chip.data["pairs"].T
    many = len(rest)
    floor = found["baseline_noise"].value ** 2 / chip.data["paired"]
    noisy = found["probe_noise"].value ** 2 / chip.data["paired"]
    x, y = probe - rest, put - rest

    def slope(keep: Array) -> float:
        below = float((x[keep] ** 2).sum()) - keep.sum() * (noisy + floor)
        return (float((x[keep] * y[keep]).sum()) - keep.sum() * floor) / below if below > 0 else math.nan

    every = np.ones(many, bool)
    value = slope(every)
    without = np.array([slope(np.arange(many) != j) for j in range(many)])  # jackknife
    wide = norm.ppf((1 + chip.level) / 2) * math.sqrt(
        (many - 1) / many * float(((without - without.mean()) ** 2).sum())
    )
    ratio = Interval(value, value - wide, value + wide)
    if not math.isfinite(value):
        return []
    same = ratio.low <= 1 <= ratio.high
    says = f"A write changes the cost by {stated(ratio)} times what a probe of the same move does"
    says += ": probing equals programming." if same else ": probing does not equal programming."
    return [Finding("probe_ratio", says, ratio, "", "equal" if same else "unequal", basis=many)]
