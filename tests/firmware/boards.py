"""Builds firmware, starts it on the host or in an emulator, and talks to it over pyserial."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import serial

from hwtrain import emulators
from hwtrain.devices import messages
from hwtrain.devices.frames import Decoder, encode
from hwtrain.emulators import Emulator, images
from hwtrain.errors import ConfigError

ROOT = images.firmware_dir()
PATIENCE = 60.0  # seconds; generous, since nothing here measures time
BOARDS = (*emulators.BOARDS, "stm32f405-pip")  # a board, and after the hyphen the route to it


def need(command: str, package: str) -> None:
    if shutil.which(command) is None:
        pytest.skip(f"{command} is missing: apt-get install --no-install-recommends {package}")


@cache
def build(board: str, out: Path) -> dict[str, int]:
    """Build a board, or a benchmark, into `out`; flash and RAM in bytes, and the largest stack frame."""
    if board in emulators.BOARDS:
        route_to(board)
    else:
        need("make", "make")
        need("arm-none-eabi-gcc", "gcc-arm-none-eabi")
    return images.build(board, "system", ROOT, out)


def route_to(board: str) -> tuple[str, str]:
    """A board's own name, and the route to take; skips where nothing is installed for it."""
    name, _, route = board.partition("-")
    try:
        return name, images.choose(name, route or ("auto" if name == "host" else "system"))
    except ConfigError as error:
        pytest.skip(str(error))


@contextmanager
def running(board: str, out: Path, *arguments: str, said: list | None = None):
    """A started board, as the URL to open; its output goes to `said`, once it has stopped."""
    emulator = Emulator(*route_to(board), arguments, cache=out)
    try:
        yield emulator.url
    finally:
        emulator.stop()
        if said is not None:
            said += emulator.output


class Link:
    """Frames over a port: one request at a time, repeated until it is answered."""

    def __init__(self, url: str):
        self.url, self.sequence, self.boot = url, 0, 0
        self.decoder = Decoder()
        self.open()

    def open(self):
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self.port = serial.serial_for_url(self.url, baudrate=115200, timeout=0.5, write_timeout=PATIENCE)
                return
            except serial.SerialException:
                assert time.monotonic() < until, f"{self.url} cannot be opened"
                os.sched_yield()

    def close(self):
        self.port.close()

    def send(self, frame):
        self.port.write(b"\0" + encode(frame))

    def receive(self):
        """Bytes up to the next delimiter, or what came in half a second."""
        return self.port.read_until(b"\0")

    def exchange(self, frame, patience=PATIENCE):
        """Send until answered; the reply."""
        until = time.monotonic() + patience
        self.send(frame)
        quiet = 0
        while time.monotonic() < until:
            received = self.receive()
            for reply in self.decoder.feed(received):
                if reply.kind == frame.kind | messages.REPLY and reply.sequence == frame.sequence:
                    return reply
            quiet = 0 if received else quiet + 1
            if quiet == 4:
                self.send(frame)
                quiet = 0
        raise AssertionError(f"no reply to {frame} within {patience} s")

    def hello(self):
        frame = messages.to_frame(messages.Hello())
        return messages.Identity.unpack(messages.payload_of(self.exchange(frame), frame))

    def adopt(self, boot=0x12345678):
        frame = messages.to_frame(messages.Adopt(self.hello().boot, boot))
        messages.payload_of(self.exchange(frame), frame)
        self.boot, self.sequence = boot, 0

    def frame(self, request):
        """The next numbered request."""
        frame = messages.to_frame(request, self.sequence, self.boot)
        self.sequence = (self.sequence + 1) & 0xFFFF
        return frame

    def do(self, request):
        frame = self.frame(request)
        return messages.payload_of(self.exchange(frame), frame)
