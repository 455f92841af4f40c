"""Online learning in time on spiking chips: target projection beside its relatives, back-propagation and frozen layers.

    python benchmarks/osttp.py music [--rules "bptt;osttp;..."] [--seeds 3] [--epochs 50] [--out music.json]
    python benchmarks/osttp.py digits [--rules "bptt;osttp;..."] [--seeds 2] [--epochs 30] [--out digits.json]
    python benchmarks/osttp.py touch | retina | long | memory | writes [--rules ...] [--seeds ...] [--out FILE.json]
    python benchmarks/osttp.py draw writes.json ../docs/osttp_memory.svg

`music`: JSB chorales, 88-150-88, hard reset, decay 0.8, threshold 0.5, batches of 32, Adam 0.01; negative
log-likelihood of a held-out frame [nats] after the epoch that was best on the validation set.
`digits`: FSDD, 32-200-10, recurrent, soft reset, decay 0.95, threshold 1, integrators (0.99, gain 0.1), batches of 64,
Adam 0.001, triangular surrogate; held-out accuracy, the class being that of the mean softmax.
Both beside the figures of an independent program.
`touch`: Braille letters, standardised sensors, the network and rules of `digits` with 12 inputs and 27 outputs, 15
epochs. `retina`: N-MNIST, 1000 digits of 2312 pixels, 200 neurons without recurrence, batches of 50, 5 epochs.
`long`: `music` for 150 epochs, batches of 16, Adam 0.005.
`memory`: `music` with matrices in phase-change memory (hwtrain/sim/arrays.py) of -2 to 2, which a read-out of gain 0.5
makes -1 to 1 for the last; one second a batch, drift on, Adam 0.006. `writes`: the same over programming schemes, their
steps, and the scale of the programming errors.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from hwtrain import config, svg
from hwtrain.algorithms.backprop import Backprop
from hwtrain.algorithms.osttp import OSTTP
from hwtrain.core import Algorithm, Task
from hwtrain.costs import Cost, CrossEntropy
from hwtrain.devices.spiking import Spiking
from hwtrain.evaluation import Evaluation
from hwtrain.optimize import Adam
from hwtrain.recorder import InMemory
from hwtrain.sim.composite import Differential, Scaled
from hwtrain.sim.neurons import LayerGains, Surrogate
from hwtrain.sim.spiking import snu
from hwtrain.start import Glorot, Start
from hwtrain.tasks.events import nmnist
from hwtrain.tasks.music import FrameNLL, jsb_chorales
from hwtrain.tasks.recordings import braille, fsdd
from hwtrain.trainer import Budget, Trainer

STEPS = (0.25, 0.125, 0.0625)  # 1/16 to 1/64 of the range
SCALES = {0.0: "errors 0", 1.0: "threshold 0.125", 2.0: "errors 2", 4.0: "errors 4"}  # of programming errors, and rows
DIGITS = {"decay": 0.95, "reset": "soft", "recurrent": True, "readout": "integrator", "readout_gain": 0.1}


@dataclass(frozen=True, slots=True)
class Row:
    """A rule, what it changes of the network, and what another program measured."""

    algorithm: Algorithm
    other: str = ""
    network: dict[str, Any] = field(default_factory=dict)
    device: dict[str, Any] = field(default_factory=dict)


def rows(cost: Cost, eta: float, start: Start, surrogate: Surrogate) -> dict[str, Row]:
    """Every rule by name."""
    common: dict[str, Any] = {"eta": eta, "cost": cost, "start": start, "surrogate": surrogate, "optimizer": Adam()}
    whole = common | {"reverse": True}  # the same numbers up to rounding, in less time
    return {
        "bptt": Row(Backprop(eta=eta, optimizer=Adam(), start=start)),
        "ostl": Row(OSTTP(**whole, signal="transport")),
        "eprop": Row(OSTTP(**whole, signal="transport", filter_by_readout=True)),
        "dfa": Row(OSTTP(**whole, signal="error")),
        "osttp": Row(OSTTP(**whole)),
        "osttp centred": Row(OSTTP(**whole, centre=True)),
        "local": Row(OSTTP(**whole, signal="local")),
        "frozen": Row(OSTTP(**whole, signal="none")),
    }


def music(eta: float) -> dict[str, Row]:
    """The rows of the first table."""
    own = rows(FrameNLL(), eta, Glorot(), Surrogate())
    others = {
        "bptt": "8.943, 8.917, 8.971",
        "ostl": "8.943, 8.917, 8.971",
        "dfa": "9.150",
        "osttp": "9.055, 9.052, 9.117",
        "osttp centred": "9.067, 9.013, 9.008",
        "local": "",
        "frozen": "11.106, 11.138, 11.242",
    }
    table = {name: Row(own[name].algorithm, other) for name, other in others.items()}
    for threshold, other in ((0.15, "9.706"), (0.05, "9.527")):
        table[f"frozen {threshold}"] = Row(own["frozen"].algorithm, other, {"threshold": threshold})
    return table


def digits(eta: float) -> dict[str, Row]:
    """The rows of the second table."""
    surrogate = Surrogate("triangle", height=0.3)
    own = rows(CrossEntropy(), eta, LayerGains(0.5, 0.3, 1.0), surrogate)
    wide = rows(CrossEntropy(), 3 * eta, LayerGains(2.0, 0.3, 1.0), surrogate)
    others = {
        "bptt": ".963, .947",
        "eprop": ".933",
        "dfa": ".863",
        "osttp": ".703",
        "osttp centred": ".780, .777",
        "local": "",
        "frozen": ".593, .587",
    }
    table = {name: Row(own[name].algorithm, other) for name, other in others.items()}
    table["frozen wide"] = Row(wide["frozen"].algorithm, ".897")
    for name in ("bptt", "eprop", "osttp centred", "local"):
        table[f"{name} wide"] = Row(wide[name].algorithm)
    return table


def memory(eta: float) -> dict[str, Row]:
    """Rules on phase-change memory, and on numbers of the same range."""
    start = LayerGains(readout=2.0)  # Glorot's, seen through the read-out's gain
    own = rows(FrameNLL(), eta, start, Surrogate())
    pcm, numbers = {"cell": pairs(), "read_seconds": 1.0}, {"low": -2.0, "high": 2.0}
    table = {
        "osttp centred": Row(own["osttp centred"].algorithm, "9.344, 9.286, 9.335", device=pcm),
        "osttp": Row(own["osttp"].algorithm, device=pcm),
        "ostl": Row(own["ostl"].algorithm, device=pcm),
    }
    for threshold, other in ((0.5, "11.703"), (0.15, ""), (0.05, "9.779")):
        table[f"frozen {threshold}"] = Row(own["frozen"].algorithm, other, {"threshold": threshold}, pcm)
    table["osttp centred, ideal"] = Row(own["osttp centred"].algorithm, "9.176, 9.136, 9.152", device=numbers)
    return table


def pairs(scale: float = 1.0) -> Scaled:
    """Weights of -2 to 2 in pairs of phase-change devices whose programming errors are `scale` times as published."""
    return Scaled(Differential(preset("pcm_nandakumar2019", programming_scale=scale)), low=-2.0, high=2.0)


def writes(eta: float) -> dict[str, Row]:
    """Programming schemes by their steps, and errors by their scale."""
    algorithm = memory(eta)["osttp centred"].algorithm
    rising = Scaled(preset("pcm_pair"), low=-2.0, high=2.0)
    table = {"ideal": Row(algorithm, device={"low": -2.0, "high": 2.0})}
    for step in STEPS:
        for scheme in ("threshold", "mixed_precision"):
            device = {"cell": pairs(), "programming": scheme, "step": step, "read_seconds": 1.0}
            table[f"{scheme} {step:g}"] = Row(algorithm, device=device)
    for step in (0.05, 0.1):
        device = {"cell": rising, "programming": "mixed_precision", "step": step, "read_seconds": 1.0}
        table[f"pulses {step:g}"] = Row(algorithm, device=device)
    for scale, name in SCALES.items():
        table[name] = Row(algorithm, device={"cell": pairs(scale), "step": 0.125, "read_seconds": 1.0})
    return table


def preset(name: str, **changes: Any) -> Any:
    """A published cell of conf/device/cell."""
    return replace(config.build(OmegaConf.load(config.conf_dir() / "device" / "cell" / f"{name}.yaml")), **changes)


def draw(source: Path, target: Path) -> None:
    """The picture of `writes`, of the rows that there are."""
    kept = json.loads(source.read_text())["rows"]

    def series(name: str, scheme: str) -> svg.Series:
        own = sorted(
            (np.mean(row["writes"]), np.median(row["test"])) for key, row in kept.items() if key.startswith(scheme)
        )
        x, y = np.array(own).T
        return svg.Series(x, y, name)

    ideal = float(np.median(kept["ideal"]["test"]))
    up = svg.Axis("test negative log-likelihood [nats a frame]")
    names = {
        "threshold": "threshold, to the grid",
        "mixed_precision": "threshold, added to what is held",
        "pulses": "mixed precision, pulses up only",
    }
    lines = [series(name, scheme + " ") for scheme, name in names.items()]
    ends = [float(pick([pick(line.x) for line in lines])) for pick in (np.min, np.max)]
    against_writes = svg.line_chart(
        [*lines, svg.Series(np.array(ends), np.array([ideal, ideal]), "ideal numbers", color="#666666")],
        "JSB chorales on phase-change memory",
        svg.Axis("writes of a parameter in 400 updates", log=True),
        up,
        "OSTTP, centred target; a step of the parameter makes a write; coarse steps on the left",
    )
    measured = {scale: float(np.median(kept[name]["test"])) for scale, name in SCALES.items() if name in kept}
    scales, errors = np.array(list(measured)), np.array(list(measured.values()))
    against_errors = svg.line_chart(
        [
            svg.Series(scales, errors, "phase-change memory"),
            svg.Series(scales, np.full(len(scales), ideal), "ideal numbers", color="#666666"),
        ],
        "The same, by programming error",
        svg.Axis("scale of the programming error (1: as measured by Nandakumar et al. 2019)"),
        up,
        "steps of 1/32 of the range, drift and read noise on",
    )
    target.write_text(svg.grid([against_writes, against_errors]) + "\n")


def train(
    row: Row,
    task: Task,
    cost: Cost,
    network: dict[str, Any],
    surrogate: Surrogate,
    epoch: int,
    options: argparse.Namespace,
) -> tuple[InMemory, float, float]:
    """All seeds at once; the record, the seconds it took, and writes of a parameter that stands in a cell."""
    settings = {"chips": options.seeds, "surrogate": surrogate} | row.device
    device = Spiking(snu(**network | row.network), cost, **settings)
    record, begin = InMemory(epoch), time.perf_counter()
    evaluation = Evaluation(every=epoch, samples=300, angle=False)
    budget = Budget(steps=options.epochs * epoch)
    Trainer(row.algorithm, device, task, cost, budget, record, options.seed, evaluation).run()
    seconds = time.perf_counter() - begin
    matrices = device.spec.size - sum(layer.outputs[0] for layer in device.spec.layers)
    made = device.counts()["traffic"].get("writes", 0) / options.seeds / matrices
    return record, seconds, made


def best(record: InMemory) -> tuple[Any, Any, Any]:
    """Test cost where the validation cost was lowest, the epoch of that, and the last validation cost, per seed."""
    lines = [line for line in record.lines if "valid_cost" in line]
    valid, test = (np.array([line[f"{part}_cost"] for line in lines]) for part in ("valid", "test"))
    at = valid.argmin(axis=0)
    return np.take_along_axis(test, at[None], axis=0)[0], at + 1, valid[-1]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("table", choices=["music", "digits", "touch", "retina", "long", "memory", "writes", "draw"])
    parser.add_argument("files", nargs="*", type=Path, help="of draw: from, to")
    parser.add_argument("--rules", help="some of the rows (default: all)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--eta", type=float)
    parser.add_argument("--neurons", type=int, help="of the hidden layer")
    parser.add_argument("--out", type=Path, help="keep all figures in this file")
    options = parser.parse_args()
    if options.table == "draw":
        draw(*options.files)
        return
    task: Task
    surrogate, music_like = Surrogate("triangle", height=0.3), options.table in ("music", "long", "memory", "writes")
    match options.table:
        case "music" | "memory" | "writes":
            task, cost, surrogate, epoch, epochs = jsb_chorales(), FrameNLL(), Surrogate(), 8, 50
        case "long":
            task, cost, surrogate, epoch, epochs = jsb_chorales(batch=16), FrameNLL(), Surrogate(), 15, 150
        case "digits":
            task, cost, epoch, epochs = fsdd(), CrossEntropy(), 43, 30
        case "touch":
            task, cost, epoch, epochs = braille(standard=True), CrossEntropy(), 17, 15
        case _:
            task, cost, epoch, epochs = nmnist(), CrossEntropy(), 20, 5
    hidden = options.neurons or (150 if music_like else 200)
    network: dict[str, Any] = {"sizes": [task.inputs, hidden, task.outputs], "threshold": 1.0, **DIGITS}
    if options.table == "retina":
        network["recurrent"] = False
    if music_like:
        network = {"sizes": [88, hidden, 88]}
    if options.table in ("memory", "writes"):
        network |= {"readout": "integrator", "readout_decay": 0.0, "readout_gain": 0.5}
    if music_like:
        build, eta = {
            "music": (music, 0.01),
            "long": (music, 0.005),
            "memory": (memory, 0.006),
            "writes": (writes, 0.006),
        }[options.table]
        table = build(options.eta or eta)
    else:
        table = digits(options.eta or 0.001)
    options.epochs = options.epochs or epochs
    kept = {}
    for name in options.rules.split(";") if options.rules else table:
        record, seconds, made = train(table[name], task, cost, network, surrogate, epoch, options)
        last = [line for line in record.lines if "test_cost" in line][-1]
        rate = record.lines[-3].get("rate")
        if music_like:
            test, at, valid = best(record)
            shown = f"{np.round(test, 3)} at epoch {at}, last validation {np.round(valid, 3)}, writes {made:.2f}"
        else:
            test = last["test_accuracy"]
            shown = f"{np.round(test, 3)}"
        print(
            f"{name:16} {shown}  rate {np.round(rate, 3) if rate is not None else '-'}  "
            f"{seconds:.0f} s"
            + (f"  (other: {table[name].other})" if options.table not in ("touch", "retina") else ""),
            flush=True,
        )
        kept[name] = {
            "test": np.asarray(test).tolist(),
            "seconds": seconds,
            "writes": made,
            "lines": [{key: np.asarray(value).tolist() for key, value in line.items()} for line in record.lines],
        }
    if options.out:
        plain = {**vars(options), "out": str(options.out), "files": []}
        options.out.write_text(json.dumps({"options": plain, "rows": kept}))


if __name__ == "__main__":
    main()
