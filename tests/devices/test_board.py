"""Boards as devices: one trajectory however they are trained, little on the wire, and nothing lost."""

import zlib
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwtrain.algorithms.forward_forward import ForwardForward
from hwtrain.algorithms.mgd import MGD
from hwtrain.algorithms.mono_forward import MonoForward
from hwtrain.core import Can, Learn, Measure, Probes, Program, Sample, Train
from hwtrain.costs import CrossEntropy, MeanSquaredError
from hwtrain.devices import messages
from hwtrain.devices.board import Board
from hwtrain.devices.emulated import Emulated
from hwtrain.devices.link import Link
from hwtrain.devices.messages import Rule
from hwtrain.devices.serial import Opener
from hwtrain.devices.simulated import Simulated
from hwtrain.devices.wrappers import FAULTS, Faulty
from hwtrain.emulators import BOARDS, Emulator
from hwtrain.errors import CapabilityError, ConfigError, LimitError, RecordError
from hwtrain.optimize import Descent
from hwtrain.perturb import Rademacher, Sinusoid, Walsh
from hwtrain.recorder import InMemory
from hwtrain.sim.networks import mlp
from hwtrain.start import Fan
from hwtrain.tasks.letters import letters7x7
from hwtrain.tasks.parity import parity
from hwtrain.trainer import Budget, Trainer
from tests.devices.boards import Scripted, killed_as_calm, restarting
from tests.emulators.conftest import needs
from tests.firmware import reference
from tests.firmware.reference import Chip

XOR = MGD(eta=1.0, perturbation=Rademacher(amplitude=0.0167), probes=50)
LETTERS = MGD(eta=0.3, perturbation=Rademacher(amplitude=1e-3), tau_x=8, tau_theta=8, probes=40)


def on_device(algorithm):
    return MGD(**{name: getattr(algorithm, name) for name in MGD.__slots__} | {"on_device": True})


def trained(device, algorithm, task, steps):
    """The last state of a run that is never evaluated."""
    trainer = Trainer(algorithm, device, task, MeanSquaredError(), Budget(steps=steps), InMemory())
    state = algorithm.init(device.spec, trainer.seed)
    while state.step < steps:
        state, *_ = trainer.step(state)
    return state


def crc(theta):
    assert theta.dtype == np.float32
    return zlib.crc32(theta.tobytes())


@pytest.fixture
def twin():
    needs("host")
    board = Emulated("host", mlp([2, 2, 1]), MeanSquaredError(), low=-10, high=10)
    yield board
    board.close()


@pytest.fixture(scope="module")
def wanted():
    """Parameters after some hundred steps of numpy float32, through the same trainer."""
    return {
        "xor": crc(trained(Chip([2, 2, 1]), XOR, parity(2, 4), 200).theta),
        "letters": crc(trained(Chip([49, 4, 4]), LETTERS, letters7x7(1), 80).theta),
    }


@pytest.fixture(scope="module", params=["none", "rms"])
def board(request):
    needs("host")
    board = Emulated("host", mlp([3, 4, 2], normalise=request.param), MeanSquaredError(), low=-4, high=4)
    board.network = mlp([3, 4, 2], normalise=request.param)
    yield board
    board.close()


@pytest.fixture(scope="module")
def calm():
    needs("host")
    device = Emulated("host", mlp([2, 2, 1]), MeanSquaredError(), low=-10, high=10)
    theta = trained(device, XOR, parity(2, 4), 300).theta
    device.close()
    return theta


