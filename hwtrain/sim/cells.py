"""How a parameter is stored: what every cell promises, and the draws, trains of pulses and faults that cells share.

A cell is a process description: a frozen dataclass of constants, with pure functions. What fabrication makes of it is
`Devices`, drawn once; all that changes is `State`, which only the functions of the cell bring forth. Neither holds a
generator: a device's n-th pulse draws number n of that device, whatever happened to its neighbours and in how many
commands the pulses came. So a state can be saved and gone on with bit for bit, trains may be cut anywhere, and a chip
in a stack draws what it would draw alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from hwtrain import checks, draws
from hwtrain.core import Array, Value
from hwtrain.errors import CapabilityError, ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class Devices:
    """What fabrication has made of a cell; never changes, and is made again from the seed, so it needs no saving.

    Args:
        cycle: seeds of every draw after fabrication, (...,) uint32, one per chip.
        constants: by name, each (..., d): one value for each of the d devices of a chip.
        size: d, which is the number of parameters p, or a multiple of it where a parameter is held by several devices.
    """

    cycle: NDArray[np.uint32]
    constants: Mapping[str, Array]
    size: int

    def __getitem__(self, name: str) -> Array:
        return self.constants[name]

    def normal(self, purpose: str, counts: Array, which: Array | bool) -> NDArray[np.float64]:
        """A standard normal number for each of the devices `which`, 0 for the others, (..., d).

        Args:
            purpose: what it is for, which names it together with the count.
            counts: of each device, (..., d).
            which: (..., d) bool, or one for all.
        """
        shape = (*self.cycle.shape, self.size)
        numbers = np.zeros(shape)
        chosen = np.flatnonzero(np.broadcast_to(which, shape))
        seed = np.broadcast_to(draws.derive(self.cycle, purpose)[..., None], shape).ravel()[chosen]
        counts = np.broadcast_to(counts, shape).ravel()[chosen]
        numbers.reshape(-1)[chosen] = ndtri(uniform_at(seed, counts, chosen % self.size))
        return numbers


@dataclass(frozen=True, slots=True, eq=False)
class State(Value):
    """All that changes in an array of cells, for checkpoints too.

    Args:
        value: what each device was told to hold or was pulsed to, (..., d), in the unit of the device.
        error: what the last write has left beside it, (..., d), in the same unit.
        writes: pulses, writes and resets of each device so far, (..., d) int64: its wear, and the name of its draws.
        written: when the last of them was, (..., d) [s].
        time: the clock of each chip, (...,) [s].
    """

    value: Array
    error: Array
    writes: NDArray[np.int64]
    written: Array
    time: Array


class Cell(Protocol):
    """A process that stores parameters, p of them on each chip.

    The life of an array, every line a pure function:

        devices = cell.fabricate(seed, size)             # once: draws what differs from device to device
        state = cell.fresh(devices)                      # as it leaves the fab, at time 0
        state = cell.pulse(devices, state, counts)       # a cell that is `pulsed`: moves by programming pulses
        state = cell.write(devices, state, target)       # one that is not: is told what to hold, and lands near it
        state = cell.age(devices, state, seconds)        # the one thing that moves the clock
        theta = cell.held(devices, state)                # what it holds now; no reading can know it exactly
        theta = cell.read(devices, state, numbers)       # what readings of that number bring back

    Programming a pulsed cell to a target needs nothing else. Open loop, from what one believes that it holds:

        counts = np.rint((target - believed) / cell.step)

    Threshold, from wishes that add up on the host, one pulse at most; and mixed precision, as many as are due:

        wish = wish + change
        counts = np.sign(wish) * (np.abs(wish) >= threshold)
        counts = np.trunc(wish / cell.step)              # what is left over stays: wish - counts * cell.step

    Write-verify, the same as open loop but from a fresh reading in every round, until all are near or rounds run out;
    `reach` says which targets a device can never come near. Counts of pulses are whole numbers, of any dtype.
    """

    @property
    def pulsed(self) -> bool:
        """Does it move by pulses? If not, it is written."""

    @property
    def unit(self) -> str:
        """Unit of the parameters: "" for a plain number, "S" for a conductance."""

    @property
    def low(self) -> float:
        """Nominal range of a parameter, ends included; the devices' own ranges differ, see `reach`."""

    @property
    def high(self) -> float:
        """See `low`."""

    @property
    def step(self) -> float:
        """What one pulse changes: the mean of a nominal device's steps up and down at zero, or in the middle of a range
        that has none; 0 for a cell that is written.
        """

    def fabricate(self, seed: NDArray[np.uint32], size: int) -> Devices:
        """Devices for `size` parameters on each of the chips that seeds (...,) name."""

    def fresh(self, devices: Devices) -> State:
        """Devices as they leave the fab."""

    def pulse(self, devices: Devices, state: State, counts: Array) -> State:
        """After programming pulses: counts (..., p), positive to potentiate, negative to depress, 0 to leave alone.

        Pulses take no time of their own; whoever sends them lets the clock run by `age`.

        Raises:
            CapabilityError: the cell is written, not pulsed.
        """

    def write(self, devices: Devices, state: State, target: Array, which: Array | None = None) -> State:
        """After being told to hold target (..., p).

        Args:
            which: (..., p) bool, the parameters to write; None is those that were never written or whose target is
                another than before, so that telling the same again wears nothing.

        Raises:
            CapabilityError: the cell is pulsed, not written.
        """

    def age(self, devices: Devices, state: State, seconds: float | Array) -> State:
        """After some time, one for all chips or (...,) [s]."""

    def held(self, devices: Devices, state: State) -> Array:
        """What acts as parameters at this moment, (..., p), without the noise of a reading."""

    def read(self, devices: Devices, state: State, numbers: Array) -> Array:
        """What readings bring back, (..., k, p): `held` and read noise, which the readings' numbers (k,) name."""

    def reach(self, devices: Devices) -> tuple[Array, Array]:
        """The range that each parameter can be brought to, two (..., p); of no width where a device is stuck."""


