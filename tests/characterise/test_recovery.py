"""What was planted is found: on many chips at once, and within the intervals as often as they say."""

import math

import numpy as np
import pytest

from hwtrain.characterise.chip import Chip
from hwtrain.characterise.findings import conclude
from tests.characterise.benches import COST, Moody, chips, concluded, measured

CHIPS, LEVEL = 40, 0.95  # a hundred: benchmarks/characterise.py recovery
PLANTED = {
    "cost_noise": 2e-4,
    "baseline_noise": 3e-4,
    "read_noise": 0.005,
    "parameter_variation": 0.1,
    "activation_variation": 0.05,
    "stuck": 0.04,
    "parameter_bits": 8,
    "update_noise": 0.005,
    "drift": 6e-3,
    "read_seconds": 1e-3,
}


def hits(found, name, truth):
    intervals = [traits[name].estimate for traits in found]
    return sum(interval.low <= truth <= interval.high for interval in intervals)


def enough(count, many=CHIPS, level=LEVEL):
    """Within four standard errors of a count that covers as often as it says; more is not asked, nor less."""
    return count >= many * level - 4 * math.sqrt(many * level * (1 - level))


@pytest.fixture(scope="module")
def population(tmp_path_factory):
    device = chips(CHIPS, **PLANTED)
    done, _ = measured(device, tmp_path_factory.mktemp("population"), read_seconds=PLANTED["read_seconds"])
    return device, done, concluded(done, LEVEL)


@pytest.mark.slow
class TestManyChips:
    @pytest.mark.parametrize(
        ("name", "truth", "accuracy"),
        [
            ("probe_noise", PLANTED["cost_noise"], 0.02),
            ("baseline_noise", PLANTED["baseline_noise"], 0.02),
            ("read_noise", PLANTED["read_noise"], 0.03),
            ("probed_read_noise", PLANTED["read_noise"], 0.03),
            ("parameter_variation", PLANTED["parameter_variation"], 0.05),
            ("activation_variation", PLANTED["activation_variation"], 0.1),
            ("stuck", PLANTED["stuck"], 0.2),
            ("write_noise", PLANTED["update_noise"], 0.05),
            ("drift", PLANTED["drift"] * math.sqrt(PLANTED["read_seconds"]), 0.05),
            ("probe_ratio", 1.0, 0.02),
        ],
    )
    def test_a_trait(self, population, name, truth, accuracy):
        found = population[2]
        values = np.array([traits[name].value for traits in found])
        assert np.median(values) == pytest.approx(truth, rel=accuracy)
        assert enough(hits(found, name, truth)), f"{hits(found, name, truth)} of {CHIPS} intervals hold the truth"
        wide = np.median([t[name].estimate.high - t[name].estimate.low for t in found])
        assert wide < 6 * max(values.std(), 1e-12)  # and not because they are endless

    def test_resolution(self, population):
        found = population[2]
        assert sum(traits["parameter_bits"].verdict == "stepped" for traits in found) >= 0.9 * CHIPS
        assert enough(hits([t for t in found if t["parameter_bits"].estimate], "parameter_bits", 8), 0.9 * CHIPS)

    def test_which_parameters_are_stuck(self, population):
        device, _, found = population
        stuck = device._store._stuck
        named = np.zeros_like(stuck)
        for row, traits in zip(named, found, strict=True):
            row[list(traits["stuck"].which)] = True
        judged = sum(traits["stuck"].basis for traits in found)
        assert (named & ~stuck).sum() <= 0.001 * judged
        assert (named & stuck).sum() >= 0.85 * stuck.sum()  # the others cannot be judged, or hardly

    def test_the_rest(self, population):
        found = population[2]
        for name, verdict in (("write_noise", "absolute"), ("baseline_noise", "drifting"), ("range", "whole")):
            assert sum(traits[name].verdict == verdict for traits in found) >= 0.95 * CHIPS, name
        assert sum(traits["settle"].value == 0 for traits in found) >= 0.95 * CHIPS
        assert not any("drift_exponent" in traits for traits in found)


@pytest.fixture(scope="module")
def ideal(tmp_path_factory):
    done, _ = measured(chips(CHIPS, cost_noise=1e-3, read_noise=0.01), tmp_path_factory.mktemp("ideal"))
    return concluded(done, LEVEL)


@pytest.mark.slow
class TestIdealChips:
    """What is not there is not found, and the bound says how well that is known."""

    @pytest.mark.parametrize("name", ["parameter_variation", "activation_variation", "write_noise", "drift", "stuck"])
    def test_no_imperfection(self, ideal, name):
        assert enough(sum(not traits[name].estimate.is_seen for traits in ideal))

    def test_nothing_else(self, ideal):
        assert sum(traits["parameter_bits"].verdict == "smooth" for traits in ideal) >= 0.95 * CHIPS
        assert sum(traits["baseline_noise"].verdict == "white" for traits in ideal) >= 0.95 * CHIPS


