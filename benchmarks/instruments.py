"""Instruments over VISA: settings and readings a second, and the share of the time spent waiting for an answer.

    python benchmarks/instruments.py [SECONDS]

Every figure is the median of five rounds, beside that of a raw socket or port in the same minute. HiSLIP is spoken by
the bridge of the tests before the controller's TCP port, in a process of its own: its time is in the figures, and an
instrument's is not. Raw questions there are those of pyvisa-py alone.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyvisa
import serial
import yaml
from pyvisa_py.protocols.hislip import Instrument as Hislip

from hwtrain.config import conf_dir
from hwtrain.devices.crossbar import Controller, resource_of
from hwtrain.devices.instruments import Talk
from hwtrain.emulators import Emulator

ROUNDS = 5


def rate(work, seconds):
    """Calls a second, median of rounds."""
    rates = []
    for _ in range(ROUNDS):
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds / ROUNDS:
            work()
            count += 1
        rates.append(count / (time.perf_counter() - began))
    return statistics.median(rates)


class Timed:
    """Wraps a wire and adds up the time in its readings."""

    def __init__(self, wire):
        self._wire, self.waited = wire, 0.0

    def __getattr__(self, name):
        found = getattr(self._wire, name)
        if name not in ("line", "exactly"):
            return found

        def timed(*arguments):
            began = time.perf_counter()
            try:
                return found(*arguments)
            finally:
                self.waited += time.perf_counter() - began

        return timed


@contextlib.contextmanager
def hislip(url):
    """The VISA resource of a HiSLIP server before a TCP port."""
    host, _, port = url.removeprefix("socket://").partition(":")
    line = [sys.executable, "-m", "tests.devices.hislip_server", host, port]
    with subprocess.Popen(
        line, cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        yield server.stdout.readline().strip()
        server.stdin.close()


def measure(board, arguments, seconds, bridged):
    """One line of the table."""
    table = yaml.safe_load((conf_dir() / "device" / "instrument" / "crossbar.yaml").read_text())
    table.pop("_target_")
    facts = Controller(**table)
    emulator = Emulator(board, "system", arguments, program="crossbar")
    try:
        with contextlib.ExitStack() as stack:
            if bridged:
                resource = stack.enter_context(hislip(emulator.url))
                raw = raw_hislip(resource, seconds)
            else:
                resource, raw = resource_of(emulator.url), raw_rate(emulator.url, seconds)
            return raw, *talked(facts, resource, seconds)
    finally:
        emulator.stop()


def talked(facts, resource, seconds):
    """Settings, readings and products a second, and the share of the time spent waiting."""
    talk = Talk(facts, facts.address(resource, "@py"), 2.0, 10.0)
    talk.open()
    talk.tell([":MOD:TIL 50,4", ":XBAR:WATC 0", ":OUTP ON"])
    wire = talk._wire = Timed(talk._wire)
    began = time.perf_counter()
    sets = rate(lambda: talk.ask([":XBAR:LIM:VOLT 1.500000"], 0), seconds)
    reads = rate(lambda: talk.ask([":XBAR:READ? 0,1,1"], 1), seconds)
    volts = np.full((16, 50), 0.1, ">f4").tobytes().decode("latin-1")
    unit = f":XBAR:MULT? 0,#4{len(volts)}{volts}"
    products = 16 * rate(lambda: talk.ask([unit], 1, block=True), seconds)
    share = wire.waited / (time.perf_counter() - began)
    talk.close()
    return sets, reads, products, share


def raw_hislip(resource, seconds):
    """Questions a second by pyvisa-py's HiSLIP alone."""
    place = pyvisa.rname.parse_resource_name(resource)
    link = Hislip(place.host_address, port=int(place.lan_device_name.split(",")[1]))

    def ask():
        link.send(b":XBAR:LIM:VOLT?\n")
        link.receive(64)

    ask()
    found = rate(ask, seconds)
    link.close()
    return found


def raw_rate(url, seconds):
    """Questions a second over the bare line."""
    if url.startswith("socket://"):
        host, _, port = url.removeprefix("socket://").partition(":")
        link = socket.create_connection((host, int(port)))
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.settimeout(1.0)
        while True:  # QEMU listens before the firmware does
            try:
                link.sendall(b"\n*OPC?\n")
                link.recv(16)
                break
            except TimeoutError:
                continue
        link.settimeout(10.0)
        answers = link.makefile("rb")

        def ask():
            link.sendall(b":XBAR:LIM:VOLT?\n")
            answers.readline()

        ask()
        found = rate(ask, seconds)
        answers.close()
        link.close()
        return found
    with serial.Serial(url, timeout=5) as port:

        def ask_port():
            port.write(b":XBAR:LIM:VOLT?\n")
            port.readline()

        ask_port()
        return rate(ask_port, seconds)


def main():
    """Print the table."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    columns = ("line", "raw questions/s", "settings/s", "readings/s", "products/s (50 x 4, by 16)", "waiting")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for name, board, arguments, bridged in (
        ("TCP socket, host", "host", (), False),
        ("HiSLIP by a bridge of ours, host", "host", (), True),
        ("pseudo-terminal, host", "host", ("--pty",), False),
        ("TCP socket, STM32F405 in QEMU", "stm32f405", (), False),
    ):
        raw, sets, reads, products, share = measure(board, arguments, seconds, bridged)
        print(f"| {name} | {raw:,.0f} | {sets:,.0f} | {reads:,.0f} | {products:,.0f} | {share:.0%} |", flush=True)


if __name__ == "__main__":
    main()
