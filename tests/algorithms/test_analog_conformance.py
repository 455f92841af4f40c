"""The conformance kit on the analog rules, on cells that differ from each other."""

import pytest

from hwtrain.algorithms.analog_sgd import AnalogSGD
from hwtrain.algorithms.tiki_taka import VARIANTS, TikiTaka
from hwtrain.conformance import AlgorithmConformance, Goal
from hwtrain.costs import MeanSquaredError
from hwtrain.devices.programming import simulated_cells
from hwtrain.sim.laws import SoftBounds
from hwtrain.sim.networks import mlp
from hwtrain.sim.pulsed import Pulsed, Reference
from hwtrain.start import Uniform
from hwtrain.tasks.teacher import Teacher

CELL = Pulsed(
    law=SoftBounds(), dw_min=0.02, w_max=1.0, w_min=-1.0, w_max_dtod=0.1, w_min_dtod=0.1, dw_min_dtod=0.3,
    up_down_dtod=0.1, dw_min_std=0.3, write_noise_std=0.1, reference=Reference(subtract_symmetry_point=True),
)  # fmt: skip
COMMON = {"eta": 0.05, "start": Uniform(0.0, 0.0)}
RULES = {
    "analog_sgd": AnalogSGD(**COMMON),
    "fixed length": AnalogSGD(**COMMON, management=False, length=10),
    **{name: TikiTaka(variant=name, **COMMON, flip=0.2) for name in VARIANTS},
    "forgetting": TikiTaka(**COMMON, forget=0.1),
    "scaled": TikiTaka(**{**COMMON, "eta": 0.3}, scaled=True, transfer=0.05),
}


@pytest.mark.parametrize("name", RULES)
class TestAnalog(AlgorithmConformance):
    @pytest.fixture
    def algorithm(self, name):
        return RULES[name]

    @pytest.fixture
    def task(self):
        return Teacher(inputs=4, outputs=2)

    @pytest.fixture
    def make_device(self):
        def make(replicas, first=0):
            network = mlp([4, 2], output="linear")
            settings = {"fast": CELL, "programming": None, "seed": first, "chips": replicas}
            return simulated_cells(network, MeanSquaredError(), CELL, **settings)

        return make

    @pytest.fixture
    def goal(self):
        return Goal(measurements=2000)
