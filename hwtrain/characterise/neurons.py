"""Noise of reported activities, and how neurons differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.optimize import least_squares

from hwtrain.characterise import estimates
from hwtrain.characterise.chip import EXACT, Chip, Finding, floored, percent, stated
from hwtrain.characterise.estimates import Interval
from hwtrain.core import Array
from hwtrain.sim.networks import ACTIVATIONS


def activities(chip: Chip, found: Mapping[str, Finding]) -> list[Finding]:
    """Noise of reported activities, and how neurons differ."""
    data, result = chip.data, []
    for name, where in (("outputs", ""), ("outputs under a probe", " under a probe that is held")):
        if name not in data:
            continue
        seen = data[name]
        freedom = (len(seen) - 1) * seen.shape[1]
        spread = estimates.deviation(float(((seen - seen.mean(axis=0)) ** 2).sum()), freedom, chip.level)
        if spread.value < EXACT * np.abs(seen).max():
            spread = Interval(0.0, 0.0, 0.0)
        says = f"Activities read again{where} differ by {stated(spread)}."
        if not spread.value:
            says = f"Activities read again{where} are the same to the last digit."
        kind = "probed_read_noise" if where else "read_noise"
        result.append(Finding(kind, says, spread, "activity", basis=freedom))
    fits = [fit for number in range(len(chip.ground.spec.layers)) for fit in _curves(chip, number)]
    if len(fits) > 1:
        apart, errors = (np.concatenate([fit[which] for fit in fits]) for which in (0, 1))
        spread = floored(estimates.spread([(apart, errors)], chip.level, known=0.0))
        says = f"Gain and offset of {len(fits)} neurons differ by {percent(spread)}."
        if not spread.is_seen:
            says = f"Gain and offset of {len(fits)} neurons differ by less than {100 * spread.high:.2g} %."
        result.append(Finding("activation_variation", says, spread, "relative", basis=2 * len(fits)))
    return result


def _curves(chip: Chip, number: int) -> list[tuple[Array, Array]]:
    """Of every neuron of a layer, how far gain - 1 and offset are from 0, turned so that their errors are independent.

    y = gain f(k (b - m)) + offset is fitted; a neuron that does not move has a stuck bias, and is left out.
    """
    name, layer = f"transfer {number}", chip.ground.spec.layers[number]
    if name not in chip.data or layer.activation not in ("sigmoid", "tanh"):
        return []
    f = ACTIVATIONS[layer.activation]
    bias = chip.data["sweep"] * (1 if layer.bias == "add" else -1)
    ideal, fits = f(bias), []
    for seen in chip.data[name].T:
        if np.ptp(seen) < 0.3 * np.ptp(ideal):
            continue
        fit = least_squares(_misfit, [1.0, 1.0, 0.0, 0.0], args=(f, bias, seen))
        slopes = np.asarray(fit.jac)
        if np.linalg.cond(slopes) > 1e6:
            continue
        errors = 2 * fit.cost / max(len(bias) - 4, 1) * np.linalg.inv(slopes.T @ slopes)[[0, 3]][:, [0, 3]]
        square, turned = np.linalg.eigh(errors)
        if square[-1] < 0.1:
            fits.append((turned.T @ (fit.x[[0, 3]] - [1.0, 0.0]), np.sqrt(np.maximum(square, 0.0))))
    return fits


def _misfit(fit: Array, f: Callable[[Array], Array], bias: Array, seen: Array) -> Array:
    gain, steepness, midpoint, offset = fit
    left: Array = gain * f(steepness * (bias - midpoint)) + offset - seen
    return left
