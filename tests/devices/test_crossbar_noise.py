"""The crossbar controller on a serial line that loses, garbles and invents bytes: the same bits as without."""

import contextlib
import os
import pty
import random
import select
import threading
import tty
import zlib

import numpy as np
import pytest
import pyvisa

from hwtrain.core import Measure, Program, Pulse, Read
from hwtrain.costs import CrossEntropy
from hwtrain.devices.crossbar import crossbar, resource_of
from hwtrain.devices.visa import Wire
from hwtrain.emulators import Emulator
from hwtrain.errors import ConfigError, DeviceError, HwtrainError
from hwtrain.sim.networks import mlp
from tests.devices.test_crossbar import SOFT, client, facts, sample
from tests.devices.test_crossbar_training import begin, lesson, samples, ticks
from tests.emulators.conftest import needs

NETWORK = mlp([5, 6, 4, 3], activation="relu", output="linear")


class Relay:
    """Between a host and the pseudo-terminal of a controller; strikes one byte in `every`, on average.

    Args:
        path: of the controller's pseudo-terminal.
        seed: of what happens to which byte.
        every: bytes.
    """

    def __init__(self, path, seed, every):
        self.every, self.struck = every, {"lost": 0, "garbled": 0, "invented": 0}
        self.ours, self.theirs = pty.openpty()
        tty.setraw(self.theirs)
        self.far = os.open(path, os.O_RDWR | os.O_NOCTTY)
        self.resource = resource_of(os.ttyname(self.theirs))
        self.stopped = False
        self.threads = [
            threading.Thread(target=self._carry, args=ends, daemon=True)
            for ends in ((self.ours, self.far, random.Random(seed)), (self.far, self.ours, random.Random(seed + 1)))
        ]
        for thread in self.threads:
            thread.start()

    def _carry(self, source, sink, draws):
        while not self.stopped:
            if not select.select([source], [], [], 0.05)[0]:
                continue
            data = os.read(source, 4096)
            data = b"".join(self._struck(bytes([byte]), draws) for byte in data)
            while data:
                data = data[os.write(sink, data) :]

    def _struck(self, byte, draws):
        if draws.random() * self.every >= 1:
            return byte
        kind = draws.choice(list(self.struck))
        self.struck[kind] += 1
        if kind == "garbled":
            return bytes([byte[0] ^ 1 << draws.randrange(8)])
        return b"" if kind == "lost" else byte + bytes([draws.randrange(256)])

    def turn_to(self, path):
        """Another controller, which is the old one restarted: the line stays."""
        other = os.open(path, os.O_RDWR | os.O_NOCTTY)
        os.dup2(other, self.far)
        os.close(other)

    def close(self):
        self.stopped = True
        for thread in self.threads:
            thread.join()
        for end in (self.ours, self.theirs, self.far):
            os.close(end)


@pytest.fixture(params=["host", "stm32f405"])
def inst(request):
    """The controller as any SCPI client sees it, awake for as long as it takes, without noted errors."""
    with client(request.param) as opened:
        opened.write("*CLS;:XBAR:WATC 0;:OUTP ON")
        yield opened


def checked(message):
    """With its checksum behind it."""
    return message + f";:SYST:CRC? #H{zlib.crc32(message.encode()):08X}"


def asked(inst, question):
    """The answer of a controller that may take a moment until it hears."""
    inst.timeout = 1000
    for _ in range(60):
        with contextlib.suppress(pyvisa.errors.VisaIOError):
            return inst.query(question)
    pytest.fail("it stays deaf")


PULSE = ":XBAR:PULS 0,1,2,1.5,1e-6;*OPC?"


