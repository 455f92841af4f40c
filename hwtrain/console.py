"""The status line: one line that is rewritten on a terminal, plain lines now and then where there is none."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from typing import TextIO


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
