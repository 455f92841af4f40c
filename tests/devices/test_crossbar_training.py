"""Training by the crossbar controller itself: the rule, its pulses, its limits, and what a bad line makes of it."""

import contextlib
import time

import numpy as np
import pytest
import pyvisa

from hwtrain import checkpoint
from hwtrain.conformance import DeviceConformance
from hwtrain.core import Can, Learn, Program, Read, Sample
from hwtrain.costs import CrossEntropy
from hwtrain.devices import messages
from hwtrain.devices.crossbar import EmulatedCrossbar, crossbar, resource_of
from hwtrain.devices.messages import Activation, Bias, DenseLayer
from hwtrain.emulators import Emulator
from hwtrain.errors import CapabilityError, DeviceError, LimitError
from hwtrain.sim.networks import mlp
from tests.devices.test_crossbar import IDEAL, SOFT, STEPS, Proxy, facts
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
    """The controller as any SCPI client sees it."""
    needs(request.param, "system")
    emulator = Emulator(request.param, "system", program="crossbar")
    opened = pyvisa.ResourceManager("@py").open_resource(resource_of(emulator.url))
    opened.read_termination = opened.write_termination = "\n"
    opened.timeout = 500
    for _ in range(20):  # QEMU listens before the firmware does
        with contextlib.suppress(pyvisa.errors.VisaIOError):
            if opened.query("\n*IDN?").startswith("hwtrain,"):
                break
    opened.timeout = 5000
    opened.write("*CLS;*RST;:MOD:TIL 3,4,5,2;:MOD:CELL 1,0,0.01,0,0,0,0,1,0,-1,0,2e-5;:OUTP ON")
    opened.write(":XBAR:NET 2e-5,0.2,0.01,1,3,0,0,0")
    yield opened
    opened.close()
    emulator.stop()


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
        rough = make(resource=proxy.resource, timeout=0.08, patience=5.0)
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
        with pytest.raises(DeviceError, match=r"101.*A cell has had its pulses"):
            device.execute([Program(begin(NETWORK.size)), lesson(200)])
        assert 600 < counts(device).max() <= 650


