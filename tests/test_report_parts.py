"""What reports are made of: numbers over replicas, settings that differ, pools, levels; and run folders in disorder."""

import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from hwtrain import report
from hwtrain.errors import ConfigError, HwtrainError, RecordError
from hwtrain.report.command import main
from hwtrain.report.comparison import Level, compare
from hwtrain.report.folder import find, read
from hwtrain.report.metrics import Summary, quantiles
from hwtrain.report.settings import ABSENT, differing, numeric_key, pools, resolve_key

SPEC = {
    "name": "bench",
    "inputs": 2,
    "outputs": 1,
    "size": 3,
    "can": ["COST", "PROBE"],
    "low": -1.0,
    "high": 1.0,
    "unit": "V",
    "noise": 0.0,
    "replicas": [],
    "layers": [{"kind": "dense", "inputs": [2], "outputs": [1], "size": 3}],
}


def config(**changes):
    """A resolved configuration; `device.gain` of `changes` is written device__gain."""
    network = {"_target_": "hwtrain.sim.networks.mlp", "sizes": [2, 1]}
    tree = {
        "seed": 0,
        "budget": {"steps": 400, "target_accuracy": None},
        "network": network,
        "algo": {"_target_": "hwtrain.algorithms.mgd.MGD", "eta": 0.1},
        "device": {"_target_": "hwtrain.devices.simulated.Simulated", "network": dict(network), "gain": 0.0},
        "task": {"_target_": "hwtrain.tasks.parity.parity", "name": "xor"},
        "recorder": {"folder": "somewhere"},
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        node = tree
        for name in path:
            node = node[name]
        node[last] = value
    return tree


def make(folder, accuracies=((0.25,), (0.5,), (0.75,), (1.0,)), outcome="completed", tree=None, tail="", **document):
    """A run folder: evaluations at steps 100, 200, ... after a training line each; 1 baseline for 10 perturbed."""
    folder.mkdir(parents=True)
    flat = [row[0] if len(row) == 1 else list(row) for row in accuracies]
    lines = []
    for number, accuracy in enumerate(flat, 1):
        counters = {"step": 100 * number, "perturbed": 100 * number, "baseline": 10 * number}
        lines.append({**counters, "cost": 1 / number})
        lines.append({**counters, "test_accuracy": accuracy, "test_cost": 0.5 / number, "gradient_angle": 60.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    tree = config() if tree is None else tree
    start = {"schema": 1, "outcome": None, "started": "2026-01-01T00:00:00", "finished": None}
    start |= {"device": SPEC, "seeds": {"replicas": [0, 1]}, "versions": {"numpy": "2.0"}, "config": tree}
    start |= {"task": {"source": "generated", "licence": "none needed"}, "command": ["hwtrain", "algo=mgd"]}
    if outcome is not None:
        counts = {"perturbed": 100 * len(flat), "baseline": 10 * len(flat), "writes": 7, "updates": 6, "evaluations": 5}
        final = {"test_accuracy": flat[-1] if flat else None}
        start |= {"outcome": outcome, "steps": 100 * len(flat), "seconds": 8.0, "counts": counts, "metrics": final}
    (folder / "run.json").write_text(json.dumps({**start, **document}))
    (folder / "events.jsonl").write_text('{"time": "2026-01-01T00:00:01", "event": "started"}\n')
    (folder / "config.yaml").write_text("algo:\n  eta: 0.1\n")
    return folder


def plain(text):
    """With hyphens for the dashes of ranges."""
    return text.replace("\u2013", "-")


def page(path):
    """Text of a page, its data, and the pictures in it, parsed."""
    text = path.read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    pictures = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]
    outside = set(re.findall(r"https?://[^\s\"'<]*", text))
    assert outside <= {"http://www.w3.org/2000/svg"}, outside
    assert not re.search(r"<(script|link|img|iframe)[^>]*\b(src|href)=", text)
    return plain(text), json.loads(data), pictures


def titles(pictures):
    return [picture.get("aria-label") for picture in pictures]


@pytest.fixture
def sweep(tmp_path):
    """Gains 0, 0.5 and 1, two runs with two chips each; the higher the gain, the worse."""
    for index, (gain, seed) in enumerate((gain, seed) for gain in (1.0, 0.5, 0.0) for seed in (0, 2)):
        best = 1 - gain / 2
        rows = [(best / 2, best / 2 + 0.01 * seed), (best, best - 0.1)]
        make(tmp_path / str(index), rows, tree=config(device__gain=gain, seed=seed))
    return tmp_path


class TestOneRun:
    def test_says_what_the_folder_says(self, tmp_path):
        folder = make(tmp_path / "run", [(0.25, 0.5, 0.75), (0.5, 0.9, 1.0)])
        np.savez(folder / "checkpoint.npz", **{"state.theta": np.zeros((3, 3))})
        path = report.write(folder)
        text, data, pictures = page(path)
        assert path == folder / "report.html"
        assert data["outcome"] == "completed" and data["steps"] == 200 and data["seconds"] == 8.0
        assert data["metrics"]["test_accuracy"] == {
            "median": 0.9, "q25": 0.7, "q75": 0.95, "low": 0.5, "high": 1.0, "count": 3, "missing": 0,
            "replicas": [0.5, 0.9, 1.0],
        }  # fmt: skip
        curve = data["curves"]["test_accuracy"]
        assert curve["steps"] == [100, 200] and curve["measurements"] == [110, 220] and curve["median"] == [0.5, 0.9]
        assert data["curves"]["cost"] == {
            "every": 1,
            "steps": [100, 200],
            "measurements": [110, 220],
            "median": [1, 0.5],
        }
        angle = "Angle between estimated and exact gradient"
        assert titles(pictures) == ["Cost", "Accuracy", angle, "Parameters at the end"]
        for words in (
            "MGD trains bench on xor",
            "90.0% [50.0-100.0%]",
            "25 steps/s",
            "Completed after 200 steps in 8 s",
        ):
            assert words in text
        for words in ("licence", "none needed", "numpy", "eta: 0.1", "hwtrain algo=mgd", "parameter [V]", "dense"):
            assert words in text

    def test_resumed_and_killed_run_does_not_believe_its_old_end(self, tmp_path):
        folder = make(tmp_path / "run", [(0.25,), (0.5,)], outcome=None, steps=77, seconds=1.0, metrics={"x": 1})
        run = read(folder)
        assert (run.steps, run.seconds, "x" in run.metrics) == (200, None, False)

    @pytest.mark.parametrize("lines", ["", '{"step": 10, "perturbed": 10, "baseline": 1, "cost": null}\n', '{"st'])
    def test_run_without_evaluations(self, tmp_path, lines):
        folder = make(tmp_path / "run", [], outcome="diverged", metrics={})
        (folder / "metrics.jsonl").write_text(lines)
        text, data, pictures = page(report.write(folder))
        assert "Diverged" in text and len(pictures) == (1 if "null" in lines else 0)
        assert data["metrics"] == {} or data["metrics"]["cost"]["missing"] == 1

    def test_bare_folder(self, tmp_path):
        (tmp_path / "run.json").write_text("{}")
        text, data, pictures = page(report.write(tmp_path))
        assert data["outcome"] is None and not pictures and "Nothing was recorded" in text

    def test_failed_run_says_why(self, tmp_path):
        folder = make(tmp_path / "run", outcome="failed", error="no reply to <MEASURE> within 0.5 s")
        text, _, _ = page(report.write(folder))
        assert "Failed after 400 steps in 8 s: no reply to &lt;MEASURE&gt; within 0.5 s. Held-out" in text

    def test_lost_replicas_are_counted(self, tmp_path):
        folder = make(tmp_path / "run", [(0.5, None, 0.7)])
        _, data, _ = page(report.write(folder))
        final = data["metrics"]["test_accuracy"]
        assert (final["median"], final["missing"], final["replicas"]) == (0.6, 1, [0.5, None, 0.7])

    def test_everything_is_escaped(self, tmp_path):
        nasty = "</script><script>alert('x')</script>&\"\x1b\ud800"
        spec = {**SPEC, "name": nasty, "unit": nasty}
        tree = config(task__name=nasty)
        folder = make(
            tmp_path / "run <b>&", outcome=nasty, tree=tree, device=spec, error=nasty, versions={nasty: nasty}
        )
        (folder / "config.yaml").write_text("<script>alert(1)</script>")
        (folder / "events.jsonl").write_text(json.dumps({"event": nasty, nasty: nasty}))
        np.savez(folder / "checkpoint.npz", **{"state.theta": np.zeros(3)})
        text, data, _ = page(report.write(folder))
        assert text.count("<script") == 1 and "<b>&" not in text
        assert data["outcome"] == nasty

    def test_long_runs_stay_small(self, tmp_path):
        folder = make(tmp_path / "run")
        line = '{{"step": {0}, "perturbed": {0}, "baseline": 1, "cost": [1.5, {0}]}}\n'
        (folder / "metrics.jsonl").write_text("".join(line.format(step) for step in range(1, 30_001)))
        (folder / "events.jsonl").write_text('{"event": "checkpoint"}\n' * 5000)
        path = report.write(folder)
        _, data, _ = page(path)
        assert path.stat().st_size < 400_000 and data["curves"]["cost"]["every"] == 15

    def test_events_survive_a_line_written_on(self, tmp_path):
        folder = make(tmp_path / "run")
        lines = ['{"event": "sta{"event": "resumed"}', '{"event": "reconnected", "attempts": 3}', '{"ev']
        (folder / "events.jsonl").write_text("\n".join(lines))
        assert [event["event"] for event in read(folder).events] == ["unreadable", "reconnected"]
        assert "attempts: 3" in page(report.write(folder))[0]


class TestNumbers:
    @pytest.mark.parametrize("shape", [(7,), (5, 8), (2, 3, 1)])
    def test_quantiles_are_those_of_numpy(self, shape):
        values = np.random.default_rng(0).normal(size=shape)
        shares = (0, 0.1, 0.25, 0.5, 1)
        np.testing.assert_allclose(quantiles(values, shares), np.quantile(values, shares, axis=-1))

    def test_quantiles_leave_nan_out_and_keep_infinity_apart(self):
        values = np.array([[1.0, np.nan, 3.0, np.nan], [np.inf, 1.0, np.inf, 3.0], [np.nan] * 4])
        np.testing.assert_array_equal(
            quantiles(values, (0, 0.25, 0.5, 1)),
            [[1, 1, np.nan], [1.5, 2.5, np.nan], [2, np.inf, np.nan], [3, np.inf, np.nan]],
        )

    def test_summary_of_nothing(self):
        summary = Summary.of(np.empty(0))
        assert np.isnan(summary.median) and summary.count == 0

    def test_effort_counts_measurements_of_the_first_time(self, tmp_path):
        run = read(make(tmp_path / "a", [(0.2, 0.6, 0.1), (0.7, 0.5, None), (0.6, 0.9, 0.2)]))
        np.testing.assert_array_equal(Level(0.6, "measurements").efforts([run]), [220, 110, np.inf])
        np.testing.assert_array_equal(Level(0.6, "steps").efforts([run]), [200, 100, np.inf])


class TestSettings:
    def runs(self, tmp_path, *trees):
        return [read(make(tmp_path / str(i), tree=tree)) for i, tree in enumerate(trees)]

    def test_copies_and_bookkeeping_do_not_differ(self, tmp_path):
        trees = [config(recorder__folder=str(i)) for i in range(2)]
        for tree, sizes in zip(trees, ([2, 1], [2, 2, 1]), strict=True):
            tree["network"]["sizes"] = tree["device"]["network"]["sizes"] = sizes
        assert differing(self.runs(tmp_path, *trees)) == ["network.sizes"]

    def test_the_one_numeric_key_is_found_but_never_a_seed(self, tmp_path):
        one = self.runs(tmp_path / "1", config(algo__eta=1, seed=1), config(algo__eta=2.0, seed=2))
        assert numeric_key(one) == "algo.eta"
        two = self.runs(tmp_path / "2", config(algo__eta=1), config(algo__eta=2, device__gain=1))
        assert numeric_key(two) is None
        none = self.runs(tmp_path / "3", config(seed=1), config(seed=2))
        assert numeric_key(none) is None
        words = self.runs(tmp_path / "4", config(algo__eta=1), config(algo__eta=None))
        assert numeric_key(words) is None

    def test_equal_values_are_pooled(self, tmp_path):
        values = (2, None, 1, 2.0, True, "a", None)
        found = self.runs(tmp_path, *(config(algo__eta=value) for value in values))
        pooled = pools(found, "algo.eta")
        assert [pool.value for pool in pooled] == [1, 2, None, True, "a"]
        assert [len(pool.runs) for pool in pooled] == [1, 2, 2, 1, 1]

    def test_a_setting_may_be_absent(self, tmp_path):
        tree = config()
        del tree["algo"]["eta"]
        pooled = pools(self.runs(tmp_path, tree, config()), "algo.eta")
        assert [pool.value for pool in pooled] == [0.1, ABSENT]

    def test_a_word_stands_for_its_class(self, tmp_path):
        found = self.runs(tmp_path, config(), config(algo___target_="other.SPSA"))
        assert resolve_key(found, "algo") == "algo._target_"
        with pytest.raises(ConfigError, match=r"'device.gian'. Did you mean 'device.gain'\?"):
            resolve_key(found, "device.gian")


class TestComparison:
    def test_replicas_of_equal_settings_are_pooled(self, sweep, capsys):
        assert main([str(sweep), "--level", "0.7"]) == 0
        text, data, pictures = page(sweep / "comparison.html")
        assert data["against"] == "device.gain" and data["metric"] == "test_accuracy"
        groups = data["groups"]
        assert [group["value"] for group in groups] == [0.0, 0.5, 1.0]
        assert [group["runs"] for group in groups] == [["4", "5"], ["2", "3"], ["0", "1"]]
        assert groups[1]["replicas"] == [0.75, 0.65, 0.75, 0.65] and groups[1]["median"] == pytest.approx(0.7)
        assert groups[0]["effort"]["replicas"] == [220] * 4 and groups[2]["effort"]["replicas"] == [None] * 4
        assert titles(pictures) == [
            "Held-out accuracy against device.gain",
            "Measurements to 70% accuracy against device.gain",
            "Held-out accuracy while learning",
        ]
        assert "pooled" not in text
        out = plain(capsys.readouterr().out)
        assert str(sweep / "comparison.html") in out
        rows = [re.split(r"\s{2,}", line) for line in out.splitlines()]
        assert ["run", "seed", "gain", "outcome", "steps", "measurements"] in [row[:6] for row in rows]
        assert ["2", "0", "0.5", "completed", "200", "220", "70.0% [65.0-75.0%]"] in [row[:7] for row in rows]
        assert ["0.5", "2", "4", "70.0% [65.0-75.0%]", "65.0-75.0%", "not by most (2 of 4)"] in rows
        assert ["0", "2", "4", "95.0% [90.0-100.0%]", "90.0-100.0%", "220 (4 of 4)"] in rows
        assert ["1", "2", "4", "45.0% [40.0-50.0%]", "40.0-50.0%", "never (0 of 4)"] in rows

    def test_pooling_over_another_difference_is_said(self, sweep, capsys):
        make(sweep / "6", tree=config(device__gain=0.5, algo__eta=9))
        assert main([str(sweep), "--against", "device.gain"]) == 0
        sentence = "Runs with the same device.gain are pooled, although they differ in algo.eta."
        assert sentence in capsys.readouterr().out and sentence in page(sweep / "comparison.html")[0]
        assert main([str(sweep)]) == 0
        assert "--against seed | algo.eta | device.gain" in capsys.readouterr().out

    def test_the_runs_own_target_is_the_level(self, tmp_path):
        found = [read(make(tmp_path / str(i), tree=config(budget__target_accuracy=0.5, algo__eta=i))) for i in range(2)]
        assert compare(found).level == Level(0.5, "measurements")
        found.append(read(make(tmp_path / "2", tree=config(budget__target_accuracy=0.6))))
        assert compare(found).level is None

    @pytest.mark.parametrize(
        "values", [(0, 0.1, 1), (1e-4, 1e-2, 1), (None, 4, 8), ("a", "b", "c"), (1, 1, 1), (5, -5, 0)]
    )
    def test_any_setting_can_be_drawn(self, tmp_path, values):
        for index, value in enumerate(values):
            make(tmp_path / str(index), tree=config(algo__eta=value))
        assert main([str(tmp_path), "--against", "algo.eta"]) == 0
        _, data, pictures = page(tmp_path / "comparison.html")
        assert sum(group["count"] for group in data["groups"]) == 3 and len(pictures) == 2

    def test_killed_runs_and_other_metrics(self, tmp_path, capsys):
        make(tmp_path / "0", outcome=None, tree=config(algo__eta=1))
        make(tmp_path / "1", [], tree=config(algo__eta=2), metrics={})
        make(tmp_path / "2", [(0.5,)], tree=config(algo__eta=3), metrics={"test_accuracy": 0.5, "extra": 3.0})
        for metric in ("test_accuracy", "test_cost", "extra", "gradient_angle"):
            assert main([str(tmp_path), "--metric", metric]) == 0
            assert page(tmp_path / "comparison.html")[1]["metric"] == metric
        assert "unfinished" in capsys.readouterr().out

    def test_runs_that_count_no_measurements_are_compared_by_steps(self, tmp_path):
        make(tmp_path / "0")
        other = make(tmp_path / "1", tree=config(algo__eta=1))
        lines = (other / "metrics.jsonl").read_text()
        (other / "metrics.jsonl").write_text(re.sub(r'"(perturbed|baseline)": \d+', r'"\1": 0', lines))
        assert compare([read(tmp_path / name) for name in "01"]).unit == "steps"

    def test_reports_are_linked(self, sweep):
        odd = make(sweep / "a#b %c", tree=config(device__gain=2.0))
        report.write(odd)
        assert main([str(sweep)]) == 0
        links = re.findall(r'<a href="([^"]*)">', page(sweep / "comparison.html")[0])
        assert links == ["a%23b%20%25c/report.html"]


class TestCommandLine:
    def test_folders_are_found_in_natural_order_and_once(self, tmp_path):
        for name in ("10", "9", "sub/1"):
            make(tmp_path / name)
        found = find([tmp_path / "10", tmp_path])
        assert [path.relative_to(tmp_path).as_posix() for path in found] == ["10", "9", "sub/1"]

    def test_places(self, sweep, tmp_path_factory, monkeypatch):
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        assert main([str(sweep / "0"), str(sweep / "1")]) == 0
        assert (sweep / "comparison.html").exists()
        files = ["--output", str(elsewhere / "c.html"), "--svg", str(elsewhere / "c.svg")]
        assert main([str(sweep), *files]) == 0
        assert page(elsewhere / "c.html")
        assert "against device.gain" in ElementTree.parse(elsewhere / "c.svg").getroot().get("aria-label")
        monkeypatch.chdir(sweep / "0")
        assert main(["."]) == 0
        assert page(sweep / "0" / "report.html")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["absent"], "absent is not a folder"),
            (["empty"], "empty is not a run folder and contains none"),
            (["broken"], "run.json cannot be read"),
            (["list"], "it holds no JSON object"),
            (["torn"], "line 2 is not a JSON object"),
            (["stepless"], "line 1 has no step"),
            (["sweep", "--against", "algo.etta"], "no run has a setting 'algo.etta'. Did you mean 'algo.eta'?"),
            (["sweep", "--metric", "test_acuracy"], "Did you mean 'test_accuracy'?"),
            (["sweep", "--level", "95"], "Say --level 0.95"),
            (["sweep/0", "--against", "algo.eta"], "--against compares runs"),
            (["sweep/0", "--level", "0.5"], "--level compares runs"),
            (["sweep/0", "--metric", "nothing"], ""),
            (["sweep", "--output", "absent/c.html"], "cannot be written"),
            (["bare", "--svg", "x.svg"], "to draw"),
        ],
    )
    def test_mistakes_are_one_line(self, tmp_path, monkeypatch, capsys, arguments, message):
        monkeypatch.chdir(tmp_path)
        for index in range(2):
            make(tmp_path / "sweep" / str(index), tree=config(algo__eta=index))
        (tmp_path / "empty").mkdir()
        for name, text in (("broken", '{"a": '), ("list", "[]"), ("bare", "{}")):
            (tmp_path / name).mkdir()
            (tmp_path / name / "run.json").write_text(text)
        for name, text in (("torn", '{"step": 1}\n{"st\n{"step": 2}\n'), ("stepless", '{"cost": 1}\n{"step": 2}\n')):
            (make(tmp_path / name) / "metrics.jsonl").write_text(text)
        assert main(arguments) == (0 if not message else 2)
        error = capsys.readouterr().err
        assert message in error and error.count("\n") <= 1
        assert not message or error.startswith("hwtrain.report: ")


def test_errors_are_ours(tmp_path):
    with pytest.raises(RecordError, match="is not a run folder"):
        report.write(tmp_path)
    (tmp_path / "run.json").mkdir()
    with pytest.raises(HwtrainError, match="cannot be read"):
        report.write(tmp_path)
