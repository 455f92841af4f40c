"""A device under test, and what the checks do to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from hwtrain import draws
from hwtrain.conformance.readings import OBSERVABLES, arrays, fits, mean, shapes, state_of
from hwtrain.conformance.samples import parameter_range, seeds
from hwtrain.conformance.values import SIGMAS, fail, first_difference
from hwtrain.core import Array, Can, Command, Device, DeviceSpec, Measure, Probes, Program, Reading, Sample, Site
from hwtrain.perturb import Rademacher

PROBES = {Site.PARAMETERS: Can.PROBE, Site.NODES: Can.NODE_PROBE}  # what it takes to probe there


@dataclass(frozen=True, slots=True)
class Bench:
    """A device and what the checks do to it.

    Args:
        device: under test.
        sample: presented to it.
        allowance: of cost differences, beside noise.
        amplitude: of probes.
        repeats: readings averaged before a comparison.
    """

    device: Device
    sample: Sample
    allowance: float
    amplitude: float
    repeats: int

    @property
    def spec(self) -> DeviceSpec:
        return self.device.spec

    @property
    def exact(self) -> bool:
        return self.spec.noise == 0 and self.allowance == 0

    @property
    def tolerance(self) -> float:
        """Of the difference of two means of `repeats` costs."""
        return SIGMAS * self.spec.noise * math.sqrt(2 / self.repeats) + self.allowance

    @property
    def observables(self) -> list[Can]:
        return [can for can in OBSERVABLES if can in self.spec.can]

    @property
    def observable(self) -> Can:
        """What stands for the state of the device: its cost, else the next best it reports."""
        if not self.observables:
            pytest.skip("the device reports nothing")
        return self.observables[0]

    @property
    def all_observables(self) -> Can:
        every = Can(0)
        for can in self.observables:
            every |= can
        return every

    @property
    def sites(self) -> list[Site]:
        """Where the device can be probed."""
        return [site for site, can in PROBES.items() if can in self.spec.can]

    @property
    def plain(self) -> Measure:
        return Measure(self.sample, observe=self.observable)

    def needs(self, can: Can) -> None:
        """Skip the check if the device does not offer this."""
        if can not in self.spec.can:
            pytest.skip(f"the device does not offer {can.names()}")

    def theta(self, number: int) -> Array:
        """Parameters well within the range, others for every number."""
        low, high = parameter_range(self.spec)
        seed = seeds(self.spec.replicas, 1000 * number)
        theta: Array = low + (high - low) * (0.25 + 0.5 * draws.uniform(seed, 0, self.spec.size))
        return theta

    def probes(self, first: int = 0, count: int = 1, site: Site = Site.PARAMETERS, hold: int = 1) -> Probes:
        code = Rademacher(amplitude=self.amplitude)
        return Probes(code, seeds(self.spec.replicas, 77), first, count, hold, site)

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        return tuple(self.device.execute(commands))

    def look(self, theta: Array | None, probes: Probes | None = None) -> dict[str, Array]:
        """Program theta, unless None, and measure: all that the device reports, or the mean cost if it is not exact.

        What has not the declared axes is left out; the check of the axes reports it.
        """
        observe = self.all_observables if self.exact else self.observable
        commands: list[Command] = [] if theta is None else [Program(theta)]
        commands += [Measure(self.sample, probes, observe)] * self.repeats
        readings = [arrays(reading) for reading in self.execute(commands)]
        wanted = shapes(self.spec, self.sample, 1 if probes is None else probes.count)
        return {
            name: mean([reading[name] for reading in readings])
            for name, value in readings[0].items()
            if name in wanted and fits(value.shape, wanted[name])
        }

    def probe(self, look: Mapping[str, Array], index: int) -> dict[str, Array]:
        """One of several probes, with its axis."""
        axis = len(self.spec.replicas)
        return {name: np.take(value, [index], axis=axis) for name, value in look.items()}

    def differs(self, first: Mapping[str, Array], second: Mapping[str, Array], rounding: float = 0.0) -> str:
        """In which way two looks differ by more than is allowed; "" if they agree."""
        for name in (name for name in first if name in second):
            a, b = first[name], second[name]
            limit = self.tolerance + rounding * (1 + float(np.max(np.abs(a))))
            far = np.abs(a.astype(np.float64) - b) if a.shape == b.shape else np.asarray(math.inf)
            if not np.all(far <= limit):
                place = tuple(int(i) for i in np.argwhere(~(far <= limit))[0])
                return (
                    f"{name}{list(place)} is {a[place]:.6g} and {b[place]:.6g}, {far[place]:.3g} apart; "
                    f"allowed are {limit:.3g}"
                )
        return ""

    def agree(
        self,
        first: Mapping[str, Array],
        second: Mapping[str, Array],
        complaint: str,
        rounding: float = 0.0,
        only: Sequence[str] | None = None,
    ) -> None:
        if only is not None:
            first = {name: value for name, value in first.items() if name.split("[")[0] in only}
        if difference := self.differs(first, second, rounding):
            fail(f"{complaint}: {difference}")

    def settle(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """Bring the device to known parameters; what it then reads, and its state."""
        look = self.look(self.theta(1))
        return look, state_of(self.device)

    def unchanged(self, before: tuple[Mapping[str, Array], Mapping[str, Array]], when: str) -> None:
        look, kept = before
        if difference := first_difference(state_of(self.device), kept, "snapshot"):
            fail(f"{when}, and yet the device's state changed: {difference}. Refuse before anything is carried out.")
        self.agree(
            look, self.look(None), f"{when}, and yet the readings changed. Refuse before anything is carried out"
        )


def with_last(theta: Array, value: float) -> Array:
    """The same parameters, with the very last one changed."""
    changed = theta.copy()
    changed.reshape(-1)[-1] = value
    return changed
