"""One device as it was measured, and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwtrain.characterise.estimates import Interval
from hwtrain.characterise.experiments import Ground
from hwtrain.core import Array
from hwtrain.costs import Cost
from hwtrain.sim.networks import Network
from hwtrain.sim.tables import Table

SURE = 3.0  # log-likelihood by which one account of the readings must beat the simpler one
EXACT = 1e-12  # relative; what is smaller is rounding
MODEL = 1e-3  # relative; spreads below it are those of the fit
Data = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """One trait.

    Args:
        name: of the trait, for programs.
        says: the sentence.
        estimate: with its interval, where it is a number.
        unit: of it.
        verdict: a word, where it is a choice.
        which: parameters it is about.
        basis: how many readings, parameters or writes it rests on.
        settings: of a simulated cell that is like this, where it is one; without those of a file.
        table: the cell, where it is one that needs a file.
    """

    name: str
    says: str
    estimate: Interval | None = None
    unit: str = ""
    verdict: str = ""
    which: tuple[int, ...] = ()
    basis: int = 0
    settings: Mapping[str, Any] | None = None
    table: Table | None = None

    @property
    def value(self) -> float:
        """The estimate, or NaN."""
        return math.nan if self.estimate is None else self.estimate.value


@dataclass(frozen=True, slots=True, eq=False)
class Chip:
    """One device, as it was measured.

    Args:
        data: its arrays by name, without replica axes (hwtrain/characterise/experiments.py).
        ground: where they were measured.
        theta: parameters there, (p,).
        cost: what the device minimises.
        level: of all intervals.
        amplitude: of the probes that training would use; None is not known.
    """

    data: Data
    ground: Ground
    theta: Array
    cost: Cost
    level: float
    amplitude: float | None = None

    @property
    def resting(self) -> float:
        """The cost without a move, to compare small numbers with."""
        return float(np.mean(next((self.data[name] for name in ("hold", "bursts", "scan") if name in self.data), 1.0)))

    @property
    def is_known(self) -> bool:
        """Does the device name its layers, and are they of a kind that can be computed here?"""
        layers = self.ground.spec.layers
        return bool(layers) and all(layer.kind in ("dense", "conv", "pool") for layer in layers)

    @property
    def unit(self) -> str:
        """Of parameters, for a sentence."""
        return f" {self.ground.spec.unit}" if self.ground.spec.unit else ""

    def ideal(self, theta: Array) -> Array:
        """Cost of an ideal device on the flat sample, for parameters (..., p)."""
        x, target = self.ground.flat.x, self.ground.flat.target
        output = Network(self.ground.spec.layers).forward(np.atleast_2d(theta), x[None]).outputs[-1]
        assert target is not None
        costs: Array = self.cost(output, target[None]).mean(axis=(-2, -1))
        return costs

    def bent(self, index: Array) -> Array:
        """What moving parameters one by one both ways does to the cost of an ideal device, over what its gradient says.

        Moves are finite, and the cost is not straight; 1 where the gradient is nil, or the layers are unknown.
        """
        ratio = np.ones(len(index))
        if not self.is_known:
            return ratio
        gradient = self.gradient()
        for first in range(0, len(index), 64):
            at = index[first : first + 64]
            moved = np.repeat(self.theta[None, None], 2, axis=0).repeat(len(at), axis=1)
            moved[:, np.arange(len(at)), at] += self.ground.step * np.array([[1], [-1]])
            up, down = self.ideal(moved.reshape(-1, self.theta.size)).reshape(2, -1)
            with np.errstate(divide="ignore", invalid="ignore"):
                part = (up - down) / (2 * self.ground.step) / gradient[at]
            ratio[first : first + 64] = np.where(np.isfinite(part), np.clip(part, 0.5, 2.0), 1.0)
        return ratio

    def gradient(self) -> Array:
        """Of the cost of an ideal device on the flat sample, (p,)."""
        x, target = self.ground.flat.x, self.ground.flat.target
        assert target is not None
        found: Array = Network(self.ground.spec.layers).gradient(self.theta[None], x[None], target[None], self.cost)[0]
        return found


def stated(interval: Interval) -> str:
    """A number and its interval."""
    if interval.low == interval.high:
        return f"{interval.value:.3g}"
    return f"{interval.value:.3g} ({interval.low:.3g} to {interval.high:.3g})"


def floored(spread: Interval) -> Interval:
    """A relative spread, of which nothing is believed below what models of neurons are good for."""
    return spread if spread.value > MODEL else Interval(0.0, 0.0, max(spread.high, MODEL))


def percent(interval: Interval) -> str:
    """A share and its interval."""
    share = interval.times(100)
    return f"{share.value:.3g} % ({share.low:.3g} to {share.high:.3g} %)"
