"""Pulse trains against their expectation, and Tiki-Taka against its loops written out."""

import math

import numpy as np
import pytest

from hwtrain import draws
from hwtrain.algorithms.analog import coincidences
from hwtrain.algorithms.analog_sgd import AnalogSGD
from hwtrain.algorithms.tiki_taka import VARIANTS, TikiTaka
from hwtrain.core import Read, joined
from hwtrain.costs import MeanSquaredError
from hwtrain.devices.programming import simulated_cells
from hwtrain.errors import CapabilityError, ConfigError, LimitError
from hwtrain.sim.laws import ConstantStep, SoftBounds
from hwtrain.sim.networks import mlp
from hwtrain.sim.pulsed import Pulsed, Reference
from hwtrain.start import Uniform
from hwtrain.tasks.teacher import Teacher

SEED = np.uint32(3)[...]
STILL = Uniform(0.0, 0.0)
EXACT = Pulsed(law=ConstantStep(), dw_min=2.0**-10, w_max=1.0, w_min=-1.0)


def array(cell=EXACT, fast=None, sizes=(3, 2), **settings):
    network = mlp(list(sizes), "tanh", "linear")
    return simulated_cells(network, MeanSquaredError(), cell, None, fast=fast, **settings)


class TestTrains:
    @pytest.mark.parametrize("managed", [True, False])
    @pytest.mark.parametrize("gain", [0.5, 4.0, 20.0])
    def test_expected_pulses_are_the_product(self, gain, managed):
        """Where nothing saturates: 5 standard errors, from the variance of independent slots."""
        x, d = np.array([0.5, -0.2, 0.0, 1.0]), np.array([0.3, -0.5, 0.05])
        trials = 4000
        counts = np.array([coincidences(SEED, n, x, d, gain, 31, managed=managed) for n in range(trials)])
        wanted = -gain * np.outer(x, d)
        error = np.sqrt(np.maximum(np.abs(wanted), 1e-3) / trials)
        assert (np.abs(counts.mean(axis=0) - wanted) < 5 * error).all()
        assert (counts[:, 2] == 0).all()

    def test_trains_are_as_short_as_the_largest_product_allows(self):
        x, d = np.array([1.0, 0.1]), np.array([0.5])
        for gain in (0.2, 3.0, 9.0, 1000.0):
            most = max(np.abs(coincidences(SEED, n, x, d, gain, 31, managed=True)).max() for n in range(200))
            assert most <= min(max(math.ceil(gain * 0.5), 1), 31)

    def test_what_a_train_cannot_hold_saturates_at_its_length(self):
        counts = coincidences(SEED, 0, np.ones(2), np.array([1.0, -1.0]), 1e6, 7, managed=True)
        assert np.array_equal(counts, [[-7, 7], [-7, 7]])

    def test_nothing_to_say_is_no_pulse(self):
        assert not coincidences(SEED, 0, np.zeros(2), np.ones(3), 10.0, 31, managed=True).any()
        assert not coincidences(SEED, 0, np.ones(2), np.zeros(3), 10.0, 31, managed=False).any()

    def test_replicas_draw_what_they_would_draw_alone(self):
        seeds = np.array([4, 9], np.uint32)
        x, d = np.array([[0.1, 1.0], [2.0, 0.5]]), np.array([[0.3], [3.0]])
        both = coincidences(seeds, 5, x, d, 8.0, 31, managed=True)
        for i in range(2):
            assert np.array_equal(both[i], coincidences(seeds[i], 5, x[i], d[i], 8.0, 31, managed=True))

    def test_descends_the_cost(self):
        """On cells without a fault, in expectation the step of plain descent."""
        task, device = Teacher(3, 2, noise=0.0), array(chips=400)
        sample = task.sample(SEED, 0)  # the same for all; pulses differ by the seed of the run
        rule = AnalogSGD(eta=0.02, start=STILL)
        state = rule.init(device.spec, np.arange(400, dtype=np.uint32))
        state, _ = rule.tell(state, sample, device.execute(rule.ask(state, sample)))
        x, y = sample.x[0, 0], sample.target[0, 0]
        wanted = 0.02 * 2 / 2 * np.outer(x, y)  # mean over two outputs, from weights of zero
        moved = state.due[:, :6].reshape(-1, 3, 2) * EXACT.step
        error = np.sqrt(np.abs(wanted) * EXACT.step / 400)
        assert (np.abs(moved.mean(axis=0) - wanted) < 5 * error + 1e-12).all()


