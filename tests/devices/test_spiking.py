"""Simulated spiking chips: the kit, sequences in parts, the gradient through time, and neurons that differ."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from hwtrain.conformance import DeviceConformance
from hwtrain.core import Can, Measure, Probes, Program, Read, Sample
from hwtrain.costs import CrossEntropy, MeanSquaredError
from hwtrain.devices.simulated import Simulated
from hwtrain.devices.spiking import Spiking, Variation
from hwtrain.errors import CapabilityError, ConfigError, LimitError
from hwtrain.perturb import Rademacher
from hwtrain.sim.composite import Differential, Scaled
from hwtrain.sim.networks import Network, dense, mlp, pool
from hwtrain.sim.neurons import LayerGains, Surrogate
from hwtrain.sim.spiking import SpikingNetwork, integrator, snu, spiking
from tests.sim.presets import preset

NETWORKS = {
    "hard": snu([3, 5, 2], threshold=0.2),
    "soft": snu([3, 5, 4, 2], threshold=0.2, reset="soft", recurrent=True, readout="integrator", readout_gain=0.5),
    "soft units": snu([3, 5, 2], "sigmoid", threshold=0.2, recurrent=True),
    "soft_trained units": snu([3, 5, 4, 2], "sigmoid", reset="soft_trained", readout="integrator"),
    "spiking read-out": SpikingNetwork((dense(3, 4, "tanh", "subtract"), spiking(4, 2, threshold=0.1))),
    "soft units read out": snu([3, 4, 2], "sigmoid", reset="soft", readout="spiking"),
}
SMOOTH = [name for name in NETWORKS if "units" in name]
EVERYTHING = Can.COST | Can.OUTPUT | Can.ACTIVITY | Can.MEMBRANES


class SpikingConformance(DeviceConformance):
    """Says of what `settings` make; the chips of a stack are those of single devices."""

    chips = 3

    @pytest.fixture(params=["hard"])
    def network(self, request):
        return NETWORKS[request.param]

    @pytest.fixture
    def settings(self):
        return {}

    @pytest.fixture
    def make(self, network, settings):
        return lambda **more: Spiking(network, MeanSquaredError(), **{"seed": 3, "chips": self.chips} | settings | more)

    @pytest.fixture
    def device(self, make):
        return make()

    @pytest.fixture
    def another(self, make):
        return make()

    @pytest.fixture
    def single(self, make):
        return lambda index: make(seed=3 + index, chips=None)

    @pytest.fixture
    def sample(self, device):
        return numbers(device, 6, 4)

    @pytest.fixture
    def difference(self, network):
        return None if any(layer.activation == "step" for layer in network.layers) else 1e-6


class TestIdeal(SpikingConformance):
    chips = None

    @pytest.fixture(params=list(NETWORKS))
    def network(self, request):
        return NETWORKS[request.param]


class TestStack(SpikingConformance):
    @pytest.fixture(params=["soft", "soft units"])
    def network(self, request):
        return NETWORKS[request.param]

    @pytest.fixture
    def settings(self):
        return {"low": -1.5, "high": 2.0}


class TestDenseLayersOnly(SpikingConformance):
    chips = None

    @pytest.fixture
    def network(self):
        return mlp([3, 4, 2], "relu", "sigmoid")

    @pytest.fixture
    def difference(self):
        return 1e-6


class TestNeuronsThatDiffer(SpikingConformance):
    @pytest.fixture(params=SMOOTH)
    def network(self, request):
        return NETWORKS[request.param]

    @pytest.fixture
    def settings(self):
        return {"variation": Variation(threshold=0.2, decay=0.2, gain=0.1, dead=0.2)}


class TestStuckParameters(SpikingConformance):
    @pytest.fixture
    def settings(self):
        return {"stuck": 0.3, "low": -1.0, "high": 1.0}


class TestWrittenCells(SpikingConformance):
    """Matrices in phase-change pairs; every write lands elsewhere, every reading differs."""

    @pytest.fixture(params=SMOOTH)
    def network(self, request):
        return NETWORKS[request.param]

    @pytest.fixture(params=[{"programming": "open_loop"}, {"programming": "threshold", "step": 1e-3}], ids=repr)
    def settings(self, request):
        quiet = preset("pcm_nandakumar2019")  # a chip of a hundredth of the errors, lest they say all there is to read
        quiet = replace(quiet, programming_scale=0.01, reading=replace(quiet.reading, scale=0.01), ageing=None)
        return {"cell": Scaled(Differential(quiet), low=-2.0, high=2.0), "read_seconds": 1e-3, **request.param}

    @pytest.fixture
    def allowance(self):
        return 0.3

    @pytest.fixture
    def difference(self):
        return None


class TestPulsedCells(TestWrittenCells):
    """Matrices in pairs that only go up; what the pulses lead to is known to a step at best."""

    @pytest.fixture
    def settings(self):
        cell = Scaled(preset("pcm_pair"), low=-1.0, high=1.0)
        return {"cell": cell, "programming": "mixed_precision", "read_seconds": 1e-3}

    @pytest.fixture
    def allowance(self):
        return 2.0


class TestNoisyReadings(SpikingConformance):
    @pytest.fixture
    def settings(self):
        return {"cost_noise": 0.01, "read_noise": 0.02}


def numbers(device, time, batch, seed=0):
    random = np.random.default_rng(seed)
    target = random.random((time, batch, device.spec.outputs))
    return Sample(random.random((time, batch, device.spec.inputs)), target)


def parameters(device, seed=1, width=1.0):
    random = np.random.default_rng(seed)
    return random.uniform(-width, width, (*device.spec.replicas, device.spec.size))


def parts(sample, *ends):
    begins = (0, *ends)
    return [
        replace(sample, x=sample.x[a:b], target=sample.target[a:b], start=a == 0)
        for a, b in zip(begins, (*ends, len(sample.x)), strict=True)
    ]


@pytest.mark.parametrize("name", list(NETWORKS))
def test_parts_of_a_sequence_equal_the_whole(name):
    device = Spiking(NETWORKS[name], MeanSquaredError(), chips=2)
    sample = numbers(device, 7, 3)
    program = Program(parameters(device))
    (whole,) = device.execute([program, Measure(sample, observe=EVERYTHING)])
    for ends in ((1, 2, 3, 4, 5, 6), (3,), (1, 5)):
        readings = device.execute([program, *(Measure(part, observe=EVERYTHING) for part in parts(sample, *ends))])
        for field in ("activity", "membranes"):
            for number, layer in enumerate(getattr(whole, field)):
                joined = np.concatenate([getattr(reading, field)[number] for reading in readings], axis=-3)
                np.testing.assert_array_equal(joined, layer)
        costs = np.average([reading.cost for reading in readings], axis=0, weights=np.diff([0, *ends, 7]))
        np.testing.assert_allclose(costs, whole.cost, rtol=1e-12)


def test_what_may_happen_between_two_parts_of_a_sequence():
    """Programming leaves running neurons alone, probes too, and a snapshot holds them."""
    device, another = (Spiking(NETWORKS["hard"], MeanSquaredError()) for _ in range(2))
    sample, theta = numbers(device, 4, 3), parameters(device)
    first, second = (Measure(part, observe=Can.MEMBRANES) for part in parts(sample, 2))
    wanted = device.execute([Program(theta), first, second])[1]
    probes = Probes(Rademacher(amplitude=0.1), np.array(3, np.uint32), 0, 2)
    device.execute([first, Program(parameters(device, 2)), Measure(numbers(device, 3, 3), probes)])
    kept = device.snapshot()
    assert device.execute([Program(theta), second])[0] == wanted
    another.restore(kept)
    assert another.execute([Program(theta), second])[0] == wanted
    another.restore(Spiking(NETWORKS["hard"], MeanSquaredError()).snapshot())
    asleep = another.execute([Program(theta), second])[0]
    assert asleep == another.execute([Measure(replace(second.sample, start=True), observe=Can.MEMBRANES)])[0]


def test_probes_restart_the_sequence():
    device = Spiking(NETWORKS["hard"], MeanSquaredError())
    sample, theta = numbers(device, 4, 3), parameters(device)
    probes = Probes(Rademacher(amplitude=0.1), np.array(3, np.uint32), 0, 2)
    first, second = parts(sample, 2)
    anew, running = (
        device.execute([Program(theta), Measure(first), Measure(replace(second, start=start), probes)])[1]
        for start in (True, False)
    )
    assert anew == running


def cells(name="pcm_nandakumar2019", chips=None, high=2.0, **settings):
    cell = preset(name) if name == "pcm_pair" else Differential(preset(name))
    return Spiking(NETWORKS["soft"], MeanSquaredError(), chips=chips, cell=Scaled(cell, -high, high), **settings)


def counted(device):
    return device.counts()["traffic"]


class TestCells:
    QUIET = replace(preset("pcm_hermes_one"), programming_scale=0.0, ageing=None, reading=None)
    BIASES = np.array([False] * 40 + [True] * 5 + [False] * 36 + [True] * 4 + [False] * 8 + [True] * 2)

    def quiet(self, **settings):
        return Spiking(NETWORKS["soft"], MeanSquaredError(), cell=Scaled(Differential(self.QUIET), -2, 2), **settings)

    def theta(self, seed=0):
        return np.random.default_rng(seed).uniform(-1.9, 1.9, NETWORKS["soft"].size)

    def held(self, device):
        (reading,) = device.execute([Read()])
        return reading.theta

    def test_biases_are_numbers(self):
        device, theta = cells(), self.theta()
        device.execute([Program(theta)])
        exact = self.held(device) == theta
        assert exact.tolist() == self.BIASES.tolist()

    def test_cells_without_errors_are_numbers(self):
        plain, device = Spiking(NETWORKS["soft"], MeanSquaredError()), self.quiet(programming="open_loop")
        sample, theta = numbers(device, 5, 3), self.theta()
        (a,), (b,) = (each.execute([Program(theta), Measure(sample)]) for each in (plain, device))
        assert b.cost == pytest.approx(a.cost, rel=1e-12)

    def test_the_gradient_is_that_of_what_is_held(self):
        device, theta = self.quiet(programming="threshold"), self.theta()
        device.execute([Program(theta)])
        sample = numbers(device, 5, 3)
        (there,) = device.execute([Measure(sample, observe=Can.GRADIENT)])
        plain = Spiking(NETWORKS["soft"], MeanSquaredError())
        (same,) = plain.execute([Program(self.held(device)), Measure(sample, observe=Can.GRADIENT)])
        np.testing.assert_allclose(there.gradient, same.gradient, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("scheme", ["threshold", "mixed_precision"])
    def test_wishes_add_up_to_steps(self, scheme):
        device, wish = self.quiet(programming=scheme, step=0.1), np.zeros(NETWORKS["soft"].size)
        for _ in range(10):
            wish = wish + 0.034
            device.execute([Program(wish)])
        np.testing.assert_allclose(self.held(device)[~self.BIASES], 0.3, rtol=1e-12)
        np.testing.assert_allclose(self.held(device)[self.BIASES], 0.34, rtol=1e-12)
        assert counted(device)["writes"] == 3 * (~self.BIASES).sum()

    def test_steps_are_added_to_what_is_held_or_lead_to_the_grid(self):
        """The error of the write before stays in mixed precision, and ends with the next write by threshold."""
        spread = {}
        for scheme in ("threshold", "mixed_precision"):
            device, wish = cells(chips=30, programming=scheme, step=0.1), np.zeros((30, NETWORKS["soft"].size))
            for _ in range(8):
                wish = wish + 0.1001
                device.execute([Program(wish)])
            spread[scheme] = (self.held(device) - 0.8)[:, ~self.BIASES].std()
        assert spread["mixed_precision"] > 1.6 * spread["threshold"]

    @pytest.mark.parametrize("scheme", ["open_loop", "threshold", "mixed_precision"])
    @pytest.mark.parametrize("name", ["pcm_nandakumar2019", "pcm_pair"])
    def test_what_did_not_move_is_not_written(self, name, scheme):
        device, theta = cells(name, programming=scheme), self.theta()
        device.execute([Program(theta)])
        before, writes = counted(device), device.snapshot()["cells.writes"]
        theta = theta.copy()
        theta[[3, 42]] /= -2  # an element of a matrix, and a bias
        device.execute([Program(theta), Program(theta)])
        changed = (device.snapshot()["cells.writes"] != writes).reshape(2, -1).any(axis=0)
        if not counted(device)["refreshes"]:
            assert np.flatnonzero(changed).tolist() == [3]
        if name != "pcm_pair":
            assert counted(device)["writes"] == before["writes"] + 1

    def test_full_pairs_are_refreshed(self):
        device, low = cells("pcm_pair"), np.zeros(NETWORKS["soft"].size)
        for _ in range(12):
            device.execute([Program(low + 0.8), Program(low - 0.8)])
        assert counted(device)["refreshes"] > 0
        share = device.snapshot()["cells.value"].reshape(2, -1) / 2.0
        assert not ((share.max(axis=0) > 0.75) & (share.min(axis=0) > 0.25)).any()

    def test_drift_goes_by_the_clock(self):
        device = cells(chips=20, programming="open_loop", read_seconds=1000.0)
        device.execute([Program(np.broadcast_to(self.theta(), (20, NETWORKS["soft"].size)))])
        before = np.abs(self.held(device)[:, ~self.BIASES]).mean()
        sample = replace(numbers(device, 1, 1), target=None)
        for _ in range(10):
            device.execute([Measure(sample, observe=Can.OUTPUT)])
        assert device.snapshot()["cells.time"] == pytest.approx(11_000)
        assert 0.6 < np.abs(self.held(device)[:, ~self.BIASES]).mean() / before < 0.85  # 550 to the power of -0.06

    @pytest.mark.parametrize("name", ["pcm_nandakumar2019", "pcm_pair"])
    def test_a_snapshot_in_the_middle_of_a_sequence_goes_on_bit_for_bit(self, name):
        one, other = (cells(name, chips=2, programming="mixed_precision", read_seconds=1.0) for _ in range(2))
        sample = numbers(one, 4, 3)
        theta = np.stack([self.theta(1), self.theta(2)])
        one.execute([Program(theta), Measure(sample)])
        other.restore(one.snapshot())
        going_on = replace(sample, start=False)
        after = [each.execute([Program(-theta), Measure(going_on), Read()]) for each in (one, other)]
        assert after[0] == after[1]

    @pytest.mark.parametrize(
        ("settings", "says"), [({"programming": "guess"}, "device.programming"), ({"step": 0}, "device.step")]
    )
    def test_settings_that_are_not_allowed(self, settings, says):
        with pytest.raises(ConfigError, match=says):
            cells(**settings)


def test_another_number_of_sequences_cannot_go_on():
    device = Spiking(NETWORKS["hard"], MeanSquaredError())
    begun, other = numbers(device, 2, 3), replace(numbers(device, 2, 4), start=False)
    with pytest.raises(
        LimitError, match=r"4 sequences shall go on in 'spiking', where 3 were begun\. .*Nothing was sent"
    ):
        device.execute([Measure(begun), Measure(other)])
    before = device.snapshot()
    device.execute([Measure(begun)])
    with pytest.raises(LimitError, match="4 sequences"):
        device.execute([Program(parameters(device)), Measure(other)])
    assert before.keys() < device.snapshot().keys()
    assert not device.snapshot()["target"].any()
    device.execute([Measure(replace(other, start=True)), Measure(other)])


@pytest.mark.parametrize("reset", ["hard", "soft", "soft_trained"])
def test_the_equations_one_neuron_at_a_time(reset):
    """Spikes and membranes of a recurrent layer and an integrator, written out in scalars."""
    network = snu(
        [2, 3, 1], decay=0.7, threshold=0.3, reset=reset, recurrent=True, readout="integrator", readout_gain=0.5
    )
    device = Spiking(network, MeanSquaredError())
    theta, sample = parameters(device, 4), numbers(device, 8, 1)
    (reading,) = device.execute([Program(theta), Measure(sample, observe=EVERYTHING)])
    w, h, b = theta[:6].reshape(2, 3), theta[6:15].reshape(3, 3), theta[15:18]
    readout, bias = theta[18:21], theta[21]
    s, y, o = np.zeros(3), np.zeros(3), 0.0
    for t in range(8):
        before, fired = s.copy(), y.copy()
        for i in range(3):
            a = sum(sample.x[t, 0, j] * w[j, i] for j in range(2)) + sum(fired[j] * h[j, i] for j in range(3))
            if reset == "hard":
                s[i] = a + 0.7 * before[i] * (1 - fired[i])
            else:
                s[i] = a + 0.7 * before[i] - (0.3 + (b[i] if reset == "soft_trained" else 0)) * fired[i]
            y[i] = float(s[i] > 0.3 + b[i])
        o = 0.99 * o + 0.5 * sum(y[i] * readout[i] for i in range(3))
        np.testing.assert_allclose(reading.membranes[0][0, t, 0], s, atol=1e-12)
        np.testing.assert_array_equal(reading.activity[0][0, t, 0], y)
        np.testing.assert_allclose([reading.membranes[1][0, t, 0, 0], reading.output[0, t, 0, 0]], [o, o + bias])
    assert 0 < reading.activity[0].mean() < 1


def test_steps_without_a_target_count_in_no_cost_and_no_gradient():
    device = Spiking(NETWORKS["soft units"], CrossEntropy())
    sample = numbers(device, 6, 2)
    masked = sample.target.copy()
    masked[4:, 0] = np.nan
    observe = Can.COST | Can.GRADIENT
    program = Program(parameters(device))
    (reading,) = device.execute([program, Measure(replace(sample, target=masked), observe=observe)])
    alone = []
    for b, steps in ((0, 4), (1, 6)):
        own = Sample(sample.x[:steps, b : b + 1], sample.target[:steps, b : b + 1])
        alone.append(device.execute([Measure(own, observe=observe)])[0])
    for name in ("cost", "gradient"):
        mean = (4 * getattr(alone[0], name) + 6 * getattr(alone[1], name)) / 10
        np.testing.assert_allclose(getattr(reading, name), mean, rtol=1e-12)
    nothing = replace(sample, target=np.full_like(masked, np.nan))
    (reading,) = device.execute([Measure(nothing, observe=observe)])
    assert not reading.cost.any()
    assert not reading.gradient.any()


def test_the_gradient_of_a_part_stops_where_the_part_begins():
    device = Spiking(NETWORKS["soft units"], MeanSquaredError())
    first, second = parts(numbers(device, 5, 2), 2)
    theta = parameters(device)
    second = Measure(second, observe=Can.GRADIENT | Can.COST)
    gradient = device.execute([Program(theta), Measure(first), second])[1].gradient[0]
    for index in range(0, len(theta), 7):
        costs = []
        for side in (1e-6, -1e-6):
            moved = theta.copy()
            moved[index] += side
            costs.append(device.execute([Program(theta), Measure(first), Program(moved), second])[1].cost[0])
        assert gradient[index] == pytest.approx((costs[0] - costs[1]) / 2e-6, abs=1e-6)


class TestVariation:
    LAYERS = snu([2, 2000, 1], decay=0.9, threshold=0.5).layers

    def cells(self, **variation):
        return Variation(**variation).cells(self.LAYERS, np.array(5, np.uint32))

    def test_none(self):
        assert self.cells() == (None, None)

    def test_spreads(self):
        own, readout = self.cells(threshold=0.1, decay=0.2, gain=0.05, dead=0.3)
        assert readout is None
        assert own.threshold.shape == own.decay.shape == own.gain.shape == own.alive.shape == (1, 1, 2000)
        assert own.threshold.mean() == pytest.approx(0.5, abs=0.005)
        assert own.threshold.std() == pytest.approx(0.05, rel=0.05)
        assert (np.log(0.9) / np.log(own.decay)).std() == pytest.approx(0.2, rel=0.05)
        assert ((own.decay > 0) & (own.decay < 1)).all()
        assert own.gain.std() == pytest.approx(0.05, rel=0.05)
        assert own.alive.mean() == pytest.approx(0.7, abs=0.03)

    def test_chips_differ_and_a_chip_stays_what_it_is(self):
        def membranes(**more):
            device = Spiking(NETWORKS["hard"], MeanSquaredError(), variation=Variation(gain=0.1), **more)
            theta = parameters(Spiking(NETWORKS["hard"], MeanSquaredError()))
            theta = np.broadcast_to(theta, (*device.spec.replicas, device.spec.size))
            sample = numbers(device, 3, 2)
            return device.execute([Program(theta), Measure(sample, observe=Can.MEMBRANES)])[0].membranes[0]

        stack = membranes(seed=7, chips=2)
        assert not np.array_equal(stack[0], stack[1])
        np.testing.assert_array_equal(stack[1], membranes(seed=8))

    def test_dead_neurons_never_fire(self):
        device = Spiking(NETWORKS["hard"], MeanSquaredError(), variation=Variation(dead=0.5))
        (reading,) = device.execute(
            [Program(np.ones(device.spec.size)), Measure(numbers(device, 9, 9), observe=Can.ACTIVITY)]
        )
        assert set(reading.activity[0].max(axis=(0, 1, 2))) == {0.0, 1.0}

    @pytest.mark.parametrize("name", ["threshold", "decay", "gain", "dead"])
    def test_what_is_refused(self, name):
        with pytest.raises(ConfigError, match=rf"device\.variation\.{name}"):
            Variation(**{name: -0.1})


@pytest.mark.parametrize(
    ("shape", "reference"),
    [
        ("tanh", lambda u: 1 - np.tanh(u) ** 2),
        ("fast_sigmoid", lambda u: 1 / (np.abs(u) + 1) ** 2),
        ("triangle", lambda u: np.maximum(0, 1 - np.abs(u))),
    ],
)
def test_surrogates(shape, reference):
    z = np.linspace(-3, 3, 61)
    np.testing.assert_array_equal(Surrogate(shape, slope=2.0, height=0.3)(z), 0.3 * reference(2.0 * z))


def test_gains_of_each_kind_of_matrix():
    device = Spiking(snu([20, 60, 60, 10], recurrent=True, threshold=1.0), MeanSquaredError(), chips=4)
    start = LayerGains(inputs=0.5, recurrent=0.3, readout=1.5)
    theta = start(device.spec, np.arange(4, dtype=np.uint32))
    assert theta.shape == (4, device.spec.size)
    wanted = [
        (0.5 * np.sqrt(6 / 80), 20 * 60),
        (0.3 * np.sqrt(6 / 120), 60 * 60),
        (0.0, 60),
        (0.5 * np.sqrt(6 / 120), 60 * 60),
        (0.3 * np.sqrt(6 / 120), 60 * 60),
        (0.0, 60),
        (1.5 * np.sqrt(6 / 70), 60 * 10),
        (0.0, 10),
    ]
    at = 0
    for width, count in wanted:
        assert np.abs(theta[:, at : at + count]).max() == pytest.approx(width, rel=0.01)
        at += count
    assert at == device.spec.size
    np.testing.assert_array_equal(start(device.spec, np.array([2], np.uint32))[0], theta[2])


def test_gains_that_leave_the_range():
    device = Spiking(NETWORKS["hard"], MeanSquaredError(), low=-0.1, high=0.1)
    with pytest.raises(ConfigError, match=r"layer_gains reaches .*outside the range of 'spiking', -0\.1 to 0\.1"):
        LayerGains()(device.spec, np.array(0, np.uint32))
    convolutional = replace(device.spec, layers=(pool((2, 2, 1)),))
    with pytest.raises(ConfigError, match="'spiking' has pool"):
        LayerGains()(convolutional, np.array(0, np.uint32))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Spiking(Network((pool((4, 4, 1)), dense(4, 1))), MeanSquaredError()), "layer 1 is 'pool'"),
        (lambda: Spiking(mlp([2, 2, 1], normalise="l2"), MeanSquaredError()), "normalise=l2"),
        (lambda: SpikingNetwork((dense(2, 3), integrator(4, 1))), r"a layer gives \(3,\), the next one takes \(4,\)"),
        (lambda: Simulated(NETWORKS["hard"], MeanSquaredError()), "Use device=spiking"),
        (lambda: snu([3]), r"network\.sizes must be at least two"),
        (lambda: snu([3, 2, 1], reset="none"), r"network\.reset must be one of hard, soft, soft_trained"),
        (lambda: snu([3, 2, 1], "relu"), r"network\.activation must be one of step, sigmoid"),
        (lambda: snu([3, 2, 1], decay=1.5), r"network\.decay"),
        (lambda: snu([3, 2, 1], readout="conv"), r"network\.readout must be one of"),
        (lambda: Surrogate("box"), r"surrogate\.shape"),
        (lambda: Spiking(NETWORKS["hard"], MeanSquaredError(), stuck=2), r"device\.stuck"),
    ],
)
def test_what_is_refused(make, says):
    with pytest.raises(ConfigError, match=says):
        make()


def test_membranes_must_be_offered():
    device = Simulated(mlp([3, 2, 1]), MeanSquaredError())
    with pytest.raises(CapabilityError, match="wants MEMBRANES"):
        device.execute([Measure(numbers(device, 1, 1), observe=Can.MEMBRANES)])


def test_soft_units_fire_by_degrees():
    device = Spiking(snu([1, 1], "sigmoid", threshold=0.5, readout="spiking"), MeanSquaredError())
    (reading,) = device.execute(
        [Program(np.array([2.0, 0.25])), Measure(Sample(np.ones((1, 1, 1))), observe=Can.OUTPUT)]
    )
    assert reading.output.item() == pytest.approx(expit(2.0 - 0.5 - 0.25))
