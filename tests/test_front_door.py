"""`python -m hwtrain` as a person meets it."""

import gzip
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import yaml

import hwtrain as hwtrain_package
from tests.processes import command, killed_ten_times

XOR = ("task=xor", "budget.steps=2000", "recorder.report=false")


def test_a_run_leaves_what_was_promised(hwtrain, only_run):
    answer = hwtrain("task=xor", "budget.steps=2000", "seed=3", "algo.eta=0.3", "device.cost_noise=1e-5")
    assert answer.code == 0
    assert "completed" in answer.out
    folder = only_run()
    assert {path.name for path in folder.iterdir()} >= {
        "run.json", "metrics.jsonl", "events.jsonl", "config.yaml", "checkpoint.npz", "report.html"
    }  # fmt: skip
    run = json.loads((folder / "run.json").read_text())
    assert run["outcome"] == "completed"
    assert run["steps"] == 2000
    assert run["counts"] == {
        "perturbed": 2000, "baseline": 2000, "gradients": 0, "writes": 2001, "evaluations": 2, "updates": 2000
    }  # fmt: skip
    assert set(run["metrics"]) >= {"train_cost", "test_accuracy", "test_cost"}
    assert run["seconds"] > 0
    assert set(run["versions"]) >= {"hwtrain", "numpy", "scipy", "hydra-core", "python"}
    assert run["seeds"]["replicas"] == 3
    assert run["device"]["size"] == 9
    assert run["device"]["noise"] == 1e-5
    assert run["config"]["algo"]["eta"] == 0.3
    assert yaml.safe_load((folder / "config.yaml").read_text()) == run["config"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "cost" in line] == [1000, 2000]


@pytest.mark.parametrize(
    "words",
    [
        ("algo=spsa",),
        ("algo=finite_difference",),
        ("algo=coordinate_descent",),
        ("algo=mgd_analog",),
        ("algo=node_perturbation",),
        ("algo=backprop",),
        ("algo/perturbation=walsh", "algo.tau_theta=null", "algo.tau_x=32"),
        ("algo/perturbation=sinusoid", "algo.tau_theta=100"),
        ("algo/optimizer=adam",),
        ("algo/optimizer=momentum", "algo/start=glorot"),
        ("device.chips=3", "device.activation_variation=0.1", "device.stuck=0.1"),
        ("task=parity", "task.bits=3"),
        ("recorder=none",),
    ],
    ids=" ".join,
)
def test_one_word_changes(hwtrain, words):
    report = () if "recorder=none" in words else ("recorder.report=false",)
    answer = hwtrain("task=xor", "budget.steps=400", *report, *words)
    assert answer.code == 0, answer.err
    assert "completed" in answer.out


