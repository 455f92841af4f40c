"""Instruments over VISA: the traps of the path, a bench trained from YAML alone, nothing out of limits on the wire."""

import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
import tty
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml

from hwtrain import checkpoint
from hwtrain.config import conf_dir
from hwtrain.conformance import DeviceConformance
from hwtrain.core import Can, Measure, Probes, Program, Sample
from hwtrain.costs import MeanSquaredError
from hwtrain.devices.bench import Bench
from hwtrain.devices.instruments import Instrument, Restarted, Talk
from hwtrain.devices.link import PortLost
from hwtrain.devices.visa import Address, Wire
from hwtrain.errors import ConfigError, ConnectError, DeviceError, HwtrainError, LimitError, ReplyTimeout
from hwtrain.perturb import Rademacher
from tests.devices import instrument

X = np.array([[[0, 0], [0, 1], [1, 0], [1, 1]]], float)
SAMPLE = Sample(X, X.sum(axis=-1, keepdims=True) % 2)
EVERYTHING = {"late": 0.01, "garble": 0.02, "close": 0.01, "stale": 0.02, "lost": 0.01, "restart": 0.01}


def facts(name="dac_adc", **more):
    table = yaml.safe_load((conf_dir() / "device" / "instrument" / f"{name}.yaml").read_text())
    assert table.pop("_target_") == "hwtrain.devices.instruments.Instrument"
    return Instrument(**table | more)


def bench(box, table=None, **settings):
    settings = {"low": -8.0, "high": 8.0, "timeout": 0.05, "patience": 3.0, "guard": False} | settings
    channels = {"parameters": list(range(1, 10)), "inputs": [10, 11], "outputs": [1]}
    return Bench(table or facts(), box.resource, cost=MeanSquaredError(), **channels, **settings)


def own_answers(talk, server, count):
    """So many pairs of questions, each of which has its own answer."""
    talk.open()
    talk.ask([":SOUR1:VOLT 1.5", ":OUTP1 ON"], 0)
    for _ in range(count):
        first, second = talk.ask(
            [":MEAS:VOLT? (@1)", ":FETC? (@1)"], 2, lambda got: got[0] == got[1] and len(got[0]) > 10
        )
        assert first == second == f"{server.last:.9E}"


class Server:
    """Answers every connection with a script: a function of the lines that came."""

    def __init__(self, script):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.resource = f"TCPIP::127.0.0.1::{self.listener.getsockname()[1]}::SOCKET"
        self.script = script
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        try:
            self.link, _ = self.listener.accept()
            with self.link, self.link.makefile("rb") as lines:
                for line in lines:
                    for part in self.script(line.decode().strip()):
                        self.link.sendall(part) if isinstance(part, bytes) else time.sleep(part)
        except OSError:
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(5)


