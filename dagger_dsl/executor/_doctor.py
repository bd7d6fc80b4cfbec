"""`Diagnosis`: everything that can keep a graph from running here, looked at in one go.

The documents' list of what to look at when a workflow does not execute, done by the machine. What
is wrong is a finding with its way out, never an exception; nothing is run and nothing is changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import attrs

from dagger_dsl.engine.launch import plan_for
from dagger_dsl.errors import DaggerError, Problem, ValidationError
from dagger_dsl.executor._catalogue import Catalogue, Compilable, Entry
from dagger_dsl.model.config import DagConfig
from dagger_dsl.model.graph import Graph
from dagger_dsl.model.states import NodeState, RunStatus
from dagger_dsl.model.text import printable
from dagger_dsl.store.health import disk_of
from dagger_dsl.store.storage import Store
from dagger_dsl.views.plain import plain_table
from dagger_dsl.views.stored import stored_report

if TYPE_CHECKING:
    from rich.table import Table

    from dagger_dsl.engine.report import RunReport
    from dagger_dsl.store.runs import RunSummary

__all__ = ["Check", "Diagnosis", "diagnose"]

Level: TypeAlias = Literal["ok", "warning", "problem"]


@attrs.frozen
class Check:
    """One thing that was looked at.

    Attributes:
        name: What: ``loaded``, ``actions``, ``dependencies``, ``cycles``, ``inputs``, ``types``,
            ``structure``, ``lint``, ``parallel``, ``database`` or ``newest run``.
        level: ``ok``, ``warning`` or ``problem``.
        found: What was found.
        way_out: What to do, where `found` does not say it already.
    """

    name: str
    level: Level
    found: str
    way_out: str = ""


@attrs.frozen
class Diagnosis:
    """What `DagExecutor.doctor` found; print it.

    Attributes:
        dag: The graph's name.
        checks: Everything that was looked at; several of one name where there is much to say.
    """

    dag: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no problem; warnings may be there."""
        return not self.problems

    @property
    def problems(self) -> tuple[Check, ...]:
        """What keeps the graph, or its newest run, from going on."""
        return tuple(each for each in self.checks if each.level == "problem")

    @property
    def warnings(self) -> tuple[Check, ...]:
        """What is allowed and cannot be meant, or costs time."""
        return tuple(each for each in self.checks if each.level == "warning")

    def _title(self) -> str:
        count = len(self.problems)
        verdict = "no problems" if not count else f"{count} problem{'s' if count > 1 else ''}"
        return f"{printable(self.dag)}: {verdict}"

    def __str__(self) -> str:
        rows = [
            (each.level, each.name, f"{each.found}{f'; {each.way_out}' if each.way_out else ''}")
            for each in self.checks
        ]
        return f"{self._title()}\n{plain_table(rows)}"

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(self._title()), title_justify="left")
        for head in ("", "check", "found", "what to do"):
            table.add_column(head, overflow="fold", no_wrap=head in ("", "check"))
        for each in self.checks:
            table.add_row(
                Text(each.level, style=_STYLES[each.level]),
                Text(each.name),
                Text(printable(each.found, lines=True)),
                Text(printable(each.way_out, lines=True)),
            )
        return table


_STYLES: Final = {"ok": "green", "warning": "yellow", "problem": "bold red"}

#: Which check a problem of a graph belongs to, by its code; the others are of its structure.
_AREAS: Final = {
    "unknown-action": "actions",
    "unknown-workflow": "actions",
    "unknown-dependency": "dependencies",
    "cycle": "cycles",
    "nested-in-itself": "cycles",
    "missing-input": "inputs",
    "may-be-missing": "inputs",
    "unknown-graph-input": "inputs",
    "unknown-input": "inputs",
    "duplicate-input": "inputs",
    "unknown-output": "inputs",
    "type-mismatch": "types",
    "unknown-label": "types",
    "bad-schema": "types",
}

#: Findings of one kind that are listed.
_LISTED: Final = 20


def diagnose(
    dag: str | Graph | Compilable, catalogue: Catalogue, store: Store, config: DagConfig
) -> Diagnosis:
    """Return what keeps a graph, or its newest run, from going on; see `DagExecutor.doctor`.

    Args:
        dag: A loaded graph's name or ``name@version``, or a graph or DAG.
        catalogue: Where it is looked up.
        store: Where its runs are recorded.
        config: The executor's configuration.
    """
    try:
        entry = catalogue.entry(dag) if isinstance(dag, str) else catalogue.opened(dag)
    except DaggerError as error:
        name = dag if isinstance(dag, str) else str(getattr(dag, "name", type(dag).__name__))
        checks = list(_of_error(error, "loaded"))
    else:
        name = entry.graph.name
        checks = list(_graph(entry, config))
    database = _database(store)
    checks.append(database)
    if database.level != "problem":
        checks.append(_newest_run(name, store))
    return Diagnosis(name, tuple(checks))


# --- the graph -----------------------------------------------------------------------------------


def _graph(entry: Entry, config: DagConfig) -> Iterator[Check]:
    graph = entry.graph
    version = f", version {graph.version}" if graph.version else ""
    yield Check("loaded", "ok", f"{graph.name}{version}: {len(graph.nodes)} nodes")
    wrong = _wrong(entry)
    for area in ("actions", "dependencies", "cycles", "inputs", "types", "structure"):
        found = [each for each in wrong if _AREAS.get(each.code, "structure") == area]
        if found:
            yield from _listed(found, area, "problem")
        elif area != "structure":
            yield Check(area, "ok", _sound(area, entry, config))
    if all(_AREAS.get(each.code) not in ("dependencies", "cycles") for each in wrong):
        yield from _lint(entry)
        yield _parallel(graph, DagConfig.merge(config, graph.config))


