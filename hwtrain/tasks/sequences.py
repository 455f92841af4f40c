"""Sequences of different length as a stream of samples: those that end early are filled with steps that do not count.

All samples of a task are as long as its longest training sequence. Where a sequence has ended, inputs are 0 and targets
NaN, which counts in no cost; the same where only the last step has a target.
"""

from __future__ import annotations

import io
import lzma
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hwtrain import draws
from hwtrain.checks import flag, whole
from hwtrain.core import Array, Sample
from hwtrain.errors import DataError
from hwtrain.tasks import folder

WHEN = ("step", "end")


class Source(Protocol):
    """Numbered sequences."""

    @property
    def inputs(self) -> int:
        """Features of one step."""

    @property
    def lengths(self) -> NDArray[np.intp]:
        """Steps of each, (S,)."""

    def __call__(self, at: NDArray[np.intp], steps: int) -> Array:
        """The first `steps` steps of sequences `at` (s,), (s, steps, n); anything after their end."""


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Sequences whose steps stand one after another.

    Args:
        values: all steps, (N, n).
        begin: where each sequence begins, (S,).
        lengths: how long each is, (S,).
    """

    values: Array
    begin: NDArray[np.intp]
    lengths: NDArray[np.intp]

    @property
    def inputs(self) -> int:
        """Features of one step."""
        return int(self.values.shape[1])

    def __call__(self, at: NDArray[np.intp], steps: int) -> Array:
        """See `Source`."""
        rows = np.minimum(self.begin[at, None] + np.arange(steps), len(self.values) - 1)
        found: Array = self.values[rows]
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Events:
    """Sequences of spikes: 1 where a unit has any in a step, else 0.

    Args:
        step: of every event, (E,).
        unit: of every event, (E,).
        counts: events of each sequence, which stand one after another, (S,).
        steps: of all sequences.
        inputs: number of units.
    """

    step: NDArray[Any]
    unit: NDArray[Any]
    counts: NDArray[Any]
    steps: int
    inputs: int

    @property
    def lengths(self) -> NDArray[np.intp]:
        """All are equally long."""
        return np.full(len(self.counts), self.steps)

    def __call__(self, at: NDArray[np.intp], steps: int) -> Array:
        """See `Source`."""
        ends = np.cumsum(self.counts, dtype=np.intp)
        frames = np.zeros((len(at), steps, self.inputs))
        for row, number in enumerate(at):
            own = slice(ends[number] - self.counts[number], ends[number])
            step, unit = self.step[own], self.unit[own]
            frames[row, step[step < steps], unit[step < steps]] = 1
        return frames


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """Sequences and what is wanted of them.

    Args:
        source: the sequences.
        targets: one for each, (S, m); None: at every step the next one is wanted.
        when: is a target wanted at every "step", or only at the "end"?
    """

    source: Source
    targets: Array | None = None
    when: str = "step"

    @property
    def lengths(self) -> NDArray[np.intp]:
        """Steps presented of each, (S,)."""
        return self.source.lengths - (self.targets is None)

    @property
    def outputs(self) -> int:
        """Features of a target."""
        return self.source.inputs if self.targets is None else int(self.targets.shape[1])

    def present(self, at: NDArray[np.intp], steps: int) -> Sample:
        """Sequences `at` (..., b) as x (..., steps, b, n) and target (..., steps, b, m); a number below 0 is an empty
        sequence.
        """
        flat = at.reshape(-1)
        length = np.where(flat < 0, 0, self.lengths[flat])[:, None]
        now = np.arange(steps) < length
        frames = self.source(np.maximum(flat, 0), steps + (self.targets is None))
        if self.targets is None:
            target = frames[:, 1:]
        else:
            target = np.broadcast_to(self.targets[flat, None], (len(flat), steps, self.outputs))
        counts = now if self.when == "step" else now & (np.arange(steps) == length - 1)
        return Sample(
            self._axes(at, np.where(now[..., None], frames[:, :steps], 0.0)),
            self._axes(at, np.where(counts[..., None], target, np.nan)),
        )

    @staticmethod
    def _axes(at: NDArray[np.intp], values: Array) -> Array:
        """(... * b, t, n) as (..., t, b, n)."""
        split = values.reshape(*at.shape, *values.shape[1:])
        return np.ascontiguousarray(np.moveaxis(split, -3, -2), dtype=np.float64)


class SequenceTask:
    """A training set of sequences that every replica goes through in an order of its own, and a test set.

    Each epoch is a new permutation, cut into batches; the last batch is filled up with empty sequences.

    Args:
        name: what messages call it.
        train: training sequences.
        test: test sequences.
        batch: sequences presented at once, b.
        provenance: where the data came from, as JSON types; the numbers of sequences and steps are added.
    """

    def __init__(self, name: str, train: Sequences, test: Sequences, batch: int, provenance: Mapping[str, Any]) -> None:
        whole("task.batch", batch, 1, len(train.lengths), f"the number of training sequences of {name!r}")
        self.name, self.batch = name, batch
        self.inputs, self.outputs = train.source.inputs, train.outputs
        counts = {
            f"{kind}_{what}": int(count)
            for kind, part in (("train", train), ("test", test))
            for what, count in (("sequences", len(part.lengths)), ("steps", part.lengths.sum()))
        }
        self.provenance = {**provenance, **counts}
        self._train, self._test = train, test
        self._steps = int(train.lengths.max())

    def sample(self, seed: NDArray[np.uint32], index: int) -> Sample:
        """Batch `index` of every seed's own order, x (..., t, b, n) and target (..., t, b, m) for seeds (...,)."""
        size = len(self._train.lengths)
        epoch, number = divmod(index, -(-size // self.batch))
        order = draws.order(_order_seed(seed.tobytes(), seed.shape), epoch, size)
        at = order[..., number * self.batch : (number + 1) * self.batch]
        empty = [(0, 0)] * (at.ndim - 1) + [(0, self.batch - at.shape[-1])]
        return self._train.present(np.pad(at, empty, constant_values=-1), self._steps)

    def held_out(self, limit: int) -> Sample:
        """The first `limit` test sequences, x (t, b, n), target (t, b, m)."""
        return _first(self._test, limit)

    def seen(self, limit: int) -> Sample:
        """The first `limit` training sequences, x (t, b, n), target (t, b, m)."""
        return _first(self._train, limit)


class ValidatedSequenceTask(SequenceTask):
    """One with a validation set beside."""

    def __init__(
        self,
        name: str,
        train: Sequences,
        valid: Sequences,
        test: Sequences,
        batch: int,
        provenance: Mapping[str, Any],
    ) -> None:
        super().__init__(name, train, test, batch, provenance)
        self._valid = valid

    def validation(self, limit: int) -> Sample:
        """The first `limit` validation sequences, x (t, b, n), target (t, b, m)."""
        return _first(self._valid, limit)


def archive(
    data_set: str, name: str, sha256: str, data_dir: str | None, verify: bool
) -> tuple[dict[str, Array], dict[str, Any]]:
    """The arrays of one of the project's .npz files, and what the record says of it.

    Args:
        data_set: the folder it is looked for in.
        name: of the file.
        sha256: of its content.
        data_dir: the setting task.data_dir.
        verify: is another content refused?

    Raises:
        DataError: it is missing, damaged, or another file.
    """
    flag("task.verify", verify)
    path = folder.find(data_set, (name,), (), data_dir) / name
    content = folder.read(path)
    account = folder.account(content, path, sha256, verify)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = Arrays(path, {key: arrays[key] for key in arrays.files})
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, lzma.LZMAError) as error:
        raise DataError(f"{path} is no complete .npz file: {error}. Replace it by the project's own.") from error
    return found, {"folder": str(path.parent), "verify": verify, "files": [account]}


class Arrays(dict[str, Array]):
    """Arrays of a file by name."""

    def __init__(self, path: Path, arrays: Mapping[str, Array]) -> None:
        super().__init__(arrays)
        self.path = path

    def __missing__(self, name: str) -> Array:
        raise DataError(f"{self.path} has no array {name!r}. Replace it by the project's own file.")


def frames(values: Array, lengths: NDArray[Any], what: str) -> Frames:
    """Sequences that stand one after another.

    Raises:
        DataError: the lengths do not add up.
    """
    ends = np.cumsum(lengths, dtype=np.intp)
    if not len(lengths) or lengths.min() < 1 or ends[-1] != len(values):
        raise DataError(
            f"{what}: {len(lengths)} sequences have {int(lengths.sum())} steps in all, and there are {len(values)}. "
            "Replace the file by the project's own."
        )
    return Frames(values, ends - lengths, lengths.astype(np.intp))


def _first(sequences: Sequences, limit: int) -> Sample:
    at = np.arange(min(limit, len(sequences.lengths)))
    return sequences.present(at, int(sequences.lengths[at].max()))


@lru_cache(maxsize=8)
def _order_seed(seeds: bytes, shape: tuple[int, ...]) -> NDArray[np.uint32]:
    return draws.derive(np.frombuffer(seeds, np.uint32).reshape(shape), "order of samples")
