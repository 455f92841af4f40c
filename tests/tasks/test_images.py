"""MNIST and Fashion-MNIST, small fakes in the published format and the published files themselves."""

import gzip
import hashlib

import numpy as np
import pytest

from hwtrain.errors import ConfigError, DataError
from hwtrain.tasks import images
from hwtrain.tasks.fetch import Published
from hwtrain.tasks.images import NAMES, fashion_mnist, mnist

ALL = 2**31
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = NAMES


def test_the_files_come_back_as_they_were_written(small_mnist):
    folder, arrays = small_mnist
    task = mnist(batch=4, data_dir=str(folder), verify=False)
    assert (task.name, task.inputs, task.outputs) == ("mnist", 784, 10)
    for samples, part in ((task.seen(ALL), "train"), (task.held_out(ALL), "t10k")):
        np.testing.assert_array_equal(samples.x[0], arrays[f"{part}-images-idx3-ubyte.gz"].reshape(-1, 784) / 255)
        np.testing.assert_array_equal(samples.target[0], np.eye(10)[arrays[f"{part}-labels-idx1-ubyte.gz"]])


def test_provenance_names_every_file(small_mnist):
    folder, _ = small_mnist
    provenance = mnist(data_dir=str(folder), verify=False).provenance
    assert provenance["folder"] == str(folder / "mnist")
    assert provenance["verify"] is False
    assert (provenance["train_samples"], provenance["test_samples"]) == (50, 20)
    assert [file["name"] for file in provenance["files"]] == list(NAMES)
    for file in provenance["files"]:
        content = (folder / "mnist" / file["name"]).read_bytes()
        assert file == {
            "name": file["name"],
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "as_published": False,
        }


def test_other_files_than_the_published_are_refused_unless_told(small_mnist):
    folder, _ = small_mnist
    found = hashlib.sha256((folder / "mnist" / TRAIN_IMAGES).read_bytes()).hexdigest()
    with pytest.raises(DataError) as caught:
        mnist(data_dir=str(folder))
    for part in (TRAIN_IMAGES, images.MNIST[0].sha256, found, "task.verify=false"):
        assert part in str(caught.value)


def test_the_folder_itself_may_hold_the_files(small_mnist):
    folder, _ = small_mnist
    inside, outside = mnist(data_dir=str(folder), verify=False), mnist(data_dir=str(folder / "mnist"), verify=False)
    assert inside.seen(ALL) == outside.seen(ALL)


def test_the_environment_names_the_folder(small_mnist, monkeypatch, tmp_path):
    folder, _ = small_mnist
    monkeypatch.setenv("HWTRAIN_DATA", str(folder))
    assert mnist(verify=False).provenance["folder"] == str(folder / "mnist")
    with pytest.raises(DataError, match=r"task\.data_dir points"):
        mnist(data_dir=str(tmp_path / "elsewhere"), verify=False)


def test_a_named_folder_without_the_files_is_not_filled(tmp_path, monkeypatch, server):
    monkeypatch.setattr(images, "MNIST", tuple(Published(name, "0", (server.url + name,)) for name in NAMES))
    for place in ("setting", "environment"):
        folder = tmp_path / place
        folder.mkdir()
        if place == "environment":
            monkeypatch.setenv("HWTRAIN_DATA", str(folder))
        with pytest.raises(DataError) as caught:
            mnist(data_dir=str(folder) if place == "setting" else None)
        for part in ("'mnist'", str(folder / "mnist"), f"nor in {folder}", TRAIN_IMAGES, "cache"):
            assert part in str(caught.value)
        assert list(folder.iterdir()) == []
    assert server.asked == []


