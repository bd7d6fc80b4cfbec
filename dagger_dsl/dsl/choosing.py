"""`Choice`: the definition of an action that chooses among the nodes that its arrows lead to."""

from __future__ import annotations

from typing import Any

import attrs

from dagger_dsl.registry import ActionDef

__all__ = ["Choice", "as_choice"]


@attrs.frozen(eq=False, kw_only=True)
class Choice(ActionDef):
    """An action that returns the ids of the nodes that go on; each arrow is labelled by its target.

    It is a class of its own, and no field of `ActionDef`, because nothing but the drawing of arrows
    depends on it: a graph has the labels.
    """


def as_choice(definition: ActionDef) -> Choice:
    """Return the same action as one that chooses."""
    fields: dict[str, Any] = {
        str(field.alias): getattr(definition, field.name) for field in attrs.fields(ActionDef)
    }
    return Choice(**fields)
