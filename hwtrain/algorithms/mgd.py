"""Multiplexed gradient descent, discrete form.

McCaughan, Oripov, Ganesh, Nam, Dienstfrey, Buckley, "Multiplexed gradient descent: Fast online training of modern
datasets on hardware neural networks without backpropagation", APL Machine Learning 1, 026118 (2023), doi
10.1063/5.0157645.

All parameters are perturbed at once, each by its own code; the scalar cost answers; correlating the answer with each
parameter's code tells the gradients apart again (homodyne detection). Three time constants, counted in ticks of one
perturbed measurement each, select the method: finite differences, coordinate descent and SPSA are settings of this
class (conf/algo/).

Differs from the paper: the gradient estimate is a mean (unbiased for any number of probes and parameters), so that
`eta` multiplies a true gradient; `convention` brings back the two published scalings. Any code can be held, averaged
and run without a baseline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks
from hwtrain.core import (
    Array,
    Can,
    Change,
    Command,
    DeviceSpec,
    Measure,
    Perturbation,
    Probes,
    Program,
    Reading,
    Sample,
    Train,
    inside,
)
from hwtrain.errors import ConfigError
from hwtrain.optimize import Descent, Moments, Optimizer, moved
from hwtrain.perturb import Antithetic
from hwtrain.start import Start, Uniform

BASELINES = ("shared", "fresh", "antithetic", "none")
CONVENTIONS = ("mean", "mgd2023", "mgd2025")


@dataclass(frozen=True, slots=True)
class State:
    """All that changes.

    Args:
        theta: parameters, (..., p).
        homodyne: modulation times perturbation, summed since the last update, (..., p).
        estimate: gradient estimate behind the last update, (..., p).
        baseline: unperturbed cost of the sample now presented, (...,).
        moments: the optimizer's memory.
        trace: modulations since the last update, or behind it, (..., window), where the device is told of changes by
            name; else (..., 0).
        seed: one per replica, (...,).
        low: parameters are kept within these, so that a probe never leaves the device's range.
        high: see `low`.
        window: ticks between updates.
        step: ticks so far.
        updates: updates so far.
        stale: has the sample or theta changed since the baseline was measured?
    """

    theta: Array
    homodyne: Array
    estimate: Array
    baseline: Array
    moments: Moments
    trace: Array
    seed: NDArray[np.uint32]
    low: float
    high: float
    window: int
    step: int = 0
    updates: int = 0
    stale: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class MGD:
    """Multiplexed gradient descent (citation in the module docstring).

    Args:
        eta: learning rate [parameter unit squared per cost].
        perturbation: the code.
        eta_halves: updates after which the learning rate has halved: it falls as eta / (1 + updates / eta_halves), a
            gain sequence as stochastic approximation wants it; None keeps it constant, as the published runs did.
        tau_p: ticks for which one perturbation is held.
        tau_x: ticks for which one sample (or batch) is presented; None is until the next update.
        tau_theta: ticks between parameter updates; None is one whole code block.
        baseline: "shared", measured again whenever the sample or the parameters have changed; "fresh", with every
            probe; "antithetic", none, but every perturbation with both signs; "none", for codes that sum to zero.
        convention: "mean", an unbiased mean; "mgd2023", the sum over ticks divided by the squared norm, as in the code
            of the 2023 paper; "mgd2025", scaled so that its expected length is that of the gradient, as in Oripov et
            al. (2025).
        optimizer: plain descent, momentum or Adam.
        start: first parameters.
        probes: most probes asked for at once; how results are computed, not what they are (up to rounding).
        modulation_limit: modulations are cut to plus or minus this [cost], None is no limit; biased when it acts, and
            the metric `limited` counts how often.
        on_device: let the device run blocks of about `probes` ticks by itself; the trajectory stays the same.
    """

    eta: float
    perturbation: Perturbation
    eta_halves: float | None = None
    tau_p: int = 1
    tau_x: int | None = 1
    tau_theta: int | None = 1
    baseline: str = "shared"
    convention: str = "mean"
    optimizer: Optimizer = field(default_factory=Descent)
    start: Start = field(default_factory=Uniform)
    probes: int = 64
    modulation_limit: float | None = None
    on_device: bool = False

    def __post_init__(self) -> None:
        checks.number("algo.eta", self.eta, low=0)
        checks.number("algo.eta_halves", self.eta_halves, low=0, above=True, why="updates", none="a constant rate")
        checks.whole("algo.tau_p", self.tau_p, why="ticks")
        checks.whole("algo.tau_x", self.tau_x, why="ticks", none="until the next update")
        checks.whole("algo.tau_theta", self.tau_theta, why="ticks", none="a whole block of the code")
        checks.whole("algo.probes", self.probes)
        checks.one_of("algo.baseline", self.baseline, BASELINES)
        checks.one_of("algo.convention", self.convention, CONVENTIONS)
        checks.number("algo.modulation_limit", self.modulation_limit, low=0, above=True, none="no limit")
        checks.flag("algo.on_device", self.on_device)
        if self.on_device and not (isinstance(self.optimizer, Descent) and self.modulation_limit is None):
            raise ConfigError(
                "algo.on_device: a device descends by plain steps. Leave algo/optimizer=descent and "
                "algo.modulation_limit=null, or set algo.on_device=false."
            )
        period = self.tau_p * (2 if self.baseline == "antithetic" else 1)
        if self.tau_theta is not None and self.tau_theta % period:
            raise ConfigError(
                f"algo.tau_theta ({self.tau_theta}) must be a multiple of {period}: tau_p ({self.tau_p})"
                + (" times the two signs of baseline=antithetic" if self.baseline == "antithetic" else "")
            )

    @property
    def needs(self) -> Can:
        """Costs of probes, or all of it by itself."""
        return Can.TRAIN if self.on_device else Can.COST | Can.PROBE

    @property
    def code(self) -> Perturbation:
        """The perturbation as it is applied."""
        return Antithetic(self.perturbation) if self.baseline == "antithetic" else self.perturbation

    def init(self, spec: DeviceSpec, seed: NDArray[np.uint32]) -> State:
        """The first state, for one seed per replica.

        Raises:
            ConfigError: the perturbation leaves no room in the device's range.
        """
        reach = self.code.reach(spec.size)
        low, high = spec.low + reach, spec.high - reach
        if not low < high:
            raise ConfigError(
                f"algo.perturbation moves parameters by {reach:g} {spec.unit}; {spec.name!r} holds {spec.low:g} to "
                f"{spec.high:g}. Choose a smaller amplitude."
            )
        if spec.precision == "single":
            low, high = map(float, inside(low, high))
        theta = np.clip(self.start(spec, seed).astype(spec.dtype), low, high)
        zero = np.zeros_like(theta)
        window = self.tau_p * self.code.block(spec.size) if self.tau_theta is None else self.tau_theta
        by_name = spec.precision == "single" and isinstance(self.optimizer, Descent) and self.modulation_limit is None
        trace = np.zeros((*theta.shape[:-1], window if by_name else 0), spec.dtype)
        if self.on_device and not by_name:
            raise ConfigError(
                f"algo.on_device: {spec.name!r} does not hold its parameters in single precision. Set "
                "device.precision=single where there is such a setting, or algo.on_device=false."
            )
        return State(theta, zero, zero, zero[..., 0], self.optimizer.init(theta), trace, seed, low, high, window)

    def presents(self, state: State) -> range:
        """A sample is held for tau_x ticks."""
        tau_x, ticks = self._tau_x(state), self._probes(state).count
        return range(state.step // tau_x, (state.step + ticks - 1) // tau_x + 1)

    def ask(self, state: State, sample: Sample) -> tuple[Command, ...]:
        """Bring the device to theta, measure the baseline if it is stale, and probe."""
        bring = Program(state.theta, self._last_change(state))
        if self.on_device:
            return bring, self._block(state, sample)
        probing = Measure(sample, self._probes(state))
        if self._measures_baseline(state):
            return bring, Measure(sample), probing
        return bring, probing

    def tell(self, state: State, sample: Sample, readings: Sequence[Reading]) -> tuple[State, Mapping[str, Array]]:
        """Correlate the modulation with the perturbation; at the end of the window, update."""
        if self.on_device:
            return self._follow(state, self._block(state, sample), readings[0])
        probes = self._probes(state)
        cost = readings[-1].cost
        assert cost is not None
        cost = cost.astype(state.theta.dtype, copy=False)
        baseline = state.baseline
        if self._measures_baseline(state):
            assert readings[0].cost is not None
            baseline = readings[0].cost[..., 0].astype(cost.dtype, copy=False)

        delta = probes.dense(state.theta.shape[-1])
        modulation = cost - baseline[..., None]
        invalid = ~np.isfinite(modulation)
        if invalid.any():  # a measurement that failed moves nothing, and is reported
            modulation = np.where(invalid, 0.0, modulation)
        limited = 0
        if self.modulation_limit is not None:
            limited = np.sum(np.abs(modulation) > self.modulation_limit, axis=-1)
            modulation = np.clip(modulation, -self.modulation_limit, self.modulation_limit)
        homodyne = state.homodyne + np.matmul(modulation[..., None, :], delta)[..., 0, :]
        trace = state.trace
        if trace.size:
            at = state.step % state.window
            trace = np.concatenate([trace[..., :at], modulation, trace[..., at + probes.count :]], axis=-1)

        metrics: dict[str, Array] = {"cost": baseline if self._has_baseline else cost.mean(axis=-1)}
        if invalid.any():
            metrics["invalid"] = invalid.sum(axis=-1)
        if self.modulation_limit is not None:
            metrics["limited"] = np.broadcast_to(limited, metrics["cost"].shape)

        step = state.step + probes.count
        stale = self.baseline == "fresh" or step % self._tau_x(state) == 0
        if step % state.window:
            return replace(state, homodyne=homodyne, baseline=baseline, trace=trace, step=step, stale=stale), metrics

        gradient = homodyne / (state.window * self.code.mean_square(state.theta.shape[-1]))
        change, moments = self.optimizer.step(
            self._scale(state) * gradient, state.moments, self._eta(state), state.updates
        )
        theta = moved(state.theta, change, state.low, state.high).astype(state.theta.dtype, copy=False)
        if trace.size:
            theta = self._change(state, trace, step - state.window, state.updates)(state.theta)
        return replace(
            state,
            theta=theta,
            homodyne=np.zeros_like(homodyne),
            estimate=gradient,
            baseline=baseline,
            moments=moments,
            trace=trace,
            step=step,
            updates=state.updates + 1,
            stale=True,
        ), metrics

    def gradient(self, state: State) -> Array | None:
        """The estimate behind the last update."""
        return state.estimate if state.updates else None

    def _block(self, state: State, sample: Sample) -> Train:
        """The ticks that the device runs next by itself."""
        probes, presentations = self._probes(state), len(self.presents(state))
        return Train(
            sample,
            probes,
            self._tau_x(state),
            state.window,
            sample.x.shape[-2] // presentations,
            self.baseline if self._has_baseline else "none",
            self._rate(state, state.updates),
            state.low,
            state.high,
        )

    def _follow(self, state: State, block: Train, reading: Reading) -> tuple[State, Mapping[str, Array]]:
        """The state after a block, from its trace of costs."""
        baseline, modulation = reading.baseline, reading.modulation
        assert baseline is not None and modulation is not None
        theta = state.theta
        for change in block.changes(modulation):
            theta = change(theta)
        invalid = ~np.isfinite(modulation)
        trace = np.where(invalid, np.float32(0), modulation)[..., -state.window :]
        delta = replace(block.probes, first=state.step + block.probes.count - state.window, count=state.window)
        homodyne = np.matmul(trace[..., None, :], delta.dense(theta.shape[-1]))[..., 0, :]
        cost = baseline if self._has_baseline else modulation
        metrics: dict[str, Array] = {"cost": np.asarray(np.mean(cost, axis=-1, dtype=np.float64))}
        if invalid.any():
            metrics["invalid"] = invalid.sum(axis=-1)
        return replace(
            state,
            theta=theta,
            estimate=homodyne / (state.window * self.code.mean_square(theta.shape[-1])),
            baseline=baseline[..., -1],
            trace=trace,
            step=state.step + block.probes.count,
            updates=state.updates + block.probes.count // state.window,
        ), metrics

    def _last_change(self, state: State) -> Change | None:
        """How theta came about, for a device that holds what was before it."""
        if not state.trace.size or not state.updates or state.step % state.window:
            return None
        return self._change(state, state.trace, state.step - state.window, state.updates - 1)

    def _change(self, state: State, trace: Array, first: int, updates: int) -> Change:
        probes = Probes(self.code, state.seed, first, state.window, self.tau_p)
        return Change(probes, trace, self._rate(state, updates), state.low, state.high)

    def _rate(self, state: State, updates: int) -> float:
        """What a modulation is multiplied with, before the sign of the perturbation."""
        size = int(state.theta.shape[-1])
        mean = self.code.reach(size) / (state.window * self.code.mean_square(size))
        rate = self._eta(replace(state, updates=updates)) * self._scale(state) * mean
        if not math.isfinite(np.float32(rate)):
            raise ConfigError(
                f"algo.eta: {self.eta:g} makes steps too long for single precision. Choose a smaller one."
            )
        return rate

    def _tau_x(self, state: State) -> int:
        return state.window if self.tau_x is None else self.tau_x

    def _eta(self, state: State) -> float:
        return self.eta if self.eta_halves is None else self.eta / (1 + state.updates / self.eta_halves)

    @property
    def _has_baseline(self) -> bool:
        return self.baseline in ("shared", "fresh")

    def _measures_baseline(self, state: State) -> bool:
        return self._has_baseline and state.stale

    def _probes(self, state: State) -> Probes:
        """As many probes as fit before sample or parameters change; as many windows as the device may run by itself."""
        if self.on_device:
            windows = 1 if self.eta_halves is not None else max(self.probes // state.window, 1)
            return Probes(self.code, state.seed, state.step, windows * state.window, self.tau_p)
        until_update = state.window - state.step % state.window
        until_sample = self._tau_x(state) - state.step % self._tau_x(state)
        most = 1 if self.baseline == "fresh" else self.probes
        return Probes(self.code, state.seed, state.step, min(most, until_update, until_sample), self.tau_p)

    def _scale(self, state: State) -> float:
        """What turns the mean estimate into that of the chosen convention."""
        size = int(state.theta.shape[-1])
        independent = state.window // self.tau_p
        match self.convention:
            case "mgd2023":
                return state.window / size
            case "mgd2025":
                return 1 / math.sqrt((size + independent - 1) / independent)
        return 1.0
