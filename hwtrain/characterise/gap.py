"""How a device and its twin differ: `python -m hwtrain.characterise.gap RUN_FOLDER [RUN_FOLDER or DEVICE.yaml]`

Both answer the same moves from the same point, on the same samples; devices that take pulses are both read under the
same trains of them. Of a run folder the answers are on record; a YAML file of a device, or of a cell in a folder named
cell, is built and asked now. One folder is compared with the twin that was fitted to it. A simulated twin is made eight
times over, since it has the device's spreads and not its parameters one by one: the device should be no further from
them than each of them is from the others.

Exit codes: 0 written, 2 something the user can mend.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hwtrain import config
from hwtrain.characterise import experiments, replay, report
from hwtrain.characterise.bench import Bench
from hwtrain.characterise.experiments import SHARES, Measured
from hwtrain.characterise.settings import Settings
from hwtrain.core import Array, Can
from hwtrain.errors import ConfigError, HwtrainError, RecordError
from hwtrain.recorder import read_document
from hwtrain.report import pages
from hwtrain.report.pages import Table

MENDABLE = 2
TWINS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What devices answered to the probe set.

    Args:
        name: of the device.
        asked: the probe set, in words.
        each: of every kind of answer all there are, (c, n) for c devices.
    """

    name: str
    asked: str
    each: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Difference:
    """Root mean squares over the probe set.

    Args:
        what: is compared.
        size: of the device's own answers.
        apart: between device and twin, the median over twins.
        twins: between a twin and the others, the median over these; of the twin that is furthest; NaN of one alone.
        correlation: of the answers of device and twin, the median; NaN of a single answer.
    """

    what: str
    size: float
    apart: float
    twins: float
    correlation: float

    def __str__(self) -> str:
        """A sentence."""
        share = f" ({100 * self.apart / self.size:.0f} %)" if self.size else ""
        text = f"{self.what}: {self.size:.3g} on the device; the twin is {self.apart:.3g}{share} off"
        if math.isfinite(self.twins):
            more = self.apart > self.twins
            text += (
                f", further than chips of this kind are from each other ({self.twins:.3g})"
                if more
                else ", as chips of this kind are"
            )
        return text + (f"; correlation {self.correlation:.2f}." if math.isfinite(self.correlation) else ".")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, draw, and say it."""
    parser = argparse.ArgumentParser(
        prog="python -m hwtrain.characterise.gap", description="How a device and its twin differ, drawn and in numbers."
    )
    parser.add_argument("device", type=Path, help="the run folder of a characterisation")
    parser.add_argument("twin", type=Path, nargs="?", help="another, or a device's YAML file; default: the fitted twin")
    parser.add_argument("--output", type=Path, help="where the page goes; default: gap.html in the run folder")
    given = parser.parse_args(arguments)
    try:
        settings = _settings(given.device)
        own: Settings = config.build(settings.characterise)
        one = recorded(given.device)
        cell = given.device / "device" / "cell" / f"{own.name}.yaml"
        twin = given.twin or (cell if cell.exists() else given.device / "device" / f"{own.name}.yaml")
        pulses = read_document(given.device / "characterisation.json")["probe_set"].get("pulses")
        other = recorded(twin) if twin.is_dir() else asked(twin, settings, own, pulses)
        found = compare(one, other)
        page = pages.save(given.output or given.device / "gap.html", _page(one, other, found))
        print(f"{one.name} and {other.name}")
        print("\n".join(map(str, found)))
        print(f"pictures: {page}")
    except HwtrainError as error:
        print(f"hwtrain.characterise.gap: {error}", file=sys.stderr)
        return MENDABLE
    return 0


def recorded(folder: Path) -> Answers:
    """The answers in a run folder.

    Raises:
        RecordError: it holds none.
    """
    document = read_document(folder / "characterisation.json")
    kept, name = document["probe_set"], f"{document['device']['name']} of {folder.name}"
    if "pulses" in kept:
        return _of_pulses(name, kept["pulses"], kept["pulses"]["profiles"])
    if "pairs" not in kept:
        raise RecordError(f"{folder} holds no answers to the probe set: its budget was too small. Measure it again")
    return _answers(name, kept["pairs"], kept.get("outside", []))


def asked(path: Path, settings: DictConfig, own: Settings, pulses: Mapping[str, Any] | None = None) -> Answers:
    """The answers of a device that a YAML file describes, to the probe set of a run.

    Args:
        path: of the file; `defaults` in it are looked for beside it and in our own folder.
        settings: of the run, which name network, cost and task.
        own: budget and limits of the run.
        pulses: its trains of them, of a device that takes them.

    Raises:
        ConfigError: the file is missing, or describes no device that fits.
    """
    node = OmegaConf.merge(
        _cells(path) if path.parent.name == "cell" else _device(path),
        {"network": settings.network, "cost": settings.cost},
    )
    twins = TWINS if "chips" in node and node.chips is None else None
    device = config.build(node, chips=twins) if twins else config.build(node)
    start = config.build(settings.algo.start) if "start" in settings.algo else None
    task = config.build(settings.task)
    try:
        with tempfile.TemporaryDirectory() as folder:
            most = own.writes if pulses is None else own.pulses
            with Bench(device, Path(folder), own.measurements, most, own.low, own.high, 0.0) as bench:
                if (pulses is not None) != (Can.PULSE in bench.spec.can):
                    takes = "takes no pulses" if pulses else "takes nothing but pulses"
                    raise ConfigError(
                        f"{path}: {bench.spec.name!r} {takes}, and "
                        "the device of the run is otherwise. Set programming in the file, or name another."
                    )
                if pulses is not None:
                    return _of_pulses(path.stem, pulses, _pulsed(bench, pulses))
                seeds = np.full(bench.spec.replicas, settings.seed, np.uint32)
                done = Measured(experiments.grounded(bench, task, start, seeds))
                share = (int(part * most) for part, most in zip(SHARES[experiments.pairs], bench.most, strict=True))
                experiments.pairs(bench, done.ground, done, *share)
    finally:
        device.close()
    return _answers(path.stem, done.each["pairs"], done.each.get("outside", np.zeros(0)))


def compare(one: Answers, other: Answers) -> list[Difference]:
    """The first device of `one` and all of `other`, by what both offer.

    Raises:
        ConfigError: they did not answer the same probe set.
    """
    if one.asked != other.asked:
        raise ConfigError(
            f"{one.name} answered {one.asked} and {other.name} {other.asked}: measure both with the same "
            "characterise.measurements, characterise.writes and characterise.pulses."
        )
    common = [what for what, own in one.each.items() if other.each.get(what, own[:, :0]).shape[1] == own.shape[1]]
    return [_difference(what, one.each[what][:1], other.each[what]) for what in common]


def _difference(what: str, one: Array, other: Array) -> Difference:
    """Of answers (1, n) and (c, n)."""
    apart = np.sqrt(((other - one) ** 2).mean(axis=1))
    between = np.sqrt(((other[:, None] - other) ** 2).mean(axis=-1)) + np.diag(np.full(len(other), np.nan))
    twins = float(np.nanmedian(between, axis=1).max()) if len(other) > 1 else math.nan
    centred, others = one - one.mean(), other - other.mean(axis=1, keepdims=True)
    length = np.sqrt((centred**2).sum() * (others**2).sum(axis=1))
    alike = np.divide((centred * others).sum(axis=1), length, out=np.full(len(other), np.nan), where=length > 0)
    return Difference(
        what,
        float(np.sqrt((one**2).mean())),
        float(np.median(apart)),
        twins,
        float(np.median(alike)),
    )


def _answers(name: str, pairs: Any, outside: Any) -> Answers:
    """From arrays (..., j, 3) and (..., j, n)."""
    each = np.asarray(pairs, float)
    each = each.reshape(-1, *each.shape[-2:])
    outputs = np.asarray(outside, float)
    said = {
        "Cost without a move": each[..., 0].mean(axis=-1, keepdims=True),
        "Change of the cost by a move": each[..., 2] - each[..., 0],
    }
    if outputs.ndim > 1:
        said["Outputs after a move"] = outputs.reshape(-1, math.prod(outputs.shape[-2:]))
    return Answers(name, f"{each.shape[1]} moves", said)


def _of_pulses(name: str, pulses: Mapping[str, Any], profiles: Sequence[Mapping[str, Any]]) -> Answers:
    """From what trains of pulses do to every device."""
    each = {what: np.array([profile[what] for profile in profiles], float) for what in profiles[0]}
    return Answers(name, f"{pulses['readings'] - 1} blocks of {pulses['block']} pulses", each)


def _pulsed(bench: Bench, pulses: Mapping[str, Any]) -> list[dict[str, Array]]:
    """What as many trains as the run compares do to a device."""
    count, block, trains = pulses["readings"] - 1, pulses["block"], []
    for number in range(min(pulses["trains"], replay.WARM + replay.TRAINS)):
        levels = experiments.pulsed(bench, "trains", count, block, number % 2 == 0)
        if levels is None:
            raise ConfigError("the budget of the run is too small for its own trains of pulses. Measure it again")
        trains.append(levels)
    together = np.moveaxis(np.stack(trains, axis=-3), -1, -3)  # (..., p, j, n + 1)
    return [replay.profile(chip) for chip in together.reshape(-1, *together.shape[-3:])]


def _page(one: Answers, other: Answers, found: Sequence[Difference]) -> str:
    charts = []
    for difference in found:
        own, twins = one.each[difference.what][0], other.each[difference.what]
        many = slice(None, None, max(own.size // 400, 1))
        if own.size > 1:
            charts.append(_drawn(difference.what, own[many], twins[:, many]))
    rows = [[d.what, *(f"{v:.3g}" for v in (d.size, d.apart, d.twins, d.correlation))] for d in found]
    head = ["root mean square", "of the device", "device and twin", "furthest twin", "correlation"]
    sections = [
        "".join(f"<p>{sentence}</p>" for sentence in map(str, found)),
        pages.gallery(charts),
        pages.section("Numbers", Table(head, rows).html()),
    ]
    data = {"devices": [one.name, other.name], "differences": [{n: getattr(d, n) for n in d.__slots__} for d in found]}
    return pages.page("A device and its twin", f"{one.name} and {other.name}", sections, data)


def _drawn(title: str, one: Array, other: Array) -> str:
    """Answers (n,) of the device across, of the twins (c, n) up."""
    low, middle, high = np.quantile(other, (0.25, 0.5, 0.75), axis=0)
    note = f"Median and quartiles of {len(other)} twins" if len(other) > 1 else ""
    return report.scatter(one, middle, title, "device", "twin", note, np.stack([low, high]))


def _settings(folder: Path) -> DictConfig:
    try:
        found = OmegaConf.load(folder / "config.yaml")
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecordError(f"{folder} is not the run folder of a characterisation: {error}") from error
    if not isinstance(found, DictConfig) or "characterise" not in found:
        raise RecordError(f"{folder} is a run of training, not of a characterisation")
    return found


def _cells(path: Path) -> DictConfig:
    """A device that is pulsed, with the cell of a YAML file."""
    node = _device(config.conf_dir() / "device" / "cells.yaml")
    node.cell = _loaded(path)
    if "_target_" not in node.cell:
        raise ConfigError(f"{path} describes no cell: it has no _target_")
    table = path.absolute().parent.parent.parent / f"{path.stem}.npz"
    if "path" in node.cell and table.exists():  # also of a run folder that was moved
        node.cell.path = str(table)
    node.programming = None
    return node


def _loaded(path: Path) -> DictConfig:
    """What a YAML file of a device or a cell holds."""
    try:
        own = OmegaConf.load(path)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}. Name a run folder or a device's YAML file"
        ) from error
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(own, DictConfig):
        raise ConfigError(f"{path} describes no device: it is a list. Name a run folder or a device's YAML file")
    if found := re.search(r"^path: \$\{own:(.+)\}$", OmegaConf.to_yaml(own), re.MULTILINE):
        own.path = str(
            path.absolute().parent.parent.parent / found[1]
        )  # of the folder that holds device/cell/NAME.yaml
    return own


def _device(path: Path, seen: tuple[Path, ...] = ()) -> DictConfig:
    """A YAML file of a device, with what its `defaults` name."""
    own = _loaded(path)
    node: Any = OmegaConf.create({})
    names = own.pop("defaults", ["_self_"])
    for name in [*names, *([] if "_self_" in names else ["_self_"])]:
        if name == "_self_":
            node = OmegaConf.merge(node, own)
            continue
        if not isinstance(name, str) and None in name.values():  # nothing is chosen
            continue
        group, _, name = name.rpartition("/") if isinstance(name, str) else _chosen(name)
        places = [folder / group / f"{name}.yaml" for folder in (path.parent, config.conf_dir() / "device")]
        inner = next((place for place in places if place.exists() and place not in (path, *seen)), None)
        if inner is None:
            raise ConfigError(f"{path}: defaults name {name!r}, which is not a device")
        if group:
            node[group] = _loaded(inner)
        else:
            node = OmegaConf.merge(node, _device(inner, (path, *seen)))
    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise ConfigError(f"{path} describes no device: it has no _target_")
    return node


def _chosen(entry: Any) -> tuple[str, str, str]:
    """Group and choice of an entry of `defaults` such as `cell: ecram`, or `override cell: ecram`."""
    ((group, choice),) = entry.items()
    return str(group).removeprefix("override ").strip("/"), "", str(choice)


if __name__ == "__main__":
    sys.exit(main())
