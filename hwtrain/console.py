"""What a user sees while a run goes on, and when it fails.

The status line is rewritten on a terminal; where there is none, it is a plain line now and then.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from hwtrain.errors import ConfigError, DeviceError, HwtrainError


class Status:
    """Shows how far a run has come, seldom enough not to slow it down.

    Args:
        stream: where to.
        clock: seconds that only grow.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._terminal = self._stream.isatty()
        self._interval = 0.2 if self._terminal else 10.0
        self._next = clock() + self._interval
        self._width = 0

    def due(self) -> bool:
        """Is it time to show something again?"""
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + self._interval
        return True

    def end(self, text: str) -> None:
        """Show a last line and leave it standing."""
        self.show(text)
        if self._terminal:
            self._stream.write("\n")
        self._stream.flush()

    def show(self, text: str) -> None:
        """Show a line in place of the one before."""
        if self._terminal:
            text = text[: shutil.get_terminal_size().columns - 1]  # one that wraps could not be rewritten
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()


class Silent(Status):
    """Shows nothing."""

    def __init__(self) -> None:
        super().__init__(stream=io.StringIO(), clock=lambda: 0.0)


def duration(seconds: float) -> str:
    """A time as people say it: 45 s, 3 min 20 s, 2 h 05 min."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def fault(error: Exception) -> HwtrainError:
    """What to say of an error: of a user's device or code where it is none of ours, with the lines to mend.

    Raises:
        Exception: the error itself, where it is a mistake of ours.
    """
    if isinstance(error, HwtrainError):
        return error
    installed = tuple(os.path.realpath(folder) for folder in (Path(__file__).parent, sys.prefix, sys.base_prefix))
    lines = [
        f"{frame.filename}:{frame.lineno}, in {frame.name}: {frame.line}"
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and not os.path.realpath(frame.filename).startswith(installed)
    ]
    told: HwtrainError
    if isinstance(error, MemoryError):
        told = ConfigError(f"out of memory: {error}. Make it smaller: network, chips, batch.")
    elif isinstance(error, OSError):
        told = DeviceError(f"the device failed: {error}")
    elif lines:
        told = HwtrainError(f"{type(error).__name__}: {error}, in code that is not hwtrain's:")
    else:
        raise error
    for note in (*lines, *getattr(error, "__notes__", [])):
        told.add_note(note)
    return told
