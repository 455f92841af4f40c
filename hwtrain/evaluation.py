"""How good is it now: cost and accuracy on samples held out and seen, and how well the gradient is known.

Evaluation reads outputs, never costs, so it neither counts as a measurement of training nor shifts a noise draw of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import softmax

from hwtrain import checks
from hwtrain.core import (
    Algorithm,
    Array,
    Can,
    Command,
    Device,
    Measure,
    Predicting,
    Program,
    Sample,
    Task,
    Validating,
    counted,
)
from hwtrain.costs import Cost

CHUNK = 500  # samples presented at once, which bounds the memory of a convolution


@dataclass(frozen=True, slots=True)
class Evaluation:
    """When and on how much.

    Args:
        every: steps between evaluations.
        samples: held-out and seen samples used each time; the last evaluation uses all that are held out.
        angle: also the angle between gradient estimate and exact gradient, where the device knows the latter.
    """

    every: int = 1000
    samples: int = 1000
    angle: bool = True

    def __post_init__(self) -> None:
        checks.whole("evaluate.every", self.every, why="steps")
        checks.whole("evaluate.samples", self.samples)
        checks.flag("evaluate.angle", self.angle)


def evaluate(
    device: Device, task: Task, cost: Cost, algorithm: Algorithm, state: Any, setting: Evaluation, *, last: bool = False
) -> dict[str, Array]:
    """Metrics of the present parameters, one number per replica.

    Returns:
        `test_cost`, `train_cost`; `test_accuracy`, `train_accuracy` [share] where targets are classes; the same for
        `valid_` where the task has a validation set; `gradient_angle` [degrees] where it is known.
    """
    if Can.PULSE not in device.spec.can:  # which hold what their pulses have made of them
        device.execute([Program(state.theta)])
    metrics: dict[str, Array] = {}
    sets = [("test", task.held_out(2**31 if last else setting.samples)), ("train", task.seen(setting.samples))]
    if isinstance(task, Validating):
        sets.append(("valid", task.validation(setting.samples)))
    for name, sample in sets:
        for key, value in _score(device, cost, algorithm, state, sample).items():
            metrics[f"{name}_{key}"] = value
    if setting.angle and Can.GRADIENT in device.spec.can and (estimate := algorithm.gradient(state)) is not None:
        metrics["gradient_angle"] = angle(estimate, _exact_gradient(device, task.seen(min(setting.samples, CHUNK))))
    return metrics


def angle(a: Array, b: Array) -> Array:
    """Angle between vectors (..., p), in degrees; NaN where one has no length."""
    with np.errstate(invalid="ignore", divide="ignore"):
        a = a / np.linalg.norm(a, axis=-1, keepdims=True)
        b = b / np.linalg.norm(b, axis=-1, keepdims=True)
        # exact also for small angles, where the arc cosine is not (Kahan)
        result: Array = np.degrees(2 * np.arctan2(np.linalg.norm(a - b, axis=-1), np.linalg.norm(a + b, axis=-1)))
    return result


def _score(device: Device, cost: Cost, algorithm: Algorithm, state: Any, sample: Sample) -> dict[str, Array]:
    target = sample.target
    if target is None:
        return {}
    if Can.OUTPUT not in device.spec.can and not isinstance(algorithm, Predicting):
        return {"cost": _measured_cost(device, sample)}
    rows = target[counted(target)]
    classes = bool(np.isin(rows, (0.0, 1.0)).all() and (rows.shape[-1] == 1 or (rows.sum(axis=-1) == 1).all()))
    whole = classes and _one_class_throughout(target)
    spent, right, judged = np.zeros(device.spec.replicas), np.zeros(device.spec.replicas), 0
    for part in _chunks(sample):
        assert part.target is not None
        output = _output(device, algorithm, state, part).astype(np.float64, copy=False)
        count = counted(part.target)
        spent = spent + np.where(count, cost(output, part.target), 0.0).sum(axis=(-2, -1))
        correct = _correct_sequences(output, part.target, count) if whole else _correct(output, part.target) & count
        right = right + correct.sum(axis=(-2, -1))
        judged += int(count.any(axis=-2).sum() if whole else count.sum())
    return {"cost": spent / len(rows), **({"accuracy": right / judged} if classes else {})}


def _one_class_throughout(target: Array) -> bool:
    """Has every sequence, of more than one step, the same target at all steps that count?"""
    count = counted(target)[..., None]
    highest, lowest = np.where(count, target, -1).max(axis=-3), np.where(count, target, 2).min(axis=-3)
    return target.shape[-3] > 1 and target.shape[-1] > 1 and bool((highest == lowest).all())


def _correct_sequences(output: Array, target: Array, count: Array) -> Array:
    """Is the class of each sequence right, by the mean softmax over the steps that count? (..., 1, b)."""
    likely = np.where(count[..., None], softmax(output, axis=-1), 0.0).sum(axis=-3, keepdims=True)
    return _correct(likely, np.where(count[..., None], target, 0.0).max(axis=-3, keepdims=True))


def _output(device: Device, algorithm: Algorithm, state: Any, sample: Sample) -> Array:
    if isinstance(algorithm, Predicting):
        return algorithm.predict(state, sample, device.execute(algorithm.queries(state, sample)))
    (reading,) = device.execute([Measure(sample, observe=Can.OUTPUT)])
    assert reading.output is not None
    output: Array = reading.output[..., 0, :, :, :]
    return output


def _measured_cost(device: Device, sample: Sample) -> Array:
    readings = [device.execute([Measure(part)])[0] for part in _chunks(sample)]
    weights = [part.x.shape[-2] for part in _chunks(sample)]
    costs = [reading.cost[..., 0] for reading in readings if reading.cost is not None]
    result: Array = np.average(costs, axis=0, weights=weights)
    return result


def _correct(output: Array, target: Array) -> Array:
    if target.shape[-1] == 1:
        right: Array = ((output > 0.5) == (target > 0.5))[..., 0]
        return right
    right = output.argmax(axis=-1) == target.argmax(axis=-1)
    return right


def _exact_gradient(device: Device, sample: Sample) -> Array:
    commands: list[Command] = [Measure(sample, observe=Can.GRADIENT)]
    (reading,) = device.execute(commands)
    assert reading.gradient is not None
    return reading.gradient[..., 0, :]


def _chunks(sample: Sample) -> Iterator[Sample]:
    assert sample.target is not None
    for start in range(0, sample.x.shape[-2], CHUNK):
        part = slice(start, start + CHUNK)
        yield Sample(sample.x[..., part, :], sample.target[..., part, :], sample.start)
