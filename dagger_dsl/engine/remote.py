"""`RunControl`: steers a run through its database, whoever executes it, or nobody.

Commands go into the run's inbox. Whoever executes the run applies them, and the outcome is found in
its journal; of a run that nobody executes they wait for the next resume, which applies them before
anything starts. What can be refused at once is: nobody may come back to hear of it later.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from types import FunctionType
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from dagger_dsl import errors
from dagger_dsl.engine.control import OpenQuestion, Steered, time_limit
from dagger_dsl.engine.notes import of_json, to_json
from dagger_dsl.engine.people import Question, check_answer, question_of
from dagger_dsl.engine.standing import Standing, names_in, specs_of
from dagger_dsl.engine.steering import requests_of
from dagger_dsl.engine.story import graph_now
from dagger_dsl.errors import (
    CycleError,
    DaggerError,
    InvalidState,
    NodeAlreadyExists,
    NodeNotFound,
    Place,
    Problem,
    RunNotFound,
    RunOwned,
    ValidationError,
    shown,
)
from dagger_dsl.model.commands import (
    Answer,
    CancelBranch,
    CancelRun,
    Command,
    PauseBranch,
    PauseRun,
    ResumeBranch,
    ResumeRun,
    command_to_plain,
)
from dagger_dsl.model.context import DEFAULT_KEY, NodeRef
from dagger_dsl.model.document import graph_from_plain
from dagger_dsl.model.protocols import Row
from dagger_dsl.model.states import RunStatus
from dagger_dsl.store.journal import RunJournal
from dagger_dsl.store.liveness import Liveness
from dagger_dsl.store.ownership import Heart
from dagger_dsl.store.records import StoredCommand, StoredRun
from dagger_dsl.store.schema import flow_runs, node_runs, run_log
from dagger_dsl.store.storage import Store

__all__ = ["RunControl"]

#: Seconds between two looks for an outcome: short at first, as the owner may look just now.
_FIRST_LOOK: Final = 0.005
_LAST_LOOK: Final = 0.1

_LIVES: Final = (RunStatus.RUNNING, RunStatus.PAUSED)


class _Stand(NamedTuple):
    """Where a run stands, as its row says."""

    flow_name: str
    status: str


class RunControl(Steered):
    """Steers a run that another process executes, or nobody.

    `pause` and `cancel` of a run that nobody executes are recorded at once. Another command of such
    a run stands until the next resume.

    Args:
        store: Where the run is recorded; it has to stay open.
        run_id: The run.
        registry: Where its actions are looked up by who steers it, if that is known: what they are
            sure to refuse is refused at once then, too.
    """

    def __init__(self, store: Store, run_id: str, registry: Any = None) -> None:
        self.run_id = run_id
        self._registry = registry
        self._store = store
        self._liveness = Liveness(store.database, Heart(store.database, lease=inf))

    def __repr__(self) -> str:
        return f"<RunControl {self.run_id} in {self._store.database.where}>"

    # --- steering --------------------------------------------------------------------------------

    def send(self, command: Command, *, wait: bool = True, timeout: float | None = 10.0) -> bool:
        """Send a command to the run; see `Steered.send`.

        Raises:
            InvalidState: The run is completed, a question has its answer already, or a run that
                nobody executes is to be resumed from here.
        """
        return self._send(command, wait, timeout)

    def _decide(self, command: Command) -> bool:
        return self._send(command, True, 10.0, decides=True)

    def _send(
        self, command: Command, wait: bool, timeout: float | None, *, decides: bool = False
    ) -> bool:
        """Send a command; *decides* says that it is an approval or a rejection."""
        limit = time_limit(timeout)
        until = inf if limit is None else time.monotonic() + limit
        body, by = to_json(command_to_plain(command)), getattr(command, "by", None)
        number = 0
        while not number:  # another request came in between: what it asked for counts, too
            if self._stand().status == RunStatus.COMPLETED:
                raise InvalidState(f"run {self.run_id} is completed, so it takes no commands")
            owned = self.is_executed
            if not owned and isinstance(command, (PauseRun, ResumeRun, CancelRun)):
                if self._do_here(command, until):
                    return True
                continue  # somebody goes on with it just now, and is asked
            newest = None
            if not owned or isinstance(command, Answer):
                newest, pending = self._inbox()
                self._check(command, self._standing(pending), owned=owned, decides=decides)
            if owned and self._store.database.is_memory:
                raise InvalidState(
                    f"run {self.run_id} is executed by another thread, with a database in memory, "
                    "where it looks for no commands; start() it and steer its handle, or record it "
                    "in a file"
                )
            number = self._store.send(self.run_id, body, by, newest)
        if not (wait and owned):
            return False
        found = self._outcome(number, until)
        if found is None:
            return self._left_alone(command, until)
        if "refused" in found:
            raise self._refusal(found["refused"], command)
        return True

    @property
    def status(self) -> RunStatus:
        """How the run stands, as it is recorded."""
        return RunStatus(self._stand().status)

    @property
    def is_paused(self) -> bool:
        """Whether the run stands still and waits to be resumed."""
        return self.status is RunStatus.PAUSED

    def questions(self) -> list[OpenQuestion]:
        """Return what waits for a person and has no answer yet, in the order it was asked."""
        asked = {ref: each for ref, each in self._asked().items() if each.job_id is None}
        if not asked:
            return []
        standing = self._standing(self._inbox()[1])
        return [
            OpenQuestion.of(ref, question)
            for ref, question in asked.items()
            if standing.awaits(ref.node_id, ref.invocation_key)
        ]

    def paused(self) -> Iterator[RunControl]:
        """Yield this, and the runs nested in it that are paused, the outer ones first."""
        todo = [self]
        while todo:
            run = todo.pop()
            yield run
            inside = self._store.list_runs(status=RunStatus.PAUSED, limit=None, parent=run.run_id)
            todo += [RunControl(self._store, each.run_id, self._registry) for each in inside]

    def jobs_awaited(self) -> dict[tuple[str, str], str]:
        """Return the jobs that nodes wait for, by node and key of its invocation."""
        return {
            (ref.node_id, ref.invocation_key): each.job_id
            for ref, each in self._asked().items()
            if each.job_id is not None
        }

    def paused_branches(self) -> dict[str, str]:
        """Return the branches that are paused and not approved yet, each with the reason."""
        stand, held = self._stand(), dict[str, str]()
        if stand.status not in _LIVES:
            return held
        for plain in self._commands():
            if plain["do"] == "pause":
                held[plain["branch_id"]] = plain.get("reason", "paused")
            elif plain["do"] in ("resume", "cancel"):
                held.pop(plain["branch_id"], None)
        if not held:
            return held
        standing = self._standing(self._inbox()[1])
        return {branch: why for branch, why in held.items() if not standing.is_decided(branch)}

    # --- what is recorded ------------------------------------------------------------------------

    def _stand(self) -> _Stand:
        """Return where the run stands.

        Raises:
            RunNotFound: There is none.
        """
        query = sa.select(flow_runs.c.flow_name, flow_runs.c.status)
        with self._store.reading() as connection:
            row = connection.execute(query.where(flow_runs.c.run_id == self.run_id)).one_or_none()
        if row is None:
            where = self._store.database.where
            raise RunNotFound(
                f"{where} has no run {shown(self.run_id)}; list_runs() shows what it has"
            )
        return _Stand(row.flow_name, row.status)

    @property
    def is_executed(self) -> bool:
        """Whether a process executes the run; one on another host counts as alive."""
        seen = self._liveness.look([self.run_id]).get(self.run_id)
        if seen is None or seen.owner is None:
            return False
        here = self._liveness.shows_by_lock(seen.owner)
        return not here or self._liveness.holds_lock(self.run_id, seen.epoch)

    def _recorded(self) -> list[StoredCommand]:
        """Return what is recorded of commands, in order."""
        query = (
            sa.select(run_log.c.seq, run_log.c.entry_key, run_log.c.body)
            .where(run_log.c.run_id == self.run_id, run_log.c.kind == "command")
            .order_by(run_log.c.seq)
        )
        with self._store.reading() as connection:
            return [StoredCommand(*row) for row in connection.execute(query)]

    def _commands(self) -> Iterator[Mapping[str, Any]]:
        """Yield the plain forms of all commands that were applied, in order."""
        for entry in self._recorded():
            found = of_json(entry.body)
            if isinstance(found, dict) and "command" in found:
                yield found["command"]

    def _asked(self) -> dict[NodeRef, Question]:
        """Return the questions that wait for an answer, in the order they were asked."""
        columns = node_runs.c
        waiting = (
            sa.select(columns.node_id, columns.invocation_key, columns.attempt)
            .where(columns.run_id == self.run_id, columns.state == "waiting")
            .order_by(columns.seq)
        )
        notes = sa.select(run_log.c.entry_key, run_log.c.body).where(
            run_log.c.run_id == self.run_id, run_log.c.entry_key.like("asks %")
        )
        stand = self._stand()
        with self._store.reading() as connection:
            rows = connection.execute(waiting).all()
            bodies = {row.entry_key: row.body for row in connection.execute(notes)} if rows else {}
        found = {}
        for row in rows:
            body = bodies.get(f"asks {row.attempt} {row.invocation_key} {row.node_id}")
            if body is not None:
                ref = NodeRef(self.run_id, stand.flow_name, row.node_id, row.invocation_key)
                found[ref] = question_of(of_json(body)["asks"])
        return found

    def _inbox(self) -> tuple[int, list[Command]]:
        """Return the number of the newest request, and the commands that nobody has taken yet."""
        query = sa.select(run_log.c.entry_key).where(
            run_log.c.run_id == self.run_id, run_log.c.entry_key.like("inbox:%")
        )
        with self._store.reading() as connection:
            taken = [int(key.removeprefix("inbox:")) for key in connection.scalars(query)]
        newest = max(taken, default=0)
        new = self._store.requests(self.run_id, newest)
        commands = [
            request[0] for _, request in requests_of(new, self.run_id) if request is not None
        ]
        return (new[-1][0] if new else newest), commands

    def _standing(self, pending: Sequence[Command]) -> Standing:
        """Return what the run will be once *pending* are applied."""
        query = sa.select(flow_runs.c.graph).where(flow_runs.c.run_id == self.run_id)
        done = sa.select(node_runs.c.node_id, node_runs.c.meta).where(
            node_runs.c.run_id == self.run_id,
            node_runs.c.invocation_key == DEFAULT_KEY,
            node_runs.c.state == "completed",
        )
        with self._store.reading() as connection:
            graph = graph_from_plain(of_json(connection.scalars(query).one()))
            rows = connection.execute(done).all()
        # One whose result was not stored may be called again.
        completed = {row.node_id for row in rows if _is_stored(row.meta)}
        graph = graph_now(graph, self._recorded())
        return Standing(self.run_id, graph, pending, completed, self._registry)

    # --- early refusals --------------------------------------------------------------------------

    def _check(self, command: Command, standing: Standing, *, owned: bool, decides: bool) -> None:
        """Refuse a command that the run would refuse, or that contradicts one that waits."""
        if isinstance(command, Answer):
            self._check_answer(command, standing)
        elif not owned:
            standing.check(command)
            if isinstance(command, (ResumeBranch, CancelBranch)):
                asks = [(ref.node_id, ref.invocation_key) for ref in self._asked()]
                standing.check_branch(command, asks, decides=decides)

    def _check_answer(self, answer: Answer, standing: Standing) -> None:
        """Refuse an answer that the run would refuse.

        Raises:
            NodeNotFound: There is no such node.
            InvalidState: It does not wait, has its answer already, or is to be cancelled.
            InputValidationError: The answer does not fit the schema.
        """
        standing.check_answer(answer)
        asked = {
            (ref.node_id, ref.invocation_key): each
            for ref, each in self._asked().items()
            if each.job_id is None
        }
        question = asked.get((answer.node_id, answer.key))
        if question is None and answer.key == DEFAULT_KEY:
            # A state of a machine is in one cycle at a time, whose number nobody has to know.
            same = [each for (node_id, _), each in asked.items() if node_id == answer.node_id]
            question = same[0] if standing.is_machine and same else None
        if question is not None:
            check_answer(question, answer)
            return
        standing.check(answer)
        raise InvalidState(
            f"node {answer.node_id!r}{_of_key(answer.key)} of run {self.run_id} does not wait for "
            "a person"
            + (f"; these do: {', '.join(_place(*each) for each in asked)}" if asked else "")
        )

    # --- outcomes --------------------------------------------------------------------------------

    def _outcome(self, number: int, until: float) -> Mapping[str, Any] | None:
        """Wait for what becomes of a request; None when nobody executes the run any more.

        Raises:
            TimeoutError: It was not applied until then.
        """
        pause = _FIRST_LOOK
        while True:
            owned = self.is_executed  # first: an outcome is recorded before the run is given free
            text = self._store.outcome_of(self.run_id, number)
            if text is not None:
                found: Mapping[str, Any] = of_json(text)
                return found
            if not owned:
                return None
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError(
                    f"whoever executes run {self.run_id} has not applied the command in time; it "
                    "stands, and is applied at the run's next turn, or by its next resume. In a "
                    "node or a hook of that run itself use send(..., wait=False)"
                )
            time.sleep(min(pause, left))
            pause = min(1.5 * pause, _LAST_LOOK)

    def _left_alone(self, command: Command, until: float) -> bool:
        """Say what becomes of a command that was sent while the run came to its end."""
        if isinstance(command, (PauseRun, ResumeRun, CancelRun)):
            left = None if until == inf else max(0.0, until - time.monotonic())
            return self._do_here(command, until) or self._send(command, True, left)
        if self._stand().status == RunStatus.COMPLETED:
            raise InvalidState(f"run {self.run_id} completed before it took the command")
        return False

    def _refusal(self, told: Mapping[str, Any], command: Command) -> DaggerError:
        """Return the error that the run's owner recorded, of the same class where that is ours."""
        kind, message = getattr(errors, str(told["type"]), None), str(told["message"])
        if not (isinstance(kind, type) and issubclass(kind, DaggerError)):
            return InvalidState(f"{told['type']}: {message}")
        if kind is NodeNotFound:
            branches = isinstance(command, (PauseBranch, ResumeBranch, CancelBranch))
            known = self._standing(self._inbox()[1]).names(branches=branches)
            return NodeNotFound(_meant(command, message), known)
        if kind is NodeAlreadyExists:
            return NodeAlreadyExists(_meant(command, message), _problems(message))
        if kind is CycleError:
            return CycleError((), _problems(message))
        if issubclass(kind, ValidationError):
            return kind(_problems(message))
        takes_text = not isinstance(kind.__init__, FunctionType)
        return kind(message) if takes_text else InvalidState(message)

    # --- runs that nobody executes ---------------------------------------------------------------

    def _do_here(self, command: PauseRun | ResumeRun | CancelRun, until: float) -> bool:
        """Record what becomes of a run that nobody executes; False when somebody does by now.

        Raises:
            TimeoutError: Somebody does, and there is no time left to ask.
            InvalidState: It has ended, or can only be resumed by whoever has its actions.
        """
        status = self._stand().status
        if isinstance(command, ResumeRun):
            raise InvalidState(
                f"nobody executes run {self.run_id}, which is {status}; whoever has its actions "
                f"goes on with it: executor.resume({self.run_id!r}), or dagger-dsl resume "
                f"{self.run_id} --actions MODULE_OR_FILE"
            )
        wanted = RunStatus.PAUSED if isinstance(command, PauseRun) else RunStatus.CANCELLED
        if status == wanted:
            return True
        if status not in _LIVES:
            raise InvalidState(f"run {self.run_id} has ended already: it is {status}")
        try:
            stored, journal = self._store.claim_run(self.run_id)
        except RunOwned as owned:
            if time.monotonic() >= until:
                raise TimeoutError(f"{owned}; it was not asked in time") from owned
            time.sleep(_FIRST_LOOK)
            return False
        try:
            reason = command.reason or str(wanted)
            if wanted is RunStatus.CANCELLED:
                self._cancel_jobs(journal, reason)
                journal.commit(_left_open(stored, reason), replacing=_cancelled(stored, reason))
            error = {**(stored.error or {}), "reason": reason}
            journal.finish(wanted, to_json(error))
        finally:
            journal.close()
        return True

    def _cancel_jobs(self, journal: RunJournal, reason: str) -> None:
        """Have the next commit cancel the jobs that nodes of the run have started and wait for."""
        for question in self._asked().values():
            if question.job_id is not None and question.owns:
                from dagger_dsl.store.awaited_jobs import AwaitedJobs

                jobs = AwaitedJobs(self._store.database, self._store._payloads)
                journal.accompany(jobs.cancelling(question.job_id, reason))


