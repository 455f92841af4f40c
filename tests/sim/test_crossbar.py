"""The read path: converters, wires, offsets, noise, and what is done when an output clips."""

import math

import numpy as np
import pytest

from hwtrain.errors import ConfigError
from hwtrain.sim.crossbar import IR_DROP_G_RATIO, Crossbar
from tests.sim.presets import preset

RNG = np.random.default_rng(0)
W = RNG.uniform(-0.6, 0.6, (64, 48))
X = RNG.uniform(-1, 1, (5, 64))


def product(crossbar, w=W, x=X, seed=1, number=0):
    devices = crossbar.fabricate(np.asarray(seed, np.uint32), w.shape[-1])
    return crossbar.multiply(devices, w, x, number)


def test_ideal():
    y, reads = product(Crossbar())
    assert y == pytest.approx(X @ W)
    assert (reads == 1).all()


class TestConverters:
    def test_both(self):
        """Written out one number at a time."""
        y, _ = product(Crossbar(inp_bound=1.0, inp_res=1 / 126, out_bound=12.0, out_res=1 / 510, out_asymmetry=0.1))
        for b in range(5):
            inputs = [min(max(round(v / (2 / 126)) * (2 / 126), -1.0), 1.0) for v in X[b]]
            for i in range(48):
                out = sum(w * v for w, v in zip(W[:, i], inputs, strict=True))
                out = 0.9 * out if out < 0 else out
                out = min(max(round(out / (24 / 510)) * (24 / 510), -12.0), 12.0)
                assert y[b, i] == pytest.approx(out, abs=1e-12)

    def test_a_resolution_above_one_is_a_number_of_steps(self):
        pairs = ((1 / 126, 126.0), (1 / 510, 510.0))
        for share, steps in pairs:
            assert np.array_equal(*(product(Crossbar(out_bound=12.0, out_res=res))[0] for res in (share, steps)))

    def test_noise_of_a_dac_leaves_its_range_and_noise_of_an_adc_is_quantised(self):
        """Trap: the one is added after the DAC's clip, the other before the ADC's quantiser."""
        ones, eye = np.ones((1, 4000)), np.eye(4000)
        y, _ = product(Crossbar(inp_bound=1.0, inp_noise=0.1), eye, ones)
        assert (y > 1).mean() == pytest.approx(0.5, abs=0.05)
        assert y.std() == pytest.approx(0.1, rel=0.06)
        crossbar = Crossbar(out_bound=1.0, out_res=1 / 20, out_noise=0.05)
        y, _ = product(crossbar, eye, 0.23 * ones)
        assert y * 10 == pytest.approx(np.rint(y * 10), abs=1e-9)
        assert len(np.unique(np.rint(y * 10))) > 2
        assert np.abs(product(crossbar, eye, ones)[0]).max() == 1.0

    @pytest.mark.parametrize("side", ["inp", "out"])
    def test_rounding_at_random_is_unbiased(self, side):
        """Trap: a uniform number within half a step, before rounding to the nearest."""
        n = 20_000
        crossbar = Crossbar(**{f"{side}_bound": 1.0, f"{side}_res": 0.1, f"{side}_sto_round": True})
        y, _ = product(crossbar, np.ones((1, 1)), np.full((n, 1), 0.13))
        assert set(np.round(np.unique(y), 9)) == {0.0, 0.2}
        assert abs(y.mean() - 0.13) < 5 * 0.1 / math.sqrt(n)

    def test_negative_inputs_may_be_smaller(self):
        y, _ = product(Crossbar(inp_asymmetry=0.2))
        assert y == pytest.approx(np.where(X < 0, 0.8 * X, X) @ W)

    def test_presets(self):
        for name, bound, bits in (("default", 12.0, 510), ("training", 20.0, 510), ("standard", 10.0, 254)):
            crossbar = preset(name, "crossbar")
            assert (crossbar.out_bound, crossbar.out_res) == (bound, pytest.approx(1 / bits))
            y, _ = product(crossbar)
            assert (y - X @ W).std() < 3 * crossbar.out_noise


