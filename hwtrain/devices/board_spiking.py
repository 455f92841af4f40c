"""A spiking network on a board: activity over the link, and learning in time by the board itself.

The board holds the neurons of one sequence. So a batch is presented sequence by sequence, each from its start; only a
single sequence can go on where it ended. A board that learns by itself is asked for its parameters at the end of every
block; one that restarted is given those from before, and learns the block again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hwtrain import costs
from hwtrain.core import Can, Change, Command, Layer, LearnInTime, Measure, Program, Reading, Sample, counted, inside
from hwtrain.devices import messages
from hwtrain.devices.board_network import Floats, OnBoard, Plan, cost_told, refuse_too_large, single
from hwtrain.devices.messages import Activation, Bias, Capability, DenseLayer, Resetting, Shape, Signal, Stream
from hwtrain.errors import ConfigError, DeviceError, LimitError


class Spiking(OnBoard):
    """Spiking layers and a read-out; see `OnBoard`."""

    @staticmethod
    def told(layers: Sequence[Layer], cost: costs.Cost, low: float, high: float) -> messages.Network:
        """The network as a board is told of it."""
        (*hidden, last), wanted = layers, cost_told(cost)
        activations = {"step": Activation.STEP, "sigmoid": Activation.SIGMOID}
        alike = {(layer.kind, layer.activation, layer.reset, layer.decay, layer.threshold) for layer in hidden}
        ends = (last.kind == "dense" and last.activation == "linear") or last.kind == "integrator"
        fits = len(alike) == 1 and hidden[0].kind == "spiking" and hidden[0].reset in ("hard", "soft")
        plain = all(layer.normalise == "none" for layer in layers)
        if not fits or not ends or not plain or hidden[0].activation not in activations:
            raise ConfigError(
                "network: boards stream spiking layers with a hard or soft reset, all with the same settings, and a "
                f"dense linear or integrating read-out, not {', '.join(layer.kind for layer in layers)} as they are "
                "set. Choose network=snu."
            )
        for number, layer in enumerate(layers, 1):
            for name in ("decay", "threshold", "gain"):
                if not abs(value := getattr(layer, name)) <= float(np.finfo(np.float32).max):
                    raise ConfigError(
                        f"network: the {name} of layer {number}, {value:g}, is no finite number in single precision, "
                        "in which boards compute"
                    )
        dense = [
            DenseLayer(layer.outputs[0], activations[layer.activation], Bias.SUBTRACT, recurrent=layer.recurrent)
            for layer in hidden
        ]
        dense.append(DenseLayer(last.outputs[0], Activation.LINEAR, Bias[last.bias.upper()]))
        return messages.Network(layers[0].inputs[0], tuple(dense), wanted, low, high)

    def check(self, commands: Sequence[Command]) -> None:
        """Refuse sequences that cannot go on, and numbers that boards do not take."""
        going = self._going
        for command in commands:
            if isinstance(command, Program):
                single(command.theta)
            if isinstance(command, Measure | LearnInTime):
                self._steps(command.sample)
            if isinstance(command, LearnInTime):
                going = False
                if command.centre and not self.room.sums:
                    raise LimitError(
                        f"the mean of {self.room.outputs} targets does not fit into a request to {self.spec.name!r}. "
                        "Set algo.centre=false, or choose a larger board. Nothing was sent."
                    )
            if isinstance(command, Measure):
                batch = command.sample.x.shape[-2]
                if not command.sample.start and (batch > 1 or not going):
                    raise LimitError(
                        f"{batch} sequences shall go on in {self.spec.name!r}, which "
                        f"{'holds one at a time' if batch > 1 else 'has none under way'}. Present them from their "
                        "start (start=True), one at a time if they come in parts. Nothing was sent."
                    )
                going = batch == 1

    def forget(self, theta: Floats, changes: Sequence[Change] = ()) -> None:
        """Rely on nothing that the board holds, but its network; it is to hold `theta`, changed by `changes`."""
        super().forget(theta, changes)
        self._going = False  # is a sequence under way that could go on?

    def _can(self) -> Can:
        return Can.COST | Can.OUTPUT | Can.ACTIVITY | Can.LEARN_IN_TIME

    def _check_room(self) -> None:
        identity, network, widths = self._identity, self.network, [layer.outputs for layer in self.network.layers]
        if Capability.STREAM not in identity.can:
            raise ConfigError(
                f"the board {identity.name!r} was built without spiking neurons. Use a larger board, or build its "
                "firmware with -DHWT_STREAMS=1. Nothing was sent."
            )
        needed = (
            ("layers", len(widths), identity.layers),
            ("parameters with their traces", network.size + network.streaming_size, identity.parameters),
            ("floats for one step", self.room.values, identity.sample_values),
            ("floats of intermediate results", widths[-1] + max(widths) + sum(widths), identity.work),
            ("floats of intermediate results", widths[0] + max(widths) + sum(widths), identity.work),
            ("floats in a reply", sum(widths) + 1, self.room.floats_out),
        )
        refuse_too_large(identity, needed)

    def _add(self, plan: Plan, command: Command) -> None:
        match command:
            case Measure():
                self._measure(plan, command)
            case LearnInTime():
                self._learn(plan, command)

    def _measure(self, plan: Plan, command: Measure) -> None:
        sample, nodes = command.sample, self.room.nodes
        if not sample.start and not self._going:  # it was when `check` was asked
            raise DeviceError(
                f"{self._link.name}: {self.spec.name!r} restarted in the middle of a sequence, and lost its neurons. "
                "Present the sequence from its start."
            )
        steps, batch = sample.x.shape[:2]
        rows, wanted = self._steps(sample), bool(command.observe & (Can.OUTPUT | Can.ACTIVITY))
        stream = replace(self._stream, activity=wanted, start=sample.start)
        asked = [self._present(plan, rows[:, b], stream) for b in range(batch)]
        self._going = batch == 1

        def read(replies: Sequence[bytes]) -> Reading:
            seen, said = np.zeros((steps, batch), np.float32), np.zeros((steps, batch, nodes), np.float32)
            for b, streams in enumerate(asked):
                answers = [request.unpack(replies[reply], nodes) for reply, request in streams]
                seen[:, b] = np.concatenate([cost for cost, _ in answers])
                if wanted:
                    said[:, b] = np.concatenate([activity for _, activity in answers if activity is not None])
            layers = np.split(said, np.cumsum([layer.outputs for layer in self.network.layers])[:-1], axis=-1)
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

        plan.readers.append(read)

    def _learn(self, plan: Plan, block: LearnInTime) -> None:
        """All sequences, and what they have made of the parameters."""
        assert block.sample.target is not None
        rows, count = self._steps(block.sample), counted(block.sample.target)
        stream = self._lesson(block)
        taught: list[list[tuple[int, Stream]]] = [[] for _ in block.lengths]  # streams of each sequence learnt from
        for b, length in enumerate(block.lengths):
            start = True
            for part in _runs(count[:length, b]):
                learns = bool(count[part.start, b])
                streams = self._present(plan, rows[part, b], replace(stream, start=start, learn=learns))
                taught[b] += streams if learns else []
                start, stream = False, replace(stream, sums=None)
        now = self._read(plan)
        self._left_alone()
        self._going = False

        def read(replies: Sequence[bytes]) -> Reading:
            spent = [
                [request.unpack(replies[reply], self.room.nodes)[0] for reply, request in streams] for streams in taught
            ]
            means = [np.concatenate(each).mean(dtype=np.float64) if each else np.nan for each in spent]
            return Reading(cost=np.array(means), theta=now(replies))

        plan.readers.append(read)
        plan.outcomes.append(lambda replies: self._come_to(now(replies)))

    def _present(self, plan: Plan, rows: Floats, stream: Stream) -> list[tuple[int, Stream]]:
        """Ask for a sequence, or its next part, as `stream` says of the first; the replies that tell of it."""
        room, streams = self.room, []
        most, values = min(room.slots, room.floats_out // (1 + room.nodes * stream.activity)), room.floats_in - 1
        for at in range(0, len(rows), most):
            part = rows[at : at + most]
            for slot, row in enumerate(part):
                for first in range(0, len(row), values):
                    plan.ask(messages.Store(slot, row[first : first + values], first))
            request = replace(stream, steps=len(part))
            streams.append((plan.ask(request, float(3 * self.network.size * len(part))), request))
            stream = replace(stream, start=False, sums=None)
        return streams

    def _steps(self, sample: Sample) -> Floats:
        """Steps as the board stores them; those without a target have zeros."""
        return self._rows(sample if sample.target is None else replace(sample, target=np.nan_to_num(sample.target)))

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
            low=self.network.low,
            high=self.network.high,
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


def _runs(count: NDArray[np.bool_]) -> list[slice]:
    """Where steps have a target, and where they have none, (t,)."""
    ends = [0, *np.flatnonzero(np.diff(count)) + 1, len(count)]
    return [slice(int(a), int(b)) for a, b in pairwise(ends) if a < b]
