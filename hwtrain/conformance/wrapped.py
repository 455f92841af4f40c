"""Devices that pass on what they are told, each with one thing changed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hwtrain.conformance.values import fail, first_difference
from hwtrain.core import Can, Command, Device, DeviceSpec, Reading
from hwtrain.limits import check


class Wrapped:
    """A device that passes everything on."""

    def __init__(self, inner: Device, spec: DeviceSpec | None = None) -> None:
        self.inner = inner
        self._spec = inner.spec if spec is None else spec

    @property
    def spec(self) -> DeviceSpec:
        return self._spec

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        return tuple(self.inner.execute(commands))

    def rest(self) -> None:
        self.inner.rest()

    def close(self) -> None:
        self.inner.close()


class Limited(Wrapped):
    """Offers only what is needed, and refuses the rest."""

    def __init__(self, inner: Device, can: Can) -> None:
        if missing := can & ~inner.spec.can:
            fail(f"make_device gives a device without {missing.names()}, which the algorithm needs")
        super().__init__(inner, replace(inner.spec, can=can))

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        check(self.spec, commands)
        return super().execute(commands)


class Steep(Wrapped):
    """A device in a narrow range, all of whose costs are much steeper than they are."""

    def __init__(self, inner: Device, spec: DeviceSpec, slope: float) -> None:
        super().__init__(inner, spec)
        self._slope = slope

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        names = ("cost", "sample_cost", "gradient")
        return tuple(
            _changed(reading, names, lambda value: self._slope * value) for reading in super().execute(commands)
        )


class Faulty(Wrapped):
    """In one exchange, replica 1 reads an invalid value everywhere in the named fields."""

    def __init__(self, inner: Device, names: Sequence[str], at: int, value: float) -> None:
        super().__init__(inner)
        self._names, self._at, self._value = names, at, value
        self._calls = 0

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        readings = super().execute(commands)
        self._calls += 1
        if self._calls != self._at + 1:
            return readings
        return tuple(_changed(reading, self._names, self._spoilt) for reading in readings)

    def _spoilt(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(self._spoilt(each) for each in value)
        spoilt = np.array(value)
        spoilt[1] = self._value
        return spoilt


class Recorded(Wrapped):
    """Keeps every exchange."""

    def __init__(self, inner: Device) -> None:
        super().__init__(inner)
        self.exchanges: list[tuple[tuple[Command, ...], tuple[Reading, ...]]] = []

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        readings = super().execute(commands)
        self.exchanges.append(copy.deepcopy((tuple(commands), readings)))
        return readings


class OtherCommandsError(Exception):
    """A replayed algorithm left its transcript."""


class Replayed(Wrapped):
    """Answers from a recording, if it is asked what was asked then."""

    def __init__(self, recorded: Recorded) -> None:
        super().__init__(recorded.inner)
        self._exchanges = iter(recorded.exchanges)

    def execute(self, commands: Sequence[Command]) -> tuple[Reading, ...]:
        asked, readings = next(self._exchanges)
        if difference := first_difference(tuple(commands), asked, "commands"):
            raise OtherCommandsError(difference)
        return readings


def _changed(reading: Reading, names: Sequence[str], change: Callable[[Any], Any]) -> Reading:
    """A reading with some of its fields, where it has them, changed."""
    changes = {name: change(value) for name in names if (value := getattr(reading, name)) is not None}
    return replace(reading, **changes)
