import json
import os
import pty
import threading

import pytest

from hwtrain import doctor
from hwtrain.devices import frames, messages
from hwtrain.devices.link import Link
from hwtrain.devices.serial import Found, Opener
from hwtrain.devices.wrappers import Recorded
from hwtrain.emulators import Emulator
from tests.emulators.conftest import needs


@pytest.fixture
def emulator():
    needs("host")
    emulator = Emulator("host", arguments=["--name", "bench 3"])
    yield emulator
    emulator.stop()


@pytest.fixture
def stranger():
    """A pseudo-terminal on which every piece that arrives is answered by a function."""
    open_ends = []

    def make(answer):
        mine, theirs = pty.openpty()
        open_ends.extend((mine, theirs))

        def serve():
            try:
                while True:
                    os.write(mine, answer(os.read(mine, 4096)))
            except OSError:
                pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        return os.ttyname(theirs)

    yield make
    for end in open_ends:
        os.close(end)


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(doctor, "PATIENCE", 0.3)
    monkeypatch.setattr(doctor, "find", lambda: iter(()))


def test_a_board_that_is_well(emulator, capsys):
    assert doctor.main([emulator.url]) == 0
    said = capsys.readouterr().out
    for part in (
        "bench 3, firmware",
        "fresh",
        "none loaded",
        "1048576 parameters",
        "round trip",
        "train",
        emulator.url,
    ):
        assert part in said
    assert "warning" not in said


def test_nothing_but_hello_is_sent_and_a_run_is_not_disturbed(emulator, tmp_path, monkeypatch, capsys):
    run = Link(Opener(emulator.url), "run")
    run.open()
    run.adopt()
    before = run.hello()
    run.close()
    path = tmp_path / "transcript.jsonl"
    monkeypatch.setattr(doctor, "Opener", lambda url, baudrate: Recorded(Opener(url, baudrate), path))
    assert doctor.main([emulator.url]) == 0
    assert f"taken by a host (boot id {before.boot:#010x})" in capsys.readouterr().out
    events = [json.loads(line) for line in path.read_text().splitlines()]
    sent = b"".join(bytes.fromhex(event.get("write", "")) for event in events)
    kinds = {frame.kind for frame in frames.Decoder().feed(sent)}
    assert kinds == {messages.Kind.HELLO}
    run.open()
    assert run.hello() == before
    run.close()


def test_a_slow_adapter(monkeypatch, emulator, capsys):
    monkeypatch.setattr(doctor, "find", lambda: iter([Found(emulator.url, "FT232R USB UART", 16)]))
    assert doctor.main([]) == 0
    said = capsys.readouterr().out
    assert "holds bytes back for 16 ms" in said
    assert "62 exchanges a second" in said
    assert "low_latency" in said


def test_nothing_is_there(capsys):
    assert doctor.main([]) == 2
    assert "No serial port" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("port", "said"),
    [("/dev/ttyNOPE", "not there"), ("socket://127.0.0.1:1", "cannot be reached"), ("nosuch://1", "device.port")],
)
def test_a_port_that_cannot_be_opened(port, said, capsys):
    assert doctor.main([port]) == 2
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda data: b"", "silent"),
        (lambda data: b"ERROR: unknown command\r\n\0", "not in frames of hwtrain"),
        (
            lambda data: b"".join(
                frames.encode(frames.Frame(9, frame.kind | 0x80, frame.sequence, 0, bytes([1, 9, 0, 0, 0])))
                for frame in frames.Decoder().feed(data)
            ),
            "speaks protocol 9",
        ),
    ],
    ids=["silence", "another language", "another version"],
)
def test_a_board_that_is_not_ours(stranger, answer, said, capsys):
    assert doctor.main([stranger(answer)]) == 2
    assert said in capsys.readouterr().out
