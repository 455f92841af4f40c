"""Every way a port can disappoint: one message, with the next move."""

import contextlib
import errno
import os
import pty
import socket
import termios

import pytest
import serial

from hwtrain.devices import serial as ours
from hwtrain.devices.link import PortLost
from hwtrain.devices.serial import Opener, SerialPort
from hwtrain.errors import ConfigError, ConnectError


@pytest.fixture
def terminal():
    """A pseudo-terminal: our end, and the name of the other."""
    mine, theirs = pty.openpty()
    yield mine, os.ttyname(theirs)
    for end in (mine, theirs):
        with contextlib.suppress(OSError):
            os.close(end)


class TestOpening:
    def test_absent(self):
        with pytest.raises(ConnectError, match=r"/dev/ttyNOPE is not there.*cable.*Serial ports of this machine"):
            Opener("/dev/ttyNOPE")()

    def test_busy(self, terminal):
        first = Opener(terminal[1])()
        with pytest.raises(ConnectError, match=r"in use by another program.*Close it"):
            Opener(terminal[1])()
        first.close()
        Opener(terminal[1])().close()

    @pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
    def test_no_permission(self, terminal, monkeypatch, number):
        def refuse(self):
            raise serial.SerialException(number, f"could not open port: [Errno {number}] {os.strerror(number)}")

        monkeypatch.setattr(serial.Serial, "open", refuse)
        with pytest.raises(ConnectError, match=r"no permission.*dialout"):
            Opener(terminal[1])()

    def test_nobody_listens(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with pytest.raises(ConnectError, match=r"cannot be reached.*emulator or server run"):
            Opener(f"socket://127.0.0.1:{port}")()

    @pytest.mark.parametrize("url", ["nosuch://1", "socket://nowhere"])
    def test_no_such_url(self, url):
        with pytest.raises((ConfigError, ConnectError), match="socket://"):
            Opener(url)()

    def test_sockets_do_not_wait_for_more(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = Opener(f"socket://127.0.0.1:{server.getsockname()[1]}")()
            assert port._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            port.close()


class TestLosing:
    def test_what_is_written_comes_back(self, terminal):
        mine, name = terminal
        port = Opener(name)()
        assert port.read(0) == b""
        os.write(mine, b"abc")
        assert port.read(1) == b"abc"
        port.write(b"\0xyz")
        assert os.read(mine, 16) == b"\0xyz"
        port.close()
        port.close()

    def test_unplugged(self, terminal):
        mine, name = terminal
        port = Opener(name)()
        os.close(mine)
        with pytest.raises(PortLost):
            port.read(0)
        with pytest.raises(PortLost):
            port.write(b"abc")
        port.close()

    def test_the_other_end_closes(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = Opener(f"socket://127.0.0.1:{server.getsockname()[1]}")()
            other, _ = server.accept()
            other.close()
            with pytest.raises(PortLost):
                port.read(1)
            port.close()
            with pytest.raises(PortLost):
                port.read(1)

    @pytest.mark.parametrize(
        "error",
        [serial.SerialException("gone"), serial.SerialTimeoutException("full"), OSError(5, "gone"), termios.error(5)],
        ids=lambda error: type(error).__name__,
    )
    def test_all_families_of_exceptions(self, error):
        class Gone:
            def fail(self, *_):
                raise error

            read = write = close = fail
            in_waiting = property(fail)

        port = SerialPort(Gone())
        for call in (lambda: port.read(0), lambda: port.read(1), lambda: port.write(b"a")):
            with pytest.raises(PortLost):
                call()
        port.close()


def test_latency_of_an_adapter_is_read(tmp_path, monkeypatch):
    assert ours._latency("/dev/ttyNOPE") is None
    assert all(isinstance(found.device, str) for found in ours.find())
