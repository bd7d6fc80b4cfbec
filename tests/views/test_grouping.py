"""Pictures of many shapes are shown as pictures of few."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dagger_dsl.views.grouping import grouped
from dagger_dsl.views.picture import Arrow, Picture, Shape


def picture(many: int, links: list[tuple[int, int]], failed: set[int] | None = None) -> Picture:
    states = ["failed" if k in (failed or ()) else "completed" for k in range(many)]
    shapes = tuple(
        Shape(f"n{k}", f"n{k}", body="work", status=state) for k, state in enumerate(states)
    )
    return Picture("many", shapes, tuple(Arrow(f"n{a}", f"n{b}") for a, b in links))


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    many = draw(st.integers(1, 40))
    number = st.integers(0, many - 1)
    links = draw(st.lists(st.tuples(number, number), max_size=80))
    failed = draw(st.sets(number, max_size=4))
    return picture(many, links, failed)


@given(pictures(), st.integers(1, 20))
def test_there_are_at_most_so_many_and_none_is_lost(given: Picture, most: int) -> None:
    found = grouped(given, most)
    assert len(found.shapes) <= max(most, 1)
    if found is given:
        return
    counts: dict[str, int] = {}
    for shape in found.shapes:
        for state, many in (shape.counts or {str(shape.status): 1}).items():
            counts[state] = counts.get(state, 0) + many
    assert sum(counts.values()) == len(given.shapes)
    assert counts.get("failed", 0) == sum(each.status == "failed" for each in given.shapes)
    ids = {shape.id for shape in found.shapes}
    assert all(arrow.source in ids and arrow.target in ids for arrow in found.arrows)
    if any(arrow.source != arrow.target for arrow in given.arrows):
        assert f"{len(given.shapes)} nodes" in found.subtitle


def test_a_small_picture_is_left_alone() -> None:
    small = picture(3, [(0, 1), (1, 2)])
    assert grouped(small, 3) is small


def test_what_does_the_same_between_the_same_neighbours_is_one_box() -> None:
    fan = picture(402, [(0, k) for k in range(1, 401)] + [(k, 401) for k in range(1, 401)])
    found = grouped(fan)
    labels = [shape.label for shape in found.shapes]
    assert labels == ["n0", "400 \N{MULTIPLICATION SIGN} work", "n401"]
    (group,) = (shape for shape in found.shapes if shape.kind == "group")
    assert group.counts == {"completed": 400}
    assert group.detail == "400/400"
    assert len(found.arrows) == 2
    assert found.subtitle == "402 nodes in 3 boxes"


def test_a_failure_stays_by_itself() -> None:
    fan = picture(402, [(0, k) for k in range(1, 401)], failed={7})
    found = grouped(fan)
    assert "n7" in [shape.label for shape in found.shapes]
    assert len(found.shapes) <= 5


def test_a_long_chain_becomes_parts_that_follow_each_other() -> None:
    chain = picture(1_000, [(k, k + 1) for k in range(999)])
    found = grouped(chain)
    assert len(found.shapes) == 40
    assert all(shape.counts == {"completed": 25} for shape in found.shapes)
    assert found.shapes[1].label == "n25 … n49"
    assert found.shapes[1].detail == "25/25"
    assert [(arrow.source, arrow.target) for arrow in found.arrows] == [
        (f"n{25 * k}", f"n{25 * k + 25}") for k in range(39)
    ]


def test_lanes_are_joined_whole() -> None:
    links = [(0, 1 + 3 * k) for k in range(400)]
    links += [(1 + 3 * k + step, 2 + 3 * k + step) for k in range(400) for step in range(2)]
    found = grouped(picture(1_201, links))
    assert [shape.counts for shape in found.shapes[1:]] == [{"completed": 1_200}]


def test_arrows_between_layers_that_longer_ways_imply_are_left_out() -> None:
    links = [(max(0, k - step), k) for k in range(1, 600) for step in (1, 7, 31, 97)]
    found = grouped(picture(600, links), 20)
    assert len(found.shapes) > 5
    assert len(found.arrows) == len(found.shapes) - 1
    assert found.subtitle.endswith("boxes, without arrows that others imply")


def test_what_has_no_pattern_is_grouped_by_layers() -> None:
    links = [(k // 3, k) for k in range(1, 900)] + [(k, (k * 7) % 900) for k in range(100)]
    found = grouped(picture(900, [(a, b) for a, b in links if a < b]), 10)
    assert 1 < len(found.shapes) <= 10
