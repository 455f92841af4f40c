"""What the settings of MGD mean, and published set-ups."""

import math

import numpy as np
import pytest

from hwtrain import draws
from hwtrain.algorithms.backprop import Backprop
from hwtrain.algorithms.mgd import MGD
from hwtrain.algorithms.node_perturbation import NodePerturbation
from hwtrain.core import Measure, Program, Sample
from hwtrain.costs import CrossEntropy, MeanSquaredError
from hwtrain.devices.simulated import Simulated
from hwtrain.errors import ConfigError
from hwtrain.evaluation import Evaluation, angle
from hwtrain.optimize import Adam, Momentum
from hwtrain.perturb import Antithetic, Rademacher, Sequential, Walsh
from hwtrain.recorder import InMemory
from hwtrain.sim.networks import mlp
from hwtrain.start import Uniform
from hwtrain.tasks.parity import parity
from hwtrain.trainer import Budget, Trainer
from tests.fakes import Landscape

NOTHING = Sample(np.zeros((1, 1, 1)), np.zeros((1, 1, 1)))


def train(algorithm, device, task, steps, cost=None, seed=0, every=500):
    recorder = InMemory(every)
    cost = MeanSquaredError() if cost is None else cost
    setting = Evaluation(every=every, angle=False)
    return Trainer(algorithm, device, task, cost, Budget(steps=steps), recorder, seed, setting).run(), recorder


def xor(chips, bias="add"):
    return Simulated(mlp([2, 2, 1], bias=bias), MeanSquaredError(), chips=chips)


def steps_of(algorithm, device, ticks, sample=NOTHING):
    """The state after some ticks, and all commands on the way."""
    state = algorithm.init(device.spec, np.arange(math.prod(device.spec.replicas), dtype=np.uint32))
    commands = []
    while state.step < ticks:
        asked = algorithm.ask(state, sample)
        commands.append(asked)
        state, _ = algorithm.tell(state, sample, device.execute(asked))
    return state, commands


class TestTimeConstants:
    def baselines(self, commands):
        return sum(isinstance(c, Measure) and c.probes is None for step in commands for c in step)

    def probes(self, commands):
        return sum(c.probes.count for step in commands for c in step if isinstance(c, Measure) and c.probes)

    @pytest.mark.parametrize(
        ("settings", "baselines", "updates"),
        [
            ({"tau_x": 1, "tau_theta": 1}, 24, 24),  # SPSA with one probe: 1 + 1 measurements an update
            ({"tau_x": 12, "tau_theta": 12}, 2, 2),  # twelve probes averaged: 12 + 1
            ({"tau_x": 3, "tau_theta": 12}, 8, 2),  # four samples to an update, each with a baseline of its own
            ({"tau_x": 12, "tau_theta": 3}, 8, 8),  # four updates on a sample
            ({"tau_x": 24, "tau_theta": 24, "tau_p": 4}, 1, 1),
            ({"tau_x": None, "tau_theta": 6}, 4, 4),  # a new sample with every update
            ({"tau_x": 24, "tau_theta": 24, "baseline": "fresh"}, 24, 1),
            ({"tau_x": 24, "tau_theta": 24, "baseline": "antithetic"}, 0, 1),
            ({"tau_x": 24, "tau_theta": 24, "baseline": "none"}, 0, 1),
        ],
    )
    def test_measurements_are_those_of_the_definition(self, settings, baselines, updates):
        algorithm = MGD(eta=0.1, perturbation=Rademacher(amplitude=0.01), **settings)
        state, commands = steps_of(algorithm, Landscape(np.ones((1, 5))), 24)
        assert self.probes(commands) == 24
        assert self.baselines(commands) == baselines
        assert state.updates == updates

    def test_a_perturbation_is_held(self):
        algorithm = MGD(eta=0.0, perturbation=Rademacher(amplitude=1.0), tau_p=4, tau_x=24, tau_theta=24)
        _, commands = steps_of(algorithm, Landscape(np.ones((1, 40))), 24)
        signs = np.concatenate(
            [c.probes.dense(40)[0] for step in commands for c in step if isinstance(c, Measure) and c.probes]
        )
        assert all((signs[i] == signs[i - i % 4]).all() for i in range(24))
        assert len({row.tobytes() for row in signs}) == 6

    def test_how_many_probes_are_asked_for_at_once_changes_nothing(self):
        states = [
            steps_of(
                MGD(eta=0.1, perturbation=Rademacher(amplitude=0.01), tau_x=30, tau_theta=20, probes=probes),
                Landscape(np.ones((3, 7))),
                120,
            )[0]
            for probes in (1, 7, 64)
        ]
        assert states[0].updates == states[1].updates == states[2].updates == 6
        np.testing.assert_allclose(states[1].theta, states[0].theta, rtol=1e-12)
        np.testing.assert_allclose(states[2].theta, states[0].theta, rtol=1e-12)

    def test_tau_theta_null_is_one_block(self):
        size = 5
        for code, block in (
            (Sequential(amplitude=0.1), 5),
            (Walsh(amplitude=0.1), 8),
            (Walsh(amplitude=0.1, two_sided=True), 16),
        ):
            algorithm = MGD(eta=0.1, perturbation=code, tau_theta=None, tau_x=10**6)
            assert algorithm.init(Landscape(np.ones((1, size))).spec, np.zeros(1, np.uint32)).window == block

    def test_finite_differences_are_finite_differences(self):
        g, random = np.array([[1.0, -2.0, 3.0]]), np.random.default_rng(0)
        hessian = np.diag(random.random(3))
        device = Landscape(g, hessian)
        algorithm = MGD(eta=0.0, perturbation=Sequential(amplitude=0.1), tau_theta=None, tau_x=10**6)
        state, _ = steps_of(algorithm, device, 3)
        forward = g + state.theta @ hessian + 0.5 * 0.1 * np.diag(hessian)  # the forward difference of a quadratic
        np.testing.assert_allclose(state.estimate, forward, rtol=1e-10)


