"""Physics-aware training on devices that their model does not know, beside their true gradient and training in silico.

    python benchmarks/physics_aware.py [--chips 3] [--epochs 10]

MNIST, the first 8 000 images to train on and 2 000 to test on, 784-200-200-10, tanh, Adam 0.001, batches of 100. Every
weight is multiplied by its own 1 + spread * xi; every unit says f(s u + o) of its sum u, s = 1 + spread * xi,
o = offset * xi. `in silico` trains a perfect chip and programs the others with the result.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from hwtrain.algorithms.backprop import Backprop
from hwtrain.algorithms.physics_aware import MODELS, PhysicsAware
from hwtrain.core import Algorithm, Array, Can, Measure, Program
from hwtrain.costs import CrossEntropy
from hwtrain.devices.simulated import Simulated
from hwtrain.optimize import Adam
from hwtrain.recorder import InMemory
from hwtrain.sim.networks import Neurons, mlp
from hwtrain.start import Fan
from hwtrain.tasks.dataset import DataTask
from hwtrain.tasks.images import mnist
from hwtrain.trainer import Budget, Result, Trainer

NETWORK, COST = mlp([784, 200, 200, 10], "tanh", "linear"), CrossEntropy()
ROUGH = ((0.2, 0.0), (0.5, 0.5), (1.0, 1.0))  # spread, offset
OTHERS = {  # of an independent program, one chip each
    "true gradient": (".921", ".923", ".925"),
    "programmed": (".921", ".921", ".012"),
    "fitted": ("", "", ""),
    "random": (".915", ".914", ".385"),
    "in silico": (".908", ".710", ".387"),
}


def rough(spread: float, offset: float, chips: int) -> Simulated:
    """Chips with steepness and offset of every unit drawn on their own, beside the gain of every weight."""
    device = Simulated(NETWORK, COST, chips=chips, precision="single", parameter_variation=spread)
    random = np.random.default_rng(0)
    neurons = []
    for layer in NETWORK.layers:
        shape = (chips, 1, 1, 1, layer.outputs[0])
        steepness, moved = 1 + spread * random.normal(size=shape), offset * random.normal(size=shape)
        neurons.append(Neurons(1, steepness.astype(np.float32), (-moved / steepness).astype(np.float32), 0))
    device._neurons = tuple(neurons)  # no imperfection that the simulator has a name for
    return device


def train(rule: Algorithm, device: Simulated, task: DataTask, epochs: int) -> Result:
    """Train, and test on all held-out images."""
    return Trainer(rule, device, task, COST, Budget(steps=80 * epochs), InMemory(every=10**9)).run()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chips", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    given = parser.parse_args()
    whole = mnist(batch=100)
    (train_x, train_y), (test_x, test_y) = (
        (part.x[0], part.target[0]) for part in (whole.seen(8000), whole.held_out(2000))
    )
    task = DataTask("part of mnist", train_x, train_y, test_x, test_y, 100, {})
    rules: dict[str, Algorithm] = {"true gradient": Backprop(eta=1e-3, optimizer=Adam(), start=Fan())}
    rules |= {model: PhysicsAware(eta=1e-3, precision="single", model=model) for model in MODELS}
    perfect = train(rules["programmed"], Simulated(NETWORK, COST, precision="single"), task, given.epochs).state.theta
    print("| spread, offset | " + " | ".join(OTHERS) + " |\n|" + "---|" * (len(OTHERS) + 1))
    for row, (spread, offset) in enumerate(ROUGH):
        reached: dict[str, Array] = {}
        for name, rule in rules.items():
            result = train(rule, rough(spread, offset, given.chips), task, given.epochs)
            reached[name] = np.asarray(result.metrics["test_accuracy"])
        programmed = Program(np.stack([perfect] * given.chips))
        (reading,) = rough(spread, offset, given.chips).execute(
            [programmed, Measure(task.held_out(2000), observe=Can.OUTPUT)]
        )
        output: Any = reading.output
        reached["in silico"] = (output[:, 0].argmax(-1) == task.held_out(2000).target.argmax(-1)).mean(axis=(-2, -1))
        cells = [f"{' '.join(f'{a:.3f}' for a in reached[name])} ({OTHERS[name][row] or '-'})" for name in OTHERS]
        print(f"| {spread:g}, {offset:g} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
