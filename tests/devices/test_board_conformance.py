"""The conformance kit on real firmware: every port, in its emulator."""

import pytest

from hwtrain.conformance import DeviceConformance
from hwtrain.costs import CrossEntropy, MeanSquaredError
from hwtrain.devices.emulated import Emulated
from hwtrain.emulators import BOARDS
from hwtrain.sim.networks import mlp
from tests.emulators.conftest import needs

PLACES = [*((board, "auto", "none") for board in BOARDS), ("stm32f405", "pip", "none")]
PLACES += [("host", "auto", "l2"), *((board, "auto", "rms") for board in BOARDS)]


@pytest.fixture(scope="module", params=PLACES, ids=lambda p: "-".join(p))
def running(request):
    name, route, normalise = request.param
    needs(name, route)
    board = Emulated(name, mlp([3, 4, 2], normalise=normalise), MeanSquaredError(), route, low=-4, high=4)
    yield board
    board.close()


class TestBoards(DeviceConformance):
    @pytest.fixture
    def device(self, running):
        return running

    test_closes_twice_and_rests_after_close = None  # a closed board stays closed: below


@pytest.fixture(
    scope="module", params=[(b, n) for b in ("host", "stm32f405") for n in ("none", "rms")], ids=lambda p: "-".join(p)
)
def pupil(request):
    name, normalise = request.param
    needs(name)
    board = Emulated(name, mlp([5, 4, 3, 2], "relu", "linear", normalise=normalise), CrossEntropy(), low=-4, high=4)
    yield board
    board.close()


class TestBoardsThatLearn(DeviceConformance):
    """Networks that the local rules want."""

    @pytest.fixture
    def device(self, pupil):
        return pupil

    test_closes_twice_and_rests_after_close = None


class TestClosedBoard(DeviceConformance):
    @pytest.fixture
    def device(self):
        needs("host")
        board = Emulated("host", mlp([3, 4, 2], activation="tanh", output="linear"), CrossEntropy())
        yield board
        board.close()
