"""Cells that move as a device was measured to move: the step of a pulse is drawn from a table, not from a law.

A table holds, for some measured devices, the distribution of the change that one pulse makes from each conductance, as
its quantiles; the format of CrossSim's look-up tables (Sandia National Laboratories). Every device of an array copies
one of them, drawn at fabrication; every pulse draws a probability, and interpolates.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks, draws
from hwtrain.core import Array
from hwtrain.errors import DataError
from hwtrain.sim.cells import Constants, Devices, State, Stuck, after_pulses, fresh, noisy, not_written, seeds


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A device for every parameter, that moves by pulses as one of n measured devices does.

    Args:
        g: conductances at which the change was measured, evenly spaced for each device, (n, j) [S].
        cdf: probabilities of the quantiles, from 0 to 1, (q,).
        change: change by one pulse, (2, n, q, j) [S]: first of a pulse down, then of one up.
        unit: of the conductances, where they are no conductances.
        read_noise: noise of a reading [unit].
        stuck: devices that never move; None is none.

    Raises:
        DataError: the arrays do not go together, are not finite, or are not evenly spaced.
    """

    g: Array
    cdf: Array
    change: Array
    unit: str = "S"
    read_noise: float = 0.0
    stuck: Stuck | None = None

    pulsed = True

    def __post_init__(self) -> None:
        checks.number("cell.read_noise", self.read_noise, low=0)
        n, j = self.g.shape if self.g.ndim == 2 else (0, 0)
        if not n or j < 2 or self.cdf.size < 2 or self.change.shape != (2, n, self.cdf.size, j):
            raise DataError(
                f"look-up table: conductances {self.g.shape}, probabilities {self.cdf.shape} and changes "
                f"{self.change.shape} do not go together; (n, j), (q,) and (2, n, q, j) are needed"
            )
        if not all(np.isfinite(array).all() for array in (self.g, self.cdf, self.change)):
            raise DataError("look-up table: a number is not finite. Mend or remove its device.")
        gaps = np.diff(self.g, axis=1)
        if not (gaps > 0).all() or np.ptp(gaps, axis=1).max() > 1e-3 * gaps.max():
            raise DataError("look-up table: the conductances of a device must ascend in even steps. Interpolate them.")
        if self.cdf[0] != 0 or self.cdf[-1] != 1 or (np.diff(self.cdf) <= 0).any():
            raise DataError("look-up table: probabilities must ascend from 0 to 1")

    @property
    def low(self) -> float:
        return float(self.g[:, 0].mean())

    @property
    def high(self) -> float:
        return float(self.g[:, -1].mean())

    @property
    def step(self) -> float:
        middle = self.change[..., self.g.shape[1] // 2]
        return float(np.abs(np.trapezoid(middle, self.cdf, axis=-1)).mean())

    def fabricate(self, seed: NDArray[np.uint32], size: int) -> Devices:
        fabrication, cycle = seeds(seed)
        table = (draws.uniform(draws.derive(fabrication, "table"), 0, size) * len(self.g)).astype(np.intp)
        made = {"table": table, "low": self.g[table, 0], "high": self.g[table, -1], "moves": np.ones_like(table)}
        if self.stuck is not None:
            held, at = self.stuck.draw(fabrication, made["low"], made["high"])
            made |= {"moves": np.where(held, 0, 1), "at": at}
        return Devices(cycle, made, size)

    def fresh(self, devices: Devices) -> State:
        middle = (devices["low"] + devices["high"]) / 2
        return fresh(devices, np.where(devices["moves"], middle, devices["at"]) if self.stuck else middle)

    def pulse(self, devices: Devices, state: State, counts: Array) -> State:
        return after_pulses(devices, state, counts, self._pulse)

    def write(self, devices: Devices, state: State, target: Array, which: Array | None = None) -> State:
        raise not_written(self)

    def age(self, devices: Devices, state: State, seconds: float | Array) -> State:
        return State(state.value, state.error, state.writes, state.written, np.asarray(state.time + seconds))

    def held(self, devices: Devices, state: State) -> Array:
        return state.value

    def read(self, devices: Devices, state: State, numbers: Array) -> Array:
        return noisy(devices, numbers, state.value, self.read_noise)

    def reach(self, devices: Devices) -> tuple[Array, Array]:
        if self.stuck is None:
            return devices["low"], devices["high"]
        moves = devices["moves"] > 0
        return np.where(moves, devices["low"], devices["at"]), np.where(moves, devices["high"], devices["at"])

    def _pulse(self, value: Array, up: Array, constants: Constants, number: Array, draw: Array) -> Array:
        low, high, moves = constants["low"], constants["high"], constants["moves"]
        column, along = _place((value - low) / (high - low) * (self.g.shape[1] - 1), self.g.shape[1])
        row, down = _place(np.interp(draw, self.cdf, np.arange(self.cdf.size)), self.cdf.size)
        which = up.astype(np.intp), constants["table"]
        upper, lower = (
            (1 - along) * self.change[*which, row + more, column] + along * self.change[*which, row + more, column + 1]
            for more in (0, 1)
        )
        after: Array = np.where(moves, np.clip(value + (1 - down) * upper + down * lower, low, high), value)
        return after


def load_table(
    path: str,
    prefix: str = "",
    devices: Sequence[int] | None = None,
    read_noise: float = 0.0,
    stuck: Stuck | None = None,
    unit: str = "S",
) -> Table:
    """A cell from an .npz file of look-up tables.

    Args:
        path: the file; it holds g (n, j), cdf (q,), dg_up and dg_down (n, q, j); of a single device without n.
        prefix: what the names of the arrays begin with.
        devices: which of the n devices to copy; None is all.
        read_noise: noise of a reading, in the unit of the file.
        stuck: devices that never move; None is none.
        unit: of the conductances, where they are no conductances.

    Raises:
        DataError: the file cannot be read, or an array is missing or of the wrong shape.
    """
    try:
        loaded = np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False)
        arrays = {name: np.asarray(loaded[name], np.float64) for name in loaded.files if name.startswith(prefix)}
    except (OSError, ValueError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"look-up table {path} cannot be read: {error}") from error
    found = []
    for name in ("g", "cdf", "dg_down", "dg_up"):
        array = arrays.get(prefix + name, arrays.get(f"{prefix}{name}_up"))
        if array is None:
            raise DataError(f"look-up table {path} has no array {prefix + name!r}; there is {', '.join(loaded.files)}")
        found.append(array)
    g, cdf, down, up = found
    if g.ndim == 1:
        g, down, up = g[None], down[None], up[None]
    if down.shape != up.shape:
        raise DataError(f"look-up table {path}: dg_down has the shape {down.shape}, dg_up {up.shape}; both need one")
    chosen = slice(None) if devices is None else list(devices)
    return Table(g[chosen], cdf, np.stack([down[chosen], up[chosen]]), unit, read_noise, stuck)


