"""`python -m hwtrain.characterise device=...`: measure a device before it is trained.

Exit codes: 0 done, 2 something the user can mend, 130 interrupted and resumable.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from hwtrain import config
from hwtrain.characterise import experiments, recommend, replay, report, twin
from hwtrain.characterise.bench import Bench, Interrupted
from hwtrain.characterise.chip import Chip, Finding
from hwtrain.characterise.experiments import Measured
from hwtrain.characterise.findings import conclude
from hwtrain.characterise.recommend import Advice
from hwtrain.characterise.settings import Settings
from hwtrain.console import fault
from hwtrain.core import Can, DeviceSpec, Task
from hwtrain.errors import CapabilityError, ConfigError, DeviceError, HwtrainError, nearest
from hwtrain.recorder import read_document, to_json
from hwtrain.report import pages
from hwtrain.sim.tables import save_table

MENDABLE, INTERRUPTED = 2, 130
RESULT = "characterisation.json"


def main() -> int:
    """Measure as the command line says."""
    failures: list[str] = []

    def job(composed: DictConfig) -> None:
        try:
            words = [*config.words(), *config.search(config.own_folders())]
            code = characterise(_resolved(composed), words, config.choices()[2])
        except Exception as error:
            failures.append(_complain(fault(error)))
        else:
            if code == INTERRUPTED:  # of a sweep, the rest too
                raise SystemExit(INTERRUPTED)

    try:
        if any(word.startswith("resume=") and word != "resume=null" for word in sys.argv[1:]):
            folder, settings = config.resumed(sys.argv[1:])
            if "characterise" not in settings:
                raise ConfigError(f"{folder} is a run of training; go on with it: python -m hwtrain resume={folder}")
            told = read_document(folder / "command.json")
            return characterise(settings, told["words"], told["task"], resume=True)
        _check_own_keys(sys.argv[1:])
        sys.argv[1:1] = ["--config-name=characterise"]
        config.run_each(job)
    except Exception as error:
        failures.append(_complain(fault(error)))
    except KeyboardInterrupt:
        print("\nhwtrain: stopped at once; the device is at rest and what was read is kept.", file=sys.stderr)
        return INTERRUPTED
    return MENDABLE if failures else 0


def characterise(settings: DictConfig, words: Sequence[str], task_name: str, *, resume: bool = False) -> int:
    """One run from a resolved configuration; the exit code."""
    own: Settings = config.build(settings.characterise)
    if "folder" not in settings.recorder:
        raise ConfigError("readings are kept in a run folder: leave recorder=folder")
    folder = Path(settings.recorder.folder)
    cost, task = config.build(settings.cost), config.build(settings.task)
    start = config.build(settings.algo.start) if "start" in settings.algo else None
    network = config.build(settings.network)
    device = config.build(settings.device)
    try:
        _check(device.spec, task)
        pulsed = Can.PULSE in device.spec.can
        budget = own.pulses if pulsed else own.writes
        limits = own.measurements, budget, own.low, own.high, own.read_seconds
        bench = Bench(device, folder, *limits, resume=resume)
        if not resume:
            (folder / "config.yaml").write_text(OmegaConf.to_yaml(settings))
            (folder / "command.json").write_text(json.dumps({"words": list(words), "task": task_name}))
        chips = f" on each of {np.prod(bench.spec.replicas)} chips" if bench.spec.replicas else ""
        print(
            f"{bench.spec.name}: {bench.spec.size} parameters{chips}, at most {own.measurements} measurements and "
            f"{budget} {'pulses of each' if pulsed else 'writes'}, in {folder}",
            flush=True,
        )
        with bench:
            measured = experiments.measure(bench, experiments.ground(bench, task, start, settings.seed))
    except Interrupted:
        print("interrupted; the device is at rest and what was read is kept. To go on:")
        print(f"python -m hwtrain.characterise resume={folder}")
        return INTERRUPTED
    except DeviceError as error:
        error.add_note(f"To go on with what was read: python -m hwtrain.characterise resume={folder}")
        raise
    finally:
        device.close()

    code = config.build(settings.algo.perturbation) if "perturbation" in settings.algo else None
    amplitude = None if code is None else float(code.reach(bench.spec.size))
    chips_seen = [
        Chip(measured.chip(at), measured.ground, measured.ground.theta[at], cost, own.level, amplitude)
        for at in np.ndindex(bench.spec.replicas)
    ]
    found = [conclude(chip) for chip in chips_seen]
    advice = [_advised(chip, traits, own) for chip, traits in zip(chips_seen, found, strict=True)]
    traits = twin.pooled(found)
    table = folder / f"{own.name}.npz"
    files = _files(own, traits, advice, measured, network, task_name, settings, table)
    document = _document(settings, bench, measured, found, advice)
    if "cell" in traits and traits["cell"].table is not None:
        save_table(table, traits["cell"].table)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pages.save(folder / name, text)
    pages.save(folder / RESULT, json.dumps(document, indent=1) + "\n")
    html = report.page(f"What {bench.spec.name} is like", str(folder), chips_seen, found, advice, files, document)
    pages.save(folder / "report.html", html)
    _tell(folder, own, found, advice, measured, bench, files, _twin_words(words, own, files, task_name, table))
    return 0


def _advised(chip: Chip, found: Mapping[str, Finding], own: Settings) -> Advice | None:
    if "rungs" not in chip.data or "baseline_noise" not in found:
        return None
    rest = found["baseline_noise"].value
    noise = found["probe_noise"].value if "probe_noise" in found else rest
    return recommend.recommend(chip.data, noise, rest, chip.ground.spec.size, own.target, own.level)


def _files(
    own: Settings,
    traits: Mapping[str, Finding],
    advice: Sequence[Advice | None],
    measured: Measured,
    network: Any,
    task_name: str,
    settings: DictConfig,
    table: Path,
) -> dict[str, str]:
    """The preset and the settings, by their place in the run folder."""
    files, spec = {}, measured.ground.device
    if Can.PULSE in spec.can:
        name, text = f"device/cell/{own.name}.yaml", twin.cell(traits, spec, table.name)
    else:
        name, text = f"device/{own.name}.yaml", twin.preset(traits, spec, measured.common["seconds"], network)
    if text is not None:
        files[name] = text
    if given := [one for one in advice if one is not None]:
        files[f"experiment/{own.name}.yaml"] = twin.settings(given, task_name, settings.task.get("batch"))
    return files


def _document(
    settings: DictConfig,
    bench: Bench,
    measured: Measured,
    found: Sequence[Mapping[str, Finding]],
    advice: Sequence[Advice | None],
) -> dict[str, Any]:
    """All that was found, as JSON types."""
    probe_set: dict[str, Any] = {name: measured.each[name] for name in ("pairs", "outside") if name in measured.each}
    probe_set["repeats"] = measured.common.get("paired")
    if "trains" in measured.each:
        levels = np.moveaxis(measured.each["trains"], -1, -3).reshape(-1, *_trains(measured))
        probe_set["pulses"] = {
            "trains": levels.shape[-2],
            "readings": levels.shape[-1],
            "block": measured.common["block"],
            "profiles": [replay.profile(chip) for chip in levels],
        }
    document: dict[str, Any] = {
        "schema": 1,
        "device": bench.device.to_json(),
        "level": settings.characterise.level,
        "spent": {"measurements": bench.spent[0], "writes": bench.spent[1]},
        "seconds_per_measurement": measured.common["seconds"],
        "devices": [{name: _told(finding) for name, finding in traits.items()} for traits in found],
        "advice": [None if one is None else asdict(one) for one in advice],
        "skipped": measured.skipped,
        "probe_set": probe_set,
    }
    plain: dict[str, Any] = to_json(document)
    return plain


def _trains(measured: Measured) -> tuple[int, int, int]:
    """Parameters, trains, and readings of one."""
    j, n, p = measured.each["trains"].shape[-3:]
    return p, j, n


def _told(finding: Finding) -> dict[str, Any]:
    """A finding as plain values; a table stands in a file of its own."""
    told = asdict(replace(finding, table=None))
    del told["table"]
    return told


def _tell(
    folder: Path,
    own: Settings,
    found: Sequence[Mapping[str, Finding]],
    advice: Sequence[Advice | None],
    measured: Measured,
    bench: Bench,
    files: Mapping[str, str],
    words: Sequence[str],
) -> None:
    """A sentence for each finding, and what to do with them; `words` train the twin."""
    if len(found) == 1:
        for finding in found[0].values():
            print(finding.says)
    else:
        print(report.table(found).text())
    for name, why in measured.skipped.items():
        print(f"Not measured ({name}): {why}.")
    if (one := advice[0]) is not None and len(advice) == 1:
        print(
            f"Train it with amplitude {one.amplitude.value:.3g}, tau_theta {one.tau_theta.value:.0f}, eta "
            f"{one.eta.value:.3g} and baseline {one.baseline}: its gradient estimates have a signal-to-noise ratio of "
            f"{one.signal:.2g}."
        )
    elif all(one is None for one in advice) and Can.PULSE not in bench.spec.can:
        print("No settings are recommended: the gradient is not seen above the noise. Raise characterise.measurements.")
    writes = f"{bench.spent[1]} {'pulses of each parameter' if Can.PULSE in bench.spec.can else 'writes'}"
    print(f"{bench.spent[0]} measurements and {writes}; pictures: {folder}/report.html")
    if files:
        print(f"train the twin: {shlex.join(['python', '-m', 'hwtrain', '--config-dir', str(folder), *words])}")
    if not any(name.startswith("device/") for name in files):
        print(f"No preset: {twin.NOT_PULSED if Can.PULSE in bench.spec.can else twin.NOT_A_TWIN}.")


def _twin_words(
    words: Sequence[str], own: Settings, files: Mapping[str, str], task_name: str, table: Path
) -> list[str]:
    """What trains the twin: the words that were given, but for those of the device and of this run, and its files."""
    others = ("device", "characterise", "algo", "recorder", "exper")
    kept = [word for word in words if word.startswith("algo.start") or not word.startswith(others)]
    for name, text in files.items():
        group = name.rpartition("/")[0]
        if group == "device/cell":
            kept.append("device=cells")
            kept += twin.start_within(text, kept, table)
        kept.append(f"{group}={own.name}")
    if not any(word.startswith("task=") for word in kept) and f"experiment/{own.name}.yaml" not in files:
        kept.append(f"task={task_name}")  # of an experiment
    return kept


def _check(spec: DeviceSpec, task: Task) -> None:
    """Refuse what cannot be measured before anything is sent."""
    if Can.COST not in spec.can:
        raise CapabilityError(
            f"characterising needs COST, the cost of a measurement; {spec.name!r} offers {spec.can.names()}. "
            "Nothing was sent."
        )
    if Can.PULSE in spec.can and Can.READ not in spec.can:
        raise CapabilityError(
            f"{spec.name!r} takes programming pulses, and cannot read where they lead. Wrap it in a scheme that turns "
            "values into pulses (hwtrain/devices/programming.py). Nothing was sent."
        )
    for what, have, want in (("inputs", task.inputs, spec.inputs), ("outputs", task.outputs, spec.outputs)):
        if have != want:
            raise ConfigError(
                f"task {task.name!r} has {have} {what}; device {spec.name!r} has {want}. Choose a task that fits."
            )


def _check_own_keys(words: Sequence[str]) -> None:
    known = [field.name for field in fields(Settings)]
    for word in words:
        group, dot, key = word.partition("=")[0].partition(".")
        if group == "characterise" and (not dot or key not in known):
            raise ConfigError(f"unknown key {word.partition('=')[0]!r}. {nearest(key, known)}")


def _resolved(composed: DictConfig) -> DictConfig:
    """The configuration with all references filled in; `resolve` checks the keys of the main command."""
    own = OmegaConf.to_container(composed.characterise, resolve=True)
    OmegaConf.set_struct(composed, False)
    del composed["characterise"]
    settings = config.resolve(composed)
    settings["characterise"] = own
    return settings


def _complain(error: HwtrainError) -> str:
    text = "\n  ".join([str(error), *getattr(error, "__notes__", [])])
    print(f"hwtrain.characterise: {text}", file=sys.stderr)
    return text


if __name__ == "__main__":
    sys.exit(main())
