"""Local rules face the kit: exclusive or with an output for each class, and room for a label in the inputs."""

import numpy as np
import pytest

from hwtrain.algorithms.feedback_alignment import FeedbackAlignment
from hwtrain.algorithms.forward_forward import ForwardForward
from hwtrain.algorithms.mono_forward import MonoForward
from hwtrain.algorithms.physics_aware import PhysicsAware
from hwtrain.conformance import AlgorithmConformance, Goal
from hwtrain.costs import CrossEntropy
from hwtrain.devices.simulated import Simulated
from hwtrain.optimize import Descent, Momentum
from hwtrain.sim.networks import mlp
from hwtrain.tasks.dataset import DataTask

BITS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], float)
X = np.concatenate([np.full((4, 2), 0.1), BITS, 1 - BITS], axis=1)  # a neutral label, and every bit with its opposite
Y = np.eye(2)[[0, 1, 1, 0]]


def device(sizes, activation, normalise, **imperfections):
    def make(replicas, first=0):
        network = mlp(sizes, activation, "linear", normalise=normalise)
        return Simulated(network, CrossEntropy(), seed=first, chips=replicas, **imperfections)

    return make


class LocalRule(AlgorithmConformance):
    @pytest.fixture
    def make_device(self):
        return device([6, 8, 8, 2], "relu", "rms")

    @pytest.fixture
    def task(self):
        return DataTask("xor of two classes", X, Y, X, Y, 4, {})

    @pytest.fixture
    def goal(self):
        return Goal(replicas=8, learners=6, measurements=3000)


FORWARD_FORWARD = {
    "threshold": {"eta": 0.02},
    "mean": {"eta": 0.02, "goodness": "mean", "threshold": 2.0, "peer": 0.03, "decay": 1e-5},
    "symba": {"eta": 0.02, "loss": "symba", "goodness": "mean"},
    "hard": {"eta": 0.02, "negatives": "hard"},
    "single": {"eta": 0.02, "precision": "single", "readout": "softmax"},
    "falling": {"eta": 0.03, "eta_halves": 500, "readout_eta": 0.05},
    "greedy": {"eta": 0.02, "layer_updates": 5},
    "momentum": {"eta": 0.02, "readout_eta": 0.3, "optimizer": Momentum()},
}


class TestForwardForward(LocalRule):
    @pytest.fixture(params=list(FORWARD_FORWARD))
    def algorithm(self, request):
        return ForwardForward(**FORWARD_FORWARD[request.param])


class TestForwardForwardWithoutLabels(LocalRule):
    """Layers that never see a label; the read-out does, on whatever they make of the samples."""

    @pytest.fixture(params=["hybrid", "pair"])
    def algorithm(self, request):
        return ForwardForward(eta=0.02, negatives=request.param, readout="softmax")

    @pytest.fixture
    def make_device(self):
        return device([9, 12, 2], "relu", "rms")

    @pytest.fixture
    def task(self):
        x = np.concatenate([X, np.ones((4, 3))], axis=1)
        return DataTask("images of 3x3", x, Y, x, Y, 4, {})


class TestForwardForwardOnNoisyChips(LocalRule):
    @pytest.fixture
    def algorithm(self):
        return ForwardForward(eta=0.02, optimizer=Descent())

    @pytest.fixture
    def make_device(self):
        return device(
            [6, 8, 8, 2], "tanh", "l2", activation_variation=0.1, parameter_variation=0.05, read_noise=1e-2,
            programming="incremental", update_noise=1e-3, drift=1e-4, read_seconds=1e-3, low=-3.0, high=3.0,
        )  # fmt: skip

    @pytest.fixture
    def goal(self):
        return Goal(replicas=1, learners=0, measurements=1)  # learning is asked of ideal chips


class TestMonoForward(LocalRule):
    @pytest.fixture(params=[(0.02, {}), (0.1, {"optimizer": Momentum()}), (0.02, {"precision": "single"})])
    def algorithm(self, request):
        eta, more = request.param
        return MonoForward(eta=eta, **more)

    @pytest.fixture(params=[[6, 8, 8, 2], [6, 12, 2]], ids=["three", "two"])
    def make_device(self, request):
        return device(request.param, "relu", "none")


class TestPhysicsAware(LocalRule):
    @pytest.fixture(params=["programmed", "fitted", "random"])
    def algorithm(self, request):
        return PhysicsAware(eta=0.02, model=request.param)

    @pytest.fixture
    def make_device(self):
        return device([6, 12, 2], "tanh", "rms", parameter_variation=0.2)


class TestFeedbackAlignment(LocalRule):
    @pytest.fixture(params=["error", "target"])
    def algorithm(self, request):
        return FeedbackAlignment(eta=0.02, feedback=request.param)

    @pytest.fixture
    def make_device(self):
        return device([6, 12, 2], "tanh", "none")
