"""Cells that are written once and then age: phase-change memory, and filamentary ReRAM programmed by write-verify.

What iterative programming leaves behind, what time makes of it, and what a reading adds are fits to measured arrays,
and independent of each other; `Written` puts them together, and the presets say which. All conductances are in siemens,
all times in seconds from the end of programming, on the one clock. A device keeps what has happened to it: its drift
exponent is its own, its programming error stays until the next write, and only read noise is new in every reading, so
that ageing is a trajectory. Time zero is a time like any other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks
from hwtrain.core import Array
from hwtrain.errors import ConfigError
from hwtrain.sim.cells import Devices, State, Stuck, fresh, noisy, not_pulsed, seeds, spread
from hwtrain.sim.curves import Curve


@dataclass(frozen=True, slots=True, eq=False)
class Landed:
    """What programming has left behind, each (..., d) [S].

    Args:
        target: what was asked for.
        value: what came of it.
        deviation: the standard deviation that `value` was drawn with.
        g_max: the highest target.
        scale: `g_max`, over the one at which the process was measured.
    """

    target: Array
    value: Array
    deviation: Array
    g_max: float
    scale: float


class Ageing(Protocol):
    """What time makes of a conductance."""

    def aged(self, landed: Landed, seconds: Array, device: Array, event: Array) -> Array:
        """The conductance some time after programming, (..., d) [S].

        Args:
            landed: what programming has left.
            seconds: since then, (..., d).
            device: a standard normal number for each device, drawn at fabrication.
            event: another one, drawn at the device's last write.
        """


@dataclass(frozen=True, slots=True)
class Drift:
    """Structural relaxation of phase-change memory: g = g_P ((t + t_0) / t_0)^-nu.

    Args:
        mean: mean of nu over target/g_max.
        std: its spread from device to device, over the same.
        t_0: when the first reading was, after programming [s].
        scale: factor of nu; 0 is no drift.
    """

    mean: Curve
    std: Curve
    t_0: float
    scale: float = 1.0

    def __post_init__(self) -> None:
        checks.number("cell.ageing.t_0", self.t_0, low=0, why="seconds", above=True)
        checks.number("cell.ageing.scale", self.scale, low=0)

    def exponent(self, landed: Landed, device: Array) -> Array:
        """Nu of every device, (..., d)."""
        rho = landed.target / landed.g_max
        nu: Array = self.scale * np.abs(self.mean(rho) + self.std(rho) * device)
        return nu

    def aged(self, landed: Landed, seconds: Array, device: Array, event: Array) -> Array:
        aged: Array = landed.value * ((seconds + self.t_0) / self.t_0) ** -self.exponent(landed, device)
        return aged


@dataclass(frozen=True, slots=True)
class Spreading:
    """Retention known from the width of the distribction at a few times: every deviation grows in proportion.

    Between the times, the standard deviation is interpolated over ln t; outside them it stays as it is.

    Args:
        first: time for which the deviation after programming holds [s].
        seconds: later times, ascending [s].
        deviations: for each of them, the standard deviation over target/g_max [S].
    """

    first: float
    seconds: Sequence[float]
    deviations: Sequence[Curve]

    def __post_init__(self) -> None:
        checks.number("cell.ageing.first", self.first, low=0, why="seconds", above=True)
        before = self.first
        for seconds in self.seconds:
            checks.number("cell.ageing.seconds", seconds, low=before, why="ascending", above=True)
            before = seconds
        if len(self.seconds) != len(self.deviations) or not self.seconds:
            raise ConfigError(
                f"cell.ageing: {len(self.seconds)} seconds and {len(self.deviations)} deviations; give one curve a time"
            )

    def aged(self, landed: Landed, seconds: Array, device: Array, event: Array) -> Array:
        rho = landed.target / landed.g_max
        widths = np.stack([np.ones_like(rho), *(self._growth(landed, curve(rho)) for curve in self.deviations)])
        times = np.log([self.first, *self.seconds])
        place = np.interp(np.log(np.maximum(seconds, self.first)), times, np.arange(len(times)))
        left = np.minimum(place.astype(np.intp), len(times) - 2)
        below, above = (np.take_along_axis(widths, (left + more)[None], axis=0)[0] for more in (0, 1))
        aged: Array = landed.target + (landed.value - landed.target) * (below + (place - left) * (above - below))
        return aged

    @staticmethod
    def _growth(landed: Landed, deviation: Array) -> Array:
        deviation = landed.scale * deviation
        return np.divide(deviation, landed.deviation, out=np.ones_like(deviation), where=landed.deviation > 0)


@dataclass(frozen=True, slots=True)
class Relaxation:
    """Relaxation of a filament, the same at all levels: its mean falls and its width grows with ln t.

    The published width is that of the whole deviation from the target, so what programming left is part of it, and the
    rest is added: the deviation is never narrower than after programming. Nothing falls before 1 s, where ln t begins.

    Args:
        mean_rate: change of the mean per factor e in time [S].
        std_rate: change of the standard deviation per factor e [S].
        std: standard deviation at 1 s [S].
    """

    mean_rate: float
    std_rate: float
    std: float

    def __post_init__(self) -> None:
        checks.number("cell.ageing.mean_rate", self.mean_rate)
        checks.number("cell.ageing.std_rate", self.std_rate, low=0)
        checks.number("cell.ageing.std", self.std, low=0)

    def aged(self, landed: Landed, seconds: Array, device: Array, event: Array) -> Array:
        log = np.log(np.maximum(seconds, np.finfo(np.float64).tiny))
        width = np.where(seconds > 0, np.maximum(self.std_rate * log + self.std, 0.0), 0.0)
        more = np.sqrt(np.maximum(width**2 - landed.deviation**2, 0.0))
        aged: Array = landed.value + self.mean_rate * np.maximum(log, 0.0) + more * event
        return aged


class Reading(Protocol):
    """What a reading adds."""

    def deviation(self, landed: Landed, held: Array, seconds: Array) -> Array | float:
        """Standard deviation of a reading of `held`, some time after programming, (..., d) [S]."""


@dataclass(frozen=True, slots=True)
class White:
    """Noise that is the same at all levels and times.

    Args:
        std: standard deviation [S].
    """

    std: float

    def __post_init__(self) -> None:
        checks.number("cell.reading.std", self.std, low=0)

    def deviation(self, landed: Landed, held: Array, seconds: Array) -> float:
        return self.std


@dataclass(frozen=True, slots=True)
class Flicker:
    """1/f noise: it grows with the band between the age of the level and the length of a reading.

    The standard deviation is amplitude * sqrt(ln((t + t_0 + t_read) / (2 t_read))).

    Args:
        amplitude: over the conductance in units of g_max: in units of the conductance itself, over what programming
            left (relative); or in siemens, over what is held now.
        t_read: duration of a reading [s].
        t_0: age of a level when time begins [s].
        relative: which of the two?
        scale: factor of all of it; 0 is no noise.
    """

    amplitude: Curve
    t_read: float
    t_0: float = 0.0
    relative: bool = True
    scale: float = 1.0

    def __post_init__(self) -> None:
        checks.number("cell.reading.t_read", self.t_read, low=0, why="seconds", above=True)
        checks.number("cell.reading.t_0", self.t_0, low=0, why="seconds")
        checks.flag("cell.reading.relative", self.relative)
        checks.number("cell.reading.scale", self.scale, low=0)

    def deviation(self, landed: Landed, held: Array, seconds: Array) -> Array:
        decades = np.log(np.maximum((seconds + self.t_0 + self.t_read) / (2 * self.t_read), 1.0))
        if self.relative:
            size = np.abs(held) * self.amplitude(landed.value / landed.g_max)
        else:
            size = np.maximum(self.amplitude(held / landed.g_max), 0.0)
        deviation: Array = self.scale * size * np.sqrt(decades)
        return deviation


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A device for every parameter, that is told a conductance and lands near it.

    Args:
        g_max: highest target [S].
        g_min: lowest target, and what a fresh device holds [S].
        programming: standard deviation of what is landed on, over target/g_max [S].
        g_reference: the g_max for which `programming` holds, if not `g_max`; deviations grow in proportion to it [S].
        programming_scale: factor of that deviation; 0 is exact.
        ageing: what time does; None is nothing.
        reading: what a reading adds; None is nothing.
        limits: the lowest and highest conductance that there can be [S].
        stuck: devices that never move; None is none.
    """

    g_max: float
    programming: Curve
    g_min: float = 0.0
    g_reference: float | None = None
    programming_scale: float = 1.0
    ageing: Ageing | None = None
    reading: Reading | None = None
    limits: Sequence[float] = (0.0, math.inf)
    stuck: Stuck | None = None

    pulsed = False
    unit = "S"
    step = 0.0

    def __post_init__(self) -> None:
        checks.number("cell.g_min", self.g_min, low=0)
        checks.number("cell.g_max", self.g_max, low=self.g_min, why="siemens, above g_min", above=True)
        checks.number("cell.g_reference", self.g_reference, low=0, above=True, none="g_max")
        checks.number("cell.programming_scale", self.programming_scale, low=0)
        if len(self.limits) != 2 or not self.limits[0] <= self.g_min < self.g_max <= self.limits[1]:
            raise ConfigError(
                f"cell.limits must be two numbers around g_min ({self.g_min:g}) and g_max ({self.g_max:g}), "
                f"not {list(self.limits)}"
            )

    @property
    def low(self) -> float:
        return self.g_min

    @property
    def high(self) -> float:
        return self.g_max

    def fabricate(self, seed: NDArray[np.uint32], size: int) -> Devices:
        fabrication, cycle = seeds(seed)
        own = spread(fabrication, "ageing", size)
        low, high = np.full_like(own, self.g_min), np.full_like(own, self.g_max)
        if self.stuck is not None:
            held, at = self.stuck.draw(fabrication, low, high)
            low, high = np.where(held, at, low), np.where(held, at, high)
        return Devices(cycle, {"ageing": own, "low": low, "high": high}, size)

    def fresh(self, devices: Devices) -> State:
        return fresh(devices, devices["low"])

    def pulse(self, devices: Devices, state: State, counts: Array) -> State:
        raise not_pulsed(self)

    def write(self, devices: Devices, state: State, target: Array, which: Array | None = None) -> State:
        moves = devices["high"] > devices["low"]
        target = np.where(moves, target, devices["low"])
        which = (target != state.value) | (state.writes == 0) if which is None else which
        error = self._deviation(target) * devices.normal("programming", state.writes, which)
        error = np.where(moves, self._limited(target + error) - target, 0.0)
        return replace(
            state,
            value=np.where(which, target, state.value),
            error=np.where(which, error, state.error),
            writes=state.writes + which,
            written=np.where(which, state.time[..., None], state.written),
        )

    def age(self, devices: Devices, state: State, seconds: float | Array) -> State:
        return replace(state, time=np.asarray(state.time + seconds))

    def held(self, devices: Devices, state: State) -> Array:
        landed = self._landed(state)
        if self.ageing is None:
            return landed.value
        event = devices.normal("relaxation", state.writes, state.writes > 0)
        aged = self.ageing.aged(landed, state.time[..., None] - state.written, devices["ageing"], event)
        moves = (devices["high"] > devices["low"]) & (state.writes > 0)  # nothing relaxes that was never programmed
        return np.where(moves, self._limited(aged), landed.value)

    def read(self, devices: Devices, state: State, numbers: Array) -> Array:
        held = self.held(devices, state)
        if self.reading is None:
            return noisy(devices, numbers, held, 0.0)
        seconds = state.time[..., None] - state.written
        deviation = self.reading.deviation(self._landed(state), held, seconds)
        return self._limited(noisy(devices, numbers, held, deviation))

    def reach(self, devices: Devices) -> tuple[Array, Array]:
        return devices["low"], devices["high"]

    @property
    def _scale(self) -> float:
        return self.programming_scale * self.g_max / (self.g_reference or self.g_max)

    def _limited(self, conductance: Array) -> Array:
        limited: Array = np.clip(conductance, self.limits[0], self.limits[1])
        return limited

    def _deviation(self, target: Array) -> Array:
        deviation: Array = self._scale * self.programming(target / self.g_max)
        return deviation

    def _landed(self, state: State) -> Landed:
        return Landed(state.value, state.value + state.error, self._deviation(state.value), self.g_max, self._scale)


def drift_compensation(before: Array, now: Array) -> Array:
    """The factor that undoes the mean drift of an array: outputs are multiplied with it (AIHWKIT's global scheme).

    Args:
        before: reading of the whole array right after programming, (..., p).
        now: another reading of the same, (..., p).

    Returns:
        Ratio of the mean magnitudes, (...,).
    """
    left = np.abs(now).mean(axis=-1) / np.abs(before).mean(axis=-1)
    factor: Array = 1 / np.maximum(left, 1e-4)
    return factor
