"""What a board holds of a network, mirrored, so that only what changes is sent.

Parameters that follow from the last ones go as a recipe of a few bytes (`Change`), and a board that trains by itself is
asked for a checksum of where it has come, or for all of it.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hwtrain import costs
from hwtrain.core import Array, Can, Change, Command, DeviceSpec, Layer, Probes, Program, Reading, Sample, Site, inside
from hwtrain.devices import messages
from hwtrain.devices.link import Link
from hwtrain.devices.messages import Code, Identity, Pattern, Request
from hwtrain.errors import ConfigError, LimitError
from hwtrain.perturb import Antithetic, Rademacher, Walsh

Floats = NDArray[np.float32]

VERIFY = 256  # changes by recipe between two checks that board and host agree on every parameter


class OnBoard(ABC):
    """A network on a board.

    Args:
        link: the line to the board.
        identity: of the board.
        layers: of the network.
        network: the same as the board is told of it; see `told`.

    Raises:
        ConfigError: the network is too large for this board.
    """

    def __init__(self, link: Link, identity: Identity, layers: Sequence[Layer], network: messages.Network) -> None:
        self.network, self.room = network, Room(identity, network)
        self._link, self._identity, self._layers = link, identity, tuple(layers)
        self._check_room()
        self.spec = DeviceSpec(
            name=identity.name,
            inputs=network.inputs,
            outputs=self.room.outputs,
            size=network.size,
            can=self._can(),
            low=network.low,
            high=network.high,
            layers=self._layers,
            precision="single",
        )
        self.recipes = True
        self.forget(np.clip(np.zeros(network.size, np.float32), network.low, network.high))

    @staticmethod
    @abstractmethod
    def told(layers: Sequence[Layer], cost: costs.Cost, low: float, high: float) -> messages.Network:
        """The network as a board is told of it.

        Raises:
            ConfigError: it is not one that boards compute.
        """

    @abstractmethod
    def check(self, commands: Sequence[Command]) -> None:
        """Refuse what is seen without a plan, before anything that is held is forgotten.

        Raises:
            LimitError: a command that the board cannot carry out.
        """

    def add(self, plan: Plan, command: Command) -> None:
        """Add what a command asks of the board.

        Raises:
            LimitError: it cannot be carried out.
            DeviceError: it cannot, since the board restarted.
        """
        if isinstance(command, Program):
            self._program(plan, command)
            return
        if self._held is None and not self._own:
            self._program(plan, Program(self.now()))  # the board restarted, or nothing was ever programmed
        self._add(plan, command)

    def forget(self, theta: Floats, changes: Sequence[Change] = ()) -> None:
        """Rely on nothing that the board holds, but its network; it is to hold `theta`, changed by `changes`."""
        self.theta = theta  # as last programmed
        self.changes = changes  # which the board has made since
        self._held: Floats | None = None  # parameters on the board, where they are known
        self._own = False  # has the board changed them by itself since?
        self._crc: int | None = None  # of what they are then
        self._changed = 0  # recipes since the last check

    def now(self) -> Floats:
        """The parameters on the board; those it came to by itself are made again from what it measured."""
        for change in self.changes:
            self.theta = change(self.theta)
        self.changes = ()
        return self.theta

    @abstractmethod
    def _can(self) -> Can: ...

    @abstractmethod
    def _check_room(self) -> None: ...

    @abstractmethod
    def _add(self, plan: Plan, command: Command) -> None:
        """Add any command but `Program`, to a board that holds its parameters."""

    def _program(self, plan: Plan, command: Program) -> None:
        """Nothing, a recipe, or all parameters: the least that brings the board to theta."""
        theta = single(command.theta)
        if self._crc == _crc(theta):
            self._held = theta
        elif self._crc is not None:
            self._link.disturbances["rewritten after training"] += 1
        self._own, self._crc, self.changes = False, None, ()
        if self._held is None:
            self._write(plan, theta)
        elif not same_bits(self._held, theta):
            request = None if command.change is None else self._recipe(command.change, self._held, theta)
            if request is None:
                self._write(plan, theta)
            else:
                plan.ask(request, float(theta.size * command.change.probes.count) if command.change else 0.0)
                self._changed += 1
                if self._changed % VERIFY == 1:
                    self._verify(plan, theta)
        self._held = self.theta = theta
        plan.outcomes.clear()  # whatever the board came to by itself before, this it holds now

    def _recipe(self, change: Change, held: Floats, theta: Floats) -> Request | None:
        """The change as the board is told of it, if it can be told, and leads from what it holds to theta."""
        code = code_of(change.probes, theta.size)
        if code is None or not self.recipes or change.probes.count > self.room.modulations:
            return None
        if not same_bits(change(held), theta):
            return None
        low, high = inside(change.low, change.high)
        return messages.Update(
            code, change.probes.first, change.rate, change.modulation.astype(np.float32), float(low), float(high)
        )

    def _write(self, plan: Plan, values: Floats, first: int = 0) -> None:
        self._link.traffic["full writes"] += first == 0
        for at in range(0, values.size, self.room.floats_in):
            plan.ask(messages.Write(first + at, values[at : at + self.room.floats_in]))

    def _verify(self, plan: Plan, theta: Floats) -> None:
        index, crc = plan.ask(messages.Digest(), 8.0 * theta.size), _crc(theta)
        plan.agreements.append(lambda replies: messages.Digest.unpack(replies[index]) == (theta.size, crc))

    def _left_alone(self) -> None:
        """The board changes its parameters by itself from here on."""
        self._held, self._own, self._crc = None, True, None

    def _read(self, plan: Plan, count: int | None = None) -> Callable[[Sequence[bytes]], Floats]:
        """Ask for the first `count` floats, or all parameters, and whether they are those: how to read the replies."""
        most, size = self.room.floats_out, self.network.size if count is None else count
        parts = [plan.ask(messages.Read(at, min(most, size - at))) for at in range(0, size, most)]
        last = plan.ask(messages.Digest(count), 8.0 * size)

        def read(replies: Sequence[bytes]) -> Floats:
            return np.frombuffer(b"".join(replies[part] for part in parts), messages.FLOAT).astype(np.float32)

        plan.agreements.append(lambda replies: messages.Digest.unpack(replies[last]) == (size, _crc(read(replies))))
        return read

    def _come_to(self, theta: Floats) -> None:
        """The board changed its parameters by itself, and they were read."""
        self._held = self.theta = theta
        self._own, self._crc, self.changes = False, None, ()

    def _rows(self, sample: Sample) -> Floats:
        """Samples as the board stores them, (t, b, inputs + outputs); a missing target is zeros."""
        target = np.zeros((*sample.x.shape[:-1], self.room.outputs)) if sample.target is None else sample.target
        with np.errstate(over="ignore"):  # refused
            rows = np.concatenate([sample.x, target], axis=-1).astype(np.float32)
        if not np.isfinite(rows).all():
            hint = "; steps without a target are for spiking networks (network=snu)" if np.isnan(target).any() else ""
            raise LimitError(f"a sample has values that are not finite in single precision{hint}. Nothing was sent.")
        return rows


class Plan:
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


class Room:
    """What fits where.

    Args:
        identity: of the board.
        network: loaded.
    """

    def __init__(self, identity: Identity, network: messages.Network) -> None:
        self.request = identity.receive - 12  # bytes of payload
        self.outputs = network.layers[-1].outputs
        self.nodes = sum(layer.outputs for layer in network.layers)
        self.values = network.inputs + self.outputs  # floats of one sample, inputs and target
        self.slots = min(identity.sample_values // self.values, 0xFFFF)  # samples in the store
        self.floats_in = (self.request - 4) // 4  # parameters in one request
        self.floats_out = (identity.reply - 15) // 4  # floats in one reply
        self.modulations = (self.request - 24) // 4  # in one recipe
        self.ticks = min((identity.reply - 15) // 8, (self.request - 36) // 2)  # of training in one request and reply
        self.sums = (
            52 + 4 * (len(network.layers) + self.outputs) <= self.request
        )  # do those of targets fit into STREAM?

    def updates(self, batch: int, labels: bool) -> int:
        """Of a local rule in one request, from batches of so many samples that are in the store at once."""
        return min(self.slots // batch, self.floats_out, (self.request - 28) // (2 + batch * labels))


_COSTS = {costs.MeanSquaredError: messages.Cost.MEAN_SQUARED_ERROR, costs.CrossEntropy: messages.Cost.CROSS_ENTROPY}


def cost_told(cost: costs.Cost) -> messages.Cost:
    """The cost as a board is told of it; refuses those it does not compute."""
    if type(cost) not in _COSTS:
        raise ConfigError(f"cost: boards compute cost=mse and cost=cross_entropy, not {type(cost).__name__}")
    return _COSTS[type(cost)]


def refuse_too_large(identity: Identity, needed: Iterable[tuple[str, int, int]]) -> None:
    """Refuse a network that needs more than there is: of what, how much, and how much there is."""
    for what, count, most in needed:
        if count > most:
            raise ConfigError(
                f"network: it takes {count} {what}; the board {identity.name!r} has room for {most}. Choose a smaller "
                "network (network.sizes=[...]), or a larger board. Nothing was sent."
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


def single(values: Array) -> Floats:
    """Parameters in single precision; refuses those too large for it."""
    with np.errstate(over="ignore"):  # refused
        theta = values.astype(np.float32)
    if not np.isfinite(theta).all():
        raise LimitError("a parameter is too large for single precision. Nothing was sent.")
    return theta


def same_bits(a: Floats, b: Floats) -> bool:
    """Are these the same parameters, to the last bit?"""
    return np.array_equal(a.view(np.uint32), b.view(np.uint32))


def _crc(theta: Floats) -> int:
    return zlib.crc32(theta.astype(messages.FLOAT).tobytes())
