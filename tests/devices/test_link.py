"""Requests carried out exactly once, on a modelled board behind a modelled cable, in time that costs none."""

import struct
from collections import Counter
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwtrain.devices import frames, messages
from hwtrain.devices.frames import Decoder, Frame
from hwtrain.devices.link import SLOWEST, Link, PortLost, Restarted
from hwtrain.devices.messages import REPLY, Kind, Read, Status, Write
from hwtrain.errors import ConnectError, DeviceError, FirmwareError, ReplyTimeout

IDENTITY = struct.Struct("<4BIHHHHIIIHBBIB")
PATIENCE = 10.0  # seconds
FLIGHT = 1e-3  # of one frame, in either direction [s]


class Board:
    """As firmware/PROTOCOL.md says: what it carries out is counted, by boot id and frame."""

    def __init__(self, window=4, ring=512):
        self.window, self.ring, self.protocol = window, ring, messages.VERSION
        self.executed = Counter()
        self.restart()

    def restart(self):
        self.boot = self.expected = 0
        self.kept = {}

    def adopt(self, previous, boot):
        if self.boot not in (previous, boot):
            return struct.pack("<BI", Status.BAD_BOOT, self.boot)
        if self.boot != boot:
            self.boot, self.expected, self.kept = boot, 0, {}
        return struct.pack("<BIH", Status.OK, self.boot, self.expected)

    def answer(self, frame):
        match frame.kind:
            case Kind.HELLO:
                rooms = (512, 512, self.ring, 0, 9, 9, 9, 2, self.window)
                head = IDENTITY.pack(self.protocol, 0, 1, 0, self.boot, self.expected, *rooms, 0, 5)
                payload = b"\0" + head + b"model" + bytes(12)
            case Kind.ADOPT:
                payload = self.adopt(*struct.unpack("<II", frame.payload))
            case _ if frame.boot != self.boot or not self.boot:
                payload = struct.pack("<BI", Status.BAD_BOOT, self.boot)
            case _ if frame.sequence in self.kept:
                payload = self.kept[frame.sequence]
            case _ if frame.sequence != self.expected:
                payload = struct.pack("<BI", Status.BAD_SEQUENCE, self.expected)
            case _:
                payload = self.carry_out(frame)
                self.kept = {**dict(list(self.kept.items())[1 - self.window :]), frame.sequence: payload}
                self.expected = (self.expected + 1) & 0xFFFF
        return Frame(messages.VERSION, frame.kind | REPLY, frame.sequence, self.boot, payload)

    def carry_out(self, frame):
        """READ of parameter n says n; WRITE of parameter 13 is refused."""
        self.executed[frame.boot, frame] += 1
        if frame.kind == Kind.WRITE:
            unlucky = frame.payload[:4] == struct.pack("<I", 13)
            return struct.pack("<BI", Status.BAD_RANGE, 13) if unlucky else b"\0"
        return b"\0" + frame.payload[:4]

    def lives(self):
        """Numbers of the parameters that were read or written, in order, for every life in which there were any."""
        return list(self.by_boot().values())

    def by_boot(self):
        lives = {}
        for (boot, frame), times in self.executed.items():
            assert times == 1, frame
            lives.setdefault(boot, []).append(struct.unpack_from("<I", frame.payload)[0])
        return lives


