"""Boards as devices: one trajectory however they are trained, little on the wire, and nothing lost."""

import json
import subprocess
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwtrain.algorithms.mgd import MGD
from hwtrain.core import Can, Measure, Probes, Program, Sample
from hwtrain.costs import MeanSquaredError
from hwtrain.devices.board import Board
from hwtrain.devices.emulated import Emulated
from hwtrain.devices.link import Link, PortLost
from hwtrain.devices.serial import Opener
from hwtrain.devices.simulated import Simulated
from hwtrain.devices.wrappers import FAULTS, Faulty
from hwtrain.emulators import BOARDS, Emulator
from hwtrain.errors import ConfigError, LimitError
from hwtrain.perturb import Rademacher, Sinusoid, Walsh
from hwtrain.recorder import InMemory
from hwtrain.sim.networks import mlp
from hwtrain.tasks.letters import letters7x7
from hwtrain.tasks.parity import parity
from hwtrain.trainer import Budget, Trainer
from tests.emulators.conftest import needs
from tests.firmware.reference import Chip
from tests.processes import command, killed_ten_times

XOR = MGD(eta=1.0, perturbation=Rademacher(amplitude=0.0167), probes=50)
LETTERS = MGD(eta=0.3, perturbation=Rademacher(amplitude=1e-3), tau_x=8, tau_theta=8, probes=40)


def on_device(algorithm):
    return MGD(**{name: getattr(algorithm, name) for name in MGD.__slots__} | {"on_device": True})


def trained(device, algorithm, task, steps):
    """The last state of a run that is never evaluated."""
    trainer = Trainer(algorithm, device, task, MeanSquaredError(), Budget(steps=steps), InMemory())
    state = algorithm.init(device.spec, trainer.seed)
    while state.step < steps:
        state, *_ = trainer.step(state)
    return state


def crc(theta):
    assert theta.dtype == np.float32
    return zlib.crc32(theta.tobytes())


@pytest.fixture
def twin():
    needs("host")
    board = Emulated("host", mlp([2, 2, 1]), MeanSquaredError(), low=-10, high=10)
    yield board
    board.close()


@pytest.fixture(scope="module")
def wanted():
    """Parameters after some hundred steps of numpy float32, through the same trainer."""
    return {
        "xor": crc(trained(Chip([2, 2, 1]), XOR, parity(2, 4), 200).theta),
        "letters": crc(trained(Chip([49, 4, 4]), LETTERS, letters7x7(1), 80).theta),
    }


@pytest.fixture(scope="module")
def board():
    needs("host")
    board = Emulated("host", mlp([3, 4, 2]), MeanSquaredError(), low=-4, high=4)
    yield board
    board.close()


@pytest.fixture(scope="module")
def calm():
    needs("host")
    device = Emulated("host", mlp([2, 2, 1]), MeanSquaredError(), low=-10, high=10)
    theta = trained(device, XOR, parity(2, 4), 300).theta
    device.close()
    return theta


