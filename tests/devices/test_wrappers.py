"""Transcripts and faults, on a board of a few lines in a world whose time passes only while nothing comes."""

import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtrain.devices import frames, messages
from hwtrain.devices.frames import Decoder, Frame
from hwtrain.devices.link import Link, PortLost, Restarted
from hwtrain.devices.messages import Adopt, Digest, Hello, Kind, Read, Status, Store, Write, to_frame
from hwtrain.devices.wrappers import FAULTS, Faulty, Recorded, Replayed
from hwtrain.errors import ConnectError, ProtocolError, RecordError

ALL = dict.fromkeys(FAULTS, 0.03)
IDENTITY = struct.Struct("<4BIHHHHIIIHBBIB")


class World:
    """A board that appends what is written, its cable, and the time; calling it opens the port."""

    def __init__(self):
        self.now, self.stalled = 0.0, False
        self.decoder, self.waiting, self.port = Decoder(), [], None
        self.resets = self.stops = 0
        self.reset()

    def reset(self):
        self.resets += 1
        self.boot = self.expected = 0
        self.kept, self.values = {}, b""

    def stall(self, stop):
        self.stops += stop
        self.stalled = stop

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def __call__(self):
        self.port = Port(self)
        return self.port

    def work(self):
        """Carry out what has come, as firmware/PROTOCOL.md says."""
        while self.waiting and not self.stalled:
            frame = self.waiting.pop(0)
            payload = self.answer(frame)
            reply = Frame(1, frame.kind | messages.REPLY, frame.sequence, self.boot, payload)
            self.port.come += frames.encode(reply)

    def answer(self, frame):
        if frame.kind == Kind.HELLO:
            identity = IDENTITY.pack(1, 0, 1, 0, self.boot, self.expected, 512, 512, 511, 0, 9, 9, 9, 2, 4, 0, 4)
            return b"\0" + identity + b"fake" + bytes(12)
        if frame.kind == Kind.ADOPT:
            previous, boot = struct.unpack("<II", frame.payload)
            if self.boot not in (previous, boot):
                return struct.pack("<BI", Status.BAD_BOOT, self.boot)
            if self.boot != boot:
                self.boot, self.expected, self.kept = boot, 0, {}
            return struct.pack("<BIH", 0, self.boot, self.expected)
        if frame.boot != self.boot or not self.boot:
            return struct.pack("<BI", Status.BAD_BOOT, self.boot)
        if frame.sequence in self.kept:
            return self.kept[frame.sequence]
        if frame.sequence != self.expected:
            return struct.pack("<BI", Status.BAD_SEQUENCE, self.expected)
        self.expected = (self.expected + 1) & 0xFFFF
        self.kept = {**dict(list(self.kept.items())[-3:]), frame.sequence: self.carry_out(frame)}
        return self.kept[frame.sequence]

    def carry_out(self, frame):
        match frame.kind:
            case Kind.WRITE:
                self.values += frame.payload[4:]
                return b"\0"
            case Kind.READ:
                return b"\0" + self.values[-4 * struct.unpack("<IH", frame.payload)[1] :]
            case Kind.DIGEST:
                return b"\0" + struct.pack("<II", len(self.values) // 4, zlib.crc32(self.values))
        return struct.pack("<BI", Status.BAD_KIND, frame.kind)


class Port:
    def __init__(self, world):
        self.world, self.come, self.open = world, b"", True

    def read(self, seconds):
        if not self.open:
            raise PortLost("closed")
        self.world.work()
        if not self.come:
            self.world.now += max(seconds, 1e-3)
        data, self.come = self.come[:40], self.come[40:]
        return data

    def write(self, data):
        if not self.open:
            raise PortLost("closed")
        self.world.waiting += self.world.decoder.feed(data)

    def close(self):
        self.open = False


class Echo:
    """A port that returns what was written, one write per read."""

    def __init__(self):
        self.pieces, self.written = [], []

    def __call__(self):
        return self

    def read(self, seconds):
        return self.pieces.pop(0) if self.pieces else b""

    def write(self, data):
        self.written.append(data)
        self.pieces.append(data)

    def close(self):
        pass


def drive(link, steps):
    """Write numbers, two requests ahead; begin again after each restart. What was read and counted."""
    seen = []
    while True:
        try:
            link.adopt()
            link.exchange([Write(0, np.arange(3, dtype=np.float32))], [0.0])
            for step in range(len(seen), steps):
                write = Write(0, np.full(step % 5 + 1, step, np.float32))
                replies = link.exchange([write, Read(0, 1), Digest()], [0.0] * 3)
                seen.append((replies[1], Digest.unpack(replies[2])))
            return seen
        except Restarted:
            continue


def dialogue(connect, clock, sleep, boots, steps=20):
    link = Link(connect, "fake", 1e9, clock=clock, sleep=sleep, boots=boots)
    link.open()
    seen = drive(link, steps)
    link.close()
    return seen, link


def record(path, rates=None, seed=0, steps=20):
    world = World()
    faulty = Faulty(world, seed, rates or {}, 10**6, world.reset, world.stall)
    return *dialogue(Recorded(faulty, path), world.clock, world.sleep, iter(range(1000, 9999)).__next__, steps), faulty


def transcript(path, *events):
    lines = [{"transcript": 1}, {"open": True}, *events]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def wire(request, sequence=0, boot=0):
    return frames.encode(to_frame(request, sequence, boot))


class TestTranscript:
    def test_events(self, tmp_path):
        path, echo = tmp_path / "bench.jsonl", Echo()
        port = Recorded(echo, path, about={"board": "uno", "µ": 1})()
        port.write(b"\1\2")
        assert [port.read(0), port.read(0), port.read(0)] == [b"\1\2", b"", b""]
        port.close()
        port.close()
        header, *events = [json.loads(line) for line in path.read_text().splitlines()]
        assert header["transcript"] == 1
        assert header["about"] == {"board": "uno", "µ": 1}
        assert all(event.pop("seconds") >= 0 for event in events)
        assert events == [{"open": True}, {"write": "0102"}, {"read": "0102"}, {"timeout": True}, {"close": True}]

    def test_older_ones_are_kept(self, tmp_path):
        path = tmp_path / "bench.jsonl"
        for word in "abc":
            Recorded(Echo(), path, about={"word": word})
        words = [json.loads(Path(f"{path}{end}").read_text())["about"]["word"] for end in ("", ".1", ".2")]
        assert words == ["c", "a", "b"]
        assert len(list(tmp_path.iterdir())) == 3

    def test_a_killed_process_leaves_all_it_did(self, tmp_path):
        code = (
            "import os; from tests.devices.test_wrappers import *; port = Recorded(Echo(), 'bench.jsonl')();"
            "[(port.write(wire(Hello(), n)), port.read(0)) for n in range(50)]; os._exit(9)"
        )
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths})
        assert ended.returncode == 9
        port = Replayed(tmp_path / "bench.jsonl")()
        for number in range(50):
            port.write(wire(Hello(), number))
            assert port.read(0) == wire(Hello(), number)

    def test_cut_anywhere_it_is_readable_up_to_the_last_line(self, tmp_path):
        record(tmp_path / "whole.jsonl", steps=2)
        whole = (tmp_path / "whole.jsonl").read_bytes()
        for length in range(whole.index(b"\n") + 1, len(whole)):
            (tmp_path / "cut.jsonl").write_bytes(whole[:length])
            complete = whole[: length + 1].count(b"\n") + (whole[length : length + 1] not in b"\n")
            assert len(Replayed(tmp_path / "cut.jsonl")._steps) <= complete

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("", "not a transcript"),
            ('{"transcript": 99}\n', "not a transcript"),
            ('{"transcript": 1}\n{"wri\n{"open": true}\n', "damaged in line 2"),
            ('{"transcript": 1}\n{"write": "zz"}\n{"open": true}\n', "damaged in line 2"),
            ('{"transcript": 1}\n7\n{"open": true}\n', "damaged in line 2"),
        ],
    )
    def test_what_is_no_transcript(self, tmp_path, text, why):
        (tmp_path / "bench.jsonl").write_text(text)
        with pytest.raises(RecordError, match=why):
            Replayed(tmp_path / "bench.jsonl")

    def test_files_that_cannot_be_used(self, tmp_path):
        with pytest.raises(RecordError, match="cannot be read"):
            Replayed(tmp_path / "absent.jsonl")
        with pytest.raises(RecordError, match="cannot write"):
            Recorded(Echo(), tmp_path / "absent" / "bench.jsonl")


