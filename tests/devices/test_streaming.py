"""Spiking networks on a board: the kit on the host twin, the simulator beside it, and learning by the board itself."""

from dataclasses import replace

import numpy as np
import pytest

from hwtrain.algorithms.osttp import OSTTP
from hwtrain.conformance import DeviceConformance
from hwtrain.core import Can, Measure, Program, Sample
from hwtrain.costs import CrossEntropy, MeanSquaredError
from hwtrain.devices.link import Link
from hwtrain.devices.messages import Network as Told
from hwtrain.devices.messages import Reset
from hwtrain.devices.serial import Opener
from hwtrain.devices.spiking import Spiking
from hwtrain.devices.streaming import Lesson, Streaming
from hwtrain.emulators import Emulator
from hwtrain.errors import ConfigError, DeviceError, LimitError
from hwtrain.optimize import Descent
from hwtrain.sim.neurons import Surrogate
from hwtrain.sim.spiking import snu
from hwtrain.start import Uniform
from hwtrain.tasks.music import FrameNLL
from tests.emulators.conftest import needs

NETWORKS = {
    "hard": snu([3, 5, 4, 2], threshold=0.2),
    "soft": snu([3, 5, 2], threshold=0.2, reset="soft", readout="integrator", readout_gain=0.5),
    "soft units": snu([3, 6, 2], "sigmoid", reset="soft"),
}


@pytest.fixture(scope="module")
def url():
    needs("host")
    emulator = Emulator("host", "auto")
    yield emulator.url
    emulator.stop()


@pytest.fixture
def make(url):
    made = []

    def make(network=NETWORKS["hard"], cost=None, low=-4.0, high=4.0, address=url):
        made.append(Streaming(Link(Opener(address), address), network, cost or CrossEntropy(), low, high))
        return made[-1]

    yield make
    for device in made:
        device.close()


def show(network, steps=6, batch=1, seed=0):
    """Random spikes and classes, exact in single precision."""
    rng, inputs = np.random.default_rng(seed), network.layers[0].inputs[0]
    x = (rng.random((steps, batch, inputs)) < 0.5).astype(float)
    return Sample(x, np.eye(2)[rng.integers(0, 2, (steps, batch))])


def random(network, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, network.size).astype(np.float32)


class TestKit(DeviceConformance):
    @pytest.fixture(params=NETWORKS)
    def device(self, make, request):
        return make(NETWORKS[request.param], MeanSquaredError())

    @pytest.fixture
    def sample(self, device):
        rng = np.random.default_rng(1)
        return Sample(rng.random((5, 3, 3)), rng.random((5, 3, 2)))


class TestBesideTheSimulator:
    @pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
    def test_activities_and_costs(self, make, network):
        sample, theta = show(network, batch=3), random(network)
        commands = [Program(theta), Measure(sample, observe=Can.COST | Can.OUTPUT | Can.ACTIVITY)]
        (a,), (b,) = make(network).execute(commands), Spiking(network, CrossEntropy()).execute(commands)
        np.testing.assert_allclose(a.cost, b.cost, rtol=1e-6)
        np.testing.assert_allclose(a.output, b.output, atol=2e-6)
        for one, other in zip(a.activity, b.activity, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-6)

    def test_a_sequence_in_parts(self, make):
        network = NETWORKS["soft"]
        device, sample = make(network), show(network)
        parts = [Sample(sample.x[at : at + 2], sample.target[at : at + 2], start=at == 0) for at in range(0, 6, 2)]
        observe = Can.OUTPUT | Can.ACTIVITY
        (whole,) = device.execute([Program(random(network)), Measure(sample, observe=observe)])
        several = device.execute([Measure(part, observe=observe) for part in parts])
        assert np.array_equal(np.concatenate([part.output for part in several], axis=1), whole.output)

    def test_long_sequences_take_several_requests(self, make):
        network = snu([3, 300, 2], threshold=0.2)
        sample, theta = show(network, steps=40), random(network) * np.float32(0.3)
        commands = [Program(theta), Measure(sample, observe=Can.ACTIVITY)]
        (a,), (b,) = make(network).execute(commands), Spiking(network, CrossEntropy()).execute(commands)
        assert np.array_equal(a.activity[0], b.activity[0])

    def test_a_host_in_the_loop_learns_as_from_the_simulator(self, make):
        """OSTTP from activities over the link, membranes estimated."""
        network = NETWORKS["soft units"]
        algorithm = OSTTP(
            eta=0.1, cost=CrossEntropy(), state="estimated", update="step", batch=1, optimizer=Descent(),
            start=Uniform(-1, 1),
        )  # fmt: skip
        ends = []
        for device in (make(network), Spiking(network, CrossEntropy(), low=-4, high=4)):
            state, sample = algorithm.init(device.spec, np.uint32(3)), show(network, 10)
            while state.sample < 2:
                state, _ = algorithm.tell(state, sample, device.execute(algorithm.ask(state, sample)))
            ends.append(state.theta)
        np.testing.assert_allclose(*ends, atol=2e-6)


