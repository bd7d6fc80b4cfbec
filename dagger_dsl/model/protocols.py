"""Read-only views that rooms show to each other without importing each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

__all__ = ["ActionInfo", "CacheReader", "CancelSignal", "ParamInfo"]


class CancelSignal(Protocol):
    """What ends a run from outside."""

    @property
    def cancelled(self) -> bool:
        """Whether the run shall end."""
        ...

    @property
    def reason(self) -> str:
        """Why, or an empty text."""
        ...

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* once on cancellation (at once if it has happened).

        Returns:
            A function that takes the subscription back.
        """
        ...


class CacheReader(Protocol):
    """Values of a run by namespace (a node's id, ``inputs``, ``global``) and key."""

    def get(self, namespace: str, key: str, default: Any = None) -> Any:
        """Return one value, or *default* when it was never written."""
        ...


class ParamInfo(Protocol):
    """One parameter of an action, as `dagger_dsl.registry` describes it."""

    @property
    def name(self) -> str:
        """Its name, which is the name of a node's input."""
        ...

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        ...

    @property
    def accepts_none(self) -> bool:
        """Whether its annotation says that None is a value."""
        ...


class ActionInfo(Protocol):
    """What static analysis may know of an action."""

    @property
    def name(self) -> str:
        """Its name in the registry."""
        ...

    @property
    def params(self) -> Sequence[ParamInfo]:
        """The parameters a node's inputs can fill, in order."""
        ...

    @property
    def takes_any_input(self) -> bool:
        """Whether inputs of other names are accepted too (``**kwargs``, or a context action)."""
        ...

    @property
    def outputs(self) -> Sequence[str]:
        """The declared output names; empty means the single output ``result``."""
        ...

    def hints(self) -> Mapping[str, Any]:
        """Return the evaluated annotations, ``return`` included; empty where there are none."""
        ...
