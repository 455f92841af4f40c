"""Forward-forward, SymBa and Mono-Forward in float64, straight from their equations: every version of a sample is made,
inputs are normalised before they are multiplied, gradients are means over the batch and taken off at the end.

Hinton, arXiv 2212.13345 (2022); Lee and Song, arXiv 2303.08418 (2023); Gong, Li and Abdulla, arXiv 2501.09238 (2025).
"""

import numpy as np

from hwtrain.devices.messages import Activation, Bias, Goodness, Normalise, Rule

FUNCTIONS = {  # f and its derivative, of z
    Activation.LINEAR: (lambda z: z, lambda z: np.ones_like(z)),
    Activation.SIGMOID: (lambda z: 1 / (1 + np.exp(-z)), lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2),
    Activation.TANH: (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
    Activation.RELU: (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float)),
    Activation.STEP: (lambda z: (z > 0).astype(float), lambda z: np.zeros_like(z)),
}


def normalised(layer, x):
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    match layer.normalise:
        case Normalise.L2:
            return x / (length + 1e-8)
        case Normalise.RMS:
            return x / (length / np.sqrt(x.shape[-1]) + 1e-8)
    return x


def softmax(o):
    p = np.exp(o - o.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


class Network:
    """A network, its class matrices, and updates of it."""

    def __init__(self, network, theta, classes=()):
        self.layers, self.parts, self.matrices = network.layers, [], []
        theta, classes, n = np.asarray(theta, float), np.asarray(classes, float), network.inputs
        for layer in self.layers:
            w, c, theta = np.split(theta, [n * layer.outputs, (n + 1) * layer.outputs])
            self.parts.append((w.reshape(n, -1), c if layer.bias == Bias.ADD else -c))  # z = x w + c for both
            n = layer.outputs
        for layer in self.layers[:-2]:
            matrix, classes = np.split(classes, [n * layer.outputs])
            self.matrices.append(matrix.reshape(n, -1))

    @property
    def theta(self):
        signed = [(w, self.signed(number, c)) for number, (w, c) in enumerate(self.parts)]
        return np.concatenate([part.ravel() for pair in signed for part in pair])

    @property
    def classes(self):
        return np.concatenate([matrix.ravel() for matrix in self.matrices] or [np.zeros(0)])

    def signed(self, number, c):
        return c if self.layers[number].bias == Bias.ADD else -c

    def learn(self, block, samples):
        """The cost of every update of a block."""
        inputs, wrong = samples.shape[1] - self.layers[-1].outputs, np.frombuffer(block.wrong, np.uint8)
        costs = []
        for number, slot in enumerate(block.slots):
            x, target = np.split(samples[slot : slot + block.batch].astype(float), [inputs], axis=1)
            if block.rule == Rule.MONO_FORWARD:
                costs.append(self.mono_forward(block, x, target))
            else:
                costs.append(self.contrast(block, x, target, wrong[number * block.batch :][: block.batch]))
        return np.array(costs)

    def contrast(self, block, x, target, wrong):
        b, m = target.shape
        codes = np.eye(m)[target.argmax(axis=1)], np.eye(m)[wrong], np.full((b, m), 0.1)
        x = np.concatenate([np.concatenate([code, x[:, m:]], axis=1) for code in codes])  # positive, negative, neutral
        gradients, costs = [], []
        for (w, c), layer in zip(self.parts[:-1], self.layers[:-1], strict=True):
            f, slope = FUNCTIONS[layer.activation]
            x = normalised(layer, x)
            z = x @ w + c
            y = f(z)
            per = layer.outputs if block.goodness == Goodness.MEAN else 1
            good, bad = (np.sum(part**2, axis=1) / per for part in (y[:b], y[b : 2 * b]))
            if block.rule == Rule.SYMBA:
                costs.append(np.log1p(np.exp(-block.scale * (good - bad))))
                push = pull = block.scale / (1 + np.exp(block.scale * (good - bad)))
            else:
                costs.append(np.log1p(np.exp(block.scale - good)) + np.log1p(np.exp(bad - block.scale)))
                push, pull = 1 / (1 + np.exp(good - block.scale)), 1 / (1 + np.exp(block.scale - bad))
            e = np.concatenate([-push, pull])[:, None] * 2 * y[: 2 * b] * slope(z[: 2 * b]) / per
            gradients.append((x[: 2 * b].T @ e / b, e.sum(axis=0) / b))
            x = y
        h = normalised(self.layers[-1], x[2 * b :])
        w, c = self.parts[-1]
        e = (softmax(h @ w + c) - target) / b
        self.descend(block, [*gradients, (h.T @ e, e.sum(axis=0))])
        return np.mean(costs)

    def mono_forward(self, block, x, target):
        gradients, steps, costs = [], [], []
        matrices = [*self.matrices, self.parts[-1][0].T]
        biases = [*(0 for _ in self.matrices), self.parts[-1][1]]
        for (w, c), layer, matrix, bias in zip(self.parts[:-1], self.layers[:-1], matrices, biases, strict=True):
            f, slope = FUNCTIONS[layer.activation]
            x = normalised(layer, x)
            z = x @ w + c
            a = f(z)
            p = softmax(a @ matrix.T + bias)
            costs.append(-np.log(np.sum(p * target, axis=1)))
            d = (p - target) / len(x)
            e = d @ matrix * slope(z)
            gradients.append((x.T @ e, e.sum(axis=0)))
            steps.append(d.T @ a)
            x = a
        self.descend(block, [*gradients, (steps.pop().T, d.sum(axis=0))])
        self.matrices = [matrix - block.rate * step for matrix, step in zip(self.matrices, steps, strict=True)]
        return np.mean(costs)

    def descend(self, block, gradients):
        for number, (dw, dc) in enumerate(gradients):
            rate = block.readout_rate if number == len(self.layers) - 1 else block.rate
            w, c = self.parts[number]
            c = np.clip(self.signed(number, c - rate * dc), block.low, block.high)
            self.parts[number] = np.clip(w - rate * dw, block.low, block.high), self.signed(number, c)
