"""A metric over replicas: how it is summed up, called, written and drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hwtrain.errors import ConfigError, nearest
from hwtrain.report.folder import Floats, Run
from hwtrain.svg import Axis, Series

_NAMES = {
    "test_accuracy": "held-out accuracy",
    "train_accuracy": "accuracy on seen samples",
    "test_cost": "held-out cost",
    "train_cost": "cost on seen samples",
    "cost": "measured cost",
    "gradient_angle": "angle between estimated and exact gradient",
}
_PREFERRED = ("test_accuracy", "test_cost", "train_accuracy", "train_cost", "cost")
QUARTILES_FROM = 8  # replicas; with fewer the band is their whole range


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


def metric_of(found: Sequence[Run], wanted: str | None) -> str:
    """The metric that counts.

    Raises:
        ConfigError: no run has the one wanted.
    """
    known = dict.fromkeys(name for run in found for name in run.metrics)
    if wanted is None:
        return next((name for name in _PREFERRED if name in known), next(iter(known), _PREFERRED[0]))
    if wanted not in known:
        raise ConfigError(f"no run has a metric {wanted!r}. {nearest(wanted, known)}")
    return wanted


def name_of(metric: str) -> str:
    """The metric in words."""
    return _NAMES.get(metric, metric.replace("_", " "))


def ordered(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Known metrics first, in their order."""
    names = [name for name in _NAMES if name in metrics] + [name for name in metrics if name not in _NAMES]
    return {name: metrics[name] for name in names}


def factor(metric: str) -> float:
    """Shares are shown as percentages."""
    return 100.0 if metric.endswith("accuracy") else 1.0


def shown(metric: str, value: float) -> str:
    """One value; shares as percentages, angles in degrees, a dash for none."""
    if math.isnan(value):
        return "\u2013"
    if metric.endswith("accuracy"):
        return f"{100 * value:.1f}%"
    return f"{value:.1f}°" if metric == "gradient_angle" else f"{value:.4g}"


def stated(metric: str, values: Floats, brief: bool = False) -> str:
    """The median, with the range of several."""
    summary = Summary.of(values)
    text = shown(metric, summary.median)
    if summary.count > 1 and summary.missing < summary.count:
        text += f" [{span(metric, summary.low, summary.high)}]"
        text += "" if brief else f" over {summary.count} replicas"
    if summary.missing and summary.count > 1:
        text += f" ({summary.missing} of {summary.count} not finite)"
    return text


def span(metric: str, low: float, high: float) -> str:
    """A range of values, its unit said once."""
    return f"{shown(metric, low).rstrip('%°')}\u2013{shown(metric, high)}"


def axis_of(metric: str, parts: Sequence[Floats]) -> Axis:
    """A vertical axis for these values of the metric."""
    if metric.endswith("accuracy"):
        return Axis(f"{name_of(metric)} [%]", floor=0, ceiling=100)
    if metric == "gradient_angle":
        return Axis("angle [degrees]", floor=0, ceiling=180)
    return Axis(name_of(metric), log=wants_log(parts))


def wants_log(parts: Sequence[Floats]) -> bool:
    """Do positive values spread over more than a power of ten?"""
    values = np.concatenate([np.empty(0), *(part.ravel() for part in parts)])
    values = values[np.isfinite(values)]
    return bool(values.size and values.min() > 0 and values.max() > 10 * values.min())


def line(x: Floats, values: Floats, metric: str, name: str, color: str = "") -> Series:
    """The median over replicas of values (n, r), and their spread."""
    shares = (0.25, 0.5, 0.75) if values.shape[1] >= QUARTILES_FROM else (0, 0.5, 1)
    low, middle, high = quantiles(values, shares) * factor(metric)
    if values.shape[1] == 1:
        return Series(x, middle, name, color=color)
    return Series(x, middle, name, low, high, color)


def spread_note(replicas: int, metric: str | None = None) -> str:
    """What lines and the band, of this metric alone if one is named, stand for; nothing where there is no band."""
    if replicas == 1:
        return ""
    band = "quartiles" if replicas >= QUARTILES_FROM else "range"
    of = f" of {name_of(metric)}" if metric is not None else ""
    return f"{'lines' if of else 'line'}: median of {replicas} replicas; band: {band}{of}"


def summary_data(values: Floats) -> dict[str, Any]:
    """For the data of a page: the values and their summary."""
    return {**asdict(Summary.of(values)), "replicas": values.tolist()}
