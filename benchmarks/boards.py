"""Boards in emulators: what they learn, how fast, and what crosses the wire.

    python benchmarks/boards.py learn [steps] [board ...]     exclusive or and letters7x7, both ways of training
    python benchmarks/boards.py local [updates] [board ...]   letters7x7 by local rules, on the board
    python benchmarks/boards.py wire                          bytes per step against the number of parameters
    python benchmarks/boards.py line                          share of a 115 200-baud line that is used

Prints tables in Markdown. Seconds depend on the machine; everything else is the same everywhere.
"""

import sys
import time
import zlib

from hwtrain.algorithms.forward_forward import ForwardForward
from hwtrain.algorithms.mgd import MGD
from hwtrain.algorithms.mono_forward import MonoForward
from hwtrain.core import Can
from hwtrain.costs import CrossEntropy, MeanSquaredError
from hwtrain.devices.emulated import Emulated
from hwtrain.emulators import BOARDS
from hwtrain.errors import ConfigError
from hwtrain.evaluation import Evaluation, evaluate
from hwtrain.optimize import Descent
from hwtrain.perturb import Rademacher, Sinusoid
from hwtrain.recorder import InMemory
from hwtrain.sim.networks import mlp
from hwtrain.tasks.letters import letters7x7
from hwtrain.tasks.parity import parity
from hwtrain.trainer import Budget, Trainer

WAYS = {False: "host in the loop", True: "on the board"}


def settings(name, on_device):
    """Network, task and algorithm of conf/experiment/boards_xor.yaml and boards_letters7x7.yaml."""
    if name == "xor":
        code = Rademacher(amplitude=0.0167)
        return [2, 2, 1], parity(2, 4), MGD(eta=1.0, perturbation=code, probes=50, on_device=on_device)
    code = Rademacher(amplitude=1e-3)
    algorithm = MGD(eta=0.3, perturbation=code, tau_x=8, tau_theta=8, probes=40, on_device=on_device)
    return [49, 4, 4], letters7x7(1), algorithm


def bytes_of(device):
    traffic = device.counts()["traffic"]
    return traffic.get("bytes sent", 0), traffic.get("bytes received", 0)


def train(device, task, algorithm, steps, cost=None):
    """Train without evaluating; the trainer, the last state, seconds, and bytes out and in per step."""
    trainer = Trainer(algorithm, device, task, cost or MeanSquaredError(), Budget(steps=steps), InMemory())
    state = algorithm.init(device.spec, trainer.seed)
    state, *_ = trainer.step(state)  # the parameters are written once
    first, before, began = state.step, bytes_of(device), time.monotonic()
    while state.step < steps:
        state, *_ = trainer.step(state)
    seconds, taken = time.monotonic() - began, state.step - first
    return (
        state,
        taken / seconds,
        [(after - start) / taken for after, start in zip(bytes_of(device), before, strict=True)],
    )


