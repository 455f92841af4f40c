"""Small charts as SVG text: lines, values against a setting, histograms.

Every chart is a whole document: it stands alone as a .svg file and goes into a page as it is, and needs nothing from
anywhere. Values that are not finite leave gaps. Long series are thinned to two points per pixel, the lowest and the
highest, so that no spike is lost.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

WIDTH = 640.0
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")  # Okabe and Ito, for all eyes
DASHES = ("", "7 3", "2 3")  # tell series apart once the colours are used up

_RAMP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98))  # viridis without its yellow, too pale on white
_FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif"
_TITLE, _TEXT, _SMALL, _POWER = 15, 12, 11, 8  # font sizes [px]
_INK, _GREY, _LIGHT = "#222222", "#666666", "#E4E4E4"
_TIMES = "\u00d7"
_HUGE, _TINY = 1e150, 1e-150  # beyond these numbers count as not finite, or as zero: differences and steps must exist
_MAX_DOTS = 300  # of one group
_LEGEND, _ROW = 12, 18.0  # most entries of a legend, and the height of a row of them [px]
_SLANT = 30  # of names along an axis that do not fit side by side [degrees]
_LEFT_OUT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0 has no such character


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis says and where it may end.

    Args:
        label: with its unit in square brackets.
        log: powers of ten instead of equal steps; values of zero and below leave gaps.
        floor: the axis ends here unless the data goes further down.
        ceiling: the axis ends here unless the data goes further up.
        names: what stands at 0, 1, 2, ...; none is an axis of numbers.
    """

    label: str = ""
    log: bool = False
    floor: float = -math.inf
    ceiling: float = math.inf
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Series:
    """A line, with a band around it if `low` and `high` are given.

    Args:
        x: (n,), rising.
        y: (n,).
        name: for the legend.
        low: lower end of the band, (n,).
        high: upper end of the band, (n,).
        color: "#RRGGBB"; none is the next of `COLORS`.
    """

    x: Array
    y: Array
    name: str = ""
    low: Array | None = None
    high: Array | None = None
    color: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """All values at one setting.

    Args:
        x: the setting, or its place on an axis with names.
        middle: drawn as a point.
        low: lower end of its bar.
        high: upper end of its bar.
        values: each a faint dot, (n,).
        note: stands above them all.
    """

    x: float
    middle: float
    low: float
    high: float
    values: Array = field(default_factory=lambda: np.empty(0))
    note: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A value to compare with, as a thin line across the chart; drawn where the data reaches that far."""

    value: float
    label: str


def line_chart(
    series: Sequence[Series],
    title: str,
    x: Axis,
    y: Axis,
    note: str = "",
    legend: str = "",
    marks: Sequence[Mark] = (),
    height: float = 340,
) -> str:
    """Lines over a common axis.

    Args:
        series: drawn in this order, the last on top.
        title: stands on top.
        x: the horizontal axis.
        y: the vertical axis.
        note: a line beneath the title, for what the lines and bands are.
        legend: what the names of the series have in common; a single series needs no legend.
        marks: heights to compare with.
        height: of the whole chart [px].
    """
    series = [_clean(item) for item in series]
    colors = [item.color or COLORS[i % len(COLORS)] for i, item in enumerate(series)]
    dashes = ["" if item.color else DASHES[i // len(COLORS) % len(DASHES)] for i, item in enumerate(series)]
    entries = [_Entry(item.name, *style) for item, *style in zip(series, colors, dashes, strict=True) if item.name]
    heights = [part for item in series for part in (item.y, item.low, item.high) if part is not None]
    across, up = _all(item.x for item in series), _all(heights)
    frame = _Frame(title, note, _Legend(legend, entries if len(series) > 1 else []), x, y, across, up, height)
    frame.marks(marks)
    for item, color in zip(series, colors, strict=True):
        frame.band(item, color)
    for item, color, dash in zip(series, colors, dashes, strict=True):
        frame.line(item, color, dash)
    return frame.document()


def value_chart(
    groups: Sequence[Group],
    title: str,
    x: Axis,
    y: Axis,
    note: str = "",
    joined: bool = True,
    marks: Sequence[Mark] = (),
    height: float = 340,
) -> str:
    """A value against a setting: for each group a point, its bar, and every single value as a faint dot.

    Args:
        groups: from left to right.
        title: stands on top.
        x: the setting.
        y: the value.
        note: a line beneath the title, for what points and bars are.
        joined: join the points by a line; not where the settings have no order.
        marks: heights to compare with.
        height: of the whole chart [px].
    """
    places = _finite([group.x for group in groups])
    heights = _all([*(group.values for group in groups), [v for g in groups for v in (g.middle, g.low, g.high)]])
    frame = _Frame(
        title, note, _Legend(), x, y, places, heights, height, pad=0.06, head=any(group.note for group in groups)
    )
    frame.marks(marks)
    frame.groups(groups, joined)
    return frame.document()


def grid(charts: Sequence[str], columns: int = 2) -> str:
    """Charts side by side in one document, row by row, all as high as the first."""
    height = float(charts[0].split('height="', 1)[1].split('"', 1)[0])
    rows = -(-len(charts) // columns)
    placed = [
        chart.replace("<svg ", f'<svg x="{WIDTH * (number % columns):g}" y="{height * (number // columns):g}" ', 1)
        for number, chart in enumerate(charts)
    ]
    wide, high = WIDTH * min(columns, len(charts)), height * rows
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide:g}" height="{high:g}" viewBox="0 0 {wide:g} {high:g}">'
    )
    return "\n".join([head, *placed, "</svg>"])


def histogram(
    values: Array, title: str, x: Axis, note: str = "", marks: Sequence[Mark] = (), height: float = 300
) -> str:
    """How often which value occurs.

    Args:
        values: of any shape.
        title: stands on top.
        x: the axis of the values.
        note: a line beneath the title.
        marks: values to compare with.
        height: of the whole chart [px].
    """
    values = _finite(values).ravel()
    values = values[np.isfinite(values)]
    if values.size:
        reach = _widened(float(values.min()), float(values.max()))
        counts, edges = np.histogram(values, bins=int(np.clip(math.sqrt(values.size), 8, 60)), range=reach)
    else:
        counts, edges = np.zeros(0, int), np.zeros(0)
    tall = np.append(counts, 0).astype(float) if values.size else np.zeros(0)
    frame = _Frame(title, note, _Legend(), x, Axis("count", floor=0), edges, tall, height)
    frame.bars(counts, edges)
    frame.marks(marks, across=False)
    return frame.document()


def sequential(count: int) -> tuple[str, ...]:
    """Colours for values that have an order, dark to light, told apart by all eyes."""
    ramp = np.array(_RAMP, float)
    places = np.linspace(0, len(ramp) - 1, count) if count > 1 else np.zeros(count)
    channels = np.stack([np.interp(places, np.arange(len(ramp)), channel) for channel in ramp.T], axis=-1)
    return tuple("#{:02X}{:02X}{:02X}".format(*color) for color in channels.round().astype(int).tolist())


def escape(text: object) -> str:
    """Text as XML and HTML may hold it, in content and in quoted attributes."""
    clean = _LEFT_OUT.sub("\ufffd", str(text))
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#39;")):
        clean = clean.replace(character, entity)
    return clean


# Numbers


def _finite(values: object) -> Array:
    """As floats, with NaN for all that cannot be drawn."""
    array = np.asarray(values, dtype=float)
    with np.errstate(invalid="ignore"):
        array = np.where(np.abs(array) <= _HUGE, array, np.nan)
        return np.where(np.abs(array) < _TINY, 0.0, array)


def _all(parts: Iterable[object]) -> Array:
    arrays = [_finite(part).ravel() for part in parts]
    return np.concatenate(arrays) if arrays else np.empty(0)


def _clean(series: Series) -> Series:
    low, high = (None if part is None else _finite(part) for part in (series.low, series.high))
    return Series(_finite(series.x), _finite(series.y), series.name, low, high, series.color)


def _widened(low: float, high: float) -> tuple[float, float]:
    """A range that has a width."""
    if high > low + 1e-12 * max(abs(low), abs(high)):
        return low, high
    room = 0.1 * max(abs(low), abs(high)) or 1.0
    return low - room, high + room


def _thinned(pixels: Array, *rows: Array) -> tuple[Array, list[Array]]:
    """At most two points per pixel column: of every row its lowest, then its highest value there."""
    if pixels.size <= 4 * WIDTH:
        return pixels, list(rows)
    known = np.isfinite(pixels)
    pixels, rows = pixels[known], tuple(row[known] for row in rows)
    columns = np.floor(pixels)
    starts = np.flatnonzero(np.diff(columns, prepend=np.nan))
    thin = [np.stack([np.fmin.reduceat(row, starts), np.fmax.reduceat(row, starts)], -1).ravel() for row in rows]
    return np.repeat(columns[starts] + 0.5, 2), thin


def _pieces(*rows: Array) -> Iterator[slice]:
    """Where all rows are finite, piece by piece."""
    whole = np.all([np.isfinite(row) for row in rows], axis=0)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], whole, [False]]).astype(int)))
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        yield slice(start, stop)


# Axes


@dataclass(frozen=True, slots=True)
class _Tick:
    """A place on an axis and what is written there: `text`, and a power as in 10³."""

    value: float
    text: str
    power: str = ""

    @property
    def width(self) -> float:
        return text_width(self.text, _SMALL) + text_width(self.power, _POWER)


@dataclass(frozen=True, slots=True)
class _Scale:
    """From data to pixels. `low` and `high` are data, or their logarithms on a logarithmic axis."""

    axis: Axis
    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, axis: Axis, data: Array, pad: float, start: float, end: float, zero: bool = True) -> _Scale:
        """Fit the data, with some room; and include zero where that costs little, if so wished."""
        if axis.names:
            return cls(axis, -0.5, len(axis.names) - 0.5, start, end)
        shown = _logarithm(data) if axis.log else data
        shown = shown[np.isfinite(shown)]
        if not shown.size:
            return cls(axis, 0, 1, start, end)
        least, most = float(shown.min()), float(shown.max())
        low, high = _widened(least, most)
        room = pad * (high - low)
        if axis.log:
            return cls(axis, low - room, high + room, start, end)
        bottom = 0.0 if zero and 0 <= low < 0.3 * high else low - room
        return cls(axis, min(least, max(bottom, axis.floor)), max(most, min(high + room, axis.ceiling)), start, end)

    def __call__(self, values: object) -> Array:
        data = _finite(values)
        data = _logarithm(data) if self.axis.log else data
        return self.start + (data - self.low) / (self.high - self.low) * (self.end - self.start)

    def at(self, value: float) -> float:
        return float(self(value))

    def holds(self, value: float) -> bool:
        """Is the value within the axis?"""
        first, last = sorted((self.start, self.end))
        return first - 0.5 <= self.at(value) <= last + 0.5

    def ticks(self, room: float) -> list[_Tick]:
        """Labelled ticks, about one every `room` pixels."""
        most = max(2, int(abs(self.end - self.start) / room))
        if self.axis.names:
            every = -(-len(self.axis.names) // max(most, 1))
            return [_Tick(i, name) for i, name in enumerate(self.axis.names) if i % every == 0]
        if not self.axis.log:
            return _linear_ticks(self.low, self.high, most)
        return [tick for tick in _log_ticks(self.low, self.high, most) if self.holds(tick.value)]

    def minor(self) -> list[float]:
        """Ticks without a label: 2 to 9 times every power of ten."""
        if not self.axis.log or self.high - self.low > 6:
            return []
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        return [value for power in powers for i in range(1, 10) if self.holds(value := i * 10.0**power)]


def _logarithm(values: Array) -> Array:
    return np.log10(np.where(values > 0, values, np.nan))


def _linear_ticks(low: float, high: float, most: int) -> list[_Tick]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / most
    power = math.floor(math.log10(rough))
    factor = next(factor for factor in (1, 2, 5, 10) if factor * 10.0**power >= rough * (1 - 1e-9))
    power, factor = (power + 1, 1) if factor == 10 else (power, factor)
    step = factor * 10.0**power
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    values = [index * step for index in range(first, last + 1)]
    largest = max((abs(value) for value in values), default=0.0)
    return [_Tick(value, *_tick_text(value, power, largest)) for value in values]


def _tick_text(value: float, power: int, largest: float) -> tuple[str, str]:
    """A tick's text, given the power of ten of the step between ticks and the largest tick."""
    if not value:
        return "0", ""
    if 1e-3 <= largest < 1e4:
        return _minus(f"{value:.{max(0, -power)}f}"), ""
    if 1e4 <= largest < 1e15:
        exponent, suffix = max((e, s) for e, s in ((3, "k"), (6, "M"), (9, "G"), (12, "T")) if largest >= 10.0**e)
        if exponent - power <= 3:
            return _minus(f"{value / 10.0**exponent:.{max(0, exponent - power)}f}{suffix}"), ""
        return _minus(f"{value:.{max(0, -power)}f}"), ""
    exponent = math.floor(math.log10(largest) + 1e-9)
    return _minus(f"{value / 10.0**exponent:.{max(0, exponent - power)}f}{_TIMES}10"), _minus(str(exponent))


