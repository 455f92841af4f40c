"""What is asked of a device, and what came, as arrays: no conclusion is drawn here.

Every experiment takes a share of the budget and gives what it could measure for it. All are made at one point, where
training would start; the device's own traits on one flat sample, which drives all inputs alike, and how training would
see them on samples of the task. Axes lead with replicas, as everywhere.

    hold        many readings in a row after one write               noise, drift
    shrunk      all parameters scaled down by writes                 what a decay of all of them would look like
    bursts      many writes of the same parameters, a few readings   write noise, settling, drift
    probed      readings under a probe that is held                  noise under probes
    effects     every parameter moved both ways by a probe           gain, dead parameters
    writes      every parameter moved by a write                     stuck parameters
    scans       one parameter moved in ever smaller steps            resolution, range, linearity
    pairs       the same move by a probe and by a write              do probes equal programming?
    outputs     activities again and again                           read noise
    neurons     biases moved together, weights zero                  spread of neurons
    ladder      random probes of growing amplitude                   what training will see

Of a device that takes pulses and no values, only its answer to them is measured, and the noise of its cost.

    trains      readings between blocks of pulses, up and down       step against level, noise, bounds, asymmetry
    wander      readings between pulses that turn back at random     a table, where a few pulses cross the range
    hold        many readings in a row                               noise, drift
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwtrain import draws
from hwtrain.characterise.bench import Bench
from hwtrain.core import Array, Can, Command, DeviceSpec, Measure, Probes, Program, Pulse, Read, Reading, Sample, Task
from hwtrain.perturb import Antithetic, Rademacher, Sequential

OPEN = 4.0  # how far a parameter is moved from 0 where the device sets no limit
CHUNK = 256  # measurements of one exchange, about
POINTS = 33  # of a scan
ZOOM = 16  # from one scan to the next
SCANS = 4
FACTORS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)  # of all parameters together
RESTING = 8  # readings without a probe, beside those with
GROUP = 8  # parameters written one at a time between two looks at where they started
LADDER = 6  # amplitudes, each half the one before
TRAIN = 100  # readings of a train of pulses, about
WINDOWS = 1.5  # how far a train would go, were its steps those of the spec [ranges]
WANDER = 3000  # most pulses that turn back at random
NUMBERS = 1_000_000  # most that are read under pulses, all parameters together


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """Where and on what a device is measured.

    Args:
        device: what the device says of itself.
        spec: the same, its range narrowed to what may be tried.
        theta: the point, (..., p).
        seed: of random patterns, (...,).
        flat: one sample with all inputs alike.
        task: samples as training presents them.
        low: lowest parameter that is tried.
        high: highest.
    """

    device: DeviceSpec
    spec: DeviceSpec
    theta: Array
    seed: NDArray[np.uint32]
    flat: Sample
    task: Task
    low: float
    high: float

    @property
    def step(self) -> float:
        """How far a single parameter is moved: a sixteenth of the range."""
        return (self.high - self.low) / 16


def ground(
    bench: Bench, task: Task, start: Callable[[DeviceSpec, NDArray[np.uint32]], Array] | None, seed: int
) -> Ground:
    """Settle where to measure.

    Args:
        bench: with the device.
        task: samples.
        start: first parameters, as training takes them; None spreads them about the middle of the range.
        seed: of the first replica; replica i has seed + i.
    """
    spec = bench.spec
    seeds = (seed + np.arange(int(np.prod(spec.replicas)))).astype(np.uint32).reshape(spec.replicas)
    return grounded(bench, task, start, seeds)


def grounded(
    bench: Bench, task: Task, start: Callable[[DeviceSpec, NDArray[np.uint32]], Array] | None, seeds: NDArray[np.uint32]
) -> Ground:
    """The same, with a seed for every replica."""
    spec = bench.spec
    low = spec.low if np.isfinite(spec.low) else min(-OPEN, spec.high - 2 * OPEN)
    high = spec.high if np.isfinite(spec.high) else max(OPEN, low + 2 * OPEN)
    room = (high - low) / 16
    if start is None or Can.PULSE in spec.can:  # which is not written
        theta = (low + high) / 2 + room * (2 * draws.uniform(draws.derive(seeds, "start"), 0, spec.size) - 1)
    else:
        theta = start(bench.device, seeds)
    theta = np.clip(np.asarray(theta, spec.dtype).astype(float), low + room, high - room)
    seen = task.seen(1)
    assert seen.target is not None
    x = np.full((1, 1, spec.inputs), np.sqrt(np.mean(np.square(task.seen(64).x))))
    return Ground(
        bench.device, spec, theta, draws.derive(seeds, "characterise"), Sample(x, seen.target[:1, :1]), task, low, high
    )


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """All that was measured.

    Args:
        ground: where.
        each: arrays with the replicas' axes in front, by name; what was not measured is not there.
        common: numbers and arrays that all replicas share.
        skipped: experiments that were left out or cut short, and why.
    """

    ground: Ground
    each: dict[str, Array] = field(default_factory=dict)
    common: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def chip(self, index: tuple[int, ...]) -> dict[str, Any]:
        """What was measured on one replica, and what all share."""
        return {name: values[index] for name, values in self.each.items()} | self.common


def measure(bench: Bench, ground: Ground) -> Measured:
    """Make all experiments that the device allows, one after another."""
    done = Measured(ground)
    shares = PULSED if Can.PULSE in bench.spec.can else SHARES
    for experiment, (measurements, writes) in shares.items():
        share = int(measurements * bench.most[0]), int(writes * bench.most[1])
        experiment(bench, ground, done, *share)
    timed = [exchange for exchange in bench.asked if exchange.name in ("hold", "bursts")]
    seconds = sum(exchange.ended - exchange.began for exchange in timed)
    done.common["seconds"] = seconds / max(sum(exchange.measurements for exchange in timed), 1)
    return done


def hold(bench: Bench, ground: Ground, done: Measured, measurements: int, writes: int) -> None:
    """One write, and readings until the share is used up: `hold` (..., n), `breaks` where a new process went on.

    Of a device that takes pulses there is no write.
    """
    costs: list[Array] = []
    breaks: list[int] = []
    pulsed = Can.PULSE in bench.spec.can
    commands: list[Command] = [] if pulsed else [Program(ground.theta + ground.step), Program(ground.theta)]
    while measurements > 1:
        readings = bench.ask("hold", [*commands, *[Measure(ground.flat)] * min(measurements, CHUNK)])
        if readings is None:
            break
        if costs and bench.asked[-1].session != bench.asked[-2].session:
            breaks.append(sum(cost.shape[-1] for cost in costs))
        costs.append(_costs(readings))
        measurements -= len(readings)
        commands = [] if pulsed else [Program(ground.theta)]
    _keep(done, "hold", costs, -1, breaks=breaks)


def bursts(bench: Bench, ground: Ground, done: Measured, measurements: int, writes: int) -> None:
    """Write the same parameters again and again, read a few times after each: `bursts` (..., j, n)."""
    count = min(writes // 2, measurements // 8, 256)
    each = min(measurements // max(count, 1), CHUNK)
    away, back = Program(ground.theta + ground.step), Program(ground.theta)
    costs = []
    for _ in range(count):
        if (readings := bench.ask("bursts", [away, back, *[Measure(ground.flat)] * each])) is not None:
            costs.append(_costs(readings)[..., None, :])
    _keep(done, "bursts", costs, -2)


def shrunk(bench: Bench, ground: Ground, done: Measured, measurements: int, writes: int) -> None:
    """Write all parameters a little nearer to zero: `shrunk` (..., points) the cost at each of `factors` (points,)."""
    repeats = min(measurements // len(FACTORS), 64)
    if not repeats or writes <= len(FACTORS) or not ground.low <= 0 <= ground.high:
        return
    commands: list[Command] = [Program(ground.theta + ground.step)]  # so that the first is a write, too
    for factor in FACTORS:
        commands += [Program(factor * ground.theta), *[Measure(ground.flat)] * repeats]
    if (readings := bench.ask("shrunk", commands)) is not None:
        costs = _costs(readings)
        done.each["shrunk"] = costs.reshape(*costs.shape[:-1], len(FACTORS), repeats).mean(axis=-1)
        done.common.update(factors=np.array(FACTORS), reshrunk=repeats)


def probed(bench: Bench, ground: Ground, done: Measured, measurements: int, writes: int) -> None:
    """Readings under a probe that is held: `probed` (..., j, n)."""
    if not _offers(bench, done, "probed", Can.PROBE):
        return
    each = min(measurements // 8, CHUNK)
    code, costs = Rademacher(amplitude=ground.step / 8), []
    for first in range(0, 8 * each, max(each, 1)):
        probes = Probes(code, ground.seed, first, each, hold=each)
        if (readings := bench.ask("probed", [Program(ground.theta), Measure(ground.flat, probes)])) is not None:
            costs.append(_costs(readings)[..., None, :])
    _keep(done, "probed", costs, -2)


def effects(bench: Bench, ground: Ground, done: Measured, measurements: int, writes: int) -> None:
    """Move parameters one by one both ways: `moved` (..., k) which, `effect` (..., r, k) of the cost per unit.

    And `ahead` (..., k), the effect of the move upwards alone, with which that of a write can be compared.
    """
    size = ground.spec.size
    count = min(size, measurements // 5)
    if not _offers(bench, done, "effects", Can.PROBE) or not count:
        return
    repeats = min(measurements // (2 * count + RESTING * -(-2 * count // CHUNK)), 64)
    code = Antithetic(Sequential(amplitude=ground.step))
    starts = range(0, 2 * count, CHUNK)
    both: list[Array] = []
    ups: list[Array] = []
    for number in range(repeats * len(starts)):
        first = starts[number % len(starts)]
        probes = Probes(code, ground.seed, first, min(CHUNK, 2 * count - first))
        resting: list[Command] = [Program(ground.theta), *[Measure(ground.flat)] * RESTING]
        if (readings := bench.ask("effects", [*resting, Measure(ground.flat, probes)])) is None:
            break
        rest, costs = np.split(_costs(readings), [RESTING], axis=-1)
        delta = probes.dense(size)
        at = np.abs(delta).argmax(axis=-1)
        sign = np.take_along_axis(delta, at[..., None], -1)[..., 0] / ground.step
        difference = (sign * costs).reshape(*costs.shape[:-1], -1, 2).sum(axis=-1)
        both.append(difference / (2 * ground.step))
        ups.append((costs[sign > 0].reshape(difference.shape) - rest.mean(axis=-1, keepdims=True)) / ground.step)
        if number < len(starts):
            _keep(done, "moved", [*([done.each["moved"]] if number else []), at[..., ::2]], -1)
    whole = len(both) // len(starts) * len(starts)
    rounds = [slice(first, first + len(starts)) for first in range(0, whole, len(starts))]
    _keep(done, "effect", [np.concatenate(both[part], axis=-1)[..., None, :] for part in rounds], -2)
    if rounds:
        done.each["ahead"] = np.mean([np.concatenate(ups[part], axis=-1) for part in rounds], axis=0)
    if count < size:
        done.skipped["effects"] = f"only {count} of {size} parameters were moved: raise characterise.measurements"


def written(bench: Bench, ground: Ground, done: Measured, measurements: int, writes: int) -> None:
    """Write parameters one by one: `put` (..., k) which, `answer` (..., k) of the cost per unit."""
    size = ground.spec.size
    order = done.each.get("moved", draws.order(ground.seed, 0, size))
    count = min(order.shape[-1], writes * GROUP // (GROUP + 2))
    repeats = min(measurements * GROUP // max(count * (GROUP + 2), 1), 64)
    if not repeats:
        return
    order = done.each.get("moved", draws.order(ground.seed, 0, size))
    put, answers = [], []
    for first in range(0, count, GROUP):
        at = order[..., first : min(first + GROUP, count)]
        commands: list[Command] = [Program(ground.theta), *[Measure(ground.flat)] * (2 * repeats)]
        for k in range(at.shape[-1]):
            moved = ground.theta.copy()
            np.put_along_axis(
                moved, at[..., k : k + 1], np.take_along_axis(moved, at[..., k : k + 1], -1) + ground.step, -1
            )
            commands += [Program(moved), *[Measure(ground.flat)] * repeats]
        if (readings := bench.ask("written", commands)) is None:
            break
        costs = _costs(readings)
        before, after = costs[..., : 2 * repeats].mean(axis=-1), costs[..., 2 * repeats :]
        after = after.reshape(*after.shape[:-1], at.shape[-1], repeats).mean(axis=-1)
        put.append(at)
        answers.append((after - before[..., None]) / ground.step)
    _keep(done, "put", put, -1)
    _keep(done, "answer", answers, -1, rewritten=repeats)


def scans(bench: Bench, ground: Ground, done: Measured, measurements: int, writes: int) -> None:
    """Move the parameter with the largest effect over the range, then over ever smaller parts of it.

    `scanned` (...,) which, `at` (..., scans, points) its value, `scan` (..., scans, points) the cost; over the range
    also the outputs, where they are offered: `swept` (..., points, m).
    """
    order, effect = (("moved", "effect"), ("put", "answer"))["effect" not in done.each]
    repeats = min(measurements // (SCANS * POINTS), 64)
    if writes < POINTS or not repeats or effect not in done.each:
        done.skipped["scans"] = f"no scan of a parameter: it takes {POINTS} writes of a share of {writes}"
        return
    size = done.each[effect]
    strength = np.abs(size.mean(axis=-2) if effect == "effect" else size)
    which = np.take_along_axis(done.each[order], strength.argmax(axis=-1)[..., None], -1)
    middle = np.take_along_axis(ground.theta, which, -1)
    values, costs = [], []
    for number in range(min(SCANS, writes // POINTS)):
        span = (ground.high - ground.low) / ZOOM**number
        low = np.clip(middle - span / 2, ground.low, ground.high - span)
        at = np.minimum(low + span * np.arange(POINTS) / (POINTS - 1), ground.high)
        commands: list[Command] = []
        for point in range(POINTS):
            moved = ground.theta.copy()
            np.put_along_axis(moved, which, at[..., point : point + 1], -1)
            commands += [Program(moved), *[Measure(ground.flat)] * repeats]
            if not number and Can.OUTPUT in ground.spec.can:
                commands.append(Measure(ground.flat, observe=Can.OUTPUT))
        if (readings := bench.ask("scans", commands)) is None:
            break
        cost = _costs(readings)
        swept = [
            reading.output.reshape(*ground.spec.replicas, 1, -1) for reading in readings if reading.output is not None
        ]
        _keep(done, "swept", swept, -2)
        values.append(at[..., None, :])
        costs.append(cost.reshape(*cost.shape[:-1], POINTS, repeats).mean(axis=-1)[..., None, :])
    done.each["scanned"] = which[..., 0]
    _keep(done, "at", values, -2)
    _keep(done, "scan", costs, -2, rescanned=repeats)


def pairs(bench: Bench, ground: Ground, done: Measured, measurements: int, writes: int) -> None:
    """The same random move by a probe and by a write: `pairs` (..., j, 3), the cost without, under a probe, written.

    The `moves` (..., j, p). Where outputs are offered, those after the write, on samples of the task: `outside`
    (..., j, n).
    """
    count = min(writes // 2, 32)
    repeats = min(measurements // max(4 * count, 1), 64)
    if not count or not repeats:
        return
    shown, found, outside, moves = ground.task.seen(16), [], [], []
    for number in range(count):
        code = Rademacher(amplitude=ground.step * (0.5 + number / count) / 4)  # so that rounding differs
        probes = Probes(code, ground.seed, number * repeats, repeats, hold=repeats)
        move = probes.dense(ground.spec.size)[..., 0, :]
        commands: list[Command] = [Program(ground.theta), *[Measure(ground.flat)] * repeats]
        if Can.PROBE in ground.spec.can:
            commands.append(Measure(ground.flat, probes))
        commands += [Program(ground.theta + move), *[Measure(ground.flat)] * repeats]
        if Can.OUTPUT in ground.spec.can:
            commands.append(Measure(shown, observe=Can.OUTPUT))
        if (readings := bench.ask("pairs", commands)) is None:
            break
        if Can.OUTPUT in ground.spec.can:
            output = readings[-1].output
            assert output is not None
            outside.append(output.reshape(*ground.spec.replicas, 1, -1))
            readings = readings[:-1]
        costs = _costs(readings)
        middle = costs[..., repeats : costs.shape[-1] - repeats]
        each = [costs[..., :repeats], middle, costs[..., costs.shape[-1] - repeats :]]
        means = [part.mean(axis=-1) if part.size else np.full(part.shape[:-1], np.nan) for part in each]
        found.append(np.stack(means, axis=-1)[..., None, :])
        moves.append(move[..., None, :])
    _keep(done, "pairs", found, -2, paired=repeats)
    _keep(done, "moves", moves, -2)
    _keep(done, "outside", outside, -2)


def outputs(bench: Bench, ground: Ground, done: Measured, measurements: int, writes: int) -> None:
    """Read activities, or at least the outputs, again and again: `outputs` (..., r, n), all layers side by side.

    And `outputs under a probe`, which is held.
    """
    observe = _observable(ground.spec)
    count = min(measurements // 2, 32)
    if observe is None or count < 2:
        return
    probes = Probes(Rademacher(amplitude=ground.step / 8), ground.seed, 0, count, hold=count)
    looks: dict[str, list[Command]] = {"outputs": [Measure(ground.flat, observe=observe)] * count}
    if Can.PROBE in ground.spec.can:
        looks["outputs under a probe"] = [Measure(ground.flat, probes, observe)]
    for name, look in looks.items():
        if (readings := bench.ask("outputs", [Program(ground.theta), *look])) is not None:
            seen = [np.concatenate(_seen(reading, ground.spec), axis=-1) for reading in readings]
            done.each[name] = np.concatenate(seen, axis=-2)


def neurons(bench: Bench, ground: Ground, done: Measured, measurements: int, writes: int) -> None:
    """With nothing at the inputs and all weights zero, move the biases of one layer together over the range.

    For layer l: `sweep` (b,) the values, `transfer l` (..., b, n) the activities of its neurons.
    """
    observe, layers = _observable(ground.spec), ground.spec.layers
    if (
        observe is None
        or not layers
        or any(layer.kind != "dense" for layer in layers)
        or not ground.low <= 0 <= ground.high
    ):
        return
    seen = range(len(layers)) if observe is Can.ACTIVITY else range(len(layers) - 1, len(layers))
    count = min(writes // len(seen), POINTS)
    repeats = min(measurements // max(count * len(seen), 1), 16)
    if count < 8 or not repeats:
        done.skipped["neurons"] = f"the spread of neurons: it takes {8 * len(seen)} writes of a share of {writes}"
        return
    sweep = np.linspace(ground.low, ground.high, count)
    done.common["sweep"] = sweep
    dark = Sample(np.zeros_like(ground.flat.x), ground.flat.target)
    for number in seen:
        end = sum(layer.size for layer in layers[: number + 1])
        commands: list[Command] = []
        for value in sweep:
            theta = np.zeros_like(ground.theta)
            theta[..., end - layers[number].outputs[0] : end] = value
            commands += [Program(theta), *[Measure(dark, observe=observe)] * repeats]
        if (readings := bench.ask("neurons", commands)) is None:
            return
        rows = [_seen(reading, ground.spec)[number if observe is Can.ACTIVITY else 0] for reading in readings]
        stacked = np.concatenate(rows, axis=-2)
        shape = (*stacked.shape[:-2], count, repeats, stacked.shape[-1])
        done.each[f"transfer {number}"] = stacked.reshape(shape).mean(axis=-2)


def ladder(bench: Bench, ground: Ground, done: Measured, measurements: int, writes: int) -> None:
    """Random probes of all parameters at growing amplitudes, on samples as training presents them.

    `resting` (..., j, 2) the cost without, `rungs` (..., j, a, 2) with either sign at each of `amplitudes` (a,).
    """
    if not _offers(bench, done, "ladder", Can.PROBE):
        return
    amplitudes = ground.step / 2.0 ** np.arange(LADDER)[::-1]
    count = min(measurements // (2 * LADDER + 2), 256)
    resting, rungs = [], []
    for number in range(count):
        sample = ground.task.sample(ground.seed, number)
        commands: list[Command] = [Program(ground.theta), Measure(sample), Measure(sample)]
        for amplitude in amplitudes:
            code = Antithetic(Rademacher(amplitude=float(amplitude)))
            commands.append(Measure(sample, Probes(code, ground.seed, 2 * number, 2)))
        if (readings := bench.ask("ladder", commands)) is None:
            break
        costs = _costs(readings)
        both = costs[..., 2:].reshape(*costs.shape[:-1], LADDER, 2)
        resting.append(costs[..., None, :2])
        rungs.append((both if number % 2 == 0 else both[..., ::-1])[..., None, :, :])  # the order is + - - +
    _keep(done, "resting", resting, -2)
    _keep(done, "rungs", rungs, -3)
    done.common["amplitudes"] = amplitudes


def trains(bench: Bench, ground: Ground, done: Measured, measurements: int, pulses: int) -> None:
    """Pulses up, pulses down, and again: `trains` (..., j, n + 1, p), read before the first block and after each.

    `still` (..., r, p) are readings without pulses between; `block` the pulses of a block, `ups` (j,) the directions.
    """
    spec, rest = bench.spec, min(measurements // 20, 64)
    window = (spec.high - spec.low) / spec.step if spec.step and math.isfinite(spec.high - spec.low) else math.inf
    far = int(min(max(WINDOWS * window, TRAIN), pulses // 4))
    most = min((measurements - rest) // 4 - 1, NUMBERS // (4 * spec.size))
    few = (
        f"the answer to pulses takes more than {pulses} pulses and {measurements} readings: raise "
        "characterise.pulses or characterise.measurements"
    )
    if min(far, most) < 8:
        done.skipped["trains"] = few
        return
    looks: list[Command] = [Read()] * rest
    if (readings := bench.ask("still", looks)) is not None:
        done.each["still"] = _levels(readings)
    spent = bench.spent
    crossings: list[int] = []
    if far <= min(TRAIN, most):  # a few pulses may do it all
        both = [pulsed(bench, "pilot", far, 1, up) for up in (True, False)]
        seen = [levels for levels in both if levels is not None]
        crossings = [_crossing(levels, 0.5) for levels in seen]
        far = min(far, max(3 * max((_crossing(levels, 0.9) for levels in seen), default=far), 8))
    block = -(-far // min(TRAIN, most))
    count = far // block
    left = pulses - bench.spent[1] + spent[1], measurements - rest - bench.spent[0] + spent[0]
    many = min(left[0] // (count * block), left[1] // (count + 1), max(6 * TRAIN // count, 4)) // 2 * 2
    found: list[Array] = []
    for number in range(many):
        if (levels := pulsed(bench, "trains", count, block, number % 2 == 0)) is None:
            break
        found.append(levels[..., None, :, :])
    if len(found) < 2:  # what breaks have cost is spent, too
        done.skipped["trains"] = few
        return
    _keep(done, "trains", found, -3, block=block, ups=np.arange(len(found)) % 2 == 0)
    if len(crossings) == 2 and block == 1:
        left = pulses - bench.spent[1] + spent[1], measurements - rest - bench.spent[0] + spent[0]
        _wander(bench, ground, done, (crossings[0], crossings[1]), min(*left, NUMBERS // (4 * spec.size), WANDER))


def _wander(bench: Bench, ground: Ground, done: Measured, crossings: tuple[int, int], pulses: int) -> None:
    """Pulses that turn back at random, by each parameter on its own, so that both directions are seen from everywhere.

    `wander` (..., k, n + 1, p) are readings before the first pulse and after each, and `ways` (..., k, n, p) whether it
    led up; k times over, so that pulses of which nobody knows how many came, before a break, lie between.
    """
    turn = 2 / (1 + np.array(crossings[::-1]))  # half a crossing each way, on average: of pulses down, and up
    up = np.ones((*bench.spec.replicas, bench.spec.size), bool)
    found: list[Array] = []
    ways: list[Array] = []
    for first in range(0, pulses - TRAIN, TRAIN):
        commands: list[Command] = [Read()]
        part = []
        for at in range(first, first + TRAIN):
            turns = draws.uniform(draws.derive(ground.seed, "wander"), at, bench.spec.size)
            up = up ^ (turns < turn[up.astype(int)])
            part.append(up)
            commands += [Pulse(np.where(up, 1, -1)), Read()]
        if (readings := bench.ask("wander", commands)) is None:
            break
        found.append(_levels(readings)[..., None, :, :])
        ways.append(np.stack(part, axis=-2)[..., None, :, :])
    _keep(done, "wander", found, -3)
    _keep(done, "ways", ways, -3)


def pulsed(bench: Bench, name: str, count: int, block: int, up: bool) -> Array | None:
    """Levels before, between and after `count` blocks of pulses, (..., n + 1, p)."""
    each = np.full((*bench.spec.replicas, bench.spec.size), block if up else -block, np.int64)
    blocks: list[Command] = [Pulse(each), Read()] * count
    readings = bench.ask(name, [Read(), *blocks])
    return None if readings is None else _levels(readings)


def _crossing(levels: Array, share: float) -> int:
    """Pulses by which a share of parameters have gone nine tenths of their way, from levels (..., n + 1, p)."""
    way = levels - levels[..., :1, :]
    last = way[..., -max(way.shape[-2] // 4, 1) :, :].mean(axis=-2, keepdims=True)
    there = (way * np.sign(last) >= 0.9 * np.abs(last)).argmax(axis=-2)
    return int(np.quantile(there, share))


PULSED = {trains: (0.85, 1.0), hold: (0.12, 0.0)}  # of measurements and of pulses
SHARES = {  # of measurements and of writes; a little stays for what must be asked twice
    hold: (0.10, 0.0),
    shrunk: (0.02, 0.01),
    bursts: (0.25, 0.25),
    probed: (0.04, 0.0),
    effects: (0.24, 0.0),
    written: (0.10, 0.30),
    scans: (0.08, 0.20),
    pairs: (0.04, 0.07),
    outputs: (0.01, 0.0),
    neurons: (0.02, 0.10),
    ladder: (0.08, 0.0),
}


def _offers(bench: Bench, done: Measured, name: str, needed: Can) -> bool:
    if needed in bench.spec.can:
        return True
    done.skipped[name] = f"{bench.spec.name!r} offers no {needed.names()}"
    return False


def _costs(readings: Sequence[Reading]) -> Array:
    """All costs, one after another, (..., k)."""
    return np.concatenate([reading.cost for reading in readings if reading.cost is not None], axis=-1)


def _levels(readings: Sequence[Reading]) -> Array:
    """All parameters that were read, one reading after another, (..., r, p)."""
    return np.stack([reading.theta for reading in readings if reading.theta is not None], axis=-2)


def _observable(spec: DeviceSpec) -> Can | None:
    return next((can for can in (Can.ACTIVITY, Can.OUTPUT) if can in spec.can), None)


def _seen(reading: Reading, spec: DeviceSpec) -> list[Array]:
    """What was observed, each layer as (..., k, n)."""
    parts = (reading.output,) if reading.activity is None else reading.activity
    return [part.reshape(*part.shape[: len(spec.replicas) + 1], -1) for part in parts if part is not None]


def _keep(done: Measured, name: str, parts: Sequence[Array], axis: int, **common: Any) -> None:
    if parts:
        done.each[name] = np.concatenate(parts, axis=axis)
        done.common.update(common)
