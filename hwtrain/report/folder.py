"""A run folder as numbers: what was measured, counted and set, whether the run ended well, badly or not at all."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from hwtrain.errors import RecordError

Floats = NDArray[np.float64]

COUNTERS = ("step", "perturbed", "baseline")  # in every line; all else is a metric


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A metric over a run.

    Args:
        steps: (n,).
        measurements: perturbed and baseline ones so far, (n,).
        values: one column per replica, (n, r); NaN where not finite.
    """

    steps: Floats
    measurements: Floats
    values: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A run as its folder tells it, finished or not.

    Args:
        folder: where it is kept.
        document: run.json.
        curves: every metric by name.
        last: the counters of the last line.
        events: what happened when.
        settings: the resolved configuration by dotted key.
        text: the resolved configuration as YAML.
    """

    folder: Path
    document: Mapping[str, Any]
    curves: Mapping[str, Curve]
    last: Mapping[str, float]
    events: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    text: str

    @property
    def outcome(self) -> str | None:
        """How it ended; None while it goes on, or if it was killed."""
        outcome = self.document.get("outcome")
        return None if outcome is None else str(outcome)

    @property
    def steps(self) -> int:
        """Steps done."""
        return int(self.document["steps"] if self._tells("steps") else self.last.get("step", 0))

    @property
    def seconds(self) -> float | None:
        """Time spent [s]; None if nobody wrote it down."""
        return float(self.document["seconds"]) if self._tells("seconds") else None

    @property
    def counts(self) -> dict[str, int]:
        """What was counted, by name."""
        known = self.document.get("counts") if self.outcome is not None else None
        counts = known if isinstance(known, dict) else {k: v for k, v in self.last.items() if k != "step"}
        return {str(name): int(count) for name, count in counts.items() if is_number(count)}

    @property
    def measurements(self) -> int:
        """All measurements of training."""
        return sum(self.counts.get(name, 0) for name in ("perturbed", "baseline", "gradients"))

    @property
    def metrics(self) -> dict[str, Floats]:
        """The final value of every metric, one per replica, (r,)."""
        finals = {name: curve.values[-1] for name, curve in self.curves.items()}
        told = self.document.get("metrics") if self.outcome is not None else None
        if isinstance(told, dict):
            finals |= {str(name): row for name, value in told.items() if (row := _row(value)) is not None}
        return finals

    @property
    def replicas(self) -> int:
        """Virtual chips trained at once; 1 for a bench."""
        shape = self.device.get("replicas")
        if isinstance(shape, list) and all(map(is_number, shape)):
            return int(math.prod(shape))
        return max((curve.values.shape[1] for curve in self.curves.values()), default=1)

    @property
    def device(self) -> Mapping[str, Any]:
        """The device's spec, as JSON."""
        device = self.document.get("device")
        return device if isinstance(device, dict) else {}

    @property
    def target(self) -> float | None:
        """The held-out accuracy that the run was to reach."""
        target = self.settings.get("budget.target_accuracy")
        return float(target) if is_number(target) else None

    def _tells(self, name: str) -> bool:
        """Does run.json hold a number, and of this end of the run rather than of one before it was resumed?"""
        return self.outcome is not None and is_number(self.document.get(name))


def find(folders: Iterable[Path]) -> list[Path]:
    """The run folders among the given ones and inside them, each once, in natural order inside each.

    Raises:
        RecordError: a folder is missing, or neither is a run folder nor contains one.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise RecordError(
                f"{folder} is not a folder. Name a run folder, as runs/DATE/TIME_task_algo, or one that contains some."
            )
        inside = [folder] if (folder / "run.json").exists() else [path.parent for path in folder.rglob("run.json")]
        if not inside:
            raise RecordError(
                f"{folder} is not a run folder and contains none: no run.json in it. "
                "Name the folder that `python -m hwtrain` printed, or one above it."
            )
        for path in sorted(inside, key=_natural):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def read(folder: Path) -> Run:
    """Read a run folder; a half line at the end, as a killed run leaves it, is left out.

    Raises:
        RecordError: it is no run folder, or a file of it cannot be read.
    """
    document = _document(folder / "run.json")
    counted, rows = [], []
    for number, line in enumerate(_lines(folder / "metrics.jsonl"), 1):
        if not is_number(line.get("step")):
            raise RecordError(
                f"{folder / 'metrics.jsonl'} cannot be read: line {number} has no step. Remove that line."
            )
        counted.append([value if is_number(value := line.get(name)) else 0 for name in COUNTERS])
        rows.append({name: row for name, value in line.items() if (row := _row(value)) is not None})
    counters: Floats = np.array(counted, dtype=np.float64).reshape(-1, len(COUNTERS)).T
    names = dict.fromkeys(name for row in rows for name in row if name not in COUNTERS)
    config = document.get("config")
    return Run(
        folder,
        document,
        {name: _curve(name, rows, counters) for name in names},
        dict(zip(COUNTERS, counters[:, -1].tolist(), strict=True)) if rows else {},
        _events(folder / "events.jsonl"),
        flatten(config) if isinstance(config, dict) else {},
        _text(folder / "config.yaml", missing_ok=True),
    )


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key; a list is one value."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


def is_number(value: Any) -> TypeGuard[float]:
    """Is this JSON value a finite number? True and false are none."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, float) and math.isfinite(value)
    )


def _row(value: Any) -> Floats | None:
    """A metric as one number per replica; None for what is not numbers."""
    if value is not None and not is_number(value) and not isinstance(value, list):
        return None
    try:
        row = np.asarray(value, dtype=float).ravel()  # None becomes NaN
    except (TypeError, ValueError, OverflowError):
        return None
    return row if row.size else None


def _curve(name: str, rows: Sequence[Mapping[str, Floats]], counters: Floats) -> Curve:
    """Gather a metric from the lines that have it; a line with one number counts for every replica."""
    where = [index for index, row in enumerate(rows) if name in row]
    width = max((rows[index][name].size for index in where), default=1)
    values = np.full((len(where), width), np.nan)
    for line, index in enumerate(where):
        row = rows[index][name]
        values[line, : width if row.size == 1 else row.size] = row
    return Curve(counters[0, where], counters[1, where] + counters[2, where], values)


def _document(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise RecordError(f"{path.parent} is not a run folder: no run.json in it. Name the folder of a run.")
    try:
        document = json.loads(_text(path))
    except ValueError as error:
        raise RecordError(
            f"{path} cannot be read: {error}. Mend or remove it; the run's other files are whole."
        ) from error
    if not isinstance(document, dict):
        raise RecordError(f"{path} cannot be read: it holds no JSON object. Mend or remove it.")
    return document


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, one a line; a last line that is none was cut off and is left out."""
    lines = _text(path, missing_ok=True).split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, 1):
        value = _parsed(line)
        if isinstance(value, dict):
            yield value
        elif number < len(lines):
            raise RecordError(f"{path} cannot be read: line {number} is not a JSON object. Remove that line.")


def _events(path: Path) -> list[dict[str, Any]]:
    """All events; a line that was cut off and then written on, as a kill and a resumption leave it, stands as text."""
    lines = [line for line in _text(path, missing_ok=True).split("\n") if line.strip()]
    events = [
        value if isinstance(value := _parsed(line), dict) else {"event": "unreadable", "line": line} for line in lines
    ]
    return events[:-1] if events and events[-1].get("event") == "unreadable" else events


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _text(path: Path, *, missing_ok: bool = False) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        if missing_ok:
            return ""
        raise RecordError(f"{path} is missing. Name the folder of a run.") from None
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from error


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Numbers in names by their size: 2 before 10."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
