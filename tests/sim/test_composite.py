"""Cells made of cells: weights from conductances, one-sided pairs, several devices for a parameter."""

import math
from dataclasses import replace

import numpy as np
import pytest

from hwtrain.errors import ConfigError
from hwtrain.sim.cells import Stuck
from hwtrain.sim.composite import Differential, OneSided, Scaled, Vector
from tests.sim.presets import array, preset, pulsed

EXACT = preset("pcm_nandakumar2019", programming_scale=0.0, ageing=None, reading=None)


class TestDifferential:
    def test_one_device_of_a_pair_is_at_its_lowest(self):
        cell = Differential(replace(EXACT, g_min=5e-6))
        devices, state = array(cell, 3)
        state = cell.write(devices, state, np.array([0.6, -0.25, 0.0]))
        assert cell.held(devices, state) == pytest.approx([0.6, -0.25, 0.0])
        assert state.value.reshape(2, 3) == pytest.approx(np.array([[17e-6, 5e-6, 5e-6], [5e-6, 10e-6, 5e-6]]))

    def test_pairs_are_filled_in_order_of_significance(self):
        cell = Differential(EXACT, significances=[1.0, 4.0])
        devices, state = array(cell, 4)
        target = np.array([0.1, 0.2, -0.6, 1.0])
        state = cell.write(devices, state, target)
        assert cell.held(devices, state) == pytest.approx(target)
        shares = state.value.reshape(2, 2, 4) / 25e-6
        assert shares[0, 0] == pytest.approx([0.5, 1.0, 0.0, 1.0])
        assert shares[1, 0] == pytest.approx([0.0, 0.0, 0.0, 1.0])
        assert shares[0, 1] == pytest.approx([0.0, 0.0, 1.0, 0.0])
        assert shares[1, 1] == pytest.approx([0.0, 0.0, 0.5, 0.0])

    def test_errors_of_a_significant_pair_weigh_more(self):
        cell = Differential(preset("pcm_nandakumar2019"), significances=[1.0, 4.0])
        devices, state = array(cell, 100)
        target = np.linspace(-1, 1, 100)
        state = cell.write(devices, state, target)
        plus, minus, more_plus, more_minus = state.error.reshape(4, 100) / 25e-6
        expected = ((plus - minus) + 4 * (more_plus - more_minus)) / 5
        assert cell.held(devices, state) - target == pytest.approx(expected, abs=1e-12)

    def test_a_stuck_device_takes_its_part_of_the_reach(self):
        cell = Differential(replace(EXACT, stuck=Stuck(low=0.3, high=0.2)))
        devices, state = array(cell, 200)
        low, high = cell.reach(devices)
        for target, bound in ((np.ones(200), high), (-np.ones(200), low)):
            assert cell.held(devices, cell.write(devices, state, target)) == pytest.approx(bound)
        assert sorted({*np.round(low, 9), *np.round(high, 9)}) == [-1.0, 0.0, 1.0]

    def test_which_names_parameters(self):
        cell = Differential(EXACT)
        devices, state = array(cell, 3)
        state = cell.write(devices, state, np.array([0.5, 0.5, 0.5]), np.array([True, False, False]))
        assert cell.held(devices, state).tolist() == [0.5, 0.0, 0.0]


class TestScaled:
    def test_written(self):
        cell = Scaled(replace(preset("reram_cmo_2"), programming_scale=0.0))
        devices, state = array(cell, 3)
        target = np.array([-1.0, 0.2, 1.0])
        state = cell.write(devices, state, target)
        assert cell.held(devices, state) == pytest.approx(target)
        assert state.value == pytest.approx(9e-6 + (target + 1) / 2 * 79.199997e-6)
        assert cell.reach(devices)[1] == pytest.approx([1.0] * 3)

    def test_pulsed(self):
        inner = preset("ecram").nominal()
        cell = Scaled(inner, low=0.0, high=4.0)
        devices, state = array(cell, 2)
        before = cell.held(devices, state)
        after = cell.held(devices, pulsed(cell, devices, state, 1))
        assert after - before == pytest.approx([cell.step] * 2, rel=1e-9)
        assert cell.step == pytest.approx(2 * inner.step)


