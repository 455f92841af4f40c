"""Devices whose gradient is known in closed form."""

from __future__ import annotations

import numpy as np

from hwtrain.core import Can, DeviceSpec, Measure, Program, Reading
from hwtrain.limits import check


class Landscape:
    """cost = g theta + theta H theta / 2, the same for every sample, with additive Gaussian noise per reading.

    Args:
        gradient: (..., p).
        hessian: (p, p), or None for a linear cost.
        noise: standard deviation of every reading.
    """

    def __init__(self, gradient, hessian=None, noise=0.0, seed=0):
        self.gradient, self.hessian, self.noise = np.asarray(gradient, float), hessian, noise
        self.random = np.random.default_rng(seed)
        self.theta = np.zeros_like(self.gradient)
        self.programs = 0
        *replicas, size = self.gradient.shape
        self.spec = DeviceSpec("landscape", 1, 1, size, Can.COST | Can.PROBE, noise=noise, replicas=tuple(replicas))

    def execute(self, commands):
        check(self.spec, commands)
        readings = []
        for command in commands:
            if isinstance(command, Program):
                self.theta = command.theta
                self.programs += 1
            elif isinstance(command, Measure):
                readings.append(Reading(cost=self.cost(command.probes)))
        return tuple(readings)

    def cost(self, probes):
        theta = self.theta[..., None, :]
        if probes is not None:
            theta = theta + probes.dense(self.spec.size)
        cost = (theta @ self.gradient[..., None])[..., 0]
        if self.hessian is not None:
            cost = cost + 0.5 * np.einsum("...i,ij,...j->...", theta, self.hessian, theta)
        return cost + self.noise * self.random.standard_normal(cost.shape)

    def rest(self):
        pass

    def close(self):
        pass
