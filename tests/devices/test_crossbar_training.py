"""Training by the crossbar controller itself: the rule, its pulses, its limits, and what a bad line makes of it."""

import contextlib
import dataclasses
import time

import numpy as np
import pytest
import pyvisa

from hwtrain import checkpoint
from hwtrain.conformance import DeviceConformance
from hwtrain.core import Can, Learn, Measure, Probes, Program, Read, Sample, Train
from hwtrain.costs import CrossEntropy
from hwtrain.devices import messages
from hwtrain.devices.crossbar import EmulatedCrossbar, crossbar
from hwtrain.devices.messages import Activation, Bias, Code, DenseLayer
from hwtrain.emulators import Emulator
from hwtrain.errors import CapabilityError, ConfigError, DeviceError, LimitError
from hwtrain.perturb import Antithetic, Rademacher, Sequential, Walsh
from hwtrain.sim.networks import mlp
from tests.devices.test_crossbar import IDEAL, SOFT, STEPS, Proxy, client, facts
from tests.emulators.conftest import needs
from tests.firmware import reference

NETWORK = mlp([5, 6, 4, 3], activation="relu", output="linear")
f32 = np.float32


@pytest.fixture
def make():
    made = []

    def call(board="host", model=SOFT, programming="mixed_precision", **settings):
        needs(board, "system")
        where = {} if "resource" in settings else {"board": board}
        settings = {"instrument": facts(), "network": NETWORK, "cost": CrossEntropy(), "seed": 5} | where | settings
        made.append(crossbar(programming, model=model, **settings))
        return made[-1]

    yield call
    for each in made:
        each.close()


@pytest.fixture(params=["host", "stm32f405"])
def inst(request):
    """The controller as any SCPI client sees it, with two layers on its tiles."""
    with client(request.param) as opened:
        opened.write("*CLS;*RST;:MOD:TIL 3,4,5,2;:MOD:CELL 1,0,0.01,0,0,0,0,1,0,-1,0,2e-5;:OUTP ON")
        opened.write(":XBAR:NETW 2e-5,0.2,0.01,1,3,0,0,0")
        yield opened


