"""Charts: well-formed whatever they are given, and a tree in which every line ends at its round."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimp_dagster.report import charts
from selfimp_dagster.report.charts import Node, Point, Series

_TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc", "Cn")), max_size=20)
_SHARE = st.floats(0, 1)
_ROW = 36
_ROUNDING = 0.2  # of coordinates, in pixels


@st.composite
def _points(draw: st.DrawFn, mark: str) -> Point:
    low, value, high = sorted(draw(st.tuples(_SHARE, _SHARE, _SHARE)))
    return Point(value, low, high, mark, draw(_TEXT))


@st.composite
def _trees(draw: st.DrawFn) -> list[Node]:
    """A base and rounds in order, each of which grew from the base or from a promoted round."""
    nodes = [Node(None, "base", "")]
    for _ in range(draw(st.integers(0, 30))):
        parents = [place for place, node in enumerate(nodes) if node.mark in ("base", "promoted")]
        mark = draw(st.sampled_from(["promoted", "rejected", "open"]))
        nodes.append(Node(draw(st.sampled_from(parents)), mark, draw(_TEXT)))
    return nodes


def _numbers(svg: ElementTree.Element) -> list[float]:
    places = ("x", "y", "cx", "cy", "x1", "x2", "y1", "y2", "width", "height")
    return [float(one.attrib[place]) for one in svg.iter() for place in places if place in one.attrib]


@given(_TEXT, _TEXT, st.lists(st.one_of(st.none(), _points("promoted"), _points("rejected")), max_size=40))
def test_accuracies_are_drawn_inside_their_chart(title: str, told: str, points: list[Point | None]) -> None:
    labels = ["base", *(f"{place:04d}" for place in range(len(points)))]
    start = Point(0.5, 0.4, 0.6, "base", "base")
    svg = ElementTree.fromstring(charts.over_rounds(title, told, labels, [start, *points], [None, *points]))
    assert svg.findtext("title") == title
    assert (svg.findtext("desc") or "") == told
    assert len(svg.findall("g")) >= sum(point is not None for point in points) + 1
    width, height = float(svg.attrib["width"]), float(svg.attrib["height"])
    assert all(-1 <= number <= max(width, height) + 1 for number in _numbers(svg))


@given(st.lists(st.tuples(*[st.floats(0, 1e9)] * 3), min_size=1, max_size=40))
def test_columns_reach_no_further_than_their_axis(rows: list[tuple[float, float, float]]) -> None:
    series = [Series(str(part), f"s{part}", [row[part] for row in rows]) for part in range(3)]
    svg = ElementTree.fromstring(charts.columns("t", "d", [str(n) for n in range(len(rows))], series))
    tops = [float(top) for top in re.findall(r"M-?[\d.]+ (-?[\d.]+)h", ElementTree.tostring(svg).decode())]
    assert all(charts._TOP <= top <= float(svg.attrib["height"]) for top in tops)


@given(st.floats(1e-6, 1e12))
def test_an_axis_ends_at_or_a_little_above_its_largest_value(value: float) -> None:
    top = charts.round_up(value)
    assert value <= top * (1 + 1e-12)
    assert top <= 2 * value or math.isclose(top, 2 * value)


@given(_trees())
def test_no_line_of_a_tree_runs_through_another_round(nodes: list[Node]) -> None:
    svg = ElementTree.fromstring(charts.tree("t", "d", nodes, _ROW))
    marks = [_centre(group) for group in svg.findall("g")]
    assert len(marks) == len(set(marks)) == len(nodes)
    for place, line in enumerate(svg.findall("path"), start=1):
        parent = nodes[place].parent
        assert parent is not None
        steps = re.findall(r"([MVC])([^MVC]+)", line.attrib["d"])
        x, y = (float(number) for number in steps[0][1].split())
        assert (x, y) == pytest.approx(marks[parent], abs=_ROUNDING)
        for kind, numbers in steps[1:]:
            *_, end = (float(number) for number in numbers.split())
            if kind == "V":
                passed = [mark for mark in marks if abs(mark[0] - x) < 1 and y + 1 < mark[1] < end - 1]
                assert not passed
            else:
                x = float(numbers.split()[-2])
            y = end
        assert (x, y) == pytest.approx(marks[place], abs=_ROUNDING)


def _centre(group: ElementTree.Element) -> tuple[float, float]:
    """The middle of a node's mark, in the chart's coordinates and rounding."""
    shape = group[1]
    if shape.tag == "circle":
        return float(shape.attrib["cx"]), float(shape.attrib["cy"])
    if shape.tag == "rect":
        size = float(shape.attrib["width"]) / 2
        return round(float(shape.attrib["x"]) + size, 1), round(float(shape.attrib["y"]) + size, 1)
    x, y = (float(number) for number in re.findall(r"[\d.]+", shape.attrib["d"])[:2])
    return round(x + 4.5, 1), round(y + 4.5, 1)


@given(_trees())
def test_a_tree_has_a_mark_and_a_line_for_every_round(nodes: list[Node]) -> None:
    svg = ElementTree.fromstring(charts.tree("t", "d", nodes, _ROW))
    assert len(svg.findall("g")) == len(nodes)
    assert len(svg.findall("path")) == len(nodes) - 1
    assert float(svg.attrib["height"]) == _ROW * len(nodes)
