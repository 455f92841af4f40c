"""What characterising finds of chips that are known, what its settings are worth, and how it fits measured devices.

    python benchmarks/characterise.py recovery [values|decay|pulses] [--chips 100] [--seed 0]
    python benchmarks/characterise.py settings [--chips 10]
    python benchmarks/characterise.py presets
    python benchmarks/characterise.py measured PICTURE.svg   needs the measured devices, in the folder HWTRAIN_DATA

`recovery`: imperfections are planted in simulated chips, and the intervals counted that hold them. `settings`:
measurements until a cost is reached, with the settings that each chip's own readings recommend and with those of the
front door. `presets`: a cell fitted to every published one that is pulsed, put through the same trains. `measured`:
cells fitted to one half of measured devices, ramps or readings, beside the other half, in numbers and drawn.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from scipy.stats import binom

from hwtrain import config, draws, svg
from hwtrain.algorithms.mgd import MGD
from hwtrain.characterise import experiments, pulses, recommend, replay
from hwtrain.characterise.bench import Bench
from hwtrain.characterise.chip import Chip, Finding
from hwtrain.characterise.findings import conclude
from hwtrain.core import Array, Can, Device, Measure, Program, Task
from hwtrain.costs import MeanSquaredError
from hwtrain.devices.simulated import Simulated
from hwtrain.perturb import Rademacher
from hwtrain.recorder import InMemory
from hwtrain.sim.cells import Stuck
from hwtrain.sim.composite import Differential, Scaled
from hwtrain.sim.curves import Polynomial
from hwtrain.sim.laws import SoftBounds
from hwtrain.sim.networks import mlp
from hwtrain.sim.pulsed import Pulsed
from hwtrain.sim.tables import load_table
from hwtrain.sim.written import Drift, White, Written
from hwtrain.start import Uniform
from hwtrain.svg import Axis, Series
from hwtrain.tasks.dataset import DataTask
from hwtrain.tasks.letters import letters7x7
from hwtrain.trainer import Budget, Trainer

COST, LEVEL = MeanSquaredError(), 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["recovery", "settings", "presets", "measured"])
    parser.add_argument("which", nargs="?", help="of recovery: values, decay or pulses; of measured: the picture")
    parser.add_argument("--chips", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.what == "recovery":
        for name in [given.which] if given.which else PLANTED:
            recovery(name, given.chips or 100, given.seed)
    elif given.what == "settings":
        settings(given.chips or 10)
    elif given.what == "presets":
        presets(given.seed)
    else:
        measured(Path(given.which or "measured.svg"))


# Recovery


@dataclass(frozen=True)
class Planted:
    """Chips with known imperfections: the device, its truth by the name of the finding, and the budget."""

    sizes: tuple[int, ...]
    device: Mapping[str, Any]
    truth: Mapping[str, float]
    measurements: int = 20000
    writes: int = 1000
    read_seconds: float = 0.0


DRIFT, CLOCK, NU = 6e-3, 1e-3, 0.05
DECAYING = Written(
    programming=Polynomial([0.0]),
    ageing=Drift(mean=Polynomial([NU]), std=Polynomial([0.0]), t_0=5.0),
    reading=White(0.0),
    g_min=0.0,
    g_max=25e-6,
)
PULSED = Pulsed(
    law=SoftBounds(),
    dw_min=0.005,
    dw_min_dtod=0.2,
    dw_min_std=0.4,
    up_down=0.25,
    up_down_dtod=0.05,
    w_max=1.0,
    w_min=-0.9,
    w_max_dtod=0.1,
    w_min_dtod=0.1,
    write_noise_std=2.0,
    read_noise=0.004,
    stuck=Stuck(anywhere=0.05),
)
PLANTED = {
    "values": Planted(
        (9, 6, 3),
        {
            "low": -4.0,
            "high": 4.0,
            "cost_noise": 2e-4,
            "baseline_noise": 3e-4,
            "read_noise": 0.005,
            "parameter_variation": 0.1,
            "activation_variation": 0.05,
            "stuck": 0.04,
            "parameter_bits": 8,
            "update_noise": 0.005,
            "drift": DRIFT,
            "read_seconds": CLOCK,
        },
        {
            "probe_noise": 2e-4,
            "baseline_noise": 3e-4,
            "read_noise": 0.005,
            "parameter_variation": 0.1,
            "activation_variation": 0.05,
            "stuck": 0.04,
            "parameter_bits": 8,
            "write_noise": 0.005,
            "drift": DRIFT * math.sqrt(CLOCK),
            "probe_ratio": 1.0,
        },
        read_seconds=CLOCK,
    ),
    "decay": Planted(
        (9, 6, 3),
        {"cell": Scaled(Differential(DECAYING), -4.0, 4.0), "cost_noise": 1e-3, "read_seconds": 1.0},
        {"drift_exponent": NU, "probe_noise": 1e-3},
        read_seconds=1.0,
    ),
    "pulses": Planted(
        (6, 4, 3),
        {"cell": PULSED},
        {
            "pulse_asymmetry": 0.25,
            "pulse_up": 0.005,
            "pulse_down": 0.00375,
            "pulse_noise": 0.4,
            "pulse_write_noise": 0.01,
            "parameter_read_noise": 0.004,
            "pulse_variation": 0.2 / 0.875,
            "stuck": 0.05,
        },
        writes=4000,
    ),
}


def recovery(name: str, chips: int, seed: int) -> None:
    """Count the intervals that hold what was planted."""
    planted = PLANTED[name]
    found: list[dict[str, Finding]] = []
    for first in range(0, chips, 20):  # memory
        many = min(20, chips - first)
        device = Simulated(mlp(list(planted.sizes)), COST, chips=many, seed=seed + first, **planted.device)
        task = made_up(planted.sizes[0], planted.sizes[-1])
        found += characterised(device, task, planted, seed + first)
    least = int(binom.ppf(0.005, chips, LEVEL))
    print(
        f"\n{name}: {chips} chips from seed {seed}, {'-'.join(map(str, planted.sizes))}, at most {planted.measurements}"
    )
    print(f"measurements; of intervals that cover {LEVEL:.0%}, fewer than {least} of {chips} come once in 200 times\n")
    print("| | planted | median | spread | intervals that hold it | median width |\n|---|---|---|---|---|---|")
    for trait, truth in planted.truth.items():
        seen = [one[trait].estimate for one in found if trait in one and one[trait].estimate is not None]
        values = np.array([one.value for one in seen])
        held = sum(one.low <= truth <= one.high for one in seen)
        width = np.median([one.high - one.low for one in seen])
        verdict = "" if held >= int(binom.ppf(0.005, len(seen), LEVEL)) else " (too few)"
        print(
            f"| {trait.replace('_', ' ')} | {truth:.4g} | {np.median(values):.4g} | {values.std():.2g} | "
            f"{held}/{len(seen)}{verdict} | {width:.2g} |"
        )


def characterised(device: Device, task: Task, planted: Planted, seed: int) -> list[dict[str, Finding]]:
    """The findings of every chip."""
    with tempfile.TemporaryDirectory() as folder:
        budget = planted.measurements, planted.writes
        with Bench(device, Path(folder), *budget, read_seconds=planted.read_seconds) as bench:
            ground = experiments.ground(bench, task, Uniform(), seed)
            done = experiments.measure(bench, ground)
    every = np.ndindex(ground.theta.shape[:-1])
    return [conclude(Chip(done.chip(at), ground, ground.theta[at], COST, LEVEL)) for at in every]


def made_up(inputs: int, outputs: int) -> DataTask:
    """Uniform inputs and classes in turn."""
    x = draws.uniform(np.array(1, np.uint32), np.arange(256), inputs)
    y = np.eye(outputs)[np.arange(256) % outputs]
    return DataTask("made up", x, y, x, y, 8, {})


# Settings


def settings(chips: int) -> None:
    """Measurements until the cost of seen samples is down to 0.1, and those of characterising beside them."""
    task, most, sooner = letters7x7(batch=16), 60000, 0
    print("| chip | noise of a cost | recommended amplitude, tau_theta, eta | measurements | with the defaults |")
    print("|---|---|---|---|---|")
    for seed in range(chips):
        noise = 10 ** (-3.5 + seed / 10)  # 3e-4 to 2.5e-3

        def chip(seed: int = seed, noise: float = noise) -> Simulated:
            return Simulated(
                mlp([49, 4, 4]), COST, seed=seed, low=-8.0, high=8.0, cost_noise=noise, parameter_variation=0.1,
                activation_variation=0.05, update_noise=0.003, parameter_bits=10,
            )  # fmt: skip

        with (
            tempfile.TemporaryDirectory() as folder,
            Bench(chip(), Path(folder), 10000, 600, read_seconds=0.0) as bench,
        ):
            done = experiments.measure(bench, experiments.ground(bench, task, Uniform(), seed))
        traits = conclude(Chip(done.chip(()), done.ground, done.ground.theta, COST, LEVEL))
        noises = traits["probe_noise"].value, traits["baseline_noise"].value
        found = recommend.recommend(done.chip(()), *noises, 220, 0.1, LEVEL)
        assert found is not None
        recommended = MGD(
            eta=found.eta.value,
            perturbation=Rademacher(amplitude=found.amplitude.value),
            tau_x=None,
            tau_theta=round(found.tau_theta.value),
            baseline=found.baseline,
        )
        own, usual = (reached(chip(), task, one, seed, most) for one in (recommended, DEFAULT))
        sooner += own < usual
        chosen = f"{found.amplitude.value:.3g}, {found.tau_theta.value:.0f}, {found.eta.value:.3g}"
        print(
            f"| {seed} | {noise:.2g} | {chosen} | {_count(own, most)} | {_count(usual, most)} |",
            flush=True,
        )
    print(f"\nsooner on {sooner} of {chips}; characterising took at most 10000 measurements of each")


DEFAULT = MGD(
    eta=1.0, perturbation=Rademacher(amplitude=1e-3), tau_x=None, tau_theta=16
)  # conf/tuned/letters7x7-mgd.yaml


def reached(device: Simulated, task: Task, algorithm: MGD, seed: int, most: int, target: float = 0.1) -> float:
    """Measurements until the cost of seen samples is down to the target; infinity beyond the budget."""
    seen, state = task.seen(512), algorithm.init(device.spec, np.array(seed, np.uint32))
    trainer = Trainer(algorithm, device, task, COST, Budget(measurements=most), InMemory(), seed)
    spent = updates = 0
    while spent < most:
        state, _, commands = trainer.step(state)
        spent += sum(1 if c.probes is None else c.probes.count for c in commands if isinstance(c, Measure))
        if state.updates >= updates + 50:
            updates = state.updates
            (reading,) = device.execute([Program(state.theta), Measure(seen, observe=Can.OUTPUT)])
            assert reading.output is not None and seen.target is not None
            if COST(reading.output[0], seen.target).mean() <= target:
                return spent
    return math.inf


def _count(measurements: float, most: int) -> str:
    return f"{measurements:,.0f}".replace(",", " ") if math.isfinite(measurements) else f"not in {most}"


# Published cells


def presets(seed: int) -> None:
    """Of every preset that is pulsed, by which law its readings are fitted, and how far that cell is from them."""
    planted = Planted((6, 4, 3), {}, {}, writes=8000)
    print("| preset | its law | fitted | mean level off, of the range | by chance |\n|---|---|---|---|---|")
    for path in sorted((config.conf_dir() / "device" / "cell").glob("*.yaml")):
        settings = OmegaConf.load(path)
        if settings["_target_"] != f"{Pulsed.__module__}.{Pulsed.__name__}":
            continue
        cell = config.build(settings)
        device = Simulated(mlp(list(planted.sizes)), COST, cell=cell, seed=seed)
        (found,) = characterised(device, made_up(6, 3), planted, seed)
        off, chance = found["cell_residual"].value, found["cell_chance"].value
        law = type(cell.law).__name__
        print(f"| {path.stem} | {law} | {found['cell'].verdict} | {off:.1%} | {chance:.1%} |", flush=True)


# Measured devices


def measured(picture: Path) -> None:
    """Fit, simulate again, and say how far that is from what was measured and not fitted."""
    data = Path(os.environ.get("HWTRAIN_DATA", "data")) / "devices"
    charts = []
    print(
        "| device | law | noise of a pulse [steps] | residual, fitted half | held-out half | scatter | halves apart |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, path, prefix, every in (
        ("TaOx ReRAM, 41 devices", "taox_lut.npz", "", range(41)),
        ("TaOx ReRAM, the 24 better ones", "taox_lut.npz", "", np.load(data / "taox_lut.npz")["medium_set"].tolist()),
        ("ECRAM, 9 devices", "ecram_lut.npz", "multi_", range(9)),
    ):
        charts.append(tables(name, str(data / path), prefix, list(every)))
    gong = np.loadtxt(data / "reram_gong2018.csv", delimiter=",").T[None]
    charts.append(trace("ReRAM pulse trace (Gong 2018)", gong[..., ::2], gong[..., 1::2], 2, gong))
    ramps = np.load(data / "reram_set_reset_ramps.npz")
    cut = {
        kind: np.split(ramps[f"{kind}_current"] / ramps["read_voltage"], np.cumsum(ramps[f"{kind}_len"])[:-1])
        for kind in ("set", "reset")
    }
    halves = [
        np.stack(
            [ramp[:149] for pair in zip(cut["set"][half::2], cut["reset"][half::2], strict=False) for ramp in pair]
        )
        for half in (0, 1)
    ]
    charts.append(trace("ReRAM set and reset ramps", halves[0][None], halves[1][None], 1))
    picture.write_text(svg.grid(charts) + "\n")


def tables(name: str, path: str, prefix: str, every: Sequence[int]) -> str:
    """A population that is fitted as on a bench: one half of the measured devices, each pulsed as its table says."""
    halves = [load_table(path, prefix, every[half::2]) for half in (0, 1)]
    planted = Planted((6, 8, 4), {}, {}, writes=8000)
    device = Simulated(mlp(list(planted.sizes)), COST, cell=halves[0])
    (found,) = characterised(device, made_up(6, 4), planted, 0)
    settings = found["cell"].settings
    assert settings is not None
    fitted = found["cell"].table or config.build(dict(settings))
    count, block = 100, max(int(1.5 * (halves[0].high - halves[0].low) / halves[0].step / 100), 1)
    runs = [replay.played(cell, count, block, 200) for cell in (*halves, fitted)]
    runs = [run - (run.max(axis=(1, 2)) + run.min(axis=(1, 2)))[:, None, None] / 2 for run in runs]
    span = float(np.ptp(runs[1], axis=(1, 2)).mean())
    middles = [run.mean(axis=0) for run in runs]
    scatter = [run.std(axis=0).mean() / span for run in runs]
    report(
        name,
        found["cell"].verdict,
        found["pulse_noise"].value,
        middles,
        span,
        f"{scatter[1]:.1%}, cell {scatter[2]:.1%}",
    )
    return drawn(name, runs, block)


def trace(name: str, one: Array, other: Array, block: int, whole: Array | None = None) -> str:
    """A single device: some readings or ramps (1, j, n) that are fitted, up and down in turn, and others like them.

    A level that noise has moved goes on from there, so readings are told from the ones before them.

    Args:
        name: of the device.
        one: to be fitted.
        other: held out.
        block: pulses from one of them to the next.
        whole: both in their order, where the others stand between the ones.
    """
    middle, half = (one.max() + one.min()) / 2, (one.max() - one.min()) / 2
    ups = np.arange(one.shape[1]) % 2 == 0
    trains = pulses.Trains((one - middle) / half, ups, block)
    fit = pulses.fit(trains, LEVEL)
    cell: Pulsed = config.build(pulses.cell(fit, pulses.reached(trains), LEVEL))
    middles = [np.stack([part[0, first::2].mean(axis=0) for first in (0, 1)]) for part in (one, other)]
    again = np.stack([path(cell, (middles[0][row] - middle) / half, sign * block) for row, sign in enumerate((1, -1))])
    ahead = [
        fit.ahead(trains),
        fit.ahead(pulses.Trains(((other if whole is None else whole) - middle) / half, ups[: other.shape[1]])),
    ]
    if whole is not None:
        ahead[1] = ahead[1][0][..., ::2], ahead[1][1][..., ::2]
    off = [f"{math.sqrt(np.nanmean(apart**2)) / 2:.2%}" for apart, _ in ahead]
    spread = [f"{math.sqrt(np.nanmean(apart**2 / wide)):.2f}" for apart, wide in ahead]
    told = f"told from the reading before, over what is expected: {spread[0]}, held out {spread[1]}"
    print(f"| {name} | {fit.name} | {fit.noise.value:.2g} | {off[0]} | {off[1]} | {told} | |", flush=True)
    shown = [np.stack([part[0, first::2] for first in (0, 1)], axis=1) for part in (one, other)]
    return drawn(name, [*shown, (again * half + middle)[None]], block)


def path(cell: Pulsed, levels: Array, pulses_each: int) -> Array:
    """The noise-free levels (n,) of a cell that come nearest to some, whatever it starts from."""
    quiet = replace(cell.nominal(), write_noise_std=0.0)
    starts = np.linspace(quiet.low, quiet.high, 401)
    devices = quiet.fabricate(np.array(0, np.uint32), len(starts))
    state = replace(quiet.fresh(devices), value=starts)
    found = [starts]
    for _ in range(len(levels) - 1):
        state = quiet.pulse(devices, state, np.full(len(starts), pulses_each))
        found.append(quiet.held(devices, state))
    paths = np.stack(found, axis=-1)
    nearest: Array = paths[((paths - levels) ** 2).mean(axis=-1).argmin()]
    return nearest


def report(name: str, law: str, noise: float, middles: Sequence[Array], span: float, scatter: str) -> None:
    """Root mean square differences of mean levels, over the range."""
    fitted, held_out, again = middles
    off = [math.sqrt(((again - part) ** 2).mean()) / span for part in (fitted, held_out)]
    apart = math.sqrt(((held_out - fitted) ** 2).mean()) / span
    print(f"| {name} | {law} | {noise:.2g} | {off[0]:.2%} | {off[1]:.2%} | {scatter} | {apart:.2%} |", flush=True)


def drawn(name: str, runs: Sequence[Array], block: int) -> str:
    """Mean levels and quartiles of the three, train after train."""
    series = []
    for run, label in zip(runs, ("fitted half", "held-out half", "simulated again"), strict=True):
        flat = run.reshape(len(run), -1)
        low, middle, high = np.quantile(flat, (0.25, 0.5, 0.75), axis=0)
        at = np.arange(flat.shape[1]) * float(block)
        series.append(Series(at, middle, label, low, high) if len(run) > 1 else Series(at, middle, label))
    return svg.line_chart(
        series,
        name,
        Axis("pulses"),
        Axis("conductance [unit of the source]"),
        "Medians, with quartiles where there are several",
    )


if __name__ == "__main__":
    main()
