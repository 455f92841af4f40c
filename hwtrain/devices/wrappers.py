"""What stands between a link and its port: a transcript that is kept, a transcript that answers, and faults on purpose.

A transcript is a text file, one JSON object per line: a header, then what happened at the port in order, "open",
"write" and "read" with their bytes in hexadecimal, "lost" and "close". Each line is on disk before the next is made, so
a killed process leaves all but the last.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hwtrain import draws
from hwtrain.devices import frames
from hwtrain.devices.link import Connect, Port, PortLost
from hwtrain.devices.messages import Kind
from hwtrain.errors import ConnectError, ProtocolError, RecordError

SCHEMA = 1


class Recorded:
    """Opens a port, and keeps all that passes.

    Args:
        connect: opens the port itself.
        path: the transcript; an older one is replaced.

    Raises:
        RecordError: the file cannot be written.
    """

    def __init__(self, connect: Connect, path: str | Path) -> None:
        self._connect, self._began = connect, time.monotonic()
        try:
            self._file = open(path, "w", buffering=1)
        except OSError as error:
            raise RecordError(f"device.transcript: cannot write {path}: {error.strerror}") from error
        self._note(transcript=SCHEMA)

    def __call__(self) -> Port:
        """The open port."""
        try:
            port = self._connect()
        except ConnectError as error:
            self._note(absent=str(error))
            raise
        self._note(open=True)
        return _RecordedPort(port, self._note)

    def _note(self, **event: Any) -> None:
        self._file.write(json.dumps({"seconds": round(time.monotonic() - self._began, 4), **event}) + "\n")


class _RecordedPort:
    def __init__(self, port: Port, note: Callable[..., None]) -> None:
        self._port, self._note = port, note

    def read(self, seconds: float) -> bytes:
        try:
            data = self._port.read(seconds)
        except PortLost as error:
            self._note(lost=str(error))
            raise
        if data:
            self._note(read=data.hex())
        return data

    def write(self, data: bytes) -> None:
        self._note(write=data.hex())
        try:
            self._port.write(data)
        except PortLost as error:
            self._note(lost=str(error))
            raise

    def close(self) -> None:
        self._port.close()


class Replayed:
    """Answers as a transcript says, without a port and without waiting.

    The host must write what it wrote then. Boot ids, which it chooses anew in every run, come from the transcript, and
    so does the time that passes while nothing comes: give `clock`, `sleep` and `boots` to the link.

    Args:
        path: the transcript.

    Raises:
        RecordError: it cannot be read, or is not a transcript.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._events = _events(self.path)
        self._at, self._now = 0, 0.0
        written = b"".join(bytes.fromhex(event["write"]) for event in self._events if "write" in event)
        self._boots = (
            int.from_bytes(frame.payload[4:8], "little")
            for frame in frames.Decoder().feed(written)
            if frame.kind == Kind.ADOPT
        )

    def __call__(self) -> Port:
        """The port as it was opened then.

        Raises:
            ConnectError: it could not be.
        """
        event = self._take("open", "absent")
        if "absent" in event:
            raise ConnectError(event["absent"])
        return self

    def clock(self) -> float:
        """Seconds, which pass only while nothing comes."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds

    def boots(self) -> int:
        """The next boot id that was given then."""
        return next(self._boots, 1)

    def read(self, seconds: float) -> bytes:
        """What came then before the host wrote again."""
        event = self._peek()
        if "lost" in event:
            self._at += 1
            raise PortLost(event["lost"])
        if "read" not in event:
            self._now += max(seconds, 1e-3)
            return b""
        self._at += 1
        return bytes.fromhex(event["read"])

    def write(self, data: bytes) -> None:
        """What was written then, and nothing else.

        Raises:
            ProtocolError: the host departs from the transcript.
        """
        event = self._take("write")
        if bytes.fromhex(event["write"]) != data:
            raise ProtocolError(
                f"{self.path}: the host departs from the transcript at line {self._at + 1}. Then it wrote "
                f"{_told(bytes.fromhex(event['write']))}, now {_told(data)}."
            )
        if "lost" in self._peek():
            raise PortLost(self._take("lost")["lost"])

    def close(self) -> None:
        """Nothing to let go of."""

    def _peek(self) -> Mapping[str, Any]:
        return self._events[self._at] if self._at < len(self._events) else {}

    def _take(self, *kinds: str) -> Mapping[str, Any]:
        event = self._peek()
        if not any(kind in event for kind in kinds):
            raise ProtocolError(
                f"{self.path}: the host departs from the transcript at line {self._at + 2}: it wants to {kinds[0]}, "
                f"then came {', '.join(key for key in event if key != 'seconds') or 'the end'}."
            )
        self._at += 1
        return event


def _events(path: Path) -> list[dict[str, Any]]:
    """The events of a transcript; a last line that was cut off is left out."""
    events: list[dict[str, Any]] = []
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"the transcript {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            events.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise RecordError(f"the transcript {path} is damaged in line {number}: {error}") from error
    if not events or events[0].get("transcript") != SCHEMA:
        raise RecordError(f"{path} is not a transcript of this version: its first line must say transcript: {SCHEMA}")
    return events[1:]


def _told(data: bytes) -> str:
    """Bytes for a message: as frames, where they are."""
    found = frames.Decoder().feed(data)
    if not found:
        return data[:32].hex(" ") or "nothing"
    return ", ".join(
        f"{Kind(f.kind).name if f.kind in Kind._value2member_map_ else hex(f.kind)} number {f.sequence} of "
        f"{len(f.payload)} bytes ({f.payload[:16].hex(' ')})"
        for f in found
    )


FAULTS = ("flip", "drop", "duplicate", "cut", "split", "join", "delay", "unplug", "reset", "stall")


class Faulty:
    """Opens a port that misbehaves, the same way for the same seed and operations.

    Args:
        connect: opens the port itself.
        seed: of the faults.
        rates: faults per read that brought something, or write, by the names in `FAULTS`: a bit flipped, a byte lost or
            doubled, the rest of a piece lost; a piece handed over in two, together with the next, or one operation
            late; the cable pulled, for up to three attempts to open it again; `reset` and `stall` as below.
        limit: faults in all.
        reset: makes the board lose its memory.
        stall: stops the board (True) or lets it go on (False).
    """

    def __init__(
        self,
        connect: Connect,
        seed: int,
        rates: Mapping[str, float],
        limit: int,
        reset: Callable[[], None] = lambda: None,
        stall: Callable[[bool], None] = lambda stop: None,
    ) -> None:
        assert set(rates) <= set(FAULTS), rates
        self.counts: Counter[str] = Counter()
        self._connect, self._rates, self._limit = connect, rates, limit
        self._seed = draws.derive(np.uint32(seed), "faults")
        self._operation = self._refusals = self._stalled = 0
        self._reset, self._stall = reset, stall

    def __call__(self) -> Port:
        """The open port.

        Raises:
            ConnectError: it cannot be opened, or is still unplugged.
        """
        if self._refusals:
            self._refusals -= 1
            raise ConnectError("unplugged on purpose")
        self._let_go(0)
        return _FaultyPort(self._connect(), self)

    def draw(self) -> tuple[str | None, float, float]:
        """What goes wrong in the next operation, if anything, and two numbers from 0 to 1 that say how."""
        self._operation += 1
        chance, where, how = (float(u) for u in draws.uniform(self._seed, self._operation, 3))
        if self._stalled:
            self._let_go(self._stalled - 1)
            return None, where, how
        if sum(self.counts.values()) < self._limit:
            for name, rate in self._rates.items():
                chance -= rate
                if chance < 0:
                    return name, where, how
        return None, where, how

    def happened(self, name: str) -> None:
        """Count a fault."""
        self.counts[name] += 1

    def unplug(self, how: float) -> None:
        """The cable is pulled, for a while."""
        self._refusals = int(4 * how)

    def disturb(self, name: str, how: float) -> None:
        """What happens to the board rather than to bytes."""
        if name == "reset":
            self._reset()
        else:
            self._stalled = 2 + int(8 * how)
            self._stall(True)

    def waited(self) -> None:
        """A read brought nothing; a stalled board is not stalled for ever."""
        if self._stalled:
            self._let_go(self._stalled - 1)

    def _let_go(self, left: int) -> None:
        if self._stalled and left == 0:
            self._stall(False)
        self._stalled = left


class _FaultyPort:
    def __init__(self, port: Port, faults: Faulty) -> None:
        self._port, self._faults = port, faults
        self._to_read: list[bytes] = []  # pieces still to be handed over
        self._late = b""  # handed over at the next read
        self._held = b""  # handed over with what comes next
        self._joined = b""  # written with the next write

    def read(self, seconds: float) -> bytes:
        if self._to_read:
            return self._to_read.pop(0)
        data = self._port.read(seconds)
        if not data:
            late, self._late = self._late, b""
            self._faults.waited()
            return late
        data, self._late, self._held = self._held + self._late + data, b"", b""
        pieces = list(self._mistreat(data, reading=True))
        if not pieces:
            return b""
        self._to_read = pieces[1:]
        return pieces[0]

    def write(self, data: bytes) -> None:
        data, self._joined = self._joined + data, b""
        for piece in self._mistreat(data, reading=False):
            self._port.write(piece)

    def close(self) -> None:
        self._port.close()

    def _mistreat(self, data: bytes, *, reading: bool) -> Iterator[bytes]:
        """The pieces that arrive of some bytes."""
        name, where, how = self._faults.draw()
        at = int(where * len(data))
        if name is None or (name == "split" and len(data) < 2):
            yield data
            return
        self._faults.happened(name)
        match name:
            case "flip":
                yield data[:at] + bytes([data[at] ^ 1 << int(8 * how)]) + data[at + 1 :]
            case "drop":
                yield data[:at] + data[at + 1 :]
            case "duplicate":
                yield data[: at + 1] + data[at:]
            case "cut":
                yield data[:at]
            case "split":
                yield data[: max(at, 1)]
                yield data[max(at, 1) :]
            case "join" | "delay":
                if not reading:
                    self._joined = data
                elif name == "join":
                    self._held = data
                else:
                    self._late = data
            case "unplug":
                if not reading:
                    self._port.write(data[:at])
                self._faults.unplug(how)
                self._port.close()
                raise PortLost("unplugged on purpose")
            case _:
                if not reading:
                    self._port.write(data)
                self._faults.disturb(name, how)
                if reading:
                    yield data
