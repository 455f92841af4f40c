"""Fixtures for all tests: one arithmetic thread, and the front door called in this process."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small matrices; before numpy is imported

import sys

import pytest


class Answer:
    """What the front door said: exit code, standard output and standard error."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def hwtrain(tmp_path, monkeypatch, capfd):
    """Call `python -m hwtrain` with some arguments, in this process and an empty folder."""
    from hydra.core.global_hydra import GlobalHydra

    from hwtrain.__main__ import main

    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["hwtrain", *arguments])
        GlobalHydra.instance().clear()
        capfd.readouterr()
        try:
            code = main()
        except SystemExit as stop:
            code = stop.code
        return Answer(code, *capfd.readouterr())

    return call


@pytest.fixture
def only_run(tmp_path):
    """The one run folder below the test's folder."""

    def find():
        (path,) = tmp_path.rglob("run.json")
        return path.parent

    return find


def pytest_xdist_auto_num_workers():
    """Half as many again as there are processors: tests of boards and instruments wait more than they compute."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores + (cores + 1) // 2