class TestOneTrajectory:
    @pytest.mark.parametrize("name", [*BOARDS, "stm32f405-pip"])
    def test_numpy_and_every_board_both_ways(self, name, wanted):
        board, _, route = name.partition("-")
        needs(board, route or "auto")
        for algorithm in (XOR, on_device(XOR)):
            device = Emulated(board, mlp([2, 2, 1]), MeanSquaredError(), route or "auto", low=-10, high=10)
            state = trained(device, algorithm, parity(2, 4), 200)
            device.close()
            assert crc(state.theta) == wanted["xor"]
        for algorithm in (LETTERS, on_device(LETTERS)):
            device = Emulated(board, mlp([49, 4, 4]), MeanSquaredError(), route or "auto", low=-10, high=10)
            state = trained(device, algorithm, letters7x7(1), 80)
            device.close()
            assert crc(state.theta) == wanted["letters"]

    @pytest.mark.parametrize(
        "algorithm",
        [
            MGD(eta=1.0, perturbation=Rademacher(amplitude=0.02), tau_theta=4, baseline="fresh"),
            MGD(eta=1.0, perturbation=Rademacher(amplitude=0.02), tau_theta=4, tau_p=2, baseline="antithetic"),
            MGD(
                eta=0.1, perturbation=Walsh(amplitude=0.02, two_sided=True), tau_theta=None, tau_x=None, baseline="none"
            ),
            MGD(eta=1.0, perturbation=Rademacher(amplitude=0.02), tau_theta=6, tau_x=4, eta_halves=50),
            MGD(eta=0.1, perturbation=Rademacher(amplitude=0.02), tau_theta=4, convention="mgd2023"),
        ],
        ids=["fresh", "antithetic", "walsh", "falling", "mgd2023"],
    )
    def test_every_setting_both_ways(self, twin, algorithm):
        thetas = [trained(twin, each, parity(2, 2), 960).theta for each in (algorithm, on_device(algorithm))]
        assert np.array_equal(*thetas)
        assert twin.counts()["disturbances"] == {}

    def test_counts_are_the_same_both_ways(self, twin):
        for algorithm in (XOR, on_device(XOR)):
            trainer = Trainer(algorithm, twin, parity(2, 4), MeanSquaredError(), Budget(steps=200), InMemory())
            counts = trainer.run().counts
            assert (counts.perturbed, counts.baseline, counts.writes) == (200, 200, 201)

    def test_resumed_on_another_board(self, twin):
        needs("host")
        whole = trained(twin, XOR, parity(2, 4), 400)
        trainer = Trainer(XOR, twin, parity(2, 4), MeanSquaredError(), Budget(steps=400), kept := InMemory())
        trainer.budget = Budget(steps=200)
        trainer.run()
        other = Emulated("host", mlp([2, 2, 1]), MeanSquaredError(), low=-10, high=10)
        result = Trainer(XOR, other, parity(2, 4), MeanSquaredError(), Budget(steps=400), kept).run()
        other.close()
        assert np.array_equal(result.state.theta, whole.theta)


class TestWire:
    SIZES = ([2, 2, 1], [49, 4, 4], [49, 37, 4], [49, 370, 4])

    @pytest.mark.parametrize(("whole", "out", "back"), [(False, 80, 38), (True, 66, 230)], ids=["host", "board"])
    def test_bytes_per_step_do_not_grow_with_the_parameters(self, whole, out, back):
        """Exactly: a step with the host in the loop, and a block of 24 ticks run by the board."""
        needs("host")
        seen = []
        for sizes in self.SIZES:
            device = Emulated("host", mlp(sizes), MeanSquaredError(), low=-10, high=10)
            task = parity(2, 4) if sizes[0] == 2 else letters7x7(4)
            algorithm = MGD(eta=0.01, perturbation=Rademacher(amplitude=0.01), probes=24, tau_x=9600, on_device=whole)
            trainer = Trainer(algorithm, device, task, MeanSquaredError(), Budget(steps=1), InMemory())
            state = algorithm.init(device.spec, trainer.seed)
            for _ in range(4):
                before = dict(device.counts()["traffic"])
                state, *_ = trainer.step(state)
            after = device.counts()["traffic"]
            seen.append(tuple(after[key] - before[key] for key in ("bytes sent", "bytes received")))
            device.close()
        assert set(seen) == {(out, back)}

    def test_a_perturbation_that_boards_cannot_make_is_programmed(self, twin):
        theta = np.linspace(-1, 1, 9)
        sample = parity(2, 4).sample(np.zeros((), np.uint32), 0)
        tones = Probes(Sinusoid(amplitude=0.1), np.asarray(3, np.uint32), 5, 4)
        (probed,) = twin.execute([Program(theta), Measure(sample, tones)])
        alone = [twin.execute([Program(theta + delta), Measure(sample)])[0].cost[0] for delta in tones.dense(9)]
        assert np.array_equal(probed.cost, alone)

    def test_samples_stay_on_the_board(self, twin):
        trained(twin, XOR, parity(2, 1), 40)
        before = twin.counts()["traffic"]["bytes sent"]
        twin.execute([Measure(parity(2, 1).sample(np.zeros((), np.uint32), index)) for index in range(64)])
        assert twin.counts()["traffic"]["bytes sent"] - before <= 64 * 40 + 4 * 40


