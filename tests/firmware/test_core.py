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


RING = """
#include <assert.h>
#include "hwtrain/perturb.h"
#include "hwtrain/ring.h"

int main(void) {
    static hwt_ring_t ring;
    uint32_t in = 0, out = 0, lost = 0;
    for (uint32_t turn = 0; turn < 3000; turn++) {
        for (uint32_t puts = hwt_mix32(turn) % HWT_RING_SIZE; puts; puts--) {
            hwt_ring_put(&ring, (uint8_t)in);
            if (in - out < HWT_RING_SIZE - 1u)
                in++;
            else
                lost++;
        }
        for (uint32_t reads = hwt_mix32(~turn) % HWT_RING_SIZE; reads; reads--) {
            assert(hwt_ring_is_empty(&ring) == (in == out));
            assert(hwt_ring_read(&ring) == (in == out ? -1 : (int)(uint8_t)out));
            out += in != out;
        }
    }
    assert(lost && hwt_ring_overruns(&ring) == (uint16_t)lost);
    return 0;
}
"""

# Freestanding but for main. The symbols are those of a linker script.
BARE = """
#include "hwtrain/bare.h"

uint8_t _data_load[1], _data[1], _data_end[1], _bss[1], _bss_end[1], _stack[1];
void *memcpy(void *restrict to, const void *restrict from, __SIZE_TYPE__ count);
void *memset(void *to, int value, __SIZE_TYPE__ count);

int main(void) {
    static uint8_t from[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9}, to[9];
    if (memset(to, 0x100 | HWT_PAINT, 7) != to || to[0] != HWT_PAINT || to[6] != HWT_PAINT || to[7] || to[8])
        return 1;
    if (hwt_painted(to, to + 9) != 7 || hwt_painted(to, to + 5) != 5)
        return 2;
    if (hwt_painted(to + 7, to + 9) || hwt_painted(to, to))
        return 2;
    if (memcpy(to + 1, from + 3, 4) != to + 1 || to[0] != HWT_PAINT || to[1] != 4 || to[4] != 7 || to[5] != HWT_PAINT)
        return 3;
    return 0;
}
"""


class TestPartsForPorts:
    def run(self, program, flags, sources, folder):
        boards.need("gcc", "gcc libc6-dev")
        warnings = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-pedantic", "-Werror"]
        name = str(folder / "part")
        Path(name + ".c").write_text(program)
        sources = [name + ".c", *(str(boards.ROOT / "src" / source) for source in sources)]
        line = ["gcc", *warnings, "-O1", *flags, f"-I{boards.ROOT / 'include'}", *sources, "-o", name]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        done = subprocess.run([name], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("size", [2, 16, 256, 1024])
    def test_ring(self, size, tmp_path):
        sanitizers = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
        self.run(RING, (f"-DHWT_RING_SIZE={size}u", *sanitizers), ["perturb.c"], tmp_path)

    def test_bare(self, tmp_path):
        renamed = ("-Dmemcpy=bare_memcpy", "-Dmemset=bare_memset")  # beside those of the C library
        self.run(BARE, ("-ffreestanding", "-fno-tree-loop-distribute-patterns", *renamed), ["bare.c"], tmp_path)


class TestElementary:
    def test_same_bits_as_numpy_and_close_to_the_truth(self, ask):
        rng = np.random.default_rng(4)
        special = [0.0, -0.0, 0.625, -0.625, 87, -87, 1e-30]
        x = np.concatenate([rng.uniform(-100, 100, 3000), rng.normal(0, 1, 3000), special]).astype(np.float32)
        answers = ask([f"elementary {bits:08x}" for bits in x.view(np.uint32)])
        got = np.array([[int(word, 16) for word in answer.split()] for answer in answers], np.uint32).view(np.float32)
        exp, log, tanh, _ = got.T
        assert np.array_equal(exp.view(np.uint32), reference.exp(x).astype(np.float32).view(np.uint32))
        assert np.array_equal(tanh.view(np.uint32), reference.tanh(x).astype(np.float32).view(np.uint32))
        positive = np.abs(x) > 0
        assert np.array_equal(log[positive], np.array([reference.log(v) for v in np.abs(x[positive])], np.float32))
        within = np.abs(x) < 87
        assert np.allclose(exp[within], np.exp(x[within].astype(float)), rtol=3e-7, atol=0)
        assert np.allclose(tanh, np.tanh(x.astype(float)), rtol=3e-7, atol=0)
        assert np.allclose(log[positive], np.log(np.abs(x[positive]).astype(float)), rtol=3e-7, atol=1e-7)

    def test_square_root_is_correctly_rounded(self, ask):
        """As IEEE 754 says; what is not normal counts as 0, what is not finite stays."""
        rng = np.random.default_rng(5)
        anything = rng.integers(0, 0x7F800000, 20000, np.uint32)
        mantissas = rng.integers(0, 1 << 24, 20000, np.uint32) + (126 << 23)  # both parities of the exponent
        squares = (rng.integers(1 << 11, 1 << 12, 5000).astype(np.float32) ** 2).view(np.uint32)
        special = np.array([0, 1, 0x7FFFFF, 0x800000, 0x800001, 0x7F7FFFFF, 0x7F800000, 0x7FC00000], np.uint32)
        bits = np.concatenate([anything, mantissas, squares, squares - 1, squares + 1, special])
        got = np.array([int(answer.split()[3], 16) for answer in ask([f"elementary {each:08x}" for each in bits])])
        wanted = np.where(bits < 0x800000, np.float32(0), np.sqrt(bits.view(np.float32)))
        assert np.array_equal(got, wanted.view(np.uint32))
        assert np.array_equal(reference.sqrt(bits.view(np.float32)).view(np.uint32), wanted.view(np.uint32))


def test_wire_constants_are_the_same_in_c_and_python():
    text = (boards.ROOT / "include" / "hwtrain" / "protocol.h").read_text()
    text += (boards.ROOT / "include" / "hwtrain" / "network.h").read_text()
    text += (boards.ROOT / "include" / "hwtrain" / "perturb.h").read_text()
    c = {name: int(value, 0) for name, value in re.findall(r"HWT_(\w+) = (\w+)", text)}
    python = {}
    m = messages
    for enum in (m.Kind, m.Status, m.Observe, m.Activation, m.Bias, m.Cost, m.Pattern, m.Rule):
        python |= {member.name: int(member) for member in enum}
    for enum in (m.Baseline, m.Normalise, m.Goodness, m.Signal, m.Shape):
        python |= {f"{enum.__name__.upper()}_{member.name}": int(member) for member in enum}
    python |= {f"CAN_{member.name}": int(member) for member in messages.Capability}
    python |= {f"RESET_{member.name}": int(member) for member in messages.Resetting}
    python |= {"STREAM_START": 1, "STREAM_LEARN": 2, "STREAM_ACTIVITY": 4, "STREAM_CENTRE": 8, "STREAM_MEAN": 16}
    python |= {"REPLY": messages.REPLY, "ANTITHETIC": messages.ANTITHETIC, "FLOAT32": 0, "UINT8": 1}
    python |= {"RECURRENT": m.DenseLayer(1, m.Activation.LINEAR, recurrent=True).form}
    assert python == c


def test_no_input_crashes_the_decoder_or_gets_a_damaged_frame_through(checked):
    done = subprocess.run([str(checked("fuzz")), "300000", "1"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_static_analysis_finds_nothing():
    boards.need("cppcheck", "cppcheck")
    boards.need("make", "make")
    boards.need("gcc", "gcc libc6-dev")
    line = ["make", "-s", "-C", str(boards.ROOT), "analyse"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


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
