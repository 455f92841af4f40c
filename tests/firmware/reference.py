"""The firmware's arithmetic in numpy float32: the same operations in the same order, so the same bits.

Each line here is one line of firmware/include/hwtrain/network.h's account of it, or of firmware/src/local.c. Vectorised
over outputs and parameters only, never over a sum.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hwtrain.core import Can, DeviceSpec, Measure, Program, Reading
from hwtrain.core import Train as CoreTrain
from hwtrain.devices.messages import (
    Activation,
    Baseline,
    Bias,
    Code,
    Cost,
    DenseLayer,
    Goodness,
    Learn,
    Network,
    Normalise,
    Pattern,
    Rule,
    Train,
)
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


def sqrt(x):
    return np.where(x < np.finfo(f32).tiny, f32(0), np.sqrt(x))


def sigmoid(x):
    return f32(1) / (f32(1) + exp(-x))


def softplus(x):
    return (ZERO if x < 0 else x) + log(f32(1) + exp(x if x < 0 else -x))


ACTIVATIONS = {
    Activation.LINEAR: lambda u: u,
    Activation.SIGMOID: sigmoid,
    Activation.TANH: tanh,
    Activation.RELU: lambda u: np.where(u > 0, u, f32(0)),
    Activation.STEP: lambda u: np.where(u > 0, f32(1), f32(0)),
}
SLOPES = {
    Activation.LINEAR: lambda y: np.ones_like(y),
    Activation.SIGMOID: lambda y: y * (f32(1) - y),
    Activation.TANH: lambda y: f32(1) - y * y,
    Activation.RELU: lambda y: np.where(y > 0, f32(1), f32(0)),
    Activation.STEP: lambda y: np.zeros_like(y),
}


def ordered(terms):
    """Sum over the first axis, from +0 on, in ascending order."""
    total = np.zeros(terms.shape[1:], f32)
    for term in terms:
        total = total + term
    return total


def scale_of(layer: DenseLayer, square, inputs):
    if layer.normalise == Normalise.NONE:
        return f32(1)
    return f32(1) / (sqrt(square / f32(inputs) if layer.normalise == Normalise.RMS else square) + f32(1e-8))


def cost(kind, y, target):
    if kind == Cost.MEAN_SQUARED_ERROR:
        return ordered((y - target) ** 2) / f32(len(y))
    shifted = y - y.max()
    return ordered(target * (log(ordered(exp(shifted))) - shifted))


def respond(layer: DenseLayer, u, bias):
    return ACTIVATIONS[layer.activation](u + bias if layer.bias == Bias.ADD else u - bias)


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
    classes: np.ndarray = field(default_factory=lambda: np.zeros(0, f32))  # Mono-Forward's class matrices

    @property
    def update_kind(self):
        return LocalUpdate

    def forward(self, x, moves=None, amplitude=ZERO):
        """Activity of every layer; `moves` are the signs of a perturbation."""
        first, activity = 0, []
        for layer in self.network.layers:
            n, m = len(x), layer.outputs
            matrix, bias = np.split(self.theta[first : first + (n + 1) * m], [n * m])
            u, scale = ordered(x[:, None] * matrix.reshape(n, m)), scale_of(layer, ordered(x * x), n)
            if moves is not None:
                down = moves[first : first + n * m].reshape(n, m) < 0
                below = ordered(np.where(down, x[:, None], f32(0)))
                u = u + amplitude * (ordered(x) - (below + below))
                bias = bias + moves[first + n * m : first + (n + 1) * m] * amplitude
            x = respond(layer, scale * u, bias)
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

    def learn(self, block: Learn):
        """The cost of every update; `classes` are Mono-Forward's class matrices, one after another."""
        costs, wrong = [], np.frombuffer(block.wrong, np.uint8)
        for number, slot in enumerate(block.slots):
            samples = self.samples[slot : slot + block.batch]
            update = self.update_kind(self, block, samples[:, : self.network.inputs], samples[:, self.network.inputs :])
            if block.rule == Rule.MONO_FORWARD:
                update.mono_forward()
            else:
                update.forward_forward(wrong[number * block.batch :][: block.batch])
            self.theta = np.clip(self.theta, f32(block.low), f32(block.high))
            costs.append(update.cost / (f32(block.batch) * f32(len(self.network.layers) - 1)))
        return np.array(costs, f32)


