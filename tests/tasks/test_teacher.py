"""Linear regression: what is drawn, and that it can be learnt."""

import numpy as np
import pytest

from hwtrain.errors import ConfigError
from hwtrain.tasks.teacher import Teacher

SEEDS = np.arange(3, dtype=np.uint32)


def test_targets_are_the_teacher_and_noise():
    task = Teacher(inputs=6, outputs=3, noise=0.05, batch=4000)
    sample = task.sample(SEEDS, 2)
    off = sample.target - sample.x @ task.matrix
    assert sample.x.shape == (3, 1, 4000, 6)
    assert off.std() == pytest.approx(0.05, rel=5 / np.sqrt(2 * off.size))
    assert sample.x.std() == pytest.approx(1, rel=5 / np.sqrt(2 * sample.x.size))


def test_the_teacher_is_cut_off_and_the_same_for_all():
    task = Teacher(inputs=100, outputs=100)
    assert np.abs(task.matrix).max() == 0.6
    kept = np.abs(task.matrix) < 0.6
    assert kept.mean() == pytest.approx(0.9545, abs=5 * np.sqrt(0.0455 * 0.9545 / 10_000))  # within two deviations
    assert np.array_equal(task.matrix, Teacher(inputs=100, outputs=100, noise=0.0).matrix)


def test_a_sample_is_a_function_of_seed_and_index():
    task = Teacher()
    assert np.array_equal(task.sample(SEEDS, 7).x[1], task.sample(SEEDS[1], 7).x)
    assert not np.array_equal(task.sample(SEEDS, 7).x, task.sample(SEEDS, 8).x)
    assert not np.array_equal(task.held_out(10).x, task.seen(10).x)
    assert task.held_out(5000).x.shape == (1, 1000, 20)


def test_least_squares_finds_it():
    task = Teacher(noise=0.0, batch=50)
    sample = task.sample(SEEDS[0], 0)
    found = np.linalg.lstsq(sample.x[0], sample.target[0], rcond=None)[0]
    assert found == pytest.approx(task.matrix, abs=1e-12)


@pytest.mark.parametrize("wrong", [{"inputs": 0}, {"noise": -1}, {"most": 0}, {"batch": 0}])
def test_settings(wrong):
    with pytest.raises(ConfigError, match=f"task.{next(iter(wrong))}"):
        Teacher(**wrong)
