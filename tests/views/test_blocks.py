"""Wide rows and long chains are blocks: nothing is lost, and the picture fits on a page."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl.views.blocks import LONG, WIDE, arranged
from dagger_dsl.views.picture import Arrow, Picture, Shape
from dagger_dsl.views.svg import drawn, picture_to_html

SVG = "{http://www.w3.org/2000/svg}"


def picture(many: int, links: list[tuple[int, int]], *, label: str = "") -> Picture:
    shapes = tuple(Shape(f"n{k}", f"n{k}", body="work", status="completed") for k in range(many))
    return Picture("flow", shapes, tuple(Arrow(f"n{a}", f"n{b}", label) for a, b in links))


def fan(many: int) -> Picture:
    inside = range(1, many + 1)
    return picture(many + 2, [(0, k) for k in inside] + [(k, many + 1) for k in inside])


def chain(many: int) -> Picture:
    return picture(many, [*pairwise(range(many))])


def lanes(many: int) -> Picture:
    links = []
    for first in range(1, 2 * many, 2):
        links += [(0, first), (first, first + 1), (first + 1, 2 * many + 1)]
    return picture(2 * many + 2, links)


def leaves(shape: Shape) -> Iterator[Shape]:
    if not shape.members:
        yield shape
    for each in shape.members:
        yield from leaves(each)


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    many = draw(st.integers(1, 30))
    number = st.integers(0, many - 1)
    found = picture(many, draw(st.lists(st.tuples(number, number), max_size=40)))
    whole = [fan(many), chain(many), lanes(many), found]
    return draw(st.sampled_from(whole))


@given(pictures())
def test_no_shape_is_lost_and_every_arrow_leads_where_it_did(given: Picture) -> None:
    found = arranged(given)
    owner = {leaf.id: shape.id for shape in found.shapes for leaf in leaves(shape)}
    assert sorted(owner) == sorted(shape.id for shape in given.shapes)
    ways = {(arrow.source, arrow.target) for arrow in found.arrows}
    steps = set()
    for shape in found.shapes:
        for each in (shape, *shape.members):
            if each.kind == "chain":
                steps |= {(one.id, other.id) for one, other in pairwise(each.members)}
    for arrow in given.arrows:
        ends = owner[arrow.source], owner[arrow.target]
        assert ends in ways or (arrow.source, arrow.target) in steps
    ids = [shape.id for shape in found.shapes]
    assert len(set(ids)) == len(ids)
    assert {end for way in ways for end in way} <= set(ids)


@given(pictures())
def test_boxes_lie_apart_and_within(given: Picture) -> None:
    found = drawn(given)
    boxes = []
    shift = ""
    for group in ElementTree.fromstring(found.text).iter(SVG + "g"):
        shift = group.get("transform") or shift
        if group.get("class", "").startswith("box"):
            frame = group.find(SVG + "rect")
            assert frame is not None
            x, y, width, height = (float(frame.get(k, "")) for k in ("x", "y", "width", "height"))
            boxes.append((x, y, x + width, y + height))
    assert len(boxes) == len(given.shapes)
    for one, other in combinations(boxes, 2):
        across = min(one[2], other[2]) - max(one[0], other[0])
        assert across <= 0.2 or min(one[3], other[3]) - max(one[1], other[1]) <= 0.2
    left, top = map(float, shift.removeprefix("translate(").removesuffix(")").split())
    assert all(left + box[0] >= 0 and left + box[2] <= found.width for box in boxes)
    assert all(top + box[1] >= 0 and top + box[3] <= found.height for box in boxes)


@pytest.mark.parametrize("given", [fan(40), chain(60), lanes(30), picture(200, [])])
def test_it_fits_on_a_page(given: Picture) -> None:
    found = drawn(given)
    assert found.width <= 830
    assert found.height <= 1_500


def test_a_fan_is_a_grid_and_a_small_one_is_not() -> None:
    shapes = arranged(fan(WIDE)).shapes
    assert [shape.kind for shape in shapes] == ["step", "grid", "step"]
    assert len(arranged(fan(WIDE)).arrows) == 2
    small = fan(WIDE - 1)
    assert arranged(small) is small


def test_a_long_chain_is_broken_into_lines_and_a_short_one_is_not() -> None:
    (only,) = arranged(chain(LONG)).shapes
    assert only.kind == "chain"
    assert [each.id for each in only.members] == [f"n{k}" for k in range(LONG)]
    short = chain(LONG - 1)
    assert arranged(short) is short


def test_short_chains_between_the_same_neighbours_are_lanes() -> None:
    _, grid, _ = arranged(lanes(WIDE)).shapes
    assert grid.kind == "grid"
    assert {each.kind for each in grid.members} == {"chain"}


def test_what_has_a_label_or_leads_elsewhere_stays_outside() -> None:
    labelled = picture(20, [*pairwise(range(20))], label="ok")
    assert arranged(labelled) is labelled
    cycle = picture(20, [*pairwise(range(20)), (19, 0)])
    assert arranged(cycle) is cycle
    entered = picture(21, [*pairwise(range(20)), (19, 0), (20, 0)])
    assert ("n19", "n0") in {(arrow.source, arrow.target) for arrow in arranged(entered).arrows}


def test_a_step_that_no_run_has_gone_is_faint_inside_of_a_block_too() -> None:
    given = chain(LONG)
    last = Arrow(f"n{LONG - 2}", f"n{LONG - 1}", idle=True)
    svg = drawn(Picture("flow", given.shapes, (*given.arrows[:-1], last))).text
    assert svg.count('class="arrow idle"') == 1
    assert svg.count('class="arrow"') == LONG - 2


def test_a_large_picture_can_be_scrolled_by_the_keyboard_and_stays_readable() -> None:
    wide = picture(40, [(k, j) for j in range(20, 40) for k in (j - 20, (j - 19) % 20)])
    found = drawn(wide)
    assert found.width > 1_500
    html = picture_to_html(wide)
    assert 'tabindex="0" role="group" aria-label="Picture of flow, which can be scrolled"' in html
    assert "overflow:auto" in html
    least = float(html.partition("min-width:")[2].partition("px")[0])
    assert least * 11 / found.width >= 9
    assert "min-width" not in found.text  # a picture alone fits where it is
    assert "tabindex" not in picture_to_html(chain(3))
