"""The page: every finding as a sentence with its number, and pictures of what it rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from hwtrain import svg
from hwtrain.characterise import estimates
from hwtrain.characterise.chip import Chip, Finding, stated
from hwtrain.characterise.recommend import Advice
from hwtrain.characterise.steadiness import held
from hwtrain.core import Array
from hwtrain.report import pages
from hwtrain.report.pages import Table
from hwtrain.svg import Axis, Group, Mark, Series


def page(
    title: str,
    folder: str,
    chips: Sequence[Chip],
    found: Sequence[Mapping[str, Finding]],
    advice: Sequence[Advice | None],
    files: Mapping[str, str],
    data: Mapping[str, Any],
) -> str:
    """All of it; of several devices the pictures show the first, and the table all.

    Args:
        title: of the page.
        folder: where it will stand.
        chips: as they were measured.
        found: of each.
        advice: for each.
        files: what was written beside, by name: its text.
        data: that the page carries along.
    """
    sentences = "".join(f"<li>{svg.escape(finding.says)}</li>" for finding in found[0].values())
    many = f" (the first of {len(chips)} devices)" if len(chips) > 1 else ""
    sections = [
        pages.section(f"Findings{many}", f"<ul>{sentences}</ul>"),
        pages.gallery([*charts(chips[0], found[0], advice[0]).values(), *over_chips(found)]),
        pages.section("Numbers", table(found).html()),
        *[pages.section(name, f"<pre>{svg.escape(text)}</pre>") for name, text in files.items()],
        pages.section("Not measured", Table([], [[k, v] for k, v in data["skipped"].items()]).html()),
    ]
    return pages.page(title, folder, sections, data)


def table(found: Sequence[Mapping[str, Finding]]) -> Table:
    """Every number with its interval; of several devices the median and the range."""
    rows = []
    for name in dict.fromkeys(name for chip in found for name in chip):
        same = [chip[name] for chip in found if name in chip]
        first, values = same[0], np.array([finding.value for finding in same])
        words = sorted({finding.verdict for finding in same if finding.verdict})
        text = stated(first.estimate) if first.estimate is not None else "\u2013"
        if len(found) > 1 and np.isfinite(values).any():
            low, middle, high = np.nanquantile(values, (0, 0.5, 1)).tolist()
            text = f"{middle:.3g} ({low:.3g} to {high:.3g} over {len(same)} devices)"
        rows.append([name.replace("_", " "), text, first.unit, ", ".join(words), str(first.basis or "\u2013")])
    return Table(["", "value", "unit", "kind", "rests on"], rows)


def charts(chip: Chip, found: Mapping[str, Finding], advice: Advice | None) -> dict[str, str]:
    """The pictures of one device, by name; those for which there are readings."""
    data, drawn = chip.data, dict[str, str]()
    unit = chip.ground.spec.unit or "parameter unit"
    if parts := held(data):
        drawn["series"] = svg.line_chart(
            [Series(np.arange(data["hold"].size, dtype=float), data["hold"])],
            "The same cost, read again and again",
            Axis("reading"),
            Axis("cost"),
        )
        lengths, deviation = estimates.allan(max(parts, key=len))
        white = deviation[0] / np.sqrt(lengths)
        drawn["allan"] = svg.line_chart(
            [Series(lengths, deviation, "measured"), Series(lengths, white, "white noise")],
            "What averaging brings",
            Axis("readings averaged", log=True),
            Axis("Allan deviation of the cost", log=True),
            "Falls as the root of the readings while noise is white; rises where the device drifts",
        )
    if "bursts" in data:
        many, n = data["bursts"].shape
        mean, off = data["bursts"].mean(axis=0), data["bursts"].std(axis=0) / math.sqrt(many)
        drawn["bursts"] = svg.line_chart(
            [Series(np.arange(n, dtype=float), mean, low=mean - 2 * off, high=mean + 2 * off)],
            "After a write",
            Axis("reading after the write"),
            Axis("cost"),
            f"Mean of {many} writes of the same parameters, with two standard errors",
        )
        levels = data["bursts"].mean(axis=1)
        drawn["writes"] = svg.line_chart(
            [Series(np.arange(many, dtype=float), levels)],
            "From write to write of the same parameters",
            Axis("write"),
            Axis("cost"),
        )
    if "effect" in data and chip.is_known:
        drawn["effects"] = _effects(chip)
    if "scan" in data:
        drawn["range"] = _range(chip, unit)
        number = _closest(chip, found)
        drawn["steps"] = svg.line_chart(
            [Series(data["at"][number], data["scan"][number])],
            "Steps of a parameter",
            Axis(f"parameter {int(data['scanned'])} [{unit}]"),
            Axis("cost"),
        )
    if "pairs" in data and not np.isnan(data["pairs"]).any():
        rest, probe, put = data["pairs"].T
        drawn["pairs"] = scatter(
            probe - rest,
            put - rest,
            "Probe and write of the same move",
            "change by a probe [cost]",
            "by a write [cost]",
        )
    if "trains" in data:
        drawn |= _pulses(data, unit)
    for name in sorted(name for name in data if name.startswith("transfer ")):
        series = [Series(data["sweep"], row, str(k)) for k, row in enumerate(data[name].T[:12])]
        title = f"Neurons of layer {int(name.split()[1]) + 1}"
        drawn[name] = svg.line_chart(series, title, Axis(f"bias [{unit}]"), Axis("activity"), legend="neuron")
    if "rungs" in data:
        drawn["ladder"] = _ladder(data, found, advice, unit)
    return drawn


def over_chips(found: Sequence[Mapping[str, Finding]]) -> list[str]:
    """How traits differ from device to device, where there are several."""
    if len(found) < 3:
        return []
    drawn = []
    for name in dict.fromkeys(name for chip in found for name in chip):
        values = np.array([chip[name].value for chip in found if name in chip])
        if len(np.unique(values[np.isfinite(values)])) > 2:
            unit = next(chip[name].unit for chip in found if name in chip)
            drawn.append(svg.histogram(values, pages.capital(name.replace("_", " ")), Axis(unit), "Over all devices"))
    return drawn


def scatter(x: Array, y: Array, title: str, across: str, up: str, note: str = "", bars: Array | None = None) -> str:
    """Pairs of numbers (n,), in the order of the first; `bars` (2, n) are the ends of bars of the second."""
    low, high = (y, y) if bars is None else bars
    order = np.argsort(x)
    groups = [Group(float(x[i]), float(y[i]), float(low[i]), float(high[i])) for i in order]
    return svg.value_chart(groups, title, Axis(across), Axis(up), note, joined=False)


def _effects(chip: Chip) -> str:
    effect = chip.data["effect"].mean(axis=0)
    ideal = chip.gradient()[chip.data["moved"][: effect.size]]
    note = "A parameter that is stuck stands at zero"
    return scatter(ideal, effect, "Effect of every parameter", "of an ideal device [cost per unit]", "measured", note)


def _range(chip: Chip, unit: str) -> str:
    data = chip.data
    series = [Series(data["at"][0], data["scan"][0], "measured")]
    if chip.is_known:
        moved = np.repeat(chip.theta[None], data["at"].shape[1], axis=0)
        moved[:, int(data["scanned"])] = data["at"][0]
        series.append(Series(data["at"][0], chip.ideal(moved), "ideal device"))
    return svg.line_chart(
        series, "One parameter over its range", Axis(f"parameter {int(data['scanned'])} [{unit}]"), Axis("cost")
    )


def _pulses(data: Mapping[str, Any], unit: str) -> dict[str, str]:
    """Levels under trains of pulses, and how far pulses lead from where."""
    levels, block = data["trains"], data["block"]
    each = np.arange(levels[..., 0].size) * float(block)
    shown = levels[..., :6].reshape(-1, min(levels.shape[-1], 6)).T
    series = [Series(each, row, str(k)) for k, row in enumerate(shown)]
    drawn = svg.line_chart(
        series, "Pulses up, pulses down", Axis("pulses"), Axis(f"level [{unit}]"), legend="parameter"
    )
    span = max(levels.shape[1] // 12, 1)  # readings between which a step is taken, so that noise is small
    moved = (levels[:, span:] - levels[:, :-span]) / (span * block)
    places = (levels[:, span:] + levels[:, :-span]) / 2
    edges = np.quantile(levels, np.linspace(0, 1, 17))
    lines = []
    for name, way, sign in (("up", data["ups"], 1), ("down", ~data["ups"], -1)):
        at, size = places[way].ravel(), sign * moved[way].ravel()
        bins = [size[(at >= low) & (at < high)] for low, high in pairwise(edges)]
        kept = [(np.quantile(one, (0.25, 0.5, 0.75)), (low + high) / 2) for one, (low, high) in
                zip(bins, pairwise(edges), strict=True) if one.size > 4]  # fmt: skip
        if kept:
            low, middle, high = np.array([quartiles for quartiles, _ in kept]).T
            lines.append(Series(np.array([place for _, place in kept]), middle, name, low, high))
    axes = Axis(f"level [{unit}]"), Axis(f"step of a pulse [{unit}]")
    note = "Median over pulses and parameters, with quartiles"
    return {"pulses": drawn, "step": svg.line_chart(lines, "How far a pulse leads", *axes, note)}


def _closest(chip: Chip, found: Mapping[str, Finding]) -> int:
    """The scan that shows a few steps, or the finest."""
    spans = np.ptp(chip.data["at"], axis=-1)
    bits = found.get("parameter_bits")
    if bits is None or bits.verdict != "stepped":
        return len(spans) - 1
    step = (chip.ground.device.high - chip.ground.device.low) / (2**bits.value - 1)
    return int(np.abs(np.log(spans / (8 * step))).argmin())


def _ladder(data: Mapping[str, Any], found: Mapping[str, Finding], advice: Advice | None, unit: str) -> str:
    rungs, rest, amplitudes = data["rungs"], data["resting"].mean(axis=-1), data["amplitudes"]
    odd = np.sqrt((((rungs[..., 0] - rungs[..., 1]) / 2) ** 2).mean(axis=0))
    even = np.sqrt(((rungs.mean(axis=-1) - rest[:, None]) ** 2).mean(axis=0))
    series = [Series(amplitudes, odd, "odd: the gradient"), Series(amplitudes, even, "even: the curvature")]
    noise = found.get("probe_noise", found.get("baseline_noise"))
    marks = [Mark(noise.value, "noise of a reading")] if noise is not None and noise.value else []
    chosen = "" if advice is None else f"Recommended: {advice.amplitude.value:.3g}"
    axes = Axis(f"amplitude of a random probe [{unit}]", log=True), Axis("root mean square response [cost]", log=True)
    return svg.line_chart(series, "What a probe brings", *axes, chosen, marks=marks)
