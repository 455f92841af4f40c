"""Crossbar arrays behind a controller that speaks SCPI: the network's matrices in cells, its neurons on the host.

Each dense layer is a tile of the array: a row for every input and one for the biases, a column for every output. The
controller pulses, reads and multiplies within limits of its own (firmware/crossbar/SCPI.md); what crosses the wire are
counts of pulses, voltages of rows and currents of columns. A conductance above that of a reference cell stands for a
parameter. A perturbation is added beside the array: the host adds to the currents what perturbed cells would.

Pulses add up, so they carry a number, and the controller carries each number out once.
"""

from __future__ import annotations

import contextlib
import math
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks
from hwtrain.core import (
    Array,
    Can,
    Command,
    Device,
    DeviceSpec,
    Layer,
    Learn,
    Measure,
    Program,
    Pulse,
    Read,
    Reading,
    Train,
    normalised,
)
from hwtrain.costs import Cost, CrossEntropy, MeanSquaredError
from hwtrain.devices.crossbar_blocks import Blocks, Unit, definite
from hwtrain.devices.instruments import Instrument, Restarted, Talk
from hwtrain.devices.own_training import Left, OwnTraining
from hwtrain.devices.programming import SCHEMES, Programmed
from hwtrain.emulators import Emulator
from hwtrain.errors import ConfigError, DeviceError, HwtrainError
from hwtrain.limits import check
from hwtrain.sim.cells import Cell
from hwtrain.sim.laws import ConstantStep, SoftBounds
from hwtrain.sim.networks import ACTIVATIONS, Network
from hwtrain.sim.pulsed import Pulsed

_Result = TypeVar("_Result")
_Inner = TypeVar("_Inner", bound=Device)
_REFUSED = {  # what to do about it; settings are those of a run, which keeps them
    -221: "Are its outputs off, since a message took longer than device.watchdog? Start a run with a longer one.",
    -222: "Is a setting beyond what its board allows? It judges device.volts, width, read_volts, scale and step.",
    -223: "It has no memory for this: choose a smaller task.batch or algo.tau_theta. No pulse was given.",
    -300: "A current was out of its converter's range. Start a run with a smaller device.read_volts.",
    101: "A cell has had device.most_pulses. Start a run with more.",
    102: "It worked for longer than it may be without a host. Start a run with a longer device.watchdog.",
}
_ACTIVATIONS = {"linear": 0, "sigmoid": 1, "tanh": 2, "relu": 3}  # that the controller computes
BYTE = 2e-4  # allowed for each byte either way, work included [s]
MOST = 32767  # pulses of a cell in one command


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller(Instrument):
    """What a controller of crossbars understands, beside what any instrument does.

    Args:
        once: numbers what follows in the message, which is carried out once whatever the number of repeats.
        done: asks for that number.
        size: asks for rows and columns of every tile.
        pulses: gives cells their pulses: {volts}, {width} and {block}, a big-endian int16 for every cell.
        readings: asks for all conductances, as big-endian float32 [S].
        multiply: asks for the currents [A] of tile {tile} at the voltages of {block}, big-endian float32.
        write: brings cells to conductances by reading and pulsing: {volts}, {width}, {tolerance} and {step} [S],
            {rounds} and {block}, a float32 [S] for every cell, NaN for those to leave alone.
        written: asks for the pulses of the last write, and the cells that it did not bring near.
        count: asks for the pulses so far, those of the cell that had most, and the readings.
        options: asks what the controller can beside, LEARN, TRAIN, PERTURB; "" where it does not know the question.
        reach: asks how far an actuator moves cells [S].
        network: describes the network on the tiles: conductance of 1 {siemens}, voltage of an input of 1 {read}, {step}
            of a pulse, {cost}, and {layers}, activation and bias of each.
        wish: takes what cells are to hold, and class matrices behind it, as {block}, big-endian float32.
        wished: asks for them.
        held: takes what pulses make of the wishes so far, likewise.
        holds: asks for it.
        learn: trains by Mono-Forward: {volts}, {width}, {rate}, {readout}, {low}, {high}, {batch}, and {block} of
            samples, inputs then target.
        costs: asks for the cost of every update made.
        train: trains by gradient descent (MGD): {volts}, {width}, {pulses} of a perturbation or 0 for an actuator,
            {seed}, {kind}, {hold}, {amplitude}, {first}, {ticks}, {tau_x}, {tau_theta}, {batch}, {baseline}, {rate},
            {low}, {high}, and {block} of samples.
        trace: asks for baseline and modulation of every tick.
        counts: asks for the pulses of every cell so far, as big-endian uint32.
        limits: our limits of {volts}, {read}, {width}, {pulses} and {watchdog}, said before anything is driven.
        release: said last, so that other clients need no checksums; "" where there are none.
        tiles: of a controller with cells in memory: lays tiles out.
        cells: of the same: makes cells.
    """

    set: str = ""
    read: str = ""
    low: float = 0.0
    high: float = 0.0
    once: str
    done: str
    size: str
    pulses: str
    readings: str
    multiply: str
    write: str
    written: str
    count: str
    limits: tuple[str, ...] | list[str]
    options: str = ""
    reach: str = ""
    network: str = ""
    wish: str = ""
    wished: str = ""
    held: str = ""
    holds: str = ""
    learn: str = ""
    costs: str = ""
    train: str = ""
    trace: str = ""
    counts: str = ""
    release: str = ""
    tiles: str = ""
    cells: str = ""


