"""Real firmware, on the host and in emulators: the same bits everywhere, and every request carried out once."""

import time
import zlib
from dataclasses import replace

import numpy as np
import pytest

from hwtrain.devices import frames, messages
from hwtrain.devices.messages import (
    Activation,
    Baseline,
    Bias,
    Capability,
    Code,
    Cost,
    DenseLayer,
    Goodness,
    Learn,
    Network,
    Normalise,
    Observe,
    Pattern,
    Probe,
    Rule,
    Status,
    Train,
)
from hwtrain.errors import FirmwareError
from tests.firmware import boards, local_rules, reference

BOOT = 0x12345678
XOR = Network(2, (DenseLayer(2), DenseLayer(1)), low=-9, high=9)
LETTERS = Network(49, (DenseLayer(4), DenseLayer(4)), low=-9, high=9)


@pytest.fixture(scope="module", params=boards.BOARDS)
def link(request, out):
    """A running board with a boot id."""
    with boards.running(request.param, out) as url:
        link = boards.Link(url)
        link.board = request.param.partition("-")[0]
        link.adopt(BOOT)
        yield link
        link.close()


@pytest.fixture(scope="module")
def twin(out):
    """The host twin alone, for what does not depend on the processor."""
    with boards.running("host", out) as url:
        link = boards.Link(url)
        link.adopt(BOOT)
        yield link
        link.close()


