"""What can go wrong, and nothing else.

    HwtrainError
    ├─ ConfigError(ValueError)      a setting: key, value, what is allowed, nearest match
    ├─ CapabilityError              an algorithm needs what a device does not offer; before anything is sent
    ├─ LimitError(ValueError)       a command outside the device's limits; nothing was sent
    ├─ DataError(ValueError)        a data set: missing, truncated, of the wrong shape, not finite
    ├─ RecordError(OSError)         a run folder or checkpoint: path, and what is already safe on disk
    └─ DeviceError                  a device failed: device, command, elapsed time
       ├─ ConnectError              not reached: every attempt, and a hint
       ├─ ReplyTimeout(TimeoutError)
       ├─ ProtocolError             a reply that breaks a rule: which rule, hex of the frame
       └─ FirmwareError             the board refused: its code and sentence

Reaching a goal, spending a budget, diverging and being interrupted are outcomes of a run, not errors.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HwtrainError(Exception):
    """The root: everything a user can cause or mend derives from it."""


class ConfigError(HwtrainError, ValueError):
    """A setting is wrong; the message names the key, the value and what is allowed."""


class CapabilityError(HwtrainError):
    """An algorithm needs what the device does not offer; found before anything is sent."""


class LimitError(HwtrainError, ValueError):
    """A command would leave the device's limits; nothing was sent."""


class DataError(HwtrainError, ValueError):
    """A data set cannot be used: it is missing, damaged, of the wrong shape, or not finite."""


class RecordError(HwtrainError, OSError):
    """A run folder or checkpoint cannot be written or read."""


class DeviceError(HwtrainError):
    """A device failed to do what it was asked."""


class ConnectError(DeviceError):
    """A device could not be reached."""


class ReplyTimeout(DeviceError, TimeoutError):
    """A device did not answer in time."""


class ProtocolError(DeviceError):
    """A reply breaks a rule of the protocol."""


class FirmwareError(DeviceError):
    """The board's firmware refused a command.

    Args:
        code: the firmware's error number.
        message: its sentence.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} (firmware error {code})")
        self.code = code


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint that ends a message about an unknown name: the closest known one, or all of them."""
    known = sorted(known)
    if close := difflib.get_close_matches(name, known, n=1, cutoff=0.5):
        return f"Did you mean {close[0]!r}?"
    return f"Known: {', '.join(known)}." if known else "None is known here."
