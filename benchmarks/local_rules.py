"""Forward-forward and its relatives: what they reach on images, and what imperfect hardware does to them.

    python benchmarks/local_rules.py gates [--rules ff,symba,...] [--seeds 3] [--epochs 20]
    python benchmarks/local_rules.py best RULE [--task mnist] [--sizes 784,1000,1000,10] [--epochs 30] [--seed 0]
    python benchmarks/local_rules.py variation [--chips 5] [--out variation.json]
    python benchmarks/local_rules.py draw variation.json ../docs/rules.svg

`gates`: MNIST, 784-500-500-10, batches of 100, Adam 0.001, beside the figures of an independent program (seed 0 each).
`variation`: one network, one set of chips, one budget of measurements and one of writes for all rules; see `STUDY`.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hwtrain import svg
from hwtrain.algorithms.backprop import Backprop
from hwtrain.algorithms.feedback_alignment import FeedbackAlignment
from hwtrain.algorithms.forward_forward import ForwardForward
from hwtrain.algorithms.mgd import MGD
from hwtrain.algorithms.mono_forward import MonoForward
from hwtrain.core import Algorithm, Task
from hwtrain.costs import CrossEntropy
from hwtrain.devices.simulated import Simulated
from hwtrain.evaluation import Evaluation, evaluate
from hwtrain.optimize import Adam
from hwtrain.perturb import Rademacher
from hwtrain.recorder import InMemory
from hwtrain.sim.networks import mlp
from hwtrain.start import Fan
from hwtrain.tasks.images import fashion_mnist, mnist
from hwtrain.trainer import Budget, Result, Trainer

TASKS = {"mnist": mnist, "fashion_mnist": fashion_mnist}


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, the network it wants, and what another program measured (accuracy, epochs, seed 0)."""

    algorithm: Algorithm
    activation: str
    normalise: str = "none"
    other: str = ""
    epochs: int = 10


def rules(eta: float = 1e-3, halves: float | None = None, decay: float = 0.0) -> dict[str, Rule]:
    """Every rule by name."""
    common: dict[str, Any] = {"eta": eta, "eta_halves": halves, "precision": "single", "decay": decay}
    exact = Backprop(eta=eta, optimizer=Adam(), start=Fan())
    return {
        "ff": Rule(ForwardForward(**common), "relu", "rms", ".9729, .9728; .9685, .9673", 20),
        "ff hard": Rule(ForwardForward(**common, negatives="hard"), "relu", "rms", "", 20),
        "ff peer": Rule(ForwardForward(**common, peer=0.03), "relu", "rms", "", 20),
        "ff hybrid": Rule(ForwardForward(**common, negatives="hybrid", readout="softmax"), "relu", "rms", "", 20),
        "ff pair": Rule(ForwardForward(**common, negatives="pair", readout="softmax"), "relu", "rms", "", 20),
        "symba": Rule(ForwardForward(**common, loss="symba", goodness="mean"), "relu", "rms", ".9737; .9744", 20),
        "symba hard": Rule(
            ForwardForward(**common, loss="symba", goodness="mean", negatives="hard"), "relu", "rms", "", 20
        ),
        "mono": Rule(MonoForward(**common), "relu", "none", ".9804; .9810"),
        "dfa": Rule(FeedbackAlignment(**common), "tanh", "none", ".9778"),
        "drtp": Rule(FeedbackAlignment(**common | {"eta": eta / 2}, feedback="target"), "tanh", "none", ".9425"),
        "frozen": Rule(FeedbackAlignment(**common, feedback="none"), "tanh", "none", ".9162"),
        "backprop": Rule(exact, "tanh", "none", ".9786"),
    }


