"""Four noisy letters in a 7x7 frame, generated: small enough for a microcontroller, too hard for a linear classifier.

Made to stand in for the 7x7 letters of McCaughan et al., "Multiplexed gradient descent" (2023), whose file was not
published with the code.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwtrain import draws
from hwtrain.checks import whole
from hwtrain.tasks.dataset import DataTask, one_hot

BITMAPS = {
    "N": ("10001", "11001", "10101", "10011", "10001"),
    "I": ("11111", "00100", "00100", "00100", "11111"),
    "S": ("01111", "10000", "01110", "00001", "11110"),
    "T": ("11111", "00100", "00100", "00100", "00100"),
}
NOISE = 0.2  # standard deviation of a pixel, before clipping to 0..1
TRAIN, TEST = 4096, 1024


def letters7x7(batch: int = 1, data_seed: int = 0, name: str = "letters7x7") -> DataTask:
    """The letters N, I, S, T (outputs 0 to 3) as 5x5 bitmaps, at a random one of 9 places in a 7x7 frame.

    Every pixel has Gaussian noise and is clipped to 0..1. The four letters take turns, so each makes up a quarter of
    the 4096 training and of the 1024 test images. Linear least squares classifies 91 to 93 % of the
    test images.

    Args:
        batch: images presented at once.
        data_seed: of places and noise; another one is another data set of the same kind.
        name: what messages and records call it.
    """
    whole("task.data_seed", data_seed, 0, 2**32 - 1)
    seed = np.array(data_seed, np.uint32)
    train_x, train_y = _images(draws.derive(seed, "letters7x7 training set"), TRAIN)
    test_x, test_y = _images(draws.derive(seed, "letters7x7 test set"), TEST)
    provenance = {"source": "generated", "data_seed": data_seed, "licence": "none needed", "classes": list(BITMAPS)}
    return DataTask(name, train_x, train_y, test_x, test_y, batch, provenance)


def _images(seed: NDArray[np.uint32], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Images (count, 49) and targets (count, 4)."""
    letters = np.array([[list(row) for row in bitmap] for bitmap in BITMAPS.values()]).astype(np.float64)
    labels = np.arange(count) % len(letters)
    down, right = divmod(draws.words(draws.derive(seed, "place"), 0, count) % 9, 3)
    images = np.zeros((count, 7, 7))
    for row in range(3):
        for column in range(3):
            here = (down == row) & (right == column)
            images[here, row : row + 5, column : column + 5] = letters[labels[here]]
    noise = NOISE * draws.normal(draws.derive(seed, "noise"), np.arange(count), 49)
    return np.clip(images.reshape(count, 49) + noise, 0, 1), one_hot(labels, len(letters))
