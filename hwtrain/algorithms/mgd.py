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
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks
from hwtrain.core import Array, Can, Command, DeviceSpec, Measure, Perturbation, Probes, Program, Reading, Sample
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

    needs: ClassVar[Can] = Can.COST | Can.PROBE

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
        period = self.tau_p * (2 if self.baseline == "antithetic" else 1)
        if self.tau_theta is not None and self.tau_theta % period:
            raise ConfigError(
                f"algo.tau_theta ({self.tau_theta}) must be a multiple of {period}: tau_p ({self.tau_p})"
                + (" times the two signs of baseline=antithetic" if self.baseline == "antithetic" else "")
            )

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
        theta = np.clip(self.start(spec, seed), low, high)
        zero = np.zeros_like(theta)
        window = self.tau_p * self.code.block(spec.size) if self.tau_theta is None else self.tau_theta
        baseline = np.zeros(theta.shape[:-1])
        return State(theta, zero, zero, baseline, self.optimizer.init(theta), seed, low, high, window)

    def presents(self, state: State) -> int:
        """A sample is held for tau_x ticks."""
        return state.step // self._tau_x(state)

    def ask(self, state: State, sample: Sample) -> tuple[Command, ...]:
        """Bring the device to theta, measure the baseline if it is stale, and probe."""
        probing = Measure(sample, self._probes(state))
        if self._measures_baseline(state):
            return Program(state.theta), Measure(sample), probing
        return Program(state.theta), probing

    def tell(self, state: State, sample: Sample, readings: Sequence[Reading]) -> tuple[State, Mapping[str, Array]]:
        """Correlate the modulation with the perturbation; at the end of the window, update."""
        probes = self._probes(state)
        cost = readings[-1].cost
        assert cost is not None
        baseline = state.baseline
        if self._measures_baseline(state):
            assert readings[0].cost is not None
            baseline = readings[0].cost[..., 0]

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

        metrics: dict[str, Array] = {"cost": baseline if self._has_baseline else cost.mean(axis=-1)}
        if invalid.any():
            metrics["invalid"] = invalid.sum(axis=-1)
        if self.modulation_limit is not None:
            metrics["limited"] = np.broadcast_to(limited, metrics["cost"].shape)

        step = state.step + probes.count
        stale = self.baseline == "fresh" or step % self._tau_x(state) == 0
        if step % state.window:
            return replace(state, homodyne=homodyne, baseline=baseline, step=step, stale=stale), metrics

        gradient = homodyne / (state.window * self.code.mean_square(state.theta.shape[-1]))
        change, moments = self.optimizer.step(
            self._scale(state) * gradient, state.moments, self._eta(state), state.updates
        )
        theta = moved(state.theta, change, state.low, state.high)
        return replace(
            state,
            theta=theta,
            homodyne=np.zeros_like(homodyne),
            estimate=gradient,
            baseline=baseline,
            moments=moments,
            step=step,
            updates=state.updates + 1,
            stale=True,
        ), metrics

    def gradient(self, state: State) -> Array | None:
        """The estimate behind the last update."""
        return state.estimate if state.updates else None

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
        """As many probes as fit before sample or parameters change."""
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
