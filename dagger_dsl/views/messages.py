"""Messages as pictures: which came of which, through which agents, and what became of each."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

import attrs

from dagger_dsl.engine.words import count
from dagger_dsl.model.excerpt import excerpt
from dagger_dsl.model.message_flow import DEAD, HANDLED, RETRYING, WAITING, MessageCourse
from dagger_dsl.model.text import first_line
from dagger_dsl.views.dot import picture_to_dot
from dagger_dsl.views.picture import Arrow, Picture, Shape
from dagger_dsl.views.states import GLYPHS, WORST

if TYPE_CHECKING:
    from dagger_dsl.pubsub.seen import MessageTree

__all__ = [
    "look_of_course",
    "messages_bundle",
    "messages_to_dot",
    "messages_to_svg",
    "picture_of_messages",
    "picture_of_ways",
    "standing_of_messages",
]

#: In a picture of more messages than this, those that went the same way are one.
_MANY: Final = 24

#: Messages that were given up stand by themselves as long as there are no more.
_ALONE: Final = 6

#: Messages of a box that are in its tooltip.
_NAMED: Final = 12

#: Characters of a payload in a box and in a tooltip.
_BRIEF: Final = 28
_VALUE: Final = 300

#: The state of a node whose look a message has.
_LOOKS: Final[Mapping[str, str]] = {
    HANDLED: "completed",
    WAITING: "pending",
    RETRYING: "waiting",
    DEAD: "failed",
}
_WORDS: Final[Mapping[str, str]] = {
    HANDLED: "handled by",
    WAITING: "waits for",
    RETRYING: "is given again to",
    DEAD: "given up by",
}


def messages_to_dot(tree: MessageTree) -> str:
    """Return messages as DOT, a box a message."""
    return picture_to_dot(picture_of_messages(tree.courses, tree.title, tree.note))


def messages_to_svg(tree: MessageTree) -> str:
    """Return messages as SVG."""
    from dagger_dsl.views.svg import picture_to_svg

    return picture_to_svg(picture_of_ways(tree.courses, tree.title, tree.note))


def messages_bundle(
    tree: MessageTree,
    include: Collection[str] | None = None,
    exclude: Collection[str] | None = None,
) -> dict[str, str]:
    """Return what a notebook shows of messages, by MIME type; see `picture_bundle`."""
    from dagger_dsl.views.notebook import picture_bundle

    text = f"{tree.title}: {tree.note or standing_of_messages(tree.courses)}"
    drawn = partial(picture_of_ways, tree.courses, tree.title, tree.note)
    return picture_bundle(drawn, text, include, exclude)


def standing_of_messages(courses: Sequence[MessageCourse]) -> str:
    """Return how many messages there are, and what became of them."""
    if not courses:
        return "no messages"
    states = Counter(_state_of(each) for each in courses)
    words = {HANDLED: "handled", WAITING: "waiting", RETRYING: "given again", DEAD: "given up"}
    parts = [f"{states[each]:,} {word}" for each, word in words.items() if states[each]]
    if states[""]:
        parts.append(f"{states['']:,} for nobody")
    return f"{count(len(courses), 'message')}: {', '.join(parts)}"


def look_of_course(course: MessageCourse) -> str:
    """Return the state of a node whose look a message has."""
    return _LOOKS.get(_state_of(course), "skipped")


def _state_of(course: MessageCourse) -> str:
    states = {each.state for each in course.handlings}
    return next((each for each in (DEAD, RETRYING, WAITING, HANDLED) if each in states), "")


# --- a box a message ------------------------------------------------------------------------------


def picture_of_messages(courses: Sequence[MessageCourse], title: str, note: str = "") -> Picture:
    """Return the picture of messages, each a box; arrows bear the name of the agent between two.

    Args:
        courses: What to show.
        title: What to call it.
        note: What to say where there are none.
    """
    known = {each.message.id for each in courses}
    answered = {(each.message.cause, each.message.source) for each in courses}
    shapes = {
        each.message.id: _shape(each, known, answered) for each in courses
    }  # ids are unique, but for what was given by hand and forgotten since
    arrows = [
        Arrow(message.cause, message.id, message.source)
        for message in (each.message for each in courses)
        if message.cause in known and message.cause != message.id
    ]
    told = standing_of_messages(courses) if courses else note or "no messages"
    return Picture(
        title, tuple(shapes.values()), tuple(dict.fromkeys(arrows)), told, _worst(courses)
    )


def _worst(courses: Iterable[MessageCourse]) -> str | None:
    found = {look_of_course(each) for each in courses}
    return next((each for each in WORST if each in found), None)


def _shape(
    course: MessageCourse, known: Collection[str], answered: Collection[tuple[str, str]]
) -> Shape:
    message = course.message
    return Shape(
        message.id,
        message.channel,
        detail=_detail(course),
        status=look_of_course(course),
        marks=tuple(_ends(course, answered)),
        tooltip=tuple(_tooltip(course, known)),
        body=message.channel,
        values=partial(_values, course),
    )


def _detail(course: MessageCourse) -> str:
    for each in course.handlings:
        if each.state in (DEAD, RETRYING):
            return f"{each.agent}: {first_line(each.error)}"
    if course.fault:
        return "payload cannot be read"
    return excerpt(course.message.payload, _BRIEF)[0]


def _ends(course: MessageCourse, answered: Collection[tuple[str, str]]) -> Iterator[str]:
    """Yield which agents have handled a message and published nothing: no arrow shows them."""
    state = _state_of(course)
    if state in (DEAD, RETRYING):  # the error needs the room
        return
    if not state:
        yield "for nobody"
    names = [
        each.agent
        for each in course.handlings
        if each.state == HANDLED and (course.message.id, each.agent) not in answered
    ]
    done = GLYPHS["completed"]
    if len(names) == 1:
        yield f"{done} {names[0]}"
    elif names:
        yield f"{done} {len(names)} agents"


def _tooltip(course: MessageCourse, known: Collection[str]) -> Iterator[str]:
    message = course.message
    yield f"message {message.id} on {message.channel}"
    source = f"agent {message.source}" if message.source else "outside"
    at = dt.datetime.fromtimestamp(message.timestamp, dt.UTC)
    yield f"from {source}, {at:%Y-%m-%d %H:%M:%S} UTC"
    if message.key:
        yield f"key {message.key}"
    if message.task_id:
        yield f"task {message.task_id}"
    if message.cause and message.cause not in known:
        yield f"came of message {message.cause}, which is not shown"
    for each in islice(course.handlings, _NAMED):
        calls = f", {count(each.attempts, 'call')} failed" if each.attempts else ""
        error = f": {first_line(each.error)}" if each.error else ""
        yield f"{_WORDS[each.state]} {each.agent}{calls}{error}"
    if len(course.handlings) > _NAMED:
        yield f"and {len(course.handlings) - _NAMED:,} more agents"
    if not course.handlings:
        yield "nobody subscribes to it"


def _values(course: MessageCourse) -> Iterable[str]:
    told = first_line(course.fault) if course.fault else excerpt(course.message.payload, _VALUE)[0]
    yield f"payload: {told}"


# --- a box a way ----------------------------------------------------------------------------------


def picture_of_ways(courses: Sequence[MessageCourse], title: str, note: str = "") -> Picture:
    """Return the picture of messages; of many, those that went the same way are one box.

    Two went the same way where they came through the same agents on the same channels. What was
    given up stands by itself as long as it is little: it is what people look for.
    """
    found = picture_of_messages(courses, title, note)
    if len(found.shapes) <= _MANY:
        return found
    dead = [each.id for each in found.shapes if each.status == "failed"]
    alone = set(dead) if len(dead) <= _ALONE else set[str]()
    heads = {each.target: each for each in found.arrows}
    places = {each.id: each for each in found.shapes}
    group: dict[str, str] = {}
    first: dict[tuple[str, str, str], str] = {}
    for each in courses:
        ways = [each.message.id]
        while ways[-1] in heads and ways[-1] not in group and len(ways) <= len(places):
            ways.append(heads[ways[-1]].source)
        for step in reversed(ways):
            if step in group:
                continue
            arrow = heads.get(step)
            above = group.get(arrow.source, "") if arrow is not None else ""
            agent = "" if arrow is None else arrow.label
            way = (above, agent, places[step].body)
            group[step] = step if step in alone else first.setdefault(way, step)
    members: dict[str, list[Shape]] = {}
    for shape in found.shapes:
        members.setdefault(group[shape.id], []).append(shape)
    shapes = tuple(_joined(each) for each in members.values())
    arrows = dict.fromkeys(
        Arrow(group[each.source], group[each.target], each.label) for each in found.arrows
    )
    told = f"{found.subtitle}, in {count(len(shapes), 'box', 'boxes')}"
    return attrs.evolve(found, shapes=shapes, arrows=tuple(arrows), subtitle=told)


def _joined(members: Sequence[Shape]) -> Shape:
    if len(members) == 1:
        return members[0]
    looks = Counter(str(each.status) for each in members)
    ends = {each.marks for each in members if each.status != "failed"}
    done = f"{looks['completed']:,}/{len(members):,}" if set(looks) != {"skipped"} else ""
    lines = [f"{count(len(members), 'message')} on {members[0].body}"]
    lines += [f"{each.id}: {each.detail}" for each in members[:_NAMED]]
    if len(members) > _NAMED:
        lines.append(f"and {len(members) - _NAMED:,} more")
    return Shape(
        members[0].id,
        f"{len(members):,} \N{MULTIPLICATION SIGN} {members[0].body}",
        detail=done,
        kind="group",
        status=next(each for each in WORST if looks[each]),
        counts=dict(looks),
        marks=next(iter(ends)) if len(ends) == 1 else (),
        tooltip=tuple(lines),
        body=members[0].body,
    )