class LocalUpdate:
    """One update by a local rule."""

    def __init__(self, board: Board, block: Learn, x, target):
        self.board, self.block, self.x, self.target, self.cost = board, block, x, target, f32(0)
        self.layers = board.network.layers
        self.rate, self.readout_rate = (f32(rate) / f32(block.batch) for rate in (block.rate, block.readout_rate))
        self.parts, first, n = [], 0, board.network.inputs
        for layer in self.layers:
            matrix = board.theta[first : first + n * layer.outputs].reshape(n, layer.outputs)
            bias = board.theta[first + n * layer.outputs : first + (n + 1) * layer.outputs]
            self.parts.append((matrix, bias))  # views: what is taken off here is taken off the board
            first, n = first + (n + 1) * layer.outputs, layer.outputs

    def forward_forward(self, wrong):
        inputs = None
        for number, layer in enumerate(self.layers[:-1]):
            matrix, bias = self.parts[number]
            if number == 0:
                versions, scales = self.first_layer(layer, wrong)
            else:
                passed = [[layer_pass(layer, matrix, bias, x) for x in version] for version in versions]
                scales = [[scale for _, scale in version] for version in passed]
                versions = [[y for y, _ in version] for version in passed]
            pairs = [self.tell_apart(layer, *pair) for pair in zip(*versions[:2], strict=True)]
            change = ordered(np.array([error for pair in pairs for error in pair]))
            errors = [[s * pair[k] for s, pair in zip(scales[k], pairs, strict=True)] for k in (0, 1)]
            if number == 0:
                m = len(self.target[0])
                codes = np.eye(m, dtype=f32)[[*self.target.argmax(axis=1), *wrong]]
                descend(matrix[:m], codes, errors[0] + errors[1])
                descend(matrix[m:], self.x[:, m:], [up + down for up, down in zip(*errors, strict=True)])
            else:
                descend(matrix, np.array(inputs[0] + inputs[1]), errors[0] + errors[1])
            descend_bias(layer, bias, change)
            inputs = versions
        self.read_out(versions[2])

    def first_layer(self, layer, wrong):
        """Sums over the label and over all other inputs are added last; versions share the latter."""
        matrix, bias = self.parts[0]
        m, n = len(self.target[0]), self.board.network.inputs
        neutral = f32(0.1) * ordered(matrix[:m])
        versions, scales = ([], [], []), ([], [], [])
        for x, target, other in zip(self.x, self.target, wrong, strict=True):
            sums, square = ordered(x[m:, None] * matrix[m:]), ordered(x[m:] * x[m:])
            shown = scale_of(layer, square + f32(1), n)
            codes = (matrix[target.argmax()], shown), (matrix[other], shown)
            codes += ((neutral, scale_of(layer, square + f32(m) * f32(0.01), n)),)
            for version, kept, (code, scale) in zip(versions, scales, codes, strict=True):
                version.append(respond(layer, scale * (sums + code), bias))
                kept.append(scale)
        return versions, scales

    def tell_apart(self, layer, positive, negative):
        """Errors of both, times rate / batch; and the cost."""
        good, bad = ordered(positive * positive), ordered(negative * negative)
        weight, scale = self.rate + self.rate, f32(self.block.scale)
        if self.block.goodness == Goodness.MEAN:
            good, bad, weight = (value / f32(layer.outputs) for value in (good, bad, weight))
        if self.block.rule == Rule.SYMBA:
            gap = scale * (bad - good)
            self.cost = self.cost + softplus(gap)
            push = pull = weight * (scale * sigmoid(gap))
        else:
            self.cost = self.cost + (softplus(scale - good) + softplus(bad - scale))
            push, pull = weight * sigmoid(scale - good), weight * sigmoid(bad - scale)
        slope = SLOPES[layer.activation]
        return -push * (positive * slope(positive)), pull * (negative * slope(negative))

    def read_out(self, inputs):
        layer, (matrix, bias) = self.layers[-1], self.parts[-1]
        errors, change = [], np.zeros(layer.outputs, f32)
        for x, target in zip(inputs, self.target, strict=True):
            said, scale = layer_pass(layer, matrix, bias, x)
            error = self.class_error(said, target)[0] * self.readout_rate
            change = change + error
            errors.append(scale * error)
        descend(matrix, np.array(inputs), errors)
        descend_bias(layer, bias, change)

    @staticmethod
    def class_error(said, target):
        shifted = said - said.max()
        powers = exp(shifted)
        total = ordered(powers)
        return powers / total - target, ordered(target) * log(total) - ordered(target * shifted)

    def passed(self, number, x):
        """Activity of a layer, and the scale of its inputs."""
        return layer_pass(self.layers[number], *self.parts[number], x)

    def mono_forward(self):
        inputs, matrices, at = self.x, [], 0
        for layer in self.layers[:-2]:
            size = self.layers[-1].outputs * layer.outputs
            matrices.append(self.board.classes[at : at + size].reshape(-1, layer.outputs))
            at += size
        for number, layer in enumerate(self.layers[:-1]):
            matrix, bias = self.parts[number]
            last = number == len(self.layers) - 2
            activities, errors, says, change = [], [], [], np.zeros(layer.outputs, f32)
            for x, target in zip(inputs, self.target, strict=True):
                y, scale = self.passed(number, x)
                rows = self.parts[-1][0].T if last else matrices[number]
                said = self.passed(number + 1, y)[0] if last else ordered((y * rows).T)
                said, own = self.class_error(said, target)
                self.cost = self.cost + own
                error = ordered(said[:, None] * rows) * SLOPES[layer.activation](y) * self.rate
                change = change + error
                activities.append(y)
                errors.append(error * scale)
                says.append(said * (self.readout_rate if last else self.rate))
            descend(matrix, np.array(inputs), errors)
            descend_bias(layer, bias, change)
            if last:
                descend(self.parts[-1][0], np.array(activities), says)
                descend_bias(self.layers[-1], self.parts[-1][1], ordered(np.array(says)))
            else:
                descend(matrices[number], np.array(says), activities)
            inputs = activities


def layer_pass(layer: DenseLayer, matrix, bias, x):
    """Activity of one layer, and the scale of its inputs."""
    scale = scale_of(layer, ordered(x * x), len(x))
    return respond(layer, scale * ordered(x[:, None] * matrix), bias), scale


def descend(matrix, inputs, errors):
    """Take off the sum over samples whose input is not zero, from its first term on."""
    total, begun = np.zeros_like(matrix), np.zeros((len(matrix), 1), bool)
    for x, error in zip(inputs, errors, strict=True):
        term, shown = x[:, None] * error, (x != 0)[:, None]
        total = np.where(shown, np.where(begun, total + term, term), total)
        begun |= shown
    matrix[...] = np.where(begun, matrix - total, matrix)


def descend_bias(layer, bias, change):
    bias[...] = bias - change if layer.bias == Bias.ADD else bias + change


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