class TestOneTrajectory:
    @pytest.mark.parametrize("name", [*BOARDS, "stm32f405-pip"])
    def test_numpy_and_every_board_both_ways(self, name, wanted):
        board, _, route = name.partition("-")
        needs(board, route or "auto")
        for algorithm in (XOR, on_device(XOR)):
            device = Emulated(board, mlp([2, 2, 1]), MeanSquaredError(), route or "auto", low=-10, high=10)
            state = trained(device, algorithm, parity(2, 4), 200)
            device.close()
            assert crc(state.theta) == wanted["xor"]
        for algorithm in (LETTERS, on_device(LETTERS)):
            device = Emulated(board, mlp([49, 4, 4]), MeanSquaredError(), route or "auto", low=-10, high=10)
            state = trained(device, algorithm, letters7x7(1), 80)
            device.close()
            assert crc(state.theta) == wanted["letters"]

    @pytest.mark.parametrize(
        "algorithm",
        [
            MGD(eta=1.0, perturbation=Rademacher(amplitude=0.02), tau_theta=4, baseline="fresh"),
            MGD(eta=1.0, perturbation=Rademacher(amplitude=0.02), tau_theta=4, tau_p=2, baseline="antithetic"),
            MGD(
                eta=0.1, perturbation=Walsh(amplitude=0.02, two_sided=True), tau_theta=None, tau_x=None, baseline="none"
            ),
            MGD(eta=1.0, perturbation=Rademacher(amplitude=0.02), tau_theta=6, tau_x=4, eta_halves=50),
            MGD(eta=0.1, perturbation=Rademacher(amplitude=0.02), tau_theta=4, convention="mgd2023"),
        ],
        ids=["fresh", "antithetic", "walsh", "falling", "mgd2023"],
    )
    def test_every_setting_both_ways(self, twin, algorithm):
        thetas = [trained(twin, each, parity(2, 2), 960).theta for each in (algorithm, on_device(algorithm))]
        assert np.array_equal(*thetas)
        assert twin.counts()["disturbances"] == {}

    def test_counts_are_the_same_both_ways(self, twin):
        for algorithm in (XOR, on_device(XOR)):
            trainer = Trainer(algorithm, twin, parity(2, 4), MeanSquaredError(), Budget(steps=200), InMemory())
            counts = trainer.run().counts
            assert (counts.perturbed, counts.baseline, counts.writes) == (200, 200, 201)

    def test_resumed_on_another_board(self, twin):
        needs("host")
        whole = trained(twin, XOR, parity(2, 4), 400)
        trainer = Trainer(XOR, twin, parity(2, 4), MeanSquaredError(), Budget(steps=400), kept := InMemory())
        trainer.budget = Budget(steps=200)
        trainer.run()
        other = Emulated("host", mlp([2, 2, 1]), MeanSquaredError(), low=-10, high=10)
        result = Trainer(XOR, other, parity(2, 4), MeanSquaredError(), Budget(steps=400), kept).run()
        other.close()
        assert np.array_equal(result.state.theta, whole.theta)


class TestWire:
    SIZES = ([2, 2, 1], [49, 4, 4], [49, 37, 4], [49, 370, 4])

    @pytest.mark.parametrize(("whole", "out", "back"), [(False, 80, 38), (True, 66, 230)], ids=["host", "board"])
    def test_bytes_per_step_do_not_grow_with_the_parameters(self, whole, out, back):
        """Exactly: a step with the host in the loop, and a block of 24 ticks run by the board."""
        needs("host")
        seen = []
        for sizes in self.SIZES:
            device = Emulated("host", mlp(sizes), MeanSquaredError(), low=-10, high=10)
            task = parity(2, 4) if sizes[0] == 2 else letters7x7(4)
            algorithm = MGD(eta=0.01, perturbation=Rademacher(amplitude=0.01), probes=24, tau_x=9600, on_device=whole)
            trainer = Trainer(algorithm, device, task, MeanSquaredError(), Budget(steps=1), InMemory())
            state = algorithm.init(device.spec, trainer.seed)
            for _ in range(4):
                before = dict(device.counts()["traffic"])
                state, *_ = trainer.step(state)
            after = device.counts()["traffic"]
            seen.append(tuple(after[key] - before[key] for key in ("bytes sent", "bytes received")))
            device.close()
        assert set(seen) == {(out, back)}

    def test_a_perturbation_that_boards_cannot_make_is_programmed(self, twin):
        theta = np.linspace(-1, 1, 9)
        sample = parity(2, 4).sample(np.zeros((), np.uint32), 0)
        tones = Probes(Sinusoid(amplitude=0.1), np.asarray(3, np.uint32), 5, 4)
        (probed,) = twin.execute([Program(theta), Measure(sample, tones)])
        alone = [twin.execute([Program(theta + delta), Measure(sample)])[0].cost[0] for delta in tones.dense(9)]
        assert np.array_equal(probed.cost, alone)

    def test_samples_stay_on_the_board(self, twin):
        trained(twin, XOR, parity(2, 1), 40)
        before = twin.counts()["traffic"]["bytes sent"]
        twin.execute([Measure(parity(2, 1).sample(np.zeros((), np.uint32), index)) for index in range(64)])
        assert twin.counts()["traffic"]["bytes sent"] - before <= 64 * 40 + 4 * 40


