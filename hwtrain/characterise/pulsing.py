"""How parameters answer to pulses: steps up and down, how they hang on the level, how parameters differ, and a cell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from hwtrain.characterise import estimates, pulses
from hwtrain.characterise.cells import Like, Place, Seen, nearest, with_stuck
from hwtrain.characterise.chip import Chip, Finding, percent, stated
from hwtrain.characterise.estimates import Interval
from hwtrain.characterise.pulses import Fit, Trains
from hwtrain.core import Array

MOST = 96  # parameters that are fitted
AWAY = 0.1  # share of parameters that never come to level 0, from which on each has a level 0 of its own
SMALL = 0.05  # half a range that holds 0, up to which its levels are no plain numbers, as conductances are not


def pulsing(chip: Chip, found: Mapping[str, Finding]) -> list[Finding]:
    """The law of the steps, its numbers, and settings of a cell that is pulsed alike."""
    if "trains" not in chip.data or chip.data["trains"].shape[0] < 2:
        return []
    spec, level = chip.ground.device, chip.level
    middle, unit = scale(spec.low, spec.high)
    reading = _reading(chip)
    levels = (np.moveaxis(chip.data["trains"], -1, 0) - middle) / unit
    chosen = np.arange(0, len(levels), -(-len(levels) // MOST))
    trains = Trains(levels[chosen], chip.data["ups"], chip.data["block"], reading.value / unit)
    moves = pulses.moving(trains)
    result = [_read(reading, chip), _stuck(chosen, moves, level)]
    if moves.sum() < 1:
        return result
    trains = pulses.of(trains, moves)
    low, high = pulses.reached(trains)
    away = np.mean((low > 0) | (high < 0)) > AWAY  # windows of their own, so each is seen from its middle
    offset = (low + high) / 2 if away else np.zeros(len(low))
    trains = replace(trains, levels=trains.levels - offset[:, None, None])
    moved = chosen[moves]
    read = np.moveaxis(chip.data["trains"], -1, 0)[moved]
    walks = None
    if "wander" in chip.data:
        wander, ways = (np.moveaxis(chip.data[name], -1, 0)[moved] for name in ("wander", "ways"))
        walks = wander, ways
    like = nearest(Seen(trains, Place(offset, middle, unit), read, walks, reading.value, spec.unit), level)
    share = result[1].estimate
    stuck = share.value if share is not None and share.is_seen else 0.0
    return [*result, *_numbers(like.fit, trains, offset, middle, unit, chip), *_cell(like, stuck, len(moved))]


def scale(low: float, high: float) -> tuple[float, float]:
    """What levels are measured from, 0 where the range holds it, else the middle; and in, 1 or half the range."""
    if not math.isfinite(high - low):
        return 0.0, 1.0
    half = (high - low) / 2
    return (0.0, 1.0 if half > SMALL else half) if low < 0 < high else ((low + high) / 2, half)


def _beside(write: Interval, read: float, reading: Interval) -> Interval:
    """Noise of writing, with what is not known of the noise of reading that was taken off."""
    if not write.is_seen or not math.isfinite(reading.high):
        return write
    more = read * (reading.high - reading.low) / 2 / write.value
    down, up = (math.hypot(abs(end - write.value), more) for end in (write.low, write.high))
    return Interval(write.value, max(write.value - down, 0.0), write.value + up)


def _reading(chip: Chip) -> Interval:
    still = chip.data.get("still")
    if still is None or len(still) < 2:
        return Interval(0.0, 0.0, math.inf)
    freedom, away = (len(still) - 1) * still.shape[1], still - still[0]  # so that what repeats exactly is exactly 0
    return estimates.deviation(float(((away - away.mean(axis=0)) ** 2).sum()), freedom, chip.level)


def _read(reading: Interval, chip: Chip) -> Finding:
    says = f"A parameter read again differs by {stated(reading)}{chip.unit}."
    if not reading.value:
        says = "A parameter read again is the same to the last digit."
    return Finding("parameter_read_noise", says, reading, chip.ground.device.unit or "parameter unit")


def _stuck(chosen: Array, moves: Array, level: float) -> Finding:
    which = tuple(int(at) for at in chosen[~moves])
    share = estimates.share(len(which), len(chosen), level)
    says = f"All {len(chosen)} parameters that were looked at follow pulses."
    if which:
        names = ", ".join(map(str, which[:12])) + (", ..." if len(which) > 12 else "")
        says = f"{len(which)} of {len(chosen)} parameters do not follow pulses: {names}."
    return Finding("stuck", says, share, "share", which=which, basis=len(chosen))


def _numbers(fit: Fit, trains: Trains, offset: Array, middle: float, unit: float, chip: Chip) -> list[Finding]:
    level, what = chip.level, chip.ground.device.unit or "parameter unit"
    many, count = len(trains.levels), int(np.isfinite(trains.levels).sum())
    (up, up_error), (down, down_error) = pulses.steps(fit)
    first, second = (pulses.average(each, level).times(unit) for each in (up, down))
    uneven = pulses.asymmetry(up, down, level)
    more, share = "up", uneven
    if uneven.value < 0:
        more, share = "down", Interval(-uneven.value, -uneven.high, -uneven.low)
    where = "at level 0" if not offset.any() else "in the middle of its range"
    where = "on average over its range" if fit.name == "piecewise" else where
    says = f"A pulse up moves a parameter by {stated(first)}{chip.unit} {where}."
    result = [Finding("pulse_up", says, first, what, fit.name, basis=many)]
    says = f"A pulse down moves it by {stated(second)}{chip.unit}."
    result.append(Finding("pulse_down", says, second, what, fit.name, basis=many))
    says = f"Steps {more} are the larger; the others are smaller by a share of {stated(share)}."
    result.append(Finding("pulse_asymmetry", says, uneven, "relative", basis=many))
    says = f"From pulse to pulse steps differ by {percent(fit.noise)}."
    result.append(Finding("pulse_noise", says, fit.noise, "relative", fit.kind, basis=count))
    write = _beside(fit.write_noise, trains.read_noise, _reading(chip).times(1 / unit)).times(unit)
    says = f"What a pulse leaves is read {stated(write)}{chip.unit} off, until the next one."
    if not write.is_seen:
        says = f"No noise of writing is seen beside; it is below {write.high:.3g}{chip.unit}."
    result.append(Finding("pulse_write_noise", says, write, what, basis=count))
    if many > 2:
        size = (up + down) / 2
        apart = estimates.spread([(size, np.hypot(up_error, down_error) / 2)], level)
        spread = apart.over(pulses.average(size, level))
        says = f"From parameter to parameter steps differ by {percent(spread)}."
        result.append(Finding("pulse_variation", says, spread, "relative", basis=many))
    for name, number in fit.shape.items():
        says = f"In the law of the steps (ExpStep with a = 1 and b = 0), {name} is {stated(number)}."
        result.append(Finding(f"law_{name}", says, number, basis=many))
    seen = pulses.reached(trains)

    def native(values: Array) -> Interval:
        found = pulses.average(values, level)
        return Interval(*(float(middle + unit * end) for end in (found.value, found.low, found.high)))

    for name, end, least in (("lower_bound", fit.low, seen[0]), ("upper_bound", fit.high, seen[1])):
        words, inside = name.replace("_", " "), np.isfinite(end)
        if inside.mean() > 0.5:
            bound = native((end + offset)[inside])
            says = f"Pulses lead to {'a' if name[0] == 'l' else 'an'} {words} of {stated(bound)}{chip.unit}."
            result.append(Finding(name, says, bound, what, basis=int(inside.sum())))
        else:
            says = f"No {words} is reached at {middle + unit * float(np.median(least + offset)):.3g}{chip.unit}."
            result.append(Finding(name, says, None, what, "not reached", basis=many))
    even = native(pulses.symmetry(fit, *seen) + offset)
    says = f"Steps up and down balance at {stated(even)}{chip.unit}."
    result.append(Finding("symmetry_point", says, even, what, basis=many))
    return result


def _cell(like: Like, stuck: float, basis: int) -> list[Finding]:
    name = like.fit.name
    if math.isinf(like.off):
        return [Finding("cell", f"{like.why}.".capitalize(), verdict="none", basis=basis)]
    law = "piecewise linear" if name == "piecewise" else f"those of the {name} law"
    if like.table is not None:
        name = "table"
        says = "No law describes the steps; they are drawn from a table."
        says = f"{says} What is said of them above is by the nearest: {law}. {like.because}"
    elif like.is_like:
        says = f"The steps are {law}. {like.because}"
    else:
        says = f"No law describes the steps; the nearest are {law}. {like.because}"
    settings = with_stuck(like.settings, stuck)
    result = [Finding("cell", says.strip(), verdict=name, basis=basis, settings=settings, table=like.table)]
    off = f"Simulated again, its mean level is {like.off:.1%} of the range off"
    by_chance = f"As many other parameters would be {like.chance:.1%} off, by how parameters differ."
    for name, says, value in (("cell_residual", f"{off}.", like.off), ("cell_chance", by_chance, like.chance)):
        if math.isfinite(value):
            result.append(Finding(name, says, Interval(value, value, value), "of the range", basis=basis))
    return result
