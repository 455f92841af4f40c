"""One instrument on VISA: the only module that knows pyvisa.

It moves bytes and knows no commands. What is known to go wrong on this path is handled here: with pyvisa-py a
resource whose port is closed "opens", Nagle's delay stays on and its attribute cannot be set, a closed connection is
told from a silent one by nothing but patience, a read that times out throws away what it had, what a read may take is
all that the next write may, and two threads that share a session read each other's answers without an error. Families
of exceptions (VisaIOError, OSError, SerialException, plain Exception) become `PortLost` once the wire was open, and
before that one sentence with the next move.

Lines that carry messages, all but sockets and serial lines, mark a message's end themselves, so an answer may end
without a terminator. HiSLIP (IVI-6.1) also numbers messages: the client discards answers to questions before the last,
so nothing is cleared after a timeout. The device clear of pyvisa-py 0.8 fails when an answer or a notice of an
interrupted query is on its way, and leaves the instrument waiting for the end of the clear, deaf to all else.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time
import traceback
import warnings
from dataclasses import dataclass
from typing import Any

import pyvisa
from pyvisa import constants

from hwtrain import checks
from hwtrain.devices.link import PortLost
from hwtrain.errors import ConfigError, ConnectError

SLICE = 0.1  # longest wait at a time, after which a wire that has gone is noticed [s]
WRITING = 5.0  # for a message to be taken, beside the time of its bytes on a serial line [s]
PARITIES = ("none", "even", "odd")
_OK, _TERMINATOR = constants.StatusCode.success, constants.StatusCode.success_termination_character_read
_STREAMS = (pyvisa.resources.SerialInstrument, pyvisa.resources.TCPIPSocket)  # whose bytes know no messages


@dataclass(frozen=True, slots=True)
class Address:
    """Where an instrument is, and how its line is set.

    Args:
        resource: a VISA resource: TCPIP::host::port::SOCKET, TCPIP::host::hislip0::INSTR (HiSLIP; hislip0,port where
            the port is not 4880), TCPIP::host::INSTR (VXI-11), USB::..., ASRL/dev/ttyUSB0::INSTR.
        backend: of pyvisa: "@py" is pyvisa-py, "" the system's own VISA, "file.yaml@sim" pyvisa-sim.
        terminator: what ends a message each way.
        baudrate: of a serial line [bits per second].
        parity: of a serial line: none, even or odd.
        connect: how long opening may take [s]; pyvisa-py gives HiSLIP 5 s whatever it is.
    """

    resource: str
    backend: str = "@py"
    terminator: str = "\n"
    baudrate: int = 9600
    parity: str = "none"
    connect: float = 5.0

    def __post_init__(self) -> None:
        checks.text("device.resource", self.resource)
        checks.text("device.instrument.terminator", self.terminator)
        checks.whole("device.instrument.baudrate", self.baudrate, low=50, why="bits per second")
        checks.one_of("device.instrument.parity", self.parity, PARITIES)
        checks.number("device.connect", self.connect, low=0, above=True, why="seconds")


class Wire:
    """An open line to one instrument, for one thread at a time: see `hwtrain.devices.instruments.Talk`.

    Args:
        address: of the instrument.

    Raises:
        ConfigError: there is no such kind of resource, or nothing installed for it.
        ConnectError: nobody is there.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._instrument = _opened(address)
        self._visa, self._session = self._instrument.visalib, self._instrument.session
        self._quiet = self._instrument.ignore_warning(constants.StatusCode.success_max_count_read)
        self._quiet.__enter__()  # as many bytes as were asked for are no reason to warn
        self._end = address.terminator.encode()[-1:]
        interface = _interface_of(self._visa, self._session)
        self._socket = interface if isinstance(interface, socket.socket) else None
        self._numbered = _is_hislip(interface)
        self._messages = self._socket is None and not isinstance(self._instrument, _STREAMS)
        self._pending = b""
        self._over = False  # has the message that was read come to its end?
        self._waits = 0.0  # the timeout that pyvisa has been told [s]
        self._instrument.set_visa_attribute(constants.ResourceAttribute.termchar, self._end[0])
        self._instrument.set_visa_attribute(constants.ResourceAttribute.termchar_enabled, True)
        if self._socket is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(Exception):  # a read that times out then hands over what it has
                self._instrument.set_visa_attribute(constants.ResourceAttribute.suppress_end_enabled, False)
            if error := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.close()
                raise ConnectError(_nobody(address, OSError(error, "connection refused")))

    @property
    def nodelay(self) -> bool | None:
        """Is Nagle's delay off? None where there is none."""
        return None if self._socket is None else bool(self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def write(self, data: bytes) -> None:
        """All of it.

        Raises:
            PortLost: the instrument has gone, or takes no more.
        """
        if self._ended():
            raise PortLost("the instrument has closed the connection")
        if self._socket is None:
            self._allow(WRITING + 12 * len(data) / self.address.baudrate)
        sent = 0
        while sent < len(data):
            sent += int(self._guarded(self._visa.write, self._session, data[sent:])[0])

    def line(self, seconds: float) -> bytes | None:
        """What comes up to the next terminator or the message's end, without it; None if it has not come in `seconds`.

        Raises:
            PortLost: the instrument has gone.
        """
        until = time.monotonic() + seconds
        while self._end not in self._pending and not (self._over and self._pending):
            if not self._more(4096, until):
                return None
        line, _, self._pending = self._pending.partition(self._end)
        return line.removesuffix(b"\r")

    def exactly(self, count: int, seconds: float) -> bytes | None:
        """The next `count` bytes, whatever they are; None if they have not come within `seconds`.

        Raises:
            PortLost: the instrument has gone.
        """
        until = time.monotonic() + seconds
        while len(self._pending) < count:
            if not self._more(count - len(self._pending), until):
                return None
        data, self._pending = self._pending[:count], self._pending[count:]
        return data

    def drop(self) -> int:
        """Forget what has come and not been read; how many bytes. A device clear is sent where it helps: see above."""
        dropped, self._pending = len(self._pending), b""
        if self._socket is None and not self._numbered:
            with contextlib.suppress(PortLost):  # not every backend knows it; the next exchange tells a lost one
                self._guarded(self._instrument.clear)
        while self._more(4096, time.monotonic()):
            dropped, self._pending = dropped + len(self._pending), b""
        return dropped

    def close(self) -> None:
        """May be called twice."""
        with contextlib.suppress(Exception):  # it may have gone before
            self._instrument.close()
        if self._socket is not None:
            self._socket.close()

    def _more(self, count: int, until: float) -> bool:
        """Wait for more bytes; false when none came before `until`."""
        while True:
            left = until - time.monotonic()
            wait = max(min(left, SLICE if self._socket is not None else left), 1e-3)
            self._allow(wait)
            try:
                got, status = self._visa.read(self._session, count)
                data = bytes(got)
            except pyvisa.errors.VisaIOError as error:
                if error.error_code != constants.StatusCode.error_timeout:
                    raise PortLost(_one_line(error)) from error
                data, status = b"", None
            except Exception as error:  # OSError, SerialException, and what backends raise bare
                raise PortLost(_one_line(error)) from error
            self._over = self._messages and (  # pyvisa-py's HiSLIP calls the end of a message a terminator
                status == _OK or (status == _TERMINATOR and not data.endswith(self._end))
            )
            self._pending += data
            if data:
                return True
            if self._ended():
                raise PortLost("the instrument has closed the connection")
            if left <= wait:
                return False

    def _allow(self, seconds: float) -> None:
        """That a reading or a writing may take so long, or a little longer: telling pyvisa takes time."""
        if not seconds <= self._waits <= 1.05 * seconds:
            self._guarded(setattr, self._instrument, "timeout", 1000 * seconds)
            self._waits = seconds

    def _ended(self) -> bool:
        """Has the other end closed? pyvisa-py would take it for silence."""
        if self._socket is None:
            return False
        try:
            if not select.select([self._socket], [], [], 0)[0]:
                return False
            return not self._socket.recv(1, socket.MSG_PEEK)
        except (OSError, ValueError):
            return True

    def _guarded(self, call: Any, *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except Exception as error:
            raise PortLost(_one_line(error)) from error


def _opened(address: Address) -> Any:
    """The open resource. Its manager stays open: pyvisa hands the same one to everybody."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of packages that discovery would want
            manager = pyvisa.ResourceManager(address.backend)
    except Exception as error:
        raise ConfigError(
            f"device.backend={address.backend!r} cannot be used: {_one_line(error)}. "
            "Install pyvisa-py with `pip install 'hwtrain[visa]'`, or set device.backend='' for the system's own VISA."
        ) from error
    before = sys.exc_info()[1]  # where it is a connection lost that is made again
    more: dict[str, Any] = {}
    if address.resource.upper().startswith("ASRL"):
        more = {"baud_rate": address.baudrate, "parity": getattr(constants.Parity, address.parity)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            place = pyvisa.rname.parse_resource_name(address.resource)
            if isinstance(place, pyvisa.rname.TCPIPSocket):  # where the host is unknown, pyvisa-py leaves a socket open
                socket.getaddrinfo(place.host_address, int(place.port))
            return manager.open_resource(
                address.resource, open_timeout=int(1000 * address.connect), read_termination=None, **more
            )
    except (ValueError, pyvisa.rname.InvalidResourceName) as error:  # no such interface, or a package missing for it
        raise ConfigError(_no_resource(address, error)) from error
    except Exception as error:
        raise ConnectError(_nobody(address, _cause(error, before))) from error


def _cause(error: BaseException, before: BaseException | None) -> BaseException:
    """What began an error, after `before`. What pyvisa-py had opened until then, and left open, is let go of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while True:
            traceback.clear_frames(error.__traceback__)
            below = error.__cause__ or error.__context__
            if below is None or below is before:
                return error
            error = below


def _interface_of(visa: Any, session: Any) -> Any:
    """What is below a resource of pyvisa-py, with options that its attributes lack; None of another backend."""
    try:
        return visa.sessions[session].interface
    except (AttributeError, KeyError, TypeError):
        return None


def _is_hislip(interface: Any) -> bool:
    """Is it pyvisa-py's HiSLIP? Then what discards old answers is made to notice a connection closed within one."""
    module = sys.modules.get("pyvisa_py.protocols.hislip")
    if module is None or not isinstance(interface, module.Instrument):
        return False
    module.receive_flush = module.receive_exact  # type: ignore[attr-defined]  # its own would go round for ever
    return True


def _no_resource(address: Address, error: Exception) -> str:
    return (
        f"device.resource: {address.resource!r} cannot be used: {_one_line(error)}. Write it like "
        "TCPIP::192.168.0.5::5025::SOCKET, TCPIP::192.168.0.5::hislip0::INSTR, TCPIP::192.168.0.5::INSTR or "
        "ASRL/dev/ttyUSB0::INSTR."
    )


def _nobody(address: Address, error: BaseException) -> str:
    return (
        f"nobody answers at {address.resource}: {_one_line(error)}. Is the instrument on and connected, does it listen "
        "there, and is no other program using it?"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
