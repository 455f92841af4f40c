"""The portable core on the host, under the sanitizers, against golden files, hwtrain.perturb and numpy float32."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hwtrain.devices import frames, messages
from tests.firmware import boards, reference

GOLDEN = Path(__file__).parent / "golden"


def golden(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())


def unpack_signs(answer, size):
    words = np.array([int(answer[i : i + 8], 16) for i in range(0, len(answer), 8)], "<u4")
    return np.unpackbits(words.view(np.uint8), bitorder="little")[:size].astype(bool)


class TestPerturbations:
    def test_golden(self, ask):
        cases = golden("perturbations")
        answers = ask([f"signs {c['kind']} {c['hold']} {c['seed']} {c['tick']} {c['size']}" for c in cases])
        for case, answer in zip(cases, answers, strict=True):
            down = unpack_signs(answer, case["size"])
            assert "".join("-" if each else "+" for each in down) == case["signs"], case
            code = messages.Code(
                case["seed"], 1.0, messages.Pattern(case["kind"] & 0x7F), bool(case["kind"] & 0x80), case["hold"]
            )
            assert np.array_equal(reference.signs(code, case["tick"], case["size"]) < 0, down), case

    def test_equal_hwtrain_perturb(self, ask):
        rng = np.random.default_rng(1)
        codes = [
            messages.Code(seed, 1.0, messages.Pattern(pattern), bool(twice), hold)
            for seed, pattern, twice, hold in rng.integers([0, 0, 0, 1], [1 << 32, 3, 2, 5], (300, 4)).tolist()
        ]
        places = [(int(rng.integers(1 << 20)), int(rng.integers(1, 700))) for _ in codes]
        lines = [f"signs {c.kind} {c.hold} {c.seed} {t} {p}" for c, (t, p) in zip(codes, places, strict=True)]
        for code, (tick, size), answer in zip(codes, places, ask(lines), strict=True):
            assert np.array_equal(unpack_signs(answer, size), reference.signs(code, tick, size) < 0), (code, tick, size)


class TestFrames:
    def test_golden_both_ways(self, ask):
        cases = golden("frames")
        encoded = ask([f"encode {case['body']}" for case in cases])
        decoded = ask([f"decode {case['wire']}" for case in cases])
        for case, wire, body in zip(cases, encoded, decoded, strict=True):
            assert wire == case["wire"], case["message"]
            assert body.strip() == case["body"], case["message"]

    def test_equal_python_on_random_payloads(self, ask):
        rng = np.random.default_rng(2)
        lengths = rng.integers(0, 1200, 200)
        payloads = [rng.integers(0, 3 if n % 2 else 256, n, np.uint8).tobytes() for n in lengths]
        made = [frames.Frame(1, 2, 3, 4, payload) for payload in payloads]
        bodies = [(frames.HEADER.pack(1, 2, 3, 4) + frame.payload).hex() for frame in made]
        wires = [frames.encode(frame).hex() for frame in made]
        assert ask([f"encode {body}" for body in bodies]) == wires
        assert [answer.strip() for answer in ask([f"decode {wire}" for wire in wires])] == bodies

    def test_damage_is_dropped_and_the_next_frame_is_read(self, ask):
        rng = np.random.default_rng(3)
        good = frames.encode(frames.Frame(1, 0x11, 5, 6, bytes(range(60))))
        lines = []
        for _ in range(500):
            bad = bytearray(good)
            bad[rng.integers(len(bad) - 1)] ^= 1 << rng.integers(8)
            lines.append(f"decode {bad.hex()}{good.hex()}")
        body = (frames.HEADER.pack(1, 0x11, 5, 6) + bytes(range(60))).hex()
        for answer in ask(lines):
            *damaged, last = answer.split()
            assert last == body
            assert set(damaged) == {"-"}

    def test_overlong_is_dropped(self, ask):
        good = frames.encode(frames.Frame(1, 0x11, 5, 6)).hex()
        long = frames.encode(frames.Frame(1, 0x11, 5, 6, bytes(5000))).hex()
        (answer,) = ask([f"decode {long}{good}"])
        assert answer.split() == ["-", frames.HEADER.pack(1, 0x11, 5, 6).hex()]


class TestElementary:
    def test_same_bits_as_numpy_and_close_to_the_truth(self, ask):
        rng = np.random.default_rng(4)
        special = [0.0, -0.0, 0.625, -0.625, 87, -87, 1e-30]
        x = np.concatenate([rng.uniform(-100, 100, 3000), rng.normal(0, 1, 3000), special]).astype(np.float32)
        answers = ask([f"elementary {bits:08x}" for bits in x.view(np.uint32)])
        got = np.array([[int(word, 16) for word in answer.split()] for answer in answers], np.uint32).view(np.float32)
        exp, log, tanh = got.T
        assert np.array_equal(exp.view(np.uint32), reference.exp(x).astype(np.float32).view(np.uint32))
        assert np.array_equal(tanh.view(np.uint32), reference.tanh(x).astype(np.float32).view(np.uint32))
        positive = np.abs(x) > 0
        assert np.array_equal(log[positive], np.array([reference.log(v) for v in np.abs(x[positive])], np.float32))
        within = np.abs(x) < 87
        assert np.allclose(exp[within], np.exp(x[within].astype(float)), rtol=3e-7, atol=0)
        assert np.allclose(tanh, np.tanh(x.astype(float)), rtol=3e-7, atol=0)
        assert np.allclose(log[positive], np.log(np.abs(x[positive]).astype(float)), rtol=3e-7, atol=1e-7)


def test_wire_constants_are_the_same_in_c_and_python():
    text = (boards.ROOT / "include" / "hwtrain" / "protocol.h").read_text()
    text += (boards.ROOT / "include" / "hwtrain" / "network.h").read_text()
    text += (boards.ROOT / "include" / "hwtrain" / "perturb.h").read_text()
    c = {name: int(value, 0) for name, value in re.findall(r"HWT_(\w+) = (\w+)", text)}
    python = {}
    m = messages
    for enum in (m.Kind, m.Status, m.Observe, m.Activation, m.Bias, m.Cost, m.Pattern):
        python |= {member.name: int(member) for member in enum}
    python |= {f"BASELINE_{member.name}": int(member) for member in messages.Baseline}
    python |= {f"CAN_{member.name}": int(member) for member in messages.Capability}
    python |= {"REPLY": messages.REPLY, "ANTITHETIC": messages.ANTITHETIC, "FLOAT32": 0, "UINT8": 1}
    assert python == c


def test_no_input_crashes_the_decoder_or_gets_a_damaged_frame_through(checked):
    done = subprocess.run([str(checked("fuzz")), "300000", "1"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_static_analysis_is_clean():
    boards.need("cppcheck", "cppcheck")
    checks = ["--std=c99", "--enable=warning,performance,portability", "--error-exitcode=1", "--quiet"]
    line = ["cppcheck", *checks, "-I", str(boards.ROOT / "include"), str(boards.ROOT / "src")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("cost", messages.Cost)
def test_reference_is_close_to_float64(cost):
    """The order of operations is ours; the mathematics is the simulator's."""
    from hwtrain.costs import CrossEntropy, MeanSquaredError
    from hwtrain.sim.networks import mlp

    rng = np.random.default_rng(5)
    layers = (messages.DenseLayer(4, messages.Activation.TANH), messages.DenseLayer(3, messages.Activation.SIGMOID))
    network = messages.Network(6, layers, cost)
    theta = rng.normal(0, 1, network.size).astype(np.float32)
    samples = rng.uniform(0, 1, (1, 9)).astype(np.float32)
    board = reference.Board(network, theta, samples)
    signs = reference.signs(messages.Code(1, 0.05), 4, network.size)
    moved = (theta + 0.05 * signs).astype(float)
    model = mlp([6, 4, 3], "tanh", "sigmoid")
    y = model.forward(moved[None], samples[None, None, :, :6].astype(float)).outputs[-1]
    formula = MeanSquaredError() if cost == messages.Cost.MEAN_SQUARED_ERROR else CrossEntropy()
    true = formula(y, samples[:, 6:].astype(float))
    assert np.allclose(board.measure(0, 1, signs, 0.05), true, rtol=1e-5)
