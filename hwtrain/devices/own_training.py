"""Pulsed devices that train by themselves, and take values from the host beside.

Both do the same: wishes are numbers, and a cell gets the whole pulses that are missing (`programming` has the scheme,
mixed_precision). Before a block the device is told of wishes and of what pulses make of them so far; behind it, the
host goes on from where the device has left them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks
from hwtrain.core import Array, Can, Command, Device, Learn, Reading, Train
from hwtrain.devices.programming import Programmed
from hwtrain.limits import check


@dataclass(frozen=True, slots=True)
class Left:
    """How a device has left its parameters.

    Args:
        reading: what the block brought back.
        wish: parameters wished for, (p,) float32.
        held: what pulses make of them, (p,) float32.
        pulses: that every parameter got, (p,).
    """

    reading: Reading
    wish: Array
    held: Array
    pulses: NDArray[np.int64]


class Trainable(Device, Protocol):
    """What a device of pulses offers beside that trains by itself."""

    @property
    def trains(self) -> Can:
        """LEARN, TRAIN, both or neither."""

    def train(self, block: Learn | Train, wish: Array, held: Array) -> Left:
        """Run the block from parameters wished for (p,) and those that pulses make of them so far (p,)."""


class OwnTraining(Programmed):
    """A pulsed device that takes values by mixed precision, and trains by itself in the same way.

    Args:
        inner: takes pulses.
        precision: that hosts compute in beside: "double", or "single" as the device does, which `Train` asks for.
    """

    def __init__(self, inner: Trainable, precision: str = "double") -> None:
        checks.one_of("device.precision", precision, ("double", "single"))
        super().__init__(inner, "mixed_precision")
        self._trainable = inner
        self._spec = replace(self._spec, can=self._spec.can | inner.trains, precision=precision)

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        """Carry the commands out, with pulses in place of values.

        Raises:
            DeviceError: the device refuses or failed; what it holds must be read.
        """
        check(self._spec, commands, self._target)
        readings: list[Reading] = []
        waiting: list[Command] = []
        for command in commands:
            if not isinstance(command, Learn | Train):
                waiting.append(command)
                continue
            readings += super().execute(waiting)
            waiting = []
            left = self._trainable.train(command, self._target, self._believed)
            self._target, self._believed = left.wish, left.held.astype(np.float64)
            self._pulses = self._pulses + left.pulses
            readings.append(left.reading)
        return (*readings, *super().execute(waiting))