class Bench:
    """A board, a cable that does as it is told, and a clock that moves only while somebody waits.

    A mishap takes the bench and a frame on its way, and says what arrives: pairs of a delay and bytes. `then` gives
    those of the next frames, one each; what comes after them is fine.
    """

    def __init__(self, **board):
        self.board, self.decoder, self.port = Board(**board), Decoder(), None
        self.now = self.busy = 0.0  # until when the board computes
        self.work = 0.0  # time that one request takes
        self.back = 0.0  # when the port can be opened again
        self.opened = 0
        self.noise = None  # makes what is read, if anything
        self.mishaps = {"request": iter(()), "reply": iter(()), "read": iter(())}
        self.events, self.order = [], count()
        self.boots = []  # ids that were handed out

    def link(self, patience=PATIENCE, timeout=1.0):
        return Link(self, "model", patience, timeout, lambda: self.now, self.sleep, self.name)

    def name(self):
        self.boots.append(1000 + len(self.boots))
        return self.boots[-1]

    def adopted(self, **more):
        link = self.link(**more)
        link.open()
        link.adopt()
        return link

    def then(self, way, *mishaps):
        self.mishaps[way] = iter(mishaps)

    def sleep(self, seconds):
        self.now += seconds

    def restart(self):
        self.board.restart()
        self.decoder, self.busy, self.events = Decoder(), self.now, []

    def __call__(self):
        if self.now < self.back:
            raise ConnectError("no such port")
        self.opened += 1
        self.port = Port(self)
        self.events = [event for event in self.events if event[2] == "done" and event[0] > self.now]
        return self.port

    def send(self, way, wire):
        for delay, piece in next(self.mishaps[way], fine)(self, wire):
            self.plan(self.now + FLIGHT + delay, way, piece)

    def plan(self, when, what, wire):
        self.events.append((when, next(self.order), what, wire))

    def read(self, seconds):
        next(self.mishaps["read"], fine)(self, b"")
        until = self.now + seconds
        if self.noise is not None:
            self.now += max(seconds, FLIGHT)
            return self.noise()
        while self.events and min(self.events)[0] <= until:
            event = min(self.events)
            self.events.remove(event)
            when, _, what, wire = event
            self.now = max(self.now, when)
            if what == "reply":
                return wire
            if what == "done":
                self.send("reply", wire)
                continue
            for frame in self.decoder.feed(wire):
                self.busy = max(self.now, self.busy) + (self.work if frame.kind not in (Kind.HELLO, Kind.ADOPT) else 0)
                self.plan(self.busy, "done", frames.encode(self.board.answer(frame)))
        self.now = until
        return b""


class Port:
    def __init__(self, bench):
        self.bench = bench

    def read(self, seconds):
        return self.use().read(seconds)

    def write(self, data):
        self.use().send("request", data)

    def close(self):
        self.bench.port = None

    def use(self):
        if self.bench.port is not self:
            raise PortLost("closed")
        return self.bench


def fine(bench, wire):
    return [(0, wire)]


def lost(bench, wire):
    return []


def damaged(bench, wire):
    middle = len(wire) // 2
    return [(0, wire[:middle] + bytes([wire[middle] ^ 16]) + wire[middle + 1 :])]


def cut(bench, wire):
    return [(0, wire[:7])]


def twice(bench, wire):
    return [(0, wire), (0, wire)]


def again(bench, wire):
    return [(0, wire), (0.3, wire)]


def late(bench, wire):
    return [(0.3, wire)]


def restart(bench, wire):
    bench.restart()
    return []


def unplugged(seconds=0.0):
    def mishap(bench, wire):
        bench.back = bench.now + seconds
        bench.port = None
        raise PortLost("unplugged")

    return mishap


def interrupted(bench, wire):
    raise KeyboardInterrupt


def taken_over(bench, wire):
    bench.board.adopt(bench.board.boot, 77)
    return [(0, wire)]


def reads(*numbers):
    return [Read(number, 1) for number in numbers]


def said(*numbers):
    return [struct.pack("<I", number) for number in numbers]


def ask(link, *numbers):
    """Read these parameters; what was said must be right."""
    assert link.exchange(reads(*numbers), [0.0] * len(numbers)) == said(*numbers)


