"""An STM32F405 in Unicorn: `python -m hwtrain.emulators.cortex_m IMAGE.elf`.

Runs the image that a real board runs, and serves its USART2 at a TCP port, which it prints: "ready
socket://127.0.0.1:PORT". Modelled is what the firmware touches: the processor with its FPU, SysTick, the flags and the
interrupt of USART2, and the reset request; every other register reads back what was written. (RM0090; ARM DDI0403.)

Time passes, bytes move and interrupts are taken where the firmware sleeps, in WFI, and nowhere else. So nothing looks
at the processor while it computes, which makes it fast; and only there can Unicorn be stopped without losing its place.
Firmware that sleeps when it has nothing to do can tell by two things: a computation takes no time, so a watchdog counts
silence alone, and no byte is ever lost, since those that come meanwhile wait in the socket.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

from unicorn import UC_ARCH_ARM, UC_HOOK_INTR, UC_MODE_MCLASS, UC_MODE_THUMB, UC_PROT_EXEC, UC_PROT_READ, Uc, UcError
from unicorn.arm_const import (
    UC_ARM_REG_LR,
    UC_ARM_REG_PC,
    UC_ARM_REG_SP,
    UC_ARM_REG_XPSR,
    UC_CPU_ARM_CORTEX_M4,
)

from hwtrain.emulators.elf import segments

CLOCK = 16e6  # Hz: the internal oscillator
NAP = 0.01  # seconds; ticks of SysTick that an idle board has slept through are caught up
BURST = 256  # bytes received at one awakening; less than any port's ring holds

_FLASH, _FLASH_SIZE, _RAM, _RAM_SIZE = 0x08000000, 1 << 20, 0x20000000, 128 << 10
_CCM, _CCM_SIZE = 0x10000000, 64 << 10  # core-coupled memory
_PERIPHERALS, _PERIPHERALS_SIZE = 0x40000000, 0x80000
_SYSTEM, _SYSTEM_SIZE = 0xE000E000, 0x1000
_USART2_SR, _USART2_DR, _USART2_CR1 = 0x40004400, 0x40004404, 0x4000440C
_SYSTICK_CONTROL, _SYSTICK_RELOAD = 0xE000E010, 0xE000E014
_NVIC_ISER1, _VTOR, _AIRCR = 0xE000E104, 0xE000ED08, 0xE000ED0C
_SR_RECEIVED, _SR_SENT, _SR_EMPTY = 1 << 5, 1 << 6, 1 << 7
_CR1_RECEIVING = 1 << 13 | 1 << 5 | 1 << 2  # on, interrupt, receiver
_ISER1_USART2 = 1 << (38 - 32)
_SYSTICK_RUNNING = 3  # on, interrupt
_SYSRESETREQ = 1 << 2
_SYSTICK, _USART2 = 15, 16 + 38  # exception numbers
_EXCEPTION_EXIT = 8  # what Unicorn calls a jump to EXC_RETURN
_EXC_RETURN, _FRAME = 0xFFFFFFE9, 104  # to the main stack; bytes of a frame with floating-point registers
_THUMB = 1 << 24  # in xPSR
_NEVER = 0xFFFFFFFE


class Wire:
    """The other end of the USART: a TCP port. A connection that ends is a cable that was pulled."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1)
        self.port: int = self.listener.getsockname()[1]
        self.connection: socket.socket | None = None

    def read(self, most: int, patience: float) -> bytes:
        """Up to `most` bytes, within `patience` seconds."""
        ready, _, _ = select.select([self.connection or self.listener], [], [], patience)
        if not ready:
            return b""
        if self.connection is None:
            self.connection, _ = self.listener.accept()
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return b""
        try:
            received = self.connection.recv(most)
        except OSError:
            received = b""
        if not received:
            self._pulled()
        return received

    def write(self, data: bytes) -> None:
        """Send all; bytes on a pulled cable are lost."""
        if self.connection is None:
            return
        try:
            self.connection.sendall(data)
        except OSError:
            self._pulled()

    def _pulled(self) -> None:
        assert self.connection is not None
        self.connection.close()
        self.connection = None


