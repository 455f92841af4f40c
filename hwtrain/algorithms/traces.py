"""Eligibility traces: when, and how much, did a parameter matter to what its layer does now?

Bohnstingl, Wozniak, Pantazi, Eleftheriou, "Online spatio-temporal learning in deep neural networks", IEEE TNNLS 34
(11), 8894 (2023), arXiv 2007.12723. With s the state and y the activity of a layer, d' the dependence within one step,

    eps_t = ds_t/ds_{t-1} eps_{t-1} + ds_t/dy_{t-1} e_{t-1} + d's_t/d'theta     (1)
    e_t   = dy_t/ds_t eps_t + d'y_t/d'theta                                      (2)
    dE/dtheta ~ sum_t L_t e_t                                                    (4)

with L the layer's learning signal. Without recurrent connections this is exact for the layer, and (1) closes over one
number per parameter and sample, since e_{t-1} is psi_{t-1} eps_{t-1} and a constant; so one array is kept, not two.
With them it would take one for every pair of parameter and neuron: "full" does that, for tests; "diagonal" leaves out
what reaches a neuron through others, as e-prop does.

Arrays are (..., t, b, n) in what was seen, (..., b, q + 1, n) in traces: q rows of the layer's matrix, and its biases.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from hwtrain.core import Array, Layer
from hwtrain.sim.neurons import SLOPES, Surrogate, jacobians, membrane, parameters, slope

RECURRENCES = ("diagonal", "full")


@dataclass(frozen=True, slots=True)
class Trace:
    """What one layer leaves for the next step; an array of size 0 where there is nothing to keep.

    Args:
        s: its state, (..., b, n).
        y: its activity, (..., b, n).
        psi: derivative of its activity, (..., b, n).
        eps: (..., b, q + 1, n) of a spiking layer, (..., b, n, q + 1, n) if "full"; (..., b, q) of an integrator.
        bar: e, filtered by the read-out's decay, of the shape of `eps`; size 0 without that filter.
    """

    s: Array
    y: Array
    psi: Array
    eps: Array
    bar: Array


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A layer over some steps.

    Args:
        u: what entered its matrix, (..., t, b, q).
        s: states, (..., t, b, n).
        y: activities, (..., t, b, n).
        psi: derivatives of the activities.
        kept: ds_t/ds_{t-1} of a spiking layer, diagonal, (..., t, b, n).
        reset: ds_t/dy_{t-1}, diagonal, without the recurrent matrix.
        bias: d's_t/d'b.
    """

    u: Array
    s: Array
    y: Array
    psi: Array
    kept: Array
    reset: Array
    bias: Array

    @property
    def steps(self) -> range:
        """Numbers of the steps."""
        return range(self.u.shape[-3])


def first(layer: Layer, lead: tuple[int, ...], recurrence: str, *, filtered: bool) -> Trace:
    """The trace of a layer that has seen nothing yet; `lead` is (..., b)."""
    none, n = np.zeros((*lead, 0)), math.prod(layer.outputs)
    rows = layer.size // n
    match layer.kind:
        case "spiking":
            zero = np.zeros((*lead, n))
            eps = np.zeros((*lead, n, rows, n) if _full_trace(layer, recurrence) else (*lead, rows, n))
            return Trace(zero, zero, zero, eps, np.zeros_like(eps) if filtered else none)
        case "integrator":
            return Trace(none, none, none, np.zeros((*lead, rows - 1)), none)
    return Trace(none, none, none, none, none)


def estimated(layer: Layer, block: Array, x: Array, y: Array, trace: Trace) -> Array:
    """The states of a spiking layer, (..., t, b, n), by its equations, from what entered and the spikes that were seen.

    The reset follows the device's own spikes, which keeps the estimate in step with the device.
    """
    matrix, bias = parameters(layer, block)
    drive: Array = np.matmul(_entered(layer, x, y, trace), matrix[..., None, :, :])
    off = layer.threshold + (bias[..., None, :] if layer.reset == "soft_trained" else 0.0)
    states, s, before = np.empty_like(drive), trace.s, trace.y
    for t in range(drive.shape[-3]):
        s = membrane(layer.reset, drive[..., t, :, :], s, before, layer.decay, off)
        states[..., t, :, :], before = s, y[..., t, :, :]
    return states


