"""MNIST and Fashion-MNIST: 28x28 grey images of ten classes, in the four files of their authors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwtrain.checks import flag
from hwtrain.errors import DataError
from hwtrain.tasks import folder, idx
from hwtrain.tasks.dataset import DataTask, one_hot
from hwtrain.tasks.fetch import Published

CLASSES = 10
NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def _published(hashes: Sequence[str], *addresses: str) -> tuple[Published, ...]:
    return tuple(
        Published(name, sha256, tuple(address + name for address in addresses))
        for name, sha256 in zip(NAMES, hashes, strict=True)
    )


MNIST = _published(
    (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
FASHION_MNIST = _published(
    (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",  # has no https; the sha256 is checked
)


def mnist(batch: int = 32, data_dir: str | None = None, verify: bool = True, name: str = "mnist") -> DataTask:
    """Handwritten digits (LeCun, Cortes and Burges 1998): 60 000 training and 10 000 test images.

    Pixels are fractions of 255; the test set is the official one.

    Args:
        batch: images presented at once.
        data_dir: a folder that has the files, or has them in `mnist/`; nothing is downloaded then.
        verify: are other files than the published ones refused? If not, the record says so.
        name: what messages and records call it.
    """
    origin = {"source": "LeCun, Cortes and Burges, The MNIST database of handwritten digits", "licence": "none stated"}
    return _task(name, "mnist", MNIST, origin, batch, data_dir, verify)


def fashion_mnist(
    batch: int = 32, data_dir: str | None = None, verify: bool = True, name: str = "fashion_mnist"
) -> DataTask:
    """Pieces of clothing (Xiao, Rasul and Vollgraf, arXiv 1708.07747): 60 000 training and 10 000 test images.

    Pixels are fractions of 255; the test set is the official one.

    Args:
        batch: images presented at once.
        data_dir: a folder that has the files, or has them in `fashion_mnist/`; nothing is downloaded then.
        verify: are other files than the published ones refused? If not, the record says so.
        name: what messages and records call it.
    """
    origin = {"source": "Xiao, Rasul and Vollgraf, Fashion-MNIST", "licence": "MIT (c) 2017 Zalando SE"}
    return _task(name, "fashion_mnist", FASHION_MNIST, origin, batch, data_dir, verify)


def _task(
    name: str,
    data_set: str,
    published: Sequence[Published],
    origin: dict[str, Any],
    batch: int,
    data_dir: str | None,
    verify: bool,
) -> DataTask:
    flag("task.verify", verify)
    place = folder.find(data_set, NAMES, published, data_dir)
    accounts, arrays = [], []
    for file in published:
        path = place / file.name
        content = folder.read(path)
        accounts.append(folder.account(content, path, file.sha256, verify))
        arrays.append(idx.unpack(content, path, idx.IMAGES if "images" in file.name else idx.LABELS))
    train, test = (_pair(place, arrays[at], arrays[at + 1], NAMES[at], NAMES[at + 1]) for at in (0, 2))
    provenance = {**origin, "folder": str(place), "verify": verify, "files": accounts}
    return DataTask(name, *train, *test, batch, provenance)


def _pair(
    place: Path, images: NDArray[np.uint8], labels: NDArray[np.uint8], images_name: str, labels_name: str
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    if len(images) != len(labels) or not images.size:
        raise DataError(
            f"{place / images_name} holds {len(images)} images, {labels_name} {len(labels)} labels; "
            "there must be as many, and some. Replace both by the published files."
        )
    if labels.max() >= CLASSES:
        raise DataError(
            f"{place / labels_name}: label {labels.max()} at position {labels.argmax()}; "
            f"0 to {CLASSES - 1} are allowed. Replace it by the published file."
        )
    return images.reshape(len(images), -1), one_hot(labels, CLASSES)
