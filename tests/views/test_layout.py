"""The layered layout: nothing lies over anything else, whatever the graph."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl.views.layout import Box, Drawing, Line, lay_out

Rectangle = tuple[float, float, float, float]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[Box], list[Line]]:
    """Draw boxes, and lines between any of them: cycles, loops, doubles and labels too."""
    many = draw(st.integers(1, 14))
    side = st.integers(10, 200).map(float)
    boxes = [Box(draw(side), draw(side)) for _ in range(many)]
    ends = st.integers(0, many - 1)
    label = st.none() | st.tuples(st.integers(10, 90).map(float), st.just(18.0))
    lines = draw(st.lists(st.builds(Line, ends, ends, label), max_size=24))
    return boxes, lines


def rectangle(centre: tuple[float, float], width: float, height: float) -> Rectangle:
    x, y = centre
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def overlap(one: Rectangle, other: Rectangle) -> bool:
    return (
        min(one[2], other[2]) - max(one[0], other[0]) > 1e-6
        and min(one[3], other[3]) - max(one[1], other[1]) > 1e-6
    )


def rectangles(boxes: list[Box], lines: list[Line], drawing: Drawing) -> list[Rectangle]:
    found = [
        rectangle(place, box.width, box.height)
        for box, place in zip(boxes, drawing.places, strict=True)
    ]
    for line, place in zip(lines, drawing.labels, strict=True):
        assert (place is None) == (line.label is None)
        if place is not None and line.label is not None and line.source != line.target:
            found.append(rectangle(place, *line.label))
    return found


@given(graphs())
def test_boxes_and_labels_lie_apart_and_within(graph: tuple[list[Box], list[Line]]) -> None:
    boxes, lines = graph
    drawing = lay_out(boxes, lines)
    found = rectangles(boxes, lines, drawing)
    for one, other in combinations(found, 2):
        assert not overlap(one, other)
    for left, top, right, bottom in found:
        assert -1e-6 <= left <= right <= drawing.width + 1e-6
        assert -1e-6 <= top <= bottom <= drawing.height + 1e-6


@given(graphs())
def test_lines_begin_and_end_at_their_boxes_and_pass_no_other(
    graph: tuple[list[Box], list[Line]],
) -> None:
    boxes, lines = graph
    drawing = lay_out(boxes, lines)
    solid = [
        rectangle(place, box.width, box.height)
        for box, place in zip(boxes, drawing.places, strict=True)
    ]
    for number, (line, way) in enumerate(zip(lines, drawing.ways, strict=True)):
        if line.source == line.target:
            assert number in drawing.turned
            continue
        up = -1 if number in drawing.turned else 1
        for end, (x, y) in ((line.source, way[0]), (line.target, way[-1])):
            left, top, right, bottom = solid[end]
            assert left <= x <= right
            assert y == pytest.approx(top) or y == pytest.approx(bottom)
        rises = [(y2 - y1) * up for (_, y1), (_, y2) in pairwise(way)]
        assert min(rises) >= -1e-6
        # Inside of a layer a line goes straight; between layers there are no boxes.
        for (x1, y1), (x2, y2) in pairwise(way):
            if x1 == x2:
                for left, top, right, bottom in solid:
                    inside = min(max(y1, y2), bottom) - max(min(y1, y2), top) > 1e-6
                    assert not (inside and left < x1 < right)


@given(graphs())
def test_the_same_graph_is_laid_out_the_same(graph: tuple[list[Box], list[Line]]) -> None:
    assert lay_out(*graph) == lay_out(*graph)


def test_nothing_is_an_empty_drawing() -> None:
    drawing = lay_out([], [])
    assert (drawing.width, drawing.height, drawing.places) == (0.0, 0.0, ())


def test_a_chain_is_straight() -> None:
    drawing = lay_out([Box(100, 30)] * 5, [Line(k, k + 1) for k in range(4)])
    assert len({round(x, 3) for x, _ in drawing.places}) == 1
    heights = [y for _, y in drawing.places]
    assert heights == sorted(heights)


def test_a_source_stands_over_its_middle() -> None:
    drawing = lay_out([Box(60, 30)] * 4, [Line(0, 1), Line(0, 2), Line(0, 3)])
    (top, *rest) = (x for x, _ in drawing.places)
    assert top == pytest.approx(sum(rest) / 3)
    assert rest == sorted(rest)  # in their own order


def test_crossings_that_can_be_avoided_are() -> None:
    # 0 and 1 lead to 3 and 2: with their order kept the two lines would cross.
    drawing = lay_out([Box(60, 30)] * 4, [Line(0, 3), Line(1, 2)])
    (a, b, c, d) = (x for x, _ in drawing.places)
    assert (a < b) == (d < c)


def test_a_cycle_goes_down_and_one_line_back_up() -> None:
    drawing = lay_out([Box(60, 30)] * 3, [Line(0, 1), Line(1, 2), Line(2, 0), Line(1, 1)])
    assert drawing.turned == {2, 3}
    assert drawing.ways[2][0][1] > drawing.ways[2][-1][1]


def test_a_first_box_stands_near_what_it_leads_to() -> None:
    drawing = lay_out([Box(60, 30)] * 5, [Line(0, 1), Line(1, 2), Line(2, 3), Line(4, 3)])
    assert drawing.places[4][1] == drawing.places[2][1]


def test_parts_that_no_line_joins_are_stacked_rather_than_one_endless_row() -> None:
    lines = [Line(3 * k, 3 * k + 1, (40.0, 18.0)) for k in range(60)]
    boxes = [Box(100, 40)] * 180
    drawing = lay_out(boxes, lines)
    assert 500 < drawing.width <= 1_000
    found = rectangles(boxes, lines, drawing)
    assert not any(overlap(one, other) for one, other in combinations(found, 2))
    tops = [y for _, y in drawing.places[::3]]
    assert tops == sorted(tops)  # in their own order
    together = lay_out([Box(100, 40)] * 40, [Line(0, k) for k in range(1, 40)])
    assert together.width > 4_000  # what is joined stays together


def test_many_boxes_are_laid_out_at_once() -> None:
    many = 300
    lines = [Line(k // 2, k) for k in range(1, many)] + [Line(k, k + 7) for k in range(0, 280, 3)]
    drawing = lay_out([Box(120, 44)] * many, lines)
    assert len(drawing.places) == many
