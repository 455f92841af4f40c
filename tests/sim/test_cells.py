"""What every cell promises, whoever made it: pure functions, draws by name, stacks that equal separate chips."""

from dataclasses import fields

import numpy as np
import pytest

from hwtrain import draws
from hwtrain.checkpoint import flatten, unflatten
from hwtrain.errors import CapabilityError, ConfigError
from hwtrain.sim.cells import Stuck, uniform_at
from hwtrain.sim.composite import Differential, OneSided, Scaled, Vector
from hwtrain.sim.laws import ConstantStep, SoftBounds
from hwtrain.sim.pulsed import PowerLaw, Pulsed
from hwtrain.sim.tables import Table
from tests.sim.presets import CELLS, array, preset

SIZE = 12


def table():
    g, cdf = np.linspace(1e-6, 9e-6, 9), np.linspace(0, 1, 5)
    up = np.linspace(-0.1, 0.5, 5)[:, None] * (1.1e-5 - g) / 4
    return Table(np.stack([g, 1.5 * g]), cdf, np.stack([[-up, -2 * up], [up, 2 * up]]), read_noise=1e-8)


def everything():
    """A cell in which all that a pulsed cell knows goes on at once."""
    return Pulsed(
        law=SoftBounds(slope_up_dtod=0.1),
        dw_min=0.02,
        dw_min_dtod=0.2,
        dw_min_std=0.5,
        w_max=1.0,
        w_max_dtod=0.2,
        w_min=-1.0,
        write_noise_std=0.3,
        read_noise=0.01,
        read_noise_power=0.5,
        reset_std=0.1,
        lifetime=50.0,
        lifetime_dtod=0.2,
        diffusion=0.01,
        stuck=Stuck(low=0.1, high=0.1, anywhere=0.1),
        endurance=40.0,
        endurance_dtod=0.5,
        fatigue=0.3,
    )


MADE = {
    "everything": everything,
    "drifting": lambda: Pulsed(
        law=ConstantStep(), dw_min=0.02, w_max=1.0, w_min=-1.0, drift=PowerLaw(nu=0.1, nu_dtod=0.3)
    ),
    "table": table,
    "scaled table": lambda: Scaled(table()),
    "scaled reram": lambda: Scaled(preset("reram_cmo_2")),
    "pairs": lambda: Differential(preset("pcm_nandakumar2019")),
    "two pairs": lambda: Differential(preset("pcm_hermes_one"), significances=[1.0, 4.0]),
    "stuck pcm": lambda: Differential(preset("pcm_nandakumar2019", stuck=Stuck(low=0.2, high=0.1, anywhere=0.1))),
    "one-sided": lambda: OneSided(everything()),
    "vector": lambda: Vector(preset("reram_es"), gamma_vec=[0.5, 0.5]),
    "vector in turn": lambda: Vector(preset("ecram"), gamma_vec=[0.5, 0.3, 0.2], policy="in_turn"),
    "vector at random": lambda: Vector(preset("ecram"), gamma_vec=[0.5, 0.5], policy="random"),
    "reference cell": lambda: Vector(preset("reram_sb"), gamma_vec=[1.0, -1.0], policy="first"),
}
ALL = [*CELLS, *MADE]


@pytest.fixture(params=ALL)
def cell(request):
    return MADE[request.param]() if request.param in MADE else preset(request.param)


def life(cell, devices, state, chips):
    """Some of everything that can happen, other things on every chip; what was read on the way."""
    seen = []
    for turn in range(4):
        own = draws.uniform(np.asarray(chips, np.uint32), turn, SIZE)
        if cell.pulsed:
            state = cell.pulse(devices, state, np.rint(8 * own - 4).astype(int))
        else:
            state = cell.write(devices, state, cell.low + (cell.high - cell.low) * np.rint(4 * own) / 4)
        state = cell.age(devices, state, 1.5 * 10**turn)
        seen.append(cell.read(devices, state, np.arange(2 * turn, 2 * turn + 2)))
        seen.append(cell.held(devices, state))
    return state, seen


def same(a, b):
    return all(np.array_equal(getattr(a, field.name), getattr(b, field.name)) for field in fields(a))


