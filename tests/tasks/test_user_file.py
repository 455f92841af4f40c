import hashlib

import numpy as np
import pytest

from hwtrain.errors import ConfigError, DataError
from hwtrain.tasks.user_file import user_file

ALL = 2**31
X = np.arange(40.0).reshape(10, 4)
LABELS = np.arange(10) % 3


@pytest.fixture
def npz(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "mine.npz", **arrays)
        return str(tmp_path / "mine.npz")

    return write


@pytest.fixture
def csv(tmp_path):
    def write(text, name="mine.csv"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(tmp_path / name)

    return write


def rows(count, label=lambda row: row % 2):
    return "".join(f"{row}.5,{row * row},{label(row)}\n" for row in range(count))


class TestNpz:
    def test_labels_become_one_output_per_class(self, npz):
        task = user_file(npz(train_x=X, train_y=LABELS, test_x=X[:2], test_y=LABELS[:2]))
        assert (task.name, task.inputs, task.outputs) == ("file", 4, 3)
        np.testing.assert_array_equal(task.seen(ALL).x[0], X)
        np.testing.assert_array_equal(task.seen(ALL).target[0], np.eye(3)[LABELS])
        np.testing.assert_array_equal(task.held_out(ALL).target[0], np.eye(3)[:2])
        assert task.provenance["classes"] == 3

    @pytest.mark.parametrize(
        ("y", "target"),
        [
            (LABELS[:, None].astype(np.uint8), np.eye(3)[LABELS]),
            (LABELS > 1, np.eye(2)[(LABELS > 1) * 1]),
            (LABELS / 2, LABELS[:, None] / 2),
            (X[:, :2].astype(np.float32), X[:, :2]),
            (np.eye(3, dtype=int)[LABELS], np.eye(3)[LABELS]),
        ],
        ids=["column of labels", "booleans", "one target", "targets", "integer targets"],
    )
    def test_targets(self, npz, y, target):
        task = user_file(npz(train_x=X, train_y=y), test_fraction=0)
        np.testing.assert_array_equal(task.seen(ALL).target[0], target)
        assert task.seen(ALL).target.dtype == np.float64

    @pytest.mark.parametrize("shape", [(10, 2, 2), (10, 1, 2, 2)])
    def test_images_are_flattened_and_not_scaled(self, npz, shape):
        task = user_file(npz(train_x=X.astype(np.uint8).reshape(shape), train_y=LABELS), test_fraction=0)
        np.testing.assert_array_equal(task.seen(ALL).x[0], X)

    def test_a_file_as_record(self, npz, tmp_path):
        path = npz(train_x=X, train_y=LABELS, test_x=X, test_y=LABELS)
        content = (tmp_path / "mine.npz").read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        assert user_file(path).provenance == {
            "source": "the user's file",
            "licence": "not stated",
            "folder": str(tmp_path),
            "files": [{"name": "mine.npz", "bytes": len(content), "sha256": sha256}],
            "test": "given",
            "classes": 3,
            "train_samples": 10,
            "test_samples": 10,
        }

    @pytest.mark.parametrize(
        ("arrays", "says"),
        [
            ({"train_x": X}, "no array 'train_y'"),
            ({"x_train": X, "train_y": LABELS}, "no array 'train_x'; there is x_train, train_y"),
            ({"train_x": X, "train_y": LABELS, "test_x": X}, "no array 'test_y'"),
            ({"train_x": X, "train_y": LABELS[:9]}, r"\(10, 4\).*\(9,\)"),
            ({"train_x": X[:, 0], "train_y": LABELS}, r"train_x has the shape \(10,\)"),
            ({"train_x": X, "train_y": np.ones((10, 2, 2))}, r"train_y \(10, 2, 2\)"),
            ({"train_x": X[:0], "train_y": LABELS[:0]}, r"train_x has the shape \(0, 4\)"),
            ({"train_x": X, "train_y": LABELS, "test_x": X[:, :3], "test_y": LABELS}, r"\(10, 4\).*\(10, 3\)"),
            ({"train_x": X, "train_y": X, "test_x": X, "test_y": X[:, :3]}, r"\(10, 4\).*\(10, 3\)"),
            ({"train_x": X, "train_y": X, "test_x": X, "test_y": LABELS}, r"\(10, 4\) .*\(10,\) .*labels in one"),
            ({"train_x": X.astype(str), "train_y": LABELS}, "train_x holds <U"),
            ({"train_x": X * 1j, "train_y": LABELS}, "train_x holds complex128"),
            ({"train_x": X, "train_y": LABELS + 1}, r"labels are 1, 2, 3; they must be 0, 1, 2"),
            ({"train_x": X, "train_y": LABELS - 1}, r"labels are -1, 0, 1;"),
            ({"train_x": X, "train_y": LABELS * 0}, r"labels are 0;"),
            ({"train_x": X, "train_y": np.arange(10) * 100}, r"labels are 0, 100, 200, 300, \.\.\. 900;"),
        ],
    )
    def test_arrays_that_do_not_fit(self, npz, arrays, says):
        with pytest.raises(DataError, match=says) as caught:
            user_file(npz(**arrays))
        assert "mine.npz" in str(caught.value) or "'file'" in str(caught.value)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("name", ["train_x", "train_y", "test_x", "test_y"])
    def test_what_is_not_finite_is_named(self, npz, name, value):
        arrays = {key: X.copy() for key in ("train_x", "train_y", "test_x", "test_y")}
        arrays[name][7, 2] = value
        with pytest.raises(DataError, match=rf"{name} holds {value} in row 7, column 2"):
            user_file(npz(**arrays))

    def test_objects_are_never_unpickled(self, npz):
        with pytest.raises(DataError, match="cannot be read: Object arrays"):
            user_file(npz(train_x=np.array([None, {}], dtype=object), train_y=LABELS[:2]))

    @pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.99])
    def test_a_truncated_file(self, npz, tmp_path, part):
        content = (tmp_path / npz(train_x=X, train_y=LABELS)).read_bytes()
        (tmp_path / "mine.npz").write_bytes(content[: int(part * len(content))])
        with pytest.raises(DataError, match="cannot be read"):
            user_file(str(tmp_path / "mine.npz"))

    def test_a_single_array(self, tmp_path):
        with (tmp_path / "mine.npz").open("wb") as file:
            np.save(file, X)
        with pytest.raises(DataError, match="no array 'train_x'"):
            user_file(str(tmp_path / "mine.npz"))

    @pytest.mark.parametrize("setting", [{"test_path": "other.csv"}, {"target_columns": 2}])
    def test_settings_for_csv_are_refused(self, npz, setting):
        with pytest.raises(ConfigError, match=r"for \.csv files"):
            user_file(npz(train_x=X, train_y=LABELS), **setting)