class TestByItself(DeviceConformance):
    """The kit, with blocks of local learning, within what a step is worth."""

    @pytest.fixture
    def device(self, make):
        return make(model=IDEAL)

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
        found = inst.query("XBAR:NET?").split(",")
        assert np.allclose([float(word) for word in found], [2e-5, 0.2, 0.01, 1, 3, 0, 0, 0])
        said(inst, ":XBAR:NET:WISH ", block(WISH))
        wished = floats(inst, "XBAR:NET:WISH?")
        assert np.array_equal(wished, WISH.astype(f32))
        held = floats(inst, "XBAR:NET:HELD?")
        assert held == [0.0] * 22
        inst.write(":MOD:TIL 3,4,5,2")
        assert inst.query("XBAR:NET?;:SYST:ERR?").startswith("-221,")

    @pytest.mark.parametrize(
        ("message", "code"),
        [
            (b":XBAR:NET 2e-5,0.2,0.01,1,3,0,0", -109), (b":XBAR:NET 2e-5,0.2,0.01,1,4,0,0,0", -222),
            (b":XBAR:NET 2e-5,0.31,0.01,1,3,0,0,0", -222), (b":XBAR:NET 2e-5,0.2,0,1,3,0,0,0", -222),
            (b":XBAR:NET 2e-5,0.2,0.01,1,3,0,0,0,0,0", -108),
            (b":MOD:TIL 3,4,4,2;:XBAR:NET 2e-5,0.2,0.01,1,3,0,0,0", -221),
            (b":XBAR:NET:WISH " + block([0.0] * 21), -224), (b":XBAR:NET:HELD " + block([np.nan] * 22), -222),
            (LEARN + block(*ROWS[:3]), -224), (LEARN + block(ROWS[0], [1, np.inf, 0, 1]), -222),
            (b":XBAR:LEAR 3.1,1e-6,0.5,0.5,-1,1,2," + block(*ROWS), -222),
            (b":XBAR:LEAR 1.5,1,0.5,0.5,-1,1,2," + block(*ROWS), -222),
            (b":XBAR:LEAR 1.5,1e-6,1e39,0.5,-1,1,2," + block(*ROWS), -222),
            (b":XBAR:LEAR 1.5,1e-6,0.5,0.5,1,-1,2," + block(*ROWS), -222),
            (b":XBAR:LIM:READ 0.1;:XBAR:LEAR 1.5,1e-6,0.5,0.5,-1,1,2," + block(*ROWS), -222),
            (b":XBAR:NET 2e-5,0.2,0.01,1,3,0,3,0;" + LEARN + block(*ROWS), -221),
            (b":OUTP OFF;" + LEARN + block(*ROWS), -221),
        ],
    )  # fmt: skip
    def test_each_mistake_has_its_number_and_touches_nothing(self, inst, message, code):
        said(inst, ":XBAR:NET:WISH ", block(WISH))
        before = inst.query("XBAR:COUN?")
        said(inst, message)
        assert error(inst).startswith(f"{code},")
        assert inst.query("XBAR:COUN?") == before

    def test_work_that_was_done_is_not_done_again(self, inst):
        answers = []
        said(inst, ":XBAR:NET:WISH ", block(WISH))
        for _ in range(2):
            said(inst, ":XBAR:ONCE 3;", LEARN, block(*ROWS))
            costs = floats(inst, "XBAR:LEAR:COST?")
            answers.append((costs, inst.query("XBAR:LEAR?;:XBAR:COUN?"), floats(inst, "XBAR:NET:WISH?")))
        assert answers[0] == answers[1] and len(answers[0][0]) == 2
        updates, pulses = map(int, answers[0][1].split(";")[0].split(","))
        assert updates == 2 and pulses == int(answers[0][1].split(";")[1].split(",")[0]) > 400

    def test_a_cell_that_has_had_its_pulses_stops_an_update_as_a_whole(self, inst):
        said(inst, ":XBAR:LIM:PULS 50;:XBAR:NET:WISH ", block(WISH))
        said(inst, LEARN, block(*ROWS * 50))
        assert error(inst) == '101,"A cell has had its pulses"'
        updates, pulses = map(int, inst.query("XBAR:LEAR?").split(","))
        total, most, _ = map(int, inst.query("XBAR:COUN?").split(","))
        assert 0 < updates < 100 and total == pulses and most <= 50
        held = floats(inst, "XBAR:NET:HELD?")
        read = floats(inst, "XBAR:READ:ARR?")
        assert np.allclose(np.array(read) / 2e-5, held, rtol=0, atol=1e-5)  # cells without spread: no pulse is missing

    def test_a_reading_at_the_end_of_the_converter_gives_no_pulse(self, inst):
        said(inst, ":XBAR:NET:WISH ", block(WISH), b";:XBAR:NET:HELD ", block(WISH))
        inst.write(":XBAR:PULS 0,0,0,1.5,1e-6,100;:MOD:CONV 1e-9,1e-6")
        said(inst, LEARN, block(*ROWS))
        assert error(inst).startswith("-300,")
        assert inst.query("XBAR:LEAR?;:XBAR:COUN?").startswith("0,0;100,100,")
        wished = floats(inst, "XBAR:NET:WISH?")
        assert np.array_equal(wished, WISH.astype(f32))

    def test_a_message_that_is_cut_short_is_forgotten(self, inst):
        """What is said after a pause is not taken for the rest of the block."""
        said(inst, ":XBAR:NET:WISH ", block(WISH))
        whole = LEARN + block(*ROWS)
        inst.write_raw(whole[:-5])
        time.sleep(1.0)
        inst.write_raw(b"*IDN?\n")
        assert inst.read().startswith("hwtrain,crossbar")
        assert error(inst) == '-161,"Invalid block data"'
        assert inst.query("XBAR:COUN?") == "0,0,0"

    def test_the_watchdog_acts_while_the_controller_works(self, inst):
        said(inst, ":XBAR:NET:WISH ", block(WISH))
        updates = 6000 if "host" in inst.query("*IDN?") else 400
        said(inst, ":XBAR:WATC 0.001;:OUTP ON;", LEARN, block(*ROWS * (updates // 2)))
        assert error(inst) == '102,"The watchdog has switched off"'
        assert inst.query("OUTP?;:MOD:DRIV?;:STAT:QUES?") == "0;0,0;512"
        assert int(inst.query("XBAR:LEAR?").split(",")[0]) < updates


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
