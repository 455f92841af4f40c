"""Forward models: dense and convolutional networks over any number of chips and probes at once, and the exact gradient.

A network is a list of `Layer`s. Parameters come as (..., k, p) and samples as (..., 1, t, b, n), so that every probe of
every chip has its own parameters while a sample is shared; each operation works on the axes at the right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import expit

from hwtrain import checks
from hwtrain.core import TINY, Array, Layer, normalised
from hwtrain.costs import Cost
from hwtrain.errors import ConfigError

Product = Callable[[int, Array, Array], Array]
"""How a dense layer multiplies: (its number, x (..., t, b, n), matrix (..., k, 1, n, m)) -> (..., k, t, b, m)."""

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda u: u,
    "sigmoid": expit,
    "tanh": np.tanh,
    "relu": lambda u: np.maximum(u, 0),
}
NORMALISATIONS = ("none", "l2", "rms")
_SLOPES: dict[str, Callable[[Array, Array], Array]] = {  # derivative, from the pre-activation u and the activity y
    "linear": lambda u, y: np.ones_like(u),
    "sigmoid": lambda u, y: y * (1 - y),
    "tanh": lambda u, y: 1 - y * y,
    "relu": lambda u, y: (u > 0).astype(u.dtype),
}


@dataclass(frozen=True, slots=True, eq=False)
class Neurons:
    """How the neurons of one layer of a real chip differ: y = gain * f(steepness * (u - midpoint)) + offset.

    The form of McCaughan et al. (2023), where each is drawn once per neuron. All have the shape (..., 1, 1, 1, n).
    """

    gain: Array
    steepness: Array
    midpoint: Array
    offset: Array


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """What a forward pass leaves behind, an entry per layer; `cores` are activities before gain and offset."""

    inputs: list[Array]
    preactivations: list[Array]
    cores: list[Array]
    outputs: list[Array]


@dataclass(frozen=True, slots=True)
class Network:
    """A stack of layers.

    Args:
        layers: from input to output; each takes what the one before gives.
    """

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        for before, after in zip(self.layers, self.layers[1:], strict=False):
            if math.prod(before.outputs) != math.prod(after.inputs):
                raise ConfigError(f"network: a layer gives {before.outputs}, the next one takes {after.inputs}")

    @property
    def inputs(self) -> int:
        """Features of one sample."""
        return math.prod(self.layers[0].inputs)

    @property
    def outputs(self) -> int:
        """Features of one output."""
        return math.prod(self.layers[-1].outputs)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(layer.size for layer in self.layers)

    @property
    def nodes(self) -> int:
        """Number of neurons: outputs of all layers that have parameters."""
        return sum(math.prod(layer.outputs) for layer in self.layers if layer.size)

    def forward(
        self,
        theta: Array,
        x: Array,
        neurons: Sequence[Neurons | None] = (),
        shift: Array | None = None,
        product: Product | None = None,
    ) -> Pass:
        """Present samples.

        Args:
            theta: (..., k, p).
            x: (..., 1 or k, t, b, n).
            neurons: variation of each layer's neurons; empty for ideal ones.
            shift: added to the pre-activations of the dense layers, (..., k, nodes).
            product: how dense layers multiply; None is exactly.
        """
        done = Pass([], [], [], [])
        start = node = 0
        for number, layer in enumerate(self.layers):
            block = theta[..., start : start + layer.size]
            start += layer.size
            if product is None or layer.kind != "dense":
                u = _OPERATIONS[layer.kind].forward(layer, block, x)
            else:
                u = _Dense.forward(layer, block, x, partial(product, number))
            if shift is not None and layer.size:
                u = u + shift[..., None, None, node : node + u.shape[-1]]
                node += u.shape[-1]
            core = y = u
            variation = neurons[number] if neurons else None
            if variation is not None:
                core = ACTIVATIONS[layer.activation](variation.steepness * (u - variation.midpoint))
                y = variation.gain * core + variation.offset
            elif layer.activation != "linear":
                core = y = ACTIVATIONS[layer.activation](u)
            done.inputs.append(x)
            done.preactivations.append(u)
            done.cores.append(core)
            done.outputs.append(y)
            x = y
        return done

    def gradient(
        self,
        theta: Array,
        x: Array,
        target: Array,
        cost: Cost,
        neurons: Sequence[Neurons | None] = (),
        shift: Array | None = None,
    ) -> Array:
        """The exact gradient of the mean cost over time and batch, (..., k, p), by back-propagation."""
        done = self.forward(theta, x, neurons, shift)
        samples = math.prod(done.outputs[-1].shape[-3:-1])
        error = cost.gradient(done.outputs[-1], target) / samples
        parts: list[Array] = []
        start = self.size
        for number in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[number]
            start -= layer.size
            u, core = done.preactivations[number], done.cores[number]
            variation = neurons[number] if neurons else None
            if variation is not None:
                u = variation.steepness * (u - variation.midpoint)
                error = error * variation.gain * variation.steepness * _SLOPES[layer.activation](u, core)
            elif layer.activation != "linear":
                error = error * _SLOPES[layer.activation](u, core)
            block = theta[..., start : start + layer.size]
            error, part = _OPERATIONS[layer.kind].backward(layer, block, done.inputs[number], error, first=number == 0)
            if part is not None:
                parts.append(part)
        return np.concatenate(parts[::-1], axis=-1)


class _Dense:
    @staticmethod
    def _matrix(layer: Layer, block: Array) -> tuple[Array, Array]:
        n, m = math.prod(layer.inputs), math.prod(layer.outputs)
        matrix = block[..., : n * m].reshape(*block.shape[:-1], 1, n, m)
        return matrix, block[..., None, None, n * m :]

    @classmethod
    def forward(
        cls, layer: Layer, block: Array, x: Array, product: Callable[[Array, Array], Array] = np.matmul
    ) -> Array:
        matrix, bias = cls._matrix(layer, block)
        u = product(normalised(x, layer.normalise), matrix)
        if layer.bias == "add":
            u += bias
        else:
            u -= bias
        return u

    @classmethod
    def backward(cls, layer: Layer, block: Array, x: Array, error: Array, *, first: bool) -> tuple[Array, Array]:
        matrix, _ = cls._matrix(layer, block)
        d_matrix = np.matmul(normalised(x, layer.normalise).swapaxes(-1, -2), error).sum(axis=-3)
        d_bias = error.sum(axis=(-3, -2))
        if layer.bias == "subtract":
            d_bias = -d_bias
        part = np.concatenate([d_matrix.reshape(*d_matrix.shape[:-2], -1), d_bias], axis=-1)
        if first:
            return error, part
        return through_length(layer.normalise, x, np.matmul(error, matrix.swapaxes(-1, -2))), part


class _Conv:
    @staticmethod
    def _kernel(layer: Layer, block: Array) -> tuple[Array, Array]:
        n, m = layer.window**2 * layer.inputs[-1], layer.outputs[-1]
        return block[..., : n * m].reshape(*block.shape[:-1], 1, n, m), block[..., None, None, n * m :]

    @staticmethod
    def _patches(layer: Layer, x: Array) -> Array:
        """(..., t, b, h*w*c) to (..., t, b * h' * w', window * window * c), ready for one matrix product."""
        x = x.reshape(*x.shape[:-1], *layer.inputs)
        if layer.padding == "same":
            before = (layer.window - 1) // 2
            after = layer.window - 1 - before
            x = np.pad(x, [(0, 0)] * (x.ndim - 3) + [(before, after), (before, after), (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(x, (layer.window, layer.window), axis=(-3, -2))
        patches = np.moveaxis(windows, -3, -1)  # ..., b, h', w', window, window, c
        lead = patches.shape[:-6]
        return patches.reshape(*lead, math.prod(patches.shape[-6:-3]), math.prod(patches.shape[-3:]))

    @classmethod
    def forward(cls, layer: Layer, block: Array, x: Array) -> Array:
        kernel, bias = cls._kernel(layer, block)
        u: Array = np.matmul(cls._patches(layer, x), kernel)
        if layer.bias == "add":
            u += bias
        else:
            u -= bias
        return u.reshape(*u.shape[:-2], x.shape[-2], -1)

    @classmethod
    def backward(cls, layer: Layer, block: Array, x: Array, error: Array, *, first: bool) -> tuple[Array, Array]:
        kernel, _ = cls._kernel(layer, block)
        batch, (height, width, channels) = x.shape[-2], layer.outputs
        error = error.reshape(*error.shape[:-2], batch * height * width, channels)
        d_kernel = np.matmul(cls._patches(layer, x).swapaxes(-1, -2), error).sum(axis=-3)
        d_bias = error.sum(axis=(-3, -2))
        if layer.bias == "subtract":
            d_bias = -d_bias
        part = np.concatenate([d_kernel.reshape(*d_kernel.shape[:-2], -1), d_bias], axis=-1)
        if first:
            return error, part
        window, (h_in, w_in, c_in) = layer.window, layer.inputs
        before = (window - 1) // 2 if layer.padding == "same" else 0
        d_patches = np.matmul(error, kernel.swapaxes(-1, -2))
        lead = d_patches.shape[:-2]
        d_patches = d_patches.reshape(*lead, batch, height, width, window, window, c_in)
        d_x = np.zeros((*lead, batch, height + window - 1, width + window - 1, c_in), dtype=error.dtype)
        for row in range(window):
            for column in range(window):
                d_x[..., row : row + height, column : column + width, :] += d_patches[..., row, column, :]
        d_x = d_x[..., before : before + h_in, before : before + w_in, :]
        return d_x.reshape(*lead, batch, h_in * w_in * c_in), part


class _Pool:
    """The largest of each window; rows and columns that do not fill one are left out."""

    @staticmethod
    def _windows(layer: Layer, x: Array) -> Array:
        width, (height_out, width_out, channels) = layer.window, layer.outputs
        x = x.reshape(*x.shape[:-1], *layer.inputs)[..., : height_out * width, : width_out * width, :]
        return x.reshape(*x.shape[:-3], height_out, width, width_out, width, channels)

    @classmethod
    def forward(cls, layer: Layer, block: Array, x: Array) -> Array:
        windows, width = cls._windows(layer, x), layer.window
        best = windows[..., 0, :, 0, :]
        for row in range(width):
            for column in range(width):
                best = np.maximum(best, windows[..., row, :, column, :])
        return best.reshape(*x.shape[:-1], -1)

    @classmethod
    def backward(cls, layer: Layer, block: Array, x: Array, error: Array, *, first: bool) -> tuple[Array, None]:
        windows, width = cls._windows(layer, x), layer.window
        best = cls.forward(layer, block, x).reshape(*x.shape[:-1], *layer.outputs)
        error = error.reshape(*error.shape[:-1], *layer.outputs)
        d_x = np.zeros((*error.shape[:-3], *layer.inputs), dtype=error.dtype)
        free = np.ones_like(best, dtype=bool)  # of equal largest values only the first one counts
        for row in range(width):
            for column in range(width):
                chosen = free & (windows[..., row, :, column, :] == best)
                free = free & ~chosen
                rows = slice(row, layer.outputs[0] * width, width)
                d_x[..., rows, column : layer.outputs[1] * width : width, :] = np.where(chosen, error, 0)
        return d_x.reshape(*d_x.shape[:-3], -1), None


def through_length(how: str, x: Array, error: Array) -> Array:
    """The derivative of the cost with respect to x, from that with respect to x normalised, (..., n)."""
    if how == "none":
        return error
    units = x.shape[-1] if how == "rms" else 1
    length = np.sqrt(np.einsum("...n,...n->...", x, x)[..., None] / units)
    along = np.einsum("...n,...n->...", x, error)[..., None]
    bent = along / (np.where(length > 0, length, 1) * (length + TINY) ** 2 * units)
    result: Array = error / (length + TINY) - x * bent
    return result


_OPERATIONS: dict[str, type[_Dense] | type[_Conv] | type[_Pool]] = {"dense": _Dense, "conv": _Conv, "pool": _Pool}


def dense(inputs: int, outputs: int, activation: str = "linear", bias: str = "add", normalise: str = "none") -> Layer:
    """A dense layer: inputs * outputs + outputs parameters."""
    checks.one_of("network.activation", activation, ACTIVATIONS)
    checks.one_of("network.bias", bias, ("add", "subtract"))
    checks.one_of("network.normalise", normalise, NORMALISATIONS)
    return Layer("dense", (inputs,), (outputs,), (inputs + 1) * outputs, activation, bias, normalise=normalise)


def conv(shape: tuple[int, ...], channels: int, activation: str, window: int = 3, padding: str = "valid") -> Layer:
    """A convolution with a square window over (height, width, channels)."""
    checks.one_of("network.activation", activation, ACTIVATIONS)
    checks.one_of("network.padding", padding, ("valid", "same"))
    height, width, depth = shape
    lost = window - 1 if padding == "valid" else 0
    if height <= lost or width <= lost:
        raise ConfigError(f"network: a {window}x{window} convolution does not fit into {height}x{width}")
    outputs = (height - lost, width - lost, channels)
    return Layer("conv", shape, outputs, (window**2 * depth + 1) * channels, activation, "add", window, padding)


def pool(shape: tuple[int, ...], window: int = 2) -> Layer:
    """The largest value of each window x window square."""
    return Layer("pool", shape, (shape[0] // window, shape[1] // window, shape[2]), 0, window=window)


def mlp(
    sizes: Sequence[int],
    activation: str = "sigmoid",
    output: str = "sigmoid",
    bias: str = "add",
    normalise: str = "none",
) -> Network:
    """A multi-layer perceptron.

    Args:
        sizes: units from input to output, for example 49, 4, 4.
        activation: of the hidden layers.
        output: activation of the last layer.
        bias: "add" or "subtract".
        normalise: what every layer does to the length of its inputs: "none", "l2" or "rms".
    """
    whole = isinstance(sizes, list | tuple) and all(isinstance(size, int) and size >= 1 for size in sizes)
    if not whole or len(sizes) < 2:
        raise ConfigError(f"network.sizes must be at least two positive whole numbers, as [49,4,4], not {sizes!r}")
    checks.one_of("network.output", output, ACTIVATIONS)
    names = [activation] * (len(sizes) - 2) + [output]
    pairs = zip(sizes, sizes[1:], names, strict=False)
    return Network(tuple(dense(n, m, name, bias, normalise) for n, m, name in pairs))


def mgd2023(shape: Sequence[int], channels: Sequence[int], classes: int = 10) -> Network:
    """The convolutional networks of McCaughan et al. (2023).

    Three valid 3x3 convolutions with relu, each followed by 2x2 pooling, then a dense read-out. (28, 28, 1) with 16,
    32, 32 channels has 14 378 parameters; (32, 32, 3) with 16, 32, 64 has 26 154.
    """
    layers: list[Layer] = []
    now = tuple(shape)
    for width in channels:
        layers += [first := conv(now, width, "relu"), second := pool(first.outputs)]
        now = second.outputs
    return Network((*layers, dense(math.prod(now), classes)))


def mgd2025(width: int, shape: Sequence[int] = (28, 28, 1), classes: int = 10) -> Network:
    """The network family of Oripov et al. (APL Machine Learning 3, 2025), of 520 parameters (width 1) to 1.8 million
    (64).

    Three pairs of 3x3 convolutions with "same" padding and tanh, of width, 2 width and 4 width channels, each pair
    followed by 2x2 pooling; then dense layers of 4 width, 4 width and the classes.
    """
    checks.whole("network.width", width)
    layers: list[Layer] = []
    now = tuple(shape)
    for channels in (width, 2 * width, 4 * width):
        first = conv(now, channels, "tanh", padding="same")
        second = conv(first.outputs, channels, "tanh", padding="same")
        third = pool(second.outputs)
        layers += [first, second, third]
        now = third.outputs
    hidden = 4 * width
    layers += [dense(math.prod(now), hidden, "tanh"), dense(hidden, hidden, "tanh"), dense(hidden, classes)]
    return Network(tuple(layers))
