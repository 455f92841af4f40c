"""A spiking network on a board: activity over the link, and learning in time by the board itself.

The board holds the neurons of one sequence. So a batch is presented sequence by sequence, each from its start; only a
single sequence can go on where it ended.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks, costs, draws
from hwtrain.core import Array, Can, Command, DeviceSpec, Layer, Measure, Program, Reading, Sample, counted, inside
from hwtrain.devices import messages
from hwtrain.devices.link import Link, Restarted
from hwtrain.devices.messages import Activation, Bias, Capability, DenseLayer, Resetting, Shape, Signal, Stream
from hwtrain.devices.serial import Opener
from hwtrain.devices.spiking import Layered
from hwtrain.emulators import Emulator
from hwtrain.errors import ConfigError, DeviceError, LimitError
from hwtrain.limits import check
from hwtrain.sim.neurons import Surrogate

Floats = NDArray[np.float32]

RESTARTS = 16  # in a row, after which a board is given up
_COSTS = {costs.MeanSquaredError: messages.Cost.MEAN_SQUARED_ERROR, costs.CrossEntropy: messages.Cost.CROSS_ENTROPY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """How a board learns from a stream: the settings of `hwtrain.algorithms.osttp.OSTTP` with `update="step"`, one
    sequence at a time, and plain descent.

    Args:
        rate: learning rate of the hidden layers.
        readout_rate: of the last layer.
        signal: "target", "local" or "error".
        centre: project the target less its mean so far?
        scale: half-width of the projection, times sqrt(6 / outputs).
        seed: of the run, which names the projection.
        surrogate: the derivative of a spike.
    """

    rate: float
    readout_rate: float
    signal: str = "target"
    centre: bool = False
    scale: float = 1.0
    seed: int = 0
    surrogate: Surrogate = field(default_factory=Surrogate)

    def __post_init__(self) -> None:
        for name in ("rate", "readout_rate", "scale"):
            checks.number(f"lesson.{name}", getattr(self, name), low=0)
        checks.one_of("lesson.signal", self.signal, tuple(signal.name.lower() for signal in Signal))
        checks.flag("lesson.centre", self.centre)
        checks.whole("lesson.seed", self.seed, low=0)


class Streaming:
    """A board that runs hwtrain's firmware, as a device with memory.

    Args:
        link: the line to it.
        network: spiking hidden layers without recurrence, alike but for their widths, and a read-out, dense and linear
            or an integrator.
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
            can=Can.COST | Can.OUTPUT | Can.ACTIVITY,
        )
        self._theta: Floats = np.clip(np.zeros(self._network.size, np.float32), *limits)
        self._held: Floats | None = None  # on the board, where it is known
        self._own = False  # has the board changed them by itself since?
        self._going = False  # is a sequence under way that could go on?

    @property
    def spec(self) -> DeviceSpec:
        """What the board said of itself, and the network it was given."""
        return self._spec

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        """Program and measure.

        Raises:
            LimitError: a command that the board cannot carry out; nothing was sent.
            DeviceError: the board is lost for good, or with it the neurons of a sequence that should go on.
        """
        check(self._spec, commands)
        samples = [command.sample for command in commands if isinstance(command, Measure)]
        self._check_going_on(samples)
        begin = self._theta
        for _ in range(RESTARTS):
            try:
                readings = []
                for command in commands:
                    match command:
                        case Program():
                            self._program(command.theta)
                        case Measure():
                            readings.append(self._measure(command))
                return tuple(readings)
            except Restarted as error:
                self._restarted(error, bool(samples) and not samples[0].start)
                self._theta = begin
        raise self._weak()

    def learn(self, sample: Sample, lesson: Lesson) -> Array:
        """Let the board learn from each step of each sequence, one sequence after another.

        Steps without a target must stand at the end of a sequence; they are not presented.

        Returns:
            The cost of every step before it was learnt from, (t, b); NaN where none was presented.

        Raises:
            LimitError: the sample does not fit the network; nothing was sent.
            DeviceError: the board is lost, and with it what it has learnt since parameters were read.
        """
        check(self._spec, [Measure(sample)])
        self._check_going_on([sample])
        assert sample.target is not None
        count = counted(sample.target)
        steps = count.sum(axis=0)
        if not np.array_equal(count, np.arange(len(count))[:, None] < steps):
            raise LimitError(
                f"{self._spec.name!r} learns from every step that it is shown; a step without a target stands before "
                "one that has it. Cut the sequence. Nothing was sent."
            )
        seen = np.full(count.shape, np.nan)
        try:
            self._load()
            self._write(self._theta)
            for b in range(count.shape[1]):
                if steps[b]:
                    rows = _rows(sample, self._room.outputs)[: steps[b], b]
                    self._own = True
                    seen[: steps[b], b], _ = self._stream(rows, sample.start, lesson, activity=False)
            self._going = count.shape[1] == 1 and bool(steps[0])
        except Restarted as error:
            self._restarted(error, True)
        return seen

    def read(self) -> Floats:
        """The parameters as the board holds them.

        Raises:
            DeviceError: the board is lost, and with it what it has learnt.
        """
        try:
            self._load()
            self._write(self._theta)
            self._theta = self._held = self._parameters()
        except Restarted as error:
            self._restarted(error, True)
        self._own = False
        return self._theta

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

    def _restarted(self, error: Restarted, lost: bool) -> None:
        self._link.disturbances["restarts"] += 1
        lost |= self._own
        self._loaded, self._held, self._own, self._going = False, None, False, False
        if lost:
            raise DeviceError(
                f"{self._link.name}: {self._spec.name!r} restarted in the middle of what only it knew, its neurons or "
                "what it had learnt. Program it, and present the sequence from its start."
            ) from error

    def _weak(self) -> DeviceError:
        return DeviceError(
            f"{self._link.name}: {self._spec.name!r} restarted {RESTARTS} times in a row. Is its supply strong enough?"
        )

    def _program(self, values: Array) -> None:
        theta = values.astype(np.float32)
        if not np.isfinite(theta).all():
            raise LimitError("a parameter is too large for single precision. Nothing was sent.")
        self._load()
        self._write(theta)
        self._theta = theta

    def _write(self, theta: Floats) -> None:
        if self._own and theta is self._theta:
            return  # what the board has come to
        if not self._own and self._held is not None and np.array_equal(self._held.view("u4"), theta.view("u4")):
            return
        most = self._room.floats_in
        requests = [messages.Write(at, theta[at : at + most]) for at in range(0, theta.size, most)]
        self._held, self._own = None, False
        self._link.exchange(requests, [0.0] * len(requests))
        self._held = theta

    def _parameters(self) -> Floats:
        most, size = self._room.floats_out, self._network.size
        asked = [messages.Read(at, min(most, size - at)) for at in range(0, size, most)]
        *parts, digest = self._link.exchange([*asked, messages.Digest()], [8.0 * size] * (len(asked) + 1))
        theta = np.frombuffer(b"".join(parts), messages.FLOAT).astype(np.float32)
        if messages.Digest.unpack(digest)[1] != zlib.crc32(theta.astype(messages.FLOAT).tobytes()):
            raise DeviceError(
                f"{self._link.name}: the parameters of {self._spec.name!r} were not read as it holds them"
            )
        return theta

    # ---- sequences ---------------------------------------------------------------------------------------------------

    def _check_going_on(self, samples: Sequence[Sample]) -> None:
        going = self._going
        for sample in samples:
            batch = sample.x.shape[-2]
            if not sample.start and (batch > 1 or not going):
                raise LimitError(
                    f"{batch} sequences shall go on in {self._spec.name!r}, which "
                    f"{'holds one at a time' if batch > 1 else 'has none under way'}. Present them from their start "
                    "(start=True), one at a time if they come in parts. Nothing was sent."
                )
            going = batch == 1

    def _measure(self, command: Measure) -> Reading:
        sample = command.sample
        self._load()
        self._write(self._theta)
        steps, batch = sample.x.shape[:2]
        seen, said = np.zeros((steps, batch), np.float32), np.zeros((steps, batch, self._room.nodes), np.float32)
        rows, wanted = _rows(sample, self._room.outputs), bool(command.observe & (Can.OUTPUT | Can.ACTIVITY))
        for b in range(batch):
            seen[:, b], activity = self._stream(rows[:, b], sample.start, None, activity=wanted)
            if activity is not None:
                said[:, b] = activity
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

    def _stream(
        self, rows: Floats, start: bool, lesson: Lesson | None, *, activity: bool
    ) -> tuple[Floats, Floats | None]:
        """Costs (t,) and activities (t, nodes) of a sequence, or the next part of one."""
        most = min(self._room.slots, self._room.floats_out // (1 + self._room.nodes * activity))
        requests: list[messages.Request] = []
        streams: list[tuple[int, Stream]] = []
        for at in range(0, len(rows), most):
            part = rows[at : at + most]
            for slot, row in enumerate(part):
                for first in range(0, len(row), self._room.values_in):
                    requests.append(messages.Store(slot, row[first : first + self._room.values_in], first))
            streams.append((len(requests), self._request(len(part), start and at == 0, lesson, activity)))
            requests.append(streams[-1][1])
        work = [float(3 * self._network.size * most) if isinstance(each, Stream) else 0.0 for each in requests]
        self._going = False
        replies = self._link.exchange(requests, work)
        self._going = True
        answers = [request.unpack(replies[index], self._room.nodes) for index, request in streams]
        said = np.concatenate([each for _, each in answers if each is not None]) if activity else None
        return np.concatenate([cost for cost, _ in answers]), said

    def _request(self, steps: int, start: bool, lesson: Lesson | None, activity: bool) -> Stream:
        first, last = self._layers[0], self._layers[-1]
        integrates = last.kind == "integrator"
        own = Lesson(rate=0.0, readout_rate=0.0) if lesson is None else lesson
        seeds = [
            draws.derive(np.uint32(own.seed), f"target projection to layer {n}") for n in range(len(self._layers) - 1)
        ]
        return Stream(
            slot=0,
            steps=steps,
            start=start,
            learn=lesson is not None,
            activity=activity,
            centre=own.centre,
            reset=Resetting[first.reset.upper()],
            signal=Signal[own.signal.upper()],
            shape=Shape[own.surrogate.shape.upper()],
            decay=first.decay,
            threshold=first.threshold,
            slope=own.surrogate.slope,
            height=own.surrogate.height,
            readout_decay=last.decay if integrates else 0.0,
            readout_gain=last.gain if integrates else 1.0,
            rate=own.rate,
            readout_rate=own.readout_rate,
            scale=own.scale * math.sqrt(6 / self._room.outputs),
            low=self._network.low,
            high=self._network.high,
            seeds=[int(seed) for seed in seeds],
        )


class EmulatedStreaming(Streaming):
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
        checks.number("device.patience", patience, low=0, above=True, why="seconds")
        self.emulator = Emulator(board, route)
        try:
            link = Link(Opener(self.emulator.url), self.emulator.url, patience)
            super().__init__(link, network, cost, low, high, watchdog)
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
    if not fits or any(layer.recurrent for layer in hidden) or not ends or last.normalise != "none":
        raise ConfigError(
            "network: boards stream spiking layers with a hard or soft reset and without recurrence, all with the same "
            f"settings, and a dense linear or integrating read-out, not {', '.join(layer.kind for layer in layers)} as "
            "they are set. Choose network=snu, network.recurrent=false."
        )
    activations = {"step": Activation.STEP, "sigmoid": Activation.SIGMOID}
    told = [DenseLayer(layer.outputs[0], activations[layer.activation], Bias.SUBTRACT) for layer in hidden]
    told.append(DenseLayer(last.outputs[0], Activation.LINEAR, Bias[last.bias.upper()]))
    return messages.Network(layers[0].inputs[0], tuple(told), _COSTS[type(cost)], low, high)


def _rows(sample: Sample, outputs: int) -> Floats:
    """Steps as the board stores them, (t, b, inputs + outputs); a target that is not there is zeros."""
    target = np.zeros((*sample.x.shape[:-1], outputs)) if sample.target is None else np.nan_to_num(sample.target)
    rows = np.concatenate([sample.x, target], axis=-1).astype(np.float32)
    if not np.isfinite(rows).all():
        raise LimitError("a sample has values that are not finite in single precision. Nothing was sent.")
    return rows
