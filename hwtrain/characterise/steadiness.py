"""What a cost does by itself, and what writes of the same parameters leave: noise, settling, decay, drift, scatter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.polynomial import Polynomial
from scipy.optimize import minimize_scalar
from scipy.stats import chi2, norm

from hwtrain import draws
from hwtrain.characterise import estimates
from hwtrain.characterise.chip import EXACT, SURE, Chip, Data, Finding, stated
from hwtrain.characterise.estimates import Interval, Walks
from hwtrain.core import Array

IMPOSSIBLE = 1e9  # a negative log-likelihood, and finite
LATE = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)  # readings that parameters stay as they were written, about


def noise(chip: Chip, found: Mapping[str, Finding]) -> list[Finding]:
    """Noise of a reading with and without a probe, settling after a write, and what time does to the parameters."""
    data, level, result = chip.data, chip.level, ageing(chip)
    walks = Walks()
    settled = data["bursts"].shape[-1] if "bursts" in data else 0
    for series in held(data) if not result else []:
        walks.add(series[None, settled:])
    if "bursts" in data and len(data["bursts"]) > 1:
        walks.add(data["bursts"] - data["bursts"].mean(axis=0), len(data["bursts"]) - 1)
    if walks.readings:
        drifts = walks.steps(level)
        gain = walks.cost(walks.noise(0.0), 0.0) - walks.cost(walks.noise(drifts.value), drifts.value)
        if gain < SURE:
            drifts = Interval(drifts.value, 0.0, drifts.high)
        step = drifts.value if drifts.is_seen else 0.0
        floor = estimates.scale(lambda sigma: walks.cost(sigma, step), walks.noise(step), level)
        if max(floor.value, step) < EXACT * abs(chip.resting):
            floor, step, drifts = (Interval(0.0, 0.0, 0.0), 0.0, Interval(0.0, 0.0, 0.0))
        kind = f"a drift lies under it, {stated(drifts)} a reading" if step else "it is white"
        says = f"The same cost read again differs by {stated(floor)}; {kind}."
        if not floor.value:
            says = "The same cost read again is the same to the last digit."
        verdict = "drifting" if step else "white"
        result.append(Finding("baseline_noise", says, floor, "cost", verdict, basis=round(walks.readings)))
        if step or floor.value:
            says = f"The cost walks by {stated(drifts)} from one reading to the next."
            if not step:
                says = f"No drift of the cost is seen; it is below {drifts.high:.3g} from one reading to the next."
            result.append(Finding("cost_drift", says, drifts, "cost per root reading", basis=round(walks.readings)))
        result += settling(chip, floor.value, step) if "drift_exponent" not in {one.name for one in result} else []
    if "probed" in data:
        series = data["probed"]
        freedom = series.size - len(series)
        held_probe = estimates.deviation(float(((series - series.mean(-1, keepdims=True)) ** 2).sum()), freedom, level)
        if held_probe.value < EXACT * abs(chip.resting):
            held_probe = Interval(0.0, 0.0, 0.0)
        says = f"Under a probe that is held it differs by {stated(held_probe)}."
        if not held_probe.value:
            says = "Under a probe that is held it is the same to the last digit."
        result.append(Finding("probe_noise", says, held_probe, "cost", basis=freedom))
    return result


def settling(chip: Chip, floor: float, step: float) -> list[Finding]:
    """Does the cost still move, the same way every time, after a write has ended?

    Parameters that near their values as exp(-t / tau) move the cost so, and, where it curves, as the square of that.
    """
    if "bursts" not in chip.data or not floor:
        return []
    mean, n, many = chip.data["bursts"].mean(axis=0), chip.data["bursts"].shape[1], len(chip.data["bursts"])
    time = np.arange(n)
    covariance = (floor**2 * np.eye(n) + step**2 * np.minimum.outer(time, time)) / many
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))
    constants = np.geomspace(0.3, n / 2, 40)
    shapes = np.exp(-time / constants[:, None])
    left = np.array([_residual(whiten, mean, np.stack([np.ones(n), shape, shape**2], -1)) for shape in shapes])
    nothing = _residual(whiten, mean, np.ones((n, 1)))
    if nothing - left.min() < 2 * SURE + math.log(len(constants)) * 2:
        return [Finding("settle", "The cost has settled when a write has ended.", Interval(0, 0, 0), "s", basis=many)]
    seconds = chip.data["seconds"] or 1.0
    near = constants[left - left.min() <= chi2.ppf(chip.level, 1)] * seconds
    best = Interval(float(constants[left.argmin()]) * seconds, float(near[0]), float(near[-1]))
    unit = "s" if chip.data["seconds"] else "readings"
    says = f"After a write the cost settles with a time constant of {stated(best)} {unit}."
    return [Finding("settle", says, best, unit, "settling", basis=many)]


def _residual(whiten: Array, values: Array, model: Array) -> float:
    left = whiten @ values - (whiten @ model) @ np.linalg.lstsq(whiten @ model, whiten @ values, rcond=None)[0]
    return float(left @ left)


def ageing(chip: Chip) -> list[Finding]:
    """Do all parameters decay as a power of time? theta(t) = theta (1 + t / t_0)^-nu, from the first reading on.

    What that would look like is known from writes of parameters scaled down. It must account for the readings better
    than white noise on a level that walks.
    """
    data = chip.data
    if "shrunk" not in data or not (series := held(data)) or series[0].size < 32:
        return []
    first = series[0]
    count, lowest = np.arange(first.size), data["factors"].min()

    def left(nu: float, late: float, curve: Polynomial) -> float:
        """Negative log-likelihood."""
        factor = ((count + 1 + late) / (1 + late)) ** -nu
        factor /= factor[: data["reshrunk"]].mean()  # the curve was read as often, while the same went on
        if not lowest <= factor[-1] < 1 / lowest:
            return IMPOSSIBLE
        rest = first - curve(factor)
        return 0.5 * first.size * math.log(max(float(rest.var()), 1e-300))

    def best(shrunk: Array, sign: float, late: float, near: float) -> tuple[float, float]:
        """The likeliest exponent were this the curve, and the negative log-likelihood there."""
        curve = Polynomial.fit(data["factors"], shrunk, 4)
        bounds = near / 1.5, near * 1.5
        found = minimize_scalar(lambda nu: left(sign * nu, late, curve), bounds=bounds, method="bounded")
        return sign * float(found.x), float(found.fun)

    curve = Polynomial.fit(data["factors"], data["shrunk"], 4)
    tried: list[tuple[float, tuple[float, float, float]]] = []
    for sign in (1.0, -1.0):
        for late in LATE:
            near = min(np.geomspace(1e-4, 0.5, 40).tolist(), key=partial(_signed, left, sign, late, curve))
            tried.append((best(data["shrunk"], sign, late, near)[1], (sign, late, near)))
    least, where = min(tried)
    walk = Walks().add(first[None])
    step = walk.steps(chip.level).value
    floor = walk.noise(step)
    nothing = 0.5 * first.size * math.log(max(float(first.var()), 1e-300))
    walking = nothing + walk.cost(floor, step) - walk.cost(walk.noise(0.0), 0.0)
    if not least < min(nothing, walking) - 2 * SURE:
        return []
    middle = best(data["shrunk"], *where)[0]
    noise = draws.normal(np.array(0, np.uint32), np.arange(40), first.size + data["shrunk"].size)
    again = []  # what other noise, as likely, would have made of it
    for part in noise:
        first = first + floor * part[: first.size]
        again.append(best(data["shrunk"] + floor / math.sqrt(data["reshrunk"]) * part[first.size :], *where)[0])
        first = first - floor * part[: first.size]
    half = float(norm.ppf((1 + chip.level) / 2)) * float(np.std(again))
    nu = Interval(middle, middle - half, middle + half)
    says = f"After a write all parameters decay as a power of time, with the exponent {stated(nu)}."
    return [Finding("drift_exponent", says, nu, "", "power law", basis=first.size)]


def _signed(
    cost: Callable[[float, float, Polynomial], float], sign: float, late: float, curve: Polynomial, nu: float
) -> float:
    return cost(sign * nu, late, curve)


def held(data: Data) -> list[Array]:
    """The long series, cut where a new process went on."""
    if "hold" not in data:
        return []
    return [part for part in np.split(data["hold"], data["breaks"]) if part.size > 2]


def writing(chip: Chip, found: Mapping[str, Finding]) -> list[Finding]:
    """How the cost scatters from write to write of the same parameters, and whether errors add up."""
    data = chip.data
    if "bursts" not in data or len(data["bursts"]) < 8:
        return []
    bursts, floor, step = data["bursts"], found["baseline_noise"].value, 0.0
    if found["baseline_noise"].verdict == "drifting":
        step = found["cost_drift"].value
    many, n = bursts.shape
    levels = bursts.mean(axis=1)
    inside = math.sqrt(floor**2 / n + step**2 * float((np.arange(1, n) ** 2).sum()) / n**2)
    scatter = estimates.deviation(float(((levels - levels.mean()) ** 2).sum()), many - 1, chip.level)
    if scatter.value < EXACT * abs(chip.resting):
        scatter = Interval(0.0, 0.0, 0.0)
    if not scatter.value or (many - 1) * scatter.value**2 < inside**2 * chi2.ppf(0.99, many - 1):
        bound = estimates.beyond(scatter, inside)
        says = (
            f"Writing the same parameters again leaves no scatter that is seen; it is below {bound.high:.3g} of cost."
            if bound.high
            else "Writing the same parameters again leaves the cost the same to the last digit."
        )
        return [Finding("write_scatter", says, Interval(0.0, 0.0, bound.high), "cost", basis=many)]
    between = Walks().add(levels[None])
    adding = estimates.scale(lambda s: between.cost(inside, s), scatter.value, chip.level)
    white = between.cost(max(scatter.value, inside), 0.0)
    if between.cost(inside, adding.value) < white - SURE:
        once = math.sqrt(0.5)  # two writes from one burst to the next
        errors = estimates.beyond(adding, step * math.sqrt(n)).times(once)
        verdict, how = "incremental", "errors of writing add up from write to write"
    else:
        errors, verdict, how = estimates.beyond(scatter, inside), "absolute", "every write lands anew"
    says = f"Writing the same parameters again changes the cost by {stated(errors)}; {how}."
    return [Finding("write_scatter", says, errors, "cost", verdict, basis=many)]
