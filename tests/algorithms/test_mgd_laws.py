"""The statistics of the gradient estimate against their closed forms, and against published and independent figures.

Laws: E[cos^2] = K / (K + P - 1) and E|g_hat|^2 / |g|^2 = (P + K - 1) / K for K random probes of P parameters; for a
budget of B measurements and noise ratio rho = sigma_C / (a |g|) the relative squared errors stated at `TestNoise`.
"""

import numpy as np
import pytest

from hwtrain.algorithms.mgd import MGD
from hwtrain.algorithms.mgd_analog import MGDAnalog
from hwtrain.core import Sample
from hwtrain.costs import MeanSquaredError
from hwtrain.devices.simulated import Simulated
from hwtrain.evaluation import angle
from hwtrain.perturb import Rademacher, Sequential, Sinusoid, Walsh
from hwtrain.sim.networks import mlp
from hwtrain.tasks.letters import letters7x7
from tests.fakes import Landscape

HELD = 10**9  # a sample that never changes
NOTHING = Sample(np.zeros((1, 1, 1)), np.zeros((1, 1, 1)))


def estimate(device, seed, sample=NOTHING, **settings):
    """The gradient estimate of one window, with the parameters where they start."""
    algorithm = MGD(**{"eta": 0.0, "tau_x": HELD, "probes": 256, **settings})
    draws = np.prod(device.spec.replicas, dtype=int)
    state = algorithm.init(device.spec, (seed + np.arange(draws)).astype(np.uint32).reshape(device.spec.replicas))
    while not state.updates:
        state, _ = algorithm.tell(state, sample, device.execute(algorithm.ask(state, sample)))
    return state.estimate


def gradients(draws, size, seed=0):
    return np.random.default_rng(seed).standard_normal((draws, size))


class TestAngle:
    """Random codes on a linear cost of 220 parameters; the angles are means over 300 draws of another program."""

    @pytest.mark.parametrize(
        ("probes", "degrees"),
        [(1, 86.9), (10, 78.2), (55, 63.5), (110, 54.6), (220, 44.9), (440, 35.0), (880, 26.4), (2200, 17.4)],
    )
    def test_law(self, probes, degrees):
        g = gradients(200, 220)
        found = angle(estimate(Landscape(g), probes, perturbation=Rademacher(amplitude=1e-3), tau_theta=probes), g)
        assert np.mean(found) == pytest.approx(degrees, abs=1.5)
        if probes >= 10:
            # the spread of one cos^2 is below its mean, so 200 draws know it to better than 7 %
            assert np.mean(np.cos(np.radians(found)) ** 2) == pytest.approx(probes / (probes + 219), rel=0.07)

    @pytest.mark.slow
    def test_law_for_many_probes(self):
        g = gradients(40, 220)
        found = angle(estimate(Landscape(g), 5, perturbation=Rademacher(amplitude=1e-3), tau_theta=22_000), g)
        assert np.mean(found) == pytest.approx(5.6, abs=1.5)

    @pytest.mark.parametrize(("probes", "ratio"), [(1, 14.8), (10, 4.79), (100, 1.79), (1000, 1.10)])
    def test_norm(self, probes, ratio):
        g = gradients(400, 220, seed=1)
        found = estimate(Landscape(g), 7, perturbation=Rademacher(amplitude=1e-3), tau_theta=probes)
        ratios = np.sum(found**2, axis=-1) / np.sum(g**2, axis=-1)
        assert np.sqrt(np.mean(ratios)) == pytest.approx(ratio, rel=0.05)

    def test_rms_convention_makes_the_expected_norm_that_of_the_gradient(self):
        g = gradients(400, 220, seed=2)
        device = Landscape(g)
        algorithm = MGD(
            eta=1.0, perturbation=Rademacher(amplitude=1e-3), convention="mgd2025", tau_theta=10, tau_x=HELD
        )
        state = algorithm.init(device.spec, np.arange(400, dtype=np.uint32))
        before = state.theta
        state, _ = algorithm.tell(state, NOTHING, device.execute(algorithm.ask(state, NOTHING)))
        moved = np.sum((before - state.theta) ** 2, axis=-1) / np.sum(g**2, axis=-1)
        assert np.sqrt(np.mean(moved)) == pytest.approx(1.0, rel=0.05)