class TestLearningByItself:
    @pytest.mark.parametrize(
        "settings",
        [{}, {"centre": True, "scale": 0.5}, {"signal": "local", "surrogate": Surrogate("triangle", 1.5, 0.3)}],
        ids=repr,
    )
    @pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
    def test_it_is_the_rule(self, make, network, settings):
        """The board's own steps are those of a host in the loop of a simulator, sequence by sequence."""
        lesson = Lesson(rate=0.02, readout_rate=0.04, seed=7, **settings)
        rule = OSTTP(
            eta=0.04, hidden_rate=0.5, cost=CrossEntropy(), update="step", batch=1, optimizer=Descent(),
            start=Uniform(-1, 1), **settings,
        )  # fmt: skip
        simulated = Spiking(network, CrossEntropy(), low=-4, high=4)
        state = rule.init(simulated.spec, np.uint32(7))
        state = replace(state, theta=state.theta.astype(np.float32).astype(float))
        device = make(network)
        device.execute([Program(state.theta)])
        sample = show(network, 12, 2)
        sample.target[9:, 1] = np.nan  # the second one ends early
        costs = device.learn(sample, lesson)
        for b, steps in enumerate((12, 9)):
            own = Sample(sample.x[:steps, b : b + 1], sample.target[:steps, b : b + 1])
            for t in range(steps):
                state, metrics = rule.tell(state, own, simulated.execute(rule.ask(state, own)))
                assert costs[t, b] == pytest.approx(metrics["cost"], abs=1e-5)
        assert np.isnan(costs[9:, 1]).all()
        np.testing.assert_allclose(device.read(), state.theta, atol=2e-6)

    def test_in_parts_as_at_once(self, make):
        network = NETWORKS["soft"]
        sample, lesson, ends = show(network), Lesson(rate=0.05, readout_rate=0.05), []
        for cuts in ([6], [2, 4, 6]):
            device, at = make(network), 0
            device.execute([Program(random(network))])
            for end in cuts:
                device.learn(Sample(sample.x[at:end], sample.target[at:end], at == 0), lesson)
                at = end
            ends.append(device.read().tobytes())
            device.close()
        assert ends[0] == ends[1]

    def test_measuring_after_learning_is_of_what_was_learnt(self, make):
        network = NETWORKS["hard"]
        device, sample = make(network), show(network)
        device.execute([Program(random(network))])
        device.learn(sample, Lesson(rate=0.1, readout_rate=0.1))
        (reading,) = device.execute([Measure(sample)])
        (wanted,) = Spiking(network, CrossEntropy()).execute([Program(device.read()), Measure(sample)])
        assert reading.cost == pytest.approx(wanted.cost, rel=1e-6)


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("network", "cost", "says"),
        [
            (snu([3, 4, 2], recurrent=True), CrossEntropy(), "without recurrence"),
            (snu([3, 4, 2], reset="soft_trained"), CrossEntropy(), "hard or soft reset"),
            (snu([3, 4, 2], readout="spiking"), CrossEntropy(), "read-out"),
            (snu([3, 4, 2]), FrameNLL(), "cost=cross_entropy, not FrameNLL"),
            (snu([3, 2000, 2]), CrossEntropy(), "floats in a reply"),
            (snu([30000, 40, 2]), CrossEntropy(), "parameters with their traces"),
        ],
    )
    def test_networks(self, make, network, cost, says):
        with pytest.raises(ConfigError, match=says):
            make(network, cost)

    def test_boards_without(self):
        needs("atmega2560")
        emulator = Emulator("atmega2560", "auto")
        try:
            with pytest.raises(ConfigError, match="built without spiking neurons"):
                Streaming(Link(Opener(emulator.url), emulator.url), NETWORKS["hard"], CrossEntropy())
        finally:
            emulator.stop()

    def test_going_on(self, make):
        device, network = make(), NETWORKS["hard"]
        one, two = (replace(show(network, batch=batch), start=False) for batch in (1, 2))
        with pytest.raises(LimitError, match="none under way"):
            device.execute([Measure(one)])
        device.execute([Measure(replace(one, start=True)), Measure(one)])
        with pytest.raises(LimitError, match="holds one at a time"):
            device.execute([Measure(two)])
        device.execute([Measure(replace(two, start=True))])
        with pytest.raises(LimitError, match="none under way"):
            device.learn(one, Lesson(rate=0.1, readout_rate=0.1))

    def test_a_step_without_a_target_before_one_that_has_it(self, make):
        sample = show(NETWORKS["hard"])
        sample.target[2] = np.nan
        with pytest.raises(LimitError, match="Cut the sequence"):
            make().learn(sample, Lesson(rate=0.1, readout_rate=0.1))

    @pytest.mark.parametrize("change", [{"rate": -1.0}, {"signal": "transport"}, {"seed": -1}, {"centre": 1}])
    def test_lessons(self, change):
        with pytest.raises(ConfigError, match="lesson"):
            Lesson(**{"rate": 0.1, "readout_rate": 0.1} | change)


