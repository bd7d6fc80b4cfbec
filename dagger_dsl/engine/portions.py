"""`PartialRuns`: running a part of a workflow on the results of an earlier run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dagger_dsl.engine.workflow import Workflow
from dagger_dsl.errors import ConfigurationError, shown

if TYPE_CHECKING:
    from dagger_dsl.model.config import RunOptions

__all__ = ["PartialRuns"]


class PartialRuns(Workflow):
    """A workflow of which a part can be run.

    Every way to run has the options ``start_at``, ``stop_at`` and ``reuse``; the methods here are
    short words for `run` with them. What is outside of the part and does not depend on it keeps the
    result that an earlier run recorded (``restored`` in the report), everything else outside of it
    is skipped, and no function outside of it is called, but for one that yields its items to a node
    of the part: the two are one unit.

    The earlier run is the last one of this object (`report`); with ``database_url=`` it is the
    newest run of the workflow's name in the database.
    """

    def run_from(
        self,
        node: Any,
        inputs: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        **options: Any,
    ) -> Any:
        """Run a node and everything that waits for it, and return what `run` returns.

        Args:
            node: The node: its id or its handle.
            inputs: Values of the workflow's inputs; what is not given is as in the earlier run.
            run_id: The earlier run, by its id: the last one of this object, or one of the database
                that ``database_url`` names.
            **options: Those of `run`. With ``database_url`` the partial run is recorded, the
                results that it takes over included, so that it can be resumed.

        Raises:
            NodeNotFound: There is no such node.
            MissingInputError: The earlier run has no result of a node that is needed, or there was
                none. Nothing has run.
            RunNotFound: The database has no run *run_id*.
            ConfigurationError: As `run`; also when something has changed above the node since the
                earlier run and ``on_change="fail"`` is given. By default that is a warning.
        """
        part = {"start_at": _id_of(node, "run_from"), "reuse": run_id}
        return self.run(inputs, **_joined("run_from", part, options))

    def run_until(self, node: Any, inputs: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Run a node and everything that it waits for, and return the node's value.

        Args:
            node: The node: its id or its handle.
            inputs: Values of the inputs that these nodes need.
            **options: Those of `run`.

        Returns:
            Its value; None when it was skipped.

        Raises:
            NodeNotFound: There is no such node.
        """
        part = {"stop_at": _id_of(node, "run_until")}
        return self.run(inputs, **_joined("run_until", part, options))

    def run_between(
        self,
        start: Any,
        stop: Any,
        inputs: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        **options: Any,
    ) -> Any:
        """Run the nodes on the paths from one node to another, and return the value of the last.

        Args:
            start, stop: The nodes, each by its id or its handle; they run, too.
            inputs, run_id, options: As for `run_from`.

        Returns:
            The value of *stop*; None when it was skipped.

        Raises:
            ConfigurationError: There is no path; otherwise as `run_from`.
            NodeNotFound, MissingInputError, RunNotFound: As `run_from`.
        """
        what = "run_between"
        part = {"start_at": _id_of(start, what), "stop_at": _id_of(stop, what), "reuse": run_id}
        return self.run(inputs, **_joined(what, part, options))

    def _run_options(self, options: Mapping[str, Any], runner: str = "sequential") -> RunOptions:
        settings = super()._run_options(options, runner)
        if settings.start_at is None:
            return settings
        last, wanted = self.report, settings.reuse
        is_last = last is not None and wanted == last.run_id
        if isinstance(wanted, str) and not is_last and settings.database_url is None:
            known = "" if last is None else f"; the last run of this object is {last.run_id!r}"
            raise ConfigurationError(
                f"run {shown(wanted)} is looked up in a database: give database_url= too{known}"
            )
        if is_last or (wanted is None and settings.database_url is None):
            import attrs

            return attrs.evolve(settings, reuse=last)
        return settings


def _id_of(node: Any, what: str) -> str:
    """Return the id of the node that a text or a handle names."""
    handle = getattr(node, "node", node)  # a function that was made a node has one
    found = handle if isinstance(handle, str) else getattr(handle, "id", None)
    if not isinstance(found, str):
        raise ConfigurationError(f"{what} takes the id of a node or its handle, not {shown(node)}")
    return found


def _joined(what: str, part: dict[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options of a partial run.

    Raises:
        ConfigurationError: One says again what the method says.
    """
    twice = next((name for name in part if name in options), None)
    if twice is not None:
        raise ConfigurationError(
            f"{what} has no option {twice!r}, which follows from its arguments; give it to run()"
        )
    return {**part, **options}
