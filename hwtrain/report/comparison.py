"""Several runs side by side: what tells them apart, what came of it, and how it depends on a setting."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwtrain import svg
from hwtrain.errors import ConfigError
from hwtrain.report import metrics, pages, settings
from hwtrain.report.folder import Curve, Floats, Run, is_number
from hwtrain.report.metrics import Summary
from hwtrain.report.pages import Table
from hwtrain.report.settings import ABSENT, Pool
from hwtrain.svg import Axis, Group, Mark, Series, escape


@dataclass(frozen=True, slots=True)
class Level:
    """Effort until a held-out accuracy is reached.

    Args:
        accuracy: the level [share].
        unit: "measurements" or "steps".
    """

    accuracy: float
    unit: str

    def __str__(self) -> str:
        return f"{self.unit} to {100 * self.accuracy:g}%"

    def efforts(self, members: Iterable[Run]) -> Floats:
        """One number per replica of all runs that were evaluated, (n,); infinity where it was not reached."""
        rows = [row for run in members if (row := effort_to(run, self.accuracy, self.unit)) is not None]
        return np.concatenate(rows) if rows else np.empty(0)


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Several runs, and what they are compared by.

    Args:
        runs: two or more.
        names: of the runs, as short as they can be.
        keys: settings that differ.
        metric: the one that counts.
        unit: what learning is counted in: "measurements" or "steps".
        key: the setting to draw the metric against; None is none.
        pools: the runs by the value of that setting.
        level: accuracy to be reached; None if none is given or agreed on.
    """

    runs: tuple[Run, ...]
    names: tuple[str, ...]
    keys: tuple[str, ...]
    metric: str
    unit: str
    key: str | None
    pools: tuple[Pool, ...]
    level: Level | None

    @property
    def label(self) -> str:
        """The setting, as it is given."""
        return pages.full(self.key or "")

    @property
    def mixed(self) -> list[str]:
        """Settings, seeds aside, that differ between runs of the same pool."""
        inside = (key for pool in self.pools for key in settings.differing(pool.runs))
        return [key for key in dict.fromkeys(inside) if not settings.is_seed(key)]


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
    key = settings.numeric_key(found) if against is None else settings.resolve_key(found, against)
    targets = {run.target for run in found}
    accuracy = level if level is not None else targets.pop() if len(targets) == 1 else None
    evaluated = any("test_accuracy" in run.curves for run in found)
    unit = effort(found)
    return Comparison(
        tuple(found),
        tuple(_short([run.folder for run in found])),
        tuple(settings.differing(found)),
        metrics.metric_of(found, metric),
        unit,
        key,
        () if key is None else tuple(settings.pools(found, key)),
        Level(accuracy, unit) if accuracy is not None and evaluated else None,
    )


def comparison_page(comparison: Comparison, folder: Path) -> str:
    """A comparison as a page, to be kept in a folder, from which its links start."""
    links = [_link(run, name, folder) for run, name in zip(comparison.runs, comparison.names, strict=True)]
    sections = [
        pages.gallery([*comparison_charts(comparison).values()]),
        pages.section(f"Against {comparison.label}", _pools_table(comparison).html()),
        pages.section("Runs", _runs_table(comparison).html(links)),
    ]
    data = {
        "schema": pages.SCHEMA,
        "metric": comparison.metric,
        "against": comparison.key,
        "level": None if comparison.level is None else asdict(comparison.level),
        "groups": [_pool_data(comparison, pool) for pool in comparison.pools],
        "runs": [_run_data(comparison, run) for run in comparison.runs],
    }
    return pages.page(f"Comparison of {len(comparison.runs)} runs", _mixed_note(comparison), sections, data)


def comparison_charts(comparison: Comparison) -> dict[str, str]:
    """The pictures of a comparison, by name, the main one first: against, level, curves."""
    charts = {}
    if comparison.key is not None:
        charts["against"] = _metric_chart(comparison)
        if comparison.level is not None:
            charts["level"] = _level_chart(comparison, comparison.level)
    if series := _curves(comparison):
        charts["curves"] = _curves_chart(comparison, series)
    return charts


def comparison_text(comparison: Comparison) -> str:
    """A comparison as tables for a terminal."""
    tables = [_runs_table(comparison), _pools_table(comparison)]
    parts = [table.text() for table in tables if table.rows]
    notes = [_mixed_note(comparison), _key_note(comparison)]
    return "\n\n".join([*parts, *filter(None, notes)])


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


