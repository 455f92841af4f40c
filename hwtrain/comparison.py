"""Several runs side by side: what tells them apart, what came of it, and how it depends on a setting."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from hwtrain import metrics, pages, runs, svg
from hwtrain.errors import ConfigError
from hwtrain.runs import Curve, Floats, Pool, Run, Summary
from hwtrain.svg import Axis, Group, Mark, escape


@dataclass(frozen=True, slots=True)
class Level:
    """Effort until an accuracy is reached.

    Args:
        accuracy: the level [share].
        unit: "measurements" or "steps".
    """

    accuracy: float
    unit: str

    def efforts(self, members: Iterable[Run]) -> Floats:
        """One number per replica of all runs that were evaluated, (n,); infinity where it was not reached."""
        rows = [row for run in members if (row := runs.effort_to(run, self.accuracy, self.unit)) is not None]
        return np.concatenate(rows) if rows else np.empty(0)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several runs, and what they are compared by.

    Args:
        runs: two or more.
        names: of the runs, as short as they can be.
        keys: settings that differ.
        metric: the one that counts.
        against: a setting to draw it against, or None.
        level: None if no level of accuracy is given or agreed on.
    """

    runs: tuple[Run, ...]
    names: tuple[str, ...]
    keys: tuple[str, ...]
    metric: str
    against: str | None
    level: Level | None

    @property
    def pools(self) -> list[Pool]:
        """The runs by the value of the setting they are compared by."""
        return [] if self.against is None else runs.pools(self.runs, self.against)

    @property
    def mixed(self) -> list[str]:
        """Settings, seeds aside, that differ between runs of the same pool."""
        inside = (key for pool in self.pools for key in runs.differing(pool.runs))
        return [key for key in dict.fromkeys(inside) if key.rpartition(".")[2] != "seed"]


def compare(
    found: Sequence[Run], metric: str | None = None, against: str | None = None, level: float | None = None
) -> Comparison:
    """Settle what several runs are compared by.

    Args:
        found: two or more runs.
        metric: the one that counts; None is held-out accuracy, or what comes nearest to it.
        against: a dotted setting; None is the one with numbers in which they differ, if there is just one.
        level: accuracy to be reached [share]; None is the target that all have.

    Raises:
        ConfigError: a metric, setting or level that no run can have.
    """
    if level is not None and not 0 < level <= 1:
        raise ConfigError(
            f"--level is a share of right answers, above 0 and at most 1, not {level:g}. Say --level 0.95"
        )
    key = runs.numeric_key(found) if against is None else runs.resolve_key(found, against)
    targets = {run.target for run in found}
    accuracy = level if level is not None else targets.pop() if len(targets) == 1 else None
    evaluated = any("test_accuracy" in run.curves for run in found)
    return Comparison(
        tuple(found),
        tuple(_short([run.folder for run in found])),
        tuple(runs.differing(found)),
        metrics.metric_of(found, metric),
        key,
        Level(accuracy, runs.effort(found)) if accuracy is not None and evaluated else None,
    )


def comparison_page(comparison: Comparison, folder: Path) -> str:
    """A comparison as a pages.page, to be kept in a folder, from which its links start."""
    charts = comparison_charts(comparison)
    header, rows = _runs_table(comparison)
    links = [_link(run, name, folder) for run, name in zip(comparison.runs, comparison.names, strict=True)]
    sections = [pages.gallery([*charts.values()])]
    if comparison.against is not None:
        sections.append(
            pages.section(f"Against {comparison.against}", pages.table(*reversed(_pools_table(comparison))))
        )
    sections.append(pages.section("Runs", pages.table([row[1:] for row in rows], header[1:], links, header[0])))
    data = {
        "schema": pages.SCHEMA,
        "metric": comparison.metric,
        "against": comparison.against,
        "level": None if comparison.level is None else asdict(comparison.level),
        "groups": [_pool_data(comparison, pool) for pool in comparison.pools],
        "runs": [_run_data(comparison, run) for run in comparison.runs],
    }
    return pages.page(f"Comparison of {len(comparison.runs)} runs", _mixed_note(comparison), sections, data)


def comparison_charts(comparison: Comparison) -> dict[str, str]:
    """The pictures of a comparison, by name, the main one first: against, level, curves."""
    charts = {}
    if comparison.against is not None:
        title = f"{pages.capital(metrics.name_of(comparison.metric))} against {comparison.against}"
        values = [pool.finals(comparison.metric) * metrics.factor(comparison.metric) for pool in comparison.pools]
        charts["against"] = _pools_chart(comparison, values, title, metrics.axis_of(comparison.metric, comparison.runs))
        if comparison.level is not None:
            level = comparison.level
            title = f"{pages.capital(level.unit)} to {100 * level.accuracy:g}% accuracy against {comparison.against}"
            efforts = [level.efforts(pool.runs) for pool in comparison.pools]
            notes = [f"{np.isfinite(row).sum()}/{row.size}" for row in efforts]
            axis = Axis(level.unit, log=metrics.wants_log(efforts), floor=0)
            charts["level"] = _pools_chart(comparison, efforts, title, axis, notes, "; above: how many reached it")
    if (curves := _overlay(comparison)) is not None:
        charts["curves"] = curves
    return charts


