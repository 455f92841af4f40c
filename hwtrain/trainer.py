"""Where things happen: ask, check, execute, tell, record; the device at rest on every way out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwtrain import checkpoint, checks
from hwtrain.console import Silent, Status, duration
from hwtrain.core import Algorithm, Array, Can, Command, Device, Measure, Program, Sample, Stateful, Task
from hwtrain.costs import Cost
from hwtrain.errors import CapabilityError, ConfigError, HwtrainError
from hwtrain.evaluation import Evaluation, evaluate
from hwtrain.limits import check
from hwtrain.recorder import Recorder
from hwtrain.signals import StopRequest


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop; the first that is reached counts, None is no limit.

    Args:
        steps: in the algorithm's unit: perturbed measurements for MGD, gradients for back-propagation.
        measurements: of all kinds that training asked for.
        seconds: time spent training [s].
        target_accuracy: share of held-out samples that every replica must reach.
    """

    steps: int | None = None
    measurements: int | None = None
    seconds: float | None = None
    target_accuracy: float | None = None

    def __post_init__(self) -> None:
        checks.whole("budget.steps", self.steps, none="no limit")
        checks.whole("budget.measurements", self.measurements, none="no limit")
        checks.number("budget.seconds", self.seconds, low=0, above=True, none="no limit")
        checks.number("budget.target_accuracy", self.target_accuracy, 0, 1, "a share", none="no limit", above=True)
        if self.steps is self.measurements is self.seconds is self.target_accuracy is None:
            raise ConfigError(
                "a run needs an end: set budget.steps, budget.measurements, budget.seconds or budget.target_accuracy"
            )


@dataclass(frozen=True, slots=True)
class Counts:
    """What training asked of the device, counted apart.

    Args:
        perturbed: measurements under a perturbation.
        baseline: measurements without one.
        gradients: exact gradients, which only a simulator gives.
        writes: times the parameters were written with new values.
        evaluations: evaluations, whose reads are not counted as measurements.
    """

    perturbed: int = 0
    baseline: int = 0
    gradients: int = 0
    writes: int = 0
    evaluations: int = 0

    @property
    def measurements(self) -> int:
        """All measurements of training."""
        return self.perturbed + self.baseline + self.gradients


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come, beside the algorithm's state.

    Args:
        counts: of measurements and writes.
        programmed: parameters written last, (..., p).
        cost: sum of measured costs since the last line, (...,).
        costs: how many.
        seconds: time spent so far [s].
    """

    counts: Counts
    programmed: Array
    cost: Array
    costs: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended.

    Args:
        outcome: "completed", "target_reached", "budget_spent", "diverged" or "interrupted".
        state: the algorithm's last state.
        counts: what was asked of the device.
        metrics: of the last evaluation.
        seconds: time spent [s].
    """

    outcome: str
    state: Any
    counts: Counts
    metrics: Mapping[str, Array] = field(default_factory=dict)
    seconds: float = 0.0


