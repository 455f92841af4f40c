"""One run: its report as a page, its pictures, and a summary for a terminal."""

from __future__ import annotations

import json
import shlex
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hwtrain import checkpoint, svg
from hwtrain.console import duration
from hwtrain.errors import HwtrainError, RecordError
from hwtrain.report import metrics, pages
from hwtrain.report.folder import Curve, Run, is_number, read
from hwtrain.report.metrics import Summary
from hwtrain.report.pages import Table
from hwtrain.svg import Axis, Mark, escape

_ENDINGS = {
    "completed": "Completed",
    "target_reached": "Reached its target",
    "budget_spent": "Its budget was spent",
    "diverged": "Diverged (the cost is no longer finite)",
    "interrupted": "Interrupted on request",
    "failed": "Failed",
}
_MOST_POINTS = 2000  # of a curve, in the data of a page; the run folder keeps all
_MOST_EVENTS = 200  # in the table of a page


def write(run_dir: str | Path) -> Path:
    """Write the report of a run into its folder, finished or not; one that is there is replaced as a whole.

    Returns:
        Path of the page.

    Raises:
        RecordError: the folder holds no run, a file of it cannot be read, or the page cannot be written.
    """
    run = read(Path(run_dir))
    return pages.save(run.folder / "report.html", run_page(run))


def run_page(run: Run) -> str:
    """The report of a run as a page."""
    charts = run_charts(run)
    sections = [
        f"<p class='ending'>{escape(_ending(run))}</p>",
        _figures(run),
        pages.gallery([*charts.values()]) or "<p>Nothing was recorded before it ended.</p>",
        pages.section("Counts", Table([], [[name, pages.whole(count)] for name, count in run.counts.items()]).html()),
        pages.section("Final metrics", _metrics_table(run)),
        pages.section("Device", pages.mapping({k: v for k, v in run.device.items() if k != "layers"}) + _layers(run)),
        pages.section("Data", pages.mapping(run.document.get("task"))),
        pages.section("Events", _events(run)),
        pages.section("Seeds", pages.mapping(run.document.get("seeds"))),
        pages.section("Versions", pages.mapping(run.document.get("versions"))),
        pages.section("Command", _command(run)),
        pages.section(
            "Configuration", f"<pre>{escape(text)}</pre>" if (text := _configuration(run)) else "", folded=True
        ),
    ]
    data = {
        "schema": pages.SCHEMA,
        "folder": str(run.folder),
        "outcome": run.outcome,
        "steps": run.steps,
        "seconds": run.seconds,
        "counts": run.counts,
        "metrics": {name: metrics.summary_data(values) for name, values in run.metrics.items()},
        "curves": {name: _curve_data(curve) for name, curve in run.curves.items()},
        "document": run.document,
    }
    return pages.page(_title(run), str(run.folder), sections, data)


def run_charts(run: Run) -> dict[str, str]:
    """The pictures of a run, by name: cost, accuracy, angle, parameters; those for which there are numbers."""
    charts = {}
    costs = [name for name in ("cost", "train_cost", "test_cost") if name in run.curves]
    if costs:
        log = metrics.wants_log([run.curves[name].values for name in costs])
        charts["cost"] = _curve_chart(run, costs, "Cost", Axis("cost", log=log))
    accuracies = [name for name in ("train_accuracy", "test_accuracy") if name in run.curves]
    if accuracies:
        marks = [] if run.target is None else [Mark(100 * run.target, "target")]
        axis = Axis("accuracy [%]", floor=0, ceiling=100)
        charts["accuracy"] = _curve_chart(run, accuracies, "Accuracy", axis, marks)
    if "gradient_angle" in run.curves:
        axis = Axis("angle [degrees]", floor=0, ceiling=180)
        marks = [Mark(90, "90°: knows nothing of the gradient")]
        title = "Angle between estimated and exact gradient"
        charts["angle"] = _curve_chart(run, ["gradient_angle"], title, axis, marks)
    if (parameters := _parameters(run)) is not None:
        charts["parameters"] = parameters
    return charts


