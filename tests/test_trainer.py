"""What the trainer promises: rest on every way out, an outcome always, evaluation that changes nothing."""

import os
import signal

import numpy as np
import pytest

from hwtrain.algorithms.backprop import Backprop
from hwtrain.algorithms.mgd import MGD
from hwtrain.core import Can, DeviceSpec
from hwtrain.costs import MeanSquaredError
from hwtrain.devices.function import FunctionDevice
from hwtrain.devices.simulated import Simulated
from hwtrain.errors import CapabilityError, ConfigError, DeviceError, LimitError
from hwtrain.evaluation import Evaluation, angle
from hwtrain.perturb import Rademacher
from hwtrain.recorder import InMemory
from hwtrain.sim.networks import mlp
from hwtrain.tasks.parity import parity
from hwtrain.trainer import Budget, Trainer

RULE = MGD(eta=0.3, perturbation=Rademacher(amplitude=0.01))


class Watched(Simulated):
    """Counts how often it is put to rest, and calls something at a given execution."""

    def __init__(self, at=None, happens=None, **settings):
        super().__init__(mlp([2, 2, 1]), MeanSquaredError(), **settings)
        self.at, self.happens, self.executions, self.rests = at, happens, 0, 0

    def execute(self, commands):
        self.executions += 1
        if self.executions == self.at:
            self.happens()
        return super().execute(commands)

    def rest(self):
        self.rests += 1


def trainer(device, recorder=None, steps=50, **settings):
    recorder = InMemory(10) if recorder is None else recorder
    return Trainer(RULE, device, parity(2), MeanSquaredError(), Budget(steps=steps), recorder, **settings)


def throws(error):
    def happens():
        raise error

    return happens


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (DeviceError("pulled"), "failed"),
        (LimitError("too high"), "failed"),
        (ValueError("a mistake of ours"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
        (SystemExit(3), "failed"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_rest_and_outcome_whatever_happens(error, outcome):
    device, recorder = Watched(at=20, happens=throws(error)), InMemory(10)
    with pytest.raises(type(error)):
        trainer(device, recorder).run()
    assert device.rests == 1
    assert recorder.outcome["outcome"] == outcome
    assert recorder.outcome["steps"] == 19


def test_an_error_says_after_which_step():
    with pytest.raises(DeviceError) as caught:
        trainer(Watched(at=20, happens=throws(DeviceError("pulled")))).run()
    assert caught.value.__notes__ == ["after step 19 on 'sim'"]


def test_rest_when_the_recorder_fails():
    class Full(InMemory):
        def line(self, values):
            raise OSError(28, "No space left on device")

    device = Watched()
    with pytest.raises(OSError, match="No space"):
        trainer(device, Full(10)).run()
    assert device.rests == 1


def test_a_run_that_ends_well_rests_too():
    device = Watched()
    assert trainer(device).run().outcome == "completed"
    assert device.rests == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_a_second_stops_at_once(number):
    before = signal.getsignal(number)
    device, recorder = Watched(at=20, happens=lambda: os.kill(os.getpid(), number)), InMemory(10)
    result = trainer(device, recorder).run()
    assert result.outcome == "interrupted"
    assert result.state.step == 20  # the step in which it came was finished
    assert recorder.checkpoint["state.step"] == 20
    assert device.rests == 1

    def twice():
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)

    device = Watched(at=20, happens=twice)
    with pytest.raises(KeyboardInterrupt):
        trainer(device).run()
    assert device.rests == 1
    assert signal.getsignal(number) is before  # handlers are given back


@pytest.mark.parametrize(
    "faults", [{"cost_noise": 1e-3}, {"cost_noise": 1e-3, "read_noise": 0.1, "update_noise": 1e-3}]
)
def test_how_often_is_evaluated_changes_nothing(faults):
    thetas = [
        trainer(Watched(chips=3, **faults), evaluation=Evaluation(every=every), steps=200).run().state.theta
        for every in (7, 1000)
    ]
    assert np.array_equal(*thetas)


def test_a_resumed_run_in_memory_equals_one_that_never_stopped():
    recorder = InMemory(10)
    trainer(Watched(cost_noise=1e-3), recorder, steps=70).run()
    resumed = trainer(Watched(cost_noise=1e-3), recorder, steps=150).run()
    at_once = trainer(Watched(cost_noise=1e-3), steps=150).run()
    assert np.array_equal(resumed.state.theta, at_once.state.theta)
    assert resumed.counts.writes == at_once.counts.writes


def test_what_is_needed_is_named_before_anything_is_sent():
    black_box = FunctionDevice(lambda theta, x: x[:, :1], size=9, inputs=2, outputs=1)
    with pytest.raises(CapabilityError, match="Backprop needs GRADIENT"):
        Trainer(Backprop(eta=1), black_box, parity(2), MeanSquaredError(), Budget(steps=1), InMemory())
    with pytest.raises(ConfigError, match="task 'parity' has 3 inputs; device 'sim' has 2"):
        Trainer(RULE, Watched(), parity(3), MeanSquaredError(), Budget(steps=1), InMemory())


def test_a_device_that_reports_costs_only_is_trained_and_scored_by_cost():
    class CostOnly(Watched):
        @property
        def spec(self):
            whole = super().spec
            return DeviceSpec("meter", 2, 1, whole.size, Can.COST | Can.PROBE)

    result = trainer(CostOnly(), steps=300).run()
    assert set(result.metrics) == {"test_cost", "train_cost"}
    assert result.counts.perturbed == result.counts.baseline == 300


def test_a_small_angle_is_exact():
    for degrees in (1e-9, 1e-5, 1.0, 90.0, 179.9):
        turned = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
        assert angle(np.array([2.0, 0.0]), turned) == pytest.approx(degrees, rel=1e-6)