class TestOnANetwork:
    """49-4-4 with sigmoid neurons, one letter, uniform parameters; angles of another program, six draws each."""

    DRAWS = 6

    @pytest.fixture
    def device(self):
        return Simulated(mlp([49, 4, 4]), MeanSquaredError(), chips=self.DRAWS)

    @pytest.fixture
    def sample(self):
        return letters7x7().sample(np.arange(self.DRAWS, dtype=np.uint32), 0)

    def error(self, device, sample, **settings):
        found = estimate(device, 11, sample, **settings)
        start = MGD(eta=0.0, perturbation=Rademacher(amplitude=1.0)).init(
            device.spec, 11 + np.arange(6, dtype=np.uint32)
        )
        exact = device._network.gradient(
            start.theta[..., None, :],
            sample.x[..., None, :, :, :],
            sample.target[..., None, :, :, :],
            MeanSquaredError(),
        )[..., 0, :]
        return np.mean(angle(found, exact))

    @pytest.mark.parametrize(("probes", "degrees"), [(110, 55.8), (220, 45.6), (1024, 25.6), (5120, 11.7)])
    def test_random_codes(self, device, sample, probes, degrees):
        error = self.error(device, sample, perturbation=Rademacher(amplitude=6.7e-4), tau_theta=probes)
        assert error == pytest.approx(degrees, abs=3.0)  # six draws, each with a spread of about 2 degrees

    @pytest.mark.slow
    def test_many_random_codes(self, device, sample):
        error = self.error(device, sample, perturbation=Rademacher(amplitude=6.7e-4), tau_theta=22_016)
        assert error == pytest.approx(5.6, abs=1.0)

    @pytest.mark.parametrize(("amplitude", "degrees"), [(6.7e-4, 0.055), (6.7e-3, 0.545), (6.7e-2, 5.38)])
    def test_one_sided_walsh_is_off_by_the_amplitude(self, device, sample, amplitude, degrees):
        once = self.error(device, sample, perturbation=Walsh(amplitude=amplitude), tau_theta=256)
        twice = self.error(device, sample, perturbation=Walsh(amplitude=amplitude), tau_theta=512)
        assert once == pytest.approx(degrees, rel=0.5)
        assert twice == pytest.approx(once, rel=1e-3)  # more passes do not help

    @pytest.mark.parametrize(("amplitude", "degrees"), [(6.7e-3, 0.007), (6.7e-2, 0.664)])
    def test_two_sided_walsh_is_off_by_the_amplitude_squared(self, device, sample, amplitude, degrees):
        error = self.error(device, sample, perturbation=Walsh(amplitude=amplitude, two_sided=True), tau_theta=None)
        assert error == pytest.approx(degrees, rel=0.5)

    def test_two_sided_walsh_is_as_good_as_exact(self, device, sample):
        assert self.error(device, sample, perturbation=Walsh(amplitude=6.7e-4, two_sided=True), tau_theta=512) < 0.001

    def test_an_unfinished_block_is_worse_than_a_whole_one(self, device, sample):
        assert self.error(device, sample, perturbation=Walsh(amplitude=6.7e-4), tau_theta=2200) == pytest.approx(
            3.06, rel=0.5
        )

    @pytest.mark.parametrize(("amplitude", "degrees"), [(6.7e-4, 0.006), (6.7e-3, 0.064), (6.7e-2, 0.643)])
    def test_sequential(self, device, sample, amplitude, degrees):
        error = self.error(device, sample, perturbation=Sequential(amplitude=amplitude), tau_theta=None)
        assert error == pytest.approx(degrees, rel=0.5)

    def test_an_uneven_sweep(self, device, sample):
        error = self.error(device, sample, perturbation=Sequential(amplitude=6.7e-4), tau_theta=256)
        assert 10 < error < 30  # 36 of 220 parameters counted twice; 14.3 degrees where the other program stopped


def test_curvature_spoils_one_sided_walsh_and_spares_two_sided():
    random = np.random.default_rng(5)
    g = gradients(1, 220, seed=6)
    hessian = random.standard_normal((220, 220))
    hessian = (hessian + hessian.T) / 2
    device = Landscape(g, hessian)
    one = estimate(device, 0, perturbation=Walsh(amplitude=0.1), tau_theta=256)
    two = estimate(device, 0, perturbation=Walsh(amplitude=0.1, two_sided=True), tau_theta=512)
    start = MGD(eta=0.0, perturbation=Rademacher(amplitude=1.0)).init(device.spec, np.arange(1, dtype=np.uint32)).theta
    exact = g + start @ hessian
    assert angle(one, exact)[0] > 5
    assert angle(two, exact)[0] < 1e-6