def _runs_table(comparison: Comparison) -> Table:
    """Of every run its name, settings that differ, outcome, effort, final metrics."""
    finals = [run.metrics for run in comparison.runs]
    known = metrics.ordered({name: None for final in finals for name in final})
    names = [comparison.metric, *(name for name in known if name not in (comparison.metric, "gradient_angle"))]
    fixed = ("run", "outcome", "steps", "measurements")
    header = [fixed[0], *pages.brief(comparison.keys, fixed), *fixed[1:], *map(metrics.name_of, names)]
    rows = []
    for label, run, final in zip(comparison.names, comparison.runs, finals, strict=True):
        row = [label, *(pages.setting(run.settings.get(key, ABSENT)) for key in comparison.keys)]
        row += [run.outcome or "unfinished", pages.whole(run.steps), pages.whole(run.measurements)]
        row += [metrics.stated(name, final[name], brief=True) if name in final else "\u2013" for name in names]
        rows.append(row + _level_cells(comparison, [run]))
    return Table(header + ([] if comparison.level is None else [str(comparison.level)]), rows)


def _pools_table(comparison: Comparison) -> Table:
    """Of every value of the setting how many runs, the final metric, effort; without rows if there is no setting."""
    metric = comparison.metric
    header = [comparison.label, "runs", "replicas", metrics.name_of(metric), "quartiles"]
    rows = []
    for pool in comparison.pools:
        values = pool.finals(metric)
        summary = Summary.of(values)
        row = [pages.setting(pool.value), str(len(pool.runs)), str(values.size)]
        row += [metrics.stated(metric, values, brief=True), metrics.span(metric, summary.q25, summary.q75)]
        rows.append(row + _level_cells(comparison, pool.runs))
    return Table(header + ([] if comparison.level is None else [str(comparison.level)]), rows)


def _level_cells(comparison: Comparison, members: Sequence[Run]) -> list[str]:
    """The median effort to the level and how many replicas got there; no cell if there is no level."""
    if comparison.level is None:
        return []
    efforts = comparison.level.efforts(members)
    if not efforts.size:
        return ["\u2013"]
    reached = int(np.isfinite(efforts).sum())
    median = Summary.of(efforts).median
    text = pages.whole(round(median)) if math.isfinite(median) else "not by most" if reached else "never"
    return [text if efforts.size == 1 else f"{text} ({reached} of {efforts.size})"]


def _metric_chart(comparison: Comparison) -> str:
    metric = comparison.metric
    values = [pool.finals(metric) * metrics.factor(metric) for pool in comparison.pools]
    finite = [int(np.isfinite(row).sum()) for row in values]
    notes = [
        "" if count == row.size else f"{count}/{row.size} finite" for count, row in zip(finite, values, strict=True)
    ]
    title = f"{pages.capital(metrics.name_of(metric))} against {comparison.label}"
    return _pools_chart(comparison, values, title, metrics.axis_of(metric, values), notes)


def _level_chart(comparison: Comparison, level: Level) -> str:
    values = [level.efforts(pool.runs) for pool in comparison.pools]
    notes = [f"{np.isfinite(row).sum()}/{row.size}" for row in values]
    title = f"{pages.capital(str(level))} accuracy against {comparison.label}"
    axis = Axis(level.unit, log=metrics.wants_log(values), floor=0)
    return _pools_chart(comparison, values, title, axis, notes, "; above: how many reached it")


def _pools_chart(
    comparison: Comparison, values: Sequence[Floats], title: str, y: Axis, notes: Sequence[str], legend: str = ""
) -> str:
    """Values against the setting, all replicas of a pool together."""
    places, axis = _places(comparison)
    summaries = map(Summary.of, values)
    groups = [
        Group(place, summary.median, summary.q25, summary.q75, row, note)
        for place, summary, row, note in zip(places, summaries, values, notes, strict=True)
    ]
    mixed = f"; pooled over {', '.join(pages.brief(comparison.mixed))}" if comparison.mixed else ""
    note = f"point: median; bar: quartiles; dot: one replica{legend}{mixed}"
    joined = all(is_number(pool.value) for pool in comparison.pools)
    return svg.value_chart(groups, title, axis, y, note, joined)


def _places(comparison: Comparison) -> tuple[list[float], Axis]:
    """Where the values of the setting stand: at their size, or side by side if that says nothing or crowds them."""
    label = comparison.label
    values = [pool.value for pool in comparison.pools]
    numbers = [float(value) for value in values if is_number(value)]
    positive = [number for number in numbers if number > 0]
    far_apart = bool(positive) and positive[-1] >= 20 * positive[0]
    if len(numbers) == len(values) and (not far_apart or len(positive) == len(numbers)):
        return numbers, Axis(label, log=far_apart)
    return [float(index) for index in range(len(values))], Axis(label, names=tuple(map(pages.setting, values)))


