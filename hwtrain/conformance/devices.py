"""What every device must do."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from hwtrain.conformance.bench import PROBES, Bench, with_last
from hwtrain.conformance.device_learning import LearnsLikeTheHost
from hwtrain.conformance.device_probes import ProbesLikeProgramming
from hwtrain.conformance.device_spec import KeepsItsSpec
from hwtrain.conformance.readings import OBSERVABLES, arrays, mean, observed, state_of
from hwtrain.conformance.samples import drawn_sample, parameter_range
from hwtrain.conformance.values import fail, first_difference, require
from hwtrain.core import Can, Command, Device, Measure, Program, Reading, Sample, Site, Stateful
from hwtrain.costs import Cost, MeanSquaredError
from hwtrain.errors import HwtrainError


class DeviceConformance(LearnsLikeTheHost, ProbesLikeProgramming, KeepsItsSpec):  # pytest runs the last first
    """What every device must do. Override `device`; the other fixtures where the defaults do not fit.

    A device that declares no noise must repeat itself to the bit, one that does is compared by means of repeated
    readings. Neither knows drift, imprecise writing or rounding: give those an `allowance`, or switch them off.
    """

    @pytest.fixture
    def device(self) -> Device:
        """A fresh device; must be overridden."""
        fail("override the fixture `device` of DeviceConformance with one that gives a fresh device")

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
        return drawn_sample(device.spec, (1, 3))

    @pytest.fixture
    def allowance(self) -> float:
        """How far costs may differ beside the declared noise: rounding, drift, imprecise writing [cost]."""
        return 0.0

    @pytest.fixture
    def amplitude(self, device: Device) -> float:
        """Size of the probes, in the unit of the parameters."""
        low, high = parameter_range(device.spec)
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
    def bench(self, device: Device, sample: Sample, allowance: float, amplitude: float, repeats: int) -> Bench:
        """The device with what the checks do to it; not meant to be overridden."""
        return Bench(device, sample, allowance, amplitude, repeats)

    @pytest.mark.parametrize("hold", [1, 2])
    @pytest.mark.parametrize("site", list(Site), ids=lambda site: str(site.value))
    def test_many_probes_equal_one_by_one(self, bench: Bench, site: Site, hold: int) -> None:
        bench.needs(PROBES[site])
        theta = bench.theta(1)
        together = bench.look(theta, bench.probes(5, 4, site, hold))
        for index in range(4):
            alone = bench.look(theta, bench.probes(5 + index, 1, site, hold))
            bench.agree(
                bench.probe(together, index),
                alone,
                f"probe {index} of four asked for at once does not read what it reads alone",
            )

    def test_batch_of_commands_equals_one_by_one(self, bench: Bench) -> None:
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
                {name: mean([arrays(readings[place])[name] for readings in run])}
                if name in arrays(run[0][place])
                else {}
                for run in runs
            )
            bench.agree(batch, single, f"reading {place} of a batch is not that of the same commands one by one")

    def test_programming_what_is_held_changes_nothing(self, bench: Bench) -> None:
        theta = bench.theta(1)
        before = bench.look(theta)
        kept = state_of(bench.device)
        bench.execute([Program(theta.copy())])
        if difference := first_difference(state_of(bench.device), kept, "snapshot"):
            fail(f"programming what is already held changed the device's state (it wrote?): {difference}")
        bench.agree(before, bench.look(None), "programming what is already held changed the readings")

    def test_caller_keeps_its_arrays(self, bench: Bench) -> None:
        theta = bench.theta(1)
        before, mine = theta.copy(), copy.deepcopy(bench.sample)
        bench.look(theta)
        if Can.PROBE in bench.spec.can:
            bench.look(theta, bench.probes(count=2))
        require(bool(np.array_equal(theta, before)), "the device wrote into the array of a Program")
        require(mine == bench.sample, "the device wrote into the arrays of a sample")
        require(theta.flags.writeable, "the device made the caller's array read-only")

    def test_rests_from_any_condition(self, bench: Bench) -> None:
        device, theta = bench.device, bench.theta(1)
        before = bench.look(theta)
        _calmly(device.rest, "rest after a measurement")
        _calmly(device.rest, "rest at rest")
        bench.agree(before, bench.look(theta), "after rest, programming and measuring read something else")
        with contextlib.suppress(HwtrainError):  # another check wants the refusal
            device.execute([Program(with_last(theta, math.nan))])
        _calmly(device.rest, "rest after a refused command")
        bench.agree(before, bench.look(theta), "after an error and rest, programming and measuring read something else")

    def test_closes_twice_and_rests_after_close(self, bench: Bench) -> None:
        bench.look(bench.theta(1))
        _calmly(bench.device.close, "close")
        _calmly(bench.device.rest, "rest after close")
        _calmly(bench.device.close, "close after close")
        _calmly(bench.device.rest, "rest after the second close")

    def test_restored_device_goes_on_as_before(self, bench: Bench, another: Device | None) -> None:
        bench.needs(Can.STATE)
        if not isinstance(bench.device, Stateful):
            fail("the spec declares STATE, and the device has no snapshot and restore")
        held = Program(bench.theta(1))  # asked for again after the snapshot, as an algorithm between updates does
        bench.execute([held, bench.plain])
        kept = bench.device.snapshot()
        for name, value in kept.items():
            require(isinstance(value, np.ndarray), f"snapshot[{name!r}] is a {type(value).__name__}, not an array")
        safe = copy.deepcopy(kept)
        going_on = [held, *_everything(bench, bench.sample)]
        first = bench.execute(going_on)
        if difference := first_difference(kept, safe, "snapshot"):
            fail(f"using the device changes a snapshot taken before (it must be a copy): {difference}")
        bench.device.restore(kept)
        if difference := first_difference(bench.device.snapshot(), safe, "snapshot"):
            fail(f"a snapshot right after restore is not what was restored: {difference}")
        _same_continuation(first, bench.execute(going_on), "after restore")
        if difference := first_difference(kept, safe, "snapshot"):
            fail(f"using a restored device changes the snapshot it came from (it must be copied): {difference}")
        if another is None:
            return
        if not isinstance(another, Stateful):
            fail("the fixture `another` gives a device without snapshot and restore")
        another.restore(safe)
        _same_continuation(first, tuple(another.execute(going_on)), "after restore on a second device")

    def test_gradient_agrees_with_finite_differences(self, bench: Bench, difference: float | None) -> None:
        bench.needs(Can.GRADIENT | Can.COST)
        if bench.spec.noise or difference is None:
            pytest.skip("finite differences need a cost that is smooth and without noise")
        theta, size = bench.theta(1), bench.spec.size
        (reading,) = bench.execute([Program(theta), Measure(bench.sample, observe=Can.GRADIENT)])
        gradient = observed(reading, "gradient")[..., 0, :]
        limit = max(1e-6, 10 * difference**2) * (1 + float(np.max(np.abs(gradient)))) + bench.allowance
        for index in range(0, size, max(1, size // 24)):  # two dozen of them, spread over all layers
            costs = []
            for side in (1, -1):
                moved = theta.copy()
                moved[..., index] += side * difference
                (reading,) = bench.execute([Program(moved), Measure(bench.sample)])
                costs.append(observed(reading, "cost")[..., 0].astype(np.float64))
            slope = (costs[0] - costs[1]) / (2 * difference)
            far = float(np.max(np.abs(slope - gradient[..., index])))
            require(
                far <= limit,
                f"the gradient of parameter {index} is {gradient[..., index]}, finite differences give {slope}",
            )

    def test_replicas_equal_separate_devices(self, bench: Bench, single: Callable[[int], Device] | None) -> None:
        spec = bench.spec
        if not spec.replicas:
            pytest.skip("the device has no replica axis")
        if single is None:
            pytest.skip("the fixture `single` gives no separate devices to compare with")
        (count,) = spec.replicas
        own = drawn_sample(spec, bench.sample.x.shape[-3:-1], spec.replicas)
        commands = _everything(bench, own)
        stack = bench.execute(commands)
        for index in range(count):
            alone = single(index)
            require(not alone.spec.replicas, f"single({index}) has the replica axes {alone.spec.replicas}")
            readings = alone.execute([_of_replica(command, index) for command in commands])
            alone.close()
            for place, (one, many) in enumerate(zip(readings, stack, strict=True)):
                mine = {name: value[index] for name, value in arrays(many).items()}
                if difference := first_difference(mine, arrays(one), f"reading {place}"):
                    fail(f"replica {index} of the stack does not read what it reads alone: {difference}")


def _calmly(action: Callable[[], None], what: str) -> None:
    try:
        action()
    except Exception as error:
        fail(f"{what} raised {type(error).__name__}: {error}")


def _everything(bench: Bench, sample: Sample) -> list[Command]:
    """Programs and measurements of every kind; in some programs a replica keeps what it has."""
    partly = bench.theta(2)
    if bench.spec.replicas:
        partly[0] = bench.theta(1)[0]
    commands: list[Command] = [bench.plain]
    for theta in (bench.theta(1), partly, bench.theta(3)):
        commands += [Program(theta), Measure(sample, observe=bench.all_observables), bench.plain]
        commands += [Measure(sample, bench.probes(7, 3, site, 2), bench.all_observables) for site in bench.sites]
    return commands


def _same_continuation(first: tuple[Reading, ...], second: tuple[Reading, ...], when: str) -> None:
    for place, (a, b) in enumerate(zip(first, second, strict=True)):
        if difference := first_difference(arrays(b), arrays(a), f"reading {place}"):
            fail(f"{when} the device does not go on as it did: {difference}. What does the snapshot lack?")


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
