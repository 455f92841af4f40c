"""Every YAML of a task: its fields are those of the task, and network and cost go with it."""

import inspect
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object, instantiate

CONF = Path(__file__).parents[2] / "conf"
TASKS = sorted(path.stem for path in (CONF / "task").glob("*.yaml"))
COSTS = {"mnist": "CrossEntropy", "fashion_mnist": "CrossEntropy", "cifar10": "CrossEntropy"}
SEQUENCES = {
    **dict.fromkeys(("jsb_chorales", "nottingham", "muse_data", "piano_midi"), (88, 88, "FrameNLL")),
    "fsdd": (32, 10, "CrossEntropy"),
    "braille": (12, 27, "CrossEntropy"),
    "nmnist": (2312, 10, "CrossEntropy"),
    "shd": (700, 20, "CrossEntropy"),
}
FILES = {"cifar10", "file", "mnist", "fashion_mnist", *SEQUENCES}  # what they present is in files


def composed(task, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=[f"task={task}", *overrides])


@pytest.mark.parametrize("name", TASKS)
def test_the_fields_are_those_of_the_task(name):
    task = composed(name, "algo=coordinate_descent").task  # a pair without tuned settings
    parameters = inspect.signature(get_object(task["_target_"])).parameters
    assert set(task) - {"_target_"} == set(parameters), "every field is named in the YAML"
    assert task.name == name
    for field, parameter in parameters.items():
        if parameter.default is not inspect.Parameter.empty and field != "name":
            assert task[field] == parameter.default or name == "xor", f"{field} has one default, not two"


@pytest.mark.parametrize("name", [name for name in TASKS if name not in FILES])
def test_network_and_cost_fit_generated_data(name):
    config = composed(name)
    task, network = instantiate(config.task), instantiate(config.network, _convert_="all")
    assert (network.inputs, network.outputs) == (task.inputs, task.outputs)
    assert type(instantiate(config.cost)).__name__ == COSTS.get(name, "MeanSquaredError")


@pytest.mark.parametrize(("name", "inputs"), [("mnist", 784), ("fashion_mnist", 784), ("cifar10", 3072)])
def test_network_and_cost_fit_images(name, inputs):
    config = composed(name)
    network = instantiate(config.network, _convert_="all")
    assert (network.inputs, network.outputs) == (inputs, 10)
    assert type(instantiate(config.cost)).__name__ == "CrossEntropy"


@pytest.mark.parametrize("name", SEQUENCES)
def test_device_network_and_cost_fit_sequences(name):
    config = composed(name)
    network = instantiate(config.network, _convert_="all")
    assert (network.inputs, network.outputs, type(instantiate(config.cost)).__name__) == SEQUENCES[name]
    assert config.device["_target_"].endswith("Spiking")


def test_a_file(tmp_path):
    np.savez(tmp_path / "mine.npz", train_x=np.eye(4), train_y=np.arange(4) % 2)
    config = composed("file", f"task.path={tmp_path / 'mine.npz'}", "network.sizes=[4,3,2]", "task.test_fraction=0.5")
    task, network = instantiate(config.task), instantiate(config.network, _convert_="all")
    assert (network.inputs, network.outputs) == (task.inputs, task.outputs)


def test_network_and_cost_can_still_be_chosen():
    config = composed("letters7x7", "network=mlp", "cost=cross_entropy")
    assert config.network.sizes == [2, 2, 1]
    assert config.cost["_target_"].endswith("CrossEntropy")