def load(link, network, seed=3, slots=4):
    """Program random parameters and samples; the same in numpy."""
    identity = link.hello()
    rng = np.random.default_rng(seed)
    length = network.inputs + network.layers[-1].outputs
    theta = rng.uniform(-1, 1, network.size).astype(np.float32)
    samples = rng.uniform(0, 1, (min(slots, identity.sample_values // length), length)).astype(np.float32)
    if network.cost == Cost.CROSS_ENTROPY:
        samples[:, network.inputs :] = 0
        samples[:, network.inputs] = 1
    link.do(network)
    most = (identity.receive - 20) // 4
    for at in range(0, theta.size, most):
        link.do(messages.Write(at, theta[at : at + most]))
    for slot, sample in enumerate(samples):
        for at in range(0, length, most):
            link.do(messages.Store(slot, sample[at : at + most], at))
    return reference.Board(network, theta, samples), identity


def labelled(rule, activation=Activation.RELU, bias=Bias.ADD, normalise=Normalise.RMS):
    """9-6-5-3 with a linear read-out, which normalises unless the rule forbids it."""
    last = Normalise.NONE if rule is Rule.MONO_FORWARD else normalise
    hidden = (DenseLayer(6, activation, bias, normalise), DenseLayer(5, activation, bias, normalise))
    return Network(9, (*hidden, DenseLayer(3, Activation.LINEAR, bias, last)), Cost.CROSS_ENTROPY, -9, 9)


def load_labelled(link, network, seed=3):
    """Random parameters, class matrices and six samples, some of whose inputs are zero; the same in numpy."""
    rng = np.random.default_rng(seed)
    theta = rng.normal(0, 0.5, network.size).astype(np.float32)
    classes = rng.normal(0, 0.5, network.classes_size).astype(np.float32)
    x = rng.uniform(0, 1, (6, network.inputs)) * (rng.uniform(0, 1, (6, network.inputs)) < 0.7)
    outputs = network.layers[-1].outputs
    samples = np.concatenate([x, np.eye(outputs)[rng.integers(0, outputs, 6)]], axis=1).astype(np.float32)
    link.do(network)
    most = (link.hello().receive - 20) // 4
    everything = np.concatenate([theta, classes])
    for at in range(0, everything.size, most):
        link.do(messages.Write(at, everything[at : at + most]))
    for slot, sample in enumerate(samples):
        link.do(messages.Store(slot, sample))
    return reference.Board(network, theta, samples, classes)


def lesson(mirror, rule, batch=1, goodness=Goodness.SUM, slots=(0, 3, 1, 2), **others):
    """A block of updates, with wrong labels."""
    shown = [mirror.samples[slot + k, mirror.network.inputs :].argmax() for slot in slots for k in range(batch)]
    wrong = bytes((int(label) + 1 + k % 2) % 3 for k, label in enumerate(shown))
    settings = {"rate": 0.1, "readout_rate": 0.05, "low": -8, "high": 8, "scale": 1.5} | others
    return Learn(rule, batch, slots, goodness=goodness, wrong=b"" if rule is Rule.MONO_FORWARD else wrong, **settings)


def most_ticks(identity):
    return min((identity.reply - 15) // 8, (identity.receive - 48) // 2)


def digest(link):
    return messages.Digest.unpack(link.do(messages.Digest()))


def everything_read(link, mirror):
    """Parameters and class matrices."""
    return np.frombuffer(link.do(messages.Read(0, mirror.theta.size + mirror.classes.size)), "<f4")


def everything(link, mirror):
    """A digest of parameters and class matrices."""
    return messages.Digest.unpack(link.do(messages.Digest(mirror.theta.size + mirror.classes.size)))


def digest_of(theta):
    return theta.size, zlib.crc32(theta.astype("<f4").tobytes())


def same_bits(a, b):
    return np.array_equal(np.asarray(a, np.float32).view(np.uint32), np.asarray(b, np.float32).view(np.uint32))


class TestSameBits:
    """Every board equals numpy float32, so every board equals every other."""

    @pytest.mark.parametrize("network", [XOR, LETTERS], ids=["2-2-1", "49-4-4"])
    def test_a_thousand_steps(self, link, network):
        mirror, identity = load(link, network)
        code, tick = Code(7, 0.01), 0
        while tick < 1000:
            ticks = min(most_ticks(identity), 1000 - tick)
            slots = [(tick + t) % len(mirror.samples) for t in range(ticks)]
            block = Train(code, tick, ticks, slots, rate=2.0, low=-8, high=8)
            assert same_bits(np.stack(Train.unpack(link.do(block)), axis=1), mirror.train(block)), f"from tick {tick}"
            tick += ticks
        assert digest(link) == digest_of(mirror.theta)

    @pytest.mark.parametrize("activation", Activation, ids=lambda a: a.name.lower())
    @pytest.mark.parametrize("cost", Cost, ids=lambda c: c.name.lower())
    def test_measure(self, link, activation, cost):
        layers = (DenseLayer(4, activation, messages.Bias.SUBTRACT), DenseLayer(3, Activation.LINEAR))
        mirror, identity = load(link, Network(3, layers, cost, -9, 9))
        batch = 2 if identity.reply >= 128 else 1
        code = Code(5, 0.125, Pattern.WALSH)
        for observe in (Observe.COST, Observe.COST | Observe.OUTPUT, Observe.ACTIVITY):
            probe = Probe(1, batch, True, 1, code, 9, observe)
            costs, seen = probe.unpack(link.do(probe), outputs=3, nodes=7)
            moves = reference.signs(code, 9, mirror.theta.size)
            if costs is not None:
                assert same_bits(costs, [mirror.measure(1, batch), mirror.measure(1, batch, moves, 0.125)])
            if seen is not None:
                for k, pattern in enumerate((None, moves)):
                    for b in range(batch):
                        activity = mirror.forward(mirror.samples[1 + b, :3], pattern, np.float32(0.125))
                        expected = np.concatenate(activity) if observe & Observe.ACTIVITY else activity[-1]
                        assert same_bits(seen[k, b], expected)

    @pytest.mark.parametrize(
        ("code", "extra"),
        [
            (Code(3, 0.05), {"tau_theta": 4, "tau_x": 2}),
            (Code(3, 0.05, hold=2), {"tau_theta": 4, "baseline": Baseline.FRESH}),
            (Code(3, 0.05, antithetic=True), {"tau_theta": 2, "tau_x": 2, "baseline": Baseline.NONE}),
            (Code(3, 0.05, Pattern.WALSH_TWO_SIDED), {"tau_theta": 8, "tau_x": 8, "baseline": Baseline.NONE}),
            (Code(3, 0.05), {"batch": 2}),
            (Code(3, 0.05), {"low": -0.5, "high": 0.25}),
        ],
        ids=["windows", "fresh", "antithetic", "walsh", "batch", "clipped"],
    )
    def test_settings_of_the_algorithm(self, link, code, extra):
        mirror, _ = load(link, XOR)
        for first in (0, 8, 16):
            count = -(-8 // extra.get("tau_x", 1))
            block = Train(code, first, 8, [k % 3 for k in range(count)], **{"rate": 3.0, "low": -8, "high": 8} | extra)
            assert same_bits(np.stack(Train.unpack(link.do(block)), axis=1), mirror.train(block))
        assert digest(link) == digest_of(mirror.theta)

    @pytest.mark.parametrize("tau_theta", [1, 4])
    def test_training_equals_measuring_and_updating(self, link, tau_theta):
        """On the board or chip in the loop: one trajectory."""
        code, rate = Code(11, 0.02), 2.5
        load(link, XOR)
        link.do(Train(code, 0, 8, [0] * 8, rate, -8, 8, tau_theta=tau_theta))
        trained = digest(link)
        load(link, XOR)
        for first in range(0, 8, tau_theta):
            probe = Probe(0, 1, True, tau_theta, code, first)
            costs, _ = probe.unpack(link.do(probe), 1, 3)
            link.do(messages.Update(code, first, rate, costs[1:] - costs[0], -8, 8))
        assert digest(link) == trained

    def test_parameters_come_back(self, link):
        mirror, _ = load(link, XOR)
        assert same_bits(np.frombuffer(link.do(messages.Read(0, 9)), "<f4"), mirror.theta)
        assert same_bits(np.frombuffer(link.do(messages.Read(4, 3)), "<f4"), mirror.theta[4:7])

    @pytest.mark.parametrize("normalise", Normalise, ids=lambda n: n.name.lower())
    def test_networks_that_normalise(self, link, normalise):
        """Plain and perturbed, in deeper layers too; the same when trained as when measured."""
        layers = (
            DenseLayer(4, Activation.TANH, normalise=normalise),
            DenseLayer(2, Activation.SIGMOID, Bias.SUBTRACT, normalise),
        )
        mirror, _ = load(link, Network(3, layers, low=-9, high=9))
        code = Code(5, 0.125)
        costs, _ = (probe := Probe(0, 1, True, 1, code, 9)).unpack(link.do(probe), 2, 6)
        moves = reference.signs(code, 9, mirror.theta.size)
        assert same_bits(costs, [mirror.measure(0), mirror.measure(0, 1, moves, 0.125)])
        for extra in ({}, {"tau_theta": 4}, {"tau_x": 2}):
            count = -(-8 // extra.get("tau_x", 1))
            block = Train(code, 0, 8, [k % 3 for k in range(count)], rate=1.0, low=-8, high=8, **extra)
            assert same_bits(np.stack(Train.unpack(link.do(block)), axis=1), mirror.train(block))
        assert digest(link) == digest_of(mirror.theta)

    @pytest.mark.parametrize("normalise", Normalise, ids=lambda n: n.name.lower())
    @pytest.mark.parametrize("rule", Rule, ids=lambda r: r.name.lower())
    def test_local_rules(self, link, rule, normalise):
        if not link.hello().can & Capability.LEARN:
            pytest.skip("this board has no room for local rules")
        for activation, bias, goodness, batch in (
            (Activation.RELU, Bias.ADD, Goodness.SUM, 3),
            (Activation.TANH, Bias.SUBTRACT, Goodness.MEAN, 1),
        ):
            mirror = load_labelled(link, labelled(rule, activation, bias, normalise))
            block = lesson(mirror, rule, batch, goodness)
            assert same_bits(Learn.unpack(link.do(block)), mirror.learn(block))
            assert everything(link, mirror) == digest_of(np.concatenate([mirror.theta, mirror.classes]))

    def test_a_board_without_room_for_local_rules_says_so(self, link):
        if link.hello().can & Capability.LEARN:
            pytest.skip("this board has")
        load(link, LETTERS)
        with pytest.raises(FirmwareError) as refused:
            link.do(Learn(Rule.MONO_FORWARD, 1, [0], 0.1, 0.1, -8, 8))
        assert refused.value.code == Status.BAD_KIND

    def test_stack_is_never_used_up(self, link):
        """Runs last in this class: everything above has been deepest by now."""
        free = messages.Counters.unpack(link.do(messages.GetCounters())).stack_free
        if free is None:
            pytest.skip("the host cannot tell")
        assert free >= 96


class TestExactlyOnce:
    def test_identity(self, link):
        identity = link.hello()
        assert identity.name == link.board
        assert (identity.protocol, identity.boot, identity.expected) == (messages.VERSION, BOOT, link.sequence)
        link.do(XOR)
        assert link.hello().network == XOR

    def test_a_repeated_request_is_answered_again_but_not_executed_again(self, link):
        load(link, XOR)
        frame = link.frame(Train(Code(1, 0.1), 0, 4, [0, 1, 0, 1], 5.0, -8, 8))
        replies = [link.exchange(frame) for _ in range(3)]
        assert replies[0] == replies[1] == replies[2]
        once = digest(link)
        load(link, XOR)
        link.do(Train(Code(1, 0.1), 0, 4, [0, 1, 0, 1], 5.0, -8, 8))
        assert digest(link) == once

    @pytest.mark.parametrize("rule", [Rule.FORWARD_FORWARD, Rule.MONO_FORWARD], ids=lambda r: r.name.lower())
    def test_a_repeated_block_of_local_learning_is_not_executed_again(self, link, rule):
        if not link.hello().can & Capability.LEARN:
            pytest.skip("this board has no room for local rules")
        mirror = load_labelled(link, labelled(rule))
        frame = link.frame(block := lesson(mirror, rule))
        replies = [link.exchange(frame) for _ in range(3)]
        assert replies[0] == replies[1] == replies[2]
        mirror.learn(block)
        assert everything(link, mirror) == digest_of(np.concatenate([mirror.theta, mirror.classes]))

    def test_older_and_later_requests_are_refused(self, link):
        window = link.hello().window
        for _ in range(window + 1):
            link.do(messages.Rest())
        for sequence in (link.sequence - window - 1, link.sequence + 1):
            frame = messages.to_frame(messages.Rest(), sequence, BOOT)
            with pytest.raises(FirmwareError, match=f"expects request number {link.sequence}") as refused:
                messages.payload_of(link.exchange(frame), frame)
            assert refused.value.code == Status.BAD_SEQUENCE

    def test_another_boot_id_is_refused(self, link):
        frame = messages.to_frame(messages.Rest(), link.sequence, BOOT + 1)
        with pytest.raises(FirmwareError) as refused:
            messages.payload_of(link.exchange(frame), frame)
        assert refused.value.code == Status.BAD_BOOT

    def test_a_late_copy_of_adopt_changes_nothing(self, link):
        link.do(messages.Rest())
        before = link.hello()
        for previous, boot in ((0, BOOT), (0, BOOT + 1)):
            frame = messages.to_frame(messages.Adopt(previous, boot))
            link.exchange(frame)
        assert link.hello() == before

    def test_another_version_is_named(self, link):
        frame = frames.Frame(9, messages.Kind.HELLO, 0, 0)
        with pytest.raises(FirmwareError, match="speaks protocol 1"):
            messages.payload_of(link.exchange(frame), frame)

    def test_noise_is_counted_and_harmless(self, link):
        before = messages.Counters.unpack(link.do(messages.GetCounters()))
        wire = bytearray(frames.encode(link.frame(messages.Rest())))
        link.sequence -= 1
        wire[3] ^= 4
        link.port.write(bytes(wire) + b"\x05\x07\0")
        after = messages.Counters.unpack(link.do(messages.GetCounters()))
        assert after.damaged == before.damaged + 2
        assert after.executed == before.executed + 1
        assert after.overruns == before.overruns

    def test_a_restart_forgets_everything_and_says_so(self, link):
        if not link.hello().can & messages.Capability.RESET:
            pytest.skip("this port cannot restart itself")
        link.do(XOR)
        frame = link.frame(messages.Reset())
        link.exchange(frame)
        identity = link.hello()
        assert (identity.boot, identity.expected, identity.network) == (0, 0, None)
        late_ones = (messages.Rest(), link.sequence), (messages.Rest(), 0), (messages.Reset(), frame.sequence)
        for request, sequence in late_ones:
            late = messages.to_frame(request, sequence, BOOT)
            with pytest.raises(FirmwareError) as refused:
                messages.payload_of(link.exchange(late), late)
            assert refused.value.code == Status.BAD_BOOT
        link.adopt(BOOT)


class TestLocalRules:
    """LEARN on the host twin: against the equations, and at its edges."""

    @pytest.mark.parametrize("batch", [1, 3])
    @pytest.mark.parametrize("bias", Bias, ids=lambda b: b.name.lower())
    @pytest.mark.parametrize("normalise", Normalise, ids=lambda n: n.name.lower())
    @pytest.mark.parametrize("activation", Activation, ids=lambda a: a.name.lower())
    @pytest.mark.parametrize("rule", Rule, ids=lambda r: r.name.lower())
    def test_against_float64(self, twin, rule, activation, normalise, bias, batch):
        """Parameters, class matrices and costs of four updates: within 1e-5, some 80 roundings of a number near 1."""
        for goodness in Goodness:
            mirror = load_labelled(twin, labelled(rule, activation, bias, normalise))
            exact = local_rules.Network(mirror.network, mirror.theta, mirror.classes)
            block = lesson(mirror, rule, batch, goodness)
            costs = Learn.unpack(twin.do(block))
            assert np.allclose(costs, exact.learn(block, mirror.samples), rtol=0, atol=1e-5)
            assert same_bits(costs, mirror.learn(block))
            theta, classes = np.split(everything_read(twin, mirror), [mirror.theta.size])
            assert same_bits(theta, mirror.theta)
            assert same_bits(classes, mirror.classes)
            assert np.abs(theta - exact.theta).max() < 1e-5
            assert np.abs(classes - exact.classes).max(initial=0) < 1e-5

    @pytest.mark.parametrize("rule", Rule, ids=lambda r: r.name.lower())
    def test_one_hidden_layer_and_three(self, twin, rule):
        for widths in ((6,), (6, 5, 7)):
            hidden = tuple(DenseLayer(width, Activation.TANH) for width in widths)
            network = Network(9, (*hidden, DenseLayer(3, Activation.LINEAR)), Cost.CROSS_ENTROPY, -9, 9)
            mirror = load_labelled(twin, network)
            exact = local_rules.Network(network, mirror.theta, mirror.classes)
            block = lesson(mirror, rule, batch=2)
            costs = Learn.unpack(twin.do(block))
            assert same_bits(costs, mirror.learn(block))
            assert np.allclose(costs, exact.learn(block, mirror.samples), rtol=0, atol=1e-5)
            assert everything(twin, mirror) == digest_of(np.concatenate([mirror.theta, mirror.classes]))

    @pytest.mark.parametrize("rule", Rule, ids=lambda r: r.name.lower())
    @pytest.mark.parametrize("limits", [(-0.3, 0.25), (0.0, 8.0), (-8.0, 8.0)], ids=str)
    def test_limits(self, twin, rule, limits):
        """Parameters are clipped after every update, where they began outside and have no input too."""
        mirror = load_labelled(twin, labelled(rule))
        for first in (0, 1):
            block = lesson(mirror, rule, 3, slots=(first, 3, 2), rate=2.0, low=limits[0], high=limits[1])
            assert same_bits(Learn.unpack(twin.do(block)), mirror.learn(block))
        assert everything(twin, mirror) == digest_of(np.concatenate([mirror.theta, mirror.classes]))
        if limits[1] < 1:
            assert {mirror.theta.min(), mirror.theta.max()} == set(np.float32(limits))

    def test_training_after_learning_keeps_the_limits(self, twin):
        """The board's bound on magnitudes has followed."""
        mirror = load_labelled(twin, labelled(Rule.SYMBA))
        learn = lesson(mirror, Rule.SYMBA, rate=2.0)
        train = Train(Code(7, 0.05), 0, 8, [k % 3 for k in range(8)], rate=3.0, low=-1.5, high=1.5)
        for _ in range(3):
            assert same_bits(Learn.unpack(twin.do(learn)), mirror.learn(learn))
            assert same_bits(np.stack(Train.unpack(twin.do(train)), axis=1), mirror.train(train))
        assert digest(twin) == digest_of(mirror.theta)

    @pytest.mark.parametrize("rule", Rule, ids=lambda r: r.name.lower())
    def test_blocks_may_be_cut_anywhere(self, twin, rule):
        mirror = load_labelled(twin, labelled(rule))
        whole = lesson(mirror, rule, slots=(0, 1, 2, 3, 4, 5))
        costs, after = Learn.unpack(twin.do(whole)), everything(twin, mirror)
        mirror = load_labelled(twin, labelled(rule))
        parts = [replace(whole, slots=whole.slots[a:b], wrong=whole.wrong[a:b]) for a, b in ((0, 1), (1, 4), (4, 6))]
        assert same_bits(np.concatenate([Learn.unpack(twin.do(part)) for part in parts]), costs)
        assert everything(twin, mirror) == after

    def test_a_layer_hears_of_none_behind_it(self, twin):
        """Other parameters in the second layer and the read-out change nothing in the first."""
        first = []
        for seed in (1, 2):
            mirror = load_labelled(twin, labelled(Rule.FORWARD_FORWARD))
            twin.do(messages.Write(60, np.random.default_rng(seed).normal(0, 1, 53).astype(np.float32)))
            twin.do(lesson(mirror, Rule.FORWARD_FORWARD))
            first.append(twin.do(messages.Read(0, 60)))
        assert first[0] == first[1]

    @pytest.mark.parametrize("rule", Rule, ids=lambda r: r.name.lower())
    @pytest.mark.parametrize("normalise", Normalise, ids=lambda n: n.name.lower())
    def test_silent_layers_and_black_samples_give_numbers(self, twin, rule, normalise):
        mirror = load_labelled(twin, labelled(rule, normalise=normalise))
        mirror.theta[54:60] = -5  # biases of the first layer: no unit ever answers
        mirror.samples[0, :9] = 0
        twin.do(messages.Write(0, mirror.theta))
        twin.do(messages.Store(0, mirror.samples[0]))
        block = lesson(mirror, rule)
        costs = Learn.unpack(twin.do(block))
        assert np.isfinite(costs).all()
        assert same_bits(costs, mirror.learn(block))
        assert everything(twin, mirror) == digest_of(np.concatenate([mirror.theta, mirror.classes]))

    @pytest.mark.parametrize("rule", Rule, ids=lambda r: r.name.lower())
    def test_what_is_not_finite_moves_nothing(self, twin, rule):
        network = replace(labelled(rule, normalise=Normalise.NONE), low=-3e38, high=3e38)
        mirror = load_labelled(twin, network)
        mirror.theta[:54] = 3e38
        mirror.samples[:, :9] = 1e10
        twin.do(messages.Write(0, mirror.theta))
        for slot, sample in enumerate(mirror.samples):
            twin.do(messages.Store(slot, sample))
        before = everything_read(twin, mirror)
        costs = Learn.unpack(twin.do(lesson(mirror, rule, low=-3e38, high=3e38)))
        after = everything_read(twin, mirror)
        assert not np.isfinite(costs).any()
        assert np.isfinite(after).all()
        assert same_bits(after[:60], before[:60])

    def test_class_matrices_stand_behind_the_parameters(self, twin):
        network = labelled(Rule.MONO_FORWARD)
        mirror = load_labelled(twin, network)
        assert (network.size, network.classes_size) == (113, 18)
        assert digest(twin) == digest_of(mirror.theta)
        beyond = np.array([100.0, -100.0], np.float32)  # which no limit holds
        twin.do(messages.Write(113, beyond))
        assert same_bits(np.frombuffer(twin.do(messages.Read(112, 3)), "<f4"), [mirror.theta[-1], *beyond])
        twin.do(messages.Write(111, np.zeros(4, np.float32)))
        assert not np.frombuffer(twin.do(messages.Read(111, 4)), "<f4").any()
        twin.do(network)
        assert not np.frombuffer(twin.do(messages.Read(0, 131)), "<f4").any()
        for request in (messages.Read(0, 132), messages.Write(130, beyond), messages.Digest(132)):
            with pytest.raises(FirmwareError, match="room for 131"):
                twin.do(request)
        with pytest.raises(FirmwareError) as refused:
            twin.do(messages.Write(112, np.array([10, 0], np.float32)))
        assert refused.value.code == Status.BAD_RANGE

    @pytest.mark.parametrize(
        ("change", "status"),
        [
            ({"batch": 0, "wrong": b""}, Status.NO_ROOM),
            ({"batch": 60000}, Status.BAD_LENGTH),
            ({"slots": (), "wrong": b""}, Status.BAD_VALUE),
            ({"slots": (0, 1)}, Status.BAD_LENGTH),
            ({"wrong": b"\x03"}, Status.BAD_VALUE),
            ({"wrong": b""}, Status.BAD_LENGTH),
            ({"rate": np.inf}, Status.BAD_VALUE),
            ({"readout_rate": np.nan}, Status.BAD_VALUE),
            ({"scale": np.inf}, Status.BAD_VALUE),
            ({"low": -10}, Status.BAD_VALUE),
            ({"low": 8}, Status.BAD_VALUE),
            ({"goodness": 2}, Status.BAD_VALUE),
            ({"rule": 3}, Status.BAD_VALUE),
            ({"slots": (0,) * 1100, "wrong": bytes(1100)}, Status.NO_ROOM),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_refusals_change_nothing(self, twin, change, status):
        mirror = load_labelled(twin, labelled(Rule.FORWARD_FORWARD))
        before = everything(twin, mirror)
        with pytest.raises(FirmwareError) as refused:
            twin.do(replace(lesson(mirror, Rule.FORWARD_FORWARD, slots=(0,)), **change))
        assert refused.value.code == status
        assert everything(twin, mirror) == before

    @pytest.mark.parametrize(
        ("rule", "network"),
        [
            (Rule.SYMBA, Network(9, (DenseLayer(3, Activation.LINEAR),))),
            (Rule.SYMBA, Network(9, (DenseLayer(6), DenseLayer(3)))),
            (Rule.SYMBA, Network(3, (DenseLayer(6), DenseLayer(3, Activation.LINEAR)))),
            (Rule.MONO_FORWARD, Network(9, (DenseLayer(6), DenseLayer(3, Activation.TANH)))),
            (Rule.MONO_FORWARD, labelled(Rule.SYMBA)),
        ],
        ids=[
            "no hidden layer",
            "no linear end",
            "nothing beside the label",
            "no linear end, again",
            "read-out normalises",
        ],
    )
    def test_networks_that_a_rule_does_not_apply_to(self, twin, rule, network):
        twin.do(network)
        with pytest.raises(FirmwareError, match="at byte 0") as refused:
            twin.do(Learn(rule, 1, [0], 0.1, 0.1, wrong=b"" if rule is Rule.MONO_FORWARD else b"\0"))
        assert refused.value.code == Status.BAD_VALUE

    def test_memory_that_is_too_small(self, out):
        """Class matrices without room are not held, nor read, nor learnt."""
        with boards.running("host", out, "--parameters", "130") as url:
            link = boards.Link(url)
            link.adopt(BOOT)
            network = labelled(Rule.MONO_FORWARD)
            link.do(network)
            for request in (
                messages.Write(113, np.zeros(1, np.float32)),
                messages.Read(113, 1),
                Learn(Rule.MONO_FORWARD, 1, [0], 0.1, 0.1, -8, 8),
                Learn(Rule.SYMBA, 1, [10], 0.1, 0.1, -8, 8, wrong=b"\1"),
                Learn(Rule.SYMBA, 11, [0], 0.1, 0.1, -8, 8, wrong=b"\1" * 11),
            ):
                with pytest.raises(FirmwareError) as refused:
                    link.do(request)
                assert refused.value.code == Status.NO_ROOM
            assert Learn.unpack(link.do(Learn(Rule.SYMBA, 1, [0], 0.1, 0.1, -8, 8, wrong=b"\1"))).size == 1
            link.close()

    def test_memory_that_just_suffices(self, twin):
        """2 * 18 + 122 * (2 * 4 + 3 * 12 + 5 * 18) are the 16 384 floats of `work`."""
        hidden = (DenseLayer(12, Activation.RELU, normalise=Normalise.L2), DenseLayer(18, Activation.TANH))
        network = Network(7, (*hidden, DenseLayer(4, Activation.LINEAR)), Cost.CROSS_ENTROPY, -9, 9)
        mirror = load_labelled(twin, network)
        mirror.samples = np.tile(mirror.samples, (21, 1))[:123]
        for slot, sample in enumerate(mirror.samples):
            twin.do(messages.Store(slot, sample))
        block = lesson(mirror, Rule.SYMBA, 122, slots=(0,))
        assert same_bits(Learn.unpack(twin.do(block)), mirror.learn(block))
        assert everything(twin, mirror) == digest_of(np.concatenate([mirror.theta, mirror.classes]))
        with pytest.raises(FirmwareError, match="room for 16384"):
            twin.do(lesson(mirror, Rule.SYMBA, 123, slots=(0,)))

    def test_letters_are_learnt_on_the_board(self, twin):
        """Three patterns with noise: costs fall, and the read-out tells them apart."""
        rng = np.random.default_rng(7)
        patterns = rng.uniform(0, 1, (3, 12)) < 0.5
        network = Network(
            15,
            (DenseLayer(10, Activation.RELU, normalise=Normalise.RMS), DenseLayer(3, Activation.LINEAR)),
            Cost.CROSS_ENTROPY, -9, 9,
        )  # fmt: skip
        labels = np.arange(30) % 3
        x = np.concatenate([np.zeros((30, 3)), patterns[labels] * rng.uniform(0.2, 1, (30, 12))], axis=1)
        samples = np.concatenate([x, np.eye(3)[labels]], axis=1).astype(np.float32)
        theta = np.zeros(network.size, np.float32)
        theta[:150] = rng.normal(0, 0.3, 150)
        for rule, rate in ((Rule.FORWARD_FORWARD, 0.02), (Rule.SYMBA, 0.02), (Rule.MONO_FORWARD, 0.2)):
            twin.do(network)
            twin.do(messages.Write(0, theta))
            for slot, sample in enumerate(samples):
                twin.do(messages.Store(slot, sample))
            means = []
            for _ in range(60):
                wrong = bytes(((labels + 1 + rng.integers(0, 2, 30)) % 3).tolist())
                block = Learn(
                    rule, 3, list(range(0, 30, 3)), rate, 0.2, -8, 8, 4.0 if rule is Rule.SYMBA else 10.0,
                    wrong=b"" if rule is Rule.MONO_FORWARD else wrong,
                )  # fmt: skip
                means.append(Learn.unpack(twin.do(block)).mean())
            assert means[-1] < 0.6 * means[0], rule
            probe = Probe(0, 30, observe=Observe.OUTPUT)
            shown = samples.copy()
            shown[:, :3] = 0 if rule is Rule.MONO_FORWARD else 0.1
            for slot, sample in enumerate(shown):
                twin.do(messages.Store(slot, sample))
            _, said = probe.unpack(twin.do(probe), 3, 13)
            assert (said[0].argmax(axis=1) == labels).mean() > 0.9, rule


class TestTwin:
    def test_a_window_of_requests(self, twin):
        """As many requests at once as the board announces; a lost one is asked again, and the rest with it."""
        load(twin, XOR)
        window = twin.hello().window
        requests = [twin.frame(Train(Code(1, 0.1), 4 * k, 4, [0, 1, 0, 1], 5.0, -8, 8)) for k in range(window)]
        twin.port.write(b"".join(frames.encode(frame) for frame in requests if frame is not requests[1]))
        replies = [twin.exchange(frame) for frame in requests]
        assert all(reply.payload[0] == Status.OK for reply in replies[:1])
        for frame in requests[1:]:
            reply = twin.exchange(frame)
            assert reply.payload[0] == Status.OK

    @pytest.mark.parametrize(
        ("request_", "status"),
        [
            (messages.Write(0, np.array([10.0], np.float32)), Status.BAD_RANGE),
            (messages.Write(0, np.array([np.nan], np.float32)), Status.BAD_RANGE),
            (messages.Write(8, np.zeros(2, np.float32)), Status.NO_ROOM),
            (messages.Write(0xFFFFFFFF, np.zeros(2, np.float32)), Status.NO_ROOM),
            (messages.Read(5, 5), Status.NO_ROOM),
            (messages.Store(0, np.array([np.inf], np.float32)), Status.BAD_VALUE),
            (messages.Store(0, np.zeros(4, np.float32)), Status.NO_ROOM),
            (Probe(0, 0), Status.NO_ROOM),
            (Probe(0, 1, plain=False), Status.BAD_VALUE),
            (Probe(0, 1, count=65535, code=Code(0, 0.1)), Status.NO_ROOM),
            (Train(Code(0, 0.1), 1, 4, [0] * 4, 1.0, tau_theta=4), Status.BAD_VALUE),
            (Train(Code(0, 0.1), 0, 4, [0] * 3, 1.0, -8, 8), Status.BAD_LENGTH),
            (Train(Code(0, 0.1), 0, 4, [0] * 4, 1.0, -10, 8), Status.BAD_VALUE),
            (Train(Code(0, 0.1, hold=0), 0, 4, [0] * 4, 1.0, -8, 8), Status.BAD_VALUE),
            (Network(2, (DenseLayer(60000), DenseLayer(60000))), Status.NO_ROOM),
            (Network(0, (DenseLayer(1),)), Status.BAD_VALUE),
            (Network(2, (DenseLayer(1),) * 5), Status.NO_ROOM),
            (Network(2, (DenseLayer(1),), low=1, high=1), Status.BAD_VALUE),
        ],
        ids=str,
    )
    def test_refusals_change_nothing(self, twin, request_, status):
        load(twin, XOR)
        before = digest(twin)
        with pytest.raises(FirmwareError) as refused:
            twin.do(request_)
        assert refused.value.code == status
        assert digest(twin) == before

    def test_xor_is_learnt_on_the_board(self, twin):
        twin.do(Network(2, (DenseLayer(2), DenseLayer(1)), low=-20, high=20))
        for slot, sample in enumerate([(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)]):
            twin.do(messages.Store(slot, np.array(sample, np.float32)))
        twin.do(messages.Write(0, np.random.default_rng(3).uniform(-1, 1, 9).astype(np.float32)))
        baselines = np.concatenate(
            [
                Train.unpack(twin.do(Train(Code(3, 0.05), tick, 200, [0] * 200, 100.0, -20, 20, batch=4)))[0]
                for tick in range(0, 2000, 200)
            ]
        )
        assert baselines[0] > 0.2
        assert baselines[-1] < 0.005

    def test_uint8_samples(self, twin):
        twin.do(XOR)
        twin.do(messages.Store(0, np.array([0, 255, 7], np.uint8)))
        twin.do(messages.Store(1, np.array([0, 1, np.float32(7) / np.float32(255)], np.float32)))
        costs = [Probe(slot).unpack(twin.do(Probe(slot)), 1, 3)[0] for slot in (0, 1)]
        assert same_bits(*costs)

    def test_a_measurement_that_is_not_finite_moves_nothing(self, twin):
        network = Network(1, (DenseLayer(1, Activation.LINEAR),), low=-3e38, high=3e38)
        twin.do(network)
        twin.do(messages.Write(0, np.array([3e38, 1.0], np.float32)))
        twin.do(messages.Store(0, np.array([1e10, 0], np.float32)))
        before = digest(twin)
        _, modulation = Train.unpack(twin.do(Train(Code(0, 0.1), 0, 2, [0, 0], 1.0, -3e38, 3e38)))
        assert not np.isfinite(modulation).any()
        assert digest(twin) == before

    def test_a_silent_host_makes_the_board_rest(self, twin):
        before = messages.Counters.unpack(twin.do(messages.GetCounters())).rests
        twin.do(messages.Watchdog(5))
        twin.port.read(1)  # nothing comes: half a second of silence
        after = messages.Counters.unpack(twin.do(messages.GetCounters())).rests
        twin.do(messages.Watchdog(0))
        assert after > before

    def test_a_pulled_cable_loses_nothing(self, twin):
        mirror, _ = load(twin, XOR)
        block = Train(Code(1, 0.1), 0, 4, [0, 1, 0, 1], 5.0, -8, 8)
        frame = twin.frame(block)
        twin.send(frame)
        twin.close()
        twin.open()
        trace = Train.unpack(messages.payload_of(twin.exchange(frame), frame))
        assert same_bits(np.stack(trace, axis=1), mirror.train(block))
        assert digest(twin) == digest_of(mirror.theta)

    def test_over_a_pseudo_terminal(self, out):
        with boards.running("host", out, "--pty", "--name", "bench 3") as url:
            link = boards.Link(url)
            link.adopt(BOOT)
            assert link.hello().name == "bench 3"
            mirror, _ = load(link, LETTERS)
            assert digest(link) == digest_of(mirror.theta)
            link.close()


@pytest.mark.parametrize(
    ("board", "arguments", "baud"),
    [
        ("host", ("--baud", "38400"), 38_400),
        ("host", ("--baud", "115200", "--pty"), 115_200),
        ("atmega2560", ("--paced",), 117_647),
    ],
    ids=["twin over TCP", "twin over a pseudo-terminal", "simavr"],
)
def test_bytes_take_as_long_as_on_a_real_line(board, arguments, baud, out):
    """Ten bits a byte, there and back, and the same answers. Nothing is asked of how late they may come."""
    with boards.running(board, out, *arguments, said=[]) as url:
        link = boards.Link(url)
        link.adopt(BOOT)
        mirror, _ = load(link, LETTERS)
        requests = [link.frame(messages.Read(first, 110)) for first in (0, 110) * 3]
        began = time.monotonic()
        replies = [link.exchange(frame) for frame in requests]
        took = time.monotonic() - began
        parameters = [np.frombuffer(messages.payload_of(*each), "<f4") for each in zip(replies, requests, strict=True)]
        assert same_bits(np.concatenate(parameters[:2]), mirror.theta)
        moved = sum(len(frames.encode(frame)) for frame in (*requests, *replies))
        assert took > 0.98 * moved * 10 / baud  # simavr shows a byte when it begins
        if board == "host":
            link.close()  # a pulled cable
            link.open()
            assert link.hello().expected == link.sequence
        link.close()