class TestAgainstTheSimulator:
    """Random commands, carried out by the board and by the simulator."""

    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(st.tuples(st.sampled_from("pmbo"), st.integers(0, 2**16), st.integers(1, 5)), min_size=1, max_size=8)
    )
    def test_random_commands(self, board, steps):
        simulated = Simulated(mlp([3, 4, 2]), MeanSquaredError(), low=-4, high=4)
        commands = [Program(np.zeros(simulated.spec.size))]
        for kind, seed, count in steps:
            random = np.random.default_rng(seed)
            x, target = random.uniform(0, 1, (1, count, 3)), random.uniform(0, 1, (1, count, 2))
            sample = Sample(x, target)
            match kind:
                case "p":
                    commands.append(Program(random.uniform(-3, 3, simulated.spec.size)))
                case "m":
                    commands.append(Measure(sample))
                case "b":
                    code = Probes(Rademacher(amplitude=0.1), np.asarray(seed, np.uint32), seed, count)
                    commands.append(Measure(sample, code, Can.COST | Can.OUTPUT))
                case "o":
                    commands.append(Measure(sample, observe=Can.ACTIVITY))
        for one, other in zip(board.execute(commands), simulated.execute(commands), strict=True):
            for name in ("cost", "output"):
                if getattr(one, name) is not None:
                    np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=2e-6)
            for layer, wanted in zip(one.activity or (), other.activity or (), strict=True):
                np.testing.assert_allclose(layer, wanted, atol=2e-6)


class TestRefusals:
    def test_a_network_too_large(self):
        needs("host")
        with pytest.raises(ConfigError, match=r"takes 220 parameters.*room for 100.*network.sizes"):
            Emulated("host", mlp([49, 4, 4]), MeanSquaredError(), arguments=["--parameters", "100"])

    def test_a_block_that_does_not_fit(self, twin):
        wide = MGD(eta=1.0, perturbation=Rademacher(amplitude=0.1), tau_theta=1000, on_device=True)
        with pytest.raises(LimitError, match=r"at most 510 ticks.*algo.tau_theta"):
            trained(twin, wide, parity(2, 4), 1000)
        tones = MGD(eta=1.0, perturbation=Sinusoid(amplitude=0.1), on_device=True)
        with pytest.raises(LimitError, match=r"cannot make Sinusoid.*algo.on_device=false"):
            trained(twin, tones, parity(2, 4), 1000)
        slow = MGD(eta=1.0, perturbation=Rademacher(amplitude=0.1), tau_x=2**17, on_device=True)
        with pytest.raises(LimitError, match="65535"):
            trained(twin, slow, parity(2, 4), 1000)

    def test_on_device_needs_plain_descent(self):
        from hwtrain.optimize import Adam

        with pytest.raises(ConfigError, match="algo/optimizer=descent"):
            MGD(eta=1.0, perturbation=Rademacher(amplitude=0.1), optimizer=Adam(), on_device=True)


