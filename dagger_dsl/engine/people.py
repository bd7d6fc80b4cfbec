"""Nodes that wait for a person: what they ask, and what becomes of the answer.

A body that asks has ended; the question is recorded with its outcome, nothing of it holds a worker,
and the answer, checked against the question's schema, becomes the node's result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from dagger_dsl.engine.notes import to_json
from dagger_dsl.errors import InputValidationError, InvalidState, NodeNotFound, OutputError
from dagger_dsl.model.commands import Answer
from dagger_dsl.model.context import labels_of, no_label
from dagger_dsl.model.people import HumanRequest
from dagger_dsl.model.policies import HumanTimeoutAction
from dagger_dsl.model.schema import schema_fault, type_fault
from dagger_dsl.model.values import MISSING, from_plain, to_plain

if TYPE_CHECKING:
    from dagger_dsl.engine.instance import Run

__all__ = [
    "Question",
    "ask",
    "asked_slot",
    "check_answer",
    "check_result",
    "question_note",
    "question_of",
]


@attrs.define
class Question:
    """What a node waits to hear.

    Attributes:
        prompt: For the person.
        schema: JSON Schema of the answer, or None.
        default: The answer that is taken when nobody gives one; `MISSING` is none.
        expires: When that is, in seconds since 1970; None is never.
        autopilot: Whether the run goes on by itself then; else it stays as it is.
        job_id: The job that answers; None where a person does.
        owns: Whether the node has started that job.
    """

    prompt: str
    schema: Mapping[str, Any] | None = None
    default: Any = MISSING
    expires: float | None = None
    autopilot: bool = False
    job_id: str | None = None
    owns: bool = False

    @property
    def reason(self) -> str:
        """What its node waits for, for people."""
        what = "a person: " if self.job_id is None else ""
        return f"waits for {what}{self.prompt}"

    @property
    def answers_itself(self) -> bool:
        """Whether time alone can bring the answer."""
        return self.expires is not None and self.autopilot and self.default is not MISSING

    def to_plain(self) -> dict[str, Any]:
        """Return what the journal keeps."""
        plain: dict[str, Any] = {"prompt": self.prompt}
        if self.schema is not None:
            plain["schema"] = dict(self.schema)
        if self.default is not MISSING:
            plain["default"] = to_plain(self.default, "default")
        if self.expires is not None:
            plain["expires"] = self.expires
        if self.autopilot:
            plain["autopilot"] = True
        if self.job_id is not None:
            plain["job"] = self.job_id
        if self.owns:
            plain["owns"] = True
        return plain


def question_of(plain: Mapping[str, Any]) -> Question:
    """Return the question that the journal kept."""
    return Question(
        plain["prompt"],
        plain.get("schema"),
        from_plain(plain["default"], "default") if "default" in plain else MISSING,
        plain.get("expires"),
        plain.get("autopilot", False),
        plain.get("job"),
        plain.get("owns", False),
    )


def ask(run: Run, request: HumanRequest) -> Question:
    """Return the question that a request asks in a run, with the time its configuration adds."""
    config = run.config
    seconds = request.timeout
    if seconds is None and config.human_wait_minutes is not None:
        seconds = 60.0 * config.human_wait_minutes
    return Question(
        request.prompt,
        request.schema,
        request.default,
        None if seconds is None else run.wall + run.board.clock() + seconds,
        config.human_timeout_action is HumanTimeoutAction.AUTOPILOT
        # A body that names the time and the answer decides, unless somebody says otherwise.
        or ("human_timeout_action" not in config.given and request.timeout is not None),
    )


def check_answer(question: Question, answer: Answer) -> None:
    """Refuse an answer that does not fit what was asked.

    Raises:
        InputValidationError: It does not fit the schema.
    """
    if question.schema is None:
        return
    fault = schema_fault(question.schema, answer.value, "answer")
    if fault is not None:
        raise InputValidationError(f"node {answer.node_id!r} asks {question.prompt!r}; {fault}")


def check_result(run: Run, slot: int, question: Question, value: Any) -> None:
    """Refuse an answer that cannot be the result of the node that asks: there can be another one.

    Where the question has a schema of its own, that says what is right, and the annotation of the
    body does not. What asks in the place of a node that failed gives what it likes.

    Raises:
        InputValidationError: It does not fit the node's ``output_schema``, its annotation, its
            outputs or its labelled edges.
        EncodingError: The run is recorded, and it has no stored form.
    """
    action, fault = run.plan.actions[slot], None
    if run.journal is not None and action.store:
        to_plain(value, "answer")
    if slot in run.handling:
        return
    if question.schema is None and action.output_schema is None:
        fault = type_fault(value, action.hints().get("return", Any), "answer")
    try:
        action.check_output(value)
        run.plan.split(slot, value)
    except OutputError as error:
        fault = str(error)
    if run.plan.machine is not None:
        from dagger_dsl.engine.machine_calls import lost

        fault = fault or lost(run, slot, value)
    elif slot in run.plan.labelled and labels_of(value) is None:
        fault = no_label(value)
    if fault is not None:
        node_id = str(run.plan.ids[slot])
        raise InputValidationError(f"node {node_id!r} cannot take this answer: {fault}")


def asked_slot(run: Run, answer: Answer) -> int:
    """Return the invocation that an answer is for.

    Raises:
        NodeNotFound: There is no such node.
        InvalidState: It does not wait for a person.
    """
    index = run.plan.index
    if answer.node_id not in index:
        raise NodeNotFound(answer.node_id, tuple(index))
    slot = run.slot_named(answer.node_id, answer.key)
    if slot in run.state.asking and slot not in run.asked:
        reason = run.state.reasons.get(slot, "")
        raise InvalidState(f"node {answer.node_id!r} is a run of its own: {reason}")
    if slot is None or slot not in run.state.asking or run.asked[slot].job_id is not None:
        waiting = sorted(
            str(run.plan.ids[each])
            for each in run.state.asking
            if each not in run.asked or run.asked[each].job_id is None
        )
        raise InvalidState(
            f"node {answer.node_id!r} does not wait for a person"
            + (f"; these do: {', '.join(waiting)}" if waiting else "")
        )
    return slot


def question_note(run: Run, slot: int, question: Question) -> tuple[str, str]:
    """Return the journal's note of a question."""
    ref = run.ref(slot)
    attempt = run.attempts.get(slot, 1)
    body = {
        "asks": {
            "node": ref.node_id,
            "key": ref.invocation_key,
            "attempt": attempt,
            **question.to_plain(),
        }
    }
    return f"asks {attempt} {ref.invocation_key} {ref.node_id}", to_json(body)