class TestAgainstTheSimulator:
    """Random commands, carried out by the board and by the simulator."""

    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(st.tuples(st.sampled_from("pmbo"), st.integers(0, 2**16), st.integers(1, 5)), min_size=1, max_size=8)
    )
    def test_random_commands(self, board, steps):
        simulated = Simulated(board.network, MeanSquaredError(), low=-4, high=4)
        commands = [Program(np.zeros(simulated.spec.size))]
        for kind, seed, count in steps:
            random = np.random.default_rng(seed)
            x, target = random.uniform(0, 1, (1, count, 3)), random.uniform(0, 1, (1, count, 2))
            sample = Sample(x, target)
            match kind:
                case "p":
                    commands.append(Program(random.uniform(-3, 3, simulated.spec.size)))
                case "m":
                    commands.append(Measure(sample))
                case "b":
                    code = Probes(Rademacher(amplitude=0.1), np.asarray(seed, np.uint32), seed, count)
                    commands.append(Measure(sample, code, Can.COST | Can.OUTPUT))
                case "o":
                    commands.append(Measure(sample, observe=Can.ACTIVITY))
        for one, other in zip(board.execute(commands), simulated.execute(commands), strict=True):
            for name in ("cost", "output"):
                if getattr(one, name) is not None:
                    np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=2e-6)
            for layer, wanted in zip(one.activity or (), other.activity or (), strict=True):
                np.testing.assert_allclose(layer, wanted, atol=2e-6)


RULES = ["forward_forward", "symba", "mono_forward"]


def locally(rule, sizes=(9, 6, 5, 3)):
    """A network that the rule applies to."""
    return mlp(list(sizes), "relu", "linear", normalise="none" if rule == "mono_forward" else "rms")


def block_of(rule, updates, batch=2, seed=3, number=0, **others):
    """A block of local learning on 9-6-5-3: samples, wrong labels and class matrices from random numbers."""
    random = np.random.default_rng([seed, number])
    count = updates * batch
    labels = random.integers(0, 3, count)
    sample = Sample(random.uniform(0, 1, (1, count, 9)), np.eye(3)[labels][None])
    wrong = None if rule == "mono_forward" else ((labels + random.integers(1, 3, count)) % 3)[None].astype(np.uint8)
    local = np.random.default_rng(seed).normal(0, 0.5, 18) if rule == "mono_forward" else None
    settings = {"rate": 0.1, "readout_rate": 0.05, "low": -9, "high": 9, "scale": 1.5, "wrong": wrong, "local": local}
    return Learn(rule, sample, batch, **settings | others)


def start_of(spec, seed=4):
    return np.random.default_rng(seed).normal(0, 0.5, spec.size).astype(np.float32)


