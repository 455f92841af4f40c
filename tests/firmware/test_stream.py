"""STREAM: spiking neurons that learn in time by themselves, the same bits on every board, near the simulator's rule."""

import zlib
from dataclasses import replace

import numpy as np
import pytest

from hwtrain import draws
from hwtrain.algorithms.osttp import OSTTP
from hwtrain.core import Sample
from hwtrain.costs import CrossEntropy, MeanSquaredError
from hwtrain.devices import messages
from hwtrain.devices.messages import (
    Activation,
    Bias,
    Capability,
    Cost,
    DenseLayer,
    Learn,
    Network,
    Normalise,
    Resetting,
    Rule,
    Shape,
    Signal,
    Status,
    Stream,
)
from hwtrain.devices.spiking import Spiking
from hwtrain.errors import FirmwareError
from hwtrain.optimize import Descent
from hwtrain.sim.neurons import Surrogate
from hwtrain.sim.spiking import snu
from hwtrain.start import Uniform
from tests.firmware import boards, stream

WIDTHS, STEPS = [5, 7, 6, 3], 6
FIRST = {"decay": 0.8, "threshold": 0.3, "rate": 0.05, "readout_rate": 0.03, "low": -3.9, "high": 3.9, "seeds": (5, 6)}
SETTINGS = {
    "hard": FIRST,
    "soft": FIRST | {"reset": Resetting.SOFT, "readout_decay": 0.9, "readout_gain": 0.5, "shape": Shape.TRIANGLE},
    "centred": FIRST | {"centre": True, "slope": 1.3, "height": 0.7, "shape": Shape.FAST_SIGMOID},
    "local": FIRST | {"signal": Signal.LOCAL, "reset": Resetting.SOFT, "scale": 1.1, "rate": 0.02},
    "error": FIRST | {"signal": Signal.ERROR, "readout_decay": 0.5},
}


@pytest.fixture(scope="module", params=boards.BOARDS)
def link(request, out):
    """A running board with a boot id."""
    with boards.running(request.param, out) as url:
        link = boards.Link(url)
        link.adopt(0x12345678)
        yield link
        link.close()


@pytest.fixture(scope="module")
def twin(out):
    with boards.running("host", out) as url:
        link = boards.Link(url)
        link.adopt(0x12345678)
        yield link
        link.close()


@pytest.fixture
def able(link):
    if Capability.STREAM not in link.hello().can:
        pytest.skip("built without STREAM")
    return link


def network(activation=Activation.STEP, cost=Cost.CROSS_ENTROPY, bias=Bias.ADD, widths=WIDTHS, recurrent=False):
    hidden = tuple(DenseLayer(n, activation, Bias.SUBTRACT, recurrent=recurrent) for n in widths[1:-1])
    return Network(widths[0], (*hidden, DenseLayer(widths[-1], Activation.LINEAR, bias)), cost, -4, 4)


def load(link, network, steps=STEPS, seed=1):
    """Random parameters and steps of a sequence; the same in numpy."""
    rng, outputs = np.random.default_rng(seed), network.layers[-1].outputs
    theta = rng.uniform(-1, 1, network.size).astype(np.float32)
    x = (rng.random((steps, network.inputs)) < 0.5) * np.where(np.arange(steps) % 2, 1, rng.random(steps))[:, None]
    rows = stream.shown(x, np.eye(outputs)[rng.integers(0, outputs, steps)])
    link.do(network)
    most = (link.hello().receive - 20) // 4
    for at in range(0, theta.size, most):
        link.do(messages.Write(at, theta[at : at + most]))
    for slot, row in enumerate(rows):
        link.do(messages.Store(slot, row))
    return stream.Board(network, theta, rows)


def digest(link):
    return messages.Digest.unpack(link.do(messages.Digest()))[1]


def crc(mirror):
    return zlib.crc32(mirror.theta.astype(messages.FLOAT).tobytes())


def same_bits(a, b):
    return np.array_equal(np.asarray(a, np.float32).view(np.uint32), np.asarray(b, np.float32).view(np.uint32))


def agree(link, mirror, request):
    """Does the board's answer, and what it has become, equal that of numpy, to the bit?"""
    nodes = sum(layer.outputs for layer in mirror.network.layers)
    costs, activity = request.unpack(link.do(request), nodes)
    wanted, shown = mirror.stream(request)
    assert same_bits(costs, wanted)
    assert activity is None or same_bits(activity, shown)
    assert digest(link) == crc(mirror)


