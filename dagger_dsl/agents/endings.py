"""`Endings`: what becomes of a task once the call of its agent is over, or could not be made."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Any, Final

from dagger_dsl.agents.signals import Blocked, NeedsMoreInfo
from dagger_dsl.errors import StoreDamaged, StoreError
from dagger_dsl.model.policies import Effects, RetryPolicy
from dagger_dsl.model.tasks import TaskStatus
from dagger_dsl.retry import decide
from dagger_dsl.store.task_claims import Claim, Ending, TaskClaims

if TYPE_CHECKING:
    from dagger_dsl.agents.calls import Caller
    from dagger_dsl.agents.context import TaskContext
    from dagger_dsl.registry import Registry

__all__ = ["Endings"]

logger = logging.getLogger("dagger_dsl.agents")

#: Seconds until a task is tried again that met trouble with storage: at first, and at most.
_PUT_OFF: Final = 0.25
_PUT_OFF_AT_MOST: Final = 60.0

#: What the documents' agents fail with to say that their task waits.
_NEEDS_MORE: Final = "needs_more_info"


class Endings:
    """Decides what becomes of tasks: completed, failed, blocked, or called again.

    Args:
        claims: Where their values are stored, and whose clock tells when they are due.
        registry: Where their agents are.
    """

    def __init__(self, claims: TaskClaims, registry: Registry) -> None:
        self._claims = claims
        self._registry = registry

    def of_answer(self, caller: Caller, ctx: TaskContext, answer: Any) -> Ending:
        """Return the ending of a call that returned something.

        Raises:
            OutputError: That is not what the agent promises.
            EncodingError: It has no stored form.
        """
        claim = ctx._claim
        if ctx._parks:  # it has said so, and returned
            ctx._end()
            return Ending(claim, TaskStatus.BLOCKED, asks=not ctx._adds)
        caller.check_output(answer)
        result = self._claims.encoded(answer, f"the result of task {claim.id!r}")
        published = ctx._end()
        if published:
            self._claims.messages.place(published)
        return Ending(claim, TaskStatus.COMPLETED, result, published=published)

    def of_error(
        self, ctx: TaskContext, error: BaseException, took: float, *, called: bool = True
    ) -> Ending:
        """Return the ending of a call that raised something, or could not be made.

        Args:
            ctx: The call.
            error: What it raised.
            took: Seconds.
            called: Whether the agent was called.
        """
        claim = ctx._claim
        ctx._end()
        try:
            if isinstance(error, Blocked):
                return Ending(
                    claim,
                    TaskStatus.BLOCKED,
                    error=error.reason,
                    needs=error.on,
                    asks=error.question is not None or (not error.on and not ctx._adds),
                    question=error.question,
                )
            if self._is_own(error) and not isinstance(error, StoreDamaged):  # no patience mends it
                return self._put_off(claim, error, called=called)
            return self._failed(claim, ctx, error, took)
        except Exception as fault:  # of a condition for retries, perhaps; its task fails, no thread
            logger.exception("what became of task %r could not be decided", claim.id)
            text = f"{_text_of(error)} (and then: {_text_of(fault)})"
            return Ending(claim, TaskStatus.FAILED, error=text)

    def _is_own(self, error: BaseException) -> bool:
        """Whether it is trouble of the database of the tasks, not of one that the agent opened."""
        return isinstance(error, StoreError) and error.where in self._claims.places

    def _put_off(self, claim: Claim, error: BaseException, *, called: bool) -> Ending:
        """Return the ending of a task that met trouble with storage, which is no result."""
        text = _text_of(error)
        if called and claim.effects == Effects.AT_MOST_ONCE:
            why = f"{text}; it may be called at most once: decide by hand"
            return Ending(claim, TaskStatus.BLOCKED, error=why, asks=True, unsure=True)
        pause = min(_PUT_OFF_AT_MOST, _PUT_OFF * 2 ** min(claim.attempt, 10))
        logger.warning("task %r met %s; it is tried again in %g s", claim.id, text, pause)
        due_at = self._claims.now() + pause
        return Ending(claim, TaskStatus.PENDING, error=text, due_at=due_at, begun=called)

    def _failed(self, claim: Claim, ctx: TaskContext, error: BaseException, took: float) -> Ending:
        waits = isinstance(error, NeedsMoreInfo) or _plain(error) == _NEEDS_MORE
        if waits or ctx._parks:
            return Ending(claim, TaskStatus.BLOCKED, error=_plain(error), asks=not ctx._adds)
        agent = self._registry.task_agents[claim.agent]
        policy = agent.retry or RetryPolicy(max_attempts=1)
        if claim.spec.get("max_retries") is not None:
            policy = policy.with_attempts(claim.spec["max_retries"] + 1)
        delay = decide(policy, claim.retries + 1, error, took)
        text = _text_of(error)
        if delay is None:
            logger.debug("task %r failed", claim.id, exc_info=error)
            return Ending(claim, TaskStatus.FAILED, error=text)
        logger.warning("task %r failed (%s), retrying in %.1f s", claim.id, text, delay)
        return Ending(
            claim,
            TaskStatus.PENDING,
            error=text,
            due_at=self._claims.now() + delay,
            retried=True,
        )


def _plain(error: BaseException) -> str:
    """Return the text of an error, whatever it is made of."""
    try:
        return str(error)
    except Exception:
        return type(error).__name__


def _text_of(error: BaseException) -> str:
    """Return kind and text of an error, as a database can keep it."""
    text = "".join(traceback.format_exception_only(error)).strip()
    return text.encode("utf-8", "backslashreplace").decode()
