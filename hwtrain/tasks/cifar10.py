"""CIFAR-10 in its binary version: 32x32 colour images of ten classes."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwtrain.checks import flag
from hwtrain.errors import DataError
from hwtrain.tasks import folder
from hwtrain.tasks.dataset import DataTask, one_hot
from hwtrain.tasks.fetch import Published

ARCHIVE = Published(
    "cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
)
INSIDE = "cifar-10-batches-bin"  # the folder in the archive
TRAIN = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
}
TEST = {"test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"}
CLASSES = 10
PLANES = (3, 32, 32)  # red, green, blue; then rows and columns
RECORD = 1 + 3 * 32 * 32  # bytes: label, then the planes


def cifar10(batch: int = 32, data_dir: str | None = None, verify: bool = True, name: str = "cifar10") -> DataTask:
    """Small photographs (Krizhevsky 2009): 50 000 training and 10 000 test images.

    Features are ordered height, width, channel, as fractions of 255; the test set is the official one. Read from the
    archive as published (without unpacking it) or from its unpacked batches.

    Args:
        batch: images presented at once.
        data_dir: a folder that has the archive or the batches, or has them in `cifar10/`; nothing is downloaded then.
        verify: are other files than the published ones refused? If not, any of the training batches may be missing too,
            and the record says what was used.
        name: what messages and records call it.
    """
    flag("task.verify", verify)
    place = folder.find("cifar10", (ARCHIVE.name, INSIDE, *TRAIN, *TEST), (ARCHIVE,), data_dir)
    root, batches = _batches(place)
    train_x, train_y, train_accounts = _load(root, batches, TRAIN, verify)
    test_x, test_y, test_accounts = _load(root, batches, TEST, verify)
    provenance = {
        "source": "Krizhevsky, Learning multiple layers of features from tiny images (2009), binary version",
        "licence": "none stated",
        "folder": str(root),
        "verify": verify,
        "files": [*train_accounts, *test_accounts],
    }
    return DataTask(name, train_x, train_y, test_x, test_y, batch, provenance)


def _batches(place: Path) -> tuple[Path, dict[str, bytes]]:
    """Where the batches are, a folder or an archive, and their contents by name."""
    for root in (place, place / INSIDE):
        if present := [name for name in (*TRAIN, *TEST) if (root / name).exists()]:
            return root, {name: folder.read(root / name) for name in present}
    return place / ARCHIVE.name, _unpacked(place / ARCHIVE.name)


def _unpacked(path: Path) -> dict[str, bytes]:
    """The batches in an archive, in memory: nothing is written, whatever the names in it."""
    wanted = {f"{INSIDE}/{name}": name for name in (*TRAIN, *TEST)}
    found = {}
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                if member.isfile() and member.name in wanted:
                    content = archive.extractfile(member)
                    assert content is not None  # for a regular file it is not
                    found[wanted[member.name]] = content.read()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing. Put it there, or set task.data_dir to a folder that has it.") from error
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} is no complete archive: {error}. Replace it by the published file, or delete it to have it "
            "downloaded again."
        ) from error
    return found


def _load(
    root: Path, batches: Mapping[str, bytes], names: Mapping[str, str], verify: bool
) -> tuple[NDArray[np.uint8], NDArray[np.float64], list[dict[str, Any]]]:
    """Pixels (N, 3072), targets (N, 10) and accounts of the named batches."""
    present = [name for name in names if name in batches]
    needed = list(names) if verify else list(names)[:1]
    if len(present) < len(needed):
        missing = ", ".join(name for name in needed if name not in batches)
        lenient = " Set task.verify=false to train on fewer batches." if verify and present else ""
        raise DataError(f"{missing} missing from {root}. Put the published files there.{lenient}")
    accounts = [folder.account(batches[name], root / name, names[name], verify) for name in present]
    parts = [_records(batches[name], root / name) for name in present]
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts]), accounts


def _records(content: bytes, path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    if not content or len(content) % RECORD:
        raise DataError(
            f"{path} has {len(content)} bytes, which is not a whole number of {RECORD}-byte records. "
            "Replace it by the published file."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    labels = records[:, 0]
    if labels.max() >= CLASSES:
        raise DataError(
            f"{path}: label {labels.max()} in record {labels.argmax()}; 0 to {CLASSES - 1} are allowed. "
            "Replace it by the published file."
        )
    pixels = records[:, 1:].reshape(-1, *PLANES).transpose(0, 2, 3, 1).reshape(len(records), -1)
    return pixels, one_hot(labels, CLASSES)
