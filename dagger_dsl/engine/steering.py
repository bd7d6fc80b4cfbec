"""Commands applied to a run: one at a time, between two outcomes, all or nothing.

`Steering` changes the plan, the board and the state of one run, and says what the journal has to
keep, so that a resume can do it again. Who asked (a hook, an action, a person) is the coordinator's
business, and so is when it happens.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from dagger_dsl.engine.error_info import error_info
from dagger_dsl.engine.growth import check_graph_inputs, check_graph_name, named, unknown_nodes
from dagger_dsl.engine.instance import Run
from dagger_dsl.engine.notes import of_json, to_json
from dagger_dsl.engine.plan import extend_plan, rebind
from dagger_dsl.engine.state import NAMES, PENDING, SKIPPED
from dagger_dsl.errors import (
    ConfigurationError,
    CycleError,
    DaggerError,
    EncodingError,
    GrowthLimitExceeded,
    InvalidState,
    MaxIterationsExceeded,
    NodeNotFound,
    shown,
)
from dagger_dsl.model.commands import (
    AddNode,
    AddNodes,
    Answer,
    CancelBranch,
    CancelRun,
    Command,
    EmitEvent,
    JobEnded,
    NodeSpec,
    PauseBranch,
    PauseRun,
    ResumeBranch,
    ResumeRun,
    SetNodeInputs,
    SetNodesEnabled,
    command_from_plain,
    command_to_plain,
    input_from,
    with_inputs,
)
from dagger_dsl.model.events import CustomEvent, Event
from dagger_dsl.model.graph import Node
from dagger_dsl.model.policies import Trigger
from dagger_dsl.model.validate import validate_growth

if TYPE_CHECKING:
    from dagger_dsl.store.transactions import Transaction

__all__ = ["Effect", "Origin", "Steering", "is_for_now", "requests_of"]

logger = logging.getLogger("dagger_dsl.engine")


class Origin(NamedTuple):
    """Who asks for a command.

    Attributes:
        who: For messages.
        key: Under which it applies once, however often it is asked for; None is no key.
        depth: How many growths lie between the first graph and the node that is its cause.
        failed: The slot of the failed node whose event it answers.
        round: What is counted as one growth of the graph; commands of one answer share it.
    """

    who: str
    key: str | None = None
    depth: int = 0
    failed: int | None = None
    round: str = ""


class Effect(NamedTuple):
    """What a command did.

    Attributes:
        note: Its plain form as it was applied, for the journal; None when nothing changed.
        running: What is running and should be cancelled.
        events: What hooks are shown of it.
        reason: Why that should be cancelled.
        step: What the commit that records the note does, too.
    """

    note: Mapping[str, Any] | None = None
    running: Collection[int] = ()
    events: tuple[Event, ...] = ()
    reason: str = ""
    step: Callable[[Transaction], None] | None = None


_NOTHING = Effect()


class Steering:
    """Applies commands to one run.

    Args:
        run: The run.

    Attributes:
        depths: By node id, how many growths lie between the first graph and the node.
        rounds: What has been counted as growths, against ``max_iterations``.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.depths = run.depths
        self.rounds = run.rounds
        self._numbers: dict[str, int] = {}  # by an action's word: up to which number ids are taken

    def is_for_run(self, command: Command) -> bool:
        """Whether a command is about the run as a whole, or answers a question of it."""
        return isinstance(command, (Answer, CancelRun, JobEnded, PauseRun, ResumeRun))

    def only_grows(self, command: Command) -> bool:
        """Whether a command leaves alone what is there."""
        return isinstance(command, (AddNode, AddNodes, EmitEvent))

    def emits(self, command: Command) -> bool:
        """Whether a command is an event for hooks."""
        return isinstance(command, EmitEvent)

    def apply(self, command: Command, origin: Origin) -> Effect:
        """Apply one command; when it raises, nothing was changed.

        Raises:
            ValidationError: A node cannot be added, or an input cannot be one; its subclasses say
                why (`NodeAlreadyExists`, `DependencyNotFound`, `ActionNotFound`, `CycleError`).
            NodeNotFound: There is no such node or branch.
            InvalidState: The node has started, or the command is for another graph, or for none
                that is a state machine.
            LimitExceeded: The graph may grow no further.
        """
        if self._run.plan.machine is not None and not isinstance(command, EmitEvent):
            raise InvalidState(
                f"{self._run.dag_name!r} is a state machine, whose states are fixed before it "
                f"runs; {type(command).__name__} is for other graphs. The run as a whole can be "
                "paused, resumed and cancelled, and a state hook can lead elsewhere"
            )
        if isinstance(command, AddNode):
            return self._add((command.spec,), command.dag_name, origin)
        if isinstance(command, AddNodes):
            return self._add(command.specs, command.dag_name, origin)
        if isinstance(command, SetNodeInputs):
            return self._set_inputs(command)
        if isinstance(command, SetNodesEnabled):
            return self._enable(command)
        if isinstance(command, PauseBranch):
            return self._pause(command)
        if isinstance(command, ResumeBranch):
            self.roots_of(command.branch_id)
            note = self._noted(command)
            changed = self._run.state.let_go(command.branch_id)
            return Effect(note) if changed else _NOTHING
        if isinstance(command, CancelBranch):
            return self._cancel(command)
        if isinstance(command, EmitEvent):
            return self._emit(command, origin)
        raise ConfigurationError(
            f"{origin.who}: {shown(command)} is no command for a running graph"
        )

    def _noted(self, command: Command, **more: Any) -> dict[str, Any]:
        """Return what the journal keeps of a command; made before the command changes anything.

        What has been changed and cannot be recorded would be missing when the run is opened again.

        Raises:
            DaggerError: It cannot be recorded.
        """
        try:
            note = {**command_to_plain(command), **more}
            if self._run.journal is not None:
                to_json(note)
        except DaggerError:
            raise
        except Exception as error:  # a stranger's value
            raise EncodingError(
                f"a command cannot be recorded: {type(error).__name__}: {error}"
            ) from error
        return note

    # --- growth ----------------------------------------------------------------------------------

    def _add(self, specs: Iterable[NodeSpec], dag_name: str | None, origin: Origin) -> Effect:
        run = self._run
        check_graph_name(dag_name, run.dag_name, run.run_id)
        numbers = ChainMap[str, int]({}, self._numbers)
        completed = [self._completed(spec, origin) for spec in specs]
        new = unknown_nodes(named(completed, run.plan.index, numbers), run.plan.find)
        if not new:
            return _NOTHING
        self._check_limits(new, origin)
        validate_growth(run.plan.graph, new, run.plan.find, run.registry, run.plan.index)
        check_graph_inputs(new, run.inputs)
        depth = origin.depth + 1
        added = AddNodes([NodeSpec.of(node) for node in new])
        note = self._noted(added, depth=depth, round=origin.round)
        self._load_sources(new)
        slots = extend_plan(run.plan, new, run.lookup)
        if origin.round:
            self.rounds.add(origin.round)
        for node in new:
            self.depths[node.id] = depth
        self._numbers |= numbers.maps[0]
        run.grow(slots)
        run.state.grow(slots)
        return Effect(note)

    def _completed(self, spec: NodeSpec, origin: Origin) -> NodeSpec:
        """Fill in what a spec that answers a failure leaves open."""
        if origin.failed is None:
            return spec
        run = self._run
        failed = str(run.plan.ids[origin.failed])
        if failed not in spec.deps:
            return spec
        if spec.trigger is None:
            spec = spec.with_trigger(Trigger.DONE)
        action = run.lookup(spec.action)
        error = run.errors.get(origin.failed)
        offered = {"failed_node": failed}
        if error is not None:
            offered["error"] = str(error_info(error))
        open_ = {
            name: value
            for name, value in offered.items()
            if name not in spec.inputs and action is not None and action.param(name) is not None
        }
        return spec.with_inputs({**spec.inputs, **open_}) if open_ else spec

    def _check_limits(self, new: Iterable[Node], origin: Origin) -> None:
        config = self._run.config
        depth = origin.depth + 1
        if config.max_growth_depth is not None and depth > config.max_growth_depth:
            names = ", ".join(repr(node.id) for node in new)
            raise GrowthLimitExceeded(
                f"{origin.who} would add {names} at depth {depth}, and max_growth_depth is "
                f"{config.max_growth_depth}; raise it, or let the graph end"
            )
        if not origin.round or origin.round in self.rounds or config.max_iterations is None:
            return
        if len(self.rounds) >= config.max_iterations:
            raise MaxIterationsExceeded(
                f"{origin.who} would let the graph grow once more than the max_iterations of "
                f"{config.max_iterations} allow; raise it, or let the graph end"
            )

    def _load_sources(self, nodes: Iterable[Node]) -> None:
        """Read what nodes take from results of earlier processes; nobody has needed them so far.

        Raises:
            InvalidState: One was not stored, and its node is not called again: the run went on
                without it. Or it was freed.
        """
        run = self._run
        needed: dict[int, None] = {}
        for node in nodes:
            for each in node.inputs:
                slot = None if each.source is None else run.plan.index.get(each.source[0])
                if slot is None or not (slot in run.restored or slot in run.freed):
                    continue
                needed[slot] = None
                if slot in run.restored and run.meta.get(slot, {}).get("stored") is False:
                    raise InvalidState(
                        f"node {node.id!r} takes {each.reference!r}, which an earlier process had "
                        f"and did not store (store=False); add a node of action "
                        f"{run.plan.actions[slot].name!r} that computes it again"
                    )
                if run.is_gone(slot):
                    raise InvalidState(
                        f"node {node.id!r} takes {each.reference!r}, which is gone: "
                        f"{run.freed[slot]}; a run with a database_url reads it again"
                    )
        for slot in needed:
            run.load(slot)

    # --- changes ---------------------------------------------------------------------------------

    def _set_inputs(self, command: SetNodeInputs) -> Effect:
        run = self._run
        check_graph_name(command.dag_name, run.dag_name, run.run_id)
        slot = self._slot(command.node_id)
        before = run.plan.node(slot)
        node = with_inputs(before, command.inputs)
        if node == before:
            return _NOTHING
        self._refuse_started(slot, "its inputs")
        validate_growth(run.plan.graph, [node], run.plan.find, run.registry, run.plan.index)
        check_graph_inputs([node], run.inputs)
        more = self._new_sources(slot, node)
        note = self._noted(command)
        self._load_sources([node])
        rebind(run.plan, slot, node, more)
        run.rebound(slot)
        for source in more:
            run.state.add_edge(source, slot)
        return Effect(note)

    def _new_sources(self, slot: int, node: Node) -> list[int]:
        """Return what a node waits for that it did not wait for before."""
        run = self._run
        found = self._unknown_sources(slot, node)
        if not found:
            return []
        if node.trigger is not Trigger.SUCCESS:
            names = ", ".join(repr(run.plan.ids[source]) for source in found)
            raise InvalidState(
                f"node {node.id!r} has the trigger {str(node.trigger)!r}, so its sources cannot "
                f"change; it does not wait for {names} yet"
            )
        behind = run.state.descendants((slot,))
        for source in found:
            if source in behind:
                name = str(run.plan.ids[source])
                raise CycleError((node.id, name, node.id) if source != slot else (name, name))
        return found

    def _unknown_sources(self, slot: int, node: Node) -> list[int]:
        """Return what a changed node waits for and its plan does not, by labelled edges neither."""
        plan = self._run.plan
        known = set(plan.sources(slot))
        found = [plan.index[name] for name in node.dependencies]
        return [source for source in found if source not in known]

    def _slot(self, node_id: str) -> int:
        index = self._run.plan.index
        if node_id not in index:
            raise NodeNotFound(node_id, tuple(index))
        return index[node_id]

    def _refuse_started(self, slot: int, what: str) -> None:
        run, state = self._run, self._run.state
        tried = run.attempts.get(slot, 1) - run.earlier.get(slot, 0) > 1
        if tried or not state.is_open(slot):
            code = state.status(slot)
            name = ("tried again" if tried else "running") if code == PENDING else NAMES[code]
            raise InvalidState(
                f"node {self._run.plan.ids[slot]!r} is {name}, so {what} cannot change any more"
            )

    def _enable(self, command: SetNodesEnabled) -> Effect:
        run = self._run
        changed = []
        for node_id in command.ids:
            slot = self._slot(node_id)
            if run.plan.node(slot).enabled is command.enabled:
                continue
            if not (not command.enabled and run.state.status(slot) == SKIPPED):
                self._refuse_started(slot, "whether it is enabled")
            changed.append(slot)
        if not changed:
            return _NOTHING
        note = self._noted(command)
        for slot in changed:
            run.plan.replace(run.plan.node(slot).replace(enabled=command.enabled))
        run.state.enable(changed, command.enabled)
        return Effect(note)

    # --- branches --------------------------------------------------------------------------------

    def roots_of(self, branch_id: str) -> list[int]:
        """Return where a branch begins: the node of that id, or all nodes of that label.

        Raises:
            NodeNotFound: There is neither.
        """
        plan = self._run.plan
        if branch_id in plan.index:
            return [plan.index[branch_id]]
        slots = [slot for slot in plan.index.values() if plan.node(slot).branch == branch_id]
        if not slots:
            labels = {plan.node(slot).branch for slot in plan.index.values()} - {None}
            raise NodeNotFound(branch_id, (*plan.index, *sorted(map(str, labels))))
        return slots

    def _pause(self, command: PauseBranch) -> Effect:
        roots = self.roots_of(command.branch_id)
        state, reason = self._run.state, command.reason or "paused"
        known = state.holds.get(command.branch_id)
        if known is not None and known.reason == reason:
            return _NOTHING
        note = self._noted(command)
        state.hold(command.branch_id, roots, reason)
        return Effect(note)

    def _cancel(self, command: CancelBranch) -> Effect:
        state = self._run.state
        roots = self.roots_of(command.branch_id)
        reason = command.reason or f"branch {command.branch_id!r} was cancelled"
        note = self._noted(command)
        before, ended = state.left, len(state.ended)
        running = state.cancel_branch(roots, reason)
        released = state.let_go(command.branch_id)
        if before == state.left and ended == len(state.ended) and not (running or released):
            return _NOTHING
        return Effect(note, running, reason=reason)

    def _emit(self, command: EmitEvent, origin: Origin) -> Effect:
        note = self._noted(command, depth=origin.depth)
        step = None
        if command.channel is not None:
            from dagger_dsl.engine.publishing import publication

            step = publication(self._run, command, self._run.emitted + 1)
        self._run.emitted += 1
        event = CustomEvent(
            self._run.run_id,
            command.name,
            command.payload,
            self._run.emitted,
            dt.datetime.now(dt.UTC),
            origin.depth,
        )
        return Effect(note, (), (event,), step=step)

    # --- replay ----------------------------------------------------------------------------------

    def rebuild(self, plain: Mapping[str, Any]) -> None:
        """Do again to the plan what a recorded command did to it; `replay` tells the state."""
        run = self._run
        if plain["do"] == "add":
            command = command_from_plain({"do": "add", "specs": plain["specs"]})
            assert isinstance(command, AddNodes)
            nodes = [spec.to_node() for spec in command.specs]
            extend_plan(run.plan, nodes, run.lookup)
            self.depths |= dict.fromkeys((node.id for node in nodes), plain.get("depth", 1))
            if plain.get("round"):
                self.rounds.add(plain["round"])
        elif plain["do"] == "inputs":
            changes = command_from_plain(plain)
            assert isinstance(changes, SetNodeInputs)
            slot = run.plan.index[changes.node_id]
            before = run.plan.node(slot)
            node = with_inputs(before, changes.inputs)
            rebind(run.plan, slot, node, self._unknown_sources(slot, node))
        elif plain["do"] == "enable":
            for node_id in plain["ids"]:
                slot = run.plan.index[node_id]
                node = run.plan.node(slot).replace(enabled=plain.get("enabled", True))
                run.plan.replace(node)
        elif plain["do"] == "emit":
            run.emitted += 1

    def replay(self, plain: Mapping[str, Any]) -> None:
        """Do again to the state what a recorded command did to it."""
        state, index = self._run.state, self._run.plan.index
        if plain["do"] == "add":
            state.grow([index[spec["id"]] for spec in plain["specs"]])
        elif plain["do"] == "inputs":
            changes = command_from_plain(plain)
            assert isinstance(changes, SetNodeInputs)
            slot = index[changes.node_id]
            given = [input_from(name, value).source for name, value in changes.inputs.items()]
            for source in dict.fromkeys(
                index[each[0]] for each in given if each and each[0] in index
            ):
                if state.is_to_come(source, slot):
                    state.add_edge(source, slot)
        elif plain["do"] == "enable":
            state.enable([index[node_id] for node_id in plain["ids"]], plain.get("enabled", True))
        elif plain["do"] in ("cancel", "pause", "resume"):
            self.apply(command_from_plain(plain), Origin("the journal"))


def is_for_now(command: Command) -> bool:
    """Whether a command is about what a process does at the moment, and nothing that lasts."""
    return isinstance(command, (CancelRun, PauseRun, ResumeRun))


def requests_of(
    found: Iterable[tuple[int, str]], run_id: str
) -> Iterator[tuple[int, tuple[Command, Origin] | None]]:
    """Yield the requests of other processes by their number, None for what is no command."""
    for number, body in found:
        key = f"inbox:{number}"
        try:
            command = command_from_plain(of_json(body))
        except Exception as error:  # whoever can write to the database can write anything
            logger.error("request %d is no command: %s", number, error, extra={"run_id": run_id})
            yield number, None
        else:
            yield number, (command, Origin(f"request {number}", key, 0, None, key))
