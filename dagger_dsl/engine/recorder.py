"""`Recorder`: a run's tie to the store: made new or claimed, restored, and finished.

The only module of the engine that imports the store; runs in memory never load it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dagger_dsl.engine.attempts import Another, from_epoch
from dagger_dsl.engine.checkpoints import restored
from dagger_dsl.engine.error_info import ErrorInfo, error_info
from dagger_dsl.engine.freeing import invocations
from dagger_dsl.engine.instance import Run
from dagger_dsl.engine.notes import of_json, to_json
from dagger_dsl.engine.people import Question, question_note
from dagger_dsl.engine.plan import Plan
from dagger_dsl.engine.report import RunReport
from dagger_dsl.engine.state import PENDING, RunState
from dagger_dsl.engine.story import Story, rebuild
from dagger_dsl.engine.watch import completions
from dagger_dsl.errors import ConfigurationError, InvalidState, KeyTaken, StoreError
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.context import NodeOutcome, NodeRef
from dagger_dsl.model.events import HumanInputRequested, NodeCompleted
from dagger_dsl.model.graph import RESULT, Graph
from dagger_dsl.model.protocols import Command
from dagger_dsl.model.states import RunStatus
from dagger_dsl.model.values import Secret, allow_hints, from_plain
from dagger_dsl.store.journal import RunJournal
from dagger_dsl.store.recovery import Flight, forget_uncalled
from dagger_dsl.store.runs import StoredNode, StoredRun
from dagger_dsl.store.storage import Store

if TYPE_CHECKING:
    from dagger_dsl.engine.partial import Part

__all__ = ["Recorder", "know_classes", "meta_of"]

logger = logging.getLogger("dagger_dsl.engine")

_VERSIONS = "action versions"
_ENDED = ("completed", "failed", "skipped", "cancelled")


class Recorder:
    """Keeps one run in a store.

    Args:
        store: Where.
        run_id: The run.
        own: Whether the store is closed with the recorder.

    Attributes:
        journal: What the coordinator writes to, once the run is owned.
        stored: What was recorded before, None for a new run.
    """

    def __init__(self, store: Store, run_id: str, *, own: bool) -> None:
        self.store = store
        self.run_id = run_id
        self.journal: RunJournal | None = None
        self.stored: StoredRun | None = None
        self._own = own
        path = store.database.path
        self._flight = None if path is None else Flight(path, run_id)

    @classmethod
    def for_options(cls, options: RunOptions, store: Store | None, run_id: str) -> Recorder:
        """Return a recorder on *store*, or on a store of its own for ``options.database_url``."""
        if store is not None:
            return cls(store, run_id, own=False)
        assert options.database_url is not None
        return cls(Store(options.database_url), run_id, own=True)

    def create(
        self,
        graph: Graph,
        inputs: Mapping[str, Any],
        config: DagConfig,
        options: RunOptions,
        notes: Sequence[Command] = (),
        parent: str | None = None,
    ) -> str | None:
        """Record a new run and own it; return the run's id that the idempotency key has already.

        Secrets among the inputs are not stored. *parent* is the run that this one is nested in.

        Args:
            graph, inputs, config, options: Of the run.
            notes: What a resume has to know from the beginning.

        Raises:
            RunExists: The id is taken.
            IdempotencyConflict: The key belongs to a run of another graph or other inputs.
        """
        kept = {name: value for name, value in inputs.items() if not isinstance(value, Secret)}
        if not config.retry_strategy.is_data:  # its objects live in the code, not in the database
            changes = config.changes()
            del changes["retry_strategy"]
            config = DagConfig(**changes)
        try:
            self.journal = self.store.create_run(
                run_id=self.run_id,
                graph=graph,
                inputs=kept,
                config=config,
                idempotency_key=options.idempotency_key,
                parent_run_id=parent,
                durability=options.durability,
                notes=notes,
            )
        except KeyTaken as taken:
            return taken.run_id
        return None

    def claim(self, durability: str) -> StoredRun:
        """Become the run's owner and return what was recorded."""
        self.stored, self.journal = self.store.claim_run(self.run_id, durability=durability)
        return self.stored

    def load(self) -> StoredRun:
        """Return what was recorded, without owning the run."""
        self.stored = self.store.load_run(self.run_id)
        return self.stored

    def begin(self, run: Run, *, hooked: bool = False) -> None:
        """Prepare a new run: note its actions' versions, give its workers their seats.

        Args:
            run: The run.
            hooked: Whether hooks are shown what happens.
        """
        know_classes(run.plan)
        versions = _versions(run)
        if versions:
            run.notes.append((_VERSIONS, to_json(versions)))
        if hooked:
            run.notes.append((None, to_json({"hooks": True})))
        self.seats(run)

    def seats(self, run: Run) -> None:
        """Give the run's workers their seats in the flight file."""
        if self._flight is not None:
            run.board.flight = self._flight.open(len(run.board.flight))

    def restore(
        self, run: Run, on_change: str, *, hooked: bool = False, part: Part | None = None
    ) -> None:
        """Give *run* what earlier processes recorded: its graph, results, attempts, crashes.

        Args:
            run: Freshly made.
            on_change: ``warn`` or ``fail``, for actions whose version has changed.
            hooked: Whether hooks are shown what happens from now on.
            part: What of the graph the run was made for; None for all of it.

        Raises:
            ConfigurationError: An action has changed and *on_change* says ``fail``.
            InvalidState: The record does not fit the graph.
            DecodingError: A value is of a type that this process does not know.
        """
        assert self.stored is not None
        assert self.journal is not None
        run.spent = self.stored.owned_seconds
        run.recorded = [node.bare() for node in self.stored.attempts]
        run.resumed = True
        story = rebuild(run, self.stored.commands)
        know_classes(run.plan)
        if run.noted is not None:
            _ = run.context  # it is in use, and what cannot be read is said before anything runs
            assert run.sharing is not None
            run.sharing.take_back()
        self._compare_versions(run, on_change)
        forget_uncalled(self.store, self.run_id, self.journal.epoch)
        if run.plan.machine is not None:
            self._restore_machine(run, story, hooked)
            return
        done = self._place(run)
        plan = run.plan
        winners = self._winners(run)
        again = self._call_again(run, story, done, hooked)
        if not all(map(is_stored, done.values())):
            again = _reopen(run, done, winners, story, hooked, again, part)
        self._count_crashes(run, done)
        for slot, node in done.items():
            restore_value(run, slot, node)
            meta = meta_of(node)
            if meta:
                run.meta[slot] = meta
        run.inserted.update(restored(self.stored))
        run.bound |= {slot: frozenset((source,)) for slot, source in winners.items()}
        self._ask_again(run, story)
        self._ask_about_started(run, story, done)
        run.state.patient = hooked
        commands = story.between(run, done)
        left_out = None if part is None else part.left_out
        run.state.restore(list(done), _labels(done), winners, commands, again, left_out)
        self._end_within(run, done)
        self._show_again(run, story, done, hooked)
        if self.stored.status != RunStatus.RUNNING:
            self.journal.commit((), status=RunStatus.RUNNING)
        needed = {source for slot in _open(run.state, plan) for source in _sources(run, slot)}
        for slot in sorted(needed & done.keys()):
            run.load(slot)

    def _restore_machine(self, run: Run, story: Story, hooked: bool) -> None:
        """Bring a state machine to where earlier processes left it."""
        from dagger_dsl.engine.machine_record import place

        assert self.stored is not None
        assert self.journal is not None
        past = place(run, self.stored.attempts)
        state = run.state
        under_way = state.taken() | set(state.ready)
        rest = {slot: None for slot in run.plan.index.values() if slot not in under_way}
        self._count_crashes(run, rest)
        run.inserted.update(restored(self.stored))
        self._ask_again(run, story)
        self._ask_about_started(run, story, past.elsewhere)
        state.ready = [slot for slot in state.ready if slot not in run.asked]
        state.patient = hooked
        state.ended.clear()  # it is on record, or will be when the machine ends again
        if hooked or story.hooked[0]:
            run.notes.append((None, to_json({"hooks": hooked})))
        last = self._shown(story, hooked)
        if last is not None:
            run.unshown += [
                NodeCompleted(
                    NodeRef(run.run_id, run.dag_name, node.node_id, node.key),
                    NodeOutcome(
                        True,
                        outputs={RESULT: node.value()},
                        recovered=bool(meta_of(node).get("recovered")),
                        metadata=meta_of(node).get("metadata", {}),
                    ),
                )
                for node in past.cycles
                if node.seq > last
            ]
            run.unshown += [
                HumanInputRequested(run.ref(slot), question.prompt, question.schema)
                for slot, question in run.asked.items()
                if question.job_id is None and self._asked_after(run, slot, last)
            ]
            run.unshown += story.emitted(run, last)
        if self.stored.status != RunStatus.RUNNING:
            self.journal.commit((), status=RunStatus.RUNNING)

    def _end_within(self, run: Run, done: Mapping[int, StoredNode]) -> None:
        """End what is left of completed mapped nodes; nothing of it is called again.

        Levels of lists have no record of their own, and a failure may have been collected.
        """
        ended: dict[int, str] = {}
        for slot in run.plan.parents:
            if slot not in done and run.top(slot) in done:
                failed = slot in run.stored_errors
                whole = slot in run.plan.mapped
                ended[slot] = "failed" if failed else "completed" if whole else "cancelled"
        run.state.show(ended)

    def _ask_again(self, run: Run, story: Story) -> None:
        """Let nodes whose body has ended with a question wait for its answer."""
        assert self.stored is not None
        for node in self.stored.attempts:
            slot = run.slot_named(node.node_id, node.key)
            if slot is None or node.state != "waiting":
                continue
            question = story.questions.get((node.node_id, node.key, node.attempt))
            if question is None or run.attempts.get(slot, 1) != node.attempt:
                continue
            self._ask_at(run, slot, question)
            if node.started_at is not None:
                start = node.started_at - run.wall
                run.board.started[slot] = start
                run.board.ended[slot] = start + (node.duration or 0.0)

    def _ask_at(self, run: Run, slot: int, question: Question) -> None:
        run.asked[slot] = question
        run.state.ask(slot)
        run.state.reasons[slot] = question.reason

    def _ask_about_started(self, run: Run, story: Story, done: Mapping[int, StoredNode]) -> None:
        """Ask what came of nodes that were started at most once by a process that died."""
        assert self.stored is not None
        careful = run.plan.careful
        if not careful:
            return
        starts = Counter(slot for each in self.stored.released for slot in each if slot in careful)
        # Of one that was cancelled while it was asked about, nobody knows more than before.
        machine = run.plan.machine is not None  # whose starts are counted over all cycles
        ends = Counter(
            run.plan.index.get(node.node_id) if machine else run.slot_named(node.node_id, node.key)
            for node in self.stored.attempts
            if node.state in ("completed", "failed")
        )
        rows = []
        for slot, times in starts.items():
            over = ends[slot] + _recalled(run, story, slot)
            if slot in done or slot in run.asked or times <= over:
                continue
            now = run.board.clock()
            run.board.started[slot] = run.board.ended[slot] = now
            text = (
                f"{run.plan.ids[slot]!r} is started at most once, and a process died after it had "
                "started it: what is its result?"
            )
            question = Question(text)
            self._ask_at(run, slot, question)
            run.notes.append(question_note(run, slot, question))
            rows.append(run.row(slot, "waiting"))
        if rows:
            assert self.journal is not None
            self.journal.commit((), commands=run.notes, replacing=rows)
            self.journal.flush()
            run.notes = []

    def _show_again(
        self, run: Run, story: Story, done: Mapping[int, StoredNode], hooked: bool
    ) -> None:
        """Have hooks shown what an earlier process may not have shown them."""
        assert self.stored is not None
        if hooked or story.hooked[0]:
            run.notes.append((None, to_json({"hooks": hooked})))
        last = self._shown(story, hooked)
        if last is None:
            return
        late = [slot for slot, node in done.items() if node.seq > last and not _is_reused(node)]
        run.unshown += completions(run, late)
        run.unshown += [
            HumanInputRequested(run.ref(slot), question.prompt, question.schema)
            for slot, question in run.asked.items()
            if question.job_id is None and self._asked_after(run, slot, last)
        ]
        run.unshown += story.emitted(run, last)

    def _asked_after(self, run: Run, slot: int, last: int) -> bool:
        """Return whether a node asked its question after an entry of the record."""
        assert self.stored is not None
        ref = run.ref(slot)
        node = self.stored.nodes.get((ref.node_id, ref.invocation_key))
        return node is not None and node.state == "waiting" and node.seq > last

    def _call_again(
        self, run: Run, story: Story, done: dict[int, StoredNode], hooked: bool
    ) -> set[int]:
        """Take out results that were not stored and that hooks have yet to be shown.

        They need them, and so may the nodes that they ask for. It is noted, so that the next
        process does not take them for shown when this one dies before it has them again.
        """
        shown = self._shown(story, hooked)
        lost = [] if shown is None else [slot for slot in done if _is_lost(done[slot])]
        owed = {slot for slot in lost if shown is not None and done[slot].seq > shown}
        if owed:
            run.notes.append((None, to_json({"again": [run.name_of(slot) for slot in owed]})))
        for name, seq in story.again.items():
            slot = run.slot_named(*name.partition(".")[::2])
            if slot in done and done[slot].seq < seq:
                owed.add(slot)
        for slot in [*owed]:
            calls = (each for each in _calls(run, slot) if each in done)
            owed |= {each for each in calls if not is_stored(done[each])}
        for slot in owed:
            _one_more(run, slot, done.pop(slot).attempt)
        return owed

    def _shown(self, story: Story, hooked: bool) -> int | None:
        """Return up to which entry hooks were shown everything; None when none are, or were."""
        assert self.stored is not None
        before, since = story.hooked
        return max(self.stored.acked, since) if hooked and before else None

    def _winners(self, run: Run) -> dict[int, int]:
        """Return the source that each `any` join had taken, as it was noted."""
        assert self.stored is not None
        index = run.plan.index
        return {
            index[each.key.removeprefix("any:")]: index[of_json(each.body)]
            for each in self.stored.commands
            if each.key is not None and each.key.startswith("any:")
        }

    def _compare_versions(self, run: Run, on_change: str) -> None:
        assert self.stored is not None
        noted = next((each.body for each in self.stored.commands if each.key == _VERSIONS), None)
        before = of_json(noted) if noted else {}
        now = _versions(run)
        changed = [
            f"{name!r} ({before.get(name, 'none')} -> {now.get(name, 'none')})"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
        if not changed:
            return
        text = (
            f"run {self.run_id} was started with other versions of the actions "
            f"{', '.join(changed)}; recorded results are kept, the rest runs as it is now"
        )
        if on_change == "fail":
            raise ConfigurationError(f"{text}. Resume with on_change='warn' to accept that")
        logger.warning("%s", text, extra={"run_id": self.run_id})

    def _place(self, run: Run) -> dict[int, StoredNode]:
        """Note attempts, times and errors by slot; return what completed, in recorded order."""
        assert self.stored is not None
        done: dict[int, StoredNode] = {}
        for node in self.stored.attempts:
            slot = run.slot_named(node.node_id, node.key)
            if slot is None:
                raise InvalidState(
                    f"run {self.run_id} has a record of node {node.node_id!r}, which its graph has "
                    "not; the database was changed from outside"
                )
            if node.error:
                run.stored_errors[slot] = ErrorInfo(**node.error)
            if node.started_at is None:  # it ended without a call
                continue
            run.before[slot] = (node.started_at, node.started_at + (node.duration or 0.0))
            done.pop(slot, None)
            if node.state in ("completed", "waiting"):
                run.attempts[slot] = node.attempt
                if node.state == "completed":
                    done[slot] = node
            else:
                _one_more(run, slot, node.attempt)
        return done

    def _count_crashes(self, run: Run, done: Collection[int]) -> None:
        assert self.stored is not None
        assert self.journal is not None
        most = run.config.max_crashes
        crashes = dict(self.stored.crashes)
        if self.stored.status != RunStatus.RUNNING:
            # It came to an end, and somebody wants it to go on: a fresh budget, as for retries.
            crashes = {node_id: times for node_id, times in crashes.items() if times < most}
        seats = [] if self._flight is None else self._flight.read()
        under_way = {
            slot
            for slot in seats
            if slot < run.plan.size
            and run.plan.ids[slot] is not None
            and slot not in done
            # A nested run counts deaths in its own calls; none is the fault of its node.
            and run.plan.actions[slot].style != "workflow"
        }
        for slot in under_way:
            node_id = run.name_of(slot)
            times = crashes.get(node_id, 0)
            # One of several may be innocent: the last death that counts is one it had to itself.
            crashes[node_id] = (
                times + 1 if len(under_way) == 1 else max(times, min(times + 1, most - 1))
            )
            # The call that died was an attempt too; where none was recorded, all that died were.
            recorded = run.attempts.get(slot, 1) - 1
            _one_more(run, slot, recorded + 1 if recorded else crashes[node_id])
        if crashes != self.stored.crashes:
            self.journal.record_crashes(crashes)
            self.journal.flush()
        if seats and self._flight is not None:
            self._flight.forget()  # counted; a resume that fails from here on counts it no more
        for node_id, times in crashes.items():
            here = run.slot_named(*node_id.partition(".")[::2])
            if here is not None and here not in done:
                if times >= most:
                    run.crashes[here] = times
                elif times == most - 1:
                    run.suspects.add(here)

    def show(self, run: Run) -> RunReport:
        """Return the report of a run that is only looked at; nothing is claimed or changed."""
        assert self.stored is not None
        stored = self.stored
        know_classes(run.plan)
        run.wall = 0.0  # every time comes from the record
        run.resumed = True
        story = rebuild(run, stored.commands)
        if run.plan.machine is not None:
            return self._show_machine(run, story)
        done = self._place(run)
        states = {}
        self._ask_again(run, story)
        for (node_id, key), node in stored.nodes.items():
            slot = run.slot_named(node_id, key)
            if slot is None:
                continue
            meta = meta_of(node)
            if meta:
                run.meta[slot] = meta
            if node.state in _ENDED and Another.of(meta) is None:
                states[slot] = node.state
            if "reason" in meta:
                run.state.reasons[slot] = str(meta["reason"])
            if slot in done:
                restore_value(run, slot, node)
        run.state.show(states)
        return self._shown_report(run)

    def _show_machine(self, run: Run, story: Story) -> RunReport:
        from dagger_dsl.engine.machine_record import place, shown_states

        assert self.stored is not None
        place(run, self.stored.attempts)
        self._ask_again(run, story)
        run.state.show(shown_states(run, self.stored.nodes))
        return self._shown_report(run)

    def _shown_report(self, run: Run) -> RunReport:
        stored = self.stored
        assert stored is not None
        run.status = RunStatus(stored.status)
        run.continued = bool((stored.error or {}).get("continued"))
        run.reason = str((stored.error or {}).get("reason", ""))
        run.began = stored.created_at.timestamp()
        run.finished = stored.updated_at.timestamp()
        if run.sharing is not None:
            run.sharing.take_back()
            run.sharing.settle()
        report = run.report()
        self.close()
        return report

    def finish(self, run: Run) -> None:
        """Record how the run ended and give it free."""
        assert self.journal is not None
        error: dict[str, Any] = {}
        if run.exception is not None:
            info = error_info(run.exception)
            error = {"type": info.type, "message": info.message}
        if run.reason:
            error["reason"] = run.reason
        if run.continued:
            error["continued"] = True
        self._land()
        ending = str(run.status), to_json(error) if error else None
        # So that whoever reads the record finds the times that the run's own report has.
        began = None if run.resumed else from_epoch(run.wall + run.began)
        ended = None if run.finished is None else from_epoch(run.wall + run.finished)
        try:
            try:
                self.journal.finish(*ending, began=began, ended=ended)
            except KeyboardInterrupt:  # what has ended is recorded first; once more, then
                self.journal.finish(*ending, began=began, ended=ended)
                raise
            if run.config.keep_runs is not None or run.config.keep_days is not None:
                self.store.retain(run.dag_name, run.config.keep_runs, run.config.keep_days)
        finally:
            self.close()

    def close(self) -> None:
        """Give the run free as it stands."""
        try:
            if self.journal is not None:
                journal, self.journal = self.journal, None
                self._land()
                journal.close()
        finally:
            if self._own:
                self.store.close()

    def _land(self) -> None:
        """Remove the flight file: this process lived to give the run free, so no call killed it.

        Before the database is told, so that no death in between leaves a file that nobody removes.
        """
        if self._flight is not None:
            self._flight.close()

    def abandon(self, error: BaseException) -> None:
        """Give the run free after *error*, which is about to be raised; it stays resumable."""
        try:
            self.close()
        except StoreError as trouble:
            error.add_note(f"the run could not be given free in order: {trouble}")


def _recalled(run: Run, story: Story, slot: int) -> int:
    """Return how often a start that was on record was taken back."""
    if run.plan.machine is None:
        return story.recalled[run.name_of(slot)]
    node_id = run.plan.ids[slot]
    return sum(times for name, times in story.recalled.items() if name.partition(".")[0] == node_id)


def know_classes(plan: Plan) -> None:
    """Let the codec read the classes that the actions' annotations name."""
    for action in (*plan.looked_up.values(), *plan.workflows.values()):
        allow_hints(action.hints())


def _versions(run: Run) -> dict[str, str]:
    """Return the declared versions of a run's actions by name."""
    plan = run.plan
    found = {name: action.version for name, action in plan.looked_up.items() if action.version}
    nested = {
        f"workflow {name}": each.version for name, each in plan.workflows.items() if each.version
    }
    return found | nested


def is_stored(node: StoredNode) -> bool:
    return (node.meta or {}).get("stored", True) is not False


def restore_value(run: Run, slot: int, node: StoredNode) -> None:
    """Have a completed node's value read when somebody asks for it, where it was stored."""
    run.restored.add(slot)
    if is_stored(node):
        run.loaders[slot] = node.value
    else:
        run.freed[slot] = why_unstored(run, slot, "streamed" in (node.meta or {}))


def why_unstored(run: Run, slot: int, streamed: bool = False) -> str:
    """Return why a value was not stored, for who asks for it."""
    if streamed:
        return "it was streamed, and what is streamed is not stored"
    if run.plan.actions[slot].store:
        return "it was not stored, as what is called has no stored form"
    return "it was not stored (store=False)"


def _is_reused(node: StoredNode) -> bool:
    """Return whether a result came from another run, so that hooks were never to be shown it."""
    return "reused" in (node.meta or {})


def _is_lost(node: StoredNode) -> bool:
    return not (is_stored(node) or _is_reused(node))


def meta_of(node: StoredNode) -> dict[str, Any]:
    """Return what was recorded beside a value, the user's metadata as it was given."""
    meta = node.meta or {}
    if "metadata" in meta:
        meta["metadata"] = from_plain(meta["metadata"], f"the metadata of {node.node_id!r}")
    return meta


def _open(state: RunState, plan: Plan) -> list[int]:
    """Return what may still run."""
    return [slot for slot in plan.invocations() if state.status(slot) == PENDING]


def _labels(done: Mapping[int, StoredNode]) -> dict[int, frozenset[str]]:
    """Return what completed nodes had chosen."""
    return {
        slot: frozenset(node.meta["labels"])
        for slot, node in done.items()
        if node.meta and "labels" in node.meta
    }


def _one_more(run: Run, slot: int, attempts: int) -> None:
    """Note that a node is called again, after so many attempts."""
    run.earlier[slot] = attempts
    run.attempts[slot] = attempts + 1


def _reopen(
    run: Run,
    done: dict[int, StoredNode],
    winners: Mapping[int, int],
    story: Story,
    hooked: bool,
    before_that: Collection[int],
    part: Part | None,
) -> set[int]:
    """Take out results that were not stored by wish and that a node which may run still needs.

    Whoever is called again may choose other branches, so more nodes may run than before.

    Returns:
        What was taken out, *before_that* included.
    """
    again = set(before_that)
    before = len(done) + 1
    while len(done) < before:
        before = len(done)
        run.state = RunState(run.plan)  # of the run, as commands are done again to it
        run.state.patient = hooked  # a disabled node may be enabled, and needs its inputs then
        commands = story.between(run, done)
        left_out = None if part is None else part.left_out
        run.state.restore(list(done), _labels(done), winners, commands, again, left_out)
        todo = _open(run.state, run.plan)
        while todo:
            for source in _needs(run, todo.pop()):
                if source in done and not is_stored(done[source]):
                    _one_more(run, source, done.pop(source).attempt)
                    again.add(source)
                    todo.append(source)
    run.state = RunState(run.plan)
    return again


def _sources(run: Run, slot: int) -> set[int]:
    """Return the nodes whose values one node is called with."""
    where = run.plan.bindings[slot]
    slots = () if where is None else (where,) if isinstance(where, int) else where
    found = (run.plan.source_of(each) for each in slots)
    return {each for each in found if each is not None}


def _needs(run: Run, slot: int) -> set[int]:
    """Return whose values one node is made of: what it is called with, or what it gathers."""
    return {*_sources(run, slot), *_calls(run, slot)}


def _calls(run: Run, slot: int) -> list[int]:
    """Return the invocations of a mapped node, on every level; of anything else nothing."""
    return [] if slot in run.plan.parents else list(invocations(run, slot))
