"""Spoken digits learnt in time by a board itself, from one recording after another that the host streams to it.

    python benchmarks/streams.py [--board host|stm32f405|...] [--rule local|target|frozen] [--recordings 2700]
        [--neurons 64] [--rate 0.03] [--readout-rate 0.01] [--no-test]

FSDD, 32-64-10, soft reset, decay 0.95, threshold 1, integrators (0.99, gain 0.1), plain descent after every step of
16 ms, each recording heard once an epoch. Held-out accuracy, the class being that of the mean softmax; and the CRC-32
of the parameters, which is that of every board.
"""

from __future__ import annotations

import argparse
import time
import zlib

import numpy as np
from scipy.special import softmax

from hwtrain.core import Can, Measure, Program, Sample, counted
from hwtrain.costs import CrossEntropy
from hwtrain.devices.streaming import EmulatedStreaming, Lesson, Streaming
from hwtrain.sim.neurons import LayerGains, Surrogate
from hwtrain.sim.spiking import snu
from hwtrain.tasks.recordings import fsdd


def accuracy(device: Streaming, held_out: Sample) -> float:
    """Share of recordings whose class is found."""
    assert held_out.target is not None
    right = 0
    for b in range(held_out.x.shape[1]):
        x, target = held_out.x[:, b : b + 1], held_out.target[:, b : b + 1]
        steps = int(counted(target).sum())
        (reading,) = device.execute([Measure(Sample(x[:steps], target[:steps]), observe=Can.OUTPUT)])
        assert reading.output is not None
        said = softmax(reading.output[0, :, 0].astype(np.float64), axis=-1).mean(axis=0)
        right += int(said.argmax() == target[0, 0].argmax())
    return right / held_out.x.shape[1]


def main() -> None:
    """Learn, and print what it came to after every epoch."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--board", default="host")
    parser.add_argument("--rule", default="local", choices=["local", "target", "frozen"])
    parser.add_argument("--recordings", type=int, default=2700)
    parser.add_argument("--neurons", type=int, default=64)
    parser.add_argument("--rate", type=float, default=0.03)
    parser.add_argument("--readout-rate", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-test", action="store_true")
    options = parser.parse_args()
    task, seed = fsdd(batch=1), np.asarray(options.seed, np.uint32)
    network = snu(
        [32, options.neurons, 10],
        decay=0.95,
        threshold=1.0,
        reset="soft",
        readout="integrator",
        readout_decay=0.99,
        readout_gain=0.1,
    )
    lesson = Lesson(
        rate=0.0 if options.rule == "frozen" else options.rate,
        readout_rate=options.readout_rate,
        signal="target" if options.rule == "target" else "local",
        centre=options.rule == "target",
        seed=options.seed,
        surrogate=Surrogate("triangle", height=0.3),
    )
    device = EmulatedStreaming(options.board, network, CrossEntropy(), low=-8.0, high=8.0, patience=60.0)
    try:
        device.execute([Program(LayerGains(inputs=2.0)(device.spec, seed))])
        begin, steps, costs = time.perf_counter(), 0, []
        before = dict(device.counts()["traffic"])
        for number in range(1, options.recordings + 1):
            cost = device.learn(task.sample(seed, number - 1), lesson)
            costs.append(np.nanmean(cost))
            steps += int(np.isfinite(cost).sum())
            if number % 2700 and number != options.recordings:
                continue
            traffic = device.counts()["traffic"]
            each = [(traffic[f"bytes {way}"] - before[f"bytes {way}"]) / steps for way in ("sent", "received")]
            seconds = time.perf_counter() - begin
            crc = zlib.crc32(device.read().tobytes())
            right = "-" if options.no_test else f"{accuracy(device, task.held_out(300)):.3f}"
            print(
                f"{options.board} {options.rule}: {number} recordings, {steps} steps, "
                f"cost {np.mean(costs[-300:]):.3f}, test accuracy {right}, CRC-32 {crc:08x}, "
                f"{each[0]:.0f} bytes a step to the board, {each[1]:.0f} from it, {seconds:.0f} s",
                flush=True,
            )
    finally:
        device.close()


if __name__ == "__main__":
    main()