class Crossbar:
    """A network whose parameters are conductances.

    Args:
        resource: where the controller is, as VISA names it.
        instrument: what it understands.
        network: dense layers; a tile for each.
        cost: what is minimised; computed from the readings.
        scale: conductance above the reference that stands for a parameter of 1 [S].
        low: lowest parameter.
        high: highest parameter.
        step: what one pulse changes a parameter by, roughly.
        volts: of a pulse up, and the negative of one down [V].
        width: of a pulse [s].
        read_volts: of a reading, for an input of 1 [V].
        most_pulses: of any cell in its life; None is no limit.
        values: does it take values, which the controller writes and verifies? Else pulses.
        tolerance: of that: how near is near enough [steps of a pulse].
        rounds: readings at most for one write of a cell.
        model: cells to make, of a controller that has them in memory; None for one with an array.
        seed: of these.
        perturb_by: of multiplexed gradient descent by the controller itself: "actuator", its own means of moving cells;
            "pulses", there and back; None is the former where there is one.
        noise: standard deviation of one cost reading, where it is known.
        watchdog: silence after which the controller switches all outputs off by itself [s].
        timeout: silence after which a message is said again [s].
        patience: how long the controller may be silent or away before the run fails [s]; work is allowed for beside.
        backend: of pyvisa; see `hwtrain.devices.visa.Address`.

    Raises:
        ConfigError: a setting is wrong, or the network does not fit the tiles.
        ConnectError: nobody is there, or something else.
    """

    _clock = 1.0  # seconds of the controller in one of ours

    def __init__(
        self,
        resource: str,
        instrument: Controller,
        network: Network,
        cost: Cost,
        scale: float = 20e-6,
        low: float = -1.0,
        high: float = 1.0,
        step: float = 0.002,
        volts: float = 1.5,
        width: float = 1e-6,
        read_volts: float = 0.2,
        most_pulses: int | None = None,
        values: bool = False,
        tolerance: float = 1.0,
        rounds: int = 20,
        model: Cell | None = None,
        seed: int = 0,
        perturb_by: str | None = None,
        noise: float = 0.0,
        watchdog: float = 10.0,
        timeout: float = 1.0,
        patience: float = 10.0,
        backend: str = "@py",
    ) -> None:
        for name, value in {
            "scale": scale,
            "step": step,
            "volts": volts,
            "width": width,
            "read_volts": read_volts,
        }.items():
            checks.number(f"device.{name}", value, low=0, above=True)
        checks.whole("device.most_pulses", most_pulses, none="no limit")
        if perturb_by is not None:
            checks.one_of("device.perturb_by", perturb_by, ("actuator", "pulses"))
        checks.number("device.tolerance", tolerance, low=0, above=True, why="steps of a pulse")
        checks.whole("device.rounds", rounds, high=1000)
        checks.number("device.watchdog", watchdog, low=0.1, high=300, why="seconds")
        if any(layer.kind != "dense" for layer in network.layers):
            raise ConfigError("a crossbar holds dense layers; choose network=mlp")
        if model is not None:
            low, high, step = model.low, model.high, model.step
        self._layers, self._cost = network.layers, cost
        self._tiles = [(math.prod(layer.inputs) + 1, math.prod(layer.outputs)) for layer in network.layers]
        self._scale, self._read_volts = scale, read_volts
        self._pulse = {"volts": f"{volts:.6f}", "width": f"{width:.9f}"}
        self._verify = {
            "tolerance": f"{tolerance * step * scale:.12f}",
            "step": f"{step * scale:.12f}",
            "rounds": rounds,
        }
        self._facts, self._watchdog = instrument, watchdog
        self._most = 2**31 - 1 if most_pulses is None else most_pulses
        self._settings: dict[str, str | int] = {
            "volts": f"{volts:.6f}",
            "read": f"{read_volts:.6f}",
            "width": f"{width:.9f}",
            "pulses": self._most,
            "watchdog": f"{watchdog * self._clock:.3f}",
        }
        self._described = {
            "siemens": f"{scale:.9g}",
            "read": f"{read_volts:.6f}",
            "step": f"{step:.9g}",
            "cost": int(isinstance(cost, CrossEntropy)),
            "layers": _layers(network),
        }
        self._spec = DeviceSpec(
            name=instrument.name,
            inputs=network.inputs,
            outputs=network.outputs,
            size=network.size,
            can=Can.COST
            | Can.SAMPLE_COST
            | Can.OUTPUT
            | Can.ACTIVITY
            | Can.PROBE
            | Can.READ
            | (Can(0) if values else Can.PULSE),
            low=low,
            high=high,
            noise=noise,
            step=0.0 if values else step,
            layers=network.layers,
        )
        self._target = np.clip(np.zeros(network.size), low, high)
        self._written = False  # before that, cells hold what an earlier run left there
        self._number, self._pulses, self._reads, self._missed = 0, 0, 0, 0
        self._restarts = 0  # of the controller, which have been told
        self._awake = self._closed = False
        self._heard = -math.inf
        self._trains = Can(0)
        self._blocks: Blocks | None = None
        self._left: tuple[bytes, bytes] | None = None  # wishes, and what is held of them, in the controller
        self._talk = Talk(instrument, instrument.address(resource, backend), timeout, patience)
        try:
            self._talk.open()
            self._meet(model, seed)
            self._trains = self._offers(network, step, perturb_by)
        except BaseException as error:
            if isinstance(error, ConfigError):  # who looks for the reason may be another client
                self._release()
            self._talk.close()
            raise
        self._leave = weakref.finalize(self, _leave, self._talk, instrument)

    @property
    def spec(self) -> DeviceSpec:
        """The network, and the range of a parameter."""
        return self._spec

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        """Pulse, write, read and multiply.

        Raises:
            LimitError: a command would leave the range; nothing was sent.
            DeviceError: the controller refuses, failed, or has lost its memory.
        """
        check(self._spec, commands, None if Can.PULSE in self._spec.can else self._target)
        readings = []
        for command in commands:
            match command:
                case Program():
                    self._write(command.theta)
                case Pulse():
                    self._give(command.counts)
                case Read():
                    readings.append(Reading(theta=self._persistently(self._conductances)))
                case Measure():
                    readings.append(self._persistently(partial(self._measured, command)))
        return tuple(readings)

    @property
    def trains(self) -> Can:
        """LEARN and TRAIN, where the controller can, and the network and its cost are such as it knows."""
        return self._trains

    def train(self, block: Learn | Train, wish: Array, held: Array) -> Left:
        """Let the controller train: it gets samples, and gives the pulses.

        Args:
            block: of Mono-Forward, or of multiplexed gradient descent.
            wish: parameters wished for, (p,).
            held: those that pulses make of them so far, (p,).

        Raises:
            LimitError: the controller cannot do this, or has no room for it; nothing was sent.
            DeviceError: it refuses or failed half-way; which pulses it gave is not known.
        """
        assert self._blocks is not None  # it offers no blocks otherwise
        classes, units = self._blocks.classes(block), self._blocks.units(block)
        size, found = self._spec.size, []
        self._describe(np.concatenate([wish.astype(np.float32), classes]), held.astype(np.float32))
        before, self._left = self._worn(), None
        asked = self._facts.costs if isinstance(block, Learn) else self._facts.trace
        for unit in units:
            self._number += 1
            whole = [self._facts.once.format(once=self._number), unit.text, asked]
            found.append(self._persistently(partial(self._trained, whole, unit)))
        wished = self._persistently(lambda: self._numbers([self._facts.wished], size + classes.size))
        holds = self._persistently(lambda: self._numbers([self._facts.holds], size))
        pulses = self._worn() - before
        self._left = wished.tobytes(), holds.tobytes()
        self._pulses += int(pulses.sum())
        results = np.concatenate(found)
        if isinstance(block, Train):
            reading = Reading(baseline=results[::2], modulation=results[1::2])
        else:
            reading = Reading(cost=results, theta=wished[:size], local=None if block.local is None else wished[size:])
        return Left(reading, wished[:size], holds, pulses)

    def rest(self) -> None:
        """All drivers at 0 V, all switches open.

        Raises:
            DeviceError: the controller cannot be reached; its own watchdog then switches off.
        """
        if self._closed or not self._awake:
            return
        try:
            self._talk.steadily(lambda: self._talk.tell([self._facts.disable]))
            self._awake = False
        except HwtrainError as error:
            error.add_note(f"The controller's own watchdog switches its outputs off after {self._watchdog:g} s.")
            raise

    def close(self) -> None:
        """Rest, and let go; may be called twice."""
        try:
            self.rest()
            if not self._closed:
                self._release()
        finally:
            self._closed = True
            self._leave.detach()
            self._talk.close()

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Pulses, products and messages, and what was survived."""
        own = {"pulses": self._pulses, "products": self._reads, "cells not brought near": self._missed}
        return {
            "traffic": {**dict(self._talk.traffic), **{name: count for name, count in own.items() if count}},
            "disturbances": {name: count for name, count in self._talk.disturbances.items() if count},
        }

    def pulses(self) -> tuple[int, int, int]:
        """As the controller counts them: pulses so far, those of the cell that had most, readings."""
        (answer,) = self._talk.steadily(lambda: self._talk.ask([self._facts.count], 1))
        total, most, reads = map(int, answer.split(","))
        return total, most, reads

    def _meet(self, model: Cell | None, seed: int) -> None:
        """See that the tiles are there; those in memory are made."""
        if model is not None:
            if not self._facts.cells:
                raise ConfigError(f"device.model: {self._facts.name} has an array of its own; set device.model=null")
            flat = ",".join(str(size) for tile in self._tiles for size in tile)
            made = [
                self._facts.tiles.format(tiles=flat),
                self._facts.cells.format(cell=_facts_of(model, seed, self._scale)),
            ]
            self._talk.steadily(lambda: self._talk.tell(made))
        (answer,) = self._talk.steadily(lambda: self._talk.ask([self._facts.size], 1))
        sizes = [int(part) for part in answer.split(",")]
        there = list(zip(sizes[::2], sizes[1::2], strict=True))
        if there != self._tiles:
            raise ConfigError(
                f"{self._facts.name} has tiles of {_sizes(there)}; this network needs {_sizes(self._tiles)}, a row for "
                "every input and one for the biases. Choose network.sizes to fit."
            )
        (answer,) = self._talk.steadily(lambda: self._talk.ask([self._facts.done], 1))
        self._number = int(answer)
        self._restarts = self._talk.disturbances["restarts"]

    def _release(self) -> None:
        if self._facts.release:
            with contextlib.suppress(HwtrainError):  # or the controller takes the silence for it
                self._talk.steadily(lambda: self._talk.tell([self._facts.release]))

    def _wake(self) -> None:
        """Limits first, then on; again after a silence in which the watchdog may have acted."""
        if self._closed:
            raise DeviceError(f"{self._facts.name}: the device is closed")
        if self._talk.disturbances["restarts"] > self._restarts:
            raise Restarted(f"{self._talk.address.resource}: the instrument has restarted while at rest")
        if not self._awake or time.monotonic() - self._heard > 0.5 * self._watchdog:
            self._talk.tell([unit.format(**self._settings) for unit in self._facts.limits])
            self._awake = True
            self._talk.tell([self._facts.enable])
        self._heard = time.monotonic()

    def _persistently(self, work: Callable[[], _Result]) -> _Result:
        """Do the work, again after each lost connection; a controller that has lost its memory is another matter.

        What it refuses comes with what to do about it.

        Raises:
            DeviceError: it has restarted; nobody knows what the last pulses became.
        """

        def awake() -> _Result:
            try:
                self._wake()
                return work()
            except Restarted:
                self._awake = False
                (answer,) = self._talk.steadily(lambda: self._talk.ask([self._facts.done], 1))
                known, self._restarts = self._restarts, self._talk.disturbances["restarts"]
                there = self._restarts == known and int(answer) in (self._number, self._number - 1)
                if self._number and not there:
                    raise DeviceError(
                        f"{self._talk.address.resource}: the controller has restarted. Its cells may hold what they "
                        "held: resume the run, which reads and programs them anew."
                    ) from None
                raise

        try:
            return self._talk.steadily(awake)
        except DeviceError as error:
            for code, note in _REFUSED.items():
                if f": {code}," in str(error):
                    error.add_note(note)
            raise

    def _give(self, counts: Array) -> None:
        """Pulses, each once."""
        left = counts.astype(np.int64)
        while left.any():
            part = np.clip(left, -MOST, MOST)
            left = left - part
            self._number += 1
            unit = self._facts.pulses.format(**self._pulse, block=definite(part.astype(">i2").tobytes()))
            self._change(unit, int(np.abs(part).sum()))
            self._pulses += int(np.abs(part).sum())

    def _write(self, theta: Array) -> None:
        """Values, which the controller brings about by reading and pulsing; those that did not move are left alone."""
        moved = (theta != self._target) | (not self._written)
        self._target, self._written = np.array(theta, np.float64), True
        if not moved.any():
            return
        self._number += 1
        wanted = np.where(moved, theta * self._scale, np.nan).astype(">f4")
        unit = self._facts.write.format(**self._pulse, **self._verify, block=definite(wanted.tobytes()))
        self._change(unit, 20 * int(moved.sum()))
        used, missed = (
            int(part) for part in self._persistently(lambda: self._talk.ask([self._facts.written], 1))[0].split(",")
        )
        self._pulses, self._missed = self._pulses + used, self._missed + missed

    def _change(self, unit: str, work: int) -> None:
        once = self._facts.once.format(once=self._number)
        self._persistently(lambda: self._talk.ask([once, unit], 0, allow=BYTE * (len(unit) + work)))

    def _offers(self, network: Network, step: float, perturb_by: str | None) -> Can:
        """What the controller says it can, of what this network and its cost allow."""
        facts, layers = self._facts, self._layers
        plain = all(layer.normalise == "none" and layer.activation in _ACTIVATIONS for layer in layers)
        if not facts.options or not plain:
            return Can(0)
        try:
            (answer,) = self._talk.steadily(lambda: self._talk.ask([facts.options], 1))
        except DeviceError as error:
            if ": -113," not in str(error):
                raise
            answer = ""  # an older controller, which does not know the question
        options, reach = answer.split(","), None
        if "PERTURB" in options and perturb_by != "pulses":
            (answer,) = self._talk.steadily(lambda: self._talk.ask([facts.reach], 1))
            reach = float(answer) / self._scale
        elif perturb_by == "actuator":
            raise ConfigError(
                f"device.perturb_by: {facts.name} has no actuator beside its pulses. Set device.perturb_by=pulses."
            )
        self._blocks = Blocks(
            name=self._spec.name,
            network=network,
            learn=facts.learn,
            train=facts.train,
            longest=facts.longest,
            **self._pulse,
            step=step,
            watchdog=self._watchdog,
            reach=reach,
        )
        can = Can(0)
        if "LEARN" in options and len(layers) > 1 and layers[-1].activation == "linear":
            can |= Can.LEARN
        if "TRAIN" in options and self._cost in (MeanSquaredError(), CrossEntropy()):
            can |= Can.TRAIN
        return can

    def _trained(self, units: Sequence[str], unit: Unit) -> Array:
        """What a command of training has measured; where its answer was lost, the next one tells that it stopped."""
        count, allow = unit.results, BYTE * (len(unit.text) + 4 * unit.results) + unit.seconds
        (data,) = self._talk.ask(units, 1, sense=lambda answers: len(answers[0]) <= 4 * count, block=True, allow=allow)
        if len(data) < 4 * count:
            noted = "; ".join(self._talk.errors()) or "it notes no error"
            raise DeviceError(
                f"{self._talk.address.resource} stopped a block of training; {len(data) // 4} of {count} results "
                f"stand. It notes: {noted}"
            )
        return _numbers_of(data)

    def _describe(self, wish: Array, held: Array) -> None:
        """Tell the controller of the network, and of where its parameters stand, unless it has left them there."""
        if self._left == (wish.tobytes(), held.tobytes()):
            return
        units = [
            self._facts.network.format(**self._described),
            self._facts.wish.format(block=definite(wish.astype(">f4").tobytes())),
            self._facts.held.format(block=definite(held.astype(">f4").tobytes())),
        ]
        self._persistently(lambda: self._talk.tell(units))

    def _worn(self) -> NDArray[np.int64]:
        """Pulses of every cell so far, (p,)."""
        worn = self._persistently(lambda: self._numbers([self._facts.counts], self._spec.size, kind=">u4"))
        return worn.astype(np.int64)

    def _numbers(self, units: Sequence[str], count: int, allow: float = 0.0, kind: str = ">f4") -> Array:
        """The block of numbers that the last of some units answers with, (count,)."""
        got = self._talk.ask(
            units, 1, sense=lambda answers: len(answers[0]) == 4 * count, block=True, allow=allow + BYTE * 4 * count
        )
        return _numbers_of(got[0], kind)

    def _conductances(self) -> Array:
        """Parameters as they are read, (p,)."""
        return self._floats(self._facts.readings, self._spec.size) / self._scale

    def _measured(self, command: Measure) -> Reading:
        return measured(self._layers, self._spec.size, self._cost, command, self._product)

    def _product(self, number: int, layer: Layer, shown: Array) -> Array:
        """Pre-activations of inputs (k, v, n) from one tile, (k, v, m); inputs above 1 are scaled down and back."""
        rows, columns = self._tiles[number]
        flat = shown.reshape(-1, rows - 1)
        bias = np.full((len(flat), 1), 1.0 if layer.bias == "add" else -1.0)
        whole = np.concatenate([flat, bias], axis=-1)
        divisor = np.maximum(np.abs(whole).max(axis=-1, keepdims=True), 1.0)
        volts = (whole / divisor * self._read_volts).astype(">f4")
        limit = np.float32(self._settings["read"])
        volts = np.clip(volts, -limit, limit)  # of the rounding to float32 alone: no input is above 1 here
        most = max((self._facts.longest - 200) // (4 * rows), 1)
        parts = []
        for first in range(0, len(volts), most):
            part = volts[first : first + most]
            unit = self._facts.multiply.format(tile=number, block=definite(part.astype(">f4").tobytes()))
            parts.append(self._floats(unit, len(part) * columns).reshape(-1, columns))
            self._reads += len(part)
        u: Array = np.concatenate(parts) * divisor / (self._read_volts * self._scale)
        return u.reshape(*shown.shape[:-1], columns)

    def _floats(self, unit: str, count: int) -> Array:
        """Numbers of a block.

        Raises:
            DeviceError: the controller could not measure.
        """
        numbers = self._numbers([unit], count, BYTE * len(unit)).astype(np.float64)
        if not np.isfinite(numbers).all():
            raise DeviceError(f"{self._talk.address.resource}: a current was out of the converter's range")
        return numbers


def measured(
    layers: Sequence[Layer],
    size: int,
    cost: Cost,
    command: Measure,
    product: Callable[[int, Layer, Array], Array],
) -> Reading:
    """A measurement of dense layers whose products an array makes, and whose neurons and probes are the host's.

    Args:
        layers: from input to output.
        size: number of parameters.
        cost: what is minimised.
        command: what is asked for.
        product: pre-activations of inputs (k or 1, v, n) of a layer, by its number, (k or 1, v, m).
    """
    x, probes = command.sample.x, command.probes
    shown = x.reshape(1, -1, x.shape[-1])
    k = 1 if probes is None else probes.count
    deltas = None if probes is None else probes.dense(size)
    activity, start = [], 0
    for number, layer in enumerate(layers):
        shown = normalised(shown, layer.normalise)
        u = product(number, layer, shown)
        if deltas is not None:
            tile = deltas[:, start : start + layer.size].reshape(len(deltas), -1, u.shape[-1])
            sign = 1 if layer.bias == "add" else -1
            u = u + np.matmul(shown, tile[:, :-1]) + sign * tile[:, -1:]
        start += layer.size
        shown = ACTIVATIONS[layer.activation](u)
        activity.append(np.broadcast_to(shown, (k, *shown.shape[1:])).reshape(k, *x.shape[:-1], -1))
    output, each = activity[-1], None
    if command.observe & (Can.COST | Can.SAMPLE_COST):
        assert command.sample.target is not None  # `limits.check` has seen to it
        each = cost(output, command.sample.target[None]).mean(axis=-2)
    return Reading(
        cost=None if each is None or Can.COST not in command.observe else each.mean(axis=-1),
        sample_cost=each if Can.SAMPLE_COST in command.observe else None,
        output=output if Can.OUTPUT in command.observe else None,
        activity=tuple(activity) if Can.ACTIVITY in command.observe else None,
    )


class EmulatedCrossbar(Crossbar):
    """The controller's firmware with cells in memory, built, started, and ended on every way out.

    Args:
        board: "host", or "stm32f405" in QEMU.
        arguments: more of them for the program that runs the board.
        settings: of `Crossbar`, except `resource`.
    """

    def __init__(self, board: str = "host", arguments: Sequence[str] = (), **settings: object) -> None:
        self.emulator = Emulator(board, "system", tuple(map(str, arguments)), program="crossbar")
        self._clock = 1.0 if board == "host" else 10.5  # QEMU counts 168 MHz where the board has 16 MHz
        try:
            super().__init__(resource_of(self.emulator.url), **settings)  # type: ignore[arg-type]
        except BaseException:
            self.emulator.stop()
            raise

    def close(self) -> None:
        """End the emulator; may be called twice."""
        try:
            super().close()
        finally:
            self.emulator.stop()


def crossbar(
    programming: str | None = "mixed_precision",
    tolerance: float = 1.0,
    rounds: int = 20,
    precision: str = "double",
    **settings: object,
) -> Device:
    """A crossbar that takes values by `programming`, a scheme of the host or "controller"; None takes pulses.

    Args:
        programming: "controller", or a scheme of `hwtrain.devices.programming`.
        tolerance: how near is near enough [steps of a pulse], of "controller" and "write_verify".
        rounds: readings at most for one write.
        precision: that the host computes in; gradient descent by the controller itself wants "single", as it does.
        settings: of `Crossbar`; with `board` in place of `resource`, of `EmulatedCrossbar`.
    """
    if programming is not None:
        checks.one_of("device.programming", programming, ("controller", *SCHEMES))
    kind: Callable[..., Device] = EmulatedCrossbar if "board" in settings else Crossbar
    device = kind(values=programming == "controller", tolerance=tolerance, rounds=rounds, **settings)
    assert isinstance(device, Crossbar)
    own = programming == "mixed_precision" and device.trains
    if precision != "double" and not own:
        device.close()
        raise ConfigError(
            f"device.precision={precision}: it goes with device.programming=mixed_precision, and a controller that "
            "trains this network by itself. Set device.precision=double."
        )
    if own:
        return _begun(device, partial(OwnTraining, precision=precision))
    return by_values(device, None if programming == "controller" else programming, tolerance, rounds)


def by_values(device: Device, scheme: str | None, tolerance: float, rounds: int) -> Device:
    """A device of pulses that takes values by a scheme of the host; None takes what it takes.

    What its cells hold, which may be what an earlier run left there, is read first.
    """
    if scheme is None:
        return device
    return _begun(device, partial(Programmed, scheme=scheme, tolerance=tolerance, rounds=rounds))


def _begun(device: _Inner, wrapper: Callable[[_Inner], Programmed]) -> Device:
    """The wrapped device, which knows what is held; closed if that fails."""
    try:
        programmed = wrapper(device)
        (reading,) = device.execute([Read()])
        assert reading.theta is not None
        programmed.restore(programmed.snapshot() | {"programmed.believed": reading.theta})
        device.rest()
        return programmed
    except BaseException:
        device.close()
        raise


def _numbers_of(block: str, kind: str = ">f4") -> Array:
    """Those of a block that came, one character each byte."""
    numbers = np.frombuffer(block.encode("latin-1"), kind)
    return numbers.astype(numbers.dtype.newbyteorder("="))


def _layers(network: Network) -> str:
    """Activation and bias of every layer, as the controller takes them; of one that it does not know, the first."""
    known = [(_ACTIVATIONS.get(layer.activation, 0), int(layer.bias == "subtract")) for layer in network.layers]
    return ",".join(f"{activation},{bias}" for activation, bias in known)


def resource_of(url: str) -> str:
    """What VISA calls a URL of pyserial: socket://host:port, or a device."""
    if url.startswith("socket://"):
        host, _, port = url.removeprefix("socket://").partition(":")
        return f"TCPIP::{host}::{port}::SOCKET"
    return f"ASRL{url}::INSTR"


