"""An array that is reached one cell at a time, by a protocol of lines: ArC ONE and its like.

It can pulse a cell and read its resistance, and nothing at once: the host multiplies by what it reads. Lines carry no
numbers, so a reading is asked for again when it does not come, but a pulse never: whether it was given can only be read
back, by a run that is resumed.
"""

from __future__ import annotations

import math
import struct
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks
from hwtrain.core import Array, Can, Command, Device, DeviceSpec, Layer, Measure, Pulse, Read, Reading
from hwtrain.costs import Cost
from hwtrain.devices.crossbar import by_values, measured
from hwtrain.devices.instruments import Limits
from hwtrain.devices.link import PortLost
from hwtrain.devices.visa import Address, Wire
from hwtrain.errors import ConfigError, ConnectError, DeviceError, LimitError, ReplyTimeout
from hwtrain.limits import check
from hwtrain.sim.networks import Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Prober:
    """What the instrument understands; facts, no code. Words and bits count from `first`.

    Args:
        name: for messages.
        reset: opens all crosspoints and restarts it.
        reset_seconds: how long that takes [s].
        begin: sets it up: {words}, {bits} and {read_volts}.
        begun: the line that it answers.
        ready: said after that; "" for nothing.
        read: asks for the resistance of {word}, {bit} [ohm].
        pulse: gives {word}, {bit} one pulse of {volts} [V] for {width} [s], and asks for its resistance.
        reply: how a resistance comes, as `struct` names it.
        words: lines one way.
        bits: lines the other way.
        first: number of the first line.
        low: lowest voltage [V].
        high: highest voltage [V].
        shortest: pulse [s].
        decimals: digits behind the point of a value that is sent.
        pause: after each message, for it has no flow control [s].
        baudrate: [bits per second].
        parity: none, even or odd.
    """

    name: str
    reset: str
    begin: str
    begun: str
    read: str
    pulse: str
    words: int
    bits: int
    low: float
    high: float
    shortest: float
    ready: str = ""
    reset_seconds: float = 2.0
    reply: str = "<f"
    first: int = 1
    decimals: int = 6
    pause: float = 1e-3
    baudrate: int = 921600
    parity: str = "even"


