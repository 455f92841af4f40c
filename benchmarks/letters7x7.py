"""Multiplexed gradient descent on letters7x7: learning rates, integration times and imperfections, beside another
program.

    python benchmarks/letters7x7.py [rates|noise] [--steps 1000000] [--chips 8]

49-4-4 with sigmoid neurons and mean squared error, single letters, a new perturbation every tick, amplitude 6.7e-4,
start U(-1/2, 1/2), eight seeds on eight chips. The figures beside ours are those of an independent program with random
numbers of its own, eight seeds; median accuracies spread by about 0.03 from one set of eight seeds to another.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from hwtrain.algorithms.mgd import MGD
from hwtrain.costs import MeanSquaredError
from hwtrain.devices.simulated import Simulated
from hwtrain.evaluation import Evaluation
from hwtrain.perturb import Rademacher
from hwtrain.recorder import InMemory
from hwtrain.sim.networks import mlp
from hwtrain.tasks.letters import letters7x7
from hwtrain.trainer import Budget, Trainer

# settings of the algorithm, settings of the device, the other program's accuracy after 1e4, 1e5 and 1e6 steps
RATES = [
    ({"eta": 0.01}, {}, (0.338, 0.782, 0.975)),
    ({"eta": 0.03}, {}, (0.429, 0.848, 0.949)),
    ({"eta": 0.1}, {}, (0.489, 0.726, 0.873)),
    ({"eta": 0.3}, {}, (0.413, 0.500, 0.587)),
    ({"eta": 0.5, "tau_theta": 10}, {}, (0.450, 0.811, 0.922)),
    ({"eta": 2.0, "tau_theta": 100}, {}, (0.395, 0.838, 0.962)),
    ({"eta": 3.0, "tau_theta": 1000}, {}, (0.312, 0.501, 0.970)),
]
PROBE_ONLY = {"baseline_noise": 0.0}
ADDING_UP = {"programming": "incremental"}
NOISE = [
    ({"eta": 0.02}, {"cost_noise": 1e-5, **PROBE_ONLY}, (0.374, 0.833, 0.952)),
    ({"eta": 0.02}, {"cost_noise": 1e-4, **PROBE_ONLY}, (0.351, 0.713, 0.907)),
    ({"eta": 0.02}, {"cost_noise": 1e-3, **PROBE_ONLY}, (0.240, 0.269, 0.249)),
    ({"eta": 0.02}, {"cost_noise": 1e-2, **PROBE_ONLY}, (0.237, 0.250, 0.243)),
    ({"eta": 0.02}, {"update_noise": 1e-5, **ADDING_UP}, (0.335, 0.840, 0.970)),
    ({"eta": 0.02}, {"update_noise": 1e-4, **ADDING_UP}, (0.335, 0.845, 0.980)),
    ({"eta": 0.02}, {"update_noise": 1e-3, **ADDING_UP}, (0.339, 0.853, 0.974)),
    ({"eta": 0.02}, {"update_noise": 1e-2, **ADDING_UP}, (0.333, 0.436, 0.444)),
]
TABLES = {"rates": RATES, "noise": NOISE}


def row(algorithm: dict, device: dict, theirs: tuple, steps: int, chips: int) -> str:
    """Train and put the accuracies of both programs side by side."""
    cost, recorder = MeanSquaredError(), InMemory(every=10_000)
    rule = MGD(perturbation=Rademacher(amplitude=6.7e-4), **algorithm)
    stack = Simulated(mlp([49, 4, 4]), cost, chips=chips, **device)
    setting = Evaluation(every=1000, samples=1024, angle=False)
    began = time.perf_counter()
    Trainer(rule, stack, letters7x7(), cost, Budget(steps=steps), recorder, evaluation=setting).run()
    seconds = time.perf_counter() - began
    lines = [line for line in recorder.lines if "test_accuracy" in line]
    at = np.array([line["step"] for line in lines])
    accuracy = np.array([line["test_accuracy"] for line in lines])
    ours = [f"{np.median(accuracy[at == step][-1]):.3f}" for step in (10**4, 10**5, 10**6) if step <= steps]
    to = []
    for level in (0.80, 0.95):
        reached = (accuracy >= level).any(axis=0)
        first = at[(accuracy >= level).argmax(axis=0)][reached]
        to.append(f"{np.median(first):,.0f} ({reached.sum()}/{chips})".replace(",", " ") if reached.any() else "never")
    name = ", ".join(
        f"{key} {value}" for key, value in {**algorithm, **device}.items() if value not in (0.0, "incremental")
    )
    others = " / ".join(f"{value:.3f}" for value in theirs)
    worst = f"{accuracy[-1].min():.3f}"
    return f"| {name} | {' / '.join(ours)} | {others} | {to[0]} | {to[1]} | {worst} | {seconds:.0f} s |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=TABLES, nargs="?", default="rates")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--chips", type=int, default=8)
    options = parser.parse_args()
    print(
        "| settings | accuracy at 1e4 / 1e5 / 1e6 | the other program | steps to 80 % | to 95 % | worst chip | time |"
    )
    print("|---|---|---|---|---|---|---|")
    for algorithm, device, theirs in TABLES[options.table]:
        print(row(algorithm, device, theirs, options.steps, options.chips), flush=True)


if __name__ == "__main__":
    main()