class TestConventions:
    def test_conversion(self):
        """eta_A = eta_B K dt / P and eta_A = eta_C sqrt(K / (P + K - 1)): the same trajectory three times."""
        size, probes = 9, 4
        settings = {"perturbation": Rademacher(amplitude=0.01), "tau_x": probes, "tau_theta": probes}
        eta = 0.02
        others = {"mgd2023": eta * size / probes, "mgd2025": eta / math.sqrt(probes / (size + probes - 1))}
        ours, _ = steps_of(MGD(eta=eta, **settings), Landscape(np.ones((2, size)), np.eye(size)), 40)
        for convention, rate in others.items():
            theirs, _ = steps_of(
                MGD(eta=rate, convention=convention, **settings), Landscape(np.ones((2, size)), np.eye(size)), 40
            )
            np.testing.assert_allclose(theirs.theta, ours.theta, rtol=1e-10)

    def test_norm_is_amplitude_times_root_of_the_number(self):
        assert Rademacher(norm=0.05).reach(9) == pytest.approx(0.0167, rel=5e-3)
        assert Rademacher(norm=0.01).reach(220) == pytest.approx(6.7e-4, rel=1e-2)
        assert Rademacher(norm=0.1).reach(14_378) == pytest.approx(8.3e-4, rel=1e-2)
        assert Rademacher(norm=0.001).reach(26_154) == pytest.approx(6.2e-6, rel=1e-2)


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            ({"eta": math.nan}, "algo.eta"),
            ({"tau_x": 0}, "algo.tau_x"),
            ({"tau_p": 3, "tau_theta": 4}, "multiple of 3"),
            ({"tau_theta": 3, "baseline": "antithetic"}, "multiple of 2"),
            ({"baseline": "freshh"}, "'fresh'"),
            ({"convention": "2023"}, "mgd2023"),
            ({"modulation_limit": 0}, "algo.modulation_limit"),
        ],
    )
    def test_nonsense_is_refused(self, settings, says):
        with pytest.raises(ConfigError, match=says):
            MGD(**{"eta": 0.1, "perturbation": Rademacher(amplitude=0.1), **settings})

    def test_probes_that_leave_no_room_are_refused(self):
        device = Simulated(mlp([2, 2, 1]), MeanSquaredError(), low=-1, high=1)
        with pytest.raises(ConfigError, match="smaller amplitude"):
            MGD(eta=0.1, perturbation=Rademacher(amplitude=1.0)).init(device.spec, np.uint32(0))

    def test_parameters_stay_where_a_probe_stays_in_range(self):
        device = Simulated(mlp([2, 2, 1]), MeanSquaredError(), low=-0.6, high=0.6, chips=4)
        algorithm = MGD(eta=50.0, perturbation=Rademacher(amplitude=0.1))
        result, _ = train(algorithm, device, parity(2), 200)
        assert np.abs(result.state.theta).max() == pytest.approx(0.5)  # reached, never passed: nothing was refused

    def test_limited_modulations_are_counted(self):
        algorithm = MGD(eta=0.0, perturbation=Rademacher(amplitude=1.0), modulation_limit=1e-9)
        device = Landscape(np.ones((2, 3)))
        state = algorithm.init(device.spec, np.arange(2, dtype=np.uint32))
        _, metrics = algorithm.tell(state, NOTHING, device.execute(algorithm.ask(state, NOTHING)))
        assert metrics["limited"].tolist() == [1, 1]

    def test_a_device_that_holds_its_parameters_is_not_written_again(self):
        device = xor(None)
        result, _ = train(MGD(eta=0.1, perturbation=Rademacher(amplitude=0.1), tau_theta=50), device, parity(2), 200)
        assert result.counts.writes == 1 + 4  # the start, and one for each update

    @pytest.mark.parametrize(("optimizer", "eta"), [(Momentum(), 0.3), (Adam(), 0.02)])
    def test_optimizers_descend(self, optimizer, eta):
        algorithm = MGD(eta=eta, perturbation=Walsh(amplitude=1e-3), tau_theta=None, tau_x=16, optimizer=optimizer)
        result, _ = train(algorithm, xor(8), parity(2, batch=4), 16 * 3000)
        assert np.sum(result.metrics["train_cost"] < 0.01) >= 3  # the others sit in the local minima of 2-2-1


