"""A feed-forward network on a board: measurements under named perturbations, and training by the board itself.

Samples stay in the board's store. A board that trains by itself is asked for a checksum of where it has come, one that
learns by a local rule for all of it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

from hwtrain import costs
from hwtrain.core import Array, Can, Change, Command, Layer, Learn, Measure, Probes, Reading, Train, inside
from hwtrain.devices import messages
from hwtrain.devices.board_network import Floats, OnBoard, Plan, code_of, cost_told, refuse_too_large, same_bits
from hwtrain.devices.messages import Activation, Capability, Code, Normalise, Observe, Rule
from hwtrain.errors import ConfigError, LimitError


class Dense(OnBoard):
    """Dense layers; see `OnBoard`."""

    @staticmethod
    def told(layers: Sequence[Layer], cost: costs.Cost, low: float, high: float) -> messages.Network:
        """The network as a board is told of it."""
        wanted, dense = cost_told(cost), []
        for number, layer in enumerate(layers, 1):
            if layer.kind != "dense":
                raise ConfigError(
                    f"network: boards compute dense layers; layer {number} is {layer.kind!r}. Choose network=mlp."
                )
            activation, bias = Activation[layer.activation.upper()], messages.Bias[layer.bias.upper()]
            normalise = Normalise[layer.normalise.upper()]
            dense.append(messages.DenseLayer(math.prod(layer.outputs), activation, bias, normalise))
        return messages.Network(math.prod(layers[0].inputs), tuple(dense), wanted, low, high)

    def check(self, commands: Sequence[Command]) -> None:
        """All refusals wait for the plan."""

    def forget(self, theta: Floats, changes: Sequence[Change] = ()) -> None:
        """Rely on nothing that the board holds, but its network; it is to hold `theta`, changed by `changes`."""
        super().forget(theta, changes)
        self._classes: Floats | None = None  # class matrices behind the parameters, where they are known
        self._store = _Store(self.room.slots)

    def _can(self) -> Can:
        can, able = Can.COST | Can.OUTPUT | Can.PROBE, self._identity.can
        can |= Can.ACTIVITY if self.room.nodes < self.room.floats_out else Can(0)
        can |= Can.TRAIN if Capability.TRAIN in able else Can(0)
        ends = self.network.layers[-1].activation is Activation.LINEAR
        return can | (Can.LEARN if Capability.LEARN in able and len(self._layers) > 1 and ends else Can(0))

    def _check_room(self) -> None:
        identity, network, widths = self._identity, self.network, [layer.outputs for layer in self.network.layers]
        needed = (
            ("parameters", network.size, identity.parameters),
            ("layers", len(widths), identity.layers),
            ("floats for one sample", self.room.values, identity.sample_values),
            ("floats of intermediate results", widths[0] + max(widths) + sum(widths), identity.work),
            ("floats in a reply", widths[-1] + 1, self.room.floats_out),
        )
        refuse_too_large(identity, needed)

    def _add(self, plan: Plan, command: Command) -> None:
        match command:
            case Measure():
                self._measure(plan, command)
            case Train():
                self._train(plan, command)
            case Learn():
                self._learn(plan, command)

    def _measure(self, plan: Plan, command: Measure) -> None:
        probes, theta = command.probes, self.theta
        code = None if probes is None else code_of(probes, self.spec.size)
        rows = self._rows(command.sample).reshape(-1, self.room.values)
        shape = command.sample.x.shape[:2]
        if probes is None or code is not None:
            plan.readers.append(self._ask(plan, rows, shape, probes, code, command.observe))
            return
        if plan.outcomes:
            raise LimitError(
                f"{self.spec.name!r} cannot make {type(probes.perturbation).__name__} perturbations by itself, and "
                "which parameters it will have come to is not known yet. Measure in the next step. Nothing was sent."
            )
        readers = []  # a perturbation that the board cannot make from its name: it is programmed
        for delta in probes.dense(self.spec.size):
            self._write(plan, (theta + delta).astype(np.float32))
            readers.append(self._ask(plan, rows, shape, None, None, command.observe))
        self._write(plan, theta.astype(np.float32))
        plan.readers.append(lambda replies: _stacked([read(replies) for read in readers]))

    def _ask(
        self, plan: Plan, rows: Floats, shape: tuple[int, ...], probes: Probes | None, code: Code | None, observe: Can
    ) -> Callable[[Sequence[bytes]], Reading]:
        """Measure, in as many requests as the board's memory makes of it; how to read the replies."""
        room, network, total = self.room, self.network, len(rows)
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

    def _present(self, plan: Plan, rows: Floats) -> int:
        """The slot in which the samples stand, one after another; they are sent if they are not there yet."""
        slot, new = self._store.place(rows)
        if new:
            for number, row in enumerate(rows):
                values = _short(row)
                most = (self.room.floats_in - 1) * (1 if values.dtype != np.uint8 else 4)
                for at in range(0, len(values), most):
                    plan.ask(messages.Store(slot + number, values[at : at + most], at))
        return slot

    def _train(self, plan: Plan, block: Train) -> None:
        """As many requests as the board's replies and its store make of the block."""
        room, ticks, window = self.room, block.probes, block.tau_theta
        code = code_of(ticks, self.spec.size)
        if code is None:
            raise LimitError(
                f"{self.spec.name!r} cannot make {type(ticks.perturbation).__name__} perturbations by itself. Use "
                "algo/perturbation=rademacher or walsh, or algo.on_device=false. Nothing was sent."
            )
        if block.tau_x > 0xFFFF:
            raise LimitError(
                f"algo.tau_x: {self.spec.name!r} counts presentations of at most 65535 ticks, not {block.tau_x}. "
                "Nothing was sent."
            )
        areas = room.slots // block.batch
        most = min(room.ticks, max(areas, 0) * block.tau_x)
        if most < window:
            raise LimitError(
                f"{self.spec.name!r} trains at most {room.ticks} ticks in one block and stores {room.slots} samples; "
                f"a window takes {window} ticks and presentations of {block.batch}. Choose a smaller algo.tau_theta or "
                "task.batch, or algo.on_device=false. Nothing was sent."
            )
        rows = self._rows(block.sample).reshape(-1, block.batch, room.values)
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
            pieces.append(plan.ask(request, float(length * 3 * block.batch * self.network.size)))
            at += length
        last = plan.ask(messages.Digest(), 8.0 * self.network.size)
        self._left_alone()

        def read(replies: Sequence[bytes]) -> Reading:
            traces = [messages.Train.unpack(replies[piece]) for piece in pieces]
            baseline, modulation = (np.concatenate([trace[which] for trace in traces]) for which in (0, 1))
            return Reading(baseline=baseline, modulation=modulation)

        def come(replies: Sequence[bytes]) -> None:
            _, self._crc = messages.Digest.unpack(replies[last])
            modulation = read(replies).modulation
            assert modulation is not None
            self.changes = [*self.changes, *block.changes(modulation)]

        plan.readers.append(read)
        plan.outcomes.append(come)

    def _learn(self, plan: Plan, block: Learn) -> None:
        """As many requests as the board's memory makes of the block; then all that it has become is read."""
        room, rule = self.room, Rule[block.rule.upper()]
        wrong = None
        if rule is not Rule.MONO_FORWARD:
            wrong = np.asarray(block.wrong, np.uint8).reshape(-1, block.batch)
        self._check_learn(block)
        rows = self._rows(block.sample).reshape(-1, block.batch, room.values)
        with np.errstate(over="ignore"):  # refused below
            size, classes = self.network.size, None if block.local is None else block.local.astype(np.float32)
        if rule is Rule.MONO_FORWARD and classes is not None and classes.size:
            if not np.isfinite(classes).all():
                raise LimitError("a class matrix is too large for single precision. Nothing was sent.")
            if self._classes is None or not same_bits(self._classes, classes):
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
        self._left_alone()
        if rule is Rule.MONO_FORWARD:
            self._classes = None

        def read(replies: Sequence[bytes]) -> Reading:
            floats = now(replies)
            costs = np.concatenate([messages.Learn.unpack(replies[piece]) for piece in pieces])
            return Reading(cost=costs, theta=floats[:size], local=None if classes is None else floats[size:])

        def come(replies: Sequence[bytes]) -> None:
            floats = now(replies)
            self._come_to(floats[:size])
            if rule is Rule.MONO_FORWARD:
                self._classes = floats[size:]

        plan.readers.append(read)
        plan.outcomes.append(come)

    def _check_learn(self, block: Learn) -> None:
        """Refuse a block of local learning that the network does not allow or the board has no room for."""
        identity, room, network = self._identity, self.room, self.network
        who, mono, outputs = repr(identity.name), block.rule == "mono_forward", room.outputs
        if mono and network.layers[-1].normalise is not Normalise.NONE:
            raise LimitError(
                f"{who} learns by Mono-Forward where the last layer takes its inputs as they are; network.normalise is "
                "set for it. Set network.normalise=none, or algo.on_device=false. Nothing was sent."
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
                    f"learning by itself from batches of {block.batch} takes {count} {what}; {who} has room for "
                    f"{most}. Choose a smaller task.batch or network (network.sizes=[...]), or algo.on_device=false. "
                    "Nothing was sent."
                )


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
