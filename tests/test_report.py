"""Run folders with known numbers, and what the report makes of them."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from hwtrain import report
from hwtrain.errors import HwtrainError, RecordError

DEVICE = {"name": "xbar", "inputs": 2, "outputs": 1, "size": 3, "can": ["COST", "PROBE"], "low": -8.0, "high": 8.0,
          "unit": "V", "noise": 0.01, "replicas": [], "layers": []}  # fmt: skip


def make(folder, *, accuracies=((0, 0.25), (100, 0.5), (200, 1.0)), config=None, theta=None, **document):
    """A run folder: held-out accuracies by step, each a number or a list with one per replica."""
    folder.mkdir(parents=True)
    lines = [
        {"step": step, "perturbed": step, "baseline": step, "test_accuracy": accuracy, "test_cost": 0.5}
        for step, accuracy in accuracies
    ]
    lines += [{"step": step, "perturbed": step, "baseline": step, "cost": 1 / step} for step, _ in accuracies if step]
    lines.sort(key=lambda line: line["step"])
    last = accuracies[-1] if accuracies else (200, None)
    replicas = [len(last[1])] if isinstance(last[1], list) else []
    document = {
        "schema": 1,
        "outcome": "completed",
        "started": "2026-01-01T00:00:00.000+00:00",
        "finished": "2026-01-01T00:00:04.000+00:00",
        "seconds": 4.0,
        "steps": last[0],
        "counts": {"perturbed": 200, "baseline": 200, "gradients": 0, "writes": 201, "evaluations": 3, "updates": 200},
        "metrics": {} if not accuracies else {"test_accuracy": last[1], "test_cost": 0.5},
        "versions": {"hwtrain": "9.8.7"},
        "seeds": {"parameters": 4711},
        "device": {**DEVICE, "replicas": replicas},
        "task": {"name": "xor", "sha256": "c0ffee"},
        "config": config or {"algo": {"_target_": "hwtrain.algorithms.mgd.MGD", "eta": 4.0}},
        "command": ["python", "-m", "hwtrain", "task=xor"],
        **document,
    }
    (folder / "run.json").write_text(json.dumps(document))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "events.jsonl").write_text('{"time": "2026-01-01T00:00:00+00:00", "event": "started", "free": "disk"}\n')
    (folder / "config.yaml").write_text("algo:\n  eta: 4.0\n")
    if theta is not None:
        np.savez(folder / "checkpoint.npz", **{"state.theta": theta})
    return folder


class Page(HTMLParser):
    """What a page shows, and the data in it."""

    VOID = {"meta", "br"}

    def __init__(self, path):
        super().__init__()
        self.text, self.scripts, self.attributes, self._open = "", [], [], []
        source = path.read_text(encoding="utf-8")
        self.charts = [ElementTree.fromstring(chart) for chart in re.findall("<svg.*?</svg>", source, re.DOTALL)]
        self.source = source
        self.feed(source)
        assert not self._open, "every element is closed"
        ((kind, text),) = self.scripts
        assert kind == "application/json"
        self.data = json.loads(text)

    def handle_starttag(self, tag, attributes):
        self.attributes += [value for _, value in attributes if value]
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attributes).get("type"), ""))

    def handle_startendtag(self, tag, attributes):
        self.attributes += [value for _, value in attributes if value]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "script" in self._open:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif "style" not in self._open:
            self.text += data + "\n"


@pytest.fixture
def said(capsys):
    """Call the command line: exit code, standard output and standard error."""

    def call(*arguments):
        capsys.readouterr()
        code = report.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


def row(text, start):
    """The cells of the one row of a text table whose first cell is `start`."""
    (cells,) = (cells for line in text.splitlines() if (cells := re.split(" {2,}", line))[0] == start)
    return cells


class TestOneRun:
    def test_tells_what_was_measured(self, tmp_path):
        page = Page(report.write(make(tmp_path / "run", theta=np.array([1.0, 2, 3]))))
        assert page.data["outcome"] == "completed" and page.data["steps"] == 200 and page.data["seconds"] == 4.0
        assert page.data["counts"]["writes"] == 201
        assert page.data["curves"]["test_accuracy"]["steps"] == [0, 100, 200]
        assert page.data["curves"]["test_accuracy"]["median"] == [0.25, 0.5, 1.0]
        assert page.data["metrics"]["test_accuracy"]["median"] == 1.0
        for word in ("Completed", "200", "50 steps/s", "100.0%", "xbar", "9.8.7", "4711", "c0ffee", "eta: 4.0", "disk"):
            assert word in page.text, word
        assert len(page.charts) == 3  # cost, accuracy, parameters

    def test_stands_alone_in_the_run_folder(self, tmp_path):
        path = report.write(str(make(tmp_path / "run")))
        assert path == tmp_path / "run" / "report.html"
        page = Page(path)
        assert not re.search("https?://", page.source.replace('xmlns="http://www.w3.org/2000/svg"', ""))
        assert not re.search(r"<link|<img|src=|@import|url\(", page.source)
        assert not list(path.parent.glob("*.part"))

    def test_sums_up_replicas(self, tmp_path):
        run = make(tmp_path / "run", accuracies=[(0, [0.0, 0.0, 0.0]), (200, [0.5, 1.0, 0.75])], theta=np.ones((3, 3)))
        page = Page(report.write(run))
        final, curve = page.data["metrics"]["test_accuracy"], page.data["curves"]["test_accuracy"]
        assert (final["median"], final["low"], final["high"], final["count"]) == (0.75, 0.5, 1.0, 3)
        assert final["replicas"] == [0.5, 1.0, 0.75]
        assert (curve["median"], curve["low"], curve["high"]) == ([0, 0.75], [0, 0.5], [0, 1])
        assert "75.0% [50.0\u2013100.0%]" in page.text

    def test_draws_the_gradient_angle_where_it_is_known(self, tmp_path):
        run = make(tmp_path / "run")
        before = len(Page(report.write(run)).charts)
        with open(run / "metrics.jsonl", "a") as file:
            file.write('{"step": 200, "perturbed": 200, "baseline": 200, "gradient_angle": 42.5}\n')
        page = Page(report.write(run))
        assert len(page.charts) == before + 1
        assert page.data["curves"]["gradient_angle"]["median"] == [42.5]

    def test_a_killed_run_with_half_a_line(self, tmp_path):
        killed = {"outcome": None, "finished": None, "seconds": None, "steps": None, "counts": None, "metrics": None}
        run = make(tmp_path / "run", **killed)
        document = {
            key: value for key, value in json.loads((run / "run.json").read_text()).items() if key not in killed
        }
        (run / "run.json").write_text(json.dumps({**document, "outcome": None, "finished": None}))
        with open(run / "metrics.jsonl", "a") as file:
            file.write('{"step": 300, "pertur')
        page = Page(report.write(run))
        assert page.data["outcome"] is None and page.data["steps"] == 200
        assert page.data["metrics"]["test_accuracy"]["median"] == 1.0
        assert "Unfinished" in page.text

    @pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl", "config.yaml"])
    def test_a_file_that_is_not_there_yet_is_no_error(self, tmp_path, name):
        run = make(tmp_path / "run", outcome=None)
        (run / name).unlink()
        Page(report.write(run))

    def test_without_a_single_evaluation_or_line(self, tmp_path):
        page = Page(report.write(make(tmp_path / "run", accuracies=[])))
        assert page.charts == [] and page.data["curves"] == {}

    def test_values_that_are_not_finite_leave_gaps(self, tmp_path):
        run = make(tmp_path / "run", accuracies=[(0, [0.5, None]), (200, [None, None])], outcome="diverged")
        page = Page(report.write(run))
        assert page.data["curves"]["test_accuracy"]["median"] == [0.5, None]
        assert page.data["metrics"]["test_accuracy"]["missing"] == 2
        assert "Diverged" in page.text

    def test_a_damaged_checkpoint_costs_only_its_picture(self, tmp_path):
        run = make(tmp_path / "run")
        (run / "checkpoint.npz").write_bytes(b"PK\x03\x04 half")
        page = Page(report.write(run))
        assert len(page.charts) == 3 and "the checkpoint cannot be read" in page.text

    def test_everything_is_escaped(self, tmp_path):
        nasty = "</script><script>alert('&amp;')</script>"
        run = make(
            tmp_path / "run", config={"note": nasty, nasty: 1, "algo": {"_target_": f"a.{nasty}"}}, error=nasty,
            outcome="failed", device={**DEVICE, "name": nasty, "unit": nasty}, task={"name": nasty, nasty: nasty},
            versions={nasty: nasty}, seeds={nasty: 1}, command=[nasty], counts={nasty: 1}, theta=np.arange(3.0),
        )  # fmt: skip
        (run / "config.yaml").write_text(f"note: {nasty}\n")
        (run / "events.jsonl").write_text(json.dumps({"time": nasty, "event": nasty, "why": nasty}) + "\n")
        page = Page(report.write(run))
        assert "<script>alert" not in page.source and page.data["document"]["config"]["note"] == nasty
        assert nasty in page.text

    def test_is_written_again_as_a_whole(self, tmp_path):
        run = make(tmp_path / "run")
        (run / "report.html").write_text("old" * 100_000)
        Page(report.write(run))


class TestSeveralRuns:
    @pytest.fixture
    def sweep(self, tmp_path):
        """Two runs of two replicas with eta 1, one run of three with eta 10."""
        sweep = tmp_path / "sweep"
        for name, eta, seed, accuracies in (
            ("0", 1.0, 1, [(0, [0, 0]), (100, [0.9, 0.5]), (200, [1.0, 0.5])]),
            ("1", 1.0, 2, [(0, [0, 0]), (100, [0.2, 0.2]), (200, [0.9, 0.8])]),
            ("deeper/2", 10.0, 1, [(0, [0, 0, 0]), (100, [0.1, 0.1, 0.1]), (200, [0.3, 0.2, 0.1])]),
        ):
            config = {"algo": {"_target_": "hwtrain.algorithms.mgd.MGD", "eta": eta}, "seed": seed,
                      "hydra": {"dir": name}}  # fmt: skip
            make(sweep / name, accuracies=accuracies, config=config)
        return sweep

    def test_a_folder_stands_for_the_runs_at_any_depth(self, sweep, said):
        code, out, err = said(sweep)
        assert (code, err) == (0, "")
        page = Page(sweep / "comparison.html")
        assert [run["steps"] for run in page.data["runs"]] == [200] * 3
        assert [len(run["metrics"]["test_accuracy"]["replicas"]) for run in page.data["runs"]] == [2, 2, 3]
        assert str(sweep / "comparison.html") in out

    def test_the_table_has_only_the_settings_that_differ(self, sweep, said):
        out = said(sweep)[1]
        header = row(out, "run")
        assert {"eta", "seed", "outcome", "steps"} <= set(header)
        assert not any("_target_" in name or "hydra" in name or name == "algo" for name in header)
        cells = dict(zip(header, row(out, "deeper/2"), strict=True))
        assert (cells["eta"], cells["outcome"], cells["steps"], cells["measurements"]) == (
            "10",
            "completed",
            "200",
            "400",
        )
        assert cells["held-out accuracy"] == "20.0% [10.0\u201330.0%]"

    def test_columns_are_aligned(self, sweep, said):
        first, *rest = said(sweep)[1].split("\n\n")[1].splitlines()
        at = first.index("completed") if "completed" in first else first.index("outcome")
        assert all(line[at - 2 : at] == "  " and line[at] != " " for line in rest)

    def test_pools_the_replicas_of_runs_with_the_same_value(self, sweep, said):
        said(sweep, "--against", "algo.eta")
        data = Page(sweep / "comparison.html").data
        assert data["against"] == "algo.eta"
        assert [group["value"] for group in data["groups"]] == [1.0, 10.0]
        assert [group["replicas"] for group in data["groups"]] == [[1.0, 0.5, 0.9, 0.8], [0.3, 0.2, 0.1]]
        assert [group["median"] for group in data["groups"]] == pytest.approx([0.85, 0.2])
        assert [group["runs"] for group in data["groups"]] == [["0", "1"], ["deeper/2"]]

    def test_the_one_numeric_key_is_found_without_being_named(self, sweep, said):
        said(sweep)
        assert Page(sweep / "comparison.html").data["against"] == "algo.eta"

    def test_two_numeric_keys_leave_the_choice_open(self, tmp_path, said):
        for i in range(3):
            make(tmp_path / str(i), config={"a": i, "b": i * i})
        said(tmp_path)
        assert Page(tmp_path / "comparison.html").data["against"] is None

    def test_a_key_without_numbers_stands_side_by_side(self, tmp_path, said):
        for name in ("mgd.MGD", "backprop.Backprop"):
            make(tmp_path / name, config={"algo": {"_target_": f"hwtrain.algorithms.{name}"}})
        assert said(tmp_path, "--against", "algo._target_", "--svg", tmp_path / "a.svg")[0] == 0
        assert {"MGD", "Backprop"} <= set(ElementTree.parse(tmp_path / "a.svg").getroot().itertext())

    def test_level_counts_who_reached_it_and_when(self, tmp_path, said):
        make(
            tmp_path / "1",
            accuracies=[(0, [0, 0, 0]), (100, [0.9, 0.95, 0.1]), (200, [0.2, 1.0, 0.2])],
            config={"a": 1},
        )
        make(tmp_path / "2", accuracies=[(0, [0, 0]), (100, [0.1, 0.1]), (200, [0.1, 0.1])], config={"a": 2})
        out = said(tmp_path, "--against", "a", "--level", "0.9")[1]
        data = Page(tmp_path / "comparison.html").data
        assert data["level"]["accuracy"] == 0.9
        first = 200 if data["level"]["unit"] == "measurements" else 100  # a baseline and a perturbed one a step
        assert data["groups"][0]["effort"]["replicas"] == [first, first, None]
        assert data["groups"][1]["effort"]["replicas"] == [None, None]
        assert row(out, "run")[-1].endswith("to 90%")
        assert f"{first} (2 of 3)" in out and "(0 of 2)" in out
        assert len(Page(tmp_path / "comparison.html").charts) == 3

    def test_another_metric_counts_if_asked(self, sweep, said):
        said(sweep, "--metric", "test_cost")
        data = Page(sweep / "comparison.html").data
        assert data["metric"] == "test_cost" and data["groups"][0]["median"] == 0.5

    def test_output_and_svg_go_where_they_are_told(self, sweep, tmp_path, said):
        page, picture = tmp_path / "here.html", tmp_path / "main.svg"
        code, out, _ = said(sweep, "--against", "algo.eta", "--output", page, "--svg", picture)
        assert code == 0 and str(page) in out and str(picture) in out and not (sweep / "comparison.html").exists()
        Page(page)
        root = ElementTree.parse(picture).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert any("algo.eta" in text for text in root.itertext())

    def test_runs_named_one_by_one_are_compared_in_their_common_parent(self, sweep, said):
        assert said(sweep / "0", sweep / "1")[0] == 0
        assert (sweep / "comparison.html").exists()

    def test_a_run_named_twice_counts_once(self, sweep, said):
        said(sweep, sweep / "0")
        assert len(Page(next(sweep.parent.rglob("comparison.html"))).data["runs"]) == 3

    def test_killed_and_finished_runs_side_by_side(self, sweep, said):
        document = json.loads((sweep / "0" / "run.json").read_text())
        (sweep / "0" / "run.json").write_text(json.dumps({**document, "outcome": None, "metrics": None}))
        assert "unfinished" in said(sweep)[1]

    def test_links_lead_to_reports(self, sweep, said):
        report.write(sweep / "deeper" / "2")
        said(sweep)
        assert "deeper/2/report.html" in Page(sweep / "comparison.html").attributes

    def test_settings_are_escaped(self, tmp_path, said):
        for i in range(2):
            make(tmp_path / f"<b>{i}", config={"a<script>": f"<script>{i}"})
        assert said(tmp_path, "--against", "a<script>")[0] == 0
        page = Page(tmp_path / "comparison.html")
        assert "<script>1" not in page.source and "<script>1" in page.text


class TestCommandLine:
    def test_one_run_prints_its_path_and_a_table(self, tmp_path, said):
        run = make(tmp_path / "run", accuracies=[(0, [0.0, 0.0, 0.0]), (200, [0.5, 1.0, 0.75])])
        code, out, err = said(run)
        assert (code, err) == (0, "") and out.splitlines()[0] == str(run / "report.html")
        assert row(out, "outcome")[1] == "completed" and row(out, "steps")[1] == "200"
        assert row(out, "held-out accuracy")[1].startswith("75.0% [50.0\u2013100.0%]")

    def test_one_run_as_a_picture(self, tmp_path, said):
        assert said(make(tmp_path / "run"), "--svg", tmp_path / "a.svg")[0] == 0
        ElementTree.parse(tmp_path / "a.svg")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["nowhere"], "nowhere is not a folder"),
            (["empty"], "no run.json"),
            (["bad"], "run.json cannot be read"),
            (["torn"], "line 1 is not a JSON object"),
            (["two", "--against", "alog.eta"], "Did you mean 'algo.eta'?"),
            (["two", "--metric", "test_acuracy"], "Did you mean 'test_accuracy'?"),
            (["two", "--level", "95"], "--level 0.95"),
            (["two", "--output", "nowhere/page.html"], "cannot be written"),
            (["two/0", "--against", "algo.eta"], "Name several"),
        ],
    )
    def test_what_can_be_mended_is_one_line_and_exit_code_2(self, tmp_path, monkeypatch, said, arguments, words):
        monkeypatch.chdir(tmp_path)
        Path("empty").mkdir()
        make(Path("bad"))
        Path("bad/run.json").write_text("{")
        make(Path("torn"))
        Path("torn/metrics.jsonl").write_text('{"step"\n{"step": 1}\n')
        make(Path("two/0"))
        make(Path("two/1"))
        code, out, err = said(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("hwtrain.report: ") and err.count("\n") == 1 and words in err

    def test_write_raises_our_own_error(self, tmp_path):
        with pytest.raises(RecordError, match=r"run\.json"):
            report.write(tmp_path)
        assert issubclass(RecordError, HwtrainError)

    def test_as_a_program(self, tmp_path):
        environment = {**os.environ, "PYTHONPATH": str(Path(report.__file__).parents[2]), "PYTHONIOENCODING": "ascii"}
        for arguments, code in ([str(make(tmp_path / "run"))], 0), (["nowhere"], 2):
            done = subprocess.run(
                [sys.executable, "-m", "hwtrain.report", *arguments], cwd=tmp_path, env=environment, capture_output=True
            )
            assert done.returncode == code and b"Traceback" not in done.stderr, done.stderr

    def test_importing_it_is_cheap(self):
        heavy = {"hydra", "omegaconf", "scipy", "matplotlib", "http", "urllib.request", "asyncio"}
        code = f"import sys, hwtrain.report; print(sorted({heavy!r} & set(sys.modules)))"
        environment = {**os.environ, "PYTHONPATH": str(Path(report.__file__).parents[2])}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"