class Scripted:
    """A port that is pulled once, at a named moment."""

    def __init__(self, url, moment, after):
        self.url, self.moment, self.left = url, moment, after

    def __call__(self):
        self.port = Opener(self.url())()
        return self

    def _pull(self, moment):
        if moment == self.moment:
            self.left -= 1
            if self.left == 0:
                self.port.close()
                raise PortLost("pulled")

    def read(self, seconds):
        if seconds > 0:
            self._pull("wait")
        data = self.port.read(seconds)
        if data:
            self._pull("read")
        return data

    def write(self, data):
        if self.moment == "write":
            self.port.write(data[: len(data) // 2])
        self._pull("write")
        self.port.write(data if self.moment != "write" else data[len(data) // 2 :])

    def close(self):
        self.port.close()


class TestNothingIsLost:
    @pytest.mark.parametrize("moment", ["read", "write", "wait"])
    @pytest.mark.parametrize("whole", [False, True], ids=["host", "board"])
    def test_unplugged(self, calm, moment, whole):
        emulator = Emulator("host")
        device = Board(
            Link(Scripted(lambda: emulator.url, moment, 20), "twin"), mlp([2, 2, 1]), MeanSquaredError(), -10, 10
        )
        state = trained(device, on_device(XOR) if whole else XOR, parity(2, 4), 300)
        counts = device.counts()["disturbances"]
        device.close()
        emulator.stop()
        assert counts["lost ports"] == 1
        assert np.array_equal(state.theta, calm)

    @pytest.mark.parametrize("board", ["host", "stm32f405", "atmega2560"])
    @pytest.mark.parametrize("whole", [False, True], ids=["host", "board"])
    def test_a_board_that_restarts_between_request_and_reply(self, calm, board, whole):
        needs(board)
        emulator = Emulator(board)
        restarts = []

        class Restarting(Scripted):
            def _pull(self, moment):
                if moment == "wait" and len(restarts) < 3:
                    self.left -= 1
                    if self.left == 0:
                        self.left = 25
                        restarts.append(emulator.restart())

        port = Restarting(lambda: emulator.url, "", 10**9)
        device = Board(Link(port, board), mlp([2, 2, 1]), MeanSquaredError(), -10, 10)
        device.counters()
        port.left = 5
        state = trained(device, on_device(XOR) if whole else XOR, parity(2, 4), 300)
        counts = device.counts()["disturbances"]
        device.close()
        emulator.stop()
        assert len(restarts) == 3
        assert 1 <= counts["restarts"] <= 3  # one that comes while the board is being asked who it is costs nothing
        assert np.array_equal(state.theta, calm)

    @pytest.mark.slow
    def test_a_thousand_faults(self):
        """As `python benchmarks/faults.py 10000`, which takes minutes."""
        needs("host")
        results = []
        for limit in (0, 1000):
            emulator = Emulator("host")
            faults = Faulty(
                lambda emulator=emulator: Opener(emulator.url)(),
                seed=7,
                rates={name: 0.003 if name == "reset" else 0.03 for name in FAULTS},
                limit=limit,
                reset=emulator.restart,
                stall=lambda stop, emulator=emulator: emulator.pause() if stop else emulator.resume(),
            )
            device = Board(Link(faults, "twin", timeout=0.2), mlp([2, 2, 1]), MeanSquaredError(), -10, 10)
            results.append(trained(device, XOR, parity(2, 4), 3000).theta)
            device.close()
            emulator.stop()
        assert np.array_equal(*results)
        assert set(faults.counts) == set(FAULTS)
        assert sum(faults.counts.values()) == 1000

    @pytest.mark.slow
    @pytest.mark.parametrize("whole", ["false", "true"], ids=["host", "board"])
    def test_host_killed_ten_times(self, tmp_path, whole):
        """SIGKILL at ten random moments; the board lives on, and is taken over by the next host."""
        needs("host")
        words = (
            "task=xor", "device=serial", f"algo.on_device={whole}", "algo.probes=50",
            f"budget.steps={80000 if whole == 'true' else 12000}",
            "evaluate.every=500", "recorder.every=100", "recorder.checkpoint_seconds=0", "recorder.report=false",
        )  # fmt: skip
        calm, rough = tmp_path / "calm", tmp_path / "rough"
        emulator = Emulator("host")
        line = command(*words, f"device.port={emulator.url}", f"hydra.run.dir={calm}")
        subprocess.run(line, check=True, capture_output=True)
        emulator.stop()
        emulator = Emulator("host")
        lines = len((calm / "metrics.jsonl").read_text().splitlines())
        killed_ten_times(rough, (*words, f"device.port={emulator.url}"), lines)
        emulator.stop()
        with np.load(calm / "checkpoint.npz") as one, np.load(rough / "checkpoint.npz") as other:
            assert all(np.array_equal(one[key], other[key]) for key in one.files if key != "progress.seconds")
        one, other = (json.loads((folder / "run.json").read_text()) for folder in (calm, rough))
        for key in ("outcome", "steps", "counts", "metrics"):
            assert one[key] == other[key]
