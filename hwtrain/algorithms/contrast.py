"""Positive, negative and neutral versions of a sample: what contrastive rules show a layer.

Hinton, arXiv 2212.13345 (2022): the label stands in the sample's first values, or negatives are hybrids of two images;
Chen et al., Nature Communications (2025), arXiv 2409.11593: an image is paired with itself or with another one.
Which wrong label, which mask, which partner is a pure function of seed, step and place in the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve1d

from hwtrain import draws
from hwtrain.core import Array, Sample
from hwtrain.errors import ConfigError

NEUTRAL = 0.1  # what stands in every place of the code that names no label
BLURS = 6  # passes of [1/4, 1/2, 1/4] along both axes, which make blobs of a few pixels


@dataclass(frozen=True, slots=True)
class Contrast:
    """The versions of a sample."""

    positive: Sample
    negative: Sample
    neutral: Sample


def by_label(sample: Sample, wrong: Array) -> Contrast:
    """The right label, a wrong one (..., t, b), and none, as a code in the first values of x."""
    assert sample.target is not None
    return Contrast(
        coded(sample, sample.target),
        coded(sample, np.eye(sample.target.shape[-1])[wrong]),
        coded(sample, NEUTRAL),
    )


def coded(sample: Sample, code: Array | float) -> Sample:
    """The sample with `code` (..., m) in its first m values."""
    assert sample.target is not None
    x = sample.x.copy()
    x[..., : sample.target.shape[-1]] = code
    return replace(sample, x=x)


def wrong_labels(seed: NDArray[np.uint32], step: int, target: Array, likely: Array | None = None) -> Array:
    """A label other than the right one for every sample, (..., t, b).

    Args:
        seed: (...,).
        step: of the update.
        target: one-hot, (..., t, b, m).
        likely: probabilities with which labels are drawn, (..., t, b, m); None draws them evenly.
    """
    lead, classes = target.shape[:-1], target.shape[-1]
    lead = lead if len(lead) > 2 else (*np.shape(seed), *lead)
    here = draws.uniform(draws.derive(seed, "wrong labels"), step, math.prod(lead[-2:])).reshape(lead)
    chances = np.broadcast_to((1.0 if likely is None else likely + 1e-6) * (1 - target), (*lead, classes))
    upto = np.cumsum(chances, axis=-1)
    chosen: Array = (here[..., None] * upto[..., -1:] < upto).argmax(axis=-1)
    return chosen


def hybrids(seed: NDArray[np.uint32], step: int, sample: Sample) -> Contrast:
    """Negatives made of two images: one inside a mask of large blobs, the next of the batch outside.

    Raises:
        ConfigError: the samples are not square images.
    """
    side = math.isqrt(sample.x.shape[-1])
    if side * side != sample.x.shape[-1]:
        raise ConfigError(
            f"algo.negatives=hybrid cuts square images; samples have {sample.x.shape[-1]} values. Choose uniform."
        )
    lead = sample.x.shape[:-1] if sample.x.ndim > 3 else (*np.shape(seed), *sample.x.shape[:-1])
    count = math.prod(lead[-2:])
    bits = draws.uniform(draws.derive(seed, "masks"), step * count + np.arange(count), side * side) < 0.5
    mask = bits.reshape(*lead, side, side).astype(float)
    for _ in range(BLURS):
        for axis in (-1, -2):
            mask = convolve1d(mask, [0.25, 0.5, 0.25], axis=axis, mode="nearest")
    inside = (mask > 0.5).reshape(*lead, side * side)
    other = np.roll(sample.x, 1, axis=-2)
    return Contrast(sample, replace(sample, x=np.where(inside, sample.x, other), target=_to(sample, lead)), sample)


def pairs(seed: NDArray[np.uint32], step: int, sample: Sample) -> Contrast:
    """Negatives in which an image is laid over another one of the batch; the two share a matrix, so half their sum."""
    batch = sample.x.shape[-2]
    away = 1 + (draws.words(draws.derive(seed, "partners"), step, 1)[..., 0] % np.uint32(max(batch - 1, 1)))
    partner = (np.arange(batch) + away[..., None].astype(int)) % batch  # (..., b)
    lead = sample.x.shape[:-1] if sample.x.ndim > 3 else (*np.shape(seed), *sample.x.shape[:-1])
    x = np.broadcast_to(sample.x, (*lead, sample.x.shape[-1]))
    other = np.take_along_axis(x, partner[..., None, :, None], axis=-2)
    return Contrast(sample, replace(sample, x=(x + other) / 2, target=_to(sample, lead)), sample)


def _to(sample: Sample, lead: tuple[int, ...]) -> Array | None:
    return None if sample.target is None else np.broadcast_to(sample.target, (*lead, sample.target.shape[-1]))
