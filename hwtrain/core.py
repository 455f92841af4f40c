"""The vocabulary: what an algorithm asks, what a device answers, and what each promises the other.

An algorithm never touches hardware. It says what it wants done as commands, it is told what was measured as readings,
and the trainer stands in between. Commands and readings are frozen values: they print, compare, record and replay.

Axes come as `... k t b n`: replicas, probes, time, batch, features; parameters as `(..., p)`. Whatever stands in front
is replicas (seeds, virtual chips, a rack of boards); a bench has none. The other axes are always there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum, Flag, auto
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hwtrain.errors import ConfigError

Array = NDArray[Any]


class Can(Flag):
    """What a device offers, and what an algorithm needs."""

    COST = auto()  # reports the cost of a measurement
    SAMPLE_COST = auto()  # reports the cost of every sample of the batch
    OUTPUT = auto()  # reports its output
    ACTIVITY = auto()  # reports the activity of every layer, the output last
    GRADIENT = auto()  # reports the exact gradient of the cost; only a simulator can
    PROBE = auto()  # adds a volatile perturbation to its parameters
    NODE_PROBE = auto()  # adds a volatile perturbation to its pre-activations
    STATE = auto()  # has state beside its parameters: offers `snapshot` and `restore`
    TRAIN = auto()  # runs whole blocks of multiplexed gradient descent by itself
    LEARN = auto()  # runs whole blocks of a local learning rule by itself
    LEARN_IN_TIME = auto()  # learns by itself from every step of sequences, with eligibility traces
    PULSE = auto()  # moves its parameters by programming pulses, and takes no values
    READ = auto()  # reports its parameters
    MEMBRANES = auto()  # reports the membrane state of every layer

    def names(self) -> str:
        """The members, for a message: "COST, PROBE", or "nothing"."""
        return ", ".join(str(member.name) for member in self) or "nothing"


class Value:
    """A frozen value that may hold arrays: equal when its fields are, arrays element by element."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(_same(getattr(self, field.name), getattr(other, field.name)) for field in fields(self))  # type: ignore[arg-type]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f")
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a network, as far as an algorithm may know it.

    The parameters of a "dense" layer stand in theta as its matrix (inputs, outputs), row by row, then its biases; those
    of a "conv" layer as its kernel (height, width, channels in, channels out), then its biases; "pool" has none. Layers
    with a state that runs on from step to step are "spiking" (see hwtrain/sim/neurons.py), as its matrix (inputs,
    outputs), if recurrent the matrix (outputs, outputs) from its own activity, then its biases, which add to the
    threshold; and "integrator", a leaky sum of its inputs, as a dense layer.

    Args:
        kind: "dense", "conv", "pool", "spiking" or "integrator".
        inputs: shape of one sample as it enters, (n,) or (height, width, channels).
        outputs: shape of one sample as it leaves.
        size: number of parameters.
        activation: "linear", "sigmoid", "tanh" or "relu"; of a spiking layer "step" or "sigmoid".
        bias: "add", or "subtract" as some devices and the 2023 code of MGD do.
        window: kernel or pool width; 0 for a dense layer.
        padding: "valid" or "same", for a convolution.
        normalise: what the layer does to the length of each sample before its matrix: "none"; "l2", divide by
            |x| + 1e-8; "rms", divide by |x| / sqrt(n) + 1e-8.
        decay: share of the state that is left after one step.
        threshold: of a spiking layer.
        reset: what a spike does to the state: "hard" empties it, "soft" takes the threshold off, "soft_trained" the
            threshold and the bias.
        recurrent: does a spiking layer see its own activity of the step before?
        gain: what an integrator multiplies its inputs with.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    size: int
    activation: str = "linear"
    bias: str = "add"
    window: int = 0
    padding: str = "valid"
    normalise: str = "none"
    decay: float = 0.0
    threshold: float = 0.0
    reset: str = "none"
    recurrent: bool = False
    gain: float = 1.0


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """A device's account of itself; plain data, so that it survives JSON.

    Args:
        name: what messages call it.
        inputs: features of one sample, n.
        outputs: features of one output, m.
        size: number of parameters, p.
        can: what it offers.
        low: parameter range, in `unit`, ends included.
        high: see `low`.
        unit: "" for a plain number, else "V", "S", ...
        noise: standard deviation of one cost reading, in units of the cost; what cells and converters add hangs on
            the parameters, and comes on top.
        replicas: shape of the replica axes, () for a bench.
        step: what one programming pulse changes a parameter by, roughly; 0 where there are none.
        fast_step: the same in a second array of as many cells, which takes pulses and is read but acts on no output
            (the array A of Tiki-Taka, hwtrain/algorithms/tiki_taka.py); 0 where there is none.
        layers: what stands inside, () for a black box.
        precision: "double", or "single": the device holds parameters as float32, and changes them as `Change` says.
    """

    name: str
    inputs: int
    outputs: int
    size: int
    can: Can
    low: float = -math.inf
    high: float = math.inf
    unit: str = ""
    noise: float = 0.0
    replicas: tuple[int, ...] = ()
    step: float = 0.0
    fast_step: float = 0.0
    layers: tuple[Layer, ...] = ()
    precision: str = "double"

    def __post_init__(self) -> None:
        if self.precision not in ("double", "single"):
            raise ConfigError(f"device {self.name!r}: precision must be double or single, not {self.precision!r}")
        for what in ("size", "inputs", "outputs"):
            value = getattr(self, what)
            if not isinstance(value, int | np.integer) or value < 1:
                raise ConfigError(f"device {self.name!r}: {what} must be a whole number of at least 1, not {value!r}")
        for what in ("low", "high", "noise"):
            value = getattr(self, what)
            if not isinstance(value, int | float | np.number):
                raise ConfigError(f"device {self.name!r}: {what} must be a number, not {value!r}")
        if not self.low < self.high:
            raise ConfigError(f"device {self.name!r}: low ({self.low}) must be below high ({self.high})")
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise ConfigError(f"device {self.name!r}: noise must be a finite number of at least 0, not {self.noise}")

    @property
    def dtype(self) -> np.dtype[Any]:
        """What parameters are held as."""
        return np.dtype(np.float32 if self.precision == "single" else np.float64)

    def to_json(self) -> dict[str, Any]:
        """The spec as JSON types; `can` as names, an open range as None."""
        document: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        document["can"] = [str(member.name) for member in self.can]
        document["low"] = self.low if math.isfinite(self.low) else None
        document["high"] = self.high if math.isfinite(self.high) else None
        document["replicas"] = list(self.replicas)
        document["layers"] = [
            {f.name: list(v) if isinstance(v := getattr(layer, f.name), tuple) else v for f in fields(layer)}
            for layer in self.layers
        ]
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> DeviceSpec:
        """The inverse of `to_json`."""
        can = Can(0)
        for name in document["can"]:
            can |= Can[name]
        layers = []
        for layer in document["layers"]:
            plain: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in layer.items()
            }
            layers.append(Layer(**plain))
        return cls(
            **{
                **document,
                "can": can,
                "low": -math.inf if document["low"] is None else document["low"],
                "high": math.inf if document["high"] is None else document["high"],
                "replicas": tuple(document["replicas"]),
                "layers": tuple(layers),
            }
        )


