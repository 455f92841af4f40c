"""Pictures and tables of runs: a page for one run, a page that compares several, and the same as text.

    python -m hwtrain.report RUN_DIR                               write its report.html again, print a summary
    python -m hwtrain.report RUN_DIR RUN_DIR ...                   write comparison.html, print a table
    python -m hwtrain.report SWEEP_DIR --against device.cost_noise draw the final metric against a setting

folder.py reads what the recorder wrote, settings.py tells runs apart, metrics.py sums up over replicas, pages.py knows
words, tables and HTML; single.py and comparison.py put these together.
"""

from __future__ import annotations

from pathlib import Path

from hwtrain.report import pages
from hwtrain.report.folder import read
from hwtrain.report.single import run_page


def write(run_dir: str | Path) -> Path:
    """Write the report of a run into its folder, finished or not; one that is there is replaced as a whole.

    Returns:
        Path of the page.

    Raises:
        RecordError: the folder holds no run, a file of it cannot be read, or the page cannot be written.
    """
    run = read(Path(run_dir))
    return pages.save(run.folder / "report.html", run_page(run))
