"""A network on a board: commands as requests, however small the board's memory is.

What the board holds is mirrored here, so that only what changes is sent: parameters that follow from the last ones go
as a recipe of a few bytes (`Change`), samples stay in the board's store, a board that trains by itself is asked for a
checksum of where it has come, and one that learns by a local rule for all of it. A board that restarted gets everything
again, and the commands in hand are carried out from the start.
"""

from __future__ import annotations

import math
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks, costs
from hwtrain.core import (
    Array,
    Can,
    Change,
    Command,
    DeviceSpec,
    Learn,
    Measure,
    Probes,
    Program,
    Reading,
    Sample,
    Site,
    Train,
    inside,
)
from hwtrain.devices import messages
from hwtrain.devices.link import Link, Restarted
from hwtrain.devices.messages import Capability, Code, Counters, Identity, Normalise, Observe, Pattern, Request, Rule
from hwtrain.errors import ConfigError, DeviceError, LimitError
from hwtrain.limits import check
from hwtrain.perturb import Antithetic, Rademacher, Walsh
from hwtrain.sim.networks import Network

Floats = NDArray[np.float32]

RESTARTS = 16  # restarts in a row, without a step between them, after which a board is given up
VERIFY = 256  # changes by recipe between two checks that board and host agree on every parameter


