"""Values on devices that only take pulses: how a wished-for parameter becomes programming pulses.

    open_loop         as many pulses as lead from what is believed to be held to the target, to the nearest
    threshold         one pulse at most, where at least half a step is missing: the coarsest write there is
    mixed_precision   whole pulses only; what is missing stays on the host and adds up until it makes one
                      (Nandakumar et al., Frontiers in Neuroscience 14, 406 (2020))
    write_verify      read, pulse what is missing, and read again, until the parameter is near or the rounds are over

All but the last believe that every pulse moves by the nominal step, and never look. A parameter whose target did not
move gets no pulse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks
from hwtrain.core import Array, Can, Command, Counting, Device, DeviceSpec, Program, Pulse, Read, Reading, Stateful
from hwtrain.costs import Cost
from hwtrain.devices.simulated import Simulated
from hwtrain.errors import CapabilityError, LimitError
from hwtrain.limits import check
from hwtrain.sim.arrays import BLIND, steps_due
from hwtrain.sim.cells import Cell
from hwtrain.sim.crossbar import Crossbar
from hwtrain.sim.networks import Network

SCHEMES = (*BLIND, "write_verify")


class Programmed:
    """A pulsed device that takes values.

    Args:
        inner: takes pulses; for write_verify it must be able to read its parameters.
        scheme: "open_loop", "threshold", "mixed_precision" or "write_verify"; see the module.
        tolerance: of write_verify: how near is near enough [steps of a pulse].
        rounds: of write_verify: readings at most for one write.
        most_pulses: pulses that any parameter may get in its life; a write that would exceed it is refused. None is no
            limit.

    Raises:
        CapabilityError: the inner device takes no pulses, or cannot be read.
    """

    def __init__(
        self,
        inner: Device,
        scheme: str = "mixed_precision",
        tolerance: float = 1.0,
        rounds: int = 20,
        most_pulses: int | None = None,
    ) -> None:
        checks.one_of("device.programming", scheme, SCHEMES)
        checks.number("device.tolerance", tolerance, low=0, above=True, why="steps of a pulse")
        checks.whole("device.rounds", rounds)
        checks.whole("device.most_pulses", most_pulses, none="no limit")
        needed = Can.PULSE | (Can.READ if scheme == "write_verify" else Can(0))
        if missing := needed & ~inner.spec.can:
            raise CapabilityError(f"device.programming={scheme} needs {missing.names()}; {inner.spec.name!r} has not")
        self._inner, self._scheme, self._tolerance, self._rounds = inner, scheme, tolerance, rounds
        self._most, self._step = most_pulses, inner.spec.step
        self._spec = replace(inner.spec, can=inner.spec.can & ~Can.PULSE, step=0.0, fast_step=0.0)
        shape = (*self._spec.replicas, self._spec.size)
        self._target = np.clip(np.zeros(shape), self._spec.low, self._spec.high)
        self._believed = self._target.copy()
        self._pulses: NDArray[np.int64] = np.zeros(shape, np.int64)
        self._reads = 0

    @property
    def spec(self) -> DeviceSpec:
        """The inner device's, which now takes values."""
        return self._spec

    @property
    def pulses(self) -> NDArray[np.int64]:
        """Pulses that every parameter has got so far, (..., p)."""
        return self._pulses.copy()

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        """Carry the commands out, with pulses in place of values.

        Raises:
            LimitError: a parameter would get more pulses than it may; the ones before it are carried out.
        """
        check(self._spec, commands, self._target)
        readings: list[Reading] = []
        waiting: list[Command] = []
        for command in commands:
            if not isinstance(command, Program):
                waiting.append(command)
                continue
            if self._scheme == "write_verify":
                readings += self._inner.execute(waiting)
                waiting = []
                self._verified(command.theta)
            else:
                waiting += self._blind(command.theta)
        return (*readings, *self._inner.execute(waiting))

    def rest(self) -> None:
        """Make the inner device safe."""
        self._inner.rest()

    def close(self) -> None:
        """Let go of the inner device."""
        self._inner.close()

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Pulses and readings beside what the inner device counts."""
        inner = self._inner.counts() if isinstance(self._inner, Counting) else {}
        pulses = {"pulses": int(self._pulses.sum()), "most pulses of a parameter": int(self._pulses.max())}
        traffic = {**inner.get("traffic", {}), **pulses, "readings of parameters": self._reads}
        return {"disturbances": {}, **inner, "traffic": traffic}

    def snapshot(self) -> dict[str, Array]:
        """What is believed and was counted, and the inner device's state."""
        inner = self._inner.snapshot() if isinstance(self._inner, Stateful) else {}
        return {
            "programmed.target": self._target.copy(),
            "programmed.believed": self._believed.copy(),
            "programmed.pulses": self._pulses.copy(),
            "programmed.reads": np.asarray(self._reads),
            **inner,
        }

    def restore(self, snapshot: Mapping[str, Array]) -> None:
        """The inverse of `snapshot`."""
        self._target = snapshot["programmed.target"].copy()
        self._believed = snapshot["programmed.believed"].copy()
        self._pulses = snapshot["programmed.pulses"].astype(np.int64)
        self._reads = int(snapshot["programmed.reads"])
        if isinstance(self._inner, Stateful):
            self._inner.restore({name: kept for name, kept in snapshot.items() if not name.startswith("programmed.")})

    def _blind(self, target: Array) -> list[Command]:
        """The pulses of a write that never looks."""
        moved = target != self._target
        missing = (target - self._believed) / self._step
        counts = np.where(moved, steps_due(self._scheme, missing), 0).astype(np.int64)
        pulses = self._counted(counts)
        self._believed = self._believed + counts * self._step
        self._target = target
        return pulses

    def _verified(self, target: Array) -> None:
        """Write until it reads right."""
        moved = target != self._target
        self._target = target
        for _ in range(self._rounds if moved.any() else 0):
            (reading,) = self._inner.execute([Read()])
            self._reads += 1
            assert reading.theta is not None
            off = (target - reading.theta) / self._step
            far = moved & (np.abs(off) > self._tolerance)
            pulses = self._counted(np.where(far, np.rint(off), 0).astype(np.int64))
            if not pulses:
                return
            self._inner.execute(pulses)

    def _counted(self, counts: NDArray[np.int64]) -> list[Command]:
        """The pulses as a command, or none; refused where a parameter has had its share."""
        if not counts.any():
            return []
        pulses = self._pulses + np.abs(counts)
        if self._most is not None and pulses.max() > self._most:
            index = tuple(int(i) for i in np.argwhere(pulses > self._most)[0])
            raise LimitError(
                f"parameter {index} of {self._spec.name!r} would get its pulse number {pulses[index]}; "
                f"device.most_pulses is {self._most}. Its pulses were not sent."
            )
        self._pulses = pulses
        return [Pulse(counts)]


