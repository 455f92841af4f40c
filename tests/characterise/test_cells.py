"""The cell that characterising hands back comes where the readings came; where no law does, a table."""

import os
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

from hwtrain import config
from hwtrain.characterise import cells, gap, pulses, replay, twin
from hwtrain.characterise.cells import Place, Seen
from hwtrain.characterise.chip import Finding
from hwtrain.characterise.pulses import Trains
from hwtrain.characterise.settings import Settings
from hwtrain.devices.simulated import Simulated
from hwtrain.errors import DataError
from hwtrain.sim.composite import Scaled
from hwtrain.sim.laws import ConstantStep, LinearStep, SoftBounds
from hwtrain.sim.networks import mlp
from hwtrain.sim.pulsed import Pulsed
from hwtrain.sim.tables import Table, load_table, save_table
from tests.characterise.benches import COST, concluded, measured

DATA = Path(os.environ.get("HWTRAIN_DATA", "data")) / "devices"
MEASURED = pytest.mark.skipif(not DATA.is_dir(), reason="measured tables are not here; HWTRAIN_DATA names their folder")
CAPACITOR = Pulsed(
    law=LinearStep(gamma_up=0.05, gamma_down=0.05), dw_min=0.02, dw_min_std=0.3, dw_min_dtod=0.1, w_max=1.0, w_min=-1.0,
    w_max_dtod=0.07, w_min_dtod=0.07,
)  # fmt: skip


def jumping():
    """Three devices of which a pulse up goes all the way from below the middle; down they creep, and then fall."""
    g = np.linspace(0.0, 1.0, 21)
    shares = np.array([0.1, 0.4, 0.8, 0.9, 0.99])[:, None]
    up, down = shares * np.where(g < 0.55, 1 - g, 0.1 * (1 - g)), -shares * np.where(g < 0.55, g, 0.06)
    return Table(
        np.stack([g - 0.5, g - 0.45, g - 0.4]), np.linspace(0, 1, 5), np.stack([[down] * 3, [up] * 3]), unit=""
    )


def seen(cell, count, block=1):
    """Trains of simulated devices, read without noise."""
    levels = replay.played(cell, count, block, 24)
    trains = Trains(levels, np.arange(levels.shape[1]) % 2 == 0, block)
    return Seen(trains, Place(np.zeros(len(levels)), 0.0, 1.0), levels, None, 0.0)


def test_a_cell_is_like_itself_and_unlike_another():
    cell = Pulsed(law=SoftBounds(), dw_min=0.05, dw_min_std=0.3, w_max=1.0, w_min=-1.0, w_max_dtod=0.1, w_min_dtod=0.1)
    levels = replay.played(cell, 60, 1, 100)
    off, chance = replay.residual(cell, levels, 1)
    assert off < 3 * chance < 0.03
    assert replay.residual(Pulsed(law=ConstantStep(), dw_min=0.05, w_max=1.0, w_min=-1.0), levels, 1)[0] > 0.1


def test_the_expected_difference_is_that_of_populations():
    cell = Pulsed(law=SoftBounds(), dw_min=0.1, w_max=1.0, w_min=-1.0, w_max_dtod=0.3, w_min_dtod=0.3, dw_min_dtod=0.3)
    levels = replay.played(cell, 40, 1, 3200).reshape(100, 32, 4, 41)
    off = [replay.residual(cell, part, 1)[0] for part in levels]
    chance = [replay.residual(cell, part, 1)[1] for part in levels]
    assert np.sqrt(np.mean(np.square(off))) == pytest.approx(np.mean(chance), rel=0.25)


def test_bounds_at_which_nothing_moves_at_all_are_seen():
    """Levels that repeat to the last digit are no noise that holds them."""
    low, high, _ = pulses._bounds(seen(CAPACITOR, 100, 2).trains)
    assert np.isfinite(low).mean() > 0.9
    assert np.isfinite(high).mean() > 0.9
    like = cells.nearest(seen(CAPACITOR, 100, 2), 0.95)
    assert like.is_like
    assert like.settings["w_max"] == pytest.approx(1.0, abs=0.1)


def test_a_bound_that_was_not_reached_holds_nobody_back():
    cell = Pulsed(law=ConstantStep(), dw_min=0.001, dw_min_dtod=0.3, w_max=1.0, w_min=-1.0)
    one = seen(cell, 50, 2)
    settings = cells.nearest(one, 0.95).settings
    assert settings["w_max"] == one.read.max()
    assert settings["w_min"] <= one.read.min() + 1e-12


