"""Single layers as one network: each on a device of its own, the host in between.

Crossbars are often one layer each: the host reads what one says, takes its length away where the network wants that,
and shows it to the next. What is measured on the way is what every layer is shown, errors of reading included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from hwtrain import draws
from hwtrain.core import (
    Array,
    Can,
    Command,
    Device,
    DeviceSpec,
    Layer,
    Measure,
    Program,
    Reading,
    Sample,
    Stateful,
    normalised,
)
from hwtrain.errors import ConfigError
from hwtrain.limits import check
from hwtrain.sim.networks import Network


class Chain:
    """Devices one after another.

    Args:
        parts: from input to output; each takes what the one before gives, and offers its output.
        normalise: what the host does to the length of what each part is shown: "none", "l2" or "rms".

    Raises:
        ConfigError: the parts do not fit each other.
    """

    def __init__(self, parts: Sequence[Device], normalise: Sequence[str]) -> None:
        specs = [part.spec for part in parts]
        if not specs or len(normalise) != len(specs):
            raise ConfigError(f"a chain needs parts, and a normalisation for each: {len(specs)} and {len(normalise)}")
        for number, (before, after) in enumerate(pairwise(specs), 2):
            if before.outputs != after.inputs or before.replicas != after.replicas:
                raise ConfigError(
                    f"chain: part {number}, {after.name!r}, takes {after.inputs} inputs on replicas {after.replicas}; "
                    f"the part before gives {before.outputs} on {before.replicas}"
                )
        for spec in specs:
            if Can.OUTPUT not in spec.can or len(spec.layers) != 1:
                raise ConfigError(f"chain: {spec.name!r} must be one layer that reports its output")
        self._parts, self._normalise = tuple(parts), tuple(normalise)
        ends = np.cumsum([0, *(spec.size for spec in specs)])
        self._slices = [slice(int(a), int(b)) for a, b in pairwise(ends)]
        stateful = all(Can.STATE in spec.can for spec in specs)
        self._spec = DeviceSpec(
            name=f"chain of {len(specs)}",
            inputs=specs[0].inputs,
            outputs=specs[-1].outputs,
            size=int(ends[-1]),
            can=Can.OUTPUT | Can.ACTIVITY | (Can.STATE if stateful else Can(0)),
            low=max(spec.low for spec in specs),
            high=min(spec.high for spec in specs),
            unit=specs[0].unit,
            replicas=specs[0].replicas,
            layers=tuple(
                replace(spec.layers[0], normalise=how) for spec, how in zip(specs, self._normalise, strict=True)
            ),
        )
        self._theta = np.zeros((*self._spec.replicas, self._spec.size))

    @property
    def spec(self) -> DeviceSpec:
        """The network that the parts make."""
        return self._spec

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        """Program every part; measure part by part."""
        check(self._spec, commands, self._theta)
        readings = []
        for command in commands:
            match command:
                case Program():
                    self._theta = command.theta
                    for part, where in zip(self._parts, self._slices, strict=True):
                        part.execute([Program(command.theta[..., where])])
                case Measure():
                    readings.append(self._measure(command))
        return tuple(readings)

    def rest(self) -> None:
        """Make every part safe."""
        self._all(lambda part: part.rest())

    def close(self) -> None:
        """Let go of every part."""
        self._all(lambda part: part.close())

    def snapshot(self) -> dict[str, Array]:
        """The state of every part."""
        parts = [part.snapshot() for part in self._parts if isinstance(part, Stateful)]
        kept = {f"{number}.{name}": array for number, part in enumerate(parts) for name, array in part.items()}
        return {"theta": self._theta.copy(), **kept}

    def restore(self, snapshot: Mapping[str, Array]) -> None:
        """The inverse of `snapshot`."""
        self._theta = snapshot["theta"].copy()
        for number, part in enumerate(self._parts):
            begin = f"{number}."
            assert isinstance(part, Stateful)
            part.restore({name[len(begin) :]: value for name, value in snapshot.items() if name.startswith(begin)})

    def _measure(self, command: Measure) -> Reading:
        shown, seen = command.sample.x, []
        for part, how in zip(self._parts, self._normalise, strict=True):
            sample = Sample(normalised(shown, how), start=command.sample.start)
            (reading,) = part.execute([Measure(sample, observe=Can.OUTPUT)])
            assert reading.output is not None
            seen.append(reading.output)
            shown = reading.output[..., 0, :, :, :]
        return Reading(
            output=seen[-1] if Can.OUTPUT in command.observe else None,
            activity=tuple(seen) if Can.ACTIVITY in command.observe else None,
        )

    def _all(self, action: Callable[[Device], None]) -> None:
        """Do something to every part, also when one fails."""
        failed: list[BaseException] = []
        for part in self._parts:
            try:
                action(part)
            except BaseException as error:  # the others must be made safe all the same
                failed.append(error)
        if failed:
            raise failed[0]


def layer_by_layer(network: Network, part: Callable[..., Device], seed: int = 0) -> Chain:
    """A chain with a device for every layer of a network.

    Args:
        network: dense layers.
        part: makes a device from `network`, `seed` and whatever else it was given.
        seed: of the first part; every other part's is derived from it.
    """
    parts = []
    for number, layer in enumerate(network.layers):
        alone: Layer = replace(layer, normalise="none")  # which the host does
        own = seed if not number else int(draws.derive(seed, f"part {number}"))
        parts.append(part(network=Network((alone,)), seed=own))
    return Chain(parts, [layer.normalise for layer in network.layers])
