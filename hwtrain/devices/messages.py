"""What frames mean: requests and replies as values; the only Python copy of the numbers on the wire.

firmware/PROTOCOL.md defines every byte, firmware/include/hwtrain/protocol.h is the same in C. A request is a frozen
dataclass that packs itself; where a reply says more than "done", `unpack` reads its payload. Everything is
little-endian; parameters, samples and costs are float32 (`<f4`).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hwtrain.devices.frames import Frame
from hwtrain.errors import FirmwareError, ProtocolError

VERSION = 1
REPLY = 0x80
FLOAT = np.dtype("<f4")
Floats = NDArray[np.float32]


class Kind(IntEnum):
    """Which message; a reply has `REPLY` added."""

    HELLO = 0x01
    ADOPT = 0x02
    NETWORK = 0x10
    WRITE = 0x11
    READ = 0x12
    DIGEST = 0x13
    SAMPLE = 0x14
    MEASURE = 0x15
    UPDATE = 0x16
    TRAIN = 0x17
    REST = 0x18
    WATCHDOG = 0x19
    COUNTERS = 0x1A
    RESET = 0x1B
    LEARN = 0x1C
    STREAM = 0x1D


class Status(IntEnum):
    """First byte of a reply's payload."""

    OK = 0
    BAD_VERSION = 1
    BAD_BOOT = 2
    BAD_SEQUENCE = 3
    BAD_KIND = 4
    BAD_LENGTH = 5
    BAD_VALUE = 6
    BAD_RANGE = 7
    NO_ROOM = 8
    NO_NETWORK = 9


_SENTENCES = {
    Status.BAD_VERSION: "the board speaks protocol {detail}, this hwtrain speaks {version}. Flash matching firmware",
    Status.BAD_BOOT: "the board restarted or was taken over by another host: its boot id is {detail:#010x}",
    Status.BAD_SEQUENCE: "the board expects request number {detail}",
    Status.BAD_KIND: "the board does not know message {detail:#04x}; its firmware is older than this hwtrain",
    Status.BAD_LENGTH: "the message is {detail} bytes long for the board",
    Status.BAD_VALUE: "the board does not allow the value at byte {detail} of the message",
    Status.BAD_RANGE: "parameter {detail} would leave the board's limits; nothing was written",
    Status.NO_ROOM: "too large for the board: it has room for {detail}",
    Status.NO_NETWORK: "the board has no network yet",
}


class Activation(IntEnum):
    """Of a layer; names as in `hwtrain.core.Layer`."""

    LINEAR = 0
    SIGMOID = 1
    TANH = 2
    RELU = 3
    STEP = 4  # of a spiking layer, which only `Stream` computes with its memory


class Bias(IntEnum):
    """How a layer's bias acts."""

    ADD = 0
    SUBTRACT = 1


class Normalise(IntEnum):
    """What a layer does to the length of its inputs; names as in `hwtrain.core.Layer`."""

    NONE = 0
    L2 = 1
    RMS = 2


class Cost(IntEnum):
    """What the board minimises."""

    MEAN_SQUARED_ERROR = 0
    CROSS_ENTROPY = 1


class Pattern(IntEnum):
    """Kinds of perturbations the board can make from their names; `ANTITHETIC` is added to one."""

    RADEMACHER = 0
    WALSH = 1
    WALSH_TWO_SIDED = 2


ANTITHETIC = 0x80


class Observe(IntFlag):
    """What a measurement reports."""

    COST = 1
    OUTPUT = 2
    ACTIVITY = 4


class Baseline(IntEnum):
    """When a block of training measures its baseline."""

    NONE = 0
    SHARED = 1
    FRESH = 2


class Rule(IntEnum):
    """By which a board learns layer by layer; names as in `hwtrain.core.Learn`."""

    FORWARD_FORWARD = 0
    SYMBA = 1
    MONO_FORWARD = 2


class Goodness(IntEnum):
    """Of the squared activities of a layer."""

    SUM = 0
    MEAN = 1


class Resetting(IntEnum):
    """What a spike does to a membrane; names as in `hwtrain.core.Layer`."""

    HARD = 0
    SOFT = 1


class Signal(IntEnum):
    """What teaches hidden layers of a stream; names as in `hwtrain.algorithms.osttp`."""

    TARGET = 0
    LOCAL = 1
    ERROR = 2


