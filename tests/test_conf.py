"""Every YAML in conf/ composes, names a class that exists, and gives it no key it does not take."""

import os
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from hwtrain import config
from hwtrain.config import conf_dir
from hwtrain.core import joined
from tests.emulators.conftest import needs

CHOICES = sorted(
    (path.parent.relative_to(conf_dir()).as_posix(), path.stem)
    for path in conf_dir().rglob("*.yaml")
    if path.parent != conf_dir() and path.parent.name != "tuned"
)
NEEDED = {
    ("device", "function"): ["device.function=math:sin", "device.size=1", "device.inputs=2", "device.outputs=1"],
    ("device", "serial"): ["device.port=/dev/ttyACM0"],
    ("device", "replay"): ["device.transcript=bench.jsonl"],
    ("device", "cell_array"): ["device.resource=ASRL/dev/ttyACM0::INSTR"],
    ("device", "visa"): ["device.resource=TCPIP::192.168.0.5::5025::SOCKET"],
    ("device", "visa_bench"): ["device.resource=TCPIP::192.168.0.5::5025::SOCKET"],
    ("task", "file"): ["task.path=mine.csv"],
}
ELSEWHERE = ("cell_array", "function", "replay", "serial", "visa", "visa_bench")
WITHOUT = {("device", name) for name in ELSEWHERE}  # nothing of the kind is here


@pytest.fixture
def composed():
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):

        def call(*words):
            whole = compose(
                "config", overrides=[*words, "hydra.runtime.output_dir=runs/test"], return_hydra_config=True
            )
            HydraConfig.instance().set_config(whole)
            OmegaConf.set_struct(whole, False)
            del whole["hydra"]
            return config.resolve(whole)

        yield call


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes_and_builds(composed, group, choice):
    on = {"crossbar": "visa", "arc_one": "cell_array"}.get(choice, "visa_bench")
    words = [
        *(["device=cells"] if group == "device/cell" else []),
        *([f"device={on}", *NEEDED["device", on]] if group in ("device/instrument", "device/prober") else []),
        f"{group}{'@device.instrument' if group == 'device/prober' else ''}={choice}",
        *NEEDED.get((group, choice), []),
    ]
    if group == "network" and choice == "parity":
        words.append("task=parity")
    settings = composed(*words)
    node = OmegaConf.select(settings, group.replace("/prober", "/instrument").replace("/", "."))
    if "emulated" in settings.device._target_:
        needs(settings.device.board)
    elif choice == "emulated_crossbar":
        needs(settings.device.board, "system")
    if group == "experiment":
        config.build(settings.algo)
        config.build(settings.device).close()
    elif group not in ("task", "recorder") and (group, choice) not in WITHOUT:
        built = config.build(node)
        assert built is not None
        if group == "device":
            built.close()


@pytest.mark.parametrize("path", sorted((conf_dir() / "tuned").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_tuned_pair_is_a_pair(composed, path):
    task, _, algo = path.stem.partition("-")
    settings = composed(f"task={task}", f"algo={algo}")
    tuned = OmegaConf.load(path)
    assert OmegaConf.merge(settings, tuned) == settings  # every value of the file arrived
    config.build(settings.algo)


def test_network_sizes_are_the_published_ones(composed):
    sizes = {"xor_2_2_1": 9, "letters_49_4_4": 220, "mgd2023_fashion_mnist": 14_378, "mgd2023_cifar10": 26_154}
    for name, size in sizes.items():
        assert config.build(composed(f"network={name}").network).size == size
    assert config.build(composed("task=parity", "task.bits=4").network).size == 25
    widths = (1, 2, 4, 8, 16, 24, 32, 48, 64)
    parameters = (520, 1_908, 7_318, 28_674, 113_530, 254_578, 451_818, 1_014_874, 1_802_698)
    nodes = (2_762, 5_514, 11_018, 22_026, 44_042, 66_058, 88_074, 132_106, 176_138)
    for width, size, count in zip(widths, parameters, nodes, strict=True):
        network = config.build(composed("network=mgd2025", f"network.width={width}").network)
        assert (network.size, network.nodes) == (size, count)


@pytest.mark.parametrize(
    ("experiment", "batch", "published"),
    [
        ("mgd2023_xor", 1, {"eta": 0.1, "convention": "mgd2023"}),
        ("mgd2023_letters", 1, {"eta": 1.0, "convention": "mgd2023"}),
        ("mgd2023_fashion_mnist", 1000, {"eta": 10.0, "convention": "mgd2023"}),
        ("mgd2023_cifar10", 1000, {"convention": "mgd2023", "modulation_limit": 0.01}),
        ("mgd2025_fashion_mnist", 100, {"eta": 0.001, "convention": "mgd2025", "tau_x": 1000, "tau_theta": 1000}),
        ("letters_variation", 1, {"eta": 0.02, "convention": "mean"}),
    ],
)
def test_published_set_ups_are_left_as_published(composed, experiment, batch, published):
    """Settings tuned for a pair of task and algorithm do not reach into whole set-ups."""
    settings = composed(f"experiment={experiment}")
    wanted = {"tau_p": 1, "tau_x": 1, "tau_theta": 1, "eta_halves": None, "baseline": "shared", **published}
    assert settings.task.batch == batch
    assert {name: settings.algo[name] for name in wanted} == wanted


@pytest.mark.parametrize("board", ["stm32f405", "mps2_an385"])
def test_spoken_digits_are_learnt_to_the_same_bits_on_every_board(composed, board):
    """experiment=boards_fsdd, its first recordings."""
    if not (Path(os.environ.get("HWTRAIN_DATA", "data")) / "temporal").is_dir():
        pytest.skip("needs the published temporal data: set HWTRAIN_DATA to a folder that has them")
    ends = []
    for each in ("host", board):
        needs(each)
        settings = composed("experiment=boards_fsdd", f"device.board={each}", "algo.block=4")
        algorithm, task = config.build(settings.algo), config.build(settings.task)
        device = config.build(settings.device)
        state = algorithm.init(device.spec, np.uint32(settings.seed))
        sample = joined([task.sample(state.seed, index) for index in algorithm.presents(state)])
        before = state.theta
        state, _ = algorithm.tell(state, sample, device.execute(algorithm.ask(state, sample)))
        device.close()
        assert np.abs(state.theta - before).max() > 0.01
        ends.append(state.theta)
    assert np.array_equal(*ends)
