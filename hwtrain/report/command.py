"""The command line: `python -m hwtrain.report RUN_DIR ...`.

Exit codes: 0 written, 2 something the user can mend.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hwtrain.errors import ConfigError, HwtrainError, RecordError
from hwtrain.report import pages
from hwtrain.report.comparison import compare, comparison_charts, comparison_page, comparison_text
from hwtrain.report.folder import Run, find, read
from hwtrain.report.single import main_picture, run_page, run_text, write

MENDABLE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        found = [read(folder) for folder in find(options.folders)]
        text = _one(found[0], options) if len(found) == 1 else _several(found, options)
    except HwtrainError as error:
        print(f"hwtrain.report: {' '.join(str(error).split())}", file=sys.stderr)
        return MENDABLE
    print(text.encode(sys.stdout.encoding or "utf-8", "replace").decode(sys.stdout.encoding or "utf-8"))
    return 0


def _one(run: Run, options: argparse.Namespace) -> str:
    for name, given in (("--against", options.against), ("--level", options.level)):
        if given is not None:
            raise ConfigError(f"{name} compares runs, and {run.folder} is one. Name several, or a folder with several.")
    lines = [] if options.svg is None else [str(pages.save(options.svg, main_picture(run, options.metric)))]
    page = write(run.folder) if options.output is None else pages.save(options.output, run_page(run))
    return "\n".join([str(page), *lines, "", run_text(run)])


def _several(found: Sequence[Run], options: argparse.Namespace) -> str:
    comparison = compare(found, options.metric, options.against, options.level)
    output = options.output or _home(options.folders, found) / "comparison.html"
    charts = comparison_charts(comparison)
    if options.svg is not None and not charts:
        raise RecordError("there is nothing to draw: no run has a curve, and none was compared against a setting.")
    lines = [str(pages.save(output, comparison_page(comparison, output.parent)))]
    if options.svg is not None:
        lines.append(str(pages.save(options.svg, next(iter(charts.values())))))
    return "\n".join([*lines, "", comparison_text(comparison)])


def _home(folders: Sequence[Path], found: Sequence[Run]) -> Path:
    """Where a comparison belongs: the one folder given, else the nearest folder around all runs, else here."""
    if len(folders) == 1:
        return folders[0]
    try:
        common = Path(os.path.commonpath([run.folder.resolve().parent for run in found]))
    except ValueError:  # on different drives
        return Path()
    return Path() if common == Path(common.anchor) else common


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hwtrain.report",
        description="Report on one run, or compare several. Writes a page that needs no network, prints a table.",
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="RUN_DIR", help="a run folder, or a folder with several"
    )
    parser.add_argument("--against", metavar="KEY", help="draw the final metric against a setting: device.cost_noise")
    parser.add_argument("--metric", help="the metric that counts (default: test_accuracy)")
    parser.add_argument(
        "--level", type=float, metavar="X", help="accuracy to reach, as a share (default: the runs' target)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="where the page goes")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="save the main picture alone as well")
    return parser
