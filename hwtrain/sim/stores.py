"""Where simulated devices keep their parameters: as values with errors, or in cells.

A store belongs to chips, named by their seeds (...,). What it hands out acts as parameters, (..., k, p): one set for
every probe of a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hwtrain import draws
from hwtrain.core import Array, Can
from hwtrain.sim.cells import Cell, State
from hwtrain.sim.composite import refreshed
from hwtrain.sim.pulsed import Pulsed


class Store(Protocol):
    """What keeps the parameters of some chips."""

    can: Can  # of what it offers: PULSE, READ
    low: float
    high: float
    unit: str
    step: float
    ages: bool  # do parameters change as time goes by?

    @property
    def held(self) -> Array | None:
        """What limits are judged by: the parameters as they were programmed, (..., p); None where nobody knows."""

    def program(self, theta: Array) -> None:
        """Take values, (..., p)."""

    def acting(self, probe: Array | None, vectors: int = 1) -> Array:
        """What acts in a measurement under probes (..., k, p), or without, k = 1; so many vectors are presented."""

    def through(self, gradient: Array) -> Array:
        """The derivative with respect to what was programmed, from that with respect to what acts, (..., k, p)."""

    def pass_time(self, seconds: float) -> None:
        """Let time go by [s]."""

    def counts(self) -> dict[str, int]:
        """What became of the parameters, by name, for the record of a run."""

    def snapshot(self) -> dict[str, Array]:
        """All that changes."""

    def restore(self, snapshot: Mapping[str, Array]) -> None:
        """The inverse of `snapshot`."""


class Values:
    """Values that act as gain * (value + probe) + error, and some that are stuck.

    Args:
        chip: seeds, (...,).
        size: parameters, p.
        low: lowest value.
        high: highest value.
        bits: resolution over the range; None is exact.
        variation: spread of the gain of every parameter around 1.
        stuck: share of parameters that never move, each held at a random value of the range (of -0.5 to 0.5 when the
            range is open).
        incremental: do errors of writing add up?
        update_noise: standard deviation of the error of a write, independent for every parameter that is written.
        drift: random walk of every parameter [unit per root second].
    """

    can, unit, step = Can(0), "", 0.0

    def __init__(
        self,
        chip: NDArray[np.uint32],
        size: int,
        low: float,
        high: float,
        bits: int | None,
        variation: float,
        stuck: float,
        incremental: bool,
        update_noise: float,
        drift: float,
    ) -> None:
        self.low, self.high, self.ages = low, high, drift > 0
        self._size, self._bits = size, bits
        self._incremental, self._update_noise, self._drift = incremental, update_noise, drift
        self._cycle = draws.derive(chip, "cycle")
        fabrication = draws.derive(chip, "fabrication")
        self._gain = self._make_gain(fabrication, variation)
        self._stuck, self._stuck_at = self._make_stuck(fabrication, stuck)
        self._target = np.zeros((*chip.shape, size))
        self._error = np.zeros_like(self._target)
        self._writes = np.zeros(chip.shape, dtype=np.uint32)
        self._walks = 0

    @property
    def held(self) -> Array:
        return self._target

    def program(self, theta: Array) -> None:
        if theta is self._target:
            return
        target = rounded(np.asarray(theta, dtype=np.float64), self._bits, self.low, self.high)
        if self._update_noise or self._drift:
            self._error = np.where(target != self._target, self._landing(target), self._error)
        self._target = target

    def acting(self, probe: Array | None, vectors: int = 1) -> Array:
        theta = self._target[..., None, :]
        if probe is not None:
            theta = theta + probe
        if self._gain is not None:
            theta = self._gain[..., None, :] * theta
        if self._update_noise or self._drift:
            theta = theta + self._error[..., None, :]
        if self._stuck is not None:
            theta = np.where(self._stuck[..., None, :], self._stuck_at[..., None, :], theta)
        return theta

    def through(self, gradient: Array) -> Array:
        if self._gain is not None:
            gradient = gradient * self._gain[..., None, :]
        if self._stuck is not None:
            gradient = np.where(self._stuck[..., None, :], 0.0, gradient)
        return gradient

    def pass_time(self, seconds: float) -> None:
        if not self._drift:
            return
        walk = draws.normal(draws.derive(self._cycle, "drift"), self._walks, self._size)
        self._walks += 1
        self._error = self._error + self._drift * math.sqrt(seconds) * walk

    def counts(self) -> dict[str, int]:
        return {}

    def snapshot(self) -> dict[str, Array]:
        return {
            "target": self._target.copy(),
            "error": self._error.copy(),
            "writes": self._writes.copy(),
            "drift": np.asarray(self._walks),
        }

    def restore(self, snapshot: Mapping[str, Array]) -> None:
        self._target, self._error = snapshot["target"].copy(), snapshot["error"].copy()
        self._writes = snapshot["writes"].astype(np.uint32)
        self._walks = int(snapshot["drift"])

    def _landing(self, target: Array) -> Array:
        """What a write of every parameter would leave behind; counts a write on the chips where one moves."""
        kept = self._error if self._incremental else np.zeros_like(self._error)
        if not self._update_noise:
            return kept
        noise = draws.normal(draws.mix32(self._cycle ^ draws.mix32(self._writes)), 0, self._size)
        self._writes = self._writes + (target != self._target).any(axis=-1).astype(np.uint32)
        return kept + self._update_noise * noise

    def _make_gain(self, seed: NDArray[np.uint32], sigma: float) -> Array | None:
        if not sigma:
            return None
        return 1 + sigma * draws.normal(draws.derive(seed, "parameter gain"), 0, self._size)

    def _make_stuck(self, seed: NDArray[np.uint32], share: float) -> tuple[Array | None, Array]:
        if not share:
            return None, np.zeros(0)
        low, high = max(self.low, -0.5), min(self.high, 0.5)
        if math.isfinite(self.low) and math.isfinite(self.high):
            low, high = self.low, self.high
        chosen = draws.uniform(draws.derive(seed, "stuck"), 0, self._size) < share
        return chosen, low + (high - low) * draws.uniform(draws.derive(seed, "stuck at"), 0, self._size)


class Cells:
    """Cells that are pulsed, or written; see `hwtrain.sim.cells`. Pairs that are full are refreshed after their pulses.

    Args:
        chip: seeds, (...,).
        size: parameters, p.
        cell: how each is stored.
    """

    def __init__(self, chip: NDArray[np.uint32], size: int, cell: Cell) -> None:
        self.can = Can.READ | (Can.PULSE if cell.pulsed else Can(0))
        self.low, self.high, self.unit, self.step = cell.low, cell.high, cell.unit, cell.step
        self.ages = True
        self._cell = cell
        self._devices = cell.fabricate(chip, size)
        self._state = cell.fresh(self._devices)
        self._told = np.clip(np.zeros((*chip.shape, size)), cell.low, cell.high)
        self._read = self._refreshed = 0
        self._joules, self._read_joules = 0.0, 0.0

    @property
    def held(self) -> Array | None:
        return None if self._cell.pulsed else self._told  # where pulses lead, nobody knows

    def program(self, theta: Array) -> None:
        self._told = np.asarray(theta, np.float64)
        self._state = self._cell.write(self._devices, self._state, self._told)

    def pulse(self, counts: Array) -> None:
        """Take programming pulses, (..., p)."""
        before, self._state = self._state, self._cell.pulse(self._devices, self._state, counts)
        if isinstance(self._cell, Pulsed) and self._cell.energy is not None:
            ends = self._position(before), self._position(self._state)
            self._joules += float(self._cell.energy.of_pulses(counts, *ends).sum())
        self._state, full = refreshed(self._cell, self._devices, self._state, self._read)
        self._read += 1
        self._refreshed += full

    def read(self) -> Array:
        """The parameters as they can be read, (..., p)."""
        self._spend(1)
        return self._readings(1)[..., 0, :]

    def acting(self, probe: Array | None, vectors: int = 1) -> Array:
        count = 1 if probe is None else probe.shape[-2]
        read = self._readings(count)
        self._spend(count * vectors)
        return read if probe is None else read + probe

    def through(self, gradient: Array) -> Array:
        return gradient

    def pass_time(self, seconds: float) -> None:
        if seconds:
            self._state = self._cell.age(self._devices, self._state, seconds)

    def counts(self) -> dict[str, int]:
        writes, kind = self._state.writes, "pulses" if self._cell.pulsed else "writes"
        more = {"refreshes": self._refreshed, "energy of pulses [pJ]": round(self._joules * 1e12)}
        more["energy of readings at most [fJ]"] = round(self._read_joules * 1e15)
        counted = {f"{kind} of devices": int(writes.sum()), f"most {kind} of a device": int(writes.max())}
        return counted | {name: count for name, count in more.items() if count}

    def snapshot(self) -> dict[str, Array]:
        kept = {field.name: np.array(getattr(self._state, field.name)) for field in fields(State)}
        counts = {"readings": np.asarray(self._read), "refreshed": np.asarray(self._refreshed)}
        counts |= {"joules": np.asarray(self._joules), "read_joules": np.asarray(self._read_joules)}
        return {**kept, **counts, "told": self._told.copy()}

    def restore(self, snapshot: Mapping[str, Array]) -> None:
        self._state = State(**{field.name: snapshot[field.name].copy() for field in fields(State)})
        self._told = snapshot["told"].copy()
        self._read, self._refreshed = int(snapshot["readings"]), int(snapshot["refreshed"])
        self._joules, self._read_joules = float(snapshot["joules"]), float(snapshot["read_joules"])

    def _spend(self, readings: int) -> None:
        """Count the energy of so many readings of all cells, at the full voltage: inputs below that take less."""
        if isinstance(self._cell, Pulsed) and self._cell.energy is not None:
            self._read_joules += readings * float(self._cell.energy.of_reading(self._position(self._state)).sum())

    def _position(self, state: State) -> Array:
        """Where every device stands in its range, 0 to 1; a stuck one in the middle."""
        low, high = self._devices["low"], self._devices["high"]
        position: Array = np.divide(state.value - low, high - low, out=np.full_like(low, 0.5), where=high > low)
        return position

    def _readings(self, count: int) -> Array:
        """What `count` readings bring back, (..., count, p)."""
        numbers = np.arange(self._read, self._read + count)
        self._read += count
        return self._cell.read(self._devices, self._state, numbers)


def rounded(values: Array, bits: int | None, low: float, high: float) -> Array:
    """Values as a converter of so many bits between low and high gives them."""
    if bits is None:
        return values
    step = (high - low) / (2**bits - 1)
    result: Array = low + step * np.round((np.clip(values, low, high) - low) / step)
    return result
