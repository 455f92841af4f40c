"""Pictures and tables of runs: a page for one run, a page that compares several, and the same as text.

    python -m hwtrain.report RUN_DIR                               write its report.html again, print a summary
    python -m hwtrain.report RUN_DIR RUN_DIR ...                   write comparison.html, print a table
    python -m hwtrain.report SWEEP_DIR --against device.cost_noise draw the final metric against a setting

folder.py reads what the recorder wrote, settings.py tells runs apart, metrics.py sums up over replicas, pages.py knows
words, tables and HTML; single.py and comparison.py put these together; command.py is the command line.
"""

from __future__ import annotations

from hwtrain.report.command import main
from hwtrain.report.single import write

__all__ = ["main", "write"]
