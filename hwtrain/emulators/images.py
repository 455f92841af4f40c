"""Firmware images: built when first wanted, and kept.

They are kept in a folder named after all that an image depends on: sources, board, route, compiler. So an image is
never out of date, and two processes that build the same one at once do not disturb each other.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwtrain.emulators.elf import segments
from hwtrain.errors import ConfigError, DeviceError, nearest

BUILD_TIME = 600.0  # seconds that one command of a build may take

_SIMAVR = "simavr/sim_avr.h"
_ARM = {"make": "make", "arm-none-eabi-gcc": "gcc-arm-none-eabi"}
_AVR = {"make": "make", "avr-gcc": "gcc-avr avr-libc", "gcc": "gcc libc6-dev", _SIMAVR: "libsimavr-dev"}
_RISCV = {"make": "make", "riscv64-unknown-elf-gcc": "gcc-riscv64-unknown-elf"}
_SYSTEM = {  # what a board needs, a command or a header, and the Debian packages that it is in
    "host": {"make": "make", "gcc": "gcc libc6-dev"},
    "stm32f405": _ARM | {"qemu-system-arm": "qemu-system-arm"},
    "mps2_an385": _ARM | {"qemu-system-arm": "qemu-system-arm"},
    "sifive_e": _RISCV | {"qemu-system-riscv32": "qemu-system-misc"},
    "atmega328p": _AVR,
    "atmega2560": _AVR,
}
_PIP = {"host": ("ziglang",), "stm32f405": ("ziglang", "unicorn")}  # Python packages that a board needs
_ROUTES = ("auto", "system", "pip")
_PARTS = ("Makefile", "include/**/*", "src/**/*", "ports/**/*")  # of the firmware folder: what an image is made of
_INCLUDE = ("/usr/include", "/usr/local/include", "/opt/homebrew/include")

BOARDS = tuple(_SYSTEM)


@dataclass(frozen=True, slots=True)
class Image:
    """A board's firmware, ready to run."""

    board: str
    route: str  # "system" or "pip"
    folder: Path
    program: str = ""  # a folder of the firmware with a Makefile of its own; "" is the trainable board

    @property
    def elf(self) -> Path:
        """The program."""
        return self.folder / (f"{self.program}-{self.board}.elf" if self.program else f"{self.board}.elf")

    @property
    def sizes(self) -> dict[str, int]:
        """What it takes [bytes]: flash, ram, and frame, the largest stack frame, as far as the build tells them."""
        sizes: dict[str, int] = json.loads((self.folder / "sizes.json").read_text())
        return sizes


def firmware_dir() -> Path:
    """The firmware's sources: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "firmware"
    return inside if inside.is_dir() else package.parent / "firmware"


def cache_dir() -> Path:
    """Where images are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hwtrain" / "firmware"


def image(board: str, route: str = "auto", cache: Path | None = None, program: str = "") -> Image:
    """A board's firmware, built unless it has been.

    Args:
        route: "system", "pip", or "auto": whichever is installed, "system" first.
        cache: where images are kept, by default in the user's cache folder.
        program: a folder of the firmware with a Makefile of its own, by route "system" alone; "" is the trainable
            board.

    Raises:
        ConfigError: no such board or route, nothing is installed for it, or the cache cannot be written.
        DeviceError: the compiler refuses the sources.
    """
    route, source, cache = choose(board, route), firmware_dir(), (cache or cache_dir()).absolute()
    name = "-".join(filter(None, (program, board)))
    found = Image(board, route, cache / f"{name}-{_digest(board, route, source, program)}", program)
    if not found.folder.is_dir():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="building-", dir=cache) as work:
                fresh = Path(work) / "image"
                sizes = build(board, route, source, fresh, program)
                (fresh / "sizes.json").write_text(json.dumps(sizes))
                if not found.folder.is_dir():  # else another process was faster
                    fresh.rename(found.folder)
        except OSError as error:
            if not found.folder.is_dir():
                raise ConfigError(
                    f"firmware cannot be kept in {cache}: {error.strerror}. Set XDG_CACHE_HOME to another folder."
                ) from error
    return found


def choose(board: str, route: str = "auto") -> str:
    """The route to a board, "system" or "pip".

    Raises:
        ConfigError: no such board or route, or nothing is installed for it.
    """
    if board not in BOARDS:
        raise ConfigError(f"there is no emulated board {board!r}. {nearest(str(board), BOARDS)}")
    if route not in _ROUTES:
        raise ConfigError(f"there is no route {route!r} to a board. {nearest(str(route), _ROUTES)}")
    if os.name != "posix":
        raise ConfigError("boards are emulated on Linux and macOS only.")
    if route == "pip" and board not in _PIP:
        raise ConfigError(f"{board!r} has no route 'pip'; {', '.join(_PIP)} have. Use route 'system'.")
    missing = {"system": [need for need in _SYSTEM[board] if not _is_there(need)]}
    if board in _PIP:
        missing["pip"] = [package for package in _PIP[board] if importlib.util.find_spec(package) is None]
    wanted = [route] if route != "auto" else list(missing)
    for way in wanted:
        if not missing[way]:
            return way
    lack = " or ".join(", ".join(missing[way]) for way in wanted)
    packages = " ".join(dict.fromkeys(_SYSTEM[board].values()))
    advice = f"`sudo apt-get install --no-install-recommends {packages}`"
    if board in _PIP:
        advice += " for route 'system', or `pip install 'hwtrain[emulate]'` for route 'pip'"
    raise ConfigError(f"{board!r} cannot be built and run here without {lack}. Say {advice}.")


