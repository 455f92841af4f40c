"""What the analog rules share: the outer product of inputs and errors, sent to cells as coinciding pulses.

Gokmen & Vlasov, "Acceleration of deep neural network training with resistive cross-point devices", Frontiers in
Neuroscience 10, 333 (2016): every line of an array fires at random, as often as its value is large; a cell moves by one
step where its row and its column fire at once, so that its expected change is the product, and no product is ever
computed. Scaling of the two sides: Rasch, Gokmen, Haensch, "Training large-scale ANNs on simulated resistive crossbar
arrays", arXiv 1906.02698 (2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks, draws
from hwtrain.algorithms import local
from hwtrain.core import Array, Can, Command, DeviceSpec, Layer, Measure, Reading, Sample, dense_layers, normalised
from hwtrain.errors import CapabilityError, ConfigError
from hwtrain.start import Fan, Start


@dataclass(frozen=True, slots=True)
class State:
    """All that changes.

    Args:
        theta: parameters as pulses of the nominal step would have made them, (..., p); nobody knows the true ones.
        due: pulses that the parameters get next, (..., p).
        layers: the device's dense layers.
        seed: one per replica, (...,).
        step: samples so far.
    """

    theta: Array
    due: NDArray[np.int64]
    layers: tuple[Layer, ...]
    seed: NDArray[np.uint32]
    step: int = 0

    @property
    def updates(self) -> int:
        """Updates so far, one for every sample."""
        return self.step


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    """Settings of every rule that pulses outer products.

    Args:
        eta: learning rate [parameter unit squared per cost].
        length: slots of a pulse train at most, BL.
        management: are trains made as short as the largest product allows, and do the two sides share it evenly? If
            not, all have `length` slots, and what is too large for them saturates.
        start: first parameters, which open-loop pulses lead to.
    """

    eta: float
    length: int = 31
    management: bool = True
    start: Start = field(default_factory=Fan)

    needs: ClassVar[Can] = Can.PULSE | Can.COST | Can.ACTIVITY | Can.GRADIENT

    def __post_init__(self) -> None:
        checks.number("algo.eta", self.eta, low=0, above=True)
        checks.whole("algo.length", self.length)
        checks.flag("algo.management", self.management)

    def begin(self, spec: DeviceSpec, seed: NDArray[np.uint32], who: str) -> State:
        """The first state; the pulses that lead to the start are due.

        Raises:
            CapabilityError: pulses have no nominal size there.
        """
        layers = dense_layers(spec, who)
        if not spec.step > 0:
            raise CapabilityError(
                f"{who} sends pulses; {spec.name!r} names no size of their steps. Set device=cells "
                "device.programming=null, or algo=backprop."
            )
        theta = self.start(spec, seed)
        due = np.rint(theta / spec.step).astype(np.int64)
        return State(due * spec.step, due, layers, seed)

    def presents(self, state: State) -> range:
        """A new sample for every update."""
        return range(state.step, state.step + 1)

    def gradient(self, state: State) -> Array | None:
        """None: the product exists nowhere but in the array."""
        return None

    def look(self, sample: Sample) -> Command:
        """The measurement of one sample.

        Raises:
            ConfigError: they are several; an array multiplies one pair of vectors at a time.
        """
        if sample.x.shape[-3:-1] != (1, 1):
            steps, batch = sample.x.shape[-3:-1]
            given = f"{batch} at once. Set task.batch=1" if steps == 1 else f"{steps} steps. Choose another task"
            raise ConfigError(f"{type(self).__name__} updates after every sample; it was given {given}.")
        return Measure(sample, observe=Can.COST | Can.ACTIVITY | Can.GRADIENT)

    def pulses(self, state: State, factors: Sequence[tuple[Array, Array]], rate: float, step: float) -> Array:
        """Pulses that move cells of a step size by -rate * x * d, (..., p)."""
        parts = []
        for number, (x, d) in enumerate(factors):
            seed = draws.derive(state.seed, f"trains of layer {number}")
            counts = coincidences(seed, state.step, x, d, rate / step, self.length, managed=self.management)
            parts.append(counts.reshape(*counts.shape[:-2], -1))
        return np.concatenate(parts, axis=-1)


def factors_of(layers: Sequence[Layer], sample: Sample, reading: Reading) -> list[tuple[Array, Array]]:
    """Inputs and errors of every layer, whose outer product is the gradient: (..., n + 1) and (..., m).

    The last input feeds the bias. Errors are the cost's derivatives with respect to the pre-activations. A reading that
    is not finite counts as 0.
    """
    assert reading.activity is not None and reading.gradient is not None
    gradient = reading.gradient[..., 0, :]
    entered = [sample.x, *(layer[..., 0, :, :, :] for layer in reading.activity[:-1])]
    result = []
    for layer, values, part in zip(layers, entered, local.slices(layers), strict=True):
        x = np.broadcast_to(values[..., 0, 0, :], (*gradient.shape[:-1], values.shape[-1]))
        sign = 1.0 if layer.bias == "add" else -1.0
        end = part.stop
        d = sign * gradient[..., end - layer.outputs[0] : end]
        x = np.concatenate([normalised(x, layer.normalise), np.full_like(x[..., :1], sign)], axis=-1)
        result.append((finite(x), finite(d)))
    return result


def finite(values: Array) -> Array:
    """Values, and 0 for those that are not finite."""
    return np.where(np.isfinite(values), values, 0.0)


def coincidences(
    seed: NDArray[np.uint32], number: int, x: Array, d: Array, gain: float, length: int, *, managed: bool
) -> NDArray[np.int64]:
    """Pulses that each cell gets from one pair of trains, (..., n, m), signed; gain * x * d downwards in expectation.

    Args:
        seed: (...,).
        number: which pair it is.
        x: inputs, (..., n).
        d: errors, (..., m).
        gain: rate / step.
        length: slots at most.
        managed: see `Outer`.
    """
    largest_x, largest_d = np.abs(x).max(axis=-1, keepdims=True), np.abs(d).max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        wanted = gain * largest_x * largest_d  # pulses of the cell that gets most
        slots = np.clip(np.ceil(wanted), 1, length) if managed else np.full_like(wanted, length)
        each = np.sqrt(gain / slots)
        ratio = np.sqrt(largest_x / (largest_d * np.minimum(1, length / wanted))) if managed else np.ones_like(each)
    dead = ~(np.isfinite(wanted) & (wanted > 0))
    ratio, slots = np.where(dead, 1.0, ratio), np.where(dead, 0, slots)
    most = int(slots.max())
    size = x.shape[-1] + d.shape[-1]
    draw = draws.uniform(seed, number, most * size).reshape(*seed.shape, most, size)
    likely = np.concatenate([each / ratio * np.abs(x), each * ratio * np.abs(d)], axis=-1)
    fires = (draw < likely[..., None, :]) & (np.arange(most)[:, None] < slots[..., None, :])
    one, other = np.split(fires.astype(np.float32), [x.shape[-1]], axis=-1)
    counts: Array = np.matmul(np.sign(x)[..., :, None] * one.swapaxes(-1, -2), other * np.sign(d)[..., None, :])
    return -counts.astype(np.int64)
