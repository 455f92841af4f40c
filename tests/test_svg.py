"""Charts are valid XML, show every number they are given, and cut no text."""

import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import numpy as np
import pytest

from hwtrain import svg
from hwtrain.svg import Axis, Group, Mark, Series

SPACE = "{http://www.w3.org/2000/svg}"
STEPS = np.arange(5.0)


def parsed(chart):
    return ElementTree.fromstring(chart)


def words(chart):
    return ["".join(text.itertext()) for text in parsed(chart).iter(f"{SPACE}text")]


def lines(chart, color=svg.COLORS[0]):
    """The points of every piece of the lines in a colour."""
    paths = [path.get("d") for path in parsed(chart).iter(f"{SPACE}path") if path.get("stroke") == color]
    pieces = [piece for path in paths for piece in path.split("M") if piece and "H" not in piece and "h18" not in piece]
    return [np.array([point.split() for point in piece.removesuffix("h0").split("L")], float) for piece in pieces]


def drawn(y, **axis):
    return svg.line_chart(
        [Series(np.arange(len(y), dtype=float), np.array(y, float))], "t", Axis("x"), Axis("y", **axis)
    )


class TestDocument:
    @pytest.mark.parametrize(
        "chart",
        [
            svg.line_chart([], "t", Axis(), Axis()),
            drawn([1.0]),
            drawn([np.nan, np.inf, -np.inf]),
            drawn([1e300, -1e300, 1.0, 2.0]),
            drawn([5e-324, 0.0]),
            drawn([0.0, -1.0], log=True),
            drawn([1e-140, 1e140], log=True),
            svg.value_chart([], "t", Axis(), Axis()),
            svg.value_chart([Group(0, np.nan, np.nan, np.nan, np.array([np.inf]))], "t", Axis(), Axis()),
            svg.histogram(np.empty(0), "t", Axis()),
            svg.histogram(np.full((3, 4), 2.0), "t", Axis()),
            svg.histogram(np.array([np.nan, 1e200, 0.0]), "t", Axis()),
        ],
    )
    def test_any_numbers_give_a_picture(self, chart):
        root = parsed(chart)
        assert root.tag == f"{SPACE}svg" and root.get("width") == "640"
        assert "nan" not in chart.lower() and "inf" not in re.sub("no finite|nothing", "", chart.lower())

    def test_says_so_when_there_is_nothing_to_draw(self):
        assert any("nothing to draw" in text for text in words(drawn([np.nan])))
        assert not any("nothing to draw" in text for text in words(drawn([1.0])))

    def test_text_is_escaped(self):
        nasty = "<script>&\"'\x00\x1b\ud800]]>"
        names = Axis(nasty, names=(nasty,))
        one, two = Series(STEPS, STEPS, nasty), Series(STEPS, STEPS)
        for chart in (
            svg.line_chart([one, two], nasty, Axis(nasty), Axis(nasty), nasty, nasty, [Mark(1, nasty)]),
            svg.value_chart([Group(0, 1, 1, 1, note=nasty)], nasty, names, Axis(nasty), nasty),
            svg.histogram(STEPS, nasty, Axis(nasty), nasty, [Mark(1, nasty)]),
        ):
            assert "<script>" not in chart
            chart.encode()
            assert any("<script>&\"'" in text for text in words(chart))

    def test_long_words_stay_inside(self):
        long = "word " * 60
        names = Axis(long, names=tuple(f"{long}{i}" for i in range(12)))
        charts = [
            svg.line_chart(
                [Series(STEPS, STEPS, long), Series(STEPS, STEPS, long)], long, Axis(long), Axis(long), long
            ),
            svg.value_chart([Group(i, 1, 1, 1) for i in range(12)], long, names, Axis(long), long),
        ]
        for chart in charts:
            for text in parsed(chart).iter(f"{SPACE}text"):
                if not text.get("transform"):
                    size, x = float(text.get("font-size")), float(text.get("x"))
                    width = svg.text_width("".join(text.itertext()), size)
                    left = {"start": x, "middle": x - width / 2, "end": x - width}[text.get("text-anchor")]
                    assert left >= 0 and left + width <= 640, "".join(text.itertext())