def run_text(run: Run) -> str:
    """A summary of a run for a terminal."""
    measurements = (
        f"{pages.whole(run.measurements)} ({', '.join(f'{pages.whole(v)} {k}' for k, v in run.counts.items())})"
    )
    rows = [["outcome", run.outcome or "unfinished"], ["steps", pages.whole(run.steps)], ["measurements", measurements]]
    if run.document.get("error"):
        rows.insert(1, ["error", " ".join(str(run.document["error"]).split())])
    if run.seconds is not None:
        rows.append(["time", _speed(run)])
    rows += [
        [metrics.name_of(name), metrics.stated(name, values)] for name, values in metrics.ordered(run.metrics).items()
    ]
    return Table([], rows).text()


def main_picture(run: Run, metric: str | None = None) -> str:
    """The curve of the metric that counts, alone."""
    metric = metrics.metric_of([run], metric)
    if metric not in run.curves:
        raise RecordError(f"{run.folder} has no curve of {metric!r} to draw: it was not evaluated while it went on.")
    axis = metrics.axis_of(metric, [run.curves[metric].values])
    return _curve_chart(run, [metric], pages.capital(metrics.name_of(metric)), axis)


def _ending(run: Run) -> str:
    """How the run ended, in a sentence or two."""
    steps = pages.whole(run.steps)
    if run.outcome is None:
        text = f"Unfinished: it still goes on, or was killed. The last record is of step {steps}"
    else:
        text = f"{_ENDINGS.get(run.outcome, run.outcome)} after {steps} steps"
        text += "" if run.seconds is None else f" in {duration(run.seconds)}"
        text += f": {error}" if (error := run.document.get("error")) else ""
    text = text if text.endswith(".") else text + "."
    if "test_accuracy" in run.metrics:
        text += f" Held-out accuracy {metrics.stated('test_accuracy', run.metrics['test_accuracy'])}."
    if run.outcome in (None, "interrupted", "failed"):
        text += f" To go on: python -m hwtrain {shlex.quote(f'resume={run.folder}')}"
    return text


def _title(run: Run) -> str:
    algorithm = str(run.settings.get("algo._target_", "")).rpartition(".")[2]
    device = run.device.get("name")
    task = run.settings.get("task.name")
    if not (algorithm and device):
        return run.folder.resolve().name
    return f"{algorithm} trains {device}" + (f" on {task}" if task else "")


def _figures(run: Run) -> str:
    """The key figures, large."""
    figures = [("steps", pages.whole(run.steps)), ("measurements", pages.whole(run.measurements))]
    if run.seconds is not None:
        figures.append(("time", _speed(run)))
    finals = run.metrics
    for name in ("test_accuracy", "test_cost", "train_cost"):
        if name in finals:
            spread = ", median [range]" if finals[name].size > 1 else ""
            figures.append((metrics.name_of(name) + spread, metrics.stated(name, finals[name], brief=True)))
    if run.replicas > 1:
        figures.append(("replicas", pages.whole(run.replicas)))
    cells = "".join(f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in figures)
    return f"<div class='figures'>{cells}</div>"


def _speed(run: Run) -> str:
    seconds = run.seconds or 0.0
    took = duration(seconds) if seconds >= 10 else f"{seconds:.2g} s"
    return f"{took}, {pages.whole(round(run.steps / seconds))} steps/s" if seconds > 0 else took


def _curve_chart(run: Run, names: Sequence[str], title: str, y: Axis, marks: Sequence[Mark] = ()) -> str:
    """Curves over steps; only the last, which counts most, has a band."""
    colors = {"cost": "#8A8A8A", "train_cost": "#E69F00", "train_accuracy": "#E69F00"}
    series = [
        metrics.line(curve.steps, curve.values, name, metrics.name_of(name), colors.get(name, svg.COLORS[0]))
        for name in names
        for curve in (run.curves[name],)
    ]
    series = [*(replace(item, low=None, high=None) for item in series[:-1]), series[-1]]
    note = metrics.spread_note(run.replicas, names[-1] if len(names) > 1 else None)
    return svg.line_chart(series, title, Axis("steps"), y, note, marks=marks)


