"""What tells runs apart: the settings in which they differ, and the runs that share the value of one."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwtrain.errors import ConfigError, nearest
from hwtrain.report.folder import Floats, Run, is_number

BESIDE_THE_POINT = re.compile(r"(recorder|resume|hydra)(\.|$)")  # settings that change no result


class _Absent:
    """Stands for a setting that a run does not have."""

    def __repr__(self) -> str:
        return "\u2013"


ABSENT = _Absent()


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
        key for key in differing(runs) if not is_seed(key) and all(is_number(run.settings.get(key)) for run in runs)
    ]
    return numeric[0] if len(numeric) == 1 else None


def is_seed(key: str) -> bool:
    """Does the setting only choose among equals: `seed`, `device.seed`, `task.data_seed`?"""
    return key.endswith("seed")


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
