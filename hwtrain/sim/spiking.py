"""Networks with memory: spiking and integrating layers over any number of chips and probes at once.

Parameters come as (..., k, p) and samples as (..., 1, t, b, n), as in networks.py. What runs on from step to step comes
and goes as `Memory`, so that a sequence may be presented in parts, each going on where the last one ended; every step
is computed by the same operations either way, so the parts give the bits of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from hwtrain import checks
from hwtrain.core import Array, Layer
from hwtrain.errors import ConfigError
from hwtrain.sim.networks import ACTIVATIONS, dense
from hwtrain.sim.neurons import FIRING, RESETS, SLOPES, Surrogate, jacobians, membrane, parameters, slope

Memory = tuple[tuple[Array, ...], ...]  # per layer: its state, and of a spiking one its activity, each (..., k, b, n)
READOUTS = ("dense", "integrator", "spiking")


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """How the neurons of one spiking layer of a real chip differ; all (..., 1, 1, n).

    Args:
        threshold: of each.
        decay: of each.
        gain: what each multiplies with what enters it.
        alive: 0 for neurons that never fire, else 1.
    """

    threshold: Array
    decay: Array
    gain: Array
    alive: Array


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """What a forward pass leaves behind.

    Args:
        inputs: what entered each layer, (..., k, t, b, n).
        membranes: each layer's state after each step, (..., k, t, b, n); of a dense one its output.
        outputs: each layer's activity, (..., k, t, b, n).
        before: the memory it began with.
        after: the memory it ended with.
    """

    inputs: list[Array]
    membranes: list[Array]
    outputs: list[Array]
    before: Memory
    after: Memory


@dataclass(frozen=True, slots=True)
class SpikingNetwork:
    """A stack of dense, spiking and integrator layers.

    Args:
        layers: from input to output; each takes what the one before gives.
    """

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        for number, layer in enumerate(self.layers, 1):
            if layer.kind not in _OPERATIONS or layer.normalise != "none":
                raise ConfigError(
                    "network: device=spiking computes dense, spiking and integrator layers that do not normalise; "
                    f"layer {number} is {layer.kind!r}, normalise={layer.normalise}. Choose network=snu, or device=sim."
                )
        for before, after in pairwise(self.layers):
            if before.outputs != after.inputs:
                raise ConfigError(f"network: a layer gives {before.outputs}, the next one takes {after.inputs}")

    @property
    def inputs(self) -> int:
        """Features of one sample."""
        return math.prod(self.layers[0].inputs)

    @property
    def outputs(self) -> int:
        """Features of one output."""
        return math.prod(self.layers[-1].outputs)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(layer.size for layer in self.layers)

    def asleep(self, replicas: tuple[int, ...], batch: int) -> Memory:
        """The memory of neurons that have seen nothing yet, (*replicas, 1, b, n)."""
        return tuple(
            tuple(np.zeros((*replicas, 1, batch, *layer.outputs)) for _ in range(_OPERATIONS[layer.kind].holds))
            for layer in self.layers
        )

    def forward(self, theta: Array, x: Array, memory: Memory, cells: Sequence[Cells | None] = ()) -> Pass:
        """Present samples, or parts of them.

        Args:
            theta: (..., k, p).
            x: (..., 1, t, b, n).
            memory: what the step before left, (..., 1 or k, b, n).
            cells: variation of each layer's neurons; empty for nominal ones.
        """
        inputs, membranes, outputs, after = [], [], [], []
        for number, (layer, block) in enumerate(zip(self.layers, self._blocks(theta), strict=True)):
            own = cells[number] if cells else None
            s, y, left = _OPERATIONS[layer.kind].forward(layer, block, x, memory[number], own)
            inputs.append(x)
            membranes.append(s)
            outputs.append(y)
            after.append(left)
            x = y
        return Pass(inputs, membranes, outputs, memory, tuple(after))

    def gradient(
        self, theta: Array, done: Pass, error: Array, surrogate: Surrogate, cells: Sequence[Cells | None] = ()
    ) -> Array:
        """Back-propagation through time (Werbos 1990), to the first step of the pass.

        Args:
            theta: (..., k, p).
            done: the forward pass.
            error: derivative of the cost with respect to the output, (..., k, t, b, m).
            surrogate: the derivative of a spike.
            cells: as in the forward pass.

        Returns:
            The gradient, (..., k, p); exact where activations have derivatives.
        """
        parts: list[Array] = []
        blocks = self._blocks(theta)
        for number in reversed(range(len(self.layers))):
            layer, own = self.layers[number], cells[number] if cells else None
            part, error = _OPERATIONS[layer.kind].backward(
                layer, blocks[number], _Seen.of(done, number), error, surrogate, own
            )
            parts.append(part)
        return np.concatenate(parts[::-1], axis=-1)

    def _blocks(self, theta: Array) -> list[Array]:
        ends = np.cumsum([0, *(layer.size for layer in self.layers)])
        return [theta[..., a:b] for a, b in pairwise(ends)]


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """One layer's share of a pass."""

    x: Array
    s: Array
    y: Array
    before: tuple[Array, ...]

    @classmethod
    def of(cls, done: Pass, number: int) -> _Seen:
        return cls(done.inputs[number], done.membranes[number], done.outputs[number], done.before[number])


