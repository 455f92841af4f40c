"""What local learning rules share: each layer's own inputs and activities in, each layer's own gradient out.

Arrays of one layer come as (..., s, n): replicas, samples (time and batch in one), units. Nothing in this file lets one
layer see another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks
from hwtrain.core import Array, DeviceSpec, Layer, Reading, Sample, dense_layers, inside, normalised
from hwtrain.errors import ConfigError
from hwtrain.optimize import Moments, Optimizer, moved
from hwtrain.start import Start

SLOPES: dict[str, Callable[[Array], Array]] = {  # derivative of the activation, from the activity y
    "linear": np.ones_like,
    "sigmoid": lambda y: y * (1 - y),
    "tanh": lambda y: 1 - y * y,
    "relu": lambda y: (y > 0).astype(y.dtype),
}


@dataclass(frozen=True, slots=True)
class State:
    """All that changes.

    Args:
        theta: parameters, (..., p).
        estimate: gradient behind the last update, (..., p).
        moments: the optimizer's memory.
        layers: the device's dense layers; the last is the read-out.
        seed: one per replica, (...,).
        low: parameter range.
        high: parameter range.
        step: updates so far.
    """

    theta: Array
    estimate: Array
    moments: Moments
    layers: tuple[Layer, ...]
    seed: NDArray[np.uint32]
    low: float
    high: float
    step: int = 0

    @property
    def updates(self) -> int:
        """Updates so far."""
        return self.step

    def descended(self, gradient: Array, scale: Array | float, rule: Descending) -> Self:
        """The state after one step of the optimizer, `scale` (p,) or one number times as long as it would be."""
        gradient = np.where(np.isfinite(gradient), gradient, 0) if not np.isfinite(gradient.sum()) else gradient
        if rule.decay:
            gradient = gradient + rule.decay * self.theta
        change, moments = rule.optimizer.step(gradient, self.moments, rule.rate(self.step), self.step)
        theta = moved(self.theta, scale * change, self.low, self.high).astype(self.theta.dtype, copy=False)
        return replace(self, theta=theta, estimate=gradient, moments=moments, step=self.step + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Descending:
    """Settings of every rule that goes down its own gradients.

    Args:
        eta: learning rate of the hidden layers [parameter unit squared per cost].
        eta_halves: updates after which eta has halved; None keeps it. It falls as eta / (1 + updates / eta_halves).
        readout_eta: learning rate of the last layer, which falls likewise; None is `eta`.
        decay: weight decay, added to the gradient as decay * theta.
        precision: "double" or "single" arithmetic.
        optimizer: plain descent, momentum or Adam.
        start: first parameters.
    """

    eta: float
    eta_halves: float | None = None
    readout_eta: float | None = None
    decay: float = 0.0
    precision: str = "double"
    optimizer: Optimizer
    start: Start

    def __post_init__(self) -> None:
        checks.number("algo.eta", self.eta, low=0, above=True)
        checks.number("algo.eta_halves", self.eta_halves, low=0, above=True, why="updates", none="a constant rate")
        checks.number("algo.readout_eta", self.readout_eta, low=0, none="algo.eta")
        checks.number("algo.decay", self.decay, low=0)
        checks.one_of("algo.precision", self.precision, ("double", "single"))

    def begin(self, spec: DeviceSpec, seed: NDArray[np.uint32], who: str) -> State:
        """The first state on a network with a hidden layer, and a read-out with an output for every class.

        Raises:
            ConfigError: the device is something else.
        """
        layers = dense_layers(spec, who)
        if len(layers) < 2 or spec.outputs < 2:
            raise ConfigError(
                f"{who} trains hidden layers, and a last layer with an output for every class; {spec.name!r} has "
                f"{len(layers)} layers and {spec.outputs} outputs. Choose a task of two or more classes, for example "
                "task=letters7x7, and network.sizes with a hidden layer."
            )
        if layers[-1].activation != "linear":
            raise ConfigError(
                f"{who} takes the softmax of the last layer, which must be linear; that of {spec.name!r} is "
                f"{layers[-1].activation}. Set network.output=linear."
            )
        return self.first(spec, seed, layers)

    def first(self, spec: DeviceSpec, seed: NDArray[np.uint32], layers: tuple[Layer, ...]) -> State:
        """The first state on any network."""
        single = self.precision == "single" or spec.precision == "single"
        low, high = inside(spec.low, spec.high) if single else (spec.low, spec.high)
        theta = np.clip(self.start(spec, seed).astype(np.float32 if single else np.float64), low, high)
        return State(theta, np.zeros_like(theta), self.optimizer.init(theta), layers, seed, spec.low, spec.high)

    def rate(self, updates: int) -> float:
        """The learning rate of the hidden layers at an update."""
        return self.eta if self.eta_halves is None else self.eta / (1 + updates / self.eta_halves)

    def scale(self, state: State) -> Array:
        """How much longer than the hidden layers' the steps of each parameter are, (p,)."""
        scale = np.ones(state.theta.shape[-1], state.theta.dtype)
        scale[-state.layers[-1].size :] = 1.0 if self.readout_eta is None else self.readout_eta / self.eta
        return scale


def flat(values: Array, dtype: Any) -> Array:
    """(..., t, b, n) as (..., s, n)."""
    return values.reshape(*values.shape[:-3], -1, values.shape[-1]).astype(dtype, copy=False)


def wanted(sample: Sample, dtype: Any) -> Array:
    """The target of a sample, (..., s, m)."""
    assert sample.target is not None
    return flat(sample.target, dtype)


def activities(state: State, reading: Reading) -> list[Array]:
    """What a measurement saw of every layer, (..., s, n) each; a value that is not finite counts as 0."""
    assert reading.activity is not None
    seen = [flat(layer[..., 0, :, :, :], state.theta.dtype) for layer in reading.activity]
    return [layer if np.isfinite(layer.sum()) else np.where(np.isfinite(layer), layer, 0) for layer in seen]


def presented(state: State, x: Array, activity: Sequence[Array]) -> list[Array]:
    """What every layer's matrix saw: the activities of the layer before, their length as the layer takes it."""
    entered = [flat(x, state.theta.dtype), *activity[:-1]]
    return [normalised(values, layer.normalise) for layer, values in zip(state.layers, entered, strict=True)]


def gradient_of(layer: Layer, x: Array, error: Array) -> Array:
    """The gradient of one layer, (..., size).

    Args:
        layer: which.
        x: what its matrix saw, (..., s, n).
        error: the mean cost's derivative with respect to its pre-activations, (..., s, m).
    """
    matrix = np.matmul(x.swapaxes(-1, -2), error)
    bias = error.sum(axis=-2)
    return np.concatenate(
        [matrix.reshape(*matrix.shape[:-2], -1), bias if layer.bias == "add" else -bias], axis=-1, dtype=error.dtype
    )


def slices(layers: Sequence[Layer]) -> list[slice]:
    """Where each layer stands in theta."""
    ends = np.cumsum([0, *(layer.size for layer in layers)])
    return [slice(int(a), int(b)) for a, b in pairwise(ends)]


def widths(layers: Sequence[Layer]) -> list[int]:
    """Units of each layer."""
    return [math.prod(layer.outputs) for layer in layers]