def _curves(comparison: Comparison) -> list[Series]:
    """The learning curves of all runs, or of all pools if there are some."""
    groups: list[tuple[str, Sequence[Run]]]
    colors: Sequence[str]
    if comparison.key is not None:
        groups = [(pages.setting(pool.value), pool.runs) for pool in comparison.pools]
        ordered = len(groups) > 2 and all(is_number(pool.value) for pool in comparison.pools)
        colors = svg.sequential(len(groups)) if ordered else [""] * len(groups)
    else:
        groups = [(label, [run]) for label, run in zip(_labels(comparison), comparison.runs, strict=True)]
        colors = [""] * len(groups)
    series = []
    for (label, members), color in zip(groups, colors, strict=True):
        curves = [run.curves[comparison.metric] for run in members if comparison.metric in run.curves]
        if curves:
            x, values = _stacked(curves, comparison.unit)
            series.append(metrics.line(x, values, comparison.metric, label, color))
    return series


def _curves_chart(comparison: Comparison, series: Sequence[Series]) -> str:
    metric, level = comparison.metric, comparison.level
    note = f"line: median over replicas; band: quartiles, or the range of fewer than {metrics.QUARTILES_FROM}"
    marks = [Mark(100 * level.accuracy, "level")] if level is not None and metric == "test_accuracy" else []
    y = metrics.axis_of(metric, [run.curves[metric].values for run in comparison.runs if metric in run.curves])
    banded = any(item.low is not None for item in series)
    title = f"{pages.capital(metrics.name_of(metric))} while learning"
    legend = "" if comparison.key is None else pages.brief([comparison.key])[0]
    return svg.line_chart(series, title, Axis(comparison.unit), y, note if banded else "", legend, marks)


def _labels(comparison: Comparison) -> Sequence[str]:
    """Runs named by their settings, if few settings differ and they tell all runs apart; else by their folders."""
    names = pages.brief(comparison.keys)
    labels = [
        ", ".join(f"{name} {pages.setting(run.settings.get(key, ABSENT))}" for name, key in keys)
        for run in comparison.runs
        for keys in (list(zip(names, comparison.keys, strict=True)),)
    ]
    return labels if len(names) <= 2 and len(set(labels)) == len(labels) else comparison.names


def _stacked(curves: Sequence[Curve], unit: str) -> tuple[Floats, Floats]:
    """Curves side by side over the effort (n,) of the longest, (n, r); NaN where another does not reach."""
    efforts = [curve.measurements if unit == "measurements" else curve.steps for curve in curves]
    x = max(efforts, key=lambda effort: float(effort[-1]))
    columns = [
        column if np.array_equal(x, effort) else np.interp(x, effort, column, left=np.nan, right=np.nan)
        for effort, curve in zip(efforts, curves, strict=True)
        for column in curve.values.T
    ]
    return x, np.stack(columns, axis=-1)


def _mixed_note(comparison: Comparison) -> str:
    if not comparison.mixed:
        return ""
    others = ", ".join(map(pages.full, comparison.mixed))
    return f"Runs with the same {comparison.label} are pooled, although they differ in {others}."


def _key_note(comparison: Comparison) -> str:
    """What could be drawn, where nothing was chosen."""
    if comparison.key is not None or not comparison.keys:
        return ""
    return f"To draw a picture against one setting: --against {' | '.join(map(pages.full, comparison.keys))}"


def _short(folders: Sequence[Path]) -> list[str]:
    """Names of folders without what all have in common."""
    resolved = [folder.resolve() for folder in folders]
    try:
        common = os.path.commonpath([folder.parent for folder in resolved])
    except ValueError:  # on different drives
        return [str(folder) for folder in folders]
    return [folder.relative_to(common).as_posix() for folder in resolved]


def _link(run: Run, name: str, folder: Path) -> str:
    """A run's name, leading to its report if there is one."""
    page = run.folder / "report.html"
    try:
        target = Path(os.path.relpath(page.resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive
        return escape(name)
    for character in "%#? ":  # what a link would understand otherwise
        target = target.replace(character, f"%{ord(character):02X}")
    return f'<a href="{escape(target)}">{escape(name)}</a>' if page.exists() else escape(name)


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
    return {
        "value": None if pool.value is ABSENT else pool.value,
        "runs": [name for name, run in zip(comparison.names, comparison.runs, strict=True) if run in pool.runs],
        **metrics.summary_data(pool.finals(comparison.metric)),
        **({} if level is None else {"effort": metrics.summary_data(level.efforts(pool.runs))}),
    }
