"""Devices, algorithms and perturbations that are broken on purpose, each in one way, and the kit turned on them.

`tests/test_conformance.py` runs this file, which is not collected otherwise. Every test class says in `fails` which
checks must fail, and no other one may, and in `message` what the first of these must say.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from hwtrain import draws
from hwtrain.algorithms.mgd import MGD
from hwtrain.algorithms.osttp import OSTTP
from hwtrain.conformance import AlgorithmConformance, DeviceConformance, Goal, PerturbationConformance
from hwtrain.core import Can, LearnInTime, Measure, Program, Reading, Sample, counted
from hwtrain.costs import MeanSquaredError
from hwtrain.devices.simulated import Simulated
from hwtrain.devices.spiking import Spiking
from hwtrain.limits import check
from hwtrain.optimize import Descent
from hwtrain.perturb import Rademacher
from hwtrain.sim.networks import mlp
from hwtrain.sim.neurons import Surrogate
from hwtrain.sim.spiking import snu


class Sound:
    """A sound device of nine parameters, of which costs can be read; the broken ones change one thing about it."""

    offers = Can.COST | Can.SAMPLE_COST | Can.PROBE | Can.STATE

    def __init__(self, chips=None, seed=0, **settings):
        limits = {"low": -1.0, "high": 1.0} | {key: settings.pop(key) for key in ("low", "high") if key in settings}
        self.sim = Simulated(mlp([2, 2, 1]), MeanSquaredError(), seed=seed, chips=chips, **settings)  # refuses little
        self.spec = replace(self.sim.spec, can=self.offers, **limits)
        self.held = np.zeros((*self.spec.replicas, self.spec.size))

    def execute(self, commands):
        self.check(commands)
        return tuple(reading for command in commands for reading in self.carry_out(command))

    def check(self, commands):
        check(self.spec, commands, self.held)

    def carry_out(self, command):
        if isinstance(command, Program):
            self.held = command.theta
        return self.sim.execute([command])

    def rest(self):
        pass

    def close(self):
        pass

    def snapshot(self):
        return {**self.sim.snapshot(), "held": np.array(self.held)}

    def restore(self, snapshot):
        self.sim.restore(snapshot)
        self.held = np.array(snapshot["held"])


class Clips(Sound):
    """Brings parameters silently into the range."""

    def execute(self, commands):
        return super().execute([self.clipped(command) for command in commands])

    def clipped(self, command):
        if isinstance(command, Measure) or not np.isfinite(command.theta).all():
            return command
        return Program(np.clip(command.theta, self.spec.low, self.spec.high))


class LocksWhatItIsGiven(Sound):
    """Keeps the caller's array, and keeps the caller from it."""

    def carry_out(self, command):
        if isinstance(command, Program):
            command.theta.flags.writeable = False
        return super().carry_out(command)


class TakesNaN(Sound):
    """Lets NaN pass, as comparisons with limits do."""

    def execute(self, commands):
        return super().execute([self.passed(command) for command in commands])

    def passed(self, command):
        if isinstance(command, Measure) or not np.isnan(command.theta).any():
            return command
        return Program(np.where(np.isnan(command.theta), 0.0, command.theta))


class ForgetsWhatItHolds(Sound):
    """Checks probes against parameters of the same call only."""

    def check(self, commands):
        self.held, held = np.zeros_like(self.held), self.held
        try:
            super().check(commands)
        finally:
            self.held = held


class SticksToProbes(Sound):
    """Leaves the last probe in the parameters until they are written again."""

    def carry_out(self, command):
        readings = super().carry_out(command)
        if isinstance(command, Measure) and command.probes is not None:
            self.sim.execute([Program(self.held + command.probes.dense(self.spec.size)[..., -1, :])])
        return readings

    def snapshot(self):
        return {}

    def restore(self, snapshot):
        pass

    offers = Sound.offers & ~Can.STATE


class LosesAnAxis(Sound):
    """Leaves out the axis of the probes where there are none."""

    def carry_out(self, command):
        for reading in super().carry_out(command):
            if command.probes is None and reading.sample_cost is not None:
                reading = replace(reading, sample_cost=reading.sample_cost[..., 0, :])
            yield reading


