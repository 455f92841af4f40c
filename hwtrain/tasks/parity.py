"""Is the number of ones odd? The smallest tasks that need a hidden layer."""

from __future__ import annotations

import numpy as np

from hwtrain.checks import whole
from hwtrain.tasks.dataset import DataTask


def parity(bits: int, batch: int = 1, name: str = "parity") -> DataTask:
    """All 2^n vectors of n bits, and as target 1 where the number of ones is odd, else 0; exclusive or for n = 2.

    The test set is the training set: there are no other vectors, so accuracy here says what was learnt, not what would
    generalise.

    Args:
        bits: n, from 2 to 16.
        batch: vectors presented at once.
        name: what messages and records call it.
    """
    whole("task.bits", bits, 2, 16)
    x = (np.arange(2**bits)[:, None] >> np.arange(bits)[::-1] & 1).astype(np.float64)
    y = x.sum(axis=1, keepdims=True) % 2
    provenance = {
        "source": f"all {2**bits} vectors of {bits} bits, generated",
        "licence": "none needed",
        "test": "the training set",
    }
    return DataTask(name, x, y, x, y, batch, provenance)
