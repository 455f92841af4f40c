"""Boards in emulators: started, restarted, paused, stopped, and never left behind."""

import gc
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hwtrain.devices import messages
from hwtrain.emulators import Emulator, emulator, images
from hwtrain.errors import ConfigError, ConnectError
from tests.firmware.boards import PATIENCE, Link

PACKAGE = Path(emulator.__file__).parents[2]
ROUTES = [("host", "system"), ("host", "pip"), ("stm32f405", "system"), ("stm32f405", "pip"), ("atmega328p", "system")]


@pytest.fixture(params=ROUTES, ids="-".join)
def route(request):
    return installed(*request.param)


def installed(*route):
    try:
        images.choose(*route)
    except ConfigError as error:
        pytest.skip(str(error))
    return route


@pytest.fixture
def board(route, kept):
    """A running board."""
    running = Emulator(*route, cache=kept)
    yield running
    running.stop()


def is_there(url):
    """Whether anybody listens at a board's URL."""
    if url.startswith("/"):
        return Path(url).exists()
    try:
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=PATIENCE).close()
    except ConnectionError:
        return False
    return True


def has_gone(url):
    until = time.monotonic() + PATIENCE
    while is_there(url):
        assert time.monotonic() < until, f"{url} is still there"
        os.sched_yield()
    return True


class TestEmulator:
    def test_runs_the_board_that_was_asked_for(self, board, route):
        assert (board.board, board.route) == route
        assert {"flash", "ram"} <= set(board.sizes)
        link = Link(board.url)
        assert link.hello().name == board.board
        link.close()

    def test_restart_forgets_everything(self, board):
        link = Link(board.url)
        link.adopt()
        assert link.hello().boot
        link.close()
        board.restart()
        link = Link(board.url)
        assert not link.hello().boot
        link.close()

    def test_a_paused_board_is_silent_until_it_goes_on(self, board):
        link = Link(board.url)
        link.hello()
        board.pause()
        link.send(messages.to_frame(messages.Hello()))
        assert link.receive() == b""
        board.resume()
        link.hello()
        link.close()

    def test_stop_may_be_called_twice_and_on_a_paused_board(self, board):
        url = board.url
        board.pause()
        board.stop()
        board.stop()
        board.pause()
        assert has_gone(url)
        board.restart()
        assert is_there(board.url)

    def test_ends_with_its_object(self, route, kept):
        url = Emulator(*route, cache=kept).url
        gc.collect()
        assert has_gone(url)

    def test_says_why_it_did_not_start(self, route, kept):
        with pytest.raises(ConnectError, match=rf"the emulated '{route[0]}' did not start: .*(usage|invalid option)"):
            Emulator(*route, arguments=["-nonsense"], cache=kept)

    def test_keeps_what_was_printed(self, kept):
        twin = Emulator("host", cache=kept, arguments=["--name", "bench 3"])
        twin.stop()
        assert twin.output == [f"ready {twin.url}"]


def test_another_port_is_tried_where_one_is_taken(kept, monkeypatch):
    installed("stm32f405", "system")
    free_port = emulator._free_port
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = [taken.getsockname()[1], taken.getsockname()[1], free_port()]
        monkeypatch.setattr(emulator, "_free_port", lambda: ports.pop(0))
        board = Emulator("stm32f405", "system", cache=kept)
        assert not ports
        board.stop()
        monkeypatch.setattr(emulator, "_free_port", lambda: taken.getsockname()[1])
        with pytest.raises(ConnectError, match="in use"):
            Emulator("stm32f405", "system", cache=kept)


PARENT = """
import os, pathlib, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell has it ignored, as behind an &
from hwtrain.emulators import Emulator
board, route, cache, way = sys.argv[1:]
made = []
thread = threading.Thread(target=lambda: made.append(Emulator(board, route, cache=pathlib.Path(cache))))
thread.start()
thread.join()  # the board must outlive the thread that started it
if way == "kill while paused":
    made[0].pause()
try:
    print(made[0].url, flush=True)
    sys.stdin.readline()
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.stdin.readline()
if way == "exception":
    raise RuntimeError("on purpose")
if way == "exit":
    sys.exit()
if way == "abrupt exit":
    os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"""


class TestNothingIsLeftBehind:
    @pytest.fixture(params=[("host", "system"), ("stm32f405", "system"), ("stm32f405", "pip")], ids="-".join)
    def route(self, request):
        return installed(*request.param)

    @pytest.fixture
    def parent(self, request, route, kept):
        """Another process with a board, about to end in some way, and the board's URL."""
        line = [sys.executable, "-c", PARENT, *route, str(kept), getattr(request, "param", "exit")]
        with subprocess.Popen(
            line, cwd=PACKAGE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            start_new_session=True,
        ) as process:  # fmt: skip
            yield process, process.stdout.readline().strip()
            process.kill()

    @pytest.mark.parametrize("parent", ["exit", "exception", "abrupt exit", "kill", "kill while paused"], indirect=True)
    def test_when_its_process_ends(self, parent):
        process, url = parent
        assert is_there(url)
        process.communicate("go on\n", timeout=PATIENCE)
        assert has_gone(url)

    def test_and_ctrl_c_reaches_the_process_alone(self, parent):
        process, url = parent
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        link = Link(url)
        link.hello()
        link.close()


class TestCortexM:
    """What is particular to the board in Unicorn."""

    @pytest.fixture
    def link(self, kept):
        board = Emulator(*installed("stm32f405", "pip"), cache=kept)
        link = Link(board.url)
        link.adopt()
        yield link
        link.close()
        board.stop()

    def test_silence_makes_it_rest(self, link):
        """Milliseconds pass while it sleeps."""
        link.do(messages.Watchdog(50))
        link.port.read(1)  # nothing comes: half a second of silence
        assert messages.Counters.unpack(link.do(messages.GetCounters())).rests == 1

    def test_a_pulled_cable_loses_nothing(self, link):
        link.close()
        link.open()
        assert link.hello().boot == link.boot

    def test_more_bytes_than_it_takes_at_once(self, link):
        frame = messages.to_frame(messages.Hello())
        for _ in range(50):
            link.send(frame)
        link.do(messages.Rest())
        assert messages.Counters.unpack(link.do(messages.GetCounters())).overruns == 0

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ((0x4800, 0x6800, 0x0000, 0x9000), "the firmware failed at 0x8000"),  # a word from nowhere
            ((0xDF00,), "the firmware caused exception"),  # a supervisor call
            ((0xBF30,), "the firmware sleeps without waiting for bytes"),  # WFI
        ],
        ids=["memory", "call", "sleep"],
    )
    def test_firmware_that_goes_astray_ends_it(self, code, message, tmp_path):
        """Two words of vector table, then Thumb code, in an ELF file with nothing else."""
        installed("stm32f405", "pip")
        program = struct.pack(f"<II{len(code)}H", 0x20020000, 0x08000009, *code)
        head = struct.pack("<16s2H5I6H", b"\x7fELF\1\1\1", 2, 40, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0)
        head += struct.pack("<8I", 1, 84, 0x08000000, 0x08000000, len(program), len(program), 5, 4)
        (tmp_path / "astray.elf").write_bytes(head + program)
        line = [sys.executable, "-m", "hwtrain.emulators.cortex_m", str(tmp_path / "astray.elf")]
        done = subprocess.run(line, cwd=PACKAGE, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 1
        assert done.stderr.startswith(message)