class TestEveryCell:
    def test_tells_what_it_is(self, cell):
        assert cell.low < cell.high
        assert cell.unit in ("", "S")
        assert (cell.step > 0) == cell.pulsed

    def test_refuses_the_other_verb(self, cell):
        devices, state = array(cell, SIZE)
        verb, message = (cell.write, "moves by pulses") if cell.pulsed else (cell.pulse, "takes no pulses")
        with pytest.raises(CapabilityError, match=message):
            verb(devices, state, np.ones(SIZE, int))

    def test_shapes(self, cell):
        for seed, chips in ((3, ()), ([3, 4], (2,)), ([[1], [2], [3]], (3, 1))):
            devices, state = array(cell, SIZE, seed)
            assert cell.held(devices, state).shape == (*chips, SIZE)
            assert cell.read(devices, state, np.arange(5)).shape == (*chips, 5, SIZE)
            assert all(bound.shape == (*chips, SIZE) for bound in cell.reach(devices))
            assert cell.age(devices, state, 2.0).time.shape == chips

    def test_a_stack_equals_separate_chips(self, cell):
        seeds = [7, 100, 2**32 - 1]
        devices, state = array(cell, SIZE, seeds)
        state, seen = life(cell, devices, state, seeds)
        for chip, seed in enumerate(seeds):
            devices, alone = array(cell, SIZE, seed)
            alone, seen_alone = life(cell, devices, alone, seed)
            for field in fields(state):
                assert np.array_equal(getattr(state, field.name)[chip], getattr(alone, field.name)), field.name
            for together, apart in zip(seen, seen_alone, strict=True):
                assert np.array_equal(together[chip], apart)

    def test_nothing_is_changed_in_place_and_all_is_repeatable(self, cell):
        devices, state = array(cell, SIZE, [5, 6])
        state, _ = life(cell, devices, state, [5, 6])
        for held in (state, devices):
            for array_ in flatten("", held).values():
                array_.flags.writeable = False
        first = life(cell, devices, state, [5, 6])
        again = life(cell, array(cell, SIZE, [5, 6])[0], state, [5, 6])
        assert same(first[0], again[0])
        assert all(map(np.array_equal, first[1], again[1]))

    def test_goes_on_from_a_checkpoint_bit_for_bit(self, cell):
        devices, fresh = array(cell, SIZE, [5, 6])
        half, _ = life(cell, devices, fresh, [5, 6])
        restored = unflatten("state", fresh, flatten("state", half))
        assert same(life(cell, devices, half, [5, 6])[0], life(cell, devices, restored, [5, 6])[0])

    def test_a_reading_is_named_by_its_number(self, cell):
        devices, state = array(cell, SIZE, [5, 6])
        state, _ = life(cell, devices, state, [5, 6])
        together = cell.read(devices, state, np.arange(4))
        for number in (3, 0):
            assert np.array_equal(cell.read(devices, state, np.array([number]))[:, 0], together[:, number])

    def test_time_comes_from_age_alone(self, cell):
        devices, state = array(cell, SIZE, [5, 6])
        state, _ = life(cell, devices, state, [5, 6])
        assert same(cell.age(devices, state, 0.0), state)
        seconds = np.array([1.0, 3.0])
        assert np.array_equal(cell.age(devices, state, seconds).time, state.time + seconds)

    def test_other_seeds_make_other_draws(self, cell):
        states = []
        for seed in (1, 2):
            devices, state = array(cell, SIZE, seed)
            states.append(devices.normal("pulse", state.writes, True))
        assert not np.isin(*states).any()

    def test_what_a_device_does_is_its_own_affair(self, cell):
        """Neither the company of others' commands nor their number changes a device's draws."""
        if not cell.pulsed or "random" in repr(cell):
            pytest.skip("written in one command, or one device of several drawn for every command")
        devices, state = array(cell, SIZE)
        alone = np.zeros(SIZE, int)
        alone[3] = 9
        company = np.arange(SIZE) - 5
        company[3] = 4
        rest = np.where(np.arange(SIZE) == 3, 5, 0)
        once = cell.pulse(devices, state, alone)
        twice = cell.pulse(devices, cell.pulse(devices, state, company), rest)
        assert cell.held(devices, once)[3] == cell.held(devices, twice)[3]

    def test_no_command_no_wear(self, cell):
        devices, state = array(cell, SIZE)
        state, _ = life(cell, devices, state, 1)
        if cell.pulsed:
            again = cell.pulse(devices, state, np.zeros(SIZE, int))
        else:
            state = cell.write(devices, state, np.full(SIZE, cell.high))
            again = cell.write(devices, cell.age(devices, state, 0), np.full(SIZE, cell.high))
        assert same(again, state)

    def test_every_write_counts(self, cell):
        devices, state = array(cell, SIZE)
        if not cell.pulsed:
            written = cell.write(devices, state, np.full(SIZE, cell.high))
            assert (written.writes == 1).all()
            one = cell.write(devices, written, np.full(SIZE, cell.high), np.arange(SIZE) == 2)
            assert one.writes.sum() == written.writes.sum() + len(one.writes) // SIZE
        elif not isinstance(cell, Vector | OneSided):
            counts = np.arange(SIZE) - 5
            state = cell.pulse(devices, cell.pulse(devices, state, counts), -counts)
            assert state.writes.tolist() == (2 * np.abs(counts)).tolist()

    def test_stays_within_reach(self, cell):
        """Of a long train in either direction; but for write and read noise."""
        if not cell.pulsed:
            pytest.skip("programming noise leaves the range of targets")
        devices, state = array(cell, SIZE)
        low, high = cell.reach(devices)
        for counts in (300, -300):
            state = cell.pulse(devices, state, np.full(SIZE, counts))
            quiet = type(state)(state.value, 0 * state.error, state.writes, state.written, state.time)
            held = cell.held(devices, quiet)
            assert (held >= low - 1e-12).all()
            assert (held <= high + 1e-12).all()


