"""Devices and tasks of a user's own package, from outside ours, and the examples of the README."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from hwtrain import config
from tests.emulators.conftest import needs

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [
    line.split("#")[0].strip()
    for block in blocks("sh")
    for line in block.splitlines()
    if line.startswith("python -m hwtrain ") and "resume=" not in line
]


ABSENT = ("hwtrain.devices.serial.SerialBoard", "hwtrain.devices.replayed.ReplayedBoard")


@pytest.mark.parametrize("line", [line for line in COMMANDS if "--config-dir" not in line])
def test_every_command_of_the_readme_composes_and_builds(line):
    words = [word for word in shlex.split(line)[3:] if word != "-m"]
    words = [re.sub(r"=([^,\[]+),.*", r"=\1", word) for word in words if not word.startswith("hydra.sweep")]
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(config.conf_dir())):
        whole = compose("config", overrides=[*words, "hydra.runtime.output_dir=here"], return_hydra_config=True)
        HydraConfig.instance().set_config(whole)
        OmegaConf.set_struct(whole, False)
        del whole["hydra"]
        settings = config.resolve(whole)
    for part in ("algo", "budget"):
        config.build(settings[part])
    device = settings.device
    if device._target_ in ABSENT or "resource" in device:
        return  # composed, with keys that its class takes
    if "emulated" in device._target_:
        needs(device.board)
    elif "board" in device:  # of a crossbar
        needs(device.board, "system")
    elif "part" in device:
        needs(device.part.board)
    config.build(device).close()


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.split("\n\n")[0][:40])
def test_every_python_example_of_the_readme_runs(code):
    exec(compile(code, "README.md", "exec"), {})


def run(folder, *words):
    return subprocess.run(
        [sys.executable, "-m", "hwtrain", *words], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_readme_device_trains_from_a_folder_of_its_own(tmp_path):
    (bench,) = (code for code in blocks("python") if "class Bench" in code)
    (tmp_path / "bench.py").write_text(bench)
    (tmp_path / "mylab" / "device").mkdir(parents=True)
    (tmp_path / "mylab" / "device" / "bench.yaml").write_text(blocks("yaml")[0])
    (line,) = (line for line in COMMANDS if "--config-dir" in line)
    answer = run(tmp_path, *shlex.split(line)[3:], "budget.steps=500")
    assert answer.returncode == 0, answer.stderr
    assert "completed: test cost" in answer.stdout
    typo = run(tmp_path, "--config-dir", "mylab", "device=bench", "task=xor", "device.chanels=3")
    assert typo.returncode == 2
    assert "device.channels" in typo.stderr


@pytest.mark.parametrize(
    ("changed", "into", "says"),
    [
        ("return tuple(readings)", "return tuple(readings[:1])", "'bench' gave 1 readings for 2 commands"),
        ("return tuple(readings)", "return None", "'bench' gave 0 readings for 2 commands"),
        ("Reading(cost=np.array(costs))", "1.0", "one Reading for each command"),
        ("np.array(costs)", "np.array(costs[:1])", "it must be an array (..., "),
        ("np.array(costs)", "sum(costs)", "it must be an array (..., 1)"),
        ("self.spec =", "self.spec = None\n        self.own =", "must be a DeviceSpec"),
    ],
)
def test_an_answer_of_a_users_device_that_cannot_be_meant_is_named(tmp_path, changed, into, says):
    (bench,) = (code for code in blocks("python") if "class Bench" in code)
    assert changed in bench
    (tmp_path / "bench.py").write_text(bench.replace(changed, into))
    (tmp_path / "mylab" / "device").mkdir(parents=True)
    (tmp_path / "mylab" / "device" / "bench.yaml").write_text(blocks("yaml")[0])
    words = ("algo.baseline=shared", "algo.tau_theta=4", "algo.tau_x=4", "budget.steps=16")
    answer = run(tmp_path, "--config-dir", "mylab", "device=bench", "task=xor", *words)
    assert answer.returncode == 2
    assert says in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_function_of_a_users_module_trains(tmp_path):
    (tmp_path / "mychip.py").write_text(
        "import numpy as np\n"
        "def forward(theta, x):\n"
        "    hidden = np.tanh(x @ theta[:4].reshape(2, 2) + theta[4:6])\n"
        "    return 1 / (1 + np.exp(-hidden @ theta[6:8, None] - theta[8]))\n"
    )
    words = "task=xor device=function device.function=mychip:forward device.size=9 device.inputs=2 device.outputs=1"
    answer = run(tmp_path, *words.split(), "budget.steps=3000", "algo.eta=0.5")
    assert answer.returncode == 0, answer.stderr
    assert "test accuracy" in answer.stdout


def test_a_task_of_a_users_own_package_trains(tmp_path):
    (tmp_path / "mytask.py").write_text(
        "import numpy as np\n"
        "from hwtrain.tasks.dataset import DataTask\n"
        "def stripes(count, name='stripes'):\n"
        "    x = np.random.default_rng(0).random((count, 2))\n"
        "    y = (x[:, :1] > 0.5).astype(float)\n"
        "    return DataTask(name, x, y, x, y, 1, {'source': 'made here'})\n"
    )
    (tmp_path / "mine" / "task").mkdir(parents=True)
    (tmp_path / "mine" / "task" / "stripes.yaml").write_text("_target_: mytask.stripes\ncount: 50\n")
    answer = run(tmp_path, "--config-dir", "mine", "task=stripes", "budget.steps=3000", "algo=backprop")
    assert answer.returncode == 0, answer.stderr
    assert "test accuracy" in answer.stdout


def test_a_device_that_fails_leaves_a_run_that_goes_on(tmp_path):
    (tmp_path / "flaky.py").write_text(
        "from pathlib import Path\n"
        "from hwtrain.errors import ReplyTimeout\n"
        "calls = 0\n"
        "def forward(theta, x):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    if calls == 500 and not Path('mended').exists():\n"
        "        raise ReplyTimeout('no reply within 0.5 s. Is the board powered?')\n"
        "    return x[:, :1] * theta[0] + theta[1]\n"
    )
    words = "task=xor device=function device.function=flaky:forward device.size=2 device.inputs=2 device.outputs=1"
    answer = run(tmp_path, *words.split(), "budget.steps=1000", "recorder.checkpoint_seconds=0", "hydra.run.dir=here")
    assert answer.returncode == 2
    assert "no reply within 0.5 s" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert "after step" in answer.stderr
    (line,) = re.findall(r"python -m hwtrain (resume=\S+)", answer.stderr)
    (tmp_path / "mended").touch()
    answer = run(tmp_path, line)
    assert answer.returncode == 0, answer.stderr
    assert "completed" in answer.stdout


def test_an_operating_system_error_of_a_device_is_not_taken_for_one_of_the_run_folder(tmp_path):
    (tmp_path / "gone.py").write_text("def forward(theta, x):\n    raise OSError(5, 'Input/output error')\n")
    words = "task=xor device=function device.function=gone:forward device.size=2 device.inputs=2 device.outputs=1"
    answer = run(tmp_path, *words.split(), "budget.steps=10")
    assert answer.returncode == 2
    assert "the device failed: [Errno 5] Input/output error" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("1 / 0", "mine.py:2, in forward: return 1 / 0"),
        ("theta[9]", "IndexError"),
        ("'volts'", "gave a str for 4 samples; it must give numbers of shape (4, 1)"),
        ("x[:, :1] + 1j", "(complex128)"),
        ("[[1], [2, 3]]", "gave a list"),
        ("x[:, 0]", "outputs of shape (4,)"),
    ],
)
def test_a_mistake_in_a_users_function_is_shown_where_it_is(tmp_path, answer, says):
    (tmp_path / "mine.py").write_text(f"def forward(theta, x):\n    return {answer}\n")
    words = "task=xor device=function device.function=mine:forward device.size=2 device.inputs=2 device.outputs=1"
    answered = run(tmp_path, *words.split(), "budget.steps=10")
    assert answered.returncode == 2
    assert says in answered.stderr
    assert "after step 0" in answered.stderr
    assert "To go on from the last checkpoint" in answered.stderr
    assert "Traceback" not in answered.stderr


OWN_RULE = """
from dataclasses import dataclass, replace
import numpy as np
from hwtrain.core import Can, Measure, Program

