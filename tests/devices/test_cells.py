"""Simulated chips whose parameters stand in cells: the kit, and how values become pulses."""

import numpy as np
import pytest

from hwtrain import draws
from hwtrain.conformance import DeviceConformance
from hwtrain.core import Can, Measure, Probes, Program, Pulse, Read, Sample, split
from hwtrain.costs import CrossEntropy, MeanSquaredError
from hwtrain.devices.programming import SCHEMES, Programmed, simulated_cells
from hwtrain.devices.simulated import Simulated
from hwtrain.errors import CapabilityError, ConfigError, LimitError
from hwtrain.perturb import Rademacher
from hwtrain.sim.composite import Differential, Scaled
from hwtrain.sim.crossbar import Crossbar
from hwtrain.sim.laws import ConstantStep
from hwtrain.sim.networks import mgd2025, mlp
from hwtrain.sim.pulsed import Pulsed
from tests.sim.presets import preset

NETWORK = mlp([3, 2, 2])
SIZE = NETWORK.size


IDEAL = Pulsed(law=ConstantStep(), dw_min=0.01, w_max=1.0, w_min=-1.0)


def cells(name=None, programming=None, **settings):
    cell = IDEAL if name is None else preset(name)
    return simulated_cells(NETWORK, MeanSquaredError(), cell, programming, **settings)


def random(low, high, seed=0):
    return np.random.default_rng(seed).uniform(low, high, SIZE)


class TestWrittenCells(DeviceConformance):
    """Phase-change memory takes values; every reading of it differs."""

    @pytest.fixture
    def make(self):
        weights = Scaled(Differential(preset("pcm_hermes_one")), low=-2.0, high=2.0)

        def make(**more):
            settings = {"seed": 3, "chips": 3, "read_seconds": 1e-3} | more
            return simulated_cells(NETWORK, MeanSquaredError(), weights, **settings)

        return make

    @pytest.fixture
    def device(self, make):
        return make()

    @pytest.fixture
    def another(self, make):
        return make()

    @pytest.fixture
    def single(self, make):
        return lambda index: make(seed=3 + index, chips=None)

    @pytest.fixture
    def allowance(self):
        return 0.2

    @pytest.fixture
    def difference(self):
        return None  # every write lands elsewhere


class TestPulses:
    def test_values_are_refused_where_only_pulses_go(self):
        with pytest.raises(CapabilityError, match="takes no values"):
            cells().execute([Program(np.zeros(SIZE))])

    def test_pulses_are_refused_where_only_values_go(self):
        with pytest.raises(CapabilityError, match="takes values and no pulses"):
            Simulated(NETWORK, MeanSquaredError()).execute([Pulse(np.zeros(SIZE, int))])

    @pytest.mark.parametrize("counts", [np.zeros(SIZE), np.zeros(SIZE + 1, int)], ids=["type", "shape"])
    def test_counts_are_whole_numbers_one_for_each_parameter(self, counts):
        with pytest.raises(LimitError, match="takes whole numbers"):
            cells().execute([Pulse(counts)])

    def test_pulses_move_by_the_step(self):
        device = cells(precision="double")
        step = device.spec.step
        counts = np.arange(SIZE) - 5
        before, after = device.execute([Read(), Pulse(counts), Read()])
        assert after.theta - before.theta == pytest.approx(counts * step, rel=1e-9, abs=1e-12)

    def test_a_snapshot_goes_on_bit_for_bit(self):
        rough = {"name": "reram_es", "seed": 2, "chips": 2, "read_seconds": 1e-3}
        one, other = cells(**rough), cells(**rough)
        counts = np.random.default_rng(1).integers(-9, 9, (2, SIZE))
        sample = Sample(np.ones((1, 2, 3)), np.ones((1, 2, 2)))
        one.execute([Pulse(counts), Measure(sample), Read()])
        other.restore(one.snapshot())
        for device in (one, other):
            device.execute([Pulse(-counts)])
        first, second = (device.execute([Read(), Measure(sample)]) for device in (one, other))
        assert first == second