def learnt(device, rule, blocks=3, updates=40):
    """What some blocks make of the parameters and class matrices, and what they cost."""
    theta, costs, local = start_of(device.spec), [], {}
    for number in range(blocks):
        (reading,) = device.execute([Program(theta), block_of(rule, updates, number=number, **local)])
        theta, local = reading.theta, {} if reading.local is None else {"local": reading.local}
        costs.append(reading.cost)
    return theta, local.get("local", np.zeros(0)), np.concatenate(costs)


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def learnt_in_numpy():
    """The same in float32, by rule."""
    wanted = {}
    for rule in RULES:
        network = messages_of(locally(rule))
        board = reference.Board(network, start_of(locally(rule)), np.zeros((1, 12), np.float32))
        costs = []
        for number in range(3):
            block = block_of(rule, 40, number=number)
            if number == 0 and block.local is not None:
                board.classes = block.local.astype(np.float32)
            rows = (array.reshape(80, -1) for array in (block.sample.x, block.sample.target))
            board.samples = np.concatenate(list(rows), axis=1).astype(np.float32)
            slots = tuple(range(0, 80, 2))
            wrong = b"" if block.wrong is None else block.wrong.tobytes()
            costs.append(board.learn(messages.Learn(Rule[rule.upper()], 2, slots, 0.1, 0.05, -9, 9, 1.5, wrong=wrong)))
        wanted[rule] = board.theta, board.classes, np.concatenate(costs)
    return wanted


def messages_of(network):
    layers = [
        messages.DenseLayer(
            layer.outputs[0], messages.Activation[layer.activation.upper()],
            normalise=messages.Normalise[layer.normalise.upper()],
        )
        for layer in network.layers
    ]  # fmt: skip
    return messages.Network(network.inputs, tuple(layers), messages.Cost.CROSS_ENTROPY, -9, 9)