class TestOpen:
    def test_who_is_there(self):
        link = Bench().link()
        assert link.open().name == "model"
        assert link.open().boot == 0
        assert link.traffic["frames sent"] == 2

    def test_a_board_that_resets_when_its_port_opens_is_waited_for(self):
        bench = Bench()
        bench.then("request", lost, lost)
        assert bench.link().open().name == "model"
        assert 2 < bench.now < 4

    def test_no_port(self):
        bench = Bench()
        bench.back = 1.0
        with pytest.raises(ConnectError, match="no such port"):
            bench.link().open()
        assert bench.now == 0

    def test_silence(self):
        bench = Bench()
        bench.then("request", *[lost] * 100)
        with pytest.raises(ConnectError, match=r"model is silent. Is a board .* at this baud rate"):
            bench.link().open()
        assert PATIENCE <= bench.now <= 2 * PATIENCE

    @pytest.mark.parametrize("values", [(0, 256), (1, 256)], ids=["any bytes", "no delimiters"])
    def test_noise(self, values):
        bench, random = Bench(), np.random.default_rng(0)
        bench.noise = lambda: random.integers(*values, 200, np.uint8).tobytes()
        with pytest.raises(ConnectError, match=r"not in frames of hwtrain .*Is the baud rate the board's"):
            bench.link().open()
        assert PATIENCE <= bench.now <= 2 * PATIENCE

    def test_frames_that_answer_nothing(self):
        bench = Bench()
        bench.noise = lambda: frames.encode(Frame(1, Kind.READ | REPLY, 1, 0, b"\0"))
        with pytest.raises(ConnectError, match="not in frames of hwtrain"):
            bench.link().open()
        assert PATIENCE <= bench.now <= 2 * PATIENCE

    def test_another_version_of_the_protocol(self):
        bench = Bench()
        bench.board.protocol = 2
        with pytest.raises(ConnectError, match=r"'model' speaks protocol 2, this hwtrain speaks 1. Flash the firmware"):
            bench.link().open()

    def test_a_version_that_refuses_to_talk(self):
        bench, refusal = Bench(), struct.pack("<BI", Status.BAD_VERSION, 3)
        bench.board.answer = lambda frame: Frame(3, frame.kind | REPLY, frame.sequence, 0, refusal)
        with pytest.raises(FirmwareError, match=r"the board speaks protocol 3, this hwtrain speaks 1. Flash matching"):
            bench.link().open()

    def test_a_port_that_opens_and_is_lost_at_once(self):
        bench = Bench()
        bench.then("request", *[unplugged()] * 10_000)
        with pytest.raises(ConnectError, match="silent"):
            bench.link().open()
        assert bench.now <= 2 * PATIENCE


class TestAdopt:
    def test_nothing_is_sent_before(self):
        bench = Bench()
        link = bench.link()
        link.open()
        with pytest.raises(Restarted):
            ask(link, 1)
        assert not bench.board.executed

    def test_a_restart_between_hello_and_adopt(self):
        bench = Bench()
        first = bench.adopted()
        ask(first, 1)
        bench.then("request", fine, restart)
        first.adopt()
        ask(first, 2)
        assert bench.board.lives() == [[1], [2]]

    def test_a_lost_reply_to_adopt(self):
        bench = Bench()
        link = bench.link()
        link.open()
        bench.then("reply", fine, lost)
        link.adopt()
        assert bench.board.boot == 1000
        ask(link, 1)

    def test_two_hosts_that_fight(self):
        bench = Bench()
        link, others = bench.link(), count(77)

        def race(bench, wire):
            bench.board.adopt(bench.board.boot, next(others))
            return [(0, wire)]

        bench.then("request", *[fine, race] * 100)
        with pytest.raises(DeviceError, match="taken over again and again; close the other program"):
            link.adopt()


