"""Our pulsed cells beside AIHWKIT's own tiles: the same presets, the same pulses; moments of the weights, and speed.

    python benchmarks/aihwkit_tiles.py [--devices 4096] [--pulses 40]

Needs AIHWKIT (MIT licence; 1.2.0 is built from source, with torch), which is no dependency of hwtrain. Every device
gets so many single pulses up, then half as many down: trains of one slot, in which both lines fire with certainty.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from aihwkit.simulator.configs import SingleRPUConfig, UpdateParameters
from aihwkit.simulator.presets import devices as theirs
from aihwkit.simulator.tiles import AnalogTile
from cells import preset

PAIRS = {
    "reram_es": "ReRamESPresetDevice",
    "reram_sb": "ReRamSBPresetDevice",
    "capacitor": "CapacitorPresetDevice",
    "ecram": "EcRamPresetDevice",
    "ecram_mo": "EcRamMOPresetDevice",
    "idealized": "IdealizedPresetDevice",
    "gokmen_vlasov": "GokmenVlasovPresetDevice",
    "reram_array_om": "ReRamArrayOMPresetDevice",
}


def their_weights(name: str, devices: int, pulses: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], float]:
    """Weights after pulses up, after pulses down, and pulses per second."""
    device = getattr(theirs, name)()
    update = UpdateParameters(desired_bl=1, update_management=False, update_bl_management=False)
    tile = AnalogTile(1, devices, SingleRPUConfig(device=device, update=update))
    tile.set_weights(torch.zeros(1, devices))
    tile.set_learning_rate(device.dw_min * 100)  # beyond certainty, which is where probabilities are cut off
    x, up = torch.ones(1, devices), -torch.ones(1, 1)
    began = time.perf_counter()
    for _ in range(pulses):
        tile.update(x, up)
    middle = tile.get_weights()[0].numpy().ravel().copy()
    for _ in range(pulses // 2):
        tile.update(x, -up)
    rate = devices * (pulses + pulses // 2) / (time.perf_counter() - began)
    return middle, tile.get_weights()[0].numpy().ravel().copy(), rate


def our_weights(name: str, devices: int, pulses: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], float]:
    """The same, of our cells."""
    cell = preset(name)
    array = cell.fabricate(np.uint32(1)[...], devices)
    state, one = cell.fresh(array), np.ones(devices, np.int64)
    began = time.perf_counter()
    for _ in range(pulses):
        state = cell.pulse(array, state, one)
    middle = cell.held(array, state)
    for _ in range(pulses // 2):
        state = cell.pulse(array, state, -one)
    rate = devices * (pulses + pulses // 2) / (time.perf_counter() - began)
    return middle, cell.held(array, state), rate


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=4096)
    parser.add_argument("--pulses", type=int, default=40)
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for ours, name in PAIRS.items():
        sides = [
            our_weights(ours, given.devices, given.pulses),
            their_weights(name, given.devices, given.pulses),
        ]
        cells = []
        for which in (0, 1):
            means, spreads = ([float(f(side[which])) for side in sides] for f in (np.mean, np.std))
            error = np.hypot(*(spread / np.sqrt(given.devices) for spread in spreads))
            apart = (means[0] - means[1]) / error if error else 0.0
            cells.append(
                f"{means[0]:+.4f}, {means[1]:+.4f} ({apart:+.1f}) | {spreads[0]:.4f}, {spreads[1]:.4f} "
                f"({spreads[0] / spreads[1] - 1:+.1%})"
            )
        print(f"| {ours} | {' | '.join(cells)} | {sides[0][2] / sides[1][2]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
