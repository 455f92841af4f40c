"""Gradient descent on the exact gradient: the reference that only a simulator offers.

Rumelhart, Hinton, Williams, "Learning representations by back-propagating errors", Nature 323, 533 (1986). The
simulator differentiates its own forward pass, device variation included; what is compared with it is the estimate, not
the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks
from hwtrain.core import Array, Can, Command, DeviceSpec, Measure, Program, Reading, Sample
from hwtrain.optimize import Descent, Moments, Optimizer, moved
from hwtrain.start import Start, Uniform


@dataclass(frozen=True, slots=True)
class State:
    """All that changes.

    Args:
        theta: parameters, (..., p).
        last: gradient behind the last update, (..., p).
        moments: the optimizer's memory.
        low: parameter range.
        high: parameter range.
        step: gradients so far.
        updates: updates so far.
    """

    theta: Array
    last: Array
    moments: Moments
    low: float
    high: float
    step: int = 0
    updates: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backprop:
    """Descent on the exact gradient.

    Args:
        eta: learning rate [parameter unit squared per cost].
        optimizer: plain descent, momentum or Adam.
        start: first parameters.
    """

    eta: float
    optimizer: Optimizer = field(default_factory=Descent)
    start: Start = field(default_factory=Uniform)

    needs: ClassVar[Can] = Can.COST | Can.GRADIENT

    def __post_init__(self) -> None:
        checks.number("algo.eta", self.eta, low=0)

    def init(self, spec: DeviceSpec, seed: NDArray[np.uint32]) -> State:
        """The first state, for one seed per replica."""
        theta = self.start(spec, seed)
        return State(theta, np.zeros_like(theta), self.optimizer.init(theta), spec.low, spec.high)

    def presents(self, state: State) -> range:
        """A new sample for every step."""
        return range(state.step, state.step + 1)

    def ask(self, state: State, sample: Sample) -> tuple[Command, ...]:
        """Bring the device to theta and ask for the gradient."""
        return Program(state.theta), Measure(sample, observe=Can.COST | Can.GRADIENT)

    def tell(self, state: State, sample: Sample, readings: Sequence[Reading]) -> tuple[State, Mapping[str, Array]]:
        """Descend."""
        reading = readings[0]
        assert reading.cost is not None and reading.gradient is not None
        gradient = reading.gradient[..., 0, :]
        gradient = np.where(np.isfinite(gradient), gradient, 0.0)
        change, moments = self.optimizer.step(gradient, state.moments, self.eta, state.updates)
        theta = moved(state.theta, change, state.low, state.high)
        state = replace(
            state, theta=theta, last=gradient, moments=moments, step=state.step + 1, updates=state.updates + 1
        )
        return state, {"cost": reading.cost[..., 0]}

    def gradient(self, state: State) -> Array | None:
        """The gradient behind the last update."""
        return state.last if state.updates else None
