"""What a user takes away: a preset of `device=sim` that behaves like the device, and settings to train it with.

Both are YAML files in the layout of a configuration folder, so that `--config-dir` finds them:
`device/NAME.yaml` and `experiment/NAME.yaml`; of a device that takes pulses, `device/cell/NAME.yaml`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hwtrain import config
from hwtrain.characterise.chip import Finding, stated
from hwtrain.characterise.estimates import Interval
from hwtrain.characterise.recommend import Advice
from hwtrain.core import DeviceSpec
from hwtrain.sim.networks import Network
from hwtrain.sim.tables import joined
from hwtrain.start import Uniform

NOT_PULSED = "the answer to pulses was not measured, or no parameter follows them"
NOT_A_TWIN = "a twin needs the layers of the device, which names none; say network=... with as many parameters"


def pooled(chips: Sequence[Mapping[str, Finding]]) -> dict[str, Finding]:
    """One account of several devices: of every number the median, of every choice the one of most, of tables all."""
    found: dict[str, Finding] = {}
    for name in dict.fromkeys(name for chip in chips for name in chip):
        same = [chip[name] for chip in chips if name in chip]
        words = [finding.verdict for finding in same]
        verdict = max(words, key=words.count)
        alike = [finding for finding in same if finding.verdict == verdict]
        one = alike[int(np.argsort([finding.value for finding in alike], kind="stable")[len(alike) // 2])]
        tables = [finding.table for finding in alike if finding.table is not None]
        found[name] = replace(one, table=joined(tables)) if tables else one
    return found


def preset(found: Mapping[str, Finding], spec: DeviceSpec, seconds: float, network: Network) -> str | None:
    """`device/NAME.yaml`: the simulator with what was found; None where `network` is not the device's.

    Args:
        found: of the device.
        spec: its account of itself.
        seconds: of one measurement [s].
        network: that the twin will have.
    """
    if (network.inputs, network.outputs, network.size) != (spec.inputs, spec.outputs, spec.size):
        return None
    lines = [
        f"# Twin of {spec.name!r}, fitted to its readings. What was not seen is 0, with its bound behind it.",
        "defaults: [sim, _self_]",
        "",
    ]

    def put(key: str, value: str, note: str = "") -> None:
        lines.append(f"{key}: {value}" + (f"  # {note}" if note else ""))

    def measured(key: str, name: str, factor: float = 1.0) -> None:
        estimate = found[name].estimate if name in found else None
        if estimate is None or not math.isfinite(estimate.value):
            put(key, "0.0", "not measured")
        elif not estimate.is_seen:
            put(key, "0.0", f"below {estimate.high * factor:.3g}" if estimate.high else "")
        else:
            put(key, _number(estimate.value * factor), stated(estimate.times(factor)))

    put("low", "null" if not math.isfinite(spec.low) else repr(spec.low))
    put("high", "null" if not math.isfinite(spec.high) else repr(spec.high))
    bits = found.get("parameter_bits")
    stepped = bits is not None and bits.verdict == "stepped"
    put("parameter_bits", str(int(bits.value)) if bits is not None and stepped else "null", bits.says if bits else "")
    measured("cost_noise", "probe_noise" if "probe_noise" in found else "baseline_noise")
    measured("baseline_noise", "baseline_noise")
    measured("read_noise", "read_noise")
    measured("activation_variation", "activation_variation")
    measured("parameter_variation", "parameter_variation")
    measured("stuck", "stuck")
    verdict = found["write_noise"].verdict if "write_noise" in found else ""
    put("programming", verdict or "absolute")
    measured("update_noise", "write_noise")
    drifts = "drift" in found and found["drift"].estimate is not None and found["drift"].estimate.is_seen
    clock = seconds if seconds > 0 else 1.0
    measured("drift", "drift", 1 / math.sqrt(clock))
    put("read_seconds", _number(clock) if drifts else "0.0", "of one measurement [s]")
    beside = [found[name] for name in ("drift_exponent", "settle") if name in found]
    lines += [f"# Not in this preset: {finding.says}" for finding in beside if finding.verdict]
    return "\n".join(lines) + "\n"


def cell(found: Mapping[str, Finding], spec: DeviceSpec, table: str) -> str | None:
    """`device/cell/NAME.yaml`: cells that are pulsed as the device's parameters are; None where none was found.

    Args:
        found: of the device.
        spec: its account of itself.
        table: name of its file in the run folder, where the cell is one.
    """
    one = found.get("cell")
    if one is None or one.settings is None:
        return None
    lines = [
        f"# Cells pulsed as the parameters of {spec.name!r} are, fitted to its readings; device=cells device/cell=..."
    ]
    lines += [f"# {finding.says}" for name, finding in found.items() if name.startswith("pulse_")]
    lines += [f"# {found[name].says}" for name in ("lower_bound", "upper_bound") if found[name].verdict]
    if one.table is not None:
        lines.append(
            "# The table is a file of the run folder, which may be moved: it is found where --config-dir leads."
        )
    place = {} if one.table is None else {"path": f"${{own:{table}}}"}
    text: str = yaml.safe_dump(_rounded({**one.settings, **place}), sort_keys=False, default_flow_style=None)
    return "\n".join(lines) + "\n" + text


def start_within(text: str, words: Sequence[str], table: Path | None = None) -> list[str]:
    """Words by which training starts within the range of a cell, where it would not: in its middle half.

    Args:
        text: `device/cell/NAME.yaml`.
        words: of the command line; what they say of the start is left as it is.
        table: where that of the cell is, if it is one.
    """
    node = yaml.safe_load(text)
    made = config.build({**node, "path": str(table)} if "path" in node else node)
    middle, quarter = (made.low + made.high) / 2, (made.high - made.low) / 4
    usual = Uniform()
    if any(word.startswith("algo.start") for word in words) or made.low <= usual.low < usual.high <= made.high:
        return []
    return [f"algo.start.low={middle - quarter:.3g}", f"algo.start.high={middle + quarter:.3g}"]


def _rounded(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _rounded(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_rounded(value) for value in node]
    return float(f"{node:.4g}") if isinstance(node, float) else node


def settings(advice: Sequence[Advice], task: str, batch: object) -> str:
    """`experiment/NAME.yaml`: what to train the device with; of several devices the median.

    Args:
        advice: for each device.
        task: the word of the task.
        batch: samples presented at once, as the task was measured with; None leaves it to the task.
    """
    words = [one.baseline for one in advice]
    baseline = max(words, key=words.count)
    alike = [one for one in advice if one.baseline == baseline]
    middle = {
        field.name: _middle([getattr(one, field.name) for one in alike])
        for field in fields(Advice)
        if field.name in _OWN
    }
    every = 2 if baseline == "antithetic" else 1
    probes = max(round(middle["tau_theta"].value / every) * every, every)
    held = [] if batch is None else [f"task: {{batch: {batch}}}"]
    lines = [
        "# @package _global_",
        "# Settings for this device, from its noise and the curvature of its cost (hwtrain/characterise/recommend.py).",
        "defaults:",
        f"  - override /task: {task}",
        "  - override /algo: mgd",
        "",
        *held,
        "algo:",
        f"  eta: {_number(middle['eta'].value)}  # {stated(middle['eta'])}",
        "  tau_x: null",
        f"  tau_theta: {probes}  # {stated(middle['tau_theta'])}",
        f"  baseline: {baseline}",
        f"  perturbation: {{amplitude: {_number(middle['amplitude'].value)}}}  # {stated(middle['amplitude'])}",
    ]
    return "\n".join(lines) + "\n"


_OWN = ("amplitude", "tau_theta", "eta")


def _middle(intervals: Sequence[Interval]) -> Interval:
    return Interval(*(float(np.median([getattr(i, name) for i in intervals])) for name in ("value", "low", "high")))


def _number(value: float) -> str:
    """Four digits, in a form that YAML reads as a float."""
    text = f"{value:.4g}"
    mantissa, e, exponent = text.partition("e")
    return text if "." in mantissa or mantissa == "nan" else f"{mantissa}.0{e}{exponent}"
