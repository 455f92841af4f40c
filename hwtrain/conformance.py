"""The conformance kit: what every device, algorithm and perturbation must do, as pytest classes to inherit.

A new implementation, ours or not, inherits the class of its kind and says in fixtures what is to be checked:

    class TestMyChip(DeviceConformance):
        @pytest.fixture
        def device(self):
            chip = MyChip("/dev/ttyUSB0")
            yield chip
            chip.close()

Checks skip what a spec does not declare. A failure says in a sentence what is broken. The module needs pytest and is
never imported at run time.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from hwtrain import checkpoint, draws
from hwtrain.algorithms.forward_forward import ForwardForward
from hwtrain.algorithms.mono_forward import MonoForward
from hwtrain.algorithms.osttp import OSTTP
from hwtrain.core import (
    Algorithm,
    Array,
    Can,
    Change,
    Command,
    Device,
    DeviceSpec,
    Learn,
    Measure,
    Perturbation,
    Probes,
    Program,
    Reading,
    Sample,
    Site,
    Stateful,
    Task,
    Train,
    counted,
    inside,
    joined,
)
from hwtrain.costs import Cost, MeanSquaredError
from hwtrain.devices.simulated import Simulated
from hwtrain.errors import CapabilityError, HwtrainError, LimitError
from hwtrain.limits import check
from hwtrain.optimize import Descent
from hwtrain.perturb import Rademacher
from hwtrain.sim.networks import mlp
from hwtrain.sim.neurons import Surrogate
from hwtrain.tasks.parity import parity

OBSERVABLES = {
    Can.COST: "cost",
    Can.SAMPLE_COST: "sample_cost",
    Can.OUTPUT: "output",
    Can.ACTIVITY: "activity",
    Can.GRADIENT: "gradient",
}
SIGMAS = 6  # two readings further apart than this many standard deviations are called different


class DeviceConformance:
    """What every device must do. Override `device`; the other fixtures where the defaults do not fit.

    A device that declares no noise must repeat itself to the bit, one that does is compared by means of repeated
    readings. Neither knows drift, imprecise writing or rounding: give those an `allowance`, or switch them off.
    """

    @pytest.fixture
    def device(self) -> Device:
        """A fresh device; must be overridden."""
        _fail("override the fixture `device` of DeviceConformance with one that gives a fresh device")

    @pytest.fixture
    def another(self) -> Device | None:
        """A second device like `device`, to which a snapshot can move; None on a bench, which has only one."""
        return None

    @pytest.fixture
    def single(self) -> Callable[[int], Device] | None:
        """Makes the device that replica `index` would be alone; only for a device with one replica axis."""
        return None

    @pytest.fixture
    def sample(self, device: Device) -> Sample:
        """What is presented, x (t, b, n) and target (t, b, m)."""
        return _sample(device.spec, (1, 3))

    @pytest.fixture
    def allowance(self) -> float:
        """How far costs may differ beside the declared noise: rounding, drift, imprecise writing [cost]."""
        return 0.0

    @pytest.fixture
    def amplitude(self, device: Device) -> float:
        """Size of the probes, in the unit of the parameters."""
        low, high = _range(device.spec)
        return 0.05 * (high - low)

    @pytest.fixture
    def repeats(self, device: Device) -> int:
        """Readings that are averaged before they are compared."""
        return 32 if device.spec.noise else 1

    @pytest.fixture
    def minimised(self) -> Cost:
        """The cost that the device measures, of which its spec says nothing; asked for where it learns in time."""
        return MeanSquaredError()

    @pytest.fixture
    def difference(self) -> float | None:
        """Step of the finite differences the gradient is compared with; None where the measured cost is a staircase."""
        return 1e-6

    @pytest.fixture
    def bench(self, device: Device, sample: Sample, allowance: float, amplitude: float, repeats: int) -> _Bench:
        """The device with what the checks do to it; not meant to be overridden."""
        return _Bench(device, sample, allowance, amplitude, repeats)

    def test_spec_is_stable_and_survives_json(self, bench: _Bench) -> None:
        before = bench.device.spec
        text = json.dumps(before.to_json(), allow_nan=False)
        back = DeviceSpec.from_json(json.loads(text))
        _require(back == before, f"the spec does not survive JSON: {_difference(back, before, 'spec')}")
        bench.look(bench.theta(1))
        bench.device.rest()
        after = bench.device.spec
        _require(after == before, f"the spec changed while the device was used: {_difference(after, before, 'spec')}")

    def test_readings_repeat_within_the_declared_noise(self, bench: _Bench) -> None:
        spec = bench.spec
        first, second = bench.look(bench.theta(1)), bench.look(bench.theta(1))
        bench.agree(first, second, "the same parameters measured twice give different readings")
        if not spec.noise or Can.COST not in spec.can:
            return
        count = max(bench.repeats, 32)
        costs = [_field(reading, "cost") for reading in bench.execute([Measure(bench.sample)] * count)]
        spread = float(np.max(np.std(costs, axis=0, ddof=1)))
        limit = spec.noise * (1 + SIGMAS / math.sqrt(2 * (count - 1))) + bench.allowance
        _require(
            spread <= limit,
            f"{count} readings of the cost spread by {spread:.3g}; {spec.name!r} declares a noise of {spec.noise:g}",
        )

    def test_readings_follow_the_parameters(self, bench: _Bench) -> None:
        first = bench.look(bench.theta(1))
        other = bench.look(bench.theta(2))
        again = bench.look(bench.theta(1))
        bench.agree(first, again, "parameters programmed again do not give the readings they gave before")
        _require(
            bool(bench.differs(first, other)) or not bench.exact,
            "other parameters give the very same readings: Program has no effect, or the readings are stale",
        )

    def test_undeclared_capability_is_refused(self, bench: _Bench) -> None:
        undeclared = [can for can in (*OBSERVABLES, Can.PROBE, Can.NODE_PROBE) if can not in bench.spec.can]
        if not undeclared:
            pytest.skip("the device offers everything")
        for can in undeclared:
            command: Command
            match can:
                case Can.PROBE:
                    command = Measure(bench.sample, bench.probes(), bench.observable)
                case Can.NODE_PROBE:
                    command = Measure(bench.sample, bench.probes(site=Site.NODES), bench.observable)
                case _:
                    command = Measure(bench.sample, observe=can)
            self._refused(bench, [command], CapabilityError, f"{can.name}, which the spec does not declare")

    @pytest.mark.parametrize("side", ["low", "high"])
    def test_out_of_range_parameter_is_refused(self, bench: _Bench, side: str) -> None:
        limit = getattr(bench.spec, side)
        if not math.isfinite(limit):
            pytest.skip(f"the range has no {side} end")
        low, high = _range(bench.spec)
        beyond = limit + 0.01 * (high - low) * (1 if side == "high" else -1)
        self._refused(
            bench, [Program(_with_last(bench.theta(1), beyond))], LimitError, f"a parameter of {beyond:g}, out of range"
        )
        within = _with_last(bench.theta(1), limit)
        try:
            bench.execute([Program(within)])
        except HwtrainError as error:
            _fail(f"the {side} end of the range, {limit:g}, belongs to it and was refused: {error}")

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_parameter_that_is_not_finite_is_refused(self, bench: _Bench, value: float) -> None:
        self._refused(bench, [Program(_with_last(bench.theta(1), value))], LimitError, f"a parameter that is {value}")

    def test_parameters_of_wrong_shape_are_refused(self, bench: _Bench) -> None:
        theta = bench.theta(1)
        for wrong in (theta[..., :-1], np.concatenate([theta, theta[..., :1]], axis=-1), np.stack([theta, theta])):
            self._refused(
                bench, [Program(wrong)], LimitError, f"parameters of shape {wrong.shape} where {theta.shape} are held"
            )

    def test_sample_of_wrong_shape_is_refused(self, bench: _Bench) -> None:
        x, target = bench.sample.x, bench.sample.target
        for wrong in (np.concatenate([x, x[..., :1]], axis=-1), x[0, 0]):
            command = Measure(Sample(wrong, target), observe=bench.observable)
            self._refused(bench, [command], LimitError, f"a sample of shape {wrong.shape}")

    def test_sample_with_axes_that_do_not_fit_is_refused(self, bench: _Bench) -> None:
        x, target = bench.sample.x, bench.sample.target
        stray = np.zeros((math.prod(bench.spec.replicas) + 1, *x.shape))
        wrong = [(Sample(stray, target), f"a sample of shape {stray.shape} for replicas {bench.spec.replicas}")]
        if target is not None:
            longer = np.concatenate([target, target], axis=-2)
            wrong.append((Sample(x, longer), f"a target of shape {longer.shape} with a sample of shape {x.shape}"))
        for sample, what in wrong:
            self._refused(bench, [Measure(sample, observe=bench.observable)], LimitError, what)

    def test_probe_that_leaves_the_range_is_refused(self, bench: _Bench) -> None:
        edge = self._at_the_edge(bench)
        probing = Measure(bench.sample, bench.probes(), bench.observable)
        self._refused(bench, [Program(edge), probing], LimitError, "a probe that moves a parameter out of range")

    def test_probe_that_leaves_the_range_of_what_is_held_is_refused(self, bench: _Bench) -> None:
        edge = self._at_the_edge(bench)
        bench.execute([Program(edge)])
        try:
            bench.execute([Measure(bench.sample, bench.probes(), bench.observable)])
        except LimitError:
            return
        _fail("a probe that moves a parameter, programmed in an earlier call, out of range was carried out")

    def test_measurement_that_is_refused_changes_nothing(self, bench: _Bench) -> None:
        if not bench.spec.can & (Can.COST | Can.SAMPLE_COST):
            pytest.skip("the device reports no cost")
        observe = Can.COST if Can.COST in bench.spec.can else Can.SAMPLE_COST
        before = bench.settle()
        try:
            bench.execute([Program(bench.theta(2)), Measure(Sample(bench.sample.x), observe=observe)])
        except HwtrainError:
            bench.unchanged(before, "a cost without a target was refused")
        else:
            pytest.skip("the device needs no target")

    def test_reading_has_the_declared_axes(self, bench: _Bench) -> None:
        kinds: list[Probes | None] = [None]
        kinds += [bench.probes(count=3)] if Can.PROBE in bench.spec.can else []
        kinds += [bench.probes(count=3, site=Site.NODES)] if Can.NODE_PROBE in bench.spec.can else []
        bench.execute([Program(bench.theta(1))])
        for probes in kinds:
            k = 1 if probes is None else probes.count
            wanted = _shapes(bench.spec, bench.sample, k)
            for can in [*bench.observables, bench.all_observables]:
                (reading,) = bench.execute([Measure(bench.sample, probes, can)])
                for name, value in _arrays(reading).items():
                    if name not in wanted:
                        _fail(f"a reading has {name}, but there are {len(bench.spec.layers)} layers")
                    _require(
                        np.dtype(value.dtype).kind == "f",
                        f"{name} has dtype {value.dtype}; readings are floating-point numbers",
                    )
                    _require(
                        _fits(value.shape, wanted[name]),
                        f"{name} of a measurement with k = {k} has the shape {value.shape} instead of "
                        f"{_text(wanted[name])} (axes ... k t b n)",
                    )
                    _require(bool(np.isfinite(value).all()), f"{name} is not finite at parameters in the range")

    def test_reading_has_exactly_what_was_observed(self, bench: _Bench) -> None:
        bench.execute([Program(bench.theta(1))])
        for can in [*bench.observables, bench.all_observables]:
            readings = bench.execute([Measure(bench.sample, observe=can)])
            _require(len(readings) == 1, f"one Measure gave {len(readings)} readings")
            for each, name in OBSERVABLES.items():
                there, wanted = getattr(readings[0], name) is not None, each in can
                _require(
                    there == wanted,
                    f"{can.names()} was observed, and the reading {'has' if there else 'lacks'} {name}",
                )

    def test_program_gives_no_reading(self, bench: _Bench) -> None:
        commands: list[Command] = [Program(bench.theta(1)), bench.plain, Program(bench.theta(2)), bench.plain]
        readings = bench.execute(commands)
        _require(len(readings) == 2, f"two Programs and two Measures gave {len(readings)} readings instead of 2")

    def test_cost_is_the_mean_over_the_samples(self, bench: _Bench) -> None:
        if (Can.COST | Can.SAMPLE_COST) not in bench.spec.can:
            pytest.skip("the device does not offer both costs")
        bench.execute([Program(bench.theta(1))])
        (reading,) = bench.execute([Measure(bench.sample, observe=Can.COST | Can.SAMPLE_COST)])
        cost, each = _field(reading, "cost"), _field(reading, "sample_cost")
        far = float(np.max(np.abs(cost - each.mean(axis=-1))))
        limit = 1e-6 * float(np.max(np.abs(cost))) + bench.tolerance
        _require(far <= limit, f"cost is not the mean of sample_cost: they are {far:.3g} apart")

    def test_probes_are_volatile(self, bench: _Bench) -> None:
        self._volatile(bench, Can.PROBE, Site.PARAMETERS)

    def test_node_probes_are_volatile(self, bench: _Bench) -> None:
        self._volatile(bench, Can.NODE_PROBE, Site.NODES)

    def test_probing_equals_programming(self, bench: _Bench) -> None:
        bench.needs(Can.PROBE)
        theta, probes = bench.theta(1), bench.probes(first=3, count=4)
        probed = bench.look(theta, probes)
        for index, delta in enumerate(np.moveaxis(probes.dense(bench.spec.size), -2, 0)):
            programmed = bench.look(theta + delta)
            bench.agree(
                bench.probe(probed, index),
                programmed,
                f"probe {index} does not read what programming theta + delta reads",
                rounding=1e-6 if bench.spec.precision == "single" else 0.0,
            )

    def test_probing_nodes_equals_programming_biases(self, bench: _Bench) -> None:
        bench.needs(Can.NODE_PROBE)
        if not bench.spec.layers or any(layer.kind != "dense" for layer in bench.spec.layers):
            pytest.skip("the layers are unknown, or not all dense")
        theta = bench.theta(1)
        nodes = sum(math.prod(layer.outputs) for layer in bench.spec.layers)
        probes = bench.probes(first=3, count=2, site=Site.NODES)
        probed = bench.look(theta, probes)
        for index, delta in enumerate(np.moveaxis(probes.dense(nodes), -2, 0)):
            moved, place, node = theta.copy(), 0, 0
            for layer in bench.spec.layers:
                width, place = math.prod(layer.outputs), place + layer.size
                sign = 1 if layer.bias == "add" else -1
                moved[..., place - width : place] += sign * delta[..., node : node + width]
                node += width
            bench.agree(
                bench.probe(probed, index),
                bench.look(moved),
                f"node probe {index} does not read what programming the biases + delta reads",
                rounding=1e-9,
                only=("cost", "sample_cost", "output", "activity"),
            )

    @pytest.mark.parametrize("count", [1, 5])
    def test_change_equals_programming(self, bench: _Bench, count: int) -> None:
        bench.needs(Can.PROBE)
        theta, spec = bench.theta(1).astype(np.float32), bench.spec
        modulation = np.linspace(-1, 1, count, dtype=np.float32)
        change = Change(bench.probes(first=2, count=count), modulation, 0.1 * bench.amplitude, *_range(spec))
        changed = change(theta).astype(spec.dtype)
        programmed = bench.look(changed)
        for held, what in (
            (theta, "programmed by its change"),
            (bench.theta(2), "programmed by a change that is wrong"),
        ):
            bench.look(held)
            bench.execute([Program(changed, change)])
            bench.agree(bench.look(None), programmed, f"parameters {what} do not read what they read when programmed")

    @pytest.mark.parametrize("baseline", ["shared", "fresh", "none"])
    @pytest.mark.parametrize("tau_theta", [1, 2])
    def test_training_equals_the_same_ticks_one_by_one(self, bench: _Bench, baseline: str, tau_theta: int) -> None:
        bench.needs(Can.TRAIN | Can.COST | Can.PROBE)
        theta, ticks = bench.theta(1).astype(bench.spec.dtype), 6
        shown = [_sample(bench.spec, (1, 2), number=number) for number in range(ticks)]
        low, high = inside(bench.spec.low + bench.amplitude, bench.spec.high - bench.amplitude)
        block = Train(
            joined(shown), bench.probes(0, ticks), 1, tau_theta, 2, baseline, bench.amplitude, float(low), float(high)
        )
        *_, traced = bench.execute([Program(theta), block])
        own = bench.look(None)
        costs = np.zeros((2, ticks), np.float32)
        at = theta
        for tick in range(ticks):
            plain, probed = bench.execute(
                [Program(at), Measure(shown[tick]), Measure(shown[tick], bench.probes(tick, 1))]
            )
            costs[:, tick] = _field(plain, "cost")[0], _field(probed, "cost")[0]
            modulation = costs[1] - costs[0] * (baseline != "none")
            if (tick + 1) % tau_theta == 0:
                first = tick + 1 - tau_theta
                window = replace(block.probes, first=first, count=tau_theta)
                change = Change(window, modulation[first : tick + 1], block.rate, block.low, block.high)
                at = change(at)
        wanted = {"modulation": modulation, "baseline": costs[0] * (baseline != "none")}
        bench.agree(_arrays(traced), wanted, "a block of training does not read what the same ticks read one by one")
        bench.agree(own, bench.look(at), "after a block of training the device does not hold what its costs lead to")

    @pytest.mark.parametrize("rule", Learn.RULES)
    def test_learning_by_itself_equals_the_rule_on_the_host(self, bench: _Bench, rule: str) -> None:
        bench.needs(Can.LEARN | Can.ACTIVITY | Can.OUTPUT)
        spec, updates, batch = bench.spec, 4, 2
        bare = {layer.normalise == "none" for layer in spec.layers[1:]}
        if bare != {rule == "mono_forward"}:
            pytest.skip("the network normalises between layers as the rule does not want it")
        labels = np.int64(spec.outputs * draws.uniform(_seeds(spec.replicas, 5), 0, updates * batch))
        shown = _sample(spec, (1, updates * batch), spec.replicas)
        shown = replace(shown, target=np.eye(spec.outputs)[labels][..., None, :, :])
        states = []
        for block in (1, updates):
            algorithm = _local_rule(rule, on_device=block > 1, block=block)
            state = algorithm.init(spec, _seeds(spec.replicas, 7))
            for first in range(0, updates, block):
                part = slice(first * batch, (first + block) * batch)
                assert shown.target is not None
                sample = Sample(shown.x[..., part, :], shown.target[..., part, :])
                state, _ = algorithm.tell(state, sample, bench.execute(algorithm.ask(state, sample)))
            held = {"theta": state.theta, "classes": getattr(state, "classes", None)}
            states.append({name: value for name, value in held.items() if value is not None and value.size})
        host, own = states
        bench.agree(
            own,
            host,
            "what a device learns by itself is not what the host makes of its activities",
            rounding=4 * updates * float(np.finfo(np.float32).eps),
        )

    @pytest.mark.parametrize(
        ("signal", "shape", "centre"),
        [
            ("target", "tanh", False),
            ("target", "tanh", True),
            ("local", "fast_sigmoid", False),
            ("error", "triangle", False),
        ],
    )
    def test_learning_in_time_equals_the_rule_on_the_host(
        self, bench: _Bench, minimised: Cost, signal: str, shape: str, centre: bool
    ) -> None:
        """The host follows the device's own activities in double precision. Of at most 32 updates, each rounds a
        parameter by half an epsilon, and its change, a product of rounded factors, by less than as much again.
        """
        bench.needs(Can.LEARN_IN_TIME | Can.ACTIVITY | Can.OUTPUT)
        spec, steps, sequences = bench.spec, 8, 4
        shown = _sequences(spec, steps, sequences)
        assert shown.target is not None
        weights = counted(shown.target).reshape(-1, steps, sequences)[0].T.reshape(2, -1)  # of steps, in two blocks
        begin = bench.theta(1).astype(spec.dtype).astype(float)
        algorithm = OSTTP(
            eta=0.05,
            cost=minimised,
            signal=signal,
            centre=centre,
            scale=0.7,
            surrogate=Surrogate(shape, slope=1.5, height=0.8),
            state="reported" if Can.MEMBRANES in spec.can else "estimated",
            update="step",
            batch=1,
            hidden_rate=0.5,
            optimizer=Descent(),
            start=lambda spec, seed: begin,
        )
        ends = []
        for block in (1, 2):
            rule = replace(algorithm, on_device=block > 1, block=block)
            state, spent = rule.init(spec, _seeds(spec.replicas, 7)), []
            for first in range(0, sequences, block):
                part = slice(first, first + block)
                sample = Sample(shown.x[..., part, :], shown.target[..., part, :])
                while state.sample < first + block:
                    readings = bench.execute(rule.ask(state, sample))
                    state, metrics = rule.tell(state, sample, readings)
                    spent.append(metrics["cost"])
            costs = np.stack(spent).reshape(2, -1, *spec.replicas)
            if block == 1:
                costs = np.stack([np.average(own, axis=0, weights=w) for own, w in zip(costs, weights, strict=True)])
            counts = {"step": np.array(state.step), "updates": np.array(state.updates)}
            ends.append({"theta": state.theta, "cost": costs.reshape(2, *spec.replicas), **counts})
        host, own = ends
        rounding, readout = steps * sequences * float(np.finfo(np.float32).eps), spec.layers[-1].size
        change = np.abs(host["theta"] - begin)
        for own_part, what in ((change[..., :-readout], "hidden layers"), (change[..., -readout:], "the last layer")):
            moved = float(own_part.max())
            _require(moved > 1000 * rounding, f"{what} hardly moved, by {moved:.3g}; give the kit another network")
        bench.agree(
            own,
            host,
            "what a device learns in time by itself is not what the host makes of its activities",
            rounding=rounding,
        )

    @pytest.mark.parametrize("hold", [1, 2])
    @pytest.mark.parametrize("site", list(Site), ids=lambda site: str(site.value))
    def test_many_probes_equal_one_by_one(self, bench: _Bench, site: Site, hold: int) -> None:
        bench.needs(Can.PROBE if site is Site.PARAMETERS else Can.NODE_PROBE)
        theta = bench.theta(1)
        together = bench.look(theta, bench.probes(5, 4, site, hold))
        for index in range(4):
            alone = bench.look(theta, bench.probes(5 + index, 1, site, hold))
            bench.agree(
                bench.probe(together, index),
                alone,
                f"probe {index} of four asked for at once does not read what it reads alone",
            )

    def test_batch_of_commands_equals_one_by_one(self, bench: _Bench) -> None:
        commands: list[Command] = [Program(bench.theta(1)), bench.plain]
        if Can.PROBE in bench.spec.can:
            commands += [Measure(bench.sample, bench.probes(count=3), bench.observable), bench.plain]
        commands += [Program(bench.theta(2)), bench.plain]
        runs: tuple[list[tuple[Reading, ...]], list[tuple[Reading, ...]]] = ([], [])
        for _ in range(bench.repeats):
            runs[0].append(bench.execute(commands))
            runs[1].append(tuple(reading for command in commands for reading in bench.execute([command])))
        name = OBSERVABLES[bench.observable]
        for place in range(len(runs[0][0])):
            batch, single = (
                {name: _mean([_arrays(readings[place])[name] for readings in run])}
                if name in _arrays(run[0][place])
                else {}
                for run in runs
            )
            bench.agree(batch, single, f"reading {place} of a batch is not that of the same commands one by one")

    def test_programming_what_is_held_changes_nothing(self, bench: _Bench) -> None:
        theta = bench.theta(1)
        before = bench.look(theta)
        kept = bench.snapshot()
        bench.execute([Program(theta.copy())])
        if difference := _difference(bench.snapshot(), kept, "snapshot"):
            _fail(f"programming what is already held changed the device's state (it wrote?): {difference}")
        bench.agree(before, bench.look(None), "programming what is already held changed the readings")

    def test_caller_keeps_its_arrays(self, bench: _Bench) -> None:
        theta = bench.theta(1)
        before, mine = theta.copy(), copy.deepcopy(bench.sample)
        first = bench.look(theta)
        if Can.PROBE in bench.spec.can:
            bench.look(theta, bench.probes(count=2))
        _require(bool(np.array_equal(theta, before)), "the device wrote into the array of a Program")
        _require(mine == bench.sample, "the device wrote into the arrays of a sample")
        _require(not theta.flags.writeable or bool(first), "the device made the caller's array read-only")

    def test_rests_from_any_condition(self, bench: _Bench) -> None:
        device, theta = bench.device, bench.theta(1)
        before = bench.look(theta)
        self._calmly(device.rest, "rest after a measurement")
        self._calmly(device.rest, "rest at rest")
        bench.agree(before, bench.look(theta), "after rest, programming and measuring read something else")
        with contextlib.suppress(HwtrainError):  # another check wants the refusal
            device.execute([Program(_with_last(theta, math.nan))])
        self._calmly(device.rest, "rest after a refused command")
        bench.agree(before, bench.look(theta), "after an error and rest, programming and measuring read something else")

    def test_closes_twice_and_rests_after_close(self, bench: _Bench) -> None:
        bench.look(bench.theta(1))
        self._calmly(bench.device.close, "close")
        self._calmly(bench.device.rest, "rest after close")
        self._calmly(bench.device.close, "close after close")
        self._calmly(bench.device.rest, "rest after the second close")

    def test_restored_device_goes_on_as_before(self, bench: _Bench, another: Device | None) -> None:
        bench.needs(Can.STATE)
        if not isinstance(bench.device, Stateful):
            _fail("the spec declares STATE, and the device has no snapshot and restore")
        held = Program(bench.theta(1))  # asked for again after the snapshot, as an algorithm between updates does
        bench.execute([held, bench.plain])
        kept = bench.device.snapshot()
        for name, value in kept.items():
            _require(isinstance(value, np.ndarray), f"snapshot[{name!r}] is a {type(value).__name__}, not an array")
        safe = copy.deepcopy(kept)
        going_on = [held, *self._everything(bench, bench.sample)]
        first = bench.execute(going_on)
        if difference := _difference(kept, safe, "snapshot"):
            _fail(f"using the device changes a snapshot taken before (it must be a copy): {difference}")
        bench.device.restore(kept)
        if difference := _difference(bench.device.snapshot(), safe, "snapshot"):
            _fail(f"a snapshot right after restore is not what was restored: {difference}")
        self._same_continuation(first, bench.execute(going_on), "after restore")
        if difference := _difference(kept, safe, "snapshot"):
            _fail(f"using a restored device changes the snapshot it came from (it must be copied): {difference}")
        if another is None:
            return
        if not isinstance(another, Stateful):
            _fail("the fixture `another` gives a device without snapshot and restore")
        another.restore(safe)
        self._same_continuation(first, tuple(another.execute(going_on)), "after restore on a second device")

    def test_gradient_agrees_with_finite_differences(self, bench: _Bench, difference: float | None) -> None:
        bench.needs(Can.GRADIENT | Can.COST)
        if bench.spec.noise or difference is None:
            pytest.skip("finite differences need a cost that is smooth and without noise")
        theta, size = bench.theta(1), bench.spec.size
        (reading,) = bench.execute([Program(theta), Measure(bench.sample, observe=Can.GRADIENT)])
        gradient = _field(reading, "gradient")[..., 0, :]
        limit = max(1e-6, 10 * difference**2) * (1 + float(np.max(np.abs(gradient)))) + bench.allowance
        for index in range(0, size, max(1, size // 24)):  # two dozen of them, spread over all layers
            costs = []
            for side in (1, -1):
                moved = theta.copy()
                moved[..., index] += side * difference
                (reading,) = bench.execute([Program(moved), Measure(bench.sample)])
                costs.append(_field(reading, "cost")[..., 0].astype(np.float64))
            slope = (costs[0] - costs[1]) / (2 * difference)
            far = float(np.max(np.abs(slope - gradient[..., index])))
            _require(
                far <= limit,
                f"the gradient of parameter {index} is {gradient[..., index]}, finite differences give {slope}",
            )

    def test_replicas_equal_separate_devices(self, bench: _Bench, single: Callable[[int], Device] | None) -> None:
        spec = bench.spec
        if not spec.replicas:
            pytest.skip("the device has no replica axis")
        if single is None:
            pytest.skip("the fixture `single` gives no separate devices to compare with")
        (count,) = spec.replicas
        own = _sample(spec, bench.sample.x.shape[-3:-1], spec.replicas)
        commands = self._everything(bench, own)
        stack = bench.execute(commands)
        for index in range(count):
            alone = single(index)
            _require(not alone.spec.replicas, f"single({index}) has the replica axes {alone.spec.replicas}")
            readings = alone.execute([_of_replica(command, index) for command in commands])
            alone.close()
            for place, (one, many) in enumerate(zip(readings, stack, strict=True)):
                mine = {name: value[index] for name, value in _arrays(many).items()}
                if difference := _difference(mine, _arrays(one), f"reading {place}"):
                    _fail(f"replica {index} of the stack does not read what it reads alone: {difference}")

    def _refused(self, bench: _Bench, commands: Sequence[Command], error: type[HwtrainError], what: str) -> None:
        before = bench.settle()
        try:
            bench.device.execute([Program(bench.theta(2)), *commands])
        except error:
            pass
        except Exception as other:
            _fail(f"{what} raised {type(other).__name__} ({other}) instead of {error.__name__}")
        else:
            _fail(f"{what}, was accepted (clipped? ignored?) instead of refused with {error.__name__}")
        bench.unchanged(before, f"{what}, was refused")

    def _at_the_edge(self, bench: _Bench) -> Array:
        bench.needs(Can.PROBE)
        if not math.isfinite(bench.spec.high):
            pytest.skip("the range has no high end")
        return np.full_like(bench.theta(1), bench.spec.high - 0.5 * bench.amplitude)

    def _volatile(self, bench: _Bench, can: Can, site: Site) -> None:
        bench.needs(can)
        before = bench.look(bench.theta(1))
        bench.execute([Measure(bench.sample, bench.probes(count=3, site=site), bench.observable)])
        bench.agree(before, bench.look(None), "a probe leaves a trace: the plain measurement after it is another")

    @staticmethod
    def _calmly(action: Callable[[], None], what: str) -> None:
        try:
            action()
        except Exception as error:
            _fail(f"{what} raised {type(error).__name__}: {error}")

    @staticmethod
    def _everything(bench: _Bench, sample: Sample) -> list[Command]:
        """Programs and measurements of every kind; in some programs a replica keeps what it has."""
        partly = bench.theta(2)
        if bench.spec.replicas:
            partly[0] = bench.theta(1)[0]
        commands: list[Command] = [bench.plain]
        for theta in (bench.theta(1), partly, bench.theta(3)):
            commands += [Program(theta), Measure(sample, observe=bench.all_observables), bench.plain]
            for can, site in ((Can.PROBE, Site.PARAMETERS), (Can.NODE_PROBE, Site.NODES)):
                if can in bench.spec.can:
                    commands.append(Measure(sample, bench.probes(7, 3, site, 2), bench.all_observables))
        return commands

    @staticmethod
    def _same_continuation(first: tuple[Reading, ...], second: tuple[Reading, ...], when: str) -> None:
        for place, (a, b) in enumerate(zip(first, second, strict=True)):
            if difference := _difference(_arrays(b), _arrays(a), f"reading {place}"):
                _fail(f"{when} the device does not go on as it did: {difference}. What does the snapshot lack?")


@dataclass(frozen=True, slots=True)
class _Bench:
    """A device and what the checks do to it.

    Args:
        device: under test.
        sample: presented to it.
        allowance: of cost differences, beside noise.
        amplitude: of probes.
        repeats: readings averaged before a comparison.
    """

    device: Device
    sample: Sample
    allowance: float
    amplitude: float
    repeats: int

    @property
    def spec(self) -> DeviceSpec:
        return self.device.spec

    @property
    def exact(self) -> bool:
        return self.spec.noise == 0 and self.allowance == 0

    @property
    def tolerance(self) -> float:
        """Of the difference of two means of `repeats` costs."""
        return SIGMAS * self.spec.noise * math.sqrt(2 / self.repeats) + self.allowance

    @property
    def observables(self) -> list[Can]:
        return [can for can in OBSERVABLES if can in self.spec.can]

    @property
    def observable(self) -> Can:
        """What stands for the state of the device: its cost, else the next best it reports."""
        if not self.observables:
            pytest.skip("the device reports nothing")
        return self.observables[0]

    @property
    def all_observables(self) -> Can:
        every = Can(0)
        for can in self.observables:
            every |= can
        return every

    @property
    def plain(self) -> Measure:
        return Measure(self.sample, observe=self.observable)

    def needs(self, can: Can) -> None:
        """Skip the check if the device does not offer this."""
        if can not in self.spec.can:
            pytest.skip(f"the device does not offer {can.names()}")

    def theta(self, number: int) -> Array:
        """Parameters well within the range, others for every number."""
        low, high = _range(self.spec)
        seed = _seeds(self.spec.replicas, 1000 * number)
        theta: Array = low + (high - low) * (0.25 + 0.5 * draws.uniform(seed, 0, self.spec.size))
        return theta

    def probes(self, first: int = 0, count: int = 1, site: Site = Site.PARAMETERS, hold: int = 1) -> Probes:
        code = Rademacher(amplitude=self.amplitude)
        return Probes(code, _seeds(self.spec.replicas, 77), first, count, hold, site)

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        return tuple(self.device.execute(commands))

    def look(self, theta: Array | None, probes: Probes | None = None) -> dict[str, Array]:
        """Program theta, unless None, and measure: all that the device reports, or the mean cost if it is not exact.

        What has not the declared axes is left out; the check of the axes reports it.
        """
        observe = self.all_observables if self.exact else self.observable
        commands: list[Command] = [] if theta is None else [Program(theta)]
        commands += [Measure(self.sample, probes, observe)] * self.repeats
        readings = [_arrays(reading) for reading in self.execute(commands)]
        wanted = _shapes(self.spec, self.sample, 1 if probes is None else probes.count)
        return {
            name: _mean([reading[name] for reading in readings])
            for name, value in readings[0].items()
            if name in wanted and _fits(value.shape, wanted[name])
        }

    def probe(self, look: Mapping[str, Array], index: int) -> dict[str, Array]:
        """One of several probes, with its axis."""
        axis = len(self.spec.replicas)
        return {name: np.take(value, [index], axis=axis) for name, value in look.items()}

    def differs(self, first: Mapping[str, Array], second: Mapping[str, Array], rounding: float = 0.0) -> str:
        """In which way two looks differ by more than is allowed; "" if they agree."""
        for name in (name for name in first if name in second):
            a, b = first[name], second[name]
            limit = self.tolerance + rounding * (1 + float(np.max(np.abs(a))))
            far = np.abs(a.astype(np.float64) - b) if a.shape == b.shape else np.asarray(math.inf)
            if not np.all(far <= limit):
                place = tuple(int(i) for i in np.argwhere(~(far <= limit))[0])
                return (
                    f"{name}{list(place)} is {a[place]:.6g} and {b[place]:.6g}, {far[place]:.3g} apart; "
                    f"allowed are {limit:.3g}"
                )
        return ""

    def agree(
        self,
        first: Mapping[str, Array],
        second: Mapping[str, Array],
        complaint: str,
        rounding: float = 0.0,
        only: Sequence[str] | None = None,
    ) -> None:
        if only is not None:
            first = {name: value for name, value in first.items() if name.split("[")[0] in only}
        if difference := self.differs(first, second, rounding):
            _fail(f"{complaint}: {difference}")

    def snapshot(self) -> dict[str, Array]:
        """All that the device says of its state, or nothing."""
        if Can.STATE in self.spec.can and isinstance(self.device, Stateful):
            return copy.deepcopy(dict(self.device.snapshot()))
        return {}

    def settle(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """Bring the device to known parameters; what it then reads, and its state."""
        look = self.look(self.theta(1))
        return look, self.snapshot()

    def unchanged(self, before: tuple[Mapping[str, Array], Mapping[str, Array]], when: str) -> None:
        look, kept = before
        if difference := _difference(self.snapshot(), kept, "snapshot"):
            _fail(f"{when}, and yet the device's state changed: {difference}. Refuse before anything is carried out.")
        self.agree(
            look, self.look(None), f"{when}, and yet the readings changed. Refuse before anything is carried out"
        )


@dataclass(frozen=True, slots=True)
class Goal:
    """What an algorithm must learn.

    Args:
        replicas: how many learn at once, each from its own seed.
        learners: how many of them must reach the goal.
        factor: share of its first training cost to which a replica must come.
        measurements: budget of each replica.
    """

    replicas: int = 8
    learners: int = 5
    factor: float = 0.3
    measurements: int = 20_000


class AlgorithmConformance:
    """What every algorithm must do. Override `algorithm`; the other fixtures where the defaults do not fit.

    The checks train for a few steps on the smallest device of its kind, by default a simulated network of nine
    parameters on the exclusive or. A short `window` between updates makes them say more: `steps` should span several.
    """

    @pytest.fixture
    def algorithm(self) -> Algorithm:
        """The algorithm; must be overridden."""
        _fail("override the fixture `algorithm` of AlgorithmConformance with one that gives an algorithm")

    @pytest.fixture
    def make_device(self) -> Callable[[int | None, int], Device]:
        """Makes the device of chips `first`, `first` + 1, ...; with None that of chip `first`, without the axis."""

        def make(replicas: int | None, first: int = 0) -> Device:
            return Simulated(mlp([2, 2, 1]), MeanSquaredError(), seed=first, chips=replicas)

        return make

    @pytest.fixture
    def task(self) -> Task:
        """What the device is shown."""
        return parity(2, batch=4, name="xor")

    @pytest.fixture
    def steps(self) -> int:
        """Steps (one ask, one tell) of every check but the last."""
        return 12

    @pytest.fixture
    def goal(self) -> Goal:
        """What must be learnt."""
        return Goal()

    @pytest.fixture
    def rig(self, algorithm: Algorithm, make_device: Callable[..., Device], task: Task, steps: int) -> _Rig:
        """The algorithm with what the checks do to it; not meant to be overridden."""
        return _Rig(algorithm, make_device, task, steps)

    def test_declared_needs_suffice(self, rig: _Rig) -> None:
        needs = rig.algorithm.needs
        device = _Limited(rig.make_device(None, 0), needs)
        try:
            list(rig.train(device))
        except CapabilityError as error:
            _fail(f"{rig.name} asks for more than its `needs` declare ({needs.names()}): {error}")

    def test_ask_is_pure(self, rig: _Rig) -> None:
        def ask(algorithm: Algorithm, state: Any, sample: Sample, readings: Sequence[Reading]) -> Any:
            return tuple(algorithm.ask(state, sample))

        self._pure(rig, "ask", ask)

    def test_tell_is_pure(self, rig: _Rig) -> None:
        def tell(algorithm: Algorithm, state: Any, sample: Sample, readings: Sequence[Reading]) -> Any:
            after, metrics = algorithm.tell(state, sample, readings)
            return after, dict(metrics)

        self._pure(rig, "tell", tell)

    def test_presents_and_gradient_are_pure(self, rig: _Rig) -> None:
        def both(algorithm: Algorithm, state: Any, sample: Sample, readings: Sequence[Reading]) -> Any:
            return algorithm.presents(state), algorithm.gradient(state)

        self._pure(rig, "presents or gradient", both)

    def test_init_is_a_function_of_spec_and_seed(self, rig: _Rig) -> None:
        spec, seed = rig.make_device(3, 0).spec, _seeds((3,), 5)
        first = rig.algorithm.init(spec, seed)
        again = copy.deepcopy(rig.algorithm).init(spec, seed.copy())
        if difference := _difference(again, first, "state"):
            _fail(f"{rig.name}.init gives another state for the same spec and seed: {difference}")
        _require(
            first.theta.shape == (3, spec.size), f"theta has the shape {first.theta.shape} instead of {(3, spec.size)}"
        )
        _require(first.step == 0 and first.updates == 0, "a first state must count no steps and no updates")

    def test_counts_are_honest(self, rig: _Rig) -> None:
        device = rig.make_device(None, 0)
        before = rig.algorithm.init(device.spec, _seeds((), 5))
        for state, _ in rig.train(device):
            _require(state.step > before.step, f"a step did not raise state.step from {before.step}")
            _require(state.updates >= before.updates, "state.updates went down")
            if state.updates == before.updates and not _same(state.theta, before.theta):
                _fail("theta changed, but state.updates did not count it")
            estimate = rig.algorithm.gradient(state)
            _require(
                estimate is None or estimate.shape == state.theta.shape,
                "gradient(state) must be None or have the shape of theta",
            )
            before = state

    @pytest.mark.parametrize("replicas", [None, 3])
    def test_metrics_have_the_cost_of_every_replica(self, rig: _Rig, replicas: int | None) -> None:
        shape = () if replicas is None else (replicas,)
        for _, metrics in rig.train(rig.make_device(replicas, 0)):
            _require("cost" in metrics, f"the metrics lack `cost`; they have {', '.join(metrics) or 'nothing'}")
            _require(
                np.shape(metrics["cost"]) == shape,
                f"the metric `cost` has the shape {np.shape(metrics['cost'])} instead of {shape}, one per replica",
            )

    def test_state_survives_a_checkpoint(self, rig: _Rig, tmp_path: Path) -> None:
        device = rig.make_device(3, 0)
        *_, (state, _) = rig.train(device)
        fresh = rig.algorithm.init(device.spec, _seeds((3,), 5))
        checkpoint.save(tmp_path, checkpoint.flatten("state", state))
        back = checkpoint.unflatten("state", fresh, checkpoint.load(tmp_path))
        if difference := _difference(back, state, "state"):
            _fail(f"the state does not survive a checkpoint, which holds arrays and numbers only: {difference}")

    def test_resuming_equals_never_stopping(self, rig: _Rig) -> None:
        pristine, device, seed = copy.deepcopy(rig.algorithm), rig.make_device(3, 0), _seeds((3,), 5)
        saved: list[tuple[dict[str, Array], dict[str, Array]]] = []
        whole = None
        for state, _ in rig.train(device):
            held = device.snapshot() if Can.STATE in device.spec.can and isinstance(device, Stateful) else {}
            saved.append((copy.deepcopy(checkpoint.flatten("state", state)), copy.deepcopy(dict(held))))
            whole = state
        for stop in sorted({1, len(saved) // 3, len(saved) // 2, len(saved) - 1} - {0}):
            arrays, held = saved[stop - 1]
            algorithm, fresh = copy.deepcopy(pristine), rig.make_device(3, 0)
            if held and isinstance(fresh, Stateful):
                fresh.restore(held)
            state = checkpoint.unflatten("state", algorithm.init(fresh.spec, seed), arrays)
            rest = replace(rig, algorithm=algorithm, steps=len(saved) - stop)
            *_, (end, _) = rest.train(fresh, state)
            if difference := _difference(end, whole, "state"):
                _fail(
                    f"stopped after step {stop} and resumed, {rig.name} ends elsewhere than without a stop: "
                    f"{difference}."
                    f"{_hidden(pristine, rig.algorithm)}"
                )

    def test_transcript_rebuilds_the_parameters(self, rig: _Rig) -> None:
        pristine, device = copy.deepcopy(rig.algorithm), _Recorded(rig.make_device(3, 0))
        *_, (state, _) = rig.train(device)
        try:
            *_, (again, _) = replace(rig, algorithm=pristine).train(_Replayed(device))
        except _OtherCommandsError as error:
            _fail(f"replaying its own transcript, {rig.name} asks other commands: {error}")
        if difference := _difference(again, state, "state"):
            _fail(f"the recorded readings do not rebuild the state: {difference}.{_hidden(pristine, rig.algorithm)}")

    def test_replicas_equal_separate_runs(self, rig: _Rig) -> None:
        pristine = copy.deepcopy(rig.algorithm)
        stack = list(rig.train(rig.make_device(3, 0)))
        for index in range(3):
            alone = replace(rig, algorithm=copy.deepcopy(pristine), first=rig.first + index)
            for number, (state, metrics) in enumerate(alone.train(rig.make_device(None, index))):
                for what, one, many in (
                    ("theta", state.theta, stack[number][0].theta[index]),
                    ("the cost", metrics["cost"], np.asarray(stack[number][1]["cost"])[index]),
                ):
                    if difference := _difference(many, one, what):
                        _fail(
                            f"replica {index} of a stack is not what it is in a run of its own after step "
                            f"{number + 1} (do replicas mix?): {difference}"
                        )

    def test_commands_stay_within_the_spec(self, rig: _Rig) -> None:
        inner = rig.make_device(3, 0)
        theta = rig.algorithm.init(inner.spec, _seeds((3,), 5)).theta
        room = 0.5 * float(theta.max() - theta.min()) or 0.5
        spec = replace(
            inner.spec,
            low=max(inner.spec.low, float(theta.min()) - room),
            high=min(inner.spec.high, float(theta.max()) + room),
        )
        for slope in (1e3, -1e3):  # costs so steep that every update runs into the end of the range
            try:
                for _ in rig.train(_Steep(inner, spec, slope)):
                    pass
            except LimitError as error:
                _fail(f"{rig.name} asks for what the spec refuses: {error}")

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("at", [0, 3])
    @pytest.mark.parametrize("names", [("cost", "sample_cost", "gradient"), ("output", "activity")], ids="+".join)
    def test_invalid_reading_is_contained(self, rig: _Rig, names: tuple[str, ...], at: int, value: float) -> None:
        if not any(can in rig.algorithm.needs for can, name in OBSERVABLES.items() if name in names):
            pytest.skip(f"the algorithm reads no {' or '.join(names)}")
        pristine = copy.deepcopy(rig.algorithm)
        calm = [state for state, _ in rig.train(rig.make_device(3, 0))]
        faulty = _Faulty(rig.make_device(3, 0), names, at, value)
        states: list[Any] = []
        try:
            with np.errstate(invalid="ignore", over="ignore"):
                states += [state for state, _ in replace(rig, algorithm=pristine).train(faulty)]
        except LimitError as error:
            _fail(
                f"one {value} among the readings of replica 1 in step {at + 1} led to a command out of limits: {error}"
            )
        for number, (state, other) in enumerate(zip(states, calm, strict=True)):
            _require(
                bool(np.isfinite(state.theta).all()),
                f"one {value} among the readings of replica 1 in step {at + 1} made theta {value} in step {number + 1}",
            )
            for index in (0, 2):
                if difference := _difference(state.theta[index], other.theta[index], "theta"):
                    _fail(f"a {value} read by replica 1 changed replica {index} (do replicas mix?): {difference}")
        after = at + len(states) // 2
        _require(
            not _same(states[after].theta[1], states[-1].theta[1]) or _same(calm[after].theta[1], calm[-1].theta[1]),
            f"after one {value} among the readings of step {at + 1}, replica 1 never moved again while the others did",
        )

    def test_learns(self, rig: _Rig, goal: Goal) -> None:
        device, seed = rig.make_device(goal.replicas, 0), _seeds((goal.replicas,), 0)
        state = rig.algorithm.init(device.spec, seed)
        before, spent = _training_cost(device, rig.task, state.theta), 0
        while spent < goal.measurements:
            sample = joined([rig.task.sample(seed, index) for index in rig.algorithm.presents(state)])
            commands = rig.algorithm.ask(state, sample)
            state, _ = rig.algorithm.tell(state, sample, device.execute(commands))
            for command in commands:
                if isinstance(command, Measure):
                    spent += 1 if command.probes is None else command.probes.count
        share = _training_cost(device, rig.task, state.theta) / before
        learners = int(np.sum(share <= goal.factor))
        _require(
            learners >= goal.learners,
            f"{learners} of {goal.replicas} replicas came to {goal.factor:g} of their first training cost within "
            f"{goal.measurements} measurements; {goal.learners} must. Shares reached: {np.round(np.sort(share), 3)}",
        )

    @staticmethod
    def _pure(rig: _Rig, name: str, call: Callable[[Algorithm, Any, Sample, Sequence[Reading]], Any]) -> None:
        """Call twice in every step, with arguments that cannot be written to."""
        device, seed = rig.make_device(3, 0), _seeds((3,), rig.first)
        algorithm = rig.algorithm
        pristine, state = copy.deepcopy(algorithm), algorithm.init(device.spec, seed)
        for number in range(1, rig.steps + 1):
            sample = joined([rig.task.sample(seed, index) for index in algorithm.presents(state)])
            commands = tuple(algorithm.ask(state, sample))
            readings = tuple(device.execute(commands))
            given = _frozen(copy.deepcopy((state, sample, readings)))
            kept = copy.deepcopy(given)
            numpys, pythons = str(np.random.get_state()), random.getstate()
            try:
                first, second = call(algorithm, *given), call(algorithm, *given)
            except ValueError as error:
                if "read-only" not in str(error):
                    raise
                _fail(f"{rig.name}.{name} writes into the arrays it was given in step {number}: {error}")
            if numpys != str(np.random.get_state()) or pythons != random.getstate():
                _fail(f"{rig.name}.{name} draws from a global random generator; derive draws from (seed, step) instead")
            if difference := _difference(given, kept, "argument"):
                _fail(f"{rig.name}.{name} changed what it was given in step {number}: {difference}")
            if difference := _difference(second, first, name):
                _fail(
                    f"{rig.name}.{name} called twice with the same arguments gives two results in step {number}: "
                    f"{difference}.{_hidden(pristine, algorithm)}"
                )
            state, _ = algorithm.tell(state, sample, readings)


@dataclass(frozen=True, slots=True)
class _Rig:
    """An algorithm, and how to train something with it.

    Args:
        algorithm: under test.
        make_device: of the fixture.
        task: what is shown.
        steps: number of asks.
        first: seed of the first replica.
    """

    algorithm: Algorithm
    make_device: Callable[..., Device]
    task: Task
    steps: int
    first: int = 5

    @property
    def name(self) -> str:
        return type(self.algorithm).__name__

    def train(self, device: Device, state: Any = None) -> Iterator[tuple[Any, Mapping[str, Array]]]:
        """State and metrics after every step, checked against the spec; copies, whatever happens to the originals."""
        seed = _seeds(device.spec.replicas, self.first)
        if state is None:
            state = self.algorithm.init(device.spec, seed)
        taken = []
        for _ in range(self.steps):
            sample = joined([self.task.sample(seed, index) for index in self.algorithm.presents(state)])
            commands = tuple(self.algorithm.ask(state, sample))
            check(device.spec, commands)
            state, metrics = self.algorithm.tell(state, sample, device.execute(commands))
            taken.append((copy.deepcopy(state), dict(metrics)))
            yield taken[-1]


class _Wrapped:
    """A device that passes everything on."""

    def __init__(self, inner: Device, spec: DeviceSpec | None = None) -> None:
        self.inner = inner
        self._spec = inner.spec if spec is None else spec

    @property
    def spec(self) -> DeviceSpec:
        return self._spec

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        return tuple(self.inner.execute(commands))

    def rest(self) -> None:
        self.inner.rest()

    def close(self) -> None:
        self.inner.close()


class _Limited(_Wrapped):
    """Offers only what is needed, and refuses the rest."""

    def __init__(self, inner: Device, can: Can) -> None:
        if missing := can & ~inner.spec.can:
            _fail(f"make_device gives a device without {missing.names()}, which the algorithm needs")
        super().__init__(inner, replace(inner.spec, can=can))

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        check(self.spec, commands)
        return super().execute(commands)


class _Steep(_Wrapped):
    """A device in a narrow range, all of whose costs are much steeper than they are."""

    def __init__(self, inner: Device, spec: DeviceSpec, slope: float) -> None:
        super().__init__(inner, spec)
        self._slope = slope

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        scaled = []
        for reading in super().execute(commands):
            changes = {
                name: self._slope * value
                for name in ("cost", "sample_cost", "gradient")
                if (value := getattr(reading, name)) is not None
            }
            scaled.append(replace(reading, **changes))
        return tuple(scaled)


class _Faulty(_Wrapped):
    """In one exchange, replica 1 reads an invalid value everywhere in the named fields."""

    def __init__(self, inner: Device, names: Sequence[str], at: int, value: float) -> None:
        super().__init__(inner)
        self._names, self._at, self._value = names, at, value
        self._calls = 0

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        readings = super().execute(commands)
        self._calls += 1
        if self._calls != self._at + 1:
            return readings
        return tuple(
            replace(
                reading,
                **{name: self._spoilt(value) for name in self._names if (value := getattr(reading, name)) is not None},
            )
            for reading in readings
        )

    def _spoilt(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(self._spoilt(each) for each in value)
        spoilt = np.array(value)
        spoilt[1] = self._value
        return spoilt


class _Recorded(_Wrapped):
    """Keeps every exchange."""

    def __init__(self, inner: Device) -> None:
        super().__init__(inner)
        self.exchanges: list[tuple[tuple[Command, ...], tuple[Reading, ...]]] = []

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        readings = super().execute(commands)
        self.exchanges.append(copy.deepcopy((tuple(commands), readings)))
        return readings


class _OtherCommandsError(Exception):
    """A replayed algorithm left its transcript."""


class _Replayed(_Wrapped):
    """Answers from a recording, if it is asked what was asked then."""

    def __init__(self, recorded: _Recorded) -> None:
        super().__init__(recorded.inner)
        self._exchanges = iter(recorded.exchanges)

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        asked, readings = next(self._exchanges)
        if difference := _difference(tuple(commands), asked, "commands"):
            raise _OtherCommandsError(difference)
        return readings


class PerturbationConformance:
    """What every perturbation must do. Override `perturbation`; the other fixtures where the defaults do not fit."""

    @pytest.fixture
    def perturbation(self) -> Perturbation:
        """The perturbation; must be overridden."""
        _fail("override the fixture `perturbation` of PerturbationConformance with one that gives a perturbation")

    @pytest.fixture
    def size(self) -> int:
        """Number of parameters."""
        return 9

    @pytest.fixture
    def complete(self, perturbation: Perturbation, size: int) -> bool:
        """Is the code orthogonal to the last digit after one block? Else only statistically, over many."""
        return perturbation.block(size) > 1

    @pytest.fixture
    def zero_mean(self) -> bool:
        """Do the perturbations of every parameter sum to zero? Where not, a baseline is needed."""
        return True

    @pytest.fixture
    def bias_order(self) -> int:
        """The power of the amplitude with which the bias from curvature falls: 2 for codes with both signs, else 1."""
        return 1

    def test_is_a_function_of_seed_and_step(self, perturbation: Perturbation, size: int) -> None:
        seed, steps = _seeds((), 3), np.arange(40)
        once = np.array(perturbation(seed, steps, size))
        shuffled = np.random.default_rng(0).permutation(40)
        perturbation(_seeds((), 4), steps + 7, size)
        again = np.array(perturbation(seed, steps[shuffled], size))
        _require(_same(again, once[shuffled]), "the perturbation of a step depends on the order of the calls")
        for step in (0, 7, 39):
            alone = perturbation(seed, np.array([step]), size)
            _require(_same(alone[0], once[step]), f"step {step} asked for alone is not what it is among others")
        far = perturbation(seed, np.array([10**9, 2**31 + 5]), size)
        _require(bool(np.isfinite(far).all()), "the perturbation is not finite after a thousand million steps")

    def test_stack_of_seeds_equals_single_seeds(self, perturbation: Perturbation, size: int) -> None:
        steps, seeds = np.arange(20, 31), _seeds((2, 3), 11)
        stack = perturbation(seeds, steps, size)
        for place in np.ndindex(2, 3):
            alone = perturbation(np.asarray(seeds[place]), steps, size)
            _require(_same(stack[place], alone), f"seed {place} of a stack does not give what it gives alone")

    @pytest.mark.parametrize("replicas", [(), (1,), (2, 3)])
    @pytest.mark.parametrize("number", [1, 2, 33, 64])
    def test_shape_and_dtype(self, perturbation: Perturbation, number: int, replicas: tuple[int, ...]) -> None:
        delta = perturbation(_seeds(replicas, 0), np.arange(5), number)
        wanted = (*replicas, 5, number)
        _require(delta.shape == wanted, f"the shape is {delta.shape} instead of {wanted} (..., k, size)")
        _require(delta.dtype == np.float64, f"the dtype is {delta.dtype} instead of float64")

    def test_nobody_can_spoil_the_next_call(self, perturbation: Perturbation, size: int) -> None:
        seed, steps = _seeds((2,), 3), np.arange(4)
        delta = perturbation(seed, steps, size)
        kept = np.array(delta)
        if delta.flags.writeable:
            delta[...] = 0
        _require(_same(perturbation(seed, steps, size), kept), "writing into a result changes what later calls give")

    def test_reach_is_the_largest_magnitude(self, perturbation: Perturbation, size: int) -> None:
        delta = perturbation(_seeds((3,), 0), self._window(perturbation, size), size)
        largest, reach = float(np.max(np.abs(delta))), perturbation.reach(size)
        _require(largest <= reach * (1 + 1e-12), f"a parameter is moved by {largest:.6g}, beyond the reach {reach:.6g}")
        _require(largest >= 0.99 * reach, f"no parameter is moved by more than {largest:.6g}; the reach is {reach:.6g}")

    def test_mean_is_zero(self, perturbation: Perturbation, size: int, complete: bool, zero_mean: bool) -> None:
        if not zero_mean:
            pytest.skip("the code has a mean, and needs a baseline")
        steps = self._window(perturbation, size)
        mean = perturbation(_seeds((3,), 0), steps, size).mean(axis=-2)
        limit = self._limit(perturbation, size, len(steps), complete) * math.sqrt(perturbation.mean_square(size))
        far = float(np.max(np.abs(mean)))
        _require(far <= limit, f"the mean over {len(steps)} steps is {far:.3g}; at most {limit:.3g} is zero")

    def test_parameters_are_told_apart(self, perturbation: Perturbation, size: int, complete: bool) -> None:
        block = perturbation.block(size)
        steps = np.arange(block) if complete else self._window(perturbation, size)
        delta = perturbation(_seeds((3,), 0), steps, size)
        moments = np.matmul(delta.swapaxes(-1, -2), delta) / len(steps)
        square = perturbation.mean_square(size)
        own = moments[..., np.arange(size), np.arange(size)]
        limit = self._limit(perturbation, size, len(steps), complete) * square
        far = float(np.max(np.abs(own - square)))
        _require(far <= limit, f"the mean square is {square + far:.6g} or {square - far:.6g} instead of {square:.6g}")
        cross = float(np.max(np.abs(moments - own[..., None] * np.eye(size))))
        _require(
            cross <= limit,
            f"over {len(steps)} steps two parameters have a product of {cross:.3g} on average; at most {limit:.3g} "
            "is orthogonal",
        )

    def test_gradient_estimate_converges(self, perturbation: Perturbation, size: int, complete: bool) -> None:
        block = perturbation.block(size)
        if complete:
            error = self._error(perturbation, size, np.arange(block))
            _require(
                error < 1e-10, f"after a block of {block} steps the gradient of a linear cost is off by {error:.3g}"
            )
            return
        few, many = 64 * block, 1024 * block
        ratio = self._error(perturbation, size, np.arange(few)) / self._error(perturbation, size, np.arange(many))
        _require(
            ratio > 3.0,
            f"16 times the probes lower the error of the gradient by a factor of {ratio:.2f}; k^-1/2 means 4",
        )

    def test_bias_falls_with_the_amplitude(self, perturbation: Perturbation, size: int, bias_order: int) -> None:
        steps = np.arange(4 * perturbation.block(size))
        delta = perturbation(_seeds((8,), 0), steps, size)
        delta = delta / perturbation.reach(size)
        square = perturbation.mean_square(size) / perturbation.reach(size) ** 2
        source = np.random.default_rng(2)
        hessian, third = source.standard_normal((size, size)), source.standard_normal(size)
        bias = []
        for amplitude in (0.02, 0.01):
            moved = amplitude * delta
            curved = 0.5 * np.einsum("...i,ij,...j->...", moved, hessian, moved) + moved**3 @ third
            estimate = np.matmul(curved[..., None, :], moved)[..., 0, :] / (len(steps) * square * amplitude**2)
            bias.append(math.sqrt(float(np.mean(estimate**2))))
        if bias[0] < 1e-12:
            return
        order = math.log2(bias[0] / bias[1])
        _require(
            order > bias_order - 0.2,
            f"half the amplitude lowers the bias of the gradient by 2^{order:.2f}; it should be 2^{bias_order}",
        )

    @staticmethod
    def _window(perturbation: Perturbation, size: int) -> NDArray[np.int64]:
        """Steps of a statistical check: many whole blocks."""
        return np.arange(perturbation.block(size) * 2048)

    @staticmethod
    def _limit(perturbation: Perturbation, size: int, steps: int, complete: bool) -> float:
        """What counts as zero, relative to the mean square: rounding, or six standard deviations of a random code."""
        return 1e-10 if complete else SIGMAS * math.sqrt(perturbation.block(size) / steps)

    @staticmethod
    def _error(perturbation: Perturbation, size: int, steps: NDArray[np.int64]) -> float:
        """Relative error of the gradient of a linear cost, root mean square over seeds and gradients."""
        gradient = np.random.default_rng(1).standard_normal((24, size))
        delta = perturbation(_seeds((24,), 0), steps, size)
        modulation = np.matmul(delta, gradient[..., None])
        estimate = np.matmul(modulation.swapaxes(-1, -2), delta)[..., 0, :]
        estimate = estimate / (len(steps) * perturbation.mean_square(size))
        return math.sqrt(float(np.sum((estimate - gradient) ** 2) / np.sum(gradient**2)))


def _fail(message: str) -> NoReturn:
    __tracebackhide__ = True
    pytest.fail(message, pytrace=True)


def _require(condition: bool, message: str) -> None:
    __tracebackhide__ = True
    if not condition:
        _fail(message)


def _seeds(replicas: tuple[int, ...], first: int) -> NDArray[np.uint32]:
    return (first + np.arange(math.prod(replicas))).astype(np.uint32).reshape(replicas)  # as a trainer does


def _range(spec: DeviceSpec) -> tuple[float, float]:
    """The parameter range, an open end replaced by one within reach."""
    low, high = spec.low, spec.high
    if not math.isfinite(low):
        low = high - 1 if math.isfinite(high) else -0.5
    return low, high if math.isfinite(high) else low + 1


def _local_rule(name: str, *, on_device: bool, block: int) -> Algorithm:
    """A rule that a device can run by itself, by plain steps in single precision."""
    common: dict[str, Any] = {"eta": 0.1, "readout_eta": 0.05, "optimizer": Descent(), "precision": "single"}
    common |= {"on_device": on_device, "block": block}
    if name == "mono_forward":
        return MonoForward(**common)
    loss = "threshold" if name == "forward_forward" else "symba"
    return ForwardForward(**common, loss=loss, goodness="mean")


def _sample(spec: DeviceSpec, shape: Sequence[int], replicas: tuple[int, ...] = (), number: int = 0) -> Sample:
    """Numbers between 0 and 1, x (..., t, b, n) and target (..., t, b, m), others for every number."""
    time, batch = shape
    values = draws.uniform(_seeds(replicas, 99), number, time * batch * (spec.inputs + spec.outputs))
    values = values.reshape(*replicas, time, batch, -1)
    return Sample(values[..., : spec.inputs], values[..., spec.inputs :])


def _sequences(spec: DeviceSpec, steps: int, count: int) -> Sample:
    """Sequences with one class each, numbers in single precision; the second has a step without a target, the third
    ends early.
    """
    shown = _sample(spec, (steps, count), spec.replicas)
    labels = np.arange(count) % spec.outputs
    target = np.broadcast_to(np.eye(spec.outputs)[labels], (*spec.replicas, steps, count, spec.outputs)).copy()
    target[..., 2, 1, :] = np.nan
    target[..., steps - 3 :, 2, :] = np.nan
    return Sample(shown.x.astype(np.float32).astype(float), target)


def _shapes(spec: DeviceSpec, sample: Sample, k: int) -> dict[str, tuple[int | None, ...]]:
    """Shapes of all fields of a reading by name; None is any number of features."""
    time, batch = sample.x.shape[-3:-1]
    lead = (*spec.replicas, k)
    shapes: dict[str, tuple[int | None, ...]] = {
        "cost": lead,
        "sample_cost": (*lead, batch),
        "output": (*lead, time, batch, spec.outputs),
        "gradient": (*lead, spec.size),
    }
    widths: list[int | None] = [math.prod(layer.outputs) for layer in spec.layers]
    for number, width in enumerate(widths or [None] * 100):
        shapes[f"activity[{number}]"] = (*lead, time, batch, width)
    return shapes


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(b is None or a == b for a, b in zip(shape, wanted, strict=True))


def _text(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("n" if length is None else str(length) for length in shape) + ")"


def _arrays(reading: Reading) -> dict[str, Array]:
    """The fields of a reading by name, activities one by one."""
    arrays: dict[str, Array] = {}
    for name in (*OBSERVABLES.values(), "baseline", "modulation"):
        value = getattr(reading, name)
        if isinstance(value, tuple):
            arrays |= {f"{name}[{number}]": np.asarray(each) for number, each in enumerate(value)}
        elif value is not None:
            arrays[name] = np.asarray(value)
    return arrays


def _field(reading: Reading, name: str) -> Array:
    value = getattr(reading, name)
    if value is None:
        _fail(f"the reading lacks {name}, which was observed")
    return np.asarray(value)


def _mean(values: Sequence[Array]) -> Array:
    return values[0] if len(values) == 1 else cast(Array, np.mean(values, axis=0))


def _with_last(theta: Array, value: float) -> Array:
    """The same parameters, with the very last one changed."""
    changed = theta.copy()
    changed.reshape(-1)[-1] = value
    return changed


def _of_replica(command: Command, index: int) -> Command:
    """What one replica of a stack is told."""
    if isinstance(command, Program):
        return Program(command.theta[index])
    assert isinstance(command, Measure)  # no device with replicas trains by itself
    sample = command.sample
    if sample.x.ndim > 3:
        sample = replace(sample, x=sample.x[index], target=None if sample.target is None else sample.target[index])
    probes = command.probes
    if probes is not None:
        probes = replace(probes, seed=np.asarray(probes.seed[index]))
    return Measure(sample, probes, command.observe)


def _training_cost(device: Device, task: Task, theta: Array) -> Array:
    sample = task.seen(1000)
    hold = [] if Can.PULSE in device.spec.can else [Program(theta)]
    if Can.COST in device.spec.can:
        (reading,) = device.execute([*hold, Measure(sample)])
        return _field(reading, "cost")[..., 0]
    (reading,) = device.execute([*hold, Measure(sample, observe=Can.OUTPUT)])
    assert sample.target is not None
    cost = MeanSquaredError()(_field(reading, "output")[..., 0, :, :, :], sample.target)
    return cast(Array, cost.mean(axis=(-2, -1)))


def _hidden(before: Any, after: Any) -> str:
    """A hint at what an object kept to itself; "" if nothing is to be seen."""
    known = _attributes(before)
    for name, value in _attributes(after).items():
        if difference := _difference(value, known.get(name), f"self.{name}"):
            return f" It keeps state outside its state object: {difference}."
    return ""


def _attributes(value: Any) -> dict[str, Any]:
    named = {field.name: getattr(value, field.name) for field in fields(value)} if is_dataclass(value) else {}
    return {**named, **getattr(value, "__dict__", {})}


def _frozen(value: Any) -> Any:
    """The same value, its arrays locked."""
    if isinstance(value, np.ndarray):
        value.flags.writeable = False
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            _frozen(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for item in value.values():
            _frozen(item)
    elif isinstance(value, tuple | list):
        for item in value:
            _frozen(item)
    return value


def _same(a: Any, b: Any) -> bool:
    return not _difference(a, b, "")


def _difference(a: Any, b: Any, name: str) -> str:
    """Where two values first differ, arrays bit for bit (but a NaN is a NaN); "" if nowhere."""
    if isinstance(a, np.ndarray | np.generic) and isinstance(b, np.ndarray | np.generic):
        x, y = np.asarray(a), np.asarray(b)
        if x.shape != y.shape or x.dtype != y.dtype:
            return f"{name} is {x.dtype}{list(x.shape)} and not {y.dtype}{list(y.shape)}"
        differs = x != y
        if x.dtype.kind == "f":
            differs &= ~(np.isnan(x) & np.isnan(y))
        if not differs.any():
            return ""
        place = tuple(int(i) for i in np.argwhere(differs)[0])
        return f"{name}{list(place) if place else ''} is {x[place]!r} and not {y[place]!r}"
    if type(a) is not type(b):
        return f"{name} is a {type(a).__name__} and not a {type(b).__name__}"
    if is_dataclass(a) and not isinstance(a, type):
        pairs = [(f"{name}.{field.name}", getattr(a, field.name), getattr(b, field.name)) for field in fields(a)]
    elif isinstance(a, Mapping):
        if odd := sorted(str(key) for key in a.keys() ^ b.keys()):
            return f"{name} has {odd[0]!r} on one side only"
        pairs = [(f"{name}[{key!r}]", value, b[key]) for key, value in a.items()]
    elif isinstance(a, tuple | list):
        if len(a) != len(b):
            return f"{name} has {len(a)} entries and not {len(b)}"
        pairs = [(f"{name}[{number}]", *pair) for number, pair in enumerate(zip(a, b, strict=True))]
    else:
        return "" if a is b or a == b or (a != a and b != b) else f"{name} is {a!r} and not {b!r}"
    return next((found for part, one, other in pairs if (found := _difference(one, other, part))), "")
