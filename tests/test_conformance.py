"""The kit finds what is broken, names it, and finds nothing else."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests import broken

ROOT = Path(__file__).parent.parent
CASES = {name: case for name, case in vars(broken).items() if name.startswith("Test")}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """What the kit says of every broken thing: {class: {check: message, or "" if it passed}}, from one inner run."""
    report = tmp_path_factory.mktemp("broken") / "report.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/broken.py",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--junitxml={report}",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment.pop("PYTEST_ADDOPTS", None)
    inner = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert inner.returncode == 1, inner.stdout + inner.stderr  # 1: some checks failed, as they must
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        problem = next((part for part in case if part.tag in ("failure", "error")), None)
        message = "" if problem is None else problem.get("message")
        found.setdefault(case.get("classname").split(".")[-1], {})[case.get("name")] = message
    return found


@pytest.mark.parametrize("name", list(CASES))
def test_fault_is_named(verdicts, name):
    case = CASES[name]
    failed = {check: message for check, message in verdicts[name].items() if message}
    assert sorted(failed) == sorted(case.fails)
    if case.fails:
        assert case.message in failed[case.fails[0]]


@pytest.mark.parametrize("name", list(CASES))
def test_failures_are_sentences_of_the_kit(verdicts, name):
    for check, message in verdicts[name].items():
        assert not message or message.startswith("Failed: "), f"{check} broke down instead of saying what is wrong"
