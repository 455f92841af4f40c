"""Training through faults: the same run undisturbed, and with so many of them injected from a seed.

    python benchmarks/faults.py [faults] [board] [--on-device]

The parameters must be the same to the last bit. Exclusive or, all four patterns at once; enough steps that all faults
come.
"""

import sys
import time
import zlib

from hwtrain.algorithms.mgd import MGD
from hwtrain.costs import MeanSquaredError
from hwtrain.devices.board import Board
from hwtrain.devices.link import Link
from hwtrain.devices.serial import Opener
from hwtrain.devices.wrappers import FAULTS, Faulty
from hwtrain.emulators import Emulator
from hwtrain.perturb import Rademacher
from hwtrain.recorder import InMemory
from hwtrain.sim.networks import mlp
from hwtrain.tasks.parity import parity
from hwtrain.trainer import Budget, Trainer

RATES = dict.fromkeys(FAULTS, 0.03) | {"unplug": 0.02, "stall": 0.01, "reset": 0.003}  # per read or write


def run(board: str, steps: int, faults: int, on_device: bool) -> tuple[int, Faulty]:
    """Train; CRC-32 of the parameters, and the faults that happened."""
    emulator = Emulator(board)
    faulty = Faulty(
        lambda: Opener(emulator.url)(),
        seed=7,
        rates=RATES,
        limit=faults,
        reset=emulator.restart,
        stall=lambda stop: emulator.pause() if stop else emulator.resume(),
    )
    device = Board(Link(faulty, board, timeout=0.2), mlp([2, 2, 1]), MeanSquaredError(), -10, 10)
    rule = MGD(eta=1.0, perturbation=Rademacher(amplitude=0.0167), probes=10, on_device=on_device)
    began = time.monotonic()
    try:
        trainer = Trainer(rule, device, parity(2, 4), MeanSquaredError(), Budget(steps=steps), InMemory())
        theta = trainer.run().state.theta
        print(
            f"{faults} faults at most: {time.monotonic() - began:.0f} s, parameters {zlib.crc32(theta.tobytes()):08x}"
        )
        print("  injected:", dict(faulty.counts), "in all", sum(faulty.counts.values()))
        print("  survived:", dict(device.counts()["disturbances"]), flush=True)
    finally:
        device.close()
        emulator.stop()
    return zlib.crc32(theta.tobytes()), faulty


def main() -> int:
    words = [word for word in sys.argv[1:] if word != "--on-device"]
    faults = int(words[0]) if words else 10_000
    board, on_device = words[1] if len(words) > 1 else "host", "--on-device" in sys.argv
    steps = faults * (20 if on_device else 2)
    calm, _ = run(board, steps, 0, on_device)
    rough, faulty = run(board, steps, faults, on_device)
    injected = sum(faulty.counts.values())
    print("the same bits" if calm == rough else "DIFFERENT PARAMETERS", f"after {injected} faults")
    return 0 if calm == rough and injected == faults else 1


if __name__ == "__main__":
    sys.exit(main())
