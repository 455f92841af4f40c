"""What reading and writing cost in energy, where the source of a process gives voltages and durations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwtrain import checks
from hwtrain.core import Array


@dataclass(frozen=True, slots=True)
class Energy:
    """Heat in an ohmic device: V^2 g t (the cell's part of the model of NeuroSim; wires and periphery not counted).

    Args:
        g_low: conductance at the low end of the parameter's range [S].
        g_high: conductance at the high end [S].
        up_volts: amplitude of a pulse up [V].
        down_volts: of a pulse down [V].
        pulse_seconds: duration of either [s].
        read_volts: amplitude of a reading [V].
        read_seconds: its duration [s].
    """

    g_low: float
    g_high: float
    up_volts: float
    down_volts: float
    pulse_seconds: float
    read_volts: float
    read_seconds: float

    def __post_init__(self) -> None:
        checks.number("energy.g_low", self.g_low, low=0)
        checks.number("energy.g_high", self.g_high, low=self.g_low, above=True)
        for name in ("up_volts", "down_volts", "pulse_seconds", "read_volts", "read_seconds"):
            checks.number(f"energy.{name}", getattr(self, name), low=0)

    def of_pulses(self, counts: Array, before: Array, after: Array) -> Array:
        """Of a train of pulses [J], in the shape of the arguments.

        Args:
            counts: pulses, signed.
            before: where the parameter stood in its range, 0 to 1.
            after: where the train has left it.
        """
        volts = np.where(counts > 0, self.up_volts, self.down_volts)
        mean = self._conductance((before + after) / 2)
        energy: Array = np.abs(counts) * volts**2 * mean * self.pulse_seconds
        return energy

    def of_reading(self, position: Array) -> Array:
        """Of one reading [J], of parameters at a position in their range, 0 to 1."""
        energy: Array = self.read_volts**2 * self._conductance(position) * self.read_seconds
        return energy

    def _conductance(self, position: Array) -> Array:
        conductance: Array = self.g_low + (self.g_high - self.g_low) * position
        return conductance