class TestLocalLearning:
    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("name", [*(board for board in BOARDS if board != "atmega328p"), "stm32f405-pip"])
    def test_every_board_ends_where_numpy_does(self, name, rule, learnt_in_numpy):
        """However small its memory makes the requests."""
        board, _, route = name.partition("-")
        needs(board, route or "auto")
        device = Emulated(board, locally(rule), CrossEntropy(), route or "auto", low=-9, high=9)
        assert same(learnt(device, rule), learnt_in_numpy[rule])
        assert not {"restarts", "disagreements"} & set(device.counts()["disturbances"])
        device.close()

    @pytest.mark.parametrize("route", ["system", "pip"])
    def test_digits_in_batches_of_eight_fit_an_stm32f405(self, route):
        """784-30-10, in both of its memories."""
        needs("host")
        needs("stm32f405", route)
        random = np.random.default_rng(1)
        x = random.integers(0, 256, (1, 16, 784)) / 255 * (random.uniform(0, 1, (1, 16, 784)) < 0.2)
        labels = random.integers(0, 10, 16)
        wrong = ((labels + 1) % 10).astype(np.uint8)[None]
        block = Learn("symba", Sample(x, np.eye(10)[labels][None]), 8, 0.05, 0.05, -9, 9, 4.0, wrong=wrong)
        thetas = []
        for board, way in (("stm32f405", route), ("host", "auto")):
            network = mlp([784, 30, 10], "relu", "linear", normalise="rms")
            device = Emulated(board, network, CrossEntropy(), way, low=-9, high=9)
            theta = (0.05 * start_of(device.spec)).astype(np.float32)
            (reading,) = device.execute([Program(theta), block])
            thetas.append(reading.theta)
            device.close()
        assert np.array_equal(*thetas)
        assert (thetas[0] != theta).mean() > 0.5

    @pytest.fixture(params=RULES)
    def pupil(self, request):
        needs("host")
        device = Emulated("host", locally(request.param), CrossEntropy(), low=-9, high=9)
        device.rule = request.param
        yield device
        device.close()

    def test_what_is_held_is_not_sent_again(self, pupil):
        theta, local, _ = learnt(pupil, pupil.rule)
        before = dict(pupil.counts()["traffic"])
        pupil.execute([Program(theta)])
        pupil.execute([Program(theta.astype(np.float64))])
        assert pupil.counts()["traffic"] == before
        block = block_of(pupil.rule, 1, number=2, **{"local": local} if local.size else {})
        (reading,) = pupil.execute([Program(theta), block])
        after = pupil.counts()["traffic"]
        assert after["full writes"] == 1
        labels = 2 if pupil.rule != "mono_forward" else 0
        # two samples, LEARN, READ, DIGEST, each in a frame that begins with a zero
        assert after["bytes sent"] - before["bytes sent"] <= 2 * (56 + 16) + (30 + labels + 15) + (6 + 15) + (4 + 15)
        assert reading.theta.dtype == np.float32

    def test_the_reading_is_what_the_board_holds(self, pupil):
        theta, _, _ = learnt(pupil, pupil.rule)
        sample = block_of(pupil.rule, 3).sample
        one, other = pupil.execute([Measure(sample, observe=Can.ACTIVITY), Program(theta), Measure(sample)])
        simulated = Simulated(locally(pupil.rule), CrossEntropy(), low=-9, high=9)
        *_, wanted = simulated.execute([Program(theta.astype(float)), Measure(sample)])
        assert np.allclose(other.cost, wanted.cost, atol=1e-5)
        assert one.activity[0].shape == (1, 1, 6, 6)

    def test_in_any_company(self, pupil):
        """Blocks, ticks and parameters in one list end as they do one by one."""
        sample = block_of(pupil.rule, 1).sample
        code = Probes(Rademacher(amplitude=0.05), np.asarray(3, np.uint32), 0, 2)
        ticks = Train(sample, code, 1, 1, 1, "shared", 0.5, -8, 8)
        block, again = block_of(pupil.rule, 5), block_of(pupil.rule, 5, number=1)
        theta = start_of(pupil.spec)
        for commands in (
            [block, again, Measure(sample)],
            [block, ticks, Measure(sample)],
            [ticks, block, Measure(sample)],
            [block, Program(theta + 1), Measure(sample)],
            [ticks, Program(theta + 1), Measure(sample)],
            [block, Program(theta + 1), block, Measure(sample)],
        ):
            together = pupil.execute([Program(theta), *commands])
            held = pupil.execute([Measure(sample)])[0].cost
            pupil.execute([Program(theta)])
            alone = [reading for command in commands for reading in pupil.execute([command])]
            assert together == tuple(alone)
            assert np.array_equal(held, alone[-1].cost)

    def test_a_perturbation_that_boards_cannot_make_waits_for_the_next_step(self, pupil):
        tones = Measure(block_of(pupil.rule, 1).sample, Probes(Sinusoid(amplitude=0.1), np.asarray(3, np.uint32), 0, 2))
        theta = start_of(pupil.spec)
        with pytest.raises(LimitError, match="in the next step"):
            pupil.execute([Program(theta), block_of(pupil.rule, 1), tones])
        pupil.execute([Program(theta), block_of(pupil.rule, 1)])
        (reading,) = pupil.execute([tones])
        assert reading.cost.shape == (2,)

    @pytest.mark.parametrize("rule", RULES)
    def test_as_its_algorithm_does_with_the_host_in_the_loop(self, rule):
        needs("host")
        settings = {"eta": 0.02, "optimizer": Descent(), "start": Fan()}
        if rule == "mono_forward":
            make = partial(MonoForward, **settings)
        else:
            loss = "threshold" if rule == "forward_forward" else "symba"
            make = partial(ForwardForward, loss=loss, readout="softmax", readout_eta=0.1, **settings)
        thetas = []
        for algorithm in (make(), make(on_device=True, block=12)):
            device = Emulated("host", locally(rule, (49, 8, 8, 4)), CrossEntropy(), low=-9, high=9)
            thetas.append(trained(device, algorithm, letters7x7(4), 48).theta)
            device.close()
        assert np.allclose(*thetas, rtol=0, atol=2e-5)
        assert not np.array_equal(thetas[0], start_of(device.spec))

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("moment", ["read", "write", "wait"])
    def test_unplugged(self, rule, moment, learnt_in_numpy):
        needs("host")
        emulator = Emulator("host")
        port = Scripted(lambda: emulator.url, moment, 20)
        device = Board(Link(port, "twin"), locally(rule), CrossEntropy(), -9, 9)
        assert same(learnt(device, rule), learnt_in_numpy[rule])
        assert device.counts()["disturbances"]["lost ports"] == 1
        device.close()
        emulator.stop()

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("board", ["host", "stm32f405", "atmega2560"])
    def test_a_board_that_restarts_in_the_middle(self, rule, board, learnt_in_numpy):
        with restarting(board, locally(rule), CrossEntropy(), -9, 9) as device:
            assert same(learnt(device, rule), learnt_in_numpy[rule])

    @pytest.mark.slow
    @pytest.mark.parametrize("rule", RULES)
    def test_three_hundred_faults(self, rule):
        needs("host")
        results = []
        for limit in (0, 300):
            emulator = Emulator("host")
            faults = Faulty(
                lambda emulator=emulator: Opener(emulator.url)(),
                seed=7,
                rates={name: 0.002 if name == "reset" else 0.02 for name in FAULTS},
                limit=limit,
                reset=emulator.restart,
                stall=lambda stop, emulator=emulator: emulator.pause() if stop else emulator.resume(),
            )
            device = Board(Link(faults, "twin", timeout=0.2), locally(rule), CrossEntropy(), -9, 9)
            results.append(learnt(device, rule, blocks=60, updates=20))
            device.close()
            emulator.stop()
        assert same(*results)
        assert sum(faults.counts.values()) == 300

    def test_a_board_that_disagrees_is_asked_again(self, pupil, monkeypatch):
        """What is read is held against a checksum of the board's own."""
        wanted = learnt(pupil, pupil.rule, blocks=1)
        exchange, spoilt = pupil._link.exchange, []

        def spoil(requests, work):
            replies = exchange(requests, work)
            if not spoilt and isinstance(requests[-1], messages.Digest):
                spoilt.append(True)
                replies[-2] = bytes(len(replies[-2]))  # the last parameters
            return replies

        monkeypatch.setattr(pupil._link, "exchange", spoil)
        assert same(learnt(pupil, pupil.rule, blocks=1), wanted)
        assert spoilt
        assert pupil.counts()["disturbances"] == {"disagreements": 1}


