"""A probe reads what the same parameters read when programmed, and leaves no trace."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hwtrain.conformance.bench import PROBES, Bench
from hwtrain.conformance.samples import parameter_range
from hwtrain.core import Can, Change, Measure, Program, Site


class ProbesLikeProgramming:
    """Part of `DeviceConformance`: probes and changes are what they would be as programs, and volatile."""

    def test_probes_are_volatile(self, bench: Bench) -> None:
        _volatile(bench, Site.PARAMETERS)

    def test_node_probes_are_volatile(self, bench: Bench) -> None:
        _volatile(bench, Site.NODES)

    def test_probing_equals_programming(self, bench: Bench) -> None:
        bench.needs(Can.PROBE)
        theta, probes = bench.theta(1), bench.probes(first=3, count=4)
        probed = bench.look(theta, probes)
        for index, delta in enumerate(np.moveaxis(probes.dense(bench.spec.size), -2, 0)):
            programmed = bench.look(theta + delta)
            bench.agree(
                bench.probe(probed, index),
                programmed,
                f"probe {index} does not read what programming theta + delta reads",
                rounding=1e-6 if bench.spec.precision == "single" else 0.0,
            )

    def test_probing_nodes_equals_programming_biases(self, bench: Bench) -> None:
        bench.needs(Can.NODE_PROBE)
        if not bench.spec.layers or any(layer.kind != "dense" for layer in bench.spec.layers):
            pytest.skip("the layers are unknown, or not all dense")
        theta = bench.theta(1)
        nodes = sum(math.prod(layer.outputs) for layer in bench.spec.layers)
        probes = bench.probes(first=3, count=2, site=Site.NODES)
        probed = bench.look(theta, probes)
        for index, delta in enumerate(np.moveaxis(probes.dense(nodes), -2, 0)):
            moved, place, node = theta.copy(), 0, 0
            for layer in bench.spec.layers:
                width, place = math.prod(layer.outputs), place + layer.size
                sign = 1 if layer.bias == "add" else -1
                moved[..., place - width : place] += sign * delta[..., node : node + width]
                node += width
            bench.agree(
                bench.probe(probed, index),
                bench.look(moved),
                f"node probe {index} does not read what programming the biases + delta reads",
                rounding=1e-9,
                only=("cost", "sample_cost", "output", "activity"),
            )

    @pytest.mark.parametrize("count", [1, 5])
    def test_change_equals_programming(self, bench: Bench, count: int) -> None:
        bench.needs(Can.PROBE)
        theta, spec = bench.theta(1).astype(np.float32), bench.spec
        modulation = np.linspace(-1, 1, count, dtype=np.float32)
        change = Change(bench.probes(first=2, count=count), modulation, 0.1 * bench.amplitude, *parameter_range(spec))
        changed = change(theta).astype(spec.dtype)
        programmed = bench.look(changed)
        for held, what in (
            (theta, "programmed by its change"),
            (bench.theta(2), "programmed by a change that is wrong"),
        ):
            bench.look(held)
            bench.execute([Program(changed, change)])
            bench.agree(bench.look(None), programmed, f"parameters {what} do not read what they read when programmed")


def _volatile(bench: Bench, site: Site) -> None:
    bench.needs(PROBES[site])
    before = bench.look(bench.theta(1))
    bench.execute([Measure(bench.sample, bench.probes(count=3, site=site), bench.observable)])
    bench.agree(before, bench.look(None), "a probe leaves a trace: the plain measurement after it is another")