def _parameters(run: Run) -> str | None:
    """Histogram of the last checkpoint's parameters; empty if that is damaged, None if there is none."""
    unit = str(run.device.get("unit") or "")
    title, axis = "Parameters at the end", Axis(f"parameter [{unit}]" if unit else "parameter")
    if not any((run.folder / name).exists() for name in (checkpoint.NAME, checkpoint.PREVIOUS)):
        return None
    try:
        theta = np.asarray(checkpoint.load(run.folder)["state.theta"], dtype=float)
    except (HwtrainError, KeyError, TypeError, ValueError, zlib.error) as error:
        return svg.histogram(np.empty(0), title, axis, f"the checkpoint cannot be read: {error}")
    note = f"{theta.shape[-1] if theta.ndim else 1} parameters" + (f" of {run.replicas} replicas" * (run.replicas > 1))
    note += f"; {odd} are not finite" if (odd := int((~np.isfinite(theta)).sum())) else ""
    limits = ((name, run.device.get(name)) for name in ("low", "high"))
    marks = [Mark(value, f"{name}est allowed") for name, value in limits if is_number(value)]
    return svg.histogram(theta, title, axis, note, marks)


def _metrics_table(run: Run) -> str:
    rows = [
        [
            metrics.name_of(name),
            *(metrics.shown(name, v) for v in (s.median, s.q25, s.q75, s.low, s.high)),
            pages.whole(s.count - s.missing),
        ]
        for name, values in metrics.ordered(run.metrics).items()
        for s in (Summary.of(values),)
    ]
    header = ["metric", "median", "lower quartile", "upper quartile", "lowest", "highest", "finite replicas"]
    return Table(header, rows).html()


def _layers(run: Run) -> str:
    layers = [layer for layer in run.device.get("layers") or [] if isinstance(layer, dict)]
    names = list(dict.fromkeys(name for layer in layers for name in layer))
    return Table(names, [[pages.plain(layer.get(name)) for name in names] for layer in layers]).html()


def _events(run: Run) -> str:
    kinds: dict[str, int] = {}
    for event in run.events:
        kinds[str(event.get("event"))] = kinds.get(str(event.get("event")), 0) + 1
    if not kinds:
        return ""
    rows = [
        [
            str(e.get("time", "")),
            str(e.get("event", "")),
            ", ".join(f"{k}: {pages.plain(v)}" for k, v in e.items() if k not in ("time", "event")),
        ]
        for e in run.events[-_MOST_EVENTS:]
    ]
    more = f" The last {_MOST_EVENTS} are shown." if len(run.events) > _MOST_EVENTS else ""
    counted = ", ".join(f"{name} {count}" for name, count in kinds.items())
    return f"<p>{escape(counted)}.{more}</p>" + Table(["time", "event", "details"], rows).html()


def _command(run: Run) -> str:
    command = run.document.get("command")
    return f"<pre>{escape(shlex.join(map(str, command)))}</pre>" if isinstance(command, list) and command else ""


def _configuration(run: Run) -> str:
    return run.text or (json.dumps(config, indent=2) if (config := run.document.get("config")) else "")


def _curve_data(curve: Curve) -> dict[str, Any]:
    """Median and spread over replicas, evenly picked if there are too many."""
    every = -(-curve.steps.size // _MOST_POINTS)
    picked = slice(None, None, every)
    low, q25, median, q75, high = metrics.quantiles(curve.values[picked], (0, 0.25, 0.5, 0.75, 1)).tolist()
    spread = {"q25": q25, "q75": q75, "low": low, "high": high} if curve.values.shape[1] > 1 else {}
    counters = {"steps": curve.steps[picked].tolist(), "measurements": curve.measurements[picked].tolist()}
    return {"every": every, **counters, "median": median, **spread}
