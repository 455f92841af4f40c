"""Where training starts: first parameters as a pure function of device and seed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks, draws
from hwtrain.core import Array, DeviceSpec, dense_layers
from hwtrain.errors import ConfigError


class Start(Protocol):
    """First parameters for a device: (..., p) for seeds (...,)."""

    def __call__(self, spec: DeviceSpec, seed: NDArray[np.uint32]) -> Array: ...


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every parameter uniform between `low` and `high` [the device's unit]."""

    low: float = -0.5
    high: float = 0.5

    def __post_init__(self) -> None:
        checks.number("algo.start.low", self.low)
        checks.number("algo.start.high", self.high)
        if not self.low <= self.high:
            raise ConfigError(f"start: low ({self.low}) must not exceed high ({self.high})")

    def __call__(self, spec: DeviceSpec, seed: NDArray[np.uint32]) -> Array:
        if not (spec.low <= self.low and self.high <= spec.high):
            raise ConfigError(
                f"start: {self.low:g} to {self.high:g} leaves the range of {spec.name!r}, "
                f"{spec.low:g} to {spec.high:g}. Set algo.start.low and algo.start.high."
            )
        return self.low + (self.high - self.low) * draws.uniform(draws.derive(seed, "start"), 0, spec.size)


@dataclass(frozen=True, slots=True)
class Fan:
    """Normal with standard deviation gain / sqrt(inputs) in every layer, biases zero.

    LeCun, Bottou, Orr, Müller, "Efficient BackProp" (1998).

    Args:
        gain: a factor on the width.
    """

    gain: float = 1.0

    def __call__(self, spec: DeviceSpec, seed: NDArray[np.uint32]) -> Array:
        checks.number("algo.start.gain", self.gain, low=0)
        width = np.zeros(spec.size)
        position = 0
        for layer in dense_layers(spec, "algo/start=fan"):
            inputs, outputs = layer.inputs[0], layer.outputs[0]
            width[position : position + inputs * outputs] = self.gain / math.sqrt(inputs)
            position += layer.size
        drawn = width * draws.normal(draws.derive(seed, "start"), 0, spec.size)
        return np.clip(drawn, spec.low, spec.high)


@dataclass(frozen=True, slots=True)
class Glorot:
    """Uniform within sqrt(6 / (inputs + outputs)) of each layer, biases zero (Glorot & Bengio, AISTATS 2010).

    Args:
        gain: a factor on the width.
    """

    gain: float = 1.0

    def __call__(self, spec: DeviceSpec, seed: NDArray[np.uint32]) -> Array:
        checks.number("algo.start.gain", self.gain, low=0)
        if not spec.layers:
            raise ConfigError(
                f"start=glorot must know the layers of {spec.name!r}, which names none; use algo/start=uniform"
            )
        width = np.zeros(spec.size)
        position = 0
        for layer in spec.layers:
            if layer.kind == "conv":
                area = layer.window**2
                fan_in, fan_out, biases = area * layer.inputs[-1], area * layer.outputs[-1], layer.outputs[-1]
            else:
                fan_in, fan_out = math.prod(layer.inputs), math.prod(layer.outputs)
                biases = fan_out
            if layer.size:
                width[position : position + layer.size - biases] = self.gain * math.sqrt(6 / (fan_in + fan_out))
            position += layer.size
        theta = width * (2 * draws.uniform(draws.derive(seed, "start"), 0, spec.size) - 1)
        if theta.size and not (spec.low <= theta.min() and theta.max() <= spec.high):
            raise ConfigError(
                f"start=glorot reaches {abs(theta).max():g}, outside the range of {spec.name!r}, "
                f"{spec.low:g} to {spec.high:g}. Lower algo.start.gain."
            )
        return theta
