"""Arrays as a stream of samples: sample `index` of a seed is always the same."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwtrain import draws
from hwtrain.checks import whole
from hwtrain.core import Array, Sample
from hwtrain.errors import DataError


class DataTask:
    """A training set that every replica goes through in an order of its own, and a test set.

    Each epoch is a new permutation, cut into batches; what is left over at the end of an epoch, fewer samples than a
    batch, is dropped from that epoch. Inputs of dtype uint8 are pixels: they leave as fractions of 255, and are scaled
    sample by sample, for which a batch of 32 images takes no longer than copying them out of eight times the memory.

    Args:
        name: what messages call it.
        train_x: training inputs, (N, n), uint8 pixels or any other numbers.
        train_y: training targets, (N, m).
        test_x: test inputs, (M, n).
        test_y: test targets, (M, m).
        batch: samples presented at once, b.
        provenance: where the data came from, as JSON types; the numbers of samples are added.

    Raises:
        ConfigError: the batch is larger than the training set.
    """

    def __init__(
        self,
        name: str,
        train_x: Array,
        train_y: Array,
        test_x: Array,
        test_y: Array,
        batch: int,
        provenance: Mapping[str, Any],
    ) -> None:
        _check_pairs(name, {"training": (train_x, train_y), "test": (test_x, test_y)})
        whole("task.batch", batch, 1, len(train_x), f"the number of training samples of {name!r}")
        self.name, self.batch = name, batch
        self.inputs = int(train_x.shape[1])
        self.outputs = int(train_y.shape[1])
        self.provenance = {**provenance, "train_samples": len(train_x), "test_samples": len(test_x)}
        self._train = _for_reading(train_x, pixels=True), _for_reading(train_y, pixels=False)
        self._test = _for_reading(test_x, pixels=True), _for_reading(test_y, pixels=False)
        self._batches = len(train_x) // self.batch

    def sample(self, seed: NDArray[np.uint32], index: int) -> Sample:
        """Batch `index` of every seed's own order.

        Args:
            seed: (...,) uint32, one per replica.
            index: counts on through the epochs.

        Returns:
            x (..., 1, b, n), target (..., 1, b, m).
        """
        epoch, number = divmod(index, self._batches)
        order = draws.order(_order_seed(seed.tobytes(), seed.shape), epoch, len(self._train[0]))
        at = order[..., None, number * self.batch : (number + 1) * self.batch]
        x, y = self._train
        return Sample(_values(x.take(at, axis=0)), y.take(at, axis=0))

    def held_out(self, limit: int) -> Sample:
        """The first `limit` test samples, x (1, b, n), target (1, b, m)."""
        return _first(self._test, limit)

    def seen(self, limit: int) -> Sample:
        """The first `limit` training samples, x (1, b, n), target (1, b, m)."""
        return _first(self._train, limit)


def one_hot(labels: Array, classes: int) -> NDArray[np.float64]:
    """Labels (N,) from 0 to `classes` - 1 as targets (N, classes) of zeros and a one."""
    return np.eye(classes)[labels]


@lru_cache(maxsize=8)
def _order_seed(seeds: bytes, shape: tuple[int, ...]) -> NDArray[np.uint32]:
    return draws.derive(np.frombuffer(seeds, np.uint32).reshape(shape), "order of samples")


def _first(samples: tuple[Array, Array], limit: int) -> Sample:
    x, y = samples
    return Sample(_values(x[None, :limit]), y[None, :limit])


def _for_reading(array: Array, *, pixels: bool) -> Array:
    """The array as float64, or as uint8 where it holds `pixels` of that type; a view that refuses to be written to."""
    view: Array = (array if pixels and array.dtype == np.uint8 else np.asarray(array, np.float64)).view()
    view.flags.writeable = False
    return view


def _values(x: Array) -> Array:
    return np.divide(x, 255.0, dtype=np.float64) if x.dtype == np.uint8 else x


def _check_pairs(name: str, pairs: Mapping[str, tuple[Array, Array]]) -> None:
    for which, (x, y) in pairs.items():
        if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not x.size or not y.size:
            raise DataError(
                f"{name!r}: {which} inputs of shape {x.shape} and targets of shape {y.shape} do not go together; "
                "(N, n) and (N, m) are needed, with at least one sample. Compare the files they came from."
            )
    (train_x, train_y), (test_x, test_y) = pairs["training"], pairs["test"]
    for what, train, test in (("inputs", train_x, test_x), ("targets", train_y, test_y)):
        if train.shape[1] != test.shape[1]:
            raise DataError(
                f"{name!r}: training {what} have the shape {train.shape}, test {what} {test.shape}; "
                "both need the same number of columns. Compare the files they came from."
            )