@dataclass(frozen=True)
class State:
    theta: np.ndarray
    step: int = 0
    updates: int = 0

class Rule:
    needs = Can.COST
    def init(self, spec, seed):
        return State(np.zeros((*spec.replicas, spec.size)))
    def presents(self, state):
        return range(state.step, state.step + 1)
    def ask(self, state, sample):
        return Program(state.theta), Measure(sample)
    def tell(self, state, sample, readings):
        return replace(state, step=state.step + 1), {"cost": readings[0].cost[..., 0]}
    def gradient(self, state):
        return None
"""


@pytest.mark.parametrize(
    ("changed", "into", "says"),
    [
        ("", "", ""),
        (
            "def gradient",
            "def slope",
            "the algorithm is a Rule without gradient; what it needs is said by class Algorithm",
        ),
        ("updates: int = 0", "", "the state is a State without updates"),
        ('"cost"', '"costs"', "Rule.tell gave no 'cost' among its metrics, only ['costs']"),
        ("class Rule:", "class Other:", "'mine.Rule' cannot be found"),
        ("class Rule:", "Rule = 3\nclass Other:", "'mine.Rule' cannot be found"),
    ],
)
def test_what_an_algorithm_of_a_users_own_lacks_is_named(tmp_path, changed, into, says):
    (tmp_path / "mine.py").write_text(OWN_RULE.replace(changed, into) if changed else OWN_RULE)
    (tmp_path / "mylab" / "algo").mkdir(parents=True)
    (tmp_path / "mylab" / "algo" / "rule.yaml").write_text("_target_: mine.Rule\n")
    answer = run(tmp_path, "--config-dir", "mylab", "algo=rule", "task=xor", "budget.steps=10")
    assert answer.returncode == (2 if says else 0), answer.stderr
    assert says in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_yaml_without_keys_is_no_matter_of_the_run_folder(tmp_path):
    (tmp_path / "mylab" / "algo").mkdir(parents=True)
    (tmp_path / "mylab" / "algo" / "three.yaml").write_text("3\n")
    answer = run(tmp_path, "--config-dir", "mylab", "algo=three")
    assert answer.returncode == 2
    assert "a YAML file must hold keys with values" in answer.stderr


def test_a_mistake_in_a_users_device_is_shown_to_who_characterises_it(tmp_path):
    (tmp_path / "mine.py").write_text("def forward(theta, x):\n    return theta[9]\n")
    words = "task=xor device=function device.function=mine:forward device.size=2 device.inputs=2 device.outputs=1"
    command = [sys.executable, "-m", "hwtrain.characterise", *words.split(), "device.low=-1", "device.high=1"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode == 2
    assert "mine.py:2, in forward: return theta[9]" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_run_too_short_for_a_line_diverges_all_the_same(tmp_path):
    (tmp_path / "dark.py").write_text("def forward(theta, x):\n    return x[:, :1] * float('nan')\n")
    words = "task=xor device=function device.function=dark:forward device.size=2 device.inputs=2 device.outputs=1"
    assert "diverged" in run(tmp_path, *words.split(), "budget.steps=10").stdout


def test_an_operating_system_error_of_a_device_in_a_resumed_run(tmp_path):
    (tmp_path / "gone.py").write_text(
        "from pathlib import Path\n"
        "def forward(theta, x):\n"
        "    if Path('pulled').exists():\n"
        "        raise OSError(5, 'Input/output error')\n"
        "    return x[:, :1] * theta[0] + theta[1]\n"
    )
    words = "task=xor device=function device.function=gone:forward device.size=2 device.inputs=2 device.outputs=1"
    assert run(tmp_path, *words.split(), "budget.steps=10", "hydra.run.dir=here").returncode == 0
    (tmp_path / "pulled").touch()
    answer = run(tmp_path, "resume=here", "budget.steps=20")
    assert answer.returncode == 2
    assert "the device failed: [Errno 5] Input/output error" in answer.stderr
    assert "python -m hwtrain resume=here" in answer.stderr
    assert "Traceback" not in answer.stderr
