"""Training in a process of its own, and killing it."""

import subprocess
import sys
import time

import numpy as np


def command(*arguments):
    return [sys.executable, "-m", "hwtrain", *arguments]


def killed_ten_times(folder, arguments, lines):
    """Train to the end in `folder`, though SIGKILL comes at ten random moments.

    Args:
        folder: the run folder.
        arguments: words of the command line, without the folder.
        lines: what metrics.jsonl will hold in the end.
    """
    random = np.random.default_rng(0)
    metrics, going_on = folder / "metrics.jsonl", command(f"resume={folder}")
    line = command(*arguments, f"hydra.run.dir={folder}")
    for moment in np.sort(random.uniform(0, 0.9 * lines, 10)):
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < moment:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.02))
        process.kill()
        process.communicate()
        line = going_on
    last = subprocess.run(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=250)
    assert last.returncode == 0, last.stderr