class TestReplayed:
    def replay(self, path, steps=20, boots=None):
        replay = Replayed(path)
        return dialogue(replay, replay.clock, replay.sleep, boots, steps)  # boot ids None: new and random

    def test_with_another_boot_id(self, tmp_path):
        seen, then, _ = record(tmp_path / "bench.jsonl")
        again, now = self.replay(tmp_path / "bench.jsonl")
        assert again == seen
        assert now._boot != then._boot
        assert now.traffic == then.traffic
        assert not now.disturbances

    @pytest.mark.parametrize("seed", range(10))
    def test_whatever_happened_then(self, tmp_path, seed):
        seen, then, faulty = record(tmp_path / "bench.jsonl", ALL, seed, 100)
        assert faulty.counts.total() > 50
        again, now = self.replay(tmp_path / "bench.jsonl", 100)
        assert again == seen
        assert now.disturbances == then.disturbances

    def test_silence_before_a_repeat(self, tmp_path):
        hello, answer = wire(Hello(), 1), frames.encode(Frame(1, 0x81, 1, 0, b"\0"))
        path = transcript(
            tmp_path / "bench.jsonl", {"write": hello.hex()}, {"write": hello.hex()}, {"read": answer.hex()}
        )
        replay = Replayed(path)
        port = replay()
        port.write(hello)
        assert [port.read(0.5), port.read(0), port.read(0.5)] == [b""] * 3
        assert replay.clock() == pytest.approx(1.001)
        port.write(hello)
        assert [port.read(0.5), port.read(0.5)] == [answer, b""]

    @given(st.lists(st.integers(1, 30), min_size=1))
    def test_however_writes_are_cut(self, tmp_path_factory, cuts):
        path = tmp_path_factory.getbasetemp() / "cuts.jsonl"
        sent = b"\0" + b"".join(wire(Store(n, np.zeros(20, np.float32)), n) for n in range(5))
        if not path.exists():
            transcript(path, {"write": sent[:7].hex()}, {"write": sent[7:].hex()}, {"read": "020100"})
        port, at = Replayed(path)(), 0
        while at < len(sent):
            for cut in cuts:
                assert port.read(0) == b""
                port.write(sent[at : at + cut])
                at += cut
                if at >= len(sent):
                    break
        assert port.read(0) == b"\2\1\0"

    def test_boot_ids_wherever_they_stand(self, tmp_path):
        def replies(boot):
            hello = IDENTITY.pack(1, 0, 1, 0, boot, 0, 512, 512, 511, 0, 9, 9, 9, 2, 4, 0, 0) + bytes(12)
            yield Frame(1, 0x81, 1, boot, b"\0" + hello)
            yield Frame(1, 0x82, 2, boot, b"\0" + struct.pack("<IH", boot, 0))
            yield Frame(1, 0x93, 3, boot, struct.pack("<BI", Status.BAD_BOOT, boot))
            yield Frame(1, 0x92, 4, boot, b"\0" + struct.pack("<I", 77))  # a value that looks like one
            yield Frame(1, 0x81, 1, boot, b"")

        then = b"".join(map(frames.encode, replies(77)))
        path = transcript(
            tmp_path / "bench.jsonl",
            {"write": wire(Adopt(0, 77)).hex()},
            {"read": then[:9].hex()},
            {"read": (then[9:] + b"\5\7damaged\0").hex()},
            {"write": wire(Adopt(77, 78), boot=77).hex()},
        )
        port = Replayed(path)()
        port.write(wire(Adopt(0, 256)))
        assert port.read(0) + port.read(0) == b"".join(map(frames.encode, replies(256))) + b"\5\7damaged\0"
        port.write(wire(Adopt(256, 3), boot=256))

    def test_a_departure_is_named(self, tmp_path):
        path = transcript(
            tmp_path / "bench.jsonl",
            {"write": wire(Digest(), 0, 5).hex()},
            {"write": wire(Write(0, np.ones(1)), 1, 5).hex()},
            {"read": "0101"},
        )
        port = Replayed(path)()
        port.write(wire(Digest(), 0, 5))
        then = r"at frame 2 .*Then it wrote WRITE number 1, 8 bytes \(00 00 00 00 00 00 80 3f\)"
        with pytest.raises(ProtocolError, match=then + r"; now it writes READ number 1, 6 bytes \(01 00 00 00 02 00\)"):
            port.write(wire(Read(1, 2), 1, 5))
        port = Replayed(path)()
        port.write(wire(Digest(), 0, 5))
        with pytest.raises(ProtocolError, match=then + r"; now it writes 3 bytes that are no frame \(09 09 09\)"):
            port.write(b"\t\t\t\0")
        port = Replayed(path)()
        with pytest.raises(ProtocolError, match=r"at frame 0 .*Then it wrote DIGEST number 0, .*now it opens the port"):
            port()
        port.write(wire(Digest(), 0, 5) + wire(Write(0, np.ones(1)), 1, 5))
        with pytest.raises(ProtocolError, match=r"at frame 3 .*Then something came; now it writes DIGEST number 2"):
            port.write(wire(Digest(), 2, 5))
        assert port.read(0) == b"\1\1"
        with pytest.raises(ProtocolError, match=r"at frame 4 .*Then the transcript ended; now"):
            port.write(wire(Digest(), 2, 5))

    def test_another_boot_id_must_be_one_that_was_given(self, tmp_path):
        path = transcript(tmp_path / "bench.jsonl", {"write": wire(Digest(), 0, 5).hex()})
        with pytest.raises(ProtocolError, match="departs"):
            Replayed(path)().write(wire(Digest(), 0, 6))

    def test_a_port_that_is_lost_and_stays_away(self, tmp_path):
        path = transcript(
            tmp_path / "bench.jsonl",
            {"read": "07"},
            {"lost": "unplugged"},
            {"close": True},
            {"absent": "no such port"},
            {"open": True},
            {"lost": "again", "unsent": "00"},
        )
        replay = Replayed(path)
        port = replay()
        assert port.read(0) == b"\7"
        with pytest.raises(ProtocolError, match="Then the port was lost; now it writes HELLO"):
            port.write(wire(Hello()))
        with pytest.raises(PortLost, match="unplugged"):
            port.read(0)
        with pytest.raises(ConnectError, match="no such port"):
            replay()
        with pytest.raises(PortLost, match="again"):
            replay().write(b"\0")


