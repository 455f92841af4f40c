"""Firmware images: built once, kept, and never out of date."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hwtrain.emulators import BOARDS, images
from hwtrain.errors import ConfigError, DeviceError

ROUTES = [("host", "system"), ("stm32f405", "system"), ("stm32f405", "pip")]
PACKAGE = Path(images.__file__).parents[2]


@pytest.fixture(params=ROUTES, ids="-".join)
def route(request):
    """A board, and a route to it for which everything is installed."""
    try:
        images.choose(*request.param)
    except ConfigError as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A copy of the firmware that tests may change."""
    copy = tmp_path / "firmware"
    shutil.copytree(images.firmware_dir(), copy, ignore=shutil.ignore_patterns("build"))
    monkeypatch.setattr(images, "firmware_dir", lambda: copy)
    return copy


def append(path, text):
    path.write_text(path.read_text() + text)


class TestImage:
    def test_is_built_once_even_by_two_processes_at_once(self, route, tmp_path):
        script = (
            "import sys, pathlib, hwtrain.emulators.images as i; i.image(*sys.argv[1:3], pathlib.Path(sys.argv[3]))"
        )
        line = [sys.executable, "-c", script, *route, str(tmp_path)]
        builders = [subprocess.Popen(line, cwd=PACKAGE) for _ in range(2)]
        assert [builder.wait(300) for builder in builders] == [0, 0]
        (folder,) = tmp_path.iterdir()
        built = (folder / f"{route[0]}.elf").stat()
        kept = images.image(*route, tmp_path)
        assert kept.folder == folder
        assert kept.elf.stat() == built
        assert min(kept.sizes["flash"], kept.sizes["ram"]) > 1000
        if route[0] == "stm32f405":
            assert kept.sizes["flash"] < 32_000  # what is not used is not linked
            assert kept.sizes["ram"] <= 192 << 10

    def test_follows_the_sources_wherever_they_are(self, route, sources, tmp_path, monkeypatch):
        first = images.image(*route, tmp_path / "cache")
        append(sources / "include" / "hwtrain" / "board.h", "/* another */\n")
        second = images.image(*route, tmp_path / "cache")
        assert second.folder != first.folder
        assert second.elf.is_file()
        moved = sources.rename(tmp_path / "elsewhere")
        monkeypatch.setattr(images, "firmware_dir", lambda: moved)
        assert images.image(*route, tmp_path / "cache") == second

    def test_says_what_the_compiler_refuses(self, route, sources, tmp_path):
        append(sources / "src" / "board.c", "int broken(void) { return nothing; }\n")
        with pytest.raises(DeviceError, match=rf"'{route[0]}' does not build: .*board\.c:\d+:\d+: error: .*nothing"):
            images.image(*route, tmp_path / "cache")
        assert not list((tmp_path / "cache").iterdir())

    def test_needs_a_cache_that_can_be_written(self, route, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError, match=r"cannot be kept in .*file.*Set XDG_CACHE_HOME"):
            images.image(*route, tmp_path / "file" / "cache")


def test_images_are_kept_in_the_cache_folder_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert images.cache_dir() == tmp_path / "hwtrain" / "firmware"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert images.cache_dir() == tmp_path / ".cache" / "hwtrain" / "firmware"


class TestRefusals:
    @pytest.mark.parametrize(
        ("board", "route", "message"),
        [
            ("stm32f4", "auto", "no emulated board 'stm32f4'. Did you mean 'stm32f405'?"),
            ("host", "pipe", "no route 'pipe' to a board. Did you mean 'pip'?"),
            ("sifive_e", "pip", "'sifive_e' has no route 'pip'; host, stm32f405 have."),
        ],
    )
    def test_unknown_names(self, board, route, message):
        with pytest.raises(ConfigError, match=re.escape(message)):
            images.image(board, route)

    @pytest.mark.parametrize("board", BOARDS)
    def test_missing_tools(self, board, tmp_path):
        """A machine without tools and packages: one message with what is missing and both ways to get it."""
        script = "from hwtrain.emulators import images; images._INCLUDE = ()\n"
        script += f"try: images.choose({board!r})\nexcept images.ConfigError as error: print(error)"
        said = subprocess.run(
            [sys.executable, "-S", "-c", script], env={"PATH": str(tmp_path), "PYTHONPATH": str(PACKAGE)},
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout  # fmt: skip
        assert said.startswith(f"{board!r} cannot be built and run here without make, ")
        assert "`sudo apt-get install --no-install-recommends make " in said
        assert ("ziglang" in said) == ("`pip install 'hwtrain[emulate]'`" in said) == (board in ("host", "stm32f405"))
        assert said.count("\n") == 1


def test_nothing_of_the_environment_is_needed(tmp_path):
    """The pip route, without any command and without HOME."""
    try:
        images.choose("stm32f405", "pip")
    except ConfigError as error:
        pytest.skip(str(error))
    script = f"from hwtrain.emulators import images; images.image('stm32f405', cache=images.Path({str(tmp_path)!r}))"
    env = {"PATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], env=env, cwd=PACKAGE, check=True, timeout=300)
    assert len(list(tmp_path.glob("*/stm32f405.elf"))) == 1
