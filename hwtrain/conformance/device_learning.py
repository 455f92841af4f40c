"""A device that learns by itself learns what the host makes of its readings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hwtrain import draws
from hwtrain.algorithms.forward_forward import ForwardForward
from hwtrain.algorithms.mono_forward import MonoForward
from hwtrain.algorithms.osttp import OSTTP
from hwtrain.conformance.bench import Bench
from hwtrain.conformance.readings import arrays, observed
from hwtrain.conformance.samples import drawn_sample, seeds
from hwtrain.conformance.values import require
from hwtrain.core import (
    Algorithm,
    Can,
    Change,
    DeviceSpec,
    Learn,
    Measure,
    Program,
    Sample,
    Train,
    counted,
    inside,
    joined,
)
from hwtrain.costs import Cost
from hwtrain.optimize import Descent
from hwtrain.sim.neurons import Surrogate


class LearnsLikeTheHost:
    """Part of `DeviceConformance`: blocks that a device runs by itself."""

    @pytest.mark.parametrize("baseline", ["shared", "fresh", "none"])
    @pytest.mark.parametrize("tau_theta", [1, 2])
    def test_training_equals_the_same_ticks_one_by_one(self, bench: Bench, baseline: str, tau_theta: int) -> None:
        bench.needs(Can.TRAIN | Can.COST | Can.PROBE)
        theta, ticks = bench.theta(1).astype(bench.spec.dtype), 6
        shown = [drawn_sample(bench.spec, (1, 2), number=number) for number in range(ticks)]
        low, high = inside(bench.spec.low + bench.amplitude, bench.spec.high - bench.amplitude)
        block = Train(
            joined(shown), bench.probes(0, ticks), 1, tau_theta, 2, baseline, bench.amplitude, float(low), float(high)
        )
        *_, traced = bench.execute([Program(theta), block])
        own = bench.look(None)
        costs = np.zeros((2, ticks), np.float32)
        at = theta
        for tick in range(ticks):
            plain, probed = bench.execute(
                [Program(at), Measure(shown[tick]), Measure(shown[tick], bench.probes(tick, 1))]
            )
            costs[:, tick] = observed(plain, "cost")[0], observed(probed, "cost")[0]
            modulation = costs[1] - costs[0] * (baseline != "none")
            if (tick + 1) % tau_theta == 0:
                first = tick + 1 - tau_theta
                window = replace(block.probes, first=first, count=tau_theta)
                change = Change(window, modulation[first : tick + 1], block.rate, block.low, block.high)
                at = change(at)
        wanted = {"modulation": modulation, "baseline": costs[0] * (baseline != "none")}
        bench.agree(arrays(traced), wanted, "a block of training does not read what the same ticks read one by one")
        bench.agree(own, bench.look(at), "after a block of training the device does not hold what its costs lead to")

    @pytest.mark.parametrize("rule", Learn.RULES)
    def test_learning_by_itself_equals_the_rule_on_the_host(self, bench: Bench, rule: str) -> None:
        bench.needs(Can.LEARN | Can.ACTIVITY | Can.OUTPUT)
        spec, updates, batch = bench.spec, 4, 2
        bare = {layer.normalise == "none" for layer in spec.layers[1:]}
        if bare != {rule == "mono_forward"}:
            pytest.skip("the network normalises between layers as the rule does not want it")
        labels = np.int64(spec.outputs * draws.uniform(seeds(spec.replicas, 5), 0, updates * batch))
        shown = drawn_sample(spec, (1, updates * batch), spec.replicas)
        shown = replace(shown, target=np.eye(spec.outputs)[labels][..., None, :, :])
        states = []
        for block in (1, updates):
            algorithm = _local_rule(rule, on_device=block > 1, block=block)
            state = algorithm.init(spec, seeds(spec.replicas, 7))
            for first in range(0, updates, block):
                part = slice(first * batch, (first + block) * batch)
                assert shown.target is not None
                sample = Sample(shown.x[..., part, :], shown.target[..., part, :])
                state, _ = algorithm.tell(state, sample, bench.execute(algorithm.ask(state, sample)))
            held = {"theta": state.theta, "classes": getattr(state, "classes", None)}
            states.append({name: value for name, value in held.items() if value is not None and value.size})
        host, own = states
        bench.agree(
            own,
            host,
            "what a device learns by itself is not what the host makes of its activities",
            rounding=4 * updates * float(np.finfo(np.float32).eps),
        )

    @pytest.mark.parametrize(
        ("signal", "shape", "centre"),
        [
            ("target", "tanh", False),
            ("target", "tanh", True),
            ("local", "fast_sigmoid", False),
            ("error", "triangle", False),
        ],
    )
    def test_learning_in_time_equals_the_rule_on_the_host(
        self, bench: Bench, minimised: Cost, signal: str, shape: str, centre: bool
    ) -> None:
        """The host follows the device's own activities in double precision. Of at most 32 updates, each rounds a
        parameter by half an epsilon, and its change, a product of rounded factors, by less than as much again.
        """
        bench.needs(Can.LEARN_IN_TIME | Can.ACTIVITY | Can.OUTPUT)
        spec, steps, sequences = bench.spec, 8, 4
        shown = _sequences(spec, steps, sequences)
        assert shown.target is not None
        weights = counted(shown.target).reshape(-1, steps, sequences)[0].T.reshape(2, -1)  # of steps, in two blocks
        begin = bench.theta(1).astype(spec.dtype).astype(float)
        algorithm = OSTTP(
            eta=0.05,
            cost=minimised,
            signal=signal,
            centre=centre,
            scale=0.7,
            surrogate=Surrogate(shape, slope=1.5, height=0.8),
            state="reported" if Can.MEMBRANES in spec.can else "estimated",
            update="step",
            batch=1,
            hidden_rate=0.5,
            optimizer=Descent(),
            start=lambda spec, seed: begin,
        )
        ends = []
        for block in (1, 2):
            rule = replace(algorithm, on_device=block > 1, block=block)
            state, spent = rule.init(spec, seeds(spec.replicas, 7)), []
            for first in range(0, sequences, block):
                part = slice(first, first + block)
                sample = Sample(shown.x[..., part, :], shown.target[..., part, :])
                while state.sample < first + block:
                    readings = bench.execute(rule.ask(state, sample))
                    state, metrics = rule.tell(state, sample, readings)
                    spent.append(metrics["cost"])
            costs = np.stack(spent).reshape(2, -1, *spec.replicas)
            if block == 1:
                costs = np.stack([np.average(own, axis=0, weights=w) for own, w in zip(costs, weights, strict=True)])
            counts = {"step": np.array(state.step), "updates": np.array(state.updates)}
            ends.append({"theta": state.theta, "cost": costs.reshape(2, *spec.replicas), **counts})
        host, own = ends
        rounding, readout = steps * sequences * float(np.finfo(np.float32).eps), spec.layers[-1].size
        change = np.abs(host["theta"] - begin)
        for own_part, what in ((change[..., :-readout], "hidden layers"), (change[..., -readout:], "the last layer")):
            moved = float(own_part.max())
            require(moved > 1000 * rounding, f"{what} hardly moved, by {moved:.3g}; give the kit another network")
        bench.agree(
            own,
            host,
            "what a device learns in time by itself is not what the host makes of its activities",
            rounding=rounding,
        )


def _local_rule(name: str, *, on_device: bool, block: int) -> Algorithm:
    """A rule that a device can run by itself, by plain steps in single precision."""
    common: dict[str, Any] = {"eta": 0.1, "readout_eta": 0.05, "optimizer": Descent(), "precision": "single"}
    common |= {"on_device": on_device, "block": block}
    if name == "mono_forward":
        return MonoForward(**common)
    loss = "threshold" if name == "forward_forward" else "symba"
    return ForwardForward(**common, loss=loss, goodness="mean")


def _sequences(spec: DeviceSpec, steps: int, count: int) -> Sample:
    """Sequences with one class each, numbers in single precision; the second has a step without a target, the third
    ends early.
    """
    shown = drawn_sample(spec, (steps, count), spec.replicas)
    labels = np.arange(count) % spec.outputs
    target = np.broadcast_to(np.eye(spec.outputs)[labels], (*spec.replicas, steps, count, spec.outputs)).copy()
    target[..., 2, 1, :] = np.nan
    target[..., steps - 3 :, 2, :] = np.nan
    return Sample(shown.x.astype(np.float32).astype(float), target)
