"""What every perturbation must do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from hwtrain.conformance.samples import seeds
from hwtrain.conformance.values import SIGMAS, fail, require, same
from hwtrain.core import Perturbation


class PerturbationConformance:
    """What every perturbation must do. Override `perturbation`; the other fixtures where the defaults do not fit."""

    @pytest.fixture
    def perturbation(self) -> Perturbation:
        """The perturbation; must be overridden."""
        fail("override the fixture `perturbation` of PerturbationConformance with one that gives a perturbation")

    @pytest.fixture
    def size(self) -> int:
        """Number of parameters."""
        return 9

    @pytest.fixture
    def complete(self, perturbation: Perturbation, size: int) -> bool:
        """Is the code orthogonal to the last digit after one block? Else only statistically, over many."""
        return perturbation.block(size) > 1

    @pytest.fixture
    def zero_mean(self) -> bool:
        """Do the perturbations of every parameter sum to zero? Where not, a baseline is needed."""
        return True

    @pytest.fixture
    def bias_order(self) -> int:
        """The power of the amplitude with which the bias from curvature falls: 2 for codes with both signs, else 1."""
        return 1

    def test_is_a_function_of_seed_and_step(self, perturbation: Perturbation, size: int) -> None:
        seed, steps = seeds((), 3), np.arange(40)
        once = np.array(perturbation(seed, steps, size))
        shuffled = np.random.default_rng(0).permutation(40)
        perturbation(seeds((), 4), steps + 7, size)
        again = np.array(perturbation(seed, steps[shuffled], size))
        require(same(again, once[shuffled]), "the perturbation of a step depends on the order of the calls")
        for step in (0, 7, 39):
            alone = perturbation(seed, np.array([step]), size)
            require(same(alone[0], once[step]), f"step {step} asked for alone is not what it is among others")
        far = perturbation(seed, np.array([10**9, 2**31 + 5]), size)
        require(bool(np.isfinite(far).all()), "the perturbation is not finite after a thousand million steps")

    def test_stack_of_seeds_equals_single_seeds(self, perturbation: Perturbation, size: int) -> None:
        steps, seed = np.arange(20, 31), seeds((2, 3), 11)
        stack = perturbation(seed, steps, size)
        for place in np.ndindex(2, 3):
            alone = perturbation(np.asarray(seed[place]), steps, size)
            require(same(stack[place], alone), f"seed {place} of a stack does not give what it gives alone")

    @pytest.mark.parametrize("replicas", [(), (1,), (2, 3)])
    @pytest.mark.parametrize("number", [1, 2, 33, 64])
    def test_shape_and_dtype(self, perturbation: Perturbation, number: int, replicas: tuple[int, ...]) -> None:
        delta = perturbation(seeds(replicas, 0), np.arange(5), number)
        wanted = (*replicas, 5, number)
        require(delta.shape == wanted, f"the shape is {delta.shape} instead of {wanted} (..., k, size)")
        require(delta.dtype == np.float64, f"the dtype is {delta.dtype} instead of float64")

    def test_nobody_can_spoil_the_next_call(self, perturbation: Perturbation, size: int) -> None:
        seed, steps = seeds((2,), 3), np.arange(4)
        delta = perturbation(seed, steps, size)
        kept = np.array(delta)
        if delta.flags.writeable:
            delta[...] = 0
        require(same(perturbation(seed, steps, size), kept), "writing into a result changes what later calls give")

    def test_reach_is_the_largest_magnitude(self, perturbation: Perturbation, size: int) -> None:
        delta = perturbation(seeds((3,), 0), self._window(perturbation, size), size)
        largest, reach = float(np.max(np.abs(delta))), perturbation.reach(size)
        require(largest <= reach * (1 + 1e-12), f"a parameter is moved by {largest:.6g}, beyond the reach {reach:.6g}")
        require(largest >= 0.99 * reach, f"no parameter is moved by more than {largest:.6g}; the reach is {reach:.6g}")

    def test_mean_is_zero(self, perturbation: Perturbation, size: int, complete: bool, zero_mean: bool) -> None:
        if not zero_mean:
            pytest.skip("the code has a mean, and needs a baseline")
        steps = self._window(perturbation, size)
        mean = perturbation(seeds((3,), 0), steps, size).mean(axis=-2)
        limit = self._limit(perturbation, size, len(steps), complete) * math.sqrt(perturbation.mean_square(size))
        far = float(np.max(np.abs(mean)))
        require(far <= limit, f"the mean over {len(steps)} steps is {far:.3g}; at most {limit:.3g} is zero")

    def test_parameters_are_told_apart(self, perturbation: Perturbation, size: int, complete: bool) -> None:
        block = perturbation.block(size)
        steps = np.arange(block) if complete else self._window(perturbation, size)
        delta = perturbation(seeds((3,), 0), steps, size)
        moments = np.matmul(delta.swapaxes(-1, -2), delta) / len(steps)
        square = perturbation.mean_square(size)
        own = moments[..., np.arange(size), np.arange(size)]
        limit = self._limit(perturbation, size, len(steps), complete) * square
        far = float(np.max(np.abs(own - square)))
        require(far <= limit, f"the mean square is {square + far:.6g} or {square - far:.6g} instead of {square:.6g}")
        cross = float(np.max(np.abs(moments - own[..., None] * np.eye(size))))
        require(
            cross <= limit,
            f"over {len(steps)} steps two parameters have a product of {cross:.3g} on average; at most {limit:.3g} "
            "is orthogonal",
        )

    def test_gradient_estimate_converges(self, perturbation: Perturbation, size: int, complete: bool) -> None:
        block = perturbation.block(size)
        if complete:
            error = self._error(perturbation, size, np.arange(block))
            require(
                error < 1e-10, f"after a block of {block} steps the gradient of a linear cost is off by {error:.3g}"
            )
            return
        few, many = 64 * block, 1024 * block
        ratio = self._error(perturbation, size, np.arange(few)) / self._error(perturbation, size, np.arange(many))
        require(
            ratio > 3.0,
            f"16 times the probes lower the error of the gradient by a factor of {ratio:.2f}; k^-1/2 means 4",
        )

    def test_bias_falls_with_the_amplitude(self, perturbation: Perturbation, size: int, bias_order: int) -> None:
        steps = np.arange(4 * perturbation.block(size))
        delta = perturbation(seeds((8,), 0), steps, size)
        delta = delta / perturbation.reach(size)
        square = perturbation.mean_square(size) / perturbation.reach(size) ** 2
        source = np.random.default_rng(2)
        hessian, third = source.standard_normal((size, size)), source.standard_normal(size)
        bias = []
        for amplitude in (0.02, 0.01):
            moved = amplitude * delta
            curved = 0.5 * np.einsum("...i,ij,...j->...", moved, hessian, moved) + moved**3 @ third
            estimate = np.matmul(curved[..., None, :], moved)[..., 0, :] / (len(steps) * square * amplitude**2)
            bias.append(math.sqrt(float(np.mean(estimate**2))))
        if bias[0] < 1e-12:
            return
        order = math.log2(bias[0] / bias[1])
        require(
            order > bias_order - 0.2,
            f"half the amplitude lowers the bias of the gradient by 2^{order:.2f}; it should be 2^{bias_order}",
        )

    @staticmethod
    def _window(perturbation: Perturbation, size: int) -> NDArray[np.int64]:
        """Steps of a statistical check: many whole blocks."""
        return np.arange(perturbation.block(size) * 2048)

    @staticmethod
    def _limit(perturbation: Perturbation, size: int, steps: int, complete: bool) -> float:
        """What counts as zero, relative to the mean square: rounding, or six standard deviations of a random code."""
        return 1e-10 if complete else SIGMAS * math.sqrt(perturbation.block(size) / steps)

    @staticmethod
    def _error(perturbation: Perturbation, size: int, steps: NDArray[np.int64]) -> float:
        """Relative error of the gradient of a linear cost, root mean square over seeds and gradients."""
        gradient = np.random.default_rng(1).standard_normal((24, size))
        delta = perturbation(seeds((24,), 0), steps, size)
        modulation = np.matmul(delta, gradient[..., None])
        estimate = np.matmul(modulation.swapaxes(-1, -2), delta)[..., 0, :]
        estimate = estimate / (len(steps) * perturbation.mean_square(size))
        return math.sqrt(float(np.sum((estimate - gradient) ** 2) / np.sum(gradient**2)))
