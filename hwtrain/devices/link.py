"""Requests carried out exactly once over a line that loses, garbles and ends; knows no kind of port.

The rules are those of firmware/PROTOCOL.md: the host names the board (boot id) and numbers its requests; a board
carries out the next number only and answers a repeat from memory. So whatever was not answered is sent again, without
harm. What cannot be mended here is a board that restarted: it has lost its network and parameters, and `Restarted` says
so to those who can load them again.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

from hwtrain.devices import frames, messages
from hwtrain.devices.frames import Decoder, Frame
from hwtrain.devices.messages import Identity, Kind, Request, Status
from hwtrain.errors import ConnectError, DeviceError, FirmwareError, ReplyTimeout

SLICE = 0.05  # longest wait for bytes at a time [s]
BACK_OFF = 1.0  # longest pause between attempts to open the port again [s]
SLOWEST = 40e-6  # one multiply-and-add on the slowest board, an ATmega328P [s]
LINE = 1e-4  # one byte on a line of 100 000 baud [s]


class Port(Protocol):
    """Bytes to a board and back; knows no frames."""

    def read(self, seconds: float) -> bytes:
        """What has come: as soon as there is any, or b"" after `seconds`."""

    def write(self, data: bytes) -> None:
        """All of it."""

    def close(self) -> None:
        """May be called twice."""


class PortLost(OSError):
    """The port has gone: it was unplugged, or its other end closed."""


Connect = Callable[[], Port]  # opens the port, also after each PortLost; raises ConnectError while it cannot


class Restarted(DeviceError):
    """The board has lost its memory; nothing of the requests in hand may be relied on."""


class Link:
    """A line to one board.

    Args:
        connect: opens the port.
        name: of the port, for messages.
        patience: how long a board may be silent, or away, before the run fails [s]; work is allowed for beside.
        timeout: first guess of the time after which a request is repeated [s]; replies then teach a better one.
        clock: seconds that only grow.
        sleep: waits for so many seconds.
        boots: boot ids, each new; None is random ones.
    """

    def __init__(
        self,
        connect: Connect,
        name: str,
        patience: float = 10.0,
        timeout: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        boots: Callable[[], int] | None = None,
    ) -> None:
        self.name = name
        self.traffic: Counter[str] = Counter()
        self.disturbances: Counter[str] = Counter()
        self._connect, self._patience, self._clock, self._sleep = connect, patience, clock, sleep
        self._boots = boots or (lambda: secrets.randbits(32) or 1)
        self._delay = _Delay(timeout)
        self._port: Port | None = None
        self._decoder = Decoder()
        self._arrived: deque[Frame] = deque()
        self._boot = self._sequence = self._token = 0
        self._window, self._ring = 1, 0
        self._torn = True  # not adopted, or an exchange given up: nobody knows which number the board waits for

    def open(self) -> Identity:
        """Open the port and ask who is there; a board that resets when its port opens is waited for.

        Raises:
            ConnectError: the port cannot be opened, or nothing there speaks our protocol.
            FirmwareError: a board with another version of the protocol.
        """
        if self._port is None:
            self._port = self._connect()
        try:
            identity = self.hello()
        except ReplyTimeout as error:
            raise ConnectError(self._stranger()) from error
        if identity.protocol != messages.VERSION:
            raise ConnectError(
                f"{self.name}: {identity.name!r} speaks protocol {identity.protocol}, this hwtrain speaks "
                f"{messages.VERSION}. Flash the firmware of this version."
            )
        return identity

    def hello(self) -> Identity:
        """Who is there? Changes nothing."""
        return Identity.unpack(self._unnumbered(messages.Hello()))

    def adopt(self) -> Identity:
        """Give the board a boot id never used before, and begin to count requests.

        Raises:
            DeviceError: another program does the same at the same time.
        """
        for _ in range(8):
            identity, boot = self.hello(), self._boots()
            try:
                self._unnumbered(messages.Adopt(identity.boot, boot))
            except FirmwareError as error:
                if error.code != Status.BAD_BOOT:
                    raise
                continue  # it restarted between the two
            self._boot, self._sequence, self._torn = boot, 0, False
            self._window, self._ring = identity.window, identity.ring
            return identity
        raise DeviceError(f"{self.name}: the board is taken over again and again; close the other program that uses it")

    def exchange(self, requests: Sequence[Request], work: Sequence[float]) -> list[bytes]:
        """Have all requests carried out, once, in order; what each reply says.

        Args:
            requests: as many as needed; no more are on the way than the board has room for.
            work: multiply-and-adds of each, which sets how long it may take.

        Raises:
            Restarted: the board has lost its memory, the exchange before was given up, or there was no `adopt` yet.
            FirmwareError: the board refused a request; those after it may have been carried out.
            DeviceError: another host has taken the board over.
            ReplyTimeout: silence for longer than patience allows.
            ConnectError: the port did not come back, or not for long.
        """
        if self._torn:
            raise Restarted(f"{self.name}: the board is not adopted yet, or the last exchange was given up")
        self._torn = True
        first = self._sequence

        @lru_cache(self._window + 1)
        def framed(number: int) -> tuple[Frame, bytes]:
            """A request and its bytes, made when they are due: however long an exchange is, it begins at once."""
            frame = messages.to_frame(requests[number], first + number, self._boot)
            return frame, frames.encode(frame)

        payloads: list[bytes] = []
        refusal: FirmwareError | None = None
        sent, repeats = 0, 0
        left: list[float] = [0.0] * len(requests)  # when each was sent
        answered = since = began = self._clock()  # the last answer; the last sign of life; the wait for this reply
        while len(payloads) < len(requests):
            at = len(payloads)
            wanted, wire = framed(at)
            limit = self._delay.of(wanted, len(wire), work[at])
            allowed = self._patience + work[at] * SLOWEST
            try:
                before, sent = sent, self._send_ahead(framed, len(requests), at, sent, again=repeats > 0)
                left[before:sent] = [self._clock()] * (sent - before)
                until = min(max(began, left[at]) + limit * 2**repeats, since + allowed)
                reply = self._receive(until - self._clock())
            except PortLost as error:
                if self._clock() - answered > allowed:
                    raise ConnectError(
                        f"{self.name} goes away again and again, without an answer between: {error}. Is the cable "
                        "sound, and the supply strong enough?"
                    ) from error
                self._reconnect(sum(work[at:sent]) * SLOWEST)
                sent = at
                since = began = self._clock()
                continue
            now = self._clock()
            verdict = _SILENCE
            if reply is not None:
                verdict = self._judge(reply, [framed(number)[0] for number in range(at, sent)])
            if verdict is _NOTHING and now >= until and not self._arrived:
                verdict = _SILENCE  # babble must not hide it; what has arrived goes first, so that transcripts replay
            if reply is not None and verdict is _ANSWER:
                self._sequence = (self._sequence + 1) & 0xFFFF
                self._delay.learn(wanted, len(wire), work[at], now - (since if repeats else left[at]), sure=not repeats)
                try:
                    payloads.append(messages.payload_of(reply, wanted))
                except FirmwareError as error:
                    refusal = refusal or error
                    payloads.append(b"")
                repeats, answered, since, began = 0, now, now, now
            elif now - since >= allowed:
                raise ReplyTimeout(self._silence(wanted, now - since))
            elif verdict is not _NOTHING:
                sent, began = at, now
                repeats = min(repeats + (verdict is _SILENCE), 6)
                self.disturbances["repeated"] += 1
        self._torn = False
        if refusal is not None:
            raise refusal
        return payloads

    def close(self) -> None:
        """Let go of the port; may be called twice."""
        if self._port is not None:
            self._port.close()
            self._port = None

    def _send_ahead(
        self, framed: Callable[[int], tuple[Frame, bytes]], count: int, at: int, sent: int, *, again: bool
    ) -> int:
        """Send what fits into the board's window and ring; the number of the next request to send."""
        if again and sent == at:
            self._write(frames.DELIMITER)  # ends what arrived of a frame that was cut
        flying = sum(len(framed(number)[1]) for number in range(at, sent))
        while sent < count and sent - at < self._window:
            _, wire = framed(sent)
            if sent > at and flying + len(wire) > self._ring:
                break
            self._write(wire)
            flying += len(wire)
            sent += 1
        return sent

    def _judge(self, reply: Frame, flying: Sequence[Frame]) -> str:
        """What a frame that came means for those on the way, the first of which is waited for."""
        wanted = flying[0]
        if reply.boot != self._boot:
            if reply.payload[:1] == bytes([Status.BAD_BOOT]) and any(
                (reply.kind, reply.sequence) == (frame.kind | messages.REPLY, frame.sequence) for frame in flying
            ):
                self._gone(reply.boot)
            self.disturbances["stale"] += 1
            return _NOTHING
        if reply.payload[:1] == bytes([Status.BAD_SEQUENCE]):
            if reply.sequence == flying[-1].sequence != wanted.sequence:
                return _LOST  # it came ahead of one that did not arrive; the last of those refused
        elif (reply.kind, reply.sequence) == (wanted.kind | messages.REPLY, wanted.sequence):
            return _ANSWER
        self.disturbances["stale"] += 1
        return _NOTHING

    def _gone(self, boot: int) -> None:
        if boot:
            raise DeviceError(
                f"{self.name}: another program has taken the board over (boot id {boot:#010x}). Close it, and resume."
            )
        raise Restarted(f"{self.name}: the board restarted")

    def _unnumbered(self, request: Request, busy: float = 0.0) -> bytes:
        """Have HELLO or ADOPT answered, over as many connections as it takes, by a board that may be busy so long."""
        since = self._clock()
        repeats = 0
        while True:
            self._token = (self._token + 1) & 0xFFFF
            frame = messages.to_frame(request, self._token)
            wire = frames.DELIMITER + frames.encode(frame)  # ends whatever the line has seen before
            began = self._clock()
            until = min(began + self._delay.of(frame, len(wire), 0.0) * 2**repeats, since + self._patience + busy)
            try:
                self._write(wire)
                while (reply := self._receive(until - self._clock())) is not None:
                    if (reply.kind, reply.sequence) == (frame.kind | messages.REPLY, frame.sequence):
                        self._delay.learn(frame, len(wire), 0.0, self._clock() - began)
                        return messages.payload_of(reply, frame)
                    self.disturbances["stale"] += 1
                    if self._clock() >= until and not self._arrived:
                        break
            except PortLost:
                self._open_again()
            if self._clock() - since >= self._patience + busy:
                raise ReplyTimeout(self._silence(frame, self._clock() - since))
            repeats = min(repeats + 1, 3)
            self.disturbances["repeated"] += 1

    def _reconnect(self, busy: float) -> None:
        """Open the port again, and see whether the board, which may be busy so long, is the one it was."""
        self._open_again()
        identity = Identity.unpack(self._unnumbered(messages.Hello(), busy))
        if identity.boot != self._boot:
            self._gone(identity.boot)

    def _open_again(self) -> None:
        self.close()
        self.disturbances["lost ports"] += 1
        since, pause = self._clock(), 0.01
        attempts = 0
        while True:
            self._sleep(pause)  # before the first attempt too: some ports open, and are lost at once
            pause = min(2 * pause, BACK_OFF)
            try:
                self._port = self._connect()
                self._decoder = Decoder()
                return
            except ConnectError as error:
                attempts += 1
                if self._clock() - since > self._patience:
                    raise ConnectError(
                        f"{self.name} went away and did not come back within {self._patience:g} s "
                        f"({attempts} attempts). The last: {error}"
                    ) from error

    def _write(self, data: bytes) -> None:
        if self._port is None:
            raise PortLost("the port is closed")
        self._port.write(data)
        self.traffic["bytes sent"] += len(data)
        self.traffic["frames sent"] += data != frames.DELIMITER

    def _receive(self, seconds: float) -> Frame | None:
        """The next frame; None after so long, or at once where one arrived damaged."""
        until = self._clock() + seconds
        while not self._arrived:
            if self._port is None:
                raise PortLost("the port is closed")
            left = until - self._clock()
            received = self._port.read(min(max(left, 0.0), SLICE))
            self.traffic["bytes received"] += len(received)
            damaged = self._decoder.damaged
            self._arrived.extend(self._decoder.feed(received))
            if self._decoder.damaged > damaged:
                self.disturbances["damaged"] += self._decoder.damaged - damaged
                if not self._arrived:
                    return None
            if left <= 0 and not self._arrived:
                return None
        return self._arrived.popleft()

    def _stranger(self) -> str:
        """Why nobody answers, as far as can be seen from outside."""
        received, damaged = self.traffic["bytes received"], self.disturbances["damaged"]
        if not received:
            return (
                f"{self.name} is silent. Is a board with hwtrain's firmware connected, powered, and at this baud rate? "
                "firmware/BOARDS.md says how to flash one."
            )
        return (
            f"{self.name} answers, but not in frames of hwtrain ({received} bytes, {damaged} damaged frames). "
            "Is the baud rate the board's, and the firmware hwtrain's? firmware/BOARDS.md tells how to flash."
        )

    def _silence(self, frame: Frame, seconds: float) -> str:
        return (
            f"{self.name}: no reply to {Kind(frame.kind).name} within {seconds:.1f} s, though it was repeated. "
            f"Is the board powered and connected? So far: {dict(self.disturbances)}"
        )