@pytest.mark.parametrize("name", NAMES)
def test_one_file_missing(small_mnist, name):
    folder, _ = small_mnist
    (folder / "mnist" / name).unlink()
    with pytest.raises(DataError, match=rf"mnist/{name} is missing\. .*task\.data_dir"):
        mnist(data_dir=str(folder), verify=False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda content: content[: len(content) // 2], "no complete gzip file"),
        (lambda content: content[:-5], "no complete gzip file"),
        (lambda content: b"", "begins with 0 instead"),
        (lambda content: b"<html>moved</html>", "no complete gzip file"),
        (lambda content: content[:10] + b"\xff\xff\xff" + content[13:], "no complete gzip file"),
        (lambda content: gzip.compress(gzip.decompress(content)[:-1]), "announces .* and holds"),
        (lambda content: gzip.compress(gzip.decompress(content) + b"\0"), "announces .* and holds"),
        (lambda content: gzip.compress(gzip.decompress(content)[:6]), "instead of the magic number .* or ends there"),
        (lambda content: gzip.compress(b"\0\0\x0d" + gzip.decompress(content)[3:]), "instead of the magic number"),
    ],
    ids=["half", "tail", "empty", "html", "corrupt", "short", "long", "header", "type"],
)
def test_damaged_files(small_mnist, name, damage, says):
    folder, _ = small_mnist
    path = folder / "mnist" / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=says) as caught:
        mnist(data_dir=str(folder), verify=False)
    assert str(path) in str(caught.value)


def test_images_and_labels_exchanged(small_mnist):
    folder, _ = small_mnist
    (folder / "mnist" / TRAIN_LABELS).replace(folder / "mnist" / TRAIN_IMAGES)
    with pytest.raises(DataError, match="begins with 2049 instead of the magic number 2051"):
        mnist(data_dir=str(folder), verify=False)


def test_counts_that_differ(small_mnist, idx_bytes):
    folder, arrays = small_mnist
    (folder / "mnist" / TEST_LABELS).write_bytes(idx_bytes(arrays[TEST_LABELS][:19]))
    with pytest.raises(DataError, match=rf"{TEST_IMAGES} holds 20 images, {TEST_LABELS} 19 labels"):
        mnist(data_dir=str(folder), verify=False)


def test_no_images_at_all(small_mnist, idx_bytes):
    folder, arrays = small_mnist
    for name in (TEST_IMAGES, TEST_LABELS):
        (folder / "mnist" / name).write_bytes(idx_bytes(arrays[name][:0]))
    with pytest.raises(DataError, match="holds 0 images"):
        mnist(data_dir=str(folder), verify=False)


def test_a_label_that_is_no_class(small_mnist, idx_bytes):
    folder, arrays = small_mnist
    labels = arrays[TRAIN_LABELS].copy()
    labels[7] = 10
    (folder / "mnist" / TRAIN_LABELS).write_bytes(idx_bytes(labels))
    with pytest.raises(DataError, match=rf"{TRAIN_LABELS}: label 10 at position 7; 0 to 9"):
        mnist(data_dir=str(folder), verify=False)


def test_test_images_of_another_size(small_mnist, idx_bytes):
    folder, arrays = small_mnist
    (folder / "mnist" / TEST_IMAGES).write_bytes(idx_bytes(arrays[TEST_IMAGES][:, :14]))
    with pytest.raises(DataError, match=r"\(50, 784\).*\(20, 392\)"):
        mnist(data_dir=str(folder), verify=False)


@pytest.mark.parametrize("setting", [{"batch": 51}, {"verify": "no"}, {"data_dir": 3}, {"data_dir": ""}])
def test_settings_that_do_not_fit(small_mnist, setting):
    folder, _ = small_mnist
    with pytest.raises(ConfigError, match=rf"task\.{next(iter(setting))} must be"):
        mnist(**{"data_dir": str(folder), "verify": False, **setting})


@pytest.mark.parametrize("make", [mnist, fashion_mnist])
def test_the_published_files(public_data, make):
    folder = public_data(make.__name__)
    task = make(data_dir=str(folder))
    assert all(file["as_published"] for file in task.provenance["files"])
    assert (task.provenance["train_samples"], task.provenance["test_samples"]) == (60000, 10000)
    labels = task.seen(ALL).target[0].sum(axis=0)
    if make is mnist:
        np.testing.assert_array_equal(labels, [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
    else:
        np.testing.assert_array_equal(labels, 6000)
    sample = task.sample(np.array([1, 2], np.uint32), 1874)
    assert sample.x.shape == (2, 1, 32, 784)
    assert sample.x.max() == 1


def test_fashion_mnist_is_not_taken_for_mnist(public_data):
    """The files of both have the same names; their content tells them apart."""
    folder = public_data("fashion_mnist")
    with pytest.raises(DataError, match="is not the published file"):
        mnist(data_dir=str(folder / "fashion_mnist"))