class _Operation(Protocol):
    """A kind of layer; `holds` counts the arrays it keeps from step to step."""

    holds: int

    def forward(
        self, layer: Layer, block: Array, x: Array, before: tuple[Array, ...], cells: Cells | None
    ) -> tuple[Array, Array, tuple[Array, ...]]:
        """States, activities, and what to keep."""

    def backward(
        self, layer: Layer, block: Array, seen: _Seen, error: Array, surrogate: Surrogate, cells: Cells | None
    ) -> tuple[Array, Array]:
        """The gradient of the layer's parameters, and the error that reaches its inputs."""


class _Spiking:
    holds = 2

    def forward(
        self, layer: Layer, block: Array, x: Array, before: tuple[Array, ...], cells: Cells | None
    ) -> tuple[Array, Array, tuple[Array, ...]]:
        own = _nominal(layer) if cells is None else cells
        forth, back, bias = _matrices(layer, block)
        off = own.threshold + bias if layer.reset == "soft_trained" else own.threshold
        drive = np.matmul(x, forth[..., None, :, :])
        states, activities = np.empty_like(drive), np.empty_like(drive)
        s, y = before
        for t in range(drive.shape[-3]):
            enters = drive[..., t, :, :] if back is None else drive[..., t, :, :] + np.matmul(y, back)
            s = membrane(layer.reset, own.gain * enters, s, y, own.decay, off)
            y = own.alive * FIRING[layer.activation](s - own.threshold - bias)
            states[..., t, :, :], activities[..., t, :, :] = s, y
        return states, activities, (s, y)

    def backward(
        self, layer: Layer, block: Array, seen: _Seen, error: Array, surrogate: Surrogate, cells: Cells | None
    ) -> tuple[Array, Array]:
        own = _nominal(layer) if cells is None else cells
        forth, back, bias = _matrices(layer, block)
        off = own.threshold + bias if layer.reset == "soft_trained" else own.threshold
        d_forth, d_back = np.zeros_like(forth), np.zeros_like(forth if back is None else back)
        d_bias, below = np.zeros_like(bias), np.zeros((*error.shape[:-1], forth.shape[-2]))
        d_s, through_y = np.zeros_like(error[..., 0, :, :]), np.zeros_like(error[..., 0, :, :])
        for t in reversed(range(error.shape[-3])):
            s, y = seen.s[..., t, :, :], seen.y[..., t, :, :]
            s_before, y_before = (seen.s[..., t - 1, :, :], seen.y[..., t - 1, :, :]) if t else seen.before
            d_y = error[..., t, :, :] + through_y
            fires = own.alive * slope(layer.activation, s - own.threshold - bias, y, surrogate) * d_y
            d_s = fires + d_s  # d_s has come through the decay of the step after
            enters = own.gain * d_s
            d_forth += np.matmul(seen.x[..., t, :, :].swapaxes(-1, -2), enters)
            d_bias -= fires.sum(axis=-2, keepdims=True)
            if layer.reset == "soft_trained":
                d_bias -= (y_before * d_s).sum(axis=-2, keepdims=True)
            below[..., t, :, :] = np.matmul(enters, forth.swapaxes(-1, -2))
            kept, reset = jacobians(layer.reset, s_before, y_before, own.decay, off)
            through_y = reset * d_s
            if back is not None:
                d_back += np.matmul(y_before.swapaxes(-1, -2), enters)
                through_y = through_y + np.matmul(enters, back.swapaxes(-1, -2))
            d_s = kept * d_s
        parts = [d_forth, *([] if back is None else [d_back]), d_bias]
        return np.concatenate([part.reshape(*part.shape[:-2], -1) for part in parts], axis=-1), below


class _Integrator:
    holds = 1

    def forward(
        self, layer: Layer, block: Array, x: Array, before: tuple[Array, ...], cells: Cells | None
    ) -> tuple[Array, Array, tuple[Array, ...]]:
        matrix, bias = parameters(layer, block)
        states = layer.gain * np.matmul(x, matrix[..., None, :, :])
        (state,) = before
        for t in range(states.shape[-3]):
            states[..., t, :, :] += layer.decay * state
            state = states[..., t, :, :]
        return states, states + bias[..., None, None, :], (state.copy(),)

    def backward(
        self, layer: Layer, block: Array, seen: _Seen, error: Array, surrogate: Surrogate, cells: Cells | None
    ) -> tuple[Array, Array]:
        matrix, _ = parameters(layer, block)
        d_state = error.copy()
        for t in reversed(range(error.shape[-3] - 1)):
            d_state[..., t, :, :] += layer.decay * d_state[..., t + 1, :, :]
        return _outer(seen.x, layer.gain * d_state, error), layer.gain * np.matmul(
            d_state, matrix[..., None, :, :].swapaxes(-1, -2)
        )


