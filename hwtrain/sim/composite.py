"""Cells made of cells: conductances that stand for weights, pairs of devices, and several devices for one parameter.

Each is a cell itself. Where a parameter takes n devices, the arrays of the inner cell hold n * p of them: device j of
all parameters, then device j + 1.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks, draws
from hwtrain.core import Array
from hwtrain.errors import ConfigError
from hwtrain.sim.cells import Cell, Devices, State, not_pulsed, not_written, uniform_at
from hwtrain.sim.pulsed import Pulsed


@dataclass(frozen=True, slots=True)
class _Around(ABC):
    """What cells around a cell share; `_each` is how many devices hold a parameter, `_combined` what they make of it.

    Args:
        cell: the device.
    """

    cell: Cell

    def fabricate(self, seed: NDArray[np.uint32], size: int) -> Devices:
        return self.cell.fabricate(seed, self._each * size)

    def fresh(self, devices: Devices) -> State:
        return self.cell.fresh(devices)

    def age(self, devices: Devices, state: State, seconds: float | Array) -> State:
        return self.cell.age(devices, state, seconds)

    def held(self, devices: Devices, state: State) -> Array:
        return self._combined(self.cell.held(devices, state))

    def read(self, devices: Devices, state: State, numbers: Array) -> Array:
        return self._combined(self.cell.read(devices, state, numbers))

    @property
    def _each(self) -> int:
        return 1

    @abstractmethod
    def _combined(self, values: Array) -> Array:
        """What the devices' values (..., d) are as parameters, (..., p)."""


@dataclass(frozen=True, slots=True)
class Scaled(_Around):
    """One device for a parameter, whose range stands for another one, most often a weight from -1 to 1.

    Args:
        cell: the device.
        low: parameter for the low end of the device's nominal range.
        high: parameter for the high end.
        unit: of parameters; "" for a plain number.
    """

    low: float = -1.0
    high: float = 1.0
    unit: str = ""

    def __post_init__(self) -> None:
        checks.number("cell.low", self.low)
        checks.number("cell.high", self.high, low=self.low, above=True)

    @property
    def pulsed(self) -> bool:
        return self.cell.pulsed

    @property
    def step(self) -> float:
        return self.cell.step * self._ratio

    def pulse(self, devices: Devices, state: State, counts: Array) -> State:
        return self.cell.pulse(devices, state, counts)

    def write(self, devices: Devices, state: State, target: Array, which: Array | None = None) -> State:
        conductance = self.cell.low + (np.asarray(target) - self.low) / self._ratio
        return self.cell.write(devices, state, conductance, which)

    def reach(self, devices: Devices) -> tuple[Array, Array]:
        low, high = self.cell.reach(devices)
        return self._combined(low), self._combined(high)

    @property
    def _ratio(self) -> float:
        return (self.high - self.low) / (self.cell.high - self.cell.low)

    def _combined(self, values: Array) -> Array:
        parameter: Array = self.low + (values - self.cell.low) * self._ratio
        return parameter


@dataclass(frozen=True, slots=True)
class Differential(_Around):
    """Pairs of written devices, one for either sign, the other one at its lowest: a weight from -1 to 1.

    With several pairs, the one of least significance is filled first and the next takes what is left over, so that most
    weights see little of the errors that a high significance amplifies.

    Args:
        cell: the device; it must be one that is written.
        significances: weight of each pair, ascending; a single one is a single pair.
    """

    significances: Sequence[float] = (1.0,)

    pulsed = False
    unit = ""
    low, high, step = -1.0, 1.0, 0.0

    def __post_init__(self) -> None:
        if self.cell.pulsed:
            raise ConfigError(f"cell.cell: {type(self.cell).__name__} moves by pulses; Differential writes its devices")
        for value in self.significances:
            checks.number("cell.significances", value, low=0, above=True)
        if not self.significances or any(b < a for a, b in itertools.pairwise(self.significances)):
            raise ConfigError(f"cell.significances must be numbers in ascending order, not {self.significances!r}")

    def pulse(self, devices: Devices, state: State, counts: Array) -> State:
        raise not_pulsed(self)

    def write(self, devices: Devices, state: State, target: Array, which: Array | None = None) -> State:
        window, parts = self.cell.high - self.cell.low, []
        left = np.abs(target) * sum(self.significances)
        for significance in self.significances:
            part = np.minimum(left, significance)
            left = left - part
            for side in (target > 0, target < 0):
                parts.append(self.cell.low + window * np.where(side, part / significance, 0.0))
        if which is not None:
            which = np.concatenate([np.broadcast_to(which, np.shape(target))] * len(parts), axis=-1)
        return self.cell.write(devices, state, np.concatenate(parts, axis=-1), which)

    def reach(self, devices: Devices) -> tuple[Array, Array]:
        low, high = (_apart(values, self._each) for values in self.cell.reach(devices))
        lowest = np.stack([low[..., ::2, :], high[..., 1::2, :]], axis=-2)
        highest = np.stack([high[..., ::2, :], low[..., 1::2, :]], axis=-2)
        return self._combined(_joined(_joined(lowest))), self._combined(_joined(_joined(highest)))

    @property
    def _each(self) -> int:
        return 2 * len(self.significances)

    def _combined(self, values: Array) -> Array:
        apart = _apart(values, self._each)
        pairs = apart[..., ::2, :] - apart[..., 1::2, :]
        share = np.asarray(self.significances) / sum(self.significances) / (self.cell.high - self.cell.low)
        weight: Array = np.einsum("...np,n->...p", pairs, share)
        return weight


