"""`Run`: everything one run of a plan holds, and what others may read of it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dagger_dsl.engine.attempts import KEPT, Lap, Try
from dagger_dsl.engine.invoke import bind_call
from dagger_dsl.engine.plan import UNSET, Plan
from dagger_dsl.engine.reporting import report_of
from dagger_dsl.engine.run_cache import RunCache
from dagger_dsl.engine.state import NAMES, PENDING, RunState
from dagger_dsl.errors import NotExecuted, StoreError, TokenBudgetExceeded
from dagger_dsl.model.config import DagConfig, RunOptions
from dagger_dsl.model.context import DEFAULT_KEY, NodeRef
from dagger_dsl.model.events import Event
from dagger_dsl.model.protocols import Journal, Row
from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.registry import ActionDef
from dagger_dsl.retry import effective_policy
from dagger_dsl.runners.base import ASYNC, TIMED, Board

if TYPE_CHECKING:
    from dagger_dsl.engine.admission import Holdings
    from dagger_dsl.engine.control import CancelToken
    from dagger_dsl.engine.error_info import ErrorInfo
    from dagger_dsl.engine.lifecycle import Lifecycle
    from dagger_dsl.engine.machine import History
    from dagger_dsl.engine.nested import Nursery
    from dagger_dsl.engine.outside import Outside
    from dagger_dsl.engine.profiling import Profiles
    from dagger_dsl.engine.report import RunReport
    from dagger_dsl.engine.sharing import Sharing
    from dagger_dsl.engine.streams import Intake
    from dagger_dsl.engine.tracing import Tracing
    from dagger_dsl.model.policies import RetryPolicy
    from dagger_dsl.model.sharing import Context
    from dagger_dsl.runners.annex import Annex
    from dagger_dsl.runners.base import Runner
    from dagger_dsl.store.records import StoredNode
    from dagger_dsl.store.storage import Store

__all__ = ["Run"]


class Run:
    """One run: its board, its state and what it remembers by slot.

    Attributes:
        attempts: Number of the current attempt by slot, where it is not 1.
        earlier: Attempts that earlier processes made, by slot; they use up no retries.
        errors: What a slot's last attempt raised.
        stored_errors: Errors of nodes that an earlier process recorded.
        meta: What nodes gave with their answer, and how they were recovered.
        handling: By slot, the error whose failure handler is being called.
        bound: By slot of a join, the sources whose values it takes.
        restored: Slots whose result came from the store.
        before: By slot, start and end of the attempt before the current one, in seconds since 1970.
        tries: By slot, the newest attempts before the current one.
        laps: The newest cycles that a later one of their state came after; None for other graphs.
        recorded: The attempts that earlier processes recorded, without their values.
        loaders: By slot, how to read a stored value that nobody has needed so far.
        crashes: How often the process died in a call, by slot, where that is too often.
        suspects: Slots that get their last chance: the next death in their call is one too many.
        inserted: What functions of the old form wrote, by namespace and key, elsewhere than among
            their own outputs.
        notes: Keyed notes for a resume, recorded with the next commit.
        tokens: How many tokens its nodes have used.
        rounds: What has been counted as growths of its graph.
        emitted: How many custom events there were.
        yielded: By slot of a generator, the stored forms of what it has yielded for others.
        pumping: Slots of nodes whose generator is being read.
        streams: By slot of an invocation that takes the items of others one by one, those streams.
        feeding: Slots of the nodes that give them.
        silent: Number of invocations that are no calls: levels of lists that are mapped over.
        asked: By slot, the question that a person was asked.
        first_start: By slot, when the first of its attempts that failed began.
        lookups: By slot, what was found out about results of other runs.
        warned: Actions whose cache key was warned of.
        unshared: Slots whose result is more, or less, than what their action returned for its
            inputs: somebody else gave it, or it came with commands.
        standing_in: Slots for which a fallback is called, and not a failure handler.
        applied: Keys of the commands that were applied.
        unshown: Events that an earlier process may not have shown to hooks.
        seen_request: Number of the last command of another process that was taken.
        resumed: Whether an earlier process began it.
        depths: By node id, how many growths lie between the first graph and the node.
        annex: Makes calls of later nodes that the runner cannot make; None while there are none.
        outside: Has calls made in worker processes; None where none are.
        profiles: What profilers counted; None where nothing is profiled.
        tracing: Makes spans; None where none are made.
        holdings: What its calls hold of a `ResourceTracker`; None where there is none.
        arounds: What is put around each call, the inner ones first.
        registry: A `Registry`, or what finds actions as one does: for nodes that come later.
        abandoned: Slots whose call was left behind.
        hook_errors: What hooks raised; it never ends a run.
        exception: What the run failed with: the first failure that it was not let go on after, else
            the first one.
        continued: It was let go on after that, and after every other failure.
        lifecycle: What surrounds the calls of its nodes; None when nothing does.
        spent: Seconds of the run's time limit that earlier processes used up.
        store: Where it is recorded, None in memory.
        outer: The run that it is nested in.
        driver: A runner of the caller's that makes the calls, those of nested runs too.
        cap: A reading of the clock that a nested run must not pass, whatever its own limit is.
        nursery: The runs that are nested in it; None where its graph has no workflows for nodes.
        sharing: What ties it to its context; None while nobody has asked for one.
        noted: What earlier processes recorded of the context, in plain form.
        peak: How many bytes Python used at most, where that was to be measured.
        freed: By slot of a node whose value was freed, why.
        rereads: By slot, how to read a value again that will be freed.
        doomed: Slots whose value is to be freed, each with the reason; an empty one is the plan's.
        newcomers: Slots of nodes that were added or changed since freeing last looked.
        attempts_before: By slot, how often a state was called in the cycle before its last one;
            once, where it is not there.
        stir: Tells the coordinator that something is doomed.
        next_try: By slot of what waits for another attempt, when that begins.
        watch_progress: Takes how far a node has come: ``(node_id, key, fraction, status)``.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        run_id: str,
        options: RunOptions,
        config: DagConfig,
        inputs: Mapping[str, Any],
        token: CancelToken,
        registry: Any,
        slots: int,
        clock: Callable[[], float] = time.perf_counter,
        journal: Journal | None = None,
        store: Store | None = None,
        outer: Run | None = None,
        lifecycle: Lifecycle | None = None,
        outside: Outside | None = None,
        profiles: Profiles | None = None,
        tracing: Tracing | None = None,
        holdings: Holdings | None = None,
    ) -> None:
        self.plan = plan = plan.own()
        self.run_id = run_id
        self.dag_name = plan.graph.name
        self.options = options
        self.config = config
        self.inputs = inputs
        self.token = token
        self.registry = registry
        self.lookup: Callable[[str], ActionDef | None] = registry.get
        self.app_data = options.app_data
        self.journal = journal
        self.lifecycle = lifecycle
        self.state = RunState(plan)
        self.cache = RunCache(self)
        self.attempts: dict[int, int] = {}
        self.earlier: dict[int, int] = {}
        self.errors: dict[int, BaseException] = {}
        self.stored_errors: dict[int, ErrorInfo] = {}
        self.meta: dict[int, dict[str, Any]] = {}
        self.inserted: dict[tuple[str, str], Any] = {}
        self.handling: dict[int, BaseException] = {}
        self.bound: dict[int, frozenset[int]] = {}
        self.restored: set[int] = set()
        self.before: dict[int, tuple[float, float]] = {}
        self.tries: dict[int, deque[Try]] = {}
        self.laps: deque[Lap] | None = None
        self.recorded: Sequence[StoredNode] = ()
        self.trouble: dict[int, StoreError] = {}
        self.kept: dict[int, tuple[str, str]] = {}
        self.loaders: dict[int, Callable[[], Any]] = {}
        self.crashes: dict[int, int] = {}
        self.suspects: set[int] = set()
        self.notes: list[tuple[str | None, str]] = []
        self.abandoned: list[int] = []
        self.hook_errors: list[Exception] = []
        self.status = RunStatus.RUNNING
        self.reason = ""
        self.exception: BaseException | None = None
        self.continued = False
        self.wall = time.time() - clock()
        self.began = clock()
        self.finished: float | None = None
        self.deadline: float | None = None
        self.spent = 0.0
        self.tokens = 0
        self._counting = threading.Lock()
        self.rounds: set[str] = set()
        self.emitted = 0
        self.yielded: dict[int, list[Any]] = {}
        self.pumping: set[int] = set()
        self.streams: dict[int, Intake] = {}
        self.feeding: set[int] = set()
        self.silent = 0
        self.asked: dict[int, Any] = {}
        self.lookups: dict[int, Any] = {}
        self.first_start: dict[int, float] = {}
        self.unshared: set[int] = set()
        self.warned: set[str] = set()
        self.standing_in: set[int] = set()
        self.applied: set[str] = set()
        self.unshown: list[Event] = []
        self.seen_request = 0
        self.resumed = False
        self.depths: dict[str, int] = {}
        self.annex: Annex | None = None
        self.store = store
        self.outer = outer
        self.nursery: Nursery | None = None
        self.driver: Runner | None = None
        self.cap: float | None = None
        self.sharing: Sharing | None = None
        self.noted: dict[str, Any] | None = None
        self.peak: int | None = None
        self.freed: dict[int, str] = {}
        self.rereads: dict[int, Callable[[], Any]] = {}
        self.doomed: deque[tuple[int, str]] = deque()
        self.newcomers: list[int] = []
        self.attempts_before: dict[int, int] = {}
        self.next_try: dict[int, float] = {}
        self.stir: Callable[[], None] | None = None
        self.watch_progress: Callable[[str, str, float, str], None] | None = None
        self._constants = len(plan.constants)
        values: list[Any] = [UNSET] * plan.size
        for slot, literal in plan.constants:
            values[slot] = literal.value
        for name, slot in plan.inputs.items():
            values[slot] = inputs.get(name, UNSET)
        self.board = Board(
            calls=list(plan.calls),
            bindings=list(plan.bindings),
            kinds=bytearray(plan.kinds),  # a failure handler may be of another kind
            limits=dict(plan.limits),
            values=values,
            slots=slots,
            clock=clock,
        )
        self.outside = outside
        if outside is not None:
            outside.tie(self)
        self.profiles, self.tracing, self.holdings = profiles, tracing, holdings
        self.arounds = [each.around for each in (profiles, tracing, holdings) if each is not None]
        # Most runs have most calls as the plan has them.
        self._each = outside is not None or bool(self.arounds)
        if plan.machine is not None:
            plan.machine.begin(self)
        for slot in plan.invocations() if self._each else plan.wrapped:
            self.install(slot)
        if lifecycle is not None and not self._each:
            for node_id, slot in plan.index.items():
                if lifecycle.surrounds(node_id):
                    self.install(slot)
        if options.context is not None:
            self._share(options.context)
        if options._owner is not None:
            options._owner.take_run(self)

    @property
    def history(self) -> History | None:
        """Where the run of a state machine has been; None for any other graph."""
        return self.state.history

    def tried(self, slot: int, attempts: int) -> None:
        """Note that an invocation is called again, after so many attempts."""
        self.earlier[slot] = attempts
        self.attempts[slot] = attempts + 1

    def forget(self, slot: int) -> None:
        """Forget what is known of a state's last cycle: it is about to be entered again."""
        board, laps, last = self.board, self.laps, self.state.last  # type: ignore[attr-defined]  # a `MachineState`
        assert laps is not None
        started, ended = board.started, board.ended
        more = None
        if (
            self.attempts
            or self.attempts_before
            or self.errors
            or self.meta
            or self.before
            or self.asked
            or self.stored_errors
            or self.unshared
        ):
            number = self.attempts_before[slot] = self.attempts.get(slot, 1)
            mended = self.errors.get(slot) if self.meta.get(slot, {}).get("recovered") else None
            more = number, tuple(self.tries.get(slot, ())), mended
            for table in (
                self.attempts,
                self.earlier,
                self.errors,
                self.stored_errors,
                self.meta,
                self.before,
                self.tries,
                self.loaders,
                self.freed,
                self.asked,
                self.first_start,
            ):
                table.pop(slot, None)
            self.restored.discard(slot)
            self.unshared.discard(slot)
        laps.append((last[slot], slot, started[slot], ended[slot], more))
        started[slot] = ended[slot] = 0.0

    @property
    def context(self) -> Context:
        """What the nodes share; made when somebody asks for it."""
        if self.sharing is None:
            self._share(self._new_context())
        assert self.sharing is not None
        return self.sharing.context

    def _new_context(self) -> Context:
        if self.plan.machine is not None:
            from dagger_dsl.model.history import FSMContext

            return FSMContext()
        from dagger_dsl.model.sharing import Context

        return Context()

    @property
    def is_limited(self) -> bool:
        """Whether some call, or the run, has a time limit."""
        return (
            bool(self.plan.limits)
            or self.config.timeout_seconds is not None
            or self.cap is not None
        )

    def _share(self, context: Context) -> None:
        from dagger_dsl.engine.sharing import Sharing

        with self._counting:
            if self.sharing is None:
                self.sharing = Sharing(self, context)

    def tell_progress(self, slot: int, fraction: float, status: str) -> None:
        """Tell who watches the run how far one of its invocations has come; from any thread."""
        if self.watch_progress is not None and self.finished is None:
            ref = self.ref(slot)
            self.watch_progress(ref.node_id, ref.invocation_key, fraction, status)

    def node_times(self) -> dict[str, float]:
        """Return the seconds that each node took which was called, by id."""
        started, ended, before = self.board.started, self.board.ended, self.before
        found = {}
        for node_id, slot in list(self.plan.index.items()):
            start, end = started[slot], ended[slot]
            if start == 0.0 and slot in before:
                start, end = before[slot]
            if start != 0.0 and end >= start:
                found[node_id] = end - start
        return found

    def ask_to_free(self, slot: int, why: str) -> None:
        """Ask for a value to be freed when nothing needs it any more; from any thread."""
        self.doomed.append((slot, why))
        if self.stir is not None:
            self.stir()

    def is_gone(self, slot: int) -> bool:
        """Return whether a completed node's value was freed and cannot be read any more."""
        return bool(self.freed) and slot in self.freed and slot not in self.loaders

    def grow(self, slots: Iterable[int]) -> None:
        """Make room on the board for invocations that were added to the plan."""
        self._refresh()
        for slot in slots:
            self.install(slot)
            self.newcomers.append(slot)

    def rebound(self, slot: int) -> None:
        """Take over that a node that has not started is called with other inputs."""
        self._refresh()
        self.board.bindings[slot] = self.plan.bindings[slot]
        self.install(slot)
        self.newcomers.append(slot)

    def enlist(self, slot: int, children: Sequence[int]) -> None:
        """Make room on the board for invocations of a mapped one."""
        plan = self.plan
        self._refresh()
        if plan.mapped[slot].depth > 1:
            self.silent += len(children)
        bound = self.bound.get(slot)
        if bound is not None:
            self.bound.update(dict.fromkeys(children, bound))
        if self._each or self._is_wrapped(slot) or plan.kinds[slot] in self.board.beyond:
            for child in children:
                self.install(child)

    def load(self, slot: int) -> None:
        """Have what an earlier process recorded on the board, for those who take it from there."""
        if slot in self.restored or slot in self.freed:
            if self.freed.pop(slot, None) is not None:
                self.ask_to_free(slot, "")  # again, after those who need it now
            value = self.value(slot)
            for where, part in self.plan.split(slot, value):
                self.board.values[where] = part

    def _refresh(self) -> None:
        """Bring the board to the size of the plan."""
        plan, board = self.plan, self.board
        before, size = len(board.kinds), len(plan.ids)
        board.calls += plan.calls[len(board.calls) :]
        board.bindings += plan.bindings[len(board.bindings) :]
        board.kinds += plan.kinds[len(board.kinds) :]
        if plan.limits:
            limits = plan.limits
            more = range(before, size)
            board.limits.update((slot, limits[slot]) for slot in more if slot in limits)
        board.started += [0.0] * (size - len(board.started))
        board.ended += [0.0] * (size - len(board.ended))
        board.values += [UNSET] * (plan.size - len(board.values))
        for slot, literal in plan.constants[self._constants :]:
            board.values[slot] = literal.value
        self._constants = len(plan.constants)
        for name, slot in plan.inputs.items():
            if board.values[slot] is UNSET:
                board.values[slot] = self.inputs.get(name, UNSET)

    def install(self, slot: int) -> None:
        """Put the call of an invocation that came later, or has changed, onto the board."""
        plan, board, kind = self.plan, self.board, self.plan.kinds[slot]
        outside, in_batches = self.outside, plan.batch(slot) > 1
        if self._is_wrapped(slot) or (outside is not None and in_batches):
            call = bind_call(self, slot)
            if in_batches:
                call = plan.batch_call(plan.parents[slot], call)
        else:
            call = plan.calls[slot] if outside is None else outside.plain(slot)
        if self._is_outside(slot):
            kind &= ~TIMED  # whoever waits for the process ends it
        if slot in self.streams:
            call = self.streams[slot].wrap(call)
        for around in self.arounds:
            call = around(self, slot, call)
        if kind in board.beyond:
            call, kind = self._elsewhere(slot, call, kind, plan.limits.get(slot)), 0
        board.calls[slot] = call
        board.kinds[slot] = kind

    def _is_wrapped(self, slot: int) -> bool:
        """Return whether the call of an invocation has to know this run."""
        around = self.lifecycle
        if around is not None and around.surrounds(str(self.plan.ids[slot])):
            return True
        return self.plan.is_wrapped(slot)

    def is_calling(self, slot: int, attempt: int, *, stands_in: bool = False) -> bool:
        """Return whether an attempt of an invocation's own call is waited for.

        Args:
            slot, attempt: Which one.
            stands_in: Ask for its failure handler or its fallback instead.
        """
        return (
            self.attempts.get(slot, 1) == attempt
            and self.state.status(slot) == PENDING
            and (slot in self.handling) is stands_in
        )

    def value(self, slot: int) -> Any:
        """Return a completed node's value, reading it from the store when nobody did before.

        Raises:
            NotExecuted: It was freed, and is not stored.
        """
        loader = self.loaders.get(slot)
        if loader is not None:
            if slot in self.freed:
                return loader()
            self.board.values[slot] = loader()
            if slot in self.plan.fleeting or self.sharing is not None:
                self.rereads[slot] = loader
            self.loaders.pop(slot, None)  # last: two threads may ask at the same time
        value = self.board.values[slot]
        if value is UNSET and slot in self.freed:
            raise NotExecuted(
                f"node {self.plan.ids[slot]!r} has no result any more: {self.freed[slot]}"
            )
        return value

    def forget_checkpoint(self, slot: int) -> None:
        """Drop what a call kept for the attempt after it: it has completed."""
        name = self.kept.pop(slot, None)
        if name is not None:
            self.inserted.pop(name, None)

    def policy(self, slot: int) -> RetryPolicy:
        """Return the retry policy in force for a node."""
        return effective_policy(self.plan.node(slot), self.plan.actions[slot], self.config)

    def allowed(self, slot: int) -> int | None:
        """Return how many calls a node may have in all, those of earlier processes included.

        None where an object of tenacity's decides, which knows no number.
        """
        policy = self.policy(slot)
        if policy.stop is not None or policy.max_attempts is None:
            return None
        return policy.max_attempts + self.earlier.get(slot, 0)

    def another(self, slot: int, error: ErrorInfo | None = None) -> None:
        """Note that a node will be called once more, after *error*."""
        board = self.board
        tries = self.tries.setdefault(slot, deque(maxlen=KEPT))
        number = self.attempts.get(slot, 1)
        tries.append((number, board.started[slot], board.ended[slot], error))
        self.before[slot] = (self.wall + board.started[slot], self.wall + board.ended[slot])
        self.attempts[slot] = self.attempts.get(slot, 1) + 1
        board.started[slot] = board.ended[slot] = 0.0

    def once_more(self, slot: int) -> None:
        """Note that a node will be called once more for others; it uses up none of its retries."""
        self.another(slot)
        self.earlier[slot] = self.earlier.get(slot, 0) + 1

    def blame(self, error: BaseException, *, continued: bool = False) -> None:
        """Note what the run has failed with."""
        self.exception, self.continued = error, continued

    def spend(self, number: int) -> int:
        """Count tokens that a node has used; called from any thread.

        Raises:
            TokenBudgetExceeded: They are more than the run may use.
        """
        if self.outer is not None:
            self.outer.spend(number)
        most = self.config.max_tokens
        with self._counting:
            self.tokens += number
            total = self.tokens
        if most is not None and total > most:
            raise TokenBudgetExceeded(
                f"the run has used {total} tokens, and max_tokens is {most}; raise it, or use less"
            )
        return total

    def stand_in(self, slot: int, call: Callable[..., Any], is_async: bool) -> None:
        """Let something else be called in a node's place, without the node's time limit."""
        kind = ASYNC if is_async else 0
        if kind in self.board.beyond:
            call, kind = self._elsewhere(slot, call, kind, None), 0
        self.board.calls[slot] = call
        self.board.kinds[slot] = kind

    def _elsewhere(
        self, slot: int, call: Callable[..., Any], kind: int, limit: float | None
    ) -> Callable[..., Any]:
        if self.annex is None:
            self._add_annex()
        assert self.annex is not None
        return self.annex.wrap(slot, call, kind, limit)

    def _add_annex(self) -> None:
        from dagger_dsl.runners.annex import Annex

        self.annex = annex = Annex(self.token)
        halt = self.board.halt

        def halt_all(slots: Collection[int]) -> None:
            halt(slots)
            annex.halt(slots)

        self.board.halt = halt_all

    def is_awaited(self, slot: int) -> bool:
        """Return whether the call of an invocation is awaited, and ends when it is cancelled."""
        awaited = self.annex is not None and slot in self.annex.awaited
        return awaited or bool(self.board.kinds[slot] & ASYNC)

    def can_end(self, slot: int) -> bool:
        """Return whether the call of an invocation can be ended, so that nothing is left behind."""
        return self._is_outside(slot) or self.is_awaited(slot)

    def _is_outside(self, slot: int) -> bool:
        """Return whether the call is made in worker processes, with all that it reads."""
        if self.outside is None or not self.outside.makes(slot):
            return False
        return slot not in self.streams or not self.streams[slot].reads_here()

    def attempts_made(self, slot: int) -> int:
        """Return how many calls of a node were made, earlier processes included."""
        last = self.attempts.get(slot, 1)
        called = slot in self.restored or self.board.started[slot] != 0.0
        return last if called else last - 1

    def ref(self, slot: int) -> NodeRef:
        """Return the name of one invocation."""
        plan = self.plan
        key = plan.children.key(slot) if plan.keyed else DEFAULT_KEY
        return NodeRef(self.run_id, self.dag_name, str(plan.ids[slot]), key)

    def slot_of(self, node: NodeRef) -> int | None:
        """Return the slot of an invocation by its reference."""
        return self.slot_named(node.node_id, node.invocation_key)

    def slot_named(self, node_id: str, key: str = DEFAULT_KEY) -> int | None:
        """Return the slot of an invocation by its node and key."""
        slot = self.plan.index.get(node_id)
        if slot is None or key in (DEFAULT_KEY, ""):
            return slot
        return self.plan.children.find(slot, key)

    def top(self, slot: int) -> int:
        """Return the slot of the node that an invocation belongs to."""
        parents = self.plan.parents
        while slot in parents:
            slot = parents[slot]
        return slot

    def name_of(self, slot: int) -> str:
        """Return a text for an invocation that `slot_named` finds again, split at its first dot."""
        plan = self.plan
        inside = slot in plan.parents or plan.machine is not None
        key = f".{plan.children.key(slot)}" if inside else ""
        return f"{plan.ids[slot]}{key}"

    def renew(self) -> None:
        """Begin with the graph as it has become; nothing has happened so far."""
        plan, first = self.plan, len(self.board.kinds)
        if plan.size == len(self.board.values) and not plan.changed:
            return
        self.state = RunState(plan)
        self._refresh()
        self.board.bindings[:first] = plan.bindings[:first]
        for slot in plan.invocations():
            if slot >= first or slot in plan.rebound:
                self.install(slot)
        self.silent = sum(slot in plan.mapped for slot in plan.parents)

    def is_cached(self, slot: int) -> bool:
        """Return whether another run's result took a node's place."""
        lookup = self.lookups.get(slot)
        return lookup is not None and bool(lookup.decision.hit)

    def report(self) -> RunReport:
        """Return how the run stands."""
        return report_of(self)

    def states_of(self, slot: int) -> NodeState:
        """Return one node's state."""
        code = self.state.status(slot)
        running = (
            self.status is RunStatus.RUNNING
            and code == PENDING
            and self.board.started[slot] > self.board.ended[slot]
        )
        return NodeState.RUNNING if running else NodeState(NAMES[code])

    def tags(self, slot: int) -> dict[str, Any]:
        """Return what a log record that concerns a node carries as its ``extra``."""
        found = {
            "run_id": self.run_id,
            "dag_name": self.dag_name,
            "node_id": str(self.plan.ids[slot]),
        }
        if slot in self.plan.parents:
            found["invocation_key"] = self.plan.children.key(slot)
        return found

    def row(self, slot: int, state: str, **more: Any) -> Row:
        """Return the journal's row for one slot; the end of a node without a call is no attempt."""
        start, end = self.board.started[slot], self.board.ended[slot]
        called = start != 0.0
        return (
            str(self.plan.ids[slot]),
            self.plan.children.key(slot),
            self.attempts.get(slot, 1) if called else 0,
            state,
            more.get("inline"),
            more.get("artifact"),
            self.wall + start if called else None,
            (end - start) * 1000.0 if called else None,
            more.get("error"),
            more.get("meta"),
        )
