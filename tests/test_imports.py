"""Imports go one way, and every outside world has one owner."""

import ast
from pathlib import Path

import pytest

import hwtrain

ROOT = Path(hwtrain.__file__).parent
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))

LAYERS = [  # a module may import from its own layer, where that makes no circle, and from those above it
    {"errors"},
    {"core", "checks", "draws", "console", "signals", "svg"},
    {"perturb", "costs", "limits", "start", "optimize", "tasks"},
    {"sim", "emulators"},
    {"devices", "algorithms"},
    {"report", "checkpoint", "evaluation", "recorder", "trainer"},
    {"config", "conformance"},
    {"__main__", "doctor", "characterise"},
]
OWNERS = {
    "hydra": {"config.py"},
    "omegaconf": {"config.py", "__main__.py", "characterise/__main__.py", "characterise/gap.py"},
    "serial": {"devices/serial.py"},
    "pyvisa": {"devices/visa.py"},
    "unicorn": {"emulators/cortex_m.py"},
    "ziglang": set(),  # is run, never imported
    "urllib": {"tasks/fetch.py"},
    "pytest": {path for path in MODULES if path.startswith("conformance/")},
    "hypothesis": set(),  # the tests alone
    "argparse": {"report/command.py", "doctor.py", "characterise/gap.py"},
}


def layer(name):
    return next(index for index, names in enumerate(LAYERS) if name in names)


def imported(path):
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (
                (f"{node.module}.{alias.name}" for alias in node.names) if node.module == "hwtrain" else [node.module]
            )


@pytest.mark.parametrize("path", MODULES)
def test_imports_go_one_way(path):
    if path.endswith("__init__.py"):
        return
    own = path.split("/")[0].removesuffix(".py")
    for name in imported(path):
        if name.startswith("hwtrain.") and name != "hwtrain.__version__":
            other = name.split(".")[1]
            assert layer(other) <= layer(own), f"{path} imports {name}"
            assert {own, other} != {"devices", "algorithms"}, f"{path}: devices and algorithms do not know each other"


@pytest.mark.parametrize("path", MODULES)
def test_each_outside_world_has_one_owner(path):
    for name in imported(path):
        package = name.split(".")[0]
        assert path in OWNERS.get(package, {path}), f"{path} imports {name}; only {OWNERS[package]} may"


def test_algorithms_know_no_clock_file_or_generator():
    for path in MODULES:
        if path.startswith("algorithms/"):
            assert not {"time", "random", "pathlib", "os", "io"} & {name.split(".")[0] for name in imported(path)}, path
            assert "np.random" not in (ROOT / path).read_text(), path