class TestProgrammed:
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_a_parameter_whose_target_did_not_move_is_not_written(self, scheme):
        device = cells("reram_es", scheme)
        target = random(-0.5, 0.5)
        device.execute([Program(target)])
        before = device.pulses
        again = target.copy()
        again[4] += 0.2
        device.execute([Program(target), Program(again), Program(again)])
        assert np.flatnonzero(device.pulses - before).tolist() == [4]

    @pytest.mark.parametrize(("scheme", "off"), [("open_loop", 0.5), ("mixed_precision", 1.0), ("write_verify", 1.0)])
    def test_on_ideal_cells_what_is_left_is_less_than_a_step(self, scheme, off):
        device = cells(programming=scheme, tolerance=0.51)
        inner = device._inner
        target = random(-0.5, 0.5)
        device.execute([Program(target)])
        (reading,) = inner.execute([Read()])
        assert np.abs(reading.theta - target).max() <= off * inner.spec.step * (1 + 1e-9)

    def test_threshold_gives_one_pulse_at_most(self):
        device = cells(programming="threshold")
        device.execute([Program(random(-0.5, 0.5))])
        assert set(device.pulses.tolist()) <= {0, 1}

    def test_mixed_precision_adds_small_wishes_up(self):
        """Nandakumar et al. 2020: what makes no pulse stays until it does."""
        device = cells(programming="mixed_precision")
        step, wish = device._step, np.zeros(SIZE)
        for _ in range(10):
            wish = wish + 0.35 * step
            device.execute([Program(wish)])
        assert device.pulses.tolist() == [3] * SIZE

    def test_write_verify_comes_near_where_blind_writing_does_not(self):
        target = np.stack([random(-0.3, 0.3)] * 20)
        left = {}
        for scheme in ("open_loop", "write_verify"):
            device = cells("ecram", scheme, chips=20, tolerance=2.0, rounds=40)
            device.execute([Program(target)])
            (reading,) = device._inner.execute([Read()])
            left[scheme] = np.abs(reading.theta - target).mean()
        assert left["write_verify"] < 0.25 * left["open_loop"]

    def test_a_budget_of_pulses_is_kept(self):
        device = cells(programming="open_loop", most_pulses=10)
        step = device._step
        device.execute([Program(np.full(SIZE, 10 * step))])
        with pytest.raises(LimitError, match="pulse number 11"):
            device.execute([Program(np.full(SIZE, 9 * step))])
        assert device.pulses.max() == 10

    def test_pulses_are_counted(self):
        device = cells(programming="open_loop")
        device.execute([Program(np.full(SIZE, 3 * device._step)), Program(np.full(SIZE, 1 * device._step))])
        assert device.counts()["traffic"]["pulses"] == 5 * SIZE
        assert device.counts()["traffic"]["most pulses of a parameter"] == 5

    def test_energy_of_pulses_is_counted_where_its_source_gives_it(self):
        """Pulse by pulse, V^2 g t with the conductance half way."""
        device = cells("neurosim_ag_si", "open_loop")
        inner, energy = device._inner, preset("neurosim_ag_si").energy
        assert "energy of pulses [pJ]" not in cells("ecram", "open_loop").counts()["traffic"]
        joules = 0.0
        for target in (0.1, -0.2):
            before = inner._store._position(inner._store._state)
            counts = device.pulses.copy()
            device.execute([Program(np.full(SIZE, target))])
            after = inner._store._position(inner._store._state)
            up = target > 0
            volts = energy.up_volts if up else energy.down_volts
            g = energy.g_low + (energy.g_high - energy.g_low) * (before + after) / 2
            joules += ((device.pulses - counts) * volts**2 * g * energy.pulse_seconds).sum()
        assert device.counts()["traffic"]["energy of pulses [pJ]"] == round(joules * 1e12) > 0

    def test_energy_of_readings_is_counted_at_the_full_voltage(self):
        device, energy = (
            Simulated(NETWORK, MeanSquaredError(), cell=preset("neurosim_ag_si")),
            preset("neurosim_ag_si").energy,
        )
        g = energy.g_low + (energy.g_high - energy.g_low) / 2  # as they leave the fab
        sample = Sample(np.zeros((2, 3, NETWORK.inputs)), np.zeros((2, 3, NETWORK.outputs)))
        probes = Probes(Rademacher(amplitude=0.1), np.array(0, np.uint32), 0, 4)
        device.execute([Measure(sample), Measure(sample, probes), Read()])
        joules = (6 + 4 * 6 + 1) * SIZE * energy.read_volts**2 * g * energy.read_seconds
        assert device.counts()["traffic"]["energy of readings at most [fJ]"] == round(joules * 1e15) > 0

    def test_what_cannot_be_pulsed_is_refused(self):
        with pytest.raises(CapabilityError, match="needs PULSE, READ"):
            Programmed(Simulated(NETWORK, MeanSquaredError()), "write_verify")

    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_a_snapshot_goes_on_bit_for_bit(self, scheme):
        one, other = cells("reram_sb", scheme), cells("reram_sb", scheme)
        one.execute([Program(random(-0.2, 0.2))])
        other.restore(one.snapshot())
        sample = Sample(np.ones((1, 2, 3)), np.ones((1, 2, 2)))
        commands = [Program(random(-0.2, 0.2, 1)), Measure(sample, observe=Can.COST | Can.OUTPUT)]
        assert one.execute(commands) == other.execute(commands)
        assert np.array_equal(one.pulses, other.pulses)


