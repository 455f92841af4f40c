"""The command: what it says, what it leaves, and that what it leaves can be used at once."""

import json
import shlex

import numpy as np
import pytest
import yaml

from hwtrain import config
from hwtrain.characterise import __main__, twin
from hwtrain.characterise.chip import Finding
from hwtrain.characterise.estimates import Interval
from hwtrain.core import Can
from hwtrain.devices.simulated import Simulated
from hwtrain.errors import CapabilityError, ConfigError
from hwtrain.sim.networks import mlp
from tests.characterise.benches import COST, Moody, chips, task
from tests.characterise.conftest import SMALL
from tests.emulators.conftest import needs

NOISY = ("task=xor", "device.cost_noise=1e-3", "device.low=-4", "device.high=4", "device.update_noise=0.01")


def test_what_a_run_leaves(characterise, tmp_path):
    said = characterise(*NOISY, *SMALL)
    assert said.code == 0, said.err
    assert "The same cost read again differs by 0.00" in said.out
    assert "Train it with amplitude" in said.out
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("<svg") >= 8 and "http" not in page.replace("http://www.w3.org", "")
    found = json.loads((tmp_path / "run" / "characterisation.json").read_text())
    (traits,) = found["devices"]
    numbers = {name: trait["estimate"] for name, trait in traits.items() if trait["estimate"] is not None}
    assert {"baseline_noise", "probe_noise", "write_noise", "drift", "stuck", "noise_ratio", "range"} <= set(numbers)
    for name, number in numbers.items():
        assert number["low"] <= number["value"] <= number["high"] or name == "range", name
    assert all(sentence in said.out for sentence in [trait["says"] for trait in traits.values()])
    assert found["spent"]["measurements"] <= 4000 and found["spent"]["writes"] <= 400


def test_preset_and_settings_are_used_at_once(characterise, hwtrain, tmp_path):
    assert characterise(*NOISY, "device.parameter_variation=0.1", *SMALL).code == 0
    preset = yaml.safe_load((tmp_path / "run/device/twin.yaml").read_text())
    assert preset["cost_noise"] == pytest.approx(1e-3, rel=0.1)
    assert preset["update_noise"] == pytest.approx(0.01, rel=0.4)
    assert (preset["low"], preset["high"], preset["programming"]) == (-4, 4, "absolute")
    words = ["--config-dir", str(tmp_path / "run"), "device=twin", "experiment=twin"]
    trained = hwtrain(*words, "budget.steps=200", "evaluate.every=100", "hydra.run.dir=trained")
    assert trained.code == 0, trained.err
    config = yaml.safe_load((tmp_path / "trained/config.yaml").read_text())
    advice = json.loads((tmp_path / "run/characterisation.json").read_text())["advice"][0]
    assert config["device"]["cost_noise"] == preset["cost_noise"]
    assert config["device"]["network"]["sizes"] == [2, 2, 1]
    assert config["task"]["batch"] == 4
    assert config["algo"]["tau_x"] is None
    assert config["algo"]["tau_theta"] == advice["tau_theta"]["value"]
    assert config["algo"]["eta"] == pytest.approx(advice["eta"]["value"], rel=1e-3)
    assert config["algo"]["perturbation"]["amplitude"] == pytest.approx(advice["amplitude"]["value"], rel=1e-3)


def test_the_line_that_it_prints_trains_the_twin(characterise, hwtrain):
    said = characterise(*NOISY, *SMALL[:-1], "recorder.folder=run", "network.sizes=[2, 3, 1]")
    line = next(line for line in said.out.splitlines() if line.startswith("train the twin: "))
    words = shlex.split(line.removeprefix("train the twin: python -m hwtrain "))
    assert not any(word.startswith("recorder") for word in words)  # or the readings would lie among those of training
    assert hwtrain(*words, "budget.steps=100", "hydra.run.dir=trained").code == 0


def test_the_line_goes_with_own_words(characterise, hwtrain, tmp_path):
    """A task and a start of the user's own, without which the twin is not what was measured."""
    (tmp_path / "own/task").mkdir(parents=True)
    (tmp_path / "own/task/mine.yaml").write_text("defaults: [xor, _self_]\n")
    device = ("device.low=-0.3", "device.high=0.3", "device.cost_noise=1e-4", "network=xor_2_2_1")
    start = ("algo.start.low=-0.2", "algo.start.high=0.2")
    said = characterise("--config-dir", "own", "task=mine", *device, *start, *SMALL)
    assert said.code == 0, said.err
    line = next(line for line in said.out.splitlines() if line.startswith("train the twin: "))
    trained = hwtrain(*shlex.split(line.removeprefix("train the twin: python -m hwtrain ")), "budget.steps=20")
    assert trained.code == 0, trained.err


def test_the_lines_of_a_sweep_are_of_one_run_each(characterise, tmp_path):
    small = ("characterise.measurements=500", "characterise.writes=20", "hydra.sweep.dir=sweep")
    said = characterise("-m", "task=xor", "seed=1,2", "device.cost_noise=1e-4", *small)
    assert said.code == 0, said.err
    lines = [line.split() for line in said.out.splitlines() if line.startswith("train the twin: ")]
    assert [f"seed={seed}" in line and "task=xor" in line for seed, line in enumerate(lines, 1)] == [True, True]


