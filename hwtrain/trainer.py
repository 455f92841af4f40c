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
from hwtrain.core import (
    Algorithm,
    Array,
    Can,
    Command,
    Counting,
    Device,
    DeviceSpec,
    Learn,
    LearnInTime,
    Measure,
    Program,
    Pulse,
    Reading,
    Sample,
    State,
    Stateful,
    Streaming,
    Task,
    Train,
    joined,
)
from hwtrain.costs import Cost
from hwtrain.errors import CapabilityError, ConfigError, DeviceError, HwtrainError
from hwtrain.evaluation import Evaluation, evaluate
from hwtrain.limits import check
from hwtrain.recorder import Recorder
from hwtrain.signals import StopRequest

_OFFERED_BY = {
    Can.PULSE: "device=pulsed",
    Can.MEMBRANES: "algo.state=estimated (boards, with network=snu) or a task of sequences with device=spiking (say "
    "task=jsb_chorales)",
    Can.GRADIENT | Can.NODE_PROBE: "device=sim",
}


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

    @property
    def mean_cost(self) -> Array:
        """Mean of the costs since the last line, (...,)."""
        mean: Array = self.cost / self.costs
        return mean

    def after(self, commands: Sequence[Command], cost: Array, seconds: float) -> Progress:
        """The progress after one more step."""
        counts, programmed = _count(self.counts, self.programmed, commands)
        return Progress(counts, programmed, self.cost + cost, self.costs + 1, seconds)

    def evaluated(self, theta: Array) -> Progress:
        """The progress after an evaluation, which writes the parameters if they have moved."""
        counts, programmed = _count(self.counts, self.programmed, (Program(theta),))
        return replace(self, counts=replace(counts, evaluations=counts.evaluations + 1), programmed=programmed)


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
        for what, part, promise in (
            ("algorithm", algorithm, Algorithm),
            ("device", device, Device),
            ("task", task, Task),
        ):
            _require(what, part, promise)
        if not isinstance(spec := device.spec, DeviceSpec):
            raise ConfigError(
                f"the spec of a {type(device).__name__} must be a DeviceSpec (hwtrain/core.py), not {spec!r}"
            )
        if missing := algorithm.needs & ~spec.can:
            others = [word for offered, word in _OFFERED_BY.items() if missing & offered] or ["another device"]
            raise CapabilityError(
                f"{type(algorithm).__name__} needs {missing.names()}; {spec.name!r} offers {spec.can.names()}. "
                f"Choose {' or '.join(others)}, or an algorithm that needs less."
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
        self._indices, self._sample = range(0), Sample(np.zeros((1, 1, spec.inputs)))
        self._metrics: Mapping[str, Array] = {}
        self._state: Any = None
        self._progress: Progress
        self._began = 0.0
        self._disturbances: Mapping[str, int] = {}

    @staticmethod
    def seeds(seed: int, replicas: tuple[int, ...]) -> NDArray[np.uint32]:
        """One seed per replica, counting up from `seed`."""
        return (seed + np.arange(math.prod(replicas))).astype(np.uint32).reshape(replicas)

    def step(self, state: Any) -> tuple[Any, Mapping[str, Array], tuple[Command, ...]]:
        """One step: the only place where a command reaches the device."""
        indices = self.algorithm.presents(state)
        if indices != self._indices:
            self._indices, self._sample = indices, joined([self.task.sample(self.seed, index) for index in indices])
        commands = self.algorithm.ask(state, self._sample)
        check(self.device.spec, commands)
        readings = self.device.execute(commands)
        _check_readings(self.device.spec.name, commands, readings)
        state, metrics = self.algorithm.tell(state, self._sample, readings)
        if "cost" not in metrics:
            raise ConfigError(
                f"{type(self.algorithm).__name__}.tell gave no 'cost' among its metrics, only {[*metrics]}"
            )
        return state, metrics, commands

    def run(self, start: Mapping[str, Any] | None = None) -> Result:
        """Train until the budget is spent; whatever happens, the outcome is recorded and the device left at rest.

        Args:
            start: what the start document holds beside what the trainer knows.

        Returns:
            How it ended; Ctrl-C is a result, with all that is needed to go on saved.
        """
        spec = self.device.spec
        self._state = self.algorithm.init(spec, self.seed)
        _require("state", self._state, State)
        never = np.full_like(self._state.theta, np.nan)
        self._progress = Progress(Counts(), never, np.zeros(spec.replicas))
        kept = self.recorder.open({"device": spec.to_json(), "seeds": {"replicas": self.seed}, **(start or {})})
        outcome: dict[str, Any] = {"outcome": "failed"}
        with StopRequest() as stop, np.errstate(over="ignore", invalid="ignore"):  # divergence is an outcome
            try:
                if kept is None:
                    self._save()
                else:
                    self._restore(kept)
                self._began = self._clock() - self._progress.seconds
                name = self._loop(stop)
                self._save()
                if name != "interrupted":
                    self._evaluate(last=True)
                outcome = {"outcome": name}
                self._status.end(self._line())
                return Result(name, self._state, self._progress.counts, self._metrics, self._progress.seconds)
            except KeyboardInterrupt:
                outcome = {"outcome": "interrupted", "error": "stopped at once; the last checkpoint is kept"}
                raise
            except BaseException as error:
                outcome = {"outcome": "failed", "error": str(error) if isinstance(error, HwtrainError) else repr(error)}
                error.add_note(f"after step {self._state.step} on {spec.name!r}")
                raise
            finally:
                try:
                    self.device.rest()
                finally:
                    self.recorder.close({**outcome, **self._account()})

    def _loop(self, stop: StopRequest) -> str:
        """Step until something ends the run; its name."""
        every, evaluate_every = self.recorder.every, self.evaluation.every
        saved = self._clock()
        while True:
            if stop.requested:
                return "interrupted"
            if (name := self._ended()) is not None:
                lost = self._progress.costs and not np.isfinite(self._progress.mean_cost).any()
                return "diverged" if lost else name
            before, began = self._state.step, _began(self._state)
            self._state, metrics, commands = self.step(self._state)
            self._progress = self._progress.after(commands, metrics["cost"], self._clock() - self._began)

            now = self._state.step
            if now // every > before // every:
                mean = self._progress.mean_cost
                self.recorder.line(self._head() | {**metrics, "cost": mean})
                self._progress = replace(self._progress, cost=np.zeros_like(mean), costs=0)
                self._note_disturbances()
                if not np.isfinite(mean).any():
                    return "diverged"
            if _began(self._state) == now and now // evaluate_every > began // evaluate_every:
                self._evaluate()
            if self._clock() - saved >= self.recorder.checkpoint_seconds:
                self._save()
                saved = self._clock()
            if self._status.due():
                self._status.show(self._line())

    def _ended(self) -> str | None:
        """The outcome, if a goal is reached or a budget spent."""
        budget, progress = self.budget, self._progress
        reached = self._metrics.get("test_accuracy")
        if budget.target_accuracy is not None and reached is not None and np.min(reached) >= budget.target_accuracy:
            return "target_reached"
        if budget.steps is not None and self._state.step >= budget.steps:
            return "completed"
        if budget.measurements is not None and progress.counts.measurements >= budget.measurements:
            return "budget_spent"
        if budget.seconds is not None and progress.seconds >= budget.seconds:
            return "budget_spent"
        return None

    def _evaluate(self, *, last: bool = False) -> None:
        state, setting = self._state, self.evaluation
        self._metrics = evaluate(self.device, self.task, self.cost, self.algorithm, state, setting, last=last)
        self._progress = self._progress.evaluated(state.theta)
        self.recorder.line(self._head() | dict(self._metrics))

    def _note_disturbances(self) -> None:
        """An event whenever the device survived more of them."""
        if isinstance(self.device, Counting):
            now = self.device.counts().get("disturbances", {})
            if now != self._disturbances:
                self.recorder.event(
                    "disturbances", step=self._state.step, **{k.replace(" ", "_"): v for k, v in now.items()}
                )
            self._disturbances = now

    def _head(self) -> dict[str, Any]:
        """What every line begins with."""
        counts = self._progress.counts
        return {"step": self._state.step, "perturbed": counts.perturbed, "baseline": counts.baseline}

    def _account(self) -> dict[str, Any]:
        """What the outcome says beside its name."""
        counts = {name: getattr(self._progress.counts, name) for name in Counts.__slots__}
        device = self.device.counts() if isinstance(self.device, Counting) else None
        return {
            "steps": self._state.step,
            "counts": {**counts, "updates": self._state.updates},
            **({} if device is None else {"device_counts": device}),
            "metrics": self._metrics,
            "seconds": self._progress.seconds,
        }

    def _save(self) -> None:
        arrays = checkpoint.flatten("state", self._state) | checkpoint.flatten("progress", self._progress)
        arrays |= checkpoint.flatten("metrics", dict(self._metrics))
        if isinstance(self.device, Stateful) and Can.STATE in self.device.spec.can:
            arrays |= {f"device.{name}": array for name, array in self.device.snapshot().items()}
        self.recorder.save(arrays)

    def _restore(self, kept: Mapping[str, Array]) -> None:
        self._state = checkpoint.unflatten("state", self._state, kept)
        self._progress = checkpoint.unflatten("progress", self._progress, kept)
        self._metrics = _part(kept, "metrics.")
        if isinstance(self.device, Stateful) and Can.STATE in self.device.spec.can:
            self.device.restore(_part(kept, "device."))

    def _line(self) -> str:
        """The status line: progress, cost, accuracy, speed, time left."""
        budget, progress, step = self.budget, self._progress, self._state.step
        parts = [f"step {step:,}".replace(",", " ")]
        wholes = (
            (step, budget.steps),
            (progress.counts.measurements, budget.measurements),
            (progress.seconds, budget.seconds),
        )
        shares = [done / whole for done, whole in wholes if whole]
        if shares:
            parts[0] += f" ({min(max(shares), 1):.0%})"
        if progress.costs:
            parts.append(f"cost {np.mean(progress.mean_cost):.4g}")
        if "test_accuracy" in self._metrics:
            parts.append(f"accuracy {np.mean(self._metrics['test_accuracy']):.1%}")
        if progress.seconds > 0:
            parts.append(f"{step / progress.seconds:,.0f} steps/s".replace(",", " "))
        if shares and 0 < max(shares) < 1:
            parts.append(f"{duration(progress.seconds * (1 / max(shares) - 1))} left")
        return "  ".join(parts)


def _require(what: str, part: Any, promise: type) -> None:
    """Refuse a part, a user's own say, that lacks something its protocol names."""
    named = [name for name in (*vars(promise), *promise.__annotations__) if not name.startswith("_")]
    if missing := [name for name in named if not hasattr(part, name)]:
        raise ConfigError(
            f"the {what} is a {type(part).__name__} without {', '.join(missing)}; what it needs is said by class "
            f"{promise.__name__} of hwtrain/core.py"
        )


def _check_readings(name: str, commands: Sequence[Command], readings: Any) -> None:
    """Refuse an answer that lacks what was asked for, before anything is learnt from it."""
    asked = [command for command in commands if not isinstance(command, Program | Pulse)]
    given = readings if isinstance(readings, tuple | list) else ()
    if len(given) != len(asked) or not all(isinstance(reading, Reading) for reading in given):
        raise DeviceError(
            f"{name!r} gave {len(given)} readings for {len(asked)} commands; execute must give a tuple with one "
            "Reading for each command but Program and Pulse"
        )
    for command, reading in zip(asked, given, strict=True):
        if isinstance(command, Measure) and Can.COST in command.observe:
            count = 1 if command.probes is None else command.probes.count
            if not isinstance(reading.cost, np.ndarray) or reading.cost.shape[-1:] != (count,):
                found = getattr(reading.cost, "shape", reading.cost)
                raise DeviceError(
                    f"{name!r} gave the cost {found}; it must be an array (..., {count}), one for each probe"
                )


def _count(counts: Counts, programmed: Array, commands: Sequence[Command]) -> tuple[Counts, Array]:
    """The counts after some commands, and the parameters written last."""
    perturbed, baseline, gradients, writes = counts.perturbed, counts.baseline, counts.gradients, counts.writes
    for command in commands:
        match command:
            case Program():
                if command.theta is not programmed:
                    writes += not np.array_equal(command.theta, programmed)
                    programmed = command.theta
            case Pulse():
                writes += bool(command.counts.any())
            case Measure():
                if command.probes is not None:
                    perturbed += command.probes.count
                elif Can.GRADIENT in command.observe:
                    gradients += 1
                else:
                    baseline += 1
            case Train():
                perturbed += command.probes.count
                baseline += command.baselines
                writes += command.probes.count // command.tau_theta - 1  # the last is named by the Program that follows
                programmed = np.full_like(programmed, np.nan)
            case Learn() | LearnInTime():
                baseline += command.measurements
                writes += command.updates - 1
                programmed = np.full_like(programmed, np.nan)
    return Counts(perturbed, baseline, gradients, writes, counts.evaluations), programmed


def _part(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _began(state: Any) -> int:
    """The step at which the sequence now presented began: an evaluation in between would break it off."""
    began: int = state.began if isinstance(state, Streaming) else state.step
    return began
