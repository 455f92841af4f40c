"""A run is a start document, lines, events and an outcome; here they become a folder that outlives a killed process.

run.json        the start document, completed by the outcome
config.yaml     the resolved configuration, from which the run can be repeated
metrics.jsonl   one line per record: no clock in it, so a resumed run's equals an undisturbed run's bit for bit
events.jsonl    what happened when: started, resumed, checkpoints, disturbances, warnings
checkpoint.npz  all that is needed to go on
report.html     pictures
"""

from __future__ import annotations

import contextlib
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
from hwtrain.errors import ConfigError, HwtrainError, RecordError
from hwtrain.report import write as write_report

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

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
        if not isinstance(folder, str | Path):
            raise ConfigError(f"recorder.folder must be a path, not {folder!r}")
        checks.whole("recorder.every", every, why="steps")
        checks.number("recorder.checkpoint_seconds", checkpoint_seconds, low=0)
        self.folder, self.every, self.checkpoint_seconds = Path(folder), every, checkpoint_seconds
        self._text, self._resume, self._report = text, resume, report
        self._start: dict[str, Any] = {}
        self._metrics: Any = None
        self._events: Any = None

    def open(self, start: Mapping[str, Any]) -> Mapping[str, Array] | None:
        """Make the folder, or take up the run that is in it: its lines are cut back to those of the last checkpoint."""
        path, settings = self.folder / "run.json", self.folder / "config.yaml"
        arrays, before = None, {}
        try:
            if not self._resume:
                self.folder.mkdir(parents=True, exist_ok=True)
                if path.exists():
                    raise RecordError(
                        f"{self.folder} already holds a run. Resume it (resume={self.folder}) or choose another folder."
                    )
                if settings.exists() and settings.read_bytes() not in (b"", self._text.encode()):
                    raise RecordError(f"{settings} is there and of something else. Choose another folder.")
            self._events = open(self.folder / "events.jsonl", "a", buffering=1)
            _claim(self._events, self.folder)
            if not self._resume:
                settings.write_bytes(self._text.encode())
            elif not self._has_only_begun():
                arrays, before = checkpoint.load(self.folder), read_document(path)
                if changed := _contents(before).items() - _contents(start).items():
                    raise RecordError(
                        f"{self.folder} was trained on other data: {', '.join(sorted(dict(changed)))} has changed or "
                        "gone since. Put it back, or start a new run."
                    )
                self._cut_back(int(arrays["record.bytes"]))
            self._start = {"schema": SCHEMA, "outcome": None, "started": _now(), "finished": None, **before, **start}
            self._start |= {"outcome": None, "finished": None}
            self._metrics = open(self.folder / "metrics.jsonl", "a", buffering=1)
            if self._resume:  # without the line that a killed process left unfinished
                events = self.folder / "events.jsonl"
                os.truncate(events, events.read_bytes().rfind(b"\n") + 1)
            self._write(self._start)
            self.event("resumed" if self._resume else "started")
        except OSError as error:
            self._let_go()
            if isinstance(error, HwtrainError):
                raise
            raise RecordError(
                f"cannot write to the run folder {self.folder}: {error.strerror or error}. Nothing was trained."
            ) from error
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
        try:
            self._metrics.flush()
            os.fsync(self._metrics.fileno())  # no line is lost that the checkpoint counts
        except OSError as error:
            raise RecordError(f"cannot write to {self._metrics.name}: {error.strerror}. {self._safe()}") from error
        checkpoint.save(self.folder, {**arrays, "record.bytes": np.asarray(self._metrics.tell())})

    def close(self, outcome: Mapping[str, Any]) -> None:
        """Complete run.json and draw the report."""
        done = {name: to_json(value) for name, value in outcome.items()}
        try:
            self._write({**self._start, **done, "finished": _now()})
            self.event("finished", outcome=outcome.get("outcome"))
            try:
                if self._report:
                    write_report(self.folder)
            except (HwtrainError, OSError) as error:  # the run is safe; a picture can be drawn again
                self.event("no report", reason=str(error))
        finally:
            self._let_go()

    def _let_go(self) -> None:
        for file in filter(None, (self._metrics, self._events)):
            with contextlib.suppress(OSError):  # of a line that could not be written, which was said before
                file.close()

    def _cut_back(self, size: int) -> None:
        """Cut the lines back to those of the checkpoint."""
        path = self.folder / "metrics.jsonl"
        have = path.stat().st_size if path.exists() else 0
        if have < size:
            raise RecordError(
                f"{path} holds {have} bytes and had {size} at the last checkpoint: lines are lost. Put the whole file "
                "back, or start the run anew."
            )
        os.truncate(path, size)

    def _has_only_begun(self) -> bool:
        """Was the process killed before the first checkpoint, so that the run goes on from its start?"""
        metrics = self.folder / "metrics.jsonl"
        return not checkpoint.exists(self.folder) and not (metrics.exists() and metrics.stat().st_size)

    def _append(self, file: Any, document: Mapping[str, Any]) -> None:
        try:
            file.write(json.dumps(document, allow_nan=False) + "\n")
        except OSError as error:
            raise RecordError(f"cannot write to {file.name}: {error.strerror}. {self._safe()}") from error

    def _write(self, document: Mapping[str, Any]) -> None:
        path, temporary = self.folder / "run.json", self.folder / "run.json.part"
        try:
            text = json.dumps({key: to_json(value) for key, value in document.items()}, indent=1)
            temporary.write_text(text + "\n")
            os.replace(temporary, path)
        except OSError as error:
            raise RecordError(f"cannot write {path}: {error.strerror or error}. {self._safe()}") from error

    def _safe(self) -> str:
        return f"What was written before is safe: mend this, then python -m hwtrain resume={self.folder}"


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
    if not isinstance(document, dict):
        raise RecordError(f"{path} is damaged: it holds a {type(document).__name__}, not the account of a run")
    return document


def _contents(document: Mapping[str, Any]) -> dict[str, str]:
    """The data files of a run and the sha256 of each, by name."""
    files = dict(document.get("task") or {}).get("files") or []
    return {file["name"]: file["sha256"] for file in files}


def _claim(file: Any, folder: Path) -> None:
    """Refuse a folder in which another process trains; its claim ends with it, however it ends."""
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RecordError(
                f"{folder} is in use: its run is still going on in another process. Stop that one (Ctrl-C) first."
            ) from error
        except OSError:  # a file system without locks
            return


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
