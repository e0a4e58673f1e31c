"""Figures of a report and their legend."""

import dataclasses
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phi3quant.reporting.drawing import SERIES
from phi3quant.reporting.error_plot import draw_errors
from phi3quant.reporting.page import render
from phi3quant.reporting.plots import draw_quality, has_intervals, spread
from phi3quant.reporting.report import Report
from phi3quant.reporting.series import Series, legend
from tests.reporting.pages import parsed, words


def test_without_matplotlib_the_extra_is_named(
    report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Exception, match=r"phi3quant\[report\]"):
        render(report)


@pytest.mark.parametrize("value", [None, 0.0, -1.0, 1e-300, 1e300])
def test_odd_errors_are_drawn_all_the_same(report: Report, value: float | None) -> None:
    (record,) = report.error_maps
    odd = [[value, *record.errors[0][1:]], [value] * len(record.kinds)]
    for rows in (odd, odd[1:]):
        other = dataclasses.replace(record, errors=rows, relative=rows)
        assert draw_errors("odd", other).endswith("</svg>")


def test_the_error_map_names_its_unit(report: Report) -> None:
    (record,) = report.error_maps
    drawing = draw_errors("errors", record)
    assert "squared error" in drawing
    assert "squared output units per token" in drawing


def test_legends_name_the_variants(report: Report, page: str) -> None:
    names = [variant.name for variant in report.variants]
    assert [series.name for series in legend(report)] == names
    figures = [each for each in parsed(page).iter("figure") if each.find(".//li") is not None]
    assert len(figures) == 2
    for figure in figures:
        shown = [words(item).split(" ", 1)[1] for item in figure.iter("li")]
        assert shown == names


def test_sixty_four_variants_look_different() -> None:
    looks = {(each.colour, each.marker) for each in (Series(index, "") for index in range(64))}
    assert len(looks) == len(SERIES) ** 2


@given(st.lists(st.floats(0.5, 2.0), min_size=2, max_size=6))
def test_equal_places_are_moved_apart_in_order(places: list[float]) -> None:
    moved = spread([*places, places[0]])
    assert len(set(moved)) == len(moved)
    assert abs(moved[0] - moved[-1]) > 0


def test_distant_places_stay() -> None:
    assert spread([3.0, 1.0, 2.0]) == [3.0, 1.0, 2.0]
    assert spread([2.0, 2.0]) == pytest.approx([1.96, 2.04])
    assert spread([]) == []


def test_no_interval_is_drawn_from_too_few_windows(report: Report) -> None:
    row = report.measurement.rows[0]
    drawings = set()
    for windows in (7, 8):
        changed = dataclasses.replace(row, windows=windows)
        measurement = dataclasses.replace(report.measurement, rows=[changed])
        one = dataclasses.replace(report, measurement=measurement)
        drawings.add(draw_quality(one))
        assert has_intervals(one) == (windows == 8)
    assert len(drawings) == 2
