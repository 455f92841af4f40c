import numpy as np
import pytest

from hwtrain.errors import ConfigError, DataError
from hwtrain.tasks.dataset import DataTask, one_hot
from hwtrain.tasks.letters import letters7x7
from hwtrain.tasks.parity import parity


def seeds(*values):
    return np.array(values, np.uint32)


def numbered(size, batch=1, test=3):
    """A task whose sample i is the number i, with target -i."""
    x = np.arange(size)[:, None] * 1.0
    return DataTask("numbered", x, -x, x[:test], -x[:test], batch, {"source": "numbers"})


@pytest.fixture(params=["pixels", "numbers", "parity", "letters"])
def task(request):
    if request.param == "pixels":
        x = np.random.default_rng(0).integers(0, 256, (20, 6), dtype=np.uint8)
        return DataTask("pixels", x, one_hot(np.arange(20) % 3, 3), x, one_hot(np.arange(20) % 3, 3), 3, {})
    return {"numbers": lambda: numbered(10, 4), "parity": lambda: parity(3), "letters": letters7x7}[request.param]()


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3)])
def test_shapes(task, shape):
    sample = task.sample(np.zeros(shape, np.uint32), 7)
    assert sample.x.shape == (*shape, 1, task.batch, task.inputs)
    assert sample.target.shape == (*shape, 1, task.batch, task.outputs)
    assert sample.x.dtype == sample.target.dtype == np.float64
    assert sample.start
    for rest in (task.held_out(2), task.seen(2)):
        assert rest.x.shape == (1, 2, task.inputs)
        assert rest.target.shape == (1, 2, task.outputs)
        assert rest.x.dtype == rest.target.dtype == np.float64


def test_a_sample_depends_on_seed_and_index_alone(task):
    seed = seeds(3, 9)
    forth = [task.sample(seed, index) for index in range(60)]
    back = [task.sample(seed, index) for index in reversed(range(60))][::-1]
    assert forth == back
    assert forth[0] != forth[1]


def test_a_stack_of_seeds_equals_single_seeds(task):
    values = [0, 1, 2**31, 2**32 - 1]
    for index in (0, 1, 11, 500):
        stack = task.sample(seeds(*values), index)
        grid = task.sample(seeds(*values).reshape(2, 2), index)
        for position, value in enumerate(values):
            alone = task.sample(np.array(value, np.uint32), index)
            assert stack.x[position].tobytes() == alone.x.tobytes() == grid.x[divmod(position, 2)].tobytes()
            assert stack.target[position].tobytes() == alone.target.tobytes()


def test_a_seed_that_is_a_view_is_taken_for_what_it_holds(task):
    every_other = np.arange(8, dtype=np.uint32)[::2]
    assert task.sample(every_other, 5) == task.sample(seeds(0, 2, 4, 6), 5)


@pytest.mark.parametrize("batch", [1, 3, 4, 10])
def test_an_epoch_is_a_permutation_without_its_remainder(batch):
    task, whole = numbered(10, batch), 10 // batch
    epochs = []
    for epoch in range(30):
        samples = [task.sample(seeds(5), epoch * whole + number) for number in range(whole)]
        numbers = np.concatenate([sample.x.ravel() for sample in samples])
        np.testing.assert_array_equal(numbers, -np.concatenate([sample.target.ravel() for sample in samples]))
        assert len(np.unique(numbers)) == whole * batch
        epochs.append(tuple(numbers))
    assert len(set(epochs)) == 30, "every epoch has another order"
    assert set(np.concatenate(epochs)) == set(range(10)), "whatever one epoch drops, others present"


def test_replicas_have_orders_of_their_own():
    sample = [numbered(100).sample(np.arange(50, dtype=np.uint32), index).x.ravel() for index in range(20)]
    orders = np.stack(sample, axis=1)
    assert len(np.unique(orders, axis=0)) == 50
    assert np.abs(np.corrcoef(orders) - np.eye(50)).max() < 0.9


def test_pixels_are_fractions_of_255():
    x = np.arange(256, dtype=np.uint8)[:, None]
    task = DataTask("pixels", x, x * 1.0, x, x * 1.0, 256, {})
    sample = task.sample(seeds(1), 0)
    np.testing.assert_array_equal(sample.x, sample.target / 255)
    np.testing.assert_array_equal(task.held_out(256).x[0, :, 0], np.arange(256) / 255)


def test_seen_and_held_out_are_the_first_in_data_order():
    task = numbered(10, test=4)
    np.testing.assert_array_equal(task.seen(3).x.ravel(), [0, 1, 2])
    np.testing.assert_array_equal(task.held_out(2**31).x.ravel(), [0, 1, 2, 3])


def test_what_a_caller_does_to_a_sample_does_not_reach_the_data():
    task = numbered(10, 10)
    before = task.sample(seeds(1), 0).x.copy()
    task.sample(seeds(1), 0).x[...] = 99
    np.testing.assert_array_equal(task.sample(seeds(1), 0).x, before)
    with pytest.raises(ValueError, match="read-only"):
        task.seen(3).x[...] = 99


def test_provenance_counts_the_samples():
    assert numbered(10).provenance == {"source": "numbers", "train_samples": 10, "test_samples": 3}


@pytest.mark.parametrize("batch", [0, -1, 11, 2.0, True, "4", None])
def test_a_batch_that_does_not_fit(batch):
    with pytest.raises(ConfigError, match=r"task\.batch .* 1 to 10 \(the number of training samples of 'numbered'\)"):
        numbered(10, batch)


@pytest.mark.parametrize(
    ("shapes", "named"),
    [
        ([(5, 2), (4, 1), (3, 2), (3, 1)], r"training .*\(5, 2\).*\(4, 1\)"),
        ([(5,), (5, 1), (3, 2), (3, 1)], r"training .*\(5,\)"),
        ([(5, 2), (5, 1), (0, 2), (0, 1)], r"test .*\(0, 2\)"),
        ([(5, 2), (5, 1), (3, 4), (3, 1)], r"inputs .*\(5, 2\).*\(3, 4\)"),
        ([(5, 2), (5, 1), (3, 2), (3, 2)], r"targets .*\(5, 1\).*\(3, 2\)"),
    ],
)
def test_arrays_that_do_not_go_together(shapes, named):
    with pytest.raises(DataError, match=named):
        DataTask("odd", *map(np.ones, shapes), 1, {})
