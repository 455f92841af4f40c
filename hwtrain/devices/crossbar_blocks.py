"""Blocks of training as commands of a crossbar controller: what goes into one message, and what is refused first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hwtrain.core import Array, Learn, Train, inside
from hwtrain.devices.board_network import code_of
from hwtrain.devices.messages import Baseline
from hwtrain.errors import CapabilityError, LimitError
from hwtrain.sim.networks import Network

TICKS = 256  # of training in one command, if a window is not longer
WINDOW = 65535  # ticks of one, of a presentation and of a perturbation
HEADER = 400  # bytes of a message beside its block, or fewer
PASS = 1e-6  # for each parameter that a sample passes [s]
PULSE = 20e-6  # beside its width [s]
LINE = 1e-4  # for each byte of samples on a line of 115 200 baud [s]
PULSES = 10  # of a cell in one update, hardly ever more


class Unit(NamedTuple):
    """A command, how many numbers it measures, and how long it may take [s]."""

    text: str
    results: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Blocks:
    """What a block becomes.

    Args:
        name: of the device, for messages.
        network: on the tiles.
        learn: the command of Mono-Forward, see `hwtrain.devices.crossbar.Controller`.
        train: that of multiplexed gradient descent.
        longest: bytes of a message.
        volts: of a pulse, as it is written [V].
        width: as well [s].
        step: what a pulse changes a parameter by.
        watchdog: silence of the host after which the controller switches off [s].
        reach: largest perturbation of a parameter by an actuator; None perturbs by pulses.
    """

    name: str
    network: Network
    learn: str
    train: str
    longest: int
    volts: str
    width: str
    step: float
    watchdog: float
    reach: float | None

    def classes(self, block: Learn | Train) -> NDArray[np.float32]:
        """Class matrices as the controller takes them; of gradient descent, which has none, zeros.

        Raises:
            LimitError: they are not those of this network.
        """
        wanted = sum(math.prod(layer.outputs) for layer in self.network.layers[:-2]) * self.network.outputs
        if isinstance(block, Train):
            return np.zeros(wanted, np.float32)
        given = np.zeros(0) if block.local is None else block.local
        if given.size != wanted:
            raise LimitError(f"class matrices of {given.size} numbers; this network's have {wanted}. Nothing was sent.")
        return _single("a class matrix", given)

    def units(self, block: Learn | Train) -> list[Unit]:
        """The commands.

        Raises:
            CapabilityError: the controller does not learn by this rule.
            LimitError: it cannot perturb like this, or samples do not fit into a message.
        """
        return self._lesson(block) if isinstance(block, Learn) else self._ticks(block)

    def _lesson(self, block: Learn) -> list[Unit]:
        if block.rule != "mono_forward":
            raise CapabilityError(
                f"{self.name!r} learns by mono_forward by itself, not by {block.rule}. Set algo=mono_forward, or "
                "algo.on_device=false. Nothing was sent."
            )
        rows = self._rows(block)
        most = self._room("samples of an update", 4 * block.batch * rows.shape[1])
        each = self._seconds(3 * block.batch, PULSES)  # of an update
        most = min(most, self._unheard(each + LINE * 4 * block.batch * rows.shape[1]))
        rate, readout = _single("a learning rate", np.array([block.rate, block.readout_rate]))
        low, high = inside(block.low, block.high)
        units: list[Unit] = []
        for at in range(0, block.updates, most):
            part = rows[at * block.batch : (at + most) * block.batch]
            updates = len(part) // block.batch
            text = self.learn.format(
                volts=self.volts,
                width=self.width,
                rate=f"{rate:.9g}",
                readout=f"{readout:.9g}",
                low=f"{low:.9g}",
                high=f"{high:.9g}",
                batch=block.batch,
                block=definite(part.astype(">f4").tobytes()),
            )
            units.append(Unit(text, updates, updates * each))
        return units

    def _ticks(self, block: Train) -> list[Unit]:
        ticks, window, tau_x = block.probes, block.tau_theta, block.tau_x
        code, rows = code_of(ticks, self.network.size), self._rows(block)
        if code is None:
            raise LimitError(
                f"{self.name!r} cannot make {type(ticks.perturbation).__name__} perturbations by itself. Use "
                "algo/perturbation=rademacher or walsh, or algo.on_device=false. Nothing was sent."
            )
        for name, held in {"tau_theta": window, "tau_x": tau_x, "tau_p": code.hold}.items():
            if held > WINDOW:
                raise LimitError(
                    f"algo.{name}={held}: {self.name!r} counts to {WINDOW}. Choose a smaller one, or "
                    "algo.on_device=false. Nothing was sent."
                )
        pulses = self._pulses(code.amplitude)
        rows = rows.reshape(-1, block.batch, rows.shape[1])
        most, start = self._room("samples of a presentation", 4 * rows[0].size), block.presentations.start
        most = min(most, self._unheard(LINE * 4 * rows[0].size))
        (rate,) = _single("a learning rate", np.array([block.rate]))
        low, high = inside(block.low, block.high)
        each = self._seconds(2 * window * block.batch, 2 * window * pulses + PULSES)  # of a window
        longest = min(TICKS, window * self._unheard(each))
        units: list[Unit] = []
        at, end = ticks.first, ticks.first + ticks.count
        while at < end:
            length = window
            while length + window <= longest and at + length < end:
                if (at + length + window - 1) // tau_x - at // tau_x + 1 > most:
                    break
                length += window
            shown = rows[at // tau_x - start : (at + length - 1) // tau_x + 1 - start]
            if len(shown) > most:
                self._room("presentations of a window", shown.nbytes)
            text = self.train.format(
                volts=self.volts,
                width=self.width,
                pulses=pulses,
                seed=code.seed,
                kind=code.kind,
                hold=code.hold,
                amplitude=f"{code.amplitude:.9g}",
                first=at,
                ticks=length,
                tau_x=tau_x,
                tau_theta=window,
                batch=block.batch,
                baseline=int(Baseline[block.baseline.upper()]),
                rate=f"{rate:.9g}",
                low=f"{low:.9g}",
                high=f"{high:.9g}",
                block=definite(shown.astype(">f4").tobytes()),
            )
            units.append(Unit(text, 2 * length, length // window * each))
            at += length
        return units

    def _pulses(self, amplitude: float) -> int:
        """Of a perturbation, there and as many back; 0 is by the actuator."""
        if self.reach is not None:
            if amplitude > self.reach:
                raise LimitError(
                    f"algo.perturbation: {self.name!r} moves parameters by at most {self.reach:g} without pulses, not "
                    f"by {amplitude:g}. Choose a smaller algo.perturbation.amplitude. Nothing was sent."
                )
            return 0
        pulses = round(amplitude / self.step)
        if not 1 <= pulses <= 1000 or abs(pulses * self.step - amplitude) > 1e-5 * amplitude:
            near = min(max(pulses, 1), 1000) * self.step
            raise LimitError(
                f"algo.perturbation: {self.name!r} perturbs by 1 to 1000 whole pulses of {self.step:g}, not by "
                f"{amplitude:g}. Set algo.perturbation.amplitude={near:g}. Nothing was sent."
            )
        return pulses

    def _rows(self, block: Learn | Train) -> NDArray[np.float32]:
        """Samples, inputs then target."""
        assert block.sample.target is not None  # `limits.check` has seen to it
        inputs, outputs = self.network.inputs, self.network.outputs
        x, target = block.sample.x.reshape(-1, inputs), block.sample.target.reshape(-1, outputs)
        return _single("a sample", np.concatenate([x, target], axis=-1))

    def _room(self, what: str, size: int) -> int:
        """How many parts of so many bytes go into one message; refused where not even one does."""
        room = self.longest - HEADER
        if size > room:
            raise LimitError(
                f"{what} of {size} bytes; a message to {self.name!r} has room for {room}. Choose a smaller task.batch, "
                "or algo.on_device=false. Nothing was sent."
            )
        return room // size

    def _seconds(self, passes: int, pulses: int) -> float:
        """What passes of a sample and pulses of every cell may take."""
        return self.network.size * (passes * PASS + pulses * (PULSE + float(self.width)))

    def _unheard(self, seconds: float) -> int:
        """How often so much is done, at least once, well before the watchdog takes it for silence of the host."""
        return max(int(0.25 * self.watchdog / seconds), 1)


def definite(data: bytes) -> str:
    """A definite block as text, one character each byte."""
    length = str(len(data))
    return f"#{len(length)}{length}{data.decode('latin-1')}"


def _single(what: str, values: Array) -> NDArray[np.float32]:
    """As float32; refused where that is not finite."""
    with np.errstate(over="ignore"):
        single: NDArray[np.float32] = values.astype(np.float32)
    if not np.isfinite(single).all():
        raise LimitError(f"{what} is not finite in single precision. Nothing was sent.")
    return single