class TestRefusals:
    def test_local_rules_where_the_network_allows_them(self):
        needs("host")
        for network in (mlp([9, 6, 3]), mlp([9, 3], output="linear")):
            device = Emulated("host", network, CrossEntropy())
            assert Can.LEARN not in device.spec.can
            device.close()

    @pytest.mark.parametrize(
        ("rule", "network", "change", "message"),
        [
            ("mono_forward", locally("symba"), {}, "the last layer takes its inputs as they are.*normalise=none"),
            ("symba", locally("symba", (3, 6, 5, 3)), {}, "label in the first 3 inputs.*the network has 3"),
            ("symba", locally("symba"), {"wrong": None}, "one wrong label of 0 to 2 for each of 4 samples"),
            ("symba", locally("symba"), {"wrong": np.full((1, 4), 3)}, "one wrong label of 0 to 2"),
            ("symba", locally("symba"), {"local": np.zeros(18)}, "class matrices of 18 numbers; .* 0 for this rule"),
            ("symba", locally("symba"), {"rate": -1e39}, "the rate .* is -1e[+]39, no finite number in the single"),
            ("mono_forward", locally("mono_forward"), {"local": None}, "matrices of 0 numbers; .* 18 for this"),
            ("mono_forward", locally("mono_forward"), {"local": np.full(18, 1e39)}, "too large for single precision"),
        ],
    )
    def test_blocks_that_a_rule_does_not_allow(self, rule, network, change, message):
        needs("host")
        device = Emulated("host", network, CrossEntropy(), low=-9, high=9)
        block = block_of(rule, 2, **change)
        if network.inputs == 3:
            block = replace(block, sample=replace(block.sample, x=block.sample.x[..., :3]))
        theta = start_of(device.spec)
        device.execute([Program(theta)])
        before = dict(device.counts()["traffic"])
        with pytest.raises(LimitError, match=message + r".*Nothing was sent\.$"):
            device.execute([Program(theta), block])
        assert device.counts()["traffic"] == before
        device.close()

    def test_blocks_too_large_for_a_board(self):
        needs("atmega2560")
        for rule, batch, message in (
            (
                "symba",
                6,
                "batches of 6 takes 306 floats of intermediate results; 'atmega2560' has room for 192.*task.batch",
            ),
            ("mono_forward", 22, "batches of 22 takes 430 floats of intermediate results"),
        ):
            device = Emulated("atmega2560", locally(rule), CrossEntropy(), low=-9, high=9)
            with pytest.raises(LimitError, match=message):
                device.execute([Program(start_of(device.spec)), block_of(rule, 1, batch=batch)])
            device.close()
        needs("host")
        device = Emulated(
            "host", locally("mono_forward"), CrossEntropy(), low=-9, high=9, arguments=["--parameters", "130"]
        )
        for batch, message in (
            (2, "takes 131 parameters with its class matrices; 'host' has room for 130"),
            (11, "takes 131 parameters"),
        ):
            with pytest.raises(LimitError, match=message):
                device.execute([Program(start_of(device.spec)), block_of("mono_forward", 1, batch=batch)])
        device.close()

    def test_local_rules_are_not_offered_where_they_are_left_out(self):
        needs("atmega328p")
        device = Emulated("atmega328p", mlp([9, 4, 3], "relu", "linear", normalise="l2"), CrossEntropy())
        assert Can.LEARN not in device.spec.can
        with pytest.raises(CapabilityError, match=r"wants LEARN; 'atmega328p' offers"):
            device.execute([Program(start_of(device.spec)), block_of("symba", 1)])
        device.close()

    def test_a_network_too_large(self):
        needs("host")
        with pytest.raises(ConfigError, match=r"takes 220 parameters.*room for 100.*network.sizes"):
            Emulated("host", mlp([49, 4, 4]), MeanSquaredError(), arguments=["--parameters", "100"])

    def test_a_block_that_does_not_fit(self, twin):
        wide = MGD(eta=1.0, perturbation=Rademacher(amplitude=0.1), tau_theta=1000, on_device=True)
        with pytest.raises(LimitError, match=r"at most 510 ticks.*algo.tau_theta"):
            trained(twin, wide, parity(2, 4), 1000)
        tones = MGD(eta=1.0, perturbation=Sinusoid(amplitude=0.1), on_device=True)
        with pytest.raises(LimitError, match=r"cannot make Sinusoid.*algo.on_device=false"):
            trained(twin, tones, parity(2, 4), 1000)
        slow = MGD(eta=1.0, perturbation=Rademacher(amplitude=0.1), tau_x=2**17, on_device=True)
        with pytest.raises(LimitError, match="65535"):
            trained(twin, slow, parity(2, 4), 1000)

    def test_on_device_needs_plain_descent(self):
        from hwtrain.optimize import Adam

        with pytest.raises(ConfigError, match="algo/optimizer=descent"):
            MGD(eta=1.0, perturbation=Rademacher(amplitude=0.1), optimizer=Adam(), on_device=True)


