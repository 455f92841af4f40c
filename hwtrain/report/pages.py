"""Words, tables and pages: settings and numbers as people write them, as text for a terminal and as HTML.

A page holds all it needs, pictures, data and style: a bench PC is offline, and a page must still open in ten years.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwtrain.errors import RecordError
from hwtrain.report.folder import flatten, is_number
from hwtrain.report.settings import ABSENT
from hwtrain.svg import escape

SCHEMA = 1  # of the data inside a page
_MOST_ITEMS = 12  # of a list, in a table

_STYLE = """
:root { color-scheme: light }
body { margin: 0 auto; max-width: 1320px; padding: 1.5rem 2rem 4rem; background: #fff; color: #222;
  font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif }
h1 { font-size: 1.6rem; margin: 0 }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem }
summary h2 { display: inline }
details { margin-top: 2.2rem }
.where { color: #666; margin: .2rem 0 1rem; overflow-wrap: anywhere }
.ending { font-size: 1.05rem; overflow-wrap: anywhere }
.figures { display: flex; flex-wrap: wrap; gap: .8rem 2.6rem; margin: 1.2rem 0 1.6rem }
.figures b { display: block; font-size: 1.25rem; font-weight: 600 }
.figures span { color: #666; font-size: .85rem }
.gallery { display: flex; flex-wrap: wrap; gap: 1.2rem }
.gallery figure { margin: 0; flex: 1 1 480px; max-width: 640px }
svg { display: block; max-width: 100%; height: auto }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { padding: .25rem 1.2rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e4e4e4 }
th { font-weight: 600; color: #444 }
td:not(:last-child) { white-space: nowrap }
pre { background: #f6f6f6; padding: .8rem 1rem; overflow-x: auto; font-size: .85rem; line-height: 1.4 }
"""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under a header, which may be empty."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """Columns, each as wide as its widest entry."""
        rows = [[" ".join(cell.split()) for cell in row] for row in [self.header, *self.rows] if row]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join(line.rstrip() for line in lines)

    def html(self, first: Sequence[str] = ()) -> str:
        """The same as HTML; nothing if there is no row.

        Args:
            first: ready HTML in place of the first column.
        """
        if not self.rows:
            return ""
        cells = [[escape(cell) for cell in row] for row in self.rows]
        cells = [[cell, *row[1:]] for cell, row in zip(first, cells, strict=True)] if first else cells
        lines = ["".join(f"<th>{escape(name)}</th>" for name in self.header)] if self.header else []
        lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in cells]
        body = "\n".join(f"<tr>{line}</tr>" for line in lines)
        return f"<div class='scroll'><table>\n{body}\n</table></div>"


def page(title: str, where: str, sections: Sequence[str], data: Mapping[str, Any]) -> str:
    """A page that needs nothing from anywhere."""
    encoded = json.dumps(_json(data), allow_nan=False)
    for character in "<>&":  # so that nothing inside ends the element or begins another
        encoded = encoded.replace(character, f"\\u{ord(character):04x}")
    body = "\n".join(section for section in sections if section)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="where">{escape(where)}</p>\n{body}\n'
        f'<script type="application/json" id="data">{encoded}</script>\n</body>\n</html>\n'
    )


def gallery(charts: Sequence[str]) -> str:
    """Pictures side by side, as far as there is room."""
    figures = "\n".join(f"<figure>{chart}</figure>" for chart in charts)
    return f"<div class='gallery'>\n{figures}\n</div>" if charts else ""


def section(title: str, content: str, folded: bool = False) -> str:
    """A part of a page; nothing if it has no content."""
    if not content:
        return ""
    if folded:
        return f"<details><summary><h2>{escape(title)}</h2></summary>\n{content}\n</details>"
    return f"<h2>{escape(title)}</h2>\n{content}"


def mapping(value: Any) -> str:
    """A nested JSON object as a table of dotted keys."""
    return (
        Table([], [[key, plain(item)] for key, item in flatten(value).items()]).html()
        if isinstance(value, dict)
        else ""
    )


def save(path: Path, text: str) -> Path:
    """Write a file so that there is always a whole one.

    Raises:
        RecordError: it cannot be written.
    """
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_text(text, encoding="utf-8", errors="replace")
        os.replace(temporary, path)
    except OSError as error:
        raise RecordError(
            f"{path} cannot be written: {error.strerror or error}. Choose another place with --output or --svg; "
            "the runs themselves are untouched."
        ) from error
    return path


def whole(number: int) -> str:
    """A whole number in groups of three digits."""
    return f"{number:,}".replace(",", " ")


def setting(value: Any) -> str:
    """A setting as people write it; a class by its own name."""
    if value is ABSENT:
        return repr(value)
    if is_number(value):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, str):
        return value.rpartition(".")[2] if value.startswith("hwtrain.") else value
    return json.dumps(value)


def brief(keys: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """Keys without what is not needed to tell them apart, and from names that are taken."""
    keys = [full(key) for key in keys]
    last = [*taken, *(key.rpartition(".")[2] for key in keys)]
    return [key if last.count(name) > 1 else name for name, key in zip(last[len(taken) :], keys, strict=True)]


def full(key: str) -> str:
    """A dotted key as it is given: `algo` for `algo._target_`."""
    return key.removesuffix("._target_")


def plain(value: Any) -> str:
    """Any JSON value as text; of a long list only its ends."""
    if isinstance(value, list) and len(value) > _MOST_ITEMS:
        first = ", ".join(map(plain, value[: _MOST_ITEMS - 4]))
        return f"{first}, … {plain(value[-1])} ({len(value)} values)"
    if isinstance(value, list):
        return ", ".join(map(plain, value)) or "\u2013"
    if value is None or value == "":
        return "\u2013"
    return value if isinstance(value, str) else json.dumps(value)


def capital(text: str) -> str:
    """Text that begins a line."""
    return text[:1].upper() + text[1:]


def _json(value: Any) -> Any:
    """JSON types only: numbers that are not finite become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    return value