class Shape(IntEnum):
    """Of the surrogate of a spike's derivative; names as in `hwtrain.sim.neurons.Surrogate`."""

    TANH = 0
    FAST_SIGMOID = 1
    TRIANGLE = 2


class Capability(IntFlag):
    """What the board's firmware offers."""

    COST = 1
    OUTPUT = 2
    ACTIVITY = 4
    PROBE = 8
    UPDATE = 16
    TRAIN = 32
    RESET = 64
    LEARN = 128
    STREAM = 256


def _expect(kind: Kind, payload: bytes, size: int) -> None:
    """Refuse a payload of another size [bytes]."""
    if len(payload) != size:
        raise ProtocolError(f"{kind.name} must say {size} bytes here, it says {len(payload)}: {payload[:32].hex(' ')}")


@dataclass(frozen=True, slots=True)
class Code:
    """A perturbation by name.

    Args:
        seed: of the run.
        amplitude: every parameter moves by plus or minus this; not sent with an update, which needs only signs.
        pattern: which formula.
        antithetic: is every pattern used with both signs?
        hold: ticks for which one pattern is held.
    """

    seed: int
    amplitude: float
    pattern: Pattern = Pattern.RADEMACHER
    antithetic: bool = False
    hold: int = 1

    @property
    def kind(self) -> int:
        """The byte on the wire."""
        return self.pattern | (ANTITHETIC if self.antithetic else 0)


@dataclass(frozen=True, slots=True)
class Hello:
    """Who is there? Always answered, changes nothing, not numbered."""

    kind: ClassVar[Kind] = Kind.HELLO

    def pack(self) -> bytes:
        """The payload."""
        return b""


@dataclass(frozen=True, slots=True)
class Adopt:
    """Give the board its boot id, and begin counting requests at 0; not numbered.

    Args:
        previous: the id it has now, 0 after a restart.
        boot: the new one, not 0, never used before.
    """

    previous: int
    boot: int
    kind: ClassVar[Kind] = Kind.ADOPT

    def pack(self) -> bytes:
        """The payload."""
        return struct.pack("<II", self.previous, self.boot)


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """One layer of the board's network; a recurrent one sees its own outputs of the step before, behind its inputs."""

    outputs: int
    activation: Activation = Activation.SIGMOID
    bias: Bias = Bias.ADD
    normalise: Normalise = Normalise.NONE
    recurrent: bool = False

    @property
    def form(self) -> int:
        """Bias, normalisation and recurrence in one byte, as on the wire."""
        return self.bias | self.normalise << 1 | self.recurrent << 3

    def rows(self, inputs: int) -> int:
        """Of its matrix."""
        return inputs + self.outputs * self.recurrent


@dataclass(frozen=True, slots=True)
class Network:
    """Load a network; parameters and samples become zero.

    Args:
        inputs: features of one sample.
        layers: from input to output.
        low: parameters are held within these, ends included.
        high: see `low`.
    """

    inputs: int
    layers: tuple[DenseLayer, ...]
    cost: Cost = Cost.MEAN_SQUARED_ERROR
    low: float = -np.inf
    high: float = np.inf
    kind: ClassVar[Kind] = Kind.NETWORK

    def pack(self) -> bytes:
        """The payload."""
        head = struct.pack("<BBHff", self.cost, len(self.layers), self.inputs, self.low, self.high)
        return head + b"".join(struct.pack("<HBB", each.outputs, each.activation, each.form) for each in self.layers)

    @classmethod
    def unpack(cls, payload: bytes) -> Network:
        """The inverse of `pack`.

        Raises:
            ProtocolError: wrong length, or numbers that stand for nothing.
        """
        _expect(cls.kind, payload, 12 + 4 * payload[1] if len(payload) > 1 else 12)
        cost, _, inputs, low, high = struct.unpack_from("<BBHff", payload)
        parts = struct.iter_unpack("<HBB", payload[12:])
        try:
            layers = tuple(
                DenseLayer(outputs, Activation(f), Bias(form & 1), Normalise(form >> 1 & ~4), bool(form & 8))
                for outputs, f, form in parts
            )
            return cls(inputs, layers, Cost(cost), low, high)
        except ValueError as error:
            raise ProtocolError(f"{cls.kind.name}: {error}: {payload[:32].hex(' ')}") from error

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum((layer.rows(inputs) + 1) * layer.outputs for inputs, layer in self._fed)

    @property
    def streaming_size(self) -> int:
        """Floats of what runs on from step to step of a stream, which stand there instead."""
        *hidden, (inputs, last) = self._fed
        return sum((layer.rows(n) + 4) * layer.outputs for n, layer in hidden) + inputs + 2 * last.outputs + 1

    @property
    def _fed(self) -> list[tuple[int, DenseLayer]]:
        """The layers, and how many inputs each has."""
        return list(zip([self.inputs, *(layer.outputs for layer in self.layers)], self.layers, strict=False))

    @property
    def classes_size(self) -> int:
        """Floats of Mono-Forward's class matrices, which stand behind the parameters."""
        return self.layers[-1].outputs * sum(layer.outputs for layer in self.layers[:-2])