class TestEveryBoard:
    @pytest.mark.parametrize("name", SETTINGS)
    @pytest.mark.parametrize("activation", [Activation.STEP, Activation.SIGMOID])
    @pytest.mark.parametrize("recurrent", [False, True], ids=["forward", "recurrent"])
    def test_the_same_bits_as_numpy(self, able, recurrent, activation, name):
        cost = Cost.MEAN_SQUARED_ERROR if name == "centred" else Cost.CROSS_ENTROPY
        bias = Bias.SUBTRACT if name == "soft" else Bias.ADD
        mirror = load(able, network(activation, cost, bias, recurrent=recurrent))
        request = Stream(slot=0, steps=3, activity=True, **SETTINGS[name])
        agree(able, mirror, request)
        agree(able, mirror, replace(request, slot=3, start=False))  # goes on
        agree(able, mirror, replace(request, slot=0, steps=6, learn=False, activity=False))
        for _ in range(3):
            agree(able, mirror, replace(request, slot=0, steps=6, activity=False))

    def test_the_mean_of_targets_goes_on_from_what_is_given(self, able):
        mirror = load(able, network())
        request = Stream(slot=0, steps=6, **SETTINGS["centred"])
        agree(able, mirror, replace(request, sums=np.array([2.5, 0, 1.5, 4], np.float32)))
        assert same_bits(mirror.shown, 10)
        agree(able, mirror, request)
        assert same_bits(mirror.shown, 16)

    def test_a_repeated_request_is_not_executed_again(self, able):
        mirror = load(able, network())
        request = Stream(slot=0, steps=6, **FIRST)
        frame = able.frame(request)
        replies = [able.exchange(frame) for _ in range(2)]
        assert replies[0] == replies[1]
        mirror.stream(request)
        assert digest(able) == crc(mirror)

    def test_a_board_without_it_says_so(self, link):
        if Capability.STREAM in link.hello().can:
            pytest.skip("built with STREAM")
        link.do(Network(2, (DenseLayer(2), DenseLayer(1)), low=-4, high=4))
        with pytest.raises(FirmwareError) as refused:
            link.do(Stream(slot=0, steps=1, **FIRST | {"seeds": (5,)}))
        assert refused.value.code == Status.BAD_KIND


class TestTheRule:
    BOUND = 2e-6  # of a parameter of up to 2, after 40 steps: some ten roundings
    UNSTEADY = 5e-5  # where the rule itself amplifies them: a squared error that a layer makes with its own read-out

    @pytest.mark.parametrize("cost", [Cost.CROSS_ENTROPY, Cost.MEAN_SQUARED_ERROR])
    @pytest.mark.parametrize("name", SETTINGS)
    @pytest.mark.parametrize("activation", ["sigmoid", "step"])
    @pytest.mark.parametrize("recurrent", [False, True], ids=["forward", "recurrent"])
    def test_it_is_that_of_the_simulator_but_for_rounding(self, twin, recurrent, activation, name, cost):
        """In double precision, exchanges of one step each; unless a rounding decides over a spike: none does here."""
        rule, rows = SETTINGS[name], 40
        mirror = load(twin, network(Activation[activation.upper()], cost, recurrent=recurrent), rows)
        twin.do(messages.Write(0, mirror.theta))
        asked = replace(Stream(slot=0, steps=rows, **rule), seeds=tuple(self.seed(layer) for layer in range(2)))
        twin.do(replace(asked, scale=self.scale(rule)))
        got = np.frombuffer(twin.do(messages.Read(0, mirror.network.size)), np.float32)
        wanted = self.simulated(mirror, rule, activation, cost, recurrent=recurrent)
        assert np.abs(wanted - mirror.theta).max() > 0.05
        unsteady = (name, cost) == ("local", Cost.MEAN_SQUARED_ERROR)
        assert np.abs(got - wanted).max() <= (self.UNSTEADY if unsteady else self.BOUND)

    @staticmethod
    def seed(layer):
        return int(draws.derive(np.uint32(9), f"target projection to layer {layer}"))

    @staticmethod
    def scale(rule):
        return float(rule.get("scale", 1.0) * np.sqrt(6 / WIDTHS[-1]))

    def simulated(self, mirror, rule, activation, cost, *, recurrent):
        formula = CrossEntropy() if cost == Cost.CROSS_ENTROPY else MeanSquaredError()
        signal = rule.get("signal", Signal.TARGET).name.lower()
        device = Spiking(
            snu(
                WIDTHS,
                activation,
                rule["decay"],
                rule["threshold"],
                rule.get("reset", Resetting.HARD).name.lower(),
                recurrent,
                readout="integrator",
                readout_decay=rule.get("readout_decay", 0.0),
                readout_gain=rule.get("readout_gain", 1.0),
            ),
            formula,
            low=rule["low"],
            high=rule["high"],
        )
        shape = rule.get("shape", Shape.TANH).name.lower()
        algorithm = OSTTP(
            eta=rule["readout_rate"],
            hidden_rate=rule["rate"] / rule["readout_rate"],
            cost=formula,
            signal=signal,
            centre=rule.get("centre", False),
            scale=rule.get("scale", 1.0),
            surrogate=Surrogate(shape, rule.get("slope", 1.0), rule.get("height", 1.0)),
            update="step",
            batch=1,
            optimizer=Descent(),
            start=Uniform(-1, 1),
        )
        state = replace(algorithm.init(device.spec, np.uint32(9)), theta=mirror.theta.astype(float))
        x, target = np.split(mirror.samples.astype(float)[:, None], [WIDTHS[0]], axis=-1)
        sample = Sample(x, target)
        while state.sample == 0:
            state, _ = algorithm.tell(state, sample, device.execute(algorithm.ask(state, sample)))
        return state.theta