@dataclass(frozen=True, slots=True)
class Stuck:
    """Devices that never move, as shares of all of them; a device has one fault at most.

    Args:
        low: share stuck at the lower end of the device's own range (stuck off).
        high: share stuck at the upper end (stuck on).
        anywhere: share stuck at a value drawn evenly from the device's range.
        within: `anywhere` means within plus or minus this of zero (the `corrupt_devices_range` of AIHWKIT, which is
            0.1, so that its corrupt devices sit near zero and not at the ends).
    """

    low: float = 0.0
    high: float = 0.0
    anywhere: float = 0.0
    within: float = math.inf

    def __post_init__(self) -> None:
        for name in ("low", "high", "anywhere"):
            checks.number(f"cell.stuck.{name}", getattr(self, name), 0, 1, "a share of all devices")
        if not self.within > 0:
            raise ConfigError(f"cell.stuck.within must be a number above 0, or .inf for no limit, not {self.within!r}")
        if self.low + self.high + self.anywhere > 1:
            raise ConfigError(
                f"cell.stuck: shares low={self.low:g}, high={self.high:g} and anywhere={self.anywhere:g} "
                "add up to more than 1"
            )

    def draw(self, seed: NDArray[np.uint32], low: Array, high: Array) -> tuple[Array, Array]:
        """Which devices are stuck, (..., d) bool, and each of them where in its range low to high, (..., d)."""
        size = low.shape[-1]
        fault = draws.uniform(draws.derive(seed, "fault"), 0, size)
        inner_low, inner_high = np.maximum(low, -self.within), np.minimum(high, self.within)
        between = draws.uniform(draws.derive(seed, "stuck at"), 0, size)
        at = np.clip(inner_low + between * (inner_high - inner_low), low, high)
        at = np.where(fault < self.low + self.high, high, at)
        at = np.where(fault < self.low, low, at)
        return fault < self.low + self.high + self.anywhere, at


class Constants(Protocol):
    """Constants of some devices by name."""

    def __getitem__(self, name: str, /) -> Array: ...


Step = Callable[[Array, Array, Constants, Array, Array], Array]
"""What one pulse each makes of some devices: (value, up?, constants, number of the pulse, uniform draw) -> value."""