@pytest.mark.parametrize(
    ("low", "high", "words", "added"),
    [
        (-1.0, 1.0, [], []),
        (0.0, 2.0, [], ["algo.start.low=0.5", "algo.start.high=1.5"]),
        (0.0, 2.0, ["algo.start.low=1"], []),
        (1e-6, 5e-6, [], ["algo.start.low=2e-06", "algo.start.high=4e-06"]),
    ],
)
def test_training_starts_within_the_cell(low, high, words, added):
    cell = {"_target_": "hwtrain.sim.pulsed.Pulsed", "law": {"_target_": "hwtrain.sim.laws.ConstantStep"}}
    cell = {**cell, "dw_min": 0.1, "w_min": -1.0, "w_max": 1.0}
    scaled = {"_target_": "hwtrain.sim.composite.Scaled", "cell": cell, "low": low, "high": high}
    assert twin.start_within(yaml.safe_dump(scaled), words) == added


@pytest.mark.slow
def test_a_twin_is_like_its_device(characterise, tmp_path):
    """The preset of a preset is the preset, within its interval."""
    assert characterise(*NOISY, "characterise.name=first", "hydra.run.dir=run").code == 0
    words = ["--config-dir", str(tmp_path / "run"), "device=first", "task=xor", "hydra.run.dir=again"]
    assert characterise(*words).code == 0
    once, twice = (json.loads((tmp_path / name / "characterisation.json").read_text()) for name in ("run", "again"))
    for name in ("baseline_noise", "probe_noise", "write_noise"):
        first, second = (found["devices"][0][name]["estimate"] for found in (once, twice))
        assert first["low"] < second["high"] and second["low"] < first["high"], name


def test_ctrl_c_and_on(characterise, tmp_path, monkeypatch):
    from hwtrain.characterise import bench

    ask, asked = bench.Bench.ask, []

    def interrupting(self, name, commands):
        asked.append(name)
        if len(asked) == 12:
            self._stop.requested = True
        return ask(self, name, commands)

    monkeypatch.setattr(bench.Bench, "ask", interrupting)
    said = characterise(*NOISY, *SMALL)
    assert said.code == 130
    assert f"python -m hwtrain.characterise resume={tmp_path / 'run'}" in said.out
    monkeypatch.setattr(bench.Bench, "ask", ask)
    resumed = characterise("resume=run")
    assert resumed.code == 0, resumed.err
    whole = characterise(*NOISY, *SMALL[:-1], "hydra.run.dir=whole")
    assert whole.code == 0
    one, other = (json.loads((tmp_path / name / "characterisation.json").read_text()) for name in ("run", "whole"))
    assert one == other
    assert (tmp_path / "run/device/twin.yaml").read_text() == (tmp_path / "whole/device/twin.yaml").read_text()


def test_several_chips_at_once(characterise, tmp_path):
    said = characterise(*NOISY, "device.chips=3", *SMALL)
    assert said.code == 0, said.err
    assert "over 3 devices" in said.out
    assert len(json.loads((tmp_path / "run/characterisation.json").read_text())["devices"]) == 3
    assert (tmp_path / "run/experiment/twin.yaml").exists()


@pytest.mark.slow
def test_a_board(characterise, hwtrain, tmp_path):
    needs("host")
    words = ["task=xor", "device=emulated", "device.board=host", "device.low=-4", "device.high=4"]
    said = characterise(*words, "characterise.measurements=6000", "characterise.writes=600", "hydra.run.dir=run")
    assert said.code == 0, said.err
    assert "The same cost read again is the same to the last digit." in said.out
    (traits,) = json.loads((tmp_path / "run/characterisation.json").read_text())["devices"]
    assert traits["stuck"]["which"] == [] and traits["stuck"]["basis"] == 9
    assert traits["probe_ratio"]["verdict"] == "equal"
    assert traits["parameter_variation"]["estimate"]["low"] == 0
    preset = yaml.safe_load((tmp_path / "run/device/twin.yaml").read_text())
    assert not any(preset[name] for name in ("cost_noise", "update_noise", "parameter_variation", "stuck", "drift"))
    words = ["--config-dir", str(tmp_path / "run"), "experiment=twin", "device=emulated", "device.board=host"]
    assert hwtrain(*words, "budget.steps=200", "hydra.run.dir=trained").code == 0


def test_a_function_of_the_user(characterise, tmp_path):
    words = ["device=function", "device.function=tests.characterise.test_careful:smooth", "device.size=5"]
    words += ["device.inputs=4", "device.outputs=1", "device.low=-2", "device.high=2", "device.unit=V"]
    x = np.linspace(0, 1, 64).reshape(16, 4)
    np.savez(tmp_path / "mine.npz", train_x=x, train_y=x[:, :1], test_x=x, test_y=x[:, :1])
    said = characterise(*words, "task=file", "task.path=mine.npz", *SMALL)
    assert said.code == 0, said.err
    assert "per V" in said.out
    assert "No preset: a twin needs the layers of the device, which names none" in said.out
    assert not (tmp_path / "run/device").exists()
    assert (tmp_path / "run/experiment/twin.yaml").exists()