class TestOnce:
    """One mishap: every request is carried out once, and what is said is right."""

    @pytest.mark.parametrize("window", [1, 2, 4])
    @pytest.mark.parametrize("struck", range(6))
    @pytest.mark.parametrize("way", ["request", "reply"])
    @pytest.mark.parametrize("mishap", [lost, damaged, cut, twice, again, late, unplugged(), unplugged(3.0)])
    def test_one_frame(self, mishap, way, struck, window):
        bench = Bench(window=window)
        link = bench.adopted()
        bench.then(way, *[fine] * struck, mishap)
        for begin in (0, 6, 12):
            ask(link, *range(begin, begin + 6))
        assert bench.board.lives() == [[*range(18)]]
        assert bench.now < 6

    def test_nothing_happens(self):
        bench = Bench()
        link = bench.adopted()
        for begin in range(0, 100, 10):
            ask(link, *range(begin, begin + 10))
        assert bench.board.lives() == [[*range(100)]]
        assert not link.disturbances
        assert link.traffic["frames sent"] == 3 + 100  # two HELLO, one ADOPT

    def test_numbers_begin_again_after_65536(self):
        bench = Bench()
        link = bench.adopted()
        for begin in range(0, 2**16 + 100, 256):
            bench.then("reply", lost)
            ask(link, *range(begin, begin + 256))
        assert bench.board.lives() == [[*range(2**16 + 256)]]

    def test_one_of_a_window_is_lost_and_all_after_it_go_again(self):
        bench = Bench()
        link = bench.adopted()
        sent = link.traffic["frames sent"]
        bench.then("request", fine, lost)
        ask(link, 1, 2, 3, 4)
        assert bench.board.lives() == [[1, 2, 3, 4]]
        assert link.traffic["frames sent"] - sent == 4 + 3
        assert link.disturbances == {"stale": 1, "repeated": 1}
        assert bench.now < 0.1  # the board said so: no time-out was waited for

    def test_a_request_is_written_out_when_it_is_due(self):
        """However many there are, the board hears of the first at once: it rests when the host is silent for long."""
        bench, ahead = Bench(window=2), []
        link = bench.adopted()

        class Due(Read):
            def pack(self):
                ahead.append(self.offset - sum(map(len, bench.board.lives())))
                return super().pack()

        link.exchange([Due(number, 1) for number in range(100)], [0.0] * 100)
        assert max(ahead) <= 2

    def test_window_and_ring_are_kept(self):
        bench = Bench(window=4, ring=200)
        link, most = bench.adopted(), []
        flying = []
        bench.then(
            "request", *[lambda bench, wire: flying.append(len(wire)) or most.append(flying[:]) or [(0, wire)]] * 40
        )
        bench.then("reply", *[lambda bench, wire: flying.pop(0) and [(0, wire)]] * 40)
        link.exchange([Write(n, np.ones(15)) for n in range(20, 30)] + reads(*range(10)), [0.0] * 20)
        assert max(map(sum, most)) <= 200
        assert max(map(len, most)) == 4
        assert max(len(each) for each in most[:9]) == 2  # of 79 bytes

    def test_a_frame_longer_than_the_ring_goes_alone(self):
        bench = Bench(ring=20)
        bench.adopted().exchange([Write(n, np.ones(15)) for n in range(3)], [0.0] * 3)
        assert bench.board.lives() == [[0, 1, 2]]

    def test_a_refusal_uses_up_a_number_and_the_exchange_is_complete(self):
        bench = Bench()
        link = bench.adopted()
        bench.then("reply", lost)
        with pytest.raises(FirmwareError, match="WRITE: parameter 13 would leave the board's limits"):
            link.exchange([Write(13, np.ones(1)), *reads(1, 2)], [0.0] * 3)
        ask(link, 3)
        assert bench.board.lives() == [[13, 1, 2, 3]]

    def test_late_copies_from_long_ago(self):
        bench = Bench()
        link = bench.adopted()
        bench.then("request", *[again] * 40)
        bench.then("reply", *[again] * 40)
        for number in range(60):
            ask(link, number)
            bench.sleep(0.05)
        assert bench.board.lives() == [[*range(60)]]

    def test_a_late_copy_of_a_refusal_is_no_answer(self):
        bench = Bench()
        link, bench.work = bench.adopted(), FLIGHT
        bench.then("request", lost)
        bench.then("reply", lambda bench, wire: [(0, wire), (4.5 * FLIGHT, wire)])  # 1 is out of turn; heard after 0
        ask(link, 0, 1, 2)
        assert bench.board.lives() == [[0, 1, 2]]
        assert link.disturbances["stale"] == 2

    def test_a_board_that_counts_otherwise_is_given_up(self):
        bench = Bench()
        link = bench.adopted()
        bench.board.expected = 40
        with pytest.raises(ReplyTimeout):
            ask(link, 0, 1)
        assert bench.now <= 2 * PATIENCE
        assert not bench.board.executed


