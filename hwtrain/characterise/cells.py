"""A simulated cell like parameters that were pulsed and read: of the law that leads it where they came, or a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hwtrain import config
from hwtrain.characterise import pulses
from hwtrain.characterise.pulses import Fit, Trains
from hwtrain.characterise.replay import residual, table
from hwtrain.core import Array
from hwtrain.errors import ConfigError
from hwtrain.sim.tables import Table

WRONG = 0.02  # of the range; a law whose mean levels are farther off than this is not believed at once


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where the levels of fits stand: level = (reading - middle) / unit - offset, the last for each parameter, (d,)."""

    offset: Array
    middle: float
    unit: float


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What was read of the parameters that move.

    Args:
        trains: levels of the fits.
        place: where they stand.
        read: readings before and after every block of pulses, (d, j, n + 1).
        walks: readings under pulses that turned back at random, (d, k, n + 1), and whether they led up, (d, k, n).
        read_noise: standard deviation of a reading.
        named: the unit of the readings, in letters.
    """

    trains: Trains
    place: Place
    read: Array
    walks: tuple[Array, Array] | None
    read_noise: float
    named: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Like:
    """A cell that may be like them.

    Args:
        fit: of the law.
        settings: of the cell; of a table without its file. Empty where the law makes none.
        off: how far its mean levels are from the readings, over the range.
        chance: how far those of as many other parameters would be.
        why: it makes none.
        because: a sentence that says why it is this one.
        table: the cell, where it is one.
    """

    fit: Fit
    settings: Mapping[str, Any]
    off: float
    chance: float = 0.0
    why: str = ""
    table: Table | None = None
    because: str = ""

    @property
    def is_like(self) -> bool:
        """Do its levels come where the readings came?"""
        return self.off <= max(WRONG, 2 * self.chance)


def nearest(seen: Seen, level: float) -> Like:
    """The likeliest law; if its cells do not come where the readings came, that whose cells come nearest; or a table.

    Args:
        seen: the readings.
        level: of intervals.
    """
    best = _of_law(pulses.fit(seen.trains, level), seen, level)
    if best.fit.rival is not None:
        name, lead = best.fit.rival
        because = f"It is the likeliest: the criterion of Schwarz is {lead:.3g} less for the {name} law, which is next."
        best = replace(best, because=because)
    if not best.is_like:
        because = f"It comes nearest; the likeliest, the {best.fit.name} law, is {best.off:.1%} of the range off."
        others = [name for name in pulses.ALL if name != best.fit.family]
        tried = [_of_law(pulses.fit(seen.trains, level, [name]), seen, level) for name in others]
        nearer = min(tried, key=lambda one: one.off)
        best = replace(nearer, because=because) if nearer.off < best.off else best
    if best.is_like or seen.walks is None:
        return best
    copied = table(seen.read, *seen.walks, seen.read_noise)
    off, chance = residual(copied, seen.read, 1)
    if off >= best.off:
        return best
    settings = {"_target_": "hwtrain.sim.tables.load_table", "read_noise": seen.read_noise, "unit": seen.named}
    because = f"That law comes {best.off:.1%} of the range off." if math.isfinite(best.off) else ""
    return Like(best.fit, settings, off, chance, best.why, copied, because)


def _of_law(fit: Fit, seen: Seen, level: float) -> Like:
    try:
        settings = _settings(fit, seen, level)
        off, chance = residual(config.build(dict(settings)), seen.read, seen.trains.block)
    except ConfigError as error:
        return Like(fit, {}, math.inf, why=str(error))
    return Like(fit, settings, off, chance)


def _settings(fit: Fit, seen: Seen, level: float) -> dict[str, Any]:
    settings: dict[str, Any] = pulses.cell(fit, pulses.reached(seen.trains), level)
    settings["read_noise"] = seen.trains.read_noise
    offset, middle, unit = seen.place.offset, seen.place.middle, seen.place.unit
    if offset.any():
        reference = {"mean": -float(offset.mean()), "std": float(offset.std())}
        settings["reference"] = {"_target_": "hwtrain.sim.pulsed.Reference", **reference}
    if (middle, unit) != (0.0, 1.0) or seen.named:
        low, high = (middle + unit * (settings[end] + float(offset.mean())) for end in ("w_min", "w_max"))
        settings = {"_target_": "hwtrain.sim.composite.Scaled", "cell": settings, "low": low, "high": high}
        settings["unit"] = seen.named
    return settings


def with_stuck(settings: Mapping[str, Any], share: float) -> dict[str, Any]:
    """The same cell with a share of its devices stuck, also where it stands in another cell."""
    if not share:
        return dict(settings)
    if "cell" in settings:
        return {**settings, "cell": with_stuck(settings["cell"], share)}
    return {**settings, "stuck": {"_target_": "hwtrain.sim.cells.Stuck", "anywhere": share}}