class TestChecksum:
    """SCPI.md, "Messages"."""

    def test_the_example_of_the_manual(self, inst):
        assert checked(f":XBAR:ONCE 7;{PULSE}").endswith("#H178EAA9B")
        assert inst.query(checked(f":XBAR:ONCE 7;{PULSE}")) == "1;#H83DCEFB7"

    def test_answers_are_checked_to_the_last_byte(self, inst):
        for question in ("*IDN?", ":XBAR:LIM:VOLT?;:XBAR:SIZE?;*ESR?", "*CLS"):
            answer, _, check = inst.query(checked(question)).rpartition(";")
            assert check == f"#H{zlib.crc32(answer.encode()):08X}" and bool(answer) == ("?" in question)

    @pytest.mark.parametrize("place", [0, 12, 14, 27, 35, 40, 52])
    @pytest.mark.parametrize("kind", ["lost", "garbled", "invented"])
    def test_a_message_that_is_struck_does_nothing_and_says_nothing(self, inst, place, kind):
        """Not even where what remains is one without a checksum."""
        assert inst.query(checked("*OPC?")).startswith("1;")
        whole = checked(PULSE)
        behind = {"lost": "", "garbled": chr(ord(whole[place]) ^ 1), "invented": whole[place] + "1"}[kind]
        inst.write(whole[:place] + behind + whole[place + 1 :])
        assert inst.query(checked(":XBAR:COUN?;:SYST:ERR?")).startswith('0,0,0;0,"No error";')

    @pytest.mark.parametrize("reset", ["*RST", "*rst"])
    def test_a_message_without_is_dropped_from_then_on(self, inst, reset):
        assert inst.query(PULSE) == "1"
        assert inst.query(checked(PULSE)).startswith("1;")
        inst.write(PULSE)
        assert inst.query(checked(":XBAR:COUN?")).startswith("2,2,0;")
        inst.write(reset)
        assert inst.query("OUTP?;:XBAR:COUN?") == "0;2,2,0"
        assert inst.query(checked(":SYST:CRC OFF;*OPC?")).startswith("1;")
        assert inst.query("*OPC?") == "1"

    def test_a_host_that_has_gone_leaves_it_to_others(self, inst):
        """Though nothing was driven."""
        assert inst.query(checked(":OUTP OFF;:XBAR:WATC 0.3;*OPC?")).startswith("1;")
        assert asked(inst, "*OPC?") == "1"

    def test_a_block_that_is_cut_short_is_no_error(self, inst):
        inst.query(checked("*OPC?"))
        inst.write_raw(b":XBAR:MULT? 0,#3999123")
        assert asked(inst, checked(":SYST:ERR?")).startswith('0,"No error";')


def values(number):
    return [Program(begin(NETWORK.size, number)), Read(), Measure(sample(number))]


def pulses(number):
    counts = np.random.default_rng(number).integers(-30, 30, NETWORK.size)
    return [Pulse(counts), Read()]


def mono_forward(number):
    return [Program(begin(NETWORK.size, number)), lesson(30, sample=samples(90, seed=number)), Read()]


def gradient_descent(number):
    return [ticks(64, amplitude=2 * SOFT.step, rate=0.05, first=64 * number), Read()]


WORK = {
    "pulses": (None, pulses),
    "open_loop": ("open_loop", values),
    "controller": ("controller", values),
    "mono_forward": ("mixed_precision", mono_forward),
    "gradient_descent": ("mixed_precision", gradient_descent),
}


@pytest.mark.parametrize("work", WORK)
def test_a_byte_that_is_struck_makes_no_difference(work):
    """From the first word on, either way; 12 bytes at least, of every kind."""
    needs("host", "system")
    programming, commands = WORK[work]
    settings = {"instrument": facts(), "network": NETWORK, "cost": CrossEntropy(), "model": SOFT, "seed": 5}
    settings |= {"programming": programming, "perturb_by": "pulses", "watchdog": 300.0, "patience": 300.0}
    emulators = [Emulator("host", "system", ("--pty",), program="crossbar") for _ in range(2)]
    relay = Relay(emulators[1].url, 1, 1500)
    calm = crossbar(resource=resource_of(emulators[0].url), **settings)
    rough = crossbar(resource=relay.resource, timeout=0.2, **settings)
    number = 0
    while sum(relay.struck.values()) < 12 or not all(relay.struck.values()):
        one, other = (device.execute(commands(number)) for device in (calm, rough))
        assert one == other
        number += 1
    for device in (calm, rough):
        device.rest()
    worn = [np.array(inner(device)._worn()) for device in (calm, rough)]
    assert np.array_equal(*worn) and worn[0].any()
    assert calm.counts()["traffic"]["pulses"] == rough.counts()["traffic"]["pulses"]
    assert "repeated" in rough.counts()["disturbances"]
    for each in (calm, rough, relay):
        each.close()
    for emulator in emulators:
        emulator.stop()