class TestRestart:
    @pytest.mark.parametrize("struck", range(4))
    @pytest.mark.parametrize("way", ["request", "reply"])
    def test_is_told_and_nothing_is_carried_out_twice(self, way, struck):
        bench = Bench()
        link = bench.adopted()
        bench.then(way, *[fine] * struck, restart)
        with pytest.raises(Restarted):
            ask(link, *range(6))
        with pytest.raises(Restarted, match="adopted"):
            ask(link, 6)
        link.adopt()
        ask(link, *range(6))
        *before, last = bench.board.lives()
        assert last == [*range(6)]
        assert all(life == [*range(len(life))] for life in before)

    def test_while_the_cable_is_out(self):
        bench = Bench()
        link = bench.adopted()
        bench.then("request", lambda bench, wire: restart(bench, wire) or unplugged(2.0)(bench, wire))
        with pytest.raises(Restarted):
            ask(link, 1)
        link.adopt()
        ask(link, 1)
        assert bench.board.lives() == [[1]]

    @pytest.mark.parametrize("mishap", [taken_over, lambda *each: taken_over(*each) and unplugged()(*each)])
    def test_another_host_is_named(self, mishap):
        bench = Bench()
        link = bench.adopted()
        bench.then("request", mishap)
        with pytest.raises(DeviceError, match=r"another program has taken the board over .*0x0000004d") as caught:
            ask(link, 1)
        assert not isinstance(caught.value, Restarted)
        assert not bench.board.executed

    @pytest.mark.parametrize("when", range(4))
    def test_an_exchange_given_up_must_be_adopted_anew(self, when):
        bench = Bench()
        link = bench.adopted()
        bench.then("read", *[fine] * when, interrupted)
        with pytest.raises(KeyboardInterrupt):
            ask(link, *range(8))
        for _ in range(2):
            with pytest.raises(Restarted):
                ask(link, 8)
        link.adopt()
        ask(link, 8, 9)
        *before, last = bench.board.lives()
        assert last == [8, 9]
        assert all(life == [*range(len(life))] for life in before)


class TestLost:
    @pytest.mark.parametrize("way", ["request", "reply", "read"])
    def test_the_port_comes_back(self, way):
        bench = Bench()
        link = bench.adopted()
        bench.then(way, fine, unplugged(0.9 * PATIENCE))
        ask(link, *range(8))
        assert bench.opened == 2
        assert link.disturbances["lost ports"] == 1
        assert bench.board.lives() == [[*range(8)]]

    def test_it_is_lost_again_while_the_board_is_asked_who_it_is(self):
        bench = Bench()
        link = bench.adopted()
        bench.then("request", unplugged(), unplugged(1.0), fine, unplugged(2.0))
        ask(link, 1, 2)
        assert bench.opened == 4

    def test_it_stays_away(self):
        bench = Bench()
        link = bench.adopted()
        bench.then("request", unplugged(1000.0))
        with pytest.raises(
            ConnectError, match=r"did not come back within 10 s \(\d+ attempts\). The last: no such port"
        ):
            ask(link, 1)
        assert PATIENCE <= bench.now <= 2 * PATIENCE

    def test_it_comes_back_only_to_go(self):
        bench = Bench()
        link = bench.adopted()
        bench.then("request", *[unplugged(0.5), fine] * 1000)  # who is there is always answered
        with pytest.raises(ConnectError, match="goes away again and again"):
            ask(link, 1)
        assert PATIENCE <= bench.now <= 2 * PATIENCE

    def test_a_board_that_computes_meanwhile_is_waited_for(self):
        bench = Bench()
        link, bench.work = bench.adopted(), 40.0
        bench.then("read", *[fine] * 20, unplugged())
        assert link.exchange(reads(1), [bench.work / SLOWEST]) == said(1)
        assert bench.board.lives() == [[1]]

    def test_a_closed_link_may_be_closed_again(self):
        bench = Bench()
        link = bench.adopted()
        link.close()
        link.close()
        assert bench.port is None