def build(board: str, route: str, source: Path, out: Path, program: str = "") -> dict[str, int]:
    """Build a board's firmware, and what runs it, into a folder.

    Returns:
        Its sizes [bytes], as in `Image.sizes`.

    Raises:
        DeviceError: the compiler refuses the sources.
    """
    out.mkdir(parents=True, exist_ok=True)
    if route == "pip":
        return _build_with_zig(board, source, out)
    make = ["make", "-s", f"-j{os.cpu_count()}", f"BOARD={board}", f"OUT={out}", *_settings(board)]
    said = _run(board, make, source / program)
    if board.startswith("atmega"):
        simavr = _header(_SIMAVR)
        assert simavr is not None
        runner = ["ports/avr/simrun.c", f"-I{simavr.parent}", f"-L{simavr.parents[2] / 'lib'}", "-lsimavr"]
        _run(board, ["gcc", "-O2", "-o", str(out / "simrun"), *runner], source)
    sizes = re.findall(r"(flash|ram|frame) +(\d+)", said)[:3]  # frames follow, the largest first
    return {name: int(size) for name, size in sizes}


def _build_with_zig(board: str, source: Path, out: Path) -> dict[str, int]:
    """The same without make and GNU tools; what the Makefile says of these boards, said again for zig."""
    flags = ["-std=c99", "-Os", "-ffp-contract=off", "-ffunction-sections", "-fdata-sections", "-s", "-Iinclude"]
    sources = [str(path) for folder in ("src", f"ports/{board}") for path in sorted((source / folder).glob("*.c"))]
    if board == "stm32f405":
        script = out / "link.ld"  # zig's linker takes sizes from a script alone
        script.write_text(
            "FLASH = 0x08000000; FLASH_SIZE = 1M; RAM = 0x20000000; RAM_SIZE = 128K; MORE = 0x10000000; "
            "MORE_SIZE = 64K;\nINCLUDE ports/bare/link.ld\n"
        )
        flags += ["-target", "thumb-freestanding-eabihf", "-mcpu=cortex_m4+vfp4d16sp", "-ffreestanding"]
        flags += ["-fno-unwind-tables", "-fno-asynchronous-unwind-tables"]
        flags += ["-Wl,--gc-sections", f"-Wl,-T,{script}"]
    elf = out / f"{board}.elf"
    with tempfile.TemporaryDirectory(prefix="hwtrain-zig-") as cache:
        line = [sys.executable, "-m", "ziglang", "cc", *flags, *sources, "-o", str(elf)]
        _run(board, line, source, {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache})
    program = elf.read_bytes()
    if not program.startswith(b"\x7fELF"):
        return {}
    loaded = segments(program)
    return {
        "flash": sum(len(segment.data) for segment in loaded),
        "ram": sum(segment.size for segment in loaded if segment.writable),
    }


def _settings(board: str) -> list[str]:
    """Variables for make: before 8.0, QEMU had the STM32F405's core-coupled memory behind the other."""
    if board != "stm32f405" or not _is_there("qemu-system-arm"):
        return []
    said = subprocess.run(["qemu-system-arm", "--version"], capture_output=True, text=True).stdout
    version = re.search(r"version (\d+)", said)
    return ["CCM=0x20020000"] if version and int(version[1]) < 8 else []


def _run(board: str, command: Sequence[str], folder: Path, more: Mapping[str, str] | None = None) -> str:
    """Run one command of a build in a folder; what it printed."""
    try:
        done = subprocess.run(
            command, cwd=folder, env=os.environ | (more or {}), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", timeout=BUILD_TIME,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"building the firmware of {board!r} took more than {BUILD_TIME:.0f} s.") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"{command[0]} ended with {done.returncode}"]
        errors = [line for line in lines if "error: " in line and not line.startswith("collect2")]
        raise DeviceError(f"the firmware of {board!r} does not build: {(errors or lines)[0].strip()}")
    return done.stdout


def _digest(board: str, route: str, source: Path, program: str) -> str:
    """A short name of all that an image depends on."""
    if route == "pip":
        compiler = importlib.metadata.version("ziglang")
    else:
        command = next(need for need in _SYSTEM[board] if need.endswith("gcc"))
        compiler = subprocess.run([command, "--version"], capture_output=True, text=True).stdout
        compiler += " ".join(_settings(board))
    digest = hashlib.sha256(f"{route} {sys.platform} {platform.machine()} {compiler}".encode())
    parts = (*_PARTS, f"{program}/*") if program else _PARTS
    files = {path.relative_to(source): path for part in parts for path in sorted(source.glob(part)) if path.is_file()}
    for name, path in [*files.items(), ("", Path(__file__))]:  # this file says how zig is called
        content = path.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _is_there(need: str) -> bool:
    return (_header(need) if need.endswith(".h") else shutil.which(need)) is not None


def _header(name: str) -> Path | None:
    return next((Path(folder, name) for folder in _INCLUDE if Path(folder, name).exists()), None)