def seen(layer: Layer, block: Array, x: Array, s: Array, y: Array, trace: Trace, surrogate: Surrogate) -> Seen:
    """What (1) and (2) take of a layer at every step."""
    if layer.kind != "spiking":
        none = np.zeros(0)
        return Seen(x, y, y, SLOPES[layer.activation](y), none, none, none)
    _, bias = parameters(layer, block)
    bias = bias[..., None, None, :]
    s_before, y_before = _before(trace.s, s), _before(trace.y, y)
    trained = layer.reset == "soft_trained"
    off = layer.threshold + bias if trained else layer.threshold
    kept, reset = jacobians(layer.reset, s_before, y_before, layer.decay, off)
    psi = slope(layer.activation, s - layer.threshold - bias, y, surrogate)
    return Seen(
        _entered(layer, x, y, trace), s, y, psi, kept, reset, -y_before if trained else np.broadcast_to(0.0, y.shape)
    )


def accumulate(
    layer: Layer,
    block: Array,
    now: Seen,
    signal: Array,
    trace: Trace,
    gradient: Array,
    keep: float | None,
    recurrence: str,
) -> tuple[Array, Trace]:
    """Add sum_t L_t e_t to the layer's gradient.

    Args:
        layer: which.
        block: its parameters, (..., size).
        now: what was seen of it.
        signal: L, (..., t, b, n); 0 where a step does not count.
        trace: of the step before.
        gradient: so far, (..., size).
        keep: decay of the read-out, by which e is filtered; None is no filter.
        recurrence: trace of a recurrent layer: "diagonal", or "full" at n times the memory and n^2 times the work.

    Returns:
        The gradient, summed in the order of the steps, and the trace of the last step.
    """
    n = math.prod(layer.outputs)
    total = gradient.reshape(*gradient.shape[:-1], -1, n).copy()
    match layer.kind:
        case "dense":
            local = signal * now.psi
            for t in now.steps:
                total[..., :-1, :] += np.matmul(now.u[..., t, :, :].swapaxes(-1, -2), local[..., t, :, :])
                total[..., -1, :] += (1 if layer.bias == "add" else -1) * local[..., t, :, :].sum(axis=-2)
        case "integrator":
            eps = trace.eps
            for t in now.steps:
                eps = layer.decay * eps + layer.gain * now.u[..., t, :, :]
                total[..., :-1, :] += np.matmul(eps.swapaxes(-1, -2), signal[..., t, :, :])
                total[..., -1, :] += signal[..., t, :, :].sum(axis=-2)
            trace = replace(trace, eps=eps)
        case "spiking":
            full = _full_trace(layer, recurrence)
            follow = _full(layer, block, now, trace) if full else _diagonal(now, trace)
            bar = trace.bar
            for t, (eps, e) in zip(now.steps, follow, strict=True):
                if keep is not None:
                    e = bar = keep * bar + e
                total += _told(signal[..., t, :, :], e)
                trace = Trace(now.s[..., t, :, :], now.y[..., t, :, :], now.psi[..., t, :, :], eps, bar)
    return total.reshape(gradient.shape), trace