def train(
    rule: Rule, task: Task, sizes: list[int], budget: Budget, every: int, seed: int = 0, **device: Any
) -> tuple[Result, InMemory, float, Simulated]:
    """Train on simulated hardware; the result, its record, the seconds it took, and the hardware."""
    network = mlp(sizes, rule.activation, "linear", normalise=rule.normalise)
    chips, recorder = Simulated(network, CrossEntropy(), precision="single", **device), InMemory(every=10**9)
    setting = Evaluation(every=every, samples=10_000, angle=False)
    trainer = Trainer(rule.algorithm, chips, task, CrossEntropy(), budget, recorder, seed, setting)
    began = time.monotonic()
    return trainer.run(), recorder, time.monotonic() - began, chips


def gates(names: list[str], seeds: int, epochs: int | None) -> None:
    """Accuracy after epochs, mean and range over seeds."""
    task, made = mnist(batch=100), rules()
    for name in names:
        rule = made[name]
        last = epochs or rule.epochs
        accuracy, other, seconds = [], [], 0.0
        for seed in range(seeds):
            budget = Budget(steps=600 * last)
            result, _, spent, chips = train(rule, task, [784, 500, 500, 10], budget, 10**9, seed)
            accuracy.append(float(result.metrics["test_accuracy"]))
            seconds += spent / seeds
            if isinstance(rule.algorithm, ForwardForward | MonoForward):  # the other way to read the same network
                way = "softmax" if isinstance(rule.algorithm, ForwardForward) else "sum"
                reader = replace(rule.algorithm, readout=way)
                setting = Evaluation(samples=10_000, angle=False)
                metrics = evaluate(chips, task, CrossEntropy(), reader, result.state, setting, last=True)
                other.append(float(metrics["test_accuracy"]))
        spread = f"{min(accuracy):.4f}-{max(accuracy):.4f}"
        second = f"{np.mean(other):.4f} ({min(other):.4f}-{max(other):.4f})" if other else ""
        measured = result.counts.measurements
        cells = (
            name,
            last,
            f"{measured:,}",
            f"{seconds:.0f} s",
            f"{np.mean(accuracy):.4f}",
            spread,
            second,
            rule.other,
        )
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def best(
    name: str, task: str, sizes: list[int], epochs: int, seed: int, eta: float, halves: float, decay: float
) -> None:
    """One long run, accuracy as it goes."""
    rule = rules(eta, halves, decay)[name]
    budget = Budget(steps=600 * epochs)
    result, recorder, seconds, _ = train(rule, TASKS[task](batch=100), sizes, budget, 600 * max(epochs // 10, 1), seed)
    if result.outcome != "completed":
        raise SystemExit(f"{result.outcome} after {result.state.step} updates")
    for line in recorder.lines:
        if "test_accuracy" in line:
            print(f"epoch {line['step'] / 600:.0f}: {float(line['test_accuracy']):.4f}")
    print(
        f"{name} {task} {sizes} eta {eta:g} halves {halves:g} decay {decay:g} seed {seed}: "
        f"{float(result.metrics['test_accuracy']):.4f} after {epochs} epochs, {seconds:.0f} s",
        flush=True,
    )


# ---- what imperfect hardware does ------------------------------------------------------------------------------------

MEASUREMENTS, WRITES = 30_000, 3_000  # a run ends when either is spent
SIZES = [784, 64, 64, 10]  # relu, rms between layers, batches of 100
ADC = {"activity_range": (0.0, 8.0), "output_range": (-16.0, 16.0)}
STUDY: dict[str, tuple[str, list[float]]] = {
    "activation_variation": ("spread of the neurons", [0.0, 0.05, 0.1, 0.2, 0.3, 0.5]),
    "read_noise": ("noise of reported activities", [0.0, 0.1, 0.3, 1.0]),
    "activity_bits": ("bits of reported activities", [8, 4, 2]),
    "update_noise": ("noise of every write", [0.0, 0.01, 0.03, 0.1]),
}
RIVALS: dict[str, Algorithm] = {
    "forward-forward": ForwardForward(eta=3e-3, precision="single"),
    "Mono-Forward": MonoForward(eta=3e-3, precision="single"),
    "MGD": MGD(
        eta=3e-3,
        perturbation=Rademacher(amplitude=1e-2),
        tau_x=None,
        tau_theta=9,
        probes=9,
        optimizer=Adam(),
        start=Fan(),
    ),
    "back-propagation": Backprop(eta=3e-3, optimizer=Adam(), start=Fan()),
}


def variation(chips: int, out: Path, names: list[str]) -> None:
    """Test accuracy of every chip, for every rule and every imperfection."""
    task = mnist(batch=100)
    seen: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    for setting, (_, levels) in STUDY.items():
        for level in levels:
            imperfect = {} if not level else {setting: level}
            if setting == "activity_bits":
                imperfect = {"activity_bits": int(level), "output_bits": int(level), **ADC}
            for name in names:
                key = f"{name} {setting} {level if imperfect else 0}" if imperfect else f"{name} ideal"
                if key in seen:
                    continue
                rule = Rule(RIVALS[name], "relu", "rms")
                budget = Budget(measurements=MEASUREMENTS, steps=None)
                if name != "MGD":
                    budget = Budget(steps=min(WRITES, MEASUREMENTS))  # an update a write
                result, _, seconds, _ = train(rule, task, SIZES, budget, 10**9, chips=chips, **imperfect)
                seen[key] = {
                    "accuracy": [round(float(a), 4) for a in result.metrics["test_accuracy"]],
                    "measurements": result.counts.measurements,
                    "writes": result.counts.writes,
                    "seconds": round(seconds),
                }
                out.write_text(json.dumps(seen, indent=1) + "\n")
                print(key, seen[key], flush=True)


def draw(source: Path, target: Path) -> None:
    """The four charts of `variation` as one picture."""
    seen = json.loads(source.read_text())
    charts = []
    for setting, (label, levels) in STUDY.items():
        named = [str(level) if level else "0" for level in levels]
        lines = []
        for name in RIVALS:
            keys = [f"{name} {setting} {level}" if level else f"{name} ideal" for level in levels]
            accuracy = np.array([seen[key]["accuracy"] for key in keys])
            place = np.arange(len(levels), dtype=float)
            lines.append(
                svg.Series(place, np.median(accuracy, axis=1), name, accuracy.min(axis=1), accuracy.max(axis=1))
            )
        charts.append(
            svg.line_chart(
                lines,
                f"Test accuracy against {label}",
                svg.Axis(label, names=tuple(named)),
                svg.Axis("test accuracy", floor=0, ceiling=1),
                f"MNIST, 784-64-64-10; median and range of {accuracy.shape[1]} chips",
            )
        )
    target.write_text(svg.grid(charts) + "\n")


def main() -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    part = what.add_parser("gates")
    part.add_argument("--rules", default=",".join(rules()))
    part.add_argument("--seeds", type=int, default=3)
    part.add_argument("--epochs", type=int)
    part = what.add_parser("best")
    part.add_argument("rule", choices=list(rules()))
    part.add_argument("--task", default="mnist", choices=list(TASKS))
    part.add_argument("--sizes", default="784,1000,1000,10")
    part.add_argument("--epochs", type=int, default=30)
    part.add_argument("--seed", type=int, default=0)
    part.add_argument("--eta", type=float, default=1e-3)
    part.add_argument("--halves", type=float, default=3000.0)
    part.add_argument("--decay", type=float, default=0.0)
    part = what.add_parser("variation")
    part.add_argument("--chips", type=int, default=5)
    part.add_argument("--out", type=Path, default=Path("variation.json"))
    part.add_argument("--rules", default=",".join(RIVALS))
    part = what.add_parser("draw")
    part.add_argument("source", type=Path)
    part.add_argument("target", type=Path)
    given = parser.parse_args()
    match given.what:
        case "gates":
            gates(given.rules.split(","), given.seeds, given.epochs)
        case "best":
            sizes = [int(size) for size in given.sizes.split(",")]
            best(given.rule, given.task, sizes, given.epochs, given.seed, given.eta, given.halves, given.decay)
        case "variation":
            variation(given.chips, given.out, given.rules.split(","))
        case "draw":
            draw(given.source, given.target)


if __name__ == "__main__":
    main()
