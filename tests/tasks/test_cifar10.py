import hashlib
import io
import tarfile

import numpy as np
import pytest

from hwtrain.errors import ConfigError, DataError
from hwtrain.tasks import cifar10 as module
from hwtrain.tasks.cifar10 import ARCHIVE, INSIDE, TEST, TRAIN, cifar10

ALL = 2**31
BATCHES = (*TRAIN, *TEST)


@pytest.fixture
def batches(cifar_bytes):
    """Six small batches of 12 records, and what is in them."""
    random = np.random.default_rng(2)
    arrays = {name: (random.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8), np.arange(12) % 10) for name in BATCHES}
    return {name: cifar_bytes(*pair) for name, pair in arrays.items()}, arrays


@pytest.fixture
def as_if_published(monkeypatch, batches):
    """The small batches as the published ones, so that `verify` can be true."""
    for names in (module.TRAIN, module.TEST):
        for name in names:
            monkeypatch.setitem(names, name, hashlib.sha256(batches[0][name]).hexdigest())


def put(folder, contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return str(folder)


def archive(members):
    """A .tar.gz with these (name, content)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def published_members(contents):
    return [
        (f"{INSIDE}/batches.meta.txt", b"airplane\n"),
        *((f"{INSIDE}/{name}", content) for name, content in contents.items()),
        (f"{INSIDE}/readme.html", b"<html>"),
    ]


@pytest.mark.parametrize("layout", ["cifar10", f"cifar10/{INSIDE}", INSIDE, "."])
@pytest.mark.usefixtures("as_if_published")
def test_batches_come_back_as_they_were_written(tmp_path, batches, layout):
    contents, arrays = batches
    put(tmp_path / layout, contents)
    task = cifar10(batch=4, data_dir=str(tmp_path))
    assert (task.inputs, task.outputs) == (3072, 10)
    images = np.concatenate([arrays[name][0] for name in TRAIN])
    np.testing.assert_array_equal(task.seen(ALL).x[0].reshape(-1, 32, 32, 3), images / 255)
    np.testing.assert_array_equal(task.held_out(ALL).x[0].reshape(-1, 32, 32, 3), arrays["test_batch.bin"][0] / 255)
    np.testing.assert_array_equal(task.seen(ALL).target[0].argmax(axis=1), np.tile(np.arange(12) % 10, 5))
    assert task.provenance["folder"] == str(tmp_path / layout)
    assert [file["name"] for file in task.provenance["files"]] == list(BATCHES)
    assert all(file["as_published"] for file in task.provenance["files"])


@pytest.mark.usefixtures("as_if_published")
def test_the_archive_is_read_without_unpacking(tmp_path, batches):
    contents, _ = batches
    put(tmp_path / "loose", contents)
    hostile = [("../data_batch_1.bin", b"evil"), ("/tmp/data_batch_1.bin", b"evil"), ("data_batch_1.bin", b"evil")]
    put(tmp_path / "packed", {ARCHIVE.name: archive([*hostile, *published_members(contents)])})
    loose, packed = cifar10(data_dir=str(tmp_path / "loose")), cifar10(data_dir=str(tmp_path / "packed"))
    assert packed.seen(ALL) == loose.seen(ALL)
    assert packed.held_out(ALL) == loose.held_out(ALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loose", "packed"]
    assert [path.name for path in (tmp_path / "packed").iterdir()] == [ARCHIVE.name]


@pytest.mark.usefixtures("as_if_published")
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_a_truncated_archive(tmp_path, batches, part, verify):
    content = archive(published_members(batches[0]))
    put(tmp_path, {ARCHIVE.name: content[: int(part * len(content))]})
    with pytest.raises(DataError, match=ARCHIVE.name):
        cifar10(data_dir=str(tmp_path), verify=verify)


@pytest.mark.parametrize(
    "content", [b"", b"<html>moved</html>", archive([("readme", b"")])], ids=["empty", "page", "other"]
)
def test_an_archive_that_is_something_else(tmp_path, content):
    put(tmp_path, {ARCHIVE.name: content})
    with pytest.raises(DataError, match=ARCHIVE.name):
        cifar10(data_dir=str(tmp_path), verify=False)


@pytest.mark.parametrize("name", BATCHES)
def test_another_batch_than_the_published_is_refused_unless_told(tmp_path, batches, name, as_if_published):
    contents = dict(batches[0])
    contents[name] = contents[name][:3073] * 2
    folder = put(tmp_path, contents)
    with pytest.raises(DataError) as caught:
        cifar10(batch=1, data_dir=folder)
    found = hashlib.sha256(contents[name]).hexdigest()
    for part in (name, found, hashlib.sha256(batches[0][name]).hexdigest(), "task.verify=false"):
        assert part in str(caught.value)
    provenance = cifar10(batch=1, data_dir=folder, verify=False).provenance
    assert [file["name"] for file in provenance["files"] if not file["as_published"]] == [name]
    assert provenance["verify"] is False


@pytest.mark.usefixtures("as_if_published")
def test_fewer_training_batches_only_when_told(tmp_path, batches):
    contents = {name: batches[0][name] for name in ("data_batch_3.bin", "test_batch.bin")}
    folder = put(tmp_path, contents)
    with pytest.raises(DataError, match=r"data_batch_1\.bin, .*data_batch_5\.bin missing .*task\.verify=false"):
        cifar10(data_dir=folder, batch=1)
    task = cifar10(data_dir=folder, batch=1, verify=False)
    assert task.provenance["train_samples"] == 12
    assert [file["name"] for file in task.provenance["files"]] == ["data_batch_3.bin", "test_batch.bin"]


@pytest.mark.parametrize("kept", [["test_batch.bin"], list(TRAIN)])
def test_training_or_test_data_missing(tmp_path, batches, kept):
    folder = put(tmp_path, {name: batches[0][name] for name in kept})
    with pytest.raises(DataError, match=r"(data_batch_1|test_batch)\.bin missing from"):
        cifar10(data_dir=folder, verify=False)


@pytest.mark.parametrize("size", [0, 1, 3072, 3074])
def test_a_batch_of_odd_size(tmp_path, batches, size):
    folder = put(tmp_path, {**batches[0], "data_batch_2.bin": bytes(size)})
    with pytest.raises(DataError, match=rf"data_batch_2\.bin has {size} bytes, .* 3073-byte records"):
        cifar10(data_dir=folder, verify=False)


def test_a_label_that_is_no_class(tmp_path, batches):
    content = bytearray(batches[0]["data_batch_2.bin"])
    content[5 * 3073] = 10
    folder = put(tmp_path, {**batches[0], "data_batch_2.bin": bytes(content)})
    with pytest.raises(DataError, match=r"data_batch_2\.bin: label 10 in record 5"):
        cifar10(data_dir=folder, verify=False)


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match=ARCHIVE.name):
        cifar10(data_dir=str(tmp_path))


def test_a_batch_larger_than_the_data(tmp_path, batches):
    with pytest.raises(ConfigError, match=r"task\.batch .* from 1 to 60"):
        cifar10(batch=61, data_dir=put(tmp_path, batches[0]), verify=False)


def test_the_real_images(cifar10_batches):
    folder, originals = cifar10_batches
    task = cifar10(data_dir=str(folder), verify=False)
    assert (task.provenance["train_samples"], task.provenance["test_samples"]) == (10000, 10000)
    for samples, batch in ((task.seen(500), "data_batch_1.bin"), (task.held_out(500), "test_batch.bin")):
        images, labels = originals[batch]
        np.testing.assert_array_equal(samples.x[0].reshape(-1, 32, 32, 3), images[:500] / 255)
        np.testing.assert_array_equal(samples.target[0].argmax(axis=1), labels[:500])
        np.testing.assert_array_equal(np.bincount(labels), 1000)
    images = task.seen(ALL).x[0].reshape(-1, 3)
    np.testing.assert_allclose(images.mean(axis=0), [0.49140, 0.48216, 0.44653], atol=0.01)
    with pytest.raises(DataError, match="data_batch_2"):
        cifar10(data_dir=str(folder))