class Loops:
    """Tiki-Taka as its papers write it, one column and one element at a time, on arrays that do as they are told."""

    def __init__(self, rule, n, m):
        self.rule, self.n, self.m = rule, n, m
        self.fast, self.slow = np.zeros((n + 1, m)), np.zeros((n + 1, m))
        self.fast_due, self.due = np.zeros((n + 1, m), int), np.zeros((n + 1, m), int)
        self.buffer, self.chop = np.zeros((n + 1, m)), np.ones(n + 1)
        self.before, self.present = np.zeros((n + 1, m)), [[] for _ in range(n + 1)]
        self.samples = self.transfers = 0

    def show(self, x, y):
        self.slow += self.due * EXACT.step
        self.fast += self.fast_due * EXACT.step
        self.due = np.zeros_like(self.due)
        error = 2 / self.m * (x @ self.slow[: self.n] + self.slow[self.n] - y)
        inputs = self.chop * np.append(x, 1.0)
        if self.samples and self.samples % self.rule.every == 0:
            inputs = self.transfer() * np.append(x, 1.0)
        seed, gain = draws.derive(SEED, "trains of layer 0"), self.rule.eta / EXACT.step
        self.fast_due = coincidences(seed, self.samples, inputs, error, gain, self.rule.length, managed=True)
        self.samples += 1

    def transfer(self):
        rule, j = self.rule, self.transfers % (self.n + 1)
        draw = draws.uniform(draws.derive(SEED, "rounding"), self.transfers, self.m)
        for i in range(self.m):
            v = self.fast[j, i] - (self.before[j, i] if rule.variant == "agad" else 0.0)
            wanted = rule.transfer * self.chop[j] * v / EXACT.step
            if rule.variant == "ttv1":
                self.due[j, i] = math.floor(wanted + draw[i])
            else:
                self.buffer[j, i] += wanted
                self.due[j, i] = math.trunc(self.buffer[j, i])
                self.buffer[j, i] -= self.due[j, i]
        if rule.variant in ("c_ttv2", "agad"):
            self.present[j].append(self.fast[j].copy())
            if draws.uniform(draws.derive(SEED, "chopper"), self.transfers, 1)[0] < rule.flip:
                self.chop[j] = -self.chop[j]
                self.before[j], self.present[j] = np.mean(self.present[j], axis=0), []
        self.transfers += 1
        return self.chop


