"""Simulated spiking chips: neurons that remember, so that a sequence may come whole or one step at a time.

What differs from chip to chip is drawn once from the chip's seed; noise is drawn from the same seed and a count of
operations. A chip in a stack draws what it would draw alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks, draws
from hwtrain.core import Array, Can, Command, DeviceSpec, Layer, Measure, Program, Read, Reading, Sample, counted
from hwtrain.costs import Cost
from hwtrain.errors import LimitError
from hwtrain.limits import check
from hwtrain.sim.arrays import Arrays
from hwtrain.sim.cells import Cell
from hwtrain.sim.neurons import Surrogate
from hwtrain.sim.spiking import Cells, Memory, Pass, SpikingNetwork
from hwtrain.sim.stores import Store, Values


class Layered(Protocol):
    """Anything that knows its layers."""

    @property
    def layers(self) -> tuple[Layer, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """How neurons of a chip differ, one standard deviation each.

    Args:
        threshold: relative to the nominal one.
        decay: of the time constant, relative to the nominal one; the decay of neuron i is decay^(1 / (1 + spread)).
        gain: of what each neuron multiplies its input with, around 1.
        dead: share of neurons that never fire.
    """

    threshold: float = 0.0
    decay: float = 0.0
    gain: float = 0.0
    dead: float = 0.0

    def __post_init__(self) -> None:
        for name in ("threshold", "decay", "gain"):
            checks.number(f"device.variation.{name}", getattr(self, name), low=0)
        checks.number("device.variation.dead", self.dead, 0, 1, "a share")

    def cells(self, layers: Sequence[Layer], seed: NDArray[np.uint32]) -> tuple[Cells | None, ...]:
        """The neurons of chips with these fabrication seeds (...,), an entry per layer."""
        return tuple(self._layer(layer, draws.derive(seed, f"neurons of layer {n}")) for n, layer in enumerate(layers))

    def _layer(self, layer: Layer, seed: NDArray[np.uint32]) -> Cells | None:
        if layer.kind != "spiking" or not any((self.threshold, self.decay, self.gain, self.dead)):
            return None
        normal = draws.normal(seed, np.arange(3), layer.outputs[0])[..., None, None, :]  # (..., 3, 1, 1, n)
        threshold, decay, gain = (normal[..., i, :, :, :] for i in range(3))
        slower = np.maximum(1 + self.decay * decay, 0.01)  # a time constant is positive
        alive = draws.uniform(seed, 3, layer.outputs[0])[..., None, None, :] >= self.dead
        return Cells(
            layer.threshold * (1 + self.threshold * threshold),
            layer.decay ** (1 / slower),
            1 + self.gain * gain,
            alive.astype(np.float64),
        )


class Spiking:
    """A network of spiking neurons with programmable parameters.

    A plain measurement goes on where the last one ended, unless its sample starts a new sequence. One under probes
    starts from neurons that have seen nothing, and leaves the running ones alone.

    Args:
        network: its layers.
        cost: what is measured: the mean over all steps that count.
        seed: fabrication seed of the first chip; chip i has seed + i.
        chips: number of virtual chips on the leading axis; None is one chip and no such axis.
        surrogate: the derivative of a spike in the gradient that only a simulator can give.
        variation: how neurons differ.
        stuck: share of parameters that never move, each held at a random value of the range (of -0.5 to 0.5 when the
            range is open).
        low: lowest parameter value.
        high: highest parameter value.
        cost_noise: standard deviation of a cost reading [cost].
        read_noise: of every reported membrane, and of outputs that are no spikes.
        cell: how elements of matrices are stored (hwtrain/sim/cells.py), in place of `stuck`, `low` and `high`; biases
            stay numbers. Read noise of a cell is new in every measurement, not in every step of one. None is numbers.
        programming: "open_loop", "threshold" or "mixed_precision": how wishes reach cells (hwtrain/sim/arrays.py).
        step: of the last two [parameter unit]; None is that of a pulse, and of written cells 1/32 of the range.
        read_seconds: time one measurement takes [s], one for evaluation too; 0 lets none pass.
    """

    def __init__(
        self,
        network: Layered,
        cost: Cost,
        seed: int = 0,
        chips: int | None = None,
        surrogate: Surrogate | None = None,
        variation: Variation | None = None,
        stuck: float = 0.0,
        low: float | None = None,
        high: float | None = None,
        cost_noise: float = 0.0,
        read_noise: float = 0.0,
        cell: Cell | None = None,
        programming: str = "threshold",
        step: float | None = None,
        read_seconds: float = 0.0,
    ) -> None:
        checks.number("device.stuck", stuck, 0, 1, "a share")
        checks.number("device.low", low, none="an open range")
        checks.number("device.high", high, none="an open range")
        checks.number("device.cost_noise", cost_noise, low=0)
        checks.number("device.read_noise", read_noise, low=0)
        checks.number("device.read_seconds", read_seconds, low=0)
        checks.whole("device.seed", seed, low=0)
        checks.whole("device.chips", chips, none="one chip without a replica axis")
        self._network, self._cost = SpikingNetwork(tuple(network.layers)), cost
        self._surrogate = Surrogate() if surrogate is None else surrogate
        self._cost_noise, self._read_noise, self._read_seconds = cost_noise, read_noise, read_seconds
        replicas = () if chips is None else (chips,)
        chip = np.asarray(seed + np.arange(chips or 1), dtype=np.int64).astype(np.uint32).reshape(replicas)
        self._store: Store
        if cell is None:
            open_low, open_high = -math.inf if low is None else low, math.inf if high is None else high
            self._store = Values(chip, self._network.size, open_low, open_high, None, 0.0, stuck, False, 0.0, 0.0)
        else:
            self._store = Arrays(chip, self._network.layers, cell, programming, step)
        self._spec = DeviceSpec(
            name="spiking" if chips is None else f"spiking ({chips} chips)",
            inputs=self._network.inputs,
            outputs=self._network.outputs,
            size=self._network.size,
            low=self._store.low,
            high=self._store.high,
            unit=self._store.unit,
            noise=cost_noise,
            replicas=replicas,
            layers=self._network.layers,
            can=Can.COST
            | Can.OUTPUT
            | Can.ACTIVITY
            | Can.MEMBRANES
            | Can.GRADIENT
            | Can.PROBE
            | Can.STATE
            | self._store.can,
        )
        self._cycle, fabrication = draws.derive(chip, "cycle"), draws.derive(chip, "fabrication")
        self._cells = (Variation() if variation is None else variation).cells(self._network.layers, fabrication)
        self._memory: Memory | None = None
        self._counts = {"cost": 0, "read": 0}

    @property
    def spec(self) -> DeviceSpec:
        """The simulated chips' account of themselves."""
        return self._spec

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        """Program and measure; refuses what the spec does not offer before anything changes."""
        check(self._spec, commands, self._store.held)
        self._check_going_on(commands)
        readings = []
        for command in commands:
            match command:
                case Program():
                    self._store.program(command.theta)
                case Read():
                    assert isinstance(self._store, Arrays)  # values cannot be read, and `check` has refused it
                    readings.append(Reading(theta=self._store.read()))
                    self._store.pass_time(self._read_seconds)
                case Measure():
                    readings.append(self._measure(command))
        return tuple(readings)

    def rest(self) -> None:
        """Nothing to make safe."""

    def close(self) -> None:
        """Nothing to let go of."""

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """What cells have been through."""
        return {"traffic": self._store.counts(), "disturbances": {}}

    def snapshot(self) -> dict[str, Array]:
        """Programmed values, the running neurons, and the counts that name noise draws."""
        running = {
            f"memory.{number}.{part}": array.copy()
            for number, layer in enumerate(self._memory or ())
            for part, array in enumerate(layer)
        }
        return {**self._store.snapshot(), **running, **{name: np.asarray(n) for name, n in self._counts.items()}}

    def restore(self, snapshot: Mapping[str, Array]) -> None:
        """The inverse of `snapshot`."""
        self._store.restore(snapshot)
        self._counts = {name: int(snapshot[name]) for name in self._counts}
        running = any(name.startswith("memory.") for name in snapshot)
        self._memory = None
        if running:
            self._memory = tuple(
                tuple(snapshot[f"memory.{number}.{part}"].copy() for part in range(len(layer)))
                for number, layer in enumerate(self._network.asleep(self._spec.replicas, 1))
            )

    def _measure(self, command: Measure) -> Reading:
        sample, observe, network = command.sample, command.observe, self._network
        probes = command.probes
        theta = self._store.acting(None if probes is None else probes.dense(self._spec.size))
        before = self._memory
        if before is None or sample.start or probes is not None:
            before = network.asleep(self._spec.replicas, sample.x.shape[-2])
        done = network.forward(theta, sample.x[..., None, :, :, :], before, self._cells)
        if probes is None:
            self._memory = done.after
        reading: dict[str, Any] = {}
        if observe & (Can.OUTPUT | Can.ACTIVITY):
            output = done.outputs[-1]
            if network.layers[-1].kind != "spiking":
                output = self._read(output)
            reading["output"] = output if Can.OUTPUT in observe else None
            reading["activity"] = (*done.outputs[:-1], output) if Can.ACTIVITY in observe else None
        if Can.MEMBRANES in observe:
            reading["membranes"] = tuple(self._read(membrane) for membrane in done.membranes)
        if Can.COST in observe:
            reading["cost"] = self._costs(done.outputs[-1], sample)
        if Can.GRADIENT in observe:
            reading["gradient"] = self._gradient(theta, done, sample)
        if observe != Can.GRADIENT:
            self._store.pass_time(self._read_seconds * theta.shape[-2])
        return Reading(**reading)

    def _costs(self, output: Array, sample: Sample) -> Array:
        """The mean cost of the steps that count, (..., k)."""
        target, count = _wanted(sample)
        each = np.where(count, self._cost(output, target), 0.0)
        cost = each.sum(axis=(-2, -1)) / np.maximum(count.sum(axis=(-2, -1)), 1)
        if self._cost_noise:
            first = self._next("cost", cost.shape[-1])
            counts = np.arange(first, first + cost.shape[-1])
            cost = cost + self._cost_noise * draws.normal(draws.derive(self._cycle, "cost"), counts, 1)[..., 0]
        return np.asarray(cost)

    def _gradient(self, theta: Array, done: Pass, sample: Sample) -> Array:
        target, count = _wanted(sample)
        error = np.where(count[..., None], self._cost.gradient(done.outputs[-1], target), 0.0)
        error = error / np.maximum(count.sum(axis=(-2, -1)), 1)[..., None, None, None]
        return self._store.through(self._network.gradient(theta, done, error, self._surrogate, self._cells))

    def _read(self, values: Array) -> Array:
        """What an ADC makes of analog values (..., k, t, b, n)."""
        if not self._read_noise:
            return values
        replicas = self._spec.replicas
        noise = draws.normal(
            draws.derive(self._cycle, "read"), self._next("read"), math.prod(values.shape[len(replicas) :])
        )
        return values + self._read_noise * noise.reshape(values.shape)

    def _next(self, kind: str, count: int = 1) -> int:
        """The count of operations of this kind so far, which names the draws of the next."""
        now = self._counts[kind]
        self._counts[kind] += count
        return now

    def _check_going_on(self, commands: Sequence[Command]) -> None:
        """Refuse to go on with another number of sequences than were begun."""
        begun = self._begun()
        for command in commands:
            if not isinstance(command, Measure) or command.probes is not None:
                continue
            batch = command.sample.x.shape[-2]
            if not command.sample.start and begun is not None and begun != batch:
                raise LimitError(
                    f"{batch} sequences shall go on in {self._spec.name!r}, where {begun} were begun. Present as many, "
                    "or start anew (start=True). Nothing was sent."
                )
            begun = batch

    def _begun(self) -> int | None:
        """How many sequences the running neurons are in, if they are."""
        arrays = [array for layer in self._memory or () for array in layer]
        return int(arrays[0].shape[-2]) if arrays else None


def _wanted(sample: Sample) -> tuple[Array, NDArray[np.bool_]]:
    """The target (..., 1, t, b, m), and which of its rows count (..., 1, t, b)."""
    assert sample.target is not None  # `check` has seen to it
    target = sample.target[..., None, :, :, :]
    return target, counted(target)
