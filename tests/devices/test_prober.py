"""ArC ONE's protocol of lines, against a stand-in on TCP and on a serial line."""

import os
import pty
import select
import socket
import struct
import threading
import time
import tty
from pathlib import Path

import numpy as np
import pytest
import yaml

from hwtrain.config import conf_dir
from hwtrain.core import Can, Measure, Probes, Program, Pulse, Read, Sample
from hwtrain.costs import MeanSquaredError
from hwtrain.devices.prober import CellArray, Prober, cell_array
from hwtrain.devices.programming import Programmed
from hwtrain.errors import ConfigError, ConnectError, LimitError, ReplyTimeout
from hwtrain.perturb import Rademacher
from hwtrain.sim.networks import mlp

NETWORK = mlp([2, 2, 1])
GOLDEN = Path(__file__).parents[1] / "golden" / "visa" / "arc_one.txt"
FIELDS = {"00": 0, "0": 7, "01": 2, "02": 2, "1": 2, "3": 4, "04": 2}


def facts(**more):
    table = yaml.safe_load((conf_dir() / "device" / "prober" / "arc_one.yaml").read_text())
    assert table.pop("_target_") == "hwtrain.devices.prober.Prober"
    return Prober(**table | {"reset_seconds": 0.0, "pause": 0.0} | more)


class StandIn:
    """An ArC ONE whose cells move by a fixed step of conductance; may swallow answers."""

    def __init__(self, serial=False):
        self.siemens, self.said, self.swallow, self.greeting, self.pulses = {}, [], 0, b"1\n", 0
        self.resets = 0
        if serial:
            self.near, far = pty.openpty()
            tty.setraw(far)
            self._far, self.resource = far, f"ASRL{os.ttyname(far)}::INSTR"
            target = self._serve_pty
        else:
            self.server = socket.create_server(("127.0.0.1", 0))
            self.resource = f"TCPIP::127.0.0.1::{self.server.getsockname()[1]}::SOCKET"
            target = self._serve_tcp
        self.end = False
        self.thread = threading.Thread(target=target, daemon=True)
        self.thread.start()

    def _serve_tcp(self):
        link, _ = self.server.accept()
        self.link = link
        with link:
            self._serve(lambda: link.recv(4096), link.sendall)

    def _serve_pty(self):
        def receive():
            while not self.end:
                if select.select([self.near], [], [], 0.05)[0]:
                    return os.read(self.near, 4096)
            return b""

        self._serve(receive, lambda data: os.write(self.near, data))

    def _serve(self, receive, send):
        buffer, fields = b"", []
        while data := receive():
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                fields.append(line.decode())
                if len(fields) == 1 + FIELDS[fields[0]]:
                    self.said.append(" ".join(fields))
                    answer = self._answer(*fields)
                    fields = []
                    if answer and self.swallow:
                        self.swallow -= 1
                    elif answer:
                        send(answer)

    def _answer(self, code, *fields):
        if code == "00":
            self.resets += 1
        if code == "0":
            return self.greeting
        if code in ("1", "3"):
            cell = (int(fields[0]), int(fields[1]))
            at = self.siemens.get(cell, 60e-6)
            if code == "3":
                self.pulses += 1
                at += 20e-6 * 0.002 * np.sign(float(fields[2]))
                self.siemens[cell] = at
            return struct.pack("<f", 1 / at)
        return None

    def close(self):
        self.end = True
        if hasattr(self, "server"):
            self.server.close()
        self.thread.join(5)
        if hasattr(self, "near"):
            os.close(self.near)
            os.close(self._far)


@pytest.fixture
def stand_in():
    made = []

    def make(**settings):
        made.append(StandIn(**settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def array(there, **settings):
    settings = {"network": NETWORK, "cost": MeanSquaredError(), "timeout": 0.1, "patience": 1.0} | settings
    table = settings.pop("table", facts())
    return CellArray(there.resource, table, **settings)


def sample():
    return Sample(np.array([[[0.0, 1.0], [1.0, 0.5]]]), np.ones((1, 2, 1)))


@pytest.mark.parametrize("serial", [False, True], ids=["tcp", "serial"])
def test_pulses_and_readings(stand_in, serial):
    there = stand_in(serial=serial)
    device = array(there, table=facts(parity="none" if serial else "even"))  # a pseudo-terminal has no parity
    counts = np.arange(-4, 5)
    (read,) = device.execute([Pulse(counts), Read()])
    assert np.allclose(read.theta, 0.002 * counts, atol=1e-5)
    assert there.pulses == np.abs(counts).sum() == device.counts()["traffic"]["pulses"]
    plain, probed = device.execute(
        [
            Measure(sample(), observe=Can.OUTPUT),
            Measure(sample(), Probes(Rademacher(amplitude=0.1), np.uint32(1), 0, 3)),
        ]
    )
    assert plain.output.shape == (1, 1, 2, 1) and probed.cost.shape == (3,)
    device.rest()
    assert there.resets == 2
    device.close()


def test_conversation_is_the_golden_one(stand_in):
    there = stand_in()
    device = array(there, network=mlp([1, 1]))
    device.execute([Pulse(np.array([2, -1])), Read()])
    device.close()
    time.sleep(0.1)
    assert "\n".join(there.said) + "\n" == GOLDEN.read_text()


def test_values_by_schemes(stand_in):
    device = cell_array(stand_in().resource, facts(), NETWORK, MeanSquaredError(), "write_verify", timeout=0.2)
    theta = np.linspace(-0.1, 0.1, NETWORK.size)
    (read,) = device.execute([Program(theta), Read()])
    assert isinstance(device, Programmed) and np.abs(read.theta - theta).max() <= 0.0021
    device.close()


def test_a_reading_is_asked_for_again_and_a_pulse_never(stand_in):
    there = stand_in()
    device = array(there)
    there.swallow = 2
    (read,) = device.execute([Read()])
    assert np.allclose(read.theta, 0, atol=1e-5) and device.counts()["disturbances"]["repeated readings"] == 2
    there.swallow = 1
    with pytest.raises(ReplyTimeout, match="may or may not have been given"):
        device.execute([Pulse(np.ones(NETWORK.size, int))])
    assert there.pulses == 1
    device.close()


def test_limits_of_ours(stand_in):
    there = stand_in()
    with pytest.raises(ConfigError, match="-12 to 12 V"):
        array(there, limit_volts=13.0)
    with pytest.raises(LimitError, match=r"its limits are -1\.5 to 1\.5 V"):
        array(there, volts=2.0)
    with pytest.raises(ConfigError, match=r"device\.width"):
        array(there, width=1e-7)
    with pytest.raises(ConfigError, match="32 x 32 cells"):
        array(there, network=mlp([40, 30]))
    device = array(there, most_pulses=3)
    with pytest.raises(LimitError, match="would get its pulse number 4"):
        device.execute([Pulse(np.full(NETWORK.size, 2)), Pulse(np.full(NETWORK.size, 2))])
    assert there.pulses == 0
    device.close()


def test_something_else_is_said_to_be_something_else(stand_in):
    there = stand_in()
    there.greeting = b"hello\n"
    with pytest.raises(ConnectError, match="answers 'hello'; ArC ONE would answer '1'"):
        array(there)


def test_one_that_goes_away_is_said_to_have_gone(stand_in):
    there = stand_in()
    device = array(there)
    there.link.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ConnectError, match="has gone"):
        device.execute([Read()])
    with pytest.raises(ConnectError, match="drives nothing between pulses"):
        device.rest()
    device.close()
