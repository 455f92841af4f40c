"""Online learning in time on spiking chips: target projection beside its relatives, back-propagation and frozen layers.

    python benchmarks/osttp.py music [--rules bptt,osttp,...] [--seeds 3] [--epochs 50] [--out music.json]
    python benchmarks/osttp.py digits [--rules bptt,osttp,...] [--seeds 2] [--epochs 30] [--out digits.json]

`music`: JSB chorales, 88-150-88, hard reset, decay 0.8, threshold 0.5, batches of 32, Adam 0.01; negative
log-likelihood of a held-out frame [nats] after the epoch that was best on the validation set.
`digits`: FSDD, 32-200-10, recurrent, soft reset, decay 0.95, threshold 1, integrators (0.99, gain 0.1), batches of 64,
Adam 0.001, triangular surrogate; held-out accuracy, the class being that of the mean softmax.
Both beside the figures of an independent program.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hwtrain.algorithms.backprop import Backprop
from hwtrain.algorithms.osttp import OSTTP
from hwtrain.core import Algorithm, Task
from hwtrain.costs import Cost, CrossEntropy
from hwtrain.devices.spiking import Spiking
from hwtrain.evaluation import Evaluation
from hwtrain.optimize import Adam
from hwtrain.recorder import InMemory
from hwtrain.sim.neurons import LayerGains, Surrogate
from hwtrain.sim.spiking import snu
from hwtrain.start import Glorot, Start
from hwtrain.tasks.music import FrameNLL, jsb_chorales
from hwtrain.tasks.recordings import fsdd
from hwtrain.trainer import Budget, Trainer

DIGITS = {"decay": 0.95, "reset": "soft", "recurrent": True, "readout": "integrator", "readout_gain": 0.1}


@dataclass(frozen=True, slots=True)
class Row:
    """A rule, what it changes of the network, and what another program measured."""

    algorithm: Algorithm
    other: str = ""
    network: dict[str, Any] = field(default_factory=dict)


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
        "frozen": ".593, .587",
    }
    table = {name: Row(own[name].algorithm, other) for name, other in others.items()}
    table["frozen wide"] = Row(wide["frozen"].algorithm, ".897")
    return table


def train(
    row: Row,
    task: Task,
    cost: Cost,
    network: dict[str, Any],
    surrogate: Surrogate,
    epoch: int,
    options: argparse.Namespace,
) -> tuple[InMemory, float]:
    """All seeds at once; the record and the seconds it took."""
    device = Spiking(snu(**network | row.network), cost, chips=options.seeds, surrogate=surrogate)
    record, begin = InMemory(epoch), time.perf_counter()
    evaluation = Evaluation(every=epoch, samples=300, angle=False)
    budget = Budget(steps=options.epochs * epoch)
    Trainer(row.algorithm, device, task, cost, budget, record, options.seed, evaluation).run()
    return record, time.perf_counter() - begin


def best(record: InMemory) -> tuple[Any, Any, Any]:
    """Test cost where the validation cost was lowest, the epoch of that, and the last validation cost, per seed."""
    lines = [line for line in record.lines if "valid_cost" in line]
    valid, test = (np.array([line[f"{part}_cost"] for line in lines]) for part in ("valid", "test"))
    at = valid.argmin(axis=0)
    return np.take_along_axis(test, at[None], axis=0)[0], at + 1, valid[-1]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("table", choices=["music", "digits"])
    parser.add_argument("--rules", help="some of the rows (default: all)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--eta", type=float)
    parser.add_argument("--out", type=Path, help="keep all figures in this file")
    options = parser.parse_args()
    task: Task
    if options.table == "music":
        task, cost, surrogate, epoch = jsb_chorales(), FrameNLL(), Surrogate(), 8
        network = {"sizes": [88, 150, 88]}
        table = music(options.eta or 0.01)
        options.epochs = options.epochs or 50
    else:
        task, cost, surrogate, epoch = fsdd(), CrossEntropy(), Surrogate("triangle", height=0.3), 43
        network = {"sizes": [32, 200, 10], "threshold": 1.0, **DIGITS}
        table = digits(options.eta or 0.001)
        options.epochs = options.epochs or 30
    kept = {}
    for name in options.rules.split(",") if options.rules else table:
        record, seconds = train(table[name], task, cost, network, surrogate, epoch, options)
        last = [line for line in record.lines if "test_cost" in line][-1]
        rate = record.lines[-3].get("rate")
        if options.table == "music":
            test, at, valid = best(record)
            shown = f"{np.round(test, 3)} at epoch {at}, last validation {np.round(valid, 3)}"
        else:
            test = last["test_accuracy"]
            shown = f"{np.round(test, 3)}"
        print(
            f"{name:16} {shown}  rate {np.round(rate, 3) if rate is not None else '-'}  "
            f"{seconds:.0f} s  (other: {table[name].other})",
            flush=True,
        )
        kept[name] = {
            "test": np.asarray(test).tolist(),
            "seconds": seconds,
            "lines": [{key: np.asarray(value).tolist() for key, value in line.items()} for line in record.lines],
        }
    if options.out:
        options.out.write_text(json.dumps({"options": {**vars(options), "out": str(options.out)}, "rows": kept}))


if __name__ == "__main__":
    main()
