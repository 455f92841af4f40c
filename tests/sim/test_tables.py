"""Look-up-table cells: what is sampled is what was measured."""

import os
from pathlib import Path

import numpy as np
import pytest

from hwtrain.errors import ConfigError, DataError
from hwtrain.sim.cells import Stuck
from hwtrain.sim.tables import Table, joined, load_table, save_table, table_from_steps, table_from_traces
from tests.sim.presets import array, pulsed

DATA = Path(os.environ.get("HWTRAIN_DATA", "data")) / "devices"
MEASURED = pytest.mark.skipif(not DATA.is_dir(), reason="measured tables are not here; HWTRAIN_DATA names their folder")
N = 40_000
G = np.linspace(1.0, 3.0, 11)
CDF = np.array([0.0, 0.1, 0.5, 1.0])


def made(**settings):
    """Two devices; steps up of 0.1 to 0.3 whatever the conductance, steps down in proportion to it."""
    up = np.array([0.1, 0.15, 0.2, 0.3])[:, None] + 0 * G
    down = -np.array([0.05, 0.04, 0.02, 0.01])[:, None] * G
    return Table(np.stack([G, G + 1]), CDF, np.stack([[down, 2 * down], [up, 2 * up]]), unit="", **settings)


class TestTable:
    def test_one_pulse_has_the_distribution_of_the_table(self):
        cell = made()
        devices, state = array(cell, N)
        chosen = devices["table"]
        assert abs(chosen.mean() - 0.5) < 5 * 0.5 / np.sqrt(N)
        change = pulsed(cell, devices, state, 1).value - state.value
        for device, factor in ((0, 1.0), (1, 2.0)):
            found = np.quantile(change[chosen == device], [0.05, 0.1, 0.3, 0.5, 0.75])
            assert found == pytest.approx(factor * np.array([0.125, 0.15, 0.175, 0.2, 0.25]), rel=0.02)
        assert change[chosen == 0].min() >= 0.1
        assert change[chosen == 0].max() <= 0.3

    def test_between_conductances_it_interpolates(self):
        cell = made()
        devices, state = array(cell, 2000)
        chosen = devices["table"]
        for start in (1.37, 2.61):
            values = np.where(chosen == 0, start, start + 1)
            state = type(state)(values, state.error, state.writes, state.written, state.time)
            down = (pulsed(cell, devices, state, -1).value - values)[chosen == 0]
            assert down.min() >= -0.05 * start - 1e-12
            assert down.max() <= -0.01 * start + 1e-12
            assert np.median(down) == pytest.approx(-0.02 * start, rel=0.05)

    def test_stays_within_what_was_measured(self):
        cell = made()
        devices, state = array(cell, 50)
        assert np.array_equal(pulsed(cell, devices, state, 100).value, devices["high"])
        assert state.value == pytest.approx((devices["low"] + devices["high"]) / 2)

    def test_stuck_and_noisy(self):
        cell = made(stuck=Stuck(low=0.2, anywhere=0.3), read_noise=0.01)
        devices, state = array(cell, 2000)
        low, high = cell.reach(devices)
        stuck = low == high
        assert abs(stuck.mean() - 0.5) < 5 * 0.5 / np.sqrt(2000)
        after = pulsed(cell, devices, state, 3)
        assert np.array_equal(after.value[stuck], state.value[stuck])
        assert (after.value[~stuck] > state.value[~stuck]).all()
        assert (cell.read(devices, after, np.arange(1))[0] - after.value).std() == pytest.approx(0.01, rel=0.1)

    def test_nominal_step(self):
        up = 0.1 * 0.125 + 0.4 * 0.175 + 0.5 * 0.25
        down = 2.0 * (0.1 * 0.045 + 0.4 * 0.03 + 0.5 * 0.015)
        assert made().step == pytest.approx(1.5 * (up + down) / 2)


def test_saved_and_loaded(tmp_path):
    one = made()
    save_table(tmp_path / "table.npz", one)
    again = load_table(str(tmp_path / "table.npz"), read_noise=0.5, stuck=Stuck(anywhere=0.1), unit="V")
    assert np.array_equal(again.g, one.g)
    assert again.change == pytest.approx(one.change, rel=1e-6)
    assert (again.read_noise, again.stuck, again.unit) == (0.5, Stuck(anywhere=0.1), "V")


def test_joined_tables_copy_the_devices_of_all():
    both = joined([made(), made()])
    assert np.array_equal(both.g, np.concatenate([made().g] * 2))
    assert np.array_equal(both.change[:, 2:], made().change)


def test_noise_of_reading_is_taken_off_the_steps():
    rng, held = np.random.default_rng(1), [1.0]
    for _ in range(6000):
        held.append(min(max(held[-1] + rng.choice([-1, 1]) * 0.1 * (1 + 0.2 * rng.standard_normal()), 0.0), 2.0))
    held = np.array(held)
    up, read = np.diff(held) > 0, held + 0.03 * rng.standard_normal(held.size)
    spreads = [
        table_from_steps(read[:-1], read[1:], up, nodes=5, neighbours=500, read_noise=noise).change[:, 0, :, 2].std(1)
        for noise in (0.0, 0.03)
    ]
    assert spreads[0] == pytest.approx(np.hypot(0.02, 0.03 * np.sqrt(2)), rel=0.1)
    assert spreads[1] == pytest.approx(0.02, rel=0.25)


