"""How the cost answers to parameters one by one: which are stuck, how gains differ, how large errors are in their unit.

Where the layers are known, the exact gradient of an ideal device says what an effect should be. What neurons and later
layers make of it is common to all parameters of a neuron, so their spread is judged neuron by neuron, at inputs that
are all alike. Errors of writing and drift are seen as changes of the cost, and brought back to parameters by the length
of the measured gradient; this is first order, and off where errors are as large as the curvature of the cost allows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from hwtrain.characterise import estimates
from hwtrain.characterise.chip import SURE, Chip, Data, Finding, floored, percent, stated
from hwtrain.characterise.estimates import Interval
from hwtrain.characterise.experiments import GROUP
from hwtrain.core import Array, Layer

ALIVE = 0.3  # spread of gains that a parameter may have without being called stuck


def parameters(chip: Chip, found: Mapping[str, Finding]) -> list[Finding]:
    """Which parameters are stuck or dead, how their gains differ, and errors of writing and drift in their unit."""
    data, level = chip.data, chip.level
    effect = _effects(chip)
    answer = _answers(data, found, chip.ground.step)
    best = effect or answer
    if best is None:
        return []
    result = _silent(chip, effect, answer)
    stuck = {index for finding in result for index in finding.which}
    alive = np.array([int(i) not in stuck for i in best.index])
    gains = _gains(chip, best, alive)
    spread = floored(estimates.spread(gains, level))
    if gains:
        count = sum(len(value) for value, _ in gains)
        says = f"Equal steps of {count} parameters of the same neurons differ in effect by {percent(spread)}."
        if not spread.is_seen:
            most = f"{100 * spread.high:.2g} %"
            says = f"Equal steps of {count} parameters of the same neurons have the same effect within {most}."
        result.append(Finding("parameter_variation", says, spread, "relative", basis=count))
    square = best.effect**2 - best.error**2
    reach = chip.ground.spec.size / best.effect.size
    length = max(float(square.sum()) * reach, 0.0)
    wide = norm.ppf((1 + level) / 2) * math.sqrt(float((4 * best.effect**2 * best.error**2 + 2 * best.error**4).sum()))
    gradient = Interval(math.sqrt(length), math.sqrt(max(length - wide * reach, 0.0)), math.sqrt(length + wide * reach))
    unit = chip.ground.spec.unit or "parameter unit"
    says = f"The gradient of the cost has the length {stated(gradient)} per {unit} here."
    result.append(Finding("gradient", says, gradient, f"cost per {unit}", basis=best.effect.size))
    if not length:
        return result
    acting = _ungained(gradient, square, spread.value if gains and spread.is_seen else 0.0, level)
    if "write_scatter" in found and (scatter := found["write_scatter"].estimate) is not None:
        error = scatter.over(acting)
        kind = found["write_scatter"].verdict
        add = "; errors add up" if kind == "incremental" else ""
        says = f"A write leaves an error of {stated(error)}{chip.unit} on each parameter{add}."
        if not scatter.is_seen:
            says = (
                f"Errors of writing are below {error.high:.3g}{chip.unit}."
                if error.high
                else "Writing makes no errors."
            )
        result.append(Finding("write_noise", says, error, unit, kind, basis=found["write_scatter"].basis))
    if "cost_drift" in found and (walk := found["cost_drift"].estimate) is not None:
        drift = walk.over(acting)
        says = f"Parameters walk by {stated(drift)}{chip.unit} from one reading to the next."
        if not walk.is_seen:
            says = f"No drift of parameters is seen; it is below {drift.high:.3g}{chip.unit} from reading to reading."
        result.append(Finding("drift", says, drift, f"{unit} per root reading", basis=found["cost_drift"].basis))
    return result


def _ungained(gradient: Interval, square: Array, spread: float, level: float) -> Interval:
    """The length of the gradient for what no gain multiplies: errors of writing, and drift.

    Args:
        gradient: its measured length, gains and all.
        square: of the effect of every parameter, (k,).
        spread: of gains, relative; a sum of few large squares tells what they are worth on average the less.
        level: of the interval.
    """
    length = gradient.times(1 / math.sqrt(1 + spread**2))
    few = math.sqrt(float((square**2).sum())) / max(float(square.sum()), 1e-300)
    wide = math.exp(float(norm.ppf((1 + level) / 2)) * spread * few)
    low, high = (math.log(max(length.value, 1e-300) / max(end, 1e-300)) for end in (length.low, length.high))
    down, up = math.hypot(low, math.log(wide)), math.hypot(high, math.log(wide))
    return Interval(length.value, length.value * math.exp(-down), length.value * math.exp(up))


@dataclass(frozen=True, slots=True, eq=False)
class _Moved:
    """What moving parameters did: which (k,), to the cost per unit (k,), its standard error (k,)."""

    index: Array
    effect: Array
    error: Array


def _effects(chip: Chip) -> _Moved | None:
    data = chip.data
    if "effect" not in data:
        return None
    index = data["moved"][: data["effect"].shape[1]]
    each = data["effect"] / chip.bent(index)
    repeats = len(each)
    error = math.sqrt(float(each.var(axis=0, ddof=1).mean()) / repeats) if repeats > 1 else 0.0
    return _Moved(index, each.mean(axis=0), np.full(index.size, error))


def _answers(data: Data, found: Mapping[str, Finding], step: float) -> _Moved | None:
    if "answer" not in data:
        return None
    index, answer = data["put"], data["answer"]
    error = (
        found["baseline_noise"].value * math.sqrt(1.5 / data["rewritten"]) / step if "baseline_noise" in found else 0.0
    )
    if "ahead" in data:  # errors of writing are in what is left between the two
        known = dict(zip(data["moved"].tolist(), data["ahead"].tolist(), strict=False))
        apart = np.array([a - known[i] for i, a in zip(index.tolist(), answer.tolist(), strict=True) if i in known])
        error = max(error, 1.48 * float(np.median(np.abs(apart)))) if apart.size else error
    elif "write_scatter" in found:
        error = math.hypot(error, found["write_scatter"].value * math.sqrt(GROUP / len(index)) / step)
    return _Moved(index, answer, np.full(len(index), error))


def _expected(chip: Chip, moved: _Moved) -> Array:
    """What an effect should be, (p,): the ideal gradient, scaled neuron by neuron to what was seen."""
    size, spec = chip.ground.spec.size, chip.ground.spec
    if not chip.is_known:
        return np.full(size, np.median(np.abs(moved.effect)))  # of a black box: as much as of the others
    gradient = chip.gradient()
    seen, expected = np.full(size, np.nan), np.zeros(size)
    seen[moved.index] = moved.effect
    for layer, first in _places(spec.layers):
        unit = first + np.arange(layer.size) % layer.outputs[-1]
        for neuron in np.unique(unit):
            own = first + np.flatnonzero(unit == neuron)
            known = own[np.isfinite(seen[own]) & (gradient[own] != 0)]
            if known.size > 2:
                expected[own] = gradient[own] * np.median(seen[known] / gradient[known])
    return expected


def _places(layers: Sequence[Layer]) -> list[tuple[Layer, int]]:
    """Layers that have parameters, and where they begin."""
    ends = np.cumsum([layer.size for layer in layers])
    return [(layer, int(end) - layer.size) for layer, end in zip(layers, ends, strict=True) if layer.size]


def _silent(chip: Chip, effect: _Moved | None, answer: _Moved | None) -> list[Finding]:
    """Which parameters have no effect, by probes and by writes, of which the latter count where they clearly differ.

    A parameter can be judged where no effect would be far likelier than an ordinary one, had none been seen.
    """
    doubts: list[dict[int, float]] = []  # log-likelihood of no effect, less that of an ordinary one
    for how in (effect, answer):
        if how is None:
            continue
        expected = _expected(chip, how)[how.index]
        error = np.maximum(how.error, 1e-12 + 1e-6 * np.abs(expected))
        wide = (ALIVE * expected) ** 2 + error**2
        seen = how.effect if chip.is_known else np.abs(how.effect)
        most = 0.5 * (expected**2 / wide + np.log(wide / error**2))
        doubt = 0.5 * ((seen - expected) ** 2 / wide + np.log(wide / error**2) - seen**2 / error**2)
        doubts.append({int(at): float(d) for at, d, m in zip(how.index, doubt, most, strict=True) if m > SURE})
    judged = {at: doubt > SURE for found in doubts[::-1] for at, doubt in found.items()}  # by probes, where there are
    unlike = {at for at, doubt in doubts[-1].items() if abs(doubt) > 3 * SURE and judged[at] != (doubt > 0)}
    judged |= {at: doubts[-1][at] > 0 for at in unlike}
    if not judged:
        return []
    which = tuple(sorted(at for at, silent in judged.items() if silent))
    share = estimates.share(len(which), len(judged), chip.level)
    by = "writes" if answer is not None else "probes"
    says = f"All {len(judged)} parameters that could be judged answer to {by}."
    if which:
        names = ", ".join(map(str, which[:12])) + (", ..." if len(which) > 12 else "")
        says = f"{len(which)} of {len(judged)} parameters do not answer to {by}: {names}."
    if unlike:
        says = says.removesuffix(".") + f"; {len(unlike)} answer to probes and not to writes, or the other way round."
    return [Finding("stuck", says, share, "share", which=which, basis=len(judged))]


def _gains(chip: Chip, moved: _Moved, alive: Array) -> list[tuple[Array, Array]]:
    """Effects of parameters of the same neuron over what they are multiplied with, and over their mean; its errors."""
    layers, data = chip.ground.spec.layers, chip.data
    where = {int(index): k for k, index in enumerate(moved.index) if alive[k]}
    groups: list[tuple[Array, Array]] = []
    inputs: Array | None = chip.ground.flat.x[0, 0]
    for number, (layer, first) in enumerate(_places(layers)):
        if layer.kind != "dense" or inputs is None:
            break
        many = layer.outputs[0]
        driven = np.append(inputs, 1.0 if layer.bias == "add" else -1.0)
        if layer.normalise != "none":
            driven[:-1] /= np.sqrt(np.sum(inputs**2) / (len(inputs) if layer.normalise == "rms" else 1))
        for neuron in range(many):
            rows = [i for i in range(len(driven)) if first + i * many + neuron in where and abs(driven[i]) > 0.05]
            if len(rows) < 3:
                continue
            at = [where[first + i * many + neuron] for i in rows]
            value, error = moved.effect[at] / driven[rows], moved.error[at] / np.abs(driven[rows])
            middle = float(np.median(value))
            if abs(middle) * math.sqrt(len(at)) > 20 * float(np.median(error)):
                groups.append((value / middle, error / abs(middle)))
        width = sum(math.prod(other.outputs) for other in layers[: number + 1])
        seen = data.get("outputs", np.zeros((0, 0)))
        nodes = sum(math.prod(other.outputs) for other in layers)
        inputs = seen.mean(axis=0)[width - many : width] if seen.shape[-1] == nodes else None
    return groups