class TestLines:
    def test_points_stand_where_the_axes_say(self):
        (piece,) = lines(drawn([0, 10, 20, 30, 40]))
        np.testing.assert_allclose(np.diff(piece[:, 0]), np.diff(piece[:, 0])[0], atol=0.11)
        np.testing.assert_allclose(np.diff(piece[:, 1]), np.diff(piece[:, 1])[0], atol=0.11)
        assert piece[0, 1] > piece[-1, 1]  # pixels count downwards

    def test_equal_ratios_are_equal_steps_on_a_logarithmic_axis(self):
        (piece,) = lines(drawn([1e-3, 1e-1, 1e1, 1e3], log=True))
        np.testing.assert_allclose(np.diff(piece[:, 1]), np.diff(piece[:, 1])[0], atol=0.11)

    def test_not_finite_values_leave_gaps(self):
        assert [len(piece) for piece in lines(drawn([1, 2, np.nan, 3, np.inf, 4, 5, 6]))] == [2, 1, 3]
        assert [len(piece) for piece in lines(drawn([1, 2, 0, 3, -1, 4], log=True))] == [2, 1, 1]

    def test_thinning_keeps_spikes_and_gaps(self):
        y = np.ones(100_000)
        y[51_234], y[60_000:70_000] = 100.0, np.nan
        chart = drawn(y)
        first, second = lines(chart)
        assert len(chart) < 60_000
        high = drawn([1.0, 100.0])
        assert first[:, 1].min() == pytest.approx(lines(high)[0][1, 1], abs=0.1)
        assert second[:, 1].min() == pytest.approx(second[:, 1].max())
        gap = second[0, 0] - first[-1, 0]
        assert gap == pytest.approx(0.1 * (second[-1, 0] - first[0, 0]), abs=3)

    def test_band_surrounds_the_line(self):
        band = svg.line_chart([Series(STEPS, STEPS + 5, "", STEPS + 4, STEPS + 7)], "t", Axis(), Axis())
        (area,) = [path.get("d") for path in parsed(band).iter(f"{SPACE}path") if path.get("fill") != "none"]
        outline = np.array([point.split() for point in area.strip("MZ").split("L")], float)
        (line,) = lines(band)
        assert (outline[:5, 1] < line[:, 1]).all() and (outline[5:][::-1, 1] > line[:, 1]).all()

    def test_thinned_band_keeps_its_extremes(self):
        x = np.arange(50_000.0)
        low, high = np.zeros(50_000), np.ones(50_000)
        low[12_345], high[30_000] = -5, 6
        chart = svg.line_chart([Series(x, 0.5 * np.ones(50_000), "", low, high)], "t", Axis(), Axis())
        (area,) = [path.get("d") for path in parsed(chart).iter(f"{SPACE}path") if path.get("fill") != "none"]
        outline = np.array([point.split() for point in area.strip("MZ").split("L")], float)
        assert np.ptp(outline[:, 1]) == pytest.approx(11 * np.median(outline[:, 1].max() - outline[:, 1]) / 5, rel=0.3)

    def test_each_series_has_its_colour_and_dash(self):
        many = [Series(STEPS, STEPS + i, f"run {i}") for i in range(9)]
        chart = svg.line_chart(many, "t", Axis(), Axis())
        styles = {
            (path.get("stroke"), path.get("stroke-dasharray"))
            for path in parsed(chart).iter(f"{SPACE}path")
            if path.get("stroke-width") == "1.8"
        }
        assert len(styles) == 9
        assert {f"run {i}" for i in range(9)} <= set(words(chart))

    def test_one_series_needs_no_legend_and_many_do_not_hide_the_data(self):
        one = svg.line_chart([Series(STEPS, STEPS, "only")], "t", Axis(), Axis())
        assert "only" not in words(one)
        many = svg.line_chart([Series(STEPS, STEPS, f"a long name of run {i}") for i in range(40)], "t", Axis(), Axis())
        assert "and 28 more" in words(many)
        assert np.ptp(lines(many)[0][:, 1]) > 150

    def test_marks_are_drawn_where_the_data_reaches(self):
        marks = [Mark(2.0, "near"), Mark(50.0, "far"), Mark(np.nan, "nowhere")]
        chart = svg.line_chart([Series(STEPS, STEPS)], "t", Axis(), Axis(), marks=marks)
        assert "near" in words(chart) and not {"far", "nowhere"} & set(words(chart))


