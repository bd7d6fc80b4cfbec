"""The edges into a node whose trigger rule is not `success`, settled one by one."""

from __future__ import annotations

from typing import Final

from dagger_dsl.model.policies import Trigger

__all__ = ["CANCELLED", "COMPLETED", "FAILED", "NAMES", "PENDING", "SKIPPED", "WAITING", "Join"]

PENDING: Final = 0
WAITING: Final = 1
COMPLETED: Final = 2
FAILED: Final = 3
SKIPPED: Final = 4
CANCELLED: Final = 5

#: The states by code, as reports and tables spell them.
NAMES: Final = ("pending", "waiting", "completed", "failed", "skipped", "cancelled")


class Join:
    """What is known of the edges into one node, and the verdict of its rule.

    Attributes:
        rule: The trigger rule.
        open: Edges that are neither satisfied nor dead.
        closed: The node was enabled.
        only: The source that an earlier process had taken; no other one enables the node.
        chosen: The sources of satisfied edges, in the order in which these were satisfied.
    """

    __slots__ = ("chosen", "closed", "failed", "only", "open", "rule", "unclean")

    def __init__(self, rule: Trigger, edges: int) -> None:
        self.rule = rule
        self.open = edges
        self.only: int | None = None
        self.chosen: list[int] = []
        self.unclean = 0
        self.failed = 0
        self.closed = False

    def fresh(self) -> Join:
        """Return an unused join of the same rule and edges."""
        return Join(self.rule, self.open)

    def settle(self, satisfied: bool, state: int, source: int) -> bool | None:
        """Settle one edge; return True to run, False to skip, None while it is undecided.

        Args:
            satisfied: The source completed and its label matched.
            state: How the source ended.
            source: Which one it was.
        """
        self.open -= 1
        self.failed += state == FAILED
        self.unclean += state in (FAILED, CANCELLED)
        satisfied = satisfied and self.only in (None, source)
        if satisfied:
            self.chosen.append(source)
        if self.closed:
            return None
        if self.rule is Trigger.ANY and satisfied:
            return True
        if self.open:
            return None
        if self.rule is Trigger.ANY:
            return False
        if self.rule is Trigger.DONE:
            return True
        if self.rule is Trigger.FAILED:
            return self.failed > 0
        return self.unclean == 0 and bool(self.chosen)  # none_failed

    def reason(self) -> str:
        """Return why the node does not run."""
        if self.rule is Trigger.FAILED:
            return "trigger 'failed': no dependency failed"
        if self.rule is Trigger.ANY:
            return "trigger 'any': no dependency was satisfied"
        if self.unclean:
            return "trigger 'none_failed': a dependency failed or was cancelled"
        return "trigger 'none_failed': no dependency was satisfied"