def backwards(layer: Layer, now: Seen, signal: Array, keep: float | None) -> Array:
    """sum_t L_t e_t of a spiking layer over a whole sequence, (..., size), with "diagonal" traces, in reverse time.

        lam_t = psi_t (L_t + reset_{t+1} lam_{t+1}) + kept_{t+1} lam_{t+1},     gradient = sum_t u_t lam_t

    The same numbers up to rounding, from memory that grows with neurons instead of parameters: not a rule that learns
    on line, but one by which many runs of it can be studied.
    """
    total = np.zeros((*signal.shape[:-3], layer.size // signal.shape[-1], signal.shape[-1]))
    signal = _filtered(signal, keep)
    lam, reset = np.zeros_like(signal[..., 0, :, :]), np.zeros_like(signal[..., 0, :, :])
    for t in reversed(now.steps):
        fires = now.psi[..., t, :, :] * (signal[..., t, :, :] + reset)
        lam = fires + lam
        total[..., :-1, :] += np.matmul(now.u[..., t, :, :].swapaxes(-1, -2), lam)
        total[..., -1, :] += (now.bias[..., t, :, :] * lam - fires).sum(axis=-2)
        reset, lam = now.reset[..., t, :, :] * lam, now.kept[..., t, :, :] * lam
    return total.reshape(*total.shape[:-2], -1)


def _full_trace(layer: Layer, recurrence: str) -> bool:
    return layer.recurrent and recurrence == "full"


def _diagonal(now: Seen, trace: Trace) -> Iterator[tuple[Array, Array]]:
    """The traces eps and e after each step, (..., b, q + 1, n)."""
    eps, psi = trace.eps, trace.psi
    for t in now.steps:
        reset = now.reset[..., t, :, :] * psi
        eps = (now.kept[..., t, :, :] + reset)[..., None, :] * eps
        eps[..., :-1, :] += now.u[..., t, :, :, None]
        eps[..., -1, :] += now.bias[..., t, :, :] - reset
        psi = now.psi[..., t, :, :]
        e = psi[..., None, :] * eps
        e[..., -1, :] -= psi
        yield eps, e


def _full(layer: Layer, block: Array, now: Seen, trace: Trace) -> Iterator[tuple[Array, Array]]:
    """The traces after each step, (..., b, n, q + 1, n): of every neuron by the parameters of every neuron."""
    matrix, _ = parameters(layer, block)
    own = np.eye(now.y.shape[-1])
    back = matrix[..., -len(own) :, :]
    eps, psi = trace.eps, trace.psi
    e = psi[..., :, None, None] * eps
    e[..., -1, :] -= psi[..., :, None] * own
    for t in now.steps:
        kept, reset = now.kept[..., t, :, :, None, None], now.reset[..., t, :, :, None, None]
        eps = kept * eps + reset * e + np.einsum("...mk,...bmji->...bkji", back, e)
        eps[..., :-1, :] += now.u[..., t, :, None, :, None] * own[:, None, :]
        eps[..., -1, :] += now.bias[..., t, :, :, None] * own
        psi = now.psi[..., t, :, :]
        e = psi[..., :, None, None] * eps
        e[..., -1, :] -= psi[..., :, None] * own
        yield eps, e


def _told(signal: Array, e: Array) -> Array:
    """L e, summed over samples, and over the neurons that one parameter reaches."""
    index = "...bk,...bkji->...ji" if e.ndim == signal.ndim + 2 else "...bi,...bji->...ji"
    result: Array = np.einsum(index, signal, e)
    return result


def _filtered(signal: Array, keep: float | None) -> Array:
    """sum_{t' >= t} keep^(t' - t) L_t', which filters the trace instead."""
    if keep is None:
        return signal
    signal = signal.copy()
    for t in reversed(range(signal.shape[-3] - 1)):
        signal[..., t, :, :] += keep * signal[..., t + 1, :, :]
    return signal


def _entered(layer: Layer, x: Array, y: Array, trace: Trace) -> Array:
    """What enters a layer's matrix: its inputs, and behind them its own activity of the step before."""
    return np.concatenate([x, _before(trace.y, y)], axis=-1) if layer.recurrent else x


def _before(last: Array, values: Array) -> Array:
    """Values (..., t, b, n) of the step before each."""
    return np.concatenate([last[..., None, :, :], values[..., :-1, :, :]], axis=-3)