def _leave(talk: Talk, facts: Controller) -> None:
    """What is left to do for a device that nobody closed."""
    with contextlib.suppress(HwtrainError):
        talk.tell([unit for unit in (facts.disable, facts.release) if unit])
    talk.close()


def _sizes(tiles: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{rows} x {columns}" for rows, columns in tiles)


def _facts_of(cell: Cell, seed: int, scale: float) -> str:
    """A process as the controller's model takes it.

    Raises:
        ConfigError: the model knows no such cell.
    """
    plain = None
    if isinstance(cell, Pulsed) and isinstance(cell.law, SoftBounds | ConstantStep):
        names = (
            "dw_min",
            "dw_min_dtod",
            "dw_min_std",
            "up_down",
            "up_down_dtod",
            "w_max",
            "w_max_dtod",
            "w_min",
            "w_min_dtod",
        )
        known = {name: getattr(cell, name) for name in names}
        plain = Pulsed(law=type(cell.law)(), energy=cell.energy, **known)
    if plain is None or plain != cell:
        raise ConfigError(
            "device.model: the controller's model has cells of constant steps or soft bounds, with spreads of steps "
            "and bounds and noise of pulses, and nothing else. Choose such a device/cell@device.model."
        )
    soft = int(isinstance(plain.law, SoftBounds))
    return ",".join([str(seed % 2**32), str(soft), *(f"{value:.17g}" for value in known.values()), f"{scale:.17g}"])