class TestNoise:
    """Relative squared error of the estimate, P = 63, 1024 measurements, against its closed forms.

    fresh 2 (P-1) / B + 4 P rho^2 / B; shared (P-1) / B + 2 P rho^2 / B; antithetic 2 (P-1) / B + P rho^2 / B; whole
    Hadamard blocks without a baseline P rho^2 / B. A shared baseline is measured once, so its noise is common to all
    probes: with K = B - 1 probes it adds P rho^2 / B once more.
    """

    P, B, DRAWS = 63, 1024, 400

    @pytest.mark.parametrize("rho", [0.0, 1.0, 3.0])
    @pytest.mark.parametrize(
        ("baseline", "ticks", "law"),
        [
            ("fresh", 512, lambda p, b, rho: (2 * (p - 1) + 4 * p * rho**2) / b),
            ("shared", 1024, lambda p, b, rho: (p - 1 + 2 * p * rho**2) / b),
            ("antithetic", 1024, lambda p, b, rho: (2 * (p - 1) + p * rho**2) / b),
            ("none", 1024, lambda p, b, rho: p * rho**2 / b),
        ],
    )
    def test_law(self, baseline, ticks, law, rho):
        g = gradients(self.DRAWS, self.P, seed=8)
        g /= np.linalg.norm(g, axis=-1, keepdims=True)
        amplitude = 1e-2
        device = Landscape(g, noise=rho * amplitude)
        code = Walsh(amplitude=amplitude) if baseline == "none" else Rademacher(amplitude=amplitude)
        found = estimate(device, 9, perturbation=code, tau_theta=ticks, baseline=baseline)
        error = np.mean(np.sum((found - g) ** 2, axis=-1))
        assert error == pytest.approx(law(self.P, self.B, rho), rel=0.1, abs=1e-20)


class TestAnalog:
    """Nine parameters, a linear cost, mean over 200 gradients; another program measured the figures with twelve."""

    P, DRAWS = 9, 200

    def run(self, code, tau_hp, tau_theta):
        g = gradients(self.DRAWS, self.P, seed=10)
        device = Landscape(g)
        algorithm = MGDAnalog(eta=0.0, perturbation=code, tau_hp=tau_hp, tau_theta=tau_theta, tau_x=HELD)
        state = algorithm.init(device.spec, np.arange(self.DRAWS, dtype=np.uint32))
        gains, angles = [], []
        for tick in range(int(20 * tau_theta)):
            state, _ = algorithm.tell(state, NOTHING, device.execute(algorithm.ask(state, NOTHING)))
            if tick > 8 * tau_theta and tick % int(tau_theta) == 0:
                gains.append(np.sum(state.homodyne * g, axis=-1) / np.sum(g * g, axis=-1))
                angles.append(angle(state.homodyne, g))
        return np.mean(gains), np.mean(angles)

    @pytest.mark.parametrize("tau_hp", [1.6, 16.0, 160.0])
    def test_random_codes(self, tau_hp):
        gain, degrees = self.run(Rademacher(amplitude=1e-2), tau_hp, 100.0)
        assert gain == pytest.approx(tau_hp / (tau_hp + 1), rel=0.05)
        assert degrees == pytest.approx(11.3, rel=0.3)  # arctan sqrt((P - 1) / (2 tau_theta))

    @pytest.mark.slow
    @pytest.mark.parametrize("tau_hp", [1.6, 16.0, 160.0])
    def test_random_codes_integrated_longer(self, tau_hp):
        gain, degrees = self.run(Rademacher(amplitude=1e-2), tau_hp, 1000.0)
        assert gain == pytest.approx(tau_hp / (tau_hp + 1), rel=0.05)
        assert degrees == pytest.approx(3.6, rel=0.3)

    @pytest.mark.slow
    @pytest.mark.parametrize(("tau_hp", "degrees"), [(1.6, 20.4), (16.0, 3.5), (160.0, 0.42)])
    def test_tones(self, tau_hp, degrees):
        """A tone's gain is the real part of the discrete high-pass at its frequency; the angles are the other
        program's.

        It measured gains of 0.49, 0.93 and 1.00, the first with twelve gradients only, whose weights spread it by 0.04.
        """
        gain, found = self.run(Sinusoid(amplitude=1e-2, start=0.02, stop=0.2), tau_hp, 1000.0)
        keep, delay = tau_hp / (tau_hp + 1), np.exp(-2j * np.pi * np.linspace(0.02, 0.2, self.P))
        closed_form = np.mean((keep * (1 - delay) / (1 - keep * delay)).real)
        assert gain == pytest.approx(closed_form, rel=0.02)
        assert found == pytest.approx(degrees, rel=0.3)
