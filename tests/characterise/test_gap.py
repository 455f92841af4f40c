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


class TestPulsed:
    """Of devices that take pulses, what trains of them do is compared."""

    WORDS = ("task=xor", "device=cells", "device.programming=null", "characterise.measurements=1500")

    @pytest.fixture
    def pulsed(self, characterise, tmp_path):
        def make(name="run", cell="ecram", pulses=3000):
            words = [f"device/cell={cell}", f"characterise.pulses={pulses}", f"hydra.run.dir={name}"]
            answer = characterise(*self.WORDS, *words)
            assert answer.code == 0, answer.err
            return tmp_path / name

        return make

    def test_a_device_and_its_fitted_cell(self, pulsed, compare):
        folder = pulsed()
        said = compare(folder)
        assert said.code == 0, said.err
        assert said.out.count(" of levels under pulses ") == 4
        shares = [float(part.split("(")[1].split(" %")[0]) for part in said.out.splitlines() if "Mean" in part]
        assert max(shares) < 10
        assert (folder / "gap.html").read_text().count("<svg") == 4

    def test_a_run_and_itself_and_another(self, pulsed, compare, tmp_path):
        folder = pulsed()
        assert compare(folder, folder).out.count("the twin is 0 (0 %) off") == 4
        cell = tmp_path / "cell/other.yaml"
        cell.parent.mkdir()
        cell.write_text(
            "_target_: hwtrain.sim.pulsed.Pulsed\nlaw: {_target_: hwtrain.sim.laws.ConstantStep}\n"
            "dw_min: 0.0005\nw_max: 1.0\nw_min: -1.0\n"
        )
        said = compare(folder, cell)
        assert said.code == 0, said.err
        assert "further than chips of this kind are from each other" in said.out

    def test_what_a_user_can_mend(self, pulsed, compare, tmp_path):
        folder = pulsed()
        answer = compare(folder, pulsed("other", pulses=1200))
        assert answer.code == 2 and "blocks of" in answer.err
        (tmp_path / "plain.yaml").write_text("defaults: [sim, _self_]\n")
        answer = compare(folder, tmp_path / "plain.yaml")
        assert answer.code == 2 and "takes no pulses" in answer.err
        (tmp_path / "cell").mkdir()
        (tmp_path / "cell/other.yaml").write_text("w_max: 1.0\n")
        answer = compare(folder, tmp_path / "cell/other.yaml")
        assert answer.code == 2 and "describes no cell: it has no _target_" in answer.err
        answer = compare(folder, tmp_path / "cell/missing.yaml")
        assert answer.code == 2 and "missing.yaml cannot be read: No such file" in answer.err
