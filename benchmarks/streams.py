"""Spoken digits learnt in time by a board itself, from one recording after another that the host streams to it.

    python benchmarks/streams.py [--board host|stm32f405|...] [--rule local|target|frozen] [--recordings 2700]
        [--neurons 64] [--rate 0.003] [--readout-rate 0.001] [--no-test]

FSDD, 32-64-10, soft reset, decay 0.95, threshold 1, integrators (0.99, gain 0.1), plain descent after every step of
16 ms, each recording heard once an epoch: conf/experiment/boards_fsdd.yaml. Held-out accuracy, the class being that of
the mean softmax, after every epoch; and the CRC-32 of the parameters, which is that of every board.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from hwtrain.algorithms.osttp import OSTTP
from hwtrain.core import Sample
from hwtrain.costs import CrossEntropy
from hwtrain.devices.emulated import Emulated
from hwtrain.evaluation import Evaluation
from hwtrain.optimize import Descent
from hwtrain.recorder import InMemory
from hwtrain.sim.neurons import LayerGains, Surrogate
from hwtrain.sim.spiking import snu
from hwtrain.tasks.recordings import fsdd
from hwtrain.trainer import Budget, Trainer

EPOCH, STEPS, BLOCK = 2700, 48, 50  # recordings; steps of one, those after its end included; recordings at once


class Untested:
    """The task, with one recording to test on: on an emulated board a test takes longer than some blocks."""

    def __init__(self) -> None:
        self._task = fsdd(batch=1)
        self.name, self.inputs, self.outputs = self._task.name, self._task.inputs, self._task.outputs
        self.sample = self._task.sample

    def held_out(self, limit: int) -> Sample:
        """The first."""
        return self._task.held_out(1)

    seen = held_out


class Printed(InMemory):
    """Prints accuracy after every epoch; keeps what had crossed the wire when the first test came."""

    def __init__(self, device: Emulated, name: str) -> None:
        super().__init__(every=BLOCK * STEPS)
        self._device, self._name = device, name
        self.steps, self.traffic = 0, {"bytes sent": 0, "bytes received": 0}
        self.tested = False

    def line(self, values: Mapping[str, Any]) -> None:
        """Of training, or of a test."""
        super().line(values)
        if "test_accuracy" in values:
            self.tested = True
            accuracy, cost = float(values["test_accuracy"]), float(values["test_cost"])
            recordings = values["step"] // STEPS
            print(f"{self._name}: {recordings} recordings, accuracy {accuracy:.3f}, cost {cost:.3f}", flush=True)
        elif not self.tested:
            self.steps, self.traffic = values["baseline"], dict(self._device.counts()["traffic"])


def main() -> None:
    """Learn, and print what it came to after every epoch."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--board", default="host")
    parser.add_argument("--rule", default="local", choices=["local", "target", "frozen"])
    parser.add_argument("--recordings", type=int, default=EPOCH)
    parser.add_argument("--neurons", type=int, default=64)
    parser.add_argument("--rate", type=float, default=0.003)
    parser.add_argument("--readout-rate", type=float, default=0.001)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-test", action="store_true")
    options = parser.parse_args()
    if options.recordings % BLOCK:
        parser.error(f"--recordings must be a multiple of {BLOCK}, which are learnt from at once")
    network = snu(
        [32, options.neurons, 10],
        decay=0.95,
        threshold=1.0,
        reset="soft",
        readout="integrator",
        readout_decay=0.99,
        readout_gain=0.1,
    )
    algorithm = OSTTP(
        eta=options.readout_rate,
        hidden_rate=0.0 if options.rule == "frozen" else options.rate / options.readout_rate,
        cost=CrossEntropy(),
        signal="target" if options.rule == "target" else "local",
        centre=options.rule == "target",
        surrogate=Surrogate("triangle", height=0.3),
        update="step",
        batch=1,
        on_device=True,
        block=BLOCK,
        optimizer=Descent(),
        start=LayerGains(inputs=2.0),
    )
    device = Emulated(options.board, network, CrossEntropy(), low=-8.0, high=8.0, patience=60.0)
    recorder = Printed(device, f"{options.board} {options.rule}")
    trainer = Trainer(
        algorithm,
        device,
        Untested() if options.no_test else fsdd(batch=1),
        CrossEntropy(),
        Budget(steps=options.recordings * STEPS),
        recorder,
        options.seed,
        Evaluation(every=EPOCH * STEPS, samples=300),
    )
    try:
        result = trainer.run()
    finally:
        device.close()
    crc = zlib.crc32(np.asarray(result.state.theta, "<f4").tobytes())
    each = [recorder.traffic[f"bytes {way}"] / recorder.steps for way in ("sent", "received")]
    print(
        f"{result.counts.baseline} steps, {result.counts.writes} writes, CRC-32 {crc:08x}, {each[0]:.0f} bytes a step "
        f"to the board, {each[1]:.0f} from it, {result.seconds:.0f} s with tests"
    )


if __name__ == "__main__":
    main()