def _is_stored(meta: str | None) -> bool:
    return meta is None or of_json(meta).get("stored") is not False


def _of_key(key: str) -> str:
    return "" if key == DEFAULT_KEY else f" (key {key!r})"


def _place(node_id: str, key: str) -> str:
    return f"{node_id!r}{_of_key(key)}"


def _meant(command: Command, message: str) -> str:
    """Return which name in a command a message is about."""
    names = [*names_in(command), *(spec.id for spec in specs_of(command) if spec.id)]
    return next((name for name in names if repr(name) in message), names[0] if names else "")


def _problems(message: str) -> list[Problem]:
    """Return the problems whose text, listed as a `ValidationError` lists them, is *message*."""
    head, _, rest = message.partition(" problems:\n  ")
    lines = rest.split("\n  ") if head.isdigit() and rest else [message]
    found = []
    for line in lines:
        place, colon, text = line.partition(": ")
        found.append(Problem(text, Place(path=place)) if colon else Problem(line))
    return found


def _cancelled(stored: StoredRun, reason: str) -> list[Row]:
    """Return the ends of the nodes of a cancelled run that waited for a person."""
    return [
        _end(node.node_id, node.key, node.attempt, reason, node.started_at, node.duration)
        for node in stored.attempts
        if node.state == "waiting"
    ]


def _left_open(stored: StoredRun, reason: str) -> list[Row]:
    """Return the ends of the nodes of a cancelled run that had not begun.

    A run whose process died has none: whether one of its nodes had begun is for its resume to say.
    """
    if stored.status != RunStatus.PAUSED:
        return []
    graph = graph_now(stored.graph, stored.commands)
    known = {node_id for node_id, key in stored.nodes if key == DEFAULT_KEY}
    return [_end(name, DEFAULT_KEY, 0, reason) for name in graph.nodes if name not in known]


def _end(
    node_id: str,
    key: str,
    attempt: int,
    reason: str,
    started: float | None = None,
    duration: float | None = None,
) -> Row:
    took = None if duration is None else duration * 1000.0
    meta = to_json({"reason": reason})
    return (node_id, key, attempt, "cancelled", None, None, started, took, None, meta)
