"""Spikes from silicon retinas and cochleas, in steps of time: N-MNIST and the Spiking Heidelberg Digits."""

from __future__ import annotations

import importlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwtrain.checks import number, one_of, whole
from hwtrain.errors import DataError
from hwtrain.tasks import folder
from hwtrain.tasks.dataset import one_hot
from hwtrain.tasks.sequences import WHEN, Events, Sequences, SequenceTask, archive

NMNIST = "39b640fc4bf6f075e743d9c2783d831aee85552adb83639e704cc5828deca365"
WIDTH = 34  # of the retina, in pixels
LONGEST = 340  # of the recordings [ms]
SHD = ("shd_train.h5", "shd_test.h5")
CHANNELS, WORDS = 700, 20


def nmnist(
    batch: int = 50,
    milliseconds: int = 10,
    when: str = "step",
    data_dir: str | None = None,
    verify: bool = True,
    name: str = "nmnist",
) -> SequenceTask:
    """Digits seen by a moving event camera, 34x34 pixels of two polarities: 1000 to train, 100 to test on.

    Orchard, Jayawant, Cohen, Thakor, Frontiers in Neuroscience 9 (2015); the part of it that slayerPytorch carries.
    Inputs are 1 where a pixel saw any change in a step: those of rising, then of falling brightness.

    Args:
        batch: recordings presented at once.
        milliseconds: length of a step.
        when: is the label the target at every "step", or only at the "end"?
        data_dir: a folder that has the file, or has it in `temporal/`.
        verify: is another file than the project's refused? If not, the record says so.
        name: what messages and records call it.
    """
    whole("task.milliseconds", milliseconds, 1, LONGEST)
    one_of("task.when", when, WHEN)
    arrays, account = archive("temporal", "nmnist_small.npz", NMNIST, data_dir, verify)
    counts, labels = arrays["n_events"].astype(np.intp), arrays["labels"]
    elapsed = np.cumsum(arrays["dt_ms"], dtype=np.intp)
    ends = np.cumsum(counts)
    begun = np.repeat(np.append(0, elapsed[ends[:-1] - 1]), counts)
    step = (elapsed - begun) // milliseconds
    falling = 1 - np.unpackbits(arrays["p_bits"])[: len(step)].astype(np.intp)
    unit = falling * WIDTH**2 + arrays["y"].astype(np.intp) * WIDTH + arrays["x"]
    train = arrays["sample_id"] <= 60_000
    steps = -(-LONGEST // milliseconds)

    def part(at: NDArray[np.bool_]) -> Sequences:
        own = np.repeat(at, counts)
        source = Events(step[own], unit[own], counts[at], steps, 2 * WIDTH**2)
        return Sequences(source, one_hot(labels[at], 10), when)

    provenance = {
        "source": "Orchard et al., N-MNIST (2015): training images 0-999, test images 0-99",
        "licence": "GPL-3.0 (where the files are kept)",
        **account,
    }
    return SequenceTask(name, part(train), part(~train), batch, provenance)


def shd(
    batch: int = 64,
    steps: int = 100,
    seconds: float = 1.4,
    when: str = "step",
    data_dir: str | None = None,
    name: str = "shd",
) -> SequenceTask:
    """Spoken digits in English and German through a model of the cochlea: 700 channels, 20 words.

    Cramer, Stradmann, Schemmel, Zenke, IEEE TNNLS 33, 2744 (2022). The user's own shd_train.h5 and shd_test.h5, as the
    authors publish them, unpacked; reading them takes h5py (the extra hwtrain[hdf5]).

    Args:
        batch: recordings presented at once.
        steps: into which the time is divided.
        seconds: time that is heard; what comes later is left out.
        when: is the label the target at every "step", or only at the "end"?
        data_dir: a folder that has the files, or has them in `shd/`.
        name: what messages and records call it.
    """
    whole("task.steps", steps)
    number("task.seconds", seconds, low=0, above=True)
    one_of("task.when", when, WHEN)
    place = folder.find("shd", SHD, (), data_dir)
    accounts: list[dict[str, Any]] = []
    train, test = (_heidelberg(place / file, steps, seconds, when, accounts) for file in SHD)
    provenance = {
        "source": "Cramer et al., Spiking Heidelberg Digits (2022), the user's files",
        "licence": "not stated",
        "folder": str(place),
        "files": accounts,
    }
    return SequenceTask(name, train, test, batch, provenance)


def _heidelberg(path: Path, steps: int, seconds: float, when: str, accounts: list[dict[str, Any]]) -> Sequences:
    content = folder.read(path)
    try:
        h5py: Any = importlib.import_module("h5py")
    except ImportError as error:
        raise DataError(f"{path} is an HDF5 file; reading it takes h5py: pip install 'hwtrain[hdf5]'") from error
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            labels = np.asarray(file["labels"], dtype=np.intp)
            times = [np.asarray(own, dtype=np.float64) for own in file["spikes"]["times"]]
            units = [np.asarray(own, dtype=np.intp) for own in file["spikes"]["units"]]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path} has no labels, spikes/times and spikes/units: {error}. Replace it.") from error
    if not len(labels) == len(times) == len(units) or not len(labels):
        raise DataError(f"{path} has {len(labels)} labels for {len(times)} recordings. Replace it.")
    step, unit = (np.concatenate(times) * (steps / seconds)).astype(np.intp), np.concatenate(units)
    if labels.max() >= WORDS or labels.min() < 0 or len(step) != len(unit) or unit.max(initial=0) >= CHANNELS:
        raise DataError(
            f"{path}: labels from 0 to {WORDS - 1} and units from 0 to {CHANNELS - 1} are needed. Replace it."
        )
    account = folder.account(content, path, "", verify=False)
    accounts.append({**account, "events_left_out": int((step >= steps).sum())})
    source = Events(step, unit, np.array([len(own) for own in times]), steps, CHANNELS)
    return Sequences(source, one_hot(labels, WORDS), when)