def after_pulses(devices: Devices, state: State, counts: Array, step: Step) -> State:
    """Pulse every device as often as it is due, each with the draw that its own pulse number names.

    Args:
        counts: (..., d), signed.
        step: see `Step`; it gets and gives one-dimensional arrays, of the devices that are still due.

    Returns:
        The state with `value`, `writes` and `written` brought forward; `error` is left as it was.
    """
    shape = state.value.shape
    flat = np.broadcast_to(counts, shape).ravel()
    due = np.abs(flat)
    moved = np.flatnonzero(due)
    moved = moved[np.argsort(-due[moved], kind="stable")]  # most often due first: who is still due stands in front
    due, index = due[moved], moved % devices.size
    seed = np.broadcast_to(draws.derive(devices.cycle, "pulse")[..., None], shape).ravel()[moved]
    before, up, value = state.writes.ravel()[moved], flat[moved] > 0, state.value.ravel()[moved]
    constants = _Picked(devices.constants, shape, moved)
    for number in range(int(due[0]) if due.size else 0):
        left = constants.left = int(np.searchsorted(-due, -number))
        now = before[:left] + number
        value[:left] = step(value[:left], up[:left], constants, now, uniform_at(seed[:left], now, index[:left]))
    after = state.value.copy()
    after.reshape(-1)[moved] = value
    writes = state.writes + np.abs(counts).astype(np.int64)
    return replace(
        state, value=after, writes=writes, written=np.where(counts != 0, state.time[..., None], state.written)
    )


class _Picked:
    """Constants of the devices `chosen`, gathered when first asked for; of the first `left` of them."""

    def __init__(self, constants: Mapping[str, Array], shape: tuple[int, ...], chosen: Array) -> None:
        self._all, self._shape, self._chosen, self._picked = constants, shape, chosen, dict[str, Array]()
        self.left = len(chosen)

    def __getitem__(self, name: str, /) -> Array:
        if name not in self._picked:
            self._picked[name] = np.broadcast_to(self._all[name], self._shape).ravel()[self._chosen]
        return self._picked[name][: self.left]


def uniform_at(seed: NDArray[np.uint32], counts: Array, index: Array) -> NDArray[np.float64]:
    """Uniform numbers, each at a count of its own: number `index` of `draws.uniform(seed, counts, ...)`; broadcasts."""
    stream = draws.mix32(draws.mix32(seed) ^ counts.astype(np.uint32))
    words = draws.mix32(stream + index.astype(np.uint32) * draws.GOLDEN)
    result: NDArray[np.float64] = (words.astype(np.float64) + 0.5) * 2.0**-32
    return result


def spread(seed: NDArray[np.uint32], name: str, size: int) -> NDArray[np.float64]:
    """Standard normal numbers of fabrication, one for every device, (..., d)."""
    return draws.normal(draws.derive(seed, name), 0, size)


def seeds(seed: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """A chip's seeds of fabrication and of everything after it, which never share a draw."""
    seed = np.asarray(seed, np.uint32)
    return draws.derive(seed, "fabrication"), draws.derive(seed, "cycle")


def fresh(devices: Devices, value: Array) -> State:
    """The state of devices that hold `value` (..., d) and were never written."""
    zeros = np.zeros((*devices.cycle.shape, devices.size))
    return State(zeros + value, zeros, zeros.astype(np.int64), zeros, zeros[..., 0])


def noisy(devices: Devices, numbers: Array, values: Array, deviation: float | Array) -> Array:
    """Readings of `values` (..., p) with normal noise of a deviation that broadcasts to it, (..., k, p)."""
    numbers = np.asarray(numbers)
    size = values.shape[-1]
    if not np.any(deviation):
        return np.broadcast_to(values[..., None, :], (*values.shape[:-1], len(numbers), size))
    noise = draws.normal(draws.derive(devices.cycle, "read"), numbers, size)
    deviation = np.broadcast_to(deviation, values.shape)
    readings: Array = values[..., None, :] + deviation[..., None, :] * noise
    return readings


def not_written(cell: Cell) -> CapabilityError:
    """The refusal of a cell that takes pulses."""
    return CapabilityError(f"{type(cell).__name__} moves by pulses; program it by write-verify or another such wrapper")


def not_pulsed(cell: Cell) -> CapabilityError:
    """The refusal of a cell that is written."""
    return CapabilityError(f"{type(cell).__name__} is written and takes no pulses")
