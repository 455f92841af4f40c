"""Multiplexed gradient descent, analog form: no clock but the codes, no explicit baseline.

McCaughan et al., APL Machine Learning 1, 026118 (2023), doi 10.1063/5.0157645, continuous variant. The cost passes a
high-pass filter, is multiplied with every parameter's perturbation, passes a low-pass filter, and drives the parameter:
what an analog circuit with two capacitors per parameter does. Here one step is one tick of length 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks
from hwtrain.core import Array, Can, Command, DeviceSpec, Measure, Perturbation, Probes, Program, Reading, Sample
from hwtrain.errors import ConfigError
from hwtrain.optimize import moved
from hwtrain.start import Start, Uniform


@dataclass(frozen=True, slots=True)
class State:
    """All that changes.

    Args:
        theta: parameters, (..., p).
        homodyne: low-passed product of modulation and perturbation over its mean square, (..., p).
        cost: cost of the tick before, (...,).
        modulation: high-passed cost, (...,).
        seed: one per replica, (...,).
        low: parameters are kept within these, so that a perturbation never leaves the device's range.
        high: see `low`.
        step: ticks so far.
        updates: ticks that moved the parameters.
    """

    theta: Array
    homodyne: Array
    cost: Array
    modulation: Array
    seed: NDArray[np.uint32]
    low: float
    high: float
    step: int = 0
    updates: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MGDAnalog:
    """Analog multiplexed gradient descent.

    The estimate is scaled by the filter: by tau_hp / (tau_hp + 1) for random codes; for a tone of f cycles per tick by
    (2 pi f tau_hp)^2 / (1 + (2 pi f tau_hp)^2), another factor for every parameter, so choose 2 pi f tau_hp above 5.

    Args:
        eta: learning rate [parameter unit squared per cost and tick].
        perturbation: the codes; sinusoids are the natural choice.
        tau_p: ticks for which one perturbation is held.
        tau_x: ticks for which one sample is presented; much longer than tau_hp.
        tau_theta: time constant of the low-pass [ticks].
        tau_hp: time constant of the high-pass [ticks].
        start: first parameters.
    """

    eta: float
    perturbation: Perturbation
    tau_p: int = 1
    tau_x: int = 1000
    tau_theta: float = 100.0
    tau_hp: float = 16.0
    start: Start = field(default_factory=Uniform)

    needs: ClassVar[Can] = Can.COST | Can.PROBE

    def __post_init__(self) -> None:
        checks.number("algo.eta", self.eta, low=0)
        checks.whole("algo.tau_p", self.tau_p, why="ticks")
        checks.whole("algo.tau_x", self.tau_x, why="ticks")
        checks.number("algo.tau_theta", self.tau_theta, low=0, above=True, why="a time constant in ticks")
        checks.number("algo.tau_hp", self.tau_hp, low=0, above=True, why="a time constant in ticks")

    def init(self, spec: DeviceSpec, seed: NDArray[np.uint32]) -> State:
        """The first state, for one seed per replica."""
        reach = self.perturbation.reach(spec.size)
        low, high = spec.low + reach, spec.high - reach
        if not low < high:
            raise ConfigError(
                f"algo.perturbation moves parameters by {reach:g} {spec.unit}; {spec.name!r} holds {spec.low:g} to "
                f"{spec.high:g}. Choose a smaller amplitude."
            )
        theta = np.clip(self.start(spec, seed), low, high)
        zero = np.zeros(theta.shape[:-1])
        return State(theta, np.zeros_like(theta), zero, zero, seed, low, high)

    def presents(self, state: State) -> range:
        """A sample is held for tau_x ticks."""
        index = state.step // self.tau_x
        return range(index, index + 1)

    def ask(self, state: State, sample: Sample) -> tuple[Command, ...]:
        """Bring the device to theta and measure under this tick's perturbation."""
        return Program(state.theta), Measure(sample, self._probe(state))

    def tell(self, state: State, sample: Sample, readings: Sequence[Reading]) -> tuple[State, Mapping[str, Array]]:
        """High-pass the cost, correlate, low-pass the product, move."""
        assert readings[0].cost is not None
        cost = readings[0].cost[..., 0]
        size = state.theta.shape[-1]
        begins = state.step % self.tau_x == 0 or ~np.isfinite(state.cost)  # the step of a new sample is no modulation
        before = np.where(begins, cost, state.cost)
        keep = self.tau_hp / (self.tau_hp + 1)
        modulation = keep * (state.modulation + cost - before)
        modulation = np.where(np.isfinite(modulation), modulation, 0.0)  # a measurement that failed moves nothing

        instant = (
            modulation[..., None] * self._probe(state).dense(size)[..., 0, :] / self.perturbation.mean_square(size)
        )
        share = 1 / (self.tau_theta + 1)
        homodyne = (1 - share) * state.homodyne + share * instant
        theta = moved(state.theta, self.eta * homodyne, state.low, state.high)
        state = replace(
            state,
            theta=theta,
            homodyne=homodyne,
            cost=cost,
            modulation=modulation,
            step=state.step + 1,
            updates=state.updates + 1,
        )
        return state, {"cost": cost}

    def gradient(self, state: State) -> Array | None:
        """The low-passed estimate."""
        return state.homodyne if state.updates else None

    def _probe(self, state: State) -> Probes:
        return Probes(self.perturbation, state.seed, state.step, 1, self.tau_p)
