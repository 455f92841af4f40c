"""What every algorithm must do."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from hwtrain import checkpoint
from hwtrain.conformance.readings import OBSERVABLES, observed, state_of
from hwtrain.conformance.rig import Rig
from hwtrain.conformance.samples import seeds
from hwtrain.conformance.values import fail, first_difference, frozen, hidden, require, same
from hwtrain.conformance.wrapped import Faulty, Limited, OtherCommandsError, Recorded, Replayed, Steep
from hwtrain.core import Algorithm, Array, Can, Device, Measure, Program, Reading, Sample, Stateful, Task
from hwtrain.costs import MeanSquaredError
from hwtrain.devices.simulated import Simulated
from hwtrain.errors import CapabilityError, LimitError
from hwtrain.sim.networks import mlp
from hwtrain.tasks.parity import parity


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
        fail("override the fixture `algorithm` of AlgorithmConformance with one that gives an algorithm")

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
    def rig(self, algorithm: Algorithm, make_device: Callable[..., Device], task: Task, steps: int) -> Rig:
        """The algorithm with what the checks do to it; not meant to be overridden."""
        return Rig(algorithm, make_device, task, steps)

    def test_declared_needs_suffice(self, rig: Rig) -> None:
        needs = rig.algorithm.needs
        device = Limited(rig.make_device(None, 0), needs)
        try:
            list(rig.train(device))
        except CapabilityError as error:
            fail(f"{rig.name} asks for more than its `needs` declare ({needs.names()}): {error}")

    def test_ask_is_pure(self, rig: Rig) -> None:
        def ask(algorithm: Algorithm, state: Any, sample: Sample, readings: Sequence[Reading]) -> Any:
            return tuple(algorithm.ask(state, sample))

        _pure(rig, "ask", ask)

    def test_tell_is_pure(self, rig: Rig) -> None:
        def tell(algorithm: Algorithm, state: Any, sample: Sample, readings: Sequence[Reading]) -> Any:
            after, metrics = algorithm.tell(state, sample, readings)
            return after, dict(metrics)

        _pure(rig, "tell", tell)

    def test_presents_and_gradient_are_pure(self, rig: Rig) -> None:
        def both(algorithm: Algorithm, state: Any, sample: Sample, readings: Sequence[Reading]) -> Any:
            return algorithm.presents(state), algorithm.gradient(state)

        _pure(rig, "presents or gradient", both)

    def test_init_is_a_function_of_spec_and_seed(self, rig: Rig) -> None:
        spec, seed = rig.make_device(3, 0).spec, seeds((3,), 5)
        first = rig.algorithm.init(spec, seed)
        again = copy.deepcopy(rig.algorithm).init(spec, seed.copy())
        if difference := first_difference(again, first, "state"):
            fail(f"{rig.name}.init gives another state for the same spec and seed: {difference}")
        require(
            first.theta.shape == (3, spec.size), f"theta has the shape {first.theta.shape} instead of {(3, spec.size)}"
        )
        require(first.step == 0 and first.updates == 0, "a first state must count no steps and no updates")

    def test_counts_are_honest(self, rig: Rig) -> None:
        device = rig.make_device(None, 0)
        before = rig.init(device)
        for state, _ in rig.train(device):
            require(state.step > before.step, f"a step did not raise state.step from {before.step}")
            require(state.updates >= before.updates, "state.updates went down")
            if state.updates == before.updates and not same(state.theta, before.theta):
                fail("theta changed, but state.updates did not count it")
            estimate = rig.algorithm.gradient(state)
            require(
                estimate is None or estimate.shape == state.theta.shape,
                "gradient(state) must be None or have the shape of theta",
            )
            before = state

    @pytest.mark.parametrize("replicas", [None, 3])
    def test_metrics_have_the_cost_of_every_replica(self, rig: Rig, replicas: int | None) -> None:
        shape = () if replicas is None else (replicas,)
        for _, metrics in rig.train(rig.make_device(replicas, 0)):
            require("cost" in metrics, f"the metrics lack `cost`; they have {', '.join(metrics) or 'nothing'}")
            require(
                np.shape(metrics["cost"]) == shape,
                f"the metric `cost` has the shape {np.shape(metrics['cost'])} instead of {shape}, one per replica",
            )

    def test_state_survives_a_checkpoint(self, rig: Rig, tmp_path: Path) -> None:
        device = rig.make_device(3, 0)
        *_, (state, _) = rig.train(device)
        checkpoint.save(tmp_path, checkpoint.flatten("state", state))
        back = checkpoint.unflatten("state", rig.init(device), checkpoint.load(tmp_path))
        if difference := first_difference(back, state, "state"):
            fail(f"the state does not survive a checkpoint, which holds arrays and numbers only: {difference}")

    def test_resuming_equals_never_stopping(self, rig: Rig) -> None:
        pristine, device = copy.deepcopy(rig.algorithm), rig.make_device(3, 0)
        saved: list[tuple[dict[str, Array], dict[str, Array]]] = []
        whole = None
        for state, _ in rig.train(device):
            saved.append((checkpoint.flatten("state", state), state_of(device)))
            whole = state
        for stop in sorted({1, len(saved) // 3, len(saved) // 2, len(saved) - 1} - {0}):
            arrays, held = saved[stop - 1]
            fresh = rig.make_device(3, 0)
            if held and isinstance(fresh, Stateful):
                fresh.restore(held)
            rest = replace(rig, algorithm=copy.deepcopy(pristine), steps=len(saved) - stop)
            *_, (end, _) = rest.train(fresh, checkpoint.unflatten("state", rest.init(fresh), arrays))
            if difference := first_difference(end, whole, "state"):
                fail(
                    f"stopped after step {stop} and resumed, {rig.name} ends elsewhere than without a stop: "
                    f"{difference}.{hidden(pristine, rig.algorithm)}"
                )

    def test_transcript_rebuilds_the_parameters(self, rig: Rig) -> None:
        pristine, device = copy.deepcopy(rig.algorithm), Recorded(rig.make_device(3, 0))
        *_, (state, _) = rig.train(device)
        try:
            *_, (again, _) = replace(rig, algorithm=pristine).train(Replayed(device))
        except OtherCommandsError as error:
            fail(f"replaying its own transcript, {rig.name} asks other commands: {error}")
        if difference := first_difference(again, state, "state"):
            fail(f"the recorded readings do not rebuild the state: {difference}.{hidden(pristine, rig.algorithm)}")

    def test_replicas_equal_separate_runs(self, rig: Rig) -> None:
        pristine = copy.deepcopy(rig.algorithm)
        stack = list(rig.train(rig.make_device(3, 0)))
        for index in range(3):
            alone = replace(rig, algorithm=copy.deepcopy(pristine), first=rig.first + index)
            for number, (state, metrics) in enumerate(alone.train(rig.make_device(None, index))):
                for what, one, many in (
                    ("theta", state.theta, stack[number][0].theta[index]),
                    ("the cost", metrics["cost"], np.asarray(stack[number][1]["cost"])[index]),
                ):
                    if difference := first_difference(many, one, what):
                        fail(
                            f"replica {index} of a stack is not what it is in a run of its own after step "
                            f"{number + 1} (do replicas mix?): {difference}"
                        )

    def test_commands_stay_within_the_spec(self, rig: Rig) -> None:
        inner = rig.make_device(3, 0)
        theta = rig.init(inner).theta
        room = 0.5 * float(theta.max() - theta.min()) or 0.5
        spec = replace(
            inner.spec,
            low=max(inner.spec.low, float(theta.min()) - room),
            high=min(inner.spec.high, float(theta.max()) + room),
        )
        for slope in (1e3, -1e3):  # costs so steep that every update runs into the end of the range
            try:
                for _ in rig.train(Steep(inner, spec, slope)):
                    pass
            except LimitError as error:
                fail(f"{rig.name} asks for what the spec refuses: {error}")

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("at", [0, 3])
    @pytest.mark.parametrize("names", [("cost", "sample_cost", "gradient"), ("output", "activity")], ids="+".join)
    def test_invalid_reading_is_contained(self, rig: Rig, names: tuple[str, ...], at: int, value: float) -> None:
        if not any(can in rig.algorithm.needs for can, name in OBSERVABLES.items() if name in names):
            pytest.skip(f"the algorithm reads no {' or '.join(names)}")
        pristine = copy.deepcopy(rig.algorithm)
        calm = [state for state, _ in rig.train(rig.make_device(3, 0))]
        faulty = Faulty(rig.make_device(3, 0), names, at, value)
        states: list[Any] = []
        try:
            with np.errstate(invalid="ignore", over="ignore"):
                states += [state for state, _ in replace(rig, algorithm=pristine).train(faulty)]
        except LimitError as error:
            fail(
                f"one {value} among the readings of replica 1 in step {at + 1} led to a command out of limits: {error}"
            )
        for number, (state, other) in enumerate(zip(states, calm, strict=True)):
            require(
                bool(np.isfinite(state.theta).all()),
                f"one {value} among the readings of replica 1 in step {at + 1} made theta {value} in step {number + 1}",
            )
            for index in (0, 2):
                if difference := first_difference(state.theta[index], other.theta[index], "theta"):
                    fail(f"a {value} read by replica 1 changed replica {index} (do replicas mix?): {difference}")
        after = at + len(states) // 2
        require(
            not same(states[after].theta[1], states[-1].theta[1]) or same(calm[after].theta[1], calm[-1].theta[1]),
            f"after one {value} among the readings of step {at + 1}, replica 1 never moved again while the others did",
        )

    def test_learns(self, rig: Rig, goal: Goal) -> None:
        rig, device = replace(rig, first=0), rig.make_device(goal.replicas, 0)
        state = rig.init(device)
        before, spent = _training_cost(device, rig.task, state.theta), 0
        while spent < goal.measurements:
            sample = rig.sample(device, state)
            commands = rig.algorithm.ask(state, sample)
            state, _ = rig.algorithm.tell(state, sample, device.execute(commands))
            for command in commands:
                if isinstance(command, Measure):
                    spent += 1 if command.probes is None else command.probes.count
        share = _training_cost(device, rig.task, state.theta) / before
        learners = int(np.sum(share <= goal.factor))
        require(
            learners >= goal.learners,
            f"{learners} of {goal.replicas} replicas came to {goal.factor:g} of their first training cost within "
            f"{goal.measurements} measurements; {goal.learners} must. Shares reached: {np.round(np.sort(share), 3)}",
        )


def _pure(rig: Rig, name: str, call: Callable[[Algorithm, Any, Sample, Sequence[Reading]], Any]) -> None:
    """Call twice in every step, with arguments that cannot be written to."""
    algorithm, device = rig.algorithm, rig.make_device(3, 0)
    pristine, state = copy.deepcopy(algorithm), rig.init(device)
    for number in range(1, rig.steps + 1):
        sample = rig.sample(device, state)
        commands = tuple(algorithm.ask(state, sample))
        readings = tuple(device.execute(commands))
        given = frozen(copy.deepcopy((state, sample, readings)))
        kept = copy.deepcopy(given)
        numpys, pythons = str(np.random.get_state()), random.getstate()
        try:
            first, second = call(algorithm, *given), call(algorithm, *given)
        except ValueError as error:
            if "read-only" not in str(error):
                raise
            fail(f"{rig.name}.{name} writes into the arrays it was given in step {number}: {error}")
        if numpys != str(np.random.get_state()) or pythons != random.getstate():
            fail(f"{rig.name}.{name} draws from a global random generator; derive draws from (seed, step) instead")
        if difference := first_difference(given, kept, "argument"):
            fail(f"{rig.name}.{name} changed what it was given in step {number}: {difference}")
        if difference := first_difference(second, first, name):
            fail(
                f"{rig.name}.{name} called twice with the same arguments gives two results in step {number}: "
                f"{difference}.{hidden(pristine, algorithm)}"
            )
        state, _ = algorithm.tell(state, sample, readings)


def _training_cost(device: Device, task: Task, theta: Array) -> Array:
    sample = task.seen(1000)
    hold = [] if Can.PULSE in device.spec.can else [Program(theta)]
    if Can.COST in device.spec.can:
        (reading,) = device.execute([*hold, Measure(sample)])
        return observed(reading, "cost")[..., 0]
    (reading,) = device.execute([*hold, Measure(sample, observe=Can.OUTPUT)])
    assert sample.target is not None
    cost = MeanSquaredError()(observed(reading, "output")[..., 0, :, :, :], sample.target)
    return cast(Array, cost.mean(axis=(-2, -1)))
