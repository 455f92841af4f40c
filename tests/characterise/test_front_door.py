"""`python -m hwtrain.characterise` as a person meets it."""

import json
import subprocess
import sys

import pytest


def run(folder, module, *words):
    return subprocess.run(
        [sys.executable, "-m", module, *words], cwd=folder, capture_output=True, text=True, timeout=250, check=False
    )


@pytest.mark.slow
def test_finds_what_was_planted_and_its_twin_trains(tmp_path):
    device = ("task=xor", "device.cost_noise=1e-4", "device.low=-4", "device.high=4", "device.parameter_bits=8")
    answer = run(tmp_path, "hwtrain.characterise", *device, "hydra.run.dir=chip")
    assert answer.returncode == 0, answer.stderr
    found = json.loads((tmp_path / "chip" / "characterisation.json").read_text())
    (chip,) = found["devices"]
    noise = chip["baseline_noise"]["estimate"]
    assert noise["low"] <= 1e-4 <= noise["high"]
    assert found["spent"]["measurements"] <= 20_000
    assert found["spent"]["writes"] <= 1000
    assert (tmp_path / "chip" / "report.html").exists()
    twin = run(
        tmp_path, "hwtrain", "--config-dir", "chip", "task=xor", "device=twin", "experiment=twin", "budget.steps=200"
    )
    assert twin.returncode == 0, twin.stderr


def test_a_typo_is_answered(tmp_path):
    answer = run(tmp_path, "hwtrain.characterise", "task=xor", "characterise.measurments=5")
    assert answer.returncode == 2
    assert "measurements" in answer.stderr
    assert "Traceback" not in answer.stderr
