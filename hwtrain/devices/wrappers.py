"""What stands between a link and its port: a transcript that is kept, a transcript that answers, and faults on purpose.

A transcript is a text file, one JSON object per line: a header, then what happened at the port, in order: "open" or
"absent", "write" and "read" with their bytes in hexadecimal, "timeout" (once, however often nothing came), "lost" and
"close". Each line leaves the process before the next is made, so a killed one leaves all but the last.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hwtrain import draws
from hwtrain.devices import frames
from hwtrain.devices.frames import DELIMITER, Frame
from hwtrain.devices.link import Connect, Port, PortLost
from hwtrain.devices.messages import REPLY, Kind, Status
from hwtrain.errors import ConnectError, ProtocolError, RecordError

SCHEMA = 1


class Recorded:
    """Opens a port, and keeps all that passes, up to the first that cannot be written; then it keeps no more.

    Args:
        connect: opens the port itself.
        path: the transcript; an older one is kept as PATH.1, or the first number that is free.
        about: anything that JSON can say, for the header.

    Raises:
        RecordError: the file cannot be written.
    """

    def __init__(self, connect: Connect, path: str | Path, about: Mapping[str, Any] | None = None) -> None:
        self._connect, self._began, self._path = connect, time.monotonic(), Path(path)
        try:
            if self._path.is_file() and self._path.stat().st_size:
                free = (Path(f"{path}.{number}") for number in itertools.count(1))
                self._path.rename(next(older for older in free if not older.exists()))
            self._file = open(path, "w", buffering=1)
        except OSError as error:
            raise RecordError(f"device.transcript: cannot write {path}: {error.strerror}") from error
        weakref.finalize(self, self._file.close)
        self._note(transcript=SCHEMA, about=dict(about or {}))

    def __call__(self) -> Port:
        """The open port.

        Raises:
            ConnectError: it cannot be opened.
        """
        try:
            port = self._connect()
        except ConnectError as error:
            self._note(absent=str(error))
            raise
        self._note(open=True)
        return _RecordedPort(port, self._note)

    def _note(self, **event: Any) -> None:
        if self._file.closed:
            return
        try:
            self._file.write(json.dumps({"seconds": round(time.monotonic() - self._began, 4), **event}) + "\n")
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.close()  # the device must still be put to rest
            raise RecordError(
                f"the transcript {self._path} ends here: {error.strerror}. What it has is safe"
            ) from error


class _RecordedPort:
    def __init__(self, port: Port, note: Callable[..., None]) -> None:
        self._port, self._note = port, note
        self._quiet = self._closed = False

    def read(self, seconds: float) -> bytes:
        try:
            data = self._port.read(seconds)
        except PortLost as error:
            self._note(lost=str(error))
            raise
        if data:
            self._note(read=data.hex())
        elif not self._quiet:
            self._note(timeout=True)
        self._quiet = not data
        return data

    def write(self, data: bytes) -> None:
        self._quiet = False
        try:
            self._port.write(data)
        except PortLost as error:
            self._note(lost=str(error), unsent=data.hex())
            raise
        self._note(write=data.hex())

    def close(self) -> None:
        self._port.close()
        if not self._closed:
            self._closed = True
            self._note(close=True)


class Replayed:
    """Answers as a transcript says, without a port and without waiting.

    The host must write the frames that it wrote then, whatever it makes of them in calls to `write`. Only the boot ids,
    which a host chooses anew in every run, may differ: ADOPT tells which stands for which. Where the transcript has the
    host write next, nothing comes, and time passes on `clock` alone; give it and `sleep` to a link.

    Args:
        path: the transcript.

    Raises:
        RecordError: it cannot be read, or is not a transcript.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._steps = _steps(_events(self.path))
        self._boots: dict[int, int] = {}  # a boot id of then: the one of now
        self._begun = b""  # written of a frame that is not complete
        self._frame, self._now = 0, 0.0

    def __call__(self) -> Port:
        """The port as it was opened then.

        Raises:
            ConnectError: it could not be.
            ProtocolError: it was not opened then.
        """
        name, what = self._take("open", "absent", now="it opens the port")
        if name == "absent":
            raise ConnectError(what)
        self._begun = b""
        return self

    def clock(self) -> float:
        """Seconds, which pass only while nothing comes."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds

    def read(self, seconds: float) -> bytes:
        """What came then before the host wrote again.

        Raises:
            PortLost: as it was then.
        """
        name, what = self._next()
        if name == "lost":
            self._steps.popleft()
            raise PortLost(what)
        if name != "read":
            self._now += max(seconds, 1e-3)
            return b""
        self._steps.popleft()
        return DELIMITER.join(map(self._present, what.split(DELIMITER)))

    def write(self, data: bytes) -> None:
        """The frames that were written then, and no others.

        Raises:
            PortLost: as it was then.
            ProtocolError: the host departs from the transcript.
        """
        name, what = self._next()
        if name == "lost in a write":
            self._steps.popleft()
            raise PortLost(what)
        *whole, self._begun = (self._begun + data).split(DELIMITER)
        for stuffed in filter(None, whole):
            self._frame += 1
            now = f"it writes {_told(stuffed)}"
            _, then = self._take("write", now=now)
            if (recorded := _adopted(then)) and (present := _adopted(stuffed)):
                self._boots[recorded] = present
            if self._present(then) != stuffed:
                raise self._departure(f"it wrote {_told(then)}", now)

    def close(self) -> None:
        """Nothing to let go of."""

    def _next(self) -> tuple[str, Any]:
        return self._steps[0] if self._steps else ("end", None)

    def _take(self, *names: str, now: str) -> tuple[str, Any]:
        name, what = self._next()
        if name not in names:
            then = {"read": "something came", "end": "the transcript ended"}.get(name, f"the port was {name}")
            raise self._departure(f"it wrote {_told(what)}" if name == "write" else then, now)
        return self._steps.popleft()

    def _departure(self, then: str, now: str) -> ProtocolError:
        return ProtocolError(
            f"{self.path}: at frame {self._frame} the host departs from the transcript. Then {then}; now {now}. "
            "Are algorithm, task, device and seeds those of the recording?"
        )

    def _present(self, stuffed: bytes) -> bytes:
        """What stood between two delimiters then, with the boot ids of now."""
        try:
            frame = frames.decode(stuffed)
        except ProtocolError:
            return stuffed  # as damaged as it was
        payload = frame.payload
        for at in _boot_ids(frame):
            payload = payload[:at] + self._id(payload[at : at + 4]) + payload[at + 4 :]
        boot = int.from_bytes(self._id(frame.boot.to_bytes(4, "little")), "little")
        return frames.encode(replace(frame, boot=boot, payload=payload)).removesuffix(DELIMITER)

    def _id(self, recorded: bytes) -> bytes:
        number = int.from_bytes(recorded, "little")
        return self._boots.get(number, number).to_bytes(4, "little")


def _events(path: Path) -> list[dict[str, Any]]:
    """The events of a transcript, bytes as bytes; a last line that was cut off is left out."""
    events: list[dict[str, Any]] = []
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"the transcript {path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            event = dict(json.loads(line))
            events.append(event | {way: bytes.fromhex(event[way]) for way in ("write", "read") if way in event})
        except (ValueError, TypeError) as error:
            if number < len(lines):
                raise RecordError(f"the transcript {path} is damaged in line {number}: {error}") from error
    if not events or events[0].get("transcript") != SCHEMA:
        raise RecordError(f"{path} is not a transcript of this version: its first line must say transcript: {SCHEMA}")
    return events[1:]


def _steps(events: Iterable[Mapping[str, Any]]) -> deque[tuple[str, Any]]:
    """What happened, as a replay needs it: "write" of one frame without its delimiter, "read" of whole frames.

    A frame that came in several reads is in the last of them, one that never ended too.
    """
    steps: deque[tuple[str, Any]] = deque()
    sent = came = b""  # of a frame whose end is still to come
    last = 0  # step of the last read
    for event in (*events, {"end": True}):
        if "write" in event:
            *whole, sent = (sent + event["write"]).split(DELIMITER)
            steps.extend(("write", stuffed) for stuffed in whole if stuffed)
        elif "read" in event:
            data, end, came = (came + event["read"]).rpartition(DELIMITER)
            last = len(steps)
            steps.append(("read", data + end))
        elif not event.keys() & {"timeout", "close"}:
            if came:
                steps[last] = ("read", steps[last][1] + came)
            sent = came = b""
            if "lost" in event:
                steps.append(("lost in a write" if "unsent" in event else "lost", event["lost"]))
            elif "absent" in event or "open" in event:
                steps.append(("absent", event["absent"]) if "absent" in event else ("open", None))
    return steps


def _boot_ids(frame: Frame) -> tuple[int, ...]:
    """Where in the payload boot ids stand."""
    places: tuple[int, ...] = ()
    if frame.kind == Kind.ADOPT:
        places = (0, 4)
    elif frame.kind & REPLY and frame.payload[:1] == bytes([Status.BAD_BOOT]):
        places = (1,)
    elif frame.kind in (Kind.HELLO | REPLY, Kind.ADOPT | REPLY) and frame.payload[:1] == bytes([Status.OK]):
        places = (5,) if frame.kind == Kind.HELLO | REPLY else (1,)
    return tuple(at for at in places if at + 4 <= len(frame.payload))


def _adopted(stuffed: bytes) -> int:
    """The boot id that an ADOPT gives; 0 for any other frame."""
    try:
        frame = frames.decode(stuffed)
    except ProtocolError:
        return 0
    return int.from_bytes(frame.payload[4:8], "little") if frame.kind == Kind.ADOPT else 0


def _told(stuffed: bytes) -> str:
    """A frame for a message."""
    try:
        frame = frames.decode(stuffed)
    except ProtocolError:
        return f"{len(stuffed)} bytes that are no frame ({stuffed[:16].hex(' ')})"
    kind = Kind(frame.kind).name if frame.kind in Kind._value2member_map_ else f"{frame.kind:#04x}"
    return f"{kind} number {frame.sequence}, {len(frame.payload)} bytes ({frame.payload[:16].hex(' ')})"


FAULTS = ("flip", "drop", "duplicate", "cut", "split", "join", "delay", "unplug", "reset", "stall")


class Faulty:
    """Opens a port that misbehaves, the same way for the same seed and operations.

    An operation is a write, or a read that brought something. One at a time may be struck, by a bit flipped, a byte
    lost or doubled, the rest lost from some byte on; handed over in two, together with the next, or later; by the cable
    pulled, for up to three attempts to open it again; by the board reset, or stalled.

    Args:
        connect: opens the port itself.
        seed: of the faults.
        rates: share of operations that are struck, by the names in `FAULTS`; 1 in all at most.
        limit: faults in all.
        reset: makes the board lose its memory; needed for faults of this name.
        stall: stops the board (True), or lets it go on (False) after a few reads, on which no other fault strikes.

    Attributes:
        counts: faults that happened, by name.
    """

    def __init__(
        self,
        connect: Connect,
        seed: int,
        rates: Mapping[str, float],
        limit: int,
        reset: Callable[[], None] | None = None,
        stall: Callable[[bool], None] | None = None,
    ) -> None:
        assert set(rates) <= set(FAULTS) and sum(rates.values()) <= 1, rates
        assert (reset or not rates.get("reset")) and (stall or not rates.get("stall")), "a fault without its means"
        self.counts: Counter[str] = Counter()
        self._connect, self._limit, self._reset, self._stall = connect, limit, reset, stall
        self._names = [name for name in FAULTS if name in rates]
        self._edges = np.cumsum([rates[name] for name in self._names])
        self._seed = draws.derive(np.uint32(seed), "faults")
        self._operation = self._refusals = self._stalled = 0
        self._port: Port | None = None

    def __call__(self) -> Port:
        """The open port.

        Raises:
            ConnectError: it cannot be opened, or is still unplugged.
        """
        if self._refusals:
            self._refusals -= 1
            raise ConnectError("unplugged on purpose")
        self._port = self._connect()
        self._rest = b""  # second part of what was split
        self._held = b""  # read, handed over later
        self._joining = False  # not before more comes
        self._unsent = b""  # written later
        return self

    def read(self, seconds: float) -> bytes:
        """What has come, or what is made of it.

        Raises:
            PortLost: the port has gone, by itself or on purpose.
        """
        port = self._open()
        if self._stalled:
            self._let_go(self._stalled - 1)
        if self._rest:
            data, self._rest = self._rest, b""
            return data
        data = port.read(seconds)
        if not data and (self._joining or not self._held):
            return b""
        data, self._held = self._held + data, b""
        name, at, how, data = self._strike(data)
        match name:
            case "split":
                data, self._rest = data[:at], data[at:]
            case "join" | "delay":
                data, self._held, self._joining = b"", data, name == "join"
            case _:
                self._act(name, how)
        return data

    def write(self, data: bytes) -> None:
        """Some of it, or later.

        Raises:
            PortLost: the port has gone, by itself or on purpose.
        """
        port = self._open()
        name, at, how, data = self._strike(self._unsent + data)
        self._unsent = b""
        match name:
            case "split":
                port.write(data[:at])
                port.write(data[at:])
            case "join" | "delay":
                self._unsent = data
            case _:
                port.write(data[:at] if name == "unplug" else data)
                self._act(name, how)

    def close(self) -> None:
        """Close the port, and let a stalled board go on; may be called twice."""
        self._let_go(0)
        if self._port is not None:
            self._port.close()
            self._port = None

    def _open(self) -> Port:
        if self._port is None:
            raise PortLost("the port is closed")
        return self._port

    def _strike(self, data: bytes) -> tuple[str, int, float, bytes]:
        """The fault of this operation, "" for none; at which byte; how, from 0 to 1; what it leaves of the bytes."""
        self._operation += 1
        chance, where, how = draws.uniform(self._seed, self._operation, 3).tolist()
        which, at = int(np.searchsorted(self._edges, chance, side="right")), int(where * len(data))
        name = self._names[which] if which < len(self._names) else ""
        if self._stalled or self.counts.total() >= self._limit or not data or (name == "split" and at == 0):
            name = ""
        match name:
            case "flip":
                data = data[:at] + bytes([data[at] ^ 1 << int(8 * how)]) + data[at + 1 :]
            case "drop":
                data = data[:at] + data[at + 1 :]
            case "duplicate":
                data = data[: at + 1] + data[at:]
            case "cut":
                data = data[:at]
        if name:
            self.counts[name] += 1
        return name, at, how, data

    def _act(self, name: str, how: float) -> None:
        """What happens to cable or board rather than to bytes.

        Raises:
            PortLost: it was the cable.
        """
        match name:
            case "unplug":
                self._refusals = int(4 * how)
                self.close()
                raise PortLost("unplugged on purpose")
            case "reset":
                assert self._reset is not None
                self._reset()
            case "stall":
                assert self._stall is not None
                self._stalled = 1 + int(8 * how)
                self._stall(True)

    def _let_go(self, reads: int) -> None:
        """Let a stalled board go on after so many more reads."""
        if self._stalled and not reads and self._stall is not None:
            self._stall(False)
        self._stalled = reads
