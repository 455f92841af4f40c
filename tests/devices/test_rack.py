"""Several devices in one run: replicas equal separate runs, an average equals one device, and one may drop out."""

import threading
import time

import numpy as np
import pytest

from hwtrain import checkpoint
from hwtrain.algorithms.osttp import OSTTP
from hwtrain.conformance import DeviceConformance
from hwtrain.core import Can, Measure, Probes, Program, Sample
from hwtrain.costs import MeanSquaredError
from hwtrain.devices.rack import Rack, rack
from hwtrain.devices.simulated import Simulated
from hwtrain.errors import CapabilityError, ConfigError, DeviceError
from hwtrain.optimize import Descent
from hwtrain.perturb import Rademacher
from hwtrain.sim.networks import mlp
from hwtrain.start import Uniform
from tests.broken import LearnsInTime
from tests.emulators.conftest import needs

NETWORK = mlp([3, 2, 2])


def chip(seed=0, **more):
    return Simulated(NETWORK, MeanSquaredError(), seed=seed, low=-4.0, high=4.0, **more)


class Frail:
    """A chip that fails while it is `down`; those made later are sound again."""

    def __init__(self, inner, state):
        self._inner, self._state = inner, state

    def __getattr__(self, name):
        return getattr(self._inner, name)

    @property
    def spec(self):
        return self._inner.spec

    def execute(self, commands):
        if self._state["down"]:
            raise DeviceError("pulled")
        return self._inner.execute(commands)


def frail_rack(mode, count=3):
    states = [{"down": False, "made": 0} for _ in range(count)]

    def maker(index):
        def make():
            if states[index]["down"]:
                raise DeviceError("still pulled")
            states[index]["made"] += 1
            return Frail(chip(index if mode == "replicas" else 0), states[index])

        return make

    return Rack({f"chip {index}": maker(index) for index in range(count)}, mode), states


def sample(seed=0):
    rng = np.random.default_rng(seed)
    return Sample(rng.random((1, 3, 3)), rng.random((1, 3, 2)))


class TestReplicas(DeviceConformance):
    @pytest.fixture
    def device(self):
        made = rack(lambda seed: chip(seed, activation_variation=0.1), vary={"seed": [4, 5, 6]})
        yield made
        made.close()

    @pytest.fixture
    def single(self):
        return lambda index: chip(4 + index, activation_variation=0.1)


class TestReplicasInTime(DeviceConformance):
    """Each learns from sequences of its own, by projections of its own."""

    @pytest.fixture
    def device(self):
        made = rack(LearnsInTime, count=2)
        yield made
        made.close()


class TestAveraged(DeviceConformance):
    @pytest.fixture
    def device(self):
        made = rack(chip, count=3, mode="averaged")
        yield made
        made.close()


class TestDropOut:
    def wait(self, device, name):
        until = time.monotonic() + 10
        while f"{name} came back" not in device.counts()["disturbances"] and time.monotonic() < until:
            time.sleep(0.05)

    def test_a_replica_reads_nan_and_the_others_go_on(self):
        device, states = frail_rack("replicas")
        theta = np.random.default_rng(0).uniform(-1, 1, (3, NETWORK.size))
        commands = [Program(theta), Measure(sample(), observe=Can.COST | Can.ACTIVITY)]
        (whole,) = device.execute(commands)
        states[1]["down"] = True
        (rest,) = device.execute(commands)
        assert np.isnan(rest.cost[1]).all() and np.isnan(rest.activity[0][1]).all()
        assert np.array_equal(rest.cost[[0, 2]], whole.cost[[0, 2]])
        assert device.counts()["disturbances"]["chip 1 dropped out"] == 1
        states[1]["down"] = False
        self.wait(device, "chip 1")
        (again,) = device.execute([commands[1]])  # without a Program: it is brought to what it should hold
        assert np.array_equal(again.cost, whole.cost) and states[1]["made"] == 2
        device.close()

    def test_a_replica_that_learns_by_itself_keeps_what_it_had_learnt(self):
        states = [{"down": False}, {"down": False}]
        made = {f"chip {i}": lambda state=state: Frail(LearnsInTime(), state) for i, state in enumerate(states)}
        rule = OSTTP(
            eta=0.05, cost=MeanSquaredError(), centre=True, update="step", batch=1, on_device=True, block=2,
            optimizer=Descent(), start=Uniform(-0.5, 0.5),
        )  # fmt: skip
        device, rng, ends = Rack(made), np.random.default_rng(0), []
        state = rule.init(device.spec, np.array([1, 2], np.uint32))
        for step in range(3):
            states[1]["down"] = step == 1
            if step == 2:
                self.wait(device, "chip 1")
            shown = Sample(rng.random((5, 2, 2)), rng.random((5, 2, 2)))
            state, metrics = rule.tell(state, shown, device.execute(rule.ask(state, shown)))
            ends.append((state.theta, state.shown, metrics.get("invalid", np.zeros(2))))
        device.close()
        (first, *_), (second, heard, invalid), (third, again, _) = ends
        assert [np.array_equal(*pair) for pair in zip(first, second, strict=True)] == [False, True]
        assert not (second == third).all(axis=-1).any() and np.isfinite(third).all()
        assert (heard.tolist(), again.tolist(), invalid.tolist()) == ([20, 10], [30, 20], [0, 10])

    def test_the_others_take_its_share_of_the_probes(self):
        device, states = frail_rack("averaged")
        alone = chip()
        commands = [
            Program(np.linspace(-1, 1, NETWORK.size)),
            Measure(shown := sample()),
            Measure(shown, Probes(Rademacher(amplitude=0.1), np.uint32(3), 5, 7)),
        ]
        wanted = alone.execute(commands)
        assert device.execute(commands) == wanted
        states[2]["down"] = True
        assert device.execute(commands) == wanted
        states[0]["down"] = True
        assert device.execute(commands) == wanted
        states[2]["down"] = False
        self.wait(device, "chip 2")
        assert device.execute(commands[1:]) == wanted
        assert dict(device.counts()["disturbances"]) == {
            "chip 2 dropped out": 1, "chip 0 dropped out": 1, "chip 2 came back": 1,
        }  # fmt: skip
        device.close()

    def test_none_left_is_an_error_and_rest_is_calm(self):
        device, states = frail_rack("averaged", 2)
        for state in states:
            state["down"] = True
        with pytest.raises(DeviceError, match="no device of 'rack of 2"):
            device.execute([Program(np.zeros(NETWORK.size)), Measure(sample())])
        device.rest()
        device.close()
        device.close()
        assert not [thread for thread in threading.enumerate() if "comes back" in thread.name and not thread.daemon]

    def test_each_is_compared_with_its_own_baseline(self):
        """Two chips that differ: the modulations are those that each measures by itself."""
        device = rack(lambda seed: chip(seed, activation_variation=0.2), vary={"seed": [1, 2]}, mode="averaged")
        probes = Probes(Rademacher(amplitude=0.1), np.uint32(3), 0, 4)
        theta = Program(np.linspace(-1, 1, NETWORK.size))
        plain, probed = device.execute([theta, Measure(shown := sample()), Measure(shown, probes)])
        got = probed.cost - plain.cost
        for seed, part in ((1, slice(0, 2)), (2, slice(2, 4))):
            base, each = chip(seed, activation_variation=0.2).execute([theta, Measure(shown), Measure(shown, probes)])
            assert np.allclose(got[part], (each.cost - base.cost)[part], rtol=0, atol=1e-15)
        device.close()


