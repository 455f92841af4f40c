"""STREAM in numpy float32: the operations of firmware/src/stream.c in its order, so the same bits.

Vectorised over units and parameters only, never over a sum.
"""

from __future__ import annotations

import numpy as np

from hwtrain import draws
from hwtrain.devices.messages import Activation, Bias, Cost, Network, Resetting, Shape, Signal, Stream
from tests.firmware.reference import cost as cost_of
from tests.firmware.reference import exp, f32, log, ordered, sigmoid, tanh

SHARE = f32(2.0**-31)


class Board:
    """Parameters and running neurons of a board.

    Args:
        network: spiking or soft hidden layers, and a linear read-out.
        theta: parameters, (p,).
        samples: of the store, (slots, inputs + outputs).
    """

    def __init__(self, network: Network, theta, samples):
        self.network, self.samples, self.parts, n = network, samples, [], network.inputs
        theta = np.asarray(theta, f32)
        for layer in network.layers:
            rows = layer.rows(n)
            w, b, theta = np.split(theta, [rows * layer.outputs, (rows + 1) * layer.outputs])
            self.parts.append([w.reshape(rows, -1).copy(), b.copy()])
            n = layer.outputs
        self.sums, self.shown = np.zeros(n, f32), f32(0)

    @property
    def theta(self):
        return np.concatenate([part.ravel() for pair in self.parts for part in pair])

    def stream(self, request: Stream):
        """Costs (t,) and activities (t, nodes)."""
        if request.start:
            hidden = self.network.layers[:-1]
            self.states = [np.zeros((3, layer.outputs), f32) for layer in hidden]  # s, y, psi
            pairs = self.parts[:-1]
            self.traces = [[np.zeros_like(w), np.zeros_like(b)] for w, b in pairs]
            self.readout = [np.zeros(len(self.parts[-1][0]), f32), np.zeros(len(self.parts[-1][1]), f32)]
        if request.sums is not None:
            self.sums, self.shown = request.sums[:-1].astype(f32), f32(request.sums[-1])
        steps = [self.step(request, row) for row in self.samples[request.slot :][: request.steps]]
        return np.array([cost for cost, _ in steps], f32), np.stack([np.concatenate(ys) for _, ys in steps])

    def step(self, request: Stream, row):
        settings = {name: f32(getattr(request, name)) for name in ("decay", "threshold", "slope", "height")}
        x, target = np.split(row, [self.network.inputs])
        ys: list = []
        entered: list = []
        for number in range(len(self.states)):
            entered.append(x)
            x = self.answer(request, number, x, **settings)
            ys.append(x)
        w, b = self.parts[-1]
        eps, state = self.readout
        keep, gain = f32(request.readout_decay), f32(request.readout_gain)
        eps[:] = keep * eps + gain * x
        state[:] = gain * ordered(x[:, None] * w) + keep * state
        added = self.network.layers[-1].bias == Bias.ADD
        said = state + b if added else state - b
        error, cost = self.told(said, target)
        ys.append(said)
        if request.learn:
            step = f32(request.readout_rate) * error
            self.descend(request, b, step if added else -step)
            self.descend(request, w, step * eps[:, None])
            self.learn(request, target, error)
        return cost, ys

    def answer(self, request: Stream, number, x, decay, threshold, slope, height):
        (w, b), (s, y, psi), (eps, bias_eps) = self.parts[number], self.states[number], self.traces[number]
        if self.network.layers[number].recurrent:
            x = np.append(x, y)
        total, left = ordered(x[:, None] * w), decay * s
        if request.reset == Resetting.HARD:
            kept, through = decay * (f32(1) - y), -left * psi
            s[:] = total + left * (f32(1) - y)
        else:
            kept, through = decay, -threshold * psi
            s[:] = total + (left - threshold * y)
        z = (s - threshold) - b
        if self.network.layers[number].activation == Activation.STEP:
            y[:] = z > 0
            psi[:] = height * shape(request.shape, slope * z)
        else:
            y[:] = sigmoid(z)
            psi[:] = y * (f32(1) - y)
        factor = kept + through
        bias_eps[:] = factor * bias_eps - through
        eps[:] = factor * eps + x[:, None]
        return y.copy()

    def learn(self, request: Stream, target, error):
        v = error
        if request.signal == Signal.TARGET:
            self.shown = self.shown + f32(1)
            self.sums = self.sums + target
            v = target - self.sums / self.shown if request.centre else target
        for number, (seed, (_, y, psi)) in enumerate(zip(request.seeds, self.states, strict=True)):
            (w, b), (eps, bias_eps) = self.parts[number], self.traces[number]
            matrix = projection(seed, len(target), len(y), request.scale)
            if request.signal == Signal.LOCAL:
                v, _ = self.told(ordered((y * matrix).T), target)
            signal = ordered(v[:, None] * matrix)
            self.descend(request, b, f32(request.rate) * (signal * (psi * bias_eps - psi)))
            self.descend(request, w, (f32(request.rate) * (signal * psi)) * eps)

    def told(self, said, target):
        """The derivative of a cost, and the cost."""
        if self.network.cost == Cost.MEAN_SQUARED_ERROR:
            off = said - target
            return (off + off) / f32(len(said)), cost_of(Cost.MEAN_SQUARED_ERROR, said, target)
        shifted = said - said.max()
        whole = ordered(exp(shifted))
        return exp(shifted) / whole - target, ordered(target) * log(whole) - ordered(target * shifted)

    @staticmethod
    def descend(request: Stream, theta, step):
        value = theta - step
        limited = np.clip(value, f32(request.low), f32(request.high))
        theta[...] = np.where(np.isnan(value), theta, limited)


def shape(kind, u):
    if kind == Shape.TANH:
        t = tanh(u)
        return f32(1) - t * t
    u = np.abs(u)
    return f32(1) / ((u + f32(1)) * (u + f32(1))) if kind == Shape.FAST_SIGMOID else np.where(u < 1, f32(1) - u, f32(0))


def projection(seed: int, outputs: int, units: int, scale: float):
    """(outputs, units)."""
    words = draws.words(np.asarray(seed, np.uint32), 0, outputs * units)
    signed = (words ^ np.uint32(0x80000000)).view(np.int32).astype(f32)
    return (f32(scale) * (SHARE * signed)).reshape(outputs, units)


def shown(x, target) -> np.ndarray:
    """Steps as the store holds them."""
    return np.concatenate([x, target], axis=-1).astype(f32)
