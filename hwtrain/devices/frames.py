"""Bytes to frames and back; knows no port and no meaning.

A frame is a header, a payload and the CRC-32 of both, stuffed by COBS (Cheshire and Baker, 1999) so that no byte of it
is zero, with a zero at its end. Whatever happens on the line, the next zero begins anew. firmware/PROTOCOL.md defines
it.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from hwtrain.errors import ProtocolError

DELIMITER = b"\0"
HEADER = struct.Struct("<BBHI")  # version, kind, sequence, boot
CRC = struct.Struct("<I")
SMALLEST = HEADER.size + CRC.size


@dataclass(frozen=True, slots=True)
class Frame:
    """One message, in either direction.

    Args:
        version: of the protocol.
        kind: which message.
        sequence: number of the request, repeated in its reply.
        boot: the boot id, given to the board by its host.
        payload: what the message says.
    """

    version: int
    kind: int
    sequence: int
    boot: int
    payload: bytes = b""


def encode(frame: Frame) -> bytes:
    """The bytes on the wire, the delimiter at the end."""
    body = HEADER.pack(frame.version, frame.kind, frame.sequence, frame.boot) + frame.payload
    return stuff(body + CRC.pack(zlib.crc32(body))) + DELIMITER


def decode(stuffed: bytes) -> Frame:
    """One frame from what stood between two delimiters.

    Raises:
        ProtocolError: the frame is damaged: stuffing, length or CRC.
    """
    raw = unstuff(stuffed)
    if len(raw) < SMALLEST:
        raise ProtocolError(f"a frame has at least {SMALLEST} bytes, this one {len(raw)}: {raw.hex(' ')}")
    body = raw[: -CRC.size]
    if CRC.unpack(raw[-CRC.size :])[0] != zlib.crc32(body):
        raise ProtocolError(f"the CRC of a frame of {len(raw)} bytes is wrong: {raw[:32].hex(' ')}")
    version, kind, sequence, boot = HEADER.unpack(body[: HEADER.size])
    return Frame(version, kind, sequence, boot, body[HEADER.size :])


def stuff(raw: bytes) -> bytes:
    """COBS: the same information without a zero byte, at most one byte in 254 longer, and one."""
    out = bytearray()
    blocks = raw.split(b"\0")
    for number, block in enumerate(blocks, 1):
        while len(block) >= 254:
            out.append(255)
            out += block[:254]
            block = block[254:]
            if not block and number == len(blocks):
                return bytes(out)
        out.append(len(block) + 1)
        out += block
    return bytes(out)


def unstuff(stuffed: bytes) -> bytes:
    """The inverse of `stuff`.

    Raises:
        ProtocolError: a zero inside, or a block that ends too early.
    """
    out = bytearray()
    at = 0
    while at < len(stuffed):
        length = stuffed[at]
        block = stuffed[at + 1 : at + length]
        if length == 0 or len(block) != length - 1 or 0 in block:
            raise ProtocolError(f"a frame is cut short or runs into the next at byte {at}: {stuffed[:32].hex(' ')}")
        out += block
        at += length
        if length < 255 and at < len(stuffed):
            out.append(0)
    return bytes(out)


class Decoder:
    """Finds frames in a stream of bytes, however it was cut into pieces.

    Args:
        longest: a stretch without a delimiter longer than this is dropped, so that noise cannot fill the memory.
    """

    def __init__(self, longest: int = 1 << 17) -> None:
        self.damaged = 0  # frames dropped so far
        self._longest = longest
        self._rest = bytearray()
        self._skipping = False

    def feed(self, received: bytes) -> list[Frame]:
        """The frames that `received` completes; damaged ones are dropped and counted."""
        frames = []
        *whole, rest = received.split(DELIMITER)
        for piece in whole:
            self._rest += piece
            if self._skipping:
                self._skipping = False
            elif self._rest:
                try:
                    frames.append(decode(bytes(self._rest)))
                except ProtocolError:
                    self.damaged += 1
            self._rest.clear()
        if not self._skipping:
            self._rest += rest
            if len(self._rest) > self._longest:
                self._rest.clear()
                self._skipping = True
                self.damaged += 1
        return frames
