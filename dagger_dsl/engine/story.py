"""What a run's journal tells beside outcomes, and how a resume does it again.

Commands, the invocations of mapped nodes and the items of generators are replayed in the order in
which they were recorded. What they did to the plan comes first, so that every recorded outcome has
a slot. What they did to the state comes between the completions it came between: a node that was
added after a branch was cancelled does not belong to that branch, however often the run is resumed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from dagger_dsl.engine.error_info import error_info
from dagger_dsl.engine.instance import Run
from dagger_dsl.engine.notes import of_json
from dagger_dsl.engine.people import Question, question_of
from dagger_dsl.errors import DaggerError, InvalidState
from dagger_dsl.model.commands import (
    AddNodes,
    EmitEvent,
    SetNodeInputs,
    SetNodesEnabled,
    command_from_plain,
    with_inputs,
)
from dagger_dsl.model.events import CustomEvent
from dagger_dsl.model.graph import Graph

if TYPE_CHECKING:
    from dagger_dsl.engine.steering import Steering
    from dagger_dsl.store.records import StoredCommand, StoredNode

__all__ = ["Story", "graph_now", "rebuild", "waits_of"]

#: What stands in the note of a command beside the command itself.
BESIDE = frozenset(("depth", "round"))


@attrs.define
class Story:
    """What was recorded of a run beside its outcomes.

    Attributes:
        commands: Plain forms of the applied commands, each with its number in the record.
        questions: What nodes asked, by node, key and attempt.
        again: By name, the entry since which a node counts as not completed.
        hooked: Whether hooks watched the last owner's part of the run, and since when they have
            watched every owner's.
        recalled: By name, how often something that is started at most once was taken back.
        steering: What lets the graph grow again; made for the first command.
    """

    commands: list[tuple[int, Mapping[str, Any]]] = attrs.field(factory=list)
    questions: dict[tuple[str, str, int], Question] = attrs.field(factory=dict)
    hooked: tuple[bool, int] = (False, 0)
    again: dict[str, int] = attrs.field(factory=dict)
    recalled: Counter[str] = attrs.field(factory=Counter)
    steering: Steering | None = None

    def between(
        self, run: Run, done: Mapping[int, StoredNode]
    ) -> list[tuple[int, Callable[[], object]]]:
        """Return what commands did to the state, each with the number of completions before it."""
        from dagger_dsl.engine.steering import Steering

        steering = Steering(run)
        numbers = [node.seq for node in done.values()]
        return [
            (bisect_left(numbers, seq), partial(steering.replay, plain))
            for seq, plain in self.commands
            if plain["do"] in ("add", "cancel", "enable", "inputs", "pause", "resume")
        ]

    def emitted(self, run: Run, after: int) -> list[CustomEvent]:
        """Return the custom events that were asked for after an entry of the record."""
        found = []
        emits = [(seq, plain) for seq, plain in self.commands if plain["do"] == "emit"]
        for number, (seq, plain) in enumerate(emits, start=1):
            if seq > after:
                command = command_from_plain(_alone(plain))
                assert isinstance(command, EmitEvent)
                depth = plain.get("depth", 0)
                found.append(
                    CustomEvent(run.run_id, command.name, command.payload, number, depth=depth)
                )
        return found


def _alone(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return a command's plain form without what its note holds beside it."""
    return {name: value for name, value in plain.items() if name not in BESIDE}


def graph_now(graph: Graph, recorded: Iterable[StoredCommand]) -> Graph:
    """Return a recorded graph as commands have changed it; no action need be known for that.

    Args:
        graph: What the run began with.
        recorded: The entries of its journal, in order.
    """
    nodes = dict(graph.nodes)
    for entry in recorded:
        body = of_json(entry.body)
        plain = body.get("command") if isinstance(body, dict) else None
        if plain is None or plain["do"] not in ("add", "enable", "inputs"):
            continue
        command = command_from_plain(_alone(plain))
        if isinstance(command, AddNodes):
            nodes |= {node.id: node for node in (spec.to_node() for spec in command.specs)}
        elif isinstance(command, SetNodesEnabled):
            for node_id in command.ids:
                nodes[node_id] = nodes[node_id].replace(enabled=command.enabled)
        elif isinstance(command, SetNodeInputs):
            nodes[command.node_id] = with_inputs(nodes[command.node_id], command.inputs)
    return graph if nodes == graph.nodes else graph.replace(nodes=nodes)


def waits_of(recorded: Iterable[StoredCommand]) -> dict[tuple[str, str], str]:
    """Return what nodes were waiting for last, in words, by node and key."""
    found = {}
    for entry in recorded:
        body = of_json(entry.body)
        if isinstance(body, dict) and "asks" in body:
            asked = body["asks"]
            question = Question(str(asked["prompt"]), job_id=asked.get("job"))
            found[asked["node"], asked["key"]] = question.reason
    return found


def rebuild(run: Run, recorded: Iterable[StoredCommand]) -> Story:
    """Let a run's graph grow again as it had grown, and return what else there is to know.

    Args:
        run: Freshly made from the graph that the run began with.
        recorded: The entries of its journal, in order.

    Raises:
        InvalidState: An entry is not what this package writes.
    """
    story = Story()
    for entry in recorded:
        try:
            _replay(run, story, entry)
        except DaggerError:  # many are ValueErrors, too
            raise
        except _UNREADABLE as error:
            raise InvalidState(
                f"run {run.run_id} cannot go on: entry {entry.seq} of its record cannot be read "
                f"({error_info(error)}); the database was changed from outside"
            ) from error
    run.renew()
    return story


#: What values of other types than ours come to where they are used.
_UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError)


def _replay(run: Run, story: Story, entry: StoredCommand) -> None:
    """Take over one entry of a run's record."""
    key, body = entry.key, of_json(entry.body)
    if not isinstance(body, dict):
        return
    if key is not None and key.startswith("inbox:"):
        run.seen_request = max(run.seen_request, int(key.removeprefix("inbox:")))
    if "command" in body:
        plain = body["command"]
        story.commands.append((entry.seq, plain))
        if story.steering is None:
            from dagger_dsl.engine.steering import Steering

            story.steering = Steering(run)
        story.steering.rebuild(plain)
    elif "open" in body:
        from dagger_dsl.engine.mapping import rebuild_children

        rebuild_children(run, body)
    elif "yield" in body:
        from dagger_dsl.engine.mapping import rebuild_items

        rebuild_items(run, body)
    elif "asks" in body:
        asked = body["asks"]
        place = (asked["node"], asked["key"], asked["attempt"])
        story.questions[place] = question_of(asked)
    elif "recalled" in body:
        story.recalled.update(body["recalled"])
    elif "again" in body:
        story.again |= dict.fromkeys(body["again"], entry.seq)
    elif "hooks" in body:
        # An owner that went on with hooks owes them what those before it did not show.
        if not (body["hooks"] and story.hooked[0]):
            story.hooked = (body["hooks"], entry.seq)
    elif "context" in body:
        from dagger_dsl.engine.sharing import replay

        replay(run, body["context"])
    elif "tokens" in body:
        run.tokens = body["tokens"]
    elif body and "refused" not in body:
        return
    if key is not None:
        run.applied.add(key)