class TestWires:
    def test_ir_drop(self):
        y, _ = product(Crossbar(ir_drop=0.7, ir_drop_g_ratio=2000.0))
        n = 64
        for b in range(2):
            for i in range(5):
                load = n / 2000 * sum(abs(W[j, i]) * abs(X[b, j]) for j in range(n))
                factor = load * (load * (0.05 * load - 0.2) + 0.5)
                lost = factor * sum(W[j, i] * X[b, j] * (1 - (1 - j / n) ** 2) for j in range(n))
                assert y[b, i] == pytest.approx(X[b] @ W[:, i] - 0.7 * lost, rel=1e-12)

    def test_default_ratio_is_of_a_device_of_microsiemens(self):
        """Trap: described with 5 mS; the number is that of 5 uS."""
        assert pytest.approx(571428.6, abs=0.1) == IR_DROP_G_RATIO

    def test_series_resistance(self):
        y, _ = product(Crossbar(r_series=0.05, v_offset_w_min=0))
        clean = X @ W
        assert y == pytest.approx(clean / (1 + 0.05 * np.abs(clean)))
        y, _ = product(Crossbar(r_series=0.05))
        reference = X.sum(-1, keepdims=True)
        whole = clean + reference
        assert y == pytest.approx(whole / (1 + 0.05 * np.abs(whole)) - reference / (1 + 0.05 * np.abs(reference)))

    def test_offsets_are_losses_and_an_output_keeps_its_own(self):
        crossbar = Crossbar(v_offset_std=0.05, v_offset_w_min=0)
        w = np.ones((1, 20_000))
        first, second = (product(crossbar, w, np.ones((1, 1)), number=n)[0] for n in (0, 1))
        assert np.array_equal(first, second)
        assert first.max() == 1.0
        assert (first == 1).mean() == pytest.approx(0.5, abs=0.02)
        assert np.sqrt(((1 - first[first < 1]) ** 2).mean()) == pytest.approx(0.05, rel=0.05)

    def test_saturation(self):
        crossbar = Crossbar(out_bound=12.0, out_nonlinearity=0.6, slope_calibration=0.3)
        y, _ = product(crossbar)
        n = 0.6 / 12
        clean = X @ W
        assert y == pytest.approx((1 + n * 0.3 * 12) ** 2 * clean / (1 + np.abs(n * clean)))


class TestReadNoise:
    @pytest.mark.parametrize("kind", ["additive_constant", "pcm_read"])
    def test_referred_to_the_output(self, kind):
        crossbar = Crossbar(w_noise=0.02, w_noise_type=kind)
        x = np.repeat(X[:1], 40_000, axis=0)
        noise = product(crossbar, W[:, :1], x)[0] - x @ W[:, :1]
        size = np.sqrt((X[0] ** 2 * (np.abs(W[:, 0]) if kind == "pcm_read" else 1)).sum())
        assert noise.std() == pytest.approx(0.02 * size, rel=5 / math.sqrt(80_000))
        assert abs(noise.mean()) < 5 * 0.02 * size / 200

    def test_number_names_the_draws(self):
        crossbar = Crossbar(out_noise=0.1, w_noise=0.1)
        assert np.array_equal(product(crossbar)[0], product(crossbar)[0])
        assert not np.isclose(product(crossbar)[0], product(crossbar, number=1)[0]).any()

    def test_output_noise_differs_from_output_to_output(self):
        crossbar = Crossbar(out_noise=0.1, out_noise_std=0.5)
        y, _ = product(crossbar, np.zeros((1, 300)), np.ones((2000, 1)))
        strengths = y.std(axis=0)
        assert strengths.std() == pytest.approx(0.05, rel=0.2)

    def test_a_stack_equals_separate_chips(self):
        crossbar = preset("training", "crossbar", w_noise=0.02, v_offset_std=0.02, out_noise_std=0.1, inp_noise=0.01)
        w = np.stack([W, W[::-1], -W])
        x = np.stack([X, 0.5 * X, X[::-1]])
        together, reads = product(crossbar, w, x, [5, 6, 7])
        for chip in range(3):
            y, own = product(crossbar, w[chip], x[chip], 5 + chip)
            assert np.array_equal(together[chip], y)
            assert np.array_equal(reads[chip], own)


