"""The firmware's arithmetic in numpy float32: the same operations in the same order, so the same bits.

Each line here is one line of firmware/include/hwtrain/network.h's account of it. Vectorised over outputs and parameters
only, never over a sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwtrain.core import Can, DeviceSpec, Measure, Program, Reading
from hwtrain.core import Train as CoreTrain
from hwtrain.devices.messages import Activation, Baseline, Bias, Code, Cost, DenseLayer, Network, Pattern, Train
from hwtrain.limits import check
from hwtrain.perturb import Antithetic, Rademacher, Walsh
from hwtrain.sim.networks import mlp

f32 = np.float32
ZERO = f32(0)
LN2_HIGH, LN2_LOW, LOG2E = f32(0.69287109375), f32(2.7608681e-4), f32(1.44269504)


def horner(x, *coefficients):
    p = f32(coefficients[0])
    for c in coefficients[1:]:
        p = p * x + f32(c)
    return p


def exp(x):
    x = np.where(x < f32(-87), f32(-87), x)
    x = np.where(x < f32(87), x, f32(87))
    power = np.trunc(x * LOG2E + np.where(x < 0, f32(-0.5), f32(0.5)))
    r = x - power * LN2_HIGH - power * LN2_LOW
    p = horner(r, 1.39517e-3, 8.3696e-3, 4.166619e-2, 1.6666513e-1, 5.0000001e-1, 1.0, 1.0)
    return p * ((power.astype(np.int32) + 127) << 23).view(f32)


def log(x):
    bits = np.asarray(x, f32).reshape(1).view(np.int32)
    power = f32((bits[0] >> 23) - 126)
    mantissa = ((bits & 0x7FFFFF) | 0x3F000000).view(f32)[0]
    if mantissa < f32(0.70710678):
        mantissa, power = mantissa + mantissa, power - f32(1)
    f = mantissa - f32(1)
    p = horner(
        f, 6.746601e-2, -1.1675641e-1, 1.1888175e-1, -1.2405591e-1, 1.4219551e-1,
        -1.6667996e-1, 2.0002119e-1, -2.500001e-1, 3.3333313e-1,
    )  # fmt: skip
    square = f * f
    return power * LN2_HIGH + (f + (square * f * p - f32(0.5) * square + power * LN2_LOW))


def tanh(x):
    z = x * x
    near = x + x * z * horner(z, -5.71704e-3, 2.065058e-2, -5.37435e-2, 1.3331491e-1, -3.3333284e-1)
    size = np.abs(x)
    far = f32(1) - f32(2) / (exp(size + size) + f32(1))
    return np.where(size < f32(0.625), near, np.where(x < 0, -far, far))


ACTIVATIONS = {
    Activation.LINEAR: lambda u: u,
    Activation.SIGMOID: lambda u: f32(1) / (f32(1) + exp(-u)),
    Activation.TANH: tanh,
    Activation.RELU: lambda u: np.where(u > 0, u, f32(0)),
}


def ordered(terms):
    """Sum over the first axis, from +0 on, in ascending order."""
    total = np.zeros(terms.shape[1:], f32)
    for term in terms:
        total = total + term
    return total


def cost(kind, y, target):
    if kind == Cost.MEAN_SQUARED_ERROR:
        return ordered((y - target) ** 2) / f32(len(y))
    shifted = y - y.max()
    return ordered(target * (log(ordered(exp(shifted))) - shifted))


def signs(code: Code, tick: int, size: int):
    """+1 and -1, float32: the patterns themselves are those of hwtrain.perturb."""
    formula = {
        Pattern.RADEMACHER: Rademacher(amplitude=1.0),
        Pattern.WALSH: Walsh(amplitude=1.0),
        Pattern.WALSH_TWO_SIDED: Walsh(amplitude=1.0, two_sided=True),
    }[code.pattern]
    formula = Antithetic(formula) if code.antithetic else formula
    return formula(np.array(code.seed, np.uint32), np.array([tick // code.hold]), size)[0].astype(f32)


@dataclass
class Board:
    """What the firmware holds, and what it does with it."""

    network: Network
    theta: np.ndarray
    samples: np.ndarray  # (slots, inputs + outputs)

    def forward(self, x, moves=None, amplitude=ZERO):
        """Activity of every layer; `moves` are the signs of a perturbation."""
        first, activity = 0, []
        for layer in self.network.layers:
            n, m = len(x), layer.outputs
            matrix, bias = np.split(self.theta[first : first + (n + 1) * m], [n * m])
            u = ordered(x[:, None] * matrix.reshape(n, m))
            if moves is not None:
                down = moves[first : first + n * m].reshape(n, m) < 0
                below = ordered(np.where(down, x[:, None], f32(0)))
                u = u + amplitude * (ordered(x) - (below + below))
                bias = bias + moves[first + n * m : first + (n + 1) * m] * amplitude
            x = ACTIVATIONS[layer.activation](u + bias if layer.bias == Bias.ADD else u - bias)
            activity.append(x)
            first += (n + 1) * m
        return activity

    def measure(self, slot, batch=1, moves=None, amplitude=0.0):
        total = f32(0)
        for sample in self.samples[slot : slot + batch]:
            x, target = np.split(sample, [self.network.inputs])
            total = total + cost(self.network.cost, self.forward(x, moves, f32(amplitude))[-1], target)
        return total / f32(batch)

    def update(self, code, first, rate, modulations, low=-np.inf, high=np.inf):
        total = None
        for k, modulation in enumerate(modulations):
            weight = f32(rate) * modulation if np.isfinite(modulation) else f32(0)
            term = signs(code, first + k, len(self.theta)) * weight
            total = term if total is None else total + term
        self.theta = np.clip(self.theta - total, f32(low), f32(high))

    def train(self, block: Train):
        """The trace (ticks, 2) of baselines and modulations."""
        trace = np.zeros((block.ticks, 2), f32)
        baseline, stale = f32(0), True
        for t in range(block.ticks):
            tick = block.first + t
            slot = block.slots[tick // block.tau_x - block.first // block.tau_x]
            if block.baseline == Baseline.FRESH or (block.baseline == Baseline.SHARED and stale):
                baseline = self.measure(slot, block.batch)
            moves = signs(block.code, tick, len(self.theta))
            trace[t] = baseline, self.measure(slot, block.batch, moves, block.code.amplitude) - baseline
            stale = (tick + 1) % block.tau_x == 0
            if (tick + 1) % block.tau_theta == 0:
                begin = t + 1 - block.tau_theta
                self.update(block.code, block.first + begin, block.rate, trace[begin : t + 1, 1], block.low, block.high)
                stale = True
        return trace


class Chip:
    """The numpy board as a device, so that the trainer trains it like any other."""

    def __init__(self, sizes, low=-10.0, high=10.0):
        network = mlp(sizes)
        layers = tuple(DenseLayer(size) for size in sizes[1:])
        self.board = Board(Network(sizes[0], layers), np.zeros(network.size, f32), np.zeros((1, 1), f32))
        can = Can.COST | Can.OUTPUT | Can.PROBE | Can.TRAIN
        self.spec = DeviceSpec(
            "numpy", sizes[0], sizes[-1], network.size, can, low, high, layers=network.layers, precision="single"
        )

    def execute(self, commands):
        check(self.spec, commands, self.board.theta)
        readings = []
        for command in commands:
            match command:
                case Program(theta):
                    self.board.theta = theta.astype(f32)
                case Measure():
                    readings.append(self.measured(command))
                case CoreTrain():
                    readings.append(self.trained(command))
        return tuple(readings)

    def rest(self):
        pass

    def close(self):
        pass

    def store(self, sample):
        rows = [array.reshape(-1, array.shape[-1]) for array in (sample.x, sample.target)]
        self.board.samples = np.concatenate(rows, axis=-1).astype(f32)

    def measured(self, command):
        self.store(command.sample)
        board, batch = self.board, len(self.board.samples)
        if command.observe == Can.OUTPUT:
            outputs = [board.forward(sample[: self.spec.inputs])[-1] for sample in board.samples]
            return Reading(output=np.array(outputs).reshape(1, *command.sample.target.shape))
        if command.probes is None:
            return Reading(cost=np.array([board.measure(0, batch)]))
        code = coded(command.probes, self.spec.size)
        ticks = range(command.probes.first, command.probes.first + command.probes.count)
        return Reading(
            cost=np.array(
                [board.measure(0, batch, signs(code, tick, self.spec.size), code.amplitude) for tick in ticks]
            )
        )

    def trained(self, command):
        self.store(command.sample)
        ticks = command.probes
        slots = [command.batch * k for k in range(len(command.presentations))]
        trace = self.board.train(
            Train(
                coded(ticks, self.spec.size), ticks.first, ticks.count, slots, command.rate, command.low, command.high,
                command.tau_x, command.tau_theta, command.batch, Baseline[command.baseline.upper()],
            )
        )  # fmt: skip
        return Reading(baseline=trace[:, 0], modulation=trace[:, 1])


def coded(probes, size):
    return Code(int(probes.seed), f32(probes.perturbation.reach(size)), Pattern.RADEMACHER, False, probes.hold)