class TestWire:
    def test_nagles_delay_is_off(self, wire):
        with Server(lambda line: [b"ok\n"]) as server:
            line = wire(server)
            assert line.nodelay is True
            line.close()

    def test_an_answer_in_parts_is_whole(self, wire):
        with Server(lambda line: [b"0.1", 0.15, b"23", 0.15, b"4\nnext\n"]) as server:
            line = wire(server)
            line.write(b"READ?\n")
            assert line.line(2.0) == b"0.1234"
            assert line.line(2.0) == b"next"
            line.close()

    def test_silence_ends_in_time_and_loses_nothing(self, wire):
        with Server(lambda line: [0.3, b"12", 0.3, b"3\n"]) as server:
            line = wire(server)
            line.write(b"READ?\n")
            began = time.monotonic()
            assert line.line(0.2) is None
            assert line.line(0.2) is None
            assert time.monotonic() - began < 0.8
            assert line.line(2.0) == b"123"
            line.close()

    def test_a_block_may_hold_terminators(self, wire):
        data = bytes(range(256)) * 40
        with Server(lambda line: [b"#510240" + data + b"\n"]) as server:
            line = wire(server)
            line.write(b"DATA?\n")
            assert line.exactly(7, 1.0) == b"#510240"
            assert line.exactly(len(data), 2.0) == data
            assert line.line(1.0) == b""
            line.close()

    def test_a_long_message_has_the_time_that_a_slow_line_takes(self):
        """However short the reading before was allowed to be."""
        ours, theirs = pty.openpty()
        tty.setraw(theirs)
        opened, got = Wire(Address(f"ASRL{os.ttyname(theirs)}::INSTR", baudrate=115200)), []

        def take():
            while sum(map(len, got)) < 60_000:
                time.sleep(0.01)
                got.append(os.read(ours, 4096))

        thread = threading.Thread(target=take, daemon=True)
        opened.drop()
        thread.start()
        opened.write(bytes(60_000))
        thread.join()
        assert b"".join(got) == bytes(60_000)
        opened.close()
        os.close(ours)
        os.close(theirs)

    def test_a_closed_connection_is_noticed_at_once(self, wire):
        def leave(line):
            raise OSError

        with Server(leave) as server:
            line = wire(server)
            line.write(b"READ?\n")
            began = time.monotonic()
            with pytest.raises(PortLost, match="closed"):
                line.line(5.0)
            assert time.monotonic() - began < 1.0
            with pytest.raises(PortLost):
                line.write(b"READ?\n")

    def test_a_closed_port_does_not_open(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        with pytest.raises(ConnectError, match="nobody answers at"):
            Wire(Address(f"TCPIP::127.0.0.1::{port}::SOCKET"))

    @pytest.mark.parametrize(
        ("resource", "message"),
        [
            ("TCPIP::nowhere", "nobody answers|cannot be used"),
            ("what is this", "Write it like"),
            ("USB::0x1234::0x5678::X::INSTR", "cannot be used|nobody"),
            ("ASRL/dev/none::INSTR", "nobody answers"),
            ("TCPIP::host.invalid::5025::SOCKET", "nobody answers"),
        ],
    )
    def test_what_cannot_be_opened_says_why(self, resource, message):
        with pytest.raises((ConfigError, ConnectError), match=message):
            Wire(Address(resource, connect=0.5))

    def test_a_backend_that_is_missing_says_what_to_install(self):
        with pytest.raises(ConfigError, match="pip install"):
            Wire(Address("TCPIP::127.0.0.1::1::SOCKET", backend="@nothing"))


class TestTalk:
    def talk(self, box, **settings):
        return Talk(facts(**settings), Address(box.resource), timeout=0.05, patience=2.0)

    def test_a_late_answer_is_not_taken_for_the_next_one(self, box):
        server = box(late=0.12)
        talk = self.talk(server)
        assert talk.open() == "ACME,DACBOX,0,1.0"
        server.rates = {"late": 0.3}
        assert {talk.ask(["*IDN?"], 1)[0] for _ in range(40)} == {"ACME,DACBOX,0,1.0"}
        assert server.struck["late"] and talk.disturbances["late"]
        talk.close()

    @pytest.mark.parametrize("fault", ["stale", "garble", "lost"])
    def test_what_comes_is_what_was_asked_for(self, box, fault):
        server = box(rates={fault: 0.2})
        talk = self.talk(server)
        own_answers(talk, server, 100)
        assert server.struck[fault] > 5 and talk.disturbances["repeated"] > 3
        talk.close()

    def test_a_restart_is_said(self, box):
        server = box()
        talk = self.talk(server)
        talk.open()
        talk.ask(["*IDN?"], 1)
        server._power_on()
        with pytest.raises(Restarted):
            talk.ask(["*IDN?"], 1)
        talk.close()

    @pytest.mark.parametrize("lost", [1, 2, 5])
    @pytest.mark.parametrize("question", [[], ["*IDN?"]])
    def test_a_restart_is_said_though_the_answers_that_told_of_it_are_lost(self, box, lost, question):
        """They have cleared the power-on bit and written the register that was 0."""
        server = box()
        talk = self.talk(server)
        talk.open()
        talk.ask([":SOUR1:VOLT 1.5", ":OUTP1 ON"], 0)
        server._power_on()
        server.swallow = lost
        with pytest.raises(Restarted):
            talk.ask(question, len(question))
        assert talk.ask(["*IDN?"], 1) == ["ACME,DACBOX,0,1.0"]
        server.swallow = lost
        assert talk.ask(["*IDN?"], 1) == ["ACME,DACBOX,0,1.0"]
        assert talk.disturbances["restarts"] == 1
        talk.close()

    def test_a_refused_command_is_an_error_with_the_instruments_words(self, box):
        talk = self.talk(box())
        talk.open()
        with pytest.raises(DeviceError, match='-113,"Undefined header;:NONSENSE"'):
            talk.ask([":NONSENSE"], 0)
        assert talk.ask(["*IDN?"], 1) == ["ACME,DACBOX,0,1.0"]
        talk.close()

    @pytest.mark.parametrize("lost", [1, 3])
    def test_a_refused_command_is_an_error_though_the_answer_that_names_it_is_lost(self, box, lost):
        """By then the instrument has forgotten it: the message is said again."""
        server = box()
        talk, message = self.talk(server), server._message
        talk.open()

        def losing(link, line):
            if b":SYST:ERR?" in line and server.errors and losses:
                server.swallow = losses.pop()
            return message(link, line)

        server._message, losses = losing, [lost]
        with pytest.raises(DeviceError, match='-113,"Undefined header;:NONSENSE"'):
            talk.ask([":NONSENSE"], 0)
        assert not losses and talk.ask(["*IDN?"], 1) == ["ACME,DACBOX,0,1.0"]
        talk.close()

    def test_errors_of_others_are_forgotten_at_the_start(self, box):
        server = box()
        server.errors, server.esr = ['-222,"Data out of range"'] * 3, 32 + 16
        talk = self.talk(server)
        talk.open()
        assert talk.ask(["*IDN?"], 1) == ["ACME,DACBOX,0,1.0"] and not server.errors
        talk.close()

    def test_two_threads_get_their_own_answers(self, box):
        talk = self.talk(box())
        talk.open()
        wrong = []

        def asks(unit, wanted):
            wrong.extend(got for _ in range(500) if (got := talk.ask([unit], 1)) != [wanted])

        threads = [
            threading.Thread(target=asks, args=pair)
            for pair in (("*IDN?", "ACME,DACBOX,0,1.0"), (":SYST:ERR?", '0,"No error"'))
        ]
        [each.start() for each in threads]
        [each.join(60) for each in threads]
        assert not wrong
        talk.close()

    def test_silence_ends_within_twice_the_patience(self, box):
        server = box()
        talk = self.talk(server)
        talk.open()
        server.silent = True
        began = time.monotonic()
        with pytest.raises(ReplyTimeout, match="no answer"):
            talk.ask(["*IDN?"], 1)
        assert time.monotonic() - began < 4.0
        talk.close()

    def test_an_answer_that_is_lost_after_long_work_is_asked_for_again(self):
        """However short the patience: the instrument is busy, not silent."""
        lost, tags = [], [0]

        def script(line):
            tags.append(int(line.rsplit(" ", 1)[1].split(";")[0]))
            work = line.startswith("WORK")
            if work and len(lost) < 2:
                return lost.append(line) or []
            return [f"{'7;' * work}{'1;' * ('*SRE?' in line)}0;{tags[-2]};{tags[-1]}\n".encode()]

        with Server(script) as server:
            talk = Talk(facts(identify="", error=""), Address(server.resource), timeout=0.5, patience=0.5)
            talk.open()
            assert talk.ask(["WORK?"], 1, allow=1.0) == ["7"]
            assert talk.disturbances["repeated"] == len(lost) == 2
            talk.close()

    def test_another_instrument_is_named(self, box):
        with pytest.raises(ConnectError, match=r"says it is 'ACME,DACBOX,0,1\.0'"):
            self.talk(box(), answers_to="KEITHLEY").open()

    def test_an_indefinite_block_is_refused_and_the_next_answer_is_right(self):
        def script(line):
            tag = line.rsplit(" ", 1)[1].split(";")[0]
            data = b"#0" + bytes(8) + b"\n" if line.startswith("DATA") else b""
            return [data + f"0;0;{tag}\n".encode()]

        with Server(script) as server:
            talk = Talk(facts(identify="", error=""), Address(server.resource), timeout=0.2, patience=1.0)
            talk.open()
            with pytest.raises(HwtrainError, match="indefinite block"):
                talk.ask(["DATA?"], 1, block=True)
            talk.close()


class TestBench(DeviceConformance):
    @pytest.fixture
    def device(self, box):
        chip = bench(box())
        yield chip
        chip.close()

    @pytest.fixture
    def sample(self):
        return SAMPLE

    @pytest.fixture
    def allowance(self):
        return 1e-5  # a microvolt is the last digit sent


class TestSafety:
    def test_a_new_bench_drives_nothing_and_a_closed_one_neither(self, box):
        server = box()
        chip = bench(server)
        assert server.safe and not server.settings
        chip.execute([Program(np.ones(9)), Measure(SAMPLE)])
        assert not server.safe
        chip.rest()
        assert server.safe
        chip.execute([Measure(SAMPLE)])
        assert server.volts[1] == 1.0 and server.on[1]
        chip.close()
        assert server.safe
        assert chip._drive._guard is None
        with pytest.raises(DeviceError, match="closed"):
            chip.execute([Measure(SAMPLE)])

    def test_the_guard_goes_when_it_is_not_needed(self, box):
        server = box()
        chip = bench(server, guard=True)
        assert chip._drive._guard is None  # nothing is driven yet
        chip.execute([Program(np.ones(9))])
        process = chip._drive._guard._process
        assert process.poll() is None
        chip.close()
        chip.close()
        assert process.poll() == 0

    def test_what_the_guard_says_carries_checksums_too(self, box):
        """An instrument that wants them would drop it."""

        class Answered:
            def __init__(self, link=None):
                self.link = link

            def sendall(self, answer):
                if self.link is not None and answer:
                    self.link.sendall(answer[:-1] + b";%08X\n" % zlib.crc32(answer[:-1]))

        def checking(link, line):
            said, _, crc = line.rpartition(b";CRC ")
            return crc != b"%08X" % zlib.crc32(said) or message(Answered(link), said)

        server = box()
        message, server._message = server._message, checking
        device = bench(server, facts(check=";CRC {crc:08X}", checked="{crc:08X}"))
        device.execute([Program(np.full(9, 2.0)), Measure(SAMPLE)])
        assert not server.safe
        for said in device._drive._off():
            server._message(None, said.rstrip())
        assert server.safe
        device.close()

    def test_compliance_comes_first_and_outputs_open_at_zero(self, box):
        server = box()
        server.keep = True
        chip = bench(server, facts(setup=["*SRE 0"]))
        chip.execute([Program(np.ones(9))])
        units = [unit for line in server.received for unit in line.split(";")]
        first = next(index for index, unit in enumerate(units) if unit.startswith(":SOUR"))
        assert units.index("*SRE 0") < first < units.index(":OUTP1 ON") < units.index(":SOUR1:VOLT 1.000000")
        chip.close()

    def test_large_changes_are_ramped_both_ways(self, box):
        server = box()
        chip = bench(server, ramp=0.5)
        chip.execute([Program(np.full(9, 7.9)), Program(np.full(9, -7.9)), Measure(SAMPLE)])
        chip.close()
        assert server.safe and server.largest_step <= 0.5 + 1e-5

    @pytest.mark.parametrize("ours", [{"low": -11.0}, {"high": 10.5}, {"low": 1.0}, {"input_high": 12.0}])
    def test_our_limits_are_within_the_instruments(self, box, ours):
        with pytest.raises(ConfigError, match="must include 0 V"):
            bench(box(), **ours)

    def test_inputs_have_limits_of_their_own(self, box):
        server = box()
        chip = bench(server)
        with pytest.raises(
            LimitError, match=r"channel 10 would be set to 1.5 V; its limits are 0 to 1 V. Nothing was sent"
        ):
            chip.execute([Program(np.ones(9)), Measure(Sample(1.5 * np.ones((1, 1, 2)), np.ones((1, 1, 1))))])
        assert not server.settings
        chip.close()

    def test_no_value_outside_the_limits_is_ever_sent(self, box):
        """10 000 commands, most of them wrong in one way or another, on an instrument that misbehaves."""
        server = box(rates={"garble": 0.01, "stale": 0.01, "close": 0.002, "restart": 0.002})
        chip, random, refused = bench(server), np.random.default_rng(0), 0
        edges = np.array([-8, 8, -8.0000004, 8.0000006, 8.1, 1e9, -1e-9, np.nan, np.inf, -np.inf, 1e-300, 0.5])
        for number in range(5000):
            theta = random.uniform(-8, 8, 9)
            spoilt = random.random(9) < 0.1
            theta[spoilt] = random.choice(edges, spoilt.sum())
            x = random.uniform(-0.02, 1.02, (1, 1, 2)) if number % 3 else random.choice(edges, (1, 1, 2))
            probes = Probes(Rademacher(amplitude=random.choice([0.01, 1.0, 20.0])), np.uint32(number), 0, 1)
            measure = Measure(Sample(x, np.ones((1, 1, 1))), probes if number % 2 else None)
            try:
                chip.execute([Program(theta), measure])
            except LimitError:
                refused += 1
        chip.close()
        assert 1000 < refused < 4900 and server.settings > 1000
        assert server.beyond == [] and server.safe

    def test_a_cut_message_cannot_ask_for_more(self, box):
        server = box()
        server.keep = True
        chip = bench(server)
        chip.execute([Program(np.full(9, 1.5e-3)), Measure(SAMPLE)])
        chip.close()
        values = [
            part.split()[1].split(";")[0]
            for line in server.received
            for part in line.split(":SOUR")
            if ":VOLT " in part
        ]
        assert "0.001500" in values and not any("e" in value.lower() for value in values)

    @pytest.mark.parametrize("fault", instrument.FAULTS)
    def test_rest_is_safe_whatever_went_wrong(self, box, fault):
        server = box()
        chip = bench(server)
        for number in range(5):
            server.rates = {}
            chip.execute([Program(np.full(9, 2.0 + number)), Measure(SAMPLE)])
            server.rates = {fault: 0.4}
            chip.rest()
            assert server.safe, server.volts
        chip.close()

    def test_an_instrument_that_cannot_be_reached_is_said_to_be_unsafe(self, box):
        server = box()
        chip = bench(server, patience=0.5)
        chip.execute([Program(np.ones(9))])
        server.silent = True
        with pytest.raises(ReplyTimeout) as caught:
            chip.rest()
        assert "may still be on" in caught.value.__notes__[0]
        server.silent = False
        chip.close()
        assert server.safe


def words(server, *more):
    return [
        *("task=xor", "algo=mgd", "device=visa_bench", f"device.resource={server.resource}", "device.timeout=0.05"),
        *("budget.steps=400", "algo.probes=20", "evaluate.every=100000", "recorder.report=false", *more),
    ]


class TestFrontDoor:
    def trained(self, hwtrain, server, folder, *more):
        answer = hwtrain(*words(server, f"hydra.run.dir={folder}", *more))
        assert answer.code == 0, answer.err
        assert server.safe and server.beyond == []
        return checkpoint.load(folder)["state.theta"]

    def test_xor_from_yaml_alone_survives_everything(self, box, hwtrain, tmp_path):
        calm = box()
        wanted = self.trained(hwtrain, calm, tmp_path / "calm")
        for seed in range(2):
            server = box(rates=EVERYTHING, seed=seed)
            theta = self.trained(hwtrain, server, tmp_path / f"disturbed{seed}")
            assert np.array_equal(theta, wanted)
            assert set(server.struck) == set(EVERYTHING), server.struck

    @pytest.mark.slow
    def test_xor_is_learnt(self, box, hwtrain, tmp_path):
        answer = hwtrain(
            *words(box(), "budget.steps=20000", "seed=1", "budget.target_accuracy=1.0", "evaluate.every=1000")
        )
        assert answer.code == 0 and "test accuracy 100.00%" in answer.out, answer.out

    @pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
    def test_signals_leave_outputs_off(self, box, tmp_path, end):
        server = box()
        line = [sys.executable, "-m", "hwtrain", *words(server, "budget.steps=1000000")]
        process = subprocess.Popen(
            line, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        until = time.monotonic() + 60
        while server.settings < 500 and time.monotonic() < until:
            time.sleep(0.01)
        assert not server.safe
        process.send_signal(end)
        time.sleep(0.0 if end is signal.SIGTERM else 0.002)
        process.send_signal(end)  # at once, in the middle of something
        _, complaint = process.communicate(timeout=30)
        assert process.returncode in (2, 130), complaint
        assert server.safe

    @pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSEGV])
    def test_a_killed_host_leaves_outputs_off(self, box, tmp_path, end):
        server = box()
        line = [sys.executable, "-m", "hwtrain", *words(server, "budget.steps=1000000")]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        process = subprocess.Popen(
            line, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 60
        while server.settings < 500 and time.monotonic() < until:
            time.sleep(0.01)
        assert not server.safe
        process.send_signal(end)
        process.wait(30)
        until = time.monotonic() + 20
        while not server.safe and time.monotonic() < until:
            time.sleep(0.05)
        assert server.safe and server.beyond == []

    def test_nobody_there_is_one_sentence(self, hwtrain):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        answer = hwtrain("task=xor", "device=visa_bench", f"device.resource=TCPIP::127.0.0.1::{port}::SOCKET")
        assert answer.code == 2 and "nobody answers" in answer.err and "Traceback" not in answer.err


def test_probing_programs_and_returns(box):
    server = box()
    chip = bench(server)
    probes = Probes(Rademacher(amplitude=0.1), np.uint32(3), 0, 4)
    chip.execute([Program(np.ones(9)), Measure(SAMPLE, probes), Measure(SAMPLE, observe=Can.OUTPUT)])
    assert [server.volts[channel] for channel in range(1, 10)] == [1.0] * 9
    chip.close()
