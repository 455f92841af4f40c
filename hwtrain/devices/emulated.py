"""A board that is not there: real firmware in an emulator, reached over its serial port like any other."""

from __future__ import annotations

from hwtrain.costs import Cost
from hwtrain.devices.serial import SerialBoard
from hwtrain.devices.spiking import Layered
from hwtrain.emulators import Emulator


class Emulated(SerialBoard):
    """Firmware is built, started in an emulator, trained over its serial port, and ended on every way out.

    Args:
        board: host, stm32f405, mps2_an385, sifive_e, atmega328p or atmega2560.
        network: what the board is to compute; see `Board`.
        cost: what it is to minimise.
        route: "system" for compilers and emulators of the operating system, "pip" for those that come as Python
            packages, or "auto" for whichever is there.
        arguments: more of them for the program that runs the board.
        low: lowest parameter value; None is open.
        high: highest parameter value; None is open.
        patience: how long the board may be silent before the run fails [s]; work is allowed for beside.
        watchdog: silence after which the board rests by itself [s]; 0 is never.
        transcript: a file that keeps every byte, to be replayed without an emulator; None is none.

    Raises:
        ConfigError: no such board, its tools are missing, or network or cost do not fit it.
        DeviceError: the board cannot be built, started or reached.
    """

    def __init__(
        self,
        board: str,
        network: Layered,
        cost: Cost,
        route: str = "auto",
        arguments: tuple[str, ...] | list[str] = (),
        low: float | None = None,
        high: float | None = None,
        patience: float = 10.0,
        watchdog: float = 10.0,
        transcript: str | None = None,
    ) -> None:
        self.emulator = Emulator(board, route, tuple(map(str, arguments)))
        try:
            super().__init__(
                self.emulator.url,
                network,
                cost,
                low=low,
                high=high,
                patience=patience,
                watchdog=watchdog,
                transcript=transcript,
            )
        except BaseException:
            self.emulator.stop()
            raise

    def close(self) -> None:
        """End the emulator; may be called twice."""
        try:
            super().close()
        finally:
            self.emulator.stop()
