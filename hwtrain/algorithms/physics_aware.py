"""Physics-aware training: forward through the hardware, backward through a model of it.

Wright, Onodera, Stein et al., "Deep physical neural networks trained with backpropagation", Nature 601, 549 (2022).

The output's error is that of the measured output, and every layer's input is the measured one, so errors of the model
do not add up from layer to layer: its Jacobians need only point within a right angle of the true ones. The model is the
network as programmed; with random matrices in its place this is feedback alignment (Lillicrap et al., Nature
Communications 7, 13276 (2016)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks, draws
from hwtrain.algorithms import local
from hwtrain.algorithms.local import State
from hwtrain.core import Array, Can, Command, DeviceSpec, Measure, Program, Reading, Sample, dense_layers, split
from hwtrain.costs import Cost, CrossEntropy
from hwtrain.optimize import Adam, Optimizer
from hwtrain.sim.networks import through_length
from hwtrain.start import Fan, Start

MODELS = ("programmed", "random")


@dataclass(frozen=True, slots=True, kw_only=True)
class PhysicsAware(local.Descending):
    """Physics-aware training (citation in the module docstring).

    Args:
        cost: what is descended, of the measured output.
        model: "programmed", the network with the parameters that were programmed; or "random", with fixed random
            matrices in the backward pass.
    """

    optimizer: Optimizer = field(default_factory=Adam)
    start: Start = field(default_factory=Fan)
    cost: Cost = field(default_factory=CrossEntropy)
    model: str = "programmed"

    needs: ClassVar[Can] = Can.ACTIVITY | Can.OUTPUT

    def __post_init__(self) -> None:
        local.Descending.__post_init__(self)
        checks.one_of("algo.model", self.model, MODELS)

    def init(self, spec: DeviceSpec, seed: NDArray[np.uint32]) -> State:
        """The first state, for one seed per replica."""
        return self.first(spec, seed, dense_layers(spec, "physics-aware training"))

    def presents(self, state: State) -> range:
        """A new sample for every update."""
        return range(state.step, state.step + 1)

    def ask(self, state: State, sample: Sample) -> tuple[Command, ...]:
        """Bring the device to theta and show it the sample."""
        return Program(state.theta), Measure(sample, observe=Can.ACTIVITY)

    def tell(self, state: State, sample: Sample, readings: Sequence[Reading]) -> tuple[State, Mapping[str, Array]]:
        """Propagate the error of the measured output back through the model, at what was measured."""
        activity = local.activities(state, readings[0])
        entered = [local.flat(sample.x, state.theta.dtype), *activity[:-1]]
        seen = local.presented(state, sample.x, activity)
        target = local.wanted(sample, state.theta.dtype)
        error = self.cost.gradient(activity[-1], target) / target.shape[-2]
        parts = []
        for number in range(len(state.layers) - 1, -1, -1):
            layer = state.layers[number]
            error = error * local.SLOPES[layer.activation](activity[number])
            parts.append(local.gradient_of(layer, seen[number], error))
            if number:
                back = np.matmul(error, self.backward(state, number).swapaxes(-1, -2))
                error = through_length(layer.normalise, entered[number], back)
        after = state.descended(np.concatenate(parts[::-1], axis=-1), self.scale(state), self)
        return after, {"cost": np.asarray(np.mean(self.cost(activity[-1], target), axis=-1, dtype=np.float64))}

    def backward(self, state: State, number: int) -> Array:
        """The matrix through which errors leave a layer, (..., inputs, outputs)."""
        matrix, _ = split(state.theta, state.layers)[number]
        if self.model == "programmed":
            return matrix
        inputs, outputs = matrix.shape[-2:]
        drawn = draws.normal(draws.derive(state.seed, f"backward of layer {number}"), 0, inputs * outputs)
        random: Array = (drawn / np.sqrt(inputs)).reshape(matrix.shape).astype(matrix.dtype)
        return random

    def gradient(self, state: State) -> Array | None:
        """What was descended, for the angle to the exact gradient."""
        return state.estimate if state.step else None
