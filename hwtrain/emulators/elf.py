"""What of an ELF file is loaded into memory."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_LOAD = 1  # PT_LOAD
_WRITABLE = 2  # PF_W


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes for one place in memory; `size` [bytes] may be more than they are, the rest being zero."""

    address: int  # where they are stored, which for initial values of variables is the flash
    data: bytes
    size: int
    writable: bool


def segments(image: bytes) -> list[Segment]:
    """The loaded segments of a little-endian ELF image of 32 or 64 bits."""
    wide = image[4] == 2
    (table,) = struct.unpack_from("<Q" if wide else "<I", image, 32 if wide else 28)
    entry, count = struct.unpack_from("<HH", image, 54 if wide else 42)
    found = []
    for at in range(table, table + count * entry, entry):
        if wide:
            kind, flags, offset, _, address, stored, size = struct.unpack_from("<2I5Q", image, at)
        else:
            kind, offset, _, address, stored, size, flags = struct.unpack_from("<7I", image, at)
        if kind == _LOAD:
            found.append(Segment(address, image[offset : offset + stored], size, bool(flags & _WRITABLE)))
    return found