FUNCTION = ("device=function", "device.size=9", "device.inputs=2", "device.outputs=1")
BAD = {
    # a typo in a word
    ("algo=mdg",): "Did you mean 'mgd'?",
    ("task=leters7x7",): "Did you mean 'letters7x7'?",
    ("algo/perturbation=walhs",): "Did you mean 'walsh'?",
    ("experiment=mgd2023_xr",): "Did you mean 'mgd2023_xor'?",
    ("algoo=mgd",): "Did you mean 'algo'?",
    ("tuned=null",): "as in ~tuned",
    ("tuned=xor-mdg",): "Did you mean 'xor-mgd'?",
    # a typo in a key
    ("algo.et=0.1",): "Did you mean 'algo.eta'?",
    ("device.chps=4",): "Did you mean 'device.chips'?",
    ("budget.step=4",): "Did you mean 'budget.steps'?",
    ("+unknown=1",): "unknown key 'unknown'",
    ("+algo.etta=1",): "Did you mean 'eta'?",
    # the wrong type, or out of range
    ("algo.eta=fast",): "algo.eta must be a finite number",
    ("algo.eta=-1",): "algo.eta must be a finite number of at least 0",
    ("algo.eta=.nan",): "algo.eta must be a finite number",
    ("algo.tau_theta=1.5",): "algo.tau_theta must be a whole number",
    ("algo.tau_p=2",): "multiple of 2",
    ("algo.baseline=sharde",): "Did you mean 'shared'?",
    ("algo.perturbation.norm=0.1",): "give amplitude or norm",
    ("budget.steps=0",): "budget.steps must be a whole number of at least 1",
    ("budget.steps=null", "budget.seconds=null"): "a run needs an end",
    ("budget.target_accuracy=95",): "budget.target_accuracy",
    ("evaluate.every=0",): "evaluate.every",
    ("device.stuck=2",): "device.stuck",
    ("device.parameter_bits=4",): "device.low and device.high",
    ("device.low=1", "device.high=0"): "low",
    ("device.drift=1",): "device.read_seconds",
    ("device.precision=half",): "double, single",
    ("network.activation=gelu",): "network.activation",
    ("network.output=gelu",): "network.output",
    ("network.sizes=3",): "network.sizes must be at least two positive whole numbers, as [49,4,4], not 3",
    ("network.sizes=[2,1000000000000000,1]",): "out of memory",
    ("device.output_range=1",): "device.output_range must be two finite numbers, as [0,1], not 1",
    ("device.activity_range=[1,0]",): "device.activity_range must begin with the lower",
    ("device.baseline_noise=[]",): "device.baseline_noise must be",
    ("algo.perturbation.amplitude=1e300",): "algo.perturbation.amplitude",
    ("seed=-1",): "seed",
    ("seed=1.5",): "seed",
    ("seed=1,2",): "multirun",
    # what does not fit together
    ("network.sizes=[3,2,1]",): "network.sizes=[2,",
    ("algo=forward_forward",): "1 outputs",
    ("algo=mono_forward", "network=mgd2025"): "Choose network=mlp",
    ("algo=forward_forward", "task=letters7x7", "network.normalise=none"): "Set network.normalise=rms",
    ("algo=forward_forward", "task=letters7x7", "algo.negatives=pair"): "algo.readout=softmax",
    ("algo=forward_forward", "task=letters7x7", "algo.on_device=true"): "algo/optimizer=descent",
    ("algo=drtp", "task=letters7x7", "network.output=sigmoid"): "network.output=linear",
    ("algo=node_perturbation", *FUNCTION, "device.function=math:atan2"): "needs SAMPLE_COST",
    ("device=function",): "device.function is needed",
    (*FUNCTION, "device.function=no.such:thing"): "cannot be imported",
    (*FUNCTION, "device.function=math:sin"): "it is called with parameters (p,) and inputs (b, n)",
    (*FUNCTION, "device.function=3"): "device.function must be a function",
    (*FUNCTION, "device.function=math:atan2", "device.size=0"): "size must be a whole number of at least 1, not 0",
    (*FUNCTION, "device.function=math:atan2", "device.size=nine"): "size must be a whole number",
    (*FUNCTION, "device.function=math:atan2", "device.low=zero"): "low must be a number, not 'zero'",
    ("algo=analog_sgd",): "Choose device=pulsed",
    ("recorder.folder=3",): "recorder.folder must be a path",
    ("task.bits=40",): "task.bits",
    ("task=teacher", "task.seed=abc"): "task.seed must be a whole number",
    ("algo=physics_aware", "algo.model=fitted", "algo.cost=mse"): "algo.cost is chosen by cost=CHOICE",
    ("task.batch=9",): "task.batch",
    # boards
    ("device=emulated", "device.board=3"): "there is no emulated board 3. Known: atmega2560",
    ("device=serial", "device.port=nowhere", "device.transcript=3"): "device.transcript must be a path",
    # data
    ("task=file",): "task.path is needed",
    ("task=file", "task.path=nowhere.npz"): "nowhere.npz",
    ("task=mnist", "task.data_dir=nowhere"): "nowhere",
    # folders
    ("resume=nowhere",): "not a run folder",
    ("hydra.run.dir=file/below",): "run folder cannot be made",
    # a word without a value, or with none of its choices
    ("algo mgd",): "algo mgd cannot be read. Write key=value",
    ("network.sizes=[2;1]",): "a list is [1,2]",
    ("network=[2,2,1]",): "as in network.sizes=[2,2,1]",
    ("algo.optimizer=adam",): "algo.optimizer is chosen by algo/optimizer=CHOICE. Did you mean 'adam'?",
    ("device.cost=mse",): "device.cost is chosen by cost=CHOICE",
    ("device/cell=pcm",): "what is chosen for device takes none",
    ("--resolve",): "--resolve",
}  # fmt: skip


@pytest.mark.parametrize(("words", "says"), BAD.items(), ids=[" ".join(words) for words in BAD])
def test_bad_input_gets_one_message(hwtrain, tmp_path, words, says):
    (tmp_path / "file").write_text("not a folder")
    answer = hwtrain(*([] if words[0].startswith("task=") else ["task=xor"]), "budget.seconds=1", *words)
    assert answer.code == 2
    assert says in answer.err
    assert "Traceback" not in answer.err
    assert not list(tmp_path.rglob("run.json"))  # nothing was begun


