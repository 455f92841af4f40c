"""Instruments over HiSLIP (IVI-6.1): the bridge of the tests, the traps of the path, the same bits as by a socket."""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import pyvisa

from hwtrain import checkpoint
from hwtrain.core import Can, Measure, Probes, Program, Pulse, Read
from hwtrain.costs import MeanSquaredError
from hwtrain.devices.crossbar import crossbar, resource_of
from hwtrain.devices.instruments import Restarted, Talk
from hwtrain.devices.link import PortLost
from hwtrain.devices.visa import Address, Wire
from hwtrain.emulators import Emulator
from hwtrain.errors import ConnectError, ReplyTimeout
from hwtrain.perturb import Rademacher
from tests.devices import hislip_server as hislip
from tests.devices.test_crossbar import NETWORK, STEPS, facts, sample
from tests.devices.test_visa import EVERYTHING, SAMPLE, Server, bench, own_answers, words
from tests.devices.test_visa import facts as box_facts
from tests.emulators.conftest import needs

WHO = "ACME,DACBOX,0,1.0"


@pytest.fixture
def behind():
    """A HiSLIP server before the TCP port of something."""
    made = []

    def make(thing, **settings):
        port = thing if isinstance(thing, int) else int(thing.resource.split("::")[2])
        made.append(hislip.Server(("127.0.0.1", port), **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


class Client:
    """A session as the standard writes it, by hand."""

    def __init__(self, server):
        self.sync, self.other = (
            hislip.Channel(socket.create_connection(("127.0.0.1", server.port), timeout=10)) for _ in range(2)
        )
        self.sync.say(hislip.INITIALIZE, 0, 0x0100 << 16 | hislip.VENDOR, b"hislip0")
        kind, control, parameter, payload = self.sync.hear()
        assert (kind, control, parameter >> 16, payload) == (hislip.INITIALIZE_RESPONSE, 0, 0x0100, b"")
        self.number = parameter & 0xFFFF

    def join(self):
        self.other.say(hislip.ASYNC_INITIALIZE, 0, self.number)
        assert self.other.hear()[0] == hislip.ASYNC_INITIALIZE_RESPONSE
        return self

    def asked(self, kind, control=0, parameter=0, payload=b""):
        """A question on the asynchronous channel."""
        self.other.say(kind, control, parameter, payload)
        return self.other.hear()

    def available(self):
        """Wait until an answer has gone out: bit 4 of the status byte."""
        until = time.monotonic() + 10
        while not self.asked(hislip.STATUS_QUERY)[1] & hislip.MESSAGE_AVAILABLE:
            assert time.monotonic() < until
            time.sleep(0.005)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sync.close()
        self.other.close()


@pytest.fixture
def client(box, behind):
    opened = []

    def make(server=None, joined=True):
        opened.append(Client(server or behind(box())))
        return opened[-1].join() if joined else opened[-1]

    yield make
    for each in opened:
        each.__exit__()


class TestServer:
    """IVI-6.1, sections 2, 3 and 6, as far as the bridge goes."""

    def test_an_answer_has_the_number_of_its_question(self, client):
        session = client()
        for number in (hislip.FIRST_ID, 7):
            session.sync.say(hislip.DATA_END, hislip.DELIVERED, number, b"*IDN?\n")
            assert session.sync.hear() == (hislip.DATA_END, 0, number, WHO.encode() + b"\n")

    def test_data_in_parts_are_one_message_and_end_needs_no_terminator(self, client):
        session = client()
        session.sync.say(hislip.DATA, 0, 2, b"*ID")
        session.sync.say(hislip.DATA_END, 0, 4, b"N?")
        assert session.sync.hear() == (hislip.DATA_END, 0, 4, WHO.encode() + b"\n")

    def test_messages_are_no_larger_than_the_client_takes(self, client):
        session = client()
        kind, _, _, payload = session.asked(hislip.MAXIMUM_SIZE, 0, 0, struct.pack("!Q", 32))
        assert (kind, payload) == (hislip.MAXIMUM_SIZE_RESPONSE, struct.pack("!Q", 1 << 20))
        session.sync.say(hislip.DATA_END, 0, 2, b"*IDN?\n")
        assert session.sync.hear() == (hislip.DATA, 0, 2, WHO.encode()[:16])
        assert session.sync.hear() == (hislip.DATA_END, 0, 2, WHO.encode()[16:] + b"\n")

    def test_a_query_whose_answer_was_not_read_is_interrupted(self, client):
        session = client()
        session.sync.say(hislip.DATA_END, 0, 2, b"*IDN?\n")
        session.available()
        session.sync.say(hislip.DATA_END, 0, 4, b"*ESE?\n")
        assert session.other.hear() == (hislip.ASYNC_INTERRUPTED, 0, 4, b"")
        answers = [session.sync.hear() for _ in range(3)]
        assert [(kind, number) for kind, _, number, _ in answers] == [
            (hislip.DATA_END, 2), (hislip.INTERRUPTED, 4), (hislip.DATA_END, 4),
        ]  # fmt: skip

    def test_a_delivered_answer_is_not_available(self, client):
        session = client()
        session.sync.say(hislip.DATA_END, 0, 2, b"*IDN?\n")
        session.available()
        assert session.asked(hislip.STATUS_QUERY, hislip.DELIVERED)[:2] == (hislip.STATUS_RESPONSE, 0)

    def test_a_device_clear_abandons_what_was_begun(self, client):
        session = client()
        session.sync.say(hislip.DATA, 0, 2, b"*ESE 9")
        assert session.asked(hislip.ASYNC_DEVICE_CLEAR)[0] == hislip.ASYNC_DEVICE_CLEAR_ACKNOWLEDGE
        session.sync.say(hislip.DATA_END, 0, 4, b"*ESE 5\n")  # between the two halves of a clear: discarded
        session.sync.say(hislip.DEVICE_CLEAR_COMPLETE)
        assert session.sync.hear() == (hislip.DEVICE_CLEAR_ACKNOWLEDGE, 0, 0, b"")
        session.sync.say(hislip.DATA_END, 0, hislip.FIRST_ID, b"*ESE?\n")
        assert session.sync.hear() == (hislip.DATA_END, 0, hislip.FIRST_ID, b"0\n")

    def test_a_trigger_does_nothing(self, client):
        session = client()
        session.sync.say(hislip.TRIGGER, 0, 2)
        session.sync.say(hislip.DATA_END, 0, 4, b":SYST:ERR?\n")
        assert session.sync.hear()[2:] == (4, b'0,"No error"\n')

    def test_what_one_has_locked_waits_for_it(self, behind):
        with socket.create_server(("127.0.0.1", 0)) as port:  # an instrument of two connections
            threading.Thread(target=self._echo, args=(port,), daemon=True).start()
            server = behind(port.getsockname()[1])
            with Client(server) as first, Client(server) as second:
                first.join(), second.join()
                assert first.asked(hislip.ASYNC_LOCK, 1)[1] == 1
                assert second.asked(hislip.ASYNC_LOCK, 1)[1] == 0
                assert second.asked(hislip.ASYNC_LOCK, 0)[1] == 3  # nothing of its own to release
                assert second.asked(hislip.LOCK_INFO)[1] == 1
                second.sync.say(hislip.DATA_END, 0, 2, b"second\n")
                first.sync.say(hislip.DATA_END, 0, 2, b"first\n")
                assert first.sync.hear()[3] == b"first\n"
                assert not second.asked(hislip.STATUS_QUERY)[1]
                assert first.asked(hislip.ASYNC_LOCK, 0)[1] == 1
                assert second.sync.hear()[3] == b"second\n"

    def _echo(self, port):
        def serve(link):
            with link, link.makefile("rb") as lines:
                for line in lines:
                    link.sendall(line)

        try:
            while True:
                threading.Thread(target=serve, args=(port.accept()[0],), daemon=True).start()
        except OSError:
            pass

    @pytest.mark.parametrize(
        ("message", "code"),
        [
            (b"GET / HTTP/1.1\r\n\r\n", hislip.HEADER_WRONG),
            (hislip.HEADER.pack(b"HS", hislip.DATA_END, 0, 2, 0), hislip.NOT_INITIALIZED),
            (hislip.HEADER.pack(b"HS", hislip.ASYNC_INITIALIZE, 0, 99, 0), hislip.NOT_INITIALIZED),
            (hislip.HEADER.pack(b"HS", hislip.INITIALIZE, 0, 1 << 24, 7) + b"hislip7", hislip.NOT_INITIALIZED),
        ],
    )
    def test_nonsense_at_the_beginning_is_fatal(self, box, behind, message, code):
        with socket.create_connection(("127.0.0.1", behind(box()).port), timeout=10) as link:
            link.sendall(message)
            assert hislip.Channel(link).hear()[:2] == (hislip.FATAL_ERROR, code)
            with pytest.raises((EOFError, ConnectionResetError)):
                hislip.receive(link, 1)

    def test_one_channel_alone_is_fatal(self, client):
        session = client(joined=False)
        session.sync.say(hislip.DATA_END, 0, 2, b"*IDN?\n")
        assert session.sync.hear()[:2] == (hislip.FATAL_ERROR, hislip.ONE_CHANNEL)

    def test_nonsense_later_closes_both_channels(self, client):
        session = client()
        session.sync.link.sendall(b"x" * hislip.HEADER.size)
        assert session.sync.hear()[:2] == (hislip.FATAL_ERROR, hislip.HEADER_WRONG)
        with pytest.raises((EOFError, ConnectionResetError)):
            hislip.receive(session.other.link, 1)

    @pytest.mark.parametrize(
        ("kind", "payload", "code"),
        [(200, b"?", hislip.TYPE_UNKNOWN), (hislip.DATA_END, b"x" * 2000, hislip.TOO_LARGE)],
    )
    def test_what_is_not_understood_is_said_and_forgotten(self, box, behind, client, kind, payload, code):
        session = client(behind(box(), largest=1000))
        session.sync.say(kind, 0, 2, payload)
        assert session.sync.hear()[:2] == (hislip.ERROR, code)
        session.sync.say(hislip.DATA_END, 0, 4, b"*IDN?\n")
        assert session.sync.hear()[2:] == (4, WHO.encode() + b"\n")

    def test_another_client_knows_it(self, box, behind):
        """pyvisa alone, with nothing of ours between: query, status, device clear, a message in many parts."""
        with pyvisa.ResourceManager("@py").open_resource(behind(box(), largest=64).resource) as inst:
            inst.read_termination = inst.write_termination = "\n"
            assert inst.query("*IDN?") == WHO and inst.read_stb() == 0
            inst.clear()
            assert inst.query(";".join(["*ESE 3"] * 50 + ["*ESE?"])) == "3"


class TestWire:
    @pytest.mark.parametrize("newline", [True, False])
    def test_end_ends_an_answer(self, wire, behind, newline):
        with Server(lambda line: [b"0.1", 0.15, b"23\n"]) as server:
            line = wire(behind(server, newline=newline))
            for _ in range(2):
                line.write(b"READ?\n")
                assert line.line(2.0) == b"0.123"
            line.close()

    @pytest.mark.parametrize("newline", [True, False])
    def test_a_block_may_hold_terminators_and_come_in_parts(self, wire, behind, newline):
        data = bytes(range(256)) * 8192  # twice the largest message
        with Server(lambda line: [b"#72097152" + data + b";7\n"]) as server:
            line = wire(behind(server, newline=newline))
            line.write(b"DATA?\n")
            assert line.exactly(9, 1.0) == b"#72097152"
            assert line.exactly(len(data), 20.0) == data
            assert line.line(1.0) == b";7"
            line.close()

    @pytest.mark.parametrize("last", [b"second\n", b"second"])
    def test_a_message_may_have_more_than_one_line(self, wire, last):
        header = hislip.HEADER.pack(b"HS", hislip.DATA_END, 0, hislip.FIRST_ID, 6 + len(last))
        with Scripted(header + b"first\n" + last) as server:
            line = wire(server)
            line.write(b"READ?\n")
            assert [line.line(2.0), line.line(2.0)] == [b"first", b"second"]

    def test_a_message_without_more_is_not_waited_for(self, wire, behind):
        with Server(lambda line: [b"12\n"]) as server:
            line = wire(behind(server))
            line.write(b"READ?\n")
            assert line.exactly(5, 2.0) is None and line.drop() == 3
            line.write(b"READ?\n")
            assert line.line(2.0) == b"12"
            line.close()

    def test_an_answer_that_comes_late_is_not_taken_for_the_next_one(self, wire, behind):
        answers = iter([[0.4, b"old\n"], [0.4, b"new\n"]])
        with Server(lambda line: next(answers)) as server:
            bridge = behind(server)
            line = wire(bridge)
            line.write(b"READ?\n")
            assert line.line(0.1) is None
            line.drop()
            until = time.monotonic() + 10
            while not next(iter(bridge.sessions.values())).unread and time.monotonic() < until:
                time.sleep(0.01)
            line.write(b"READ?\n")  # `old` is on the wire by now, under the number of its question
            assert line.line(5.0) == b"new"
            assert bridge.counts["interrupted"] == 1 and not bridge.counts["device clear"]
            line.close()

    def test_a_closed_connection_is_noticed(self, wire, behind):
        def leave(line):
            raise OSError

        with Server(leave) as server:
            line = wire(behind(server))
            line.write(b"READ?\n")
            with pytest.raises(PortLost, match="dropped"):
                line.line(30.0)

    @pytest.mark.timeout(60)
    def test_a_connection_closed_within_an_answer_that_is_discarded_is_noticed(self, wire):
        """By pyvisa-py's own reading it goes round for ever, because nothing more will come."""
        whole = hislip.HEADER.pack(b"HS", hislip.DATA_END, 0, 77, 100) + b"only the beginning"
        with Scripted(whole) as server:
            line = wire(server)
            line.write(b"READ?\n")
            with pytest.raises(PortLost):
                line.line(30.0)

    @pytest.mark.parametrize(
        ("header", "words"),
        [
            (hislip.HEADER.pack(b"XS", hislip.DATA_END, 0, hislip.FIRST_ID, 0), "synchronization"),
            (hislip.HEADER.pack(b"HS", 99, 0, hislip.FIRST_ID, 0), "unrecognized message type: 99"),
            (hislip.HEADER.pack(b"HS", hislip.DATA_END, 5, hislip.FIRST_ID, 0), "AssertionError"),
            (hislip.HEADER.pack(b"HS", hislip.FATAL_ERROR, 1, 0, 0), "dropped"),
        ],
    )
    def test_a_garbled_header_is_a_lost_line(self, wire, header, words):
        with Scripted(header) as server:
            line = wire(server)
            line.write(b"READ?\n")
            with pytest.raises(PortLost, match=words):
                line.line(30.0)

    def test_a_closed_port_and_a_refusal_say_why(self, box, behind):
        server = behind(box())
        with pytest.raises(ConnectError, match=r"nobody answers at .*does not begin a session"):
            Wire(Address(server.resource.replace("hislip0", "hislip7")))
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
        with pytest.raises(ConnectError, match=r"nobody answers at .*refused"):
            Wire(Address(f"TCPIP::127.0.0.1::hislip0,{port}::INSTR"))
        with pytest.raises(ConnectError, match=r"cannot be reached"):
            Wire(Address(behind(port).resource))


class Scripted:
    """Begins a session as it should, says some bytes to the first message, and closes."""

    def __init__(self, data):
        self.data = data
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.resource = f"TCPIP::127.0.0.1::hislip0,{self.listener.getsockname()[1]}::INSTR"
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        sync, other = hislip.Channel(self.listener.accept()[0]), None
        sync.hear()
        sync.say(hislip.INITIALIZE_RESPONSE, 0, 0x0100 << 16 | 1)
        other = hislip.Channel(self.listener.accept()[0])
        other.hear()
        other.say(hislip.ASYNC_INITIALIZE_RESPONSE)
        other.hear()
        other.say(hislip.MAXIMUM_SIZE_RESPONSE, 0, 0, struct.pack("!Q", 1 << 20))
        sync.hear()
        sync.link.sendall(self.data)
        sync.close()
        other.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.thread.join(10)
        self.listener.close()


class TestTalk:
    def talk(self, server, **settings):
        return Talk(box_facts(), Address(server.resource), **{"timeout": 0.05, "patience": 3.0} | settings)

    @pytest.mark.parametrize("newline", [True, False])
    @pytest.mark.parametrize("fault", ["late", "stale", "garble", "lost"])
    def test_what_comes_is_what_was_asked_for(self, box, behind, fault, newline):
        server = box(rates={fault: 0.2}, late=0.12, seed=1)
        talk = self.talk(behind(server, newline=newline))
        own_answers(talk, server, 60)
        assert server.struck[fault] > 3 and talk.disturbances["repeated"] > 1
        talk.close()

    @pytest.mark.parametrize("fault", hislip.FAULTS)
    def test_a_bad_line_is_survived(self, box, behind, fault):
        bridge = behind(box())
        talk = self.talk(bridge)
        talk.open()
        bridge.rates = {fault: 0.1}
        for _ in range(100):
            assert talk.steadily(lambda: talk.ask(["*IDN?"], 1)) == [WHO]
        assert bridge.struck[fault] > 3 and talk.disturbances["lost connections"]
        talk.close()

    def test_a_restart_is_said(self, box, behind):
        server = box()
        talk = self.talk(behind(server))
        talk.open()
        talk.ask(["*IDN?"], 1)
        server._power_on()
        with pytest.raises(Restarted):
            talk.ask(["*IDN?"], 1)
        talk.close()

    def test_an_instrument_that_went_away_is_said_to_have(self, box, behind):
        bridge = behind(box())
        talk = self.talk(bridge, patience=0.5)
        talk.open()
        bridge.close()
        with pytest.raises(ConnectError, match=r"went away .* The last: nobody answers at .* refused"):
            talk.ask(["*IDN?"], 1)
        talk.close()

    def test_silence_ends(self, box, behind):
        server = box()
        talk = self.talk(behind(server), patience=0.5)
        talk.open()
        server.silent = True
        with pytest.raises(ReplyTimeout, match="no answer"):
            talk.ask(["*IDN?"], 1)
        talk.close()


def quoted(server):
    """Hydra takes a comma for the next of a sweep, where it is not quoted."""
    return f'device.resource="{server.resource}"'


class TestBench:
    def test_the_same_bits_as_by_a_socket(self, box, behind):
        def of(resource):
            chip = bench(type("Place", (), {"resource": resource}))
            probes = Probes(Rademacher(amplitude=0.1), np.uint32(3), 0, 4)
            got = chip.execute(
                [Program(np.linspace(-2, 2, 9)), Measure(SAMPLE, probes), Measure(SAMPLE, observe=Can.OUTPUT)]
            )
            chip.close()
            return [each for each in got if each is not None]

        first, second = box(), box()
        straight, bridged = of(first.resource), of(behind(second).resource)
        assert straight and all(map(np.array_equal, straight, bridged))
        assert first.safe and second.safe and second.settings == first.settings

    def test_xor_from_yaml_alone_survives_a_bad_line(self, box, behind, hwtrain, tmp_path):
        def trained(server, name, *more):
            answer = hwtrain(*words(server, f"hydra.run.dir={tmp_path / name}", "budget.steps=200", *more))
            assert answer.code == 0, answer.err
            return checkpoint.load(tmp_path / name)["state.theta"]

        straight = box()
        wanted = trained(straight, "socket")
        rough = box(rates=EVERYTHING)
        for name, server, rates in (("calm", box(), {}), ("rough", rough, {"header": 0.01, "cut": 0.01})):
            bridge = behind(server, rates=rates)
            theta = trained(server, name, quoted(bridge))
            assert bridge.counts["messages"] > 400 and set(bridge.struck) == set(rates)
            assert np.array_equal(theta, wanted)
            assert server.safe and server.beyond == []
        assert set(rough.struck) == set(EVERYTHING)

    @pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
    def test_outputs_are_off_at_the_end(self, box, behind, tmp_path, end):
        server = box()
        line = [sys.executable, "-m", "hwtrain", *words(server, "budget.steps=1000000", quoted(behind(server)))]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        process = subprocess.Popen(
            line, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        until = time.monotonic() + 60
        while server.settings < 300 and time.monotonic() < until:
            time.sleep(0.01)
        assert not server.safe
        process.send_signal(end)
        _, complaint = process.communicate(timeout=30)
        assert b"Traceback" not in complaint
        until = time.monotonic() + 20
        while not server.safe and time.monotonic() < until:
            time.sleep(0.05)
        assert server.safe and server.beyond == []

    @pytest.mark.parametrize("listening", [True, False])
    def test_what_is_wrong_there_is_one_sentence(self, hwtrain, listening):
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            thread = threading.Thread(target=self._nonsense, args=(other,), daemon=True)
            if listening:
                thread.start()
            else:
                other.close()
            answer = hwtrain(
                "task=xor", "device=visa_bench", f'device.resource="TCPIP::127.0.0.1::hislip0,{port}::INSTR"'
            )
            if listening:
                thread.join(10)
        assert answer.code == 2 and "nobody answers at TCPIP::127.0.0.1::hislip0" in answer.err
        assert "Traceback" not in answer.err and ("synchronization" in answer.err) == listening

    def _nonsense(self, listener):
        link, _ = listener.accept()
        with link:
            link.recv(100)
            link.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


class TestCrossbar:
    @pytest.mark.parametrize("programming", [None, "write_verify", "controller"])
    def test_the_same_bits_as_by_a_socket(self, behind, programming):
        needs("host", "system")

        def of(way):
            emulator = Emulator("host", "system", program="crossbar")
            try:
                resource = resource_of(emulator.url)
                if way == "hislip":
                    resource = behind(int(resource.split("::")[2]), newline=False).resource
                settings = {"instrument": facts(), "network": NETWORK, "cost": MeanSquaredError(), "seed": 5}
                device = crossbar(programming, model=STEPS, resource=resource, **settings)
                size = NETWORK.size
                if programming is None:
                    begin = [Pulse(np.random.default_rng(1).integers(-20, 20, size)), Read()]
                else:
                    begin = [Program(np.random.default_rng(1).uniform(-0.5, 0.5, size))]
                got = device.execute([*begin, Measure(sample()), Measure(sample(), observe=Can.OUTPUT)])
                device.close()
                return [each for each in got if each is not None]
            finally:
                emulator.stop()

        straight, bridged = of("socket"), of("hislip")
        assert straight and all(map(np.array_equal, straight, bridged))

    def test_a_bad_line_changes_no_bit(self, behind):
        needs("host", "system")
        outputs = []
        for rates in ({}, {"header": 0.1, "cut": 0.1}):
            emulator = Emulator("host", "system", program="crossbar")
            try:
                bridge = behind(int(resource_of(emulator.url).split("::")[2]), seed=2)
                settings = {"instrument": facts(), "network": NETWORK, "cost": MeanSquaredError(), "seed": 5}
                device = crossbar(
                    "write_verify", model=STEPS, resource=bridge.resource, timeout=0.2, patience=10.0, **settings
                )
                bridge.rates = rates
                device.execute([Program(np.random.default_rng(1).uniform(-0.5, 0.5, NETWORK.size))])
                outputs.append(device.execute([Measure(sample(), observe=Can.OUTPUT)])[0])
                assert set(bridge.struck) == set(rates)
                bridge.rates = {}
                device.close()
            finally:
                emulator.stop()
        assert np.array_equal(*outputs)
