"""What a device says, by name, and the shapes it must have."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import cast

import numpy as np

from hwtrain.conformance.values import fail
from hwtrain.core import Array, Can, Device, DeviceSpec, Reading, Sample, Stateful

OBSERVABLES = {
    Can.COST: "cost",
    Can.SAMPLE_COST: "sample_cost",
    Can.OUTPUT: "output",
    Can.ACTIVITY: "activity",
    Can.GRADIENT: "gradient",
}


def shapes(spec: DeviceSpec, sample: Sample, k: int) -> dict[str, tuple[int | None, ...]]:
    """Shapes of all fields of a reading by name; None is any number of features."""
    time, batch = sample.x.shape[-3:-1]
    lead = (*spec.replicas, k)
    wanted: dict[str, tuple[int | None, ...]] = {
        "cost": lead,
        "sample_cost": (*lead, batch),
        "output": (*lead, time, batch, spec.outputs),
        "gradient": (*lead, spec.size),
    }
    widths: list[int | None] = [math.prod(layer.outputs) for layer in spec.layers]
    for number, width in enumerate(widths or [None] * 100):
        wanted[f"activity[{number}]"] = (*lead, time, batch, width)
    return wanted


def fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Is a shape the wanted one?"""
    return len(shape) == len(wanted) and all(b is None or a == b for a, b in zip(shape, wanted, strict=True))


def shape_text(shape: tuple[int | None, ...]) -> str:
    """A wanted shape, for a message."""
    return "(" + ", ".join("n" if length is None else str(length) for length in shape) + ")"


def arrays(reading: Reading) -> dict[str, Array]:
    """The fields of a reading by name, activities one by one."""
    named: dict[str, Array] = {}
    for name in (*OBSERVABLES.values(), "baseline", "modulation"):
        value = getattr(reading, name)
        if isinstance(value, tuple):
            named |= {f"{name}[{number}]": np.asarray(each) for number, each in enumerate(value)}
        elif value is not None:
            named[name] = np.asarray(value)
    return named


def observed(reading: Reading, name: str) -> Array:
    """A field that must be there."""
    value = getattr(reading, name)
    if value is None:
        fail(f"the reading lacks {name}, which was observed")
    return np.asarray(value)


def mean(values: Sequence[Array]) -> Array:
    """The mean of arrays; of one, itself."""
    return values[0] if len(values) == 1 else cast(Array, np.mean(values, axis=0))


def state_of(device: Device) -> dict[str, Array]:
    """A copy of all that a device says of its state, or nothing."""
    if Can.STATE in device.spec.can and isinstance(device, Stateful):
        return copy.deepcopy(dict(device.snapshot()))
    return {}
