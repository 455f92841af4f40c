"""Devices, algorithms and perturbations that are broken on purpose, each in one way, and the kit turned on them.

`tests/test_conformance.py` runs this file, which is not collected otherwise, and wants every fault named. Every class
says in `fails` which checks must fail, no other one may, and in `message` what the first of them must say.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from hwtrain import draws
from hwtrain.algorithms.mgd import MGD
from hwtrain.conformance import AlgorithmConformance, DeviceConformance, Goal, PerturbationConformance
from hwtrain.core import Can, Measure, Program, Reading, Site
from hwtrain.costs import MeanSquaredError
from hwtrain.devices.simulated import Simulated
from hwtrain.limits import check
from hwtrain.perturb import Rademacher
from hwtrain.sim.networks import mlp


class Plain(Simulated):
    """A sound device of 9 parameters that only costs can be read of; what the broken ones are made from."""

    offers = Can.COST | Can.SAMPLE_COST | Can.PROBE | Can.STATE

    def __init__(self, chips=None, seed=0, **settings):
        super().__init__(
            mlp([2, 2, 1]), MeanSquaredError(), seed=seed, chips=chips, **{"low": -1.0, "high": 1.0} | settings
        )

    @property
    def spec(self):
        return replace(super().spec, can=self.offers)

    def execute(self, commands):
        check(self.spec, commands)
        theta = self._target
        for command in commands:  # what Simulated itself leaves out today
            if isinstance(command, Program):
                theta = command.theta
            elif command.probes is not None and command.probes.site is Site.PARAMETERS:
                check(self.spec, [Program(theta), command])
            if isinstance(command, Measure):
                assert command.sample.target is not None or not command.observe & (Can.COST | Can.SAMPLE_COST)
        return super().execute(commands)


class OnPlain(DeviceConformance):
    """The kit on a device of class `kind`."""

    kind = Plain
    chips = None
    settings = {}

    @pytest.fixture
    def device(self):
        return self.kind(chips=self.chips, **self.settings)

    @pytest.fixture
    def another(self):
        return self.kind(chips=self.chips, **self.settings)

    @pytest.fixture
    def single(self):
        return lambda index: self.kind(seed=index, **self.settings)

    @pytest.mark.skip("the sound device has no refusal of its own to test here")
    def test_measurement_that_is_refused_changes_nothing(self):
        pass


class TestSoundDevice(OnPlain):
    chips = 3
    fails = ()
    message = ""


class TestClips(OnPlain):
    fails = ("test_out_of_range_parameter_is_refused[low]", "test_out_of_range_parameter_is_refused[high]")
    message = "a parameter of -1.02, out of range, was accepted (clipped? ignored?) instead of refused with LimitError"

    class kind(Plain):
        """Brings parameters silently into the range."""

        def execute(self, commands):
            spec = self.spec
            return super().execute(
                [
                    Program(np.clip(c.theta, spec.low, spec.high))
                    if isinstance(c, Program) and np.isfinite(c.theta).all()
                    else c
                    for c in commands
                ]
            )


class TestPassesNaN(OnPlain):
    fails = ("test_parameter_that_is_not_finite_is_refused[nan]",)
    message = "a parameter that is nan, was accepted"

    class kind(Plain):
        """Compares with the limits in a way that lets NaN pass."""

        def execute(self, commands):
            return super().execute(
                [
                    Program(np.nan_to_num(c.theta)) if isinstance(c, Program) and np.isnan(c.theta).any() else c
                    for c in commands
                ]
            )

        def rest(self):
            pass

    @pytest.mark.skip("wants a refusal of NaN")
    def test_rests_from_any_condition(self):
        pass


class TestStickyProbes(OnPlain):
    fails = ("test_probes_are_volatile",)
    message = "a probe leaves a trace: the plain measurement after it is another"

    class kind(Plain):
        """Leaves the last probe in the parameters until they are written again."""

        def _measure(self, command):
            reading = super()._measure(command)
            if command.probes is not None:
                self._target = self._target + command.probes.dense(self.spec.size)[..., -1, :]
                self._acting = None
            return reading


class TestWrongShape(OnPlain):
    fails = ("test_reading_has_the_declared_axes",)
    message = "sample_cost of a measurement with k = 1 has the shape (3,) instead of (1, 3)"

    class kind(Plain):
        """Leaves out the axis of the probes where there are none."""

        def _measure(self, command):
            reading = super()._measure(command)
            if command.probes is None and reading.sample_cost is not None:
                reading = replace(reading, sample_cost=reading.sample_cost[..., 0, :])
            return reading


class TestStale(OnPlain):
    fails = ("test_readings_follow_the_parameters", "test_probing_equals_programming")
    message = "other parameters give the very same readings: Program has no effect, or the readings are stale"

    class kind(Plain):
        """Answers a plain measurement with what it last read, as a buffer that nobody emptied does."""

        last = None

        def _measure(self, command):
            if command.probes is not None:
                return super()._measure(command)
            if self.last is None or _fields(self.last) != _fields(super()._measure(command)):
                self.last = super()._measure(command)
            return self.last


def _fields(reading):
    return [getattr(reading, name) is None for name in Reading.__slots__]


class TestUnderstatesNoise(OnPlain):
    fails = ("test_readings_repeat_within_the_declared_noise",)
    message = "declares a noise of 0.03"

    @pytest.fixture
    def allowance(self):
        return 0.3  # all other checks are to pass

    class kind(Plain):
        """Is noisier than it says."""

        def __init__(self, **settings):
            super().__init__(cost_noise=0.5, **settings)

        @property
        def spec(self):
            return replace(super().spec, noise=0.03)


class TestCarriesOutHalf(OnPlain):
    chips = 2
    fails = (
        "test_undeclared_capability_is_refused",
        "test_out_of_range_parameter_is_refused[low]",
        "test_out_of_range_parameter_is_refused[high]",
        "test_parameter_that_is_not_finite_is_refused[nan]",
        "test_parameter_that_is_not_finite_is_refused[inf]",
        "test_parameter_that_is_not_finite_is_refused[-inf]",
        "test_parameters_of_wrong_shape_are_refused",
        "test_sample_of_wrong_shape_is_refused",
        "test_probe_that_leaves_the_range_is_refused",
    )
    message = "was refused, and yet the device's state changed"

    class kind(Plain):
        """Checks each command only when its turn comes."""

        def execute(self, commands):
            return tuple(reading for command in commands for reading in super(type(self), self).execute([command]))


class TestObeysTheUndeclared(OnPlain):
    fails = ("test_undeclared_capability_is_refused",)
    message = "OUTPUT, which the spec does not declare, was accepted"

    class kind(Plain):
        """Reports what its spec does not offer."""

        def execute(self, commands):
            kept, type(self).offers = self.offers, self.offers | Can.OUTPUT
            try:
                return super().execute(commands)
            finally:
                type(self).offers = kept


class TestRestsOnce(OnPlain):
    fails = ("test_closes_twice_and_rests_after_close",)
    message = "rest after close raised OSError: the port is closed"

    class kind(Plain):
        """Cannot rest once closed."""

        closed = False

        def close(self):
            self.closed = True

        def rest(self):
            if self.closed:
                raise OSError("the port is closed")


class TestForgetsItsNoise(OnPlain):
    settings = {"cost_noise": 0.01}
    fails = ("test_restored_device_goes_on_as_before",)
    message = "a snapshot right after restore is not what was restored"

    class kind(Plain):
        """Restores its parameters, and not how far its noise had come."""

        def restore(self, snapshot):
            super().restore({**snapshot, "cost": np.asarray(0)})


class TestOneNoiseForAll(OnPlain):
    chips = 3
    settings = {"cost_noise": 0.01}
    fails = ("test_replicas_equal_separate_devices",)
    message = "replica 1 of the stack does not read what it reads alone"

    class kind(Plain):
        """Draws the same noise for every chip of a stack."""

        def __init__(self, **settings):
            super().__init__(**settings)
            self._cycle = np.broadcast_to(np.ravel(self._cycle)[0], self._cycle.shape)


class TestProbesTwiceAsFar(OnPlain):
    fails = ("test_probing_equals_programming",)
    message = "probe 0 does not read what programming theta + delta reads"

    class kind(Plain):
        """Applies twice the perturbation it is asked for."""

        def _measure(self, command):
            if command.probes is not None:
                code = command.probes.perturbation
                command = replace(
                    command, probes=replace(command.probes, perturbation=replace(code, amplitude=2 * code.amplitude))
                )
            return super()._measure(command)


class TestWrongGradient(OnPlain):
    fails = ("test_gradient_agrees_with_finite_differences",)
    message = "the gradient of parameter 4"

    class kind(Plain):
        """Adds its biases and differentiates as if it subtracted them."""

        offers = Plain.offers | Can.GRADIENT

        def _measure(self, command):
            reading = super()._measure(command)
            if reading.gradient is None:
                return reading
            signs = np.ones(9)
            signs[[4, 5, 8]] = -1
            return replace(reading, gradient=reading.gradient * signs)


@dataclass(frozen=True, kw_only=True)
class Sound(MGD):
    """A sound algorithm, which keeps a dictionary the broken ones may misuse."""

    eta: float = 5.0
    perturbation: Rademacher = Rademacher(amplitude=0.05)
    tau_x: int = 4
    tau_theta: int = 4
    probes: int = 2

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "kept", {})


class OnSound(AlgorithmConformance):
    """The kit on an algorithm of class `kind`."""

    kind = Sound

    @pytest.fixture
    def algorithm(self):
        return self.kind()

    @pytest.fixture
    def goal(self):
        return Goal(replicas=4, learners=2, measurements=8000)

    @pytest.fixture
    def make_device(self):
        return lambda replicas, first=0: Simulated(mlp([2, 2, 1]), MeanSquaredError(), seed=first, chips=replicas)


class TestSoundAlgorithm(OnSound):
    fails = ()
    message = ""


class TestHiddenState(OnSound):
    fails = ("test_resuming_equals_never_stopping",)
    message = "It keeps state outside its state object: self.kept"

    class kind(Sound):
        """Keeps its momentum in the algorithm instead of its state."""

        def tell(self, state, sample, readings):
            after, metrics = super().tell(state, sample, readings)
            before = self.kept.get((state.step, state.seed.tobytes()), 0)
            velocity = 0.5 * before + after.theta - state.theta
            self.kept[after.step, after.seed.tobytes()] = velocity
            return replace(
                after, theta=state.theta + velocity if after.updates > state.updates else state.theta
            ), metrics


class TestCountsInAsk(OnSound):
    fails = ("test_ask_is_pure", "test_transcript_rebuilds_the_parameters", "test_resuming_equals_never_stopping")
    message = "Sound.ask called twice with the same arguments gives two results"

    class kind(Sound):
        """Counts how often it was asked, and probes accordingly."""

        def _probes(self, state):
            return super()._probes(state)

        def ask(self, state, sample):
            self.kept["asked"] = self.kept.get("asked", 0) + 1
            *commands, last = super().ask(state, sample)
            return *commands, replace(last, probes=replace(last.probes, first=state.step + self.kept["asked"] % 97))


class TestWritesIntoItsState(OnSound):
    fails = ("test_tell_is_pure",)
    message = "tell writes into the arrays it was given in step 1"

    class kind(Sound):
        """Adds to the sum in place."""

        def tell(self, state, sample, readings):
            before = state.homodyne
            after, metrics = super().tell(state, sample, readings)
            before += after.homodyne - before
            return after, metrics


class TestGlobalRandomness(OnSound):
    fails = (
        "test_tell_is_pure",
        "test_replicas_equal_separate_runs",
        "test_resuming_equals_never_stopping",
        "test_transcript_rebuilds_the_parameters",
        *(
            f"test_invalid_reading_is_contained[cost+sample_cost+gradient-{at}-{value}]"
            for at in (0, 3)
            for value in ("nan", "inf")
        ),
    )
    message = "tell draws from a global random generator; derive draws from (seed, step) instead"

    class kind(Sound):
        """Shakes its parameters with whatever numpy draws."""

        def tell(self, state, sample, readings):
            after, metrics = super().tell(state, sample, readings)
            shaken = after.theta + 1e-6 * np.random.standard_normal(after.theta.shape)
            return replace(after, theta=shaken if after.updates > state.updates else state.theta), metrics


class TestMixesReplicas(OnSound):
    fails = (
        "test_replicas_equal_separate_runs",
        *(
            f"test_invalid_reading_is_contained[cost+sample_cost+gradient-{at}-{value}]"
            for at in (0, 3)
            for value in ("nan", "inf")
        ),
    )
    message = "replica 0 of a stack is not what it is in a run of its own after step 2 (do replicas mix?)"

    class kind(Sound):
        """Averages the step over all replicas."""

        def tell(self, state, sample, readings):
            after, metrics = super().tell(state, sample, readings)
            change = after.theta - state.theta
            return replace(after, theta=state.theta + change.mean(axis=tuple(range(change.ndim - 1)))), metrics


class TestUndeclaredNeed(OnSound):
    fails = ("test_declared_needs_suffice",)
    message = "Sound asks for more than its `needs` declare (COST, PROBE): a measurement wants OUTPUT"

    class kind(Sound):
        """Looks at the output as well."""

        def ask(self, state, sample):
            *commands, last = super().ask(state, sample)
            return *commands, replace(last, observe=Can.COST | Can.OUTPUT)


class TestLeavesTheRange(OnSound):
    fails = ("test_commands_stay_within_the_spec",)
    message = "Sound asks for what the spec refuses: parameter"

    class kind(Sound):
        """Does not know that parameters have limits."""

        def init(self, spec, seed):
            return replace(super().init(spec, seed), low=-math.inf, high=math.inf)


class TestSpreadsNaN(OnSound):
    fails = tuple(
        f"test_invalid_reading_is_contained[cost+sample_cost+gradient-{at}-{value}]"
        for at in (0, 3)
        for value in ("nan", "inf")
    )
    message = "one nan among the readings of replica 1 in step 1 made theta nan in step"

    class kind(Sound):
        """Adds to theta whatever was measured."""

        def tell(self, state, sample, readings):
            after, metrics = super().tell(state, sample, readings)
            spoilt = 0 * sum(reading.cost.sum(axis=-1) for reading in readings)
            return replace(
                after,
                theta=after.theta + spoilt[..., None] if after.updates > state.updates else after.theta,
                homodyne=after.homodyne + spoilt[..., None],
            ), metrics


class TestAscends(OnSound):
    fails = ("test_learns",)
    message = "0 of 4 replicas came to 0.3 of their first training cost within 8000 measurements; 2 must"

    class kind(Sound):
        """Goes up instead of down."""

        eta = 5.0

        def tell(self, state, sample, readings):
            after, metrics = super().tell(state, sample, readings)
            return replace(after, theta=2 * state.theta - after.theta), metrics


class TestKeepsAList(OnSound):
    fails = ("test_state_survives_a_checkpoint", "test_resuming_equals_never_stopping")
    message = (
        "the state does not survive a checkpoint, which holds arrays and numbers only: state.moments has 0 entries"
    )

    class kind(Sound):
        """Keeps a memory that grows, which no fresh state has."""

        def tell(self, state, sample, readings):
            after, metrics = super().tell(state, sample, readings)
            return replace(after, moments=(*after.moments, metrics["cost"])), metrics


class OnRademacher(PerturbationConformance):
    """The kit on a perturbation of class `kind`."""

    kind = Rademacher

    @pytest.fixture
    def perturbation(self):
        return self.kind(amplitude=0.3)


class TestDrawsFromAStream(OnRademacher):
    fails = (
        "test_is_a_function_of_seed_and_step",
        "test_stack_of_seeds_equals_single_seeds",
        "test_nobody_can_spoil_the_next_call",
    )
    message = "the perturbation of a step depends on the order of the calls"

    class kind(Rademacher):
        """Takes its signs from a generator that goes on."""

        generator = np.random.default_rng(0)

        def __call__(self, seed, steps, size):
            return 0.3 * self.generator.choice([-1.0, 1.0], (*np.shape(seed), len(steps), size))


class TestOneSeedForAll(OnRademacher):
    fails = ("test_stack_of_seeds_equals_single_seeds",)
    message = "seed (0, 1) of a stack does not give what it gives alone"

    class kind(Rademacher):
        """Uses the first seed of a stack for all of it."""

        def __call__(self, seed, steps, size):
            signs = super().__call__(np.ravel(seed)[0], steps, size)
            return np.broadcast_to(signs, (*np.shape(seed), *signs.shape))


class TestLeansUpwards(OnRademacher):
    fails = ("test_mean_is_zero", "test_parameters_are_told_apart", "test_gradient_estimate_converges")
    message = "the mean over 2048 steps is"

    class kind(Rademacher):
        """Has more positive signs than negative ones."""

        def __call__(self, seed, steps, size):
            steps = np.asarray(steps)
            lucky = draws.uniform(seed, steps, size) < 0.6
            return np.where(lucky, 0.3, -0.3)


class TestUnderstatesItsReach(OnRademacher):
    fails = ("test_reach_is_the_largest_magnitude",)
    message = "a parameter is moved by 0.3, beyond the reach 0.15"

    class kind(Rademacher):
        """Says that it moves less than it does."""

        def reach(self, size):
            return 0.15

        def mean_square(self, size):
            return 0.09

        def __call__(self, seed, steps, size):
            return 2 * super().__call__(seed, steps, size)
