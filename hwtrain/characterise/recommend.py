"""Settings of multiplexed gradient descent for a device, from its noise and from how its cost curves.

K probes of amplitude a around one point estimate the gradient g of p parameters. Besides the gradient, a measured
modulation holds the noise of its readings; the even part of the cost's response, a^2 s'Hs / 2 for random signs s, whose
root mean square is a^2 kappa / 2; and a cubic part of root mean square a^3 beta. Correlated with random signs, all of
them but a share of the cubic part average out, so that

    E|estimate|^2 = |g|^2 (1 + (p - 1) / K) + p v / (K a^2)                   (Spall 1992; here with all that is in v)

    v = sigma^2 + sigma_0^2 + a^4 kappa^2 / 4 + a^6 beta^2     with a baseline that the K probes share
    v = sigma^2 + 2 a^6 beta^2, and 2 (p - 1) for p - 1        with every probe made with both signs (antithetic)

*Amplitude*: the one with the least v / a^2: the trade-off of noise, which wants it large, against what is left of a
finite amplitude. With a baseline and no cubic part a^4 = 4 (sigma^2 + sigma_0^2) / kappa^2. Below the amplitude where
v / a^2 is a hundredth of |g|^2 nothing is gained, so it is never chosen smaller.

*Learning rate*: a step of a convex cost brings parameters nearer to the optimum, in the mean, by
2 eta (C - C*) - eta^2 E|estimate|^2; the best rate is C / E|estimate|^2 when C* is zero (Polyak, Introduction to
Optimization, 1987; for noisy gradients Loizou et al., AISTATS 2021). A cost of curvature kappa falls fastest at
eta = 1 / (kappa + kappa (1 + rho^2) / K), half of where it would begin to rise (Werfel, Xie, Seung, Neural Computation
17, 2699, 2005, for K = 1), with rho^2 = v / (a^2 |g|^2). Neither must be exceeded, so their inverses are added:

    1 / eta = A + B / K,  A = kappa + |g|^2 / C,  B = kappa (1 + rho^2) + (p - 1 + p rho^2) |g|^2 / C

*tau_theta*: an update takes K + 1 measurements, and its progress is proportional to eta; eta / (K + 1) is greatest at
K^2 = B / A. Without noise that is about the root of p: the estimate then has a signal-to-noise ratio of about 1 / K.

As the cost falls, so does |g|^2, in proportion; noise does not. So that training still goes on when the cost has fallen
to the share `target`, rho^2 is taken there. What is measured is the mean over samples of |g|^2, at the start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwtrain import draws
from hwtrain.characterise.chip import Chip, Finding, stated
from hwtrain.characterise.estimates import Interval, mean
from hwtrain.core import Array

RESAMPLED = 200
TRUSTED = 0.3  # of an odd response, that may be cubic where the gradient is read off
FREE = 0.01  # share of |g|^2 below which other parts of an estimate do not matter


def ratio(chip: Chip, found: Mapping[str, Finding]) -> list[Finding]:
    """The noise of a reading over the change of the cost by a probe, at the amplitude that training would use."""
    if "rungs" not in chip.data or "baseline_noise" not in found or chip.amplitude is None:
        return []
    noise = found.get("probe_noise", found["baseline_noise"])
    assert noise.estimate is not None
    amplitudes, resting, every = chip.data["amplitudes"], chip.data["resting"], chip.data["rungs"]
    seen = landscape(amplitudes, resting, every, noise.value, noise.value, chip.ground.spec.size)
    rungs = every[:, seen.rung]
    odd = mean(((rungs[:, 0] - rungs[:, 1]) / 2) ** 2, chip.level)
    square = [math.sqrt(max(end - noise.value**2 / 2, 0.0)) for end in (odd.value, odd.low, odd.high)]
    change = Interval(*square).times(chip.amplitude / float(amplitudes[seen.rung]))
    if not change.is_seen:
        says = "No change of the cost by random probes is seen above the noise."
        return [Finding("noise_ratio", says, verdict="unseen", basis=len(rungs))]
    times = noise.estimate.over(change)
    says = (
        f"A random probe of {chip.amplitude:.3g}{chip.unit} changes the cost by {stated(change)}; the noise of a "
        f"reading is {stated(times)} times that."
    )
    return [Finding("noise_ratio", says, times, "", basis=len(rungs))]


@dataclass(frozen=True, slots=True)
class Landscape:
    """What random probes say of the cost where training starts.

    Args:
        cost: C.
        square: |g|^2, the mean over samples; 0 where it is not seen above the noise.
        kappa: curvature, see the module.
        beta: the cubic part.
        noise: standard deviation of a reading under a probe.
        rest_noise: without.
        size: parameters, p.
        rung: of the ladder, at which the gradient was read off.
    """

    cost: float
    square: float
    kappa: float
    beta: float
    noise: float
    rest_noise: float
    size: int
    rung: int


@dataclass(frozen=True, slots=True)
class Advice:
    """What to train with, each with its interval.

    Args:
        amplitude: of random probes.
        tau_theta: probes for an update.
        eta: learning rate.
        baseline: "shared" or "antithetic".
        signal: length of the gradient over what an estimate from one update is off.
    """

    amplitude: Interval
    tau_theta: Interval
    eta: Interval
    baseline: str
    signal: float


def recommend(
    data: Mapping[str, Any], noise: float, rest_noise: float, size: int, target: float, level: float
) -> Advice | None:
    """Settings from the ladder of probes, with intervals by resampling its patterns (Efron's bootstrap).

    Args:
        data: of one device: `amplitudes`, `resting`, `rungs` (hwtrain/characterise/experiments.py).
        noise: standard deviation of a reading under a probe.
        rest_noise: without.
        size: parameters.
        target: share of the first cost at which training must still go on.
        level: of the intervals.

    Returns:
        None where the gradient is not seen above the noise.
    """
    amplitudes, resting, rungs = data["amplitudes"], data["resting"], data["rungs"]
    found = choose(landscape(amplitudes, resting, rungs, noise, rest_noise, size), amplitudes, target)
    if found is None:
        return None
    many = len(rungs)
    picks = (draws.uniform(np.array(0, np.uint32), np.arange(RESAMPLED), many) * many).astype(int)
    again = []
    for pick in picks:
        other = landscape(amplitudes, resting[pick], rungs[pick], noise, rest_noise, size)
        if (one := choose(other, amplitudes, target, found[3])) is not None:
            again.append(one[:3])
    again.append(found[:3])
    low, high = np.quantile(np.array(again), [(1 - level) / 2, (1 + level) / 2], axis=0).tolist()
    amplitude, probes, eta = map(Interval, found[:3], map(min, low, found[:3]), map(max, high, found[:3]))
    return Advice(amplitude, probes, eta, found[3], found[4])


def landscape(amplitudes: Array, resting: Array, rungs: Array, noise: float, rest_noise: float, size: int) -> Landscape:
    """What the ladder says: the gradient at the largest amplitude where the response is still nearly odd and straight.

    Args:
        amplitudes: (a,), each twice the one before.
        resting: cost without a probe, (j, r).
        rungs: cost under a probe of either sign, (j, a, 2).
        noise: of a reading under a probe.
        rest_noise: without.
        size: parameters.
    """
    odd = (rungs[..., 0] - rungs[..., 1]) / 2
    even = rungs.mean(axis=-1) - resting.mean(axis=-1, keepdims=True)
    chance = math.sqrt(2 / len(rungs))  # relative error of a mean square of noise
    signal = (odd**2).mean(axis=0) - noise**2 / 2
    doubled = ((odd[:, 1:] / 2 - odd[:, :-1]) ** 2).mean(axis=0) - 0.625 * noise**2  # (3 beta a^3)^2
    straight = np.append(True, doubled <= TRUSTED**2 * np.maximum(signal[1:] / 4, 0.0))
    rung = int(np.flatnonzero(straight)[-1])  # the largest at which doubling still nearly doubles the response
    curved = (even[:, rung] ** 2).mean() - noise**2 / 2 - rest_noise**2 / resting.shape[1]
    at = min(rung, len(doubled) - 1)
    seen = signal[rung] > 2 * chance * noise**2 / 2
    return Landscape(
        cost=float(resting.mean()),
        square=float(signal[rung] / amplitudes[rung] ** 2) if seen else 0.0,
        kappa=2 * math.sqrt(max(float(curved), 0.0)) / float(amplitudes[rung] ** 2),
        beta=math.sqrt(max(float(doubled[at]), 0.0)) / 3 / float(amplitudes[at] ** 3),
        noise=noise,
        rest_noise=rest_noise,
        size=size,
        rung=rung,
    )


def choose(
    seen: Landscape, amplitudes: Array, target: float, only: str = ""
) -> tuple[float, float, float, str, float] | None:
    """Settings for a landscape, with the baseline that needs fewer measurements.

    Args:
        seen: the landscape.
        amplitudes: that it was seen at; none larger is chosen.
        target: share of the first cost at which training must still go on.
        only: the baseline, if not the better one.

    Returns:
        Amplitude, tau_theta, eta, baseline, signal-to-noise ratio; None where there is no gradient.
    """
    if seen.square <= 0 or seen.cost <= 0:
        return None
    best: tuple[float, tuple[float, float, float, str, float]] | None = None
    grid = np.geomspace(amplitudes[0] / 64, amplitudes[-1], 400)
    even, cubic, square, size = seen.kappa**2 / 4, seen.beta**2, seen.square, seen.size
    per_cost = square / seen.cost
    for baseline, floor, quartic, sextic, dimension, more in (
        ("shared", seen.noise**2 + seen.rest_noise**2, even, cubic, size - 1, 1),
        ("antithetic", seen.noise**2, 0.0, 2 * cubic, 2 * (size - 1), 0),
    ):
        if only not in ("", baseline):
            continue
        finite = quartic * grid**2 + sextic * grid**4
        left = floor / grid**2 + finite
        at = max(int(left.argmin()), int(np.searchsorted(finite, FREE * target * square)) - 1)
        rho = float(left[at]) / (square * target)
        a = seen.kappa + per_cost
        b = seen.kappa * (1 + rho) + (dimension + size * rho) * per_cost
        probes = max(round(math.sqrt(b / a) / (2 - more)) * (2 - more), 2 - more)
        eta = 1 / (a + b / probes)
        effort = (probes + more) / eta
        signal = math.sqrt(probes / (dimension + size * rho * target))
        if best is None or effort < best[0]:
            best = effort, (float(grid[at]), float(probes), eta, baseline, signal)
    return None if best is None else best[1]
