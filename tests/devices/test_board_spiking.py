"""Spiking networks on a board: the kit on the host twin, the simulator beside it, and learning by the board itself."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from hwtrain.algorithms.osttp import OSTTP
from hwtrain.conformance import DeviceConformance
from hwtrain.core import Can, Measure, Program, Sample
from hwtrain.costs import CrossEntropy
from hwtrain.devices.board import Board
from hwtrain.devices.board_spiking import Spiking as OnBoard
from hwtrain.devices.link import Link
from hwtrain.devices.messages import Network as Told
from hwtrain.devices.messages import Reset
from hwtrain.devices.replayed import ReplayedBoard
from hwtrain.devices.serial import Opener, SerialBoard
from hwtrain.devices.spiking import Spiking
from hwtrain.emulators import Emulator
from hwtrain.errors import CapabilityError, ConfigError, DeviceError, LimitError
from hwtrain.optimize import Descent
from hwtrain.recorder import InMemory
from hwtrain.sim.neurons import Surrogate
from hwtrain.sim.spiking import snu
from hwtrain.start import Uniform
from hwtrain.tasks.music import FrameNLL
from hwtrain.trainer import Budget, Trainer
from tests.devices.boards import killed_as_calm, restarting
from tests.emulators.conftest import needs

NETWORKS = {
    "hard": snu([3, 5, 4, 2], threshold=0.2),
    "soft": snu([3, 5, 2], threshold=0.2, reset="soft", readout="integrator", readout_gain=0.5),
    "soft units": snu([3, 6, 2], "sigmoid", reset="soft"),
    "recurrent": snu([3, 5, 4, 2], threshold=0.2, reset="soft", recurrent=True, readout="integrator"),
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
        made.append(Board(Link(Opener(address), address), network, cost or CrossEntropy(), low, high))
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
    def device(self, make, request, minimised):
        return make(NETWORKS[request.param], minimised)

    @pytest.fixture
    def sample(self, device):
        rng = np.random.default_rng(1)
        return Sample(rng.random((5, 3, 3)), rng.random((5, 3, 2)))


class TestKitOfClasses(TestKit):
    @pytest.fixture
    def minimised(self):
        return CrossEntropy()


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


RULE = {"eta": 0.04, "hidden_rate": 0.5, "update": "step", "batch": 1, "optimizer": Descent(), "start": Uniform(-1, 1)}


def osttp(**settings):
    return OSTTP(**RULE | {"cost": CrossEntropy()} | settings)


def learnt(device, rule, sample, restarted=lambda: None):
    """The state after all sequences of a sample, the board learning by itself; and the mean costs of its blocks."""
    state, costs = rule.init(device.spec, np.uint32(7)), []
    for first in range(0, sample.x.shape[1], rule.block):
        part = slice(first, first + rule.block)
        block = Sample(sample.x[:, part], sample.target[:, part])
        state, metrics = rule.tell(state, block, device.execute(rule.ask(state, block)))
        costs.append(float(metrics["cost"]))
        restarted()
    return state, costs


class TestLearningByItself:
    @pytest.mark.parametrize(
        "settings",
        [{}, {"centre": True, "scale": 0.5}, {"signal": "local", "surrogate": Surrogate("triangle", 1.5, 0.3)}],
        ids=repr,
    )
    @pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
    def test_it_is_the_rule(self, make, network, settings):
        """The board's own steps are those of a host in the loop of a simulator, sequence by sequence."""
        simulated, sample = Spiking(network, CrossEntropy(), low=-4, high=4), show(network, 12, 2)
        sample.target[9:, 1] = np.nan  # the second one ends early
        rule = osttp(**settings)
        state = rule.init(simulated.spec, np.uint32(7))
        state, costs = replace(state, theta=state.theta.astype(np.float32).astype(float)), []
        for b, steps in enumerate((12, 9)):
            own, spent = Sample(sample.x[:, b : b + 1], sample.target[:, b : b + 1]), []
            while state.sample == b:
                state, metrics = rule.tell(state, own, simulated.execute(rule.ask(state, own)))
                spent.append(metrics["cost"])
            costs.append(np.mean(spent[:steps]))
        ended, seen = learnt(make(network), osttp(on_device=True, block=1, **settings), sample)
        np.testing.assert_allclose(ended.theta, state.theta, atol=2e-6)
        np.testing.assert_allclose(seen, costs, atol=2e-6)
        assert (ended.step, ended.updates, ended.sample) == (state.step, state.updates, state.sample)
        assert np.array_equal(ended.targets, state.targets)

    @pytest.mark.parametrize("centre", [False, True])
    def test_blocks_of_any_size_and_restarts_between_them_change_no_bit(self, make, centre):
        sample, ends = show(NETWORKS["hard"], 7, 4), []
        for block in (1, 2, 4):
            for restarts in (False, True):
                device = make()
                reset = (lambda device=device: device._link.exchange([Reset()], [0.0])) if restarts else lambda: None
                state, _ = learnt(device, osttp(on_device=True, block=block, centre=centre), sample, reset)
                assert device.counts()["disturbances"].get("restarts", 0) == restarts * (4 // block - 1)
                ends.append(state.theta.tobytes())
                device.close()
        assert len(set(ends)) == 1

    @pytest.mark.parametrize("board", ["host", "stm32f405"])
    def test_a_board_that_restarts_between_request_and_reply(self, make, board):
        sample, rule = show(NETWORKS["hard"], 7, 40), osttp(on_device=True, block=4, centre=True)
        calm, _ = learnt(make(), rule, sample)
        with restarting(board, NETWORKS["hard"], CrossEntropy(), -4, 4) as device:
            rough, _ = learnt(device, rule, sample)
        assert np.array_equal(rough.theta, calm.theta)

    def test_parameters_travel_once_a_block(self, make):
        """They are written before the first block, and read after each."""
        network, sizes = NETWORKS["hard"], {}
        for block in (1, 4):
            device = make(network)
            learnt(device, osttp(on_device=True, block=block), show(network, 7, 4))
            sizes[block] = device.counts()["traffic"]
            device.close()
        each = 4 * network.size  # bytes
        saved = sizes[1]["bytes received"] - sizes[4]["bytes received"]
        assert 3 * each < saved < 3 * (each + 60)  # and the frames of READ and DIGEST
        assert sizes[1]["bytes sent"] - sizes[4]["bytes sent"] < 3 * 60

    def test_measuring_after_learning_is_of_what_was_learnt(self, make):
        network = NETWORKS["hard"]
        device, sample = make(network), show(network)
        state, _ = learnt(device, osttp(on_device=True, block=1), sample)
        (reading,) = device.execute([Measure(sample)])
        (wanted,) = Spiking(network, CrossEntropy()).execute([Program(state.theta), Measure(sample)])
        assert reading.cost == pytest.approx(wanted.cost, rel=1e-6)

    def test_sequences_without_targets_teach_nothing(self, make):
        device, sample = make(), show(NETWORKS["hard"], 7, 2)
        sample.target[:, 1] = np.nan
        both, costs = learnt(device, osttp(on_device=True, block=2), sample)
        alone, only = learnt(device, osttp(on_device=True, block=1), Sample(sample.x[:, :1], sample.target[:, :1]))
        assert np.array_equal(both.theta, alone.theta)
        assert costs == only
        (command,) = osttp(on_device=True, block=2).ask(both, sample)[1:]
        assert (command.measurements, command.updates) == (7, 7)

    def test_the_trainer_counts_steps(self, make):
        """A measurement for each step presented, a write for each that has a target; as with the host in the loop."""
        sample = show(NETWORKS["hard"], 7, 4)
        sample.target[5:, 1] = sample.target[2, 3] = np.nan
        task = Shown(sample)
        counts = []
        for settings in ({"on_device": True, "block": 2}, {"state": "estimated"}):
            rule = osttp(**settings)
            device = make()
            result = Trainer(rule, device, task, CrossEntropy(), Budget(steps=28), InMemory()).run()
            device.close()
            assert (result.state.step, result.state.updates, result.outcome) == (28, 28, "completed")
            counts.append(result.counts)
        assert [count.writes for count in counts] == [1 + 25] * 2  # the first parameters too
        assert [count.baseline for count in counts] == [26, 28]  # the host presents a sequence to the task's last step


class Shown:
    """The sequences of a sample, one at a time."""

    name, inputs, outputs = "shown", 3, 2

    def __init__(self, sample):
        self._sample = sample

    def sample(self, seed, index):
        return Sample(self._sample.x[:, index : index + 1], self._sample.target[:, index : index + 1])

    def held_out(self, limit):
        return self.sample(0, 0)

    seen = held_out


def begun(device):
    return osttp(on_device=True).init(device.spec, np.uint32(7))


def unlike(*numbers, **settings):
    """A network of spiking layers, some of which are set otherwise."""
    layers = NETWORKS["hard"].layers
    return SimpleNamespace(
        layers=tuple(replace(layer, **settings) if n in numbers else layer for n, layer in enumerate(layers))
    )


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("network", "cost", "says"),
        [
            (snu([3, 4, 2], reset="soft_trained"), CrossEntropy(), "hard or soft reset"),
            (snu([3, 4, 2], readout="spiking"), CrossEntropy(), "read-out"),
            (unlike(0, kind="dense"), CrossEntropy(), "not dense, spiking, dense as they are set"),
            (unlike(1, kind="dense"), CrossEntropy(), "not spiking, dense, dense as they are set"),
            (unlike(0, 1, activation="tanh"), CrossEntropy(), "as they are set. Choose network=snu"),
            (unlike(1, normalise="l2"), CrossEntropy(), "as they are set. Choose network=snu"),
            (snu([3, 4, 2], threshold=1e39), CrossEntropy(), "threshold of layer 1, 1e[+]39, is no finite number"),
            (snu([3, 4, 2]), FrameNLL(), "cost=cross_entropy, not FrameNLL"),
            (snu([3, 2000, 2]), CrossEntropy(), "floats in a reply"),
            (snu([30000, 40, 2]), CrossEntropy(), "parameters with their traces"),
        ],
    )
    def test_networks(self, make, network, cost, says):
        with pytest.raises(ConfigError, match=says):
            make(network, cost)

    def test_rules_that_would_see_membranes(self, make):
        task = Shown(show(NETWORKS["hard"]))
        with pytest.raises(CapabilityError, match=r"needs MEMBRANES; 'host' .* Choose algo\.state=estimated"):
            Trainer(osttp(), make(), task, CrossEntropy(), Budget(steps=1), InMemory())

    def test_boards_without(self):
        needs("atmega2560")
        emulator = Emulator("atmega2560", "auto")
        try:
            with pytest.raises(ConfigError, match="built without spiking neurons"):
                Board(Link(Opener(emulator.url), emulator.url), NETWORKS["hard"], CrossEntropy())
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
            device.execute([Measure(one)])
        block = osttp(on_device=True, block=1).ask(begun(device), show(network))[1]
        with pytest.raises(LimitError, match="none under way"):
            device.execute([Measure(replace(one, start=True)), block, Measure(one)])

    @pytest.mark.parametrize(
        ("change", "error", "says"),
        [
            ({"signal": "transport"}, CapabilityError, "'transport' is no signal .* target, local, error"),
            ({"shape": "box"}, CapabilityError, "'box' is no surrogate .* tanh, fast_sigmoid, triangle"),
            ({"sample": Sample(np.zeros((6, 1, 3)))}, LimitError, "without a target"),
            ({"sample": Sample(np.zeros((6, 1, 4)), np.zeros((6, 1, 2)))}, LimitError, "sample of shape"),
            ({"sample": Sample(np.zeros((6, 0, 3)), np.zeros((6, 0, 2)))}, LimitError, "no sequences"),
            ({"sample": Sample(np.zeros((6, 1, 3)), np.zeros((6, 1, 2)), start=False)}, LimitError, "from their start"),
            ({"sample": Sample(np.full((6, 1, 3), np.nan), np.zeros((6, 1, 2)))}, LimitError, "not finite"),
            ({"rate": np.nan}, LimitError, "the rate .* is nan"),
            ({"rate": 1e39}, LimitError, "the rate .* is 1e[+]39, no finite number in the single precision"),
            ({"scale": -1e39}, LimitError, "the scale .* is -1e[+]39"),
            ({"height": np.inf}, LimitError, "the height .* is inf"),
            ({"seeds": np.zeros(1, np.uint32)}, LimitError, r"the seeds .* of shape \(2,\), not of shape \(1,\)"),
            ({"centre": True}, LimitError, r"the targets .* of shape \(2,\), not none"),
            ({"low": -5.0}, LimitError, "would keep parameters within -5 to 4"),
        ],
    )
    def test_blocks(self, make, change, error, says):
        device, sample = make(), show(NETWORKS["hard"])
        program, block = osttp(on_device=True, block=1).ask(begun(device), sample)
        before = dict(device.counts()["traffic"])
        with pytest.raises(error, match=f"{says}.*Nothing was sent"):
            device.execute([program, replace(block, **change)])
        assert device.counts()["traffic"] == before

    def test_a_mean_that_does_not_fit_into_a_request(self, make):
        network = snu([3, 4, 500], threshold=0.2)
        device, rule = make(network), osttp(on_device=True, block=1, centre=True)
        device._network.room.sums = False  # as on a board of small requests
        sample = Sample(np.zeros((2, 1, 3)), np.zeros((2, 1, 500)))
        with pytest.raises(LimitError, match=r"mean of 500 targets does not fit.*Nothing was sent"):
            device.execute(rule.ask(rule.init(device.spec, np.uint32(0)), sample))

    def test_devices_that_do_not(self):
        network = NETWORKS["hard"]
        device = Spiking(network, CrossEntropy(), low=-4, high=4)
        with pytest.raises(CapabilityError, match="wants LEARN_IN_TIME"):
            device.execute(osttp(on_device=True, block=1).ask(begun(device), show(network)))


