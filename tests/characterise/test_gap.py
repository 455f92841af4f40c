"""The gap between a device and its twin is stated and drawn."""

import json

import numpy as np
import pytest

from hwtrain.characterise import gap
from tests.characterise.conftest import SMALL

WORDS = ("task=letters7x7", "device.cost_noise=1e-4", "device.low=-4", "device.high=4")


@pytest.fixture
def run(characterise, tmp_path):
    """A characterised chip whose neurons and parameters differ."""

    def make(name="run", *words):
        answer = characterise(*WORDS, "device.parameter_variation=0.2", *words, *SMALL[:-1], f"hydra.run.dir={name}")
        assert answer.code == 0, answer.err
        return tmp_path / name

    return make


def test_a_device_and_its_fitted_twin(run, compare):
    folder = run()
    said = compare(folder)
    assert said.code == 0, said.err
    assert said.out.count("correlation") == 2
    assert "as chips of this kind are" in said.out
    page = (folder / "gap.html").read_text()
    assert page.count("<svg") == 2
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert [d["what"] for d in data["differences"]] == [
        "Cost without a move",
        "Change of the cost by a move",
        "Outputs after a move",
    ]


def test_a_run_and_itself(run, compare):
    folder = run()
    said = compare(folder, folder)
    assert said.code == 0
    assert said.out.count("the twin is 0 (0 %) off") == 3
    assert said.out.count("correlation 1.00") == 2


def test_a_twin_that_is_not_like_its_device_is_told(run, compare, tmp_path):
    folder = run()
    other = tmp_path / "device.yaml"
    other.write_text("defaults: [sim, _self_]\nlow: -4\nhigh: 4\nactivation_variation: 0.01\n")
    unlike = folder / "device" / "unlike.yaml"
    unlike.write_text("defaults: [twin, _self_]\nparameter_variation: 0.01\n")
    for path in (other, unlike):
        said = compare(folder, path, "--output", tmp_path / "gap.html")
        assert said.code == 0, said.err
        assert "further than chips of this kind are from each other" in said.out
    assert (tmp_path / "gap.html").exists()


def test_differences_are_root_mean_squares():
    random = np.random.default_rng(0)
    one, apart = random.standard_normal((1, 500)), random.standard_normal((6, 500)) / 10
    found = gap._difference("it", one, one + apart)
    assert found.size == pytest.approx(1.0, rel=0.1)
    assert found.apart == pytest.approx(0.1, rel=0.1)
    assert found.twins == pytest.approx(0.1 * np.sqrt(2), rel=0.1)
    assert found.correlation == pytest.approx(1 / np.sqrt(1.01), rel=0.01)


@pytest.mark.parametrize(
    ("twin", "said"),
    [
        ("nothing.yaml", "cannot be read"),
        ("empty.yaml", "has no _target_"),
        ("lost.yaml", "defaults name 'nobody'"),
        ("broken.yaml", "is no YAML"),
        ("list.yaml", "it is a list"),
        ("typo.yaml", "nonsense"),
        ("folder", "not a run folder"),
    ],
)
def test_what_a_user_can_mend(run, compare, tmp_path, twin, said):
    (tmp_path / "empty.yaml").write_text("low: 1\n")
    (tmp_path / "lost.yaml").write_text("defaults: [nobody]\n")
    (tmp_path / "broken.yaml").write_text("a: [1")
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "typo.yaml").write_text("defaults: [cells, _self_]\nnonsense: 1\n")
    (tmp_path / "folder").mkdir()
    answer = compare(run(), tmp_path / twin)
    assert answer.code == 2 and said in answer.err
    assert compare(tmp_path / "folder").code == 2


def test_runs_of_other_budgets_are_not_compared(run, compare, characterise, tmp_path):
    folder = run()
    words = ["characterise.measurements=4000", "characterise.writes=200", "hydra.run.dir=other"]
    assert characterise(*WORDS, *words).code == 0
    answer = compare(folder, tmp_path / "other")
    assert answer.code == 2 and "the same characterise.measurements" in answer.err