def samples(count, inputs=5, outputs=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.random((1, count, inputs)) * 1.5
    return Sample(x, np.eye(outputs)[rng.integers(outputs, size=(1, count))])


def lesson(updates=6, batch=3, network=NETWORK, **more):
    inputs, outputs = network.inputs, network.outputs
    q = sum(layer.outputs[0] for layer in network.layers[:-2]) * outputs
    local = np.random.default_rng(2).normal(0, 0.5, q).astype(f32)
    block = {"rule": "mono_forward", "batch": batch, "rate": 0.3, "readout_rate": 0.2, "low": -0.9, "high": 0.9}
    return Learn(**block | {"sample": samples(updates * batch, inputs, outputs), "local": local} | more)


def begin(size, seed=1):
    return np.random.default_rng(seed).uniform(-0.6, 0.6, size).astype(f32)


def counts(device):
    """Pulses of every cell, as the controller counts them."""
    return device._trainable._worn()


class Looped(reference.Board):
    """The host in the loop: it asks for products and gives pulses, cell by cell, and computes the rule in float32."""

    def __init__(self, device, network, theta, classes):
        described = messages.Network(
            network.inputs,
            tuple(
                DenseLayer(layer.outputs[0], Activation[layer.activation.upper()], Bias[layer.bias.upper()])
                for layer in network.layers
            ),
            messages.Cost.CROSS_ENTROPY,
        )
        super().__init__(described, theta.copy(), np.zeros((1, 1), f32), classes.copy())
        self.device = device
        self.held = np.zeros(len(theta), f32)

    @property
    def update_kind(self):
        return LoopedUpdate

    def pay(self, step):
        missing = np.trunc((self.theta - self.held) / f32(step)).astype(int)
        self.device._give(missing)
        self.held = self.held + missing.astype(f32) * f32(step)

    def forward(self, x, moves=None, amplitude=0):
        activity, update = [], LoopedUpdate.__new__(LoopedUpdate)
        update.board, update.layers = self, self.network.layers
        for number in range(len(self.network.layers)):
            x, _ = update.passed(number, x)
            activity.append(x)
        return activity

    def measure(self, slot, batch=1, moves=None, amplitude=0.0):
        pulses = 0 if moves is None else round(amplitude / self.device.spec.step) * moves.astype(int)
        self.device._give(np.broadcast_to(pulses, self.theta.shape))
        cost = super().measure(slot, batch)
        self.device._give(np.broadcast_to(-pulses, self.theta.shape))
        return cost

    def update(self, *arguments):
        super().update(*arguments)
        self.pay(self.device.spec.step)


class LoopedUpdate(reference.LocalUpdate):
    def passed(self, number, x):
        device, layer = self.board.device, self.layers[number]
        siemens, volts = f32(device._scale), f32(device._read_volts)
        most = max(np.abs(x).max(), f32(1))
        bias = volts / most if layer.bias == Bias.ADD else -volts / most
        rows = np.clip(np.append(x / most * volts, bias), -volts, volts).astype(">f4")
        unit = device._facts.multiply.format(tile=number, block=f"#3{rows.nbytes:03}{rows.tobytes().decode('latin-1')}")
        ampere = device._persistently(lambda: device._numbers([unit], layer.outputs))
        return reference.ACTIVATIONS[layer.activation](ampere * (most / (volts * siemens))), f32(1)


class TestMonoForward:
    @pytest.mark.parametrize("board", ["host", "stm32f405"])
    @pytest.mark.parametrize(
        "network",
        [
            NETWORK,
            mlp([5, 6, 4, 3], activation="tanh", output="linear", bias="subtract"),
            mlp([4, 7, 2], "sigmoid", "linear"),
        ],
        ids=["relu", "tanh, biases subtracted", "one hidden layer"],
    )
    def test_gives_every_cell_the_pulses_of_a_host_in_the_loop(self, make, board, network):
        """Which asks for each product, and computes with the firmware's order of operations."""
        own = make(board, network=network)
        looped = make(board, network=network, programming=None)
        theta, block = begin(network.size), lesson(network=network)
        _, reading = own.execute([Program(theta), Read(), block])
        host = Looped(looped, network, theta, block.local)
        host.pay(looped.spec.step)
        rows = np.concatenate([block.sample.x, block.sample.target], axis=-1)[0].astype(f32)
        costs = []
        for update in range(block.updates):
            host.samples = rows[update * block.batch : (update + 1) * block.batch]
            part = messages.Learn(
                messages.Rule.MONO_FORWARD, block.batch, [0], block.rate, block.readout_rate, block.low, block.high
            )
            costs.append(host.learn(part)[0])
            host.pay(looped.spec.step)
        given = counts(own)
        assert given.sum() > 1000 and np.array_equal(given, looped._worn())
        assert np.array_equal(reading.theta, host.theta)
        assert np.array_equal(reading.local, host.classes)
        assert np.array_equal(reading.cost, np.array(costs, f32))
        assert own.execute([Read()])[0] == looped.execute([Read()])[0]

    def test_host_and_microcontroller_agree_on_every_bit(self, make):
        devices = [make(board, model=STEPS) for board in ("host", "stm32f405")]
        commands = [Program(begin(NETWORK.size)), lesson(12), lesson(12, rate=0.1), Read()]
        one, other = (device.execute(commands) for device in devices)
        assert one == other
        assert np.array_equal(*map(counts, devices))

    def test_blocks_in_parts_are_blocks_at_once(self, make):
        """Of messages, since one holds 16 000 bytes, and of commands, between which nothing is sent but samples."""
        whole, parts = make(), make()
        block = lesson(600)
        (at_once,) = whole.execute([Program(begin(NETWORK.size)), block])
        parts.execute([Program(begin(NETWORK.size))])
        local, theta = block.local, begin(NETWORK.size)
        for at in range(0, 600, 200):
            x, target = (array[:, 3 * at : 3 * (at + 200)] for array in (block.sample.x, block.sample.target))
            (reading,) = parts.execute([Program(theta), lesson(sample=Sample(x, target), local=local)])
            theta, local = reading.theta, reading.local
        assert np.array_equal(theta, at_once.theta) and np.array_equal(local, at_once.local)
        assert np.array_equal(counts(whole), counts(parts))
        traffic = parts.counts()["traffic"]
        assert traffic["bytes sent"] < 1.25 * 4 * block.sample.x.size * 8 / 5

    def test_blocks_are_shorter_than_the_watchdog_is_patient(self, make):
        """So that work is not taken for silence: here for an update in each message."""
        calm, anxious = make(), make(watchdog=0.1)
        commands = [Program(begin(NETWORK.size)), lesson(40), ticks(64)]
        assert calm.execute(commands) == anxious.execute(commands)
        messages = [device.counts()["traffic"]["messages"] for device in (calm, anxious)]
        assert messages[1] - messages[0] >= 39 + 15

    def test_values_and_blocks_take_turns(self, make):
        """What the controller has left is where the host goes on, and the other way round."""
        device = make(model=IDEAL)
        (learnt,) = device.execute([Program(begin(NETWORK.size)), lesson()])
        theta = begin(NETWORK.size, 3)
        (read,) = device.execute([Program(theta), Read()])
        assert np.abs(read.theta - theta).max() <= 1.001 * IDEAL.step
        (again, read) = device.execute([lesson(local=learnt.local), Read()])
        assert np.abs(read.theta - again.theta).max() <= 1.001 * IDEAL.step
        assert device.pulses.sum() == counts(device).sum()

    def test_other_rules_and_what_there_is_no_room_for_are_refused_before_the_wire(self, make):
        device = make()
        device.execute([Program(begin(NETWORK.size))])
        sent = device.counts()["traffic"]["messages"]
        wrong = lesson().sample.target.argmax(axis=-1)
        with pytest.raises(CapabilityError, match="learns by mono_forward by itself, not by forward_forward"):
            device.execute([lesson(rule="forward_forward", wrong=(wrong + 1) % 3)])
        with pytest.raises(LimitError, match="bytes; a message to 'crossbar' has room for 15600"):
            device.execute([lesson(1, 500)])
        with pytest.raises(LimitError, match="class matrices of 0 numbers; this network's have 18"):
            device.execute([lesson(local=None)])
        with pytest.raises(LimitError, match="is not finite in single precision"):
            device.execute([lesson(rate=1e39)])
        assert device.counts()["traffic"]["messages"] == sent

    @pytest.mark.parametrize("programming", ["open_loop", "write_verify", "controller"])
    def test_is_offered_with_the_scheme_that_the_firmware_has(self, make, programming):
        assert Can.LEARN not in make(programming=programming).spec.can

    def test_is_not_offered_where_the_network_is_none_for_it(self, make):
        assert Can.LEARN in make().spec.can
        assert Can.LEARN not in make(network=mlp([5, 4, 3])).spec.can  # ends in a sigmoid

    def test_a_line_that_fails_makes_no_difference(self, make):
        calm = make()
        emulator = Emulator("host", "system", program="crossbar")
        proxy = Proxy(int(emulator.url.rsplit(":", 1)[1]), 3, 0.1)
        rough = make(resource=proxy.resource, timeout=0.08, patience=30.0)
        theta, local = begin(NETWORK.size), lesson().local
        for number in range(12):
            block = lesson(100, sample=samples(300, seed=number), local=local)
            readings = [device.execute([Program(theta), block]) for device in (calm, rough)]
            assert readings[0] == readings[1]
            theta, local = readings[0][0].theta, readings[0][0].local
        assert np.array_equal(counts(calm), counts(rough)) and proxy.struck > 10
        rough.close()
        proxy.close()
        emulator.stop()

    def test_a_limit_of_pulses_stops_a_block(self, make):
        device = make(model=IDEAL, most_pulses=650)
        with pytest.raises(DeviceError, match=r"101.*A cell has had its pulses") as stopped:
            device.execute([Program(begin(NETWORK.size)), lesson(200)])
        assert "Start a run with more" in stopped.value.__notes__[0]
        assert 600 < counts(device).max() <= 650

    def test_a_block_that_stopped_is_told_though_its_answer_is_lost(self, make, monkeypatch):
        """The next answer has fewer results, and the reason has not been asked for yet."""
        device = make(model=IDEAL, most_pulses=650)
        device.execute([Program(begin(NETWORK.size))])
        talk = device._trainable._talk
        say, answers, asked, lost = talk._say, talk._answers, [], []

        def losing(wire, wanted, block, until):
            got = answers(wire, wanted, block, until)
            if asked[-1].startswith(":XBAR:ONCE") and not lost:
                lost.append(got)
                return None
            return got

        def noting(wire, units):
            asked.append("".join(units[:1]))
            return say(wire, units)

        with monkeypatch.context() as patch:
            for name, function in {"_answers": losing, "_say": noting}.items():
                patch.setattr(type(talk), name, staticmethod(function))
            with pytest.raises(
                DeviceError, match=r"stopped a block .* of \d+ results stand. It notes: 101,"
            ) as stopped:
                device.execute([lesson(200)])
        assert len(lost) == 1 and "Start a run with more" in stopped.value.__notes__[0]

    def test_an_older_controller_is_one_that_does_not_train(self, make):
        """It does not know the question, says so at once, and goes on as before."""
        device = make(instrument=dataclasses.replace(facts(), options=":XBAR:OPTions?"))
        assert not device.spec.can & (Can.LEARN | Can.TRAIN)
        assert "repeated" not in device.counts()["disturbances"]
        device.execute([Program(begin(NETWORK.size)), Read()])


def ticks(count=24, tau_theta=4, batch=2, tau_x=4, baseline="shared", amplitude=0.05, rate=0.4, **code):
    """A block of gradient descent."""
    first = code.pop("first", 0)
    probes = Probes(code.pop("formula", Rademacher(amplitude=amplitude)), np.uint32(9), first, count, **code)
    shown = (first + count - 1) // tau_x - first // tau_x + 1
    return Train(samples(batch * shown), probes, tau_x, tau_theta, batch, baseline, rate, -0.9, 0.9)


class TestGradientDescent:
    @pytest.mark.parametrize("board", ["host", "stm32f405"])
    def test_pulses_there_and_back_are_those_of_a_host_in_the_loop(self, make, board):
        """Products and pulses asked for one by one, and the firmware's order of operations: the same bits."""
        own = make(board, model=STEPS, perturb_by="pulses")
        looped = make(board, model=STEPS, programming=None)
        theta, block = begin(NETWORK.size), ticks(amplitude=5 * STEPS.step)
        _, reading = own.execute([Program(theta), Read(), block])
        host = Looped(looped, NETWORK, theta, np.zeros(18, f32))
        host.pay(looped.spec.step)
        host.samples = np.concatenate([block.sample.x, block.sample.target], axis=-1)[0].astype(f32)
        trace = host.train(
            messages.Train(
                Code(9, 5 * STEPS.step), 0, 24, [2 * k for k in range(6)], block.rate, block.low, block.high, 4, 4, 2,
                messages.Baseline.SHARED,
            )
        )  # fmt: skip
        given = counts(own)
        assert given.sum() > 24 * 2 * 5 * NETWORK.size and np.array_equal(given, looped._worn())
        assert np.array_equal(np.stack([reading.baseline, reading.modulation], axis=-1), trace)
        assert np.array_equal(own._target, host.theta)
        assert own.execute([Read()])[0] == looped.execute([Read()])[0]

    def test_host_and_microcontroller_agree_on_every_bit(self, make):
        devices = [make(board, model=STEPS) for board in ("host", "stm32f405")]
        commands = [Program(begin(NETWORK.size)), ticks(), ticks(first=24, hold=2, baseline="fresh"), Read()]
        one, other = (device.execute(commands) for device in devices)
        assert one == other
        assert np.array_equal(*map(counts, devices))

    @pytest.mark.parametrize(
        "formula", [Rademacher(amplitude=0.05), Antithetic(Walsh(amplitude=0.05))], ids=["random", "Walsh"]
    )
    def test_the_actuator_moves_cells_as_the_host_would_have_it(self, make, formula):
        """The host adds to the currents what perturbed cells would; and it can say which wishes came of it."""
        device = make(model=IDEAL)
        theta = begin(NETWORK.size)
        block = ticks(8, 8, tau_x=8, formula=formula)
        plain = Measure(block.sample)
        *_, before, wanted, after_none = device.execute(
            [Program(theta), plain, Measure(block.sample, block.probes), plain]
        )
        (reading,) = device.execute([block])
        assert np.allclose(reading.baseline, before.cost, rtol=0, atol=1e-6)
        assert np.allclose(reading.baseline + reading.modulation, wanted.cost, rtol=0, atol=1e-6)
        assert np.abs(reading.modulation).min() > 1e-4 and before == after_none
        (change,) = block.changes(reading.modulation)
        assert np.array_equal(device._target, change(theta))

    def test_a_perturbation_leaves_no_trace(self, make):
        device = make(model=STEPS)
        device.execute([Program(begin(NETWORK.size))])
        (before,), worn = device.execute([Read()]), counts(device)
        (_, after) = device.execute([ticks(rate=0.0), Read()])
        assert before == after and np.array_equal(worn, counts(device))

    def test_what_there_is_not_is_refused_before_the_wire(self, make):
        device = make(model=STEPS, perturb_by="pulses")
        device.execute([Program(begin(NETWORK.size))])
        sent = device.counts()["traffic"]["messages"]
        with pytest.raises(LimitError, match=r"pulses of 0.0019, not by 0.005. Set algo.perturbation.amplitude=0.0057"):
            device.execute([ticks(amplitude=0.005)])
        with pytest.raises(LimitError, match=r"moves parameters by at most 0.05 without pulses, not by 0.06"):
            make(scale=4e-4).execute([ticks(amplitude=0.06)])
        with pytest.raises(LimitError, match="cannot make Sequential perturbations by itself"):
            device.execute([ticks(formula=Sequential(amplitude=5 * STEPS.step))])
        with pytest.raises(LimitError, match=r"algo.tau_theta=65536: 'crossbar' counts to 65535"):
            device.execute([ticks(65536, 65536, tau_x=65536, amplitude=STEPS.step)])
        with pytest.raises(
            LimitError, match="samples of a presentation of 16000 bytes; a message to 'crossbar' has room"
        ):
            device.execute([ticks(batch=500, amplitude=STEPS.step)])
        assert device.counts()["traffic"]["messages"] == sent
        smoothed = make(cost=CrossEntropy(smoothing=0.1))
        assert Can.TRAIN not in smoothed.spec.can and Can.LEARN in smoothed.spec.can

    def test_single_precision_goes_with_what_trains_by_itself(self, make):
        assert make(precision="single").spec.precision == "single" and make().spec.precision == "double"
        with pytest.raises(
            ConfigError, match=r"device.precision=single: it goes with device.programming=mixed_precision"
        ):
            make(precision="single", programming="open_loop")

    @pytest.mark.parametrize("setting", [{"volts": 4.0}, {"read_volts": 0.31}, {"width": 1.0}], ids=repr)
    def test_a_setting_beyond_the_board_is_said(self, make, setting):
        with pytest.raises(DeviceError, match="-222,") as refused:
            make(**setting)
        assert "device.volts, width, read_volts" in refused.value.__notes__[0]

    def test_without_an_actuator_it_takes_pulses(self, make):
        device = make(model=STEPS, arguments=["--no-actuator"])
        device.execute([Program(begin(NETWORK.size))])
        before = counts(device)
        device.execute([ticks(4, amplitude=STEPS.step, rate=0.0)])
        assert np.array_equal(counts(device) - before, np.full(NETWORK.size, 8))
        with pytest.raises(ConfigError, match="has no actuator beside its pulses"):
            make(arguments=["--no-actuator"], perturb_by="actuator")

    def test_a_line_that_fails_makes_no_difference(self, make):
        calm = make(perturb_by="pulses")
        emulator = Emulator("host", "system", program="crossbar")
        proxy = Proxy(int(emulator.url.rsplit(":", 1)[1]), 4, 0.1)
        rough = make(resource=proxy.resource, timeout=0.08, patience=30.0, perturb_by="pulses")
        blocks = [ticks(512, amplitude=2 * SOFT.step, rate=0.05, first=512 * number) for number in range(4)]
        for block in blocks:
            readings = [device.execute([block]) for device in (calm, rough)]
            assert readings[0] == readings[1]
        assert np.array_equal(counts(calm), counts(rough)) and proxy.struck > 3
        rough.close()
        proxy.close()
        emulator.stop()


class TestByItself(DeviceConformance):
    """The kit, with blocks of local learning, within what a step is worth."""

    @pytest.fixture
    def device(self, make):
        return make(model=IDEAL, precision="single")

    @pytest.fixture
    def allowance(self):
        return 4e-3

    @pytest.fixture
    def amplitude(self):
        return 0.05


def block(*rows):
    data = np.array(rows, ">f4").tobytes()
    return f"#{len(str(len(data)))}{len(data)}".encode() + data


ROWS = [[0.5, 1.0, 1, 0], [1.0, 0.2, 0, 1], [0.1, 0.9, 1, 0], [0.7, 0.3, 0, 1]]
WISH = np.linspace(-0.5, 0.5, 22)
LEARN = b":XBAR:LEAR 1.5,1e-6,0.5,0.5,-1,1,2,"
TRAIN = b":XBAR:TRA 1.5,1e-6,0,7,0,1,0.01,0,4,2,2,2,1,0.5,-1,1,"


def said(inst, *parts):
    inst.write_raw(b"".join(part if isinstance(part, bytes) else part.encode() for part in parts) + b"\n")


def floats(inst, question):
    return inst.query_binary_values(question, datatype="f", is_big_endian=True)


def error(inst):
    return inst.query("SYST:ERR?")


class TestCommands:
    """SCPI.md, "Training"."""

    def test_it_says_what_it_can(self, inst):
        assert "LEARN" in inst.query("*OPT?").split(",")

    def test_a_network_is_told_and_asked_for(self, inst):
        found = inst.query("XBAR:NETW?").split(",")
        assert np.allclose([float(word) for word in found], [2e-5, 0.2, 0.01, 1, 3, 0, 0, 0])
        said(inst, ":XBAR:NETW:WISH ", block(WISH))
        wished = floats(inst, "XBAR:NETW:WISH?")
        assert np.array_equal(wished, WISH.astype(f32))
        held = floats(inst, "XBAR:NETW:HELD?")
        assert held == [0.0] * 22
        inst.write(":MOD:TIL 3,4,5,2")
        assert inst.query("XBAR:NETW?;:SYST:ERR?").startswith("-221,")

    @pytest.mark.parametrize(
        ("message", "code"),
        [
            (b":XBAR:NETW 2e-5,0.2,0.01,1,3,0,0", -109), (b":XBAR:NETW 2e-5,0.2,0.01,1,4,0,0,0", -222),
            (b":XBAR:NETW 2e-5,0.31,0.01,1,3,0,0,0", -222), (b":XBAR:NETW 2e-5,0.2,0,1,3,0,0,0", -222),
            (b":XBAR:NETW 2e-5,0.2,0.01,1,3,0,0,0,0,0", -108),
            (b":MOD:TIL 3,4,4,2;:XBAR:NETW 2e-5,0.2,0.01,1,3,0,0,0", -221),
            (b":XBAR:NETW:WISH " + block([0.0] * 21), -224), (b":XBAR:NETW:HELD " + block([np.nan] * 22), -222),
            (LEARN + block(*ROWS[:3]), -224), (LEARN + block(ROWS[0], [1, np.inf, 0, 1]), -222),
            (b":XBAR:LEAR 3.1,1e-6,0.5,0.5,-1,1,2," + block(*ROWS), -222),
            (b":XBAR:LEAR 1.5,1,0.5,0.5,-1,1,2," + block(*ROWS), -222),
            (b":XBAR:LEAR 1.5,1e-6,1e39,0.5,-1,1,2," + block(*ROWS), -222),
            (b":XBAR:LEAR 1.5,1e-6,0.5,0.5,1,-1,2," + block(*ROWS), -222),
            (b":XBAR:LIM:READ 0.1;:XBAR:LEAR 1.5,1e-6,0.5,0.5,-1,1,2," + block(*ROWS), -222),
            (b":XBAR:NETW 2e-5,0.2,0.01,1,3,0,3,0;" + LEARN + block(*ROWS), -221),
            (b":OUTP OFF;" + LEARN + block(*ROWS), -221),
            (b":OUTP OFF;" + TRAIN + block(*ROWS), -221), (TRAIN + block(*ROWS[:2]), -224),
            (TRAIN.replace(b",0.01,", b",2,") + block(*ROWS), -222),
            (TRAIN.replace(b",0,7,0,", b",0,7,3,") + block(*ROWS), -222),
            (TRAIN.replace(b",0.01,0,", b",0.01,1,") + block(*ROWS), -224),
            (TRAIN.replace(b"1.5,", b"3.1,") + block(*ROWS), -222),
            (TRAIN + block(*ROWS[:3], [0, 1, 0, np.nan]), -222), (b":MOD:TIL 3,4,5,2;" + TRAIN + block(*ROWS), -221),
            (b":XBAR:LIM:MOVE 1e-7;" + TRAIN + block(*ROWS), -222), (b":XBAR:LIM:MOVE 3e-5", -222),
            (b":XBAR:LIM:PULS 3;" + TRAIN.replace(b",0,7,0,", b",2,7,0,") + block(*ROWS), 101),
        ],
    )  # fmt: skip
    def test_each_mistake_has_its_number_and_touches_nothing(self, inst, message, code):
        said(inst, ":XBAR:NETW:WISH ", block(WISH))
        before = inst.query("XBAR:COUN?")
        said(inst, message)
        assert error(inst).startswith(f"{code},")
        assert inst.query("XBAR:COUN?") == before

    def test_what_takes_more_memory_than_there_is_is_refused(self, inst):
        """An update from 900 samples takes 12 608 floats beside the wishes: the host has them, the board 6144."""
        said(inst, ":XBAR:NETW:WISH ", block(WISH))
        said(inst, LEARN.replace(b",2,", b",900,"), block(*ROWS * 225))
        has = "host" in inst.query("*IDN?")
        assert error(inst) == ('0,"No error"' if has else '-223,"Too much data"')
        assert inst.query("XBAR:LEAR?;:XBAR:COUN?").startswith("1," if has else "0,0;0,0,0")

    def test_work_that_was_done_is_not_done_again(self, inst):
        answers = []
        said(inst, ":XBAR:NETW:WISH ", block(WISH))
        for _ in range(2):
            said(inst, ":XBAR:ONCE 3;", LEARN, block(*ROWS))
            costs = floats(inst, "XBAR:LEAR:COST?")
            answers.append((costs, inst.query("XBAR:LEAR?;:XBAR:COUN?"), floats(inst, "XBAR:NETW:WISH?")))
        assert answers[0] == answers[1] and len(answers[0][0]) == 2
        updates, pulses = map(int, answers[0][1].split(";")[0].split(","))
        assert updates == 2 and pulses == int(answers[0][1].split(";")[1].split(",")[0]) > 400

    def test_nothing_stands_for_work_that_was_refused(self, inst):
        """Its answer may be lost, and what is asked again must not be answered with the results of the work before."""
        said(inst, ":XBAR:NETW:WISH ", block(WISH), ";:XBAR:ONCE 3;", TRAIN, block(*ROWS))
        assert len(floats(inst, "XBAR:TRA:COST?")) == 8
        again = TRAIN.replace(b",0,7,0,", b",2,7,0,") + block(*ROWS)
        for number in (4, 4):
            said(inst, f":XBAR:LIM:PULS 3;:XBAR:ONCE {number};", again)
            assert floats(inst, "XBAR:TRA:COST?") == []
        assert error(inst).startswith("101,") and error(inst).startswith("0,")

    def test_layers_that_amplify_beyond_any_number_drive_nothing(self, inst):
        """After three of them, each by 1e15, no voltage stands for what comes out."""
        inst.write(":MOD:TIL 3,3,4,3,4,3,4,2;:MOD:CELL 1,0,0.5,0,0,0,0,1,0,-1,0,1;:OUTP ON")
        inst.write(";".join(f":XBAR:PULS {tile},{row},{column},1.5,1e-6" for tile, row, column in np.ndindex(4, 2, 2)))
        inst.write(":XBAR:NETW 1e-12,1e-3,1,0,0,0,0,0,0,0,0,0")
        said(inst, ":XBAR:LEAR 1.5,1e-6,1,1,-1,1,1,", block([1, 1, 1, 0]))
        assert error(inst).startswith("-300,")
        assert inst.query("XBAR:LEAR?;:MOD:DRIV?") == "0,0;1,0"

    def test_a_cell_that_has_had_its_pulses_stops_an_update_as_a_whole(self, inst):
        said(inst, ":XBAR:LIM:PULS 50;:XBAR:NETW:WISH ", block(WISH))
        said(inst, LEARN, block(*ROWS * 50))
        assert error(inst) == '101,"A cell has had its pulses"'
        updates, pulses = map(int, inst.query("XBAR:LEAR?").split(","))
        total, most, _ = map(int, inst.query("XBAR:COUN?").split(","))
        assert 0 < updates < 100 and total == pulses and most <= 50
        held = floats(inst, "XBAR:NETW:HELD?")
        read = floats(inst, "XBAR:READ:ARR?")
        assert np.allclose(np.array(read) / 2e-5, held, rtol=0, atol=1e-5)  # cells without spread: no pulse is missing

    def test_a_reading_at_the_end_of_the_converter_gives_no_pulse(self, inst):
        said(inst, ":XBAR:NETW:WISH ", block(WISH), b";:XBAR:NETW:HELD ", block(WISH))
        inst.write(":XBAR:PULS 0,0,0,1.5,1e-6,100;:MOD:CONV 1e-9,1e-6")
        said(inst, LEARN, block(*ROWS))
        assert error(inst).startswith("-300,")
        assert inst.query("XBAR:LEAR?;:XBAR:COUN?").startswith("0,0;100,100,")
        wished = floats(inst, "XBAR:NETW:WISH?")
        assert np.array_equal(wished, WISH.astype(f32))

    def test_a_message_that_is_cut_short_is_forgotten(self, inst):
        """What is said after a pause is not taken for the rest of the block."""
        said(inst, ":XBAR:NETW:WISH ", block(WISH))
        whole = LEARN + block(*ROWS)
        inst.write_raw(whole[:-60])
        for pause in (1.0, 2.0, 4.0, 8.0):  # each question begins the pause anew; on a busy machine QEMU loses ticks
            time.sleep(pause)
            inst.write_raw(b"*IDN?\n")
            with contextlib.suppress(pyvisa.errors.VisaIOError):
                answer = inst.read()
                break
        assert answer.startswith("hwtrain,crossbar")
        assert error(inst) == '-161,"Invalid block data"'
        assert inst.query("XBAR:COUN?") == "0,0,0"

    @pytest.mark.parametrize("pulses", [b"0", b"3"], ids=["actuator", "pulses"])
    def test_a_perturbation_is_taken_back_where_its_reading_fails(self, inst, pulses):
        """The first column takes 0.4 uA, 0.12 or 0.36 more or less under the perturbation; the converter takes 0.41."""
        said(inst, ":XBAR:NETW:WISH ", block(WISH))
        inst.write(":XBAR:PULS 0,0,0,1.5,1e-6,10")
        before = floats(inst, "XBAR:READ:ARR?")
        inst.write(":MOD:CONV 1e-9,4.1e-7")
        row = [1.0, 1.0, 1, 0]
        said(inst, TRAIN.replace(b",0,7,0,1,0.01,", b"," + pulses + b",7,0,1,0.03,") + block(row, row, row, row))
        assert error(inst).startswith("-300,")
        assert inst.query("XBAR:TRA?").split(",")[0] == "0" and len(floats(inst, "XBAR:TRA:COST?")) < 4
        inst.write(":MOD:CONV 0,1")
        assert np.allclose(floats(inst, "XBAR:READ:ARR?"), before, rtol=0, atol=1e-20)  # sums of steps round

    def test_the_watchdog_acts_while_the_controller_works(self, inst):
        said(inst, ":XBAR:NETW:WISH ", block(WISH))
        updates = 6000 if "host" in inst.query("*IDN?") else 400
        said(inst, ":XBAR:WATC 0.001;:OUTP ON;", LEARN, block(*ROWS * (updates // 2)))
        assert error(inst) == '102,"The watchdog has switched off"'
        assert inst.query("OUTP?;:MOD:DRIV?;:STAT:QUES?") == "0;0,0;512"
        assert int(inst.query("XBAR:LEAR?").split(",")[0]) < updates

    def test_and_while_it_gives_the_pulses_of_one_update(self, inst):
        """Cells that have had theirs are held to hold them; the others have had none."""
        inst.write(":MOD:CELL 1,0,0.01,0,0.1,0,0,1,0,-1,0,2e-5")
        said(inst, ":XBAR:NETW:WISH ", block(np.full(22, 1e4)))
        said(inst, ":XBAR:WATC 0.02;:OUTP ON;:XBAR:LEAR 1.5,1e-6,0,0,-1e4,1e4,2,", block(*ROWS[:2]))
        assert error(inst).startswith("102,")
        updates, pulses = map(int, inst.query("XBAR:LEAR?").split(","))
        cells = pulses // 32767
        assert updates == 0 and pulses == 32767 * cells and cells < 22
        held = floats(inst, "XBAR:NETW:HELD?")
        assert np.allclose(held, [327.67] * cells + [0.0] * (22 - cells), rtol=1e-6, atol=0)


class TestFrontDoor:
    WORDS = ("task=letters7x7", "algo=mono_forward", "algo/optimizer=descent", "algo.eta=0.2", "recorder.report=false")

    def trained(self, hwtrain, folder, *words):
        answer = hwtrain(*self.WORDS, f"hydra.run.dir={folder}", "device=emulated_crossbar", *words)
        assert answer.code == 0, answer.err
        return answer, checkpoint.load(folder)

    def test_letters_are_learnt_as_by_the_host(self, hwtrain, tmp_path):
        """Bits differ, since numpy sums in another order: a pulse may come an update later."""
        needs("host", "system")
        found = []
        for on_device in ("true", "false"):
            words = [f"algo.on_device={on_device}", "budget.steps=100", "evaluate.every=100000"]
            _, state = self.trained(hwtrain, tmp_path / on_device, *words)
            found.append(state["state.theta"])
        assert 0 < np.abs(found[0] - found[1]).max() < 1e-3
        assert np.abs(found[0]).max() > 0.3

    def test_gradient_descent_goes_the_way_of_the_host(self, hwtrain, tmp_path):
        """The same probes; sums round otherwise, and what pulses make of a cell is not what was wished for."""
        needs("host", "system")
        found = []
        for words in (["algo.on_device=true"], ["algo.on_device=true", "device.perturb_by=pulses"], []):
            folder = tmp_path / str(len(found))
            words += [
                "task=letters7x7",
                "algo=mgd",
                "device.precision=single",
                "budget.steps=1600",
                "evaluate.every=100000",
            ]
            words += [f"hydra.run.dir={folder}", "recorder.report=false", "device=emulated_crossbar"]
            answer = hwtrain(*words)
            assert answer.code == 0, answer.err
            found.append(checkpoint.load(folder)["state.theta"])
        actuator, pulses, host = found
        assert 0 < np.abs(actuator - host).max() < 1e-3
        assert 0.9 < np.corrcoef(pulses, host)[0, 1] < 0.999

    def test_letters_are_learnt(self, hwtrain, tmp_path):
        needs("host", "system")
        answer, _ = self.trained(hwtrain, tmp_path / "run", "algo.on_device=true", "budget.steps=500")
        assert float(answer.out.split("test accuracy ")[1].split("%")[0]) > 99, answer.out


def test_closing_frees_the_emulator(make):
    device = make()
    assert isinstance(device._trainable, EmulatedCrossbar)
    device.close()
    device.close()
    assert not device._trainable.emulator._end.alive
