"""A spiking network on a board: activity over the link, and learning in time by the board itself.

The board holds the neurons of one sequence. So a batch is presented sequence by sequence, each from its start; only a
single sequence can go on where it ended. A board that learns by itself is asked for its parameters at the end of every
block; one that restarted is given those from before, and learns the block again.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks, costs
from hwtrain.core import (
    Array,
    Can,
    Command,
    DeviceSpec,
    Layer,
    LearnInTime,
    Measure,
    Program,
    Reading,
    Sample,
    counted,
    inside,
)
from hwtrain.devices import messages
from hwtrain.devices.link import Link, Restarted
from hwtrain.devices.messages import Activation, Bias, Capability, DenseLayer, Resetting, Shape, Signal, Stream
from hwtrain.devices.serial import Opener
from hwtrain.devices.spiking import Layered
from hwtrain.emulators import Emulator
from hwtrain.errors import ConfigError, DeviceError, LimitError
from hwtrain.limits import check

Floats = NDArray[np.float32]

RESTARTS = 16  # in a row, after which a board is given up
_COSTS = {costs.MeanSquaredError: messages.Cost.MEAN_SQUARED_ERROR, costs.CrossEntropy: messages.Cost.CROSS_ENTROPY}


class Streaming:
    """A board that runs hwtrain's firmware, as a device with memory.

    Args:
        link: the line to it.
        network: spiking hidden layers, alike but for their widths and recurrence, and a read-out, dense and linear or
            an integrator.
        cost: mean squared error or cross-entropy.
        low: lowest parameter value; None is open.
        high: highest parameter value; None is open.
        watchdog: silence after which the board rests by itself [s]; 0 is never.

    Raises:
        ConfigError: network or cost is not one that boards stream, or too large for this board.
        DeviceError: the board cannot be reached, or is not one of ours.
    """

    def __init__(
        self,
        link: Link,
        network: Layered,
        cost: costs.Cost,
        low: float | None = None,
        high: float | None = None,
        watchdog: float = 10.0,
    ) -> None:
        checks.number("device.low", low, none="open")
        checks.number("device.high", high, none="open")
        checks.number("device.watchdog", watchdog, 0, 4e6, "seconds")
        limits = inside(-math.inf if low is None else low, math.inf if high is None else high)
        if not limits[0] < limits[1]:
            raise ConfigError(f"device.low ({low}) must be below device.high ({high})")
        self._layers = tuple(network.layers)
        self._network = _network(self._layers, cost, *map(float, limits))
        self._link, self._watchdog, self._closed, self._loaded = link, round(1000 * watchdog), False, False
        try:
            self.identity = link.open()
            self._room = _Room(self.identity, self._network)
        except BaseException:
            link.close()
            raise
        self._spec = DeviceSpec(
            name=self.identity.name,
            inputs=self._network.inputs,
            outputs=self._room.outputs,
            size=self._network.size,
            low=self._network.low,
            high=self._network.high,
            layers=self._layers,
            precision="single",
            can=Can.COST | Can.OUTPUT | Can.ACTIVITY | Can.LEARN_IN_TIME,
        )
        self._theta: Floats = np.clip(np.zeros(self._network.size, np.float32), *limits)
        self._held: Floats | None = None  # on the board, where it is known
        self._going = False  # is a sequence under way that could go on?

    @property
    def spec(self) -> DeviceSpec:
        """What the board said of itself, and the network it was given."""
        return self._spec

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        """Program, measure, learn.

        Raises:
            LimitError: a command that the board cannot carry out; nothing was sent.
            DeviceError: the board is lost for good, or with it the neurons of a sequence that should go on.
        """
        check(self._spec, commands)
        self._check_numbers(commands)
        self._check_going_on(commands)
        begin, going_on = self._theta, self._goes_on(commands)
        for _ in range(RESTARTS):
            try:
                readings = []
                for command in commands:
                    match command:
                        case Program():
                            self._program(command.theta)
                        case Measure():
                            readings.append(self._measure(command))
                        case LearnInTime():
                            readings.append(self._learn(command))
                return tuple(readings)
            except Restarted as error:
                self._link.disturbances["restarts"] += 1
                self._loaded, self._going, self._held, self._theta = False, False, None, begin
                if going_on:
                    raise DeviceError(
                        f"{self._link.name}: {self._spec.name!r} restarted in the middle of a sequence, and lost its "
                        "neurons. Present the sequence from its start."
                    ) from error
        raise DeviceError(
            f"{self._link.name}: {self._spec.name!r} restarted {RESTARTS} times in a row. Is its supply strong enough?"
        )

    def rest(self) -> None:
        """Tell the board to make its outputs safe; one that cannot be told does so by itself, after `watchdog`."""
        if self._closed:
            return
        try:
            try:
                self._link.exchange([messages.Rest()], [0.0])
            except Restarted:
                self._loaded = False
                self._link.adopt()
                self._link.exchange([messages.Rest()], [0.0])
        except DeviceError:
            self._link.disturbances["rests not heard"] += 1

    def close(self) -> None:
        """Let go of the port; may be called twice."""
        self._closed = True
        self._link.close()

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Traffic on the wire, and disturbances survived."""
        return {"traffic": dict(self._link.traffic), "disturbances": dict(self._link.disturbances)}

    # ---- what the board holds ----------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Give the board its boot id and network, unless it has them."""
        if self._loaded:
            return
        self._link.adopt()
        self._link.exchange([self._network, messages.Watchdog(self._watchdog)], [float(self._network.size), 0.0])
        self._loaded, self._held, self._going = True, None, False

    def _program(self, values: Array) -> None:
        theta = _single(values)
        self._load()
        self._write(theta)
        self._theta = theta

    def _write(self, theta: Floats) -> None:
        if self._held is not None and np.array_equal(self._held.view("u4"), theta.view("u4")):
            return
        most = self._room.floats_in
        requests = [messages.Write(at, theta[at : at + most]) for at in range(0, theta.size, most)]
        self._held = None
        self._link.exchange(requests, [0.0] * len(requests))
        self._held = theta

    def _reading_back(self) -> list[messages.Request]:
        """What asks for all parameters."""
        most, size = self._room.floats_out, self._network.size
        return [*(messages.Read(at, min(most, size - at)) for at in range(0, size, most)), messages.Digest()]

    def _read_back(self, replies: Sequence[bytes]) -> Floats:
        *parts, digest = replies
        theta = np.frombuffer(b"".join(parts), messages.FLOAT).astype(np.float32)
        if messages.Digest.unpack(digest)[1] != zlib.crc32(theta.astype(messages.FLOAT).tobytes()):
            raise DeviceError(
                f"{self._link.name}: the parameters of {self._spec.name!r} were not read as it holds them"
            )
        return theta

    # ---- sequences ---------------------------------------------------------------------------------------------------

    def _check_going_on(self, commands: Sequence[Command]) -> None:
        going = self._going
        for command in commands:
            if isinstance(command, LearnInTime):
                going = False
            if not isinstance(command, Measure):
                continue
            batch = command.sample.x.shape[-2]
            if not command.sample.start and (batch > 1 or not going):
                raise LimitError(
                    f"{batch} sequences shall go on in {self._spec.name!r}, which "
                    f"{'holds one at a time' if batch > 1 else 'has none under way'}. Present them from their start "
                    "(start=True), one at a time if they come in parts. Nothing was sent."
                )
            going = batch == 1

    def _check_numbers(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case Program():
                    _single(command.theta)
                case Measure() | LearnInTime():
                    _rows(command.sample, self._room.outputs)
            if isinstance(command, LearnInTime) and command.centre and not self._room.sums:
                raise LimitError(
                    f"the mean of {self._room.outputs} targets does not fit into a request to {self._spec.name!r}. "
                    "Set algo.centre=false, or choose a larger board. Nothing was sent."
                )

    @staticmethod
    def _goes_on(commands: Sequence[Command]) -> bool:
        """Does the first presentation go on with a sequence from before?"""
        starts = [command.sample.start for command in commands if isinstance(command, Measure | LearnInTime)]
        return starts[:1] == [False]

    def _measure(self, command: Measure) -> Reading:
        sample = command.sample
        self._load()
        self._write(self._theta)
        steps, batch = sample.x.shape[:2]
        seen, said = np.zeros((steps, batch), np.float32), np.zeros((steps, batch, self._room.nodes), np.float32)
        rows, wanted = _rows(sample, self._room.outputs), bool(command.observe & (Can.OUTPUT | Can.ACTIVITY))
        stream = replace(self._stream, activity=wanted)
        for b in range(batch):
            requests = self._presented(rows[:, b], replace(stream, start=sample.start))
            answers = self._answers(requests, self._exchange(requests))
            seen[:, b] = np.concatenate([cost for cost, _ in answers])
            if wanted:
                said[:, b] = np.concatenate([activity for _, activity in answers if activity is not None])
        self._going = batch == 1
        layers = np.split(said, np.cumsum([layer.outputs for layer in self._network.layers])[:-1], axis=-1)
        cost = None
        if Can.COST in command.observe:
            assert sample.target is not None
            count = counted(sample.target)
            cost = np.array([np.where(count, seen, 0).sum(dtype=np.float64) / max(count.sum(), 1)])
        return Reading(
            cost=cost,
            output=layers[-1][None] if Can.OUTPUT in command.observe else None,
            activity=tuple(layer[None] for layer in layers) if Can.ACTIVITY in command.observe else None,
        )

    def _learn(self, block: LearnInTime) -> Reading:
        """All sequences in one exchange, and what they have made of the parameters."""
        assert block.sample.target is not None
        rows, count = _rows(block.sample, self._room.outputs), counted(block.sample.target)
        stream = self._lesson(block)
        requests: list[messages.Request] = []
        owners: list[tuple[int, bool]] = []  # of each stream, the sequence; and is it learnt from?
        for b, length in enumerate(block.lengths):
            start = True
            for part in _runs(count[:length, b]):
                learns = bool(count[part.start, b])
                asked = self._presented(rows[part, b], replace(stream, start=start, learn=learns))
                owners += [(b, learns) for request in asked if isinstance(request, Stream)]
                requests += asked
                start, stream = False, replace(stream, sums=None)
        self._load()
        self._write(self._theta)
        self._held = None
        asked = self._reading_back()
        replies = self._exchange([*requests, *asked])
        self._held = self._theta = theta = self._read_back(replies[len(requests) :])
        self._going = False
        spent: list[list[Floats]] = [[] for _ in block.lengths]
        for (b, learns), (cost, _) in zip(owners, self._answers(requests, replies), strict=True):
            if learns:
                spent[b].append(cost)
        means = [np.concatenate(each).mean(dtype=np.float64) if each else np.nan for each in spent]
        return Reading(cost=np.array(means), theta=theta.copy())

    def _presented(self, rows: Floats, stream: Stream) -> list[messages.Request]:
        """Requests that present a sequence, or its next part, as `stream` says of the first."""
        most = self._most(stream)
        requests: list[messages.Request] = []
        for at in range(0, len(rows), most):
            part = rows[at : at + most]
            for slot, row in enumerate(part):
                for first in range(0, len(row), self._room.values_in):
                    requests.append(messages.Store(slot, row[first : first + self._room.values_in], first))
            requests.append(replace(stream, steps=len(part)))
            stream = replace(stream, start=False, sums=None)
        return requests

    def _exchange(self, requests: Sequence[messages.Request]) -> list[bytes]:
        size, work = float(self._network.size), []
        for request in requests:
            match request:
                case Stream():
                    work.append(3 * size * request.steps)
                case messages.Digest():
                    work.append(8 * size)
                case _:
                    work.append(0.0)
        self._going = False
        return self._link.exchange(requests, work)

    def _most(self, stream: Stream) -> int:
        """Steps in one request."""
        return min(self._room.slots, self._room.floats_out // (1 + self._room.nodes * stream.activity))

    def _answers(
        self, requests: Sequence[messages.Request], replies: Sequence[bytes]
    ) -> list[tuple[Floats, Floats | None]]:
        """Costs (t,) and activities (t, nodes) of every stream."""
        pairs = zip(requests, replies, strict=False)
        return [request.unpack(reply, self._room.nodes) for request, reply in pairs if isinstance(request, Stream)]

    @property
    def _stream(self) -> Stream:
        """How the network answers, learning nothing."""
        first, last = self._layers[0], self._layers[-1]
        integrates = last.kind == "integrator"
        return Stream(
            slot=0,
            steps=0,
            learn=False,
            reset=Resetting[first.reset.upper()],
            decay=first.decay,
            threshold=first.threshold,
            readout_decay=last.decay if integrates else 0.0,
            readout_gain=last.gain if integrates else 1.0,
            low=self._network.low,
            high=self._network.high,
            seeds=[0] * (len(self._layers) - 1),
        )

    def _lesson(self, block: LearnInTime) -> Stream:
        """The same, learning as the block says."""
        low, high = inside(block.low, block.high)
        sums = None
        if block.centre:
            assert block.targets is not None and block.shown is not None
            sums = np.append(block.targets, block.shown).astype(np.float32)
        return replace(
            self._stream,
            centre=block.centre,
            signal=Signal[block.signal.upper()],
            shape=Shape[block.shape.upper()],
            slope=block.slope,
            height=block.height,
            rate=block.rate,
            readout_rate=block.readout_rate,
            scale=block.scale,
            low=float(low),
            high=float(high),
            seeds=[int(seed) for seed in block.seeds],
            sums=sums,
        )


class SerialStreaming(Streaming):
    """One on a serial port.

    Args:
        port: device name or URL of pyserial.
        network: see `Streaming`.
        cost: see `Streaming`.
        baudrate: bits per second; boards on USB ignore it.
        low: lowest parameter value; None is open.
        high: highest parameter value; None is open.
        patience: how long the board may be silent, or unplugged, before the run fails [s]; work is allowed for beside.
        watchdog: silence after which the board rests by itself [s]; 0 is never.
        dtr: state of the DTR line, which resets many boards when the port opens; None leaves it to the system.

    Raises:
        ConfigError: a setting is wrong, or network or cost do not fit the board.
        ConnectError: the port cannot be opened, or nothing there speaks our protocol; says which, and the next move.
    """

    def __init__(
        self,
        port: str,
        network: Layered,
        cost: costs.Cost,
        baudrate: int = 115200,
        low: float | None = None,
        high: float | None = None,
        patience: float = 10.0,
        watchdog: float = 10.0,
        dtr: bool | None = None,
    ) -> None:
        checks.text("device.port", port)
        checks.whole("device.baudrate", baudrate, low=50, why="bits per second")
        checks.number("device.patience", patience, low=0, above=True, why="seconds")
        super().__init__(Link(Opener(port, baudrate, dtr), port, patience), network, cost, low, high, watchdog)


class EmulatedStreaming(SerialStreaming):
    """Firmware is built, started in an emulator, reached over its serial port, and ended on every way out.

    Args:
        board: host, stm32f405, mps2_an385 or sifive_e.
        network: see `Streaming`.
        cost: see `Streaming`.
        route: "system" for compilers and emulators of the operating system, "pip" for those that come as Python
            packages, or "auto" for whichever is there.
        low: lowest parameter value; None is open.
        high: highest parameter value; None is open.
        patience: how long the board may be silent before the run fails [s]; work is allowed for beside.
        watchdog: silence after which the board rests by itself [s]; 0 is never.

    Raises:
        ConfigError: no such board, its tools are missing, or network or cost do not fit it.
        DeviceError: the board cannot be built, started or reached.
    """

    def __init__(
        self,
        board: str,
        network: Layered,
        cost: costs.Cost,
        route: str = "auto",
        low: float | None = None,
        high: float | None = None,
        patience: float = 10.0,
        watchdog: float = 10.0,
    ) -> None:
        self.emulator = Emulator(board, route)
        try:
            super().__init__(self.emulator.url, network, cost, low=low, high=high, patience=patience, watchdog=watchdog)
        except BaseException:
            self.emulator.stop()
            raise

    def close(self) -> None:
        """End the emulator; may be called twice."""
        super().close()
        self.emulator.stop()


class _Room:
    """What fits where; refuses a network that does not."""

    def __init__(self, identity: messages.Identity, network: messages.Network) -> None:
        widths = [layer.outputs for layer in network.layers]
        self.outputs, self.nodes = widths[-1], sum(widths)
        self.slots = min(identity.sample_values // (network.inputs + widths[-1]), 0xFFFF)
        self.floats_in, self.floats_out = (identity.receive - 16) // 4, (identity.reply - 15) // 4
        self.values_in = (identity.receive - 20) // 4
        self.sums = 64 + 4 * (len(widths) + self.outputs) <= identity.receive  # do those of targets fit into STREAM?
        if Capability.STREAM not in identity.can:
            raise ConfigError(
                f"the board {identity.name!r} was built without spiking neurons. Use a larger board, or build its "
                "firmware with -DHWT_STREAMS=1. Nothing was sent."
            )
        needed = (
            ("layers", len(widths), identity.layers),
            ("parameters with their traces", network.size + network.streaming_size, identity.parameters),
            ("floats for one step", network.inputs + widths[-1], identity.sample_values),
            ("floats of intermediate results", widths[-1] + max(widths) + sum(widths), identity.work),
            ("floats of intermediate results", widths[0] + max(widths) + sum(widths), identity.work),
            ("floats in a reply", sum(widths) + 1, self.floats_out),
        )
        for what, count, most in needed:
            if count > most:
                raise ConfigError(
                    f"network: it takes {count} {what}; the board {identity.name!r} has room for {most}. Choose a "
                    "smaller network (network.sizes=[...]), or a larger board. Nothing was sent."
                )


def _network(layers: Sequence[Layer], cost: costs.Cost, low: float, high: float) -> messages.Network:
    """The network as a board is told of it."""
    if type(cost) not in _COSTS:
        raise ConfigError(f"cost: boards compute cost=mse and cost=cross_entropy, not {type(cost).__name__}")
    *hidden, last = layers
    alike = {(layer.kind, layer.activation, layer.reset, layer.decay, layer.threshold) for layer in hidden}
    ends = (last.kind == "dense" and last.activation == "linear") or last.kind == "integrator"
    fits = len(alike) == 1 and hidden[0].kind == "spiking" and hidden[0].reset in ("hard", "soft")
    if not fits or not ends or last.normalise != "none":
        raise ConfigError(
            "network: boards stream spiking layers with a hard or soft reset, all with the same settings, and a dense "
            f"linear or integrating read-out, not {', '.join(layer.kind for layer in layers)} as they are set. Choose "
            "network=snu."
        )
    for number, layer in enumerate(layers, 1):
        for name in ("decay", "threshold", "gain"):
            if not abs(value := getattr(layer, name)) <= float(np.finfo(np.float32).max):
                raise ConfigError(
                    f"network: the {name} of layer {number}, {value:g}, is no finite number in single precision, in "
                    "which boards compute"
                )
    activations = {"step": Activation.STEP, "sigmoid": Activation.SIGMOID}
    told = [
        DenseLayer(layer.outputs[0], activations[layer.activation], Bias.SUBTRACT, recurrent=layer.recurrent)
        for layer in hidden
    ]
    told.append(DenseLayer(last.outputs[0], Activation.LINEAR, Bias[last.bias.upper()]))
    return messages.Network(layers[0].inputs[0], tuple(told), _COSTS[type(cost)], low, high)


def _runs(count: NDArray[np.bool_]) -> list[slice]:
    """Where steps have a target, and where they have none, (t,)."""
    ends = [0, *np.flatnonzero(np.diff(count)) + 1, len(count)]
    return [slice(int(a), int(b)) for a, b in pairwise(ends) if a < b]


def _single(values: Array) -> Floats:
    with np.errstate(over="ignore"):  # refused
        theta = values.astype(np.float32)
    if not np.isfinite(theta).all():
        raise LimitError("a parameter is too large for single precision. Nothing was sent.")
    return theta


def _rows(sample: Sample, outputs: int) -> Floats:
    """Steps as the board stores them, (t, b, inputs + outputs); a target that is not there is zeros."""
    target = np.zeros((*sample.x.shape[:-1], outputs)) if sample.target is None else np.nan_to_num(sample.target)
    rows = np.concatenate([sample.x, target], axis=-1).astype(np.float32)
    if not np.isfinite(rows).all():
        raise LimitError("a sample has values that are not finite in single precision. Nothing was sent.")
    return rows
