"""Writes the golden files beside it: run it only when protocol or formulas change on purpose."""

import json
from pathlib import Path

import numpy as np

from hwtrain.devices import frames, messages
from tests.firmware import reference

HERE = Path(__file__).parent


def perturbations():
    places = (0, 1, 0, 9), (7, 1, 3, 40), (4294967295, 3, 1000, 220), (123456789, 1, 65535, 33)
    for pattern in messages.Pattern:
        for antithetic in (False, True):
            for seed, hold, tick, size in places:
                code = messages.Code(seed, 1.0, pattern, antithetic, hold)
                down = reference.signs(code, tick, size) < 0
                signs = "".join("-" if each else "+" for each in down)
                yield {"kind": code.kind, "seed": seed, "hold": hold, "tick": tick, "size": size, "signs": signs}


def wire():
    code = messages.Code(7, 0.01, messages.Pattern.WALSH, antithetic=True, hold=2)
    layers = messages.DenseLayer(2), messages.DenseLayer(1, messages.Activation.TANH, messages.Bias.SUBTRACT)
    network = messages.Network(2, layers, low=-8, high=8)
    last = messages.DenseLayer(3, messages.Activation.LINEAR, messages.Bias.SUBTRACT, messages.Normalise.RMS)
    requests = [
        messages.Hello(), messages.Adopt(0, 0x12345678), network, messages.Write(3, np.array([0, 1, -0.5], np.float32)),
        messages.Read(0, 9), messages.Digest(), messages.Store(1, np.array([0, 1, 1], np.float32)),
        messages.Store(0, np.array([0, 255, 128], np.uint8)), messages.Probe(0, 4, True, 3, code, 16),
        messages.Update(code, 16, 0.5, np.array([0.25, -0.125], np.float32), -8, 8),
        messages.Train(code, 8, 4, [0, 1], 2.0, -8, 8, tau_x=2, tau_theta=4, baseline=messages.Baseline.NONE),
        messages.Rest(), messages.Watchdog(1000), messages.GetCounters(), messages.Reset(),
        messages.Network(5, (messages.DenseLayer(4, messages.Activation.RELU, normalise=messages.Normalise.L2), last)),
        messages.Digest(9),
        messages.Learn(
            messages.Rule.SYMBA, 2, [4, 0], 0.5, 0.25, -8, 8, 4.0, messages.Goodness.MEAN, wrong=bytes([1, 0, 2, 1])
        ),
        messages.Learn(messages.Rule.MONO_FORWARD, 1, [3], 0.5, 0.25),
    ]  # fmt: skip
    for number, request in enumerate(requests):
        frame = messages.to_frame(request, number, 0x12345678)
        body = frames.HEADER.pack(frame.version, frame.kind, frame.sequence, frame.boot) + frame.payload
        yield {"message": request.kind.name, "body": body.hex(), "wire": frames.encode(frame).hex()}
    for name, payload in (("zeros", bytes(300)), ("no zeros", bytes(range(1, 255)) * 2), ("254", b"\x01" * 242)):
        frame = frames.Frame(1, 1, 0x0101, 0x01010101, payload)
        body = frames.HEADER.pack(frame.version, frame.kind, frame.sequence, frame.boot) + payload
        yield {"message": name, "body": body.hex(), "wire": frames.encode(frame).hex()}


if __name__ == "__main__":
    for name, cases in (("perturbations", perturbations()), ("frames", wire())):
        lines = ",\n".join(json.dumps(case) for case in cases)
        (HERE / f"{name}.json").write_text(f"[\n{lines}\n]\n")