class TestAntithetic:
    def test_order_is_plus_minus_minus_plus(self):
        code = Antithetic(Rademacher(amplitude=1.0))
        rows = code(np.uint32(3), np.arange(8), 50)
        pattern = Rademacher(amplitude=1.0)(np.uint32(3), np.arange(4), 50)
        for pair, (first, second) in enumerate([(1, -1), (-1, 1), (1, -1), (-1, 1)]):
            assert (rows[2 * pair] == first * pattern[pair]).all()
            assert (rows[2 * pair + 1] == second * pattern[pair]).all()


class TestNodePerturbation:
    def test_many_probes_find_the_gradient(self):
        network = mlp([7, 5, 3], "tanh", "linear")
        device = Simulated(network, CrossEntropy(), chips=2)
        algorithm = NodePerturbation(eta=0.0, perturbation=Rademacher(amplitude=1e-4), probes=4000)
        random = np.random.default_rng(0)
        sample = Sample(random.random((2, 1, 6, 7)), np.eye(3)[random.integers(0, 3, (2, 1, 6))])
        state = algorithm.init(device.spec, np.arange(2, dtype=np.uint32))
        state, _ = algorithm.tell(state, sample, device.execute(algorithm.ask(state, sample)))
        theta, x, target = state.theta[:, None], sample.x[:, None], sample.target[:, None]
        exact = network.gradient(theta, x, target, CrossEntropy())[:, 0]
        # eight nodes, 4000 probes shared by six samples: what is left is about sqrt(8 / 4000) of the gradient's length
        assert angle(state.estimate, exact).max() < 7

    def test_it_needs_fewer_probes_than_weight_perturbation(self):
        network = mlp([20, 5, 3], "tanh", "linear")
        device = Simulated(network, CrossEntropy(), chips=8)
        random = np.random.default_rng(1)
        sample = Sample(random.random((8, 1, 1, 20)), np.eye(3)[random.integers(0, 3, (8, 1, 1))])
        found = []
        for algorithm in (
            NodePerturbation(eta=0.0, perturbation=Rademacher(amplitude=1e-4), probes=64),
            MGD(eta=0.0, perturbation=Rademacher(amplitude=1e-4), tau_x=64, tau_theta=64),
        ):
            state = algorithm.init(device.spec, np.arange(8, dtype=np.uint32))
            state, _ = algorithm.tell(state, sample, device.execute(algorithm.ask(state, sample)))
            theta, x, target = state.theta[:, None], sample.x[:, None], sample.target[:, None]
            found.append(angle(state.estimate, network.gradient(theta, x, target, CrossEntropy())[:, 0]).mean())
        assert found[0] < found[1] / 1.5