@pytest.mark.slow
@pytest.mark.parametrize("programming", ["absolute", "incremental"])
def test_do_errors_of_writing_add_up(tmp_path, programming):
    device = chips(16, cost_noise=2e-4, update_noise=0.005, programming=programming, drift=3e-3, read_seconds=1e-3)
    found = concluded(measured(device, tmp_path, read_seconds=1e-3)[0], LEVEL)
    assert sum(traits["write_noise"].verdict == programming for traits in found) >= 15
    assert enough(hits(found, "write_noise", 0.005), 16)


@pytest.mark.parametrize("bits", [3, 6, 10])
def test_bits(tmp_path, bits):
    found = concluded(measured(chips(3, cost_noise=1e-5, parameter_bits=bits), tmp_path)[0])
    assert [traits["parameter_bits"].estimate.value for traits in found] == [bits] * 3


@pytest.mark.slow
def test_decay_as_a_power_of_time(tmp_path):
    found, decay, noise = [], 0.02, 3e-3
    for seed in range(10):
        device = Moody(decay=decay, noise=noise)
        device.random = np.random.default_rng(seed)
        found += concluded(measured(device, tmp_path / str(seed))[0], LEVEL)
    assert all(traits["drift_exponent"].verdict == "power law" for traits in found)
    assert np.mean([traits["drift_exponent"].value for traits in found]) == pytest.approx(decay, rel=0.05)
    assert enough(hits(found, "drift_exponent", decay), 10)


@pytest.mark.parametrize("settle", [2.0, 5.0])
def test_settling(tmp_path, settle):
    (found,) = concluded(measured(Moody(settle=settle), tmp_path, read_seconds=0.5)[0])
    assert found["settle"].unit == "s"
    assert found["settle"].value == pytest.approx(0.5 * settle, rel=0.15)
    assert found["probe_ratio"].verdict == "unequal"  # a write is read before it has come to its end


def test_a_black_box_is_what_it_is(tmp_path):
    (found,) = concluded(measured(Moody(), tmp_path)[0])
    assert found["baseline_noise"].value == pytest.approx(1e-3, rel=0.05)
    assert found["stuck"].which == () and found["stuck"].basis == 5
    assert found["probe_ratio"].verdict == "equal"
    assert not {"parameter_variation", "activation_variation", "read_noise"} & set(found)


class Half(Moody):
    """A parameter that answers to nothing, and one that answers to probes alone."""

    def reading(self, sample, delta):
        held, self.theta = self.theta, self.theta * [0, 0, 1, 1, 1]
        try:
            return super().reading(sample, delta * [0, 1, 1, 1, 1])
        finally:
            self.theta = held


def test_stuck_and_dead(tmp_path):
    (found,) = concluded(measured(Half(), tmp_path)[0])
    assert found["stuck"].which == (0, 1)
    assert "1 answer to probes and not to writes" in found["stuck"].says


def test_what_repeats_exactly_is_said_to(tmp_path):
    (found,) = concluded(measured(chips(), tmp_path)[0])
    assert found["baseline_noise"].says == "The same cost read again is the same to the last digit."
    for name in ("baseline_noise", "probe_noise", "read_noise", "write_noise"):
        assert found[name].value == 0


def test_a_range_that_is_not_all_there(tmp_path):
    device = chips(cost_noise=1e-5)
    inner = device._store.acting
    device._store.acting = lambda *given: np.clip(inner(*given), -4.0, 1.0)  # what saturates, and does not say so
    (found,) = concluded(measured(device, tmp_path)[0])
    assert found["range"].verdict == "cut"
    assert found["range"].estimate.high == pytest.approx(1.0, abs=0.3)


def test_a_stack_of_chips_equals_separate_ones(tmp_path):
    """Up to rounding."""
    stack, _ = measured(chips(3, cost_noise=1e-3, parameter_variation=0.1), tmp_path / "stack", 4000, 300)
    alone, _ = measured(chips(seed=2, cost_noise=1e-3, parameter_variation=0.1), tmp_path / "alone", 4000, 300, seed=2)
    for name, values in alone.each.items():
        np.testing.assert_allclose(stack.each[name][2], values, rtol=1e-9, atol=1e-12, err_msg=name)


def test_levels_are_nested(tmp_path):
    done, _ = measured(chips(cost_noise=1e-3, update_noise=0.01), tmp_path, 5000, 300)
    narrow, wide = (conclude(Chip(done.chip(()), done.ground, done.ground.theta, COST, level)) for level in (0.5, 0.99))
    for name in ("baseline_noise", "probe_noise", "write_noise", "gradient"):
        inner, outer = narrow[name].estimate, wide[name].estimate
        assert outer.low < inner.low < inner.high < outer.high
