"""Online spatio-temporal learning with target projection.

Ortner, Pes, Gentinetta, Frenkel, Pantazi, "Online Spatio-Temporal Learning with Target Projection", IEEE AICAS 2023,
doi 10.1109/AICAS57966.2023.10168623. Every layer multiplies the eligibility traces of its parameters (traces.py) with a
learning signal that is known before the forward pass, a fixed random projection of the target:

    hidden layers   L_t = y*_t B_l          nothing to wait for
    output layer    L_t = dE_t/dy_t          exact, local

Other signals make its relatives (conf/algo/):

    target       y*_t B_l                                       OSTTP
    error        dE_t/dy_t B_l                                   direct feedback alignment with traces; random e-prop,
                                                                 Bellec et al., Nature Communications 11, 3625 (2020)
    transport    the error through the matrices of this step     OSTL (citation in traces.py), symmetric e-prop
    local        dE(y_t B_l^T)/d(y_t B_l^T) B_l                  what a layer itself says through B, against the target:
                                                                 deep continuous local learning, Kaiser, Mostafa and
                                                                 Neftci, Frontiers in Neuroscience 14, 424 (2020)
    none         0                                               hidden layers frozen: the floor for all

A projected target pushes for ever, whether or not the layer has come to tell classes apart, and a layer taught by it
may serve the read-out worse than one left as it started (benchmarks/README.md, "Learning in time"). "local" asks the
layer's own activity through the same fixed B, so the push ends where nothing is left to learn; like the target, and
unlike an error, it waits for no other layer.

It removes the wait, not the storage: traces take a number for every parameter and sample, the states that
back-propagation through time keeps a few for every neuron, sample and step. On short sequences of wide layers that is
less.

Differs from the papers: `centre` takes the mean target off, so that what is the same for every sample does not drive
the neurons for ever; B is uniform, as in DRTP, where the paper's distribution is not known to us; "local" reads the
spikes of this instant and takes the task's cost, where Kaiser et al. read filtered ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks, draws
from hwtrain.algorithms import traces
from hwtrain.algorithms.traces import Seen, Trace
from hwtrain.core import Array, Can, Command, DeviceSpec, Layer, LearnInTime, Measure, Program, Reading, Sample, counted
from hwtrain.costs import Cost
from hwtrain.errors import ConfigError
from hwtrain.optimize import Adam, Descent, Moments, Optimizer, moved, returned
from hwtrain.sim.neurons import Surrogate, parameters
from hwtrain.start import Glorot, Start

SIGNALS = ("target", "local", "error", "transport", "none")


@dataclass(frozen=True, slots=True)
class State:
    """All that changes.

    Args:
        theta: parameters, (..., p).
        gradient: sum over steps since the last update, (..., p).
        rows: how many rows, one a step and sample, that sum has, (...,).
        estimate: gradient behind the last update, (..., p).
        moments: the optimizer's memory.
        traces: of every layer, where they are kept between exchanges; else empty.
        targets: sum of all targets so far, (..., m).
        shown: how many rows that sum has, (...,).
        cost: mean cost of the last exchange that had one, (...,).
        layers: the device's layers.
        seed: one per replica, (...,).
        low: parameter range.
        high: parameter range.
        sample: sequences (batches of them) finished so far.
        time: steps of the present one presented so far.
        step: exchanges so far.
        began: `step` when the present sequence began.
        updates: updates so far.
    """

    theta: Array
    gradient: Array
    rows: Array
    estimate: Array
    moments: Moments
    traces: tuple[Trace, ...]
    targets: Array
    shown: Array
    cost: Array
    layers: tuple[Layer, ...]
    seed: NDArray[np.uint32]
    low: float
    high: float
    sample: int = 0
    time: int = 0
    step: int = 0
    began: int = 0
    updates: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OSTTP:
    """Online spatio-temporal learning with target projection, and its relatives (citations in the module docstring).

    Args:
        eta: learning rate [parameter unit squared per cost].
        cost: whose derivative teaches the output layer.
        signal: "target", "local", "error", "transport" or "none".
        centre: project the target less its mean over all that was shown so far?
        scale: half-width of the uniform distribution of B, times sqrt(6 / m).
        recurrence: trace of recurrent layers, "diagonal", or "full", which is exact and for tests only.
        filter_by_readout: filter traces by the decay of an integrating read-out, which makes an error that crosses it
            exact?
        surrogate: the derivative of a spike.
        state: "reported", the device tells its membranes; or "estimated", from its spikes and the parameters.
        update: after every "sequence", or after every "step".
        at_once: time steps in one exchange; None is the whole sequence. Results do not depend on it.
        batch: sequences presented at once, for which traces are kept where an exchange is not a whole sequence.
        hidden_rate: learning rate of the hidden layers, relative to `eta`.
        hidden_updates: updates after which hidden layers stop; None is never.
        reverse: sum whole sequences in reverse time, which is faster and the same up to rounding.
        on_device: the device learns from `block` sequences by itself, one after another, by the cost that it measures;
            `cost` and `state` then matter no more.
        block: sequences the device learns from at once.
        optimizer: plain descent, momentum or Adam.
        start: first parameters.
    """

    eta: float
    cost: Cost
    signal: str = "target"
    centre: bool = False
    scale: float = 1.0
    recurrence: str = "diagonal"
    filter_by_readout: bool = False
    surrogate: Surrogate = field(default_factory=Surrogate)
    state: str = "reported"
    update: str = "sequence"
    at_once: int | None = None
    batch: int | None = None
    hidden_rate: float = 1.0
    hidden_updates: int | None = None
    reverse: bool = False
    on_device: bool = False
    block: int = 50
    optimizer: Optimizer = field(default_factory=Adam)
    start: Start = field(default_factory=Glorot)

    def __post_init__(self) -> None:
        checks.number("algo.eta", self.eta, low=0)
        checks.one_of("algo.signal", self.signal, SIGNALS)
        checks.flag("algo.centre", self.centre)
        checks.number("algo.scale", self.scale, low=0)
        checks.one_of("algo.recurrence", self.recurrence, traces.RECURRENCES)
        checks.flag("algo.filter_by_readout", self.filter_by_readout)
        checks.one_of("algo.state", self.state, ("reported", "estimated"))
        checks.one_of("algo.update", self.update, ("sequence", "step"))
        checks.whole("algo.at_once", self.at_once, why="time steps", none="the whole sequence")
        checks.whole("algo.batch", self.batch, why="sequences", none="whole sequences only")
        checks.number("algo.hidden_rate", self.hidden_rate, low=0)
        checks.whole("algo.hidden_updates", self.hidden_updates, 0, why="updates", none="no end")
        checks.flag("algo.reverse", self.reverse)
        if self.update == "step" and self.at_once not in (None, 1):
            raise ConfigError(f"algo.at_once is {self.at_once}; with algo.update=step it must be 1, or null")
        if self._streams and self.batch is None:
            raise ConfigError("algo.batch must be set to the task's batch where a sequence is presented in parts")
        if self.reverse and (self._streams or self.recurrence == "full"):
            raise ConfigError(
                "algo.reverse sums whole sequences with diagonal traces: leave algo.update=sequence, algo.at_once=null "
                "and algo.recurrence=diagonal"
            )
        checks.flag("algo.on_device", self.on_device)
        checks.whole("algo.block", self.block, why="sequences")
        allowed = {
            "algo/optimizer=descent": isinstance(self.optimizer, Descent),
            "algo.update=step": self.update == "step",
            "task.batch=1 (algo.batch=1)": self.batch == 1,
            f"algo.signal={'|'.join(LearnInTime.SIGNALS)}": self.signal in LearnInTime.SIGNALS,
            "algo.recurrence=diagonal": self.recurrence == "diagonal",
            "algo.filter_by_readout=false": not self.filter_by_readout,
            "algo.hidden_updates=null": self.hidden_updates is None,
        }
        if self.on_device and not all(allowed.values()):
            raise ConfigError(
                "algo.on_device: a device descends by plain steps at every step of one sequence after another. Set "
                f"{', '.join(fix for fix, met in allowed.items() if not met)}, or algo.on_device=false."
            )

    @property
    def needs(self) -> Can:
        """Activities, and membranes unless they are estimated; or all of it by itself."""
        if self.on_device:
            return Can.LEARN_IN_TIME | Can.OUTPUT
        return Can.ACTIVITY | (Can.MEMBRANES if self.state == "reported" else Can(0))

    def init(self, spec: DeviceSpec, seed: NDArray[np.uint32]) -> State:
        """The first state, for one seed per replica.

        Raises:
            ConfigError: a layer is of another kind than dense, spiking or integrator.
        """
        if not spec.layers:
            raise ConfigError(f"OSTTP must know the layers of {spec.name!r}, which names none. Use algo=mgd.")
        for number, layer in enumerate(spec.layers, 1):
            if layer.kind not in ("dense", "spiking", "integrator") or layer.normalise != "none":
                raise ConfigError(
                    f"OSTTP trains dense, spiking and integrator layers that do not normalise; layer {number} of "
                    f"{spec.name!r} is {layer.kind!r}, normalise={layer.normalise}. Choose network=snu."
                )
        theta = self.start(spec, seed)
        if self.on_device:
            theta = theta.astype(spec.dtype)
        zero, none = np.zeros_like(theta), np.zeros(theta.shape[:-1])
        targets = np.zeros((*theta.shape[:-1], spec.outputs))
        follows = self._streams and self.batch and not self.on_device
        kept = self._asleep(spec.layers, theta.shape[:-1], self.batch or 1) if follows else ()
        moments = self.optimizer.init(theta)
        return State(
            theta, zero, none, zero, moments, kept, targets, none, none, spec.layers, seed, spec.low, spec.high
        )

    def presents(self, state: State) -> range:
        """A new batch of sequences when the last one has been presented to its end; a block of them."""
        return range(state.sample, state.sample + (self.block if self.on_device else 1))

    def ask(self, state: State, sample: Sample) -> tuple[Command, ...]:
        """Bring the device to theta and present the next part."""
        if self.on_device:
            return Program(state.theta), self._block(state, sample)
        part = self._part(state, sample)
        if not part.start and not self._streams:
            raise ConfigError("a sample goes on with a sequence, of which algo.at_once=null keeps nothing. Set it.")
        if self._streams and part.x.shape[-2] != self.batch:
            raise ConfigError(f"algo.batch is {self.batch}; the task presents {part.x.shape[-2]} sequences at once")
        return Program(state.theta), Measure(part, observe=self.needs)

    def tell(self, state: State, sample: Sample, readings: Sequence[Reading]) -> tuple[State, Mapping[str, Array]]:
        """Follow the traces, multiply them with the signals; update at the end."""
        if self.on_device:
            return self._follow(state, sample, readings[0])
        part = self._part(state, sample)
        before = state.traces
        if part.start:
            before = self._asleep(state.layers, state.theta.shape[:-1], part.x.shape[-2])
        seen, target, valid = self._observed(state, part, readings[0], before)
        count = counted(target) & valid  # rows without a target, or whose reading failed, move nothing
        error = np.where(count[..., None], self.cost.gradient(seen[-1].y, target), 0.0)
        targets, shown, wanted = self._wanted(state, target, count)
        signals = [*self._signals(state, seen, wanted, error, target, count), error]

        blocks, sums, after = _blocks(state, state.theta), _blocks(state, state.gradient), list(before)
        last, keep = len(signals) - 1, state.layers[-1].decay if self.filter_by_readout else None
        for number in range(last if self.signal == "none" else 0, last + 1):
            layer, now, signal = state.layers[number], seen[number], signals[number]
            filtered = keep if number < last else None
            if self.reverse and layer.kind == "spiking":
                sums[number] = sums[number] + traces.backwards(layer, now, signal, filtered)
            else:
                sums[number], after[number] = traces.accumulate(
                    layer, blocks[number], now, signal, before[number], sums[number], filtered, self.recurrence
                )

        rows, steps = count.sum(axis=(-2, -1)), part.x.shape[-3]
        costs = np.where(count, self.cost(seen[-1].y, target), 0.0).sum(axis=(-2, -1))
        cost = np.where(rows, costs / np.maximum(rows, 1), state.cost)
        metrics = {"cost": cost, "rate": _rate(state.layers, seen, count)}
        if not valid.all():
            metrics["invalid"] = (~valid).sum(axis=(-2, -1))
        ended = state.time + steps == sample.x.shape[-3]
        state = replace(
            state,
            gradient=np.concatenate(sums, axis=-1),
            rows=state.rows + rows,
            traces=tuple(after) if self._streams else (),
            targets=targets,
            shown=shown,
            cost=cost,
            sample=state.sample + ended,
            time=0 if ended else state.time + steps,
            step=state.step + 1,
            began=state.step + 1 if ended else state.began,
        )
        return self._updated(state) if ended or self.update == "step" else state, metrics

    def gradient(self, state: State) -> Array | None:
        """The estimate behind the last update; unknown where the device learns by itself."""
        return state.estimate if state.updates and not self.on_device else None

    def projection(self, state: State, number: int) -> Array:
        """B of hidden layer `number`, (..., m, n): a pure function of the seed."""
        m, n = state.targets.shape[-1], math.prod(state.layers[number].outputs)
        return self.scale * _projection(state.seed.tobytes(), state.seed.shape, number, m, n)

    def _block(self, state: State, sample: Sample) -> LearnInTime:
        """The sequences that the device learns from next by itself."""
        if sample.x.shape[-2] != self.block:
            raise ConfigError(
                f"algo.on_device: the task presents {sample.x.shape[-2] / self.block:g} sequences at once; devices "
                "learn in time from one after another. Set task.batch=1."
            )
        return LearnInTime(
            sample=sample,
            rate=self.eta * self.hidden_rate,
            readout_rate=self.eta,
            low=state.low,
            high=state.high,
            signal=self.signal,
            seeds=np.stack([_projection_seed(state.seed, number) for number in range(len(state.layers) - 1)], axis=-1),
            scale=self.scale * math.sqrt(6 / state.targets.shape[-1]),
            shape=self.surrogate.shape,
            slope=self.surrogate.slope,
            height=self.surrogate.height,
            centre=self.centre,
            targets=state.targets if self.centre else None,
            shown=state.shown if self.centre else None,
        )

    def _follow(self, state: State, sample: Sample, reading: Reading) -> tuple[State, Mapping[str, Array]]:
        """What became of the device that has learnt; steps count as with the host in the loop."""
        assert sample.target is not None and reading.theta is not None and reading.cost is not None
        heard = np.asarray(np.isfinite(reading.theta).all(axis=-1))
        count = counted(np.broadcast_to(sample.target, (*state.cost.shape, *sample.target.shape[-3:])))
        count = count & heard[..., None, None]
        targets, shown, _ = self._wanted(state, sample.target, count)
        each, rows = count.sum(axis=-2), count.sum(axis=(-2, -1))
        spent = np.where(each > 0, reading.cost * each, 0.0).sum(axis=-1, dtype=np.float64)
        cost = np.where(rows, spent / np.maximum(rows, 1), state.cost)
        steps = self.block * sample.x.shape[-3]
        state = replace(
            state,
            theta=returned(state.theta, reading.theta),
            targets=targets,
            shown=shown,
            cost=cost,
            sample=state.sample + self.block,
            step=state.step + steps,
            began=state.step + steps,
            updates=state.updates + steps,
        )
        metrics = {"cost": cost}
        if not heard.all():
            metrics["invalid"] = np.where(heard, 0, steps)
        return state, metrics

    def _observed(
        self, state: State, part: Sample, reading: Reading, before: Sequence[Trace]
    ) -> tuple[list[Seen], Array, Array]:
        """What was seen of every layer; the target, (..., t, b, m); and where no reading failed, (..., t, b)."""
        assert part.target is not None and reading.activity is not None
        replicas = state.theta.shape[:-1]
        x, target = (np.broadcast_to(values, (*replicas, *values.shape[-3:])) for values in (part.x, part.target))
        activity, told = _finite(reading.activity)
        membranes, told_too = _finite(reading.membranes or ())
        seen: list[Seen] = []
        for number, (layer, block) in enumerate(zip(state.layers, _blocks(state, state.theta), strict=True)):
            y = activity[number]
            s = membranes[number] if membranes else y
            if self.state == "estimated" and layer.kind == "spiking":
                s = traces.estimated(layer, block, x, y, before[number])
            seen.append(traces.seen(layer, block, x, s, y, before[number], self.surrogate))
            x = y
        return seen, target, np.broadcast_to(told & told_too, target.shape[:-1])

    def _signals(
        self,
        state: State,
        seen: Sequence[Seen],
        wanted: Array,
        error: Array,
        target: Array,
        count: NDArray[np.bool_],
    ) -> list[Array]:
        """L of every hidden layer, (..., t, b, n)."""
        hidden = range(len(state.layers) - 1)
        match self.signal:
            case "target":
                return [np.matmul(wanted, self.projection(state, number)[..., None, :, :]) for number in hidden]
            case "local":
                signals = []
                for number in hidden:
                    matrix = self.projection(state, number)[..., None, :, :]
                    said = np.matmul(seen[number].y, matrix.swapaxes(-1, -2))
                    own = np.where(count[..., None], self.cost.gradient(said, target), 0.0)
                    signals.append(np.matmul(own, matrix))
                return signals
            case "error":
                return [np.matmul(error, self.projection(state, number)[..., None, :, :]) for number in hidden]
            case "transport":
                signals, signal = [], error
                blocks = _blocks(state, state.theta)
                for number in reversed(hidden):
                    above, width = state.layers[number + 1], math.prod(state.layers[number].outputs)
                    matrix = above.gain * parameters(above, blocks[number + 1])[0][..., :width, :]
                    signal = np.matmul(signal * seen[number + 1].psi, matrix[..., None, :, :].swapaxes(-1, -2))
                    signals.append(signal)
                return signals[::-1]
        return [np.zeros_like(seen[number].y) for number in hidden]

    def _wanted(self, state: State, target: Array, count: NDArray[np.bool_]) -> tuple[Array, Array, Array]:
        """Sum and number of the targets so far, and what is projected: the target, less their mean if centred."""
        wanted = np.where(count[..., None], target, 0.0)
        targets = np.cumsum(np.concatenate([state.targets[..., None, :], wanted.sum(axis=-2)], axis=-2), axis=-2)
        shown = np.cumsum(np.concatenate([state.shown[..., None], count.sum(axis=-1)], axis=-1), axis=-1)
        if self.centre:
            mean = (targets / np.maximum(shown, 1)[..., None])[..., 1:, None, :]
            wanted = np.where(count[..., None], wanted - mean, 0.0)
        return targets[..., -1, :], shown[..., -1], wanted

    def _updated(self, state: State) -> State:
        """The state after an update; a replica none of whose rows counted stays where it is."""
        gradient = state.gradient / np.maximum(state.rows, 1)[..., None]
        gradient = np.where(np.isfinite(gradient), gradient, 0.0)
        change, moments = self.optimizer.step(gradient, state.moments, self.eta, state.updates)
        stopped = self.hidden_updates is not None and state.updates >= self.hidden_updates
        rate, readout = 0.0 if stopped else self.hidden_rate, state.layers[-1].size
        change = np.concatenate([rate * change[..., :-readout], change[..., -readout:]], axis=-1)
        moves = state.rows[..., None] > 0
        return replace(
            state,
            theta=np.where(moves, moved(state.theta, change, state.low, state.high), state.theta),
            gradient=np.zeros_like(gradient),
            rows=np.zeros_like(state.rows),
            estimate=gradient,
            moments=tuple(np.where(moves, new, old) for new, old in zip(moments, state.moments, strict=True)),
            updates=state.updates + 1,
        )

    @property
    def _streams(self) -> bool:
        """Is a sequence presented in parts?"""
        return self.at_once is not None or self.update == "step"

    def _part(self, state: State, sample: Sample) -> Sample:
        """The time steps that come next."""
        at_once = 1 if self.update == "step" else self.at_once
        now = slice(state.time, None if at_once is None else state.time + at_once)
        target = None if sample.target is None else sample.target[..., now, :, :]
        return Sample(sample.x[..., now, :, :], target, sample.start and state.time == 0)

    def _asleep(self, layers: Sequence[Layer], replicas: tuple[int, ...], batch: int) -> tuple[Trace, ...]:
        """Traces of layers that have seen nothing yet."""
        return tuple(
            traces.first(layer, (*replicas, batch), self.recurrence, filtered=self.filter_by_readout and number > 0)
            for number, layer in enumerate(layers[::-1])
        )[::-1]


def _blocks(state: State, values: Array) -> list[Array]:
    """The part of each layer in values (..., p)."""
    ends = np.cumsum([0, *(layer.size for layer in state.layers)])
    return [values[..., a:b] for a, b in pairwise(ends)]


def _rate(layers: Sequence[Layer], seen: Sequence[Seen], count: NDArray[np.bool_]) -> Array:
    """Mean activity of spiking neurons in the rows that count, (...,); 0 where there are none."""
    active = [
        (now.y.mean(axis=-1) * count).sum(axis=(-2, -1))
        for layer, now in zip(layers, seen, strict=True)
        if layer.kind == "spiking"
    ]
    rate: Array = (
        sum(active, np.zeros(count.shape[:-2])) / np.maximum(count.sum(axis=(-2, -1)), 1) / max(len(active), 1)
    )
    return rate


def _finite(values: Sequence[Array]) -> tuple[list[Array], Array]:
    """What was read, without the axis of probes and with 0 for what is not finite; and which rows are, (..., t, b)."""
    read = [value[..., 0, :, :, :] for value in values]
    if all(np.isfinite(value.sum()) for value in read):
        return read, np.ones(1, dtype=bool)
    valid = np.logical_and.reduce([np.isfinite(value).all(axis=-1) for value in read])
    return [np.where(np.isfinite(value), value, 0.0) for value in read], valid


@lru_cache(maxsize=16)
def _projection(seeds: bytes, shape: tuple[int, ...], number: int, m: int, n: int) -> Array:
    seed = np.frombuffer(seeds, np.uint32).reshape(shape)
    drawn = draws.uniform(_projection_seed(seed, number), 0, m * n)
    return math.sqrt(6 / m) * (2 * drawn - 1).reshape(*shape, m, n)


def _projection_seed(seed: NDArray[np.uint32], number: int) -> NDArray[np.uint32]:
    return draws.derive(seed, f"target projection to layer {number}")