@pytest.fixture(scope="module")
def jumper(tmp_path_factory):
    device = Simulated(mlp([3, 2]), COST, cell=jumping())
    return measured(device, tmp_path_factory.mktemp("run"), 6000, 5000)[0]


def test_where_no_law_leads_there_is_a_table(jumper):
    (found,) = concluded(jumper)
    assert found["cell"].verdict == "table"
    assert found["cell_residual"].value < 0.03
    for share in (0.25, 0.8):
        steps = [
            np.trapezoid(cell.change[..., round(share * (cell.g.shape[1] - 1))], cell.cdf).mean(axis=1)
            for cell in (found["cell"].table, jumping())
        ]
        assert steps[0] == pytest.approx(steps[1], rel=0.2)
    assert found["cell"].settings == {"_target_": "hwtrain.sim.tables.load_table", "read_noise": 0.0, "unit": ""}


def test_pulses_turn_back_at_random_and_by_the_seed(jumper, tmp_path):
    ways, walk = jumper.each["ways"], jumper.each["wander"]
    assert (len(walk), walk.shape[1] - 1, 8) == ways.shape and len(walk) > 1
    assert np.array_equal(walk[1:, 0], walk[:-1, -1])  # of a device without noise: nothing happens in between
    moved = np.diff(walk, axis=1)
    assert (moved[ways] >= 0).all()
    assert (moved[~ways] <= 0).all()
    assert 0.2 < ways.mean() < 0.8
    assert all(len(np.unique(ways[0][:, [0, other]], axis=0)) > 2 for other in range(1, 8))
    again, _ = measured(Simulated(mlp([3, 2]), COST, cell=jumping()), tmp_path, 6000, 5000)
    assert np.array_equal(again.each["ways"], ways)


@pytest.mark.parametrize("law", [SoftBounds(), None], ids=["law", "table"])
def test_the_cell_has_the_unit_of_the_device(law, tmp_path):
    """Also where its range holds 0, as that of a voltage does."""
    cell = jumping() if law is None else Pulsed(law=law, dw_min=0.05, dw_min_std=0.3, w_max=0.5, w_min=-0.5)
    cell = Scaled(cell, cell.low, cell.high, "V")
    (found,) = concluded(measured(Simulated(mlp([3, 2]), COST, cell=cell), tmp_path, 6000, 5000)[0])
    one = found["cell"]
    assert (one.table is None) == (law is not None)
    if one.table is not None:
        save_table(tmp_path / "table.npz", one.table)
    place = {} if one.table is None else {"path": str(tmp_path / "table.npz")}
    made = config.build({**one.settings, **place})
    assert made.unit == "V"
    assert (made.low, made.high) == pytest.approx((cell.low, cell.high), abs=0.1)


def test_a_law_that_does_not_describe_the_steps_is_not_said_to(tmp_path):
    """With too few pulses for a table; steps of this device are as no law's are."""
    found = concluded(measured(Simulated(mlp([3, 2]), COST, cell=jumping()), tmp_path, 6000, 120)[0])[0]
    assert found["cell_residual"].value > max(cells.WRONG, 2 * found["cell_chance"].value)
    assert found["cell"].says.startswith("No law describes the steps; the nearest are ")