class Trainer:
    """Lets one algorithm train one device on one task.

    Args:
        algorithm: the rule.
        device: what it trains.
        task: the samples.
        cost: how evaluation scores outputs; the device measures its own.
        budget: when to stop.
        recorder: what keeps the run.
        seed: of the first replica; replica i has seed + i.
        evaluation: when and on how much to evaluate.
        status: where progress is shown.
        clock: seconds that only grow.

    Raises:
        CapabilityError: the algorithm needs what the device does not offer.
        ConfigError: task and device do not fit each other.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        device: Device,
        task: Task,
        cost: Cost,
        budget: Budget,
        recorder: Recorder,
        seed: int = 0,
        evaluation: Evaluation | None = None,
        status: Status | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        checks.whole("seed", seed, 0, 2**32 - 1)
        spec = device.spec
        if missing := algorithm.needs & ~spec.can:
            raise CapabilityError(
                f"{type(algorithm).__name__} needs {missing.names()}; {spec.name!r} offers {spec.can.names()}"
            )
        for what, have, want in (("inputs", task.inputs, spec.inputs), ("outputs", task.outputs, spec.outputs)):
            if have != want:
                raise ConfigError(
                    f"task {task.name!r} has {have} {what}; device {spec.name!r} has {want}. Choose what fits, "
                    f"for example network=mlp network.sizes=[{task.inputs},16,{task.outputs}]"
                )
        self.algorithm, self.device, self.task, self.cost = algorithm, device, task, cost
        self.budget, self.recorder = budget, recorder
        self.evaluation = Evaluation() if evaluation is None else evaluation
        self.seed = self.seeds(seed, spec.replicas)
        self._status = Silent() if status is None else status
        self._clock = clock
        self._index, self._sample = -1, Sample(np.zeros((1, 1, spec.inputs)))
        self._metrics: Mapping[str, Array] = {}

    @staticmethod
    def seeds(seed: int, replicas: tuple[int, ...]) -> NDArray[np.uint32]:
        """One seed per replica, counting up from `seed`."""
        return (seed + np.arange(math.prod(replicas))).astype(np.uint32).reshape(replicas)

    def step(self, state: Any) -> tuple[Any, Mapping[str, Array], tuple[Command, ...]]:
        """One step: the only place where a command reaches the device."""
        index = self.algorithm.presents(state)
        if index != self._index:
            self._index, self._sample = index, self.task.sample(self.seed, index)
        commands = self.algorithm.ask(state, self._sample)
        check(self.device.spec, commands)
        readings = self.device.execute(commands)
        state, metrics = self.algorithm.tell(state, self._sample, readings)
        return state, metrics, commands

    def run(self, start: Mapping[str, Any] | None = None) -> Result:
        """Train until the budget is spent; whatever happens, the outcome is recorded and the device left at rest.

        Args:
            start: what the start document holds beside what the trainer knows.

        Returns:
            How it ended; Ctrl-C is a result, with all that is needed to go on saved.
        """
        spec = self.device.spec
        state = self.algorithm.init(spec, self.seed)
        progress = Progress(Counts(), np.full_like(state.theta, np.nan), np.zeros(spec.replicas))
        kept = self.recorder.open({"device": spec.to_json(), "seeds": {"replicas": self.seed}, **(start or {})})
        if kept is not None:
            state, progress = self._restore(state, progress, kept)
        began = self._clock() - progress.seconds
        outcome: dict[str, Any] = {"outcome": "failed"}
        with StopRequest() as stop, np.errstate(over="ignore", invalid="ignore"):  # divergence is an outcome
            try:
                if kept is None:
                    self._save(state, progress)
                name, state, progress = self._loop(state, progress, began, stop)
                progress = replace(progress, seconds=self._clock() - began)
                self._save(state, progress)
                if name != "interrupted":
                    progress = self._evaluate(state, progress, last=True)
                outcome = {"outcome": name}
                self._status.end(self._line(state, progress))
                return Result(name, state, progress.counts, self._metrics, progress.seconds)
            except KeyboardInterrupt:
                outcome = {"outcome": "interrupted", "error": "stopped at once; the last checkpoint is kept"}
                raise
            except HwtrainError as error:
                error.add_note(f"after step {state.step} on {spec.name!r}")
                outcome = {"outcome": "failed", "error": str(error)}
                raise
            except BaseException as error:
                outcome = {"outcome": "failed", "error": repr(error)}
                raise
            finally:
                try:
                    self.device.rest()
                finally:
                    counts = {**vars_of(progress.counts), "updates": state.updates}
                    seconds = self._clock() - began
                    self.recorder.close(
                        {**outcome, "steps": state.step, "counts": counts, "metrics": self._metrics, "seconds": seconds}
                    )

    def _loop(self, state: Any, progress: Progress, began: float, stop: StopRequest) -> tuple[str, Any, Progress]:
        every, evaluate_every = self.recorder.every, self.evaluation.every
        counts, programmed, cost, costs = progress.counts, progress.programmed, progress.cost, progress.costs
        saved = self._clock()
        while True:
            seconds = self._clock() - began
            name = "interrupted" if stop.requested else self._ended(state, counts, seconds)
            if name is not None:
                return name, state, Progress(counts, programmed, cost, costs, seconds)
            before = state.step
            state, metrics, commands = self.step(state)
            counts, programmed = _count(counts, programmed, commands)
            cost, costs = cost + metrics["cost"], costs + 1

            progress = Progress(counts, programmed, cost, costs, seconds)
            if state.step // every > before // every:
                mean = cost / costs
                self.recorder.line(self._head(state, counts) | {**metrics, "cost": mean})
                cost, costs = np.zeros_like(cost), 0
                progress = replace(progress, cost=cost, costs=costs)
                if not np.isfinite(mean).any():
                    return "diverged", state, progress
            if state.step // evaluate_every > before // evaluate_every:
                progress = self._evaluate(state, progress)
                counts, programmed = progress.counts, progress.programmed
            if self._clock() - saved >= self.recorder.checkpoint_seconds:
                self._save(state, progress)
                saved = self._clock()
            if self._status.due():
                self._status.show(self._line(state, progress))

    def _ended(self, state: Any, counts: Counts, seconds: float) -> str | None:
        budget = self.budget
        reached = self._metrics.get("test_accuracy")
        if budget.target_accuracy is not None and reached is not None and np.min(reached) >= budget.target_accuracy:
            return "target_reached"
        if budget.steps is not None and state.step >= budget.steps:
            return "completed"
        if budget.measurements is not None and counts.measurements >= budget.measurements:
            return "budget_spent"
        if budget.seconds is not None and seconds >= budget.seconds:
            return "budget_spent"
        return None

    def _evaluate(self, state: Any, progress: Progress, *, last: bool = False) -> Progress:
        self._metrics = evaluate(self.device, self.task, self.cost, self.algorithm, state, self.evaluation, last=last)
        counts, programmed = _count(progress.counts, progress.programmed, (Program(state.theta),))
        counts = replace(counts, evaluations=counts.evaluations + 1)
        self.recorder.line(self._head(state, counts) | dict(self._metrics))
        return replace(progress, counts=counts, programmed=programmed)

    def _head(self, state: Any, counts: Counts) -> dict[str, Any]:
        return {"step": state.step, "perturbed": counts.perturbed, "baseline": counts.baseline}

    def _save(self, state: Any, progress: Progress) -> None:
        arrays = checkpoint.flatten("state", state) | checkpoint.flatten("progress", progress)
        arrays |= checkpoint.flatten("metrics", dict(self._metrics))
        if isinstance(self.device, Stateful) and Can.STATE in self.device.spec.can:
            arrays |= {f"device.{name}": array for name, array in self.device.snapshot().items()}
        self.recorder.save(arrays)

    def _restore(self, state: Any, progress: Progress, kept: Mapping[str, Array]) -> tuple[Any, Progress]:
        state = checkpoint.unflatten("state", state, kept)
        progress = checkpoint.unflatten("progress", progress, kept)
        self._metrics = _part(kept, "metrics.")
        if isinstance(self.device, Stateful) and Can.STATE in self.device.spec.can:
            self.device.restore(_part(kept, "device."))
        return state, progress

    def _line(self, state: Any, progress: Progress) -> str:
        """The status line: progress, cost, accuracy, speed, time left."""
        parts = [f"step {state.step:,}".replace(",", " ")]
        budget = self.budget
        shares = [
            done / whole
            for done, whole in (
                (state.step, budget.steps),
                (progress.counts.measurements, budget.measurements),
                (progress.seconds, budget.seconds),
            )
            if whole
        ]
        if shares:
            parts[0] += f" ({min(max(shares), 1):.0%})"
        if progress.costs:
            parts.append(f"cost {np.mean(progress.cost) / progress.costs:.4g}")
        if "test_accuracy" in self._metrics:
            parts.append(f"accuracy {np.mean(self._metrics['test_accuracy']):.1%}")
        if progress.seconds > 0:
            parts.append(f"{state.step / progress.seconds:,.0f} steps/s".replace(",", " "))
        if shares and 0 < max(shares) < 1:
            parts.append(f"{duration(progress.seconds * (1 / max(shares) - 1))} left")
        return "  ".join(parts)


def _count(counts: Counts, programmed: Array, commands: Sequence[Command]) -> tuple[Counts, Array]:
    perturbed, baseline, gradients, writes = counts.perturbed, counts.baseline, counts.gradients, counts.writes
    for command in commands:
        match command:
            case Program():
                if command.theta is not programmed:
                    writes += not np.array_equal(command.theta, programmed)
                    programmed = command.theta
            case Measure():
                if command.probes is not None:
                    perturbed += command.probes.count
                elif Can.GRADIENT in command.observe:
                    gradients += 1
                else:
                    baseline += 1
    return Counts(perturbed, baseline, gradients, writes, counts.evaluations), programmed


def _part(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def vars_of(counts: Counts) -> dict[str, int]:
    """The counts by name."""
    return {name: getattr(counts, name) for name in Counts.__slots__}
