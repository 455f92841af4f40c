"""A run is a start document, lines, events and an outcome; here they become a folder that outlives a killed process.

run.json        the start document, completed by the outcome
config.yaml     the resolved configuration, from which the run can be repeated
metrics.jsonl   one line per record: no clock in it, so a resumed run's equals an undisturbed run's bit for bit
events.jsonl    what happened when: started, resumed, checkpoints, disturbances, warnings
checkpoint.npz  all that is needed to go on
report.html     pictures
"""

from __future__ import annotations

import datetime
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hwtrain import checkpoint, checks
from hwtrain.core import Array
from hwtrain.errors import HwtrainError, RecordError
from hwtrain.report import write as write_report

SCHEMA = 1


class Recorder(Protocol):
    """What keeps a run."""

    every: int
    checkpoint_seconds: float

    def open(self, start: Mapping[str, Any]) -> Mapping[str, Array] | None:
        """Begin with the start document; the arrays of the last checkpoint if an earlier run goes on."""

    def line(self, values: Mapping[str, Any]) -> None:
        """Keep one record."""

    def event(self, name: str, **details: Any) -> None:
        """Keep what happened, with the time of day."""

    def save(self, arrays: Mapping[str, Array]) -> None:
        """Keep a checkpoint."""

    def close(self, outcome: Mapping[str, Any]) -> None:
        """End with the outcome."""


class RunFolder:
    """Keeps a run in a folder.

    Args:
        folder: where; made if missing.
        every: steps between lines.
        checkpoint_seconds: least time between checkpoints [s].
        text: the resolved configuration as YAML.
        resume: go on with the run in the folder.
        report: draw report.html at the end.
    """

    def __init__(
        self,
        folder: str | Path,
        every: int = 1000,
        checkpoint_seconds: float = 10.0,
        text: str = "",
        resume: bool = False,
        report: bool = True,
    ) -> None:
        checks.whole("recorder.every", every, why="steps")
        checks.number("recorder.checkpoint_seconds", checkpoint_seconds, low=0)
        self.folder, self.every, self.checkpoint_seconds = Path(folder), every, checkpoint_seconds
        self._text, self._resume, self._report = text, resume, report
        self._start: dict[str, Any] = {}
        self._metrics: Any = None
        self._events: Any = None

    def open(self, start: Mapping[str, Any]) -> Mapping[str, Array] | None:
        """Make the folder, or take up the run that is in it: its lines are cut back to those of the last checkpoint."""
        path = self.folder / "run.json"
        try:
            if not self._resume:
                self.folder.mkdir(parents=True, exist_ok=True)
                if path.exists():
                    raise RecordError(
                        f"{self.folder} already holds a run. Resume it (resume={self.folder}) or choose another folder."
                    )
                (self.folder / "config.yaml").write_text(self._text)
                arrays = None
                self._start = {"schema": SCHEMA, "outcome": None, "started": _now(), "finished": None, **start}
            elif self._has_only_begun():
                arrays = None
                self._start = {"schema": SCHEMA, "outcome": None, "started": _now(), "finished": None, **start}
            else:
                arrays = checkpoint.load(self.folder)
                os.truncate(self.folder / "metrics.jsonl", int(arrays["record.bytes"]))
                self._start = {**read_document(path), **start, "outcome": None, "finished": None}
            self._metrics = open(self.folder / "metrics.jsonl", "a", buffering=1)
            self._events = open(self.folder / "events.jsonl", "a", buffering=1)
            if self._resume:
                self._events.write("\n")  # ends a line that a killed process left unfinished
            self._write(self._start)
        except HwtrainError:
            raise
        except OSError as error:
            raise RecordError(
                f"cannot write to the run folder {self.folder}: {error.strerror or error}. Nothing was trained."
            ) from error
        self.event("resumed" if self._resume else "started")
        return arrays

    def line(self, values: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl, at once on disk."""
        self._append(self._metrics, {name: to_json(value) for name, value in values.items()})

    def event(self, name: str, **details: Any) -> None:
        """Append one line to events.jsonl."""
        self._append(
            self._events, {"time": _now(), "event": name, **{key: to_json(value) for key, value in details.items()}}
        )

    def save(self, arrays: Mapping[str, Array]) -> None:
        """Write a checkpoint that knows how far metrics.jsonl has come."""
        self._metrics.flush()
        checkpoint.save(self.folder, {**arrays, "record.bytes": np.asarray(self._metrics.tell())})

    def close(self, outcome: Mapping[str, Any]) -> None:
        """Complete run.json and draw the report."""
        self._write({**self._start, **{name: to_json(value) for name, value in outcome.items()}, "finished": _now()})
        self.event("finished", outcome=outcome.get("outcome"))
        try:
            if self._report:
                write_report(self.folder)
        except (HwtrainError, OSError) as error:  # the run is safe; a picture can be drawn again
            self.event("no report", reason=str(error))
        finally:
            self._metrics.close()
            self._events.close()

    def _has_only_begun(self) -> bool:
        """Was the process killed before the first checkpoint, so that the run goes on from its start?"""
        metrics = self.folder / "metrics.jsonl"
        return not checkpoint.exists(self.folder) and not (metrics.exists() and metrics.stat().st_size)

    def _append(self, file: Any, document: Mapping[str, Any]) -> None:
        try:
            file.write(json.dumps(document, allow_nan=False) + "\n")
        except OSError as error:
            raise RecordError(
                f"cannot write to {file.name}: {error.strerror}. What was written before is safe."
            ) from error

    def _write(self, document: Mapping[str, Any]) -> None:
        temporary = self.folder / "run.json.part"
        temporary.write_text(json.dumps({key: to_json(value) for key, value in document.items()}, indent=1) + "\n")
        os.replace(temporary, self.folder / "run.json")


class InMemory:
    """Keeps a run as Python lists: for tests, notebooks and benchmarks.

    Args:
        every: steps between lines.
    """

    checkpoint_seconds = math.inf

    def __init__(self, every: int = 1000) -> None:
        self.every = every
        self.start: Mapping[str, Any] = {}
        self.outcome: Mapping[str, Any] = {}
        self.lines: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.checkpoint: Mapping[str, Array] | None = None

    def open(self, start: Mapping[str, Any]) -> Mapping[str, Array] | None:
        """Go on from `checkpoint`, if there is one."""
        self.start = start
        return self.checkpoint

    def line(self, values: Mapping[str, Any]) -> None:
        """Keep one line."""
        self.lines.append(dict(values))

    def event(self, name: str, **details: Any) -> None:
        """Keep one event."""
        self.events.append({"event": name, **details})

    def save(self, arrays: Mapping[str, Array]) -> None:
        """Keep the newest checkpoint."""
        self.checkpoint = {name: np.array(array) for name, array in arrays.items()}

    def close(self, outcome: Mapping[str, Any]) -> None:
        """Keep the outcome."""
        self.outcome = outcome


def to_json(value: Any) -> Any:
    """JSON types: arrays become lists, numbers that are not finite become null."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def read_document(path: Path) -> dict[str, Any]:
    """Read a run's start document.

    Raises:
        RecordError: it is missing or damaged.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise RecordError(f"{path.parent} is not a run folder: it holds no {path.name}") from error
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} cannot be read: {error}") from error
    return document


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
