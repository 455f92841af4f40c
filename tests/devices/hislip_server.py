"""A HiSLIP server (IVI-6.1) before an instrument that has a TCP port: what comes for one goes to the other.

    python -m tests.devices.hislip_server HOST PORT     prints the VISA resource, and serves until standard input ends

Synchronised mode, version 1.0, without encryption. Not the instrument's part is done here: message ids, maximum message
sizes, interrupted queries, device clear, status queries, exclusive locks. What a TCP port cannot tell stays untold: an
answer goes out under the id of the newest message, and an answer that the instrument still owes after a device clear
comes late.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import sys
import threading
from collections import Counter

HEADER = struct.Struct("!2sBBIQ")  # prologue "HS", type, control code, parameter, bytes of payload: IVI-6.1, 2.2
(
    INITIALIZE, INITIALIZE_RESPONSE, FATAL_ERROR, ERROR, ASYNC_LOCK, ASYNC_LOCK_RESPONSE, DATA, DATA_END,
    DEVICE_CLEAR_COMPLETE, DEVICE_CLEAR_ACKNOWLEDGE, REMOTE_LOCAL, REMOTE_LOCAL_RESPONSE, TRIGGER, INTERRUPTED,
    ASYNC_INTERRUPTED, MAXIMUM_SIZE, MAXIMUM_SIZE_RESPONSE, ASYNC_INITIALIZE, ASYNC_INITIALIZE_RESPONSE,
    ASYNC_DEVICE_CLEAR, SERVICE_REQUEST, STATUS_QUERY, STATUS_RESPONSE, ASYNC_DEVICE_CLEAR_ACKNOWLEDGE, LOCK_INFO,
    LOCK_INFO_RESPONSE,
) = range(26)  # fmt: skip
HEADER_WRONG, ONE_CHANNEL, NOT_INITIALIZED, NO_INSTRUMENT = 1, 2, 3, 128  # codes of FatalError
TYPE_UNKNOWN, CONTROL_UNKNOWN, TOO_LARGE = 1, 2, 4  # codes of Error
DELIVERED = 1  # control code of Data, DataEnd, Trigger and AsyncStatusQuery: the last answer was read to its end
MESSAGE_AVAILABLE = 16  # in the status byte
FIRST_ID = 0xFFFFFF00
VENDOR = int.from_bytes(b"HW", "big")
FAULTS = ("header", "cut")


class Fatal(Exception):
    """After which both channels are closed."""

    def __init__(self, code, words):
        super().__init__(words)
        self.code = code


def receive(link, count):
    """Exactly so many bytes.

    Raises:
        EOFError: the other end has closed.
    """
    data = bytearray()
    while len(data) < count:
        part = link.recv(min(count - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


def answer(stream):
    """One response message: a line, before which there may be a definite block (IEEE 488.2, 8.7.9); b"" at the end."""
    data = stream.read(1)
    if data == b"#":
        data += stream.read(1)
        if data[1:] in b"123456789":
            size = stream.read(int(data[1:]))
            data += size + (stream.read(int(size)) if size.isdigit() else b"")
    return data if data.endswith(b"\n") and data[:1] != b"#" else data + stream.readline()


class Channel:
    """One of the two connections of a session."""

    def __init__(self, link):
        self.link = link
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def hear(self, longest=1 << 30):
        """Type, control code, parameter and payload; None instead of a payload that is too large."""
        prologue, kind, control, parameter, length = HEADER.unpack(receive(self.link, HEADER.size))
        if prologue != b"HS":
            raise Fatal(HEADER_WRONG, f"a message begins with {prologue!r}, not with b'HS'")
        if length <= longest:
            return kind, control, parameter, receive(self.link, length)
        while length:
            length -= len(receive(self.link, min(length, 1 << 20)))
        return kind, control, parameter, None

    def say(self, kind, control=0, parameter=0, payload=b""):
        self.link.sendall(HEADER.pack(b"HS", kind, control, parameter, len(payload)) + payload)

    def close(self):
        with contextlib.suppress(OSError):
            self.link.shutdown(socket.SHUT_RDWR)
        self.link.close()


class Session:
    """One client: a synchronous and an asynchronous channel, and a connection of its own to the instrument."""

    def __init__(self, server, sync):
        self.server, self.sync, self.other = server, sync, None
        self.instrument = socket.create_connection(server.instrument, timeout=5)
        self.instrument.settimeout(None)
        self.instrument.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.state = threading.Lock()  # of all below, and of what is said on the synchronous channel
        self.message, self.input = FIRST_ID, b""
        self.unread = False  # has an answer gone out of which the client has not said that it read it to its end?
        self.clearing = False
        self.largest = 1 << 20  # that the client takes, header included

    def serve(self):
        """The synchronous channel."""
        reader = threading.Thread(target=self._answers, daemon=True)
        reader.start()
        try:
            while True:
                self._message(*self.sync.hear(self.server.largest - HEADER.size))
        except Fatal as error:  # said before the reader closes the channel
            with contextlib.suppress(OSError):
                self.sync.say(FATAL_ERROR, error.code, 0, str(error).encode())
        finally:
            with contextlib.suppress(OSError):
                self.instrument.shutdown(socket.SHUT_RDWR)
            reader.join(5)
            self.instrument.close()

    def _message(self, kind, control, parameter, payload):
        if kind == FATAL_ERROR:
            raise EOFError
        if self.other is None:
            raise Fatal(ONE_CHANNEL, "the asynchronous channel is not there yet")
        if payload is None:
            self.sync.say(ERROR, TOO_LARGE, 0, b"message too large")
        elif kind == DEVICE_CLEAR_COMPLETE:
            with self.state:
                self.clearing, self.unread, self.input, self.message = False, False, b"", FIRST_ID
                self.sync.say(DEVICE_CLEAR_ACKNOWLEDGE)
        elif kind in (DATA, DATA_END, TRIGGER):
            self.server.free_for(self)
            with self.state:
                if self.clearing:
                    return
                if not self.input and self.unread and not control & DELIVERED:  # IVI-6.1, 3.1.1
                    self.server.counts["interrupted"] += 1
                    self.sync.say(INTERRUPTED, 0, parameter)
                    self.other.say(ASYNC_INTERRUPTED, 0, parameter)
                if not self.input:
                    self.unread = False
                self.message = parameter
                if kind == TRIGGER:
                    return
                self.input += payload
                if kind == DATA:
                    return
                message, self.input = self.input, b""
            self.server.counts["messages"] += 1
            self.instrument.sendall(message if message.endswith(b"\n") else message + b"\n")  # END ends it
        elif kind != ERROR:
            self.sync.say(ERROR, TYPE_UNKNOWN, 0, f"message type {kind} is unknown here".encode())

    def _answers(self):
        """What the instrument says, to the client."""
        with contextlib.suppress(OSError), self.instrument.makefile("rb") as stream:
            while data := answer(stream):
                with self.state:
                    if not self.clearing:
                        self._say(data if self.server.newline else data.removesuffix(b"\n"))
                        self.unread = True
        self.close()  # the instrument has gone

    def _say(self, data):
        room = self.largest - HEADER.size
        while len(data) > room:
            self.sync.say(DATA, 0, self.message, data[:room])
            data = data[room:]
        whole = bytearray(HEADER.pack(b"HS", DATA_END, 0, self.message, len(data)) + data)
        fault = self.server.fault()
        if fault == "header":
            whole[self.server.random.randrange(HEADER.size)] ^= self.server.random.randrange(1, 256)
        self.sync.link.sendall(whole[: len(whole) // 2 + HEADER.size // 2] if fault == "cut" else whole)
        if fault == "cut":
            raise OSError("cut")

    def serve_other(self):
        """The asynchronous channel."""
        channel = self.other
        while True:
            kind, control, _, payload = channel.hear()
            if kind == FATAL_ERROR:
                return
            if kind == MAXIMUM_SIZE and len(payload) == 8:
                self.largest = max(struct.unpack("!Q", payload)[0], 2 * HEADER.size)
                channel.say(MAXIMUM_SIZE_RESPONSE, 0, 0, struct.pack("!Q", self.server.largest))
            elif kind == ASYNC_DEVICE_CLEAR:
                with self.state:
                    self.clearing, self.input = True, b""
                self.server.counts["device clear"] += 1
                channel.say(ASYNC_DEVICE_CLEAR_ACKNOWLEDGE)
            elif kind == STATUS_QUERY:
                with self.state:
                    self.unread = self.unread and not control & DELIVERED
                    channel.say(STATUS_RESPONSE, MESSAGE_AVAILABLE if self.unread else 0)
            elif kind == ASYNC_LOCK:
                channel.say(ASYNC_LOCK_RESPONSE, self.server.lock(self, control, payload))
            elif kind == LOCK_INFO:
                held = self.server.holder is not None
                channel.say(LOCK_INFO_RESPONSE, int(held), int(held))
            elif kind == REMOTE_LOCAL:
                channel.say(REMOTE_LOCAL_RESPONSE)
            elif kind != ERROR:
                channel.say(ERROR, TYPE_UNKNOWN, 0, f"message type {kind} is unknown here".encode())

    def close(self):
        self.server.unlock(self)
        for channel in (self.sync, self.other):
            if channel is not None:
                channel.close()


class Server:
    """Listens on a port of its own; each client gets a connection to the instrument.

    Args:
        instrument: its TCP port (host, port).
        newline: do answers end with one, as well as with END?
        largest: message that is taken, header included [bytes].
        rates: share of answers struck, by the names in FAULTS: a byte of the header wrong, closed in the middle.
        seed: of what is struck.

    Attributes:
        counts: messages, interrupted queries, device clears and sessions so far.
        struck: answers, by fault.
    """

    def __init__(self, instrument, *, newline=True, largest=1 << 20, rates=None, seed=0):
        self.instrument, self.newline, self.largest = instrument, newline, largest
        self.rates, self.random = rates or {}, random.Random(seed)
        self.counts, self.struck = Counter(), Counter()
        self.sessions, self.holder, self._freed = {}, None, threading.Condition()
        self._links = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.resource = f"TCPIP::127.0.0.1::hislip0,{self.port}::INSTR"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self):
        """May be called twice."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        for link, thread in list(self._links):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
            thread.join(5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def fault(self):
        """What the next answer is struck by, or None."""
        draw = self.random.random()
        for name in FAULTS:
            draw -= self.rates.get(name, 0.0)
            if draw < 0:
                self.struck[name] += 1
                return name
        return None

    def lock(self, session, control, name):
        """Exclusive locks alone; nobody waits for one. The code of AsyncLockResponse: IVI-6.1, 6.5."""
        with self._freed:
            if control == 1 and not name and self.holder in (None, session):
                self.holder = session
                return 1
            if control == 0 and self.holder is session:
                self.holder = None
                self._freed.notify_all()
                return 1
            return 0 if control == 1 and not name else 3

    def unlock(self, session):
        if self.holder is session:
            self.lock(session, 0, b"")

    def free_for(self, session):
        """Wait until nobody else has locked the instrument."""
        with self._freed:
            self._freed.wait_for(lambda: self.holder in (None, session))

    def _accept(self):
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(link,), daemon=True)
            self._links.add((link, thread))
            thread.start()

    def _serve(self, link):
        channel, session = Channel(link), None
        try:
            kind, control, parameter, payload = channel.hear(1 << 16)
            if kind == INITIALIZE and not control and payload in (b"", b"hislip0"):
                session = self._session(channel)
                session.serve()
            elif kind == ASYNC_INITIALIZE and parameter in self.sessions and self.sessions[parameter].other is None:
                session = self.sessions[parameter]
                session.other = channel
                channel.say(ASYNC_INITIALIZE_RESPONSE, 0, VENDOR)
                session.serve_other()
            else:
                raise Fatal(NOT_INITIALIZED, f"message type {kind} with {payload!r} does not begin a session")
        except Fatal as error:
            with contextlib.suppress(OSError):
                channel.say(FATAL_ERROR, error.code, 0, str(error).encode())
        except (OSError, EOFError):
            pass
        finally:
            channel.close()
            if session is not None:
                session.close()

    def _session(self, channel):
        try:
            session = Session(self, channel)
        except OSError as error:
            raise Fatal(NO_INSTRUMENT, f"the instrument behind cannot be reached: {error}") from error
        self.counts["sessions"] += 1
        number = self.counts["sessions"]
        self.sessions[number] = session
        channel.say(INITIALIZE_RESPONSE, 0, 0x0100 << 16 | number)  # version 1.0, synchronised
        return session


def main():
    """See the module."""
    with Server((sys.argv[1], int(sys.argv[2]))) as server:
        print(server.resource, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