@dataclass(frozen=True, slots=True)
class OneSided(_Around):
    """A pair of pulsed devices that are only ever pulsed up: one for either direction, their difference the parameter.

    For devices that go down abruptly, such as phase-change memory. Both fill up in time, which `refresh` mends.

    Args:
        cell: the device; it must move by pulses.
        refresh_upper: a pair is refreshed when the larger value is read above this share of the device's bound...
        refresh_lower: ...and the smaller one above this one.
    """

    cell: Pulsed
    refresh_upper: float = 0.75
    refresh_lower: float = 0.25

    pulsed = True
    unit = ""

    def __post_init__(self) -> None:
        if not isinstance(self.cell, Pulsed):
            raise ConfigError(f"cell.cell: OneSided pulses and resets its devices; {type(self.cell).__name__} cannot")
        checks.number("cell.refresh_upper", self.refresh_upper, 0, 1, "a share of the bound")
        checks.number("cell.refresh_lower", self.refresh_lower, 0, self.refresh_upper, "not above refresh_upper")

    @property
    def low(self) -> float:
        return -self.cell.high

    @property
    def high(self) -> float:
        return self.cell.high

    @property
    def step(self) -> float:
        """The first step up of a nominal device, whichever the direction."""
        return self.cell.steps()[0]

    def pulse(self, devices: Devices, state: State, counts: Array) -> State:
        return self.cell.pulse(devices, state, np.concatenate([np.maximum(counts, 0), np.maximum(-counts, 0)], axis=-1))

    def write(self, devices: Devices, state: State, target: Array, which: Array | None = None) -> State:
        raise not_written(self)

    def refresh(self, devices: Devices, state: State, number: int) -> tuple[State, Array]:
        """After reading all pairs, resetting those that are full, and pulsing their difference back, open loop.

        Args:
            number: of the reading.

        Returns:
            The state, and which parameters were refreshed, (..., p).
        """
        read = _apart(self.cell.read(devices, state, np.array([number]))[..., 0, :], 2)
        share = read / self.cell.high
        full = (share.max(axis=-2) > self.refresh_upper) & (share.min(axis=-2) > self.refresh_lower)
        state = self.cell.reset_devices(devices, state, np.concatenate([full, full], axis=-1))
        counts = np.rint((read[..., 0, :] - read[..., 1, :]) / self.step).astype(np.int64)
        return self.pulse(devices, state, np.where(full, counts, 0)), full

    def reach(self, devices: Devices) -> tuple[Array, Array]:
        low, high = (_apart(values, 2) for values in self.cell.reach(devices))
        return low[..., 0, :] - high[..., 1, :], high[..., 0, :] - low[..., 1, :]

    @property
    def _each(self) -> int:
        return 2

    def _combined(self, values: Array) -> Array:
        up, down = np.split(values, 2, axis=-1)
        difference: Array = up - down
        return difference


