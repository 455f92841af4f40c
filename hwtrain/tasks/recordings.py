"""Recordings to be classified while they are heard or felt: spoken digits, and letters in Braille under a finger."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hwtrain.checks import flag, one_of, whole
from hwtrain.core import Array
from hwtrain.errors import DataError
from hwtrain.tasks.dataset import one_hot
from hwtrain.tasks.sequences import WHEN, Frames, Sequences, SequenceTask, archive, frames

FSDD = "187b7660cfeafce2b975bd70b3335c162c937bcb0e84a782790e3dee6abdc654"
BRAILLE = "48674a444c860551061fa6a33f99a600975f685b99bbe4875f3924e5e0d3a528"


def fsdd(
    batch: int = 64,
    steps: int = 48,
    when: str = "step",
    data_dir: str | None = None,
    verify: bool = True,
    name: str = "fsdd",
) -> SequenceTask:
    """Spoken digits by six speakers (Free Spoken Digit Dataset), 32 mel bands every 16 ms: 2700 to train, 300 to test.

    The test set is the official one, takes 0 to 4. Bands are fractions of the range of 80 dB, less their mean over the
    training set, times 2.

    Args:
        batch: recordings presented at once.
        steps: longest recording; what is said later is left out.
        when: is the label the target at every "step", or only at the "end"?
        data_dir: a folder that has the file, or has it in `temporal/`.
        verify: is another file than the project's refused? If not, the record says so.
        name: what messages and records call it.
    """
    whole("task.steps", steps)
    one_of("task.when", when, WHEN)
    arrays, account = archive("temporal", "fsdd_logmel.npz", FSDD, data_dir, verify)
    bands, count = arrays["logmel"] / 255, arrays["n_frames"].astype(np.intp)
    lengths = np.minimum(count, min(steps, bands.shape[1]))
    train = arrays["take"] >= 5
    heard = np.arange(bands.shape[1]) < lengths[:, None]
    bands = 2 * (bands - bands[heard & train[:, None]].mean(axis=0))
    whole_ones = frames(bands[heard], lengths, "fsdd")
    provenance = {
        "source": "Free Spoken Digit Dataset (Jakobovski et al.), log-mel bands",
        "licence": "CC BY-SA 4.0",
        **account,
    }
    return _task(name, whole_ones, arrays["labels"], 10, train, when, batch, provenance)


def braille(
    batch: int = 64,
    when: str = "step",
    standard: bool = False,
    data_dir: str | None = None,
    verify: bool = True,
    name: str = "braille",
) -> SequenceTask:
    """Letters in Braille and the space, felt by the 12 sensors of a robot's finger: 1080 recordings to train, 270 to
    test on.

    Mueller-Cleve et al., Frontiers in Neuroscience 16 (2022). Every fifth repetition is held out; pressures are 1 -
    count/255. Two sensors move at all, by some hundredths around values of their own.

    Args:
        batch: recordings presented at once.
        when: is the label the target at every "step", or only at the "end"?
        standard: is each sensor's mean over the training set taken off, and divided by its standard deviation? One that
            never moves then says 0.
        data_dir: a folder that has the file, or has it in `temporal/`.
        verify: is another file than the project's refused? If not, the record says so.
        name: what messages and records call it.
    """
    one_of("task.when", when, WHEN)
    flag("task.standard", standard)
    arrays, account = archive("temporal", "braille.npz", BRAILLE, data_dir, verify)
    train = arrays["repetition"] % 5 != 0
    felt = frames(1 - arrays["taxels"] / 255, arrays["lengths"], "braille")
    if standard:
        trained = felt.values[np.repeat(train, felt.lengths)]
        spread = trained.std(axis=0)
        felt = replace(felt, values=(felt.values - trained.mean(axis=0)) / np.where(spread > 1e-3, spread, np.inf))
    provenance = {
        "source": "Mueller-Cleve et al., Braille letter reading (2022), doi 10.5281/zenodo.6556273",
        "licence": "CC BY 4.0",
        "classes": [str(letter) for letter in arrays["classes"]],
        "test": "every fifth repetition",
        **account,
    }
    return _task(name, felt, arrays["labels"], len(arrays["classes"]), train, when, batch, provenance)


def _task(
    name: str,
    source: Frames,
    labels: Array,
    classes: int,
    train: NDArray[np.bool_],
    when: str,
    batch: int,
    provenance: dict[str, object],
) -> SequenceTask:
    if not len(labels) == len(train) == len(source.lengths) or labels.max() >= classes:
        raise DataError(f"{name}: {len(source.lengths)} recordings and {len(labels)} labels below {classes} are needed")
    kept, held_out = (
        Sequences(Frames(source.values, source.begin[at], source.lengths[at]), one_hot(labels[at], classes), when)
        for at in (train, ~train)
    )
    return SequenceTask(name, kept, held_out, batch, provenance)
