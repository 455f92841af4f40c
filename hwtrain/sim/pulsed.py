"""Cells that move by programming pulses: bounds, spreads, noise, leak and wear around a law.

The model and the names of its parameters are those of AIHWKIT's pulsed devices (Rasch et al., AICAS 2021), so that its
presets can be copied over. Where its description and its arithmetic part, we say here which one is kept:

- `up_down` acts on one direction only, as in its arithmetic: a positive one shrinks steps down, a negative one steps
  up. From measured mean steps, `dw_min` is the larger, and `up_down` 1 - down/up where that is up, else up/down - 1.
- `reset_dtod` is absolute, as in its arithmetic.
- The mean step (`Pulsed.step`) is the mean of up and down, as described; there, ExpStep counts the one down twice.
- Leak and diffusion act in seconds, on the one clock: once in every `tick`, which is what a mini-batch is there.
- Write noise is drawn with a write, and not again when an array ages.
- A reset brings a device with a reference to its reset value before the reference is subtracted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from hwtrain import checks
from hwtrain.core import Array
from hwtrain.errors import ConfigError
from hwtrain.sim.cells import Constants, Devices, State, Stuck, after_pulses, fresh, noisy, not_written, seeds, spread
from hwtrain.sim.energy import Energy
from hwtrain.sim.laws import Law, SoftBounds


@dataclass(frozen=True, slots=True)
class Reference:
    """A fixed partner, which is subtracted from every reading of its device.

    Args:
        mean: what it holds on average.
        std: its spread.
        subtract_symmetry_point: does it hold the device's symmetry point beside, so that the parameter is balanced at
            zero? A reset then leads there too.
    """

    mean: float = 0.0
    std: float = 0.0
    subtract_symmetry_point: bool = False

    def __post_init__(self) -> None:
        checks.number("cell.reference.mean", self.mean)
        checks.number("cell.reference.std", self.std, low=0)
        checks.flag("cell.reference.subtract_symmetry_point", self.subtract_symmetry_point)


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """Drift of an untouched device: value - zero falls as (t / t_0)^-nu from t_0 after the last pulse on.

    Args:
        nu: mean exponent.
        nu_dtod: its spread from device to device, relative.
        t_0: time that stands still after a pulse [s].
        zero: the value at which the conductance is nil, which drift leads to.
    """

    nu: float
    nu_dtod: float = 0.0
    t_0: float = 1.0
    zero: float = 0.0

    def __post_init__(self) -> None:
        checks.number("cell.drift.nu", self.nu, low=0)
        checks.number("cell.drift.nu_dtod", self.nu_dtod, low=0)
        checks.number("cell.drift.t_0", self.t_0, low=0, why="seconds", above=True)
        checks.number("cell.drift.zero", self.zero)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulsed:
    """A device for every parameter, that moves by pulses. Every spread and noise is off unless it is given.

    Fabrication draws, with independent standard normal numbers x, once for every device (AIHWKIT PulsedDevice):

        H = |w_max (1 + w_max_dtod x)|,  L = -|w_min (1 + w_min_dtod x)|,  exchanged if L > H before
        S+ = |dw_min (1 + dw_min_dtod x + min(up_down, 0) + up_down_dtod x')|
        S- = |dw_min (1 + dw_min_dtod x - max(up_down, 0) - up_down_dtod x')|

    A pulse takes the law's step D, adds noise, and stops at the bounds.

    Args:
        law: how far a pulse moves from where.
        dw_min: step size.
        w_max: upper bound.
        w_min: lower bound.
        dw_min_dtod: spread of the step size, relative.
        dw_min_dtod_log_normal: is that spread of its logarithm instead?
        up_down: how much smaller one direction's steps are, relative; see the module.
        up_down_dtod: spread of the imbalance, in units of `dw_min`.
        w_max_dtod: spread of the upper bound, relative.
        w_min_dtod: spread of the lower bound, relative.
        dw_min_std: noise of every pulse, in units of the step.
        mult_noise: is that the step D there, or the step size S, wherever the device stands?
        dw_min_std_add: added to that step before it is multiplied with `dw_min_std` [parameter].
        dw_min_std_slope: the same, per magnitude of the value.
        write_noise_std: what the value is off after every pulse, in units of `dw_min`; pulses do not feel it.
        read_noise: noise of a reading.
        read_noise_power: that grows with the magnitude of the value to this power: 0, constant; 0.5, as phase-change
            memory is modelled; 1, relative.
        reference: what is subtracted from every device; None is nothing.
        reset: value after a reset, and where a leak leads to.
        reset_dtod: its spread from device to device, absolute.
        reset_std: its spread from reset to reset, absolute.
        lifetime: time constant of the leak, in ticks; 0 is no leak.
        lifetime_dtod: its spread, relative.
        diffusion: random walk in one tick.
        diffusion_dtod: its spread, relative.
        tick: how long a tick lasts [s].
        drift: of devices that are left alone; None is no drift.
        stuck: devices that never move; None is none.
        endurance: pulses after which half of the devices move no more; 0 is for ever.
        endurance_dtod: spread of its logarithm.
        fatigue: share of its window that a device has lost by then, evenly with pulses, from both ends.
        energy: what readings and pulses cost; None is unknown.
    """

    law: Law
    dw_min: float
    w_max: float
    w_min: float
    dw_min_dtod: float = 0.0
    dw_min_dtod_log_normal: bool = False
    up_down: float = 0.0
    up_down_dtod: float = 0.0
    w_max_dtod: float = 0.0
    w_min_dtod: float = 0.0
    dw_min_std: float = 0.0
    mult_noise: bool = True
    dw_min_std_add: float = 0.0
    dw_min_std_slope: float = 0.0
    write_noise_std: float = 0.0
    read_noise: float = 0.0
    read_noise_power: float = 0.0
    reference: Reference | None = None
    reset: float = 0.0
    reset_dtod: float = 0.0
    reset_std: float = 0.0
    lifetime: float = 0.0
    lifetime_dtod: float = 0.0
    diffusion: float = 0.0
    diffusion_dtod: float = 0.0
    tick: float = 1.0
    drift: PowerLaw | None = None
    stuck: Stuck | None = None
    endurance: float = 0.0
    endurance_dtod: float = 0.0
    fatigue: float = 0.0
    energy: Energy | None = None

    pulsed = True
    unit = ""

    def __post_init__(self) -> None:
        checks.number("cell.dw_min", self.dw_min, low=0, above=True)
        checks.number("cell.w_max", self.w_max, low=0, why="the upper bound")
        checks.number("cell.w_min", self.w_min, high=0, why="the lower bound")
        if not self.w_min < self.w_max:
            raise ConfigError(f"cell: w_min ({self.w_min:g}) must be below w_max ({self.w_max:g})")
        for name in ("up_down", "reset"):
            checks.number(f"cell.{name}", getattr(self, name))
        for name in ("dw_min_dtod_log_normal", "mult_noise"):
            checks.flag(f"cell.{name}", getattr(self, name))
        for name in (*_SPREADS, "read_noise", "read_noise_power", "lifetime", "diffusion", "endurance"):
            checks.number(f"cell.{name}", getattr(self, name), low=0)
        checks.number("cell.tick", self.tick, low=0, why="seconds", above=True)
        checks.number("cell.fatigue", self.fatigue, 0, 1, "a share of the window")
        if 0 < self.lifetime <= 1:
            raise ConfigError(f"cell.lifetime must be above 1 tick, or 0 for no leak, not {self.lifetime!r}")
        if self.drift is not None and (self.lifetime or self.diffusion):
            raise ConfigError("cell: drift acts on devices left alone, which a leak or diffusion never leaves. Set one")

    @property
    def low(self) -> float:
        return self.w_min - (self.reference.mean if self.reference else 0.0)

    @property
    def high(self) -> float:
        return self.w_max - (self.reference.mean if self.reference else 0.0)

    @property
    def step(self) -> float:
        return sum(self.steps()) / 2

    def steps(self) -> tuple[float, float]:
        """A nominal device's step up and step down where the parameter is zero."""
        made = self.nominal().fabricate(np.zeros((), np.uint32), 1).constants
        up, down = (self._step(made["reference"], np.array([up]), made) for up in (True, False))
        return float(up[0]), float(down[0])

    def nominal(self) -> Pulsed:
        """The same process without any spread, noise, fault or wear."""
        law: Any = self.law
        quiet = {field.name: 0.0 for field in fields(law) if field.name.endswith("_dtod")}
        reference = None if self.reference is None else replace(self.reference, std=0.0)
        off = dict.fromkeys((*_SPREADS, "read_noise", "diffusion", "endurance", "fatigue"), 0.0)
        return replace(self, law=replace(law, **quiet), reference=reference, stuck=None, **off)  # type: ignore[arg-type]

    def fabricate(self, seed: NDArray[np.uint32], size: int) -> Devices:
        fabrication, cycle = seeds(seed)
        x = {name: spread(fabrication, name, size) for name in ("w_max", "w_min", "dw_min", "up_down", *_RARER)}
        high, low = self.w_max * (1 + self.w_max_dtod * x["w_max"]), self.w_min * (1 + self.w_min_dtod * x["w_min"])
        high, low = np.abs(np.maximum(high, low)), 0.0 - np.abs(np.minimum(high, low))
        size_of_step = self.dw_min_dtod * x["dw_min"]
        size_of_step = np.exp(size_of_step) if self.dw_min_dtod_log_normal else 1 + size_of_step
        apart = self.up_down_dtod * x["up_down"]
        made = {
            "high": high,
            "low": low,
            "up": np.abs(self.dw_min * (size_of_step + min(self.up_down, 0.0) + apart)),
            "down": np.abs(self.dw_min * (size_of_step - max(self.up_down, 0.0) - apart)),
            "reset": self.reset + self.reset_dtod * x["reset"],
            "diffusion": np.abs(self.diffusion * (1 + self.diffusion_dtod * x["diffusion"])),
            "lifetime": self.lifetime * (1 + self.lifetime_dtod * x["lifetime"]),
            "endurance": self.endurance * np.exp(self.endurance_dtod * x["endurance"]),
            "reference": np.zeros_like(high),
        }
        made |= self.law.fabricate(fabrication, made, (self.w_min, self.w_max))
        if self.drift is not None:
            made["nu"] = self.drift.nu * (1 + self.drift.nu_dtod * spread(fabrication, "nu", size))
        if self.reference is not None:
            made["reference"] = self.reference.mean + self.reference.std * spread(fabrication, "reference", size)
            if self.reference.subtract_symmetry_point:
                balanced = self._symmetry_point(made)
                made["reference"], made["reset"] = made["reference"] + balanced, made["reset"] + balanced
        if self.stuck is not None:
            held, at = self.stuck.draw(fabrication, made["low"], made["high"])
            for name, value in (("low", at), ("high", at), ("up", 0.0), ("down", 0.0)):
                made[name] = np.where(held, value, made[name])
        return Devices(cycle, made, size)

    def symmetry_point(self, devices: Devices) -> Array:
        """Where steps up and down balance, (..., p): alternating pulses lead there, and training is drawn to it.

        At a bound where one direction is stronger everywhere.
        """
        balanced: Array = self._symmetry_point(devices.constants) - devices["reference"]
        return balanced

    def fresh(self, devices: Devices) -> State:
        return fresh(devices, np.clip(0.0, devices["low"], devices["high"]))

    def pulse(self, devices: Devices, state: State, counts: Array) -> State:
        counts = np.broadcast_to(counts, state.value.shape)
        if self.drift is not None:  # what has drifted is where the pulse finds the device
            state = replace(state, value=np.where(counts != 0, self._drifted(devices, state), state.value))
        state = after_pulses(devices, state, counts, self._pulse)
        return self._written(devices, state, counts != 0)

    def write(self, devices: Devices, state: State, target: Array, which: Array | None = None) -> State:
        raise not_written(self)

    def reset_devices(self, devices: Devices, state: State, which: Array) -> State:
        """After a reset of the devices `which`, (..., p) bool; counts as one write of each."""
        noise = self.reset_std * devices.normal("reset", state.writes, which)
        value = np.clip(devices["reset"] + noise, devices["low"], devices["high"])
        state = replace(
            state,
            value=np.where(which, value, state.value),
            writes=state.writes + which,
            written=np.where(which, state.time[..., None], state.written),
        )
        return self._written(devices, state, which)

    def age(self, devices: Devices, state: State, seconds: float | Array) -> State:
        now = np.asarray(state.time + seconds)
        value = state.value
        if self.lifetime:
            ticks = np.asarray((now - state.time) / self.tick)[..., None]
            left = 1 - 1 / np.maximum(devices["lifetime"], 1.0)
            value = devices["reset"] + (value - devices["reset"]) * left**ticks
        if self.diffusion:  # in whole ticks: a stretch of them is named by the number of its last
            first, last = np.floor(state.time / self.tick), np.floor(now / self.tick)
            walk = devices.normal("diffusion", last[..., None], True)
            value = value + devices["diffusion"] * np.sqrt(last - first)[..., None] * walk
        if value is not state.value:
            value = np.clip(value, devices["low"], devices["high"])
        return replace(state, value=value, time=now)

    def held(self, devices: Devices, state: State) -> Array:
        value = state.value if self.drift is None else self._drifted(devices, state)
        held: Array = value - devices["reference"] + state.error
        return held

    def read(self, devices: Devices, state: State, numbers: Array) -> Array:
        held = self.held(devices, state)
        return noisy(devices, numbers, held, self.read_noise * np.abs(held) ** self.read_noise_power)

    def reach(self, devices: Devices) -> tuple[Array, Array]:
        return devices["low"] - devices["reference"], devices["high"] - devices["reference"]

    def _step(self, value: Array, up: Array, constants: Constants) -> Array:
        return self.law.step(value, up, constants)

    def _pulse(self, value: Array, up: Array, constants: Constants, number: Array, draw: Array) -> Array:
        low, high = constants["low"], constants["high"]
        step = self._step(value, up, constants)
        after = value + np.where(up, step, -step)
        if self.dw_min_std:
            of = np.abs(step) if self.mult_noise else np.where(up, constants["up"], constants["down"])
            of = of + self.dw_min_std_add + self.dw_min_std_slope * np.abs(value)
            after = after + self.dw_min_std * of * ndtri(draw)
        if not self.endurance:
            return after.clip(low, high)
        worn = number / constants["endurance"]
        window = np.where(high > low, 1 - self.fatigue * worn, 1.0)
        alive: Array = np.where(worn < 1, np.clip(after, low * window, high * window), value)
        return alive

    def _written(self, devices: Devices, state: State, which: Array) -> State:
        """The state with write noise drawn anew for the devices that were written, and can be."""
        if not self.write_noise_std:
            return state
        which = which & (devices["high"] > devices["low"])
        error = self.write_noise_std * self.dw_min * devices.normal("write", state.writes, which)
        return replace(state, error=np.where(which, error, state.error))

    def _drifted(self, devices: Devices, state: State) -> Array:
        assert self.drift is not None
        rest = np.maximum((state.time[..., None] - state.written) / self.drift.t_0, 1.0)
        zero = self.drift.zero + devices["reference"]
        drifted: Array = np.clip(zero + (state.value - zero) * rest ** -devices["nu"], devices["low"], devices["high"])
        return drifted

    def _symmetry_point(self, constants: Constants) -> Array:
        """By bisection, as many halvings as a double has digits: one way for every law."""
        low, high = constants["low"], constants["high"]
        for _ in range(54):
            middle = (low + high) / 2
            rising = self._step(middle, np.full(middle.shape, True), constants) > self._step(
                middle, np.full(middle.shape, False), constants
            )
            low, high = np.where(rising, middle, low), np.where(rising, high, middle)
        balanced: Array = (low + high) / 2
        return balanced


_SPREADS = (
    *("dw_min_dtod", "up_down_dtod", "w_max_dtod", "w_min_dtod", "dw_min_std", "dw_min_std_add", "dw_min_std_slope"),
    *("write_noise_std", "reset_dtod", "reset_std", "lifetime_dtod", "diffusion_dtod", "endurance_dtod"),
)
_RARER = ("reset", "diffusion", "lifetime", "endurance")


def soft_bounds_between(
    p_max: int, alpha: float, range_min: float = -1.0, range_max: float = 1.0, **settings: Any
) -> Pulsed:
    """A cell of soft bounds from the two traces that are usually measured: up from the bottom, and back.

    Upwards the trace is range_min + B (1 - exp(-alpha n)), which arrives at `range_max` after `p_max` pulses; downwards
    its mirror image. The description of AIHWKIT's SoftBoundsPmaxDevice; its arithmetic does not arrive there.

    Args:
        p_max: pulses from the bottom to the top.
        alpha: how fast steps shrink, per pulse.
        range_min: where the trace begins.
        range_max: where it ends.
        settings: of `Pulsed`, except for the law, `dw_min`, `up_down` and the bounds.
    """
    checks.whole("cell.p_max", p_max)
    checks.number("cell.alpha", alpha, low=0, above=True)
    checks.number("cell.range_min", range_min)
    checks.number("cell.range_max", range_max, low=range_min, above=True)
    span = (range_max - range_min) / -math.expm1(-p_max * alpha)
    w_max, w_min = range_min + span, range_max - span
    up, down = w_max * -math.expm1(-alpha), -w_min * -math.expm1(-alpha)
    return Pulsed(
        law=SoftBounds(),
        dw_min=max(up, down),
        up_down=1 - down / up if up > down else up / down - 1,
        w_max=w_max,
        w_min=w_min,
        **settings,
    )
