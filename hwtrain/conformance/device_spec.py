"""What a device declares is so, and what it does not offer is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from hwtrain.conformance.bench import PROBES, Bench, with_last
from hwtrain.conformance.readings import OBSERVABLES, arrays, fits, observed, shape_text, shapes
from hwtrain.conformance.samples import parameter_range
from hwtrain.conformance.values import SIGMAS, fail, first_difference, require
from hwtrain.core import Array, Can, Command, DeviceSpec, Measure, Program, Sample
from hwtrain.errors import CapabilityError, HwtrainError, LimitError


class KeepsItsSpec:
    """Part of `DeviceConformance`: what a spec says holds, and what it does not say is refused."""

    def test_spec_is_stable_and_survives_json(self, bench: Bench) -> None:
        before = bench.device.spec
        text = json.dumps(before.to_json(), allow_nan=False)
        back = DeviceSpec.from_json(json.loads(text))
        require(back == before, f"the spec does not survive JSON: {first_difference(back, before, 'spec')}")
        bench.look(bench.theta(1))
        bench.device.rest()
        after = bench.device.spec
        require(
            after == before, f"the spec changed while the device was used: {first_difference(after, before, 'spec')}"
        )

    def test_readings_repeat_within_the_declared_noise(self, bench: Bench) -> None:
        spec = bench.spec
        first, second = bench.look(bench.theta(1)), bench.look(bench.theta(1))
        bench.agree(first, second, "the same parameters measured twice give different readings")
        if not spec.noise or Can.COST not in spec.can:
            return
        count = max(bench.repeats, 32)
        costs = [observed(reading, "cost") for reading in bench.execute([Measure(bench.sample)] * count)]
        spread = float(np.max(np.std(costs, axis=0, ddof=1)))
        limit = spec.noise * (1 + SIGMAS / math.sqrt(2 * (count - 1))) + bench.allowance
        require(
            spread <= limit,
            f"{count} readings of the cost spread by {spread:.3g}; {spec.name!r} declares a noise of {spec.noise:g}",
        )

    def test_readings_follow_the_parameters(self, bench: Bench) -> None:
        first = bench.look(bench.theta(1))
        other = bench.look(bench.theta(2))
        again = bench.look(bench.theta(1))
        bench.agree(first, again, "parameters programmed again do not give the readings they gave before")
        require(
            bool(bench.differs(first, other)) or not bench.exact,
            "other parameters give the very same readings: Program has no effect, or the readings are stale",
        )

    def test_undeclared_capability_is_refused(self, bench: Bench) -> None:
        asked = {can: Measure(bench.sample, observe=can) for can in OBSERVABLES}
        for site, can in PROBES.items():
            asked[can] = Measure(bench.sample, bench.probes(site=site), bench.observable)
        undeclared = {can: command for can, command in asked.items() if can not in bench.spec.can}
        if not undeclared:
            pytest.skip("the device offers everything")
        for can, command in undeclared.items():
            _refused(bench, [command], CapabilityError, f"{can.name}, which the spec does not declare")

    @pytest.mark.parametrize("side", ["low", "high"])
    def test_out_of_range_parameter_is_refused(self, bench: Bench, side: str) -> None:
        limit = getattr(bench.spec, side)
        if not math.isfinite(limit):
            pytest.skip(f"the range has no {side} end")
        low, high = parameter_range(bench.spec)
        beyond = limit + 0.01 * (high - low) * (1 if side == "high" else -1)
        _refused(
            bench, [Program(with_last(bench.theta(1), beyond))], LimitError, f"a parameter of {beyond:g}, out of range"
        )
        within = with_last(bench.theta(1), limit)
        try:
            bench.execute([Program(within)])
        except HwtrainError as error:
            fail(f"the {side} end of the range, {limit:g}, belongs to it and was refused: {error}")

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_parameter_that_is_not_finite_is_refused(self, bench: Bench, value: float) -> None:
        _refused(bench, [Program(with_last(bench.theta(1), value))], LimitError, f"a parameter that is {value}")

    def test_parameters_of_wrong_shape_are_refused(self, bench: Bench) -> None:
        theta = bench.theta(1)
        for wrong in (theta[..., :-1], np.concatenate([theta, theta[..., :1]], axis=-1), np.stack([theta, theta])):
            _refused(
                bench, [Program(wrong)], LimitError, f"parameters of shape {wrong.shape} where {theta.shape} are held"
            )

    def test_sample_of_wrong_shape_is_refused(self, bench: Bench) -> None:
        x, target = bench.sample.x, bench.sample.target
        for wrong in (np.concatenate([x, x[..., :1]], axis=-1), x[0, 0]):
            command = Measure(Sample(wrong, target), observe=bench.observable)
            _refused(bench, [command], LimitError, f"a sample of shape {wrong.shape}")

    def test_sample_with_axes_that_do_not_fit_is_refused(self, bench: Bench) -> None:
        x, target = bench.sample.x, bench.sample.target
        stray = np.zeros((math.prod(bench.spec.replicas) + 1, *x.shape))
        wrong = [(Sample(stray, target), f"a sample of shape {stray.shape} for replicas {bench.spec.replicas}")]
        if target is not None:
            longer = np.concatenate([target, target], axis=-2)
            wrong.append((Sample(x, longer), f"a target of shape {longer.shape} with a sample of shape {x.shape}"))
        for sample, what in wrong:
            _refused(bench, [Measure(sample, observe=bench.observable)], LimitError, what)

    def test_probe_that_leaves_the_range_is_refused(self, bench: Bench) -> None:
        edge = _at_the_edge(bench)
        probing = Measure(bench.sample, bench.probes(), bench.observable)
        _refused(bench, [Program(edge), probing], LimitError, "a probe that moves a parameter out of range")

    def test_probe_that_leaves_the_range_of_what_is_held_is_refused(self, bench: Bench) -> None:
        edge = _at_the_edge(bench)
        bench.execute([Program(edge)])
        try:
            bench.execute([Measure(bench.sample, bench.probes(), bench.observable)])
        except LimitError:
            return
        fail("a probe that moves a parameter, programmed in an earlier call, out of range was carried out")

    def test_measurement_that_is_refused_changes_nothing(self, bench: Bench) -> None:
        if not bench.spec.can & (Can.COST | Can.SAMPLE_COST):
            pytest.skip("the device reports no cost")
        observe = Can.COST if Can.COST in bench.spec.can else Can.SAMPLE_COST
        before = bench.settle()
        try:
            bench.execute([Program(bench.theta(2)), Measure(Sample(bench.sample.x), observe=observe)])
        except HwtrainError:
            bench.unchanged(before, "a cost without a target was refused")
        else:
            pytest.skip("the device needs no target")

    def test_reading_has_the_declared_axes(self, bench: Bench) -> None:
        bench.execute([Program(bench.theta(1))])
        for probes in (None, *(bench.probes(count=3, site=site) for site in bench.sites)):
            k = 1 if probes is None else probes.count
            wanted = shapes(bench.spec, bench.sample, k)
            for can in [*bench.observables, bench.all_observables]:
                (reading,) = bench.execute([Measure(bench.sample, probes, can)])
                for name, value in arrays(reading).items():
                    if name not in wanted:
                        fail(f"a reading has {name}, but there are {len(bench.spec.layers)} layers")
                    require(
                        np.dtype(value.dtype).kind == "f",
                        f"{name} has dtype {value.dtype}; readings are floating-point numbers",
                    )
                    require(
                        fits(value.shape, wanted[name]),
                        f"{name} of a measurement with k = {k} has the shape {value.shape} instead of "
                        f"{shape_text(wanted[name])} (axes ... k t b n)",
                    )
                    require(bool(np.isfinite(value).all()), f"{name} is not finite at parameters in the range")

    def test_reading_has_exactly_what_was_observed(self, bench: Bench) -> None:
        bench.execute([Program(bench.theta(1))])
        for can in [*bench.observables, bench.all_observables]:
            readings = bench.execute([Measure(bench.sample, observe=can)])
            require(len(readings) == 1, f"one Measure gave {len(readings)} readings")
            for each, name in OBSERVABLES.items():
                there, wanted = getattr(readings[0], name) is not None, each in can
                require(
                    there == wanted,
                    f"{can.names()} was observed, and the reading {'has' if there else 'lacks'} {name}",
                )

    def test_program_gives_no_reading(self, bench: Bench) -> None:
        commands: list[Command] = [Program(bench.theta(1)), bench.plain, Program(bench.theta(2)), bench.plain]
        readings = bench.execute(commands)
        require(len(readings) == 2, f"two Programs and two Measures gave {len(readings)} readings instead of 2")

    def test_cost_is_the_mean_over_the_samples(self, bench: Bench) -> None:
        if (Can.COST | Can.SAMPLE_COST) not in bench.spec.can:
            pytest.skip("the device does not offer both costs")
        bench.execute([Program(bench.theta(1))])
        (reading,) = bench.execute([Measure(bench.sample, observe=Can.COST | Can.SAMPLE_COST)])
        cost, each = observed(reading, "cost"), observed(reading, "sample_cost")
        far = float(np.max(np.abs(cost - each.mean(axis=-1))))
        limit = 1e-6 * float(np.max(np.abs(cost))) + bench.tolerance
        require(far <= limit, f"cost is not the mean of sample_cost: they are {far:.3g} apart")


def _refused(bench: Bench, commands: Sequence[Command], error: type[HwtrainError], what: str) -> None:
    before = bench.settle()
    try:
        bench.device.execute([Program(bench.theta(2)), *commands])
    except error:
        pass
    except Exception as other:
        fail(f"{what} raised {type(other).__name__} ({other}) instead of {error.__name__}")
    else:
        fail(f"{what}, was accepted (clipped? ignored?) instead of refused with {error.__name__}")
    bench.unchanged(before, f"{what}, was refused")


def _at_the_edge(bench: Bench) -> Array:
    bench.needs(Can.PROBE)
    if not math.isfinite(bench.spec.high):
        pytest.skip("the range has no high end")
    return np.full_like(bench.theta(1), bench.spec.high - 0.5 * bench.amplitude)
