import subprocess
from pathlib import Path

import pytest

from tests.firmware import boards

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def out(tmp_path_factory):
    """Where firmware is built, once for all tests."""
    return tmp_path_factory.mktemp("firmware")


@pytest.fixture(scope="session")
def checked(out):
    """Builds a C program of this directory with the core, under the sanitizers."""

    def build(name):
        boards.need("gcc", "gcc libc6-dev")
        program = out / name
        if not program.exists():
            sources = [*sorted((boards.ROOT / "src").glob("*.c")), HERE / f"{name}.c"]
            flags = "-std=c99 -Wall -Wextra -Wconversion -Wshadow -pedantic -Werror -O1 -ffp-contract=off"
            checks = "-fsanitize=address,undefined -fno-sanitize-recover=all"
            line = ["gcc", *flags.split(), *checks.split(), f"-I{boards.ROOT / 'include'}", *sources, "-o", program]
            done = subprocess.run(list(map(str, line)), capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
        return program

    return build


@pytest.fixture(scope="session")
def ask(checked):
    """Asks the core, built as probe.c: lines in, lines out."""

    def answers(lines):
        done = subprocess.run(
            [str(checked("probe"))], input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return answers
