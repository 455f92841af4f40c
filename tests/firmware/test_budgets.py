"""What firmware may cost: bytes of flash, RAM and stack, instructions, and lines; equal with equal compilers."""

import re
import subprocess
from functools import cache

import numpy as np
import pytest

from hwtrain.devices.messages import Code, DenseLayer, Network, Probe, Store, Train, Write
from tests.firmware import boards

#            flash   RAM    largest stack frame
BUDGETS = {
    "stm32f405": (18_800, 189_000, 320),
    "mps2_an385": (21_000, 189_000, 320),
    "sifive_e": (26_800, 9_500, 320),
    "atmega328p": (22_600, 1_600, 96),
    "atmega2560": (36_000, 6_400, 120),
}


@pytest.mark.parametrize("board", BUDGETS)
def test_size(board, out):
    size = boards.build(board, out / board)
    flash, ram, frame = BUDGETS[board]
    assert size["flash"] <= flash
    assert size["ram"] <= ram
    assert size["frame"] <= frame


def test_size_of_the_crossbar_controller(out):
    """On an STM32F405, where the model's cells take 74 KB; what is left of 131 072 bytes is the stack."""
    boards.need("make", "make")
    boards.need("arm-none-eabi-gcc", "gcc-arm-none-eabi")
    folder = out / "crossbar"
    line = ["make", "-s", "-C", str(boards.ROOT / "crossbar"), "BOARD=stm32f405", f"OUT={folder}"]
    said = subprocess.run(line, capture_output=True, text=True, check=True, timeout=300).stdout
    flash, ram = map(int, re.search(r"flash +(\d+) +ram +(\d+)", said).groups())
    frames = [int(line.split("\t")[1]) for file in folder.glob("*.su") for line in file.read_text().splitlines()]
    assert flash <= 29_700
    assert ram <= 127_000
    assert max(frames) <= 440


def port_files(board):
    """Every file that a board's build takes from ports/: what make says it would compile, and what that includes."""
    boards.need("make", "make")
    line = ["make", "-n", "-B", "-C", str(boards.ROOT), f"BOARD={board}", "OUT=elsewhere"]
    plan = subprocess.run(line, capture_output=True, text=True, check=True, timeout=60).stdout
    files = {boards.ROOT / word for word in plan.split() if word.startswith("ports/")}
    todo = list(files)
    while todo:
        file = todo.pop()
        for name in re.findall(r'#include "(.+)"', file.read_text()):
            included = (file.parent / name).resolve()
            if included.exists() and included not in files:
                files.add(included)
                todo.append(included)
    return files


@pytest.mark.parametrize("board", BUDGETS)
def test_a_port_is_short(board):
    """What another board takes: every line, of linker script, start-up and what it shares with others too."""
    lines = {str(file.relative_to(boards.ROOT)): len(file.read_text().splitlines()) for file in port_files(board)}
    assert any(name.endswith("main.c") for name in lines)
    assert sum(lines.values()) < 150, lines


LINKER = {"_data_load", "_data", "_data_end", "_bss", "_bss_end", "_stack"}  # places, named by the linker script


def test_no_allocation_and_no_library(out):
    """The core refers to nothing but itself, memcpy, memset, the compiler's arithmetic, and places in memory."""
    boards.build("stm32f405", out / "stm32f405")
    objects = sorted(map(str, (out / "stm32f405" / "src").glob("*.o")))
    listing = subprocess.run(["arm-none-eabi-nm", *objects], capture_output=True, text=True, check=True).stdout
    outside = {name for name in re.findall(r" U (\w+)", listing) if not name.startswith(("hwt_", "__aeabi_"))}
    assert outside <= {"memcpy", "memset"} | LINKER
    assert not re.findall(r" [bBdDC] (\w+)", listing), "the core has no variables of its own"


@pytest.mark.parametrize(
    ("without", "most", "saved"), [("HWT_LOCAL_RULES", 9_800, 9_200), ("HWT_STREAMS", 15_300, 3_800)]
)
def test_memory_without_local_rules(without, most, saved, out):
    """What a board saves that leaves them out."""
    boards.need("make", "make")
    boards.need("arm-none-eabi-gcc", "gcc-arm-none-eabi")
    line = [
        "make",
        "-s",
        "-C",
        str(boards.ROOT),
        "BOARD=stm32f405",
        f"OUT={out / without}",
        f"EXTRA=-D{without}=0",
    ]
    said = subprocess.run(line, capture_output=True, text=True, check=True, timeout=300).stdout
    flash = int(re.search(r"flash +(\d+)", said)[1])
    assert flash <= most
    assert boards.build("stm32f405", out / "stm32f405")["flash"] - flash <= saved