class TestRestarts:
    def restart(self, device):
        device._link.exchange([Reset()], [0.0])

    def test_what_is_known_is_given_again(self, make):
        network = NETWORKS["hard"]
        device, sample = make(network), show(network)
        commands = [Program(random(network)), Measure(sample, observe=Can.OUTPUT)]
        (before,) = device.execute(commands)
        self.restart(device)
        (after,) = device.execute(commands[1:])
        assert after == before
        assert device.counts()["disturbances"]["restarts"] == 1

    def test_what_only_the_board_knew_is_lost(self, make):
        device, sample = make(), show(NETWORKS["hard"])
        device.execute([Measure(sample)])
        self.restart(device)
        with pytest.raises(DeviceError, match="in the middle of what only it knew"):
            device.execute([Measure(replace(sample, start=False))])
        device.execute([Measure(sample)])
        self.restart(device)
        with pytest.raises(DeviceError, match="Program it"):
            device.learn(sample, Lesson(rate=0.1, readout_rate=0.1))
        assert np.isfinite(device.learn(sample, Lesson(rate=0.1, readout_rate=0.1))).all()


def test_sizes_are_those_of_the_protocol():
    """firmware/PROTOCOL.md: (n + 4) m of a hidden layer, one for each input of the last, two for each output, one."""
    from hwtrain.devices.streaming import _network

    told = _network(NETWORKS["hard"].layers, CrossEntropy(), -1.0, 1.0)
    assert isinstance(told, Told)
    assert told.streaming_size == 7 * 5 + 9 * 4 + 4 + 2 * 2 + 1
