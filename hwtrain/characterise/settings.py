"""What the command line may say of a characterisation: `characterise.KEY=...`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hwtrain import checks, config
from hwtrain.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Settings:
    """How far to go, and how to call what comes of it.

    Args:
        measurements: most that are taken in all.
        writes: most times that parameters are written with new values.
        pulses: most that any parameter gets, of a device that takes pulses.
        low: lowest parameter that is tried; None is the device's own limit.
        high: highest.
        level: of all intervals.
        target: share of the first cost down to which recommended settings must go on training.
        name: of preset and settings.
        read_seconds: time of one measurement [s]; None is measured.
    """

    measurements: int = 20000
    writes: int = 1000
    pulses: int = 6000
    low: float | None = None
    high: float | None = None
    level: float = 0.95
    target: float = 0.1
    name: str = "twin"
    read_seconds: float | None = None

    def __post_init__(self) -> None:
        checks.whole("characterise.measurements", self.measurements, low=500)
        checks.whole("characterise.writes", self.writes, low=20)
        checks.whole("characterise.pulses", self.pulses, low=40)
        checks.number("characterise.low", self.low, none="the device's own limit")
        checks.number("characterise.high", self.high, none="the device's own limit")
        checks.number("characterise.level", self.level, 0.5, 1, "a share", below=True)
        checks.number("characterise.target", self.target, 0, 1, "a share of the first cost", above=True)
        checks.number("characterise.read_seconds", self.read_seconds, low=0, none="measured")
        if not re.fullmatch(r"[A-Za-z_]\w*", str(self.name), re.ASCII):
            raise ConfigError(f"characterise.name must be a word of a to z, digits and _, not {self.name!r}")
        for group in ("device", "device/cell", "experiment"):
            if (config.conf_dir() / group / f"{self.name}.yaml").exists():
                raise ConfigError(
                    f"characterise.name must be a word of your own: there is {group}={self.name} already, which would "
                    "be found instead of the twin"
                )
