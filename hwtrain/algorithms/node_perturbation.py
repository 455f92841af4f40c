"""Node perturbation: perturb what enters the neurons instead of the parameters.

Oripov, Dienstfrey, McCaughan, Buckley, "Scaling of hardware-compatible perturbative training algorithms", APL Machine
Learning 3 (2025), doi 10.1063/5.0258271. The pre-activations of all neurons are moved at once; correlating the cost of
every sample with the code gives each neuron's error, and the outer product with the activity that entered the layer
gives the parameters' gradient. Its noise grows with the number of neurons instead of parameters; in return the device
must let its nodes be moved and report its activity.

Differs from the paper: all layers are perturbed at once and share one baseline, and the estimate is a mean (unbiased).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks
from hwtrain.core import (
    Array,
    Can,
    Command,
    DeviceSpec,
    Layer,
    Measure,
    Perturbation,
    Probes,
    Program,
    Reading,
    Sample,
    Site,
    dense_layers,
)
from hwtrain.optimize import Descent, Moments, Optimizer, moved
from hwtrain.start import Glorot, Start


@dataclass(frozen=True, slots=True)
class State:
    """All that changes.

    Args:
        theta: parameters, (..., p).
        estimate: gradient estimate behind the last update, (..., p).
        moments: the optimizer's memory.
        layers: the device's dense layers.
        seed: one per replica, (...,).
        low: parameter range.
        high: parameter range.
        step: perturbed measurements so far.
        updates: updates so far.
    """

    theta: Array
    estimate: Array
    moments: Moments
    layers: tuple[Layer, ...]
    seed: NDArray[np.uint32]
    low: float
    high: float
    step: int = 0
    updates: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePerturbation:
    """Node perturbation (citation in the module docstring).

    Args:
        eta: learning rate [parameter unit squared per cost].
        perturbation: the code over all nodes [unit of the pre-activations].
        probes: perturbed measurements per update.
        optimizer: plain descent, momentum or Adam.
        start: first parameters.
    """

    eta: float
    perturbation: Perturbation
    probes: int = 1
    optimizer: Optimizer = field(default_factory=Descent)
    start: Start = field(default_factory=Glorot)

    needs: ClassVar[Can] = Can.SAMPLE_COST | Can.ACTIVITY | Can.NODE_PROBE

    def __post_init__(self) -> None:
        checks.number("algo.eta", self.eta, low=0)
        checks.whole("algo.probes", self.probes)

    def init(self, spec: DeviceSpec, seed: NDArray[np.uint32]) -> State:
        """The first state, for one seed per replica."""
        layers = dense_layers(spec, "node perturbation")
        theta = self.start(spec, seed)
        return State(theta, np.zeros_like(theta), self.optimizer.init(theta), layers, seed, spec.low, spec.high)

    def presents(self, state: State) -> range:
        """A new sample for every update."""
        index = state.step // self.probes
        return range(index, index + 1)

    def ask(self, state: State, sample: Sample) -> tuple[Command, ...]:
        """Bring the device to theta, measure cost and activity, then probe the nodes."""
        clean = Measure(sample, observe=Can.SAMPLE_COST | Can.ACTIVITY)
        return Program(state.theta), clean, Measure(sample, self._probes(state), observe=Can.SAMPLE_COST)

    def tell(self, state: State, sample: Sample, readings: Sequence[Reading]) -> tuple[State, Mapping[str, Array]]:
        """Each neuron's error is its perturbation times the sample's modulation; the outer product does the rest."""
        clean, probed = readings
        assert clean.sample_cost is not None and clean.activity is not None and probed.sample_cost is not None
        nodes = sum(math.prod(layer.outputs) for layer in state.layers)
        delta = self._probes(state).dense(nodes)  # (..., k, nodes)
        modulation = probed.sample_cost - clean.sample_cost  # (..., k, b)
        modulation = np.where(np.isfinite(modulation), modulation, 0.0)
        batch = modulation.shape[-1]
        scale = self.probes * self.perturbation.mean_square(nodes) * batch
        error = np.matmul(modulation.swapaxes(-1, -2), delta) / scale  # (..., b, nodes)

        inputs = [sample.x, *(activity[..., 0, :, :, :] for activity in clean.activity[:-1])]
        parts, first = [], 0
        for layer, x in zip(state.layers, inputs, strict=True):
            width = math.prod(layer.outputs)
            own = error[..., first : first + width]
            first += width
            matrix = np.matmul(x.mean(axis=-3).swapaxes(-1, -2), own)
            bias = own.sum(axis=-2)
            parts += [matrix.reshape(*own.shape[:-2], -1), bias if layer.bias == "add" else -bias]
        gradient = np.concatenate(parts, axis=-1)

        change, moments = self.optimizer.step(gradient, state.moments, self.eta, state.updates)
        theta = moved(state.theta, change, state.low, state.high)
        state = replace(
            state,
            theta=theta,
            estimate=gradient,
            moments=moments,
            step=state.step + self.probes,
            updates=state.updates + 1,
        )
        return state, {"cost": clean.sample_cost.mean(axis=(-2, -1))}

    def gradient(self, state: State) -> Array | None:
        """The estimate behind the last update."""
        return state.estimate if state.updates else None

    def _probes(self, state: State) -> Probes:
        return Probes(self.perturbation, state.seed, state.step, self.probes, site=Site.NODES)