def simulated_cells(
    network: Network,
    cost: Cost,
    cell: Cell,
    programming: str | None = "mixed_precision",
    tolerance: float = 1.0,
    rounds: int = 20,
    most_pulses: int | None = None,
    fast: Cell | str | None = None,
    reads: Crossbar | None = None,
    seed: int = 0,
    chips: int | None = None,
    precision: str = "double",
    activation_variation: float = 0.0,
    input_bits: int | None = None,
    output_bits: int | None = None,
    output_range: Sequence[float] = (0.0, 1.0),
    cost_noise: float = 0.0,
    baseline_noise: float | None = None,
    read_noise: float = 0.0,
    read_seconds: float = 0.0,
) -> Device:
    """The simulator with parameters in cells; pulsed ones take values by `programming`, or None to take pulses only.

    `fast` is how a second array of cells stores, "same" is as the first, None is no such array.
    For the other settings see `Simulated` and `Programmed`.
    """
    if isinstance(fast, str):
        checks.one_of("device.fast", fast, ("same",))
    device = Simulated(
        network,
        cost,
        seed=seed,
        chips=chips,
        precision=precision,
        activation_variation=activation_variation,
        input_bits=input_bits,
        output_bits=output_bits,
        output_range=output_range,
        cost_noise=cost_noise,
        baseline_noise=baseline_noise,
        read_noise=read_noise,
        read_seconds=read_seconds,
        cell=cell,
        reads=reads,
        fast=cell if isinstance(fast, str) else fast,
    )
    if programming is None or not cell.pulsed:
        return device
    return Programmed(device, programming, tolerance, rounds, most_pulses)
