"""The crossbar controller's firmware over VISA: the standard, its own limits and watchdog, and training on it."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import pyvisa
import yaml

from hwtrain import checkpoint
from hwtrain.config import conf_dir
from hwtrain.conformance import DeviceConformance
from hwtrain.core import Can, Measure, Probes, Program, Pulse, Read, Sample
from hwtrain.costs import MeanSquaredError
from hwtrain.devices.crossbar import Controller, Crossbar, EmulatedCrossbar, crossbar, resource_of
from hwtrain.devices.programming import simulated_cells
from hwtrain.emulators import Emulator, images
from hwtrain.errors import ConfigError, DeviceError, LimitError
from hwtrain.perturb import Rademacher
from hwtrain.sim.laws import ConstantStep, SoftBounds
from hwtrain.sim.networks import mlp
from hwtrain.sim.pulsed import Pulsed
from tests.emulators.conftest import needs
from tests.sim.presets import preset

NETWORK = mlp([5, 4, 3])
SPREAD = {
    "dw_min_dtod": 0.3,
    "dw_min_std": 0.3,
    "up_down": 0.1,
    "up_down_dtod": 0.05,
    "w_max_dtod": 0.3,
    "w_min_dtod": 0.3,
}
STEPS = Pulsed(law=ConstantStep(), dw_min=0.002, w_max=1.0, w_min=-1.0, **SPREAD)
SOFT = Pulsed(law=SoftBounds(), dw_min=0.01, w_max=1.0, w_min=-1.0, **SPREAD)
IDEAL = Pulsed(law=ConstantStep(), dw_min=0.001, w_max=1.0, w_min=-1.0)


def facts(**more):
    table = yaml.safe_load((conf_dir() / "device" / "instrument" / "crossbar.yaml").read_text())
    assert table.pop("_target_") == "hwtrain.devices.crossbar.Controller"
    return Controller(**table | more)


@pytest.fixture
def make(request):
    made = []

    def call(programming=None, board="host", model=STEPS, **settings):
        needs(board, "system")
        where = {} if "resource" in settings else {"board": board}
        settings = {"instrument": facts(), "network": NETWORK, "cost": MeanSquaredError(), "seed": 5} | where | settings
        made.append(crossbar(programming, model=model, **settings))
        return made[-1]

    yield call
    for each in made:
        each.close()


@contextlib.contextmanager
def client(board):
    """The controller as any SCPI client sees it: pyvisa, and nothing of ours."""
    needs(board, "system")
    emulator = Emulator(board, "system", program="crossbar")
    opened = pyvisa.ResourceManager("@py").open_resource(resource_of(emulator.url))
    opened.read_termination = opened.write_termination = "\n"
    opened.timeout = 500
    for _ in range(20):  # QEMU listens before the firmware does
        with contextlib.suppress(pyvisa.errors.VisaIOError):
            if opened.query("\n*IDN?").startswith("hwtrain,"):
                break
    opened.timeout = 5000
    yield opened
    opened.close()
    emulator.stop()


@pytest.fixture(params=["host", "stm32f405"])
def inst(request):
    with client(request.param) as opened:
        yield opened


def sample(seed=0, inputs=5, outputs=3):
    rng = np.random.default_rng(seed)
    return Sample(rng.random((1, 6, inputs)), rng.random((1, 6, outputs)))


class TestStandard:
    """IEEE 488.2-1992 sections 10 and 11, SCPI-99 volumes 1 and 2."""

    def test_power_on_is_reported_once(self, inst):
        assert int(inst.query("*ESR?")) & 128
        assert inst.query("*ESR?") == "0"

    def test_identity_and_versions(self, inst):
        assert len(inst.query("*IDN?").split(",")) == 4 and inst.query("*IDN?").startswith("hwtrain,crossbar")
        assert inst.query("SYST:VERS?") == "1999.0"
        assert inst.query("*TST?") == "0"

    def test_errors_queue_in_order_and_set_their_bits(self, inst):
        inst.write("*CLS")
        inst.write("NONSENSE")
        inst.write("XBAR:LIM:VOLT 99")
        assert inst.query("*ESR?") == str(32 + 16)
        assert inst.query("SYST:ERR:COUN?") == "2"
        assert inst.query("SYST:ERR?") == '-113,"Undefined header"'
        assert inst.query(":SYSTem:ERRor:NEXT?") == '-222,"Data out of range"'
        assert inst.query("syst:err?") == '0,"No error"'

    def test_the_queue_overflows_at_its_end(self, inst):
        inst.write("*CLS")
        inst.write(";".join(["WRONG"] * 20))
        errors = [inst.query("SYST:ERR?") for _ in range(17)]
        assert errors[:15] == ['-113,"Undefined header"'] * 15
        assert errors[15:] == ['-350,"Queue overflow"', '0,"No error"']

    @pytest.mark.parametrize(
        ("message", "code"),
        [
            ("*ESE", -109), ("*ESE 1,2", -108), ("*ESE x", -104), ("*ESE 256", -222), ("*ESE -1", -222),
            ("*ESE 1V", -120), ("XBAR:LIM:VOLT 1e", -120), ("OUTP MAYBE", -224), ("XBAR:MULT? 0,12", -104),
            ("XBAR:PULS 0,0", -109), ("XBAR:READ? 0,0,0", -221), ("XBAR:READ? 9,0,0", -222), ("*IDN", -113),
            ("XBAR!", -102), ("*IDN? 5", -108),
        ],
    )  # fmt: skip
    def test_each_mistake_has_its_number(self, inst, message, code):
        inst.write("*CLS")
        inst.write(message)
        answers = [inst.query("SYST:ERR?")]
        while "No error" not in answers[-1]:
            answers.append(inst.read() if answers[-1].startswith("hwtrain") else inst.query("SYST:ERR?"))
        assert any(answer.startswith(f"{code},") for answer in answers), answers

    def test_status_byte_sums_up(self, inst):
        inst.write("*CLS;*ESE 32;*SRE 32")
        assert inst.query("*STB?") == "0"
        inst.write("WRONG")
        assert int(inst.query("*STB?")) == 32 + 64 + 4
        inst.write("*CLS")
        assert inst.query("*STB?") == "0"
        assert inst.query("*ESE?;*SRE?") == "32;32"  # *CLS leaves the masks, and so does *RST
        assert inst.query("*RST;*ESE?") == "32"
        assert inst.query("*SRE 255;*SRE?") == "191"  # bit 6 cannot be set: 11.3.2.3

    def test_operation_complete(self, inst):
        inst.write("*CLS;*OPC")
        assert inst.query("*ESR?") == "1"
        assert inst.query("*OPC?;*WAI") == "1"

    def test_headers_are_short_or_long_and_remember_their_path(self, inst):
        inst.write("*CLS")
        assert inst.query("XBAR:LIMit:VOLTage 2.5;WIDTh 1e-5;:xbar:lim:volt?;WIDT?") == "2.50000000E+00;9.99999975E-06"
        inst.write("XBAR:LIMI:VOLT 1")
        assert inst.query("SYST:ERR?") == '-113,"Undefined header"'

    def test_status_registers(self, inst):
        inst.write("*CLS;:STAT:PRES;QUES:ENAB 512")
        assert inst.query("STAT:QUES:ENAB?;COND?;EVEN?") == "512;0;0"
        assert inst.query("STAT:OPER?") == "0"

    def test_blocks_carry_any_byte_both_ways(self, inst):
        inst.write("*CLS;:MOD:TIL 4,4;:MOD:CELL 1,0,0.01,0,0,0,0,1,0,-1,0,2e-5;:OUTP ON")
        counts = np.array([10, -10, 0x0A, 0x0A0A - 2500, *range(12)], ">i2")
        inst.write_binary_values(":XBAR:PULS:ARR 1.5,1e-6,", counts, datatype="h", is_big_endian=True)
        read = inst.query_binary_values("XBAR:READ:ARR?", datatype="f", is_big_endian=True)
        wanted = np.clip(0.01 * counts.astype(float), -1, 1) * 2e-5
        assert np.allclose(read, wanted, atol=1e-9)
        assert inst.query("SYST:ERR?") == '0,"No error"'
        assert inst.query("XBAR:COUN:ARR?")[:4] == "#264"

    def test_a_message_that_is_too_long_is_dropped_whole(self, inst):
        inst.write("*CLS;*ESE 3")
        inst.write("*ESE 7;" + "*WAI;" * (300_000 if "host" in inst.query("*IDN?") else 5_000))
        assert inst.query("*ESE?") == "3"
        assert inst.query("SYST:ERR?") == '-363,"Input buffer overrun"'


class TestOwnLimits:
    def test_limits_can_be_lowered_and_never_raised(self, inst):
        inst.write("*CLS;*RST")
        assert float(inst.query("XBAR:LIM:VOLT?")) == 3.0
        for message in ("XBAR:LIM:VOLT 3.1", "XBAR:LIM:READ 0.5", "XBAR:LIM:WIDT 1", "XBAR:LIM:VOLT -1"):
            inst.write(message)
            assert inst.query("SYST:ERR?").startswith("-222,"), message
        inst.write("XBAR:LIM:VOLT 1.2;:OUTP ON;:XBAR:PULS 0,0,0,1.3,1e-6")
        assert inst.query("SYST:ERR?").startswith("-222,")
        assert inst.query("XBAR:COUN?;:MOD:DRIV?") == "0,0,0;0,0"

    def test_a_cell_gets_no_more_pulses_than_it_may(self, inst):
        inst.write("*CLS;*RST;:XBAR:LIM:PULS 10;:OUTP ON;:XBAR:PULS 0,1,1,1.5,1e-6,8")
        inst.write("XBAR:PULS 0,1,1,1.5,1e-6,3")
        assert inst.query("SYST:ERR?").startswith("101,")
        assert inst.query("XBAR:COUN?") == "8,8,0"

    def test_nothing_is_driven_while_outputs_are_off(self, inst):
        inst.write("*CLS;*RST")
        for message in ("XBAR:PULS 0,0,0,1,1e-6", "XBAR:READ? 0,0,0", "XBAR:READ:ARR?"):
            inst.write(message)
            assert inst.query("SYST:ERR?").startswith("-221,"), message
        assert inst.query("MOD:DRIV?") == "0,0"

    def test_work_that_was_done_is_not_done_again(self, inst):
        inst.write("*CLS;*RST;:OUTP ON;:XBAR:ONCE 7;PULS 0,0,0,1.5,1e-6,5")
        inst.write("XBAR:ONCE 7;PULS 0,0,0,1.5,1e-6,5")
        assert inst.query("XBAR:COUN?;ONCE?") == "5,5,0;7"
        inst.write("XBAR:ONCE 8;PULS 0,0,0,1.5,1e-6,5")
        assert inst.query("XBAR:COUN?") == "10,10,0"

    def test_work_that_was_refused_is_refused_again(self, inst):
        """The answer that told may have been lost; and with another number it is other work."""
        inst.write("*CLS;*RST;:OUTP ON;:XBAR:LIM:PULS 3")
        for number, limit, code in ((8, 3, 101), (8, 9, 101), (9, 9, 0), (9, 3, 0)):
            inst.write(f":XBAR:LIM:PULS {limit};:XBAR:ONCE {number};:XBAR:PULS 0,0,0,1.5,1e-6,4")
            assert inst.query("SYST:ERR?").startswith(f"{code},")
            assert inst.query("XBAR:COUN?").startswith("0,0," if code else "4,4,")

    def test_a_number_is_taken_by_work_that_nothing_forbids(self, inst):
        """Of a garbled message it may be all that is understood, and outputs may be off."""
        for refused in (":XBAR:ONCE 5;NONSENSE", ":XBAR:ONCE 5;PULS 0,0,0,1.5,1e-6", ":XBAR:ONCE 5;PULS 0,0,0,9,1e-6"):
            inst.write(f"*RST;{refused}")
            assert inst.query("*CLS;:XBAR:ONCE?;COUN?") == "0;0,0,0"
        for _ in range(2):
            inst.write(":OUTP ON;:XBAR:ONCE 5;PULS 0,0,0,1.5,1e-6;PULS 0,0,1,1.5,1e-6")
        assert inst.query("XBAR:ONCE?;COUN?;:SYST:ERR?") == '5;2,1,0;0,"No error"'

    def test_the_watchdog_switches_off(self, inst):
        seconds = 0.2 if "host" in inst.query("*IDN?") else 2  # QEMU's are a tenth of ours
        inst.write(f"*CLS;:XBAR:WATC {seconds};:OUTP ON;:XBAR:PULS 0,0,0,1.5,1e-6")
        assert inst.query("MOD:DRIV?;:OUTP?") == "1,0;1"
        for pause in (0.5, 2.0, 8.0):  # each question begins the silence anew; on a busy machine QEMU loses ticks
            time.sleep(pause)
            if (said := inst.query("OUTP?;:MOD:DRIV?;:STAT:QUES?")) == "0;0,0;512":
                break
        assert said == "0;0,0;512"

    def test_clipped_readings_are_said(self, inst):
        inst.write("*CLS;*RST;:MOD:CONV 1e-9,1e-6;:OUTP ON;:XBAR:PULS 0,0,0,1.5,1e-6,400;:XBAR:READ? 0,0,0")
        assert inst.query("SYST:ERR?").startswith("-300,")
        assert int(inst.query("STAT:QUES?")) & 1024


def test_fuzz(tmp_path):
    if not images._is_there("gcc") or not images._is_there("make"):
        pytest.skip("gcc and make are missing: apt-get install --no-install-recommends gcc libc6-dev make")
    folder = images.firmware_dir() / "crossbar"
    done = subprocess.run(
        ["make", "-s", "fuzz", "LINES=20000", f"OUT={tmp_path}"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20000 lines" in done.stdout


class TestEqualsSimulator:
    @pytest.mark.parametrize("board", ["host", "stm32f405"])
    @pytest.mark.parametrize("cell", [STEPS, SOFT], ids=["constant", "soft"])
    def test_same_pulses_same_parameters_same_costs(self, make, board, cell):
        device, sim = make(board=board, model=cell), simulated_cells(NETWORK, MeanSquaredError(), cell, None, seed=5)
        rng, probes = np.random.default_rng(0), Probes(Rademacher(amplitude=0.05), np.uint32(3), 0, 3)
        everything = Can.COST | Can.SAMPLE_COST | Can.OUTPUT | Can.ACTIVITY
        total = 0
        for number in range(4):
            counts = rng.integers(-60, 60, NETWORK.size)
            total += np.abs(counts).sum()
            shown = sample(number)
            commands = [Pulse(counts), Read(), Measure(shown, observe=everything), Measure(shown, probes)]
            for ours, theirs in zip(device.execute(commands), sim.execute(commands), strict=True):
                for name in ("theta", "cost", "sample_cost", "output"):
                    if getattr(theirs, name) is not None:
                        assert np.allclose(getattr(ours, name), getattr(theirs, name), rtol=0, atol=1e-6), name
                for a, b in zip(ours.activity or (), theirs.activity or (), strict=True):
                    assert np.allclose(a, b, rtol=0, atol=1e-6)
        assert device.pulses()[0] == device.counts()["traffic"]["pulses"] == total

    @pytest.mark.parametrize("name", ["idealized", "reram_sb"])
    def test_published_presets_go_over_or_are_refused(self, make, name):
        cell = preset(name)
        if name == "reram_sb":
            with pytest.raises(ConfigError, match="constant steps or soft bounds"):
                make(model=cell)
            return
        device, sim = make(model=cell), simulated_cells(NETWORK, MeanSquaredError(), cell, None, seed=5)
        commands = [Pulse(np.full(NETWORK.size, 300)), Read()]
        assert np.allclose(device.execute(commands)[0].theta, sim.execute(commands)[0].theta, rtol=0, atol=1e-6)


class TestByPulses(DeviceConformance):
    """Values by pulses of the host: the kit, within what a step is worth."""

    @pytest.fixture
    def device(self, make):
        return make("open_loop", model=IDEAL)

    @pytest.fixture
    def allowance(self):
        return 2e-3

    @pytest.fixture
    def amplitude(self):
        return 0.05


class TestByController(DeviceConformance):
    """Values written and verified by the controller."""

    @pytest.fixture
    def device(self, make):
        return make("controller", model=replace_noise(SOFT))

    @pytest.fixture
    def allowance(self):
        return 1e-2

    @pytest.fixture
    def amplitude(self):
        return 0.05


def replace_noise(cell):
    return Pulsed(law=cell.law, dw_min=cell.dw_min, w_max=1.5, w_min=-1.5, dw_min_dtod=0.1, dw_min_std=0.1)


class TestWriting:
    def test_the_controller_writes_and_verifies(self, make):
        device = make("controller", model=replace_noise(SOFT))
        theta = np.random.default_rng(1).uniform(-0.8, 0.8, NETWORK.size)
        (read,) = device.execute([Program(theta), Read()])
        assert np.abs(read.theta - theta).max() <= 0.0101  # a step
        assert device.counts()["traffic"]["pulses"] == device.pulses()[0] > 1000
        before = device.pulses()
        device.execute([Program(theta.copy())])
        assert device.pulses() == before

    @pytest.mark.parametrize("scheme", ["open_loop", "controller"])
    def test_what_an_earlier_run_left_in_the_cells_is_read_first(self, make, scheme):
        needs("host", "system")
        emulator = Emulator("host", "system", program="crossbar")
        before = make(model=IDEAL, resource=resource_of(emulator.url))
        before.execute([Pulse(np.arange(NETWORK.size) * 10)])
        before.close()
        device = make(scheme, model=None, step=IDEAL.step, resource=resource_of(emulator.url))
        theta = np.full(NETWORK.size, 0.25)
        (read,) = device.execute([Program(theta), Read()])
        assert np.abs(read.theta - theta).max() <= 1.001 * IDEAL.step
        device.close()
        emulator.stop()

    def test_networks_that_do_not_fit_are_refused(self, make):
        needs("host", "system")
        emulator = Emulator("host", "system", program="crossbar")
        with pytest.raises(ConfigError, match="has tiles of 32 x 32; this network needs 6 x 4, 5 x 3"):
            make(model=None, resource=resource_of(emulator.url))
        emulator.stop()

    def test_out_of_range_is_refused_before_the_wire(self, make):
        device = make("controller")
        sent = device.counts()["traffic"]["messages"]
        with pytest.raises(LimitError):
            device.execute([Program(np.full(NETWORK.size, 1.5))])
        assert device.counts()["traffic"]["messages"] == sent

    def test_a_limit_of_pulses_is_kept_by_the_firmware(self, make):
        device = make(most_pulses=50)
        device.execute([Pulse(np.full(NETWORK.size, 50))])
        with pytest.raises(DeviceError, match="101,") as refused:
            device.execute([Pulse(np.full(NETWORK.size, 1))])
        assert "Start a run with more" in refused.value.__notes__[0]
        assert device.pulses()[1] == 50


class Proxy:
    """Between host and controller; pulls the cable, loses what comes back, or holds it, and counts what it did."""

    def __init__(self, port, seed, rate):
        self.port, self.random, self.rate, self.struck = port, random.Random(seed), rate, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.resource = f"TCPIP::127.0.0.1::{self.listener.getsockname()[1]}::SOCKET"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.port))
                for link in (near, far):
                    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                pair = [
                    threading.Thread(target=self._carry, args=(near, far, False)),
                    threading.Thread(target=self._carry, args=(far, near, True)),
                ]
                [each.start() for each in pair]
                [each.join() for each in pair]
                near.close()
                far.close()

    def _carry(self, source, sink, back):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                draw = self.random.random() / self.rate
                self.struck += draw < 1
                if draw < 0.4:
                    break
                if draw < 0.7 and back:
                    continue
                if draw < 1 and back:
                    time.sleep(0.12)
                sink.sendall(data)
        for link in (source, sink):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class TestDisturbed:
    def test_a_question_that_is_refused_is_not_asked_until_patience_ends(self, make):
        """A block does not come then, but what is behind it does, and tells the error."""
        device = make()
        for question in ("XBAR:READ:ARR?", "XBAR:READ? 0,0,0"):
            with pytest.raises(DeviceError, match=r'refuses a command .*-221,"Settings conflict"'):
                device._talk.ask([question], 1, block="ARR" in question)
        assert not device.counts()["disturbances"]
        device.execute([Read()])

    def test_pulses_are_given_once_whatever_the_line_does(self, make):
        calm = make()
        emulator = Emulator("host", "system", program="crossbar")
        proxy = Proxy(int(emulator.url.rsplit(":", 1)[1]), 1, 0.05)
        rough = make(resource=proxy.resource, timeout=0.08, patience=30.0)
        rng = np.random.default_rng(2)
        for number in range(60):
            commands = [Pulse(rng.integers(-30, 30, NETWORK.size)), Read(), Measure(sample(number))]
            for a, b in zip(calm.execute(commands), rough.execute(commands), strict=True):
                assert a == b
        assert calm.pulses()[0] == rough.pulses()[0] and proxy.struck > 10
        rough.close()
        proxy.close()
        emulator.stop()

    def test_a_controller_that_restarted_is_not_taken_for_the_one_it_was(self, make):
        needs("host", "system")
        device = make()
        device.execute([Pulse(np.ones(NETWORK.size, int))])
        port = device.emulator.url.rsplit(":", 1)[1]
        device.emulator.stop()
        again = Emulator("host", "system", ("--tcp", port), program="crossbar")
        with pytest.raises(DeviceError, match="has restarted"):
            device.execute([Pulse(np.ones(NETWORK.size, int))])
        again.stop()

    def test_a_killed_host_leaves_outputs_off(self, tmp_path):
        needs("host", "system")
        emulator = Emulator("host", "system", program="crossbar")
        code = (
            "import sys, numpy as np\n"
            "from tests.devices.test_crossbar import *\n"
            "settings = dict(instrument=facts(), network=NETWORK, cost=MeanSquaredError(), model=STEPS, watchdog=0.5)\n"
            "device = crossbar(None, resource=sys.argv[1], **settings)\n"
            "print('ready', flush=True)\n"
            "while True: device.execute([Pulse(np.ones(NETWORK.size, int)), Pulse(-np.ones(NETWORK.size, int))])\n"
        )
        resource = resource_of(emulator.url)
        line = [sys.executable, "-c", code, resource]
        process = subprocess.Popen(
            line, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        )
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        time.sleep(1.0)
        inst = pyvisa.ResourceManager("@py").open_resource(resource, read_termination="\n", write_termination="\n")
        assert int(inst.query("XBAR:COUN?").split(",")[0]) > NETWORK.size
        assert inst.query("OUTP?;:MOD:DRIV?;:STAT:QUES?") == "0;0,0;512"
        inst.close()
        emulator.stop()

    def test_rest_and_the_end_switch_off(self, make):
        needs("host", "system")
        emulator = Emulator("host", "system", program="crossbar")
        device = make(resource=resource_of(emulator.url))
        device.execute([Pulse(np.ones(NETWORK.size, int))])
        assert device._talk.ask([":OUTP?"], 1) == ["1"]
        device.rest()
        assert device._talk.ask([":OUTP?"], 1) == ["0"]
        device.execute([Pulse(np.ones(NETWORK.size, int))])
        device.close()
        inst = pyvisa.ResourceManager("@py").open_resource(
            resource_of(emulator.url), read_termination="\n", write_termination="\n"
        )
        assert inst.query("OUTP?;:MOD:DRIV?") == "0;0,0"
        inst.close()
        emulator.stop()


class TestFrontDoor:
    def trained(self, hwtrain, folder, *words):
        answer = hwtrain(*words, f"hydra.run.dir={folder}", "recorder.report=false")
        assert answer.code == 0, answer.err
        return answer, checkpoint.load(folder)

    @pytest.mark.parametrize("board", ["host", pytest.param("stm32f405", marks=pytest.mark.slow)])
    @pytest.mark.parametrize("algo", ["mgd", "mono_forward"])
    def test_letters_follow_the_simulator(self, hwtrain, tmp_path, board, algo):
        """The draws are the same: so are pulses and parameters, but for float32 on the wire."""
        needs(board, "system")
        words = ["task=letters7x7", f"algo={algo}", "evaluate.samples=16", "evaluate.every=100000"]
        words += ["budget.steps=64"] if algo == "mgd" else ["budget.steps=3", "network.sizes=[49,16,4]"]
        _, ours = self.trained(
            hwtrain, tmp_path / "crossbar", *words, "device=emulated_crossbar", f"device.board={board}"
        )
        _, theirs = self.trained(hwtrain, tmp_path / "cells", *words, "device=cells", "device/cell=idealized")
        assert np.allclose(ours["state.theta"], theirs["state.theta"], rtol=0, atol=1e-5)

    def test_a_controller_that_runs_is_trained_as_it_is(self, hwtrain, tmp_path):
        needs("host", "system")
        emulator = Emulator("host", "system", program="crossbar")
        resource = resource_of(emulator.url)
        ends = {"read_termination": "\n", "write_termination": "\n"}
        inst = pyvisa.ResourceManager("@py").open_resource(resource, **ends)
        inst.write(":MOD:TIL 3,2,3,1;:MOD:CELL 1,0,0.002,0.1,0.1,0,0,4,0,-4,0,2e-5")
        inst.query("*OPC?")
        inst.close()
        words = ["task=xor", "algo=mgd", "device=visa", f"device.resource={resource}", "device.low=-4", "device.high=4"]
        self.trained(hwtrain, tmp_path / "run", *words, "budget.steps=200", "device.programming=controller")
        inst = pyvisa.ResourceManager("@py").open_resource(resource, **ends)
        assert int(inst.query("XBAR:COUN?").split(",")[0]) > 100
        assert inst.query("OUTP?;:MOD:DRIV?") == "0;0,0"
        inst.close()
        emulator.stop()

    @pytest.mark.slow
    def test_letters_are_learnt_by_mono_forward(self, hwtrain, tmp_path):
        needs("host", "system")
        words = ["task=letters7x7", "algo=mono_forward", "device=emulated_crossbar", "budget.steps=1500"]
        answer, _ = self.trained(hwtrain, tmp_path / "run", *words)
        accuracy = float(answer.out.split("test accuracy ")[1].split("%")[0])
        assert accuracy > 97, answer.out


def test_closing_frees_the_emulator(make):
    device = make()
    assert isinstance(device, EmulatedCrossbar) and isinstance(device, Crossbar)
    device.close()
    device.close()
    assert not device.emulator._end.alive