class CellArray:
    """A network whose parameters are conductances of single cells, in order, word by word.

    Args:
        resource: where the instrument is: ASRL/dev/ttyACM0::INSTR.
        instrument: its facts.
        network: dense layers.
        cost: what is minimised.
        scale: conductance that stands for a parameter of 1 [S].
        zero: conductance that stands for 0 [S].
        low: lowest parameter.
        high: highest parameter.
        step: what one pulse changes a parameter by, roughly.
        volts: of a pulse up [V].
        down_volts: of a pulse down [V].
        limit_volts: no pulse or reading is ever beyond, either way [V].
        width: of a pulse [s].
        read_volts: of a reading [V].
        most_pulses: of any cell in its life; None is no limit.
        timeout: silence after which a reading is asked for again [s].
        patience: silence after which the run fails [s].
        backend: of pyvisa.
    """

    def __init__(
        self,
        resource: str,
        instrument: Prober,
        network: Network,
        cost: Cost,
        scale: float = 20e-6,
        zero: float = 60e-6,
        low: float = -1.0,
        high: float = 1.0,
        step: float = 0.002,
        volts: float = 1.0,
        down_volts: float = -1.0,
        limit_volts: float = 1.5,
        width: float = 1e-6,
        read_volts: float = 0.2,
        most_pulses: int | None = None,
        timeout: float = 1.0,
        patience: float = 10.0,
        backend: str = "@py",
    ) -> None:
        for name, value in {"scale": scale, "step": step, "limit_volts": limit_volts}.items():
            checks.number(f"device.{name}", value, low=0, above=True)
        checks.number("device.width", width, low=instrument.shortest, why=f"seconds, the shortest of {instrument.name}")
        checks.whole("device.most_pulses", most_pulses, none="no limit")
        if not instrument.low <= -limit_volts < limit_volts <= instrument.high:
            raise ConfigError(
                f"device.limit_volts={limit_volts:g} must stay within what {instrument.name} gives, "
                f"{instrument.low:g} to {instrument.high:g} V"
            )
        if network.size > instrument.words * instrument.bits or any(layer.kind != "dense" for layer in network.layers):
            raise ConfigError(
                f"{instrument.name} has {instrument.words} x {instrument.bits} cells for dense layers; this network "
                f"needs {network.size}. Choose smaller network.sizes."
            )
        limits = Limits(-limit_volts, limit_volts)
        self._texts = {
            name: limits.text(name, value, instrument.decimals)
            for name, value in {"volts": volts, "down_volts": down_volts, "read_volts": read_volts}.items()
        }
        self._texts["width"] = f"{width:.{instrument.decimals}f}"
        if float(self._texts["width"]) < instrument.shortest:
            raise ConfigError(
                f"device.width={width:g} is sent as {self._texts['width']} s, too short for {instrument.name}"
            )
        self._facts, self._layers, self._cost = instrument, network.layers, cost
        self._scale, self._zero, self._most = scale, zero, most_pulses
        self._timeout, self._patience = timeout, patience
        self._spec = DeviceSpec(
            name=instrument.name,
            inputs=network.inputs,
            outputs=network.outputs,
            size=network.size,
            can=Can.COST | Can.SAMPLE_COST | Can.OUTPUT | Can.ACTIVITY | Can.PROBE | Can.PULSE | Can.READ,
            low=low,
            high=high,
            step=step,
            layers=network.layers,
        )
        self._pulses: NDArray[np.int64] = np.zeros(network.size, np.int64)
        self._traffic: Counter[str] = Counter()
        self._disturbances: Counter[str] = Counter()
        self._address = Address(resource, backend, "\n", instrument.baudrate, instrument.parity)
        self._wire: Wire | None = Wire(self._address)
        self._awake = False
        try:
            self._wake()
        except BaseException:
            self._wire.close()
            raise

    @property
    def spec(self) -> DeviceSpec:
        """The network, and the range of a parameter."""
        return self._spec

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        """Pulse and read, cell by cell.

        Raises:
            LimitError: a cell would get more pulses than it may; nothing was sent.
            DeviceError: the instrument is silent, or has gone; a pulse may or may not have been given.
        """
        check(self._spec, commands)
        total = self._pulses + sum(np.abs(command.counts) for command in commands if isinstance(command, Pulse))
        if self._most is not None and total.max() > self._most:
            raise LimitError(
                f"cell {int(total.argmax())} would get its pulse number {int(total.max())}; device.most_pulses is "
                f"{self._most}. Nothing was sent."
            )
        try:
            self._wake()
            readings = []
            for command in commands:
                match command:
                    case Pulse():
                        self._give(command.counts)
                    case Read():
                        readings.append(Reading(theta=self._theta()))
                    case Measure():
                        readings.append(self._measured(command))
        except PortLost as error:
            raise ConnectError(
                f"{self._address.resource} has gone: {error}. Resume the run once it is back."
            ) from error
        return tuple(readings)

    def rest(self) -> None:
        """All crosspoints open.

        Raises:
            ConnectError: the instrument has gone.
        """
        if self._wire is None or not self._awake:
            return
        self._awake = False
        try:
            self._say(self._facts.reset)
        except PortLost as error:
            raise ConnectError(
                f"{self._address.resource} has gone: {error}. It drives nothing between pulses."
            ) from error

    def close(self) -> None:
        """Rest, and let go; may be called twice."""
        try:
            self.rest()
        finally:
            if self._wire is not None:
                self._wire.close()
                self._wire = None

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Pulses, readings, and what was survived."""
        traffic = {**self._traffic, "pulses": int(self._pulses.sum()), "most pulses of a cell": int(self._pulses.max())}
        return {"traffic": traffic, "disturbances": dict(self._disturbances)}

    def _wake(self) -> None:
        if self._awake:
            return
        facts = self._facts
        if self._wire is None:
            raise DeviceError(f"{facts.name}: the device is closed")
        try:
            self._say(facts.reset)
            time.sleep(facts.reset_seconds)
            self._wire.drop()
            self._say(facts.begin.format(words=facts.words, bits=facts.bits, **self._texts))
            answer = self._wire.line(self._patience)
            if answer is None or answer.decode("latin-1").strip() != facts.begun:
                said = "nothing" if answer is None else repr(answer.decode("latin-1"))
                raise ConnectError(
                    f"{self._address.resource} answers {said}; {facts.name} would answer {facts.begun!r}. Is it one, "
                    "and are baudrate and parity those of device.instrument?"
                )
            if facts.ready:
                self._say(facts.ready.format(**self._texts))
        except PortLost as error:
            raise ConnectError(f"{self._address.resource} has gone: {error}") from error
        self._awake = True

    def _say(self, lines: str) -> None:
        assert self._wire is not None
        self._wire.write((lines.replace(" ", "\n") + "\n").encode())
        self._traffic["messages"] += 1
        time.sleep(self._facts.pause)

    def _place(self, cell: int) -> dict[str, int]:
        first, bits = self._facts.first, self._facts.bits
        return {"word": first + cell // bits, "bit": first + cell % bits}

    def _give(self, counts: Array) -> None:
        for cell in map(int, np.flatnonzero(counts)):
            count = int(counts[cell])
            volts = self._texts["volts" if count > 0 else "down_volts"]
            line = self._facts.pulse.format(**self._place(cell), volts=volts, width=self._texts["width"])
            for _ in range(abs(count)):
                self._pulses[cell] += 1
                self._say(line)
                if self._ohms() is None:
                    raise ReplyTimeout(
                        f"{self._address.resource}: no answer to a pulse on cell {cell} within {self._timeout:g} s. "
                        "It may or may not have been given, so it is not repeated; a resumed run reads back."
                    )

    def _ohms(self) -> float | None:
        assert self._wire is not None
        data = self._wire.exactly(struct.calcsize(self._facts.reply), self._timeout)
        return None if data is None else float(struct.unpack(self._facts.reply, data)[0])

    def _resistance(self, cell: int) -> float:
        began = time.monotonic()
        while True:
            self._say(self._facts.read.format(**self._place(cell)))
            self._traffic["readings"] += 1
            ohms = self._ohms()
            if ohms is not None and math.isfinite(ohms) and ohms > 0:
                return ohms
            assert self._wire is not None
            self._disturbances["repeated readings"] += 1
            self._wire.drop()
            if time.monotonic() - began > self._patience:
                raise ReplyTimeout(
                    f"{self._address.resource}: no resistance of cell {cell} within {self._patience:g} s, though it "
                    "was asked for again"
                )

    def _theta(self) -> Array:
        ohms = np.array([self._resistance(cell) for cell in range(self._spec.size)])
        theta: Array = (1 / ohms - self._zero) / self._scale
        return theta

    def _measured(self, command: Measure) -> Reading:
        """Every cell is read once for a measurement, and the host multiplies."""
        theta, ends = self._theta(), np.cumsum([0, *(layer.size for layer in self._layers)])

        def product(number: int, layer: Layer, shown: Array) -> Array:
            tile = theta[ends[number] : ends[number + 1]].reshape(shown.shape[-1] + 1, -1)
            u: Array = np.matmul(shown, tile[:-1]) + (1 if layer.bias == "add" else -1) * tile[-1]
            return u

        return measured(self._layers, self._spec.size, self._cost, command, product)


def cell_array(
    resource: str,
    instrument: Prober,
    network: Network,
    cost: Cost,
    programming: str | None = "mixed_precision",
    tolerance: float = 1.0,
    rounds: int = 20,
    **settings: object,
) -> Device:
    """Single cells that take values by `programming`, a scheme of `hwtrain.devices.programming`; None takes pulses.

    Args:
        resource: where the instrument is.
        instrument: its facts.
        network: dense layers.
        cost: what is minimised.
        programming: the scheme.
        tolerance: of write_verify [steps of a pulse].
        rounds: of write_verify: readings at most for one write.
        settings: of `CellArray`.
    """
    make: Callable[..., Device] = CellArray
    return by_values(make(resource, instrument, network, cost, **settings), programming, tolerance, rounds)