class TestStreams:
    def test_in_parts_as_at_once(self, twin):
        request, after = Stream(slot=0, steps=6, **SETTINGS["soft"]), []
        for parts in ([6], [1, 1, 4], [3, 3]):
            load(twin, network())
            costs, at = [], 0
            for steps in parts:
                part = replace(request, slot=at, steps=steps, start=at == 0)
                costs.append(part.unpack(twin.do(part), 0)[0])
                at += steps
            after.append((np.concatenate(costs).tobytes(), digest(twin)))
        assert len(set(after)) == 1

    def test_neurons_go_on_through_requests_that_leave_them_alone(self, twin):
        mirror, request = load(twin, network()), Stream(slot=0, steps=3, **FIRST)
        agree(twin, mirror, request)
        twin.do(messages.Probe(0))
        twin.do(messages.Store(5, mirror.samples[5]))
        twin.do(messages.Write(0, mirror.theta))
        agree(twin, mirror, replace(request, slot=3, start=False))

    def test_limits_and_numbers_that_are_none(self, twin):
        mirror = load(twin, network())
        agree(
            twin, mirror, Stream(slot=0, steps=6, **FIRST | {"rate": 50.0, "readout_rate": 50.0, "low": -1, "high": 2})
        )
        assert mirror.theta.min() == -1
        assert mirror.theta.max() == 2
        with np.errstate(all="ignore"):
            agree(twin, mirror, Stream(slot=0, steps=6, **FIRST | {"rate": 3e38, "scale": 3e38, "decay": 3e38}))
        assert np.isfinite(mirror.theta).all()

    @pytest.mark.parametrize("start", [messages.Write(0, np.zeros(1, np.float32)), network()], ids=["write", "network"])
    def test_what_takes_the_neurons_memory_ends_the_sequence(self, twin, start):
        load(twin, network())
        request = Stream(slot=0, steps=1, **FIRST)
        twin.do(request)
        if isinstance(start, messages.Write):  # a class matrix, behind the parameters
            start = replace(start, offset=network().size)
        twin.do(start)
        with pytest.raises(FirmwareError) as refused:
            twin.do(replace(request, start=False))
        assert refused.value.code == Status.BAD_VALUE

    @pytest.mark.parametrize(
        ("change", "status"),
        [
            ({"start": False}, Status.BAD_VALUE),
            ({"reset": 2}, Status.BAD_VALUE),
            ({"signal": 3}, Status.BAD_VALUE),
            ({"shape": 3}, Status.BAD_VALUE),
            ({"decay": np.nan}, Status.BAD_VALUE),
            ({"rate": np.inf}, Status.BAD_VALUE),
            ({"low": -5}, Status.BAD_VALUE),
            ({"low": 3.9}, Status.BAD_VALUE),
            ({"seeds": (1,)}, Status.BAD_LENGTH),
            ({"sums": np.zeros(3, np.float32)}, Status.BAD_LENGTH),
            ({"sums": np.array([0, np.nan, 0, 1], np.float32)}, Status.BAD_VALUE),
            ({"steps": 0}, Status.NO_ROOM),
            ({"steps": 1100}, Status.NO_ROOM),
            ({"steps": 70, "activity": True}, Status.NO_ROOM),
            ({"slot": 65535}, None),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_refusals_change_nothing(self, twin, change, status):
        mirror = load(twin, network())
        request = replace(Stream(slot=0, steps=1, **FIRST), **change)
        if status is None:  # there are as many slots on the host twin
            agree(twin, replace_rows(mirror), request)
            return
        with pytest.raises(FirmwareError) as refused:
            twin.do(request)
        assert refused.value.code == status
        assert digest(twin) == crc(mirror)

    @pytest.mark.parametrize(
        "other",
        [
            Network(5, (DenseLayer(3, Activation.LINEAR),), Cost.CROSS_ENTROPY, -4, 4),
            Network(5, (DenseLayer(4, Activation.STEP), DenseLayer(3, Activation.LINEAR)), low=-4, high=4),
            Network(
                5, (DenseLayer(4, Activation.RELU, Bias.SUBTRACT), DenseLayer(3, Activation.LINEAR)), low=-4, high=4
            ),
            Network(5, (DenseLayer(4, Activation.STEP, Bias.SUBTRACT), DenseLayer(3)), low=-4, high=4),
            Network(
                5,
                (
                    DenseLayer(4, Activation.STEP, Bias.SUBTRACT, Normalise.L2),
                    DenseLayer(3, Activation.LINEAR),
                ),
                low=-4,
                high=4,
            ),
        ],
        ids=["no hidden layer", "bias added", "no spikes", "read-out not linear", "normalises"],
    )
    def test_networks_that_do_not_stream(self, twin, other):
        twin.do(other)
        with pytest.raises(FirmwareError) as refused:
            twin.do(Stream(slot=0, steps=1, **FIRST | {"seeds": (5,) * (len(other.layers) - 1)}))
        assert refused.value.code == Status.BAD_VALUE

    @pytest.mark.parametrize("request_", [messages.Probe(0), Learn(Rule.SYMBA, 1, [0], 0.1, 0.1, -4, 4, wrong=b"\1")])
    def test_recurrent_networks_do_nothing_but_stream(self, twin, request_):
        load(twin, network(recurrent=True))
        with pytest.raises(FirmwareError) as refused:
            twin.do(request_)
        assert refused.value.code == Status.BAD_VALUE

    def test_the_last_layer_is_not_recurrent(self, twin):
        *hidden, last = network().layers
        twin.do(replace(network(), layers=(*hidden, replace(last, recurrent=True))))
        with pytest.raises(FirmwareError) as refused:
            twin.do(Stream(slot=0, steps=1, **FIRST))
        assert refused.value.code == Status.BAD_VALUE

    @pytest.mark.parametrize("recurrent", [False, True], ids=["forward", "recurrent"])
    def test_memory_that_is_too_small(self, out, recurrent):
        net = network(recurrent=recurrent)
        for room, fits in ((net.size + net.streaming_size, True), (net.size + net.streaming_size - 1, False)):
            with boards.running("host", out, "--parameters", str(room)) as url:
                link = boards.Link(url)
                link.adopt(1)
                load(link, net)
                request = Stream(slot=0, steps=1, **FIRST)
                if fits:
                    link.do(request)
                else:
                    with pytest.raises(FirmwareError) as refused:
                        link.do(request)
                    assert refused.value.code == Status.NO_ROOM
                link.close()

    def test_learning_layer_by_layer_takes_the_same_memory(self, twin):
        load(twin, network())
        twin.do(Stream(slot=0, steps=1, **FIRST))
        twin.do(Learn(Rule.MONO_FORWARD, 1, [0], 0.1, 0.1, -4, 4))
        with pytest.raises(FirmwareError):
            twin.do(replace(Stream(slot=0, steps=1, **FIRST), start=False))


def replace_rows(mirror):
    """The store is empty behind what was sent."""
    mirror.samples = np.zeros((65536, mirror.samples.shape[1]), np.float32)
    return mirror


def recall(rng, steps=8):
    """Which of three symbols came first? Noise follows; the answer is wanted at every step."""
    symbol = int(rng.integers(3))
    x = (rng.random((steps, 5)) < 0.3).astype(float)
    x[:, :3] = 0
    x[0, symbol] = 1
    return stream.shown(x, np.eye(3)[np.full(steps, symbol)])


@pytest.mark.parametrize("signal", [Signal.TARGET, Signal.LOCAL])
def test_what_came_first_is_learnt_on_the_board(twin, signal):
    """300 sequences, each heard once; all that the host sends is their steps."""
    net = network(widths=[5, 24, 3])
    rng = np.random.default_rng(4)
    theta = rng.uniform(-0.5, 0.5, net.size).astype(np.float32)
    theta[5 * 24 : 6 * 24] = 0
    twin.do(net)
    twin.do(messages.Write(0, theta))
    rule = {"decay": 0.95, "threshold": 0.5, "rate": 0.05, "readout_rate": 0.02, "low": -4, "high": 4, "seeds": (3,)}
    request = Stream(
        slot=0, steps=8, signal=signal, centre=signal is Signal.TARGET, readout_decay=0.9, readout_gain=0.3, **rule
    )
    costs = []
    for _ in range(300):
        for slot, row in enumerate(recall(rng)):
            twin.do(messages.Store(slot, row))
        costs.append(request.unpack(twin.do(request), 0)[0].mean())
    assert np.mean(costs[:20]) > 0.9
    assert np.mean(costs[-50:]) < 0.4
