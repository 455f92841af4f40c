"""A bench that is not there: a SCPI instrument on a TCP port, with a chip on it, that misbehaves on purpose."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
import time
from collections import Counter

import numpy as np


def xor_chip(volts, x):
    """2-2-1 sigmoid network whose weights are volts, as hwtrain lays its parameters out."""
    w1, b1, w2, b2 = volts[:4].reshape(2, 2), volts[4:6], volts[6:8], volts[8]
    hidden = 1 / (1 + np.exp(-(x @ w1 + b1)))
    return float(1 / (1 + np.exp(-(hidden @ w2 + b2))))


FAULTS = ("late", "garble", "close", "stale", "lost", "restart")


class Instrument:
    """DAC channels 1 to 11, ADC channel 1, the mandatory part of IEEE 488.2, an error queue.

    Args:
        rates: share of messages struck, by the names in FAULTS.
        late: how long a late answer is late [s].
        limits: of what may be set, (parameters, inputs); more is counted in `beyond`.
    """

    def __init__(self, rates=None, seed=0, late=0.08, limits=((-8.0, 8.0), (0.0, 1.0)), chip=xor_chip):
        self.rates, self.random, self.late, self.limits, self.chip = (
            rates or {},
            random.Random(seed),
            late,
            limits,
            chip,
        )
        self.struck, self.received, self.beyond, self.settings = Counter(), [], [], 0
        self.keep, self.silent, self.largest_step = False, False, 0.0
        self.messages = self.swallow = 0  # answers that get lost once their message is carried out
        self._power_on()
        self._old = b"0.123\n"
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.resource = f"TCPIP::127.0.0.1::{self.port}::SOCKET"
        self._link = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _power_on(self):
        self.volts = dict.fromkeys(range(1, 12), 0.0)
        self.on = dict.fromkeys(range(1, 12), False)
        self.esr, self.ese, self.sre, self.errors, self.last = 128, 0, 0, [], 0.0

    @property
    def safe(self):
        """Is nothing driven?"""
        return not any(self.on.values()) and not any(self.volts.values())

    def close(self):
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        if self._link is not None:
            with contextlib.suppress(OSError):
                self._link.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)

    def _serve(self):
        while True:
            try:
                self._link, _ = self._server.accept()
            except OSError:
                return
            self._link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._link as link:
                buffer = b""
                while True:
                    try:
                        data = link.recv(65536)
                    except OSError:
                        break
                    if not data:
                        break
                    *lines, buffer = (buffer + data).split(b"\n")
                    if not all(self._message(link, line) for line in lines):
                        break

    def _message(self, link, line):
        self.messages += 1
        if self.keep:
            self.received.append(line.decode())
        draw, name = self.random.random(), None
        for fault in FAULTS:
            draw -= self.rates.get(fault, 0.0)
            if draw < 0:
                name = fault
                break
        if name:
            self.struck[name] += 1
        if name == "lost" or self.silent:
            return True
        if name == "close" and self.random.random() < 0.5:
            return False
        if name == "restart":
            self._power_on()
            return self.random.random() < 0.5
        answers = [answer for unit in line.decode().split(";") if (answer := self._unit(unit.strip())) is not None]
        if name == "close":
            return False
        reply = (";".join(answers) + "\n").encode() if answers else b""
        if self.swallow:
            self.swallow -= 1
            return True
        if name == "late":
            time.sleep(self.late)
        if name == "garble" and reply:
            reply = bytearray(reply)
            reply[self.random.randrange(len(reply) - 1)] = self.random.choice(b"0123456789.-;#Ex\xff")
        if name == "stale":
            reply = self._old if self.random.random() < 0.5 else self._old + bytes(reply)
        elif reply and self.random.random() < 0.1:
            self._old = bytes(reply)
        try:
            link.sendall(reply)
        except OSError:
            return False
        return True

    def _unit(self, unit):
        if found := re.fullmatch(r":SOUR(\d+):VOLT (\S+)", unit):
            channel, value = int(found[1]), float(found[2])
            low, high = self.limits[channel > 9]
            if not low <= value <= high or "e" in found[2].lower():
                self.beyond.append((channel, found[2]))
            self.settings += 1
            self.largest_step = max(self.largest_step, abs(value - self.volts[channel]))
            self.volts[channel] = value
            return None
        if found := re.fullmatch(r":OUTP(\d+) (ON|OFF)", unit):
            self.on[int(found[1])] = found[2] == "ON"
            return None
        if unit == ":MEAS:VOLT? (@1)":
            driven = np.array([self.volts[i] if self.on[i] else 0.0 for i in range(1, 12)])
            self.last = self.chip(driven[:9], driven[9:])
            return f"{self.last:.9E}"
        if unit == ":FETC? (@1)":
            return f"{self.last:.9E}"
        if unit == "*IDN?":
            return "ACME,DACBOX,0,1.0"
        if unit == "*ESR?":
            now, self.esr = self.esr, 0
            return str(now)
        if found := re.fullmatch(r"\*ESE (\d+)", unit):
            self.ese = int(found[1])
            return None
        if found := re.fullmatch(r"\*SRE (\d+)", unit):
            self.sre = int(found[1])
            return None
        if unit == "*SRE?":
            return str(self.sre)
        if unit == "*ESE?":
            return str(self.ese)
        if unit == ":SYST:ERR?":
            return self.errors.pop(0) if self.errors else '0,"No error"'
        self.errors.append(f'-113,"Undefined header;{unit}"')
        self.esr |= 32
        return None