class TestCsv:
    @pytest.mark.parametrize("header", ["", "\ufeff", "height,width,class\n", "\ufeffheight,width,class\r\n", "\n"])
    def test_labels_in_the_last_column(self, csv, header):
        task = user_file(csv(header + rows(6)), test_fraction=0)
        np.testing.assert_array_equal(task.seen(ALL).x[0], [[row + 0.5, row * row] for row in range(6)])
        np.testing.assert_array_equal(task.seen(ALL).target[0], np.eye(2)[[0, 1] * 3])

    def test_a_target_written_with_a_point_stays(self, csv):
        task = user_file(csv(rows(6, lambda row: f"{row % 2}.0")), test_fraction=0)
        np.testing.assert_array_equal(task.seen(ALL).target[0].ravel(), [0, 1] * 3)
        assert task.provenance["classes"] is None

    def test_several_target_columns(self, csv):
        task = user_file(csv(rows(6)), target_columns=2, test_fraction=0)
        np.testing.assert_array_equal(task.seen(ALL).target[0], [[row * row, row % 2] for row in range(6)])
        assert task.inputs == 1

    def test_blank_lines_and_spaces_do_not_matter(self, csv):
        text = "\n 1.5 , 2, 0 \n\n3,4 ,1\n \n"
        task = user_file(csv(text), test_fraction=0)
        np.testing.assert_array_equal(task.seen(ALL).x[0], [[1.5, 2], [3, 4]])
        assert task.outputs == 2

    def test_a_test_set_of_its_own(self, csv):
        task = user_file(csv(rows(6)), test_path=csv(rows(3, lambda row: row), "test.csv"))
        assert task.outputs == 3, "classes are counted over both sets"
        assert task.held_out(ALL).x.shape == (1, 3, 2)
        assert [file["name"] for file in task.provenance["files"]] == ["mine.csv", "test.csv"]

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "no row of numbers"),
            ("a,b,c\n", "no row of numbers"),
            ("1,2,0\n1,,0\n", "line 2, column 2: '' is not a finite number"),
            ("a,b,c\n1,2,0\n\n1,nan,0\n", "line 4, column b: 'nan'"),
            ("1,2,0\ninf,2,0\n", "line 2, column 1: 'inf'"),
            ("1,2,nan\n", "line 1, column 3: 'nan'"),
            ("1,oops,0\n2,2,1\n", "line 1, column 2: 'oops'"),
            ("1,2,cat\n1,3,dog\n", "line 1, column 3: 'cat'.*write classes as 0, 1, 2"),
            ("1,2,0\n1,2\n", "line 2: 2 columns instead of 3"),
            ("a,b,c\n1,2,3,0\n", "line 2: 4 columns instead of 3"),
            ("1;2;0\n", "no row of numbers"),
            ("1\n2\n", r"has 1 columns; 1 for targets \(task\.target_columns\)"),
            (b"\xff\xfe1,2", "no CSV text"),
            ("1,2,1\n3,4,2\n", r"labels are 1, 2; they must be 0, 1, 2"),
        ],
    )
    def test_what_is_refused(self, csv, text, says):
        with pytest.raises(DataError, match=says) as caught:
            user_file(csv(text), test_fraction=0)
        assert "mine.csv" in str(caught.value)

    def test_test_columns_that_differ(self, csv):
        with pytest.raises(DataError, match=r"\(6, 2\).*\(1, 3\)"):
            user_file(csv(rows(6)), test_path=csv("1,2,3,0\n", "test.csv"))

    def test_labels_here_and_targets_there(self, csv):
        with pytest.raises(DataError, match="labels in one, plain targets in the other"):
            user_file(csv(rows(6)), test_path=csv("1,2,0.0\n", "test.csv"))

    def test_a_test_set_and_a_fraction_contradict(self, csv):
        with pytest.raises(ConfigError, match=r"task\.test_fraction is 0\.5, but there is a test set"):
            user_file(csv(rows(6)), test_path=csv(rows(3), "test.csv"), test_fraction=0.5)