class SpeaksUnasked(Sound):
    """Reports the cost of every sample as well."""

    def carry_out(self, command):
        if isinstance(command, Measure):
            command = replace(command, observe=command.observe | Can.SAMPLE_COST)
        return super().carry_out(command)


class RepeatsStaleReadings(Sound):
    """Answers a plain measurement with what it read first, as a buffer that nobody emptied does."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.buffer = {}

    def carry_out(self, command):
        readings = super().carry_out(command)
        if isinstance(command, Program) or command.probes is not None:
            return readings
        return self.buffer.setdefault(command.observe, readings)


class UnderstatesNoise(Sound):
    """Is noisier than it says."""

    def __init__(self, **settings):
        super().__init__(cost_noise=0.5, **settings)
        self.spec = replace(self.spec, noise=0.03)


class CarriesOutHalf(Sound):
    """Checks each command only when its turn comes."""

    def execute(self, commands):
        return tuple(reading for command in commands for reading in super(CarriesOutHalf, self).execute([command]))


class ObeysTheUndeclared(Sound):
    """Reports outputs, which its spec does not offer."""

    def check(self, commands):
        super().check([self.declared(command) for command in commands])

    def declared(self, command):
        if isinstance(command, Measure):
            return replace(command, observe=command.observe & ~Can.OUTPUT)
        return command


class RestsOnlyWhenOpen(Sound):
    """Cannot rest once it is closed."""

    closed = False

    def close(self):
        self.closed = True

    def rest(self):
        if self.closed:
            raise OSError("the port is closed")


class ForgetsToRestore(Sound):
    """Takes a snapshot back and does nothing with it."""

    def restore(self, snapshot):
        pass


class CrossesWires(Sound):
    """Reports the costs of replica 0 for every replica."""

    def carry_out(self, command):
        for reading in super().carry_out(command):
            first = {
                name: np.broadcast_to(value[:1], value.shape)
                for name in ("cost", "sample_cost")
                if (value := getattr(reading, name)) is not None and self.spec.replicas
            }
            yield replace(reading, **first)


class ProbesTwiceAsFar(Sound):
    """Moves by twice the perturbation it is asked for."""

    def carry_out(self, command):
        if isinstance(command, Measure) and command.probes is not None:
            code = command.probes.perturbation
            command = replace(
                command, probes=replace(command.probes, perturbation=replace(code, amplitude=0.05 + code.amplitude))
            )
        return super().carry_out(command)


class DifferentiatesWrongly(Sound):
    """Adds its biases, and differentiates as if it subtracted them."""

    offers = Sound.offers | Can.GRADIENT

    def carry_out(self, command):
        for reading in super().carry_out(command):
            if reading.gradient is not None:
                signs = np.ones(9)
                signs[[4, 5, 8]] = -1
                reading = replace(reading, gradient=reading.gradient * signs)
            yield reading


class LearnsInTime:
    """A sound device of spiking neurons that learns by the rule itself; the broken ones change one thing about it."""

    def __init__(self):
        self.sim = Spiking(snu([2, 4, 2], threshold=0.1), MeanSquaredError(), low=-2.0, high=2.0)
        self.spec = replace(self.sim.spec, can=Can.COST | Can.OUTPUT | Can.ACTIVITY | Can.LEARN_IN_TIME)
        self.held = np.zeros(self.spec.size)

    def execute(self, commands):
        check(self.spec, commands)
        return tuple(reading for command in commands for reading in self.carry_out(command))

    def carry_out(self, command):
        if isinstance(command, LearnInTime):
            return (self.learn(command),)
        if isinstance(command, Program):
            self.held = command.theta
        return self.sim.execute([command])

    def learn(self, block):
        rule = Taught(
            eta=block.readout_rate, hidden_rate=block.rate / block.readout_rate, cost=MeanSquaredError(),
            signal=block.signal, centre=block.centre, scale=block.scale,
            surrogate=Surrogate(block.shape, block.slope, block.height), update="step", batch=1, optimizer=Descent(),
            start=lambda spec, seed: self.held.astype(float),
        )  # fmt: skip
        state, costs = rule.init(self.sim.spec, block.seeds), []
        if block.centre:
            state = self.remembering(state, block)
        for b in range(block.sample.x.shape[1]):
            part = self.sequence(block.sample, b)
            count, spent = counted(part.target), []
            while state.sample == b:
                now = state.time
                state, metrics = rule.tell(state, part, self.sim.execute(rule.ask(state, part)))
                spent += [metrics["cost"]] if count[now, 0] else []
            costs.append(np.mean(spent))
        self.held = state.theta
        return Reading(cost=np.array(costs), theta=state.theta)

    def remembering(self, state, block):
        return replace(state, targets=block.targets, shown=np.array(block.shown))

    def sequence(self, sample, b):
        return Sample(sample.x[:, b : b + 1], sample.target[:, b : b + 1])

    def rest(self):
        pass

    def close(self):
        pass


class Taught(OSTTP):
    """With projections from seeds and a width of their own."""

    def projection(self, state, number):
        m, n = state.targets.shape[-1], state.layers[number].outputs[0]
        return self.scale * (2 * draws.uniform(state.seed[number], 0, m * n) - 1).reshape(m, n)


class NeverForgets(LearnsInTime):
    """Goes on with neurons and traces from sequence to sequence."""

    def sequence(self, sample, b):
        return replace(super().sequence(sample, b), start=b == 0)


class ForgetsTheMean(LearnsInTime):
    """Takes the mean of the targets of a block, and not of all that were shown."""

    def remembering(self, state, block):
        return state


class OnDevice(DeviceConformance):
    """The kit on devices of class `kind`."""

    kind = Sound
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


class TestSoundDevice(OnDevice):
    chips = 3
    settings = {"cost_noise": 0.01}
    fails = ()
    message = ""


class TestClips(OnDevice):
    kind = Clips
    fails = ("test_out_of_range_parameter_is_refused[low]", "test_out_of_range_parameter_is_refused[high]")
    message = "a parameter of -1.02, out of range, was accepted (clipped? ignored?) instead of refused with LimitError"


class TestLocksWhatItIsGiven(OnDevice):
    kind = LocksWhatItIsGiven
    fails = ("test_caller_keeps_its_arrays",)
    message = "the device made the caller's array read-only"


class TestTakesNaN(OnDevice):
    kind = TakesNaN
    fails = ("test_parameter_that_is_not_finite_is_refused[nan]",)
    message = "a parameter that is nan, was accepted (clipped? ignored?) instead of refused with LimitError"


class TestForgetsWhatItHolds(OnDevice):
    kind = ForgetsWhatItHolds
    fails = ("test_probe_that_leaves_the_range_of_what_is_held_is_refused",)
    message = "a probe that moves a parameter, programmed in an earlier call, out of range was carried out"


class TestSticksToProbes(OnDevice):
    kind = SticksToProbes
    fails = ("test_probes_are_volatile",)
    message = "a probe leaves a trace: the plain measurement after it is another: cost[0] is"


class TestLosesAnAxis(OnDevice):
    kind = LosesAnAxis
    fails = ("test_reading_has_the_declared_axes",)
    message = "sample_cost of a measurement with k = 1 has the shape (3,) instead of (1, 3)"


class TestSpeaksUnasked(OnDevice):
    kind = SpeaksUnasked
    fails = ("test_reading_has_exactly_what_was_observed",)
    message = "COST was observed, and the reading has sample_cost"


class TestRepeatsStaleReadings(OnDevice):
    kind = RepeatsStaleReadings
    fails = ("test_readings_follow_the_parameters", "test_probing_equals_programming")
    message = "other parameters give the very same readings: Program has no effect, or the readings are stale"


class TestUnderstatesNoise(OnDevice):
    kind = UnderstatesNoise
    fails = ("test_readings_repeat_within_the_declared_noise",)
    message = "'sim' declares a noise of 0.03"

    @pytest.fixture
    def allowance(self):
        return 0.3  # so that all other checks pass


class TestCarriesOutHalf(OnDevice):
    kind = CarriesOutHalf
    chips = 2
    fails = (
        "test_out_of_range_parameter_is_refused[low]",
        "test_out_of_range_parameter_is_refused[high]",
        "test_parameter_that_is_not_finite_is_refused[nan]",
        "test_parameter_that_is_not_finite_is_refused[inf]",
        "test_parameter_that_is_not_finite_is_refused[-inf]",
        "test_parameters_of_wrong_shape_are_refused",
        "test_sample_of_wrong_shape_is_refused",
        "test_sample_with_axes_that_do_not_fit_is_refused",
        "test_undeclared_capability_is_refused",
        "test_probe_that_leaves_the_range_is_refused",
        "test_measurement_that_is_refused_changes_nothing",
    )
    message = "a parameter of -1.02, out of range, was refused, and yet the device's state changed: snapshot"


class TestObeysTheUndeclared(OnDevice):
    kind = ObeysTheUndeclared
    fails = ("test_undeclared_capability_is_refused",)
    message = "OUTPUT, which the spec does not declare, was accepted"


class TestRestsOnlyWhenOpen(OnDevice):
    kind = RestsOnlyWhenOpen
    fails = ("test_closes_twice_and_rests_after_close",)
    message = "rest after close raised OSError: the port is closed"


class TestForgetsToRestore(OnDevice):
    kind = ForgetsToRestore
    settings = {"cost_noise": 0.01}
    fails = ("test_restored_device_goes_on_as_before",)
    message = "a snapshot right after restore is not what was restored"


class TestCrossesWires(OnDevice):
    kind = CrossesWires
    chips = 3
    fails = ("test_replicas_equal_separate_devices",)
    message = "replica 1 of the stack does not read what it reads alone"


class TestProbesTwiceAsFar(OnDevice):
    kind = ProbesTwiceAsFar
    fails = ("test_probing_equals_programming",)
    message = "probe 0 does not read what programming theta + delta reads"


class TestDifferentiatesWrongly(OnDevice):
    kind = DifferentiatesWrongly
    fails = ("test_gradient_agrees_with_finite_differences",)
    message = "the gradient of parameter 4 is"


class InTime(DeviceConformance):
    """The kit on devices that learn in time."""

    kind = LearnsInTime

    @pytest.fixture
    def device(self):
        return self.kind()


class TestLearnsInTime(InTime):
    fails = ()
    message = ""


class TestNeverForgets(InTime):
    kind = NeverForgets
    fails = tuple(
        f"test_learning_in_time_equals_the_rule_on_the_host[{case}]"
        for case in ("target-tanh-False", "target-tanh-True", "local-fast_sigmoid-False", "error-triangle-False")
    )
    message = "what a device learns in time by itself is not what the host makes of its activities"


class TestForgetsTheMean(InTime):
    kind = ForgetsTheMean
    fails = ("test_learning_in_time_equals_the_rule_on_the_host[target-tanh-True]",)
    message = "what a device learns in time by itself is not what the host makes of its activities"


@dataclass(frozen=True, kw_only=True)
class Descends(MGD):
    """A sound algorithm, with a dictionary that the broken ones misuse."""

    eta: float = 8.0
    perturbation: Rademacher = field(default_factory=lambda: Rademacher(amplitude=0.05))
    tau_x: int = 4
    tau_theta: int = 4
    probes: int = 2
    kept: dict = field(default_factory=dict)

    def changed(self, before, after, theta):
        """The next state, with other parameters if they were updated."""
        updated = after.updates > before.updates
        return replace(after, theta=np.clip(theta, after.low, after.high) if updated else before.theta)


class HidesMomentum(Descends):
    """Keeps its momentum in the algorithm instead of its state."""

    def tell(self, state, sample, readings):
        after, metrics = super().tell(state, sample, readings)
        velocity = 0.5 * self.kept.get((state.step, state.seed.tobytes()), 0) + after.theta - state.theta
        self.kept[after.step, after.seed.tobytes()] = velocity
        return self.changed(state, after, state.theta + velocity), metrics


class CountsQuestions(Descends):
    """Measures once more with every third question."""

    def ask(self, state, sample):
        *commands, last = super().ask(state, sample)
        self.kept["asked"] = self.kept.get("asked", 0) + 1
        return *commands, *([] if self.kept["asked"] % 3 else [Measure(sample)]), last


class WritesIntoItsState(Descends):
    """Adds to a sum in place."""

    def tell(self, state, sample, readings):
        after, metrics = super().tell(state, sample, readings)
        np.add(state.homodyne, after.homodyne - state.homodyne, out=state.homodyne)
        return after, metrics


class DrawsGlobally(Descends):
    """Shakes its parameters by what numpy draws."""

    def tell(self, state, sample, readings):
        after, metrics = super().tell(state, sample, readings)
        return self.changed(state, after, after.theta + 1e-6 * np.random.standard_normal(after.theta.shape)), metrics


class MixesReplicas(Descends):
    """Averages the step over all replicas."""

    def tell(self, state, sample, readings):
        after, metrics = super().tell(state, sample, readings)
        change = after.theta - state.theta
        mean = change.mean(axis=tuple(range(change.ndim - 1)))
        return self.changed(state, after, state.theta + mean), metrics


class WantsMore(Descends):
    """Looks at the output as well, and does not say so."""

    def ask(self, state, sample):
        *commands, last = super().ask(state, sample)
        return *commands, replace(last, observe=Can.COST | Can.OUTPUT)


class LeavesTheRange(Descends):
    """Knows no limits."""

    def init(self, spec, seed):
        return replace(super().init(spec, seed), low=-math.inf, high=math.inf)


class SpreadsNaN(Descends):
    """Adds to theta whatever was measured."""

    def tell(self, state, sample, readings):
        after, metrics = super().tell(state, sample, readings)
        spoilt = 0 * sum(reading.cost.sum(axis=-1) for reading in readings)
        return replace(after, theta=after.theta + spoilt[..., None]), metrics


class Ascends(Descends):
    """Goes up instead of down."""

    def tell(self, state, sample, readings):
        after, metrics = super().tell(state, sample, readings)
        return self.changed(state, after, 2 * state.theta - after.theta), metrics


class MovesUncounted(Descends):
    """Does not count its updates."""

    def tell(self, state, sample, readings):
        after, metrics = super().tell(state, sample, readings)
        return replace(after, updates=0), metrics


class KeepsAList(Descends):
    """Keeps a memory that grows, which a checkpoint cannot put back into a fresh state."""

    def tell(self, state, sample, readings):
        after, metrics = super().tell(state, sample, readings)
        return replace(after, moments=(*after.moments, metrics["cost"])), metrics


class AveragesItsMetric(Descends):
    """Reports one cost for all replicas."""

    def tell(self, state, sample, readings):
        after, metrics = super().tell(state, sample, readings)
        return after, {**metrics, "cost": metrics["cost"].mean()}


class OnAlgorithm(AlgorithmConformance):
    """The kit on algorithms of class `kind`."""

    kind = Descends

    @pytest.fixture
    def algorithm(self):
        return self.kind()

    @pytest.fixture
    def goal(self):
        return Goal(replicas=4, learners=2, measurements=4000)


CONTAINED = tuple(
    f"test_invalid_reading_is_contained[cost+sample_cost+gradient-{at}-{value}]"
    for at in (0, 3)
    for value in ("nan", "inf")
)


class TestSoundAlgorithm(OnAlgorithm):
    fails = ()
    message = ""


class TestHidesMomentum(OnAlgorithm):
    kind = HidesMomentum
    fails = ("test_resuming_equals_never_stopping",)
    message = "It keeps state outside its state object: self.kept"


class TestCountsQuestions(OnAlgorithm):
    kind = CountsQuestions
    fails = ("test_ask_is_pure",)
    message = "CountsQuestions.ask called twice with the same arguments gives two results"


class TestWritesIntoItsState(OnAlgorithm):
    kind = WritesIntoItsState
    fails = ("test_tell_is_pure",)
    message = "WritesIntoItsState.tell writes into the arrays it was given in step 1"


class TestDrawsGlobally(OnAlgorithm):
    kind = DrawsGlobally
    fails = (
        "test_tell_is_pure",
        "test_replicas_equal_separate_runs",
        "test_resuming_equals_never_stopping",
        "test_transcript_rebuilds_the_parameters",
        *CONTAINED,
    )
    message = "DrawsGlobally.tell draws from a global random generator; derive draws from (seed, step) instead"


class TestMixesReplicas(OnAlgorithm):
    kind = MixesReplicas
    fails = ("test_replicas_equal_separate_runs", *CONTAINED)
    message = "replica 0 of a stack is not what it is in a run of its own after step 2 (do replicas mix?)"


class TestWantsMore(OnAlgorithm):
    kind = WantsMore
    fails = ("test_declared_needs_suffice",)
    message = "WantsMore asks for more than its `needs` declare (COST, PROBE): a measurement wants OUTPUT"


class TestLeavesTheRange(OnAlgorithm):
    kind = LeavesTheRange
    fails = ("test_commands_stay_within_the_spec",)
    message = "LeavesTheRange asks for what the spec refuses: parameter"


class TestSpreadsNaN(OnAlgorithm):
    kind = SpreadsNaN
    fails = CONTAINED
    message = "one nan among the readings of replica 1 in step 1 led to a command out of limits: parameter (1, 0)"


class TestAscends(OnAlgorithm):
    kind = Ascends
    fails = ("test_learns",)
    message = "0 of 4 replicas came to 0.3 of their first training cost within 4000 measurements; 2 must"


class TestMovesUncounted(OnAlgorithm):
    kind = MovesUncounted
    fails = ("test_counts_are_honest",)
    message = "theta changed, but state.updates did not count it"


class TestKeepsAList(OnAlgorithm):
    kind = KeepsAList
    fails = ("test_state_survives_a_checkpoint",)
    message = (
        "the state does not survive a checkpoint, which holds arrays and numbers only: state.moments has 0 entries"
    )


class TestAveragesItsMetric(OnAlgorithm):
    kind = AveragesItsMetric
    fails = ("test_metrics_have_the_cost_of_every_replica[3]",)
    message = "the metric `cost` has the shape () instead of (3,), one per replica"

    @pytest.mark.skip("compares the metric of every replica")
    def test_replicas_equal_separate_runs(self):
        pass


class Streams(Rademacher):
    """Takes its signs from a generator that goes on and on."""

    generator = np.random.default_rng(0)

    def __call__(self, seed, steps, size):
        return 0.3 * self.generator.choice([-1.0, 1.0], (*np.shape(seed), len(steps), size))


class SeedsOnce(Rademacher):
    """Uses the first seed of a stack for all of it."""

    def __call__(self, seed, steps, size):
        signs = Rademacher.__call__(self, np.ravel(seed)[0], steps, size)
        return np.broadcast_to(signs, (*np.shape(seed), *signs.shape))


class LeansUpwards(Rademacher):
    """Has more positive signs than negative ones."""

    def __call__(self, seed, steps, size):
        return np.where(draws.uniform(seed, np.asarray(steps), size) < 0.6, 0.3, -0.3)


class PairsParameters(Rademacher):
    """Moves parameters two by two."""

    def __call__(self, seed, steps, size):
        return Rademacher.__call__(self, seed, steps, size)[..., np.arange(size) // 2]


class UnderstatesItsReach(Rademacher):
    """Says that it moves less than it does."""

    def reach(self, size):
        return 0.15

    def mean_square(self, size):
        return 0.09

    def __call__(self, seed, steps, size):
        return 2 * Rademacher.__call__(self, seed, steps, size)


class OnPerturbation(PerturbationConformance):
    """The kit on perturbations of class `kind`."""

    kind = Rademacher

    @pytest.fixture
    def perturbation(self):
        return self.kind(amplitude=0.3)


class TestSoundPerturbation(OnPerturbation):
    fails = ()
    message = ""


class TestStreams(OnPerturbation):
    kind = Streams
    fails = (
        "test_is_a_function_of_seed_and_step",
        "test_stack_of_seeds_equals_single_seeds",
        "test_nobody_can_spoil_the_next_call",
    )
    message = "the perturbation of a step depends on the order of the calls"


class TestSeedsOnce(OnPerturbation):
    kind = SeedsOnce
    fails = ("test_stack_of_seeds_equals_single_seeds",)
    message = "seed (0, 1) of a stack does not give what it gives alone"


class TestLeansUpwards(OnPerturbation):
    kind = LeansUpwards
    fails = ("test_mean_is_zero",)
    message = "the mean over 2048 steps is"


class TestPairsParameters(OnPerturbation):
    kind = PairsParameters
    fails = ("test_parameters_are_told_apart", "test_gradient_estimate_converges")
    message = "over 2048 steps two parameters have a product of 0.09 on average"


class TestUnderstatesItsReach(OnPerturbation):
    kind = UnderstatesItsReach
    fails = ("test_reach_is_the_largest_magnitude",)
    message = "a parameter is moved by 0.3, beyond the reach 0.15"
