"""Figures are well-formed pictures of the numbers they are given."""

from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from onward.report import bars, curves
from onward.report.figures import scatter

SVG = "{http://www.w3.org/2000/svg}"
points = st.lists(st.tuples(st.integers(0, 100), st.floats(0, 100)), max_size=8)


@given(st.dictionaries(st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=9), points))
def test_any_series_draw_one_dot_a_point_inside_the_frame(series: dict[str, list[tuple[float, float]]]) -> None:
    root = ElementTree.fromstring(curves(series, "a < b & c", "epoch", "accuracy (%)"))
    dots = root.findall(f"{SVG}circle")
    assert len(dots) == sum(map(len, series.values()))
    assert len(root.findall(f"{SVG}polyline")) == sum(map(bool, series.values()))
    for dot in dots:
        assert 0 <= float(dot.get("cx", "nan")) <= 720
        assert 0 <= float(dot.get("cy", "nan")) <= 420


def test_numbers_that_are_none_are_left_out() -> None:
    root = ElementTree.fromstring(curves({"x": [(1, float("nan")), (2, 3.0)]}, "t", "x", "y"))
    assert len(root.findall(f"{SVG}circle")) == 1


def test_a_line_beside_another_is_dashed_in_its_colour() -> None:
    series = {"a": [(1, 1.0), (2, 2.0)], "a, theirs": [(1, 2.0), (2, 1.0)], "b": [(1, 3.0)]}
    ours, theirs, other = ElementTree.fromstring(curves(series, "t", "x", "y", {"a, theirs": "a"})).iter(
        f"{SVG}polyline"
    )
    assert theirs.get("stroke") == ours.get("stroke") != other.get("stroke")
    assert [line.get("stroke-dasharray") is None for line in (ours, theirs, other)] == [True, False, True]


@given(
    st.dictionaries(st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1), st.floats(0, 100), max_size=8)
)
def test_any_values_draw_one_bar_each_inside_the_frame(values: dict[str, float]) -> None:
    root = ElementTree.fromstring(bars(values, "a < b", "ratio", 1.0))
    _, *drawn = root.findall(f"{SVG}rect")
    assert len(drawn) == len(values)
    for bar in drawn:
        assert float(bar.get("x", "nan")) + float(bar.get("width", "nan")) <= 720


def test_equal_points_lie_on_the_diagonal_of_a_scatter() -> None:
    root = ElementTree.fromstring(scatter({"a": [(0.1, 0.1), (0.9, 0.9)], "b": [(0.5, 0.2)]}, "t", "x", "y"))
    first, second, *_ = root.iter(f"{SVG}circle")
    line = next(p.get("d", "") for p in root.iter(f"{SVG}path") if p.get("stroke-dasharray"))
    (x0, y0), (x1, y1) = (tuple(map(float, end.split())) for end in line[1:].split("L"))
    for dot in (first, second):
        x, y = float(dot.get("cx", "nan")), float(dot.get("cy", "nan"))
        assert abs((y - y0) * (x1 - x0) - (x - x0) * (y1 - y0)) < 0.2 * abs(x1 - x0)
    assert len(list(root.iter(f"{SVG}circle"))) == 3 + 2
