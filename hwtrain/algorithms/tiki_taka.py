"""Tiki-Taka and its successors: descent on cells whose steps up and down differ.

Pulses of a gradient pull such cells towards the point where their steps balance. Here they go to a second, fast array
A, in which a balanced signal stands at that point R, and what A shows beyond it is carried over to the weights C, one
column at a time (j = 0, 1, ... in turn, every n_s samples):

    ttv1      v = A_j - R;  pulses for lambda v to C_j
              (Gokmen & Haensch, Frontiers in Neuroscience 14, 103 (2020))
    ttv2      H_j += lambda v / dw;  trunc(H_j) pulses to C_j, which leave H_j; H is a digital filter
              (Gokmen, Frontiers in Artificial Intelligence 4, 699148 (2021))
    c_ttv2    gradients enter A under a sign c_j, and leave it under the same, so that what R is wrong by averages out;
              c_j is flipped with a probability after every transfer
    agad      and R is not needed at all: v is taken less the mean of A_j over the last period of c_j
              (both: Rasch, Carta, Fagbohungbe, Gokmen, Nature Communications 15, 7133 (2024))

R is subtracted by the device where its fast cells are made so (`Pulsed.reference`); it is never known to the rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks, draws
from hwtrain.algorithms import analog, local
from hwtrain.algorithms.analog import Outer, factors_of, finite
from hwtrain.core import Array, Can, Command, DeviceSpec, Layer, Pulse, Read, Reading, Sample
from hwtrain.errors import CapabilityError

VARIANTS = ("ttv1", "ttv2", "c_ttv2", "agad")


def _none() -> Array:
    return np.zeros(0)


@dataclass(frozen=True, slots=True)
class State(analog.State):
    """All that changes.

    Args:
        unit: step of a pulse of C.
        fast_unit: step of a pulse of A.
        fast_due: pulses that A gets next, (..., p).
        buffer: H, in pulses of C, (..., p).
        chopper: c of every column, (..., columns of all layers).
        present: sum of what A showed in this period of c, and how often, (..., p) and (..., columns).
        looks: see `present`.
        before: its mean in the period before, (..., p).
    """

    unit: float = np.nan
    fast_unit: float = np.nan
    fast_due: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    buffer: Array = field(default_factory=_none)
    chopper: Array = field(default_factory=_none)
    present: Array = field(default_factory=_none)
    looks: Array = field(default_factory=_none)
    before: Array = field(default_factory=_none)


@dataclass(frozen=True, slots=True, kw_only=True)
class TikiTaka(Outer):
    """See the module.

    Args:
        variant: "ttv1", "ttv2", "c_ttv2" or "agad".
        eta: learning rate of A [parameter unit squared per cost].
        scaled: is eta instead the share of a whole pulse train that the largest product of every update gets, whatever
            its size? (fast_lr under auto_scale there)
        transfer: lambda, of what A shows.
        every: samples between transfers, n_s.
        flip: probability that a column's sign is flipped after its transfer.
        forget: what is left of H after a transfer that sent pulses; None leaves it what no pulse was due for.
    """

    variant: str = "ttv2"
    scaled: bool = False
    transfer: float = 0.1
    every: int = 2
    flip: float = 0.05
    forget: float | None = None

    needs = Outer.needs | Can.READ

    def __post_init__(self) -> None:
        Outer.__post_init__(self)
        checks.one_of("algo.variant", self.variant, VARIANTS)
        checks.flag("algo.scaled", self.scaled)
        checks.number("algo.transfer", self.transfer, low=0, above=True)
        checks.whole("algo.every", self.every, why="samples")
        checks.number("algo.flip", self.flip, 0, 1, "a probability")
        checks.number("algo.forget", self.forget, 0, 1, none="what no pulse was due for")

    def init(self, spec: DeviceSpec, seed: NDArray[np.uint32]) -> State:
        """The first state, for one seed per replica.

        Raises:
            CapabilityError: the device has no second array.
        """
        begun = self.begin(spec, seed, "tiki_taka")
        if not spec.fast_step > 0:
            raise CapabilityError(
                f"tiki_taka needs a second array of cells; {spec.name!r} has none. Set device=pulsed."
            )
        zeros = np.zeros_like(begun.theta)
        columns = np.zeros((*zeros.shape[:-1], sum(_inputs(layer) for layer in begun.layers)))
        return State(
            **{one.name: getattr(begun, one.name) for one in fields(begun)},
            unit=spec.step,
            fast_unit=spec.fast_step,
            fast_due=np.zeros_like(begun.due),
            buffer=zeros,
            chopper=columns + 1.0,
            present=zeros,
            looks=columns,
            before=zeros,
        )

    def ask(self, state: State, sample: Sample) -> tuple[Command, ...]:
        """Send both arrays the pulses that are due; read the columns of A whose turn it is; show the sample."""
        commands: list[Command] = [Pulse(state.due), Pulse(state.fast_due, fast=True)]
        if self._transfers(state):
            _, which = _turn(state, self._number(state))
            commands.append(Read(which, fast=True))
        return *commands, self.look(sample)

    def tell(self, state: State, sample: Sample, readings: Sequence[Reading]) -> tuple[State, Mapping[str, Array]]:
        """What A shows moves C; the outer product moves A."""
        assert readings[-1].cost is not None
        factors = factors_of(state.layers, sample, readings[-1])
        due = np.zeros_like(state.due)
        if self._transfers(state):
            assert readings[0].theta is not None
            state, due = self._carried(state, finite(readings[0].theta))
        fast = self._fast_pulses(state, factors)
        after = replace(state, theta=state.theta + due * state.unit, due=due, fast_due=fast, step=state.step + 1)
        return after, {"cost": readings[-1].cost[..., 0]}

    def _fast_pulses(self, state: State, factors: Sequence[tuple[Array, Array]]) -> NDArray[np.int64]:
        """The outer product as pulses of A, under the signs of its columns."""
        ends = np.cumsum([0, *(_inputs(layer) for layer in state.layers)])
        signed = []
        for (x, d), a, b in zip(factors, ends, ends[1:], strict=False):
            if self.scaled:
                largest = np.abs(x).max(axis=-1, keepdims=True) * np.abs(d).max(axis=-1, keepdims=True)
                whole = self.length * state.fast_unit
                d = np.divide(d * whole, largest, out=np.zeros_like(d), where=largest > 0)
            signed.append((state.chopper[..., a:b] * x, d))
        return self.pulses(state, signed, self.eta, state.fast_unit)

    def _carried(self, state: State, shown: Array) -> tuple[State, NDArray[np.int64]]:
        """One column of every layer from A towards C: the state, and the pulses for C."""
        number = self._number(state)
        columns, which = _turn(state, number)
        heights = [layer.outputs[0] for layer in state.layers]
        sign = np.repeat(state.chopper[..., columns], heights, axis=-1)
        value = shown - state.before[..., which] if self.variant == "agad" else shown
        moved = self.transfer * sign * value / state.unit
        if self.variant == "ttv1":
            draw = draws.uniform(draws.derive(state.seed, "rounding"), number, moved.shape[-1])
            pulses, left = np.floor(moved + draw), np.zeros_like(moved)
        else:
            filled = state.buffer[..., which] + moved
            pulses = np.trunc(filled)
            left = filled - pulses if self.forget is None else np.where(pulses != 0, self.forget * filled, filled)
        due = np.zeros_like(state.due)
        due[..., which] = pulses.astype(np.int64)
        state = replace(state, buffer=_put(state.buffer, which, left))
        if self.variant in ("c_ttv2", "agad"):
            state = self._flipped(state, number, columns, which, shown)
        return state, due

    def _flipped(
        self, state: State, number: int, columns: NDArray[np.int64], which: NDArray[np.int64], shown: Array
    ) -> State:
        """New signs for some of the columns just carried over; what A showed under the old ones is remembered."""
        heights = [layer.outputs[0] for layer in state.layers]
        flips = draws.uniform(draws.derive(state.seed, "chopper"), number, len(columns)) < self.flip
        of_each = np.repeat(flips, heights, axis=-1)
        total, looks = state.present[..., which] + shown, state.looks[..., columns] + 1
        mean = total / np.repeat(looks, heights, axis=-1)
        return replace(
            state,
            before=_put(state.before, which, np.where(of_each, mean, state.before[..., which])),
            present=_put(state.present, which, np.where(of_each, 0.0, total)),
            looks=_put(state.looks, columns, np.where(flips, 0.0, looks)),
            chopper=_put(state.chopper, columns, np.where(flips, -1.0, 1.0) * state.chopper[..., columns]),
        )

    def _transfers(self, state: State) -> bool:
        return state.step > 0 and state.step % self.every == 0

    def _number(self, state: State) -> int:
        """How many transfers there were before."""
        return state.step // self.every - 1


def _inputs(layer: Layer) -> int:
    """Columns of a layer: its inputs, and one for the biases."""
    return layer.inputs[0] + 1


def _turn(state: State, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The columns of a transfer, one of every layer, counted over all layers; and the parameters in them."""
    columns, which, first = [], [], 0
    for layer, part in zip(state.layers, local.slices(state.layers), strict=True):
        column, height = number % _inputs(layer), layer.outputs[0]
        columns.append(first + column)
        which.append(part.start + column * height + np.arange(height))
        first += _inputs(layer)
    return np.array(columns), np.concatenate(which)


def _put(values: Array, which: NDArray[np.int64], parts: Array) -> Array:
    result = values.copy()
    result[..., which] = parts
    return result
