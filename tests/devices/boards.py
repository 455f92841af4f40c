"""Boards that suffer: ports that are pulled, restarts, and hosts that are killed."""

import json
import subprocess
from contextlib import contextmanager

import numpy as np

from hwtrain.devices.board import Board
from hwtrain.devices.link import Link, PortLost
from hwtrain.devices.serial import Opener
from hwtrain.emulators import Emulator
from tests.emulators.conftest import needs
from tests.processes import command, killed_ten_times


class Scripted:
    """A port that is pulled once, at a named moment."""

    def __init__(self, url, moment, after):
        self.url, self.moment, self.left = url, moment, after

    def __call__(self):
        self.port = Opener(self.url())()
        return self

    def _pull(self, moment):
        if moment == self.moment:
            self.left -= 1
            if self.left == 0:
                self.port.close()
                raise PortLost("pulled")

    def read(self, seconds):
        if seconds > 0:
            self._pull("wait")
        data = self.port.read(seconds)
        if data:
            self._pull("read")
        return data

    def write(self, data):
        if self.moment == "write":
            self.port.write(data[: len(data) // 2])
        self._pull("write")
        self.port.write(data if self.moment != "write" else data[len(data) // 2 :])

    def close(self):
        self.port.close()


class Restarting(Scripted):
    """A port whose board restarts three times, while a reply is waited for."""

    def __init__(self, emulator):
        super().__init__(lambda: emulator.url, "", 10**9)
        self.emulator, self.restarts = emulator, []

    def _pull(self, moment):
        if moment == "wait" and len(self.restarts) < 3:
            self.left -= 1
            if self.left == 0:
                self.left = 25
                self.restarts.append(self.emulator.restart())


@contextmanager
def restarting(board, *network):
    """A board that restarts three times, once it has its network: before, a restart costs nothing.

    Args:
        board: its name.
        network: what it computes, cost and limits too; see `Board`.
    """
    needs(board)
    emulator = Emulator(board)
    port = Restarting(emulator)
    device = Board(Link(port, board), *network)
    try:
        device.counters()
        port.left = 5
        yield device
    finally:
        device.close()
        emulator.stop()
    assert len(port.restarts) == 3
    restarts = device.counts()["disturbances"]["restarts"]
    assert 1 <= restarts <= 3  # one that comes while the board is being asked who it is costs nothing


def killed_as_calm(folder, words):
    """Train undisturbed, and on another board with hosts killed ten times; the runs must be the same to the last bit.

    Returns:
        The last parameters.
    """
    needs("host")
    calm, rough = folder / "calm", folder / "rough"
    emulator = Emulator("host")
    line = command(*words, f"device.port={emulator.url}", f"hydra.run.dir={calm}")
    subprocess.run(line, check=True, capture_output=True)
    emulator.stop()
    emulator = Emulator("host")
    lines = len((calm / "metrics.jsonl").read_text().splitlines())
    killed_ten_times(rough, (*words, f"device.port={emulator.url}"), lines)
    emulator.stop()
    runs = [json.loads((run / "run.json").read_text()) for run in (calm, rough)]
    for key in ("outcome", "steps", "counts", "metrics"):
        assert runs[0][key] == runs[1][key]
    with np.load(calm / "checkpoint.npz") as one, np.load(rough / "checkpoint.npz") as other:
        assert all(np.array_equal(one[key], other[key]) for key in one.files if key != "progress.seconds")
        return one["state.theta"]