class Board:
    """A board from power-on.

    Args:
        image: the ELF file.
        wire: what USART2 is connected to.
    """

    def __init__(self, image: bytes, wire: Wire) -> None:
        self.wire = wire
        self.cpu = Uc(UC_ARCH_ARM, UC_MODE_THUMB | UC_MODE_MCLASS)
        self.cpu.ctl_set_cpu_model(UC_CPU_ARM_CORTEX_M4)
        self.cpu.mem_map(_FLASH, _FLASH_SIZE, UC_PROT_READ | UC_PROT_EXEC)
        self.cpu.mem_map(_RAM, _RAM_SIZE)
        self.cpu.mem_map(_CCM, _CCM_SIZE)
        for base, size in ((_PERIPHERALS, _PERIPHERALS_SIZE), (_SYSTEM, _SYSTEM_SIZE)):
            self.cpu.mmio_map(base, size, self._load, base, self._store, base)
        self.cpu.hook_add(UC_HOOK_INTR, self._interrupt)
        for segment in segments(image):
            self.cpu.mem_write(segment.address, segment.data)
        self._fresh = self.cpu.context_save()

    def run(self) -> None:
        """Run from power-on, or reset, to the reset that the firmware asks for."""
        self.registers: dict[int, int] = {}
        self.out = bytearray()
        self.received: int | None = None
        self.slept, self.ticks = 0.0, 0  # seconds since SysTick was started, and its interrupts
        self.alive = True
        self.cpu.context_restore(self._fresh)
        self.cpu.mem_write(_RAM, bytes(_RAM_SIZE))
        self.cpu.mem_write(_CCM, bytes(_CCM_SIZE))
        stack, start = struct.unpack("<II", self.cpu.mem_read(_FLASH, 8))
        self.cpu.reg_write(UC_ARM_REG_SP, stack)
        self._run(start)
        while self.alive:
            self._interrupts(self._sleep())
            self._run(self.cpu.reg_read(UC_ARM_REG_PC))
        self.wire.write(bytes(self.out))

    def _run(self, address: int) -> None:
        """Run from an address to the next WFI, end of an exception, or reset."""
        self.cpu.emu_start(address | 1, _NEVER)

    def _sleep(self) -> bytes:
        """What happens in WFI: bytes go out, and some come, or time passes."""
        self.wire.write(bytes(self.out))
        self.out.clear()
        receiving = self.registers.get(_USART2_CR1, 0) & _CR1_RECEIVING == _CR1_RECEIVING
        if not receiving or not self.registers.get(_NVIC_ISER1, 0) & _ISER1_USART2:
            raise SystemExit("the firmware sleeps without waiting for bytes")
        start = time.monotonic()
        received = self.wire.read(BURST, NAP)
        self.slept += time.monotonic() - start
        return received

    def _interrupts(self, received: bytes) -> None:
        """Run the handlers of ticks that are due and of received bytes, one after the other.

        Firmware sleeps with interrupts masked and unmasks them right after; the handlers run before that already.
        """
        before = self.cpu.context_save()
        stack = (self.cpu.reg_read(UC_ARM_REG_SP) - _FRAME) & ~7
        self.cpu.mem_write(stack, bytes(_FRAME))  # `before` is the frame; this takes its place on the stack
        for _ in range(self._ticks_due()):
            self._handle(_SYSTICK, stack)
        for self.received in received:
            self._handle(_USART2, stack)
        self.cpu.context_restore(before)

    def _handle(self, exception: int, stack: int) -> None:
        table = self.registers.get(_VTOR, _FLASH)
        (handler,) = struct.unpack("<I", self.cpu.mem_read(table + 4 * exception, 4))
        self.cpu.reg_write(UC_ARM_REG_SP, stack)
        self.cpu.reg_write(UC_ARM_REG_LR, _EXC_RETURN)
        self.cpu.reg_write(UC_ARM_REG_XPSR, _THUMB | exception)
        self._run(handler)

    def _ticks_due(self) -> int:
        if self.registers.get(_SYSTICK_CONTROL, 0) & _SYSTICK_RUNNING != _SYSTICK_RUNNING:
            return 0
        period = (self.registers.get(_SYSTICK_RELOAD, 0) + 1) / CLOCK
        due = int(self.slept / period) - self.ticks
        self.ticks += due
        return due

    def _load(self, cpu: Uc, offset: int, size: int, base: int) -> int:
        address = base + offset
        if address == _USART2_SR:
            return _SR_SENT | _SR_EMPTY | (0 if self.received is None else _SR_RECEIVED)
        if address == _USART2_DR:
            byte, self.received = self.received or 0, None
            return byte
        return self.registers.get(address, 0)

    def _store(self, cpu: Uc, offset: int, size: int, value: int, base: int) -> None:
        address = base + offset
        if address == _USART2_DR:
            self.out.append(value & 0xFF)
            return
        self.registers[address] = value
        if address == _SYSTICK_CONTROL:
            self.slept, self.ticks = 0.0, 0
        elif address == _AIRCR and value & _SYSRESETREQ:
            self.alive = False
            cpu.emu_stop()

    def _interrupt(self, cpu: Uc, number: int, context: Any) -> None:
        if number != _EXCEPTION_EXIT:
            raise SystemExit(f"the firmware caused exception {number} at {cpu.reg_read(UC_ARM_REG_PC):#x}")
        cpu.emu_stop()


def main() -> None:
    """Serve a board until this process is killed."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m hwtrain.emulators.cortex_m IMAGE.elf")
    wire = Wire()
    board = Board(Path(sys.argv[1]).read_bytes(), wire)
    print(f"ready socket://127.0.0.1:{wire.port}", flush=True)
    try:
        while True:
            board.run()
    except UcError as error:
        at = board.cpu.reg_read(UC_ARM_REG_PC)
        raise SystemExit(f"the firmware failed at {at:#x}: {error}") from error


if __name__ == "__main__":
    main()