def test_nan_in_the_data_is_found_before_training(hwtrain, tmp_path):
    x = np.zeros((6, 2))
    x[4, 1] = np.nan
    np.savez(tmp_path / "mine.npz", train_x=x, train_y=np.arange(6) % 2)
    answer = hwtrain("task=file", "task.path=mine.npz", "network.sizes=[2,3,2]")
    assert answer.code == 2
    assert "4" in answer.err
    assert "Traceback" not in answer.err


def test_own_data_trains(hwtrain, tmp_path):
    random = np.random.default_rng(0)
    x = random.standard_normal((40, 3))
    np.savez(tmp_path / "mine.npz", train_x=x, train_y=(x.sum(axis=1) > 0).astype(int))
    answer = hwtrain(
        "task=file", "task.path=mine.npz", "network.sizes=[3,4,2]", "algo=backprop", "budget.steps=3000", "algo.eta=2"
    )
    assert answer.code == 0, answer.err
    assert "completed: test accuracy" in answer.out


def test_a_yaml_with_a_syntax_error(hwtrain, tmp_path):
    (tmp_path / "mine" / "device").mkdir(parents=True)
    (tmp_path / "mine" / "device" / "bench.yaml").write_text("a: [1\nb: 2: 3\n")
    answer = hwtrain("--config-dir", "mine", "device=bench")
    assert answer.code == 2
    assert "bench.yaml" in answer.err
    assert "Traceback" not in answer.err


def test_budgets(hwtrain, only_run):
    answer = hwtrain(*XOR, "budget.measurements=301", "budget.steps=null")
    assert answer.code == 0
    run = json.loads((only_run() / "run.json").read_text())
    assert run["outcome"] == "budget_spent"
    assert 301 <= run["counts"]["perturbed"] + run["counts"]["baseline"] <= 302


def test_target_reached(hwtrain, only_run):
    answer = hwtrain("algo=backprop", "task=xor", "algo.eta=5", "seed=1", "task.batch=4", "budget.target_accuracy=1.0",
                     "evaluate.every=100", "budget.steps=100000", "recorder.report=false")  # fmt: skip
    assert answer.code == 0
    run = json.loads((only_run() / "run.json").read_text())
    assert run["outcome"] == "target_reached"
    assert run["metrics"]["test_accuracy"] == 1.0
    assert run["steps"] < 100_000


def test_divergence_is_an_outcome(hwtrain, only_run):
    answer = hwtrain(*XOR, "network.activation=relu", "network.output=linear", "algo.eta=1e200", "algo=backprop",
                     "recorder.every=10")  # fmt: skip
    assert answer.code == 0
    assert json.loads((only_run() / "run.json").read_text())["outcome"] == "diverged"


def test_a_sweep_runs_every_job_and_names_those_that_failed(hwtrain, tmp_path):
    answer = hwtrain("-m", *XOR, "algo.eta=0.1,-1,0.2")
    assert answer.code == 2
    assert "algo.eta must be" in answer.err
    outcomes = [json.loads(path.read_text())["outcome"] for path in tmp_path.rglob("run.json")]
    assert outcomes == ["completed", "completed"]


def test_a_finished_run_goes_on_with_a_larger_budget(hwtrain, only_run, tmp_path):
    hwtrain(*XOR, "seed=7")
    folder = only_run()
    assert hwtrain(f"resume={folder}", "budget.steps=5000").code == 0
    longer = json.loads((folder / "run.json").read_text())
    assert longer["steps"] == 5000
    theta = np.load(folder / "checkpoint.npz")["state.theta"]
    hwtrain("task=xor", "budget.steps=5000", "recorder.report=false", "seed=7", "hydra.run.dir=at_once")
    assert np.array_equal(theta, np.load(tmp_path / "at_once" / "checkpoint.npz")["state.theta"])
    assert (tmp_path / "at_once" / "metrics.jsonl").read_text() == (folder / "metrics.jsonl").read_text()


def test_a_run_killed_before_its_first_checkpoint_goes_on_from_its_start(hwtrain, only_run):
    hwtrain(*XOR)
    lines = (only_run() / "metrics.jsonl").read_bytes()
    for name in ("checkpoint.npz", "checkpoint.previous.npz"):
        (only_run() / name).unlink()
    (only_run() / "metrics.jsonl").write_bytes(b"")
    assert hwtrain(f"resume={only_run()}").code == 0
    assert (only_run() / "metrics.jsonl").read_bytes() == lines