@dataclass(frozen=True, slots=True, eq=False)
class Write:
    """Set parameters, and class matrices behind them, from number `offset` on: all or, if one is not allowed, none."""

    offset: int
    values: Floats
    kind: ClassVar[Kind] = Kind.WRITE

    def pack(self) -> bytes:
        """The payload."""
        return struct.pack("<I", self.offset) + np.asarray(self.values, FLOAT).tobytes()


@dataclass(frozen=True, slots=True)
class Read:
    """Report `count` parameters from number `offset` on; the reply is floats."""

    offset: int
    count: int
    kind: ClassVar[Kind] = Kind.READ

    def pack(self) -> bytes:
        """The payload."""
        return struct.pack("<IH", self.offset, self.count)


@dataclass(frozen=True, slots=True)
class Digest:
    """Report number and CRC-32 of all parameters, as their bytes would cross the wire.

    Args:
        count: how many, from the first on, class matrices behind the parameters included; None is all parameters.
    """

    count: int | None = None
    kind: ClassVar[Kind] = Kind.DIGEST

    def pack(self) -> bytes:
        """The payload."""
        return b"" if self.count is None else struct.pack("<I", self.count)

    @staticmethod
    def unpack(payload: bytes) -> tuple[int, int]:
        """Number of parameters, CRC-32.

        Raises:
            ProtocolError: wrong length.
        """
        _expect(Kind.DIGEST, payload, 8)
        size, crc = struct.unpack("<II", payload)
        return size, crc


@dataclass(frozen=True, slots=True, eq=False)
class Store:
    """Store (part of) a sample: inputs, then target, from value number `offset` on.

    Args:
        values: floats, or uint8 where 255 stands for 1, which take a quarter of the bytes.
    """

    slot: int
    values: NDArray[Any]
    offset: int = 0
    kind: ClassVar[Kind] = Kind.SAMPLE

    def pack(self) -> bytes:
        """The payload."""
        short = self.values.dtype == np.uint8
        head = struct.pack("<HBBI", self.slot, short, 0, self.offset)
        return head + (self.values.tobytes() if short else self.values.astype(FLOAT).tobytes())


