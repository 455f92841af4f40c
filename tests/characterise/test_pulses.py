"""Pulsed devices: what was planted in simulated cells is found, and a cell made of it answers alike."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from hwtrain import config
from hwtrain.characterise import experiments, pulses
from hwtrain.characterise.bench import Bench
from hwtrain.devices.simulated import Simulated
from hwtrain.errors import ConfigError, LimitError
from hwtrain.sim.cells import Stuck
from hwtrain.sim.composite import Scaled
from hwtrain.sim.laws import ConstantStep, ExpStep, LinearStep, PiecewiseStep, PowStep, SoftBounds
from hwtrain.sim.networks import mlp
from hwtrain.sim.pulsed import Pulsed
from hwtrain.sim.tables import load_table
from tests.characterise.benches import COST, concluded, measured
from tests.sim.presets import array

DATA = Path(os.environ.get("HWTRAIN_DATA", "data")) / "devices"
MEASURED = pytest.mark.skipif(not DATA.is_dir(), reason="measured tables are not here; HWTRAIN_DATA names their folder")
PLANTED = Pulsed(
    law=SoftBounds(), dw_min=0.01, dw_min_dtod=0.2, dw_min_std=0.4, up_down=0.25, up_down_dtod=0.05, w_max=1.0,
    w_min=-0.9, w_max_dtod=0.1, w_min_dtod=0.1, write_noise_std=2.0, stuck=Stuck(anywhere=0.05),
)  # fmt: skip


def chips(cell, count=None, sizes=(4, 3, 2), **more):
    return Simulated(mlp(list(sizes)), COST, chips=count, cell=cell, **more)


def trains(cell, size=24, count=80, block=2, seed=1):
    """Four trains of some devices, without a bench."""
    devices, state = array(cell, size, seed)
    found = []
    for sign in (1, -1, 1, -1):
        levels = [cell.held(devices, state)]
        for _ in range(count):
            state = cell.pulse(devices, state, np.full(size, sign * block))
            levels.append(cell.held(devices, state))
        found.append(np.stack(levels, axis=-1))
    return pulses.Trains(np.stack(found, axis=1), np.array([True, False] * 2), block)


LAWS = {
    "constant": ConstantStep(),
    "linear": LinearStep(gamma_up=0.4, gamma_down=0.2),
    "soft bounds": SoftBounds(),
    "power": PowStep(pow_gamma=2.5),
    "exponential": ExpStep(A_up=-0.1, A_down=-1.0, gamma_up=-2.5, gamma_down=-2.5, a=1.0, b=0.0),
    "piecewise": PiecewiseStep([0.3, 1.4, 0.6, 1.2, 0.2], [0.2, 0.5, 1.6, 0.5, 0.3]),
}


@pytest.mark.parametrize(
    "name", ["constant", "linear", *(pytest.param(n, marks=pytest.mark.slow) for n in list(LAWS)[2:])]
)
def test_the_law_is_told(name):
    cell = Pulsed(law=LAWS[name], dw_min=0.02, w_max=1.0, w_min=-1.0, dw_min_std=0.1, dw_min_dtod=0.1)
    fit = pulses.fit(trains(cell, size=8), 0.95)
    assert fit.name == name
    again = config.build(pulses.cell(fit, (np.full(8, -1.0), np.full(8, 1.0)), 0.95))
    places = np.linspace(-0.8, 0.8, 9)
    nominal = [one.nominal().fabricate(np.array(0, np.uint32), 9).constants for one in (cell, again)]
    for way in (True, False):
        steps = [one.law.step(places, np.full(9, way), made) for one, made in zip((cell, again), nominal, strict=True)]
        assert np.sqrt(np.mean((steps[1] - steps[0]) ** 2)) < 0.2 * np.mean(steps[0])


EXPONENTIAL = Pulsed(  # that of device/cell=reram_es, at a fifteenth of its pulses and noise
    law=ExpStep(A_up=-1.18445, A_down=-0.081404, gamma_up=5.0, gamma_down=5.0, a=-0.5, b=-0.5), dw_min=0.02,
    dw_min_dtod=0.1, dw_min_std=0.4, up_down=0.26, w_max=1.0, w_min=-1.0, w_max_dtod=0.1, w_min_dtod=0.1,
)  # fmt: skip
SHAPE = {"A_up": -0.0972, "A_down": -0.992, "gamma_up": -2.5, "gamma_down": -2.5}  # of the same, with a = 1 and b = 0


@pytest.mark.parametrize("write", [0.0, 3.0])
def test_exponential_steps_have_the_shape_that_was_planted(write):
    fit = pulses.fit(trains(replace(EXPONENTIAL, write_noise_std=write), 16, 60), 0.99, ["linear", "exponential"])
    assert fit.name == "exponential"
    assert fit.rival[0] == "linear" and fit.rival[1] > 10
    for name, truth in SHAPE.items():
        assert fit.shape[name].low < truth < fit.shape[name].high, name
        assert abs(fit.shape[name].value - truth) < 0.5
    assert fit.high.mean() == pytest.approx(1.0, abs=0.1)
    assert fit.low.mean() == pytest.approx(-1.0, abs=0.1)


@pytest.mark.parametrize("law", [LinearStep(gamma_up=0.4, gamma_down=0.2), SoftBounds()], ids=["linear", "soft bounds"])
def test_steps_on_a_line_are_not_exponential(law):
    """Although all parameters share the shape of an exponential, which counts for less than slopes of their own."""
    cell = Pulsed(law=law, dw_min=0.02, w_max=1.0, w_min=-1.0, dw_min_std=0.3, dw_min_dtod=0.1, write_noise_std=1.0)
    assert pulses.fit(trains(cell, 12, 60), 0.95, ["linear", "exponential"]).family == "linear"


def test_noise_of_writing_is_seen_beside_exponential_steps():
    """Also where most readings are at a bound, and are read with some noise too."""
    one = trains(replace(EXPONENTIAL, write_noise_std=1.0), 12, 60)
    read = 0.005 * np.random.default_rng(0).standard_normal(one.levels.shape)
    fit = pulses.fit(replace(one, levels=one.levels + read, read_noise=0.005), 0.99, ["exponential"])
    assert fit.write_noise.value == pytest.approx(0.02, rel=0.1)
    assert 0 < fit.write_noise.low < fit.write_noise.high < 0.025


@pytest.mark.parametrize("seed", [1, 2])
def test_bounds_that_nobody_saw_do_not_make_steps_exponential(seed):
    """To that law they are two more numbers of every parameter."""
    cell = Pulsed(law=PowStep(pow_gamma=2.5), dw_min=0.03, w_max=1.0, w_min=-1.0, dw_min_std=0.3, write_noise_std=1.0)
    one = trains(replace(cell, dw_min_dtod=0.2, w_max_dtod=0.1, w_min_dtod=0.1), 12, 60, seed=seed)
    assert np.isnan(pulses._bounds(one)[:2]).mean() > 0.9
    assert pulses.fit(one, 0.95, ["linear", "exponential"]).family == "linear"


def test_the_exponential_law_is_handed_back_with_its_reasons(tmp_path):
    (found,) = concluded(measured(chips(EXPONENTIAL, sizes=(3, 2)), tmp_path, 2500, 1200)[0])
    assert found["cell"].verdict == "exponential"
    assert found["cell"].says.startswith("The steps are those of the exponential law. It is the likeliest: ")
    assert found["cell_residual"].value < found["cell_chance"].value
    for name, truth in SHAPE.items():
        assert found[f"law_{name}"].estimate.low < truth < found[f"law_{name}"].estimate.high
    made = config.build(dict(found["cell"].settings))
    assert made.step == pytest.approx(EXPONENTIAL.step, rel=0.1)
    assert (made.low, made.high) == pytest.approx((-1.0, 1.0), abs=0.15)


@pytest.mark.parametrize("write", [0.0, 3.0])
def test_noise_of_pulses_and_noise_of_writing_are_told_apart(write):
    cell = Pulsed(law=SoftBounds(), dw_min=0.01, w_max=1.0, w_min=-1.0, dw_min_std=0.5, write_noise_std=write)
    fit = pulses.fit(trains(cell), 0.99, ["linear"])
    assert fit.noise.low < 0.5 < fit.noise.high < 0.65
    if write:
        assert fit.write_noise.low < 0.03 < fit.write_noise.high < 0.035
    else:
        assert fit.write_noise.value == 0 < fit.write_noise.high < 0.003


def test_asymmetry_is_that_of_the_cell():
    up, down = np.array([1.0, 1.2, 0.8, 1.1]), np.array([0.5, 0.62, 0.4, 0.56])
    found = pulses.asymmetry(up, down, 0.95)
    assert found.value == pytest.approx(1 - down.mean() / up.mean())
    assert found.low < found.value < found.high < found.low + 0.1  # what both share is not counted
    mirrored = pulses.asymmetry(down, up, 0.95)
    assert (mirrored.value, mirrored.low, mirrored.high) == (-found.value, -found.high, -found.low)


@pytest.fixture(scope="module")
def population(tmp_path_factory):
    done, bench = measured(chips(PLANTED, 4, cost_noise=1e-3), tmp_path_factory.mktemp("run"), 6000, 2400)
    return bench, concluded(done, 0.99)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "truth"),
    [
        ("pulse_up", 0.01),
        ("pulse_down", 0.0075),
        ("pulse_asymmetry", 0.25),
        ("pulse_noise", 0.4),
        ("pulse_write_noise", 0.02),
        ("pulse_variation", 0.2 / 0.875),
        ("stuck", 0.05),
    ],
)
def test_what_was_planted_is_found(population, name, truth):
    """The full count, on a hundred chips, is `benchmarks/characterise.py recovery pulses`."""
    intervals = [traits[name].estimate for traits in population[1]]
    assert sum(one.low <= truth <= one.high for one in intervals) >= 3
    assert np.mean([one.value for one in intervals]) == pytest.approx(truth, rel=0.5 if name == "stuck" else 0.2)


@pytest.mark.slow
def test_a_budget_of_pulses_is_kept(population):
    bench = population[0]
    assert bench.spent[0] <= 6000
    assert 0.5 * 2400 < bench.spent[1] <= 2400


def test_a_little_budget_measures_nothing_and_says_so(tmp_path):
    done, bench = measured(chips(PLANTED), tmp_path, 500, 20)
    assert "raise characterise.pulses" in done.skipped["trains"]
    assert bench.spent[1] == 0


@pytest.mark.parametrize("left", [0, 1])
def test_what_breaks_have_cost_may_be_all(left, tmp_path, monkeypatch):
    """Pulses of which nobody knows whether they came are spent: no pilot, and not both ways, is not measured."""
    ask, trains = Bench.ask, []

    def spent(self, name, commands):
        trains.append(name == "trains")
        return None if name == "pilot" or sum(trains) > left else ask(self, name, commands)

    monkeypatch.setattr(Bench, "ask", spent)
    cell = Pulsed(law=SoftBounds(), dw_min=0.05, w_max=1.0, w_min=-1.0)
    (found,) = concluded(done := measured(chips(cell), tmp_path, 4000, 2000)[0])
    assert "cell" not in found and "trains" not in done.each
    assert "raise characterise.pulses" in done.skipped["trains"]


@pytest.mark.parametrize(("planted", "larger"), [(0.25, "up"), (-0.25, "down")])
def test_the_smaller_steps_are_said_to_be_so_much_smaller(planted, larger, tmp_path):
    cell = Pulsed(law=ConstantStep(), dw_min=0.01, up_down=planted, w_max=1.0, w_min=-1.0)
    (found,) = concluded(measured(chips(cell, sizes=(3, 2)), tmp_path, 2000, 800)[0])
    one = found["pulse_asymmetry"]
    assert one.value == pytest.approx(planted, abs=0.01)
    assert one.says.startswith(f"Steps {larger} are the larger; the others are smaller by a share of 0.25")


def test_noise_of_pulses_that_is_not_seen_has_a_bound_only(tmp_path):
    """Ten pulses each way, of which each is read a third of a step off."""
    cell = Pulsed(law=ConstantStep(), dw_min=0.002, w_max=1.0, w_min=-1.0, write_noise_std=0.3)
    (found,) = concluded(measured(chips(cell), tmp_path, 2000, 40)[0])
    noise = found["pulse_noise"].estimate
    assert noise.value == noise.low == 0
    assert 0.01 < noise.high < 1


def test_where_pulses_lead_nobody_can_promise(tmp_path):
    with pytest.raises(LimitError, match=r"nobody knows .* Nothing was sent"):
        measured(chips(PLANTED), tmp_path, low=-0.5)


def test_parameters_that_do_not_move(tmp_path):
    (found,) = concluded(measured(chips(Pulsed(law=SoftBounds(), dw_min=0.01, w_max=1.0, w_min=-1.0,
                                               stuck=Stuck(anywhere=1.0))), tmp_path, 2000, 400)[0])  # fmt: skip
    assert found["stuck"].value == 1
    assert "cell" not in found


def test_pulses_of_one_direction_make_no_cell():
    fit = pulses.fit(trains(Pulsed(law=ConstantStep(), dw_min=0.02, w_max=1.0, w_min=-1.0), 3, 40), 0.95, ["constant"])
    fit.constants["down"] *= -1
    with pytest.raises(ConfigError, match="no cell is made of these readings"):
        pulses.cell(fit, (np.zeros(3), np.ones(3)), 0.95)


def test_conductances_far_from_zero(tmp_path):
    cell = Scaled(Pulsed(law=SoftBounds(), dw_min=0.02, w_max=1.0, w_min=-1.0, dw_min_std=0.2), 2e-5, 8e-5)
    (found,) = concluded(measured(chips(cell, sizes=(3, 2)), tmp_path, 2500, 1200)[0])
    assert found["pulse_up"].value == pytest.approx(0.02 * 3e-5, rel=0.05)
    fitted = config.build(dict(found["cell"].settings))
    assert (fitted.low, fitted.high) == (pytest.approx(2e-5, rel=0.1), pytest.approx(8e-5, rel=0.1))
    assert fitted.step == pytest.approx(cell.step, rel=0.05)


def test_conductances_of_either_sign(tmp_path):
    """What differential pairs hold: a range around 0 that is far from 1."""
    cell = Pulsed(law=SoftBounds(), dw_min=0.02, w_max=1.0, w_min=-1.0, dw_min_std=0.2, dw_min_dtod=0.1)
    device = chips(Scaled(cell, -5e-5, 5e-5), sizes=(3, 2), low=None, high=None)
    (found,) = concluded(measured(device, tmp_path, 1500, 600)[0])
    assert found["cell"].verdict == "soft bounds"
    assert found["pulse_up"].value == pytest.approx(0.02 * 5e-5, rel=0.1)
    fitted = config.build(dict(found["cell"].settings))
    assert (fitted.low, fitted.high) == pytest.approx((-5e-5, 5e-5), rel=0.1)


def test_fast_devices_get_short_trains(tmp_path):
    cell = Pulsed(law=SoftBounds(), dw_min=0.5, w_max=1.0, w_min=-1.0, dw_min_std=0.1)
    done, _ = measured(chips(cell, sizes=(3, 2)), tmp_path, 3000, 1000)
    levels = done.each["trains"]
    assert levels.shape[1] < 40 < 20 * levels.shape[0]
    assert concluded(done)[0]["pulse_up"].value == pytest.approx(0.5, rel=0.1)


def test_the_cell_is_used_by_name(characterise, hwtrain, tmp_path):
    words = ["task=xor", "device=cells", "device/cell=ecram", "device.programming=null"]
    small = ["characterise.measurements=1500", "characterise.pulses=3000", "hydra.run.dir=run"]
    said = characterise(*words, *small)
    assert said.code == 0, said.err
    assert "Steps up are the larger" in said.out or "Steps down are the larger" in said.out
    preset = yaml.safe_load((tmp_path / "run/device/cell/twin.yaml").read_text())
    assert preset["dw_min"] == pytest.approx(0.002, rel=0.2)
    line = next(line for line in said.out.splitlines() if line.startswith("train the twin: "))
    assert "device=cells device/cell=twin" in line
    trained = hwtrain(*line.removeprefix("train the twin: python -m hwtrain ").split(), "budget.steps=20")
    assert trained.code == 0, trained.err


def test_stopped_and_taken_up_again(tmp_path):
    """After Ctrl-C a device with a state goes on as if nothing had happened."""
    import signal

    from hwtrain.characterise.bench import Interrupted

    whole, _ = measured(chips(PLANTED), tmp_path / "whole", 1500, 800)
    device, count = chips(PLANTED), 0
    execute = device.execute

    def counting(commands):
        nonlocal count
        count += 1
        if count == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return execute(commands)

    device.execute = counting
    with pytest.raises(Interrupted):
        measured(device, tmp_path / "stopped", 1500, 800)
    again, _ = measured(chips(PLANTED), tmp_path / "stopped", 1500, 800, resume=True)
    assert list(whole.each) == list(again.each)
    assert all(np.array_equal(values, again.each[name]) for name, values in whole.each.items())


@MEASURED
@pytest.mark.slow
def test_measured_ecram_is_simulated_again(tmp_path):
    """Five measured devices are fitted; levels of the four others, never used, lie on those of the fitted cell."""
    fitted, held_out = (load_table(str(DATA / "ecram_lut.npz"), "multi_", range(half, 9, 2)) for half in (0, 1))
    (found,) = concluded(measured(chips(fitted, sizes=(5, 4, 3)), tmp_path, 6000, 3000)[0])
    cell, block = config.build(dict(found["cell"].settings)), 2
    runs = [trains(one, 60, 100, block).levels for one in (held_out, cell)]
    curves = [(run - (run.max((1, 2)) + run.min((1, 2)))[:, None, None] / 2).mean(axis=0) for run in runs]
    off = np.sqrt(((curves[0] - curves[1]) ** 2).mean()) / np.ptp(runs[0], axis=(1, 2)).mean()
    assert off < 0.04  # the two halves are 0.012 apart


@MEASURED
@pytest.mark.slow
def test_a_measured_pulse_trace_is_simulated_again():
    """Every other reading of Gong et al. 2018 is fitted; the others are off as far as the fit says they will be."""
    trace = np.loadtxt(DATA / "reram_gong2018.csv", delimiter=",").T[None]
    low, high = trace.min(), trace.max()
    levels, ups = (2 * trace - high - low) / (high - low), np.array([True, False])
    fit = pulses.fit(pulses.Trains(levels[..., ::2], ups, 2), 0.95, ["constant", "linear"])
    apart, variance = fit.ahead(pulses.Trains(levels, ups))
    held_out = (apart / np.sqrt(variance))[..., ::2]
    assert np.sqrt(np.mean(held_out**2)) == pytest.approx(1, abs=0.1)
    assert abs(np.mean(held_out)) < 0.1


def test_shares_of_a_pulsed_device_leave_something():
    assert sum(share for share, _ in experiments.PULSED.values()) <= 1