def _log_ticks(low: float, high: float, most: int) -> list[_Tick]:
    """Powers of ten; over less than two of them also their doubles and fivefolds, or equal steps."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    if high - low >= 2:
        every = -(-len(powers) // most)
        values = [10.0**power for power in powers if power % every == 0]
        return [_Tick(value, *_power_text(value, values)) for value in values]
    values = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    values = [value for value in values if low - 1e-9 <= math.log10(value) <= high + 1e-9]
    if len(values) < 3:
        return _linear_ticks(10.0**low, 10.0**high, 4)
    return [_Tick(value, *_power_text(value, values)) for value in values]


def _power_text(value: float, values: Sequence[float]) -> tuple[str, str]:
    if min(values) >= 1e-3 and max(values) < 1e4:
        return f"{value:.6g}", ""
    exponent = math.floor(math.log10(value) + 1e-9)
    factor = round(value / 10.0**exponent)
    return ("10" if factor == 1 else f"{factor}{_TIMES}10"), _minus(str(exponent))


def _minus(text: str) -> str:
    return text.replace("-", "\u2212")


# Text


def text_width(text: str, size: float) -> float:
    """About how wide a text is [px], rather too much than too little: the font is the reader's."""
    narrow, wide = set("iljtfrI.,:;|!'()[] "), set("mwMWOQG@%" + _TIMES)
    return size * sum(0.36 if c in narrow else 0.92 if c in wide else 0.68 if c.isupper() else 0.61 for c in text)