class TestProgramming:
    """What the protocol is for: every way of bringing a pulsed cell to a target, over any cell, in a few lines."""

    CELLS = ("idealized", "gokmen_vlasov", "capacitor", "ecram", "neurosim_ag_si", "reram_array_om")

    @pytest.fixture
    def target(self):
        return 0.6 * (2 * draws.uniform(np.asarray(1, np.uint32), 0, 200) - 1)

    @pytest.mark.parametrize("name", ["idealized", "ecram", "capacitor"])
    def test_open_loop(self, name, target):
        cell = preset(name).nominal()
        devices, state = array(cell, 200)
        state = cell.pulse(devices, state, np.rint(target / cell.step))
        bent = 0.4 if name == "ecram" else 0.06  # a linear estimate of steps that shrink on the way
        assert np.abs(cell.held(devices, state) - target).max() < bent * 0.6 + cell.step

    @pytest.mark.parametrize("name", CELLS)
    def test_write_verify(self, name, target):
        cell = preset(name)
        devices, state = array(cell, 200)
        low, high = cell.reach(devices)
        reachable = (low + 0.05 < target) & (target < high - 0.05)
        for number in range(30):
            off = target - cell.read(devices, state, np.array([number]))[0]
            state = cell.pulse(devices, state, np.clip(np.rint(off / cell.step), -500, 500))
        off = np.abs(cell.held(devices, state) - target)[reachable]
        noise = cell.dw_min * max(1.0, cell.dw_min_std, cell.write_noise_std)
        assert np.median(off) < 2 * noise
        assert off.mean() < 4 * noise

    @pytest.mark.parametrize("name", CELLS)
    @pytest.mark.parametrize("most", [1, 10**6], ids=["threshold", "mixed precision"])
    def test_a_wish_that_adds_up(self, name, most, target):
        cell = preset(name)
        step, wish = cell.step, np.zeros(200)
        devices, state = array(cell, 200)
        for _ in range(200):
            wish = wish + 0.04 * (target - cell.held(devices, state))  # the descent of a quadratic cost
            counts = np.clip(np.trunc(wish / step), -most, most)
            wish = wish - counts * step
            state = cell.pulse(devices, state, counts)
        before, after = np.abs(target), np.abs(cell.held(devices, state) - target)
        if name == "idealized" and most == 1:  # whose steps are too small to arrive with 200 of them
            assert (after < before).mean() > 0.9
        else:
            assert np.median(after) < max(0.3 * np.median(before), 3 * step)