def save_table(path: Path, table: Table) -> None:
    """Write the file that `load_table` reads; its unit, noise of a reading and stuck devices are not in it."""
    down, up = table.change.astype(np.float32)
    made = io.BytesIO()
    np.savez_compressed(made, g=table.g, cdf=table.cdf, dg_down=down, dg_up=up)
    path.write_bytes(made.getvalue())


def joined(tables: Sequence[Table]) -> Table:
    """A cell whose devices copy those of some tables with the same probabilities and as many nodes."""
    first = tables[0]
    return replace(
        first,
        g=np.concatenate([each.g for each in tables]),
        change=np.concatenate([each.change for each in tables], axis=1),
    )


def table_from_traces(
    up: Sequence[Array],
    down: Sequence[Array],
    nodes: int = 25,
    quantiles: int = 51,
    neighbours: int = 20,
    read_noise: float = 0.0,
) -> Table:
    """A cell of one device from conductances read after every pulse.

    Args:
        up: traces under pulses up, each (pulses,), in any unit.
        down: traces under pulses down.
        nodes: see `table_from_steps`, with the others.

    Raises:
        DataError: there are fewer pulses than `neighbours`.
    """
    ways = np.concatenate([np.full(len(trace) - 1, way) for way, traces in ((1, up), (0, down)) for trace in traces])
    before, after = (np.concatenate([trace[part] for trace in (*up, *down)]) for part in (slice(-1), slice(1, None)))
    return table_from_steps(before, after, ways > 0, nodes, quantiles, neighbours, read_noise)


def table_from_steps(
    before: Array,
    after: Array,
    up: Array,
    nodes: int = 25,
    quantiles: int = 51,
    neighbours: int = 20,
    read_noise: float = 0.0,
) -> Table:
    """A cell of one device from conductances read before and after single pulses.

    The change at a node is what the nearest measured pulses of that direction did, at its quantiles.

    Args:
        before: conductances (n,), in any unit.
        after: one pulse later, (n,).
        up: whether the pulse led up, (n,).
        nodes: conductances of the table, j.
        quantiles: probabilities of the table, q.
        neighbours: pulses that make a distribution; more make it smoother, and blur how it hangs on conductance.
        read_noise: standard deviation of a reading; what it adds to the spread of the changes is taken off.

    Raises:
        DataError: there are fewer pulses than `neighbours`.
    """
    for name, value, least in (("nodes", nodes, 2), ("quantiles", quantiles, 2), ("neighbours", neighbours, 1)):
        checks.whole(f"cell.{name}", value, least)
    ends = float(min(before.min(), after.min())), float(max(before.max(), after.max()))
    g, cdf = np.linspace(*ends, nodes), np.linspace(0, 1, quantiles)
    change = np.empty((2, 1, quantiles, nodes))
    for row, (name, way) in enumerate((("down", ~up), ("up", up))):
        start, step = before[way], after[way] - before[way]
        if len(step) < neighbours:
            raise DataError(
                f"look-up table: {len(step)} pulses {name} were measured; neighbours={neighbours} needs more"
            )
        near = step[np.argsort(np.abs(start - g[:, None]), axis=1, kind="stable")[:, :neighbours]]
        middle, spread = near.mean(axis=1, keepdims=True), near.var(axis=1, keepdims=True)
        own = np.sqrt(np.maximum(1 - 2 * read_noise**2 / np.maximum(spread, 1e-300), 0.0))
        change[row, 0] = np.quantile(middle + own * (near - middle), cdf, axis=1)
    return Table(g[None], cdf, change, read_noise=read_noise)


def _place(place: Array, count: int) -> tuple[Array, Array]:
    """The index of the node before a place between nodes, and how far the place lies towards the next."""
    place = np.clip(place, 0, count - 1)
    left = np.minimum(place.astype(np.intp), count - 2)
    return left, place - left