class TestXor:
    """2-2-1, amplitude 0.0167. "Solved" is all four outputs on the right side of 0.5 at the end."""

    @pytest.mark.slow
    def test_gate(self):
        """At least 12 of 20 seeds within 2e5 steps at eta 0.3, all time constants 1 (another program: 82 of 100)."""
        result, _ = train(MGD(eta=0.3, perturbation=Rademacher(norm=0.05)), xor(20), parity(2), 200_000, every=5000)
        assert np.sum(result.metrics["test_accuracy"] == 1) >= 12

    @pytest.mark.slow
    def test_published_settings_in_their_own_convention(self):
        """The example of the 2023 code: another program solved 79 of 100, half of them within 66 000 steps.

        Our own share over 1300 seeds is 74 %; the bound is three standard errors of the difference of two shares of
        100.
        """
        algorithm = MGD(eta=0.1, perturbation=Rademacher(norm=0.05), convention="mgd2023", start=Uniform(0.0, 1.0))
        result, recorder = train(algorithm, xor(100, bias="subtract"), parity(2), 200_000, every=500)
        solved = result.metrics["test_accuracy"] == 1
        assert np.mean(solved) == pytest.approx(0.79, abs=3 * math.sqrt(2 * 0.79 * 0.21 / 100))
        lines = [line for line in recorder.lines if "test_accuracy" in line]
        right = np.array([line["test_accuracy"] == 1 for line in lines])
        first = np.array([line["step"] for line in lines])[right.argmax(axis=0)][solved]
        assert np.median(first) == pytest.approx(66_000, rel=0.15)
        assert np.percentile(first, [10, 90]) == pytest.approx([42_000, 107_300], rel=0.15)


def test_time_model():
    """Two measurements a step, 1e7 steps, at the published perturbation times: 5.56 h, 0.2 s, 4 ms."""
    result, _ = train(MGD(eta=0.1, perturbation=Rademacher(amplitude=0.1)), xor(None), parity(2), 100)
    per_step = result.counts.measurements / result.state.step
    assert per_step == 2
    assert [per_step * 1e7 * t for t in (1e-3, 10e-9, 200e-12)] == pytest.approx([5.56 * 3600, 0.2, 4e-3], rel=1e-3)


def test_a_stack_of_64_equals_64_separate_runs():
    algorithm = MGD(eta=0.3, perturbation=Rademacher(amplitude=0.0167))
    faults = {"activation_variation": 0.1, "cost_noise": 1e-4, "update_noise": 1e-3, "stuck": 0.1}
    stacked, _ = train(
        algorithm, Simulated(mlp([2, 2, 1]), MeanSquaredError(), chips=64, **faults), parity(2), 300, seed=5
    )
    for chip in range(64):
        device = Simulated(mlp([2, 2, 1]), MeanSquaredError(), seed=chip, **faults)
        alone, _ = train(algorithm, device, parity(2), 300, seed=5 + chip)
        assert np.array_equal(alone.state.theta, stacked.state.theta[chip])
        assert alone.metrics["train_cost"] == stacked.metrics["train_cost"][chip]


def test_backprop_learns_xor():
    result, _ = train(Backprop(eta=2.0), xor(10), parity(2, batch=4), 5000)
    assert np.sum(result.metrics["test_accuracy"] == 1) >= 6


def test_same_seed_other_order_same_draws():
    seed = np.arange(3, dtype=np.uint32)
    assert (draws.normal(seed, 7, 5)[1] == draws.normal(seed[1], 7, 5)).all()
    assert Program(np.ones(3)) == Program(np.ones(3))
    assert Program(np.ones(3)) != Program(np.zeros(3))
