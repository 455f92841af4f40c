"""Run folders as numbers: what was measured, how it is summed up over replicas, and what tells runs apart."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from hwtrain import checkpoint
from hwtrain.errors import ConfigError, RecordError, nearest

Floats = NDArray[np.float64]

COUNTERS = ("step", "perturbed", "baseline")  # in every line; all else is a metric
BESIDE_THE_POINT = re.compile(r"(recorder|resume|hydra)(\.|$)")  # settings that change no result


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


@dataclass(frozen=True, slots=True)
class Summary:
    """Several values in a few numbers, NaN where there is none; values that are NaN are left out and counted.

    Args:
        median: half are below.
        q25: a quarter is below.
        q75: a quarter is above.
        low: the lowest.
        high: the highest.
        count: how many values went in.
        missing: how many were NaN.
    """

    median: float
    q25: float
    q75: float
    low: float
    high: float
    count: int
    missing: int

    @classmethod
    def of(cls, values: Floats) -> Summary:
        """Sum up values of any shape; infinity is a value like any other."""
        low, q25, median, q75, high = quantiles(values.ravel(), (0, 0.25, 0.5, 0.75, 1)).tolist()
        return cls(median, q25, q75, low, high, values.size, int(np.isnan(values).sum()))


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

    def theta(self) -> Floats | None:
        """Parameters of the last checkpoint, (..., p); None if there is none.

        Raises:
            RecordError: the checkpoint is damaged.
        """
        if not any((self.folder / name).exists() for name in (checkpoint.NAME, checkpoint.PREVIOUS)):
            return None
        try:
            theta = checkpoint.load(self.folder).get("state.theta")
            return None if theta is None else np.asarray(theta, dtype=float)
        except (zlib.error, TypeError, ValueError) as error:
            raise RecordError(f"the checkpoint in {self.folder} is damaged ({error})") from error

    def _tells(self, name: str) -> bool:
        """Does run.json hold a number, and of this end of the run rather than of one before it was resumed?"""
        return self.outcome is not None and is_number(self.document.get(name))


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Runs that share the value of a setting.

    Args:
        value: of the setting; `ABSENT` for runs without it.
        runs: in the order given.
    """

    value: Any
    runs: tuple[Run, ...]

    def finals(self, metric: str) -> Floats:
        """The final metric of every replica of every run, (n,); NaN for a run that has none."""
        return np.concatenate([run.metrics.get(metric, np.full(run.replicas, np.nan)) for run in self.runs])


class _Absent:
    """Stands for a setting that a run does not have."""

    def __repr__(self) -> str:
        return "\u2013"


ABSENT = _Absent()


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


def quantiles(values: Floats, shares: Sequence[float]) -> Floats:
    """Quantiles over the last axis, first axis one per share; NaN is left out, infinity is not.

    Between two values they are interpolated as numpy does, but infinity does not spread into what is below it.
    """
    ordered = np.sort(values, axis=-1)  # NaN comes last
    count = np.isfinite(ordered).sum(axis=-1) + np.isinf(ordered).sum(axis=-1)
    result = np.full((len(shares), *count.shape), np.nan)
    if not ordered.shape[-1]:
        return result
    for index, share in enumerate(shares):
        place = share * np.maximum(count - 1, 0)
        below, above = (
            np.take_along_axis(ordered, f(place).astype(int)[..., None], axis=-1)[..., 0] for f in (np.floor, np.ceil)
        )
        with np.errstate(invalid="ignore"):
            between = below + (place % 1) * (above - below)
        result[index] = np.where(count == 0, np.nan, np.where(below == above, below, between))
    return result


def effort(runs: Sequence[Run]) -> str:
    """What learning is counted in: "measurements" if every run counts them, else "steps"."""
    curves = [curve for run in runs for curve in run.curves.values() if curve.steps[-1] > 0]
    return "measurements" if curves and all(curve.measurements[-1] > 0 for curve in curves) else "steps"


def effort_to(run: Run, level: float, unit: str) -> Floats | None:
    """Effort until each replica's held-out accuracy first reached a level; infinity if it never did.

    Args:
        run: the run.
        level: accuracy [share].
        unit: "measurements" or "steps".

    Returns:
        (r,), or None for a run that was never evaluated.
    """
    curve = run.curves.get("test_accuracy")
    if curve is None:
        return None
    spent = curve.measurements if unit == "measurements" else curve.steps
    reached = curve.values >= level
    return np.where(reached.any(axis=0), spent[reached.argmax(axis=0)], np.inf)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key; a list is one value."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


def differing(runs: Sequence[Run]) -> list[str]:
    """Keys of the settings that differ between runs, without those that change no result.

    A key that repeats another everywhere, as `device.network.sizes` does `network.sizes`, is left out.
    """
    keys = dict.fromkeys(key for run in runs for key in run.settings if not BESIDE_THE_POINT.match(key))
    columns = {key: [identity(run.settings.get(key, ABSENT)) for run in runs] for key in keys}
    varied = {key: column for key, column in columns.items() if len(set(column)) > 1}
    return [
        key
        for key, column in varied.items()
        if not any(key.endswith(f".{other}") and column == varied[other] for other in varied)
    ]


def resolve_key(runs: Sequence[Run], key: str) -> str:
    """The full key of a setting; `algo` stands for the class that it names.

    Raises:
        ConfigError: no run has it; the message names the nearest.
    """
    known = {name for run in runs for name in run.settings}
    for name in (key, f"{key}._target_"):
        if name in known:
            return name
    raise ConfigError(f"no run has a setting {key!r}. {nearest(key, known)}")


def numeric_key(runs: Sequence[Run]) -> str | None:
    """The one setting with numbers in which the runs differ, seeds aside; None if there is none or more than one."""
    numeric = [
        key
        for key in differing(runs)
        if key.rpartition(".")[2] != "seed" and all(is_number(run.settings.get(key)) for run in runs)
    ]
    return numeric[0] if len(numeric) == 1 else None


def pools(runs: Sequence[Run], key: str) -> list[Pool]:
    """Runs gathered by the value of a setting: numbers first, rising; then the others in the order given."""
    gathered: dict[Any, list[Run]] = {}
    for run in runs:
        gathered.setdefault(identity(run.settings.get(key, ABSENT)), []).append(run)
    all_pools = [Pool(members[0].settings.get(key, ABSENT), tuple(members)) for members in gathered.values()]
    numbers = sorted((pool for pool in all_pools if is_number(pool.value)), key=lambda pool: float(pool.value))
    return numbers + [pool for pool in all_pools if not is_number(pool.value)]


def identity(value: Any) -> tuple[str, Any]:
    """What makes two settings the same: 1 and 1.0 are, 1 and true are not."""
    return ("number", float(value)) if is_number(value) else (type(value).__name__, json.dumps(value, default=repr))


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
