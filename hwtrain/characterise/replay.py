"""A cell beside the readings it was made from: put through the same trains of pulses, does it come where they came?"""

from __future__ import annotations

import math

import numpy as np

from hwtrain.core import Array
from hwtrain.sim.cells import Cell
from hwtrain.sim.tables import Table, joined, table_from_steps

DEVICES = 256  # that are simulated
WARM = 2  # trains at first that depend on where devices began
TRAINS = 4  # that are compared


def residual(cell: Cell, levels: Array, block: int) -> tuple[float, float]:
    """How far mean levels of a cell are from those that were read, over the mean range of a parameter.

    Args:
        cell: in the unit of the readings.
        levels: before and after every block of pulses, (d, j, n + 1), trains up and down in turn.
        block: pulses from one reading to the next.

    Returns:
        The root mean square over the readings of a train up and of a train down; and the one that is to be expected
        when as many parameters are drawn again, from how they differ.
    """
    kept = compared(levels)
    again = played(cell, levels.shape[-1] - 1, block)[:, : kept.shape[1]]
    apart = _means(again).mean(axis=0) - _means(kept).mean(axis=0)
    errors = _means(kept).var(axis=0, ddof=1) / len(kept) if len(kept) > 1 else np.full(apart.shape, np.inf)
    span = np.ptp(kept.reshape(len(kept), -1), axis=-1).mean()
    return float(math.sqrt((apart**2).mean()) / span), float(math.sqrt(errors.mean()) / span)


def compared(levels: Array) -> Array:
    """The trains (d, k, n + 1) that are looked at, of (d, j, n + 1): both ways, and later ones where there are more."""
    return levels[:, WARM : WARM + TRAINS] if levels.shape[1] >= WARM + 2 else levels[:, :2]


def profile(levels: Array) -> dict[str, Array]:
    """What trains of pulses do to some parameters, by name: their mean level and its spread at each reading, (n + 1,).

    Args:
        levels: see `residual`.
    """
    means = _means(compared(levels))
    return {
        f"{what} of levels under pulses {way}": number
        for row, way in enumerate(("up", "down"))
        for what, number in (("Mean", means[:, row].mean(axis=0)), ("Spread", means[:, row].std(axis=0)))
    }


def played(cell: Cell, count: int, block: int, size: int = DEVICES) -> Array:
    """Levels (d, j, n + 1) of simulated devices under trains up and down in turn, once they have gone both ways."""
    devices = cell.fabricate(np.array(7, np.uint32), size)
    state, trains = cell.fresh(devices), []
    for number in range(WARM + TRAINS):
        sign, read = (1 if number % 2 == 0 else -1), [cell.held(devices, state)]
        for _ in range(count):
            state = cell.pulse(devices, state, np.full(size, sign * block))
            read.append(cell.held(devices, state))
        trains.append(np.stack(read, axis=-1))
    return np.stack(trains[WARM:], axis=1)


def table(levels: Array, wander: Array, ways: Array, read_noise: float) -> Table:
    """A cell that copies parameters which were read after every pulse.

    Args:
        levels: as in `residual`, with a block of 1.
        wander: readings under pulses that turned back at random, (d, k, n + 1).
        ways: whether they led up, (d, k, n).
        read_noise: standard deviation of a reading.
    """
    up = np.broadcast_to(np.arange(levels.shape[1])[:, None] % 2 == 0, (levels.shape[1], levels.shape[2] - 1)).ravel()
    return joined(
        [
            table_from_steps(
                np.concatenate([train[:, :-1].ravel(), walk[:, :-1].ravel()]),
                np.concatenate([train[:, 1:].ravel(), walk[:, 1:].ravel()]),
                np.concatenate([up, way.ravel()]),
                read_noise=read_noise,
            )
            for train, walk, way in zip(levels, wander, ways, strict=True)
        ]
    )


def _means(levels: Array) -> Array:
    """Of trains alike, (d, 2, n + 1)."""
    return np.stack([levels[:, way::2].mean(axis=1) for way in (0, 1)], axis=1)
