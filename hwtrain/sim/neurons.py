"""Spiking neurons as equations, one step of time each: what a simulator computes, and what a rule assumes of a device.

The spiking neural unit of Wozniak, Pantazi, Bohnstingl and Eleftheriou, Nature Machine Intelligence 2, 325 (2020):

    s_t = a_t + d s_{t-1} (1 - y_{t-1})     "hard" reset
    s_t = a_t + d s_{t-1} - r y_{t-1}       "soft" reset by r = v, or r = v + b where it is "soft_trained"
    y_t = h(s_t - v - b)

a_t is what enters, x_t W, and y_{t-1} H with it in a recurrent layer; d the decay, v the layer's threshold, b the
trained bias on it; h a step, or a sigmoid in the soft unit. A step has no useful derivative; a surrogate psi stands in
for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from hwtrain import checks, draws
from hwtrain.core import Array, DeviceSpec, Layer
from hwtrain.errors import ConfigError

RESETS = ("hard", "soft", "soft_trained")
FIRING: dict[str, Callable[[Array], Array]] = {"step": lambda z: (z > 0).astype(z.dtype), "sigmoid": expit}
SHAPES: dict[str, Callable[[Array], Array]] = {
    "tanh": lambda u: 1 - np.tanh(u) ** 2,
    "fast_sigmoid": lambda u: 1 / (np.abs(u) + 1) ** 2,
    "triangle": lambda u: np.maximum(0.0, 1 - np.abs(u)),
}

SLOPES: dict[str, Callable[[Array], Array]] = {  # derivative of a dense layer's activation, from its activity
    "linear": np.ones_like,
    "sigmoid": lambda y: y * (1 - y),
    "tanh": lambda y: 1 - y * y,
    "relu": lambda y: (y > 0).astype(y.dtype),
}


@dataclass(frozen=True, slots=True)
class Surrogate:
    """What stands in for the derivative of a spike: psi(z) = height * shape(slope * z), z how far above the threshold.

    Args:
        shape: "tanh", 1 - tanh(u)^2, the derivative that the spiking neural unit came with; "fast_sigmoid",
            1 / (|u| + 1)^2, often with a slope of 10 to 100; or "triangle", max(0, 1 - |u|), for e-prop with the slope
            1 / threshold and the height 0.3.
        slope: how narrow it is [per unit of the membrane].
        height: its value at the threshold.
    """

    shape: str = "tanh"
    slope: float = 1.0
    height: float = 1.0

    def __post_init__(self) -> None:
        checks.one_of("surrogate.shape", self.shape, SHAPES)
        checks.number("surrogate.slope", self.slope, low=0, above=True)
        checks.number("surrogate.height", self.height, low=0)

    def __call__(self, z: Array) -> Array:
        """psi(z), of the same shape."""
        psi: Array = self.height * SHAPES[self.shape](self.slope * z)
        return psi


def membrane(reset: str, drive: Array, s: Array, y: Array, decay: Array | float, off: Array | float) -> Array:
    """The state s_t, from what enters and from s and y of the step before; `off` is what a soft reset takes away."""
    after: Array = drive + (decay * s * (1 - y) if reset == "hard" else decay * s - off * y)
    return after


def jacobians(reset: str, s: Array, y: Array, decay: Array | float, off: Array | float) -> tuple[Array, Array]:
    """How s_t depends on s_{t-1}, and on y_{t-1} other than through a recurrent matrix, both diagonal, (..., n)."""
    if reset == "hard":
        return decay * (1 - y), -decay * s
    zero = np.zeros_like(y)
    return zero + decay, zero - off


def slope(activation: str, z: Array, y: Array, surrogate: Surrogate) -> Array:
    """dy/ds: the surrogate of a step, the true derivative of a sigmoid."""
    return surrogate(z) if activation == "step" else y * (1 - y)


def parameters(layer: Layer, block: Array) -> tuple[Array, Array]:
    """A layer's part of theta (..., size) as one matrix (..., q, n) and its biases (..., n).

    q counts the inputs, and behind them, if the layer is recurrent, its own n units.
    """
    n = math.prod(layer.outputs)
    q = layer.size // n - 1
    return block[..., : q * n].reshape(*block.shape[:-1], q, n), block[..., q * n :]


@dataclass(frozen=True, slots=True)
class LayerGains:
    """First parameters uniform within gain * sqrt(6 / (fan in + fan out)), biases zero; each kind of matrix has a gain.

    Glorot and Bengio, AISTATS 2010.

    Args:
        inputs: gain of the matrices through which a hidden layer sees the one before.
        recurrent: of those through which it sees itself.
        readout: of the last layer.
    """

    inputs: float = 1.0
    recurrent: float = 1.0
    readout: float = 1.0

    def __call__(self, spec: DeviceSpec, seed: NDArray[np.uint32]) -> Array:
        """(..., p) for seeds (...,)."""
        for name in self.__slots__:
            checks.number(f"algo.start.{name}", getattr(self, name), low=0)
        if any(layer.kind not in ("dense", "spiking", "integrator") for layer in spec.layers) or not spec.layers:
            raise ConfigError(
                f"algo/start=layer_gains knows dense, spiking and integrator layers; {spec.name!r} has "
                f"{', '.join(layer.kind for layer in spec.layers) or 'none it names'}. Use algo/start=uniform."
            )
        widths = []
        for number, layer in enumerate(spec.layers, 1):
            n, m = math.prod(layer.inputs), math.prod(layer.outputs)
            gain = self.readout if number == len(spec.layers) else self.inputs
            rows = [gain * math.sqrt(6 / (n + m))] * n + [self.recurrent * math.sqrt(3 / m)] * (layer.size // m - 1 - n)
            widths.append(np.repeat([*rows, 0.0], m))
        theta = np.concatenate(widths) * (2 * draws.uniform(draws.derive(seed, "start"), 0, spec.size) - 1)
        if not (spec.low <= theta.min() and theta.max() <= spec.high):
            raise ConfigError(
                f"algo/start=layer_gains reaches {abs(theta).max():g}, outside the range of {spec.name!r}, "
                f"{spec.low:g} to {spec.high:g}. Lower its gains."
            )
        return theta
