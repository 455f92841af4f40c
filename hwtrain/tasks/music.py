"""Polyphonic music as rolls of 88 keys: which will sound next? With the cost in which the literature counts.

Boulanger-Lewandowski, Bengio, Vincent, "Modeling temporal dependencies in high-dimensional sequences", ICML 2012; the
splits are theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from hwtrain.checks import whole
from hwtrain.core import Array
from hwtrain.tasks.sequences import Frames, Sequences, ValidatedSequenceTask, archive, frames

FILES = {
    "jsb_chorales": "b183d4b9767f9d005d1d1418510b5c56532261850245dd375db3c19caa40fc5a",
    "nottingham": "2a4a31098b912f6cf638dae595c548e31ce096610b9781793a4c98fa7b5ef45d",
    "muse_data": "c13d62c2b9514449dac1591b2e7e172b791f6ccc3beb13e40cb7fc4dc4bee66f",
    "piano_midi": "5acee2b1f14d1041688cc9cfe712c435235a1260ba1c6b450e8f51b38fc48e0f",
}


@dataclass(frozen=True, slots=True)
class FrameNLL:
    """Negative log-likelihood of a frame [nats]: the sum of the keys' cross-entropies, outputs being log-odds."""

    def __call__(self, output: Array, target: Array) -> Array:
        """Cost of every frame: (..., m) and (..., m) to (...,)."""
        result: Array = np.sum(np.logaddexp(0, output) - output * target, axis=-1)
        return result

    def gradient(self, output: Array, target: Array) -> Array:
        """Its derivative with respect to the output, (..., m)."""
        result: Array = expit(output) - target
        return result


def jsb_chorales(
    batch: int = 32,
    steps: int | None = None,
    data_dir: str | None = None,
    verify: bool = True,
    name: str = "jsb_chorales",
) -> ValidatedSequenceTask:
    """Chorales by J. S. Bach in quarter notes: 229 training, 76 validation and 77 test sequences.

    Args:
        batch: sequences presented at once.
        steps: longest sequence; longer ones are cut into several; None leaves them whole.
        data_dir: a folder that has the file, or has it in `music/`.
        verify: is another file than the project's refused? If not, the record says so.
        name: what messages and records call it.
    """
    return _music("jsb_chorales", "Bach chorales, quarter notes", batch, steps, data_dir, verify, name)


def nottingham(
    batch: int = 32,
    steps: int | None = 200,
    data_dir: str | None = None,
    verify: bool = True,
    name: str = "nottingham",
) -> ValidatedSequenceTask:
    """Folk tunes with chords: 694 training, 173 validation and 170 test sequences; arguments as in `jsb_chorales`."""
    return _music("nottingham", "Nottingham folk tunes", batch, steps, data_dir, verify, name)


def muse_data(
    batch: int = 32,
    steps: int | None = 200,
    data_dir: str | None = None,
    verify: bool = True,
    name: str = "muse_data",
) -> ValidatedSequenceTask:
    """Orchestral and piano classics: 524 training, 135 validation, 124 test sequences; arguments as in
    `jsb_chorales`.
    """
    return _music("muse_data", "MuseData", batch, steps, data_dir, verify, name)


def piano_midi(
    batch: int = 32,
    steps: int | None = 200,
    data_dir: str | None = None,
    verify: bool = True,
    name: str = "piano_midi",
) -> ValidatedSequenceTask:
    """Classical piano music: 87 training, 12 validation and 25 test sequences; arguments as in `jsb_chorales`."""
    return _music("piano_midi", "Piano-midi.de", batch, steps, data_dir, verify, name)


def _music(
    data_set: str, source: str, batch: int, steps: int | None, data_dir: str | None, verify: bool, name: str
) -> ValidatedSequenceTask:
    whole("task.steps", steps, none="whole sequences")
    arrays, account = archive("music", f"{data_set}.npz", FILES[data_set], data_dir, verify)
    parts = {
        part: Sequences(_cut(frames(arrays[f"{part}_roll"], arrays[f"{part}_len"], f"{data_set}, {part}"), steps))
        for part in ("train", "valid", "test")
    }
    provenance = {"source": f"{source} (Boulanger-Lewandowski et al. 2012)", "licence": "none stated", **account}
    return ValidatedSequenceTask(name, parts["train"], parts["valid"], parts["test"], batch, provenance)


def _cut(whole_ones: Frames, steps: int | None) -> Frames:
    """Sequences in pieces of `steps` steps and the frame after them, so that every frame but the first is predicted."""
    if steps is None:
        return whole_ones
    begin: list[NDArray[np.intp]] = []
    lengths: list[NDArray[np.intp]] = []
    for first, length in zip(whole_ones.begin, whole_ones.lengths, strict=True):
        offsets = np.arange(0, max(length - 1, 1), steps)
        begin.append(first + offsets)
        lengths.append(np.minimum(length - offsets, steps + 1))
    return Frames(whole_ones.values, np.concatenate(begin), np.concatenate(lengths))