@dataclass(frozen=True, slots=True, eq=False)
class Sample(Value):
    """What is presented to a device at once.

    Args:
        x: inputs, (..., t, b, n).
        target: wanted outputs, (..., t, b, m), or None where there is none. A row of NaN is a step that counts in no
            cost, such as those after the end of a sequence shorter than others of its batch.
        start: does a new sequence begin? Resets running neuron state, where a device has any.
    """

    x: Array
    target: Array | None = None
    start: bool = True


class Site(Enum):
    """Where a probe acts."""

    PARAMETERS = "parameters"
    NODES = "nodes"  # the pre-activations of every dense layer, one after another


class Perturbation(Protocol):
    """A pattern of perturbations as a formula: a pure function of (seed, step, index)."""

    def __call__(self, seed: NDArray[np.uint32], steps: Array, size: int) -> Array:
        """Perturbations for seeds (...,) and k steps, (..., k, size)."""

    def mean_square(self, size: int) -> float:
        """Mean square of one parameter's perturbation over a whole code block."""

    def reach(self, size: int) -> float:
        """The largest magnitude one parameter is ever moved by."""

    def block(self, size: int) -> int:
        """Steps after which all parameters have been told apart; 1 for a random code, which has no such block."""


@dataclass(frozen=True, slots=True, eq=False)
class Probes(Value):
    """Perturbations by name: a few bytes describe any number of probes of any length.

    Args:
        perturbation: the formula.
        seed: (...,) uint32, one per replica.
        first: tick of the first probe.
        count: number of probes, k.
        hold: ticks for which one perturbation is held (tau_p).
        site: where they act.
    """

    perturbation: Perturbation
    seed: NDArray[np.uint32]
    first: int
    count: int
    hold: int = 1
    site: Site = Site.PARAMETERS

    def dense(self, size: int) -> Array:
        """The perturbations themselves, (..., k, size); the caller must not write to them."""
        return self.perturbation(self.seed, np.arange(self.first, self.first + self.count) // self.hold, size)


@dataclass(frozen=True, slots=True, eq=False)
class Change(Value):
    """How parameters follow from those before: theta <- clip(theta - sum_k rate * modulation_k * sign_k).

    All in float32, one rounding per operation, the sum from its first term on in ascending order: the arithmetic of the
    firmware, so that host and board agree on every bit.

    Args:
        probes: the perturbations whose signs (their parts of the largest move) are summed.
        modulation: (..., k); what is not finite counts as 0.
        rate: weight per modulation.
        low: parameters are limited to these, ends included.
        high: see `low`.
    """

    probes: Probes
    modulation: Array
    rate: float
    low: float
    high: float

    def __call__(self, theta: Array) -> Array:
        """The parameters that follow from `theta`, (..., p) float32."""
        theta = theta.astype(np.float32, copy=False)
        size = theta.shape[-1]
        modulation = self.modulation.astype(np.float32, copy=False)
        weights = np.where(np.isfinite(modulation), np.float32(self.rate) * modulation, np.float32(0))
        reach = self.probes.perturbation.reach(size)
        total: Array | None = None
        for first in range(0, self.probes.count, _CHUNK):
            part = replace(self.probes, first=self.probes.first + first, count=min(_CHUNK, self.probes.count - first))
            signs = (part.dense(size) / reach).astype(np.float32)
            for k in range(part.count):
                term = signs[..., k, :] * weights[..., first + k, None]
                total = term if total is None else total + term
        changed: Array = np.clip(theta - total, *inside(self.low, self.high))
        return changed


_CHUNK = 64  # perturbations made at once


def inside(low: float, high: float) -> tuple[np.float32, np.float32]:
    """The widest float32 limits that do not leave [low, high]."""
    with np.errstate(over="ignore"):  # a limit beyond single precision is its last number
        lowest, highest = np.float32(low), np.float32(high)
    up, down = np.float32(np.inf), np.float32(-np.inf)
    return (
        lowest if float(lowest) >= low else np.nextafter(lowest, up),
        highest if float(highest) <= high else np.nextafter(highest, down),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Program(Value):
    """Set the parameters, and nothing else: running neuron state survives.

    Args:
        theta: (..., p), in the device's unit.
        change: how they follow from those programmed before, if they do: a device may carry this out in place of
            writing all of them, where it leads to the same theta.
    """

    theta: Array
    change: Change | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Pulse(Value):
    """Give every parameter its programming pulses, and nothing else.

    Args:
        counts: (..., p) whole numbers: so many pulses up, or down where negative.
        fast: in the second array?
    """

    counts: Array
    fast: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Read(Value):
    """Report the parameters, as well as the device can read them.

    Args:
        which: indices of parameters, (k,), in whose order they are reported; None is all.
        fast: of the second array?
    """

    which: NDArray[np.int64] | None = None
    fast: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Measure(Value):
    """Present a sample and report.

    Args:
        sample: what to present.
        probes: perturbations to measure under, one measurement each; none is one unperturbed measurement, k = 1.
        observe: which fields of the reading are wanted.
    """

    sample: Sample
    probes: Probes | None = None
    observe: Can = Can.COST


@dataclass(frozen=True, slots=True, eq=False)
class Train(Value):
    """Run a block of ticks of multiplexed gradient descent on the device, which changes its parameters by itself.

    Tick t presents number t // tau_x of the run, measures a baseline where one is due, and measures under its
    perturbation; at the end of every tau_theta ticks the parameters follow from the modulations as `Change` says. The
    reading is the trace of costs, from which the host knows every parameter; the block equals the same ticks asked one
    by one.

    Args:
        sample: the presentations of the block, one after another along the batch axis.
        probes: the ticks; both their first and their number are multiples of tau_theta.
        tau_x: ticks for which one presentation lasts.
        tau_theta: ticks between changes of the parameters.
        batch: samples of one presentation.
        baseline: "shared", measured when presentation or parameters have changed; "fresh", at every tick; or "none".
        rate: see `Change`.
        low: see `Change`.
        high: see `Change`.
    """

    sample: Sample
    probes: Probes
    tau_x: int
    tau_theta: int
    batch: int
    baseline: str
    rate: float
    low: float
    high: float

    @property
    def presentations(self) -> range:
        """Numbers of the presentations that the block touches, counted over the run."""
        first, last = self.probes.first, self.probes.first + self.probes.count - 1
        return range(first // self.tau_x, last // self.tau_x + 1)

    @property
    def baselines(self) -> int:
        """Unperturbed measurements that the block takes."""
        if self.baseline != "shared":
            return self.probes.count if self.baseline == "fresh" else 0
        ticks = range(self.probes.first, self.probes.first + self.probes.count)
        return sum(tick % self.tau_x == 0 or tick % self.tau_theta == 0 for tick in ticks)

    def changes(self, modulation: Array) -> Iterator[Change]:
        """What happened to the parameters, window by window, from the modulations of the trace, (..., k)."""
        for at in range(0, self.probes.count, self.tau_theta):
            window = replace(self.probes, first=self.probes.first + at, count=self.tau_theta)
            yield Change(window, modulation[..., at : at + self.tau_theta], self.rate, self.low, self.high)


@dataclass(frozen=True, slots=True, eq=False)
class Learn(Value):
    """Run updates of a local learning rule on the device, one after another, which changes its parameters by itself.

    An update presents the next `batch` samples and changes all layers at once, from the parameters before it, by plain
    descent: theta <- clip(theta - rate * gradient), gradients being means over the batch, as `ForwardForward.contrast`
    and `MonoForward.tell` (hwtrain/algorithms) define them. The reading brings back `theta`, `local`, and the `cost` of
    every update.

    Args:
        rule: "forward_forward", "symba" or "mono_forward".
        sample: the samples of the block, one after another along the batch axis; targets are one-hot.
        batch: samples of one update.
        rate: learning rate of the layers that hold activities.
        readout_rate: learning rate of the last layer, which is the read-out.
        low: parameters are kept within these, ends included.
        high: see `low`.
        scale: theta of forward-forward, the threshold of goodness; alpha of SymBa.
        mean: is goodness the mean of squared activities, and not their sum?
        wrong: forward-forward's wrong label of each sample, (..., t, b) uint8.
        local: mono-forward's class matrices, (..., q): one (classes, units) after another, for every hidden layer but
            the last, whose class matrix is the read-out.
    """

    RULES: ClassVar[tuple[str, ...]] = ("forward_forward", "symba", "mono_forward")

    rule: str
    sample: Sample
    batch: int
    rate: float
    readout_rate: float
    low: float
    high: float
    scale: float = 0.0
    mean: bool = False
    wrong: Array | None = None
    local: Array | None = None

    @property
    def updates(self) -> int:
        """How many updates the block makes."""
        return int(self.sample.x.shape[-2]) // self.batch

    @property
    def measurements(self) -> int:
        """Passes of a batch: one, or three where a right, a wrong and no label are shown."""
        return self.updates * (1 if self.rule == "mono_forward" else 3)


@dataclass(frozen=True, slots=True, eq=False)
class LearnInTime(Value):
    """Learn from sequences on the device, one after another, which changes its parameters by itself at every step.

    Each sequence begins with neurons and traces that have seen nothing. A step that has a target changes all layers at
    once, after all have answered, by plain descent: theta <- clip(theta - rate * L_t e_t), with the traces e_t and
    signals L_t of one sequence as `OSTTP` (hwtrain/algorithms/osttp.py) follows them, "diagonal". A step without
    a target is presented, and changes nothing; those after the last target of a sequence are not presented. The reading
    brings back `theta`, and the `cost` of every sequence, (..., b): the mean over its steps with a target, each before
    it was learnt from; NaN without any.

    The trainer counts a measurement for every step presented, and a write for every step with a target.

    Args:
        sample: the sequences of the block along the batch axis, all from their start.
        rate: learning rate of the hidden layers.
        readout_rate: learning rate of the last layer.
        low: parameters are kept within these, ends included.
        high: see `low`.
        signal: what teaches a hidden layer: its projection of the "target", of the "error" of the output, or, "local",
            of the derivative of the cost of what it says itself through the same projection.
        seeds: of the projection of each hidden layer, (..., layers) uint32. Element (c, j) of one, from class c to unit
            j, is scale * (2 u - 1), u being draw c * units + j of `draws.uniform(seed, 0, m * units)`.
        scale: half-width of the projections.
        shape: of a spike's surrogate derivative, "tanh", "fast_sigmoid" or "triangle" (hwtrain/sim/neurons.py).
        slope: how narrow it is [per unit of the membrane].
        height: its value at the threshold.
        centre: project the target less its mean over all that was shown so far, this step included?
        targets: sum of the targets shown before the block, (..., m), where `centre` asks for it.
        shown: how many those were, (...,).
    """

    SIGNALS: ClassVar[tuple[str, ...]] = ("target", "local", "error")
    SHAPES: ClassVar[tuple[str, ...]] = ("tanh", "fast_sigmoid", "triangle")

    sample: Sample
    rate: float
    readout_rate: float
    low: float
    high: float
    signal: str
    seeds: NDArray[np.uint32]
    scale: float
    shape: str = "tanh"
    slope: float = 1.0
    height: float = 1.0
    centre: bool = False
    targets: Array | None = None
    shown: Array | None = None

    @property
    def lengths(self) -> NDArray[np.intp]:
        """Steps presented of each sequence, those up to its last target, (..., b)."""
        number = np.arange(1, self.sample.x.shape[-3] + 1)[:, None]
        lengths: NDArray[np.intp] = np.where(self._counted, number, 0).max(axis=-2)
        return lengths

    @property
    def measurements(self) -> int:
        """Steps presented, by the replica that is shown most."""
        return int(self.lengths.sum(axis=-1).max())

    @property
    def updates(self) -> int:
        """Steps with a target, by the replica that has most."""
        return int(self._counted.sum(axis=(-2, -1)).max())

    @property
    def _counted(self) -> NDArray[np.bool_]:
        assert self.sample.target is not None
        return counted(self.sample.target)


Command = Program | Pulse | Read | Measure | Train | Learn | LearnInTime


@dataclass(frozen=True, slots=True, eq=False)
class Reading(Value):
    """What one command brought back; a field that was not observed is None.

    Args:
        cost: (..., k), the mean over time and batch; of every update or sequence of a block of local learning.
        sample_cost: (..., k, b), the mean over time.
        output: (..., k, t, b, m).
        activity: one array per layer, each (..., k, t, b, n).
        membranes: state of every layer after each step, likewise; of a layer without one, its activity.
        gradient: (..., k, p).
        baseline: of every tick of a block of training, (..., k); 0 without one.
        modulation: of every tick of a block of training, cost under the perturbation less baseline, (..., k).
        theta: parameters as they were read, (..., p) or (..., k), or as a block of local learning left them.
        local: and of the class matrices, (..., q).
    """

    cost: Array | None = None
    sample_cost: Array | None = None
    output: Array | None = None
    activity: tuple[Array, ...] | None = None
    gradient: Array | None = None
    baseline: Array | None = None
    modulation: Array | None = None
    theta: Array | None = None
    local: Array | None = None
    membranes: tuple[Array, ...] | None = None


class Device(Protocol):
    """What is trained. `execute` takes all that one step needs, so a slow link pays for one round trip."""

    @property
    def spec(self) -> DeviceSpec:
        """The device's account of itself; never changes."""

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        """Carry the commands out in order; one reading for each command but `Program` and `Pulse`."""

    def rest(self) -> None:
        """Make the hardware safe, from any condition; may be called twice, and after `close`."""

    def close(self) -> None:
        """Let go of the hardware; may be called twice."""


@runtime_checkable
class Stateful(Protocol):
    """What a device with `Can.STATE` offers beside: what a checkpoint must hold of it."""

    def snapshot(self) -> dict[str, Array]:
        """All state that a later reading depends on."""

    def restore(self, snapshot: Mapping[str, Array]) -> None:
        """The inverse of `snapshot`."""


@runtime_checkable
class Counting(Protocol):
    """What a device behind a link offers beside: what became of it, for the record of the run."""

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Since the device was opened: "traffic" and survived "disturbances", by name."""


class State(Protocol):
    """All that changes in an algorithm, as a frozen dataclass of arrays, integers and dataclasses of these."""

    @property
    def theta(self) -> Array:
        """Parameters, (..., p)."""

    @property
    def step(self) -> int:
        """Steps done so far, in the unit that `budget.steps` counts."""

    @property
    def updates(self) -> int:
        """Parameter updates done so far."""


class Algorithm(Protocol):
    """A learning rule: hyperparameters in a frozen dataclass, everything else in its state.

    `ask` and `tell` are pure. `ask` may be asked twice: it brings the device to `state.theta` and measures, which is
    how a run goes on after a pulled cable.
    """

    @property
    def needs(self) -> Can:
        """What the device must offer."""

    def init(self, spec: DeviceSpec, seed: NDArray[np.uint32]) -> Any:
        """The first state, for a device and one seed per replica."""

    def presents(self, state: Any) -> range:
        """Indices of the samples that the next step wants to see; `ask` gets them joined along the batch axis."""

    def ask(self, state: Any, sample: Sample) -> tuple[Command, ...]:
        """The commands of the next step."""

    def tell(self, state: Any, sample: Sample, readings: Sequence[Reading]) -> tuple[Any, Mapping[str, Array]]:
        """The next state, and metrics with at least `cost` (...,)."""

    def gradient(self, state: Any) -> Array | None:
        """The gradient estimate behind the last update, (..., p), for diagnosis; None where there is none."""


@runtime_checkable
class Predicting(Protocol):
    """What an algorithm offers beside where a prediction is more than the device's output for the sample."""

    def queries(self, state: Any, sample: Sample) -> tuple[Command, ...]:
        """The measurements that a prediction takes; the device holds `state.theta`."""

    def predict(self, state: Any, sample: Sample, readings: Sequence[Reading]) -> Array:
        """What stands for the output: the largest is the class, (..., t, b, m)."""


@runtime_checkable
class Streaming(Protocol):
    """What a state offers beside where a sequence is presented in several steps, which nothing else may break up."""

    @property
    def began(self) -> int:
        """The step at which the sequence now presented began; `step` between sequences."""


class Task(Protocol):
    """Named data as a stream of samples with random access: sample `index` of a seed is always the same."""

    name: str
    inputs: int
    outputs: int

    def sample(self, seed: NDArray[np.uint32], index: int) -> Sample:
        """Training sample `index`: x (..., t, b, n) for seeds (...,)."""

    def held_out(self, limit: int) -> Sample:
        """At most `limit` samples never trained on, as one batch without replica axes."""

    def seen(self, limit: int) -> Sample:
        """At most `limit` training samples, in data order, as one batch without replica axes."""


@runtime_checkable
class Validating(Protocol):
    """What a task offers beside where settings, or the moment to stop, are chosen on samples of their own."""

    def validation(self, limit: int) -> Sample:
        """At most `limit` samples neither trained on nor held out, as one batch without replica axes."""


def dense_layers(spec: DeviceSpec, who: str) -> tuple[Layer, ...]:
    """The device's layers, refused unless all are dense.

    Args:
        who: the algorithm, for the message.

    Raises:
        ConfigError: naming the first layer that is not dense, or that nothing is known about the layers.
    """
    if not spec.layers:
        raise ConfigError(
            f"{who} must know the layers of {spec.name!r}, which names none. Use algo=mgd, which need not."
        )
    for number, layer in enumerate(spec.layers, 1):
        if layer.kind != "dense":
            raise ConfigError(
                f"{who} works on dense layers; layer {number} of {spec.name!r} is {layer.kind!r}. "
                "Choose a network of dense layers (network=mlp), or algo=mgd."
            )
    return spec.layers


def normalised(x: Array, how: str) -> Array:
    """Samples (..., n) as a layer takes them: see `Layer.normalise`."""
    if how == "none":
        return x
    square = np.einsum("...n,...n->...", x, x)[..., None]
    if how == "rms":
        square = square / x.shape[-1]
    result: Array = x / (np.sqrt(square) + TINY)
    return result


TINY = 1e-8  # keeps a sample of length 0 from becoming NaN


def counted(target: Array) -> NDArray[np.bool_]:
    """Which rows of a target (..., m) count in a cost, (...,): those that are not NaN."""
    return ~np.isnan(target[..., 0])


def joined(samples: Sequence[Sample]) -> Sample:
    """Samples as one, along the batch axis."""
    if len(samples) == 1:
        return samples[0]
    targets = [sample.target for sample in samples if sample.target is not None]
    target = np.concatenate(targets, axis=-2) if targets else None
    return Sample(np.concatenate([sample.x for sample in samples], axis=-2), target, samples[0].start)


def split(theta: Array, layers: Sequence[Layer]) -> list[tuple[Array, Array]]:
    """Views of theta (..., p) as one (matrix (..., inputs, outputs), bias (..., outputs)) per dense layer."""
    parts, start = [], 0
    for layer in layers:
        n, m = math.prod(layer.inputs), math.prod(layer.outputs)
        matrix = theta[..., start : start + n * m].reshape(*theta.shape[:-1], n, m)
        parts.append((matrix, theta[..., start + n * m : start + layer.size]))
        start += layer.size
    return parts
