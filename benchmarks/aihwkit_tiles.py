"""Our pulsed cells beside AIHWKIT's own tiles: the same presets, the same pulses; moments of the weights, and speed.

    python benchmarks/aihwkit_tiles.py [--devices 4096] [--pulses 40] [--runs 8]

Needs AIHWKIT (MIT licence; 1.2.0 is built from source, with torch), which is no dependency of hwtrain. Every device
gets so many single pulses up, then half as many down: trains of one slot, in which both lines fire with certainty. Of
each run, with devices of its own, the mean and the standard deviation are taken; how far the two programs are apart is
told in standard errors from the differences between runs.
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


def their_weights(
    name: str, devices: int, pulses: int, seed: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], float]:
    """Weights after pulses up, after pulses down, and pulses per second."""
    device = getattr(theirs, name)(construction_seed=seed)
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


def our_weights(
    name: str, devices: int, pulses: int, seed: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], float]:
    """The same, of our cells."""
    cell = preset(name)
    array = cell.fabricate(np.uint32(seed)[...], devices)
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
    parser.add_argument("--runs", type=int, default=8)
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for ours, name in PAIRS.items():
        sides = [
            [weights(key, given.devices, given.pulses, seed + 1) for seed in range(given.runs)]
            for weights, key in ((our_weights, ours), (their_weights, name))
        ]
        cells = []
        for which in (0, 1):
            for moment in (np.mean, np.std):
                (one, other) = (np.array([moment(run[which]) for run in side]) for side in sides)
                error = np.sqrt((one.var(ddof=1) + other.var(ddof=1)) / given.runs)
                apart = (one.mean() - other.mean()) / error
                cells.append(f"{one.mean():+.4f}, {other.mean():+.4f} ({apart:+.1f})")
        rates = [np.median([run[2] for run in side]) for side in sides]
        print(f"| {ours} | {' | '.join(cells)} | {rates[0] / rates[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
