"""What was asked and what came of it, one JSON object a line, each on disk before anything else is asked.

An exchange is two lines: what it will take of the budget, before it is asked; what was read, after. So a killed process
loses no reading, and what it had asked for counts as spent, though nobody knows whether the device got round to it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwtrain.core import Array, Reading
from hwtrain.errors import RecordError

NAME = "readings.jsonl"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One exchange with the device.

    Args:
        name: what it was for.
        measurements: that it took.
        writes: of parameters.
        session: of the process that asked, counted from 0.
        began: on the clock [s].
        ended: on the clock [s].
        readings: what came; none, if nobody knows.
    """

    name: str
    measurements: int
    writes: int
    session: int
    began: float
    ended: float = 0.0
    readings: tuple[Reading, ...] = ()


class Record:
    """The file of a run.

    Args:
        folder: of the run.
        resume: go on with the file that is there?
        keep: bytes of it that still hold, where the device was set back to an earlier moment; None is all.

    Raises:
        RecordError: it cannot be written, is damaged, or is there already.
    """

    def __init__(self, folder: Path, *, resume: bool = False, keep: int | None = None) -> None:
        self.path = folder / NAME
        self.done: list[Exchange] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if resume and self.path.exists():
                if keep is not None:
                    os.truncate(self.path, keep)
                self._read()
            elif self.path.exists():
                raise RecordError(f"{folder} already holds readings. Go on with them: resume={folder}")
            self._file = open(self.path, "a")
            if resume and self._file.tell():
                self._file.write("\n")  # ends a line that a killed process left unfinished
        except RecordError:
            raise
        except OSError as error:
            raise RecordError(f"{self.path} cannot be written: {error.strerror}. Nothing was measured.") from error
        self.session = 1 + max((exchange.session for exchange in self.done), default=-1)

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def asking(self, name: str, measurements: int, writes: int, began: float) -> Exchange:
        """Note what is about to be asked."""
        exchange = Exchange(name, measurements, writes, self.session, began)
        self._append(
            {"ask": name, "measurements": measurements, "writes": writes, "session": self.session, "at": began}
        )
        return exchange

    def came(self, readings: Sequence[Reading], ended: float) -> None:
        """Note what was read."""
        self._append({"at": ended, "readings": [_plain(reading) for reading in readings]})

    def close(self) -> None:
        """Let go of the file; may be called twice."""
        self._file.close()

    def _append(self, line: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            raise RecordError(
                f"{self.path} cannot be written: {error.strerror}. What was measured before is safe."
            ) from error

    def _read(self) -> None:
        asked: dict[str, Any] | None = None
        lines = self.path.read_text().splitlines()
        for number, text in enumerate(lines, 1):
            try:
                line = json.loads(text or "null")
            except ValueError as error:
                if number < len(lines) and lines[number].strip():
                    raise RecordError(f"{self.path} is damaged in line {number}: {error}") from error
                line = None
            if line is None:
                continue
            if "ask" in line:
                if asked is not None:
                    self.done.append(_exchange(asked))
                asked = line
            elif asked is not None:
                readings = tuple(_reading(reading) for reading in line["readings"])
                self.done.append(_exchange(asked, line["at"], readings))
                asked = None
        if asked is not None:
            self.done.append(_exchange(asked))


def _exchange(asked: dict[str, Any], ended: float = 0.0, readings: tuple[Reading, ...] = ()) -> Exchange:
    return Exchange(
        asked["ask"], asked["measurements"], asked["writes"], asked["session"], asked["at"], ended, readings
    )


def plain(reading: Reading) -> Reading:
    """A reading as the record gives it back: in double precision, and only what it keeps."""
    activity = None if reading.activity is None else tuple(np.asarray(part, float) for part in reading.activity)
    parts = (reading.cost, reading.output, reading.theta)
    cost, output, theta = (None if part is None else np.asarray(part, float) for part in parts)
    return Reading(cost=cost, output=output, activity=activity, theta=theta)


def _plain(reading: Reading) -> dict[str, Any]:
    parts = {"cost": reading.cost, "output": reading.output, "theta": reading.theta}
    line: dict[str, Any] = {name: value.tolist() for name, value in parts.items() if value is not None}
    if reading.activity is not None:
        line["activity"] = [part.tolist() for part in reading.activity]
    return line


def _reading(line: dict[str, Any]) -> Reading:
    def array(name: str) -> Array | None:
        return np.asarray(line[name], float) if name in line else None

    activity = tuple(np.asarray(part, float) for part in line["activity"]) if "activity" in line else None
    return Reading(cost=array("cost"), output=array("output"), activity=activity, theta=array("theta"))