def exchange(faulty, pieces):
    """What comes out of a faulty port, operation by operation; the port is opened whenever it is lost."""
    out, port = [], None
    for piece in pieces:
        for name, argument in (("write", piece), ("read", 0)):
            try:
                port = port or faulty()
                out.append(getattr(port, name)(argument))
            except (PortLost, ConnectError) as error:
                out.append(type(error))
                port = None
    return out


class TestFaulty:
    PIECE = bytes(range(1, 33))

    def struck(self, name, *, read):
        """What comes of one piece, read or written, that is struck."""
        echo, stalls = Echo(), []
        faulty = Faulty(echo, 5, {name: 1.0}, limit=1, reset=lambda: stalls.append("reset"), stall=stalls.append)
        port = faulty()
        if read:
            echo.pieces.append(self.PIECE)
            came = [port.read(0), port.read(0)]
            echo.pieces.append(b"next")
            came += [port.read(0), port.read(0)]
        else:
            port.write(self.PIECE)
            port.write(b"next")
            came = echo.written
        assert faulty.counts == {name: 1}
        return [piece for piece in came if piece], stalls

    @pytest.mark.parametrize("read", [True, False], ids=["read", "write"])
    class TestOne:
        def test_flip(self, read):
            (first, last), _ = TestFaulty().struck("flip", read=read)
            assert last == b"next"
            assert len(first) == 32
            assert sum((a ^ b).bit_count() for a, b in zip(first, TestFaulty.PIECE, strict=True)) == 1

        def test_drop(self, read):
            (first, last), _ = TestFaulty().struck("drop", read=read)
            assert last == b"next"
            assert len(first) == 31
            assert set(first) < set(TestFaulty.PIECE)

        def test_duplicate(self, read):
            (first, last), _ = TestFaulty().struck("duplicate", read=read)
            assert last == b"next"
            assert len(first) == 33
            assert bytes(dict.fromkeys(first)) == TestFaulty.PIECE

        def test_cut(self, read):
            (first, last), _ = TestFaulty().struck("cut", read=read)
            assert last == b"next"
            assert 0 < len(first) < 32
            assert TestFaulty.PIECE.startswith(first)

        def test_split(self, read):
            (first, second, last), _ = TestFaulty().struck("split", read=read)
            assert first + second == TestFaulty.PIECE
            assert last == b"next"

        def test_join(self, read):
            assert TestFaulty().struck("join", read=read)[0] == [TestFaulty.PIECE + b"next"]

        def test_delay(self, read):
            pieces, _ = TestFaulty().struck("delay", read=read)
            assert pieces == ([TestFaulty.PIECE, b"next"] if read else [TestFaulty.PIECE + b"next"])

        def test_reset(self, read):
            assert TestFaulty().struck("reset", read=read) == ([TestFaulty.PIECE, b"next"], ["reset"])

        def test_unplug(self, read):
            refusals = set()
            for seed in range(40):
                echo = Echo()
                faulty = Faulty(echo, seed, {"unplug": 1.0}, limit=1)
                port = faulty()
                echo.pieces.append(TestFaulty.PIECE)
                with pytest.raises(PortLost, match="on purpose"):
                    port.read(0) if read else port.write(TestFaulty.PIECE)
                for operation in (lambda port=port: port.read(0), lambda port=port: port.write(b"x")):
                    with pytest.raises(PortLost, match="closed"):
                        operation()
                refused = 0
                while True:
                    try:
                        faulty().write(b"next")
                        break
                    except ConnectError:
                        refused += 1
                refusals.add(refused)
                assert echo.written[-1] == b"next"
                assert TestFaulty.PIECE.startswith(b"".join(echo.written[:-1]))
                assert faulty.counts == {"unplug": 1}
            assert refusals == {0, 1, 2, 3}

        def test_stall(self, read):
            lasted = set()
            for seed in range(60):
                echo, calls = Echo(), []
                faulty = Faulty(echo, seed, {"stall": 1.0}, limit=1, stall=calls.append)
                port, reads = faulty(), 0
                echo.pieces.append(TestFaulty.PIECE)
                port.read(0) if read else port.write(TestFaulty.PIECE)
                while calls == [True]:
                    port.read(0)
                    reads += 1
                assert calls == [True, False]
                lasted.add(reads)
            assert lasted == set(range(1, 9))

    def test_a_closed_port_stalls_nobody(self):
        calls = []
        port = Faulty(Echo(), 0, {"stall": 1.0}, limit=1, stall=calls.append)()
        port.write(b"x")
        port.close()
        port.close()
        assert calls == [True, False]

    def test_no_faults_is_no_change(self):
        pieces = [bytes(range(n)) for n in range(1, 50)]
        faulty = Faulty(Echo(), 0, dict.fromkeys(FAULTS, 0.0), 100, World().reset, World().stall)
        assert exchange(faulty, pieces)[1::2] == pieces
        assert not faulty.counts

    @given(st.integers(0, 2**32 - 1), st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=30))
    def test_same_seed_same_operations_same_faults(self, seed, pieces):
        rates, outcomes = dict.fromkeys(FAULTS, 0.1), []
        for order in (rates, dict(reversed(rates.items()))):
            calls = []
            faulty = Faulty(Echo(), seed, order, 100, lambda calls=calls: calls.append("reset"), calls.append)
            outcomes.append((exchange(faulty, pieces), faulty.counts, calls))
        assert outcomes[0] == outcomes[1]

    def test_other_seeds_other_faults(self):
        pieces = [TestFaulty.PIECE] * 50
        outcomes = [exchange(Faulty(Echo(), seed, {"flip": 0.5}, 100), pieces) for seed in (1, 2)]
        assert outcomes[0] != outcomes[1]

    @given(st.integers(0, 2**32 - 1), st.lists(st.binary(min_size=1, max_size=20), min_size=60, max_size=60))
    def test_pieces_may_change_but_no_byte_is_lost(self, seed, pieces):
        faulty = Faulty(Echo(), seed, {"split": 0.3, "join": 0.3, "delay": 0.3}, limit=10)
        port, out = faulty(), b""
        for piece in pieces:
            port.write(piece)
            out += port.read(0)
            assert b"".join(pieces).startswith(out)
        while piece := port.read(0):
            out += piece
        assert faulty.counts.total() == 10
        assert out == b"".join(pieces)

    def test_the_limit_and_the_rates_are_kept(self):
        faulty = Faulty(Echo(), 3, {"flip": 0.2, "drop": 0.05}, limit=10**6)
        exchange(faulty, [self.PIECE] * 10_000)
        assert faulty.counts["flip"] == pytest.approx(4000, abs=5 * (20_000 * 0.2 * 0.8) ** 0.5)
        assert faulty.counts["drop"] == pytest.approx(1000, abs=5 * (20_000 * 0.05 * 0.95) ** 0.5)
        faulty = Faulty(Echo(), 3, {"flip": 0.2, "drop": 0.05}, limit=17)
        exchange(faulty, [self.PIECE] * 1000)
        assert faulty.counts.total() == 17

    def test_ten_thousand_faults_and_every_request_once(self):
        world = World()
        rates = dict.fromkeys(("flip", "drop", "duplicate", "cut", "split", "join", "delay", "unplug", "stall"), 0.05)
        faulty = Faulty(world, 1, rates, 10_000, stall=world.stall)
        link = Link(faulty, "fake", 1e9, clock=world.clock, sleep=world.sleep)
        link.open()
        link.adopt()
        values = b""
        while faulty.counts.total() < 10_000:
            write = Write(0, np.float32([len(values)]))
            values += write.values.tobytes()
            read, digest = link.exchange([write, Read(0, 1), Digest()], [0.0] * 3)[1:]
            assert read == values[-4:]
            assert Digest.unpack(digest) == (len(values) // 4, zlib.crc32(values))
        assert set(faulty.counts) == set(rates)
        assert faulty.counts["stall"] == world.stops
