"""An analog matrix-vector product: converters, wires and amplifiers around an array of cells.

The read path of AIHWKIT's tiles (Rasch et al., AICAS 2021), whose names and units the parameters keep. In this order:
the input is scaled to the range of the DACs (noise management), quantised, clipped, and noise added; the array
multiplies; wires lose voltage (IR drop), sources have an offset and a series resistance, weights are read with noise,
outputs saturate; noise is added, and the ADCs quantise and clip; the scale is undone. An output that was clipped has
its vector read again at half the input (bound management). So noise of a DAC leaves its range, and noise of an ADC is
quantised. Everything is off unless it is given.

Two differences: any clipped output makes for another reading, whatever the others do; and every reading is counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks, draws
from hwtrain.core import Array
from hwtrain.errors import ConfigError
from hwtrain.sim.cells import Devices, seeds, spread

IR_DROP_G_RATIO = 1 / (0.35 * 5e-6)  # a wire of 0.35 Ohm between devices, over a device of 5 uS


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossbar:
    """The periphery of an array.

    A resolution is one step as a share of the whole range of a converter, or, above 1, the number of steps; 0 is exact.

    Args:
        inp_bound: a DAC gives at most this.
        inp_res: its resolution.
        inp_sto_round: does it round at random, unbiased, instead of to the nearest?
        inp_noise: its noise.
        inp_asymmetry: by how much negative inputs are smaller, relative.
        out_bound: an ADC takes at most this.
        out_res: its resolution.
        out_sto_round: does it round at random?
        out_noise: its noise.
        out_noise_std: spread of that from output to output, relative.
        out_asymmetry: by how much negative outputs are smaller, relative.
        out_scale: factor of all outputs.
        w_noise: read noise of a weight.
        w_noise_type: "additive_constant", the same for every weight; or "pcm_read", with the root of its magnitude.
        ir_drop: how much of the wires' resistance counts, 0 to 1.
        ir_drop_g_ratio: conductance of one piece of wire, over that of a device at its highest.
        v_offset_std: spread of the offset of the read voltage from output to output, relative; only losses count.
        v_offset_w_min: weight at conductance nil, -1 or 0: with -1, a column of references is subtracted.
        r_series: series resistance of the read, per unit of output.
        out_nonlinearity: saturation of the outputs at `out_bound`.
        out_nonlinearity_std: its spread from output to output, relative.
        slope_calibration: share of the output range at which the slope is made up for.
        noise_management: what a vector is divided by before it is converted: "none", nothing; "abs_max", its largest
            magnitude; "max", its largest value; "constant", `nm_thres`; or "abs_max_np_sum", what keeps the sum of its
            positive or negative inputs from clipping.
        nm_thres: see `noise_management`; for "abs_max", the most to divide by, 0 is no limit.
        nm_assumed_wmax: the weight that "abs_max_np_sum" reckons with.
        bound_management: what happens when an output clips: "none"; "iterative", again at half the input until nothing
            clips; or "iterative_worst_case", once again as "abs_max_np_sum".
        max_bm_factor: the input is divided by at most this much.
        max_bm_res: and by so much that this share of one step of the DAC is left.
    """

    inp_bound: float = math.inf
    inp_res: float = 0.0
    inp_sto_round: bool = False
    inp_noise: float = 0.0
    inp_asymmetry: float = 0.0
    out_bound: float = math.inf
    out_res: float = 0.0
    out_sto_round: bool = False
    out_noise: float = 0.0
    out_noise_std: float = 0.0
    out_asymmetry: float = 0.0
    out_scale: float = 1.0
    w_noise: float = 0.0
    w_noise_type: str = "additive_constant"
    ir_drop: float = 0.0
    ir_drop_g_ratio: float = IR_DROP_G_RATIO
    v_offset_std: float = 0.0
    v_offset_w_min: float = -1.0
    r_series: float = 0.0
    out_nonlinearity: float = 0.0
    out_nonlinearity_std: float = 0.0
    slope_calibration: float = 0.0
    noise_management: str = "none"
    nm_thres: float = 0.0
    nm_assumed_wmax: float = 0.6
    bound_management: str = "none"
    max_bm_factor: float = 1000.0
    max_bm_res: float = 0.25

    def __post_init__(self) -> None:
        for name in ("inp_bound", "out_bound"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"crossbar.{name} must be above 0, or .inf for no limit, not {getattr(self, name)!r}")
        for name in ("inp_sto_round", "out_sto_round"):
            checks.flag(f"crossbar.{name}", getattr(self, name))
        for name in ("inp_asymmetry", "out_asymmetry", "out_scale"):
            checks.number(f"crossbar.{name}", getattr(self, name))
        for name in (
            *("inp_res", "inp_noise", "out_res", "out_noise", "out_noise_std", "w_noise", "v_offset_std", "r_series"),
            *("out_nonlinearity", "out_nonlinearity_std", "slope_calibration", "nm_thres", "nm_assumed_wmax"),
        ):
            checks.number(f"crossbar.{name}", getattr(self, name), low=0)
        checks.number("crossbar.ir_drop", self.ir_drop, 0, 1, "a share")
        checks.number("crossbar.ir_drop_g_ratio", self.ir_drop_g_ratio, low=0, above=True)
        checks.number("crossbar.max_bm_factor", self.max_bm_factor, low=1)
        checks.number("crossbar.max_bm_res", self.max_bm_res, low=0, above=True)
        checks.one_of("crossbar.w_noise_type", self.w_noise_type, ("additive_constant", "pcm_read"))
        checks.one_of(
            "crossbar.noise_management",
            self.noise_management,
            ("none", "abs_max", "max", "constant", "abs_max_np_sum"),
        )
        checks.one_of("crossbar.bound_management", self.bound_management, ("none", "iterative", "iterative_worst_case"))
        if self.v_offset_w_min not in (-1, 0):
            raise ConfigError(f"crossbar.v_offset_w_min must be -1 or 0, not {self.v_offset_w_min!r}")
        ranges = {"inp_bound": ("inp_res",), "out_bound": ("out_res", "out_nonlinearity", "slope_calibration")}
        for bound, keys in ranges.items():
            for key in keys:
                if getattr(self, key) and math.isinf(getattr(self, bound)):
                    raise ConfigError(f"crossbar.{key} needs a range to refer to: set crossbar.{bound}")
        if self.noise_management == "constant" and not self.nm_thres:
            raise ConfigError("crossbar.noise_management=constant needs crossbar.nm_thres, what to divide by")

    def fabricate(self, seed: NDArray[np.uint32], outputs: int) -> Devices:
        """What differs from output to output, for chips (...,)."""
        fabrication, cycle = seeds(seed)
        x = {name: spread(fabrication, name, outputs) for name in ("out_noise", "v_offset", "out_nonlinearity")}
        bent = self.out_nonlinearity / self.out_bound * (1 + self.out_nonlinearity_std * x["out_nonlinearity"])
        made = {
            "out_noise": np.abs(self.out_noise * (1 + self.out_noise_std * x["out_noise"])),
            "v_offset": np.maximum(0.0, self.v_offset_std * x["v_offset"]),
            "out_nonlinearity": np.abs(bent),
        }
        return Devices(cycle, made, outputs)

    def multiply(self, devices: Devices, w: Array, x: Array, number: int) -> tuple[Array, NDArray[np.int64]]:
        """The product x W, as the array computes it.

        Args:
            devices: of chips (...,).
            w: weights as they are held, (..., n, m); axes between those of the chips and the last two are free.
            x: inputs, (..., b, n), free likewise.
            number: of this product, which names its draws.

        Returns:
            Outputs (..., b, m), and how often each vector was read, (..., b).
        """
        scale = self._scale(x)
        y, clipped = self._once(devices, w, _over(x, scale), number, 0)
        y, reads, factor, attempt = y * scale, np.ones(y.shape[:-1], np.int64), 1.0, 0
        while self.bound_management != "none" and clipped.any():
            attempt += 1
            if self.bound_management == "iterative":
                factor *= 2
                if factor > self._most():
                    break
                again = scale * factor
            elif attempt == 1:
                again = np.maximum(scale, self._worst(x))
            else:
                break
            reads = reads + clipped
            more, still = self._once(devices, w, _over(x, again), number, attempt)
            y, clipped = np.where(clipped[..., None], more * again, y), clipped & still
        result: Array = self.out_scale * y
        return result, reads

    def _most(self) -> float:
        """The most that an input is divided by until nothing clips."""
        res = _resolution(self.inp_res)
        return min(self.max_bm_factor, self.max_bm_res / res) if res else self.max_bm_factor

    def _scale(self, x: Array) -> Array:
        """What each vector is divided by, (..., b, 1); 0 for one that is all zero."""
        largest: Array = np.abs(x).max(axis=-1, keepdims=True)
        if self.noise_management == "none":
            return np.where(largest > 0, 1.0, 0.0)
        if self.noise_management == "constant":
            return np.where(largest > 0, self.nm_thres, 0.0)
        if self.noise_management == "max":
            largest = x.max(axis=-1, keepdims=True)
            return largest.clip(min=0.0)
        if self.noise_management == "abs_max_np_sum":
            return self._worst(x)
        return largest.clip(max=self.nm_thres) if self.nm_thres else largest

    def _worst(self, x: Array) -> Array:
        sums = [np.abs(np.where(x * sign > 0, x, 0.0).sum(axis=-1, keepdims=True)) for sign in (1, -1)]
        largest = np.abs(x).max(axis=-1, keepdims=True)
        worst: Array = np.maximum(largest, self.nm_assumed_wmax * np.maximum(*sums) / self.out_bound)
        return worst

    def _once(self, devices: Devices, w: Array, x: Array, number: int, attempt: int) -> tuple[Array, Array]:
        """One reading of scaled inputs, and whether an output clipped, (..., b)."""

        def draw(what: str, like: Array, kind: str = "normal") -> Array:
            seed = draws.mix32(draws.derive(devices.cycle, what) ^ draws.mix32(attempt))
            free = like.shape[devices.cycle.ndim :]
            drawn: Array = getattr(draws, kind)(seed, number, math.prod(free)).reshape(like.shape)
            return drawn

        rounding = draw("dac rounding", x, "uniform") - 0.5 if self.inp_sto_round else None
        x = np.clip(_quantised(x, self.inp_bound, self.inp_res, rounding), -self.inp_bound, self.inp_bound)
        if self.inp_noise:
            x = x + self.inp_noise * draw("dac noise", x)
        x = np.where(x < 0, (1 - self.inp_asymmetry) * x, x)
        y = x @ w
        if self.ir_drop:
            y = y - self.ir_drop * self._lost(w, x)
        if self.v_offset_std or self.r_series:
            y = self._offset(devices["v_offset"], y, x)
        if self.w_noise:
            power = np.sqrt((x**2).sum(axis=-1, keepdims=True) if self._constant else x**2 @ np.abs(w))
            y = y + self.w_noise * power * draw("weight noise", y)
        if self.out_nonlinearity or self.r_series:
            bent = _beside(devices["out_nonlinearity"], y)
            mean = bent.mean(axis=-1, keepdims=True) + self.r_series
            made_up = (1 + mean * self.slope_calibration * self.out_bound) ** 2 if self.slope_calibration else 1.0
            y = made_up * y / (1 + np.abs(bent * y))
        y = np.where(y < 0, (1 - self.out_asymmetry) * y, y)
        if self.out_noise:
            y = y + _beside(devices["out_noise"], y) * draw("adc noise", y)
        rounding = draw("adc rounding", y, "uniform") - 0.5 if self.out_sto_round else None
        y = _quantised(y, self.out_bound, self.out_res, rounding)
        return np.clip(y, -self.out_bound, self.out_bound), (np.abs(y) > self.out_bound).any(axis=-1)

    @property
    def _constant(self) -> bool:
        return self.w_noise_type == "additive_constant"

    def _lost(self, w: Array, x: Array) -> Array:
        """What the wires of each output lose, at a drop of 1; inputs are numbered from the far end."""
        n = x.shape[-1]
        load = n / self.ir_drop_g_ratio * (np.abs(x) @ np.abs(w))
        near = 1 - (1 - np.arange(n) / n) ** 2
        lost: Array = load * (load * (0.05 * load - 0.2) + 0.5) * ((x * near) @ w)
        return lost

    def _offset(self, offset: Array, y: Array, x: Array) -> Array:
        """Outputs with an offset and a series resistance of the source, less a column of references if there is one."""
        v, r = _beside(offset, y), self.r_series
        if self.v_offset_w_min == 0:
            plain: Array = (1 - v) * y / (1 + r * np.abs(y))
            return plain
        reference = x.sum(axis=-1, keepdims=True)
        whole = y + reference
        less: Array = (1 - v) * whole / (1 + r * np.abs(whole)) - (1 + v) * reference / (1 + r * np.abs(reference))
        return less


def _resolution(res: float) -> float:
    """A step as a share of the whole range."""
    return 1 / res if res > 1 else res


def _quantised(x: Array, bound: float, res: float, rounding: Array | None) -> Array:
    if not res:
        return x
    step = 2 * bound * _resolution(res)
    quantised: Array = step * np.rint(x / step if rounding is None else x / step + rounding)
    return quantised


def _over(x: Array, scale: Array) -> Array:
    scaled: Array = np.divide(x, scale, out=np.zeros_like(x, dtype=np.float64), where=scale > 0)
    return scaled


def _beside(constants: Array, y: Array) -> Array:
    """Constants (*chips, m) with as many axes as outputs (*chips, ..., m)."""
    return constants.reshape(*constants.shape[:-1], *(1,) * (y.ndim - constants.ndim), constants.shape[-1])