class TestHoldingOut:
    def split(self, csv, **settings):
        task = user_file(csv(rows(100)), **settings)
        return task.seen(ALL).x[0, :, 0], task.held_out(ALL).x[0, :, 0], task

    @pytest.mark.parametrize(("fraction", "count"), [(None, 20), (0.5, 50), (0.01, 1), (0.994, 99)])
    def test_a_share_is_held_out(self, csv, fraction, count):
        seen, held, _ = self.split(csv, test_fraction=fraction)
        assert len(held) == count
        np.testing.assert_array_equal(np.sort(np.concatenate([seen, held])), np.arange(100) + 0.5)
        assert (np.diff(seen) > 0).all()

    def test_the_split_depends_on_its_seed_alone(self, csv):
        _, held, _ = self.split(csv)
        _, again, _ = self.split(csv, batch=7)
        _, other, _ = self.split(csv, split_seed=1)
        np.testing.assert_array_equal(held, again)
        assert set(held) != set(other)

    def test_nothing_held_out_is_said(self, csv):
        seen, held, task = self.split(csv, test_fraction=0)
        np.testing.assert_array_equal(seen, held)
        assert task.provenance["test"] == "the training set"

    @pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, np.nan, "half", True])
    def test_other_fractions(self, csv, fraction):
        with pytest.raises(ConfigError, match=r"task\.test_fraction must be a finite number of at least 0 and below 1"):
            self.split(csv, test_fraction=fraction)

    @pytest.mark.parametrize("fraction", [0.001, 0.999])
    def test_fractions_that_leave_nothing(self, csv, fraction):
        with pytest.raises(ConfigError, match=rf"task\.test_fraction={fraction} of 100 samples holds out (0|100)"):
            self.split(csv, test_fraction=fraction)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"path": "data.txt"}, r"there is no file data\.txt"),
        ({"path": ""}, r"task\.path must be a text"),
        ({"path": None}, r"task\.path must be a text"),
        ({"path": "a.csv", "target_columns": 0}, r"task\.target_columns"),
        ({"path": "a.csv", "split_seed": -1}, r"task\.split_seed"),
    ],
)
def test_settings_that_do_not_fit(settings, says):
    with pytest.raises((ConfigError, DataError), match=says):
        user_file(**settings)


def test_another_kind_of_file(csv):
    with pytest.raises(ConfigError, match=r"must end in \.npz or \.csv, not .*mine\.txt"):
        user_file(csv("1,2,0", "mine.txt"))


def test_a_missing_test_file(csv):
    with pytest.raises(DataError, match=r"there is no file nowhere\.csv"):
        user_file(csv(rows(6)), test_path="nowhere.csv")


def test_a_batch_larger_than_what_is_left(csv):
    with pytest.raises(ConfigError, match=r"task\.batch .* from 1 to 8 "):
        user_file(csv(rows(10)), batch=9)