def learn(steps, boards):
    print(
        "| task | board | trained | accuracy | CRC-32 of the parameters | steps/s | bytes/step out, in | flash | RAM "
        "| stack free |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, budget in (("xor", min(steps, 10_000)), ("letters7x7", steps)):
        for board in boards:
            for on_device, way in WAYS.items():
                sizes, task, algorithm = settings(name, on_device)
                device = Emulated(board, mlp(sizes), MeanSquaredError(), low=-10, high=10)
                state, speed, (out, back) = train(device, task, algorithm, budget)
                scores = evaluate(
                    device, task, MeanSquaredError(), algorithm, state, Evaluation(samples=1024), last=True
                )
                free, image = device.counters().stack_free, device.emulator.sizes
                crc = zlib.crc32(state.theta.astype("<f4").tobytes())
                print(
                    f"| {name} | {board} | {way} | {float(scores['test_accuracy']):.2%} | {crc:08x} | {speed:,.0f} | "
                    f"{out:.1f}, {back:.1f} | {image['flash']} | {image['ram']} | {'' if free is None else free} |",
                    flush=True,
                )
                device.close()


SETTINGS = {"optimizer": Descent(), "on_device": True}
CONTRAST = {"eta": 0.01, "readout_eta": 0.03, "readout": "softmax"}
LOCAL = {  # what the network normalises by, and the rule
    "forward-forward": ("rms", ForwardForward(**SETTINGS, **CONTRAST)),
    "SymBa": ("rms", ForwardForward(**SETTINGS, **CONTRAST, loss="symba", goodness="mean")),
    "Mono-Forward": ("none", MonoForward(**SETTINGS, eta=0.1)),
}


def local(updates, boards):
    print("| rule | board | accuracy | CRC-32 of the parameters | updates/s | bytes/update out, in | stack free |")
    print("|---|---|---|---|---|---|---|")
    for rule, (normalise, algorithm) in LOCAL.items():
        for board in boards:
            network, task, cost = (
                mlp([49, 8, 8, 4], "relu", "linear", normalise=normalise),
                letters7x7(1),
                CrossEntropy(),
            )
            device = Emulated(board, network, cost, low=-10, high=10)
            if Can.LEARN in device.spec.can:
                state, speed, (out, back) = train(device, task, algorithm, updates, cost)
                scores = evaluate(device, task, cost, algorithm, state, Evaluation(samples=1024), last=True)
                free, crc = device.counters().stack_free, zlib.crc32(state.theta.astype("<f4").tobytes())
                print(
                    f"| {rule} | {board} | {float(scores['test_accuracy']):.2%} | {crc:08x} | {speed:,.0f} | "
                    f"{out:.0f}, {back:.0f} | {'' if free is None else free} |",
                    flush=True,
                )
            device.close()


def wire(sizes_of=([2, 2, 1], [49, 4, 4], [49, 37, 4], [49, 370, 4])):
    print(
        "| parameters | host in the loop: out, in | on the board: out, in | all parameters for every probe: out, in |"
    )
    print("|---|---|---|---|")
    for sizes in sizes_of:
        cells = []
        for code, on_device in (
            (Rademacher(amplitude=0.01), False),
            (Rademacher(amplitude=0.01), True),
            (Sinusoid(amplitude=0.01), False),
        ):
            task = parity(2, 4) if sizes[0] == 2 else letters7x7(4, data_seed=0)
            device = Emulated("host", mlp(sizes), MeanSquaredError(), low=-10, high=10)
            algorithm = MGD(eta=0.01, perturbation=code, probes=24, tau_x=32768, on_device=on_device)
            _, _, (out, back) = train(device, task, algorithm, 240)
            cells.append(f"{out:.1f}, {back:.1f}")
            size = device.spec.size
            device.close()
        print(f"| {size} | {' | '.join(cells)} |", flush=True)


def line(baud=115_200):
    print("| board | parameters | trained | steps/s | share of the line, to the board | from it |")
    print("|---|---|---|---|---|---|")
    ways = (
        ("all parameters for every probe", Sinusoid(amplitude=0.01), False, 60),
        ("host in the loop", Rademacher(amplitude=0.01), False, 600),
        ("on the board", Rademacher(amplitude=0.01), True, 6_000),
    )
    for board, sizes, arguments in (
        ("host", [2, 2, 1], ["--baud", str(baud)]),
        ("host", [49, 4, 4], ["--baud", str(baud)]),
        ("host", [49, 37, 4], ["--baud", str(baud)]),
        ("atmega2560", [2, 2, 1], ["--paced"]),
        ("atmega2560", [49, 4, 4], ["--paced"]),
    ):
        for way, code, on_device, steps in ways:
            task = parity(2, 4) if sizes[0] == 2 else letters7x7(4)
            try:
                device = Emulated(board, mlp(sizes), MeanSquaredError(), low=-10, high=10, arguments=arguments)
            except ConfigError as error:
                print(f"| {board} | | | | | {error} |")
                break
            algorithm = MGD(eta=0.01, perturbation=code, probes=96, tau_x=32768, on_device=on_device)
            if board != "host":
                steps = steps // 10
            _, speed, traffic = train(device, task, algorithm, steps)
            shares = [f"{10 * speed * count / baud:.0%}" for count in traffic]
            print(f"| {board} | {device.spec.size} | {way} | {speed:,.1f} | {' | '.join(shares)} |", flush=True)
            device.close()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["learn", *rest]:
            learn(int(rest[0]) if rest else 100_000, rest[1:] or BOARDS)
        case ["local", *rest]:
            local(int(rest[0]) if rest else 5_000, rest[1:] or [board for board in BOARDS if board != "atmega328p"])
        case ["wire"]:
            wire()
        case ["line"]:
            line()
        case _:
            sys.exit(__doc__)
