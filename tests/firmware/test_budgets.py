"""What firmware may cost: bytes of flash, RAM and stack, and instructions; the same on every machine with the same compiler."""

import re
import subprocess

import pytest

from tests.firmware import boards

#            flash   RAM    largest stack frame
BUDGETS = {
    "stm32f405": (9600, 109_000, 256),
    "mps2_an385": (11_200, 109_000, 256),
    "sifive_e": (16_000, 9_000, 256),
    "atmega328p": (22_000, 1_600, 112),
    "atmega2560": (22_500, 6_000, 112),
}


@pytest.mark.parametrize("board", BUDGETS)
def test_size(board, out):
    size = boards.build(board, out / board)
    flash, ram, frame = BUDGETS[board]
    assert size["flash"] <= flash
    assert size["ram"] <= ram
    assert size["frame"] <= frame


def test_no_allocation_and_no_library(out):
    """The core refers to nothing but itself, memcpy, memset, and the compiler's arithmetic."""
    boards.build("stm32f405", out / "stm32f405")
    objects = sorted(map(str, (out / "stm32f405" / "src").glob("*.o")))
    listing = subprocess.run(["arm-none-eabi-nm", *objects], capture_output=True, text=True, check=True).stdout
    outside = {name for name in re.findall(r" U (\w+)", listing) if not name.startswith(("hwt_", "__aeabi_"))}
    assert outside <= {"memcpy", "memset"}
    assert not re.findall(r" [bBdDC] (\w+)", listing), "the core has no variables of its own"


def test_a_training_step_costs_at_most_one_and_a_half_times_two_forward_passes(out):
    boards.need("qemu-system-arm", "qemu-system-arm")
    boards.build("bench", out / "bench")
    line = ["qemu-system-arm", "-M", "netduinoplus2", "-icount", "shift=0", "-display", "none", "-monitor", "none"]
    process = subprocess.Popen(
        [*line, "-serial", "stdio", "-kernel", str(out / "bench" / "bench.elf")],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        counts = dict(iter(lambda: tuple(process.stdout.readline().split()), ("end",)))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    forward, step = int(counts["forward"]), int(counts["step"])
    assert forward <= 3119, "the study's forward pass"
    assert step <= 1.5 * 2 * forward
