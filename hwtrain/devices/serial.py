"""A board on a serial port: the only module that knows pyserial.

Any URL that pyserial opens will do: /dev/ttyACM0, COM3, socket://host:port, rfc2217://host:port, hwgrep://VID:PID. What
goes wrong with a port comes in three families of exceptions (SerialException, OSError, termios.error); here they become
`PortLost` once it was open, and before that one sentence with the next move.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import serial
from serial.tools import list_ports
from serial.urlhandler import protocol_socket

from hwtrain import checks
from hwtrain.costs import Cost
from hwtrain.devices.board import Board
from hwtrain.devices.link import SLICE, Connect, Link, PortLost
from hwtrain.devices.spiking import Layered
from hwtrain.devices.wrappers import Recorded
from hwtrain.errors import ConfigError, ConnectError

try:
    import termios

    _GONE: tuple[type[Exception], ...] = (OSError, termios.error)
except ImportError:  # Windows has none
    _GONE = (OSError,)


class SerialBoard(Board):
    """A board with hwtrain's firmware on a serial port.

    Args:
        port: device name or URL of pyserial.
        network: what the board is to compute; see `Board`.
        cost: what it is to minimise.
        baudrate: bits per second; boards on USB ignore it.
        low: lowest parameter value; None is open.
        high: highest parameter value; None is open.
        patience: how long the board may be silent, or unplugged, before the run fails [s]; work is allowed for beside.
        watchdog: silence after which the board rests by itself [s]; 0 is never.
        dtr: state of the DTR line, which resets many boards when the port opens; None leaves it to the system.
        transcript: a file that keeps every byte, to be replayed without a bench; None is none.

    Raises:
        ConfigError: a setting is wrong, or network or cost do not fit the board.
        ConnectError: the port cannot be opened, or nothing there speaks our protocol; says which, and the next move.
    """

    def __init__(
        self,
        port: str,
        network: Layered,
        cost: Cost,
        baudrate: int = 115200,
        low: float | None = None,
        high: float | None = None,
        patience: float = 10.0,
        watchdog: float = 10.0,
        dtr: bool | None = None,
        transcript: str | None = None,
    ) -> None:
        checks.text("device.port", port)
        checks.whole("device.baudrate", baudrate, low=50, why="bits per second")
        checks.number("device.patience", patience, low=0, above=True, why="seconds")
        connect: Connect = Opener(port, baudrate, dtr)
        if transcript is not None:
            if not isinstance(transcript, str | Path):
                raise ConfigError(f"device.transcript must be a path, or null for none, not {transcript!r}")
            connect = Recorded(connect, transcript)
        super().__init__(Link(connect, port, patience), network, cost, low, high, watchdog)


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens a serial port, again and again.

    Args:
        url: device name or URL of pyserial.
        baudrate: bits per second.
        dtr: state of the DTR line; None leaves it to the system.
        write_timeout: a write that takes longer is a lost port [s].
    """

    url: str
    baudrate: int = 115200
    dtr: bool | None = None
    write_timeout: float = 5.0

    def __call__(self) -> SerialPort:
        """The open port.

        Raises:
            ConfigError: pyserial knows no such kind of URL.
            ConnectError: why it cannot be opened, and the next move.
        """
        try:
            port = serial.serial_for_url(self.url, self.baudrate, do_not_open=True)
            port.timeout, port.write_timeout = SLICE, self.write_timeout
            if "://" not in self.url:
                port.exclusive = True
            if self.dtr is not None:
                port.dtr = self.dtr
            port.open()
        except ValueError as error:
            raise ConfigError(
                f"device.port: {self.url!r} cannot be opened: {error}. Give a device such as /dev/ttyACM0 or COM3, or "
                "a URL such as socket://host:port."
            ) from error
        except _GONE as error:
            raise ConnectError(_why_not(self.url, error)) from error
        return SerialPort(port)


class SerialPort:
    """An open port of pyserial.

    Args:
        port: just opened.
    """

    def __init__(self, port: Any) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        if isinstance(port, protocol_socket.Serial):
            self._socket = port._socket
            assert self._socket is not None
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # pyserial leaves Nagle's delay on
            self._socket.settimeout(SLICE)

    def read(self, seconds: float) -> bytes:
        """What has come, at the latest after `SLICE` or at once where `seconds` is 0.

        Raises:
            PortLost: the port has gone.
        """
        try:
            if self._socket is not None:
                return self._read_socket(seconds)
            waiting = self._port.in_waiting
            if seconds <= 0 or waiting:
                return bytes(self._port.read(waiting))
            first = bytes(self._port.read(1))
            return first + bytes(self._port.read(self._port.in_waiting)) if first else b""
        except _GONE as error:
            raise PortLost(str(error)) from error

    def write(self, data: bytes) -> None:
        """All of it.

        Raises:
            PortLost: the port has gone, or takes no more.
        """
        try:
            self._port.write(data)
        except _GONE as error:
            raise PortLost(str(error)) from error

    def close(self) -> None:
        """May be called twice."""
        with contextlib.suppress(*_GONE):  # it may have gone before
            self._port.close()
        if self._socket is not None:
            self._socket.close()  # pyserial leaves one open whose other end has gone

    def _read_socket(self, seconds: float) -> bytes:
        """Pyserial reads sockets byte by byte; this is the same in one go."""
        assert self._socket is not None
        self._socket.settimeout(min(max(seconds, 1e-4), SLICE))
        try:
            received = self._socket.recv(65536)
        except TimeoutError:
            return b""
        if not received:
            raise PortLost("the other end has closed the connection")
        return received


@dataclass(frozen=True, slots=True)
class Found:
    """A serial port of this machine.

    Args:
        device: what to give as device.port.
        description: what the system says of it.
        latency: of an FTDI adapter [ms]; None where there is none to read.
    """

    device: str
    description: str
    latency: int | None


def find() -> Iterator[Found]:
    """The serial ports of this machine."""
    for port in sorted(list_ports.comports()):
        yield Found(port.device, port.description or "", _latency(port.device))


def _latency(device: str) -> int | None:
    try:
        with open(f"/sys/bus/usb-serial/devices/{os.path.basename(device)}/latency_timer") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def _why_not(url: str, error: Exception) -> str:
    """Why a port cannot be opened, and what to do."""
    number = getattr(error, "errno", None)
    if number is None and isinstance(error.args[0] if error.args else None, int):
        number = error.args[0]
    text = str(error)
    ports = ", ".join(found.device for found in find()) or "none"
    if number in (errno.EACCES, errno.EPERM) or "PermissionError" in text:
        return (
            f"{url}: no permission. Add yourself to the group that owns it (sudo usermod -a -G dialout $USER on most "
            "systems, then log in again); on Windows, close the other program that uses it."
        )
    if number in (errno.EBUSY, errno.EAGAIN) or "exclusively lock" in text:
        return f"{url} is in use by another program (a serial monitor?). Close it and try again."
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO) or "FileNotFoundError" in text:
        return f"{url} is not there. Is the cable plugged in? Serial ports of this machine: {ports}."
    if "://" in url:
        return f"{url} cannot be reached: {text}. Does the emulator or server run, and at this port?"
    return f"{url} cannot be opened: {text}. Serial ports of this machine: {ports}."
