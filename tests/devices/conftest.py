"""What the tests of instruments share: an instrument of many faults, and a line that is let go of."""

import pytest

from hwtrain.devices.visa import Address, Wire
from tests.devices import instrument


@pytest.fixture
def box():
    made = []

    def make(**settings):
        made.append(instrument.Instrument(**settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def wire():
    opened = []

    def connect(server, **settings):
        opened.append(Wire(Address(server.resource, **settings)))
        return opened[-1]

    yield connect
    for each in opened:
        each.close()
