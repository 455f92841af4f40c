"""A device made of a function faces the kit, as it is and behind limits."""

import numpy as np
import pytest

from hwtrain.conformance import DeviceConformance
from hwtrain.core import Sample
from hwtrain.devices.function import FunctionDevice


def two_lines(theta, x):
    return np.stack([np.tanh(x @ theta[:3]), x @ theta[3:]], axis=-1)


class TestFunction(DeviceConformance):
    @pytest.fixture
    def device(self):
        return FunctionDevice(two_lines, size=6, inputs=3, outputs=2)


class TestLimitedFunction(DeviceConformance):
    @pytest.fixture
    def device(self):
        return FunctionDevice(two_lines, size=6, inputs=3, outputs=2, low=0.5, high=4.5, unit="V")

    @pytest.fixture
    def sample(self):
        random = np.random.default_rng(0)
        return Sample(random.random((3, 2, 3)), random.random((3, 2, 2)))


class TestNoisyFunction(DeviceConformance):
    @pytest.fixture
    def device(self):
        random = np.random.default_rng(1)

        def noisy(theta, x):
            return two_lines(theta, x) + 0.01 * random.standard_normal((len(x), 2))

        return FunctionDevice(noisy, size=6, inputs=3, outputs=2, low=-1.0, noise=0.02)