class TestTicks:
    @pytest.mark.parametrize(
        ("y", "axis", "some"),
        [
            ([0, 1], {}, {"0", "0.2", "1.0"}),
            ([0, 70], {}, {"0", "20", "60"}),
            ([0, 100_000], {}, {"0", "20k", "100k"}),
            ([0, 3_000_000], {}, {"0.5M", "3.0M"}),
            ([-3, 3], {}, {"\u22122", "0", "2"}),
            ([10, 10.00001], {}, {"10.000000", "10.000010"}),
            ([0, 4e-5], {}, {"2\u00d710\u22125"}),
            ([1e-6, 1e2], {"log": True}, {"10\u22126", "102"}),
            ([0.01, 10], {"log": True}, {"0.01", "0.1", "1", "10"}),
            ([0.1, 0.9], {"log": True}, {"0.1", "0.2", "0.5"}),
            ([99, 100], {"ceiling": 100}, {"99.0", "100.0"}),
        ],
    )
    def test_labels_are_round(self, y, axis, some):
        labels = set(words(drawn(y, **axis)))
        assert some <= labels, labels

    def test_axis_ends_at_its_ceiling(self):
        assert not {"101", "102", "105", "110"} & set(words(drawn([90, 100], ceiling=100)))
        assert "0" in words(drawn([3.0, 50.0]))  # zero costs little here

    def test_labels_do_not_run_into_each_other(self):
        for top in (7, 1234, 99_999, 10**7, 3e-7):
            x = np.linspace(0, top, 50)
            chart = svg.line_chart([Series(x, x)], "t", Axis(), Axis())
            row = [t for t in parsed(chart).iter(f"{SPACE}text") if t.get("text-anchor") == "middle"]
            row = [(float(t.get("x")), svg.text_width("".join(t.itertext()), 11)) for t in row if t.get("y") == "310.0"]
            assert len(row) >= 3
            for (x0, w0), (x1, w1) in pairwise(row):
                assert x0 + w0 / 2 < x1 - w1 / 2


class TestGroups:
    def circles(self, chart):
        return [(float(c.get("cx")), float(c.get("cy")), c.get("r")) for c in parsed(chart).iter(f"{SPACE}circle")]

    def test_every_value_is_a_dot_and_every_group_a_point(self):
        groups = [Group(x, 2.0, 1.0, 3.0, np.array([1.0, 2.0, 3.0, np.nan]), f"{x}/9") for x in (0.0, 1.0, 2.0)]
        chart = svg.value_chart(groups, "t", Axis("setting"), Axis("value"))
        dots = [c for c in self.circles(chart) if c[2] == "2.2"]
        points = [c for c in self.circles(chart) if c[2] == "4.2"]
        assert len(dots) == 9 and len(points) == 3
        assert points[1][0] == pytest.approx((points[0][0] + points[2][0]) / 2, abs=0.11)
        assert {"0.0/9", "1.0/9", "2.0/9"} <= set(words(chart))

    def test_a_bar_without_upper_end_goes_to_the_top(self):
        chart = svg.value_chart([Group(0, np.inf, 1.0, np.inf, np.array([1.0, 2.0, np.inf]))], "t", Axis(), Axis())
        assert [c[2] for c in self.circles(chart)] == ["2.2", "2.2"]
        assert any("V" in path.get("d") for path in parsed(chart).iter(f"{SPACE}path"))

    def test_only_settings_with_an_order_are_joined(self):
        groups = [Group(x, x, x, x) for x in (0.0, 1.0, 2.0)]
        joined, apart = (svg.value_chart(groups, "t", Axis(), Axis(), joined=joined) for joined in (True, False))
        assert len(lines(joined)) == 1 and not lines(apart)

    def test_names_stand_below_their_groups(self):
        groups = [Group(i, 1.0, 1.0, 1.0) for i in range(3)]
        chart = svg.value_chart(groups, "t", Axis("algo", names=("mgd", "spsa", "backprop")), Axis())
        places = {"".join(t.itertext()): float(t.get("x")) for t in parsed(chart).iter(f"{SPACE}text")}
        points = [x for x, _, r in self.circles(chart) if r == "4.2"]
        assert [places[name] for name in ("mgd", "spsa", "backprop")] == pytest.approx(points)


class TestHistogram:
    def test_bars_are_as_tall_as_counts(self):
        chart = svg.histogram(np.repeat([0.0, 10.0], [10, 30]), "t", Axis("parameter [V]"))
        bars = [float(r.get("height")) for r in parsed(chart).iter(f"{SPACE}rect") if r.get("fill-opacity")]
        assert bars[-1] == pytest.approx(3 * bars[0], rel=0.01) and sum(bar > 0.5 for bar in bars) == 2

    def test_range_is_marked(self):
        chart = svg.histogram(np.linspace(-2, 2, 99), "t", Axis(), marks=[Mark(-1, "lowest"), Mark(9, "highest")])
        assert "lowest" in words(chart) and "highest" not in words(chart)


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_sequential_colours_are_colours(count):
    colors = svg.sequential(count)
    assert len(set(colors)) == count and all(re.fullmatch("#[0-9A-F]{6}", color) for color in colors)