@dataclass(frozen=True, slots=True)
class Vector(_Around):
    """Several pulsed devices for a parameter, which is their weighted sum.

    Args:
        cell: the device; it must move by pulses.
        gamma_vec: weight of each device. Weights 1 and -1 of which only the first is pulsed make a reference cell.
        policy: which devices take a pulse of the parameter: "all"; "first", that one only; "in_turn", one after
            another; or "random", one of them, drawn for every command.
    """

    gamma_vec: Sequence[float]
    policy: str = "all"

    pulsed = True

    def __post_init__(self) -> None:
        if not self.cell.pulsed:
            raise ConfigError(f"cell.cell: {type(self.cell).__name__} is written; Vector pulses its devices")
        if len(self.gamma_vec) < 2:
            raise ConfigError(f"cell.gamma_vec must name at least 2 devices, not {len(self.gamma_vec)}")
        for value in self.gamma_vec:
            checks.number("cell.gamma_vec", value)
        checks.one_of("cell.policy", self.policy, ("all", "first", "in_turn", "random"))
        if self.gamma_vec[0] <= 0 or (self.policy != "first" and min(self.gamma_vec) <= 0):
            raise ConfigError(
                f"cell.gamma_vec: a device that takes pulses must have a weight above 0, not {self.gamma_vec!r}"
            )

    @property
    def unit(self) -> str:
        return self.cell.unit

    @property
    def low(self) -> float:
        return float(sum(min(weight * self.cell.low, weight * self.cell.high) for weight in self.gamma_vec))

    @property
    def high(self) -> float:
        return float(sum(max(weight * self.cell.low, weight * self.cell.high) for weight in self.gamma_vec))

    @property
    def step(self) -> float:
        moved = {"all": sum(self.gamma_vec), "first": self.gamma_vec[0]}
        return float(self.cell.step * moved.get(self.policy, sum(self.gamma_vec) / len(self.gamma_vec)))

    def pulse(self, devices: Devices, state: State, counts: Array) -> State:
        n = self._each
        device = np.arange(n)[:, None]
        done = _apart(state.writes, n).sum(axis=-2)
        counts = np.broadcast_to(counts, done.shape)
        if self.policy == "all":
            shares = np.repeat(counts[..., None, :], n, axis=-2)
        elif self.policy == "first":
            shares = counts[..., None, :] * (device == 0)
        elif self.policy == "in_turn":  # pulse number m of a parameter goes to device m modulo n
            first, last = done[..., None, :], (done + np.abs(counts))[..., None, :]
            shares = np.sign(counts)[..., None, :] * ((last - device + n - 1) // n - (first - device + n - 1) // n)
        else:
            seed = draws.derive(devices.cycle, "device")[..., None]
            chosen = np.floor(n * uniform_at(seed, done, np.arange(done.shape[-1])))
            shares = counts[..., None, :] * (device == chosen[..., None, :])
        return self.cell.pulse(devices, state, _joined(shares))

    def write(self, devices: Devices, state: State, target: Array, which: Array | None = None) -> State:
        raise not_written(self)

    def reach(self, devices: Devices) -> tuple[Array, Array]:
        low, high = (_apart(values, self._each) for values in self.cell.reach(devices))
        weights = np.asarray(self.gamma_vec)[:, None]
        return (
            np.minimum(weights * low, weights * high).sum(axis=-2),
            np.maximum(weights * low, weights * high).sum(axis=-2),
        )

    @property
    def _each(self) -> int:
        return len(self.gamma_vec)

    def _combined(self, values: Array) -> Array:
        total: Array = np.einsum("...np,n->...p", _apart(values, self._each), np.asarray(self.gamma_vec))
        return total


def refreshed(cell: Cell, devices: Devices, state: State, number: int) -> tuple[State, int]:
    """After refreshing pairs that are full, and how many were; of other cells, the state as it is.

    Args:
        cell: a pair, perhaps scaled, or another cell.
        devices: of it.
        state: before.
        number: of the reading that this takes.
    """
    while isinstance(cell, Scaled):
        cell = cell.cell
    if not isinstance(cell, OneSided):
        return state, 0
    state, full = cell.refresh(devices, state, number)
    return state, int(full.sum())


def _apart(values: Array, n: int) -> Array:
    """(..., n * p) as (..., n, p)."""
    return values.reshape(*values.shape[:-1], n, -1)


def _joined(values: Array) -> Array:
    """The inverse of `_apart`."""
    return values.reshape(*values.shape[:-2], -1)