def comparison_text(comparison: Comparison) -> str:
    """A comparison as tables for a terminal."""
    header, rows = _runs_table(comparison)
    parts = [pages.aligned([header, *rows])]
    if comparison.against is not None:
        header, rows = _pools_table(comparison)
        parts.append(pages.aligned([header, *rows]))
    if note := _mixed_note(comparison):
        parts.append(note)
    return "\n\n".join(parts)


def _runs_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows: name, settings that differ, outcome, effort, final metrics."""
    finals = [run.metrics for run in comparison.runs]
    known = [
        name for name in metrics.ordered({name: 0 for final in finals for name in final}) if name != "gradient_angle"
    ]
    metrics = [comparison.metric, *(name for name in known if name != comparison.metric)]
    level = comparison.level
    header = ["run", *pages.brief(comparison.keys), "outcome", "steps", "measurements", *map(metrics.name_of, metrics)]
    header += [] if level is None else [f"{level.unit} to {100 * level.accuracy:g}%"]
    rows = []
    for name, run, final in zip(comparison.names, comparison.runs, finals, strict=True):
        row = [name, *(pages.setting(run.settings.get(key, runs.ABSENT)) for key in comparison.keys)]
        row += [run.outcome or "unfinished", pages.whole(run.steps), pages.whole(run.measurements)]
        row += [
            metrics.stated(metric, final[metric], brief=True) if metric in final else "\u2013" for metric in metrics
        ]
        row += [] if level is None else [_stated_effort(level.efforts([run]))]
        rows.append(row)
    return header, rows


def _pools_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows: value, how many, final metric, effort."""
    level, metric = comparison.level, comparison.metric
    header = [comparison.against or "", "runs", "replicas", metrics.name_of(metric), "quartiles"]
    header += [] if level is None else [f"{level.unit} to {100 * level.accuracy:g}%"]
    rows = []
    for pool in comparison.pools:
        values = pool.finals(metric)
        summary = Summary.of(values)
        quartiles = f"{metrics.shown(metric, summary.q25)}\u2013{metrics.shown(metric, summary.q75)}"
        row = [
            pages.setting(pool.value),
            str(len(pool.runs)),
            str(values.size),
            metrics.stated(metric, values, brief=True),
            quartiles,
        ]
        rows.append(row + ([] if level is None else [_stated_effort(level.efforts(pool.runs))]))
    return header, rows


def _stated_effort(efforts: Floats) -> str:
    """The median, and how many got there."""
    if not efforts.size:
        return "\u2013"
    reached = int(np.isfinite(efforts).sum())
    median = Summary.of(efforts).median
    text = pages.whole(round(median)) if math.isfinite(median) else "never" if not reached else "not by half"
    return text if efforts.size == 1 else f"{text} ({reached} of {efforts.size})"


def _pools_chart(
    comparison: Comparison, values: Sequence[Floats], title: str, y: Axis, notes: Sequence[str] = (), legend: str = ""
) -> str:
    """Values against the pages.setting, all replicas of a pool together."""
    places, axis = _places(comparison)
    groups = []
    for place, row, note in zip(places, values, notes or [""] * len(values), strict=True):
        summary = Summary.of(row)
        groups.append(Group(place, summary.median, summary.q25, summary.q75, row, note))
    note = f"point: median; bar: quartiles; faint: each replica{legend}"
    mixed = f"; pooled over {', '.join(pages.brief(comparison.mixed))}" if comparison.mixed else ""
    return svg.value_chart(groups, title, axis, y, note + mixed)


def _places(comparison: Comparison) -> tuple[list[float], Axis]:
    """Where the values of the setting stand: at their size, or side by side where they have none or are far apart."""
    label, values = comparison.against or "", [pool.value for pool in comparison.pools]
    if all(map(runs.is_number, values)):
        numbers = sorted(float(value) for value in values)
        positive = [number for number in numbers if number > 0]
        wide = bool(positive) and positive[-1] >= 20 * positive[0]
        if numbers[0] > 0 and wide:
            return numbers, Axis(label, log=True)
        if not wide:
            return numbers, Axis(label)
    return [float(i) for i in range(len(values))], Axis(label, names=tuple(map(pages.setting, values)))


