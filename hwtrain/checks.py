"""Checks of settings, so that every refusal names the key, the value and what is allowed in the same words."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from hwtrain.errors import ConfigError, nearest


def whole(key: str, value: Any, low: int = 1, high: int | None = None, why: str = "", *, none: str = "") -> None:
    """Refuse what is not a whole number from `low` to `high`.

    Args:
        key: the setting, for the message.
        value: as it stands in the configuration.
        low: the lowest allowed.
        high: the highest allowed; None is no limit.
        why: what the value counts, or what the limits come from.
        none: what null means, where it is allowed.
    """
    if value is None and none:
        return
    if isinstance(value, int) and not isinstance(value, bool) and low <= value and (high is None or value <= high):
        return
    limits = f"of at least {low}" if high is None else f"from {low} to {high}"
    raise ConfigError(f"{key} must be a whole number {limits}{_why(why)}{_null(none)}, not {value!r}")


def number(
    key: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    why: str = "",
    *,
    none: str = "",
    above: bool = False,
    below: bool = False,
) -> None:
    """Refuse what is not a finite number from `low` to `high`.

    Args:
        key: the setting, for the message.
        value: as it stands in the configuration.
        low: the lowest allowed.
        high: the highest allowed.
        why: what the value is.
        none: what null means, where it is allowed.
        above: is `low` itself refused?
        below: is `high` itself refused?
    """
    if value is None and none:
        return
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and (low < value if above else low <= value)
        and (value < high if below else value <= high)
    ):
        return
    limits = []
    if math.isfinite(low):
        limits.append(f"above {low:g}" if above else f"of at least {low:g}")
    if math.isfinite(high):
        limits.append(f"below {high:g}" if below else f"of at most {high:g}")
    text = " ".join(["a finite number", " and ".join(limits)]).strip()
    raise ConfigError(f"{key} must be {text}{_why(why)}{_null(none)}, not {value!r}")


def interval(key: str, value: Any) -> None:
    """Refuse what is not two finite numbers, the lower one first."""
    ends = value if isinstance(value, list | tuple) else ()
    if len(ends) != 2 or not all(isinstance(end, int | float) and math.isfinite(end) for end in ends):
        raise ConfigError(f"{key} must be two finite numbers, as [0,1], not {value!r}")
    if not ends[0] < ends[1]:
        raise ConfigError(f"{key} must begin with the lower of its two numbers, not be {value!r}")


def one_of(key: str, value: Any, allowed: Iterable[str]) -> None:
    """Refuse what is not one of some words."""
    if value not in (allowed := tuple(allowed)):
        raise ConfigError(f"{key} must be one of {', '.join(allowed)}, not {value!r}. {nearest(str(value), allowed)}")


def flag(key: str, value: Any) -> None:
    """Refuse what is not true or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{key} must be true or false, not {value!r}")


def text(key: str, value: Any) -> None:
    """Refuse what is not a text that says something."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{key} must be a text, not {value!r}")


def _why(why: str) -> str:
    return f" ({why})" if why else ""


def _null(meaning: str) -> str:
    return f", or null for {meaning}" if meaning else ""
