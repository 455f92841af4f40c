"""Matrices in cells, biases beside them as numbers: what an array of memory and its digital neurons hold.

The host keeps what is wished for. How wishes reach the cells:

                      cells that are written                          cells that are pulsed
    open_loop         every wish that moved is written                as many pulses as lead to it, to the nearest
    threshold         to a grid of steps, where a wish is at least    one pulse at most, where at least half a step is
                      a step away from what was written last          missing
    mixed_precision   the same, but the steps are added to what is    whole pulses only
                      held by now

In the last two what makes no step stays on the host and adds up until it does (Nandakumar et al., Frontiers in
Neuroscience 14, 406 (2020)); a cell whose wish did not move is not written. Pairs that only go up are refreshed when
they are full, after the writes that filled them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks
from hwtrain.core import Array, Can, Layer
from hwtrain.sim.cells import Cell, State
from hwtrain.sim.composite import refreshed

_COUNTS = ("readings", "written", "refreshed")
BLIND = ("open_loop", "threshold", "mixed_precision")


class Arrays:
    """A store of layers whose matrices stand in cells and whose biases are exact.

    Args:
        chip: seeds, (...,).
        layers: of the network.
        cell: how each element of a matrix is stored.
        programming: "open_loop", "threshold" or "mixed_precision"; see the module.
        step: what counts as a step [parameter unit]; None is that of a pulse, and of written cells 1/32 of the range.
    """

    can = Can.READ

    def __init__(
        self,
        chip: NDArray[np.uint32],
        layers: Sequence[Layer],
        cell: Cell,
        programming: str = "mixed_precision",
        step: float | None = None,
    ) -> None:
        checks.one_of("device.programming", programming, BLIND)
        checks.number("device.step", step, low=0, above=True, none="that of a pulse, or 1/32 of the range")
        self.low, self.high, self.unit, self.step = cell.low, cell.high, cell.unit, 0.0
        self.ages = True
        self._cell, self._scheme = cell, programming
        self._step = step or cell.step or (cell.high - cell.low) / 32
        self._where = np.concatenate([_matrix(layer) for layer in layers])  # which parameters stand in cells
        count = int(self._where.sum())
        self._devices = cell.fabricate(chip, count)
        self._state = cell.fresh(self._devices)
        self._told = np.clip(np.zeros((*chip.shape, len(self._where))), cell.low, cell.high)
        self._believed = self._told[..., self._where]
        self._readings, self._written, self._refreshed = 0, 0, 0

    @property
    def held(self) -> Array:
        return self._told

    def program(self, theta: Array) -> None:
        wish, before = theta[..., self._where], self._told[..., self._where]
        self._told = np.asarray(theta, np.float64)
        missing = np.where(wish != before, wish - self._believed, 0.0) / self._step
        if self._cell.pulsed:
            self._pulse(steps_due(self._scheme, missing).astype(np.int64))
        else:
            self._write(wish, missing)

    def read(self) -> Array:
        """The parameters as they can be read, (..., p)."""
        return self._read(1)[..., 0, :]

    def acting(self, probe: Array | None, vectors: int = 1) -> Array:
        read = self._read(1 if probe is None else probe.shape[-2])
        return read if probe is None else read + probe

    def through(self, gradient: Array) -> Array:
        return gradient

    def pass_time(self, seconds: float) -> None:
        if seconds:
            self._state = self._cell.age(self._devices, self._state, seconds)

    def counts(self) -> dict[str, int]:
        """Writes or pulses of parameters, of all chips; refreshes of pairs; and how often the most worn device was
        written, pulsed or reset.
        """
        worn = int(self._state.writes.max())
        return {"writes": self._written, "refreshes": self._refreshed, "most writes of a device": worn}

    def snapshot(self) -> dict[str, Array]:
        cells = {f"cells.{field.name}": np.array(getattr(self._state, field.name)) for field in fields(State)}
        counts = {name: np.asarray(getattr(self, f"_{name}")) for name in _COUNTS}
        return {**cells, **counts, "told": self._told.copy(), "believed": self._believed.copy()}

    def restore(self, snapshot: Mapping[str, Array]) -> None:
        self._state = State(**{field.name: snapshot[f"cells.{field.name}"].copy() for field in fields(State)})
        self._told, self._believed = snapshot["told"].copy(), snapshot["believed"].copy()
        self._readings, self._written, self._refreshed = (int(snapshot[name]) for name in _COUNTS)

    def _write(self, wish: Array, missing: Array) -> None:
        steps = np.trunc(missing)
        if self._scheme == "open_loop":
            due, target = missing != 0, wish
        else:
            due, target = steps != 0, self._believed + steps * self._step
        if not due.any():
            return
        self._believed = np.where(due, target, self._believed)
        if self._scheme == "mixed_precision":
            target = self._cell.held(self._devices, self._state) + steps * self._step
        self._state = self._cell.write(self._devices, self._state, np.clip(target, self.low, self.high), due)
        self._written += int(due.sum())

    def _pulse(self, counts: NDArray[np.int64]) -> None:
        if not counts.any():
            return
        self._believed = self._believed + counts * self._step
        self._state = self._cell.pulse(self._devices, self._state, counts)
        self._written += int(np.abs(counts).sum())
        self._state, full = refreshed(self._cell, self._devices, self._state, self._readings)
        self._readings += 1
        self._refreshed += full

    def _read(self, count: int) -> Array:
        """What `count` readings bring back, (..., count, p)."""
        numbers = np.arange(self._readings, self._readings + count)
        self._readings += count
        told = self._told[..., None, :]
        theta = np.broadcast_to(told, (*told.shape[:-2], count, told.shape[-1])).copy()
        theta[..., self._where] = self._cell.read(self._devices, self._state, numbers)
        return theta


def steps_due(scheme: str, missing: Array) -> Array:
    """Pulses that a blind scheme gives, from the steps that are missing, both (..., p); see the module."""
    match scheme:
        case "open_loop":
            return np.asarray(np.rint(missing))
        case "threshold":
            return np.asarray(np.sign(missing) * (np.abs(missing) >= 0.5))
    return np.asarray(np.trunc(missing))


def _matrix(layer: Layer) -> NDArray[np.bool_]:
    """Which of the layer's parameters are no biases, (size,)."""
    return np.arange(layer.size) < layer.size - math.prod(layer.outputs)