class _Dense:
    holds = 0

    def forward(
        self, layer: Layer, block: Array, x: Array, before: tuple[Array, ...], cells: Cells | None
    ) -> tuple[Array, Array, tuple[Array, ...]]:
        matrix, bias = parameters(layer, block)
        bias = bias[..., None, None, :] if layer.bias == "add" else -bias[..., None, None, :]
        y = ACTIVATIONS[layer.activation](np.matmul(x, matrix[..., None, :, :]) + bias)
        return y, y, ()

    def backward(
        self, layer: Layer, block: Array, seen: _Seen, error: Array, surrogate: Surrogate, cells: Cells | None
    ) -> tuple[Array, Array]:
        matrix, _ = parameters(layer, block)
        error = error * SLOPES[layer.activation](seen.y)
        part = _outer(seen.x, error, error if layer.bias == "add" else -error)
        return part, np.matmul(error, matrix[..., None, :, :].swapaxes(-1, -2))


_OPERATIONS: dict[str, _Operation] = {"spiking": _Spiking(), "integrator": _Integrator(), "dense": _Dense()}


def _matrices(layer: Layer, block: Array) -> tuple[Array, Array | None, Array]:
    """From the inputs (..., k, n, m), from the layer itself (..., k, m, m), and the biases (..., k, 1, m)."""
    matrix, bias = parameters(layer, block)
    n = math.prod(layer.inputs)
    return matrix[..., :n, :], matrix[..., n:, :] if layer.recurrent else None, bias[..., None, :]


def _nominal(layer: Layer) -> Cells:
    one = np.ones(1)
    return Cells(layer.threshold * one, layer.decay * one, one, one)


def _outer(x: Array, error: Array, d_bias: Array) -> Array:
    """The gradient of a matrix and of biases, (..., k, size), from (..., k, t, b, n), summed step by step."""
    matrix = np.add.reduce(np.matmul(x.swapaxes(-1, -2), error), axis=-3)
    bias = np.add.reduce(d_bias, axis=(-3, -2))
    return np.concatenate([matrix.reshape(*matrix.shape[:-2], -1), bias], axis=-1)


def spiking(
    inputs: int,
    outputs: int,
    activation: str = "step",
    decay: float = 0.8,
    threshold: float = 0.5,
    reset: str = "hard",
    recurrent: bool = False,
) -> Layer:
    """A layer of spiking neural units, or of soft ones with activation="sigmoid"."""
    checks.one_of("network.activation", activation, FIRING)
    checks.number("network.decay", decay, 0, 1)
    checks.number("network.threshold", threshold)
    checks.one_of("network.reset", reset, RESETS)
    checks.flag("network.recurrent", recurrent)
    rows = inputs + (outputs if recurrent else 0)
    return Layer(
        "spiking",
        (inputs,),
        (outputs,),
        (rows + 1) * outputs,
        activation,
        "subtract",
        decay=decay,
        threshold=threshold,
        reset=reset,
        recurrent=recurrent,
    )


def integrator(inputs: int, outputs: int, decay: float = 0.99, gain: float = 1.0) -> Layer:
    """A read-out that does not fire: o_t = decay o_{t-1} + gain x_t W, of which o_t + bias is reported."""
    checks.number("network.readout_decay", decay, 0, 1)
    checks.number("network.readout_gain", gain, low=0, above=True)
    return Layer("integrator", (inputs,), (outputs,), (inputs + 1) * outputs, decay=decay, gain=gain)


def snu(
    sizes: Sequence[int],
    activation: str = "step",
    decay: float = 0.8,
    threshold: float = 0.5,
    reset: str = "hard",
    recurrent: bool = False,
    readout: str = "dense",
    readout_decay: float = 0.99,
    readout_gain: float = 1.0,
) -> SpikingNetwork:
    """Spiking hidden layers and a read-out.

    Args:
        sizes: units from input to output, for example 88, 150, 88.
        activation: "step", or "sigmoid" for soft units.
        decay: share of the membrane state left after a step.
        threshold: to which the trained bias of each neuron is added.
        reset: "hard", "soft" or "soft_trained".
        recurrent: do hidden layers see themselves?
        readout: "dense", which has no memory; "integrator", leaky and without spikes; or "spiking".
        readout_decay: of an integrator.
        readout_gain: of an integrator.
    """
    if len(sizes) < 2 or any(not isinstance(size, int) or size < 1 for size in sizes):
        raise ConfigError(f"network.sizes must be at least two positive whole numbers, not {list(sizes)}")
    checks.one_of("network.readout", readout, READOUTS)
    *pairs, (n, m) = pairwise(sizes)
    layers = [spiking(*pair, activation, decay, threshold, reset, recurrent) for pair in pairs]
    match readout:
        case "dense":
            layers.append(dense(n, m))
        case "integrator":
            layers.append(integrator(n, m, readout_decay, readout_gain))
        case "spiking":
            layers.append(spiking(n, m, activation, decay, threshold, reset))
    return SpikingNetwork(tuple(layers))
