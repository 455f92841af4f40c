"""Builds firmware, starts it on the host or in an emulator, and talks to it over pyserial."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import serial

from hwtrain.devices import messages
from hwtrain.devices.frames import Decoder, encode

ROOT = Path(__file__).resolve().parents[2] / "firmware"
PATIENCE = 60.0  # seconds; generous, since nothing here measures time
BOARDS = ("host", "stm32f405", "mps2_an385", "sifive_e", "atmega328p", "atmega2560")
_TOOLS = {
    "host": (("cc", "gcc"),),
    "stm32f405": (("arm-none-eabi-gcc", "gcc-arm-none-eabi"), ("qemu-system-arm", "qemu-system-arm")),
    "bench": (("arm-none-eabi-gcc", "gcc-arm-none-eabi"),),
    "bench_m3": (("arm-none-eabi-gcc", "gcc-arm-none-eabi"),),
    "mps2_an385": (("arm-none-eabi-gcc", "gcc-arm-none-eabi"), ("qemu-system-arm", "qemu-system-arm")),
    "sifive_e": (
        ("riscv64-unknown-elf-gcc", "gcc-riscv64-unknown-elf"),
        ("qemu-system-riscv32", "qemu-system-misc"),
    ),
    "atmega328p": (("avr-gcc", "gcc-avr avr-libc"),),
    "atmega2560": (("avr-gcc", "gcc-avr avr-libc"),),
}


def need(command: str, package: str) -> None:
    if shutil.which(command) is None:
        pytest.skip(f"{command} is missing: apt-get install --no-install-recommends {package}")


@cache
def build(board: str, out: Path) -> dict[str, int]:
    """Build a board into `out`; flash and RAM in bytes, and the largest stack frame."""
    need("make", "make")
    need(*_TOOLS[board][0])
    done = subprocess.run(
        ["make", "-s", "-C", str(ROOT), f"BOARD={board}", f"OUT={out}"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    sizes = re.search(r"flash +(\d+) +ram +(\d+)", done.stdout)
    assert sizes, done.stdout + done.stderr
    frames = re.findall(r"stack frame +(\d+)", done.stdout)
    return {"flash": int(sizes[1]), "ram": int(sizes[2]), "frame": int(frames[0])}


@cache
def simavr(out: Path) -> Path:
    """The simavr runner."""
    if not Path("/usr/include/simavr/sim_avr.h").exists():
        pytest.skip("simavr is missing: apt-get install --no-install-recommends libsimavr-dev")
    runner = out / "simrun"
    source = ROOT / "ports" / "avr" / "simrun.c"
    done = subprocess.run(
        ["cc", "-O2", "-o", runner, source, "-I/usr/include/simavr", "-lsimavr"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return runner


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command(board: str, out: Path, arguments: tuple[str, ...] = ()) -> tuple[list[str], str | None]:
    """How to start a board, and its URL where it is known beforehand."""
    for tool in _TOOLS[board]:
        need(*tool)
    build(board, out / board)
    elf = str(out / board / f"{board}.elf")
    if board == "host":
        return [elf, *arguments], None
    if board.startswith("atmega"):
        return [str(simavr(out)), board, elf, *arguments], None
    port = free_port()
    wire = ["-serial", f"tcp:127.0.0.1:{port},server=on,wait=off,nodelay=on"]
    machine = {
        "stm32f405": ["qemu-system-arm", "-M", "netduinoplus2", "-serial", "null", *wire],
        "mps2_an385": ["qemu-system-arm", "-M", "mps2-an385", *wire],
        "sifive_e": ["qemu-system-riscv32", "-M", "sifive_e", *wire],
    }[board]
    return [*machine, "-display", "none", "-monitor", "none", "-kernel", elf, *arguments], f"socket://127.0.0.1:{port}"


@contextmanager
def running(board: str, out: Path, *arguments: str, said: list | None = None):
    """A started board, as the URL to open; its output goes to `said`, once it has stopped."""
    line, url = command(board, out, arguments)
    process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd=out)
    try:
        while url is None:
            if found := re.match(r"ready (\S+)", process.stdout.readline()):
                url = found[1]
            assert process.poll() is None, f"{line} ended with {process.returncode}"
        yield url
    finally:
        process.kill()
        process.wait()
        if said is not None:
            said += process.stdout.read().splitlines()
        process.stdout.close()


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
