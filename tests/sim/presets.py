"""Published presets by name, and arrays made of cells."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
from omegaconf import OmegaConf

from hwtrain import config

FOLDERS = {
    "cell": config.conf_dir() / "device" / "cell",
    "crossbar": config.conf_dir() / "device" / "reads",
}
CELLS = sorted(path.stem for path in FOLDERS["cell"].glob("*.yaml") if "defaults" not in OmegaConf.load(path))


def preset(name, group="cell", **changes):
    return replace(_built(FOLDERS[group] / f"{name}.yaml"), **changes)


@lru_cache
def _built(path):
    return config.build(OmegaConf.load(path))


def array(cell, size=1, seed=1):
    """Devices and their first state, of one chip, or of several for several seeds."""
    devices = cell.fabricate(np.asarray(seed, np.uint32), size)
    return devices, cell.fresh(devices)


def pulsed(cell, devices, state, *trains):
    """After one train of pulses after another, the same for every parameter."""
    for counts in trains:
        state = cell.pulse(devices, state, np.full(cell.held(devices, state).shape, counts))
    return state
