"""Chips to be characterised, and the measuring of them without a command line."""

from __future__ import annotations

import numpy as np

from hwtrain import draws
from hwtrain.characterise import experiments
from hwtrain.characterise.bench import Bench
from hwtrain.characterise.chip import Chip
from hwtrain.characterise.findings import conclude
from hwtrain.core import Can, DeviceSpec, Measure, Program, Reading
from hwtrain.costs import MeanSquaredError
from hwtrain.devices.simulated import Simulated
from hwtrain.limits import check
from hwtrain.sim.networks import mlp
from hwtrain.start import Uniform
from hwtrain.tasks.dataset import DataTask

COST = MeanSquaredError()


def task(inputs=9, outputs=3, batch=8):
    """Uniform inputs and classes in turn."""
    x = draws.uniform(np.array(1, np.uint32), np.arange(256), inputs)
    y = np.eye(outputs)[np.arange(256) % outputs] if outputs > 1 else np.arange(256)[:, None] % 2.0
    return DataTask("made up", x, y, x, y, batch, {})


def chips(count=None, sizes=(9, 6, 3), **imperfections):
    return Simulated(mlp(list(sizes)), COST, chips=count, **{"low": -4.0, "high": 4.0, **imperfections})


def measured(device, folder, measurements=20000, writes=1000, read_seconds=0.0, seed=0, **more):
    """All readings of a device, and the bench they were made on."""
    given = task(device.spec.inputs, device.spec.outputs)
    with Bench(device, folder, measurements, writes, read_seconds=read_seconds, **more) as bench:
        return experiments.measure(bench, experiments.ground(bench, given, Uniform(), seed)), bench


def concluded(done, level=0.95):
    """The findings of every replica."""
    ground = done.ground
    return [
        conclude(Chip(done.chip(at), ground, ground.theta[at], COST, level))
        for at in np.ndindex(ground.theta.shape[:-1])
    ]


class Moody:
    """A black box of one layer whose parameters are not what was written: they decay, and settle.

    Args:
        decay: exponent of a power law of the readings since a write.
        settle: readings in which the last change comes to an end; 0 is at once.
        noise: of a cost.
        can: what it offers.
    """

    def __init__(self, decay=0.0, settle=0.0, noise=1e-3, can=Can.COST | Can.PROBE):
        self.decay, self.settle, self.noise = decay, settle, noise
        self.spec = DeviceSpec("moody", 4, 1, 5, can, low=-4.0, high=4.0)
        self.random = np.random.default_rng(0)
        self.theta = self.before = np.zeros(5)
        self.readings = self.rests = 0

    def execute(self, commands):
        check(self.spec, commands, self.theta)
        found = []
        for command in commands:
            if isinstance(command, Program):
                if not np.array_equal(command.theta, self.theta):
                    self.before, self.theta, self.readings = self.theta, command.theta, 0
            elif isinstance(command, Measure):
                deltas = np.zeros((1, 5)) if command.probes is None else command.probes.dense(5)
                found.append(Reading(cost=np.array([self.reading(command.sample, delta) for delta in deltas])))
        return tuple(found)

    def reading(self, sample, delta):
        late = np.exp(-self.readings / self.settle) if self.settle else 0.0
        self.readings += 1
        theta = (self.theta + (self.before - self.theta) * late) * self.readings**-self.decay + delta
        output = np.tanh(sample.x[0] @ theta[:4, None] + theta[4])
        return float(np.mean((output - sample.target[0]) ** 2)) + self.noise * self.random.standard_normal()

    def rest(self):
        self.rests += 1

    def close(self):
        pass