def _overlay(comparison: Comparison) -> str | None:
    """The learning curves of all runs, pooled by the value of the setting if there is one; None without curves."""
    metric, unit = comparison.metric, runs.effort(comparison.runs)
    groups: list[tuple[str, Sequence[Run]]] = [
        (name, [run]) for name, run in zip(comparison.names, comparison.runs, strict=True)
    ]
    colors = [""] * len(groups)
    if comparison.against is not None:
        key = pages.brief([comparison.against])[0]
        groups = [(f"{key} {pages.setting(pool.value)}", pool.runs) for pool in comparison.pools]
        ordered = all(runs.is_number(pool.value) for pool in comparison.pools) and len(groups) > 2
        colors = list(svg.sequential(len(groups))) if ordered else [""] * len(groups)
    elif labels := _labels(comparison):
        groups = [(label, members) for label, (_, members) in zip(labels, groups, strict=True)]
    series = []
    for (name, members), color in zip(groups, colors, strict=True):
        if (curve := _merged([run.curves[metric] for run in members if metric in run.curves])) is not None:
            x = curve.measurements if unit == "measurements" else curve.steps
            series.append(metrics.line(curve, x, metric, name, color))
    if not series:
        return None
    note = f"line: median over replicas; band: quartiles, or the range of fewer than {metrics.QUARTILES_FROM}"
    level = comparison.level
    marks = [Mark(100 * level.accuracy, "level")] if level is not None and metric == "test_accuracy" else []
    several = any(len(item.x) and item.low is not None for item in series)
    title = f"{pages.capital(metrics.name_of(metric))} while learning"
    return svg.line_chart(
        series, title, Axis(unit), metrics.axis_of(metric, comparison.runs), note if several else "", marks
    )


def _labels(comparison: Comparison) -> list[str]:
    """Runs named by their settings, if few settings differ and they tell all runs apart."""
    if not 1 <= len(comparison.keys) <= 2:
        return []
    names = pages.brief(comparison.keys)
    labels = [
        ", ".join(
            f"{name} {pages.setting(run.settings.get(key, runs.ABSENT))}"
            for name, key in zip(names, comparison.keys, strict=True)
        )
        for run in comparison.runs
    ]
    return labels if len(set(labels)) == len(labels) else []


def _merged(curves: Sequence[Curve]) -> Curve | None:
    """Curves side by side, at the steps that all of them have; the longest alone if they share none."""
    if not curves:
        return None
    shared = curves[0].steps
    for curve in curves[1:]:
        shared = np.intersect1d(shared, curve.steps)
    if not shared.size:
        return max(curves, key=lambda curve: curve.steps.size)
    where = [np.searchsorted(curve.steps, shared, side="right") - 1 for curve in curves]
    values = np.concatenate([curve.values[rows] for curve, rows in zip(curves, where, strict=True)], axis=1)
    return Curve(shared, curves[0].measurements[where[0]], values)


def _mixed_note(comparison: Comparison) -> str:
    if not comparison.mixed:
        return ""
    return f"Runs with the same {comparison.against} are pooled, although they differ in {', '.join(comparison.mixed)}."


def _short(folders: Sequence[Path]) -> list[str]:
    """Names of folders without what all have in common."""
    resolved = [folder.resolve() for folder in folders]
    try:
        common = os.path.commonpath([folder.parent for folder in resolved])
    except ValueError:
        return [str(folder) for folder in folders]
    return [folder.relative_to(common).as_posix() for folder in resolved]


def _link(run: Run, name: str, folder: Path) -> str:
    """A run's name, leading to its report if there is one."""
    page = run.folder / "report.html"
    if not page.exists():
        return escape(name)
    try:
        target = Path(os.path.relpath(page.resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive
        return escape(name)
    return f'<a href="{escape(quote(target))}">{escape(name)}</a>'


def _run_data(comparison: Comparison, run: Run) -> dict[str, Any]:
    return {
        "folder": str(run.folder),
        "outcome": run.outcome,
        "steps": run.steps,
        "measurements": run.measurements,
        "settings": {key: run.settings.get(key) for key in comparison.keys},
        "metrics": {name: metrics.summary_data(values) for name, values in run.metrics.items()},
    }


def _pool_data(comparison: Comparison, pool: Pool) -> dict[str, Any]:
    level = comparison.level
    effort = {} if level is None else {"effort": metrics.summary_data(level.efforts(pool.runs))}
    value = None if pool.value is runs.ABSENT else pool.value
    names = [name for name, run in zip(comparison.names, comparison.runs, strict=True) if run in pool.runs]
    return {
        "value": value,
        "runs": names,
        **metrics.summary_data(pool.finals(comparison.metric)),
        **effort,
    }