class TestTikiTaka:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_as_its_loops_written_out(self, variant):
        rule = TikiTaka(variant=variant, eta=0.05, transfer=0.3, every=2, flip=0.4, start=STILL)
        device, task, loops = array(fast=EXACT, sizes=(3, 2)), Teacher(3, 2), Loops(rule, 3, 2)
        state = rule.init(device.spec, SEED)
        for number in range(300):
            sample = task.sample(SEED, number)
            state, _ = rule.tell(state, sample, device.execute(rule.ask(state, sample)))
            loops.show(sample.x[0, 0], sample.target[0, 0])
            assert np.array_equal(state.fast_due.reshape(4, 2), loops.fast_due)
            assert np.array_equal(state.due.reshape(4, 2), loops.due)
        assert np.abs(loops.slow).max() > 0.05

    def test_every_column_has_its_turn(self):
        rule = TikiTaka(eta=0.05, every=1, start=STILL)
        device, task = array(fast=EXACT, sizes=(3, 4, 2)), Teacher(3, 2)
        state, asked = rule.init(device.spec, SEED), []
        for number in range(21):
            sample = task.sample(SEED, number)
            commands = rule.ask(state, sample)
            asked += [command.which for command in commands if isinstance(command, Read)]
            state, _ = rule.tell(state, sample, device.execute(commands))
        assert len(asked) == 20  # 4 columns of the first layer, 5 of the second
        counts = np.bincount(np.concatenate(asked), minlength=device.spec.size)
        assert np.array_equal(counts, [5] * 16 + [4] * 10)

    @pytest.mark.slow
    def test_ordering_on_cells_whose_steps_do_not_balance(self):
        """Linear regression: pulses on the weights end far off; where the fast array's balance is not known, only AGAD
        does not care. Thresholds and conditions of an independent program, here the median of eight chips.
        """
        spread = {"law": SoftBounds(), "dw_min": 0.02, "dw_min_dtod": 0.3, "dw_min_std": 0.3, "up_down_dtod": 0.3}
        bounds = {"w_max": 1.0, "w_min": -1.0, "w_max_dtod": 0.1, "w_min_dtod": 0.1}
        cell = Pulsed(**spread, **bounds)
        unknown = Pulsed(**spread, **bounds, read_noise=0.01)
        known = Pulsed(**spread, **bounds, read_noise=0.01, reference=Reference(subtract_symmetry_point=True))

        def wrong(rule, fast=None, samples=2500):
            task, device = Teacher(), array(cell, fast, sizes=(20, 5), chips=8)
            seeds = np.arange(8, dtype=np.uint32)
            state, errors = rule.init(device.spec, seeds), []
            for number in range(samples):
                sample = task.sample(seeds, number)
                state, _ = rule.tell(state, sample, device.execute(rule.ask(state, sample)))
                if number >= samples * 4 // 5 and number % 10 == 0:
                    errors.append(((device.snapshot()["value"][:, :100] - task.matrix.ravel()) ** 2).mean(axis=-1))
            return float(np.sqrt(np.median(np.mean(errors, axis=0))))

        def rule(variant):
            return TikiTaka(variant=variant, eta=0.125, transfer=0.1, every=2, flip=0.05, start=STILL)

        assert wrong(AnalogSGD(eta=0.125, start=STILL)) > 0.12
        assert wrong(rule("ttv2"), known) <= 0.05
        worst = wrong(rule("ttv2"), unknown)
        assert worst > 0.12
        assert 0.05 < wrong(rule("c_ttv2"), unknown) < worst
        assert wrong(rule("agad"), unknown, 8000) <= 0.05


class TestRefusals:
    def test_a_second_array_is_needed(self):
        with pytest.raises(CapabilityError, match=r"needs a second array of cells.*device=pulsed"):
            TikiTaka(eta=0.1).init(array().spec, SEED)

    def test_one_sample_at_a_time(self):
        rule, device = AnalogSGD(eta=0.1, start=STILL), array()
        state = rule.init(device.spec, SEED)
        with pytest.raises(ConfigError, match=r"given 2 at once. Set task.batch=1"):
            rule.ask(state, joined([Teacher(3, 2).sample(SEED, n) for n in range(2)]))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"variant": "ttv5"}, "algo.variant must be one of ttv1, ttv2, c_ttv2, agad"),
            ({"every": 0}, "algo.every"),
            ({"flip": 1.5}, "algo.flip"),
            ({"eta": 0}, "algo.eta"),
            ({"forget": -1}, "algo.forget"),
        ],
    )
    def test_settings(self, settings, message):
        with pytest.raises(ConfigError, match=message):
            TikiTaka(**{"eta": 0.1} | settings)

    def test_reading_what_is_not_there(self):
        with pytest.raises(CapabilityError, match="no second array"):
            array().execute([Read(fast=True)])
        with pytest.raises(LimitError, match="parameters 0 to 7"):
            array().execute([Read(np.array([8]))])