def test_a_board_may_take_as_long_as_the_steps_that_it_is_given(make, monkeypatch):
    """And no longer: what waits for a board that is gone waits for those, whatever else there would be room for."""
    device, allowed = make(), []
    exchange = device._link.exchange
    monkeypatch.setattr(
        device._link, "exchange", lambda asked, work: allowed.append(sum(work)) or exchange(asked, work)
    )
    for steps in (2, 6):
        device.execute([Measure(show(NETWORKS["hard"], steps))])
    assert allowed[-1] == 3 * allowed[-2] > 0


def test_a_transcript_answers_in_its_place(url, tmp_path):
    network, kept = NETWORKS["hard"], str(tmp_path / "bench.jsonl")
    commands = [Program(random(network)), Measure(show(network, batch=2), observe=Can.COST | Can.ACTIVITY)]
    board = SerialBoard(url, network, CrossEntropy(), transcript=kept)
    readings = board.execute(commands)
    board.close()
    replayed = ReplayedBoard(kept, network, CrossEntropy())
    assert replayed.execute(commands) == readings
    replayed.close()


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

    def test_a_sequence_that_only_the_board_knew_is_lost(self, make):
        device, sample = make(), show(NETWORKS["hard"])
        device.execute([Measure(sample)])
        self.restart(device)
        with pytest.raises(DeviceError, match="in the middle of a sequence"):
            device.execute([Measure(replace(sample, start=False))])


@pytest.mark.slow
def test_host_killed_ten_times(tmp_path):
    """SIGKILL at ten random moments; the board lives on, and is taken over by the next host."""
    words = (
        "task=xor", "task.batch=1", "network=snu", "network.sizes=[2,8,1]", "algo=osttp", "algo/optimizer=descent",
        "algo.update=step", "algo.centre=true", "algo.on_device=true", "device=serial", "budget.steps=20000",
        "evaluate.every=500", "recorder.every=100", "recorder.checkpoint_seconds=0", "recorder.report=false",
    )  # fmt: skip
    assert np.ptp(killed_as_calm(tmp_path, words)) > 0


def test_sizes_are_those_of_the_protocol():
    """firmware/PROTOCOL.md: (n + 4) m of a hidden layer, one for each input of the last, two for each output, one."""
    told = OnBoard.told(NETWORKS["hard"].layers, CrossEntropy(), -1.0, 1.0)
    assert isinstance(told, Told)
    assert told.streaming_size == 7 * 5 + 9 * 4 + 4 + 2 * 2 + 1
