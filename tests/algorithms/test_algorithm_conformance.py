"""Every algorithm faces the kit, in the settings that take different ways through its code."""

import math

import pytest

from hwtrain.algorithms.backprop import Backprop
from hwtrain.algorithms.mgd import MGD
from hwtrain.algorithms.mgd_analog import MGDAnalog
from hwtrain.algorithms.node_perturbation import NodePerturbation
from hwtrain.conformance import AlgorithmConformance, Goal
from hwtrain.costs import MeanSquaredError
from hwtrain.devices.simulated import Simulated
from hwtrain.optimize import Adam, Descent, Momentum
from hwtrain.perturb import Rademacher, Sequential, Sinusoid, Walsh
from hwtrain.sim.networks import mlp
from hwtrain.start import Uniform
from hwtrain.tasks.parity import parity

RANDOM, WALSH = Rademacher(amplitude=0.05), Walsh(amplitude=0.05, two_sided=True)
SETTINGS = {
    "one probe": {"perturbation": RANDOM, "eta": 1.5},
    "shared baseline": {"perturbation": RANDOM, "tau_x": 6, "tau_theta": 6, "probes": 4, "eta": 6.0},
    "fresh baseline": {"perturbation": RANDOM, "tau_theta": 3, "baseline": "fresh", "eta": 6.0},
    "antithetic": {"perturbation": RANDOM, "tau_x": 8, "tau_theta": 8, "baseline": "antithetic", "eta": 9.0},
    "no baseline": {
        "perturbation": WALSH,
        "tau_x": 32,
        "tau_theta": None,
        "probes": 12,
        "baseline": "none",
        "eta": 15.0,
    },
    "held": {"perturbation": RANDOM, "tau_p": 2, "tau_x": 4, "tau_theta": 4, "probes": 3, "eta": 3.0},
    "sequential": {"perturbation": Sequential(amplitude=0.05), "tau_x": 9, "tau_theta": None, "eta": 5.0},
    "adam": {"perturbation": RANDOM, "tau_x": 8, "tau_theta": 8, "optimizer": Adam(), "eta": 0.05},
    "momentum": {"perturbation": RANDOM, "tau_x": 4, "tau_theta": 4, "optimizer": Momentum(), "eta": 0.6},
    "limited": {"perturbation": RANDOM, "tau_x": 4, "tau_theta": 4, "modulation_limit": 0.01, "eta": 3.0},
    "mgd2023": {"perturbation": RANDOM, "tau_x": 4, "tau_theta": 4, "convention": "mgd2023", "eta": 6.0},
    "mgd2025": {"perturbation": RANDOM, "tau_x": 4, "tau_theta": 4, "convention": "mgd2025", "eta": 3.0},
}


class TestMGD(AlgorithmConformance):
    @pytest.fixture(params=list(SETTINGS))
    def algorithm(self, request):
        return MGD(**SETTINGS[request.param])

    @pytest.fixture
    def goal(self):
        return Goal(learners=5, measurements=8_000)


class TestMGDOnNoisyChips(TestMGD):
    """Noise of reading and writing is drawn per chip; drift and variation belong to it."""

    @pytest.fixture
    def algorithm(self):
        return MGD(**SETTINGS["shared baseline"])

    @pytest.fixture(params=["absolute", "incremental"])
    def make_device(self, request):
        def make(replicas, first=0):
            return Simulated(
                mlp([2, 2, 1]),
                MeanSquaredError(),
                seed=first,
                chips=replicas,
                activation_variation=0.1,
                parameter_variation=0.05,
                cost_noise=1e-4,
                read_noise=1e-3,
                programming=request.param,
                update_noise=1e-3,
                drift=1e-4,
                read_seconds=1e-3,
            )

        return make

    @pytest.fixture
    def task(self):
        return parity(2, batch=1, name="xor")

    @pytest.fixture
    def goal(self):
        return Goal(replicas=1, learners=0, measurements=1)  # learning is asked of ideal chips


class TestMGDAnalog(AlgorithmConformance):
    @pytest.fixture(params=[RANDOM, Sinusoid(amplitude=0.05, start=0.05, stop=0.3)], ids=["random", "tones"])
    def algorithm(self, request):
        return MGDAnalog(eta=0.6, perturbation=request.param, tau_x=250, tau_theta=20.0, tau_hp=10.0)

    @pytest.fixture
    def goal(self):
        return Goal(learners=5, measurements=6_000)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_invalid_first_reading_is_forgotten(self, rig, value):
        super().test_invalid_reading_is_contained(rig, ("cost",), 0, value)

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_invalid_reading_is_contained(self, rig, value):
        super().test_invalid_reading_is_contained(rig, ("cost",), 3, value)


class TestNodePerturbation(AlgorithmConformance):
    @pytest.fixture(params=[(3.0, Descent()), (0.6, Momentum()), (0.3, Adam())], ids=["descent", "momentum", "adam"])
    def algorithm(self, request):
        eta, optimizer = request.param
        return NodePerturbation(eta=eta, perturbation=RANDOM, probes=4, optimizer=optimizer)

    @pytest.fixture
    def goal(self):
        return Goal(learners=5, measurements=6_000)


class TestBackprop(AlgorithmConformance):
    @pytest.fixture(params=[(5.0, Descent()), (1.0, Momentum()), (0.1, Adam())], ids=["descent", "momentum", "adam"])
    def algorithm(self, request):
        eta, optimizer = request.param
        return Backprop(eta=eta, optimizer=optimizer, start=Uniform(-2.0, 2.0))

    @pytest.fixture
    def goal(self):
        return Goal(learners=4, measurements=1_000)
