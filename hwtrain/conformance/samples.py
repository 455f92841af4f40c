"""Seeds, parameters and samples to check with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hwtrain import draws
from hwtrain.core import DeviceSpec, Sample


def seeds(replicas: tuple[int, ...], first: int) -> NDArray[np.uint32]:
    """One seed a replica, counted on from the first, as a trainer does."""
    return (first + np.arange(math.prod(replicas))).astype(np.uint32).reshape(replicas)


def parameter_range(spec: DeviceSpec) -> tuple[float, float]:
    """The parameter range, an open end replaced by one within reach."""
    low, high = spec.low, spec.high
    if not math.isfinite(low):
        low = high - 1 if math.isfinite(high) else -0.5
    return low, high if math.isfinite(high) else low + 1


def drawn_sample(spec: DeviceSpec, shape: Sequence[int], replicas: tuple[int, ...] = (), number: int = 0) -> Sample:
    """Numbers between 0 and 1, x (..., t, b, n) and target (..., t, b, m), others for every number."""
    time, batch = shape
    values = draws.uniform(seeds(replicas, 99), number, time * batch * (spec.inputs + spec.outputs))
    values = values.reshape(*replicas, time, batch, -1)
    return Sample(values[..., : spec.inputs], values[..., spec.inputs :])