class TestSettings:
    def test_unlike_devices_are_refused(self):
        with pytest.raises(ConfigError, match="is not like the first: inputs, size, layers differ"):
            rack(lambda n: Simulated(mlp([n, 2, 2]), MeanSquaredError()), vary={"n": [3, 4]})

    @pytest.mark.parametrize(
        "settings", [{}, {"count": 2, "vary": {"seed": [1, 2, 3]}}, {"vary": {"seed": [1], "low": [1, 2]}}]
    )
    def test_their_number_is_said_once(self, settings):
        with pytest.raises(ConfigError, match="the same number of devices"):
            rack(chip, **settings)

    def test_what_cannot_be_shared_is_not_offered(self):
        device = rack(chip, count=2, mode="averaged")
        assert not device.spec.can & (Can.STATE | Can.GRADIENT)
        with pytest.raises(CapabilityError):
            device.execute([Measure(sample(), observe=Can.GRADIENT)])
        device.close()


class TestBoards:
    """Four boards of our firmware, each a process of its own."""

    WORDS = (
        "task=xor",
        "algo=mgd",
        "task.batch=4",
        "budget.steps=400",
        "algo.probes=8",
        "evaluate.every=100000",
        "recorder.report=false",
    )

    def trained(self, hwtrain, folder, *words):
        needs("host")
        answer = hwtrain(*self.WORDS, *words, f"hydra.run.dir={folder}")
        assert answer.code == 0, answer.err
        return checkpoint.load(folder)["state.theta"]

    def test_replicas_equal_separate_runs(self, hwtrain, tmp_path):
        together = self.trained(hwtrain, tmp_path / "rack", "device=rack", "device.count=4", "seed=3")
        for index in range(4):
            alone = self.trained(hwtrain, tmp_path / f"{index}", "device=emulated", f"seed={3 + index}")
            assert np.array_equal(together[index], alone)

    def test_an_average_equals_one_board_with_as_many_probes(self, hwtrain, tmp_path):
        words = ["device=rack", "device.count=4", "device.mode=averaged", "algo.probes=8"]
        together = self.trained(hwtrain, tmp_path / "rack", *words)
        assert np.array_equal(together, self.trained(hwtrain, tmp_path / "one", "device=emulated", "algo.probes=8"))

    def test_a_board_that_was_stopped_comes_back(self):
        from hwtrain.devices.emulated import Emulated

        needs("host")
        made = []

        def make():
            made.append(Emulated("host", NETWORK, MeanSquaredError(), low=-4.0, high=4.0, patience=0.5))
            return made[-1]

        device = Rack({f"board {index}": make for index in range(4)}, "averaged")
        alone = make()
        shown, probes = sample(), Probes(Rademacher(amplitude=0.125), np.uint32(3), 0, 8)
        theta = np.linspace(-1, 1, NETWORK.size).astype(np.float32)
        for step in range(40):
            if step == 10:
                made[2].emulator.stop()
            if step == 30:
                TestDropOut().wait(device, "board 2")
            commands = [Program(theta + np.float32(step / 64)), Measure(shown), Measure(shown, probes)]
            assert device.execute(commands) == alone.execute(commands)
        assert dict(device.counts()["disturbances"]) == {"board 2 dropped out": 1, "board 2 came back": 1}
        device.close()
        alone.close()
