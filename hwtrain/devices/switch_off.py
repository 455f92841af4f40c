"""Switches an instrument off when whoever drives it is killed: `python -m hwtrain.devices.switch_off`.

The first line of standard input says what to do, as JSON; a second one that it was done properly. Standard input that
ends without is a driver that ended without, kill -9 included: then the instrument is reached anew, and told. Firmware
of ours has a watchdog instead; an instrument that takes one connection at a time takes this one, for the killed one's
is closed.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from hwtrain.devices.link import PortLost
from hwtrain.devices.visa import Address, Wire
from hwtrain.errors import HwtrainError

_PACKAGE = Path(__file__).parents[2]  # the folder that holds hwtrain
ATTEMPTS, PAUSE = 20, 0.25  # of connecting [s]


class Guard:
    """A process that waits for the end of this one.

    Args:
        address: of the instrument.
        messages: what switches it off.
    """

    def __init__(self, address: Address, messages: Sequence[bytes]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hwtrain.devices.switch_off"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(_PACKAGE), os.environ.get("PYTHONPATH", "")])},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the driver, which switches off by itself
        )
        work = {"address": asdict(address), "messages": [message.decode("latin-1") for message in messages]}
        self._tell(json.dumps(work))

    def dismiss(self) -> None:
        """Outputs are off; may be called twice."""
        if self._process.stdin is None or self._process.stdin.closed:
            return
        self._tell("done")
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended before, and guards no more
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()


def main() -> int:
    """Wait, and switch off if need be."""
    work = json.loads(sys.stdin.readline() or "null")
    if work is None or sys.stdin.readline():
        return 0
    for _ in range(ATTEMPTS):
        with contextlib.suppress(HwtrainError, PortLost):
            wire = Wire(Address(**work["address"]))
            for message in work["messages"]:
                wire.write(message.encode("latin-1"))
            wire.line(PAUSE)  # an answer, or time for the last of it to leave
            wire.close()
            return 0
        time.sleep(PAUSE)
    return 1


if __name__ == "__main__":
    sys.exit(main())