def test_folders_of_any_name_are_found_again(hwtrain, tmp_path):
    """In the words that train the twin, which name the folder of the device besides."""
    folder = tmp_path / "it's own (dir), really"
    (folder / "device").mkdir(parents=True)
    (folder / "device/mine.yaml").write_text("defaults: [sim]\ncost_noise: 0.5\n")
    answer = hwtrain("task=xor", "device=mine", *config.search([folder]), "budget.steps=1", "hydra.run.dir=run")
    assert answer.code == 0, answer.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["characterise.mesurements=5"], "unknown key 'characterise.mesurements'. Did you mean 'measurements'?"),
        (["characterise.measurements=5"], "characterise.measurements must be a whole number of at least 500"),
        (["characterise.level=1.5"], "characterise.level must be"),
        (["characterise.name=a-b"], "characterise.name must be a word"),
        (["characterise.name='zähler'"], "characterise.name must be a word"),
        (["characterise.name=sim"], "there is device=sim already"),
        (["characterise.name=ecram"], "there is device/cell=ecram already"),
        (["characterise.name=mgd2023_xor"], "there is experiment=mgd2023_xor already"),
        (["device=nothing"], "device=nothing is unknown"),
        (["device.cost_nois=1"], "unknown key 'device.cost_nois'. Did you mean 'device.cost_noise'?"),
        (["device.low=-1", "device.high=1", "characterise.high=3"], "is not within the range of 'sim', -1 to 1"),
        (["recorder=none"], "leave recorder=folder"),
        (["resume=nowhere"], "not a run folder"),
    ],
)
def test_what_a_user_can_mend(characterise, words, said):
    answer = characterise(*words)
    assert answer.code == 2
    assert said in answer.err and "Traceback" not in answer.err


def test_a_run_of_training_is_not_taken_up(characterise, hwtrain):
    assert hwtrain("task=xor", "budget.steps=10", "hydra.run.dir=run").code == 0
    answer = characterise("resume=run")
    assert answer.code == 2 and "python -m hwtrain resume=run" in answer.err


@pytest.mark.parametrize(
    ("device", "given", "error", "said"),
    [
        (Moody(can=Can.OUTPUT), task(4, 1), CapabilityError, "needs COST, .* 'moody' offers OUTPUT. Nothing was sent"),
        (Moody(can=Can.COST | Can.PULSE), task(4, 1), CapabilityError, "cannot read where they lead"),
        (Moody(), task(9, 1), ConfigError, "has 9 inputs; device 'moody' has 4"),
    ],
)
def test_a_device_that_cannot_be_measured(device, given, error, said):
    with pytest.raises(error, match=said):
        __main__._check(device.spec, given)


class TestPreset:
    FOUND = {
        "baseline_noise": Finding("baseline_noise", "", Interval(1e-3, 9e-4, 1.1e-3)),
        "parameter_bits": Finding("parameter_bits", "", Interval(8, 8, 8), verdict="stepped"),
        "write_noise": Finding("write_noise", "", Interval(0.01, 0.009, 0.011), verdict="incremental"),
        "drift": Finding("drift", "", Interval(1e-4, 9e-5, 1.1e-4)),
        "stuck": Finding("stuck", "", Interval(0.0, 0.0, 0.03)),
    }

    def preset(self, found=FOUND, seconds=0.01):
        return yaml.safe_load(twin.preset(found, chips().spec, seconds, mlp([9, 6, 3])))

    def test_every_key_is_one_of_the_simulator(self):
        keys = {key: value for key, value in self.preset().items() if key != "defaults"}
        device = Simulated(mlp([9, 6, 3]), COST, **keys)
        assert device.spec.low == -4
        assert (keys["programming"], keys["update_noise"], keys["parameter_bits"]) == ("incremental", 0.01, 8)

    def test_drift_is_per_root_second(self):
        preset = self.preset()
        assert preset["drift"] * np.sqrt(preset["read_seconds"]) == pytest.approx(1e-4)
        assert self.preset(seconds=0.0)["drift"] == pytest.approx(1e-4)

    def test_what_was_not_seen_is_nothing(self):
        preset = self.preset({"drift": Finding("drift", "", Interval(1e-4, 0.0, 2e-4))})
        assert preset["drift"] == preset["read_seconds"] == preset["cost_noise"] == 0
        assert preset["parameter_bits"] is None

    def test_another_network_is_no_twin(self):
        assert twin.preset(self.FOUND, chips().spec, 0.0, mlp([9, 5, 3])) is None

    @pytest.mark.parametrize("value", [1e-9, 0.1, 3.0, 1234567.0, 1e20])
    def test_numbers_are_numbers_of_yaml(self, value):
        read = yaml.safe_load(twin._number(value))
        assert isinstance(read, float) and read == pytest.approx(value, rel=1e-3)
