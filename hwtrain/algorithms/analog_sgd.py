"""Stochastic gradient descent in the array: every update is a pair of pulse trains on the weights themselves.

Gokmen & Vlasov, Frontiers in Neuroscience 10, 333 (2016). Where steps up and down differ it does not end at the
optimum, but between it and the points where they balance; see `TikiTaka`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwtrain.algorithms.analog import Outer, State, factors_of
from hwtrain.core import Array, Command, DeviceSpec, Pulse, Reading, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalogSGD(Outer):
    """See the module; settings are those of `Outer`."""

    def init(self, spec: DeviceSpec, seed: NDArray[np.uint32]) -> Weights:
        """The first state, for one seed per replica."""
        begun = self.begin(spec, seed, "analog_sgd")
        return Weights(begun.theta, begun.due, begun.layers, begun.seed, unit=spec.step)

    def ask(self, state: Weights, sample: Sample) -> tuple[Command, ...]:
        """Send the pulses that are due; show the sample."""
        return Pulse(state.due), self.look(sample)

    def tell(self, state: Weights, sample: Sample, readings: Sequence[Reading]) -> tuple[Weights, Mapping[str, Array]]:
        """The outer product becomes the next pulses."""
        (reading,) = readings
        assert reading.cost is not None
        due = self.pulses(state, factors_of(state.layers, sample, reading), self.eta, state.unit)
        after = replace(state, theta=state.theta + due * state.unit, due=due, step=state.step + 1)
        return after, {"cost": reading.cost[..., 0]}


@dataclass(frozen=True, slots=True)
class Weights(State):
    """All that changes.

    Args:
        unit: step of a pulse.
    """

    unit: float = np.nan
