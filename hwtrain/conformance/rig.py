"""An algorithm under test, and how to train something with it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hwtrain.conformance.samples import seeds
from hwtrain.core import Algorithm, Array, Device, Sample, Task, joined
from hwtrain.limits import check


@dataclass(frozen=True, slots=True)
class Rig:
    """An algorithm, and how to train something with it.

    Args:
        algorithm: under test.
        make_device: of the fixture.
        task: what is shown.
        steps: number of asks.
        first: seed of the first replica.
    """

    algorithm: Algorithm
    make_device: Callable[..., Device]
    task: Task
    steps: int
    first: int = 5

    @property
    def name(self) -> str:
        return type(self.algorithm).__name__

    def init(self, device: Device) -> Any:
        """The first state on this device."""
        return self.algorithm.init(device.spec, seeds(device.spec.replicas, self.first))

    def sample(self, device: Device, state: Any) -> Sample:
        """What the algorithm wants presented next."""
        seed = seeds(device.spec.replicas, self.first)
        return joined([self.task.sample(seed, index) for index in self.algorithm.presents(state)])

    def train(self, device: Device, state: Any = None) -> Iterator[tuple[Any, Mapping[str, Array]]]:
        """State and metrics after every step, checked against the spec; copies, whatever happens to the originals."""
        state = self.init(device) if state is None else state
        for _ in range(self.steps):
            sample = self.sample(device, state)
            commands = tuple(self.algorithm.ask(state, sample))
            check(device.spec, commands)
            state, metrics = self.algorithm.tell(state, sample, device.execute(commands))
            yield copy.deepcopy(state), dict(metrics)