@dataclass(frozen=True, slots=True)
class Probe:
    """Measure a batch of stored samples, unperturbed, perturbed, or both; the unperturbed measurement comes first.

    Args:
        slot: first sample.
        batch: how many, one after another; the cost is their mean.
        plain: measure unperturbed?
        count: number of perturbed measurements.
        code: their perturbations.
        first: tick of the first of them.
        observe: what to report.
    """

    slot: int
    batch: int = 1
    plain: bool = True
    count: int = 0
    code: Code = Code(0, 0.0)
    first: int = 0
    observe: Observe = Observe.COST
    kind: ClassVar[Kind] = Kind.MEASURE

    def pack(self) -> bytes:
        """The payload."""
        return struct.pack(
            "<BBBBHHHHIIf",
            self.observe, self.plain, self.code.kind, 0, self.slot, self.batch, self.code.hold, self.count,
            self.code.seed, self.first, self.code.amplitude,
        )  # fmt: skip

    def unpack(self, payload: bytes, outputs: int, nodes: int) -> tuple[Floats | None, Floats | None]:
        """Costs (k,), and what was observed beside, (k, b, values); None for what was not asked for.

        Raises:
            ProtocolError: wrong length.
        """
        k = self.plain + self.count
        width = nodes if self.observe & Observe.ACTIVITY else outputs if self.observe & Observe.OUTPUT else 0
        _expect(self.kind, payload, FLOAT.itemsize * k * (bool(self.observe & Observe.COST) + self.batch * width))
        values = np.frombuffer(payload, FLOAT)
        costs = values[:k] if self.observe & Observe.COST else None
        rest = values[0 if costs is None else k :]
        return costs, rest.reshape(k, self.batch, width) if width else None


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """theta <- clip(theta - sum over k of rate * modulation_k * sign_k): a few bytes per probe, none per parameter.

    Args:
        first: tick of the first modulation.
        low: the result is limited to these, where `clip` says so.
        high: see `low`.
    """

    code: Code
    first: int
    rate: float
    modulations: Floats
    low: float = -np.inf
    high: float = np.inf
    clip: bool = True
    kind: ClassVar[Kind] = Kind.UPDATE

    def pack(self) -> bytes:
        """The payload."""
        head = struct.pack(
            "<BBHIIfff",
            self.code.kind, self.clip, self.code.hold, self.code.seed, self.first, self.rate, self.low, self.high,
        )  # fmt: skip
        return head + np.asarray(self.modulations, FLOAT).tobytes()


