"""Where two values differ, what an object hides, and failing in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, NoReturn

import numpy as np
import pytest

SIGMAS = 6  # two readings further apart than this many standard deviations are called different


def fail(message: str) -> NoReturn:
    """Fail the check with a sentence."""
    __tracebackhide__ = True
    pytest.fail(message, pytrace=True)


def require(condition: bool, message: str) -> None:
    """Fail the check with a sentence unless this holds."""
    __tracebackhide__ = True
    if not condition:
        fail(message)


def hidden(before: Any, after: Any) -> str:
    """A hint at what an object kept to itself; "" if nothing is to be seen."""
    known = _attributes(before)
    for name, value in _attributes(after).items():
        if difference := first_difference(value, known.get(name), f"self.{name}"):
            return f" It keeps state outside its state object: {difference}."
    return ""


def _attributes(value: Any) -> dict[str, Any]:
    named = {field.name: getattr(value, field.name) for field in fields(value)} if is_dataclass(value) else {}
    return {**named, **getattr(value, "__dict__", {})}


def frozen(value: Any) -> Any:
    """The same value, its arrays locked."""
    if isinstance(value, np.ndarray):
        value.flags.writeable = False
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            frozen(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for item in value.values():
            frozen(item)
    elif isinstance(value, tuple | list):
        for item in value:
            frozen(item)
    return value


def same(a: Any, b: Any) -> bool:
    """Do two values agree in every bit?"""
    return not first_difference(a, b, "")


def first_difference(a: Any, b: Any, name: str) -> str:
    """Where two values first differ, arrays bit for bit (but a NaN is a NaN); "" if nowhere."""
    if isinstance(a, np.ndarray | np.generic) and isinstance(b, np.ndarray | np.generic):
        x, y = np.asarray(a), np.asarray(b)
        if x.shape != y.shape or x.dtype != y.dtype:
            return f"{name} is {x.dtype}{list(x.shape)} and not {y.dtype}{list(y.shape)}"
        differs = x != y
        if x.dtype.kind == "f":
            differs &= ~(np.isnan(x) & np.isnan(y))
        if not differs.any():
            return ""
        place = tuple(int(i) for i in np.argwhere(differs)[0])
        return f"{name}{list(place) if place else ''} is {x[place]!r} and not {y[place]!r}"
    if type(a) is not type(b):
        return f"{name} is a {type(a).__name__} and not a {type(b).__name__}"
    if is_dataclass(a) and not isinstance(a, type):
        pairs = [(f"{name}.{field.name}", getattr(a, field.name), getattr(b, field.name)) for field in fields(a)]
    elif isinstance(a, Mapping):
        if odd := sorted(str(key) for key in a.keys() ^ b.keys()):
            return f"{name} has {odd[0]!r} on one side only"
        pairs = [(f"{name}[{key!r}]", value, b[key]) for key, value in a.items()]
    elif isinstance(a, tuple | list):
        if len(a) != len(b):
            return f"{name} has {len(a)} entries and not {len(b)}"
        pairs = [(f"{name}[{number}]", *pair) for number, pair in enumerate(zip(a, b, strict=True))]
    else:
        return "" if a is b or a == b or (a != a and b != b) else f"{name} is {a!r} and not {b!r}"
    return next((found for part, one, other in pairs if (found := first_difference(one, other, part))), "")
