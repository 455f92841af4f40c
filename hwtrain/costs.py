"""Costs as pure functions of output and target, and their derivative for the exact reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import log_softmax, softmax

from hwtrain.core import Array
from hwtrain.errors import ConfigError


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
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"cost.smoothing must be at least 0 and below 1, not {self.smoothing}")

    def __call__(self, output: Array, target: Array) -> Array:
        result: Array = -np.sum(self._smooth(target) * log_softmax(output, axis=-1), axis=-1)
        return result

    def gradient(self, output: Array, target: Array) -> Array:
        result: Array = softmax(output, axis=-1) - self._smooth(target)
        return result

    def _smooth(self, target: Array) -> Array:
        if not self.smoothing:
            return target
        return (1 - self.smoothing) * target + self.smoothing / target.shape[-1]