@cache
def instructions(board, out):
    """By network and what it does, as counted by QEMU."""
    machine = {"bench": "netduinoplus2", "bench_m3": "mps2-an385"}[board]
    boards.need("qemu-system-arm", "qemu-system-arm")
    boards.build(board, out / board)
    line = ["qemu-system-arm", "-M", machine, "-icount", "shift=0", "-display", "none", "-monitor", "none"]
    process = subprocess.Popen(
        [*line, "-serial", "stdio", "-kernel", str(out / board / f"{board}.elf")],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    counts = {}
    try:
        for line in iter(process.stdout.readline, "end\n"):
            network, what, count = line.split()
            counts[network, what] = int(count)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    return counts


PROCESSORS = pytest.mark.parametrize("board", ["bench", "bench_m3"], ids=["Cortex-M4F", "Cortex-M3, software float"])


@PROCESSORS
def test_a_training_step_costs_at_most_one_and_a_half_times_two_forward_passes(board, out):
    """On a 49-4-4 network."""
    counts = instructions(board, out)
    forward, step = counts["49-4-4", "forward"], counts["49-4-4", "step"]
    assert forward <= {"bench": 3_119, "bench_m3": 32_500}[board]
    assert step <= 1.5 * 2 * forward


@PROCESSORS
@pytest.mark.parametrize(
    ("network", "most"),
    [("784-16-10", (2.1, 2.1)), ("784-16-10-sparse", (2.3, 2.2)), ("49-16-16-4", (3.1, 2.5))],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_sample_of_a_local_rule_costs_a_few_forward_passes(board, network, most, out):
    """`most` of them; and less than a training step, and than two perturbed passes."""
    counts = instructions(board, out)
    forward, step, probes = (counts[network, what] for what in ("forward", "step", "two-perturbed"))
    for rule, share in zip(("forward-forward", "mono-forward"), most, strict=True):
        one = max(counts[network, rule], counts[network, f"{rule}-8"])
        assert one <= share * forward
        assert one <= min(step, probes) * (1 if board == "bench" else 1.1)


@PROCESSORS
def test_a_time_step_costs_so_much_for_each_trace(board, out):
    """32-64-10, spiking: 33 * 64 traces, as many parameters and 650 of the read-out; hashes name the projection."""
    counts = {what: count for (network, what), count in instructions(board, out).items() if network == "32-64-10"}
    traces, parameters, elements = 33 * 64, 33 * 64 + 65 * 10, 64 * 10
    answer, learn, hashed = {"bench": (14, 19, 40), "bench_m3": (105, 160, 160)}[board]  # instructions for each
    assert counts["answer"] <= answer * traces
    assert counts["target"] - counts["answer"] <= learn * parameters
    assert counts["local"] - counts["target"] <= 2 * hashed * elements  # what the layer says, and its error projected


def avr_cycles(out):
    """Cycles of a forward pass and of a step, from requests that differ in the number of ticks or probes."""
    said = []
    with boards.running("atmega2560", out, "--cycles", said=said) as url:
        link = boards.Link(url)
        link.adopt()
        link.do(Network(49, (DenseLayer(4), DenseLayer(4)), low=-9, high=9))
        values = np.random.default_rng(1).uniform(0.1, 1, 220).astype(np.float32)
        link.do(Write(0, values[:110]))
        link.do(Write(110, values[110:] - 1))
        link.do(Store(0, values[:53]))
        for batch in (1, 2):
            link.do(Store(1, values[:53]))
            link.do(Probe(0, batch))
        for ticks in (10, 20):
            link.do(Train(Code(7, 0.01), 0, ticks, [0] * ticks, 0.01, -8, 8))
        link.close()
    cycles = [int(line.split()[1]) for line in said if line.startswith("cycles")]
    return cycles[-3] - cycles[-5], (cycles[-1] - cycles[-2]) / 10


def test_clock_cycles_on_avr(out):
    """The same ratio in cycles of simavr; the least of five, since a byte that the host sends late only adds to one."""
    forward, step = np.min([avr_cycles(out) for _ in range(5)], axis=0)
    assert forward <= 110_000
    assert step <= 1.5 * 2 * forward
