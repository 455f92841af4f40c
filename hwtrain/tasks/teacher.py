"""Linear regression: find the matrix of a teacher from noisy examples, fresh ones without end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwtrain import checks, draws
from hwtrain.core import Array, Sample

_HELD_OUT, _SEEN = 1000, 1000


@dataclass(frozen=True, slots=True)
class Teacher:
    """Targets y = x W + noise, where x is standard normal and W, (inputs, outputs), is drawn once.

    Args:
        inputs: n.
        outputs: m.
        spread: standard deviation of an element of W.
        most: its largest magnitude, where it is cut off.
        noise: standard deviation of the noise of every target.
        batch: samples presented at once.
        seed: of W and of all noise; samples differ from replica to replica, W does not.
        name: what messages and records call it.
    """

    inputs: int = 20
    outputs: int = 5
    spread: float = 0.3
    most: float = 0.6
    noise: float = 0.05
    batch: int = 1
    seed: int = 0
    name: str = "teacher"

    def __post_init__(self) -> None:
        for name, value in (("inputs", self.inputs), ("outputs", self.outputs), ("batch", self.batch)):
            checks.whole(f"task.{name}", value)
        for name, number in (("spread", self.spread), ("noise", self.noise)):
            checks.number(f"task.{name}", number, low=0)
        checks.number("task.most", self.most, low=0, above=True)
        checks.whole("task.seed", self.seed, 0, 2**32 - 1)

    @property
    def matrix(self) -> Array:
        """W, (inputs, outputs)."""
        drawn = self.spread * draws.normal(self._seed("teacher"), 0, self.inputs * self.outputs)
        return np.clip(drawn, -self.most, self.most).reshape(self.inputs, self.outputs)

    def sample(self, seed: NDArray[np.uint32], index: int) -> Sample:
        """Fresh samples, never the same again."""
        return self._drawn(draws.derive(seed, "samples of the teacher"), index, self.batch)

    def held_out(self, limit: int) -> Sample:
        """Samples of another stream."""
        return self._drawn(self._seed("held out"), 0, min(limit, _HELD_OUT))

    def seen(self, limit: int) -> Sample:
        """Samples of a third: of those trained on, none comes twice."""
        return self._drawn(self._seed("seen"), 0, min(limit, _SEEN))

    def _seed(self, purpose: str) -> NDArray[np.uint32]:
        return draws.derive(np.uint32(self.seed), purpose)

    def _drawn(self, seed: NDArray[np.uint32], index: int, count: int) -> Sample:
        values = draws.normal(seed, index, count * (self.inputs + self.outputs))
        values = values.reshape(*seed.shape, 1, count, -1)
        x, noise = values[..., : self.inputs], values[..., self.inputs :]
        return Sample(x, np.matmul(x, self.matrix) + self.noise * noise)