def test_the_table_is_used_by_name(characterise, hwtrain, compare, tmp_path):
    save_table(tmp_path / "jumping.npz", jumping())
    (tmp_path / "own/device/cell").mkdir(parents=True)
    cell = {"_target_": "hwtrain.sim.tables.load_table", "path": str(tmp_path / "jumping.npz")}
    (tmp_path / "own/device/cell/jumping.yaml").write_text(yaml.safe_dump(cell))
    words = ["--config-dir", "own", "task=xor", "device=cells", "device/cell=jumping", "device.programming=null"]
    small = ["characterise.measurements=4000", "characterise.pulses=3000", "hydra.run.dir=run"]
    said = characterise(*words, *small)
    assert said.code == 0, said.err
    assert "No law describes the steps; they are drawn from a table." in said.out, said.out
    line = next(line for line in said.out.splitlines() if line.startswith("train the twin: "))
    words = shlex.split(line.removeprefix("train the twin: python -m hwtrain "))
    trained = hwtrain(*words, "budget.steps=20")
    assert trained.code == 0, trained.err
    (tmp_path / "run").rename(tmp_path / "moved")
    words[words.index(str(tmp_path / "run"))] = "moved"
    trained = hwtrain(*words, "budget.steps=20", "hydra.run.dir=again")
    assert trained.code == 0, trained.err
    kept = yaml.safe_load((tmp_path / "again/config.yaml").read_text())
    assert kept["device"]["cell"]["path"] == str(tmp_path / "moved/twin.npz")  # so that it can be resumed from anywhere
    (tmp_path / "moved/twin.npz").rename(tmp_path / "moved/other.npz")
    refused = hwtrain(*words, "hydra.run.dir=refused")
    assert refused.code == 2
    assert "hwtrain: device.cell.path: no configuration folder holds 'twin.npz'. Name the folder" in refused.err
    (tmp_path / "moved/other.npz").rename(tmp_path / "moved/twin.npz")
    compared = compare(tmp_path / "moved")
    assert compared.code == 0, compared.err


@pytest.mark.parametrize("name", ["cell/copy", "mine"])
def test_a_cell_file_names_its_table_to_gap(name, tmp_path):
    """A cell under another name than its table's, or within a device; with no table, that is said."""
    (tmp_path / "run/device/cell").mkdir(parents=True)
    cell = {"_target_": "hwtrain.sim.tables.load_table", "unit": "", "path": "${own:twin.npz}"}
    (tmp_path / "run/device/cell/copy.yaml").write_text(yaml.safe_dump(cell))
    (tmp_path / "run/device/mine.yaml").write_text("defaults: [cells, {cell: copy}, _self_]\nprogramming: null\n")
    parts = {"network": "sim.networks.mlp", "cost": "costs.MeanSquaredError", "task": "tasks.parity.parity"}
    settings = OmegaConf.create({key: {"_target_": f"hwtrain.{target}"} for key, target in parts.items()})
    settings.network.sizes, settings.task.bits, settings.algo, settings.seed = [2, 1], 2, {}, 0
    path = tmp_path / f"run/device/{name}.yaml"
    pulses = {"trains": 2, "readings": 3, "block": 1}
    with pytest.raises(DataError, match=r"twin\.npz cannot be read"):
        gap.asked(path, settings, Settings(), pulses)
    save_table(tmp_path / "run/twin.npz", jumping())
    assert len(gap.asked(path, settings, Settings(), pulses).each["Mean of levels under pulses up"]) == gap.TWINS


def test_the_table_of_several_chips_copies_the_parameters_of_all():
    """Of those that have one: a chip that is of a law lends nothing."""
    tables = [replace(jumping(), g=jumping().g + shift) for shift in (0.0, 1.0, 2.0)]
    chips = [{"cell": Finding("cell", "", verdict="table", settings={}, table=one)} for one in tables]
    found = twin.pooled([*chips, {"cell": Finding("cell", "", verdict="linear", settings={"dw_min": 1.0})}])["cell"]
    assert np.array_equal(found.table.g, np.concatenate([one.g for one in tables]))
    assert found.table.change.shape[1] == 9
    assert chips[1]["cell"].table is tables[1]


@MEASURED
@pytest.mark.slow
def test_measured_taox_is_simulated_again(tmp_path):
    """Twelve measured devices are fitted; the twelve others, never used, are as far from the cell as from them."""
    better = np.load(DATA / "taox_lut.npz")["medium_set"].tolist()
    fitted, held_out = (load_table(str(DATA / "taox_lut.npz"), "", better[half::2]) for half in (0, 1))
    device = Simulated(mlp([6, 8, 4]), COST, cell=fitted)
    (found,) = concluded(measured(device, tmp_path, 20000, 8000)[0])
    assert found["cell"].verdict == "table"
    runs = [replay.played(cell, 100, 1) for cell in (fitted, held_out, found["cell"].table)]
    curves = [(run - (run.max((1, 2)) + run.min((1, 2)))[:, None, None] / 2).mean(axis=0) for run in runs]
    apart, own, other = (np.sqrt(((curves[a] - curves[b]) ** 2).mean()) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert own < apart / 2
    assert other < 1.3 * apart