class TestTime:
    @pytest.mark.parametrize("work", [0.0, 30.0])
    def test_silence_has_an_end(self, work):
        bench = Bench()
        link = bench.adopted()
        bench.then("request", *[lost] * 1000)
        with pytest.raises(ReplyTimeout, match=r"model: no reply to READ within .* Is the board powered"):
            link.exchange(reads(1), [work / SLOWEST])
        assert PATIENCE + work <= bench.now <= 2 * (PATIENCE + work)

    @pytest.mark.parametrize("flood", ["noise", "stale"])
    def test_so_has_babble(self, flood):
        bench = Bench()
        link = bench.adopted()
        stale = frames.encode(Frame(1, Kind.READ | REPLY, 99, 1000, b"\0"))
        bench.noise = {"noise": lambda: b"\7\7\7\0", "stale": lambda: stale}[flood]
        with pytest.raises(ReplyTimeout):
            ask(link, 1)
        assert PATIENCE <= bench.now <= 2 * PATIENCE

    def test_how_long_replies_take_is_learnt(self):
        bench = Bench()
        link = bench.adopted(timeout=1.0)
        bench.then("request", lost)
        ask(link, 0)
        assert bench.now > 1
        for number in range(30):
            ask(link, number + 1)
        before = bench.now
        bench.then("request", lost)
        ask(link, 31)
        assert bench.now - before < 0.1

    def test_slower_than_guessed_is_learnt_too(self):
        bench = Bench()
        link, bench.work = bench.adopted(timeout=1.0), 3.0
        ask(link, 0)
        assert link.disturbances["repeated"] > 0
        link.disturbances.clear()
        for number in range(1, 20):
            ask(link, number)
        assert not link.disturbances["repeated"]
        assert bench.board.lives() == [[*range(20)]]

    def test_a_board_that_computes_long_is_not_asked_again(self):
        bench = Bench()
        link, bench.work = bench.adopted(), 60.0
        assert link.exchange(reads(1, 2, 3), [bench.work / SLOWEST] * 3) == said(1, 2, 3)
        assert not link.disturbances


MISHAPS = {
    "request": [fine, lost, damaged, cut, twice, again, restart, unplugged(), unplugged(0.5)],
    "reply": [fine, lost, damaged, cut, twice, again, late, restart, unplugged(), unplugged(0.5)],
}


class TestAnything:
    @settings(max_examples=400, deadline=None)
    @given(
        *[st.lists(st.sampled_from(mishaps), max_size=40) for mishaps in MISHAPS.values()],
        st.lists(st.integers(1, 9), min_size=1, max_size=5),
        st.integers(1, 4),
    )
    def test_every_request_once_in_every_life(self, requests, replies, lengths, window):
        """However often the board restarts: what a life was told to do it did in order, once, until it ended."""
        bench = Bench(window=window)
        link = bench.link(patience=1e6)
        link.open()
        bench.then("request", *requests)
        bench.then("reply", *replies)
        told, adopted, at = {}, False, 0  # numbers asked for, by boot id
        while at < len(lengths):
            try:
                if not adopted:
                    link.adopt()
                    adopted, told[bench.boots[-1]] = True, []
                wanted = [*range(10 * at, 10 * at + lengths[at])]
                told[bench.boots[-1]] += wanted
                ask(link, *wanted)
                assert bench.board.by_boot()[bench.boots[-1]] == told[bench.boots[-1]]
                at += 1
            except Restarted:
                adopted = False
        for boot, numbers in bench.board.by_boot().items():
            assert numbers == told[boot][: len(numbers)]
