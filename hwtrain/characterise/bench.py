"""A device handled with care: within its limits, within a budget, on record, at rest on every way out.

All that is asked of a device goes through `Bench.ask`, and is self-contained: it begins by writing the parameters that
it is about or, of a device that takes pulses, by reading them. What is on record already is answered from there, so a
plan that is a pure function of its readings goes on where it stopped by being run again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from hwtrain import checkpoint
from hwtrain.characterise.record import Exchange, Record, plain
from hwtrain.core import Array, Can, Command, Device, Measure, Program, Pulse, Read, Reading, Stateful
from hwtrain.errors import DeviceError, LimitError
from hwtrain.limits import check
from hwtrain.signals import StopRequest


class Interrupted(Exception):
    """The user asked to stop; all that was measured is on record."""


class Bench:
    """A device, a budget and a record.

    Args:
        device: is put to rest when the bench is left.
        folder: of the record.
        measurements: that may be taken in all.
        writes: times that parameters may be written with new values in all; of a device that takes pulses, those that
            any parameter may get.
        low: lowest parameter that may be tried; None is the device's own.
        high: highest.
        read_seconds: time of one measurement, where it is known [s]; None is measured.
        resume: go on with the record that is in the folder?

    Attributes:
        device: what the device says of itself.
        spec: the same, its range narrowed to what may be tried.
        most: measurements and writes of the budget.
        spent: measurements and writes so far.
        asked: exchanges so far.

    Raises:
        LimitError: `low` and `high` are not within the device's range.
        RecordError: see `Record`.
    """

    def __init__(
        self,
        device: Device,
        folder: Path,
        measurements: int,
        writes: int,
        low: float | None = None,
        high: float | None = None,
        read_seconds: float | None = None,
        *,
        resume: bool = False,
    ) -> None:
        self._what, self._folder, self._stop = device, folder, StopRequest()
        self.most, self._seconds = (measurements, writes), read_seconds
        spec = device.spec
        if Can.PULSE in spec.can and (low is not None or high is not None):
            raise LimitError(
                f"characterise.low and characterise.high cannot be kept: {spec.name!r} takes pulses, and nobody knows "
                "where they lead. Leave them null, or set characterise.pulses. Nothing was sent."
            )
        low, high = spec.low if low is None else low, spec.high if high is None else high
        if not spec.low <= low < high <= spec.high:
            raise LimitError(
                f"characterise.low and characterise.high: {low:g} to {high:g} is not within the range of "
                f"{spec.name!r}, {spec.low:g} to {spec.high:g}. Nothing was sent."
            )
        self.device, self.spec = spec, replace(spec, low=low, high=high)
        self.asked: list[Exchange] = []
        self._held: Array | None = None  # parameters on the device, where they are known
        kept = self._restored() if resume else None
        self._record = Record(folder, resume=resume, keep=kept)
        if Can.STATE in spec.can:  # it goes on as if it had never stopped
            self._record.session = 0
        lost = [exchange for exchange in self._record.done if not exchange.readings]
        self._waiting = [exchange for exchange in self._record.done if exchange.readings][::-1]
        self.spent = (sum(exchange.measurements for exchange in lost), sum(exchange.writes for exchange in lost))
        self._started = time.time() - max((exchange.ended for exchange in self._record.done), default=0.0)

    def __enter__(self) -> Bench:
        self._stop.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.__exit__(kind, error, traceback)
        self._record.close()
        self._what.rest()

    def ask(self, name: str, commands: Sequence[Command]) -> tuple[Reading, ...] | None:
        """Carry out a few commands and keep what was read.

        Args:
            name: what it is for.
            commands: the first is a `Program` or, of a device that takes pulses, gives a reading, as the last does.

        Returns:
            One reading for each measurement; None if the budget does not allow it.

        Raises:
            Interrupted: the user asked to stop, and nothing was sent.
            LimitError: a command leaves the limits; nothing was sent.
            DeviceError: the device failed, or gave a reading that is not finite.
        """
        assert isinstance(commands[0], Measure | Read if Can.PULSE in self.spec.can else Program)
        assert isinstance(commands[-1], Measure | Read)
        check(self.spec, commands, self._held)
        if self._waiting:
            return self._recall(name, commands)
        measurements, writes = self._cost(commands)
        spent = (self.spent[0] + measurements, self.spent[1] + writes)
        if spent[0] > self.most[0] or spent[1] > self.most[1]:
            return None
        if self._stop.requested:
            raise Interrupted
        asking = self._record.asking(name, measurements, writes, self._now())
        self.spent, self._held = spent, None
        readings = tuple(plain(reading) for reading in self._what.execute(commands))
        for reading in readings:
            for what, values in (("cost", reading.cost), ("parameter", reading.theta)):
                if values is not None and not np.isfinite(values).all():
                    raise DeviceError(
                        f"{self.spec.name!r} gave a {what} that is not a finite number in {name!r}. Is its readout "
                        "connected, and within its range?"
                    )
        self._hold(commands)
        now = self._now()
        self._record.came(readings, now)
        self.asked.append(replace(asking, ended=now, readings=readings))
        self._save()
        return readings

    def _recall(self, name: str, commands: Sequence[Command]) -> tuple[Reading, ...]:
        exchange = self._waiting.pop()
        if exchange.name != name:
            raise LimitError(
                f"{self._record.path} goes on with {exchange.name!r} where {name!r} would be asked: it is of another "
                "device, task or version. Start anew. Nothing was sent."
            )
        self.spent = (self.spent[0] + exchange.measurements, self.spent[1] + exchange.writes)
        self.asked.append(exchange)
        if self._waiting or Can.STATE in self.spec.can:  # else it is another session now, and holds who knows what
            self._hold(commands)
        else:
            self._held = None
        return exchange.readings

    def _cost(self, commands: Sequence[Command]) -> tuple[int, int]:
        """Measurements and writes that some commands take."""
        held, measurements, writes = self._held, 0, 0
        for command in commands:
            if isinstance(command, Program):
                writes += held is None or not np.array_equal(held, command.theta)
                held = command.theta
            elif isinstance(command, Pulse):
                writes += int(np.abs(command.counts).max())
            elif isinstance(command, Measure):
                measurements += 1 if command.probes is None else command.probes.count
            else:
                measurements += isinstance(command, Read)
        return measurements, writes

    def _hold(self, commands: Sequence[Command]) -> None:
        programs = [command.theta for command in commands if isinstance(command, Program)]
        self._held = programs[-1] if programs else None

    def _now(self) -> float:
        if self._seconds is not None:
            return self.spent[0] * self._seconds
        return time.time() - self._started

    def _save(self) -> None:
        """Keep the state of a device that has one; what was read after it is asked again, with the same answers."""
        if isinstance(self._what, Stateful) and Can.STATE in self.spec.can:
            checkpoint.save(self._folder, {**self._what.snapshot(), "record.bytes": np.asarray(self._record.size)})

    def _restored(self) -> int | None:
        if not (isinstance(self._what, Stateful) and Can.STATE in self.spec.can):
            return None
        if not checkpoint.exists(self._folder):
            return 0
        kept = checkpoint.load(self._folder)
        size = int(kept.pop("record.bytes"))
        self._what.restore(kept)
        return size
