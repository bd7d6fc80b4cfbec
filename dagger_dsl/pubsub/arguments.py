"""What a bus is given by its callers, checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dagger_dsl.errors import ConfigurationError, shown
from dagger_dsl.model.messages import LONGEST, Message, is_short_text
from dagger_dsl.pubsub.config import Reactive, StartWith, WorkflowSpec

__all__ = ["as_ids", "as_spec", "check_agent", "check_texts", "contents"]


def as_spec(spec: Any) -> WorkflowSpec:
    """Return what a bus is asked to do; None is `Reactive`.

    Raises:
        ConfigurationError: It is neither `StartWith` nor `Reactive`.
    """
    if spec is None:
        return Reactive()
    if not isinstance(spec, (StartWith, Reactive)):
        raise ConfigurationError(f"a bus runs a StartWith or a Reactive, not {shown(spec)}")
    return spec


def as_ids(ids: Any) -> set[str] | None:
    """Return ids of messages, of one or of several; None for all.

    Raises:
        ConfigurationError: They are none.
    """
    if ids is None:
        return None
    found = [ids] if isinstance(ids, str) else ids
    if not isinstance(found, Iterable):
        raise ConfigurationError(f"ids is a list of the ids of messages, not {shown(ids)}")
    listed = list(found)
    for each in listed:
        if not isinstance(each, str):
            raise ConfigurationError(f"the id of a message is a text, not {shown(each)}")
    return set(listed)


def check_agent(name: Any) -> None:
    """Refuse what cannot be the name of an agent.

    Raises:
        ConfigurationError: It is no text.
    """
    if not isinstance(name, str):
        raise ConfigurationError(f"an agent is named by a text, not {shown(name)}")


def check_texts(**texts: Any) -> None:
    """Refuse what cannot be the key, the id or the task of a message; its id may be None.

    Raises:
        ConfigurationError: One cannot be.
    """
    for name, value in texts.items():
        if value is None and name == "id":
            continue
        if not is_short_text(value):
            raise ConfigurationError(
                f"{name} is a text of at most {LONGEST} characters, without NUL, not "
                f"{shown(value, 60)}"
            )
        if name == "id" and not value:
            raise ConfigurationError("id is a text that is not empty; leave it out to get one")


def contents(message: Message, key: str, task_id: str) -> tuple[Any, str, str]:
    """Return what a message stands for that is published again: its payload, key and task.

    Args:
        message: Which.
        key, task_id: Those that are said beside it, which count; empty where none are.
    """
    return message.payload, key or message.key, task_id or message.task_id
