"""A running board: started, restarted, stopped, and never left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from hwtrain.emulators import images
from hwtrain.errors import ConnectError

START_TIME = 60.0  # seconds until a board must run; usual is a twentieth of one
ATTEMPTS = 5  # at a TCP port that nobody else takes meanwhile

_GUARD = Path(__file__).with_name("guard.py")
_PACKAGE = Path(__file__).parents[2]  # the folder that holds hwtrain
_QEMU = {
    "stm32f405": ("qemu-system-arm", "-M", "netduinoplus2", "-serial", "null"),  # USART2 is the second -serial
    "mps2_an385": ("qemu-system-arm", "-M", "mps2-an385"),
    "sifive_e": ("qemu-system-riscv32", "-M", "sifive_e"),
}


class Emulator:
    """A running board. pyserial opens its `url`.

    It ends with this object and with this process, however that ends.

    Args:
        board: one of `BOARDS`.
        route: "system", "pip", or "auto": whichever is installed, "system" first.
        arguments: more of them for the program that runs the board.
        cache: where firmware images are kept, by default in the user's cache folder.
        program: which firmware; "" is the trainable board, see `images.image`.

    Raises:
        ConfigError: no such board or route, or nothing is installed for it.
        DeviceError: the firmware does not build.
        ConnectError: the board ended while it started.
    """

    def __init__(
        self,
        board: str,
        route: str = "auto",
        arguments: Sequence[str] = (),
        cache: Path | None = None,
        program: str = "",
    ) -> None:
        self._image = images.image(board, route, cache, program)
        self._arguments = tuple(arguments)
        self.board = board
        self.route = self._image.route
        self.sizes = self._image.sizes
        self.output: list[str] = []  # what the program that ran the board has printed, once it is stopped
        self._complained: list[str] = []
        self._start()

    def restart(self) -> None:
        """Power off and on: the board forgets everything. `url` may be another."""
        self.stop()
        self._start()

    def pause(self) -> None:
        """Let the board hang until `resume`."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the board; it may have ended before."""
        if self._end.alive:
            self._process.kill()
            self._process.wait()
            self.output, self._complained = _lines(self._said), _lines(self._complaints)
            self._end()

    def _start(self) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            port = _free_port() if self.board in _QEMU and self.route == "system" else None
            self._launch(self._command(port))
            url = self._wait_until_ready(port)
            if url is not None:
                self.url = url
                return
            self.stop()
            taken = [line for line in self._complained if "in use" in line]
            if port is None or not taken or attempt == ATTEMPTS:
                complaint = (taken or self._complained or ["it said nothing"])[-1]
                raise ConnectError(f"the emulated {self.board!r} did not start: {complaint}")

    def _command(self, port: int | None) -> list[str]:
        elf = str(self._image.elf)
        if port is not None:
            wire = f"tcp:127.0.0.1:{port},server=on,wait=off,nodelay=on"
            line = [*_QEMU[self.board], "-serial", wire, "-display", "none", "-monitor", "none", "-kernel", elf]
        elif self.board == "host":
            line = [elf]
        elif self.route == "pip":
            line = [sys.executable, "-m", "hwtrain.emulators.cortex_m", elf]
        else:
            line = [str(self._image.folder / "simrun"), self.board, elf]
        return [*line, *self._arguments]

    def _launch(self, command: list[str]) -> None:
        self._said, self._complaints = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARD), *command],
            cwd=_PACKAGE,
            stdin=subprocess.PIPE,
            stdout=self._said,
            stderr=self._complaints,
            start_new_session=True,  # Ctrl-C is for the host, which rests the board first
        )
        self._end = weakref.finalize(self, _end, self._process, self._said, self._complaints)

    def _wait_until_ready(self, port: int | None) -> str | None:
        """The URL once the board can be reached there; None if it ends, or takes too long, and is to be given up."""
        until = time.monotonic() + START_TIME
        while time.monotonic() < until:
            if port is None:
                if ready := [line for line in _lines(self._said) if line.startswith("ready ")]:
                    return ready[0].removeprefix("ready ")
            elif _answers(port) and self._process.poll() is None:
                return f"socket://127.0.0.1:{port}"
            try:
                self._process.wait(0.002)
            except subprocess.TimeoutExpired:
                continue
            return None
        return None


def _end(process: subprocess.Popen[bytes], *files: IO[bytes]) -> None:
    process.kill()
    process.wait()
    for file in (process.stdin, *files):
        assert file is not None
        file.close()


def _lines(file: IO[bytes]) -> list[str]:
    """The lines written so far, without the one that is not complete."""
    written = os.fstat(file.fileno()).st_size
    text = os.pread(file.fileno(), written, 0)  # seeking would move the writer too
    return text.decode(errors="replace").split("\n")[:-1]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    """Whether QEMU runs its board: it listens earlier, but sees only then that this connection has ended."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.2) as connection:
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(1) == b""
    except OSError:
        return False