class Board:
    """A board that runs hwtrain's firmware.

    Args:
        link: the line to it.
        network: what it is to compute; dense layers.
        cost: what it is to minimise.
        low: lowest parameter value; None is open.
        high: highest parameter value; None is open.
        watchdog: silence after which the board rests by itself [s]; 0 is never.

    Raises:
        ConfigError: network or cost is not one that boards compute, or too large for this board.
        DeviceError: the board cannot be reached, or is not one of ours.
    """

    def __init__(
        self,
        link: Link,
        network: Network,
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
        wanted = _network(network, cost, *map(float, limits))
        self._link, self._watchdog = link, round(1000 * watchdog)
        self._closed = self._loaded = False
        try:
            self.identity = link.open()
            _check_room(self.identity, wanted)
            self._network = wanted
            self._room = _Room(self.identity, wanted)
            self._spec = _spec(self.identity, network, wanted, self._room)
            self._theta: Floats = np.clip(np.zeros(wanted.size, np.float32), *limits)  # as last programmed
            self._recipes = True
            self._forget(self._theta)
        except BaseException:
            link.close()
            raise

    @property
    def spec(self) -> DeviceSpec:
        """What the board said of itself, and the network it was given."""
        return self._spec

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        """Carry the commands out, in as few round trips as the board's window allows.

        Raises:
            LimitError: a command the board cannot carry out; nothing was sent.
            DeviceError: the board is lost for good.
        """
        known = bool(commands) and isinstance(commands[0], Program)
        check(self._spec, commands, None if known else self._now())
        begin = self._theta if known else self._now()
        for _ in range(RESTARTS):
            plan = _Plan()
            try:
                if not self._loaded:
                    self._load()
                for command in commands:
                    self._add(plan, command)
                replies = self._link.exchange(plan.requests, plan.work)
                readings = tuple(read(replies) for read in plan.readers)
                if all(agree(replies) for agree in plan.agreements):
                    for come in plan.outcomes:
                        come(replies)
                    return readings
                self._link.disturbances["disagreements"] += 1
                self._recipes = False
            except Restarted:
                self._link.disturbances["restarts"] += 1
                self._loaded = False
            except BaseException:
                self._forget(begin)
                raise
            self._forget(begin)
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

    def counters(self) -> Counters:
        """What the board itself has counted since it started.

        Raises:
            DeviceError: it cannot be asked.
        """
        if not self._loaded:
            self._load()
        (reply,) = self._link.exchange([messages.GetCounters()], [0.0])
        return Counters.unpack(reply)

    # ---- what the board holds ----------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Give the board its boot id and network."""
        self._link.adopt()
        self._link.exchange([self._network, messages.Watchdog(self._watchdog)], [float(self._network.size), 0.0])
        self._loaded = True

    def _forget(self, theta: Floats) -> None:
        """Rely on nothing that the board holds, but its network; `theta` is what it is to hold."""
        self._theta = theta
        self._held: Floats | None = None  # parameters on the board, where they are known
        self._classes: Floats | None = None  # and class matrices behind them
        self._own = False  # has the board changed them by itself since?
        self._crc: int | None = None  # of what they are then
        self._changes: list[Change] = []  # and how they became so
        self._store = _Store(self._room.slots)
        self._changed = 0  # recipes since the last check

    def _now(self) -> Floats:
        """The parameters on the board; those it came to by itself are made again from what it measured."""
        for change in self._changes:
            self._theta = change(self._theta)
        self._changes = []
        return self._theta

    # ---- commands ----------------------------------------------------------------------------------------------------

    def _add(self, plan: _Plan, command: Command) -> None:
        if self._held is None and not self._own and not isinstance(command, Program):
            self._program(plan, Program(self._theta))  # the board restarted, or nothing was ever programmed
        match command:
            case Program():
                self._program(plan, command)
            case Measure():
                self._measure(plan, command)
            case Train():
                self._train(plan, command)
            case Learn():
                self._learn(plan, command)

    def _program(self, plan: _Plan, command: Program) -> None:
        """Nothing, a recipe, or all parameters: the least that brings the board to theta."""
        theta = command.theta.astype(np.float32)
        if not np.isfinite(theta).all():
            raise LimitError("a parameter is too large for single precision. Nothing was sent.")
        if self._crc == _crc(theta):
            self._held = theta
        elif self._crc is not None:
            self._link.disturbances["rewritten after training"] += 1
        self._own, self._crc, self._changes = False, None, []
        if self._held is None:
            self._write(plan, theta)
        elif not _same_bits(self._held, theta):
            request = None if command.change is None else self._recipe(command.change, self._held, theta)
            if request is None:
                self._write(plan, theta)
            else:
                plan.ask(request, float(theta.size * command.change.probes.count) if command.change else 0.0)
                self._changed += 1
                if self._changed % VERIFY == 1:
                    self._verify(plan, theta)
        self._held = self._theta = theta
        plan.outcomes.clear()  # whatever the board came to by itself before, this it holds now

    def _recipe(self, change: Change, held: Floats, theta: Floats) -> Request | None:
        """The change as the board is told of it, if it can be told, and leads from what it holds to theta."""
        code = code_of(change.probes, theta.size)
        if code is None or not self._recipes or change.probes.count > self._room.modulations:
            return None
        if not _same_bits(change(held), theta):
            return None
        low, high = inside(change.low, change.high)
        return messages.Update(
            code, change.probes.first, change.rate, change.modulation.astype(np.float32), float(low), float(high)
        )

    def _write(self, plan: _Plan, values: Floats, first: int = 0) -> None:
        self._link.traffic["full writes"] += first == 0
        for at in range(0, values.size, self._room.floats_in):
            plan.ask(messages.Write(first + at, values[at : at + self._room.floats_in]))

    def _verify(self, plan: _Plan, theta: Floats) -> None:
        index, crc = plan.ask(messages.Digest(), 8.0 * theta.size), _crc(theta)
        plan.agreements.append(lambda replies: messages.Digest.unpack(replies[index]) == (theta.size, crc))

    def _read(self, plan: _Plan, count: int) -> Callable[[Sequence[bytes]], Floats]:
        """Ask for the first `count` floats, and whether they are those: how to read the replies."""
        most = self._room.floats_out
        parts = [plan.ask(messages.Read(at, min(most, count - at))) for at in range(0, count, most)]
        last = plan.ask(messages.Digest(count), 8.0 * count)

        def read(replies: Sequence[bytes]) -> Floats:
            return np.frombuffer(b"".join(replies[part] for part in parts), messages.FLOAT).astype(np.float32)

        plan.agreements.append(lambda replies: messages.Digest.unpack(replies[last]) == (count, _crc(read(replies))))
        return read

    def _measure(self, plan: _Plan, command: Measure) -> None:
        probes, theta = command.probes, self._theta
        code = None if probes is None else code_of(probes, self._spec.size)
        rows = _rows(self._spec, command.sample)
        shape = command.sample.x.shape[:2]
        if probes is None or code is not None:
            plan.readers.append(self._ask(plan, rows, shape, probes, code, command.observe))
            return
        if plan.outcomes:
            raise LimitError(
                f"{self._spec.name!r} cannot make {type(probes.perturbation).__name__} perturbations by itself, and "
                "which parameters it will have come to is not known yet. Measure in the next step. Nothing was sent."
            )
        readers = []  # a perturbation that the board cannot make from its name: it is programmed
        for delta in probes.dense(self._spec.size):
            self._write(plan, (theta + delta).astype(np.float32))
            readers.append(self._ask(plan, rows, shape, None, None, command.observe))
        self._write(plan, theta.astype(np.float32))
        plan.readers.append(lambda replies: _stacked([read(replies) for read in readers]))

    def _ask(
        self, plan: _Plan, rows: Floats, shape: tuple[int, ...], probes: Probes | None, code: Code | None, observe: Can
    ) -> Callable[[Sequence[bytes]], Reading]:
        """Measure, in as many requests as the board's memory makes of it; how to read the replies."""
        room, network, total = self._room, self._network, len(rows)
        cost = bool(observe & Can.COST)
        activity = bool(observe & Can.ACTIVITY)
        width = room.nodes if activity else room.outputs if observe & Can.OUTPUT else 0
        wanted = (Observe.COST if cost else 0) | (
            Observe.ACTIVITY if activity else Observe.OUTPUT if width else Observe(0)
        )
        count = 0 if probes is None else probes.count
        first = 0 if probes is None else probes.first
        batch = total
        if total > room.slots or cost + total * width > room.floats_out:
            # sums of costs must not depend on the board's memory: one by one they are added here, in its order
            batch = 1 if cost else max(min(room.slots, room.floats_out // width), 1)
        most = max(room.floats_out // (cost + batch * width), 1)  # measurements in one reply

        parts: list[
            tuple[int, int, int, messages.Probe]
        ] = []  # reply, its first measurement that is ours, row, request
        for row in range(0, total, batch):
            part = rows[row : row + batch]
            slot = self._present(plan, part)
            for k in range(0, max(count, 1), most):
                request = messages.Probe(
                    slot,
                    len(part),
                    plain=probes is None,
                    count=min(most, count - k) if probes is not None else 0,
                    code=Code(0, 0.0) if code is None else code,
                    first=first + k,
                    observe=Observe(wanted),
                )
                work = float(max(request.count, 1) * len(part) * network.size * 2)
                parts.append((*plan.probe(request, work, most), row, request))

        def read(replies: Sequence[bytes]) -> Reading:
            sums = np.zeros(max(count, 1), np.float32)
            seen = np.zeros((max(count, 1), total, width), np.float32)
            for reply, skipped, row, request in parts:
                asked = plan.requests[reply]
                assert isinstance(asked, messages.Probe)
                measured, values = asked.unpack(replies[reply], room.outputs, room.nodes)
                k, taken = request.first - first, slice(skipped, skipped + request.plain + request.count)
                if measured is not None:
                    sums[k : k + request.plain + request.count] += measured[taken]
                if values is not None:
                    seen[k : k + request.plain + request.count, row : row + request.batch] = values[taken]
            mean = sums if batch == total else sums / np.float32(total)
            layers = np.split(seen, np.cumsum([layer.outputs for layer in network.layers])[:-1], axis=-1)
            shaped = [layer.reshape(len(seen), *shape, -1) for layer in (layers if activity else [seen])]
            return Reading(
                cost=mean if cost else None,
                output=shaped[-1] if observe & Can.OUTPUT else None,
                activity=tuple(shaped) if activity else None,
            )

        return read

    def _present(self, plan: _Plan, rows: Floats) -> int:
        """The slot in which the samples stand, one after another; they are sent if they are not there yet."""
        slot, new = self._store.place(rows)
        if new:
            for number, row in enumerate(rows):
                values = _short(row)
                most = (self._room.floats_in - 1) * (1 if values.dtype != np.uint8 else 4)
                for at in range(0, len(values), most):
                    plan.ask(messages.Store(slot + number, values[at : at + most], at))
        return slot

    def _train(self, plan: _Plan, block: Train) -> None:
        """As many requests as the board's replies and its store make of the block."""
        room, ticks, window = self._room, block.probes, block.tau_theta
        code = code_of(ticks, self._spec.size)
        if code is None:
            raise LimitError(
                f"{self._spec.name!r} cannot make {type(ticks.perturbation).__name__} perturbations by itself. Use "
                "algo/perturbation=rademacher or walsh, or algo.on_device=false. Nothing was sent."
            )
        if block.tau_x > 0xFFFF:
            raise LimitError(
                f"algo.tau_x: {self._spec.name!r} counts presentations of at most 65535 ticks, not {block.tau_x}. "
                "Nothing was sent."
            )
        areas = room.slots // block.batch
        most = min(room.ticks, max(areas, 0) * block.tau_x)
        if most < window:
            raise LimitError(
                f"{self._spec.name!r} trains at most {room.ticks} ticks in one block and stores {room.slots} samples; "
                f"a window takes {window} ticks and presentations of {block.batch}. Choose a smaller algo.tau_theta or "
                "task.batch, or algo.on_device=false. Nothing was sent."
            )
        rows = _rows(self._spec, block.sample).reshape(-1, block.batch, room.values)
        low, high = inside(block.low, block.high)
        pieces: list[int] = []
        at, start = ticks.first, block.presentations.start
        while at < ticks.first + ticks.count:
            length = window
            while length + window <= room.ticks and at + length < ticks.first + ticks.count:
                if (at + length + window - 1) // block.tau_x - at // block.tau_x + 1 > areas:
                    break
                length += window
            shown = range(at // block.tau_x, (at + length - 1) // block.tau_x + 1)
            request = messages.Train(
                code,
                at,
                length,
                [self._present(plan, rows[number - start]) for number in shown],
                block.rate,
                float(low),
                float(high),
                block.tau_x,
                window,
                block.batch,
                messages.Baseline[block.baseline.upper()],
            )
            pieces.append(plan.ask(request, float(length * 3 * block.batch * self._network.size)))
            at += length
        last = plan.ask(messages.Digest(), 8.0 * self._network.size)
        self._held, self._own, self._crc = None, True, None

        def read(replies: Sequence[bytes]) -> Reading:
            traces = [messages.Train.unpack(replies[piece]) for piece in pieces]
            baseline, modulation = (np.concatenate([trace[which] for trace in traces]) for which in (0, 1))
            return Reading(baseline=baseline, modulation=modulation)

        def come(replies: Sequence[bytes]) -> None:
            _, self._crc = messages.Digest.unpack(replies[last])
            modulation = read(replies).modulation
            assert modulation is not None
            self._changes += block.changes(modulation)

        plan.readers.append(read)
        plan.outcomes.append(come)

    def _learn(self, plan: _Plan, block: Learn) -> None:
        """As many requests as the board's memory makes of the block; then all that it has become is read."""
        room, rule = self._room, Rule[block.rule.upper()]
        wrong = None
        if rule is not Rule.MONO_FORWARD:
            wrong = np.asarray(block.wrong, np.uint8).reshape(-1, block.batch)
        _check_learn(self.identity, room, self._network, block)
        rows = _rows(self._spec, block.sample).reshape(-1, block.batch, room.values)
        with np.errstate(over="ignore"):  # refused below
            size, classes = self._network.size, None if block.local is None else block.local.astype(np.float32)
        if rule is Rule.MONO_FORWARD and classes is not None and classes.size:
            if not np.isfinite(classes).all():
                raise LimitError("a class matrix is too large for single precision. Nothing was sent.")
            if self._classes is None or not _same_bits(self._classes, classes):
                self._write(plan, classes, size)
        most = room.updates(block.batch, labels=wrong is not None)
        low, high = inside(block.low, block.high)
        pieces: list[int] = []
        for at in range(0, block.updates, most):
            part = slice(at, min(at + most, block.updates))
            request = messages.Learn(
                rule,
                block.batch,
                [self._present(plan, batch) for batch in rows[part]],
                block.rate,
                block.readout_rate,
                float(low),
                float(high),
                block.scale,
                messages.Goodness.MEAN if block.mean else messages.Goodness.SUM,
                b"" if wrong is None else wrong[part].tobytes(),
            )
            passes = 6 if wrong is not None else 3
            pieces.append(plan.ask(request, float(len(request.slots) * block.batch * passes * size)))
        now = self._read(plan, size + (0 if classes is None else classes.size))
        self._held, self._own, self._crc = None, True, None
        if rule is Rule.MONO_FORWARD:
            self._classes = None

        def read(replies: Sequence[bytes]) -> Reading:
            floats = now(replies)
            costs = np.concatenate([messages.Learn.unpack(replies[piece]) for piece in pieces])
            return Reading(cost=costs, theta=floats[:size], local=None if classes is None else floats[size:])

        def come(replies: Sequence[bytes]) -> None:
            floats = now(replies)
            self._held = self._theta = floats[:size]
            self._own, self._crc, self._changes = False, None, []
            if rule is Rule.MONO_FORWARD:
                self._classes = floats[size:]

        plan.readers.append(read)
        plan.outcomes.append(come)


class _Plan:
    """Requests, and how their replies are read."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.work: list[float] = []
        self.readers: list[Callable[[Sequence[bytes]], Reading]] = []
        self.agreements: list[Callable[[Sequence[bytes]], bool]] = []
        self.outcomes: list[Callable[[Sequence[bytes]], None]] = []  # what the board will have done by itself

    def ask(self, request: Request, work: float = 0.0) -> int:
        """Add a request of so many multiply-and-adds; the number of its reply."""
        self.requests.append(request)
        self.work.append(work)
        return len(self.requests) - 1

    def probe(self, request: messages.Probe, work: float, most: int) -> tuple[int, int]:
        """Add a measurement, to the plain one before it where that is of the same samples and the reply has room.

        Returns:
            The number of its reply, and of its first measurement therein.
        """
        if self.requests and not request.plain and request.count < most:
            last = self.requests[-1]
            if last == replace(request, plain=True, count=0, code=Code(0, 0.0), first=0):
                self.requests[-1] = replace(request, plain=True)
                self.work[-1] += work
                return len(self.requests) - 1, 1
        return self.ask(request, work), 0


class _Store:
    """What stands in the board's slots: batches in areas of equal length, the least used one makes room.

    Args:
        slots: samples the board has room for.
    """

    def __init__(self, slots: int) -> None:
        self._slots, self._batch = slots, 0
        self._areas: OrderedDict[bytes, int] = OrderedDict()

    def place(self, rows: Floats) -> tuple[int, bool]:
        """The first slot of these samples, and whether they must be sent there."""
        if len(rows) != self._batch:
            self._batch = len(rows)
            self._areas.clear()
        key = rows.tobytes()
        if key in self._areas:
            self._areas.move_to_end(key)
            return self._areas[key], False
        if len(self._areas) == self._slots // self._batch:
            _, slot = self._areas.popitem(last=False)
        else:
            slot = len(self._areas) * self._batch
        self._areas[key] = slot
        return slot, True


@dataclass(frozen=True, slots=True, init=False)
class _Room:
    """What fits where.

    Args:
        identity: of the board.
        network: loaded.
    """

    values: int  # floats of one sample, inputs and target
    slots: int  # samples in the store
    outputs: int
    nodes: int  # outputs of all layers
    floats_in: int  # parameters in one request
    floats_out: int  # floats in one reply
    modulations: int  # in one recipe
    ticks: int  # of training in one request and reply
    request: int  # bytes of payload

    def __init__(self, identity: Identity, network: messages.Network) -> None:
        put = object.__setattr__
        request, reply = identity.receive - 12, identity.reply - 15  # bytes of payload
        outputs = network.layers[-1].outputs
        put(self, "values", network.inputs + outputs)
        put(self, "slots", min(identity.sample_values // (network.inputs + outputs), 0xFFFF))
        put(self, "outputs", outputs)
        put(self, "nodes", sum(layer.outputs for layer in network.layers))
        put(self, "floats_in", (request - 4) // 4)
        put(self, "floats_out", reply // 4)
        put(self, "modulations", (request - 24) // 4)
        put(self, "ticks", min(reply // 8, (request - 36) // 2))
        put(self, "request", request)

    def updates(self, batch: int, labels: bool) -> int:
        """Of a local rule in one request, from batches of so many samples that are in the store at once."""
        return min(self.slots // batch, self.floats_out, (self.request - 28) // (2 + batch * labels))


_COSTS = {costs.MeanSquaredError: messages.Cost.MEAN_SQUARED_ERROR, costs.CrossEntropy: messages.Cost.CROSS_ENTROPY}


def _network(network: Network, cost: costs.Cost, low: float, high: float) -> messages.Network:
    """The network as a board is told of it."""
    if type(cost) not in _COSTS:
        raise ConfigError(f"cost: boards compute cost=mse and cost=cross_entropy, not {type(cost).__name__}")
    layers = []
    for number, layer in enumerate(network.layers, 1):
        if layer.kind != "dense":
            raise ConfigError(
                f"network: boards compute dense layers; layer {number} is {layer.kind!r}. Choose network=mlp."
            )
        activation, bias = messages.Activation[layer.activation.upper()], messages.Bias[layer.bias.upper()]
        normalise = Normalise[layer.normalise.upper()]
        layers.append(messages.DenseLayer(math.prod(layer.outputs), activation, bias, normalise))
    return messages.Network(network.inputs, tuple(layers), _COSTS[type(cost)], low, high)


def _check_room(identity: Identity, network: messages.Network) -> None:
    """Refuse what does not fit, before it is sent."""
    widths = [layer.outputs for layer in network.layers]
    needed = (
        ("parameters", network.size, identity.parameters),
        ("layers", len(widths), identity.layers),
        ("floats for one sample", network.inputs + widths[-1], identity.sample_values),
        ("floats of intermediate results", widths[0] + max(widths) + sum(widths), identity.work),
        ("floats in a reply", widths[-1] + 1, (identity.reply - 15) // 4),
    )
    for what, count, most in needed:
        if count > most:
            raise ConfigError(
                f"network: it takes {count} {what}; the board {identity.name!r} has room for {most}. Choose a smaller "
                "network (network.sizes=[...]), or a larger board. Nothing was sent."
            )


def _spec(identity: Identity, network: Network, wanted: messages.Network, room: _Room) -> DeviceSpec:
    can = Can.COST | Can.OUTPUT | Can.PROBE
    can |= Can.ACTIVITY if room.nodes < room.floats_out else Can(0)
    can |= Can.TRAIN if Capability.TRAIN in identity.can else Can(0)
    if Capability.LEARN in identity.can and len(network.layers) > 1 and network.layers[-1].activation == "linear":
        can |= Can.LEARN
    return DeviceSpec(
        name=identity.name,
        inputs=network.inputs,
        outputs=network.outputs,
        size=network.size,
        can=can,
        low=wanted.low,
        high=wanted.high,
        layers=network.layers,
        precision="single",
    )


def _check_learn(identity: Identity, room: _Room, network: messages.Network, block: Learn) -> None:
    """Refuse a block of local learning that the network does not allow or the board has no room for."""
    who, mono, outputs = repr(identity.name), block.rule == "mono_forward", room.outputs
    if mono and network.layers[-1].normalise is not Normalise.NONE:
        raise LimitError(
            f"{who} learns by Mono-Forward where the last layer takes its inputs as they are; "
            "network.normalise is set for it. Set network.normalise=none, or algo.on_device=false. Nothing was sent."
        )
    if not mono and network.inputs <= outputs:
        raise LimitError(
            f"forward-forward shows the label in the first {outputs} inputs, and {who} needs others beside; the "
            f"network has {network.inputs}. Nothing was sent."
        )
    classes = network.classes_size if mono else 0
    if classes != (0 if block.local is None else block.local.size):
        raise LimitError(
            f"class matrices of {0 if block.local is None else block.local.size} numbers; this network's have "
            f"{classes} for this rule. Nothing was sent."
        )
    widths = [layer.outputs for layer in network.layers]
    versions, contrasts = (1, 1) if mono else (3, 2)
    pairs = zip([0, *widths], widths[:-1], strict=False)
    vectors = max(versions * (before + own) + contrasts * own for before, own in pairs) + contrasts * widths[-1]
    needed = (
        ("floats of intermediate results", 2 * max(widths) + block.batch * vectors, identity.work),
        ("parameters with its class matrices", network.size + classes, identity.parameters),
        ("stored samples", block.batch, room.slots),
        ("bytes in a request", 30 + block.batch * (not mono), room.request),
    )
    for what, count, most in needed:
        if count > most:
            raise LimitError(
                f"learning by itself from batches of {block.batch} takes {count} {what}; {who} has room for {most}. "
                "Choose a smaller task.batch or network (network.sizes=[...]), or algo.on_device=false. "
                "Nothing was sent."
            )


def code_of(probes: Probes, size: int) -> Code | None:
    """The perturbations as a board makes them; None where it cannot."""
    formula, antithetic = probes.perturbation, isinstance(probes.perturbation, Antithetic)
    inner = formula.code if isinstance(formula, Antithetic) else formula
    if probes.site is not Site.PARAMETERS or probes.hold > 0xFFFF or probes.first + probes.count > 0xFFFFFFFF:
        return None
    match inner:
        case Rademacher():
            pattern = Pattern.RADEMACHER
        case Walsh():
            pattern = Pattern.WALSH_TWO_SIDED if inner.two_sided else Pattern.WALSH
        case _:
            return None
    return Code(int(probes.seed), float(np.float32(formula.reach(size))), pattern, antithetic, probes.hold)


def _rows(spec: DeviceSpec, sample: Sample) -> Floats:
    """Samples as the board stores them, (t * b, inputs + outputs); a missing target is zeros."""
    x = sample.x.reshape(-1, spec.inputs)
    target = np.zeros((len(x), spec.outputs)) if sample.target is None else sample.target.reshape(-1, spec.outputs)
    rows = np.concatenate([x, target], axis=-1).astype(np.float32)
    if not np.isfinite(rows).all():
        raise LimitError("a sample has values that are not finite in single precision. Nothing was sent.")
    return rows


def _short(row: Floats) -> Array:
    """A sample as bytes, where 255 stands for 1, if that is exact; else as it is."""
    with np.errstate(invalid="ignore", over="ignore"):
        short = np.rint(np.clip(row, 0, 1) * 255).astype(np.uint8)
    return short if np.array_equal(short.astype(np.float32) / np.float32(255), row) else row


def _stacked(readings: Sequence[Reading]) -> Reading:
    """Readings of one measurement each as one reading, along the probe axis."""
    first = readings[0]
    layers = [reading.activity for reading in readings if reading.activity is not None]
    return Reading(
        cost=None if first.cost is None else np.concatenate([reading.cost for reading in readings]),
        output=None if first.output is None else np.concatenate([reading.output for reading in readings]),
        activity=tuple(np.concatenate(layer) for layer in zip(*layers, strict=True)) if layers else None,
    )


def _crc(theta: Floats) -> int:
    return zlib.crc32(theta.astype(messages.FLOAT).tobytes())


def _same_bits(a: Floats, b: Floats) -> bool:
    return np.array_equal(a.view(np.uint32), b.view(np.uint32))
