"""The codes face the kit; and the bits they are made of, against integers worked out without numpy."""

import json
from pathlib import Path

import numpy as np
import pytest

from hwtrain import draws
from hwtrain.conformance import PerturbationConformance
from hwtrain.perturb import Antithetic, Rademacher, Sequential, Sinusoid, Walsh

GOLDEN = Path(__file__).parent / "golden" / "draws.json"


class TestRademacher(PerturbationConformance):
    @pytest.fixture(params=[{"amplitude": 0.3}, {"norm": 2.0}], ids=str)
    def perturbation(self, request):
        return Rademacher(**request.param)


class TestRademacherOfManyWords(PerturbationConformance):
    @pytest.fixture
    def perturbation(self):
        return Rademacher(amplitude=1.0)

    @pytest.fixture
    def size(self):
        return 70


class TestSequential(PerturbationConformance):
    @pytest.fixture(params=[{"amplitude": 0.3}, {"norm": 2.0}], ids=str)
    def perturbation(self, request):
        return Sequential(**request.param)

    @pytest.fixture
    def zero_mean(self):
        return False  # every move goes up


class TestWalsh(PerturbationConformance):
    @pytest.fixture(params=[{"amplitude": 0.3}, {"norm": 2.0}], ids=str)
    def perturbation(self, request):
        return Walsh(**request.param)


class TestTwoSidedWalsh(PerturbationConformance):
    @pytest.fixture
    def perturbation(self):
        return Walsh(amplitude=0.3, two_sided=True)

    @pytest.fixture(params=[7, 8, 9])
    def size(self, request):
        return request.param

    @pytest.fixture
    def bias_order(self):
        return 2


class TestSinusoid(PerturbationConformance):
    @pytest.fixture(params=[{"amplitude": 0.3}, {"norm": 2.0}], ids=str)
    def perturbation(self, request):
        return Sinusoid(**request.param)

    @pytest.fixture
    def complete(self):
        return False  # tones part better and better, never altogether


class TestAntitheticRademacher(PerturbationConformance):
    @pytest.fixture
    def perturbation(self):
        return Antithetic(Rademacher(amplitude=0.3))

    @pytest.fixture
    def complete(self):
        return False

    @pytest.fixture
    def bias_order(self):
        return 2


class TestAntitheticSequential(PerturbationConformance):
    @pytest.fixture
    def perturbation(self):
        return Antithetic(Sequential(amplitude=0.3))

    @pytest.fixture
    def bias_order(self):
        return 2


MASK = 0xFFFFFFFF


def mix32(x):
    """Wellons's lowbias32, in integers of any length."""
    x = (x ^ x >> 16) * 0x7FEB352D & MASK
    x = (x ^ x >> 15) * 0x846CA68B & MASK
    return x ^ x >> 16


def words(seed, counter, count):
    stream = mix32(mix32(seed) ^ counter & MASK)
    return [mix32(stream + index * 0x9E3779B9 & MASK) for index in range(count)]


def signs(seed, step, size):
    """One text of + and - for each parameter."""
    drawn = words(seed, step, -(-size // 32))
    return "".join("-" if drawn[index // 32] >> index % 32 & 1 else "+" for index in range(size))


def golden():
    """What the table holds, worked out anew: the file is json.dumps(golden(), indent=1)."""
    places = [
        (0, 0),
        (0, 1),
        (1, 0),
        (7, 123),
        (12345, 99_999),
        (2**31, 2**31 - 1),
        (2**32 - 1, 2**32 - 1),
        (42, 2**32),
    ]
    return {
        "mix32": [[x, mix32(x)] for x in (0, 1, 2, 0x9E3779B9, 2**31, MASK)],
        "words": [{"seed": seed, "counter": counter, "words": words(seed, counter, 4)} for seed, counter in places],
        "rademacher": [{"seed": seed, "step": step, "signs": signs(seed, step, 70)} for seed, step in places],
    }


class TestGolden:
    """The committed table, its independent derivation, and hwtrain agree: a changed bit is a changed result."""

    @pytest.fixture
    def table(self):
        return json.loads(GOLDEN.read_text())

    def test_table_is_what_plain_integers_give(self, table):
        assert table == golden()

    def test_mix32(self, table):
        assert [[x, int(draws.mix32(x))] for x, _ in table["mix32"]] == table["mix32"]

    def test_words(self, table):
        for row in table["words"]:
            assert draws.words(np.asarray(row["seed"], np.uint32), row["counter"], 4).tolist() == row["words"]

    def test_rademacher(self, table):
        for row in table["rademacher"]:
            delta = Rademacher(amplitude=0.5)(np.asarray(row["seed"], np.uint32), np.array([row["step"]]), 70)
            assert delta[0].tolist() == [0.5 if sign == "+" else -0.5 for sign in row["signs"]]

    def test_uniform_numbers_are_words_between_0_and_1(self, table):
        for row in table["words"]:
            found = draws.uniform(np.asarray(row["seed"], np.uint32), row["counter"], 4).tolist()
            assert found == [(word + 0.5) / 2**32 for word in row["words"]]