class TestTraces:
    def test_recovers_the_law_that_made_them(self):
        rng = np.random.default_rng(0)
        up = [np.cumsum(np.r_[1.0, 0.02 * (1 + 0.3 * rng.standard_normal(100))]) for _ in range(30)]
        down = [3 * 0.99 ** np.arange(100.0) for _ in range(3)]
        cell = table_from_traces(up, down, nodes=21, neighbours=60)
        devices, state = array(cell, N)
        change = pulsed(cell, devices, state, 1).value - state.value
        assert change.mean() == pytest.approx(0.02, rel=0.05)
        assert change.std() == pytest.approx(0.006, rel=0.15)
        fall = pulsed(cell, devices, state, -1).value / state.value - 1
        assert fall.mean() == pytest.approx(-0.01, rel=0.05)

    def test_needs_pulses(self):
        with pytest.raises(DataError, match="4 pulses down were measured; neighbours=20 needs more"):
            table_from_traces([np.arange(50.0)], [np.arange(5.0)])
        with pytest.raises(ConfigError, match=r"cell\.nodes must be a whole number of at least 2"):
            table_from_traces([np.arange(50.0)], [np.arange(50.0)], nodes=1)

    @MEASURED
    def test_measured_reram_ramps_come_back(self):
        """Half of the ramps make the table; over the range of conductance, it moves as the other half did."""
        arrays = np.load(DATA / "reram_set_reset_ramps.npz")
        ramps = {}
        for kind in ("set", "reset"):
            ends = np.cumsum(arrays[f"{kind}_len"])[:-1]
            ramps[kind] = np.split(arrays[f"{kind}_current"] / arrays["read_voltage"], ends)
        cell = table_from_traces(ramps["set"][::2], ramps["reset"][::2], neighbours=60)
        devices, state = array(cell, 2000)
        for kind, sign in (("set", 1), ("reset", -1)):
            held_out = ramps[kind][1::2]
            pulses = min(map(len, held_out)) - 1
            start = np.mean([ramp[0] for ramp in held_out])
            end = np.mean([ramp[pulses] for ramp in held_out])
            begun = type(state)(0 * state.value + start, state.error, state.writes, state.written, state.time)
            found = pulsed(cell, devices, begun, sign * pulses).value.mean()
            assert found == pytest.approx(end, abs=0.06 * abs(end - start))


class TestFiles:
    @MEASURED
    @pytest.mark.parametrize(
        ("name", "prefix", "devices"), [("taox_lut", "", 41), ("ecram_lut", "multi_", 9), ("ecram_lut", "single_", 1)]
    )
    def test_measured_tables(self, name, prefix, devices):
        cell = load_table(str(DATA / f"{name}.npz"), prefix)
        assert len(cell.g) == devices
        made_, state = array(cell, 4000)
        column = cell.g.shape[1] // 2
        middle = cell.g[made_["table"], column]
        state = type(state)(middle, state.error, state.writes, state.written, state.time)
        dense = (np.arange(1000) + 0.5) / 1000
        for row, sign in ((1, 1), (0, -1)):
            table = [np.interp(dense, cell.cdf, cell.change[row, device, :, column]) for device in range(devices)]
            ends = np.clip(cell.g[:, column, None] + table, cell.g[:, :1], cell.g[:, -1:])
            expected = (ends - cell.g[:, column, None]).mean(axis=1)[made_["table"]]
            change = pulsed(cell, made_, state, sign).value - middle
            assert abs((change - expected).mean()) < 5 * np.std(change - expected) / np.sqrt(4000)
            assert sign * change.mean() > 0

    @MEASURED
    def test_chosen_devices(self):
        whole = load_table(str(DATA / "taox_lut.npz"))
        some = load_table(str(DATA / "taox_lut.npz"), devices=[2, 4, 6])
        assert np.array_equal(some.g, whole.g[[2, 4, 6]])
        assert np.array_equal(some.change, whole.change[:, [2, 4, 6]])

    def test_what_cannot_be_read_is_named(self, tmp_path):
        path = tmp_path / "table.npz"
        with pytest.raises(DataError, match=r"table\.npz cannot be read"):
            load_table(str(path))
        path.write_bytes(b"nothing of the kind")
        with pytest.raises(DataError, match=r"table\.npz cannot be read"):
            load_table(str(path))
        np.savez(path, g=G, cdf=CDF)
        with pytest.raises(DataError, match="has no array 'dg_down'; there is g, cdf"):
            load_table(str(path))
        np.savez(path, g=G, cdf=CDF, dg_down=np.zeros((4, 11)), dg_up=np.zeros((4, 10)))
        with pytest.raises(DataError, match="dg_down has the shape"):
            load_table(str(path))


@pytest.mark.parametrize(
    ("g", "cdf", "change", "message"),
    [
        (G[None], CDF, np.zeros((2, 1, 4, 10)), r"changes \(2, 1, 4, 10\) do not go together"),
        (G[None], CDF, np.full((2, 1, 4, 11), np.nan), "a number is not finite"),
        (G[None] ** 2, CDF, np.zeros((2, 1, 4, 11)), "must ascend in even steps"),
        (G[None], CDF[::-1], np.zeros((2, 1, 4, 11)), "probabilities must ascend from 0 to 1"),
    ],
)
def test_refuses_tables_that_cannot_be(g, cdf, change, message):
    with pytest.raises(DataError, match=message):
        Table(g, cdf, change)
