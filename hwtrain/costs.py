"""Costs as pure functions of output and target, and their derivative for the exact reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import log_softmax, softmax

from hwtrain import checks
from hwtrain.core import Array


class Cost(Protocol):
    """What a device minimises."""

    def __call__(self, output: Array, target: Array) -> Array:
        """Cost of every sample: (..., m) and (..., m) to (...,)."""

    def gradient(self, output: Array, target: Array) -> Array:
        """Its derivative with respect to the output, (..., m)."""


@dataclass(frozen=True, slots=True)
class MeanSquaredError:
    """Mean over the outputs of the squared difference."""

    def __call__(self, output: Array, target: Array) -> Array:
        difference = output - target
        result: Array = np.add.reduce(difference * difference, axis=-1) / output.shape[-1]
        return result

    def gradient(self, output: Array, target: Array) -> Array:
        result: Array = 2.0 / output.shape[-1] * (output - target)
        return result


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Cross-entropy between the target and the softmax of the output, in nats.

    Args:
        smoothing: share of the target that is spread evenly over all classes.
    """

    smoothing: float = 0.0

    def __post_init__(self) -> None:
        checks.number("cost.smoothing", self.smoothing, 0, 1, below=True)

    def __call__(self, output: Array, target: Array) -> Array:
        result: Array = -np.sum(self._smooth(target) * log_softmax(output, axis=-1), axis=-1)
        return result

    def gradient(self, output: Array, target: Array) -> Array:
        smooth = self._smooth(target)
        result: Array = softmax(output, axis=-1) * smooth.sum(axis=-1, keepdims=True) - smooth
        return result

    def _smooth(self, target: Array) -> Array:
        if not self.smoothing:
            return target
        smooth: Array = (1 - self.smoothing) * target + self.smoothing / target.shape[-1]
        return smooth
