"""Which boards are there, and are they well? `python -m hwtrain.doctor [PORT ...]`

Asks every serial port of this machine, or those named, who is there; measures the way there and back; says what is
wrong and what to do. Nothing but HELLO is ever sent, so no parameter is touched and a run in progress is not disturbed.

Exit codes: 0 at least one board is well, 2 none is.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Sequence

from hwtrain.devices import messages
from hwtrain.devices.link import Link
from hwtrain.devices.messages import Identity
from hwtrain.devices.serial import Found, Opener, find
from hwtrain.errors import HwtrainError

PATIENCE = 3.0  # how long a port may take to answer; a board that resets when it is opened needs two [s]
ROUNDS = 50  # round trips measured
LAZY = 2  # ms; an FTDI adapter that holds bytes back for longer slows every step


def main(arguments: Sequence[str] | None = None) -> int:
    """Look at every port."""
    parser = argparse.ArgumentParser(prog="python -m hwtrain.doctor", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "port", nargs="*", help="device or pyserial URL; without one, every serial port of this machine"
    )
    parser.add_argument("--baudrate", type=int, default=115200, help="bits per second, default 115200")
    given = parser.parse_args(arguments)
    ports = [Found(port, "", None) for port in given.port]
    known = {found.device: found for found in find()}
    ports = [known.get(port.device, port) for port in ports] or list(known.values())
    if not ports:
        print("No serial port is there. Is the board plugged in? Name one that is not listed: socket://host:port")
        return 2
    well = [_look(port, given.baudrate) for port in ports]
    return 0 if any(well) else 2


def _look(port: Found, baudrate: int) -> bool:
    """Tell what is at one port; whether it is a board of ours, and well."""
    print(f"{port.device}  {port.description}".rstrip())
    if port.latency is not None and port.latency > LAZY:
        _tell(
            "warning",
            f"its adapter holds bytes back for {port.latency} ms, which limits a run to {1000 // port.latency} "
            f"exchanges a second. Mend it: setserial {port.device} low_latency",
        )
    link = Link(Opener(port.device, baudrate), port.device, patience=PATIENCE, timeout=0.3)
    try:
        identity = link.open()
        for name, text in _account(identity):
            _tell(name, text)
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            link.hello()
            times.append(1000 * (time.perf_counter() - began))
        traffic = link.traffic["bytes sent"] + link.traffic["bytes received"]
        _tell(
            "round trip",
            f"{statistics.median(times):.2f} ms (99th percentile {sorted(times)[int(0.99 * ROUNDS)]:.2f} ms), "
            f"{1000 * traffic / sum(times):,.0f} bytes/s".replace(",", " "),
        )
        if link.disturbances:
            _tell("warning", f"the line is not clean: {dict(link.disturbances)}")
    except HwtrainError as error:
        _tell("no board", str(error).removeprefix(f"{port.device}: ").removeprefix(f"{port.device} "))
        return False
    finally:
        link.close()
    _tell("train it", f"python -m hwtrain algo=mgd device=serial device.port={port.device}")
    return True


def _account(identity: Identity) -> Iterator[tuple[str, str]]:
    """What a board says of itself, for reading."""
    firmware = ".".join(map(str, identity.firmware))
    yield (
        "board",
        f"{identity.name}, firmware {firmware}, protocol {identity.protocol} (this hwtrain: {messages.VERSION})",
    )
    if identity.boot == 0:
        yield "state", "fresh: no host has taken it since it started"
    else:
        yield "state", f"taken by a host (boot id {identity.boot:#010x}); a new run takes it over and ends the other"
    if network := identity.network:
        sizes = "-".join(map(str, [network.inputs, *(layer.outputs for layer in network.layers)]))
        yield "network", f"{sizes}, {network.size} parameters from {network.low:g} to {network.high:g}"
    else:
        yield "network", "none loaded"
    yield (
        "room",
        (
            f"{identity.parameters} parameters in {identity.layers} layers, {identity.sample_values} floats of "
            f"samples, {identity.work} of intermediate results"
        ),
    )
    yield (
        "buffers",
        (
            f"requests of {identity.receive} bytes, replies of {identity.reply}, {identity.window} ahead, "
            f"{identity.ring} bytes held while it computes"
        ),
    )
    yield "offers", ", ".join(str(can.name).lower() for can in identity.can)
    yield "watchdog", f"rests after {identity.watchdog} ms of silence" if identity.watchdog else "off"


def _tell(name: str, text: str) -> None:
    print(f"  {name:<11}{text}")


if __name__ == "__main__":
    sys.exit(main())
