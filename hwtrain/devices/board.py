"""A board behind a link: commands as requests, however small its memory is, and whatever becomes of it meanwhile.

What a network makes of the commands is in `board_dense` and `board_spiking`, what both share in `board_network`. A
board that restarted gets everything again, and the commands in hand are carried out from the start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hwtrain import checks, costs
from hwtrain.core import Command, DeviceSpec, Program, Reading, inside
from hwtrain.devices import messages
from hwtrain.devices.board_dense import Dense
from hwtrain.devices.board_network import OnBoard, Plan
from hwtrain.devices.board_spiking import Spiking
from hwtrain.devices.link import Link, Restarted
from hwtrain.devices.messages import Counters
from hwtrain.devices.spiking import Layered
from hwtrain.errors import ConfigError, DeviceError
from hwtrain.limits import check

RESTARTS = 16  # restarts in a row, without a step between them, after which a board is given up


class Board:
    """A board that runs hwtrain's firmware; with spiking layers it is a device with memory.

    Args:
        link: the line to it.
        network: what it is to compute: dense layers; or spiking hidden layers, alike but for their widths and
            recurrence, and a read-out, dense and linear or an integrator.
        cost: what it is to minimise: mean squared error or cross-entropy.
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
        kind: type[OnBoard] = Spiking if any(layer.kind == "spiking" for layer in network.layers) else Dense
        told = kind.told(network.layers, cost, *map(float, limits))
        self._link, self._watchdog = link, round(1000 * watchdog)
        self._closed = self._loaded = False
        try:
            self.identity = link.open()
            self._network = kind(link, self.identity, network.layers, told)
        except BaseException:
            link.close()
            raise

    @property
    def spec(self) -> DeviceSpec:
        """What the board said of itself, and the network it was given."""
        return self._network.spec

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        """Carry the commands out, in as few round trips as the board's window allows.

        Raises:
            LimitError: a command the board cannot carry out; nothing was sent.
            DeviceError: the board is lost for good, or with it the neurons of a sequence that should go on.
        """
        network = self._network
        known = bool(commands) and isinstance(commands[0], Program)
        check(self.spec, commands, None if known else network.now())
        network.check(commands)
        begin = network.theta, network.changes
        for _ in range(RESTARTS):
            plan = Plan()
            try:
                for command in commands:
                    network.add(plan, command)
                if not self._loaded:
                    self._load()
                replies = self._link.exchange(plan.requests, plan.work)
                readings = tuple(read(replies) for read in plan.readers)
                if all(agree(replies) for agree in plan.agreements):
                    for come in plan.outcomes:
                        come(replies)
                    return readings
                self._link.disturbances["disagreements"] += 1
                network.recipes = False
            except Restarted:
                self._link.disturbances["restarts"] += 1
                self._loaded = False
            except BaseException:
                network.forget(*begin)
                raise
            network.forget(*begin)
        raise DeviceError(
            f"{self._link.name}: {self.spec.name!r} restarted {RESTARTS} times in a row. Is its supply strong enough?"
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
                self._network.forget(self._network.now())
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

    def _load(self) -> None:
        """Give the board its boot id and network."""
        told = self._network.network
        self._link.adopt()
        self._link.exchange([told, messages.Watchdog(self._watchdog)], [float(told.size), 0.0])
        self._loaded = True