_ANSWER, _LOST, _NOTHING, _SILENCE = "answer", "lost", "nothing", "silence"


class _Delay:
    """When to repeat a request, learnt from how long its like has taken (Jacobson, SIGCOMM 1988, as TCP does).

    Args:
        guess: for the first of a kind [s].
    """

    SHORTEST = 0.02  # [s]

    def __init__(self, guess: float) -> None:
        self._guess = guess
        self._seen: dict[tuple[int, int, float], tuple[float, float]] = {}
        self._heard: dict[tuple[int, int, float], float] = {}  # for which reply to a repeat, nobody knows

    def of(self, frame: Frame, wire: int, work: float) -> float:
        """After how long to repeat [s]."""
        key = (frame.kind, wire // 64, work)
        known = self._seen.get(key)
        if known is None:
            return max(self._guess + 2 * wire * LINE + work * SLOWEST, 2 * self._heard.get(key, 0.0))
        mean, deviation = known
        return max(mean + 4 * deviation, self.SHORTEST)

    def learn(self, frame: Frame, wire: int, work: float, seconds: float, *, sure: bool = True) -> None:
        """A reply took so long; if that is not sure, for it was asked for twice, it replaces a guess only (Karn)."""
        key = (frame.kind, wire // 64, work)
        if not sure:
            self._heard[key] = seconds
            return
        mean, deviation = self._seen.get(key, (seconds, seconds / 2))
        error = seconds - mean
        self._seen[key] = (mean + error / 8, deviation + (abs(error) - deviation) / 4)
