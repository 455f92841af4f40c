"""A device is measured within its limits and a budget, is at rest on every way out, and loses nothing that was read."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwtrain.characterise.bench import Bench, Interrupted
from hwtrain.characterise.record import NAME, Record
from hwtrain.core import Can, Measure, Probes, Program, Reading, Sample
from hwtrain.devices.function import FunctionDevice
from hwtrain.errors import DeviceError, LimitError, RecordError
from hwtrain.perturb import Rademacher
from tests.characterise.benches import Moody, chips, concluded, measured

SAMPLE = Sample(np.full((1, 1, 4), 0.5), np.ones((1, 1, 1)))


class Counted(Moody):
    """Counts what it is asked, and can be made to fail."""

    def __init__(self, fail_at=None, **more):
        super().__init__(**more)
        self.fail_at, self.exchanges, self.measurements, self.writes = fail_at, 0, 0, 0
        self.lowest, self.highest = np.inf, -np.inf

    def execute(self, commands):
        self.exchanges += 1
        if self.exchanges == self.fail_at:
            raise DeviceError("the bench caught fire")
        held = self.theta
        for command in commands:
            if isinstance(command, Program):
                self.writes += not np.array_equal(command.theta, held)
                held, reach = command.theta, 0.0
            else:
                self.measurements += 1 if command.probes is None else command.probes.count
                reach = 0.0 if command.probes is None else np.abs(command.probes.dense(5)).max()
            self.lowest, self.highest = min(self.lowest, (held - reach).min()), max(self.highest, (held + reach).max())
        return super().execute(commands)


def smooth(theta, x):
    return np.tanh(x @ theta[:4, None] + theta[4])


def still():
    """A device that never tells its state, and answers the same to the same."""
    return FunctionDevice(smooth, size=5, inputs=4, outputs=1, low=-4, high=4)


@given(st.integers(0, 2500), st.integers(0, 250))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_budget_is_never_exceeded(tmp_path_factory, measurements, writes):
    device = Counted()
    done, bench = measured(device, tmp_path_factory.mktemp("run"), measurements, writes)
    assert device.measurements == bench.spent[0] <= measurements
    assert device.writes <= bench.spent[1] <= writes  # a bench does not know that the device began at zero
    concluded(done)


def test_most_of_a_budget_is_used(tmp_path):
    _, bench = measured(chips(sizes=(9, 6, 3)), tmp_path, 20000, 1000)
    assert bench.spent[0] > 18000


@pytest.mark.parametrize(("low", "high"), [(None, None), (-1.0, 1.0), (0.5, 3.0)])
def test_limits_are_kept(tmp_path, low, high):
    device = Counted()
    measured(device, tmp_path, 3000, 300, low=low, high=high)
    assert (-4 if low is None else low) <= device.lowest < device.highest <= (4 if high is None else high)


def test_limits_beyond_the_device(tmp_path):
    with pytest.raises(LimitError, match=r"characterise.low .* Nothing was sent"):
        measured(Counted(), tmp_path, low=-5.0)


def test_at_rest_when_done(tmp_path):
    device = Counted()
    measured(device, tmp_path, 1000, 50)
    assert device.rests == 1


def test_at_rest_when_the_device_fails(tmp_path):
    device = Counted(fail_at=5)
    with pytest.raises(DeviceError, match="caught fire"):
        measured(device, tmp_path, 1000, 50)
    assert device.rests == 1


def test_at_rest_when_interrupted(tmp_path):
    device = Counted()
    execute = device.execute
    device.execute = lambda commands: (os.kill(os.getpid(), signal.SIGINT), execute(commands))[1]
    with pytest.raises(Interrupted):
        measured(device, tmp_path, 1000, 50)
    assert device.rests == 1 and device.exchanges == 1


def test_a_reading_that_is_no_number(tmp_path):
    with pytest.raises(DeviceError, match="not a finite number in 'hold'"):
        measured(Moody(noise=float("inf")), tmp_path)


class TestResumed:
    """Stopped after any exchange and taken up again, a run gives what it would have given."""

    @staticmethod
    def stopped(device, folder, after):
        """Stop by Ctrl-C after so many exchanges."""
        execute, count = device.execute, 0

        def counting(commands):
            nonlocal count
            count += 1
            if count == after:
                os.kill(os.getpid(), signal.SIGINT)
            return execute(commands)

        device.execute = counting
        with pytest.raises(Interrupted):
            measured(device, folder, 3000, 300)

    @pytest.mark.parametrize("after", [1, 7, 40])
    @pytest.mark.parametrize(
        "device",
        [lambda: chips(cost_noise=1e-3, update_noise=0.01, drift=1e-3, read_seconds=0.1, read_noise=0.1), still],
        ids=["a simulator, with its state", "a device without a state"],
    )
    def test_by_ctrl_c(self, tmp_path, device, after):
        whole, bench = measured(device(), tmp_path / "whole", 3000, 300)
        self.stopped(device(), tmp_path / "stopped", after)
        again, other = measured(device(), tmp_path / "stopped", 3000, 300, resume=True)
        assert list(whole.each) == list(again.each)
        for name, values in whole.each.items():
            assert np.array_equal(values, again.each[name], equal_nan=True), name
        assert other.spent[0] == bench.spent[0]
        assert [finding.says for finding in concluded(again)[0].values()] == [
            finding.says for finding in concluded(whole)[0].values()
        ]

    def test_what_was_asked_and_never_answered_counts_as_spent(self, tmp_path):
        with pytest.raises(DeviceError):
            measured(Counted(fail_at=4), tmp_path, 3000, 300)
        asked = [json.loads(line) for line in (tmp_path / NAME).read_text().splitlines()]
        lost = asked[-1]["measurements"]
        device = Counted()
        _, bench = measured(device, tmp_path, 3000, 300, resume=True)
        answered = sum(line["measurements"] for line in asked[:-1] if "ask" in line)
        assert bench.spent[0] == device.measurements + answered + lost <= 3000

    def test_what_is_on_record_is_not_asked_again(self, tmp_path):
        first, _ = measured(Counted(), tmp_path, 2000, 100)
        device = Counted()
        again, _ = measured(device, tmp_path, 2000, 100, resume=True)
        assert device.exchanges == 0
        assert all(np.array_equal(first.each[name], again.each[name], equal_nan=True) for name in first.each)

    def test_a_record_of_another_plan(self, tmp_path):
        measured(Counted(), tmp_path, 2000, 100)
        text = (tmp_path / NAME).read_text().replace('"hold"', '"else"')
        (tmp_path / NAME).write_text(text)
        with pytest.raises(LimitError, match="'else' where 'hold' would be asked"):
            measured(Counted(), tmp_path, 2000, 100, resume=True)

    def test_a_folder_that_holds_readings(self, tmp_path):
        measured(Counted(), tmp_path, 1000, 50)
        with pytest.raises(RecordError, match="Go on with them: resume="):
            measured(Counted(), tmp_path, 1000, 50)


class TestRecord:
    def test_readings_come_back_bit_for_bit(self, tmp_path):
        random = np.random.default_rng(0)
        reading = Reading(
            cost=random.standard_normal((3, 5)),
            output=random.standard_normal((3, 5, 1, 2, 4)),
            activity=(random.standard_normal((2, 3)), random.standard_normal((2, 1))),
        )
        record = Record(tmp_path)
        record.asking("look", 5, 1, 0.25)
        record.came([reading], 0.5)
        record.asking("never answered", 1, 0, 0.75)
        record.close()
        again = Record(tmp_path, resume=True)
        again.close()
        assert again.session == 1
        assert again.done[0].readings == (reading,)
        assert again.done[1].readings == () and again.done[1].name == "never answered"

    @pytest.mark.parametrize("cut", [2, 10, 40])
    def test_a_line_that_was_cut_off(self, tmp_path, cut):
        record = Record(tmp_path)
        record.asking("look", 1, 1, 0.0)
        record.came([Reading(cost=np.ones(1))], 1.0)
        record.close()
        text = (tmp_path / NAME).read_text()
        (tmp_path / NAME).write_text(text[:-cut])
        for _ in range(2):  # and again, once the unfinished line was ended
            again = Record(tmp_path, resume=True)
            assert [exchange.readings for exchange in again.done] == [()]
            again.close()

    def test_a_line_that_was_damaged(self, tmp_path):
        record = Record(tmp_path)
        record.asking("look", 1, 1, 0.0)
        record.came([Reading(cost=np.ones(1))], 1.0)
        record.close()
        lines = (tmp_path / NAME).read_text().splitlines()
        (tmp_path / NAME).write_text("\n".join(["{damaged", *lines]))
        with pytest.raises(RecordError, match="damaged in line 1"):
            Record(tmp_path, resume=True)


def test_every_exchange_stands_for_itself(tmp_path):
    """So that it can be asked of a device that has just been switched on."""
    commands = []
    device = still()
    execute = device.execute
    device.execute = lambda asked: (commands.append(asked), execute(asked))[1]
    measured(device, tmp_path, 3000, 300)
    assert all(isinstance(asked[0], Program) and isinstance(asked[-1], Measure) for asked in commands)


def test_what_a_device_does_not_offer_is_never_asked(tmp_path):
    done, _ = measured(Counted(can=Can.COST), tmp_path, 5000, 400)
    assert "answer" in done.each and "effect" not in done.each
    assert {"probed", "effects", "ladder"} <= set(done.skipped)
    found = concluded(done)[0]
    assert {"baseline_noise", "stuck", "gradient"} <= set(found)


def test_a_probe_is_refused_beyond_narrowed_limits(tmp_path):
    with Bench(Counted(), tmp_path, 100, 10, low=-1.0, high=1.0) as bench:
        probes = Probes(Rademacher(amplitude=0.5), np.array(0, np.uint32), 0, 4)
        with pytest.raises(LimitError, match="Nothing was sent"):
            bench.ask("look", [Program(np.full(5, 0.8)), Measure(SAMPLE, probes)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "device",
    [
        "device.cost_noise=1e-3 device.update_noise=0.01 device.read_seconds=0.1 device.drift=1e-3",
        """device=function device.function=tests.characterise.test_careful:smooth device.size=5 device.inputs=4
        device.outputs=1 device.low=-4 device.high=4 task=file task.path=samples.npz characterise.read_seconds=0""",
        """device=cells device/cell=reram_es device.programming=null device.cost_noise=1e-3 task=xor
        characterise.pulses=400""",
    ],
    ids=["sim", "function", "pulsed"],
)
def test_killed_again_and_again(tmp_path, device):
    """SIGKILL at five moments: every reading survives, and the result is that of a run that was never killed."""
    x = np.linspace(0, 1, 64).reshape(16, 4)
    np.savez(tmp_path / "samples.npz", train_x=x, train_y=x[:, :1], test_x=x, test_y=x[:, :1])
    words = device.replace("samples.npz", str(tmp_path / "samples.npz")).split()
    line = [sys.executable, "-m", "hwtrain.characterise", *words]
    line += ["characterise.measurements=3000", "characterise.writes=300"]
    subprocess.run([*line, f"hydra.run.dir={tmp_path / 'whole'}"], check=True, capture_output=True, timeout=250)
    lines = (tmp_path / "whole" / NAME).read_bytes().count(b"\n")
    folder, random = tmp_path / "killed", np.random.default_rng(0)
    command = [*line, f"hydra.run.dir={folder}"]
    for moment in np.sort(random.uniform(2, 0.9 * lines, 5)):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while not (folder / NAME).exists() or (folder / NAME).read_bytes().count(b"\n") < moment:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.002)
        process.kill()
        process.communicate()
        command = [sys.executable, "-m", "hwtrain.characterise", f"resume={folder}"]
    subprocess.run(command, check=True, capture_output=True, timeout=250)
    whole, killed = (
        json.loads((tmp_path / name / "characterisation.json").read_text()) for name in ("whole", "killed")
    )
    assert whole["devices"] == killed["devices"]
    assert whole["probe_set"] == killed["probe_set"]
    assert killed["spent"]["measurements"] <= 3000
