"""The front door: `python -m hwtrain algo=mgd device=sim`.

Exit codes: 0 finished, 2 something the user can mend, 130 interrupted and resumable.
"""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from hwtrain import __version__, checkpoint, config
from hwtrain.console import Status, duration, fault
from hwtrain.errors import CapabilityError, ConfigError, HwtrainError, LimitError, RecordError
from hwtrain.trainer import Result, Trainer

MENDABLE, INTERRUPTED = 2, 130


def main() -> int:
    """Train as the command line says."""
    failures: list[str] = []
    if sys.argv[1:] == ["--version"]:
        print(f"hwtrain {__version__}")
        return 0

    def attempt(run: Callable[[], Result]) -> None:
        try:
            result = run()
        except Exception as error:
            failures.append(_complain(fault(error)))
        else:
            if result.outcome == "interrupted":
                raise SystemExit(INTERRUPTED)

    def job(composed: DictConfig) -> None:
        def run() -> Result:
            if composed.resume is not None:  # the command line was looked at before
                raise ConfigError("resume is said on the command line: python -m hwtrain resume=RUN_FOLDER")
            return train(config.resolve(composed), ", ".join(config.choices()))

        attempt(run)

    def go_on() -> Result:
        folder, settings = config.resumed(sys.argv[1:])
        return train(settings, str(folder), resume=True)

    try:
        if any(argument.startswith("resume=") and argument != "resume=null" for argument in sys.argv[1:]):
            attempt(go_on)
        else:
            config.run_each(job)
    except HwtrainError as error:
        failures.append(_complain(error))
    except KeyboardInterrupt:
        print("\nhwtrain: stopped at once; the device is at rest and the last checkpoint is kept.", file=sys.stderr)
        return INTERRUPTED
    if len(failures) > 1:
        print(f"hwtrain: {len(failures)} runs of the sweep failed.", file=sys.stderr)
    return MENDABLE if failures else 0


def train(settings: DictConfig, title: str, *, resume: bool = False) -> Result:
    """One run from a resolved configuration."""
    cost, task, algorithm = (config.build(settings[name]) for name in ("cost", "task", "algo"))
    budget, evaluation = config.build(settings.budget), config.build(settings.evaluate)
    more = {"text": OmegaConf.to_yaml(settings), "resume": resume} if "folder" in settings.recorder else {}
    recorder = config.build(settings.recorder, **more)
    device = config.build(settings.device)
    try:
        trainer = Trainer(
            algorithm, device, task, cost, budget, recorder, settings.seed, evaluation, status=Status(sys.stderr)
        )
        spec = device.spec
        where = f" in {settings.recorder.folder}" if "folder" in settings.recorder else ""
        print(f"{title}: {spec.size} parameters{_chips(spec.replicas)}{where}", flush=True)
        result = trainer.run(
            {
                "task": getattr(task, "provenance", {}),
                "config": OmegaConf.to_container(settings),
                "versions": _versions(),
                "command": sys.argv,
            }
        )
    except (ConfigError, CapabilityError, LimitError, RecordError):
        raise
    except Exception as error:
        if "folder" in settings.recorder and checkpoint.exists(Path(settings.recorder.folder)):
            error.add_note(f"To go on from the last checkpoint: python -m hwtrain resume={settings.recorder.folder}")
        raise
    finally:
        device.close()
    _tell(result, settings)
    return result


def _tell(result: Result, settings: DictConfig) -> None:
    """The outcome in a sentence or two."""
    folder = settings.recorder.get("folder")
    if result.outcome == "interrupted":
        print(f"interrupted after {result.state.step} steps; the device is at rest. To go on:")
        print(f"python -m hwtrain resume={folder}" if folder else "(nothing was kept: recorder=none)")
        return
    scores = [
        f"{name.replace('_', ' ')} {_middle(result.metrics[name], '.2%' if name.endswith('accuracy') else '.4g')}"
        for name in ("test_accuracy", "test_cost", "train_cost")
        if name in result.metrics
    ]
    print(": ".join([result.outcome.replace("_", " "), *([", ".join(scores)] if scores else [])]))
    counts = result.counts
    kinds = ("perturbed", counts.perturbed), ("baseline", counts.baseline), ("gradient", counts.gradients)
    asked = " and ".join(f"{count} {kind}" for kind, count in kinds if count)
    print(f"{asked} measurements, {result.state.updates} updates, {counts.writes} writes in {duration(result.seconds)}")
    if folder and settings.recorder.get("report", False):
        print(f"pictures: {folder}/report.html")


def _middle(values: Any, form: str) -> str:
    """A number, or the median of several with their range."""
    if np.ndim(values) == 0:
        return format(float(values), form)
    return f"{np.median(values):{form}} (median; {np.min(values):{form}} to {np.max(values):{form}})"


def _chips(replicas: tuple[int, ...]) -> str:
    return f" on each of {np.prod(replicas)} chips" if replicas else ""


def _versions() -> dict[str, str]:
    names = ("numpy", "scipy", "hydra-core", "omegaconf")
    packages = {name: importlib.metadata.version(name) for name in names}
    return {"hwtrain": __version__, "python": platform.python_version(), **packages, "platform": platform.platform()}


def _complain(error: HwtrainError) -> str:
    text = "\n  ".join([str(error), *getattr(error, "__notes__", [])])
    print(f"hwtrain: {text}", file=sys.stderr)
    return text


if __name__ == "__main__":
    sys.exit(main())
