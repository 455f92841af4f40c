"""Training parameters that stand in cells: which rule gets along with which.

    python benchmarks/cells.py toy [--chips 6]
    python benchmarks/cells.py xor [--seeds 5]
    python benchmarks/cells.py study TASK [--chips 5] [--cells reram_es,...] [--rules MGD,...] [--out cells.json]
    python benchmarks/cells.py draw cells.json ../docs/cells.svg

`toy`: linear regression on soft-bounds cells whose steps do not balance, by gradients from Gokmen & Haensch (2020) to
Rasch et al. (2024), for fast arrays whose reference is known exactly, roughly, or not at all.
`study`: one network and one presentation budget for all rules, on published cells; see `STUDY`.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hydra.utils import instantiate

from hwtrain import svg
from hwtrain.algorithms.analog_sgd import AnalogSGD
from hwtrain.algorithms.backprop import Backprop
from hwtrain.algorithms.mgd import MGD
from hwtrain.algorithms.mono_forward import MonoForward
from hwtrain.algorithms.tiki_taka import VARIANTS, TikiTaka
from hwtrain.config import conf_dir
from hwtrain.core import Algorithm, Array, Device, Task
from hwtrain.costs import CrossEntropy, MeanSquaredError
from hwtrain.devices.programming import simulated_cells
from hwtrain.evaluation import Evaluation
from hwtrain.optimize import Adam, Descent
from hwtrain.perturb import Rademacher
from hwtrain.recorder import InMemory
from hwtrain.sim.cells import Cell
from hwtrain.sim.laws import SoftBounds
from hwtrain.sim.networks import mlp
from hwtrain.sim.pulsed import Pulsed, Reference
from hwtrain.start import Fan, Uniform
from hwtrain.tasks.images import mnist
from hwtrain.tasks.letters import letters7x7
from hwtrain.tasks.parity import parity
from hwtrain.tasks.teacher import Teacher
from hwtrain.trainer import Budget, Result, Trainer


def preset(name: str) -> Cell:
    """A cell of conf/device/cell."""
    cell: Cell = instantiate(yaml.safe_load((conf_dir() / "device" / "cell" / f"{name}.yaml").read_text()))
    return cell


# ---- the toy ---------------------------------------------------------------------------------------------------------

SAMPLES = 10_000
SOFT: dict[str, Any] = {
    "law": SoftBounds(), "dw_min": 0.02, "dw_min_dtod": 0.3, "dw_min_std": 0.3,
    "w_max": 1.0, "w_min": -1.0, "w_max_dtod": 0.1, "w_min_dtod": 0.1,
}  # fmt: skip
WEIGHTS = Pulsed(**SOFT, up_down_dtod=0.3)
FAST = {
    "balanced": Pulsed(**SOFT, read_noise=0.01),
    "reference exact": Pulsed(**SOFT, up_down_dtod=0.3, read_noise=0.01, reference=Reference(0, 0, True)),
    "off by 0.1": Pulsed(**SOFT, up_down_dtod=0.3, read_noise=0.01, reference=Reference(0, 0.1, True)),
    "no reference": Pulsed(**SOFT, up_down_dtod=0.3, read_noise=0.01),
}
STILL = Uniform(0.0, 0.0)


def wrong(algorithm: Algorithm, device: Device, samples: int = SAMPLES) -> Array:
    """Root mean square error of the weights over the last fifth of the samples, one for every chip."""
    task = Teacher()
    trainer = Trainer(algorithm, device, task, MeanSquaredError(), Budget(steps=samples), InMemory())
    state, errors = algorithm.init(device.spec, trainer.seed), []
    for number in range(samples):
        state, _, _ = trainer.step(state)
        if number >= samples * 4 // 5 and number % 10 == 0:
            held: Array = device.snapshot()["value"] if isinstance(algorithm, AnalogSGD | TikiTaka) else state.theta  # type: ignore[attr-defined]
            errors.append(((held[..., : task.matrix.size] - task.matrix.ravel()) ** 2).mean(axis=-1))
    return np.sqrt(np.mean(errors, axis=0))


def toy(chips: int) -> None:
    """The table of root mean square errors, mean and range over chips."""
    network = mlp([20, 5], output="linear")

    def device(fast: Cell | None = None) -> Device:
        return simulated_cells(network, MeanSquaredError(), WEIGHTS, None, fast=fast, chips=chips)

    def row(name: str, where: str, error: Array) -> None:
        print(f"| {name} | {where} | {error.mean():.3f} | {error.min():.3f} to {error.max():.3f} |", flush=True)

    row("analog_sgd", "", wrong(AnalogSGD(eta=0.125, start=STILL), device()))
    for where, fast in FAST.items():
        for variant in VARIANTS:
            rule = TikiTaka(variant=variant, eta=0.125, transfer=0.1, every=2, flip=0.05, start=STILL)
            row(variant, where, wrong(rule, device(fast)))


# ---- exclusive or ----------------------------------------------------------------------------------------------------


def xor(seeds: int) -> None:
    """How many seeds of 2-64-1 learn exclusive or on the cells of Gong et al. (2018)."""
    cell = preset("reram_es")
    for name, (rule, steps) in XOR.items():
        analog = isinstance(rule, AnalogSGD | TikiTaka)
        device = simulated_cells(
            mlp([2, 64, 1], "relu", "sigmoid"), MeanSquaredError(), cell, None if analog else "mixed_precision",
            fast=cell if analog else None, chips=seeds,
        )  # fmt: skip
        task = parity(2, batch=1 if analog else 4, name="xor")
        result, seconds = trained(rule, device, task, MeanSquaredError(), steps)
        accuracy, cost = result.metrics["test_accuracy"], result.metrics["test_cost"]
        solved = f"{int((accuracy == 1).sum())} of {seeds} seeds"
        print(f"| {name} | {steps:,} steps | {solved} | cost {np.median(cost):.3f} | {seconds:.0f} s |", flush=True)


HALF = Uniform(-0.5, 0.5)
XOR: dict[str, tuple[Algorithm, int]] = {
    "MGD": (
        MGD(eta=0.05, perturbation=Rademacher(amplitude=0.05), tau_theta=32, probes=32, tau_x=None, start=HALF), 50_000,
    ),
    "back-propagation": (Backprop(eta=0.1, start=HALF), 5_000),
    "analog_sgd": (AnalogSGD(eta=0.1, start=HALF), 5_000),
    "ttv2": (TikiTaka(variant="ttv2", eta=0.3, start=HALF), 5_000),
    "agad": (TikiTaka(variant="agad", eta=0.5, start=HALF), 5_000),
}  # fmt: skip


def trained(rule: Algorithm, device: Device, task: Task, cost: Any, steps: int) -> tuple[Result, float]:
    """A run, and the seconds it took."""
    began = time.monotonic()
    setting = Evaluation(every=10**9, samples=10_000, angle=False)
    result = Trainer(rule, device, task, cost, Budget(steps=steps), InMemory(every=10**9), evaluation=setting).run()
    return result, time.monotonic() - began


# ---- published cells -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Study:
    """A task, its network, and what every rule gets.

    Args:
        task: with so many samples at once.
        sizes: of the network; relu, a linear last layer, cross-entropy.
        rules: by name, each with its samples at once and its steps.
    """

    task: Any
    sizes: list[int]
    rules: dict[str, tuple[Algorithm, int, int]]


CELLS = ("gokmen_vlasov", "capacitor", "ecram", "reram_sb", "reram_es", "pcm_pair")
STUDY = {
    "letters7x7": Study(
        letters7x7,
        [49, 16, 4],
        {
            "MGD": (
                MGD(eta=0.005, perturbation=Rademacher(amplitude=0.02), tau_x=None, tau_theta=16, probes=16,
                    optimizer=Adam(), start=Fan()), 16, 40_000,
            ),
            "Mono-Forward": (MonoForward(eta=0.003, optimizer=Adam(), start=Fan()), 16, 2_500),
            "analog SGD": (AnalogSGD(eta=0.02, start=Fan()), 1, 6_000),
            "Tiki-Taka 2": (TikiTaka(variant="ttv2", eta=0.1, start=Fan()), 1, 6_000),
            "Tiki-Taka (AGAD)": (TikiTaka(variant="agad", eta=0.3, start=Fan()), 1, 6_000),
            "back-propagation": (Backprop(eta=0.1, optimizer=Descent(), start=Fan()), 16, 2_500),
        },
    ),
    "mnist": Study(
        mnist,
        [784, 32, 10],
        {
            "MGD": (
                MGD(eta=0.003, perturbation=Rademacher(amplitude=0.01), tau_x=None, tau_theta=16, probes=16,
                    optimizer=Adam(), start=Fan()), 100, 16_000,
            ),
            "Mono-Forward": (MonoForward(eta=0.001, optimizer=Adam(), start=Fan()), 16, 2_000),
            "analog SGD": (AnalogSGD(eta=0.01, start=Fan()), 1, 6_000),
            "Tiki-Taka 2": (TikiTaka(variant="ttv2", eta=0.1, start=Fan()), 1, 6_000),
            "Tiki-Taka (AGAD)": (TikiTaka(variant="agad", eta=0.3, start=Fan()), 1, 6_000),
            "back-propagation": (Backprop(eta=0.1, optimizer=Descent(), start=Fan()), 16, 2_000),
        },
    ),
}  # fmt: skip


def study(name: str, chips: int, cells: list[str], rules: list[str], out: Path) -> None:
    """Accuracy, writes and pulses of every chip, added to a file."""
    seen: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    this = STUDY[name]
    for kind in cells:
        cell = preset(kind)
        for rule in rules or this.rules:
            algorithm, batch, steps = this.rules[rule]
            analog = isinstance(algorithm, AnalogSGD | TikiTaka)
            network = mlp(this.sizes, "relu", "linear")
            device: Any = simulated_cells(
                network, CrossEntropy(), cell, None if analog else "mixed_precision",
                fast=cell if isinstance(algorithm, TikiTaka) else None, chips=chips, precision="single",
            )  # fmt: skip
            result, seconds = trained(algorithm, device, this.task(batch=batch), CrossEntropy(), steps)
            traffic = device.counts()["traffic"]
            seen[f"{name}/{kind}/{rule}"] = {
                "accuracy": np.asarray(result.metrics["test_accuracy"]).tolist(),
                "writes": result.counts.writes,
                "presented": steps * batch,
                "pulses of a cell": traffic["pulses of devices"] / (chips * network.size),
                "most pulses of a device": traffic["most pulses of a device"],
                "seconds": seconds,
            }
            out.write_text(json.dumps(seen, indent=1) + "\n")
            found = seen[f"{name}/{kind}/{rule}"]
            print(
                f"| {kind} | {rule} | {np.median(found['accuracy']):.3f} | {min(found['accuracy']):.3f} to "
                f"{max(found['accuracy']):.3f} | {found['writes']:,} | {found['pulses of a cell']:.1f} | "
                f"{found['most pulses of a device']:,} | {seconds:.0f} s |",
                flush=True,
            )


def draw(source: Path, target: Path) -> None:
    """One chart for each task: cells along the axis, a group of points for every rule."""
    seen = json.loads(source.read_text())
    charts = []
    for name, this in STUDY.items():
        kinds = [kind for kind in CELLS if any(key.startswith(f"{name}/{kind}/") for key in seen)]
        lines = []
        for rule in this.rules:
            accuracy = np.array([seen[f"{name}/{kind}/{rule}"]["accuracy"] for kind in kinds])
            place = np.arange(len(kinds), dtype=float)
            lines.append(
                svg.Series(place, np.median(accuracy, axis=1), rule, accuracy.min(axis=1), accuracy.max(axis=1))
            )
        note = f"{'-'.join(map(str, this.sizes))}; median and range of {accuracy.shape[1]} chips"
        charts.append(
            svg.line_chart(
                lines,
                f"Test accuracy on published cells: {name}",
                svg.Axis("cell", names=tuple(kind.replace("_", " ") for kind in kinds)),
                svg.Axis("test accuracy", floor=0, ceiling=1),
                note,
            )
        )
    target.write_text(svg.grid(charts) + "\n")


def main() -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    part = what.add_parser("toy")
    part.add_argument("--chips", type=int, default=6)
    part = what.add_parser("xor")
    part.add_argument("--seeds", type=int, default=5)
    part = what.add_parser("study")
    part.add_argument("task", choices=list(STUDY))
    part.add_argument("--chips", type=int, default=3)
    part.add_argument("--cells", default=",".join(CELLS))
    part.add_argument("--rules", default="")
    part.add_argument("--out", type=Path, default=Path("cells.json"))
    part = what.add_parser("draw")
    part.add_argument("source", type=Path)
    part.add_argument("target", type=Path)
    given = parser.parse_args()
    match given.what:
        case "toy":
            toy(given.chips)
        case "xor":
            xor(given.seeds)
        case "study":
            rules = given.rules.split(",") if given.rules else []
            study(given.task, given.chips, given.cells.split(","), rules, given.out)
        case "draw":
            draw(given.source, given.target)


if __name__ == "__main__":
    main()