@dataclass(frozen=True, slots=True)
class Train:
    """Run a block of ticks of multiplexed gradient descent on the board.

    Args:
        first: tick the block begins with, a multiple of tau_theta.
        ticks: how many, a multiple of tau_theta.
        slots: first stored sample of each presentation that the block touches.
        rate: eta * amplitude / (tau_theta * mean square of the perturbation).
        low: parameters are limited to these after every update.
        high: see `low`.
        tau_x: ticks for which a presentation lasts.
        tau_theta: ticks between updates.
        batch: samples of a presentation.
        baseline: when the unperturbed cost is measured.
    """

    code: Code
    first: int
    ticks: int
    slots: Sequence[int]
    rate: float
    low: float = -np.inf
    high: float = np.inf
    tau_x: int = 1
    tau_theta: int = 1
    batch: int = 1
    baseline: Baseline = Baseline.SHARED
    kind: ClassVar[Kind] = Kind.TRAIN

    def pack(self) -> bytes:
        """The payload."""
        return struct.pack(
            f"<BBHHHHHIIffff{len(self.slots)}H",
            self.code.kind, self.baseline, self.code.hold, self.tau_x, self.tau_theta, self.ticks, self.batch,
            self.code.seed, self.first, self.code.amplitude, self.rate, self.low, self.high, *self.slots,
        )  # fmt: skip

    @staticmethod
    def unpack(payload: bytes) -> tuple[Floats, Floats]:
        """Baselines and modulations, (ticks,) each; the probed cost is their sum.

        Raises:
            ProtocolError: not a whole number of ticks.
        """
        _expect(Kind.TRAIN, payload, len(payload) // 8 * 8)
        trace = np.frombuffer(payload, FLOAT).reshape(-1, 2)
        return trace[:, 0], trace[:, 1]


@dataclass(frozen=True, slots=True)
class Learn:
    """Run updates of a local learning rule on the board.

    Args:
        rule: which.
        batch: samples of an update.
        slots: first stored sample of each update.
        rate: of the hidden layers.
        readout_rate: of the last layer.
        low: parameters are limited to these after every update.
        high: see `low`.
        scale: theta of forward-forward, alpha of SymBa.
        goodness: sum or mean.
        wrong: a wrong label for every sample of every update, but for Mono-Forward.
    """

    rule: Rule
    batch: int
    slots: Sequence[int]
    rate: float
    readout_rate: float
    low: float = -np.inf
    high: float = np.inf
    scale: float = 0.0
    goodness: Goodness = Goodness.SUM
    wrong: bytes = b""
    kind: ClassVar[Kind] = Kind.LEARN

    def pack(self) -> bytes:
        """The payload."""
        head = struct.pack(
            f"<BBHHHfffff{len(self.slots)}H",
            self.rule, self.goodness, self.batch, len(self.slots), 0,
            self.rate, self.readout_rate, self.scale, self.low, self.high, *self.slots,
        )  # fmt: skip
        return head + self.wrong

    @staticmethod
    def unpack(payload: bytes) -> Floats:
        """Cost of every update, (k,).

        Raises:
            ProtocolError: not a whole number of costs.
        """
        _expect(Kind.LEARN, payload, len(payload) // 4 * 4)
        return np.frombuffer(payload, FLOAT)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stream:
    """Present steps of a sequence to spiking neurons, one after another, and learn from each.

    Args:
        slot: where the first step is stored; the others stand behind it.
        steps: how many.
        start: does a new sequence begin, for neurons that have seen nothing?
        learn: change the parameters after every step?
        activity: report what every layer did at every step?
        centre: project the target less its mean over all steps so far?
        reset: hard or soft.
        signal: what teaches hidden layers.
        shape: of the surrogate.
        decay: share of a membrane that is left after a step.
        threshold: to which each unit's bias is added.
        slope: how narrow the surrogate is.
        height: its value at the threshold.
        readout_decay: of the last layer, which integrates; 0 is no memory.
        readout_gain: what the last layer multiplies its inputs with.
        rate: learning rate of the hidden layers.
        readout_rate: of the last layer.
        scale: half-width of the projections, whose element (c, j) is scale * (2^-31 * draw), the draw being word
            c * units + j of the seed (`hwtrain.draws.words`) as a signed number.
        low: parameters are kept within these.
        high: see `low`.
        seeds: of each hidden layer's projection.
        sums: of the targets so far, and how many they were, (m + 1,); None goes on from what the board has.
    """

    slot: int
    steps: int
    start: bool = True
    learn: bool = True
    activity: bool = False
    centre: bool = False
    reset: Resetting = Resetting.HARD
    signal: Signal = Signal.TARGET
    shape: Shape = Shape.TANH
    decay: float
    threshold: float
    slope: float = 1.0
    height: float = 1.0
    readout_decay: float = 0.0
    readout_gain: float = 1.0
    rate: float = 0.0
    readout_rate: float = 0.0
    scale: float = 1.0
    low: float = -np.inf
    high: float = np.inf
    seeds: Sequence[int] = (0,)
    sums: Floats | None = None
    kind: ClassVar[Kind] = Kind.STREAM

    def pack(self) -> bytes:
        """The payload."""
        flags = self.start | self.learn << 1 | self.activity << 2 | self.centre << 3 | (self.sums is not None) << 4
        given = b"" if self.sums is None else self.sums.astype(FLOAT).tobytes()
        settings = struct.pack(
            f"<BBBBHHfffffffffff{len(self.seeds)}I",
            flags, self.reset, self.signal, self.shape, self.slot, self.steps, self.decay, self.threshold, self.slope,
            self.height, self.readout_decay, self.readout_gain, self.rate, self.readout_rate, self.scale,
            self.low, self.high, *self.seeds,
        )  # fmt: skip
        return settings + given

    def unpack(self, payload: bytes, nodes: int) -> tuple[Floats, Floats | None]:
        """Cost of every step, (t,), and activities of all layers one after another, (t, nodes); None unless asked for.

        Raises:
            ProtocolError: wrong length.
        """
        _expect(self.kind, payload, FLOAT.itemsize * self.steps * (1 + nodes * self.activity))
        values = np.frombuffer(payload, FLOAT)
        activity = values[self.steps :].reshape(self.steps, nodes) if self.activity else None
        return values[: self.steps], activity


@dataclass(frozen=True, slots=True)
class Rest:
    """Make everything the board drives safe."""

    kind: ClassVar[Kind] = Kind.REST

    def pack(self) -> bytes:
        """The payload."""
        return b""


@dataclass(frozen=True, slots=True)
class Watchdog:
    """Rest by itself after this long without a valid frame.

    Args:
        milliseconds: 0 is never.
    """

    milliseconds: int
    kind: ClassVar[Kind] = Kind.WATCHDOG

    def pack(self) -> bytes:
        """The payload."""
        return struct.pack("<I", self.milliseconds)


@dataclass(frozen=True, slots=True)
class GetCounters:
    """Report what the board has counted since its start."""

    kind: ClassVar[Kind] = Kind.COUNTERS

    def pack(self) -> bytes:
        """The payload."""
        return b""


@dataclass(frozen=True, slots=True)
class Reset:
    """Rest, answer, and restart, where the board can."""

    kind: ClassVar[Kind] = Kind.RESET

    def pack(self) -> bytes:
        """The payload."""
        return b""


Request = (
    Hello
    | Adopt
    | Network
    | Write
    | Read
    | Digest
    | Store
    | Probe
    | Update
    | Train
    | Learn
    | Stream
    | Rest
    | Watchdog
    | GetCounters
    | Reset
)


@dataclass(frozen=True, slots=True)
class Counters:
    """What a board has counted; all modulo 2^32."""

    executed: int
    repeated: int
    refused: int
    damaged: int
    rests: int
    overruns: int
    stack_free: int | None  # bytes never used, None where the board cannot tell

    @classmethod
    def unpack(cls, payload: bytes) -> Counters:
        """From the payload of a reply.

        Raises:
            ProtocolError: wrong length.
        """
        _expect(Kind.COUNTERS, payload, 28)
        executed, repeated, refused, damaged, rests, overruns, free = struct.unpack("<7I", payload)
        return cls(executed, repeated, refused, damaged, rests, overruns, None if free == 0xFFFFFFFF else free)


@dataclass(frozen=True, slots=True)
class Identity:
    """A board's account of itself.

    Args:
        protocol: version of the protocol it speaks.
        firmware: major, minor, patch.
        boot: its boot id, 0 after a restart.
        expected: number of the next request.
        receive: longest request [bytes], header and CRC included.
        reply: room for one reply [bytes]: payload of `reply` - 15 at most.
        ring: received bytes it holds while it computes.
        can: what its firmware offers.
        parameters: room for so many.
        sample_values: room for so many floats of stored samples.
        work: floats of intermediate results.
        layers: most layers of a network.
        window: requests that may be sent ahead.
        watchdog: [ms], 0 is never.
        name: of the board.
        network: the one loaded, or None.
    """

    protocol: int
    firmware: tuple[int, int, int]
    boot: int
    expected: int
    receive: int
    reply: int
    ring: int
    can: Capability
    parameters: int
    sample_values: int
    work: int
    layers: int
    window: int
    watchdog: int
    name: str
    network: Network | None

    @classmethod
    def unpack(cls, payload: bytes) -> Identity:
        """From the payload of a reply to HELLO.

        Raises:
            ProtocolError: it is too short, or its end is no network.
        """
        head = struct.Struct("<4BIHHHHIIIHBBIB")
        _expect(Kind.HELLO, payload, max(len(payload), head.size + 12))
        (protocol, major, minor, patch, boot, expected, receive, reply, ring, can, parameters, samples, work, layers,
         window, watchdog, length) = head.unpack_from(payload)  # fmt: skip
        name = payload[head.size : head.size + length].decode("ascii", "replace")
        network = payload[head.size + length :]
        return cls(
            protocol, (major, minor, patch), boot, expected, receive, reply, ring, Capability(can), parameters, samples,
            work, layers, window, watchdog, name, None if network[1:2] == b"\0" else Network.unpack(network),
        )  # fmt: skip


def to_frame(request: Request, sequence: int = 0, boot: int = 0) -> Frame:
    """The frame that carries a request."""
    return Frame(VERSION, request.kind, sequence & 0xFFFF, boot, request.pack())


def payload_of(reply: Frame, request: Frame) -> bytes:
    """What a reply says, its status taken off.

    Raises:
        ProtocolError: it is not the reply to this request.
        FirmwareError: the board refused; `code` is a `Status`.
    """
    if reply.kind != request.kind | REPLY or reply.sequence != request.sequence or not reply.payload:
        raise ProtocolError(
            f"expected the reply to {Kind(request.kind).name} (frame {request.sequence}), got message "
            f"{reply.kind:#04x} (frame {reply.sequence}): {reply.payload[:32].hex(' ')}"
        )
    status = reply.payload[0]
    if status == Status.OK:
        return reply.payload[1:]
    detail = struct.unpack("<I", reply.payload[1:])[0] if len(reply.payload) == 5 else 0
    sentence = (
        _SENTENCES[Status(status)]
        if status in Status._value2member_map_
        else "the board refused for a reason unknown here"
    )
    raise FirmwareError(status, f"{Kind(request.kind).name}: {sentence.format(detail=detail, version=VERSION)}")