class TestManagement:
    def test_scaling_uses_the_range_and_undoes_itself(self):
        coarse = {"inp_bound": 1.0, "inp_res": 1 / 126}
        error = [
            np.abs(product(Crossbar(**coarse, noise_management=how, nm_thres=t), x=X / 50)[0] - X @ W / 50).max()
            for how, t in (("none", 0.0), ("abs_max", 0.0), ("constant", 0.02))
        ]
        assert error[1] < error[0] / 10
        assert error[2] < error[0] / 10
        for how in ("max", "abs_max_np_sum"):
            bounded = Crossbar(out_bound=50.0, noise_management=how)
            assert product(bounded, x=np.abs(X))[0] == pytest.approx(np.abs(X) @ W)

    def test_zeros_give_zeros_without_noise(self):
        crossbar = preset("training", "crossbar")
        y, _ = product(crossbar, x=np.vstack([X[0], 0 * X[0]]))
        assert not y[1].any()
        assert y[0].any()

    def test_a_limit_of_the_scale(self):
        y, _ = product(Crossbar(inp_bound=1.0, noise_management="abs_max", nm_thres=0.5))
        assert y == pytest.approx(np.clip(X, -0.5, 0.5) @ W)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_any_clipped_output_makes_for_another_reading(self, sign):
        """Trap: whether it clips above or below, and in whatever order outputs stand."""
        for order in ([0, 1, 2], [2, 1, 0]):
            w = sign * np.array([[5.0, 0.1, -0.2]])[:, order]
            y, reads = product(Crossbar(out_bound=1.0, bound_management="iterative"), w, np.ones((1, 1)))
            assert y == pytest.approx(w)
            assert reads.tolist() == [4]

    def test_only_clipped_vectors_are_read_again_and_with_fresh_noise(self):
        crossbar = Crossbar(out_bound=1.0, out_noise=0.01, bound_management="iterative")
        w, x = np.ones((1, 1000)), np.array([[0.5], [3.0]])
        y, reads = product(crossbar, w, x)
        assert reads.tolist() == [1, 3]
        assert np.array_equal(y[:1], product(Crossbar(out_bound=1.0, out_noise=0.01), w, x)[0][:1])
        assert y[1].std() == pytest.approx(0.04, rel=0.1)
        assert abs(np.corrcoef(y)[0, 1]) < 0.2

    def test_it_ends(self):
        clipping = Crossbar(out_bound=1e-6, bound_management="iterative")
        assert product(clipping)[1].max() == 10  # factors 1, 2, ..., 512
        coarse = Crossbar(out_bound=1e-6, bound_management="iterative", inp_bound=1.0, inp_res=1 / 126)
        assert product(coarse)[1].max() == 5  # a quarter of a step is left at 16
        worst = Crossbar(out_bound=1.0, bound_management="iterative_worst_case", nm_assumed_wmax=0.6)
        y, reads = product(worst)
        assert reads.max() == 2
        assert y == pytest.approx(X @ W)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inp_bound": 0.0}, r"crossbar\.inp_bound must be above 0"),
        ({"inp_res": 0.1}, r"crossbar\.inp_res needs a range to refer to: set crossbar\.inp_bound"),
        ({"out_nonlinearity": 0.1}, r"crossbar\.out_nonlinearity needs a range to refer to: set crossbar\.out_bound"),
        ({"out_noise": -1.0}, r"crossbar\.out_noise must be a finite number of at least 0"),
        ({"ir_drop": 2.0}, r"crossbar\.ir_drop must be .* \(a share\), not 2\.0"),
        ({"noise_management": "absmax"}, r"Did you mean 'abs_max'\?"),
        ({"noise_management": "constant"}, r"needs crossbar\.nm_thres"),
        ({"v_offset_w_min": 0.5}, r"v_offset_w_min must be -1 or 0, not 0\.5"),
        ({"inp_sto_round": 1}, r"crossbar\.inp_sto_round must be true or false, not 1"),
    ],
)
def test_refuses_what_cannot_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        Crossbar(**settings)
