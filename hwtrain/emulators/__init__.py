"""Boards without a bench: firmware is built here and runs in an emulator, or as a process of this machine.

There are two routes. "system" takes compilers and emulators that the operating system installs: make, the GNU
compilers, QEMU, simavr. "pip" takes a compiler and an emulator that come as Python packages, ziglang and unicorn, for
the boards `host` and `stm32f405`: `pip install 'hwtrain[emulate]'`. Both build the same sources, and train to the same
bits.
"""

from hwtrain.emulators.emulator import Emulator
from hwtrain.emulators.images import BOARDS

__all__ = ["BOARDS", "Emulator"]
