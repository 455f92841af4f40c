"""From a gradient to a step: plain descent, momentum, Adam, as pure functions of their moments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hwtrain import checks
from hwtrain.core import Array, inside

Moments = tuple[Array, ...]


class Optimizer(Protocol):
    """Turns gradients into steps; its memory is a tuple of arrays of the parameters' shape."""

    def init(self, theta: Array) -> Moments:
        """The first moments."""

    def step(self, gradient: Array, moments: Moments, eta: float, update: int) -> tuple[Array, Moments]:
        """What to subtract from the parameters, and the next moments, at update number `update` (from 0)."""


@dataclass(frozen=True, slots=True)
class Descent:
    """theta <- theta - eta g."""

    def init(self, theta: Array) -> Moments:
        return ()

    def step(self, gradient: Array, moments: Moments, eta: float, update: int) -> tuple[Array, Moments]:
        return eta * gradient, ()


@dataclass(frozen=True, slots=True)
class Momentum:
    """v <- gamma v + eta g; theta <- theta - v (heavy ball, Polyak 1964)."""

    gamma: float = 0.9

    def __post_init__(self) -> None:
        checks.number("optimizer.gamma", self.gamma, 0, 1, below=True)

    def init(self, theta: Array) -> Moments:
        return (np.zeros_like(theta),)

    def step(self, gradient: Array, moments: Moments, eta: float, update: int) -> tuple[Array, Moments]:
        velocity = self.gamma * moments[0] + eta * gradient
        return velocity, (velocity,)


@dataclass(frozen=True, slots=True)
class Adam:
    """Kingma & Ba, arXiv 1412.6980, algorithm 1.

    Args:
        correct_bias: divide the moments by 1 - beta^t as the paper does; the 2025 code of MGD does not.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    correct_bias: bool = True

    def __post_init__(self) -> None:
        checks.number("optimizer.beta1", self.beta1, 0, 1, below=True)
        checks.number("optimizer.beta2", self.beta2, 0, 1, below=True)
        checks.number("optimizer.epsilon", self.epsilon, low=0)

    def init(self, theta: Array) -> Moments:
        return np.zeros_like(theta), np.zeros_like(theta)

    def step(self, gradient: Array, moments: Moments, eta: float, update: int) -> tuple[Array, Moments]:
        first = self.beta1 * moments[0] + (1 - self.beta1) * gradient
        second = self.beta2 * moments[1] + (1 - self.beta2) * gradient * gradient
        mean, square = first, second
        if self.correct_bias:
            mean = first / (1 - self.beta1 ** (update + 1))
            square = second / (1 - self.beta2 ** (update + 1))
        return eta * mean / (np.sqrt(square) + self.epsilon), (first, second)


def returned(theta: Array, reported: Array) -> Array:
    """What a device has made of theta by itself, (..., p); theta for replicas that report none, but NaN."""
    heard = np.isfinite(reported).all(axis=-1, keepdims=True)
    return np.where(heard, reported, theta).astype(reported.dtype, copy=False)


def moved(theta: Array, change: Array, low: float, high: float) -> Array:
    """The next theta, kept from `low` to `high`; where it overflows, the old one, so that it cannot spread."""
    target = theta - change
    if not np.isfinite(np.add.reduce(target, axis=None)):
        target = np.where(np.isfinite(target), target, theta)
    if np.isfinite(low) or np.isfinite(high):
        target = np.clip(target, *(inside(low, high) if target.dtype == np.float32 else (low, high)))
    return target