class TestNothingIsLost:
    @pytest.mark.parametrize("moment", ["read", "write", "wait"])
    @pytest.mark.parametrize("whole", [False, True], ids=["host", "board"])
    def test_unplugged(self, calm, moment, whole):
        emulator = Emulator("host")
        device = Board(
            Link(Scripted(lambda: emulator.url, moment, 20), "twin"), mlp([2, 2, 1]), MeanSquaredError(), -10, 10
        )
        state = trained(device, on_device(XOR) if whole else XOR, parity(2, 4), 300)
        counts = device.counts()["disturbances"]
        device.close()
        emulator.stop()
        assert counts["lost ports"] == 1
        assert np.array_equal(state.theta, calm)

    @pytest.mark.parametrize("board", ["host", "stm32f405", "atmega2560"])
    @pytest.mark.parametrize("whole", [False, True], ids=["host", "board"])
    def test_a_board_that_restarts_between_request_and_reply(self, calm, board, whole):
        with restarting(board, mlp([2, 2, 1]), MeanSquaredError(), -10, 10) as device:
            state = trained(device, on_device(XOR) if whole else XOR, parity(2, 4), 300)
        assert np.array_equal(state.theta, calm)

    @pytest.mark.parametrize("whole", [False, True], ids=["host", "board"])
    def test_a_board_that_is_found_restarted_when_it_is_to_rest(self, twin, whole):
        """It has lost what it held, and is given it again."""
        sample = parity(2, 4).sample(np.zeros((), np.uint32), 0)
        trained(twin, on_device(XOR) if whole else XOR, parity(2, 4), 50)
        (before,) = twin.execute([Measure(sample)])
        twin._link.exchange([messages.Reset()], [0.0])
        twin.rest()
        assert twin.execute([Measure(sample)]) == (before,)

    @pytest.mark.parametrize("last", [False, True], ids=["in between", "at the end"])
    def test_a_full_disk_ends_the_transcript_and_no_more(self, tmp_path, last):
        """The board is told to rest all the same, and an emulator ends."""
        needs("host")
        device = Emulated("host", mlp([2, 2, 1]), MeanSquaredError(), transcript=str(tmp_path / "bench.jsonl"))
        command = Measure(parity(2, 4).sample(np.zeros((), np.uint32), 0))
        device.execute([command])
        device._link._connect._file = open("/dev/full", "w", buffering=1)
        with pytest.raises(RecordError, match="ends here: No space left"):
            device.close() if last else device.execute([command])
        if not last:
            device.rest()
            assert "rests not heard" not in device.counts()["disturbances"]
            device.close()
        assert device.emulator._process.returncode is not None

    def test_steps_without_a_target(self, twin):
        sample = Sample(np.zeros((2, 1, 2)), np.array([0.0, np.nan]).reshape(2, 1, 1))
        with pytest.raises(LimitError, match=r"steps without a target are for .* \(network=snu\)\. Nothing was sent"):
            twin.execute([Measure(sample)])

    def test_a_refused_command_takes_nothing_back_of_what_the_board_trained(self, twin):
        sample = parity(2, 4).sample(np.zeros((), np.uint32), 0)
        theta = trained(twin, on_device(XOR), parity(2, 4), 100).theta
        with pytest.raises(LimitError, match=r"not finite in single precision\. Nothing was sent"):
            twin.execute([Program(np.ones(9)), Measure(replace(sample, x=np.full(sample.x.shape, 1e39)))])
        (after,) = twin.execute([Measure(sample)])
        assert twin.execute([Program(theta), Measure(sample)]) == (after,)

    @pytest.mark.slow
    def test_a_thousand_faults(self):
        """As `python benchmarks/faults.py 10000`, which takes minutes."""
        needs("host")
        results = []
        for limit in (0, 1000):
            emulator = Emulator("host")
            faults = Faulty(
                lambda emulator=emulator: Opener(emulator.url)(),
                seed=7,
                rates={name: 0.003 if name == "reset" else 0.03 for name in FAULTS},
                limit=limit,
                reset=emulator.restart,
                stall=lambda stop, emulator=emulator: emulator.pause() if stop else emulator.resume(),
            )
            device = Board(Link(faults, "twin", timeout=0.2), mlp([2, 2, 1]), MeanSquaredError(), -10, 10)
            results.append(trained(device, XOR, parity(2, 4), 3000).theta)
            device.close()
            emulator.stop()
        assert np.array_equal(*results)
        assert set(faults.counts) == set(FAULTS)
        assert sum(faults.counts.values()) == 1000

    @pytest.mark.slow
    @pytest.mark.parametrize("whole", ["false", "true"], ids=["host", "board"])
    def test_host_killed_ten_times(self, tmp_path, whole):
        """SIGKILL at ten random moments; the board lives on, and is taken over by the next host."""
        words = (
            "task=xor", "device=serial", f"algo.on_device={whole}", "algo.probes=50",
            f"budget.steps={80000 if whole == 'true' else 12000}",
            "evaluate.every=500", "recorder.every=100", "recorder.checkpoint_seconds=0", "recorder.report=false",
        )  # fmt: skip
        killed_as_calm(tmp_path, words)
