"""Errors by a shortcut: hidden layers learn from a fixed random projection of the output's error, or of the target.

    error    e_l = (softmax(output) - target) B_l * f'(z_l)     direct feedback alignment,
                                                                 Nokland, NeurIPS 2016, arXiv 1609.01596
    target   e_l = -target B_l * f'(z_l)                         direct random target projection,
                                                                 Frenkel et al., Frontiers in Neuroscience 15 (2021)
    none     e_l = 0                                             hidden layers frozen: the floor for both

B_l (classes, units) never changes. The last layer descends its own cross-entropy in all three. With target projection a
layer need not wait for the output, so nothing holds up its update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from hwtrain import checks, draws
from hwtrain.algorithms import local
from hwtrain.algorithms.local import State
from hwtrain.core import Array, Can, Command, DeviceSpec, Measure, Program, Reading, Sample
from hwtrain.optimize import Adam, Optimizer
from hwtrain.start import Fan, Start

FEEDBACKS = ("error", "target", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackAlignment(local.Descending):
    """Direct feedback alignment and direct random target projection (citations in the module docstring).

    Args:
        feedback: "error", "target" or "none".
        feedback_scale: half-width of the uniform distribution of B, times sqrt(1 / classes).
    """

    optimizer: Optimizer = field(default_factory=Adam)
    start: Start = field(default_factory=Fan)
    feedback: str = "error"
    feedback_scale: float = 1.0

    needs = Can.ACTIVITY | Can.OUTPUT

    def __post_init__(self) -> None:
        local.Descending.__post_init__(self)
        checks.one_of("algo.feedback", self.feedback, FEEDBACKS)
        checks.number("algo.feedback_scale", self.feedback_scale, low=0, above=True)

    def init(self, spec: DeviceSpec, seed: NDArray[np.uint32]) -> State:
        """The first state, for one seed per replica."""
        return self.begin(spec, seed, "feedback alignment")

    def presents(self, state: State) -> range:
        """A new sample for every update."""
        return range(state.step, state.step + 1)

    def ask(self, state: State, sample: Sample) -> tuple[Command, ...]:
        """Bring the device to theta and show it the sample."""
        return Program(state.theta), Measure(sample, observe=Can.ACTIVITY)

    def tell(self, state: State, sample: Sample, readings: Sequence[Reading]) -> tuple[State, Mapping[str, Array]]:
        """Project the error, or the target, to every hidden layer."""
        activity = local.activities(state, readings[0])
        seen = local.presented(state, sample.x, activity)
        target = local.wanted(sample, state.theta.dtype)
        error = softmax(activity[-1], axis=-1) - target
        fed = {"error": error, "target": -target, "none": 0 * target}[self.feedback] / target.shape[-2]
        parts = []
        for number, layer in enumerate(state.layers[:-1]):
            slope = local.SLOPES[layer.activation](activity[number])
            own = np.matmul(fed, self.projection(state, number)) * slope
            parts.append(local.gradient_of(layer, seen[number], own))
        parts.append(local.gradient_of(state.layers[-1], seen[-1], error / target.shape[-2]))
        after = state.descended(np.concatenate(parts, axis=-1), self.scale(state), self)
        cost = -np.sum(target * log_softmax(activity[-1], axis=-1), axis=-1)
        return after, {"cost": np.asarray(np.mean(cost, axis=-1, dtype=np.float64))}

    def projection(self, state: State, number: int) -> Array:
        """B of a hidden layer, (..., classes, units): a pure function of the seed."""
        *units, classes = local.widths(state.layers)
        drawn = draws.uniform(draws.derive(state.seed, f"feedback to layer {number}"), 0, classes * units[number])
        width = self.feedback_scale / np.sqrt(classes)
        matrix = (width * (2 * drawn - 1)).reshape(*drawn.shape[:-1], classes, units[number])
        projected: Array = matrix.astype(state.theta.dtype)
        return projected

    def gradient(self, state: State) -> Array | None:
        """What was descended, for the angle to the exact gradient."""
        return state.estimate if state.step else None