class TestStuck:
    def test_shares_and_places(self):
        cell = Pulsed(
            law=ConstantStep(), dw_min=0.01, w_max=1.0, w_min=-1.0, write_noise_std=9.0, stuck=Stuck(0.1, 0.05, 0.2)
        )
        devices, state = array(cell, 40_000)
        low, high = cell.reach(devices)
        stuck, n = low == high, 40_000
        for share, found in ((0.1, (high == -1).mean()), (0.05, (low == 1).mean()), (0.35, stuck.mean())):
            assert abs(found - share) < 5 * np.sqrt(share * (1 - share) / n)
        anywhere = low[stuck & (np.abs(low) < 1)]
        assert abs(anywhere.mean()) < 5 * np.sqrt(1 / 3 / len(anywhere))
        assert anywhere.std() == pytest.approx(np.sqrt(1 / 3), rel=0.05)
        state = cell.pulse(devices, state, np.full(n, 37))
        assert np.array_equal(cell.held(devices, state)[stuck], low[stuck])

    def test_corrupt_devices_of_aihwkit_sit_near_zero(self):
        """Trap: not at the ends of the range."""
        cell = preset("reram_array_om", stuck=Stuck(anywhere=0.1348, within=0.01))
        devices, _ = array(cell, 40_000)
        low, high = (bound + devices["reference"] for bound in cell.reach(devices))
        stuck = low == high
        assert abs(stuck.mean() - 0.1348) < 5 * np.sqrt(0.1348 * 0.8652 / 40_000)
        assert np.abs(low[stuck]).max() <= 0.01

    def test_refuses_shares_that_cannot_be(self):
        with pytest.raises(
            ConfigError, match=r"cell\.stuck\.low must be a finite number of at least 0 and of at most 1"
        ):
            Stuck(low=1.5)
        with pytest.raises(ConfigError, match=r"low=0\.5, high=0\.3 and anywhere=0\.3 add up to more than 1"):
            Stuck(low=0.5, high=0.3, anywhere=0.3)
        with pytest.raises(ConfigError, match="within must be a number above 0"):
            Stuck(within=0.0)


class TestDraws:
    def test_a_device_at_its_own_count_draws_what_all_draw_at_that_count(self):
        seed = np.array([3, 4], np.uint32)
        counts = np.array([[0, 5, 2, 5], [1, 1, 0, 2**33]])
        found = uniform_at(seed[:, None], counts, np.arange(4))
        for (chip, index), count in np.ndenumerate(counts):
            assert found[chip, index] == draws.uniform(seed, count, 4)[chip, index]

    def test_fabrication_and_cycles_share_no_draw(self):
        """The noise of the first pulse knows nothing of the step size, the bounds or the noise of the second."""
        n = 40_000
        cell = Pulsed(
            law=ConstantStep(), dw_min=1e-3, dw_min_dtod=0.1, dw_min_std=1.0, w_max=1.0, w_max_dtod=0.1, w_min=-1.0
        )
        devices, state = array(cell, n)
        once = cell.pulse(devices, state, np.ones(n, int))
        twice = cell.pulse(devices, once, np.ones(n, int))
        first = once.value / devices["up"] - 1
        second = (twice.value - once.value) / devices["up"] - 1
        reading = cell.read(devices, state, np.arange(1))[0]
        assert not reading.any()
        for other in (devices["up"], devices["high"], second):
            assert abs(np.corrcoef(first, other)[0, 1]) < 5 / np.sqrt(n)

    def test_tails_are_whole(self):
        """Trap: normals from a list of 32768 stop near 4 sigma and come again; a pulse's noise does neither."""
        n = 300_000
        cell = Pulsed(law=ConstantStep(), dw_min=1e-3, dw_min_std=1.0, w_max=1.0, w_min=-1.0)
        devices, state = array(cell, n)
        noise = cell.pulse(devices, state, np.ones(n, int)).value / 1e-3 - 1
        assert np.abs(noise).max() > 4.2
        assert len(np.unique(noise)) > 0.999 * n
        assert abs((np.abs(noise) > 3).mean() - 0.0027) < 5 * np.sqrt(0.0027 / n)
