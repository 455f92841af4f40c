"""What one programming pulse does to a device: the update laws of the analog-training literature.

A law says how large a noise-free step is at a value w, as a multiple of the device's own step sizes; `Pulsed` adds
noise and bounds. With S+ and S- a device's step up and down, and L <= 0 <= H its bounds:

    ConstantStep   S+                                   S-
    LinearStep     S+ (1 - q+ w)                        S- (1 - q- w)
    SoftBounds     S+ (1 - w/H)                         S- (1 - w/L)
    ExpStep        S+ max(0, 1 - A+ exp(g+ z))          S- max(0, 1 - A- exp(-g- z)),  z = 2 a w/(H - L) + b
    PowStep        S+ ((H - w)/(H - L))^g+              S- ((w - L)/(H - L))^g-
    PiecewiseStep  S+ v+(w)                             S- v-(w),  v given at nodes that divide L to H evenly
    CurvedStep     along an exponential curve from L to H, and another one back

All but the last are those of the IBM Analog Hardware Acceleration Kit (AIHWKIT; Rasch et al., AICAS 2021), whose names
and units the parameters keep, so that its presets can be copied over. `*_dtod` is a spread from device to device.
Mind that for the same step size, PowStep with exponent 1 moves half as far at zero as SoftBounds does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks
from hwtrain.core import Array
from hwtrain.errors import ConfigError
from hwtrain.sim.cells import Constants, spread


class Law(Protocol):
    """How the size of a step depends on where a device stands; a frozen dataclass."""

    def fabricate(
        self, seed: NDArray[np.uint32], constants: Mapping[str, Array], bounds: tuple[float, float]
    ) -> dict[str, Array]:
        """What the law adds to the constants of the devices, or puts in their place.

        Args:
            seed: of fabrication, (...,).
            constants: "up" and "down", the step sizes, and "low" and "high", the bounds; each (..., d).
            bounds: the nominal bounds.
        """

    def step(self, value: Array, up: Array, constants: Constants) -> Array:
        """The size of one noise-free step of each device, up where `up`, else down; same shape as `value`."""


@dataclass(frozen=True, slots=True)
class ConstantStep:
    """Every pulse moves as far as every other."""

    def fabricate(
        self, seed: NDArray[np.uint32], constants: Mapping[str, Array], bounds: tuple[float, float]
    ) -> dict[str, Array]:
        return {}

    def step(self, value: Array, up: Array, constants: Constants) -> Array:
        return _either(up, constants)


@dataclass(frozen=True, slots=True)
class LinearStep:
    """Steps shrink on the way to the bound: by `gamma` of the step at zero, at the bound.

    Args:
        gamma_up: by how much steps up have shrunk at the upper bound, relative.
        gamma_down: the same for steps down at the lower bound.
        gamma_up_dtod: spread of `gamma_up`, absolute.
        gamma_down_dtod: spread of `gamma_down`, absolute.
        mean_bound_reference: do slopes refer to the nominal bounds, and not to the device's own?
        allow_increasing: may a negative gamma stand, for steps that grow? Otherwise its magnitude is taken.
        reverse_up: do steps up grow with the value? Their slope then refers to the other bound, moved outwards.
        reverse_down: the same for steps down.
        reverse_offset: by how much that bound is moved.
    """

    gamma_up: float = 0.0
    gamma_down: float = 0.0
    gamma_up_dtod: float = 0.0
    gamma_down_dtod: float = 0.0
    mean_bound_reference: bool = True
    allow_increasing: bool = False
    reverse_up: bool = False
    reverse_down: bool = False
    reverse_offset: float = 0.01

    def __post_init__(self) -> None:
        for name in ("gamma_up", "gamma_down"):
            checks.number(f"cell.law.{name}", getattr(self, name))
        for name in ("gamma_up_dtod", "gamma_down_dtod", "reverse_offset"):
            checks.number(f"cell.law.{name}", getattr(self, name), low=0)
        for name in ("mean_bound_reference", "allow_increasing", "reverse_up", "reverse_down"):
            checks.flag(f"cell.law.{name}", getattr(self, name))

    def fabricate(
        self, seed: NDArray[np.uint32], constants: Mapping[str, Array], bounds: tuple[float, float]
    ) -> dict[str, Array]:
        size = constants["up"].shape[-1]
        low, high = constants["low"], constants["high"]
        if self.mean_bound_reference:
            low, high = np.full_like(low, bounds[0]), np.full_like(high, bounds[1])
        gamma_up = self.gamma_up + self.gamma_up_dtod * spread(seed, "gamma_up", size)
        gamma_down = self.gamma_down + self.gamma_down_dtod * spread(seed, "gamma_down", size)
        if not self.allow_increasing:
            gamma_up, gamma_down = np.abs(gamma_up), np.abs(gamma_down)
        return {
            "slope_up": _over(gamma_up, low - self.reverse_offset if self.reverse_up else high),
            "slope_down": _over(gamma_down, high + self.reverse_offset if self.reverse_down else low),
        }

    def step(self, value: Array, up: Array, constants: Constants) -> Array:
        slope = np.where(up, constants["slope_up"], constants["slope_down"])
        size: Array = _either(up, constants) * (1 - slope * value)
        return size


@dataclass(frozen=True, slots=True)
class SoftBounds:
    """Steps shrink to nothing at the device's own bounds: LinearStep with gamma 1.

    Without noise, n pulses up from w lead to H - (H - w) (1 - S+/H)^n.

    Args:
        slope_up_dtod: spread of the slope of steps up, relative, which moves the upper bound at the same step size.
        slope_down_dtod: the same for steps down and the lower bound.
    """

    slope_up_dtod: float = 0.0
    slope_down_dtod: float = 0.0

    def __post_init__(self) -> None:
        for name in ("slope_up_dtod", "slope_down_dtod"):
            checks.number(f"cell.law.{name}", getattr(self, name), low=0)

    def fabricate(
        self, seed: NDArray[np.uint32], constants: Mapping[str, Array], bounds: tuple[float, float]
    ) -> dict[str, Array]:
        size = constants["up"].shape[-1]
        return {
            "high": constants["high"] / np.abs(1 + self.slope_up_dtod * spread(seed, "slope up", size)),
            "low": constants["low"] / np.abs(1 + self.slope_down_dtod * spread(seed, "slope down", size)),
        }

    def step(self, value: Array, up: Array, constants: Constants) -> Array:
        size: Array = _either(up, constants) * (1 - _over(value, np.where(up, constants["high"], constants["low"])))
        return size


@dataclass(frozen=True, slots=True)
class ExpStep:
    """Steps fall off exponentially, as fitted to ReRAM and PCM; the shape is the same for all devices.

    Args:
        A_up: see the table of the module.
        A_down: as `A_up`, for steps down.
        gamma_up: see the table.
        gamma_down: as `gamma_up`, for steps down.
        a: scale of the position z in the window of the device.
        b: its offset.
    """

    A_up: float
    A_down: float
    gamma_up: float
    gamma_down: float
    a: float
    b: float

    def __post_init__(self) -> None:
        for name in ("A_up", "A_down", "gamma_up", "gamma_down", "a", "b"):
            checks.number(f"cell.law.{name}", getattr(self, name))

    def fabricate(
        self, seed: NDArray[np.uint32], constants: Mapping[str, Array], bounds: tuple[float, float]
    ) -> dict[str, Array]:
        return {}

    def step(self, value: Array, up: Array, constants: Constants) -> Array:
        z = 2 * self.a * _over(value, constants["high"] - constants["low"]) + self.b
        fall = np.where(up, self.A_up, self.A_down) * np.exp(np.where(up, self.gamma_up, -self.gamma_down) * z)
        size: Array = _either(up, constants) * np.maximum(0.0, 1 - fall)
        return size


@dataclass(frozen=True, slots=True)
class PowStep:
    """Steps are a power of the distance to the bound (Fusi & Abbott, Nat. Neurosci. 2007).

    Args:
        pow_gamma: the exponent.
        pow_gamma_dtod: its spread, relative.
        pow_up_down: difference of the exponents up and down, relative; a positive one lowers the one down, a negative
            one the one up.
        pow_up_down_dtod: its spread, relative to `pow_gamma`; what one direction gains the other loses.
    """

    pow_gamma: float = 1.0
    pow_gamma_dtod: float = 0.0
    pow_up_down: float = 0.0
    pow_up_down_dtod: float = 0.0

    def __post_init__(self) -> None:
        checks.number("cell.law.pow_gamma", self.pow_gamma, low=0)
        checks.number("cell.law.pow_up_down", self.pow_up_down)
        for name in ("pow_gamma_dtod", "pow_up_down_dtod"):
            checks.number(f"cell.law.{name}", getattr(self, name), low=0)

    def fabricate(
        self, seed: NDArray[np.uint32], constants: Mapping[str, Array], bounds: tuple[float, float]
    ) -> dict[str, Array]:
        size = constants["up"].shape[-1]
        common = 1 + self.pow_gamma_dtod * spread(seed, "pow_gamma", size)
        apart = self.pow_up_down_dtod * spread(seed, "pow_up_down", size)
        return {
            "power_up": np.abs(self.pow_gamma * (common + min(self.pow_up_down, 0.0) + apart)),
            "power_down": np.abs(self.pow_gamma * (common - max(self.pow_up_down, 0.0) - apart)),
        }

    def step(self, value: Array, up: Array, constants: Constants) -> Array:
        low, high = constants["low"], constants["high"]
        distance = np.maximum(0.0, _over(np.where(up, high - value, value - low), high - low))
        size: Array = _either(up, constants) * distance ** np.where(up, constants["power_up"], constants["power_down"])
        return size


@dataclass(frozen=True, slots=True)
class PiecewiseStep:
    """Steps are given at nodes, and interpolated in between.

    Args:
        piecewise_up: steps up in units of the device's own, at nodes that divide its range evenly, ends included; one
            node is a constant step.
        piecewise_down: the same for steps down, as many.
    """

    piecewise_up: Sequence[float]
    piecewise_down: Sequence[float]

    def __post_init__(self) -> None:
        for name in ("piecewise_up", "piecewise_down"):
            for node in getattr(self, name):
                checks.number(f"cell.law.{name}", node)
        up, down = len(self.piecewise_up), len(self.piecewise_down)
        if up != down or not up:
            raise ConfigError(
                f"cell.law: piecewise_up has {up} nodes, piecewise_down {down}; give both the same number"
            )

    def fabricate(
        self, seed: NDArray[np.uint32], constants: Mapping[str, Array], bounds: tuple[float, float]
    ) -> dict[str, Array]:
        return {}

    def step(self, value: Array, up: Array, constants: Constants) -> Array:
        nodes = np.array([self.piecewise_down, self.piecewise_up], dtype=np.float64)
        last, row = nodes.shape[1] - 1, up.astype(np.intp)
        place = np.maximum(0.0, last * _over(value - constants["low"], constants["high"] - constants["low"]))
        left = np.minimum(place.astype(np.intp), max(last - 1, 0))
        part = np.minimum(place - left, 1.0)
        factor = (1 - part) * nodes[row, left] + part * nodes[row, np.minimum(left + 1, last)]
        size: Array = _either(up, constants) * factor
        return size


@dataclass(frozen=True, slots=True)
class CurvedStep:
    """Each direction follows an exponential curve over a number of pulses, from one bound to the other.

    The model of NeuroSim (Chen, Peng & Yu, IEEE TCAD 37, 3067, 2018): with P pulses for the whole window and curvature
    A in pulses, L + B (1 - exp(-n/A)) with B = (H - L)/(1 - exp(-P/A)); one pulse moves along the curve from where the
    present value stands on it. The step size of the cell is not used, but for additive noise.

    How far a curve bends is told by its label in NeuroSim's tables, from about -9 to 9: its largest distance from a
    straight line, in units of 0.099 of the window (which gives the published table to its last digit or two). A
    positive label bends upwards, so that steps are large at the lower bound.

    Args:
        pulses_up: P of the way up.
        pulses_down: P of the way down.
        label_up: label of the way up; 0 is a straight line.
        label_down: label of the way down; a negative one makes steps large at the upper bound.
        label_dtod: spread of both labels from device to device.
    """

    pulses_up: int
    pulses_down: int
    label_up: float
    label_down: float
    label_dtod: float = 0.0

    def __post_init__(self) -> None:
        checks.whole("cell.law.pulses_up", self.pulses_up)
        checks.whole("cell.law.pulses_down", self.pulses_down)
        checks.number("cell.law.label_up", self.label_up, -9, 9)
        checks.number("cell.law.label_down", self.label_down, -9, 9)
        checks.number("cell.law.label_dtod", self.label_dtod, low=0)

    def fabricate(
        self, seed: NDArray[np.uint32], constants: Mapping[str, Array], bounds: tuple[float, float]
    ) -> dict[str, Array]:
        size = constants["up"].shape[-1]
        label_up = self.label_up + self.label_dtod * spread(seed, "label up", size)
        label_down = self.label_down + self.label_dtod * spread(seed, "label down", size)
        return {
            "rate_up": curvature(label_up) / self.pulses_up,
            "rate_down": curvature(label_down) / self.pulses_down,
        }

    def step(self, value: Array, up: Array, constants: Constants) -> Array:
        rate = np.where(up, constants["rate_up"], constants["rate_down"])
        pulses = np.where(up, self.pulses_up, self.pulses_down)
        window = constants["high"] - constants["low"]
        bent = np.where(rate == 0, 1.0, -np.expm1(-rate * pulses))
        left = window / bent - (value - constants["low"])  # what is still ahead of the asymptote
        size = left * np.where(up, -np.expm1(-rate), np.expm1(rate))
        stuck = _either(up, constants) == 0
        return np.where(stuck, 0.0, np.where(rate == 0, window / pulses, size))


def curvature(label: Array | float) -> Array:
    """Curvature P/A that NeuroSim's label of a non-linearity stands for, with its sign; same shape."""
    bends = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, 4001)])
    with np.errstate(invalid="ignore"):
        whole = -np.expm1(-bends) / bends  # A (1 - exp(-1/A)): where the slope of the curve is that of the line
        farthest = (1 - whole) / -np.expm1(-bends) + np.log(whole) / bends
    farthest[0] = 0.0
    result: Array = np.sign(label) * np.interp(np.abs(label) * 0.099, farthest, bends)
    return result


def _either(up: Array, constants: Constants) -> Array:
    """The device's own step size, in the direction of the pulse."""
    return np.where(up, constants["up"], constants["down"])


def _over(values: Array, bounds: Array) -> Array:
    """The quotient, and 0 where a bound is 0: a device without room on that side, or stuck."""
    result: Array = np.divide(
        values, bounds, out=np.zeros(np.broadcast_shapes(values.shape, bounds.shape)), where=bounds != 0
    )
    return result
