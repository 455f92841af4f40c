"""The commands, called in this process and an empty folder."""

import sys

import pytest

from hwtrain.characterise import __main__, gap
from tests.conftest import Answer


@pytest.fixture
def characterise(tmp_path, monkeypatch, capfd):
    """Call `python -m hwtrain.characterise` with some arguments."""
    from hydra.core.global_hydra import GlobalHydra

    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["hwtrain.characterise", *arguments])
        GlobalHydra.instance().clear()
        capfd.readouterr()
        try:
            code = __main__.main()
        except SystemExit as stop:
            code = stop.code
        return Answer(code, *capfd.readouterr())

    return call


@pytest.fixture
def compare(capfd):
    """Call `python -m hwtrain.characterise.gap` with some arguments."""

    def call(*arguments):
        capfd.readouterr()
        return Answer(gap.main([str(argument) for argument in arguments]), *capfd.readouterr())

    return call


SMALL = ("characterise.measurements=4000", "characterise.writes=400", "hydra.run.dir=run")