class TestResumeRefuses:
    def test_other_settings(self, hwtrain, only_run):
        hwtrain(*XOR)
        answer = hwtrain(f"resume={only_run()}", "algo.eta=5")
        assert answer.code == 2
        assert "keeps its settings" in answer.err

    def test_a_corrupt_checkpoint(self, hwtrain, only_run):
        hwtrain(*XOR)
        path = only_run() / "checkpoint.npz"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data[:-100])
        before = (only_run() / "metrics.jsonl").read_bytes()
        answer = hwtrain(f"resume={only_run()}")
        assert answer.code == 2
        assert "checkpoint.npz is damaged" in answer.err
        assert (only_run() / "metrics.jsonl").read_bytes() == before  # nothing lost

    def test_a_lost_checkpoint(self, hwtrain, only_run):
        hwtrain(*XOR)
        for path in only_run().glob("checkpoint*"):
            path.unlink()
        before = (only_run() / "metrics.jsonl").read_bytes()
        answer = hwtrain(f"resume={only_run()}")
        assert answer.code == 2
        assert "holds no checkpoint" in answer.err
        assert (only_run() / "metrics.jsonl").read_bytes() == before

    @pytest.mark.parametrize(("name", "content"), [("metrics.jsonl", b""), ("run.json", b"[]")])
    def test_lost_lines_and_a_damaged_account(self, hwtrain, only_run, name, content):
        hwtrain(*XOR)
        (only_run() / name).write_bytes(content)
        answer = hwtrain(f"resume={only_run()}", "budget.steps=10000")
        assert answer.code == 2
        assert f"{name} " in answer.err
        assert "Traceback" not in answer.err
        assert (only_run() / name).read_bytes() == content

    def test_a_folder_with_a_configuration_of_something_else(self, hwtrain, tmp_path):
        (tmp_path / "config.yaml").write_text("mine: 1\n")
        answer = hwtrain(*XOR, "hydra.run.dir=.")
        assert answer.code == 2
        assert "config.yaml is there and of something else" in answer.err
        assert (tmp_path / "config.yaml").read_text() == "mine: 1\n"

    def test_other_data(self, hwtrain, only_run, tmp_path):
        (tmp_path / "mine.csv").write_text("0,0,0.0\n0,1,1.0\n1,0,1.0\n1,1,0.0\n" * 5)
        words = ("task=file", "task.path=mine.csv", "network.sizes=[2,2,1]", "budget.steps=100")
        assert hwtrain(*words).code == 0
        with open(tmp_path / "mine.csv", "a") as file:
            file.write("1,1,1.0\n")
        answer = hwtrain(f"resume={only_run()}", "budget.steps=200")
        assert answer.code == 2
        assert "mine.csv has changed or gone since" in answer.err
        assert json.loads((only_run() / "run.json").read_text())["outcome"] == "completed"

    def test_an_event_that_was_left_unfinished(self, hwtrain, only_run):
        hwtrain(*XOR)
        with open(only_run() / "events.jsonl", "a") as file:
            file.write('{"time": "2026')
        assert hwtrain(f"resume={only_run()}", "budget.steps=10000").code == 0
        lines = (only_run() / "events.jsonl").read_text().splitlines()
        assert [json.loads(line)["event"] for line in lines] == ["started", "finished", "resumed", "finished"]

    def test_a_run_that_is_still_going_on(self, hwtrain, tmp_path, only_run):
        process = started(tmp_path, "task=xor", "budget.steps=100000000", "recorder.report=false")
        try:
            answer = hwtrain(f"resume={only_run()}")
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        assert answer.code == 2
        assert "is in use" in answer.err
        assert process.returncode == 130

    def test_a_folder_that_already_holds_a_run(self, hwtrain, only_run):
        hwtrain(*XOR, "hydra.run.dir=here")
        before = (only_run() / "run.json").read_bytes()
        answer = hwtrain(*XOR, "hydra.run.dir=here")
        assert answer.code == 2
        assert "already holds a run" in answer.err
        assert (only_run() / "run.json").read_bytes() == before