def shorten(text: str, size: float, room: float) -> str:
    """A text cut to the room it has [px], with an ellipsis in place of the rest."""
    if text_width(text, size) <= room:
        return text
    while text and text_width(text + "…", size) > room:
        text = text[:-1]
    return text.rstrip() + "…"


# Drawing


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of a legend."""

    name: str
    color: str
    dash: str


@dataclass(frozen=True, slots=True)
class _Legend:
    """What the series are called, after what their names have in common."""

    title: str = ""
    entries: Sequence[_Entry] = ()


class _Frame:
    """Title, legend, axes and grid; whoever makes it adds the data.

    Args:
        title: stands on top.
        note: stands beneath it.
        legend: stands beneath that.
        x: the horizontal axis.
        y: the vertical axis.
        across: all horizontal values.
        up: all vertical values.
        height: of the whole chart [px].
        pad: room left and right of the data, as a share of it.
        head: leave room for notes above the data?
    """

    def __init__(
        self,
        title: str,
        note: str,
        legend: _Legend,
        x: Axis,
        y: Axis,
        across: Array,
        up: Array,
        height: float,
        pad: float = 0.0,
        head: bool = False,
    ) -> None:
        self._parts: list[str] = []
        self._title = title
        top = self._heading(title, note)
        measured = _Scale.around(y, up, 0.05, height, top)  # tells how wide its labels are
        self._left = max(40.0, max((tick.width for tick in measured.ticks(34)), default=0.0) + 36)
        self._right = WIDTH - 18
        self._x = _Scale.around(x, across, pad, self._left, self._right, zero=not pad)
        self._top = self._legend(legend, top) + (_ROW if head else 0)
        self._bottom = height - 48 + max(0.0, self._top - top - 2 * _ROW)  # many names do not squeeze the data
        self._height = self._bottom + 48 + self._below()
        self._y = _Scale.around(y, up, 0.05, self._bottom, self._top)
        self._axes(x, y)
        if not (np.isfinite(across).any() and np.isfinite(self._y(up)).any()):
            middle = (self._left + self._right) / 2
            self._text(middle, (self._top + self._bottom) / 2, "nothing to draw: no finite value", _TEXT, "middle")

    def document(self) -> str:
        """The chart as a document."""
        size = f'width="{WIDTH:g}" height="{self._height:g}" viewBox="0 0 {WIDTH:g} {self._height:g}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(self._title)}"'
        body = "\n".join(self._parts)
        background = f'<rect width="{WIDTH:g}" height="{self._height:g}" fill="#FFFFFF"/>'
        return f'{head} font-family="{escape(_FONT)}">\n{background}\n{body}\n</svg>'

    def marks(self, marks: Sequence[Mark], across: bool = True) -> None:
        """Thin lines at values to compare with: heights, or places if not `across`."""
        scale = self._y if across else self._x
        for mark in marks:
            if not (math.isfinite(mark.value) and scale.holds(mark.value)):
                continue
            place = scale.at(mark.value)
            if across:
                self._stroke(f"M{self._left:.1f} {place:.1f}H{self._right:.1f}", _GREY, 1, "5 4")
                beside = place - 4 if place > self._top + 12 else place + 13
                self._text(self._left + 6, beside, mark.label, _SMALL, "start", _GREY)
            else:
                self._stroke(f"M{place:.1f} {self._bottom:.1f}V{self._top:.1f}", _GREY, 1, "5 4")
                side = "start" if place < (self._left + self._right) / 2 else "end"
                self._text(place + (4 if side == "start" else -4), self._top + 9, mark.label, _SMALL, side, _GREY)

    def band(self, series: Series, color: str) -> None:
        """The spread around a line."""
        if series.low is None or series.high is None:
            return
        x, (low, high) = _thinned(self._x(series.x), self._y(series.low), self._y(series.high))
        if x.size < series.x.size:  # thinned: two points a column, the outer one is what counts
            low, high = (np.repeat(f(row.reshape(-1, 2), axis=1), 2) for f, row in ((np.max, low), (np.min, high)))
        for piece in _pieces(x, low, high):
            outline = np.concatenate([_points(x[piece], high[piece]), _points(x[piece], low[piece])[::-1]])
            self._parts.append(f'<path d="{_polyline(outline)}Z" fill="{color}" fill-opacity="0.16"/>')

    def line(self, series: Series, color: str, dash: str) -> None:
        """A line, with dots where the points are few."""
        x, (y,) = _thinned(self._x(series.x), self._y(series.y))
        pieces = [_points(x[piece], y[piece]) for piece in _pieces(x, y)]
        if pieces:
            self._stroke("".join(map(_polyline, pieces)), color, 1.8, dash)
        if sum(map(len, pieces)) <= 30:
            self._dots((point for piece in pieces for point in piece.tolist()), color, 2.4, 1)

    def bars(self, counts: NDArray[np.int_], edges: Array) -> None:
        """The bars of a histogram."""
        base = self._y.at(0)
        for count, left, right in zip(self._y(counts).tolist(), self._x(edges[:-1]), self._x(edges[1:]), strict=True):
            box = f'x="{left + 0.5:.1f}" y="{count:.1f}" width="{max(right - left - 1, 0.5):.1f}"'
            self._parts.append(f'<rect {box} height="{base - count:.1f}" fill="{COLORS[0]}" fill-opacity="0.8"/>')

    def groups(self, groups: Sequence[Group], joined: bool) -> None:
        """Faint dots, then bars, then points, joined by a thin line if so wished."""
        places = self._x([group.x for group in groups])
        gaps = np.diff(np.sort(places[np.isfinite(places)]))
        spread = float(np.clip(0.5 * gaps[gaps > 0].min(), 3, 26)) if (gaps > 0).any() else 26.0
        middles = self._y([group.middle for group in groups])
        for place, group in zip(places.tolist(), groups, strict=True):
            values = np.sort(self._y(group.values))
            values = values[np.isfinite(values)]
            values = values[np.linspace(0, values.size - 1, min(values.size, _MAX_DOTS)).round().astype(int)]
            aside = np.modf(np.arange(values.size) * 0.6180339887)[0] - 0.5  # spreads evenly, however many there are
            dots = _points(place + spread * (aside if values.size > 1 else 0 * aside), values)
            self._dots(dots.tolist(), COLORS[0], 2.2, 0.3)
            if group.note and math.isfinite(place):
                self._text(place, self._top - 6, group.note, _SMALL, "middle", _GREY)
        pieces = [_points(places[piece], middles[piece]) for piece in _pieces(places, middles)]
        if joined:
            self._stroke("".join(map(_polyline, pieces)), COLORS[0], 1, opacity=0.5)
        for place, group in zip(places.tolist(), groups, strict=True):
            low, high = self._y.at(group.low), self._y.at(group.high)
            if math.isfinite(place) and math.isfinite(low):
                top = f"V{high:.1f}M{place - 4:.1f} {high:.1f}h8" if math.isfinite(high) else f"V{self._top:.1f}"
                self._stroke(f"M{place - 4:.1f} {low:.1f}h8M{place:.1f} {low:.1f}{top}", _INK, 1.4)
        self._dots((point for piece in pieces for point in piece.tolist()), COLORS[0], 4.2, 1, edge="#FFFFFF")

    def _heading(self, title: str, note: str) -> float:
        """Title and note; returns the height at which they end."""
        self._text(14, 24, shorten(title, _TITLE * 1.13, WIDTH - 28), _TITLE, "start", _INK, bold=True)
        if note:
            self._text(14, 42, shorten(note, _SMALL, WIDTH - 28), _SMALL, "start", _GREY)
        return 58.0 if note else 42.0

    def _legend(self, legend: _Legend, top: float) -> float:
        """Rows of entries; returns the height at which they end."""
        if not legend.entries:
            return top
        left_out = len(legend.entries) - _LEGEND
        x, y = self._left, top + 2
        if legend.title:
            self._text(x, y, title := shorten(legend.title, _TEXT, 300), _TEXT, "start", _GREY)
            x += text_width(title, _TEXT) + 14
        for entry in legend.entries[:_LEGEND]:
            name = shorten(entry.name, _TEXT, (self._right - self._left) / 2 - 48)
            width = 24 + text_width(name, _TEXT) + 18
            if x > self._left and x + width > self._right + 18:
                x, y = self._left, y + _ROW
            self._stroke(f"M{x:.1f} {y - 4:.1f}h18", entry.color, 2.6, entry.dash)
            self._text(x + 24, y, name, _TEXT)
            x += width
        if left_out > 0:
            x, y = (x, y) if x + 90 < self._right else (self._left, y + _ROW)
            self._text(x, y, f"and {left_out} more", _TEXT, "start", _GREY)
        return y + 14

    def _axes(self, x: Axis, y: Axis) -> None:
        """Grid, axis lines, ticks and labels."""
        for tick in self._y.ticks(34):
            place = self._y.at(tick.value)
            self._stroke(f"M{self._left:.1f} {place:.1f}H{self._right:.1f}", _LIGHT, 1)
            self._tick_text(tick, self._left - 7, place + 4, "end")
        if x.names:
            self._names(self._x.ticks(14))
        else:
            self._numbers(self._x.ticks(64))
        for value in self._x.minor():
            self._stroke(f"M{self._x.at(value):.1f} {self._bottom:.1f}v3", _GREY, 1)
        for value in self._y.minor():
            self._stroke(f"M{self._left - 3:.1f} {self._y.at(value):.1f}h3", _GREY, 1)
        self._stroke(f"M{self._left:.1f} {self._bottom:.1f}H{self._right:.1f}", _GREY, 1)
        middle, centre = (self._left + self._right) / 2, (self._top + self._bottom) / 2
        self._text(middle, self._height - 10, shorten(x.label, _TEXT, self._right - self._left), _TEXT, "middle")
        label = shorten(y.label, _TEXT, self._height - 60)
        centre = min(centre, self._height - 8 - text_width(label, _TEXT) / 2)
        self._text(18, centre, label, _TEXT, "middle", turn=f' transform="rotate(-90 18 {centre:.1f})"')

    def _numbers(self, ticks: Sequence[_Tick]) -> None:
        """Labels along the horizontal axis, those left out that would run into the one before."""
        end = -math.inf
        for tick in ticks:
            place, half = self._x.at(tick.value), tick.width / 2
            self._stroke(f"M{place:.1f} {self._bottom:.1f}v5", _GREY, 1)
            middle = min(place, WIDTH - half - 2)
            if middle - half > end:
                self._tick_text(tick, middle, self._bottom + 18, "middle")
                end = middle + half + 6

    def _names(self, ticks: Sequence[_Tick]) -> None:
        """Names along the horizontal axis, slanted if they do not fit side by side."""
        slanted = self._below() > 0
        for tick in ticks:
            place = self._x.at(tick.value)
            self._stroke(f"M{place:.1f} {self._bottom:.1f}v5", _GREY, 1)
            if slanted:
                name = shorten(tick.text, _SMALL, self._slanted_room(tick))
                turn = f' transform="rotate(-{_SLANT} {place + 4:.1f} {self._bottom + 16:.1f})"'
                self._text(place + 4, self._bottom + 16, name, _SMALL, "end", _GREY, turn=turn)
            else:
                self._tick_text(tick, place, self._bottom + 18, "middle")

    def _below(self) -> float:
        """What slanted names take of the height [px]."""
        ticks = self._x.ticks(14)
        room = (self._right - self._left) / max(len(ticks), 1) - 8
        if not self._x.axis.names or all(tick.width <= room for tick in ticks):
            return 0.0
        longest = max(min(tick.width, self._slanted_room(tick)) for tick in ticks)
        return longest * math.sin(math.radians(_SLANT))

    def _slanted_room(self, tick: _Tick) -> float:
        return min(180.0, (self._x.at(tick.value) - 4) / math.cos(math.radians(_SLANT)))

    def _text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        anchor: str = "start",
        color: str = _INK,
        bold: bool = False,
        turn: str = "",
    ) -> None:
        weight = ' font-weight="600"' if bold else ""
        place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}" fill="{color}"'
        self._parts.append(f"<text {place}{weight}{turn}>{escape(text)}</text>")

    def _tick_text(self, tick: _Tick, x: float, y: float, anchor: str) -> None:
        power = f'<tspan dy="-5" font-size="{_POWER}">{escape(tick.power)}</tspan>' if tick.power else ""
        place = f'x="{x:.1f}" y="{y:.1f}" font-size="{_SMALL}" text-anchor="{anchor}" fill="{_GREY}"'
        self._parts.append(f"<text {place}>{escape(tick.text)}{power}</text>")

    def _stroke(self, path: str, color: str, width: float, dash: str = "", opacity: float = 1) -> None:
        if not path:
            return
        style = f'stroke="{color}" stroke-width="{width:g}" stroke-linejoin="round"'
        style += f' stroke-dasharray="{dash}"' if dash else ' stroke-linecap="round"' if width > 1 else ""
        style += f' stroke-opacity="{opacity:g}"' if opacity < 1 else ""
        self._parts.append(f'<path d="{path}" fill="none" {style}/>')

    def _dots(
        self, points: Iterable[Sequence[float]], color: str, radius: float, opacity: float, edge: str = ""
    ) -> None:
        style = (f' fill-opacity="{opacity:g}"' if opacity < 1 else "") + (f' stroke="{edge}"' if edge else "")
        circles = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>' for x, y in points)
        if circles:
            self._parts.append(f'<g fill="{color}"{style}>{circles}</g>')


def _points(x: Array, y: Array) -> Array:
    return np.stack([x, y], axis=-1)


def _polyline(points: Array) -> str:
    """A path through points (n, 2); a single point becomes a dot of the pen's width."""
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points.tolist())
    return path if len(points) > 1 else path + "h0"