def struck_once(monkeypatch, *parts):
    """Garbles these parts of the next message that has the first of them."""
    write, left = Wire.write, [parts]

    def garbled(wire, data):
        if left and parts[0] in data:
            for part in left.pop():
                data = data.replace(part, part[:-1] + bytes([part[-1] ^ 1]))
        write(wire, data)

    monkeypatch.setattr(Wire, "write", garbled)


@pytest.mark.parametrize("parts", [(b"CRC? #H",), (b"CRC? #H", b":XBAR:PULS:ARR")])
def test_a_checksum_that_is_struck_before_any_is_asked_for_changes_nothing(line, monkeypatch, parts):
    """As after a silence: what is still understood is carried out, and what is not is an error of the line."""
    _, device = line
    device.execute(pulses(1))
    device._talk.ask([":SYST:CRC OFF"], 0)
    struck_once(monkeypatch, *parts)
    device.execute(pulses(2))
    given = sum(int(np.abs(pulses(number)[0].counts).sum()) for number in (1, 2))
    assert device.pulses()[0] == given and device.counts()["disturbances"]["repeated"] == 1


@pytest.mark.parametrize("when", ["at work", "garbled", "at rest"])
def test_a_controller_that_restarts_behind_its_line_is_not_taken_for_the_one_it_was(line, monkeypatch, when):
    """Though it takes the number of the message that finds it, and refuses the rest."""
    relay, device = line
    for number in range(2):
        device.execute(pulses(number))
    again = Emulator("host", "system", ("--pty",), program="crossbar")
    relay.turn_to(again.url)
    if when == "at rest":
        device.rest()
    if when == "garbled":
        struck_once(monkeypatch, b":XBAR:PULS:ARR", b"CRC? #H")
    with pytest.raises(DeviceError, match="has restarted"):
        device.execute(pulses(2))
    relay.turn_to(os.devnull)
    again.stop()


def test_a_network_that_does_not_fit_leaves_the_controller_to_others():
    needs("host", "system")
    emulator = Emulator("host", "system", program="crossbar")
    with pytest.raises(ConfigError, match="has tiles of 32 x 32"):
        crossbar(resource=resource_of(emulator.url), instrument=facts(), network=NETWORK, cost=CrossEntropy())
    ends = {"read_termination": "\n", "write_termination": "\n"}
    inst = pyvisa.ResourceManager("@py").open_resource(resource_of(emulator.url), timeout=5000, **ends)
    assert inst.query("*OPC?") == "1"
    inst.close()
    emulator.stop()


@pytest.fixture
def line():
    """A line without faults, and a crossbar of pulses at its end."""
    needs("host", "system")
    emulator = Emulator("host", "system", ("--pty",), program="crossbar")
    relay = Relay(emulator.url, 1, 1e18)
    settings = {"instrument": facts(), "network": NETWORK, "cost": CrossEntropy(), "model": SOFT, "timeout": 0.2}
    device = crossbar(None, resource=relay.resource, watchdog=300.0, patience=60.0, **settings)
    yield relay, device
    device._talk.patience = 0.1  # it may have gone
    with contextlib.suppress(HwtrainError):
        device.close()
    relay.close()
    emulator.stop()


def inner(device):
    return getattr(device, "_inner", device)
