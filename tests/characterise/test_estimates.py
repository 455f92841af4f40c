"""Intervals cover what they estimate as often as they say, and degenerate cases have an answer."""

import math

import numpy as np
import pytest

from hwtrain.characterise import estimates
from hwtrain.characterise.estimates import Interval, Walks

MANY = 250
LEVEL = 0.9


def covered(truth, intervals):
    return np.mean([interval.low <= truth <= interval.high for interval in intervals])


def check(truth, intervals, many=MANY):
    assert len(intervals) == many
    assert abs(covered(truth, intervals) - LEVEL) < 4 * math.sqrt(LEVEL * (1 - LEVEL) / many)  # four standard errors
    assert np.median([interval.value for interval in intervals]) == pytest.approx(truth, rel=0.1)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_a_deviation(random):
    series = 0.3 * random.standard_normal((MANY, 12))
    squares = ((series - series.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    check(0.3, [estimates.deviation(square, 11, LEVEL) for square in squares])


def test_a_mean(random):
    check(2.0, [estimates.mean(row, LEVEL) for row in 2 + random.standard_normal((MANY, 100))])


@pytest.mark.parametrize("truth", [0.05, 0.3])
def test_a_share(random, truth):
    found = [estimates.share(int(count), 200, LEVEL) for count in random.binomial(200, truth, MANY)]
    check(truth, found)


def test_a_share_of_none_and_of_all():
    assert estimates.share(0, 20, LEVEL).low == 0 < estimates.share(0, 20, LEVEL).high
    assert estimates.share(20, 20, LEVEL).high == 1 > estimates.share(20, 20, LEVEL).low
    assert math.isnan(estimates.share(0, 0, LEVEL).value)


@pytest.mark.parametrize("known", [None, 1.0])
def test_a_spread_beyond_errors_that_differ(random, known):
    found = []
    for _ in range(MANY):
        groups = []
        for _ in range(5):
            errors = random.uniform(0.02, 0.2, 12)
            groups.append((1 + 0.1 * random.standard_normal(12) + errors * random.standard_normal(12), errors))
        found.append(estimates.spread(groups, LEVEL, known=known))
    check(0.1, found)


def test_no_spread_begins_at_zero(random):
    error = np.full(40, 0.1)
    found = [estimates.spread([(0.1 * random.standard_normal(40), error)], 0.95) for _ in range(200)]
    assert np.mean([interval.low == 0 for interval in found]) > 0.93


@pytest.mark.parametrize(("noise", "step"), [(1.0, 0.1), (0.1, 0.3)])
def test_a_walk_under_noise(random, noise, step):
    found, floors = [], []
    for _ in range(MANY // 3):
        walk = np.cumsum(step * random.standard_normal((4, 60)), axis=1)
        walks = Walks().add(walk + noise * random.standard_normal((4, 60)))
        found.append(walks.steps(LEVEL))
        floors.append(walks.noise(found[-1].value))
    check(step, found, MANY // 3)
    assert np.median(floors) == pytest.approx(noise, rel=0.1)


def test_a_walk_where_the_noise_is_known(random):
    series = np.cumsum(0.2 * random.standard_normal((MANY, 80)), axis=1) + random.standard_normal((MANY, 80))
    check(0.2, [Walks().add(row[None]).steps(LEVEL, noise=1.0) for row in series])


def test_white_noise_does_not_walk(random):
    found = [Walks().add(random.standard_normal((4, 60))).steps(0.95) for _ in range(60)]
    assert np.mean([interval.low == 0 for interval in found]) > 0.93


def test_the_likelihood_of_a_walk_is_that_of_its_covariance(random):
    """The sine transform makes the covariance of differences diagonal; of so few readings none are put together."""
    noise, step, n = 0.7, 0.4, 40
    series = np.cumsum(step * random.standard_normal(n)) + noise * random.standard_normal(n)
    walks, difference = Walks().add(series[None]), np.diff(series)
    tridiagonal = np.diag(np.full(n - 1, step**2 + 2 * noise**2))
    tridiagonal -= noise**2 * (np.eye(n - 1, k=1) + np.eye(n - 1, k=-1))
    exact = 0.5 * (np.linalg.slogdet(tridiagonal)[1] + difference @ np.linalg.solve(tridiagonal, difference))
    assert walks.cost(noise, step) == pytest.approx(exact, rel=1e-9)


def test_what_is_exactly_still():
    still = np.full((3, 20), 0.5)
    walks = Walks().add(still)
    assert walks.steps(0.95) == Interval(0.0, 0.0, 0.0)
    assert walks.noise(0.0) == 0.0
    assert estimates.deviation(0.0, 10, 0.95) == Interval(0.0, 0.0, 0.0)
    same = estimates.spread([(np.ones(9), np.zeros(9))], 0.95)
    assert same.value == 0 == same.low


def test_ratios_and_what_is_known():
    assert Interval(2.0, 1.0, 4.0).over(Interval(1.0, 1.0, 1.0)) == Interval(2.0, 1.0, 4.0)
    wider = Interval(2.0, 1.0, 4.0).over(Interval(1.0, 0.5, 2.0))
    assert wider.value == 2 and wider.low == pytest.approx(2 * math.exp(-math.hypot(math.log(2), math.log(2))))
    assert Interval(0.0, 0.0, 1.0).over(Interval(2.0, 1.0, 3.0)) == Interval(0.0, 0.0, 1.0)
    assert estimates.beyond(Interval(5.0, 3.0, 13.0), 3.0) == Interval(4.0, 0.0, pytest.approx(math.sqrt(160)))


def test_averaging_white_noise_brings_the_root(random):
    lengths, deviation = estimates.allan(random.standard_normal(20000))
    assert deviation[:12] * np.sqrt(lengths[:12]) == pytest.approx(1.0, rel=0.1)
    _, walking = estimates.allan(np.cumsum(random.standard_normal(20000)))
    assert walking[-1] > 10 * walking[0]
