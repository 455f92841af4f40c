"""Physics-aware training: forward through the hardware, backward through a model of it.

Wright, Onodera, Stein et al., "Deep physical neural networks trained with backpropagation", Nature 601, 549 (2022).

The output's error is that of the measured output, and every layer's input is the measured one, so errors of the model
do not add up from layer to layer: its Jacobians need only point within a right angle of the true ones. The model is

    programmed   the network as programmed: y_j = f(sum_i w_ij x_i + b_j)
    fitted       a twin of this very device: y_j = f(sum_i g_ij w_ij x_i + b_j + o_j), whose gains g and offsets o go
                 down the squared error of the activities that it predicts, which are measured in any case
    random       fixed random matrices: feedback alignment (Lillicrap et al., Nature Communications 7, 13276 (2016))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks, draws
from hwtrain.algorithms import local
from hwtrain.core import Array, Can, Command, DeviceSpec, Measure, Program, Reading, Sample, dense_layers, split
from hwtrain.costs import Cost, CrossEntropy
from hwtrain.optimize import Adam, Moments, Optimizer
from hwtrain.sim.networks import ACTIVATIONS, through_length
from hwtrain.start import Fan, Start

MODELS = ("programmed", "fitted", "random")


@dataclass(frozen=True, slots=True)
class State(local.State):
    """All that changes.

    Args:
        twin: of every weight its gain, and of every unit, in the place of its bias, an offset, (..., p); empty unless
            the model is fitted.
        twin_moments: the memory of the optimizer that fits it.
    """

    twin: Array = field(default_factory=lambda: np.zeros(0))
    twin_moments: Moments = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PhysicsAware(local.Descending):
    """Physics-aware training (citation in the module docstring).

    Args:
        cost: what is descended, of the measured output.
        model: "programmed", the network with the parameters that were programmed; "fitted", with gains and offsets that
            are fitted to what is measured; or "random", with fixed random matrices in the backward pass.
        fitting: learning rate of gains and offsets, by Adam; a gain changes by at most about as much in an update.
    """

    optimizer: Optimizer = field(default_factory=Adam)
    start: Start = field(default_factory=Fan)
    cost: Cost = field(default_factory=CrossEntropy)
    model: str = "programmed"
    fitting: float = 0.01

    needs: ClassVar[Can] = Can.ACTIVITY | Can.OUTPUT

    def __post_init__(self) -> None:
        local.Descending.__post_init__(self)
        checks.one_of("algo.model", self.model, MODELS)
        checks.number("algo.fitting", self.fitting, low=0, above=True)

    def init(self, spec: DeviceSpec, seed: NDArray[np.uint32]) -> State:
        """The first state, for one seed per replica."""
        begun = self.first(spec, seed, dense_layers(spec, "physics-aware training"))
        twin = np.ones_like(begun.theta) if self.model == "fitted" else np.zeros(0)
        if twin.size:
            for _, offset in split(twin, begun.layers):
                offset[:] = 0
        kept = {name: getattr(begun, name) for name in local.State.__slots__}
        return State(**kept, twin=twin, twin_moments=_FIT.init(twin))

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
        if self.model == "fitted":
            state = self._fitted(state, seen, activity)
        target = local.wanted(sample, state.theta.dtype)
        error = self.cost.gradient(activity[-1], target) / target.shape[-2]
        parts = []
        for number in range(len(state.layers) - 1, -1, -1):
            layer = state.layers[number]
            error = error * local.SLOPES[layer.activation](activity[number])
            part = local.gradient_of(layer, seen[number], error)
            if self.model == "fitted":
                gain, _ = split(state.twin, state.layers)[number]
                part[..., : -layer.outputs[0]] *= gain.reshape(*gain.shape[:-2], -1)
            parts.append(part)
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
        if self.model == "fitted":
            gain, _ = split(state.twin, state.layers)[number]
            return np.asarray(gain * matrix)
        inputs, outputs = matrix.shape[-2:]
        drawn = draws.normal(draws.derive(state.seed, f"backward of layer {number}"), 0, inputs * outputs)
        random: Array = (drawn / np.sqrt(inputs)).reshape(matrix.shape).astype(matrix.dtype)
        return random

    def _fitted(self, state: State, seen: Sequence[Array], activity: Sequence[Array]) -> State:
        """Gains and offsets after one step down the squared error of what every layer would have said.

        Args:
            state: before.
            seen: what every matrix saw, (..., s, n).
            activity: what every layer said, (..., s, m).
        """
        parts = []
        twins, values = split(state.twin, state.layers), split(state.theta, state.layers)
        for layer, x, y, (gain, offset), (matrix, bias) in zip(
            state.layers, seen, activity, twins, values, strict=True
        ):
            constant = offset + (bias if layer.bias == "add" else -bias)
            predicted = ACTIVATIONS[layer.activation](np.matmul(x, gain * matrix) + constant[..., None, :])
            error = (predicted - y) * local.SLOPES[layer.activation](y) / y.shape[-2]
            slope = matrix * np.matmul(x.swapaxes(-1, -2), error)
            parts += [slope.reshape(*slope.shape[:-2], -1), error.sum(axis=-2)]
        down = np.concatenate(parts, axis=-1, dtype=state.twin.dtype)
        change, moments = _FIT.step(down, state.twin_moments, self.fitting, state.step)
        return replace(state, twin=(state.twin - change).astype(state.twin.dtype, copy=False), twin_moments=moments)

    def gradient(self, state: State) -> Array | None:
        """What was descended, for the angle to the exact gradient."""
        return state.estimate if state.step else None


_FIT = Adam()
