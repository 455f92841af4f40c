"""Mono-Forward: one pass, no negative samples; every layer says which class it sees.

Gong, Li & Abdulla, "Mono-Forward: Backpropagation-Free Algorithm for Efficient Neural Network Training Harnessing Local
Errors", arXiv 2501.09238 (2025).

Every hidden layer l has a class matrix M_l (classes, units). Its own cost is the cross-entropy of the softmax of
g_l = a_l M_l^T, which the layer and its class matrix descend; nothing else reaches it. The class matrix of the last
hidden layer is the device's last layer; those of the layers before are the host's, for they only serve to learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from hwtrain import checks, draws
from hwtrain.algorithms import local
from hwtrain.core import Array, Can, Command, DeviceSpec, Learn, Measure, Program, Reading, Sample, split
from hwtrain.errors import ConfigError
from hwtrain.optimize import Adam, Descent, Moments, Optimizer, returned
from hwtrain.start import Fan, Start

READOUTS = ("last", "sum")


@dataclass(frozen=True, slots=True)
class State(local.State):
    """All that changes.

    Args:
        classes: class matrices of all hidden layers but the last, one (classes, units) after another, (..., q).
        class_moments: the optimizer's memory of them.
    """

    classes: Array = field(default_factory=lambda: np.zeros(0))
    class_moments: Moments = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MonoForward(local.Descending):
    """Mono-Forward (citation in the module docstring).

    Args:
        readout: "last", the device's output; or "sum", of what all layers say.
        on_device: the device runs `block` updates by itself.
        block: updates the device runs at once.
    """

    optimizer: Optimizer = field(default_factory=Adam)
    start: Start = field(default_factory=Fan)
    readout: str = "last"
    on_device: bool = False
    block: int = 50

    def __post_init__(self) -> None:
        local.Descending.__post_init__(self)
        checks.one_of("algo.readout", self.readout, READOUTS)
        checks.flag("algo.on_device", self.on_device)
        checks.whole("algo.block", self.block, why="updates")
        if self.on_device and (not isinstance(self.optimizer, Descent) or self.decay):
            raise ConfigError(
                "algo.on_device: a device descends by plain steps. Set algo/optimizer=descent algo.decay=0, or "
                "algo.on_device=false."
            )

    @property
    def needs(self) -> Can:
        """Activities, or all of it by itself."""
        return Can.LEARN | Can.OUTPUT if self.on_device else Can.ACTIVITY | Can.OUTPUT

    def init(self, spec: DeviceSpec, seed: NDArray[np.uint32]) -> State:
        """The first state, for one seed per replica; class matrices begin as N(0, 1/units)."""
        begun = self.begin(spec, seed, "Mono-Forward")
        units = local.widths(begun.layers)
        hidden = np.asarray(units[:-2], np.int64)
        fans = np.repeat(hidden, units[-1] * hidden)
        drawn = draws.normal(draws.derive(seed, "class matrices"), 0, len(fans)) / np.sqrt(fans)
        classes = drawn.astype(begun.theta.dtype)
        return State(
            **{name: getattr(begun, name) for name in local.State.__slots__},
            classes=classes,
            class_moments=self.optimizer.init(classes),
        )

    def presents(self, state: State) -> range:
        """A new sample for every update."""
        return range(state.step, state.step + (self.block if self.on_device else 1))

    def ask(self, state: State, sample: Sample) -> tuple[Command, ...]:
        """Bring the device to theta and show it the sample."""
        if self.on_device:
            return Program(state.theta), self._block(state, sample)
        return Program(state.theta), Measure(sample, observe=Can.ACTIVITY)

    def tell(self, state: State, sample: Sample, readings: Sequence[Reading]) -> tuple[State, Mapping[str, Array]]:
        """Every hidden layer and its class matrix descend the cross-entropy of what they say."""
        if self.on_device:
            return self._follow(state, readings[0])
        activity = local.activities(state, readings[0])
        seen = local.presented(state, sample.x, activity)
        target = local.wanted(sample, state.theta.dtype)
        matrices = [*_matrices(state, state.classes), _readout(state)]

        parts, costs, class_parts = [], [], []
        for number, (layer, matrix) in enumerate(zip(state.layers[:-1], matrices, strict=True)):
            last = number == len(matrices) - 1
            said = activity[-1] if last else np.matmul(activity[number], matrix.swapaxes(-1, -2))
            costs.append(-np.mean(np.sum(target * log_softmax(said, axis=-1), axis=-1), axis=-1))
            error = (softmax(said, axis=-1) - target) / target.shape[-2]
            slope = local.SLOPES[layer.activation](activity[number])
            parts.append(local.gradient_of(layer, seen[number], np.matmul(error, matrix) * slope))
            if last:
                parts.append(local.gradient_of(state.layers[-1], seen[-1], error))
            else:
                step = np.matmul(error.swapaxes(-1, -2), activity[number])
                class_parts.append(step.reshape(*step.shape[:-2], -1))

        after = state.descended(np.concatenate(parts, axis=-1), self.scale(state), self)
        if class_parts:
            gradient = np.concatenate(class_parts, axis=-1)
            change, moments = self.optimizer.step(gradient, state.class_moments, self.rate(state.step), state.step)
            classes = (state.classes - change).astype(state.classes.dtype, copy=False)
            after = replace(after, classes=classes, class_moments=moments)
        return after, {"cost": np.asarray(np.mean(costs, axis=0, dtype=np.float64))}

    def gradient(self, state: State) -> Array | None:
        """The gradient of a global cost is never known: each layer has a cost of its own."""
        return None

    def queries(self, state: State, sample: Sample) -> tuple[Command, ...]:
        """One pass."""
        return (Measure(sample, observe=Can.OUTPUT if self.readout == "last" else Can.ACTIVITY),)

    def predict(self, state: State, sample: Sample, readings: Sequence[Reading]) -> Array:
        """What the last layer says, or all layers together."""
        reading = readings[0]
        if self.readout == "last":
            assert reading.output is not None
            return reading.output[..., 0, :, :, :]
        assert reading.activity is not None
        seen = [layer[..., 0, :, :, :] for layer in reading.activity]
        said = seen[-1]
        for layer, matrix in zip(seen, _matrices(state, state.classes), strict=False):
            said = said + np.matmul(layer, matrix[..., None, :, :].swapaxes(-1, -2))
        return said

    def _block(self, state: State, sample: Sample) -> Learn:
        """The updates that the device runs next by itself."""
        rate = self.rate(state.step)
        return Learn(
            rule="mono_forward",
            sample=sample,
            batch=sample.x.shape[-2] // self.block,
            rate=rate,
            readout_rate=rate if self.readout_eta is None else rate * self.readout_eta / self.eta,
            low=state.low,
            high=state.high,
            local=state.classes,
        )

    def _follow(self, state: State, reading: Reading) -> tuple[State, Mapping[str, Array]]:
        assert reading.theta is not None and reading.local is not None and reading.cost is not None
        theta, classes = returned(state.theta, reading.theta), returned(state.classes, reading.local)
        after = replace(state, theta=theta, classes=classes, step=state.step + self.block)
        return after, {"cost": np.asarray(np.mean(reading.cost, axis=-1, dtype=np.float64))}


def _matrices(state: State, classes: Array) -> list[Array]:
    """The host's class matrices, (..., m, n) each."""
    *units, _, outputs = local.widths(state.layers)
    ends = np.cumsum([0, *(outputs * n for n in units)])
    return [
        classes[..., a:b].reshape(*classes.shape[:-1], outputs, n)
        for a, b, n in zip(ends, ends[1:], units, strict=False)
    ]


def _readout(state: State) -> Array:
    """The class matrix of the last hidden layer, as programmed into the device, (..., m, n)."""
    matrix, _ = split(state.theta, state.layers)[-1]
    return matrix.swapaxes(-1, -2)
