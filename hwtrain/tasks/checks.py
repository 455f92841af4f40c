"""Checks of settings that several tasks have."""

from __future__ import annotations

from typing import Any

from hwtrain.errors import ConfigError


def whole(key: str, value: Any, low: int, high: int, why: str = "") -> int:
    """The value, where it is a whole number from `low` to `high`.

    Args:
        key: the field of the task, for the message.
        value: as it stands in the configuration.
        low: the lowest allowed.
        high: the highest allowed.
        why: what the limits come from.
    Raises:
        ConfigError: it is something else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return value
    reason = f" ({why})" if why else ""
    raise ConfigError(f"task.{key} must be a whole number from {low} to {high}{reason}, not {value!r}. Set task.{key}.")


def flag(key: str, value: Any) -> bool:
    """The value, where it is true or false.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(value, bool):
        return value
    raise ConfigError(f"task.{key} must be true or false, not {value!r}. Set task.{key}.")


def text(key: str, value: Any) -> str:
    """The value, where it is a text that says something.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(value, str) and value:
        return value
    raise ConfigError(f"task.{key} must be a text, not {value!r}. Set task.{key}.")