def started(folder, *arguments):
    """A run in a process of its own, once its first checkpoint is written."""
    process = subprocess.Popen(
        command(*arguments), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not list(folder.rglob("checkpoint.npz")):
        try:
            process.wait(timeout=0.02)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(process.stdout.read())
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step(tmp_path, only_run, number):
    process = started(tmp_path, "task=xor", "budget.steps=100000000", "recorder.report=false")
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    folder = only_run()
    assert f"python -m hwtrain resume={folder}" in out
    assert json.loads((folder / "run.json").read_text())["outcome"] == "interrupted"
    steps = json.loads((folder / "run.json").read_text())["steps"]
    assert np.load(folder / "checkpoint.npz")["state.step"] == steps
    assert "\r" not in out  # not a terminal


def with_room(folder, size, *arguments):
    """A run whose files cannot grow beyond `size` bytes, as on a full disk."""
    limit = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size})); import hwtrain.__main__ as m"
    )
    code = f"import sys; {limit}; sys.exit(m.main())"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_disk_that_fills_costs_nothing_that_was_written(hwtrain, tmp_path):
    words = ("task=xor", "budget.steps=4000", "recorder.every=4", "hydra.run.dir=here", "recorder.report=false")
    answer = with_room(tmp_path, 30_000, *words)
    assert answer.returncode == 2
    assert "metrics.jsonl: File too large. What was written before is safe" in answer.stderr
    assert json.loads((tmp_path / "here" / "run.json").read_text())["outcome"] == "failed"
    answer = with_room(tmp_path, 1000, "resume=here")
    assert answer.returncode == 2
    assert "run.json: File too large" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert "device failed" not in answer.stderr
    answer = hwtrain("resume=here")
    assert answer.code == 0, answer.err
    other = hwtrain(*words[:-2], "hydra.run.dir=there", words[-1])
    assert other.code == 0, other.err
    assert (tmp_path / "here" / "metrics.jsonl").read_bytes() == (tmp_path / "there" / "metrics.jsonl").read_bytes()


RESUMABLE = (
    "task=xor", "device.chips=2", "device.activation_variation=0.1", "device.cost_noise=1e-4",
    "device.read_seconds=1e-3", "recorder.every=100", "recorder.checkpoint_seconds=0.05", "recorder.report=false",
    "evaluate.every=700",
)  # fmt: skip
VALUES = ("device.stuck=0.1", "device.update_noise=1e-4", "device.programming=incremental", "device.drift=1e-3")
PULSED = ("device=cells", "device/cell=capacitor", "device.cell.lifetime=1000", "device.cell.tick=1e-3")  # which leaks


@pytest.mark.slow
@pytest.mark.parametrize(("device", "steps"), [(VALUES, 20_000), (PULSED, 5_000)], ids=["values", "pulsed"])
def test_killed_ten_times_equals_never_killed(tmp_path, device, steps):
    """SIGKILL at ten random moments; final parameters and metrics bit for bit those of the undisturbed run."""
    words = (*device, *RESUMABLE, f"budget.steps={steps}")
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    subprocess.run(command(*words, f"hydra.run.dir={calm}"), cwd=tmp_path, check=True, capture_output=True)
    lines = len((calm / "metrics.jsonl").read_text().splitlines())
    killed_ten_times(rough, words, lines)
    with np.load(calm / "checkpoint.npz") as one, np.load(rough / "checkpoint.npz") as other:
        assert all(np.array_equal(one[name], other[name]) for name in one.files if name != "progress.seconds")
    assert (calm / "metrics.jsonl").read_bytes() == (rough / "metrics.jsonl").read_bytes()
    one, other = (json.loads((folder / "run.json").read_text()) for folder in (calm, rough))
    for name in ("outcome", "steps", "counts", "metrics"):
        assert one[name] == other[name]


def test_start_up_pulls_in_neither_instruments_nor_plotting():
    heavy = ("pyvisa", "serial", "matplotlib", "pytest")
    code = f"import sys, hwtrain, hwtrain.__main__; print([name for name in {heavy} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=os.environ)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("content", [b"", b"[]\n", b"seed: 0\n", b"\xff\xfe"])
def test_a_damaged_configuration_is_not_resumed(hwtrain, tmp_path, content):
    (tmp_path / "config.yaml").write_bytes(content)
    answer = hwtrain("resume=.", "budget.steps=100")
    assert answer.code == 2
    assert "config.yaml" in answer.err
    assert "Traceback" not in answer.err


def test_the_version_is_ours(hwtrain):
    answer = hwtrain("--version")
    assert (answer.code, answer.out) == (0, f"hwtrain {hwtrain_package.__version__}\n")


def test_a_choice_that_resembles_none_gets_one_list(hwtrain):
    assert hwtrain("algo=zzz").err.count("mono_forward") == 1


def test_a_folder_is_named_in_any_script(hwtrain, tmp_path):
    assert hwtrain("task=xor", "budget.steps=10", "hydra.run.dir='Läufe'").code == 0
    (record,) = tmp_path.rglob("run.json")
    assert record.parent.name == "Läufe"


def test_a_truncated_data_file_is_named(hwtrain, tmp_path):
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{name}-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03" + bytes(100))[:60])
    for verify in ("true", "false"):
        answer = hwtrain("task=mnist", f"task.data_dir={tmp_path / 'data'}", f"task.verify={verify}")
        assert answer.code == 2
        assert "train-images-idx3-ubyte.gz" in answer.err
        assert "Traceback" not in answer.err
    assert not list(tmp_path.rglob("run.json"))
