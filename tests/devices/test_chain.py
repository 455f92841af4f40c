"""Layers on devices of their own: the kit, and the same bits as the network on one device."""

import numpy as np
import pytest

from hwtrain.conformance import DeviceConformance
from hwtrain.core import Can, Measure, Program, Sample
from hwtrain.costs import MeanSquaredError
from hwtrain.devices.chain import Chain, layer_by_layer
from hwtrain.devices.function import FunctionDevice
from hwtrain.devices.simulated import Simulated
from hwtrain.errors import ConfigError
from hwtrain.sim.networks import mlp


def part(**settings):
    return lambda network, seed: Simulated(network, MeanSquaredError(), seed=seed, **settings)


class TestChain(DeviceConformance):
    @pytest.fixture(params=["none", "l2", "rms"])
    def device(self, request):
        return layer_by_layer(mlp([3, 4, 2], normalise=request.param), part(low=-2.0, high=2.0))


class TestChainOfNoisyChips(DeviceConformance):
    @pytest.fixture
    def settings(self):
        return {"chips": 3, "activation_variation": 0.1, "update_noise": 1e-3, "drift": 1e-3, "read_seconds": 1e-3}

    @pytest.fixture
    def device(self, settings):
        return layer_by_layer(mlp([3, 4, 2], normalise="rms"), part(**settings), seed=2)

    @pytest.fixture
    def another(self, settings):
        return layer_by_layer(mlp([3, 4, 2], normalise="rms"), part(**settings), seed=2)

    @pytest.fixture
    def allowance(self):
        return 0.02


@pytest.mark.parametrize("normalise", ["none", "l2", "rms"])
def test_equals_the_network_on_one_device(normalise):
    network = mlp([3, 4, 4, 2], "relu", "linear", normalise=normalise)
    random = np.random.default_rng(0)
    theta, sample = random.normal(size=network.size), Sample(random.random((1, 5, 3)))
    whole, parts = Simulated(network, MeanSquaredError()), layer_by_layer(network, part())
    commands = [Program(theta), Measure(sample, observe=Can.ACTIVITY | Can.OUTPUT)]
    (one,), (other,) = whole.execute(commands), parts.execute(commands)
    assert np.array_equal(one.output, other.output)
    assert all(np.array_equal(a, b) for a, b in zip(one.activity, other.activity, strict=True))
    assert parts.spec.layers == whole.spec.layers


def test_chips_of_two_layers_differ():
    network = mlp([3, 3, 3], "tanh", "tanh")
    chain = layer_by_layer(network, part(activation_variation=0.1))
    theta = np.zeros(network.size)
    (reading,) = chain.execute([Program(theta), Measure(Sample(np.zeros((1, 1, 3))), observe=Can.ACTIVITY)])
    assert not np.array_equal(reading.activity[0], reading.activity[1])


def test_every_part_rests_though_one_fails():
    rested = []

    class Stubborn(Simulated):
        def rest(self):
            rested.append(self)
            raise OSError("stuck")

    network = mlp([3, 2, 2])
    chain = layer_by_layer(network, lambda network, seed: Stubborn(network, MeanSquaredError()))
    with pytest.raises(OSError, match="stuck"):
        chain.rest()
    assert len(rested) == 2


def test_parts_that_do_not_fit_are_named():
    def one(inputs, outputs):
        return Simulated(mlp([inputs, outputs]), MeanSquaredError())

    with pytest.raises(ConfigError, match=r"takes 4 inputs.*gives 2"):
        Chain([one(3, 2), one(4, 1)], ["none", "none"])
    with pytest.raises(ConfigError, match="one layer"):
        Chain([FunctionDevice(lambda theta, x: x, size=1, inputs=2, outputs=2)], ["none"])
    with pytest.raises(ConfigError, match="a normalisation for each"):
        Chain([one(3, 2)], [])
