"""The numpy simulator: a network on any number of virtual chips, with the imperfections of real ones.

What differs from chip to chip is drawn once from the chip's seed (device to device); what differs from one operation to
the next is drawn from the same seed and a count of operations (cycle to cycle). The two never share a draw, and a chip
in a stack draws what it would draw alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks, draws
from hwtrain.core import Array, Can, Command, DeviceSpec, Measure, Program, Pulse, Read, Reading, Sample, Site
from hwtrain.costs import Cost
from hwtrain.errors import ConfigError
from hwtrain.limits import check
from hwtrain.sim.cells import Cell
from hwtrain.sim.crossbar import Crossbar
from hwtrain.sim.networks import Network, Neurons, Pass
from hwtrain.sim.stores import Cells, Store, Values, rounded


class Simulated:
    """A network of neurons with programmable parameters.

    A parameter acts as gain * (value + probe) + error: `value` is what was programmed, rounded to `parameter_bits`;
    `error` is what writing and drift have left behind. A probe is added by a separate actuator, so it is neither
    rounded nor written.

    Args:
        network: the forward model.
        cost: what is measured.
        seed: fabrication seed of the first chip; chip i has seed + i.
        chips: number of virtual chips on the leading axis; None is one chip and no such axis.
        precision: "double" or "single" arithmetic.
        activation_variation: spread sigma_a of gain, steepness, midpoint and offset of every neuron (McCaughan et al.
            2023: gain and steepness around 1, midpoint and offset around 0).
        parameter_variation: spread of the gain of every parameter around 1.
        stuck: share of parameters that never move, each held at a random value of the range (of -0.5 to 0.5 when the
            range is open).
        low: lowest parameter value.
        high: highest parameter value.
        parameter_bits: resolution of a parameter over the range; None is exact.
        input_bits: resolution of the DACs that present samples in 0 to 1; None is exact.
        output_bits: resolution of the ADCs that read outputs in `output_range`; None is exact.
        output_range: what the output ADCs resolve; beyond it they saturate, as ADCs do.
        cost_noise: standard deviation of a cost reading under a probe [cost].
        baseline_noise: of an unperturbed cost reading; None is the same as `cost_noise`.
        activity_bits: resolution of the ADCs that read hidden activities in `activity_range`; None is exact. What one
            layer passes to the next stays analog.
        activity_range: what these ADCs resolve.
        read_noise: of every reported output and activity.
        programming: "absolute", each write lands at its target plus noise; or "incremental", each write moves the
            parameter by the wanted difference plus noise, so that errors add up as in the published code.
        update_noise: standard deviation of that noise, independent for every parameter that is written.
        drift: random walk of every parameter between writes [unit per root second].
        read_seconds: time one measurement takes [s], one for evaluation too; drift needs it.
        cell: how parameters are stored (hwtrain/sim/cells.py), in place of `parameter_variation`, `stuck`, `low`,
            `high`, `parameter_bits`, `programming`, `update_noise` and `drift`; None is values with these.
        reads: the converters, wires and amplifiers that dense layers are read by (hwtrain/sim/crossbar.py); None is
            exact products. The gradient is that of exact ones.
        fast: how the second array of cells stores, that of `DeviceSpec.fast_step`; it moves by pulses. None is none.
    """

    def __init__(
        self,
        network: Network,
        cost: Cost,
        seed: int = 0,
        chips: int | None = None,
        precision: str = "double",
        activation_variation: float = 0.0,
        parameter_variation: float = 0.0,
        stuck: float = 0.0,
        low: float | None = None,
        high: float | None = None,
        parameter_bits: int | None = None,
        input_bits: int | None = None,
        output_bits: int | None = None,
        output_range: Sequence[float] = (0.0, 1.0),
        activity_bits: int | None = None,
        activity_range: Sequence[float] = (0.0, 1.0),
        cost_noise: float = 0.0,
        baseline_noise: float | None = None,
        read_noise: float = 0.0,
        programming: str = "absolute",
        update_noise: float = 0.0,
        drift: float = 0.0,
        read_seconds: float = 0.0,
        cell: Cell | None = None,
        reads: Crossbar | None = None,
        fast: Cell | None = None,
    ) -> None:
        for name, value in (
            ("activation_variation", activation_variation),
            ("parameter_variation", parameter_variation),
            ("cost_noise", cost_noise),
            ("read_noise", read_noise),
            ("update_noise", update_noise),
            ("drift", drift),
            ("read_seconds", read_seconds),
        ):
            checks.number(f"device.{name}", value, low=0)
        checks.number("device.baseline_noise", baseline_noise, low=0, none="the same as device.cost_noise")
        checks.interval("device.output_range", output_range)
        checks.interval("device.activity_range", activity_range)
        checks.number("device.stuck", stuck, 0, 1, "a share")
        checks.number("device.low", low, none="an open range")
        checks.number("device.high", high, none="an open range")
        checks.whole("device.seed", seed, low=0)
        checks.whole("device.chips", chips, none="one chip without a replica axis")
        checks.one_of("device.precision", precision, ("double", "single"))
        checks.one_of("device.programming", programming, ("absolute", "incremental"))
        for name, bits in (
            ("parameter_bits", parameter_bits),
            ("input_bits", input_bits),
            ("output_bits", output_bits),
            ("activity_bits", activity_bits),
        ):
            checks.whole(f"device.{name}", bits, 1, 24, none="no rounding")
        if parameter_bits is not None and (low is None or high is None):
            raise ConfigError("device.parameter_bits needs a range to divide: set device.low and device.high")
        if any(layer.kind in ("spiking", "integrator") for layer in network.layers):
            raise ConfigError("network: neurons of device=sim keep no state from step to step. Use device=spiking.")
        if drift and not read_seconds:
            raise ConfigError("device.drift needs a clock: set device.read_seconds, the time one measurement takes [s]")

        self._network, self._cost = network, cost
        self._dtype = np.float64 if precision == "double" else np.float32
        self._replicas = () if chips is None else (chips,)
        self._input_bits, self._output_bits, self._output_range = input_bits, output_bits, tuple(output_range)
        self._activity_bits, self._activity_range = activity_bits, tuple(activity_range)
        self._probe_noise = cost_noise
        self._baseline_noise = cost_noise if baseline_noise is None else baseline_noise
        self._read_noise, self._read_seconds = read_noise, read_seconds  # of 0 lets no time pass
        chip = np.asarray(seed + np.arange(chips or 1), dtype=np.int64).astype(np.uint32).reshape(self._replicas)
        self._store: Store
        if cell is None:
            open_low, open_high = -math.inf if low is None else low, math.inf if high is None else high
            self._store = Values(
                chip,
                network.size,
                open_low,
                open_high,
                parameter_bits,
                parameter_variation,
                stuck,
                programming == "incremental",
                update_noise,
                drift,
            )
        else:
            self._store = Cells(chip, network.size, cell)
        if reads is not None and (odd := [layer.kind for layer in network.layers if layer.kind == "conv"]):
            raise ConfigError(
                f"device.reads: an array multiplies dense layers; the network has {len(odd)} layers of convolutions. "
                "Set device/reads=null, or network=mlp."
            )
        if fast is not None and not (cell is not None and cell.pulsed and fast.pulsed):
            raise ConfigError("device.fast: both arrays must take pulses; one of these cells is written.")
        self._fast = None if fast is None else Cells(draws.derive(chip, "second array"), network.size, fast)
        self._aging = self._store.ages and read_seconds > 0
        self._spec = DeviceSpec(
            name="sim" if chips is None else f"sim ({chips} chips)",
            inputs=network.inputs,
            outputs=network.outputs,
            size=network.size,
            low=self._store.low,
            high=self._store.high,
            unit=self._store.unit,
            step=self._store.step,
            fast_step=0.0 if self._fast is None else self._fast.step,
            noise=max(self._probe_noise, self._baseline_noise),
            replicas=self._replicas,
            layers=network.layers,
            can=Can.COST
            | Can.SAMPLE_COST
            | Can.OUTPUT
            | Can.ACTIVITY
            | Can.GRADIENT
            | Can.PROBE
            | Can.NODE_PROBE
            | Can.STATE
            | self._store.can,
        )
        self._cycle = draws.derive(chip, "cycle")
        fabrication = draws.derive(chip, "fabrication")
        self._neurons = self._make_neurons(fabrication, activation_variation) if activation_variation else ()
        self._reads = reads
        self._peripheries = [
            reads.fabricate(draws.derive(chip, f"reads of layer {number}"), layer.outputs[0])
            if reads is not None and layer.kind == "dense"
            else None
            for number, layer in enumerate(network.layers)
        ]
        self._counts = {"cost": 0, "read": 0, "product": 0}

    @property
    def spec(self) -> DeviceSpec:
        """The simulated chips' account of themselves."""
        return self._spec

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        """Program and measure; refuses what the spec does not offer before anything changes."""
        check(self._spec, commands, self._store.held)
        readings: list[Reading] = []
        sharing: list[Measure] = []  # costs of one sample, which take one pass of the network together
        for command in commands:
            if sharing and not (self._only_cost(command) and command.sample is sharing[0].sample):
                readings += self._measure_costs(sharing)
                sharing = []
            match command:
                case Program():
                    self._store.program(command.theta)
                case Pulse():
                    self._array(command).pulse(command.counts)
                case Read():
                    theta = self._array(command).read()
                    readings.append(Reading(theta=theta if command.which is None else theta[..., command.which]))
                    self._pass_time(1)
                case Measure():
                    if self._only_cost(command):
                        sharing.append(command)
                    else:
                        readings.append(self._measure(command))
        return (*readings, *self._measure_costs(sharing)) if sharing else tuple(readings)

    def rest(self) -> None:
        """Nothing to make safe."""

    def close(self) -> None:
        """Nothing to let go of."""

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """What became of cells."""
        fast = {} if self._fast is None else {f"fast array: {k}": n for k, n in self._fast.counts().items()}
        return {"traffic": {**self._store.counts(), **fast}, "disturbances": {}}

    def snapshot(self) -> dict[str, Array]:
        """What the stores keep, and the counts that name cycle draws."""
        fast = {} if self._fast is None else {f"fast.{name}": kept for name, kept in self._fast.snapshot().items()}
        counts = {name: np.asarray(count) for name, count in self._counts.items()}
        return {**self._store.snapshot(), **fast, **counts}

    def restore(self, snapshot: Mapping[str, Array]) -> None:
        """The inverse of `snapshot`."""
        self._store.restore(snapshot)
        if self._fast is not None:
            fast = {name: kept for name, kept in snapshot.items() if name.startswith("fast.")}
            self._fast.restore({name.removeprefix("fast."): kept for name, kept in fast.items()})
        self._counts = {name: int(snapshot[name]) for name in self._counts}

    def _array(self, command: Pulse | Read) -> Cells:
        array = self._store if self._fast is None or not command.fast else self._fast
        assert isinstance(array, Cells)  # values are neither pulsed nor read, and `check` has refused it
        return array

    def _pass_time(self, readings: int) -> None:
        for store in (self._store, self._fast):
            if store is not None:
                store.pass_time(self._read_seconds * readings)

    def _only_cost(self, command: Command) -> TypeGuard[Measure]:
        if not isinstance(command, Measure) or command.observe is not Can.COST or self._aging:
            return False
        return command.probes is None or command.probes.site is Site.PARAMETERS

    def _measure_costs(self, commands: Sequence[Measure]) -> list[Reading]:
        """Costs of one sample, with and without probes, in one pass; the same bits as one by one."""
        thetas = [self._perturbed(command) for command in commands]
        theta = thetas[0] if len(thetas) == 1 else np.concatenate(thetas, axis=-2)
        sample = commands[0].sample
        costs = _mean(self._costs(self._forward(theta, self._inputs(sample)).outputs[-1], sample), -1)
        readings, first = [], 0
        for command, own in zip(commands, thetas, strict=True):
            cost = costs[..., first : first + own.shape[-2]]
            first += own.shape[-2]
            if sigma := self._sigma(command):
                cost = cost + sigma * self._noise(cost.shape[-1], 1)[..., 0]
            readings.append(Reading(cost=cost))
        return readings

    def _measure(self, command: Measure) -> Reading:
        """Any measurement."""
        sample, observe, network = command.sample, command.observe, self._network
        theta, x = self._perturbed(command), self._inputs(sample)
        shift = None
        if command.probes is not None and command.probes.site is Site.NODES:
            shift = command.probes.dense(network.nodes).astype(self._dtype, copy=False)
        reading: dict[str, Any] = {}
        if observe != Can.GRADIENT:
            outputs = self._forward(theta, x, shift).outputs
        if Can.OUTPUT in observe or Can.ACTIVITY in observe:
            activity = self._read(outputs)
            reading["output"] = activity[-1] if Can.OUTPUT in observe else None
            reading["activity"] = activity if Can.ACTIVITY in observe else None
        if Can.COST in observe or Can.SAMPLE_COST in observe:
            each = self._costs(outputs[-1], sample)
            cost = _mean(each, -1)
            if sigma := self._sigma(command):
                noise = sigma * self._noise(cost.shape[-1], each.shape[-1] if Can.SAMPLE_COST in observe else 1)
                cost, each = cost + _mean(noise, -1), each + noise
            reading["cost"] = cost if Can.COST in observe else None
            reading["sample_cost"] = each if Can.SAMPLE_COST in observe else None
        if Can.GRADIENT in observe:
            reading["gradient"] = self._gradient(theta, x, sample, shift)
        if self._aging and observe != Can.GRADIENT:
            self._pass_time(1 if command.probes is None else command.probes.count)
        return Reading(**reading)

    def _perturbed(self, command: Measure) -> Array:
        """The parameters of a measurement as they act, (..., k, p)."""
        probes = command.probes
        moved = probes is not None and probes.site is Site.PARAMETERS
        dense = probes.dense(self._network.size) if probes is not None and moved else None
        theta = self._store.acting(dense, math.prod(command.sample.x.shape[-3:-1]))
        acting: Array = theta.astype(self._dtype, copy=False)
        return acting

    def _inputs(self, sample: Sample) -> Array:
        """What enters the network, (..., 1, t, b, n)."""
        x = rounded(sample.x, self._input_bits, 0.0, 1.0)
        return x[..., None, :, :, :].astype(self._dtype, copy=False)

    def _forward(self, theta: Array, x: Array, shift: Array | None = None) -> Pass:
        """A pass of the network, every probe with draws of its own."""
        if self._reads is None:
            return self._network.forward(theta, x, self._neurons, shift)
        probes = theta.shape[-2] if shift is None else max(theta.shape[-2], shift.shape[-2])
        first = self._next("product", probes)

        def product(number: int, x: Array, matrix: Array) -> Array:
            periphery, reads = self._peripheries[number], self._reads
            assert periphery is not None and reads is not None
            shape = (*self._replicas, probes, *x.shape[-3:])
            x = np.broadcast_to(x, shape).reshape(*shape[:-3], -1, shape[-1])
            matrix = np.broadcast_to(matrix[..., 0, :, :], (*self._replicas, probes, *matrix.shape[-2:]))
            parts = [
                reads.multiply(periphery, matrix[..., probe, :, :], x[..., probe, :, :], first + probe)[0]
                for probe in range(probes)
            ]
            result = np.stack(parts, axis=-3).astype(self._dtype, copy=False)
            return result.reshape(*shape[:-1], result.shape[-1])

        return self._network.forward(theta, x, self._neurons, shift, product)

    def _costs(self, output: Array, sample: Sample) -> Array:
        """Cost of every sample, the mean over time, (..., k, b)."""
        output = rounded(output, self._output_bits, *self._output_range)
        return _mean(self._cost(output.astype(np.float64, copy=False), _wanted(sample)), -2)

    def _gradient(self, theta: Array, x: Array, sample: Sample, shift: Array | None) -> Array:
        gradient = self._network.gradient(theta, x, _wanted(sample), self._cost, self._neurons, shift)
        return self._store.through(gradient)

    def _sigma(self, command: Measure) -> float:
        return self._baseline_noise if command.probes is None else self._probe_noise

    def _noise(self, probes: int, samples: int) -> Array:
        """Standard normal cost noise, (..., k, samples); one count a reading."""
        first = self._next("cost", probes)
        return draws.normal(draws.derive(self._cycle, "cost"), np.arange(first, first + probes), samples)

    def _read(self, outputs: Sequence[Array]) -> tuple[Array, ...]:
        last = rounded(outputs[-1], self._output_bits, *self._output_range)
        activity = [
            *(rounded(hidden, self._activity_bits, *self._activity_range) for hidden in outputs[:-1]),
            last,
        ]
        if not self._read_noise:
            return tuple(activity)
        noisy = []
        for values in activity:
            count = math.prod(values.shape[len(self._replicas) :])
            noise = draws.normal(draws.derive(self._cycle, "read"), self._next("read"), count)
            noisy.append(
                values + self._read_noise * noise.reshape(*self._replicas, *values.shape[len(self._replicas) :])
            )
        return tuple(noisy)

    def _next(self, kind: str, count: int = 1) -> int:
        """The count of operations of this kind so far, which names the draws of the next."""
        now = self._counts[kind]
        self._counts[kind] += count
        return now

    def _make_neurons(self, seed: NDArray[np.uint32], sigma: float) -> tuple[Neurons | None, ...]:
        made: list[Neurons | None] = []
        for number, layer in enumerate(self._network.layers):
            if not layer.size:
                made.append(None)
                continue
            width = math.prod(layer.outputs)
            spread = sigma * draws.normal(draws.derive(seed, f"neurons of layer {number}"), np.arange(4), width)
            gain, steepness, midpoint, offset = (
                spread[..., i, None, None, None, :].astype(self._dtype, copy=False) for i in range(4)
            )
            made.append(Neurons(1 + gain, 1 + steepness, midpoint, offset))
        return tuple(made)


def _wanted(sample: Sample) -> Array:
    """The target with an axis for the probes; `check` has seen to it that there is one."""
    assert sample.target is not None
    return sample.target[..., None, :, :, :]


def _mean(values: Array, axis: int) -> Array:
    result: Array = np.add.reduce(values, axis=axis) / values.shape[axis]  # what np.mean does, without its checks
    return result
