"""Axes and drawings of the report, by hand."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fedkd.results.report.chart import Axis, Line, line_chart
from fedkd.results.report.heat_map import png
from fedkd.results.report.scale import linear, logarithmic


@pytest.mark.parametrize(
    ("low", "high", "whole", "ticks"),
    [
        (0, 8, True, [0, 2, 4, 6, 8]),
        (0, 1, True, [0, 1]),
        (3, 3, True, [3]),
        (0.0, 0.93, False, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-2.0, 2.0, False, [-2.0, -1.0, 0.0, 1.0, 2.0]),
    ],
)
def test_ticks_are_round_and_hold_the_values(low: float, high: float, whole: bool, ticks: list[float]) -> None:
    found = linear(low, high, 0, 100, str, tight=whole, whole=whole)
    assert [value for value, _ in found.ticks] == pytest.approx(ticks)
    assert found.low <= low and found.high >= high and 0 <= found.at(low) <= found.at(high) <= 100


def test_a_tight_axis_ends_where_the_values_do_and_its_ticks_are_round_in_their_unit() -> None:
    found = linear(30.0, 1000.0, 0, 100, str, tight=True, unit=60.0)
    assert (found.low, found.high) == (30.0, 1000.0) and [value for value, _ in found.ticks] == [300.0, 600.0, 900.0]


def test_a_logarithmic_axis_of_one_value_is_not_empty() -> None:
    found = logarithmic(500.0, 500.0, 0, 100, str)
    assert found.at(500.0) == pytest.approx(50) and found.ticks


def test_a_pixel_is_a_cell_dark_to_light_and_nothing_where_nothing_was_measured() -> None:
    with Image.open(io.BytesIO(png(np.array([[0.0, 1.0, np.nan]]), 0.0, 1.0))) as image:
        assert image.convert("RGBA").tobytes() == bytes((68, 1, 84, 255, 253, 231, 37, 255, 0, 0, 0, 0))


def test_a_line_breaks_where_a_value_is_missing_and_a_single_point_is_a_dot() -> None:
    nan = float("nan")
    line = Line("a<b", 1, [0, 1, 2, 3], [0.0, 0.5, nan, 1.0], ["none", "half", "", "all"])
    drawing = str(line_chart([line], Axis("round", "round"), Axis("share", "share"), 'said "so"'))
    assert drawing.count("<circle") == 1 and drawing.count('class="stroke" d="M') == 1
    assert 'data-said="none|half|all"' in drawing and "a&lt;b" in drawing and "said &#34;so&#34;" in drawing
    nothing = str(line_chart([Line("a", 0, [], [], [])], Axis("round", "round"), Axis("share"), "nothing"))
    assert "nothing was measured" in nothing
