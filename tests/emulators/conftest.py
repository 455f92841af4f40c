import pytest

from hwtrain.emulators import images
from hwtrain.errors import ConfigError


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    """Where images are kept, for all tests that do not build."""
    return tmp_path_factory.mktemp("images")


def needs(board, route="auto"):
    """Skip where nothing is installed to run a board with."""
    try:
        images.choose(board, route)
    except ConfigError as error:
        pytest.skip(str(error))