def _wrong(entry: Entry) -> list[Problem]:
    """Return everything for which a run would refuse the graph."""
    try:
        entry.graph.validate(entry.registry)
        plan_for(entry.graph, entry.registry)
    except ValidationError as error:
        return list(error.problems)
    except DaggerError as error:
        return [Problem(str(error))]
    return []


def _sound(area: str, entry: Entry, config: DagConfig) -> str:
    graph = entry.graph
    if area == "actions":
        names = {node.action for node in graph.nodes.values() if node.subgraph is None}
        return f"all {len(names)} are registered"
    if area == "dependencies":
        return f"all {len(graph.edges)} lead to nodes of the graph" if graph.edges else "none"
    if area == "cycles":
        return "none"
    if area == "types":
        return "annotations of connected nodes agree"
    wanted = _wanted(graph, DagConfig.merge(config, graph.config))
    return f"a run has to be given {', '.join(wanted)}" if wanted else "a run needs none"


def _wanted(graph: Graph, config: DagConfig) -> list[str]:
    """Return the inputs that a run cannot do without."""
    if config.on_missing == "null":
        return []
    names = dict.fromkeys(
        each.source[1]
        for node in graph.nodes.values()
        for each in node.inputs
        if each.source is not None and each.source[0] == "inputs"
    )
    return [
        repr(name)
        for name in {**graph.inputs, **names}
        if (declared := graph.inputs.get(name)) is None
        or (declared.required and declared.default is None)
    ]


def _lint(entry: Entry) -> Iterator[Check]:
    remarks = entry.graph.lint(entry.registry)
    warnings = [each for each in remarks if each.severity != "note"]
    notes = len(remarks) - len(warnings)
    more = f"{notes} note{'s' if notes > 1 else ''}: graph.lint() lists them" if notes else ""
    if warnings:
        yield from _listed(warnings, "lint", "warning")
    else:
        yield Check("lint", "ok", "nothing to remark" if not notes else more)


def _parallel(graph: Graph, config: DagConfig) -> Check:
    if not config.enable_parallel_execution:
        return Check(
            "parallel",
            "warning",
            "nodes run one at a time, as enable_parallel_execution is False",
            "leave it out, or set it to True",
        )
    slots = config.max_parallel_nodes or os.cpu_count() or 1
    widest = max(map(len, graph.levels()), default=0)
    if slots == 1 and widest > 1:
        return Check(
            "parallel",
            "warning",
            f"nodes run one at a time, where {widest} could run together",
            "raise max_parallel_nodes",
        )
    return Check("parallel", "ok", f"{slots} slots; at most {widest} nodes can run together")


def _listed(problems: Iterable[Problem], name: str, level: Level) -> Iterator[Check]:
    found = list(problems)
    for each in found[:_LISTED]:
        yield Check(name, level, str(each))
    if len(found) > _LISTED:
        yield Check(name, level, f"and {len(found) - _LISTED} more")


def _of_error(error: DaggerError, name: str) -> Iterator[Check]:
    if isinstance(error, ValidationError):
        yield from _listed(error.problems, name, "problem")
    else:
        yield Check(name, "problem", str(error))


# --- the database --------------------------------------------------------------------------------


def _database(store: Store) -> Check:
    try:
        store.list_runs(limit=1)
        store.database.locking()  # refuses what can only be read
    except DaggerError as error:
        return Check("database", "problem", str(error))
    path = store.database.path
    disk = None if path is None else disk_of(path)
    if disk is not None and disk.troubles:
        return Check("database", "warning", "; ".join(disk.troubles))
    return Check("database", "ok", store.database.where)


def _newest_run(name: str, store: Store) -> Check:
    """Return how the newest run of a graph stands, and why."""
    try:
        runs = store.list_runs(flow_name=name, limit=1)
        return _run(runs[0], store) if runs else Check("newest run", "ok", "none is recorded")
    except DaggerError as error:  # a damaged row, or a name that no run can have
        return Check("newest run", "problem", str(error))


def _run(newest: RunSummary, store: Store) -> Check:
    told = f"run {newest.run_id} of {newest.created_at:%Y-%m-%d %H:%M:%S} UTC"
    if newest.status == RunStatus.COMPLETED:
        return Check("newest run", "ok", f"{told} completed")
    resume = f"executor.resume({newest.run_id!r})"
    if newest.status == RunStatus.RUNNING:
        if all(each.run_id != newest.run_id for each in store.orphans(newest.flow_name)):
            return Check("newest run", "ok", f"{told} is being executed by {newest.owner}")
        owner = f"{newest.owner}, which executed it, is dead" if newest.owner else "nobody has it"
        return Check("newest run", "problem", f"{told} has not ended, and {owner}", resume)
    why = _cause(stored_report(store.load_run(newest.run_id), None, store))
    return Check(
        "newest run",
        "problem",
        f"{told} is {newest.status}: {why}",
        f"{_FIRST.get(newest.status, '')}{resume} goes on where it stands",
    )


_FIRST: Final[dict[str, str]] = {
    RunStatus.FAILED: "when that is mended, ",
    RunStatus.TIMED_OUT: "with a higher timeout_seconds, ",
}


def _cause(report: RunReport) -> str:
    """Return why a run that did not complete stands, in one line."""
    for state in (NodeState.FAILED, NodeState.WAITING):
        found = report.nodes_in(state)
        if found and report.status in (RunStatus.FAILED, RunStatus.PAUSED):
            return report.explain(found[0]).splitlines()[0]
    return report.reason or "no reason was recorded"