class TestReads:
    """Layers read by converters and wires."""

    NETWORK = mlp([6, 5, 3], "tanh", "linear")

    def chips(self, chips=2, **settings):
        return Simulated(self.NETWORK, MeanSquaredError(), chips=chips, low=-1, high=1, **settings)

    def test_outputs_are_the_products_of_the_periphery(self):
        """Layer by layer, by its own function."""
        reads = preset("standard", "crossbar")
        device, theta = self.chips(reads=reads), np.random.default_rng(0).uniform(-1, 1, (2, 53))
        x = np.random.default_rng(1).uniform(0, 1, (1, 4, 6))
        (reading,) = device.execute([Program(theta), Measure(Sample(x), observe=Can.OUTPUT)])
        for chip in range(2):
            values = x[0]
            for number, (matrix, bias) in enumerate(split(theta[chip], self.NETWORK.layers)):
                seed = draws.derive(np.uint32(chip), f"reads of layer {number}")
                product, _ = reads.multiply(reads.fabricate(seed, len(bias)), matrix, values, 0)
                values = product + bias if number else np.tanh(product + bias)
            assert reading.output[chip, 0, 0] == pytest.approx(values, abs=1e-12)

    def test_an_ideal_periphery_changes_nothing(self):
        theta = np.random.default_rng(0).uniform(-1, 1, (2, 53))
        sample = Sample(np.ones((1, 4, 6)), np.zeros((1, 4, 3)))
        one, other = (device.execute([Program(theta), Measure(sample)]) for device in (
            self.chips(), self.chips(reads=Crossbar())
        ))  # fmt: skip
        assert one[0].cost == pytest.approx(other[0].cost, rel=1e-12)

    def test_convolutions_are_refused(self):
        network = mgd2025(1)
        with pytest.raises(ConfigError, match=r"device.reads: .* of convolutions.*device/reads=null"):
            Simulated(network, CrossEntropy(), reads=Crossbar())

    def test_written_cells_are_read_by_it_too(self):
        device = cells(reads=preset("training", "crossbar"), programming="mixed_precision")
        sample = Sample(np.ones((1, 2, 3)), np.ones((1, 2, 2)))
        first, second = device.execute([Program(random(-0.5, 0.5)), Measure(sample), Measure(sample)])
        assert first.cost != second.cost  # noise of the converters


class TestReadsConformance(DeviceConformance):
    @pytest.fixture
    def device(self):
        quiet = preset("standard", "crossbar", out_noise=0.0)
        return Simulated(NETWORK, MeanSquaredError(), low=-1, high=1, reads=quiet)

    @pytest.fixture
    def difference(self):
        return None  # converters have steps