class TestOneSided:
    def test_pulses_go_up_on_one_device_or_the_other(self):
        cell = OneSided(preset("pcm").nominal())
        devices, state = array(cell, 3)
        state = cell.pulse(devices, state, np.array([20, -20, 0]))
        assert cell.held(devices, state) == pytest.approx([1.2173604, -1.2173604, 0.0], abs=1e-7)
        assert state.value.reshape(2, 3)[:, 0] == pytest.approx([1.2173604, 0.0], abs=1e-7)
        assert state.writes.tolist() == [20, 0, 0, 0, 20, 0]
        state = cell.pulse(devices, state, np.array([-20, 0, 0]))
        assert cell.held(devices, state)[0] == pytest.approx(0.0)
        assert state.value[0] > 1.2

    def test_refresh_empties_full_pairs_and_keeps_their_difference(self):
        cell = preset("pcm_pair")
        cell = replace(cell, cell=cell.cell.nominal())
        devices, state = array(cell, 4)
        state = cell.pulse(devices, state, np.array([80, 80, 10, 0]))
        state = cell.pulse(devices, state, np.array([-25, 0, -10, 0]))
        before = cell.held(devices, state)
        after, full = cell.refresh(devices, state, 0)
        assert full.tolist() == [True, False, False, False]
        assert np.array_equal(cell.held(devices, after)[1:], before[1:])
        assert after.value.reshape(2, 4)[:, 0].min() == pytest.approx(0.01)
        assert abs(cell.held(devices, after)[0] - before[0]) < 2 * cell.step
        assert after.writes.reshape(2, 4)[1, 0] == state.writes.reshape(2, 4)[1, 0] + 1

    def test_a_pair_fills_up_and_refreshing_lets_it_go_on(self):
        cell = preset("pcm_pair")
        devices, state = array(cell, 500)
        worn = state
        for number in range(60):
            for sign in (1, -1):
                worn = pulsed(cell, devices, worn, sign)
                state, _ = cell.refresh(devices, pulsed(cell, devices, state, sign), number)
        free = [
            np.diff([cell.held(devices, s).mean(), cell.held(devices, pulsed(cell, devices, s, 5)).mean()])[0]
            for s in (worn, state)
        ]
        assert free[1] > 2 * free[0]


class TestVector:
    def test_sum_of_devices(self):
        cell = Vector(preset("idealized"), gamma_vec=[0.75, 0.25])
        devices, state = array(cell, 1000)
        state = pulsed(cell, devices, state, 100)
        apart = state.value.reshape(2, 1000)
        assert cell.held(devices, state) == pytest.approx(0.75 * apart[0] + 0.25 * apart[1])
        assert (state.writes == 100).all()
        assert cell.step == pytest.approx(0.0002)

    def test_more_devices_average_their_noise(self):
        wide = []
        for n in (1, 4):
            cell = Vector(
                preset("reram_es"), gamma_vec=[1 / max(n, 2)] * max(n, 2), policy="first" if n == 1 else "all"
            )
            devices, state = array(cell, 20_000)
            noise = pulsed(cell, devices, state, 1).error.reshape(-1, 20_000)
            wide.append((noise[:n].mean(axis=0)).std())
        assert wide[0] / wide[1] == pytest.approx(2.0, rel=0.03)

    def test_in_turn(self):
        cell = Vector(preset("idealized").nominal(), gamma_vec=[1.0, 1.0, 1.0], policy="in_turn")
        devices, state = array(cell, 2)
        for counts, writes in ((2, [1, 1, 0]), (-2, [2, 1, 1]), (7, [4, 4, 3])):
            state = pulsed(cell, devices, state, counts)
            assert state.writes.reshape(3, 2).T.tolist() == [writes, writes]
        assert cell.held(devices, state) == pytest.approx(7 * 0.0002)
        assert cell.step == pytest.approx(0.0002)

    def test_at_random_one_device_of_a_parameter_takes_each_command(self):
        cell = Vector(preset("idealized"), gamma_vec=[0.5, 0.5], policy="random")
        devices, state = array(cell, 4000)
        state = pulsed(cell, devices, state, 3)
        first = state.writes.reshape(2, 4000)
        assert (first.sum(axis=0) == 3).all()
        assert set(np.unique(first)) == {0, 3}
        assert abs((first[0] == 3).mean() - 0.5) < 5 * 0.5 / math.sqrt(4000)
        second = pulsed(cell, devices, state, 1).writes.reshape(2, 4000) - first
        assert abs((second[0] == (first[0] > 0)).mean() - 0.5) < 5 * 0.5 / math.sqrt(4000)

    def test_a_reference_cell_moves_its_first_device_only(self):
        cell = Vector(preset("reram_sb"), gamma_vec=[1.0, -1.0], policy="first")
        devices, state = array(cell, 10)
        state = pulsed(cell, devices, state, 5)
        assert state.writes.reshape(2, 10).tolist() == [[5] * 10, [0] * 10]
        assert (cell.low, cell.high) == (-2.0, 2.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Differential(preset("ecram")), "Pulsed moves by pulses; Differential writes its devices"),
        (
            lambda: Differential(EXACT, [4.0, 1.0]),
            r"significances must be numbers in ascending order, not \[4.0, 1.0\]",
        ),
        (lambda: OneSided(EXACT), "OneSided pulses and resets its devices; Written cannot"),
        (lambda: OneSided(preset("pcm"), 0.2, 0.5), r"cell\.refresh_lower must be .* \(not above refresh_upper\)"),
        (lambda: Vector(EXACT, [1.0, 1.0]), "Written is written; Vector pulses its devices"),
        (lambda: Vector(preset("ecram"), [1.0]), "must name at least 2 devices, not 1"),
        (lambda: Vector(preset("ecram"), [1.0, -1.0]), "must have a weight above 0"),
        (lambda: Vector(preset("ecram"), [1.0, 1.0], "randm"), "Did you mean 'random'"),
        (lambda: Scaled(preset("ecram"), 1.0, 1.0), r"cell\.high must be a finite number above 1"),
    ],
)
def test_refuses_what_cannot_be(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
