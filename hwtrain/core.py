"""The vocabulary: what an algorithm asks, what a device answers, and what each promises the other.

An algorithm never touches hardware. It says what it wants done as commands, it is told what was measured as readings,
and the trainer stands in between. Commands and readings are frozen values: they print, compare, record and replay.

Axes come as `... k t b n`: replicas, probes, time, batch, features; parameters as `(..., p)`. Whatever stands in front
is replicas (seeds, virtual chips, a rack of boards); a bench has none. The other axes are always there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
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
    of a "conv" layer as its kernel (height, width, channels in, channels out), then its biases; "pool" has none.

    Args:
        kind: "dense", "conv" or "pool".
        inputs: shape of one sample as it enters, (n,) or (height, width, channels).
        outputs: shape of one sample as it leaves.
        size: number of parameters.
        activation: "linear", "sigmoid", "tanh" or "relu".
        bias: "add", or "subtract" as some devices and the 2023 code of MGD do.
        window: kernel or pool width; 0 for a dense layer.
        padding: "valid" or "same", for a convolution.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    size: int
    activation: str = "linear"
    bias: str = "add"
    window: int = 0
    padding: str = "valid"


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
        noise: standard deviation of one cost reading, in units of the cost.
        replicas: shape of the replica axes, () for a bench.
        layers: what stands inside, () for a black box.
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
    layers: tuple[Layer, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 1 or self.inputs < 1 or self.outputs < 1:
            raise ConfigError(f"device {self.name!r} must have at least one parameter, input and output: {self}")
        if not self.low < self.high:
            raise ConfigError(f"device {self.name!r}: low ({self.low}) must be below high ({self.high})")
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise ConfigError(f"device {self.name!r}: noise must be a finite number of at least 0, not {self.noise}")

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
        target: wanted outputs, (..., t, b, m), or None where there is none.
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
class Program(Value):
    """Set the parameters, and nothing else: running neuron state survives.

    Args:
        theta: (..., p), in the device's unit.
    """

    theta: Array


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


Command = Program | Measure


@dataclass(frozen=True, slots=True, eq=False)
class Reading(Value):
    """What one command brought back; a field that was not observed is None.

    Args:
        cost: (..., k), the mean over time and batch.
        sample_cost: (..., k, b), the mean over time.
        output: (..., k, t, b, m).
        activity: one array per layer, each (..., k, t, b, n).
        gradient: (..., k, p).
    """

    cost: Array | None = None
    sample_cost: Array | None = None
    output: Array | None = None
    activity: tuple[Array, ...] | None = None
    gradient: Array | None = None


class Device(Protocol):
    """What is trained. `execute` takes all that one step needs, so a slow link pays for one round trip."""

    @property
    def spec(self) -> DeviceSpec:
        """The device's account of itself; never changes."""

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        """Carry the commands out in order; one reading for each `Measure`."""

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

    needs: ClassVar[Can]

    def init(self, spec: DeviceSpec, seed: NDArray[np.uint32]) -> Any:
        """The first state, for a device and one seed per replica."""

    def presents(self, state: Any) -> int:
        """Index of the sample that the next step wants to see."""

    def ask(self, state: Any, sample: Sample) -> tuple[Command, ...]:
        """The commands of the next step."""

    def tell(self, state: Any, sample: Sample, readings: Sequence[Reading]) -> tuple[Any, Mapping[str, Array]]:
        """The next state, and metrics with at least `cost` (...,)."""

    def gradient(self, state: Any) -> Array | None:
        """The gradient estimate behind the last update, (..., p), for diagnosis; None where there is none."""


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


def split(theta: Array, layers: Sequence[Layer]) -> list[tuple[Array, Array]]:
    """Views of theta (..., p) as one (matrix (..., inputs, outputs), bias (..., outputs)) per dense layer."""
    parts, start = [], 0
    for layer in layers:
        n, m = math.prod(layer.inputs), math.prod(layer.outputs)
        matrix = theta[..., start : start + n * m].reshape(*theta.shape[:-1], n, m)
        parts.append((matrix, theta[..., start + n * m : start + layer.size]))
        start += layer.size
    return parts
